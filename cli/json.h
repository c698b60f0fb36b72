/* json.h - figures for machines. */
#ifndef CLI_JSON_H
#define CLI_JSON_H

#include "place.h"

#include <cjson/cJSON.h>

/* As cli_place_begin, but "-" is standard output. */
int cli_json_begin(cli_place *json, const char *path);
/* Writes, checks, renames. Does nothing where no JSON was wanted. */
int cli_json_finish(cli_place *json, const cJSON *object);
/* The same of any text: for reports that are no JSON but are written like it. */
int cli_json_finish_text(cli_place *json, const char *text);
void cli_json_abandon(cli_place *json);

/* A number that JSON has no word for (NaN, infinity) becomes null. */
void cli_json_number(cJSON *object, const char *name, double value);

#endif
