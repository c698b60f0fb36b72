/* Linear layers against sums in double: odd shapes, strides, types, activations; the same bytes at any thread count. */
#include "base/half.h"
#include "video/linear.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include <cmocka.h>

#define GUARD 7
#define POISON 12345.0f

typedef struct layer_case {
    int64_t rows, in, out;
    int64_t x_pad, y_pad; /* strides beyond in and out */
    fga_dtype weight, y;
    fgv_activation activation;
    fga_dtype compute;
    bool bias;
} layer_case;

static uint32_t random_state = 1;

static float uniform(void)
{
    random_state = random_state * 1664525u + 1013904223u;
    return (float)(random_state >> 8) * 0x1p-23f - 1.0f;
}

static double activate(double x, fgv_activation activation)
{
    if (activation == FGV_SILU) {
        return x / (1.0 + exp(-x));
    }
    if (activation == FGV_GELU_TANH) {
        return 0.5 * x * (1.0 + tanh(sqrt(2.0 / acos(-1.0)) * (x + 0.044715 * x * x * x)));
    }
    return x;
}

static float rounded(float x, fga_dtype compute)
{
    return compute == FGA_BF16 ? fga_bf16_to_f32(fga_f32_to_bf16(x)) : x;
}

static float *new_array(int64_t n)
{
    float *a = malloc((size_t)(n > 0 ? n : 1) * sizeof *a);
    assert_non_null(a);
    return a;
}

/* The layer with random weights, stored at an address that fits the element but no vector. */
static fgv_linear make_layer(const layer_case *c, void **storage)
{
    int64_t n = c->in * c->out;
    fgv_linear layer = {.in = c->in, .out = c->out};
    *storage = malloc((size_t)(n + 1) * sizeof(float));
    assert_non_null(*storage);
    char *data = (char *)*storage + fga_dtype_size(c->weight);
    for (int64_t i = 0; i < n; i++) {
        float value = uniform();
        fga_from_f32(data + (size_t)i * fga_dtype_size(c->weight), c->weight, &value, 1);
    }
    layer.weight = (fgv_tensor){data, c->weight, 2, {c->out, c->in}};
    if (c->bias) {
        layer.bias = new_array(c->out);
        for (int64_t i = 0; i < c->out; i++) {
            layer.bias[i] = uniform();
        }
    }
    return layer;
}

/* Inputs are exact in the reference; what remains is f32 accumulation, the activation, and y's own rounding. */
static void check_values(const layer_case *c, const fgv_linear *layer, const float *x, const void *y)
{
    float *w = new_array(c->in * c->out);
    fga_to_f32(w, layer->weight.data, c->weight, c->in * c->out);
    int64_t y_stride = c->out + c->y_pad;
    for (int64_t r = 0; r < c->rows; r++) {
        for (int64_t o = 0; o < c->out; o++) {
            double sum = c->bias ? layer->bias[o] : 0, magnitude = fabs(sum);
            for (int64_t i = 0; i < c->in; i++) {
                double term =
                    (double)rounded(x[r * (c->in + c->x_pad) + i], c->compute) * rounded(w[o * c->in + i], c->compute);
                sum += term;
                magnitude += fabs(term);
            }
            double want = activate(sum, c->activation);
            float got;
            fga_to_f32(&got, (const char *)y + (size_t)(r * y_stride + o) * fga_dtype_size(c->y), c->y, 1);
            double grain = c->y == FGA_F32 ? 2e-7 : c->y == FGA_F16 ? 0x1p-11 : 0x1p-8;
            double tolerance = magnitude * sqrt((double)c->in + 4) * 0x1p-23 + fabs(want) * grain + 1e-6;
            if (!(fabs(got - want) <= tolerance)) {
                fail_msg("rows %d in %d out %d at (%d, %d): got %.9g, want %.9g +- %.2g", (int)c->rows, (int)c->in,
                         (int)c->out, (int)r, (int)o, got, want, tolerance);
            }
        }
    }
    free(w);
}

static void run_case(const layer_case *c, bool check)
{
    static const int threads[] = {1, 2, 3, 8};
    void *storage;
    fgv_linear layer = make_layer(c, &storage);
    int64_t x_stride = c->in + c->x_pad, y_stride = c->out + c->y_pad;
    size_t y_size = fga_dtype_size(c->y), y_bytes = (size_t)(c->rows * y_stride + GUARD) * y_size;
    float *x = new_array(c->rows * x_stride);
    for (int64_t i = 0; i < c->rows * x_stride; i++) {
        x[i] = i % x_stride < c->in ? uniform() : NAN; /* padding must not be read into a sum */
    }
    uint16_t *narrow = malloc((size_t)(c->rows * x_stride) * sizeof *narrow);
    assert_non_null(narrow);
    fga_from_f32(narrow, FGA_BF16, x, c->rows * x_stride);
    char *first = NULL;
    for (size_t t = 0; t < sizeof threads / sizeof threads[0]; t++) {
        fga_context_options options = fga_context_options_default();
        options.threads = threads[t];
        fga_context *ctx;
        assert_int_equal(fga_context_create(&options, &ctx), FGA_OK);
        char *y = malloc(y_bytes);
        assert_non_null(y);
        float poison = POISON;
        for (size_t i = 0; i < y_bytes / y_size; i++) {
            fga_from_f32(y + i * y_size, c->y, &poison, 1);
        }
        fgv_linear_args args = {.x = x, .y = y, .rows = c->rows, .y_dtype = c->y};
        args.x_stride = c->x_pad != 0 ? x_stride : 0;
        args.y_stride = c->y_pad != 0 ? y_stride : 0;
        args.activation = c->activation;
        args.compute = c->compute;
        if (c->compute == FGA_BF16 && t % 2 == 1) { /* rounded before or inside: the same bytes */
            args.x = narrow;
            args.x_dtype = FGA_BF16;
        }
        assert_int_equal(fgv_linear_run(ctx, &layer, &args), FGA_OK);
        char expected[4];
        fga_from_f32(expected, c->y, &poison, 1);
        for (int64_t i = 0; i < c->rows * y_stride + GUARD; i++) { /* nothing beside the rows was touched */
            if (i % y_stride >= c->out || i >= c->rows * y_stride) {
                assert_memory_equal(y + (size_t)i * y_size, expected, y_size);
            }
        }
        if (first == NULL) {
            first = y;
        } else {
            assert_memory_equal(y, first, y_bytes);
            free(y);
        }
        fga_context_destroy(&ctx);
    }
    if (check) {
        check_values(c, &layer, x, first);
    }
    free(first);
    free(x);
    free(narrow);
    free(storage);
    fgv_linear_free(&layer);
}

static void linear_matches_double_sums(void **state)
{
    (void)state;
    static const layer_case cases[] = {
        {1, 1, 1, 0, 0, FGA_F32, FGA_F32, FGV_IDENTITY, FGA_F32, true},
        {1, 256, 64, 0, 0, FGA_F32, FGA_F32, FGV_SILU, FGA_F32, true},
        {3, 17, 65, 2, 3, FGA_BF16, FGA_F32, FGV_GELU_TANH, FGA_F32, true},
        {5, 96, 130, 0, 0, FGA_F16, FGA_BF16, FGV_IDENTITY, FGA_F32, false},
        {7, 33, 3, 1, 0, FGA_F32, FGA_F16, FGV_IDENTITY, FGA_BF16, true},
        {16, 100, 200, 0, 5, FGA_F16, FGA_F32, FGV_SILU, FGA_BF16, false},
        {17, 100, 200, 0, 5, FGA_F16, FGA_F32, FGV_SILU, FGA_BF16, false},
        {17, 1, 1, 0, 0, FGA_F32, FGA_F32, FGV_IDENTITY, FGA_F32, true},
        {31, 64, 48, 0, 0, FGA_BF16, FGA_F32, FGV_IDENTITY, FGA_F32, true},
        {127, 96, 257, 5, 1, FGA_F32, FGA_F32, FGV_GELU_TANH, FGA_F32, true},
        {128, 128, 256, 0, 0, FGA_F32, FGA_BF16, FGV_GELU_TANH, FGA_F32, true},
        {129, 96, 288, 0, 0, FGA_F16, FGA_F16, FGV_SILU, FGA_F32, false},
        {257, 130, 70, 3, 2, FGA_BF16, FGA_F32, FGV_IDENTITY, FGA_BF16, true},
        {200, 131, 300, 0, 0, FGA_F32, FGA_BF16, FGV_GELU_TANH, FGA_BF16, true},
        {40, 1100, 150, 0, 0, FGA_F16, FGA_F32, FGV_IDENTITY, FGA_BF16, false},
        {130, 700, 300, 9, 40, FGA_F32, FGA_F32, FGV_SILU, FGA_F32, true},
        {20, 2100, 90, 0, 0, FGA_BF16, FGA_F32, FGV_IDENTITY, FGA_F32, true},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        run_case(&cases[i], true);
    }
}

/* Enough tiles that threads race for them and the grouping differs. */
static void linear_is_deterministic(void **state)
{
    (void)state;
    run_case(&(layer_case){1500, 64, 600, 0, 0, FGA_BF16, FGA_F32, FGV_SILU, FGA_F32, true}, false);
    run_case(&(layer_case){1500, 64, 600, 0, 0, FGA_F32, FGA_BF16, FGV_IDENTITY, FGA_BF16, true}, false);
}

static void linear_takes_no_rows(void **state)
{
    (void)state;
    run_case(&(layer_case){0, 8, 8, 0, 0, FGA_F32, FGA_F32, FGV_IDENTITY, FGA_F32, true}, true);
}

/* More distinct shapes than the per-thread cache holds, twice over. */
static void linear_survives_many_shapes(void **state)
{
    (void)state;
    for (int round = 0; round < 2; round++) {
        for (int64_t i = 0; i < 60; i++) {
            run_case(&(layer_case){17 + i, 4, 8, 0, 0, FGA_F32, FGA_F32, FGV_IDENTITY, FGA_F32, false}, true);
        }
    }
}

/* Activations over their whole range, through a 1x1 layer of weight 1. */
static void activations_are_accurate(void **state)
{
    (void)state;
    fga_context *ctx;
    assert_int_equal(fga_context_create(NULL, &ctx), FGA_OK);
    float one = 1.0f;
    fgv_linear layer = {.in = 1, .out = 1, .weight = {&one, FGA_F32, 2, {1, 1}}};
    enum { N = 40001 };
    float *x = new_array(N), *y = new_array(N);
    for (int i = 0; i < N; i++) {
        x[i] = (float)(i - N / 2) * 0.001f;
    }
    for (int activation = FGV_SILU; activation <= FGV_GELU_TANH; activation++) {
        fgv_linear_args args = {.x = x, .y = y, .rows = N, .activation = (fgv_activation)activation};
        assert_int_equal(fgv_linear_run(ctx, &layer, &args), FGA_OK);
        for (int i = 0; i < N; i++) {
            double want = activate(x[i], (fgv_activation)activation);
            if (!(fabs(y[i] - want) <= 2e-7 * fabs(want) + 6e-8)) {
                fail_msg("activation %d of %g: got %.9g, want %.9g", activation, x[i], y[i], want);
            }
        }
        const float extremes[] = {1e4f, -1e4f, INFINITY, NAN};
        args = (fgv_linear_args){.x = extremes, .y = y, .rows = 4, .activation = (fgv_activation)activation};
        assert_int_equal(fgv_linear_run(ctx, &layer, &args), FGA_OK);
        assert_true(y[0] == 1e4f && y[1] == 0.0f && y[2] == INFINITY && isnan(y[3]));
    }
    free(x);
    free(y);
    fga_context_destroy(&ctx);
}

static void linear_refuses_bad_arguments(void **state)
{
    (void)state;
    fga_context *ctx;
    assert_int_equal(fga_context_create(NULL, &ctx), FGA_OK);
    float w[6] = {0}, x[6] = {0}, y[6];
    fgv_linear layer = {.in = 3, .out = 2, .weight = {w, FGA_F32, 2, {2, 3}}};
    const fgv_linear_args good = {.x = x, .y = y, .rows = 2};
    fgv_linear_args a = good;
    a.rows = -1;
    assert_int_equal(fgv_linear_run(ctx, &layer, &a), FGA_ERR_ARGUMENT);
    a = good, a.x = NULL;
    assert_int_equal(fgv_linear_run(ctx, &layer, &a), FGA_ERR_ARGUMENT);
    a = good, a.x_stride = 2;
    assert_int_equal(fgv_linear_run(ctx, &layer, &a), FGA_ERR_ARGUMENT);
    a = good, a.y_stride = 1;
    assert_int_equal(fgv_linear_run(ctx, &layer, &a), FGA_ERR_ARGUMENT);
    a = good, a.compute = FGA_F16;
    assert_int_equal(fgv_linear_run(ctx, &layer, &a), FGA_ERR_ARGUMENT);
    assert_non_null(strstr(fga_last_error(ctx), "f16"));
    a = good, a.x_dtype = FGA_BF16; /* to be multiplied in f32 */
    assert_int_equal(fgv_linear_run(ctx, &layer, &a), FGA_ERR_ARGUMENT);
    assert_int_equal(fgv_linear_run(ctx, &layer, &good), FGA_OK);
    fga_context_destroy(&ctx);
}

/* Room for the packed weights at least, growing with threads and never below what fewer rows need. */
static void scratch_is_stated(void **state)
{
    (void)state;
    fga_context *ctx[2];
    for (int i = 0; i < 2; i++) {
        fga_context_options options = fga_context_options_default();
        options.threads = 1 + i;
        assert_int_equal(fga_context_create(&options, &ctx[i]), FGA_OK);
    }
    assert_true(fgv_linear_scratch(ctx[0], 300, 100, 1000, FGA_F32) >= 300 * 100 * 4);
    assert_true(fgv_linear_scratch(ctx[1], 300, 100, 1000, FGA_F32) >
                fgv_linear_scratch(ctx[0], 300, 100, 1000, FGA_F32));
    assert_true(fgv_linear_scratch(ctx[0], 300, 100, 17, FGA_F32) > fgv_linear_scratch(ctx[0], 300, 100, 16, FGA_F32));
    assert_true(fgv_linear_scratch(ctx[0], 300, 100, 100, FGA_BF16) <=
                fgv_linear_scratch(ctx[0], 300, 100, 100, FGA_F32));
    fga_context_destroy(&ctx[0]);
    fga_context_destroy(&ctx[1]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(linear_matches_double_sums), cmocka_unit_test(linear_is_deterministic),
        cmocka_unit_test(linear_takes_no_rows),       cmocka_unit_test(linear_survives_many_shapes),
        cmocka_unit_test(activations_are_accurate),   cmocka_unit_test(linear_refuses_bad_arguments),
        cmocka_unit_test(scratch_is_stated),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
