/* probe_panel.h - attention of rows that keep different keys, over one list of keys, for any vector width.
 *
 * Everything is attend_panel.h's but the weights: a key that a row does not keep gets the logit -inf in its lane, and
 * what a summary stands for differs by lane too. So rows of many query blocks fill a panel, and read K and V once.
 */
#ifndef FGA_CPU_PROBE_PANEL_H
#define FGA_CPU_PROBE_PANEL_H

#include "cpu/attend_panel.h"

typedef struct probe {
    const fga_probe_op *op;
    block b;              /* under what each row keeps */
    block all;            /* all listed keys alike: where dense outputs are wanted, with the logits of both */
    const uint32_t *keys; /* of the strip */
    float *sum, *count;   /* [panels][PANEL]: of the kept keys' weights, without summaries; and how many they are */
} probe;

/* One vector of a panel's rows, and which of them keep a key: the lowest LANES bits. */
typedef struct probe_vec {
    query_vec l, all;
    float *sum, *count;
    const uint32_t *kept; /* by key of the sequence */
    int shift;
} probe_vec;

static size_t probe_scratch(int32_t rows, int32_t head_dim, fga_dtype dtype, int64_t keys)
{
    (void)keys;
    return 2 * attend_scratch(rows, head_dim, dtype) + 2 * (size_t)(part_count(rows, PANEL) * PANEL) * sizeof(float);
}

static bool wants_dense(const probe *p)
{
    return p->op->dense_o != NULL;
}

static probe_vec probe_vec_of(const probe *p, int panel, int v)
{
    int first = panel * PANEL + v * LANES;
    return (probe_vec){.l = query_vec_of(&p->b, panel, v),
                       .all = query_vec_of(wants_dense(p) ? &p->all : &p->b, panel, v),
                       .sum = p->sum + first,
                       .count = p->count + first,
                       .kept = p->op->kept + first / 32 * p->op->kept_stride,
                       .shift = first % 32};
}

/* ---- weights ---------------------------------------------------------------------------------------------------- */

/* Logits of listed keys [first, first + listed) that a row does not keep become -inf. Raises *max to the largest of the
 * others, and adds these up: how many, and their logits. */
static void mask_logits(const probe *p, const probe_vec *r, int first, int listed, vec *max, vec *count, vec *kept)
{
    const vec out = vec_set(-INFINITY), zero = vec_set(0.0f), one = vec_set(1.0f);
    for (int i = first; i < first + listed; i++) {
        uint32_t bits = r->kept[p->keys[i]] >> r->shift;
        vec logit = vec_load(r->all.logits + i * PANEL), masked = vec_choose(bits, logit, out);
        *max = vec_max(masked, *max);
        *count = vec_add(*count, vec_choose(bits, one, zero));
        *kept = vec_add(*kept, vec_choose(bits, logit, zero));
        vec_store(r->l.logits + i * PANEL, masked);
    }
}

/* The logit of what a row does not keep of a group, from the group's own; -inf where it keeps all. */
static vec remaining_logit(const float *sum, vec kept, vec remaining)
{
    vec rest = vec_load(sum);
    for (int e = 1; e < WORD; e++) {
        rest = vec_add(rest, vec_load(sum + e * PANEL));
    }
    rest = vec_div(vec_sub(rest, kept), vec_max(remaining, vec_set(1.0f)));
    return vec_choose_above(remaining, vec_set(0.5f), rest, vec_set(-INFINITY));
}

/* As weigh_groups, with the keys that remain counted row by row: remaining [groups][LANES]. */
static void weigh_remainders(const probe_vec *r, const strip *s, const uint32_t *keys, vec m, const float *remaining)
{
    vec total = vec_load(r->l.sum), alone = vec_load(r->sum);
    float *summary = r->l.logits + s->has.listed * PANEL;
    for (int i = 0; i < s->has.groups; i++) {
        const group *g = &s->has.group[i];
        vec w = vec_set(0.0f);
        if (g->remaining > 0) {
            w = vec_exp2(vec_sub(vec_load(summary), m));
            total = vec_fma(w, vec_load(remaining + i * LANES), total);
            w = word_weight(w);
            vec_store(summary, w);
            summary += WORD * PANEL;
        }
        for (int key = g->first; key < g->first + g->listed; key++) {
            uint32_t bits = r->kept[keys[key]] >> r->shift;
            vec weight = vec_exp2(vec_sub(vec_load(r->l.logits + key * PANEL), m));
            total = vec_add(total, weight);
            alone = vec_add(alone, weight);
            vec_store(r->l.logits + key * PANEL, vec_choose(bits, vec_sub(weight, w), vec_set(0.0f)));
        }
    }
    vec_store(r->l.sum, total);
    vec_store(r->sum, alone);
}

static void probe_keys(const probe *p, const probe_vec *r, const strip *s)
{
    vec max = vec_set(-INFINITY), count = vec_load(r->count), ignored = vec_set(0.0f);
    mask_logits(p, r, 0, s->has.listed, &max, &count, &ignored);
    vec_store(r->count, count);
    weigh_keys(&r->l, s->has.listed, raise_max(&r->l, max));
}

static void probe_groups(const probe *p, const probe_vec *r, const strip *s)
{
    float remaining[LONGEST_STRIP * LANES], *summary = r->l.logits + s->has.listed * PANEL;
    vec max = vec_set(-INFINITY), all = vec_load(r->count), before = vec_load(r->l.max);
    for (int i = 0; i < s->has.groups; i++) {
        const group *g = &s->has.group[i];
        vec count = vec_set(0.0f), kept = vec_set(0.0f);
        mask_logits(p, r, g->first, g->listed, &max, &count, &kept);
        all = vec_add(all, count);
        if (g->remaining > 0) {
            vec rest = vec_sub(vec_set(g->remaining), count);
            vec_store(remaining + i * LANES, rest);
            rest = remaining_logit(summary, kept, rest);
            max = vec_max(rest, max);
            vec_store(summary, rest);
            summary += WORD * PANEL;
        }
    }
    vec m = raise_max(&r->l, max);
    vec_store(r->count, all);
    vec_store(r->sum, vec_mul(vec_load(r->sum), vec_exp2(vec_sub(before, m))));
    weigh_remainders(r, s, p->keys, m, remaining);
    if (WORD > 1) {
        pack_weights(&r->l, s);
    }
}

/* ---- one strip of keys ------------------------------------------------------------------------------------------- */

ALWAYS_INLINE void probe_panel(int vecs, const probe *p, int panel, const strip *s, const ahead *next)
{
    static const ahead nothing = {{NULL, NULL}, 0, 0};
    const float *query = p->b.scratch + p->b.at.query + (size_t)(panel * PANEL * p->b.at.row);
    vec max[2] = {vec_set(-INFINITY), vec_set(-INFINITY)}, ignored[2] = {max[0], max[1]};
    float *logits = panel_logits(wants_dense(p) ? &p->all : &p->b, panel);
    logit_tiles(vecs, p->b.op, s, 0, s->has.listed, query, logits, max, next);
    if (s->has.keys > s->has.listed) {
        logit_tiles(vecs, p->b.op, s, s->has.listed, s->has.keys, query, panel_logits(&p->b, panel), ignored, &nothing);
    }
    for (int v = 0; v < vecs; v++) {
        probe_vec r = probe_vec_of(p, panel, v);
        if (s->has.groups > 0) {
            probe_groups(p, &r, s);
        } else {
            probe_keys(p, &r, s);
        }
        if (wants_dense(p)) {
            weigh_keys(&r.all, s->has.listed, raise_max(&r.all, max[v]));
        }
    }
}

/* O += P V of one block and panel, from the slab of 32-bit words that both blocks share. */
static void add_slab(const block *b, int panel, int column, const float *slab, int words)
{
    float *output = panel_output(b, panel) + column * PANEL;
    if (b->op->head_dim - column > LANES) {
        sum_tiles(2, panel_rows(b, panel), output, panel_logits(b, panel), slab, words);
    } else {
        sum_tiles(1, panel_rows(b, panel), output, panel_logits(b, panel), slab, words);
    }
}

static void probe_values(const probe *p, const strip *s)
{
    float *slab = p->b.scratch + p->b.at.slab;
    for (int column = 0; column < p->b.op->head_dim; column += PANEL) {
        stage_strip_values(p->b.op, s, column, slab);
        for (int panel = 0; panel < p->b.panels; panel++) {
            if (p->op->attend.o != NULL) {
                add_slab(&p->b, panel, column, slab, s->words);
            }
            if (wants_dense(p)) { /* summaries come last; one that shares a key's word has no weight here */
                add_slab(&p->all, panel, column, slab, part_count(s->has.listed, WORD));
            }
        }
    }
}

static void probe_strip(const probe *p, strip *s, const strip *next)
{
    stage_strip_keys(p->b.op, s, p->b.at.row, p->b.scratch + p->b.at.keys);
    for (int panel = 0; panel < p->b.panels; panel++) {
        ahead a = look_ahead(&p->b, panel, next);
        if (panel_vecs(&p->b, panel) == 2) {
            probe_panel(2, p, panel, s, &a);
        } else {
            probe_panel(1, p, panel, s, &a);
        }
    }
    if (p->op->attend.o != NULL || wants_dense(p)) {
        probe_values(p, s);
    }
}

/* ---- the whole op ------------------------------------------------------------------------------------------------ */

/* As attend_nothing for a row without a key or a summary: its output's sums are 0. */
static void settle_empty_rows(const probe *p)
{
    float *sum = p->b.scratch + p->b.at.sum, *max = p->b.scratch + p->b.at.max;
    for (int32_t i = 0; i < p->b.op->rows; i++) {
        if (max[i] == -FLT_MAX && p->count[i] == 0.0f) {
            sum[i] = 1.0f;
        }
    }
}

static void write_kept(const probe *p, const float *sum)
{
    const float *max = p->b.scratch + p->b.at.max;
    for (int32_t i = 0; i < p->b.op->rows; i++) {
        p->op->kept_lse[i] = p->count[i] == 0.0f ? -INFINITY : max[i] * ln_2 + logf(sum[i]);
    }
}

static void probe_nothing(const fga_probe_op *op, const fga_attend_op *dense)
{
    if (op->attend.o != NULL) {
        attend_nothing(&op->attend);
    }
    if (dense->o != NULL) {
        attend_nothing(dense);
    }
    for (int32_t i = 0; i < op->attend.rows; i++) {
        op->kept_lse[i] = -INFINITY;
    }
}

/* No largest logit yet and sums of 0, as attend starts. */
static void start_block(const block *b)
{
    memset(b->scratch + b->at.output, 0, (size_t)(b->panels * PANEL * b->at.row) * sizeof(float));
    for (int i = 0; i < b->panels * PANEL; i++) {
        b->scratch[b->at.max + (size_t)i] = -FLT_MAX;
        b->scratch[b->at.sum + (size_t)i] = 0.0f;
    }
}

static void write_dense(const probe *p)
{
    if (p->all.op->key_count == 0) {
        attend_nothing(p->all.op);
        return;
    }
    const float *max = p->all.scratch + p->all.at.max, *sum = p->all.scratch + p->all.at.sum;
    for (int32_t i = 0; i < p->all.op->rows; i++) {
        p->op->dense_lse[i] = max[i] * ln_2 + logf(sum[i]);
    }
    unpack_outputs(&p->all);
}

static void write_outputs(const probe *p, const float *sum)
{
    write_kept(p, sum);
    settle_empty_rows(p);
    if (p->op->attend.o != NULL) {
        unpack_outputs(&p->b);
    }
    if (wants_dense(p)) {
        write_dense(p);
    }
}

static void probe_rows(const fga_probe_op *op)
{
    const fga_attend_op *a = &op->attend;
    fga_attend_op dense = *a; /* for where its outputs go */
    dense.o = op->dense_o;
    dense.lse = op->dense_lse;
    probe p = {.op = op, .b = {a, lay_out(a->rows, a->head_dim), a->scratch, part_count(a->rows, PANEL)}};
    p.all = p.b;
    p.all.op = &dense;
    p.all.scratch += p.b.at.total;
    p.sum = p.all.scratch + p.b.at.total;
    p.count = p.sum + p.b.panels * PANEL;
    strip pair[2];
    cursor c = cursor_start(a);
    c.every_group = true;
    const uint32_t *first[2] = {a->keys};
    find_strip(a, &c, &pair[0], 0);
    if (pair[0].has.keys == 0) {
        probe_nothing(op, &dense);
        return;
    }
    for (int panel = 0; panel < p.b.panels; panel++) {
        pack_queries(&p.b, panel);
    }
    start_block(&p.b);
    start_block(&p.all);
    memset(p.sum, 0, (size_t)(2 * p.b.panels * PANEL) * sizeof(float));
    for (int i = 0; pair[i].has.keys > 0; i = 1 - i) {
        first[1 - i] = a->keys + c.key;
        p.keys = first[i];
        find_strip(a, &c, &pair[1 - i], pair[i].has.keys);
        probe_strip(&p, &pair[i], &pair[1 - i]);
    }
    write_outputs(&p, a->summaries != NULL ? p.sum : p.b.scratch + p.b.at.sum);
}

#endif
