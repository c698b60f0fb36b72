/* alike.cuh - in which order attention takes a mask's blocks, and which of them share a list: what
 * fga_mask_order_blocks does on the processor, block for block the same.
 *
 * Similar blocks are found greedily, one thread block for FGA_ALIKE_BLOCKS of them. A thread has one block, and keeps a
 * sample of its list in registers; what a group's lists unite to so far is in shared memory.
 */
#ifndef FGA_CUDA_ALIKE_CUH
#define FGA_CUDA_ALIKE_CUH

#include "cuda/rows.cuh"

namespace fga
{

struct alike_shared {
    uint32_t seen[FGA_ALIKE_WORDS];   /* what the lists of the group unite to */
    int least[FGA_ALIKE_BLOCKS / 32]; /* of each warp */
};

static_assert(FGA_ALIKE_BLOCKS % FGA_GPU_AT_ONCE(16) == 0, "groups do not go from one thread block to the next");

/* The least of all threads' numbers; sh.least may change again after the next barrier. */
__device__ __forceinline__ int least_of_all(int x, alike_shared &sh)
{
    x = __reduce_min_sync(0xFFFFFFFFu, x);
    if ((threadIdx.x & 31) == 0) {
        sh.least[threadIdx.x / 32] = x;
    }
    __syncthreads();
    for (int i = 0; i < FGA_ALIKE_BLOCKS / 32; i++) {
        x = min(x, sh.least[i]);
    }
    return x;
}

/* Of a group the lowest block that is left, and then each time the one that differs least from what is there. */
__device__ __forceinline__ void put_alike_together(const fga_gpu_order &a)
{
    extern __shared__ __align__(16) unsigned char memory[];
    auto &sh = *reinterpret_cast<alike_shared *>(memory);
    int parts = (a.blocks + FGA_ALIKE_BLOCKS - 1) / FGA_ALIKE_BLOCKS, part = (int)blockIdx.x % parts;
    int first = part * FGA_ALIKE_BLOCKS, count = min((int)FGA_ALIKE_BLOCKS, a.blocks - first);
    int64_t row = (int64_t)((int)blockIdx.x / parts) * a.blocks + first; /* of the first block */
    bool left = (int)threadIdx.x < count;
    uint32_t sample[FGA_ALIKE_WORDS];
    const uint32_t *bits = reinterpret_cast<const uint32_t *>(a.bits + (row + (left ? threadIdx.x : 0)) * a.words);
#pragma unroll
    for (int i = 0; i < FGA_ALIKE_WORDS; i++) {
        sample[i] = __ldg(bits + (int64_t)i * 2 * a.words / FGA_ALIKE_WORDS);
    }
    for (int place = 0; place < count; place++) {
        bool begins = place % a.at_once == 0;
        int apart = 0, mine = INT32_MAX;
        if (left && !begins) {
#pragma unroll
            for (int i = 0; i < FGA_ALIKE_WORDS; i++) {
                apart += __popc(sample[i] ^ sh.seen[i]);
            }
        }
        if (left) {
            mine = apart * FGA_ALIKE_BLOCKS + (int)threadIdx.x;
        }
        if (least_of_all(mine, sh) % FGA_ALIKE_BLOCKS == (int)threadIdx.x) {
            left = false;
            a.company[row + place] = first + (int)threadIdx.x;
#pragma unroll
            for (int i = 0; i < FGA_ALIKE_WORDS; i++) {
                sh.seen[i] = sample[i] | (begins ? 0 : sh.seen[i]);
            }
        }
        __syncthreads();
    }
}

/* The block at `place` before groups are ordered. */
__device__ __forceinline__ int company_at(const fga_gpu_order &a, int64_t head_row, int place)
{
    return a.company != nullptr ? a.company[head_row + place] : place;
}

__device__ __forceinline__ int64_t keys_of_group(const fga_gpu_order &a, int64_t head_row, int group)
{
    int64_t keys = 0;
    for (int i = 0; i < a.at_once; i++) {
        keys += a.row_keys[head_row + company_at(a, head_row, group * a.at_once + i)];
    }
    return keys;
}

/* A thread a block. A group's place is the number of groups that come before it. */
__device__ __forceinline__ void order_blocks(const fga_gpu_order &a)
{
    int row = (int)(blockIdx.x * blockDim.x + threadIdx.x);
    unsigned long long pairs = 0;
    if (row < a.rows) {
        int head = row / a.blocks, at = row - head * a.blocks, groups = a.blocks / a.at_once, mine = at / a.at_once;
        int64_t head_row = (int64_t)head * a.blocks;
        int u = company_at(a, head_row, at), place = mine;
        if (mine < groups) {
            int64_t keys = keys_of_group(a, head_row, mine);
            place = 0;
            for (int i = 0; i < groups; i++) {
                int64_t others = keys_of_group(a, head_row, i);
                place += others > keys || (others == keys && i < mine);
            }
        }
        a.row_order[head_row + place * a.at_once + at % a.at_once] = u;
        pairs = (unsigned long long)a.row_keys[head_row + u] *
                (unsigned long long)count_spans(a.query_valid, u * a.block_rows, (u + 1) * a.block_rows);
    }
    for (int distance = 16; distance > 0; distance /= 2) {
        pairs += __shfl_xor_sync(0xFFFFFFFFu, pairs, distance);
    }
    if ((threadIdx.x & 31) == 0 && pairs > 0) {
        atomicAdd(reinterpret_cast<unsigned long long *>(a.pairs), pairs);
    }
}

} // namespace fga
#endif
