/* words_bf16.h - one word is a pair of bf16, multiplied by VDPBF16PS (two products, f32 sums).
 *
 * Q and K pair neighbouring channels, as they lie in memory. P V pairs neighbouring kept keys: the value rows of two
 * keys are interleaved once per block, and weights are packed to match.
 */
#ifndef FGA_CPU_WORDS_BF16_H
#define FGA_CPU_WORDS_BF16_H

#include "cpu/element.h"
#include "cpu/sum_bf16.h"
#include "ops/ops.h"

static inline vec word_dot(vec acc, vec a, vec b)
{
    return _mm512_dpbf16_ps(acc, (__m512bh)b, (__m512bh)a);
}

/* Packs two rows of weights; the sum is of the weights before rounding, so that L keeps the precision of f32. */
static inline vec store_weights(float *row, const vec weight[WORD])
{
    const __m512i pair = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6,
                                          21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
    __m512i halves = (__m512i)_mm512_cvtne2ps_pbh(weight[1], weight[0]);
    _mm512_storeu_si512(row, _mm512_permutexvar_epi16(pair, halves));
    return _mm512_add_ps(weight[0], weight[1]);
}

/* How many rows of bf16 a group's sum of values takes. Its rounding error comes divided by the number of keys that
 * remain: where that is half of the group or more, eight bits are as good as they are for a key. The sum of keys always
 * takes two: L is to be as exact as in f32. */
static inline int parts_of_sum(float keys, float remaining)
{
    return 2.0f * remaining >= keys ? 1 : WORD;
}

static const char *stage_query(const fga_attend_op *op, int32_t row, float *staged)
{
    (void)staged;
    return element(op->q, row * op->q_stride, op->dtype);
}

static void stage_keys(const fga_attend_op *op, const char *const *source, int count, bool clash, float *staged,
                       int64_t staged_stride, const char **rows)
{
    if (!clash) {
        memcpy(rows, source, (size_t)count * sizeof *rows);
        return;
    }
    for (int i = 0; i < count; i++, staged += staged_stride) {
        memcpy(staged, source[i], (size_t)op->head_dim * 2);
        rows[i] = (const char *)staged;
    }
}

/* words[c] = first[c] | second[c] << 16; the missing partner of an odd last key is zero. */
static void interleave(uint32_t *words, const char *first, const char *second, int32_t head_dim)
{
    for (int32_t c = 0; c < head_dim; c += LANES) {
        __mmask16 mask = head_dim - c >= LANES ? 0xffff : 0xff;
        __m256i low = _mm256_maskz_loadu_epi16(mask, first + 2 * c);
        __m256i high = second != NULL ? _mm256_maskz_loadu_epi16(mask, second + 2 * c) : _mm256_setzero_si256();
        __m512i word = _mm512_slli_epi32(_mm512_cvtepu16_epi32(high), 16);
        _mm512_mask_storeu_epi32(words + c, mask, _mm512_or_si512(word, _mm512_cvtepu16_epi32(low)));
    }
}

/* Columns [column, column + PANEL) of values, two keys' to a row of the slab; the parts of sums after the listed keys'
 * are rows like theirs. */
static void stage_values(const fga_attend_op *op, const char *const *source, int listed, int count, int column,
                         float *slab)
{
    (void)listed;
    int columns = op->head_dim - column < PANEL ? op->head_dim - column : PANEL;
    for (int i = 0; i < count; i += 2, slab += PANEL) {
        const char *second = i + 1 < count ? source[i + 1] + 2 * column : NULL;
        interleave((uint32_t *)slab, source[i] + 2 * column, second, columns);
    }
}

#endif
