/* attend_sm80.cu - attention over gathered keys for any device from compute capability 8.0 on.
 *
 * One warp per 16 queries. Tiles of BN gathered rows of K and V, two in flight (flash.cuh).
 */
#include "cuda/flash.cuh"
#include "cuda/rest.cuh"
#include "cuda/shapes.h"

namespace fga
{

template <int D, int BN> struct sm80_tile {
    static constexpr int row_bytes = flash_row_bytes<D>, chunks = D / 8, rows_bytes = BN * row_bytes,
                         slots = FGA_REST_SLOTS(BN);

    struct shared {
        unsigned char rows[2][2][rows_bytes]; /* [stage][K, V] */
        uint32_t ring[FGA_RING_KEYS];
        uint32_t entry[2][BN];
        float bias[2][BN];
        float slot_bias[slots];
        float carry[2][D];
        tile_info info[2];
    };
};

template <int D> __device__ __forceinline__ void load_queries(const fga_gpu_attend &a, const item &t, query_rows<D> &r)
{
    const char *q = (const char *)a.q.data + 2 * (t.b * a.q.batch + t.h * a.q.head + t.first * a.q.token);
    r.channels = a.head_dim;
    for (int half = 0; half < 2; half++) {
        int query = threadIdx.x / 32 * 16 + (threadIdx.x & 31) / 4 + half * 8;
        r.address[half] = query < t.rows ? q + 2 * query * a.q.token : nullptr;
    }
    begin_rows(r);
}

template <typename T, int D>
__device__ __forceinline__ void store_queries(const fga_gpu_attend &a, const item &t, const query_rows<D> &r)
{
    int lane = threadIdx.x & 31;
#pragma unroll
    for (int half = 0; half < 2; half++) {
        float sum = quad_sum(r.sum[half]), inverse = sum != 0 ? 1.0f / sum : 0.0f;
        int query = threadIdx.x / 32 * 16 + lane / 4 + half * 8;
        if (query >= t.rows) {
            continue;
        }
        int64_t token = t.first + query;
        char *o = (char *)a.o.data + 2 * (t.b * a.o.batch + t.h * a.o.head + token * a.o.token);
#pragma unroll
        for (int i = 0; i < D / 8; i++) {
            int channel = i * 8 + (lane & 3) * 2;
            if (channel < a.head_dim) {
                *reinterpret_cast<uint32_t *>(o + 2 * channel) =
                    pack<T>(r.o[i][2 * half] * inverse, r.o[i][2 * half + 1] * inverse);
            }
        }
        if (a.lse != nullptr && (lane & 3) == 0) {
            a.lse[((int64_t)t.b * a.query_heads + t.h) * a.query_len + token] =
                sum != 0 ? (r.most[half] + log2f(sum)) * ln_2 : minus_infinity();
        }
    }
}

/* Starts copying the entries' rows of K and V. */
template <int D, int BN>
__device__ __forceinline__ void gather(const fga_gpu_attend &a, const row_sources &from, const uint32_t *entry,
                                       unsigned char (*rows)[sm80_tile<D, BN>::rows_bytes])
{
    using tile = sm80_tile<D, BN>;
    int chunks = a.head_dim / 8;
#pragma unroll(D > 128 ? 1 : 2)
    for (int i = threadIdx.x; i < BN * tile::chunks; i += blockDim.x) {
        int row = i / tile::chunks, chunk = i % tile::chunks;
        uint32_t e = entry[row];
        bool read = is_read(e) && chunk < chunks;
#pragma unroll
        for (int tensor = 0; tensor < 2; tensor++) {
            const char *source = row_of(tensor == 0 ? from.k : from.v, e) + (read ? chunk * 16 : 0);
            copy_async_16(shared_address(rows[tensor]) + row * tile::row_bytes + chunk * 16, source, read);
        }
    }
}

/* The sums of a tile's kept keys, as many tasks per warp as there are warps too few. */
template <typename T, int D, int BN>
__device__ __forceinline__ void sum_stage(const rest_tables &tables, typename sm80_tile<D, BN>::shared &sh, int stage,
                                          open_group &open, rest_queue &queue)
{
    using tile = sm80_tile<D, BN>;
    auto chunk_at = [&](int tensor, int row, int chunk) {
        return *reinterpret_cast<const uint4 *>(sh.rows[stage][tensor] + row * tile::row_bytes + chunk * 16);
    };
    open_group after = open;
    rest_queue queue_after = queue;
    for (int task = threadIdx.x / 32; task == (int)threadIdx.x / 32 || task < 2 * ((D + 63) / 64);
         task += blockDim.x / 32) {
        after = open;
        queue_after = queue;
        sum_tile<T, D, BN, tile::slots>(tables, rest_task_of(task, D), sh.entry[stage], sh.bias[stage], chunk_at, after,
                                        queue_after);
    }
    open = after;
    queue = queue_after;
}

template <typename T, int D, int BN>
__device__ __forceinline__ void close_stage(const rest_tables &tables, open_group &open, rest_queue &queue)
{
    open_group after = open;
    rest_queue queue_after = queue;
    for (int task = threadIdx.x / 32; task == (int)threadIdx.x / 32 || task < 2 * ((D + 63) / 64);
         task += blockDim.x / 32) {
        after = open;
        queue_after = queue;
        close_last<T, D, sm80_tile<D, BN>::slots>(tables, rest_task_of(task, D), after, queue_after);
    }
    open = after;
    queue = queue_after;
}

template <typename T, int D, int BN>
__device__ __forceinline__ void attend_item(const fga_gpu_attend &a, const item &t,
                                            typename sm80_tile<D, BN>::shared &sh)
{
    using tile = sm80_tile<D, BN>;
    bool scans = threadIdx.x < 32;
    item_tables tables = tables_of(a, t);
    bool summaries = tables.count != nullptr;
    row_sources from = sources_of(a, t, tile::slots);
    rest_tables rests = {};
    if (summaries) {
        rests = rest_tables_of(a, t, tile::slots);
        rests.carry = &sh.carry[0][0];
        rests.slot_bias = sh.slot_bias;
        for (int i = threadIdx.x; i < 2 * D; i += blockDim.x) {
            rests.carry[i] = 0;
        }
    }
    open_group open = {-1, 0, 0.0f};
    rest_queue queue = {0, 0};
    scanner s = {};
    if (scans) {
        s = scan_start(a, t);
    }
    /* Cuts the next tile into a stage and starts its copies; how many entries it has. */
    auto start_tile = [&](int stage) {
        if (scans) {
            tile_info info = cut_tile<BN, tile::slots>(a, t, tables, s, queue, sh.ring, sh.entry[stage], sh.bias[stage],
                                                       sh.slot_bias);
            if (threadIdx.x == 0) {
                sh.info[stage] = info;
            }
        }
        __syncthreads();
        queue.queued += sh.info[stage].rests;
        int entries = sh.info[stage].entries;
        if (entries > 0) {
            gather<D, BN>(a, from, sh.entry[stage], sh.rows[stage]);
        }
        copy_async_commit();
        return entries;
    };
    query_rows<D> rows;
    load_queries<D>(a, t, rows);
    bool computes = (int)threadIdx.x / 32 * 16 < t.rows;
    int stage = 1, entries = 0; /* of the tile in flight */
    for (;;) {
        int next = start_tile(stage ^ 1);
        if (entries > 0) {
            copy_async_wait<1>();
            __syncthreads();
            if (computes) {
                attend_tile<T, D, BN>(sh.rows[stage][0], sh.rows[stage][1],
                                      sh.info[stage].biased ? sh.bias[stage] : nullptr, a.scale_log2, rows,
                                      nothing_else{});
            }
            if (summaries) {
                sum_stage<T, D, BN>(rests, sh, stage, open, queue);
            }
            __syncthreads();
        } else if (next == 0) { /* no key is left, but perhaps the last group's rest */
            if (open.group < 0) {
                break;
            }
            close_stage<T, D, BN>(rests, open, queue);
            __syncthreads();
            continue;
        }
        stage ^= 1;
        entries = next;
    }
    copy_async_wait<0>();
    if (computes) {
        store_queries<T, D>(a, t, rows);
    }
    __syncthreads(); /* the next item writes into the same shared memory */
}

template <typename T, int D, int BN> __device__ __forceinline__ void attend_items(const fga_gpu_attend &a)
{
    extern __shared__ __align__(16) unsigned char memory[];
    auto &sh = *reinterpret_cast<typename sm80_tile<D, BN>::shared *>(memory);
    int items = a.batch * a.query_heads * a.blocks * a.parts;
    for (int round = 0; round * (int)gridDim.x < items; round++) {
        int n = fga_turn(round, blockIdx.x, gridDim.x);
        if (n < items) {
            attend_item<T, D, BN>(a, item_at(a, n), sh);
        }
    }
}

} // namespace fga

#define FGA_SM80_KERNEL(name, type, dim) \
    extern "C" __global__ void __launch_bounds__(FGA_SM80_THREADS) \
        fga_sm80_##name##_d##dim(const __grid_constant__ fga_gpu_attend a) \
    { \
        fga::attend_items<type, dim, FGA_SM80_KEYS(dim)>(a); \
    } \
    static_assert(sizeof(fga::sm80_tile<dim, FGA_SM80_KEYS(dim)>::shared) <= FGA_SM80_SHARED(dim), \
                  "the host's idea of it");

FGA_SM80_KERNEL(bf16, __nv_bfloat16, 64)
FGA_SM80_KERNEL(bf16, __nv_bfloat16, 96)
FGA_SM80_KERNEL(bf16, __nv_bfloat16, 128)
FGA_SM80_KERNEL(bf16, __nv_bfloat16, 256)
FGA_SM80_KERNEL(f16, __half, 64)
FGA_SM80_KERNEL(f16, __half, 96)
FGA_SM80_KERNEL(f16, __half, 128)
FGA_SM80_KERNEL(f16, __half, 256)

extern "C" __global__ void __launch_bounds__(FGA_MEANS_THREADS)
    fga_group_means_bf16(const __grid_constant__ fga_gpu_attend a)
{
    fga::group_means<__nv_bfloat16>(a);
}

extern "C" __global__ void __launch_bounds__(FGA_MEANS_THREADS)
    fga_group_means_f16(const __grid_constant__ fga_gpu_attend a)
{
    fga::group_means<__half>(a);
}
