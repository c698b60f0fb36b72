/* kernel_math.h - branch-free scalar pieces that vectorise inside kernels; nothing here contracts a*b+c, so every
 * instruction set gives the same bytes. */
#ifndef FGV_KERNEL_MATH_H
#define FGV_KERNEL_MATH_H

#include "base/half.h"

#define FGV_BODY static inline __attribute__((always_inline)) void
#define FGV_INLINE static inline __attribute__((always_inline))

/* The instruction sets a kernel is compiled for. */
#define FGV_TARGET_AVX2 __attribute__((target("avx2")))
#define FGV_TARGET_AVX512 __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,prefer-vector-width=512")))

/* Whether this processor and its operating system run what each target above compiles to. */
FGV_INLINE bool fgv_runs_avx2(void)
{
#if defined(__x86_64__)
    return __builtin_cpu_supports("avx2") != 0;
#else
    return false;
#endif
}

FGV_INLINE bool fgv_runs_avx512(void)
{
#if defined(__x86_64__)
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
#else
    return false;
#endif
}

FGV_INLINE uint32_t fgv_round_bits(float x)
{
    uint32_t bits = fga_f32_bits(x);
    uint32_t rounded = bits + 0x7fffu + ((bits >> 16) & 1u);
    return (bits & 0x7fffffffu) > 0x7f800000u ? bits | 0x400000u : rounded;
}

FGV_INLINE float fgv_round_bf16(float x)
{
    return fga_bits_f32(fgv_round_bits(x) & 0xffff0000u);
}

/* e^x to 1.5 ulp for x in [-87, 89]; Inf above 88.4; NaN stays. n = round(x / ln 2) by adding 1.5 * 2^23, whose low
 * mantissa bits then hold n. */
FGV_INLINE float fgv_exp(float x)
{
    float shifted = x * 1.44269504f + 12582912.0f;
    float n = shifted - 12582912.0f;
    float r = (x - n * 0.693359375f) - n * -2.12194440e-4f; /* ln 2 in two parts: the first product is exact */
    float p = 1.0f / 5040;
    p = p * r + 1.0f / 720;
    p = p * r + 1.0f / 120;
    p = p * r + 1.0f / 24;
    p = p * r + 1.0f / 6;
    p = p * r + 0.5f;
    p = (p * r) * r + r;
    uint32_t scale = (fga_f32_bits(shifted) - 0x4b400000u + 127u) << 23;
    return (p + 1.0f) * fga_bits_f32(scale);
}

/* Into the range that fgv_exp takes. */
FGV_BODY fgv_clamp_exponents(float *e, int64_t n)
{
    for (int64_t i = 0; i < n; i++) {
        float low = e[i] < -87.0f ? -87.0f : e[i];
        e[i] = low > 89.0f ? 89.0f : low;
    }
}

#define FGV_LOGISTIC_BLOCK 64

/* x[i] *= logistic(-e[i]) for up to FGV_LOGISTIC_BLOCK elements; e is lost. One loop per step: in a single one the
 * compiler computes and divides each case of the clamp on its own. */
FGV_BODY fgv_scale_logistic(float *x, float *e, int64_t n)
{
    fgv_clamp_exponents(e, n);
    for (int64_t i = 0; i < n; i++) {
        e[i] = fgv_exp(e[i]);
    }
    for (int64_t i = 0; i < n; i++) {
        x[i] = x[i] / (1.0f + e[i]);
    }
}

/* x[i] = silu(x[i]) */
FGV_BODY fgv_silu(float *x, int64_t n)
{
    float e[FGV_LOGISTIC_BLOCK];
    for (int64_t i = 0; i < n; i += FGV_LOGISTIC_BLOCK, x += FGV_LOGISTIC_BLOCK) {
        int64_t m = n - i < FGV_LOGISTIC_BLOCK ? n - i : FGV_LOGISTIC_BLOCK;
        for (int64_t k = 0; k < m; k++) {
            e[k] = -x[k]; // NOLINT(clang-analyzer-core.uninitialized.Assign): the caller filled n floats
        }
        fgv_scale_logistic(x, e, m);
    }
}

#define FGV_LANES 16
typedef float fgv_lanes __attribute__((vector_size(FGV_LANES * sizeof(float))));

FGV_INLINE float fgv_sum_lanes(const fgv_lanes *v)
{
    float s[FGV_LANES];
    memcpy(s, v, sizeof s);
    for (int width = FGV_LANES / 2; width > 0; width /= 2) {
        for (int i = 0; i < width; i++) {
            s[i] += s[i + width];
        }
    }
    return s[0];
}

#endif
