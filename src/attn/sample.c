/* sample.c - exact dense attention of evenly spaced queries, and what a mask keeps of it. */
#include "attn/measure.h"

#include "attn/remainder.h"
#include "base/context.h"
#include "base/half.h"
#include "ops/gpu_ops.h"

#include <assert.h>
#include <math.h>
#include <string.h>

/* The r-th of the sampled queries, as a token: the middles of n equal parts of the valid video. */
static int64_t sample_token(const fga_meter *meter, int64_t r)
{
    return meter->query.prefix + (2 * r + 1) * meter->query.video_valid / (2 * meter->samples);
}

static int64_t all_heads(const fga_meter *meter)
{
    return meter->desc.batch * meter->desc.query_heads;
}

static size_t row_bytes(const fga_meter *meter)
{
    return (size_t)meter->desc.head_dim * fga_dtype_size(meter->desc.dtype);
}

/* ---- workspace ------------------------------------------------------------------------------------ */

typedef struct parts {
    char *q, *o;     /* [batch][query_heads][samples][head_dim]: packed queries, and their dense outputs */
    float *lse;      /* [batch][query_heads][samples]: L of dense attention */
    char *kept_o;    /* as o, under the mask, with its summaries */
    float *kept_lse; /* as lse, of the kept keys alone */
    double *block;   /* [batch*query_heads][blocks]: mean recall */
    char *work;      /* the dense attention's workspace; when judging, a desk per thread */
} parts;

/* What one worker needs to judge a mask; see judge_chunk. */
typedef struct desk {
    uint32_t *list; /* [keys] */
    uint32_t *kept; /* [chunk rows / 32][keys] */
    void *scratch;
} desk;

static int64_t kept_words(const fga_meter *meter)
{
    return fga_ceil_div(meter->chunk, 32) * meter->desc.key_len;
}

static size_t desk_bytes(const fga_meter *meter, size_t at[3])
{
    const fga_ops *ops = &meter->dense.ops;
    fga_dtype dtype = meter->desc.dtype;
    size_t used = 0;
    bool fits = fga_size_add(&used, meter->desc.key_len, sizeof(uint32_t)); /* at most 2^30 of at most 1 KB: it fits */
    at[0] = used;
    fits = fits && fga_size_add(&used, kept_words(meter), sizeof(uint32_t));
    at[1] = used;
    fits = fits && fga_size_add(&used, 1,
                                ops->probe_scratch[dtype](meter->chunk, (int32_t)meter->desc.head_dim, dtype,
                                                          meter->desc.key_len));
    at[2] = used;
    assert(fits);
    return used;
}

static desk desk_of(const fga_meter *meter, const parts *p, int worker)
{
    size_t at[3], bytes = desk_bytes(meter, at);
    char *base = p->work + (size_t)worker * bytes;
    return (desk){(uint32_t *)base, (uint32_t *)(base + at[0]), base + at[1]};
}

static bool lay_out(const fga_meter *meter, char *base, size_t *used, parts *p)
{
    enum { PARTS = 7 };
    int64_t heads = all_heads(meter), rows = heads * meter->samples;
    size_t at[PARTS + 1] = {0}, inside[3], work = meter->dense.workspace_bytes;
    if (meter->desc.block_m != 0) {
        size_t desks = 0;
        if (!fga_size_add(&desks, fga_context_threads(meter->dense.ctx), desk_bytes(meter, inside))) {
            return false;
        }
        work = desks > work ? desks : work;
    }
    const int64_t counts[PARTS] = {rows, rows, rows, rows, rows, heads * meter->blocks, 1};
    const size_t sizes[PARTS] = {row_bytes(meter), row_bytes(meter), sizeof(float), row_bytes(meter),
                                 sizeof(float),    sizeof(double),   work};
    for (int i = 0; i < PARTS; i++) {
        at[i + 1] = at[i];
        if (!fga_size_add(&at[i + 1], counts[i], sizes[i])) {
            return false;
        }
    }
    *used = at[PARTS];
    if (base != NULL) {
        *p = (parts){base + at[0],
                     base + at[1],
                     (float *)(base + at[2]),
                     base + at[3],
                     (float *)(base + at[4]),
                     (double *)(base + at[5]),
                     base + at[6]};
    }
    return true;
}

/* On a CUDA context: the samples' figures, which the device's workspace has too, and the blocks' means. */
typedef struct host_parts {
    float *figures; /* [batch*query_heads][samples][SAMPLE_FIGURES] */
    double *block;
} host_parts;

static bool on_device(const fga_meter *meter)
{
    return meter->dense.ctx->options.device == FGA_DEVICE_CUDA;
}

static bool lay_out_host(const fga_meter *meter, char *base, size_t *used, host_parts *p)
{
    int64_t heads = all_heads(meter);
    size_t block_at = 0;
    bool fits = fga_size_add(&block_at, heads * meter->samples, SAMPLE_FIGURES * sizeof(float));
    *used = block_at;
    *p = (host_parts){(float *)base, base != NULL ? (double *)(base + block_at) : NULL};
    return fits && fga_size_add(used, heads * meter->blocks, sizeof(double));
}

static int64_t count_blocks(const fga_meter *meter)
{
    int64_t last = -1, blocks = 0;
    for (int64_t r = 0; r < meter->samples; r++) {
        int64_t u = sample_token(meter, r) / meter->block_m;
        blocks += u != last;
        last = u;
    }
    return blocks;
}

fga_status fga_meter_init(fga_context *ctx, const fga_attend_desc *desc, const fga_sequence *query, double fraction,
                          fga_meter *meter)
{
    fga_sequence longest = fga_sequence_video(desc->query_len);
    bool any = query == NULL;
    query = any ? &longest : query;
    FGA_TRY(fga_check_sequence(ctx, "query", query));
    *meter = (fga_meter){.desc = *desc, .query = *query};
    if (fga_sequence_length(query) != desc->query_len) {
        return fga_context_fail(ctx, FGA_ERR_ARGUMENT, "query segments have %lld tokens, wanted query_len = %lld",
                                (long long)fga_sequence_length(query), (long long)desc->query_len);
    }
    if (query->video_valid == 0) {
        return fga_context_fail(ctx, FGA_ERR_ARGUMENT, "there is no valid video query to measure");
    }
    if (!(fraction > 0)) {
        return fga_context_fail(ctx, FGA_ERR_ARGUMENT, "fraction is %g, wanted above 0", fraction);
    }
    int64_t video = query->video_valid;
    meter->samples = fraction >= 1 ? video : fga_max(1, (int64_t)floor(fraction * (double)video));
    fga_attend_desc plan = *desc;
    plan.query_len = meter->samples;
    plan.block_m = plan.tile_n = 0;
    FGA_TRY(fga_attend_plan_init(ctx, &plan, &meter->dense));
    meter->block_m = desc->block_m != 0 ? desc->block_m : meter->dense.rows;
    meter->blocks = any ? fga_min(meter->samples, fga_ceil_div(desc->query_len, meter->block_m)) : count_blocks(meter);
    meter->chunk = meter->dense.rows;
    host_parts none;
    bool fits = on_device(meter) ? lay_out_host(meter, NULL, &meter->host_bytes, &none)
                                 : lay_out(meter, NULL, &meter->workspace_bytes, NULL);
    meter->workspace_bytes = on_device(meter) ? meter->host_bytes : meter->workspace_bytes;
    if (!fits) {
        return fga_context_fail(ctx, FGA_ERR_UNSUPPORTED, "%lld measured queries are too many",
                                (long long)meter->samples);
    }
    return FGA_OK;
}

/* ---- exact dense attention of the samples ------------------------------------------------------------ */

typedef struct run {
    const fga_meter *meter;
    const fga_attend_args *args;
    const fga_judge_call *call;
    bool twin; /* exact attention is made in the pass that judges */
    parts part;
    const float *figures; /* from a device, which has looked at every sample; else NULL */
} run;

static run start(const fga_meter *meter, const fga_judge_call *call)
{
    run r = {.meter = meter, .args = call->args, .call = call};
    size_t used;
    if (on_device(meter)) {
        host_parts host;
        lay_out_host(meter, call->host, &used, &host);
        r.figures = host.figures;
        r.part.block = host.block;
    } else {
        lay_out(meter, call->workspace, &used, &r.part);
    }
    return r;
}

/* Walks the samples in order; block counts those that hold one, row the samples of it. */
typedef struct walk {
    int64_t sample, token, block, row;
} walk;

static bool step(const fga_meter *meter, walk *at)
{
    if (++at->sample == meter->samples) {
        return false;
    }
    int64_t token = sample_token(meter, at->sample), last = at->token;
    at->token = token;
    if (at->sample == 0 || token / meter->block_m != last / meter->block_m) {
        at->block++;
        at->row = 0;
    } else {
        at->row++;
    }
    return true;
}

#define WALK_START \
    { \
        -1, 0, -1, 0 \
    }

static void pack_head(void *arg, int64_t head, int worker)
{
    (void)worker;
    const run *r = arg;
    const fga_meter *meter = r->meter;
    size_t bytes = row_bytes(meter);
    int64_t heads = meter->desc.query_heads;
    for (int64_t i = 0; i < meter->samples; i++) {
        const void *row = fga_tensor_row(&r->args->q, head / heads, head % heads, sample_token(meter, i));
        memcpy(r->part.q + (size_t)(head * meter->samples + i) * bytes, row, bytes);
    }
}

static fga_status pack_samples(run *r)
{
    const fga_attend_desc *d = &r->meter->desc;
    fga_context *ctx = r->meter->dense.ctx;
    fga_shape queries = {d->batch, d->query_heads, d->query_len, d->head_dim, d->dtype};
    FGA_TRY(fga_check_tensor(ctx, "q", &r->args->q, &queries));
    fga_parallel_for(ctx, all_heads(r->meter), pack_head, r);
    return FGA_OK;
}

static fga_status attend_exactly(const run *r)
{
    const fga_attend_plan *plan = &r->meter->dense;
    const fga_attend_desc *d = &plan->desc;
    fga_attend_args dense = *r->args;
    dense.q = fga_tensor_bhsd(r->part.q, d->dtype, d->batch, d->query_heads, d->query_len, d->head_dim);
    dense.o = fga_tensor_bhsd(r->part.o, d->dtype, d->batch, d->query_heads, d->query_len, d->head_dim);
    dense.lse = r->part.lse;
    dense.mask = NULL;
    dense.remainder = NULL;
    return fga_attend_execute(plan, &(fga_attend_call){.args = &dense, .key = r->call->key, .workspace = r->part.work});
}

/* ---- judging ---------------------------------------------------------------------------------------- */

/* Sets the sample's bit at every key that its block keeps; list is overwritten. Samples of one block follow each other,
 * so `listed`, the block that list is of, saves most of the work. */
static void mark_kept(const run *r, int64_t head, int64_t sample, int32_t row, const desk *d, int64_t *listed,
                      int64_t *count)
{
    const fga_meter *meter = r->meter;
    const fga_mask *mask = r->args->mask;
    int64_t heads = meter->desc.query_heads, u = sample_token(meter, sample) / meter->block_m;
    if (*listed != u) {
        *count = fga_mask_list_keys(mask, fga_mask_row(mask, head / heads, head % heads, u), &mask->key_valid, d->list);
        *listed = u;
    }
    uint32_t *kept = d->kept + row / 32 * meter->desc.key_len, bit = 1u << row % 32;
    for (int64_t i = 0; i < *count; i++) {
        kept[d->list[i]] |= bit;
    }
}

/* Lists what any sample of the chunk keeps, or with exact attention every valid key, without what is out by its bias;
 * returns how many. */
static int64_t list_keys(const run *r, const desk *d, int32_t rows, const float *bias)
{
    const fga_spans *valid = &r->args->mask->key_valid;
    int64_t count = 0, keys = r->meter->desc.key_len;
    for (int i = 0; i < valid->count; i++) {
        for (int64_t key = valid->begin[i]; key < valid->end[i]; key++) {
            uint32_t any = r->twin;
            for (int32_t word = 0; word < (rows + 31) / 32; word++) {
                any |= d->kept[word * keys + key];
            }
            d->list[count] = (uint32_t)key;
            count += any != 0 && (bias == NULL || bias[key] != -INFINITY);
        }
    }
    return count;
}

/* The samples of one chunk, whatever blocks they are of, under the mask rows of their blocks: one pass over K and V. */
static void judge_chunk(void *arg, int64_t item, int worker)
{
    const run *r = arg;
    const fga_meter *meter = r->meter;
    const fga_attend_desc *dd = &meter->dense.desc;
    const fga_attend_args *a = r->args;
    int64_t chunks = fga_ceil_div(meter->samples, meter->chunk), head = item / chunks;
    int64_t first = item % chunks * meter->chunk, b = head / dd->query_heads, h = head % dd->query_heads;
    bool skipped = r->call->skip != NULL && r->call->skip[head];
    if (skipped && !r->twin) {
        return;
    }
    int32_t rows = (int32_t)fga_min(meter->chunk, meter->samples - first);
    int64_t kv = h / (dd->query_heads / dd->kv_heads), listed = -1, count = 0, at = head * meter->samples + first;
    const float *bias = a->key_bias != NULL ? a->key_bias + b * a->bias_batch_stride + kv * a->bias_head_stride : NULL;
    desk d = desk_of(meter, &r->part, worker);
    memset(d.kept, 0, (size_t)kept_words(meter) * sizeof(uint32_t));
    for (int32_t row = 0; row < rows && !skipped; row++) {
        mark_kept(r, head, first + row, row, &d, &listed, &count);
    }
    bool outputs = r->call->error && !r->call->attended && !skipped;
    fga_probe_op op = {.attend = {.q = r->part.q + (size_t)at * row_bytes(meter),
                                  .k = fga_tensor_row(&a->k, b, kv, 0),
                                  .v = fga_tensor_row(&a->v, b, kv, 0),
                                  .o = outputs ? r->part.kept_o + (size_t)at * row_bytes(meter) : NULL,
                                  .bias = bias,
                                  .keys = d.list,
                                  .q_stride = dd->head_dim,
                                  .k_stride = a->k.stride[2],
                                  .v_stride = a->v.stride[2],
                                  .o_stride = dd->head_dim,
                                  .key_count = list_keys(r, &d, rows, bias),
                                  .rows = rows,
                                  .head_dim = (int32_t)dd->head_dim,
                                  .dtype = dd->dtype,
                                  .scale = dd->scale,
                                  .scratch = d.scratch},
                       .kept = d.kept,
                       .kept_stride = dd->key_len,
                       .kept_lse = r->part.kept_lse + at,
                       .dense_o = r->twin ? r->part.o + (size_t)at * row_bytes(meter) : NULL,
                       .dense_lse = r->twin ? r->part.lse + at : NULL};
    fga_summaries summaries;
    if (outputs && a->remainder != NULL) {
        summaries = fga_remainder_head(a->remainder, dd, b, kv);
        op.attend.summaries = &summaries;
    }
    meter->dense.ops.probe[dd->dtype](&op);
}

/* exp(L_kept - L_dense); where dense attention has nothing to keep, nothing is lost. */
static double retained(float kept, float dense)
{
    return dense == -INFINITY ? 1.0 : exp((double)kept - (double)dense);
}

/* Of the mean of n of `all` values, from the sums of the squares and cubes of their differences from it. */
static fga_uncertainty uncertainty(double squares, double cubes, int64_t n, int64_t all)
{
    double unseen = 1 - (double)n / (double)all;
    if (n == 1) {
        return (fga_uncertainty){.deviation = n == all ? 0.0 : INFINITY};
    }
    return (fga_uncertainty){
        .deviation = sqrt(fmax(squares, 0) / ((double)(n - 1) * (double)n) * unseen),
        .skew = squares > 0 ? cubes / squares / (double)n * unseen : 0,
    };
}

static const float *figures_of(const run *r, int64_t head, int64_t sample)
{
    return r->figures + (head * r->meter->samples + sample) * SAMPLE_FIGURES;
}

static double recall_of(const run *r, int64_t head, const walk *at)
{
    const fga_meter *meter = r->meter;
    int64_t sample = head * meter->samples + at->sample;
    if (r->figures != NULL) {
        return figures_of(r, head, at->sample)[SAMPLE_RECALL];
    }
    bool own = !r->call->attended || r->args->remainder != NULL;
    return retained(own ? r->part.kept_lse[sample] : r->args->lse[head * meter->desc.query_len + at->token],
                    r->part.lse[sample]);
}

static void judge_recall(const run *r, int64_t head)
{
    const fga_meter *meter = r->meter;
    double *block = r->part.block + head * meter->blocks, mean = 0, squares = 0, cubes = 0;
    for (walk at = WALK_START; step(meter, &at);) {
        double recall = recall_of(r, head, &at), before = recall - mean, share = before / (double)(at.sample + 1);
        mean += share;
        cubes += before * (recall - mean) * share * ((double)at.sample - 1) - 3 * share * squares;
        squares += before * (recall - mean);
        block[at.block] = at.row == 0 ? recall : block[at.block] + (recall - block[at.block]) / (double)(at.row + 1);
    }
    r->call->heads[head].recall = mean;
    r->call->heads[head].recall_off = uncertainty(squares, -cubes, meter->samples, meter->query.video_valid);
}

/* Squared difference from the dense output of a sample, and its own square. */
static void compare_row(const run *r, int64_t head, const walk *at, double *error, double *norm)
{
    const fga_meter *meter = r->meter;
    const fga_attend_desc *d = &meter->desc;
    float ours[FGA_MAX_HEAD_DIM], exact[FGA_MAX_HEAD_DIM];
    if (r->figures != NULL) {
        *error = figures_of(r, head, at->sample)[SAMPLE_ERROR];
        *norm = figures_of(r, head, at->sample)[SAMPLE_NORM];
        return;
    }
    const void *row = r->call->attended
                          ? fga_tensor_row(&r->args->o, head / d->query_heads, head % d->query_heads, at->token)
                          : r->part.kept_o + (size_t)(head * meter->samples + at->sample) * row_bytes(meter);
    fga_to_f32(ours, row, d->dtype, d->head_dim);
    fga_to_f32(exact, r->part.o + (size_t)(head * meter->samples + at->sample) * row_bytes(meter), d->dtype,
               d->head_dim);
    *error = *norm = 0;
    for (int64_t c = 0; c < d->head_dim; c++) {
        double difference = (double)ours[c] - (double)exact[c];
        *error += difference * difference;
        *norm += (double)exact[c] * (double)exact[c];
    }
}

/* The uncertainty of a quotient of sums is that of the mean of error - quotient * norm, over the mean norm. */
static void judge_error(const run *r, int64_t head)
{
    const fga_meter *meter = r->meter;
    double errors = 0, norms = 0, squares = 0, cubes = 0, n = (double)meter->samples;
    for (walk at = WALK_START; step(meter, &at);) {
        double error, norm;
        compare_row(r, head, &at, &error, &norm);
        errors += error;
        norms += norm;
    }
    double quotient = errors == 0 ? 0 : errors / norms;
    for (walk at = WALK_START; errors > 0 && step(meter, &at);) {
        double error, norm;
        compare_row(r, head, &at, &error, &norm);
        double off = (error - quotient * norm) / (norms / n);
        squares += off * off;
        cubes += off * off * off;
    }
    fga_head_quality *q = &r->call->heads[head];
    q->error_squared = quotient;
    q->error_off =
        errors == 0 ? (fga_uncertainty){0} : uncertainty(squares, cubes, meter->samples, meter->query.video_valid);
    q->error_sum = errors;
    q->norm_sum = norms;
}

static void judge_head(void *arg, int64_t head, int worker)
{
    (void)worker;
    const run *r = arg;
    if (r->call->skip != NULL && r->call->skip[head]) {
        return;
    }
    if (r->call->recall) {
        judge_recall(r, head);
    }
    if (r->call->error) {
        judge_error(r, head);
    }
}

/* The device looks at the samples, and the host reads what it saw. */
static fga_status look_on_device(const run *r)
{
    const fga_meter *meter = r->meter;
    fga_context *ctx = meter->dense.ctx;
    assert(r->call->attended); /* sessions attend before they judge there */
    FGA_TRY(fga_meter_probe_gpu(meter, r->call, r->call->workspace));
    size_t bytes = (size_t)(all_heads(meter) * meter->samples) * SAMPLE_FIGURES * sizeof(float);
    return fga_gpu_read(ctx, r->call->host, r->call->workspace, bytes, ctx->stream);
}

fga_status fga_meter_judge(const fga_meter *meter, const fga_judge_call *call)
{
    FGA_TRY(fga_check_workspace(meter->dense.ctx, call->workspace, meter->workspace_bytes));
    run r = start(meter, call);
    if (on_device(meter)) {
        FGA_TRY(look_on_device(&r));
        fga_parallel_for(meter->dense.ctx, all_heads(meter), judge_head, &r);
        return FGA_OK;
    }
    /* What attention itself leaves is enough, but for recall where L covers summaries too. */
    bool passes = !call->attended || (call->recall && call->args->remainder != NULL);
    r.twin = passes && !call->twin;
    if (!call->twin) {
        FGA_TRY(pack_samples(&r));
    }
    if (passes) {
        int64_t chunks = fga_ceil_div(meter->samples, meter->chunk);
        fga_parallel_for(meter->dense.ctx, all_heads(meter) * chunks, judge_chunk, &r);
    } else if (!call->twin) {
        FGA_TRY(attend_exactly(&r));
    }
    fga_parallel_for(meter->dense.ctx, all_heads(meter), judge_head, &r);
    return FGA_OK;
}

/* ---- over all heads ------------------------------------------------------------------------------------ */

/* Heap sort: in place, without an allocation. */
static void sort(double *x, int64_t n)
{
    for (int64_t build = n / 2, end = n; end > 1;) {
        if (build > 0) {
            build--;
        } else {
            double top = x[0];
            x[0] = x[--end];
            x[end] = top;
        }
        double value = x[build];
        int64_t hole = build;
        for (int64_t child; (child = 2 * hole + 1) < end; hole = child) {
            child += child + 1 < end && x[child + 1] > x[child];
            if (!(x[child] > value)) {
                break;
            }
            x[hole] = x[child];
        }
        x[hole] = value;
    }
}

/* Linear interpolation between the two nearest ranks of a sorted array. */
static double percentile(const double *sorted, int64_t n, double fraction)
{
    double at = fraction * (double)(n - 1);
    int64_t low = (int64_t)at;
    return low + 1 < n ? sorted[low] + (at - (double)low) * (sorted[low + 1] - sorted[low]) : sorted[n - 1];
}

void fga_meter_summarise(const fga_meter *meter, const fga_head_quality *heads, const fga_judge_call *call,
                         fga_quality *quality)
{
    run r = start(meter, call);
    int64_t count = all_heads(meter);
    double error = 0, norm = 0;
    assert(r.part.block != NULL); /* the caller's workspace */
    *quality = (fga_quality){.recall_worst = INFINITY, .queries = meter->samples};
    for (int64_t head = 0; head < count; head++) {
        double recall = heads[head].recall;
        quality->recall += recall / (double)count;
        if (!(recall >= quality->recall_worst)) { /* NaN shows */
            quality->recall_worst = recall;
        }
        error += heads[head].error_sum;
        norm += heads[head].norm_sum;
    }
    quality->output_error = error == 0 ? 0.0 : sqrt(error / norm);
    sort(r.part.block, count * meter->blocks);
    quality->recall_p05 = percentile(r.part.block, count * meter->blocks, 0.05);
}
