/* score.c - what a block's key tiles are worth: from means of sub-tiles, or from every key (docs/method.md, "Scores").
 */
#include "attn/score.h"

#include "attn/refresh_gpu.h"
#include "base/context.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

static const double log2_e = 1.44269504088896340736;

fga_predict_desc fga_predict_desc_default(void)
{
    return (fga_predict_desc){.size = sizeof(fga_predict_desc),
                              .batch = 1,
                              .query_heads = 1,
                              .kv_heads = 1,
                              .head_dim = 128,
                              .block_m = 128,
                              .tile_n = 128,
                              .sub_q = 16,
                              .sub_k = 16,
                              .score = FGA_SCORE_MASS,
                              .group = 64};
}

int64_t fga_predict_blocks(const fga_predict_desc *desc)
{
    return desc->block_m > 0 ? fga_ceil_div(fga_sequence_length(&desc->query), desc->block_m) : 0;
}

int64_t fga_predict_tiles(const fga_predict_desc *desc)
{
    return desc->tile_n > 0 ? fga_ceil_div(fga_sequence_length(&desc->key), desc->tile_n) : 0;
}

/* ---- plan ----------------------------------------------------------------------------------------- */

fga_status fga_predict_check(fga_context *ctx, const fga_predict_desc *d)
{
    FGA_TRY(fga_check_struct(ctx, "fga_predict_desc", d->size, sizeof *d));
    FGA_TRY(fga_check_heads(ctx, d->batch, d->query_heads, d->kv_heads));
    FGA_TRY(fga_check_head_dim(ctx, d->head_dim, d->dtype));
    FGA_TRY(fga_check_sequence(ctx, "query", &d->query));
    FGA_TRY(fga_check_sequence(ctx, "key", &d->key));
    FGA_TRY(fga_check_block_m(ctx, d->block_m));
    FGA_TRY(fga_check_tile_n(ctx, d->tile_n));
    FGA_TRY(fga_check_range(ctx, "sub_q", d->sub_q, 1, 192));
    FGA_TRY(fga_check_range(ctx, "sub_k", d->sub_k, 1, 192));
    if (!isfinite(d->scale)) {
        return fga_context_fail(ctx, FGA_ERR_ARGUMENT, "scale is %g, wanted a finite number, or 0 for head_dim^-0.5",
                                (double)d->scale);
    }
    if ((unsigned)d->score > FGA_SCORE_EXACT_MASS) {
        return fga_context_fail(ctx, FGA_ERR_ARGUMENT, "score is %d, wanted one of fga_score", (int)d->score);
    }
    if (d->score == FGA_SCORE_DEVIATION && (d->group < 8 || d->group > 256 || (d->group & (d->group - 1)) != 0)) {
        return fga_context_fail(ctx, FGA_ERR_ARGUMENT, "group is %d, wanted 8, 16, 32, 64, 128 or 256", (int)d->group);
    }
    if (!(d->gate_q >= 0 && d->gate_q <= 1) || !(d->gate_k >= 0 && d->gate_k <= 1)) {
        return fga_context_fail(ctx, FGA_ERR_ARGUMENT, "gate_q is %g and gate_k %g, wanted 0 ... 1", d->gate_q,
                                d->gate_k);
    }
    if (d->zero_pad && d->score >= FGA_SCORE_SECOND_ORDER) {
        return fga_context_fail(ctx, FGA_ERR_ARGUMENT,
                                "zero_pad is set, wanted a score of means only: mass, lse, max or mean");
    }
    return FGA_OK;
}

/* Sub-tiles of keys per head: whole tiles, and under zero_pad the last one is whole too. */
static int64_t count_sub_keys(const fga_scorer *s)
{
    const fga_predict_desc *d = &s->desc;
    int64_t keys = d->zero_pad ? s->tiles * d->tile_n : fga_sequence_length(&d->key), whole = keys / d->tile_n;
    return whole * fga_ceil_div(d->tile_n, s->sub_k) + fga_ceil_div(keys % d->tile_n, s->sub_k);
}

static void set_sub_tiles(fga_scorer *s)
{
    const fga_predict_desc *d = &s->desc;
    bool means = d->score == FGA_SCORE_MEAN;
    s->exact = d->score == FGA_SCORE_EXACT_MAX || d->score == FGA_SCORE_EXACT_MASS;
    s->second_order = d->score == FGA_SCORE_SECOND_ORDER;
    s->sub_q = s->exact ? 1 : means ? d->block_m : (int32_t)fga_min(d->sub_q, d->block_m);
    s->sub_k = s->exact || d->score == FGA_SCORE_DEVIATION ? 1
               : means                                     ? d->tile_n
                                                           : (int32_t)fga_min(d->sub_k, d->tile_n);
    s->sub_keys = count_sub_keys(s);
    s->pooled_keys = !s->second_order && (s->sub_k > 1 || d->zero_pad);
    int32_t rows = (int32_t)fga_ceil_div(d->block_m, s->sub_q);
    s->item_blocks = (int32_t)fga_max(1, fga_min(s->ops.rank_rows / rows, s->blocks));
    s->item_rows = s->item_blocks * rows;
    s->bias_heads = d->gate_k > 0 && !s->exact ? d->batch * d->kv_heads : 1;
}

fga_status fga_scorer_init(fga_context *ctx, const fga_predict_desc *desc, fga_scorer *s)
{
    if (ctx == NULL) {
        return FGA_ERR_ARGUMENT;
    }
    FGA_TRY(fga_predict_check(ctx, desc));
    *s = (fga_scorer){.ctx = ctx, .desc = *desc};
    fga_status status = fga_ops_select(ctx->options.variant, &s->ops);
    if (status != FGA_OK) {
        return fga_context_fail(ctx, status, "this machine has no variant %s",
                                ctx->options.variant != NULL ? ctx->options.variant : "at all");
    }
    if (s->desc.scale == 0) {
        s->desc.scale = 1.0f / sqrtf((float)desc->head_dim);
    }
    s->query_valid = fga_spans_valid(&desc->query);
    s->key_valid = fga_spans_valid(&desc->key);
    s->blocks = fga_predict_blocks(desc);
    s->tiles = fga_predict_tiles(desc);
    set_sub_tiles(s);
    fga_score_keys key;
    fga_score_rows rows;
    bool fits =
        fga_score_keys_place(s, NULL, &s->key_bytes, &key) && fga_score_rows_place(s, NULL, &s->worker_bytes, &rows);
    s->workspace_bytes = s->key_bytes;
    if (!fits || !fga_size_add(&s->workspace_bytes, fga_context_threads(ctx), s->worker_bytes)) {
        return fga_context_fail(ctx, FGA_ERR_UNSUPPORTED, "%" PRId64 " keys are more than one score takes",
                                fga_sequence_length(&desc->key));
    }
    return FGA_OK;
}

/* ---- run ------------------------------------------------------------------------------------------ */

/* Mean and spread of a block's raw logits over the tiles that take part: from the keys' moments, or from the row. */
static void describe_row(const fga_score_run *r, int64_t kv_head, const float *q, fga_scored_row *row)
{
    const fga_scorer *s = r->scorer;
    int64_t dim = s->desc.head_dim, count = 0;
    const double *mean = r->key.moments + kv_head * 2 * dim, *variance = mean + dim;
    double unit = (double)s->desc.scale * log2_e, centre = 0, square = 0;
    for (int64_t c = 0; c < dim; c++) {
        centre += q[c] * mean[c] * unit;
        square += q[c] * unit * q[c] * unit * variance[c];
    }
    if (s->raw_logits && s->full_covariance) {
        square = 0;
        for (int64_t v = 0; v < s->tiles; v++) {
            if (isfinite(row->scores[v])) { /* a tile without a valid key, or with a gate, is not */
                square += (row->scores[v] - centre) * (row->scores[v] - centre);
                count++;
            }
        }
        square = count > 0 ? square / (double)count : 0;
    }
    row->mean = (float)centre;
    row->spread = (float)sqrt(square + 1e-6);
}

static void fill(float *score, int64_t count, float value)
{
    for (int64_t i = 0; i < count; i++) {
        score[i] = value;
    }
}

/* What gates say of a block's scores. */
static void apply_gates(const fga_score_run *r, int64_t head, int64_t kv_head, int64_t u, float *score)
{
    const fga_scorer *s = r->scorer;
    const fga_predict_desc *d = &s->desc;
    int64_t begin = u * d->block_m, end = fga_min(begin + d->block_m, fga_sequence_length(&d->query));
    if (d->gate_q > 0 && fga_score_likeness(s, r->call->q, head, &s->query_valid, begin, end) < d->gate_q) {
        fill(score, s->tiles, INFINITY);
        return;
    }
    for (int64_t v = 0; d->gate_k > 0 && v < s->tiles; v++) {
        score[v] = r->key.gated[kv_head * s->tiles + v] ? INFINITY : score[v];
    }
}

typedef struct score_item {
    int64_t head, first, count; /* blocks of one head */
    int worker;
} score_item;

static void rank_blocks(const fga_score_run *r, const score_item *at, fga_score_rows *rows, float *score)
{
    const fga_scorer *s = r->scorer;
    const fga_predict_desc *d = &s->desc;
    int64_t head = at->head, first = at->first, count = at->count;
    int64_t kv_head = head / d->query_heads * d->kv_heads + head % d->query_heads / (d->query_heads / d->kv_heads);
    fga_rank_op op = fga_score_rank_op(r, kv_head);
    fga_score_rows_fill(r, head, first, count, rows);
    op.q = rows->q;
    op.weight = rows->weight;
    op.lse = s->exact && r->call->lse != NULL ? rows->lse : NULL;
    op.row_begin = rows->row_begin;
    op.blocks = (int32_t)count;
    op.score = score;
    op.scratch = rows->scratch;
    s->ops.rank[op.dtype](&op);
    for (int64_t b = 0; b < count; b++) {
        fga_scored_row row = {head * s->blocks + first + b, at->worker, score + b * s->tiles, 0, 0};
        if (rows->row_begin[b] < rows->row_begin[b + 1]) {
            if (d->score == FGA_SCORE_MEAN) {
                describe_row(r, kv_head, rows->q + rows->row_begin[b] * d->head_dim, &row);
            }
            apply_gates(r, head, kv_head, first + b, score + b * s->tiles);
        }
        if (r->call->take != NULL) {
            r->call->take(r->call->arg, &row);
        }
    }
}

static void ask_custom(const fga_score_run *r, const score_item *at, float *score)
{
    const fga_score_call *call = r->call;
    const fga_scorer *s = r->scorer;
    int64_t b = at->head / s->desc.query_heads, h = at->head % s->desc.query_heads;
    for (int64_t i = 0; i < at->count; i++, score += s->tiles) {
        fga_score_row row = {call->step, call->layer, call->branch, b, h, at->first + i, s->tiles};
        call->custom(call->custom_user, &row, score);
        if (call->take != NULL) {
            call->take(call->arg, &(fga_scored_row){at->head * s->blocks + at->first + i, at->worker, score, 0, 0});
        }
    }
}

static void score_blocks(void *arg, int64_t item, int worker)
{
    const fga_score_run *r = arg;
    const fga_scorer *s = r->scorer;
    int64_t items = fga_ceil_div(s->blocks, s->item_blocks), first = item % items * s->item_blocks;
    score_item at = {item / items, first, fga_min(s->item_blocks, s->blocks - first), worker};
    fga_score_rows rows;
    size_t used = 0;
    fga_score_rows_place(s, r->workers + (size_t)worker * s->worker_bytes, &used, &rows);
    float *score = r->call->scores != NULL ? r->call->scores + (at.head * s->blocks + first) * s->tiles : rows.score;
    if (r->call->custom != NULL) {
        ask_custom(r, &at, score);
    } else {
        rank_blocks(r, &at, &rows, score);
    }
}

static fga_status check_call(const fga_scorer *s, const fga_score_call *call)
{
    const fga_predict_desc *d = &s->desc;
    fga_shape queries = {d->batch, d->query_heads, fga_sequence_length(&d->query), d->head_dim, d->dtype};
    fga_shape keys = {d->batch, d->kv_heads, fga_sequence_length(&d->key), d->head_dim, d->dtype};
    FGA_TRY(fga_check_tensor(s->ctx, "q", call->q, &queries));
    FGA_TRY(fga_check_tensor(s->ctx, "k", call->k, &keys));
    if (call->custom == NULL && (d->score == FGA_SCORE_NONE || d->score == FGA_SCORE_CUSTOM)) {
        return fga_context_fail(s->ctx, FGA_ERR_ARGUMENT, "score is %d, wanted one that is computed here",
                                (int)d->score);
    }
    if (d->score == FGA_SCORE_DEVIATION) {
        if (call->v == NULL) {
            return fga_context_fail(s->ctx, FGA_ERR_ARGUMENT, "v is NULL, wanted the values, for FGA_SCORE_DEVIATION");
        }
        FGA_TRY(fga_check_tensor(s->ctx, "v", call->v, &keys));
    }
    return fga_check_workspace(s->ctx, call->workspace, s->workspace_bytes);
}

fga_status fga_scorer_run(const fga_scorer *s, const fga_score_call *call)
{
    FGA_TRY(check_call(s, call));
    fga_score_run r = {.scorer = s, .call = call, .workers = (char *)call->workspace + s->key_bytes};
    size_t used = 0;
    fga_score_keys_place(s, call->workspace, &used, &r.key);
    if (call->custom == NULL) {
        fga_score_keys_fill(&r);
    }
    int64_t items = fga_ceil_div(s->blocks, s->item_blocks);
    fga_parallel_for(s->ctx, s->desc.batch * s->desc.query_heads * items, score_blocks, &r);
    return FGA_OK;
}

fga_status fga_score_workspace(fga_context *ctx, const fga_predict_desc *desc, size_t *bytes)
{
    if (desc == NULL || bytes == NULL) {
        return fga_context_fail(ctx, FGA_ERR_ARGUMENT, "%s is NULL", desc == NULL ? "desc" : "bytes");
    }
    if (ctx != NULL && ctx->options.device == FGA_DEVICE_CUDA) {
        fga_gpu_refresh_plan plan;
        FGA_TRY(fga_refresh_gpu_init(ctx, desc, NULL, &plan));
        *bytes = plan.workspace_bytes;
        return FGA_OK;
    }
    fga_scorer scorer;
    FGA_TRY(fga_scorer_init(ctx, desc, &scorer));
    *bytes = scorer.workspace_bytes;
    return FGA_OK;
}

fga_status fga_score_tiles(fga_context *ctx, const fga_predict_desc *desc, const fga_tensor *q, const fga_tensor *k,
                           const fga_tensor *v, float *scores, void *workspace)
{
    if (desc == NULL || q == NULL || k == NULL || scores == NULL) {
        return fga_context_fail(ctx, FGA_ERR_ARGUMENT, "%s is NULL",
                                desc == NULL ? "desc"
                                : q == NULL  ? "q"
                                : k == NULL  ? "k"
                                             : "scores");
    }
    const fga_score_call call = {.q = q, .k = k, .v = v, .scores = scores, .workspace = workspace};
    if (ctx != NULL && ctx->options.device == FGA_DEVICE_CUDA) {
        return fga_score_tiles_gpu(ctx, desc, &call);
    }
    fga_scorer scorer;
    FGA_TRY(fga_scorer_init(ctx, desc, &scorer));
    return fga_scorer_run(&scorer, &call);
}
