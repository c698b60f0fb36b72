/* capture_file.c - reads attention inputs that were captured here or written by another program. */
#include "video/capture.h"
#include "video/json.h"
#include "video/safetensors.h"

#include "base/error.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct fgv_capture_file {
    fga_context *ctx;
    const char *path; /* during fgv_capture_open */
    fgv_safetensors tensors;
    fgv_capture *captures; /* [count] */
    int count;
    fgv_capture common; /* from the metadata */
};

/* ---- metadata ------------------------------------------------------------------------------------ */

static const char *text_of(const fgv_capture_file *file, const char *key)
{
    return cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(file->tensors.metadata, key));
}

/* A positive whole number; 0 where the key is absent and need not be there. */
static fga_status read_whole(const fgv_capture_file *file, const char *key, bool required, int *value)
{
    const char *text = text_of(file, key);
    *value = 0;
    if (text == NULL && !required) {
        return FGA_OK;
    }
    char *end = NULL;
    long number = text != NULL ? strtol(text, &end, 10) : 0;
    if (text == NULL || text[0] < '0' || text[0] > '9' || *end != '\0' || number < 1 || number > 1 << 20) {
        return fga_context_fail(file->ctx, FGA_ERR_DATA,
                                "%s: __metadata__: %s is \"%.32s\", wanted a whole number above 0", file->path, key,
                                text != NULL ? text : "(missing)");
    }
    *value = (int)number;
    return FGA_OK;
}

static fga_status read_metadata(fgv_capture_file *file)
{
    fgv_capture *c = &file->common;
    FGA_TRY(read_whole(file, "frames", true, &c->frames));
    FGA_TRY(read_whole(file, "height", true, &c->height));
    FGA_TRY(read_whole(file, "width", true, &c->width));
    FGA_TRY(read_whole(file, "steps", false, &c->steps));
    FGA_TRY(read_whole(file, "layers", false, &c->layers));
    if ((int64_t)c->frames * c->height > INT32_MAX / c->width) {
        return fga_context_fail(file->ctx, FGA_ERR_DATA, "%s: a video of %d x %d x %d tokens is too large", file->path,
                                c->frames, c->height, c->width);
    }
    const char *order = text_of(file, "order");
    if (order != NULL && strcmp(order, "raster") != 0) {
        return fga_context_fail(file->ctx, FGA_ERR_DATA, "%s: __metadata__: order is \"%.32s\", wanted raster",
                                file->path, order);
    }
    const char *scale = text_of(file, "scale");
    if (scale != NULL) {
        double value;
        bool number = fgv_json_parse_number(scale, &value);
        c->scale = (float)value;
        if (!number || !isfinite(c->scale) || !(c->scale > 0)) {
            return fga_context_fail(file->ctx, FGA_ERR_DATA,
                                    "%s: __metadata__: scale is \"%.32s\", wanted a number above 0", file->path, scale);
        }
    }
    return FGA_OK;
}

/* ---- tensors ------------------------------------------------------------------------------------- */

/* Reads ".NAME.NUMBER" or "NAME.NUMBER" and moves on; false when the text is something else. */
static bool read_part(const char **text, const char *name, int *number)
{
    size_t length = strlen(name);
    if (strncmp(*text, name, length) != 0 || (*text)[length] < '0' || (*text)[length] > '9') {
        return false;
    }
    char *end;
    errno = 0;
    long value = strtol(*text + length, &end, 10);
    *text = end;
    *number = (int)value;
    return errno == 0 && value <= FGV_CAPTURE_MAX_INDEX;
}

static bool read_name(const char *name, fgv_capture *place, char *suffix)
{
    if (!read_part(&name, "step.", &place->step) || !read_part(&name, ".layer.", &place->layer) ||
        !read_part(&name, ".branch.", &place->branch) || name[0] != '.') {
        return false;
    }
    *suffix = name[1];
    return name[1] != '\0' && name[2] == '\0' && memchr(fgv_capture_suffix, name[1], sizeof fgv_capture_suffix) != NULL;
}

static fga_status read_tensor(const fgv_capture_file *file, const fgv_safetensors_entry *entry, fga_tensor *tensor)
{
    int64_t tokens = (int64_t)file->common.frames * file->common.height * file->common.width;
    if (entry->dtype < 0 || entry->rank != 3 || entry->shape[0] != tokens || entry->shape[1] < 1 ||
        entry->shape[2] < 1) {
        return fga_context_fail(file->ctx, FGA_ERR_DATA,
                                "%s: tensor %s: %s of rank %d, wanted F32, F16 or BF16 of shape [%" PRId64
                                ", heads, head_dim] (frames * height * width tokens)",
                                file->path, entry->name, entry->type, entry->rank, tokens);
    }
    if ((uintptr_t)entry->data % fga_dtype_size((fga_dtype)entry->dtype) != 0) {
        return fga_context_fail(file->ctx, FGA_ERR_DATA, "%s: tensor %s is not aligned to its elements", file->path,
                                entry->name);
    }
    *tensor = fga_tensor_bshd((void *)(uintptr_t)entry->data, (fga_dtype)entry->dtype, 1, tokens, entry->shape[1],
                              entry->shape[2]);
    return FGA_OK;
}

static int by_place(const void *a, const void *b)
{
    const fgv_capture *x = a, *y = b;
    int step = (x->step > y->step) - (x->step < y->step), layer = (x->layer > y->layer) - (x->layer < y->layer);
    return step != 0 ? step : layer != 0 ? layer : (x->branch > y->branch) - (x->branch < y->branch);
}

/* One capture per name that ends in .q; names of k and v must belong to one. */
static fga_status find_captures(fgv_capture_file *file)
{
    for (int i = 0; i < file->tensors.count; i++) {
        const fgv_safetensors_entry *entry = &file->tensors.entries[i];
        fgv_capture place = file->common;
        char suffix;
        if (!read_name(entry->name, &place, &suffix)) {
            return fga_context_fail(file->ctx, FGA_ERR_DATA,
                                    "%s: tensor %.80s: wanted a name such as step.3.layer.0.branch.0.q", file->path,
                                    entry->name);
        }
        if (suffix == 'q') {
            file->captures[file->count++] = place;
        }
    }
    if (file->count == 0 || file->count * FGV_CAPTURE_TENSORS != file->tensors.count) {
        return fga_context_fail(file->ctx, FGA_ERR_DATA,
                                "%s: %d tensors, %d of them queries; wanted q, k and v of each", file->path,
                                file->tensors.count, file->count);
    }
    qsort(file->captures, (size_t)file->count, sizeof *file->captures, by_place);
    return FGA_OK;
}

static fga_status fill_capture(const fgv_capture_file *file, fgv_capture *c)
{
    fga_tensor *const tensors[FGV_CAPTURE_TENSORS] = {&c->q, &c->k, &c->v};
    char name[96];
    for (int i = 0; i < FGV_CAPTURE_TENSORS; i++) {
        snprintf(name, sizeof name, "step.%d.layer.%d.branch.%d.%c", c->step, c->layer, c->branch,
                 fgv_capture_suffix[i]);
        const fgv_safetensors_entry *entry = fgv_safetensors_find(&file->tensors, name);
        if (entry == NULL) {
            return fga_context_fail(file->ctx, FGA_ERR_DATA, "%s: no tensor %s", file->path, name);
        }
        FGA_TRY(read_tensor(file, entry, tensors[i]));
    }
    if (c->k.dtype != c->q.dtype || c->v.dtype != c->q.dtype || c->k.extent[3] != c->q.extent[3] ||
        c->v.extent[3] != c->q.extent[3] || c->v.extent[1] != c->k.extent[1] || c->q.extent[1] % c->k.extent[1] != 0) {
        return fga_context_fail(
            file->ctx, FGA_ERR_DATA,
            "%s: step %d, layer %d, branch %d: q, k and v do not fit each other: wanted one type and "
            "head_dim, and heads of q a multiple of those of k and v",
            file->path, c->step, c->layer, c->branch);
    }
    c->scale = c->scale > 0 ? c->scale : (float)(1.0 / sqrt((double)c->q.extent[3]));
    return FGA_OK;
}

static fga_status load(fgv_capture_file *file)
{
    FGA_TRY(fgv_safetensors_open(file->ctx, file->path, &file->tensors));
    FGA_TRY(read_metadata(file));
    file->captures = calloc(file->tensors.count > 0 ? (size_t)file->tensors.count : 1, sizeof *file->captures);
    if (file->captures == NULL) {
        return fga_context_fail(file->ctx, FGA_ERR_MEMORY, "%s: no memory for %d tensors", file->path,
                                file->tensors.count);
    }
    FGA_TRY(find_captures(file));
    for (int i = 0; i < file->count; i++) {
        FGA_TRY(fill_capture(file, &file->captures[i]));
    }
    return FGA_OK;
}

fga_status fgv_capture_open(fga_context *ctx, const char *path, fgv_capture_file **out)
{
    *out = NULL;
    fgv_capture_file *file = calloc(1, sizeof *file);
    if (file == NULL) {
        return fga_context_fail(ctx, FGA_ERR_MEMORY, "no memory to read %s", path);
    }
    file->ctx = ctx;
    file->path = path;
    fga_status status = load(file);
    file->path = NULL;
    if (status != FGA_OK) {
        fgv_capture_close(&file);
        return status;
    }
    *out = file;
    return FGA_OK;
}

void fgv_capture_close(fgv_capture_file **file)
{
    if (file == NULL || *file == NULL) {
        return;
    }
    fgv_safetensors_close(&(*file)->tensors);
    free((*file)->captures);
    free(*file);
    *file = NULL;
}

int fgv_capture_count(const fgv_capture_file *file)
{
    return file->count;
}

fgv_capture fgv_capture_get(const fgv_capture_file *file, int index)
{
    return file->captures[index];
}
