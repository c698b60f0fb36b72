/* NAME.png stands for NAME-0000.png, NAME-0001.png ...: a file per frame, all renamed at the end. */
#include "video/mux.h"
#include "video/png_codec.h"

#include "base/error.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef struct frames {
    fgv_bytes png;
    char *part, *name; /* of the frame at hand */
    size_t bytes;      /* in each */
    int64_t started;   /* .part files that may exist */
} frames;

static void set_names(const fgv_writer *writer, frames *f, int64_t index)
{
    int stem = (int)(strlen(writer->path) - strlen(".png"));
    snprintf(f->name, f->bytes, "%.*s-%04lld%s", stem, writer->path, (long long)index, writer->path + stem);
    snprintf(f->part, f->bytes, "%.*s-%04lld%s.part", stem, writer->path, (long long)index, writer->path + stem);
}

static fga_status png_open(fgv_writer *writer)
{
    frames *f = calloc(1, sizeof *f);
    writer->state = f;
    if (f != NULL) {
        f->bytes = strlen(writer->path) + 32;
        f->name = malloc(f->bytes);
        f->part = malloc(f->bytes);
    }
    if (f == NULL || f->name == NULL || f->part == NULL) {
        return fga_context_fail(writer->ctx, FGA_ERR_MEMORY, "no memory to write %s", writer->path);
    }
    /* An unwritable directory should be known now, not after an hour of work. */
    set_names(writer, f, 0);
    FILE *file = fopen(f->part, "wbe");
    if (file == NULL) {
        return fgv_writer_io_error(writer, f->part);
    }
    f->started = 1;
    fclose(file);
    return FGA_OK;
}

static fga_status png_frame(fgv_writer *writer, const uint8_t *rgb)
{
    frames *f = writer->state;
    FGA_TRY(fgv_png_encode(writer->ctx, rgb, writer->width, writer->height, &f->png));
    set_names(writer, f, writer->frames);
    FILE *file = fopen(f->part, "wbe");
    if (file == NULL) {
        return fgv_writer_io_error(writer, f->part);
    }
    f->started = writer->frames + 1;
    bool written = fwrite(f->png.data, 1, f->png.size, file) == f->png.size;
    if (fclose(file) != 0 || !written) {
        return fgv_writer_io_error(writer, f->part);
    }
    return FGA_OK;
}

static fga_status png_finish(fgv_writer *writer)
{
    (void)writer; /* each frame was closed and checked when it was written */
    return FGA_OK;
}

static fga_status png_publish(fgv_writer *writer)
{
    frames *f = writer->state;
    for (int64_t i = 0; i < writer->frames; i++) {
        set_names(writer, f, i);
        fga_status status = fgv_writer_rename(writer, f->part, f->name);
        if (status != FGA_OK) { /* all or nothing */
            for (int64_t done = 0; done < i; done++) {
                set_names(writer, f, done);
                unlink(f->name);
            }
            return status;
        }
    }
    /* Frames of an earlier, longer video of this name would read as the end of this one. */
    for (int64_t i = writer->frames;; i++) {
        set_names(writer, f, i);
        if (unlink(f->name) != 0) {
            return FGA_OK;
        }
    }
}

static void png_close(fgv_writer *writer)
{
    frames *f = writer->state;
    if (f == NULL) {
        return;
    }
    for (int64_t i = 0; i < f->started; i++) {
        set_names(writer, f, i);
        unlink(f->part);
    }
    free(f->png.data);
    free(f->name);
    free(f->part);
    free(f);
}

const fgv_format fgv_format_png = {".png", png_open, png_frame, png_finish, png_publish, png_close};
