/* PSNR and SSIM against their definitions written out, and figures known by heart. */
#include "video_files.h"

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

static double naive_psnr(const uint8_t *a, const uint8_t *b, size_t n, const uint8_t *counted)
{
    double squares = 0, samples = 0;
    for (size_t i = 0; i < n; i++) {
        if (counted == NULL || counted[i / 3]) {
            squares += ((double)a[i] - b[i]) * ((double)a[i] - b[i]);
            samples++;
        }
    }
    return 10 * log10(255.0 * 255.0 / (squares / samples));
}

/* The two-dimensional window as it is defined, at every position. */
static double naive_ssim(const uint8_t *a, const uint8_t *b, int width, int height)
{
    double window[11][11], total = 0, sum = 0;
    for (int y = 0; y < 11; y++) {
        for (int x = 0; x < 11; x++) {
            window[y][x] = exp(-((y - 5) * (y - 5) + (x - 5) * (x - 5)) / 4.5);
            total += window[y][x];
        }
    }
    for (int y0 = 0; y0 + 11 <= height; y0++) {
        for (int x0 = 0; x0 + 11 <= width; x0++) {
            double ma = 0, mb = 0, va = 0, vb = 0, cov = 0;
            for (int pass = 0; pass < 2; pass++) {
                for (int y = 0; y < 11; y++) {
                    for (int x = 0; x < 11; x++) {
                        const uint8_t *p = a + ((y0 + y) * width + x0 + x) * 3, *q = b + (p - a);
                        double w = window[y][x] / total, u = 0.299 * p[0] + 0.587 * p[1] + 0.114 * p[2];
                        double v = 0.299 * q[0] + 0.587 * q[1] + 0.114 * q[2];
                        if (pass == 0) {
                            ma += w * u;
                            mb += w * v;
                        } else {
                            va += w * (u - ma) * (u - ma);
                            vb += w * (v - mb) * (v - mb);
                            cov += w * (u - ma) * (v - mb);
                        }
                    }
                }
            }
            double c1 = 2.55 * 2.55, c2 = 7.65 * 7.65;
            sum += (2 * ma * mb + c1) * (2 * cov + c2) / ((ma * ma + mb * mb + c1) * (va + vb + c2));
        }
    }
    return sum / ((width - 10.0) * (height - 10.0));
}

static uint8_t *disturb(const uint8_t *rgb, size_t n)
{
    uint8_t *out = malloc(n);
    uint32_t state = 12345;
    for (size_t i = 0; i < n; i++) {
        state = state * 1664525u + 1013904223u;
        int x = rgb[i] + (int)(state >> 28) - 7;
        out[i] = (uint8_t)(x < 0 ? 0 : x > 255 ? 255 : x);
    }
    return out;
}

static fga_context *context_of(int threads)
{
    fga_context *ctx;
    fga_context_options options = fga_context_options_default();
    options.threads = threads;
    assert_int_equal(fga_context_create(&options, &ctx), FGA_OK);
    return ctx;
}

enum { W = 37, H = 23, T = 4 };

static void equals_the_definitions(void **state)
{
    (void)state;
    const size_t frame = W * H * 3;
    uint8_t *b = draw_video(W, H, T);
    memset(b + 3 * frame, 77, frame); /* constant, and most of its pixels differ from the frame before */
    uint8_t *a = disturb(b, frame * T), moving[W * H * T];
    for (size_t i = 0; i < W * H * T; i++) {
        bool before = i >= W * H && memcmp(b + 3 * i, b + 3 * i - frame, 3) != 0;
        bool after = i < W * H * (T - 1) && memcmp(b + 3 * i, b + 3 * i + frame, 3) != 0;
        moving[i] = before || after;
    }
    fgv_comparison first = {0};
    for (int threads = 1; threads <= 3; threads++) {
        fga_context *ctx = context_of(threads);
        fgv_comparison c;
        double psnr[T], ssim[T], mean = 0;
        assert_int_equal(fgv_compare(ctx, a, b, W, H, T, &c, psnr, ssim), FGA_OK);
        for (int t = 0; t < T; t++) {
            double wanted = naive_ssim(a + t * frame, b + t * frame, W, H);
            assert_true(fabs(psnr[t] - naive_psnr(a + t * frame, b + t * frame, frame, NULL)) < 1e-9);
            assert_true(fabs(ssim[t] - wanted) < 1e-9);
            mean += wanted / T;
        }
        assert_true(fabs(c.psnr_db - naive_psnr(a, b, frame * T, NULL)) < 1e-9);
        assert_true(fabs(c.psnr_moving_db - naive_psnr(a, b, frame * T, moving)) < 1e-9);
        assert_true(fabs(c.ssim - mean) < 1e-9);
        if (threads == 1) {
            first = c;
        }
        assert_memory_equal(&c, &first, sizeof c);
        fga_context_destroy(&ctx);
    }
    free(a);
    free(b);
}

static void special_videos(void **state)
{
    (void)state;
    fga_context *ctx = context_of(2);
    fgv_comparison c;
    uint8_t *b = draw_video(W, H, T);
    assert_int_equal(fgv_compare(ctx, b, b, W, H, T, &c, NULL, NULL), FGA_OK);
    assert_true(isinf(c.psnr_db) && isinf(c.psnr_moving_db));
    assert_true(fabs(c.ssim - 1) < 1e-12);
    /* A difference of one everywhere is 48.13 dB; nothing moves. */
    uint8_t *still = malloc(W * H * 3 * 2), *brighter = malloc(W * H * 3 * 2);
    memset(still, 100, W * H * 3 * 2);
    memset(brighter, 101, W * H * 3 * 2);
    assert_int_equal(fgv_compare(ctx, brighter, still, W, H, 2, &c, NULL, NULL), FGA_OK);
    assert_true(fabs(c.psnr_db - 48.1308036) < 1e-6);
    assert_true(isnan(c.psnr_moving_db));
    assert_true(fabs(c.ssim - (2 * 100.0 * 101 + 6.5025) / (100.0 * 100 + 101.0 * 101 + 6.5025)) < 1e-12);
    /* Too small for the window; one pixel. */
    assert_int_equal(fgv_compare(ctx, brighter, still, 10, 30, 1, &c, NULL, NULL), FGA_OK);
    assert_true(isnan(c.ssim));
    assert_int_equal(fgv_compare(ctx, brighter, still, 11, 11, 1, &c, NULL, NULL), FGA_OK);
    assert_true(c.ssim > 0.99 && c.ssim < 1);
    assert_int_equal(fgv_compare(ctx, brighter, still, 1, 1, 2, &c, NULL, NULL), FGA_OK);
    assert_true(fabs(c.psnr_db - 48.1308036) < 1e-6);
    assert_int_equal(fgv_compare(ctx, brighter, still, 0, 1, 2, &c, NULL, NULL), FGA_ERR_ARGUMENT);
    assert_int_equal(fgv_compare(ctx, brighter, still, 1, 1, 0, &c, NULL, NULL), FGA_ERR_ARGUMENT);
    free(still);
    free(brighter);
    free(b);
    fga_context_destroy(&ctx);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(equals_the_definitions), cmocka_unit_test(special_videos)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
