/* device.c - the caller's CUDA device, and the device copies of masks. */
#include "cuda/device.h"

#include "base/context.h"
#include "ops/gpu.h"

#include <inttypes.h>
#include <string.h>

bool fga_gpu_built(void)
{
    return true;
}

static bool describe(const fga_driver *driver, CUdevice device, fga_gpu *gpu)
{
    const struct {
        int *value;
        CUdevice_attribute attribute;
    } wanted[] = {
        {&gpu->major, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR},
        {&gpu->minor, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR},
        {&gpu->processors, CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT},
        {&gpu->shared_bytes, CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN},
    };
    if (driver->cuDeviceGetName(gpu->name, sizeof gpu->name, device) != CUDA_SUCCESS) {
        return false;
    }
    for (size_t i = 0; i < sizeof wanted / sizeof wanted[0]; i++) {
        if (driver->cuDeviceGetAttribute(wanted[i].value, wanted[i].attribute, device) != CUDA_SUCCESS) {
            return false;
        }
    }
    return true;
}

fga_status fga_gpu_open(fga_gpu *gpu)
{
    *gpu = (fga_gpu){0};
    const fga_driver *driver = fga_driver_load();
    CUcontext current = NULL;
    CUdevice device = 0;
    if (driver == NULL || driver->cuCtxGetCurrent(&current) != CUDA_SUCCESS || current == NULL ||
        driver->cuCtxGetDevice(&device) != CUDA_SUCCESS || !describe(driver, device, gpu)) {
        return FGA_ERR_UNSUPPORTED;
    }
    gpu->cuda_context = current;
    return FGA_OK;
}

void fga_gpu_close(fga_gpu *gpu)
{
    const fga_driver *driver = fga_driver_load();
    if (driver == NULL || gpu->cuda_context == NULL || driver->cuCtxPushCurrent(gpu->cuda_context) != CUDA_SUCCESS) {
        return;
    }
    for (size_t i = 0; i < sizeof gpu->modules / sizeof gpu->modules[0]; i++) {
        if (gpu->modules[i] != NULL) {
            driver->cuModuleUnload(gpu->modules[i]);
            gpu->modules[i] = NULL;
        }
    }
    CUcontext popped;
    driver->cuCtxPopCurrent(&popped);
    gpu->cuda_context = NULL;
}

fga_status fga_gpu_fail(fga_context *ctx, const char *what, int result)
{
    return fga_context_fail(ctx, result == CUDA_ERROR_OUT_OF_MEMORY ? FGA_ERR_MEMORY : FGA_ERR_INTERNAL,
                            "%s (compute capability %d.%d): %s: %s", ctx->gpu.name, ctx->gpu.major, ctx->gpu.minor,
                            what, fga_driver_error((CUresult)result));
}

/* ---- masks ---------------------------------------------------------------------------------------- */

enum { MASK_ARRAYS = 5, MASK_ALIGNMENT = 256 };

fga_status fga_gpu_mask_upload(fga_context *ctx, const fga_gpu_mask_source *source, fga_gpu_mask *mask)
{
    const fga_driver *driver = fga_driver_load();
    size_t rows = (size_t)source->rows;
    size_t runs = source->bits == NULL ? (size_t)source->run_offsets[rows] : 0;
    const struct {
        const void *from;
        size_t bytes;
    } arrays[MASK_ARRAYS] = {
        {source->bits, source->bits != NULL ? rows * (size_t)source->words * sizeof(uint64_t) : 0},
        {source->run_offsets, source->bits == NULL ? (rows + 1) * sizeof(int64_t) : 0},
        {source->runs, runs * 2 * sizeof(uint32_t)},
        {source->row_keys, rows * sizeof(int32_t)},
        {source->row_order, rows * sizeof(int32_t)},
    };
    size_t at[MASK_ARRAYS + 1] = {0};
    for (int i = 0; i < MASK_ARRAYS; i++) {
        at[i + 1] = at[i] + (arrays[i].bytes + MASK_ALIGNMENT - 1) / MASK_ALIGNMENT * MASK_ALIGNMENT;
    }
    CUdeviceptr memory = 0;
    CUresult result = driver->cuMemAlloc(&memory, at[MASK_ARRAYS] > 0 ? at[MASK_ARRAYS] : 1);
    if (result != CUDA_SUCCESS) {
        return fga_context_fail(ctx, FGA_ERR_MEMORY, "%s: no memory for a mask of %zu bytes: %s", ctx->gpu.name,
                                at[MASK_ARRAYS], fga_driver_error(result));
    }
    for (int i = 0; i < MASK_ARRAYS && result == CUDA_SUCCESS; i++) {
        result = arrays[i].bytes > 0 ? driver->cuMemcpyHtoD(memory + at[i], arrays[i].from, arrays[i].bytes) : result;
    }
    if (result == CUDA_SUCCESS) { /* a copy may return while its last bytes are still on their way */
        result = driver->cuStreamSynchronize(NULL);
    }
    if (result != CUDA_SUCCESS) {
        driver->cuMemFree(memory);
        return fga_gpu_fail(ctx, "cannot copy a mask", (int)result);
    }
    char *base = (char *)(uintptr_t)memory; /* an address of the device's: never followed here */
    *mask = (fga_gpu_mask){
        .memory = memory,
        .cuda_context = ctx->gpu.cuda_context,
        .bits = source->bits != NULL ? (const uint64_t *)(base + at[0]) : NULL,
        .run_offsets = (const int64_t *)(base + at[1]),
        .runs = (const uint32_t *)(base + at[2]),
        .row_keys = (const int32_t *)(base + at[3]),
        .row_order = (const int32_t *)(base + at[4]),
    };
    return FGA_OK;
}

void fga_gpu_mask_free(fga_gpu_mask *mask)
{
    const fga_driver *driver = fga_driver_load();
    CUcontext popped;
    if (mask->memory != 0 && driver != NULL && driver->cuCtxPushCurrent(mask->cuda_context) == CUDA_SUCCESS) {
        driver->cuMemFree(mask->memory);
        driver->cuCtxPopCurrent(&popped);
    }
    *mask = (fga_gpu_mask){0};
}
