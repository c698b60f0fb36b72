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

/* sm_90: one warpgroup per 64 queries and one that lists and gathers.
 *
 * A gathered key costs 512 bytes from the cache at 128 channels, for 4*M*128 operations: the intensity is M operations
 * per byte. Two stages of 128 keys keep 128 KB on their way or in use, which is what one processor's share of the
 * cache's bandwidth times its latency asks for several times over.
 *   M = 128: 128 keys, so that scores (64), weights (32) and output (64 registers a thread) leave room in 200.
 *   M = 192: three consuming warpgroups have 144 registers a thread: 64 keys (32 + 16 + 64), and four stages.
 *   M = 64:  two thread blocks share a processor, 80 keys, two stages; with summaries 64 keys, for the shared memory.
 *   dense:   128 queries, whole tiles by the copy engine: 176 keys, so that the softmax's fixed costs come less often.
 *
 * With remainder summaries some warps sum, of one more warpgroup for M = 128. Lists lie in a ring of whole tiles: 1,024
 * keys at a time are put there, ahead of a tile in use and of one that is not yet full.
 */
#define FGA_SM90_KEYS(rows, sums) ((rows) == 192 ? 64 : (rows) == 128 ? 128 : (sums) ? 64 : 80)
#define FGA_SM90_STAGES(rows) ((rows) == 192 ? 4 : 2)
#define FGA_SM90_RING(rows) ((rows) == 64 ? 1280 : 2048)
#define FGA_SM90_GROUPED 8 /* blocks of 16 or 32 queries that share a list, at most: those of 128 queries */
#define FGA_SM90_DENSE_ROWS 128
#define FGA_SM90_DENSE_KEYS 176
#define FGA_SM90_DENSE_STAGES 2
#define FGA_SM90_DENSE_RING 528 /* biases of a tile live one tile longer than its stage */
#define FGA_SM90_THREADS(rows, sums) ((rows)*2 + ((sums) && (rows) == 128 ? 256 : 128))
#define FGA_SM90_SHARED(dim, rows, keys, stages, ring, sums, grouped) \
    (1024 + 2 * (dim) * ((rows) + 2 * (stages) * (keys)) + 8 * (ring) + \
     ((sums) ? 16 * FGA_RECORDS + 4 * FGA_SM90_REST_SLOTS : 0) + ((grouped) ? (ring) : 0) + 1024)

/* Groups with kept keys in the ring, and slots for their summaries: a scan has at most 128, of groups of 8 keys. */
#define FGA_RECORDS 512
#define FGA_SM90_REST_SLOTS 512

#endif
