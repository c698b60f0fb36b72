#include "video/vae_kernels.h"

#include "video/kernel_math.h"

#include <math.h>

#define CHUNK FGV_VAE_MAX_CHANNELS /* floats worked on at a time: 16 KiB, within the first cache level */

FGV_BODY store_chunk(void *out, int64_t at, const float *x, fgv_store store, int64_t n)
{
    if (store == FGV_STORE_F32) {
        memcpy((float *)out + at, x, (size_t)n * sizeof *x);
    } else if (store == FGV_STORE_ROUNDED) {
        float *to = (float *)out + at;
        for (int64_t i = 0; i < n; i++) {
            to[i] = fgv_round_bf16(x[i]); // NOLINT(clang-analyzer-core.CallAndMessage): the caller filled n floats
        }
    } else {
        uint16_t *to = (uint16_t *)out + at;
        for (int64_t i = 0; i < n; i++) {
            to[i] = (uint16_t)(fgv_round_bits(x[i]) >> 16); // NOLINT(clang-analyzer-core.CallAndMessage): likewise
        }
    }
}

typedef uint32_t mask __attribute__((vector_size(FGV_LANES * sizeof(uint32_t))));

/* The last channels of a pixel, `valid` of them, with zeros after them. Where 16 floats may be read from x they are,
 * and `keep` drops those of the next pixel. */
FGV_BODY load_tail(fgv_lanes *v, const float *x, int64_t valid, const mask *keep, bool readable)
{
    if (readable) {
        mask bits;
        memcpy(&bits, x, sizeof bits);
        bits &= *keep;
        memcpy(v, &bits, sizeof bits);
    } else {
        float copy[FGV_LANES] = {0};
        memcpy(copy, x, (size_t)valid * sizeof *x);
        memcpy(v, copy, sizeof copy);
    }
}

/* Up to 16 pixels at x, of which `readable` floats follow. Writes channels rounded up to 16 of each: pixels are taken
 * in order, so that each repairs what the one before spilled. */
FGV_BODY normalise_group(float *out, const float *x, int64_t readable, const float *gamma, int64_t channels,
                         int64_t pixels)
{
    float squares[FGV_LANES][FGV_LANES] = {{0}}, inverse[FGV_LANES] = {0};
    int64_t whole = channels / FGV_LANES * FGV_LANES, left = channels - whole;
    mask keep;
    for (int i = 0; i < FGV_LANES; i++) {
        keep[i] = i < left ? UINT32_MAX : 0;
    }
    for (int64_t p = 0; p < pixels; p++) {
        const float *pixel = x + p * channels;
        fgv_lanes sum = {0}, v;
        for (int64_t i = 0; i < whole; i += FGV_LANES) {
            memcpy(&v, pixel + i, sizeof v);
            sum += v * v;
        }
        if (left > 0) {
            load_tail(&v, pixel + whole, left, &keep, p * channels + whole + FGV_LANES <= readable);
            sum += v * v;
        }
        memcpy(squares[p], &sum, sizeof sum);
    }
    for (int i = 0; i < FGV_LANES; i++) {
        for (int p = 0; p < FGV_LANES; p++) {
            inverse[p] += squares[p][i];
        }
    }
    for (int p = 0; p < FGV_LANES; p++) {
        float norm = sqrtf(inverse[p]);
        inverse[p] = 1.0f / (norm > 1e-12f ? norm : 1e-12f);
    }
    for (int64_t p = 0; p < pixels; p++) {
        const float *pixel = x + p * channels;
        fgv_lanes v, g;
        for (int64_t i = 0; i < whole; i += FGV_LANES) {
            memcpy(&v, pixel + i, sizeof v);
            memcpy(&g, gamma + i, sizeof g);
            v = v * inverse[p] * g;
            memcpy(out + p * channels + i, &v, sizeof v);
        }
        if (left > 0) {
            load_tail(&v, pixel + whole, left, &keep, p * channels + whole + FGV_LANES <= readable);
            memcpy(&g, gamma + whole, sizeof g);
            v = v * inverse[p] * g;
            memcpy(out + p * channels + whole, &v, sizeof v);
        }
    }
}

FGV_BODY normalise_body(const fgv_vae_normalise *a)
{
    _Alignas(64) float chunk[CHUNK + FGV_LANES];
    int64_t step = CHUNK / a->channels;
    for (int64_t p = 0; p < a->pixels; p += step) {
        int64_t pixels = a->pixels - p < step ? a->pixels - p : step, n = pixels * a->channels;
        const float *x = a->x + p * a->channels;
        if (a->gamma != NULL) {
            for (int64_t i = 0; i < pixels; i += FGV_LANES) {
                int64_t readable = (a->pixels - p - i) * a->channels, group = pixels - i;
                normalise_group(chunk + i * a->channels, x + i * a->channels, readable, a->gamma, a->channels,
                                group < FGV_LANES ? group : FGV_LANES);
            }
            x = chunk;
        }
        if (a->gamma != NULL && a->silu) {
            fgv_silu(chunk, n);
        }
        store_chunk(a->out, p * a->channels, x, a->store, n);
    }
}

FGV_INLINE float largest(const float *x, int64_t n)
{
    float best[FGV_LANES];
    for (int j = 0; j < FGV_LANES; j++) {
        best[j] = -INFINITY;
    }
    int64_t whole = n / FGV_LANES * FGV_LANES;
    for (int64_t i = 0; i < whole; i += FGV_LANES) {
        for (int j = 0; j < FGV_LANES; j++) {
            best[j] = x[i + j] > best[j] ? x[i + j] : best[j];
        }
    }
    for (int64_t i = whole; i < n; i++) {
        best[0] = x[i] > best[0] ? x[i] : best[0];
    }
    for (int j = 1; j < FGV_LANES; j++) {
        best[0] = best[j] > best[0] ? best[j] : best[0];
    }
    return best[0];
}

FGV_INLINE float sum(const float *x, int64_t n)
{
    fgv_lanes total = {0};
    int64_t whole = n / FGV_LANES * FGV_LANES;
    for (int64_t i = 0; i < whole; i += FGV_LANES) {
        fgv_lanes v;
        memcpy(&v, x + i, sizeof v);
        total += v;
    }
    float tail = 0;
    for (int64_t i = whole; i < n; i++) {
        tail += x[i];
    }
    return fgv_sum_lanes(&total) + tail;
}

FGV_BODY softmax_body(const fgv_vae_softmax *a)
{
    for (int64_t r = 0; r < a->rows; r++) {
        float *x = a->scores + r * a->keys;
        float scale = a->scale, top = largest(x, a->keys);
        for (int64_t i = 0; i < a->keys; i++) {
            x[i] = fgv_exp((x[i] - top) * scale);
        }
        a->sums[r] = sum(x, a->keys);
        if (a->out != a->scores || a->store != FGV_STORE_F32) {
            store_chunk(a->out, r * a->keys, x, a->store, a->keys);
        }
    }
}

#define KERNELS(isa, attribute) \
    attribute static void normalise_##isa(const fgv_vae_normalise *args) \
    { \
        normalise_body(args); \
    } \
    attribute static void softmax_##isa(const fgv_vae_softmax *args) \
    { \
        softmax_body(args); \
    } \
    static const fgv_vae_kernels kernels_##isa = {normalise_##isa, softmax_##isa};

KERNELS(c, )
#if defined(__x86_64__)
KERNELS(avx2, FGV_TARGET_AVX2)
KERNELS(avx512, FGV_TARGET_AVX512)
#endif

const fgv_vae_kernels *fgv_vae_kernels_best(void)
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
