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

/* A sum as bf16, and, unless low is NULL, its rounding error as another. */
static void split_sum(const float *sum, int32_t head_dim, uint16_t *high, uint16_t *low)
{
    for (int32_t c = 0; c < head_dim; c += LANES) {
        int left = head_dim - c;
        __mmask16 mask = left >= LANES ? 0xffff : 0xff;
        vec x = _mm512_maskz_loadu_ps(mask, sum + c), rounded = word_weight(x);
        _mm256_mask_storeu_epi16(high + c, mask, (__m256i)_mm512_cvtneps_pbh(x));
        if (low != NULL) {
            _mm256_mask_storeu_epi16(low + c, mask, (__m256i)_mm512_cvtneps_pbh(vec_sub(x, rounded)));
        }
    }
}

/* Names the first `parts` rows of a group's sum: the caller's, or made `apart` bytes from each other at `made`. */
static inline void name_sum(const fga_attend_op *op, summed which, int64_t group, int parts, char *made, int64_t apart,
                            const char **rows)
{
    const fga_summaries *s = op->summaries;
    if (s->parts == NULL) {
        const float *sum = (which == SUM_OF_KEYS ? s->sum_k : s->sum_v) + group * op->head_dim;
        split_sum(sum, op->head_dim, (uint16_t *)made, parts > 1 ? (uint16_t *)(made + apart) : NULL);
    }
    for (int e = 0; e < parts; e++) {
        rows[e] = s->parts != NULL ? (const char *)(s->parts + ((2 * group + which) * WORD + e) * op->head_dim)
                                   : made + e * apart;
    }
}

#endif
