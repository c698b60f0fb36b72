/* The noise against torch.randn, bit for bit. */
#include "golden.h"

#include "fgvideo.h"

#include <inttypes.h>

static void compare(fgv_weights *goldens, uint64_t seed, int64_t n)
{
    float *wanted = golden_read(goldens, FGV_SHAPE(n), "seed%" PRIu64 ".n%" PRId64, seed, n);
    float *got = malloc((size_t)(n + 2) * sizeof *got);
    assert_non_null(got);
    got[0] = got[n + 1] = 1234.5f; /* guards */
    fgv_randn(seed, got + 1, n);
    assert_true(got[0] == 1234.5f && got[n + 1] == 1234.5f);
    for (int64_t i = 0; i < n; i++) {
        if (n >= 16) {
            assert_memory_equal(&got[i + 1], &wanted[i], sizeof(float));
        } else { /* the short form goes through the C library's double-precision log, sine and cosine */
            assert_true(fabs((double)got[i + 1] - wanted[i]) <= 1.2e-7 * fabs(wanted[i]));
        }
    }
    free(got);
    free(wanted);
}

static void equals_torch(void **state)
{
    golden_file file = golden_open("tests/golden/sampler", "randn");
    static const struct {
        uint64_t seed;
        int64_t n;
    } cases[] = {{0, 1},
                 {1, 5},
                 {42, 15},
                 {42, 16},
                 {42, 17},
                 {42, 100},
                 {4294967296u, 31},
                 {1234567, 1000},
                 {UINT64_C(9223372036854775813), 33}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        compare(file.weights, cases[i].seed, cases[i].n);
    }
    golden_close(&file);
    (void)state;
}

static void draws_nothing_for_nothing(void **state)
{
    float guard = 7.0f;
    fgv_randn(3, &guard, 0);
    assert_true(guard == 7.0f);
    (void)state;
}

/* Moments of a long draw, and that another seed is another draw. */
static void is_normal(void **state)
{
    enum { N = 200003 };
    float *x = malloc(N * sizeof *x);
    assert_non_null(x);
    fgv_randn(5, x, N);
    double sum = 0.0, squares = 0.0, fourth = 0.0;
    for (int i = 0; i < N; i++) {
        double y = x[i];
        sum += y, squares += y * y, fourth += y * y * y * y;
    }
    assert_true(fabs(sum / N) < 0.01);
    assert_true(fabs(squares / N - 1.0) < 0.02);
    assert_true(fabs(fourth / N - 3.0) < 0.1);
    float other[16];
    fgv_randn(6, other, 16);
    assert_memory_not_equal(other, x, sizeof other);
    free(x);
    (void)state;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(equals_torch),
        cmocka_unit_test(draws_nothing_for_nothing),
        cmocka_unit_test(is_normal),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
