/* terms_f16.h - how rows and weights become factors of tiles, where they are f16: as two terms of bf16 (tile_amx.h).
 *
 * The second term is what remains of an f16, and of a weight the next eight bits. What is not finite has none: it
 * becomes NaN.
 */
#ifndef FGA_CPU_TERMS_F16_H
#define FGA_CPU_TERMS_F16_H

#include "cpu/element.h"
#include "cpu/tile_amx.h"
#include "ops/ops.h"

#define DTYPE FGA_F16
enum { TERMS = 2, WORD = 2 };

/* The terms of two numbers, the first one's below the second one's. */
ALWAYS_INLINE void split_weights(vec low, vec high, __m512i words[TERMS])
{
    for (int term = 0; term < TERMS; term++) {
        words[term] = take_term(&low, &high);
    }
}

/* `left` lanes of a row, then zeros. Sums are rows of f32. */
ALWAYS_INLINE vec load_lanes(const char *row, bool sum, int channel, int left)
{
    __mmask16 mask = left >= LANES ? 0xffff : left > 0 ? (__mmask16)((1u << left) - 1) : 0;
    if (sum) {
        return _mm512_maskz_loadu_ps(mask, (const float *)row + channel);
    }
    return _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(mask, (const uint16_t *)row + channel));
}

/* Channels [channel, channel + left) of a row, at most 32, then zeros. A word has two that are 16 apart. */
ALWAYS_INLINE void split_row(const char *row, bool sum, int channel, int left, __m512i words[TERMS])
{
    split_weights(load_lanes(row, sum, channel, left), load_lanes(row, sum, channel + LANES, left - LANES), words);
}

/* Columns [column, column + left) of two rows, at most 32, then zeros: words of a pair of both, for two tiles. */
ALWAYS_INLINE void split_pair(const char *even, const char *odd, bool sum, int column, int left,
                              __m512i words[TERMS][2])
{
    for (int tile = 0; tile < 2; tile++, column += LANES, left -= LANES) {
        __m512i terms[TERMS];
        split_weights(load_lanes(even, sum, column, left), load_lanes(odd, sum, column, left), terms);
        for (int term = 0; term < TERMS; term++) {
            words[term][tile] = terms[term];
        }
    }
}

/* 32 columns in their order, from the two tiles that split_pair made of them. */
ALWAYS_INLINE void join_columns(vec columns[2])
{
    (void)columns;
}

static inline void store_row(void *to, const float *row, int32_t head_dim)
{
    vec_f32_to_f16(to, row, head_dim);
}

/* As much of a number as two terms hold. */
ALWAYS_INLINE vec word_weight(vec weight)
{
    return _mm512_castsi512_ps(_mm512_and_si512(_mm512_castps_si512(weight), _mm512_set1_epi32((int)0xffffff00)));
}

/* Names the rows of a group's sum, made `apart` bytes from each other at `made`: two of f32, together the sum. Of two
 * terms each, they are as exact as it is. */
static inline void name_sum(const fga_attend_op *op, summed which, int64_t group, int parts, char *made, int64_t apart,
                            const char **rows)
{
    const float *sum = (which == SUM_OF_KEYS ? op->summaries->sum_k : op->summaries->sum_v) + group * op->head_dim;
    float *first = (float *)made, *second = (float *)(made + apart);
    for (int32_t c = 0; c < op->head_dim; c += LANES) {
        int n = op->head_dim - c < LANES ? op->head_dim - c : LANES;
        vec x = vec_load_first(sum + c, n), most = word_weight(x);
        vec_store_first(first + c, most, n);
        vec_store_first(second + c, vec_sub(x, most), n);
    }
    for (int e = 0; e < parts; e++) {
        rows[e] = made + e * apart;
    }
}

#endif
