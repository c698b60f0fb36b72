/* sums.cuh - remainder summaries on sm_90: what a group's kept keys leave of its sums becomes one row of K and V with a
 * bias, and is attended to like a key in a later tile (docs/method.md, "Remainder summaries").
 *
 * Warps of their own: one or two sum rows of K while they lie in shared memory, as many rows of V, groups in turn. The warp that cuts has recorded which entries a group has, so there is nothing to search, and a lane owns
 * channels, so there is nothing to exchange. Rows of keys that are not read are zeros there.
 */
#ifndef FGA_CUDA_SUMS_CUH
#define FGA_CUDA_SUMS_CUH

#include "cuda/place.cuh"
#include "cuda/rest.cuh"

namespace fga
{

template <typename T, typename S> struct summer {
    static constexpr int channels = S::dim / 32; /* of a lane */
    static_assert(channels == 2 || channels == 4, "one load a row");

    struct alignas(2 * channels) words {
        uint32_t w[channels / 2];
    };
    struct alignas(4 * channels) floats {
        float f[channels];
    };

    const fga_gpu_attend &a;
    typename S::shared &sh;
    int tensor;       /* 0: K, 1: V */
    int record;       /* the warp's next */
    int done = 0;     /* rows of it that are summed already */
    int loaded = -1;  /* the record of which `whole` is the group's sum */
    place<S> at = {};
    const float *sums = nullptr;      /* [groups][head_dim], from the lane's channels on */
    const float *sum_bias = nullptr;  /* [groups] */
    char *rows = nullptr;             /* the thread block's slots, from the lane's channels on */
    float sum[channels] = {};         /* of the rows of the record so far */
    floats whole = {};
    float whole_bias = 0;
    float bias = 0;                   /* the lane's share of the kept keys' biases */

    __device__ __forceinline__ static int lane()
    {
        return threadIdx.x & 31;
    }

    __device__ __forceinline__ words row_at(const unsigned char *tile, int row) const
    {
        int chunk = lane() * channels / 8, byte = lane() * channels % 8 * 2;
        return *reinterpret_cast<const words *>(tile + fga_swizzled(S::keys, (uint32_t)row, (uint32_t)chunk) + byte);
    }

    /* Adds rows first ... first + count - 1 of the tile. Eight loads at a time are on their way. */
    __device__ __forceinline__ void add_rows(int first, int count)
    {
        const unsigned char *tile = sh.rows[tensor][at.stage];
        for (int row = 0; row < count; row += 8) {
            words x[8];
#pragma unroll
            for (int i = 0; i < 8; i++) {
                x[i] = {};
                if (row + i < count) {
                    x[i] = row_at(tile, first + row + i);
                }
            }
#pragma unroll
            for (int i = 0; i < 8; i++) {
#pragma unroll
                for (int j = 0; j < channels / 2; j++) {
                    float2 pair = unpack<T>(x[i].w[j]);
                    sum[2 * j] += pair.x;
                    sum[2 * j + 1] += pair.y;
                }
            }
        }
        if (a.bias != nullptr && tensor == 0) {
            for (int i = lane(); i < count; i += 32) {
                float b = sh.bias[at.table * S::keys + first + i];
                bias += b == minus_infinity() ? 0.0f : b;
            }
        }
    }

    /* Loads the sums of a record's group. */
    __device__ __forceinline__ void load_whole(int n)
    {
        int group = sh.records[(uint32_t)n % FGA_RECORDS].group;
        if (lane() * channels < a.head_dim) {
            whole = *reinterpret_cast<const floats *>(sums + (int64_t)group * a.head_dim);
        }
        whole_bias = tensor == 0 ? __ldg(sum_bias + group) : 0.0f;
        loaded = n;
    }

    /* Writes what the group's kept keys left, if they did. */
    __device__ __forceinline__ void close(const group_record &r)
    {
        if (r.left > 0) {
            float share = 1.0f / (float)r.left;
            words x;
#pragma unroll
            for (int j = 0; j < channels / 2; j++) {
                x.w[j] = pack<T>((whole.f[2 * j] - sum[2 * j]) * share, (whole.f[2 * j + 1] - sum[2 * j + 1]) * share);
            }
            *reinterpret_cast<words *>(rows + (int64_t)r.slot * 2 * a.row_bytes) = x;
            if (tensor == 0) {
                float kept = a.bias != nullptr ? warp_sum(bias) : 0.0f;
                if (lane() == 0) {
                    sh.slot_bias[r.slot] = (whole_bias * log2_e - kept) * share + log2f((float)r.left);
                }
            }
        }
#pragma unroll
        for (int i = 0; i < channels; i++) {
            sum[i] = 0;
        }
        bias = 0;
        done = 0;
        record += S::summers;
    }

    __device__ __forceinline__ void sum_tile()
    {
        int recorded = sh.recorded[at.table];
        while (record - recorded < 0) {
            group_record r = sh.records[(uint32_t)record % FGA_RECORDS];
            int first = r.begin + done - at.table * S::keys;
            first += first < 0 ? S::ring : first >= S::ring ? -S::ring : 0;
            if (first >= S::keys) {
                break;
            }
            if (loaded != record) {
                load_whole(record);
            }
            int count = min(r.count - done, S::keys - first);
            add_rows(first, count);
            done += count;
            if (done < r.count) {
                break; /* goes on in the next tile */
            }
            close(r);
            if (record - recorded < 0) {
                load_whole(record); /* is there when its rows are summed */
            }
        }
    }

    __device__ __forceinline__ void sum_item(int n)
    {
        item t = item_at(a, n);
        int64_t groups = ((int64_t)t.b * a.kv_heads + t.kv_head) * a.groups;
        sums = (tensor == 0 ? a.sum_k : a.sum_v) + groups * a.head_dim + lane() * channels;
        sum_bias = a.sum_bias + groups;
        rows = (char *)a.rest_rows + ((int64_t)blockIdx.x * S::slots * 2 + tensor) * a.row_bytes + lane() * channels * 2;
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
