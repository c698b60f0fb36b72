/* json.c - figures for machines: a file that is checked before the work and complete or absent after it. */
#include "json.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

void cli_json_number(cJSON *object, const char *name, double value)
{
    if (isfinite(value)) {
        cJSON_AddNumberToObject(object, name, value);
    } else {
        cJSON_AddNullToObject(object, name);
    }
}

static int cannot(const char *path)
{
    return cli_fail(CLI_ERROR, "cannot write %s: %s", path, strerror(errno));
}

int cli_json_begin(cli_json *json, const char *path)
{
    *json = (cli_json){.path = path};
    if (path == NULL) {
        return CLI_DONE;
    }
    if (strcmp(path, "-") == 0) {
        json->file = stdout;
        return CLI_DONE;
    }
    struct stat info;
    bool special = stat(path, &info) == 0 && !S_ISREG(info.st_mode); /* a device or a pipe cannot be renamed onto */
    size_t bytes = strlen(path) + sizeof ".part";
    json->target = malloc(bytes);
    if (json->target == NULL) {
        return cli_fail(CLI_NO_MEMORY, "no memory to open %s", path);
    }
    snprintf(json->target, bytes, "%s%s", path, special ? "" : ".part");
    json->file = fopen(json->target, "w");
    if (json->file == NULL) {
        int code = cannot(path);
        free(json->target);
        *json = (cli_json){0};
        return code;
    }
    return CLI_DONE;
}

void cli_json_abandon(cli_json *json)
{
    if (json->file != NULL && json->file != stdout) {
        fclose(json->file);
        if (strcmp(json->target, json->path) != 0) {
            unlink(json->target);
        }
    }
    free(json->target);
    *json = (cli_json){0};
}

int cli_json_finish(cli_json *json, const cJSON *object)
{
    if (json->file == NULL) {
        return CLI_DONE;
    }
    char *text = cJSON_Print(object);
    if (text == NULL) {
        cli_json_abandon(json);
        return cli_fail(CLI_NO_MEMORY, "no memory for the JSON text");
    }
    int code = cli_json_finish_text(json, text);
    cJSON_free(text);
    return code;
}

int cli_json_finish_text(cli_json *json, const char *text)
{
    if (json->file == NULL) {
        return CLI_DONE;
    }
    bool written = fprintf(json->file, "%s\n", text) >= 0 && fflush(json->file) == 0;
    if (json->file == stdout) { /* main reports what goes wrong with standard output */
        *json = (cli_json){0};
        return CLI_DONE;
    }
    int code = CLI_DONE;
    written = fclose(json->file) == 0 && written;
    json->file = NULL;
    if (!written || (strcmp(json->target, json->path) != 0 && rename(json->target, json->path) != 0)) {
        code = cannot(json->path);
        if (strcmp(json->target, json->path) != 0) {
            unlink(json->target);
        }
    }
    free(json->target);
    *json = (cli_json){0};
    return code;
}
