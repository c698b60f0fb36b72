/* bound.c - the provable bounds on recall, beside the recall that they bound. */
#include "inspect/inspect.h"

#include "attn/bounds.h"
#include "base/context.h"

#include <math.h>
#include <string.h>

enum { TILE = 128, SUB = 16, MOST_BLOCKS = 4, MOST_DENSITIES = 16 };

/* Sums over the densities' figures of one block. */
typedef struct part {
    fga_inspect_bound at[MOST_DENSITIES];
} part;

typedef struct bounding {
    const fga_inspect *in;
    const fga_inspect_bound *bounds;
    int count;
    int64_t units, sub_keys, tiles; /* units: blocks of a head that are looked at */
    part *parts;                    /* [query_heads][units] */
    char *memory;
} bounding;

typedef struct scratch {
    double *s, *z;             /* [SUB][sub_keys], [sub_keys] */
    int64_t *begin, *end;      /* [sub_keys] */
    float *estimated, *exact;  /* [tiles]: mass */
    int32_t *rank, *best_rank; /* [tiles] */
    uint64_t *work;            /* [2*tiles] */
} scratch;

enum { ARRAYS = 9 };

/* at[i]: where a worker's i-th array begins; at[ARRAYS]: what it takes. */
static void lay_out(const bounding *b, size_t at[ARRAYS + 1])
{
    size_t keys = (size_t)b->sub_keys, tiles = (size_t)b->tiles;
    const size_t bytes[ARRAYS] = {SUB * keys * 8, keys * 8,  keys * 8,  keys * 8,     tiles * 4,
                                  tiles * 4,      tiles * 4, tiles * 4, 2 * tiles * 8};
    at[0] = 0;
    for (int i = 0; i < ARRAYS; i++) {
        at[i + 1] = at[i] + (bytes[i] + 63) / 64 * 64;
    }
}

static scratch scratch_of(const bounding *b, int worker)
{
    size_t at[ARRAYS + 1];
    lay_out(b, at);
    char *memory = b->memory + (size_t)worker * at[ARRAYS];
    return (scratch){
        (double *)(void *)(memory + at[0]),  (double *)(void *)(memory + at[1]),  (int64_t *)(void *)(memory + at[2]),
        (int64_t *)(void *)(memory + at[3]), (float *)(void *)(memory + at[4]),   (float *)(void *)(memory + at[5]),
        (int32_t *)(void *)(memory + at[6]), (int32_t *)(void *)(memory + at[7]), (uint64_t *)(void *)(memory + at[8])};
}

/* mass [tiles] += weight * softmax of logits [sub_keys], summed per tile. */
static void add_mass(const bounding *b, const double *logits, double weight, float *mass)
{
    double most = -INFINITY, sum = 0;
    for (int64_t j = 0; j < b->sub_keys; j++) {
        most = fmax(most, logits[j]);
    }
    for (int64_t j = 0; j < b->sub_keys; j++) {
        sum += exp(logits[j] - most);
    }
    for (int64_t j = 0; j < b->sub_keys; j++) {
        mass[j * SUB / TILE] += (float)(weight * exp(logits[j] - most) / sum);
    }
}

static double top(const float *mass, const int32_t *rank, int64_t count)
{
    double sum = 0;
    for (int64_t i = 0; i < count; i++) {
        sum += (double)mass[rank[i]];
    }
    return fmin(sum, 1.0);
}

static void bound_block(void *arg, int64_t item, int worker)
{
    const bounding *b = arg;
    const fga_inspect *in = b->in;
    int64_t head = item / b->units, unit = (2 * (item % b->units) + 1) * in->sample.units / (2 * b->units);
    int64_t start = fga_sample_start(in, unit), rows = fga_sample_rows(in, unit), subs = fga_ceil_div(rows, SUB);
    scratch s = scratch_of(b, worker);
    memset(s.estimated, 0, (size_t)b->tiles * sizeof(float));
    memset(s.exact, 0, (size_t)b->tiles * sizeof(float));
    for (int64_t j = 0; j < b->sub_keys; j++) {
        s.begin[j] = j * SUB;
        s.end[j] = fga_min((j + 1) * SUB, in->tokens);
    }
    double eta = 0;
    for (int64_t i = 0; i < rows; i += SUB) {
        int64_t queries = fga_min(SUB, rows - i);
        fga_bound_input input = {.q = in->q + (head * in->tokens + start + i) * in->head_dim,
                                 .k = in->k + fga_inspect_kv_head(in, head) * in->tokens * in->head_dim,
                                 .begin = s.begin,
                                 .valid_end = s.end,
                                 .queries = queries,
                                 .sub_keys = b->sub_keys,
                                 .head_dim = in->head_dim,
                                 .scale = (double)in->scale};
        fga_bound_survey(&input, s.s, s.z, NULL);
        eta = fmax(eta, fga_bound_eta(s.s, s.z, queries, b->sub_keys));
        add_mass(b, s.z, (double)queries / (double)rows, s.estimated);
        for (int64_t q = 0; q < queries; q++) {
            add_mass(b, s.s + q * b->sub_keys, 1.0 / (double)rows, s.exact);
        }
    }
    fga_rank(s.estimated, b->tiles, s.rank, s.work);
    fga_rank(s.exact, b->tiles, s.best_rank, s.work);
    for (int i = 0; i < b->count; i++) {
        double wanted = floor(b->bounds[i].density * (double)b->tiles + 0.5 + 1e-6);
        int64_t kept = fga_max(1, fga_min(b->tiles, (int64_t)wanted));
        double best = top(s.exact, s.best_rank, kept);
        b->parts[item].at[i] =
            (fga_inspect_bound){.recall = top(s.exact, s.rank, kept),
                                .best_recall = best,
                                .from_mass = fga_bound_from_mass(eta, top(s.estimated, s.rank, kept)),
                                .against_best = fga_bound_against_best(eta, subs, best),
                                .against_count = fga_bound_against_count(eta, subs, kept, 0, b->tiles),
                                .eta = eta};
    }
}

static void average(const bounding *b, int i, fga_inspect_bound *out)
{
    int64_t blocks = b->in->query_heads * b->units;
    *out = (fga_inspect_bound){.density = out->density, .blocks = blocks};
    for (int64_t item = 0; item < blocks; item++) {
        const fga_inspect_bound *p = &b->parts[item].at[i];
        out->recall += p->recall / (double)blocks;
        out->best_recall += p->best_recall / (double)blocks;
        out->from_mass += p->from_mass / (double)blocks;
        out->against_best += p->against_best / (double)blocks;
        out->against_count += p->against_count / (double)blocks;
        out->eta += p->eta / (double)blocks;
    }
}

fga_status fga_inspect_bounds(fga_inspect *in, fga_order order, fga_inspect_bound *bounds, int count)
{
    if (in == NULL || bounds == NULL) {
        return fga_context_fail(in != NULL ? in->ctx : NULL, FGA_ERR_ARGUMENT, "%s is NULL",
                                in == NULL ? "inspect" : "bounds");
    }
    FGA_TRY(fga_check_range(in->ctx, "count", count, 0, MOST_DENSITIES));
    for (int i = 0; i < count; i++) {
        if (!(bounds[i].density > 0 && bounds[i].density <= 1)) {
            return fga_context_fail(in->ctx, FGA_ERR_ARGUMENT, "density is %g, wanted above 0 and at most 1",
                                    bounds[i].density);
        }
    }
    FGA_TRY(fga_inspect_arrange(in, order, FGA_INSPECT_UNIT));
    fga_status status;
    bounding b = {.in = in,
                  .bounds = bounds,
                  .count = count,
                  .units = fga_min(in->sample.units, MOST_BLOCKS),
                  .sub_keys = fga_ceil_div(in->tokens, SUB),
                  .tiles = fga_ceil_div(in->tokens, TILE)};
    size_t at[ARRAYS + 1];
    lay_out(&b, at);
    FGA_CHECK(fga_inspect_alloc(in, in->query_heads * b.units, sizeof *b.parts, &b.parts));
    FGA_CHECK(fga_inspect_alloc(in, fga_context_threads(in->ctx), at[ARRAYS], &b.memory));
    FGA_CHECK(fga_inspect_for(in, in->query_heads * b.units, bound_block, &b));
    for (int i = 0; i < count; i++) {
        average(&b, i, &bounds[i]);
    }
cleanup:
    fga_free(in->ctx, b.parts);
    fga_free(in->ctx, b.memory);
    return status;
}
