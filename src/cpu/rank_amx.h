/* rank_amx.h - the product of rank_product.h on AMX tiles, for keys of bf16.
 *
 *     S[key][row] = K Q^T    left: 16 keys x 32 channels, where they lie    right: rows, packed once per call
 *
 * Rows are f32, and the sum of three bf16 each, exactly: the sign, exponent and first eight bits of a number, those of
 * what remains, and the rest. So the product is one of f32, of three terms; where all rows are bf16, of one. An
 * infinite factor makes NaN, since it meets zeros.
 *
 * Keys of a tile are consecutive rows of the tensor. They are copied only where a tile would read what it must not:
 * keys that are out, what follows the last key, or a row's neighbour where head_dim is no multiple of 32.
 */
#ifndef FGA_CPU_RANK_AMX_H
#define FGA_CPU_RANK_AMX_H

#include "cpu/rank_product.h"
#include "cpu/tile_amx.h"

#include <string.h>

/* Where a tile of keys is read from. */
typedef struct rank_tile {
    const char *at;
    int64_t stride; /* bytes */
} rank_tile;

/* As many as a call has: tiles that have had nothing to do take their time to start. */
enum { PRODUCT_PANELS = RANK_ROWS / PANEL };

enum { RANK_TERMS = 3, RANK_TILES = RANK_MAX_KEYS / SIDE, RANK_STEP = RANK_TERMS * 2 * TILE_BYTES };

typedef struct rank_product {
    const fga_rank_op *op;
    const int32_t *lanes;
    int vecs, panels;
    float *packed; /* [panel][step][term][2] tiles */
    float *staged; /* rows of keys in whole steps, the rest zeros */
    int steps, terms;
    tile_shapes callers;
} rank_product;

typedef struct rank_keys {
    int64_t first;
    int count;
    bool whole[RANK_TILES]; /* the tile can be read in place */
    rank_tile tile[RANK_TILES];
} rank_keys;

static size_t product_rows_words(const fga_rank_op *op, int panels)
{
    return (size_t)panels * (size_t)part_count(op->head_dim, TILE_K) * RANK_STEP / sizeof(float);
}

static size_t product_keys_words(const fga_rank_op *op)
{
    return (size_t)rank_limit(op) * (size_t)part_count(op->head_dim, TILE_K) * 64 / sizeof(float);
}

/* ---- rows -------------------------------------------------------------------------------------------------------- */

/* Sixteen rows' channels [d, d + 4), zeros from head_dim on, to two rows of a tile of each term; `used` has the bits of
 * all. */
static void rank_pack_channels(const char *const *rows, int d, int32_t head_dim, char *tile, __m512i used[RANK_TERMS])
{
    vec z[4] = {vec_set(0.0f), vec_set(0.0f), vec_set(0.0f), vec_set(0.0f)};
    if (d < head_dim) {
        vec_load_rows(z, rows, 4 * d);
        vec_transpose4(z);
    }
    for (int term = 0; term < RANK_TERMS; term++, tile += 2 * TILE_BYTES) {
        for (int pair = 0; pair < 2; pair++) {
            __m512i words = take_term(&z[2 * pair], &z[2 * pair + 1]);
            used[term] = _mm512_or_si512(used[term], words);
            _mm512_store_si512(tile + (d % TILE_K / 2 + pair) * 64, words);
        }
    }
}

static void rank_pack_panel(const rank_product *p, int panel, __m512i used[RANK_TERMS])
{
    const char *rows[PANEL];
    char *packed = (char *)p->packed + (size_t)panel * (size_t)p->steps * RANK_STEP;
    find_panel_rows(p->op, p->lanes, panel, rows);
    for (int v = 0; v < vecs_of_panel(p->vecs, panel); v++) {
        for (int d = 0; d < p->steps * TILE_K; d += 4) {
            char *tile = packed + (size_t)(d / TILE_K) * RANK_STEP + v * TILE_BYTES;
            rank_pack_channels(rows + v * LANES, d, p->op->head_dim, tile, used);
        }
    }
}

static void product_begin(rank_product *p)
{
    __m512i used[RANK_TERMS] = {_mm512_setzero_si512(), _mm512_setzero_si512(), _mm512_setzero_si512()};
    p->steps = part_count(p->op->head_dim, TILE_K);
    for (int panel = 0; panel < p->panels; panel++) {
        rank_pack_panel(p, panel, used);
    }
    p->terms = RANK_TERMS;
    while (p->terms > 1 && _mm512_test_epi32_mask(used[p->terms - 1], used[p->terms - 1]) == 0) {
        p->terms--;
    }
    tiles_begin(&p->callers);
}

static void product_end(const rank_product *p)
{
    tiles_end(&p->callers);
}

/* ---- keys -------------------------------------------------------------------------------------------------------- */

static void product_find(const rank_product *p, rank_keys *keys)
{
    const fga_rank_op *op = p->op;
    for (int tile = 0; tile * SIDE < keys->count; tile++) {
        bool whole = (tile + 1) * SIDE <= keys->count && op->head_dim % TILE_K == 0;
        for (int i = tile * SIDE; whole && i < (tile + 1) * SIDE; i++) {
            whole = !key_is_out(op, keys->first + i);
        }
        keys->whole[tile] = whole;
    }
}

static rank_tile rank_stage_tile(const rank_product *p, const rank_keys *keys, int tile)
{
    const fga_rank_op *op = p->op;
    size_t row_bytes = (size_t)p->steps * 64, used = (size_t)op->head_dim * 2;
    char *to = (char *)p->staged + (size_t)(tile * SIDE) * row_bytes;
    rank_tile at = {.at = to, .stride = (int64_t)row_bytes};
    for (int i = tile * SIDE; i < (tile + 1) * SIDE; i++, to += row_bytes) {
        bool read = i < keys->count && !key_is_out(op, keys->first + i);
        if (read) {
            memcpy(to, element(op->k, (keys->first + i) * op->k_stride, FGA_BF16), used);
        }
        memset(to + (read ? used : 0), 0, row_bytes - (read ? used : 0));
    }
    return at;
}

static void product_stage(const rank_product *p, rank_keys *keys)
{
    const fga_rank_op *op = p->op;
    for (int tile = 0; tile * SIDE < keys->count; tile++) {
        if (keys->whole[tile]) {
            const char *at = element(op->k, (keys->first + tile * SIDE) * op->k_stride, FGA_BF16);
            keys->tile[tile] = (rank_tile){.at = at, .stride = op->k_stride * 2};
        } else {
            keys->tile[tile] = rank_stage_tile(p, keys, tile);
        }
    }
}

/* ---- the product ------------------------------------------------------------------------------------------------- */

enum { RANK_ROW = PANEL * 4 }; /* bytes of a key's dot products */

/* Keys of the next chunk, fetched into the second-level cache a few lines at a time. */
typedef struct rank_ahead {
    const char *at; /* row, and where in it */
    int64_t stride, offset, bytes;
    int rows, lines; /* left; at a time */
} rank_ahead;

static rank_ahead rank_look_ahead(const rank_product *p, const rank_keys *keys, const rank_keys *next, int panels)
{
    const fga_rank_op *op = p->op;
    rank_ahead a = {.stride = op->k_stride * 2, .bytes = (int64_t)op->head_dim * 2};
    if (next != NULL) {
        int steps = panels * part_count(keys->count, 2 * SIDE) * p->steps;
        a.at = element(op->k, next->first * op->k_stride, FGA_BF16);
        a.rows = next->count;
        a.lines = part_count(next->count * part_count((int)a.bytes, 64), steps);
    }
    return a;
}

ALWAYS_INLINE void rank_fetch(rank_ahead *a)
{
    for (int i = 0; i < a->lines && a->rows > 0; i++) {
        __builtin_prefetch(a->at + a->offset, 0, 2);
        a->offset += 64;
        if (a->offset >= a->bytes) {
            a->offset = 0;
            a->at += a->stride;
            a->rows--;
        }
    }
}

/* Clears a sum. What it has is the block before's, and goes to memory first: a store waits for its result, and does so
 * between this block's first multiplications. */
#define RANK_CLEAR(sum, before, at) \
    if ((before) != NULL) { \
        TILE_STORE(sum, (before) + (at), RANK_ROW); \
    } \
    TILE_CLEAR(sum);

enum { RANK_DOWN = SIDE * PANEL }; /* to the next tile of keys */

/* Sums of one or two tiles of keys and of rows, which stay in tiles; each tile that is loaded takes part in as many
 * multiplications. `before`: where the sums of the block before go, of two tiles of keys; or NULL. */
ALWAYS_INLINE void rank_multiply_block(int lefts, int rights, const rank_product *p, const rank_tile *left,
                                       const char *right, float *before, rank_ahead *next)
{
    for (int step = 0; step < p->steps; step++, right += RANK_STEP) {
        rank_fetch(next);
        TILE_LOAD(4, left[0].at + step * 64, left[0].stride);
        if (lefts > 1) {
            TILE_LOAD(5, left[1].at + step * 64, left[1].stride);
        }
        for (int term = 0; term < p->terms; term++) {
            bool first = step == 0 && term == 0;
            TILE_LOAD(6, right + term * 2 * TILE_BYTES, 64);
            if (first) {
                RANK_CLEAR(0, before, 0)
            }
            TILE_MULTIPLY(0, 4, 6);
            if (first) {
                RANK_CLEAR(2, before, RANK_DOWN)
            }
            if (lefts > 1) {
                TILE_MULTIPLY(2, 5, 6);
            }
            if (rights == 1) {
                continue;
            }
            TILE_LOAD(7, right + (term * 2 + 1) * TILE_BYTES, 64);
            if (first) {
                RANK_CLEAR(1, before, SIDE)
            }
            TILE_MULTIPLY(1, 4, 7);
            if (first) {
                RANK_CLEAR(3, before, RANK_DOWN + SIDE)
            }
            if (lefts > 1) {
                TILE_MULTIPLY(3, 5, 7);
            }
        }
    }
}

ALWAYS_INLINE void rank_store_block(int lefts, int rights, float *z)
{
    TILE_STORE(0, z, RANK_ROW);
    if (rights > 1) {
        TILE_STORE(1, z + SIDE, RANK_ROW);
    }
    if (lefts > 1) {
        TILE_STORE(2, z + RANK_DOWN, RANK_ROW);
    }
    if (lefts > 1 && rights > 1) {
        TILE_STORE(3, z + RANK_DOWN + SIDE, RANK_ROW);
    }
}

ALWAYS_INLINE void rank_multiply_panel(int rights, const rank_product *p, const rank_tile *tiles, int count,
                                       const char *packed, float *z, rank_ahead *next)
{
    float *before = NULL;
    int tile = 0;
    for (; tile + 1 < count; tile += 2, before = z, z += 2 * RANK_DOWN) {
        rank_multiply_block(2, rights, p, tiles + tile, packed, before, next);
    }
    if (tile < count) {
        rank_multiply_block(1, rights, p, tiles + tile, packed, before, next);
        rank_store_block(1, rights, z);
    } else {
        rank_store_block(2, rights, before);
    }
}

static void product_run(const rank_product *p, const rank_keys *keys, const rank_keys *next, int panel, int end,
                        float *z)
{
    int count = part_count(keys->count, SIDE);
    rank_ahead ahead = rank_look_ahead(p, keys, panel == 0 ? next : NULL, end);
    for (; panel < end; panel++, z += (size_t)rank_limit(p->op) * PANEL) {
        const char *packed = (const char *)p->packed + (size_t)panel * (size_t)p->steps * RANK_STEP;
        if (vecs_of_panel(p->vecs, panel) == 2) {
            rank_multiply_panel(2, p, keys->tile, count, packed, z, &ahead);
        } else {
            rank_multiply_panel(1, p, keys->tile, count, packed, z, &ahead);
        }
    }
}

#endif
