/* attend_sm90.cu - attention over gathered keys for compute capability 9.0 (Hopper).
 *
 * One warp cuts lists into tiles (cut.cuh), three copy the rows (copy.cuh), one warpgroup per 64 queries computes, and
 * with remainder summaries one more sums what is kept (sums.cuh). K and V travel through rings of STAGES tiles of their
 * own, each stage with a barrier for "full" and one for "empty"; lists through a ring of more tiles, with "cut" and
 * "used". Gathered rows are copied 16 bytes at a time straight to where the tensor cores' 128-byte swizzle wants them;
 * dense tiles come through the copy engine, which swizzles by itself. While the scores of a tile and the weighted
 * values of the tile before it are in the tensor cores, the other warpgroup has its turn at the exponentials.
 *
 * An item ends with a tile that holds nothing (TILE_END), so that no one needs to know beforehand how many there are.
 */
#include "cuda/copy.cuh"
#include "cuda/cut.cuh"
#include "cuda/shapes.h"
#include "cuda/sums.cuh"
#include "cuda/wgmma.cuh"

namespace fga
{

/* Named barriers: 0 is __syncthreads. */
enum { BARRIER_TURN = 2, BARRIER_CONSUMER = 4 };

/* WHOLE: whole tiles through the copy engine; else rows of lists; SUMMED: with remainder summaries; GROUPED: of several
 * small blocks at a time, each of which sees its own keys of their common list. */
enum tile_kind { WHOLE, LISTED, SUMMED, GROUPED };

template <int D, int CONSUMERS, int BN, int STAGES, int RING, tile_kind KIND> struct sm90_tile {
    static constexpr bool gathered = KIND != WHOLE, sums = KIND == SUMMED, grouped = KIND == GROUPED;
    static constexpr int dim = D, consumers = CONSUMERS, keys = BN, stages = STAGES, ring = RING, tiles = RING / BN;
    static constexpr int slots = sums ? FGA_SM90_REST_SLOTS : 1, records_kept = sums ? FGA_RECORDS : 1;
    /* Warps that do not compute: one cuts, some copy, some sum K and as many V. With summaries M = 128 has a warpgroup
     * more of them; beside one or three computing warpgroups its registers would be missed. */
    static constexpr int others = sums && CONSUMERS == 2 ? 8 : 4,
                         summers = !sums            ? 0
                                   : CONSUMERS == 2 ? 2
                                                    : 1,
                         copiers = others - 1 - 2 * summers;
    static_assert(RING % BN == 0 && (!gathered || RING >= FGA_SCAN_KEYS + 2 * BN),
                  "a scan fits beside a tile in use and one that is not full");
    static_assert(!sums || FGA_RECORDS >= FGA_SCAN_KEYS / 8 + 2 * BN - 1, "and so do its records");

    struct shared {
        unsigned char q[CONSUMERS][64 * D * 2];    /* columns of 64 channels, swizzled, as all tiles here */
        unsigned char rows[2][STAGES][BN * D * 2]; /* [K, V] */
        uint32_t ring[RING];                       /* [tiles][keys] entries, and their */
        float bias[RING];                          /* times log2 e; of entries without a key -inf */
        group_record records[records_kept];        /* of groups with kept keys */
        float slot_bias[slots];                    /* of summaries */
        int recorded[tiles];                       /* records when the tile was cut */
        int flags[tiles];
        item_tables tables; /* the cutting warp's */
        row_runs runs[grouped ? FGA_SM90_GROUPED : 1];
        int blocks[grouped ? FGA_SM90_GROUPED : 1];
        uint8_t members[grouped ? RING : 8]; /* bit i: the i-th block lists the entry */
        uint64_t full[2][STAGES], empty[2][STAGES];
        uint64_t cut[tiles], used[tiles];
    };
    static_assert(sizeof(shared) + 1024 <= FGA_SM90_SHARED(D, 64 * CONSUMERS, BN, STAGES, RING, sums, grouped),
                  "the host's idea of it");
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
                for (int column = 0; column < S::dim / 64; column++) {
                    copy_box(shared_address(sh.rows[tensor][at.stage]) + column * S::keys * 128, maps[tensor], full,
                             column * 64, first, t.kv_head, t.b);
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
            *reinterpret_cast<uint4 *>(sh.q[index] + fga_swizzled(64, row, chunk)) = x;
        }
        fence_for_wgmma();
        named_sync(BARRIER_CONSUMER + index, 128);
    }

    /* Starts S = Q K^T. */
    __device__ __forceinline__ void start_scores(const place<S> &tile)
    {
        uint64_t q = fga_matrix_descriptor(shared_address(sh.q[index]), 16);
        uint64_t k = fga_matrix_descriptor(shared_address(sh.rows[0][tile.stage]), 16);
        wgmma_fence();
#pragma unroll
        for (int step = 0; step < S::dim / 16; step++) { /* 16 channels are 32 bytes of a 128-byte column */
            int column = step / 4, bytes = step % 4 * 32;
            wgmma<T, S::keys>::scores(s, q + ((column * 64 * 128 + bytes) >> 4),
                                      k + ((column * S::keys * 128 + bytes) >> 4), step > 0);
        }
        wgmma_commit();
    }

    /* Starts O += P V. */
    __device__ __forceinline__ void start_values(const place<S> &tile)
    {
        uint64_t v = fga_matrix_descriptor(shared_address(sh.rows[1][tile.stage]), S::keys * 128);
        wgmma_fence();
#pragma unroll
        for (int step = 0; step < S::keys / 16; step++) { /* 16 keys are 16 rows of 128 bytes */
            wgmma<T, S::dim>::weighted(o, p + 4 * step, v + ((step * 16 * 128) >> 4));
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

/* Registers per thread that each role may use. A thread block has what its threads start with and no more: the kernel's
 * count, the largest multiple of 8 that fits, is what the roles share out. */
template <typename S> struct registers {
    static constexpr int blocks = S::consumers == 1 ? 2 : 1, warpgroups = S::consumers + S::others / 4;
    static constexpr int start = 65536 / (128 * warpgroups * blocks) / 8 * 8;
    static constexpr int producer = !S::gathered        ? 24
                                    : S::grouped        ? 104
                                    : S::others == 8    ? 72
                                    : S::consumers == 1 ? 96
                                                        : 80;
    static constexpr int summer = 56; /* where they are a warpgroup */
    static constexpr int consumer = !S::gathered        ? 240
                                    : S::grouped        ? 200
                                    : S::consumers == 1 ? 160
                                    : S::consumers == 3 ? 144
                                    : S::sums           ? 192
                                                        : 208;
    static_assert(producer + (S::others == 8 ? summer : 0) + S::consumers * consumer <= warpgroups * start,
                  "else taking registers waits for ever");
};

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
        give_registers<registers<S>::producer>();
        produce<S>(a, sh);
        if (S::others == 4) {
            sum_up<T, S>(a, sh);
        }
    } else if (S::others == 8 && threadIdx.x < 256) {
        give_registers<registers<S>::summer>();
        sum_up<T, S>(a, sh);
    } else {
        take_registers<registers<S>::consumer>();
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
        give_registers<registers<S>::producer>();
        if (threadIdx.x < 32) {
            const CUtensorMap *const maps[2] = {k, v};
            place<S> at;
            for_items<S>(a, [&](int n) { copy_tiles<S>(a, item_of<S>(a, n), sh, maps, at); });
        }
    } else {
        take_registers<registers<S>::consumer>();
        consume<T, S>(a, sh);
    }
}

template <int D, int ROWS, bool SUMS>
using gathered = sm90_tile<D, ROWS / 64, FGA_SM90_KEYS(ROWS, SUMS), FGA_SM90_STAGES(ROWS), FGA_SM90_RING(ROWS),
                           SUMS ? SUMMED : LISTED>;
template <int D>
using dense =
    sm90_tile<D, FGA_SM90_DENSE_ROWS / 64, FGA_SM90_DENSE_KEYS, FGA_SM90_DENSE_STAGES, FGA_SM90_DENSE_RING, WHOLE>;
template <int D>
using grouped = sm90_tile<D, 2, FGA_SM90_KEYS(128, false), FGA_SM90_STAGES(128), FGA_SM90_RING(128), GROUPED>;

} // namespace fga

#define FGA_SM90_GATHERED(name, type, dim, rows) \
    extern "C" __global__ void __launch_bounds__(FGA_SM90_THREADS(rows, false), (rows) == 64 ? 2 : 1) \
        fga_sm90_##name##_d##dim##_m##rows(const __grid_constant__ fga_gpu_attend a) \
    { \
        fga::attend_gathered<type, fga::gathered<dim, rows, false>>(a); \
    } \
    extern "C" __global__ void __launch_bounds__(FGA_SM90_THREADS(rows, true), (rows) == 64 ? 2 : 1) \
        fga_sm90_##name##_d##dim##_m##rows##_sums(const __grid_constant__ fga_gpu_attend a) \
    { \
        fga::attend_gathered<type, fga::gathered<dim, rows, true>>(a); \
    }

#define FGA_SM90_GROUPED_KERNEL(name, type, dim) \
    extern "C" __global__ void __launch_bounds__(FGA_SM90_THREADS(128, false), 1) \
        fga_sm90_##name##_d##dim##_grouped(const __grid_constant__ fga_gpu_attend a) \
    { \
        fga::attend_gathered<type, fga::grouped<dim>>(a); \
    }

#define FGA_SM90_DENSE(name, type, dim) \
    extern "C" __global__ void __launch_bounds__(FGA_SM90_THREADS(FGA_SM90_DENSE_ROWS, false), 1) \
        fga_sm90_##name##_d##dim##_dense(const __grid_constant__ fga_gpu_attend a, \
                                         const __grid_constant__ CUtensorMap k, const __grid_constant__ CUtensorMap v) \
    { \
        fga::attend_dense<type, fga::dense<dim>>(a, &k, &v); \
    }

#define FGA_SM90_KERNELS(name, type, dim) \
    FGA_SM90_GATHERED(name, type, dim, 64) \
    FGA_SM90_GATHERED(name, type, dim, 128) \
    FGA_SM90_GATHERED(name, type, dim, 192) \
    FGA_SM90_GROUPED_KERNEL(name, type, dim) \
    FGA_SM90_DENSE(name, type, dim)

FGA_SM90_KERNELS(bf16, __nv_bfloat16, 64)
FGA_SM90_KERNELS(bf16, __nv_bfloat16, 128)
FGA_SM90_KERNELS(f16, __half, 64)
FGA_SM90_KERNELS(f16, __half, 128)
