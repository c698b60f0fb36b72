/* rank_product.h - what rank_panel.h asks of the product of a chunk of keys with the rows of a call.
 *
 * rank_f32.h and rank_amx.h each provide it; a tier's file includes one of them before rank_panel.h:
 *
 *     rank_product   op; the row in every lane, or NO_ROW; vectors of lanes, and panels; their place in the scratch
 *     rank_keys      the keys of a chunk: `first` and `count`, set by the caller, and what product_find makes of them
 *     product_rows_words, product_keys_words   what they take of the scratch, in 32-bit words
 *     product_begin, product_end               around all products of a call
 *     product_find                             looks at a chunk's keys, before its product or that of the chunk before
 *     product_stage                            copies what of a chunk's keys cannot be multiplied where it lies
 *     product_run                              dot products of some panels to z[panel][limit][PANEL]; vectors without
 *                                              rows stay as they are. `next`: the chunk after, to be fetched ahead, or
 *                                              NULL
 *     PRODUCT_PANELS                           panels that a product likes to have at once
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

enum { RANK_KEYS = 128, RANK_MAX_KEYS = 256, RANK_ROWS = 4 * PANEL, NO_ROW = -1 };

/* A panel's vectors that are in use. */
static int vecs_of_panel(int vecs, int panel)
{
    return vecs - 2 * panel > 1 ? 2 : 1;
}

/* Keys of a chunk, at most. */
static int rank_limit(const fga_rank_op *op)
{
    return op->kind == FGA_RANK_DEVIATION && op->group > RANK_KEYS ? op->group : RANK_KEYS;
}

static bool key_is_out(const fga_rank_op *op, int64_t key)
{
    return op->bias[key] == -INFINITY;
}

/* Rows of a panel's lanes; zeros for a lane without one. */
static void find_panel_rows(const fga_rank_op *op, const int32_t *lanes, int panel, const char *found[PANEL])
{
    static const float nothing[256];
    for (int i = 0; i < PANEL; i++) {
        int32_t row = lanes[panel * PANEL + i];
        found[i] = (const char *)(row == NO_ROW ? nothing : op->q + (int64_t)row * op->head_dim);
    }
}

#endif
