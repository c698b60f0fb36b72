/* none.c - in a build without CUDA: there is no device, and contexts that ask for one are refused. */
#include "base/error.h"
#include "base/gpu.h"
#include "ops/gpu_ops.h"

bool fga_gpu_built(void)
{
    return false;
}

fga_status fga_gpu_open(fga_gpu *gpu)
{
    *gpu = (fga_gpu){0};
    return FGA_ERR_UNSUPPORTED;
}

void fga_gpu_close(fga_gpu *gpu)
{
    (void)gpu;
}

static fga_status no_cuda(fga_context *ctx)
{
    return fga_context_fail(ctx, FGA_ERR_UNSUPPORTED, "this build has no CUDA kernels");
}

fga_status fga_gpu_load(fga_context *ctx)
{
    return no_cuda(ctx);
}

fga_status fga_gpu_mask_upload(fga_context *ctx, const fga_gpu_mask_source *source, fga_gpu_mask *mask)
{
    (void)source;
    *mask = (fga_gpu_mask){0};
    return no_cuda(ctx);
}

void fga_gpu_mask_free(fga_gpu_mask *mask)
{
    (void)mask;
}

int fga_gpu_variant_count(void)
{
    return 0;
}

const char *fga_gpu_variant_name(int index)
{
    (void)index;
    return NULL;
}

bool fga_gpu_variant_runs_here(int index)
{
    (void)index;
    return false;
}

fga_status fga_gpu_attend_prepare(fga_context *ctx, const fga_attend_desc *desc, fga_gpu_attend_plan *plan)
{
    (void)desc;
    *plan = (fga_gpu_attend_plan){0};
    return no_cuda(ctx);
}

fga_status fga_gpu_attend_launch(fga_context *ctx, const fga_gpu_attend_plan *plan, fga_gpu_attend *op, fga_dtype dtype,
                                 void *workspace, void *stream)
{
    (void)plan;
    (void)op;
    (void)dtype;
    (void)workspace;
    (void)stream;
    return no_cuda(ctx);
}

fga_status fga_gpu_permute_rows(fga_context *ctx, const fga_gpu_permute *op, void *stream)
{
    (void)op;
    (void)stream;
    return no_cuda(ctx);
}

fga_status fga_gpu_group_sums(fga_context *ctx, const fga_gpu_sums *op, fga_dtype dtype, void *stream)
{
    (void)op;
    (void)dtype;
    (void)stream;
    return no_cuda(ctx);
}

fga_status fga_gpu_refresh_prepare(fga_context *ctx, const fga_gpu_refresh *shape, fga_gpu_refresh_plan *plan)
{
    (void)shape;
    *plan = (fga_gpu_refresh_plan){0};
    return no_cuda(ctx);
}

fga_status fga_gpu_refresh_launch(fga_context *ctx, const fga_gpu_refresh_plan *plan, fga_gpu_refresh_call *call)
{
    (void)plan;
    (void)call;
    return no_cuda(ctx);
}

fga_status fga_gpu_select_rows(fga_context *ctx, const fga_gpu_select *select, int64_t rows, void *stream)
{
    (void)select;
    (void)rows;
    (void)stream;
    return no_cuda(ctx);
}

fga_status fga_gpu_probe_samples(fga_context *ctx, const fga_gpu_probe *probe, fga_dtype dtype, void *stream)
{
    (void)probe;
    (void)dtype;
    (void)stream;
    return no_cuda(ctx);
}

fga_status fga_gpu_order_blocks(fga_context *ctx, const fga_gpu_order *order, void *stream)
{
    (void)order;
    (void)stream;
    return no_cuda(ctx);
}

fga_status fga_gpu_mask_alloc(fga_context *ctx, int64_t rows, int64_t words, fga_gpu_mask *mask, uint64_t **pairs)
{
    (void)rows;
    (void)words;
    *mask = (fga_gpu_mask){0};
    *pairs = NULL;
    return no_cuda(ctx);
}

fga_status fga_gpu_read(fga_context *ctx, void *host, const void *device, size_t bytes, void *stream)
{
    (void)host;
    (void)device;
    (void)bytes;
    (void)stream;
    return no_cuda(ctx);
}

fga_status fga_gpu_count_rests(fga_context *ctx, const fga_gpu_rests *rests, void *stream)
{
    (void)rests;
    (void)stream;
    return no_cuda(ctx);
}

fga_status fga_gpu_add_pairs(fga_context *ctx, const fga_gpu_tally *tally, void *stream)
{
    (void)tally;
    (void)stream;
    return no_cuda(ctx);
}

fga_status fga_gpu_counters(fga_context *ctx, fga_gpu_mask *memory, uint64_t **counters)
{
    *memory = (fga_gpu_mask){0};
    *counters = NULL;
    return no_cuda(ctx);
}
