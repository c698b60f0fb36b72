/* capture_writer.c - attention inputs to a safetensors file, one capture at a time. */
#include "video/capture.h"

#include "base/error.h"
#include "video/json.h"

#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* The header comes first in the file but is known last: room is left for it, and what is not used is white space. */
enum { METADATA_BYTES = 512, ENTRY_BYTES = 256 };
#define MAX_CAPTURES 100000

typedef struct place {
    int step, layer, branch;
} place;

struct fgv_capture_writer {
    fga_context *ctx;
    char *path, *part;
    FILE *file;
    char *header; /* [header_bytes]: spaces past `used` */
    size_t header_bytes, used;
    uint64_t data_bytes;
    fgv_capture first; /* what all share; its tensors are never read */
    place *places;     /* [most] */
    int64_t most, count;
    int32_t *raster; /* [tokens]: where raster token r is in q, k, v */
    char *row;       /* one token of all heads */
    bool broken;     /* a write failed: the file cannot be finished */
};

static fga_status io_error(const fgv_capture_writer *w)
{
    return fga_context_fail(w->ctx, FGA_ERR_IO, "cannot write %s: %s", w->path, strerror(errno));
}

static void release(fgv_capture_writer *w)
{
    free(w->path);
    free(w->part);
    free(w->header);
    free(w->places);
    free(w->raster);
    free(w->row);
    free(w);
}

void fgv_capture_abandon(fgv_capture_writer **writer)
{
    if (writer == NULL || *writer == NULL) {
        return;
    }
    fgv_capture_writer *w = *writer;
    if (w->file != NULL) {
        fclose(w->file);
        unlink(w->part);
    }
    release(w);
    *writer = NULL;
}

static fga_status write_header(fgv_capture_writer *w)
{
    unsigned char length[8];
    for (int i = 0; i < 8; i++) {
        length[i] = (unsigned char)((uint64_t)w->header_bytes >> (8 * i));
    }
    bool good = fwrite(length, 1, sizeof length, w->file) == sizeof length &&
                fwrite(w->header, 1, w->header_bytes, w->file) == w->header_bytes;
    return good ? FGA_OK : io_error(w);
}

fga_status fgv_capture_create(fga_context *ctx, const char *path, int64_t most, fgv_capture_writer **writer)
{
    *writer = NULL;
    if (path == NULL || path[0] == '\0' || most < 1 || most > MAX_CAPTURES) {
        return fga_context_fail(ctx, FGA_ERR_ARGUMENT, "a file of %" PRId64 " captures, wanted a path and 1 ... %d",
                                most, MAX_CAPTURES);
    }
    fga_status status = FGA_OK;
    fgv_capture_writer *w = calloc(1, sizeof *w);
    size_t bytes = strlen(path) + sizeof ".part";
    if (w == NULL || (w->path = strdup(path)) == NULL || (w->part = malloc(bytes)) == NULL) {
        FGA_CHECK(fga_context_fail(ctx, FGA_ERR_MEMORY, "no memory to write %s", path));
    }
    snprintf(w->part, bytes, "%s.part", path);
    w->ctx = ctx;
    w->most = most;
    w->header_bytes = METADATA_BYTES + (size_t)most * FGV_CAPTURE_TENSORS * ENTRY_BYTES;
    w->header = malloc(w->header_bytes);
    w->places = malloc((size_t)most * sizeof *w->places);
    if (w->header == NULL || w->places == NULL) {
        FGA_CHECK(fga_context_fail(ctx, FGA_ERR_MEMORY, "no memory to write %s", path));
    }
    memset(w->header, ' ', w->header_bytes);
    w->file = fopen(w->part, "wb");
    if (w->file == NULL) {
        FGA_CHECK(io_error(w));
    }
    FGA_CHECK(write_header(w));
    *writer = w;
    w = NULL;
cleanup:
    if (w != NULL) {
        fgv_capture_abandon(&w);
    }
    return status;
}

static fga_status cut_short(const fgv_capture_writer *w)
{
    return fga_context_fail(w->ctx, FGA_ERR_ARGUMENT, "%s: a capture was cut short", w->path);
}

/* ---- one capture --------------------------------------------------------------------------------- */

static int64_t tokens_of(const fgv_capture *c)
{
    return (int64_t)c->frames * c->height * c->width;
}

static fga_status check_tensor(const fgv_capture_writer *w, const fgv_capture *c, const fga_tensor *t, char name)
{
    int64_t tokens = tokens_of(c);
    if (t->data == NULL || t->device != FGA_DEVICE_CPU || t->extent[0] != 1 || t->extent[1] < 1 ||
        t->extent[2] != tokens || t->extent[3] < 1 || t->stride[3] != 1) {
        return fga_context_fail(w->ctx, FGA_ERR_ARGUMENT,
                                "capture: %c is [%" PRId64 "][%" PRId64 "][%" PRId64 "][%" PRId64
                                "], wanted [1][heads][%" PRId64 "][head_dim] in the processor's memory",
                                name, t->extent[0], t->extent[1], t->extent[2], t->extent[3], tokens);
    }
    if (t->dtype != c->q.dtype || t->extent[3] != c->q.extent[3] ||
        t->extent[1] != (name == 'q' ? c->q : c->k).extent[1]) {
        return fga_context_fail(w->ctx, FGA_ERR_ARGUMENT, "capture: %c differs from its neighbour in type or shape",
                                name);
    }
    return FGA_OK;
}

static fga_status check(const fgv_capture_writer *w, const fgv_capture *c)
{
    if (c->step < 0 || c->layer < 0 || c->branch < 0 || c->step > FGV_CAPTURE_MAX_INDEX ||
        c->layer > FGV_CAPTURE_MAX_INDEX || c->branch > FGV_CAPTURE_MAX_INDEX) {
        return fga_context_fail(w->ctx, FGA_ERR_ARGUMENT, "capture of step %d, layer %d, branch %d", c->step, c->layer,
                                c->branch);
    }
    if (c->frames < 1 || c->height < 1 || c->width < 1 || (int64_t)c->frames * c->height > INT32_MAX / c->width) {
        return fga_context_fail(w->ctx, FGA_ERR_ARGUMENT, "capture of a video of %d x %d x %d tokens", c->frames,
                                c->height, c->width);
    }
    FGA_TRY(check_tensor(w, c, &c->q, 'q'));
    FGA_TRY(check_tensor(w, c, &c->k, 'k'));
    FGA_TRY(check_tensor(w, c, &c->v, 'v'));
    const fgv_capture *first = &w->first;
    if (w->raster == NULL) {
        return FGA_OK;
    }
    if (w->count == w->most) {
        return fga_context_fail(w->ctx, FGA_ERR_ARGUMENT, "%s: more than %" PRId64 " captures", w->path, w->most);
    }
    if (c->frames != first->frames || c->height != first->height || c->width != first->width ||
        c->steps != first->steps || c->layers != first->layers || c->scale != first->scale) {
        return fga_context_fail(w->ctx, FGA_ERR_ARGUMENT, "%s: captures of different videos or runs", w->path);
    }
    for (int64_t i = 0; i < w->count; i++) {
        const place *p = &w->places[i];
        if (p->step == c->step && p->layer == c->layer && p->branch == c->branch) {
            return fga_context_fail(w->ctx, FGA_ERR_ARGUMENT, "%s: step %d, layer %d, branch %d comes twice", w->path,
                                    c->step, c->layer, c->branch);
        }
    }
    return FGA_OK;
}

static void say(fgv_capture_writer *w, const char *text)
{
    size_t length = strlen(text);
    memcpy(w->header + w->used, text, length); /* METADATA_BYTES and ENTRY_BYTES hold the longest texts there are */
    w->used += length;
}

static fga_status say_metadata(fgv_capture_writer *w)
{
    const fgv_capture *c = &w->first;
    char text[METADATA_BYTES], scale[FGV_JSON_NUMBER];
    if (!fgv_json_print_number((double)c->scale, scale)) {
        return fga_context_fail(w->ctx, FGA_ERR_MEMORY, "no memory to write %s", w->path);
    }
    snprintf(text, sizeof text,
             "{\"__metadata__\":{\"format\":\"fgattn capture\",\"frames\":\"%d\",\"height\":\"%d\",\"width\":\"%d\","
             "\"heads\":\"%" PRId64 "\",\"head_dim\":\"%" PRId64 "\",\"order\":\"raster\",\"scale\":\"%s\","
             "\"steps\":\"%d\",\"layers\":\"%d\"}",
             c->frames, c->height, c->width, c->q.extent[1], c->q.extent[3], scale, c->steps, c->layers);
    say(w, text);
    return FGA_OK;
}

static void say_tensor(fgv_capture_writer *w, const fgv_capture *c, const fga_tensor *t, char name)
{
    static const char *const types[] = {[FGA_F32] = "F32", [FGA_F16] = "F16", [FGA_BF16] = "BF16"};
    char text[ENTRY_BYTES];
    uint64_t bytes = (uint64_t)(t->extent[1] * t->extent[2] * t->extent[3]) * fga_dtype_size(t->dtype);
    snprintf(text, sizeof text,
             ",\"step.%d.layer.%d.branch.%d.%c\":{\"dtype\":\"%s\",\"shape\":[%" PRId64 ",%" PRId64 ",%" PRId64
             "],\"data_offsets\":[%" PRIu64 ",%" PRIu64 "]}",
             c->step, c->layer, c->branch, name, types[t->dtype], t->extent[2], t->extent[1], t->extent[3],
             w->data_bytes, w->data_bytes + bytes);
    say(w, text);
    w->data_bytes += bytes;
}

static fga_status write_tensor(fgv_capture_writer *w, const fga_tensor *t)
{
    size_t element = fga_dtype_size(t->dtype), head = (size_t)t->extent[3] * element;
    for (int64_t r = 0; r < t->extent[2]; r++) {
        for (int64_t h = 0; h < t->extent[1]; h++) {
            int64_t at = h * t->stride[1] + w->raster[r] * t->stride[2];
            memcpy(w->row + (size_t)h * head, (const char *)t->data + at * (int64_t)element, head);
        }
        if (fwrite(w->row, head, (size_t)t->extent[1], w->file) != (size_t)t->extent[1]) {
            return io_error(w);
        }
    }
    return FGA_OK;
}

/* The inverse of the order; FGA_ERR_ARGUMENT when that is no permutation. */
static fga_status invert_order(fgv_capture_writer *w, const fgv_capture *c)
{
    int64_t tokens = tokens_of(c);
    for (int64_t i = 0; i < tokens; i++) {
        w->raster[i] = c->order == NULL ? (int32_t)i : -1;
    }
    for (int64_t i = 0; c->order != NULL && i < tokens; i++) {
        int32_t r = c->order[i];
        if (r < 0 || r >= tokens || w->raster[r] >= 0) {
            return fga_context_fail(w->ctx, FGA_ERR_ARGUMENT,
                                    "capture: order[%" PRId64 "] = %" PRId32 " is no permutation of %" PRId64 " tokens",
                                    i, r, tokens);
        }
        w->raster[r] = (int32_t)i;
    }
    return FGA_OK;
}

/* What the first capture decides: the metadata and the buffers. */
static fga_status begin(fgv_capture_writer *w, const fgv_capture *c)
{
    if (w->raster != NULL) {
        return FGA_OK;
    }
    int64_t heads = c->q.extent[1] > c->k.extent[1] ? c->q.extent[1] : c->k.extent[1];
    w->raster = malloc((size_t)tokens_of(c) * sizeof *w->raster);
    w->row = malloc((size_t)(heads * c->q.extent[3]) * fga_dtype_size(c->q.dtype));
    if (w->raster == NULL || w->row == NULL) {
        return fga_context_fail(w->ctx, FGA_ERR_MEMORY, "no memory to write %s", w->path);
    }
    w->first = *c;
    return say_metadata(w);
}

fga_status fgv_capture_add(fgv_capture_writer *w, const fgv_capture *c)
{
    if (w->broken) {
        return cut_short(w);
    }
    FGA_TRY(check(w, c));
    FGA_TRY(begin(w, c));
    if (c->q.extent[1] != w->first.q.extent[1] || c->k.extent[1] != w->first.k.extent[1] ||
        c->q.extent[3] != w->first.q.extent[3] || c->q.dtype != w->first.q.dtype) {
        return fga_context_fail(w->ctx, FGA_ERR_ARGUMENT, "%s: captures of different shapes or types", w->path);
    }
    FGA_TRY(invert_order(w, c));
    const fga_tensor *const tensors[FGV_CAPTURE_TENSORS] = {&c->q, &c->k, &c->v};
    for (int i = 0; i < FGV_CAPTURE_TENSORS; i++) {
        w->broken = true;
        FGA_TRY(write_tensor(w, tensors[i]));
        w->broken = false;
        say_tensor(w, c, tensors[i], fgv_capture_suffix[i]);
    }
    w->places[w->count++] = (place){c->step, c->layer, c->branch};
    return FGA_OK;
}

static fga_status publish(fgv_capture_writer *w)
{
    if (w->broken) {
        return cut_short(w);
    }
    if (w->count == 0) {
        return fga_context_fail(w->ctx, FGA_ERR_ARGUMENT, "%s: nothing was captured", w->path);
    }
    say(w, "}");
    if (fseek(w->file, 0, SEEK_SET) != 0) {
        return io_error(w);
    }
    FGA_TRY(write_header(w));
    FILE *file = w->file;
    w->file = NULL;
    if (fclose(file) != 0 || rename(w->part, w->path) != 0) {
        fga_status status = io_error(w);
        unlink(w->part);
        return status;
    }
    return FGA_OK;
}

fga_status fgv_capture_finish(fgv_capture_writer **writer)
{
    if (writer == NULL || *writer == NULL) {
        return FGA_OK;
    }
    fga_status status = publish(*writer);
    fgv_capture_abandon(writer);
    return status;
}
