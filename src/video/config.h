/* config.h - typed, checked reading of a component's config.json. */
#ifndef FGV_CONFIG_H
#define FGV_CONFIG_H

#include "fgattn.h"

typedef struct fgv_config fgv_config;

fga_status fgv_config_open(fga_context *ctx, const char *path, fgv_config **config);
void fgv_config_close(fgv_config **config);
bool fgv_config_has(const fgv_config *config, const char *key);
/* A missing key takes `fallback` where there is one and is FGA_ERR_DATA with the file and key where there is none; so
 * are a wrong type and a value outside [low, high]. */
fga_status fgv_config_int(const fgv_config *config, const char *key, int64_t low, int64_t high, int64_t *value);
fga_status fgv_config_int_or(const fgv_config *config, const char *key, int64_t low, int64_t high, int64_t fallback,
                             int64_t *value);
fga_status fgv_config_double_or(const fgv_config *config, const char *key, double fallback, double *value);
fga_status fgv_config_bool_or(const fgv_config *config, const char *key, bool fallback, bool *value);
/* The string is owned by the config. */
fga_status fgv_config_string_or(const fgv_config *config, const char *key, const char *fallback, const char **value);
/* Exactly `count` numbers. */
fga_status fgv_config_numbers(const fgv_config *config, const char *key, int count, double *values);
/* Exactly `count` of true and false. */
fga_status fgv_config_bools(const fgv_config *config, const char *key, int count, bool *values);
/* Elements of the array at key; -1 where there is no array. */
int fgv_config_count(const fgv_config *config, const char *key);
/* Fails unless the string at key equals `expected` (a missing key passes: it is the library's own default). */
fga_status fgv_config_expect(const fgv_config *config, const char *key, const char *expected);

#endif
