/* mask.h - the inside of fga_mask: rows of kept key tiles, as bits or as runs. */
#ifndef FGA_ATTN_MASK_H
#define FGA_ATTN_MASK_H

#include "attn/grid.h"

#include <stdatomic.h>

typedef struct fga_run {
    uint32_t begin, end; /* kept tiles [begin, end); runs of a row rise and do not touch */
} fga_run;

/* Key tiles whose valid keys are fewer than N, though not none: at most one per end of a span, and the last. */
enum { FGA_MAX_PARTIAL_TILES = 8 };

struct fga_mask {
    atomic_int references;
    void (*free)(void *user, void *pointer); /* a mask may outlive its context */
    void *user;
    fga_mask_desc desc;
    fga_spans query_valid, key_valid;
    int64_t blocks, tiles, rows, words; /* rows = batch*heads*blocks; words of 64 bits per row */
    fga_spans live;                     /* tiles with a valid key, as intervals of tiles */
    int64_t live_tiles;
    int partial_tiles;
    struct {
        int64_t tile, missing;
    } partial[FGA_MAX_PARTIAL_TILES];
    fga_mask_storage storage;
    uint64_t *bits;       /* [rows][words], or NULL */
    int64_t *run_offsets; /* [rows+1]: runs of row r are runs[run_offsets[r]] ... , or NULL */
    fga_run *runs;
    int32_t *row_keys; /* [rows]: kept valid keys */
    double pairs_kept, pairs_all;
};

fga_status fga_mask_check_desc(fga_context *ctx, const fga_mask_desc *desc);
/* A bit map with nothing kept (set bits, then seal), or a mask whose run arrays are left for the caller to fill. */
fga_status fga_mask_create(fga_context *ctx, const fga_mask_desc *desc, fga_mask_storage storage, fga_mask **mask);
/* Drops tiles without a valid key from one row of bits and counts its keys; rows may be sealed in parallel. */
void fga_mask_seal_row(fga_mask *mask, int64_t row);
/* After every row is sealed: the sums over all rows. */
void fga_mask_seal(fga_mask *mask);

static inline int64_t fga_mask_row(const fga_mask *mask, int64_t b, int64_t h, int64_t u)
{
    int64_t item = mask->desc.batch > 1 ? b : 0, head = mask->desc.heads > 1 ? h : 0;
    return (item * mask->desc.heads + head) * mask->blocks + u;
}

static inline uint64_t *fga_mask_bits(const fga_mask *mask, int64_t row)
{
    return mask->bits + row * mask->words;
}

/* fga_mask_next_run by row number. */
bool fga_mask_row_run(const fga_mask *mask, int64_t row, int64_t from, int64_t *begin, int64_t *end);
/* Writes the row's kept keys that lie in `keys`, rising, into list; returns how many. */
int64_t fga_mask_list_keys(const fga_mask *mask, int64_t row, const fga_spans *keys, uint32_t *list);
/* Sets bits [begin, end). */
void fga_bits_set(uint64_t *bits, int64_t begin, int64_t end);

#endif
