/* select_budget.c - one budget for all rows and heads of a layer: a floor for each row, the rest to the best scores. */
#include "attn/select.h"

#include "attn/select_rank.h"
#include "base/context.h"

#include <math.h>
#include <string.h>

/* The workspace: per row its sum, tiles left to choose from, and tiles at the cut; per worker a histogram. */
typedef struct budget {
    const fga_select_call *call;
    const fga_selector *selector;
    double *sum;      /* [rows]: scores are compared as shares of it; 1 where rows sum to 1 as they are */
    int64_t *open;    /* [rows]: free tiles without a bit; 0 in rows that do not take part */
    int64_t *equal;   /* [rows]: of those, at the cut; then how many of them are kept */
    int64_t *counted; /* [threads][FGA_RANK_DIGITS] */
    int64_t first;    /* row of the batch item */
    int round;
    fga_rank_cut cut;
} budget;

bool fga_budget_bytes(fga_context *ctx, int64_t rows, size_t *bytes)
{
    return fga_size_add(bytes, rows, sizeof(double)) && fga_size_add(bytes, rows, sizeof(int64_t)) &&
           fga_size_add(bytes, rows, sizeof(int64_t)) &&
           fga_size_add(bytes, fga_context_threads(ctx), FGA_RANK_DIGITS * sizeof(int64_t));
}

static const fga_head_setting *setting_of(const budget *b, int64_t row)
{
    return &b->call->heads[row / b->selector->mask->blocks];
}

static const float *scores_of(const budget *b, int64_t row)
{
    return b->call->scores + row * b->selector->mask->tiles;
}

static bool rows_sum_to_one(fga_score score)
{
    return score == FGA_SCORE_MASS || score == FGA_SCORE_MEAN || score == FGA_SCORE_SECOND_ORDER ||
           score == FGA_SCORE_EXACT_MASS;
}

/* Over all tiles with a valid key but the gated ones, which have no mass. */
static double row_sum(const budget *b, int64_t row, const float *scores)
{
    const uint64_t *out = fga_selector_out(b->selector, row);
    const fga_spans *live = &b->selector->mask->live;
    double sum = 0;
    for (int i = 0; i < live->count; i++) {
        for (int64_t v = live->begin[i]; v < live->end[i]; v++) {
            bool counts = scores[v] != INFINITY && (out == NULL || (out[v / 64] >> (v % 64) & 1) == 0);
            sum += counts ? (double)scores[v] : 0;
        }
    }
    return sum > 0 ? sum : 1;
}

/* Of tiles [64 * word, 64 * word + 64): the free ones without a bit. */
static uint64_t open_tiles(const budget *b, int64_t row, int64_t word)
{
    const fga_spans *video = &b->selector->video_only;
    const uint64_t *out = fga_selector_out(b->selector, row);
    int64_t first = 64 * word, begin = fga_max(video->begin[0] - first, 0), end = fga_min(video->end[0] - first, 64);
    uint64_t inside = begin >= end ? 0 : (~(uint64_t)0 >> (64 - (end - begin))) << begin;
    return inside & ~(fga_mask_bits(b->selector->mask, row)[word] | (out != NULL ? out[word] : 0));
}

/* The words that open tiles lie in. */
static int64_t first_word(const budget *b)
{
    return b->selector->video_only.begin[0] / 64;
}

static int64_t end_word(const budget *b)
{
    return (b->selector->video_only.end[0] + 63) / 64;
}

/* Forced tiles and the floor. */
static void begin_row(void *arg, int64_t item, int worker)
{
    (void)worker;
    budget *b = arg;
    fga_mask *mask = b->selector->mask;
    int64_t row = b->first + item;
    const fga_head_setting *setting = setting_of(b, row);
    uint64_t *bits = fga_mask_bits(mask, row);
    fga_spans free;
    b->open[row] = 0;
    if (fga_selector_begin(b->selector, setting, row, &free) != FGA_ROW_OPEN) {
        return;
    }
    const float *scores = scores_of(b, row);
    int64_t tiles = fga_selector_tiles(b->selector, row);
    int64_t floor = fga_max(1, fga_round_count(0.25 * setting->density * (double)tiles));
    fga_select_best(&free, scores, fga_select_gated(&free, scores) + floor, bits);
    for (int64_t word = first_word(b); word < end_word(b); word++) {
        b->open[row] += __builtin_popcountll(open_tiles(b, row, word));
    }
    b->sum[row] = rows_sum_to_one(b->selector->policy->score) ? 1 : row_sum(b, row, scores);
}

/* Ranks of the word's tiles by their share of the row's sum; a loop that vectorises. */
static void rank_tiles(const budget *b, int64_t row, int64_t word, uint32_t rank[64])
{
    const float *scores = scores_of(b, row) + 64 * word;
    int count = (int)fga_min(64, b->selector->mask->tiles - 64 * word);
    double sum = b->sum[row];
    for (int i = 0; i < count; i++) {
        rank[i] = fga_rank_of((float)((double)scores[i] / sum));
    }
}

static void count_row(void *arg, int64_t item, int worker)
{
    const budget *b = arg;
    int64_t row = b->first + item, *histogram = b->counted + (int64_t)worker * FGA_RANK_DIGITS;
    int shift = fga_rank_round[b->round].shift;
    uint32_t digits = fga_rank_round[b->round].digits - 1, rank[64];
    for (int64_t word = first_word(b); b->open[row] > 0 && word < end_word(b); word++) {
        uint64_t open = open_tiles(b, row, word);
        rank_tiles(b, row, word, rank);
        for (; open != 0; open &= open - 1) {
            uint32_t r = rank[__builtin_ctzll(open)];
            if ((r & b->cut.known) == b->cut.cut) {
                histogram[r >> shift & digits]++;
            }
        }
    }
}

/* Keeps what is above the cut and counts what is at it. */
static void keep_row(void *arg, int64_t item, int worker)
{
    (void)worker;
    const budget *b = arg;
    int64_t row = b->first + item;
    uint64_t *bits = fga_mask_bits(b->selector->mask, row);
    uint32_t rank[64];
    b->equal[row] = 0;
    for (int64_t word = first_word(b); b->open[row] > 0 && word < end_word(b); word++) {
        uint64_t open = open_tiles(b, row, word), above = 0, equal = 0;
        rank_tiles(b, row, word, rank);
        for (uint64_t left = open; left != 0; left &= left - 1) {
            int i = __builtin_ctzll(left);
            above |= (uint64_t)(rank[i] > b->cut.cut) << i;
            equal |= (uint64_t)(rank[i] == b->cut.cut) << i;
        }
        bits[word] |= above;
        b->equal[row] += __builtin_popcountll(equal);
    }
}

/* Of equal tiles those of the lower head, row and index. */
static void keep_ties(void *arg, int64_t item, int worker)
{
    (void)worker;
    const budget *b = arg;
    int64_t row = b->first + item, left = b->equal[row];
    uint64_t *bits = fga_mask_bits(b->selector->mask, row);
    uint32_t rank[64];
    for (int64_t word = first_word(b); left > 0 && word < end_word(b); word++) {
        uint64_t open = open_tiles(b, row, word);
        rank_tiles(b, row, word, rank);
        for (; left > 0 && open != 0; open &= open - 1) {
            int i = __builtin_ctzll(open);
            if (rank[i] == b->cut.cut) {
                bits[word] |= (uint64_t)1 << i;
                left--;
            }
        }
    }
}

static void keep_open(void *arg, int64_t item, int worker)
{
    (void)worker;
    const budget *b = arg;
    const fga_spans *video = &b->selector->video_only;
    if (b->open[b->first + item] > 0) {
        fga_bits_set(fga_mask_bits(b->selector->mask, b->first + item), video->begin[0], video->end[0]);
    }
}

static void seal_row(void *arg, int64_t row, int worker)
{
    (void)worker;
    fga_selector_seal(((const budget *)arg)->selector, row);
}

/* Tiles that the item's open rows may keep, forced ones and floor included, less those that they keep already. */
static int64_t tiles_left(const budget *b, int64_t heads)
{
    const fga_mask *mask = b->selector->mask;
    int64_t m = mask->desc.block_m, rows = 0, kept = 0;
    double density = 0, out = 0; /* what tiles that are out would have added */
    for (int64_t u = 0; u < mask->blocks; u++) {
        rows += fga_spans_count(&mask->query_valid, u * m, (u + 1) * m) > 0 &&
                fga_spans_count(&b->selector->text_queries, u * m, (u + 1) * m) == 0;
    }
    for (int64_t h = 0; h < heads; h++) {
        const fga_head_setting *setting = setting_of(b, b->first + h * mask->blocks);
        int64_t first = b->first + h * mask->blocks, tiles = fga_selector_tiles(b->selector, first);
        density += setting->dense ? 0 : setting->density;
        out += setting->dense ? 0 : setting->density * (double)rows * (double)(mask->live_tiles - tiles);
        for (int64_t u = 0; u < mask->blocks && !setting->dense; u++) {
            bool asks = fga_spans_count(&mask->query_valid, u * m, (u + 1) * m) > 0 &&
                        fga_spans_count(&b->selector->text_queries, u * m, (u + 1) * m) == 0;
            kept += asks ? tiles - b->open[first + u] : 0;
        }
    }
    return fga_round_count(density * (double)rows * (double)mask->live_tiles - out) - kept;
}

static void spend(budget *b, int64_t left, int64_t rows)
{
    fga_context *ctx = b->call->ctx;
    int threads = fga_context_threads(ctx);
    b->cut = (fga_rank_cut){.left = left};
    for (b->round = 0; b->round < FGA_RANK_ROUNDS; b->round++) {
        memset(b->counted, 0, (size_t)threads * FGA_RANK_DIGITS * sizeof *b->counted);
        fga_parallel_for(ctx, rows, count_row, b);
        for (int64_t i = FGA_RANK_DIGITS; i < (int64_t)threads * FGA_RANK_DIGITS; i++) {
            b->counted[i % FGA_RANK_DIGITS] += b->counted[i];
        }
        fga_rank_narrow(&b->cut, b->round, b->counted);
    }
    fga_parallel_for(ctx, rows, keep_row, b);
    int64_t ties = b->cut.left;
    for (int64_t i = 0; i < rows; i++) {
        int64_t *equal = &b->equal[b->first + i];
        *equal = fga_min(*equal, ties);
        ties -= *equal;
    }
    fga_parallel_for(ctx, rows, keep_ties, b);
}

void fga_select_budget(const fga_select_call *call)
{
    const fga_mask *mask = call->selector->mask;
    int64_t heads = mask->desc.heads, rows = heads * mask->blocks;
    size_t at = 0;
    char *base = call->workspace;
    budget b = {.call = call, .selector = call->selector};
    b.sum = (double *)base;
    fga_size_add(&at, mask->rows, sizeof *b.sum);
    b.open = (int64_t *)(base + at);
    fga_size_add(&at, mask->rows, sizeof *b.open);
    b.equal = (int64_t *)(base + at);
    fga_size_add(&at, mask->rows, sizeof *b.equal);
    b.counted = (int64_t *)(base + at);
    for (int64_t item = 0; item < mask->desc.batch; item++) {
        b.first = item * rows;
        fga_parallel_for(call->ctx, rows, begin_row, &b);
        int64_t left = tiles_left(&b, heads), open = 0;
        for (int64_t i = 0; i < rows; i++) {
            open += b.open[b.first + i];
        }
        if (left >= open) {
            fga_parallel_for(call->ctx, rows, keep_open, &b);
        } else if (left > 0) {
            spend(&b, left, rows);
        }
    }
    fga_parallel_for(call->ctx, mask->rows, seal_row, &b);
}
