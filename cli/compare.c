/* compare.c - `fgattn compare A B`: how far video A is from the reference B, over all and frame by frame. */
#include "json.h"
#include "plot.h"

#include <stdlib.h>
#include <string.h>

typedef struct video {
    const char *path;
    uint8_t *rgb; /* [frames][height][width][3] */
    int width, height, frames;
    double fps;
} video;

typedef struct comparison {
    fga_context *ctx;
    video a, b;
    fgv_comparison all;
    double *psnr, *ssim; /* [frames] */
} comparison;

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

static int write_plot(const comparison *c, const char *path)
{
    char title[512];
    snprintf(title, sizeof title, "%.200s against %.200s", c->a.path, c->b.path);
    const cli_series series[] = {{"PSNR in dB", c->psnr}, {"SSIM", c->ssim}};
    return cli_plot_write(path, title, "frame", series, 2, c->a.frames);
}

/* A on the left, B on the right. */
static int write_side_by_side(const comparison *c, const char *path)
{
    size_t line = (size_t)c->a.width * 3;
    size_t height = (size_t)c->a.height;
    uint8_t *both = malloc(2 * line * height);
    if (both == NULL) {
        return cli_fail(CLI_NO_MEMORY, "no memory for a frame of %s", path);
    }
    fgv_writer *writer = NULL;
    fga_status status = fgv_writer_open(c->ctx, path, 2 * c->a.width, c->a.height, c->b.fps, &writer);
    for (int i = 0; i < c->a.frames && status == FGA_OK && !cli_interrupted(); i++) {
        for (size_t y = 0; y < height; y++) {
            size_t from = ((size_t)i * height + y) * line;
            memcpy(both + 2 * y * line, c->a.rgb + from, line);
            memcpy(both + (2 * y + 1) * line, c->b.rgb + from, line);
        }
        status = fgv_writer_frame(writer, both);
    }
    free(both);
    int code = CLI_DONE;
    if (status == FGA_OK && cli_interrupted()) {
        code = cli_fail(CLI_INTERRUPTED, "interrupted; nothing was written to %s", path);
    } else if (status == FGA_OK) {
        status = fgv_writer_finish(&writer);
    }
    fgv_writer_abandon(&writer);
    return status == FGA_OK ? code : cli_fail_status(c->ctx, status);
}

static int write_json(const comparison *c, cli_json *json)
{
    cJSON *object = as_json(c);
    if (object == NULL) {
        return cli_fail(CLI_NO_MEMORY, "no memory for the JSON text");
    }
    int code = cli_json_finish(json, object);
    cJSON_Delete(object);
    return code;
}

/* ---- the command ---------------------------------------------------------------------------------- */

int cli_compare(int argc, char **argv)
{
    const char *json_path = NULL, *plot = NULL, *side = NULL, *paths[2];
    bool summary = false;
    int threads = 0;
    const cli_option options[] = {
        {"summary", 0, CLI_FLAG, &summary, NULL, .help = "leave out the table of frames"},
        {"json", 0, CLI_TEXT, &json_path, "FILE", .help = "write the figures as JSON; - is standard output", .low = 1},
        {"plot", 0, CLI_TEXT, &plot, "FILE", .help = "draw PSNR and SSIM over the frames, as SVG", .low = 1},
        {"side-by-side", 0, CLI_TEXT, &side, "FILE", .help = "write a video with A on the left and B on the right",
         .low = 1},
        {"threads", 't', CLI_WHOLE, &threads, "N", .help = "default: every processor this process may use", .low = 1,
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
    int code = cli_parse(&verb, argc, argv, paths);
    if (code != CLI_DONE) {
        return code;
    }
    comparison c = {0};
    cli_json json = {0};
    cli_catch_interrupt(side, NULL);
    fga_context_options machine = fga_context_options_default();
    machine.threads = threads;
    fga_status status = fga_context_create(&machine, &c.ctx);
    code = status == FGA_OK ? CLI_DONE : cli_fail_status(NULL, status);
    code = code == CLI_DONE ? cli_json_begin(&json, json_path) : code;
    code = code == CLI_DONE ? read_video(c.ctx, paths[0], &c.a) : code;
    code = code == CLI_DONE ? read_video(c.ctx, paths[1], &c.b) : code;
    code = code == CLI_DONE ? check_same_shape(&c.a, &c.b) : code;
    code = code == CLI_DONE ? measure(&c) : code;
    code = code == CLI_DONE && plot != NULL ? write_plot(&c, plot) : code;
    code = code == CLI_DONE && side != NULL ? write_side_by_side(&c, side) : code;
    if (code == CLI_DONE) {
        print_tables(&c, !summary, json.file == stdout ? stderr : stdout);
        code = json.file != NULL ? write_json(&c, &json) : CLI_DONE;
    }
    cli_json_abandon(&json);
    free(c.psnr);
    free(c.ssim);
    fgv_free(c.a.rgb);
    fgv_free(c.b.rgb);
    fga_context_destroy(&c.ctx);
    return code;
}
