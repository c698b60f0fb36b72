/* attend_sm90.cuh - attention over gathered keys for compute capability 9.0 (Hopper).
 *
 * One warp cuts lists into tiles (cut.cuh), three copy the rows (copy.cuh), one warpgroup per 64 queries computes, and
 * with remainder summaries one more sums what is kept (sums.cuh). K and V travel through rings of STAGES tiles of their
 * own, each stage with a barrier for "full" and one for "empty"; lists through a ring of more tiles, with "cut" and
 * "used". Gathered rows are copied 16 bytes at a time straight to where the tensor cores' swizzle wants them; dense
 * tiles come through the copy engine, which swizzles by itself. While the scores of a tile and the weighted values of
 * the tile before it are in the tensor cores, the other warpgroup has its turn at the exponentials.
 *
 * An item ends with a tile that holds nothing (TILE_END), so that no one needs to know beforehand how many there are.
 *
 * Kernels are made by FGA_SM90_KERNEL from the rows of shapes.h, in a file per image.
 */
#ifndef FGA_CUDA_ATTEND_SM90_CUH
#define FGA_CUDA_ATTEND_SM90_CUH

#include "cuda/copy.cuh"
#include "cuda/cut.cuh"
#include "cuda/shapes.h"
#include "cuda/sums.cuh"
#include "cuda/wgmma.cuh"

namespace fga
{

/* Named barriers: 0 is __syncthreads. */
enum { BARRIER_TURN = 2, BARRIER_CONSUMER = 4 };

/* What follows from a row of shapes.h. */
template <typename SHAPE> struct sm90_tile : SHAPE {
    using SHAPE::dim, SHAPE::kind, SHAPE::rows_at_once, SHAPE::keys, SHAPE::stages, SHAPE::ring, SHAPE::others;
    static constexpr bool gathered = kind != FGA_WHOLE, sums = kind == FGA_SUMMED, grouped = kind == FGA_GROUPED;
    static constexpr bool in_parts = dim > 128 && !grouped; /* a block may have more queries than are taken at once */
    static constexpr int consumers = rows_at_once / 64, tiles = ring / keys;
    static constexpr int slots = sums ? FGA_SM90_REST_SLOTS : 1, records_kept = sums ? FGA_RECORDS : 1;
    /* Warps that do not compute: one cuts, some copy, some sum K and as many V. With summaries M = 128 has a warpgroup
     * more of them; beside one or three computing warpgroups its registers would be missed. */
    static constexpr int summers = !sums ? 0 : others == 8 ? 2 : 1, copiers = others - 1 - 2 * summers;
    static constexpr int column = FGA_SM90_COLUMN(dim), row_bytes = 2 * column; /* of tiles in shared memory */
    static_assert(!grouped ||
                      (64 * consumers == FGA_GPU_SHARED_QUERIES && FGA_GPU_SHARED_QUERIES <= 16 * FGA_SM90_GROUPED),
                  "as many as the order of blocks puts together, and a bit for each");
    static_assert(ring % keys == 0 && (!gathered || ring >= FGA_SCAN_KEYS + 2 * keys),
                  "a scan fits beside a tile in use and one that is not full");
    static_assert(!sums || FGA_RECORDS >= FGA_SCAN_KEYS / 8 + 2 * keys - 1, "and so do its records");
    /* Registers per thread: a thread block has what its threads start with and no more. The kernel's count, the largest
     * multiple of 8 that fits, is what the roles share out. */
    static constexpr int warpgroups = consumers + others / 4;
    static constexpr int start = 65536 / (SHAPE::launched * SHAPE::blocks) / 8 * 8;
    static_assert(SHAPE::lister_registers + SHAPE::summer_registers + consumers * SHAPE::consumer_registers <=
                      warpgroups * start,
                  "else taking registers waits for ever");

    struct shared {
        unsigned char q[consumers][64 * dim * 2];      /* columns of channels, swizzled, as all tiles here */
        unsigned char rows[2][stages][keys * dim * 2]; /* [K, V] */
        uint32_t ring[gathered ? SHAPE::ring : 4];     /* [tiles][keys] entries, and their */
        float bias[SHAPE::ring];                       /* times log2 e; of entries without a key -inf */
        group_record records[records_kept];            /* of groups with kept keys */
        float slot_bias[slots];                        /* of summaries */
        int recorded[tiles];                           /* records when the tile was cut */
        int flags[tiles];
        item_tables tables; /* the cutting warp's */
        row_runs runs[grouped ? FGA_SM90_GROUPED : 1];
        int blocks[grouped ? FGA_SM90_GROUPED : 1];
        uint8_t members[grouped ? SHAPE::ring : 8]; /* bit i: the i-th block lists the entry */
        uint64_t full[2][stages], empty[2][stages];
        uint64_t cut[tiles], used[tiles];
    };
    static_assert(sizeof(shared) + 1024 <= FGA_SM90_SHARED(kind, dim, rows_at_once, keys, stages, SHAPE::ring),
                  "the host's idea of it");

    /* Where a 16-byte chunk of a tile of `height` rows is, and the tile as the tensor cores want it named. */
    static __device__ __forceinline__ uint32_t swizzled(uint32_t height, uint32_t row, uint32_t chunk)
    {
        return column == 64 ? fga_swizzled(height, row, chunk) : fga_swizzled_64(height, row, chunk);
    }

    static __device__ __forceinline__ uint64_t descriptor(uint32_t tile, uint32_t leading)
    {
        return column == 64 ? fga_matrix_descriptor(tile, leading) : fga_matrix_descriptor_64(tile, leading);
    }
};

/* ---- producer: whole tiles -------------------------------------------------------------------------------------- */

/* One item's tiles by the copy engine; one warp. */
template <typename S>
__device__ __forceinline__ void copy_tiles(const fga_gpu_attend &a, const item &t, typename S::shared &sh,
                                           const CUtensorMap *const (&maps)[2], place<S> &at)
{
    int lane = threadIdx.x & 31;
    for (int first = 0; first < a.key_len; first += S::keys) {
        bool biased = first + S::keys > a.key_len || a.scale_log2 < 0;
        for (int tensor = 0; tensor < 2; tensor++) {
            barrier_wait(&sh.empty[tensor][at.stage], at.parity ^ 1);
            if (tensor == 0 && biased) {
                for (int i = lane; i < S::keys; i += 32) {
                    sh.bias[at.table * S::keys + i] = first + i < a.key_len ? 0.0f : minus_infinity();
                }
            }
            __syncwarp();
            if (lane == 0) {
                uint64_t *full = &sh.full[tensor][at.stage];
                if (tensor == 0) {
                    sh.flags[at.table] = biased ? TILE_BIASED : 0;
                }
                barrier_arrive_expecting(full, S::keys * S::dim * 2);
                for (int column = 0; column < S::dim / S::column; column++) {
                    copy_box(shared_address(sh.rows[tensor][at.stage]) + column * S::keys * S::row_bytes, maps[tensor],
                             full, column * S::column, first, t.kv_head, t.b);
                }
            }
        }
        at = at.next();
    }
    for (int tensor = 0; tensor < 2; tensor++) {
        barrier_wait(&sh.empty[tensor][at.stage], at.parity ^ 1);
        if (lane == 0) {
            if (tensor == 0) {
                sh.flags[at.table] = TILE_END;
            }
            barrier_arrive(&sh.full[tensor][at.stage]);
        }
    }
    at = at.next();
}

/* ---- consumer -----------------------------------------------------------------------------------------------------
 */

/* One warpgroup's 64 queries; a lane has rows lane/4 and lane/4 + 8 of its warp's 16. */
template <typename T, typename S> struct consumer {
    const fga_gpu_attend &a;
    typename S::shared &sh;
    int index; /* of the warpgroup among the consumers */
    place<S> at;
    float o[S::dim / 2];
    float s[S::keys / 2];
    uint32_t p[S::keys / 4];
    float most[2], sum[2];

    __device__ __forceinline__ void release_keys(const place<S> &tile)
    {
        if ((threadIdx.x & 31) == 0) {
            barrier_arrive(&sh.empty[0][tile.stage]);
        }
    }

    /* Its biases are weights by then. */
    __device__ __forceinline__ void release_values(const place<S> &tile)
    {
        if ((threadIdx.x & 31) == 0) {
            barrier_arrive(&sh.empty[1][tile.stage]);
            if (S::gathered) {
                barrier_arrive(&sh.used[tile.table]);
            }
        }
    }

    __device__ __forceinline__ void load_queries(const item &t)
    {
        int thread = threadIdx.x & 127;
        named_sync(BARRIER_CONSUMER + index, 128); /* all four warps are done with the last item's queries */
        const char *q = (const char *)a.q.data + 2 * (t.b * a.q.batch + t.h * a.q.head);
        constexpr int chunks = S::dim / 8;
#pragma unroll 4
        for (int i = thread; i < 64 * chunks; i += 128) {
            int row = i / chunks, chunk = i % chunks, token = token_of<S>(a, t, index * 64 + row);
            uint4 x = make_uint4(0, 0, 0, 0);
            if (token >= 0 && chunk * 8 < a.head_dim) {
                x = __ldg(reinterpret_cast<const uint4 *>(q + 2 * (token * a.q.token + chunk * 8)));
            }
            *reinterpret_cast<uint4 *>(sh.q[index] + S::swizzled(64, row, chunk)) = x;
        }
        fence_for_wgmma();
        named_sync(BARRIER_CONSUMER + index, 128);
    }

    /* Starts S = Q K^T. */
    __device__ __forceinline__ void start_scores(const place<S> &tile)
    {
        uint32_t queries = shared_address(sh.q[index]);
        if constexpr (S::dim > 128) { /* else what names the queries of each step is kept, out of registers */
            queries = (uint32_t)opaque((int)queries);
        }
        uint64_t q = S::descriptor(queries, 16), k = S::descriptor(shared_address(sh.rows[0][tile.stage]), 16);
        constexpr int steps = S::column / 16; /* in a column of channels, 32 bytes each */
        wgmma_fence();
#pragma unroll
        for (int step = 0; step < S::dim / 16; step++) {
            int column = step / steps, bytes = step % steps * 32;
            wgmma<T, S::keys>::scores(s, q + ((column * 64 * S::row_bytes + bytes) >> 4),
                                      k + ((column * S::keys * S::row_bytes + bytes) >> 4), step > 0);
        }
        wgmma_commit();
    }

    /* Starts O += P V. */
    __device__ __forceinline__ void start_values(const place<S> &tile)
    {
        uint64_t v = S::descriptor(shared_address(sh.rows[1][tile.stage]), S::keys * S::row_bytes);
        wgmma_fence();
#pragma unroll
        for (int step = 0; step < S::keys / 16; step++) { /* 16 keys are 16 rows */
            wgmma<T, S::dim>::weighted(o, p + 4 * step, v + ((step * 16 * S::row_bytes) >> 4));
        }
        wgmma_commit();
    }

    /* From scores to weights, relative to the largest so far; shrink: what earlier sums are to be multiplied by. */
    __device__ __forceinline__ void weigh(int flags, int table, float (&shrink)[2])
    {
        float factor = a.scale_log2, largest[2] = {minus_infinity(), minus_infinity()};
        if (flags & TILE_BIASED) {
            const float *bias = sh.bias + table * S::keys + (threadIdx.x & 3) * 2;
#pragma unroll
            for (int i = 0; i < S::keys / 8; i++) {
                float2 b = *reinterpret_cast<const float2 *>(bias + i * 8);
                s[4 * i] = fmaf(s[4 * i], factor, b.x);
                s[4 * i + 1] = fmaf(s[4 * i + 1], factor, b.y);
                s[4 * i + 2] = fmaf(s[4 * i + 2], factor, b.x);
                s[4 * i + 3] = fmaf(s[4 * i + 3], factor, b.y);
            }
            factor = 1;
        }
        if constexpr (S::grouped) {
            hide_others(table);
        }
#pragma unroll
        for (int i = 0; i < S::keys / 8; i++) {
            largest[0] = fmaxf(largest[0], fmaxf(s[4 * i], s[4 * i + 1]));
            largest[1] = fmaxf(largest[1], fmaxf(s[4 * i + 2], s[4 * i + 3]));
        }
        float base[2];
#pragma unroll
        for (int half = 0; half < 2; half++) {
            float now = fmaxf(most[half], quad_max(largest[half]) * factor);
            base[half] = now == minus_infinity() ? 0.0f : now; /* nothing seen yet: -inf - -inf is no number */
            shrink[half] = exp2_fast(most[half] - base[half]);
            most[half] = now;
            sum[half] *= shrink[half];
        }
#pragma unroll
        for (int i = 0; i < S::keys / 2; i++) {
            s[i] = exp2_fast(fmaf(s[i], factor, -base[i >> 1 & 1]));
            sum[i >> 1 & 1] += s[i];
        }
    }

    /* Hides the keys that the warp's block does not list. */
    __device__ __forceinline__ void hide_others(int table)
    {
        int block = (index * 64 + (threadIdx.x & 127) / 32 * 16) / a.block_rows;
        const uint8_t *members = sh.members + table * S::keys + (threadIdx.x & 3) * 2;
#pragma unroll
        for (int i = 0; i < S::keys / 8; i++) {
            uint32_t both = *reinterpret_cast<const uint16_t *>(members + i * 8) >> block;
            s[4 * i] = both & 1 ? s[4 * i] : minus_infinity();
            s[4 * i + 1] = both & 0x100 ? s[4 * i + 1] : minus_infinity();
            s[4 * i + 2] = both & 1 ? s[4 * i + 2] : minus_infinity();
            s[4 * i + 3] = both & 0x100 ? s[4 * i + 3] : minus_infinity();
        }
    }

    __device__ __forceinline__ void pack_weights()
    {
#pragma unroll
        for (int i = 0; i < S::keys / 4; i++) {
            p[i] = pack<T>(s[2 * i], s[2 * i + 1]);
        }
    }

    __device__ __forceinline__ void store(const item &t)
    {
        int lane = threadIdx.x & 31, row = index * 64 + (threadIdx.x & 127) / 32 * 16 + lane / 4;
#pragma unroll
        for (int half = 0; half < 2; half++) {
            float total = quad_sum(sum[half]), inverse = total != 0 ? 1.0f / total : 0.0f;
            int64_t token = token_of<S>(a, t, row + half * 8);
            if (token < 0) {
                continue;
            }
            char *to = (char *)a.o.data + 2 * (t.b * a.o.batch + t.h * a.o.head + token * a.o.token);
#pragma unroll
            for (int i = 0; i < S::dim / 8; i++) {
                int channel = i * 8 + (lane & 3) * 2;
                if (channel < a.head_dim) {
                    *reinterpret_cast<uint32_t *>(to + 2 * channel) =
                        pack<T>(o[4 * i + 2 * half] * inverse, o[4 * i + 2 * half + 1] * inverse);
                }
            }
            if (a.lse != nullptr && (lane & 3) == 0) {
                a.lse[((int64_t)t.b * a.query_heads + t.h) * a.query_len + token] =
                    total != 0 ? (most[half] + log2f(total)) * ln_2 : minus_infinity();
            }
        }
    }

    /* Two warpgroups take turns: while one has products in the tensor cores, the other computes exponentials. */
    __device__ __forceinline__ void take_turn()
    {
        if constexpr (S::consumers == 2) {
            named_sync(BARRIER_TURN + index, 256);
        }
    }

    __device__ __forceinline__ void pass_turn()
    {
        if constexpr (S::consumers == 2) {
            named_arrive(BARRIER_TURN + 1 - index, 256);
        }
    }

    /* After waiting for rows: cp.async wrote them like an ordinary store, the copy engine did not. */
    __device__ __forceinline__ void see_rows()
    {
        if (S::gathered) {
            fence_for_wgmma();
        }
    }

    __device__ __forceinline__ void attend(const item &t)
    {
        load_queries(t);
#pragma unroll
        for (int i = 0; i < S::dim / 2; i++) {
            o[i] = 0;
        }
        most[0] = most[1] = minus_infinity();
        sum[0] = sum[1] = 0;
        float shrink[2];
        barrier_wait(&sh.full[0][at.stage], at.parity);
        see_rows();
        start_scores(at);
        wgmma_wait<0>();
        wgmma_registers(s);
        release_keys(at);
        weigh(sh.flags[at.table], at.table, shrink);
        pack_weights();
        place<S> next = at.next();
        for (;;) {
            barrier_wait(&sh.full[0][next.stage], next.parity);
            int flags = sh.flags[next.table];
            if (flags & TILE_END) {
                break;
            }
            barrier_wait(&sh.full[1][at.stage], at.parity);
            see_rows();
            take_turn();
            start_scores(next);
            start_values(at);
            pass_turn();
            wgmma_wait<1>();
            wgmma_registers(s);
            release_keys(next);
            weigh(flags, next.table, shrink);
            wgmma_wait<0>();
            wgmma_registers(o);
            release_values(at);
#pragma unroll
            for (int i = 0; i < S::dim / 2; i++) {
                o[i] *= shrink[i >> 1 & 1];
            }
            pack_weights();
            at = next;
            next = at.next();
        }
        barrier_wait(&sh.full[1][at.stage], at.parity);
        see_rows();
        start_values(at);
        wgmma_wait<0>();
        wgmma_registers(o);
        release_values(at);
        release_keys(next);
        barrier_wait(&sh.full[1][next.stage], next.parity);
        release_values(next);
        at = next.next();
        store(t);
    }
};

/* ---- kernels --------------------------------------------------------------------------------------------------------
 */

template <typename S> __device__ __forceinline__ typename S::shared &shared_tiles(unsigned char *memory)
{
    uint32_t at = shared_address(memory);
    return *reinterpret_cast<typename S::shared *>(memory + (1024 - at % 1024) % 1024);
}

template <typename S>
__device__ __forceinline__ void prepare_barriers(typename S::shared &sh, int full_k, int full_v, int empty)
{
    if (threadIdx.x == 0) {
        for (int i = 0; i < S::stages; i++) {
            barrier_init(&sh.full[0][i], full_k);
            barrier_init(&sh.full[1][i], full_v);
            barrier_init(&sh.empty[0][i], empty);
            barrier_init(&sh.empty[1][i], empty);
        }
        barriers_ready();
    }
    __syncthreads();
}

template <typename T, typename S>
__device__ __forceinline__ void consume(const fga_gpu_attend &a, typename S::shared &sh)
{
    consumer<T, S> c = {a, sh, ((int)threadIdx.x / 32 - S::others) / 4};
    if (S::consumers == 2 && c.index == 1) {
        named_arrive(BARRIER_TURN, 256); /* the first turn is the first warpgroup's */
    }
    for_items<S>(a, [&](int n) { c.attend(item_of<S>(a, n)); });
}

template <typename S> __device__ __forceinline__ void produce(const fga_gpu_attend &a, typename S::shared &sh)
{
    int warp = threadIdx.x / 32;
    if (warp == 0) {
        cutter<S> c = {a, sh};
        for_items<S>(a, [&](int n) { c.cut_item(n); });
    } else if (warp <= S::copiers) {
        copier<S> c = {a, sh, warp - 1};
        c.prepare();
        for_items<S>(a, [&](int n) { c.copy_item(n); });
        copy_async_commit();
        copy_async_wait<0>();
    }
}

template <typename T, typename S>
__device__ __forceinline__ void sum_up(const fga_gpu_attend &a, typename S::shared &sh)
{
    if constexpr (S::sums) {
        int warp = (int)threadIdx.x / 32 - 1 - S::copiers;
        if (warp >= 0) {
            summer<T, S> s = {a, sh, warp};
            s.prepare();
            for_items<S>(a, [&](int n) { s.sum_item(n); });
        }
    }
}

template <typename T, typename S> __device__ __forceinline__ void attend_gathered(const fga_gpu_attend &a)
{
    extern __shared__ unsigned char memory[];
    auto &sh = shared_tiles<S>(memory);
    if (threadIdx.x == 0) {
        for (int i = 0; i < S::tiles; i++) {
            barrier_init(&sh.cut[i], 1);
            barrier_init(&sh.used[i], 4 * S::consumers + 2 * S::summers);
        }
    }
    /* Every copying thread arrives when its copies have landed, the first once more for what the cutting warp wrote.
     * Stages are emptied by the warps that compute, and by those that sum K or V. */
    prepare_barriers<S>(sh, 32 * S::copiers + 1, 32 * S::copiers, 4 * S::consumers + S::summers);
    if (threadIdx.x < 128) {
        give_registers<S::lister_registers>();
        produce<S>(a, sh);
        if (S::others == 4) {
            sum_up<T, S>(a, sh);
        }
    } else if (S::others == 8 && threadIdx.x < 256) {
        if constexpr (S::others == 8) {
            give_registers<S::summer_registers>();
            sum_up<T, S>(a, sh);
        }
    } else {
        take_registers<S::consumer_registers>();
        consume<T, S>(a, sh);
    }
}

template <typename T, typename S>
__device__ __forceinline__ void attend_dense(const fga_gpu_attend &a, const CUtensorMap *k, const CUtensorMap *v)
{
    extern __shared__ unsigned char memory[];
    auto &sh = shared_tiles<S>(memory);
    prepare_barriers<S>(sh, 1, 1, 4 * S::consumers);
    if (threadIdx.x < 128) {
        give_registers<S::lister_registers>();
        if (threadIdx.x < 32) {
            const CUtensorMap *const maps[2] = {k, v};
            place<S> at;
            for_items<S>(a, [&](int n) { copy_tiles<S>(a, item_of<S>(a, n), sh, maps, at); });
        }
    } else {
        take_registers<S::consumer_registers>();
        consume<T, S>(a, sh);
    }
}

using half_bf16 = __nv_bfloat16;
using half_f16 = __half;

} // namespace fga

/* One row of shapes.h. */
#define FGA_SM90_SHAPE(dtype, d, name, k, rows, n, s, r, b, o, listing, summing, computing) \
    struct fga_sm90_d##d##_##name { \
        static constexpr int dim = d, kind = k, rows_at_once = rows, keys = n, stages = s, ring = r, blocks = b; \
        static constexpr int others = o, launched = FGA_SM90_LAUNCHED(rows, o, b); \
        static constexpr int lister_registers = listing, summer_registers = summing, consumer_registers = computing; \
    };

#define FGA_SM90_KERNEL_FGA_LISTED(dtype, d, name) \
    extern "C" __global__ void __launch_bounds__(fga_sm90_d##d##_##name::launched, fga_sm90_d##d##_##name::blocks) \
        fga_sm90_##dtype##_d##d##_##name(const __grid_constant__ fga_gpu_attend a) \
    { \
        fga::attend_gathered<fga::half_##dtype, fga::sm90_tile<fga_sm90_d##d##_##name>>(a); \
    }
#define FGA_SM90_KERNEL_FGA_SUMMED FGA_SM90_KERNEL_FGA_LISTED
#define FGA_SM90_KERNEL_FGA_GROUPED FGA_SM90_KERNEL_FGA_LISTED
#define FGA_SM90_KERNEL_FGA_WHOLE(dtype, d, name) \
    extern "C" __global__ void __launch_bounds__(fga_sm90_d##d##_##name::launched, fga_sm90_d##d##_##name::blocks) \
        fga_sm90_##dtype##_d##d##_##name(const __grid_constant__ fga_gpu_attend a, \
                                         const __grid_constant__ CUtensorMap k, const __grid_constant__ CUtensorMap v) \
    { \
        fga::attend_dense<fga::half_##dtype, fga::sm90_tile<fga_sm90_d##d##_##name>>(a, &k, &v); \
    }
#define FGA_SM90_KERNEL(dtype, d, name, kind, ...) FGA_SM90_KERNEL_##kind(dtype, d, name)

/* All kernels of some rows. */
#define FGA_SM90_KERNELS(SHAPES, dim) \
    SHAPES(FGA_SM90_SHAPE, none, dim) \
    SHAPES(FGA_SM90_KERNEL, bf16, dim) \
    SHAPES(FGA_SM90_KERNEL, f16, dim)

#endif
