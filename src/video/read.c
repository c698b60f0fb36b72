/* fgv_read_video: y4m, PNG frames and our kind of APNG natively, everything else through the ffmpeg program. */
#include "video/read.h"

#include "base/error.h"
#include "video/mux.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>

void fgv_clip_clear(fgv_clip *clip)
{
    free(clip->rgb);
    *clip = (fgv_clip){0};
}

fga_status fgv_clip_grow(fga_context *ctx, const char *path, fgv_clip *clip, uint8_t **frame)
{
    size_t bytes = (size_t)clip->width * (size_t)clip->height * 3;
    if (clip->frames == INT_MAX) {
        return fga_context_fail(ctx, FGA_ERR_DATA, "%s has too many frames", path);
    }
    if (bytes > clip->capacity - clip->bytes) {
        size_t capacity = clip->capacity + clip->capacity / 2 + bytes;
        uint8_t *grown = realloc(clip->rgb, capacity);
        if (grown == NULL) {
            return fga_context_fail(ctx, FGA_ERR_MEMORY, "%s: no memory for frame %d of %dx%d", path, clip->frames,
                                    clip->width, clip->height);
        }
        clip->rgb = grown;
        clip->capacity = capacity;
    }
    *frame = clip->rgb + clip->bytes;
    clip->bytes += bytes;
    clip->frames++;
    return FGA_OK;
}

fga_status fgv_read_file(fga_context *ctx, const char *path, fgv_bytes *bytes)
{
    FILE *file = fopen(path, "rbe");
    if (file == NULL) {
        return fga_context_fail(ctx, FGA_ERR_IO, "cannot read %s: %s", path, strerror(errno));
    }
    fga_status status = FGA_OK;
    bytes->size = 0;
    for (size_t got = 1; got > 0;) {
        if (bytes->size == bytes->capacity) {
            size_t capacity = bytes->capacity * 2 + 65536;
            uint8_t *grown = realloc(bytes->data, capacity);
            if (grown == NULL) {
                status = fga_context_fail(ctx, FGA_ERR_MEMORY, "%s: no memory to read it", path);
                break;
            }
            bytes->data = grown;
            bytes->capacity = capacity;
        }
        got = fread(bytes->data + bytes->size, 1, bytes->capacity - bytes->size, file);
        bytes->size += got;
    }
    if (status == FGA_OK && ferror(file)) {
        status = fga_context_fail(ctx, FGA_ERR_IO, "cannot read %s: %s", path, strerror(errno));
    }
    fclose(file);
    return status;
}

static bool ends_in(const char *path, const char *suffix)
{
    size_t length = strlen(path), tail = strlen(suffix);
    return length >= tail && strcasecmp(path + length - tail, suffix) == 0;
}

static fga_status read_clip(fga_context *ctx, const char *path, fgv_clip *clip)
{
    if (ends_in(path, ".png")) {
        return fgv_read_png_frames(ctx, path, clip);
    }
    struct stat at; /* before ffmpeg says it in its words */
    if (stat(path, &at) != 0) {
        return fga_context_fail(ctx, FGA_ERR_IO, "cannot read %s: %s", path, strerror(errno));
    }
    if (S_ISDIR(at.st_mode)) {
        return fga_context_fail(ctx, FGA_ERR_IO, "cannot read %s: it is a directory", path);
    }
    if (ends_in(path, ".y4m")) {
        return fgv_read_y4m(ctx, path, clip);
    }
    if (ends_in(path, ".apng")) {
        bool ours;
        fga_status status = fgv_read_apng(ctx, path, clip, &ours);
        if (status != FGA_OK || ours) {
            return status;
        }
    }
    return fgv_read_ffmpeg(ctx, path, clip);
}

fga_status fgv_read_video(fga_context *ctx, const char *path, uint8_t **rgb, int *width, int *height, int *frames,
                          double *fps)
{
    fgv_clip clip = {0};
    *rgb = NULL;
    if (path == NULL) {
        return fga_context_fail(ctx, FGA_ERR_ARGUMENT, "no video to read: the path is NULL");
    }
    fga_status status = read_clip(ctx, path, &clip);
    if (status == FGA_OK && clip.frames == 0) {
        status = fga_context_fail(ctx, FGA_ERR_DATA, "%s has no frames", path);
    }
    if (status != FGA_OK) {
        fgv_clip_clear(&clip);
        return status;
    }
    *rgb = clip.rgb;
    *width = clip.width;
    *height = clip.height;
    *frames = clip.frames;
    *fps = clip.fps;
    return FGA_OK;
}
