/* avx512bf16.c - AVX512_BF16: bf16 inputs multiplied as they are. f16 and f32 stay with the tier below. */
#include "cpu/vec_avx512.h"

#include "cpu/words_bf16.h"

#include "cpu/attend_panel.h"
#include "cpu/cpu.h"
#include "cpu/probe_panel.h"

void fga_overlay_avx512bf16(fga_ops *ops)
{
    ops->name = "avx512bf16";
    ops->attend[FGA_BF16] = attend;
    ops->attend_variant[FGA_BF16] = "avx512bf16";
    ops->attend_scratch[FGA_BF16] = attend_scratch;
    ops->block_rows[FGA_BF16] = 128; /* packing the values is shared by more queries */
    ops->probe[FGA_BF16] = probe_rows;
    ops->probe_scratch[FGA_BF16] = probe_scratch;
}
