/* Which kernel a shape is computed by, on the emulated device of compute capability 9.0: the numbers of check_attend.c
 * would be right with any. */
#include "gpu.h"
#include "kernels.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { QUERIES = 8, KEYS = 24, GROUP = 8 };

typedef struct choice {
    int head_dim, block_m; /* 0: no mask */
    bool bias, sums;
    const char *kernel;
} choice;

/* Zeros, which are right in every dtype. */
static void *zeros(size_t bytes)
{
    void *memory = gpu_alloc(bytes);
    gpu_fill(memory, 0, bytes);
    return memory;
}

static fga_mask *first_keys(fga_context *ctx, int block_m)
{
    fga_mask_desc desc = fga_mask_desc_default();
    desc.block_m = block_m;
    desc.tile_n = 1;
    desc.query = fga_sequence_video(QUERIES);
    desc.key = fga_sequence_video(KEYS);
    uint8_t keep[KEYS] = {1, 1, 1, 1, 1};
    fga_mask *mask = NULL;
    gpu_need(ctx, fga_mask_from_bool(ctx, &desc, keep, &mask));
    return mask;
}

static const char *kernel_of(fga_context *ctx, const choice *c)
{
    fga_attend_desc desc = fga_attend_desc_default();
    desc.query_heads = desc.kv_heads = 1;
    desc.query_len = QUERIES;
    desc.key_len = KEYS;
    desc.head_dim = c->head_dim;
    desc.dtype = FGA_BF16;
    desc.block_m = c->block_m;
    desc.tile_n = c->block_m != 0 ? 1 : 0;
    fga_attend_plan *plan = NULL;
    gpu_need(ctx, fga_attend_plan_create(ctx, &desc, &plan));
    void *rows = zeros(KEYS * (size_t)c->head_dim * 2), *out = zeros(QUERIES * (size_t)c->head_dim * 2);
    void *workspace = zeros(fga_attend_plan_workspace(plan)), *bias = zeros(KEYS * sizeof(float)), *sums = NULL;
    fga_mask *mask = c->block_m != 0 ? first_keys(ctx, c->block_m) : NULL;
    fga_attend_args args = fga_attend_args_default();
    args.q = fga_tensor_bhsd(rows, FGA_BF16, 1, 1, QUERIES, c->head_dim);
    args.k = args.v = fga_tensor_bhsd(rows, FGA_BF16, 1, 1, KEYS, c->head_dim);
    args.o = fga_tensor_bhsd(out, FGA_BF16, 1, 1, QUERIES, c->head_dim);
    args.q.device = args.k.device = args.v.device = args.o.device = FGA_DEVICE_CUDA;
    args.mask = mask;
    args.key_bias = c->bias ? bias : NULL;
    args.bias_head_stride = args.bias_batch_stride = KEYS;
    fga_remainder remainder;
    if (c->sums) {
        size_t bytes = 0;
        gpu_need(ctx, fga_remainder_place(ctx, &desc, GROUP, NULL, &bytes, NULL));
        sums = zeros(bytes);
        gpu_need(ctx, fga_remainder_place(ctx, &desc, GROUP, sums, &bytes, &remainder));
        args.remainder = &remainder;
    }
    gpu_need(ctx, fga_attend_run(plan, &args, workspace, NULL));
    fga_mask_release(&mask);
    fga_attend_plan_destroy(&plan);
    void *memory[] = {rows, out, workspace, bias, sums};
    for (size_t i = 0; i < sizeof memory / sizeof memory[0]; i++) {
        gpu_free(memory[i]);
    }
    return emulated_last_kernel();
}

static void kernels(void **state)
{
    (void)state;
    static const choice choices[] = {
        {64, 0, false, false, "fga_sm90_bf16_d64_dense"},
        {72, 0, false, false, "fga_sm90_bf16_d96_dense"},
        {96, 0, false, false, "fga_sm90_bf16_d96_dense"},
        {104, 0, false, false, "fga_sm90_bf16_d128_dense"},
        {128, 0, false, false, "fga_sm90_bf16_d128_dense"},
        {136, 0, false, false, "fga_sm90_bf16_d256_dense"},
        {256, 0, false, false, "fga_sm90_bf16_d256_dense"},
        {96, 0, true, false, "fga_sm90_bf16_d96_m128"},
        {256, 0, true, false, "fga_sm90_bf16_d256_m128"},
        {80, 64, false, false, "fga_sm90_bf16_d96_m64"},
        {80, 64, true, true, "fga_sm90_bf16_d96_m64_sums"},
        {96, 128, false, false, "fga_sm90_bf16_d96_m128"},
        {96, 128, false, true, "fga_sm90_bf16_d96_m128_sums"},
        {96, 192, true, false, "fga_sm90_bf16_d96_m192"},
        {96, 192, false, true, "fga_sm90_bf16_d96_m192_sums"},
        {128, 192, false, false, "fga_sm90_bf16_d128_m192"},
        {128, 128, false, true, "fga_sm90_bf16_d128_m128_sums"},
        {256, 64, false, false, "fga_sm90_bf16_d256_m64"},
        {160, 64, false, true, "fga_sm90_bf16_d256_m64_sums"},
        {256, 128, true, false, "fga_sm90_bf16_d256_m128"},
        {256, 128, false, true, "fga_sm90_bf16_d256_m64_sums"},
        {256, 192, false, false, "fga_sm90_bf16_d256_m128"},
        {256, 192, false, true, "fga_sm90_bf16_d256_m64_sums"},
        {96, 16, false, false, "fga_sm90_bf16_d96_grouped"},
        {256, 16, true, false, "fga_sm90_bf16_d256_grouped"},
        {256, 32, false, false, "fga_sm90_bf16_d256_grouped"},
        {96, 32, false, true, "fga_sm80_bf16_d96"},
        {256, 16, false, true, "fga_sm80_bf16_d256"},
    };
    fga_context *ctx = gpu_context("sm90");
    for (size_t i = 0; i < sizeof choices / sizeof choices[0]; i++) {
        assert_string_equal(kernel_of(ctx, &choices[i]), choices[i].kernel);
    }
    fga_context_destroy(&ctx);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(kernels)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
