/* sums.cuh - remainder summaries on sm_90: what a group's kept keys leave of its sums becomes one row of K and V with a
 * bias, and is attended to like a key in a later tile (docs/method.md, "Remainder summaries").
 *
 * Warps of their own sum the rows of a tile while they lie in shared memory, each some channels of K or of V. A sum
 * over a group's keys is a product with a matrix of ones and zeros, [channels][keys] by [keys][8 groups], which is
 * exact but for the sum itself; the warp that cuts has recorded which entries a group has, so there is nothing to
 * search. Eight records are a window, whose sums are in registers; after each tile it begins with the first record that
 * goes on. Rows of keys that are not read are zeros in shared memory, and rows of no group meet zeros only.
 */
#ifndef FGA_CUDA_SUMS_CUH
#define FGA_CUDA_SUMS_CUH

#include "cuda/mma.cuh"
#include "cuda/place.cuh"
#include "cuda/rest.cuh"

namespace fga
{

template <typename T> __device__ __forceinline__ uint32_t one_as_word();

template <> __device__ __forceinline__ uint32_t one_as_word<__nv_bfloat16>()
{
    return 0x3F80;
}

template <> __device__ __forceinline__ uint32_t one_as_word<__half>()
{
    return 0x3C00;
}

template <typename T, typename S> struct summer {
    static constexpr int channels = S::dim / S::summers, blocks = channels / 16; /* of a warp; 16 a product */

    struct part {        /* of a tile: a record's keys */
        int first, last; /* rows first ... last - 1 */
        bool ends;       /* no key follows */
    };

    const fga_gpu_attend &a;
    typename S::shared &sh;
    int tensor, index; /* 0: K, 1: V; of the warp among those of its tensor */
    int base = 0;      /* the window's first record; those before it are done */
    place<S> at = {};
    int64_t groups = 0;        /* of the item: where those of its head begin */
    float sum[blocks][4] = {}; /* of the window: channels by groups, as products leave them */
    float bias = 0;            /* of the lane's own record's kept keys, in the first 8 lanes of the first warp */

    static __device__ __forceinline__ int lane()
    {
        return lane_now();
    }

    /* The record of which the lane writes channel pairs: the second of its two columns in every other row of lanes. */
    static __device__ __forceinline__ int own_column()
    {
        return 2 * (lane() & 3) + (lane() >> 2 & 1);
    }

    /* The sums of a group, from the warp's first channel on. */
    __device__ __forceinline__ const float *sums_of(int group) const
    {
        return (tensor == 0 ? a.sum_k : a.sum_v) + (groups + group) * a.head_dim + index * channels;
    }

    __device__ __forceinline__ part part_of(int record, int recorded) const
    {
        if (record - recorded >= 0) {
            return {0, 0, false};
        }
        const group_record &r = sh.records[(uint32_t)record % FGA_RECORDS];
        int first = r.begin - at.table * S::keys; /* it may have begun up to 256 entries ago */
        first += first < -256 ? S::ring : first >= S::ring - 256 ? -S::ring : 0;
        int last = first + r.count;
        return {max(first, 0), min(last, S::keys), last <= S::keys};
    }

    /* The right operand: of two rows, one for each of the two lowest bits. */
    static __device__ __forceinline__ uint32_t ones(uint32_t bits)
    {
        return ((bits | bits << 15) & 0x10001u) * one_as_word<T>();
    }

    __device__ __forceinline__ void add_rows(int recorded)
    {
        part p = part_of(base + lane() / 4, recorded);
        /* A group's rows are consecutive, and so are the window's. */
        int first = __reduce_min_sync(0xFFFFFFFFu, p.first < p.last ? p.first : S::keys) / 16;
        int last = __reduce_max_sync(0xFFFFFFFFu, p.last);
        int lane = this->lane();
        int key = (lane & 7) + (lane >> 4) * 8, chunk = index * (channels / 8) + (lane >> 3 & 1);
        uint32_t from = shared_address(sh.rows[tensor][at.stage]) + first * 16 * 128 +
                        fga_swizzled(S::keys, (uint32_t)key, (uint32_t)chunk);
#pragma unroll 1
        for (int k = first * 16; k < last; k += 16) {
            int low = min(max(p.first - k, 0), 16), high = min(max(p.last - k, 0), 16);
            uint32_t bits = ((1u << high) - 1) >> low << low >> 2 * (lane & 3);
#pragma unroll
            for (int i = 0; i < blocks; i++) { /* two chunks on: one bit of the swizzled place, or another column */
                uint32_t transposed[4];
                load_matrices_transposed(transposed, (from ^ i % 4 * 32) + i / 4 * S::keys * 128);
                multiply_add<T>(sum[i], transposed, ones(bits), ones(bits >> 8));
            }
            from += 16 * 128;
        }
    }

    /* Asks for the sums of the lane's own record's group before its rows are added: four lanes share a record. */
    __device__ __forceinline__ void ask_for_sums(int group, bool wanted) const
    {
        int first = (lane() >> 3) * 32; /* 128 bytes */
        if (wanted && first < channels && index * channels + first < a.head_dim) {
            prefetch_l1(sums_of(group) + first);
        }
    }

    /* What the group's kept keys leave, row by row of the product: neighbouring lanes have neighbouring channels of the
     * same two groups, and change one with each other so that each has a pair. */
    __device__ __forceinline__ void write(const group_record &r, bool wanted)
    {
        int channel = lane() >> 2 & ~1; /* of each 8 */
        const float *whole = sums_of(r.group) + channel;
        char *to = (char *)a.rest_rows + (((int64_t)blockIdx.x * S::slots + r.slot) * 2 + tensor) * a.row_bytes +
                   2 * (index * channels + channel);
        float share = 1.0f / (float)r.left;
        bool odd = lane() >> 2 & 1;
#pragma unroll
        for (int begin = 0; begin < 2 * blocks; begin += 8) {
            float2 all[8];
#pragma unroll
            for (int i = 0; i < 8 && begin + i < 2 * blocks; i++) {
                all[i] = make_float2(0.0f, 0.0f);
                if (wanted && index * channels + 8 * (begin + i) < a.head_dim) {
                    all[i] = *reinterpret_cast<const float2 *>(whole + 8 * (begin + i));
                }
            }
            __syncwarp(); /* all loads before the first store */
#pragma unroll
            for (int i = 0; i < 8 && begin + i < 2 * blocks; i++) {
                int block = (begin + i) / 2, row = i % 2 * 2;
                float got = __shfl_xor_sync(0xFFFFFFFFu, odd ? sum[block][row] : sum[block][row + 1], 4);
                float low = odd ? got : sum[block][row], high = odd ? sum[block][row + 1] : got;
                if (wanted) {
                    *reinterpret_cast<uint32_t *>(to + 16 * (begin + i)) =
                        pack<T>((all[i].x - low) * share, (all[i].y - high) * share);
                }
            }
        }
    }

    __device__ __forceinline__ void write_bias(const group_record &r)
    {
        if (tensor == 0 && index == 0 && lane() < 8) {
            sh.slot_bias[r.slot] =
                (a.sum_bias[groups + r.group] * log2_e - bias) * (1.0f / (float)r.left) + log2f((float)r.left);
        }
    }

    __device__ __forceinline__ void add_biases(int record, int recorded)
    {
        if (a.bias != nullptr && tensor == 0 && index == 0 && lane() < 8) {
            part p = part_of(record, recorded);
            for (int i = p.first; i < p.last; i++) {
                float b = sh.bias[at.table * S::keys + i];
                bias += b == minus_infinity() ? 0.0f : b;
            }
        }
    }

    /* Makes the window begin with its column-th record, whose sums may go on; 8: a new one. */
    __device__ __forceinline__ void move_window(int column)
    {
        int from = (lane() & ~3) + (column >> 1);
        bool odd = column & 1;
        base += column;
        if (column == 0) {
            return;
        }
#pragma unroll
        for (int i = 0; i < blocks; i++) {
#pragma unroll
            for (int row = 0; row < 4; row += 2) {
                float moved = __shfl_sync(0xFFFFFFFFu, odd ? sum[i][row + 1] : sum[i][row], from);
                sum[i][row] = column < 8 && (lane() & 3) == 0 ? moved : 0.0f;
                sum[i][row + 1] = 0;
            }
        }
        float moved = __shfl_sync(0xFFFFFFFFu, bias, (column >> 1) + 4 * (column & 1));
        bias = column < 8 && lane() == 0 ? moved : 0.0f;
    }

    __device__ __forceinline__ void sum_tile()
    {
        int recorded = sh.recorded[at.table], ended = 8;
        while (ended == 8 && base - recorded < 0) {
            int own = base + own_column();
            const group_record &r = sh.records[(uint32_t)own % FGA_RECORDS];
            bool ends = part_of(own, recorded).ends, wanted = ends && r.left > 0;
            ask_for_sums(r.group, wanted);
            add_rows(recorded);
            add_biases(own, recorded);
            if (__ballot_sync(0xFFFFFFFFu, wanted) != 0) {
                write(r, wanted);
                if (wanted) {
                    write_bias(r);
                }
            }
            ended = __popc(__ballot_sync(0xFFFFFFFFu, ends)) / 4;
            move_window(ended);
        }
    }

    __device__ __forceinline__ void sum_item(int n)
    {
        item t = item_at(a, n);
        groups = ((int64_t)t.b * a.kv_heads + t.kv_head) * a.groups;
        for (bool end = false; !end; at = at.next()) {
            barrier_wait(&sh.cut[at.table], at.table_parity);
            barrier_wait(&sh.full[tensor][at.stage], at.parity);
            end = sh.flags[at.table] & TILE_END;
            if (!end) {
                sum_tile();
            }
            __syncwarp();
            if (lane() == 0) {
                barrier_arrive(&sh.empty[tensor][at.stage]);
                barrier_arrive(&sh.used[at.table]);
            }
        }
    }
};

} // namespace fga
#endif
