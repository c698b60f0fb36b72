/* cpu.h - the overlays of the CPU tiers: each fills the table entries it has (see ops/variants.inc). */
#ifndef FGA_CPU_CPU_H
#define FGA_CPU_CPU_H

#include "ops/ops.h"

#define FGA_VARIANT(name, features, overlay) void overlay(fga_ops *ops);
#include "ops/variants.inc"
#undef FGA_VARIANT

/* The part of fga_overlay_amx that is f16. */
void fga_overlay_amx_f16(fga_ops *ops);

/* Attention of avx512.c, for blocks that a tier above leaves to it. */
void fga_attend_avx512(const fga_attend_op *op);
size_t fga_attend_avx512_scratch(int32_t rows, int32_t head_dim, fga_dtype dtype);

#endif
