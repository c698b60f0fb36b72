/* vec_avx512.h - the vector operations of attend_panel.h and score_panel.h on AVX-512 (F, BW, DQ, VL). */
#ifndef FGA_CPU_VEC_AVX512_H
#define FGA_CPU_VEC_AVX512_H

#include <immintrin.h>
#include <stdint.h>
#include <string.h>

typedef __m512 vec;

/* TILE x 2 accumulators, two vectors of the other factor and one broadcast: 27 of 32 registers. For Q K^T the general
 * registers are the tighter limit: 12 row pointers, a query pointer, a counter and its end fill them. */
enum { LANES = 16, PANEL = 2 * LANES, TILE = 12 };
#define EACH_TILE(X) X(1) X(2) X(3) X(4) X(5) X(6) X(7) X(8) X(9) X(10) X(11) X(12)

static inline vec vec_load(const float *x)
{
    return _mm512_loadu_ps(x);
}

static inline void vec_store(float *x, vec a)
{
    _mm512_storeu_ps(x, a);
}

static inline vec vec_set(float x)
{
    return _mm512_set1_ps(x);
}

/* One 32-bit word, at any address, in every lane. */
static inline vec vec_broadcast(const char *word)
{
    float x;
    memcpy(&x, word, sizeof x);
    return _mm512_set1_ps(x);
}

static inline vec vec_add(vec a, vec b)
{
    return _mm512_add_ps(a, b);
}

static inline vec vec_sub(vec a, vec b)
{
    return _mm512_sub_ps(a, b);
}

static inline vec vec_mul(vec a, vec b)
{
    return _mm512_mul_ps(a, b);
}

static inline vec vec_div(vec a, vec b)
{
    return _mm512_div_ps(a, b);
}

/* a*b + c */
static inline vec vec_fma(vec a, vec b, vec c)
{
    return _mm512_fmadd_ps(a, b, c);
}

static inline vec vec_abs(vec a)
{
    return _mm512_abs_ps(a);
}

/* The larger one; b where either is NaN. */
static inline vec vec_max(vec a, vec b)
{
    return _mm512_max_ps(a, b);
}

static inline int vec_any_above(vec a, vec b)
{
    return _mm512_cmp_ps_mask(a, b, _CMP_GT_OQ) != 0;
}

/* Lanes of a whose bit is set, counted from the lowest; of b the others. */
static inline vec vec_choose(uint32_t bits, vec a, vec b)
{
    return _mm512_mask_blend_ps((__mmask16)bits, b, a);
}

/* x where a > b, else y. */
static inline vec vec_choose_above(vec a, vec b, vec x, vec y)
{
    return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(a, b, _CMP_GT_OQ), y, x);
}

/* Lanes as signed integers in the order of fga_rank_of: each is the rank with its highest bit turned over. */
static inline vec vec_rank(vec x)
{
    __m512i bits = _mm512_castps_si512(x), magnitude = _mm512_set1_epi32(0x7fffffff);
    __m512i turned = _mm512_and_si512(_mm512_srai_epi32(bits, 31), magnitude);
    __m512i rank = _mm512_maskz_xor_epi32(_mm512_test_epi32_mask(bits, magnitude), bits, turned);
    __mmask16 nan = _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q);
    return _mm512_castsi512_ps(_mm512_mask_mov_epi32(rank, nan, _mm512_set1_epi32(INT32_MIN)));
}

static inline vec vec_set_rank(uint32_t rank)
{
    return _mm512_castsi512_ps(_mm512_set1_epi32((int32_t)(rank ^ 0x80000000u)));
}

/* Bit i: rank a is above b in lane i. */
static inline uint32_t vec_rank_above(vec a, vec b)
{
    return _mm512_cmpgt_epi32_mask(_mm512_castps_si512(a), _mm512_castps_si512(b));
}

/* The first n <= LANES lanes only; the others are 0 when loaded and left alone in memory when stored. */
static inline vec vec_load_first(const float *x, int n)
{
    return _mm512_maskz_loadu_ps((__mmask16)((1u << n) - 1), x);
}

static inline void vec_store_first(float *x, vec a, int n)
{
    _mm512_mask_storeu_ps(x, (__mmask16)((1u << n) - 1), a);
}

static inline float vec_sum(vec a)
{
    return _mm512_reduce_add_ps(a);
}

/* 2^x: x = n + f, 0 <= f < 1, a polynomial for 2^f (relative error 2^-22.7) and an exact scaling, which takes n out of
 * x itself and makes 2^-inf = 0. NaN stays. */
static inline vec vec_exp2(vec x)
{
    vec f = _mm512_reduce_ps(x, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC);
    vec y = _mm512_set1_ps(0x1.e974fep-10f);
    y = _mm512_fmadd_ps(y, f, _mm512_set1_ps(0x1.277854p-7f));
    y = _mm512_fmadd_ps(y, f, _mm512_set1_ps(0x1.c91ce6p-5f));
    y = _mm512_fmadd_ps(y, f, _mm512_set1_ps(0x1.ebdb5ap-3f));
    y = _mm512_fmadd_ps(y, f, _mm512_set1_ps(0x1.62e4bap-1f));
    y = _mm512_fmadd_ps(y, f, _mm512_set1_ps(1.0f));
    return _mm512_scalef_ps(y, x);
}

/* Four 32-bit words of each of LANES rows; lane group g of z[k] comes from row 4*g + k. */
static inline void vec_load_rows(vec z[4], const char *const *rows, int64_t offset)
{
    for (int k = 0; k < 4; k++) {
        __m128 part[4];
        for (int g = 0; g < 4; g++) {
            memcpy(&part[g], rows[4 * g + k] + offset, sizeof part[g]);
        }
        z[k] = _mm512_insertf32x4(_mm512_castps128_ps512(part[0]), part[1], 1);
        z[k] = _mm512_insertf32x4(z[k], part[2], 2);
        z[k] = _mm512_insertf32x4(z[k], part[3], 3);
    }
}

/* Lane group g of z[k] goes to rows[4*g + k]; rows from `count` on are left alone. */
static inline void vec_store_rows(const vec z[4], char *const *rows, int64_t offset, int count)
{
    for (int k = 0; k < 4; k++) {
        __m128 part[4] = {_mm512_castps512_ps128(z[k]), _mm512_extractf32x4_ps(z[k], 1),
                          _mm512_extractf32x4_ps(z[k], 2), _mm512_extractf32x4_ps(z[k], 3)};
        for (int g = 0; g < 4; g++) {
            if (4 * g + k < count) {
                memcpy(rows[4 * g + k] + offset, &part[g], sizeof part[g]);
            }
        }
    }
}

/* Transposes the 4x4 words of every lane group: rows become columns and columns rows. */
static inline void vec_transpose4(vec z[4])
{
    __m512d a = _mm512_castps_pd(_mm512_unpacklo_ps(z[0], z[1])), b = _mm512_castps_pd(_mm512_unpacklo_ps(z[2], z[3]));
    __m512d c = _mm512_castps_pd(_mm512_unpackhi_ps(z[0], z[1])), d = _mm512_castps_pd(_mm512_unpackhi_ps(z[2], z[3]));
    z[0] = _mm512_castpd_ps(_mm512_unpacklo_pd(a, b));
    z[1] = _mm512_castpd_ps(_mm512_unpackhi_pd(a, b));
    z[2] = _mm512_castpd_ps(_mm512_unpacklo_pd(c, d));
    z[3] = _mm512_castpd_ps(_mm512_unpackhi_pd(c, d));
}

/* n is a multiple of 8 in all conversions. */
static inline void vec_f16_to_f32(float *out, const void *in, int n)
{
    for (int i = 0; i < n; i += LANES) {
        __mmask16 mask = n - i >= LANES ? 0xffff : 0xff;
        __m256i half = _mm256_maskz_loadu_epi16(mask, (const uint16_t *)in + i);
        _mm512_mask_storeu_ps(out + i, mask, _mm512_cvtph_ps(half));
    }
}

static inline void vec_bf16_to_f32(float *out, const void *in, int n)
{
    for (int i = 0; i < n; i += LANES) {
        __mmask16 mask = n - i >= LANES ? 0xffff : 0xff;
        __m256i half = _mm256_maskz_loadu_epi16(mask, (const uint16_t *)in + i);
        __m512i bits = _mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16);
        _mm512_mask_storeu_ps(out + i, mask, _mm512_castsi512_ps(bits));
    }
}

static inline void vec_f32_to_f16(void *out, const float *in, int n)
{
    for (int i = 0; i < n; i += LANES) {
        __mmask16 mask = n - i >= LANES ? 0xffff : 0xff;
        __m512 x = _mm512_maskz_loadu_ps(mask, in + i);
        _mm256_mask_storeu_epi16((uint16_t *)out + i, mask, _mm512_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT));
    }
}

/* To nearest even, as fga_f32_to_bf16: a NaN keeps its high bits and becomes quiet. */
static inline void vec_f32_to_bf16(void *out, const float *in, int n)
{
    for (int i = 0; i < n; i += LANES) {
        __mmask16 mask = n - i >= LANES ? 0xffff : 0xff;
        __m512 x = _mm512_maskz_loadu_ps(mask, in + i);
        __m512i bits = _mm512_castps_si512(x);
        __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
        __m512i rounded = _mm512_add_epi32(_mm512_add_epi32(bits, _mm512_set1_epi32(0x7fff)), odd);
        __mmask16 nan = _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q);
        rounded = _mm512_mask_or_epi32(rounded, nan, bits, _mm512_set1_epi32(0x400000));
        _mm256_mask_storeu_epi16((uint16_t *)out + i, mask, _mm512_cvtepi32_epi16(_mm512_srli_epi32(rounded, 16)));
    }
}

#endif
