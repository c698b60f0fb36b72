/* rowwise.h - the passes between the matrix products of the transformer, one row (token) at a time. Plain C compiled
 * for several instruction sets; sums run in 16 fixed lanes and nothing is contracted, so all give the same bytes. */
#ifndef FGV_ROWWISE_H
#define FGV_ROWWISE_H

#include "fgattn.h"

/* The rotation of one token: [head_dim] each, cosine of pair i at 2i and 2i+1, -sine at 2i and +sine at 2i+1. */
typedef struct fgv_rotation {
    const float *cosine, *sine;
} fgv_rotation;

typedef struct fgv_rms_args {
    const float *weight; /* [n] */
    float eps;
    int64_t n, head_dim;          /* n is a multiple of head_dim, head_dim of 8 */
    const fgv_rotation *rotation; /* NULL = none */
} fgv_rms_args;

typedef struct fgv_rowwise {
    /* out = (x - mean) / sqrt(variance + eps) * scale + shift, over n elements. */
    void (*layer_norm)(float *out, const float *x, const float *scale, const float *shift, float eps, int64_t n);
    /* x = x / sqrt(mean of x^2 + eps) * weight, over the whole row; then every head's pairs (2i, 2i+1) are rotated. */
    void (*rms_norm)(float *x, const fgv_rms_args *args);
    /* x += gate * y; gate NULL = 1. */
    void (*add)(float *x, const float *y, const float *gate, int64_t n);
    /* out = a + w * (b - a). */
    void (*mix)(float *out, const float *a, const float *b, float w, int64_t n);
    void (*to_bf16)(uint16_t *out, const float *in, int64_t n);
} fgv_rowwise;

/* The best this machine runs. */
const fgv_rowwise *fgv_rowwise_best(void);
/* All that this machine runs, plain C first, for tests; returns how many. */
int fgv_rowwise_all(const fgv_rowwise **sets, int capacity);

#endif
