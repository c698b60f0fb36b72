/* order.c - token orders: raster, boxes, and a Hilbert curve generalised to any cuboid.
 *
 * The generalised curve (J. Cerveny's "gilbert") walks a cuboid spanned by three signed, axis-aligned edges a, b, c. It
 * enters at one corner and leaves at the far end of edge a. Each step of the recursion cuts the cuboid into two, three
 * or five smaller ones, entered and left so that the pieces join without a jump. Cuts fall in the middle, moved by one
 * cell where the middle is odd: a piece of even length can be left on the side it was entered from.
 */
#include "attn/order.h"

#include "attn/grid.h"

#include <inttypes.h>
#include <stdlib.h>

typedef struct edge {
    int axis;       /* 0 = w, 1 = h, 2 = t */
    int32_t length; /* cells; the sign is the direction */
} edge;

typedef struct walk {
    int64_t stride[3]; /* raster index of one step along each axis */
    int32_t *next;
} walk;

static int32_t sign(edge e)
{
    return (e.length > 0) - (e.length < 0);
}

static edge scaled(edge e, int32_t length)
{
    return (edge){e.axis, length};
}

/* Halves truncate toward zero: with floor, edges of negative direction would be cut one cell off and the pieces no
 * longer meet. */
static edge half(edge e)
{
    int32_t length = e.length / 2;
    if (length % 2 != 0 && abs(e.length) > 2) {
        length += sign(e);
    }
    return scaled(e, length);
}

static edge rest(edge e, edge part)
{
    return scaled(e, e.length - part.length);
}

static edge back(edge e)
{
    return scaled(e, -e.length);
}

static int64_t across(const walk *w, edge e)
{
    return e.length * w->stride[e.axis];
}

/* From the first cell of an edge to its last. */
static int64_t to_last(const walk *w, edge e)
{
    return (e.length - sign(e)) * w->stride[e.axis];
}

static void line(walk *w, int64_t at, edge e)
{
    int64_t step = sign(e) * w->stride[e.axis];
    for (int32_t i = 0; i < abs(e.length); i++, at += step) {
        *w->next++ = (int32_t)at;
    }
}

/* Visits every cell of the cuboid at `at` (the raster index of the entry corner) once. */
static void cuboid(walk *w, int64_t at, edge a, edge b, edge c)
{
    int64_t la = abs(a.length), lb = abs(b.length), lc = abs(c.length);
    if (la * lb * lc == 0) {
        return;
    }
    if (lb == 1 && lc == 1) {
        line(w, at, a);
        return;
    }
    if (la == 1 && lc == 1) {
        line(w, at, b);
        return;
    }
    if (la == 1 && lb == 1) {
        line(w, at, c);
        return;
    }
    edge a1 = half(a), b1 = half(b), c1 = half(c);
    edge a2 = rest(a, a1), b2 = rest(b, b1), c2 = rest(c, c1);
    if (2 * la > 3 * lb && 2 * la > 3 * lc) { /* long: two pieces, one after the other */
        cuboid(w, at, a1, b, c);
        cuboid(w, at + across(w, a1), a2, b, c);
    } else if (3 * lb > 4 * lc) { /* flat in c: a U over b and a */
        cuboid(w, at, b1, c, a1);
        cuboid(w, at + across(w, b1), a, b2, c);
        cuboid(w, at + to_last(w, a) + to_last(w, b1), back(b1), c, back(a2));
    } else if (3 * lc > 4 * lb) { /* flat in b: a U over c and a */
        cuboid(w, at, c1, a1, b);
        cuboid(w, at + across(w, c1), a, b, c2);
        cuboid(w, at + to_last(w, a) + to_last(w, c1), back(c1), back(a2), b);
    } else { /* nearly a cube: up, over, along, back, down */
        cuboid(w, at, b1, c1, a1);
        cuboid(w, at + across(w, b1), c, a1, b2);
        cuboid(w, at + to_last(w, b1) + to_last(w, c), a, back(b1), back(c2));
        cuboid(w, at + to_last(w, a) + across(w, b1) + to_last(w, c), back(c), back(a2), b2);
        cuboid(w, at + to_last(w, a) + to_last(w, b1), back(b1), c1, back(a2));
    }
}

static void hilbert(int32_t frames, int32_t height, int32_t width, int32_t *order)
{
    walk w = {{1, width, (int64_t)width * height}, order};
    edge x = {0, width}, y = {1, height}, z = {2, frames};
    if (width >= height && width >= frames) {
        cuboid(&w, 0, x, y, z);
    } else if (height >= frames) {
        cuboid(&w, 0, y, x, z);
    } else {
        cuboid(&w, 0, z, x, y);
    }
}

enum { BOX = 4 }; /* cells along each axis */

static void boxes(int64_t frames, int64_t height, int64_t width, int32_t *order)
{
    for (int64_t t0 = 0; t0 < frames; t0 += BOX) {
        for (int64_t h0 = 0; h0 < height; h0 += BOX) {
            for (int64_t w0 = 0; w0 < width; w0 += BOX) {
                for (int64_t t = t0; t < fga_min(t0 + BOX, frames); t++) {
                    for (int64_t h = h0; h < fga_min(h0 + BOX, height); h++) {
                        for (int64_t w = w0; w < fga_min(w0 + BOX, width); w++) {
                            *order++ = (int32_t)((t * height + h) * width + w);
                        }
                    }
                }
            }
        }
    }
}

fga_status fga_order_build(fga_context *ctx, fga_order kind, int64_t frames, int64_t height, int64_t width,
                           int32_t *order)
{
    FGA_TRY(fga_check_range(ctx, "frames", frames, 1, FGA_MAX_TOKENS));
    FGA_TRY(fga_check_range(ctx, "height", height, 1, FGA_MAX_TOKENS));
    FGA_TRY(fga_check_range(ctx, "width", width, 1, FGA_MAX_TOKENS));
    if (frames > FGA_MAX_TOKENS / height || frames * height > FGA_MAX_TOKENS / width) {
        return fga_context_fail(ctx, FGA_ERR_ARGUMENT,
                                "a grid of %" PRId64 "x%" PRId64 "x%" PRId64 " is too large, wanted at most %" PRId64
                                " tokens",
                                frames, height, width, FGA_MAX_TOKENS);
    }
    if (order == NULL) {
        return fga_context_fail(ctx, FGA_ERR_ARGUMENT, "order is NULL");
    }
    switch (kind) {
    case FGA_ORDER_RASTER:
        for (int64_t i = 0; i < frames * height * width; i++) {
            order[i] = (int32_t)i;
        }
        return FGA_OK;
    case FGA_ORDER_HILBERT:
        hilbert((int32_t)frames, (int32_t)height, (int32_t)width, order);
        return FGA_OK;
    case FGA_ORDER_HILBERT_CLIPPED:
        fga_order_hilbert_clipped(frames, height, width, order);
        return FGA_OK;
    case FGA_ORDER_MORTON:
        fga_order_morton(frames, height, width, order);
        return FGA_OK;
    case FGA_ORDER_BOXES:
        boxes(frames, height, width, order);
        return FGA_OK;
    default:
        break;
    }
    return fga_context_fail(ctx, FGA_ERR_ARGUMENT, "order kind is %d, wanted 0 ... 4", (int)kind);
}
