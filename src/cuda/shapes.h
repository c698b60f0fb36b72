/* shapes.h - tile sizes of the kernels, in one place for device and host, with the reason of each. */
#ifndef FGA_CUDA_SHAPES_H
#define FGA_CUDA_SHAPES_H

#include "cuda/arith.h"

/* Slots in the workspace for the rests of one thread block's groups: a tile of `keys` entries closes at most keys + 1
 * groups, and waiting ones fill the next tile first. */
#define FGA_REST_SLOTS(keys) (4 * (keys))

#define FGA_MEANS_THREADS 128

/* sm_80: one warp per 16 queries, at most 8. 64 keys a tile, so that two stages of K and V at 128 channels (70 KB) fit
 * the 99 KB of compute capability 8.6 and 8.9; at 256 channels 32. */
#define FGA_SM80_THREADS 256
#define FGA_SM80_KEYS(dim) ((dim) > 128 ? 32 : 64)
#define FGA_SM80_SHARED(dim) \
    (4 * FGA_SM80_KEYS(dim) * (2 * (dim) + 16) + 4 * FGA_RING_KEYS + (2 * 4 + 2 * 4 + 4 * 4) * FGA_SM80_KEYS(dim) + \
     2 * 4 * (dim) + 64)

#endif
