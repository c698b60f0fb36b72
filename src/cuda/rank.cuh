/* rank.cuh - scores of keys for query blocks from the logits of pooled queries: a pass that finds each row's softmax
 * sum, and one that makes scores (docs/method.md, "Scores").
 *
 * mma.sync m16n8k16 with keys as rows and pooled queries as columns, so that 8 columns are one query block and a warp's
 * 64 keys hold whole groups. A thread block has 128 pooled queries in shared memory and goes through the keys 128 at a
 * time, two stages (or one, see ops_shapes.h); eight warps, each 64 keys by 32 queries. Rows lie 16 bytes apart from a
 * multiple of 128, so that ldmatrix meets no bank twice.
 */
#ifndef FGA_CUDA_RANK_CUH
#define FGA_CUDA_RANK_CUH

#include "cuda/mma.cuh"
#include "cuda/rows.cuh"

namespace fga
{

enum { RANK_THREADS = 256, RANK_KEYS = FGA_RANK_TILE };
enum { RANK_MASS = 0, RANK_LOGITS = -1 }; /* in place of a group of keys, which means deviation */

template <int D> struct rank_tile {
    static constexpr int row_bytes = 2 * D + 16, chunks = D / 8, bytes = RANK_KEYS * row_bytes;

    struct shared {
        unsigned char q[bytes];
        float2 meta[2][RANK_KEYS];
        float2 merge[FGA_RANK_TILE];
        unsigned char k[2][bytes]; /* last: with one stage the second is not there */
    };
};

/* One thread block's row tile. */
struct rank_place {
    int kv_head;   /* b * kv_heads + h */
    int64_t row;   /* of the first pooled query, over all heads */
    const char *k; /* row 0 of the keys */
    const float2 *k_meta;
    int key_begin, key_end; /* multiples of RANK_KEYS, but for the last end */
};

__device__ __forceinline__ rank_place rank_place_of(const fga_gpu_rank &a)
{
    rank_place p;
    int tile = a.tile_first + (int)blockIdx.x / a.splits, split = (int)blockIdx.x % a.splits;
    int head_tiles = a.rows / FGA_RANK_TILE, head = tile / head_tiles;
    int b = head / a.query_heads, h = (head - b * a.query_heads) / (a.query_heads / a.kv_heads);
    p.kv_head = b * a.kv_heads + h;
    p.row = (int64_t)tile * FGA_RANK_TILE;
    p.k = (const char *)a.k.data + 2 * (b * a.k.batch + h * a.k.head);
    p.k_meta = reinterpret_cast<const float2 *>(a.k_meta) + (int64_t)p.kv_head * a.key_rows;
    p.key_begin = split * a.split_keys;
    p.key_end = min(a.key_count, p.key_begin + a.split_keys);
    return p;
}

/* ---- rows in ---------------------------------------------------------------------------------------------------- */

template <int D>
__device__ __forceinline__ void load_pooled(const fga_gpu_rank &a, const rank_place &p, unsigned char *to)
{
    using tile = rank_tile<D>;
    const char *from = (const char *)a.q + p.row * D * 2;
    for (int i = threadIdx.x; i < FGA_RANK_TILE * tile::chunks; i += RANK_THREADS) {
        int row = i / tile::chunks, chunk = i % tile::chunks;
        copy_async_16(shared_address(to) + row * tile::row_bytes + chunk * 16, from + row * D * 2 + chunk * 16, true);
    }
}

/* Rows that do not count become zeros: what lies in them may be anything. */
template <int D>
__device__ __forceinline__ void load_keys(const fga_gpu_rank &a, const rank_place &p, int first, unsigned char *to)
{
    using tile = rank_tile<D>;
    bool whole = a.keys.count == 1 && first >= a.keys.begin[0] && first + RANK_KEYS <= a.keys.end[0];
#pragma unroll 4
    for (int i = threadIdx.x; i < RANK_KEYS * tile::chunks; i += RANK_THREADS) {
        int row = i / tile::chunks, chunk = i % tile::chunks;
        bool read = (whole || in_spans(a.keys, first + row)) && chunk * 8 < a.head_dim;
        copy_async_16(shared_address(to) + row * tile::row_bytes + chunk * 16,
                      p.k + (read ? (first + row) * 2 * a.k.token + chunk * 16 : 0), read);
    }
}

/* ---- the product ------------------------------------------------------------------------------------------------ */

/* A warp's 64 keys by 32 pooled queries; of tile [i][n], rows are keys, columns queries. */
struct rank_product {
    float c[4][4][4];
};

struct rank_warp {
    int keys, rows;   /* first of the warp's, in the tiles */
    int line, column; /* lane / 4, 2 * (lane mod 4) */
};

__device__ __forceinline__ rank_warp rank_warp_of()
{
    int warp = threadIdx.x / 32, lane = threadIdx.x & 31;
    return {(warp & 1) * 64, (warp >> 1) * 32, lane / 4, (lane & 3) * 2};
}

template <typename T, int D>
__device__ __forceinline__ void multiply(const rank_warp &w, const unsigned char *q, const unsigned char *k,
                                         rank_product &x)
{
    constexpr int row_bytes = rank_tile<D>::row_bytes;
    int lane = threadIdx.x & 31;
    uint32_t keys = shared_address(k) + (w.keys + (lane & 15)) * row_bytes + (lane >> 4) * 16;
    uint32_t rows = shared_address(q) + (w.rows + (lane & 7) + (lane >> 4) * 8) * row_bytes + (lane >> 3 & 1) * 16;
#pragma unroll
    for (int i = 0; i < 4; i++) {
#pragma unroll
        for (int n = 0; n < 4; n++) {
            x.c[i][n][0] = x.c[i][n][1] = x.c[i][n][2] = x.c[i][n][3] = 0;
        }
    }
#pragma unroll
    for (int step = 0; step < D / 16; step++) {
        uint32_t right[2][4];
        load_matrices(right[0], rows + step * 32);
        load_matrices(right[1], rows + 16 * row_bytes + step * 32);
#pragma unroll
        for (int i = 0; i < 4; i++) {
            uint32_t left[4];
            load_matrices(left, keys + i * 16 * row_bytes + step * 32);
#pragma unroll
            for (int n = 0; n < 4; n++) {
                multiply_add<T>(x.c[i][n], left, right[n / 2][n % 2 * 2], right[n / 2][n % 2 * 2 + 1]);
            }
        }
    }
}

/* What a lane knows of its 8 columns: queries n*8 + column and the next. */
struct rank_columns {
    float scale[4][2]; /* factor times scale_log2 */
    float lse[4][2];   /* less log2 of the row's share: 2^(z - this) is the share's part of the probability */
};

__device__ __forceinline__ void load_columns(const fga_gpu_rank &a, const rank_place &p, const rank_warp &w, bool lse,
                                             rank_columns &c)
{
#pragma unroll
    for (int n = 0; n < 4; n++) {
#pragma unroll
        for (int j = 0; j < 2; j++) {
            int64_t row = p.row + w.rows + n * 8 + w.column + j;
            float2 meta = reinterpret_cast<const float2 *>(a.q_meta)[row];
            c.scale[n][j] = meta.x * a.scale_log2;
            c.lse[n][j] = lse ? a.lse[row] - log2f(meta.y) : 0.0f; /* no share: +inf, and no weight */
        }
    }
}

/* Goes through the thread block's keys: body(first key, stage). */
template <typename T, int D, typename Body>
__device__ __forceinline__ void each_tile(const fga_gpu_rank &a, const rank_place &p, typename rank_tile<D>::shared &sh,
                                          const Body &body)
{
    bool holds_meta = threadIdx.x < RANK_KEYS;
    load_pooled<D>(a, p, sh.q);
    if (p.key_begin < p.key_end) {
        load_keys<D>(a, p, p.key_begin, sh.k[0]);
        if (holds_meta) {
            sh.meta[0][threadIdx.x] = p.k_meta[p.key_begin + threadIdx.x];
        }
    }
    copy_async_commit();
    int stage = 0, other = a.stages - 1; /* one stage: the next keys come where these were */
    for (int first = p.key_begin; first < p.key_end; first += RANK_KEYS, stage ^= other) {
        int next = first + RANK_KEYS;
        float2 meta = {0, 0};
        if (holds_meta && next < p.key_end) {
            meta = p.k_meta[next + threadIdx.x]; /* early, so that nobody waits for it below */
        }
        copy_async_wait<0>();
        __syncthreads(); /* this stage is here, and everybody is done with the other one */
        if (other != 0 && next < p.key_end) {
            load_keys<D>(a, p, next, sh.k[stage ^ 1]);
        }
        copy_async_commit();
        body(first, stage);
        if (other == 0) {
            __syncthreads();
            if (next < p.key_end) {
                load_keys<D>(a, p, next, sh.k[0]);
            }
            copy_async_commit();
        }
        if (holds_meta && next < p.key_end) {
            sh.meta[stage ^ other][threadIdx.x] = meta;
        }
    }
    copy_async_wait<0>();
    __syncthreads();
}

/* ---- first pass: sums ---------------------------------------------------------------------------------------------
 */

struct rank_sum {
    float most, sum; /* sum of 2^(z - most) */
};

__device__ __forceinline__ rank_sum joined(const rank_sum &a, const rank_sum &b)
{
    float most = fmaxf(a.most, b.most);
    return {most, a.sum * exp2_fast(a.most - most) + b.sum * exp2_fast(b.most - most)};
}

/* FACTORS: keys have them too. */
template <typename T, int D, bool FACTORS> __device__ __forceinline__ void row_sums(const fga_gpu_rank &a)
{
    extern __shared__ __align__(16) unsigned char memory[];
    auto &sh = *reinterpret_cast<typename rank_tile<D>::shared *>(memory);
    rank_place p = rank_place_of(a);
    rank_warp w = rank_warp_of();
    rank_columns columns;
    load_columns(a, p, w, false, columns);
    rank_sum sums[4][2];
#pragma unroll
    for (int n = 0; n < 4; n++) {
        sums[n][0] = sums[n][1] = {-1e30f, 0.0f}; /* not -inf, of which differences are NaN */
    }
    each_tile<T, D>(a, p, sh, [&](int, int stage) {
        rank_product x;
        multiply<T, D>(w, sh.q, sh.k[stage], x);
        float2 meta[8];
#pragma unroll
        for (int i = 0; i < 8; i++) {
            meta[i] = sh.meta[stage][w.keys + i * 8 + w.line];
        }
#pragma unroll
        for (int n = 0; n < 4; n++) {
#pragma unroll
            for (int j = 0; j < 2; j++) {
                float z[8], most = sums[n][j].most, sum = 0;
#pragma unroll
                for (int i = 0; i < 8; i++) {
                    float scale = FACTORS ? columns.scale[n][j] * meta[i].x : columns.scale[n][j];
                    z[i] = fmaf(x.c[i / 2][n][i % 2 * 2 + j], scale, meta[i].y);
                    most = fmaxf(most, z[i]);
                }
#pragma unroll
                for (int i = 0; i < 8; i++) {
                    sum += exp2_fast(z[i] - most);
                }
                sums[n][j].sum = fmaf(sums[n][j].sum, exp2_fast(sums[n][j].most - most), sum);
                sums[n][j].most = most;
            }
        }
    });
#pragma unroll
    for (int n = 0; n < 4; n++) {
#pragma unroll
        for (int j = 0; j < 2; j++) {
            for (int distance = 4; distance < 32; distance *= 2) {
                rank_sum other = {__shfl_xor_sync(0xFFFFFFFFu, sums[n][j].most, distance),
                                  __shfl_xor_sync(0xFFFFFFFFu, sums[n][j].sum, distance)};
                sums[n][j] = joined(sums[n][j], other);
            }
            if (w.keys > 0 && w.line == 0) {
                sh.merge[w.rows + n * 8 + w.column + j] = {sums[n][j].most, sums[n][j].sum};
            }
        }
    }
    __syncthreads();
    if (w.keys == 0 && w.line == 0) {
#pragma unroll
        for (int n = 0; n < 4; n++) {
#pragma unroll
            for (int j = 0; j < 2; j++) {
                int row = w.rows + n * 8 + w.column + j;
                rank_sum all = joined(sums[n][j], {sh.merge[row].x, sh.merge[row].y});
                /* Without a key every weight is 0. */
                a.lse[p.row + row] = all.sum > 0 || all.sum != all.sum ? all.most + log2f(all.sum) : -minus_infinity();
            }
        }
    }
}

/* ---- in between, for log-sum-exps ---------------------------------------------------------------------------------
 */

/* A thread per block. Rows without a share are no part of it. */
__device__ __forceinline__ void block_bases(const fga_gpu_bases &a)
{
    int64_t block = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (block >= a.blocks) {
        return;
    }
    float base = minus_infinity(), *lse = a.lse + block * a.block_subs;
    bool asks = false;
    for (int i = 0; i < a.block_subs; i++) {
        bool counts = a.q_meta[2 * (block * a.block_subs + i) + 1] > 0;
        base = counts ? fmaxf(base, lse[i]) : base;
        asks |= counts;
    }
    base = base == -minus_infinity() ? 0 : base - (float)FGA_LSE_ROOM; /* without a key all sums are 0 anyway */
    for (int i = 0; i < a.block_subs; i++) {
        lse[i] = asks ? base : -minus_infinity();
    }
}

/* ---- second pass: scores -------------------------------------------------------------------------------------------
 */

/* Over the four lanes that share keys: lane t gets the sums of values 2t and 2t + 1. */
__device__ __forceinline__ float2 scatter_sums(const float (&x)[8])
{
    int lane = threadIdx.x & 3;
    float half[4];
#pragma unroll
    for (int i = 0; i < 4; i++) {
        float sent = lane & 2 ? x[i] : x[i + 4];
        half[i] = (lane & 2 ? x[i + 4] : x[i]) + __shfl_xor_sync(0xFFFFFFFFu, sent, 2);
    }
    float2 sum;
    float first = lane & 1 ? half[0] : half[2], second = lane & 1 ? half[1] : half[3];
    sum.x = (lane & 1 ? half[2] : half[0]) + __shfl_xor_sync(0xFFFFFFFFu, first, 1);
    sum.y = (lane & 1 ? half[3] : half[1]) + __shfl_xor_sync(0xFFFFFFFFu, second, 1);
    return sum;
}

/* Sums over the keys of each group of GROUP among a lane's column of 8: all values of a group become its sum. */
template <int GROUP> __device__ __forceinline__ void group_totals(const float (&p)[8], float (&total)[8])
{
    constexpr int values = GROUP / 8;
#pragma unroll
    for (int first = 0; first < 8; first += values) {
        float sum = p[first];
#pragma unroll
        for (int i = 1; i < values; i++) {
            sum += p[first + i];
        }
        sum += __shfl_xor_sync(0xFFFFFFFFu, sum, 4);
        sum += __shfl_xor_sync(0xFFFFFFFFu, sum, 8);
        sum += __shfl_xor_sync(0xFFFFFFFFu, sum, 16);
#pragma unroll
        for (int i = 0; i < values; i++) {
            total[first + i] = sum;
        }
    }
}

/* GROUP of keys: deviation; or RANK_MASS; or RANK_LOGITS, in base 2 and without the keys' biases, of the one pooled
 * query that a block has: the others are zeros. */
template <typename T, int D, bool FACTORS, int GROUP> __device__ __forceinline__ void scores(const fga_gpu_rank &a)
{
    extern __shared__ __align__(16) unsigned char memory[];
    auto &sh = *reinterpret_cast<typename rank_tile<D>::shared *>(memory);
    rank_place p = rank_place_of(a);
    rank_warp w = rank_warp_of();
    rank_columns columns;
    load_columns(a, p, w, GROUP != RANK_LOGITS, columns);
    int quad = threadIdx.x & 3;
    int64_t block = ((int64_t)blockIdx.x / a.splits * FGA_RANK_TILE + w.rows) / (8 * a.block_eights);
    each_tile<T, D>(a, p, sh, [&](int first, int stage) {
        rank_product x;
        multiply<T, D>(w, sh.q, sh.k[stage], x);
        const float2 *meta = sh.meta[stage] + w.keys + w.line;
        float share[8]; /* of a group's keys, per value */
#pragma unroll
        for (int i = 0; i < 8 && GROUP > 0; i++) {
            constexpr int group = GROUP > 0 ? GROUP : 8;
            int begin = first + w.keys + i * 8 / group * group, n = count_spans(a.keys, begin, begin + group);
            share[i] = n > 0 ? 1.0f / (float)n : 0.0f;
        }
        float score[8] = {};
        float *to = a.score + block * a.score_stride + first + w.keys + quad * 16 + w.line;
#pragma unroll
        for (int n = 0; n < 4; n++) {
#pragma unroll
            for (int j = 0; j < 2; j++) {
                float weight[8], total[8];
#pragma unroll
                for (int i = 0; i < 8; i++) {
                    float2 key = meta[i * 8];
                    float scale = FACTORS ? columns.scale[n][j] * key.x : columns.scale[n][j];
                    float product = x.c[i / 2][n][i % 2 * 2 + j];
                    weight[i] = GROUP == RANK_LOGITS ? product * scale
                                                     : exp2_fast(fmaf(product, scale, key.y) - columns.lse[n][j]);
                }
                if constexpr (GROUP > 0) {
                    group_totals<GROUP>(weight, total);
                }
#pragma unroll
                for (int i = 0; i < 8; i++) {
                    score[i] += GROUP > 0 ? fabsf(fmaf(total[i], -share[i], weight[i])) : weight[i];
                }
            }
            if ((n + 1) % a.block_eights == 0) {
                float2 sum = scatter_sums(score);
                if constexpr (GROUP > 0) {
                    /* The lane's two keys are 16 * quad and 8 more from its line on. */
                    sum.x = meta[quad * 16].x == 0 ? 0.0f : sum.x * meta[quad * 16].x;
                    sum.y = meta[quad * 16 + 8].x == 0 ? 0.0f : sum.y * meta[quad * 16 + 8].x;
                }
                to[0] = sum.x;
                to[8] = sum.y;
                to += a.score_stride;
#pragma unroll
                for (int i = 0; i < 8; i++) {
                    score[i] = 0;
                }
            }
        }
    });
}

} // namespace fga
#endif
