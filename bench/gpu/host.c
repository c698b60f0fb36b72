/* host.c - the part of gpu.h that needs no device. */
#include "gpu.h"

#include "base/half.h"

#include <stdio.h>
#include <stdlib.h>

fga_context *gpu_context(const char *variant)
{
    fga_context *ctx = NULL;
    fga_context_options options = fga_context_options_default();
    options.device = FGA_DEVICE_CUDA;
    options.variant = variant;
    fga_status status = fga_context_create(&options, &ctx);
    if (status != FGA_OK) {
        fprintf(stderr, "no context on %s: %s\n", gpu_name(), fga_status_name(status));
        exit(1);
    }
    return ctx;
}

void gpu_need(fga_context *ctx, fga_status status)
{
    if (status != FGA_OK) {
        fprintf(stderr, "%s: %s\n", fga_status_name(status), fga_last_error(ctx));
        exit(1);
    }
}

uint64_t gpu_random(uint64_t *state)
{
    *state += 0x9E3779B97F4A7C15u;
    uint64_t x = *state;
    x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9u;
    x = (x ^ x >> 27) * 0x94D049BB133111EBu;
    return x ^ x >> 31;
}

float gpu_uniform(uint64_t *state)
{
    return (float)((double)(gpu_random(state) >> 11) * 0x1p-52 - 1.0);
}

float gpu_normal(uint64_t *state)
{
    float sum = 0;
    for (int i = 0; i < 12; i++) {
        sum += gpu_uniform(state);
    }
    return sum * 0.5f; /* twelve of variance 1/3 have variance 4 */
}

fga_tensor gpu_random_rows(int64_t tokens, int64_t heads, int64_t head_dim, uint64_t seed)
{
    int64_t count = tokens * heads * head_dim;
    enum { STRETCH = 8000008 }; /* no multiple of a row, so that rows differ */
    uint16_t *host = malloc(STRETCH * sizeof *host);
    if (host == NULL) {
        fprintf(stderr, "out of memory\n");
        exit(1);
    }
    for (int64_t i = 0; i < STRETCH; i++) {
        host[i] = fga_f32_to_bf16(1.7f * gpu_uniform(&seed));
    }
    char *device = gpu_alloc((size_t)count * sizeof *host);
    for (int64_t at = 0; at < count; at += STRETCH) {
        gpu_put(device + at * 2, host, (size_t)(count - at < STRETCH ? count - at : STRETCH) * sizeof *host);
    }
    free(host);
    fga_tensor t = fga_tensor_bshd(device, FGA_BF16, 1, tokens, heads, head_dim);
    t.device = FGA_DEVICE_CUDA;
    return t;
}
