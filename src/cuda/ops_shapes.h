/* ops_shapes.h - sizes that the kernels of ops.cu and the host agree on. */
#ifndef FGA_CUDA_OPS_SHAPES_H
#define FGA_CUDA_OPS_SHAPES_H

/* A tile of 128 pooled queries and one of keys per stage, and two floats per key (of two stages in any case) and per
 * pooled query: at 128 channels two thread blocks share a processor of compute capability 8.0, and where one may have
 * 99 KB only, one stage fits. */
#define FGA_RANK_THREADS 256
#define FGA_RANK_SHARED(dim, stages) ((1 + (stages)) * 128 * (2 * (dim) + 16) + 3 * 8 * 128)
/* sm_90: one warpgroup that brings keys and two of 64 pooled queries each; four stages of 128 keys. Registers by role:
 * no more in all than the 168 a thread that the block starts with. */
#define FGA_WIDE_THREADS 384
#define FGA_WIDE_STAGES 4
#define FGA_WIDE_PRODUCER 40
#define FGA_WIDE_CONSUMER 232
#define FGA_WIDE_SHARED(dim) (1024 + 128 * 2 * (dim) * (1 + FGA_WIDE_STAGES) + (8 * 128 + 16) * FGA_WIDE_STAGES)
/* 64 samples, a warp per 16, and two stages of K and V, fewer keys where head_dim is above 128. */
#define FGA_PROBE_ROWS 64
#define FGA_PROBE_THREADS 128
#define FGA_PROBE_KEYS(dim) ((dim) > 128 ? 32 : 64)
#define FGA_PROBE_SHARED(dim) (4 * FGA_PROBE_KEYS(dim) * (2 * (dim) + 16) + 8 * FGA_PROBE_KEYS(dim))
/* Beside two bytes per tile, rounded up to 64, where they are cached. */
#define FGA_SELECT_SHARED (4 * 2048 + 4 * 32 + 64)
#define FGA_ALIKE_SHARED (4 * FGA_ALIKE_WORDS + 4 * FGA_ALIKE_BLOCKS / 32)
/* Counts by digit, and what a row or a thread block knows beside them. */
#define FGA_BUDGET_SHARED (4 * 2048 + 24 + 8 * 32)

#endif
