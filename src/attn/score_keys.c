/* score_keys.c - what a score needs of the keys, once for all query blocks: sub-tiles, their means, gates, and how far
 * values lie from their group's mean. */
#include "attn/score.h"

#include "base/half.h"

#include <math.h>
#include <string.h>

enum { POOL_CHUNK = 128 }; /* sub-tiles, tiles or groups per work item */

static int64_t op_keys(const fga_scorer *s)
{
    return s->pooled_keys ? s->sub_keys : fga_sequence_length(&s->desc.key);
}

static int64_t groups_of(const fga_scorer *s)
{
    return fga_ceil_div(fga_sequence_length(&s->desc.key), s->desc.group);
}

bool fga_score_keys_place(const fga_scorer *s, char *base, size_t *used, fga_score_keys *key)
{
    bool fits = true;
    const fga_predict_desc *d = &s->desc;
    int64_t heads = d->batch * d->kv_heads, keys = op_keys(s);
    size_t f = sizeof(float);
    *key = (fga_score_keys){0};
    key->tile_begin = fga_score_carve(base, used, s->tiles + 1, sizeof(int64_t), &fits);
    key->sub_begin = fga_score_carve(base, used, s->sub_keys + 1, sizeof(int64_t), &fits);
    key->valid_end = fga_score_carve(base, used, s->sub_keys, sizeof(int64_t), &fits);
    key->bias = fga_score_carve(base, used, s->bias_heads, (size_t)keys * f, &fits);
    if (s->pooled_keys) {
        key->mean = fga_score_carve(base, used, heads, (size_t)(s->sub_keys * d->head_dim) * f, &fits);
    }
    if (s->second_order) {
        key->sub_bias = fga_score_carve(base, used, s->bias_heads, (size_t)s->sub_keys * f, &fits);
    }
    if (d->gate_k > 0) {
        key->gated = fga_score_carve(base, used, heads, (size_t)s->tiles, &fits);
    }
    if (d->score == FGA_SCORE_MEAN) {
        key->moments = fga_score_carve(base, used, heads, 2 * (size_t)d->head_dim * sizeof(double), &fits);
    }
    if (d->score == FGA_SCORE_DEVIATION) {
        key->apart = fga_score_carve(base, used, heads, (size_t)keys * f, &fits);
        key->group_share = fga_score_carve(base, used, groups_of(s), f, &fits);
    }
    return fits;
}

/* ---- means ---------------------------------------------------------------------------------------- */

int64_t fga_score_valid_end(const fga_spans *valid, int64_t begin, int64_t end)
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

/* Under zero_pad every token that is not valid counts as a zero. */
static void count_zeros(const fga_pool_op *op, const fga_spans *valid, int64_t i)
{
    int64_t length = op->begin[i + 1] - op->begin[i], n = fga_spans_count(valid, op->begin[i], op->begin[i + 1]);
    for (int32_t d = 0; d < op->head_dim && n < length; d++) {
        op->mean[i * op->head_dim + d] *= (float)((double)n / (double)length);
    }
}

void fga_score_pool(const fga_scorer *s, const fga_pool_op *op, const fga_spans *valid)
{
    s->ops.pool(op);
    for (int64_t i = 0; i < op->count; i++) {
        if (op->valid_end[i] == op->begin[i] && fga_spans_count(valid, op->begin[i], op->begin[i + 1]) > 0) {
            mixed_mean(op, valid, i);
        }
        if (s->desc.zero_pad) {
            count_zeros(op, valid, i);
        }
    }
}

static const void *head_rows(const fga_tensor *x, int64_t head, int64_t token)
{
    return fga_tensor_row(x, head / x->extent[1], head % x->extent[1], token);
}

void fga_score_mean(const fga_scorer *s, const fga_tensor *x, int64_t head, const fga_spans *valid, int64_t begin,
                    int64_t end, float *mean)
{
    const int64_t part[2] = {begin, end}, valid_end = fga_score_valid_end(valid, begin, end);
    fga_pool_op op = {head_rows(x, head, 0),     x->stride[2], part, &valid_end, mean, 1,
                      (int32_t)s->desc.head_dim, s->desc.dtype};
    s->ops.pool(&op);
    if (valid_end == begin && fga_spans_count(valid, begin, end) > 0) {
        mixed_mean(&op, valid, 0);
    }
}

double fga_score_likeness(const fga_scorer *s, const fga_tensor *x, int64_t head, const fga_spans *valid, int64_t begin,
                          int64_t end)
{
    float mean[FGA_MAX_HEAD_DIM], cosine[192];
    int64_t n = fga_spans_count(valid, begin, end);
    if (n <= 1) {
        return 1;
    }
    double sum = 0;
    fga_score_mean(s, x, head, valid, begin, end, mean);
    for (int i = 0; i < valid->count; i++) {
        int64_t from = fga_max(begin, valid->begin[i]), to = fga_min(end, valid->end[i]);
        if (from >= to) {
            continue;
        }
        s->ops.alike(&(fga_alike_op){.x = head_rows(x, head, from),
                                     .centre = mean,
                                     .cosine = cosine,
                                     .x_stride = x->stride[2],
                                     .count = to - from,
                                     .head_dim = (int32_t)s->desc.head_dim,
                                     .dtype = s->desc.dtype});
        for (int64_t t = 0; t < to - from; t++) {
            sum += cosine[t];
        }
    }
    return sum / (double)n;
}

/* ---- the grid, shared by all heads ----------------------------------------------------------------- */

static void lay_grid(const fga_scorer *s, fga_score_keys *key)
{
    const fga_predict_desc *d = &s->desc;
    int64_t keys = fga_sequence_length(&d->key), sub = 0;
    for (int64_t v = 0; v < s->tiles; v++) {
        int64_t whole = (v + 1) * d->tile_n, tile_end = d->zero_pad ? whole : fga_min(whole, keys);
        key->tile_begin[v] = sub;
        for (int64_t begin = v * d->tile_n; begin < tile_end; begin += s->sub_k, sub++) {
            key->sub_begin[sub] = begin;
            key->valid_end[sub] = fga_score_valid_end(&s->key_valid, begin, fga_min(begin + s->sub_k, tile_end));
        }
    }
    key->tile_begin[s->tiles] = sub;
    key->sub_begin[sub] = d->zero_pad ? s->tiles * d->tile_n : keys;
}

static float log_count(const fga_scorer *s, int64_t begin, int64_t end)
{
    int64_t n = fga_spans_count(&s->key_valid, begin, end);
    if (s->desc.zero_pad) {
        return 0;
    }
    return s->raw_logits && n > 0 ? 0 : logf((float)n); /* log 0 = -inf */
}

/* Biases of one head of keys, or of all where nothing is gated. */
static void lay_biases(const fga_score_run *r, int64_t head)
{
    const fga_scorer *s = r->scorer;
    const fga_score_keys *key = &r->key;
    const int64_t *begin = key->sub_begin;
    const uint8_t *gated = key->gated != NULL ? key->gated + head * s->tiles : NULL;
    float *bias = key->bias + head * op_keys(s),
          *sub_bias = s->second_order ? key->sub_bias + head * s->sub_keys : NULL;
    for (int64_t v = 0; v < s->tiles; v++) {
        bool out = gated != NULL && !s->exact && gated[v];
        for (int64_t sub = key->tile_begin[v]; sub < key->tile_begin[v + 1]; sub++) {
            float log_n = out ? -INFINITY : log_count(s, begin[sub], begin[sub + 1]);
            if (!s->second_order) {
                bias[sub] = log_n;
                continue;
            }
            sub_bias[sub] = log_n;
            for (int64_t j = begin[sub]; j < begin[sub + 1]; j++) {
                bias[j] = out || fga_spans_count(&s->key_valid, j, j + 1) == 0 ? -INFINITY : 0.0f;
            }
        }
    }
}

/* ---- per head, in parallel -------------------------------------------------------------------------- */

static void pool_keys(void *arg, int64_t item, int worker)
{
    (void)worker;
    const fga_score_run *r = arg;
    const fga_scorer *s = r->scorer;
    int64_t chunks = fga_ceil_div(s->sub_keys, POOL_CHUNK), head = item / chunks, first = item % chunks * POOL_CHUNK;
    fga_pool_op op = {
        .x = head_rows(r->call->k, head, 0),
        .x_stride = r->call->k->stride[2],
        .begin = r->key.sub_begin + first,
        .valid_end = r->key.valid_end + first,
        .mean = r->key.mean + (head * s->sub_keys + first) * s->desc.head_dim,
        .count = fga_min(POOL_CHUNK, s->sub_keys - first),
        .head_dim = (int32_t)s->desc.head_dim,
        .dtype = s->desc.dtype,
    };
    fga_score_pool(s, &op, &s->key_valid);
}

static void gate_keys(void *arg, int64_t item, int worker)
{
    (void)worker;
    const fga_score_run *r = arg;
    const fga_scorer *s = r->scorer;
    int64_t chunks = fga_ceil_div(s->tiles, POOL_CHUNK), head = item / chunks, first = item % chunks * POOL_CHUNK;
    int64_t n = s->desc.tile_n, keys = fga_sequence_length(&s->desc.key);
    for (int64_t v = first; v < fga_min(first + POOL_CHUNK, s->tiles); v++) {
        double alike = fga_score_likeness(s, r->call->k, head, &s->key_valid, v * n, fga_min((v + 1) * n, keys));
        r->key.gated[head * s->tiles + v] = alike < s->desc.gate_k;
    }
}

/* Mean and population variance, channel by channel, of the tiles' means: unweighted, over tiles that take part. */
static void find_moments(void *arg, int64_t head, int worker)
{
    (void)worker;
    const fga_score_run *r = arg;
    const fga_scorer *s = r->scorer;
    int64_t dim = s->desc.head_dim, keys = op_keys(s), count = 0;
    const float *bias = r->key.bias + (s->bias_heads > 1 ? head * keys : 0);
    double *mean = r->key.moments + head * 2 * dim, *variance = mean + dim;
    memset(mean, 0, 2 * (size_t)dim * sizeof *mean);
    for (int64_t v = 0; v < s->tiles; v++) {
        float x[FGA_MAX_HEAD_DIM];
        if (bias[v] == -INFINITY) {
            continue;
        }
        if (s->pooled_keys) {
            memcpy(x, r->key.mean + (head * keys + v) * dim, (size_t)dim * sizeof *x);
        } else {
            fga_to_f32(x, head_rows(r->call->k, head, v), s->desc.dtype, dim);
        }
        count++;
        for (int64_t c = 0; c < dim; c++) { /* Welford's update: no cancellation */
            double off = x[c] - mean[c];
            mean[c] += off / (double)count;
            variance[c] += off * (x[c] - mean[c]);
        }
    }
    for (int64_t c = 0; c < dim && count > 0; c++) {
        variance[c] /= (double)count;
    }
}

static void part_values(void *arg, int64_t item, int worker)
{
    (void)worker;
    const fga_score_run *r = arg;
    const fga_scorer *s = r->scorer;
    int64_t groups = groups_of(s), chunks = fga_ceil_div(groups, POOL_CHUNK), g = s->desc.group;
    int64_t head = item / chunks, first = item % chunks * POOL_CHUNK, keys = fga_sequence_length(&s->desc.key);
    float mean[FGA_MAX_HEAD_DIM], *apart = r->key.apart + head * keys;
    for (int64_t group = first; group < fga_min(first + POOL_CHUNK, groups); group++) {
        int64_t begin = group * g, end = fga_min(begin + g, keys);
        fga_score_mean(s, r->call->v, head, &s->key_valid, begin, end, mean);
        memset(apart + begin, 0, (size_t)(end - begin) * sizeof *apart);
        for (int i = 0; i < s->key_valid.count; i++) {
            int64_t from = fga_max(begin, s->key_valid.begin[i]), to = fga_min(end, s->key_valid.end[i]);
            if (from < to) {
                s->ops.alike(&(fga_alike_op){.x = head_rows(r->call->v, head, from),
                                             .centre = mean,
                                             .distance = apart + from,
                                             .x_stride = r->call->v->stride[2],
                                             .count = to - from,
                                             .head_dim = (int32_t)s->desc.head_dim,
                                             .dtype = s->desc.dtype});
            }
        }
    }
}

void fga_score_keys_fill(fga_score_run *r)
{
    const fga_scorer *s = r->scorer;
    const fga_predict_desc *d = &s->desc;
    int64_t heads = d->batch * d->kv_heads;
    lay_grid(s, &r->key);
    if (s->pooled_keys) {
        fga_parallel_for(s->ctx, heads * fga_ceil_div(s->sub_keys, POOL_CHUNK), pool_keys, r);
    }
    if (d->gate_k > 0) {
        fga_parallel_for(s->ctx, heads * fga_ceil_div(s->tiles, POOL_CHUNK), gate_keys, r);
    }
    for (int64_t head = 0; head < s->bias_heads; head++) {
        lay_biases(r, head);
    }
    if (d->score == FGA_SCORE_MEAN) {
        fga_parallel_for(s->ctx, heads, find_moments, r);
    }
    if (d->score == FGA_SCORE_DEVIATION) {
        for (int64_t group = 0; group < groups_of(s); group++) {
            int64_t n = fga_spans_count(&s->key_valid, group * d->group, (group + 1) * d->group);
            r->key.group_share[group] = n > 0 ? 1.0f / (float)n : 0.0f;
        }
        fga_parallel_for(s->ctx, heads * fga_ceil_div(groups_of(s), POOL_CHUNK), part_values, r);
    }
}

/* ---- towards the op ---------------------------------------------------------------------------------- */

fga_rank_kind fga_score_rank_kind(const fga_scorer *s)
{
    switch (s->desc.score) {
    case FGA_SCORE_MAX:
    case FGA_SCORE_EXACT_MAX:
        return FGA_RANK_MAX;
    case FGA_SCORE_LSE:
        return FGA_RANK_LSE;
    case FGA_SCORE_MEAN:
        return s->raw_logits ? FGA_RANK_LOGIT : FGA_RANK_MASS;
    case FGA_SCORE_DEVIATION:
        return FGA_RANK_DEVIATION;
    default:
        return FGA_RANK_MASS;
    }
}

int32_t fga_score_tile_keys(const fga_scorer *s)
{
    return s->pooled_keys ? (int32_t)fga_ceil_div(s->desc.tile_n, s->sub_k) : s->desc.tile_n;
}

fga_rank_op fga_score_rank_op(const fga_score_run *r, int64_t kv_head)
{
    const fga_scorer *s = r->scorer;
    const fga_predict_desc *d = &s->desc;
    const fga_score_keys *key = &r->key;
    int64_t keys = op_keys(s), bias_head = s->bias_heads > 1 ? kv_head : 0;
    fga_rank_op op = {.kind = fga_score_rank_kind(s),
                      .bias = key->bias + bias_head * keys,
                      .tile_begin = key->tile_begin,
                      .keys = keys,
                      .subs = s->sub_keys,
                      .tiles = s->tiles,
                      .tile_keys = fga_score_tile_keys(s),
                      .group = d->group,
                      .head_dim = (int32_t)d->head_dim,
                      .scale = d->scale};
    if (s->pooled_keys) {
        op.k = key->mean + kv_head * keys * d->head_dim;
        op.k_stride = d->head_dim;
        op.dtype = FGA_F32;
    } else {
        op.k = head_rows(r->call->k, kv_head, 0);
        op.k_stride = r->call->k->stride[2];
        op.dtype = d->dtype;
    }
    if (s->second_order) {
        op.sub_begin = key->sub_begin;
        op.sub_bias = key->sub_bias + bias_head * s->sub_keys;
    }
    if (d->score == FGA_SCORE_DEVIATION) {
        op.apart = key->apart + kv_head * keys;
        op.group_share = key->group_share;
    }
    return op;
}
