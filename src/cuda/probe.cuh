/* probe.cuh - exact dense attention of evenly spaced queries, and what a mask kept of it: recall and output error
 * (docs/method.md, "Measure").
 *
 * A thread block takes 64 samples of one head, whatever blocks of the mask they lie in, over all valid keys, 64 at a
 * time (flash.cuh). A sample's kept keys of a tile are the bits of one word, which every lane reads for its own two
 * rows.
 */
#ifndef FGA_CUDA_PROBE_CUH
#define FGA_CUDA_PROBE_CUH

#include "cuda/flash.cuh"
#include "cuda/ops_shapes.h"
#include "ops/gpu_ops.h"

namespace fga
{

template <int D, int BN> struct probe_tile {
    struct shared {
        unsigned char rows[2][2][BN * flash_row_bytes<D>]; /* [stage][K, V] */
        float bias[2][BN];                                 /* in base 2; -inf: not a valid key */
    };
};

/* The samples of one thread block. */
struct probe_place {
    int b, h, kv_head, first; /* `first` of the head's samples */
    int64_t mask_head;        /* row of the mask's block 0 */
};

__device__ __forceinline__ probe_place probe_place_of(const fga_gpu_probe &p)
{
    const fga_gpu_attend &a = p.attend;
    int parts = (p.samples + FGA_PROBE_ROWS - 1) / FGA_PROBE_ROWS, head = (int)blockIdx.x / parts;
    probe_place at;
    at.b = head / a.query_heads;
    at.h = head - at.b * a.query_heads;
    at.kv_head = at.h / (a.query_heads / a.kv_heads);
    at.first = ((int)blockIdx.x - head * parts) * FGA_PROBE_ROWS;
    at.mask_head = ((int64_t)(a.mask_batch > 1 ? at.b : 0) * a.mask_heads + (a.mask_heads > 1 ? at.h : 0)) * a.blocks;
    return at;
}

__device__ __forceinline__ int64_t token_of(const fga_gpu_probe &p, int sample)
{
    return p.prefix + (2 * (int64_t)sample + 1) * p.video / (2 * (int64_t)p.samples);
}

/* The lane's sample of one half of the warp's 16 rows; past the last: p.samples or more. */
__device__ __forceinline__ int sample_of(const probe_place &at, int half)
{
    return at.first + threadIdx.x / 32 * 16 + (threadIdx.x & 31) / 4 + half * 8;
}

/* Which keys a lane's two samples keep, tile by tile, and the weight that falls on them. */
template <int BN> struct kept_weights {
    const fga_gpu_attend &a;
    int64_t row[2];  /* of the mask; -1: keeps nothing, for there is no such sample */
    int64_t next[2]; /* where masks are runs: the first that may end after what was seen */
    uint64_t bits[2];
    float sum[2];

    __device__ __forceinline__ kept_weights(const fga_gpu_probe &p, const probe_place &at) : a(p.attend)
    {
        for (int half = 0; half < 2; half++) {
            int sample = sample_of(at, half);
            row[half] = sample < p.samples ? at.mask_head + token_of(p, sample) / a.block_rows : -1;
            next[half] =
                row[half] >= 0 && a.mask.memory != 0 && a.mask.bits == nullptr ? a.mask.run_offsets[row[half]] : 0;
            bits[half] = 0;
            sum[half] = 0;
        }
    }

    __device__ __forceinline__ uint64_t listed(int half, int64_t first)
    {
        if (row[half] < 0 || a.mask.memory == 0) {
            return row[half] < 0 ? 0 : ~(uint64_t)0;
        }
        if (a.mask.bits != nullptr) {
            const uint32_t *words = reinterpret_cast<const uint32_t *>(a.mask.bits + row[half] * a.mask_words);
            uint64_t low = fga_key_bits(words, first, a.tile_shift);
            return BN > 32 ? low | (uint64_t)fga_key_bits(words, first + 32, a.tile_shift) << 32 : low;
        }
        uint64_t kept = 0;
        for (int64_t end = a.mask.run_offsets[row[half] + 1]; next[half] < end; next[half]++) {
            int64_t from = (int64_t)a.mask.runs[2 * next[half]] << a.tile_shift;
            int64_t to = (int64_t)a.mask.runs[2 * next[half] + 1] << a.tile_shift;
            if (from >= first + BN) {
                break;
            }
            kept |= fga_interval_bits(from, to, first) | (uint64_t)fga_interval_bits(from, to, first + 32) << 32;
            if (to > first + BN) {
                break; /* goes on in the next tile */
            }
        }
        return kept;
    }

    /* Before the tile of keys first ... first + BN - 1. */
    __device__ __forceinline__ void open(int64_t first)
    {
        for (int half = 0; half < 2; half++) {
            bits[half] = listed(half, first) >> (threadIdx.x & 3) * 2;
        }
    }

    __device__ __forceinline__ void shrink(int half, float factor)
    {
        sum[half] *= factor;
    }

    __device__ __forceinline__ void see(int half, int i, int j, float weight)
    {
        sum[half] += bits[half] >> (8 * i + j) & 1 ? weight : 0.0f;
    }
};

template <int D, int BN>
__device__ __forceinline__ void load_tile(const fga_gpu_probe &p, const probe_place &at, int first,
                                          typename probe_tile<D, BN>::shared &sh, int stage)
{
    constexpr int chunks = D / 8;
    const fga_gpu_attend &a = p.attend;
    const float *bias = a.bias != nullptr ? a.bias + at.b * a.bias_batch + at.kv_head * a.bias_head : nullptr;
    auto offset = [&](int key) { /* what it is in base 2 where it counts */
                                 bool valid = false;
                                 for (int i = 0; i < 3; i++) {
                                     valid |= i < a.key_spans && key >= a.key_begin[i] && key < a.key_end[i];
                                 }
                                 return !valid ? minus_infinity() : bias != nullptr ? bias[key] * log2_e : 0.0f;
    };
#pragma unroll 2
    for (int i = threadIdx.x; i < BN * chunks; i += FGA_PROBE_THREADS) {
        int row = i / chunks, chunk = i % chunks, key = first + row;
        bool read = chunk * 8 < a.head_dim && offset(key) != minus_infinity();
#pragma unroll
        for (int tensor = 0; tensor < 2; tensor++) {
            const fga_gpu_rows &x = tensor == 0 ? a.k : a.v;
            const char *head = (const char *)x.data + 2 * (at.b * x.batch + at.kv_head * x.head);
            copy_async_16(shared_address(sh.rows[stage][tensor]) + row * flash_row_bytes<D> + chunk * 16,
                          head + (read ? 2 * key * x.token + chunk * 16 : 0), read);
        }
    }
    if (threadIdx.x < BN) {
        sh.bias[stage][threadIdx.x] = offset(first + (int)threadIdx.x);
    }
    copy_async_commit();
}

/* Of each sample: recall, and the squared norms of O - O_dense, both rounded to T, and of O_dense. */
template <typename T, int D, int BN>
__device__ __forceinline__ void write_figures(const fga_gpu_probe &p, const probe_place &at, const query_rows<D> &r,
                                              const kept_weights<BN> &kept)
{
    const fga_gpu_attend &a = p.attend;
    int lane = threadIdx.x & 31;
#pragma unroll
    for (int half = 0; half < 2; half++) {
        int sample = sample_of(at, half);
        float sum = quad_sum(r.sum[half]), mass = quad_sum(kept.sum[half]), inverse = sum != 0 ? 1.0f / sum : 0.0f;
        const char *o = (const char *)a.o.data + 2 * (at.b * a.o.batch + at.h * a.o.head);
        float error = 0, norm = 0;
#pragma unroll
        for (int i = 0; i < D / 8; i++) {
            int channel = i * 8 + (lane & 3) * 2;
            if (sample < p.samples && channel < a.head_dim) {
                const char *mine = o + 2 * (token_of(p, sample) * a.o.token + channel);
                float2 ours = unpack<T>(__ldg(reinterpret_cast<const uint32_t *>(mine)));
                float2 exact = unpack<T>(pack<T>(r.o[i][2 * half] * inverse, r.o[i][2 * half + 1] * inverse));
                float x = ours.x - exact.x, y = ours.y - exact.y;
                error += x * x + y * y;
                norm += exact.x * exact.x + exact.y * exact.y;
            }
        }
        error = quad_sum(error);
        norm = quad_sum(norm);
        if (sample < p.samples && (lane & 3) == 0) {
            float *to = p.figures + 3 * (((int64_t)at.b * a.query_heads + at.h) * p.samples + sample);
            to[0] = sum != 0 ? mass * inverse : 1.0f; /* where there is no key nothing is lost */
            to[1] = error;
            to[2] = norm;
        }
    }
}

template <typename T, int D, int BN> __device__ __forceinline__ void probe_samples(const fga_gpu_probe &p)
{
    extern __shared__ __align__(16) unsigned char memory[];
    auto &sh = *reinterpret_cast<typename probe_tile<D, BN>::shared *>(memory);
    const fga_gpu_attend &a = p.attend;
    probe_place at = probe_place_of(p);
    query_rows<D> rows;
    rows.channels = a.head_dim;
    for (int half = 0; half < 2; half++) {
        int sample = sample_of(at, half);
        const char *q = (const char *)a.q.data + 2 * (at.b * a.q.batch + at.h * a.q.head);
        rows.address[half] = sample < p.samples ? q + 2 * token_of(p, sample) * a.q.token : nullptr;
    }
    begin_rows(rows);
    kept_weights<BN> kept(p, at);
    load_tile<D, BN>(p, at, 0, sh, 0);
    for (int first = 0, stage = 0; first < a.key_len; first += BN, stage ^= 1) {
        copy_async_wait<0>();
        __syncthreads(); /* this stage is here, and everybody is done with the other one */
        if (first + BN < a.key_len) {
            load_tile<D, BN>(p, at, first + BN, sh, stage ^ 1);
        }
        kept.open(first);
        attend_tile<T, D, BN>(sh.rows[stage][0], sh.rows[stage][1], sh.bias[stage], a.scale_log2, rows, kept);
    }
    write_figures<T, D, BN>(p, at, rows, kept);
}

} // namespace fga
#endif
