/* rank_panel.h - rank (ops.h) for any vector width, on a product of rank_product.h.
 *
 * Rows lie along the lanes, those of several blocks side by side, so that small blocks fill the vectors. Keys come in
 * chunks of whole tiles and groups: a chunk's logits come from one product, [key][PANEL] for every panel. Where the
 * row's sum must be known first, a chunk is kept as exp2(z - the largest so far) and a factor per chunk and row puts
 * that right when tiles are gathered; where it is known, or not needed, a chunk is gathered while it is hot. A tile is
 * first gathered lane by lane; LANES tiles are then turned over, so that rows of a block are added as vectors of tiles.
 */
#ifndef FGA_CPU_RANK_PANEL_H
#define FGA_CPU_RANK_PANEL_H

#include "cpu/rank_product.h"

#include <float.h>
#include <string.h>

/* Where things lie in the caller's scratch; offsets in 32-bit words. */
typedef struct rank_layout {
    size_t query, strip, chunk, second, reference, max, sum, keys, tiles, total;
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
    rank_keys keys;
} rank_chunk;

static rank_state rank_plan(const fga_rank_op *op, int32_t rows)
{
    rank_state r = {.op = op, .rows = rows, .panels = part_count(rows, PANEL), .scratch = op->scratch};
    int limit = rank_limit(op);
    r.elements = op->sub_begin != NULL ? op->subs : op->keys;
    r.chunk_tiles = limit / op->tile_keys;
    r.chunks = (op->tiles + r.chunk_tiles - 1) / r.chunk_tiles;
    r.keeps = op->lse == NULL && op->kind != FGA_RANK_LSE && op->kind != FGA_RANK_LOGIT;
    r.one = op->blocks == 1 && (op->kind == FGA_RANK_MASS || op->kind == FGA_RANK_MAX);
    size_t panels = (size_t)r.panels, logits = (size_t)limit * PANEL; /* of a chunk and panel */
    rank_layout *at = &r.at;
    at->keys = at->query + product_rows_words(op, r.panels);
    at->strip = at->keys + product_keys_words(op);
    at->chunk = at->strip + (r.keeps ? panels * PANEL * (size_t)r.elements : 0);
    at->second = at->chunk + panels * logits;
    at->reference = at->second + (op->sub_begin != NULL ? logits : 0);
    at->max = at->reference + (r.keeps ? panels * PANEL * (size_t)r.chunks : 0);
    at->sum = at->max + panels * PANEL;
    at->tiles = at->sum + panels * PANEL;
    at->total = at->tiles + (size_t)LANES * (size_t)(limit > 2 * PANEL ? limit : 2 * PANEL);
    return r;
}

static size_t rank_scratch(const fga_rank_op *op, int32_t rows)
{
    return rank_plan(op, rows).at.total * sizeof(float);
}

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
    float *z = r->scratch + r->at.chunk + (size_t)panel * (size_t)rank_limit(op) * PANEL;
    largest[0] = largest[1] = vec_set(-FLT_MAX); /* not -inf, as in attention */
    if (panel_count_vecs(r->rows, panel) == 2) {
        scale_products(2, op, &c->keys, z, largest);
    } else {
        scale_products(1, op, &c->keys, z, largest);
    }
    if (op->sub_begin == NULL) {
        return z;
    }
    largest[0] = largest[1] = vec_set(-FLT_MAX);
    second_order(r, c, panel_count_vecs(r->rows, panel), z, r->scratch + r->at.second, largest);
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
    for (int v = 0; v < panel_count_vecs(r->rows, panel); v++) {
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
    int begin = g->panel * PANEL, end = begin + panel_count_rows(g->r->rows, g->panel);
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
        turn_tiles(sums, LANES, 1, lanes);
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

static void first_pass(const rank_state *r, const rank_chunk *c, int panel)
{
    vec largest[2];
    float *z = chunk_logits(r, c, panel, largest);
    if (r->keeps) {
        keep_chunk(r, c, panel, z, largest);
        return;
    }
    gathering g = {.r = r, .c = c, .panel = panel, .vecs = panel_count_vecs(r->rows, panel), .z = z};
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
            chunk_weights(c, z + v * LANES, known[v], z + v * LANES);
        }
    }
    gather_chunk(&g);
}

static void second_pass(const rank_state *r, const rank_chunk *c, int panel)
{
    gathering g = {.r = r, .c = c, .panel = panel, .vecs = panel_count_vecs(r->rows, panel)};
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

static void first_passes(const rank_state *r)
{
    rank_product p = {.op = r->op, .rows = r->rows, .panels = r->panels};
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
        product_run(&p, &c->keys, coming != NULL ? &coming->keys : NULL, r->scratch + r->at.chunk);
        for (int panel = 0; panel < r->panels; panel++) {
            first_pass(r, c, panel);
        }
        if (r->one && !r->keeps) {
            join_panels(r, c);
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
        if (r->one) {
            join_panels(r, &c);
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
    for (int i = 0; i < r.panels * PANEL; i++) {
        r.scratch[r.at.max + (size_t)i] = -FLT_MAX; /* not -inf, as in attention */
        r.scratch[r.at.sum + (size_t)i] = 0.0f;
    }
    first_passes(&r);
    if (r.keeps) {
        second_passes(&r);
    }
}

#endif
