/* bench_scores.c - what a refresh of masks costs, for every score, as a share of a dense attention.
 *
 *   bench_scores [--variant NAME] [--dtype f32|f16|bf16] [--keys S] [--head-dim D] [--heads H] [--rounds R]
 *                [--only NAME] [--csv FILE]
 *
 * One head of S tokens, one thread, in a tensor [S][H][D] as models have it. Each round measures a dense attention of
 * 256 queries, then the scores alone and the whole refresh (scores and selection) of every policy; exact scores from
 * 512 queries. All are scaled to S queries; medians over rounds are printed, ratios round by round. Time is processor
 * time, so that other programs cost little more than their share of the caches.
 */
#include "provenance.h"
#include "timing.h"

#include "attn/attn.h"
#include "attn/refresh.h"
#include "base/half.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_ROUNDS = 51, DENSE_QUERIES = 256, EXACT_QUERIES = 512 };

static const struct contender {
    const char *name, *policy;
    bool exact, known_lse;
} contenders[] = {
    {"fgdfs", "fgdfs,density=0.2", false, false},
    {"dfs", "dfs,density=0.2", false, false},
    {"dfs-second-order", "dfs,density=0.2,score=second_order", false, false},
    {"dfs-max", "dfs,density=0.2,score=max", false, false},
    {"subblock", "subblock", false, false},
    {"sol", "sol", false, false},
    {"fg-cdf", "fg-cdf", false, false},
    {"mass-128x1", "dfs,density=0.2,tile_n=1", false, false},
    {"fgdfs-m128-sq16", "fgdfs,score=deviation,density=0.2,block_m=128,sub_q=16,select=topk", false, false},
    {"fgdfs-m64-sq16", "fgdfs,score=deviation,density=0.2,block_m=64,sub_q=16,select=topk", false, false},
    {"fgdfs-m64-sq8", "fgdfs,score=deviation,density=0.2,block_m=64,sub_q=8,select=topk", false, false},
    {"exact-max", "fg-cached", true, false},
    {"exact-max-known-l", "fg-cached", true, true},
    {"exact-mass-known-l", "fg-cached,score=exact_mass", true, true},
};
enum { CONTENDERS = sizeof contenders / sizeof contenders[0] };

typedef struct options {
    const char *variant, *csv, *only;
    fga_dtype dtype;
    int keys, head_dim, heads, rounds;
} options;

typedef struct bench {
    options opt;
    fga_context *ctx;
    void *q, *k, *v, *o;
    float *lse;
} bench;

/* One policy, planned. */
typedef struct entry {
    const struct contender *who;
    fga_refresh_plan plan;
    fga_attend_args args;
    fga_mask *mask;
    fga_head_setting setting;
    void *workspace;
    double scale; /* to all queries */
    double score[MAX_ROUNDS], refresh[MAX_ROUNDS], score_ratio[MAX_ROUNDS], refresh_ratio[MAX_ROUNDS];
} entry;

static void stop(const bench *b, const char *what)
{
    fprintf(stderr, "bench_scores: %s: %s\n", what, b->ctx != NULL ? fga_last_error(b->ctx) : "no context");
    exit(1);
}

static void *allocate(size_t bytes)
{
    void *p = aligned_alloc(64, (bytes + 63) / 64 * 64);
    if (p == NULL) {
        fprintf(stderr, "bench_scores: no memory for %zu bytes\n", bytes);
        exit(1);
    }
    return p;
}

/* Neighbouring tokens are alike, as in videos: a wave per channel with some noise. */
static void *make_tensor(const options *opt, uint64_t seed)
{
    size_t row = (size_t)opt->heads * (size_t)opt->head_dim, bytes = fga_dtype_size(opt->dtype);
    char *x = allocate((size_t)opt->keys * row * bytes);
    float values[256];
    memset(x, 0, (size_t)opt->keys * row * bytes);
    for (int t = 0; t < opt->keys; t++) {
        for (int c = 0; c < opt->head_dim; c++) {
            seed = seed * 6364136223846793005u + 1442695040888963407u;
            int64_t wave = (int64_t)t * (c % 16 + 1) % 4096 - 2048;
            values[c] = (float)wave * 0x1p-10f + (float)(int32_t)(seed >> 32) * 0x1p-31f;
        }
        fga_from_f32(x + (size_t)t * row * bytes, opt->dtype, values, opt->head_dim);
    }
    return x;
}

static fga_tensor view(const options *opt, void *data, int64_t tokens)
{
    fga_tensor t = fga_tensor_bshd(data, opt->dtype, 1, tokens, opt->heads, opt->head_dim);
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

static void plan_dense(const bench *b, int64_t queries, fga_attend_plan **plan, void **workspace)
{
    fga_attend_desc d = fga_attend_desc_default();
    d.batch = d.query_heads = d.kv_heads = 1;
    d.query_len = queries;
    d.key_len = b->opt.keys;
    d.head_dim = b->opt.head_dim;
    d.dtype = b->opt.dtype;
    if (fga_attend_plan_create(b->ctx, &d, plan) != FGA_OK) {
        stop(b, "dense attention");
    }
    *workspace = allocate(fga_attend_plan_workspace(*plan) + 64);
}

static void plan_entry(const bench *b, const struct contender *who, entry *e)
{
    const options *opt = &b->opt;
    int64_t queries = who->exact && opt->keys > EXACT_QUERIES ? EXACT_QUERIES : opt->keys;
    fga_policy policy;
    fga_predict_desc d = fga_predict_desc_default();
    d.head_dim = opt->head_dim;
    d.dtype = opt->dtype;
    d.query = fga_sequence_video(queries);
    d.key = fga_sequence_video(opt->keys);
    e->who = who;
    e->args = views(b, queries);
    e->scale = (double)opt->keys / (double)queries;
    if (fga_policy_parse(b->ctx, who->policy, &policy) != FGA_OK ||
        fga_refresh_init(b->ctx, &policy, &d, (const int64_t[3]){0}, false, &e->plan) != FGA_OK) {
        stop(b, who->name);
    }
    e->setting = (fga_head_setting){policy.phases > 0 ? policy.phase[0].density : 1, policy.tau, policy.threshold,
                                    policy.neighbours, false};
    fga_mask_desc m = fga_mask_desc_default();
    m.block_m = policy.block_m;
    m.tile_n = policy.tile_n;
    m.query = d.query;
    m.key = d.key;
    if (fga_mask_create(b->ctx, &m, FGA_MASK_BITMAP, &e->mask) != FGA_OK) {
        stop(b, who->name);
    }
    e->workspace = allocate(e->plan.workspace_bytes + 64);
}

static double time_dense(const bench *b, fga_attend_plan *plan, int64_t queries, void *workspace)
{
    fga_attend_args a = views(b, queries);
    a.lse = b->lse;
    double start = processor_seconds();
    if (fga_attend_run(plan, &a, workspace, NULL) != FGA_OK) {
        stop(b, "dense attention");
    }
    return (processor_seconds() - start) * b->opt.keys / (double)queries;
}

static double time_score(const bench *b, const entry *e)
{
    fga_score_call call = {.q = &e->args.q,
                           .k = &e->args.k,
                           .v = &e->args.v,
                           .lse = e->who->known_lse ? b->lse : NULL,
                           .workspace = e->workspace};
    double start = processor_seconds();
    if (fga_scorer_run(&e->plan.scorer, &call) != FGA_OK) {
        stop(b, e->who->name);
    }
    return (processor_seconds() - start) * e->scale;
}

static double time_refresh(const bench *b, const entry *e)
{
    fga_refresh_call call = {.args = &e->args, .heads = &e->setting, .workspace = e->workspace, .mask = e->mask};
    double start = processor_seconds();
    if (fga_refresh_run(&e->plan, &call) != FGA_OK) {
        stop(b, e->who->name);
    }
    return (processor_seconds() - start) * e->scale;
}

static void report(const bench *b, entry *entries, int count, double *dense, FILE *csv)
{
    int rounds = b->opt.rounds;
    double whole = median(dense, rounds);
    printf("dense attention of one head: %.2f s, %.1f GFLOP/s\n", whole,
           4e-9 * b->opt.keys * (double)b->opt.keys * b->opt.head_dim / whole);
    printf("%-20s %10s %10s %12s %12s\n", "policy", "score s", "refresh s", "score/dense", "refresh/dense");
    for (int i = 0; i < count; i++) {
        entry *e = &entries[i];
        double score = median(e->score, rounds), refresh = median(e->refresh, rounds);
        double score_ratio = median(e->score_ratio, rounds), refresh_ratio = median(e->refresh_ratio, rounds);
        printf("%-20s %10.4f ", e->who->name, score);
        if (e->who->known_lse) {
            printf("%10s %10.2f %% %12s\n", "", 100 * score_ratio, "");
        } else {
            printf("%10.4f %10.2f %% %10.2f %%\n", refresh, 100 * score_ratio, 100 * refresh_ratio);
        }
        if (csv != NULL) {
            fprintf(csv, "%s,\"%s\",%s,%d,%d,%.4f,%.5f,%.5f,%.5f,%.5f\n", e->who->name, e->who->policy,
                    fga_dtype_name(b->opt.dtype), b->opt.keys, b->opt.head_dim, whole, score,
                    e->who->known_lse ? 0 : refresh, score_ratio, e->who->known_lse ? 0 : refresh_ratio);
        }
    }
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
        } else if (strcmp(name, "--csv") == 0) {
            opt->csv = value;
        } else if (strcmp(name, "--only") == 0) {
            opt->only = value;
        } else if (strcmp(name, "--dtype") == 0) {
            opt->dtype = strcmp(value, "f32") == 0 ? FGA_F32 : strcmp(value, "f16") == 0 ? FGA_F16 : FGA_BF16;
            known = strcmp(value, fga_dtype_name(opt->dtype)) == 0;
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
    return argc % 2 == 1 && opt->head_dim % 8 == 0;
}

static FILE *open_csv(const options *opt, int argc, char **argv)
{
    FILE *csv = fopen(opt->csv, "w");
    if (csv == NULL) {
        perror(opt->csv);
        exit(1);
    }
    fputs("# one thread\n", csv);
    print_provenance(csv, argc, argv);
    fputs("name,policy,dtype,keys,head_dim,dense_s,score_s,refresh_s,score_of_dense,refresh_of_dense\n", csv);
    return csv;
}

int main(int argc, char **argv)
{
    bench b = {.opt = {.dtype = FGA_F32, .keys = 32760, .head_dim = 128, .heads = 12, .rounds = 5}};
    options *opt = &b.opt;
    if (!parse(argc, argv, opt)) {
        fprintf(stderr, "usage: bench_scores [--variant NAME] [--dtype f32|f16|bf16] [--keys S] [--head-dim D]\n"
                        "                    [--heads H] [--rounds R] [--only NAME] [--csv FILE]\n");
        return 2;
    }
    fga_context_options c = fga_context_options_default();
    c.threads = 1;
    c.variant = opt->variant;
    if (fga_context_create(&c, &b.ctx) != FGA_OK) {
        stop(&b, "context");
    }
    b.q = make_tensor(opt, 1);
    b.k = make_tensor(opt, 2);
    b.v = make_tensor(opt, 3);
    b.o = make_tensor(opt, 4);
    b.lse = allocate((size_t)opt->keys * sizeof(float));
    static entry entries[CONTENDERS];
    static double dense[MAX_ROUNDS];
    int count = 0;
    for (int i = 0; i < CONTENDERS; i++) {
        if (opt->only == NULL || strcmp(opt->only, contenders[i].name) == 0) {
            plan_entry(&b, &contenders[i], &entries[count++]);
        }
    }
    fga_attend_plan *plan, *lse_plan;
    void *workspace, *lse_workspace;
    int64_t exact = opt->keys < EXACT_QUERIES ? opt->keys : EXACT_QUERIES;
    plan_dense(&b, DENSE_QUERIES, &plan, &workspace);
    plan_dense(&b, exact, &lse_plan, &lse_workspace);
    time_dense(&b, lse_plan, exact, lse_workspace); /* fills L */
    for (int r = 0; r < opt->rounds; r++) {
        for (int i = 0; i < count; i++) {
            entry *e = &entries[i];
            double before = time_dense(&b, plan, DENSE_QUERIES, workspace);
            e->score[r] = time_score(&b, e);
            e->refresh[r] = e->who->known_lse ? 0 : time_refresh(&b, e);
            dense[r] = 0.5 * (before + time_dense(&b, plan, DENSE_QUERIES, workspace));
            e->score_ratio[r] = e->score[r] / dense[r];
            e->refresh_ratio[r] = e->refresh[r] / dense[r];
        }
    }
    FILE *csv = opt->csv != NULL ? open_csv(opt, argc, argv) : NULL;
    report(&b, entries, count, dense, csv);
    for (int i = 0; i < count; i++) {
        fga_mask_release(&entries[i].mask);
        free(entries[i].workspace);
    }
    fga_attend_plan_destroy(&plan);
    fga_attend_plan_destroy(&lse_plan);
    void *all[] = {b.q, b.k, b.v, b.o, b.lse, workspace, lse_workspace};
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) {
        free(all[i]);
    }
    fga_context_destroy(&b.ctx);
    return csv != NULL && fclose(csv) != 0 ? 1 : 0;
}
