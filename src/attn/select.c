/* select.c - top-k of each row of scores, beside the tiles that are forced. */
#include "attn/predict.h"

#include "base/half.h"

#include <math.h>
#include <string.h>

/* Scores as integers of the same order; -0 equals 0, and NaN comes last. */
static uint32_t rank_of(float score)
{
    uint32_t bits = fga_f32_bits(score + 0.0f);
    if (score != score) {
        return 0;
    }
    return bits >> 31 ? ~bits : bits | 0x80000000u;
}

/* The k-th largest rank (1 <= k <= count) by four rounds of counting eight bits; *ties = how many of that rank are
 * among the k largest. */
static uint32_t find_cut(const float *scores, int64_t count, int64_t k, int64_t *ties)
{
    uint32_t cut = 0, known = 0; /* the cut's bits so far, and which those are */
    for (int shift = 24; shift >= 0; shift -= 8) {
        int64_t histogram[256] = {0};
        for (int64_t i = 0; i < count; i++) {
            uint32_t rank = rank_of(scores[i]);
            histogram[rank >> shift & 255] += (rank & known) == cut;
        }
        uint32_t digit = 255;
        while (histogram[digit] < k) {
            k -= histogram[digit--];
        }
        cut |= digit << shift;
        known |= (uint32_t)255 << shift;
    }
    *ties = k;
    return cut;
}

fga_selector fga_selector_topk(fga_mask *mask, double density)
{
    const fga_sequence *key = &mask->desc.key;
    int64_t n = mask->desc.tile_n, tiles = mask->live_tiles;
    fga_selector s = {.mask = mask, .text_queries = fga_spans_valid_text(&mask->desc.query)};
    fga_spans text = fga_spans_valid_text(key);
    for (int i = 0; i < text.count; i++) {
        fga_spans_add(&s.forced, text.begin[i] / n, fga_ceil_div(text.end[i], n));
    }
    if (key->video_valid > 0) {
        s.free_begin = key->prefix / n;
        s.free_end = fga_ceil_div(key->prefix + key->video_valid, n);
        while (s.free_begin < s.free_end && fga_spans_count(&s.forced, s.free_begin, s.free_begin + 1) > 0) {
            s.free_begin++;
        }
        while (s.free_end > s.free_begin && fga_spans_count(&s.forced, s.free_end - 1, s.free_end) > 0) {
            s.free_end--;
        }
    }
    double rounded = floor(density * (double)tiles + 0.5 + 1e-6);
    int64_t k = rounded >= (double)tiles ? tiles : fga_max(1, (int64_t)rounded);
    s.take = fga_min(s.free_end - s.free_begin, fga_max(1, k - fga_spans_count(&s.forced, 0, mask->tiles)));
    return s;
}

void fga_selector_row(const fga_selector *s, int64_t row, const float *scores)
{
    fga_mask *mask = s->mask;
    int64_t m = mask->desc.block_m, u = row % mask->blocks, free_tiles = s->free_end - s->free_begin;
    uint64_t *bits = fga_mask_bits(mask, row);
    memset(bits, 0, (size_t)mask->words * sizeof *bits);
    if (fga_spans_count(&mask->query_valid, u * m, (u + 1) * m) == 0) {
        /* nothing but padding asks */
    } else if (fga_spans_count(&s->text_queries, u * m, (u + 1) * m) > 0) {
        fga_bits_set(bits, 0, mask->tiles);
    } else {
        for (int i = 0; i < s->forced.count; i++) {
            fga_bits_set(bits, s->forced.begin[i], s->forced.end[i]);
        }
        if (s->take == free_tiles) {
            fga_bits_set(bits, s->free_begin, s->free_end);
        } else {
            int64_t ties;
            uint32_t cut = find_cut(scores + s->free_begin, free_tiles, s->take, &ties);
            for (int64_t v = s->free_begin; v < s->free_end; v++) {
                uint32_t rank = rank_of(scores[v]);
                bool kept = rank > cut || (rank == cut && ties-- > 0);
                bits[v / 64] |= (uint64_t)kept << (v % 64);
            }
        }
    }
    fga_mask_seal_row(mask, row);
}

typedef struct run {
    fga_selector selector;
    const float *scores;
    int64_t tiles;
} run;

static void select_row(void *arg, int64_t row, int worker)
{
    (void)worker;
    const run *r = arg;
    fga_selector_row(&r->selector, row, r->scores + row * r->tiles);
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
    run r = {fga_selector_topk(mask, density), scores, mask->tiles};
    fga_parallel_for(ctx, mask->rows, select_row, &r);
    fga_mask_seal(mask);
    *out = mask;
    return FGA_OK;
}
