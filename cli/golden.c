#include "golden.h"

#include <cjson/cJSON.h>
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

struct cli_golden {
    const char *path;
    unsigned char *bytes; /* the whole file */
    size_t size, data;    /* where the tensors begin */
    cJSON *header;
};

static int read_file(const char *path, unsigned char **bytes, size_t *size)
{
    FILE *file = fopen(path, "rb");
    if (file == NULL) {
        return cli_fail(CLI_BAD_DATA, "cannot open the golden file %s: %s", path, strerror(errno));
    }
    size_t capacity = 0;
    *bytes = NULL;
    *size = 0;
    size_t got;
    do {
        if (*size == capacity) {
            capacity = capacity > 0 ? 2 * capacity : 1 << 20;
            unsigned char *larger = realloc(*bytes, capacity);
            if (larger == NULL) {
                fclose(file);
                return cli_fail(CLI_NO_MEMORY, "no memory to read %s", path);
            }
            *bytes = larger;
        }
        got = fread(*bytes + *size, 1, capacity - *size, file);
        *size += got;
    } while (got > 0);
    bool failed = ferror(file) != 0;
    fclose(file);
    return failed ? cli_fail(CLI_BAD_DATA, "cannot read the golden file %s", path) : CLI_DONE;
}

static int parse_header(cli_golden *g)
{
    uint64_t length = 0;
    for (int i = 7; i >= 0 && g->size >= 8; i--) {
        length = length << 8 | g->bytes[i];
    }
    if (g->size < 8 || length > g->size - 8) {
        return cli_fail(CLI_BAD_DATA, "%s is not a safetensors file: its header does not fit in it", g->path);
    }
    g->header = cJSON_ParseWithLength((const char *)g->bytes + 8, (size_t)length);
    if (!cJSON_IsObject(g->header)) {
        return cli_fail(CLI_BAD_DATA, "%s is not a safetensors file: its header is no JSON object", g->path);
    }
    g->data = 8 + (size_t)length;
    return CLI_DONE;
}

int cli_golden_open(const char *path, cli_golden **out)
{
    cli_golden *g = calloc(1, sizeof *g);
    *out = g;
    if (g == NULL) {
        return cli_fail(CLI_NO_MEMORY, "no memory to open %s", path);
    }
    g->path = path;
    int code = read_file(path, &g->bytes, &g->size);
    return code == CLI_DONE ? parse_header(g) : code;
}

void cli_golden_close(cli_golden **golden)
{
    if (*golden != NULL) {
        cJSON_Delete((*golden)->header);
        free((*golden)->bytes);
        free(*golden);
        *golden = NULL;
    }
}

/* A whole number in [0, high] out of JSON, or -1. */
static int64_t whole(const cJSON *item, double high)
{
    if (!cJSON_IsNumber(item) || !(item->valuedouble >= 0 && item->valuedouble <= high) ||
        item->valuedouble != floor(item->valuedouble)) {
        return -1;
    }
    return (int64_t)item->valuedouble;
}

bool cli_golden_find(const cli_golden *g, const char *name, cli_tensor *tensor)
{
    const cJSON *entry = cJSON_GetObjectItemCaseSensitive(g->header, name);
    const cJSON *dtype = cJSON_GetObjectItemCaseSensitive(entry, "dtype");
    const cJSON *shape = cJSON_GetObjectItemCaseSensitive(entry, "shape");
    const cJSON *offsets = cJSON_GetObjectItemCaseSensitive(entry, "data_offsets");
    int rank = cJSON_GetArraySize(shape);
    if (!cJSON_IsString(dtype) || strcmp(dtype->valuestring, "F32") != 0 || rank > 5 ||
        cJSON_GetArraySize(offsets) != 2) {
        return false;
    }
    double room = (double)(g->size - g->data);
    *tensor = (cli_tensor){.rank = rank, .count = 1};
    for (int i = 0; i < rank; i++) {
        tensor->shape[i] = whole(cJSON_GetArrayItem(shape, i), room);
        if (tensor->shape[i] < 0 || (double)tensor->count * (double)tensor->shape[i] * 4 > room) {
            return false;
        }
        tensor->count *= tensor->shape[i];
    }
    int64_t begin = whole(cJSON_GetArrayItem(offsets, 0), room), end = whole(cJSON_GetArrayItem(offsets, 1), room);
    const unsigned char *data = g->bytes + g->data + (begin > 0 ? begin : 0);
    if (begin < 0 || end - begin != tensor->count * 4 || (uintptr_t)data % sizeof(float) != 0) {
        return false;
    }
    tensor->data = (const float *)(const void *)data;
    return true;
}

int cli_golden_get(const cli_golden *g, const char *name, int rank, cli_tensor *tensor)
{
    if (!cli_golden_find(g, name, tensor)) {
        return cli_fail(CLI_BAD_DATA, "%s: no sound F32 tensor %s", g->path, name);
    }
    if (tensor->rank != rank) {
        return cli_fail(CLI_BAD_DATA, "%s: %s has %d dimensions, wanted %d", g->path, name, tensor->rank, rank);
    }
    return CLI_DONE;
}
