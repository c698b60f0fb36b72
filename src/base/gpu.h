/* gpu.h - the CUDA device of a context. cuda/ implements it, or cuda/none.c in a build without CUDA. */
#ifndef FGA_BASE_GPU_H
#define FGA_BASE_GPU_H

#include "fgattn.h"

typedef struct fga_gpu {
    void *cuda_context;  /* the caller's: current when ours was made */
    void *modules[6];    /* loaded kernels, by the backend's count; NULL until a plan needs them */
    void *functions[23]; /* those that no plan looks up, likewise */
    char name[64];
    int major, minor; /* compute capability */
    int processors;
    int shared_bytes; /* of one thread block, at most */
} fga_gpu;

/* Whether kernels were compiled into this build. */
bool fga_gpu_built(void);
/* The device of the calling thread's current CUDA context. FGA_ERR_UNSUPPORTED: this build, machine or thread has none.
 */
fga_status fga_gpu_open(fga_gpu *gpu);
void fga_gpu_close(fga_gpu *gpu);
/* Loads the kernels that run without a plan of theirs, so that a first call may be recorded as a graph. */
fga_status fga_gpu_load(fga_context *ctx);

#endif
