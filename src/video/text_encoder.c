/* UMT5's encoder as transformers 5.23.0 computes it, over the valid tokens alone: padding is masked there, so rows
 * beyond the prompt influence nothing. */
#include "video/text_encoder.h"

#include "base/error.h"
#include "base/half.h"
#include "base/pages.h"
#include "video/config.h"
#include "video/linear.h"
#include "video/linear_kernels.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#define MAX_TOKENS 65536

typedef struct layer {
    float *attention_norm, *ff_norm; /* [d_model] */
    float *bias;                     /* [buckets][heads] */
    fgv_linear q, k, v, o, wi_0, wi_1, wo;
} layer;

struct fgv_text_encoder {
    fga_context *ctx;
    fgv_weights *weights;
    int64_t d_model, heads, d_head, d_ff, layer_count, vocabulary, buckets, max_distance;
    double epsilon;
    fgv_tensor embedding; /* [vocabulary][d_model] */
    layer *layers;
    float *final_norm; /* [d_model] */
};

/* ---- opening -------------------------------------------------------------------------------------------------- */

static fga_status read_config(fgv_text_encoder *e, const char *dir)
{
    char path[4096];
    int n = snprintf(path, sizeof path, "%s/config.json", dir);
    if (n < 0 || n >= (int)sizeof path) {
        return fga_context_fail(e->ctx, FGA_ERR_ARGUMENT, "path too long: %.100s...", dir);
    }
    fga_status status = FGA_OK;
    fgv_config *config;
    FGA_TRY(fgv_config_open(e->ctx, path, &config));
    FGA_CHECK(fgv_config_expect(config, "model_type", "umt5"));
    FGA_CHECK(fgv_config_expect(config, "feed_forward_proj", "gated-gelu"));
    FGA_CHECK(fgv_config_int(config, "d_model", 1, 1 << 20, &e->d_model));
    FGA_CHECK(fgv_config_int(config, "num_heads", 1, 1 << 12, &e->heads));
    FGA_CHECK(fgv_config_int(config, "d_kv", 1, 1 << 12, &e->d_head));
    FGA_CHECK(fgv_config_int(config, "d_ff", 1, 1 << 20, &e->d_ff));
    FGA_CHECK(fgv_config_int(config, "num_layers", 1, 1 << 10, &e->layer_count));
    FGA_CHECK(fgv_config_int(config, "vocab_size", 1, 1 << 24, &e->vocabulary));
    FGA_CHECK(fgv_config_int_or(config, "relative_attention_num_buckets", 4, 1 << 12, 32, &e->buckets));
    /* Half of the buckets are for each direction, half of those exact; distances beyond these grow to max_distance. */
    FGA_CHECK(fgv_config_int_or(config, "relative_attention_max_distance", 1, 1 << 20, 128, &e->max_distance));
    FGA_CHECK(fgv_config_double_or(config, "layer_norm_epsilon", 1e-6, &e->epsilon));
    if (e->buckets % 4 != 0 || e->max_distance <= e->buckets / 4 || !(e->epsilon > 0)) {
        status = fga_context_fail(e->ctx, FGA_ERR_DATA,
                                  "%s: wanted relative_attention_num_buckets a multiple of 4, a quarter of it below "
                                  "relative_attention_max_distance, and layer_norm_epsilon > 0",
                                  path);
    }
cleanup:
    fgv_config_close(&config);
    return status;
}

static fga_status load_vector(fgv_text_encoder *e, float **out, int index, const char *name, int64_t rows,
                              int64_t columns)
{
    fgv_tensor tensor;
    const int64_t shape[] = {rows, columns};
    FGA_TRY(
        fgv_weights_get(e->weights, &tensor, columns > 0 ? 2 : 1, shape, "encoder.block.%d.%s.weight", index, name));
    return fgv_tensor_to_f32(e->ctx, &tensor, out);
}

static fga_status load_layer(fgv_text_encoder *e, int i)
{
    layer *l = &e->layers[i];
    int64_t d = e->d_model, inner = e->heads * e->d_head;
    FGA_TRY(load_vector(e, &l->attention_norm, i, "layer.0.layer_norm", d, 0));
    FGA_TRY(load_vector(e, &l->ff_norm, i, "layer.1.layer_norm", d, 0));
    FGA_TRY(load_vector(e, &l->bias, i, "layer.0.SelfAttention.relative_attention_bias", e->buckets, e->heads));
    const struct {
        fgv_linear *linear;
        int64_t out, in;
        const char *name;
    } all[] = {
        {&l->q, inner, d, "layer.0.SelfAttention.q"},          {&l->k, inner, d, "layer.0.SelfAttention.k"},
        {&l->v, inner, d, "layer.0.SelfAttention.v"},          {&l->o, d, inner, "layer.0.SelfAttention.o"},
        {&l->wi_0, e->d_ff, d, "layer.1.DenseReluDense.wi_0"}, {&l->wi_1, e->d_ff, d, "layer.1.DenseReluDense.wi_1"},
        {&l->wo, d, e->d_ff, "layer.1.DenseReluDense.wo"},
    };
    for (size_t k = 0; k < sizeof all / sizeof all[0]; k++) {
        FGA_TRY(fgv_linear_load(e->weights, all[k].linear, all[k].out, all[k].in, false, "encoder.block.%d.%s", i,
                                all[k].name));
    }
    return FGA_OK;
}

fga_status fgv_text_encoder_open(fga_context *ctx, const char *dir, fgv_text_encoder **out)
{
    *out = NULL;
    fga_status status = FGA_OK;
    fgv_tensor norm;
    fgv_text_encoder *e = calloc(1, sizeof *e);
    if (e == NULL) {
        return fga_context_fail(ctx, FGA_ERR_MEMORY, "%s: no memory for a text encoder", dir);
    }
    e->ctx = ctx;
    FGA_CHECK(read_config(e, dir));
    FGA_CHECK(fgv_weights_open(ctx, dir, "model", &e->weights));
    e->layers = calloc((size_t)e->layer_count, sizeof *e->layers);
    if (e->layers == NULL) {
        status = fga_context_fail(ctx, FGA_ERR_MEMORY, "%s: no memory for %d layers", dir, (int)e->layer_count);
        goto cleanup;
    }
    /* The encoder's and the shared embedding are one; files hold either name, or both. */
    bool own =
        !fgv_weights_has(e->weights, "shared.weight") && fgv_weights_has(e->weights, "encoder.embed_tokens.weight");
    FGA_CHECK(fgv_weights_get(e->weights, &e->embedding, FGV_SHAPE(e->vocabulary, e->d_model), "%s",
                              own ? "encoder.embed_tokens.weight" : "shared.weight"));
    FGA_CHECK(fgv_weights_get(e->weights, &norm, FGV_SHAPE(e->d_model), "encoder.final_layer_norm.weight"));
    FGA_CHECK(fgv_tensor_to_f32(ctx, &norm, &e->final_norm));
    for (int i = 0; i < e->layer_count; i++) {
        FGA_CHECK(load_layer(e, i));
    }
    fgv_weights_report_unused(e->weights);
cleanup:
    if (status != FGA_OK) {
        fgv_text_encoder_close(&e);
    }
    *out = e;
    return status;
}

void fgv_text_encoder_close(fgv_text_encoder **handle)
{
    if (handle == NULL || *handle == NULL) {
        return;
    }
    fgv_text_encoder *e = *handle;
    for (int i = 0; e->layers != NULL && i < e->layer_count; i++) {
        layer *l = &e->layers[i];
        fgv_linear *const all[] = {&l->q, &l->k, &l->v, &l->o, &l->wi_0, &l->wi_1, &l->wo};
        for (size_t k = 0; k < sizeof all / sizeof all[0]; k++) {
            fgv_linear_free(all[k]);
        }
        free(l->attention_norm);
        free(l->ff_norm);
        free(l->bias);
    }
    free(e->layers);
    free(e->final_norm);
    fgv_weights_close(&e->weights);
    free(e);
    *handle = NULL;
}

void fgv_text_encoder_rest(const fgv_text_encoder *encoder)
{
    fgv_weights_rest(encoder->weights);
}

int64_t fgv_text_encoder_dim(const fgv_text_encoder *encoder)
{
    return encoder->d_model;
}

int64_t fgv_text_encoder_vocabulary(const fgv_text_encoder *encoder)
{
    return encoder->vocabulary;
}

int64_t fgv_text_encoder_parameters(const fgv_text_encoder *encoder)
{
    return fgv_weights_parameters(encoder->weights);
}

/* ---- running -------------------------------------------------------------------------------------------------- */

/* Activations of one run, all f32 in one allocation. */
typedef struct activations {
    float *memory;
    float *x, *normed;           /* [n][d_model] */
    float *q, *k, *v, *attended; /* [n][heads * d_head] */
    float *gate, *wide;          /* [n][d_ff] */
    float *scores;               /* [threads][n] */
    uint16_t *buckets;           /* [2n-1]: of key - query = -(n-1) ... n-1 */
} activations;

static uint64_t activation_floats(const fgv_text_encoder *e, uint64_t n)
{
    uint64_t per_token = 2 * (uint64_t)e->d_model + 4 * (uint64_t)(e->heads * e->d_head) + 2 * (uint64_t)e->d_ff;
    return n * (per_token + (uint64_t)fga_context_threads(e->ctx) + 1);
}

uint64_t fgv_text_encoder_memory(const fgv_text_encoder *encoder, int tokens)
{
    uint64_t n = tokens > 0 ? (uint64_t)tokens : 0;
    int64_t inner = encoder->heads * encoder->d_head, widest = inner > encoder->d_ff ? inner : encoder->d_ff;
    return fgv_weights_bytes(encoder->weights) + activation_floats(encoder, n) * sizeof(float) +
           fgv_linear_scratch(encoder->ctx, encoder->d_model, widest, (int64_t)n, FGA_F32);
}

static fga_status allocate(const fgv_text_encoder *e, size_t n, activations *a)
{
    uint64_t floats = activation_floats(e, n);
    a->memory = floats <= SIZE_MAX / sizeof(float) ? fga_pages_alloc((size_t)floats * sizeof(float)) : NULL;
    if (a->memory == NULL) {
        return fga_context_fail(e->ctx, FGA_ERR_MEMORY, "text encoder: no memory for %zu tokens", n);
    }
    size_t model = n * (size_t)e->d_model, inner = n * (size_t)(e->heads * e->d_head), ff = n * (size_t)e->d_ff;
    float *p = a->memory;
    a->x = p, p += model;
    a->normed = p, p += model;
    a->q = p, p += inner;
    a->k = p, p += inner;
    a->v = p, p += inner;
    a->attended = p, p += inner;
    a->gate = p, p += ff;
    a->wide = p, p += ff;
    a->scores = p, p += n * (size_t)fga_context_threads(e->ctx);
    a->buckets = (uint16_t *)p; /* 2n-1 of them in n floats */
    return FGA_OK;
}

/* T5's bucket of a distance key - query: the sign picks the half; near distances have a bucket each, far ones share
 * logarithmically. The reference computes the logarithm in f32, so that is what decides at the borders. */
static uint16_t bucket_of(const fgv_text_encoder *e, int64_t distance)
{
    int64_t half = e->buckets / 2, exact = half / 2, offset = distance > 0 ? half : 0;
    int64_t size = distance < 0 ? -distance : distance;
    if (size < exact) {
        return (uint16_t)(offset + size);
    }
    float ratio = logf((float)size / (float)exact) / (float)log((double)e->max_distance / (double)exact);
    int64_t bucket = exact + (int64_t)(ratio * (float)(half - exact));
    return (uint16_t)(offset + (bucket < half ? bucket : half - 1));
}

static void rms_norm(const fgv_text_encoder *e, float *out, const float *x, const float *weight, int64_t n)
{
    for (int64_t row = 0; row < n; row++, x += e->d_model, out += e->d_model) {
        double sum = 0;
        for (int64_t i = 0; i < e->d_model; i++) {
            sum += (double)x[i] * x[i];
        }
        double scale = 1.0 / sqrt(sum / (double)e->d_model + e->epsilon);
        for (int64_t i = 0; i < e->d_model; i++) {
            out[i] = weight[i] * (float)(x[i] * scale);
        }
    }
}

typedef struct attention_job {
    const fgv_text_encoder *e;
    const layer *layer;
    const activations *a;
    const fgv_linear_kernels *kernels;
    int64_t n;
} attention_job;

/* softmax over the n scores, unnormalised; returns the reciprocal of their sum. */
static float exponentials(float *scores, int64_t n)
{
    float highest = scores[0];
    for (int64_t j = 1; j < n; j++) {
        highest = scores[j] > highest ? scores[j] : highest;
    }
    double sum = 0;
    for (int64_t j = 0; j < n; j++) {
        scores[j] = expf(scores[j] - highest);
        sum += scores[j];
    }
    return (float)(1.0 / sum);
}

static void attend_head(void *arg, int64_t head, int worker)
{
    const attention_job *job = arg;
    const fgv_text_encoder *e = job->e;
    int64_t n = job->n, d = e->d_head, stride = e->heads * d;
    float *scores = job->a->scores + (int64_t)worker * n;
    const float *k = job->a->k + head * d, *v = job->a->v + head * d;
    for (int64_t i = 0; i < n; i++) {
        for (int64_t j = 0; j < n; j += FGV_DOT_ROWS) {
            int rows = n - j < FGV_DOT_ROWS ? (int)(n - j) : FGV_DOT_ROWS;
            job->kernels->dots(scores + j, k + j * stride, stride, rows, job->a->q + i * stride + head * d, d);
        }
        for (int64_t j = 0; j < n; j++) {
            scores[j] += job->layer->bias[job->a->buckets[j - i + n - 1] * e->heads + head];
        }
        float scale = exponentials(scores, n);
        float *out = job->a->attended + i * stride + head * d;
        for (int64_t c = 0; c < d; c++) {
            out[c] = 0;
        }
        for (int64_t j = 0; j < n; j++) {
            float weight = scores[j] * scale;
            for (int64_t c = 0; c < d; c++) {
                out[c] += weight * v[j * stride + c];
            }
        }
    }
}

static fga_status product(const fgv_text_encoder *e, const fgv_linear *linear, const float *x, float *y, int64_t n,
                          fgv_activation activation, fga_dtype compute)
{
    const fgv_linear_args args = {.x = x, .y = y, .rows = n, .activation = activation, .compute = compute};
    return fgv_linear_run(e->ctx, linear, &args);
}

static void add(float *x, const float *y, int64_t n)
{
    for (int64_t i = 0; i < n; i++) {
        x[i] += y[i];
    }
}

static fga_status run_layer(const fgv_text_encoder *e, const layer *l, activations *a, int64_t n, fga_dtype compute)
{
    rms_norm(e, a->normed, a->x, l->attention_norm, n);
    FGA_TRY(product(e, &l->q, a->normed, a->q, n, FGV_IDENTITY, compute));
    FGA_TRY(product(e, &l->k, a->normed, a->k, n, FGV_IDENTITY, compute));
    FGA_TRY(product(e, &l->v, a->normed, a->v, n, FGV_IDENTITY, compute));
    attention_job job = {e, l, a, fgv_linear_kernels_best(), n};
    fga_parallel_for(e->ctx, e->heads, attend_head, &job);
    FGA_TRY(product(e, &l->o, a->attended, a->normed, n, FGV_IDENTITY, compute));
    add(a->x, a->normed, n * e->d_model);

    rms_norm(e, a->normed, a->x, l->ff_norm, n);
    FGA_TRY(product(e, &l->wi_0, a->normed, a->gate, n, FGV_GELU_TANH, compute));
    FGA_TRY(product(e, &l->wi_1, a->normed, a->wide, n, FGV_IDENTITY, compute));
    for (int64_t i = 0; i < n * e->d_ff; i++) {
        a->wide[i] *= a->gate[i];
    }
    FGA_TRY(product(e, &l->wo, a->wide, a->normed, n, FGV_IDENTITY, compute));
    add(a->x, a->normed, n * e->d_model);
    return FGA_OK;
}

fga_status fgv_text_encoder_run(fgv_text_encoder *e, fga_dtype compute, const int32_t *ids, int count, float *out)
{
    if (count < 0 || count > MAX_TOKENS) {
        return fga_context_fail(e->ctx, FGA_ERR_ARGUMENT, "text encoder: %d tokens, wanted 0 to %d", count, MAX_TOKENS);
    }
    for (int i = 0; i < count; i++) {
        if (ids[i] < 0 || ids[i] >= e->vocabulary) {
            return fga_context_fail(e->ctx, FGA_ERR_DATA,
                                    "token id %d at %d is outside the text encoder's vocabulary of %d: the tokenizer "
                                    "belongs to another model",
                                    (int)ids[i], i, (int)e->vocabulary);
        }
    }
    if (count == 0) {
        return FGA_OK;
    }
    fga_status status = FGA_OK;
    activations a;
    int64_t n = count;
    FGA_TRY(allocate(e, (size_t)n, &a));
    for (int64_t i = 1 - n; i < n; i++) {
        a.buckets[i + n - 1] = bucket_of(e, i);
    }
    size_t row_bytes = (size_t)e->d_model * fga_dtype_size(e->embedding.dtype);
    for (int64_t i = 0; i < n; i++) {
        fga_to_f32(a.x + i * e->d_model, (const char *)e->embedding.data + (size_t)ids[i] * row_bytes,
                   e->embedding.dtype, e->d_model);
    }
    for (int i = 0; i < e->layer_count; i++) {
        FGA_CHECK(run_layer(e, &e->layers[i], &a, n, compute));
    }
    rms_norm(e, out, a.x, e->final_norm, n);
cleanup:
    free(a.memory);
    return status;
}
