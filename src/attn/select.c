/* select.c - top-k of each row of scores, beside the tiles that are forced. */
#include "attn/select.h"

#include "base/half.h"

#include <math.h>
#include <string.h>

/* Scores as integers of the same order; -0 equals 0, and NaN comes last. Free of branches, so that it vectorises. */
static inline uint32_t rank_of(float score)
{
    uint32_t bits = fga_f32_bits(score), magnitude = bits & 0x7fffffffu;
    uint32_t ordered = bits >> 31 ? ~bits : bits | 0x80000000u;
    ordered = magnitude == 0 ? 0x80000000u : ordered;
    return magnitude > 0x7f800000u ? 0 : ordered;
}

/* The k-th largest rank (1 <= k <= tiles) of the free tiles, found by counting digits of 11, 11 and 10 bits; *ties =
 * how many of that rank are among the k largest. Later rounds count only the few ranks that share the digits found so
 * far.
 */
static uint32_t find_cut(const float *scores, const fga_spans *free, int64_t k, int64_t *ties)
{
    static const struct {
        int shift;
        uint32_t digits;
    } rounds[3] = {{21, 2048}, {10, 2048}, {0, 1024}};
    uint32_t cut = 0, known = 0; /* the cut's bits so far, and which those are */
    for (int r = 0; r < 3; r++) {
        uint32_t histogram[2048], digits = rounds[r].digits;
        int shift = rounds[r].shift;
        memset(histogram, 0, digits * sizeof *histogram);
        for (int i = 0; i < free->count; i++) {
            for (int64_t v = free->begin[i]; v < free->end[i]; v++) {
                uint32_t rank = rank_of(scores[v]);
                if ((rank & known) == cut) {
                    histogram[rank >> shift & (digits - 1)]++;
                }
            }
        }
        uint32_t digit = digits - 1;
        while (histogram[digit] < k) {
            k -= histogram[digit--];
        }
        cut |= digit << shift;
        known |= (digits - 1) << shift;
    }
    *ties = k;
    return cut;
}

/* Sets the bit of every tile of an interval above the cut, and of the first `ties` at it; returns the ties left. */
static int64_t keep_above(const float *scores, int64_t first, int64_t last, uint32_t cut, int64_t ties, uint64_t *bits)
{
    for (int64_t begin = first, end; begin < last; begin = end) {
        uint64_t word = 0, equal = 0;
        end = fga_min(last, (begin / 64 + 1) * 64);
        for (int64_t v = begin; v < end; v++) {
            uint32_t rank = rank_of(scores[v]);
            word |= (uint64_t)(rank > cut) << (v % 64);
            equal |= (uint64_t)(rank == cut) << (v % 64);
        }
        for (; equal != 0 && ties > 0; equal &= equal - 1, ties--) {
            word |= equal & -equal;
        }
        bits[begin / 64] |= word;
    }
    return ties;
}

static void set_spans(uint64_t *bits, const fga_spans *spans)
{
    for (int i = 0; i < spans->count; i++) {
        fga_bits_set(bits, spans->begin[i], spans->end[i]);
    }
}

static void keep_best(const fga_spans *free, const float *scores, int64_t count, uint64_t *bits)
{
    if (count >= fga_spans_count(free, 0, INT64_MAX)) {
        set_spans(bits, free);
        return;
    }
    int64_t ties;
    uint32_t cut = find_cut(scores, free, count, &ties);
    for (int i = 0; i < free->count; i++) {
        ties = keep_above(scores, free->begin[i], free->end[i], cut, ties, bits);
    }
}

int64_t fga_round_count(double x)
{
    double rounded = floor(x + 0.5 + 1e-6);
    return rounded >= 0x1p62 ? (int64_t)1 << 62 : (int64_t)rounded;
}

fga_selector fga_selector_make(const fga_policy *policy, fga_mask *mask)
{
    const fga_sequence *key = &mask->desc.key;
    int64_t n = mask->desc.tile_n;
    fga_selector s = {.policy = policy, .mask = mask, .text_queries = fga_spans_valid_text(&mask->desc.query)};
    fga_spans text = fga_spans_valid_text(key);
    for (int i = 0; i < text.count; i++) {
        fga_spans_add(&s.text_tiles, text.begin[i] / n, fga_ceil_div(text.end[i], n));
    }
    if (key->video_valid > 0) {
        int64_t begin = key->prefix / n, end = fga_ceil_div(key->prefix + key->video_valid, n);
        while (begin < end && fga_spans_count(&s.text_tiles, begin, begin + 1) > 0) {
            begin++;
        }
        while (end > begin && fga_spans_count(&s.text_tiles, end - 1, end) > 0) {
            end--;
        }
        fga_spans_add(&s.video_only, begin, end);
    }
    return s;
}

static void select_topk(const fga_selector *s, double density, const float *scores, uint64_t *bits)
{
    const fga_mask *mask = s->mask;
    int64_t k = fga_min(mask->live_tiles, fga_max(1, fga_round_count(density * (double)mask->live_tiles)));
    keep_best(&s->video_only, scores, fga_max(1, k - fga_spans_count(&s->text_tiles, 0, mask->tiles)), bits);
}

void fga_selector_row(const fga_selector *s, const fga_head_setting *setting, int64_t row, const float *scores)
{
    fga_mask *mask = s->mask;
    int64_t m = mask->desc.block_m, u = row % mask->blocks;
    uint64_t *bits = fga_mask_bits(mask, row);
    memset(bits, 0, (size_t)mask->words * sizeof *bits);
    if (fga_spans_count(&mask->query_valid, u * m, (u + 1) * m) == 0) {
        /* nothing but padding asks */
    } else if (setting->dense || fga_spans_count(&s->text_queries, u * m, (u + 1) * m) > 0) {
        fga_bits_set(bits, 0, mask->tiles);
    } else {
        set_spans(bits, &s->text_tiles);
        select_topk(s, setting->density, scores, bits);
    }
    fga_mask_seal_row(mask, row);
}

typedef struct run {
    fga_selector selector;
    fga_head_setting setting;
    const float *scores;
} run;

static void select_row(void *arg, int64_t row, int worker)
{
    (void)worker;
    const run *r = arg;
    fga_selector_row(&r->selector, &r->setting, row, r->scores + row * r->selector.mask->tiles);
}

fga_status fga_select_topk(fga_context *ctx, const fga_predict_desc *desc, const float *scores, double density,
                           fga_mask **out)
{
    if (desc == NULL || scores == NULL || out == NULL) {
        return fga_context_fail(ctx, FGA_ERR_ARGUMENT, "%s is NULL",
                                desc == NULL     ? "desc"
                                : scores == NULL ? "scores"
                                                 : "mask");
    }
    *out = NULL;
    FGA_TRY(fga_check_struct(ctx, "fga_predict_desc", desc->size, sizeof *desc));
    if (!(density >= 0)) {
        return fga_context_fail(ctx, FGA_ERR_ARGUMENT, "density is %g, wanted at least 0", density);
    }
    fga_mask_desc d = fga_mask_desc_default();
    d.batch = desc->batch;
    d.heads = desc->query_heads;
    d.block_m = desc->block_m;
    d.tile_n = desc->tile_n;
    d.query = desc->query;
    d.key = desc->key;
    fga_mask *mask;
    FGA_TRY(fga_mask_create(ctx, &d, FGA_MASK_BITMAP, &mask));
    const fga_policy policy = {.size = sizeof policy, .select = FGA_SELECT_TOPK};
    run r = {fga_selector_make(&policy, mask), {.density = density}, scores};
    fga_parallel_for(ctx, mask->rows, select_row, &r);
    fga_mask_seal(mask);
    *out = mask;
    return FGA_OK;
}
