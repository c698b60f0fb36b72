/* words_f32.h - one word is one f32: rows of f32 are read where they lie, 16-bit rows are converted once per block. */
#ifndef FGA_CPU_WORDS_F32_H
#define FGA_CPU_WORDS_F32_H

#include "cpu/element.h"
#include "ops/ops.h"

enum { WORD = 1 };

static inline vec word_dot(vec acc, vec a, vec b)
{
    return vec_fma(a, b, acc);
}

static inline vec store_weights(float *row, const vec weight[WORD])
{
    vec_store(row, weight[0]);
    return weight[0];
}

/* The weight as a word holds it. */
static inline vec word_weight(vec weight)
{
    return weight;
}

/* The row as f32: itself, or converted into staged. */
static const char *stage_row(const char *row, fga_dtype dtype, int32_t head_dim, float *staged)
{
    switch (dtype) {
    case FGA_F32:
        return row;
    case FGA_F16:
        vec_f16_to_f32(staged, row, head_dim);
        break;
    case FGA_BF16:
        vec_bf16_to_f32(staged, row, head_dim);
        break;
    }
    return (const char *)staged;
}

static const char *stage_query(const fga_attend_op *op, int32_t row, float *staged)
{
    return stage_row(element(op->q, row * op->q_stride, op->dtype), op->dtype, op->head_dim, staged);
}

/* f32 rows that fall on each other in the first-level cache (`clash`) are copied. */
static void stage_keys(const fga_attend_op *op, const char *const *source, int count, bool clash, float *staged,
                       int64_t staged_stride, const char **rows)
{
    for (int i = 0; i < count; i++, staged += staged_stride) {
        rows[i] = stage_row(source[i], op->dtype, op->head_dim, staged);
        if (clash && op->dtype == FGA_F32) {
            memcpy(staged, rows[i], (size_t)op->head_dim * sizeof(float));
            rows[i] = (const char *)staged;
        }
    }
}

/* Columns [column, column + PANEL) of values, one key's to a row of the slab; zero where head_dim ends before. */
static void stage_values(const fga_attend_op *op, const char *const *source, int count, int column, float *slab)
{
    int columns = op->head_dim - column < PANEL ? op->head_dim - column : PANEL;
    int64_t offset = column * (op->dtype == FGA_F32 ? 4 : 2);
    for (int i = 0; i < count; i++, slab += PANEL) {
        if (op->dtype != FGA_F32) {
            stage_row(source[i] + offset, op->dtype, columns, slab);
        } else if (columns == PANEL) {
            const float *row = (const float *)(source[i] + offset);
            vec_store(slab, vec_load(row));
            vec_store(slab + LANES, vec_load(row + LANES));
        } else {
            memcpy(slab, source[i] + offset, (size_t)columns * sizeof(float));
        }
    }
}

/* The sum of a group's keys as WORD rows of words whose logits add up to its own. */
static void stage_sum_k(const fga_attend_op *op, int64_t group, float *staged, int64_t staged_stride, const char **rows)
{
    (void)staged;
    (void)staged_stride;
    rows[0] = (const char *)(op->summaries->sum_k + group * op->head_dim);
}

/* Columns of the sum of its values as one row of the slab, to be weighted with the same weight WORD times. */
static void stage_sum_v(const fga_attend_op *op, int64_t group, int column, int columns, float *slab)
{
    memcpy(slab, op->summaries->sum_v + group * op->head_dim + column, (size_t)columns * sizeof(float));
}

#endif
