/* amx.c - AMX tiles: bf16 at sixteen times the rate of AVX512_BF16. f16 is in amx_f16.c; f32 stays with the tiers
 * below. */
#include "cpu/vec_avx512.h"

#include "cpu/terms_bf16.h"

#include "cpu/attend_amx.h"
#include "cpu/cpu.h"
#include "cpu/rank_amx.h"
#include "cpu/rank_panel.h"

void fga_overlay_amx(fga_ops *ops)
{
    ops->name = "amx";
    ops->attend[FGA_BF16] = attend;
    ops->attend_variant[FGA_BF16] = "amx";
    ops->attend_scratch[FGA_BF16] = attend_scratch;
    ops->block_rows[FGA_BF16] = 192; /* copying keys and values is shared by more queries */
    ops->rank[FGA_BF16] = rank;
    ops->rank_scratch[FGA_BF16] = rank_scratch;
    fga_overlay_amx_f16(ops);
}
