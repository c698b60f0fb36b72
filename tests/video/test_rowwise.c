/* The passes between the transformer's products: every instruction set against f64, and against plain C to the bit. */
#include "golden.h"

#include "base/half.h"
#include "fgvideo.h"
#include "video/patch.h"
#include "video/rope.h"

enum { MOST = 3 * 256 + 40 };

typedef struct rows {
    float x[MOST], y[MOST], a[MOST], b[MOST], cosine[256], sine[256];
} rows;

static rows make_rows(unsigned seed, int64_t n)
{
    rows r = {0};
    fgv_randn(seed, r.x, n);
    fgv_randn(seed + 1, r.y, n);
    fgv_randn(seed + 2, r.a, n);
    fgv_randn(seed + 3, r.b, n);
    for (int64_t i = 0; i < n; i++) {
        r.x[i] = 3.0f * r.x[i] + 5.0f; /* a mean that must be taken off before squaring */
    }
    for (int i = 0; i < 256; i += 2) {
        double angle = 0.37 * i + seed;
        r.cosine[i] = r.cosine[i + 1] = (float)cos(angle);
        r.sine[i + 1] = (float)sin(angle);
        r.sine[i] = -r.sine[i + 1];
    }
    return r;
}

static void assert_rows(const char *what, const float *got, const double *wanted, int64_t n)
{
    double most = 0.0;
    for (int64_t i = 0; i < n; i++) {
        most = fmax(most, fabs(wanted[i]));
    }
    for (int64_t i = 0; i < n; i++) {
        if (!(fabs(got[i] - wanted[i]) <= 2e-6 * most)) {
            fail_msg("%s of %lld: element %lld is %g, wanted %g", what, (long long)n, (long long)i, got[i], wanted[i]);
        }
    }
}

static const fgv_rowwise *sets[3];
static int set_count;

static int find_sets(void **state)
{
    set_count = fgv_rowwise_all(sets, 3);
    (void)state;
    return set_count > 0 ? 0 : 1;
}

static void layer_norm_is_exact(void **state)
{
    static const int64_t lengths[] = {1, 7, 8, 16, 31, 32, 33, 40, 256, 511, 768, MOST};
    for (size_t l = 0; l < sizeof lengths / sizeof *lengths; l++) {
        int64_t n = lengths[l];
        rows r = make_rows((unsigned)n, n);
        double mean = 0.0, variance = 0.0, wanted[MOST];
        for (int64_t i = 0; i < n; i++) {
            mean += r.x[i] / (double)n;
        }
        for (int64_t i = 0; i < n; i++) {
            variance += (r.x[i] - mean) * (r.x[i] - mean) / (double)n;
        }
        for (int64_t i = 0; i < n; i++) {
            wanted[i] = (r.x[i] - mean) / sqrt(variance + 1e-6) * r.a[i] + r.b[i];
        }
        float first[MOST + 1];
        for (int s = 0; s < set_count; s++) {
            float out[MOST + 1];
            out[n] = 77.0f;
            sets[s]->layer_norm(out, r.x, r.a, r.b, 1e-6f, n);
            assert_true(out[n] == 77.0f);
            assert_rows("layer norm", out, wanted, n);
            if (s == 0) {
                memcpy(first, out, sizeof first);
            }
            assert_memory_equal(out, first, (size_t)n * sizeof *out);
        }
    }
    (void)state;
}

static void rms_norm_and_rotation_are_exact(void **state)
{
    static const int64_t shapes[][2] = {{1, 8}, {5, 8}, {3, 32}, {1, 40}, {3, 40}, {6, 128}, {3, 256}};
    for (size_t l = 0; l < 2 * (sizeof shapes / sizeof *shapes); l++) {
        int64_t head_dim = shapes[l / 2][1], n = shapes[l / 2][0] * head_dim;
        bool rotate = l % 2;
        rows r = make_rows((unsigned)l, n);
        double squares = 0.0, normal[MOST], wanted[MOST];
        for (int64_t i = 0; i < n; i++) {
            squares += (double)r.x[i] * r.x[i] / (double)n;
        }
        for (int64_t i = 0; i < n; i++) {
            normal[i] = r.x[i] / sqrt(squares + 1e-6) * r.a[i];
        }
        for (int64_t i = 0; i < n; i++) { /* (a + ib) e^(i angle), pair by pair */
            double c = r.cosine[i % head_dim], s = r.sine[i % head_dim | 1];
            wanted[i] = !rotate      ? normal[i]
                        : i % 2 == 0 ? normal[i] * c - normal[i + 1] * s
                                     : normal[i - 1] * s + normal[i] * c;
        }
        fgv_rotation rotation = {r.cosine, r.sine};
        fgv_rms_args args = {r.a, 1e-6f, n, head_dim, rotate ? &rotation : NULL};
        float first[MOST];
        for (int s = 0; s < set_count; s++) {
            float out[MOST + 1];
            memcpy(out, r.x, (size_t)n * sizeof *out);
            out[n] = 77.0f;
            sets[s]->rms_norm(out, &args);
            assert_true(out[n] == 77.0f);
            assert_rows("rms norm", out, wanted, n);
            memcpy(first, s == 0 ? out : first, (size_t)n * sizeof *out);
            assert_memory_equal(out, first, (size_t)n * sizeof *out);
        }
    }
    (void)state;
}

static void sums_are_exact(void **state)
{
    static const int64_t lengths[] = {1, 15, 16, 33, 300};
    for (size_t l = 0; l < sizeof lengths / sizeof *lengths; l++) {
        int64_t n = lengths[l];
        rows r = make_rows(90, n);
        for (int s = 0; s < set_count; s++) {
            float plain[MOST], gated[MOST], mixed[MOST];
            memcpy(plain, r.x, sizeof plain);
            memcpy(gated, r.x, sizeof gated);
            memcpy(mixed, r.x, sizeof mixed);
            sets[s]->add(plain, r.y, NULL, n);
            sets[s]->add(gated, r.y, r.a, n);
            sets[s]->mix(mixed, r.y, mixed, 5.0f, n); /* in place, as guidance does it */
            assert_memory_equal(&plain[n], &r.x[n], sizeof(float));
            for (int64_t i = 0; i < n; i++) {
                float product = r.a[i] * r.y[i], difference = 5.0f * (r.x[i] - r.y[i]);
                assert_true(plain[i] == r.x[i] + r.y[i]);
                assert_true(gated[i] == r.x[i] + product);
                assert_true(mixed[i] == r.y[i] + difference);
            }
        }
    }
    (void)state;
}

static void bf16_rounds_as_base_does(void **state)
{
    enum { N = 4099 };
    float in[N];
    uint16_t out[N];
    for (uint32_t i = 0; i < N; i++) { /* over all exponents, with ties, infinities and NaNs among them */
        in[i] = fga_bits_f32(i * 1048573u + (i % 3) * 0x8000u);
    }
    in[0] = INFINITY, in[1] = -INFINITY, in[2] = NAN, in[3] = -0.0f, in[4] = 3.4e38f;
    for (int s = 0; s < set_count; s++) {
        sets[s]->to_bf16(out, in, N);
        for (int i = 0; i < N; i++) {
            assert_int_equal(out[i], fga_f32_to_bf16(in[i]));
        }
    }
    (void)state;
}

/* Each axis turns its own part of the head, at positions of its own. */
static void rope_places_tokens(void **state)
{
    static const int heads[] = {8, 32, 128};
    static const int grid[3] = {3, 4, 5};
    for (int h = 0; h < 3; h++) {
        int dim = heads[h], side = 2 * (dim / 6), width[3] = {dim - 2 * side, side, side};
        fgv_rope rope;
        assert_int_equal(fgv_rope_init(NULL, &rope, dim, grid), FGA_OK);
        for (int64_t token = 0; token < 60; token++) {
            int place[3] = {(int)token / 20, (int)token / 5 % 4, (int)token % 5};
            float cosine[129], sine[129];
            cosine[dim] = sine[dim] = 9.0f;
            fgv_rope_token(&rope, token, cosine, sine);
            assert_true(cosine[dim] == 9.0f && sine[dim] == 9.0f);
            for (int axis = 0, at = 0; axis < 3; at += width[axis++]) {
                for (int i = 0; i < width[axis]; i++) {
                    double angle = place[axis] * pow(1e4, -(double)(i - i % 2) / width[axis]);
                    assert_true(fabs(cosine[at + i] - cos(angle)) < 1e-7);
                    assert_true(fabs(sine[at + i] - (i % 2 ? 1 : -1) * sin(angle)) < 1e-7);
                }
            }
        }
        fgv_rope_free(&rope);
        fgv_rope_free(&rope);
    }
    (void)state;
}

/* Cutting and putting back differ in the order within a row, and both follow the order of the tokens. */
static void patches_go_and_return(void **state)
{
    enum { C = 3, T = 4, H = 6, W = 10, PT = 2, PH = 3, PW = 2, TOKENS = 2 * 2 * 5, ROW = C * PT * PH * PW };
    fgv_patch patch = {C, {PT, PH, PW}, {T / PT, H / PH, W / PW}};
    assert_int_equal(fgv_patch_row(&patch), ROW);
    float latents[C * T * H * W], back[C * T * H * W], cut[TOKENS * ROW], swapped[TOKENS * ROW];
    for (int i = 0; i < C * T * H * W; i++) {
        latents[i] = (float)i;
        back[i] = NAN;
    }
    int32_t order[TOKENS];
    for (int i = 0; i < TOKENS; i++) {
        order[i] = i * 7 % TOKENS;
    }
    fgv_patch_gather(&patch, latents, order, TOKENS, cut);
    for (int i = 0; i < TOKENS; i++) {
        int t = order[i] / 10 * PT, h = order[i] / 5 % 2 * PH, w = order[i] % 5 * PW;
        for (int c = 0; c < C; c++) {
            for (int p = 0; p < PT * PH * PW; p++) {
                int at = ((c * T + t + p / (PH * PW)) * H + h + p / PW % PH) * W + w + p % PW;
                assert_true(cut[i * ROW + c * PT * PH * PW + p] == (float)at);
                swapped[i * ROW + p * C + c] = (float)at; /* the order of the output */
            }
        }
    }
    fgv_patch_scatter(&patch, swapped, order, TOKENS / 2, back); /* in two runs, as tiles do it */
    fgv_patch_scatter(&patch, swapped + TOKENS / 2 * ROW, order + TOKENS / 2, TOKENS / 2, back);
    assert_memory_equal(back, latents, sizeof latents);
    (void)state;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(layer_norm_is_exact), cmocka_unit_test(rms_norm_and_rotation_are_exact),
        cmocka_unit_test(sums_are_exact),      cmocka_unit_test(bf16_rounds_as_base_does),
        cmocka_unit_test(rope_places_tokens),  cmocka_unit_test(patches_go_and_return),
    };
    return cmocka_run_group_tests(tests, find_sets, NULL);
}
