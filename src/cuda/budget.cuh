/* budget.cuh - one budget for all rows and heads of a batch item: a floor for each row, the rest to the best scores
 * (docs/method.md, "Select").
 *
 * The scores of all rows are read twice. The first time, a thread block per row, for what is forced and the row's
 * floor, and to count the ranks of what is left open, in a window of 2,048 upper halves about the mean share. That says
 * the upper half of the cut. The second time what lies above it is kept, and the few tiles on it are listed. Later
 * rounds look for the lower half among those alone, then for ties. A row with more of them than its list takes is read
 * again instead: where scores are few values, or the cut lies outside the window. Only integers are added across rows,
 * so that the result does not depend on the schedule.
 */
#ifndef FGA_CUDA_BUDGET_CUH
#define FGA_CUDA_BUDGET_CUH

#include "cuda/select.cuh"

namespace fga
{

typedef unsigned long long count64;

enum { BUDGET_DIGITS = FGA_BUDGET_DIGITS, BUDGET_DIGIT_BITS = 11, BUDGET_AHEAD = 8 };

static_assert((int)BUDGET_DIGITS == (int)SELECT_BINS && BUDGET_DIGITS == 1 << BUDGET_DIGIT_BITS, "one is the other");

struct budget_shared {
    int bins[BUDGET_DIGITS];
    int near;
    uint64_t low, above;
    count64 parts[32];
};

/* A row of an item. */
struct budget_row {
    int64_t row;
    int u;
    fga_gpu_budget_row known;
    const float *score;
    uint32_t *bits, *near; /* near: the list */
};

/* The n-th row of the heads of the launch. Scores lie a row tile of query blocks after the other. */
__device__ __forceinline__ budget_row budget_row_at(const fga_gpu_budget &b, int n)
{
    const fga_gpu_select &a = b.select;
    int head = a.head_first + n / a.blocks, u = n % a.blocks;
    budget_row r;
    r.row = (int64_t)head * a.blocks + u;
    r.u = u;
    r.known = b.rows[r.row];
    r.score = a.score + ((int64_t)head * a.head_tiles * a.tile_blocks + u) * a.score_stride;
    r.bits = reinterpret_cast<uint32_t *>(a.bits + r.row * a.words);
    r.near = b.near + r.row * b.near_room;
    return r;
}

__device__ __forceinline__ int budget_rows(const fga_gpu_budget &b)
{
    return (b.select.head_end - b.select.head_first) * b.select.blocks;
}

/* body(row) by whole warps. */
template <typename Body> __device__ __forceinline__ void each_budget_row(const fga_gpu_budget &b, const Body &body)
{
    int warps = (int)blockDim.x / 32, rows = budget_rows(b);
    for (int n = (int)blockIdx.x * warps + (int)threadIdx.x / 32; n < rows; n += (int)gridDim.x * warps) {
        body(budget_row_at(b, n));
    }
}

__device__ __forceinline__ int warp_sum(int x)
{
    for (int distance = 16; distance > 0; distance /= 2) {
        x += __shfl_xor_sync(0xFFFFFFFFu, x, distance);
    }
    return x;
}

/* ---- shares -------------------------------------------------------------------------------------------------------
 */

/* As fga_score_of. */
__device__ __forceinline__ float score_of(uint32_t rank)
{
    return __uint_as_float(rank >> 31 ? rank & 0x7fffffffu : ~rank);
}

/* What rows are compared by. Where scores count as they are, sum is 1 and this their rank. */
__device__ __forceinline__ uint32_t share_rank(const fga_gpu_budget &b, float score, double sum)
{
    return rank_of(b.shares ? (float)((double)score / sum) : score);
}

/* The lowest rank of a score whose share has at least this rank, or what is above all: shares rise with scores, so that
 * hardly any need be divided. */
__device__ __forceinline__ uint64_t lowest_from(const fga_gpu_budget &b, uint64_t rank, double sum)
{
    uint32_t low = 0x007FFFFFu, high = 0xFF800001u; /* from -inf to beyond +inf */
    if (rank == 0 || !b.shares) {
        return rank;
    }
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        bool reaches = share_rank(b, score_of(middle), sum) >= rank;
        low = reaches ? low : middle + 1;
        high = reaches ? middle : high;
    }
    return low;
}

/* Over all tiles with a valid key but the gated ones, which have no mass; 1 where it is not above 0. Threads add tiles
 * in an order that hangs on the row's length alone. */
__device__ __forceinline__ double row_sum(const fga_gpu_select &a, const select_row &r, select_shared &sh)
{
    double sum = 0;
    for (int i = 0; i < a.live.count; i++) {
        for (int tile = a.live.begin[i] + (int)threadIdx.x; tile < a.live.end[i]; tile += (int)blockDim.x) {
            float score = tile_score(r.score, r.entries, tile);
            sum += rank_of(score) == 0xFF800000u ? 0.0 : (double)score;
        }
    }
    sum = block_sum(sum, reinterpret_cast<double *>(sh.bins));
    return sum > 0 ? sum : 1;
}

/* ---- the floor ----------------------------------------------------------------------------------------------------
 */

/* With the row's free tiles in bins, and find_bin done for the `kept` best: adds the others to the item's. */
__device__ __forceinline__ void add_open(const fga_gpu_budget &b, const select_shared &sh, int kept)
{
    count64 *digits = reinterpret_cast<count64 *>(b.state->digits);
    for (int bin = threadIdx.x; bin <= sh.digit; bin += (int)blockDim.x) {
        int open = bin < sh.digit ? sh.bins[bin] : sh.above + sh.at - kept;
        if (open > 0) {
            atomicAdd(&digits[bin], (count64)open);
        }
    }
}

/* Counts shares of the free tiles: the best by score are the best by share too. */
__device__ __forceinline__ void count_shares(const fga_gpu_budget &b, const select_row &r, select_shared &sh,
                                             double sum)
{
    clear_bins(sh, SELECT_BINS);
    each_score(r, [&](int, uint32_t rank) { count_in_window(sh, b.base, share_rank(b, score_of(rank), sum)); });
}

/* A thread block's row: what is forced, the floor, and what is left open. */
__device__ __forceinline__ void begin_budget(const fga_gpu_budget &b)
{
    extern __shared__ __align__(16) unsigned char memory[];
    auto &sh = *reinterpret_cast<select_shared *>(memory);
    const fga_gpu_select &a = b.select;
    int head = a.head_first + (int)blockIdx.x / a.blocks, u = (int)blockIdx.x % a.blocks, wanted = 0;
    int64_t row = (int64_t)head * a.blocks + u, place = (int64_t)head * a.head_tiles * a.tile_blocks + u;
    select_row r;
    select_choice s = start_row(a, u, place, sh, r);
    if (s.open) {
        int base = b.shares ? guess_base(r, sh) : b.base;
        survey(r, sh.high, sh, base);
        wanted = sh.gated + a.keep;
        s.all = wanted >= s.free;
        if (!s.all) {
            find_bin(sh, SELECT_BINS, wanted);
            if (!b.shares) {
                add_open(b, sh, wanted);
            }
            s.cut = find_cut(r, sh, base, wanted);
            s.ties_before = s.cut.ties < s.cut.equal ? ties_before(a, r, s.cut, sh) : 0;
        }
    }
    write_row(a, r, sh, s, row);
    fga_gpu_budget_row known = {1, s.cut.cut, s.open && !s.all ? s.free - wanted : 0, 0, 0, 0};
    if (b.shares && known.open > 0) {
        known.sum = row_sum(a, r, sh);
        known.most = share_rank(b, score_of(known.most), known.sum);
        count_shares(b, r, sh, known.sum);
        find_bin(sh, SELECT_BINS, wanted);
        add_open(b, sh, wanted);
    }
    if (threadIdx.x == 0) {
        b.rows[row] = known;
        if (s.open) {
            atomicAdd(reinterpret_cast<count64 *>(&b.state->open), (count64)known.open);
            atomicAdd(reinterpret_cast<count64 *>(&b.state->kept), (count64)(a.live_tiles - known.open));
        }
    }
}

/* ---- the cut: one warp ------------------------------------------------------------------------------------------ */

/* The digit, from the highest down, at which `wanted` are reached, and how many lie above it. All are in some digit. */
__device__ __forceinline__ int find_digit(const count64 *digits, count64 wanted, count64 *before)
{
    constexpr int each = BUDGET_DIGITS / 32;
    int lane = threadIdx.x & 31, digit = BUDGET_DIGITS - 1 - lane * each; /* lane 0 has the highest */
    count64 sum = 0;
#pragma unroll 16
    for (int i = 0; i < each; i++) {
        sum += digits[digit - i];
    }
    count64 running = sum;
    for (int distance = 1; distance < 32; distance *= 2) {
        count64 other = __shfl_up_sync(0xFFFFFFFFu, running, distance);
        running += lane >= distance ? other : 0;
    }
    int first = __ffs(__ballot_sync(0xFFFFFFFFu, running >= wanted)) - 1;
    count64 above = running - sum;
    if (lane == first) {
        while (above + digits[digit] < wanted) {
            above += digits[digit--];
        }
    }
    *before = __shfl_sync(0xFFFFFFFFu, above, first);
    return __shfl_sync(0xFFFFFFFFu, digit, first);
}

__device__ __forceinline__ void set_range(fga_gpu_budget_state &s, uint64_t low, uint64_t above, int64_t left,
                                          int shift)
{
    __syncwarp(); /* everybody has read what was there */
    for (int i = threadIdx.x; i < BUDGET_DIGITS; i += 32) {
        s.digits[i] = 0;
    }
    if (threadIdx.x == 0) {
        s.low = low;
        s.above = above;
        s.left = left;
        s.shift = shift;
    }
}

/* From the digits in the window: its edges stand for all that lies beyond them. */
__device__ __forceinline__ void start_search(const fga_gpu_budget &b)
{
    fga_gpu_budget_state &s = *b.state;
    int64_t left = b.tiles - (int64_t)s.kept, open = (int64_t)s.open;
    if (left <= 0 || left >= open) { /* nothing more, or everything */
        uint64_t above = left <= 0 ? (uint64_t)1 << 32 : 0;
        set_range(s, above, above, 0, -1);
        return;
    }
    count64 before;
    int digit = find_digit(reinterpret_cast<const count64 *>(s.digits), (count64)left, &before);
    bool last = digit == BUDGET_DIGITS - 1, first = digit == 0;
    uint64_t low = first ? 0 : (uint64_t)(b.base + digit) << 16;
    uint64_t above = last ? (uint64_t)1 << 32 : (uint64_t)(b.base + digit + 1) << 16;
    set_range(s, low, above, left - (int64_t)before, first || last ? 21 : 16 - BUDGET_DIGIT_BITS);
}

__device__ __forceinline__ void go_on_searching(const fga_gpu_budget &b)
{
    fga_gpu_budget_state &s = *b.state;
    int shift = s.shift;
    if (shift < 0) {
        return;
    }
    count64 before;
    int digit = find_digit(reinterpret_cast<const count64 *>(s.digits), (count64)s.left, &before);
    uint64_t low = s.low + ((uint64_t)digit << shift), above = low + ((uint64_t)1 << shift);
    int next = shift == 0 ? -1 : max(0, shift - BUDGET_DIGIT_BITS);
    set_range(s, low, above < s.above ? above : s.above, s.left - (int64_t)before, next);
}

/* ---- tiles near it ------------------------------------------------------------------------------------------------
 */

/* Of 32 tiles, those that may be kept and are not yet. */
__device__ __forceinline__ uint32_t open_tiles(const fga_gpu_select &a, int word, uint32_t kept)
{
    return a.video_tiles.count > 0
               ? fga_interval_bits(a.video_tiles.begin[0], a.video_tiles.end[0], (int64_t)word * 32) & ~kept
               : 0;
}

__device__ __forceinline__ void flush_digits(const fga_gpu_budget &b, const budget_shared &sh)
{
    __syncthreads();
    for (int i = threadIdx.x; i < BUDGET_DIGITS; i += (int)blockDim.x) {
        if (sh.bins[i] > 0) {
            atomicAdd(reinterpret_cast<count64 *>(&b.state->digits[i]), (count64)sh.bins[i]);
        }
    }
}

/* A warp's 32 tiles, of which `kept` are kept: keeps those above the range, lists and counts those in it. */
__device__ __forceinline__ void split_word(const fga_gpu_budget &b, const budget_row &r, budget_shared &sh, int word,
                                           uint32_t kept, float score)
{
    int lane = threadIdx.x & 31;
    uint32_t rank = rank_of(score);
    bool open = (open_tiles(b.select, word, kept) >> lane & 1) != 0;
    uint32_t above = __ballot_sync(0xFFFFFFFFu, open && rank >= sh.above);
    uint32_t within = __ballot_sync(0xFFFFFFFFu, open && rank >= sh.low && rank < sh.above);
    if (above != 0 && lane == 0) {
        r.bits[word] = kept | above;
    }
    if (within == 0) {
        return;
    }
    int place = lane == 0 ? atomicAdd(&sh.near, __popc(within)) : 0;
    place = __shfl_sync(0xFFFFFFFFu, place, 0) + __popc(within & ((1u << lane) - 1));
    if ((within >> lane & 1) != 0) {
        uint32_t digit = (uint32_t)(share_rank(b, score, r.known.sum) - b.state->low) >> b.state->shift;
        atomicAdd(&sh.bins[digit], 1);
        if (place < b.near_room) {
            r.near[place] = word * 32 + lane;
        }
    }
}

/* A thread block's row, when the range of the cut is first known. */
__device__ __forceinline__ void split_row(const fga_gpu_budget &b)
{
    extern __shared__ __align__(16) unsigned char memory[];
    auto &sh = *reinterpret_cast<budget_shared *>(memory);
    const fga_gpu_select &a = b.select;
    budget_row r = budget_row_at(b, blockIdx.x);
    if (r.known.open == 0 || r.known.most < b.state->low) {
        return;
    }
    for (int i = threadIdx.x; i < BUDGET_DIGITS; i += (int)blockDim.x) {
        sh.bins[i] = 0;
    }
    if (threadIdx.x == 0) {
        sh.near = 0;
        sh.low = lowest_from(b, b.state->low, r.known.sum);
    } else if (threadIdx.x == 32) {
        sh.above = lowest_from(b, b.state->above, r.known.sum);
    }
    __syncthreads();
    int words = 2 * a.words, step = (int)blockDim.x / 32 * BUDGET_AHEAD, lane = threadIdx.x & 31;
    for (int first = (int)threadIdx.x / 32 * BUDGET_AHEAD; first < words; first += step) {
        float score[BUDGET_AHEAD];
        uint32_t kept[BUDGET_AHEAD];
#pragma unroll
        for (int i = 0; i < BUDGET_AHEAD; i++) {
            int tile = (first + i) * 32 + lane;
            score[i] = tile < a.tiles ? r.score[(int64_t)tile * a.entries] : 0.0f;
            kept[i] = first + i < words ? r.bits[first + i] : 0;
        }
        for (int entry = 1; entry < a.entries; entry++) { /* as tile_score, but with loads on their way */
#pragma unroll
            for (int i = 0; i < BUDGET_AHEAD; i++) {
                int tile = (first + i) * 32 + lane;
                score[i] += tile < a.tiles ? r.score[(int64_t)tile * a.entries + entry] : 0.0f;
            }
        }
#pragma unroll
        for (int i = 0; i < BUDGET_AHEAD; i++) {
            if (first + i < words) {
                split_word(b, r, sh, first + i, kept[i], score[i]);
            }
        }
    }
    flush_digits(b, sh);
    if (threadIdx.x == 0) {
        b.rows[r.row].near = sh.near;
    }
}

/* body(tile, rank) by the lanes of a warp, over the row's tiles near the cut that are not kept: from its list, or all
 * that are open. */
template <typename Body>
__device__ __forceinline__ void each_near(const fga_gpu_budget &b, const budget_row &r, const Body &body)
{
    int lane = threadIdx.x & 31;
    if (r.known.near <= b.near_room) {
        for (int i = lane; i < r.known.near; i += 32) {
            int tile = (int)r.near[i];
            body(tile, share_rank(b, tile_score(r.score, b.select.entries, tile), r.known.sum));
        }
        return;
    }
    for (int word = 0; word < 2 * b.select.words; word++) {
        int tile = word * 32 + lane;
        if ((open_tiles(b.select, word, r.bits[word]) >> lane & 1) != 0) {
            body(tile, share_rank(b, tile_score(r.score, b.select.entries, tile), r.known.sum));
        }
    }
}

/* The next digit of those in the range. */
__device__ __forceinline__ void narrow_rows(const fga_gpu_budget &b)
{
    extern __shared__ __align__(16) unsigned char memory[];
    auto &sh = *reinterpret_cast<budget_shared *>(memory);
    uint64_t low = b.state->low, above = b.state->above;
    int shift = b.state->shift;
    if (shift < 0) {
        return;
    }
    for (int i = threadIdx.x; i < BUDGET_DIGITS; i += (int)blockDim.x) {
        sh.bins[i] = 0;
    }
    __syncthreads();
    each_budget_row(b, [&](const budget_row &r) {
        each_near(b, r, [&](int, uint32_t rank) {
            if (rank >= low && rank < above) {
                atomicAdd(&sh.bins[(uint32_t)(rank - low) >> shift], 1);
            }
        });
    });
    flush_digits(b, sh);
}

/* ---- ties ------------------------------------------------------------------------------------------------------- */

/* With the search at its end: how many of each row are at the cut. */
__device__ __forceinline__ void count_equals(const fga_gpu_budget &b)
{
    uint64_t low = b.state->low, above = b.state->above;
    each_budget_row(b, [&](const budget_row &r) {
        int equal = 0;
        each_near(b, r, [&](int, uint32_t rank) { equal += rank >= low && rank < above; });
        equal = warp_sum(equal);
        if ((threadIdx.x & 31) == 0) {
            b.rows[r.row].equal = equal;
        }
    });
}

/* What is left of the budget goes to the ties of the first heads and rows. One thread block; each thread has rows that
 * follow each other. */
__device__ __forceinline__ void share_out(const fga_gpu_budget &b)
{
    extern __shared__ __align__(16) unsigned char memory[];
    auto &sh = *reinterpret_cast<budget_shared *>(memory);
    int rows = budget_rows(b), each = (rows + (int)blockDim.x - 1) / (int)blockDim.x, lane = threadIdx.x & 31;
    int first = min(rows, (int)threadIdx.x * each), last = min(rows, first + each);
    fga_gpu_budget_row *mine = b.rows + (int64_t)b.select.head_first * b.select.blocks;
    count64 sum = 0;
    for (int i = first; i < last; i++) {
        sum += (count64)mine[i].equal;
    }
    count64 running = sum;
    for (int distance = 1; distance < 32; distance *= 2) {
        count64 other = __shfl_up_sync(0xFFFFFFFFu, running, distance);
        running += lane >= distance ? other : 0;
    }
    if (lane == 31) {
        sh.parts[threadIdx.x / 32] = running;
    }
    __syncthreads();
    int64_t left = b.state->left - (int64_t)(running - sum);
    for (int warp = 0; warp < (int)threadIdx.x / 32; warp++) {
        left -= (int64_t)sh.parts[warp];
    }
    for (int i = first; i < last; i++) {
        int equal = mine[i].equal;
        mine[i].ties = left >= equal ? equal : left > 0 ? (int)left : 0;
        left -= equal;
    }
}

/* ---- the end ------------------------------------------------------------------------------------------------------
 */

__device__ __forceinline__ int missing_of(const fga_gpu_select &a, int tile)
{
    int missing = 0;
    for (int i = 0; i < a.partial_count; i++) {
        missing += a.partial_tile[i] == tile ? a.partial_missing[i] : 0;
    }
    return missing;
}

/* Keys of the tiles that a warp's row keeps, a share of them per lane. */
__device__ __forceinline__ int kept_keys(const fga_gpu_select &a, const budget_row &r)
{
    int lane = threadIdx.x & 31, keys = 0;
    for (int word = lane; word < 2 * a.words; word += 32) {
        keys += __popc(r.bits[word]) * a.tile_keys;
    }
    for (int i = lane; i < a.partial_count; i += 32) {
        int tile = a.partial_tile[i];
        keys -= (r.bits[tile >> 5] >> (tile & 31) & 1) != 0 ? a.partial_missing[i] : 0;
    }
    return keys;
}

/* Listed tiles above the cut, and at it if all of those are kept. Returns the lane's keys among them. */
__device__ __forceinline__ int keep_listed(const fga_gpu_budget &b, const budget_row &r, uint64_t cut)
{
    const fga_gpu_select &a = b.select;
    int keys = 0;
    each_near(b, r, [&](int tile, uint32_t rank) {
        if (rank > cut || (rank == cut && r.known.ties > 0)) {
            atomicOr(&r.bits[tile >> 5], 1u << (tile & 31));
            keys += a.tile_keys - missing_of(a, tile);
        }
    });
    return keys;
}

/* All open tiles above the cut, and the first of those at it. */
__device__ __forceinline__ int keep_scanned(const fga_gpu_budget &b, const budget_row &r, uint64_t cut)
{
    const fga_gpu_select &a = b.select;
    int keys = 0, lane = threadIdx.x & 31, ties = r.known.ties;
    for (int word = 0; word < 2 * a.words; word++) {
        int tile = word * 32 + lane;
        uint32_t kept = r.bits[word], rank = 0;
        bool open = (open_tiles(a, word, kept) >> lane & 1) != 0;
        if (open) {
            rank = share_rank(b, tile_score(r.score, a.entries, tile), r.known.sum);
        }
        uint32_t equal = __ballot_sync(0xFFFFFFFFu, open && rank == cut);
        uint32_t chosen = __ballot_sync(0xFFFFFFFFu, open && rank > cut) | lowest_bits(equal, ties);
        ties -= __popc(equal & chosen);
        keys += (chosen >> lane & 1) != 0 ? a.tile_keys - missing_of(a, tile) : 0;
        if (chosen != 0 && lane == 0) {
            r.bits[word] = kept | chosen;
        }
    }
    return keys;
}

__device__ __forceinline__ void finish_budget(const fga_gpu_budget &b)
{
    uint64_t cut = b.state->low;
    each_budget_row(b, [&](const budget_row &r) {
        int keys = kept_keys(b.select, r);
        __syncwarp(); /* before a lane adds bits */
        if (r.known.near > 0) {
            bool whole = r.known.ties == 0 || r.known.ties == r.known.equal;
            keys += whole && r.known.near <= b.near_room ? keep_listed(b, r, cut) : keep_scanned(b, r, cut);
        }
        keys = warp_sum(keys);
        if ((threadIdx.x & 31) == 0) {
            b.select.row_keys[r.row] = keys;
        }
    });
}

} // namespace fga
#endif
