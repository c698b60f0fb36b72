#define _DEFAULT_SOURCE /* madvise: the posix_ one does nothing here */
#include "video/safetensors.h"

#include "base/error.h"
#include "video/json.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

/* The format's own limit; a longer header is a corrupt length field. */
#define MAX_HEADER_BYTES 100000000u
/* Beyond 2^53 a JSON number read as a double is no longer exact. */
#define MAX_EXACT ((int64_t)1 << 53)

typedef struct element_type {
    const char *name;
    int bytes;
    int dtype; /* fga_dtype or -1 */
} element_type;

static const element_type types[] = {
    {"F32", 4, FGA_F32}, {"F16", 2, FGA_F16}, {"BF16", 2, FGA_BF16}, {"F64", 8, -1},     {"I64", 8, -1},
    {"U64", 8, -1},      {"I32", 4, -1},      {"U32", 4, -1},        {"I16", 2, -1},     {"U16", 2, -1},
    {"I8", 1, -1},       {"U8", 1, -1},       {"BOOL", 1, -1},       {"F8_E4M3", 1, -1}, {"F8_E5M2", 1, -1},
};

/* What parsing carries around, so that every error can name the file. */
typedef struct reader {
    fga_context *ctx;
    const char *label;
    const unsigned char *data; /* first byte after the header */
    uint64_t data_bytes;
} reader;

/* Names go into one-line error texts, and no real checkpoint has such a name. */
static bool printable(const char *name)
{
    for (; *name != '\0'; name++) {
        if ((unsigned char)*name < 0x20 || *name == 0x7f) {
            return false;
        }
    }
    return true;
}

static fga_status read_shape(const reader *r, const cJSON *shape, fgv_safetensors_entry *entry, uint64_t *elements)
{
    if (!cJSON_IsArray(shape)) {
        return fga_context_fail(r->ctx, FGA_ERR_DATA, "%s: tensor %s: expected a shape array", r->label, entry->name);
    }
    /* Zero extents make any product zero, so overflow is judged over the others: no order of extents hides it. */
    uint64_t product = 1;
    bool empty = false;
    const cJSON *item;
    cJSON_ArrayForEach(item, shape)
    {
        int64_t extent;
        if (!fgv_json_integer(item, 0, MAX_EXACT, &extent)) {
            return fga_context_fail(r->ctx, FGA_ERR_DATA,
                                    "%s: tensor %s: shape[%d] is not an integer between 0 and 2^53", r->label,
                                    entry->name, entry->rank);
        }
        if (extent == 0) {
            empty = true;
        } else if (product > (uint64_t)MAX_EXACT / (uint64_t)extent) {
            return fga_context_fail(r->ctx, FGA_ERR_DATA, "%s: tensor %s: the shape's product overflows", r->label,
                                    entry->name);
        } else {
            product *= (uint64_t)extent;
        }
        if (entry->rank < FGV_MAX_RANK) {
            entry->shape[entry->rank] = extent;
        }
        entry->rank++;
    }
    *elements = empty ? 0 : product;
    return FGA_OK;
}

static fga_status read_entry(const reader *r, const cJSON *item, fgv_safetensors_entry *entry)
{
    if (!cJSON_IsObject(item)) {
        return fga_context_fail(r->ctx, FGA_ERR_DATA, "%s: tensor %s: expected an object", r->label, entry->name);
    }
    const char *name = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(item, "dtype"));
    const element_type *type = NULL;
    for (size_t i = 0; name != NULL && i < sizeof types / sizeof types[0]; i++) {
        if (strcmp(types[i].name, name) == 0) {
            type = &types[i];
        }
    }
    if (type == NULL) {
        return fga_context_fail(r->ctx, FGA_ERR_DATA, "%s: tensor %s: unknown dtype %.32s", r->label, entry->name,
                                name != NULL ? name : "(missing)");
    }
    entry->type = type->name;
    entry->dtype = type->dtype;
    uint64_t elements = 0;
    FGA_TRY(read_shape(r, cJSON_GetObjectItemCaseSensitive(item, "shape"), entry, &elements));

    const cJSON *offsets = cJSON_GetObjectItemCaseSensitive(item, "data_offsets");
    int64_t begin, end;
    if (!cJSON_IsArray(offsets) || cJSON_GetArraySize(offsets) != 2 ||
        !fgv_json_integer(cJSON_GetArrayItem(offsets, 0), 0, MAX_EXACT, &begin) ||
        !fgv_json_integer(cJSON_GetArrayItem(offsets, 1), 0, MAX_EXACT, &end)) {
        return fga_context_fail(r->ctx, FGA_ERR_DATA, "%s: tensor %s: expected data_offsets [begin, end]", r->label,
                                entry->name);
    }
    if (begin > end || (uint64_t)end > r->data_bytes) {
        return fga_context_fail(r->ctx, FGA_ERR_DATA,
                                "%s: tensor %s: data_offsets [%" PRId64 ", %" PRId64 "] lie outside the %" PRIu64
                                " bytes of data (truncated file?)",
                                r->label, entry->name, begin, end, r->data_bytes);
    }
    uint64_t wanted = elements * (uint64_t)type->bytes; /* < 2^56 */
    if ((uint64_t)(end - begin) != wanted) {
        return fga_context_fail(r->ctx, FGA_ERR_DATA,
                                "%s: tensor %s: data_offsets span %" PRId64 " bytes, its shape and dtype want %" PRIu64,
                                r->label, entry->name, end - begin, wanted);
    }
    entry->begin = (uint64_t)begin;
    entry->end = (uint64_t)end;
    entry->data = r->data + begin;
    return FGA_OK;
}

static int by_name(const void *a, const void *b)
{
    return strcmp(((const fgv_safetensors_entry *)a)->name, ((const fgv_safetensors_entry *)b)->name);
}

static int by_offset(const void *a, const void *b)
{
    const fgv_safetensors_entry *x = a, *y = b;
    if (x->begin != y->begin) {
        return x->begin < y->begin ? -1 : 1;
    }
    return (x->end > y->end) - (x->end < y->end); /* empty tensors before the one that starts where they lie */
}

/* The format wants the data covered exactly; a gap or a rest is as sure a sign of corruption as an overlap. */
static fga_status check_coverage(const reader *r, fgv_safetensors *file)
{
    uint64_t covered = 0;
    qsort(file->entries, (size_t)file->count, sizeof *file->entries, by_offset);
    for (int i = 0; i < file->count; i++) {
        const fgv_safetensors_entry *entry = &file->entries[i];
        if (entry->begin != covered) {
            return fga_context_fail(r->ctx, FGA_ERR_DATA,
                                    "%s: tensor %s: data begins at byte %" PRIu64 ", expected %" PRIu64 " (%s)",
                                    r->label, entry->name, entry->begin, covered,
                                    entry->begin < covered ? "overlaps another tensor" : "unclaimed bytes before it");
        }
        covered = entry->end;
    }
    if (covered != r->data_bytes) {
        return fga_context_fail(r->ctx, FGA_ERR_DATA, "%s: tensors cover %" PRIu64 " of %" PRIu64 " data bytes",
                                r->label, covered, r->data_bytes);
    }
    qsort(file->entries, (size_t)file->count, sizeof *file->entries, by_name);
    for (int i = 1; i < file->count; i++) {
        if (strcmp(file->entries[i - 1].name, file->entries[i].name) == 0) {
            return fga_context_fail(r->ctx, FGA_ERR_DATA, "%s: tensor %s occurs twice", r->label,
                                    file->entries[i].name);
        }
    }
    return FGA_OK;
}

fga_status fgv_safetensors_parse(fga_context *ctx, const char *label, const void *bytes, size_t size,
                                 fgv_safetensors *file)
{
    *file = (fgv_safetensors){0};
    fga_status status = FGA_OK;
    cJSON *header = NULL;
    const unsigned char *start = bytes;
    if (size < 8) {
        return fga_context_fail(ctx, FGA_ERR_DATA, "%s: %zu bytes are too few for a safetensors file", label, size);
    }
    uint64_t length = 0;
    for (int i = 7; i >= 0; i--) {
        length = length << 8 | start[i];
    }
    if (length > MAX_HEADER_BYTES || length > size - 8) {
        return fga_context_fail(ctx, FGA_ERR_DATA,
                                "%s: header of %" PRIu64 " bytes, expected at most %u and within the file's %zu bytes",
                                label, length, MAX_HEADER_BYTES, size);
    }
    reader r = {ctx, label, start + 8 + length, size - 8 - length};
    FGA_CHECK(fgv_json_parse(ctx, label, (const char *)start + 8, (size_t)length, &header));
    int items = cJSON_GetArraySize(header);
    file->entries = calloc(items > 0 ? (size_t)items : 1, sizeof *file->entries);
    if (file->entries == NULL) {
        status = fga_context_fail(ctx, FGA_ERR_MEMORY, "%s: no memory for %d tensors", label, items);
        goto cleanup;
    }
    const cJSON *item;
    cJSON_ArrayForEach(item, header)
    {
        if (strcmp(item->string, "__metadata__") == 0) {
            continue;
        }
        if (!printable(item->string)) {
            status =
                fga_context_fail(ctx, FGA_ERR_DATA, "%s: tensor name %d holds control characters", label, file->count);
            goto cleanup;
        }
        fgv_safetensors_entry *entry = &file->entries[file->count++];
        entry->name = strdup(item->string);
        if (entry->name == NULL) {
            status = fga_context_fail(ctx, FGA_ERR_MEMORY, "%s: no memory for tensor names", label);
            goto cleanup;
        }
        FGA_CHECK(read_entry(&r, item, entry));
    }
    FGA_CHECK(check_coverage(&r, file));
    file->metadata = cJSON_DetachItemFromObjectCaseSensitive(header, "__metadata__");
cleanup:
    cJSON_Delete(header);
    if (status != FGA_OK) {
        fgv_safetensors_close(file);
    }
    return status;
}

fga_status fgv_safetensors_open(fga_context *ctx, const char *path, fgv_safetensors *file)
{
    *file = (fgv_safetensors){0};
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    struct stat info;
    if (fd < 0 || fstat(fd, &info) != 0) {
        fga_status status = fga_context_fail(ctx, FGA_ERR_IO, "cannot open %s: %s", path, strerror(errno));
        if (fd >= 0) {
            close(fd);
        }
        return status;
    }
    if (!S_ISREG(info.st_mode) || info.st_size < 8) {
        close(fd);
        return fga_context_fail(ctx, FGA_ERR_DATA, "%s: too short for a safetensors file, or no regular file", path);
    }
    size_t size = (size_t)info.st_size;
    void *mapping = mmap(NULL, size, PROT_READ, MAP_SHARED, fd, 0);
    int mapping_error = errno;
    close(fd);
    if (mapping == MAP_FAILED) {
        return fga_context_fail(ctx, FGA_ERR_IO, "cannot map %s: %s", path, strerror(mapping_error));
    }
    fga_status status = fgv_safetensors_parse(ctx, path, mapping, size, file);
    if (status != FGA_OK) {
        munmap(mapping, size);
        return status;
    }
    file->mapping = mapping;
    file->mapping_bytes = size;
    return FGA_OK;
}

void fgv_safetensors_close(fgv_safetensors *file)
{
    for (int i = 0; i < file->count; i++) {
        free(file->entries[i].name);
    }
    free(file->entries);
    cJSON_Delete(file->metadata);
    if (file->mapping != NULL) {
        munmap(file->mapping, file->mapping_bytes);
    }
    *file = (fgv_safetensors){0};
}

const fgv_safetensors_entry *fgv_safetensors_find(const fgv_safetensors *file, const char *name)
{
    int low = 0, high = file->count;
    while (low < high) {
        int middle = low + (high - low) / 2;
        int order = strcmp(name, file->entries[middle].name);
        if (order == 0) {
            return &file->entries[middle];
        }
        if (order < 0) {
            high = middle;
        } else {
            low = middle + 1;
        }
    }
    return NULL;
}

void fgv_safetensors_rest(const fgv_safetensors *file)
{
    if (file->mapping != NULL) {
        madvise(file->mapping, file->mapping_bytes, MADV_DONTNEED); /* a hint: nothing depends on its success */
    }
}
