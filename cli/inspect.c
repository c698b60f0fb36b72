/* inspect.c - `fgattn inspect`: what the attention of a generation, or of captured tensors, looks like. */
#include "capture.h"
#include "inspect_report.h"
#include "job.h"

#include <stdlib.h>
#include <string.h>

typedef struct settings {
    const char *input, *model, *prompt, *negative, *variant, *output, *json, *policies;
    cli_capture_choice choice;
    cli_clip clip;
    int threads, blocks;
    bool quiet;
} settings;

typedef struct command {
    settings set;
    fga_context *ctx;
    fgv_model *model;
    fgv_capture_file *file;
    cli_capture capture;
    study study;
    cli_place page, json;
    int done, total, last_step;
    bool line_shown, finished; /* finished: every wanted capture has been seen, and the generation may stop */
    fga_status failed;         /* of the study, inside a generation */
} command;

static int read_settings(int argc, char **argv, settings *s)
{
    const cli_option options[] = {
        {.help = "what to look at: a file, or a generation"},
        {"capture", 0, CLI_TEXT, &s->input, "FILE",
         .help = "captured attention, as `fgattn generate --capture` writes it", .low = 1},
        {"prompt", 'p', CLI_TEXT, &s->prompt, "TEXT", .help = "generate this video, densely, as far as is needed"},
        {"negative", 0, CLI_TEXT, &s->negative, "TEXT", .help = "what it should not show; default: the model's own"},
        {"model", 'm', CLI_TEXT, &s->model, "DIR",
         .help = "a Wan checkpoint in diffusers layout; default: the toy model", .low = 1},
        {"size", 's', CLI_SIZE, s->clip.size, "WxH", .help = "pixels, multiples of 16; default: the model's own",
         .given = &s->clip.size_given},
        {"frames", 'f', CLI_WHOLE, &s->clip.frames, "N", .help = "1, 5, 9, ... (4k+1); default: the model's own",
         .low = 1, .high = 100000, .given = &s->clip.frames_given},
        {"steps", 'n', CLI_WHOLE, &s->clip.steps, "N", .help = "denoising steps; default: the model's own", .low = 1,
         .high = 1000, .given = &s->clip.steps_given},
        {"seed", 0, CLI_SEED, &s->clip.seed, "N", .help = "of the noise; default 0", .given = &s->clip.seed_given},
        {"guidance", 'g', CLI_NUMBER, &s->clip.guidance, "G", .help = "1 = plain, half the work", .low = 0, .high = 100,
         .given = &s->clip.guidance_given},
        {"shift", 0, CLI_NUMBER, &s->clip.shift, "S", .help = "flow shift", .low = 0.001, .high = 1000,
         .given = &s->clip.shift_given},
        {"sampler", 0, CLI_CHOICE, &s->clip.sampler, "NAME", .help = "unipc (default) or euler",
         .choices = cli_samplers, .given = &s->clip.sampler_given},
        {"dtype", 0, CLI_CHOICE, &s->clip.dtype, "TYPE", .help = "of the arithmetic: auto (default), f32 or bf16",
         .choices = cli_dtypes, .given = &s->clip.dtype_given},
        {.help = "which attentions, and what of them"},
        {"capture-steps", 0, CLI_TEXT, &s->choice.steps, "LIST",
         .help = "of these steps: 0,4-6,last or all; default: at 1/4, 1/2 and\n3/4 of the run, or all of a file",
         .low = 1},
        {"capture-layers", 0, CLI_TEXT, &s->choice.layers, "LIST",
         .help = "of these layers; default: at most 6, evenly spaced, or all of\na file", .low = 1},
        {"capture-branches", 0, CLI_TEXT, &s->choice.branches, "LIST",
         .help = "0: with the prompt (default); 1: with the negative one", .low = 1},
        {"policies", 0, CLI_TEXT, &s->policies, "LIST",
         .help = "presets with settings, joined by +, such as\ndfs+dfs,order=raster; default: every preset", .low = 1},
        {"blocks", 0, CLI_WHOLE, &s->blocks, "N",
         .help = "query blocks of 128 looked at in every head; default: so many\nthat one attention takes seconds, at "
                 "least 8",
         .low = 1, .high = 1000000},
        {.help = "machine and output"},
        {"output", 'o', CLI_TEXT, &s->output, "FILE", .help = "the report; default fgattn-inspect.html", .low = 1},
        {"json", 0, CLI_TEXT, &s->json, "FILE", .help = "write all figures as JSON; - is standard output", .low = 1},
        {"threads", 't', CLI_WHOLE, &s->threads, "N", .help = "default: every processor this process may use", .low = 1,
         .high = 1024},
        {"variant", 0, CLI_TEXT, &s->variant, "NAME", .help = "force one kernel family; `fgattn doctor` lists them",
         .low = 1},
        {"quiet", 'q', CLI_FLAG, &s->quiet, NULL, .help = "print errors only"},
        {0},
    };
    const cli_verb verb = {
        "inspect",
        "(--capture FILE | --prompt TEXT) [options]",
        "Shows what attention looks like, how much of it could be skipped, and what every policy and the best "
        "possible\n"
        "mask make of it, as one HTML file that explains itself.",
        options,
        0,
        "  fgattn inspect --prompt \"a large red ball bouncing over a checkered floor\"\n"
        "  fgattn generate --prompt \"a red ball\" --capture ball.safetensors --capture-layers 0,3\n"
        "  fgattn inspect --capture ball.safetensors -o ball.html --json ball.json\n"
        "  fgattn inspect --prompt \"a red ball\" --size 832x480 --frames 81 --capture-steps 10 --policies dfs+sol\n",
    };
    return cli_parse(&verb, argc, argv, NULL);
}

static int check_settings(const settings *s)
{
    if ((s->input == NULL) == (s->prompt == NULL)) {
        return cli_fail(CLI_USAGE, s->input == NULL
                                       ? "inspect: nothing to look at; give --capture FILE or --prompt TEXT"
                                       : "inspect: --capture and --prompt are two things to look at; give one");
    }
    const char *generation = s->model != NULL ? "model" : s->negative != NULL ? "negative" : cli_clip_given(&s->clip);
    if (s->input != NULL && generation != NULL) {
        return cli_fail(CLI_USAGE, "inspect: --%s is for a generation; --capture brings what was captured", generation);
    }
    return CLI_DONE;
}

/* ---- while it runs ----------------------------------------------------------------------------------- */

static void clear_line(command *c)
{
    if (c->line_shown) {
        fprintf(stderr, "\r\033[K");
        c->line_shown = false;
    }
}

static void tell(void *user, const char *doing)
{
    command *c = user;
    if (!c->set.quiet && cli_is_terminal(stderr)) {
        fprintf(stderr, "\r\033[K%d of %d: %.60s", c->done + 1, c->total, doing);
        fflush(stderr);
        c->line_shown = true;
    }
}

static bool keep_going(void *user)
{
    (void)user;
    return !cli_interrupted();
}

/* ---- a file -------------------------------------------------------------------------------------------- */

/* The largest step, layer and branch of the file, plus 1. */
static void file_extent(const fgv_capture_file *file, int extent[3])
{
    extent[0] = extent[1] = extent[2] = 0;
    for (int i = 0; i < fgv_capture_count(file); i++) {
        fgv_capture c = fgv_capture_get(file, i);
        extent[0] = c.step >= extent[0] ? c.step + 1 : extent[0];
        extent[1] = c.layer >= extent[1] ? c.layer + 1 : extent[1];
        extent[2] = c.branch >= extent[2] ? c.branch + 1 : extent[2];
    }
}

static int choose_of_file(command *c)
{
    const cli_capture_choice *choice = &c->set.choice;
    int extent[3];
    file_extent(c->file, extent);
    int code = cli_choose("capture-steps", choice->steps != NULL ? choice->steps : "all", extent[0], &c->capture.steps);
    code = code == CLI_DONE ? cli_choose("capture-layers", choice->layers != NULL ? choice->layers : "all", extent[1],
                                         &c->capture.layers)
                            : code;
    return code == CLI_DONE ? cli_choose("capture-branches", choice->branches != NULL ? choice->branches : "all",
                                         extent[2], &c->capture.branches)
                            : code;
}

static int inspect_file(command *c)
{
    int code = cli_capture_open(c->ctx, c->set.input, &c->file);
    code = code == CLI_DONE ? choose_of_file(c) : code;
    if (code != CLI_DONE) {
        return code;
    }
    for (int i = 0; i < fgv_capture_count(c->file); i++) {
        fgv_capture capture = fgv_capture_get(c->file, i);
        c->total += cli_capture_wants(&c->capture, &capture);
    }
    if (c->total == 0) {
        return cli_fail(CLI_USAGE, "%s has none of the chosen steps, layers and branches", c->set.input);
    }
    fga_status status = FGA_OK;
    for (int i = 0; i < fgv_capture_count(c->file) && status == FGA_OK; i++) {
        fgv_capture capture = fgv_capture_get(c->file, i);
        if (cli_capture_wants(&c->capture, &capture)) {
            status = cli_study_add(&c->study, &capture);
            c->done++;
        }
    }
    clear_line(c);
    return status == FGA_OK ? CLI_DONE : cli_capture_fail(c->ctx, c->set.input, status);
}

/* ---- a generation --------------------------------------------------------------------------------------- */

static bool on_attention(void *user, const fgv_capture *inputs)
{
    command *c = user;
    if (cli_capture_wants(&c->capture, inputs)) {
        c->failed = cli_study_add(&c->study, inputs); /* dense attention has its tokens in raster order */
        c->done++;
        c->finished = c->done == c->total;
    }
    return c->failed == FGA_OK && !c->finished;
}

static bool on_progress(void *user, const fgv_progress *progress)
{
    command *c = user;
    char text[80];
    if (progress->stage == FGV_STAGE_DENOISE) {
        snprintf(text, sizeof text, "generating, step %d of %d", progress->done + 1, progress->total);
        tell(c, text);
    }
    return !cli_interrupted();
}

static int make_request(command *c, fgv_request *r)
{
    const settings *s = &c->set;
    *r = cli_clip_request(&s->clip, c->model);
    r->prompt = s->prompt;
    r->negative = s->negative != NULL ? s->negative : r->negative;
    r->measure_fraction = 0;
    r->on_attention = on_attention;
    r->on_progress = on_progress;
    r->user = c;
    uint64_t bytes = 0, available = cli_memory_available();
    fga_status status = fga_policy_parse(c->ctx, "dense", &r->policy);
    status = status == FGA_OK ? fgv_predict_memory(c->model, r, &bytes) : status;
    if (status != FGA_OK) {
        return cli_fail_status(c->ctx, status);
    }
    return bytes <= available
               ? CLI_DONE
               : cli_fail(CLI_NO_MEMORY,
                          "%dx%d, %d frames need about %s of memory and %s are available; choose a smaller "
                          "--size or fewer --frames",
                          r->width, r->height, r->frames, cli_bytes(bytes).text, cli_bytes(available).text);
}

/* At most six layers, evenly spaced, as a list. */
static void some_layers(int layers, char *list, size_t bytes)
{
    enum { MOST = 6 };
    int wanted = layers < MOST ? layers : MOST;
    size_t length = 0;
    for (int i = 0; i < wanted && length < bytes; i++) {
        int layer = wanted > 1 ? i * (layers - 1) / (wanted - 1) : 0;
        length += (size_t)snprintf(list + length, bytes - length, "%s%d", i > 0 ? "," : "", layer);
    }
}

static int inspect_generation(command *c)
{
    int code = cli_open_model(c->ctx, c->set.model, &c->model);
    fgv_request request;
    code = code == CLI_DONE ? make_request(c, &request) : code;
    if (code != CLI_DONE) {
        return code;
    }
    char layers[96];
    cli_capture_choice choice = c->set.choice;
    some_layers(fgv_model_describe(c->model).layers, layers, sizeof layers);
    choice.layers = choice.layers != NULL ? choice.layers : layers;
    code = cli_capture_choose(&choice, c->model, &request, &c->capture);
    if (code != CLI_DONE) {
        return code;
    }
    c->total = cli_chosen_count(&c->capture.steps) * cli_chosen_count(&c->capture.layers) *
               cli_chosen_count(&c->capture.branches);
    fga_status status = fgv_generate(c->model, &request, NULL);
    clear_line(c);
    if (c->failed == FGA_OK && c->finished) {
        return CLI_DONE; /* the rest of the generation is not needed */
    }
    return cli_fail_status(c->ctx, c->failed != FGA_OK ? c->failed : status);
}

/* ---- the command ------------------------------------------------------------------------------------------ */

static int write_report(command *c)
{
    char source[512];
    cli_page page = {0};
    if (c->set.input != NULL) {
        const char *slash = strrchr(c->set.input, '/');
        snprintf(source, sizeof source, "Captured attention: %s", slash != NULL ? slash + 1 : c->set.input);
    } else {
        snprintf(source, sizeof source, "A generation of: %.400s", c->set.prompt);
    }
    cli_inspect_page(&page, &c->study, source);
    int code = page.failed ? cli_fail(CLI_NO_MEMORY, "no memory for the report") : CLI_DONE;
    code = code == CLI_DONE ? cli_json_finish_text(&c->page, page.text) : code;
    cli_page_free(&page);
    if (code == CLI_DONE && c->json.file != NULL) {
        cJSON *object = cli_inspect_json(&c->study, source);
        code =
            object != NULL ? cli_json_finish(&c->json, object) : cli_fail(CLI_NO_MEMORY, "no memory for the figures");
        cJSON_Delete(object);
    }
    return code;
}

/* The figures that the page begins with. */
static void print_summary(const command *c, FILE *to)
{
    const study *s = &c->study;
    fprintf(to, "report     %s: %d captured attention%s, %d head%s, %lld tokens, %lld queries of each head looked at\n",
            c->set.output, s->count, s->count == 1 ? "" : "s", s->heads, s->heads == 1 ? "" : "s", (long long)s->tokens,
            (long long)s->queries);
    fprintf(to, "%-34s %10s %10s %10s\n", "output error / recall at cost", "0.1", "0.2", "0.3");
    for (int i = 0; i < s->line_count; i++) {
        if (s->lines[i].refused[0] != '\0') {
            fprintf(to, "%-34.34s left out: %s\n", s->lines[i].name, s->lines[i].refused);
            continue;
        }
        fprintf(to, "%-34.34s", s->lines[i].name);
        for (int k = 1; k <= 3; k++) {
            double error = cli_study_at_cost(s, i, 0.1 * k, true), recall = cli_study_at_cost(s, i, 0.1 * k, false);
            if (error == error) {
                fprintf(to, " %.3f/%.2f", error, recall);
            } else {
                fprintf(to, " %10s", "-");
            }
        }
        fputc('\n', to);
    }
}

static int carry_out(command *c)
{
    const settings *s = &c->set;
    int code = cli_open_context(s->threads, s->variant, &c->ctx);
    if (code != CLI_DONE) {
        return code;
    }
    c->study = (study){.ctx = c->ctx, .blocks = s->blocks, .tell = tell, .keep_going = keep_going, .user = c};
    code = cli_study_begin(&c->study, s->policies);
    code = code == CLI_DONE ? cli_json_begin(&c->page, s->output) : code;
    code = code == CLI_DONE ? cli_json_begin(&c->json, s->json) : code;
    code = code == CLI_DONE ? (s->input != NULL ? inspect_file(c) : inspect_generation(c)) : code;
    code = code == CLI_DONE ? write_report(c) : code;
    if (code == CLI_DONE && !s->quiet) {
        print_summary(c, s->json != NULL && strcmp(s->json, "-") == 0 ? stderr : stdout);
    }
    return code;
}

int cli_inspect(int argc, char **argv)
{
    command *c = calloc(1, sizeof *c); /* large: it holds every setting of every policy */
    if (c == NULL) {
        return cli_fail(CLI_NO_MEMORY, "no memory to inspect anything");
    }
    c->set.output = "fgattn-inspect.html";
    int code = read_settings(argc, argv, &c->set);
    code = code == CLI_DONE ? check_settings(&c->set) : code;
    if (code == CLI_DONE) {
        cli_catch_interrupt();
        code = carry_out(c);
    }
    cli_json_abandon(&c->page);
    cli_json_abandon(&c->json);
    cli_study_free(&c->study);
    cli_capture_free(&c->capture);
    fgv_capture_close(&c->file);
    fgv_model_close(&c->model);
    fga_context_destroy(&c->ctx);
    free(c);
    return code;
}
