/* attend_panel.h - flash attention of one query block over a list of keys, for any vector width.
 *
 * The includer brings, before this header: a vec_*.h; and a words_*.h, which says what one 32-bit word holds: WORD, its
 * elements (1: f32, or a 16-bit type staged as f32; 2: pairs of bf16); word_dot; stage_query, stage_keys and
 * stage_values, which turn rows of the tensors into rows of words; and store_weights, which packs WORD rows of softmax
 * weights into one row of words.
 *
 * Queries lie along the vector lanes everywhere (docs/kernels-cpu.md): Q is packed once as [word][PANEL]; a key is a
 * row pointer whose words are broadcast, so the kept keys need no packing and cost the same wherever they lie.
 * Per strip of keys and panel of queries: logits S[key][PANEL], weights P over the same memory, then
 * O[column][PANEL] += V^T P. Lanes past the last query repeat it and are dropped at the end.
 */
#ifndef FGA_CPU_ATTEND_PANEL_H
#define FGA_CPU_ATTEND_PANEL_H

#include "cpu/cpu.h"
#include "cpu/element.h"
#include "cpu/tile.h"
#include "ops/ops.h"

#include <float.h>
#include <math.h>

/* A strip's logits, 128 bytes a key and panel, stay in the first-level cache beside the packed queries. */
enum { STRIP = 120 };

static const float ln_2 = 0.693147180559945309417f;

/* A weight may exceed 1 by this power of two before the sums are rescaled to a new largest logit. */
static const float rescale_above = 8.0f;

/* Where things lie in the caller's scratch; offsets in 32-bit words. */
typedef struct layout {
    size_t query, output, max, sum, logits, keys, row, values, total;
} layout;

static layout lay_out(int32_t rows, int32_t head_dim, fga_dtype dtype)
{
    size_t panels = (size_t)part_count(rows, PANEL), dim = (size_t)head_dim;
    size_t staged = dtype == FGA_F32 ? 0 : STRIP * dim;
    size_t packed = STRIP * dim + (size_t)part_count(head_dim, TILE) * LANES;
    layout at = {0};
    at.output = at.query + panels * PANEL * dim;
    at.max = at.output + panels * PANEL * dim;
    at.sum = at.max + panels * PANEL;
    at.logits = at.sum + panels * PANEL;
    at.keys = at.logits + STRIP * PANEL;
    at.row = at.keys + staged;
    at.values = at.row + dim;
    at.total = at.values + packed; /* 16-bit queries and outputs pass through the keys' place as f32 */
    return at;
}

static size_t attend_scratch(int32_t rows, int32_t head_dim, fga_dtype dtype)
{
    return lay_out(rows, head_dim, dtype).total * sizeof(float);
}

typedef struct block {
    const fga_attend_op *op;
    layout at;
    float *scratch;
    int panels;
} block;

typedef struct strip {
    const uint32_t *keys; /* [count] */
    int count;
    int words;                     /* rows of value words: ceil(count / WORD) */
    const float *values;           /* packed by pack_values */
    const char *key_source[STRIP]; /* the rows in the tensors; any past the last repeat it */
    const char *value_source[STRIP];
    const char *key_row[STRIP]; /* rows of words */
} strip;

static int panel_rows(const block *b, int panel)
{
    int left = b->op->rows - panel * PANEL;
    return left < PANEL ? left : PANEL;
}

static int panel_vecs(const block *b, int panel)
{
    return panel_rows(b, panel) > LANES ? 2 : 1;
}

/* ---- queries in ------------------------------------------------------------------------------------------------- */

static void pack_queries(const block *b, int panel)
{
    const fga_attend_op *op = b->op;
    int words = op->head_dim / WORD, last = panel_rows(b, panel) - 1;
    float *packed = b->scratch + b->at.query + (size_t)panel * PANEL * op->head_dim;
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
        vec bias = vec_set(op->bias != NULL ? op->bias[s->keys[first + i]] * LOG2_E : 0.0f);
        for (int v = 0; v < vecs; v++) {
            vec logit = vec_fma(acc[i][v], scale, bias);
            max[v] = vec_max(logit, max[v]);
            vec_store(logits + (first + i) * PANEL + v * LANES, logit);
        }
    }
}

ALWAYS_INLINE void logit_tiles(int vecs, const fga_attend_op *op, const strip *s, const float *query, float *logits,
                               vec max[2], const ahead *next)
{
    split tiles = split_evenly(s->count, TILE);
    for (int t = 0; t < tiles.parts; t++) {
        int first = split_begin(tiles, t), n = split_begin(tiles, t + 1) - first;
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

/* Turns the logits of one vector of queries into weights, in place; raises the running maximum when it must. */
static void weigh(const block *b, int panel, int v, int count, vec strip_max)
{
    float *logits = b->scratch + b->at.logits + v * LANES;
    float *max = b->scratch + b->at.max + panel * PANEL + v * LANES;
    float *sum = b->scratch + b->at.sum + panel * PANEL + v * LANES;
    vec m = vec_load(max), total = vec_load(sum);
    if (vec_any_above(strip_max, vec_add(m, vec_set(rescale_above)))) {
        vec raised = vec_max(strip_max, m), factor = vec_exp2(vec_sub(m, raised));
        float *o = b->scratch + b->at.output + (size_t)panel * PANEL * b->op->head_dim + v * LANES;
        for (int d = 0; d < b->op->head_dim; d++) {
            vec_store(o + d * PANEL, vec_mul(vec_load(o + d * PANEL), factor));
        }
        total = vec_mul(total, factor);
        vec_store(max, raised);
        m = raised;
    }
    for (int first = 0, word = 0; first < count; first += WORD, word++) {
        vec weight[WORD];
        for (int e = 0; e < WORD; e++) {
            weight[e] =
                first + e < count ? vec_exp2(vec_sub(vec_load(logits + (first + e) * PANEL), m)) : vec_set(0.0f);
        }
        total = vec_add(total, store_weights(logits + word * PANEL, weight));
    }
    vec_store(sum, total);
}

/* ---- values ----------------------------------------------------------------------------------------------------- */

/* Values are packed tile by tile, [word row][columns of the tile], so that a tile reads one short stretch of memory
 * from end to end. Read where they lie, a few columns of each row, they cost a miss of the first-level cache and of its
 * translation buffer at every key. LANES spare words after each tile let whole vectors be stored. */
static float *value_tile(const strip *s, int tile, int first)
{
    return (float *)s->values + (size_t)first * s->words + (size_t)tile * LANES;
}

static void pack_values(const block *b, strip *s)
{
    enum { MOST_TILES = 256 / TILE + 1 };
    int head_dim = b->op->head_dim, begin[MOST_TILES + 1];
    float *to[MOST_TILES];
    split tiles = split_evenly(head_dim, TILE);
    s->words = part_count(s->count, WORD);
    s->values = b->scratch + b->at.values;
    for (int t = 0; t <= tiles.parts; t++) {
        begin[t] = split_begin(tiles, t);
    }
    for (int t = 0; t < tiles.parts; t++) {
        to[t] = value_tile(s, t, begin[t]);
    }
    for (int w = 0; w < s->words; w++) {
        const float *row = value_words(b->op, s->value_source, w, s->count, b->scratch + b->at.row);
        for (int t = 0; t < tiles.parts; t++) {
            const float *from = row + begin[t];
            vec_store(to[t], begin[t] + LANES <= head_dim ? vec_load(from) : vec_load_first(from, head_dim - begin[t]));
            to[t] += begin[t + 1] - begin[t];
        }
    }
}

ALWAYS_INLINE void value_tiles(int vecs, int head_dim, const strip *s, const float *weights, float *output,
                               const ahead *next)
{
    split tiles = split_evenly(head_dim, TILE);
    for (int t = 0; t < tiles.parts; t++) {
        int first = split_begin(tiles, t), n = split_begin(tiles, t + 1) - first;
        switch (n) {
#define CASE(N) \
    case N: \
        tile_columns(N, vecs, output + first * PANEL, value_tile(s, t, first), weights, s->words, next, t); \
        break;
            EACH_TILE(CASE)
#undef CASE
        }
    }
}

/* ---- one strip of keys for one panel of queries ------------------------------------------------------------------ */

/* The first panel's products bring in the next strip: its values beside Q K^T, its keys beside P V. */
ALWAYS_INLINE void attend_panel(int vecs, const block *b, int panel, const strip *s, const strip *next)
{
    const fga_attend_op *op = b->op;
    int64_t row_bytes = panel == 0 ? (int64_t)op->head_dim * (op->dtype == FGA_F32 ? 4 : 2) : 0;
    ahead values = {next->value_source, row_bytes}, keys = {next->key_source, row_bytes};
    size_t matrix = (size_t)panel * PANEL * op->head_dim;
    float *logits = b->scratch + b->at.logits;
    vec max[2] = {vec_set(-INFINITY), vec_set(-INFINITY)};
    logit_tiles(vecs, op, s, b->scratch + b->at.query + matrix, logits, max, &values);
    for (int v = 0; v < vecs; v++) {
        weigh(b, panel, v, s->count, max[v]);
    }
    value_tiles(vecs, op->head_dim, s, logits, b->scratch + b->at.output + matrix, &keys);
}

static void find_strip(const fga_attend_op *op, int64_t index, int64_t strips, strip *s)
{
    int64_t begin = op->key_count * index / strips, end = op->key_count * (index + 1) / strips;
    s->keys = op->keys + begin;
    s->count = (int)(end - begin);
    for (int i = 0; i < STRIP; i++) {
        uint32_t key = s->keys[i < s->count ? i : s->count - 1];
        s->key_source[i] = element(op->k, key * op->k_stride, op->dtype);
        s->value_source[i] = element(op->v, key * op->v_stride, op->dtype);
    }
}

static void attend_strip(const block *b, strip *s, const strip *next)
{
    stage_keys(b->op, s->key_source, s->count, b->scratch + b->at.keys, s->key_row);
    pack_values(b, s);
    for (int panel = 0; panel < b->panels; panel++) {
        if (panel_vecs(b, panel) == 2) {
            attend_panel(2, b, panel, s, next);
        } else {
            attend_panel(1, b, panel, s, next);
        }
    }
}

/* ---- outputs ---------------------------------------------------------------------------------------------------- */

static void unpack_outputs(const block *b, int panel)
{
    const fga_attend_op *op = b->op;
    const float *output = b->scratch + b->at.output + (size_t)panel * PANEL * op->head_dim;
    const float *sum = b->scratch + b->at.sum + panel * PANEL;
    float *staged = b->scratch + b->at.keys;
    int count = panel_rows(b, panel);
    char *rows[PANEL];
    for (int i = 0; i < count; i++) {
        rows[i] = op->dtype == FGA_F32 ? element(op->o, (panel * PANEL + i) * op->o_stride, FGA_F32)
                                       : (char *)(staged + (size_t)i * op->head_dim);
    }
    for (int v = 0; v < panel_vecs(b, panel); v++) {
        vec inverse = vec_div(vec_set(1.0f), vec_load(sum + v * LANES));
        for (int d = 0; d < op->head_dim; d += 4) {
            vec z[4];
            for (int k = 0; k < 4; k++) {
                z[k] = vec_mul(vec_load(output + (d + k) * PANEL + v * LANES), inverse);
            }
            vec_transpose4(z);
            vec_store_rows(z, rows + v * LANES, 4 * d, count - v * LANES);
        }
    }
    for (int i = 0; i < count && op->dtype != FGA_F32; i++) {
        char *out = element(op->o, (panel * PANEL + i) * op->o_stride, op->dtype);
        if (op->dtype == FGA_F16) {
            vec_f32_to_f16(out, (const float *)rows[i], op->head_dim);
        } else {
            vec_f32_to_bf16(out, (const float *)rows[i], op->head_dim);
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
    if (op->summaries != NULL) {
        fga_attend_ref(op);
        return;
    }
    if (op->key_count == 0) {
        attend_nothing(op);
        return;
    }
    block b = {op, lay_out(op->rows, op->head_dim, op->dtype), op->scratch, part_count(op->rows, PANEL)};
    float *max = b.scratch + b.at.max, *sum = b.scratch + b.at.sum;
    for (int panel = 0; panel < b.panels; panel++) {
        pack_queries(&b, panel);
    }
    memset(b.scratch + b.at.output, 0, (size_t)b.panels * PANEL * op->head_dim * sizeof(float));
    for (int i = 0; i < b.panels * PANEL; i++) {
        max[i] = -FLT_MAX; /* not -inf: logits that are all -inf then give sum 0 instead of inf - inf */
        sum[i] = 0.0f;
    }
    int64_t strips = (op->key_count + STRIP - 1) / STRIP;
    strip pair[2];
    find_strip(op, 0, strips, &pair[0]);
    for (int64_t i = 0; i < strips; i++) {
        strip *s = &pair[i % 2], *next = i + 1 < strips ? &pair[(i + 1) % 2] : s;
        if (next != s) {
            find_strip(op, i + 1, strips, next);
        }
        attend_strip(&b, s, next);
    }
    for (int panel = 0; panel < b.panels; panel++) {
        unpack_outputs(&b, panel);
    }
    for (int32_t i = 0; op->lse != NULL && i < op->rows; i++) {
        op->lse[i] = max[i] * ln_2 + logf(sum[i]);
    }
}

#endif
