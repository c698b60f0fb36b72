/* linear_kernels.h - the passes around the matrix product of a linear layer: conversions, the epilogue, and dot
 * products for inputs of a few rows. Plain C compiled for several instruction sets; none of them contracts a*b+c, so
 * all give the same bytes. */
#ifndef FGV_LINEAR_KERNELS_H
#define FGV_LINEAR_KERNELS_H

#include "video/linear.h"

typedef struct fgv_linear_kernels {
    /* out[i] = in[i] as f32; `round`: rounded to bf16 on the way. */
    void (*widen)(float *out, const void *in, fga_dtype dtype, bool round, int64_t n);
    /* out[i] = in[i] rounded to bf16. */
    void (*to_bf16)(uint16_t *out, const void *in, fga_dtype dtype, int64_t n);
    /* out[i] = act(in[i] + bias[i]); bias may be NULL; out may be in. */
    void (*finish)(float *out, const float *in, const float *bias, fgv_activation activation, int64_t n);
    /* out[r] = sum over i of x[r*stride + i] * w[i] for 1 to 4 rows, in an order that depends on n alone. */
    void (*dots)(float *out, const float *x, int64_t stride, int rows, const float *w, int64_t n);
} fgv_linear_kernels;

#define FGV_DOT_ROWS 4

/* The best this machine runs. */
const fgv_linear_kernels *fgv_linear_kernels_best(void);

#endif
