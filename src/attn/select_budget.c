/* select_budget.c - one budget for all rows and heads of a layer: a floor for each row, the rest to the best scores. */
#include "attn/select.h"

#include "attn/select_rank.h"
#include "base/context.h"

#include <math.h>
#include <string.h>

/* What is known of a row. */
typedef struct row_state {
    double sum;     /* scores are compared as shares of it; 1 where rows sum to 1 as they are */
    int64_t open;   /* free tiles without a bit; 0 in rows that do not take part */
    int64_t equal;  /* of those, at the cut; then how many of them are kept */
    fga_words near; /* where all lie that share what is known of the cut */
    uint32_t most;  /* no share of an open tile has a higher rank */
} row_state;

/* The workspace: per row what is known of it, per worker a histogram. */
typedef struct budget {
    const fga_select_call *call;
    const fga_selector *selector;
    row_state *rows;
    int64_t *counted; /* [threads][FGA_RANK_DIGITS] */
    int64_t first;    /* row of the batch item */
    int round;
    fga_rank_cut cut;
} budget;

bool fga_budget_bytes(fga_context *ctx, int64_t rows, size_t *bytes)
{
    return fga_size_add(bytes, rows, sizeof(row_state)) &&
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

/* Its open tiles. */
static fga_search search_of(const budget *b, int64_t row)
{
    const fga_spans *video = &b->selector->video_only;
    return (fga_search){.selector = b->selector,
                        .scores = scores_of(b, row),
                        .sum = b->rows[row].sum,
                        .out = fga_selector_out(b->selector, row),
                        .bits = fga_mask_bits(b->selector->mask, row),
                        .begin = video->begin[0],
                        .end = video->end[0]};
}

/* The first digits of open tiles, from those of the free ones: `kept` of the best are not open. Tiles that are out are
 * not either, but they have digit 0, which is the last to be looked for: too many there do no harm. */
static void add_first_digits(const row_state *r, const int64_t *digits, int64_t kept, int64_t *histogram)
{
    uint32_t at = r->most >> fga_rank_round[0].shift;
    for (uint32_t d = at + 1; d < FGA_RANK_DIGITS; d++) {
        kept -= digits[d];
    }
    for (uint32_t d = 0; d < at; d++) {
        histogram[d] += digits[d];
    }
    histogram[at] += digits[at] - kept;
}

/* Forced tiles, the floor, and the first digits of what is left. */
static void begin_row(void *arg, int64_t item, int worker)
{
    budget *b = arg;
    int64_t row = b->first + item, *histogram = b->counted + (int64_t)worker * FGA_RANK_DIGITS;
    const fga_head_setting *setting = setting_of(b, row);
    row_state *r = &b->rows[row];
    fga_spans free;
    *r = (row_state){.sum = 1};
    if (fga_selector_begin(b->selector, setting, row, &free) != FGA_ROW_OPEN || free.count == 0) {
        return;
    }
    fga_search search = search_of(b, row);
    int64_t tiles = fga_selector_tiles(b->selector, row), digits[FGA_RANK_DIGITS];
    int64_t floor = fga_max(1, fga_round_count(0.25 * setting->density * (double)tiles));
    fga_select_digits(b->selector, &free, search.scores, 1, digits);
    int64_t kept = digits[FGA_RANK_GATED] + floor;
    r->most = fga_select_best(b->selector, &free, search.scores, digits, kept, search.bits);
    r->open = fga_search_open(&search);
    r->near = fga_search_words(&search);
    if (r->open == 0) {
        return;
    }
    if (!rows_sum_to_one(b->selector->policy->score)) {
        r->sum = row_sum(b, row, search.scores);
    }
    if (r->sum != 1) {
        r->most = fga_rank_of((float)((double)fga_score_of(r->most) / r->sum));
        fga_select_digits(b->selector, &free, search.scores, r->sum, digits);
    }
    add_first_digits(r, digits, kept, histogram);
}

static void narrow_row(void *arg, int64_t item, int worker)
{
    budget *b = arg;
    row_state *r = &b->rows[b->first + item];
    r->equal = 0;
    if (r->open > 0 && r->most >= b->cut.cut) {
        fga_search search = search_of(b, b->first + item);
        r->equal =
            fga_search_narrow(&search, &b->cut, b->round, &r->near, b->counted + (int64_t)worker * FGA_RANK_DIGITS);
    }
}

/* Of equal tiles those of the lower head, row and index. */
static void keep_ties(void *arg, int64_t item, int worker)
{
    (void)worker;
    const budget *b = arg;
    const row_state *r = &b->rows[b->first + item];
    if (r->equal > 0) {
        fga_search search = search_of(b, b->first + item);
        fga_search_keep(&search, &b->cut, &r->near, r->equal);
    }
}

static void keep_open(void *arg, int64_t item, int worker)
{
    (void)worker;
    const budget *b = arg;
    const fga_spans *video = &b->selector->video_only;
    if (b->rows[b->first + item].open > 0) {
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
            kept += asks ? tiles - b->rows[first + u].open : 0;
        }
    }
    return fga_round_count(density * (double)rows * (double)mask->live_tiles - out) - kept;
}

/* Round 0 is counted already. */
static void spend(budget *b, int64_t left, int64_t rows)
{
    fga_context *ctx = b->call->ctx;
    int threads = fga_context_threads(ctx);
    b->cut = (fga_rank_cut){.left = left};
    for (b->round = 0; b->round < FGA_RANK_ROUNDS; b->round++) {
        if (b->round > 0) {
            memset(b->counted, 0, (size_t)threads * FGA_RANK_DIGITS * sizeof *b->counted);
            fga_parallel_for(ctx, rows, narrow_row, b);
        }
        for (int64_t i = FGA_RANK_DIGITS; i < (int64_t)threads * FGA_RANK_DIGITS; i++) {
            b->counted[i % FGA_RANK_DIGITS] += b->counted[i];
        }
        fga_rank_narrow(&b->cut, b->round, b->counted);
    }
    fga_parallel_for(ctx, rows, narrow_row, b);
    int64_t ties = b->cut.left;
    for (int64_t i = 0; i < rows; i++) {
        row_state *r = &b->rows[b->first + i];
        r->equal = fga_min(r->equal, ties);
        ties -= r->equal;
    }
    fga_parallel_for(ctx, rows, keep_ties, b);
}

void fga_select_budget(const fga_select_call *call)
{
    const fga_mask *mask = call->selector->mask;
    int64_t heads = mask->desc.heads, rows = heads * mask->blocks;
    size_t at = 0;
    budget b = {.call = call, .selector = call->selector, .rows = call->workspace};
    fga_size_add(&at, mask->rows, sizeof *b.rows);
    b.counted = (int64_t *)((char *)call->workspace + at);
    for (int64_t item = 0; item < mask->desc.batch; item++) {
        b.first = item * rows;
        memset(b.counted, 0, (size_t)fga_context_threads(call->ctx) * FGA_RANK_DIGITS * sizeof *b.counted);
        fga_parallel_for(call->ctx, rows, begin_row, &b);
        int64_t left = tiles_left(&b, heads), open = 0;
        for (int64_t i = 0; i < rows; i++) {
            open += b.rows[b.first + i].open;
        }
        if (left >= open) {
            fga_parallel_for(call->ctx, rows, keep_open, &b);
        } else if (left > 0) {
            spend(&b, left, rows);
        }
    }
    fga_parallel_for(call->ctx, mask->rows, seal_row, &b);
}
