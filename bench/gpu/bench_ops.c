/* bench_ops.c - what a refresh costs on a CUDA device, part by part, as a share of dense attention in the same run.
 *
 *   bench_cuda_ops [--csv FILE] [--repeats R] [--tokens S] [--heads H] [--variant NAME]
 *
 * Policies `dfs` (tiles of 128x128), `fgdfs` (single keys; 128 queries a block, top-k) and `budget` (the same, but one
 * budget for all rows, whose scores are kept), bf16, 128 channels, tokens before heads. Medians of R runs timed by
 * events on one stream; times of parts are of that part alone, on what the others left behind. Inputs are random, so
 * that scores are as spread as noise is. "of dense" is the part's time over that of our dense attention.
 */
#include "attn/measure.h"
#include "attn/policy.h"
#include "attn/refresh_gpu.h"
#include "gpu.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { HEAD_DIM = 128 };

typedef struct options {
    const char *csv, *variant; /* of scoring; attention is the best */
    int repeats;
    int64_t tokens, heads; /* 0: both shapes */
} options;

typedef struct bench {
    const options *opt;
    FILE *csv;
    fga_context *ctx, *scoring;
    int64_t tokens, heads;
    fga_attend_args args;
    double dense_ms;
    /* of the part that is being timed */
    fga_policy policy;
    fga_gpu_refresh_plan plan;
    fga_refresh_gpu_call call;
    fga_attend_plan *attend;
    fga_attend_desc desc;
    fga_remainder sums;
    fga_permute_args permute;
    fga_meter meter;
    fga_judge_call judge;
    void *workspace;
} bench;

static void report(const bench *b, const char *policy, const char *part, double ms, double gigabytes, double teraflop)
{
    printf("S=%-6d H=%-3d %-6s %-10s %9.3f ms %7.3f %% of dense", (int)b->tokens, (int)b->heads, policy, part, ms,
           100 * ms / b->dense_ms);
    if (gigabytes > 0) {
        printf("  %6.2f TB/s", gigabytes / ms);
    }
    if (teraflop > 0) {
        printf("  %6.1f TFLOP/s", teraflop / ms * 1e3);
    }
    printf("\n");
    fflush(stdout);
    if (b->csv != NULL) {
        fprintf(b->csv, "%s,%d,%d,%d,%s,%s,%.4f,%.4f\n", gpu_name(), gpu_driver_version(), (int)b->tokens,
                (int)b->heads, policy, part, ms, ms / b->dense_ms);
        fflush(b->csv);
    }
}

/* ---- what is timed ------------------------------------------------------------------------------------ */

static void run_attend(void *arg)
{
    bench *b = arg;
    gpu_need(b->ctx, fga_attend_run(b->attend, &b->args, b->workspace, gpu_stream()));
}

static void run_permute(void *arg)
{
    bench *b = arg;
    gpu_need(b->ctx, fga_permute(b->ctx, &b->permute, gpu_stream()));
}

static void run_sums(void *arg)
{
    bench *b = arg;
    gpu_need(b->ctx, fga_remainder_fill(b->ctx, &b->desc, &b->args, NULL, &b->sums));
}

static void run_refresh(void *arg)
{
    bench *b = arg;
    gpu_need(b->scoring, fga_refresh_gpu_run(b->scoring, &b->plan, &b->policy, &b->call));
}

static void run_probe(void *arg)
{
    bench *b = arg;
    gpu_need(b->ctx, fga_meter_probe_gpu(&b->meter, &b->judge, b->workspace));
}

static double timed(bench *b, void (*body)(void *arg))
{
    return gpu_time(body, b, 1, b->opt->repeats).median;
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

static double attend(bench *b, int m, int n)
{
    b->desc = describe(b, m, n);
    gpu_need(b->ctx, fga_attend_plan_create(b->ctx, &b->desc, &b->attend));
    b->workspace = gpu_alloc(fga_attend_plan_workspace(b->attend));
    double ms = timed(b, run_attend);
    gpu_free(b->workspace);
    fga_attend_plan_destroy(&b->attend);
    return ms;
}

static void bench_permute(bench *b)
{
    int32_t *order = malloc((size_t)b->tokens * sizeof *order);
    if (order == NULL) {
        exit(1);
    }
    int64_t frames = b->tokens == 32760 ? 21 : 1, area = b->tokens / frames; /* 21 x 30 x 52 */
    int64_t height = frames > 1 ? 30 : 1;
    if (b->tokens == 75600) {
        frames = 21, height = 45, area = 3600;
    }
    gpu_need(b->ctx, fga_order_build(b->ctx, FGA_ORDER_HILBERT, frames, height, area / height, order));
    size_t bytes = (size_t)b->tokens * sizeof *order;
    void *there = gpu_alloc(bytes);
    gpu_put(there, order, bytes);
    b->permute = fga_permute_args_default();
    b->permute.from = b->args.q.data;
    b->permute.to = b->args.o.data;
    b->permute.order = there;
    b->permute.rows = b->tokens;
    b->permute.row_bytes = (size_t)(b->heads * HEAD_DIM) * 2;
    double gigabytes = 2e-9 * (double)b->tokens * (double)b->permute.row_bytes;
    report(b, "", "permute", timed(b, run_permute), gigabytes, 0);
    gpu_free(there);
    free(order);
}

static void bench_sums(bench *b)
{
    size_t bytes;
    b->desc = describe(b, 128, 1);
    gpu_need(b->ctx, fga_remainder_place(b->ctx, &b->desc, 64, NULL, &bytes, NULL));
    void *memory = gpu_alloc(bytes);
    gpu_need(b->ctx, fga_remainder_place(b->ctx, &b->desc, 64, memory, &bytes, &b->sums));
    double gigabytes = 4e-9 * (double)b->tokens * (double)b->heads * HEAD_DIM;
    report(b, "fgdfs", "sums", timed(b, run_sums), gigabytes, 0);
    gpu_free(memory);
}

/* What a measured call costs beyond attending, without the reading of its figures. */
static void bench_measure(bench *b, const char *name, double fraction)
{
    char part[32];
    fga_sequence query = fga_sequence_video(b->tokens);
    gpu_need(b->ctx, fga_meter_init(b->ctx, &b->desc, &query, fraction, &b->meter));
    b->judge = (fga_judge_call){.args = &b->args, .attended = true, .recall = true, .error = true};
    b->workspace = gpu_alloc(b->meter.workspace_bytes);
    snprintf(part, sizeof part, "measure %g", fraction);
    double pairs = (double)b->meter.samples * (double)b->tokens * (double)b->heads;
    report(b, name, part, timed(b, run_probe), 0, 4e-12 * pairs * HEAD_DIM);
    gpu_free(b->workspace);
}

static void bench_refresh(bench *b, const char *name, const char *policy)
{
    fga_predict_desc d = fga_predict_desc_default();
    gpu_need(b->ctx, fga_policy_parse(b->ctx, policy, &b->policy));
    d.query_heads = d.kv_heads = b->heads;
    d.head_dim = HEAD_DIM;
    d.dtype = FGA_BF16;
    d.query = d.key = fga_sequence_video(b->tokens);
    d.block_m = b->policy.block_m, d.tile_n = b->policy.tile_n;
    d.sub_q = b->policy.sub_q, d.sub_k = b->policy.sub_k;
    d.score = b->policy.score, d.group = b->policy.group;
    gpu_need(b->scoring, fga_refresh_gpu_init(b->scoring, &d, &b->policy, &b->plan));
    fga_mask_desc m = fga_mask_desc_default();
    m.heads = b->heads, m.block_m = d.block_m, m.tile_n = d.tile_n, m.query = m.key = d.query;
    gpu_need(b->ctx, fga_mask_create_gpu(b->ctx, &m, &b->call.mask));
    fga_head_setting settings[64] = {{0}};
    int32_t keep[64], near[64];
    uint8_t everything[64];
    int64_t budget;
    double number[64];
    for (int64_t h = 0; h < b->heads; h++) {
        settings[h].density = 0.2;
    }
    b->call.args = &b->args, b->call.heads = settings, b->call.keep = keep, b->call.near = near;
    b->call.everything = everything, b->call.budget = &budget, b->call.number = number;
    b->call.workspace = gpu_alloc(b->plan.workspace_bytes);
    static const struct {
        const char *name;
        int parts;
    } parts[] = {{"refresh", FGA_GPU_ALL_PARTS},
                 {"pool", FGA_GPU_POOL},
                 {"row sums", FGA_GPU_ROW_SUMS},
                 {"scores", FGA_GPU_SCORES},
                 {"select", FGA_GPU_SELECT}};
    double tokens = (double)b->tokens, heads = (double)b->heads, rows = tokens / 16;
    double keys = d.score == FGA_SCORE_MASS ? rows : tokens;
    for (size_t i = 0; i < sizeof parts / sizeof parts[0]; i++) {
        b->call.parts = parts[i].parts;
        bool product = parts[i].parts == FGA_GPU_ROW_SUMS || parts[i].parts == FGA_GPU_SCORES;
        report(b, name, parts[i].name, timed(b, run_refresh),
               parts[i].parts == FGA_GPU_POOL ? 4e-9 * tokens * heads * HEAD_DIM : 0,
               product ? 2e-12 * rows * keys * heads * HEAD_DIM : 0);
    }
    printf("workspace %.0f MB, mask %.0f MB\n", (double)b->plan.workspace_bytes * 1e-6,
           (double)fga_mask_bytes(b->call.mask) * 1e-6);
    b->args.mask = b->call.mask;
    report(b, name, "attend 0.2", attend(b, d.block_m, d.tile_n), 0, 0);
    bench_measure(b, name, 0.005);
    bench_measure(b, name, 0.02);
    b->args.mask = NULL;
    gpu_free(b->call.workspace);
    fga_mask_release(&b->call.mask);
}

static void bench_tokens(const options *opt, FILE *csv, int64_t tokens, int64_t heads)
{
    bench b = {.opt = opt,
               .csv = csv,
               .ctx = gpu_context(NULL),
               .scoring = gpu_context(opt->variant),
               .tokens = tokens,
               .heads = heads};
    fga_context_set_stream(b.ctx, gpu_stream());
    fga_context_set_stream(b.scoring, gpu_stream());
    b.args = fga_attend_args_default();
    b.args.q = gpu_random_rows(tokens, heads, HEAD_DIM, 1);
    b.args.k = gpu_random_rows(tokens, heads, HEAD_DIM, 2);
    b.args.v = gpu_random_rows(tokens, heads, HEAD_DIM, 3);
    b.args.o = gpu_random_rows(tokens, heads, HEAD_DIM, 4);
    b.dense_ms = attend(&b, 0, 0);
    report(&b, "", "dense", b.dense_ms, 0, 4e-12 * (double)tokens * (double)tokens * HEAD_DIM * (double)heads);
    bench_permute(&b);
    bench_sums(&b);
    bench_refresh(&b, "dfs", "dfs");
    bench_refresh(&b, "fgdfs", "fgdfs,block_m=128,sub_q=16,score=deviation,select=topk");
    bench_refresh(&b, "budget", "fgdfs,block_m=128,sub_q=16,score=deviation");
    void *memory[] = {b.args.q.data, b.args.k.data, b.args.v.data, b.args.o.data};
    for (size_t i = 0; i < sizeof memory / sizeof memory[0]; i++) {
        gpu_free(memory[i]);
    }
    fga_context_destroy(&b.ctx);
    fga_context_destroy(&b.scoring);
}

int main(int argc, char **argv)
{
    options opt = {.repeats = 5, .heads = 12};
    for (int i = 1; i < argc; i++) {
        bool more = i + 1 < argc;
        if (more && strcmp(argv[i], "--csv") == 0) {
            opt.csv = argv[++i];
        } else if (more && strcmp(argv[i], "--variant") == 0) {
            opt.variant = argv[++i];
        } else if (more && strcmp(argv[i], "--repeats") == 0) {
            opt.repeats = atoi(argv[++i]);
        } else if (more && strcmp(argv[i], "--tokens") == 0) {
            opt.tokens = atoll(argv[++i]);
        } else if (more && strcmp(argv[i], "--heads") == 0) {
            opt.heads = atoll(argv[++i]);
        } else {
            fprintf(stderr, "bench_cuda_ops [--csv FILE] [--repeats R] [--tokens S] [--heads H] [--variant NAME]\n");
            return 2;
        }
    }
    if (opt.repeats < 1 || opt.heads < 1 || opt.heads > 64) {
        fprintf(stderr, "--repeats wants a positive number, --heads 1 to 64\n");
        return 2;
    }
    gpu_open();
    FILE *csv = opt.csv != NULL ? fopen(opt.csv, "w") : NULL;
    if (opt.csv != NULL && csv == NULL) {
        perror(opt.csv);
        return 1;
    }
    if (csv != NULL) {
        fprintf(csv, "card,driver,tokens,heads,policy,part,ms,of_dense\n");
    }
    if (opt.tokens > 0) {
        bench_tokens(&opt, csv, opt.tokens, opt.heads);
    } else {
        bench_tokens(&opt, csv, 32760, 12);
        bench_tokens(&opt, csv, 75600, 40);
    }
    if (csv != NULL) {
        fclose(csv);
    }
    return 0;
}
