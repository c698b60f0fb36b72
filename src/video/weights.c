#include "video/weights.h"

#include "base/error.h"
#include "base/half.h"
#include "video/json.h"
#include "video/safetensors.h"

#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MAX_PATH_BYTES 4096
#define MAX_NAME_BYTES 512

typedef struct named_tensor {
    const char *name; /* the entry's */
    const fgv_safetensors_entry *entry;
    int shard;
    bool asked;
    void *aligned; /* a copy, made on demand, of data that lies at an odd address in its file; mostly NULL */
} named_tensor;

typedef struct shard {
    char *path;
    fgv_safetensors file;
} shard;

struct fgv_weights {
    fga_context *ctx;
    char *path; /* the file or index that was opened, for error texts */
    shard *shards;
    int shard_count;
    named_tensor *tensors; /* sorted by name */
    int count;
};

static fga_status no_memory(fga_context *ctx, const char *what)
{
    return fga_context_fail(ctx, FGA_ERR_MEMORY, "%s: no memory for its index", what);
}

static fga_status join_path(fga_context *ctx, char *path, const char *dir, const char *name, const char *suffix)
{
    int n = snprintf(path, MAX_PATH_BYTES, "%s/%s%s", dir, name, suffix);
    if (n < 0 || n >= MAX_PATH_BYTES) {
        return fga_context_fail(ctx, FGA_ERR_ARGUMENT, "path too long: %.100s...", dir);
    }
    return FGA_OK;
}

static int by_name(const void *a, const void *b)
{
    return strcmp(((const named_tensor *)a)->name, ((const named_tensor *)b)->name);
}

static fga_status open_shard(fgv_weights *w, const char *path)
{
    shard *s = &w->shards[w->shard_count];
    s->path = strdup(path);
    if (s->path == NULL) {
        return no_memory(w->ctx, path);
    }
    w->shard_count++;
    return fgv_safetensors_open(w->ctx, path, &s->file);
}

static fga_status open_single(fgv_weights *w, const char *path)
{
    w->shards = calloc(1, sizeof *w->shards);
    if (w->shards == NULL) {
        return no_memory(w->ctx, path);
    }
    FGA_TRY(open_shard(w, path));
    const fgv_safetensors *file = &w->shards[0].file;
    w->tensors = calloc((size_t)file->count + 1, sizeof *w->tensors);
    if (w->tensors == NULL) {
        return no_memory(w->ctx, path);
    }
    for (int i = 0; i < file->count; i++) {
        w->tensors[i] = (named_tensor){.name = file->entries[i].name, .entry = &file->entries[i]};
    }
    w->count = file->count;
    return FGA_OK;
}

/* The shard `name` of the index at `path`, opened when it is first met. */
static fga_status find_shard(fgv_weights *w, const char *dir, const char *path, const char *name, int *index)
{
    if (name[0] == '\0' || strchr(name, '/') != NULL) {
        return fga_context_fail(w->ctx, FGA_ERR_DATA, "%s: shard \"%.200s\" is not a file name", path, name);
    }
    char shard_path[MAX_PATH_BYTES];
    FGA_TRY(join_path(w->ctx, shard_path, dir, name, ""));
    for (int i = w->shard_count - 1; i >= 0; i--) {
        if (strcmp(w->shards[i].path, shard_path) == 0) {
            *index = i;
            return FGA_OK;
        }
    }
    if (access(shard_path, R_OK) != 0) {
        return fga_context_fail(w->ctx, FGA_ERR_DATA, "%s: shard %s is missing or unreadable", path, name);
    }
    *index = w->shard_count;
    return open_shard(w, shard_path);
}

static fga_status map_tensors(fgv_weights *w, const char *dir, const char *path, const cJSON *map)
{
    const cJSON *item;
    int names = cJSON_GetArraySize(map);
    /* At most one shard per name. The array must not move: tensors point into it. */
    w->shards = calloc((size_t)names + 1, sizeof *w->shards);
    w->tensors = calloc((size_t)names + 1, sizeof *w->tensors);
    if (w->shards == NULL || w->tensors == NULL) {
        return no_memory(w->ctx, path);
    }
    cJSON_ArrayForEach(item, map)
    {
        const char *file_name = cJSON_GetStringValue(item);
        if (file_name == NULL) {
            return fga_context_fail(w->ctx, FGA_ERR_DATA, "%s: tensor %s: expected the name of a shard", path,
                                    item->string);
        }
        int index = 0;
        FGA_TRY(find_shard(w, dir, path, file_name, &index));
        const fgv_safetensors_entry *entry = fgv_safetensors_find(&w->shards[index].file, item->string);
        if (entry == NULL) {
            return fga_context_fail(w->ctx, FGA_ERR_DATA, "%s: shard %s has no tensor %s", path, file_name,
                                    item->string);
        }
        w->tensors[w->count++] = (named_tensor){.name = entry->name, .entry = entry, .shard = index};
    }
    qsort(w->tensors, (size_t)w->count, sizeof *w->tensors, by_name);
    for (int i = 1; i < w->count; i++) {
        if (strcmp(w->tensors[i - 1].name, w->tensors[i].name) == 0) {
            return fga_context_fail(w->ctx, FGA_ERR_DATA, "%s: tensor %s occurs twice", path, w->tensors[i].name);
        }
    }
    return FGA_OK;
}

static fga_status open_sharded(fgv_weights *w, const char *dir, const char *path)
{
    fga_status status = FGA_OK;
    cJSON *index = NULL;
    FGA_CHECK(fgv_json_read(w->ctx, path, &index));
    const cJSON *map = cJSON_GetObjectItemCaseSensitive(index, "weight_map");
    if (!cJSON_IsObject(map)) {
        status = fga_context_fail(w->ctx, FGA_ERR_DATA, "%s: expected an object weight_map", path);
        goto cleanup;
    }
    FGA_CHECK(map_tensors(w, dir, path, map));
cleanup:
    cJSON_Delete(index);
    return status;
}

fga_status fgv_weights_open(fga_context *ctx, const char *dir, const char *stem, fgv_weights **out)
{
    *out = NULL;
    char path[MAX_PATH_BYTES];
    FGA_TRY(join_path(ctx, path, dir, stem, ".safetensors"));
    fgv_weights *w = calloc(1, sizeof *w);
    if (w == NULL) {
        return no_memory(ctx, path);
    }
    w->ctx = ctx;
    fga_status status;
    if (access(path, F_OK) == 0) {
        status = open_single(w, path);
    } else {
        status = join_path(ctx, path, dir, stem, ".safetensors.index.json");
        if (status == FGA_OK && access(path, F_OK) != 0) {
            status =
                fga_context_fail(ctx, FGA_ERR_DATA, "%s: neither %s.safetensors nor %s.safetensors.index.json is there",
                                 dir, stem, stem);
        } else if (status == FGA_OK) {
            status = open_sharded(w, dir, path);
        }
    }
    if (status == FGA_OK && (w->path = strdup(path)) == NULL) {
        status = no_memory(ctx, path);
    }
    if (status != FGA_OK) {
        fgv_weights_close(&w);
        return status;
    }
    *out = w;
    return FGA_OK;
}

void fgv_weights_close(fgv_weights **handle)
{
    if (handle == NULL || *handle == NULL) {
        return;
    }
    fgv_weights *w = *handle;
    for (int i = 0; i < w->count; i++) {
        free(w->tensors[i].aligned);
    }
    for (int i = 0; i < w->shard_count; i++) {
        fgv_safetensors_close(&w->shards[i].file);
        free(w->shards[i].path);
    }
    free(w->tensors);
    free(w->shards);
    free(w->path);
    free(w);
    *handle = NULL;
}

void fgv_weights_rest(const fgv_weights *weights)
{
    for (int i = 0; i < weights->shard_count; i++) {
        fgv_safetensors_rest(&weights->shards[i].file);
    }
}

static named_tensor *find(const fgv_weights *w, const char *name)
{
    named_tensor key = {.name = name};
    return w->count > 0 ? bsearch(&key, w->tensors, (size_t)w->count, sizeof key, by_name) : NULL;
}

bool fgv_weights_has(const fgv_weights *weights, const char *name)
{
    return find(weights, name) != NULL;
}

static void format_shape(char *text, size_t bytes, int rank, const int64_t *shape)
{
    size_t used = (size_t)snprintf(text, bytes, "[");
    for (int i = 0; i < rank && used < bytes; i++) {
        used += (size_t)snprintf(text + used, bytes - used, i > 0 ? ", %lld" : "%lld", (long long)shape[i]);
    }
    if (used < bytes) {
        snprintf(text + used, bytes - used, "]");
    }
}

/* shape may be NULL for a scalar. */
static bool same_shape(const fgv_safetensors_entry *entry, int rank, const int64_t *shape)
{
    bool same = entry->rank == rank;
    for (int i = 0; same && i < rank; i++) {
        same = entry->shape[i] == shape[i];
    }
    return same;
}

/* The format gives no alignment; writers pad the header to 8 bytes, but a file need not come from them. */
static fga_status align(fgv_weights *w, named_tensor *tensor, const void **data)
{
    const fgv_safetensors_entry *entry = tensor->entry;
    if ((uintptr_t)entry->data % fga_dtype_size((fga_dtype)entry->dtype) == 0) {
        *data = entry->data;
        return FGA_OK;
    }
    size_t bytes = (size_t)(entry->end - entry->begin);
    if (tensor->aligned == NULL) {
        tensor->aligned = malloc(bytes + 1);
        if (tensor->aligned == NULL) {
            return fga_context_fail(w->ctx, FGA_ERR_MEMORY, "%s: no memory for an aligned copy of tensor %s",
                                    w->shards[tensor->shard].path, tensor->name);
        }
        memcpy(tensor->aligned, entry->data, bytes);
    }
    *data = tensor->aligned;
    return FGA_OK;
}

fga_status fgv_weights_get(fgv_weights *w, fgv_tensor *tensor, int rank, const int64_t *shape, const char *format, ...)
{
    *tensor = (fgv_tensor){0};
    char name[MAX_NAME_BYTES];
    va_list args;
    va_start(args, format);
    int length = vsnprintf(name, sizeof name, format, args);
    va_end(args);
    if (rank < 0 || rank > FGV_MAX_RANK || length < 0 || length >= (int)sizeof name) {
        return fga_context_fail(w->ctx, FGA_ERR_ARGUMENT, "tensor %.100s: rank %d, wanted at most %d", name, rank,
                                FGV_MAX_RANK);
    }
    named_tensor *found = find(w, name);
    if (found == NULL) {
        return fga_context_fail(w->ctx, FGA_ERR_DATA, "%s: tensor %s is missing", w->path, name);
    }
    found->asked = true;
    const fgv_safetensors_entry *entry = found->entry;
    const char *path = w->shards[found->shard].path;
    if (entry->dtype < 0) {
        return fga_context_fail(w->ctx, FGA_ERR_DATA, "%s: tensor %s is %s, wanted F32, F16 or BF16", path, name,
                                entry->type);
    }
    if (!same_shape(entry, rank, shape)) {
        char got[160], wanted[160];
        format_shape(got, sizeof got, entry->rank < FGV_MAX_RANK ? entry->rank : FGV_MAX_RANK, entry->shape);
        format_shape(wanted, sizeof wanted, rank, shape);
        return fga_context_fail(w->ctx, FGA_ERR_DATA, "%s: tensor %s has rank %d, shape %s, wanted %s", path, name,
                                entry->rank, got, wanted);
    }
    tensor->dtype = (fga_dtype)entry->dtype;
    tensor->rank = rank;
    memcpy(tensor->shape, entry->shape, sizeof tensor->shape);
    return align(w, found, &tensor->data);
}

int fgv_weights_report_unused(fgv_weights *w)
{
    int unused = 0;
    for (int i = 0; i < w->count; i++) {
        if (!w->tensors[i].asked) {
            fga_context_log(w->ctx, "%s: tensor %s is not used", w->shards[w->tensors[i].shard].path,
                            w->tensors[i].name);
            unused++;
        }
    }
    return unused;
}

/* ---- hash ------------------------------------------------------------------------------------------------- */

enum { HASH_CHUNK = 1 << 20, HASH_LANES = 4 };

typedef struct hash_job {
    const uint8_t *bytes;
    size_t count;
    uint64_t *chunks;
} hash_job;

static uint64_t mix(uint64_t hash, uint64_t word)
{
    hash = (hash ^ word) * 0x9e3779b97f4a7c15u;
    return hash ^ hash >> 32;
}

/* Four chains side by side, so that one multiplication does not wait for the last. */
static void hash_chunk(void *arg, int64_t item, int worker)
{
    (void)worker;
    const hash_job *job = arg;
    size_t at = (size_t)item * HASH_CHUNK, end = job->count - at > HASH_CHUNK ? at + HASH_CHUNK : job->count;
    uint64_t lane[HASH_LANES] = {1, 2, 3, 4}, word[HASH_LANES];
    for (; at + sizeof word <= end; at += sizeof word) {
        memcpy(word, job->bytes + at, sizeof word);
        for (int i = 0; i < HASH_LANES; i++) {
            lane[i] = mix(lane[i], word[i]);
        }
    }
    for (; at < end; at++) {
        lane[0] = mix(lane[0], job->bytes[at]);
    }
    job->chunks[item] = mix(mix(mix(lane[0], lane[1]), lane[2]), lane[3]);
}

uint64_t fgv_weights_hash(const fgv_weights *w)
{
    uint64_t hash = 0, chunks[256];
    for (int i = 0; i < w->shard_count; i++) {
        const fgv_safetensors *file = &w->shards[i].file;
        hash = mix(hash, file->mapping_bytes);
        for (size_t at = 0; at < file->mapping_bytes;) {
            size_t left = file->mapping_bytes - at, most = (size_t)HASH_CHUNK * 256;
            hash_job job = {(const uint8_t *)file->mapping + at, left < most ? left : most, chunks};
            int64_t count = (int64_t)((job.count + HASH_CHUNK - 1) / HASH_CHUNK);
            fga_parallel_for(w->ctx, count, hash_chunk, &job);
            for (int64_t c = 0; c < count; c++) {
                hash = mix(hash, chunks[c]);
            }
            at += job.count;
        }
    }
    fgv_weights_rest(w);
    return hash;
}

int64_t fgv_weights_parameters(const fgv_weights *w)
{
    int64_t total = 0;
    for (int i = 0; i < w->count; i++) {
        const fgv_safetensors_entry *entry = w->tensors[i].entry;
        if (entry->dtype >= 0) {
            total += (int64_t)((entry->end - entry->begin) / fga_dtype_size((fga_dtype)entry->dtype));
        }
    }
    return total;
}

uint64_t fgv_weights_bytes(const fgv_weights *w)
{
    uint64_t total = 0;
    for (int i = 0; i < w->count; i++) {
        total += w->tensors[i].entry->end - w->tensors[i].entry->begin;
    }
    return total;
}

fga_context *fgv_weights_context(const fgv_weights *weights)
{
    return weights->ctx;
}

int64_t fgv_tensor_elements(const fgv_tensor *tensor)
{
    int64_t elements = 1;
    for (int i = 0; i < tensor->rank; i++) {
        elements *= tensor->shape[i];
    }
    return elements;
}

fga_status fgv_tensor_to_f32(fga_context *ctx, const fgv_tensor *tensor, float **out)
{
    int64_t elements = fgv_tensor_elements(tensor);
    *out = malloc((elements > 0 ? (size_t)elements : 1) * sizeof **out);
    if (*out == NULL) {
        return fga_context_fail(ctx, FGA_ERR_MEMORY, "no memory for a tensor of %lld elements", (long long)elements);
    }
    fga_to_f32(*out, tensor->data, tensor->dtype, elements);
    return FGA_OK;
}
