/* select.c - what a row keeps by its own scores: top-k, top-p, threshold, adaptive, beside the tiles that are forced.
 */
#include "attn/select.h"

#include "attn/attn.h"
#include "attn/refresh_gpu.h"
#include "attn/select_rank.h"
#include "base/context.h"

#include <assert.h>
#include <math.h>
#include <string.h>

int64_t fga_round_count(double x)
{
    double rounded = floor(x + 0.5 + 1e-6);
    return rounded >= 0x1p62 ? (int64_t)1 << 62 : (int64_t)rounded;
}

/* ---- what is out ---------------------------------------------------------------------------------- */

static int64_t key_head(const fga_selector *s, int64_t row)
{
    return row / s->mask->blocks / s->shared;
}

const uint64_t *fga_selector_out(const fga_selector *s, int64_t row)
{
    return s->out != NULL ? s->out + key_head(s, row) * s->mask->words : NULL;
}

int64_t fga_selector_tiles(const fga_selector *s, int64_t row)
{
    return s->mask->live_tiles - (s->out != NULL ? s->out_tiles[key_head(s, row)] : 0);
}

static void drop_out(const fga_selector *s, int64_t row)
{
    const uint64_t *out = fga_selector_out(s, row);
    uint64_t *bits = fga_mask_bits(s->mask, row);
    for (int64_t w = 0; out != NULL && w < s->mask->words; w++) {
        bits[w] &= ~out[w];
    }
}

void fga_selector_seal(const fga_selector *s, int64_t row)
{
    drop_out(s, row);
    fga_mask_seal_row(s->mask, row);
}

bool fga_out_bytes(const fga_predict_desc *desc, size_t *bytes)
{
    int64_t heads = desc->batch * desc->kv_heads, words = fga_mask_words(fga_predict_tiles(desc));
    return fga_size_add(bytes, heads, (size_t)words * sizeof(uint64_t)) && fga_size_add(bytes, heads, sizeof(int64_t));
}

void fga_selector_find_out(fga_selector *s, const fga_attend_args *args, void *room)
{
    const fga_mask *mask = s->mask;
    if (args->key_bias == NULL) {
        return;
    }
    int64_t kv_heads = args->k.extent[1], heads = args->k.extent[0] * kv_heads, n = mask->desc.tile_n, all = 0;
    size_t at = 0;
    uint64_t *out = room;
    fga_size_add(&at, heads, (size_t)mask->words * sizeof *out);
    int64_t *counts = (int64_t *)((char *)room + at);
    memset(out, 0, (size_t)(heads * mask->words) * sizeof *out);
    for (int64_t head = 0; head < heads; head++, out += mask->words) {
        const float *bias =
            args->key_bias + head / kv_heads * args->bias_batch_stride + head % kv_heads * args->bias_head_stride;
        counts[head] = 0;
        for (int64_t v = 0; v < mask->tiles; v++) {
            int64_t end = fga_min((v + 1) * n, mask->desc.key.prefix + mask->desc.key.video + mask->desc.key.suffix);
            bool valid = false, kept = false;
            for (int64_t j = v * n; j < end && !kept; j++) {
                bool here = fga_spans_count(&mask->key_valid, j, j + 1) > 0;
                valid |= here;
                kept = here && bias[j] != -INFINITY;
            }
            out[v / 64] |= (uint64_t)(valid && !kept) << (v % 64);
            counts[head] += valid && !kept;
        }
        all += counts[head];
    }
    if (all > 0) {
        s->out = room;
        s->out_tiles = counts;
        s->shared = args->q.extent[1] / kv_heads;
    }
}

/* Of tiles in `free`, how many are out. */
static int64_t count_out(const uint64_t *out, const fga_spans *free)
{
    int64_t count = 0;
    for (int i = 0; out != NULL && i < free->count; i++) {
        for (int64_t v = free->begin[i]; v < free->end[i]; v++) {
            count += out[v / 64] >> (v % 64) & 1;
        }
    }
    return count;
}

/* ---- what is forced ------------------------------------------------------------------------------- */

fga_selector fga_selector_make(const fga_policy *policy, fga_mask *mask)
{
    const fga_sequence *key = &mask->desc.key;
    int64_t n = mask->desc.tile_n;
    fga_selector s = {.policy = policy,
                      .mask = mask,
                      .text_queries = fga_spans_valid_text(&mask->desc.query),
                      .valid_keys = fga_sequence_valid(key)};
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

static void set_spans(uint64_t *bits, const fga_spans *spans)
{
    for (int i = 0; i < spans->count; i++) {
        fga_bits_set(bits, spans->begin[i], spans->end[i]);
    }
}

static int64_t count_tiles(const fga_spans *spans)
{
    int64_t count = 0;
    for (int i = 0; i < spans->count; i++) {
        count += spans->end[i] - spans->begin[i];
    }
    return count;
}

fga_row_kind fga_selector_begin(const fga_selector *s, const fga_head_setting *setting, int64_t row, fga_spans *free)
{
    const fga_mask *mask = s->mask;
    int64_t m = mask->desc.block_m, u = row % mask->blocks;
    uint64_t *bits = fga_mask_bits(mask, row);
    memset(bits, 0, (size_t)mask->words * sizeof *bits);
    *free = (fga_spans){0};
    if (fga_spans_count(&mask->query_valid, u * m, (u + 1) * m) == 0) {
        return FGA_ROW_EMPTY;
    }
    if (setting->dense || fga_spans_count(&s->text_queries, u * m, (u + 1) * m) > 0) {
        fga_bits_set(bits, 0, mask->tiles);
        drop_out(s, row);
        return FGA_ROW_FULL;
    }
    set_spans(bits, &s->text_tiles);
    if (s->video_only.count > 0) {
        int64_t begin = s->video_only.begin[0], end = s->video_only.end[0], reach = setting->neighbours;
        int64_t near_begin = fga_min(end, fga_max(begin, u - reach + 1)); /* empty where reach is 0 */
        int64_t near_end = fga_max(near_begin, fga_min(end, u + reach));
        fga_bits_set(bits, near_begin, near_end);
        if (near_begin == near_end) {
            fga_spans_add(free, begin, end);
        } else {
            fga_spans_add(free, begin, near_begin);
            fga_spans_add(free, near_end, end);
        }
    }
    drop_out(s, row);
    return FGA_ROW_OPEN;
}

/* ---- top-k ---------------------------------------------------------------------------------------- */

/* K of all tiles, of which the forced ones and at least one free one are kept. Gated tiles are the first of the best.
 */
static void keep_topk(const fga_selector *s, const fga_head_setting *setting, int64_t row, const fga_spans *free,
                      const float *scores, uint64_t *bits)
{
    int64_t tiles = fga_selector_tiles(s, row), digits[FGA_RANK_DIGITS];
    fga_select_digits(s, free, scores, 1, digits);
    int64_t gated = digits[FGA_RANK_GATED];
    double share = setting->density * (double)tiles;
    int64_t k = s->policy->zero_pad ? (int64_t)fmin(share, (double)tiles) : fga_min(tiles, fga_round_count(share));
    int64_t forced = tiles - (count_tiles(free) - count_out(fga_selector_out(s, row), free)) + gated;
    fga_select_best(s, free, scores, digits, gated + fga_max(1, k - forced), bits);
}

/* ---- top-p ---------------------------------------------------------------------------------------- */

/* Sorts by the upper halves, rising and stable, through `other`; returns where the result is. */
static uint64_t *sort_by_rank(uint64_t *items, uint64_t *other, int64_t count)
{
    for (int round = FGA_RANK_ROUNDS - 1; round >= 0; round--) {
        int64_t next[FGA_RANK_DIGITS + 1];
        int shift = 32 + fga_rank_round[round].shift;
        uint32_t digits = fga_rank_round[round].digits;
        memset(next, 0, sizeof next);
        for (int64_t i = 0; i < count; i++) {
            next[(items[i] >> shift & (digits - 1)) + 1]++;
        }
        for (uint32_t d = 0; d < digits; d++) {
            next[d + 1] += next[d];
        }
        for (int64_t i = 0; i < count; i++) {
            other[next[items[i] >> shift & (digits - 1)]++] = items[i];
        }
        uint64_t *swap = items;
        items = other;
        other = swap;
    }
    return items;
}

/* The running sum is one f32, over forced tiles by rising index and then free ones by falling score. */
static void keep_topp(const fga_selector *s, const fga_head_setting *setting, int64_t row, const fga_spans *free,
                      const float *scores, uint64_t *bits, void *scratch)
{
    const uint64_t *out = fga_selector_out(s, row);
    uint64_t *items = scratch;
    int64_t tiles = s->mask->tiles, count = 0;
    float forced = 0;
    if (setting->tau >= 1) {
        set_spans(bits, free);
        return;
    }
    assert(items != NULL); /* planned for this selection */
    for (int i = 0; i < free->count; i++) {
        for (int64_t v = free->begin[i]; v < free->end[i]; v++) {
            if (out != NULL && (out[v / 64] >> (v % 64) & 1) != 0) {
                continue;
            }
            if (scores[v] == INFINITY) {
                fga_bits_set(bits, v, v + 1);
            } else {
                items[count++] = (uint64_t)~fga_rank_of(scores[v]) << 32 | (uint64_t)v;
            }
        }
    }
    for (int64_t v = 0; v < tiles; v++) {
        bool kept = bits[v / 64] >> (v % 64) & 1;
        forced += kept && scores[v] != INFINITY ? scores[v] : 0.0f;
    }
    items = sort_by_rank(items, items + tiles, count);
    float sum = forced;
    for (int64_t i = 0; i < count; i++) {
        sum += scores[(uint32_t)items[i]];
    }
    float enough = (float)setting->tau * sum, running = forced;
    for (int64_t i = 0; i < count; i++) {
        int64_t v = (uint32_t)items[i];
        if (i > 0 && running >= enough) {
            break;
        }
        running += scores[v];
        fga_bits_set(bits, v, v + 1);
    }
}

/* ---- threshold and adaptive ----------------------------------------------------------------------- */

static void keep_over(const fga_spans *free, const float *scores, double cut, uint64_t *bits)
{
    for (int i = 0; i < free->count; i++) {
        for (int64_t v = free->begin[i]; v < free->end[i]; v++) {
            bits[v / 64] |= (uint64_t)((double)scores[v] > cut) << (v % 64);
        }
    }
}

/* ---- one row -------------------------------------------------------------------------------------- */

size_t fga_selector_scratch(const fga_policy *policy, int64_t tiles)
{
    size_t bytes = 0;
    bool fits = fga_size_add(&bytes, policy->select == FGA_SELECT_TOPP ? 2 * tiles : 0, sizeof(uint64_t));
    return fits ? bytes : 0; /* tiles are at most FGA_MAX_TOKENS: always */
}

void fga_selector_row(const fga_selector *s, const fga_head_setting *setting, const fga_scored_row *row, void *scratch)
{
    static const fga_head_setting everything = {.dense = true};
    uint64_t *bits = fga_mask_bits(s->mask, row->row);
    const float *scores = row->scores;
    fga_spans free;
    if (fga_selector_begin(s, scores != NULL ? setting : &everything, row->row, &free) == FGA_ROW_OPEN) {
        switch (s->policy->select) {
        case FGA_SELECT_TOPP:
            keep_topp(s, setting, row->row, &free, scores, bits, scratch);
            break;
        case FGA_SELECT_THRESHOLD:
            keep_over(&free, scores, (float)(setting->threshold / (double)s->valid_keys), bits);
            break;
        case FGA_SELECT_ADAPTIVE:
            keep_over(&free, scores, (double)row->mean + setting->tau * (double)row->spread, bits);
            break;
        default:
            keep_topk(s, setting, row->row, &free, scores, bits);
            break;
        }
    }
    fga_selector_seal(s, row->row);
}

/* ---- the stage by itself -------------------------------------------------------------------------- */

typedef struct run {
    fga_selector selector;
    fga_head_setting setting;
    const float *scores;
} run;

static void select_row(void *arg, int64_t row, int worker)
{
    const run *r = arg;
    const fga_scored_row scored = {.row = row, .worker = worker, .scores = r->scores + row * r->selector.mask->tiles};
    fga_selector_row(&r->selector, &r->setting, &scored, NULL);
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
    if (ctx == NULL) {
        return FGA_ERR_ARGUMENT;
    }
    if (ctx->options.device == FGA_DEVICE_CUDA) {
        return desc->zero_pad ? fga_context_fail(ctx, FGA_ERR_UNSUPPORTED,
                                                 "zero_pad is set, which selections on %s do not know", ctx->gpu.name)
                              : fga_select_topk_gpu(ctx, &d, scores, density, out);
    }
    fga_ops ops;
    fga_mask *mask;
    FGA_TRY(fga_select_ops(ctx, &ops));
    FGA_TRY(fga_mask_create(ctx, &d, FGA_MASK_BITMAP, &mask));
    const fga_policy policy = {.size = sizeof policy, .select = FGA_SELECT_TOPK, .zero_pad = desc->zero_pad};
    run r = {fga_selector_make(&policy, mask), {.density = density}, scores};
    r.selector.ops = &ops;
    fga_parallel_for(ctx, mask->rows, select_row, &r);
    fga_mask_seal(mask);
    *out = mask;
    return FGA_OK;
}
