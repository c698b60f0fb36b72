#include "video/rng.h"

#include "base/half.h"
#include "fgvideo.h"

#include <math.h>

enum { STATE = 624, MIDDLE = 397, BLOCK = 16, HALF = BLOCK / 2 };

typedef struct mt19937 {
    uint32_t word[STATE];
    int next;
} mt19937;

static void mt_seed(mt19937 *mt, uint32_t seed)
{
    mt->word[0] = seed;
    for (uint32_t i = 1; i < STATE; i++) {
        uint32_t last = mt->word[i - 1];
        mt->word[i] = 1812433253u * (last ^ (last >> 30)) + i;
    }
    mt->next = STATE;
}

static void mt_refill(mt19937 *mt)
{
    for (int i = 0; i < STATE; i++) {
        uint32_t mixed = (mt->word[i] & 0x80000000u) | (mt->word[(i + 1) % STATE] & 0x7fffffffu);
        uint32_t odd = mixed & 1u ? 0x9908b0dfu : 0u;
        mt->word[i] = mt->word[(i + MIDDLE) % STATE] ^ (mixed >> 1) ^ odd;
    }
    mt->next = 0;
}

static uint32_t mt_next(mt19937 *mt)
{
    if (mt->next == STATE) {
        mt_refill(mt);
    }
    uint32_t y = mt->word[mt->next++];
    y ^= y >> 11;
    y ^= (y << 7) & 0x9d2c5680u;
    y ^= (y << 15) & 0xefc60000u;
    return y ^ (y >> 18);
}

/* [0, 1) on a grid of 2^-24. */
static float uniform24(mt19937 *mt)
{
    return (float)(mt_next(mt) & 0xffffffu) * 0x1p-24f;
}

/* [0, 1) on a grid of 2^-53; the first draw is the high word. */
static double uniform53(mt19937 *mt)
{
    uint64_t high = mt_next(mt);
    uint64_t bits = high << 32 | mt_next(mt);
    return (double)(bits & ((1ull << 53) - 1)) * 0x1p-53;
}

/* The single-precision log, sine and cosine below are the polynomials of the Cephes library (S. Moshier), evaluated in
 * the order, and with the roundings, of torch's AVX2 kernel: any other formulation agrees only to the last bit or two,
 * and a seed would then mean a slightly different video. fmaf is where that kernel has a fused multiply-add. */

/* x in [2^-24, 1]. */
static float log_cephes(float x)
{
    static const float p[] = {7.0376836292e-2f,  -1.1514610310e-1f, 1.1676998740e-1f,
                              -1.2420140846e-1f, 1.4249322787e-1f,  -1.6668057665e-1f,
                              2.0000714765e-1f,  -2.4999993993e-1f, 3.3333331174e-1f};
    uint32_t bits = fga_f32_bits(x);
    float e = (float)((int32_t)(bits >> 23) - 126);
    x = fga_bits_f32((bits & 0x807fffffu) | 0x3f000000u); /* the mantissa, in [0.5, 1) */
    if (x < 0.707106781186547524f) {
        e -= 1.0f;
        x = (x - 1.0f) + x;
    } else {
        x -= 1.0f;
    }
    float z = x * x;
    float y = p[0];
    for (int i = 1; i < 9; i++) {
        y = fmaf(y, x, p[i]);
    }
    y = fmaf(y * x, z, e * -2.12194440e-4f);
    y = fmaf(z, -0.5f, y);
    return fmaf(e, 0.693359375f, x + y);
}

/* x in [0, 2 pi). */
static void sincos_cephes(float x, float *sine, float *cosine)
{
    int32_t octant = ((int32_t)(x * 1.27323954473516f) + 1) & ~1;
    float n = (float)octant; /* x -= n * pi/4, with pi/4 in three parts */
    x = fmaf(n, -0.78515625f, x);
    x = fmaf(n, -2.4187564849853515625e-4f, x);
    x = fmaf(n, -3.77489497744594108e-8f, x);
    float z = x * x;
    float c = fmaf(2.443315711809948e-5f, z, -1.388731625493765e-3f);
    c = fmaf(c, z, 4.166664568298827e-2f);
    c = fmaf(c * z, z, z * -0.5f) + 1.0f;
    float s = fmaf(-1.9515295891e-4f, z, 8.3321608736e-3f);
    s = fmaf(s, z, -1.6666654611e-1f);
    s = fmaf(s * z, x, x);
    bool swap = octant & 2;
    float sin_x = swap ? c : s, cos_x = swap ? s : c;
    *sine = octant & 4 ? -sin_x : sin_x;
    *cosine = (octant + 2) & 4 ? -cos_x : cos_x;
}

/* Box-Muller in place: 8 + 8 uniforms become 16 normals. */
static void normal_block(float *block)
{
    for (int i = 0; i < HALF; i++) {
        float radius = sqrtf(-2.0f * log_cephes(1.0f - block[i]));
        float sine, cosine;
        sincos_cephes(6.28318530717958647692f * block[i + HALF], &sine, &cosine);
        block[i] = radius * cosine;
        block[i + HALF] = radius * sine;
    }
}

static void uniform_block(mt19937 *mt, float *block)
{
    for (int i = 0; i < BLOCK; i++) {
        block[i] = uniform24(mt);
    }
}

/* Fewer numbers than a block: pairs in double precision. */
static void normal_few(mt19937 *mt, float *out, int64_t n)
{
    for (int64_t i = 0; i < n; i += 2) {
        double angle = 2.0 * 3.14159265358979323846 * uniform53(mt);
        double radius = sqrt(-2.0 * log1p(-uniform53(mt)));
        out[i] = (float)(radius * cos(angle));
        if (i + 1 < n) {
            out[i + 1] = (float)(radius * sin(angle));
        }
    }
}

void fgv_rng_normal(uint64_t seed, float *out, int64_t n)
{
    mt19937 mt;
    mt_seed(&mt, (uint32_t)seed); /* torch uses the low 32 bits alone */
    if (n < BLOCK) {
        normal_few(&mt, out, n);
        return;
    }
    int64_t whole = n / BLOCK * BLOCK;
    for (int64_t i = 0; i < whole; i += BLOCK) {
        uniform_block(&mt, out + i);
        normal_block(out + i);
    }
    if (whole < n) { /* the last 16 anew, over part of the last whole block; the ragged end's own draws are discarded */
        for (int64_t i = whole; i < n; i++) {
            mt_next(&mt);
        }
        uniform_block(&mt, out + n - BLOCK);
        normal_block(out + n - BLOCK);
    }
}

void fgv_randn(uint64_t seed, float *out, int64_t n)
{
    fgv_rng_normal(seed, out, n);
}
