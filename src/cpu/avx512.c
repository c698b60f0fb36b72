/* avx512.c - AVX-512 (F, BW, DQ, VL): f32 in place, f16 and bf16 converted. */
#include "cpu/vec_avx512.h"

#include "cpu/words_f32.h"

#include "cpu/attend_panel.h"
#include "cpu/cpu.h"
#include "cpu/probe_panel.h"
#include "cpu/rank_f32.h"
#include "cpu/rank_panel.h"
#include "cpu/score_panel.h"
#include "cpu/sum_panel.h"

void fga_attend_avx512(const fga_attend_op *op)
{
    attend(op);
}

size_t fga_attend_avx512_scratch(int32_t rows, int32_t head_dim, fga_dtype dtype)
{
    return attend_scratch(rows, head_dim, dtype);
}

void fga_overlay_avx512(fga_ops *ops)
{
    ops->name = "avx512";
    for (int dtype = FGA_F32; dtype <= FGA_BF16; dtype++) {
        ops->attend[dtype] = fga_attend_avx512;
        ops->attend_variant[dtype] = "avx512";
        ops->attend_scratch[dtype] = fga_attend_avx512_scratch;
        ops->block_rows[dtype] = 128; /* packing the values is shared by more queries */
        ops->probe[dtype] = probe_rows;
        ops->probe_scratch[dtype] = probe_scratch;
        ops->rank[dtype] = rank;
        ops->rank_scratch[dtype] = rank_scratch;
    }
    ops->pool = pool;
    ops->sums = sums;
    ops->rank_rows = RANK_ROWS;
    ops->alike = alike;
    ops->digits = digits;
    ops->sift = sift;
}
