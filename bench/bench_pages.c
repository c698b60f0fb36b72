/* bench_pages.c - what large pages are worth to dense attention: the same inputs in small ones and in large ones.
 *
 *   bench_pages [KEYS [HEADS [ROUNDS]]]
 *
 * One head of KEYS tokens (32,760), one thread, in tensors [KEYS][HEADS][128] of f32 (12 heads, as models have them),
 * 512 queries. Every round (15) times both, in processor time; medians and their ratio are printed. Linux only.
 */
#define _DEFAULT_SOURCE /* madvise */
#include "timing.h"

#include "fgattn.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>

enum { DIM = 128, QUERIES = 512, MAX_ROUNDS = 99 };

static const size_t page = (size_t)2 << 20;

static int fail(const char *what)
{
    fprintf(stderr, "bench_pages: %s\n", what);
    exit(1);
}

static fga_tensor make_tensor(int tokens, int heads, int advice, unsigned seed)
{
    size_t count = (size_t)tokens * (size_t)heads * DIM, bytes = (count * sizeof(float) + page - 1) / page * page;
    float *x = aligned_alloc(page, bytes);
    if (x == NULL || madvise(x, bytes, advice) != 0) {
        fail("no memory, or no choice of pages");
    }
    for (size_t i = 0; i < count; i++) {
        seed = seed * 1664525u + 1013904223u;
        x[i] = (float)(int)seed * 0x1p-31f;
    }
    fga_tensor t = fga_tensor_bshd(x, FGA_F32, 1, tokens, heads, DIM);
    t.extent[1] = 1;
    return t;
}

int main(int argc, char **argv)
{
    int keys = argc > 1 ? atoi(argv[1]) : 32760, heads = argc > 2 ? atoi(argv[2]) : 12;
    int rounds = argc > 3 ? atoi(argv[3]) : 15;
    if (keys < QUERIES || heads < 1 || rounds < 1 || rounds > MAX_ROUNDS) {
        return fail("usage: bench_pages [KEYS [HEADS [ROUNDS]]]");
    }
    fga_context_options options = fga_context_options_default();
    fga_context *ctx;
    fga_attend_plan *plan;
    fga_attend_desc d = fga_attend_desc_default();
    options.threads = 1;
    d.query_heads = d.kv_heads = 1;
    d.head_dim = DIM;
    d.query_len = QUERIES;
    d.key_len = keys;
    if (fga_context_create(&options, &ctx) != FGA_OK || fga_attend_plan_create(ctx, &d, &plan) != FGA_OK) {
        return fail("no attention");
    }
    void *workspace = aligned_alloc(64, (fga_attend_plan_workspace(plan) + 127) / 64 * 64);
    fga_attend_args args[2];
    for (int i = 0; i < 2; i++) {
        int advice = i == 0 ? MADV_NOHUGEPAGE : MADV_HUGEPAGE;
        args[i] = fga_attend_args_default();
        args[i].q = make_tensor(QUERIES, heads, advice, 1);
        args[i].k = make_tensor(keys, heads, advice, 2);
        args[i].v = make_tensor(keys, heads, advice, 3);
        args[i].o = make_tensor(QUERIES, heads, advice, 4);
    }
    double times[2][MAX_ROUNDS], ratios[MAX_ROUNDS];
    for (int r = 0; r < rounds; r++) {
        for (int i = 0; i < 2; i++) {
            double start = processor_seconds();
            if (fga_attend_run(plan, &args[i], workspace, NULL) != FGA_OK) {
                return fail(fga_last_error(ctx));
            }
            times[i][r] = processor_seconds() - start;
        }
        ratios[r] = times[0][r] / times[1][r];
    }
    printf("%d keys, %d heads in the tensor, %d queries: small pages %.4f s, large pages %.4f s, median ratio %.3f\n",
           keys, heads, QUERIES, median(times[0], rounds), median(times[1], rounds), median(ratios, rounds));
    for (int i = 0; i < 2; i++) {
        free(args[i].q.data);
        free(args[i].k.data);
        free(args[i].v.data);
        free(args[i].o.data);
    }
    free(workspace);
    fga_attend_plan_destroy(&plan);
    fga_context_destroy(&ctx);
    return 0;
}
