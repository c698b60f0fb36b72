/* ops_shapes.h - sizes that the kernels of ops.cu and the host agree on. */
#ifndef FGA_CUDA_OPS_SHAPES_H
#define FGA_CUDA_OPS_SHAPES_H

/* Three tiles of 128 rows, and two floats per key and stage and per pooled query: two thread blocks share a processor
 * of compute capability 9.0 at 128 channels. */
#define FGA_RANK_THREADS 256
#define FGA_RANK_SHARED(dim) (3 * 128 * (2 * (dim) + 16) + 3 * 8 * 128)
/* Beside two bytes per tile where they are cached. */
#define FGA_SELECT_SHARED (4 * 2048 + 4 * 32 + 64)

#endif
