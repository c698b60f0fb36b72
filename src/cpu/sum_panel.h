/* sum_panel.h - sums of listed rows (ops.h), for any vector width. Neighbouring rows go to four partial sums in turn,
 * which halves the rounding error's growth and keeps additions from waiting for each other. */
#ifndef FGA_CPU_SUM_PANEL_H
#define FGA_CPU_SUM_PANEL_H

#include "cpu/tile.h"
#include "cpu/words_f32.h"

enum { SUM_MAX_DIM = 256, PARTS = 4 };

static const float *sum_row(const fga_sums_op *op, int32_t n, float *staged)
{
    const char *row = element(op->x, op->rows[n] * op->x_stride, op->dtype);
    return (const float *)stage_row(row, op->dtype, op->head_dim, staged);
}

/* Up to four rows, of which row p goes to part p. */
static void sum_rows(const fga_sums_op *op, int32_t first, int count, float part[PARTS][SUM_MAX_DIM])
{
    float staged[SUM_MAX_DIM];
    for (int p = 0; p < count; p++) {
        const float *x = sum_row(op, first + p, staged);
        for (int32_t d = 0; d < op->head_dim; d += LANES) {
            int left = op->head_dim - d;
            vec row = left >= LANES ? vec_load(x + d) : vec_load_first(x + d, left);
            vec_store(part[p] + d, vec_add(vec_load(part[p] + d), row));
        }
    }
}

static void sums(const fga_sums_op *op)
{
    for (int64_t i = 0; i < op->count; i++) {
        float part[PARTS][SUM_MAX_DIM] = {{0}};
        for (int32_t n = op->begin[i], left = op->begin[i + 1] - n; left > 0; n += PARTS, left -= PARTS) {
            sum_rows(op, n, left < PARTS ? left : PARTS, part);
        }
        for (int32_t d = 0; d < op->head_dim; d++) {
            op->sum[i * op->head_dim + d] = (part[0][d] + part[1][d]) + (part[2][d] + part[3][d]);
        }
    }
}

#endif
