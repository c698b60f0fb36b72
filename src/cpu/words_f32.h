/* words_f32.h - one word is one f32: rows of f32 are read where they lie, 16-bit rows are converted once per block. */
#ifndef FGA_CPU_WORDS_F32_H
#define FGA_CPU_WORDS_F32_H

#include "cpu/element.h"
#include "cpu/parts.h"
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

/* Columns [column, column + PANEL) of values, one key's to a row of the slab, and after the listed ones those of sums,
 * which are f32; zero where head_dim ends before. */
static void stage_values(const fga_attend_op *op, const char *const *source, int listed, int count, int column,
                         float *slab)
{
    int columns = op->head_dim - column < PANEL ? op->head_dim - column : PANEL;
    for (int i = 0; i < count; i++, slab += PANEL) {
        fga_dtype dtype = i < listed ? op->dtype : FGA_F32;
        const char *from = source[i] + column * (dtype == FGA_F32 ? 4 : 2);
        if (dtype != FGA_F32) {
            stage_row(from, dtype, columns, slab);
        } else if (columns == PANEL) {
            const float *row = (const float *)from;
            vec_store(slab, vec_load(row));
            vec_store(slab + LANES, vec_load(row + LANES));
        } else {
            memcpy(slab, from, (size_t)columns * sizeof(float));
        }
    }
}

static inline int parts_of_sum(float keys, float remaining)
{
    (void)keys;
    (void)remaining;
    return 1;
}

/* Names the row of a group's sum. */
static inline void name_sum(const fga_attend_op *op, summed which, int64_t group, int parts, char *made, int64_t apart,
                            const char **rows)
{
    (void)parts;
    (void)made;
    (void)apart;
    rows[0] =
        (const char *)((which == SUM_OF_KEYS ? op->summaries->sum_k : op->summaries->sum_v) + group * op->head_dim);
}

#endif
