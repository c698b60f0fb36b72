/* sample.h - values for bench_cuda, and the exact outputs of a few queries, computed on the processor. */
#ifndef FGA_BENCH_SAMPLE_H
#define FGA_BENCH_SAMPLE_H

#include <stdbool.h>
#include <stdint.h>

enum { SAMPLE_MOST_DIM = 256, SAMPLE_GROUP = 64 /* of remainder summaries */ };

typedef struct sample_data {
    int64_t tokens, heads;
    int dim;             /* at most SAMPLE_MOST_DIM */
    uint16_t *q, *k, *v; /* bf16 [tokens][heads][dim] */
} sample_data;

/* What was computed with it. */
typedef struct sample_mask {
    const uint8_t *keep; /* [blocks of m][tiles of n], the same for all heads; NULL: all */
    int m, n;
    bool summaries;
} sample_mask;

sample_data sample_make(int64_t tokens, int64_t heads, int dim);
void sample_discard(sample_data *d);

/* Sums of groups of SAMPLE_GROUP keys: sum_k, sum_v [heads][groups][dim]; sum_bias, count [heads][groups]. */
void sample_sums(const sample_data *d, int64_t groups, float *sum_k, float *sum_v, float *sum_bias, float *count);

/* norm(o - exact) / norm(exact) over some queries, the last one among them; o: bf16, like d->q, on the device. Infinite
 * when a value is not finite. */
double sample_error(const sample_data *d, const sample_mask *mask, const void *o);

#endif
