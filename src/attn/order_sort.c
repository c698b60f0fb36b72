/* order_sort.c - Morton order, and the Hilbert curve of a power-of-two cube clipped to the grid.
 *
 * The clipped curve is what DFSAttn's published code uses: J. Skilling's index ("Programming the Hilbert curve", AIP
 * Conf. Proc. 707, 2004) with axes w, h, t. Cells outside the grid are left out, which breaks the curve there.
 */
#include "attn/order.h"

#include <stdbool.h>

typedef struct lattice {
    int64_t width, height;
    int bits; /* of a coordinate */
    bool hilbert;
} lattice;

/* Skilling's transform: coordinates become the index, whose bits lie across x[0], x[1], x[2], highest first. */
static void to_hilbert(uint32_t x[3], int bits)
{
    uint32_t flips = 0;
    for (int bit = bits - 1; bit > 0; bit--) {
        uint32_t q = (uint32_t)1 << bit, below = q - 1;
        for (int i = 0; i < 3; i++) {
            if (x[i] & q) {
                x[0] ^= below;
            } else {
                uint32_t swapped = (x[0] ^ x[i]) & below;
                x[0] ^= swapped;
                x[i] ^= swapped;
            }
        }
    }
    x[1] ^= x[0];
    x[2] ^= x[1];
    for (int bit = bits - 1; bit > 0; bit--) {
        flips ^= x[2] >> bit & 1 ? ((uint32_t)1 << bit) - 1 : 0;
    }
    for (int i = 0; i < 3; i++) {
        x[i] ^= flips;
    }
}

/* Three bits of a cell's index. */
static int digit_of(const lattice *l, int32_t cell, int level)
{
    uint32_t x[3] = {(uint32_t)(cell % l->width), (uint32_t)(cell / l->width % l->height),
                     (uint32_t)(cell / (l->width * l->height))};
    if (!l->hilbert) {
        return (int)((x[2] >> level & 1) << 2 | (x[1] >> level & 1) << 1 | (x[0] >> level & 1));
    }
    to_hilbert(x, l->bits);
    return (int)((x[0] >> level & 1) << 2 | (x[1] >> level & 1) << 1 | (x[2] >> level & 1));
}

/* Sorts cells[count] by digits `level` and below, in place: each cell is swapped to where its digit's stretch ends. */
static void sort(const lattice *l, int32_t *cells, int64_t count, int level)
{
    if (count < 2 || level < 0) {
        return;
    }
    int64_t next[9] = {0}, end[8];
    for (int64_t i = 0; i < count; i++) {
        next[digit_of(l, cells[i], level) + 1]++;
    }
    for (int d = 0; d < 8; d++) {
        next[d + 1] += next[d];
        end[d] = next[d + 1];
    }
    for (int d = 0; d < 8; d++) {
        while (next[d] < end[d]) {
            int32_t cell = cells[next[d]];
            int to = digit_of(l, cell, level);
            cells[next[d]] = cells[next[to]];
            cells[next[to]++] = cell;
        }
    }
    for (int d = 0; d < 8; d++) {
        int64_t begin = d > 0 ? end[d - 1] : 0;
        sort(l, cells + begin, end[d] - begin, level - 1);
    }
}

static void sort_grid(bool hilbert, int64_t frames, int64_t height, int64_t width, int32_t *order)
{
    lattice l = {width, height, 0, hilbert};
    while (((int64_t)1 << l.bits) < frames || ((int64_t)1 << l.bits) < height || ((int64_t)1 << l.bits) < width) {
        l.bits++;
    }
    for (int64_t i = 0; i < frames * height * width; i++) {
        order[i] = (int32_t)i;
    }
    sort(&l, order, frames * height * width, l.bits - 1);
}

void fga_order_hilbert_clipped(int64_t frames, int64_t height, int64_t width, int32_t *order)
{
    sort_grid(true, frames, height, width, order);
}

void fga_order_morton(int64_t frames, int64_t height, int64_t width, int32_t *order)
{
    sort_grid(false, frames, height, width, order);
}
