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
struct alignas(16) group_record {
    uint32_t keys; /* where in the ring they begin, and from bit 16 on how many they are */
    int group;
    int left, slot; /* keys not kept; where their summary goes, when there are any */

    __device__ __forceinline__ int begin() const
    {
        return keys & 0xFFFF;
    }

    __device__ __forceinline__ int count() const
    {
        return keys >> 16;
    }
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

/* How many blocks a kernel takes at a time: those of S::consumers * 64 queries, when it takes several. */
template <typename S> __device__ __forceinline__ int blocks_at_once(const fga_gpu_attend &a)
{
    return S::grouped ? 64 * S::consumers / a.block_rows : 1;
}

template <typename S> __device__ __forceinline__ item item_of(const fga_gpu_attend &a, int n)
{
    if constexpr (S::grouped) { /* its blocks lie side by side in the mask's order: block_of */
        item t = {};
        int at_once = blocks_at_once<S>(a), groups = (a.blocks + at_once - 1) / at_once, head = n / groups;
        t.u = (n - head * groups) * at_once;
        t.blocks = min(at_once, a.blocks - t.u);
        t.b = head / a.query_heads;
        t.h = head - t.b * a.query_heads;
        t.kv_head = t.h / (a.query_heads / a.kv_heads);
        t.mask_row = -1;
        if (a.mask.memory != 0) { /* the head's first */
            int64_t mask_head = (int64_t)(a.mask_batch > 1 ? t.b : 0) * a.mask_heads + (a.mask_heads > 1 ? t.h : 0);
            t.mask_row = mask_head * a.blocks;
        }
        return t;
    } else {
        return item_at(a, n);
    }
}

/* The i-th block of an item of several. */
__device__ __forceinline__ int block_of(const fga_gpu_attend &a, const item &t, int i)
{
    return t.mask_row >= 0 ? __ldg(a.mask.row_order + t.mask_row + t.u + i) : t.u + i;
}

/* The token of the item's query; -1: there is none. */
template <typename S> __device__ __forceinline__ int token_of(const fga_gpu_attend &a, const item &t, int query)
{
    if constexpr (S::grouped) {
        int i = query / a.block_rows;
        int token = i < t.blocks ? block_of(a, t, i) * a.block_rows + query % a.block_rows : a.query_len;
        return token < a.query_len ? token : -1;
    } else {
        return query < t.rows ? t.first + query : -1;
    }
}

/* body(n) for each item of this thread block, in its turn. */
template <typename S, typename F> __device__ __forceinline__ void for_items(const fga_gpu_attend &a, const F &body)
{
    int at_once = blocks_at_once<S>(a), items = a.batch * a.query_heads * ((a.blocks + at_once - 1) / at_once);
    if (S::in_parts) {
        items *= a.parts;
    }
    for (int round = 0; round * (int)gridDim.x < items; round++) {
        int n = fga_turn(round, blockIdx.x, gridDim.x);
        if (n < items) {
            body(n);
        }
    }
}

} // namespace fga
#endif
