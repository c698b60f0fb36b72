/* terms_bf16.h - how rows and weights become factors of tiles, where they are bf16: as they are. */
#ifndef FGA_CPU_TERMS_BF16_H
#define FGA_CPU_TERMS_BF16_H

#include "cpu/sum_bf16.h"

#include <stdbool.h>

#define DTYPE FGA_BF16
enum { TERMS = 1 };

/* Channels [channel, channel + left) of a row, at most 32, then zeros. A word has two neighbours. */
ALWAYS_INLINE void split_row(const char *row, bool sum, int channel, int left, __m512i words[TERMS])
{
    (void)sum; /* sums are rows of bf16 like all others */
    __mmask32 mask = left >= 32 ? 0xffffffffu : (1u << left) - 1;
    words[0] = _mm512_maskz_loadu_epi16(mask, row + 2 * channel);
}

/* Columns [column, column + left) of two rows, at most 32, then zeros: words of a pair of both. The first of two tiles
 * has columns 0-3, 8-11, 16-19, 24-27 of the 32, the second one the others: what one instruction gives. */
ALWAYS_INLINE void split_pair(const char *even, const char *odd, bool sum, int column, int left,
                              __m512i words[TERMS][2])
{
    __m512i a[TERMS], b[TERMS];
    split_row(even, sum, column, left, a);
    split_row(odd, sum, column, left, b);
    words[0][0] = _mm512_unpacklo_epi16(a[0], b[0]);
    words[0][1] = _mm512_unpackhi_epi16(a[0], b[0]);
}

/* 32 columns in their order, from the two tiles that split_pair made of them. */
ALWAYS_INLINE void join_columns(vec columns[2])
{
    const __m512i first = _mm512_set_epi32(23, 22, 21, 20, 7, 6, 5, 4, 19, 18, 17, 16, 3, 2, 1, 0);
    const __m512i second = _mm512_set_epi32(31, 30, 29, 28, 15, 14, 13, 12, 27, 26, 25, 24, 11, 10, 9, 8);
    vec a = columns[0], b = columns[1];
    columns[0] = _mm512_permutex2var_ps(a, first, b);
    columns[1] = _mm512_permutex2var_ps(a, second, b);
}

static inline void store_row(void *to, const float *row, int32_t head_dim)
{
    vec_f32_to_bf16(to, row, head_dim);
}

/* Two weights, the first one below: to nearest, ties up. A NaN may not survive here; the sum keeps it. */
ALWAYS_INLINE void split_weights(vec low, vec high, __m512i words[TERMS])
{
    const __m512i half = _mm512_set1_epi32(0x8000), upper = _mm512_set1_epi32((int)0xffff0000);
    __m512i a = _mm512_srli_epi32(_mm512_add_epi32(_mm512_castps_si512(low), half), 16);
    __m512i b = _mm512_add_epi32(_mm512_castps_si512(high), half);
    words[0] = _mm512_ternarylogic_epi32(a, b, upper, 0xf8); /* a | (b & upper) */
}

#endif
