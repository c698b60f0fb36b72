/* Reads YUV4MPEG2 of 8 bits: C444, C422, C420 (any siting) and mono, as BT.601 limited range or, where the header says
 * so, full range. Chroma of fewer samples is repeated. */
#include "video/read.h"

#include "base/error.h"
#include "video/mux.h"
#include "video/yuv.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#define MAX_LINE 512

typedef struct y4m {
    fga_context *ctx;
    const char *path;
    FILE *file;
    int shift_x, shift_y; /* of the chroma planes */
    bool mono, full;
    uint8_t *planes;
} y4m;

static fga_status wrong(const y4m *y, const char *what)
{
    return fga_context_fail(y->ctx, FGA_ERR_DATA, "%s is no readable y4m: %s", y->path, what);
}

/* Without its newline; false at the end, and for a line that is too long. */
static bool read_line(const y4m *y, char line[MAX_LINE])
{
    if (fgets(line, MAX_LINE, y->file) == NULL) {
        return false;
    }
    size_t length = strlen(line);
    if (length == 0 || line[length - 1] != '\n') {
        return false;
    }
    line[length - 1] = '\0';
    return true;
}

static bool set_colour_space(y4m *y, const char *name)
{
    y->shift_x = y->shift_y = 0;
    y->mono = strcmp(name, "mono") == 0;
    if (strncmp(name, "420", 3) == 0 && strncmp(name + 3, "p1", 2) != 0) { /* 420p10 and its like: not of 8 bits */
        y->shift_x = y->shift_y = 1;
        return true;
    }
    if (strcmp(name, "422") == 0) {
        y->shift_x = 1;
        return true;
    }
    return y->mono || strcmp(name, "444") == 0;
}

static fga_status parse_header(y4m *y, fgv_clip *clip)
{
    char line[MAX_LINE];
    if (!read_line(y, line) || strncmp(line, "YUV4MPEG2 ", 10) != 0) {
        return wrong(y, "it does not begin with a YUV4MPEG2 line");
    }
    set_colour_space(y, "420"); /* the format's default */
    char *rest;
    for (char *field = strtok_r(line + 10, " ", &rest); field != NULL; field = strtok_r(NULL, " ", &rest)) {
        int numerator, denominator;
        if (field[0] == 'W') {
            clip->width = atoi(field + 1);
        } else if (field[0] == 'H') {
            clip->height = atoi(field + 1);
        } else if (field[0] == 'F' && sscanf(field, "F%d:%d", &numerator, &denominator) == 2 && denominator > 0) {
            clip->fps = (double)numerator / denominator;
        } else if (field[0] == 'C' && !set_colour_space(y, field + 1)) {
            return fga_context_fail(y->ctx, FGA_ERR_DATA, "%s: colour space %s, wanted 8-bit 420, 422, 444 or mono",
                                    y->path, field);
        } else if (strcasecmp(field, "XCOLORRANGE=FULL") == 0) {
            y->full = true;
        }
    }
    if (clip->width < 1 || clip->height < 1 || clip->width > FGV_MAX_SIDE || clip->height > FGV_MAX_SIDE) {
        return wrong(y, "its width or height is missing or absurd");
    }
    return FGA_OK;
}

static void to_rgb(const y4m *y, const fgv_clip *clip, uint8_t *rgb)
{
    size_t width = (size_t)clip->width, height = (size_t)clip->height;
    size_t chroma_width = (width + (size_t)y->shift_x) >> y->shift_x;
    size_t chroma = chroma_width * ((height + (size_t)y->shift_y) >> y->shift_y);
    const uint8_t *u = y->planes + width * height, *v = u + chroma;
    for (size_t row = 0; row < height; row++) {
        for (size_t x = 0; x < width; x++, rgb += 3) {
            size_t at = (row >> y->shift_y) * chroma_width + (x >> y->shift_x);
            int luma = y->planes[row * width + x], cb = y->mono ? 128 : u[at], cr = y->mono ? 128 : v[at];
            if (y->full) { /* to limited range first: a step coarser, but one formula */
                luma = (luma * 219 + 127) / 255 + 16;
                cb = (cb * 224 + 127) / 255 + 16;
                cr = (cr * 224 + 127) / 255 + 16;
            }
            fgv_yuv_to_rgb(luma, cb, cr, rgb);
        }
    }
}

static fga_status read_frames(y4m *y, fgv_clip *clip)
{
    size_t plane = (size_t)clip->width * (size_t)clip->height;
    size_t chroma = (((size_t)clip->width + (size_t)y->shift_x) >> y->shift_x) *
                    (((size_t)clip->height + (size_t)y->shift_y) >> y->shift_y);
    size_t bytes = plane + (y->mono ? 0 : 2 * chroma);
    y->planes = malloc(bytes);
    if (y->planes == NULL) {
        return fga_context_fail(y->ctx, FGA_ERR_MEMORY, "%s: no memory for a frame of %dx%d", y->path, clip->width,
                                clip->height);
    }
    for (;;) {
        char line[MAX_LINE];
        int first = getc(y->file);
        if (first == EOF) {
            return ferror(y->file) ? wrong(y, strerror(errno)) : FGA_OK;
        }
        ungetc(first, y->file);
        if (!read_line(y, line) || strncmp(line, "FRAME", 5) != 0) {
            return wrong(y, "a frame does not begin with FRAME");
        }
        if (fread(y->planes, 1, bytes, y->file) != bytes) {
            return wrong(y, "it ends within a frame");
        }
        uint8_t *rgb;
        FGA_TRY(fgv_clip_grow(y->ctx, y->path, clip, &rgb));
        to_rgb(y, clip, rgb);
    }
}

fga_status fgv_read_y4m(fga_context *ctx, const char *path, fgv_clip *clip)
{
    y4m y = {.ctx = ctx, .path = path, .file = fopen(path, "rbe")};
    if (y.file == NULL) {
        return fga_context_fail(ctx, FGA_ERR_IO, "cannot read %s: %s", path, strerror(errno));
    }
    fga_status status = parse_header(&y, clip);
    if (status == FGA_OK) {
        status = read_frames(&y, clip);
    }
    free(y.planes);
    fclose(y.file);
    return status;
}
