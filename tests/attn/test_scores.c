/* Every score against its naive transcription: ragged grids, text, padding, gates, GQA, all types, all variants. */
#include "attn/predict.h"
#include "base/half.h"
#include "naive_scores.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

typedef struct sample {
    naive_problem p;
    naive_scoring s;
    fga_dtype dtype;
    float *q, *k, *v;
    int64_t q_count, k_count, rows, tiles;
} sample;

/* Padding holds NaN: nothing may read it. */
static float *make_tensor(naive_random *random, const fga_sequence *sequence, int64_t heads, int64_t d, fga_dtype dtype)
{
    int64_t tokens = fga_sequence_length(sequence);
    float *x = naive_values(random, heads * tokens * d, dtype, 1.2f), bias[256];
    for (int64_t i = 0; i < heads * tokens; i++) {
        for (int64_t c = 0; c < d; c++) { /* neighbours are alike, so that gates and groups have something to find */
            bias[c] = i % 24 == 0 ? 2 * naive_normal(random) : bias[c];
            x[i * d + c] = naive_is_valid(sequence, i % tokens) ? x[i * d + c] + bias[c] : NAN;
        }
    }
    void *cast = naive_cast(x, heads * tokens * d, dtype);
    fga_to_f32(x, cast, dtype, heads * tokens * d);
    free(cast);
    return x;
}

static sample make(naive_random *random, fga_score score, int64_t most)
{
    sample m = {.p = naive_random_problem(random, most), .dtype = (fga_dtype)naive_between(random, 0, 2)};
    m.rows = m.p.batch * m.p.query_heads * naive_blocks(&m.p);
    m.tiles = naive_tiles(&m.p);
    m.q_count = m.p.batch * m.p.query_heads * fga_sequence_length(&m.p.query) * m.p.head_dim;
    m.k_count = m.p.batch * m.p.kv_heads * fga_sequence_length(&m.p.key) * m.p.head_dim;
    m.q = make_tensor(random, &m.p.query, m.p.batch * m.p.query_heads, m.p.head_dim, m.dtype);
    m.k = make_tensor(random, &m.p.key, m.p.batch * m.p.kv_heads, m.p.head_dim, m.dtype);
    m.v = make_tensor(random, &m.p.key, m.p.batch * m.p.kv_heads, m.p.head_dim, m.dtype);
    m.s = (naive_scoring){.q = m.q, .k = m.k, .v = m.v, .score = score, .group = 8 << naive_between(random, 0, 5)};
    return m;
}

static void free_sample(sample *m)
{
    free(m->q);
    free(m->k);
    free(m->v);
}

static fga_predict_desc describe(const sample *m)
{
    fga_predict_desc d = fga_predict_desc_default();
    d.batch = m->p.batch, d.query_heads = m->p.query_heads, d.kv_heads = m->p.kv_heads;
    d.head_dim = m->p.head_dim, d.dtype = m->dtype;
    d.query = m->p.query, d.key = m->p.key;
    d.block_m = m->p.m, d.tile_n = m->p.n, d.sub_q = m->p.sub_q, d.sub_k = m->p.sub_k;
    d.score = m->s.score, d.group = m->s.group;
    d.gate_q = m->s.gate_q, d.gate_k = m->s.gate_k, d.zero_pad = m->s.zero_pad;
    return d;
}

/* What came through `take`. */
typedef struct taken {
    float *scores, *mean, *spread;
    int64_t tiles;
} taken;

static void take(void *arg, const fga_scored_row *row)
{
    taken *t = arg;
    memcpy(t->scores + row->row * t->tiles, row->scores, (size_t)t->tiles * sizeof(float));
    t->mean[row->row] = row->mean;
    t->spread[row->row] = row->spread;
}

static taken make_taken(const sample *m)
{
    taken t = {malloc((size_t)(m->rows * m->tiles + 1) * sizeof(float)), malloc((size_t)(m->rows + 1) * sizeof(float)),
               malloc((size_t)(m->rows + 1) * sizeof(float)), m->tiles};
    memset(t.scores, 0xff, (size_t)(m->rows * m->tiles + 1) * sizeof(float));
    return t;
}

static void free_taken(taken *t)
{
    free(t->scores);
    free(t->mean);
    free(t->spread);
}

/* With `all` the rows are also written to an array, which must come to the same. */
static taken score(fga_context *ctx, const sample *m, const float *lse, bool all)
{
    fga_predict_desc d = describe(m);
    fga_scorer scorer;
    assert_int_equal(fga_scorer_init(ctx, &d, &scorer), FGA_OK);
    scorer.raw_logits = m->s.raw;
    scorer.full_covariance = m->s.full_covariance;
    size_t bytes = (scorer.workspace_bytes + 127) / 64 * 64;
    char *workspace = aligned_alloc(64, bytes);
    memset(workspace, 0xff, bytes);
    const naive_problem *p = &m->p;
    int64_t queries = fga_sequence_length(&p->query), keys = fga_sequence_length(&p->key);
    fga_tensor q = fga_tensor_bhsd(naive_cast(m->q, m->q_count, m->dtype), m->dtype, p->batch, p->query_heads, queries,
                                   p->head_dim);
    fga_tensor k =
        fga_tensor_bhsd(naive_cast(m->k, m->k_count, m->dtype), m->dtype, p->batch, p->kv_heads, keys, p->head_dim);
    fga_tensor v =
        fga_tensor_bhsd(naive_cast(m->v, m->k_count, m->dtype), m->dtype, p->batch, p->kv_heads, keys, p->head_dim);
    taken t = make_taken(m), written = make_taken(m);
    fga_score_call call = {.q = &q, .k = &k, .v = &v, .lse = lse, .take = take, .arg = &t, .workspace = workspace};
    call.scores = all ? written.scores : NULL;
    assert_int_equal(fga_scorer_run(&scorer, &call), FGA_OK);
    assert_true(isnan(t.scores[m->rows * m->tiles]) && isnan(written.scores[m->rows * m->tiles]));
    if (all) {
        assert_memory_equal(t.scores, written.scores, (size_t)(m->rows * m->tiles) * sizeof(float));
    }
    for (size_t i = scorer.workspace_bytes; i < bytes; i++) {
        assert_int_equal((unsigned char)workspace[i], 0xff);
    }
    free_taken(&written);
    free(workspace);
    free(q.data);
    free(k.data);
    free(v.data);
    return t;
}

static bool near(double got, double wanted, double size)
{
    return isinf(wanted) ? got == wanted : fabs(got - wanted) <= 2e-5 * size + 1e-7;
}

static void compare(const char *variant, const sample *m, const taken *t, const naive_scored *wanted)
{
    for (int64_t i = 0; i < m->rows * m->tiles; i++) {
        if (!near(t->scores[i], wanted->score[i], wanted->size[i])) {
            fail_msg("%s score %d %s, M=%d N=%d s_q=%d s_k=%d D=%ld group %d, gates %g %g, zero_pad %d: row %ld of %ld "
                     "tile %ld of %ld is %.9g, wanted %.9g",
                     variant, m->s.score, fga_dtype_name(m->dtype), m->p.m, m->p.n, m->p.sub_q, m->p.sub_k,
                     (long)m->p.head_dim, m->s.group, m->s.gate_q, m->s.gate_k, m->s.zero_pad, (long)(i / m->tiles),
                     (long)m->rows, (long)(i % m->tiles), (long)m->tiles, t->scores[i], wanted->score[i]);
        }
    }
    for (int64_t row = 0; m->s.score == FGA_SCORE_MEAN && row < m->rows; row++) {
        if (!isnan(wanted->mean[row])) {
            assert_true(fabs(t->mean[row] - wanted->mean[row]) <= 1e-5 * (1 + fabs(wanted->mean[row])));
            assert_true(fabs(t->spread[row] - wanted->spread[row]) <= 1e-4 * wanted->spread[row]);
        }
    }
}

static void check_everywhere(sample *m, bool known_lse)
{
    m->s.p = &m->p;
    naive_scored wanted = naive_score_all(&m->s);
    float *lse = known_lse ? naive_dense_lse(&m->s) : NULL;
    for (int i = 0; i < fga_variant_count(); i++) {
        if (fga_variant_runs_here(i)) {
            fga_context *ctx = naive_context(2, fga_variant_name(i));
            taken t = score(ctx, m, lse, i % 2 == 0);
            compare(fga_variant_name(i), m, &t, &wanted);
            free_taken(&t);
            fga_context_destroy(&ctx);
        }
    }
    free(lse);
    naive_scored_free(&wanted);
}

static const fga_score all_scores[] = {FGA_SCORE_MASS,      FGA_SCORE_LSE,          FGA_SCORE_MAX,
                                       FGA_SCORE_MEAN,      FGA_SCORE_SECOND_ORDER, FGA_SCORE_DEVIATION,
                                       FGA_SCORE_EXACT_MAX, FGA_SCORE_EXACT_MASS};
enum { SCORES = sizeof all_scores / sizeof all_scores[0] };

static void every_score(void **state)
{
    (void)state;
    naive_random random = {31};
    for (int round = 0; round < 10 * SCORES; round++) {
        sample m = make(&random, all_scores[round % SCORES], 120);
        check_everywhere(&m, false);
        free_sample(&m);
    }
}

static void gated_scores(void **state)
{
    (void)state;
    naive_random random = {32};
    int64_t gated = 0, all = 0;
    for (int round = 0; round < 5 * SCORES; round++) {
        sample m = make(&random, all_scores[round % SCORES], 120);
        m.s.p = &m.p;
        m.s.gate_q = round % 3 != 0 ? 0.5 + 0.1 * (double)naive_between(&random, 0, 4) : 0;
        m.s.gate_k = round % 3 != 1 ? 0.5 + 0.1 * (double)naive_between(&random, 0, 4) : 0;
        naive_scored wanted = naive_score_all(&m.s);
        for (int64_t i = 0; i < m.rows * m.tiles; i++, all++) {
            gated += wanted.score[i] == INFINITY;
        }
        naive_scored_free(&wanted);
        check_everywhere(&m, false);
        free_sample(&m);
    }
    assert_true(gated > all / 20 && gated < all / 20 * 19); /* the data must put gates to the test */
}

static void zero_padded_scores(void **state)
{
    (void)state;
    static const fga_score scores[] = {FGA_SCORE_MASS, FGA_SCORE_LSE, FGA_SCORE_MAX, FGA_SCORE_MEAN};
    naive_random random = {33};
    for (int round = 0; round < 24; round++) {
        sample m = make(&random, scores[round % 4], 150);
        m.s.zero_pad = true;
        check_everywhere(&m, false);
        free_sample(&m);
    }
}

static void raw_logits_of_means(void **state)
{
    (void)state;
    naive_random random = {34};
    for (int round = 0; round < 24; round++) {
        sample m = make(&random, FGA_SCORE_MEAN, 300);
        m.s.raw = true;
        m.s.full_covariance = round % 2 == 0;
        m.s.gate_k = round % 3 == 0 ? 0.7 : 0;
        check_everywhere(&m, false);
        free_sample(&m);
    }
}

static void exact_scores_from_a_known_l(void **state)
{
    (void)state;
    naive_random random = {35};
    for (int round = 0; round < 16; round++) {
        sample m = make(&random, round % 2 == 0 ? FGA_SCORE_EXACT_MAX : FGA_SCORE_EXACT_MASS, 150);
        check_everywhere(&m, true);
        free_sample(&m);
    }
}

static void threads_change_no_byte(void **state)
{
    (void)state;
    naive_random random = {36};
    for (int round = 0; round < SCORES; round++) {
        sample m = make(&random, all_scores[round], 500);
        taken first = {0};
        for (int threads = 1; threads <= 4; threads++) {
            fga_context *ctx = naive_context(threads, NULL);
            taken t = score(ctx, &m, NULL, false);
            if (threads == 1) {
                first = t;
            } else {
                assert_memory_equal(t.scores, first.scores, (size_t)(m.rows * m.tiles) * sizeof(float));
                free_taken(&t);
            }
            fga_context_destroy(&ctx);
        }
        free_taken(&first);
        free_sample(&m);
    }
}

static void expect(fga_context *ctx, const fga_predict_desc *d, const char *text)
{
    size_t bytes;
    assert_int_equal(fga_score_workspace(ctx, d, &bytes), FGA_ERR_ARGUMENT);
    assert_string_equal(fga_last_error(ctx), text);
}

static void bad_arguments_are_named(void **state)
{
    (void)state;
    fga_context *ctx = naive_context(1, NULL);
    fga_predict_desc good = fga_predict_desc_default(), bad;
    good.query = good.key = fga_sequence_video(64);
    good.head_dim = 8, good.block_m = good.tile_n = 16;
    bad = good, bad.score = (fga_score)77;
    expect(ctx, &bad, "score is 77, wanted one of fga_score");
    bad = good, bad.score = FGA_SCORE_DEVIATION, bad.group = 48;
    expect(ctx, &bad, "group is 48, wanted 8, 16, 32, 64, 128 or 256");
    bad = good, bad.gate_k = NAN;
    expect(ctx, &bad, "gate_q is 0 and gate_k nan, wanted 0 ... 1");
    bad = good, bad.score = FGA_SCORE_EXACT_MAX, bad.zero_pad = true;
    expect(ctx, &bad, "zero_pad is set, wanted a score of means only: mass, lse, max or mean");

    static float x[64 * 8], scores[16];
    fga_tensor t = fga_tensor_bhsd(x, FGA_F32, 1, 1, 64, 8);
    size_t bytes;
    bad = good, bad.score = FGA_SCORE_DEVIATION;
    assert_int_equal(fga_score_workspace(ctx, &bad, &bytes), FGA_OK);
    void *workspace = aligned_alloc(64, (bytes + 63) / 64 * 64);
    assert_int_equal(fga_score_tiles(ctx, &bad, &t, &t, NULL, scores, workspace), FGA_ERR_ARGUMENT);
    assert_string_equal(fga_last_error(ctx), "v is NULL, wanted the values, for FGA_SCORE_DEVIATION");
    assert_int_equal(fga_score_tiles(ctx, &bad, &t, &t, &t, scores, workspace), FGA_OK);
    bad.score = FGA_SCORE_CUSTOM;
    assert_int_equal(fga_score_tiles(ctx, &bad, &t, &t, &t, scores, workspace), FGA_ERR_ARGUMENT);
    assert_string_equal(fga_last_error(ctx), "score is 2, wanted one that is computed here");
    free(workspace);
    fga_context_destroy(&ctx);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_score),
        cmocka_unit_test(gated_scores),
        cmocka_unit_test(zero_padded_scores),
        cmocka_unit_test(raw_logits_of_means),
        cmocka_unit_test(exact_scores_from_a_known_l),
        cmocka_unit_test(threads_change_no_byte),
        cmocka_unit_test(bad_arguments_are_named),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
