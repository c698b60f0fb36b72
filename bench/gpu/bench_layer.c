/* bench_layer.c - one attention layer over a whole run, as a session on a CUDA device computes it.
 *
 *   bench_cuda_layer [--csv FILE] [--tokens S] [--heads H] [--steps N] [--policy TEXT]...
 *
 * Every step of the policy's timetable is attended once, in order, and timed by events: dense steps, refreshes and
 * reuses. Printed: medians of each kind, of reuses from one refresh to the next; the run's time against one of dense
 * steps only; and that time's share of what the policy's cost allows, which is dense time times the pairs that are
 * computed, kept ones and summaries, refreshes for nothing (Amdahl's ceiling). Default: the layer of a 14B model at
 * 1280x720x81, 75,600 tokens, 40 heads of 128 channels, bf16, 50 steps. Inputs are random and the same at every step.
 * Moving tokens into the policy's order is once a run, not a layer's.
 */
#include "gpu.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { HEAD_DIM = 128, MAX_POLICIES = 8, MAX_STEPS = 200 };

typedef struct options {
    const char *csv, *policies[MAX_POLICIES];
    int count, steps;
    int64_t tokens, heads;
} options;

typedef struct step {
    fga_step_kind kind;
    double ms, cost; /* cost: computed pairs over all */
} step;

typedef struct bench {
    const options *opt;
    FILE *csv;
    fga_context *ctx;
    fga_session *session;
    fga_attend_args args;
    void *workspace;
    int now;
    fga_step_kind kind;
    step steps[MAX_STEPS];
} bench;

static void run_step(void *arg)
{
    bench *b = arg;
    gpu_need(b->ctx, fga_session_attend(b->session, b->now, b->opt->steps, 0, 0, &b->args, b->workspace, &b->kind));
}

/* False: this device has no kernels for it. */
static bool open_session(bench *b, const char *policy)
{
    fga_session_desc d = fga_session_desc_default();
    gpu_need(b->ctx, fga_policy_parse(b->ctx, policy, &d.policy));
    d.policy.dense_layers = 0; /* the one layer stands for the others */
    d.layers = d.branches = 1;
    d.batch = 1;
    d.query_heads = d.kv_heads = b->opt->heads;
    d.head_dim = HEAD_DIM;
    d.dtype = FGA_BF16;
    d.sequence = fga_sequence_video(b->opt->tokens);
    d.measure_fraction = 0;
    if (fga_session_create(b->ctx, &d, &b->session) != FGA_OK) {
        printf("%s: not measured: %s\n", policy, fga_last_error(b->ctx));
        return false;
    }
    b->workspace = gpu_alloc(fga_session_workspace(b->session));
    return true;
}

static int by_value(const void *a, const void *b)
{
    const double *x = a, *y = b;
    return (*x > *y) - (*x < *y);
}

/* The median of the steps of a kind in [begin, end); NaN: there are none. */
static double median(const bench *b, fga_step_kind kind, int begin, int end)
{
    double ms[MAX_STEPS];
    int count = 0;
    for (int i = begin; i < end; i++) {
        if (b->steps[i].kind == kind) {
            ms[count++] = b->steps[i].ms;
        }
    }
    qsort(ms, (size_t)count, sizeof *ms, by_value);
    return count > 0 ? ms[count / 2] : NAN;
}

static void write_steps(const bench *b, const char *policy)
{
    static const char *const kinds[] = {
        [FGA_STEP_DENSE] = "dense", [FGA_STEP_REFRESH] = "refresh", [FGA_STEP_REUSE] = "reuse"};
    for (int i = 0; b->csv != NULL && i < b->opt->steps; i++) {
        fprintf(b->csv, "%s,%d,%d,%d,\"%s\",%d,%s,%.4f,%.4f\n", gpu_name(), gpu_driver_version(), (int)b->opt->tokens,
                (int)b->opt->heads, policy, i, kinds[b->steps[i].kind], b->steps[i].ms, b->steps[i].cost);
    }
}

static void report(const bench *b, const char *policy)
{
    int steps = b->opt->steps, refresh;
    double dense = median(b, FGA_STEP_DENSE, 0, steps), total = 0, ceiling = 0;
    for (int i = 0; i < steps; i++) {
        total += b->steps[i].ms;
        ceiling += b->steps[i].cost * dense;
    }
    if (isnan(dense)) {
        printf("%s: no dense step in %d to compare with\n", policy, steps);
        return;
    }
    printf("%s: dense %.3f ms\n", policy, dense);
    for (int begin = 0; begin < steps; begin = refresh) { /* from one refresh to the next */
        for (refresh = begin + 1; refresh < steps && b->steps[refresh].kind != FGA_STEP_REFRESH;) {
            refresh++;
        }
        double reuse = median(b, FGA_STEP_REUSE, begin, refresh), new_masks = b->steps[begin].ms - reuse;
        if (b->steps[begin].kind == FGA_STEP_REFRESH && !isnan(reuse)) {
            printf("  from step %2d: cost %.3f, reuse %.3f ms, %.2fx dense; new masks %.3f ms, %.2f %% of dense\n",
                   begin, b->steps[begin].cost, reuse, dense / reuse, new_masks, 100 * new_masks / dense);
        }
    }
    double refreshes = median(b, FGA_STEP_REFRESH, 0, steps);
    if (!isnan(refreshes)) {
        printf("  steps that make masks: %.3f ms, %.2fx dense\n", refreshes, dense / refreshes);
    }
    printf("  %d steps: %.1f ms, %.3fx of all dense, %.3f of the ceiling %.3fx\n", steps, total, steps * dense / total,
           ceiling / total, steps * dense / ceiling);
    fflush(stdout);
}

static void bench_policy(bench *b, const char *policy)
{
    double pairs = (double)b->opt->heads * (double)b->opt->tokens * (double)b->opt->tokens, before = 0;
    if (!open_session(b, policy)) {
        return;
    }
    for (b->now = 0; b->now < b->opt->steps; b->now++) {
        double ms = gpu_time(run_step, b, 0, 1).best;
        fga_session_report r = fga_session_get_report(b->session);
        double done = r.pairs_kept + r.sparse_summaries;
        b->steps[b->now] = (step){b->kind, ms, (done - before) / pairs};
        before = done;
    }
    write_steps(b, policy);
    report(b, policy);
    gpu_free(b->workspace);
    fga_session_destroy(&b->session);
}

static bool parse(int argc, char **argv, options *o)
{
    for (int i = 1; i < argc; i++) {
        bool more = i + 1 < argc;
        if (more && strcmp(argv[i], "--csv") == 0) {
            o->csv = argv[++i];
        } else if (more && strcmp(argv[i], "--tokens") == 0) {
            o->tokens = atoll(argv[++i]);
        } else if (more && strcmp(argv[i], "--heads") == 0) {
            o->heads = atoll(argv[++i]);
        } else if (more && strcmp(argv[i], "--steps") == 0) {
            o->steps = atoi(argv[++i]);
        } else if (more && strcmp(argv[i], "--policy") == 0 && o->count < MAX_POLICIES) {
            o->policies[o->count++] = argv[++i];
        } else {
            return false;
        }
    }
    return o->tokens > 0 && o->heads > 0 && o->steps > 0 && o->steps <= MAX_STEPS;
}

int main(int argc, char **argv)
{
    options opt = {.tokens = 75600, .heads = 40, .steps = 50};
    if (!parse(argc, argv, &opt)) {
        fprintf(stderr,
                "bench_cuda_layer [--csv FILE] [--tokens S] [--heads H] [--steps N (at most %d)] [--policy TEXT]...\n",
                MAX_STEPS);
        return 2;
    }
    if (opt.count == 0) {
        opt.policies[opt.count++] = "dfs";
        opt.policies[opt.count++] = "fgdfs,block_m=128,sub_q=16,score=deviation";
        opt.policies[opt.count++] = "fgdfs,block_m=128,sub_q=16,score=deviation,select=topk";
        opt.policies[opt.count++] = "fgdfs,block_m=128,sub_q=16,score=deviation,select=topk,rest=drop";
    }
    gpu_open();
    bench b = {.opt = &opt, .ctx = gpu_context(NULL), .args = fga_attend_args_default()};
    b.csv = opt.csv != NULL ? fopen(opt.csv, "w") : NULL;
    if (opt.csv != NULL && b.csv == NULL) {
        perror(opt.csv);
        return 1;
    }
    if (b.csv != NULL) {
        fprintf(b.csv, "card,driver,tokens,heads,policy,step,kind,ms,cost\n");
    }
    fga_context_set_stream(b.ctx, gpu_stream());
    fga_tensor *views[] = {&b.args.q, &b.args.k, &b.args.v, &b.args.o};
    for (size_t i = 0; i < 4; i++) {
        *views[i] = gpu_random_rows(opt.tokens, opt.heads, HEAD_DIM, i + 1);
    }
    printf("%s, S=%d, %d heads of %d, bf16\n", gpu_name(), (int)opt.tokens, (int)opt.heads, HEAD_DIM);
    for (int i = 0; i < opt.count; i++) {
        bench_policy(&b, opt.policies[i]);
    }
    for (size_t i = 0; i < 4; i++) {
        gpu_free(views[i]->data);
    }
    if (b.csv != NULL && fclose(b.csv) != 0) {
        perror(opt.csv);
        return 1;
    }
    fga_context_destroy(&b.ctx);
    return 0;
}
