/* json_check FILE KEY=TYPE...: exits with 0 if FILE is one JSON object with exactly these keys and types.
 *
 * KEY may be a path (dense.wall_s). TYPE: number, number? (or null), null, string, object, array. Of an object whose
 * members are listed, every member must be listed. */
#include <cjson/cJSON.h>

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static char *read_all(const char *path)
{
    FILE *file = strcmp(path, "-") == 0 ? stdin : fopen(path, "r");
    if (file == NULL) {
        return NULL;
    }
    enum { MOST = 1 << 20 };
    char *text = calloc(1, MOST);
    if (text != NULL) {
        size_t got = fread(text, 1, MOST - 1, file);
        text[got] = '\0';
    }
    fclose(file);
    return text;
}

static const cJSON *find(const cJSON *object, const char *path, size_t length)
{
    char key[64];
    size_t head = strcspn(path, ".=");
    head = head < length ? head : length;
    snprintf(key, sizeof key, "%.*s", (int)head, path);
    const cJSON *item = cJSON_GetObjectItemCaseSensitive(object, key);
    return item != NULL && head < length ? find(item, path + head + 1, length - head - 1) : item;
}

static bool has_type(const cJSON *item, const char *type)
{
    return (strcmp(type, "number") == 0 && cJSON_IsNumber(item)) ||
           (strcmp(type, "number?") == 0 && (cJSON_IsNumber(item) || cJSON_IsNull(item))) ||
           (strcmp(type, "null") == 0 && cJSON_IsNull(item)) || (strcmp(type, "string") == 0 && cJSON_IsString(item)) ||
           (strcmp(type, "object") == 0 && cJSON_IsObject(item)) || (strcmp(type, "array") == 0 && cJSON_IsArray(item));
}

/* How many of the wanted paths name a direct member of `prefix` ("" = the top). */
static int listed_under(const char *prefix, int count, char **wanted)
{
    int found = 0;
    size_t length = strlen(prefix);
    for (int i = 0; i < count; i++) {
        const char *rest = wanted[i] + length + (length > 0);
        if ((length == 0 || (strncmp(wanted[i], prefix, length) == 0 && wanted[i][length] == '.')) &&
            strcspn(rest, ".") > strcspn(rest, "=")) {
            found++;
        }
    }
    return found;
}

int main(int argc, char **argv)
{
    char *text = argc > 1 ? read_all(argv[1]) : NULL;
    cJSON *object = text != NULL ? cJSON_ParseWithOpts(text, NULL, true) : NULL;
    if (!cJSON_IsObject(object)) {
        fprintf(stderr, "no JSON object in %s\n", argc > 1 ? argv[1] : "nothing");
        cJSON_Delete(object);
        free(text);
        return 1;
    }
    int wrong = 0, wanted = argc - 2;
    char **paths = argv + 2;
    for (int i = 0; i < wanted; i++) {
        size_t length = strcspn(paths[i], "=");
        const char *type = paths[i][length] == '=' ? paths[i] + length + 1 : "";
        const cJSON *item = find(object, paths[i], length);
        if (item == NULL || !has_type(item, type)) {
            fprintf(stderr, "%s: %s\n", paths[i], item == NULL ? "missing" : "another type");
            wrong++;
        }
        char prefix[64];
        snprintf(prefix, sizeof prefix, "%.*s", (int)length, paths[i]);
        int listed = listed_under(prefix, wanted, paths);
        if (cJSON_IsObject(item) && listed > 0 && listed != cJSON_GetArraySize(item)) {
            fprintf(stderr, "%s has %d members, listed are %d\n", prefix, cJSON_GetArraySize(item), listed);
            wrong++;
        }
    }
    if (listed_under("", wanted, paths) != cJSON_GetArraySize(object)) {
        fprintf(stderr, "%d members, listed are %d\n", cJSON_GetArraySize(object), listed_under("", wanted, paths));
        wrong++;
    }
    cJSON_Delete(object);
    free(text);
    return wrong > 0;
}
