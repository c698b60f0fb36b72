/* sum_bf16.h - sums of keys and values where a word is a pair of bf16. */
#ifndef FGA_CPU_SUM_BF16_H
#define FGA_CPU_SUM_BF16_H

#include "cpu/parts.h"
#include "ops/ops.h"

enum { WORD = 2 };

/* The weight as a word holds it: rounded to bf16. */
static inline vec word_weight(vec weight)
{
    __m512i high = _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh(weight));
    return _mm512_castsi512_ps(_mm512_slli_epi32(high, 16));
}

/* A sum of bf16 needs more than eight bits: two bf16, of which the second is the first one's rounding error. */
static void split_sum(const float *sum, int32_t head_dim, uint16_t *high, uint16_t *low)
{
    for (int32_t c = 0; c < head_dim; c += LANES) {
        int left = head_dim - c;
        __mmask16 mask = left >= LANES ? 0xffff : 0xff;
        vec x = _mm512_maskz_loadu_ps(mask, sum + c), rounded = word_weight(x);
        _mm256_mask_storeu_epi16(high + c, mask, (__m256i)_mm512_cvtneps_pbh(x));
        _mm256_mask_storeu_epi16(low + c, mask, (__m256i)_mm512_cvtneps_pbh(vec_sub(x, rounded)));
    }
}

typedef enum summed { SUM_OF_KEYS = 0, SUM_OF_VALUES = 2 } summed;

/* Names `columns` columns of a group's sum, from `column` on, as two rows of bf16: the caller's, or made in `made`. */
ALWAYS_INLINE void find_sum(const fga_attend_op *op, summed which, int64_t group, int column, int columns,
                            uint16_t *const made[WORD], const uint16_t *rows[WORD])
{
    const fga_summaries *s = op->summaries;
    if (s->parts != NULL) {
        rows[0] = s->parts + (4 * group + which) * op->head_dim + column;
        rows[1] = rows[0] + op->head_dim;
        return;
    }
    const float *sum = (which == SUM_OF_KEYS ? s->sum_k : s->sum_v) + group * op->head_dim + column;
    split_sum(sum, columns, made[0], made[1]);
    rows[0] = made[0];
    rows[1] = made[1];
}

#endif
