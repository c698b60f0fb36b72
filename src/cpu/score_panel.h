/* score_panel.h - pool and mass (ops.h) for any vector width, on the register tile of attention.
 *
 * mass: the sub-queries of a block lie along the lanes, so its logits are one product of the tile's kind, its softmax
 * runs down a column of vectors, and a tile's score is one sum across lanes at the end. Every sum has a fixed order.
 */
#ifndef FGA_CPU_SCORE_PANEL_H
#define FGA_CPU_SCORE_PANEL_H

#include "cpu/tile.h"
#include "cpu/words_f32.h"

#include <float.h>

enum { POOL_MAX_DIM = 256 };

static void pool(const fga_pool_op *op)
{
    for (int64_t i = 0; i < op->count; i++) {
        int64_t end = op->valid_end[i] < op->begin[i + 1] ? op->valid_end[i] : op->begin[i + 1];
        float sum[POOL_MAX_DIM] = {0}, staged[POOL_MAX_DIM];
        for (int64_t token = op->begin[i]; token < end; token++) {
            const char *row = element(op->x, token * op->x_stride, op->dtype);
            const float *x = (const float *)stage_row(row, op->dtype, op->head_dim, staged);
            for (int32_t d = 0; d < op->head_dim; d++) {
                sum[d] += x[d];
            }
        }
        float inverse = end > op->begin[i] ? 1.0f / (float)(end - op->begin[i]) : 0.0f;
        for (int32_t d = 0; d < op->head_dim; d++) {
            op->mean[i * op->head_dim + d] = sum[d] * inverse;
        }
    }
}

/* Up to LANES sub-queries of a block. */
typedef struct mass_group {
    const fga_mass_op *op;
    int first, count;
    float packed[POOL_MAX_DIM * PANEL]; /* [head_dim][PANEL], of which one vector is used */
    float weight[LANES];                /* q_weight, then divided by the row's sum; 0 past count */
} mass_group;

static void pack_sub_queries(mass_group *g)
{
    const fga_mass_op *op = g->op;
    for (int32_t i = 0; i < LANES; i++) {
        g->weight[i] = i < g->count ? op->q_weight[g->first + i] : 0.0f;
        for (int32_t d = 0; d < op->head_dim; d++) {
            g->packed[d * PANEL + i] = i < g->count ? op->q_mean[(int64_t)(g->first + i) * op->head_dim + d] : 0.0f;
        }
    }
}

/* Logits in log2 units of keys [first, first + n) to z[key][count]. */
ALWAYS_INLINE vec mass_tile(int n, const mass_group *g, int64_t first, vec max)
{
    static const ahead nothing = {NULL, 0};
    const fga_mass_op *op = g->op;
    const char *rows[TILE];
    vec acc[TILE][2], scale = vec_set(op->scale * LOG2_E);
    for (int i = 0; i < n; i++) {
        rows[i] = (const char *)(op->k_mean + (first + i) * op->head_dim);
    }
    tile_rows(n, 1, acc, rows, 0, g->packed, op->head_dim, &nothing);
    for (int i = 0; i < n; i++) {
        vec z = vec_fma(acc[i][0], scale, vec_set(op->log_n[first + i] * LOG2_E));
        max = vec_max(z, max);
        vec_store_first(op->scratch + (first + i) * g->count, z, g->count);
    }
    return max;
}

static vec mass_logits(const mass_group *g)
{
    vec max = vec_set(-FLT_MAX);
    int64_t key = 0;
    for (; key + TILE <= g->op->sub_keys; key += TILE) {
        max = mass_tile(TILE, g, key, max);
    }
    for (; key < g->op->sub_keys; key++) {
        max = mass_tile(1, g, key, max);
    }
    return max;
}

/* z becomes exp(z - max); the weights take up the rows' sums. A row without a valid key weighs nothing. */
static void mass_weights(mass_group *g, vec max)
{
    const fga_mass_op *op = g->op;
    float sums[LANES];
    vec sum = vec_set(0.0f);
    for (int64_t key = 0; key < op->sub_keys; key++) {
        float *z = op->scratch + key * g->count;
        vec p = vec_exp2(vec_sub(vec_load_first(z, g->count), max));
        sum = vec_add(sum, p);
        vec_store_first(z, p, g->count);
    }
    vec_store(sums, sum);
    for (int i = 0; i < g->count; i++) {
        g->weight[i] = sums[i] == 0.0f ? 0.0f : g->weight[i] / sums[i];
    }
}

static void mass(const fga_mass_op *op)
{
    mass_group g = {.op = op};
    for (g.first = 0; g.first < op->sub_queries; g.first += LANES) {
        g.count = op->sub_queries - g.first < LANES ? op->sub_queries - g.first : LANES;
        pack_sub_queries(&g);
        mass_weights(&g, mass_logits(&g));
        vec weight = vec_load(g.weight);
        for (int64_t v = 0; v < op->tiles; v++) {
            vec sum = vec_set(0.0f);
            for (int64_t key = op->tile_begin[v]; key < op->tile_begin[v + 1]; key++) {
                sum = vec_add(sum, vec_load_first(op->scratch + key * g.count, g.count));
            }
            float score = vec_sum(vec_mul(sum, weight));
            op->score[v] = g.first == 0 ? score : op->score[v] + score;
        }
    }
}

#endif
