/* Orders: permutations, no jumps, and the figures of docs/method.md. */
#include "fgattn.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

typedef struct grid {
    int64_t t, h, w;
} grid;

static int32_t *build(fga_order kind, grid g)
{
    int32_t *order = malloc((size_t)(g.t * g.h * g.w + 1) * sizeof *order);
    order[g.t * g.h * g.w] = -77; /* guard */
    assert_int_equal(fga_order_build(NULL, kind, g.t, g.h, g.w, order), FGA_OK);
    assert_int_equal(order[g.t * g.h * g.w], -77);
    return order;
}

static void place(grid g, int32_t index, int64_t at[3])
{
    at[0] = index / (g.h * g.w);
    at[1] = index / g.w % g.h;
    at[2] = index % g.w;
}

static void count_steps(grid g, const int32_t *order, int64_t *jumps, int64_t *diagonal)
{
    *jumps = *diagonal = 0;
    for (int64_t i = 1; i < g.t * g.h * g.w; i++) {
        int64_t a[3], b[3], moved = 0, farthest = 0;
        place(g, order[i - 1], a);
        place(g, order[i], b);
        for (int axis = 0; axis < 3; axis++) {
            int64_t distance = llabs(a[axis] - b[axis]);
            moved += distance > 0;
            farthest = distance > farthest ? distance : farthest;
        }
        *jumps += farthest >= 2;
        *diagonal += farthest < 2 && moved > 1;
    }
}

static void check_permutation(grid g, const int32_t *order)
{
    int64_t tokens = g.t * g.h * g.w;
    uint8_t *seen = calloc((size_t)tokens, 1);
    for (int64_t i = 0; i < tokens; i++) {
        assert_in_range(order[i], 0, tokens - 1);
        assert_int_equal(seen[order[i]], 0);
        seen[order[i]] = 1;
    }
    free(seen);
}

static void every_small_cuboid_without_a_jump(void **state)
{
    (void)state;
    for (int64_t t = 1; t <= 12; t++) {
        for (int64_t h = 1; h <= 12; h++) {
            for (int64_t w = 1; w <= 12; w++) {
                grid g = {t, h, w};
                int32_t *order = build(FGA_ORDER_HILBERT, g);
                int64_t jumps, diagonal;
                check_permutation(g, order);
                count_steps(g, order, &jumps, &diagonal);
                assert_int_equal(jumps, 0);
                free(order);
            }
        }
    }
}

/* Sum over the axes of the variance of n consecutive tokens' coordinates. */
static double spread(grid g, const int32_t *order, int n)
{
    double mean[3] = {0}, variance = 0;
    for (int i = 0; i < n; i++) {
        int64_t at[3];
        place(g, order[i], at);
        for (int axis = 0; axis < 3; axis++) {
            mean[axis] += (double)at[axis] / n;
        }
    }
    for (int i = 0; i < n; i++) {
        int64_t at[3];
        place(g, order[i], at);
        for (int axis = 0; axis < 3; axis++) {
            variance += ((double)at[axis] - mean[axis]) * ((double)at[axis] - mean[axis]) / n;
        }
    }
    return variance;
}

static void spreads(grid g, const int32_t *order, int n, double *mean, double *worst)
{
    int64_t count = g.t * g.h * g.w / n;
    *mean = *worst = 0;
    for (int64_t i = 0; i < count; i++) {
        double s = spread(g, order + i * n, n);
        *mean += s / (double)count;
        *worst = fmax(*worst, s);
    }
}

static void published_figures(void **state)
{
    (void)state;
    static const struct {
        grid g;
        fga_order kind;
        double tile, block, worst, units[3]; /* the last digit's unit of each */
        int64_t jumps, diagonal;             /* -1: not stated */
    } rows[] = {
        {{33, 45, 80}, FGA_ORDER_RASTER, 21.3, 528, 986, {0.1, 1, 1}, 1484, -1},
        {{33, 45, 80}, FGA_ORDER_HILBERT, 1.84, 8.44, 15.4, {0.01, 0.01, 0.1}, 0, 672},
        {{33, 45, 80}, FGA_ORDER_HILBERT_CLIPPED, 1.80, 10.4, 842, {0.01, 0.1, 1}, 691, 88},
        {{33, 45, 80}, FGA_ORDER_MORTON, 1.80, 12.4, 674, {0.01, 0.1, 1}, 7809, 51560},
        {{33, 45, 80}, FGA_ORDER_BOXES, 2.51, 92, 1694, {0.01, 1, 1}, -1, -1},
        {{21, 30, 52}, FGA_ORDER_HILBERT, 1.86, 8.51, 15.4, {0.01, 0.01, 0.1}, 0, -1},
        {{21, 45, 80}, FGA_ORDER_HILBERT, 1.89, 8.43, 13.8, {0.01, 0.01, 0.1}, 0, -1},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        int32_t *order = build(rows[i].kind, rows[i].g);
        double tile, block, worst, unused;
        int64_t jumps, diagonal;
        spreads(rows[i].g, order, 16, &tile, &unused);
        spreads(rows[i].g, order, 128, &block, &worst);
        count_steps(rows[i].g, order, &jumps, &diagonal);
        assert_true(fabs(tile - rows[i].tile) <= 0.51 * rows[i].units[0]);
        assert_true(fabs(block - rows[i].block) <= 0.51 * rows[i].units[1]);
        assert_true(fabs(worst - rows[i].worst) <= 0.51 * rows[i].units[2]);
        assert_true(rows[i].jumps < 0 || jumps == rows[i].jumps);
        assert_true(rows[i].diagonal < 0 || diagonal == rows[i].diagonal);
        check_permutation(rows[i].g, order);
        free(order);
    }
}

static void raster_is_the_identity(void **state)
{
    (void)state;
    int32_t *order = build(FGA_ORDER_RASTER, (grid){2, 3, 5});
    for (int32_t i = 0; i < 30; i++) {
        assert_int_equal(order[i], i);
    }
    free(order);
}

/* Bits of w, h, t by turns, lowest first. */
static uint64_t morton_index(const int64_t at[3])
{
    uint64_t index = 0;
    for (int bit = 0; bit < 8; bit++) {
        index |= (uint64_t)(at[2] >> bit & 1) << 3 * bit | (uint64_t)(at[1] >> bit & 1) << (3 * bit + 1) |
                 (uint64_t)(at[0] >> bit & 1) << (3 * bit + 2);
    }
    return index;
}

static void other_orders_are_permutations(void **state)
{
    (void)state;
    static const int32_t wanted[8] = {0, 4, 6, 2, 3, 7, 5, 1}; /* w slowest: 000, t, th, h, then w=1 backwards */
    int32_t *cube = build(FGA_ORDER_HILBERT_CLIPPED, (grid){2, 2, 2});
    assert_memory_equal(cube, wanted, sizeof wanted);
    free(cube);
    for (int64_t t = 1; t <= 9; t += 2) {
        for (int64_t h = 1; h <= 9; h++) {
            for (int64_t w = 1; w <= 9; w++) {
                grid g = {t, h, w};
                for (int kind = FGA_ORDER_HILBERT_CLIPPED; kind <= FGA_ORDER_BOXES; kind++) {
                    int32_t *order = build((fga_order)kind, g);
                    check_permutation(g, order);
                    for (int64_t i = 1; kind == FGA_ORDER_MORTON && i < t * h * w; i++) {
                        int64_t before[3], now[3];
                        place(g, order[i - 1], before);
                        place(g, order[i], now);
                        assert_true(morton_index(before) < morton_index(now));
                    }
                    free(order);
                }
            }
        }
    }
    for (int64_t n = 1; n <= 16; n *= 2) { /* in a whole cube the clipped curve has no step but to a neighbour */
        grid g = {n, n, n};
        int32_t *order = build(FGA_ORDER_HILBERT_CLIPPED, g);
        int64_t jumps, diagonal;
        count_steps(g, order, &jumps, &diagonal);
        assert_true(jumps == 0 && diagonal == 0);
        free(order);
    }
}

static void boxes_are_cut_at_the_border(void **state)
{
    (void)state;
    grid g = {1, 5, 6};
    int32_t *order = build(FGA_ORDER_BOXES, g);
    static const int32_t wanted[30] = {0,  1, 2, 3,  6,  7,  8,  9,  12, 13, 14, 15, 18, 19, 20,
                                       21, 4, 5, 10, 11, 16, 17, 22, 23, 24, 25, 26, 27, 28, 29};
    assert_memory_equal(order, wanted, sizeof wanted);
    free(order);
}

static void refuses(void **state)
{
    (void)state;
    fga_context *ctx;
    int32_t order[1] = {-1};
    assert_int_equal(fga_context_create(NULL, &ctx), FGA_OK);
    assert_int_equal(fga_order_build(ctx, FGA_ORDER_HILBERT, 0, 1, 1, order), FGA_ERR_ARGUMENT);
    assert_non_null(strstr(fga_last_error(ctx), "frames is 0"));
    assert_int_equal(fga_order_build(ctx, FGA_ORDER_HILBERT, 1 << 20, 1 << 20, 1 << 20, order), FGA_ERR_ARGUMENT);
    assert_non_null(strstr(fga_last_error(ctx), "too large"));
    assert_int_equal(fga_order_build(ctx, (fga_order)7, 1, 1, 1, order), FGA_ERR_ARGUMENT);
    assert_non_null(strstr(fga_last_error(ctx), "order kind is 7"));
    assert_int_equal(fga_order_build(ctx, FGA_ORDER_RASTER, 1, 1, 1, NULL), FGA_ERR_ARGUMENT);
    assert_int_equal(order[0], -1);
    fga_context_destroy(&ctx);
}

/* There and back, and nothing between the rows is touched. */
static void permutes_rows(void **state)
{
    (void)state;
    enum { COUNT = 1000, BYTES = 24, STRIDE = 40 };
    fga_context *ctx;
    assert_int_equal(fga_context_create(NULL, &ctx), FGA_OK);
    int32_t *order = build(FGA_ORDER_HILBERT, (grid){10, 10, 10});
    unsigned char *from = calloc(COUNT, STRIDE), *to = calloc(COUNT, STRIDE), *back = calloc(COUNT, BYTES);
    for (int i = 0; i < COUNT * STRIDE; i++) {
        from[i] = (unsigned char)(i * 31 + i / 251);
    }
    fga_permute_args a = fga_permute_args_default();
    a.from = from, a.to = to, a.order = order, a.rows = COUNT, a.row_bytes = BYTES,
    a.from_stride = a.to_stride = STRIDE;
    assert_int_equal(fga_permute(ctx, &a, NULL), FGA_OK);
    a.from = to, a.to = back, a.to_stride = 0, a.inverse = true;
    assert_int_equal(fga_permute(ctx, &a, NULL), FGA_OK);
    for (int i = 0; i < COUNT; i++) {
        assert_memory_equal(to + i * STRIDE, from + order[i] * STRIDE, BYTES);
        assert_memory_equal(back + i * BYTES, from + i * STRIDE, BYTES);
        for (int gap = BYTES; gap < STRIDE; gap++) {
            assert_int_equal(to[i * STRIDE + gap], 0);
        }
    }
    a.order = NULL;
    assert_int_equal(fga_permute(ctx, &a, NULL), FGA_ERR_ARGUMENT);
    assert_non_null(strstr(fga_last_error(ctx), "order is NULL"));
    a.size = 1;
    assert_int_equal(fga_permute(ctx, &a, NULL), FGA_ERR_ARGUMENT);
    free(order);
    free(from);
    free(to);
    free(back);
    fga_context_destroy(&ctx);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_small_cuboid_without_a_jump),
        cmocka_unit_test(published_figures),
        cmocka_unit_test(raster_is_the_identity),
        cmocka_unit_test(other_orders_are_permutations),
        cmocka_unit_test(boxes_are_cut_at_the_border),
        cmocka_unit_test(refuses),
        cmocka_unit_test(permutes_rows),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
