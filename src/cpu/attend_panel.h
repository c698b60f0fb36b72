/* attend_panel.h - flash attention of one query block over a list of keys, for any vector width.
 *
 * The includer brings, before this header: a vec_*.h; and a words_*.h, which says what one 32-bit word holds: WORD, its
 * elements (1: f32, or a 16-bit type staged as f32; 2: pairs of bf16); word_dot; stage_*, which turn rows of the
 * tensors and of the sums into rows of words; and store_weights, which packs WORD rows of softmax weights into one row
 * of words.
 *
 * Per strip of keys (strip.h) and panel of queries: logits S[key][PANEL] from Q packed once as [word][PANEL], weights P
 * over the same memory, then O[query][column] += P^T V. Keys and values are rows named by pointers, so a kept key costs
 * the same wherever it lies (docs/kernels-cpu.md). Lanes past the last query repeat it and are dropped at the end.
 */
#ifndef FGA_CPU_ATTEND_PANEL_H
#define FGA_CPU_ATTEND_PANEL_H

#include "cpu/strip.h"

#include <float.h>
#include <math.h>

static const float ln_2 = 0.693147180559945309417f;

/* A weight may exceed 1 by this power of two before the sums are rescaled to a new largest logit. */
static const float rescale_above = 8.0f;

static size_t attend_scratch(int32_t rows, int32_t head_dim, fga_dtype dtype)
{
    (void)dtype;
    return lay_out(rows, head_dim).total * sizeof(float);
}

typedef struct block {
    const fga_attend_op *op;
    layout at;
    float *scratch;
    int panels;
} block;

static int panel_rows(const block *b, int panel)
{
    int left = b->op->rows - panel * PANEL;
    return left < PANEL ? left : PANEL;
}

static int panel_vecs(const block *b, int panel)
{
    return panel_rows(b, panel) > LANES ? 2 : 1;
}

/* Logits, then weights, of the strip: [key][PANEL]. */
static float *panel_logits(const block *b, int panel)
{
    return b->scratch + b->at.logits + (size_t)panel * LONGEST_STRIP * PANEL;
}

/* The output's sums: [slab of PANEL columns][query][PANEL]. */
static float *panel_output(const block *b, int panel)
{
    return b->scratch + b->at.output + (size_t)(panel * PANEL * b->at.row);
}

/* ---- queries in ------------------------------------------------------------------------------------------------- */

static void pack_queries(const block *b, int panel)
{
    const fga_attend_op *op = b->op;
    int words = op->head_dim / WORD, last = panel_rows(b, panel) - 1;
    float *packed = b->scratch + b->at.query + (size_t)(panel * PANEL * b->at.row);
    float *staged = b->scratch + b->at.keys;
    const char *rows[PANEL];
    for (int i = 0; i < PANEL; i++) {
        int row = i < last ? i : last;
        rows[i] = stage_query(op, panel * PANEL + row, staged + (size_t)row * op->head_dim);
    }
    for (int v = 0; v < panel_vecs(b, panel); v++) {
        for (int w = 0; w < words; w += 4) {
            vec z[4];
            vec_load_rows(z, rows + v * LANES, 4 * w);
            vec_transpose4(z);
            for (int k = 0; k < 4; k++) {
                vec_store(packed + (w + k) * PANEL + v * LANES, z[k]);
            }
        }
    }
}

/* ---- logits ----------------------------------------------------------------------------------------------------- */

/* Logits in log2 units: S = (k . q) * scale * log2 e + bias * log2 e; the largest of each query goes to max. */
ALWAYS_INLINE void logit_tile(int n, int vecs, const fga_attend_op *op, const strip *s, int first, const float *query,
                              float *logits, vec max[2], const ahead *next)
{
    vec acc[TILE][2];
    tile_rows(n, vecs, acc, s->key_row, first, query, op->head_dim / WORD, next);
    vec scale = vec_set(op->scale * LOG2_E);
    for (int i = 0; i < n; i++) {
        vec bias = vec_set(s->bias[first + i]);
        for (int v = 0; v < vecs; v++) {
            vec logit = vec_fma(acc[i][v], scale, bias);
            max[v] = vec_max(logit, max[v]);
            vec_store(logits + (first + i) * PANEL + v * LANES, logit);
        }
    }
}

/* Of rows [begin, end) of the strip's keys. */
ALWAYS_INLINE void logit_tiles(int vecs, const fga_attend_op *op, const strip *s, int begin, int end,
                               const float *query, float *logits, vec max[2], const ahead *next)
{
    split tiles = split_evenly(end - begin, TILE);
    for (int t = 0; t < tiles.parts; t++) {
        int first = begin + split_begin(tiles, t), n = begin + split_begin(tiles, t + 1) - first;
        switch (n) {
#define CASE(N) \
    case N: \
        logit_tile(N, vecs, op, s, first, query, logits, max, next); \
        break;
            EACH_TILE(CASE)
#undef CASE
        }
    }
}

/* ---- softmax ---------------------------------------------------------------------------------------------------- */

/* One vector of a panel's queries. */
typedef struct query_vec {
    float *logits, *max, *sum; /* of its first query; logits [key][PANEL] */
    float *output;             /* [slab][PANEL queries][PANEL] */
    int slabs;
} query_vec;

static query_vec query_vec_of(const block *b, int panel, int v)
{
    int first = panel * PANEL + v * LANES;
    return (query_vec){
        .logits = panel_logits(b, panel) + v * LANES,
        .max = b->scratch + b->at.max + first,
        .sum = b->scratch + b->at.sum + first,
        .output = panel_output(b, panel) + v * LANES * PANEL,
        .slabs = part_count(b->op->head_dim, PANEL),
    };
}

/* Raises the running maximum to the strip's when it must, and rescales output and sum to it. */
static vec raise_max(const query_vec *l, vec strip_max)
{
    vec m = vec_load(l->max);
    if (vec_any_above(strip_max, vec_add(m, vec_set(rescale_above)))) {
        float factor[LANES];
        vec raised = vec_max(strip_max, m), scale = vec_exp2(vec_sub(m, raised));
        vec_store(factor, scale);
        for (int i = 0; i < l->slabs * LANES; i++) {
            float *o = l->output + (i / LANES * PANEL + i % LANES) * PANEL;
            vec f = vec_set(factor[i % LANES]);
            vec_store(o, vec_mul(vec_load(o), f));
            vec_store(o + LANES, vec_mul(vec_load(o + LANES), f));
        }
        vec_store(l->sum, vec_mul(vec_load(l->sum), scale));
        vec_store(l->max, raised);
        m = raised;
    }
    return m;
}

/* Turns logits into words of weights, in place. */
static void weigh_keys(const query_vec *l, int count, vec m)
{
    vec total = vec_load(l->sum);
    for (int first = 0, word = 0; first < count; first += WORD, word++) {
        vec weight[WORD];
        for (int e = 0; e < WORD; e++) {
            weight[e] =
                first + e < count ? vec_exp2(vec_sub(vec_load(l->logits + (first + e) * PANEL), m)) : vec_set(0.0f);
        }
        total = vec_add(total, store_weights(l->logits + word * PANEL, weight));
    }
    vec_store(l->sum, total);
}

/* The weight of a row of values; all parts of a summary have the one weight. */
ALWAYS_INLINE vec row_weight(const query_vec *l, const strip *s, int row)
{
    if (row >= s->has.values) {
        return vec_set(0.0f);
    }
    return vec_load(l->logits + (row < s->has.listed ? row : s->weight_row[row]) * PANEL);
}

/* Weights of f32 to words; nothing to do where a word is an f32. No word overtakes the weights that are still to come.
 */
static void pack_weights(const query_vec *l, const strip *s)
{
    int word = 0;
    for (; (word + 1) * WORD <= s->has.listed; word++) {
        vec weight[WORD];
        for (int e = 0; e < WORD; e++) {
            weight[e] = vec_load(l->logits + (word * WORD + e) * PANEL);
        }
        store_weights(l->logits + word * PANEL, weight);
    }
    for (; word < s->words; word++) {
        vec weight[WORD];
        for (int e = 0; e < WORD; e++) {
            weight[e] = row_weight(l, s, word * WORD + e);
        }
        store_weights(l->logits + word * PANEL, weight);
    }
}

static void weigh(const query_vec *l, const strip *s, vec max)
{
    if (s->has.groups == 0) {
        weigh_keys(l, s->has.listed, raise_max(l, max));
        return;
    }
    vec m = raise_max(l, remaining_logits(l->logits, PANEL, &s->has, max));
    vec_store(l->sum, weigh_groups(l->logits, PANEL, &s->has, m, vec_load(l->sum)));
    if (WORD > 1) {
        pack_weights(l, s);
    }
}

/* ---- values ----------------------------------------------------------------------------------------------------- */

ALWAYS_INLINE void sum_tiles(int vecs, int queries, float *output, const float *weights, const float *slab, int words)
{
    split tiles = split_evenly(queries, TILE);
    for (int t = 0; t < tiles.parts; t++) {
        int first = split_begin(tiles, t), n = split_begin(tiles, t + 1) - first;
        switch (n) {
#define CASE(N) \
    case N: \
        tile_sums(N, vecs, output + first * PANEL, weights + first, slab, words); \
        break;
            EACH_TILE(CASE)
#undef CASE
        }
    }
}

/* O += P V of all panels, PANEL columns at a time. */
static void add_values(const block *b, const strip *s)
{
    int head_dim = b->op->head_dim;
    float *slab = b->scratch + b->at.slab;
    for (int column = 0; column < head_dim; column += PANEL) {
        stage_strip_values(b->op, s, column, slab);
        for (int panel = 0; panel < b->panels; panel++) {
            float *output = panel_output(b, panel) + column * PANEL;
            const float *weights = panel_logits(b, panel);
            if (head_dim - column > LANES) {
                sum_tiles(2, panel_rows(b, panel), output, weights, slab, s->words);
            } else {
                sum_tiles(1, panel_rows(b, panel), output, weights, slab, s->words);
            }
        }
    }
}

/* ---- one strip of keys ------------------------------------------------------------------------------------------- */

ALWAYS_INLINE void weigh_panel(int vecs, const block *b, int panel, const strip *s, const ahead *next)
{
    static const ahead nothing = {{NULL, NULL}, 0, 0};
    const float *query = b->scratch + b->at.query + (size_t)(panel * PANEL * b->at.row);
    float *logits = panel_logits(b, panel);
    vec max[2] = {vec_set(-INFINITY), vec_set(-INFINITY)}, ignored[2] = {max[0], max[1]};
    logit_tiles(vecs, b->op, s, 0, s->has.listed, query, logits, max, next);
    if (s->has.keys > s->has.listed) {
        logit_tiles(vecs, b->op, s, s->has.listed, s->has.keys, query, logits, ignored, &nothing);
    }
    for (int v = 0; v < vecs; v++) {
        query_vec l = query_vec_of(b, panel, v);
        weigh(&l, s, max[v]);
    }
}

/* What Q K^T of one panel brings in of the next strip: the first panel its values, the second its keys. */
static ahead look_ahead(const block *b, int panel, const strip *next)
{
    const fga_attend_op *op = b->op;
    ahead a = {.bytes = (int64_t)op->head_dim * (op->dtype == FGA_F32 ? 4 : 2)};
    if (next->has.listed > 0 && panel == 0) {
        a.rows[a.lists++] = next->value_source;
    }
    if (next->has.listed > 0 && panel == (b->panels > 1 ? 1 : 0)) {
        a.rows[a.lists++] = next->key_source;
    }
    return a;
}

static void attend_strip(const block *b, strip *s, const strip *next)
{
    stage_strip_keys(b->op, s, b->at.row, b->scratch + b->at.keys);
    for (int panel = 0; panel < b->panels; panel++) {
        ahead a = look_ahead(b, panel, next);
        if (panel_vecs(b, panel) == 2) {
            weigh_panel(2, b, panel, s, &a);
        } else {
            weigh_panel(1, b, panel, s, &a);
        }
    }
    add_values(b, s);
}

/* ---- outputs ---------------------------------------------------------------------------------------------------- */

static void unpack_outputs(const block *b)
{
    const fga_attend_op *op = b->op;
    for (int32_t i = 0; i < op->rows; i++) {
        const float *from = panel_output(b, i / PANEL) + i % PANEL * PANEL;
        float *staged = b->scratch + b->at.keys;
        char *out = element(op->o, i * op->o_stride, op->dtype);
        vec inverse = vec_set(1.0f / b->scratch[b->at.sum + (size_t)i]);
        for (int d = 0; d < op->head_dim; d += LANES) {
            vec_store(staged + d, vec_mul(vec_load(from + d / PANEL * PANEL * PANEL + d % PANEL), inverse));
        }
        switch (op->dtype) {
        case FGA_F32:
            memcpy(out, staged, (size_t)op->head_dim * sizeof(float));
            break;
        case FGA_F16:
            vec_f32_to_f16(out, staged, op->head_dim);
            break;
        case FGA_BF16:
            vec_f32_to_bf16(out, staged, op->head_dim);
            break;
        }
    }
}

static void attend_nothing(const fga_attend_op *op)
{
    for (int32_t i = 0; i < op->rows; i++) {
        memset(element(op->o, i * op->o_stride, op->dtype), 0, (size_t)op->head_dim * (op->dtype == FGA_F32 ? 4 : 2));
        if (op->lse != NULL) {
            op->lse[i] = -INFINITY;
        }
    }
}

/* ---- the whole block -------------------------------------------------------------------------------------------- */

static void attend(const fga_attend_op *op)
{
    block b = {op, lay_out(op->rows, op->head_dim), op->scratch, part_count(op->rows, PANEL)};
    float *max = b.scratch + b.at.max, *sum = b.scratch + b.at.sum;
    strip pair[2];
    cursor c = cursor_start(op);
    find_strip(op, &c, &pair[0], 0);
    if (pair[0].has.keys == 0) {
        attend_nothing(op);
        return;
    }
    for (int panel = 0; panel < b.panels; panel++) {
        pack_queries(&b, panel);
    }
    memset(b.scratch + b.at.output, 0, (size_t)(b.panels * PANEL * b.at.row) * sizeof(float));
    for (int i = 0; i < b.panels * PANEL; i++) {
        max[i] = -FLT_MAX; /* not -inf: logits that are all -inf then give sum 0 instead of inf - inf */
        sum[i] = 0.0f;
    }
    for (int i = 0; pair[i].has.keys > 0; i = 1 - i) {
        find_strip(op, &c, &pair[1 - i], pair[i].has.keys);
        attend_strip(&b, &pair[i], &pair[1 - i]);
    }
    unpack_outputs(&b);
    for (int32_t i = 0; op->lse != NULL && i < op->rows; i++) {
        op->lse[i] = max[i] * ln_2 + logf(sum[i]);
    }
}

#endif
