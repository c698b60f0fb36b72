/* mask.c - tile masks: building, counting and iterating. */
#include "attn/mask.h"

#include "base/context.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

/* ---- bits --------------------------------------------------------------------------------------- */

void fga_bits_set(uint64_t *bits, int64_t begin, int64_t end)
{
    while (begin < end) {
        int64_t word_end = fga_min(end, (begin / 64 + 1) * 64);
        uint64_t ones = ~(uint64_t)0 >> (64 - (word_end - begin));
        bits[begin / 64] |= ones << (begin % 64);
        begin = word_end;
    }
}

static void clear_bits(uint64_t *bits, int64_t begin, int64_t end)
{
    while (begin < end) {
        int64_t word_end = fga_min(end, (begin / 64 + 1) * 64);
        uint64_t ones = ~(uint64_t)0 >> (64 - (word_end - begin));
        bits[begin / 64] &= ~(ones << (begin % 64));
        begin = word_end;
    }
}

/* The first position at or after `from` whose bit, flipped by `flip`, is 1; `count` when there is none. */
static int64_t find_bit(const uint64_t *bits, int64_t count, int64_t from, uint64_t flip)
{
    if (from >= count) {
        return count;
    }
    int64_t words = fga_ceil_div(count, 64), w = from / 64;
    uint64_t word = (bits[w] ^ flip) & (~(uint64_t)0 << (from % 64));
    while (word == 0) {
        if (++w == words) {
            return count;
        }
        word = bits[w] ^ flip;
    }
    return fga_min(count, w * 64 + __builtin_ctzll(word));
}

/* ---- making ------------------------------------------------------------------------------------- */

fga_mask_desc fga_mask_desc_default(void)
{
    return (fga_mask_desc){.size = sizeof(fga_mask_desc), .batch = 1, .heads = 1, .block_m = 128, .tile_n = 128};
}

fga_status fga_mask_check_desc(fga_context *ctx, const fga_mask_desc *desc)
{
    FGA_TRY(fga_check_struct(ctx, "fga_mask_desc", desc->size, sizeof *desc));
    FGA_TRY(fga_check_range(ctx, "mask batch", desc->batch, 1, FGA_MAX_HEADS));
    FGA_TRY(fga_check_range(ctx, "mask heads", desc->heads, 1, FGA_MAX_HEADS));
    FGA_TRY(fga_check_block_m(ctx, desc->block_m));
    FGA_TRY(fga_check_tile_n(ctx, desc->tile_n));
    FGA_TRY(fga_check_sequence(ctx, "mask query", &desc->query));
    return fga_check_sequence(ctx, "mask key", &desc->key);
}

/* Which tiles hold a valid key, and which of those are not full. */
static void survey_tiles(fga_mask *mask)
{
    int64_t n = mask->desc.tile_n;
    for (int i = 0; i < mask->key_valid.count; i++) {
        int64_t begin = mask->key_valid.begin[i], end = mask->key_valid.end[i];
        fga_spans_add(&mask->live, begin / n, fga_ceil_div(end, n));
        const int64_t ends[2] = {begin / n, (end - 1) / n};
        for (int e = 0; e < 2; e++) {
            int64_t tile = ends[e], missing = n - fga_spans_count(&mask->key_valid, tile * n, (tile + 1) * n);
            bool known = mask->partial_tiles > 0 && mask->partial[mask->partial_tiles - 1].tile == tile;
            if (missing > 0 && !known) {
                mask->partial[mask->partial_tiles].tile = tile;
                mask->partial[mask->partial_tiles++].missing = missing;
            }
        }
    }
    mask->live_tiles = fga_spans_count(&mask->live, 0, mask->tiles);
}

fga_status fga_mask_create(fga_context *ctx, const fga_mask_desc *desc, fga_mask_storage storage, fga_mask **out)
{
    *out = NULL;
    if (ctx == NULL) {
        return FGA_ERR_ARGUMENT;
    }
    FGA_TRY(fga_mask_check_desc(ctx, desc));
    int64_t blocks = fga_ceil_div(fga_sequence_length(&desc->query), desc->block_m);
    int64_t tiles = fga_ceil_div(fga_sequence_length(&desc->key), desc->tile_n);
    int64_t rows, words = fga_mask_words(tiles), bits;
    size_t total = 0;
    if (__builtin_mul_overflow(desc->batch * desc->heads, blocks, &rows) || /* batch and heads are at most 2^16 */
        __builtin_mul_overflow(rows, words, &bits) || !fga_size_add(&total, bits, sizeof(uint64_t)) ||
        !fga_size_add(&total, rows, sizeof(int32_t))) {
        fga_context_fail(ctx, FGA_ERR_ARGUMENT,
                         "a mask of %" PRId64 " heads x %" PRId64 " blocks x %" PRId64 " tiles is too large",
                         desc->batch * desc->heads, blocks, tiles);
        return FGA_ERR_ARGUMENT;
    }
    fga_mask *mask = fga_alloc(ctx, sizeof *mask);
    if (mask == NULL) {
        fga_context_fail(ctx, FGA_ERR_MEMORY, "no memory for a mask");
        return FGA_ERR_MEMORY;
    }
    *mask = (fga_mask){.free = ctx->options.free, .user = ctx->options.user, .desc = *desc, .storage = storage};
    atomic_init(&mask->references, 1);
    mask->blocks = blocks;
    mask->tiles = tiles;
    mask->rows = rows;
    mask->words = words;
    mask->query_valid = fga_spans_valid(&desc->query);
    mask->key_valid = fga_spans_valid(&desc->key);
    mask->pairs_all = (double)(desc->batch * desc->heads) * (double)fga_sequence_valid(&desc->query) *
                      (double)fga_sequence_valid(&desc->key);
    mask->row_keys = fga_alloc(ctx, (size_t)rows * sizeof *mask->row_keys);
    mask->bits = storage == FGA_MASK_BITMAP ? fga_alloc(ctx, fga_mask_bitmap_bytes(mask)) : NULL;
    if (mask->row_keys == NULL || (storage == FGA_MASK_BITMAP && mask->bits == NULL)) {
        fga_mask_release(&mask);
        fga_context_fail(ctx, FGA_ERR_MEMORY, "no memory for a mask of %zu bytes", total);
        return FGA_ERR_MEMORY;
    }
    if (mask->bits != NULL) {
        memset(mask->bits, 0, fga_mask_bitmap_bytes(mask));
    }
    memset(mask->row_keys, 0, (size_t)rows * sizeof *mask->row_keys);
    survey_tiles(mask);
    *out = mask;
    return FGA_OK;
}

fga_mask *fga_mask_retain(fga_mask *mask)
{
    if (mask != NULL) {
        atomic_fetch_add_explicit(&mask->references, 1, memory_order_relaxed);
    }
    return mask;
}

void fga_mask_drop(const fga_mask *mask, void *pointer)
{
    if (pointer != NULL) {
        mask->free(mask->user, pointer);
    }
}

void fga_mask_release(fga_mask **handle)
{
    if (handle == NULL || *handle == NULL) {
        return;
    }
    fga_mask *mask = *handle;
    *handle = NULL;
    if (atomic_fetch_sub_explicit(&mask->references, 1, memory_order_acq_rel) > 1) {
        return;
    }
    fga_gpu_mask_free(&mask->gpu);
    fga_mask_drop(mask, mask->bits);
    fga_mask_drop(mask, mask->run_offsets);
    fga_mask_drop(mask, mask->runs);
    fga_mask_drop(mask, mask->row_keys);
    mask->free(mask->user, mask);
}

void fga_mask_seal_row(fga_mask *mask, int64_t row)
{
    uint64_t *bits = fga_mask_bits(mask, row);
    int64_t kept = 0, dead = 0;
    for (int i = 0; i < mask->live.count; i++) {
        clear_bits(bits, dead, mask->live.begin[i]);
        dead = mask->live.end[i];
    }
    clear_bits(bits, dead, mask->words * 64);
    for (int64_t w = 0; w < mask->words; w++) {
        kept += __builtin_popcountll(bits[w]);
    }
    int64_t keys = kept * mask->desc.tile_n;
    for (int i = 0; i < mask->partial_tiles; i++) {
        int64_t tile = mask->partial[i].tile;
        if (bits[tile / 64] >> (tile % 64) & 1) {
            keys -= mask->partial[i].missing;
        }
    }
    mask->row_keys[row] = (int32_t)keys;
}

/* Kept valid pairs of rows [begin, end). */
static double count_pairs(const fga_mask *mask, int64_t begin, int64_t end)
{
    int64_t m = mask->desc.block_m;
    double pairs = 0;
    for (int64_t row = begin; row < end; row++) {
        int64_t u = row % mask->blocks;
        pairs += (double)mask->row_keys[row] * (double)fga_spans_count(&mask->query_valid, u * m, (u + 1) * m);
    }
    return pairs;
}

void fga_mask_seal(fga_mask *mask)
{
    mask->pairs_kept = count_pairs(mask, 0, mask->rows);
}

double fga_mask_head_density(const fga_mask *mask, int64_t head)
{
    double all = mask->pairs_all / (double)(mask->desc.batch * mask->desc.heads);
    return all > 0 ? count_pairs(mask, head * mask->blocks, (head + 1) * mask->blocks) / all : 0.0;
}

fga_status fga_mask_publish(fga_context *ctx, fga_mask *mask)
{
    if (ctx->options.device != FGA_DEVICE_CUDA) {
        return FGA_OK;
    }
    fga_gpu_mask_free(&mask->gpu);
    int32_t *order = fga_alloc(ctx, (size_t)mask->rows * sizeof *order);
    fga_status status = FGA_ERR_MEMORY;
    if (order == NULL) {
        fga_context_fail(ctx, status, "no memory to order %" PRId64 " blocks of a mask", mask->rows);
        goto cleanup;
    }
    FGA_CHECK(fga_mask_order_blocks(ctx, mask, order));
    const fga_gpu_mask_source source = {
        .bits = mask->bits,
        .run_offsets = mask->run_offsets,
        .runs = (const uint32_t *)mask->runs,
        .row_keys = mask->row_keys,
        .row_order = order,
        .rows = mask->rows,
        .words = mask->words,
    };
    FGA_CHECK(fga_gpu_mask_upload(ctx, &source, &mask->gpu));
cleanup:
    fga_free(ctx, order);
    return status;
}

/* Seals and publishes a bit map; releases it where that fails. */
static fga_status finish(fga_context *ctx, fga_mask **mask)
{
    for (int64_t row = 0; row < (*mask)->rows; row++) {
        fga_mask_seal_row(*mask, row);
    }
    fga_mask_seal(*mask);
    fga_status status = fga_mask_publish(ctx, *mask);
    if (status != FGA_OK) {
        fga_mask_release(mask);
    }
    return status;
}

/* ---- builders ----------------------------------------------------------------------------------- */

/* Returns constants where it fails, so that a static analyser sees *mask set wherever the status is FGA_OK. */
static fga_status begin_build(fga_context *ctx, const fga_mask_desc *desc, bool has_source, const char *source,
                              fga_mask **mask)
{
    if (mask == NULL) {
        fga_context_fail(ctx, FGA_ERR_ARGUMENT, "mask is NULL");
        return FGA_ERR_ARGUMENT;
    }
    *mask = NULL;
    if (desc == NULL || !has_source) {
        fga_context_fail(ctx, FGA_ERR_ARGUMENT, "%s is NULL", desc == NULL ? "desc" : source);
        return FGA_ERR_ARGUMENT;
    }
    return fga_mask_create(ctx, desc, FGA_MASK_BITMAP, mask);
}

fga_status fga_mask_from_bool(fga_context *ctx, const fga_mask_desc *desc, const uint8_t *keep, fga_mask **out)
{
    FGA_TRY(begin_build(ctx, desc, keep != NULL, "keep", out));
    fga_mask *mask = *out;
    for (int64_t row = 0; row < mask->rows; row++) {
        const uint8_t *kept = keep + row * mask->tiles;
        uint64_t *bits = fga_mask_bits(mask, row);
        for (int64_t v = 0; v < mask->tiles; v++) {
            bits[v / 64] |= (uint64_t)(kept[v] != 0) << (v % 64);
        }
    }
    return finish(ctx, out);
}

/* Offsets before any tile is read: only rising ones stay inside the list. */
static fga_status check_offsets(fga_context *ctx, const fga_mask *mask, const int64_t *offsets, const int32_t *tiles)
{
    if (offsets[0] < 0) {
        return fga_context_fail(ctx, FGA_ERR_ARGUMENT, "offsets[0] is %" PRId64 ", wanted at least 0", offsets[0]);
    }
    for (int64_t row = 0; row < mask->rows; row++) {
        if (offsets[row + 1] < offsets[row]) {
            return fga_context_fail(ctx, FGA_ERR_ARGUMENT,
                                    "offsets[%" PRId64 "] is %" PRId64 ", wanted at least %" PRId64, row + 1,
                                    offsets[row + 1], offsets[row]);
        }
    }
    if (tiles == NULL && offsets[mask->rows] > offsets[0]) {
        return fga_context_fail(ctx, FGA_ERR_ARGUMENT, "tiles is NULL");
    }
    return FGA_OK;
}

static fga_status fill_from_lists(fga_context *ctx, fga_mask *mask, const int64_t *offsets, const int32_t *tiles)
{
    FGA_TRY(check_offsets(ctx, mask, offsets, tiles));
    for (int64_t row = 0; row < mask->rows; row++) {
        uint64_t *bits = fga_mask_bits(mask, row);
        for (int64_t i = offsets[row]; i < offsets[row + 1]; i++) {
            if (tiles[i] < 0 || tiles[i] >= mask->tiles) {
                return fga_context_fail(ctx, FGA_ERR_ARGUMENT,
                                        "tiles[%" PRId64 "] of row %" PRId64 " is %d, wanted 0 ... %" PRId64, i, row,
                                        tiles[i], mask->tiles - 1);
            }
            fga_bits_set(bits, tiles[i], (int64_t)tiles[i] + 1);
        }
    }
    return FGA_OK;
}

fga_status fga_mask_from_lists(fga_context *ctx, const fga_mask_desc *desc, const int64_t *offsets,
                               const int32_t *tiles, fga_mask **out)
{
    FGA_TRY(begin_build(ctx, desc, offsets != NULL, "offsets", out));
    fga_status status = fill_from_lists(ctx, *out, offsets, tiles);
    if (status != FGA_OK) {
        fga_mask_release(out);
        return status;
    }
    return finish(ctx, out);
}

fga_status fga_mask_from_function(fga_context *ctx, const fga_mask_desc *desc,
                                  bool (*keep)(void *user, int64_t b, int64_t h, int64_t u, int64_t v), void *user,
                                  fga_mask **out)
{
    FGA_TRY(begin_build(ctx, desc, keep != NULL, "keep", out));
    fga_mask *mask = *out;
    int64_t row = 0;
    for (int64_t b = 0; b < desc->batch; b++) {
        for (int64_t h = 0; h < desc->heads; h++) {
            for (int64_t u = 0; u < mask->blocks; u++, row++) {
                uint64_t *bits = fga_mask_bits(mask, row);
                for (int64_t v = 0; v < mask->tiles; v++) {
                    bits[v / 64] |= (uint64_t)keep(user, b, h, u, v) << (v % 64);
                }
            }
        }
    }
    return finish(ctx, out);
}

/* ---- reading ------------------------------------------------------------------------------------ */

fga_mask_desc fga_mask_describe(const fga_mask *mask)
{
    return mask->desc;
}

int64_t fga_mask_blocks(const fga_mask *mask)
{
    return mask->blocks;
}

int64_t fga_mask_tiles(const fga_mask *mask)
{
    return mask->tiles;
}

/* The first run of the row that ends after tile `from`, as an index into runs. */
static int64_t find_run(const fga_mask *mask, int64_t row, int64_t from)
{
    int64_t low = mask->run_offsets[row], high = mask->run_offsets[row + 1];
    while (low < high) {
        int64_t middle = low + (high - low) / 2;
        if ((int64_t)mask->runs[middle].end <= from) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return low;
}

bool fga_mask_row_run(const fga_mask *mask, int64_t row, int64_t from, int64_t *begin, int64_t *end)
{
    if (mask->storage == FGA_MASK_BITMAP) {
        const uint64_t *bits = fga_mask_bits(mask, row);
        *begin = find_bit(bits, mask->tiles, from, 0);
        *end = find_bit(bits, mask->tiles, *begin, ~(uint64_t)0);
        return *begin < mask->tiles;
    }
    int64_t run = find_run(mask, row, from);
    if (run == mask->run_offsets[row + 1]) {
        return false;
    }
    *begin = fga_max(from, mask->runs[run].begin);
    *end = mask->runs[run].end;
    return true;
}

static bool has_row(const fga_mask *mask, int64_t b, int64_t h, int64_t u)
{
    return fga_mask_on_host(mask) && b >= 0 && (b < mask->desc.batch || mask->desc.batch == 1) && h >= 0 &&
           (h < mask->desc.heads || mask->desc.heads == 1) && u >= 0 && u < mask->blocks;
}

bool fga_mask_next_run(const fga_mask *mask, int64_t b, int64_t h, int64_t u, int64_t from, int64_t *start,
                       int64_t *end)
{
    return has_row(mask, b, h, u) && fga_mask_row_run(mask, fga_mask_row(mask, b, h, u), fga_max(from, 0), start, end);
}

bool fga_mask_keeps(const fga_mask *mask, int64_t b, int64_t h, int64_t u, int64_t v)
{
    int64_t start, end;
    return v >= 0 && v < mask->tiles && fga_mask_next_run(mask, b, h, u, v, &start, &end) && start == v;
}

double fga_mask_density(const fga_mask *mask)
{
    return mask->pairs_all > 0 ? mask->pairs_kept / mask->pairs_all : 0.0;
}

static int64_t list_interval(uint32_t *list, int64_t begin, int64_t end)
{
    for (int64_t i = 0; i < end - begin; i++) {
        list[i] = (uint32_t)(begin + i);
    }
    return end - begin;
}

/* Keys [begin, end) of the row's kept tiles, a word of 64 tiles at a time: with scattered tiles a search for each run
 * would cost more than the run itself. */
static int64_t list_from_bits(const fga_mask *mask, int64_t row, int64_t begin, int64_t end, uint32_t *list)
{
    const uint64_t *bits = fga_mask_bits(mask, row);
    int64_t n = mask->desc.tile_n, first = begin / n, last = (end - 1) / n, count = 0;
    for (int64_t w = first / 64; w <= last / 64; w++) {
        uint64_t word = bits[w];
        word &= w == first / 64 ? ~(uint64_t)0 << (first % 64) : ~(uint64_t)0;
        word &= w == last / 64 ? ~(uint64_t)0 >> (63 - last % 64) : ~(uint64_t)0;
        if (word == ~(uint64_t)0) {
            count += list_interval(list + count, fga_max(w * 64 * n, begin), fga_min((w + 1) * 64 * n, end));
        } else if (n == 1) {
            for (; word != 0; word &= word - 1) {
                list[count++] = (uint32_t)(w * 64 + __builtin_ctzll(word));
            }
        } else {
            for (; word != 0; word &= word - 1) {
                int64_t tile = w * 64 + __builtin_ctzll(word);
                count += list_interval(list + count, fga_max(tile * n, begin), fga_min((tile + 1) * n, end));
            }
        }
    }
    return count;
}

static int64_t list_from_runs(const fga_mask *mask, int64_t row, int64_t begin, int64_t end, uint32_t *list)
{
    int64_t n = mask->desc.tile_n, count = 0;
    for (int64_t i = find_run(mask, row, begin / n); i < mask->run_offsets[row + 1]; i++) {
        int64_t from = fga_max(mask->runs[i].begin * n, begin), to = fga_min(mask->runs[i].end * n, end);
        if (from >= to) {
            break;
        }
        count += list_interval(list + count, from, to);
    }
    return count;
}

int64_t fga_mask_list_keys(const fga_mask *mask, int64_t row, const fga_spans *keys, uint32_t *list)
{
    int64_t count = 0;
    for (int i = 0; i < keys->count; i++) {
        count += mask->storage == FGA_MASK_BITMAP
                     ? list_from_bits(mask, row, keys->begin[i], keys->end[i], list + count)
                     : list_from_runs(mask, row, keys->begin[i], keys->end[i], list + count);
    }
    return count;
}
