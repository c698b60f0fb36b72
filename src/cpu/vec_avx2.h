/* vec_avx2.h - the vector operations of attend_panel.h and score_panel.h on AVX2, FMA and F16C. */
#ifndef FGA_CPU_VEC_AVX2_H
#define FGA_CPU_VEC_AVX2_H

#include <immintrin.h>
#include <stdint.h>
#include <string.h>

typedef __m256 vec;

/* TILE x 2 accumulators, two vectors of the other factor and one broadcast: 15 of 16 registers. */
enum { LANES = 8, PANEL = 2 * LANES, TILE = 6 };
#define EACH_TILE(X) X(1) X(2) X(3) X(4) X(5) X(6)

static inline vec vec_load(const float *x)
{
    return _mm256_loadu_ps(x);
}

static inline void vec_store(float *x, vec a)
{
    _mm256_storeu_ps(x, a);
}

static inline vec vec_set(float x)
{
    return _mm256_set1_ps(x);
}

/* One 32-bit word, at any address, in every lane. */
static inline vec vec_broadcast(const char *word)
{
    float x;
    memcpy(&x, word, sizeof x);
    return _mm256_set1_ps(x);
}

static inline vec vec_add(vec a, vec b)
{
    return _mm256_add_ps(a, b);
}

static inline vec vec_sub(vec a, vec b)
{
    return _mm256_sub_ps(a, b);
}

static inline vec vec_mul(vec a, vec b)
{
    return _mm256_mul_ps(a, b);
}

static inline vec vec_div(vec a, vec b)
{
    return _mm256_div_ps(a, b);
}

/* a*b + c */
static inline vec vec_fma(vec a, vec b, vec c)
{
    return _mm256_fmadd_ps(a, b, c);
}

static inline vec vec_abs(vec a)
{
    return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), a);
}

/* The larger one; b where either is NaN. */
static inline vec vec_max(vec a, vec b)
{
    return _mm256_max_ps(a, b);
}

static inline int vec_any_above(vec a, vec b)
{
    return _mm256_movemask_ps(_mm256_cmp_ps(a, b, _CMP_GT_OQ)) != 0;
}

/* Lanes of a whose bit is set, counted from the lowest; of b the others. */
static inline vec vec_choose(uint32_t bits, vec a, vec b)
{
    const __m256i lane = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
    __m256i set = _mm256_cmpeq_epi32(_mm256_and_si256(_mm256_set1_epi32((int)bits), lane), lane);
    return _mm256_blendv_ps(b, a, _mm256_castsi256_ps(set));
}

/* x where a > b, else y. */
static inline vec vec_choose_above(vec a, vec b, vec x, vec y)
{
    return _mm256_blendv_ps(y, x, _mm256_cmp_ps(a, b, _CMP_GT_OQ));
}

/* Lanes as signed integers in the order of fga_rank_of: each is the rank with its highest bit turned over. */
static inline vec vec_rank(vec x)
{
    __m256i bits = _mm256_castps_si256(x), magnitude = _mm256_set1_epi32(0x7fffffff);
    __m256i rank = _mm256_xor_si256(bits, _mm256_and_si256(_mm256_srai_epi32(bits, 31), magnitude));
    __m256i zero = _mm256_cmpeq_epi32(_mm256_and_si256(bits, magnitude), _mm256_setzero_si256());
    __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(x, x, _CMP_UNORD_Q));
    rank = _mm256_andnot_si256(zero, rank);
    return _mm256_castsi256_ps(_mm256_blendv_epi8(rank, _mm256_set1_epi32(INT32_MIN), nan));
}

static inline vec vec_set_rank(uint32_t rank)
{
    return _mm256_castsi256_ps(_mm256_set1_epi32((int32_t)(rank ^ 0x80000000u)));
}

/* Bit i: rank a is above b in lane i. */
static inline uint32_t vec_rank_above(vec a, vec b)
{
    __m256i above = _mm256_cmpgt_epi32(_mm256_castps_si256(a), _mm256_castps_si256(b));
    return (uint32_t)_mm256_movemask_ps(_mm256_castsi256_ps(above));
}

static inline __m256i vec_first(int n)
{
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}

/* The first n <= LANES lanes only; the others are 0 when loaded and left alone in memory when stored. */
static inline vec vec_load_first(const float *x, int n)
{
    return _mm256_maskload_ps(x, vec_first(n));
}

static inline void vec_store_first(float *x, vec a, int n)
{
    _mm256_maskstore_ps(x, vec_first(n), a);
}

static inline float vec_sum(vec a)
{
    __m128 x = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    x = _mm_add_ps(x, _mm_movehl_ps(x, x));
    return _mm_cvtss_f32(_mm_add_ss(x, _mm_movehdup_ps(x)));
}

/* 2^x for x up to 127: x = n + f, abs(f) <= 1/2, a polynomial for 2^f (relative error 2^-23) and n put into the
 * exponent. Results below the normal range are 0; NaN stays. */
static inline vec vec_exp2(vec x)
{
    x = _mm256_max_ps(_mm256_set1_ps(-127.0f), x); /* this order keeps NaN */
    vec n = _mm256_round_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    vec f = _mm256_sub_ps(x, n);
    vec y = _mm256_set1_ps(0x1.5bba14p-10f);
    y = _mm256_fmadd_ps(y, f, _mm256_set1_ps(0x1.3cea88p-7f));
    y = _mm256_fmadd_ps(y, f, _mm256_set1_ps(0x1.c6b752p-5f));
    y = _mm256_fmadd_ps(y, f, _mm256_set1_ps(0x1.ebf9bcp-3f));
    y = _mm256_fmadd_ps(y, f, _mm256_set1_ps(0x1.62e42ap-1f));
    y = _mm256_fmadd_ps(y, f, _mm256_set1_ps(1.0f));
    __m256i exponent = _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127));
    return _mm256_mul_ps(y, _mm256_castsi256_ps(_mm256_slli_epi32(exponent, 23)));
}

/* Four 32-bit words of each of LANES rows; lane group g of z[k] comes from row 4*g + k. */
static inline void vec_load_rows(vec z[4], const char *const *rows, int64_t offset)
{
    for (int k = 0; k < 4; k++) {
        __m128 low, high;
        memcpy(&low, rows[k] + offset, sizeof low);
        memcpy(&high, rows[4 + k] + offset, sizeof high);
        z[k] = _mm256_insertf128_ps(_mm256_castps128_ps256(low), high, 1);
    }
}

/* Lane group g of z[k] goes to rows[4*g + k]; rows from `count` on are left alone. */
static inline void vec_store_rows(const vec z[4], char *const *rows, int64_t offset, int count)
{
    for (int k = 0; k < 4; k++) {
        __m128 low = _mm256_castps256_ps128(z[k]), high = _mm256_extractf128_ps(z[k], 1);
        if (k < count) {
            memcpy(rows[k] + offset, &low, sizeof low);
        }
        if (4 + k < count) {
            memcpy(rows[4 + k] + offset, &high, sizeof high);
        }
    }
}

/* Transposes the 4x4 words of every lane group: rows become columns and columns rows. */
static inline void vec_transpose4(vec z[4])
{
    __m256d a = _mm256_castps_pd(_mm256_unpacklo_ps(z[0], z[1])), b = _mm256_castps_pd(_mm256_unpacklo_ps(z[2], z[3]));
    __m256d c = _mm256_castps_pd(_mm256_unpackhi_ps(z[0], z[1])), d = _mm256_castps_pd(_mm256_unpackhi_ps(z[2], z[3]));
    z[0] = _mm256_castpd_ps(_mm256_unpacklo_pd(a, b));
    z[1] = _mm256_castpd_ps(_mm256_unpackhi_pd(a, b));
    z[2] = _mm256_castpd_ps(_mm256_unpacklo_pd(c, d));
    z[3] = _mm256_castpd_ps(_mm256_unpackhi_pd(c, d));
}

/* n is a multiple of 8 in all conversions. */
static inline void vec_f16_to_f32(float *out, const void *in, int n)
{
    for (int i = 0; i < n; i += LANES) {
        __m128i half = _mm_loadu_si128((const __m128i *)((const char *)in + 2 * i));
        _mm256_storeu_ps(out + i, _mm256_cvtph_ps(half));
    }
}

static inline void vec_bf16_to_f32(float *out, const void *in, int n)
{
    for (int i = 0; i < n; i += LANES) {
        __m128i half = _mm_loadu_si128((const __m128i *)((const char *)in + 2 * i));
        __m256i bits = _mm256_slli_epi32(_mm256_cvtepu16_epi32(half), 16);
        _mm256_storeu_ps(out + i, _mm256_castsi256_ps(bits));
    }
}

static inline void vec_f32_to_f16(void *out, const float *in, int n)
{
    for (int i = 0; i < n; i += LANES) {
        __m128i half = _mm256_cvtps_ph(_mm256_loadu_ps(in + i), _MM_FROUND_TO_NEAREST_INT);
        _mm_storeu_si128((__m128i *)((char *)out + 2 * i), half);
    }
}

/* To nearest even, as fga_f32_to_bf16: a NaN keeps its high bits and becomes quiet. */
static inline void vec_f32_to_bf16(void *out, const float *in, int n)
{
    for (int i = 0; i < n; i += LANES) {
        __m256 x = _mm256_loadu_ps(in + i);
        __m256i bits = _mm256_castps_si256(x);
        __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
        __m256i rounded = _mm256_add_epi32(_mm256_add_epi32(bits, _mm256_set1_epi32(0x7fff)), odd);
        __m256i quiet = _mm256_or_si256(bits, _mm256_set1_epi32(0x400000));
        __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(x, x, _CMP_UNORD_Q));
        rounded = _mm256_srli_epi32(_mm256_blendv_epi8(rounded, quiet, nan), 16);
        __m128i half = _mm_packus_epi32(_mm256_castsi256_si128(rounded), _mm256_extracti128_si256(rounded, 1));
        _mm_storeu_si128((__m128i *)((char *)out + 2 * i), half);
    }
}

#endif
