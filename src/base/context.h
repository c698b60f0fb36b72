/* context.h - the inside of fga_context, for libfgattn's own sources. */
#ifndef FGA_BASE_CONTEXT_H
#define FGA_BASE_CONTEXT_H

#include "base/error.h"
#include "base/gpu.h"
#include "base/pool.h"

#include <pthread.h>

struct fga_context {
    fga_context_options options;
    char variant[32]; /* the forced one; empty = best */
    fga_pool *pool;
    fga_gpu gpu;  /* of a CUDA context */
    void *stream; /* its current stream */
    pthread_mutex_t error_lock;
    char error[1024];
};

/* From the context's allocator, 64-byte aligned, not cleared; NULL when it has none left. */
void *fga_alloc(fga_context *ctx, size_t bytes);
void fga_free(fga_context *ctx, void *pointer);

#endif
