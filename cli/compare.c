/* compare.c - `fgattn compare A B`: how far video A is from the reference B, over all and frame by frame. */
#include "job.h"
#include "json.h"
#include "plot.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

typedef struct video {
    const char *path;
    uint8_t *rgb; /* [frames][height][width][3] */
    int width, height, frames;
    double fps;
} video;

typedef struct settings {
    const char *paths[2], *json, *plot, *side;
    bool summary;
    int threads;
} settings;

typedef struct comparison {
    settings set;
    fga_context *ctx;
    video a, b;
    fgv_comparison all;
    double *psnr, *ssim; /* [frames] */
    cli_place json, plot;
    fgv_writer *side; /* NULL: nobody asked */
} comparison;

/* Reading and measuring cannot be stopped halfway: the signal is looked for after each. */
static int unless_interrupted(int code)
{
    return code == CLI_DONE && cli_interrupted() ? cli_fail(CLI_INTERRUPTED, "interrupted; nothing was written") : code;
}

static int read_video(fga_context *ctx, const char *path, video *v)
{
    v->path = path;
    fga_status status = fgv_read_video(ctx, path, &v->rgb, &v->width, &v->height, &v->frames, &v->fps);
    if (status == FGA_OK) {
        return CLI_DONE;
    }
    int code = cli_fail_status(ctx, status);
    return status == FGA_ERR_IO || status == FGA_ERR_ARGUMENT ? CLI_BAD_DATA : code;
}

static int check_same_shape(const video *a, const video *b)
{
    if (a->width != b->width || a->height != b->height || a->frames != b->frames) {
        return cli_fail(CLI_BAD_DATA, "%s is %dx%d with %d frames and %s is %dx%d with %d: only like can be compared",
                        a->path, a->width, a->height, a->frames, b->path, b->width, b->height, b->frames);
    }
    return CLI_DONE;
}

static int measure(comparison *c)
{
    c->psnr = calloc((size_t)c->a.frames, sizeof *c->psnr);
    c->ssim = calloc((size_t)c->a.frames, sizeof *c->ssim);
    if (c->psnr == NULL || c->ssim == NULL) {
        return cli_fail(CLI_NO_MEMORY, "no memory for %d frames", c->a.frames);
    }
    fga_status status =
        fgv_compare(c->ctx, c->a.rgb, c->b.rgb, c->a.width, c->a.height, c->a.frames, &c->all, c->psnr, c->ssim);
    return status == FGA_OK ? CLI_DONE : cli_fail_status(c->ctx, status);
}

/* ---- outputs ------------------------------------------------------------------------------------- */

/* What cannot be written is found out before anything is read; a video needs its size to be opened. */
static int open_outputs(comparison *c)
{
    int code = cli_json_begin(&c->json, c->set.json);
    code = code == CLI_DONE ? cli_place_begin(&c->plot, c->set.plot) : code;
    return code == CLI_DONE && c->set.side != NULL ? cli_place_check(c->set.side) : code;
}

static void print_tables(const comparison *c, bool frames, FILE *file)
{
    fprintf(file, "%s against %s: %dx%d, %d frames\n", c->a.path, c->b.path, c->a.width, c->a.height, c->a.frames);
    fprintf(file, "PSNR           %s\n", cli_decibel(c->all.psnr_db).text);
    fprintf(file, "PSNR, moving   %s\n", cli_decibel(c->all.psnr_moving_db).text);
    fprintf(file, "SSIM           %.4f\n", c->all.ssim);
    if (frames) {
        fprintf(file, "\n%-8s%12s%10s\n", "frame", "PSNR", "SSIM");
        for (int i = 0; i < c->a.frames; i++) {
            fprintf(file, "%-8d%12s%10.4f\n", i, cli_decibel(c->psnr[i]).text, c->ssim[i]);
        }
    }
}

static cJSON *as_json(const comparison *c)
{
    cJSON *object = cJSON_CreateObject();
    cJSON *frames = object != NULL ? cJSON_CreateArray() : NULL;
    if (frames == NULL) {
        cJSON_Delete(object);
        return NULL;
    }
    cli_json_number(object, "width", c->a.width);
    cli_json_number(object, "height", c->a.height);
    cli_json_number(object, "psnr_db", c->all.psnr_db);
    cli_json_number(object, "psnr_moving_db", c->all.psnr_moving_db);
    cli_json_number(object, "ssim", c->all.ssim);
    for (int i = 0; i < c->a.frames; i++) {
        cJSON *frame = cJSON_CreateObject();
        cli_json_number(frame, "psnr_db", c->psnr[i]);
        cli_json_number(frame, "ssim", c->ssim[i]);
        cJSON_AddItemToArray(frames, frame);
    }
    cJSON_AddItemToObject(object, "frames", frames);
    return object;
}

static int write_plot(comparison *c)
{
    char title[512];
    snprintf(title, sizeof title, "%.200s against %.200s", c->a.path, c->b.path);
    const cli_series series[] = {{"PSNR in dB", c->psnr}, {"SSIM", c->ssim}};
    cli_plot_draw(c->plot.file, title, "frame", series, 2, c->a.frames);
    return cli_place_finish(&c->plot) ? CLI_DONE
                                      : cli_fail(CLI_ERROR, "cannot write %s: %s", c->set.plot, strerror(errno));
}

/* Of B, or else of A: PNG frames and some y4m files have none, or none that a video can have. */
static double frame_rate(const comparison *c)
{
    const double wan = 16, rates[] = {c->b.fps, c->a.fps};
    for (int i = 0; i < 2; i++) {
        if (rates[i] >= 0.1 && rates[i] <= 1000) {
            return rates[i];
        }
    }
    return wan;
}

static int open_side_by_side(comparison *c)
{
    fga_status status = fgv_writer_open(c->ctx, c->set.side, 2 * c->a.width, c->a.height, frame_rate(c), &c->side);
    if (status != FGA_OK) {
        return cli_fail_status(c->ctx, status);
    }
    cli_note_unfinished_video(c->set.side, c->a.frames);
    return CLI_DONE;
}

/* A on the left, B on the right. */
static int write_side_by_side(comparison *c)
{
    size_t line = (size_t)c->a.width * 3;
    size_t height = (size_t)c->a.height;
    uint8_t *both = malloc(2 * line * height);
    if (both == NULL) {
        return cli_fail(CLI_NO_MEMORY, "no memory for a frame of %s", c->set.side);
    }
    fga_status status = FGA_OK;
    for (int i = 0; i < c->a.frames && status == FGA_OK && !cli_interrupted(); i++) {
        for (size_t y = 0; y < height; y++) {
            size_t from = ((size_t)i * height + y) * line;
            memcpy(both + 2 * y * line, c->a.rgb + from, line);
            memcpy(both + (2 * y + 1) * line, c->b.rgb + from, line);
        }
        status = fgv_writer_frame(c->side, both);
    }
    free(both);
    return status == FGA_OK ? CLI_DONE : cli_fail_status(c->ctx, status);
}

static int write_json(comparison *c)
{
    cJSON *object = as_json(c);
    if (object == NULL) {
        return cli_fail(CLI_NO_MEMORY, "no memory for the JSON text");
    }
    int code = cli_json_finish(&c->json, object);
    cJSON_Delete(object);
    return code;
}

/* Gives everything its name: from here on it is too late to stop. */
static int finish(comparison *c)
{
    fga_status status = c->side != NULL ? fgv_writer_finish(&c->side) : FGA_OK;
    int code = status == FGA_OK ? CLI_DONE : cli_fail_status(c->ctx, status);
    code = code == CLI_DONE && c->plot.file != NULL ? write_plot(c) : code;
    if (code == CLI_DONE) {
        print_tables(c, !c->set.summary, c->json.file == stdout ? stderr : stdout);
        code = c->json.file != NULL ? write_json(c) : CLI_DONE;
    }
    return code;
}

/* ---- the command ---------------------------------------------------------------------------------- */

static int read_settings(int argc, char **argv, settings *s)
{
    const cli_option options[] = {
        {"summary", 0, CLI_FLAG, &s->summary, NULL, .help = "leave out the table of frames"},
        {"json", 0, CLI_TEXT, &s->json, "FILE", .help = "write the figures as JSON; - is standard output", .low = 1},
        {"plot", 0, CLI_TEXT, &s->plot, "FILE", .help = "draw PSNR and SSIM over the frames, as SVG", .low = 1},
        {"side-by-side", 0, CLI_TEXT, &s->side, "FILE", .help = "write a video with A on the left and B on the right",
         .low = 1},
        {"threads", 't', CLI_WHOLE, &s->threads, "N", .help = "default: every processor this process may use", .low = 1,
         .high = 1024},
        {0},
    };
    const cli_verb verb = {
        "compare",
        "A B [options]",
        "Says how far video A is from the reference video B: PSNR over all pixels, PSNR over the pixels that change\n"
        "from frame to frame in B, and SSIM on brightness. Reads .y4m, .png, .apng, and through ffmpeg what it reads.",
        options,
        2,
        "  fgattn compare sparse.mp4 dense.mp4\n"
        "  fgattn compare sparse.y4m dense.y4m --summary --plot quality.svg --side-by-side both.mp4\n",
    };
    return cli_parse(&verb, argc, argv, s->paths);
}

static int carry_out(comparison *c)
{
    int code = cli_open_context(c->set.threads, NULL, &c->ctx);
    code = code == CLI_DONE ? open_outputs(c) : code;
    code = code == CLI_DONE ? unless_interrupted(read_video(c->ctx, c->set.paths[0], &c->a)) : code;
    code = code == CLI_DONE ? unless_interrupted(read_video(c->ctx, c->set.paths[1], &c->b)) : code;
    code = code == CLI_DONE ? check_same_shape(&c->a, &c->b) : code;
    code = code == CLI_DONE && c->set.side != NULL ? open_side_by_side(c) : code;
    code = code == CLI_DONE ? unless_interrupted(measure(c)) : code;
    code = code == CLI_DONE && c->side != NULL ? unless_interrupted(write_side_by_side(c)) : code;
    return code == CLI_DONE ? finish(c) : code;
}

int cli_compare(int argc, char **argv)
{
    comparison c = {0};
    int code = read_settings(argc, argv, &c.set);
    if (code == CLI_DONE) {
        cli_catch_interrupt();
        code = carry_out(&c);
    }
    fgv_writer_abandon(&c.side);
    cli_place_abandon(&c.plot);
    cli_json_abandon(&c.json);
    free(c.psnr);
    free(c.ssim);
    fgv_free(c.a.rgb);
    fgv_free(c.b.rgb);
    fga_context_destroy(&c.ctx);
    return code;
}
