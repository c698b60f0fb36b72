/* Animated PNG (the PNG specification, third edition): libpng compresses each frame, the chunks around them are ours.
 * Every frame covers the canvas and replaces it; the animation repeats for ever. */
#include "video/mux.h"
#include "video/png_codec.h"

#include "base/error.h"

#include <stdlib.h>
#include <string.h>
#include <zlib.h>

enum { SIGNATURE = 8, IHDR_CHUNK = 25, CHUNK_FRAME = 12 }; /* CHUNK_FRAME: length, type and checksum */

typedef struct apng {
    fgv_bytes png;
    fgv_bytes chunk; /* under construction */
    uint32_t sequence;
    uint16_t delay_numerator, delay_denominator;
    long actl; /* where the frame count is */
} apng;

static uint8_t *begin_chunk(apng *a, const char type[4], size_t payload)
{
    size_t size = payload + CHUNK_FRAME;
    if (size > a->chunk.capacity) {
        uint8_t *grown = realloc(a->chunk.data, size);
        if (grown == NULL) {
            return NULL;
        }
        a->chunk.data = grown;
        a->chunk.capacity = size;
    }
    a->chunk.size = size;
    fgv_put_be32(a->chunk.data, (uint32_t)payload);
    memcpy(a->chunk.data + 4, type, 4);
    return a->chunk.data + 8;
}

static fga_status put_chunk(fgv_writer *writer)
{
    apng *a = writer->state;
    size_t covered = a->chunk.size - 8; /* type and payload */
    uint32_t checksum = (uint32_t)crc32(crc32(0, NULL, 0), a->chunk.data + 4, (uInt)covered);
    fgv_put_be32(a->chunk.data + a->chunk.size - 4, checksum);
    return fgv_writer_put(writer, a->chunk.data, a->chunk.size);
}

static fga_status no_memory(fgv_writer *writer)
{
    return fga_context_fail(writer->ctx, FGA_ERR_MEMORY, "no memory to write %s", writer->path);
}

static fga_status put_actl(fgv_writer *writer)
{
    uint8_t *payload = begin_chunk(writer->state, "acTL", 8);
    if (payload == NULL) {
        return no_memory(writer);
    }
    fgv_put_be32(payload, (uint32_t)writer->frames);
    fgv_put_be32(payload + 4, 0); /* plays: without end */
    return put_chunk(writer);
}

static fga_status put_fctl(fgv_writer *writer)
{
    apng *a = writer->state;
    uint8_t *payload = begin_chunk(a, "fcTL", 26);
    if (payload == NULL) {
        return no_memory(writer);
    }
    memset(payload, 0, 26); /* offsets 0, dispose none, blend source */
    fgv_put_be32(payload, a->sequence++);
    fgv_put_be32(payload + 4, (uint32_t)writer->width);
    fgv_put_be32(payload + 8, (uint32_t)writer->height);
    payload[20] = (uint8_t)(a->delay_numerator >> 8);
    payload[21] = (uint8_t)a->delay_numerator;
    payload[22] = (uint8_t)(a->delay_denominator >> 8);
    payload[23] = (uint8_t)a->delay_denominator;
    return put_chunk(writer);
}

static fga_status apng_open(fgv_writer *writer)
{
    apng *a = calloc(1, sizeof *a);
    writer->state = a;
    if (a == NULL) {
        return no_memory(writer);
    }
    int numerator, denominator;
    fgv_fps_ratio(writer->fps, &numerator, &denominator);
    while (numerator > UINT16_MAX || denominator > UINT16_MAX) {
        numerator = (numerator + 1) / 2;
        denominator = (denominator + 1) / 2;
    }
    a->delay_numerator = (uint16_t)denominator;
    a->delay_denominator = (uint16_t)numerator;
    return fgv_writer_open_part(writer);
}

/* The first frame's picture data stays IDAT, later ones become fdAT with a sequence number. */
static fga_status put_picture(fgv_writer *writer)
{
    apng *a = writer->state;
    for (size_t at = SIGNATURE; at + CHUNK_FRAME <= a->png.size;) {
        const uint8_t *chunk = a->png.data + at;
        size_t payload = fgv_be32(chunk);
        if (memcmp(chunk + 4, "IDAT", 4) == 0 && writer->frames == 0) {
            FGA_TRY(fgv_writer_put(writer, chunk, payload + CHUNK_FRAME));
        } else if (memcmp(chunk + 4, "IDAT", 4) == 0) {
            uint8_t *out = begin_chunk(a, "fdAT", payload + 4);
            if (out == NULL) {
                return no_memory(writer);
            }
            fgv_put_be32(out, a->sequence++);
            memcpy(out + 4, chunk + 8, payload);
            FGA_TRY(put_chunk(writer));
        }
        at += payload + CHUNK_FRAME;
    }
    return FGA_OK;
}

static fga_status apng_frame(fgv_writer *writer, const uint8_t *rgb)
{
    apng *a = writer->state;
    FGA_TRY(fgv_png_encode(writer->ctx, rgb, writer->width, writer->height, &a->png));
    if (writer->frames == 0) {
        FGA_TRY(fgv_writer_put(writer, a->png.data, SIGNATURE + IHDR_CHUNK));
        a->actl = ftell(writer->file);
        FGA_TRY(put_actl(writer));
    }
    FGA_TRY(put_fctl(writer));
    return put_picture(writer);
}

static fga_status apng_finish(fgv_writer *writer)
{
    if (begin_chunk(writer->state, "IEND", 0) == NULL) {
        return no_memory(writer);
    }
    FGA_TRY(put_chunk(writer));
    if (fseek(writer->file, ((apng *)writer->state)->actl, SEEK_SET) != 0) {
        return fgv_writer_io_error(writer, writer->part);
    }
    FGA_TRY(put_actl(writer));
    return fgv_writer_close_part(writer);
}

static void apng_close(fgv_writer *writer)
{
    apng *a = writer->state;
    if (a != NULL) {
        free(a->png.data);
        free(a->chunk.data);
        free(a);
        fgv_writer_discard_part(writer);
    }
}

const fgv_format fgv_format_apng = {".apng", apng_open, apng_frame, apng_finish, fgv_writer_publish_part, apng_close};
