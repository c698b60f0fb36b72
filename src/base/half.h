/* half.h - scalar conversions between f32 and the two 16-bit types; round to nearest even, NaN stays NaN. */
#ifndef FGA_BASE_HALF_H
#define FGA_BASE_HALF_H

#include "fgattn.h"

#include <string.h>

static inline uint32_t fga_f32_bits(float x)
{
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

static inline float fga_bits_f32(uint32_t bits)
{
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

static inline float fga_bf16_to_f32(uint16_t x)
{
    return fga_bits_f32((uint32_t)x << 16);
}

static inline uint16_t fga_f32_to_bf16(float x)
{
    uint32_t bits = fga_f32_bits(x);
    if ((bits & 0x7fffffffu) > 0x7f800000u) {
        return (uint16_t)((bits >> 16) | 0x40u); /* quiet the NaN; truncation alone could make it Inf */
    }
    return (uint16_t)((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

float fga_f16_to_f32(uint16_t x);
uint16_t fga_f32_to_f16(float x);

/* Arrays of n elements; source and destination must not overlap unless equal types. */
void fga_to_f32(float *out, const void *in, fga_dtype dtype, int64_t n);
void fga_from_f32(void *out, fga_dtype dtype, const float *in, int64_t n);

#endif
