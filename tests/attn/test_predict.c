/* Scores and top-k against their naive transcription: ragged grids, text, padding, ties. */
#include "naive.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static fga_predict_desc describe(const naive_problem *p, fga_dtype dtype)
{
    fga_predict_desc d = fga_predict_desc_default();
    d.batch = p->batch;
    d.query_heads = p->query_heads;
    d.kv_heads = p->kv_heads;
    d.head_dim = p->head_dim;
    d.dtype = dtype;
    d.query = p->query;
    d.key = p->key;
    d.block_m = p->m;
    d.tile_n = p->n;
    d.sub_q = p->sub_q;
    d.sub_k = p->sub_k;
    return d;
}

typedef struct scored {
    naive_problem p;
    fga_dtype dtype;
    float *q, *k, *scores;
    int64_t q_count, k_count, rows, tiles;
} scored;

static float *score(fga_context *ctx, const scored *s)
{
    fga_predict_desc d = describe(&s->p, s->dtype);
    size_t bytes;
    assert_int_equal(fga_score_workspace(ctx, &d, &bytes), FGA_OK);
    assert_int_equal(fga_predict_blocks(&d), naive_blocks(&s->p));
    assert_int_equal(fga_predict_tiles(&d), s->tiles);
    char *workspace = aligned_alloc(64, (bytes + 127) / 64 * 64);
    memset(workspace, 0xff, (bytes + 127) / 64 * 64);
    float *scores = malloc((size_t)(s->rows * s->tiles + 1) * sizeof *scores);
    memset(scores, 0xff, (size_t)(s->rows * s->tiles + 1) * sizeof *scores);
    fga_tensor q = fga_tensor_bhsd(naive_cast(s->q, s->q_count, s->dtype), s->dtype, s->p.batch, s->p.query_heads,
                                   fga_sequence_length(&s->p.query), s->p.head_dim);
    fga_tensor k = fga_tensor_bhsd(naive_cast(s->k, s->k_count, s->dtype), s->dtype, s->p.batch, s->p.kv_heads,
                                   fga_sequence_length(&s->p.key), s->p.head_dim);
    assert_int_equal(fga_score_tiles(ctx, &d, &q, &k, NULL, scores, workspace), FGA_OK);
    assert_true(isnan(scores[s->rows * s->tiles]));
    free(q.data);
    free(k.data);
    free(workspace);
    return scores;
}

/* Rows of padding hold NaN where the type has it: means are over valid tokens only. */
static void poison_padding(const fga_sequence *sequence, float *x, int64_t heads, int64_t d)
{
    int64_t tokens = fga_sequence_length(sequence);
    for (int64_t row = 0; row < heads * tokens; row++) {
        for (int64_t c = 0; c < d && !naive_is_valid(sequence, row % tokens); c++) {
            x[row * d + c] = NAN;
        }
    }
}

static scored make(naive_random *random, int64_t most)
{
    scored s = {.p = naive_random_problem(random, most), .dtype = (fga_dtype)naive_between(random, 0, 2)};
    s.rows = s.p.batch * s.p.query_heads * naive_blocks(&s.p);
    s.tiles = naive_tiles(&s.p);
    s.q_count = s.p.batch * s.p.query_heads * fga_sequence_length(&s.p.query) * s.p.head_dim;
    s.k_count = s.p.batch * s.p.kv_heads * fga_sequence_length(&s.p.key) * s.p.head_dim;
    s.q = naive_values(random, s.q_count, s.dtype, 2);
    s.k = naive_values(random, s.k_count, s.dtype, 2);
    poison_padding(&s.p.query, s.q, s.p.batch * s.p.query_heads, s.p.head_dim);
    poison_padding(&s.p.key, s.k, s.p.batch * s.p.kv_heads, s.p.head_dim);
    return s;
}

static void free_scored(scored *s)
{
    free(s->q);
    free(s->k);
    free(s->scores);
}

static void scores_equal_the_naive_ones(void **state)
{
    (void)state;
    for (int v = 0; v < fga_variant_count(); v++) {
        if (!fga_variant_runs_here(v)) {
            continue;
        }
        fga_context *ctx = naive_context(2, fga_variant_name(v));
        naive_random random = {21};
        for (int round = 0; round < 40; round++) {
            scored s = make(&random, 300);
            s.scores = score(ctx, &s);
            double *wanted = calloc((size_t)(s.rows * s.tiles), sizeof *wanted);
            naive_scores(&s.p, s.q, s.k, wanted);
            for (int64_t row = 0; row < s.rows; row++) {
                double sum = 0, asks = 0;
                for (int64_t t = 0; t < s.tiles; t++) {
                    double w = wanted[row * s.tiles + t], got = s.scores[row * s.tiles + t];
                    assert_true(fabs(got - w) <= 2e-5 * w + 1e-7);
                    sum += got;
                    asks += w;
                }
                assert_true(fabs(sum - (asks > 0.5 ? 1 : 0)) < 1e-4);
            }
            free(wanted);
            free_scored(&s);
        }
        fga_context_destroy(&ctx);
    }
}

static void compare_masks(const scored *s, const fga_mask *mask, const uint8_t *wanted)
{
    int64_t blocks = naive_blocks(&s->p);
    for (int64_t i = 0; i < s->rows * s->tiles; i++) {
        int64_t row = i / s->tiles, u = row % blocks, h = row / blocks % s->p.query_heads;
        int64_t b = row / blocks / s->p.query_heads;
        assert_int_equal(fga_mask_keeps(mask, b, h, u, i % s->tiles), wanted[i]);
    }
}

/* Random scores with many ties, zeros of both signs, negative ones, and every rounding of K. */
static void selections_equal_the_naive_ones(void **state)
{
    (void)state;
    fga_context *ctx = naive_context(3, NULL);
    naive_random random = {22};
    static const double densities[] = {0, 0.05, 0.1, 0.25, 0.3, 0.5, 0.75, 0.9, 0.999, 1, 2};
    for (int round = 0; round < 160; round++) {
        scored s = {.p = naive_random_problem(&random, round % 10 == 0 ? 2000 : 300)};
        s.rows = s.p.batch * s.p.query_heads * naive_blocks(&s.p);
        s.tiles = naive_tiles(&s.p);
        s.scores = malloc((size_t)(s.rows * s.tiles) * sizeof *s.scores);
        int64_t levels = naive_between(&random, 0, 2);
        for (int64_t i = 0; i < s.rows * s.tiles; i++) {
            float x = naive_normal(&random);
            s.scores[i] = levels == 0 ? x : levels == 1 ? (float)(int)(2 * x) : (float)(int)x * -0.0f + (x > 1);
        }
        double density = densities[naive_between(&random, 0, 10)];
        uint8_t *wanted = calloc((size_t)(s.rows * s.tiles), 1);
        naive_select(&s.p, s.scores, density, wanted);
        fga_predict_desc d = describe(&s.p, FGA_F32);
        fga_mask *mask;
        assert_int_equal(fga_select_topk(ctx, &d, s.scores, density, &mask), FGA_OK);
        compare_masks(&s, mask, wanted);
        naive_mask reference = {&s.p, wanted, s.p.batch, s.p.query_heads};
        if (round % 4 == 1) {
            assert_true(fabs(fga_mask_density(mask) - naive_density(&reference)) < 1e-12);
        }
        fga_mask_release(&mask);
        free(wanted);
        free_scored(&s);
    }
    fga_context_destroy(&ctx);
}

static int64_t kept(const fga_mask *mask, int64_t u)
{
    int64_t count = 0;
    for (int64_t from = 0, begin; fga_mask_next_run(mask, 0, 0, u, from, &begin, &from);) {
        count += from - begin;
    }
    return count;
}

/* The cases that published code gets wrong, by hand. */
static void known_pitfalls(void **state)
{
    (void)state;
    fga_context *ctx = naive_context(1, NULL);
    fga_predict_desc d = fga_predict_desc_default();
    fga_mask *mask;
    static float scores[930 * 930];
    d.query = d.key = fga_sequence_video(930 * 128);
    assert_int_equal(fga_select_topk(ctx, &d, scores, 1 - 0.9, &mask), FGA_OK);
    assert_int_equal(kept(mask, 5), 93); /* floor((1 - 0.9) * 930) = 92 */
    assert_true(fga_mask_keeps(mask, 0, 0, 5, 92) && !fga_mask_keeps(mask, 0, 0, 5, 93)); /* all equal: the lowest */
    fga_mask_release(&mask);

    d.query = d.key = fga_sequence_video(50 * 128);
    assert_int_equal(fga_select_topk(ctx, &d, scores, 0.29, &mask), FGA_OK);
    assert_int_equal(kept(mask, 5), 15); /* 0.29 * 50 is 14.499999999999998 */
    fga_mask_release(&mask);

    /* text suffix of one tile and a half, half of it padding: tiles 2 (mixed) and 3 forced, tile 4 has no valid key */
    d.query = (fga_sequence){.video = 128, .video_valid = 128};
    d.key = (fga_sequence){.video = 320, .video_valid = 320, .suffix = 300, .suffix_valid = 100};
    for (int v = 0; v < 5; v++) {
        scores[v] = (float)(5 - v);
    }
    assert_int_equal(fga_select_topk(ctx, &d, scores, 0.01, &mask), FGA_OK);
    const bool wanted[5] = {true, false, true, true, false};
    for (int v = 0; v < 5; v++) {
        assert_int_equal(fga_mask_keeps(mask, 0, 0, 0, v), wanted[v]);
    }
    fga_mask_release(&mask);

    /* NaN comes after every number */
    d.key = fga_sequence_video(3 * 128);
    scores[0] = scores[2] = NAN;
    scores[1] = -INFINITY;
    assert_int_equal(fga_select_topk(ctx, &d, scores, 0.1, &mask), FGA_OK);
    assert_true(fga_mask_keeps(mask, 0, 0, 0, 1) && kept(mask, 0) == 1);
    fga_mask_release(&mask);
    fga_context_destroy(&ctx);
}

static void threads_change_no_byte(void **state)
{
    (void)state;
    naive_random random = {23};
    for (int round = 0; round < 10; round++) {
        scored s = make(&random, 600);
        size_t bytes = (size_t)(s.rows * s.tiles) * sizeof(float);
        for (int threads = 1; threads <= 4; threads++) {
            fga_context *ctx = naive_context(threads, NULL);
            float *got = score(ctx, &s);
            if (threads == 1) {
                s.scores = got;
            } else {
                assert_memory_equal(got, s.scores, bytes);
                free(got);
            }
            fga_context_destroy(&ctx);
        }
        free_scored(&s);
    }
}

static void bad_arguments_are_named(void **state)
{
    (void)state;
    fga_context *ctx = naive_context(1, NULL);
    fga_predict_desc good = fga_predict_desc_default(), bad;
    float scores[4] = {0};
    size_t bytes;
    fga_mask *mask;
    good.query = good.key = fga_sequence_video(256);
    bad = good, bad.sub_q = 0;
    assert_int_equal(fga_score_workspace(ctx, &bad, &bytes), FGA_ERR_ARGUMENT);
    assert_string_equal(fga_last_error(ctx), "sub_q is 0, wanted 1 ... 192");
    assert_int_equal(fga_select_topk(ctx, &good, scores, NAN, &mask), FGA_ERR_ARGUMENT);
    assert_string_equal(fga_last_error(ctx), "density is nan, wanted at least 0");
    assert_int_equal(fga_select_topk(ctx, &good, scores, -0.5, &mask), FGA_ERR_ARGUMENT);
    assert_null(mask);
    bad = good, bad.tile_n = 0;
    assert_int_equal(fga_select_topk(ctx, &bad, scores, 0.5, &mask), FGA_ERR_ARGUMENT);
    assert_int_equal(fga_predict_tiles(&bad), 0);
    fga_context_destroy(&ctx);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(scores_equal_the_naive_ones),
        cmocka_unit_test(selections_equal_the_naive_ones),
        cmocka_unit_test(known_pitfalls),
        cmocka_unit_test(threads_change_no_byte),
        cmocka_unit_test(bad_arguments_are_named),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
