#include "video/vae_plan.h"

#include "base/error.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

/* Hands out parts of one block. Without a base it only counts. */
typedef struct arena {
    char *base;
    size_t used;
} arena;

static void *take(arena *a, uint64_t bytes)
{
    void *part = a->base != NULL ? a->base + a->used : NULL;
    a->used += (bytes + 127) / 64 * 64; /* at least 64 to spare: blocked kernels may read on */
    return part;
}

static int64_t max64(int64_t a, int64_t b)
{
    return a > b ? a : b;
}

/* ---- pools ----------------------------------------------------------------------------------------------------- */

static int pool_of(vae_plan *plan, int64_t height, int64_t width, int64_t channels)
{
    int i = 0;
    while (i < plan->pools &&
           (plan->pool[i].height != height || plan->pool[i].width != width || plan->pool[i].channels != channels)) {
        i++;
    }
    if (i == plan->pools) {
        size_t row = (size_t)(width * channels) * fgv_store_size(plan->store);
        plan->pool[plan->pools++] =
            (vae_pool){.height = height, .width = width, .channels = channels, .row_bytes = row};
    }
    return i;
}

static void *take_frame(arena *a, const vae_pool *pool)
{
    char *frame = take(a, (uint64_t)(pool->height + 2) * pool->row_bytes);
    return frame != NULL ? frame + pool->row_bytes : NULL;
}

static void count_layer(vae_plan *plan, vae_layer *layer, const vae_level *level, int64_t channels)
{
    layer->pool = pool_of(plan, level->height, level->width, channels);
    plan->pool[layer->pool].layers++;
}

static void give_past(vae_plan *plan, arena *a, vae_layer *layer)
{
    layer->past[0] = take_frame(a, &plan->pool[layer->pool]);
    layer->past[1] = take_frame(a, &plan->pool[layer->pool]);
}

/* ---- levels ---------------------------------------------------------------------------------------------------- */

static void lay_out_level(vae_plan *plan, int index)
{
    const fgv_vae *vae = plan->vae;
    const vae_block *block = &vae->block[index];
    vae_level *level = &plan->level[index];
    level->in = block->resnet[0].conv1.in;
    level->out = block->resnet[0].conv1.out;
    /* Bands of four rows, of two where four would not stay in the second level of cache; never depending on threads.
     * Even, so that they begin on a doubled row. */
    level->rows = level->width * level->out > 40000 ? 2 : 4;
    level->rest = level->height % level->rows;
    if (level->height < level->rows) {
        level->rows = level->height;
        level->rest = 0;
    }
    if (index == 0) {
        level->stack[level->stacks++].model = &vae->middle[0];
        level->stack[level->stacks++].model = &vae->middle[1];
        count_layer(plan, &plan->conv_in, level, vae->latent);
    }
    for (int i = 0; i < block->resnets; i++) {
        level->stack[level->stacks++].model = &block->resnet[i];
    }
    for (int i = 0; i < level->stacks; i++) {
        count_layer(plan, &level->stack[i].conv1, level, level->stack[i].model->conv1.in);
        count_layer(plan, &level->stack[i].conv2, level, level->stack[i].model->conv2.in);
    }
    level->doubles_time = block->time.weight.data != NULL;
    if (level->doubles_time) {
        count_layer(plan, &level->time, level, level->out);
    }
    if (index == plan->levels - 1) {
        count_layer(plan, &plan->conv_out, level, level->out);
    }
}

/* ---- memory ---------------------------------------------------------------------------------------------------- */

static void give_frames(vae_plan *plan, arena *a)
{
    give_past(plan, a, &plan->conv_in);
    give_past(plan, a, &plan->conv_out);
    for (int i = 0; i < plan->levels; i++) {
        vae_level *level = &plan->level[i];
        for (int j = 0; j < level->stacks; j++) {
            give_past(plan, a, &level->stack[j].conv1);
            give_past(plan, a, &level->stack[j].conv2);
        }
        if (level->doubles_time) {
            give_past(plan, a, &level->time);
        }
    }
    for (int i = 0; i < plan->pools; i++) {
        vae_pool *pool = &plan->pool[i];
        pool->spare = pool->layers > 1 ? 2 : 1;
        for (int j = 0; j < pool->spare; j++) {
            pool->free[j] = take_frame(a, pool);
        }
    }
}

static void give_buffers(vae_plan *plan, arena *a)
{
    int64_t x[2] = {0, 0}, undoubled = 0, output = 0, input = 0;
    size_t size = fgv_store_size(plan->store);
    for (int i = 0; i < plan->levels; i++) {
        const vae_level *level = &plan->level[i];
        int64_t pixels = level->height * level->width, band = level->rows * level->width;
        x[0] = max64(x[0], pixels * level->in);
        x[1] = max64(x[1], level->in != level->out ? pixels * level->out : 0);
        output = max64(output, band * level->out);
        input = max64(input, plan->store != FGV_STORE_F32 && level->in != level->out ? band * level->in : 0);
        if (i + 1 < plan->levels) {
            undoubled = max64(undoubled, pixels * level->out);
            input = max64(input, (plan->level[i + 1].rows + 2) * plan->level[i + 1].width * level->out);
        }
    }
    const vae_level *first = &plan->level[0], *last = &plan->level[plan->levels - 1];
    int64_t positions = first->height * first->width;
    plan->x[0] = take(a, (uint64_t)x[0] * sizeof(float));
    plan->x[1] = take(a, (uint64_t)x[1] * sizeof(float));
    plan->undoubled = take(a, (uint64_t)undoubled * size);
    void **const attention[] = {&plan->normed, &plan->q, &plan->k, &plan->v};
    for (int i = 0; i < 4; i++) {
        *attention[i] = take(a, (uint64_t)(positions * first->in) * size);
    }
    plan->picture = take(a, (uint64_t)(3 * last->height * last->width) * sizeof(float));

    /* A worker's two parts: what a convolution puts out and what it takes in; or scores, and probabilities with the
     * result. */
    int64_t tile = positions < FGV_VAE_TILE ? positions : FGV_VAE_TILE;
    uint64_t outputs = (uint64_t)max64(output, tile * positions) * sizeof(float);
    uint64_t result = (uint64_t)(tile * (first->in + 1) + 32) * sizeof(float);
    uint64_t probabilities = plan->store == FGV_STORE_BF16 ? (uint64_t)(tile * positions) * size + 64 : 0;
    uint64_t inputs = (uint64_t)input * size;
    arena parts = {0};
    take(&parts, outputs);
    plan->second_part = parts.used;
    take(&parts, inputs > result + probabilities ? inputs : result + probabilities);
    plan->worker_bytes = parts.used;
    for (int i = 0; i < fga_context_threads(plan->ctx); i++) {
        plan->worker[i] = take(a, plan->worker_bytes);
    }
}

static fga_status give_memory(vae_plan *plan, bool sizes_only)
{
    arena a = {0};
    give_frames(plan, &a);
    give_buffers(plan, &a);
    plan->total_bytes += a.used;
    if (sizes_only) {
        return FGA_OK;
    }
    void *block = calloc(1, a.used + 64);
    if (block == NULL) {
        return fga_context_fail(plan->ctx, FGA_ERR_MEMORY, "VAE: no memory: decoding %lldx%lld needs %.2f GB",
                                (long long)plan->level[plan->levels - 1].width,
                                (long long)plan->level[plan->levels - 1].height, (double)plan->total_bytes * 1e-9);
    }
    plan->memory = block;
    a = (arena){.base = (char *)(((uintptr_t)block + 63) / 64 * 64)};
    give_frames(plan, &a);
    give_buffers(plan, &a);
    return FGA_OK;
}

/* ---- convolutions ---------------------------------------------------------------------------------------------- */

typedef struct conv_use {
    const vae_conv *model;
    const vae_level *level; /* whose size it puts out */
    int64_t first, out;     /* output channels used */
    bool accumulate;
} conv_use;

static fga_status prepare(vae_plan *plan, conv_use use, fgv_conv **conv)
{
    const vae_conv *m = use.model;
    fgv_conv_desc desc = {.weight = m->weight,
                          .first = use.first,
                          .bias = m->bias + use.first,
                          .in = m->in,
                          .out = use.out,
                          .taps = m->taps,
                          .side = m->side,
                          .width = use.level->width,
                          .rows = use.level->rows,
                          .rest = use.level->rest,
                          .accumulate = use.accumulate,
                          .store = plan->store};
    plan->total_bytes += fgv_conv_weight_bytes(&desc);
    return plan->engine != NULL ? fgv_conv_create(plan->engine, &desc, conv) : FGA_OK;
}

static fga_status prepare_whole(vae_plan *plan, const vae_conv *model, const vae_level *level, bool accumulate,
                                fgv_conv **conv)
{
    return prepare(plan, (conv_use){model, level, 0, model->out, accumulate}, conv);
}

static fga_status prepare_level(vae_plan *plan, int index)
{
    vae_level *level = &plan->level[index];
    const vae_block *block = &plan->vae->block[index];
    for (int i = 0; i < level->stacks; i++) {
        vae_stack *stack = &level->stack[i];
        FGA_TRY(prepare_whole(plan, &stack->model->conv1, level, false, &stack->conv1.conv));
        FGA_TRY(prepare_whole(plan, &stack->model->conv2, level, true, &stack->conv2.conv));
        if (stack->model->shortcut.weight.data != NULL) {
            FGA_TRY(prepare_whole(plan, &stack->model->shortcut, level, false, &stack->shortcut));
        }
    }
    if (level->doubles_time) {
        FGA_TRY(prepare(plan, (conv_use){&block->time, level, 0, level->out, false}, &level->time.conv));
        FGA_TRY(prepare(plan, (conv_use){&block->time, level, level->out, level->out, false}, &level->second));
    }
    if (index + 1 < plan->levels) {
        FGA_TRY(prepare_whole(plan, &block->resample, level + 1, false, &level->resample));
    }
    return FGA_OK;
}

static fga_status prepare_attention(vae_plan *plan)
{
    const vae_attention *model = &plan->vae->attention;
    const vae_level *level = &plan->level[0];
    int64_t channels = model->qkv.in, positions = level->height * level->width;
    fgv_conv **const parts[] = {&plan->query, &plan->key, &plan->value};
    for (int i = 0; i < 3; i++) {
        FGA_TRY(prepare(plan, (conv_use){&model->qkv, level, i * channels, channels, false}, parts[i]));
    }
    FGA_TRY(prepare_whole(plan, &model->proj, level, true, &plan->proj));
    if (plan->engine == NULL) {
        return FGA_OK;
    }
    int64_t rows = positions < FGV_VAE_TILE ? positions : FGV_VAE_TILE;
    return fgv_conv_products_create(plan->engine, rows, positions % rows, positions, channels, plan->store,
                                    &plan->products);
}

static fga_status prepare_all(vae_plan *plan)
{
    FGA_TRY(prepare_whole(plan, &plan->vae->conv_in, &plan->level[0], false, &plan->conv_in.conv));
    FGA_TRY(prepare_attention(plan));
    for (int i = 0; i < plan->levels; i++) {
        FGA_TRY(prepare_level(plan, i));
    }
    return prepare_whole(plan, &plan->vae->conv_out, &plan->level[plan->levels - 1], false, &plan->conv_out.conv);
}

/* ---- the plan -------------------------------------------------------------------------------------------------- */

fga_status fgv_vae_plan_create(const fgv_vae *vae, fgv_store store, int64_t h, int64_t w, bool sizes_only,
                               vae_plan **out)
{
    *out = NULL;
    vae_plan *plan = calloc(1, sizeof *plan);
    fga_status status = FGA_OK;
    if (plan == NULL || (plan->worker = calloc((size_t)fga_context_threads(vae->ctx), sizeof *plan->worker)) == NULL) {
        free(plan);
        return fga_context_fail(vae->ctx, FGA_ERR_MEMORY, "VAE: no memory for a plan");
    }
    plan->vae = vae;
    plan->ctx = vae->ctx;
    plan->store = store;
    plan->kernels = fgv_vae_kernels_best();
    plan->levels = vae->blocks;
    for (int i = 0; i < plan->levels; i++) {
        plan->level[i].height = h << i;
        plan->level[i].width = w << i;
        lay_out_level(plan, i);
    }
    if (!sizes_only) {
        FGA_CHECK(fgv_conv_engine_create(plan->ctx, &plan->engine));
    }
    FGA_CHECK(prepare_all(plan));
    FGA_CHECK(give_memory(plan, sizes_only));
    *out = plan;
    plan = NULL;
cleanup:
    fgv_vae_plan_destroy(&plan);
    return status;
}

static void destroy_level(vae_level *level)
{
    for (int i = 0; i < level->stacks; i++) {
        fgv_conv_destroy(&level->stack[i].conv1.conv);
        fgv_conv_destroy(&level->stack[i].conv2.conv);
        fgv_conv_destroy(&level->stack[i].shortcut);
    }
    fgv_conv_destroy(&level->time.conv);
    fgv_conv_destroy(&level->second);
    fgv_conv_destroy(&level->resample);
}

void fgv_vae_plan_destroy(vae_plan **handle)
{
    if (handle == NULL || *handle == NULL) {
        return;
    }
    vae_plan *plan = *handle;
    for (int i = 0; i < plan->levels; i++) {
        destroy_level(&plan->level[i]);
    }
    fgv_conv **const others[] = {&plan->conv_in.conv, &plan->conv_out.conv, &plan->query,
                                 &plan->key,          &plan->value,         &plan->proj};
    for (size_t i = 0; i < sizeof others / sizeof others[0]; i++) {
        fgv_conv_destroy(others[i]);
    }
    fgv_conv_products_destroy(&plan->products);
    fgv_conv_engine_destroy(&plan->engine);
    free(plan->worker);
    free(plan->memory);
    free(plan);
    *handle = NULL;
}
