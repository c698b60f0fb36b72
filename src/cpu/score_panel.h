/* score_panel.h - pool and alike (ops.h) for any vector width: memory speed is all there is to gain. */
#ifndef FGA_CPU_SCORE_PANEL_H
#define FGA_CPU_SCORE_PANEL_H

#include "cpu/words_f32.h"

#include <math.h>

enum { POOL_MAX_DIM = 256 };

static void pool(const fga_pool_op *op)
{
    for (int64_t i = 0; i < op->count; i++) {
        int64_t end = op->valid_end[i] < op->begin[i + 1] ? op->valid_end[i] : op->begin[i + 1];
        float sum[POOL_MAX_DIM] = {0}, staged[POOL_MAX_DIM];
        for (int64_t token = op->begin[i]; token < end; token++) {
            const char *row = element(op->x, token * op->x_stride, op->dtype);
            const float *x = (const float *)stage_row(row, op->dtype, op->head_dim, staged);
            for (int32_t d = 0; d < op->head_dim; d++) {
                sum[d] += x[d];
            }
        }
        float inverse = end > op->begin[i] ? 1.0f / (float)(end - op->begin[i]) : 0.0f;
        for (int32_t d = 0; d < op->head_dim; d++) {
            op->mean[i * op->head_dim + d] = sum[d] * inverse;
        }
    }
}

/* Sums over channels: x.c, x.x and (x - c)^2. */
typedef struct likeness {
    float product, square, distance;
} likeness;

static likeness compare_rows(const float *x, const float *centre, int32_t head_dim)
{
    vec product = vec_set(0.0f), square = vec_set(0.0f), distance = vec_set(0.0f);
    for (int32_t d = 0; d < head_dim; d += LANES) {
        int n = head_dim - d < LANES ? head_dim - d : LANES;
        vec a = vec_load_first(x + d, n), c = vec_load_first(centre + d, n), off = vec_sub(a, c);
        product = vec_fma(a, c, product);
        square = vec_fma(a, a, square);
        distance = vec_fma(off, off, distance);
    }
    return (likeness){vec_sum(product), vec_sum(square), vec_sum(distance)};
}

static void alike(const fga_alike_op *op)
{
    float staged[POOL_MAX_DIM], centre = sqrtf(compare_rows(op->centre, op->centre, op->head_dim).square);
    for (int64_t i = 0; i < op->count; i++) {
        const char *row = element(op->x, i * op->x_stride, op->dtype);
        likeness at =
            compare_rows((const float *)stage_row(row, op->dtype, op->head_dim, staged), op->centre, op->head_dim);
        if (op->distance != NULL) {
            op->distance[i] = sqrtf(at.distance);
        }
        if (op->cosine != NULL) {
            float norms = centre * sqrtf(at.square);
            op->cosine[i] = norms == 0.0f ? 0.0f : at.product / norms;
        }
    }
}

#endif
