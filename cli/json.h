/* json.h - figures for machines. */
#ifndef CLI_JSON_H
#define CLI_JSON_H

#include "cli.h"

#include <cjson/cJSON.h>

typedef struct cli_json {
    const char *path; /* as the user gave it, "-" for standard output; NULL: no JSON wanted */
    char *target;     /* the name written to until all is well */
    FILE *file;
} cli_json;

/* Opens before the long work, so that an unwritable place is found out first. */
int cli_json_begin(cli_json *json, const char *path);
/* Writes, checks, renames. Does nothing where no JSON was wanted. */
int cli_json_finish(cli_json *json, const cJSON *object);
/* The same of any text: for reports that are no JSON but are written like it. */
int cli_json_finish_text(cli_json *json, const char *text);
void cli_json_abandon(cli_json *json);

/* A number that JSON has no word for (NaN, infinity) becomes null. */
void cli_json_number(cJSON *object, const char *name, double value);

#endif
