/* generate.c - `fgattn generate`: a prompt becomes a video, and what sparse attention saved and cost is stated. */
#include "capture.h"
#include "job.h"
#include "json.h"
#include "plan.h"
#include "progress.h"
#include "report.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

typedef struct settings {
    const char *model, *prompt, *negative, *variant, *output, *latents, *json, *capture;
    cli_capture_choice choice;
    cli_attention attention;
    cli_clip clip;
    int threads, device, versus;
    double measure;
    bool measure_given, versus_given, resume, quiet, force;
} settings;

/* One command: everything that must be released, whatever happens. */
typedef struct command {
    settings set;
    fga_context *ctx;
    fgv_model *model;
    fgv_model_info about;
    fgv_request request;
    fgv_writer *writer;
    cli_place latents;
    cli_capture capture;
    cli_place json;
    fgv_profile profile;
    uint8_t *sparse_rgb, *dense_rgb; /* [frames][height][width][3], with --versus */
    uint64_t predicted;
    char state[4096]; /* the file beside the output that --resume goes on from */
    cli_report report;
} command;

static const char *const devices[] = {"cpu", "cuda", NULL};
static const char *const twins[] = {"dense", NULL};

static int read_settings(int argc, char **argv, settings *s)
{
    char presets[4096];
    cli_describe_presets(presets, sizeof presets);
    const cli_option options[] = {
        {.help = "what to generate"},
        {"prompt", 'p', CLI_TEXT, &s->prompt, "TEXT", .help = "what the video shows"},
        {"negative", 0, CLI_TEXT, &s->negative, "TEXT", .help = "what it should not show; default: the model's own"},
        {"size", 's', CLI_SIZE, s->clip.size, "WxH", .help = "pixels, multiples of 16; default: the model's own",
         .given = &s->clip.size_given},
        {"frames", 'f', CLI_WHOLE, &s->clip.frames, "N", .help = "1, 5, 9, ... (4k+1); default: the model's own",
         .low = 1, .high = 100000, .given = &s->clip.frames_given},
        {"seed", 0, CLI_SEED, &s->clip.seed, "N", .help = "same seed, same video, at any number of threads; default 0"},
        {"output", 'o', CLI_TEXT, &s->output, "FILE",
         .help = "default fgattn.mp4; the ending decides: .mp4 and .gif (both need\n"
                 "ffmpeg), .apng, .y4m, or .png for one file per frame",
         .low = 1},
        {.help = "how"},
        {"model", 'm', CLI_TEXT, &s->model, "DIR",
         .help = "a Wan checkpoint in diffusers layout; default: the toy model", .low = 1},
        {"steps", 'n', CLI_WHOLE, &s->clip.steps, "N", .help = "denoising steps; default: the model's own", .low = 1,
         .high = 1000, .given = &s->clip.steps_given},
        {"guidance", 'g', CLI_NUMBER, &s->clip.guidance, "G",
         .help = "how strictly to follow the prompt; 1 = plain, half the work", .low = 0, .high = 100,
         .given = &s->clip.guidance_given},
        {"shift", 0, CLI_NUMBER, &s->clip.shift, "S", .help = "flow shift; larger spends more steps on noise",
         .low = 0.001, .high = 1000, .given = &s->clip.shift_given},
        {"sampler", 0, CLI_CHOICE, &s->clip.sampler, "NAME", .help = "unipc (default) or euler",
         .choices = cli_samplers},
        {"dtype", 0, CLI_CHOICE, &s->clip.dtype, "TYPE", .help = "of the arithmetic: auto (default), f32 or bf16",
         .choices = cli_dtypes},
        {.help = "attention"},
        {"attention", 'a', CLI_TEXT, &s->attention.text, "PRESET", .help = presets, .low = 1},
        {"density", 'd', CLI_NUMBER, &s->attention.density, "D",
         .help = "share of the keys kept in sparse steps, 0.3 = 30 %", .low = 1e-6, .high = 1,
         .given = &s->attention.density_given},
        {"recall", 0, CLI_NUMBER, &s->attention.recall, "R", .help = CLI_RECALL_HELP, .low = 1e-6, .high = 1,
         .given = &s->attention.recall_given},
        {"error", 0, CLI_NUMBER, &s->attention.error, "E", .help = CLI_ERROR_HELP, .low = 1e-6, .high = 10,
         .given = &s->attention.error_given},
        {"profile", 0, CLI_TEXT, &s->attention.profile, "FILE",
         .help = "attention as `fgattn tune` found it for this model", .low = 1},
        {"measure", 0, CLI_NUMBER, &s->measure, "F",
         .help = "share of the queries on which recall is measured against\n"
                 "exact attention, by default 0.02 and at most 164 of a head;\n"
                 "0 = no measurement",
         .low = 0, .high = 1, .given = &s->measure_given},
        {"versus", 0, CLI_CHOICE, &s->versus, "dense",
         .help = "generate the dense twin too (afterwards, so that a cold\n"
                 "start counts against sparsity) and state the speedup,\n"
                 "PSNR and SSIM against it",
         .choices = twins, .given = &s->versus_given},
        {.help = "machine and output"},
        {"threads", 't', CLI_WHOLE, &s->threads, "N", .help = "default: every processor this process may use", .low = 1,
         .high = 1024},
        {"variant", 0, CLI_TEXT, &s->variant, "NAME", .help = "force one kernel family; `fgattn doctor` lists them",
         .low = 1},
        {"device", 0, CLI_CHOICE, &s->device, "NAME", .help = "cpu", .choices = devices},
        {"latents", 0, CLI_TEXT, &s->latents, "FILE",
         .help = "write the final latents as raw 32-bit floats, [channels][frames]\n"
                 "[rows][columns], for comparison with other programs",
         .low = 1},
        {"capture", 0, CLI_TEXT, &s->capture, "FILE",
         .help = "write what self-attention reads (queries, keys, values) as\n"
                 "safetensors, for `fgattn inspect` and other programs",
         .low = 1},
        {"capture-steps", 0, CLI_TEXT, &s->choice.steps, "LIST",
         .help = "of these steps: 0,4-6,last or all; default: at 1/4, 1/2 and\n3/4 of the run", .low = 1},
        {"capture-layers", 0, CLI_TEXT, &s->choice.layers, "LIST", .help = "of these layers; default all", .low = 1},
        {"capture-branches", 0, CLI_TEXT, &s->choice.branches, "LIST",
         .help = "0: with the prompt (default); 1: with the negative one", .low = 1},
        {"resume", 0, CLI_FLAG, &s->resume, NULL,
         .help = "go on with a run of the same options that was interrupted, from\n"
                 "the file that it left beside the output (its name and .fgstate)"},
        {"json", 0, CLI_TEXT, &s->json, "FILE", .help = "write the figures as JSON; - is standard output", .low = 1},
        {"quiet", 'q', CLI_FLAG, &s->quiet, NULL, .help = "print errors only"},
        {"force", 0, CLI_FLAG, &s->force, NULL, .help = "start even if the memory does not seem to suffice"},
        {0},
    };
    const cli_verb verb = {
        "generate",
        "--prompt TEXT [options]",
        "Generates a video from a prompt with sparse attention and says what that saved and cost.",
        options,
        0,
        "  fgattn generate --prompt \"a large red ball bouncing over a checkered floor\"\n"
        "  fgattn generate --prompt \"a small blue square bouncing on a navy striped background\" --seed 7 --density "
        "0.2 --versus dense -o square.apng\n"
        "  fgattn generate --model Wan2.1-T2V-1.3B-Diffusers --prompt \"a cat on a boat\" --size 480x272 --frames 33\n"
        "  fgattn generate --prompt \"a white ring moving up over a dotted floor\" --recall 0.97\n"
        "  fgattn generate --prompt \"a green star moving left over a dotted floor\" --attention dense --json "
        "figures.json --quiet\n",
    };
    return cli_parse(&verb, argc, argv, NULL);
}

static int check_settings(const settings *s)
{
    if (s->prompt == NULL) {
        return cli_fail(CLI_USAGE, "generate: no --prompt; say what the video shows, for example "
                                   "--prompt \"a large red ball bouncing over a checkered floor\"");
    }
    if (strcmp(devices[s->device], "cuda") == 0) {
        return cli_fail(CLI_ERROR, "--device cuda: this build computes on the processor only; leave --device out");
    }
    if (s->measure_given && s->measure <= 0 && (s->attention.recall_given || s->attention.error_given)) {
        return cli_fail(CLI_USAGE, "generate: --%s holds what is measured, and --measure 0 measures nothing",
                        s->attention.recall_given ? "recall" : "error");
    }
    if (s->resume && s->capture != NULL) {
        return cli_fail(CLI_USAGE, "generate: --capture wants a whole run, and --resume has only the rest of one");
    }
    const char *ending = strrchr(s->output, '.');
    char path[4096];
    if (ending != NULL && (strcasecmp(ending, ".mp4") == 0 || strcasecmp(ending, ".gif") == 0) &&
        cli_find_program("ffmpeg", path, sizeof path) == NULL) {
        return cli_fail(CLI_ERROR,
                        "%s needs the program ffmpeg, which is not on PATH; install it, or write .apng, .png or .y4m "
                        "with -o",
                        s->output);
    }
    return CLI_DONE;
}

/* What measuring costs must not grow with the clip: a figure's precision hangs on the number of queries, and that of
 * the default share of 8,192 is enough (docs/method.md). */
static double default_measure(const fgv_model *model, const fgv_request *r)
{
    const double enough = 164;
    return fmin(r->measure_fraction, enough / (double)cli_clip_tokens(model, r));
}

static int make_request(command *c)
{
    const settings *s = &c->set;
    fgv_request *r = &c->request;
    *r = cli_clip_request(&s->clip, c->model);
    r->prompt = s->prompt;
    r->negative = s->negative != NULL ? s->negative : r->negative;
    r->measure_fraction = s->measure_given ? s->measure : default_measure(c->model, r);
    r->state = c->state;
    r->resume = s->resume;
    int code = cli_use_profile(c->ctx, &c->profile, &s->attention, c->model, r);
    if (code != CLI_DONE) {
        return code;
    }
    fga_status status = fgv_request_check(c->model, r);
    status = status == FGA_OK ? fgv_predict_memory(c->model, r, &c->predicted) : status;
    if (status == FGA_ERR_MEMORY) { /* even the plan does not fit */
        return cli_fail(CLI_NO_MEMORY, "%dx%d, %d frames: %s; choose a smaller --size or fewer --frames", r->width,
                        r->height, r->frames, fga_last_error(c->ctx));
    }
    return status == FGA_OK ? CLI_DONE : cli_fail_status(c->ctx, status);
}

static void warn_of_unknown_words(const command *c)
{
    char words[512];
    const char *vocabulary = NULL;
    int count = fgv_unknown_words(c->model, c->set.prompt, words, sizeof words, &vocabulary);
    if (count > 0 && !c->set.quiet) {
        cli_warn("the model has never seen %s: %s; it knows these words: %s", count == 1 ? "this word" : "these words",
                 words, vocabulary != NULL ? vocabulary : "");
    }
}

static size_t clip_bytes(const fgv_request *r)
{
    return (size_t)r->width * (size_t)r->height * 3 * (size_t)r->frames;
}

/* States what the job will need and refuses what the machine does not have. */
static int check_memory(command *c)
{
    c->predicted += c->set.versus_given ? 2 * (uint64_t)clip_bytes(&c->request) : 0;
    uint64_t available = cli_memory_available();
    if (c->predicted > available && !c->set.force) {
        return cli_fail(CLI_NO_MEMORY,
                        "%dx%d, %d frames need about %s of memory and %s are available; choose a smaller --size or "
                        "fewer --frames, or --force it",
                        c->request.width, c->request.height, c->request.frames, cli_bytes(c->predicted).text,
                        cli_bytes(available).text);
    }
    if (!c->set.quiet) {
        fprintf(stderr, "%dx%d, %d frame%s, %d step%s: needs about %s of memory", c->request.width, c->request.height,
                c->request.frames, c->request.frames == 1 ? "" : "s", c->request.steps,
                c->request.steps == 1 ? "" : "s", cli_bytes(c->predicted).text);
        if (available != UINT64_MAX) {
            fprintf(stderr, "; %s are available", cli_bytes(available).text);
        }
        fputc('\n', stderr);
    }
    return CLI_DONE;
}

/* ---- one run ----------------------------------------------------------------------------------- */

typedef struct run {
    cli_progress line;
    fgv_writer *writer; /* NULL: the frames are only kept */
    uint8_t *keep;      /* NULL: the frames are only written */
    size_t frame_bytes;
    cli_place *latents;
    cli_capture *capture;
    fga_context *ctx;
    fga_status failed; /* of the writers */
    char reason[512];  /* its text, before anything else fails */
} run;

static bool on_progress(void *user, const fgv_progress *progress)
{
    run *r = user;
    cli_progress_show(&r->line, progress);
    return !cli_interrupted();
}

static bool on_frame(void *user, int index, const uint8_t *rgb)
{
    run *r = user;
    if (r->keep != NULL) {
        memcpy(r->keep + (size_t)index * r->frame_bytes, rgb, r->frame_bytes);
    }
    if (r->writer != NULL) {
        r->failed = fgv_writer_frame(r->writer, rgb);
        if (r->failed != FGA_OK) {
            snprintf(r->reason, sizeof r->reason, "%s", fga_last_error(r->ctx));
        }
    }
    return r->failed == FGA_OK && !cli_interrupted();
}

static bool on_latents(void *user, const float *latents, int channels, int t, int h, int w)
{
    run *r = user;
    size_t count = (size_t)channels * (size_t)t * (size_t)h * (size_t)w;
    bool whole = fwrite(latents, sizeof *latents, count, r->latents->file) == count;
    if (!cli_place_finish(r->latents) || !whole) {
        snprintf(r->reason, sizeof r->reason, "cannot write %s: %s", r->latents->path, strerror(errno));
        r->failed = FGA_ERR_IO;
    }
    return r->failed == FGA_OK;
}

static bool on_attention(void *user, const fgv_capture *inputs)
{
    run *r = user;
    if (!cli_capture_wants(r->capture, inputs)) {
        return true;
    }
    r->failed = fgv_capture_add(r->capture->writer, inputs);
    if (r->failed != FGA_OK) {
        snprintf(r->reason, sizeof r->reason, "%s", fga_last_error(r->ctx));
    }
    return r->failed == FGA_OK;
}

static int generate_one(command *c, const char *label, uint8_t *keep, cli_run *out)
{
    run r = {.line = cli_progress_start(c->set.quiet, label),
             .writer = c->writer,
             .keep = keep,
             .frame_bytes = (size_t)c->request.width * (size_t)c->request.height * 3,
             .latents = &c->latents,
             .capture = &c->capture,
             .ctx = c->ctx};
    c->request.on_latents = c->latents.file != NULL ? on_latents : NULL; /* not of the dense twin, which comes second */
    c->request.on_attention = c->capture.writer != NULL ? on_attention : NULL;
    c->request.on_progress = on_progress;
    c->request.on_frame = on_frame;
    c->request.user = &r;
    snprintf(out->preset, sizeof out->preset, "%s", c->request.policy.name);
    cli_peak_memory_reset();
    fga_status status = fgv_generate(c->model, &c->request, &out->result);
    out->peak_bytes = cli_peak_memory();
    out->result.predicted_bytes = c->predicted;
    cli_progress_clear(&r.line);
    if (r.failed != FGA_OK) {
        return cli_fail(cli_exit_code(r.failed), "%s", r.reason);
    }
    if (status == FGA_ERR_INTERRUPTED) {
        return CLI_INTERRUPTED;
    }
    return status == FGA_OK ? CLI_DONE : cli_fail_status(c->ctx, status);
}

static int interrupted_by_dense_twin(const command *c)
{
    return cli_fail(CLI_INTERRUPTED, "interrupted in the dense twin; %s is complete", c->set.output);
}

static int interrupted(const command *c)
{
    int kept = c->report.run.result.steps_kept;
    if (kept > 0) {
        return cli_fail(CLI_INTERRUPTED,
                        "interrupted; nothing was written to %s, and %s keeps %d of %d steps: the same command with "
                        "--resume goes on",
                        c->set.output, c->state, kept, c->request.steps);
    }
    return cli_fail(CLI_INTERRUPTED, "interrupted; nothing was written to %s%s%s", c->set.output,
                    c->set.resume ? ", and --resume still finds " : "", c->set.resume ? c->state : "");
}

static int generate_video(command *c)
{
    int code = generate_one(c, "", c->sparse_rgb, &c->report.run);
    if (code == CLI_INTERRUPTED) {
        return interrupted(c);
    }
    if (code != CLI_DONE) {
        return code;
    }
    fga_status status = fgv_capture_finish(&c->capture.writer);
    status = status == FGA_OK ? fgv_writer_finish(&c->writer) : status;
    if (status != FGA_OK) {
        return cli_fail_status(c->ctx, status);
    }
    if (remove(c->state) != 0 && errno != ENOENT) {
        cli_warn("cannot remove %s: %s", c->state, strerror(errno));
    }
    return CLI_DONE;
}

/* The same request with every key kept, and nothing measured: the time of a plain dense run. */
static int generate_twin(command *c)
{
    fga_status status = fga_policy_parse(c->ctx, "dense", &c->request.policy);
    if (status != FGA_OK) {
        return cli_fail_status(c->ctx, status);
    }
    c->request.measure_fraction = 0;
    c->request.override_count = 0;
    c->request.state = NULL;
    c->request.resume = false;
    int code = generate_one(c, "dense twin: ", c->dense_rgb, &c->report.dense);
    if (code == CLI_INTERRUPTED) {
        return interrupted_by_dense_twin(c);
    }
    if (code != CLI_DONE) {
        return code;
    }
    status = fgv_compare(c->ctx, c->sparse_rgb, c->dense_rgb, c->request.width, c->request.height, c->request.frames,
                         &c->report.against_dense, NULL, NULL);
    return status == FGA_OK ? CLI_DONE : cli_fail_status(c->ctx, status);
}

/* Opens the file for captures, if one is wanted, and says how large it will be. */
static int begin_capture(command *c)
{
    if (c->set.capture == NULL) {
        const cli_capture_choice *choice = &c->set.choice;
        return choice->steps == NULL && choice->layers == NULL && choice->branches == NULL
                   ? CLI_DONE
                   : cli_fail(CLI_USAGE, "generate: --capture-steps, --capture-layers and --capture-branches say what "
                                         "of, but there is no --capture FILE");
    }
    cli_capture *capture = &c->capture;
    int code = cli_capture_choose(&c->set.choice, c->model, &c->request, capture);
    if (code != CLI_DONE) {
        return code;
    }
    int64_t most = (int64_t)cli_chosen_count(&capture->steps) * cli_chosen_count(&capture->layers) *
                   cli_chosen_count(&capture->branches);
    if (!c->set.quiet) {
        fprintf(stderr, "%s: %lld captures, up to %s\n", c->set.capture, (long long)most,
                cli_bytes(cli_capture_bytes(capture, c->model, &c->request)).text);
    }
    code = cli_place_check(c->set.capture);
    if (code != CLI_DONE) {
        return code;
    }
    fga_status status = fgv_capture_create(c->ctx, c->set.capture, most, &capture->writer);
    return status == FGA_OK ? CLI_DONE : cli_fail_status(c->ctx, status);
}

/* ---- the command --------------------------------------------------------------------------------- */

/* The state's name, and whether it is where it should be. */
static int find_state(command *c)
{
    const char *output = c->set.output;
    if (snprintf(c->state, sizeof c->state, "%s.fgstate", output) >= (int)sizeof c->state) {
        return cli_fail(CLI_USAGE, "generate: the name of the output is too long: %.100s...", output);
    }
    int code = cli_place_refuse_special(c->state);
    if (code != CLI_DONE) {
        return code;
    }
    FILE *file = fopen(c->state, "rb");
    if (file == NULL && c->set.resume) {
        return cli_fail(CLI_ERROR, "nothing to resume: cannot open %s: %s", c->state, strerror(errno));
    }
    if (file != NULL) {
        fclose(file);
    }
    if (file != NULL && !c->set.resume && !c->set.quiet) {
        cli_warn("%s is of an interrupted run, which --resume would go on with; this run replaces it", c->state);
    }
    return CLI_DONE;
}

/* Whatever cannot be written is found out here. The state comes last, so that a directory that takes no files is
 * reported by the output's name. */
static int open_outputs(command *c)
{
    const settings *s = &c->set;
    int code = cli_json_begin(&c->json, s->json);
    code = code == CLI_DONE ? cli_place_begin(&c->latents, s->latents) : code;
    code = code == CLI_DONE ? begin_capture(c) : code;
    if (code != CLI_DONE) {
        return code;
    }
    fga_status status =
        fgv_writer_open(c->ctx, s->output, c->request.width, c->request.height, c->about.fps, &c->writer);
    if (status != FGA_OK) {
        return cli_fail_status(c->ctx, status);
    }
    cli_note_unfinished_video(s->output, c->request.frames);
    return cli_place_check(c->state);
}

static int prepare(command *c)
{
    const settings *s = &c->set;
    int code = cli_open_context(s->threads, s->variant, &c->ctx);
    /* a wrong preset is found out before a large model is opened */
    c->set.attention.dtype = cli_dtype_of((fgv_compute)s->clip.dtype);
    code = code == CLI_DONE ? cli_read_attention(c->ctx, &s->attention, &c->profile) : code;
    code = code == CLI_DONE ? cli_open_model(c->ctx, s->model, &c->model) : code;
    code = code == CLI_DONE ? make_request(c) : code;
    if (code != CLI_DONE) {
        return code;
    }
    c->about = fgv_model_describe(c->model);
    warn_of_unknown_words(c);
    code = check_memory(c);
    if (code == CLI_DONE && s->versus_given) {
        c->sparse_rgb = malloc(clip_bytes(&c->request));
        c->dense_rgb = malloc(clip_bytes(&c->request));
        if (c->sparse_rgb == NULL || c->dense_rgb == NULL) {
            return cli_fail(CLI_NO_MEMORY, "no memory for the frames of both videos");
        }
    }
    return code == CLI_DONE ? open_outputs(c) : code;
}

static int finish(command *c)
{
    bool json_on_stdout = c->json.file == stdout;
    if (!c->set.quiet) {
        cli_report_print(&c->report, json_on_stdout ? stderr : stdout);
    }
    if (c->json.file == NULL) {
        return CLI_DONE;
    }
    cJSON *object = cli_report_json(&c->report);
    if (object == NULL) {
        return cli_fail(CLI_NO_MEMORY, "no memory for the JSON text");
    }
    int code = cli_json_finish(&c->json, object);
    cJSON_Delete(object);
    return code;
}

static int carry_out(command *c)
{
    int code = prepare(c);
    if (code != CLI_DONE) {
        return code;
    }
    c->report.output = c->set.output;
    c->report.width = c->request.width;
    c->report.height = c->request.height;
    c->report.frames = c->request.frames;
    c->report.steps = c->request.steps;
    c->report.threads = fga_context_threads(c->ctx);
    c->report.measure_fraction = c->request.measure_fraction;
    c->report.target = c->request.policy;
    c->report.versus_dense = c->set.versus_given;
    code = generate_video(c);
    if (code == CLI_DONE && c->set.versus_given) {
        code = generate_twin(c);
    }
    return code == CLI_DONE ? finish(c) : code;
}

int cli_generate(int argc, char **argv)
{
    command c = {.set = {.output = "fgattn.mp4"}, .profile = fgv_profile_default()};
    int code = read_settings(argc, argv, &c.set);
    code = code == CLI_DONE ? check_settings(&c.set) : code;
    if (code == CLI_DONE) {
        code = find_state(&c);
    }
    if (code == CLI_DONE) {
        cli_catch_interrupt();
        code = carry_out(&c);
    }
    fgv_writer_abandon(&c.writer);
    cli_json_abandon(&c.json);
    cli_place_abandon(&c.latents);
    cli_capture_free(&c.capture);
    fgv_profile_free(&c.profile);
    free(c.sparse_rgb);
    free(c.dense_rgb);
    fgv_model_close(&c.model);
    fga_context_destroy(&c.ctx);
    return code;
}
