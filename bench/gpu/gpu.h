/* gpu.h - what the programs that use a device need of it: a context, memory, a stream, times and a graph. The driver is
 * found at run time. Failures end the program with a text: these are programs for people. */
#ifndef FGA_BENCH_GPU_H
#define FGA_BENCH_GPU_H

#include "fgattn.h"

#include <cuda.h>

enum { GPU_SKIP = 77 }; /* exit status where there is no device */

/* Makes device 0's primary context current; ends the program with GPU_SKIP where there is none. */
void gpu_open(void);
const char *gpu_name(void);
int gpu_driver_version(void);
CUstream gpu_stream(void);

void *gpu_alloc(size_t bytes); /* 256-byte aligned */
void gpu_free(void *memory);
void gpu_put(void *device, const void *host, size_t bytes);
void gpu_get(void *host, const void *device, size_t bytes);
void gpu_fill(void *device, unsigned char byte, size_t bytes);
void gpu_finish(void); /* waits for the stream */

typedef struct gpu_times {
    double median, best; /* ms; far apart when something else has the device too */
} gpu_times;

/* Runs body(arg) on gpu_stream() `repeats` times after `warm` more, each timed by events. */
gpu_times gpu_time(void (*body)(void *arg), void *arg, int warm, int repeats);
/* Captures body(arg) into a graph and launches that once. */
void gpu_run_as_graph(void (*body)(void *arg), void *arg);

/* A context of the library on the device; variant NULL: the best. */
fga_context *gpu_context(const char *variant);
void gpu_need(fga_context *ctx, fga_status status);

/* Repeatable values: uniform in [-1, 1), and standard normal. */
uint64_t gpu_random(uint64_t *state);
float gpu_uniform(uint64_t *state);
float gpu_normal(uint64_t *state);
/* [1][tokens][heads][head_dim] on the device, bf16, uniform, deviation about 1: a long random stretch, repeated. */
fga_tensor gpu_random_rows(int64_t tokens, int64_t heads, int64_t head_dim, uint64_t seed);

#endif
