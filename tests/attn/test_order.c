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
        double tile, block, worst, precision;
        int64_t jumps, diagonal; /* -1: not stated */
    } rows[] = {
        {{33, 45, 80}, FGA_ORDER_RASTER, 21.3, 528, 986, 0.5, 1484, -1},
        {{33, 45, 80}, FGA_ORDER_HILBERT, 1.84, 8.44, 15.4, 0.05, 0, 672},
        {{21, 30, 52}, FGA_ORDER_HILBERT, 1.86, 8.51, 15.4, 0.05, 0, -1},
        {{21, 45, 80}, FGA_ORDER_HILBERT, 1.89, 8.43, 13.8, 0.05, 0, -1},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        int32_t *order = build(rows[i].kind, rows[i].g);
        double tile, block, worst, unused;
        int64_t jumps, diagonal;
        spreads(rows[i].g, order, 16, &tile, &unused);
        spreads(rows[i].g, order, 128, &block, &worst);
        count_steps(rows[i].g, order, &jumps, &diagonal);
        assert_true(fabs(tile - rows[i].tile) <= (rows[i].tile > 10 ? 0.051 : 0.0051));
        assert_true(fabs(block - rows[i].block) < (rows[i].block > 100 ? 0.5 : 0.005));
        assert_true(fabs(worst - rows[i].worst) < rows[i].precision);
        assert_int_equal(jumps, rows[i].jumps);
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

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_small_cuboid_without_a_jump),
        cmocka_unit_test(published_figures),
        cmocka_unit_test(raster_is_the_identity),
        cmocka_unit_test(refuses),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
