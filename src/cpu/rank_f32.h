/* rank_f32.h - the product of rank_product.h in f32, on the register tile of attention: 16-bit keys are converted. */
#ifndef FGA_CPU_RANK_F32_H
#define FGA_CPU_RANK_F32_H

#include "cpu/rank_product.h"
#include "cpu/tile.h"
#include "cpu/words_f32.h"

/* A panel's logits stay in the first-level cache. */
enum { PRODUCT_PANELS = 1 };

typedef struct rank_product {
    const fga_rank_op *op;
    const int32_t *lanes;
    int vecs, panels;
    float *packed; /* [panel][head_dim][PANEL] */
    float *staged; /* keys as f32 */
} rank_product;

typedef struct rank_keys {
    int64_t first;
    int count;
    const char *source[RANK_MAX_KEYS]; /* rows of k, or of zeros for keys that are out; any past the last repeat it */
    const char *row[RANK_MAX_KEYS];    /* the same as f32 */
} rank_keys;

static size_t product_rows_words(const fga_rank_op *op, int panels)
{
    return (size_t)panels * PANEL * (size_t)op->head_dim;
}

static size_t product_keys_words(const fga_rank_op *op)
{
    return op->dtype == FGA_F32 ? 0 : (size_t)rank_limit(op) * (size_t)op->head_dim;
}

static void rank_pack_panel(const rank_product *p, int panel)
{
    int32_t dim = p->op->head_dim;
    float *packed = p->packed + (size_t)panel * PANEL * (size_t)dim;
    const char *rows[PANEL];
    find_panel_rows(p->op, p->lanes, panel, rows);
    for (int v = 0; v < vecs_of_panel(p->vecs, panel); v++) {
        for (int d = 0; d < dim; d += 4) {
            vec z[4];
            vec_load_rows(z, rows + v * LANES, 4 * d);
            vec_transpose4(z);
            for (int k = 0; k < 4; k++) {
                vec_store(packed + (d + k) * PANEL + v * LANES, z[k]);
            }
        }
    }
}

static void product_begin(rank_product *p)
{
    for (int panel = 0; panel < p->panels; panel++) {
        rank_pack_panel(p, panel);
    }
}

static void product_end(const rank_product *p)
{
    (void)p;
}

static void product_find(const rank_product *p, rank_keys *keys)
{
    static const float zeros[256];
    const fga_rank_op *op = p->op;
    for (int i = 0; i < keys->count; i++) {
        const char *row = element(op->k, (keys->first + i) * op->k_stride, op->dtype);
        keys->source[i] = key_is_out(op, keys->first + i) ? (const char *)zeros : row;
    }
    for (int i = keys->count; i < rank_limit(op); i++) {
        keys->source[i] = keys->source[keys->count - 1];
    }
}

static void product_stage(const rank_product *p, rank_keys *keys)
{
    const fga_rank_op *op = p->op;
    for (int i = 0; i < keys->count; i++) {
        bool out = key_is_out(op, keys->first + i); /* zeros are f32 already */
        float *staged = p->staged + (size_t)i * (size_t)op->head_dim;
        keys->row[i] = out ? keys->source[i] : stage_row(keys->source[i], op->dtype, op->head_dim, staged);
    }
}

ALWAYS_INLINE void rank_multiply_tile(int n, int vecs, int32_t dim, const char *const *rows, int first,
                                      const float *packed, float *z, const ahead *next)
{
    vec acc[TILE][2];
    tile_rows(n, vecs, acc, rows, first, packed, dim, next);
    for (int i = 0; i < n; i++) {
        for (int v = 0; v < vecs; v++) {
            vec_store(z + (first + i) * PANEL + v * LANES, acc[i][v]);
        }
    }
}

ALWAYS_INLINE void rank_multiply_panel(int vecs, int32_t dim, const char *const *rows, int count, const float *packed,
                                       float *z, const ahead *next)
{
    split tiles = split_evenly(count, TILE);
    for (int t = 0; t < tiles.parts; t++) {
        int first = split_begin(tiles, t), n = split_begin(tiles, t + 1) - first;
        switch (n) {
#define CASE(N) \
    case N: \
        rank_multiply_tile(N, vecs, dim, rows, first, packed, z, next); \
        break;
            EACH_TILE(CASE)
#undef CASE
        }
    }
}

static void product_run(const rank_product *p, const rank_keys *keys, const rank_keys *next, int panel, int end,
                        float *z)
{
    const fga_rank_op *op = p->op;
    for (; panel < end; panel++, z += (size_t)rank_limit(op) * PANEL) {
        const float *packed = p->packed + (size_t)panel * PANEL * (size_t)op->head_dim;
        ahead fetched = {{next != NULL ? next->source : NULL},
                         panel == 0 && next != NULL ? 1 : 0,
                         (int64_t)op->head_dim * (op->dtype == FGA_F32 ? 4 : 2)};
        if (vecs_of_panel(p->vecs, panel) == 2) {
            rank_multiply_panel(2, op->head_dim, keys->row, keys->count, packed, z, &fetched);
        } else {
            rank_multiply_panel(1, op->head_dim, keys->row, keys->count, packed, z, &fetched);
        }
    }
}

#endif
