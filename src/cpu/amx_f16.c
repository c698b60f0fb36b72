/* amx_f16.c - f16 attention on AMX tiles: a product of two f16 is that of two terms of bf16 each. */
#include "cpu/vec_avx512.h"

#include "cpu/terms_f16.h"

#include "cpu/attend_amx.h"
#include "cpu/cpu.h"

void fga_overlay_amx_f16(fga_ops *ops)
{
    ops->attend[FGA_F16] = attend;
    ops->attend_variant[FGA_F16] = "amx";
    ops->attend_scratch[FGA_F16] = attend_scratch;
    ops->block_rows[FGA_F16] = 192; /* splitting keys and values is shared by more queries */
}
