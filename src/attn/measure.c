/* measure.c - what sparsity cost, against exact dense attention on evenly spaced queries. */
#include "attn/measure.h"

#include "base/context.h"
#include "base/half.h"

#include <math.h>
#include <string.h>

fga_measure_args fga_measure_args_default(void)
{
    return (fga_measure_args){.size = sizeof(fga_measure_args), .attend = fga_attend_args_default(), .fraction = 0.02};
}

/* The r-th of the sampled queries, as a token: the middles of n equal parts of the valid video. */
static int64_t sample_token(const fga_meter *meter, int64_t r)
{
    return meter->query.prefix + (2 * r + 1) * meter->query.video_valid / (2 * meter->samples);
}

/* ---- workspace ------------------------------------------------------------------------------------ */

typedef struct parts {
    char *q, *o;   /* [batch][query_heads][samples][head_dim]: packed queries, and their dense outputs */
    float *lse;    /* [batch][query_heads][samples]: L of dense attention */
    double *head;  /* [batch*query_heads][3]: sums of recall, of squared error, of squared dense output */
    double *block; /* [batch*query_heads][blocks]: mean recall */
    void *attend;
} parts;

static bool lay_out(const fga_meter *meter, char *base, size_t *used, parts *p)
{
    const fga_attend_desc *d = &meter->dense.desc;
    int64_t heads = d->batch * d->query_heads, row = d->head_dim * (int64_t)fga_dtype_size(d->dtype);
    size_t at[7] = {0};
    const int64_t counts[6] = {
        heads * meter->samples, heads * meter->samples, heads * meter->samples, heads * 3, heads * meter->blocks, 1};
    const size_t sizes[6] = {(size_t)row,    (size_t)row,    sizeof(float),
                             sizeof(double), sizeof(double), meter->dense.workspace_bytes};
    for (int i = 0; i < 6; i++) {
        at[i + 1] = at[i];
        if (!fga_size_add(&at[i + 1], counts[i], sizes[i])) {
            return false;
        }
    }
    *used = at[6];
    if (base != NULL) {
        *p = (parts){
            base + at[0], base + at[1], (float *)(base + at[2]), (double *)(base + at[3]), (double *)(base + at[4]),
            base + at[5]};
    }
    return true;
}

fga_status fga_meter_init(fga_context *ctx, const fga_attend_desc *desc, const fga_sequence *query, double fraction,
                          fga_meter *meter)
{
    FGA_TRY(fga_check_sequence(ctx, "query", query));
    *meter = (fga_meter){.query = *query};
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
    fga_attend_desc dense = *desc;
    dense.query_len = meter->samples;
    dense.block_m = dense.tile_n = 0;
    FGA_TRY(fga_attend_plan_init(ctx, &dense, &meter->dense));
    meter->block_m = desc->block_m != 0 ? desc->block_m : meter->dense.rows;
    int64_t last = -1;
    for (int64_t r = 0; r < meter->samples; r++) {
        int64_t u = sample_token(meter, r) / meter->block_m;
        meter->blocks += u != last;
        last = u;
    }
    if (!lay_out(meter, NULL, &meter->workspace_bytes, NULL)) {
        return fga_context_fail(ctx, FGA_ERR_UNSUPPORTED, "%lld measured queries are too many",
                                (long long)meter->samples);
    }
    return FGA_OK;
}

/* ---- run ------------------------------------------------------------------------------------------ */

typedef struct run {
    const fga_meter *meter;
    const fga_measure_args *args;
    parts part;
} run;

static size_t row_bytes(const fga_attend_desc *d)
{
    return (size_t)d->head_dim * fga_dtype_size(d->dtype);
}

static void pack_head(void *arg, int64_t head, int worker)
{
    (void)worker;
    const run *r = arg;
    const fga_attend_desc *d = &r->meter->dense.desc;
    char *out = r->part.q + (size_t)(head * d->query_len) * row_bytes(d);
    for (int64_t i = 0; i < d->query_len; i++, out += row_bytes(d)) {
        int64_t token = sample_token(r->meter, i);
        memcpy(out, fga_tensor_row(&r->args->attend.q, head / d->query_heads, head % d->query_heads, token),
               row_bytes(d));
    }
}

/* exp(L_kept - L_dense); where dense attention has nothing to keep, nothing is lost. */
static double retained(float kept, float dense)
{
    return dense == -INFINITY ? 1.0 : exp((double)kept - (double)dense);
}

static void compare_head(void *arg, int64_t head, int worker)
{
    (void)worker;
    const run *r = arg;
    const fga_meter *meter = r->meter;
    const fga_attend_args *a = &r->args->attend;
    const fga_attend_desc *d = &meter->dense.desc;
    int64_t b = head / d->query_heads, h = head % d->query_heads, samples = d->query_len;
    const float *kept = a->lse + head * fga_sequence_length(&meter->query);
    const float *dense = r->part.lse + head * samples;
    double *sum = r->part.head + head * 3, *block = r->part.block + head * meter->blocks;
    int64_t u = -1, in_block = 0, blocks = 0;
    memset(sum, 0, 3 * sizeof *sum);
    for (int64_t i = 0; i < samples; i++) {
        int64_t token = sample_token(meter, i);
        float ours[FGA_MAX_HEAD_DIM], exact[FGA_MAX_HEAD_DIM];
        fga_to_f32(ours, fga_tensor_row(&a->o, b, h, token), d->dtype, d->head_dim);
        fga_to_f32(exact, r->part.o + (size_t)(head * samples + i) * row_bytes(d), d->dtype, d->head_dim);
        for (int64_t c = 0; c < d->head_dim; c++) {
            double difference = (double)ours[c] - (double)exact[c];
            sum[1] += difference * difference;
            sum[2] += (double)exact[c] * (double)exact[c];
        }
        double recall = retained(kept[token], dense[i]);
        sum[0] += recall;
        if (token / meter->block_m != u) {
            u = token / meter->block_m;
            block[blocks++] = 0;
            in_block = 0;
        }
        in_block++;
        block[blocks - 1] += (recall - block[blocks - 1]) / (double)in_block; /* running mean */
    }
}

static double relative_error(double error, double norm)
{
    return error == 0 ? 0.0 : sqrt(error / norm);
}

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

static void summarise(const run *r, fga_quality *quality)
{
    const fga_meter *meter = r->meter;
    const fga_attend_desc *d = &meter->dense.desc;
    int64_t heads = d->batch * d->query_heads;
    double error = 0, norm = 0;
    *quality = (fga_quality){.recall_worst = INFINITY, .queries = meter->samples};
    for (int64_t head = 0; head < heads; head++) {
        const double *sum = r->part.head + head * 3;
        double recall = sum[0] / (double)meter->samples;
        quality->recall += recall / (double)heads;
        if (!(recall >= quality->recall_worst)) { /* NaN shows */
            quality->recall_worst = recall;
        }
        error += sum[1];
        norm += sum[2];
        if (r->args->recall_heads != NULL) {
            r->args->recall_heads[head] = (float)recall;
        }
        if (r->args->error_heads != NULL) {
            r->args->error_heads[head] = (float)relative_error(sum[1], sum[2]);
        }
    }
    quality->output_error = relative_error(error, norm);
    sort(r->part.block, heads * meter->blocks);
    quality->recall_p05 = percentile(r->part.block, heads * meter->blocks, 0.05);
}

fga_status fga_meter_run(const fga_meter *meter, const fga_measure_args *args, const fga_sequence *key, void *workspace,
                         fga_quality *quality)
{
    const fga_attend_desc *d = &meter->dense.desc;
    fga_context *ctx = meter->dense.ctx;
    fga_shape queries = {d->batch, d->query_heads, fga_sequence_length(&meter->query), d->head_dim, d->dtype};
    FGA_TRY(fga_check_tensor(ctx, "q", &args->attend.q, &queries));
    FGA_TRY(fga_check_tensor(ctx, "o", &args->attend.o, &queries));
    FGA_TRY(fga_check_workspace(ctx, workspace, meter->workspace_bytes));
    if (args->attend.lse == NULL) {
        return fga_context_fail(ctx, FGA_ERR_ARGUMENT, "lse is NULL: recall is measured by it");
    }
    run r = {.meter = meter, .args = args};
    size_t used;
    lay_out(meter, workspace, &used, &r.part);
    int64_t heads = d->batch * d->query_heads;
    fga_parallel_for(ctx, heads, pack_head, &r);
    fga_attend_args dense = args->attend;
    dense.q = fga_tensor_bhsd(r.part.q, d->dtype, d->batch, d->query_heads, d->query_len, d->head_dim);
    dense.o = fga_tensor_bhsd(r.part.o, d->dtype, d->batch, d->query_heads, d->query_len, d->head_dim);
    dense.lse = r.part.lse;
    dense.mask = NULL;
    FGA_TRY(
        fga_attend_execute(&meter->dense, &(fga_attend_call){.args = &dense, .key = key, .workspace = r.part.attend}));
    fga_parallel_for(ctx, heads, compare_head, &r);
    summarise(&r, quality);
    return FGA_OK;
}

fga_status fga_measure_workspace(fga_context *ctx, const fga_attend_desc *desc, double fraction, size_t *bytes)
{
    if (desc == NULL || bytes == NULL) {
        return fga_context_fail(ctx, FGA_ERR_ARGUMENT, "%s is NULL", desc == NULL ? "desc" : "bytes");
    }
    fga_sequence query = fga_sequence_video(desc->query_len); /* the most that can be video */
    fga_meter meter;
    FGA_TRY(fga_meter_init(ctx, desc, &query, fraction, &meter));
    *bytes = meter.workspace_bytes;
    return FGA_OK;
}

fga_status fga_measure(fga_context *ctx, const fga_attend_desc *desc, const fga_measure_args *args, void *workspace,
                       fga_quality *quality)
{
    if (desc == NULL || args == NULL || quality == NULL) {
        return fga_context_fail(ctx, FGA_ERR_ARGUMENT, "%s is NULL",
                                desc == NULL   ? "desc"
                                : args == NULL ? "args"
                                               : "quality");
    }
    FGA_TRY(fga_check_struct(ctx, "fga_measure_args", args->size, sizeof *args));
    fga_meter meter;
    FGA_TRY(fga_meter_init(ctx, desc, &args->query, args->fraction, &meter));
    const fga_mask *mask = args->attend.mask;
    return fga_meter_run(&meter, args, mask != NULL ? &mask->desc.key : NULL, workspace, quality);
}
