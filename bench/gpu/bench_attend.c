/* bench_attend.c - speed of attention on a CUDA device: dense, and single keys to blocks at several densities.
 *
 *   bench_cuda [--csv FILE] [--repeats R] [--tokens S] [--variant NAME] [--short]
 *
 * Rates are effective: 4 * kept pairs * head_dim floating-point operations over time, skipped keys never counted; the
 * last column is the time of the dense run of the same round over this one. Medians of R runs timed by events on one
 * stream; K and V of the heads together are several times the cache. Masks are random, the same for all heads.
 */
#include "base/half.h"
#include "gpu.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { HEAD_DIM = 128 };

typedef struct options {
    const char *csv, *variant;
    int repeats;
    int64_t tokens; /* 0: both */
    bool brief;
} options;

typedef struct bench {
    const options *opt;
    FILE *csv;
    fga_context *ctx;
    int64_t tokens, heads;
    void *q, *k, *v, *o;
    fga_remainder sums;
    void *sums_memory;
    double dense_ms;
} bench;

typedef struct launch {
    bench *b;
    fga_attend_plan *plan;
    fga_attend_args args;
    void *workspace;
} launch;

static void run(void *arg)
{
    launch *l = arg;
    gpu_need(l->b->ctx, fga_attend_run(l->plan, &l->args, l->workspace, gpu_stream()));
}

static void *random_rows(int64_t count, uint64_t seed)
{
    uint16_t *host = malloc((size_t)count * sizeof *host);
    if (host == NULL) {
        exit(1);
    }
    for (int64_t i = 0; i < count; i++) {
        host[i] = fga_f32_to_bf16(1.7f * gpu_uniform(&seed));
    }
    void *device = gpu_alloc((size_t)count * sizeof *host);
    gpu_put(device, host, (size_t)count * sizeof *host);
    free(host);
    return device;
}

static fga_mask *random_mask(bench *b, int m, int n, double density)
{
    fga_mask_desc desc = fga_mask_desc_default();
    desc.block_m = m;
    desc.tile_n = n;
    desc.query = desc.key = fga_sequence_video(b->tokens);
    int64_t count = (b->tokens + m - 1) / m * ((b->tokens + n - 1) / n);
    uint8_t *keep = malloc((size_t)count);
    uint64_t state = 99;
    uint32_t limit = (uint32_t)(density * 4294967295.0);
    for (int64_t i = 0; keep != NULL && i < count; i++) {
        keep[i] = (uint32_t)(gpu_random(&state) >> 32) <= limit;
    }
    fga_mask *mask = NULL;
    gpu_need(b->ctx, fga_mask_from_bool(b->ctx, &desc, keep, &mask));
    free(keep);
    return mask;
}

static fga_attend_desc describe(const bench *b, int m, int n)
{
    fga_attend_desc desc = fga_attend_desc_default();
    desc.query_heads = desc.kv_heads = b->heads;
    desc.query_len = desc.key_len = b->tokens;
    desc.head_dim = HEAD_DIM;
    desc.dtype = FGA_BF16;
    desc.block_m = m;
    desc.tile_n = n;
    return desc;
}

static fga_tensor view(void *data, const bench *b)
{
    fga_tensor t = fga_tensor_bshd(data, FGA_BF16, 1, b->tokens, b->heads, HEAD_DIM);
    t.device = FGA_DEVICE_CUDA;
    return t;
}

/* n 0: dense. */
static void measure(bench *b, int m, int n, double density, bool summaries)
{
    fga_attend_desc desc = describe(b, m, n);
    launch l = {.b = b, .args = fga_attend_args_default()};
    if (fga_attend_plan_create(b->ctx, &desc, &l.plan) != FGA_OK) {
        printf("M=%d N=%d: %s\n", m, n, fga_last_error(b->ctx));
        return;
    }
    fga_mask *mask = n > 0 ? random_mask(b, m, n, density) : NULL;
    double kept = mask != NULL ? fga_mask_density(mask) : 1;
    l.workspace = gpu_alloc(fga_attend_plan_workspace(l.plan));
    l.args.q = view(b->q, b);
    l.args.k = view(b->k, b);
    l.args.v = view(b->v, b);
    l.args.o = view(b->o, b);
    l.args.mask = mask;
    l.args.remainder = summaries ? &b->sums : NULL;
    double ms = gpu_median_ms(run, &l, 2, b->opt->repeats);
    double flop = 4.0 * kept * (double)b->tokens * (double)b->tokens * HEAD_DIM * (double)b->heads;
    b->dense_ms = n == 0 ? ms : b->dense_ms;
    const char *variant = fga_attend_plan_variant(l.plan);
    printf("%-5s S=%-6d M=%-3d N=%-3d density %.3f %-10s %8.3f ms %7.1f TFLOP/s %6.2f x dense\n", variant,
           (int)b->tokens, m, n, kept, summaries ? "summaries" : "", ms, flop / ms * 1e-9, b->dense_ms / ms);
    fflush(stdout);
    if (b->csv != NULL) {
        fprintf(b->csv, "%s,%d,%s,%d,%d,%d,bf16,%d,%d,%.4f,%d,%.4f,%.1f,%.3f\n", gpu_name(), gpu_driver_version(),
                variant, (int)b->tokens, (int)b->heads, HEAD_DIM, m, n, kept, summaries ? 64 : 0, ms, flop / ms * 1e-9,
                b->dense_ms / ms);
        fflush(b->csv);
    }
    gpu_free(l.workspace);
    fga_mask_release(&mask);
    fga_attend_plan_destroy(&l.plan);
}

/* Sums of groups of 64: random ones do for timing, counts must be right. */
static void make_sums(bench *b)
{
    fga_attend_desc desc = describe(b, 128, 1);
    size_t bytes = 0;
    gpu_need(b->ctx, fga_remainder_place(b->ctx, &desc, 64, NULL, &bytes, NULL));
    float *host = aligned_alloc(64, (bytes + 63) / 64 * 64);
    b->sums_memory = gpu_alloc(bytes);
    if (host == NULL) {
        exit(1);
    }
    uint64_t state = 5;
    fga_remainder at;
    gpu_need(b->ctx, fga_remainder_place(b->ctx, &desc, 64, host, &bytes, &at));
    int64_t rows = b->heads * at.groups;
    for (int64_t i = 0; i < rows; i++) {
        int64_t left = b->tokens - i % at.groups * 64;
        at.count[i] = left < 64 ? (float)left : 64;
        at.sum_bias[i] = 0;
        for (int c = 0; c < HEAD_DIM; c++) {
            at.sum_k[i * HEAD_DIM + c] = 8 * gpu_uniform(&state);
            at.sum_v[i * HEAD_DIM + c] = 8 * gpu_uniform(&state);
        }
    }
    gpu_put(b->sums_memory, host, bytes);
    gpu_need(b->ctx, fga_remainder_place(b->ctx, &desc, 64, b->sums_memory, &bytes, &b->sums));
    free(host);
}

static void bench_tokens(const options *opt, FILE *csv, int64_t tokens, int64_t heads)
{
    static const int ns[] = {1, 2, 4, 8, 16, 32, 64}, ms[] = {128, 192, 64};
    static const double densities[] = {0.3, 0.1, 0.05, 0.5};
    bench b = {.opt = opt, .csv = csv, .ctx = gpu_context(opt->variant), .tokens = tokens, .heads = heads};
    int64_t values = tokens * heads * HEAD_DIM;
    b.q = random_rows(values, 1);
    b.k = random_rows(values, 2);
    b.v = random_rows(values, 3);
    b.o = gpu_alloc((size_t)values * 2);
    make_sums(&b);
    measure(&b, 0, 0, 1, false);
    for (int i = 0; i < (opt->brief ? 1 : 3); i++) {
        for (int j = 0; j < (opt->brief ? 2 : 4); j++) {
            for (int k = 0; k < 7; k += opt->brief || ms[i] != 128 ? 6 : 1) {
                measure(&b, ms[i], ns[k], densities[j], false);
            }
            measure(&b, ms[i], 1, densities[j], true);
        }
    }
    measure(&b, 16, 16, 0.3, false);
    measure(&b, 32, 16, 0.3, false);
    measure(&b, 0, 0, 1, false); /* once more: how far the machine drifted */
    void *memory[] = {b.q, b.k, b.v, b.o, b.sums_memory};
    for (size_t i = 0; i < sizeof memory / sizeof memory[0]; i++) {
        gpu_free(memory[i]);
    }
    fga_context_destroy(&b.ctx);
}

int main(int argc, char **argv)
{
    options opt = {.repeats = 7};
    for (int i = 1; i < argc; i++) {
        bool more = i + 1 < argc;
        if (strcmp(argv[i], "--short") == 0) {
            opt.brief = true;
        } else if (more && strcmp(argv[i], "--csv") == 0) {
            opt.csv = argv[++i];
        } else if (more && strcmp(argv[i], "--variant") == 0) {
            opt.variant = argv[++i];
        } else if (more && strcmp(argv[i], "--repeats") == 0) {
            opt.repeats = atoi(argv[++i]);
        } else if (more && strcmp(argv[i], "--tokens") == 0) {
            opt.tokens = atoll(argv[++i]);
        } else {
            fprintf(stderr, "bench_cuda [--csv FILE] [--repeats R] [--tokens S] [--variant NAME] [--short]\n");
            return 2;
        }
    }
    if (opt.repeats < 1) {
        fprintf(stderr, "--repeats wants a positive number\n");
        return 2;
    }
    gpu_open();
    FILE *csv = opt.csv != NULL ? fopen(opt.csv, "w") : NULL;
    if (opt.csv != NULL && csv == NULL) {
        perror(opt.csv);
        return 1;
    }
    if (csv != NULL) {
        fprintf(csv, "card,driver,variant,tokens,heads,head_dim,dtype,m,n,density,group,ms,tflops,speedup\n");
    }
    if (opt.tokens == 0 || opt.tokens == 32760) {
        bench_tokens(&opt, csv, 32760, 12);
    }
    if (opt.tokens != 32760) {
        bench_tokens(&opt, csv, opt.tokens > 0 ? opt.tokens : 75600, 4);
    }
    if (csv != NULL) {
        fclose(csv);
    }
    return 0;
}
