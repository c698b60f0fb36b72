/* none.c - in a build without CUDA: there is no device, and contexts that ask for one are refused. */
#include "base/error.h"
#include "base/gpu.h"
#include "ops/gpu.h"

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
