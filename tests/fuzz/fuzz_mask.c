/* libFuzzer target: any bytes as a serialised mask. The checksum is put right first, or nothing would get past it.
 * Whatever loads must be consistent: it saves to the bytes it came from, in either storage, and lists what it keeps. */
#include "fgattn.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(bool holds)
{
    if (!holds) {
        abort();
    }
}

static uint8_t *with_checksum(const uint8_t *data, size_t size)
{
    uint8_t *copy = malloc(size + 1);
    uint64_t hash = 0xcbf29ce484222325u;
    if (size > 0) {
        memcpy(copy, data, size);
    }
    for (size_t i = 16; i < size; i++) {
        hash = (hash ^ copy[i]) * 0x100000001b3u;
    }
    for (size_t i = 0; i < 8 && size >= 16; i++) {
        copy[8 + i] = (uint8_t)(hash >> (8 * i));
    }
    return copy;
}

/* Walks every row by runs; returns the kept tiles. */
static int64_t walk(const fga_mask *mask)
{
    fga_mask_desc d = fga_mask_describe(mask);
    int64_t kept = 0, tiles = fga_mask_tiles(mask);
    for (int64_t b = 0; b < d.batch; b++) {
        for (int64_t h = 0; h < d.heads; h++) {
            for (int64_t u = 0; u < fga_mask_blocks(mask); u++) {
                for (int64_t from = 0, begin; fga_mask_next_run(mask, b, h, u, from, &begin, &from);) {
                    require(begin < from && from <= tiles);
                    require(fga_mask_keeps(mask, b, h, u, begin) && fga_mask_keeps(mask, b, h, u, from - 1));
                    kept += from - begin;
                }
            }
        }
    }
    return kept;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static fga_context *ctx;
    if (ctx == NULL) {
        fga_context_options options = fga_context_options_default();
        options.threads = 1;
        require(fga_context_create(&options, &ctx) == FGA_OK);
    }
    uint8_t *bytes = with_checksum(data, size), *again = malloc(size + 1);
    fga_mask *mask;
    if (fga_mask_load(ctx, bytes, size, &mask) == FGA_OK) {
        size_t saved = size;
        require(fga_mask_save(ctx, mask, again, &saved) == FGA_OK && saved == size);
        require(memcmp(bytes, again, size) == 0);
        double density = fga_mask_density(mask);
        require(density >= 0 && density <= 1 + 1e-12);
        int64_t kept = walk(mask);
        require(fga_mask_compress(ctx, mask) == FGA_OK);
        require(walk(mask) == kept && fga_mask_density(mask) == density);
        fga_mask_release(&mask);
    }
    free(bytes);
    free(again);
    return 0;
}
