/* mask.h - the inside of fga_mask: rows of kept key tiles, as bits or as runs. */
#ifndef FGA_ATTN_MASK_H
#define FGA_ATTN_MASK_H

#include "attn/grid.h"
#include "ops/gpu.h"

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
    fga_gpu_mask gpu;    /* the copy on the device of a CUDA context; of a mask made there, all there is */
    uint64_t *gpu_pairs; /* there: kept valid pairs of a mask made there; or NULL */
};

/* Of a row of a bit map; at least one, so that no row is free of charge to whoever writes a file of them. */
static inline int64_t fga_mask_words(int64_t tiles)
{
    return fga_max(1, fga_ceil_div(tiles, 64));
}

fga_status fga_mask_check_desc(fga_context *ctx, const fga_mask_desc *desc);
/* A bit map with nothing kept (set bits, then seal), or a mask whose run arrays are left for the caller to fill. */
fga_status fga_mask_create(fga_context *ctx, const fga_mask_desc *desc, fga_mask_storage storage, fga_mask **mask);
/* Drops tiles without a valid key from one row of bits and counts its keys; rows may be sealed in parallel. */
void fga_mask_seal_row(fga_mask *mask, int64_t row);
/* After every row is sealed: the sums over all rows. */
void fga_mask_seal(fga_mask *mask);
/* On a CUDA context: copies the finished mask to the device, in place of an earlier copy. Else nothing. */
fga_status fga_mask_publish(fga_context *ctx, fga_mask *mask);

/* The order in which a device takes the blocks of each head, order [rows]: those with most keys first, a lower one
 * first where equal. Of M below 64, FGA_GPU_AT_ONCE blocks with similar lists lie side by side, and the groups with
 * most keys come first; what is left of the last group comes last. */
fga_status fga_mask_order_blocks(fga_context *ctx, const fga_mask *mask, int32_t *order);

/* False for a mask made on a device: bits and runs are NULL. */
static inline bool fga_mask_on_host(const fga_mask *mask)
{
    return mask->bits != NULL || mask->run_offsets != NULL;
}

static inline int64_t fga_mask_row(const fga_mask *mask, int64_t b, int64_t h, int64_t u)
{
    int64_t item = mask->desc.batch > 1 ? b : 0, head = mask->desc.heads > 1 ? h : 0;
    return (item * mask->desc.heads + head) * mask->blocks + u;
}

static inline uint64_t *fga_mask_bits(const fga_mask *mask, int64_t row)
{
    return mask->bits + row * mask->words;
}

static inline size_t fga_mask_bitmap_bytes(const fga_mask *mask)
{
    return (size_t)(mask->rows * mask->words) * sizeof(uint64_t);
}

/* fga_mask_density of head b*heads + h alone. */
double fga_mask_head_density(const fga_mask *mask, int64_t head);
/* Frees memory of the mask's; pointer may be NULL. */
void fga_mask_drop(const fga_mask *mask, void *pointer);
/* Makes *kept equal to `made`, a sealed bit map, in whichever storage is smaller. *kept is NULL or an older mask of the
 * same shape, which is overwritten if nobody else holds it and it fits, else released; unchanged on failure. */
fga_status fga_mask_store(fga_context *ctx, const fga_mask *made, fga_mask **kept);
/* fga_mask_next_run by row number. */
bool fga_mask_row_run(const fga_mask *mask, int64_t row, int64_t from, int64_t *begin, int64_t *end);
/* Writes the row's kept keys that lie in `keys`, rising, into list; returns how many. */
int64_t fga_mask_list_keys(const fga_mask *mask, int64_t row, const fga_spans *keys, uint32_t *list);
/* Sets bits [begin, end). */
void fga_bits_set(uint64_t *bits, int64_t begin, int64_t end);

#endif
