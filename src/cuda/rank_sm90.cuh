/* rank_sm90.cuh - rank.cuh's two passes for sm_90: warpgroup products, with pooled queries as rows.
 *
 * One warpgroup brings keys, 128 at a time and four stages ahead; two have 64 pooled queries each, in two sets of
 * accumulators, so that one tile is in the tensor cores while the last one's exponentials are computed. A thread holds
 * 32 keys of each of two rows: sums over keys need hardly any shuffles, and the sum over a block's 8 rows is scattered
 * over the lanes, 28 shuffles for 32 keys.
 */
#ifndef FGA_CUDA_RANK_SM90_CUH
#define FGA_CUDA_RANK_SM90_CUH

#include "cuda/barrier.cuh"
#include "cuda/ops_shapes.h"
#include "cuda/rank.cuh"
#include "cuda/wgmma.cuh"

namespace fga
{

template <int D> struct wide_tile {
    static constexpr int stages = FGA_WIDE_STAGES, chunks = D / 8, bytes = RANK_KEYS * D * 2;

    struct shared {
        unsigned char q[bytes]; /* swizzled, as wgmma wants it; 1,024-byte aligned */
        unsigned char k[stages][bytes];
        float2 meta[stages][RANK_KEYS];
        uint64_t full[stages], empty[stages];
    };
};

struct wide_place {
    int stage = 0;
    uint32_t parity = 0;

    __device__ __forceinline__ void advance()
    {
        stage = stage + 1 == FGA_WIDE_STAGES ? 0 : stage + 1;
        parity ^= stage == 0;
    }
};

template <int D> __device__ __forceinline__ typename wide_tile<D>::shared &wide_shared(unsigned char *memory)
{
    uint32_t at = shared_address(memory);
    return *reinterpret_cast<typename wide_tile<D>::shared *>(memory + (1024 - at % 1024) % 1024);
}

/* Tiles of a thread block: an even number, the last of which may have no key. */
__device__ __forceinline__ int wide_tiles(const fga_gpu_rank &a, const rank_place &p)
{
    return (min(a.key_rows, p.key_begin + a.split_keys) - p.key_begin) / RANK_KEYS;
}

template <int D>
__device__ __forceinline__ void prepare_wide(const fga_gpu_rank &a, const rank_place &p,
                                             typename wide_tile<D>::shared &sh)
{
    const char *from = (const char *)a.q + p.row * D * 2;
    for (int i = threadIdx.x; i < RANK_KEYS * wide_tile<D>::chunks; i += (int)blockDim.x) {
        int row = i / wide_tile<D>::chunks, chunk = i % wide_tile<D>::chunks;
        copy_async_16(shared_address(sh.q) + fga_swizzled(RANK_KEYS, row, chunk), from + row * D * 2 + chunk * 16,
                      true);
    }
    copy_async_commit();
    if (threadIdx.x == 0) {
        for (int i = 0; i < FGA_WIDE_STAGES; i++) {
            barrier_init(&sh.full[i], 128);
            barrier_init(&sh.empty[i], 8);
        }
        barriers_ready();
    }
    copy_async_wait<0>();
    fence_for_wgmma();
    __syncthreads();
}

/* ---- producer -----------------------------------------------------------------------------------------------------
 */

template <int D>
__device__ __forceinline__ void bring_keys(const fga_gpu_rank &a, const rank_place &p,
                                           typename wide_tile<D>::shared &sh)
{
    constexpr int chunks = wide_tile<D>::chunks;
    wide_place at;
    int tiles = wide_tiles(a, p);
    for (int tile = 0; tile < tiles; tile++, at.advance()) {
        int first = p.key_begin + tile * RANK_KEYS;
        bool whole = a.keys.count == 1 && first >= a.keys.begin[0] && first + RANK_KEYS <= a.keys.end[0];
        uint32_t to = shared_address(sh.k[at.stage]);
        barrier_wait(&sh.empty[at.stage], at.parity ^ 1);
#pragma unroll 4
        for (int i = threadIdx.x; i < RANK_KEYS * chunks; i += 128) {
            int row = i / chunks, chunk = i % chunks;
            bool read = (whole || in_spans(a.keys, first + row)) && chunk * 8 < a.head_dim;
            copy_async_16(to + fga_swizzled(RANK_KEYS, row, chunk),
                          p.k + (read ? (first + row) * 2 * a.k.token + chunk * 16 : 0), read);
        }
        if (threadIdx.x < RANK_KEYS / 2) {
            copy_async_16(shared_address(sh.meta[at.stage]) + threadIdx.x * 16, p.k_meta + first + threadIdx.x * 2,
                          true);
        }
        barrier_arrive_after_copies(&sh.full[at.stage]);
    }
    copy_async_commit();
    copy_async_wait<0>();
}

/* ---- consumers ----------------------------------------------------------------------------------------------------
 */

/* A warpgroup's 64 rows; a lane has rows `line` and `line + 8` of its warp's 16. */
struct wide_rows {
    int first; /* of the warp's rows, in the row tile */
    int line, quad;
    float scale[2], lse[2]; /* as in rank_columns */
};

__device__ __forceinline__ wide_rows load_wide_rows(const fga_gpu_rank &a, const rank_place &p, bool lse)
{
    wide_rows r;
    int lane = threadIdx.x & 31;
    r.first = ((int)threadIdx.x / 32 - 4) * 16;
    r.line = lane / 4;
    r.quad = lane & 3;
#pragma unroll
    for (int half = 0; half < 2; half++) {
        int64_t row = p.row + r.first + r.line + half * 8;
        float2 meta = reinterpret_cast<const float2 *>(a.q_meta)[row];
        r.scale[half] = meta.x * a.scale_log2;
        r.lse[half] = lse ? a.lse[row] - log2f(meta.y) : 0.0f;
    }
    return r;
}

template <typename T, int D>
__device__ __forceinline__ void start_product(typename wide_tile<D>::shared &sh, const wide_place &at, float (&s)[64])
{
    barrier_wait(&sh.full[at.stage], at.parity);
    fence_for_wgmma();
    uint64_t q = fga_matrix_descriptor(shared_address(sh.q) + ((int)threadIdx.x / 128 - 1) * 64 * 128, 16);
    uint64_t k = fga_matrix_descriptor(shared_address(sh.k[at.stage]), 16);
    wgmma_fence();
#pragma unroll
    for (int step = 0; step < D / 16; step++) { /* 16 channels are 32 bytes of a 128-byte column */
        int offset = step / 4 * RANK_KEYS * 128 + step % 4 * 32;
        wgmma<T, 128>::scores(s, q + (offset >> 4), k + (offset >> 4), step > 0);
    }
    wgmma_commit();
}

__device__ __forceinline__ void finish_product(float (&s)[64])
{
    wgmma_wait<0>();
    wgmma_registers(s);
}

template <int D> __device__ __forceinline__ void release(typename wide_tile<D>::shared &sh, const wide_place &at)
{
    __syncwarp();
    if ((threadIdx.x & 31) == 0) {
        barrier_arrive(&sh.empty[at.stage]);
    }
}

/* Goes through the tiles with one in the tensor cores ahead: body(s, first key, stage). Their number is even, so that
 * the two sets of accumulators take turns in straight code. */
template <typename T, int D, typename Body>
__device__ __forceinline__ void each_wide_tile(const fga_gpu_rank &a, const rank_place &p,
                                               typename wide_tile<D>::shared &sh, const Body &body)
{
    float x[64], y[64];
    wide_place at, ahead;
    int tiles = wide_tiles(a, p), first = p.key_begin;
    if (tiles <= 0) {
        return;
    }
    start_product<T, D>(sh, ahead, x);
    ahead.advance();
    while (true) {
        finish_product(x);
        start_product<T, D>(sh, ahead, y);
        ahead.advance();
        body(x, first, at.stage);
        release<D>(sh, at);
        at.advance();
        first += RANK_KEYS;
        finish_product(y);
        tiles -= 2;
        if (tiles <= 0) {
            break;
        }
        start_product<T, D>(sh, ahead, x);
        ahead.advance();
        body(y, first, at.stage);
        release<D>(sh, at);
        at.advance();
        first += RANK_KEYS;
    }
    body(y, first, at.stage);
    release<D>(sh, at);
}

/* Logits in base 2, of keys that do not count -inf: of one row of the lane's, in place. With factors the key's factor
 * and bias belong to them; without, they are still to be multiplied by the row's scale, which is positive. */
template <bool FACTORS>
__device__ __forceinline__ void take_logits(const fga_gpu_rank &a, const wide_rows &r, const float2 *meta, int first,
                                            float (&s)[64])
{
    if constexpr (FACTORS) {
#pragma unroll
        for (int j = 0; j < 16; j++) {
            float4 keys = *reinterpret_cast<const float4 *>(meta + j * 8 + r.quad * 2);
#pragma unroll
            for (int half = 0; half < 2; half++) {
                s[4 * j + 2 * half] = fmaf(s[4 * j + 2 * half], r.scale[half] * keys.x, keys.y);
                s[4 * j + 2 * half + 1] = fmaf(s[4 * j + 2 * half + 1], r.scale[half] * keys.z, keys.w);
            }
        }
    } else if (!(a.keys.count == 1 && first >= a.keys.begin[0] && first + RANK_KEYS <= a.keys.end[0])) {
#pragma unroll
        for (int j = 0; j < 16; j++) {
            float4 keys = *reinterpret_cast<const float4 *>(meta + j * 8 + r.quad * 2);
#pragma unroll
            for (int half = 0; half < 2; half++) {
                s[4 * j + 2 * half] = keys.y == 0 ? s[4 * j + 2 * half] : minus_infinity();
                s[4 * j + 2 * half + 1] = keys.w == 0 ? s[4 * j + 2 * half + 1] : minus_infinity();
            }
        }
    }
}

template <typename T, int D, bool FACTORS> __device__ __forceinline__ void wide_sums(const fga_gpu_rank &a)
{
    extern __shared__ unsigned char memory[];
    auto &sh = wide_shared<D>(memory);
    rank_place p = rank_place_of(a);
    prepare_wide<D>(a, p, sh);
    if (threadIdx.x < 128) {
        give_registers<FGA_WIDE_PRODUCER>();
        bring_keys<D>(a, p, sh);
        return;
    }
    take_registers<FGA_WIDE_CONSUMER>();
    wide_rows r = load_wide_rows(a, p, false);
    rank_sum sums[2] = {{-1e30f, 0}, {-1e30f, 0}}; /* of logits without the row's scale; not -inf, see rank.cuh */
    each_wide_tile<T, D>(a, p, sh, [&](float(&s)[64], int first, int stage) {
        take_logits<FACTORS>(a, r, sh.meta[stage], first, s);
#pragma unroll
        for (int half = 0; half < 2; half++) {
            float scale = FACTORS ? 1.0f : r.scale[half], most = sums[half].most;
#pragma unroll
            for (int k = 0; k < 32; k++) {
                most = fmaxf(most, s[k / 2 * 4 + 2 * half + k % 2]);
            }
            float base = most * scale, part[4] = {};
#pragma unroll
            for (int k = 0; k < 32; k++) {
                part[k % 4] += exp2_fast(fmaf(s[k / 2 * 4 + 2 * half + k % 2], scale, -base));
            }
            float sum = (part[0] + part[1]) + (part[2] + part[3]);
            sums[half].sum = fmaf(sums[half].sum, exp2_fast(fmaf(sums[half].most, scale, -base)), sum);
            sums[half].most = most;
        }
    });
#pragma unroll
    for (int half = 0; half < 2; half++) {
        rank_sum all = {sums[half].most * (FACTORS ? 1.0f : r.scale[half]), sums[half].sum};
        for (int distance = 1; distance < 4; distance *= 2) {
            all = joined(all, {__shfl_xor_sync(0xFFFFFFFFu, all.most, distance),
                               __shfl_xor_sync(0xFFFFFFFFu, all.sum, distance)});
        }
        if (r.quad == 0) { /* without a key every weight is 0 */
            a.lse[p.row + r.first + r.line + half * 8] =
                all.sum > 0 || all.sum != all.sum ? all.most + log2f(all.sum) : -minus_infinity();
        }
    }
}

/* Half of the values go to the lane at `distance`, whose share of the other half comes back. Of SIGNED values the
 * magnitudes are added: that costs nothing here, and an instruction anywhere else. */
template <int COUNT, bool SIGNED>
__device__ __forceinline__ void halve(const float (&x)[2 * COUNT], int distance, float (&sum)[COUNT])
{
    bool upper = (threadIdx.x & distance) != 0;
#pragma unroll
    for (int i = 0; i < COUNT; i++) {
        float sent = upper ? x[i] : x[COUNT + i];
        float mine = upper ? x[COUNT + i] : x[i], other = __shfl_xor_sync(0xFFFFFFFFu, sent, distance);
        sum[i] = SIGNED ? fabsf(mine) + fabsf(other) : mine + other;
    }
}

/* Sums of magnitudes over 8 rows: lane line gets keys 4 * line ... 4 * line + 3 of its column's 32. */
__device__ __forceinline__ void scatter_rows(const float (&x)[32], float (&sum)[4])
{
    float half[16], quarter[8];
    halve<16, true>(x, 16, half);
    halve<8, false>(half, 8, quarter);
    halve<4, false>(quarter, 4, sum);
}

/* One row's part of its block's scores, but for its sign: set, or its magnitude added to that of another. GROUP 0:
 * mass, else deviation. */
template <int GROUP>
__device__ __forceinline__ void row_part(const fga_gpu_rank &a, const wide_rows &r, int half, float scale, int first,
                                         const float (&s)[64], bool add, float (&x)[32])
{
    constexpr int values = GROUP > 0 ? GROUP / 4 : 32;
    bool whole = a.keys.count == 1 && first >= a.keys.begin[0] && first + RANK_KEYS <= a.keys.end[0];
    float p[32];
#pragma unroll
    for (int k = 0; k < 32; k++) {
        p[k] = exp2_fast(fmaf(s[k / 2 * 4 + 2 * half + k % 2], scale, -r.lse[half]));
    }
#pragma unroll
    for (int from = 0; from < 32; from += values) {
        float mean = 0;
        if constexpr (GROUP > 0) {
#pragma unroll
            for (int i = 0; i < values; i++) {
                mean += p[from + i];
            }
            mean = quad_sum(mean);
            int begin = first + from * 4, n = whole ? GROUP : count_spans(a.keys, begin, begin + GROUP);
            mean *= n > 0 ? 1.0f / (float)n : 0.0f;
        }
#pragma unroll
        for (int i = 0; i < values; i++) {
            float part = GROUP > 0 ? p[from + i] - mean : p[from + i];
            x[from + i] = add ? fabsf(x[from + i]) + fabsf(part) : part;
        }
    }
}

template <int GROUP>
__device__ __forceinline__ void store_block(const wide_rows &r, const float2 *meta, const float (&x)[32], float *to)
{
    float sum[4];
    scatter_rows(x, sum);
    int key = r.line * 16 + r.quad * 2;
#pragma unroll
    for (int i = 0; i < 2; i++, key += 8) {
        float2 two = {sum[2 * i], sum[2 * i + 1]};
        if constexpr (GROUP > 0) {
            float4 keys = *reinterpret_cast<const float4 *>(meta + key);
            two.x = keys.x == 0 ? 0.0f : two.x * keys.x;
            two.y = keys.z == 0 ? 0.0f : two.y * keys.z;
        }
        *reinterpret_cast<float2 *>(to + key) = two;
    }
}

template <typename T, int D, bool FACTORS, int GROUP> __device__ __forceinline__ void wide_scores(const fga_gpu_rank &a)
{
    extern __shared__ unsigned char memory[];
    auto &sh = wide_shared<D>(memory);
    rank_place p = rank_place_of(a);
    prepare_wide<D>(a, p, sh);
    if (threadIdx.x < 128) {
        give_registers<FGA_WIDE_PRODUCER>();
        bring_keys<D>(a, p, sh);
        return;
    }
    take_registers<FGA_WIDE_CONSUMER>();
    wide_rows r = load_wide_rows(a, p, true);
    int64_t eight = ((int64_t)blockIdx.x / a.splits * FGA_RANK_TILE + r.first) / 8;
    float *block = a.score + eight / a.block_eights * a.score_stride;
    each_wide_tile<T, D>(a, p, sh, [&](float(&s)[64], int first, int stage) {
        const float2 *meta = sh.meta[stage];
        float x[32];
        take_logits<FACTORS>(a, r, meta, first, s);
        row_part<GROUP>(a, r, 0, FACTORS ? 1.0f : r.scale[0], first, s, false, x);
        if (a.block_eights == 1) {
            store_block<GROUP>(r, meta, x, block + first);
            row_part<GROUP>(a, r, 1, FACTORS ? 1.0f : r.scale[1], first, s, false, x);
            store_block<GROUP>(r, meta, x, block + a.score_stride + first);
        } else {
            row_part<GROUP>(a, r, 1, FACTORS ? 1.0f : r.scale[1], first, s, true, x);
            store_block<GROUP>(r, meta, x, block + first);
        }
    });
}

} // namespace fga
#endif
