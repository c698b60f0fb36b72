/* picture.c - small pictures as PNG in a data URI, so that a report is one file. */
#include "page.h"

#include <stdlib.h>
#include <string.h>
#include <zlib.h>

/* ---- colours ------------------------------------------------------------------------------------- */

static void heat(double t, uint8_t rgb[3])
{
    /* Dark to bright all the way, so that it reads without colours too. */
    static const double stops[6][3] = {{22, 18, 60},   {52, 64, 140},  {38, 120, 150},
                                       {46, 170, 118}, {150, 206, 66}, {253, 231, 60}};
    t = t > 0 ? (t < 1 ? t : 1) : 0; /* NaN too */
    int stop = (int)(t * 5);
    stop = stop > 4 ? 4 : stop;
    double part = t * 5 - stop;
    for (int c = 0; c < 3; c++) {
        rgb[c] = (uint8_t)(stops[stop][c] + part * (stops[stop + 1][c] - stops[stop][c]) + 0.5);
    }
}

cli_hex cli_heat(double t)
{
    uint8_t rgb[3];
    cli_hex hex;
    heat(t, rgb);
    snprintf(hex.text, sizeof hex.text, "#%02x%02x%02x", rgb[0], rgb[1], rgb[2]);
    return hex;
}

/* ---- PNG ----------------------------------------------------------------------------------------- */

typedef struct bytes {
    uint8_t *at;
    size_t length;
} bytes;

static void put_word(bytes *out, uint32_t word)
{
    for (int shift = 24; shift >= 0; shift -= 8) {
        out->at[out->length++] = (uint8_t)(word >> shift);
    }
}

static void put_chunk(bytes *out, const char *type, const uint8_t *data, size_t length)
{
    put_word(out, (uint32_t)length);
    size_t start = out->length;
    memcpy(out->at + start, type, 4);
    if (length > 0) {
        memcpy(out->at + start + 4, data, length);
    }
    out->length += 4 + length;
    put_word(out, (uint32_t)crc32(0, out->at + start, (uInt)(4 + length)));
}

static void base64(cli_page *page, const uint8_t *data, size_t length)
{
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    for (size_t i = 0; i < length; i += 3) {
        uint32_t group = (uint32_t)data[i] << 16;
        group |= i + 1 < length ? (uint32_t)data[i + 1] << 8 : 0;
        group |= i + 2 < length ? data[i + 2] : 0;
        cli_page_add(page, "%c%c%c%c", digits[group >> 18], digits[group >> 12 & 63],
                     i + 1 < length ? digits[group >> 6 & 63] : '=', i + 2 < length ? digits[group & 63] : '=');
    }
}

/* A palette picture: one byte per pixel, rows without a filter. */
static bool encode(const float *values, int width, int height, bytes *out)
{
    size_t row = (size_t)width + 1, raw_bytes = row * (size_t)height;
    uLongf packed_bytes = compressBound(raw_bytes);
    uint8_t *raw = malloc(raw_bytes), *packed = malloc(packed_bytes);
    out->at = malloc(packed_bytes + 2048);
    out->length = 0;
    bool good = raw != NULL && packed != NULL && out->at != NULL;
    for (size_t y = 0; good && y < (size_t)height; y++) {
        raw[y * row] = 0;
        for (size_t x = 0; x < (size_t)width; x++) {
            float v = values[y * (size_t)width + x];
            raw[y * row + 1 + x] = (uint8_t)(v > 0 ? (v < 1 ? v * 255 + 0.5f : 255) : 0);
        }
    }
    good = good && compress2(packed, &packed_bytes, raw, raw_bytes, Z_BEST_COMPRESSION) == Z_OK;
    if (good) {
        static const uint8_t signature[8] = {0x89, 'P', 'N', 'G', '\r', '\n', 0x1a, '\n'};
        uint8_t header[13], palette[768];
        bytes h = {header, 0};
        put_word(&h, (uint32_t)width);
        put_word(&h, (uint32_t)height);
        memcpy(header + 8, (const uint8_t[]){8, 3, 0, 0, 0}, 5); /* 8 bits, palette */
        for (int i = 0; i < 256; i++) {
            heat(i / 255.0, palette + 3 * i);
        }
        memcpy(out->at, signature, sizeof signature);
        out->length = sizeof signature;
        put_chunk(out, "IHDR", header, sizeof header);
        put_chunk(out, "PLTE", palette, sizeof palette);
        put_chunk(out, "IDAT", packed, packed_bytes);
        put_chunk(out, "IEND", NULL, 0);
    }
    free(raw);
    free(packed);
    return good;
}

void cli_page_picture(cli_page *page, const float *values, int width, int height)
{
    bytes png;
    if (encode(values, width, height, &png)) {
        cli_page_add(page, "data:image/png;base64,");
        base64(page, png.at, png.length);
    } else {
        page->failed = true;
    }
    free(png.at);
}
