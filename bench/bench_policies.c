/* bench_policies.c - every preset at equal cost against dense attention, paired by prompt and seed.
 *
 *   bench_policies --csv FILE [--model DIR] [--prompts FILE] [--first N] [--count N] [--size WxH] [--frames N]
 *                  [--steps N] [--costs 0.3,0.2] [--presets sol,fgdfs] [--contender NAME=POLICY]... [--dense A/B]
 *                  [--refresh N] [--calibration TEXT] [--calibration-steps N] [--calibration-every N]
 *                  [--measure F]
 *
 * For every prompt (one a line; its line number is the seed) the dense video, the same in the other arithmetic (the
 * noise floor), and one video per contender and cost. All share one timetable: dense below A/B of the run (1/5), new
 * masks every N steps from there (4), no dense layers; a preset's own is not used. The number that sets a preset's cost
 * (density, tau, threshold, window, width) is calibrated: bisection to the realised cost on the queries, keys and
 * values of one further prompt (at --calibration-steps of its steps, in every --calibration-every-th layer); the cost
 * that the videos realise is in the table too.
 *
 * Rows are appended to FILE as they are ready and those that are there are skipped, so that a long run may be cut into
 * pieces; FILE.knobs keeps the calibration. bench/report_policies.py makes tables and plots of them.
 */
#include "provenance.h"
#include "takes.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_CONTENDERS = 48, MAX_COSTS = 16, MAX_LINE = 2048, MAX_ROWS = 1 << 16, MAX_STEPS = 1000 };

typedef struct contender {
    char name[48], policy[256];
} contender;

typedef struct options {
    const char *model, *prompts, *csv, *presets, *calibration;
    int first, count, width, height, frames, steps, dense[2], refresh, calibration_steps, calibration_every;
    double measure, costs[MAX_COSTS];
    int cost_count;
    contender extra[MAX_CONTENDERS];
    int extra_count;
} options;

/* Masks that no predictor can make: what is possible at that granularity. */
static const contender limits[] = {{"best-128x128", "dfs,score=exact_mass"}};

typedef struct film {
    uint8_t *rgb;
    size_t frame_bytes;
} film;

typedef struct bench {
    int argc;
    char **argv;
    options o;
    fga_context *ctx;
    fgv_model *model;
    fgv_request request;
    contender list[MAX_CONTENDERS];
    int contenders;
    double knob[MAX_CONTENDERS][MAX_COSTS]; /* NAN: not calibrated */
    char head[256], knobs[1024];
    char *done[MAX_ROWS]; /* "prompt,contender,cost" of the rows that are there */
    int done_count;
    takes takes;
    film dense, other;
    fgv_result dense_result;
} bench;

static int fail(const bench *b, const char *what)
{
    fprintf(stderr, "bench_policies: %s: %s\n", what, fga_last_error(b->ctx));
    return 1;
}

/* ---- options ------------------------------------------------------------------------------------------ */

static bool parse_contender(const char *text, options *o)
{
    const char *equals = strchr(text, '=');
    if (equals == NULL || o->extra_count == MAX_CONTENDERS) {
        return false;
    }
    contender *c = &o->extra[o->extra_count++];
    return snprintf(c->name, sizeof c->name, "%.*s", (int)(equals - text), text) < (int)sizeof c->name &&
           snprintf(c->policy, sizeof c->policy, "%s", equals + 1) < (int)sizeof c->policy;
}

static bool parse_one(const char *name, const char *value, options *o)
{
    const struct {
        const char *name, **text;
        int *whole;
        double *number;
    } table[] = {{"--model", &o->model, NULL, NULL},
                 {"--prompts", &o->prompts, NULL, NULL},
                 {"--csv", &o->csv, NULL, NULL},
                 {"--presets", &o->presets, NULL, NULL},
                 {"--calibration", &o->calibration, NULL, NULL},
                 {"--first", NULL, &o->first, NULL},
                 {"--count", NULL, &o->count, NULL},
                 {"--frames", NULL, &o->frames, NULL},
                 {"--steps", NULL, &o->steps, NULL},
                 {"--refresh", NULL, &o->refresh, NULL},
                 {"--calibration-steps", NULL, &o->calibration_steps, NULL},
                 {"--calibration-every", NULL, &o->calibration_every, NULL},
                 {"--measure", NULL, NULL, &o->measure}};
    for (size_t i = 0; i < sizeof table / sizeof table[0]; i++) {
        char *end = "";
        if (strcmp(name, table[i].name) != 0) {
            continue;
        }
        if (table[i].text != NULL) {
            *table[i].text = value;
        } else if (table[i].whole != NULL) {
            *table[i].whole = (int)strtol(value, &end, 10);
        } else {
            *table[i].number = strtod(value, &end);
        }
        return *end == '\0';
    }
    if (strcmp(name, "--size") == 0) {
        return sscanf(value, "%dx%d", &o->width, &o->height) == 2;
    }
    if (strcmp(name, "--dense") == 0) {
        return sscanf(value, "%d/%d", &o->dense[0], &o->dense[1]) == 2;
    }
    if (strcmp(name, "--costs") == 0) {
        return takes_costs(value, o->costs, MAX_COSTS, &o->cost_count);
    }
    return strcmp(name, "--contender") == 0 && parse_contender(value, o);
}

static int parse(int argc, char **argv, options *o)
{
    for (int i = 1; i < argc; i += 2) {
        if (i + 1 == argc || !parse_one(argv[i], argv[i + 1], o)) {
            fprintf(stderr, "bench_policies: %s %s is not understood; the source's first comment says what is\n",
                    argv[i], i + 1 < argc ? argv[i + 1] : "");
            return 2;
        }
    }
    if (o->csv == NULL) {
        fprintf(stderr, "bench_policies: no --csv FILE\n");
        return 2;
    }
    return 0;
}

/* Whether `name` is in the comma-separated list; all are in no list. */
static bool listed(const char *list, const char *name)
{
    size_t length = strlen(name);
    if (list == NULL) {
        return true;
    }
    for (const char *at = list; at != NULL; at = strchr(at, ',') != NULL ? strchr(at, ',') + 1 : NULL) {
        if (strncmp(at, name, length) == 0 && (at[length] == ',' || at[length] == '\0')) {
            return true;
        }
    }
    return false;
}

static void add_contender(bench *b, const char *name, const char *policy, bool always)
{
    if (b->contenders < MAX_CONTENDERS && (always || listed(b->o.presets, name))) {
        contender *c = &b->list[b->contenders++];
        snprintf(c->name, sizeof c->name, "%s", name);
        snprintf(c->policy, sizeof c->policy, "%s", policy);
    }
}

static void list_contenders(bench *b)
{
    for (int i = 0; i < fga_preset_count(); i++) {
        if (strcmp(fga_preset_name(i), "dense") != 0) {
            add_contender(b, fga_preset_name(i), fga_preset_name(i), false);
        }
    }
    for (size_t i = 0; i < sizeof limits / sizeof limits[0]; i++) {
        add_contender(b, limits[i].name, limits[i].policy, false);
    }
    for (int i = 0; i < b->o.extra_count; i++) {
        add_contender(b, b->o.extra[i].name, b->o.extra[i].policy, true);
    }
}

/* The contender's policy on the common timetable. */
static fga_status make_policy(const bench *b, const contender *c, fga_policy *policy)
{
    char timetable[128];
    snprintf(timetable, sizeof timetable, "phases=%d/%d:0.3,refresh_every=%d,dense_layers=0,share_branches=false",
             b->o.dense[0], b->o.dense[1], b->o.refresh);
    fga_status status = fga_policy_parse(b->ctx, c->policy, policy);
    return status == FGA_OK ? fga_policy_set(b->ctx, timetable, policy) : status;
}

/* ---- the table so far --------------------------------------------------------------------------------- */

/* So that rows of another checkpoint are not taken for rows of this one. */
static uint64_t fingerprint(const char *directory)
{
    char path[1024];
    static unsigned char block[1 << 16];
    uint64_t hash = 14695981039346656037u; /* FNV-1a */
    snprintf(path, sizeof path, "%s/transformer/diffusion_pytorch_model.safetensors", directory);
    FILE *file = fopen(path, "rb");
    for (size_t n = 1, total = 0; file != NULL && n > 0 && total < (64u << 20); total += n) {
        n = fread(block, 1, sizeof block, file);
        for (size_t i = 0; i < n; i++) {
            hash = (hash ^ block[i]) * 1099511628211u;
        }
    }
    if (file != NULL) {
        fclose(file);
    }
    return hash;
}

static void make_head(bench *b)
{
    const fgv_request *r = &b->request;
    snprintf(b->head, sizeof b->head,
             "# model %016" PRIx64
             ", %dx%d, %d frames, %d steps, guidance %g, dense below %d/%d, masks every %d steps\n",
             fingerprint(b->o.model), r->width, r->height, r->frames, r->steps, r->guidance, b->o.dense[0],
             b->o.dense[1], b->o.refresh);
}

static const char columns[] =
    "prompt,seed,contender,policy,target_cost,knob,cost,density,density_all,recall,recall_p05,"
    "recall_worst,error,error_worst,psnr,psnr_moving,ssim,denoise_s,attention_s,score_s,"
    "measure_s,dense_denoise_s,dense_attention_s,dtype\n";

/* Opens a table for appending. One of another model, size or timetable is an error; a new one gets head and columns. */
static int open_table(const bench *b, const char *path, const char *names, FILE **file)
{
    char line[MAX_LINE] = "";
    FILE *old = fopen(path, "r");
    bool there = old != NULL && fgets(line, sizeof line, old) != NULL;
    if (old != NULL) {
        fclose(old);
    }
    if (there && strcmp(line, b->head) != 0) {
        fprintf(stderr, "bench_policies: %s is of another run: it begins\n  %sand this one with\n  %s", path, line,
                b->head);
        return 1;
    }
    *file = fopen(path, "a");
    if (*file == NULL || (!there && fputs(b->head, *file) < 0)) {
        perror(path);
        return 1;
    }
    if (!there) {
        print_provenance(*file, b->argc, b->argv);
        fputs(names, *file);
    }
    return 0;
}

static int cost_index(const bench *b, double cost)
{
    for (int i = 0; i < b->o.cost_count; i++) {
        if (fabs(b->o.costs[i] - cost) < 1e-9) {
            return i;
        }
    }
    return -1;
}

static char *key_of(int prompt, const char *name, double cost, char *text, size_t bytes)
{
    snprintf(text, bytes, "%d,%s,%.4f", prompt, name, cost);
    return text;
}

static int read_done(bench *b)
{
    char line[MAX_LINE], name[64], key[96];
    FILE *file = fopen(b->o.csv, "r");
    while (file != NULL && fgets(line, sizeof line, file) != NULL && b->done_count < MAX_ROWS) {
        int prompt;
        double cost = 0;
        const char *end = strrchr(line, '"');
        if (line[strlen(line) - 1] == '\n' && end != NULL && sscanf(line, "%d,%*d,%63[^,],", &prompt, name) == 2 &&
            sscanf(end, "\",%lf", &cost) == 1) {
            b->done[b->done_count] = strdup(key_of(prompt, name, cost, key, sizeof key));
            if (b->done[b->done_count++] == NULL) {
                fclose(file);
                return 1;
            }
        }
    }
    return file != NULL ? fclose(file) != 0 : 0;
}

static bool is_done(const bench *b, int prompt, const char *name, double cost)
{
    char key[96];
    key_of(prompt, name, cost, key, sizeof key);
    for (int i = 0; i < b->done_count; i++) {
        if (strcmp(b->done[i], key) == 0) {
            return true;
        }
    }
    return false;
}

/* ---- calibration -------------------------------------------------------------------------------------- */

static int read_knobs(bench *b)
{
    char line[MAX_LINE], name[64];
    double cost, value;
    FILE *file = fopen(b->knobs, "r");
    while (file != NULL && fgets(line, sizeof line, file) != NULL) {
        const char *end = strrchr(line, '"'), *begin = strchr(line, '"');
        if (end == NULL || sscanf(line, "%63[^,],", name) != 1 || sscanf(end, "\",%lf,%lf", &cost, &value) != 2) {
            continue;
        }
        for (int i = 0; i < b->contenders; i++) {
            int c = cost_index(b, cost);
            if (c >= 0 && strcmp(b->list[i].name, name) == 0 &&
                strncmp(begin + 1, b->list[i].policy, (size_t)(end - begin - 1)) == 0) {
                b->knob[i][c] = value;
            }
        }
    }
    return file != NULL ? fclose(file) != 0 : 0;
}

/* A dense generation whose attention inputs are kept at the refresh steps: as many as asked for, evenly spread. */
static int take_calibration(bench *b, const fga_policy *timetable)
{
    static bool steps[MAX_STEPS];
    int refreshes = 0, seen = 0;
    fgv_request r = b->request;
    for (int s = 0; s < r.steps; s++) {
        refreshes += fga_policy_step(timetable, s, r.steps, 0, NULL) == FGA_STEP_REFRESH;
    }
    int wanted = b->o.calibration_steps < refreshes ? b->o.calibration_steps : refreshes;
    for (int s = 0; s < r.steps; s++) {
        if (fga_policy_step(timetable, s, r.steps, 0, NULL) == FGA_STEP_REFRESH) {
            steps[s] = (seen + 1) * wanted / refreshes > seen * wanted / refreshes;
            seen++;
        }
    }
    b->takes.ctx = b->ctx;
    b->takes.steps = steps;
    b->takes.branches = 2;
    b->takes.every = b->o.calibration_every;
    r.prompt = b->o.calibration;
    r.seed = 1000;
    return takes_generate(&b->takes, b->model, &r) == FGA_OK ? 0 : fail(b, "calibration");
}

static int calibrate(bench *b)
{
    FILE *file = NULL;
    int code = read_knobs(b);
    code = code == 0 ? open_table(b, b->knobs, "contender,policy,target_cost,knob,cost\n", &file) : code;
    for (int i = 0; code == 0 && i < b->contenders; i++) {
        fga_policy policy;
        if (make_policy(b, &b->list[i], &policy) != FGA_OK) {
            code = fail(b, b->list[i].name);
            break;
        }
        for (int c = 0; code == 0 && c < b->o.cost_count; c++) {
            double realised;
            if (!isnan(b->knob[i][c])) {
                continue;
            }
            code = b->takes.count == 0 ? take_calibration(b, &policy) : 0;
            if (code == 0 && knob_calibrate(&b->takes, &policy, b->o.costs[c], &b->knob[i][c], &realised) != FGA_OK) {
                code = fail(b, b->list[i].name);
            }
            if (code == 0) {
                fprintf(file, "%s,\"%s\",%.4f,%.9g,%.5f\n", b->list[i].name, b->list[i].policy, b->o.costs[c],
                        b->knob[i][c], realised);
                fflush(file);
                printf("calibrated %-14s cost %.2f: %s %.5g costs %.4f\n", b->list[i].name, b->o.costs[c],
                       knob_of(&b->takes, &policy).name, b->knob[i][c], realised);
                fflush(stdout);
            }
        }
    }
    if (file != NULL && fclose(file) != 0) {
        perror(b->knobs);
        code = 1;
    }
    return code;
}

/* ---- videos ------------------------------------------------------------------------------------------- */

static bool keep_frame(void *user, int index, const uint8_t *rgb)
{
    film *f = user;
    memcpy(f->rgb + (size_t)index * f->frame_bytes, rgb, f->frame_bytes);
    return true;
}

static int generate(bench *b, const fgv_request *request, film *out, fgv_result *result)
{
    fgv_request r = *request;
    r.on_frame = keep_frame;
    r.user = out;
    return fgv_generate(b->model, &r, result) == FGA_OK ? 0 : fail(b, r.policy.name);
}

typedef struct row {
    int prompt;
    const char *name, *policy;
    double target, knob;
} row;

static int write_row(bench *b, FILE *csv, const row *at, const fgv_result *r)
{
    fgv_comparison c;
    const fgv_request *q = &b->request;
    if (fgv_compare(b->ctx, b->other.rgb, b->dense.rgb, q->width, q->height, q->frames, &c, NULL, NULL) != FGA_OK) {
        return fail(b, "compare");
    }
    const fga_session_report *a = &r->attention;
    double cost = (a->sparse_kept + a->sparse_summaries) / a->sparse_total;
    double density = a->sparse_kept / a->sparse_total;
    int written =
        fprintf(csv,
                "%d,%d,%s,\"%s\",%.4f,%.9g,%.5f,%.5f,%.5f,%.5f,%.5f,%.5f,%.6f,%.6f,%.4f,%.4f,%.6f,%.4f,%.4f,"
                "%.4f,%.4f,%.4f,%.4f,%s\n",
                at->prompt, at->prompt, at->name, at->policy, at->target, at->knob, cost, density,
                a->pairs_kept / a->pairs_total, a->recall_mean, a->recall_p05, a->recall_worst, a->output_error_mean,
                a->output_error_worst, c.psnr_db, c.psnr_moving_db, c.ssim, r->denoise_s - a->measure_s, r->attention_s,
                a->score_s, a->measure_s, b->dense_result.denoise_s, b->dense_result.attention_s, r->compute);
    printf("%3d %-14s cost %.3f of %.2f  error %.4f  recall %.3f  PSNR %6.2f dB, moving %6.2f dB  denoising %.2fx\n",
           at->prompt, at->name, cost, at->target, a->output_error_mean, a->recall_mean, c.psnr_db, c.psnr_moving_db,
           b->dense_result.denoise_s / (r->denoise_s - a->measure_s));
    fflush(stdout);
    return written < 0 || fflush(csv) != 0;
}

static int run_noise_floor(bench *b, FILE *csv, const fgv_request *request)
{
    fgv_request r = *request;
    fgv_result result;
    r.compute = strcmp(b->dense_result.compute, "f32") == 0 ? FGV_COMPUTE_BF16 : FGV_COMPUTE_F32;
    int code = generate(b, &r, &b->other, &result);
    const row floor = {(int)r.seed, "dense-noise", "dense", 0, NAN};
    return code == 0 ? write_row(b, csv, &floor, &result) : code;
}

static bool anything_left(const bench *b, int prompt)
{
    bool left = !is_done(b, prompt, "dense-noise", 0);
    for (int i = 0; i < b->contenders; i++) {
        for (int c = 0; c < b->o.cost_count; c++) {
            left = left || !is_done(b, prompt, b->list[i].name, b->o.costs[c]);
        }
    }
    return left;
}

static int run_prompt(bench *b, FILE *csv, const char *prompt, int index)
{
    fgv_request r = b->request;
    r.prompt = prompt;
    r.seed = (uint64_t)index;
    r.measure_fraction = 0;
    int code = generate(b, &r, &b->dense, &b->dense_result);
    r.measure_fraction = b->o.measure;
    code = code == 0 && !is_done(b, index, "dense-noise", 0) ? run_noise_floor(b, csv, &r) : code;
    for (int i = 0; code == 0 && i < b->contenders; i++) {
        for (int c = 0; code == 0 && c < b->o.cost_count; c++) {
            fgv_result result;
            if (is_done(b, index, b->list[i].name, b->o.costs[c])) {
                continue;
            }
            if (make_policy(b, &b->list[i], &r.policy) != FGA_OK) {
                return fail(b, b->list[i].name);
            }
            knob_set(&b->takes, &r.policy, b->knob[i][c]);
            const row one = {index, b->list[i].name, b->list[i].policy, b->o.costs[c], b->knob[i][c]};
            code = generate(b, &r, &b->other, &result);
            code = code == 0 ? write_row(b, csv, &one, &result) : code;
        }
    }
    return code;
}

static int run_prompts(bench *b, FILE *csv)
{
    char line[MAX_LINE];
    FILE *list = fopen(b->o.prompts, "r");
    if (list == NULL) {
        perror(b->o.prompts);
        return 1;
    }
    int code = 0;
    for (int i = 0; code == 0 && i < b->o.first + b->o.count && fgets(line, sizeof line, list) != NULL; i++) {
        line[strcspn(line, "\n")] = '\0';
        if (i >= b->o.first && anything_left(b, i)) {
            code = run_prompt(b, csv, line, i);
        }
    }
    fclose(list);
    return code;
}

/* ---- the whole ---------------------------------------------------------------------------------------- */

static int prepare(bench *b)
{
    if (fga_context_create(NULL, &b->ctx) != FGA_OK || fgv_model_open(b->ctx, b->o.model, &b->model) != FGA_OK) {
        return fail(b, b->o.model);
    }
    fgv_request *r = &b->request;
    *r = fgv_request_default(b->model);
    r->width = b->o.width > 0 ? b->o.width : r->width;
    r->height = b->o.height > 0 ? b->o.height : r->height;
    r->frames = b->o.frames > 0 ? b->o.frames : r->frames;
    r->steps = b->o.steps > 0 ? b->o.steps : r->steps;
    r->prompt = "";
    if (fgv_request_check(b->model, r) != FGA_OK) {
        return fail(b, "request");
    }
    fgv_model_info about = fgv_model_describe(b->model);
    b->takes.frames = ((r->frames - 1) / about.vae_t + 1) / about.patch_t; /* windows are listed by the grid */
    b->takes.height = r->height / about.vae_s / about.patch_h;
    b->takes.width = r->width / about.vae_s / about.patch_w;
    film *films[2] = {&b->dense, &b->other};
    for (int i = 0; i < 2; i++) {
        films[i]->frame_bytes = (size_t)r->width * (size_t)r->height * 3;
        films[i]->rgb = malloc(films[i]->frame_bytes * (size_t)r->frames);
        if (films[i]->rgb == NULL) {
            fprintf(stderr, "bench_policies: no memory for %d frames\n", r->frames);
            return 1;
        }
    }
    list_contenders(b);
    for (int i = 0; i < b->contenders; i++) {
        for (int c = 0; c < b->o.cost_count; c++) {
            b->knob[i][c] = NAN;
        }
    }
    make_head(b);
    return snprintf(b->knobs, sizeof b->knobs, "%s.knobs", b->o.csv) < (int)sizeof b->knobs ? read_done(b) : 1;
}

int main(int argc, char **argv)
{
    static bench b = {.o = {.model = "models/toy",
                            .prompts = "bench/prompts.txt",
                            .calibration = "a small yellow square moving right in front of a dotted gray wall",
                            .count = 1 << 20,
                            .dense = {1, 5},
                            .refresh = 4,
                            .calibration_steps = 2,
                            .measure = 0.02,
                            .costs = {0.5, 0.3, 0.2, 0.1},
                            .cost_count = 4}};
    FILE *csv = NULL;
    b.argc = argc;
    b.argv = argv;
    int code = parse(argc, argv, &b.o);
    code = code == 0 ? prepare(&b) : code;
    code = code == 0 ? open_table(&b, b.o.csv, columns, &csv) : code;
    code = code == 0 ? calibrate(&b) : code;
    takes_free(&b.takes);
    code = code == 0 ? run_prompts(&b, csv) : code;
    if (csv != NULL && fclose(csv) != 0) {
        perror(b.o.csv);
        code = 1;
    }
    for (int i = 0; i < b.done_count; i++) {
        free(b.done[i]);
    }
    free(b.dense.rgb);
    free(b.other.rgb);
    fgv_model_close(&b.model);
    fga_context_destroy(&b.ctx);
    return code;
}
