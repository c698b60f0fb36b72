/* attend_sm90.cu - attention over gathered keys for compute capability 9.0 (Hopper).
 *
 * One warpgroup brings rows of K and V, one per 64 queries computes. K and V travel through rings of STAGES tiles of
 * their own, each stage with a barrier for "full" and one for "empty". Gathered rows are copied 16 bytes at a time
 * straight to where the tensor cores' 128-byte swizzle wants them; dense tiles come through the copy engine, which
 * swizzles by itself. While the scores of a tile and the weighted values of the tile before it are in the tensor cores,
 * the other warpgroup has its turn at the exponentials.
 *
 * An item ends with a tile that holds nothing (TILE_END), so that no one needs to know beforehand how many there are.
 */
#include "cuda/barrier.cuh"
#include "cuda/rest.cuh"
#include "cuda/shapes.h"
#include "cuda/wgmma.cuh"

namespace fga
{

enum { TILE_BIASED = 1, TILE_END = 2 };
/* Named barriers: 0 is __syncthreads. */
enum { BARRIER_PRODUCERS = 1, BARRIER_TURN = 2, BARRIER_CONSUMER = 4 };

template <int D, int CONSUMERS, int BN, int STAGES, bool GATHERED> struct sm90_tile {
    static constexpr bool gathered = GATHERED; /* else tiles come through the copy engine */
    static constexpr int dim = D, consumers = CONSUMERS, keys = BN, stages = STAGES, slots = FGA_REST_SLOTS(BN);
    /* Tables of a tile live until its scores are weights: one longer than its stage of K. */
    static constexpr int tables = STAGES + 1;
    static constexpr int threads = 128 * (CONSUMERS + 1);

    struct shared {
        unsigned char q[CONSUMERS][64 * D * 2];    /* columns of 64 channels, swizzled, as all tiles here */
        unsigned char rows[2][STAGES][BN * D * 2]; /* [K, V] */
        uint32_t ring[FGA_RING_KEYS];
        uint32_t entry[3][BN]; /* of the tile being copied, the one being summed, and the one being cut */
        float bias[tables][BN];
        float slot_bias[slots];
        float carry[2][D];
        tile_info cut[3];
        /* Of the producer's item: here rather than in registers, of which it has few. */
        item now;
        item_tables head;
        row_sources sources;
        rest_tables rests;
        scanner scan;
        uint32_t ahead[32];
        open_group open[4]; /* each warp's own, all equal */
        rest_queue queue[4];
        int flags[tables];
        uint64_t full[2][STAGES], empty[2][STAGES];
    };
    static_assert(sizeof(shared) + 1024 <= FGA_SM90_SHARED(D, 64 * CONSUMERS, BN, STAGES), "the host's idea of it");
};

/* Where in the rings a tile is. Producer and consumers count the same tiles. */
template <typename S> struct place {
    int stage = 0, table = 0;
    uint32_t parity = 0;

    __device__ __forceinline__ place before() const
    {
        place n;
        n.stage = stage == 0 ? S::stages - 1 : stage - 1;
        n.parity = parity ^ (stage == 0);
        n.table = table == 0 ? S::tables - 1 : table - 1;
        return n;
    }

    __device__ __forceinline__ place next() const
    {
        place n;
        n.stage = stage + 1 == S::stages ? 0 : stage + 1;
        n.parity = parity ^ (n.stage == 0);
        n.table = table + 1 == S::tables ? 0 : table + 1;
        return n;
    }
};

/* ---- producer: gathered rows ----------------------------------------------------------------------------------- */

/* How 128 threads copy a tile's rows: `chunks` lanes a row, so that a warp has a quarter of the rows, `per_turn` at a
 * time. Its lane l knows where the warp's l-th row is; the others ask it. */
template <typename S> struct copying {
    static constexpr int chunks = S::dim / 8, rows_at_once = 128 / chunks, per_turn = rows_at_once / 4;
    static constexpr int turns = S::keys / rows_at_once;
    static constexpr int batch = turns % 4 == 0 ? 4 : 5; /* addresses asked for at a time */
    static_assert(turns % batch == 0 && turns * per_turn <= 32, "whole batches, and a lane for each row");

    static __device__ __forceinline__ int row_of_lane()
    {
        int lane = threadIdx.x & 31;
        return threadIdx.x / 32 * per_turn + lane % per_turn + lane / per_turn * rows_at_once;
    }
};

/* The entry's row; an odd number when it is not to be read. */
__device__ __forceinline__ uint64_t address_of(const row_source &from, uint32_t e)
{
    return (uint64_t)row_of(from, e) | !is_read(e);
}

/* Starts copying the rows that the lanes of each warp know of. */
template <typename S>
__device__ __forceinline__ void copy_rows(const fga_gpu_attend &a, uint64_t known, unsigned char *rows)
{
    using c = copying<S>;
    int thread = threadIdx.x, chunk = thread % c::chunks, row = thread / c::chunks;
    int asked = (thread & 31) / c::chunks, channel = chunk * 16;
    bool inside = chunk * 8 < a.head_dim;
    uint32_t to = shared_address(rows) + fga_swizzled(S::keys, row, chunk);
#pragma unroll
    for (int i = 0; i < c::turns; i += c::batch) {
        uint64_t from[c::batch];
#pragma unroll
        for (int j = 0; j < c::batch; j++) {
            from[j] = __shfl_sync(0xFFFFFFFFu, known, asked + (i + j) * c::per_turn);
        }
#pragma unroll
        for (int j = 0; j < c::batch; j++) { /* rows_at_once is a multiple of 8: the swizzle stays the same */
            bool read = inside && (from[j] & 1) == 0;
            copy_async_16(to + (i + j) * c::rows_at_once * 128, (const char *)(from[j] & ~1ull) + channel, read);
        }
    }
}

/* One item's tiles. `at` goes on to the next item. */
template <typename T, typename S> struct producer {
    const fga_gpu_attend &a;
    typename S::shared &sh;
    place<S> at;
    int buffer; /* of the newest cut */

    static __device__ __forceinline__ int warp()
    {
        return threadIdx.x / 32;
    }

    __device__ __forceinline__ void release(const place<S> &tile)
    {
        __syncwarp();
        if ((threadIdx.x & 31) == 0) {
            barrier_arrive(&sh.empty[0][tile.stage]);
            barrier_arrive(&sh.empty[1][tile.stage]);
        }
    }

    /* Sums the keys of the tile before `at`, which was cut into `buffer`. */
    __device__ __forceinline__ void sum_last(int buffer)
    {
        place<S> tile = at.before();
        open_group open = sh.open[warp()];
        rest_queue queue = sh.queue[warp()];
        barrier_wait(&sh.full[0][tile.stage], tile.parity);
        barrier_wait(&sh.full[1][tile.stage], tile.parity);
        auto chunk_at = [&](int tensor, int row, int chunk) {
            return *reinterpret_cast<const uint4 *>(sh.rows[tensor][tile.stage] + fga_swizzled(S::keys, row, chunk));
        };
        sum_tile<T, S::dim, S::keys, S::slots>(sh.rests, rest_task_of(warp(), S::dim), sh.entry[buffer],
                                               sh.bias[tile.table], chunk_at, open, queue);
        keep(open, queue);
        release(tile);
    }

    /* Closes the last group; false when there is none. */
    __device__ __forceinline__ bool close()
    {
        open_group open = sh.open[warp()];
        rest_queue queue = sh.queue[warp()];
        if (open.group < 0) {
            return false;
        }
        close_last<T, S::dim, S::slots>(sh.rests, rest_task_of(warp(), S::dim), open, queue);
        keep(open, queue);
        return true;
    }

    __device__ __forceinline__ void keep(const open_group &open, const rest_queue &queue)
    {
        __syncwarp();
        if ((threadIdx.x & 31) == 0) {
            sh.open[warp()] = open;
            sh.queue[warp()] = queue;
        }
        __syncwarp();
    }

    __device__ __forceinline__ void end()
    {
        barrier_wait(&sh.empty[0][at.stage], at.parity ^ 1);
        if (threadIdx.x == 0) {
            sh.flags[at.table] = TILE_END;
            barrier_arrive(&sh.full[0][at.stage]);
        }
        barrier_arrive_after_copies(&sh.full[0][at.stage]);
        barrier_wait(&sh.empty[1][at.stage], at.parity ^ 1);
        barrier_arrive_after_copies(&sh.full[1][at.stage]);
        if (a.group_shift >= 0) {
            release(at);
        }
        at = at.next();
    }

    __device__ __forceinline__ void start_item(int n)
    {
        named_sync(BARRIER_PRODUCERS, 128); /* no one is at the last item any more */
        if (threadIdx.x == 0) {
            sh.now = item_at(a, n);
            sh.head = tables_of(a, sh.now);
            sh.sources = sources_of(a, sh.now, S::slots);
            sh.rests = rest_tables_of(a, sh.now, S::slots);
            sh.rests.carry = &sh.carry[0][0];
            sh.rests.slot_bias = sh.slot_bias;
        }
        for (int i = threadIdx.x; i < 2 * S::dim; i += 128) {
            (&sh.carry[0][0])[i] = 0;
        }
        named_sync(BARRIER_PRODUCERS, 128);
        keep({-1, 0, 0.0f}, {0, 0});
        if (warp() == 0) {
            keep_scanner(scan_start(a, sh.now));
        }
    }

    __device__ __forceinline__ void keep_scanner(const scanner &s)
    {
        int lane = threadIdx.x & 31;
        sh.ahead[lane] = s.ahead;
        __syncwarp();
        if (lane == 0) {
            sh.scan = s;
        }
        __syncwarp();
    }

    /* One warp. */
    __device__ __forceinline__ void cut(int buffer)
    {
        scanner s = sh.scan;
        s.ahead = sh.ahead[threadIdx.x & 31];
        tile_info info = cut_tile<S::keys, S::slots>(a, sh.now, sh.head, s, sh.queue[0], sh.ring, sh.entry[buffer],
                                                     sh.bias[at.table], sh.slot_bias);
        keep_scanner(s);
        if (threadIdx.x == 0) {
            sh.cut[buffer] = info;
            sh.flags[at.table] = info.biased ? TILE_BIASED : 0;
        }
    }

    __device__ __forceinline__ void copy_tile(int buffer)
    {
        int row = copying<S>::row_of_lane();
        uint32_t e = row < S::keys ? sh.entry[buffer][row] : FGA_ENTRY_NONE;
        uint64_t k = address_of(sh.sources.k, e), v = address_of(sh.sources.v, e);
        barrier_wait(&sh.empty[0][at.stage], at.parity ^ 1);
        copy_rows<S>(a, k, sh.rows[0][at.stage]);
        barrier_arrive_after_copies(&sh.full[0][at.stage]);
        if (threadIdx.x == 0) {
            barrier_arrive(&sh.full[0][at.stage]); /* hands over flags and bias */
        }
        barrier_wait(&sh.empty[1][at.stage], at.parity ^ 1);
        copy_rows<S>(a, v, sh.rows[1][at.stage]);
        barrier_arrive_after_copies(&sh.full[1][at.stage]);
    }

    __device__ __forceinline__ void item_tiles(int n)
    {
        start_item(n);
        bool summaries = sh.head.count != nullptr, any = false, unsummed = false;
        for (;;) {
            int last_buffer = buffer;
            buffer = buffer == 2 ? 0 : buffer + 1;
            if (warp() == 0) { /* ahead of room for its rows: V of the tile before had it, which frees at.table */
                cut(buffer);
            }
            named_sync(BARRIER_PRODUCERS, 128);
            bool copies = sh.cut[buffer].entries > 0 || !any; /* an empty row has one tile, of nothing */
            any = true;
            if (copies) {
                if ((threadIdx.x & 31) == 0) {
                    sh.queue[warp()].queued += sh.cut[buffer].rests;
                }
                __syncwarp();
                copy_tile(buffer);
            }
            if (unsummed) {
                sum_last(last_buffer);
            } else if (!copies && !close()) {
                break; /* no key is left, nor a group's rest */
            }
            unsummed = copies && summaries;
            if (copies) {
                if (a.group_shift >= 0 && !summaries) {
                    release(at);
                }
                at = at.next();
            }
        }
        end();
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
                    sh.bias[at.table][i] = first + i < a.key_len ? 0.0f : minus_infinity();
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

    __device__ __forceinline__ void release(int tensor, const place<S> &tile)
    {
        if ((threadIdx.x & 31) == 0) {
            barrier_arrive(&sh.empty[tensor][tile.stage]);
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
            int row = i / chunks, chunk = i % chunks, query = index * 64 + row;
            uint4 x = make_uint4(0, 0, 0, 0);
            if (query < t.rows && chunk * 8 < a.head_dim) {
                x = __ldg(reinterpret_cast<const uint4 *>(q + 2 * ((t.first + query) * a.q.token + chunk * 8)));
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
            const float *bias = sh.bias[table] + (threadIdx.x & 3) * 2;
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
            int query = row + half * 8;
            if (query >= t.rows) {
                continue;
            }
            int64_t token = t.first + query;
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

    /* Until the values of the tile before are in. The wait has to stay behind the exponentials, which the compiler does
     * not know to be worth it: it moves arithmetic across a wait, but not across a branch that depends on it. */
    __device__ __forceinline__ void finish_values()
    {
        if (sum[0] < 0 || sum[1] < 0) { /* never */
            never_reached();
        }
        wgmma_wait<0>();
        wgmma_registers(o);
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
        release(0, at);
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
            release(0, next);
            weigh(flags, next.table, shrink);
            finish_values();
            release(1, at);
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
        release(1, at);
        release(0, next);
        barrier_wait(&sh.full[1][next.stage], next.parity);
        release(1, next);
        at = next.next();
        store(t);
    }
};

/* ---- kernels --------------------------------------------------------------------------------------------------------
 */

/* Registers per thread that each role may use. A thread block has what its threads start with and no more: the kernel's
 * count, the largest multiple of 8 that fits, is what the roles share out. */
template <int CONSUMERS> struct registers {
    static constexpr int blocks = CONSUMERS == 1 ? 2 : 1;
    static constexpr int start = 65536 / (128 * (CONSUMERS + 1) * blocks) / 8 * 8;
    static constexpr int producer = CONSUMERS == 1 ? 96 : CONSUMERS == 2 ? 104 : 80;
    static constexpr int consumer = CONSUMERS == 1 ? 160 : CONSUMERS == 2 ? 200 : 144;
    static constexpr int copier = 24, dense_consumer = 240; /* two consumers fed by the copy engine */
    static_assert(producer + CONSUMERS * consumer <= (CONSUMERS + 1) * start, "else taking registers waits for ever");
    static_assert(CONSUMERS != 2 || copier + 2 * dense_consumer <= 3 * start, "else taking registers waits for ever");
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
    consumer<T, S> c = {a, sh, (int)threadIdx.x / 128 - 1};
    if (S::consumers == 2 && c.index == 1) {
        named_arrive(BARRIER_TURN, 256); /* the first turn is the first warpgroup's */
    }
    int items = a.batch * a.query_heads * a.blocks;
    for (int round = 0; round * (int)gridDim.x < items; round++) {
        int n = fga_turn(round, blockIdx.x, gridDim.x);
        if (n < items) {
            c.attend(item_at(a, n));
        }
    }
}

template <typename T, typename S> __device__ __forceinline__ void attend_gathered(const fga_gpu_attend &a)
{
    extern __shared__ unsigned char memory[];
    auto &sh = shared_tiles<S>(memory);
    /* Every producing thread arrives when its copies have landed, the first once more with the tile's tables. Stages
     * are emptied by the warps that compute, and by those that sum. */
    prepare_barriers<S>(sh, 129, 128, 4 * S::consumers + (a.group_shift >= 0 ? 4 : 0));
    if (threadIdx.x < 128) {
        give_registers<registers<S::consumers>::producer>();
        producer<T, S> p = {a, sh, {}, 0};
        int items = a.batch * a.query_heads * a.blocks;
        for (int round = 0; round * (int)gridDim.x < items; round++) {
            int n = fga_turn(round, blockIdx.x, gridDim.x);
            if (n < items) {
                p.item_tiles(n);
            }
        }
        copy_async_commit();
        copy_async_wait<0>();
    } else {
        take_registers<registers<S::consumers>::consumer>();
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
        give_registers<registers<S::consumers>::copier>();
        if (threadIdx.x < 32) {
            const CUtensorMap *const maps[2] = {k, v};
            place<S> at;
            int items = a.batch * a.query_heads * a.blocks;
            for (int round = 0; round * (int)gridDim.x < items; round++) {
                int n = fga_turn(round, blockIdx.x, gridDim.x);
                if (n < items) {
                    copy_tiles<S>(a, item_at(a, n), sh, maps, at);
                }
            }
        }
    } else {
        take_registers<registers<S::consumers>::dense_consumer>();
        consume<T, S>(a, sh);
    }
}

template <int D, int ROWS> using gathered = sm90_tile<D, ROWS / 64, FGA_SM90_KEYS(ROWS), FGA_SM90_STAGES(ROWS), true>;
template <int D>
using dense = sm90_tile<D, FGA_SM90_DENSE_ROWS / 64, FGA_SM90_DENSE_KEYS, FGA_SM90_DENSE_STAGES, false>;

} // namespace fga

#define FGA_SM90_GATHERED(name, type, dim, rows) \
    extern "C" __global__ void __launch_bounds__(FGA_SM90_THREADS(rows), (rows) == 64 ? 2 : 1) \
        fga_sm90_##name##_d##dim##_m##rows(const __grid_constant__ fga_gpu_attend a) \
    { \
        fga::attend_gathered<type, fga::gathered<dim, rows>>(a); \
    }

#define FGA_SM90_DENSE(name, type, dim) \
    extern "C" __global__ void __launch_bounds__(FGA_SM90_THREADS(FGA_SM90_DENSE_ROWS), 1) \
        fga_sm90_##name##_d##dim##_dense(const __grid_constant__ fga_gpu_attend a, \
                                         const __grid_constant__ CUtensorMap k, const __grid_constant__ CUtensorMap v) \
    { \
        fga::attend_dense<type, fga::dense<dim>>(a, &k, &v); \
    }

#define FGA_SM90_KERNELS(name, type, dim) \
    FGA_SM90_GATHERED(name, type, dim, 64) \
    FGA_SM90_GATHERED(name, type, dim, 128) \
    FGA_SM90_GATHERED(name, type, dim, 192) \
    FGA_SM90_DENSE(name, type, dim)

FGA_SM90_KERNELS(bf16, __nv_bfloat16, 64)
FGA_SM90_KERNELS(bf16, __nv_bfloat16, 128)
FGA_SM90_KERNELS(f16, __half, 64)
FGA_SM90_KERNELS(f16, __half, 128)
