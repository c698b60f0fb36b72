/* sample.c - exact dense attention of evenly spaced queries, and what a mask keeps of it. */
#include "attn/measure.h"

#include "base/half.h"

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

static bool has_slots(const fga_meter *meter)
{
    return meter->desc.block_m != 0;
}

/* ---- workspace ------------------------------------------------------------------------------------ */

typedef struct parts {
    char *q, *o;           /* [batch][query_heads][samples][head_dim]: packed queries, and their dense outputs */
    float *lse;            /* [batch][query_heads][samples]: L of dense attention */
    double *block;         /* [batch*query_heads][blocks]: mean recall */
    int32_t *slot_block;   /* [blocks]: the block whose samples a slot holds */
    char *slot_q, *slot_o; /* [batch][query_heads][blocks][slot rows][head_dim]; rows past the samples are zero */
    float *slot_lse;       /* [batch][query_heads][blocks][slot rows] */
    void *attend;
} parts;

static bool lay_out(const fga_meter *meter, char *base, size_t *used, parts *p)
{
    int64_t heads = all_heads(meter), rows = heads * meter->samples;
    int64_t slots = has_slots(meter) ? heads * meter->slots.desc.query_len : 0;
    size_t attend = meter->dense.workspace_bytes;
    if (has_slots(meter) && meter->slots.workspace_bytes > attend) {
        attend = meter->slots.workspace_bytes;
    }
    size_t at[10] = {0};
    const int64_t counts[9] = {rows, rows, rows, heads * meter->blocks, meter->blocks, slots, slots, slots, 1};
    const size_t sizes[9] = {row_bytes(meter), row_bytes(meter), sizeof(float), sizeof(double), sizeof(int32_t),
                             row_bytes(meter), row_bytes(meter), sizeof(float), attend};
    for (int i = 0; i < 9; i++) {
        at[i + 1] = at[i];
        if (!fga_size_add(&at[i + 1], counts[i], sizes[i])) {
            return false;
        }
    }
    *used = at[9];
    if (base != NULL) {
        *p = (parts){base + at[0],
                     base + at[1],
                     (float *)(base + at[2]),
                     (double *)(base + at[3]),
                     (int32_t *)(base + at[4]),
                     base + at[5],
                     base + at[6],
                     (float *)(base + at[7]),
                     base + at[8]};
    }
    return true;
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

/* Samples are at least 1/fraction tokens apart. Kernels work in strips of queries, so a slot has the fewest rows that a
 * mask's block may have. */
static int32_t slot_rows(double fraction, int32_t block_m)
{
    static const int32_t sizes[] = {16, 32, 64, 128};
    for (int i = 0; i < 4; i++) {
        if (sizes[i] < block_m && floor(fraction * (double)block_m) + 1 <= (double)sizes[i]) {
            return sizes[i];
        }
    }
    return block_m;
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
    if (has_slots(meter)) {
        plan.block_m = slot_rows(fraction, desc->block_m);
        plan.tile_n = desc->tile_n;
        plan.query_len = meter->blocks * plan.block_m;
        FGA_TRY(fga_attend_plan_init(ctx, &plan, &meter->slots));
    }
    if (!lay_out(meter, NULL, &meter->workspace_bytes, NULL)) {
        return fga_context_fail(ctx, FGA_ERR_UNSUPPORTED, "%lld measured queries are too many",
                                (long long)meter->samples);
    }
    return FGA_OK;
}

/* ---- exact dense attention of the samples ------------------------------------------------------------ */

typedef struct run {
    const fga_meter *meter;
    const fga_attend_args *args;
    const fga_judge_call *call; /* when judging */
    parts part;
} run;

static run start(const fga_meter *meter, const fga_attend_args *args, void *workspace)
{
    run r = {.meter = meter, .args = args};
    size_t used;
    lay_out(meter, workspace, &used, &r.part);
    return r;
}

/* Walks the samples in order, and the slot and the row of it that each stands in. */
typedef struct walk {
    int64_t sample, token, slot, row;
} walk;

static bool step(const fga_meter *meter, walk *at)
{
    if (++at->sample == meter->samples) {
        return false;
    }
    int64_t token = sample_token(meter, at->sample), last = at->token;
    at->token = token;
    if (at->sample == 0 || token / meter->block_m != last / meter->block_m) {
        at->slot++;
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

static int64_t slot_at(const fga_meter *meter, int64_t head, const walk *at)
{
    return (head * meter->blocks + at->slot) * meter->slots.desc.block_m + at->row;
}

static void pack_head(void *arg, int64_t head, int worker)
{
    (void)worker;
    const run *r = arg;
    const fga_meter *meter = r->meter;
    size_t bytes = row_bytes(meter);
    int64_t heads = meter->desc.query_heads, slots = has_slots(meter) ? meter->slots.desc.query_len : 0;
    memset(r->part.slot_q + (size_t)(head * slots) * bytes, 0, (size_t)slots * bytes);
    for (walk at = WALK_START; step(meter, &at);) {
        const void *row = fga_tensor_row(&r->args->q, head / heads, head % heads, at.token);
        memcpy(r->part.q + (size_t)(head * meter->samples + at.sample) * bytes, row, bytes);
        if (slots > 0) {
            memcpy(r->part.slot_q + (size_t)slot_at(meter, head, &at) * bytes, row, bytes);
        }
    }
}

fga_status fga_meter_twin(const fga_meter *meter, const fga_attend_args *args, const fga_sequence *key, void *workspace)
{
    const fga_attend_desc *d = &meter->dense.desc;
    fga_context *ctx = meter->dense.ctx;
    fga_shape queries = {d->batch, d->query_heads, meter->desc.query_len, d->head_dim, d->dtype};
    FGA_TRY(fga_check_tensor(ctx, "q", &args->q, &queries));
    FGA_TRY(fga_check_workspace(ctx, workspace, meter->workspace_bytes));
    run r = start(meter, args, workspace);
    for (walk at = WALK_START; step(meter, &at);) {
        r.part.slot_block[at.slot] = (int32_t)(at.token / meter->block_m);
    }
    fga_parallel_for(ctx, all_heads(meter), pack_head, &r);
    fga_attend_args dense = *args;
    dense.q = fga_tensor_bhsd(r.part.q, d->dtype, d->batch, d->query_heads, d->query_len, d->head_dim);
    dense.o = fga_tensor_bhsd(r.part.o, d->dtype, d->batch, d->query_heads, d->query_len, d->head_dim);
    dense.lse = r.part.lse;
    dense.mask = NULL;
    dense.remainder = NULL;
    return fga_attend_execute(&meter->dense,
                              &(fga_attend_call){.args = &dense, .key = key, .workspace = r.part.attend});
}

/* ---- judging ---------------------------------------------------------------------------------------- */

/* The samples alone under the mask rows of their blocks. */
static fga_status attend_slots(const run *r, const fga_remainder *remainder)
{
    const fga_attend_desc *d = &r->meter->slots.desc;
    const parts *part = &r->part;
    fga_attend_args args = *r->args;
    args.q = fga_tensor_bhsd(part->slot_q, d->dtype, d->batch, d->query_heads, d->query_len, d->head_dim);
    args.o = fga_tensor_bhsd(part->slot_o, d->dtype, d->batch, d->query_heads, d->query_len, d->head_dim);
    args.lse = remainder == NULL ? part->slot_lse : NULL;
    args.remainder = remainder;
    fga_attend_slots slots = {part->slot_block, r->call->skip};
    return fga_attend_execute(&r->meter->slots,
                              &(fga_attend_call){.args = &args, .workspace = part->attend, .slots = &slots});
}

/* exp(L_kept - L_dense); where dense attention has nothing to keep, nothing is lost. */
static double retained(float kept, float dense)
{
    return dense == -INFINITY ? 1.0 : exp((double)kept - (double)dense);
}

/* Standard deviation of the mean of n of `all` values, from the sum of their squared differences from it. */
static double deviation(double squares, int64_t n, int64_t all)
{
    double unseen = 1 - (double)n / (double)all;
    return n > 1 ? sqrt(fmax(squares, 0) / ((double)(n - 1) * (double)n) * unseen) : (n == all ? 0.0 : INFINITY);
}

static void judge_recall(const run *r, int64_t head)
{
    const fga_meter *meter = r->meter;
    bool from_slots = !r->call->attended || r->args->remainder != NULL;
    const float *full = from_slots ? NULL : r->args->lse + head * meter->desc.query_len;
    const float *dense = r->part.lse + head * meter->samples;
    double *block = r->part.block + head * meter->blocks, mean = 0, squares = 0;
    for (walk at = WALK_START; step(meter, &at);) {
        float kept = from_slots ? r->part.slot_lse[slot_at(meter, head, &at)] : full[at.token];
        double recall = retained(kept, dense[at.sample]), before = recall - mean;
        mean += before / (double)(at.sample + 1);
        squares += before * (recall - mean);
        block[at.slot] = at.row == 0 ? recall : block[at.slot] + (recall - block[at.slot]) / (double)(at.row + 1);
    }
    r->call->heads[head].recall = mean;
    r->call->heads[head].recall_deviation = deviation(squares, meter->samples, meter->query.video_valid);
}

/* Squared difference from the dense output of a sample, and its own square. */
static void compare_row(const run *r, int64_t head, const walk *at, double *error, double *norm)
{
    const fga_meter *meter = r->meter;
    const fga_attend_desc *d = &meter->desc;
    float ours[FGA_MAX_HEAD_DIM], exact[FGA_MAX_HEAD_DIM];
    const void *row = r->call->attended
                          ? fga_tensor_row(&r->args->o, head / d->query_heads, head % d->query_heads, at->token)
                          : r->part.slot_o + (size_t)slot_at(meter, head, at) * row_bytes(meter);
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

/* The deviation of a quotient of sums: that of the mean of error - quotient * norm, over the mean norm. */
static void judge_error(const run *r, int64_t head)
{
    const fga_meter *meter = r->meter;
    double errors = 0, norms = 0, error_squares = 0, products = 0, norm_squares = 0;
    for (walk at = WALK_START; step(meter, &at);) {
        double error, norm;
        compare_row(r, head, &at, &error, &norm);
        errors += error;
        norms += norm;
        error_squares += error * error;
        products += error * norm;
        norm_squares += norm * norm;
    }
    double quotient = errors == 0 ? 0 : errors / norms, n = (double)meter->samples;
    double squares = error_squares - 2 * quotient * products + quotient * quotient * norm_squares;
    double deviated = deviation(squares, meter->samples, meter->query.video_valid);
    fga_head_quality *q = &r->call->heads[head];
    q->error_squared = quotient;
    q->error_squared_deviation = errors == 0 ? 0 : deviated / (norms / n);
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

fga_status fga_meter_judge(const fga_meter *meter, const fga_judge_call *call)
{
    run r = start(meter, call->args, call->workspace);
    r.call = call;
    const fga_remainder *remainder = call->args->remainder;
    bool unseen = !call->attended;
    if ((call->recall && (unseen || remainder != NULL)) || (unseen && call->error && remainder == NULL)) {
        FGA_TRY(attend_slots(&r, NULL));
    }
    if (unseen && call->error && remainder != NULL) {
        FGA_TRY(attend_slots(&r, remainder)); /* after the other: its outputs stay */
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

void fga_meter_summarise(const fga_meter *meter, const fga_head_quality *heads, void *workspace, fga_quality *quality)
{
    run r = start(meter, NULL, workspace);
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
