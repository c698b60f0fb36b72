/* budget.c - one budget for all rows of a batch item: what its kernels (budget.cuh) get, and in which order. */
#include "cuda/launch.h"

#include "base/context.h"
#include "cuda/device.h"
#include "cuda/ops_shapes.h"

#include <stddef.h>
#include <string.h>

/* Rounds of searching after the cut's range is first known: its lower half has two digits, or three where it lies
 * outside the window. */
enum { ROUNDS = 2, WARP_THREADS = 32, ROW_THREADS = 256, UPPER_HALVES = 1 << 16 };

/* Of one in so many tiles a row's list has room. Where scores are spread over a few octaves, one in several hundred
 * shares the upper half of the cut. */
enum { LISTED = 64 };

bool fga_gpu_budget_lay(fga_gpu_refresh_plan *p)
{
    int64_t rows = (int64_t)p->shape.batch * p->shape.query_heads * p->blocks;
    p->near_room = LISTED + p->tiles / LISTED;
    return fga_gpu_carve(&p->workspace_bytes, 1, sizeof(fga_gpu_budget_state), &p->state_at) &&
           fga_gpu_carve(&p->workspace_bytes, rows, sizeof(fga_gpu_budget_row), &p->rows_at) &&
           fga_gpu_carve(&p->workspace_bytes, rows, (size_t)p->near_room * sizeof(uint32_t), &p->near_at);
}

/* The window of 16 octaves in which ranks are first counted: from 11 below the mean share on. */
static int32_t window_base(int32_t tiles)
{
    float mean = 1.0f / (float)tiles;
    uint32_t bits;
    memcpy(&bits, &mean, sizeof bits);
    int32_t base = (int32_t)((bits | 0x80000000u) >> 16) - 11 * 128, most = UPPER_HALVES - FGA_BUDGET_DIGITS;
    return base < most ? base : most;
}

/* A thread block per row, which keeps what must be and its floor. */
static fga_status begin(fga_context *ctx, const fga_gpu_refresh_call *c, fga_gpu_budget *b, int32_t first, int32_t end)
{
    void *kernel = NULL;
    FGA_TRY(fga_gpu_find(ctx, FGA_BUDGET_BEGIN, &kernel));
    for (int32_t h = first, next; h < end; h = next) {
        bool cached = false;
        next = fga_gpu_equal_heads(c, h, end, &b->select);
        int64_t rows = (int64_t)(next - h) * b->select.blocks;
        fga_grid g = fga_gpu_select_grid(ctx, rows, b->select.tiles, &cached);
        b->select.cached = cached;
        FGA_TRY(fga_gpu_launch(ctx, kernel, g, c->stream, b));
    }
    b->select.head_first = first;
    b->select.head_end = end;
    return FGA_OK;
}

static fga_status step(fga_context *ctx, int which, fga_grid grid, void *stream, fga_gpu_budget *b)
{
    void *kernel = NULL;
    FGA_TRY(fga_gpu_find(ctx, which, &kernel));
    return fga_gpu_launch(ctx, kernel, grid, stream, b);
}

/* Of a thread block that goes through `count` of something. */
static int threads_for(int64_t count)
{
    return count <= 2048 ? 256 : 1024;
}

/* One batch item: heads [first, end). */
static fga_status spend(fga_context *ctx, const fga_gpu_refresh_call *c, fga_gpu_budget *b, int32_t first, int32_t end)
{
    int64_t rows = (int64_t)(end - first) * b->select.blocks, warps = ROW_THREADS / WARP_THREADS;
    int64_t blocks = (rows + warps - 1) / warps, most = (int64_t)ctx->gpu.processors * 8;
    const fga_grid one = {1, WARP_THREADS, 0}, each = {rows, threads_for(b->select.tiles), FGA_BUDGET_SHARED},
                   all = {1, threads_for(rows), FGA_BUDGET_SHARED},
                   some = {blocks < most ? blocks : most, ROW_THREADS, FGA_BUDGET_SHARED};
    CUresult cleared =
        fga_driver_load()->cuMemsetD8Async((CUdeviceptr)(uintptr_t)b->state, 0, sizeof *b->state, c->stream);
    if (cleared != CUDA_SUCCESS) {
        return fga_gpu_fail(ctx, "cannot clear a counter", (int)cleared);
    }
    FGA_TRY(begin(ctx, c, b, first, end));
    FGA_TRY(step(ctx, FGA_BUDGET_START_SEARCH, one, c->stream, b));
    FGA_TRY(step(ctx, FGA_BUDGET_SPLIT, each, c->stream, b));
    for (int i = 0; i < ROUNDS; i++) {
        FGA_TRY(step(ctx, FGA_BUDGET_GO_ON, one, c->stream, b));
        FGA_TRY(step(ctx, FGA_BUDGET_NARROW, some, c->stream, b));
    }
    FGA_TRY(step(ctx, FGA_BUDGET_GO_ON, one, c->stream, b));
    FGA_TRY(step(ctx, FGA_BUDGET_COUNT_EQUALS, some, c->stream, b));
    FGA_TRY(step(ctx, FGA_BUDGET_SHARE_OUT, all, c->stream, b));
    return step(ctx, FGA_BUDGET_FINISH, some, c->stream, b);
}

fga_status fga_gpu_budget_launch(fga_context *ctx, const fga_gpu_refresh_plan *p, const fga_gpu_refresh_call *c,
                                 const fga_gpu_select *select)
{
    char *memory = c->workspace;
    fga_gpu_budget b = {
        .select = *select,
        .state = (fga_gpu_budget_state *)(memory + p->state_at),
        .rows = (fga_gpu_budget_row *)(memory + p->rows_at),
        .near = (uint32_t *)(memory + p->near_at),
        .near_room = p->near_room,
        .base = window_base(select->live_tiles > 0 ? select->live_tiles : 1),
        .shares = p->shape.score == FGA_GPU_DEVIATION,
    };
    for (int32_t item = 0; item < p->shape.batch; item++) {
        b.tiles = c->budget[item];
        FGA_TRY(spend(ctx, c, &b, item * p->shape.query_heads, (item + 1) * p->shape.query_heads));
    }
    return FGA_OK;
}
