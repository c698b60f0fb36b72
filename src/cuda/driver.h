/* driver.h - the CUDA driver, found at run time: one build serves machines with and without it. */
#ifndef FGA_CUDA_DRIVER_H
#define FGA_CUDA_DRIVER_H

#include <cuda.h>
#include <stdbool.h>

/* FGA_DRIVER(name, symbol): the functions used; symbol carries the version that cuda.h's macros would choose. */
#define FGA_DRIVER_FUNCTIONS \
    FGA_DRIVER(cuInit, "cuInit") \
    FGA_DRIVER(cuGetErrorName, "cuGetErrorName") \
    FGA_DRIVER(cuDeviceGetName, "cuDeviceGetName") \
    FGA_DRIVER(cuDeviceGetAttribute, "cuDeviceGetAttribute") \
    FGA_DRIVER(cuCtxGetCurrent, "cuCtxGetCurrent") \
    FGA_DRIVER(cuCtxGetDevice, "cuCtxGetDevice") \
    FGA_DRIVER(cuCtxPushCurrent, "cuCtxPushCurrent_v2") \
    FGA_DRIVER(cuCtxPopCurrent, "cuCtxPopCurrent_v2") \
    FGA_DRIVER(cuModuleLoadData, "cuModuleLoadData") \
    FGA_DRIVER(cuModuleUnload, "cuModuleUnload") \
    FGA_DRIVER(cuModuleGetFunction, "cuModuleGetFunction") \
    FGA_DRIVER(cuFuncSetAttribute, "cuFuncSetAttribute") \
    FGA_DRIVER(cuOccupancyMaxActiveBlocksPerMultiprocessor, "cuOccupancyMaxActiveBlocksPerMultiprocessor") \
    FGA_DRIVER(cuLaunchKernel, "cuLaunchKernel") \
    FGA_DRIVER(cuMemAlloc, "cuMemAlloc_v2") \
    FGA_DRIVER(cuMemFree, "cuMemFree_v2") \
    FGA_DRIVER(cuMemcpyHtoD, "cuMemcpyHtoD_v2") \
    FGA_DRIVER(cuMemcpyDtoHAsync, "cuMemcpyDtoHAsync_v2") \
    FGA_DRIVER(cuMemsetD8Async, "cuMemsetD8Async") \
    FGA_DRIVER(cuStreamSynchronize, "cuStreamSynchronize") \
    FGA_DRIVER(cuTensorMapEncodeTiled, "cuTensorMapEncodeTiled")

#undef cuCtxPushCurrent
#undef cuCtxPopCurrent
#undef cuMemAlloc
#undef cuMemFree
#undef cuMemcpyHtoD
#undef cuMemcpyDtoHAsync
#undef cuMemsetD8Async

typedef struct fga_driver {
    void *library;
    CUresult (*cuInit)(unsigned);
    CUresult (*cuGetErrorName)(CUresult, const char **);
    CUresult (*cuDeviceGetName)(char *, int, CUdevice);
    CUresult (*cuDeviceGetAttribute)(int *, CUdevice_attribute, CUdevice);
    CUresult (*cuCtxGetCurrent)(CUcontext *);
    CUresult (*cuCtxGetDevice)(CUdevice *);
    CUresult (*cuCtxPushCurrent)(CUcontext);
    CUresult (*cuCtxPopCurrent)(CUcontext *);
    CUresult (*cuModuleLoadData)(CUmodule *, const void *);
    CUresult (*cuModuleUnload)(CUmodule);
    CUresult (*cuModuleGetFunction)(CUfunction *, CUmodule, const char *);
    CUresult (*cuFuncSetAttribute)(CUfunction, CUfunction_attribute, int);
    CUresult (*cuOccupancyMaxActiveBlocksPerMultiprocessor)(int *, CUfunction, int, size_t);
    CUresult (*cuLaunchKernel)(CUfunction, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned,
                               CUstream, void **, void **);
    CUresult (*cuMemAlloc)(CUdeviceptr *, size_t);
    CUresult (*cuMemFree)(CUdeviceptr);
    CUresult (*cuMemcpyHtoD)(CUdeviceptr, const void *, size_t);
    CUresult (*cuMemcpyDtoHAsync)(void *, CUdeviceptr, size_t, CUstream);
    CUresult (*cuMemsetD8Async)(CUdeviceptr, unsigned char, size_t, CUstream);
    CUresult (*cuStreamSynchronize)(CUstream);
    CUresult (*cuTensorMapEncodeTiled)(CUtensorMap *, CUtensorMapDataType, cuuint32_t, void *, const cuuint64_t *,
                                       const cuuint64_t *, const cuuint32_t *, const cuuint32_t *,
                                       CUtensorMapInterleave, CUtensorMapSwizzle, CUtensorMapL2promotion,
                                       CUtensorMapFloatOOBfill);
} fga_driver;

/* The same on every call; NULL when there is no driver with all of these functions, or no device. */
const fga_driver *fga_driver_load(void);
const char *fga_driver_error(CUresult result);

#endif
