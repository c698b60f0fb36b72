/* bench_ablation.c - what each ingredient of fgdfs is worth: output error at equal cost on what attention reads.
 *
 *   bench_ablation --csv FILE [--capture FILE]... [--model DIR] [--prompts FILE] [--count N] [--takes N] [--size WxH]
 *                  [--frames N] [--steps N] [--costs 0.3,0.2,0.1] [--measure F] [--only SECTION]
 *
 * The queries, keys and values of all layers, at a few steps of dense generations of the first N prompts (2), or those
 * of captures, are kept in memory. Every variant, a policy as text, then gets fresh masks on each of them, at the
 * density whose realised cost is the one wanted. Rows are appended; those that are there are skipped.
 * bench/report_ablation.py makes docs/ablation.md of them.
 */
#include "provenance.h"
#include "takes.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_COSTS = 8, MAX_CAPTURES = 16, MAX_LINE = 1024, MAX_STEPS = 1000, MAX_TAKES = 1 << 14 };

/* `policy` is what a section varies; the first of each section is what it starts from. costs: NULL = all asked for. */
static const struct variant {
    const char *section, *name, *policy;
    double density; /* 0: at equal cost; else at this density */
} variants[] = {
    {"method", "fgdfs", "fgdfs", 0},
    {"method", "dfs", "dfs", 0},
    {"method", "dfs, raster", "dfs,order=raster", 0},
    {"method", "block-topk", "block-topk", 0},
    {"method", "subblock", "subblock", 0},
    {"method", "sol", "sol", 0},
    {"method", "fg-cdf", "fg-cdf", 0},
    {"method", "fg-cached", "fg-cached", 0},
    {"method", "best possible 128x128", "dfs,score=exact_mass", 0},

    {"ladder", "128x128 tiles, mass, drop (dfs)", "dfs", 0},
    {"ladder", "128x1, mass, drop", "dfs,tile_n=1,sub_k=1", 0},
    {"ladder", "128x1, mass, remainder", "dfs,tile_n=1,sub_k=1,rest=remainder", 0},
    {"ladder", "64x1, s_q 8, the same", "fgdfs,block_m=64,sub_q=8,select=topk,order=hilbert", 0},
    {"ladder", "16x1, s_q 4, the same", "fgdfs,select=topk,order=hilbert", 0},
    {"ladder", "16x1, one budget for all heads", "fgdfs,order=hilbert", 0},
    {"ladder", "16x1, clipped Hilbert order (fgdfs)", "fgdfs", 0},

    {"block M and s_q", "16, 4", "fgdfs", 0},
    {"block M and s_q", "16, 2", "fgdfs,sub_q=2", 0},
    {"block M and s_q", "16, 8", "fgdfs,sub_q=8", 0},
    {"block M and s_q", "32, 4", "fgdfs,block_m=32", 0},
    {"block M and s_q", "32, 8", "fgdfs,block_m=32,sub_q=8", 0},
    {"block M and s_q", "64, 8", "fgdfs,block_m=64,sub_q=8", 0},
    {"block M and s_q", "64, 16", "fgdfs,block_m=64,sub_q=16", 0},
    {"block M and s_q", "128, 16", "fgdfs,block_m=128,sub_q=16", 0},

    {"tile N", "1", "fgdfs", 0},
    {"tile N", "2", "fgdfs,tile_n=2", 0},
    {"tile N", "4", "fgdfs,tile_n=4", 0},
    {"tile N", "8", "fgdfs,tile_n=8", 0},
    {"tile N", "16", "fgdfs,tile_n=16", 0},

    {"group g", "64", "fgdfs", 0},
    {"group g", "16", "fgdfs,group=16", 0},
    {"group g", "32", "fgdfs,group=32", 0},
    {"group g", "128", "fgdfs,group=128", 0},
    {"group g", "256", "fgdfs,group=256", 0},

    {"group g, 64 queries a block", "64", "fgdfs,block_m=64,sub_q=8,score=deviation", 0},
    {"group g, 64 queries a block", "128", "fgdfs,block_m=64,sub_q=8,score=deviation,group=128", 0},
    {"group g, 64 queries a block", "256", "fgdfs,block_m=64,sub_q=8,score=deviation,group=256", 0},

    {"score", "mass", "fgdfs", 0},
    {"score", "largest", "fgdfs,score=max", 0},
    {"score", "deviation", "fgdfs,score=deviation", 0},
    {"score", "exact mass", "fgdfs,score=exact_mass", 0},
    {"score", "exact largest", "fgdfs,score=exact_max", 0},

    {"score of 64x1", "mass", "fgdfs,block_m=64,sub_q=8", 0},
    {"score of 64x1", "largest", "fgdfs,block_m=64,sub_q=8,score=max", 0},
    {"score of 64x1", "deviation", "fgdfs,block_m=64,sub_q=8,score=deviation", 0},

    {"rest", "remainder", "fgdfs", 0},
    {"rest", "drop", "fgdfs,rest=drop", 0},

    {"order", "clipped Hilbert", "fgdfs", 0},
    {"order", "generalised Hilbert", "fgdfs,order=hilbert", 0},
    {"order", "Morton", "fgdfs,order=morton", 0},
    {"order", "boxes", "fgdfs,order=boxes", 0},
    {"order", "raster", "fgdfs,order=raster", 0},

    {"budget", "over all rows and heads", "fgdfs", 0},
    {"budget", "top-k per block", "fgdfs,select=topk", 0},

    {"best possible M = 64", "N = 64", "dfs,block_m=64,tile_n=64,score=exact_mass", 0.2},
    {"best possible M = 64", "N = 16", "dfs,block_m=64,tile_n=16,score=exact_mass", 0.2},
    {"best possible M = 64", "N = 8", "dfs,block_m=64,tile_n=8,score=exact_mass", 0.2},
    {"best possible M = 64", "N = 1", "dfs,block_m=64,tile_n=1,score=exact_mass", 0.2},

    /* At equal densities: summaries cost a kernel on tiles more than they count. */
    {"form on tiles", "deviation, g 64", "fgdfs,block_m=64,sub_q=8,score=deviation", 0.3},
    {"form on tiles", "deviation, g 64", "fgdfs,block_m=64,sub_q=8,score=deviation", 0.2},
    {"form on tiles", "deviation, g 64", "fgdfs,block_m=64,sub_q=8,score=deviation", 0.1},
    {"form on tiles", "mass, g 64", "fgdfs,block_m=64,sub_q=8", 0.3},
    {"form on tiles", "mass, g 64", "fgdfs,block_m=64,sub_q=8", 0.2},
    {"form on tiles", "mass, g 64", "fgdfs,block_m=64,sub_q=8", 0.1},
    {"form on tiles", "mass, g 256", "fgdfs,block_m=64,sub_q=8,group=256", 0.3},
    {"form on tiles", "mass, g 256", "fgdfs,block_m=64,sub_q=8,group=256", 0.2},
    {"form on tiles", "mass, g 256", "fgdfs,block_m=64,sub_q=8,group=256", 0.1},
    {"form on tiles", "mass, g 256, M 128", "fgdfs,block_m=128,sub_q=8,group=256", 0.3},
    {"form on tiles", "mass, g 256, M 128", "fgdfs,block_m=128,sub_q=8,group=256", 0.2},
    {"form on tiles", "mass, g 256, M 128", "fgdfs,block_m=128,sub_q=8,group=256", 0.1},

    /* What dfs errs on average over its three densities, and at which density fgdfs with 64 queries a block errs as
       much. */
    {"equal error", "dfs, first phase", "dfs", 0.3},
    {"equal error", "dfs, second phase", "dfs", 0.2},
    {"equal error", "dfs, third phase", "dfs", 0.1},
    {"equal error", "fgdfs, 64 queries a block", "fgdfs,block_m=64,sub_q=8,score=deviation", 0.06},
};

enum { VARIANTS = sizeof variants / sizeof variants[0] };

typedef struct options {
    const char *model, *prompts, *csv, *only, *captures[MAX_CAPTURES];
    int capture_count, count, takes, width, height, frames, steps, cost_count;
    double measure, costs[MAX_COSTS];
} options;

static int fail(const fga_context *ctx, const char *what)
{
    fprintf(stderr, "bench_ablation: %s: %s\n", what, fga_last_error(ctx));
    return 1;
}

/* ---- options ------------------------------------------------------------------------------------------ */

static bool parse_one(const char *name, const char *value, options *o)
{
    const struct {
        const char *name, **text;
        int *whole;
    } table[] = {{"--model", &o->model, NULL},   {"--prompts", &o->prompts, NULL}, {"--csv", &o->csv, NULL},
                 {"--only", &o->only, NULL},     {"--count", NULL, &o->count},     {"--takes", NULL, &o->takes},
                 {"--frames", NULL, &o->frames}, {"--steps", NULL, &o->steps}};
    for (size_t i = 0; i < sizeof table / sizeof table[0]; i++) {
        char *end = "";
        if (strcmp(name, table[i].name) != 0) {
            continue;
        }
        if (table[i].text != NULL) {
            *table[i].text = value;
        } else {
            *table[i].whole = (int)strtol(value, &end, 10);
        }
        return *end == '\0';
    }
    if (strcmp(name, "--capture") == 0 && o->capture_count < MAX_CAPTURES) {
        o->captures[o->capture_count++] = value;
        return true;
    }
    if (strcmp(name, "--size") == 0) {
        return sscanf(value, "%dx%d", &o->width, &o->height) == 2;
    }
    if (strcmp(name, "--measure") == 0) {
        return sscanf(value, "%lf", &o->measure) == 1 && o->measure > 0;
    }
    return strcmp(name, "--costs") == 0 && takes_costs(value, o->costs, MAX_COSTS, &o->cost_count);
}

static int parse(int argc, char **argv, options *o)
{
    for (int i = 1; i < argc; i += 2) {
        if (i + 1 == argc || !parse_one(argv[i], argv[i + 1], o)) {
            fprintf(stderr, "bench_ablation: %s %s is not understood; the source's first comment says what is\n",
                    argv[i], i + 1 < argc ? argv[i + 1] : "");
            return 2;
        }
    }
    if (o->csv == NULL) {
        fprintf(stderr, "bench_ablation: no --csv FILE\n");
        return 2;
    }
    return 0;
}

/* ---- takes -------------------------------------------------------------------------------------------- */

/* Steps spread over the last four fifths of the run, where masks are made. */
static int take_generations(fga_context *ctx, const options *o, takes *t, char *what, size_t bytes)
{
    static bool steps[MAX_STEPS];
    char line[MAX_LINE];
    fgv_model *model = NULL;
    FILE *list = fopen(o->prompts, "r");
    if (list == NULL || fgv_model_open(ctx, o->model, &model) != FGA_OK) {
        return list == NULL ? (perror(o->prompts), 1) : fail(ctx, o->model);
    }
    fgv_request r = fgv_request_default(model);
    r.width = o->width > 0 ? o->width : r.width;
    r.height = o->height > 0 ? o->height : r.height;
    r.frames = o->frames > 0 ? o->frames : r.frames;
    r.steps = o->steps > 0 ? o->steps : r.steps;
    for (int i = 0; i < o->takes; i++) {
        steps[r.steps / 5 + (2 * i + 1) * (r.steps - r.steps / 5) / (2 * o->takes)] = true;
    }
    t->steps = steps;
    t->branches = 1;
    int code = 0, count = 0;
    for (; code == 0 && count < o->count && fgets(line, sizeof line, list) != NULL; count++) {
        line[strcspn(line, "\n")] = '\0';
        r.prompt = line;
        r.seed = (uint64_t)count;
        code = takes_generate(t, model, &r) == FGA_OK ? 0 : fail(ctx, "dense generation");
    }
    snprintf(what, bytes, "%d prompt%s, %dx%d, %d frames, %d of %d steps", count, count == 1 ? "" : "s", r.width,
             r.height, r.frames, o->takes, r.steps);
    fclose(list);
    fgv_model_close(&model);
    return code;
}

static int fill_takes(fga_context *ctx, const options *o, takes *t, char *what, size_t bytes)
{
    t->ctx = ctx;
    if (o->capture_count == 0) {
        return take_generations(ctx, o, t, what, bytes);
    }
    snprintf(what, bytes, "%d capture%s", o->capture_count, o->capture_count == 1 ? "" : "s");
    for (int i = 0; i < o->capture_count; i++) {
        if (takes_read(t, o->captures[i]) != FGA_OK) {
            return fail(ctx, o->captures[i]);
        }
    }
    return 0;
}

/* ---- the table ---------------------------------------------------------------------------------------- */

static bool is_done(const char *path, const struct variant *v, double cost)
{
    char line[MAX_LINE], key[256];
    int length = snprintf(key, sizeof key, "%s,\"%s\",\"%s\",%.4f,", v->section, v->name, v->policy, cost);
    FILE *file = fopen(path, "r");
    bool found = false;
    while (file != NULL && !found && fgets(line, sizeof line, file) != NULL) {
        found = strncmp(line, key, (size_t)length) == 0 && strchr(line, '\n') != NULL;
    }
    if (file != NULL) {
        fclose(file);
    }
    return found;
}

/* The error's standard error over takes: how far the mean would move with others. */
static double standard_error(const double *errors, int count, double mean)
{
    double sum = 0;
    for (int i = 0; i < count; i++) {
        sum += (errors[i] - mean) * (errors[i] - mean);
    }
    return count > 1 ? sqrt(sum / (count - 1) / count) : 0;
}

typedef struct result {
    bool known;
    double value, spread;
    takes_figures figures;
} result;

static int measure_one(takes *t, const options *o, const struct variant *v, double cost, result *r)
{
    static double errors[MAX_TAKES];
    fga_policy policy;
    double value = v->density, realised;
    fga_status status = fga_policy_parse(t->ctx, v->policy, &policy);
    if (status == FGA_OK && v->density <= 0) {
        status = knob_calibrate(t, &policy, cost, &value, &realised);
    }
    if (status == FGA_OK) {
        knob_set(t, &policy, value);
        status = takes_run(t, &policy, o->measure, &r->figures, errors);
    }
    if (status != FGA_OK) {
        return fail(t->ctx, v->policy);
    }
    r->spread = standard_error(errors, t->count, r->figures.error);
    r->value = value;
    r->known = true;
    return 0;
}

/* Sections begin with what they vary: the same policy is not run twice. */
static int run_one(takes *t, const options *o, int index, int cost_index, FILE *csv)
{
    static result results[VARIANTS][MAX_COSTS];
    const struct variant *v = &variants[index];
    result *r = &results[index][cost_index];
    double cost = v->density > 0 ? v->density : o->costs[cost_index];
    for (int i = 0; i < index && !r->known; i++) {
        if (strcmp(variants[i].policy, v->policy) == 0 && variants[i].density == v->density) {
            *r = results[i][cost_index];
        }
    }
    int code = r->known ? 0 : measure_one(t, o, v, cost, r);
    if (code != 0) {
        return code;
    }
    const takes_figures f = r->figures;
    fprintf(csv, "%s,\"%s\",\"%s\",%.4f,%.9g,%.5f,%.5f,%.6f,%.6f,%.6f,%.5f,%.5f,%.5f,%.4f,%.4f\n", v->section, v->name,
            v->policy, cost, r->value, f.cost, f.density, f.error, r->spread, f.error_worst, f.recall, f.recall_p05,
            f.recall_worst, f.score_s, f.attend_s);
    fflush(csv);
    printf("%-22s %-40s cost %.3f of %.2f  error %.4f +- %.4f  recall %.3f\n", v->section, v->name, f.cost, cost,
           f.error, r->spread, f.recall);
    fflush(stdout);
    return 0;
}

static void print_head(const takes *t, const options *o, const char *what, int argc, char **argv, FILE *csv)
{
    fprintf(csv, "# %s: %d calls of %lld tokens, %lld heads of %lld, %s; error and recall on %g of the queries\n", what,
            t->count, (long long)t->tokens, (long long)t->heads, (long long)t->head_dim, fga_dtype_name(t->dtype),
            o->measure);
    print_provenance(csv, argc, argv);
    fputs("section,name,policy,target_cost,knob,cost,density,error,error_se,error_worst,recall,recall_p05,recall_worst,"
          "score_s,attend_s\n",
          csv);
}

static int run_all(takes *t, const options *o, FILE *csv)
{
    int code = 0;
    for (int i = 0; i < VARIANTS && code == 0; i++) {
        const struct variant *v = &variants[i];
        for (int c = 0; c < (v->density > 0 ? 1 : o->cost_count) && code == 0; c++) {
            double cost = v->density > 0 ? v->density : o->costs[c];
            if ((o->only == NULL || strcmp(o->only, v->section) == 0) && !is_done(o->csv, v, cost)) {
                code = run_one(t, o, i, c, csv);
            }
        }
    }
    return code;
}

int main(int argc, char **argv)
{
    options o = {.model = "models/toy",
                 .prompts = "bench/prompts.txt",
                 .count = 2,
                 .takes = 2,
                 .measure = 0.1,
                 .costs = {0.3, 0.2, 0.1},
                 .cost_count = 3};
    char what[256];
    takes t = {0};
    fga_context *ctx = NULL;
    int code = parse(argc, argv, &o);
    if (code != 0) {
        return code;
    }
    if (fga_context_create(NULL, &ctx) != FGA_OK) {
        return fail(ctx, "context");
    }
    FILE *csv = fopen(o.csv, "a");
    if (csv == NULL || fseek(csv, 0, SEEK_END) != 0) {
        perror(o.csv);
        code = 1;
    }
    code = code == 0 ? fill_takes(ctx, &o, &t, what, sizeof what) : code;
    if (code == 0 && (t.count == 0 || t.count > MAX_TAKES)) {
        fprintf(stderr, "bench_ablation: %d calls to look at, wanted 1 ... %d\n", t.count, MAX_TAKES);
        code = 1;
    }
    if (code == 0 && ftell(csv) == 0) {
        print_head(&t, &o, what, argc, argv, csv);
    }
    code = code == 0 ? run_all(&t, &o, csv) : code;
    if (csv != NULL && fclose(csv) != 0) {
        perror(o.csv);
        code = 1;
    }
    takes_free(&t);
    fga_context_destroy(&ctx);
    return code;
}
