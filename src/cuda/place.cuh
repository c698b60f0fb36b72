/* place.cuh - where in their rings the tiles of sm_90 are. All roles of a thread block count the same tiles. */
#ifndef FGA_CUDA_PLACE_CUH
#define FGA_CUDA_PLACE_CUH

#include "cuda/barrier.cuh"
#include "cuda/keys.cuh"
#include "cuda/shapes.h"

namespace fga
{

/* What the warp that cuts says of a tile. */
enum {
    TILE_BIASED = 1, /* its biases count */
    TILE_END = 2,    /* it holds nothing, and no other tile of the item follows */
    TILE_LATE = 4    /* it names rests of the tile just before it */
};

/* A group of which keys are kept, for those who sum them (sums.cuh). */
struct group_record {
    int begin, count; /* its keys: where in the ring, and how many */
    int group;
    int left, slot; /* keys not kept; where their summary goes, when there are any */
};

/* S says: stages, of K and V; tiles, of lists. */
template <typename S> struct place {
    int stage = 0, table = 0;
    uint32_t parity = 0, table_parity = 0; /* of the barriers' phase in which this tile is */

    __device__ __forceinline__ place before() const
    {
        place n;
        n.stage = stage == 0 ? S::stages - 1 : stage - 1;
        n.parity = parity ^ (stage == 0);
        n.table = table == 0 ? S::tiles - 1 : table - 1;
        n.table_parity = table_parity ^ (table == 0);
        return n;
    }

    __device__ __forceinline__ place next() const
    {
        place n;
        n.stage = stage + 1 == S::stages ? 0 : stage + 1;
        n.parity = parity ^ (n.stage == 0);
        n.table = table + 1 == S::tiles ? 0 : table + 1;
        n.table_parity = table_parity ^ (n.table == 0);
        return n;
    }
};

/* body(n) for each item of this thread block, in its turn. */
template <typename F> __device__ __forceinline__ void for_items(const fga_gpu_attend &a, const F &body)
{
    int items = a.batch * a.query_heads * a.blocks;
    for (int round = 0; round * (int)gridDim.x < items; round++) {
        int n = fga_turn(round, blockIdx.x, gridDim.x);
        if (n < items) {
            body(n);
        }
    }
}

} // namespace fga
#endif
