#include "video/model.h"

#include "base/error.h"
#include "video/config.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define MAX_PATH_BYTES 4096
/* Numbers in default.json beyond these are mistakes; what a request may hold is checked against the model itself. */
#define MAX_PIXELS 65536
#define MAX_FRAMES 1000000

fga_status fgv_model_path(fga_context *ctx, const char *directory, const char *name, char *path, size_t bytes)
{
    int n = snprintf(path, bytes, "%s/%s", directory, name);
    if (n < 0 || (size_t)n >= bytes) {
        return fga_context_fail(ctx, FGA_ERR_ARGUMENT, "path too long: %.100s...", directory);
    }
    return FGA_OK;
}

/* model_index.json: says that this is a Wan pipeline, and of which kind. */
static fga_status check_index(fga_context *ctx, const char *directory)
{
    char path[MAX_PATH_BYTES];
    struct stat about;
    if (stat(directory, &about) != 0 || !S_ISDIR(about.st_mode)) {
        return fga_context_fail(ctx, FGA_ERR_DATA,
                                "%s: no such directory; wanted a Wan text-to-video checkpoint in diffusers layout",
                                directory);
    }
    FGA_TRY(fgv_model_path(ctx, directory, "model_index.json", path, sizeof path));
    if (access(path, R_OK) != 0) {
        return fga_context_fail(ctx, FGA_ERR_DATA,
                                "%s: no model_index.json in it; wanted a Wan text-to-video checkpoint in diffusers "
                                "layout (model_index.json, transformer/, text_encoder/, vae/, tokenizer/, scheduler/)",
                                directory);
    }
    fga_status status;
    fgv_config *index = NULL;
    bool expand = false;
    FGA_CHECK(fgv_config_open(ctx, path, &index));
    FGA_CHECK(fgv_config_expect(index, "_class_name", "WanPipeline"));
    FGA_CHECK(fgv_config_bool_or(index, "expand_timesteps", false, &expand));
    if (expand || fgv_config_has(index, "boundary_ratio")) {
        FGA_CHECK(fga_context_fail(ctx, FGA_ERR_DATA,
                                   "%s: key %s is set, as in Wan2.2; wanted a Wan2.1 text-to-video checkpoint", path,
                                   expand ? "expand_timesteps" : "boundary_ratio"));
    }
cleanup:
    fgv_config_close(&index);
    return status;
}

static fga_status read_scheduler(fgv_model *model)
{
    char path[MAX_PATH_BYTES];
    FGA_TRY(fgv_model_path(model->ctx, model->directory, "scheduler/scheduler_config.json", path, sizeof path));
    model->sampler = FGV_SAMPLER_UNIPC;
    model->info.shift = 3.0;
    if (access(path, R_OK) != 0) {
        return FGA_OK;
    }
    fga_status status;
    fgv_config *config = NULL;
    const char *name;
    FGA_CHECK(fgv_config_open(model->ctx, path, &config));
    FGA_CHECK(fgv_config_string_or(config, "_class_name", "UniPCMultistepScheduler", &name));
    if (strcmp(name, "FlowMatchEulerDiscreteScheduler") == 0) {
        model->sampler = FGV_SAMPLER_EULER;
        FGA_CHECK(fgv_config_double_or(config, "shift", 1.0, &model->info.shift));
    } else {
        FGA_CHECK(fgv_config_expect(config, "_class_name", "UniPCMultistepScheduler"));
        FGA_CHECK(fgv_config_expect(config, "prediction_type", "flow_prediction"));
        FGA_CHECK(fgv_config_expect(config, "solver_type", "bh2"));
        FGA_CHECK(fgv_config_double_or(config, "flow_shift", 3.0, &model->info.shift));
    }
    if (!(model->info.shift > 0.0)) {
        FGA_CHECK(fga_context_fail(model->ctx, FGA_ERR_DATA, "%s: the shift is %g, wanted a number above 0", path,
                                   model->info.shift));
    }
cleanup:
    fgv_config_close(&config);
    return status;
}

static fga_status copy_text(fga_context *ctx, const char *text, char **copy)
{
    *copy = strdup(text);
    return *copy != NULL ? FGA_OK : fga_context_fail(ctx, FGA_ERR_MEMORY, "no memory to open a model");
}

/* Wan's own defaults, overridden by default.json where the model has one. */
static fga_status read_defaults(fgv_model *model)
{
    fgv_model_info *info = &model->info;
    info->width = 832;
    info->height = 480;
    info->frames = 81;
    info->steps = 50;
    info->guidance = 5.0;
    info->fps = 16.0;
    char path[MAX_PATH_BYTES];
    FGA_TRY(fgv_model_path(model->ctx, model->directory, "default.json", path, sizeof path));
    if (access(path, F_OK) != 0) {
        return copy_text(model->ctx, "", &model->negative);
    }
    fga_status status;
    fgv_config *config = NULL;
    const char *negative;
    FGA_CHECK(fgv_config_open(model->ctx, path, &config));
    const struct {
        const char *key;
        int64_t high;
        int *value;
    } numbers[] = {{"width", MAX_PIXELS, &info->width},
                   {"height", MAX_PIXELS, &info->height},
                   {"frames", MAX_FRAMES, &info->frames},
                   {"steps", 1000, &info->steps}};
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++) {
        int64_t value;
        FGA_CHECK(fgv_config_int_or(config, numbers[i].key, 1, numbers[i].high, *numbers[i].value, &value));
        *numbers[i].value = (int)value;
    }
    FGA_CHECK(fgv_config_double_or(config, "guidance", info->guidance, &info->guidance));
    FGA_CHECK(fgv_config_double_or(config, "shift", info->shift, &info->shift));
    FGA_CHECK(fgv_config_double_or(config, "fps", info->fps, &info->fps));
    if (!(info->guidance >= 0.0) || !(info->shift > 0.0) || !(info->fps > 0.0 && info->fps <= 1000.0)) {
        FGA_CHECK(fga_context_fail(model->ctx, FGA_ERR_DATA,
                                   "%s: guidance %g, shift %g, fps %g: wanted at least 0, above 0, and 0 ... 1000",
                                   path, info->guidance, info->shift, info->fps));
    }
    FGA_CHECK(fgv_config_string_or(config, "negative_prompt", "", &negative));
    FGA_CHECK(copy_text(model->ctx, negative, &model->negative));
cleanup:
    fgv_config_close(&config);
    return status;
}

/* The path of one stage, which must be there. */
static fga_status stage_path(const fgv_model *model, const char *name, char *path, size_t bytes)
{
    struct stat about;
    FGA_TRY(fgv_model_path(model->ctx, model->directory, name, path, bytes));
    if (stat(path, &about) != 0 || !S_ISDIR(about.st_mode)) {
        return fga_context_fail(model->ctx, FGA_ERR_DATA, "%s: no directory %s in it; wanted a whole Wan checkpoint",
                                model->directory, name);
    }
    return FGA_OK;
}

static fga_status open_stages(fgv_model *model)
{
    char path[MAX_PATH_BYTES];
    fga_context *ctx = model->ctx;
    FGA_TRY(stage_path(model, "tokenizer", path, sizeof path));
    FGA_TRY(fgv_tokenizer_open(ctx, path, &model->tokenizer));
    FGA_TRY(stage_path(model, "text_encoder", path, sizeof path));
    FGA_TRY(fgv_text_encoder_open(ctx, path, &model->text));
    FGA_TRY(stage_path(model, "transformer", path, sizeof path));
    FGA_TRY(fgv_dit_open(ctx, path, &model->dit));
    FGA_TRY(stage_path(model, "vae", path, sizeof path));
    return fgv_vae_open(ctx, path, &model->vae);
}

static fga_status describe_stages(fgv_model *model)
{
    const fgv_dit_config *c = fgv_dit_get_config(model->dit);
    int channels = fgv_vae_channels(model->vae);
    int64_t text_dim = fgv_text_encoder_dim(model->text);
    if (c->in_channels != channels || c->out_channels != channels) {
        return fga_context_fail(model->ctx, FGA_ERR_DATA,
                                "%s: the transformer takes %d channels and gives %d, the VAE has %d", model->directory,
                                c->in_channels, c->out_channels, channels);
    }
    if (text_dim != c->text_dim) {
        return fga_context_fail(model->ctx, FGA_ERR_DATA,
                                "%s: the text encoder's rows have %lld elements, the transformer takes %d",
                                model->directory, (long long)text_dim, c->text_dim);
    }
    fgv_model_info *info = &model->info;
    info->directory = model->directory;
    info->negative = model->negative;
    info->layers = c->layers;
    info->heads = c->heads;
    info->head_dim = c->head_dim;
    info->dit_parameters = fgv_dit_parameters(model->dit);
    info->text_parameters = fgv_text_encoder_parameters(model->text);
    info->vae_parameters = fgv_vae_parameters(model->vae);
    info->patch_t = c->patch[0];
    info->patch_h = c->patch[1];
    info->patch_w = c->patch[2];
    info->vae_t = fgv_vae_time_stride(model->vae);
    info->vae_s = fgv_vae_space_stride(model->vae);
    info->latent_channels = channels;
    info->text_dim = c->text_dim;
    return FGA_OK;
}

fga_status fgv_model_open(fga_context *ctx, const char *directory, fgv_model **out)
{
    *out = NULL;
    FGA_TRY(check_index(ctx, directory));
    fga_status status = FGA_OK;
    fgv_model *model = calloc(1, sizeof *model);
    if (model == NULL) {
        return fga_context_fail(ctx, FGA_ERR_MEMORY, "no memory to open a model");
    }
    model->ctx = ctx;
    FGA_CHECK(copy_text(ctx, directory, &model->directory));
    FGA_CHECK(read_scheduler(model));
    FGA_CHECK(read_defaults(model));
    FGA_CHECK(fgv_model_read_words(ctx, directory, &model->vocabulary));
    FGA_CHECK(open_stages(model));
    FGA_CHECK(describe_stages(model));
    *out = model;
    model = NULL;
cleanup:
    fgv_model_close(&model);
    return status == FGA_ERR_IO ? FGA_ERR_DATA : status; /* a file that cannot be read is a fault of the checkpoint */
}

void fgv_model_close(fgv_model **handle)
{
    if (handle == NULL || *handle == NULL) {
        return;
    }
    fgv_model *model = *handle;
    fgv_tokenizer_close(&model->tokenizer);
    fgv_text_encoder_close(&model->text);
    fgv_dit_close(&model->dit);
    fgv_vae_close(&model->vae);
    free(model->directory);
    free(model->negative);
    free(model->vocabulary);
    free(model);
    *handle = NULL;
}

fgv_model_info fgv_model_describe(const fgv_model *model)
{
    return model->info;
}
