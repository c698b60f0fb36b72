/* groups.h - whole groups of keys with the summaries of what is not kept of them: how they are taken into strips, and
 * their logits and weights.
 *
 * The includer brings a vec_*.h, WORD, the rows of keys and of logits that a summary takes: as many as one word has
 * elements, and parts_of_sum, the rows of values. Logits are [row][...]: rows of the listed keys first, then those of
 * the summaries.
 */
#ifndef FGA_CPU_GROUPS_H
#define FGA_CPU_GROUPS_H

#include "cpu/parts.h"
#include "ops/ops.h"

#include <math.h>

/* A group is never cut, so one of 256 keys may make a strip longer than usual. */
enum { LONGEST_STRIP = 256 + WORD };

/* Listed keys [first, first + listed) of the strip and what stands for the rest of their group. */
typedef struct group {
    int first, listed;
    int parts;       /* rows of its summary's values */
    float remaining; /* keys that are not listed; 0: the group has no summary */
    int64_t index;
} group;

/* What a strip has. */
typedef struct portion {
    int listed, groups;
    int keys;   /* rows: listed, and WORD for each summary */
    int values; /* rows: listed, and the parts of each summary */
    group group[LONGEST_STRIP];
} portion;

/* The keys and groups that no strip has had yet. */
typedef struct cursor {
    int64_t key, group;
    int64_t strip, strips; /* without summaries */
    bool every_group;      /* groups that are listed whole have a summary too: what remains differs by row */
} cursor;

/* Takes whole groups as long as they fit into `most` rows. */
static void take_groups(const fga_attend_op *op, cursor *c, int most, portion *s)
{
    const fga_summaries *sums = op->summaries;
    for (; c->group < sums->groups; c->group++) {
        group g = {.first = s->listed, .index = c->group};
        g.listed = (int)fga_group_listed(op, c->group, c->key);
        g.remaining = fmaxf(sums->count[c->group] - (c->every_group ? 0.0f : (float)g.listed), 0.0f);
        if (g.remaining > 0) { /* where it differs by row, a single key may remain */
            g.parts = c->every_group ? WORD : parts_of_sum(sums->count[c->group], g.remaining);
        }
        int keys = g.listed + (g.remaining > 0 ? WORD : 0);
        if (s->groups > 0 && s->keys + keys > most) {
            return;
        }
        if (keys > 0) {
            s->group[s->groups++] = g;
            s->keys += keys;
            s->values += g.listed + g.parts;
            s->listed += g.listed;
            c->key += g.listed;
        }
    }
}

/* Makes the sums over groups into the logits of what remains of them: without the listed keys' logits, and divided by
 * how many keys remain. They come after the listed keys', WORD rows each, and leave their logit in the first. `logits`
 * is one vector of queries, `row` floats a row. Returns the largest of them and max. */
ALWAYS_INLINE vec remaining_logits(float *logits, int row, const portion *s, vec max)
{
    float *sum = logits + s->listed * row;
    for (int i = 0; i < s->groups; i++) {
        const group *g = &s->group[i];
        if (g->remaining > 0) {
            vec rest = vec_load(sum), kept = vec_set(0.0f);
            for (int e = 1; e < WORD; e++) {
                rest = vec_add(rest, vec_load(sum + e * row));
            }
            for (int key = g->first; key < g->first + g->listed; key++) {
                kept = vec_add(kept, vec_load(logits + key * row));
            }
            rest = vec_mul(vec_sub(rest, kept), vec_set(1.0f / g->remaining));
            max = vec_max(rest, max);
            vec_store(sum, rest);
            sum += WORD * row;
        }
    }
    return max;
}

/* Turns logits into weights in f32, in place, and adds them to total: a group's weight w counts once for each key that
 * remains, and comes off the listed keys' weights, since the sum of values has theirs in it. */
ALWAYS_INLINE vec weigh_groups(float *logits, int row, const portion *s, vec m, vec total)
{
    float *summary = logits + s->listed * row;
    for (int i = 0; i < s->groups; i++) {
        const group *g = &s->group[i];
        vec w = vec_set(0.0f);
        if (g->remaining > 0) {
            w = vec_exp2(vec_sub(vec_load(summary), m));
            total = vec_fma(w, vec_set(g->remaining), total);
            w = word_weight(w);
            vec_store(summary, w);
            summary += WORD * row;
        }
        for (int key = g->first; key < g->first + g->listed; key++) {
            vec p = vec_exp2(vec_sub(vec_load(logits + key * row), m));
            total = vec_add(total, p);
            vec_store(logits + key * row, vec_sub(p, w));
        }
    }
    return total;
}

#endif
