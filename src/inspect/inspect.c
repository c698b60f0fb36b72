#include "inspect/inspect.h"

#include "base/context.h"
#include "base/half.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

fga_inspect_desc fga_inspect_desc_default(void)
{
    return (fga_inspect_desc){.size = sizeof(fga_inspect_desc)};
}

fga_status fga_inspect_alloc(const fga_inspect *in, int64_t count, size_t bytes, void *out)
{
    size_t total = 0;
    void *memory = fga_size_add(&total, count > 0 ? count : 1, bytes) ? fga_alloc(in->ctx, total) : NULL;
    memcpy(out, &memory, sizeof memory);
    return memory != NULL ? FGA_OK
                          : fga_context_fail(in->ctx, FGA_ERR_MEMORY,
                                             "inspecting %" PRId64 " tokens: no memory for %" PRId64 " x %zu bytes",
                                             in->tokens, count, bytes);
}

/* ---- portions ------------------------------------------------------------------------------------ */

typedef struct portion {
    void (*body)(void *arg, int64_t item, int worker);
    void *arg;
    int64_t first;
} portion;

static void run_item(void *arg, int64_t item, int worker)
{
    const portion *p = arg;
    p->body(p->arg, p->first + item, worker);
}

fga_status fga_inspect_go_on(const fga_inspect *in)
{
    bool go_on = in->desc.keep_going == NULL || in->desc.keep_going(in->desc.user);
    return go_on ? FGA_OK : fga_context_fail(in->ctx, FGA_ERR_INTERRUPTED, "stopped while inspecting");
}

fga_status fga_inspect_for(const fga_inspect *in, int64_t items, void (*body)(void *arg, int64_t item, int worker),
                           void *arg)
{
    int64_t size = 4 * (int64_t)fga_context_threads(in->ctx);
    for (int64_t first = 0; first < items; first += size) {
        FGA_TRY(fga_inspect_go_on(in));
        portion p = {body, arg, first};
        fga_parallel_for(in->ctx, fga_min(size, items - first), run_item, &p);
    }
    return FGA_OK;
}

/* ---- create, destroy ----------------------------------------------------------------------------- */

static fga_status check(fga_context *ctx, const fga_inspect_desc *d)
{
    FGA_TRY(fga_check_struct(ctx, "fga_inspect_desc", d->size, sizeof *d));
    FGA_TRY(fga_check_range(ctx, "frames", d->frames, 1, FGA_MAX_TOKENS));
    FGA_TRY(fga_check_range(ctx, "height", d->height, 1, FGA_MAX_TOKENS / d->frames));
    FGA_TRY(fga_check_range(ctx, "width", d->width, 1, FGA_MAX_TOKENS / d->frames / d->height));
    FGA_TRY(fga_check_range(ctx, "sample_blocks", d->sample_blocks, 0, FGA_MAX_TOKENS));
    FGA_TRY(fga_check_heads(ctx, 1, d->q.extent[1], d->k.extent[1]));
    FGA_TRY(fga_check_head_dim(ctx, d->q.extent[3], d->q.dtype));
    if (!(d->scale >= 0 && isfinite(d->scale))) {
        return fga_context_fail(ctx, FGA_ERR_ARGUMENT, "scale is %g, wanted above 0, or 0 for head_dim^-0.5",
                                (double)d->scale);
    }
    int64_t tokens = d->frames * d->height * d->width;
    fga_shape q = {1, d->q.extent[1], tokens, d->q.extent[3], d->q.dtype};
    fga_shape k = {1, d->k.extent[1], tokens, d->q.extent[3], d->q.dtype};
    FGA_TRY(fga_check_tensor(ctx, "q", &d->q, &q));
    FGA_TRY(fga_check_tensor(ctx, "k", &d->k, &k));
    return fga_check_tensor(ctx, "v", &d->v, &k);
}

/* One tensor's tokens, gathered head by head. */
typedef struct gathering {
    fga_inspect *in;
    const fga_tensor *from;
    float *to;
    bool *bad; /* [heads]: something is not finite */
} gathering;

static void gather_head(void *arg, int64_t head, int worker)
{
    (void)worker;
    const gathering *g = arg;
    const fga_inspect *in = g->in;
    float *to = g->to + head * in->tokens * in->head_dim;
    bool good = true;
    for (int64_t i = 0; i < in->tokens; i++, to += in->head_dim) {
        fga_to_f32(to, fga_tensor_row(g->from, 0, head, in->raster[i]), g->from->dtype, in->head_dim);
        for (int64_t c = 0; c < in->head_dim; c++) {
            good &= isfinite(to[c]);
        }
    }
    g->bad[head] = !good;
}

static fga_status gather(fga_inspect *in, const char *name, const fga_tensor *from, float *to)
{
    bool *bad;
    FGA_TRY(fga_inspect_alloc(in, from->extent[1], sizeof *bad, &bad));
    gathering g = {in, from, to, bad};
    fga_parallel_for(in->ctx, from->extent[1], gather_head, &g);
    fga_status status = FGA_OK;
    for (int64_t head = 0; head < from->extent[1] && status == FGA_OK; head++) {
        if (bad[head]) {
            status =
                fga_context_fail(in->ctx, FGA_ERR_DATA, "%s of head %" PRId64 " is not finite everywhere", name, head);
        }
    }
    fga_free(in->ctx, bad);
    return status;
}

fga_status fga_inspect_create(fga_context *ctx, const fga_inspect_desc *desc, fga_inspect **out)
{
    if (desc == NULL || out == NULL) {
        return fga_context_fail(ctx, FGA_ERR_ARGUMENT, "%s is NULL", desc == NULL ? "desc" : "inspect");
    }
    *out = NULL;
    FGA_TRY(check(ctx, desc));
    fga_status status = FGA_OK;
    fga_inspect *in = fga_alloc(ctx, sizeof *in);
    if (in == NULL) {
        return fga_context_fail(ctx, FGA_ERR_MEMORY, "no memory to inspect an attention");
    }
    *in = (fga_inspect){.ctx = ctx,
                        .desc = *desc,
                        .query_heads = desc->q.extent[1],
                        .kv_heads = desc->k.extent[1],
                        .tokens = desc->frames * desc->height * desc->width,
                        .head_dim = desc->q.extent[3],
                        .scale = desc->scale > 0 ? desc->scale : (float)(1.0 / sqrt((double)desc->q.extent[3]))};
    int64_t row = in->tokens * in->head_dim;
    FGA_CHECK(fga_inspect_alloc(in, in->tokens, sizeof *in->raster, &in->raster));
    FGA_CHECK(fga_inspect_alloc(in, in->query_heads * row, sizeof *in->q, &in->q));
    FGA_CHECK(fga_inspect_alloc(in, in->kv_heads * row, sizeof *in->k, &in->k));
    FGA_CHECK(fga_inspect_alloc(in, in->kv_heads * row, sizeof *in->v, &in->v));
    FGA_CHECK(fga_inspect_arrange(in, FGA_ORDER_RASTER, FGA_INSPECT_UNIT)); /* sees whether all is finite */
    *out = in;
    in = NULL;
cleanup:
    fga_inspect_destroy(&in);
    return status;
}

static void drop_sample(fga_inspect *in)
{
    fga_free(in->ctx, in->sample.q);
    fga_free(in->ctx, in->sample.o);
    fga_free(in->ctx, in->sample.lse);
    in->sample = (fga_sample){0};
}

void fga_inspect_destroy(fga_inspect **inspect)
{
    if (inspect == NULL || *inspect == NULL) {
        return;
    }
    fga_inspect *in = *inspect;
    drop_sample(in);
    fga_free(in->ctx, in->raster);
    fga_free(in->ctx, in->q);
    fga_free(in->ctx, in->k);
    fga_free(in->ctx, in->v);
    fga_free(in->ctx, in);
    *inspect = NULL;
}

/* ---- order and sample ---------------------------------------------------------------------------- */

static fga_status bring_in_order(fga_inspect *in, fga_order order)
{
    const fga_inspect_desc *d = &in->desc;
    if (in->ordered && in->order == order) {
        return FGA_OK;
    }
    drop_sample(in);
    in->ordered = false;
    FGA_TRY(fga_order_build(in->ctx, order, d->frames, d->height, d->width, in->raster));
    FGA_TRY(gather(in, "q", &d->q, in->q));
    FGA_TRY(gather(in, "k", &d->k, in->k));
    FGA_TRY(gather(in, "v", &d->v, in->v));
    in->order = order;
    in->ordered = true;
    return FGA_OK;
}

static int64_t units_of(const fga_inspect *in, int64_t unit)
{
    int64_t all = fga_ceil_div(in->tokens, unit);
    int64_t wanted = fga_ceil_div(in->desc.sample_blocks * FGA_INSPECT_UNIT, unit);
    return in->desc.sample_blocks == 0 || wanted > all ? all : wanted;
}

/* The middles of equal parts of all blocks. */
static int64_t start_of(const fga_inspect *in, int64_t unit, int64_t units, int64_t r)
{
    return (2 * r + 1) * fga_ceil_div(in->tokens, unit) / (2 * units) * unit;
}

int64_t fga_sample_start(const fga_inspect *in, int64_t r)
{
    return start_of(in, in->sample.unit, in->sample.units, r);
}

int64_t fga_sample_rows(const fga_inspect *in, int64_t r)
{
    return fga_min(in->sample.unit, in->tokens - fga_sample_start(in, r));
}

int64_t fga_inspect_queries(const fga_inspect *in)
{
    int64_t units = units_of(in, FGA_INSPECT_UNIT), rows = 0;
    for (int64_t r = 0; r < units; r++) {
        rows += fga_min(FGA_INSPECT_UNIT, in->tokens - start_of(in, FGA_INSPECT_UNIT, units, r));
    }
    return rows;
}

static fga_status draw_sample(fga_inspect *in, int32_t unit)
{
    fga_sample *s = &in->sample;
    drop_sample(in);
    s->units = units_of(in, unit);
    for (int64_t r = 0; r < s->units; r++) {
        s->rows += fga_min(unit, in->tokens - start_of(in, unit, s->units, r));
    }
    int64_t rows = in->query_heads * s->rows, dim = in->head_dim;
    FGA_TRY(fga_inspect_alloc(in, rows * dim, sizeof *s->q, &s->q));
    FGA_TRY(fga_inspect_alloc(in, rows * dim, sizeof *s->o, &s->o));
    FGA_TRY(fga_inspect_alloc(in, rows, sizeof *s->lse, &s->lse));
    float *to = s->q;
    for (int64_t head = 0; head < in->query_heads; head++) {
        for (int64_t r = 0; r < s->units; r++) {
            int64_t start = start_of(in, unit, s->units, r), count = fga_min(unit, in->tokens - start) * dim;
            memcpy(to, in->q + (head * in->tokens + start) * dim, (size_t)count * sizeof *to);
            to += count;
        }
    }
    FGA_TRY(fga_inspect_attend(in, NULL, NULL, s->o, s->lse));
    s->unit = unit;
    return FGA_OK;
}

fga_status fga_inspect_arrange(fga_inspect *in, fga_order order, int32_t unit)
{
    FGA_TRY(bring_in_order(in, order));
    return in->sample.unit == unit ? FGA_OK : draw_sample(in, unit);
}

fga_attend_desc fga_inspect_attend_desc(const fga_inspect *in, const fga_mask *mask)
{
    fga_attend_desc desc = fga_attend_desc_default();
    desc.batch = 1;
    desc.query_heads = in->query_heads;
    desc.kv_heads = in->kv_heads;
    desc.query_len = in->sample.rows;
    desc.key_len = in->tokens;
    desc.head_dim = in->head_dim;
    desc.dtype = FGA_F32;
    desc.scale = in->scale;
    if (mask != NULL) {
        desc.block_m = mask->desc.block_m;
        desc.tile_n = mask->desc.tile_n;
    }
    return desc;
}

fga_attend_args fga_inspect_attend_args(const fga_inspect *in)
{
    fga_attend_args args = fga_attend_args_default();
    args.q = fga_tensor_bhsd(in->sample.q, FGA_F32, 1, in->query_heads, in->sample.rows, in->head_dim);
    args.k = fga_tensor_bhsd(in->k, FGA_F32, 1, in->kv_heads, in->tokens, in->head_dim);
    args.v = fga_tensor_bhsd(in->v, FGA_F32, 1, in->kv_heads, in->tokens, in->head_dim);
    return args;
}

fga_status fga_inspect_attend(fga_inspect *in, const fga_mask *mask, const fga_remainder *remainder, float *o,
                              float *lse)
{
    fga_attend_desc desc = fga_inspect_attend_desc(in, mask);
    fga_attend_args args = fga_inspect_attend_args(in);
    args.o = fga_tensor_bhsd(o, FGA_F32, 1, in->query_heads, in->sample.rows, in->head_dim);
    args.lse = lse;
    args.mask = mask;
    args.remainder = remainder;
    fga_attend_plan plan;
    FGA_TRY(fga_attend_plan_init(in->ctx, &desc, &plan));
    void *workspace;
    FGA_TRY(fga_inspect_alloc(in, (int64_t)plan.workspace_bytes, 1, &workspace));
    fga_status status = fga_attend_run(&plan, &args, workspace, NULL);
    fga_free(in->ctx, workspace);
    return status;
}
