/* keys.cuh - from a mask row to packed tiles: which rows of K and V each slot of a tile is.
 *
 * On sm_80 one warp scans the row's bits or runs 1,024 keys at a time into a ring in shared memory, just ahead of need,
 * and cuts tiles off it (on sm_90: cut.cuh). With remainder summaries the ring also names the groups of which nothing
 * is kept, and tiles start with what earlier tiles' groups left (rest.cuh).
 */
#ifndef FGA_CUDA_KEYS_CUH
#define FGA_CUDA_KEYS_CUH

#include "cuda/device.cuh"

namespace fga
{

/* One work item. */
struct item {
    int b, h, u, kv_head;
    int first, rows;  /* queries first ... first + rows - 1: of a part of the block */
    int64_t mask_row; /* -1: dense */
    bool live;        /* the block has a valid query */
    int blocks;       /* 1, unless the kernel takes several at a time (place.cuh) */
};

__device__ __forceinline__ bool meets_spans(int count, const int32_t *begin, const int32_t *end, int from, int to)
{
    bool meets = false;
    for (int i = 0; i < 3; i++) {
        meets |= i < count && begin[i] < to && end[i] > from;
    }
    return meets;
}

__device__ __forceinline__ bool block_is_live(const fga_gpu_attend &a, int u)
{
    int first = u * a.block_rows, end = min(first + a.block_rows, a.query_len);
    return meets_spans(a.query_spans, a.query_begin, a.query_end, first, end);
}

/* The n-th item in the order of work: heads one after the other, so that one head's K and V stay in the cache; within a
 * head the blocks with most keys first. */
__device__ __forceinline__ item item_at(const fga_gpu_attend &a, int n)
{
    item t;
    int block = n / a.parts, part = n - block * a.parts, head = block / a.blocks;
    t.u = block - head * a.blocks;
    t.b = head / a.query_heads;
    t.h = head - t.b * a.query_heads;
    t.kv_head = t.h / (a.query_heads / a.kv_heads);
    t.mask_row = -1;
    if (a.mask.memory != 0) {
        int64_t mask_head = (int64_t)(a.mask_batch > 1 ? t.b : 0) * a.mask_heads + (a.mask_heads > 1 ? t.h : 0);
        t.u = a.mask.row_order[mask_head * a.blocks + t.u];
        t.mask_row = mask_head * a.blocks + t.u;
    }
    int first = t.u * a.block_rows, end = min(first + a.block_rows, a.query_len);
    t.live = block_is_live(a, t.u);
    t.blocks = 1;
    t.first = first + part * a.part_rows;
    t.rows = max(0, min(a.part_rows, end - t.first));
    return t;
}

/* The lane's 32 keys from start + 32 * lane on: which are valid. */
__device__ __forceinline__ uint32_t valid_keys(const fga_gpu_attend &a, int start)
{
    int64_t first = (int64_t)start + 32 * (threadIdx.x & 31);
    uint32_t valid = 0;
    for (int i = 0; i < a.key_spans; i++) {
        if (a.key_begin[i] <= start && start + FGA_SCAN_KEYS <= a.key_end[i]) {
            return 0xFFFFFFFFu; /* as nearly always */
        }
        valid |= fga_interval_bits(a.key_begin[i], a.key_end[i], first);
    }
    return valid;
}

/* A row that is stored as runs: those that end after what has been scanned. */
struct row_runs {
    int64_t next, end;
};

__device__ __forceinline__ row_runs runs_of(const fga_gpu_attend &a, int64_t row)
{
    return {a.mask.run_offsets[row], a.mask.run_offsets[row + 1]};
}

/* The lane's 32 keys that lie in runs; a lane loads a run, all look at all of them. start grows from call to call. */
__device__ __forceinline__ uint32_t keys_of_runs(const fga_gpu_attend &a, row_runs &r, int start)
{
    int lane = threadIdx.x & 31;
    int64_t first = (int64_t)start + 32 * lane, last = (int64_t)start + FGA_SCAN_KEYS;
    uint32_t kept = 0;
    for (int done = 32; done == 32;) {
        int64_t begin = INT64_MAX, end = INT64_MAX;
        if (r.next + lane < r.end) {
            begin = (int64_t)a.mask.runs[2 * (r.next + lane)] << a.tile_shift;
            end = (int64_t)a.mask.runs[2 * (r.next + lane) + 1] << a.tile_shift;
        }
        int meet = __popc(__ballot_sync(0xFFFFFFFFu, begin < last));
        for (int i = 0; i < meet; i++) {
            kept |= fga_interval_bits(__shfl_sync(0xFFFFFFFFu, begin, i), __shfl_sync(0xFFFFFFFFu, end, i), first);
        }
        done = __popc(__ballot_sync(0xFFFFFFFFu, end <= last));
        r.next += done;
    }
    return kept;
}

/* Scans one mask row; every lane of one warp holds it, with values of its own where said. */
struct scanner {
    int next;    /* first key not yet scanned: a multiple of 1,024, or key_len when there are none left */
    int written; /* entries put into the ring since the item began */
    int taken;   /* entries cut off it */
    row_runs runs;
    uint32_t ahead; /* of the lane: which of its 32 keys from `next` on are listed, loaded early */
};

__device__ __forceinline__ uint32_t listed_keys(const fga_gpu_attend &a, const item &t, scanner &s)
{
    int64_t first = (int64_t)s.next + 32 * (threadIdx.x & 31);
    uint32_t valid = valid_keys(a, s.next);
    if (t.mask_row < 0) {
        return valid;
    }
    if (a.mask.bits != nullptr) {
        const uint32_t *words = reinterpret_cast<const uint32_t *>(a.mask.bits + t.mask_row * a.mask_words);
        return valid != 0 ? valid & fga_key_bits(words, first, a.tile_shift) : 0;
    }
    return valid & keys_of_runs(a, s.runs, s.next);
}

__device__ __forceinline__ scanner scan_start(const fga_gpu_attend &a, const item &t)
{
    scanner s = {};
    s.next = t.mask_row < 0 && !t.live ? a.key_len : 0;
    if (t.mask_row >= 0 && a.mask.bits == nullptr) {
        s.runs = runs_of(a, t.mask_row);
    }
    s.ahead = s.next < a.key_len ? listed_keys(a, t, s) : 0;
    return s;
}

/* Bit i of the lane's result: its i-th group of keys holds sums, but no listed key; a group of more than 32 keys is
 * seen by the first of its lanes. */
__device__ __forceinline__ uint32_t groups_left_out(const fga_gpu_attend &a, const float *count, int next,
                                                    uint32_t listed)
{
    int lane = threadIdx.x & 31, first = next + 32 * lane;
    uint32_t any = __ballot_sync(0xFFFFFFFFu, listed != 0), out = 0;
    if (a.group_shift <= 5) {
        int keys = 1 << a.group_shift;
        uint32_t ones = keys == 32 ? 0xFFFFFFFFu : (1u << keys) - 1;
        for (int i = 0; i < 32 >> a.group_shift; i++) {
            int group = (first >> a.group_shift) + i;
            bool empty = (listed >> (i * keys) & ones) == 0;
            out |= (uint32_t)(empty && group < a.groups && count[group] > 0) << i;
        }
    } else {
        int lanes = 1 << (a.group_shift - 5), group = first >> a.group_shift;
        uint32_t mine = ((1u << lanes) - 1) << lane;
        out = (lane & (lanes - 1)) == 0 && (any & mine) == 0 && group < a.groups && count[group] > 0;
    }
    return out;
}

/* Scans on until the ring holds `wanted` entries beyond those taken, or nothing is left to scan. count: of the head's
 * groups; NULL without remainder. */
__device__ __forceinline__ void scan(const fga_gpu_attend &a, const item &t, const float *count, scanner &s,
                                     uint32_t *ring, int wanted)
{
    int lane = threadIdx.x & 31;
    while (s.written - s.taken < wanted && s.next < a.key_len) {
        uint32_t listed = s.ahead, left_out = 0;
        if (count != nullptr) {
            left_out = groups_left_out(a, count, s.next, listed);
        }
        int first = s.next + 32 * lane;
        s.next = (int)min((int64_t)a.key_len, (int64_t)s.next + FGA_SCAN_KEYS);
        if (s.next < a.key_len) {
            s.ahead = listed_keys(a, t, s);
        }
        int mine = __popc(listed) + __popc(left_out), sum = mine;
        for (int distance = 1; distance < 32; distance *= 2) {
            int before = __shfl_up_sync(0xFFFFFFFFu, sum, distance);
            sum += lane >= distance ? before : 0;
        }
        int at = s.written + sum - mine;
        for (; left_out != 0; left_out &= left_out - 1) {
            int group = (first >> a.group_shift) + __ffs(left_out) - 1;
            ring[at++ % FGA_RING_KEYS] = FGA_ENTRY_MEAN | (uint32_t)group;
        }
        for (; listed != 0; listed &= listed - 1) {
            ring[at++ % FGA_RING_KEYS] = (uint32_t)(first + __ffs(listed) - 1);
        }
        s.written += __shfl_sync(0xFFFFFFFFu, sum, 31);
        __syncwarp();
    }
}

/* Rests of groups waiting for a tile; the same in every warp that keeps one. Slots are used in turn. */
struct rest_queue {
    int emitted, queued; /* rows written; rows put into tiles */
};

/* What a tile was cut from. */
struct tile_info {
    int entries; /* real ones, before FGA_ENTRY_NONE; 0: there was nothing to cut */
    int rests;   /* how many of them are rests */
    bool biased; /* has a bias, or slots to be masked */
};

struct item_tables {
    const float *bias;      /* of the item's key head, or NULL */
    const float *count;     /* of its groups; NULL without remainder */
    const float *mean_bias; /* of its groups */
};

__device__ __forceinline__ item_tables tables_of(const fga_gpu_attend &a, const item &t)
{
    int64_t groups = ((int64_t)t.b * a.kv_heads + t.kv_head) * a.groups;
    bool summaries = a.group_shift >= 0 && t.mask_row >= 0 && t.live;
    item_tables x;
    x.bias = a.bias != nullptr ? a.bias + t.b * a.bias_batch + t.kv_head * a.bias_head : nullptr;
    x.count = summaries ? a.count + groups : nullptr;
    x.mean_bias = summaries ? a.mean_bias + groups : nullptr;
    return x;
}

/* One warp cuts the next tile: entry[BN] and bias[BN] (times log2 e; of slots without a key -inf). */
template <int BN, int REST_SLOTS>
__device__ __forceinline__ tile_info cut_tile(const fga_gpu_attend &a, const item &t, const item_tables &x, scanner &s,
                                              const rest_queue &q, uint32_t *ring, uint32_t *entry, float *bias,
                                              const float *rest_bias)
{
    int lane = threadIdx.x & 31;
    tile_info info;
    info.rests = min(q.emitted - q.queued, BN);
    scan(a, t, x.count, s, ring, BN - info.rests);
    int keys = min(s.written - s.taken, BN - info.rests);
    info.entries = info.rests + keys;
    info.biased = x.bias != nullptr || x.count != nullptr || info.entries < BN || a.scale_log2 < 0;
    for (int i = lane; i < BN; i += 32) {
        uint32_t e = FGA_ENTRY_NONE;
        float b = minus_infinity();
        if (i < info.rests) {
            int slot = (q.queued + i) % REST_SLOTS;
            e = FGA_ENTRY_REST | (uint32_t)slot;
            b = rest_bias[slot];
        } else if (i < info.entries) {
            e = ring[(s.taken + i - info.rests) % FGA_RING_KEYS];
            if ((e & FGA_ENTRY_KIND) == FGA_ENTRY_MEAN) {
                b = x.mean_bias[e & ~FGA_ENTRY_KIND];
            } else if (x.bias != nullptr) {
                b = x.bias[e] * log2_e;
                e |= b == minus_infinity() ? FGA_ENTRY_DEAD : 0;
            } else {
                b = 0;
            }
        }
        entry[i] = e;
        if (info.biased) {
            bias[i] = b;
        }
    }
    s.taken += keys;
    return info;
}

/* Where the rows of K, or of V, are that an item's entries name. */
struct row_source {
    const char *keys, *means, *rests;  /* row 0 of each */
    uint32_t key_bytes, summary_bytes; /* from row to row */
};

struct row_sources {
    row_source k, v;
};

__device__ __forceinline__ row_sources sources_of(const fga_gpu_attend &a, const item &t, int rest_slots)
{
    row_sources r;
    const char *means =
        (const char *)a.mean_rows + ((int64_t)t.b * a.kv_heads + t.kv_head) * a.groups * 2 * a.row_bytes;
    const char *rests = (const char *)a.rest_rows + (int64_t)blockIdx.x * rest_slots * 2 * a.row_bytes;
    r.k.keys = (const char *)a.k.data + 2 * (t.b * a.k.batch + t.kv_head * a.k.head);
    r.v.keys = (const char *)a.v.data + 2 * (t.b * a.v.batch + t.kv_head * a.v.head);
    r.k.means = means;
    r.v.means = means + a.row_bytes;
    r.k.rests = rests;
    r.v.rests = rests + a.row_bytes;
    r.k.key_bytes = (uint32_t)(2 * a.k.token);
    r.v.key_bytes = (uint32_t)(2 * a.v.token);
    r.k.summary_bytes = r.v.summary_bytes = 2 * a.row_bytes;
    return r;
}

__device__ __forceinline__ bool is_read(uint32_t e)
{
    return e != FGA_ENTRY_NONE && (e & FGA_ENTRY_KIND) != FGA_ENTRY_DEAD;
}

/* Address of entry e's row. Entries that are not read give a valid address all the same. */
__device__ __forceinline__ const char *row_of(const row_source &r, uint32_t e)
{
    bool read = is_read(e), summary = read && e >= FGA_ENTRY_MEAN;
    const char *summaries = (e & FGA_ENTRY_KIND) == FGA_ENTRY_MEAN ? r.means : r.rests;
    uint32_t row = read ? e & ~FGA_ENTRY_KIND : 0;
    return (summary ? summaries : r.keys) + (uint64_t)row * (summary ? r.summary_bytes : r.key_bytes);
}

} // namespace fga
#endif
