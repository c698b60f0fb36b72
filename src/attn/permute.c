/* permute.c - rows moved by an order: tokens, before the first block and after the last. */
#include "attn/grid.h"
#include "base/context.h"
#include "ops/gpu_ops.h"

#include <inttypes.h>
#include <string.h>

enum { ITEM_ROWS = 256 };

fga_permute_args fga_permute_args_default(void)
{
    return (fga_permute_args){.size = sizeof(fga_permute_args)};
}

static fga_status check(fga_context *ctx, const fga_permute_args *a)
{
    FGA_TRY(fga_check_struct(ctx, "fga_permute_args", a->size, sizeof *a));
    FGA_TRY(fga_check_range(ctx, "rows", a->rows, 0, FGA_MAX_TOKENS));
    FGA_TRY(fga_check_range(ctx, "row_bytes", (int64_t)a->row_bytes, 1, INT32_MAX));
    if (a->rows > 0 && (a->from == NULL || a->to == NULL || a->order == NULL)) {
        return fga_context_fail(ctx, FGA_ERR_ARGUMENT, "%s is NULL",
                                a->from == NULL ? "from"
                                : a->to == NULL ? "to"
                                                : "order");
    }
    return FGA_OK;
}

static void move_rows(void *arg, int64_t item, int worker)
{
    (void)worker;
    const fga_permute_args *a = arg;
    for (int64_t i = item * ITEM_ROWS; i < fga_min((item + 1) * ITEM_ROWS, a->rows); i++) {
        int64_t from = a->inverse ? i : a->order[i], to = a->inverse ? a->order[i] : i;
        memcpy((char *)a->to + to * (int64_t)a->to_stride, (const char *)a->from + from * (int64_t)a->from_stride,
               a->row_bytes);
    }
}

static fga_status move_on_device(fga_context *ctx, const fga_permute_args *a, void *stream)
{
    uintptr_t all = (uintptr_t)a->from | (uintptr_t)a->to | a->row_bytes | a->from_stride | a->to_stride;
    if (all % 16 != 0) {
        return fga_context_fail(ctx, FGA_ERR_UNSUPPORTED,
                                "from is %p, to %p, row_bytes %zu, strides %zu and %zu, wanted multiples of 16 on %s",
                                a->from, a->to, a->row_bytes, a->from_stride, a->to_stride, ctx->gpu.name);
    }
    const fga_gpu_permute op = {.from = a->from,
                                .to = a->to,
                                .order = a->order,
                                .from_stride = (int64_t)a->from_stride,
                                .to_stride = (int64_t)a->to_stride,
                                .rows = a->rows,
                                .chunks = (int32_t)(a->row_bytes / 16),
                                .inverse = a->inverse};
    return fga_gpu_permute_rows(ctx, &op, stream);
}

fga_status fga_permute(fga_context *ctx, const fga_permute_args *args, void *stream)
{
    if (ctx == NULL || args == NULL) {
        return fga_context_fail(ctx, FGA_ERR_ARGUMENT, "%s is NULL", ctx == NULL ? "ctx" : "args");
    }
    FGA_TRY(check(ctx, args));
    fga_permute_args a = *args;
    a.from_stride = a.from_stride > 0 ? a.from_stride : a.row_bytes;
    a.to_stride = a.to_stride > 0 ? a.to_stride : a.row_bytes;
    if (ctx->options.device == FGA_DEVICE_CUDA) {
        return move_on_device(ctx, &a, stream);
    }
    fga_parallel_for(ctx, fga_ceil_div(a.rows, ITEM_ROWS), move_rows, &a);
    return FGA_OK;
}
