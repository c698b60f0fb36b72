/* ref.h - what the oracle's files share. */
#ifndef FGA_CPU_REF_H
#define FGA_CPU_REF_H

#include "ops/ops.h"

enum { MAX_ROWS = 192, MAX_HEAD_DIM = 256 };

static inline const void *row_of(const void *base, int64_t row, int64_t stride, fga_dtype dtype)
{
    return (const char *)base + (size_t)(row * stride) * (dtype == FGA_F32 ? 4 : 2);
}

static inline double dot(const float *a, const float *b, int32_t n)
{
    double sum = 0;
    for (int32_t d = 0; d < n; d++) {
        sum += (double)a[d] * b[d];
    }
    return sum;
}

/* Fills in pool, rank, alike, digits and sift. */
void fga_ref_scores(fga_ops *ops);

#endif
