/* bench_measure.c - what measuring one attention call costs, as a share of a dense attention.
 *
 *   bench_measure [--variant NAME] [--keys S] [--head-dim D] [--heads H] [--rounds R] [--density D] [--fraction F]
 *
 * One head of S tokens, one thread, in a tensor [S][H][D] as models have it. Each round times a dense attention of some
 * of its queries before and after, and between them for every mask: `measure`, what a session does after a sparse call
 * (exact attention of the samples, recall, output error); and `look`, what it does before one, to see whether the mask
 * still serves (the samples attend on their own). All are scaled to S queries; medians over rounds are printed. Time is
 * processor time. The last columns are the figures and the standard error that the samples leave them.
 */
#include "timing.h"

#include "attn/measure.h"
#include "attn/refresh.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_ROUNDS = 51, DENSE_QUERIES = 1024 };

static const struct contender {
    const char *name, *policy;
} contenders[] = {
    {"dfs 128x128", "dfs"},
    {"dfs 64x64", "dfs,block_m=64,tile_n=64"},
    {"fgdfs 128x1", "fgdfs,score=deviation,block_m=128,sub_q=16,select=topk"},
    {"fgdfs 64x1", "fgdfs,score=deviation,block_m=64,sub_q=16,select=topk"},
};
enum { CONTENDERS = sizeof contenders / sizeof contenders[0] };

typedef struct options {
    const char *variant;
    int keys, head_dim, heads, rounds;
    double density, fraction;
} options;

typedef struct bench {
    options opt;
    fga_context *ctx;
    float *q, *k, *v, *o;
} bench;

/* One policy: planned, refreshed and attended with. */
typedef struct entry {
    const struct contender *who;
    fga_attend_args args;
    fga_remainder remainder;
    fga_mask *mask;
    fga_meter meter;
    float *o, *lse;
    void *sums, *workspace;
    fga_head_quality quality;
    double measure[MAX_ROUNDS], look[MAX_ROUNDS];
} entry;

static void need(const bench *b, fga_status status, const char *what)
{
    if (status != FGA_OK) {
        fprintf(stderr, "bench_measure: %s: %s\n", what, b->ctx != NULL ? fga_last_error(b->ctx) : "no context");
        exit(1);
    }
}

static void *allocate(size_t bytes)
{
    void *p = aligned_alloc(64, (bytes + 127) / 64 * 64);
    if (p == NULL) {
        fprintf(stderr, "bench_measure: no memory for %zu bytes\n", bytes);
        exit(1);
    }
    memset(p, 0, (bytes + 127) / 64 * 64);
    return p;
}

/* Neighbouring tokens are alike, as in videos: a wave per channel with some noise. */
static float *make_tensor(const options *opt, uint64_t seed)
{
    int row = opt->heads * opt->head_dim;
    float *x = allocate((size_t)opt->keys * (size_t)row * sizeof(float));
    for (int t = 0; t < opt->keys; t++) {
        for (int c = 0; c < opt->head_dim; c++) {
            seed = seed * 6364136223846793005u + 1442695040888963407u;
            int64_t wave = (int64_t)t * (c % 16 + 1) % 4096 - 2048;
            x[(size_t)t * (size_t)row + (size_t)c] = (float)wave * 0x1p-11f + (float)(int32_t)(seed >> 32) * 0x1p-31f;
        }
    }
    return x;
}

static fga_tensor view(const options *opt, float *data, int64_t tokens)
{
    fga_tensor t = fga_tensor_bshd(data, FGA_F32, 1, tokens, opt->heads, opt->head_dim);
    t.extent[1] = 1;
    return t;
}

static fga_attend_args views(const bench *b, int64_t queries)
{
    fga_attend_args a = fga_attend_args_default();
    a.q = view(&b->opt, b->q, queries);
    a.k = view(&b->opt, b->k, b->opt.keys);
    a.v = view(&b->opt, b->v, b->opt.keys);
    a.o = view(&b->opt, b->o, queries);
    return a;
}

static fga_attend_desc describe(const bench *b, int64_t queries)
{
    fga_attend_desc d = fga_attend_desc_default();
    d.batch = d.query_heads = d.kv_heads = 1;
    d.query_len = queries;
    d.key_len = b->opt.keys;
    d.head_dim = b->opt.head_dim;
    return d;
}

static void attend(const bench *b, const fga_attend_desc *d, const fga_attend_args *args)
{
    fga_attend_plan *plan;
    need(b, fga_attend_plan_create(b->ctx, d, &plan), "attention");
    void *workspace = allocate(fga_attend_plan_workspace(plan));
    need(b, fga_attend_run(plan, args, workspace, NULL), "attention");
    free(workspace);
    fga_attend_plan_destroy(&plan);
}

/* The mask that the policy makes, and attention under it. */
static void prepare(const bench *b, const struct contender *who, entry *e)
{
    fga_policy p;
    fga_attend_desc d = describe(b, b->opt.keys);
    fga_sequence all = fga_sequence_video(b->opt.keys);
    need(b, fga_policy_parse(b->ctx, who->policy, &p), who->name);
    d.block_m = p.block_m;
    d.tile_n = p.tile_n;
    e->who = who;
    e->args = views(b, b->opt.keys);
    e->o = make_tensor(&b->opt, 4);
    e->lse = allocate((size_t)b->opt.keys * sizeof(float));
    e->args.o.data = e->o;
    e->args.lse = p.rest == FGA_REST_REMAINDER ? NULL : e->lse;
    fga_predict_desc predict = fga_predict_desc_default();
    predict.head_dim = d.head_dim;
    predict.query = predict.key = all;
    fga_refresh_plan refresh;
    need(b, fga_refresh_init(b->ctx, &p, &predict, (const int64_t[3]){0}, false, &refresh), who->name);
    fga_mask_desc m = fga_mask_desc_default();
    m.block_m = p.block_m;
    m.tile_n = p.tile_n;
    m.query = m.key = all;
    need(b, fga_mask_create(b->ctx, &m, FGA_MASK_BITMAP, &e->mask), who->name);
    void *workspace = allocate(refresh.workspace_bytes);
    fga_head_setting setting = {b->opt.density, p.tau, p.threshold, p.neighbours, false};
    fga_refresh_call call = {.args = &e->args, .heads = &setting, .workspace = workspace, .mask = e->mask};
    need(b, fga_refresh_run(&refresh, &call), who->name);
    free(workspace);
    if (p.rest == FGA_REST_REMAINDER) {
        size_t bytes;
        need(b, fga_remainder_place(b->ctx, &d, p.group, NULL, &bytes, NULL), who->name);
        e->sums = allocate(bytes);
        need(b, fga_remainder_place(b->ctx, &d, p.group, e->sums, &bytes, &e->remainder), who->name);
        need(b, fga_remainder_fill(b->ctx, &d, &e->args, &all, &e->remainder), who->name);
        e->args.remainder = &e->remainder;
    }
    e->args.mask = e->mask;
    attend(b, &d, &e->args);
    need(b, fga_meter_init(b->ctx, &d, &all, b->opt.fraction, &e->meter), who->name);
    e->workspace = allocate(e->meter.workspace_bytes);
}

static double time_dense(const bench *b)
{
    int64_t queries = b->opt.keys < DENSE_QUERIES ? b->opt.keys : DENSE_QUERIES;
    fga_attend_desc d = describe(b, queries);
    fga_attend_args a = views(b, queries);
    double start = processor_seconds();
    attend(b, &d, &a);
    return (processor_seconds() - start) * b->opt.keys / (double)queries;
}

static double time_meter(const bench *b, entry *e, bool attended)
{
    fga_judge_call call = {.args = &e->args,
                           .attended = attended,
                           .recall = true,
                           .error = true,
                           .heads = &e->quality,
                           .key = &e->mask->desc.key,
                           .workspace = e->workspace};
    double start = processor_seconds();
    need(b, fga_meter_judge(&e->meter, &call), e->who->name);
    return processor_seconds() - start;
}

static bool parse(int argc, char **argv, options *opt)
{
    for (int i = 1; i + 1 < argc; i += 2) {
        const char *name = argv[i], *value = argv[i + 1];
        struct {
            const char *name;
            int *place, least, most;
        } numbers[] = {{"--keys", &opt->keys, 256, 1 << 20},
                       {"--head-dim", &opt->head_dim, 8, 256},
                       {"--heads", &opt->heads, 1, 64},
                       {"--rounds", &opt->rounds, 1, MAX_ROUNDS}};
        bool known = true;
        if (strcmp(name, "--variant") == 0) {
            opt->variant = value;
        } else if (strcmp(name, "--density") == 0) {
            opt->density = atof(value);
        } else if (strcmp(name, "--fraction") == 0) {
            opt->fraction = atof(value);
        } else {
            known = false;
            for (int n = 0; n < 4; n++) {
                if (strcmp(name, numbers[n].name) == 0) {
                    *numbers[n].place = atoi(value);
                    known = *numbers[n].place >= numbers[n].least && *numbers[n].place <= numbers[n].most;
                }
            }
        }
        if (!known) {
            return false;
        }
    }
    return argc % 2 == 1 && opt->head_dim % 8 == 0 && opt->density > 0 && opt->density <= 1 && opt->fraction > 0;
}

static void report(const options *opt, entry *entries, double *dense)
{
    double whole = median(dense, opt->rounds);
    printf("dense attention of one head of %d tokens: %.3f s, %.1f GFLOP/s; %lld queries measured\n", opt->keys, whole,
           4e-9 * opt->keys * (double)opt->keys * opt->head_dim / whole, (long long)entries[0].meter.samples);
    printf("%-12s %9s %9s  %-18s %s\n", "mask", "measure", "look", "recall", "output error");
    for (int i = 0; i < CONTENDERS; i++) {
        entry *e = &entries[i];
        double error = sqrt(e->quality.error_squared);
        printf("%-12s %7.2f %% %7.2f %%  %.4f +- %.4f   %.4f +- %.4f\n", e->who->name,
               100 * median(e->measure, opt->rounds), 100 * median(e->look, opt->rounds), e->quality.recall,
               e->quality.recall_off.deviation, error, error > 0 ? e->quality.error_off.deviation / (2 * error) : 0);
    }
}

int main(int argc, char **argv)
{
    bench b = {.opt = {.keys = 8192, .head_dim = 128, .heads = 12, .rounds = 9, .density = 0.2, .fraction = 0.02}};
    const options *opt = &b.opt;
    if (!parse(argc, argv, &b.opt)) {
        fprintf(stderr, "usage: bench_measure [--variant NAME] [--keys S] [--head-dim D] [--heads H] [--rounds R]\n"
                        "                     [--density D] [--fraction F]\n");
        return 2;
    }
    fga_context_options c = fga_context_options_default();
    c.threads = 1;
    c.variant = opt->variant;
    need(&b, fga_context_create(&c, &b.ctx), "context");
    b.q = make_tensor(opt, 1);
    b.k = make_tensor(opt, 2);
    b.v = make_tensor(opt, 3);
    b.o = make_tensor(opt, 4);
    static entry entries[CONTENDERS];
    static double dense[MAX_ROUNDS];
    for (int i = 0; i < CONTENDERS; i++) {
        prepare(&b, &contenders[i], &entries[i]);
    }
    for (int r = 0; r < opt->rounds; r++) {
        double before = time_dense(&b);
        for (int i = 0; i < CONTENDERS; i++) {
            entries[i].look[r] = time_meter(&b, &entries[i], false);
            entries[i].measure[r] = time_meter(&b, &entries[i], true);
        }
        dense[r] = 0.5 * (before + time_dense(&b));
        for (int i = 0; i < CONTENDERS; i++) {
            entries[i].look[r] /= dense[r];
            entries[i].measure[r] /= dense[r];
        }
    }
    report(opt, entries, dense);
    for (int i = 0; i < CONTENDERS; i++) {
        fga_mask_release(&entries[i].mask);
        free(entries[i].o);
        free(entries[i].lse);
        free(entries[i].sums);
        free(entries[i].workspace);
    }
    float *all[] = {b.q, b.k, b.v, b.o};
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) {
        free(all[i]);
    }
    fga_context_destroy(&b.ctx);
    return 0;
}
