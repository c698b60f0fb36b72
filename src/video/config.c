#include "video/config.h"

#include "base/error.h"
#include "video/json.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

struct fgv_config {
    fga_context *ctx;
    char *path;
    cJSON *root;
};

fga_status fgv_config_open(fga_context *ctx, const char *path, fgv_config **out)
{
    *out = NULL;
    fgv_config *config = calloc(1, sizeof *config);
    if (config == NULL || (config->path = strdup(path)) == NULL) {
        free(config);
        return fga_context_fail(ctx, FGA_ERR_MEMORY, "%s: no memory", path);
    }
    config->ctx = ctx;
    fga_status status = fgv_json_read(ctx, path, &config->root);
    if (status != FGA_OK) {
        fgv_config_close(&config);
    }
    *out = config;
    return status;
}

void fgv_config_close(fgv_config **handle)
{
    if (handle == NULL || *handle == NULL) {
        return;
    }
    cJSON_Delete((*handle)->root);
    free((*handle)->path);
    free(*handle);
    *handle = NULL;
}

/* JSON null is how these files write "not set": it counts as missing. */
static const cJSON *find(const fgv_config *config, const char *key)
{
    const cJSON *item = cJSON_GetObjectItemCaseSensitive(config->root, key);
    return item != NULL && !cJSON_IsNull(item) ? item : NULL;
}

static fga_status wrong(const fgv_config *config, const char *key, const char *wanted)
{
    return fga_context_fail(config->ctx, FGA_ERR_DATA, "%s: key %s %s, wanted %s", config->path, key,
                            find(config, key) != NULL ? "has another type or value" : "is missing", wanted);
}

bool fgv_config_has(const fgv_config *config, const char *key)
{
    return find(config, key) != NULL;
}

fga_status fgv_config_int(const fgv_config *config, const char *key, int64_t low, int64_t high, int64_t *value)
{
    if (!fgv_json_integer(find(config, key), low, high, value)) {
        const cJSON *item = find(config, key);
        if (cJSON_IsNumber(item)) {
            return fga_context_fail(config->ctx, FGA_ERR_DATA, "%s: key %s is %g, wanted an integer in [%lld, %lld]",
                                    config->path, key, item->valuedouble, (long long)low, (long long)high);
        }
        return wrong(config, key, "an integer");
    }
    return FGA_OK;
}

fga_status fgv_config_int_or(const fgv_config *config, const char *key, int64_t low, int64_t high, int64_t fallback,
                             int64_t *value)
{
    if (find(config, key) == NULL) {
        *value = fallback;
        return FGA_OK;
    }
    return fgv_config_int(config, key, low, high, value);
}

fga_status fgv_config_double_or(const fgv_config *config, const char *key, double fallback, double *value)
{
    const cJSON *item = find(config, key);
    *value = fallback;
    if (item == NULL) {
        return FGA_OK;
    }
    if (!cJSON_IsNumber(item) || !isfinite(item->valuedouble)) {
        return wrong(config, key, "a finite number");
    }
    *value = item->valuedouble;
    return FGA_OK;
}

fga_status fgv_config_bool_or(const fgv_config *config, const char *key, bool fallback, bool *value)
{
    const cJSON *item = find(config, key);
    *value = fallback;
    if (item == NULL) {
        return FGA_OK;
    }
    if (!cJSON_IsBool(item)) {
        return wrong(config, key, "true or false");
    }
    *value = cJSON_IsTrue(item);
    return FGA_OK;
}

fga_status fgv_config_string_or(const fgv_config *config, const char *key, const char *fallback, const char **value)
{
    const cJSON *item = find(config, key);
    *value = fallback;
    if (item == NULL) {
        return FGA_OK;
    }
    if (!cJSON_IsString(item)) {
        return wrong(config, key, "a string");
    }
    *value = item->valuestring;
    return FGA_OK;
}

fga_status fgv_config_numbers(const fgv_config *config, const char *key, int count, double *values)
{
    const cJSON *array = find(config, key);
    if (!cJSON_IsArray(array) || cJSON_GetArraySize(array) != count) {
        return fga_context_fail(config->ctx, FGA_ERR_DATA, "%s: key %s: wanted an array of %d numbers", config->path,
                                key, count);
    }
    const cJSON *item;
    int i = 0;
    cJSON_ArrayForEach(item, array)
    {
        if (!cJSON_IsNumber(item) || !isfinite(item->valuedouble)) {
            return fga_context_fail(config->ctx, FGA_ERR_DATA, "%s: key %s: element %d is not a finite number",
                                    config->path, key, i);
        }
        values[i++] = item->valuedouble;
    }
    return FGA_OK;
}

fga_status fgv_config_bools(const fgv_config *config, const char *key, int count, bool *values)
{
    const cJSON *array = find(config, key);
    bool good = cJSON_IsArray(array) && cJSON_GetArraySize(array) == count;
    for (int i = 0; i < count && good; i++) {
        const cJSON *item = cJSON_GetArrayItem(array, i);
        good = cJSON_IsBool(item);
        values[i] = cJSON_IsTrue(item);
    }
    if (!good) {
        return fga_context_fail(config->ctx, FGA_ERR_DATA, "%s: key %s: wanted an array of %d times true or false",
                                config->path, key, count);
    }
    return FGA_OK;
}

int fgv_config_count(const fgv_config *config, const char *key)
{
    const cJSON *array = find(config, key);
    return cJSON_IsArray(array) ? cJSON_GetArraySize(array) : -1;
}

fga_status fgv_config_expect(const fgv_config *config, const char *key, const char *expected)
{
    const char *value;
    FGA_TRY(fgv_config_string_or(config, key, expected, &value));
    if (strcmp(value, expected) != 0) {
        return fga_context_fail(config->ctx, FGA_ERR_DATA, "%s: key %s is \"%.100s\", wanted \"%s\"", config->path, key,
                                value, expected);
    }
    return FGA_OK;
}
