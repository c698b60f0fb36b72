#include "video/png_codec.h"

#include "video/mux.h"

#include <png.h>
#include <setjmp.h>
#include <stdlib.h>
#include <string.h>

typedef struct coder {
    fgv_bytes *out;
    const uint8_t *in;
    size_t in_size, in_at;
    char reason[160];
} coder;

static void on_error(png_structp png, png_const_charp reason)
{
    coder *c = png_get_error_ptr(png);
    strncpy(c->reason, reason, sizeof c->reason - 1);
    png_longjmp(png, 1);
}

static void on_warning(png_structp png, png_const_charp reason)
{
    (void)png;
    (void)reason;
}

static void on_write(png_structp png, png_bytep bytes, size_t count)
{
    coder *c = png_get_io_ptr(png);
    fgv_bytes *out = c->out;
    if (count > out->capacity - out->size) {
        size_t capacity = out->capacity + out->capacity / 2 + count + 65536;
        uint8_t *grown = realloc(out->data, capacity);
        if (grown == NULL) {
            png_error(png, "no memory");
        }
        out->data = grown;
        out->capacity = capacity;
    }
    memcpy(out->data + out->size, bytes, count);
    out->size += count;
}

static void on_flush(png_structp png)
{
    (void)png;
}

static void on_read(png_structp png, png_bytep bytes, size_t count)
{
    coder *c = png_get_io_ptr(png);
    if (count > c->in_size - c->in_at) {
        png_error(png, "it ends too early");
    }
    memcpy(bytes, c->in + c->in_at, count);
    c->in_at += count;
}

fga_status fgv_png_encode(fga_context *ctx, const uint8_t *rgb, int width, int height, fgv_bytes *bytes)
{
    coder c = {.out = bytes};
    bytes->size = 0;
    png_structp png = png_create_write_struct(PNG_LIBPNG_VER_STRING, &c, on_error, on_warning);
    png_infop info = png != NULL ? png_create_info_struct(png) : NULL;
    if (info == NULL) {
        png_destroy_write_struct(&png, NULL);
        return fga_context_fail(ctx, FGA_ERR_MEMORY, "no memory to compress a picture of %dx%d", width, height);
    }
    if (setjmp(png_jmpbuf(png)) != 0) {
        png_destroy_write_struct(&png, &info);
        return fga_context_fail(ctx, FGA_ERR_MEMORY, "cannot compress a picture of %dx%d: %s", width, height, c.reason);
    }
    png_set_write_fn(png, &c, on_write, on_flush);
    png_set_IHDR(png, info, (png_uint_32)width, (png_uint_32)height, 8, PNG_COLOR_TYPE_RGB, PNG_INTERLACE_NONE,
                 PNG_COMPRESSION_TYPE_DEFAULT, PNG_FILTER_TYPE_DEFAULT);
    png_set_compression_level(png, 4); /* within a few percent of the default's size in half of the time */
    png_write_info(png, info);
    for (int y = 0; y < height; y++) {
        png_write_row(png, rgb + (size_t)y * (size_t)width * 3);
    }
    png_write_end(png, info);
    png_destroy_write_struct(&png, &info);
    return FGA_OK;
}

/* Kept apart from the setjmp below so that no local of it lives across the jump. */
static uint8_t *allocate_picture(png_structp png, png_infop info, coder *c, int *width, int *height)
{
    png_set_user_limits(png, FGV_MAX_SIDE, FGV_MAX_SIDE);
    png_set_read_fn(png, c, on_read);
    png_read_info(png, info);
    png_set_expand(png);
    png_set_scale_16(png);
    png_set_strip_alpha(png);
    png_set_gray_to_rgb(png);
    png_set_interlace_handling(png);
    png_read_update_info(png, info);
    *width = (int)png_get_image_width(png, info);
    *height = (int)png_get_image_height(png, info);
    if (png_get_rowbytes(png, info) != 3 * (size_t)*width) {
        png_error(png, "its pixels are not RGB");
    }
    /* A header of a few bytes may promise gigabytes: deflate cannot pack more than about 1032 to 1. */
    size_t bytes = 3 * (size_t)*width * (size_t)*height;
    if (bytes / 3 / 8 / 1040 > c->in_size) {
        png_error(png, "its size does not fit its length");
    }
    uint8_t *rgb = malloc(bytes);
    if (rgb == NULL) {
        png_error(png, "no memory");
    }
    return rgb;
}

fga_status fgv_png_decode(fga_context *ctx, const char *name, const uint8_t *data, size_t size, uint8_t **rgb,
                          int *width, int *height)
{
    coder c = {.in = data, .in_size = size};
    png_structp png = png_create_read_struct(PNG_LIBPNG_VER_STRING, &c, on_error, on_warning);
    png_infop info = png != NULL ? png_create_info_struct(png) : NULL;
    *rgb = NULL;
    if (info == NULL) {
        png_destroy_read_struct(&png, NULL, NULL);
        return fga_context_fail(ctx, FGA_ERR_MEMORY, "no memory to read %s", name);
    }
    if (setjmp(png_jmpbuf(png)) != 0) {
        png_destroy_read_struct(&png, &info, NULL);
        free(*rgb);
        *rgb = NULL;
        return fga_context_fail(ctx, FGA_ERR_DATA, "%s is no readable PNG: %s", name, c.reason);
    }
    *rgb = allocate_picture(png, info, &c, width, height);
    int passes = png_get_interlace_type(png, info) == PNG_INTERLACE_ADAM7 ? 7 : 1;
    for (int pass = 0; pass < passes; pass++) {
        for (int y = 0; y < *height; y++) {
            png_read_row(png, *rgb + (size_t)y * (size_t)*width * 3, NULL);
        }
    }
    png_read_end(png, NULL);
    png_destroy_read_struct(&png, &info, NULL);
    return FGA_OK;
}
