/* refresh_gpu.c - scores and selections on a CUDA context: from the caller's arguments to what the kernels take.
 * Nothing here waits for the device. */
#include "attn/refresh_gpu.h"

#include "base/context.h"

#include <inttypes.h>
#include <math.h>

fga_gpu_spans fga_gpu_spans_of(const fga_spans *spans)
{
    fga_gpu_spans s = {.count = spans->count};
    for (int i = 0; i < spans->count; i++) {
        s.begin[i] = (int32_t)spans->begin[i];
        s.end[i] = (int32_t)spans->end[i];
    }
    return s;
}

fga_status fga_gpu_rows_of(fga_context *ctx, const char *what, const fga_tensor *t, fga_gpu_rows *rows)
{
    static const char *const axes[3] = {"batch", "head", "token"};
    if ((uintptr_t)t->data % 16 != 0) {
        return fga_context_fail(ctx, FGA_ERR_UNSUPPORTED, "%s.data is %p, wanted a multiple of 16 on %s", what, t->data,
                                ctx->gpu.name);
    }
    for (int i = 0; i < 3; i++) {
        if (t->stride[i] % 8 != 0) {
            return fga_context_fail(ctx, FGA_ERR_UNSUPPORTED,
                                    "%s has %s stride %" PRId64 ", wanted a multiple of 8 on %s", what, axes[i],
                                    t->stride[i], ctx->gpu.name);
        }
    }
    if (t->stride[2] < 0 || t->stride[2] > INT32_MAX) { /* kernels multiply 32 bits */
        return fga_context_fail(ctx, FGA_ERR_UNSUPPORTED,
                                "%s has token stride %" PRId64 ", wanted 0 ... 2147483647 on %s", what, t->stride[2],
                                ctx->gpu.name);
    }
    *rows = (fga_gpu_rows){t->data, t->stride[0], t->stride[1], t->stride[2]};
    return FGA_OK;
}

/* ---- plan ----------------------------------------------------------------------------------------- */

static fga_status check_score(fga_context *ctx, const fga_predict_desc *d)
{
    bool known = d->score == FGA_SCORE_MASS || d->score == FGA_SCORE_LSE || d->score == FGA_SCORE_MEAN ||
                 d->score == FGA_SCORE_DEVIATION;
    if (!known) {
        return fga_context_fail(ctx, FGA_ERR_UNSUPPORTED, "score is %d, wanted mass, lse, mean or deviation on %s",
                                (int)d->score, ctx->gpu.name);
    }
    if (d->zero_pad || d->gate_q > 0 || d->gate_k > 0) {
        return fga_context_fail(ctx, FGA_ERR_UNSUPPORTED, "%s is set, which scores on %s do not know",
                                d->zero_pad ? "zero_pad" : "a gate", ctx->gpu.name);
    }
    return FGA_OK;
}

static fga_gpu_rule rule_of(const fga_policy *policy)
{
    return policy->select == FGA_SELECT_BUDGET      ? FGA_GPU_BUDGET
           : policy->select == FGA_SELECT_THRESHOLD ? FGA_GPU_OVER
           : policy->select == FGA_SELECT_ADAPTIVE  ? FGA_GPU_ADAPTIVE
                                                    : FGA_GPU_BEST;
}

fga_status fga_refresh_gpu_init(fga_context *ctx, const fga_predict_desc *d, const fga_policy *policy,
                                fga_gpu_refresh_plan *plan)
{
    FGA_TRY(fga_predict_check(ctx, d));
    FGA_TRY(check_score(ctx, d));
    fga_spans query = fga_spans_valid(&d->query), key = fga_spans_valid(&d->key);
    bool mean = d->score == FGA_SCORE_MEAN;
    fga_gpu_refresh shape = {
        .score = d->score == FGA_SCORE_DEVIATION ? FGA_GPU_DEVIATION
                 : d->score == FGA_SCORE_LSE     ? FGA_GPU_LSE
                                                 : FGA_GPU_MASS,
        .dtype = d->dtype,
        .batch = (int32_t)d->batch,
        .query_heads = (int32_t)d->query_heads,
        .kv_heads = (int32_t)d->kv_heads,
        .query_len = (int32_t)fga_sequence_length(&d->query),
        .key_len = (int32_t)fga_sequence_length(&d->key),
        .head_dim = (int32_t)d->head_dim,
        .block_m = d->block_m,
        .tile_n = d->tile_n,
        .sub_q = mean ? d->block_m : (int32_t)fga_min(d->sub_q, d->block_m),
        .sub_k = mean ? d->tile_n : (int32_t)fga_min(d->sub_k, d->tile_n),
        .group = d->group,
        .rule = policy != NULL ? rule_of(policy) : FGA_GPU_BEST,
        .full_covariance = policy != NULL && policy->full_covariance,
        .scale = d->scale != 0 ? d->scale : 1.0f / sqrtf((float)d->head_dim),
        .query_valid = fga_gpu_spans_of(&query),
        .key_valid = fga_gpu_spans_of(&key),
    };
    return fga_gpu_refresh_prepare(ctx, &shape, plan);
}

/* ---- masks ------------------------------------------------------------------------------------------ */

fga_status fga_mask_create_gpu(fga_context *ctx, const fga_mask_desc *desc, fga_mask **out)
{
    fga_mask *mask;
    FGA_TRY(fga_mask_create(ctx, desc, FGA_MASK_RUNS, &mask)); /* the arrays of which are the caller's to make */
    mask->storage = FGA_MASK_BITMAP;
    mask->pairs_kept = NAN;
    fga_status status = fga_gpu_mask_alloc(ctx, mask->rows, mask->words, &mask->gpu, &mask->gpu_pairs);
    if (status != FGA_OK) {
        fga_mask_release(&mask);
    }
    *out = mask;
    return status;
}

fga_status fga_mask_fetch(fga_context *ctx, const fga_mask *mask, fga_mask **copy)
{
    if (ctx == NULL || mask == NULL || copy == NULL) {
        return fga_context_fail(ctx, FGA_ERR_ARGUMENT, "%s is NULL",
                                ctx == NULL    ? "ctx"
                                : mask == NULL ? "mask"
                                               : "copy");
    }
    *copy = NULL;
    if (mask->gpu.memory == 0 || mask->gpu.cuda_context != ctx->gpu.cuda_context || mask->gpu.bits == NULL) {
        return fga_context_fail(ctx, FGA_ERR_ARGUMENT, "mask is not a bit map on this CUDA context");
    }
    fga_mask *host;
    FGA_TRY(fga_mask_create(ctx, &mask->desc, FGA_MASK_BITMAP, &host));
    fga_status status;
    FGA_CHECK(fga_gpu_read(ctx, host->bits, mask->gpu.bits, fga_mask_bitmap_bytes(host), ctx->stream));
    for (int64_t row = 0; row < host->rows; row++) {
        fga_mask_seal_row(host, row);
    }
    fga_mask_seal(host);
    FGA_CHECK(fga_mask_publish(ctx, host));
    *copy = host;
    host = NULL;
cleanup:
    fga_mask_release(&host);
    return status;
}

/* ---- selection ---------------------------------------------------------------------------------------- */

/* K of a row's tiles, as in select.c. */
static int32_t count_kept(const fga_mask *mask, double density)
{
    return (int32_t)fga_max(1, fga_min(mask->live_tiles, fga_round_count(density * (double)mask->live_tiles)));
}

static fga_gpu_select describe_select(const fga_policy *policy, fga_mask *mask)
{
    fga_selector s = fga_selector_make(policy, mask);
    fga_gpu_select a = {
        .bits = (uint64_t *)(uintptr_t)mask->gpu.bits, /* this mask's own: nobody else fills it */
        .row_keys = (int32_t *)(uintptr_t)mask->gpu.row_keys,
        .tiles = (int32_t)mask->tiles,
        .words = (int32_t)mask->words,
        .blocks = (int32_t)mask->blocks,
        .block_rows = mask->desc.block_m,
        .tile_keys = mask->desc.tile_n,
        .live = fga_gpu_spans_of(&mask->live),
        .text_tiles = fga_gpu_spans_of(&s.text_tiles),
        .video_tiles = fga_gpu_spans_of(&s.video_only),
        .live_tiles = (int32_t)mask->live_tiles,
        .query_valid = fga_gpu_spans_of(&mask->query_valid),
        .text_queries = fga_gpu_spans_of(&s.text_queries),
        .partial_count = mask->partial_tiles,
    };
    for (int i = 0; i < mask->partial_tiles; i++) {
        a.partial_tile[i] = (int32_t)mask->partial[i].tile;
        a.partial_missing[i] = (int32_t)mask->partial[i].missing;
    }
    return a;
}

static fga_status order_rows(fga_context *ctx, fga_mask *mask)
{
    int at_once = FGA_GPU_AT_ONCE(mask->desc.block_m);
    int32_t *row_order = (int32_t *)(uintptr_t)mask->gpu.row_order; /* this mask's own, like its bits */
    const fga_gpu_order order = {
        .bits = mask->gpu.bits,
        .row_keys = mask->gpu.row_keys,
        .company = at_once > 1 ? row_order + mask->rows : NULL,
        .row_order = row_order,
        .pairs = mask->gpu_pairs,
        .query_valid = fga_gpu_spans_of(&mask->query_valid),
        .rows = (int32_t)mask->rows,
        .words = (int32_t)mask->words,
        .blocks = (int32_t)mask->blocks,
        .block_rows = mask->desc.block_m,
        .at_once = at_once,
    };
    return fga_gpu_order_blocks(ctx, &order, ctx->stream);
}

/* What scores are to lie above, as in select.c; of adaptive selections the factor of a row's spread. */
static double number_of(const fga_policy *policy, const fga_head_setting *head, int64_t keys)
{
    return policy->select == FGA_SELECT_THRESHOLD  ? (double)(float)(head->threshold / (double)keys)
           : policy->select == FGA_SELECT_ADAPTIVE ? head->tau
                                                   : 0;
}

/* B of each batch item, as in select_budget.c: rows that choose are the same for all its heads. */
static void count_budgets(const fga_mask *mask, const fga_head_setting *heads, int64_t *budget)
{
    int64_t m = mask->desc.block_m, rows = 0;
    const fga_spans text = fga_spans_valid_text(&mask->desc.query);
    for (int64_t u = 0; u < mask->blocks; u++) {
        rows += fga_spans_count(&mask->query_valid, u * m, (u + 1) * m) > 0 &&
                fga_spans_count(&text, u * m, (u + 1) * m) == 0;
    }
    for (int64_t item = 0; item < mask->desc.batch; item++) {
        double density = 0;
        for (int64_t h = item * mask->desc.heads; h < (item + 1) * mask->desc.heads; h++) {
            density += heads[h].dense ? 0 : heads[h].density;
        }
        budget[item] = fga_round_count(density * (double)rows * (double)mask->live_tiles);
    }
}

fga_status fga_refresh_gpu_run(fga_context *ctx, const fga_gpu_refresh_plan *plan, const fga_policy *policy,
                               const fga_refresh_gpu_call *call)
{
    fga_mask *mask = call->mask;
    fga_gpu_refresh_call c = {.select = describe_select(policy, mask),
                              .keep = call->keep,
                              .neighbours = call->near,
                              .everything = call->everything,
                              .budget = call->budget,
                              .number = call->number,
                              .parts = call->parts != 0 ? call->parts : FGA_GPU_ALL_PARTS,
                              .workspace = call->workspace,
                              .stream = ctx->stream};
    FGA_TRY(fga_gpu_rows_of(ctx, "q", &call->args->q, &c.q));
    FGA_TRY(fga_gpu_rows_of(ctx, "k", &call->args->k, &c.k));
    FGA_TRY(fga_gpu_rows_of(ctx, "v", &call->args->v, &c.v));
    double share = 1; /* that a row keeps by itself */
    int64_t keys = fga_sequence_valid(&mask->desc.key);
    if (plan->shape.rule == FGA_GPU_BUDGET) {
        share = 0.25;
        count_budgets(mask, call->heads, call->budget);
    }
    for (int64_t h = 0; h < mask->desc.batch * mask->desc.heads; h++) {
        call->keep[h] = count_kept(mask, share * call->heads[h].density);
        call->number[h] = number_of(policy, &call->heads[h], keys);
        call->near[h] = call->heads[h].neighbours;
        call->everything[h] = call->heads[h].dense;
    }
    FGA_TRY(fga_gpu_refresh_launch(ctx, plan, &c));
    return order_rows(ctx, mask);
}

/* ---- the public stages ---------------------------------------------------------------------------------- */

fga_status fga_score_tiles_gpu(fga_context *ctx, const fga_predict_desc *d, const fga_score_call *call)
{
    fga_gpu_refresh_plan plan;
    FGA_TRY(fga_refresh_gpu_init(ctx, d, NULL, &plan));
    fga_shape queries = {d->batch, d->query_heads, fga_sequence_length(&d->query), d->head_dim, d->dtype};
    fga_shape keys = {d->batch, d->kv_heads, fga_sequence_length(&d->key), d->head_dim, d->dtype};
    fga_gpu_refresh_call c = {
        .select = {.tile_score = call->scores, .tiles = plan.tiles, .blocks = plan.blocks},
        .parts = FGA_GPU_ALL_PARTS,
        .workspace = call->workspace,
        .stream = ctx->stream,
    };
    FGA_TRY(fga_check_view(ctx, "q", call->q, &queries, FGA_DEVICE_CUDA));
    FGA_TRY(fga_check_view(ctx, "k", call->k, &keys, FGA_DEVICE_CUDA));
    FGA_TRY(fga_gpu_rows_of(ctx, "q", call->q, &c.q));
    FGA_TRY(fga_gpu_rows_of(ctx, "k", call->k, &c.k));
    if (d->score == FGA_SCORE_DEVIATION) {
        if (call->v == NULL) {
            return fga_context_fail(ctx, FGA_ERR_ARGUMENT, "v is NULL, wanted the values, for FGA_SCORE_DEVIATION");
        }
        FGA_TRY(fga_check_view(ctx, "v", call->v, &keys, FGA_DEVICE_CUDA));
        FGA_TRY(fga_gpu_rows_of(ctx, "v", call->v, &c.v));
    }
    FGA_TRY(fga_check_workspace(ctx, call->workspace, plan.workspace_bytes));
    return fga_gpu_refresh_launch(ctx, &plan, &c);
}

fga_status fga_select_topk_gpu(fga_context *ctx, const fga_mask_desc *desc, const float *scores, double density,
                               fga_mask **out)
{
    fga_mask *mask;
    FGA_TRY(fga_mask_create_gpu(ctx, desc, &mask));
    const fga_policy policy = {.size = sizeof policy, .select = FGA_SELECT_TOPK};
    fga_gpu_select a = describe_select(&policy, mask);
    a.score = scores;
    a.score_stride = mask->tiles;
    a.entries = a.tile_blocks = 1;
    a.head_tiles = a.blocks;
    a.head_end = (int32_t)(desc->batch * desc->heads);
    a.keep = count_kept(mask, density);
    fga_status status;
    FGA_CHECK(fga_gpu_select_rows(ctx, &a, mask->rows, ctx->stream));
    FGA_CHECK(order_rows(ctx, mask));
    *out = mask;
    mask = NULL;
cleanup:
    fga_mask_release(&mask);
    return status;
}
