/* UMT5 against transformers in float64 (tests/golden/text), and its own checks. */
#include "video/json.h"
#include "video/text_encoder.h"
#include "video/weights.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#define CHECKPOINT "tests/golden/tiny/text_encoder"

static fga_context *new_context(int threads)
{
    fga_context_options options = fga_context_options_default();
    options.threads = threads;
    fga_context *ctx;
    assert_int_equal(fga_context_create(&options, &ctx), FGA_OK);
    return ctx;
}

/* The golden tensor NAME of n rows as f32. */
static float *golden(fgv_weights *goldens, int rank, const int64_t *shape, const char *format, int n)
{
    char name[64];
    snprintf(name, sizeof name, format, n);
    fgv_tensor tensor;
    assert_int_equal(fgv_weights_get(goldens, &tensor, rank, shape, "%s", name), FGA_OK);
    float *values;
    assert_int_equal(fgv_tensor_to_f32(fgv_weights_context(goldens), &tensor, &values), FGA_OK);
    return values;
}

static void errors(const float *a, const float *b, int64_t n, double *l2, double *max)
{
    double difference = 0, norm = 0, largest = 0, peak = 0;
    for (int64_t i = 0; i < n; i++) {
        double d = (double)a[i] - b[i];
        difference += d * d;
        norm += (double)b[i] * b[i];
        largest = fmax(largest, fabs(d));
        peak = fmax(peak, fabs(b[i]));
    }
    *l2 = sqrt(difference / norm);
    *max = largest / peak;
}

static void rows_match(void **state)
{
    (void)state;
    static const int counts[] = {1, 2, 17, 200};
    fga_context *ctx = new_context(2);
    fgv_weights *goldens;
    fgv_text_encoder *encoder;
    assert_int_equal(fgv_weights_open(ctx, "tests/golden/text", "tiny-umt5", &goldens), FGA_OK);
    assert_int_equal(fgv_text_encoder_open(ctx, CHECKPOINT, &encoder), FGA_OK);
    int64_t dim = fgv_text_encoder_dim(encoder);
    assert_int_equal(dim, 40);
    assert_int_equal(fgv_text_encoder_vocabulary(encoder), 512);
    for (size_t c = 0; c < sizeof counts / sizeof counts[0]; c++) {
        int n = counts[c];
        float *ids_f32 = golden(goldens, FGV_SHAPE(n), "n%d.ids", n);
        float *want = golden(goldens, FGV_SHAPE(n, dim), "n%d.rows", n);
        float *bf16_error = golden(goldens, FGV_SHAPE(2), "n%d.bf16_error", n);
        int32_t *ids = malloc((size_t)n * sizeof *ids);
        float *out = malloc((size_t)(n * dim + 1) * sizeof *out);
        assert_true(ids != NULL && out != NULL);
        for (int i = 0; i < n; i++) {
            ids[i] = (int32_t)ids_f32[i];
        }
        out[n * dim] = -7.0f;
        double l2, max;
        assert_int_equal(fgv_text_encoder_run(encoder, FGA_F32, ids, n, out), FGA_OK);
        errors(out, want, n * dim, &l2, &max);
        print_message("%d tokens: f32 l2 %.2e max %.2e", n, l2, max);
        assert_true(l2 <= 1e-5 && max <= 1e-5);
        assert_int_equal(fgv_text_encoder_run(encoder, FGA_BF16, ids, n, out), FGA_OK);
        errors(out, want, n * dim, &l2, &max);
        print_message(", bf16 l2 %.2e max %.2e of torch's %.2e %.2e\n", l2, max, bf16_error[0], bf16_error[1]);
        assert_true(l2 <= 1.25 * bf16_error[0] && max <= 1.25 * bf16_error[1]);
        assert_true(out[n * dim] == -7.0f);
        free(ids);
        free(out);
        free(ids_f32);
        free(want);
        free(bf16_error);
    }
    fgv_text_encoder_close(&encoder);
    assert_null(encoder);
    fgv_text_encoder_close(&encoder);
    fgv_weights_close(&goldens);
    fga_context_destroy(&ctx);
}

static void threads_do_not_matter(void **state)
{
    (void)state;
    enum { N = 150, DIM = 40 };
    int32_t ids[N];
    for (int i = 0; i < N; i++) {
        ids[i] = (i * 37) % 512;
    }
    static float first[N * DIM], other[N * DIM];
    for (int threads = 1; threads <= 5; threads++) {
        fga_context *ctx = new_context(threads);
        fgv_text_encoder *encoder;
        assert_int_equal(fgv_text_encoder_open(ctx, CHECKPOINT, &encoder), FGA_OK);
        assert_int_equal(fgv_text_encoder_run(encoder, FGA_F32, ids, N, threads == 1 ? first : other), FGA_OK);
        if (threads > 1) {
            assert_memory_equal(first, other, sizeof first);
        }
        fgv_text_encoder_close(&encoder);
        fga_context_destroy(&ctx);
    }
}

/* CHECKPOINT's configuration with another number under `key`, and without a largest distance. */
static void refuse_config(fga_context *ctx, const char *key, double value)
{
    char folder[] = "/tmp/fgattn-text-XXXXXX", path[64];
    assert_non_null(mkdtemp(folder));
    snprintf(path, sizeof path, "%s/config.json", folder);
    cJSON *config;
    assert_int_equal(fgv_json_read(ctx, CHECKPOINT "/config.json", &config), FGA_OK);
    cJSON_DeleteItemFromObjectCaseSensitive(config, "relative_attention_max_distance");
    cJSON_SetNumberValue(cJSON_GetObjectItemCaseSensitive(config, key), value);
    char *text = cJSON_PrintUnformatted(config);
    FILE *file = fopen(path, "w");
    assert_true(file != NULL && fputs(text, file) >= 0 && fclose(file) == 0);
    fgv_text_encoder *encoder;
    assert_int_equal(fgv_text_encoder_open(ctx, folder, &encoder), FGA_ERR_DATA);
    assert_null(encoder);
    assert_non_null(strstr(fga_last_error(ctx), key));
    cJSON_free(text);
    cJSON_Delete(config);
    remove(path);
    remove(folder);
}

static void bad_input_is_refused(void **state)
{
    (void)state;
    fga_context *ctx = new_context(1);
    fgv_text_encoder *encoder;
    assert_int_equal(fgv_text_encoder_open(ctx, "/nonexistent", &encoder), FGA_ERR_IO);
    assert_null(encoder);
    assert_non_null(strstr(fga_last_error(ctx), "/nonexistent/config.json"));
    assert_int_equal(fgv_text_encoder_open(ctx, "tests/golden/tiny/transformer", &encoder), FGA_ERR_DATA);
    assert_non_null(strstr(fga_last_error(ctx), "config.json"));

    /* Half of a direction's buckets are exact: distances up to 150, where the rest must still grow to the 128 that
     * counts without another word. */
    refuse_config(ctx, "relative_attention_num_buckets", 600);

    assert_int_equal(fgv_text_encoder_open(ctx, CHECKPOINT, &encoder), FGA_OK);
    float out[40] = {5};
    assert_int_equal(fgv_text_encoder_run(encoder, FGA_F32, (int32_t[]){512}, 1, out), FGA_ERR_DATA);
    assert_non_null(strstr(fga_last_error(ctx), "512"));
    assert_int_equal(fgv_text_encoder_run(encoder, FGA_F32, (int32_t[]){-1}, 1, out), FGA_ERR_DATA);
    assert_int_equal(fgv_text_encoder_run(encoder, FGA_F32, (int32_t[]){1}, -1, out), FGA_ERR_ARGUMENT);
    assert_int_equal(fgv_text_encoder_run(encoder, FGA_F16, (int32_t[]){1}, 1, out), FGA_ERR_ARGUMENT);
    assert_int_equal(fgv_text_encoder_run(encoder, FGA_F32, NULL, 0, out), FGA_OK);
    assert_true(out[0] == 5);
    assert_true(fgv_text_encoder_memory(encoder, 512) > fgv_text_encoder_memory(encoder, 1));
    fgv_text_encoder_close(&encoder);
    fga_context_destroy(&ctx);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rows_match),
        cmocka_unit_test(threads_do_not_matter),
        cmocka_unit_test(bad_input_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
