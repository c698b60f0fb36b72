#include "video/linear_kernels.h"

#include "base/half.h"

#define BODY static inline __attribute__((always_inline)) void
#define INLINE static inline __attribute__((always_inline))

/* ---- conversions: branch-free twins of base/half.c, so that they vectorise ----------------------------------- */

INLINE float widen_f16(uint16_t x)
{
    uint32_t magnitude = (uint32_t)(x & 0x7fffu) << 13;
    float value = fga_bits_f32(magnitude) * 0x1p112f; /* re-biases the exponent; subnormals come out exact */
    uint32_t bits = fga_f32_bits(value) | (magnitude >= 0x0f800000u ? 0x7f800000u | magnitude : 0u);
    return fga_bits_f32(bits | (uint32_t)(x & 0x8000u) << 16);
}

INLINE uint32_t round_bits(float x)
{
    uint32_t bits = fga_f32_bits(x);
    uint32_t rounded = bits + 0x7fffu + ((bits >> 16) & 1u);
    return (bits & 0x7fffffffu) > 0x7f800000u ? bits | 0x400000u : rounded;
}

INLINE float round_bf16(float x)
{
    return fga_bits_f32(round_bits(x) & 0xffff0000u);
}

BODY widen_body(float *restrict out, const void *in, fga_dtype dtype, bool round, int64_t n)
{
    const float *f32 = in;
    const uint16_t *half = in;
    if (dtype == FGA_F32 && round) {
        for (int64_t i = 0; i < n; i++) {
            out[i] = round_bf16(f32[i]);
        }
    } else if (dtype == FGA_F32) {
        memcpy(out, in, (size_t)n * sizeof *out);
    } else if (dtype == FGA_BF16) {
        for (int64_t i = 0; i < n; i++) {
            out[i] = fga_bf16_to_f32(half[i]);
        }
    } else if (round) {
        for (int64_t i = 0; i < n; i++) {
            out[i] = round_bf16(widen_f16(half[i]));
        }
    } else {
        for (int64_t i = 0; i < n; i++) {
            out[i] = widen_f16(half[i]);
        }
    }
}

BODY to_bf16_body(uint16_t *restrict out, const void *in, fga_dtype dtype, int64_t n)
{
    const float *f32 = in;
    const uint16_t *half = in;
    if (dtype == FGA_F32) {
        for (int64_t i = 0; i < n; i++) {
            out[i] = (uint16_t)(round_bits(f32[i]) >> 16);
        }
    } else if (dtype == FGA_BF16) {
        memcpy(out, in, (size_t)n * sizeof *out);
    } else {
        for (int64_t i = 0; i < n; i++) {
            out[i] = (uint16_t)(round_bits(widen_f16(half[i])) >> 16);
        }
    }
}

/* ---- epilogue ------------------------------------------------------------------------------------------------- */

/* e^x to 1.5 ulp; 0 below -87, Inf above 88.4; NaN stays. n = round(x / ln 2) by adding 1.5 * 2^23, whose low mantissa
 * bits then hold n. */
INLINE float exp_f32(float x)
{
    x = x < -87.0f ? -87.0f : x;
    x = x > 89.0f ? 89.0f : x;
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

INLINE float silu(float x)
{
    return x / (1.0f + exp_f32(-x));
}

/* x/2 (1 + tanh u) is x times the logistic function of 2u. */
INLINE float gelu_tanh(float x)
{
    float twice = 1.59576912f * (x + 0.044715f * (x * x * x));
    return x / (1.0f + exp_f32(-twice));
}

BODY finish_body(float *out, const float *in, const float *restrict bias, fgv_activation activation, int64_t n)
{
    if (bias != NULL) {
        for (int64_t i = 0; i < n; i++) {
            out[i] = in[i] + bias[i];
        }
    } else if (out != in) {
        memcpy(out, in, (size_t)n * sizeof *out);
    }
    if (activation == FGV_SILU) {
        for (int64_t i = 0; i < n; i++) {
            out[i] = silu(out[i]);
        }
    } else if (activation == FGV_GELU_TANH) {
        for (int64_t i = 0; i < n; i++) {
            out[i] = gelu_tanh(out[i]);
        }
    }
}

/* ---- dot products --------------------------------------------------------------------------------------------- */

#define LANES 16
typedef float lanes __attribute__((vector_size(LANES * sizeof(float))));

INLINE float sum_lanes(const lanes *v)
{
    float s[LANES];
    memcpy(s, v, sizeof s);
    for (int width = LANES / 2; width > 0; width /= 2) {
        for (int i = 0; i < width; i++) {
            s[i] += s[i + width];
        }
    }
    return s[0];
}

BODY dots_of(float *out, const float *x, int64_t stride, const int rows, const float *w, int64_t n)
{
    lanes sum[FGV_DOT_ROWS] = {{0}};
    int64_t whole = n / LANES * LANES;
    for (int64_t i = 0; i < whole; i += LANES) {
        lanes b;
        memcpy(&b, w + i, sizeof b);
        for (int r = 0; r < rows; r++) {
            lanes a;
            memcpy(&a, x + r * stride + i, sizeof a);
            sum[r] += a * b;
        }
    }
    for (int r = 0; r < rows; r++) {
        float tail = 0;
        for (int64_t i = whole; i < n; i++) {
            tail += x[r * stride + i] * w[i];
        }
        out[r] = sum_lanes(&sum[r]) + tail;
    }
}

BODY dots_body(float *out, const float *x, int64_t stride, int rows, const float *w, int64_t n)
{
    switch (rows) { /* constants, so that the sums stay in registers */
    case 1:
        dots_of(out, x, stride, 1, w, n);
        break;
    case 2:
        dots_of(out, x, stride, 2, w, n);
        break;
    case 3:
        dots_of(out, x, stride, 3, w, n);
        break;
    default:
        dots_of(out, x, stride, 4, w, n);
        break;
    }
}

/* ---- one set per instruction set ------------------------------------------------------------------------------ */

#define KERNELS(isa, attribute) \
    attribute static void widen_##isa(float *out, const void *in, fga_dtype dtype, bool round, int64_t n) \
    { \
        widen_body(out, in, dtype, round, n); \
    } \
    attribute static void to_bf16_##isa(uint16_t *out, const void *in, fga_dtype dtype, int64_t n) \
    { \
        to_bf16_body(out, in, dtype, n); \
    } \
    attribute static void finish_##isa(float *out, const float *in, const float *bias, fgv_activation activation, \
                                       int64_t n) \
    { \
        finish_body(out, in, bias, activation, n); \
    } \
    attribute static void dots_##isa(float *out, const float *x, int64_t stride, int rows, const float *w, int64_t n) \
    { \
        dots_body(out, x, stride, rows, w, n); \
    } \
    static const fgv_linear_kernels kernels_##isa = {widen_##isa, to_bf16_##isa, finish_##isa, dots_##isa};

KERNELS(c, )
#if defined(__x86_64__)
KERNELS(avx2, __attribute__((target("avx2"))))
KERNELS(avx512, __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,prefer-vector-width=512"))))
#endif

const fgv_linear_kernels *fgv_linear_kernels_best(void)
{
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512vl")) {
        return &kernels_avx512;
    }
    if (__builtin_cpu_supports("avx2")) {
        return &kernels_avx2;
    }
#endif
    return &kernels_c;
}
