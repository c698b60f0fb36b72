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

static void stage_keys(const fga_attend_op *op, const char *const *source, int count, float *staged, const char **rows)
{
    for (int i = 0; i < count; i++) {
        rows[i] = stage_row(source[i], op->dtype, op->head_dim, staged + (size_t)i * (size_t)op->head_dim);
    }
}

/* Row `word` of value words: one key's values. */
static const float *value_words(const fga_attend_op *op, const char *const *source, int word, int count, float *staged)
{
    (void)count;
    return (const float *)stage_row(source[word], op->dtype, op->head_dim, staged);
}

#endif
