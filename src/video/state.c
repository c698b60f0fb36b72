#include "video/state.h"

#include "base/error.h"

#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>

/* The checksum is of the whole file with this in its place, and is put there when the file is complete. */
static const char checksum_key[] = "\"checksum\":\"";
static const char no_checksum[] = "00000000";
static const char version[] = "1";

enum { CHECKSUM_DIGITS = sizeof no_checksum - 1, LENGTH_BYTES = 8 };

bool fgv_state_field(cJSON *fields, const char *name, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    int length = vsnprintf(NULL, 0, format, arguments);
    va_end(arguments);
    char *text = length >= 0 ? malloc((size_t)length + 1) : NULL;
    if (text == NULL) {
        return false;
    }
    va_start(arguments, format);
    vsnprintf(text, (size_t)length + 1, format, arguments);
    va_end(arguments);
    bool added = cJSON_AddStringToObject(fields, name, text) != NULL;
    free(text);
    return added;
}

bool fgv_state_number(cJSON *fields, const char *name, double value)
{
    char text[FGV_JSON_NUMBER];
    return fgv_json_print_number(value, text) && cJSON_AddStringToObject(fields, name, text) != NULL;
}

/* ---- writing ---------------------------------------------------------------------------------------- */

typedef struct writer {
    FILE *file;
    uint32_t checksum;
} writer;

static bool emit(void *user, const void *bytes, size_t count)
{
    writer *w = user;
    w->checksum = (uint32_t)crc32_z(w->checksum, bytes, count);
    return fwrite(bytes, 1, count, w->file) == count;
}

static bool add_tensor(cJSON *root, const char *name, const char *type, uint64_t elements, uint64_t size, uint64_t *at)
{
    cJSON *tensor = cJSON_AddObjectToObject(root, name), *shape = cJSON_CreateArray(), *offsets = cJSON_CreateArray();
    bool added = tensor != NULL && cJSON_AddStringToObject(tensor, "dtype", type) != NULL &&
                 cJSON_AddItemToArray(shape, cJSON_CreateNumber((double)elements)) &&
                 cJSON_AddItemToArray(offsets, cJSON_CreateNumber((double)*at)) &&
                 cJSON_AddItemToArray(offsets, cJSON_CreateNumber((double)(*at + elements * size)));
    *at += elements * size;
    if (!added || !cJSON_AddItemToObject(tensor, "shape", shape)) {
        cJSON_Delete(shape);
        cJSON_Delete(offsets);
        return false;
    }
    if (!cJSON_AddItemToObject(tensor, "data_offsets", offsets)) {
        cJSON_Delete(offsets);
        return false;
    }
    return true;
}

static bool add_totals(cJSON *meta, const fgv_state *s)
{
    const fgv_state_totals *t = &s->totals;
    return fgv_state_field(meta, "fgattn_state", "%s", version) &&
           cJSON_AddStringToObject(meta, "checksum", no_checksum) != NULL &&
           fgv_state_field(meta, "done", "%d", s->done) && fgv_state_number(meta, "denoise_s", t->denoise_s) &&
           fgv_state_number(meta, "attention_s", t->attention_s) &&
           fgv_state_field(meta, "steps_dense", "%d", t->steps_dense) &&
           fgv_state_field(meta, "steps_refresh", "%d", t->steps_refresh) &&
           fgv_state_field(meta, "steps_reuse", "%d", t->steps_reuse);
}

/* The header's text; NULL when memory ends. */
static char *make_header(const fgv_state *s, uint64_t session_bytes)
{
    uint64_t at = 0;
    cJSON *root = cJSON_CreateObject(), *meta = cJSON_Duplicate(s->fields, true);
    char *text = NULL;
    if (root == NULL || meta == NULL || !cJSON_AddItemToObject(root, "__metadata__", meta)) {
        cJSON_Delete(meta);
    } else if (add_totals(meta, s) && add_tensor(root, "latents", "F32", (uint64_t)s->elements, 4, &at) &&
               add_tensor(root, "sampler", "F32", (uint64_t)s->history_count, 4, &at) &&
               add_tensor(root, "session", "U8", session_bytes, 1, &at)) {
        text = cJSON_PrintUnformatted(root);
    }
    cJSON_Delete(root);
    return text;
}

static fga_status write_whole(const fgv_state *s, writer *w, const char *header)
{
    uint8_t length[LENGTH_BYTES];
    char digits[CHECKSUM_DIGITS + 1];
    size_t bytes = strlen(header);
    /* No text in it can look like this: its quotes would be escaped. */
    const char *place = strstr(header, checksum_key);
    for (int i = 0; i < LENGTH_BYTES; i++) {
        length[i] = (uint8_t)((uint64_t)bytes >> (8 * i));
    }
    if (place == NULL) {
        return fga_context_fail(s->ctx, FGA_ERR_INTERNAL, "%s: no checksum in the header", s->path);
    }
    bool good = emit(w, length, sizeof length) && emit(w, header, bytes) &&
                emit(w, s->latents, (size_t)s->elements * sizeof(float)) &&
                (s->history_count == 0 || emit(w, s->history, (size_t)s->history_count * sizeof(float)));
    fga_status status = good ? fga_session_save(s->session, emit, w, NULL) : FGA_ERR_INTERRUPTED;
    if (status != FGA_OK && status != FGA_ERR_INTERRUPTED) {
        return status;
    }
    snprintf(digits, sizeof digits, "%08" PRIx32, w->checksum);
    long at = LENGTH_BYTES + (place - header) + (long)sizeof checksum_key - 1;
    good = status == FGA_OK && fseek(w->file, at, SEEK_SET) == 0 &&
           fwrite(digits, 1, CHECKSUM_DIGITS, w->file) == CHECKSUM_DIGITS && fflush(w->file) == 0;
    return good ? FGA_OK : fga_context_fail(s->ctx, FGA_ERR_IO, "cannot write %s: %s", s->path, strerror(errno));
}

static fga_status write_part(const fgv_state *s, const char *part, const char *header)
{
    writer w = {fopen(part, "wb"), 0};
    if (w.file == NULL) {
        return fga_context_fail(s->ctx, FGA_ERR_IO, "cannot write %s: %s", part, strerror(errno));
    }
    fga_status status = write_whole(s, &w, header);
    if (fclose(w.file) != 0 && status == FGA_OK) {
        status = fga_context_fail(s->ctx, FGA_ERR_IO, "cannot write %s: %s", part, strerror(errno));
    }
    if (status == FGA_OK && rename(part, s->path) != 0) {
        status = fga_context_fail(s->ctx, FGA_ERR_IO, "cannot rename %s: %s", part, strerror(errno));
    }
    if (status != FGA_OK) {
        remove(part);
    }
    return status;
}

fga_status fgv_state_write(const fgv_state *s)
{
    uint64_t session_bytes;
    FGA_TRY(fga_session_save(s->session, NULL, NULL, &session_bytes));
    size_t bytes = strlen(s->path) + sizeof ".part";
    char *part = malloc(bytes), *header = make_header(s, session_bytes);
    fga_status status;
    if (part == NULL || header == NULL) {
        status = fga_context_fail(s->ctx, FGA_ERR_MEMORY, "%s: no memory", s->path);
    } else {
        snprintf(part, bytes, "%s.part", s->path);
        status = write_part(s, part, header);
    }
    free(part);
    cJSON_free(header);
    return status;
}

/* ---- reading ---------------------------------------------------------------------------------------- */

/* An opened file, and all of its bytes. */
typedef struct source {
    const fgv_safetensors *file;
    const uint8_t *bytes;
    size_t size;
} source;

static const char *text_of(const source *in, const char *name)
{
    return cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(in->file->metadata, name));
}

static fga_status damaged(const fgv_state *s, const char *what)
{
    return fga_context_fail(s->ctx, FGA_ERR_DATA, "%s: %s", s->path, what);
}

static fga_status check_whole(const fgv_state *s, const source *in)
{
    const char *written = text_of(in, "fgattn_state"), *checksum = text_of(in, "checksum");
    if (written == NULL) {
        return damaged(s, "not the state of a generation");
    }
    if (strcmp(written, version) != 0) {
        return fga_context_fail(s->ctx, FGA_ERR_DATA, "%s: a state of version %.16s, wanted %s", s->path, written,
                                version);
    }
    size_t header = 0, key = sizeof checksum_key - 1, at = LENGTH_BYTES;
    for (int i = 0; i < LENGTH_BYTES; i++) {
        header |= (size_t)in->bytes[i] << (8 * i);
    }
    while (at + key + CHECKSUM_DIGITS <= LENGTH_BYTES + header && memcmp(in->bytes + at, checksum_key, key) != 0) {
        at++;
    }
    if (checksum == NULL || strlen(checksum) != CHECKSUM_DIGITS || at + key + CHECKSUM_DIGITS > LENGTH_BYTES + header) {
        return damaged(s, "a state without a checksum");
    }
    at += key;
    uint32_t crc = (uint32_t)crc32_z(0, in->bytes, at);
    crc = (uint32_t)crc32_z(crc, (const uint8_t *)no_checksum, CHECKSUM_DIGITS);
    crc = (uint32_t)crc32_z(crc, in->bytes + at + CHECKSUM_DIGITS, in->size - at - CHECKSUM_DIGITS);
    char digits[CHECKSUM_DIGITS + 1];
    snprintf(digits, sizeof digits, "%08" PRIx32, crc);
    return strcmp(digits, checksum) == 0 ? FGA_OK : damaged(s, "the state's checksum does not match: it is damaged");
}

static fga_status check_fields(const fgv_state *s, const source *in)
{
    const cJSON *field;
    cJSON_ArrayForEach(field, s->fields)
    {
        const char *theirs = text_of(in, field->string), *ours = cJSON_GetStringValue(field);
        if (theirs == NULL || strcmp(theirs, ours) != 0) {
            return fga_context_fail(s->ctx, FGA_ERR_ARGUMENT,
                                    "%s is of another run: %s was \"%.80s\" there and is \"%.80s\" now", s->path,
                                    field->string, theirs != NULL ? theirs : "(nothing)", ours);
        }
    }
    return FGA_OK;
}

static fga_status get_whole(const fgv_state *s, const source *in, const char *name, int low, int high, int *value)
{
    const char *text = text_of(in, name);
    char *end = NULL;
    long number = text != NULL ? strtol(text, &end, 10) : 0;
    if (text == NULL || end == text || *end != '\0' || number < low || number > high) {
        return fga_context_fail(s->ctx, FGA_ERR_DATA, "%s: %s is \"%.32s\", wanted %d ... %d", s->path, name,
                                text != NULL ? text : "(nothing)", low, high);
    }
    *value = (int)number;
    return FGA_OK;
}

static fga_status get_seconds(const fgv_state *s, const source *in, const char *name, double *value)
{
    const char *text = text_of(in, name);
    if (text == NULL || !fgv_json_parse_number(text, value) || !(*value >= 0 && *value < 1e12)) {
        return fga_context_fail(s->ctx, FGA_ERR_DATA, "%s: %s is \"%.32s\", wanted seconds", s->path, name,
                                text != NULL ? text : "(nothing)");
    }
    return FGA_OK;
}

static fga_status get_tensor(const fgv_state *s, const source *in, const char *name, const char *type, uint64_t bytes,
                             const fgv_safetensors_entry **entry)
{
    *entry = fgv_safetensors_find(in->file, name);
    if (*entry == NULL || strcmp((*entry)->type, type) != 0) {
        return fga_context_fail(s->ctx, FGA_ERR_DATA, "%s: no tensor %s of %s", s->path, name, type);
    }
    uint64_t got = (*entry)->end - (*entry)->begin;
    if (bytes != UINT64_MAX && got != bytes) {
        return fga_context_fail(s->ctx, FGA_ERR_DATA, "%s: tensor %s has %" PRIu64 " bytes, wanted %" PRIu64, s->path,
                                name, got, bytes);
    }
    return FGA_OK;
}

static fga_status check(const fgv_state *s, const source *in)
{
    FGA_TRY(check_whole(s, in));
    return check_fields(s, in);
}

static fga_status take(fgv_state *s, const source *in)
{
    const fgv_safetensors_entry *latents, *history, *session;
    fgv_state_totals *t = &s->totals;
    FGA_TRY(check(s, in));
    FGA_TRY(get_whole(s, in, "done", 1, s->steps, &s->done));
    FGA_TRY(get_whole(s, in, "steps_dense", 0, s->steps, &t->steps_dense));
    FGA_TRY(get_whole(s, in, "steps_refresh", 0, s->steps, &t->steps_refresh));
    FGA_TRY(get_whole(s, in, "steps_reuse", 0, s->steps, &t->steps_reuse));
    FGA_TRY(get_seconds(s, in, "denoise_s", &t->denoise_s));
    FGA_TRY(get_seconds(s, in, "attention_s", &t->attention_s));
    FGA_TRY(get_tensor(s, in, "latents", "F32", (uint64_t)s->elements * 4, &latents));
    FGA_TRY(get_tensor(s, in, "sampler", "F32", (uint64_t)s->history_count * 4, &history));
    FGA_TRY(get_tensor(s, in, "session", "U8", UINT64_MAX, &session));
    FGA_TRY(fga_session_load(s->session, session->data, (size_t)(session->end - session->begin)));
    memcpy(s->latents, latents->data, (size_t)s->elements * sizeof(float));
    if (s->history_count > 0) {
        memcpy(s->history, history->data, (size_t)s->history_count * sizeof(float));
    }
    return FGA_OK;
}

fga_status fgv_state_check(const fgv_state *s)
{
    fgv_safetensors file;
    FGA_TRY(fgv_safetensors_open(s->ctx, s->path, &file));
    fga_status status = check(s, &(source){&file, file.mapping, file.mapping_bytes});
    fgv_safetensors_close(&file);
    return status;
}

fga_status fgv_state_read(fgv_state *s)
{
    fgv_safetensors file;
    FGA_TRY(fgv_safetensors_open(s->ctx, s->path, &file));
    fga_status status = take(s, &(source){&file, file.mapping, file.mapping_bytes});
    fgv_safetensors_close(&file);
    return status;
}

fga_status fgv_state_parse(fgv_state *s, const void *bytes, size_t size)
{
    fgv_safetensors file;
    FGA_TRY(fgv_safetensors_parse(s->ctx, s->path, bytes, size, &file));
    fga_status status = take(s, &(source){&file, bytes, size});
    fgv_safetensors_close(&file);
    return status;
}
