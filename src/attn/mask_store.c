/* mask_store.c - the two ways to store a mask: a bit map, or runs of kept tiles. */
#include "attn/mask.h"

#include "base/context.h"

#include <inttypes.h>
#include <string.h>

fga_mask_storage fga_mask_storage_kind(const fga_mask *mask)
{
    return mask->storage;
}

static size_t runs_bytes(const fga_mask *mask, int64_t runs)
{
    return (size_t)(mask->rows + 1) * sizeof(int64_t) + (size_t)runs * sizeof(fga_run);
}

/* A run begins at every 1 whose lower neighbour is 0. */
static int64_t count_runs(const fga_mask *mask)
{
    if (mask->storage == FGA_MASK_RUNS) {
        return mask->run_offsets[mask->rows];
    }
    int64_t runs = 0;
    for (int64_t row = 0; row < mask->rows; row++) {
        const uint64_t *bits = fga_mask_bits(mask, row);
        uint64_t before = 0;
        for (int64_t w = 0; w < mask->words; w++) {
            runs += __builtin_popcountll(bits[w] & ~(bits[w] << 1 | before));
            before = bits[w] >> 63;
        }
    }
    return runs;
}

size_t fga_mask_bytes(const fga_mask *mask)
{
    return mask->storage == FGA_MASK_BITMAP ? fga_mask_bitmap_bytes(mask) : runs_bytes(mask, count_runs(mask));
}

static bool runs_are_smaller(const fga_mask *mask, int64_t runs)
{
    return runs_bytes(mask, runs) < fga_mask_bitmap_bytes(mask);
}

static fga_status alloc_runs(fga_context *ctx, int64_t rows, int64_t runs, int64_t **offsets, fga_run **list)
{
    *offsets = fga_alloc(ctx, (size_t)(rows + 1) * sizeof **offsets);
    *list = fga_alloc(ctx, (size_t)runs * sizeof **list);
    if (*offsets == NULL || *list == NULL) {
        fga_free(ctx, *offsets);
        fga_free(ctx, *list);
        *offsets = NULL;
        *list = NULL;
        return fga_context_fail(ctx, FGA_ERR_MEMORY, "no memory for %" PRId64 " runs of a mask", runs);
    }
    return FGA_OK;
}

static void list_runs(const fga_mask *mask, int64_t *offsets, fga_run *list)
{
    int64_t count = 0;
    offsets[0] = 0;
    for (int64_t row = 0; row < mask->rows; row++) {
        int64_t begin, end = 0;
        while (fga_mask_row_run(mask, row, end, &begin, &end)) {
            list[count++] = (fga_run){(uint32_t)begin, (uint32_t)end};
        }
        offsets[row + 1] = count;
    }
}

/* ---- in place ------------------------------------------------------------------------------------- */

static fga_status to_runs(fga_context *ctx, fga_mask *mask, int64_t runs)
{
    int64_t *offsets;
    fga_run *list;
    FGA_TRY(alloc_runs(ctx, mask->rows, runs, &offsets, &list));
    list_runs(mask, offsets, list);
    fga_mask_drop(mask, mask->bits);
    mask->bits = NULL;
    mask->run_offsets = offsets;
    mask->runs = list;
    mask->storage = FGA_MASK_RUNS;
    return FGA_OK;
}

static fga_status to_bitmap(fga_context *ctx, fga_mask *mask)
{
    size_t bytes = fga_mask_bitmap_bytes(mask);
    uint64_t *bits = fga_alloc(ctx, bytes);
    if (bits == NULL) {
        return fga_context_fail(ctx, FGA_ERR_MEMORY, "no memory for a bit map of %zu bytes", bytes);
    }
    memset(bits, 0, bytes);
    for (int64_t row = 0; row < mask->rows; row++) {
        for (int64_t i = mask->run_offsets[row]; i < mask->run_offsets[row + 1]; i++) {
            fga_bits_set(bits + row * mask->words, mask->runs[i].begin, mask->runs[i].end);
        }
    }
    fga_mask_drop(mask, mask->run_offsets);
    fga_mask_drop(mask, mask->runs);
    mask->run_offsets = NULL;
    mask->runs = NULL;
    mask->bits = bits;
    mask->storage = FGA_MASK_BITMAP;
    return FGA_OK;
}

fga_status fga_mask_compress(fga_context *ctx, fga_mask *mask)
{
    if (ctx == NULL || mask == NULL) {
        return fga_context_fail(ctx, FGA_ERR_ARGUMENT, "%s is NULL", ctx == NULL ? "ctx" : "mask");
    }
    if (!fga_mask_on_host(mask)) {
        return fga_context_fail(ctx, FGA_ERR_ARGUMENT, "mask is on the device alone, wanted one of fga_mask_fetch");
    }
    if (mask->free != ctx->options.free || mask->user != ctx->options.user) {
        return fga_context_fail(ctx, FGA_ERR_ARGUMENT, "mask is of a context with another allocator");
    }
    int64_t runs = count_runs(mask);
    fga_mask_storage smaller = runs_are_smaller(mask, runs) ? FGA_MASK_RUNS : FGA_MASK_BITMAP;
    if (smaller == mask->storage) {
        return FGA_OK;
    }
    FGA_TRY(smaller == FGA_MASK_RUNS ? to_runs(ctx, mask, runs) : to_bitmap(ctx, mask));
    return fga_mask_publish(ctx, mask);
}

/* ---- as a copy ------------------------------------------------------------------------------------- */

static void copy_counts(const fga_mask *made, fga_mask *kept)
{
    memcpy(kept->row_keys, made->row_keys, (size_t)made->rows * sizeof *made->row_keys);
    kept->pairs_kept = made->pairs_kept;
}

fga_status fga_mask_store(fga_context *ctx, const fga_mask *made, fga_mask **kept)
{
    int64_t runs = count_runs(made);
    fga_mask_storage smaller = runs_are_smaller(made, runs) ? FGA_MASK_RUNS : FGA_MASK_BITMAP;
    fga_mask *old = *kept, *mask = old;
    bool alone = old != NULL && atomic_load_explicit(&old->references, memory_order_acquire) == 1;
    if (!alone || smaller == FGA_MASK_RUNS || old->storage == FGA_MASK_RUNS) {
        FGA_TRY(fga_mask_create(ctx, &made->desc, smaller, &mask));
    }
    if (smaller == FGA_MASK_BITMAP) {
        memcpy(mask->bits, made->bits, fga_mask_bitmap_bytes(made));
    } else {
        fga_status status = alloc_runs(ctx, made->rows, runs, &mask->run_offsets, &mask->runs);
        if (status != FGA_OK) {
            fga_mask_release(&mask);
            return status;
        }
        list_runs(made, mask->run_offsets, mask->runs);
    }
    copy_counts(made, mask);
    if (mask != old) {
        fga_mask_release(kept);
    }
    *kept = mask;
    return FGA_OK;
}
