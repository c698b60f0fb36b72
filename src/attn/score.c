/* score.c - DFSAttn's hierarchical mass (arXiv 2605.23445): softmax over means of sub-tiles, summed over tiles. */
#include "attn/predict.h"

#include "base/context.h"
#include "base/half.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

enum { POOL_CHUNK = 128 }; /* key sub-tiles pooled per work item */

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

/* ---- workspace: the grid of key sub-tiles and their means, then one part per worker ------------------------------ */

typedef struct key_part {
    int64_t *tile_begin; /* [tiles+1] */
    int64_t *begin;      /* [sub_keys+1] */
    int64_t *valid_end;  /* [sub_keys] */
    float *log_n;        /* [sub_keys] */
    float *mean;         /* [batch][kv_heads][sub_keys][head_dim] */
} key_part;

typedef struct worker_part {
    int64_t *begin;     /* [sub_queries+1] */
    int64_t *valid_end; /* [sub_queries] */
    float *weight;      /* [sub_queries] */
    float *mean;        /* [sub_queries][head_dim] */
    float *mass;        /* [sub_queries][sub_keys] */
    float *score;       /* [tiles] */
} worker_part;

/* The next array of a workspace. With base NULL it only counts. */
static void *carve(char *base, size_t *used, int64_t count, size_t bytes, bool *fits)
{
    size_t at = *used;
    *fits = *fits && fga_size_add(used, count, bytes);
    return base != NULL ? base + at : NULL;
}

static bool lay_out_keys(const fga_scorer *s, char *base, size_t *used, key_part *part)
{
    bool fits = true;
    int64_t heads = s->desc.batch * s->desc.kv_heads;
    part->tile_begin = carve(base, used, s->tiles + 1, sizeof(int64_t), &fits);
    part->begin = carve(base, used, s->sub_keys + 1, sizeof(int64_t), &fits);
    part->valid_end = carve(base, used, s->sub_keys, sizeof(int64_t), &fits);
    part->log_n = carve(base, used, s->sub_keys, sizeof(float), &fits);
    part->mean = carve(base, used, heads, (size_t)(s->sub_keys * s->desc.head_dim) * sizeof(float), &fits);
    return fits;
}

static bool lay_out_worker(const fga_scorer *s, char *base, size_t *used, worker_part *part)
{
    bool fits = true;
    part->begin = carve(base, used, s->sub_queries + 1, sizeof(int64_t), &fits);
    part->valid_end = carve(base, used, s->sub_queries, sizeof(int64_t), &fits);
    part->weight = carve(base, used, s->sub_queries, sizeof(float), &fits);
    part->mean = carve(base, used, s->sub_queries * s->desc.head_dim, sizeof(float), &fits);
    part->mass = carve(base, used, s->sub_queries, (size_t)s->sub_keys * sizeof(float), &fits);
    part->score = carve(base, used, s->tiles, sizeof(float), &fits);
    return fits;
}

/* ---- plan ----------------------------------------------------------------------------------------- */

static fga_status check_desc(fga_context *ctx, const fga_predict_desc *d)
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
    return FGA_OK;
}

fga_status fga_scorer_init(fga_context *ctx, const fga_predict_desc *desc, fga_scorer *s)
{
    if (ctx == NULL) {
        return FGA_ERR_ARGUMENT;
    }
    FGA_TRY(check_desc(ctx, desc));
    *s = (fga_scorer){.ctx = ctx, .desc = *desc};
    fga_status status = fga_ops_select(ctx->options.variant, &s->ops);
    if (status != FGA_OK) {
        return fga_context_fail(ctx, status, "this machine has no variant %s",
                                ctx->options.variant != NULL ? ctx->options.variant : "at all");
    }
    if (s->desc.scale == 0) {
        s->desc.scale = 1.0f / sqrtf((float)desc->head_dim);
    }
    int64_t keys = fga_sequence_length(&desc->key), whole = keys / desc->tile_n;
    s->query_valid = fga_spans_valid(&desc->query);
    s->key_valid = fga_spans_valid(&desc->key);
    s->blocks = fga_predict_blocks(desc);
    s->tiles = fga_predict_tiles(desc);
    s->sub_keys = whole * fga_ceil_div(desc->tile_n, desc->sub_k) + fga_ceil_div(keys % desc->tile_n, desc->sub_k);
    s->sub_queries = fga_ceil_div(desc->block_m, desc->sub_q);
    key_part key;
    worker_part worker;
    bool fits = lay_out_keys(s, NULL, &s->key_bytes, &key) && lay_out_worker(s, NULL, &s->worker_bytes, &worker);
    s->workspace_bytes = s->key_bytes;
    if (!fits || !fga_size_add(&s->workspace_bytes, fga_context_threads(ctx), s->worker_bytes)) {
        return fga_context_fail(ctx, FGA_ERR_UNSUPPORTED, "%" PRId64 " keys are more than one score takes", keys);
    }
    return FGA_OK;
}

/* ---- means ---------------------------------------------------------------------------------------- */

/* The end of the valid tokens of [begin, end) where they come first; `begin` where there are none or padding lies
 * between them, which the pool op does not know. */
static int64_t leading_valid(const fga_spans *valid, int64_t begin, int64_t end)
{
    int64_t n = fga_spans_count(valid, begin, end);
    return fga_spans_count(valid, begin, begin + n) == n ? begin + n : begin;
}

/* A sub-tile that crosses from one segment's padding into the next segment: rare, so plain. */
static void mixed_mean(const fga_pool_op *op, const fga_spans *valid, int64_t i)
{
    double sum[FGA_MAX_HEAD_DIM] = {0};
    float row[FGA_MAX_HEAD_DIM];
    int64_t count = 0;
    for (int64_t token = op->begin[i]; token < op->begin[i + 1]; token++) {
        if (fga_spans_count(valid, token, token + 1) == 0) {
            continue;
        }
        int64_t offset = token * op->x_stride * (int64_t)fga_dtype_size(op->dtype);
        fga_to_f32(row, (const char *)op->x + offset, op->dtype, op->head_dim);
        for (int32_t d = 0; d < op->head_dim; d++) {
            sum[d] += row[d];
        }
        count++;
    }
    for (int32_t d = 0; d < op->head_dim; d++) {
        op->mean[i * op->head_dim + d] = (float)(sum[d] / (double)count);
    }
}

static void pool(const fga_scorer *s, const fga_pool_op *op, const fga_spans *valid)
{
    s->ops.pool(op);
    for (int64_t i = 0; i < op->count; i++) {
        if (op->valid_end[i] == op->begin[i] && fga_spans_count(valid, op->begin[i], op->begin[i + 1]) > 0) {
            mixed_mean(op, valid, i);
        }
    }
}

static void lay_key_grid(const fga_scorer *s, key_part *key)
{
    int64_t keys = fga_sequence_length(&s->desc.key), sub = 0;
    for (int64_t v = 0; v < s->tiles; v++) {
        int64_t tile_end = fga_min((v + 1) * s->desc.tile_n, keys);
        key->tile_begin[v] = sub;
        for (int64_t begin = v * s->desc.tile_n; begin < tile_end; begin += s->desc.sub_k, sub++) {
            int64_t end = fga_min(begin + s->desc.sub_k, tile_end);
            key->begin[sub] = begin;
            key->valid_end[sub] = leading_valid(&s->key_valid, begin, end);
            key->log_n[sub] = logf((float)fga_spans_count(&s->key_valid, begin, end)); /* log 0 = -inf */
        }
    }
    key->tile_begin[s->tiles] = sub;
    key->begin[sub] = keys;
}

/* ---- run ------------------------------------------------------------------------------------------ */

typedef struct run {
    const fga_scorer *scorer;
    const fga_score_call *call;
    key_part key;
    char *workers;
    int64_t chunks; /* of key sub-tiles per head */
} run;

static void pool_keys(void *arg, int64_t item, int worker)
{
    (void)worker;
    const run *r = arg;
    const fga_scorer *s = r->scorer;
    int64_t head = item / r->chunks, first = item % r->chunks * POOL_CHUNK;
    fga_pool_op op = {
        .x = fga_tensor_row(r->call->k, head / s->desc.kv_heads, head % s->desc.kv_heads, 0),
        .x_stride = r->call->k->stride[2],
        .begin = r->key.begin + first,
        .valid_end = r->key.valid_end + first,
        .mean = r->key.mean + (head * s->sub_keys + first) * s->desc.head_dim,
        .count = fga_min(POOL_CHUNK, s->sub_keys - first),
        .head_dim = (int32_t)s->desc.head_dim,
        .dtype = s->desc.dtype,
    };
    pool(s, &op, &s->key_valid);
}

/* Means and weights n_I/n_u of the block's query sub-tiles; returns how many. */
static int64_t pool_block(const run *r, int64_t head, int64_t u, int64_t valid, const worker_part *w)
{
    const fga_scorer *s = r->scorer;
    const fga_predict_desc *d = &s->desc;
    int64_t end = fga_min((u + 1) * d->block_m, fga_sequence_length(&d->query)), count = 0;
    for (int64_t begin = u * d->block_m; begin < end; begin += d->sub_q, count++) {
        int64_t sub_end = fga_min(begin + d->sub_q, end);
        w->begin[count] = begin;
        w->valid_end[count] = leading_valid(&s->query_valid, begin, sub_end);
        w->weight[count] = (float)((double)fga_spans_count(&s->query_valid, begin, sub_end) / (double)valid);
    }
    w->begin[count] = end;
    fga_pool_op op = {
        .x = fga_tensor_row(r->call->q, head / d->query_heads, head % d->query_heads, 0),
        .x_stride = r->call->q->stride[2],
        .begin = w->begin,
        .valid_end = w->valid_end,
        .mean = w->mean,
        .count = count,
        .head_dim = (int32_t)d->head_dim,
        .dtype = d->dtype,
    };
    pool(s, &op, &s->query_valid);
    return count;
}

static void mass_of_block(const run *r, int64_t head, int64_t u, const worker_part *w, float *score)
{
    const fga_scorer *s = r->scorer;
    const fga_predict_desc *d = &s->desc;
    int64_t b = head / d->query_heads, kv_head = head % d->query_heads / (d->query_heads / d->kv_heads);
    int64_t valid = fga_spans_count(&s->query_valid, u * d->block_m, (u + 1) * d->block_m);
    if (valid == 0 || s->key_valid.count == 0) {
        memset(score, 0, (size_t)s->tiles * sizeof *score);
        return;
    }
    int64_t sub_queries = pool_block(r, head, u, valid, w);
    fga_mass_op op = {
        .q_mean = w->mean,
        .q_weight = w->weight,
        .k_mean = r->key.mean + (b * d->kv_heads + kv_head) * s->sub_keys * d->head_dim,
        .log_n = r->key.log_n,
        .tile_begin = r->key.tile_begin,
        .score = score,
        .sub_keys = s->sub_keys,
        .tiles = s->tiles,
        .sub_queries = (int32_t)sub_queries,
        .head_dim = (int32_t)d->head_dim,
        .scale = d->scale,
        .scratch = w->mass,
    };
    s->ops.mass(&op);
}

static void score_block(void *arg, int64_t row, int worker)
{
    const run *r = arg;
    const fga_scorer *s = r->scorer;
    const fga_score_call *call = r->call;
    int64_t head = row / s->blocks, u = row % s->blocks;
    worker_part w;
    size_t used = 0;
    lay_out_worker(s, r->workers + (size_t)worker * s->worker_bytes, &used, &w);
    float *score = call->scores != NULL ? call->scores + row * s->tiles : w.score;
    if (call->custom != NULL) {
        int64_t b = head / s->desc.query_heads, h = head % s->desc.query_heads;
        fga_score_row at = {call->step, call->layer, call->branch, b, h, u, s->tiles};
        call->custom(call->custom_user, &at, score);
    } else {
        mass_of_block(r, head, u, &w, score);
    }
    if (call->take != NULL) {
        call->take(call->arg, &(fga_scored_row){.row = row, .worker = worker, .scores = score});
    }
}

fga_status fga_scorer_run(const fga_scorer *s, const fga_score_call *call)
{
    const fga_predict_desc *d = &s->desc;
    fga_shape queries = {d->batch, d->query_heads, fga_sequence_length(&d->query), d->head_dim, d->dtype};
    fga_shape keys = {d->batch, d->kv_heads, fga_sequence_length(&d->key), d->head_dim, d->dtype};
    FGA_TRY(fga_check_tensor(s->ctx, "q", call->q, &queries));
    FGA_TRY(fga_check_tensor(s->ctx, "k", call->k, &keys));
    FGA_TRY(fga_check_workspace(s->ctx, call->workspace, s->workspace_bytes));
    run r = {.scorer = s, .call = call, .workers = (char *)call->workspace + s->key_bytes};
    size_t used = 0;
    lay_out_keys(s, call->workspace, &used, &r.key);
    lay_key_grid(s, &r.key);
    r.chunks = fga_ceil_div(s->sub_keys, POOL_CHUNK);
    if (call->custom == NULL) {
        fga_parallel_for(s->ctx, d->batch * d->kv_heads * r.chunks, pool_keys, &r);
    }
    fga_parallel_for(s->ctx, d->batch * d->query_heads * s->blocks, score_block, &r);
    return FGA_OK;
}

fga_status fga_score_workspace(fga_context *ctx, const fga_predict_desc *desc, size_t *bytes)
{
    if (desc == NULL || bytes == NULL) {
        return fga_context_fail(ctx, FGA_ERR_ARGUMENT, "%s is NULL", desc == NULL ? "desc" : "bytes");
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
    fga_scorer scorer;
    FGA_TRY(fga_scorer_init(ctx, desc, &scorer));
    return fga_scorer_run(&scorer, &(fga_score_call){.q = q, .k = k, .v = v, .scores = scores, .workspace = workspace});
}
