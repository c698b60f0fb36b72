#include "base/half.h"

float fga_f16_to_f32(uint16_t x)
{
    uint32_t sign = (uint32_t)(x & 0x8000u) << 16;
    uint32_t exponent = (x >> 10) & 0x1fu;
    uint32_t mantissa = x & 0x3ffu;
    if (exponent == 0x1f) {
        return fga_bits_f32(sign | 0x7f800000u | (mantissa << 13));
    }
    if (exponent == 0) { /* zero or subnormal: mantissa * 2^-24 is exact in f32 */
        float magnitude = (float)mantissa * 0x1p-24f;
        return sign != 0 ? -magnitude : magnitude;
    }
    return fga_bits_f32(sign | ((exponent + 112u) << 23) | (mantissa << 13));
}

uint16_t fga_f32_to_f16(float x)
{
    uint32_t bits = fga_f32_bits(x);
    uint16_t sign = (uint16_t)((bits >> 16) & 0x8000u);
    uint32_t magnitude = bits & 0x7fffffffu;
    if (magnitude > 0x7f800000u) {
        return (uint16_t)(sign | 0x7e00u);
    }
    if (magnitude >= 0x477ff000u) { /* 65520 and above round to Inf */
        return (uint16_t)(sign | 0x7c00u);
    }
    if (magnitude < 0x38800000u) { /* below 2^-14: adding 0.5 lets the FPU round the subnormal's bits in place */
        float shifted = fga_bits_f32(magnitude) + 0.5f;
        return (uint16_t)(sign | (fga_f32_bits(shifted) - 0x3f000000u));
    }
    uint32_t rounded = magnitude + 0xfffu + ((magnitude >> 13) & 1u);
    return (uint16_t)(sign | ((rounded - 0x38000000u) >> 13));
}

void fga_to_f32(float *out, const void *in, fga_dtype dtype, int64_t n)
{
    const uint16_t *half = in;
    switch (dtype) {
    case FGA_F32:
        if ((const void *)out != in) {
            memmove(out, in, (size_t)n * sizeof *out);
        }
        break;
    case FGA_F16:
        for (int64_t i = 0; i < n; i++) {
            out[i] = fga_f16_to_f32(half[i]);
        }
        break;
    case FGA_BF16:
        for (int64_t i = 0; i < n; i++) {
            out[i] = fga_bf16_to_f32(half[i]);
        }
        break;
    }
}

void fga_from_f32(void *out, fga_dtype dtype, const float *in, int64_t n)
{
    uint16_t *half = out;
    switch (dtype) {
    case FGA_F32:
        if (out != (const void *)in) {
            memmove(out, in, (size_t)n * sizeof *in);
        }
        break;
    case FGA_F16:
        for (int64_t i = 0; i < n; i++) {
            half[i] = fga_f32_to_f16(in[i]);
        }
        break;
    case FGA_BF16:
        for (int64_t i = 0; i < n; i++) {
            half[i] = fga_f32_to_bf16(in[i]);
        }
        break;
    }
}
