/* MP4 (H.264) and GIF: raw frames piped to the ffmpeg program, so that no codec is linked. One thread and its bit-exact
 * flags: the same frames give the same file. */
#include "video/child.h"
#include "video/mux.h"

#include "base/error.h"

#include <stdlib.h>

typedef struct ffmpeg {
    fgv_child child;
    char size[32], rate[32];
} ffmpeg;

/* ffmpeg gets our open NAME.part and not its name: where this program ends at once and removes it, an ffmpeg that lives
 * for another moment has no name to create it under again. */
static const char part_url[] = "file:/proc/self/fd/" FGV_CHILD_FILE;

/* -xerror: without it a full disk still ends with status 0. */
#define INPUT(f) \
    "ffmpeg", "-nostdin", "-hide_banner", "-loglevel", "error", "-xerror", "-y", "-f", "rawvideo", "-pix_fmt", \
        "rgb24", "-s", (f)->size, "-r", (f)->rate, "-i", "pipe:0", "-threads", "1", "-filter_threads", "1", "-flags", \
        "+bitexact", "-fflags", "+bitexact"

static fga_status start(fgv_writer *writer, const char *const *argv)
{
    ffmpeg *f = writer->state;
    FGA_TRY(fgv_writer_open_part(writer));
    fga_status status = fgv_child_start_writer(writer->ctx, &f->child, argv, fileno(writer->file));
    fga_status closed = fgv_writer_close_part(writer);
    return status != FGA_OK ? status : closed;
}

static fga_status prepare(fgv_writer *writer)
{
    ffmpeg *f = calloc(1, sizeof *f);
    writer->state = f;
    if (f == NULL) {
        return fga_context_fail(writer->ctx, FGA_ERR_MEMORY, "no memory to write %s", writer->path);
    }
    f->child = (fgv_child){.in = -1, .out = -1, .errors = -1};
    int numerator, denominator;
    fgv_fps_ratio(writer->fps, &numerator, &denominator);
    snprintf(f->size, sizeof f->size, "%dx%d", writer->width, writer->height);
    snprintf(f->rate, sizeof f->rate, "%d/%d", numerator, denominator);
    return FGA_OK;
}

/* H.264 as every player takes it: 4:2:0, BT.709 and tagged so, index in front. */
static fga_status mp4_open(fgv_writer *writer)
{
    if (writer->width % 2 != 0 || writer->height % 2 != 0) {
        return fga_context_fail(writer->ctx, FGA_ERR_ARGUMENT,
                                "output %s: size %dx%d, MP4 wants even numbers (.png, .apng and .y4m take any)",
                                writer->path, writer->width, writer->height);
    }
    FGA_TRY(prepare(writer));
    ffmpeg *f = writer->state;
    const char *const argv[] = {INPUT(f),
                                "-vf",
                                "scale=out_color_matrix=bt709:out_range=tv:flags=accurate_rnd+full_chroma_int+bitexact",
                                "-c:v",
                                "libx264",
                                "-preset",
                                "faster",
                                "-crf",
                                "16",
                                "-pix_fmt",
                                "yuv420p",
                                "-colorspace",
                                "bt709",
                                "-color_primaries",
                                "bt709",
                                "-color_trc",
                                "bt709",
                                "-color_range",
                                "tv",
                                "-movflags",
                                "+faststart",
                                "-f",
                                "mp4",
                                part_url,
                                NULL};
    return start(writer, argv);
}

static fga_status gif_open(fgv_writer *writer)
{
    FGA_TRY(prepare(writer));
    ffmpeg *f = writer->state;
    const char *const argv[] = {
        INPUT(f), "-filter_complex", "split[a][b];[a]palettegen[p];[b][p]paletteuse", "-f", "gif", part_url, NULL};
    return start(writer, argv);
}

static fga_status ffmpeg_frame(fgv_writer *writer, const uint8_t *rgb)
{
    ffmpeg *f = writer->state;
    fga_status status = fgv_child_write(&f->child, rgb, (size_t)writer->width * (size_t)writer->height * 3);
    if (status != FGA_OK && fgv_child_wait(&f->child, writer->path, true) == FGA_OK) { /* its own words say more */
        return fga_context_fail(writer->ctx, status, "%s: ffmpeg ended before the last frame", writer->path);
    }
    return status;
}

static fga_status ffmpeg_finish(fgv_writer *writer)
{
    return fgv_child_wait(&((ffmpeg *)writer->state)->child, writer->path, true);
}

static void ffmpeg_close(fgv_writer *writer)
{
    ffmpeg *f = writer->state;
    if (f == NULL) {
        return;
    }
    fgv_child_kill(&f->child);
    free(f);
    fgv_writer_discard_part(writer);
}

const fgv_format fgv_format_mp4 = {".mp4",      mp4_open, ffmpeg_frame, ffmpeg_finish, fgv_writer_publish_part,
                                   ffmpeg_close};
const fgv_format fgv_format_gif = {".gif",      gif_open, ffmpeg_frame, ffmpeg_finish, fgv_writer_publish_part,
                                   ffmpeg_close};
