/* model_words.c - the words that a small model was taught, so that others get a warning. */
#include "base/error.h"
#include "video/model.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MAX_LIST_BYTES (1 << 20)

/* Letters, digits and everything beyond ASCII. */
static bool in_word(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || (unsigned char)c >= 0x80;
}

static char lower(char c)
{
    return c >= 'A' && c <= 'Z' ? (char)(c - 'A' + 'a') : c;
}

/* The next word at or after *text as [start, start + length); *text moves behind it. 0 when there is none. */
static size_t next_word(const char **text, const char **start)
{
    const char *s = *text;
    while (*s != '\0' && !in_word(*s)) {
        s++;
    }
    *start = s;
    while (in_word(*s)) {
        s++;
    }
    *text = s;
    return (size_t)(s - *start);
}

/* Whether `list`, words each followed by a space, has the word in lower case. */
static bool has_word(const char *list, const char *word, size_t length)
{
    for (const char *at = list; *at != '\0'; at = strchr(at, ' ') + 1) {
        size_t i = 0;
        while (i < length && at[i] == lower(word[i])) {
            i++;
        }
        if (i == length && at[i] == ' ') {
            return true;
        }
    }
    return false;
}

static fga_status read_text(fga_context *ctx, const char *path, char *text, size_t capacity, size_t *length)
{
    FILE *file = fopen(path, "rb");
    if (file == NULL) {
        return fga_context_fail(ctx, FGA_ERR_IO, "%s: cannot be read", path);
    }
    *length = fread(text, 1, capacity, file);
    bool failed = ferror(file) != 0;
    fclose(file);
    if (failed || *length == capacity || memchr(text, '\0', *length) != NULL) {
        return fga_context_fail(ctx, FGA_ERR_DATA, "%s: not a word list of less than 1 MiB", path);
    }
    text[*length] = '\0';
    return FGA_OK;
}

fga_status fgv_model_read_words(fga_context *ctx, const char *directory, char **words)
{
    char path[4096];
    *words = NULL;
    FGA_TRY(fgv_model_path(ctx, directory, "vocabulary.txt", path, sizeof path));
    if (access(path, F_OK) != 0) {
        return FGA_OK;
    }
    fga_status status = FGA_OK;
    size_t length, used = 0;
    char *text = malloc(MAX_LIST_BYTES + 1), *list = malloc(MAX_LIST_BYTES + 2);
    if (text == NULL || list == NULL) {
        status = fga_context_fail(ctx, FGA_ERR_MEMORY, "%s: no memory for a word list", path);
        goto cleanup;
    }
    FGA_CHECK(read_text(ctx, path, text, MAX_LIST_BYTES, &length));
    const char *at = text, *start;
    for (size_t n; (n = next_word(&at, &start)) > 0;) {
        for (size_t i = 0; i < n; i++) {
            list[used++] = lower(start[i]);
        }
        list[used++] = ' ';
    }
    list[used] = '\0';
    char *fitted = realloc(list, used + 1);
    *words = fitted != NULL ? fitted : list;
    list = NULL;
cleanup:
    free(text);
    free(list);
    return status;
}

int fgv_unknown_words(const fgv_model *model, const char *prompt, char *words, size_t bytes, const char **vocabulary)
{
    if (bytes > 0) {
        words[0] = '\0';
    }
    if (vocabulary != NULL) {
        *vocabulary = model->vocabulary;
    }
    if (model->vocabulary == NULL || prompt == NULL) {
        return 0;
    }
    int count = 0;
    size_t used = 0;
    const char *at = prompt, *start;
    for (size_t n; (n = next_word(&at, &start)) > 0;) {
        bool again = false;
        const char *earlier = prompt, *other;
        for (size_t m; !again && (m = next_word(&earlier, &other)) > 0 && other < start;) {
            again = m == n && memcmp(other, start, n) == 0;
        }
        if (again || has_word(model->vocabulary, start, n)) {
            continue;
        }
        const char *comma = count > 0 ? ", " : "";
        if (used + strlen(comma) + n < bytes) {
            used += (size_t)snprintf(words + used, bytes - used, "%s%.*s", comma, (int)n, start);
        } else {
            bytes = 0; /* full: nothing shorter may slip in behind a gap */
        }
        count++;
    }
    return count;
}
