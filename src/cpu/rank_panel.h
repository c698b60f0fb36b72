/* rank_panel.h - rank (ops.h) for any vector width, on the register tile of attention.
 *
 * Rows lie along the lanes, those of several blocks side by side, so that small blocks fill the vectors. Keys come in
 * chunks of whole tiles and groups: a chunk's logits are one product of the tile's kind, [key][PANEL]. Where the row's
 * sum must be known first, a chunk is kept as exp2(z - the largest so far) and a factor per chunk and row puts that
 * right when tiles are gathered; where it is known, or not needed, a chunk is gathered while it is hot. A tile is first
 * gathered lane by lane; LANES tiles are then turned over, so that rows of a block are added as vectors of tiles.
 */
#ifndef FGA_CPU_RANK_PANEL_H
#define FGA_CPU_RANK_PANEL_H

#include "cpu/tile.h"
#include "cpu/words_f32.h"

#include <float.h>
#include <math.h>

enum { RANK_KEYS = 128, RANK_MAX_KEYS = 256, RANK_ROWS = 4 * PANEL };

/* Where things lie in the caller's scratch; offsets in 32-bit words. */
typedef struct rank_layout {
    size_t query, strip, chunk, reference, max, sum, keys, tiles, total;
} rank_layout;

typedef struct rank_state {
    const fga_rank_op *op;
    rank_layout at;
    float *scratch;
    int64_t elements; /* what the softmax runs over: keys, or sub-tiles */
    int64_t chunks;
    int32_t rows;
    int panels, chunk_tiles;
    bool keeps; /* the strip: sums are found first */
    bool one;   /* all rows are of one block, and are added up before tiles are turned over */
} rank_state;

typedef struct rank_chunk {
    int64_t index, first_tile, last_tile, first, last; /* [first, last) elements */
    int64_t first_key;
    int keys;
    const char *source[RANK_MAX_KEYS]; /* rows of k, or of zeros for keys that are out; any past the last repeat it */
    const char *row[RANK_MAX_KEYS];    /* the same as f32 */
} rank_chunk;

static int rank_limit(const fga_rank_op *op)
{
    return op->kind == FGA_RANK_DEVIATION && op->group > RANK_KEYS ? op->group : RANK_KEYS;
}

static rank_state rank_plan(const fga_rank_op *op, int32_t rows)
{
    rank_state r = {.op = op, .rows = rows, .panels = part_count(rows, PANEL), .scratch = op->scratch};
    int limit = rank_limit(op);
    r.elements = op->sub_begin != NULL ? op->subs : op->keys;
    r.chunk_tiles = limit / op->tile_keys;
    r.chunks = (op->tiles + r.chunk_tiles - 1) / r.chunk_tiles;
    r.keeps = op->lse == NULL && op->kind != FGA_RANK_LSE && op->kind != FGA_RANK_LOGIT;
    r.one = op->blocks == 1 && (op->kind == FGA_RANK_MASS || op->kind == FGA_RANK_MAX);
    size_t panels = (size_t)r.panels, dim = (size_t)op->head_dim;
    rank_layout *at = &r.at;
    at->strip = at->query + panels * PANEL * dim;
    at->chunk = at->strip + (r.keeps ? panels * PANEL * (size_t)r.elements : 0);
    at->reference = at->chunk + 2 * (size_t)limit * PANEL;
    at->max = at->reference + (r.keeps ? panels * PANEL * (size_t)r.chunks : 0);
    at->sum = at->max + panels * PANEL;
    at->keys = at->sum + panels * PANEL;
    at->tiles = at->keys + (op->dtype == FGA_F32 ? 0 : (size_t)limit * dim);
    at->total = at->tiles + (size_t)LANES * (size_t)(limit > 2 * PANEL ? limit : 2 * PANEL);
    return r;
}

static size_t rank_scratch(const fga_rank_op *op, int32_t rows)
{
    return rank_plan(op, rows).at.total * sizeof(float);
}

static int rank_panel_rows(const rank_state *r, int panel)
{
    int left = r->rows - panel * PANEL;
    return left < PANEL ? left : PANEL;
}

static int rank_panel_vecs(const rank_state *r, int panel)
{
    return rank_panel_rows(r, panel) > LANES ? 2 : 1;
}

/* ---- rows and keys in ------------------------------------------------------------------------------------------- */

static void pack_rows(const rank_state *r, int panel)
{
    const fga_rank_op *op = r->op;
    int last = rank_panel_rows(r, panel) - 1;
    float *packed = r->scratch + r->at.query + (size_t)panel * PANEL * op->head_dim;
    const char *rows[PANEL];
    for (int i = 0; i < PANEL; i++) { /* lanes past the last row repeat it */
        rows[i] = (const char *)(op->q + (int64_t)(panel * PANEL + (i < last ? i : last)) * op->head_dim);
    }
    for (int v = 0; v < rank_panel_vecs(r, panel); v++) {
        for (int d = 0; d < op->head_dim; d += 4) {
            vec z[4];
            vec_load_rows(z, rows + v * LANES, 4 * d);
            vec_transpose4(z);
            for (int k = 0; k < 4; k++) {
                vec_store(packed + (d + k) * PANEL + v * LANES, z[k]);
            }
        }
    }
}

static void find_chunk(const rank_state *r, int64_t index, rank_chunk *c)
{
    const fga_rank_op *op = r->op;
    c->index = index;
    c->first_tile = index * r->chunk_tiles;
    c->last_tile = c->first_tile + r->chunk_tiles < op->tiles ? c->first_tile + r->chunk_tiles : op->tiles;
    c->first = op->tile_begin[c->first_tile];
    c->last = op->tile_begin[c->last_tile];
    c->first_key = op->sub_begin != NULL ? op->sub_begin[c->first] : c->first;
    c->keys = (int)((op->sub_begin != NULL ? op->sub_begin[c->last] : c->last) - c->first_key);
}

static void find_rows(const rank_state *r, rank_chunk *c)
{
    static const float zeros[256];
    const fga_rank_op *op = r->op;
    const float *bias = op->bias + c->first_key;
    for (int i = 0; i < c->keys; i++) {
        const char *row = element(op->k, (c->first_key + i) * op->k_stride, op->dtype);
        c->source[i] = bias[i] == -INFINITY ? (const char *)zeros : row;
    }
    for (int i = c->keys; i < rank_limit(op); i++) {
        c->source[i] = c->source[c->keys - 1];
    }
}

static void stage_chunk(const rank_state *r, rank_chunk *c)
{
    const fga_rank_op *op = r->op;
    float *staged = r->scratch + r->at.keys;
    if (op->dtype == FGA_F32) {
        memcpy(c->row, c->source, (size_t)c->keys * sizeof c->row[0]);
        return;
    }
    for (int i = 0; i < c->keys; i++) {
        bool out = op->bias[c->first_key + i] == -INFINITY; /* zeros are f32 already */
        c->row[i] =
            out ? c->source[i] : stage_row(c->source[i], op->dtype, op->head_dim, staged + (size_t)i * op->head_dim);
    }
}

/* ---- logits, in log2 units --------------------------------------------------------------------------------------- */

ALWAYS_INLINE void rank_tile(int n, int vecs, const fga_rank_op *op, const rank_chunk *c, int first, const float *query,
                             float *logits, const ahead *next)
{
    vec acc[TILE][2];
    tile_rows(n, vecs, acc, c->row, first, query, op->head_dim, next);
    vec scale = vec_set(op->scale * LOG2_E);
    for (int i = 0; i < n; i++) {
        vec bias = vec_set(op->bias[c->first_key + first + i] * LOG2_E);
        for (int v = 0; v < vecs; v++) {
            vec_store(logits + (first + i) * PANEL + v * LANES, vec_fma(acc[i][v], scale, bias));
        }
    }
}

ALWAYS_INLINE void rank_logits(int vecs, const fga_rank_op *op, const rank_chunk *c, const float *query, float *logits,
                               const ahead *next)
{
    split tiles = split_evenly(c->keys, TILE);
    for (int t = 0; t < tiles.parts; t++) {
        int first = split_begin(tiles, t), n = split_begin(tiles, t + 1) - first;
        switch (n) {
#define CASE(N) \
    case N: \
        rank_tile(N, vecs, op, c, first, query, logits, next); \
        break;
            EACH_TILE(CASE)
#undef CASE
        }
    }
}

/* Logits of keys become those of their sub-tiles: mean and half the variance of the keys that are not out. */
static void second_order(const rank_state *r, const rank_chunk *c, int vecs, const float *z, float *out)
{
    const fga_rank_op *op = r->op;
    for (int64_t e = c->first; e < c->last; e++) {
        int64_t begin = op->sub_begin[e], end = op->sub_begin[e + 1], count = 0;
        for (int64_t j = begin; j < end; j++) {
            count += op->bias[j] != -INFINITY;
        }
        vec share = vec_set(count > 0 ? 1.0f / (float)count : 0.0f);
        vec bias = vec_set(count > 0 ? op->sub_bias[e] * LOG2_E : -INFINITY);
        for (int v = 0; v < vecs; v++) {
            const float *first = z + (begin - c->first_key) * PANEL + v * LANES;
            vec sum = vec_set(0.0f), square = vec_set(0.0f);
            for (int64_t j = begin; j < end; j++) {
                if (op->bias[j] != -INFINITY) {
                    sum = vec_add(sum, vec_load(first + (j - begin) * PANEL));
                }
            }
            vec mean = vec_mul(sum, share);
            for (int64_t j = begin; j < end; j++) {
                if (op->bias[j] != -INFINITY) {
                    vec off = vec_sub(vec_load(first + (j - begin) * PANEL), mean);
                    square = vec_fma(off, off, square);
                }
            }
            vec half = vec_mul(share, vec_set(0.5f / LOG2_E));
            vec_store(out + (e - c->first) * PANEL + v * LANES, vec_add(vec_fma(square, half, mean), bias));
        }
    }
}

/* The chunk's logits to z [elements][PANEL]. */
static void chunk_logits(const rank_state *r, const rank_chunk *c, int panel, float *z, const ahead *next)
{
    const fga_rank_op *op = r->op;
    const float *query = r->scratch + r->at.query + (size_t)panel * PANEL * op->head_dim;
    float *raw = op->sub_begin != NULL ? r->scratch + r->at.chunk + (size_t)rank_limit(op) * PANEL : z;
    int vecs = rank_panel_vecs(r, panel);
    if (vecs == 2) {
        rank_logits(2, op, c, query, raw, next);
    } else {
        rank_logits(1, op, c, query, raw, next);
    }
    if (op->sub_begin != NULL) {
        second_order(r, c, vecs, raw, z);
    }
}

/* ---- softmax ----------------------------------------------------------------------------------------------------- */

/* z becomes exp2(z - m) of one vector of rows; returns the sum. */
static vec chunk_weights(const rank_chunk *c, float *z, vec m)
{
    vec sum = vec_set(0.0f);
    for (int64_t e = c->first; e < c->last; e++, z += PANEL) {
        vec p = vec_exp2(vec_sub(vec_load(z), m));
        sum = vec_add(sum, p);
        vec_store(z, p);
    }
    return sum;
}

/* Weights relative to the largest logit so far, which is noted for the chunk; the sum is carried along. */
static void keep_chunk(const rank_state *r, const rank_chunk *c, int panel, float *z)
{
    for (int v = 0; v < rank_panel_vecs(r, panel); v++) {
        size_t lane = (size_t)panel * PANEL + (size_t)v * LANES;
        float *max = r->scratch + r->at.max + lane, *sum = r->scratch + r->at.sum + lane, *from = z + v * LANES;
        vec before = vec_load(max), m = before;
        for (int64_t e = 0; e < c->last - c->first; e++) {
            m = vec_max(vec_load(from + e * PANEL), m);
        }
        vec total = vec_mul(vec_load(sum), vec_exp2(vec_sub(before, m)));
        vec_store(sum, vec_add(total, chunk_weights(c, from, m)));
        vec_store(max, m);
        vec_store(r->scratch + r->at.reference + ((size_t)panel * r->chunks + c->index) * PANEL + v * LANES, m);
    }
}

/* ---- gathering tiles ----------------------------------------------------------------------------------------------
 */

typedef struct gathering {
    const rank_state *r;
    const rank_chunk *c;
    int panel, vecs;
    const float *z; /* [elements][PANEL], of the chunk */
    vec factor[2];  /* what makes a kept weight the row's share of the score */
    vec mean[2];    /* DEVIATION: of the group that the last key was in, times factor */
} gathering;

ALWAYS_INLINE void group_mean(gathering *g, int vecs, int64_t key)
{
    const fga_rank_op *op = g->r->op;
    int64_t end = key + op->group < g->c->last ? key + op->group : g->c->last;
    vec share = vec_set(op->group_share[key / op->group]), sum[2] = {vec_set(0.0f), vec_set(0.0f)};
    for (int64_t j = key; j < end; j++) {
        for (int v = 0; v < vecs; v++) {
            sum[v] = vec_add(sum[v], vec_load(g->z + (j - g->c->first) * PANEL + v * LANES));
        }
    }
    for (int v = 0; v < vecs; v++) {
        g->mean[v] = vec_mul(vec_mul(sum[v], share), g->factor[v]);
    }
}

/* `count` tiles from `tile` on, each to PANEL words of out. */
ALWAYS_INLINE void gather_deviations(gathering *g, int vecs, int64_t tile, int count, float *out)
{
    const fga_rank_op *op = g->r->op;
    for (int i = 0; i < count; i++, out += PANEL) {
        vec sum[2] = {vec_set(0.0f), vec_set(0.0f)};
        for (int64_t j = op->tile_begin[tile + i]; j < op->tile_begin[tile + i + 1]; j++) {
            if ((j & (op->group - 1)) == 0) {
                group_mean(g, vecs, j);
            }
            vec apart = vec_set(op->apart[j]);
            for (int v = 0; v < vecs; v++) {
                vec p = vec_load(g->z + (j - g->c->first) * PANEL + v * LANES);
                vec off = vec_sub(vec_mul(p, g->factor[v]), g->mean[v]);
                sum[v] = vec_fma(vec_max(off, vec_sub(vec_set(0.0f), off)), apart, sum[v]);
            }
        }
        for (int v = 0; v < vecs; v++) {
            vec_store(out + v * LANES, sum[v]);
        }
    }
}

ALWAYS_INLINE void gather_weights(const gathering *g, int vecs, int64_t tile, int count, float *out)
{
    const fga_rank_op *op = g->r->op;
    bool largest = op->kind == FGA_RANK_MAX;
    for (int i = 0; i < count; i++, out += PANEL) {
        vec all[2] = {vec_set(0.0f), vec_set(0.0f)};
        for (int64_t e = op->tile_begin[tile + i]; e < op->tile_begin[tile + i + 1]; e++) {
            for (int v = 0; v < vecs; v++) {
                vec z = vec_load(g->z + (e - g->c->first) * PANEL + v * LANES);
                all[v] = largest ? vec_max(z, all[v]) : vec_add(z, all[v]);
            }
        }
        for (int v = 0; v < vecs; v++) {
            vec_store(out + v * LANES, vec_mul(all[v], g->factor[v]));
        }
    }
}

/* LOGIT: raw logits may be negative, so nothing is compared with 0. */
static void gather_logits(const gathering *g, int64_t tile, int count, float *out)
{
    memcpy(out, g->z + (tile - g->c->first_tile) * PANEL, (size_t)count * PANEL * sizeof *out);
}

/* The largest logit to out, the sum of weights relative to it to sums. */
static void gather_lse(const gathering *g, int64_t tile, float *out, float *sums)
{
    int64_t begin = g->r->op->tile_begin[tile], end = g->r->op->tile_begin[tile + 1];
    for (int v = 0; v < g->vecs; v++) {
        const float *z = g->z + (begin - g->c->first) * PANEL + v * LANES;
        vec m = vec_set(-FLT_MAX), sum = vec_set(0.0f);
        for (int64_t e = 0; e < end - begin; e++) {
            m = vec_max(vec_load(z + e * PANEL), m);
        }
        for (int64_t e = 0; e < end - begin; e++) {
            sum = vec_add(sum, vec_exp2(vec_sub(vec_load(z + e * PANEL), m)));
        }
        vec_store(out + v * LANES, m);
        vec_store(sums + v * LANES, vec_mul(sum, g->factor[v]));
    }
}

/* [LANES tiles][words] becomes [vecs * LANES][LANES tiles]. */
static void turn_over(const float *tiles, int words, int vecs, float *lanes)
{
    const char *rows[LANES];
    for (int i = 0; i < LANES; i++) {
        rows[i] = (const char *)(tiles + i * words);
    }
    for (int lane = 0; lane < vecs * LANES; lane += 4) {
        vec z[4];
        vec_load_rows(z, rows, 4 * lane);
        vec_transpose4(z);
        for (int k = 0; k < 4; k++) {
            vec_store(lanes + (lane + k) * LANES, z[k]);
        }
    }
}

/* Rows [first, last) of the panel, all of one block, into its scores of `count` tiles. */
static void join_rows(const fga_rank_op *op, const float *lanes, int first, int last, float *score, int count)
{
    vec all = vec_load_first(score, count);
    for (int row = first; row < last; row++) {
        vec x = vec_load(lanes + row * LANES);
        all = op->kind == FGA_RANK_MAX ? vec_max(x, all) : vec_add(x, all);
    }
    vec_store_first(score, all, count);
}

static void join_lse(const float *lanes, const float *sums, int first, int last, float *score, int count)
{
    vec m = vec_set(-FLT_MAX), sum = vec_set(0.0f);
    float largest[LANES], total[LANES];
    for (int row = first; row < last; row++) {
        m = vec_max(vec_load(lanes + row * LANES), m);
    }
    for (int row = first; row < last; row++) {
        sum = vec_fma(vec_load(sums + row * LANES), vec_exp2(vec_sub(vec_load(lanes + row * LANES), m)), sum);
    }
    vec_store(largest, m);
    vec_store(total, sum);
    for (int i = 0; i < count; i++) {
        float lse = largest[i] * 0.693147180559945309417f + logf(total[i]);
        float high = score[i] > lse ? score[i] : lse, low = score[i] > lse ? lse : score[i];
        score[i] = low == -INFINITY ? high : high + log1pf(expf(low - high)); /* a block's rows in an earlier panel */
    }
}

static void join_tiles(const gathering *g, int64_t tile, int count)
{
    const fga_rank_op *op = g->r->op;
    float lanes[PANEL * LANES], sums[PANEL * LANES];
    const float *tiles = g->r->scratch + g->r->at.tiles;
    turn_over(tiles, PANEL, g->vecs, lanes);
    if (op->kind == FGA_RANK_LSE) {
        turn_over(tiles + LANES * PANEL, PANEL, g->vecs, sums);
    }
    int begin = g->panel * PANEL, end = begin + rank_panel_rows(g->r, g->panel);
    for (int32_t b = 0; b < op->blocks; b++) {
        int first = op->row_begin[b] > begin ? op->row_begin[b] : begin;
        int last = op->row_begin[b + 1] < end ? op->row_begin[b + 1] : end;
        float *score = op->score + b * op->tiles + tile;
        if (first >= last) {
            continue;
        }
        if (op->kind == FGA_RANK_LSE) {
            join_lse(lanes, sums, first - begin, last - begin, score, count);
        } else {
            join_rows(op, lanes, first - begin, last - begin, score, count);
        }
    }
}

ALWAYS_INLINE void gather_tiles(gathering *g, int vecs, int64_t tile, int count)
{
    const fga_rank_op *op = g->r->op;
    float *tiles = g->r->scratch + g->r->at.tiles;
    switch (op->kind) {
    case FGA_RANK_DEVIATION:
        gather_deviations(g, vecs, tile, count, tiles);
        break;
    case FGA_RANK_LSE:
        for (int i = 0; i < count; i++) {
            gather_lse(g, tile + i, tiles + i * PANEL, tiles + (LANES + i) * PANEL);
        }
        break;
    case FGA_RANK_LOGIT:
        gather_logits(g, tile, count, tiles);
        break;
    default:
        gather_weights(g, vecs, tile, count, tiles);
    }
}

static void gather_chunk(gathering *g)
{
    for (int64_t tile = g->c->first_tile; tile < g->c->last_tile; tile += LANES) {
        int count = g->c->last_tile - tile < LANES ? (int)(g->c->last_tile - tile) : LANES;
        if (g->vecs == 2) {
            gather_tiles(g, 2, tile, count);
        } else {
            gather_tiles(g, 1, tile, count);
        }
        join_tiles(g, tile, count);
    }
}

/* ---- gathering for one block: its panels are added to each other, [chunk's tiles][LANES] ---------------------------
 */

/* Adds a panel's share of the chunk. With `known`, the row's L, z holds logits, else weights. */
ALWAYS_INLINE void add_panel(const gathering *g, int vecs, bool largest, const vec *known)
{
    const fga_rank_op *op = g->r->op;
    float *sums = g->r->scratch + g->r->at.tiles;
    for (int64_t tile = g->c->first_tile; tile < g->c->last_tile; tile++, sums += LANES) {
        vec all[2] = {vec_set(0.0f), vec_set(0.0f)};
        for (int64_t e = op->tile_begin[tile]; e < op->tile_begin[tile + 1]; e++) {
            for (int v = 0; v < vecs; v++) {
                vec z = vec_load(g->z + (e - g->c->first) * PANEL + v * LANES);
                z = known != NULL ? vec_exp2(vec_sub(z, known[v])) : z;
                all[v] = largest ? vec_max(z, all[v]) : vec_add(z, all[v]);
            }
        }
        vec sum = g->panel == 0 ? vec_set(0.0f) : vec_load(sums);
        for (int v = 0; v < vecs; v++) {
            vec share = vec_mul(all[v], g->factor[v]);
            sum = largest ? vec_max(share, sum) : vec_add(share, sum);
        }
        vec_store(sums, sum);
    }
}

static void add_any_panel(const gathering *g, const vec *known)
{
    bool largest = g->r->op->kind == FGA_RANK_MAX;
    if (g->vecs == 2 && known != NULL) {
        add_panel(g, 2, largest, known);
    } else if (g->vecs == 2) {
        add_panel(g, 2, largest, NULL);
    } else {
        add_panel(g, 1, largest, known);
    }
}

static void join_panels(const rank_state *r, const rank_chunk *c)
{
    float lanes[LANES * LANES];
    const float *sums = r->scratch + r->at.tiles;
    for (int64_t tile = c->first_tile; tile < c->last_tile; tile += LANES, sums += LANES * LANES) {
        int count = c->last_tile - tile < LANES ? (int)(c->last_tile - tile) : LANES;
        turn_over(sums, LANES, 1, lanes);
        join_rows(r->op, lanes, 0, LANES, r->op->score + tile, count);
    }
}

/* ---- the whole op ---------------------------------------------------------------------------------------------------
 */

/* Each row's weight, 1 where the kind has none; 0 past the last row, which the last lanes repeat. */
static vec row_weights(const rank_state *r, int panel, int v)
{
    float weight[LANES] = {0};
    for (int i = 0; i < LANES && panel * PANEL + v * LANES + i < r->rows; i++) {
        bool weighted = r->op->kind != FGA_RANK_MAX && r->op->kind != FGA_RANK_LOGIT;
        weight[i] = weighted ? r->op->weight[panel * PANEL + v * LANES + i] : 1.0f;
    }
    return vec_load(weight);
}

static vec known_lse(const rank_state *r, int panel, int v)
{
    float lse[LANES];
    for (int i = 0; i < LANES; i++) {
        int row = panel * PANEL + v * LANES + i;
        lse[i] = r->op->lse[row < r->rows ? row : r->rows - 1] * LOG2_E;
    }
    return vec_load(lse);
}

static size_t strip_at(const rank_state *r, const rank_chunk *c, int panel)
{
    return r->at.strip + ((size_t)panel * (size_t)r->elements + (size_t)c->first) * PANEL;
}

static void first_pass(const rank_state *r, const rank_chunk *c, int panel, const ahead *next)
{
    float *z = r->scratch + (r->keeps ? strip_at(r, c, panel) : r->at.chunk);
    chunk_logits(r, c, panel, z, next);
    if (r->keeps) {
        keep_chunk(r, c, panel, z);
        return;
    }
    gathering g = {.r = r, .c = c, .panel = panel, .vecs = rank_panel_vecs(r, panel), .z = z};
    vec known[2] = {vec_set(0.0f), vec_set(0.0f)};
    for (int v = 0; v < g.vecs; v++) {
        g.factor[v] = row_weights(r, panel, v);
        known[v] = r->op->lse != NULL ? known_lse(r, panel, v) : known[v];
    }
    if (r->one) {
        add_any_panel(&g, known);
        return;
    }
    for (int v = 0; v < g.vecs && r->op->lse != NULL; v++) {
        if (r->op->kind != FGA_RANK_LSE && r->op->kind != FGA_RANK_LOGIT) {
            chunk_weights(c, z + v * LANES, known[v]);
        }
    }
    gather_chunk(&g);
}

static void second_pass(const rank_state *r, const rank_chunk *c, int panel)
{
    gathering g = {.r = r, .c = c, .panel = panel, .vecs = rank_panel_vecs(r, panel)};
    g.z = r->scratch + strip_at(r, c, panel);
    for (int v = 0; v < g.vecs; v++) {
        size_t lane = (size_t)panel * PANEL + (size_t)v * LANES;
        const float *reference = r->scratch + r->at.reference + ((size_t)panel * r->chunks + c->index) * PANEL;
        vec shift = vec_exp2(vec_sub(vec_load(reference + v * LANES), vec_load(r->scratch + r->at.max + lane)));
        float share[LANES], sum[LANES];
        vec_store(share, vec_mul(shift, row_weights(r, panel, v)));
        vec_store(sum, vec_load(r->scratch + r->at.sum + lane));
        for (int i = 0; i < LANES; i++) { /* a row without a valid key has none of anything */
            share[i] = sum[i] == 0.0f ? 0.0f : share[i] / sum[i];
        }
        g.factor[v] = vec_load(share);
    }
    if (r->one) {
        add_any_panel(&g, NULL);
    } else {
        gather_chunk(&g);
    }
}

static void start_scores(const fga_rank_op *op)
{
    for (int32_t b = 0; b < op->blocks; b++) {
        bool rows = op->row_begin[b] < op->row_begin[b + 1];
        for (int64_t v = 0; v < op->tiles; v++) {
            op->score[b * op->tiles + v] = op->kind == FGA_RANK_LSE && rows ? -INFINITY : 0.0f;
        }
    }
}

static void rank(const fga_rank_op *op)
{
    start_scores(op);
    rank_state r = rank_plan(op, op->row_begin[op->blocks]);
    if (r.rows == 0 || op->tiles == 0) {
        return;
    }
    for (int panel = 0; panel < r.panels; panel++) {
        pack_rows(&r, panel);
    }
    for (int i = 0; i < r.panels * PANEL; i++) {
        r.scratch[r.at.max + (size_t)i] = -FLT_MAX; /* not -inf, as in attention */
        r.scratch[r.at.sum + (size_t)i] = 0.0f;
    }
    rank_chunk pair[2];
    find_chunk(&r, 0, &pair[0]);
    find_rows(&r, &pair[0]);
    for (int64_t i = 0; i < r.chunks; i++) {
        rank_chunk *c = &pair[i % 2], *coming = &pair[(i + 1) % 2];
        bool last = i + 1 == r.chunks;
        if (!last) {
            find_chunk(&r, i + 1, coming);
            find_rows(&r, coming);
        }
        stage_chunk(&r, c);
        for (int panel = 0; panel < r.panels; panel++) {
            bool fetches = panel == 0 && !last;
            ahead next = {{coming->source}, fetches ? 1 : 0, (int64_t)op->head_dim * (op->dtype == FGA_F32 ? 4 : 2)};
            first_pass(&r, c, panel, &next);
        }
        if (r.one && !r.keeps) {
            join_panels(&r, c);
        }
    }
    for (int64_t i = 0; r.keeps && i < r.chunks; i++) {
        rank_chunk *c = &pair[0];
        find_chunk(&r, i, c);
        for (int panel = 0; panel < r.panels; panel++) {
            second_pass(&r, c, panel);
        }
        if (r.one) {
            join_panels(&r, c);
        }
    }
}

#endif
