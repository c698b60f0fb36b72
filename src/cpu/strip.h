/* strip.h - the kept keys of a block, and the summaries of what is not kept, a strip at a time.
 *
 * A strip names its rows of keys by pointers: into the tensor where they can be read in place, into the scratch where
 * they had to be converted or copied, and into the caller's sums where they stand for keys that are not kept. Listed
 * keys come first, then the summaries; a group of keys is never cut.
 */
#ifndef FGA_CPU_STRIP_H
#define FGA_CPU_STRIP_H

#include "cpu/element.h"
#include "cpu/groups.h"
#include "cpu/tile.h"
#include "ops/ops.h"

#include <math.h>

/* A strip's logits, 128 bytes a key and panel, stay in the first-level cache beside the packed queries. */
enum { STRIP = 120 };

/* Where things lie in the caller's scratch; offsets in 32-bit words. */
typedef struct layout {
    int64_t row; /* words of a row of keys or outputs: head_dim in whole panels */
    size_t query, output, max, sum, logits, keys, slab, total;
} layout;

static layout lay_out(int32_t rows, int32_t head_dim)
{
    size_t panels = (size_t)part_count(rows, PANEL);
    layout at = {.row = part_count(head_dim, PANEL) * PANEL};
    size_t row = (size_t)at.row;
    at.output = at.query + panels * PANEL * row;
    at.max = at.output + panels * PANEL * row;
    at.sum = at.max + panels * PANEL;
    at.logits = at.sum + panels * PANEL;
    at.keys = at.logits + panels * LONGEST_STRIP * PANEL; /* 16-bit queries and outputs pass through here as f32 */
    at.slab = at.keys + LONGEST_STRIP * row;
    at.total = at.slab + LONGEST_STRIP * PANEL;
    return at;
}

typedef struct strip {
    portion has;
    int words;                                                           /* rows of value words and of weights */
    float bias[LONGEST_STRIP];                                           /* of every row of keys, in log2 units */
    const char *key_source[LONGEST_STRIP], *value_source[LONGEST_STRIP]; /* rows in the tensors, then of sums */
    const char *key_row[LONGEST_STRIP];                                  /* rows of words */
    int16_t weight_row[LONGEST_STRIP]; /* of logits, for rows of values of summaries */
} strip;

static cursor cursor_start(const fga_attend_op *op)
{
    return (cursor){.strips = (op->key_count + STRIP - 1) / STRIP};
}

/* The next strip; one of no rows when there are no more. Sources are named for `at_least` rows, to be fetched ahead. */
static void find_strip(const fga_attend_op *op, cursor *c, strip *s, int at_least)
{
    const uint32_t *keys = op->keys + c->key;
    s->has.listed = s->has.groups = s->has.keys = s->has.values = 0;
    if (op->summaries != NULL) {
        take_groups(op, c, STRIP, &s->has);
    } else if (c->strip < c->strips) {
        int64_t end = op->key_count * ++c->strip / c->strips;
        s->has.listed = s->has.keys = s->has.values = (int)(end - c->key);
        c->key = end;
    }
    s->words = part_count(s->has.values, WORD);
    int last = s->has.listed - 1;
    for (int i = 0; last >= 0 && (i <= last || i < at_least); i++) {
        uint32_t key = keys[i < last ? i : last];
        s->bias[i] = op->bias != NULL ? op->bias[key] * LOG2_E : 0.0f;
        s->key_source[i] = element(op->k, key * op->k_stride, op->dtype);
        s->value_source[i] = element(op->v, key * op->v_stride, op->dtype);
    }
}

/* Whether all rows of a tile lie on the same sets of the first-level cache (8 ways of 4 KB) and are too many for them:
 * each line would be evicted before its words are used up. */
static bool rows_clash(int64_t stride, fga_dtype dtype)
{
    return TILE > 8 && stride * (dtype == FGA_F32 ? 4 : 2) % 4096 == 0;
}

/* Names the strip's rows of key words, staging what cannot be read in place, and the rows of its summaries' values. */
static void stage_strip_keys(const fga_attend_op *op, strip *s, int64_t row, float *staged)
{
    bool clash = rows_clash(op->k_stride, op->dtype);
    stage_keys(op, s->key_source, s->has.listed, clash, staged, row, s->key_row);
    int key = s->has.listed, value = s->has.listed;
    for (int i = 0; i < s->has.groups; i++) {
        const group *g = &s->has.group[i];
        if (g->remaining > 0) {
            char *made = (char *)(staged + key * row); /* bf16: half a row for keys, half for values */
            name_sum(op, SUM_OF_KEYS, g->index, WORD, made, row * 4, s->key_row + key);
            name_sum(op, SUM_OF_VALUES, g->index, g->parts, made + row * 2, row * 4, s->value_source + value);
            for (int e = 0; e < WORD; e++) {
                s->bias[key + e] = e == 0 ? op->summaries->sum_bias[g->index] * LOG2_E : 0.0f;
            }
            for (int e = 0; e < g->parts; e++) {
                s->weight_row[value + e] = (int16_t)key;
            }
            key += WORD;
            value += g->parts;
        }
    }
}

/* PANEL columns of the strip's values as a slab of words, [words][PANEL]: small enough to stay in the first-level cache
 * while all queries use it. Read in place, values would come from scattered lines and pages once per tile. */
static void stage_strip_values(const fga_attend_op *op, const strip *s, int column, float *slab)
{
    stage_values(op, s->value_source, s->has.listed, s->has.values, column, slab);
}

#endif
