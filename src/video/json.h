/* json.h - JSON files of a checkpoint, through cJSON. */
#ifndef FGV_JSON_H
#define FGV_JSON_H

#include "fgattn.h"

#include <cjson/cJSON.h>

/* Parses `bytes` bytes, which must be one JSON object and nothing after it but white space. `what` names them in the
 * error text (FGA_ERR_DATA). The caller deletes *object. */
fga_status fgv_json_parse(fga_context *ctx, const char *what, const char *text, size_t bytes, cJSON **object);
/* The same of a whole file of at most 64 MiB; FGA_ERR_IO if it cannot be read. */
fga_status fgv_json_read(fga_context *ctx, const char *path, cJSON **object);
/* Whether `item` is a number holding an integer in [low, high]; both bounds must lie within +-2^53. */
bool fgv_json_integer(const cJSON *item, int64_t low, int64_t high, int64_t *value);
/* A finite number as text and back, exactly, with a decimal point in every locale; `text` has FGV_JSON_NUMBER bytes. */
enum { FGV_JSON_NUMBER = 40 };
bool fgv_json_print_number(double value, char *text);
bool fgv_json_parse_number(const char *text, double *value);

#endif
