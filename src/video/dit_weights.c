#include "video/dit_weights.h"

#include "base/error.h"
#include "video/config.h"

#include <stdio.h>
#include <stdlib.h>

#define MAX_DIM 65536

static fga_status read_patch(fga_context *ctx, const fgv_config *config, const char *path, int patch[3])
{
    double sizes[3] = {1, 2, 2};
    if (fgv_config_has(config, "patch_size")) {
        FGA_TRY(fgv_config_numbers(config, "patch_size", 3, sizes));
    }
    for (int axis = 0; axis < 3; axis++) {
        if (!(sizes[axis] >= 1 && sizes[axis] <= 16) || sizes[axis] != (int)sizes[axis]) {
            return fga_context_fail(ctx, FGA_ERR_DATA, "%s: key patch_size: %g, wanted whole numbers in [1, 16]", path,
                                    sizes[axis]);
        }
        patch[axis] = (int)sizes[axis];
    }
    return FGA_OK;
}

static fga_status read_sizes(const fgv_config *config, fgv_dit_config *c)
{
    const struct {
        const char *key;
        int64_t high, fallback;
        int *value;
    } sizes[] = {
        {"num_attention_heads", 512, 40, &c->heads},  {"attention_head_dim", 256, 128, &c->head_dim},
        {"num_layers", 1024, 40, &c->layers},         {"text_dim", MAX_DIM, 512, &c->text_dim},
        {"freq_dim", MAX_DIM, 256, &c->freq_dim},     {"in_channels", 1024, 16, &c->in_channels},
        {"out_channels", 1024, 16, &c->out_channels}, {"rope_max_seq_len", 1 << 20, 1024, &c->rope_max},
    };
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        int64_t value;
        FGA_TRY(fgv_config_int_or(config, sizes[i].key, 1, sizes[i].high, sizes[i].fallback, &value));
        *sizes[i].value = (int)value;
    }
    c->dim = (int64_t)c->heads * c->head_dim;
    return fgv_config_int_or(config, "ffn_dim", 1, 4 * MAX_DIM, 13824, &c->ffn_dim);
}

static fga_status read_config(fga_context *ctx, const char *dir, fgv_dit_config *c)
{
    char path[4096];
    if (snprintf(path, sizeof path, "%s/config.json", dir) >= (int)sizeof path) {
        return fga_context_fail(ctx, FGA_ERR_ARGUMENT, "path too long: %.100s...", dir);
    }
    fga_status status;
    fgv_config *config = NULL;
    double eps;
    FGA_CHECK(fgv_config_open(ctx, path, &config));
    FGA_CHECK(fgv_config_expect(config, "_class_name", "WanTransformer3DModel"));
    FGA_CHECK(fgv_config_expect(config, "qk_norm", "rms_norm_across_heads"));
    static const char *const image_keys[] = {"image_dim", "added_kv_proj_dim", "pos_embed_seq_len"};
    for (size_t i = 0; i < sizeof image_keys / sizeof *image_keys; i++) {
        if (fgv_config_has(config, image_keys[i])) {
            FGA_CHECK(fga_context_fail(ctx, FGA_ERR_DATA,
                                       "%s: key %s is set: this transformer takes images, wanted a text-to-video one",
                                       path, image_keys[i]));
        }
    }
    FGA_CHECK(read_sizes(config, c));
    FGA_CHECK(read_patch(ctx, config, path, c->patch));
    FGA_CHECK(fgv_config_bool_or(config, "cross_attn_norm", true, &c->cross_norm));
    FGA_CHECK(fgv_config_double_or(config, "eps", 1e-6, &eps));
    c->eps = (float)eps;
    if (!(eps > 0.0 && eps < 1.0)) {
        FGA_CHECK(fga_context_fail(ctx, FGA_ERR_DATA, "%s: key eps is %g, wanted a number in (0, 1)", path, eps));
    }
    if (c->head_dim % 8 != 0 || c->freq_dim % 2 != 0) {
        FGA_CHECK(fga_context_fail(ctx, FGA_ERR_DATA,
                                   "%s: attention_head_dim %d must be a multiple of 8 and freq_dim %d even", path,
                                   c->head_dim, c->freq_dim));
    }
cleanup:
    fgv_config_close(&config);
    return status;
}

/* A small vector or table, kept as f32. */
static fga_status load_f32(fgv_weights *weights, float **out, int rank, const int64_t *shape, const char *prefix,
                           const char *name)
{
    fgv_tensor tensor;
    FGA_TRY(fgv_weights_get(weights, &tensor, rank, shape, "%s%s", prefix, name));
    return fgv_tensor_to_f32(fgv_weights_context(weights), &tensor, out);
}

static fga_status load_attention(fgv_dit *dit, fgv_dit_attention *attention, const char *block, const char *name)
{
    int64_t dim = dit->config.dim;
    fgv_weights *w = dit->weights;
    char prefix[64];
    snprintf(prefix, sizeof prefix, "%s%s.", block, name);
    FGA_TRY(fgv_linear_load(w, &attention->q, dim, dim, true, "%sto_q", prefix));
    FGA_TRY(fgv_linear_load(w, &attention->k, dim, dim, true, "%sto_k", prefix));
    FGA_TRY(fgv_linear_load(w, &attention->v, dim, dim, true, "%sto_v", prefix));
    FGA_TRY(fgv_linear_load(w, &attention->out, dim, dim, true, "%sto_out.0", prefix));
    FGA_TRY(load_f32(w, &attention->norm_q, FGV_SHAPE(dim), prefix, "norm_q.weight"));
    return load_f32(w, &attention->norm_k, FGV_SHAPE(dim), prefix, "norm_k.weight");
}

static fga_status load_block(fgv_dit *dit, int layer)
{
    int64_t dim = dit->config.dim, ffn = dit->config.ffn_dim;
    fgv_weights *w = dit->weights;
    fgv_dit_block *block = &dit->blocks[layer];
    char prefix[32];
    snprintf(prefix, sizeof prefix, "blocks.%d.", layer);
    FGA_TRY(load_f32(w, &block->modulation, FGV_SHAPE(1, FGV_MODULATIONS, dim), prefix, "scale_shift_table"));
    FGA_TRY(load_attention(dit, &block->self, prefix, "attn1"));
    FGA_TRY(load_attention(dit, &block->cross, prefix, "attn2"));
    if (dit->config.cross_norm) {
        FGA_TRY(load_f32(w, &block->norm_scale, FGV_SHAPE(dim), prefix, "norm2.weight"));
        FGA_TRY(load_f32(w, &block->norm_shift, FGV_SHAPE(dim), prefix, "norm2.bias"));
    }
    FGA_TRY(fgv_linear_load(w, &block->ffn_in, ffn, dim, true, "%sffn.net.0.proj", prefix));
    return fgv_linear_load(w, &block->ffn_out, dim, ffn, true, "%sffn.net.2", prefix);
}

/* A convolution whose kernel is its stride is a product over patches. */
static fga_status load_patch(fgv_dit *dit)
{
    const fgv_dit_config *c = &dit->config;
    int64_t in = (int64_t)c->in_channels * c->patch[0] * c->patch[1] * c->patch[2];
    fgv_tensor weight;
    FGA_TRY(fgv_weights_get(dit->weights, &weight,
                            FGV_SHAPE(c->dim, c->in_channels, c->patch[0], c->patch[1], c->patch[2]),
                            "patch_embedding.weight"));
    weight.rank = 2;
    weight.shape[1] = in;
    dit->patch = (fgv_linear){.weight = weight, .in = in, .out = c->dim};
    return load_f32(dit->weights, &dit->patch.bias, FGV_SHAPE(c->dim), "patch_embedding", ".bias");
}

static fga_status load(fgv_dit *dit)
{
    const fgv_dit_config *c = &dit->config;
    fgv_weights *w = dit->weights;
    int64_t dim = c->dim, out = (int64_t)c->out_channels * c->patch[0] * c->patch[1] * c->patch[2];
    FGA_TRY(load_patch(dit));
    FGA_TRY(fgv_linear_load(w, &dit->time_1, dim, c->freq_dim, true, "condition_embedder.time_embedder.linear_1"));
    FGA_TRY(fgv_linear_load(w, &dit->time_2, dim, dim, true, "condition_embedder.time_embedder.linear_2"));
    FGA_TRY(
        fgv_linear_load(w, &dit->time_projection, FGV_MODULATIONS * dim, dim, true, "condition_embedder.time_proj"));
    FGA_TRY(fgv_linear_load(w, &dit->text_1, dim, c->text_dim, true, "condition_embedder.text_embedder.linear_1"));
    FGA_TRY(fgv_linear_load(w, &dit->text_2, dim, dim, true, "condition_embedder.text_embedder.linear_2"));
    for (int layer = 0; layer < c->layers; layer++) {
        FGA_TRY(load_block(dit, layer));
    }
    FGA_TRY(load_f32(w, &dit->head_modulation, FGV_SHAPE(1, 2, dim), "", "scale_shift_table"));
    FGA_TRY(fgv_linear_load(w, &dit->head, out, dim, true, "proj_out"));
    fgv_weights_report_unused(w);
    return FGA_OK;
}

fga_status fgv_dit_open(fga_context *ctx, const char *dir, fgv_dit **out)
{
    *out = NULL;
    fgv_dit_config config;
    FGA_TRY(read_config(ctx, dir, &config));
    fga_status status = FGA_OK;
    fgv_dit *dit = calloc(1, sizeof *dit);
    fgv_dit_block *blocks = calloc((size_t)config.layers, sizeof *blocks);
    if (dit == NULL || blocks == NULL) {
        free(dit);
        free(blocks);
        return fga_context_fail(ctx, FGA_ERR_MEMORY, "%s: no memory for %d layers", dir, config.layers);
    }
    dit->ctx = ctx;
    dit->config = config;
    dit->blocks = blocks;
    FGA_CHECK(fgv_weights_open(ctx, dir, "diffusion_pytorch_model", &dit->weights));
    FGA_CHECK(load(dit));
    *out = dit;
    dit = NULL;
cleanup:
    fgv_dit_close(&dit);
    return status;
}

static void free_attention(fgv_dit_attention *attention)
{
    fgv_linear_free(&attention->q);
    fgv_linear_free(&attention->k);
    fgv_linear_free(&attention->v);
    fgv_linear_free(&attention->out);
    free(attention->norm_q);
    free(attention->norm_k);
}

void fgv_dit_close(fgv_dit **handle)
{
    if (handle == NULL || *handle == NULL) {
        return;
    }
    fgv_dit *dit = *handle;
    for (int layer = 0; layer < dit->config.layers; layer++) {
        fgv_dit_block *block = &dit->blocks[layer];
        free(block->modulation);
        free(block->norm_scale);
        free(block->norm_shift);
        free_attention(&block->self);
        free_attention(&block->cross);
        fgv_linear_free(&block->ffn_in);
        fgv_linear_free(&block->ffn_out);
    }
    free(dit->blocks);
    free(dit->head_modulation);
    fgv_linear *const linears[] = {&dit->patch,  &dit->time_1, &dit->time_2, &dit->time_projection,
                                   &dit->text_1, &dit->text_2, &dit->head};
    for (size_t i = 0; i < sizeof linears / sizeof *linears; i++) {
        fgv_linear_free(linears[i]);
    }
    fgv_weights_close(&dit->weights);
    free(dit);
    *handle = NULL;
}

uint64_t fgv_dit_hash(const fgv_dit *dit)
{
    return fgv_weights_hash(dit->weights);
}

void fgv_dit_rest(const fgv_dit *dit)
{
    fgv_weights_rest(dit->weights);
}

const fgv_dit_config *fgv_dit_get_config(const fgv_dit *dit)
{
    return &dit->config;
}

int64_t fgv_dit_parameters(const fgv_dit *dit)
{
    return fgv_weights_parameters(dit->weights);
}

uint64_t fgv_dit_weight_bytes(const fgv_dit *dit)
{
    return fgv_weights_bytes(dit->weights);
}
