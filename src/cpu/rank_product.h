/* rank_product.h - what rank_panel.h asks of the product of a chunk of keys with the rows of a call.
 *
 * rank_f32.h and rank_amx.h each provide it; a tier's file includes one of them before rank_panel.h:
 *
 *     rank_product   the rows, packed once per call, and room to stage keys
 *     rank_keys      the keys of a chunk: `first` and `count`, set by the caller, and what product_find makes of them
 *     product_rows_words, product_keys_words   what they take of the scratch, in 32-bit words
 *     product_begin, product_end               around all products of a call
 *     product_find                             looks at a chunk's keys, before its product or that of the chunk before
 *     product_run                              dot products to z[panel][limit][PANEL]; vectors without rows stay as
 *                                              they are. `next`: the chunk after, to be fetched ahead, or NULL
 *
 * A key that is out gives dot products with zeros.
 */
#ifndef FGA_CPU_RANK_PRODUCT_H
#define FGA_CPU_RANK_PRODUCT_H

#include "cpu/element.h"
#include "cpu/parts.h"
#include "ops/ops.h"

#include <math.h>
#include <stdbool.h>

enum { RANK_KEYS = 128, RANK_MAX_KEYS = 256, RANK_ROWS = 4 * PANEL };

/* Keys of a chunk, at most. */
static int rank_limit(const fga_rank_op *op)
{
    return op->kind == FGA_RANK_DEVIATION && op->group > RANK_KEYS ? op->group : RANK_KEYS;
}

static bool key_is_out(const fga_rank_op *op, int64_t key)
{
    return op->bias[key] == -INFINITY;
}

static int panel_count_rows(int rows, int panel)
{
    int left = rows - panel * PANEL;
    return left < PANEL ? left : PANEL;
}

static int panel_count_vecs(int rows, int panel)
{
    return panel_count_rows(rows, panel) > LANES ? 2 : 1;
}

/* Rows of a panel's lanes: those past the last row repeat it. */
static void find_panel_rows(const fga_rank_op *op, int rows, int panel, const char *found[PANEL])
{
    int last = panel_count_rows(rows, panel) - 1;
    for (int i = 0; i < PANEL; i++) {
        found[i] = (const char *)(op->q + (int64_t)(panel * PANEL + (i < last ? i : last)) * op->head_dim);
    }
}

#endif
