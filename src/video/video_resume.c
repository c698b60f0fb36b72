/* video_resume.c - what a generation must have in common with the one whose state it goes on from. */
#include "base/error.h"
#include "video/video.h"

#include <inttypes.h>
#include <stdio.h>

/* FNV-1a, over numbers that are made anew in every run. */
static uint64_t hash_bytes(uint64_t hash, const void *bytes, size_t count)
{
    const uint8_t *at = bytes;
    for (size_t i = 0; i < count; i++) {
        hash = (hash ^ at[i]) * 0x100000001b3u;
    }
    return hash;
}

static const uint64_t hash_start = 0xcbf29ce484222325u;

/* Of a checkpoint's JSON files as they stand; one that is not there counts as empty. */
static fga_status hash_configs(const fgv_model *model, uint64_t *hash)
{
    static const char *const names[] = {"model_index.json", "scheduler/scheduler_config.json",
                                        "transformer/config.json", "vae/config.json"};
    *hash = hash_start;
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        char path[4096], block[4096];
        FGA_TRY(fgv_model_path(model->ctx, model->directory, names[i], path, sizeof path));
        FILE *file = fopen(path, "rb");
        for (size_t n = 1; file != NULL && n > 0;) {
            n = fread(block, 1, sizeof block, file);
            *hash = hash_bytes(*hash, block, n);
        }
        if (file != NULL) {
            fclose(file);
        }
        *hash = hash_bytes(*hash, "", 1);
    }
    return FGA_OK;
}

static bool add_model(const fgv_model *model, uint64_t configs, cJSON *fields)
{
    return fgv_state_field(fields, "model.config", "%016" PRIx64, configs) &&
           fgv_state_field(fields, "model.transformer", "%016" PRIx64, fgv_dit_hash(model->dit)) &&
           fgv_state_field(fields, "model.vae", "%016" PRIx64, fgv_vae_hash(model->vae));
}

static bool add_options(const fgv_request *r, cJSON *fields)
{
    static const char *const samplers[] = {"unipc", "euler"};
    return fgv_state_field(fields, "prompt", "%s", r->prompt) &&
           fgv_state_field(fields, "negative", "%s", r->negative != NULL ? r->negative : "") &&
           fgv_state_field(fields, "size", "%dx%d", r->width, r->height) &&
           fgv_state_field(fields, "frames", "%d", r->frames) && fgv_state_field(fields, "steps", "%d", r->steps) &&
           fgv_state_number(fields, "guidance", r->guidance) && fgv_state_number(fields, "shift", r->shift) &&
           fgv_state_field(fields, "seed", "%" PRIu64, r->seed) &&
           fgv_state_field(fields, "sampler", "%s", samplers[r->sampler == FGV_SAMPLER_EULER]) &&
           fgv_state_field(fields, "dtype", "%s", fgv_compute_name(r->compute)) &&
           fgv_state_number(fields, "measure", r->measure_fraction);
}

/* Policy and overrides as texts; a list of many overrides is told apart by its hash. */
static bool add_attention(const fgv_request *r, const char *policy, cJSON *fields)
{
    uint64_t hash = hash_start;
    for (int32_t i = 0; i < r->override_count; i++) {
        const fga_override *o = &r->overrides[i];
        char text[256];
        int n = snprintf(text, sizeof text, "%d,%d,%d,%d,%d,%s;", o->layer_first, o->layer_last, o->head_first,
                         o->head_last, o->branch, o->settings);
        hash = hash_bytes(hash, text, (size_t)n);
    }
    return fgv_state_field(fields, "attention", "%s", policy) &&
           fgv_state_field(fields, "overrides", "%d, %016" PRIx64, r->override_count, hash);
}

fga_status fgv_resume_fields(const fgv_model *model, const fgv_request *r, cJSON **fields)
{
    char policy[FGA_POLICY_TEXT];
    uint64_t configs;
    FGA_TRY(fga_policy_format(model->ctx, &r->policy, policy, sizeof policy));
    FGA_TRY(hash_configs(model, &configs));
    *fields = cJSON_CreateObject();
    if (*fields == NULL || !fgv_state_field(*fields, "library", "%s", fga_version()) || !add_options(r, *fields) ||
        !add_attention(r, policy, *fields) || !add_model(model, configs, *fields)) {
        cJSON_Delete(*fields);
        *fields = NULL;
        return fga_context_fail(model->ctx, FGA_ERR_MEMORY, "no memory for the state's fields");
    }
    return FGA_OK;
}

fga_status fgv_resume_text(const fgv_model *model, int branch, const float *rows, int count, cJSON *fields)
{
    char name[16];
    uint64_t hash = hash_bytes(hash_start, rows, (size_t)count * (size_t)model->info.text_dim * sizeof *rows);
    snprintf(name, sizeof name, "text.%d", branch);
    return fgv_state_field(fields, name, "%016" PRIx64, hash)
               ? FGA_OK
               : fga_context_fail(model->ctx, FGA_ERR_MEMORY, "no memory for the state's fields");
}
