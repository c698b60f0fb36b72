/* Loading the decoder of AutoencoderKLWan: configuration and every tensor's name, dtype and shape. The encoder's
 * tensors are left alone. Running it: vae_run.c. */
#include "video/vae.h"

#include "base/error.h"
#include "video/config.h"
#include "video/linear_product.h"
#include "video/vae_kernels.h"
#include "video/vae_model.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX_NAME 160

typedef struct shape_of_model {
    int64_t base, latent, resnets;
    int blocks;
    double multiplier[FGV_VAE_MAX_BLOCKS];
    bool time[FGV_VAE_MAX_BLOCKS]; /* does block i double the frames; the last never does */
} shape_of_model;

/* ---- configuration --------------------------------------------------------------------------------------------- */

static fga_status read_statistics(fgv_vae *vae, const fgv_config *config)
{
    double values[FGV_VAE_MAX_LATENT];
    FGA_TRY(fgv_config_numbers(config, "latents_mean", vae->latent, values));
    for (int i = 0; i < vae->latent; i++) {
        vae->mean[i] = (float)values[i];
    }
    FGA_TRY(fgv_config_numbers(config, "latents_std", vae->latent, values));
    for (int i = 0; i < vae->latent; i++) {
        vae->deviation[i] = (float)values[i];
    }
    return FGA_OK;
}

static fga_status read_blocks(fgv_vae *vae, const fgv_config *config, const char *path, shape_of_model *shape)
{
    bool down[FGV_VAE_MAX_BLOCKS];
    shape->blocks = fgv_config_count(config, "dim_mult");
    if (shape->blocks < 2 || shape->blocks > FGV_VAE_MAX_BLOCKS) {
        return fga_context_fail(vae->ctx, FGA_ERR_DATA, "%s: key dim_mult: wanted an array of 2 to %d numbers", path,
                                FGV_VAE_MAX_BLOCKS);
    }
    FGA_TRY(fgv_config_numbers(config, "dim_mult", shape->blocks, shape->multiplier));
    for (int i = 0; i < shape->blocks; i++) {
        double channels = shape->multiplier[i] * (double)shape->base;
        if (shape->multiplier[i] != floor(shape->multiplier[i]) || channels < 2 || channels > FGV_VAE_MAX_CHANNELS) {
            return fga_context_fail(vae->ctx, FGA_ERR_DATA, "%s: key dim_mult: %g x %lld channels, wanted 2 to %d",
                                    path, shape->multiplier[i], (long long)shape->base, FGV_VAE_MAX_CHANNELS);
        }
    }
    FGA_TRY(fgv_config_bools(config, "temperal_downsample", shape->blocks - 1, down)); /* spelt so in the format */
    for (int i = 0; i < shape->blocks - 1; i++) {
        shape->time[i] = down[shape->blocks - 2 - i];
    }
    return FGA_OK;
}

static fga_status read_config(fgv_vae *vae, const char *path, shape_of_model *shape)
{
    fgv_config *config;
    FGA_TRY(fgv_config_open(vae->ctx, path, &config));
    fga_status status;
    bool residual;
    int64_t value, encoder_base;
    FGA_CHECK(fgv_config_expect(config, "_class_name", "AutoencoderKLWan"));
    FGA_CHECK(fgv_config_bool_or(config, "is_residual", false, &residual));
    if (residual || fgv_config_has(config, "patch_size")) {
        status =
            fga_context_fail(vae->ctx, FGA_ERR_UNSUPPORTED,
                             "%s: is_residual or patch_size is set (a Wan 2.2 VAE); only Wan 2.1's is supported", path);
        goto cleanup;
    }
    FGA_CHECK(fgv_config_int_or(config, "base_dim", 1, FGV_VAE_MAX_CHANNELS, 96, &encoder_base));
    FGA_CHECK(fgv_config_int_or(config, "decoder_base_dim", 1, FGV_VAE_MAX_CHANNELS, encoder_base, &shape->base));
    FGA_CHECK(fgv_config_int_or(config, "z_dim", 1, FGV_VAE_MAX_LATENT, 16, &shape->latent));
    FGA_CHECK(fgv_config_int_or(config, "num_res_blocks", 0, FGV_VAE_MAX_RESNETS - 1, 2, &shape->resnets));
    FGA_CHECK(fgv_config_int_or(config, "out_channels", 3, 3, 3, &value));
    vae->latent = (int)shape->latent;
    FGA_CHECK(read_blocks(vae, config, path, shape));
    FGA_CHECK(read_statistics(vae, config));
    vae->blocks = shape->blocks;
cleanup:
    fgv_config_close(&config);
    return status;
}

/* ---- tensors --------------------------------------------------------------------------------------------------- */

static void count_tensor(fgv_vae *vae, const fgv_tensor *tensor)
{
    int64_t elements = fgv_tensor_elements(tensor);
    vae->parameters += elements;
    vae->weight_bytes += (uint64_t)elements * fga_dtype_size(tensor->dtype);
}

static fga_status load_vector(fgv_vae *vae, int rank, int64_t elements, const char *name, float **out)
{
    const int64_t shape[FGV_MAX_RANK] = {elements, 1, 1, 1, 1};
    fgv_tensor tensor;
    FGA_TRY(fgv_weights_get(vae->weights, &tensor, rank, shape, "%s", name));
    count_tensor(vae, &tensor);
    return fgv_tensor_to_f32(vae->ctx, &tensor, out);
}

/* rank: of gamma, [channels, 1 ...]. */
static fga_status load_norm(fgv_vae *vae, int rank, int64_t channels, const char *prefix, const char *name, float **out)
{
    char full[MAX_NAME];
    float *gamma = NULL;
    snprintf(full, sizeof full, "%s%s.gamma", prefix, name);
    FGA_TRY(load_vector(vae, rank, channels, full, &gamma));
    *out = calloc((size_t)(channels + 15) / 16 * 16, sizeof **out);
    if (*out == NULL) {
        free(gamma);
        return fga_context_fail(vae->ctx, FGA_ERR_MEMORY, "%s: no memory", full);
    }
    for (int64_t i = 0; i < channels; i++) {
        (*out)[i] = (float)(sqrt((double)channels) * (double)gamma[i]);
    }
    free(gamma);
    return FGA_OK;
}

typedef struct conv_shape {
    int64_t in, out;
    int taps, side;
    bool flat; /* a Conv2d: no axis of time in its weight */
} conv_shape;

static fga_status load_conv(fgv_vae *vae, conv_shape s, const char *prefix, const char *name, vae_conv *conv)
{
    char full[MAX_NAME];
    *conv = (vae_conv){.in = s.in, .out = s.out, .taps = s.taps, .side = s.side};
    const int64_t deep[] = {s.out, s.in, s.taps, s.side, s.side}, flat[] = {s.out, s.in, s.side, s.side};
    snprintf(full, sizeof full, "%s%s.weight", prefix, name);
    FGA_TRY(fgv_weights_get(vae->weights, &conv->weight, s.flat ? 4 : 5, s.flat ? flat : deep, "%s", full));
    count_tensor(vae, &conv->weight);
    snprintf(full, sizeof full, "%s%s.bias", prefix, name);
    return load_vector(vae, 1, s.out, full, &conv->bias);
}

static fga_status load_resnet(fgv_vae *vae, int64_t in, int64_t out, const char *prefix, vae_resnet *resnet)
{
    FGA_TRY(load_norm(vae, 4, in, prefix, "norm1", &resnet->norm1));
    FGA_TRY(load_conv(vae, (conv_shape){in, out, 3, 3, false}, prefix, "conv1", &resnet->conv1));
    FGA_TRY(load_norm(vae, 4, out, prefix, "norm2", &resnet->norm2));
    FGA_TRY(load_conv(vae, (conv_shape){out, out, 3, 3, false}, prefix, "conv2", &resnet->conv2));
    if (in != out) {
        FGA_TRY(load_conv(vae, (conv_shape){in, out, 1, 1, false}, prefix, "conv_shortcut", &resnet->shortcut));
    }
    return FGA_OK;
}

static fga_status load_middle(fgv_vae *vae, int64_t channels)
{
    const char *attention = "decoder.mid_block.attentions.0.";
    FGA_TRY(load_resnet(vae, channels, channels, "decoder.mid_block.resnets.0.", &vae->middle[0]));
    FGA_TRY(load_norm(vae, 3, channels, attention, "norm", &vae->attention.norm));
    FGA_TRY(load_conv(vae, (conv_shape){channels, 3 * channels, 1, 1, true}, attention, "to_qkv", &vae->attention.qkv));
    FGA_TRY(load_conv(vae, (conv_shape){channels, channels, 1, 1, true}, attention, "proj", &vae->attention.proj));
    return load_resnet(vae, channels, channels, "decoder.mid_block.resnets.1.", &vae->middle[1]);
}

static fga_status load_block(fgv_vae *vae, const shape_of_model *shape, int index, int64_t in, int64_t out)
{
    vae_block *block = &vae->block[index];
    char prefix[MAX_NAME - 40];
    block->resnets = (int)shape->resnets + 1;
    for (int i = 0; i < block->resnets; i++) {
        snprintf(prefix, sizeof prefix, "decoder.up_blocks.%d.resnets.%d.", index, i);
        FGA_TRY(load_resnet(vae, i == 0 ? in : out, out, prefix, &block->resnet[i]));
    }
    if (index == shape->blocks - 1) {
        return FGA_OK;
    }
    snprintf(prefix, sizeof prefix, "decoder.up_blocks.%d.upsamplers.0.", index);
    if (shape->time[index]) {
        FGA_TRY(load_conv(vae, (conv_shape){out, 2 * out, 3, 1, false}, prefix, "time_conv", &block->time));
    }
    return load_conv(vae, (conv_shape){out, out / 2, 1, 3, true}, prefix, "resample.1", &block->resample);
}

static fga_status load_tensors(fgv_vae *vae, const shape_of_model *shape)
{
    fgv_tensor post_quant;
    FGA_TRY(fgv_weights_get(vae->weights, &post_quant, FGV_SHAPE(shape->latent, shape->latent, 1, 1, 1),
                            "post_quant_conv.weight"));
    count_tensor(vae, &post_quant);
    FGA_TRY(fgv_tensor_to_f32(vae->ctx, &post_quant, &vae->post_quant_weight));
    FGA_TRY(load_vector(vae, 1, shape->latent, "post_quant_conv.bias", &vae->post_quant_bias));

    int64_t channels = shape->base * (int64_t)shape->multiplier[shape->blocks - 1], in = channels;
    FGA_TRY(load_conv(vae, (conv_shape){shape->latent, channels, 3, 3, false}, "decoder.", "conv_in", &vae->conv_in));
    FGA_TRY(load_middle(vae, channels));
    for (int i = 0; i < shape->blocks; i++) {
        channels = shape->base * (int64_t)shape->multiplier[shape->blocks - 1 - i];
        FGA_TRY(load_block(vae, shape, i, in, channels));
        in = channels / 2;
    }
    FGA_TRY(load_norm(vae, 4, channels, "decoder.", "norm_out", &vae->norm_out));
    return load_conv(vae, (conv_shape){channels, 3, 3, 3, false}, "decoder.", "conv_out", &vae->conv_out);
}

/* ---- the handle ------------------------------------------------------------------------------------------------ */

fga_status fgv_vae_open(fga_context *ctx, const char *dir, fgv_vae **out)
{
    *out = NULL;
    fgv_vae *vae = calloc(1, sizeof *vae);
    size_t bytes = strlen(dir) + sizeof "/config.json";
    char *path = malloc(bytes);
    fga_status status;
    if (vae == NULL || path == NULL) {
        status = fga_context_fail(ctx, FGA_ERR_MEMORY, "%s: no memory", dir);
        goto cleanup;
    }
    snprintf(path, bytes, "%s/config.json", dir);
    vae->ctx = ctx;
    vae->native_bf16 = fgv_product_native_bf16();
    shape_of_model shape = {0};
    FGA_CHECK(read_config(vae, path, &shape));
    FGA_CHECK(fgv_weights_open(ctx, dir, "diffusion_pytorch_model", &vae->weights));
    FGA_CHECK(load_tensors(vae, &shape));
    *out = vae;
    vae = NULL;
cleanup:
    free(path);
    fgv_vae_close(&vae);
    return status;
}

static void free_resnet(vae_resnet *resnet)
{
    free(resnet->norm1);
    free(resnet->norm2);
    free(resnet->conv1.bias);
    free(resnet->conv2.bias);
    free(resnet->shortcut.bias);
}

void fgv_vae_close(fgv_vae **handle)
{
    if (handle == NULL || *handle == NULL) {
        return;
    }
    fgv_vae *vae = *handle;
    free(vae->post_quant_weight);
    free(vae->post_quant_bias);
    free(vae->conv_in.bias);
    free(vae->conv_out.bias);
    free_resnet(&vae->middle[0]);
    free_resnet(&vae->middle[1]);
    free(vae->attention.norm);
    free(vae->attention.qkv.bias);
    free(vae->attention.proj.bias);
    for (int i = 0; i < vae->blocks; i++) {
        for (int j = 0; j < vae->block[i].resnets; j++) {
            free_resnet(&vae->block[i].resnet[j]);
        }
        free(vae->block[i].time.bias);
        free(vae->block[i].resample.bias);
    }
    free(vae->norm_out);
    fgv_weights_close(&vae->weights);
    free(vae);
    *handle = NULL;
}

int fgv_vae_channels(const fgv_vae *vae)
{
    return vae->latent;
}

int fgv_vae_time_stride(const fgv_vae *vae)
{
    int stride = 1;
    for (int i = 0; i < vae->blocks; i++) {
        stride *= vae->block[i].time.weight.data != NULL ? 2 : 1;
    }
    return stride;
}

int fgv_vae_space_stride(const fgv_vae *vae)
{
    return 1 << (vae->blocks - 1);
}

uint64_t fgv_vae_hash(const fgv_vae *vae)
{
    return fgv_weights_hash(vae->weights);
}

int64_t fgv_vae_parameters(const fgv_vae *vae)
{
    return vae->parameters;
}
