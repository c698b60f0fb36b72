/* mask_io.c - masks as bytes.
 *
 * Little-endian, version 1:
 *   0  "FGAMASK1"             8  u64 checksum: FNV-1a of everything after it
 *  16  u32 storage            20 u32 block_m      24 u32 tile_n      28 u32 zero
 *  32  i64 batch, heads       48 i64 query segments: length, valid of prefix, video, suffix     96 the key's
 * 144  u64 runs in all, 0 for a bit map
 * 152  bit map: u64 words, row after row; or runs: u64 count of each row, then u32 begin, end of each run
 *
 * Exactly one byte string exists for a mask in a storage: whatever deviates (a padding bit, touching runs, a kept tile
 * without a valid key, bytes too many) is refused.
 */
#include "attn/mask.h"

#include "base/context.h"

#include <inttypes.h>
#include <string.h>

enum { HEADER_BYTES = 152, CHECKED_FROM = 16 };
static const uint8_t magic[8] = {'F', 'G', 'A', 'M', 'A', 'S', 'K', '1'};

static void put(uint8_t *at, uint64_t value, int bytes)
{
    for (int i = 0; i < bytes; i++) {
        at[i] = (uint8_t)(value >> (8 * i));
    }
}

static uint64_t get(const uint8_t *at, int bytes)
{
    uint64_t value = 0;
    for (int i = 0; i < bytes; i++) {
        value |= (uint64_t)at[i] << (8 * i);
    }
    return value;
}

static uint64_t checksum(const uint8_t *data, size_t bytes)
{
    uint64_t hash = 0xcbf29ce484222325u;
    for (size_t i = 0; i < bytes; i++) {
        hash = (hash ^ data[i]) * 0x100000001b3u;
    }
    return hash;
}

static void put_sequence(uint8_t *at, const fga_sequence *s)
{
    const int64_t fields[6] = {s->prefix, s->prefix_valid, s->video, s->video_valid, s->suffix, s->suffix_valid};
    for (int i = 0; i < 6; i++) {
        put(at + 8 * i, (uint64_t)fields[i], 8);
    }
}

static fga_sequence get_sequence(const uint8_t *at)
{
    int64_t f[6];
    for (int i = 0; i < 6; i++) {
        f[i] = (int64_t)get(at + 8 * i, 8);
    }
    return (fga_sequence){f[0], f[1], f[2], f[3], f[4], f[5]};
}

static int64_t total_runs(const fga_mask *mask)
{
    return mask->storage == FGA_MASK_RUNS ? mask->run_offsets[mask->rows] : 0;
}

static void put_body(const fga_mask *mask, uint8_t *at)
{
    if (mask->storage == FGA_MASK_BITMAP) {
        for (int64_t i = 0; i < mask->rows * mask->words; i++, at += 8) {
            put(at, mask->bits[i], 8);
        }
        return;
    }
    for (int64_t row = 0; row < mask->rows; row++, at += 8) {
        put(at, (uint64_t)(mask->run_offsets[row + 1] - mask->run_offsets[row]), 8);
    }
    for (int64_t i = 0; i < total_runs(mask); i++, at += 8) {
        put(at, mask->runs[i].begin, 4);
        put(at + 4, mask->runs[i].end, 4);
    }
}

fga_status fga_mask_save(fga_context *ctx, const fga_mask *mask, void *buffer, size_t *bytes)
{
    if (mask == NULL || bytes == NULL) {
        return fga_context_fail(ctx, FGA_ERR_ARGUMENT, "%s is NULL", mask == NULL ? "mask" : "bytes");
    }
    if (!fga_mask_on_host(mask)) {
        return fga_context_fail(ctx, FGA_ERR_ARGUMENT, "mask is on the device alone, wanted one of fga_mask_fetch");
    }
    int64_t words = mask->storage == FGA_MASK_BITMAP ? mask->rows * mask->words : mask->rows + total_runs(mask);
    size_t needed = HEADER_BYTES + 8 * (size_t)words, capacity = *bytes;
    *bytes = needed;
    if (buffer == NULL) {
        return FGA_OK;
    }
    if (capacity < needed) {
        return fga_context_fail(ctx, FGA_ERR_ARGUMENT, "buffer holds %zu bytes, wanted %zu", capacity, needed);
    }
    uint8_t *out = buffer;
    const fga_mask_desc *d = &mask->desc;
    memcpy(out, magic, sizeof magic);
    put(out + 16, (uint64_t)mask->storage, 4);
    put(out + 20, (uint64_t)d->block_m, 4);
    put(out + 24, (uint64_t)d->tile_n, 4);
    put(out + 28, 0, 4);
    put(out + 32, (uint64_t)d->batch, 8);
    put(out + 40, (uint64_t)d->heads, 8);
    put_sequence(out + 48, &d->query);
    put_sequence(out + 96, &d->key);
    put(out + 144, (uint64_t)total_runs(mask), 8);
    put_body(mask, out + HEADER_BYTES);
    put(out + 8, checksum(out + CHECKED_FROM, needed - CHECKED_FROM), 8);
    return FGA_OK;
}

/* ---- reading: nothing is trusted, and nothing is allocated beyond what the input's own length allows ------------- */

static fga_status check_header(fga_context *ctx, const uint8_t *in, size_t bytes)
{
    if (bytes < HEADER_BYTES || memcmp(in, magic, sizeof magic - 1) != 0) {
        return fga_context_fail(ctx, FGA_ERR_DATA, "not a mask: %zu bytes without a mask's header", bytes);
    }
    if (in[7] != magic[7]) {
        return fga_context_fail(ctx, FGA_ERR_DATA, "mask version is '%c', wanted '%c'",
                                in[7] >= ' ' && in[7] < 127 ? in[7] : '?', magic[7]);
    }
    if (get(in + 8, 8) != checksum(in + CHECKED_FROM, bytes - CHECKED_FROM)) {
        return fga_context_fail(ctx, FGA_ERR_DATA, "the mask's checksum does not match: damaged or cut short");
    }
    if (get(in + 16, 4) > FGA_MASK_RUNS) {
        return fga_context_fail(ctx, FGA_ERR_DATA, "mask storage is %" PRIu64 ", wanted 0 (bit map) or 1 (runs)",
                                get(in + 16, 4));
    }
    if (get(in + 28, 4) != 0) {
        return fga_context_fail(ctx, FGA_ERR_DATA, "the mask's bytes 28 to 31 are not zero");
    }
    return FGA_OK;
}

static fga_status check_length(fga_context *ctx, const fga_mask_desc *d, uint64_t storage, uint64_t runs, size_t bytes)
{
    uint64_t blocks = (uint64_t)fga_ceil_div(fga_sequence_length(&d->query), d->block_m);
    uint64_t tiles = (uint64_t)fga_ceil_div(fga_sequence_length(&d->key), d->tile_n);
    uint64_t rows, words, wanted;
    bool fits = !__builtin_mul_overflow((uint64_t)(d->batch * d->heads), blocks, &rows);
    if (storage == FGA_MASK_BITMAP) {
        fits = fits && runs == 0 && !__builtin_mul_overflow(rows, (uint64_t)fga_mask_words((int64_t)tiles), &words);
    } else {
        fits = fits && !__builtin_add_overflow(rows, runs, &words);
    }
    fits =
        fits && !__builtin_mul_overflow(words, 8u, &wanted) && !__builtin_add_overflow(wanted, HEADER_BYTES, &wanted);
    if (!fits || wanted != bytes) {
        return fga_context_fail(ctx, FGA_ERR_DATA, "the mask has %zu bytes, which is not what its header says", bytes);
    }
    return FGA_OK;
}

static fga_status bad_row(fga_context *ctx, int64_t row, const char *what)
{
    return fga_context_fail(ctx, FGA_ERR_DATA, "row %" PRId64 " of the mask %s", row, what);
}

static fga_status get_bits(fga_context *ctx, fga_mask *mask, const uint8_t *in)
{
    for (int64_t row = 0; row < mask->rows; row++) {
        uint64_t *bits = fga_mask_bits(mask, row);
        for (int64_t w = 0; w < mask->words; w++) {
            bits[w] = get(in + 8 * (row * mask->words + w), 8);
        }
        fga_mask_seal_row(mask, row);
        for (int64_t w = 0; w < mask->words; w++) {
            if (bits[w] != get(in + 8 * (row * mask->words + w), 8)) {
                return bad_row(ctx, row, "keeps tiles without a valid key");
            }
        }
    }
    return FGA_OK;
}

static fga_status get_run_counts(fga_context *ctx, fga_mask *mask, const uint8_t *in, uint64_t runs)
{
    uint64_t sum = 0;
    mask->run_offsets[0] = 0;
    for (int64_t row = 0; row < mask->rows; row++) {
        uint64_t count = get(in + 8 * row, 8);
        if (count > runs - sum) {
            return bad_row(ctx, row, "has more runs than the whole mask");
        }
        sum += count;
        mask->run_offsets[row + 1] = (int64_t)sum;
    }
    return sum == runs ? FGA_OK : fga_context_fail(ctx, FGA_ERR_DATA, "the mask's rows have fewer runs than it says");
}

static fga_status get_runs(fga_context *ctx, fga_mask *mask, const uint8_t *in)
{
    int64_t n = mask->desc.tile_n;
    for (int64_t row = 0; row < mask->rows; row++) {
        int64_t past = -1, keys = 0; /* end of the run before */
        for (int64_t i = mask->run_offsets[row]; i < mask->run_offsets[row + 1]; i++) {
            int64_t begin = (int64_t)get(in + 8 * i, 4), end = (int64_t)get(in + 8 * i + 4, 4);
            if (begin <= past || end <= begin) {
                return bad_row(ctx, row, "has runs that are empty, touch or fall");
            }
            if (fga_spans_count(&mask->live, begin, end) != end - begin) {
                return bad_row(ctx, row, "keeps tiles without a valid key");
            }
            mask->runs[i] = (fga_run){(uint32_t)begin, (uint32_t)end};
            keys += fga_spans_count(&mask->key_valid, begin * n, end * n);
            past = end;
        }
        mask->row_keys[row] = (int32_t)keys;
    }
    return FGA_OK;
}

static fga_status load_runs(fga_context *ctx, fga_mask *mask, const uint8_t *in, uint64_t runs)
{
    mask->run_offsets = fga_alloc(ctx, (size_t)(mask->rows + 1) * sizeof *mask->run_offsets);
    mask->runs = fga_alloc(ctx, (size_t)runs * sizeof *mask->runs);
    if (mask->run_offsets == NULL || mask->runs == NULL) {
        return fga_context_fail(ctx, FGA_ERR_MEMORY, "no memory for %" PRIu64 " runs of a mask", runs);
    }
    FGA_TRY(get_run_counts(ctx, mask, in, runs));
    return get_runs(ctx, mask, in + 8 * mask->rows);
}

fga_status fga_mask_load(fga_context *ctx, const void *buffer, size_t bytes, fga_mask **out)
{
    if (buffer == NULL || out == NULL) {
        return fga_context_fail(ctx, FGA_ERR_ARGUMENT, "%s is NULL", buffer == NULL ? "buffer" : "mask");
    }
    *out = NULL;
    const uint8_t *in = buffer;
    FGA_TRY(check_header(ctx, in, bytes));
    fga_mask_desc desc = fga_mask_desc_default();
    desc.block_m = (int32_t)get(in + 20, 4);
    desc.tile_n = (int32_t)get(in + 24, 4);
    desc.batch = (int64_t)get(in + 32, 8);
    desc.heads = (int64_t)get(in + 40, 8);
    desc.query = get_sequence(in + 48);
    desc.key = get_sequence(in + 96);
    uint64_t storage = get(in + 16, 4), runs = get(in + 144, 8);
    if (fga_mask_check_desc(ctx, &desc) != FGA_OK) {
        return FGA_ERR_DATA; /* the check left the text */
    }
    FGA_TRY(check_length(ctx, &desc, storage, runs, bytes));
    fga_mask *mask;
    FGA_TRY(fga_mask_create(ctx, &desc, (fga_mask_storage)storage, &mask));
    fga_status status = storage == FGA_MASK_BITMAP ? get_bits(ctx, mask, in + HEADER_BYTES)
                                                   : load_runs(ctx, mask, in + HEADER_BYTES, runs);
    if (status == FGA_OK) {
        fga_mask_seal(mask);
        status = fga_mask_publish(ctx, mask);
    }
    if (status != FGA_OK) {
        fga_mask_release(&mask);
        return status;
    }
    *out = mask;
    return FGA_OK;
}
