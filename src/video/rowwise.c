#include "video/rowwise.h"

#include "video/kernel_math.h"

#include <math.h>

#define INLINE static inline __attribute__((always_inline))
#define LANES 16

typedef float lanes __attribute__((vector_size(LANES * sizeof(float))));
typedef float eight __attribute__((vector_size(8 * sizeof(float))));

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

/* Sum of (x - mean)^power for power 1 (with mean 0) and 2. */
INLINE float sum_powers(const float *x, float mean, const int power, int64_t n)
{
    lanes sum = {0}, second = {0}; /* two, to hide the latency of the addition */
    int64_t i = 0;
    for (; i + 2 * LANES <= n; i += 2 * LANES) {
        lanes a, b;
        memcpy(&a, x + i, sizeof a);
        memcpy(&b, x + i + LANES, sizeof b);
        a -= mean;
        b -= mean;
        sum += power == 2 ? a * a : a;
        second += power == 2 ? b * b : b;
    }
    sum += second;
    float tail = 0.0f;
    for (; i < n; i++) {
        float a = x[i] - mean;
        tail += power == 2 ? a * a : a;
    }
    return sum_lanes(&sum) + tail;
}

INLINE void layer_norm_body(float *out, const float *x, const float *restrict scale, const float *restrict shift,
                            float eps, int64_t n)
{
    float mean = sum_powers(x, 0.0f, 1, n) / (float)n;
    float factor = 1.0f / sqrtf(sum_powers(x, mean, 2, n) / (float)n + eps);
    for (int64_t i = 0; i < n; i++) {
        out[i] = (x[i] - mean) * factor * scale[i] + shift[i];
    }
}

INLINE void rms_norm_body(float *x, const fgv_rms_args *args)
{
    int64_t n = args->n;
    const float *weight = args->weight;
    float factor = 1.0f / sqrtf(sum_powers(x, 0.0f, 2, n) / (float)n + args->eps);
    if (args->rotation == NULL) {
        for (int64_t i = 0; i < n; i++) {
            x[i] = x[i] * factor * weight[i];
        }
        return;
    }
    const float *cosine = args->rotation->cosine, *sine = args->rotation->sine;
    for (int64_t head = 0; head < n; head += args->head_dim) {
        for (int64_t i = 0; i < args->head_dim; i += 8) {
            eight a, w, c, s;
            memcpy(&a, x + head + i, sizeof a);
            memcpy(&w, weight + head + i, sizeof w);
            memcpy(&c, cosine + i, sizeof c);
            memcpy(&s, sine + i, sizeof s);
            a = a * factor * w;
            eight swapped = __builtin_shufflevector(a, a, 1, 0, 3, 2, 5, 4, 7, 6);
            a = a * c + swapped * s;
            memcpy(x + head + i, &a, sizeof a);
        }
    }
}

INLINE void add_body(float *restrict x, const float *restrict y, const float *restrict gate, int64_t n)
{
    if (gate == NULL) {
        for (int64_t i = 0; i < n; i++) {
            x[i] += y[i];
        }
    } else {
        for (int64_t i = 0; i < n; i++) {
            x[i] += gate[i] * y[i];
        }
    }
}

INLINE void mix_body(float *out, const float *a, const float *b, float w, int64_t n)
{
    for (int64_t i = 0; i < n; i++) {
        out[i] = a[i] + w * (b[i] - a[i]);
    }
}

/* fga_f32_to_bf16 without a branch, so that it vectorises. */
INLINE void to_bf16_body(uint16_t *restrict out, const float *restrict in, int64_t n)
{
    for (int64_t i = 0; i < n; i++) {
        uint32_t bits = fga_f32_bits(in[i]);
        uint32_t rounded = bits + 0x7fffu + ((bits >> 16) & 1u);
        out[i] = (uint16_t)(((bits & 0x7fffffffu) > 0x7f800000u ? bits | 0x400000u : rounded) >> 16);
    }
}

#define SET(isa, attribute) \
    attribute static void layer_norm_##isa(float *out, const float *x, const float *scale, const float *shift, \
                                           float eps, int64_t n) \
    { \
        layer_norm_body(out, x, scale, shift, eps, n); \
    } \
    attribute static void rms_norm_##isa(float *x, const fgv_rms_args *args) \
    { \
        rms_norm_body(x, args); \
    } \
    attribute static void add_##isa(float *x, const float *y, const float *gate, int64_t n) \
    { \
        add_body(x, y, gate, n); \
    } \
    attribute static void mix_##isa(float *out, const float *a, const float *b, float w, int64_t n) \
    { \
        mix_body(out, a, b, w, n); \
    } \
    attribute static void to_bf16_##isa(uint16_t *out, const float *in, int64_t n) \
    { \
        to_bf16_body(out, in, n); \
    } \
    static const fgv_rowwise set_##isa = {layer_norm_##isa, rms_norm_##isa, add_##isa, mix_##isa, to_bf16_##isa};

SET(c, )
#if defined(__x86_64__)
SET(avx2, FGV_TARGET_AVX2)
SET(avx512, FGV_TARGET_AVX512)
#endif

int fgv_rowwise_all(const fgv_rowwise **sets, int capacity)
{
    int count = 0;
    if (count < capacity) {
        sets[count++] = &set_c;
    }
#if defined(__x86_64__)
    if (count < capacity && fgv_runs_avx2()) {
        sets[count++] = &set_avx2;
    }
    if (count < capacity && fgv_runs_avx512()) {
        sets[count++] = &set_avx512;
    }
#endif
    return count;
}

const fgv_rowwise *fgv_rowwise_best(void)
{
    const fgv_rowwise *sets[3];
    return sets[fgv_rowwise_all(sets, 3) - 1];
}
