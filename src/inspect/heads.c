/* heads.c - how concentrated attention is, and how few tiles could hold it. */
#include "inspect/inspect.h"

#include "base/context.h"

#include <math.h>
#include <string.h>

enum { FINE = 16, FINES = FGA_INSPECT_UNIT / FINE }; /* queries of the smallest block; such blocks in a unit */

/* What one (head, sampled block) adds. */
typedef struct part {
    double entropy, effective_keys, self_frame;                           /* sums over queries */
    double pairs[FGA_INSPECT_M][FGA_INSPECT_N][FGA_INSPECT_RECALLS];      /* kept */
    double retained[FGA_INSPECT_M][FGA_INSPECT_N][FGA_INSPECT_DENSITIES]; /* sums of recall over queries */
    int64_t runs[FGA_INSPECT_RUN_BINS], run_keys[FGA_INSPECT_RUN_BINS];
} part;

/* One worker's arrays. */
typedef struct scratch {
    float *p;       /* [128][tokens] */
    float *fine;    /* [FINES][tokens]: sums of p over 16 queries */
    float *tiles;   /* [tokens] */
    int32_t *rank;  /* [tokens] */
    uint64_t *work; /* [2*tokens] */
    uint8_t *kept;  /* [tokens] */
    void *exact;
} scratch;

typedef struct survey {
    const fga_inspect *in;
    part *parts; /* [query_heads][units] */
    const fga_inspect_map *map;
    char *memory;
} survey;

enum { ARRAYS = 7 };

/* at[i]: where a worker's i-th array begins; at[ARRAYS]: what it takes. */
static void lay_out(const fga_inspect *in, size_t at[ARRAYS + 1])
{
    size_t tokens = (size_t)in->tokens;
    const size_t bytes[ARRAYS] = {FGA_INSPECT_UNIT * tokens * sizeof(float),
                                  FINES * tokens * sizeof(float),
                                  tokens * sizeof(float),
                                  tokens * sizeof(int32_t),
                                  2 * tokens * sizeof(uint64_t),
                                  tokens,
                                  fga_exact_scratch(in)};
    at[0] = 0;
    for (int i = 0; i < ARRAYS; i++) {
        at[i + 1] = at[i] + (bytes[i] + 63) / 64 * 64;
    }
}

static scratch scratch_of(const survey *job, int worker)
{
    size_t at[ARRAYS + 1];
    lay_out(job->in, at);
    char *memory = job->memory + (size_t)worker * at[ARRAYS];
    return (scratch){(float *)(void *)(memory + at[0]),
                     (float *)(void *)(memory + at[1]),
                     (float *)(void *)(memory + at[2]),
                     (int32_t *)(void *)(memory + at[3]),
                     (uint64_t *)(void *)(memory + at[4]),
                     (uint8_t *)(memory + at[5]),
                     memory + at[6]};
}

/* ---- one sampled block ----------------------------------------------------------------------------- */

static double own_frame(const fga_inspect *in, const float *p, int64_t token)
{
    int64_t frame = in->desc.height * in->desc.width, first = in->raster[token] / frame * frame;
    double sum = 0;
    for (int64_t j = 0; j < in->tokens; j++) {
        sum += in->raster[j] >= first && in->raster[j] < first + frame ? (double)p[j] : 0.0;
    }
    return sum;
}

/* fine[g] = sum of p over queries 16g ... */
static void add_up(const fga_inspect *in, const scratch *s, int64_t rows)
{
    memset(s->fine, 0, (size_t)(FINES * in->tokens) * sizeof *s->fine);
    for (int64_t i = 0; i < rows; i++) {
        float *sum = s->fine + i / FINE * in->tokens;
        const float *p = s->p + i * in->tokens;
        for (int64_t j = 0; j < in->tokens; j++) {
            sum[j] += p[j];
        }
    }
}

static void fill_map(const survey *job, const scratch *s, int64_t head, int64_t unit, int64_t rows)
{
    const fga_inspect *in = job->in;
    const fga_inspect_map *map = job->map;
    for (int64_t g = 0; g * FINE < rows; g++) {
        float *out = map->mass + (head * map->rows + unit * FINES + g) * map->columns;
        double queries = (double)fga_min(FINE, rows - g * FINE);
        for (int64_t c = 0; c < map->columns; c++) {
            int64_t end = (c + 1) * in->tokens / map->columns;
            double sum = 0;
            for (int64_t j = c * in->tokens / map->columns; j < end; j++) {
                sum += (double)s->fine[g * in->tokens + j];
            }
            out[c] = (float)(sum / queries);
        }
    }
}

static void count_runs(const fga_inspect *in, const scratch *s, int64_t kept, part *out)
{
    memset(s->kept, 0, (size_t)in->tokens);
    for (int64_t i = 0; i < kept; i++) {
        s->kept[s->rank[i]] = 1;
    }
    for (int64_t j = 0; j < in->tokens; j++) {
        int64_t begin = j;
        while (j < in->tokens && s->kept[j]) {
            j++;
        }
        int bin = 0;
        for (int64_t length = j - begin; length > 1 && bin < FGA_INSPECT_RUN_BINS - 1; length /= 2) {
            bin++;
        }
        out->runs[bin] += j > begin;
        out->run_keys[bin] += j - begin;
    }
}

/* s->tiles has the mass of `queries` queries on tiles of fga_inspect_n[n] keys. */
static void rank_tiles(const fga_inspect *in, const scratch *s, int m, int n, int64_t queries, part *out)
{
    int64_t size = fga_inspect_n[n], tiles = fga_ceil_div(in->tokens, size);
    fga_rank(s->tiles, tiles, s->rank, s->work);
    double total = 0;
    for (int64_t i = 0; i < tiles; i++) {
        total += (double)s->tiles[s->rank[i]];
    }
    int64_t counts[FGA_INSPECT_DENSITIES];
    for (int d = 0; d < FGA_INSPECT_DENSITIES; d++) {
        int64_t count = (int64_t)floor(fga_inspect_densities[d] * (double)tiles + 0.5 + 1e-6);
        counts[d] = fga_max(1, fga_min(count, tiles));
    }
    double sum = 0;
    int64_t keys = 0;
    int reached = 0;
    for (int64_t i = 0; i < tiles; i++) {
        int64_t tile = s->rank[i];
        sum += (double)s->tiles[tile];
        keys += fga_min(size, in->tokens - tile * size);
        for (; reached < FGA_INSPECT_RECALLS && sum >= fga_inspect_recalls[reached] * total; reached++) {
            out->pairs[m][n][reached] += (double)(queries * keys);
            if (m == FGA_INSPECT_M - 1 && n == 0 && reached == 0) {
                count_runs(in, s, i + 1, out);
            }
        }
        for (int d = 0; d < FGA_INSPECT_DENSITIES; d++) {
            out->retained[m][n][d] += counts[d] == i + 1 ? sum : 0;
        }
    }
}

/* All tile widths for the queries whose 16-query sums are fine[first ... end-1]. */
static void rank_block(const fga_inspect *in, const scratch *s, int m, int64_t first, int64_t end, int64_t queries,
                       part *out)
{
    memcpy(s->tiles, s->fine + first * in->tokens, (size_t)in->tokens * sizeof *s->tiles);
    for (int64_t g = first + 1; g < end; g++) {
        for (int64_t j = 0; j < in->tokens; j++) {
            s->tiles[j] += s->fine[g * in->tokens + j];
        }
    }
    for (int n = 0; n < FGA_INSPECT_N; n++) {
        rank_tiles(in, s, m, n, queries, out);
        int64_t tiles = fga_ceil_div(in->tokens, fga_inspect_n[n]);
        for (int64_t v = 0; 2 * v < tiles; v++) {
            s->tiles[v] = s->tiles[2 * v] + (2 * v + 1 < tiles ? s->tiles[2 * v + 1] : 0.0f);
        }
    }
}

static void survey_block(void *arg, int64_t item, int worker)
{
    const survey *job = arg;
    const fga_inspect *in = job->in;
    int64_t head = item / in->sample.units, unit = item % in->sample.units;
    int64_t start = fga_sample_start(in, unit), rows = fga_sample_rows(in, unit);
    part *out = &job->parts[item];
    *out = (part){0};
    scratch s = scratch_of(job, worker);
    double entropy[FGA_INSPECT_UNIT];
    fga_exact_rows(in, head, in->q + (head * in->tokens + start) * in->head_dim, rows, s.p, entropy, s.exact);
    for (int64_t i = 0; i < rows; i++) {
        out->entropy += entropy[i];
        out->effective_keys += exp(entropy[i]);
        out->self_frame += own_frame(in, s.p + i * in->tokens, start + i);
    }
    add_up(in, &s, rows);
    if (job->map != NULL) {
        fill_map(job, &s, head, unit, rows);
    }
    for (int m = 0; m < FGA_INSPECT_M; m++) {
        int64_t size = fga_inspect_m[m];
        for (int64_t first = 0; first < rows; first += size) {
            int64_t queries = fga_min(size, rows - first);
            rank_block(in, &s, m, first / FINE, fga_ceil_div(first + queries, FINE), queries, out);
        }
    }
}

/* ---- all of them --------------------------------------------------------------------------------- */

static void sum_up(const fga_inspect *in, const part *parts, fga_inspect_head *head)
{
    double queries = (double)in->sample.rows, pairs = queries * (double)in->tokens;
    *head = (fga_inspect_head){0};
    for (int64_t r = 0; r < in->sample.units; r++) {
        const part *p = &parts[r];
        head->entropy += p->entropy / queries;
        head->effective_keys += p->effective_keys / queries;
        head->self_frame += p->self_frame / queries;
        for (int m = 0; m < FGA_INSPECT_M; m++) {
            for (int n = 0; n < FGA_INSPECT_N; n++) {
                for (int i = 0; i < FGA_INSPECT_RECALLS; i++) {
                    head->sparsity[m][n][i] += p->pairs[m][n][i];
                }
                for (int i = 0; i < FGA_INSPECT_DENSITIES; i++) {
                    head->recall[m][n][i] += p->retained[m][n][i] / queries;
                }
            }
        }
        for (int b = 0; b < FGA_INSPECT_RUN_BINS; b++) {
            head->runs[b] += p->runs[b];
            head->run_keys[b] += p->run_keys[b];
        }
    }
    for (int m = 0; m < FGA_INSPECT_M; m++) {
        for (int n = 0; n < FGA_INSPECT_N; n++) {
            for (int i = 0; i < FGA_INSPECT_RECALLS; i++) {
                head->sparsity[m][n][i] = 1 - head->sparsity[m][n][i] / pairs;
            }
        }
    }
}

void fga_inspect_map_size(const fga_inspect *in, int64_t most_columns, fga_inspect_map *map)
{
    map->rows = fga_ceil_div(fga_inspect_queries(in), FINE); /* only the last block can be ragged */
    map->columns = fga_max(1, fga_min(most_columns, in->tokens));
}

fga_status fga_inspect_heads(fga_inspect *in, fga_order order, fga_inspect_head *heads, const fga_inspect_map *map)
{
    if (in == NULL || heads == NULL) {
        return fga_context_fail(in != NULL ? in->ctx : NULL, FGA_ERR_ARGUMENT, "%s is NULL",
                                in == NULL ? "inspect" : "heads");
    }
    FGA_TRY(fga_inspect_arrange(in, order, FGA_INSPECT_UNIT));
    fga_status status;
    int64_t items = in->query_heads * in->sample.units;
    survey job = {.in = in, .map = map};
    size_t at[ARRAYS + 1];
    lay_out(in, at);
    FGA_CHECK(fga_inspect_alloc(in, items, sizeof *job.parts, &job.parts));
    FGA_CHECK(fga_inspect_alloc(in, fga_context_threads(in->ctx), at[ARRAYS], &job.memory));
    FGA_CHECK(fga_inspect_for(in, items, survey_block, &job));
    for (int64_t h = 0; h < in->query_heads; h++) {
        sum_up(in, job.parts + h * in->sample.units, &heads[h]);
    }
cleanup:
    fga_free(in->ctx, job.parts);
    fga_free(in->ctx, job.memory);
    return status;
}

/* ---- one query ----------------------------------------------------------------------------------- */

fga_status fga_inspect_query(fga_inspect *in, int64_t head, int64_t query, float *p)
{
    if (in == NULL || p == NULL) {
        return fga_context_fail(in != NULL ? in->ctx : NULL, FGA_ERR_ARGUMENT, "%s is NULL",
                                in == NULL ? "inspect" : "p");
    }
    FGA_TRY(fga_check_range(in->ctx, "head", head, 0, in->query_heads - 1));
    FGA_TRY(fga_check_range(in->ctx, "query", query, 0, in->tokens - 1));
    fga_status status;
    void *work = NULL;
    float *ordered = NULL;
    FGA_CHECK(fga_inspect_alloc(in, (int64_t)fga_exact_scratch(in), 1, &work));
    FGA_CHECK(fga_inspect_alloc(in, in->tokens, sizeof *ordered, &ordered));
    int64_t place = 0;
    while (in->raster[place] != query) {
        place++;
    }
    fga_exact_rows(in, head, in->q + (head * in->tokens + place) * in->head_dim, 1, ordered, NULL, work);
    for (int64_t i = 0; i < in->tokens; i++) {
        p[in->raster[i]] = ordered[i];
    }
cleanup:
    fga_free(in->ctx, work);
    fga_free(in->ctx, ordered);
    return status;
}
