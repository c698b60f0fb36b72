/* copy.cuh - rows of K and V into shared memory on sm_90, by the warps beside the one that cuts.
 *
 * A tile's rows, first of K and then of V, are dealt out eight at a time, as many as a swizzle repeats after: so places
 * differ from eight to eight by a constant, and a row costs one multiplication for its address, one comparison, one
 * copy.
 */
#ifndef FGA_CUDA_COPY_CUH
#define FGA_CUDA_COPY_CUH

#include "cuda/place.cuh"

namespace fga
{

template <int COUNT> struct alignas(4 * COUNT) entries {
    uint32_t e[COUNT];
};

template <typename S> struct copier {
    static constexpr int warps = S::copiers;
    static constexpr int chunks = S::dim / 8, lanes = chunks == 12 ? 4 : chunks < 16 ? chunks : 16; /* of a row */
    static constexpr int pieces = chunks / lanes; /* of a row that a lane copies, `apart` from each other in a tile */
    static constexpr int apart = lanes * 8 / S::column * S::keys * S::row_bytes;
    static constexpr int turns = lanes / 4,
                         eights = S::keys / 8; /* rows of eight that a lane copies; eights in a tile */
    static constexpr int rounds = (eights + warps - 1) / warps;

    const fga_gpu_attend &a;
    typename S::shared &sh;
    int warp; /* 0 ... warps - 1 */
    place<S> at = {};
    const char *keys[2] = {};    /* of the item's head of K and V, the lane's 16 bytes of the first */
    int head = 0;                /* of K and V, counted through the batch */
    uint32_t to[turns] = {};     /* bytes from a tile's beginning to the lane's places in its first eight rows */
    uint32_t limit[pieces] = {}; /* entries from here on are not read */

    __device__ __forceinline__ void prepare()
    {
        int lane = threadIdx.x & 31, chunk = lane % lanes;
#pragma unroll
        for (int i = 0; i < turns; i++) {
            to[i] = S::swizzled(S::keys, (uint32_t)(lane / lanes * turns + i), (uint32_t)chunk);
        }
#pragma unroll
        for (int i = 0; i < pieces; i++) {
            limit[i] = (chunk + i * lanes) * 8 < a.head_dim ? FGA_ENTRY_DEAD : 0;
        }
    }

    /* 16 bytes of a key's row, or zeros; of a summary's, which comes later, nothing. */
    static __device__ __forceinline__ void copy_piece(uint32_t e, uint32_t to, const char *from, bool read)
    {
        if constexpr (S::sums) {
            static_assert(FGA_ENTRY_MEAN == 0x80000000u, "the sign is the least that tells summaries");
            copy_async_16_unless_negative((int)e, to, from, read);
        } else {
            copy_async_16(to, from, read);
        }
    }

    /* One warp's share of a tile's rows of K (0) or V (1). Where K's share ended, that of V goes on. Summaries, which
     * are few and lie elsewhere, come after the keys. */
    __device__ __forceinline__ void copy_rows(int tensor)
    {
        int lane = threadIdx.x & 31, first = tensor == 0 ? warp : (warp + warps - eights % warps) % warps;
        const uint32_t *list = sh.ring + at.table * S::keys + first * 8 + lane / lanes * turns;
        uint32_t rows = shared_address(sh.rows[tensor][at.stage]) + first * 8 * S::row_bytes, summaries = 0;
        uint32_t bytes = (uint32_t)(2 * (tensor == 0 ? a.k : a.v).token);
        auto next = *reinterpret_cast<const entries<turns> *>(list);
#pragma unroll
        for (int i = 0; i < rounds; i++) {
            if (first + i * warps >= eights) {
                break;
            }
            auto e = next;
            if (i + 1 < rounds && first + (i + 1) * warps < eights) {
                next = *reinterpret_cast<const entries<turns> *>(list + (i + 1) * warps * 8);
            }
            uint32_t any = 0;
#pragma unroll
            for (int j = 0; j < turns; j++) {
                uint32_t to_row = rows + to[j] + i * warps * 8 * S::row_bytes;
                const char *row = row_address(keys[tensor], e.e[j], bytes);
#pragma unroll
                for (int piece = 0; piece < pieces; piece++) {
                    copy_piece(e.e[j], to_row + piece * apart, row + piece * lanes * 16, e.e[j] < limit[piece]);
                }
                any |= e.e[j];
            }
            summaries |= any >> 31 << i;
        }
        if constexpr (S::sums) {
            static_assert(rounds <= 32, "a bit each");
            for (summaries = __reduce_or_sync(0xFFFFFFFFu, summaries); summaries != 0; summaries &= summaries - 1) {
                int i = __ffs((int)summaries) - 1;
                copy_summaries(tensor, list + i * warps * 8, rows + i * warps * 8 * S::row_bytes);
            }
        }
    }

    /* Those among eight rows that are summaries, or fill up. */
    __device__ __forceinline__ void copy_summaries(int tensor, const uint32_t *list, uint32_t rows)
    {
        auto e = *reinterpret_cast<const entries<turns> *>(list);
        int column = tensor * a.row_bytes + (int)(threadIdx.x % lanes) * 16;
        const char *means = (const char *)a.mean_rows + column, *rests = (const char *)a.rest_rows + column;
#pragma unroll
        for (int j = 0; j < turns; j++) {
            bool mean = (e.e[j] & FGA_ENTRY_KIND) == FGA_ENTRY_MEAN;
            bool read = limit[0] != 0 && e.e[j] != FGA_ENTRY_NONE;
            uint32_t row = (e.e[j] & ~FGA_ENTRY_KIND) + (mean ? (uint32_t)(head * a.groups) : blockIdx.x * S::slots);
            const char *from = row_address(mean ? means : rests, read ? row : 0, 2 * (uint32_t)a.row_bytes);
#pragma unroll
            for (int piece = 0; piece < pieces; piece++) {
                copy_async_16_unless_negative((int)~e.e[j], rows + to[j] + piece * apart, from + piece * lanes * 16,
                                              read && limit[piece] != 0);
            }
        }
    }

    /* Biases of the summaries in this tile: theirs are known only now. */
    __device__ __forceinline__ void take_biases()
    {
        for (int i = threadIdx.x & 31; i < S::keys; i += 32) {
            uint32_t e = sh.ring[at.table * S::keys + i];
            if (e != FGA_ENTRY_NONE && (e & FGA_ENTRY_KIND) == FGA_ENTRY_REST) {
                sh.bias[at.table * S::keys + i] = sh.slot_bias[e & ~FGA_ENTRY_KIND];
            }
        }
        __syncwarp();
    }

    /* Until the tile's place in K (0) or V (1) is free, and the summaries that it names are there. */
    __device__ __forceinline__ void wait_for_place(int tensor, int flags)
    {
        barrier_wait(&sh.empty[tensor][at.stage], at.parity ^ 1);
        if (S::sums && (flags & TILE_LATE)) {
            place<S> last = at.before();
            barrier_wait(&sh.empty[tensor][last.stage], last.parity);
        }
    }

    /* False at an item's end. */
    __device__ __forceinline__ bool copy_tile()
    {
        barrier_wait(&sh.cut[at.table], at.table_parity);
        int flags = sh.flags[at.table];
        bool end = flags & TILE_END;
        wait_for_place(0, flags);
        if (!end) {
            copy_rows(0);
        }
        barrier_arrive_after_copies(&sh.full[0][at.stage]);
        if (warp == 0) {
            if (S::sums && !end) {
                take_biases();
            }
            if ((threadIdx.x & 31) == 0) {
                barrier_arrive(&sh.full[0][at.stage]); /* hands on what the cutting warp wrote */
            }
        }
        wait_for_place(1, flags);
        if (!end) {
            copy_rows(1);
        }
        barrier_arrive_after_copies(&sh.full[1][at.stage]);
        at = at.next();
        return !end;
    }

    __device__ __forceinline__ void copy_item(int n)
    {
        item t = item_of<S>(a, n);
        int column = (int)(threadIdx.x % lanes) * 16;
        head = t.b * a.kv_heads + t.kv_head;
        keys[0] = (const char *)a.k.data + 2 * (t.b * a.k.batch + t.kv_head * a.k.head) + column;
        keys[1] = (const char *)a.v.data + 2 * (t.b * a.v.batch + t.kv_head * a.v.head) + column;
        while (copy_tile()) {
        }
    }
};

} // namespace fga
#endif
