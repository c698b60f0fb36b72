/* best.c - the masks that a predictor with perfect knowledge would choose. */
#include "inspect/inspect.h"

#include "base/context.h"

#include <math.h>
#include <string.h>

typedef struct oracle {
    fga_inspect *in;
    const fga_inspect_best_desc *desc;
    int64_t blocks; /* of M queries in the sample, per head */
    float *scores;  /* [query_heads][blocks][tokens] */
    float *spread;  /* [kv_heads][tokens]: distance of V from its group's mean; NULL for mass */
    char *memory;
    size_t worker_bytes;
    fga_mask *mask;
    int64_t take; /* tiles per block */
} oracle;

/* ---- scores -------------------------------------------------------------------------------------- */

static void measure_spread(void *arg, int64_t head, int worker)
{
    (void)worker;
    const oracle *o = arg;
    const fga_inspect *in = o->in;
    int64_t dim = in->head_dim;
    const float *v = in->v + head * in->tokens * dim;
    for (int64_t first = 0; first < in->tokens; first += o->desc->group) {
        int64_t end = fga_min(first + o->desc->group, in->tokens);
        double mean[FGA_MAX_HEAD_DIM] = {0};
        for (int64_t j = first; j < end; j++) {
            for (int64_t c = 0; c < dim; c++) {
                mean[c] += (double)v[j * dim + c] / (double)(end - first);
            }
        }
        for (int64_t j = first; j < end; j++) {
            double sum = 0;
            for (int64_t c = 0; c < dim; c++) {
                sum += ((double)v[j * dim + c] - mean[c]) * ((double)v[j * dim + c] - mean[c]);
            }
            o->spread[head * in->tokens + j] = (float)sqrt(sum);
        }
    }
}

/* p_j becomes abs(p_j - mean of its group). */
static void deviate(const oracle *o, float *p)
{
    int64_t tokens = o->in->tokens;
    for (int64_t first = 0; first < tokens; first += o->desc->group) {
        int64_t end = fga_min(first + o->desc->group, tokens);
        double sum = 0;
        for (int64_t j = first; j < end; j++) {
            sum += (double)p[j];
        }
        float mean = (float)(sum / (double)(end - first));
        for (int64_t j = first; j < end; j++) {
            p[j] = fabsf(p[j] - mean);
        }
    }
}

static void score_block(void *arg, int64_t item, int worker)
{
    const oracle *o = arg;
    const fga_inspect *in = o->in;
    int64_t head = item / o->blocks, u = item % o->blocks, tokens = in->tokens;
    int64_t first = u * o->desc->block_m, rows = fga_min(o->desc->block_m, in->sample.rows - first);
    float *p = (float *)(void *)(o->memory + (size_t)worker * o->worker_bytes);
    fga_exact_rows(in, head, in->sample.q + (head * in->sample.rows + first) * in->head_dim, rows, p, NULL,
                   p + o->desc->block_m * tokens);
    float *score = o->scores + item * tokens;
    memset(score, 0, (size_t)tokens * sizeof *score);
    for (int64_t i = 0; i < rows; i++, p += tokens) {
        if (o->spread != NULL) {
            deviate(o, p);
        }
        for (int64_t j = 0; j < tokens; j++) {
            score[j] += p[j];
        }
    }
    const float *spread = o->spread != NULL ? o->spread + fga_inspect_kv_head(in, head) * tokens : NULL;
    for (int64_t j = 0; spread != NULL && j < tokens; j++) {
        score[j] *= spread[j];
    }
}

/* ---- selection ----------------------------------------------------------------------------------- */

static void select_row(void *arg, int64_t row, int worker)
{
    const oracle *o = arg;
    int64_t tokens = o->in->tokens, n = o->desc->tile_n, tiles = fga_ceil_div(tokens, n);
    uint64_t *work = (uint64_t *)(void *)(o->memory + (size_t)worker * o->worker_bytes);
    int32_t *rank = (int32_t *)(work + 2 * tokens);
    float *sums = (float *)(rank + tokens);
    const float *score = o->scores + row * tokens;
    for (int64_t v = 0; v < tiles; v++) {
        double sum = 0;
        for (int64_t j = v * n; j < fga_min((v + 1) * n, tokens); j++) {
            sum += (double)score[j];
        }
        sums[v] = (float)sum;
    }
    fga_rank(sums, tiles, rank, work);
    uint64_t *bits = fga_mask_bits(o->mask, row);
    for (int64_t i = 0; i < o->take; i++) {
        fga_bits_set(bits, rank[i], rank[i] + 1);
    }
    fga_mask_seal_row(o->mask, row);
}

static fga_status judge_density(oracle *o, double density, fga_inspect_point *point)
{
    fga_inspect *in = o->in;
    int64_t tiles = fga_ceil_div(in->tokens, o->desc->tile_n);
    if (!(density > 0 && density <= 1)) {
        return fga_context_fail(in->ctx, FGA_ERR_ARGUMENT, "density is %g, wanted above 0 and at most 1", density);
    }
    o->take = fga_max(1, fga_min(tiles, (int64_t)floor(density * (double)tiles + 0.5 + 1e-6)));
    FGA_TRY(fga_inspect_make_mask(in, o->desc->block_m, o->desc->tile_n, &o->mask));
    fga_status status;
    FGA_CHECK(fga_inspect_for(in, in->query_heads * o->blocks, select_row, o));
    fga_mask_seal(o->mask);
    FGA_CHECK(fga_inspect_judge(in, o->mask, o->desc->rest == FGA_REST_REMAINDER ? o->desc->group : 0, point));
cleanup:
    fga_mask_release(&o->mask);
    return status;
}

static fga_status check(fga_inspect *in, const fga_inspect_best_desc *d)
{
    FGA_TRY(fga_check_block_m(in->ctx, d->block_m));
    FGA_TRY(fga_check_tile_n(in->ctx, d->tile_n));
    return d->rest == FGA_REST_REMAINDER ? fga_check_group(in->ctx, d->group) : FGA_OK;
}

fga_status fga_inspect_best(fga_inspect *in, const fga_inspect_best_desc *desc, const double *densities, int count,
                            fga_inspect_point *points)
{
    if (in == NULL || desc == NULL || densities == NULL || points == NULL) {
        return fga_context_fail(in != NULL ? in->ctx : NULL, FGA_ERR_ARGUMENT, "%s is NULL",
                                in == NULL          ? "inspect"
                                : desc == NULL      ? "desc"
                                : densities == NULL ? "densities"
                                                    : "points");
    }
    FGA_TRY(check(in, desc));
    FGA_TRY(fga_inspect_arrange(in, desc->order, fga_inspect_unit_of(desc->block_m)));
    fga_status status = FGA_OK;
    oracle o = {.in = in, .desc = desc, .blocks = fga_ceil_div(in->sample.rows, desc->block_m)};
    size_t tokens = (size_t)in->tokens, probabilities = (size_t)desc->block_m * tokens * sizeof(float);
    size_t ranking = tokens * (2 * sizeof(uint64_t) + sizeof(int32_t) + sizeof(float));
    o.worker_bytes = probabilities + fga_exact_scratch(in);
    o.worker_bytes = ((o.worker_bytes > ranking ? o.worker_bytes : ranking) + 63) / 64 * 64;
    FGA_CHECK(fga_inspect_alloc(in, in->query_heads * o.blocks * in->tokens, sizeof *o.scores, &o.scores));
    FGA_CHECK(fga_inspect_alloc(in, fga_context_threads(in->ctx), o.worker_bytes, &o.memory));
    if (desc->rest == FGA_REST_REMAINDER) {
        FGA_CHECK(fga_inspect_alloc(in, in->kv_heads * in->tokens, sizeof *o.spread, &o.spread));
        fga_parallel_for(in->ctx, in->kv_heads, measure_spread, &o);
    }
    FGA_CHECK(fga_inspect_for(in, in->query_heads * o.blocks, score_block, &o));
    for (int i = 0; i < count; i++) {
        FGA_CHECK(judge_density(&o, densities[i], &points[i]));
    }
cleanup:
    fga_free(in->ctx, o.scores);
    fga_free(in->ctx, o.spread);
    fga_free(in->ctx, o.memory);
    return status;
}
