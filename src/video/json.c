#include "video/json.h"

#include "base/error.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX_FILE_BYTES ((long)64 << 20)

fga_status fgv_json_parse(fga_context *ctx, const char *what, const char *text, size_t bytes, cJSON **object)
{
    *object = NULL;
    const char *end = NULL;
    cJSON *parsed = cJSON_ParseWithLengthOpts(text, bytes, &end, 0);
    if (parsed == NULL) {
        size_t at = end != NULL ? (size_t)(end - text) : 0;
        return fga_context_fail(ctx, FGA_ERR_DATA, "%s: not valid JSON at byte %zu", what, at);
    }
    for (; end < text + bytes; end++) {
        if (strchr(" \t\r\n", *end) == NULL || *end == '\0') {
            cJSON_Delete(parsed);
            return fga_context_fail(ctx, FGA_ERR_DATA, "%s: text after the JSON object at byte %zu", what,
                                    (size_t)(end - text));
        }
    }
    if (!cJSON_IsObject(parsed)) {
        cJSON_Delete(parsed);
        return fga_context_fail(ctx, FGA_ERR_DATA, "%s: expected a JSON object", what);
    }
    *object = parsed;
    return FGA_OK;
}

fga_status fgv_json_read(fga_context *ctx, const char *path, cJSON **object)
{
    *object = NULL;
    fga_status status = FGA_OK;
    char *text = NULL;
    FILE *file = fopen(path, "rb");
    if (file == NULL) {
        return fga_context_fail(ctx, FGA_ERR_IO, "cannot open %s: %s", path, strerror(errno));
    }
    long bytes = fseek(file, 0, SEEK_END) == 0 ? ftell(file) : -1;
    if (bytes < 0 || bytes > MAX_FILE_BYTES || fseek(file, 0, SEEK_SET) != 0) {
        status =
            fga_context_fail(ctx, FGA_ERR_DATA, "%s: expected a JSON file of at most %ld bytes", path, MAX_FILE_BYTES);
        goto cleanup;
    }
    text = malloc((size_t)bytes + 1);
    if (text == NULL) {
        status = fga_context_fail(ctx, FGA_ERR_MEMORY, "%s: no memory for %ld bytes", path, bytes);
        goto cleanup;
    }
    if (fread(text, 1, (size_t)bytes, file) != (size_t)bytes) {
        status = fga_context_fail(ctx, FGA_ERR_IO, "cannot read %s", path);
        goto cleanup;
    }
    FGA_CHECK(fgv_json_parse(ctx, path, text, (size_t)bytes, object));
cleanup:
    free(text);
    fclose(file);
    return status;
}

bool fgv_json_integer(const cJSON *item, int64_t low, int64_t high, int64_t *value)
{
    /* Written so that NaN fails too. */
    if (!cJSON_IsNumber(item) || !(item->valuedouble >= (double)low && item->valuedouble <= (double)high) ||
        item->valuedouble != floor(item->valuedouble)) {
        return false;
    }
    *value = (int64_t)item->valuedouble;
    return true;
}

bool fgv_json_print_number(double value, char *text)
{
    cJSON *number = cJSON_CreateNumber(value);
    bool printed = number != NULL && cJSON_PrintPreallocated(number, text, FGV_JSON_NUMBER, false);
    cJSON_Delete(number);
    return printed;
}

bool fgv_json_parse_number(const char *text, double *value)
{
    cJSON *number = cJSON_ParseWithOpts(text, NULL, true);
    bool parsed = cJSON_IsNumber(number);
    *value = parsed ? number->valuedouble : NAN;
    cJSON_Delete(number);
    return parsed;
}
