/* golden.h - reading golden tensors in tests, and the two errors every comparison is judged by. */
#ifndef GOLDEN_H
#define GOLDEN_H

#include "video/weights.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static inline fga_context *open_context(int threads)
{
    fga_context_options options = fga_context_options_default();
    options.threads = threads;
    fga_context *ctx;
    assert_int_equal(fga_context_create(&options, &ctx), FGA_OK);
    return ctx;
}

typedef struct golden_file {
    fga_context *ctx;
    fgv_weights *weights;
} golden_file;

static inline golden_file golden_open(const char *dir, const char *stem)
{
    golden_file file = {open_context(2), NULL};
    fga_status status = fgv_weights_open(file.ctx, dir, stem, &file.weights);
    if (status != FGA_OK) {
        fail_msg("%s", fga_last_error(file.ctx));
    }
    return file;
}

static inline void golden_close(golden_file *file)
{
    fgv_weights_close(&file->weights);
    fga_context_destroy(&file->ctx);
}

/* The tensor as f32, free() it. The name is printf-formatted. */
__attribute__((format(printf, 4, 5))) static inline float *golden_read(fgv_weights *weights, int rank,
                                                                       const int64_t *shape, const char *format, ...)
{
    char name[128];
    va_list list;
    va_start(list, format);
    vsnprintf(name, sizeof name, format, list);
    va_end(list);
    fga_context *ctx = fgv_weights_context(weights);
    fgv_tensor tensor;
    float *out = NULL;
    if (fgv_weights_get(weights, &tensor, rank, shape, "%s", name) != FGA_OK ||
        fgv_tensor_to_f32(ctx, &tensor, &out) != FGA_OK) {
        fail_msg("%s", fga_last_error(ctx));
    }
    return out;
}

typedef struct golden_error {
    double l2, max; /* norm(a - b)/norm(b), max|a - b|/max|b| */
} golden_error;

static inline golden_error golden_compare(const float *a, const float *b, int64_t n)
{
    double difference = 0.0, norm = 0.0, worst = 0.0, largest = 0.0;
    for (int64_t i = 0; i < n; i++) {
        double d = fabs((double)a[i] - b[i]);
        if (!(d <= HUGE_VAL)) {
            return (golden_error){HUGE_VAL, HUGE_VAL}; /* NaN */
        }
        difference += d * d;
        norm += (double)b[i] * b[i];
        worst = d > worst ? d : worst;
        largest = fabs(b[i]) > largest ? fabs(b[i]) : largest;
    }
    return (golden_error){sqrt(difference / norm), worst / largest};
}

static inline void golden_assert_near(const char *what, const float *a, const float *b, int64_t n, double l2,
                                      double max)
{
    golden_error e = golden_compare(a, b, n);
    if (!(e.l2 <= l2) || !(e.max <= max)) {
        fail_msg("%s: error %.3e (limit %.3e), largest %.3e (limit %.3e)", what, e.l2, l2, e.max, max);
    }
}

#endif
