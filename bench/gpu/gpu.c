#include "gpu.h"

#include <dlfcn.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The driver's functions by the names of their current versions: cuda.h's macros would rename some. */
static void *library;
static CUstream stream;
static char name[128];
static int version;

static void *symbol(const char *function)
{
    void *found = dlsym(library, function);
    if (found == NULL) {
        fprintf(stderr, "the CUDA driver has no %s\n", function);
        exit(GPU_SKIP);
    }
    return found;
}

static void need(const char *what, CUresult result)
{
    if (result != CUDA_SUCCESS) {
        fprintf(stderr, "%s failed: CUDA error %d\n", what, (int)result);
        exit(1);
    }
}

/* CALL("cuMemFree_v2", (CUdeviceptr), (memory)): looked up at each call, outside of what is timed. */
#define CALL(function, types, arguments) \
    do { \
        CUresult(*call_) types; \
        void *found_ = symbol(function); \
        memcpy(&call_, &found_, sizeof call_); \
        need(function, call_ arguments); \
    } while (0)

void gpu_open(void)
{
    library = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
    CUresult (*init)(unsigned) = NULL;
    if (library != NULL) {
        void *found = symbol("cuInit");
        memcpy(&init, &found, sizeof init);
    }
    if (init == NULL || init(0) != CUDA_SUCCESS) {
        printf("skipped: no CUDA device\n");
        exit(GPU_SKIP);
    }
    CUdevice device = 0;
    CUcontext context = NULL;
    CALL("cuDeviceGet", (CUdevice *, int), (&device, 0));
    CALL("cuDeviceGetName", (char *, int, CUdevice), (name, (int)sizeof name, device));
    CALL("cuDriverGetVersion", (int *), (&version));
    CALL("cuDevicePrimaryCtxRetain", (CUcontext *, CUdevice), (&context, device));
    CALL("cuCtxSetCurrent", (CUcontext), (context));
    CALL("cuStreamCreate", (CUstream *, unsigned), (&stream, CU_STREAM_NON_BLOCKING));
}

const char *gpu_name(void)
{
    return name;
}

int gpu_driver_version(void)
{
    return version;
}

CUstream gpu_stream(void)
{
    return stream;
}

void *gpu_alloc(size_t bytes)
{
    CUdeviceptr memory = 0;
    CALL("cuMemAlloc_v2", (CUdeviceptr *, size_t), (&memory, bytes > 0 ? bytes : 1));
    return (void *)(uintptr_t)memory;
}

void gpu_free(void *memory)
{
    if (memory != NULL) {
        CALL("cuMemFree_v2", (CUdeviceptr), ((CUdeviceptr)(uintptr_t)memory));
    }
}

void gpu_put(void *device, const void *host, size_t bytes)
{
    CALL("cuMemcpyHtoD_v2", (CUdeviceptr, const void *, size_t), ((CUdeviceptr)(uintptr_t)device, host, bytes));
    CALL("cuCtxSynchronize", (void), ()); /* the copy may return while its last bytes are still on their way */
}

void gpu_get(void *host, const void *device, size_t bytes)
{
    CALL("cuMemcpyDtoH_v2", (void *, CUdeviceptr, size_t), (host, (CUdeviceptr)(uintptr_t)device, bytes));
}

void gpu_fill(void *device, unsigned char byte, size_t bytes)
{
    CALL("cuMemsetD8_v2", (CUdeviceptr, unsigned char, size_t), ((CUdeviceptr)(uintptr_t)device, byte, bytes));
    CALL("cuCtxSynchronize", (void), ());
}

void gpu_finish(void)
{
    CALL("cuStreamSynchronize", (CUstream), (stream));
}

static int by_value(const void *a, const void *b)
{
    const float *x = a, *y = b;
    return (*x > *y) - (*x < *y);
}

gpu_times gpu_time(void (*body)(void *arg), void *arg, int warm, int repeats)
{
    enum { MOST = 101 };
    float times[MOST];
    CUevent start = NULL, stop = NULL;
    CALL("cuEventCreate", (CUevent *, unsigned), (&start, CU_EVENT_DEFAULT));
    CALL("cuEventCreate", (CUevent *, unsigned), (&stop, CU_EVENT_DEFAULT));
    repeats = repeats < MOST ? repeats : MOST;
    for (int i = -warm; i < repeats; i++) {
        CALL("cuEventRecord", (CUevent, CUstream), (start, stream));
        body(arg);
        CALL("cuEventRecord", (CUevent, CUstream), (stop, stream));
        CALL("cuEventSynchronize", (CUevent), (stop));
        if (i >= 0) {
            CALL("cuEventElapsedTime", (float *, CUevent, CUevent), (&times[i], start, stop));
        }
    }
    CALL("cuEventDestroy_v2", (CUevent), (start));
    CALL("cuEventDestroy_v2", (CUevent), (stop));
    qsort(times, (size_t)repeats, sizeof *times, by_value);
    return (gpu_times){times[repeats / 2], times[0]};
}

void gpu_run_as_graph(void (*body)(void *arg), void *arg)
{
    CUgraph graph = NULL;
    CUgraphExec executable = NULL;
    CALL("cuStreamBeginCapture_v2", (CUstream, CUstreamCaptureMode), (stream, CU_STREAM_CAPTURE_MODE_GLOBAL));
    body(arg);
    CALL("cuStreamEndCapture", (CUstream, CUgraph *), (stream, &graph));
    CALL("cuGraphInstantiateWithFlags", (CUgraphExec *, CUgraph, unsigned long long), (&executable, graph, 0));
    CALL("cuGraphLaunch", (CUgraphExec, CUstream), (executable, stream));
    gpu_finish();
    CALL("cuGraphExecDestroy", (CUgraphExec), (executable));
    CALL("cuGraphDestroy", (CUgraph), (graph));
}
