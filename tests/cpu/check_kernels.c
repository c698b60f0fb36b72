/* check_kernels.c - every tier of ops/variants.inc against the definitions, on random and on pathological data.
 *
 * The tolerance calibrates itself: a kernel may be twice as far from the double-precision result as a plain program of
 * the same precision is, plus a few units of the last f32 place. `check_kernels TIER` tests one tier only, and
 * `check_kernels --bench` times them (bench_kernels.c).
 */
#include "attend_case.h"
#include "base/cpu.h"
#include "bench_kernels.h"
#include "bf16_emulator.h"
#include "cpu/cpu.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static const struct tier {
    const char *name;
    unsigned features;
    void (*overlay)(fga_ops *ops);
} tiers[] = {
#define FGA_VARIANT(name, features, overlay) {name, features, overlay},
#include "ops/variants.inc"
#undef FGA_VARIANT
};

enum { TIERS = sizeof tiers / sizeof tiers[0] };

static fga_ops ops; /* of the tier under test; the overlays are called directly, so that an emulated tier runs too */
static bool emulated;
static long cases;

static bool run_kernel(const attend_data *d, attend_result *r)
{
    if (emulated) {
        bf16_emulator_start(); /* cmocka takes SIGILL back before every test */
    }
    return attend_by_kernel(d, &ops, r);
}

static void check(const attend_case *c)
{
    attend_data d;
    attend_data_make(&d, c);
    attend_result exact = attend_result_make(&d), naive = attend_result_make(&d), got = attend_result_make(&d);
    attend_exactly(&d, &exact);
    attend_naively(&d, &naive);
    bool intact = run_kernel(&d, &got);
    int64_t n = (int64_t)c->rows * c->head_dim;
    double error = relative_error(got.o, exact.o, n), allowed = 2 * relative_error(naive.o, exact.o, n) + 0x1p-21;
    double lse_error = 0, lse_allowed = 0;
    bool empty = d.kept == 0 && c->group == 0;
    for (int32_t i = 0; i < c->rows && !empty; i++) {
        lse_error = fmax(lse_error, fabs(got.lse[i] - exact.lse[i]));
        lse_allowed = fmax(lse_allowed, 2 * fabs(naive.lse[i] - exact.lse[i]) + 0x1p-21 * (1 + fabs(exact.lse[i])));
    }
    cases++;
    bool right = intact && error <= allowed && (empty || lse_error <= lse_allowed);
    for (int32_t i = 0; i < c->rows && empty; i++) {
        right = right && got.lse[i] == -INFINITY;
    }
    if (!right) {
        print_error("%s %s D=%d rows=%d keys=%ld kept=%ld data=%d bias=%d strided=%d shift=%d group=%d: %s, error %.3g "
                    "of %.3g, "
                    "L %.3g of %.3g\n",
                    ops.name, fga_dtype_name(c->dtype), c->head_dim, c->rows, (long)c->keys, (long)d.kept, c->data,
                    c->bias, c->strided, c->shift, c->group, intact ? "in bounds" : "OUT OF BOUNDS", error, allowed,
                    lse_error, lse_allowed);
    }
    attend_result_free(&exact);
    attend_result_free(&naive);
    attend_result_free(&got);
    attend_data_free(&d);
    assert_true(right);
}

static bool mine(fga_dtype dtype)
{
    return strcmp(ops.attend_variant[dtype], ops.name) == 0;
}

static attend_case plain(fga_dtype dtype)
{
    return (attend_case){
        .dtype = dtype, .head_dim = emulated ? 32 : 64, .rows = 16, .keys = 50, .kept_in_16 = 8, .seed = 1};
}

#define EACH_DTYPE(dtype) \
    for (fga_dtype dtype = FGA_F32; dtype <= FGA_BF16; dtype++) \
        if (mine(dtype))

static void every_head_dim(void **state)
{
    (void)state;
    EACH_DTYPE(dtype)
    {
        for (int32_t dim = 8; dim <= 256; dim += emulated ? 40 : 8) {
            attend_case c = plain(dtype);
            c.head_dim = dim;
            c.seed = (uint64_t)dim;
            check(&c);
        }
    }
}

static void every_row_count(void **state)
{
    (void)state;
    EACH_DTYPE(dtype)
    {
        for (int32_t rows = 1; rows <= 192; rows += emulated ? 37 : rows < 70 ? 1 : 7) {
            attend_case c = plain(dtype);
            c.head_dim = 16;
            c.rows = rows;
            c.seed = (uint64_t)rows;
            check(&c);
        }
        attend_case c = plain(dtype);
        c.rows = 192;
        check(&c);
    }
}

/* Below, at and above every size of a tile and a strip. */
static void every_key_count(void **state)
{
    (void)state;
    EACH_DTYPE(dtype)
    {
        for (int64_t keys = 0; keys <= 500; keys += emulated ? 61 : keys < 40 ? 1 : 23) {
            attend_case c = plain(dtype);
            c.head_dim = 24;
            c.keys = keys;
            c.kept_in_16 = 16;
            c.seed = (uint64_t)keys;
            check(&c);
        }
    }
}

static void every_kind_of_data(void **state)
{
    (void)state;
    EACH_DTYPE(dtype)
    {
        for (data_kind data = DATA_RANDOM; data <= DATA_RISING; data++) {
            for (int bias = 0; bias < 2; bias++) {
                attend_case c = plain(dtype);
                c.data = data;
                c.bias = bias != 0;
                c.keys = emulated ? 130 : 600;
                c.seed = data * 2 + (uint64_t)bias;
                check(&c);
            }
        }
    }
}

static void every_density(void **state)
{
    (void)state;
    EACH_DTYPE(dtype)
    {
        for (int kept = 0; kept <= 16; kept += 2) {
            attend_case c = plain(dtype);
            c.kept_in_16 = kept;
            c.keys = emulated ? 100 : 300;
            c.rows = 33;
            check(&c);
        }
    }
}

static void any_stride_and_address(void **state)
{
    (void)state;
    EACH_DTYPE(dtype)
    {
        for (int shift = 0; shift < 6; shift++) {
            for (int strided = 0; strided < 2; strided++) {
                attend_case c = plain(dtype);
                c.shift = shift;
                c.strided = strided != 0;
                c.rows = 35;
                c.head_dim = 40;
                check(&c);
            }
        }
    }
}

/* Neither before the first byte of an input nor after its last. */
static void nothing_beside_the_inputs(void **state)
{
    (void)state;
    EACH_DTYPE(dtype)
    {
        for (attend_place place = PLACE_AFTER_A_WALL; place <= PLACE_BEFORE_A_WALL; place++) {
            for (int32_t dim = 8; dim <= 136; dim += emulated ? 64 : 8) {
                attend_case c = plain(dtype);
                c.place = place;
                c.head_dim = dim;
                c.rows = 1 + dim % 50;
                c.keys = 1 + 5 * dim % 260;
                c.kept_in_16 = dim % 16 == 0 ? 16 : 9;
                c.strided = dim % 24 == 0;
                c.bias = dim % 3 == 0;
                c.group = dim % 5 == 0 ? 16 : 0;
                check(&c);
            }
        }
    }
}

/* One key of many, first, last or between: its values are the output, whatever the logits. */
static void one_key_kept(void **state)
{
    (void)state;
    EACH_DTYPE(dtype)
    {
        for (int where = 0; where < 3; where++) {
            attend_case c = plain(dtype);
            c.keys = emulated ? 70 : 700;
            c.kept_in_16 = 16;
            c.data = DATA_HUGE;
            attend_data d;
            attend_data_make(&d, &c);
            int64_t key = where == 0 ? 0 : where == 1 ? c.keys - 1 : c.keys / 2;
            d.list[0] = (uint32_t)key;
            d.kept = 1;
            attend_result got = attend_result_make(&d);
            assert_true(run_kernel(&d, &got));
            for (int64_t i = 0; i < (int64_t)c.rows * c.head_dim; i++) {
                assert_true(got.o[i] == attend_data_get(&d, d.v, key, (int32_t)(i % c.head_dim)));
            }
            attend_result_free(&got);
            attend_data_free(&d);
        }
    }
}

/* Every group size, with no key kept, all of them, and all but a few. */
static void every_summary(void **state)
{
    (void)state;
    EACH_DTYPE(dtype)
    {
        for (int32_t group = 8; group <= 256; group *= 2) {
            for (int kept = 0; kept <= 16; kept += kept == 12 ? 3 : emulated ? 6 : 1) {
                attend_case c = plain(dtype);
                c.group = group;
                c.kept_in_16 = kept;
                c.keys = emulated ? 130 : 401;
                c.rows = kept % 2 == 0 ? 33 : 7;
                c.bias = kept % 3 == 0;
                c.head_dim = emulated ? 24 : 72;
                c.data = kept % 6 == 5 ? DATA_RISING : DATA_RANDOM;
                c.seed = (uint64_t)(group + kept);
                check(&c);
            }
        }
    }
}

/* Large logits and tiny ones, equal ones, and those that raise the maximum in every strip. */
static void summaries_of_every_kind_of_data(void **state)
{
    (void)state;
    EACH_DTYPE(dtype)
    {
        for (data_kind data = DATA_RANDOM; data <= DATA_RISING; data++) {
            attend_case c = plain(dtype);
            c.data = data;
            c.group = 64;
            c.keys = emulated ? 130 : 700;
            c.kept_in_16 = 4;
            c.bias = true;
            c.rows = emulated ? 16 : 64; /* rows enough that one unlucky rounding does not decide */
            c.seed = data;
            check(&c);
        }
    }
}

/* ---- rows that keep different keys ------------------------------------------------------------------------------- */

/* Of every row some of the listed keys; of the first none, of the last all. */
static uint32_t *draw_kept(const attend_data *d)
{
    const attend_case *c = &d->spec;
    uint64_t state = c->seed + 99;
    uint32_t *kept = calloc((size_t)((c->rows + 31) / 32 * c->keys) + 1, sizeof *kept);
    for (int32_t row = 0; row < c->rows; row++) {
        uint64_t in_16 = row == 0 ? 0 : row == c->rows - 1 ? 16 : next_random(&state) % 17;
        for (int64_t i = 0; i < d->kept; i++) {
            kept[row / 32 * c->keys + d->list[i]] |= (uint32_t)(next_random(&state) % 16 < in_16) << row % 32;
        }
    }
    return kept;
}

/* The row as an attention of its own: with what it keeps as the list. */
static void attend_row_by(void (*attend)(const attend_data *, attend_result *), const attend_data *d,
                          const uint32_t *kept, int32_t row, attend_result *r, double *kept_lse)
{
    attend_data own = *d;
    own.q += row * d->stride * (d->spec.dtype == FGA_F32 ? 4 : 2);
    own.spec.rows = 1;
    own.list = calloc((size_t)d->kept + 1, sizeof *own.list);
    own.kept = 0;
    for (int64_t i = 0; i < d->kept; i++) {
        own.list[own.kept] = d->list[i];
        own.kept += kept[row / 32 * d->spec.keys + d->list[i]] >> row % 32 & 1;
    }
    attend_result one = attend_result_make(&own);
    size_t dim = (size_t)d->spec.head_dim;
    attend(&own, &one);
    memcpy(r->o + (size_t)row * dim, one.o, dim * sizeof(double));
    own.summaries.groups = 0;
    attend(&own, &one);
    *kept_lse = own.kept > 0 ? one.lse[0] : -INFINITY;
    attend_result_free(&one);
    free(own.list);
}

/* How far the results are from the exact ones, and how far they may be. */
static bool near(const attend_case *c, const char *what, const attend_result *got, const attend_result *exact,
                 const attend_result *naive)
{
    int64_t n = (int64_t)c->rows * c->head_dim;
    double error = relative_error(got->o, exact->o, n), lse_error = 0, lse_allowed = 0;
    double allowed = 2 * relative_error(naive->o, exact->o, n) + 0x1p-21;
    bool right = error <= allowed;
    for (int32_t row = 0; row < c->rows; row++) {
        double l = exact->lse[row];
        if (l == -INFINITY) {
            right = right && got->lse[row] == -INFINITY;
            continue;
        }
        lse_error = fmax(lse_error, fabs(got->lse[row] - l));
        lse_allowed = fmax(lse_allowed, 2 * fabs(naive->lse[row] - l) + 0x1p-21 * (1 + fabs(l)));
    }
    right = right && lse_error <= lse_allowed;
    if (!right) {
        print_error("%s %s %s D=%d rows=%d keys=%ld data=%d group=%d: error %.3g of %.3g, L %.3g of %.3g\n", ops.name,
                    fga_dtype_name(c->dtype), what, c->head_dim, c->rows, (long)c->keys, c->data, c->group, error,
                    allowed, lse_error, lse_allowed);
    }
    return right;
}

static void check_probe(const attend_case *c, bool dense)
{
    attend_data d;
    attend_data_make(&d, c);
    attend_result exact = attend_result_make(&d), naive = attend_result_make(&d), got = attend_result_make(&d);
    attend_result all = attend_result_make(&d);
    uint32_t *kept = draw_kept(&d);
    if (emulated) {
        bf16_emulator_start();
    }
    bool right = attend_by_probe(&d, &ops, kept, &got, dense ? &all : NULL);
    for (int32_t row = 0; row < c->rows; row++) {
        attend_row_by(attend_exactly, &d, kept, row, &exact, &exact.lse[row]);
        attend_row_by(attend_naively, &d, kept, row, &naive, &naive.lse[row]);
    }
    right = near(c, "probe", &got, &exact, &naive) && right;
    d.summaries.groups = 0;
    attend_exactly(&d, &exact);
    attend_naively(&d, &naive);
    right = (!dense || near(c, "dense probe", &all, &exact, &naive)) && right;
    cases += c->rows;
    free(kept);
    attend_result_free(&exact);
    attend_result_free(&naive);
    attend_result_free(&got);
    attend_result_free(&all);
    attend_data_free(&d);
    assert_true(right);
}

static void rows_that_keep_different_keys(void **state)
{
    (void)state;
    static const int32_t rows[] = {1, 2, 16, 17, 33, 64, 100}, groups[] = {0, 64, 0, 8, 0, 256};
    EACH_DTYPE(dtype)
    {
        for (int i = 0; i < (emulated ? 6 : 42); i++) {
            attend_case c = plain(dtype);
            c.rows = rows[i % 7];
            c.group = groups[i % 6];
            c.keys = emulated ? 130 : 1 + 37 * i % 400;
            c.kept_in_16 = i % 5 == 0 ? 16 : 10;
            c.head_dim = i % 4 == 0 ? 24 : 40;
            c.bias = i % 3 == 0;
            c.data = (data_kind)(i % 6);
            c.strided = i % 2 == 0;
            c.place = i % 8 == 7 ? PLACE_BEFORE_A_WALL : PLACE_ANYWHERE;
            c.seed = (uint64_t)i;
            check_probe(&c, i % 4 > 1);
        }
    }
}

/* NaN and Inf where they are kept: the same classes in the same places as by the definition. */
static void check_classes(const attend_data *d)
{
    attend_result exact = attend_result_make(d), got = attend_result_make(d);
    attend_exactly(d, &exact);
    assert_true(run_kernel(d, &got));
    int64_t wrong = 0;
    for (int64_t i = 0; i < (int64_t)d->spec.rows * d->spec.head_dim; i++) {
        double a = got.o[i], b = exact.o[i];
        bool same = isnan(b) ? isnan(a) : isinf(b) ? a == b : isfinite(a) && fabs(a - b) <= 0.05 * (1 + fabs(b));
        wrong += !same;
    }
    assert_int_equal(wrong, 0);
    attend_result_free(&exact);
    attend_result_free(&got);
}

static void non_finite_data(void **state)
{
    (void)state;
    static const float values[] = {NAN, INFINITY, -INFINITY};
    EACH_DTYPE(dtype)
    {
        for (int tensor = 0; tensor < 3; tensor++) {
            for (int kind = 0; kind < 3; kind++) {
                attend_case c = plain(dtype);
                c.keys = emulated ? 130 : 400;
                c.rows = 20;
                attend_data d;
                attend_data_make(&d, &c);
                char *t = tensor == 0 ? d.q : tensor == 1 ? d.k : d.v;
                attend_data_set(&d, t, tensor == 0 ? 3 : d.list[d.kept / 2], 5, values[kind]);
                check_classes(&d);
                attend_data_free(&d);
            }
        }
    }
}

/* The first strips hold logits of -inf alone: they weigh nothing once a finite one comes. */
static void minus_infinite_logits(void **state)
{
    (void)state;
    EACH_DTYPE(dtype)
    {
        attend_case c = plain(dtype);
        c.keys = emulated ? 130 : 400;
        c.kept_in_16 = 16;
        for (int finite = 0; finite < 2; finite++) {
            attend_data d;
            attend_data_make(&d, &c);
            for (int64_t i = 0; i < c.rows; i++) {
                attend_data_set(&d, d.q, i, 0, 1.0f);
            }
            for (int64_t i = 0; i < c.keys - finite; i++) {
                attend_data_set(&d, d.k, i, 0, -INFINITY);
            }
            check_classes(&d);
            attend_data_free(&d);
        }
    }
}

static void same_bytes_again(void **state)
{
    (void)state;
    EACH_DTYPE(dtype)
    {
        attend_case c = plain(dtype);
        attend_data d;
        attend_data_make(&d, &c);
        attend_result first = attend_result_make(&d), second = attend_result_make(&d);
        assert_true(run_kernel(&d, &first));
        assert_true(run_kernel(&d, &second));
        assert_memory_equal(first.o, second.o, sizeof(double) * (size_t)(c.rows * c.head_dim));
        attend_result_free(&first);
        attend_result_free(&second);
        attend_data_free(&d);
    }
}

/* Means of sub-tiles against sums in double; sub-tiles with padding, of padding alone, and of one token. */
static void pooled_means(void **state)
{
    (void)state;
    static const int64_t begin[] = {0, 1, 17, 33, 40, 56}, valid_end[] = {1, 17, 20, 33, 56};
    enum { COUNT = 5 };
    for (fga_dtype dtype = FGA_F32; dtype <= FGA_BF16; dtype++) {
        for (int32_t dim = 8; dim <= 256; dim += 56) {
            attend_case c = plain(dtype);
            c.head_dim = dim;
            c.keys = 56;
            c.kept_in_16 = 16;
            c.strided = true;
            attend_data d;
            attend_data_make(&d, &c);
            float mean[(COUNT + 1) * 256];
            mean[COUNT * dim] = 12345.0f;
            fga_pool_op op = {d.k, d.stride, begin, valid_end, mean, COUNT, dim, dtype};
            for (int32_t i = 0; i < dim; i++) { /* padding is never read */
                attend_data_set(&d, d.k, 20, i, NAN);
                attend_data_set(&d, d.k, 33, i, NAN);
            }
            ops.pool(&op);
            for (int64_t n = 0; n < COUNT; n++) {
                for (int32_t i = 0; i < dim; i++) {
                    double sum = 0;
                    for (int64_t token = begin[n]; token < valid_end[n]; token++) {
                        sum += attend_data_get(&d, d.k, token, i);
                    }
                    double wanted = valid_end[n] > begin[n] ? sum / (double)(valid_end[n] - begin[n]) : 0;
                    assert_true(fabs(mean[n * dim + i] - wanted) <= 0x1p-21 * (1 + fabs(wanted)));
                }
            }
            assert_true(mean[COUNT * dim] == 12345.0f);
            attend_data_free(&d);
        }
    }
}

/* Sums of listed rows against sums in double: none, one, many; rows that are not listed are NaN. */
static void summed_rows(void **state)
{
    (void)state;
    static const int32_t begin[] = {0, 0, 1, 18, 18, 40, 48};
    enum { COUNT = 6 };
    for (fga_dtype dtype = FGA_F32; dtype <= FGA_BF16; dtype++) {
        for (int32_t dim = 8; dim <= 256; dim += 56) {
            attend_case c = plain(dtype);
            c.head_dim = dim;
            c.keys = 200;
            c.kept_in_16 = 8;
            c.strided = dim % 16 == 0;
            c.place = PLACE_BEFORE_A_WALL;
            attend_data d;
            attend_data_make(&d, &c);
            assert_true(d.kept >= begin[COUNT]);
            float sum[(COUNT + 1) * 256];
            sum[COUNT * dim] = 12345.0f;
            fga_sums_op op = {d.k, d.stride, d.list, begin, sum, COUNT, dim, dtype};
            ops.sums(&op);
            for (int64_t n = 0; n < COUNT; n++) {
                for (int32_t i = 0; i < dim; i++) {
                    double wanted = 0, size = 1;
                    for (int32_t at = begin[n]; at < begin[n + 1]; at++) {
                        double x = attend_data_get(&d, d.k, d.list[at], i);
                        wanted += x;
                        size += fabs(x);
                    }
                    assert_true(fabs(sum[n * dim + i] - wanted) <= 0x1p-21 * size);
                }
            }
            assert_true(sum[COUNT * dim] == 12345.0f);
            attend_data_free(&d);
        }
    }
}

static bool runs(const struct tier *t)
{
    emulated = false;
    if ((t->features & fga_cpu_features()) == t->features) {
        return true;
    }
    emulated = t->features == FGA_CPU_AVX512BF16 && bf16_emulator_start();
    return emulated;
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_head_dim),
        cmocka_unit_test(every_row_count),
        cmocka_unit_test(every_key_count),
        cmocka_unit_test(every_kind_of_data),
        cmocka_unit_test(every_density),
        cmocka_unit_test(any_stride_and_address),
        cmocka_unit_test(nothing_beside_the_inputs),
        cmocka_unit_test(one_key_kept),
        cmocka_unit_test(every_summary),
        cmocka_unit_test(summaries_of_every_kind_of_data),
        cmocka_unit_test(rows_that_keep_different_keys),
        cmocka_unit_test(summed_rows),
        cmocka_unit_test(non_finite_data),
        cmocka_unit_test(minus_infinite_logits),
        cmocka_unit_test(same_bytes_again),
        cmocka_unit_test(pooled_means),
    };
    if (argc > 1 && strcmp(argv[1], "--bench") == 0) {
        return bench_kernels(argc - 2, argv + 2);
    }
    int failed = 0;
    for (int i = 0; i < TIERS; i++) {
        bool wanted = argc < 2 || strcmp(argv[1], tiers[i].name) == 0;
        if (!runs(&tiers[i])) {
            if (wanted) {
                print_message("tier %s: skipped, this machine lacks its instructions\n", tiers[i].name);
            }
            continue;
        }
        tiers[i].overlay(&ops); /* itself compiled for the tier's instructions */
        if (!wanted) {
            continue;
        }
        print_message("tier %s%s\n", tiers[i].name, emulated ? ": emulated" : "");
        failed += cmocka_run_group_tests_name(tiers[i].name, tests, NULL, NULL);
    }
    print_message("%ld attentions compared, %ld instructions emulated\n", cases, bf16_emulator_count());
    return failed;
}
