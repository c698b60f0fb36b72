/* ref.c - the oracle tier: plain C, accumulating in double. */
#include "ops/ops.h"

void fga_overlay_ref(fga_ops *ops);

void fga_overlay_ref(fga_ops *ops)
{
    ops->name = "c";
    ops->max_rows = 192;
}
