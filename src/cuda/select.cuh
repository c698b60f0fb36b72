/* select.cuh - the best tiles of a row of scores as bits, by counting ranks; ties go to the lower tile
 * (docs/method.md, "Select").
 *
 * One thread block per row, which is read once: the upper halves of the ranks stay in shared memory, and are counted on
 * the way in, in a window of 2,048 below a guess of the largest; scores spread over far fewer. Where the cut falls on
 * the window's edge, windows below the largest are counted instead. Only tiles whose upper half is that of the cut are
 * looked at again, and only if not all of them are kept.
 */
#ifndef FGA_CUDA_SELECT_CUH
#define FGA_CUDA_SELECT_CUH

#include "cuda/rows.cuh"

namespace fga
{

enum { SELECT_BINS = 2048, SELECT_MOST_WARPS = 32 };

struct select_shared {
    int bins[SELECT_BINS];
    int ties[SELECT_MOST_WARPS];
    int guess;
    int most, gated;      /* the largest upper half among the free; how many are +inf */
    int digit, above, at; /* of a search: the digit of the cut, how many lie above it, how many on it */
    int kept, missing;
    alignas(16) uint16_t high[8]; /* [tiles, rounded up to 64], where cached */
};

struct select_row {
    const float *score;
    const uint16_t *high;
    int entries;
    bool cached, aligned; /* aligned: scores can be read four at a time */
    int begin[2], end[2]; /* free tiles */
};

/* As fga_rank_of: -0 equals 0, and NaN comes last. */
__device__ __forceinline__ uint32_t rank_of(float score)
{
    uint32_t bits = __float_as_uint(score), magnitude = bits & 0x7fffffffu;
    uint32_t ordered = bits >> 31 ? ~bits : bits | 0x80000000u;
    ordered = magnitude == 0 ? 0x80000000u : ordered;
    return magnitude > 0x7f800000u ? 0 : ordered;
}

__device__ __forceinline__ float tile_score(const float *score, int entries, int tile)
{
    const float *from = score + (int64_t)tile * entries;
    float sum = from[0];
    for (int i = 1; i < entries; i++) {
        sum += from[i];
    }
    return sum;
}

__device__ __forceinline__ bool is_free(const select_row &r, int tile)
{
    return (tile >= r.begin[0] && tile < r.end[0]) || (tile >= r.begin[1] && tile < r.end[1]);
}

__device__ __forceinline__ uint32_t full_rank(const select_row &r, int tile)
{
    return rank_of(tile_score(r.score, r.entries, tile));
}

__device__ __forceinline__ int upper_rank(const select_row &r, int tile)
{
    return r.cached ? r.high[tile] : (int)(full_rank(r, tile) >> 16);
}

template <typename Body> __device__ __forceinline__ void each_free(const select_row &r, const Body &body)
{
    for (int i = 0; i < 2; i++) {
        for (int tile = r.begin[i] + (int)threadIdx.x; tile < r.end[i]; tile += (int)blockDim.x) {
            body(tile);
        }
    }
}

/* body(tile, rank). */
template <typename Body> __device__ __forceinline__ void each_score(const select_row &r, const Body &body)
{
    if (!r.aligned) {
        each_free(r, [&](int tile) { body(tile, full_rank(r, tile)); });
        return;
    }
    for (int i = 0; i < 2; i++) {
        int begin = r.begin[i], end = r.end[i];
#pragma unroll 2
        for (int quad = (begin & ~3) + 4 * (int)threadIdx.x; quad < end; quad += 4 * (int)blockDim.x) {
            float4 x = __ldg(reinterpret_cast<const float4 *>(r.score + quad));
            const float score[4] = {x.x, x.y, x.z, x.w};
#pragma unroll
            for (int j = 0; j < 4; j++) {
                if (quad + j >= begin && quad + j < end) {
                    body(quad + j, rank_of(score[j]));
                }
            }
        }
    }
}

/* The lane at which a running sum over lanes, `sum` each, reaches `wanted`, and what lies before it; -1: none. */
__device__ __forceinline__ int crossing_lane(int sum, int wanted, int *before, int *all)
{
    int lane = threadIdx.x & 31, running = sum;
    for (int distance = 1; distance < 32; distance *= 2) {
        int other = __shfl_up_sync(0xFFFFFFFFu, running, distance);
        running += lane >= distance ? other : 0;
    }
    *all = __shfl_sync(0xFFFFFFFFu, running, 31);
    uint32_t reached = __ballot_sync(0xFFFFFFFFu, running >= wanted);
    int first = __ffs(reached) - 1;
    *before = __shfl_sync(0xFFFFFFFFu, running - sum, first & 31);
    return first;
}

/* With bins filled: the highest bin at which `wanted` are reached. One warp does it; false when there are too few, and
 * then sh.above is how many there are. */
__device__ __forceinline__ bool find_bin(select_shared &sh, int bins, int wanted)
{
    __syncthreads();
    if (threadIdx.x < 32) {
        int lane = threadIdx.x, each = bins / 32, sum = 0, before, all;
        const int *mine = sh.bins + bins - (lane + 1) * each; /* lane 0 has the highest */
        for (int i = 0; i < each; i++) {
            sum += mine[(i + lane) & (each - 1)]; /* lanes at different banks */
        }
        int first = crossing_lane(sum, wanted, &before, &all), digit = -1, at = 0;
        if (first >= 0) {
            int share = (each + 31) / 32, top = bins - first * each - 1 - lane * share; /* now within that lane's */
            sum = 0;
            for (int i = 0; i < share && lane * share < each; i++) {
                sum += sh.bins[top - i];
            }
            int inner = before, above, rest;
            int second = crossing_lane(sum, wanted - inner, &above, &rest);
            digit = bins - first * each - 1 - second * share;
            before = inner + above;
            while (before + sh.bins[digit] < wanted) {
                before += sh.bins[digit--];
            }
            at = sh.bins[digit];
        }
        if (lane == 0) {
            sh.digit = digit;
            sh.above = first >= 0 ? before : all;
            sh.at = at;
        }
    }
    __syncthreads();
    return sh.digit >= 0;
}

__device__ __forceinline__ void clear_bins(select_shared &sh, int bins)
{
    __syncthreads();
    for (int i = threadIdx.x; i < bins; i += (int)blockDim.x) {
        sh.bins[i] = 0;
    }
    __syncthreads();
}

/* Of the free tiles: those with a rank above `cut` are kept, and of those at it the first `ties` of `equal`. */
struct select_cut {
    uint32_t cut;
    int ties, equal;
};

/* Eight bits of the lower half at `shift`, among the free tiles whose rank agrees with c.cut above them. */
__device__ __forceinline__ void refine(const select_row &r, select_shared &sh, int shift, select_cut &c)
{
    clear_bins(sh, 256);
    uint32_t known = 0xFFFFFFFFu << (shift + 8);
    each_free(r, [&](int tile) {
        if ((uint32_t)upper_rank(r, tile) == c.cut >> 16) {
            uint32_t rank = full_rank(r, tile);
            if ((rank & known) == (c.cut & known)) {
                atomicAdd(&sh.bins[rank >> shift & 255], 1);
            }
        }
    });
    find_bin(sh, 256, c.ties);
    c.cut |= (uint32_t)sh.digit << shift;
    c.ties -= sh.above;
    c.equal = sh.at;
}

/* The upper half of the cut by windows below the largest. */
__device__ __forceinline__ int find_upper(const select_row &r, select_shared &sh, int *wanted)
{
    int top = sh.most + 1, base;
    while (true) {
        base = max(0, top - SELECT_BINS);
        clear_bins(sh, SELECT_BINS);
        each_free(r, [&](int tile) {
            int high = upper_rank(r, tile);
            if (high >= base && high < top) {
                atomicAdd(&sh.bins[high - base], 1);
            }
        });
        if (find_bin(sh, SELECT_BINS, *wanted)) {
            return base + sh.digit;
        }
        *wanted -= sh.above;
        top = base;
    }
}

/* After find_bin for `wanted`, at least 1 and fewer than there are free tiles, in the window from `base` on in which
 * survey counted. */
__device__ __forceinline__ select_cut find_cut(const select_row &r, select_shared &sh, int base, int wanted)
{
    bool below = sh.digit == 0 && base > 0, above = sh.digit == SELECT_BINS - 1 && sh.most >= base + SELECT_BINS;
    int high = below || above ? find_upper(r, sh, &wanted) : base + sh.digit;
    select_cut c = {(uint32_t)high << 16, wanted - sh.above, sh.at};
    if (c.ties < c.equal) {
        refine(r, sh, 8, c);
        if (c.ties < c.equal) {
            refine(r, sh, 0, c);
        }
    }
    return c;
}

/* ---- a row ------------------------------------------------------------------------------------------------------ */

__device__ __forceinline__ uint32_t spans_bits(const fga_gpu_spans &s, int first)
{
    uint32_t bits = 0;
    for (int i = 0; i < 3; i++) {
        bits |= i < s.count ? fga_interval_bits(s.begin[i], s.end[i], first) : 0;
    }
    return bits;
}

/* What holds whatever the scores. */
struct select_forced {
    bool empty, everything;
    int near_begin, near_end;
};

/* What a row keeps beside that. */
struct select_choice {
    select_forced forced;
    bool open, all; /* some tiles are free; all of those are kept */
    int free;
    select_cut cut;
    int ties_before; /* of equal tiles, those in words of lower warps */
};

__device__ __forceinline__ select_forced forced_of(const fga_gpu_select &a, int u, select_row &r)
{
    select_forced f;
    int begin = u * a.block_rows, end = begin + a.block_rows;
    f.empty = count_spans(a.query_valid, begin, end) == 0;
    f.everything = !f.empty && (a.everything || count_spans(a.text_queries, begin, end) > 0);
    int video_begin = a.video_tiles.count > 0 ? a.video_tiles.begin[0] : 0;
    int video_end = a.video_tiles.count > 0 ? a.video_tiles.end[0] : 0;
    f.near_begin = min(video_end, max(video_begin, u - a.neighbours + 1));
    f.near_end = max(f.near_begin, min(video_end, u + a.neighbours));
    r.begin[0] = video_begin;
    r.end[0] = f.near_begin < f.near_end ? f.near_begin : video_end;
    r.begin[1] = f.near_end;
    r.end[1] = f.near_begin < f.near_end ? video_end : f.near_end;
    return f;
}

/* An octave above the largest of a few scores, less the window. */
__device__ __forceinline__ int guess_base(const select_row &r, select_shared &sh)
{
    int part = r.begin[0] < r.end[0] ? 0 : 1, count = r.end[part] - r.begin[part], most = 0;
    if (count > 0) {
        int tile = r.begin[part] + (int)((int64_t)threadIdx.x * count / blockDim.x);
        most = (int)(full_rank(r, tile) >> 16);
    }
    for (int distance = 16; distance > 0; distance /= 2) {
        most = max(most, __shfl_xor_sync(0xFFFFFFFFu, most, distance));
    }
    if ((threadIdx.x & 31) == 0) {
        atomicMax(&sh.guess, most);
    }
    __syncthreads();
    return max(0, sh.guess - (SELECT_BINS - 128));
}

__device__ __forceinline__ void count_in_window(select_shared &sh, int base, uint32_t rank)
{
    atomicAdd(&sh.bins[min(max((int)(rank >> 16) - base, 0), SELECT_BINS - 1)], 1);
}

/* Reads the row: fills the cache, counts in the window from base on, and finds the largest upper half. */
__device__ __forceinline__ void survey(const select_row &r, uint16_t *high, select_shared &sh, int base)
{
    int most = 0, gated = 0;
    clear_bins(sh, SELECT_BINS);
    each_score(r, [&](int tile, uint32_t rank) {
        int upper = (int)(rank >> 16);
        if (r.cached) {
            high[tile] = (uint16_t)upper;
        }
        most = max(most, upper);
        gated += rank == 0xFF800000u; /* +inf */
        count_in_window(sh, base, rank);
    });
    for (int distance = 16; distance > 0; distance /= 2) {
        most = max(most, __shfl_xor_sync(0xFFFFFFFFu, most, distance));
    }
    if ((threadIdx.x & 31) == 0) {
        atomicMax(&sh.most, most);
    }
    if (gated > 0) {
        atomicAdd(&sh.gated, gated);
    }
    __syncthreads();
}

/* Bits of 32 tiles, lane by lane, of those that a cut keeps; *equal: those at it. */
__device__ __forceinline__ uint32_t above_cut(const select_row &r, const select_cut &c, int first, bool all,
                                              uint32_t *equal)
{
    int tile = first + (int)(threadIdx.x & 31);
    bool above = false, at = false;
    if (is_free(r, tile)) {
        uint32_t high = all ? 0 : (uint32_t)upper_rank(r, tile);
        above = all || high > c.cut >> 16;
        if (!all && high == c.cut >> 16) {
            uint32_t rank = full_rank(r, tile);
            above = rank > c.cut;
            at = rank == c.cut;
        }
    }
    *equal = __ballot_sync(0xFFFFFFFFu, at);
    return __ballot_sync(0xFFFFFFFFu, above);
}

/* The lowest `count` set bits. */
__device__ __forceinline__ uint32_t lowest_bits(uint32_t bits, int count)
{
    uint32_t left = bits;
    for (; count > 0 && left != 0; count--) {
        left &= left - 1;
    }
    return bits & ~left;
}

/* The 32-bit words of the row that this warp writes. */
__device__ __forceinline__ int warp_words(const fga_gpu_select &a, int *first)
{
    int words = 2 * a.words, warps = blockDim.x / 32, each = (words + warps - 1) / warps;
    *first = min(words, (int)threadIdx.x / 32 * each);
    return min(words, *first + each);
}

/* How many ties lie in the words of lower warps; only asked where not all are kept. */
__device__ __forceinline__ int ties_before(const fga_gpu_select &a, const select_row &r, const select_cut &c,
                                           select_shared &sh)
{
    int warp = threadIdx.x / 32, first, last = warp_words(a, &first), mine = 0, before = 0;
    for (int word = first; word < last; word++) {
        uint32_t equal;
        above_cut(r, c, word * 32, false, &equal);
        mine += __popc(equal);
    }
    sh.ties[warp] = mine;
    __syncthreads();
    for (int i = 0; i < warp; i++) {
        before += sh.ties[i];
    }
    return before;
}

/* Adds the forced tiles, drops what has no valid key, and counts. */
__device__ __forceinline__ uint32_t finish_word(const fga_gpu_select &a, const select_forced &f, int word,
                                                uint32_t chosen, int *kept, int *missing)
{
    if (!f.empty) {
        chosen |= spans_bits(a.text_tiles, word * 32) | fga_interval_bits(f.near_begin, f.near_end, word * 32);
    }
    chosen &= spans_bits(a.live, word * 32);
    *kept += __popc(chosen);
    for (int i = 0; i < a.partial_count; i++) {
        bool here = a.partial_tile[i] >> 5 == word && (chosen >> (a.partial_tile[i] & 31) & 1) != 0;
        *missing += here ? a.partial_missing[i] : 0;
    }
    return chosen;
}

/* One thread's word of what the cut keeps, where that is every tile on it. Lanes go through their 64 bytes in different
 * orders, so that eight of them meet no bank twice. */
__device__ __forceinline__ uint32_t word_above(const select_row &r, const select_cut &c, int word)
{
    uint32_t above = 0, on = 0, cut = c.cut >> 16;
    const uint4 *from = reinterpret_cast<const uint4 *>(r.high + word * 32);
#pragma unroll
    for (int i = 0; i < 4; i++) {
        int part = (i + ((int)threadIdx.x >> 1)) & 3;
        uint4 x = from[part];
        const uint32_t pairs[4] = {x.x, x.y, x.z, x.w};
        uint32_t over = 0, at = 0;
#pragma unroll
        for (int j = 0; j < 4; j++) {
            uint32_t low = pairs[j] & 0xFFFF, high = pairs[j] >> 16;
            over |= (uint32_t)(low > cut) << (2 * j) | (uint32_t)(high > cut) << (2 * j + 1);
            at |= (uint32_t)(low == cut) << (2 * j) | (uint32_t)(high == cut) << (2 * j + 1);
        }
        above |= over << (8 * part);
        on |= at << (8 * part);
    }
    uint32_t free = 0;
    for (int i = 0; i < 2; i++) {
        free |= fga_interval_bits(r.begin[i], r.end[i], word * 32);
    }
    if ((c.cut & 0xFFFF) == 0) { /* not refined, or everything on it is kept anyway */
        return free & (above | on);
    }
    for (on &= free; on != 0; on &= on - 1) {
        int bit = __ffs(on) - 1;
        above |= (uint32_t)(full_rank(r, word * 32 + bit) >= c.cut) << bit;
    }
    return free & above;
}

/* What a row keeps as bits, and how many keys those are. */
__device__ __forceinline__ void write_row(const fga_gpu_select &a, const select_row &r, select_shared &sh,
                                          const select_choice &s, int64_t row)
{
    int kept = 0, missing = 0, before = s.ties_before;
    uint32_t *bits = reinterpret_cast<uint32_t *>(a.bits + row * a.words);
    if (s.open && !s.all && r.cached && s.cut.ties == s.cut.equal) {
        for (int word = threadIdx.x; word < 2 * a.words; word += (int)blockDim.x) {
            bits[word] = finish_word(a, s.forced, word, word_above(r, s.cut, word), &kept, &missing);
        }
        for (int distance = 16; distance > 0; distance /= 2) {
            kept += __shfl_xor_sync(0xFFFFFFFFu, kept, distance);
            missing += __shfl_xor_sync(0xFFFFFFFFu, missing, distance);
        }
    } else {
        int first, last = warp_words(a, &first);
        for (int word = first; word < last; word++) {
            uint32_t chosen = s.forced.everything ? 0xFFFFFFFFu : 0;
            if (s.open) {
                uint32_t equal;
                chosen = above_cut(r, s.cut, word * 32, s.all, &equal);
                chosen |= lowest_bits(equal, s.cut.ties - before);
                before += __popc(equal);
            }
            chosen = finish_word(a, s.forced, word, chosen, &kept, &missing);
            if ((threadIdx.x & 31) == 0) {
                bits[word] = chosen;
            }
        }
    }
    if ((threadIdx.x & 31) == 0) {
        atomicAdd(&sh.kept, kept);
        atomicAdd(&sh.missing, missing);
    }
    __syncthreads();
    if (threadIdx.x == 0) {
        a.row_keys[row] = sh.kept * a.tile_keys - sh.missing;
    }
}

/* The same for all threads; each warp's part goes to parts[warp], in shared memory. The order hangs on the number of
 * threads alone. */
__device__ __forceinline__ double block_sum(double x, double *parts)
{
    for (int distance = 16; distance > 0; distance /= 2) {
        x += __shfl_xor_sync(0xFFFFFFFFu, x, distance);
    }
    __syncthreads();
    if ((threadIdx.x & 31) == 0) {
        parts[threadIdx.x / 32] = x;
    }
    __syncthreads();
    double sum = 0;
    for (int warp = 0; warp < (int)blockDim.x / 32; warp++) {
        sum += parts[warp];
    }
    return sum;
}

/* Block u of a head, whose scores are the place-th row of them. */
__device__ __forceinline__ select_choice start_row(const fga_gpu_select &a, int u, int64_t place, select_shared &sh,
                                                   select_row &r)
{
    if (threadIdx.x == 0) {
        sh.guess = sh.most = sh.gated = sh.kept = sh.missing = 0;
    }
    __syncthreads();
    r = {a.score + place * a.score_stride, sh.high, a.entries, a.cached != 0, false, {0, 0}, {0, 0}};
    r.aligned = a.entries == 1 && a.score_stride % 4 == 0 && ((uint64_t)r.score & 15) == 0;
    select_choice s = {forced_of(a, u, r), false, false, 0, {0, 0, 0}, 0};
    s.open = !s.forced.empty && !s.forced.everything;
    s.free = r.end[0] - r.begin[0] + max(0, r.end[1] - r.begin[1]);
    return s;
}

/* A thread block's query block, in a slab. */
struct slab_place {
    int head, u;
    bool inside; /* not past the head's last */
};

__device__ __forceinline__ slab_place slab_place_of(const fga_gpu_select &a)
{
    int tile = a.tile_first + (int)blockIdx.x / a.tile_blocks, head = tile / a.head_tiles;
    int u = (tile - head * a.head_tiles) * a.tile_blocks + (int)blockIdx.x % a.tile_blocks;
    return {head, u, u < a.blocks};
}

__device__ __forceinline__ void select_row_of(const fga_gpu_select &a)
{
    extern __shared__ __align__(16) unsigned char memory[];
    auto &sh = *reinterpret_cast<select_shared *>(memory);
    slab_place at = slab_place_of(a);
    if (!at.inside || at.head < a.head_first || at.head >= a.head_end) {
        return;
    }
    select_row r;
    select_choice s = start_row(a, at.u, blockIdx.x, sh, r);
    if (s.open) {
        int base = guess_base(r, sh);
        survey(r, sh.high, sh, base);
        int wanted = sh.gated + max(1, a.keep - (a.live_tiles - s.free) - sh.gated);
        s.all = wanted >= s.free;
        if (!s.all) {
            find_bin(sh, SELECT_BINS, wanted); /* all are in some bin */
            s.cut = find_cut(r, sh, base, wanted);
            s.ties_before = s.cut.ties < s.cut.equal ? ties_before(a, r, s.cut, sh) : 0;
        }
    }
    write_row(a, r, sh, s, (int64_t)at.head * a.blocks + at.u);
}

/* ---- all scores ------------------------------------------------------------------------------------------------- */

__device__ __forceinline__ void write_scores(const fga_gpu_select &a)
{
    slab_place at = slab_place_of(a);
    if (!at.inside) {
        return;
    }
    const float *score = a.score + (int64_t)blockIdx.x * a.score_stride;
    float *to = a.tile_score + ((int64_t)at.head * a.blocks + at.u) * a.tiles;
    float base = a.base != nullptr ? a.base[(int64_t)at.head * a.base_rows + at.u * a.base_subs] : 0.0f;
    bool none = base == -minus_infinity(); /* no query asks, and there is nothing to take the logarithm of */
    for (int v = threadIdx.x; v < a.tiles; v += (int)blockDim.x) {
        float sum = tile_score(score, a.entries, v);
        to[v] = a.base != nullptr ? (none ? 0.0f : (log2f(sum) + base) * ln_2) : sum;
    }
}

/* Whether a valid key of the group is not kept. */
__device__ __forceinline__ bool leaves_rest(const fga_gpu_rests &a, const uint32_t *bits, int group)
{
    int first = group * a.group / a.tile_keys, end = first + max(1, a.group / a.tile_keys);
    if (a.tile_keys > a.group) {
        return (bits[first >> 5] >> (first & 31) & 1) == 0 &&
               count_spans(a.key_valid, group * a.group, (group + 1) * a.group) > 0;
    }
    uint32_t left = 0;
    for (int word = first & ~31; word < end && word < a.tiles; word += 32) {
        left |= fga_interval_bits(first, end, word) & spans_bits(a.live, word) & ~bits[word >> 5];
    }
    return left != 0;
}

/* One warp per row. */
__device__ __forceinline__ void count_rests(const fga_gpu_rests &a)
{
    int row = (int)((blockIdx.x * blockDim.x + threadIdx.x) / 32), u = row % a.blocks, count = 0;
    if (row >= a.rows) {
        return;
    }
    const uint32_t *bits = reinterpret_cast<const uint32_t *>(a.bits + (int64_t)row * a.words);
    for (int group = threadIdx.x & 31; group < a.groups; group += 32) {
        count += leaves_rest(a, bits, group);
    }
    for (int distance = 16; distance > 0; distance /= 2) {
        count += __shfl_xor_sync(0xFFFFFFFFu, count, distance);
    }
    if ((threadIdx.x & 31) == 0) {
        unsigned long long queries = count_spans(a.query_valid, u * a.block_rows, (u + 1) * a.block_rows);
        atomicAdd(reinterpret_cast<unsigned long long *>(a.pairs), queries * count);
    }
}

} // namespace fga
#endif
