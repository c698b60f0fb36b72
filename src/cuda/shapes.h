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

/* sm_90: one warpgroup per 64 queries and one or two that list, gather and sum.
 *
 * A gathered key costs 512 bytes from the cache at 128 channels, for 4*M*128 operations: the intensity is M operations
 * per byte. Two stages of 128 keys keep 128 KB on their way or in use, which is what one processor's share of the
 * cache's bandwidth times its latency asks for several times over. A consuming thread holds keys/2 scores, keys/4
 * weights and dim/2 outputs; more keys a tile mean that the softmax's fixed costs come less often.
 *   m128:  128 keys, so that scores (64), weights (32) and output (64 registers a thread) leave room in 200.
 *   m192:  three consuming warpgroups have 144 registers a thread: 64 keys (32 + 16 + 64), and four stages.
 *   m64:   two thread blocks share a processor, 80 keys, two stages; with summaries 64 keys, for the shared memory.
 *   dense: 128 queries, whole tiles by the copy engine: 176 keys.
 * With 96 channels outputs take 48 registers and a row of shared memory three quarters: longer tiles, in the same
 * threads. With 256 outputs take 128. Two consuming warpgroups have 208 registers for 64 keys (32 + 16 + 128), 48 where
 * each key says whose it is, and 240 for 80 dense, which takes all shared memory there is. One warpgroup has 240 for
 * 80, and a processor for itself; four warps more that sum want 64 keys' room. Three have no room for their outputs.
 *
 * With remainder summaries some warps sum, of one more warpgroup for m128. Lists lie in a ring of whole tiles: 1,024
 * keys at a time are put there, ahead of a tile in use and of one that is not yet full. Biases of a dense tile live one
 * tile longer than its stage.
 *
 * A row: head_dim, the kernel's name, its kind; queries and keys of a tile, stages, entries in the ring; thread blocks
 * a processor, warps that do not compute; registers of those who list and copy, those who sum where they are a
 * warpgroup, and those who compute. */
enum fga_sm90_kind {
    FGA_WHOLE,  /* whole tiles through the copy engine */
    FGA_LISTED, /* rows of lists */
    FGA_SUMMED, /* and remainder summaries */
    FGA_GROUPED /* of several small blocks at a time, each of which sees its own keys of their common list */
};

/* clang-format off */
#define FGA_SM90_SHAPES_64_128(X, dtype, dim) \
    X(dtype, dim, m64,       FGA_LISTED,   64,  80, 2, 1280, 2, 4,  96,  0, 160) \
    X(dtype, dim, m64_sums,  FGA_SUMMED,   64,  64, 2, 1280, 2, 4,  96,  0, 160) \
    X(dtype, dim, m128,      FGA_LISTED,  128, 128, 2, 2048, 1, 4,  80,  0, 208) \
    X(dtype, dim, m128_sums, FGA_SUMMED,  128, 128, 2, 2048, 1, 8,  72, 56, 192) \
    X(dtype, dim, m192,      FGA_LISTED,  192,  64, 4, 2048, 1, 4,  80,  0, 144) \
    X(dtype, dim, m192_sums, FGA_SUMMED,  192,  64, 4, 2048, 1, 4,  80,  0, 144) \
    X(dtype, dim, grouped,   FGA_GROUPED, 128, 128, 2, 2048, 1, 4, 104,  0, 200) \
    X(dtype, dim, dense,     FGA_WHOLE,   128, 176, 2,  528, 1, 4,  24,  0, 240)
#define FGA_SM90_SHAPES_96(X, dtype, dim) \
    X(dtype, dim, m64,       FGA_LISTED,   64,  96, 2, 1344, 2, 4,  96,  0, 160) \
    X(dtype, dim, m64_sums,  FGA_SUMMED,   64,  96, 2, 1344, 2, 4,  96,  0, 160) \
    X(dtype, dim, m128,      FGA_LISTED,  128, 160, 2, 1920, 1, 4,  80,  0, 208) \
    X(dtype, dim, m128_sums, FGA_SUMMED,  128, 128, 2, 2048, 1, 8,  72, 56, 192) \
    X(dtype, dim, m192,      FGA_LISTED,  192,  80, 4, 2080, 1, 4,  80,  0, 144) \
    X(dtype, dim, m192_sums, FGA_SUMMED,  192,  80, 4, 2080, 1, 4,  80,  0, 144) \
    X(dtype, dim, grouped,   FGA_GROUPED, 128, 160, 2, 1920, 1, 4, 104,  0, 200) \
    X(dtype, dim, dense,     FGA_WHOLE,   128, 208, 2,  624, 1, 4,  24,  0, 240)
#define FGA_SM90_SHAPES_256(X, dtype, dim) \
    X(dtype, dim, m64,       FGA_LISTED,   64,  80, 2, 1280, 1, 4,  96,  0, 240) \
    X(dtype, dim, m64_sums,  FGA_SUMMED,   64,  64, 2, 1280, 1, 8,  96, 96, 240) \
    X(dtype, dim, m128,      FGA_LISTED,  128,  64, 2, 2048, 1, 4,  80,  0, 208) \
    X(dtype, dim, grouped,   FGA_GROUPED, 128,  48, 2, 1248, 1, 4, 104,  0, 200) \
    X(dtype, dim, dense,     FGA_WHOLE,   128,  80, 2,  240, 1, 4,  24,  0, 240)
#define FGA_SM90_SHAPES(X, dtype) \
    FGA_SM90_SHAPES_64_128(X, dtype, 64) \
    FGA_SM90_SHAPES_96(X, dtype, 96) \
    FGA_SM90_SHAPES_64_128(X, dtype, 128) \
    FGA_SM90_SHAPES_256(X, dtype, 256)
/* clang-format on */

/* Channels of a column of a tile in shared memory: as many as the swizzle of 128 bytes takes, or that of 64. */
#define FGA_SM90_COLUMN(dim) ((dim) % 64 == 0 ? 64 : 32)
#define FGA_SM90_GROUPED 8 /* blocks of 16 or 32 queries that share a list, at most: those of 128 queries */
#define FGA_SM90_THREADS(rows, others) ((rows)*2 + (others)*32)
/* For how many threads a kernel is compiled: at least 384 a processor, so that none starts with more than 168 registers
 * and those that compute can take some. */
#define FGA_SM90_LAUNCHED(rows, others, blocks) \
    (FGA_SM90_THREADS(rows, others) * (blocks) < 384 ? 384 / (blocks) : FGA_SM90_THREADS(rows, others))
#define FGA_SM90_SHARED(kind, dim, rows, keys, stages, ring) \
    (1024 + 2 * (dim) * ((rows) + 2 * (stages) * (keys)) + ((kind) == FGA_WHOLE ? 4 : 8) * (ring) + \
     ((kind) == FGA_SUMMED ? 16 * FGA_RECORDS + 4 * FGA_SM90_REST_SLOTS : 0) + ((kind) == FGA_GROUPED ? (ring) : 0) + \
     1024)

/* Groups with kept keys in the ring, and slots for their summaries: a scan has at most 128, of groups of 8 keys. */
#define FGA_RECORDS 512
#define FGA_SM90_REST_SLOTS 512

#endif
