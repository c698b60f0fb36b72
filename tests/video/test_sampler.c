/* Schedules and traces of both samplers against diffusers' own, and what they refuse. */
#include "golden.h"

#include "video/sampler.h"

enum { ELEMENTS = 10 };

static const int step_counts[] = {1, 2, 3, 4, 8, 20, 50};
static const int shifts[] = {1, 3, 5};

static void start(float *x)
{
    for (int i = 0; i < ELEMENTS; i++) {
        x[i] = (float)(1.5 * cos(0.9 * i));
    }
}

/* The goldens' stand-in for a model at step k. */
static void velocity(const float *x, int k, float *v)
{
    for (int i = 0; i < ELEMENTS; i++) {
        v[i] = (float)(0.6 * x[i] + 0.4 * sin(0.37 * i + 0.5 * k));
    }
}

static void compare_schedule(golden_file *file, fgv_sampler kind, int steps, int shift)
{
    double sigmas[51], timesteps[50];
    assert_int_equal(fgv_sampler_schedule(file->ctx, kind, steps, shift, sigmas, timesteps), FGA_OK);
    float *wanted = golden_read(file->weights, FGV_SHAPE(steps + 1), "n%d.shift%d.sigmas", steps, shift);
    float *wanted_t = golden_read(file->weights, FGV_SHAPE(steps), "n%d.shift%d.timesteps", steps, shift);
    for (int i = 0; i <= steps; i++) {
        assert_true(sigmas[i] == wanted[i]);
        assert_true(i == steps || timesteps[i] == wanted_t[i]);
    }
    free(wanted);
    free(wanted_t);
}

static void compare_trace(golden_file *file, fgv_sampler kind, int steps, int shift)
{
    float *wanted = golden_read(file->weights, FGV_SHAPE(steps + 1, ELEMENTS), "n%d.shift%d.trace", steps, shift);
    fgv_sampler_state *sampler;
    assert_int_equal(fgv_sampler_create(file->ctx, kind, steps, shift, ELEMENTS, &sampler), FGA_OK);
    float x[ELEMENTS], v[ELEMENTS];
    start(x);
    for (int k = 0; k < steps; k++) {
        velocity(x, k, v);
        assert_int_equal(fgv_sampler_step(sampler, k, v, x), FGA_OK);
        char what[64];
        snprintf(what, sizeof what, "sampler %d, shift %d, after step %d of %d", kind, shift, k, steps);
        golden_assert_near(what, x, wanted + (size_t)(k + 1) * ELEMENTS, ELEMENTS, 1e-6, 1e-6);
    }
    fgv_sampler_destroy(&sampler);
    free(wanted);
}

static void compare_all(fgv_sampler kind, const char *stem)
{
    golden_file file = golden_open("tests/golden/sampler", stem);
    for (size_t n = 0; n < sizeof step_counts / sizeof *step_counts; n++) {
        for (size_t s = 0; s < sizeof shifts / sizeof *shifts; s++) {
            compare_schedule(&file, kind, step_counts[n], shifts[s]);
            compare_trace(&file, kind, step_counts[n], shifts[s]);
        }
    }
    golden_close(&file);
}

static void unipc_equals_diffusers(void **state)
{
    compare_all(FGV_SAMPLER_UNIPC, "unipc");
    (void)state;
}

static void euler_equals_diffusers(void **state)
{
    compare_all(FGV_SAMPLER_EULER, "euler");
    (void)state;
}

/* A constant velocity is a straight line: both end at x - v whatever the steps. */
static void straight_lines_are_exact(void **state)
{
    fga_context *ctx;
    assert_int_equal(fga_context_create(NULL, &ctx), FGA_OK);
    enum { MANY = 40000 }; /* more than one chunk, the last one ragged */
    float *x = malloc(MANY * sizeof *x), *v = malloc(MANY * sizeof *v);
    assert_true(x != NULL && v != NULL);
    for (int kind = 0; kind <= 1; kind++) {
        fgv_sampler_state *sampler;
        assert_int_equal(fgv_sampler_create(ctx, (fgv_sampler)kind, 7, 3.0, MANY, &sampler), FGA_OK);
        for (int i = 0; i < MANY; i++) {
            x[i] = 0.001f * (float)i;
            v[i] = 1.0f - 0.0005f * (float)i;
        }
        for (int k = 0; k < 7; k++) {
            assert_int_equal(fgv_sampler_step(sampler, k, v, x), FGA_OK);
        }
        for (int i = 0; i < MANY; i++) {
            assert_true(fabs(x[i] - (0.001 * i - (1.0 - 0.0005 * i))) < 1e-4);
        }
        fgv_sampler_destroy(&sampler);
    }
    free(x);
    free(v);
    fga_context_destroy(&ctx);
    (void)state;
}

static void steps_must_come_in_order(void **state)
{
    fga_context *ctx;
    assert_int_equal(fga_context_create(NULL, &ctx), FGA_OK);
    fgv_sampler_state *sampler;
    assert_int_equal(fgv_sampler_create(ctx, FGV_SAMPLER_UNIPC, 2, 3.0, 1, &sampler), FGA_OK);
    float x = 1.0f, v = 0.5f;
    assert_int_equal(fgv_sampler_step(sampler, 1, &v, &x), FGA_ERR_ARGUMENT);
    assert_non_null(strstr(fga_last_error(ctx), "expected step 0"));
    assert_true(x == 1.0f);
    assert_int_equal(fgv_sampler_step(sampler, 0, &v, &x), FGA_OK);
    assert_int_equal(fgv_sampler_step(sampler, 1, &v, &x), FGA_OK);
    assert_int_equal(fgv_sampler_step(sampler, 2, &v, &x), FGA_ERR_ARGUMENT);
    fgv_sampler_destroy(&sampler);
    fgv_sampler_destroy(NULL);
    fga_context_destroy(&ctx);
    (void)state;
}

static void nonsense_is_refused(void **state)
{
    fga_context *ctx;
    assert_int_equal(fga_context_create(NULL, &ctx), FGA_OK);
    static const struct {
        int kind, steps;
        double shift;
        const char *text;
    } cases[] = {{0, 0, 3.0, "steps = 0"},      {0, 1001, 3.0, "1 ... 1000"}, {1, 1000000000, 3.0, "1 ... 1000"},
                 {0, -4, 3.0, "steps = -4"},    {0, 8, 0.0, "shift = 0"},     {1, 8, -1.0, "above 0"},
                 {0, 8, NAN, "above 0"},        {1, 8, INFINITY, "above 0"},  {2, 8, 3.0, "sampler 2 is unknown"},
                 {0, 1000, 1e9, "do not fall"}, {0, 8, 1e-30, "do not fall"}};
    double sigmas[1001], timesteps[1000];
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        assert_int_equal(
            fgv_sampler_schedule(ctx, (fgv_sampler)cases[i].kind, cases[i].steps, cases[i].shift, sigmas, timesteps),
            FGA_ERR_ARGUMENT);
        if (strstr(fga_last_error(ctx), cases[i].text) == NULL) {
            fail_msg("case %zu: '%s' does not say '%s'", i, fga_last_error(ctx), cases[i].text);
        }
        fgv_sampler_state *sampler = (fgv_sampler_state *)&sigmas;
        assert_int_equal(
            fgv_sampler_create(ctx, (fgv_sampler)cases[i].kind, cases[i].steps, cases[i].shift, 4, &sampler),
            FGA_ERR_ARGUMENT);
        assert_null(sampler);
    }
    fga_context_destroy(&ctx);
    (void)state;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(unipc_equals_diffusers),   cmocka_unit_test(euler_equals_diffusers),
        cmocka_unit_test(straight_lines_are_exact), cmocka_unit_test(steps_must_come_in_order),
        cmocka_unit_test(nonsense_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
