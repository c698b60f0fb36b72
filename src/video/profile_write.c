/* profile_write.c - profiles to JSON. */
#include "base/error.h"
#include "fgvideo.h"
#include "video/json.h"
#include "video/profile.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* cJSON returns NULL where memory ends; every addition is checked by one flag. */
typedef struct writer {
    bool failed;
} writer;

static void add(writer *w, cJSON *object, const char *name, cJSON *item)
{
    if (item == NULL || !cJSON_AddItemToObject(object, name, item)) {
        cJSON_Delete(item);
        w->failed = true;
    }
}

/* Objects are attached before they are filled: one deletion of the root frees all. */
static cJSON *add_object(writer *w, cJSON *object, const char *name)
{
    cJSON *item = cJSON_CreateObject();
    add(w, object, name, item);
    return w->failed ? NULL : item;
}

/* NaN becomes null. */
static void add_number(writer *w, cJSON *object, const char *name, double value)
{
    add(w, object, name, isfinite(value) ? cJSON_CreateNumber(value) : cJSON_CreateNull());
}

static void add_known(writer *w, cJSON *object, const char *name, double value)
{
    if (value != 0) {
        add_number(w, object, name, value);
    }
}

/* count: how many there are, or 0 where the profile does not say. INT32_MAX, "to the end", is written as a number that
 * the reader takes. */
static void add_range(writer *w, cJSON *object, const char *name, int32_t first, int32_t last, int count)
{
    int32_t end = count > 0 ? count - 1 : FGV_PROFILE_MOST_LAYERS;
    if (first > 0 || last < INT32_MAX) {
        add(w, object, name, cJSON_CreateIntArray((const int[]){first, last < INT32_MAX ? last : end}, 2));
    }
}

static void add_model(writer *w, cJSON *root, const fgv_profile *p)
{
    cJSON *model = add_object(w, root, "model");
    if (p->model[0] != '\0') {
        add(w, model, "name", cJSON_CreateString(p->model));
    }
    add_known(w, model, "layers", p->layers);
    add_known(w, model, "heads", p->heads);
    add_known(w, model, "head_dim", p->head_dim);
    add_known(w, model, "branches", p->branches);
}

static void add_prompts(writer *w, cJSON *tuned, const char *prompts)
{
    cJSON *list = cJSON_CreateArray();
    add(w, tuned, "prompts", list);
    while (!w->failed && prompts != NULL && *prompts != '\0') {
        size_t length = strcspn(prompts, "\n");
        char *one = strndup(prompts, length);
        cJSON *item = one != NULL ? cJSON_CreateString(one) : NULL;
        free(one);
        if (item == NULL || !cJSON_AddItemToArray(list, item)) {
            cJSON_Delete(item);
            w->failed = true;
        }
        prompts += length + (prompts[length] == '\n');
    }
}

static void add_tuned(writer *w, cJSON *root, const fgv_profile *p)
{
    cJSON *tuned = add_object(w, root, "tuned");
    add_known(w, tuned, "target_recall", p->target_recall);
    add_known(w, tuned, "recall_floor", p->recall_floor);
    add_known(w, tuned, "target_error", p->target_error);
    add_known(w, tuned, "quantile", p->quantile);
    add_known(w, tuned, "width", p->width);
    add_known(w, tuned, "height", p->height);
    add_known(w, tuned, "frames", p->frames);
    add_known(w, tuned, "steps", p->steps);
    if (p->prompts != NULL) {
        add_prompts(w, tuned, p->prompts);
    }
}

static void add_figures(writer *w, cJSON *measured, const char *name, const fgv_profile_figures *f)
{
    if (f->prompts == 0) {
        return;
    }
    cJSON *object = add_object(w, measured, name);
    add_number(w, object, "prompts", f->prompts);
    add_number(w, object, "recall_mean", f->recall_mean);
    add_number(w, object, "recall_worst", f->recall_worst);
    add_number(w, object, "output_error_mean", f->output_error_mean);
    add_number(w, object, "output_error_worst", f->output_error_worst);
    add_number(w, object, "density", f->density);
    add_number(w, object, "cost", f->cost);
    add_number(w, object, "held", f->held);
}

static void add_overrides(writer *w, cJSON *root, const fgv_profile *p)
{
    cJSON *list = cJSON_CreateArray();
    add(w, root, "overrides", list);
    for (int32_t i = 0; i < p->override_count && !w->failed; i++) {
        const fga_override *o = &p->overrides[i];
        cJSON *item = cJSON_CreateObject();
        if (item == NULL || !cJSON_AddItemToArray(list, item)) {
            cJSON_Delete(item);
            w->failed = true;
            return;
        }
        add_range(w, item, "layers", o->layer_first, o->layer_last, p->layers);
        add_range(w, item, "heads", o->head_first, o->head_last, p->heads);
        if (o->branch != -1) {
            add_number(w, item, "branch", o->branch);
        }
        add(w, item, "settings", cJSON_CreateString(o->settings));
    }
}

static char *print(const fgv_profile *p, const char *policy)
{
    writer w = {false};
    cJSON *root = cJSON_CreateObject();
    if (root == NULL) {
        return NULL;
    }
    add_number(&w, root, "fgattn_profile", 1);
    add(&w, root, "policy", cJSON_CreateString(policy));
    add_model(&w, root, p);
    add_tuned(&w, root, p);
    cJSON *measured = add_object(&w, root, "measured");
    add_figures(&w, measured, "tuning", &p->tuning);
    add_figures(&w, measured, "held_out", &p->held_out);
    add_overrides(&w, root, p);
    char *text = w.failed ? NULL : cJSON_Print(root);
    cJSON_Delete(root);
    return text;
}

static fga_status write_file(fga_context *ctx, const char *path, const char *text)
{
    fga_status status = FGA_OK;
    size_t bytes = strlen(path) + sizeof ".part";
    char *part = malloc(bytes);
    if (part == NULL) {
        return fga_context_fail(ctx, FGA_ERR_MEMORY, "%s: no memory", path);
    }
    snprintf(part, bytes, "%s.part", path);
    FILE *file = fopen(part, "wb");
    bool written = file != NULL && fputs(text, file) >= 0 && fputc('\n', file) != EOF;
    written = file != NULL && fclose(file) == 0 && written && rename(part, path) == 0;
    if (!written) {
        status = fga_context_fail(ctx, FGA_ERR_IO, "cannot write %s: %s", path, strerror(errno));
        if (file != NULL) {
            remove(part);
        }
    }
    free(part);
    return status;
}

fga_status fgv_profile_write(fga_context *ctx, const char *path, const fgv_profile *profile)
{
    char policy[FGA_POLICY_TEXT];
    FGA_TRY(fga_policy_format(ctx, &profile->policy, policy, sizeof policy));
    char *text = print(profile, policy);
    if (text == NULL) {
        return fga_context_fail(ctx, FGA_ERR_MEMORY, "%s: no memory for the JSON text", path);
    }
    fga_status status = write_file(ctx, path, text);
    cJSON_free(text);
    return status;
}
