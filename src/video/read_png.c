/* PNG frames (NAME.png: NAME-0000.png, NAME-0001.png ... or, where there is none, the picture NAME.png itself) and
 * animated PNGs whose every frame covers and replaces the canvas, as ours do. */
#include "video/read.h"

#include "base/error.h"
#include "video/mux.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <zlib.h>

/* Decodes a picture and appends it; all must be of one size. */
static fga_status append(fga_context *ctx, const char *name, const uint8_t *png, size_t size, fgv_clip *clip)
{
    uint8_t *rgb, *frame;
    int width, height;
    FGA_TRY(fgv_png_decode(ctx, name, png, size, &rgb, &width, &height));
    fga_status status = FGA_OK;
    if (clip->frames == 0) {
        clip->width = width;
        clip->height = height;
    } else if (width != clip->width || height != clip->height) {
        status = fga_context_fail(ctx, FGA_ERR_DATA, "%s is of %dx%d, the frames before it are of %dx%d", name, width,
                                  height, clip->width, clip->height);
    }
    if (status == FGA_OK) {
        status = fgv_clip_grow(ctx, name, clip, &frame);
    }
    if (status == FGA_OK) {
        memcpy(frame, rgb, (size_t)width * (size_t)height * 3);
    }
    free(rgb);
    return status;
}

static fga_status append_file(fga_context *ctx, const char *name, fgv_bytes *bytes, fgv_clip *clip)
{
    FGA_TRY(fgv_read_file(ctx, name, bytes));
    return append(ctx, name, bytes->data, bytes->size, clip);
}

fga_status fgv_read_png_frames(fga_context *ctx, const char *path, fgv_clip *clip)
{
    size_t bytes = strlen(path) + 32;
    char *name = malloc(bytes);
    if (name == NULL) {
        return fga_context_fail(ctx, FGA_ERR_MEMORY, "%s: no memory to read it", path);
    }
    fgv_bytes file = {0};
    fga_status status = FGA_OK;
    int stem = (int)(strlen(path) - strlen(".png"));
    for (int i = 0; status == FGA_OK; i++) {
        snprintf(name, bytes, "%.*s-%04d%s", stem, path, i, path + stem);
        if (access(name, F_OK) != 0) {
            break;
        }
        status = append_file(ctx, name, &file, clip);
    }
    if (status == FGA_OK && clip->frames == 0) {
        status = append_file(ctx, path, &file, clip);
    }
    free(file.data);
    free(name);
    return status;
}

/* ---- APNG ------------------------------------------------------------------------------------------------------- */

typedef struct animation {
    fga_context *ctx;
    const char *path;
    const uint8_t *data;
    size_t size;
    const uint8_t *header;          /* the IHDR chunk */
    fgv_bytes png;                  /* the frame at hand as a PNG of its own */
    bool in_frame, animated, plain; /* plain: every frame covers and replaces the canvas */
} animation;

static fga_status wrong(const animation *a, const char *what)
{
    return fga_context_fail(a->ctx, FGA_ERR_DATA, "%s is no readable APNG: %s", a->path, what);
}

static fga_status put(animation *a, const void *bytes, size_t count)
{
    if (count > a->png.capacity - a->png.size) {
        size_t capacity = a->png.capacity * 2 + count + 65536;
        uint8_t *grown = realloc(a->png.data, capacity);
        if (grown == NULL) {
            return fga_context_fail(a->ctx, FGA_ERR_MEMORY, "%s: no memory to read it", a->path);
        }
        a->png.data = grown;
        a->png.capacity = capacity;
    }
    memcpy(a->png.data + a->png.size, bytes, count);
    a->png.size += count;
    return FGA_OK;
}

static fga_status put_chunk(animation *a, const char type[4], const uint8_t *payload, uint32_t count)
{
    uint8_t head[8], tail[4];
    fgv_put_be32(head, count);
    memcpy(head + 4, type, 4);
    uint32_t checksum = (uint32_t)crc32(crc32(0, head + 4, 4), count > 0 ? payload : head, count);
    fgv_put_be32(tail, checksum);
    FGA_TRY(put(a, head, 8));
    if (count > 0) {
        FGA_TRY(put(a, payload, count));
    }
    return put(a, tail, 4);
}

static fga_status end_frame(animation *a, fgv_clip *clip)
{
    if (!a->in_frame) {
        return FGA_OK;
    }
    a->in_frame = false;
    FGA_TRY(put_chunk(a, "IEND", NULL, 0));
    return append(a->ctx, a->path, a->png.data, a->png.size, clip);
}

static fga_status begin_frame(animation *a, const uint8_t *control, uint32_t count, fgv_clip *clip)
{
    if (count != 26 || a->header == NULL) {
        return wrong(a, "a frame's fcTL chunk is misplaced or of another length");
    }
    const uint8_t *canvas = a->header + 8;
    bool covers = memcmp(control + 4, canvas, 8) == 0 && fgv_be32(control + 12) == 0 && fgv_be32(control + 16) == 0;
    bool replaces = control[25] == 0 || canvas[9] == 2 || canvas[9] == 0; /* without alpha, over is source */
    a->plain = a->plain && covers && replaces && canvas[9] != 3;          /* a palette stands before the frames */
    int numerator = control[20] << 8 | control[21], denominator = control[22] << 8 | control[23];
    if (clip->frames == 0 && numerator > 0) {
        clip->fps = (denominator > 0 ? denominator : 100) / (double)numerator;
    }
    a->in_frame = true;
    a->png.size = 0;
    FGA_TRY(put(a, "\x89PNG\r\n\x1a\n", 8));
    return put(a, a->header, 25);
}

static fga_status take_chunk(animation *a, const uint8_t *chunk, fgv_clip *clip)
{
    uint32_t count = fgv_be32(chunk);
    const uint8_t *type = chunk + 4, *payload = chunk + 8;
    if (memcmp(type, "IHDR", 4) == 0 && count == 13) {
        a->header = chunk;
    } else if (memcmp(type, "acTL", 4) == 0) {
        a->animated = true;
    } else if (memcmp(type, "fcTL", 4) == 0) {
        FGA_TRY(end_frame(a, clip));
        return begin_frame(a, payload, count, clip);
    } else if (memcmp(type, "IDAT", 4) == 0 && a->in_frame) {
        return put_chunk(a, "IDAT", payload, count);
    } else if (memcmp(type, "fdAT", 4) == 0) {
        if (!a->in_frame || count < 4) {
            return wrong(a, "a misplaced fdAT chunk");
        }
        return put_chunk(a, "IDAT", payload + 4, count - 4);
    } else if (memcmp(type, "IEND", 4) == 0) {
        return end_frame(a, clip);
    }
    return FGA_OK;
}

static fga_status take_chunks(animation *a, fgv_clip *clip)
{
    if (a->size < 8 || memcmp(a->data, "\x89PNG\r\n\x1a\n", 8) != 0) {
        return wrong(a, "it does not begin as a PNG does");
    }
    for (size_t at = 8; a->plain;) {
        if (a->size - at < 12 || fgv_be32(a->data + at) > a->size - at - 12) {
            return wrong(a, "it ends within a chunk");
        }
        FGA_TRY(take_chunk(a, a->data + at, clip));
        if (memcmp(a->data + at + 4, "IEND", 4) == 0) {
            break;
        }
        at += fgv_be32(a->data + at) + 12;
    }
    return FGA_OK;
}

fga_status fgv_read_apng(fga_context *ctx, const char *path, fgv_clip *clip, bool *ours)
{
    fgv_bytes file = {0};
    animation a = {.ctx = ctx, .path = path, .plain = true};
    *ours = false;
    fga_status status = fgv_read_file(ctx, path, &file);
    if (status == FGA_OK) {
        a.data = file.data;
        a.size = file.size;
        status = take_chunks(&a, clip);
    }
    *ours = a.plain && a.animated;
    if (status == FGA_OK && !*ours) {
        fgv_clip_clear(clip);
    }
    free(a.png.data);
    free(file.data);
    return status;
}
