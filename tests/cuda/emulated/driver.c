/* driver.c - in place of src/cuda/driver.c and of bench/gpu/gpu.c: a driver and a device of compute capability 9.0 with
 * three multiprocessors, in the processor's memory; with EMULATED_DEVICE=8.9 in the environment one of 8.9, on which a
 * thread block has 99 KB of shared memory. */
#include "cuda/device.h"
#include "gpu.h"
#include "kernels.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

const unsigned char fga_cuda_image_sm80[1], fga_cuda_image_sm90[1], fga_cuda_image_sm90_d96[1],
    fga_cuda_image_sm90_d256[1], fga_cuda_image_ops[1], fga_cuda_image_ops_sm90[1];

static CUresult device_name(char *name, int bytes, CUdevice device)
{
    (void)device;
    snprintf(name, (size_t)bytes, "emulated device");
    return CUDA_SUCCESS;
}

static bool is_ada(void)
{
    const char *device = getenv("EMULATED_DEVICE");
    return device != NULL && strcmp(device, "8.9") == 0;
}

static int shared_bytes(void)
{
    return is_ada() ? 101376 : 232448;
}

static CUresult attribute(int *value, CUdevice_attribute which, CUdevice device)
{
    (void)device;
    *value = which == CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR   ? (is_ada() ? 8 : 9)
             : which == CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR ? (is_ada() ? 9 : 0)
             : which == CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT     ? 3
                                                                     : shared_bytes();
    return CUDA_SUCCESS;
}

static CUresult current(CUcontext *context)
{
    static int some;
    *context = (CUcontext)(void *)&some;
    return CUDA_SUCCESS;
}

static CUresult current_device(CUdevice *device)
{
    *device = 0;
    return CUDA_SUCCESS;
}

static CUresult push(CUcontext context)
{
    (void)context;
    return CUDA_SUCCESS;
}

static CUresult load_module(CUmodule *module, const void *image)
{
    *module = (CUmodule)(uintptr_t)image;
    return CUDA_SUCCESS;
}

static CUresult unload_module(CUmodule module)
{
    (void)module;
    return CUDA_SUCCESS;
}

/* A kernel is its name; and the shared memory that it may have. */
typedef struct kernel {
    char name[48];
    int shared;
} kernel;

enum { KERNELS = 256, SHARED_UNASKED = 48 * 1024 };

static CUresult get_function(CUfunction *function, CUmodule module, const char *name)
{
    static kernel kernels[KERNELS];
    (void)module;
    for (int i = 0; i < KERNELS; i++) {
        if (kernels[i].name[0] == '\0') {
            snprintf(kernels[i].name, sizeof kernels[i].name, "%s", name);
            kernels[i].shared = SHARED_UNASKED;
        }
        if (strcmp(kernels[i].name, name) == 0) {
            *function = (CUfunction)(void *)&kernels[i];
            return CUDA_SUCCESS;
        }
    }
    return CUDA_ERROR_NOT_FOUND;
}

static CUresult set_attribute(CUfunction function, CUfunction_attribute which, int value)
{
    if (which != CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES || value > shared_bytes()) {
        return CUDA_ERROR_INVALID_VALUE;
    }
    ((kernel *)(void *)function)->shared = value > SHARED_UNASKED ? value : SHARED_UNASKED;
    return CUDA_SUCCESS;
}

static CUresult occupancy(int *blocks, CUfunction function, int threads, size_t shared)
{
    *blocks = threads <= 1024 && shared <= (size_t)((const kernel *)(void *)function)->shared;
    return CUDA_SUCCESS;
}

static CUresult launch(CUfunction function, unsigned x, unsigned y, unsigned z, unsigned threads, unsigned ty,
                       unsigned tz, unsigned shared, CUstream stream, void **arguments, void **extra)
{
    const kernel *k = (const kernel *)(void *)function;
    (void)stream;
    (void)extra;
    if (y * z * ty * tz != 1 || x == 0 || threads == 0 || threads > 1024 || shared > (unsigned)k->shared) {
        return CUDA_ERROR_INVALID_VALUE;
    }
    emulated_launch(k->name, (int)x, (int)threads, (int)shared, arguments);
    return CUDA_SUCCESS;
}

static CUresult allocate(CUdeviceptr *memory, size_t bytes)
{
    *memory = (CUdeviceptr)(uintptr_t)aligned_alloc(256, (bytes + 255) / 256 * 256 + 256);
    return *memory != 0 ? CUDA_SUCCESS : CUDA_ERROR_OUT_OF_MEMORY;
}

static CUresult release(CUdeviceptr memory)
{
    free((void *)(uintptr_t)memory);
    return CUDA_SUCCESS;
}

static CUresult put(CUdeviceptr to, const void *from, size_t bytes)
{
    memcpy((void *)(uintptr_t)to, from, bytes);
    return CUDA_SUCCESS;
}

static CUresult take(void *to, CUdeviceptr from, size_t bytes, CUstream stream)
{
    (void)stream;
    memcpy(to, (const void *)(uintptr_t)from, bytes);
    return CUDA_SUCCESS;
}

static CUresult set(CUdeviceptr to, unsigned char byte, size_t bytes, CUstream stream)
{
    (void)stream;
    memset((void *)(uintptr_t)to, byte, bytes);
    return CUDA_SUCCESS;
}

static CUresult synchronize(CUstream stream)
{
    (void)stream;
    return CUDA_SUCCESS;
}

static CUresult encode(CUtensorMap *map, CUtensorMapDataType type, cuuint32_t rank, void *data,
                       const cuuint64_t *extent, const cuuint64_t *stride, const cuuint32_t *box,
                       const cuuint32_t *step, CUtensorMapInterleave interleave, CUtensorMapSwizzle swizzle,
                       CUtensorMapL2promotion promotion, CUtensorMapFloatOOBfill fill)
{
    (void)type;
    (void)step;
    (void)interleave;
    (void)promotion;
    (void)fill;
    cuuint32_t row_bytes = swizzle == CU_TENSOR_MAP_SWIZZLE_128B ? 128 : swizzle == CU_TENSOR_MAP_SWIZZLE_64B ? 64 : 0;
    if (rank != 4 || 2 * box[0] != row_bytes || box[1] > 256) {
        return CUDA_ERROR_INVALID_VALUE;
    }
    int64_t extents[4], strides[4] = {2};
    for (int i = 0; i < 4; i++) {
        extents[i] = (int64_t)extent[i];
        strides[i] = i > 0 ? (int64_t)stride[i - 1] : 2;
        if (extent[i] == 0 || strides[i] % 16 != (i > 0 ? 0 : 2)) {
            return CUDA_ERROR_INVALID_VALUE;
        }
    }
    emulated_map(map, data, extents, strides, (int)box[0], (int)box[1]);
    return CUDA_SUCCESS;
}

static CUresult error_name(CUresult result, const char **name)
{
    (void)result;
    *name = "emulated error";
    return CUDA_SUCCESS;
}

static CUresult init(unsigned flags)
{
    (void)flags;
    return CUDA_SUCCESS;
}

const fga_driver *fga_driver_load(void)
{
    static const fga_driver driver = {
        .cuInit = init,
        .cuGetErrorName = error_name,
        .cuDeviceGetName = device_name,
        .cuDeviceGetAttribute = attribute,
        .cuCtxGetCurrent = current,
        .cuCtxGetDevice = current_device,
        .cuCtxPushCurrent = push,
        .cuCtxPopCurrent = current,
        .cuModuleLoadData = load_module,
        .cuModuleUnload = unload_module,
        .cuModuleGetFunction = get_function,
        .cuFuncSetAttribute = set_attribute,
        .cuOccupancyMaxActiveBlocksPerMultiprocessor = occupancy,
        .cuLaunchKernel = launch,
        .cuMemAlloc = allocate,
        .cuMemFree = release,
        .cuMemcpyHtoD = put,
        .cuMemcpyDtoHAsync = take,
        .cuMemsetD8Async = set,
        .cuStreamSynchronize = synchronize,
        .cuTensorMapEncodeTiled = encode,
    };
    return &driver;
}

const char *fga_driver_error(CUresult result)
{
    (void)result;
    return "emulated error";
}

/* ---- gpu.h
 * ----------------------------------------------------------------------------------------------------------- */

void gpu_open(void)
{
}

const char *gpu_name(void)
{
    return "emulated device";
}

CUstream gpu_stream(void)
{
    return NULL;
}

void *gpu_alloc(size_t bytes)
{
    CUdeviceptr memory = 0;
    if (allocate(&memory, bytes) != CUDA_SUCCESS) {
        exit(1);
    }
    return (void *)(uintptr_t)memory;
}

void gpu_free(void *memory)
{
    free(memory);
}

void gpu_put(void *device, const void *host, size_t bytes)
{
    memcpy(device, host, bytes);
}

void gpu_get(void *host, const void *device, size_t bytes)
{
    memcpy(host, device, bytes);
}

void gpu_fill(void *device, unsigned char byte, size_t bytes)
{
    memset(device, byte, bytes);
}

void gpu_finish(void)
{
}

void gpu_run_as_graph(void (*body)(void *arg), void *arg)
{
    body(arg);
}
