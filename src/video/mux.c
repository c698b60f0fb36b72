/* fgv_writer: chooses the format by the name, writes beside the final name and renames when complete. */
#include "video/mux.h"

#include "base/error.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>
#include <unistd.h>

static const fgv_format *const formats[] = {&fgv_format_mp4, &fgv_format_png, &fgv_format_apng, &fgv_format_y4m,
                                            &fgv_format_gif};

static const fgv_format *format_of(const char *path)
{
    size_t length = strlen(path);
    for (size_t i = 0; i < sizeof formats / sizeof formats[0]; i++) {
        size_t suffix = strlen(formats[i]->suffix);
        if (length > suffix && path[length - suffix - 1] != '/' &&
            strcasecmp(path + length - suffix, formats[i]->suffix) == 0) {
            return formats[i];
        }
    }
    return NULL;
}

void fgv_fps_ratio(double fps, int *numerator, int *denominator)
{
    double ntsc = fps * 1.001;
    if (fabs(fps - round(fps)) < 1e-6 && fps >= 1) {
        *numerator = (int)lround(fps);
        *denominator = 1;
    } else if (fabs(ntsc - round(ntsc)) < 1e-4 && ntsc >= 1) {
        *numerator = 1000 * (int)lround(ntsc);
        *denominator = 1001;
    } else {
        *numerator = (int)lround(fps * 1000);
        *denominator = 1000;
    }
}

fga_status fgv_writer_io_error(fgv_writer *writer, const char *path)
{
    return fga_context_fail(writer->ctx, FGA_ERR_IO, "cannot write %s: %s", path, strerror(errno));
}

fga_status fgv_writer_open_part(fgv_writer *writer)
{
    writer->file = fopen(writer->part, "wbe");
    writer->has_part = writer->file != NULL;
    return writer->has_part ? FGA_OK : fgv_writer_io_error(writer, writer->part);
}

fga_status fgv_writer_put(fgv_writer *writer, const void *bytes, size_t count)
{
    if (fwrite(bytes, 1, count, writer->file) != count) {
        return fgv_writer_io_error(writer, writer->part);
    }
    return FGA_OK;
}

fga_status fgv_writer_close_part(fgv_writer *writer)
{
    FILE *file = writer->file;
    writer->file = NULL;
    return fclose(file) == 0 ? FGA_OK : fgv_writer_io_error(writer, writer->part);
}

fga_status fgv_writer_rename(fgv_writer *writer, const char *from, const char *to)
{
    if (rename(from, to) != 0) {
        return fga_context_fail(writer->ctx, FGA_ERR_IO, "cannot rename %s to %s: %s", from, to, strerror(errno));
    }
    return FGA_OK;
}

fga_status fgv_writer_publish_part(fgv_writer *writer)
{
    FGA_TRY(fgv_writer_rename(writer, writer->part, writer->path));
    writer->has_part = false;
    return FGA_OK;
}

void fgv_writer_discard_part(fgv_writer *writer)
{
    if (writer->file != NULL) {
        fclose(writer->file);
        writer->file = NULL;
    }
    if (writer->has_part) {
        unlink(writer->part);
    }
}

static fga_status check_arguments(fga_context *ctx, const char *path, int width, int height, double fps)
{
    if (path == NULL || format_of(path) == NULL) {
        return fga_context_fail(ctx, FGA_ERR_ARGUMENT,
                                "output %s: want a name ending in .mp4, .png, .apng, .y4m or .gif",
                                path != NULL ? path : "(null)");
    }
    if (width < 1 || height < 1 || width > FGV_MAX_SIDE || height > FGV_MAX_SIDE) {
        return fga_context_fail(ctx, FGA_ERR_ARGUMENT, "output %s: size %dx%d, want 1x1 to %dx%d", path, width, height,
                                FGV_MAX_SIDE, FGV_MAX_SIDE);
    }
    if (!(fps >= 0.1 && fps <= 1000)) {
        return fga_context_fail(ctx, FGA_ERR_ARGUMENT, "output %s: %g frames per second, want 0.1 to 1000", path, fps);
    }
    struct stat at;
    if (stat(path, &at) == 0 && !S_ISREG(at.st_mode)) { /* rename would replace a device or fail at the very end */
        return fga_context_fail(ctx, FGA_ERR_ARGUMENT, "output %s exists and is not a regular file", path);
    }
    return FGA_OK;
}

static void destroy(fgv_writer *writer)
{
    if (writer != NULL) {
        free(writer->path);
        free(writer->part);
        free(writer);
    }
}

fga_status fgv_writer_open(fga_context *ctx, const char *path, int width, int height, double fps, fgv_writer **out)
{
    *out = NULL;
    FGA_TRY(check_arguments(ctx, path, width, height, fps));
    fgv_writer *writer = calloc(1, sizeof *writer);
    size_t length = strlen(path);
    if (writer != NULL) {
        *writer = (fgv_writer){.ctx = ctx, .format = format_of(path), .width = width, .height = height, .fps = fps};
        writer->path = strdup(path);
        writer->part = malloc(length + sizeof ".part");
    }
    if (writer == NULL || writer->path == NULL || writer->part == NULL) {
        destroy(writer);
        return fga_context_fail(ctx, FGA_ERR_MEMORY, "no memory to open %s", path);
    }
    memcpy(writer->part, path, length);
    strcpy(writer->part + length, ".part");
    fga_status status = writer->format->open(writer);
    if (status != FGA_OK) {
        writer->format->close(writer);
        destroy(writer);
        return status;
    }
    *out = writer;
    return FGA_OK;
}

fga_status fgv_writer_frame(fgv_writer *writer, const uint8_t *rgb)
{
    if (writer->failed) { /* the reason was reported; do not bury it under a second one */
        return FGA_ERR_IO;
    }
    fga_status status = writer->format->frame(writer, rgb);
    if (status == FGA_OK) {
        writer->frames++;
    } else {
        writer->failed = true;
    }
    return status;
}

fga_status fgv_writer_finish(fgv_writer **handle)
{
    fgv_writer *writer = *handle;
    fga_status status = writer->failed ? FGA_ERR_IO : FGA_OK;
    if (status == FGA_OK && writer->frames == 0) {
        status = fga_context_fail(writer->ctx, FGA_ERR_ARGUMENT, "output %s: no frame was written", writer->path);
    }
    if (status == FGA_OK) {
        status = writer->format->finish(writer);
    }
    if (status == FGA_OK) {
        status = writer->format->publish(writer);
    }
    fgv_writer_abandon(handle);
    return status;
}

void fgv_writer_abandon(fgv_writer **handle)
{
    if (handle != NULL && *handle != NULL) {
        (*handle)->format->close(*handle);
        destroy(*handle);
        *handle = NULL;
    }
}
