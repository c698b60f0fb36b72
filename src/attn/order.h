/* order.h - orders that are a sort of the grid's cells by an index of theirs. */
#ifndef FGA_ATTN_ORDER_H
#define FGA_ATTN_ORDER_H

#include <stdint.h>

/* order [frames*height*width] becomes the raster indices, by rising index in the smallest power-of-two cube around the
 * grid: Skilling's Hilbert index of (w, h, t), or interleaved bits. Neither needs more memory than the result. */
void fga_order_hilbert_clipped(int64_t frames, int64_t height, int64_t width, int32_t *order);
void fga_order_morton(int64_t frames, int64_t height, int64_t width, int32_t *order);

#endif
