/* remainder.h - sums over groups of keys, from which attention makes one summary per group for the keys not kept. */
#ifndef FGA_ATTN_REMAINDER_H
#define FGA_ATTN_REMAINDER_H

#include "attn/grid.h"
#include "ops/ops.h"

/* Whether remainder can stand beside keys of desc's shape. */
fga_status fga_remainder_check(fga_context *ctx, const fga_attend_desc *desc, const fga_remainder *remainder);
/* The sums of one (batch, key head). */
fga_summaries fga_remainder_head(const fga_remainder *remainder, const fga_attend_desc *desc, int64_t b,
                                 int64_t kv_head);

#endif
