/* cut.cuh - from a mask row to packed tiles on sm_90. One warp does nothing else, and does it tiles ahead of those who
 * copy.
 *
 * Lists lie in a ring in shared memory of whole tiles; a tile of it belongs to this warp until `cut` says that it is
 * full, and is its own again when `used` says that nobody needs it. The row is scanned 1,024 keys at a time, 32 a lane,
 * straight into the ring. With remainder summaries a scan also lists the groups of which nothing is kept, records the
 * others for those who sum (sums.cuh), and is preceded by the summaries that have been summed meanwhile: those of tile
 * t are there when a tile that takes t's place in K and V may be copied, and so need no barrier of their own.
 */
#ifndef FGA_CUDA_CUT_CUH
#define FGA_CUDA_CUT_CUH

#include "cuda/place.cuh"

namespace fga
{

/* Sum over the lanes up to this one. */
__device__ __forceinline__ int sum_up_to_lane(int x)
{
    int lane = threadIdx.x & 31;
#pragma unroll
    for (int distance = 1; distance < 32; distance *= 2) {
        int before = __shfl_up_sync(0xFFFFFFFFu, x, distance);
        x += lane >= distance ? before : 0;
    }
    return x;
}

/* One warp's, all lanes with the same values but for words. */
template <typename S> struct cutter {
    const fga_gpu_attend &a;
    typename S::shared &sh;
    place<S> next = {};   /* the tile that is to be handed over next */
    place<S> oldest = {}; /* not known to be free again */
    int tiles = 0;        /* handed over */
    int pending = 0;      /* entries in the ring from `next` on */
    int room = S::ring;   /* places in the ring that may be written */
    int flags = 0;        /* of `next` */
    /* Summaries: counted from the beginning, modulo 2^32. */
    int recorded = 0, forgotten = 0; /* records written; no longer needed */
    int emitted = 0, queued = 0;     /* summaries that records ask for; that tiles name */
    int known_tile = 0,
        known_emitted = 0; /* the first `known_emitted` are summed with tile `known_tile` at the latest */
    /* Of the item; what is rarely used is in sh.tables and sh.runs. */
    const uint32_t *words = nullptr; /* the row's bits, unless it is stored as runs */
    bool masked = false, biased = false, summaries = false;

    static constexpr int ahead = 4; /* words that a lane loads before it needs them */

    static __device__ __forceinline__ int in_ring(int i)
    {
        return i >= S::ring ? i - S::ring : i;
    }

    /* Where the i-th entry after those handed over lies. */
    __device__ __forceinline__ int place_of(int i) const
    {
        return in_ring(next.table * S::keys + i);
    }

    /* ---- the ring ----------------------------------------------------------------------------------------------- */

    /* Takes back the oldest tile that was handed over. */
    __device__ __forceinline__ void take_back()
    {
        barrier_wait(&sh.used[oldest.table], oldest.table_parity);
        if constexpr (S::sums) { /* and the records of the groups that end in it */
            int first = oldest.table * S::keys, ended;
            do {
                int i = forgotten + (int)(threadIdx.x & 31);
                const group_record &r = sh.records[(uint32_t)i % FGA_RECORDS];
                int last = in_ring(r.begin() + r.count() - 1) - first;
                bool ends = i - recorded < 0 && last >= 0 && last < S::keys;
                ended = __popc(__ballot_sync(0xFFFFFFFFu, ends));
                forgotten += ended;
            } while (ended == 32);
        }
        oldest = oldest.next();
        room += S::keys;
    }

    __device__ __forceinline__ void reserve(int entries)
    {
        while (room < entries) {
            take_back();
        }
        room -= entries;
    }

    /* `added` entries more are written: hands over the tiles that are full with them. */
    __device__ __forceinline__ void hand_over(int added)
    {
        pending += added;
        if (pending < S::keys) {
            return;
        }
        __syncwarp();
        do {
            if ((threadIdx.x & 31) == 0) {
                sh.flags[next.table] = flags | (biased ? TILE_BIASED : 0);
                if constexpr (S::sums) {
                    sh.recorded[next.table] = recorded;
                }
                barrier_arrive(&sh.cut[next.table]);
            }
            next = next.next();
            flags = 0;
            tiles++;
            pending -= S::keys;
        } while (pending >= S::keys);
    }

    /* Fills the tile up with nothing and hands it over. */
    __device__ __forceinline__ void pad()
    {
        int added = S::keys - pending;
        reserve(added);
        for (int i = threadIdx.x & 31; i < S::keys; i += 32) {
            int at = place_of(i);
            if (i >= pending) {
                sh.ring[at] = FGA_ENTRY_NONE;
                sh.bias[at] = minus_infinity();
                if constexpr (S::grouped) {
                    sh.members[at] = 0;
                }
            } else if (!biased) {
                sh.bias[at] = 0;
            }
        }
        flags |= TILE_BIASED;
        hand_over(added);
    }

    /* ---- keys --------------------------------------------------------------------------------------------------- */

    /* The lane's 32 keys from `start` on, as the mask's bits; 0 where the mask has none. Not looked at before use, so
     * that it may come late. */
    __device__ __forceinline__ uint32_t load_word(int start) const
    {
        int first = start + 32 * (int)(threadIdx.x & 31);
        return words != nullptr && first < a.key_len ? __ldg(words + (first >> a.tile_shift >> 5)) : 0;
    }

    __device__ __forceinline__ uint32_t listed_keys(int start, uint32_t word)
    {
        uint32_t valid = valid_keys(a, start);
        if (!masked) {
            return valid;
        }
        if (words != nullptr) {
            return valid & fga_word_bits(word, start + 32 * (int)(threadIdx.x & 31), a.tile_shift);
        }
        row_runs runs = sh.runs[0];
        valid &= keys_of_runs(a, runs, start);
        keep_runs(0, runs);
        return valid;
    }

    __device__ __forceinline__ void keep_runs(int i, const row_runs &runs)
    {
        __syncwarp();
        if ((threadIdx.x & 31) == 0) {
            sh.runs[i] = runs;
        }
        __syncwarp();
    }

    /* Those of the lane's listed keys whose bias is not -inf. */
    __device__ __forceinline__ uint32_t live_keys(int first, uint32_t listed) const
    {
        uint32_t live = listed;
        for (uint32_t rest = listed; rest != 0; rest &= rest - 1) {
            int i = __ffs(rest) - 1;
            live ^= (uint32_t)(sh.tables.bias[first + i] == minus_infinity()) << i;
        }
        return live;
    }

    /* Writes the lane's keys to the ring from `at` on, and no biases if tiles without any need some. Four at a time
     * without a branch: a lane has 32 keys, and the one with most holds up the others. */
    template <bool BIASED> __device__ __forceinline__ void write_keys(int first, uint32_t listed, int at)
    {
        constexpr uint32_t to_bias = offsetof(typename S::shared, bias) - offsetof(typename S::shared, ring);
        uint32_t begin = shared_address(sh.ring), end = begin + 4 * S::ring, to = begin + 4 * at;
        while (__ballot_sync(0xFFFFFFFFu, listed != 0) != 0) {
#pragma unroll
            for (int i = 0; i < 4; i++) {
                store_shared_if(listed != 0, to, (uint32_t)(first + __ffs(listed) - 1));
                if constexpr (BIASED) {
                    store_shared_if(listed != 0, to + to_bias, 0);
                }
                listed &= listed - 1;
                to = to + 4 == end ? begin : to + 4;
            }
        }
    }

    __device__ __forceinline__ void write_biased_keys(int first, uint32_t listed, int at)
    {
        const float *bias = sh.tables.bias;
        for (; listed != 0; listed &= listed - 1) {
            uint32_t e = (uint32_t)(first + __ffs(listed) - 1);
            float b = bias != nullptr ? bias[e] * log2_e : 0.0f;
            sh.ring[at] = b == minus_infinity() ? e | FGA_ENTRY_DEAD : e;
            sh.bias[at] = b;
            at = in_ring(at + 1);
        }
    }

    __device__ __forceinline__ void scan(int start, uint32_t listed)
    {
        int mine = __popc(listed), sum = sum_up_to_lane(mine), total = __shfl_sync(0xFFFFFFFFu, sum, 31);
        if (total == 0) {
            return;
        }
        reserve(total);
        int first = start + 32 * (int)(threadIdx.x & 31), at = place_of(pending + sum - mine);
        if (biased) {
            write_biased_keys(first, listed, at);
        } else {
            write_keys<false>(first, listed, at);
        }
        hand_over(total);
    }

    /* ---- groups ------------------------------------------------------------------------------------------------- */

    struct lane_groups {   /* bit i: the i-th group that begins with one of the lane's keys */
        uint32_t left_out; /* nothing is kept of it, and it has a summary */
        uint32_t kept;     /* something is kept of it */
        uint32_t rests;    /* and something is not */
        int listed, left;  /* of the first: keys that are kept, and that are not */
    };

    /* How many of the lane's i-th group's keys are in `keys`; a group of more than 32 has several lanes. */
    __device__ __forceinline__ int count_keys(uint32_t keys, int i) const
    {
        if (a.group_shift <= 5) {
            int size = 1 << a.group_shift;
            return __popc(size == 32 ? keys : keys >> (i * size) & ((1u << size) - 1));
        }
        int count = __popc(keys);
        for (int distance = 1; distance < 1 << (a.group_shift - 5); distance *= 2) {
            count += __shfl_xor_sync(0xFFFFFFFFu, count, distance);
        }
        return count;
    }

    /* How many keys of the group that begins at or before `first` have sums: with those the lane's next groups have. */
    __device__ __forceinline__ float group_count(int first, int i) const
    {
        int group = (first >> a.group_shift) + i;
        return group < a.groups ? __ldg(sh.tables.count + group) : 0.0f;
    }

    __device__ __forceinline__ int groups_of_lane() const
    {
        return a.group_shift < 5 ? 32 >> a.group_shift : 1;
    }

    /* first_count: of the lane's first group, asked for long before. */
    __device__ __forceinline__ lane_groups find_groups(int first, uint32_t listed, uint32_t live,
                                                       float first_count) const
    {
        int lane = threadIdx.x & 31, lanes = a.group_shift > 5 ? 1 << (a.group_shift - 5) : 1;
        bool leads = (lane & (lanes - 1)) == 0;
        lane_groups g = {};
        for (int i = 0; i < groups_of_lane(); i++) {
            int count = (int)(i == 0 ? first_count : group_count(first, i));
            int listed_count = count_keys(listed, i);
            int live_count = sh.tables.bias != nullptr ? count_keys(live, i) : listed_count;
            g.left_out |= (uint32_t)(leads && listed_count == 0 && count > 0) << i;
            g.kept |= (uint32_t)(leads && listed_count > 0) << i;
            g.rests |= (uint32_t)(leads && listed_count > 0 && count > live_count) << i;
            g.listed = i == 0 ? listed_count : g.listed;
            g.left = i == 0 ? count - live_count : g.left;
        }
        return g;
    }

    /* at: of the lane's first key. */
    __device__ __forceinline__ void write_records(int first, uint32_t listed, uint32_t live, const lane_groups &g,
                                                  int at, int record, int rest)
    {
        for (int i = 0; i < groups_of_lane(); i++) {
            int listed_count = g.listed, left = g.left;
            if (i > 0) { /* which no lane does, or all */
                listed_count = count_keys(listed, i);
                left = (int)group_count(first, i) - count_keys(live, i);
            }
            if (g.kept >> i & 1) {
                uint32_t before = i == 0 ? 0 : listed & ((1u << (i << a.group_shift)) - 1);
                bool has_rest = g.rests >> i & 1;
                sh.records[(uint32_t)record++ % FGA_RECORDS] = {
                    (uint32_t)in_ring(at + __popc(before)) | (uint32_t)listed_count << 16, (first >> a.group_shift) + i,
                    has_rest ? left : 0, (int)((uint32_t)rest % S::slots)};
                rest += has_rest;
            }
        }
    }

    __device__ __forceinline__ void scan_groups(int start, uint32_t listed, float first_count)
    {
        int first = start + 32 * (int)(threadIdx.x & 31);
        uint32_t live = sh.tables.bias != nullptr ? live_keys(first, listed) : listed;
        lane_groups g = find_groups(first, listed, live, first_count);
        /* At most 1,024 entries, 128 records and 128 rests: one sum for all three. */
        int mine = (__popc(listed) + __popc(g.left_out)) | __popc(g.kept) << 12 | __popc(g.rests) << 22;
        int sum = sum_up_to_lane(mine), total = __shfl_sync(0xFFFFFFFFu, sum, 31), before = sum - mine;
        while (FGA_RECORDS - (recorded - forgotten) < (total >> 12 & 0x3FF)) {
            take_back();
        }
        reserve(total & 0xFFF);
        int at = place_of(pending + (before & 0xFFF));
        for (; g.left_out != 0; g.left_out &= g.left_out - 1) {
            int group = (first >> a.group_shift) + __ffs(g.left_out) - 1;
            sh.ring[at] = FGA_ENTRY_MEAN | (uint32_t)group;
            sh.bias[at] = sh.tables.mean_bias[group];
            at = in_ring(at + 1);
        }
        write_records(first, listed, live, g, at, recorded + (before >> 12 & 0x3FF), emitted + (before >> 22));
        if (sh.tables.bias != nullptr) {
            write_biased_keys(first, listed, at);
        } else {
            write_keys<true>(first, listed, at);
        }
        recorded += total >> 12 & 0x3FF;
        emitted += total >> 22;
        hand_over(total & 0xFFF);
    }

    /* Names the next `count` summaries. */
    __device__ __forceinline__ void put_rests(int count, int flag)
    {
        while (count > 0) {
            int n = min(count, S::keys - pending);
            reserve(n);
#pragma unroll 1
            for (int i = threadIdx.x & 31; i < n; i += 32) {
                sh.ring[place_of(pending + i)] = FGA_ENTRY_REST | (uint32_t)(queued + i) % S::slots;
            }
            flags |= flag;
            queued += n;
            count -= n;
            hand_over(n);
        }
    }

    /* Names all summaries: in the tile after the last key at the earliest. */
    __device__ __forceinline__ void flush_rests()
    {
        if (emitted != queued && pending > 0) {
            pad();
        }
        put_rests(emitted - queued, TILE_LATE);
    }

    /* Before a scan: names those that will have been summed, and makes sure that there are slots for it. */
    __device__ __forceinline__ void put_known_rests()
    {
        if (tiles - known_tile >= S::stages) {
            put_rests(known_emitted - queued, 0);
            known_tile = tiles;
            known_emitted = emitted;
        }
        if (emitted - queued + (FGA_SCAN_KEYS >> a.group_shift) > S::slots) {
            flush_rests();
        }
    }

    /* ---- items -------------------------------------------------------------------------------------------------- */

    __device__ __forceinline__ int start_item(int n)
    {
        item t = item_of<S>(a, n);
        item_tables tables = tables_of(a, t);
        masked = t.mask_row >= 0;
        summaries = tables.count != nullptr;
        biased = tables.bias != nullptr || summaries || a.scale_log2 < 0;
        words = nullptr;
        if (masked && a.mask.bits != nullptr) {
            words = reinterpret_cast<const uint32_t *>(a.mask.bits + t.mask_row * a.mask_words);
        } else if (masked) {
            for (int i = 0; i < t.blocks; i++) {
                keep_runs(i, runs_of(a, t.mask_row + (S::grouped ? block_of(a, t, i) : 0)));
            }
        }
        __syncwarp();
        if ((threadIdx.x & 31) == 0) {
            sh.tables = tables;
            for (int i = 0; S::grouped && i < t.blocks; i++) {
                sh.blocks[i] = block_of(a, t, i);
            }
        }
        __syncwarp();
        return !masked && !t.live ? a.key_len : 0;
    }

    __device__ __forceinline__ void end_item(int first_tile)
    {
        if constexpr (S::sums) {
            flush_rests();
        }
        if (pending > 0 || tiles == first_tile) { /* an empty row has one tile, of nothing */
            pad();
        }
        reserve(S::keys);
        flags = TILE_END;
        hand_over(S::keys);
    }

    /* ---- several blocks at a time ------------------------------------------------------------------------------- */

    /* Which of the lane's 32 keys from `start` on each block lists: bits of the mask, not looked at before use. */
    __device__ __forceinline__ void load_words(const item &t, int start, uint32_t (&word)[FGA_SM90_GROUPED]) const
    {
#pragma unroll
        for (int i = 0; i < FGA_SM90_GROUPED; i++) {
            int first = start + 32 * (int)(threadIdx.x & 31);
            bool has = i < t.blocks && words != nullptr && first < a.key_len;
            word[i] = has ? __ldg(words + sh.blocks[i] * a.mask_words * 2 + (first >> a.tile_shift >> 5)) : 0;
        }
    }

    __device__ __forceinline__ uint32_t keys_of_block(const item &t, int i, int start, uint32_t word)
    {
        if (i >= t.blocks) {
            return 0;
        }
        if (!masked) {
            return block_is_live(a, sh.blocks[i]) ? 0xFFFFFFFFu : 0;
        }
        if (words != nullptr) {
            return fga_word_bits(word, start + 32 * (int)(threadIdx.x & 31), a.tile_shift);
        }
        row_runs runs = sh.runs[i];
        uint32_t keys = keys_of_runs(a, runs, start);
        keep_runs(i, runs);
        return keys;
    }

    /* Lists the keys that any block lists, and for each the blocks that do. */
    __device__ __forceinline__ void scan_group(int start, uint32_t listed, const uint32_t (&keys)[FGA_SM90_GROUPED])
    {
        int mine = __popc(listed), sum = sum_up_to_lane(mine), total = __shfl_sync(0xFFFFFFFFu, sum, 31);
        reserve(total);
        int first = start + 32 * (int)(threadIdx.x & 31), at = place_of(pending + sum - mine);
        const float *bias = sh.tables.bias;
        for (; listed != 0; listed &= listed - 1) {
            int bit = __ffs(listed) - 1;
            uint32_t e = (uint32_t)(first + bit), members = 0;
#pragma unroll
            for (int i = 0; i < FGA_SM90_GROUPED; i++) {
                members |= (keys[i] >> bit & 1) << i;
            }
            if (biased) {
                float b = bias != nullptr ? bias[e] * log2_e : 0.0f;
                e |= b == minus_infinity() ? FGA_ENTRY_DEAD : 0;
                sh.bias[at] = b;
            }
            sh.ring[at] = e;
            sh.members[at] = (uint8_t)members;
            at = in_ring(at + 1);
        }
        hand_over(total);
    }

    __device__ __forceinline__ void cut_group(int n)
    {
        item t = item_of<S>(a, n);
        int first_tile = tiles;
        start_item(n);
        biased = biased || a.scale_log2 <= 0; /* keys of others have -inf, which no factor may change */
        uint32_t ahead[FGA_SM90_GROUPED];
        load_words(t, 0, ahead);
        for (int start = 0; start < a.key_len; start += FGA_SCAN_KEYS) {
            uint32_t keys[FGA_SM90_GROUPED], any = 0, valid = valid_keys(a, start);
#pragma unroll
            for (int i = 0; i < FGA_SM90_GROUPED; i++) {
                keys[i] = keys_of_block(t, i, start, ahead[i]);
                any |= keys[i];
            }
            load_words(t, start + FGA_SCAN_KEYS, ahead);
            scan_group(start, any & valid, keys);
        }
        end_item(first_tile);
    }

    __device__ __forceinline__ void cut_item(int n)
    {
        if constexpr (S::grouped) {
            cut_group(n);
            return;
        }
        int start = start_item(n), first_tile = tiles;
        uint32_t word[ahead];
#pragma unroll
        for (int i = 0; i < ahead; i++) {
            word[i] = load_word(start + i * FGA_SCAN_KEYS);
        }
        for (; start < a.key_len; start += FGA_SCAN_KEYS) {
            uint32_t now = word[0];
#pragma unroll
            for (int i = 0; i + 1 < ahead; i++) {
                word[i] = word[i + 1];
            }
            word[ahead - 1] = load_word(start + ahead * FGA_SCAN_KEYS);
            uint32_t listed = listed_keys(start, now);
            if (S::sums && summaries) {
                float first_count = group_count(start + 32 * (int)(threadIdx.x & 31), 0);
                put_known_rests();
                scan_groups(start, listed, first_count);
            } else {
                scan(start, listed);
            }
        }
        end_item(first_tile);
    }
};

} // namespace fga
#endif
