/* rest.cuh - remainder summaries: what a group's kept keys leave of its sums becomes one row of K and V with a bias,
 * and is attended to like a key in a later tile (docs/method.md, "Remainder summaries").
 *
 * A tile's rows are summed group by group while they lie in shared memory, by warps that each own 64 channels of K or
 * of V. When the first key of another group is seen, the open group is closed: (sum - kept) / n_r goes to a slot in the
 * workspace. Groups of which nothing is kept do not come by here: their rows are the same for all blocks (group_means).
 */
#ifndef FGA_CUDA_REST_CUH
#define FGA_CUDA_REST_CUH

#include "cuda/keys.cuh"

namespace fga
{

/* The group whose keys are being summed; equal in all warps of a thread block. */
struct open_group {
    int group;  /* -1: none */
    int kept;   /* live keys so far */
    float bias; /* their biases, times log2 e */
};

/* Of an item, for the whole thread block. */
struct rest_tables {
    const float *sum_k, *sum_v; /* [groups][head_dim] */
    const float *sum_bias, *count;
    char *rows;       /* the thread block's slots */
    float *carry;     /* shared memory [2][dim]: sums of the open group's keys in earlier tiles */
    float *slot_bias; /* shared memory [slots] */
    int head_dim, dim_bytes, group_shift;
    bool has_bias;
};

__device__ __forceinline__ rest_tables rest_tables_of(const fga_gpu_attend &a, const item &t, int slots)
{
    rest_tables r = {};
    int64_t groups = ((int64_t)t.b * a.kv_heads + t.kv_head) * a.groups;
    r.sum_k = a.sum_k + groups * a.head_dim;
    r.sum_v = a.sum_v + groups * a.head_dim;
    r.sum_bias = a.sum_bias + groups;
    r.count = a.count + groups;
    r.rows = (char *)a.rest_rows + (int64_t)blockIdx.x * slots * 2 * a.row_bytes;
    r.head_dim = a.head_dim;
    r.dim_bytes = a.row_bytes;
    r.group_shift = a.group_shift;
    r.has_bias = a.bias != nullptr;
    return r;
}

/* One warp's share: 64 channels of one tensor, or nothing but the bookkeeping. */
struct rest_task {
    int tensor; /* 0 K, 1 V, -1 nothing */
    int chunk;  /* the lane's 8 channels */
    bool first; /* writes the bias */
};

__device__ __forceinline__ rest_task rest_task_of(int task, int dim)
{
    int tensors_tasks = (dim + 63) / 64;
    rest_task r;
    r.tensor = task < 2 * tensors_tasks ? task / tensors_tasks : -1;
    r.chunk = task % tensors_tasks * 8 + (threadIdx.x & 7);
    r.first = task == 0;
    return r;
}

__device__ __forceinline__ float warp_sum(float x)
{
    for (int distance = 16; distance > 0; distance /= 2) {
        x += __shfl_xor_sync(0xFFFFFFFFu, x, distance);
    }
    return x;
}

/* Adds up over the four lanes that took turns at the keys, with what earlier tiles left; leaves the carry empty. */
__device__ __forceinline__ void gather_sum(const rest_tables &r, const rest_task &task, int dim, float (&sum)[8])
{
    float *carry = r.carry + task.tensor * dim + task.chunk * 8;
#pragma unroll
    for (int i = 0; i < 8; i++) {
        sum[i] += __shfl_xor_sync(0xFFFFFFFFu, sum[i], 8);
        sum[i] += __shfl_xor_sync(0xFFFFFFFFu, sum[i], 16);
        sum[i] += task.chunk * 8 < dim ? carry[i] : 0.0f;
    }
}

/* Writes the open group's rest, if it has one, into the next slot. */
template <typename T>
__device__ __forceinline__ void close_group(const rest_tables &r, const rest_task &task, int dim, int slots,
                                            const open_group &open, rest_queue &queue, float (&sum)[8])
{
    int left = (int)r.count[open.group] - open.kept;
    bool mine = task.tensor >= 0 && (threadIdx.x & 31) < 8 && task.chunk * 8 < dim;
    if (task.tensor >= 0) {
        gather_sum(r, task, dim, sum);
        __syncwarp();
    }
    if (left > 0) {
        int slot = queue.emitted % slots;
        queue.emitted++;
        float share = 1.0f / (float)left;
        if (mine) {
            uint4 words = make_uint4(0, 0, 0, 0);
            if (task.chunk * 8 < r.head_dim) {
                const float4 *of_group = reinterpret_cast<const float4 *>(
                    (task.tensor == 0 ? r.sum_k : r.sum_v) + (int64_t)open.group * r.head_dim + task.chunk * 8);
                float4 x = of_group[0], y = of_group[1];
                words.x = pack<T>((x.x - sum[0]) * share, (x.y - sum[1]) * share);
                words.y = pack<T>((x.z - sum[2]) * share, (x.w - sum[3]) * share);
                words.z = pack<T>((y.x - sum[4]) * share, (y.y - sum[5]) * share);
                words.w = pack<T>((y.z - sum[6]) * share, (y.w - sum[7]) * share);
            }
            *reinterpret_cast<uint4 *>(r.rows + (2 * slot + task.tensor) * (int64_t)r.dim_bytes + task.chunk * 16) =
                words;
        }
        if (task.first && (threadIdx.x & 31) == 0) {
            r.slot_bias[slot] = (r.sum_bias[open.group] * log2_e - open.bias) * share + log2f((float)left);
        }
    }
    if (mine) {
        float *carry = r.carry + task.tensor * dim + task.chunk * 8;
        for (int i = 0; i < 8; i++) {
            carry[i] = 0;
        }
    }
    __syncwarp();
#pragma unroll
    for (int i = 0; i < 8; i++) {
        sum[i] = 0;
    }
}

/* Sums one tile's live keys, warp by warp, and closes every group that another one follows. tile(tensor, row, chunk)
 * reads 8 channels. Every warp must call it, with the same open group and queue; they come out the same too. */
template <typename T, int DIM, int BN, int SLOTS, typename Tile>
__device__ __forceinline__ void sum_tile(const rest_tables &r, const rest_task &task, const uint32_t *entry,
                                         const float *bias, const Tile &tile, open_group &open, rest_queue &queue)
{
    int lane = threadIdx.x & 31, way = lane >> 3;
    float sum[8] = {};
#pragma unroll 1
    for (int begin = 0; begin < BN; begin += 32) {
        uint32_t e = begin + lane < BN ? entry[begin + lane] : FGA_ENTRY_NONE;
        bool is_key = (e & FGA_ENTRY_KIND) < FGA_ENTRY_MEAN, is_live = (e & FGA_ENTRY_KIND) == FGA_ENTRY_KEY;
        int group = is_key ? (int)((e & ~FGA_ENTRY_KIND) >> r.group_shift) : -1;
        uint32_t keys = __ballot_sync(0xFFFFFFFFu, is_key), alive = __ballot_sync(0xFFFFFFFFu, is_live);
        while (keys != 0) {
            int now = __shfl_sync(0xFFFFFFFFu, group, __ffs(keys) - 1);
            uint32_t same = __ballot_sync(0xFFFFFFFFu, group == now), live = same & alive;
            keys &= ~same;
            if (now != open.group) {
                if (open.group >= 0) {
                    close_group<T>(r, task, DIM, SLOTS, open, queue, sum);
                }
                open = {now, 0, 0.0f};
                if (task.tensor >= 0 && task.chunk * 8 < r.head_dim) {
                    prefetch_l1((task.tensor == 0 ? r.sum_k : r.sum_v) + (int64_t)now * r.head_dim + task.chunk * 8);
                }
            }
            open.kept += __popc(live);
            if (r.has_bias) {
                open.bias += warp_sum(live >> lane & 1 ? bias[begin + lane] : 0.0f);
            }
            if (task.tensor >= 0 && task.chunk * 8 < DIM) {
                for (uint32_t rows = live & 0x11111111u << way; rows != 0; rows &= rows - 1) {
                    uint4 x = tile(task.tensor, begin + __ffs(rows) - 1, task.chunk);
                    const uint32_t words[4] = {x.x, x.y, x.z, x.w};
#pragma unroll
                    for (int i = 0; i < 4; i++) {
                        float2 pair = unpack<T>(words[i]);
                        sum[2 * i] += pair.x;
                        sum[2 * i + 1] += pair.y;
                    }
                }
            }
            __syncwarp();
        }
    }
    if (task.tensor >= 0) {
        gather_sum(r, task, DIM, sum);
        __syncwarp();
        if (way == 0 && task.chunk * 8 < DIM) {
            float *carry = r.carry + task.tensor * DIM + task.chunk * 8;
            for (int i = 0; i < 8; i++) {
                carry[i] = sum[i];
            }
        }
        __syncwarp();
    }
}

/* After the item's last key. */
template <typename T, int DIM, int SLOTS>
__device__ __forceinline__ void close_last(const rest_tables &r, const rest_task &task, open_group &open,
                                           rest_queue &queue)
{
    if (open.group >= 0) {
        float sum[8] = {};
        close_group<T>(r, task, DIM, SLOTS, open, queue, sum);
        open.group = -1;
    }
}

/* Rows and biases of whole groups: one warp each. */
template <typename T> __device__ __forceinline__ void group_means(const fga_gpu_attend &a)
{
    int lane = threadIdx.x & 31, dim = a.row_bytes / 2;
    int64_t row = (int64_t)blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32;
    if (row >= (int64_t)a.batch * a.kv_heads * a.groups) {
        return;
    }
    float count = a.count[row], share = count > 0 ? 1.0f / count : 0.0f;
    if (lane == 0) {
        a.mean_bias[row] = count > 0 ? a.sum_bias[row] * share * log2_e + log2f(count) : minus_infinity();
    }
    for (int tensor = 0; tensor < 2; tensor++) {
        const float *sum = (tensor == 0 ? a.sum_k : a.sum_v) + row * a.head_dim;
        uint32_t *mean = reinterpret_cast<uint32_t *>((char *)a.mean_rows + (2 * row + tensor) * a.row_bytes);
        for (int i = lane; i < dim / 2; i += 32) {
            mean[i] = 2 * i < a.head_dim ? pack<T>(sum[2 * i] * share, sum[2 * i + 1] * share) : 0;
        }
    }
}

} // namespace fga
#endif
