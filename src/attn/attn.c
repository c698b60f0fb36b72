/* attn.c - the attention driver: query blocks of all heads as work items, each with its list of kept keys. */
#include "attn/attn.h"

#include "attn/remainder.h"
#include "base/context.h"

#include <assert.h>
#include <inttypes.h>
#include <math.h>
#include <string.h>

/* ---- plan --------------------------------------------------------------------------------------- */

fga_attend_desc fga_attend_desc_default(void)
{
    return (fga_attend_desc){.size = sizeof(fga_attend_desc), .batch = 1, .dtype = FGA_F32};
}

fga_attend_args fga_attend_args_default(void)
{
    return (fga_attend_args){.size = sizeof(fga_attend_args)};
}

static fga_status check_desc(fga_context *ctx, const fga_attend_desc *d)
{
    FGA_TRY(fga_check_struct(ctx, "fga_attend_desc", d->size, sizeof *d));
    FGA_TRY(fga_check_heads(ctx, d->batch, d->query_heads, d->kv_heads));
    FGA_TRY(fga_check_range(ctx, "query_len", d->query_len, 0, FGA_MAX_TOKENS));
    FGA_TRY(fga_check_range(ctx, "key_len", d->key_len, 0, FGA_MAX_TOKENS));
    FGA_TRY(fga_check_head_dim(ctx, d->head_dim, d->dtype));
    if (!isfinite(d->scale)) {
        return fga_context_fail(ctx, FGA_ERR_ARGUMENT, "scale is %g, wanted a finite number, or 0 for head_dim^-0.5",
                                (double)d->scale);
    }
    if (d->block_m != 0 || d->tile_n != 0) {
        FGA_TRY(fga_check_block_m(ctx, d->block_m));
        FGA_TRY(fga_check_tile_n(ctx, d->tile_n));
    }
    return FGA_OK;
}

fga_status fga_select_ops(fga_context *ctx, fga_ops *ops)
{
    FGA_TRY(fga_check_cpu(ctx, "this operator"));
    fga_status status = fga_ops_select(ctx->options.variant, ops);
    if (status == FGA_ERR_UNSUPPORTED) {
        return fga_context_fail(ctx, status, "this machine cannot run variant %s", ctx->options.variant);
    }
    if (status != FGA_OK) {
        return fga_context_fail(ctx, status, "there is no variant %s",
                                ctx->options.variant != NULL ? ctx->options.variant : "at all");
    }
    return FGA_OK;
}

/* Of one worker, in the caller's workspace; whole cache lines, so that workers do not share any. */
typedef struct tally {
    int64_t listed;    /* which (batch, key head) the dense key list is of; -1: none */
    int64_t count;     /* keys in it */
    int64_t rows;      /* sum over items of valid queries * keys */
    int64_t summaries; /* sum over items of valid queries * groups with a summary */
    int64_t spare[4];
} tally;

fga_status fga_attend_plan_init(fga_context *ctx, const fga_attend_desc *desc, fga_attend_plan *plan)
{
    if (ctx == NULL) {
        return FGA_ERR_ARGUMENT;
    }
    FGA_TRY(check_desc(ctx, desc));
    *plan = (fga_attend_plan){.ctx = ctx, .desc = *desc};
    fga_attend_desc *d = &plan->desc;
    if (d->scale == 0) {
        d->scale = 1.0f / sqrtf((float)d->head_dim);
    }
    if (ctx->options.device == FGA_DEVICE_CUDA) {
        FGA_TRY(fga_gpu_attend_prepare(ctx, d, &plan->gpu));
        plan->rows = plan->gpu.rows;
        assert(plan->rows > 0);
        plan->blocks = fga_ceil_div(d->query_len, plan->rows);
        plan->workspace_bytes = plan->gpu.workspace_bytes;
        return FGA_OK;
    }
    FGA_TRY(fga_select_ops(ctx, &plan->ops));
    if (plan->ops.attend[d->dtype] == NULL) {
        return fga_context_fail(ctx, FGA_ERR_UNSUPPORTED, "variant %s has no attention on %s", plan->ops.name,
                                fga_dtype_name(d->dtype));
    }
    plan->rows = d->block_m != 0 ? d->block_m : plan->ops.block_rows[d->dtype];
    assert(plan->rows > 0);
    if (plan->rows > plan->ops.max_rows) {
        return fga_context_fail(ctx, FGA_ERR_UNSUPPORTED, "block_m is %d, but variant %s takes at most %d", plan->rows,
                                plan->ops.name, plan->ops.max_rows);
    }
    plan->blocks = fga_ceil_div(d->query_len, plan->rows);
    plan->items = d->batch * d->query_heads * plan->blocks;
    plan->key_list_bytes = (size_t)fga_ceil_div(d->key_len, 16) * 64;
    plan->scratch_bytes = plan->ops.attend_scratch[d->dtype](plan->rows, (int32_t)d->head_dim, d->dtype);
    plan->scratch_bytes = (plan->scratch_bytes + 63) / 64 * 64;
    int64_t threads = fga_context_threads(ctx);
    size_t bytes = 0;
    if (plan->items > UINT32_MAX || !fga_size_add(&bytes, plan->items, sizeof(uint32_t)) ||
        !fga_size_add(&bytes, threads, sizeof(tally)) ||
        !fga_size_add(&bytes, threads, plan->key_list_bytes + plan->scratch_bytes)) {
        return fga_context_fail(ctx, FGA_ERR_UNSUPPORTED,
                                "batch %" PRId64 " x %" PRId64 " heads x %" PRId64
                                " queries is more than one run takes",
                                d->batch, d->query_heads, d->query_len);
    }
    plan->workspace_bytes = bytes;
    return FGA_OK;
}

fga_status fga_attend_plan_create(fga_context *ctx, const fga_attend_desc *desc, fga_attend_plan **out)
{
    if (ctx == NULL || desc == NULL || out == NULL) {
        return fga_context_fail(ctx, FGA_ERR_ARGUMENT, "%s is NULL",
                                ctx == NULL    ? "ctx"
                                : desc == NULL ? "desc"
                                               : "plan");
    }
    *out = NULL;
    fga_attend_plan *plan = fga_alloc(ctx, sizeof *plan);
    if (plan == NULL) {
        return fga_context_fail(ctx, FGA_ERR_MEMORY, "no memory for an attention plan");
    }
    fga_status status = fga_attend_plan_init(ctx, desc, plan);
    if (status != FGA_OK) {
        fga_free(ctx, plan);
        return status;
    }
    *out = plan;
    return FGA_OK;
}

void fga_attend_plan_destroy(fga_attend_plan **plan)
{
    if (plan != NULL && *plan != NULL) {
        fga_free((*plan)->ctx, *plan);
        *plan = NULL;
    }
}

size_t fga_attend_plan_workspace(const fga_attend_plan *plan)
{
    return plan->workspace_bytes;
}

const char *fga_attend_plan_variant(const fga_attend_plan *plan)
{
    return plan->gpu.variant != NULL ? plan->gpu.variant : plan->ops.attend_variant[plan->desc.dtype];
}

/* ---- run ---------------------------------------------------------------------------------------- */

typedef struct run {
    const fga_attend_plan *plan;
    const fga_attend_args *args;
    const fga_mask *mask;
    fga_spans queries, keys; /* valid ones */
    uint32_t *order;         /* [items] */
    tally *tallies;          /* [threads] */
    char *lists;             /* [threads][key_list_bytes + scratch_bytes] */
} run;

typedef struct place {
    int64_t b, h, u;
} place;

static place place_of(const fga_attend_plan *plan, int64_t item)
{
    int64_t head = item / plan->blocks;
    return (place){head / plan->desc.query_heads, head % plan->desc.query_heads, item % plan->blocks};
}

static int64_t mask_row(const run *r, place at)
{
    return fga_mask_row(r->mask, at.b, at.h, at.u);
}

static const float *bias_of(const run *r, int64_t b, int64_t kv_head)
{
    const fga_attend_args *a = r->args;
    return a->key_bias == NULL ? NULL : a->key_bias + b * a->bias_batch_stride + kv_head * a->bias_head_stride;
}

static int64_t valid_queries(const run *r, int64_t u)
{
    return fga_spans_count(&r->queries, u * r->plan->rows, (u + 1) * r->plan->rows);
}

static int64_t without_minus_infinity(const float *bias, uint32_t *keys, int64_t count)
{
    int64_t kept = 0;
    for (int64_t i = 0; i < count; i++) {
        uint32_t key = keys[i];
        keys[kept] = key;
        kept += bias[key] != -INFINITY;
    }
    return kept;
}

/* Writes the keys that the block attends to; returns how many. Dense lists differ only in the key head's bias, so a
 * worker keeps its last one. */
static int64_t list_keys(const run *r, place at, int64_t kv_head, tally *t, uint32_t *keys)
{
    const float *bias = bias_of(r, at.b, kv_head);
    if (r->mask != NULL) {
        int64_t count = fga_mask_list_keys(r->mask, mask_row(r, at), &r->keys, keys);
        return bias != NULL ? without_minus_infinity(bias, keys, count) : count;
    }
    if (valid_queries(r, at.u) == 0) {
        return 0;
    }
    int64_t wanted = bias != NULL ? at.b * r->plan->desc.kv_heads + kv_head : 0;
    if (t->listed != wanted) {
        t->count = 0;
        for (int i = 0; i < r->keys.count; i++) {
            for (int64_t key = r->keys.begin[i]; key < r->keys.end[i]; key++) {
                keys[t->count++] = (uint32_t)key;
            }
        }
        if (bias != NULL) {
            t->count = without_minus_infinity(bias, keys, t->count);
        }
        t->listed = wanted;
    }
    return t->count;
}

/* Groups that op attends to through a summary. */
static int64_t count_summaries(const fga_attend_op *op)
{
    int64_t summaries = 0, at = 0;
    for (int64_t group = 0; group < op->summaries->groups; group++) {
        int64_t listed = fga_group_listed(op, group, at);
        summaries += op->summaries->count[group] > (float)listed;
        at += listed;
    }
    return summaries;
}

static void attend_block(void *arg, int64_t i, int worker)
{
    const run *r = arg;
    const fga_attend_plan *plan = r->plan;
    const fga_attend_desc *d = &plan->desc;
    const fga_attend_args *a = r->args;
    place at = place_of(plan, r->order[i]);
    int64_t kv_head = at.h / (d->query_heads / d->kv_heads), first = at.u * plan->rows;
    char *list = r->lists + (size_t)worker * (plan->key_list_bytes + plan->scratch_bytes);
    tally *t = &r->tallies[worker];
    int64_t count = list_keys(r, at, kv_head, t, (uint32_t *)list);
    int64_t queries = valid_queries(r, at.u);
    t->rows += queries * count;
    fga_attend_op op = {
        .q = fga_tensor_row(&a->q, at.b, at.h, first),
        .k = fga_tensor_row(&a->k, at.b, kv_head, 0),
        .v = fga_tensor_row(&a->v, at.b, kv_head, 0),
        .o = fga_tensor_row(&a->o, at.b, at.h, first),
        .lse = a->lse != NULL ? a->lse + (at.b * d->query_heads + at.h) * d->query_len + first : NULL,
        .bias = bias_of(r, at.b, kv_head),
        .keys = (const uint32_t *)list,
        .q_stride = a->q.stride[2],
        .k_stride = a->k.stride[2],
        .v_stride = a->v.stride[2],
        .o_stride = a->o.stride[2],
        .key_count = count,
        .rows = (int32_t)fga_min(plan->rows, d->query_len - first),
        .head_dim = (int32_t)d->head_dim,
        .dtype = d->dtype,
        .scale = d->scale,
        .scratch = list + plan->key_list_bytes,
    };
    fga_summaries summaries;
    if (a->remainder != NULL && r->mask != NULL && queries > 0) {
        summaries = fga_remainder_head(a->remainder, d, at.b, kv_head);
        op.summaries = &summaries;
        t->summaries += queries * count_summaries(&op);
    }
    plan->ops.attend[d->dtype](&op);
}

/* Costly items first, so that the last ones to finish are short. Costs are told apart only coarsely: items of equal
 * class stay in their natural order, which keeps the blocks of a head together and its keys in the cache. */
static void order_items(run *r)
{
    enum { CLASSES = 16 };
    const fga_attend_plan *plan = r->plan;
    const fga_mask *mask = r->mask;
    if (mask == NULL) {
        for (int64_t i = 0; i < plan->items; i++) {
            r->order[i] = (uint32_t)i;
        }
        return;
    }
    int64_t most = 1, next[CLASSES + 1] = {0};
    for (int64_t row = 0; row < mask->rows; row++) {
        most = fga_max(most, mask->row_keys[row]);
    }
    for (int pass = 0; pass < 2; pass++) { /* count, then place */
        for (int64_t i = 0; i < plan->items; i++) {
            place at = place_of(plan, i);
            int64_t keys = mask->row_keys[mask_row(r, at)];
            int64_t class = CLASSES - 1 - keys * (CLASSES - 1) / most;
            if (pass == 0) {
                next[class + 1]++;
            } else {
                r->order[next[class]++] = (uint32_t)i;
            }
        }
        for (int class = 0; pass == 0 && class < CLASSES; class ++) {
            next[class + 1] += next[class];
        }
    }
}

fga_status fga_check_mask(fga_context *ctx, const fga_attend_desc *d, const fga_mask *mask)
{
    const fga_mask_desc *m = &mask->desc;
    if (m->block_m != d->block_m || m->tile_n != d->tile_n) {
        return fga_context_fail(ctx, FGA_ERR_ARGUMENT, "mask has tiles of %dx%d, wanted the plan's %dx%d", m->block_m,
                                m->tile_n, d->block_m, d->tile_n);
    }
    if ((m->batch != 1 && m->batch != d->batch) || (m->heads != 1 && m->heads != d->query_heads)) {
        return fga_context_fail(ctx, FGA_ERR_ARGUMENT,
                                "mask is of batch %" PRId64 " and %" PRId64 " heads, wanted 1 or %" PRId64
                                " and 1 or %" PRId64,
                                m->batch, m->heads, d->batch, d->query_heads);
    }
    if (fga_sequence_length(&m->query) != d->query_len || fga_sequence_length(&m->key) != d->key_len) {
        return fga_context_fail(ctx, FGA_ERR_ARGUMENT,
                                "mask is over %" PRId64 " queries and %" PRId64 " keys, wanted %" PRId64
                                " and %" PRId64,
                                fga_sequence_length(&m->query), fga_sequence_length(&m->key), d->query_len, d->key_len);
    }
    return FGA_OK;
}

fga_status fga_check_attend_args(fga_context *ctx, const fga_attend_desc *d, const fga_attend_args *a)
{
    fga_shape queries = {d->batch, d->query_heads, d->query_len, d->head_dim, d->dtype};
    fga_shape keys = {d->batch, d->kv_heads, d->key_len, d->head_dim, d->dtype};
    FGA_TRY(fga_check_struct(ctx, "fga_attend_args", a->size, sizeof *a));
    fga_device device = ctx->options.device;
    FGA_TRY(fga_check_view(ctx, "q", &a->q, &queries, device));
    FGA_TRY(fga_check_view(ctx, "k", &a->k, &keys, device));
    FGA_TRY(fga_check_view(ctx, "v", &a->v, &keys, device));
    FGA_TRY(fga_check_view(ctx, "o", &a->o, &queries, device));
    if (a->remainder != NULL) {
        FGA_TRY(fga_remainder_check(ctx, d, a->remainder));
    }
    return a->mask != NULL ? fga_check_mask(ctx, d, a->mask) : FGA_OK;
}

/* What dense attention would compute: valid queries times valid keys whose bias is not -inf. */
static double all_pairs(const run *r)
{
    const fga_attend_desc *d = &r->plan->desc;
    double pairs = 0;
    for (int64_t b = 0; b < d->batch; b++) {
        for (int64_t h = 0; h < d->kv_heads; h++) {
            const float *bias = bias_of(r, b, h);
            int64_t keys = fga_spans_count(&r->keys, 0, d->key_len);
            for (int i = 0; bias != NULL && i < r->keys.count; i++) {
                for (int64_t key = r->keys.begin[i]; key < r->keys.end[i]; key++) {
                    keys -= bias[key] == -INFINITY;
                }
            }
            pairs += (double)keys;
        }
    }
    int64_t group = d->query_heads / d->kv_heads;
    return pairs * (double)group * (double)fga_spans_count(&r->queries, 0, d->query_len);
}

fga_status fga_attend_execute(const fga_attend_plan *plan, const fga_attend_call *call)
{
    fga_context *ctx = plan->ctx;
    const fga_attend_desc *d = &plan->desc;
    if (call->pairs != NULL) {
        FGA_TRY(fga_check_cpu(ctx, "this use of attention"));
    }
    FGA_TRY(fga_check_attend_args(ctx, d, call->args));
    FGA_TRY(fga_check_workspace(ctx, call->workspace, plan->workspace_bytes));
    if (ctx->options.device == FGA_DEVICE_CUDA) {
        return fga_attend_run_gpu(plan, call, ctx->stream);
    }
    int threads = fga_context_threads(ctx);
    run r = {.plan = plan, .args = call->args, .mask = call->args->mask};
    if (r.mask != NULL) {
        r.queries = r.mask->query_valid;
        r.keys = r.mask->key_valid;
    } else {
        r.queries = call->query != NULL ? fga_spans_valid(call->query) : fga_spans_all(d->query_len);
        r.keys = call->key != NULL ? fga_spans_valid(call->key) : fga_spans_all(d->key_len);
    }
    r.tallies = call->workspace;
    r.lists = (char *)(r.tallies + threads);
    r.order = (uint32_t *)(r.lists + (size_t)threads * (plan->key_list_bytes + plan->scratch_bytes));
    for (int i = 0; i < threads; i++) {
        r.tallies[i] = (tally){.listed = -1};
    }
    order_items(&r);
    fga_parallel_for(ctx, plan->items, attend_block, &r);
    if (call->pairs != NULL) {
        *call->pairs = (fga_pairs){.all = all_pairs(&r)};
        for (int i = 0; i < threads; i++) {
            call->pairs->kept += (double)r.tallies[i].rows;
            call->pairs->summaries += (double)r.tallies[i].summaries;
        }
    }
    return FGA_OK;
}

fga_status fga_attend_run(fga_attend_plan *plan, const fga_attend_args *args, void *workspace, void *stream)
{
    if (plan == NULL || args == NULL) {
        return fga_context_fail(plan != NULL ? plan->ctx : NULL, FGA_ERR_ARGUMENT, "%s is NULL",
                                plan == NULL ? "plan" : "args");
    }
    const fga_attend_call call = {.args = args, .workspace = workspace};
    if (plan->ctx->options.device == FGA_DEVICE_CUDA) {
        FGA_TRY(fga_check_attend_args(plan->ctx, &plan->desc, args));
        FGA_TRY(fga_check_workspace(plan->ctx, workspace, plan->workspace_bytes));
        return fga_attend_run_gpu(plan, &call, stream);
    }
    return fga_attend_execute(plan, &call);
}
