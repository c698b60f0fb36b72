/* point.c - what a mask costs and what it loses, on the sampled queries. */
#include "inspect/inspect.h"

#include "base/context.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

typedef struct judgement {
    const fga_inspect *in;
    const fga_mask *mask;
    int32_t group;
    int64_t blocks;        /* of a head */
    const float *o, *kept; /* outputs with the mask; L over the kept keys alone */
    double *sums;          /* [query_heads][SUMS] */
    double *block;         /* [query_heads][blocks]: mean recall */
} judgement;

enum { RECALL, ERROR, NORM, KEPT, SUMMARIES, SUMS };

/* Keys kept by row u of a head, and groups that are not kept whole. */
static void count_row(const judgement *j, int64_t head, int64_t u, int64_t *keys, int64_t *groups)
{
    int64_t n = j->mask->desc.tile_n, tokens = j->in->tokens, begin, end;
    int64_t whole = 0, group_now = 0, in_group = 0; /* in_group: keys of group_now that were seen kept */
    *keys = 0;
    for (int64_t from = 0; fga_mask_next_run(j->mask, 0, head, u, from, &begin, &end); from = end) {
        int64_t key = begin * n, stop = fga_min(end * n, tokens);
        *keys += stop - key;
        while (j->group > 0 && key < stop) {
            int64_t group = key / j->group, group_end = fga_min((group + 1) * j->group, tokens);
            if (group != group_now) {
                group_now = group;
                in_group = 0;
            }
            in_group += fga_min(stop, group_end) - key;
            key = fga_min(stop, group_end);
            whole += in_group == group_end - group * j->group;
        }
    }
    *groups = j->group > 0 ? fga_ceil_div(tokens, j->group) - whole : 0;
}

static void judge_head(void *arg, int64_t head, int worker)
{
    (void)worker;
    const judgement *j = arg;
    const fga_inspect *in = j->in;
    double *sum = j->sums + head * SUMS, *block = j->block + head * j->blocks;
    memset(sum, 0, SUMS * sizeof *sum);
    for (int64_t u = 0; u < j->blocks; u++) {
        int64_t first = u * j->mask->desc.block_m, rows = fga_min(j->mask->desc.block_m, in->sample.rows - first);
        int64_t keys, groups;
        count_row(j, head, u, &keys, &groups);
        sum[KEPT] += (double)(rows * keys);
        sum[SUMMARIES] += (double)(rows * groups);
        block[u] = 0;
        for (int64_t i = head * in->sample.rows + first; rows > 0; i++, rows--) {
            double recall = exp((double)j->kept[i] - (double)in->sample.lse[i]);
            sum[RECALL] += recall;
            block[u] += recall;
            const float *ours = j->o + i * in->head_dim, *exact = in->sample.o + i * in->head_dim;
            for (int64_t c = 0; c < in->head_dim; c++) {
                double difference = (double)ours[c] - (double)exact[c];
                sum[ERROR] += difference * difference;
                sum[NORM] += (double)exact[c] * (double)exact[c];
            }
        }
        block[u] /= (double)fga_min(j->mask->desc.block_m, in->sample.rows - first);
    }
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double relative(double error, double norm)
{
    return error == 0 ? 0 : sqrt(error / norm);
}

static void sum_up(const judgement *j, fga_inspect_point *point)
{
    const fga_inspect *in = j->in;
    double heads = (double)in->query_heads, rows = (double)in->sample.rows, error = 0, norm = 0;
    double pairs = rows * (double)in->tokens;
    point->density = point->cost = point->recall = point->output_error_worst = 0;
    point->recall_worst = INFINITY;
    for (int64_t h = 0; h < in->query_heads; h++) {
        const double *sum = j->sums + h * SUMS;
        double recall = sum[RECALL] / rows, own = relative(sum[ERROR], sum[NORM]);
        double cost = (sum[KEPT] + sum[SUMMARIES]) / pairs;
        point->recall += recall / heads;
        point->recall_worst = recall < point->recall_worst ? recall : point->recall_worst;
        point->output_error_worst = own > point->output_error_worst ? own : point->output_error_worst;
        point->density += sum[KEPT] / pairs / heads;
        point->cost += cost / heads;
        error += sum[ERROR];
        norm += sum[NORM];
        if (point->recall_heads != NULL) {
            point->recall_heads[h] = (float)recall;
        }
        if (point->error_heads != NULL) {
            point->error_heads[h] = (float)own;
        }
        if (point->cost_heads != NULL) {
            point->cost_heads[h] = (float)cost;
        }
    }
    point->output_error = relative(error, norm);
    int64_t blocks = in->query_heads * j->blocks;
    qsort(j->block, (size_t)blocks, sizeof *j->block, by_value);
    double at = 0.05 * (double)(blocks - 1);
    int64_t low = (int64_t)at, high = fga_min(low + 1, blocks - 1);
    point->recall_p05 = j->block[low] + (at - (double)low) * (j->block[high] - j->block[low]);
}

/* The sums over groups of keys that summaries are made from. *memory is freed with fga_free. */
static fga_status sum_groups(fga_inspect *in, int32_t group, void **memory, fga_remainder *remainder)
{
    fga_attend_desc desc = fga_inspect_attend_desc(in, NULL);
    fga_attend_args args = fga_inspect_attend_args(in);
    size_t bytes;
    FGA_TRY(fga_remainder_place(in->ctx, &desc, group, NULL, &bytes, NULL));
    FGA_TRY(fga_inspect_alloc(in, (int64_t)bytes, 1, memory));
    FGA_TRY(fga_remainder_place(in->ctx, &desc, group, *memory, &bytes, remainder));
    return fga_remainder_fill(in->ctx, &desc, &args, NULL, remainder);
}

fga_status fga_inspect_make_mask(fga_inspect *in, int32_t block_m, int32_t tile_n, fga_mask **mask)
{
    fga_mask_desc desc = fga_mask_desc_default();
    desc.batch = 1;
    desc.heads = in->query_heads;
    desc.block_m = block_m;
    desc.tile_n = tile_n;
    desc.query = fga_sequence_video(in->sample.rows);
    desc.key = fga_sequence_video(in->tokens);
    return fga_mask_create(in->ctx, &desc, FGA_MASK_BITMAP, mask);
}

fga_status fga_inspect_judge(fga_inspect *in, const fga_mask *mask, int32_t group, fga_inspect_point *point)
{
    fga_status status;
    int64_t rows = in->query_heads * in->sample.rows;
    judgement j = {.in = in, .mask = mask, .group = group};
    j.blocks = fga_ceil_div(in->sample.rows, mask->desc.block_m);
    float *o = NULL, *lse = NULL;
    void *sums = NULL;
    FGA_CHECK(fga_inspect_alloc(in, rows * in->head_dim, sizeof *o, &o));
    FGA_CHECK(fga_inspect_alloc(in, rows, sizeof *lse, &lse));
    FGA_CHECK(fga_inspect_alloc(in, in->query_heads * SUMS, sizeof *j.sums, &j.sums));
    FGA_CHECK(fga_inspect_alloc(in, in->query_heads * j.blocks, sizeof *j.block, &j.block));
    FGA_CHECK(fga_inspect_attend(in, mask, NULL, o, lse));
    if (group > 0) { /* the outputs are those with summaries; recall stays that of the keys themselves */
        fga_remainder remainder;
        FGA_CHECK(sum_groups(in, group, &sums, &remainder));
        FGA_CHECK(fga_inspect_attend(in, mask, &remainder, o, NULL));
    }
    j.o = o;
    j.kept = lse;
    fga_parallel_for(in->ctx, in->query_heads, judge_head, &j);
    sum_up(&j, point);
cleanup:
    fga_free(in->ctx, sums);
    fga_free(in->ctx, o);
    fga_free(in->ctx, lse);
    fga_free(in->ctx, j.sums);
    fga_free(in->ctx, j.block);
    return status;
}
