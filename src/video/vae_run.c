/* Decoding: latents through the levels of the plan, frame by frame. */
#include "video/vae_plan.h"

#include "base/error.h"

#include <assert.h>
#include <math.h>
#include <stdatomic.h>
#include <string.h>

typedef bool (*frame_callback)(void *user, int index, const float *raw);

typedef struct decoding {
    vae_plan *plan;
    frame_callback frame;
    void *user;
    int frames; /* handed out */
} decoding;

/* ---- frames ---------------------------------------------------------------------------------------------------- */

static void *fresh(vae_plan *plan, const vae_layer *layer)
{
    vae_pool *pool = &plan->pool[layer->pool];
    assert(pool->spare > 0);
    return pool->free[--pool->spare];
}

/* The present becomes the past, and the frame that no one will read again is free. */
static void pass(vae_plan *plan, vae_layer *layer, void *present)
{
    vae_pool *pool = &plan->pool[layer->pool];
    pool->free[pool->spare++] = layer->past[0];
    layer->past[0] = layer->past[1];
    layer->past[1] = present;
}

/* ---- one convolution with what follows it, band by band --------------------------------------------------------- */

/* What becomes of a convolution's output beside the residual stream. */
typedef struct sink {
    const float *gamma; /* normalise with it; NULL = as it is */
    bool silu;
    void *out; /* [height][width][channels] of store; NULL = nothing */
} sink;

typedef struct stage {
    const vae_plan *plan;
    const vae_level *level; /* whose size is put out */
    const fgv_conv *conv;
    int64_t in, out;
    int taps, side;
    const void *src[3];
    bool doubled;             /* src[0] is of half the height and width */
    float *x;                 /* put out, or added, here; NULL = to scratch only */
    const fgv_conv *shortcut; /* x = shortcut(x_before) first */
    const float *x_before;
    int64_t shortcut_in;
    sink sink;
    float *picture; /* [3][height][width] instead */
    _Atomic int failure;
} stage;

/* rows + 2 rows of the doubled picture from row y - 1, zeros outside it. */
static const void *double_rows(const stage *s, int64_t y, int64_t rows, char *out)
{
    size_t pixel = (size_t)s->in * fgv_store_size(s->plan->store), row = pixel * (size_t)s->level->width;
    for (int64_t i = 0; i < rows + 2; i++, out += row) {
        int64_t from = y - 1 + i;
        if (from < 0 || from >= s->level->height) {
            memset(out, 0, row);
        } else if (i > 0 && from % 2 == 1) {
            memcpy(out, out - row, row);
        } else {
            const char *src = (const char *)s->src[0] + (size_t)(from / 2) * (row / 2);
            for (int64_t x = 0; x < s->level->width; x++) {
                memcpy(out + (size_t)x * pixel, src + (size_t)(x / 2) * pixel, pixel);
            }
        }
    }
    return out - row * (size_t)(rows + 2);
}

static fga_status run_shortcut(const stage *s, int64_t y, int64_t rows, float *dst, int worker)
{
    const float *x = s->x_before + y * s->level->width * s->shortcut_in;
    fgv_conv_band band = {.src = {x}, .dst = dst, .rows = rows};
    if (s->plan->store != FGV_STORE_F32) {
        char *converted = s->plan->worker[worker] + s->plan->second_part;
        s->plan->kernels->normalise(&(fgv_vae_normalise){.x = x,
                                                         .out = converted,
                                                         .pixels = rows * s->level->width,
                                                         .channels = s->shortcut_in,
                                                         .store = s->plan->store});
        band.src[0] = converted;
    }
    return fgv_conv_run(s->shortcut, &band, worker);
}

static void store_picture(const stage *s, int64_t y, int64_t rows, const float *rgb)
{
    int64_t plane = s->level->height * s->level->width, pixels = rows * s->level->width;
    float *out = s->picture + y * s->level->width;
    for (int64_t i = 0; i < pixels; i++) {
        out[i] = rgb[3 * i];
        out[plane + i] = rgb[3 * i + 1];
        out[2 * plane + i] = rgb[3 * i + 2];
    }
}

static fga_status run_band(const stage *s, int64_t y, int64_t rows, int worker)
{
    const vae_plan *plan = s->plan;
    int64_t width = s->level->width;
    float *dst = s->x != NULL ? s->x + y * width * s->out : (float *)(void *)plan->worker[worker];
    if (s->shortcut != NULL) {
        FGA_TRY(run_shortcut(s, y, rows, dst, worker));
    }
    fgv_conv_band band = {.dst = dst, .rows = rows};
    int64_t row_bytes = width * s->in * (int64_t)fgv_store_size(plan->store);
    for (int tap = 0; tap < s->taps && !s->doubled; tap++) {
        band.src[tap] = (const char *)s->src[tap] + (y - s->side / 2) * row_bytes;
    }
    if (s->doubled) {
        band.src[0] = double_rows(s, y, rows, plan->worker[worker] + plan->second_part);
    }
    FGA_TRY(fgv_conv_run(s->conv, &band, worker));
    if (s->picture != NULL) {
        store_picture(s, y, rows, dst);
    }
    if (s->sink.out != NULL) {
        size_t at = (size_t)(y * width * s->out) * fgv_store_size(plan->store);
        plan->kernels->normalise(&(fgv_vae_normalise){.x = dst,
                                                      .out = (char *)s->sink.out + at,
                                                      .gamma = s->sink.gamma,
                                                      .pixels = rows * width,
                                                      .channels = s->out,
                                                      .silu = s->sink.silu,
                                                      .store = plan->store});
    }
    return FGA_OK;
}

static void stage_body(void *argument, int64_t item, int worker)
{
    stage *s = argument;
    int64_t y = item * s->level->rows, left = s->level->height - y;
    fga_status status = run_band(s, y, left < s->level->rows ? left : s->level->rows, worker);
    if (status != FGA_OK) {
        atomic_store(&s->failure, (int)status);
    }
}

static fga_status run_stage(stage *s)
{
    fga_parallel_for(s->plan->ctx, (s->level->height + s->level->rows - 1) / s->level->rows, stage_body, s);
    fga_status status = (fga_status)atomic_load(&s->failure);
    if (status != FGA_OK) {
        return fga_context_fail(s->plan->ctx, status, "VAE: a convolution %lld -> %lld failed inside oneDNN",
                                (long long)s->in, (long long)s->out);
    }
    return FGA_OK;
}

static stage make_stage(const vae_plan *plan, const vae_level *level, const vae_conv *model, const fgv_conv *conv)
{
    return (stage){.plan = plan,
                   .level = level,
                   .conv = conv,
                   .in = model->in,
                   .out = model->out,
                   .taps = model->taps,
                   .side = model->side};
}

static void over_time(stage *s, const vae_layer *layer, const void *present)
{
    s->src[0] = layer->past[0];
    s->src[1] = layer->past[1];
    s->src[2] = present;
}

/* ---- resnets --------------------------------------------------------------------------------------------------- */

/* input: silu(norm1(x)), a fresh frame of conv1. *between: silu(norm2(conv1)), a fresh frame of conv2. */
static fga_status run_first_half(vae_plan *plan, const vae_level *level, vae_stack *stack, void *input, void **between)
{
    const vae_resnet *model = stack->model;
    *between = fresh(plan, &stack->conv2);
    stage s = make_stage(plan, level, &model->conv1, stack->conv1.conv);
    over_time(&s, &stack->conv1, input);
    s.sink = (sink){model->norm2, true, *between};
    FGA_TRY(run_stage(&s));
    pass(plan, &stack->conv1, input);
    return FGA_OK;
}

/* x_out = x + conv2(between); both are the same where there is no shortcut. */
static fga_status run_second_half(vae_plan *plan, const vae_level *level, vae_stack *stack, void *between,
                                  const float *x, float *x_out, sink next)
{
    const vae_resnet *model = stack->model;
    stage s = make_stage(plan, level, &model->conv2, stack->conv2.conv);
    over_time(&s, &stack->conv2, between);
    s.x = x_out;
    s.shortcut = stack->shortcut;
    s.x_before = x;
    s.shortcut_in = model->conv1.in;
    s.sink = next;
    FGA_TRY(run_stage(&s));
    pass(plan, &stack->conv2, between);
    return FGA_OK;
}

/* ---- attention of the middle block ------------------------------------------------------------------------------ */

typedef struct tiles {
    const vae_plan *plan;
    int64_t positions, channels;
    _Atomic int failure;
} tiles;

static fga_status attend_tile(const tiles *t, int64_t item, int worker)
{
    const vae_plan *plan = t->plan;
    int64_t at = item * FGV_VAE_TILE, left = t->positions - at, rows = left < FGV_VAE_TILE ? left : FGV_VAE_TILE;
    size_t size = fgv_store_size(plan->store), offset = (size_t)(at * t->channels) * size;
    float *scores = (float *)(void *)plan->worker[worker];
    float *out = (float *)(void *)(plan->worker[worker] + plan->second_part);
    float *sums = out + rows * t->channels;
    void *p = scores;
    if (plan->store == FGV_STORE_BF16) {
        p = sums + (rows + 15) / 16 * 16;
    }
    FGA_TRY(fgv_conv_scores(plan->products, rows, (const char *)plan->q + offset, plan->k, scores, worker));
    plan->kernels->softmax(&(fgv_vae_softmax){.scores = scores,
                                              .out = p,
                                              .sums = sums,
                                              .rows = rows,
                                              .keys = t->positions,
                                              .scale = (float)(1 / sqrt((double)t->channels)),
                                              .store = plan->store});
    FGA_TRY(fgv_conv_weighted(plan->products, rows, p, plan->v, out, worker));
    for (int64_t r = 0; r < rows; r++) {
        float inverse = 1.0f / sums[r];
        for (int64_t c = 0; c < t->channels; c++) {
            out[r * t->channels + c] *= inverse;
        }
    }
    plan->kernels->normalise(&(fgv_vae_normalise){
        .x = out, .out = (char *)plan->normed + offset, .pixels = rows, .channels = t->channels, .store = plan->store});
    return FGA_OK;
}

static void tile_body(void *argument, int64_t item, int worker)
{
    tiles *t = argument;
    fga_status status = attend_tile(t, item, worker);
    if (status != FGA_OK) {
        atomic_store(&t->failure, (int)status);
    }
}

/* plan->normed holds norm(x); adds to x and leaves `next` behind. */
static fga_status run_attention(vae_plan *plan, float *x, sink next)
{
    const vae_level *level = &plan->level[0];
    const vae_attention *model = &plan->vae->attention;
    const fgv_conv *const convs[] = {plan->query, plan->key, plan->value};
    void *const outs[] = {plan->q, plan->k, plan->v};
    for (int i = 0; i < 3; i++) {
        stage s = make_stage(plan, level, &model->proj, convs[i]);
        s.src[0] = plan->normed;
        s.sink.out = outs[i];
        FGA_TRY(run_stage(&s));
    }
    tiles t = {.plan = plan, .positions = level->height * level->width, .channels = level->in};
    fga_parallel_for(plan->ctx, (t.positions + FGV_VAE_TILE - 1) / FGV_VAE_TILE, tile_body, &t);
    fga_status status = (fga_status)atomic_load(&t.failure);
    if (status != FGA_OK) {
        return fga_context_fail(plan->ctx, status, "VAE: attention over %lld positions failed inside oneDNN",
                                (long long)t.positions);
    }
    stage s = make_stage(plan, level, &model->proj, plan->proj);
    s.src[0] = plan->normed;
    s.x = x;
    s.sink = next;
    return run_stage(&s);
}

/* ---- levels ---------------------------------------------------------------------------------------------------- */

static fga_status run_level(decoding *d, int index, void *input);

static fga_status put_out(decoding *d, void *input)
{
    vae_plan *plan = d->plan;
    stage s = make_stage(plan, &plan->level[plan->levels - 1], &plan->vae->conv_out, plan->conv_out.conv);
    over_time(&s, &plan->conv_out, input);
    s.picture = plan->picture;
    FGA_TRY(run_stage(&s));
    pass(plan, &plan->conv_out, input);
    if (!d->frame(d->user, d->frames++, plan->picture)) {
        return fga_context_fail(plan->ctx, FGA_ERR_INTERRUPTED, "VAE: decoding was stopped after %d frames", d->frames);
    }
    return FGA_OK;
}

/* Doubles plan->undoubled in height and width and takes it through the next level. */
static fga_status run_next_level(decoding *d, int index)
{
    vae_plan *plan = d->plan;
    vae_level *next = &plan->level[index + 1];
    void *input = fresh(plan, &next->stack[0].conv1);
    stage s = make_stage(plan, next, &plan->vae->block[index].resample, plan->level[index].resample);
    s.src[0] = plan->undoubled;
    s.doubled = true;
    s.x = plan->x[0];
    s.sink = (sink){next->stack[0].model->norm1, true, input};
    FGA_TRY(run_stage(&s));
    return run_level(d, index + 1, input);
}

/* Two frames for the one in `input`; both are made from it and the same past. */
static fga_status double_time(decoding *d, int index, void *input)
{
    vae_plan *plan = d->plan;
    vae_level *level = &plan->level[index];
    const fgv_conv *const convs[] = {level->time.conv, level->second};
    for (int i = 0; i < 2; i++) {
        stage s = make_stage(plan, level, &plan->vae->block[index].time, convs[i]);
        s.out = level->out;
        over_time(&s, &level->time, input);
        s.sink.out = plan->undoubled;
        FGA_TRY(run_stage(&s));
        FGA_TRY(run_next_level(d, index));
    }
    pass(plan, &level->time, input);
    return FGA_OK;
}

/* input: silu(norm1(x)) of the level's first resnet, with x in plan->x[0]. */
static fga_status run_level(decoding *d, int index, void *input)
{
    vae_plan *plan = d->plan;
    vae_level *level = &plan->level[index];
    bool last = index == plan->levels - 1;
    /* The video's first frame is neither doubled nor seen by the convolution that doubles the later ones. */
    bool doubles = level->doubles_time && level->started;
    level->started = true;
    float *x = plan->x[0];
    for (int i = 0; i < level->stacks; i++) {
        vae_stack *stack = &level->stack[i];
        void *between;
        FGA_TRY(run_first_half(plan, level, stack, input, &between));
        bool attends = index == 0 && i == 0;
        sink next = {0};
        if (attends) {
            next = (sink){plan->vae->attention.norm, false, plan->normed};
        } else if (i + 1 < level->stacks) {
            next = (sink){level->stack[i + 1].model->norm1, true, fresh(plan, &level->stack[i + 1].conv1)};
        } else if (last) {
            next = (sink){plan->vae->norm_out, true, fresh(plan, &plan->conv_out)};
        } else {
            next.out = doubles ? fresh(plan, &level->time) : plan->undoubled;
        }
        float *x_out = stack->shortcut != NULL ? plan->x[1] : x;
        FGA_TRY(run_second_half(plan, level, stack, between, x, x_out, next));
        x = x_out;
        if (attends) {
            next = (sink){level->stack[1].model->norm1, true, fresh(plan, &level->stack[1].conv1)};
            FGA_TRY(run_attention(plan, x, next));
        }
        input = next.out;
    }
    if (last) {
        return put_out(d, input);
    }
    return doubles ? double_time(d, index, input) : run_next_level(d, index);
}

/* ---- latents --------------------------------------------------------------------------------------------------- */

typedef struct latent_frame {
    const vae_plan *plan;
    const float *latents; /* [channels][plane] of all frames, at this frame's first value */
    int64_t stride;       /* between channels */
    void *out;
} latent_frame;

/* post_quant(latent * deviation + mean), a row of pixels at a time. */
static void latent_row(void *argument, int64_t y, int worker)
{
    (void)worker;
    const latent_frame *l = argument;
    const fgv_vae *vae = l->plan->vae;
    int64_t width = l->plan->level[0].width;
    char *out = (char *)l->out + (size_t)(y * width * vae->latent) * fgv_store_size(l->plan->store);
    for (int64_t x = 0; x < width; x++) {
        float z[FGV_VAE_MAX_LATENT], pixel[FGV_VAE_MAX_LATENT];
        for (int c = 0; c < vae->latent; c++) {
            z[c] = l->latents[c * l->stride + y * width + x] * vae->deviation[c] + vae->mean[c];
        }
        for (int o = 0; o < vae->latent; o++) {
            float sum = vae->post_quant_bias[o];
            for (int c = 0; c < vae->latent; c++) {
                sum += vae->post_quant_weight[o * vae->latent + c] * z[c];
            }
            pixel[o] = sum;
        }
        l->plan->kernels->normalise(&(fgv_vae_normalise){
            .x = pixel, .out = out, .pixels = 1, .channels = vae->latent, .store = l->plan->store});
        out += (size_t)vae->latent * fgv_store_size(l->plan->store);
    }
}

static fga_status decode_latent_frame(decoding *d, const float *latents, int64_t stride)
{
    vae_plan *plan = d->plan;
    vae_level *level = &plan->level[0];
    void *z = fresh(plan, &plan->conv_in), *input = fresh(plan, &level->stack[0].conv1);
    latent_frame l = {plan, latents, stride, z};
    fga_parallel_for(plan->ctx, level->height, latent_row, &l);
    stage s = make_stage(plan, level, &plan->vae->conv_in, plan->conv_in.conv);
    over_time(&s, &plan->conv_in, z);
    s.x = plan->x[0];
    s.sink = (sink){level->stack[0].model->norm1, true, input};
    FGA_TRY(run_stage(&s));
    pass(plan, &plan->conv_in, z);
    return run_level(d, 0, input);
}

/* ---- the public part ------------------------------------------------------------------------------------------- */

#define MAX_LATENT_SIDE 4096
#define ONEDNN_BYTES (4u << 20) /* its generated code and descriptions, about */

static fgv_store store_for(const fgv_vae *vae, fga_dtype compute)
{
    return compute != FGA_BF16 ? FGV_STORE_F32 : vae->native_bf16 ? FGV_STORE_BF16 : FGV_STORE_ROUNDED;
}

uint64_t fgv_vae_memory(const fgv_vae *vae, fga_dtype compute, int h, int w)
{
    vae_plan *plan;
    if (h < 1 || w < 1 || h > MAX_LATENT_SIDE || w > MAX_LATENT_SIDE ||
        fgv_vae_plan_create(vae, store_for(vae, compute), h, w, true, &plan) != FGA_OK) {
        return 0;
    }
    uint64_t bytes = plan->total_bytes + vae->weight_bytes + ONEDNN_BYTES;
    fgv_vae_plan_destroy(&plan);
    return bytes;
}

fga_status fgv_vae_run(fgv_vae *vae, fga_dtype compute, const float *latents, int t, int h, int w, frame_callback frame,
                       void *user)
{
    if (t < 1 || h < 1 || w < 1 || h > MAX_LATENT_SIDE || w > MAX_LATENT_SIDE || t > INT32_MAX / 64) {
        return fga_context_fail(vae->ctx, FGA_ERR_ARGUMENT, "VAE: latents of %d frames, %d x %d, want 1 to %d a side",
                                t, h, w, MAX_LATENT_SIDE);
    }
    if (compute != FGA_F32 && compute != FGA_BF16) {
        return fga_context_fail(vae->ctx, FGA_ERR_UNSUPPORTED, "VAE: computes in f32 or bf16, not %s",
                                fga_dtype_name(compute));
    }
    decoding d = {.frame = frame, .user = user};
    FGA_TRY(fgv_vae_plan_create(vae, store_for(vae, compute), h, w, false, &d.plan));
    int64_t plane = (int64_t)h * w;
    fga_status status = FGA_OK;
    for (int i = 0; i < t && status == FGA_OK; i++) {
        status = decode_latent_frame(&d, latents + i * plane, t * plane);
    }
    fgv_vae_plan_destroy(&d.plan);
    return status;
}
