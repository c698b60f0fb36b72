/* rank_panel.h - rank (ops.h) for any vector width, on a product of rank_product.h.
 *
 * Rows lie along the lanes, those of several blocks side by side, so that small blocks fill the vectors. Keys come in
 * chunks of whole tiles and groups: a chunk's logits come from one product, [key][PANEL] for every panel. Where the
 * row's sum must be known first, a chunk is kept as exp2(z - the largest so far) and a factor per chunk and row puts
 * that right when tiles are gathered; where it is known, or not needed, a chunk is gathered while it is hot. A tile is
 * first gathered lane by lane; LANES tiles are then turned over, so that rows of a block are added as vectors of tiles.
 * Where blocks are alike, their rows are laid below each other, and added before that.
 */
#ifndef FGA_CPU_RANK_PANEL_H
#define FGA_CPU_RANK_PANEL_H

#include "cpu/rank_product.h"

#include <float.h>
#include <string.h>

/* Where things lie in the caller's scratch; offsets in 32-bit words. */
typedef struct rank_layout {
    size_t query, keys, strip, chunk, second, reference, max, sum, share, lanes, tiles, total;
} rank_layout;

/* Lanes dealt to blocks, so that a block's rows lie in the same lanes of several vectors: with fewer than LANES blocks
 * each has `parts` lanes, `width` apart, else there are several groups of LANES blocks. */
typedef struct rank_deal {
    int width, parts, panels; /* of a group */
} rank_deal;

typedef struct rank_state {
    const fga_rank_op *op;
    rank_layout at;
    float *scratch;
    int64_t elements; /* what the softmax runs over: keys, or sub-tiles */
    int64_t chunks;
    int32_t rows;
    int vecs, panels, chunk_tiles;
    bool keeps; /* the strip: sums are found first */
    bool dealt; /* rows of a block are added up before tiles are turned over */
    rank_deal deal;
} rank_state;

typedef struct rank_chunk {
    int64_t index, first_tile, last_tile, first, last; /* [first, last) elements */
    rank_keys keys;
} rank_chunk;

static rank_state rank_plan(const fga_rank_op *op, int32_t rows)
{
    rank_state r = {.op = op, .rows = rows, .vecs = part_count(rows, LANES), .scratch = op->scratch};
    int limit = rank_limit(op);
    r.panels = part_count(r.vecs, 2);
    r.elements = op->sub_begin != NULL ? op->subs : op->keys;
    r.chunk_tiles = limit / op->tile_keys;
    r.chunks = (op->tiles + r.chunk_tiles - 1) / r.chunk_tiles;
    r.keeps = op->lse == NULL && op->kind != FGA_RANK_LSE && op->kind != FGA_RANK_LOGIT;
    size_t panels = (size_t)r.panels, logits = (size_t)limit * PANEL; /* of a chunk and panel */
    rank_layout *at = &r.at;
    at->keys = at->query + product_rows_words(op, r.panels);
    at->strip = at->keys + product_keys_words(op);
    at->chunk = at->strip + (r.keeps ? panels * PANEL * (size_t)r.elements : 0);
    at->second = at->chunk + (r.panels < PRODUCT_PANELS ? panels : PRODUCT_PANELS) * logits;
    at->reference = at->second + (op->sub_begin != NULL ? logits : 0);
    at->max = at->reference + (r.keeps ? panels * PANEL * (size_t)r.chunks : 0);
    at->sum = at->max + panels * PANEL;
    at->share = at->sum + panels * PANEL;
    at->lanes = at->share + panels * PANEL;
    at->tiles = at->lanes + panels * PANEL;
    at->total = at->tiles + (size_t)LANES * (size_t)(limit > 2 * PANEL ? limit : 2 * PANEL);
    return r;
}

static size_t rank_scratch(const fga_rank_op *op, int32_t rows)
{
    return rank_plan(op, rows).at.total * sizeof(float);
}

/* ---- rows to lanes ----------------------------------------------------------------------------------------------- */

/* Whether lanes can be dealt, in as many panels as the rows would fill without. */
static bool deal_lanes(rank_state *r)
{
    const fga_rank_op *op = r->op;
    int most = 0, groups = part_count(op->blocks, LANES);
    for (int32_t b = 0; b < op->blocks; b++) {
        int rows = op->row_begin[b + 1] - op->row_begin[b];
        most = rows > most ? rows : most;
    }
    rank_deal deal = {.width = op->blocks < LANES ? op->blocks : LANES};
    deal.parts = LANES / deal.width;
    int vecs = part_count(most, deal.parts);
    deal.panels = part_count(vecs, 2);
    bool added = op->kind == FGA_RANK_MASS || op->kind == FGA_RANK_MAX || op->kind == FGA_RANK_DEVIATION;
    if (!added || groups * deal.panels > r->panels) {
        return false;
    }
    r->deal = deal;
    r->panels = groups * deal.panels;
    r->vecs = groups > 1 ? 2 * r->panels : vecs;
    return true;
}

static int32_t dealt_row(const rank_state *r, int vector, int lane)
{
    const fga_rank_op *op = r->op;
    int vecs = 2 * r->deal.panels, part = lane / r->deal.width;
    int b = vector / vecs * LANES + lane % r->deal.width;
    if (part >= r->deal.parts || b >= op->blocks) {
        return NO_ROW;
    }
    int row = op->row_begin[b] + vector % vecs * r->deal.parts + part;
    return row < op->row_begin[b + 1] ? row : NO_ROW;
}

/* Which row lies in a lane, and what a call knows of it. */
static void fill_lanes(rank_state *r)
{
    const fga_rank_op *op = r->op;
    int32_t *lanes = (int32_t *)(r->scratch + r->at.lanes);
    float *max = r->scratch + r->at.max, *sum = r->scratch + r->at.sum, *share = r->scratch + r->at.share;
    bool weighted = op->kind != FGA_RANK_MAX && op->kind != FGA_RANK_LOGIT;
    r->dealt = deal_lanes(r);
    for (int i = 0; i < r->panels * PANEL; i++) {
        int32_t row = r->dealt ? dealt_row(r, i / LANES, i % LANES) : i < r->rows ? i : NO_ROW;
        lanes[i] = row;
        max[i] = op->lse == NULL ? -FLT_MAX /* not -inf, as in attention */
                 : row == NO_ROW ? FLT_MAX
                                 : op->lse[row] * LOG2_E;
        sum[i] = 0.0f;
        share[i] = row == NO_ROW ? 0.0f : weighted ? op->weight[row] : 1.0f;
    }
}

/* Sums are known: a row without a valid key has none of anything. */
static void settle_shares(const rank_state *r)
{
    const float *sum = r->scratch + r->at.sum;
    float *share = r->scratch + r->at.share;
    for (int i = 0; i < r->panels * PANEL; i++) {
        share[i] = sum[i] == 0.0f ? 0.0f : share[i] / sum[i];
    }
}

/* ---- chunks ------------------------------------------------------------------------------------------------------ */

static void find_chunk(const rank_state *r, int64_t index, rank_chunk *c)
{
    const fga_rank_op *op = r->op;
    c->index = index;
    c->first_tile = index * r->chunk_tiles;
    c->last_tile = c->first_tile + r->chunk_tiles < op->tiles ? c->first_tile + r->chunk_tiles : op->tiles;
    c->first = op->tile_begin[c->first_tile];
    c->last = op->tile_begin[c->last_tile];
    c->keys.first = op->sub_begin != NULL ? op->sub_begin[c->first] : c->first;
    c->keys.count = (int)((op->sub_begin != NULL ? op->sub_begin[c->last] : c->last) - c->keys.first);
}

static size_t strip_at(const rank_state *r, const rank_chunk *c, int panel)
{
    return r->at.strip + ((size_t)panel * (size_t)r->elements + (size_t)c->first) * PANEL;
}

/* ---- logits, in log2 units --------------------------------------------------------------------------------------- */

/* Dot products become logits; returns the largest of each lane. */
ALWAYS_INLINE void scale_products(int vecs, const fga_rank_op *op, const rank_keys *keys, float *z, vec largest[2])
{
    vec scale = vec_set(op->scale * LOG2_E), unit = vec_set(LOG2_E);
    for (int i = 0; i < keys->count; i++, z += PANEL) {
        vec bias = vec_mul(vec_set(op->bias[keys->first + i]), unit);
        for (int v = 0; v < vecs; v++) {
            vec logit = vec_fma(vec_load(z + v * LANES), scale, bias);
            largest[v] = vec_max(logit, largest[v]);
            vec_store(z + v * LANES, logit);
        }
    }
}

/* Logits of keys become those of their sub-tiles: mean and half the variance of the keys that are not out. */
static void second_order(const rank_state *r, const rank_chunk *c, int vecs, const float *z, float *out, vec largest[2])
{
    const fga_rank_op *op = r->op;
    for (int64_t e = c->first; e < c->last; e++) {
        int64_t begin = op->sub_begin[e], end = op->sub_begin[e + 1], count = 0;
        for (int64_t j = begin; j < end; j++) {
            count += !key_is_out(op, j);
        }
        vec share = vec_set(count > 0 ? 1.0f / (float)count : 0.0f);
        vec bias = vec_set(count > 0 ? op->sub_bias[e] * LOG2_E : -INFINITY);
        for (int v = 0; v < vecs; v++) {
            const float *first = z + (begin - c->keys.first) * PANEL + v * LANES;
            vec sum = vec_set(0.0f), square = vec_set(0.0f);
            for (int64_t j = begin; j < end; j++) {
                if (!key_is_out(op, j)) {
                    sum = vec_add(sum, vec_load(first + (j - begin) * PANEL));
                }
            }
            vec mean = vec_mul(sum, share);
            for (int64_t j = begin; j < end; j++) {
                if (!key_is_out(op, j)) {
                    vec off = vec_sub(vec_load(first + (j - begin) * PANEL), mean);
                    square = vec_fma(off, off, square);
                }
            }
            vec half = vec_mul(share, vec_set(0.5f / LOG2_E));
            vec logit = vec_add(vec_fma(square, half, mean), bias);
            largest[v] = vec_max(logit, largest[v]);
            vec_store(out + (e - c->first) * PANEL + v * LANES, logit);
        }
    }
}

/* Makes the panel's products into logits, [elements][PANEL], and finds the largest of each lane. */
static float *chunk_logits(const rank_state *r, const rank_chunk *c, int panel, vec largest[2])
{
    const fga_rank_op *op = r->op;
    float *z = r->scratch + r->at.chunk + (size_t)(panel % PRODUCT_PANELS) * (size_t)rank_limit(op) * PANEL;
    largest[0] = largest[1] = vec_set(-FLT_MAX); /* not -inf, as in attention */
    if (vecs_of_panel(r->vecs, panel) == 2) {
        scale_products(2, op, &c->keys, z, largest);
    } else {
        scale_products(1, op, &c->keys, z, largest);
    }
    if (op->sub_begin == NULL) {
        return z;
    }
    largest[0] = largest[1] = vec_set(-FLT_MAX);
    second_order(r, c, vecs_of_panel(r->vecs, panel), z, r->scratch + r->at.second, largest);
    return r->scratch + r->at.second;
}

/* ---- softmax ----------------------------------------------------------------------------------------------------- */

/* exp2(z - m) of one vector of rows to p, which may be z; returns the sum. */
static vec chunk_weights(const rank_chunk *c, const float *z, vec m, float *p)
{
    vec sum = vec_set(0.0f);
    for (int64_t e = c->first; e < c->last; e++, z += PANEL, p += PANEL) {
        vec weight = vec_exp2(vec_sub(vec_load(z), m));
        sum = vec_add(sum, weight);
        vec_store(p, weight);
    }
    return sum;
}

/* Weights relative to the largest logit so far, which is noted for the chunk; the sum is carried along. */
static void keep_chunk(const rank_state *r, const rank_chunk *c, int panel, const float *z, const vec largest[2])
{
    float *kept = r->scratch + strip_at(r, c, panel);
    for (int v = 0; v < vecs_of_panel(r->vecs, panel); v++) {
        size_t lane = (size_t)panel * PANEL + (size_t)v * LANES;
        float *max = r->scratch + r->at.max + lane, *sum = r->scratch + r->at.sum + lane;
        vec before = vec_load(max), m = vec_max(largest[v], before);
        vec total = vec_mul(vec_load(sum), vec_exp2(vec_sub(before, m)));
        vec_store(sum, vec_add(total, chunk_weights(c, z + v * LANES, m, kept + v * LANES)));
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
    bool logits;    /* z are logits, and the sums of their rows known, else weights */
    vec known[2];   /* L of the rows, in log2 units */
    vec factor[2];  /* what makes a weight the row's share of the score */
    vec mean[2];    /* DEVIATION: of the group that the last key was in */
} gathering;

ALWAYS_INLINE void group_mean(gathering *g, int vecs, int64_t key)
{
    const fga_rank_op *op = g->r->op;
    int64_t end = key + op->group < g->c->last ? key + op->group : g->c->last, count = end - key, j = 0;
    const float *z = g->z + (key - g->c->first) * PANEL;
    vec zero = vec_set(0.0f), sum[4][2] = {{zero, zero}, {zero, zero}, {zero, zero}, {zero, zero}};
    for (; j + 4 <= count; j += 4) { /* an addition need not wait for the one before */
        for (int i = 0; i < 4; i++) {
            for (int v = 0; v < vecs; v++) {
                sum[i][v] = vec_add(sum[i][v], vec_load(z + (j + i) * PANEL + v * LANES));
            }
        }
    }
    for (; j < count; j++) {
        for (int v = 0; v < vecs; v++) {
            sum[0][v] = vec_add(sum[0][v], vec_load(z + j * PANEL + v * LANES));
        }
    }
    vec share = vec_set(op->group_share[key / op->group]);
    for (int v = 0; v < vecs; v++) {
        g->mean[v] = vec_mul(vec_add(vec_add(sum[0][v], sum[1][v]), vec_add(sum[2][v], sum[3][v])), share);
    }
}

/* What a tile has of the weights: their sum, the largest, or the sum of how far they are from their group's mean. */
ALWAYS_INLINE void tile_weights(gathering *g, int vecs, fga_rank_kind kind, bool logits, int64_t tile, vec all[2])
{
    const fga_rank_op *op = g->r->op;
    all[0] = all[1] = vec_set(0.0f);
    for (int64_t e = op->tile_begin[tile]; e < op->tile_begin[tile + 1]; e++) {
        if (kind == FGA_RANK_DEVIATION && (e & (op->group - 1)) == 0) {
            group_mean(g, vecs, e);
        }
        for (int v = 0; v < vecs; v++) {
            vec p = vec_load(g->z + (e - g->c->first) * PANEL + v * LANES);
            p = logits ? vec_exp2(vec_sub(p, g->known[v])) : p;
            if (kind == FGA_RANK_DEVIATION) {
                all[v] = vec_fma(vec_abs(vec_sub(p, g->mean[v])), vec_set(op->apart[e]), all[v]);
            } else {
                all[v] = kind == FGA_RANK_MAX ? vec_max(p, all[v]) : vec_add(p, all[v]);
            }
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
static void turn_tiles(const float *tiles, int words, int vecs, float *lanes)
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
    turn_tiles(tiles, PANEL, g->vecs, lanes);
    if (op->kind == FGA_RANK_LSE) {
        turn_tiles(tiles + LANES * PANEL, PANEL, g->vecs, sums);
    }
    int begin = g->panel * PANEL, end = g->r->rows - begin < PANEL ? g->r->rows : begin + PANEL;
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

/* Tiles of rows as they come: each is kept as lanes, and blocks are told apart when they are turned over. */
ALWAYS_INLINE void gather_tiles(gathering *g, int vecs, fga_rank_kind kind, bool logits)
{
    float *tiles = g->r->scratch + g->r->at.tiles;
    for (int64_t tile = g->c->first_tile; tile < g->c->last_tile; tile += LANES) {
        int count = g->c->last_tile - tile < LANES ? (int)(g->c->last_tile - tile) : LANES;
        if (kind == FGA_RANK_LOGIT) {
            gather_logits(g, tile, count, tiles);
        }
        for (int i = 0; i < count && kind == FGA_RANK_LSE; i++) {
            gather_lse(g, tile + i, tiles + i * PANEL, tiles + (LANES + i) * PANEL);
        }
        for (int i = 0; i < count && kind != FGA_RANK_LOGIT && kind != FGA_RANK_LSE; i++) {
            vec all[2];
            tile_weights(g, vecs, kind, logits, tile + i, all);
            for (int v = 0; v < vecs; v++) {
                vec_store(tiles + i * PANEL + v * LANES, vec_mul(all[v], g->factor[v]));
            }
        }
        join_tiles(g, tile, count);
    }
}

/* ---- gathering with lanes dealt to blocks: a group's vectors are added to each other, [chunk's tiles][LANES] -------
 */

ALWAYS_INLINE void add_tiles(gathering *g, int vecs, fga_rank_kind kind, bool logits)
{
    float *sums = g->r->scratch + g->r->at.tiles;
    bool first = g->panel % g->r->deal.panels == 0;
    for (int64_t tile = g->c->first_tile; tile < g->c->last_tile; tile++, sums += LANES) {
        vec all[2], sum = first ? vec_set(0.0f) : vec_load(sums);
        tile_weights(g, vecs, kind, logits, tile, all);
        for (int v = 0; v < vecs; v++) {
            sum =
                kind == FGA_RANK_MAX ? vec_max(vec_mul(all[v], g->factor[v]), sum) : vec_fma(all[v], g->factor[v], sum);
        }
        vec_store(sums, sum);
    }
}

/* The same for tiles of single keys, whose apart comes after the lanes' sum. */
ALWAYS_INLINE void add_single_deviations(gathering *g, int vecs)
{
    const fga_rank_op *op = g->r->op;
    float *sums = g->r->scratch + g->r->at.tiles;
    const float *z = g->z;
    bool first = g->panel % g->r->deal.panels == 0;
    for (int64_t key = g->c->first; key < g->c->last; key += op->group) {
        int64_t end = key + op->group < g->c->last ? key + op->group : g->c->last;
        group_mean(g, vecs, key);
        for (int64_t j = key; j < end; j++, z += PANEL, sums += LANES) {
            vec all = vec_mul(vec_abs(vec_sub(vec_load(z), g->mean[0])), g->factor[0]);
            if (vecs == 2) {
                all = vec_fma(vec_abs(vec_sub(vec_load(z + LANES), g->mean[1])), g->factor[1], all);
            }
            vec_store(sums, vec_fma(all, vec_set(op->apart[j]), first ? vec_set(0.0f) : vec_load(sums)));
        }
    }
}

/* The sums of a group's lanes into the scores of its blocks. */
static void join_group(const rank_state *r, const rank_chunk *c, int index)
{
    const fga_rank_op *op = r->op;
    float lanes[LANES * LANES];
    const float *sums = r->scratch + r->at.tiles;
    int first = index * LANES, blocks = op->blocks - first < LANES ? op->blocks - first : LANES;
    for (int64_t tile = c->first_tile; tile < c->last_tile; tile += LANES, sums += LANES * LANES) {
        int count = c->last_tile - tile < LANES ? (int)(c->last_tile - tile) : LANES;
        turn_tiles(sums, LANES, 1, lanes);
        for (int b = 0; b < blocks; b++) {
            for (int part = 0; part < r->deal.parts; part++) {
                int lane = part * r->deal.width + b;
                join_rows(op, lanes, lane, lane + 1, op->score + (first + b) * op->tiles + tile, count);
            }
        }
    }
}

/* ---- a panel of a chunk ------------------------------------------------------------------------------------------ */

ALWAYS_INLINE void gather_kind(gathering *g, int vecs, fga_rank_kind kind, bool logits)
{
    if (g->r->dealt && kind == FGA_RANK_DEVIATION && g->r->op->tile_keys == 1) {
        add_single_deviations(g, vecs);
    } else if (g->r->dealt) {
        add_tiles(g, vecs, kind, logits);
    } else {
        gather_tiles(g, vecs, kind, logits);
    }
}

ALWAYS_INLINE void gather_vecs(gathering *g, int vecs)
{
    switch (g->r->op->kind) {
    case FGA_RANK_MASS:
        if (g->logits) {
            gather_kind(g, vecs, FGA_RANK_MASS, true);
        } else {
            gather_kind(g, vecs, FGA_RANK_MASS, false);
        }
        break;
    case FGA_RANK_MAX:
        if (g->logits) {
            gather_kind(g, vecs, FGA_RANK_MAX, true);
        } else {
            gather_kind(g, vecs, FGA_RANK_MAX, false);
        }
        break;
    case FGA_RANK_DEVIATION:
        gather_kind(g, vecs, FGA_RANK_DEVIATION, false);
        break;
    case FGA_RANK_LSE:
        gather_tiles(g, vecs, FGA_RANK_LSE, false);
        break;
    case FGA_RANK_LOGIT:
        gather_tiles(g, vecs, FGA_RANK_LOGIT, false);
        break;
    }
}

static void gather_panel(gathering *g)
{
    if (g->vecs == 2) {
        gather_vecs(g, 2);
    } else {
        gather_vecs(g, 1);
    }
    if (g->r->dealt && (g->panel + 1) % g->r->deal.panels == 0) {
        join_group(g->r, g->c, g->panel / g->r->deal.panels);
    }
}

/* ---- the whole op ---------------------------------------------------------------------------------------------------
 */

static void first_pass(const rank_state *r, const rank_chunk *c, int panel)
{
    vec largest[2];
    float *z = chunk_logits(r, c, panel, largest);
    if (r->keeps) {
        keep_chunk(r, c, panel, z, largest);
        return;
    }
    gathering g = {.r = r, .c = c, .panel = panel, .vecs = vecs_of_panel(r->vecs, panel), .z = z};
    g.logits = r->op->kind != FGA_RANK_DEVIATION; /* which needs the weights of a group at once */
    for (int v = 0; v < g.vecs; v++) {
        size_t lane = (size_t)panel * PANEL + (size_t)v * LANES;
        g.known[v] = vec_load(r->scratch + r->at.max + lane);
        g.factor[v] = vec_load(r->scratch + r->at.share + lane);
        if (!g.logits) {
            chunk_weights(c, z + v * LANES, g.known[v], z + v * LANES);
        }
    }
    gather_panel(&g);
}

static void second_pass(const rank_state *r, const rank_chunk *c, int panel)
{
    gathering g = {.r = r, .c = c, .panel = panel, .vecs = vecs_of_panel(r->vecs, panel)};
    g.z = r->scratch + strip_at(r, c, panel);
    for (int v = 0; v < g.vecs; v++) {
        size_t lane = (size_t)panel * PANEL + (size_t)v * LANES;
        const float *reference = r->scratch + r->at.reference + ((size_t)panel * r->chunks + c->index) * PANEL;
        vec shift = vec_exp2(vec_sub(vec_load(reference + v * LANES), vec_load(r->scratch + r->at.max + lane)));
        g.factor[v] = vec_mul(shift, vec_load(r->scratch + r->at.share + lane));
    }
    gather_panel(&g);
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

static void first_passes(const rank_state *r)
{
    rank_product p = {.op = r->op, .vecs = r->vecs, .panels = r->panels};
    p.lanes = (const int32_t *)(r->scratch + r->at.lanes);
    rank_chunk pair[2];
    p.packed = r->scratch + r->at.query;
    p.staged = r->scratch + r->at.keys;
    product_begin(&p);
    find_chunk(r, 0, &pair[0]);
    product_find(&p, &pair[0].keys);
    for (int64_t i = 0; i < r->chunks; i++) {
        rank_chunk *c = &pair[i % 2], *coming = i + 1 < r->chunks ? &pair[(i + 1) % 2] : NULL;
        if (coming != NULL) {
            find_chunk(r, i + 1, coming);
            product_find(&p, &coming->keys);
        }
        product_stage(&p, &c->keys);
        for (int panel = 0; panel < r->panels;) {
            int end = panel + PRODUCT_PANELS < r->panels ? panel + PRODUCT_PANELS : r->panels;
            product_run(&p, &c->keys, coming != NULL ? &coming->keys : NULL, panel, end, r->scratch + r->at.chunk);
            for (; panel < end; panel++) {
                first_pass(r, c, panel);
            }
        }
    }
    product_end(&p);
}

static void second_passes(const rank_state *r)
{
    for (int64_t i = 0; i < r->chunks; i++) {
        rank_chunk c;
        find_chunk(r, i, &c);
        for (int panel = 0; panel < r->panels; panel++) {
            second_pass(r, &c, panel);
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
    fill_lanes(&r);
    first_passes(&r);
    if (r.keeps) {
        settle_shares(&r);
        second_passes(&r);
    }
}

#endif
