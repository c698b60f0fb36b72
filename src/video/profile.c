/* profile.c - profiles from JSON: strict, because a misspelt key would silently tune nothing. */
#include "video/profile.h"
#include "base/error.h"
#include "fgvideo.h"
#include "video/json.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MOST_OVERRIDES = 1 << 20, MOST_PROMPTS = 4096 };

typedef struct reader {
    fga_context *ctx;
    const char *path;
    fgv_profile *profile;
} reader;

fgv_profile fgv_profile_default(void)
{
    fgv_profile profile = {.size = sizeof profile};
    fga_policy_parse(NULL, "dense", &profile.policy);
    return profile;
}

void fgv_profile_free(fgv_profile *profile)
{
    if (profile == NULL) {
        return;
    }
    free(profile->overrides);
    free(profile->prompts);
    *profile = fgv_profile_default();
}

static fga_status wrong(const reader *r, const char *where, const char *wanted)
{
    return fga_context_fail(r->ctx, FGA_ERR_DATA, "%s: %s: wanted %s", r->path, where, wanted);
}

/* Every key of `object` must be one of `keys` (NULL-terminated), and there once. */
static fga_status check_keys(const reader *r, const char *where, const cJSON *object, const char *const *keys)
{
    const cJSON *item;
    cJSON_ArrayForEach(item, object)
    {
        int i = 0;
        while (keys[i] != NULL && strcmp(keys[i], item->string) != 0) {
            i++;
        }
        if (keys[i] == NULL) {
            return fga_context_fail(r->ctx, FGA_ERR_DATA, "%s: %s has a key \"%.40s\", which a profile does not have",
                                    r->path, where, item->string);
        }
        if (cJSON_GetObjectItemCaseSensitive(object, keys[i]) != item) {
            return fga_context_fail(r->ctx, FGA_ERR_DATA, "%s: %s has the key \"%s\" twice", r->path, where, keys[i]);
        }
    }
    return FGA_OK;
}

static fga_status read_text(const reader *r, const char *where, const cJSON *item, char *text, size_t bytes)
{
    const char *value = cJSON_GetStringValue(item);
    if (value == NULL || strlen(value) >= bytes) {
        return fga_context_fail(r->ctx, FGA_ERR_DATA, "%s: %s: wanted a text of less than %zu bytes", r->path, where,
                                bytes);
    }
    memcpy(text, value, strlen(value) + 1);
    return FGA_OK;
}

/* ---- numbers of an object, where present ----------------------------------------------------------- */

typedef struct whole_key {
    const char *name;
    int *value;
} whole_key;

typedef struct number_key {
    const char *name;
    double *value;
} number_key;

static fga_status read_wholes(const reader *r, const cJSON *object, const whole_key *keys)
{
    for (; keys->name != NULL; keys++) {
        const cJSON *item = cJSON_GetObjectItemCaseSensitive(object, keys->name);
        int64_t value = 0;
        if (item != NULL && !fgv_json_integer(item, 0, INT32_MAX, &value)) {
            return wrong(r, keys->name, "a whole number from 0");
        }
        *keys->value = (int)value;
    }
    return FGA_OK;
}

/* null is NaN, as in every JSON file of this program. */
static fga_status read_numbers(const reader *r, const cJSON *object, double missing, const number_key *keys)
{
    for (; keys->name != NULL; keys++) {
        const cJSON *item = cJSON_GetObjectItemCaseSensitive(object, keys->name);
        *keys->value = missing;
        if (cJSON_IsNull(item)) {
            *keys->value = NAN;
        } else if (cJSON_IsNumber(item) && isfinite(item->valuedouble) && item->valuedouble >= 0) {
            *keys->value = item->valuedouble;
        } else if (item != NULL) {
            return wrong(r, keys->name, "a number from 0, or null");
        }
    }
    return FGA_OK;
}

/* An object of the profile; *object is NULL where there is none. */
static fga_status find_object(const reader *r, const cJSON *root, const char *name, const char *const *keys,
                              const cJSON **object)
{
    *object = cJSON_GetObjectItemCaseSensitive(root, name);
    if (*object != NULL && !cJSON_IsObject(*object)) {
        return wrong(r, name, "an object");
    }
    return *object != NULL ? check_keys(r, name, *object, keys) : FGA_OK;
}

static fga_status read_model(const reader *r, const cJSON *root)
{
    static const char *const keys[] = {"name", "layers", "heads", "head_dim", "branches", NULL};
    fgv_profile *p = r->profile;
    const cJSON *model;
    FGA_TRY(find_object(r, root, "model", keys, &model));
    const cJSON *name = cJSON_GetObjectItemCaseSensitive(model, "name");
    if (name != NULL) {
        FGA_TRY(read_text(r, "model.name", name, p->model, sizeof p->model));
    }
    return read_wholes(
        r, model,
        (whole_key[]){
            {"layers", &p->layers}, {"heads", &p->heads}, {"head_dim", &p->head_dim}, {"branches", &p->branches}, {0}});
}

/* The prompts, joined by line ends; a line end inside one becomes a space. */
static fga_status read_prompts(const reader *r, const cJSON *list)
{
    size_t bytes = 1;
    const cJSON *item;
    if (list == NULL) {
        return FGA_OK;
    }
    if (!cJSON_IsArray(list) || cJSON_GetArraySize(list) > MOST_PROMPTS) {
        return wrong(r, "tuned.prompts", "an array of at most 4096 texts");
    }
    cJSON_ArrayForEach(item, list)
    {
        if (!cJSON_IsString(item)) {
            return wrong(r, "tuned.prompts", "an array of texts");
        }
        bytes += strlen(item->valuestring) + 1;
    }
    char *text = malloc(bytes), *at = text;
    if (text == NULL) {
        return fga_context_fail(r->ctx, FGA_ERR_MEMORY, "%s: no memory for its prompts", r->path);
    }
    cJSON_ArrayForEach(item, list)
    {
        for (const char *c = item->valuestring; *c != '\0'; c++) {
            *at++ = *c;
            if (*c == '\n' || *c == '\r') {
                at[-1] = ' ';
            }
        }
        *at++ = '\n';
    }
    *at = '\0';
    r->profile->prompts = text;
    return FGA_OK;
}

static fga_status read_tuned(const reader *r, const cJSON *root)
{
    static const char *const keys[] = {"target_recall", "recall_floor", "target_error", "quantile", "prompts",
                                       "width",         "height",       "frames",       "steps",    NULL};
    fgv_profile *p = r->profile;
    const cJSON *tuned;
    FGA_TRY(find_object(r, root, "tuned", keys, &tuned));
    FGA_TRY(read_prompts(r, cJSON_GetObjectItemCaseSensitive(tuned, "prompts")));
    FGA_TRY(read_numbers(r, tuned, 0,
                         (number_key[]){{"target_recall", &p->target_recall},
                                        {"recall_floor", &p->recall_floor},
                                        {"target_error", &p->target_error},
                                        {"quantile", &p->quantile},
                                        {0}}));
    return read_wholes(
        r, tuned,
        (whole_key[]){{"width", &p->width}, {"height", &p->height}, {"frames", &p->frames}, {"steps", &p->steps}, {0}});
}

static fga_status read_figures(const reader *r, const cJSON *measured, const char *name, fgv_profile_figures *f)
{
    static const char *const keys[] = {
        "prompts", "recall_mean", "recall_worst", "output_error_mean", "output_error_worst", "density", "cost",
        "held",    NULL};
    const cJSON *object;
    FGA_TRY(find_object(r, measured, name, keys, &object));
    FGA_TRY(read_wholes(r, object, (whole_key[]){{"prompts", &f->prompts}, {0}}));
    return read_numbers(r, object, NAN,
                        (number_key[]){{"recall_mean", &f->recall_mean},
                                       {"recall_worst", &f->recall_worst},
                                       {"output_error_mean", &f->output_error_mean},
                                       {"output_error_worst", &f->output_error_worst},
                                       {"density", &f->density},
                                       {"cost", &f->cost},
                                       {"held", &f->held},
                                       {0}});
}

static fga_status read_measured(const reader *r, const cJSON *root)
{
    static const char *const keys[] = {"tuning", "held_out", NULL};
    const cJSON *measured;
    FGA_TRY(find_object(r, root, "measured", keys, &measured));
    FGA_TRY(read_figures(r, measured, "tuning", &r->profile->tuning));
    return read_figures(r, measured, "held_out", &r->profile->held_out);
}

/* ---- overrides ------------------------------------------------------------------------------------- */

/* [first, last], or all where missing; count: how many there are, 0 = not known. */
static fga_status read_range(const reader *r, const char *where, const cJSON *item, int count, int32_t *first,
                             int32_t *last)
{
    int64_t a = 0, b = count > 0 ? count - 1 : FGV_PROFILE_MOST_LAYERS;
    *first = 0;
    *last = INT32_MAX;
    if (item == NULL) {
        return FGA_OK;
    }
    int64_t most = b;
    if (!cJSON_IsArray(item) || cJSON_GetArraySize(item) != 2 ||
        !fgv_json_integer(cJSON_GetArrayItem(item, 0), 0, most, &a) ||
        !fgv_json_integer(cJSON_GetArrayItem(item, 1), a, most, &b)) {
        return fga_context_fail(r->ctx, FGA_ERR_DATA, "%s: %s: wanted [first, last], from 0 to %lld", r->path, where,
                                (long long)most);
    }
    *first = (int32_t)a;
    *last = (int32_t)b;
    return FGA_OK;
}

static fga_status read_override(const reader *r, int index, const cJSON *item, fga_override *o)
{
    static const char *const keys[] = {"layers", "heads", "branch", "settings", NULL};
    char name[32], where[48];
    int64_t branch = -1;
    snprintf(name, sizeof name, "overrides[%d]", index);
    if (!cJSON_IsObject(item)) {
        return wrong(r, name, "an object");
    }
    FGA_TRY(check_keys(r, name, item, keys));
    snprintf(where, sizeof where, "%s.layers", name);
    const cJSON *layers = cJSON_GetObjectItemCaseSensitive(item, "layers");
    FGA_TRY(read_range(r, where, layers, r->profile->layers, &o->layer_first, &o->layer_last));
    snprintf(where, sizeof where, "%s.heads", name);
    const cJSON *heads = cJSON_GetObjectItemCaseSensitive(item, "heads");
    FGA_TRY(read_range(r, where, heads, r->profile->heads, &o->head_first, &o->head_last));
    const cJSON *which = cJSON_GetObjectItemCaseSensitive(item, "branch");
    if (which != NULL && !fgv_json_integer(which, -1, 1023, &branch)) {
        snprintf(where, sizeof where, "%s.branch", name);
        return wrong(r, where, "a whole number, or -1 for all");
    }
    o->branch = (int32_t)branch;
    snprintf(where, sizeof where, "%s.settings", name);
    return read_text(r, where, cJSON_GetObjectItemCaseSensitive(item, "settings"), o->settings, sizeof o->settings);
}

static fga_status read_overrides(const reader *r, const cJSON *list)
{
    fgv_profile *p = r->profile;
    if (list == NULL) {
        return FGA_OK;
    }
    int count = cJSON_IsArray(list) ? cJSON_GetArraySize(list) : -1;
    if (count < 0 || count > MOST_OVERRIDES) {
        return wrong(r, "overrides", "an array of at most 1048576 objects");
    }
    p->overrides = calloc((size_t)count + 1, sizeof *p->overrides);
    if (p->overrides == NULL) {
        return fga_context_fail(r->ctx, FGA_ERR_MEMORY, "%s: no memory for %d overrides", r->path, count);
    }
    const cJSON *item;
    cJSON_ArrayForEach(item, list)
    {
        FGA_TRY(read_override(r, p->override_count, item, &p->overrides[p->override_count]));
        p->override_count++;
    }
    return FGA_OK;
}

/* ---- the whole ------------------------------------------------------------------------------------- */

static fga_status read_profile(const reader *r, const cJSON *root)
{
    static const char *const keys[] = {"fgattn_profile", "policy", "model", "tuned", "measured", "overrides", NULL};
    char policy[FGA_POLICY_TEXT];
    int64_t version;
    if (!fgv_json_integer(cJSON_GetObjectItemCaseSensitive(root, "fgattn_profile"), 1, 1, &version)) {
        return wrong(r, "fgattn_profile", "1; this is no profile, or one of a newer version");
    }
    FGA_TRY(check_keys(r, "the object", root, keys));
    FGA_TRY(read_text(r, "policy", cJSON_GetObjectItemCaseSensitive(root, "policy"), policy, sizeof policy));
    char reason[512];
    if (fga_policy_parse(r->ctx, policy, &r->profile->policy) != FGA_OK) {
        snprintf(reason, sizeof reason, "%s", fga_last_error(r->ctx));
        return fga_context_fail(r->ctx, FGA_ERR_DATA, "%s: policy: %s", r->path, reason);
    }
    FGA_TRY(read_model(r, root));
    FGA_TRY(read_tuned(r, root));
    FGA_TRY(read_measured(r, root));
    return read_overrides(r, cJSON_GetObjectItemCaseSensitive(root, "overrides"));
}

fga_status fgv_profile_read(fga_context *ctx, const char *path, fgv_profile *profile)
{
    *profile = fgv_profile_default();
    cJSON *root;
    FGA_TRY(fgv_json_read(ctx, path, &root));
    const reader r = {ctx, path, profile};
    fga_status status = read_profile(&r, root);
    cJSON_Delete(root);
    if (status != FGA_OK) {
        fgv_profile_free(profile);
    }
    return status;
}
