/* launch.h - finding and launching the kernels of ops.cu. */
#ifndef FGA_CUDA_LAUNCH_H
#define FGA_CUDA_LAUNCH_H

#include "ops/gpu_ops.h"

/* Kernels that are loaded with the context. With a dtype they come in f16 and bf16; the probe's by head_dim too. */
enum {
    FGA_MOVE_ROWS,
    FGA_BEST_TILES,
    FGA_TILES_OVER,
    FGA_PUT_ALIKE,
    FGA_ORDER_BLOCKS,
    FGA_COUNT_RESTS,
    FGA_ADD_BOTH,
    FGA_BUDGET_BEGIN,
    FGA_BUDGET_START_SEARCH,
    FGA_BUDGET_SPLIT,
    FGA_BUDGET_GO_ON,
    FGA_BUDGET_NARROW,
    FGA_BUDGET_COUNT_EQUALS,
    FGA_BUDGET_SHARE_OUT,
    FGA_BUDGET_FINISH,
    FGA_GROUP_SUMS,
    FGA_PROBE = FGA_GROUP_SUMS + 2,
    FGA_LONE = FGA_PROBE + 6
};

typedef struct fga_grid {
    int64_t blocks;
    int threads, shared;
} fga_grid;

fga_status fga_gpu_find(fga_context *ctx, int which, void **kernel);
/* Asynchronous; a grid of no blocks is none. */
fga_status fga_gpu_launch(fga_context *ctx, void *kernel, fga_grid grid, void *stream, void *argument);
/* Threads and shared memory of a selection among `tiles`, and whether ranks fit there. */
fga_grid fga_gpu_select_grid(const fga_context *ctx, int64_t rows, int32_t tiles, bool *cached);

/* ---- budget.c ---- */

/* Lays what it needs beside the scores into the workspace; false when it does not fit. */
bool fga_gpu_budget_lay(fga_gpu_refresh_plan *plan);
/* select: of all rows, but for what differs between heads. */
fga_status fga_gpu_budget_launch(fga_context *ctx, const fga_gpu_refresh_plan *plan, const fga_gpu_refresh_call *call,
                                 const fga_gpu_select *select);
/* The end of a run of heads from `head` on, before `end`, whose settings are equal: these are put into *select. */
int32_t fga_gpu_equal_heads(const fga_gpu_refresh_call *call, int32_t head, int32_t end, fga_gpu_select *select);
/* Adds an array to what a workspace takes, at *at; false when it does not fit. */
bool fga_gpu_carve(size_t *used, int64_t count, size_t bytes, size_t *at);

#endif
