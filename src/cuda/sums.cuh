/* sums.cuh - remainder summaries on sm_90: what a group's kept keys leave of its sums becomes one row of K and V with a
 * bias, and is attended to like a key in a later tile (docs/method.md, "Remainder summaries").
 *
 * Warps of their own take the rows of a tile from their groups' sums while they lie in shared memory, each some
 * channels of K or of V. A sum over a group's keys is a product with a matrix of zeros and minus ones, [channels][keys]
 * by [keys][8 groups], which is exact but for the sum itself; the warp that cuts has recorded which entries a group
 * has, so there is nothing to search.
 *
 * Eight records are a window, whose sums are in registers. A record has the column of its number modulo 8 from its
 * first key to its last, so nothing ever moves: the column starts as the whole group's sums, loses the kept keys, and
 * what it has after the last of them is what they leave. Rows of keys that are not read are zeros in shared memory, and
 * rows of other groups meet zeros only.
 */
#ifndef FGA_CUDA_SUMS_CUH
#define FGA_CUDA_SUMS_CUH

#include "cuda/mma.cuh"
#include "cuda/place.cuh"
#include "cuda/rest.cuh"

namespace fga
{

template <typename T> __device__ __forceinline__ uint32_t minus_one_as_word();

template <> __device__ __forceinline__ uint32_t minus_one_as_word<__nv_bfloat16>()
{
    return 0xBF80;
}

template <> __device__ __forceinline__ uint32_t minus_one_as_word<__half>()
{
    return 0xBC00;
}

template <typename T, typename S> struct summer {
    static constexpr int channels = S::dim / S::summers, blocks = channels / 16; /* of a warp; 16 a product */
    /* Channels from one block of the warp to the next: where consecutive ones would begin in the middle of one column
     * of the tile and end in another, its warps take turns. */
    static constexpr int apart = channels % S::column == 0 || S::column % channels == 0 ? 16 : 16 * S::summers;
    /* Blocks whose rows are loaded before they are multiplied. */
    static constexpr int at_once = blocks % 4 == 0 ? 4 : blocks % 3 == 0 ? 3 : blocks;

    /* Where in the tile a record's keys are, and how far they reach into those before and after it. Four lanes share a
     * record of the window, lane / 4 its column. */
    struct part {
        int first, last; /* rows first ... last - 1 */

        __device__ __forceinline__ bool begins() const
        {
            return (uint32_t)first < (uint32_t)S::keys;
        }

        __device__ __forceinline__ bool ends() const
        {
            return last <= S::keys;
        }
    };

    const fga_gpu_attend &a;
    typename S::shared &sh;
    int warp;                  /* the first sum K, the others V */
    uint32_t of_lane = 0;      /* where in a tile the lane's row of its first product begins, in bytes */
    int base = 0;              /* the window's first record; those before it are done */
    uint32_t tile = 0;         /* tiles before this one: one number in a register, where place<S> is four */
    int groups = 0;            /* of the item: where those of its head begin */
    float sum[blocks][4] = {}; /* of the window: channels by groups, as products leave them */
    float bias = 0;            /* the lane's part of its record's, in the first warp */

    static __device__ __forceinline__ int lane()
    {
        return lane_now();
    }

    __device__ __forceinline__ int tensor() const
    {
        return warp / S::summers;
    }

    __device__ __forceinline__ int stage() const
    {
        return tile % S::stages;
    }

    __device__ __forceinline__ int table() const
    {
        return tile % S::tiles;
    }

    __device__ __forceinline__ void wait_for_rows()
    {
        barrier_wait(&sh.full[tensor()][stage()], tile / S::stages & 1);
    }

    /* Of the warp among those of its tensor. */
    __device__ __forceinline__ int index() const
    {
        return warp % S::summers;
    }

    __device__ __forceinline__ int first_channel() const
    {
        return index() * (apart == 16 ? channels : 16);
    }

    /* Channels from the warp's first to its i-th half block of eight. */
    static __device__ __forceinline__ int channels_to(int i)
    {
        return i / 2 * apart + i % 2 * 8;
    }

    __device__ __forceinline__ void prepare()
    {
        int key = (lane() & 7) + (lane() >> 4) * 8, chunk = first_channel() / 8 + (lane() >> 3 & 1);
        of_lane = S::swizzled(S::keys, (uint32_t)key, (uint32_t)chunk);
    }

    /* The record whose column is the lane's. */
    __device__ __forceinline__ int own_record() const
    {
        return base + ((lane() / 4 - base) & 7);
    }

    __device__ __forceinline__ bool first_warp() const
    {
        return warp == 0;
    }

    __device__ __forceinline__ const group_record &record(int i) const
    {
        return sh.records[(uint32_t)i % FGA_RECORDS];
    }

    /* The sums of a group, from one of the warp's channels on. */
    __device__ __forceinline__ const float *sums_of(int group, int channel) const
    {
        const char *sums = (const char *)((tensor() == 0 ? a.sum_k : a.sum_v) + (first_channel() + channel));
        return (const float *)row_address(sums, (uint32_t)(groups + group), (uint32_t)(4 * a.head_dim));
    }

    /* A record that is not there yet lies behind the tile. */
    __device__ __forceinline__ part part_of(int i, int recorded) const
    {
        if (i - recorded >= 0) {
            return {S::keys, S::keys + 1};
        }
        const group_record &r = record(i);
        int first = r.begin() - table() * S::keys; /* it may have begun up to 256 entries ago */
        first += first < -256 ? S::ring : first >= S::ring - 256 ? -S::ring : 0;
        return {first, first + r.count()};
    }

    /* The columns of records that begin become their groups' sums: channels lane / 4 and lane / 4 + 8 of each block, of
     * two columns. Those that leave no keys are never written. */
    __device__ __forceinline__ void load_sums(const part &p)
    {
        const group_record &own = record(own_record());
        int group = p.begins() && own.left > 0 ? own.group : -1;
#pragma unroll
        for (int column = 0; column < 2; column++) {
            int of_column = __shfl_sync(0xFFFFFFFFu, group, (lane() & 3) * 8 + column * 4);
            const float *whole = sums_of(of_column, lane() / 4);
            if (of_column < 0) {
                continue;
            }
            int there = a.head_dim - first_channel();
            constexpr int all = (blocks - 1) * apart + 16;
#pragma unroll
            for (int i = 0; i < 2 * blocks && there >= all; i++) {
                sum[i / 2][i % 2 * 2 + column] = __ldg(whole + channels_to(i));
            }
#pragma unroll
            for (int i = 0; i < 2 * blocks && there < all; i++) {
                sum[i / 2][i % 2 * 2 + column] = channels_to(i) < there ? __ldg(whole + channels_to(i)) : 0.0f;
            }
        }
        if (first_warp() && group >= 0) {
            bias = (lane() & 3) == 0 ? a.sum_bias[groups + group] * log2_e : 0.0f;
        }
    }

    /* The right operand: of two rows, one for each of the two lowest bits. */
    static __device__ __forceinline__ uint32_t minus_ones(uint32_t bits)
    {
        return ((bits | bits << 15) & 0x10001u) * minus_one_as_word<T>();
    }

    /* Rows of `at_once` blocks from block i on; two chunks on is one bit of the swizzled place, or another column. */
    static __device__ __forceinline__ void load_rows(uint32_t (&rows)[at_once][4], uint32_t from, int i)
    {
#pragma unroll
        for (int j = 0; j < at_once; j++) {
            int channel = (i + j) * apart, column = channel / S::column, bytes = channel % S::column * 2;
            load_matrices_transposed(rows[j], (from ^ bytes) + column * S::keys * S::row_bytes);
        }
    }

    /* A branch that is not taken stands between loads and products: else the compiler has each product wait for its own
     * load, and the next load for that product. */
    __device__ __forceinline__ void subtract_rows(const part &p)
    {
        bool meets = p.first < S::keys; /* A group's rows are consecutive, and so are the window's. */
        int begin = __reduce_min_sync(0xFFFFFFFFu, meets ? max(p.first, 0) : S::keys) & ~15;
        int end = __reduce_max_sync(0xFFFFFFFFu, meets ? min(p.last, S::keys) : 0);
        uint32_t from = shared_address(sh.rows[tensor()][stage()]) + of_lane + begin * S::row_bytes;
#pragma unroll 1
        for (int k = begin; k < end; k += 16) {
            int low = min(max(p.first - k, 0), 16), high = min(max(p.last - k, 0), 16);
            /* 2 * (lane & 3): of the row's number, since tiles begin at multiples of eight. */
            uint32_t bits = ((1u << high) - 1) >> low << low >> (from / (S::row_bytes / 2) & 6), rows[at_once][4];
#pragma unroll
            for (int i = 0; i < blocks; i += at_once) {
                load_rows(rows, from, i);
                if (opaque(k) < 0) {
                    return;
                }
#pragma unroll
                for (int j = 0; j < at_once; j++) {
                    multiply_add<T>(sum[i + j], rows[j], minus_ones(bits), minus_ones(bits >> 8));
                }
            }
            from += 16 * S::row_bytes;
        }
    }

    __device__ __forceinline__ void subtract_biases(const part &p)
    {
        if (a.bias != nullptr && first_warp()) {
#pragma unroll 1
            for (int i = max(p.first, 0) + (lane() & 3); i < min(p.last, S::keys); i += 4) {
                float b = sh.bias[table() * S::keys + i];
                bias -= b == minus_infinity() ? 0.0f : b;
            }
        }
    }

    /* Writes the rows of records that end. Neighbouring lanes have neighbouring channels of the same two columns, and
     * exchange one for the other so that each has a pair. */
    __device__ __forceinline__ void write(const part &p)
    {
        const group_record &own = record(own_record());
        int left = p.ends() ? own.left : 0, slot = left > 0 ? own.slot : -1, odd = lane() >> 2 & 1;
        if (__ballot_sync(0xFFFFFFFFu, slot >= 0) == 0) {
            return;
        }
        float share = reciprocal((float)left);
        if (first_warp()) {
            float rest = quad_sum(bias);
            if (slot >= 0 && (lane() & 3) == 0) {
                sh.slot_bias[slot] = rest * share + log2_fast((float)left);
            }
        }
        float first = __shfl_sync(0xFFFFFFFFu, share, (lane() & 3) * 8);
        float second = __shfl_sync(0xFFFFFFFFu, share, (lane() & 3) * 8 + 4);
        slot = __shfl_sync(0xFFFFFFFFu, slot, (lane() & 3) * 8 + odd * 4);
        const char *rests =
            (const char *)a.rest_rows + tensor() * a.row_bytes + 2 * (first_channel() + (lane() >> 2 & ~1));
        const char *to = row_address(rests, blockIdx.x * S::slots + (uint32_t)slot, 2 * (uint32_t)a.row_bytes);
        uint32_t halves = odd ? 0x3276 : 0x5410;
#pragma unroll
        for (int i = 0; i < 2 * blocks; i++) {
            uint32_t own_pair = pack<T>(sum[i / 2][i % 2 * 2] * first, sum[i / 2][i % 2 * 2 + 1] * second);
            uint32_t pair = __byte_perm(own_pair, __shfl_xor_sync(0xFFFFFFFFu, own_pair, 4), halves);
            store_if(slot >= 0, to + 2 * channels_to(i), pair);
        }
    }

    /* Returns when the tile's rows are there and done with. */
    __device__ __forceinline__ void sum_tile()
    {
        int ended = 8;
        for (bool waited = false; !waited || (ended == 8 && base - sh.recorded[table()] < 0); waited = true) {
            part p = part_of(own_record(), sh.recorded[table()]);
            load_sums(p);
            if (!waited) { /* for rows, while the sums are on their way */
                wait_for_rows();
            }
            subtract_rows(p);
            subtract_biases(p);
            write(p);
            ended = __popc(__ballot_sync(0xFFFFFFFFu, p.ends())) / 4;
            base += ended;
        }
    }

    __device__ __forceinline__ void sum_item(int n)
    {
        item t = item_at(a, n);
        groups = (t.b * a.kv_heads + t.kv_head) * a.groups;
        for (bool end = false; !end; tile++) {
            barrier_wait(&sh.cut[table()], tile / S::tiles & 1);
            if (sh.flags[table()] & TILE_END) {
                wait_for_rows();
            } else {
                sum_tile();
            }
            end = sh.flags[table()] & TILE_END; /* read once more: it need not be kept meanwhile */
            __syncwarp();
            if (lane() == 0) {
                barrier_arrive(&sh.empty[tensor()][stage()]);
                barrier_arrive(&sh.used[table()]);
            }
        }
    }
};

} // namespace fga
#endif
