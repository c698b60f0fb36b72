#include "video/conv.h"

#include "base/error.h"
#include "base/half.h"
#include "base/pages.h"
#include "video/linear_product.h"

#include <oneapi/dnnl/dnnl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* A stream and oneDNN's scratchpad per worker: neither may be shared by two threads. */
struct fgv_conv_engine {
    fga_context *ctx;
    dnnl_engine_t engine;
    int workers;
    dnnl_stream_t *streams;
    void **scratch;
    size_t scratch_bytes; /* of each, grown while primitives are made */
};

/* A primitive for one height of band and what its arguments look like. */
typedef struct shape {
    dnnl_primitive_t primitive;
    dnnl_memory_desc_t src, dst, scratchpad;
} shape;

enum { FULL, REST, HEIGHTS };

struct fgv_conv {
    fgv_conv_engine *engine;
    fgv_conv_desc desc;
    shape first[HEIGHTS]; /* with bias; adds to dst if desc.accumulate */
    shape next[HEIGHTS];  /* without; adds to dst */
    dnnl_memory_t weights[3], bias;
    void *weight_bytes[3];
};

struct fgv_conv_products {
    fgv_conv_engine *engine;
    int64_t rows;
    shape scores[HEIGHTS], weighted[HEIGHTS];
    dnnl_memory_desc_t keys, values;
};

#define CHECK(expr) \
    do { \
        result = (expr); \
        if (result != dnnl_success) { \
            goto cleanup; \
        } \
    } while (0)

static fga_status report(fgv_conv_engine *engine, dnnl_status_t result, const char *what)
{
    if (result == dnnl_success) {
        return FGA_OK;
    }
    if (result == dnnl_out_of_memory) {
        return fga_context_fail(engine->ctx, FGA_ERR_MEMORY, "VAE: no memory for %s", what);
    }
    return fga_context_fail(engine->ctx, FGA_ERR_INTERNAL, "VAE: oneDNN cannot make %s (status %d)", what, (int)result);
}

static void *allocate(size_t bytes)
{
    return bytes <= SIZE_MAX - 64 ? fga_pages_alloc(bytes + 64)
                                  : NULL; /* 64 bytes to spare: blocked kernels may read on */
}

static dnnl_data_type_t type_of(fgv_store store)
{
    return store == FGV_STORE_BF16 ? dnnl_bf16 : dnnl_f32;
}

/* ---- engine ---------------------------------------------------------------------------------------------------- */

fga_status fgv_conv_engine_create(fga_context *ctx, fgv_conv_engine **out)
{
    *out = NULL;
    fgv_conv_engine *engine = calloc(1, sizeof *engine);
    if (engine == NULL) {
        return fga_context_fail(ctx, FGA_ERR_MEMORY, "VAE: no memory to start");
    }
    dnnl_status_t result = dnnl_out_of_memory;
    engine->ctx = ctx;
    engine->workers = fga_context_threads(ctx);
    engine->streams = calloc((size_t)engine->workers, sizeof *engine->streams);
    engine->scratch = calloc((size_t)engine->workers, sizeof *engine->scratch);
    if (engine->streams == NULL || engine->scratch == NULL) {
        goto cleanup;
    }
    CHECK(dnnl_engine_create(&engine->engine, dnnl_cpu, 0));
    for (int i = 0; i < engine->workers; i++) {
        CHECK(dnnl_stream_create(&engine->streams[i], engine->engine, dnnl_stream_default_flags));
    }
    *out = engine;
    return FGA_OK;
cleanup:;
    fga_status status = report(engine, result, "an engine");
    fgv_conv_engine_destroy(&engine);
    return status;
}

void fgv_conv_engine_destroy(fgv_conv_engine **handle)
{
    if (handle == NULL || *handle == NULL) {
        return;
    }
    fgv_conv_engine *engine = *handle;
    for (int i = 0; i < engine->workers; i++) {
        if (engine->streams != NULL) {
            dnnl_stream_destroy(engine->streams[i]);
        }
        if (engine->scratch != NULL) {
            free(engine->scratch[i]);
        }
    }
    free(engine->streams);
    free(engine->scratch);
    if (engine->engine != NULL) {
        dnnl_engine_destroy(engine->engine);
    }
    free(engine);
    *handle = NULL;
}

static dnnl_status_t grow_scratch(fgv_conv_engine *engine, size_t bytes)
{
    if (bytes <= engine->scratch_bytes) {
        return dnnl_success;
    }
    for (int i = 0; i < engine->workers; i++) {
        free(engine->scratch[i]);
        engine->scratch[i] = allocate(bytes);
        if (engine->scratch[i] == NULL) {
            engine->scratch_bytes = 0;
            return dnnl_out_of_memory;
        }
    }
    engine->scratch_bytes = bytes;
    return dnnl_success;
}

/* ---- primitives ------------------------------------------------------------------------------------------------ */

/* The scratchpad is ours, and arithmetic stays that of the types whatever oneDNN's default is. */
static dnnl_status_t make_attributes(bool sum, dnnl_primitive_attr_t *out)
{
    dnnl_post_ops_t after = NULL;
    dnnl_primitive_attr_t attributes = NULL;
    dnnl_status_t result;
    CHECK(dnnl_primitive_attr_create(&attributes));
    CHECK(dnnl_primitive_attr_set_scratchpad_mode(attributes, dnnl_scratchpad_mode_user));
    CHECK(dnnl_primitive_attr_set_fpmath_mode(attributes, dnnl_fpmath_mode_strict));
    if (sum) {
        CHECK(dnnl_post_ops_create(&after));
        CHECK(dnnl_post_ops_append_sum(after, 1.0f));
        CHECK(dnnl_primitive_attr_set_post_ops(attributes, after));
    }
    *out = attributes;
    attributes = NULL;
cleanup:
    dnnl_post_ops_destroy(after);
    dnnl_primitive_attr_destroy(attributes);
    return result;
}

static dnnl_status_t finish_shape(fgv_conv_engine *engine, const_dnnl_primitive_desc_t desc, shape *s)
{
    dnnl_status_t result;
    CHECK(dnnl_primitive_create(&s->primitive, desc));
    s->src = *dnnl_primitive_desc_query_md(desc, dnnl_query_src_md, 0);
    s->dst = *dnnl_primitive_desc_query_md(desc, dnnl_query_dst_md, 0);
    s->scratchpad = *dnnl_primitive_desc_query_md(desc, dnnl_query_scratchpad_md, 0);
    CHECK(grow_scratch(engine, dnnl_memory_desc_get_size(&s->scratchpad)));
cleanup:
    return result;
}

static bool uses_tiles(const_dnnl_primitive_desc_t desc)
{
    const char *name = NULL;
    return dnnl_primitive_desc_query(desc, dnnl_query_impl_info_str, 0, &name) == dnnl_success && name != NULL &&
           strstr(name, "amx") != NULL;
}

/* The best implementation but those on AMX tiles: oneDNN 2.6.3 sometimes crashes while it generates their code (it
 * reads a table it has not set, so that it depends on what the heap held before). */
static dnnl_status_t describe(const dnnl_convolution_desc_t *convolution, const_dnnl_primitive_attr_t attributes,
                              dnnl_engine_t engine, dnnl_primitive_desc_t *desc)
{
    dnnl_primitive_desc_iterator_t it = NULL;
    dnnl_status_t result = dnnl_primitive_desc_iterator_create(&it, convolution, attributes, engine, NULL);
    while (result == dnnl_success) {
        *desc = dnnl_primitive_desc_iterator_fetch(it);
        if (*desc == NULL || !uses_tiles(*desc)) {
            result = *desc == NULL ? dnnl_out_of_memory : dnnl_success;
            break;
        }
        dnnl_primitive_desc_destroy(*desc);
        *desc = NULL;
        result = dnnl_primitive_desc_iterator_next(it);
    }
    dnnl_primitive_desc_iterator_destroy(it);
    return result;
}

/* weights: with ndims 0 oneDNN picks their layout and it is set; otherwise it is kept. */
static dnnl_status_t make_conv(fgv_conv *conv, int64_t rows, bool first, dnnl_memory_desc_t *weights, shape *s)
{
    const fgv_conv_desc *d = &conv->desc;
    const dnnl_dims_t src_dims = {1, d->in, rows + d->side - 1, d->width}, dst_dims = {1, d->out, rows, d->width};
    const dnnl_dims_t weight_dims = {d->out, d->in, d->side, d->side}, bias_dims = {d->out};
    const dnnl_dims_t strides = {1, 1}, padding = {0, d->side / 2}; /* rows above and below are in src */
    dnnl_memory_desc_t src, dst, bias, chosen = *weights;
    dnnl_convolution_desc_t convolution;
    dnnl_primitive_attr_t attributes = NULL;
    dnnl_primitive_desc_t desc = NULL;
    dnnl_status_t result;
    CHECK(dnnl_memory_desc_init_by_tag(&src, 4, src_dims, type_of(d->store), dnnl_nhwc));
    CHECK(dnnl_memory_desc_init_by_tag(&dst, 4, dst_dims, dnnl_f32, dnnl_nhwc));
    CHECK(dnnl_memory_desc_init_by_tag(&bias, 1, bias_dims, dnnl_f32, dnnl_a));
    if (weights->ndims == 0) {
        CHECK(dnnl_memory_desc_init_by_tag(&chosen, 4, weight_dims, type_of(d->store), dnnl_format_tag_any));
    }
    CHECK(dnnl_convolution_forward_desc_init(&convolution, dnnl_forward_inference, dnnl_convolution_direct, &src,
                                             &chosen, first ? &bias : NULL, &dst, strides, padding, padding));
    CHECK(make_attributes(!first || d->accumulate, &attributes));
    CHECK(describe(&convolution, attributes, conv->engine->engine, &desc));
    *weights = *dnnl_primitive_desc_query_md(desc, dnnl_query_weights_md, 0);
    CHECK(finish_shape(conv->engine, desc, s));
cleanup:
    dnnl_primitive_attr_destroy(attributes);
    dnnl_primitive_desc_destroy(desc);
    return result;
}

/* The taps' slices [out][in][side][side] of the checkpoint's tensor, as f32. */
static void copy_slice(const fgv_conv_desc *d, int tap, float *out)
{
    int64_t window = (int64_t)d->side * d->side, row = d->in * d->taps * window;
    size_t size = fga_dtype_size(d->weight.dtype);
    for (int64_t o = 0; o < d->out; o++) {
        for (int64_t i = 0; i < d->in; i++) {
            int64_t at = (d->first + o) * row + (i * d->taps + tap) * window;
            fga_to_f32(out + (o * d->in + i) * window, (const char *)d->weight.data + (size_t)at * size,
                       d->weight.dtype, window);
        }
    }
}

static dnnl_status_t pack_weights(fgv_conv *conv, const dnnl_memory_desc_t *layout, float *slice)
{
    const fgv_conv_desc *d = &conv->desc;
    fgv_conv_engine *engine = conv->engine;
    const dnnl_dims_t dims = {d->out, d->in, d->side, d->side};
    dnnl_memory_desc_t plain;
    dnnl_memory_t from = NULL;
    dnnl_primitive_desc_t desc = NULL;
    dnnl_primitive_t reorder = NULL;
    dnnl_status_t result;
    CHECK(dnnl_memory_desc_init_by_tag(&plain, 4, dims, dnnl_f32, dnnl_oihw));
    CHECK(dnnl_memory_create(&from, &plain, engine->engine, slice));
    CHECK(dnnl_reorder_primitive_desc_create(&desc, &plain, engine->engine, layout, engine->engine, NULL));
    CHECK(dnnl_primitive_create(&reorder, desc));
    for (int tap = 0; tap < d->taps; tap++) {
        copy_slice(d, tap, slice);
        if (d->store == FGV_STORE_ROUNDED) {
            for (int64_t i = 0; i < d->out * d->in * d->side * d->side; i++) {
                slice[i] = fga_bf16_to_f32(fga_f32_to_bf16(slice[i]));
            }
        }
        conv->weight_bytes[tap] = allocate(dnnl_memory_desc_get_size(layout));
        CHECK(conv->weight_bytes[tap] != NULL ? dnnl_success : dnnl_out_of_memory);
        CHECK(dnnl_memory_create(&conv->weights[tap], layout, engine->engine, conv->weight_bytes[tap]));
        const dnnl_exec_arg_t args[] = {{DNNL_ARG_FROM, from}, {DNNL_ARG_TO, conv->weights[tap]}};
        CHECK(dnnl_primitive_execute(reorder, engine->streams[0], 2, args));
    }
cleanup:
    dnnl_primitive_destroy(reorder);
    dnnl_primitive_desc_destroy(desc);
    dnnl_memory_destroy(from);
    return result;
}

static dnnl_status_t make_bias(fgv_conv *conv)
{
    const dnnl_dims_t dims = {conv->desc.out};
    dnnl_memory_desc_t desc;
    dnnl_status_t result;
    CHECK(dnnl_memory_desc_init_by_tag(&desc, 1, dims, dnnl_f32, dnnl_a));
    /* oneDNN takes every buffer as mutable; it only reads this one. */
    CHECK(dnnl_memory_create(&conv->bias, &desc, conv->engine->engine, (void *)(uintptr_t)conv->desc.bias));
cleanup:
    return result;
}

fga_status fgv_conv_create(fgv_conv_engine *engine, const fgv_conv_desc *desc, fgv_conv **out)
{
    *out = NULL;
    int saved = fgv_product_enter(); /* oneDNN chooses its blocking by the thread count */
    dnnl_memory_desc_t layout = {0};
    dnnl_status_t result = dnnl_out_of_memory;
    float *slice = allocate((size_t)(desc->out * desc->in * desc->side * desc->side) * sizeof *slice);
    fgv_conv *conv = calloc(1, sizeof *conv);
    if (slice == NULL || conv == NULL) {
        goto cleanup;
    }
    *conv = (fgv_conv){.engine = engine, .desc = *desc};
    CHECK(make_bias(conv));
    const int64_t heights[HEIGHTS] = {desc->rows, desc->rest};
    for (int i = 0; i < HEIGHTS; i++) {
        if (heights[i] > 0) {
            CHECK(make_conv(conv, heights[i], true, &layout, &conv->first[i]));
            if (desc->taps > 1) {
                CHECK(make_conv(conv, heights[i], false, &layout, &conv->next[i]));
            }
        }
    }
    CHECK(pack_weights(conv, &layout, slice));
cleanup:
    fgv_product_leave(saved);
    free(slice);
    fga_status status = FGA_OK;
    if (result != dnnl_success) {
        fgv_conv_destroy(&conv);
        char what[100];
        snprintf(what, sizeof what, "a convolution %lld -> %lld, %d x %d x %d", (long long)desc->in,
                 (long long)desc->out, desc->taps, desc->side, desc->side);
        status = report(engine, result, what);
    }
    *out = conv;
    return status;
}

static void destroy_shapes(shape shapes[HEIGHTS])
{
    for (int i = 0; i < HEIGHTS; i++) {
        dnnl_primitive_destroy(shapes[i].primitive);
    }
}

void fgv_conv_destroy(fgv_conv **handle)
{
    if (handle == NULL || *handle == NULL) {
        return;
    }
    fgv_conv *conv = *handle;
    destroy_shapes(conv->first);
    destroy_shapes(conv->next);
    for (int tap = 0; tap < 3; tap++) {
        dnnl_memory_destroy(conv->weights[tap]);
        free(conv->weight_bytes[tap]);
    }
    dnnl_memory_destroy(conv->bias);
    free(conv);
    *handle = NULL;
}

uint64_t fgv_conv_weight_bytes(const fgv_conv_desc *d)
{
    uint64_t window = (uint64_t)d->side * (uint64_t)d->side * (uint64_t)d->taps;
    return window * (uint64_t)d->in * (uint64_t)((d->out + 15) / 16 * 16) * fgv_store_size(d->store);
}

/* Runs a primitive on plain pointers; other is the second input's memory, bias may be NULL. */
static dnnl_status_t execute(const fgv_conv_engine *engine, const shape *s, int worker, const void *src, float *dst,
                             dnnl_memory_t other, dnnl_memory_t bias)
{
    dnnl_memory_t from = NULL, to = NULL, scratchpad = NULL;
    dnnl_status_t result;
    CHECK(dnnl_memory_create(&from, &s->src, engine->engine, (void *)(uintptr_t)src));
    CHECK(dnnl_memory_create(&to, &s->dst, engine->engine, dst));
    CHECK(dnnl_memory_create(&scratchpad, &s->scratchpad, engine->engine, engine->scratch[worker]));
    const dnnl_exec_arg_t args[] = {{DNNL_ARG_SRC, from},
                                    {DNNL_ARG_WEIGHTS, other},
                                    {DNNL_ARG_DST, to},
                                    {DNNL_ARG_SCRATCHPAD, scratchpad},
                                    {DNNL_ARG_BIAS, bias}};
    CHECK(dnnl_primitive_execute(s->primitive, engine->streams[worker], bias != NULL ? 5 : 4, args));
cleanup:
    dnnl_memory_destroy(from);
    dnnl_memory_destroy(to);
    dnnl_memory_destroy(scratchpad);
    return result;
}

static fga_status to_status(dnnl_status_t result)
{
    return result == dnnl_success ? FGA_OK : result == dnnl_out_of_memory ? FGA_ERR_MEMORY : FGA_ERR_INTERNAL;
}

fga_status fgv_conv_run(const fgv_conv *conv, const fgv_conv_band *band, int worker)
{
    int height = band->rows == conv->desc.rows ? FULL : REST;
    dnnl_status_t result = dnnl_success;
    int saved = fgv_product_enter();
    for (int tap = 0; tap < conv->desc.taps && result == dnnl_success; tap++) {
        const shape *s = tap == 0 ? &conv->first[height] : &conv->next[height];
        result = execute(conv->engine, s, worker, band->src[tap], band->dst, conv->weights[tap],
                         tap == 0 ? conv->bias : NULL);
    }
    fgv_product_leave(saved);
    return to_status(result);
}

/* ---- attention's products -------------------------------------------------------------------------------------- */

static dnnl_status_t make_product(fgv_conv_engine *engine, const dnnl_memory_desc_t *a, const dnnl_memory_desc_t *b,
                                  int64_t rows, int64_t cols, shape *s)
{
    const dnnl_dims_t dims = {rows, cols};
    dnnl_memory_desc_t c;
    dnnl_matmul_desc_t matmul;
    dnnl_primitive_attr_t attributes = NULL;
    dnnl_primitive_desc_t desc = NULL;
    dnnl_status_t result;
    CHECK(dnnl_memory_desc_init_by_tag(&c, 2, dims, dnnl_f32, dnnl_ab));
    CHECK(dnnl_matmul_desc_init(&matmul, a, b, NULL, &c));
    CHECK(make_attributes(false, &attributes));
    CHECK(dnnl_primitive_desc_create(&desc, &matmul, attributes, engine->engine, NULL));
    CHECK(finish_shape(engine, desc, s));
cleanup:
    dnnl_primitive_attr_destroy(attributes);
    dnnl_primitive_desc_destroy(desc);
    return result;
}

fga_status fgv_conv_products_create(fgv_conv_engine *engine, int64_t rows, int64_t rest, int64_t keys, int64_t channels,
                                    fgv_store store, fgv_conv_products **out)
{
    *out = NULL;
    fgv_conv_products *p = calloc(1, sizeof *p);
    if (p == NULL) {
        return report(engine, dnnl_out_of_memory, "attention");
    }
    p->engine = engine;
    p->rows = rows;
    int saved = fgv_product_enter();
    const dnnl_dims_t key_dims = {channels, keys}, value_dims = {keys, channels};
    dnnl_status_t result;
    CHECK(dnnl_memory_desc_init_by_tag(&p->keys, 2, key_dims, type_of(store), dnnl_ba));
    CHECK(dnnl_memory_desc_init_by_tag(&p->values, 2, value_dims, type_of(store), dnnl_ab));
    const int64_t heights[HEIGHTS] = {rows, rest};
    for (int i = 0; i < HEIGHTS; i++) {
        if (heights[i] > 0) {
            const dnnl_dims_t q_dims = {heights[i], channels}, p_dims = {heights[i], keys};
            dnnl_memory_desc_t a;
            CHECK(dnnl_memory_desc_init_by_tag(&a, 2, q_dims, type_of(store), dnnl_ab));
            CHECK(make_product(engine, &a, &p->keys, heights[i], keys, &p->scores[i]));
            CHECK(dnnl_memory_desc_init_by_tag(&a, 2, p_dims, type_of(store), dnnl_ab));
            CHECK(make_product(engine, &a, &p->values, heights[i], channels, &p->weighted[i]));
        }
    }
cleanup:
    fgv_product_leave(saved);
    if (result != dnnl_success) {
        fgv_conv_products_destroy(&p);
    }
    *out = p;
    return report(engine, result, "the products of attention");
}

void fgv_conv_products_destroy(fgv_conv_products **handle)
{
    if (handle != NULL && *handle != NULL) {
        destroy_shapes((*handle)->scores);
        destroy_shapes((*handle)->weighted);
        free(*handle);
        *handle = NULL;
    }
}

static fga_status run_product(const fgv_conv_products *p, const shape *s, const dnnl_memory_desc_t *desc, const void *a,
                              const void *b, float *out, int worker)
{
    dnnl_memory_t other = NULL;
    dnnl_status_t result;
    int saved = fgv_product_enter();
    CHECK(dnnl_memory_create(&other, desc, p->engine->engine, (void *)(uintptr_t)b));
    CHECK(execute(p->engine, s, worker, a, out, other, NULL));
cleanup:
    dnnl_memory_destroy(other);
    fgv_product_leave(saved);
    return to_status(result);
}

fga_status fgv_conv_scores(const fgv_conv_products *p, int64_t rows, const void *q, const void *k, float *scores,
                           int worker)
{
    return run_product(p, &p->scores[rows == p->rows ? FULL : REST], &p->keys, q, k, scores, worker);
}

fga_status fgv_conv_weighted(const fgv_conv_products *p, int64_t rows, const void *weights, const void *v, float *out,
                             int worker)
{
    return run_product(p, &p->weighted[rows == p->rows ? FULL : REST], &p->values, weights, v, out, worker);
}
