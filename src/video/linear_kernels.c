#include "video/linear_kernels.h"

#include "video/kernel_math.h"

/* ---- conversions: branch-free twins of base/half.c, so that they vectorise ----------------------------------- */

FGV_INLINE float widen_f16(uint16_t x)
{
    uint32_t magnitude = (uint32_t)(x & 0x7fffu) << 13;
    float value = fga_bits_f32(magnitude) * 0x1p112f; /* re-biases the exponent; subnormals come out exact */
    uint32_t bits = fga_f32_bits(value) | (magnitude >= 0x0f800000u ? 0x7f800000u | magnitude : 0u);
    return fga_bits_f32(bits | (uint32_t)(x & 0x8000u) << 16);
}

FGV_BODY widen_body(float *restrict out, const void *in, fga_dtype dtype, bool round, int64_t n)
{
    const float *f32 = in;
    const uint16_t *half = in;
    if (dtype == FGA_F32 && round) {
        for (int64_t i = 0; i < n; i++) {
            out[i] = fgv_round_bf16(f32[i]);
        }
    } else if (dtype == FGA_F32) {
        memcpy(out, in, (size_t)n * sizeof *out);
    } else if (dtype == FGA_BF16) {
        for (int64_t i = 0; i < n; i++) {
            out[i] = fga_bf16_to_f32(half[i]);
        }
    } else if (round) {
        for (int64_t i = 0; i < n; i++) {
            out[i] = fgv_round_bf16(widen_f16(half[i]));
        }
    } else {
        for (int64_t i = 0; i < n; i++) {
            out[i] = widen_f16(half[i]);
        }
    }
}

FGV_BODY to_bf16_body(uint16_t *restrict out, const void *in, fga_dtype dtype, int64_t n)
{
    const float *f32 = in;
    const uint16_t *half = in;
    if (dtype == FGA_F32) {
        for (int64_t i = 0; i < n; i++) {
            out[i] = (uint16_t)(fgv_round_bits(f32[i]) >> 16);
        }
    } else if (dtype == FGA_BF16) {
        memcpy(out, in, (size_t)n * sizeof *out);
    } else {
        for (int64_t i = 0; i < n; i++) {
            out[i] = (uint16_t)(fgv_round_bits(widen_f16(half[i])) >> 16);
        }
    }
}

/* ---- epilogue ------------------------------------------------------------------------------------------------- */

/* x/2 (1 + tanh u) is x times the logistic function of 2u. */
FGV_BODY gelu_tanh(float *x, int64_t n)
{
    float e[FGV_LOGISTIC_BLOCK];
    for (int64_t i = 0; i < n; i += FGV_LOGISTIC_BLOCK, x += FGV_LOGISTIC_BLOCK) {
        int64_t m = n - i < FGV_LOGISTIC_BLOCK ? n - i : FGV_LOGISTIC_BLOCK;
        for (int64_t k = 0; k < m; k++) {
            e[k] = -1.59576912f * (x[k] + 0.044715f * (x[k] * x[k] * x[k]));
        }
        fgv_scale_logistic(x, e, m);
    }
}

FGV_BODY finish_body(float *out, const float *in, const float *restrict bias, fgv_activation activation, int64_t n)
{
    if (bias != NULL) {
        for (int64_t i = 0; i < n; i++) {
            out[i] = in[i] + bias[i];
        }
    } else if (out != in) {
        memcpy(out, in, (size_t)n * sizeof *out);
    }
    if (activation == FGV_SILU) {
        fgv_silu(out, n);
    } else if (activation == FGV_GELU_TANH) {
        gelu_tanh(out, n);
    }
}

/* ---- dot products --------------------------------------------------------------------------------------------- */

FGV_BODY dots_of(float *out, const float *x, int64_t stride, const int rows, const float *w, int64_t n)
{
    fgv_lanes sum[FGV_DOT_ROWS] = {{0}};
    int64_t whole = n / FGV_LANES * FGV_LANES;
    for (int64_t i = 0; i < whole; i += FGV_LANES) {
        fgv_lanes b;
        memcpy(&b, w + i, sizeof b);
        for (int r = 0; r < rows; r++) {
            fgv_lanes a;
            memcpy(&a, x + r * stride + i, sizeof a);
            sum[r] += a * b;
        }
    }
    for (int r = 0; r < rows; r++) {
        float tail = 0;
        for (int64_t i = whole; i < n; i++) {
            tail += x[r * stride + i] * w[i];
        }
        out[r] = fgv_sum_lanes(&sum[r]) + tail;
    }
}

FGV_BODY dots_body(float *out, const float *x, int64_t stride, int rows, const float *w, int64_t n)
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
KERNELS(avx2, FGV_TARGET_AVX2)
KERNELS(avx512, FGV_TARGET_AVX512)
#endif

const fgv_linear_kernels *fgv_linear_kernels_best(void)
{
#if defined(__x86_64__)
    if (fgv_runs_avx512()) {
        return &kernels_avx512;
    }
    if (fgv_runs_avx2()) {
        return &kernels_avx2;
    }
#endif
    return &kernels_c;
}
