/* The ground everything stands on: half conversions, the pool, contexts. */
#include "base/half.h"
#include "base/pages.h"
#include "base/pool.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdlib.h>

#include <cmocka.h>

static void half_round_trips(void **state)
{
    (void)state;
    for (uint32_t bits = 0; bits < 0x10000; bits++) {
        float f16 = fga_f16_to_f32((uint16_t)bits);
        float bf16 = fga_bf16_to_f32((uint16_t)bits);
        if (isnan(f16)) {
            assert_true(isnan(fga_f16_to_f32(fga_f32_to_f16(f16))));
        } else {
            assert_int_equal(fga_f32_to_f16(f16), bits);
        }
        if (isnan(bf16)) {
            assert_true(isnan(fga_bf16_to_f32(fga_f32_to_bf16(bf16))));
        } else {
            assert_int_equal(fga_f32_to_bf16(bf16), bits);
        }
    }
}

static void half_rounds_to_nearest_even(void **state)
{
    (void)state;
    for (uint32_t bits = 0; bits < 0x7c00; bits++) {
        float low = fga_f16_to_f32((uint16_t)bits);
        float high = bits + 1 == 0x7c00 ? 65536.0f : fga_f16_to_f32((uint16_t)(bits + 1));
        float middle = low + (high - low) / 2;
        uint32_t even = (bits & 1) != 0 ? bits + 1 : bits;
        assert_int_equal(fga_f32_to_f16(middle), even);
        assert_int_equal(fga_f32_to_f16(nextafterf(middle, 0)), bits);
        assert_int_equal(fga_f32_to_f16(nextafterf(middle, INFINITY)), bits + 1);
        assert_int_equal(fga_f32_to_f16(-middle), even | 0x8000);
    }
    assert_int_equal(fga_f32_to_bf16(fga_bits_f32(0x3f808000)), 0x3f80);
    assert_int_equal(fga_f32_to_bf16(fga_bits_f32(0x3f818000)), 0x3f82);
    assert_int_equal(fga_f32_to_bf16(fga_bits_f32(0x7f7fffff)), 0x7f80);
}

typedef struct counts {
    fga_pool *pool;
    _Atomic int seen[1000];
    _Atomic int64_t nested;
} counts;

static void nested_item(void *arg, int64_t item, int worker)
{
    (void)worker;
    atomic_fetch_add(&((counts *)arg)->nested, item);
}

static void count_item(void *arg, int64_t item, int worker)
{
    counts *c = arg;
    assert_in_range(worker, 0, fga_pool_threads(c->pool) - 1);
    atomic_fetch_add(&c->seen[item], 1);
    fga_pool_run(c->pool, 4, nested_item, c);
}

static void pool_runs_every_item_once(void **state)
{
    (void)state;
    for (int threads = 1; threads <= 8; threads++) {
        counts c = {0};
        assert_int_equal(fga_pool_create(threads, &c.pool), FGA_OK);
        for (int round = 1; round <= 50; round++) {
            fga_pool_run(c.pool, 1000, count_item, &c);
            for (int i = 0; i < 1000; i++) {
                assert_int_equal(c.seen[i], round);
            }
        }
        assert_int_equal(c.nested, 50 * 1000 * 6);
        fga_pool_destroy(&c.pool);
        assert_null(c.pool);
    }
}

/* Pool a's body uses pool b, whose body uses pool a: each knows its own workers. */
typedef struct nest {
    fga_pool *a, *b[4];
    _Atomic int wrong, innermost;
} nest;

typedef struct visit {
    nest *n;
    int worker; /* of pool a */
} visit;

static void back_in_a(void *arg, int64_t item, int worker)
{
    const visit *v = arg;
    (void)item;
    atomic_fetch_add(&v->n->wrong, worker != v->worker);
    atomic_fetch_add(&v->n->innermost, 1);
}

static void in_b(void *arg, int64_t item, int worker)
{
    const visit *v = arg;
    (void)item;
    atomic_fetch_add(&v->n->wrong, worker != 0);
    fga_pool_run(v->n->a, 2, back_in_a, arg);
}

static void in_a(void *arg, int64_t item, int worker)
{
    visit v = {arg, worker};
    (void)item;
    fga_pool_run(v.n->b[worker], 3, in_b, &v);
}

static void nested_pools_know_their_own_workers(void **state)
{
    (void)state;
    nest n = {0};
    assert_int_equal(fga_pool_create(4, &n.a), FGA_OK);
    for (int i = 0; i < 4; i++) {
        assert_int_equal(fga_pool_create(1 + i % 2, &n.b[i]), FGA_OK);
    }
    fga_pool_run(n.a, 500, in_a, &n);
    assert_int_equal(n.wrong, 0);
    assert_int_equal(n.innermost, 500 * 3 * 2);
    for (int i = 0; i < 4; i++) {
        fga_pool_destroy(&n.b[i]);
    }
    fga_pool_destroy(&n.a);
}

static void context_checks_its_options(void **state)
{
    (void)state;
    fga_context *ctx = NULL;
    fga_context_options o = fga_context_options_default();
    o.threads = -1;
    assert_int_equal(fga_context_create(&o, &ctx), FGA_ERR_ARGUMENT);
    assert_null(ctx);
    o = fga_context_options_default();
    o.threads = 3;
    assert_int_equal(fga_context_create(&o, &ctx), FGA_OK);
    assert_int_equal(fga_context_threads(ctx), 3);
    assert_int_equal(fga_context_fail(ctx, FGA_ERR_DATA, "tensor %s has %d rows", "q", 7), FGA_ERR_DATA);
    assert_string_equal(fga_last_error(ctx), "tensor q has 7 rows");
    fga_context_destroy(&ctx);
    assert_null(ctx);
    fga_context_destroy(&ctx);
    fga_context_destroy(NULL);
}

/* Whatever the size: aligned, and all of it there. */
static void large_buffers_are_aligned(void **state)
{
    (void)state;
    const size_t sizes[] = {0, 1, 64, 4095, ((size_t)4 << 20) - 1, (size_t)4 << 20, ((size_t)6 << 20) + 5};
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        unsigned char *p = fga_pages_alloc(sizes[i]);
        assert_true(sizes[i] == 0 || p != NULL);
        assert_int_equal((uintptr_t)p % (sizes[i] >= (size_t)4 << 20 ? (size_t)2 << 20 : 64), 0);
        for (size_t at = 0; at < sizes[i]; at += 4096) {
            p[at] = p[sizes[i] - 1] = 1;
        }
        free(p);
    }
    assert_null(fga_pages_alloc(SIZE_MAX));
    assert_null(fga_pages_alloc(SIZE_MAX - 63));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(nested_pools_know_their_own_workers), cmocka_unit_test(half_round_trips),
        cmocka_unit_test(half_rounds_to_nearest_even),         cmocka_unit_test(pool_runs_every_item_once),
        cmocka_unit_test(context_checks_its_options),          cmocka_unit_test(large_buffers_are_aligned),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
