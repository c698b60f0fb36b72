/* tune.c - `fgattn tune`: the cheapest settings per layer, head and guidance branch that reach a target. */
#include "capture.h"
#include "job.h"
#include "place.h"
#include "plan.h"
#include "progress.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

/* Tuned on, and kept for the check, where nobody names prompts. In the words of the toy model; any model reads them. */
static const char *const own_prompts[] = {
    "a large red ball bouncing over a checkered brown floor",
    "a small blue star moving left in front of a plain gray wall",
    "a large yellow triangle moving down on a striped navy background",
    "a small green square moving right over a dotted olive floor",
    "a large white ring moving up in front of a checkered maroon wall",
    "a small orange ball moving down over a plain gray floor",
};

enum { OWN_PROMPTS = sizeof own_prompts / sizeof own_prompts[0], MAX_PROMPTS = 1024, MAX_LINE = 4096 };

typedef struct settings {
    const char *model, *prompts, *capture, *variant, *output;
    cli_attention attention;
    cli_clip clip;
    int hold_out, threads;
    double quantile, measure;
    bool hold_out_given, quiet;
} settings;

typedef struct tuning {
    settings set;
    fga_context *ctx;
    fgv_model *model;
    fgv_capture_file *file; /* with --capture */
    fgv_request request;
    fgv_tuner *tuner;
    fgv_tuner_target target;
    fgv_profile start, profile; /* the preset; the result */
    char *prompts[MAX_PROMPTS];
    int prompt_count, tuned_on;
    double seconds;
} tuning;

static int read_settings(int argc, char **argv, settings *s)
{
    char presets[4096];
    cli_describe_presets(presets, sizeof presets);
    const cli_option options[] = {
        {.help = "what to reach: one or both"},
        {"recall", 0, CLI_NUMBER, &s->attention.recall, "R",
         .help = "mean share of the exact attention weight that is kept, over\n"
                 "all heads; no head below 3R-2",
         .low = 1e-6, .high = 1, .given = &s->attention.recall_given},
        {"error", 0, CLI_NUMBER, &s->attention.error, "E", .help = "relative error of every head's attention output",
         .low = 1e-6, .high = 10, .given = &s->attention.error_given},
        {"quantile", 0, CLI_NUMBER, &s->quantile, "Q",
         .help = "share of a head's measurements, over prompts and steps, that\n"
                 "must be as good; default 0.9",
         .low = 0, .high = 1},
        {.help = "on what"},
        {"attention", 'a', CLI_TEXT, &s->attention.text, "PRESET", .help = presets, .low = 1},
        {"prompts", 0, CLI_TEXT, &s->prompts, "FILE", .help = "one prompt a line; default: six of our own", .low = 1},
        {"hold-out", 0, CLI_WHOLE, &s->hold_out, "N",
         .help = "the last N prompts are not tuned on but check the result;\n"
                 "default: a third of them",
         .low = 0, .high = MAX_PROMPTS, .given = &s->hold_out_given},
        {"capture", 0, CLI_TEXT, &s->capture, "FILE",
         .help = "tune on a file of `fgattn generate --capture` instead of on\n"
                 "generations: model, clip and type are the file's; nothing\n"
                 "is checked then",
         .low = 1},
        {"model", 'm', CLI_TEXT, &s->model, "DIR",
         .help = "a Wan checkpoint in diffusers layout; default: the toy model", .low = 1},
        {"size", 's', CLI_SIZE, s->clip.size, "WxH", .help = "as for generate, and so on",
         .given = &s->clip.size_given},
        {"frames", 'f', CLI_WHOLE, &s->clip.frames, "N", .help = "", .low = 1, .high = 100000,
         .given = &s->clip.frames_given},
        {"steps", 'n', CLI_WHOLE, &s->clip.steps, "N", .help = "", .low = 1, .high = 1000,
         .given = &s->clip.steps_given},
        {"guidance", 'g', CLI_NUMBER, &s->clip.guidance, "G", .help = "", .low = 0, .high = 100,
         .given = &s->clip.guidance_given},
        {"shift", 0, CLI_NUMBER, &s->clip.shift, "S", .help = "", .low = 0.001, .high = 1000,
         .given = &s->clip.shift_given},
        {"sampler", 0, CLI_CHOICE, &s->clip.sampler, "NAME", .help = "unipc (default) or euler",
         .choices = cli_samplers, .given = &s->clip.sampler_given},
        {"seed", 0, CLI_SEED, &s->clip.seed, "N", .help = "of the first prompt; the others count on from it; default 0",
         .given = &s->clip.seed_given},
        {"measure", 0, CLI_NUMBER, &s->measure, "F",
         .help = "share of the queries that every head is measured on; default 0.1", .low = 1e-6, .high = 1},
        {.help = "machine and output"},
        {"output", 'o', CLI_TEXT, &s->output, "FILE", .help = "the profile; default profile.json", .low = 1},
        {"dtype", 0, CLI_CHOICE, &s->clip.dtype, "TYPE", .help = "of the arithmetic: auto (default), f32 or bf16",
         .choices = cli_dtypes, .given = &s->clip.dtype_given},
        {"threads", 't', CLI_WHOLE, &s->threads, "N", .help = "default: every processor this process may use", .low = 1,
         .high = 1024},
        {"variant", 0, CLI_TEXT, &s->variant, "NAME", .help = "force one kernel family; `fgattn doctor` lists them",
         .low = 1},
        {"quiet", 'q', CLI_FLAG, &s->quiet, NULL, .help = "print errors only"},
        {0},
    };
    const cli_verb verb = {
        "tune",
        "(--recall R | --error E) [options]",
        "Finds the cheapest density of every layer, head and guidance branch that reaches a recall or an output error, "
        "checks it\non prompts that it was not tuned on, and writes a profile for `fgattn generate --profile`.",
        options,
        0,
        "  fgattn tune --recall 0.95\n"
        "  fgattn tune --error 0.1 --attention dfs,block_m=64,tile_n=64 --prompts prompts.txt --hold-out 4 -o "
        "best.json\n"
        "  fgattn generate --prompt \"a red ball\" --profile best.json\n"
        "  fgattn tune --capture qkv.safetensors --error 0.1\n",
    };
    return cli_parse(&verb, argc, argv, NULL);
}

/* ---- prompts ------------------------------------------------------------------------------------------- */

static int add_prompt(tuning *t, const char *text)
{
    if (t->prompt_count == MAX_PROMPTS) {
        return cli_fail(CLI_USAGE, "--prompts: more than %d prompts", MAX_PROMPTS);
    }
    t->prompts[t->prompt_count] = strdup(text);
    return t->prompts[t->prompt_count++] != NULL ? CLI_DONE : cli_fail(CLI_NO_MEMORY, "no memory for the prompts");
}

static int read_prompts(tuning *t)
{
    int code = CLI_DONE;
    const char *path = t->set.prompts;
    if (path == NULL) {
        for (int i = 0; i < OWN_PROMPTS && code == CLI_DONE; i++) {
            code = add_prompt(t, own_prompts[i]);
        }
        return code;
    }
    char line[MAX_LINE];
    FILE *file = fopen(path, "r");
    if (file == NULL) {
        return cli_fail(CLI_ERROR, "cannot open %s: %s", path, strerror(errno));
    }
    while (code == CLI_DONE && fgets(line, sizeof line, file) != NULL) {
        size_t length = strcspn(line, "\r\n");
        if (line[length] == '\0' && length == sizeof line - 1) {
            code = cli_fail(CLI_BAD_DATA, "%s: a line of more than %zu bytes", path, sizeof line - 2);
        }
        line[length] = '\0';
        code = code == CLI_DONE && length > 0 ? add_prompt(t, line) : code;
    }
    bool failed = ferror(file) != 0;
    fclose(file);
    if (code == CLI_DONE && failed) {
        code = cli_fail(CLI_ERROR, "cannot read %s", path);
    }
    return code == CLI_DONE && t->prompt_count == 0 ? cli_fail(CLI_BAD_DATA, "%s: no prompt in it", path) : code;
}

static int divide_prompts(tuning *t)
{
    int code = read_prompts(t);
    if (code != CLI_DONE) {
        return code;
    }
    int held = t->set.hold_out_given ? t->set.hold_out : t->prompt_count / 3;
    if (held >= t->prompt_count) {
        return cli_fail(CLI_USAGE, "--hold-out %d of %d prompts leaves none to tune on", held, t->prompt_count);
    }
    t->tuned_on = t->prompt_count - held;
    return CLI_DONE;
}

/* ---- generations --------------------------------------------------------------------------------------- */

/* What is measured while a profile runs. */
typedef struct check {
    const fgv_tuner_target *target;
    int64_t heads, count; /* heads of the model; measured (call, head) */
    fgv_profile_figures sum;
} check;

typedef struct run {
    tuning *t;
    cli_progress line;
    fga_status failed; /* of the tuner */
    char reason[512];
    check *check;
} run;

static bool on_progress(void *user, const fgv_progress *progress)
{
    cli_progress_show(&((run *)user)->line, progress);
    return !cli_interrupted() && progress->stage != FGV_STAGE_DECODE; /* nobody will see the video */
}

static bool on_attention(void *user, const fgv_capture *inputs)
{
    run *r = user;
    r->failed = fgv_tuner_add(r->t->tuner, inputs);
    if (r->failed != FGA_OK) {
        snprintf(r->reason, sizeof r->reason, "%s", fga_last_error(r->t->ctx));
    }
    return r->failed == FGA_OK;
}

static void on_measure(void *user, const fga_measured *m)
{
    check *c = ((run *)user)->check;
    const fgv_tuner_target *target = c->target;
    fgv_profile_figures *f = &c->sum;
    for (int64_t h = 0; h < c->heads; h++, c->count++) {
        bool held = (target->error <= 0 || m->error[h] <= target->error) &&
                    (target->recall <= 0 || m->recall[h] >= target->recall_floor);
        f->recall_mean += m->recall[h];
        f->recall_worst = fmin(f->recall_worst, m->recall[h]);
        f->output_error_mean += m->error[h];
        f->output_error_worst = fmax(f->output_error_worst, m->error[h]);
        f->density += m->density[h];
        f->held += held;
    }
    f->cost += m->cost * (double)c->heads;
}

/* One run up to the decoder, which nobody needs. */
static int generate(tuning *t, const char *label, int index, fgv_request r, run *one)
{
    one->t = t;
    one->line = cli_progress_start(t->set.quiet, label);
    r.prompt = t->prompts[index];
    r.seed = t->set.clip.seed + (uint64_t)index;
    r.on_progress = on_progress;
    r.user = one;
    fga_status status = fgv_generate(t->model, &r, NULL);
    cli_progress_clear(&one->line);
    if (one->failed != FGA_OK) {
        return cli_fail(cli_exit_code(one->failed), "%s", one->reason);
    }
    if (cli_interrupted()) {
        return cli_fail(CLI_INTERRUPTED, "interrupted; nothing was written to %s", t->set.output);
    }
    return status == FGA_OK || status == FGA_ERR_INTERRUPTED ? CLI_DONE : cli_fail_status(t->ctx, status);
}

static int measure_prompts(tuning *t)
{
    int code = CLI_DONE;
    for (int i = 0; i < t->tuned_on && code == CLI_DONE; i++) {
        char label[64];
        snprintf(label, sizeof label, "tuning %d of %d: ", i + 1, t->tuned_on);
        fgv_request r = t->request; /* dense */
        r.on_attention = on_attention;
        run one = {0};
        fga_status status = fgv_tuner_begin(t->tuner);
        code = status == FGA_OK ? generate(t, label, i, r, &one) : cli_fail_status(t->ctx, status);
    }
    return code;
}

static int measure_capture(tuning *t)
{
    fga_status status = fgv_tuner_begin(t->tuner);
    for (int i = 0; status == FGA_OK && i < fgv_capture_count(t->file) && !cli_interrupted(); i++) {
        fgv_capture capture = fgv_capture_get(t->file, i);
        status = fgv_tuner_add(t->tuner, &capture);
    }
    if (cli_interrupted()) {
        return cli_fail(CLI_INTERRUPTED, "interrupted; nothing was written to %s", t->set.output);
    }
    return status == FGA_OK ? CLI_DONE : cli_capture_fail(t->ctx, t->set.capture, status);
}

/* Runs the held-out prompts under a policy and its overrides. */
static int check_held_out(tuning *t, const char *label, const fga_policy *policy, bool overrides,
                          fgv_profile_figures *figures)
{
    check c = {&t->target, fgv_model_describe(t->model).heads, 0, {.recall_worst = 1}};
    int code = CLI_DONE;
    for (int i = t->tuned_on; i < t->prompt_count && code == CLI_DONE; i++) {
        char line[64];
        snprintf(line, sizeof line, "%s %d of %d: ", label, i - t->tuned_on + 1, t->prompt_count - t->tuned_on);
        fgv_request r = t->request;
        r.policy = *policy;
        r.overrides = overrides ? t->profile.overrides : NULL;
        r.override_count = overrides ? t->profile.override_count : 0;
        r.measure_fraction = t->set.measure;
        r.on_measure = on_measure;
        run one = {.check = &c};
        code = generate(t, line, i, r, &one);
    }
    *figures = c.sum;
    figures->prompts = t->prompt_count - t->tuned_on;
    double *const means[] = {&figures->recall_mean, &figures->output_error_mean, &figures->density, &figures->cost,
                             &figures->held};
    for (size_t i = 0; i < sizeof means / sizeof means[0]; i++) {
        *means[i] = c.count > 0 ? *means[i] / (double)c.count : NAN;
    }
    return code;
}

/* ---- the result ---------------------------------------------------------------------------------------- */

static void print_figures(const char *name, const fgv_profile_figures *f)
{
    printf(
        "%-11srecall %.3f, worst head %.3f; output error %.4f, worst head %.4f; density %.3f, cost %.3f; target held "
        "in %.1f %% of the heads\n",
        name, f->recall_mean, f->recall_worst, f->output_error_mean, f->output_error_worst, f->density, f->cost,
        100 * f->held);
}

static void print_result(const tuning *t)
{
    const fgv_profile *p = &t->profile;
    char policy[FGA_POLICY_TEXT];
    if (t->set.quiet || fga_policy_format(t->ctx, &p->policy, policy, sizeof policy) != FGA_OK) {
        return;
    }
    printf("tuned      %s on ", policy);
    if (t->set.capture != NULL) {
        printf("%s", t->set.capture);
    } else {
        printf("%d prompt%s", t->tuned_on, t->tuned_on == 1 ? "" : "s");
    }
    printf(": %lld measured calls in %s\n", (long long)fgv_tuner_points(t->tuner), cli_seconds(t->seconds).text);
    printf("profile    %s: %d override%s\n", t->set.output, p->override_count, p->override_count == 1 ? "" : "s");
    printf("target     ");
    if (t->target.recall > 0) {
        printf("recall %g, no head below %g%s", t->target.recall, t->target.recall_floor,
               t->target.error > 0 ? "; " : "\n");
    }
    if (t->target.error > 0) {
        printf("output error of a head at most %g\n", t->target.error);
    }
    print_figures("tuned on", &p->tuning);
    if (p->held_out.prompts == 0) {
        puts("held out   nothing: how well the profile holds on other prompts is not known");
        return;
    }
    print_figures("held out", &p->held_out);
}

/* What one density for all would have done at the same mean density: what tuning is worth. */
static int print_uniform(tuning *t)
{
    fga_policy policy = t->start.policy;
    char density[48];
    fgv_profile_figures f;
    snprintf(density, sizeof density, "density=%.6f", fmin(1, t->profile.held_out.density));
    if (t->set.quiet || (policy.select != FGA_SELECT_TOPK && policy.select != FGA_SELECT_BUDGET)) {
        return CLI_DONE;
    }
    fga_status status = fga_policy_set(t->ctx, density, &policy);
    if (status != FGA_OK) {
        return cli_fail_status(t->ctx, status);
    }
    int code = check_held_out(t, "untuned", &policy, false, &f);
    if (code == CLI_DONE) {
        print_figures("untuned", &f);
    }
    return code;
}

static void warn_if_missed(const tuning *t)
{
    const fgv_profile_figures *f = &t->profile.held_out;
    if (f->prompts == 0) {
        return;
    }
    if (t->target.recall > 0 && f->recall_mean < t->target.recall) {
        cli_warn(
            "on prompts that it was not tuned on the recall is %.3f, not %g: tune on more prompts or with a higher "
            "--quantile, or add --recall %g when generating",
            f->recall_mean, t->target.recall, t->target.recall);
    }
    if (f->held < t->target.quantile) {
        cli_warn("on prompts that it was not tuned on %.1f %% of the heads hold the target, not %g %%: tune on more "
                 "prompts or with a higher --quantile",
                 100 * f->held, 100 * t->target.quantile);
    }
}

/* ---- the command --------------------------------------------------------------------------------------- */

static int make_request(tuning *t)
{
    const settings *s = &t->set;
    fgv_request *r = &t->request;
    *r = cli_clip_request(&s->clip, t->model); /* dense */
    r->measure_fraction = 0;
    r->prompt = t->prompts[0];
    fga_status status = fgv_request_check(t->model, r);
    return status == FGA_OK ? CLI_DONE : cli_fail_status(t->ctx, status);
}

static int check_settings(const settings *s)
{
    if (!s->attention.recall_given && !s->attention.error_given) {
        return cli_fail(CLI_USAGE, "tune: say what to reach, with --recall R or --error E");
    }
    const char *generation = s->prompts != NULL  ? "prompts"
                             : s->hold_out_given ? "hold-out"
                             : s->model != NULL  ? "model"
                                                 : cli_clip_given(&s->clip);
    if (s->capture != NULL && generation != NULL) {
        return cli_fail(CLI_USAGE, "tune: --capture brings the attention to tune on; leave --%s out", generation);
    }
    return CLI_DONE;
}

/* What the kernels will run on, which the default preset goes by. A capture is tuned in its own type. */
static fga_dtype dtype_of(const tuning *t)
{
    return t->file != NULL ? fgv_capture_get(t->file, 0).q.dtype : cli_dtype_of((fgv_compute)t->set.clip.dtype);
}

static int prepare(tuning *t)
{
    const settings *s = &t->set;
    t->target =
        (fgv_tuner_target){.recall = s->attention.recall_given ? s->attention.recall : 0,
                           .recall_floor = s->attention.recall_given ? cli_recall_floor(s->attention.recall) : 0,
                           .error = s->attention.error_given ? s->attention.error : 0,
                           .quantile = s->quantile};
    int code = cli_open_context(s->threads, s->variant, &t->ctx);
    code = code == CLI_DONE && s->capture != NULL ? cli_capture_open(t->ctx, s->capture, &t->file) : code;
    cli_attention preset = {.text = s->attention.text, .dtype = dtype_of(t)};
    code = code == CLI_DONE ? cli_read_attention(t->ctx, &preset, &t->start) : code;
    code = code == CLI_DONE ? cli_place_check(s->output) : code;
    if (code != CLI_DONE) {
        return code;
    }
    fgv_tuner_options options = fgv_tuner_options_default();
    options.policy = t->start.policy;
    options.timetable = s->capture == NULL;
    options.measure_fraction = s->measure;
    fga_status status = fgv_tuner_create(t->ctx, &options, &t->tuner);
    if (status != FGA_OK) {
        return status == FGA_ERR_UNSUPPORTED ? cli_fail(CLI_USAGE, "%s", fga_last_error(t->ctx))
                                             : cli_fail_status(t->ctx, status);
    }
    if (s->capture != NULL) {
        return CLI_DONE;
    }
    code = divide_prompts(t);
    code = code == CLI_DONE ? cli_open_model(t->ctx, s->model, &t->model) : code;
    return code == CLI_DONE ? make_request(t) : code;
}

/* Where the profile comes from. */
static int sign(tuning *t)
{
    fgv_profile *p = &t->profile;
    size_t bytes = 1;
    if (t->model == NULL) {
        return CLI_DONE;
    }
    const char *directory = fgv_model_describe(t->model).directory, *name = strrchr(directory, '/');
    name = name != NULL && name[1] != '\0' ? name + 1 : directory;
    snprintf(p->model, sizeof p->model, "%.90s", name);
    p->width = t->request.width, p->height = t->request.height;
    p->frames = t->request.frames, p->steps = t->request.steps;
    for (int i = 0; i < t->tuned_on; i++) {
        bytes += strlen(t->prompts[i]) + 1;
    }
    p->prompts = calloc(bytes, 1);
    if (p->prompts == NULL) {
        return cli_fail(CLI_NO_MEMORY, "no memory for the prompts");
    }
    for (int i = 0; i < t->tuned_on; i++) {
        strcat(strcat(p->prompts, t->prompts[i]), "\n");
    }
    return CLI_DONE;
}

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static int carry_out(tuning *t)
{
    double began = now();
    int code = prepare(t);
    code = code != CLI_DONE ? code : t->set.capture != NULL ? measure_capture(t) : measure_prompts(t);
    if (code != CLI_DONE) {
        return code;
    }
    fga_status status = fgv_tuner_solve(t->tuner, &t->target, &t->profile);
    if (status != FGA_OK) {
        return cli_fail_status(t->ctx, status);
    }
    t->seconds = now() - began;
    if (t->model != NULL && t->tuned_on < t->prompt_count) {
        code = check_held_out(t, "check", &t->profile.policy, true, &t->profile.held_out);
    }
    code = code == CLI_DONE ? sign(t) : code;
    if (code != CLI_DONE) {
        return code;
    }
    status = fgv_profile_write(t->ctx, t->set.output, &t->profile);
    if (status != FGA_OK) {
        return cli_fail_status(t->ctx, status);
    }
    print_result(t);
    code = t->profile.held_out.prompts > 0 ? print_uniform(t) : CLI_DONE;
    warn_if_missed(t);
    return code;
}

int cli_tune(int argc, char **argv)
{
    tuning t = {.set = {.output = "profile.json", .quantile = 0.9, .measure = 0.1},
                .start = fgv_profile_default(),
                .profile = fgv_profile_default()};
    int code = read_settings(argc, argv, &t.set);
    code = code == CLI_DONE ? check_settings(&t.set) : code;
    if (code == CLI_DONE) {
        cli_catch_interrupt();
        code = carry_out(&t);
    }
    for (int i = 0; i < t.prompt_count; i++) {
        free(t.prompts[i]);
    }
    fgv_profile_free(&t.start);
    fgv_profile_free(&t.profile);
    fgv_tuner_destroy(&t.tuner);
    fgv_capture_close(&t.file);
    fgv_model_close(&t.model);
    fga_context_destroy(&t.ctx);
    return code;
}
