/* json.c - figures for machines. */
#include "json.h"

#include <errno.h>
#include <math.h>
#include <string.h>

void cli_json_number(cJSON *object, const char *name, double value)
{
    if (isfinite(value)) {
        cJSON_AddNumberToObject(object, name, value);
    } else {
        cJSON_AddNullToObject(object, name);
    }
}

int cli_json_begin(cli_place *json, const char *path)
{
    if (path != NULL && strcmp(path, "-") == 0) {
        *json = (cli_place){.path = path, .in_place = true, .file = stdout};
        return CLI_DONE;
    }
    return cli_place_begin(json, path);
}

void cli_json_abandon(cli_place *json)
{
    if (json->file == stdout) { /* is main's to close */
        json->file = NULL;
    }
    cli_place_abandon(json);
}

int cli_json_finish(cli_place *json, const cJSON *object)
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

int cli_json_finish_text(cli_place *json, const char *text)
{
    if (json->file == NULL) {
        return CLI_DONE;
    }
    fprintf(json->file, "%s\n", text);
    if (json->file == stdout) { /* main reports what goes wrong with standard output */
        fflush(stdout);
        json->file = NULL;
        return CLI_DONE;
    }
    return cli_place_finish(json) ? CLI_DONE : cli_fail(CLI_ERROR, "cannot write %s: %s", json->path, strerror(errno));
}
