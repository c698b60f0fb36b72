/* Sessions: what ran at every step, with which mask, and what the report says about it. */
#include "naive.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

/* A model of random attention layers: fresh q, k, v for every call. */
typedef struct model {
    naive_problem p;
    fga_dtype dtype;
    int64_t tokens, q_count, k_count;
    int layers, branches;
    float *q, *k, *v, *o; /* the last call's; o as f32 */
    naive_random random;
} model;

static model make_model(uint64_t seed, fga_sequence sequence, int layers, int branches)
{
    model m = {.layers = layers, .branches = branches, .random = {seed}};
    m.p = (naive_problem){.batch = 2, .query_heads = 2, .kv_heads = 1, .head_dim = 16};
    m.p.query = m.p.key = sequence;
    m.tokens = fga_sequence_length(&sequence);
    m.q_count = m.p.batch * m.p.query_heads * m.tokens * m.p.head_dim;
    m.k_count = m.p.batch * m.p.kv_heads * m.tokens * m.p.head_dim;
    m.o = malloc((size_t)m.q_count * sizeof *m.o);
    return m;
}

static void free_inputs(model *m)
{
    free(m->q);
    free(m->k);
    free(m->v);
    m->q = m->k = m->v = NULL;
}

static void free_model(model *m)
{
    free_inputs(m);
    free(m->o);
}

typedef struct world {
    fga_context *ctx;
    fga_session *session;
    void *workspace;
    fga_policy policy;
} world;

static fga_session_desc describe(const model *m, const fga_policy *policy)
{
    fga_session_desc d = fga_session_desc_default();
    d.policy = *policy;
    d.layers = m->layers;
    d.branches = m->branches;
    d.batch = m->p.batch;
    d.query_heads = m->p.query_heads;
    d.kv_heads = m->p.kv_heads;
    d.head_dim = m->p.head_dim;
    d.dtype = m->dtype;
    d.sequence = m->p.query;
    return d;
}

static world open_world(model *m, const char *policy, int threads)
{
    world w = {.ctx = naive_context(threads, NULL)};
    assert_int_equal(fga_policy_parse(w.ctx, policy, &w.policy), FGA_OK);
    m->p.m = w.policy.block_m;
    m->p.n = w.policy.tile_n;
    m->p.sub_q = w.policy.sub_q;
    m->p.sub_k = w.policy.sub_k;
    fga_session_desc d = describe(m, &w.policy);
    assert_int_equal(fga_session_create(w.ctx, &d, &w.session), FGA_OK);
    w.workspace = aligned_alloc(64, (fga_session_workspace(w.session) + 63) / 64 * 64);
    return w;
}

static void close_world(world *w)
{
    fga_session_destroy(&w->session);
    free(w->workspace);
    fga_context_destroy(&w->ctx);
}

static fga_attend_args make_inputs(model *m)
{
    free_inputs(m);
    m->q = naive_values(&m->random, m->q_count, m->dtype, 2);
    m->k = naive_values(&m->random, m->k_count, m->dtype, 2);
    m->v = naive_values(&m->random, m->k_count, m->dtype, 1);
    memset(m->o, 0xff, (size_t)m->q_count * sizeof *m->o);
    fga_attend_args a = fga_attend_args_default();
    a.q = fga_tensor_bhsd(m->q, FGA_F32, m->p.batch, m->p.query_heads, m->tokens, m->p.head_dim);
    a.o = fga_tensor_bhsd(m->o, FGA_F32, m->p.batch, m->p.query_heads, m->tokens, m->p.head_dim);
    a.k = fga_tensor_bhsd(m->k, FGA_F32, m->p.batch, m->p.kv_heads, m->tokens, m->p.head_dim);
    a.v = fga_tensor_bhsd(m->v, FGA_F32, m->p.batch, m->p.kv_heads, m->tokens, m->p.head_dim);
    return a;
}

static fga_status try_call(world *w, model *m, const int at[4], fga_step_kind *kind)
{
    fga_attend_args a = make_inputs(m);
    return fga_session_attend(w->session, at[0], at[1], at[2], at[3], &a, w->workspace, kind);
}

static fga_step_kind call(world *w, model *m, int step, int steps, int layer, int branch)
{
    fga_step_kind kind = (fga_step_kind)-1;
    assert_int_equal(try_call(w, m, (int[4]){step, steps, layer, branch}, &kind), FGA_OK);
    return kind;
}

static int64_t cells(const model *m)
{
    return m->p.batch * m->p.query_heads * naive_blocks(&m->p) * naive_tiles(&m->p);
}

static uint8_t *read_mask(const model *m, const fga_mask *mask)
{
    uint8_t *keep = calloc((size_t)cells(m), 1);
    int64_t tiles = naive_tiles(&m->p), blocks = naive_blocks(&m->p), heads = m->p.query_heads;
    for (int64_t i = 0; i < cells(m); i++) {
        int64_t row = i / tiles;
        keep[i] = fga_mask_keeps(mask, row / blocks / heads, row / blocks % heads, row % blocks, i % tiles);
    }
    return keep;
}

/* The mask that the last call's q and k give, by the public stages. */
static uint8_t *predict_mask(world *w, const model *m, double density)
{
    fga_predict_desc d = fga_predict_desc_default();
    d.batch = m->p.batch;
    d.query_heads = m->p.query_heads;
    d.kv_heads = m->p.kv_heads;
    d.head_dim = m->p.head_dim;
    d.query = d.key = m->p.query;
    d.block_m = m->p.m;
    d.tile_n = m->p.n;
    d.sub_q = m->p.sub_q;
    d.sub_k = m->p.sub_k;
    size_t bytes;
    assert_int_equal(fga_score_workspace(w->ctx, &d, &bytes), FGA_OK);
    void *workspace = aligned_alloc(64, (bytes + 63) / 64 * 64);
    float *scores = malloc((size_t)cells(m) * sizeof *scores);
    fga_tensor q = fga_tensor_bhsd(m->q, FGA_F32, m->p.batch, m->p.query_heads, m->tokens, m->p.head_dim);
    fga_tensor k = fga_tensor_bhsd(m->k, FGA_F32, m->p.batch, m->p.kv_heads, m->tokens, m->p.head_dim);
    assert_int_equal(fga_score_tiles(w->ctx, &d, &q, &k, NULL, scores, workspace), FGA_OK);
    uint8_t *keep = calloc((size_t)cells(m), 1);
    naive_select(&m->p, scores, density, keep);
    free(workspace);
    free(scores);
    return keep;
}

static bool valid_key(const void *arg, int64_t b, int64_t h, int64_t i, int64_t j)
{
    (void)b, (void)h, (void)i;
    return naive_is_valid(&((const model *)arg)->p.key, j);
}

/* The last call's output at valid queries; keep NULL = dense. */
static void check_output(const model *m, const uint8_t *keep)
{
    double *o = malloc((size_t)m->q_count * sizeof *o), *lse = malloc((size_t)m->q_count * sizeof *lse);
    naive_mask mask = {&m->p, keep, m->p.batch, m->p.query_heads};
    naive_attention a = {m->q, m->k, m->v, NULL, naive_mask_pair, &mask, o, lse, 0};
    if (keep == NULL) {
        a.pair = valid_key;
        a.arg = m;
    }
    naive_attend(&m->p, &a);
    for (int64_t i = 0; i < m->q_count; i++) {
        if (naive_is_valid(&m->p.query, i / m->p.head_dim % m->tokens)) {
            assert_true(fabs(m->o[i] - o[i]) < 2e-5 * (1 + fabs(o[i])));
        }
    }
    free(o);
    free(lse);
}

static const fga_sequence joint = {
    .prefix = 9, .prefix_valid = 5, .video = 150, .video_valid = 143, .suffix = 21, .suffix_valid = 8};

/* Whole runs of several lengths: kinds, masks, outputs and counts, each against its rule. */
static void whole_runs(void **state)
{
    (void)state;
    static const struct {
        const char *policy;
        int steps;
    } rows[] = {{"dfs,block_m=32,tile_n=8,sub_q=8,sub_k=4", 4},
                {"dfs,block_m=16,tile_n=1,sub_q=16,dense_layers=1", 20},
                {"dfs,block_m=64,tile_n=16,refresh_every=3", 30},
                {"dfs,block_m=32,tile_n=32", 50},
                {"dense", 4}};
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        model m = make_model(51 + i, i % 2 == 0 ? joint : fga_sequence_video(133), 2, 2);
        world w = open_world(&m, rows[i].policy, 2);
        int64_t counts[3] = {0}, sparse = 0, measured = 0;
        uint8_t *cached[4] = {NULL};
        double kept = 0, cached_density[4] = {0};
        for (int step = 0; step < rows[i].steps; step++) {
            for (int at = 0; at < 4; at++) {
                int layer = at / 2, branch = at % 2;
                double density = 0, unused;
                fga_step_kind wanted = naive_step(&w.policy, step, rows[i].steps, layer, &density);
                assert_int_equal(call(&w, &m, step, rows[i].steps, layer, branch), wanted);
                counts[wanted]++;
                if (wanted == FGA_STEP_REFRESH) {
                    free(cached[at]);
                    cached[at] = predict_mask(&w, &m, density);
                    cached_density[at] = naive_density(&(naive_mask){&m.p, cached[at], 2, 2});
                }
                if (wanted != FGA_STEP_DENSE) {
                    uint8_t *got = read_mask(&m, fga_session_mask(w.session, layer, branch));
                    assert_memory_equal(got, cached[at], (size_t)cells(&m));
                    free(got);
                    kept += cached_density[at];
                    sparse++;
                    measured += wanted == FGA_STEP_REFRESH || step + 1 == rows[i].steps ||
                                naive_step(&w.policy, step + 1, rows[i].steps, layer, &unused) == FGA_STEP_REFRESH;
                }
                if (wanted == FGA_STEP_REFRESH || (step + at) % 5 == 0) { /* slow */
                    check_output(&m, wanted == FGA_STEP_DENSE ? NULL : cached[at]);
                }
            }
        }
        fga_session_report r = fga_session_get_report(w.session);
        assert_true(r.calls_dense == counts[0] && r.calls_refresh == counts[1] && r.calls_reuse == counts[2]);
        double pairs = (double)fga_sequence_valid(&m.p.query) * (double)fga_sequence_valid(&m.p.query) * 4;
        assert_true(r.pairs_total == pairs * rows[i].steps * 4 && r.sparse_total == pairs * (double)sparse);
        assert_true(fabs(r.sparse_kept - kept * pairs) < 1e-6 * pairs);
        assert_true(fabs(r.pairs_kept - r.sparse_kept - pairs * (double)counts[0]) < 1e-6 * pairs);
        assert_int_equal(r.measured_calls, measured);
        assert_true(measured == 0 ? isnan(r.recall_mean) && isnan(r.recall_worst) && isnan(r.output_error_worst)
                                  : r.recall_worst <= r.recall_mean && r.recall_mean < 1 && r.recall_p05 < 1 &&
                                        r.recall_worst > 0 && r.output_error_mean > 0 &&
                                        r.output_error_worst >= r.output_error_mean);
        assert_true(r.attend_s > 0 && (counts[1] == 0) == (r.score_s == 0) && (measured == 0) == (r.measure_s == 0));
        for (int at = 0; at < 4; at++) {
            free(cached[at]);
        }
        close_world(&w);
        free_model(&m);
    }
}

/* Density 1.0 through the sparse path, M != N, ragged, is dense attention; so is select=all. */
static void all_kept_is_dense(void **state)
{
    (void)state;
    static const char *const policies[] = {"dfs,block_m=64,tile_n=16,phases=0/1:1",
                                           "dfs,block_m=192,tile_n=1,phases=0/1:1",
                                           "dfs,block_m=16,tile_n=128,select=all,score=none,phases=0/1:0.5"};
    for (int i = 0; i < 3; i++) {
        model m = make_model(61, joint, 1, 1);
        world w = open_world(&m, policies[i], 2);
        assert_int_equal(call(&w, &m, 0, 2, 0, 0), FGA_STEP_REFRESH);
        check_output(&m, NULL);
        assert_int_equal(call(&w, &m, 1, 2, 0, 0), FGA_STEP_REUSE);
        check_output(&m, NULL);
        fga_session_report r = fga_session_get_report(w.session);
        assert_true(r.sparse_kept == r.sparse_total && r.measured_calls == 2);
        assert_true(fabs(r.recall_mean - 1) < 1e-5 && r.output_error_worst < 1e-5);
        close_world(&w);
        free_model(&m);
    }
}

static const char *const small = "dfs,block_m=16,tile_n=16";

/* Nothing counts calls: what runs follows from the step that the caller names. */
static void steps_are_named_not_counted(void **state)
{
    (void)state;
    model m = make_model(71, fga_sequence_video(70), 1, 2);
    world w = open_world(&m, small, 1);
    assert_int_equal(call(&w, &m, 3, 20, 0, 0), FGA_STEP_DENSE); /* a warm-up request, twice at one step */
    assert_int_equal(call(&w, &m, 3, 20, 0, 0), FGA_STEP_DENSE);
    assert_null(fga_session_mask(w.session, 0, 0));
    assert_int_equal(call(&w, &m, 7, 20, 0, 0), FGA_STEP_REFRESH); /* no mask: the refresh at 5 was skipped */
    assert_int_equal(call(&w, &m, 8, 20, 0, 0), FGA_STEP_REUSE);
    assert_int_equal(call(&w, &m, 8, 20, 0, 1), FGA_STEP_REFRESH); /* the other branch has none yet */
    assert_null(fga_session_mask(w.session, 1, 0));
    assert_int_equal(call(&w, &m, 12, 20, 0, 0), FGA_STEP_REFRESH); /* its mask is of the phase before */
    assert_true(fabs(fga_mask_density(fga_session_mask(w.session, 0, 0)) - 0.2) < 0.05);
    assert_int_equal(call(&w, &m, 13, 20, 0, 0), FGA_STEP_REUSE);
    assert_int_equal(call(&w, &m, 6, 20, 0, 0), FGA_STEP_REFRESH); /* a second video: its mask is of the future */
    assert_int_equal(call(&w, &m, 7, 20, 0, 0), FGA_STEP_REUSE);
    assert_int_equal(call(&w, &m, 5, 20, 0, 0), FGA_STEP_REFRESH);
    assert_int_equal(call(&w, &m, 5, 20, 0, 0), FGA_STEP_REFRESH);
    assert_int_equal(call(&w, &m, 2, 20, 0, 0), FGA_STEP_DENSE);
    close_world(&w);
    free_model(&m);
}

static void branches_do_not_overwrite_each_other(void **state)
{
    (void)state;
    model m = make_model(72, fga_sequence_video(90), 2, 3);
    world w = open_world(&m, small, 2);
    uint8_t *first[6];
    for (int at = 0; at < 6; at++) {
        assert_int_equal(call(&w, &m, 5, 20, at / 3, at % 3), FGA_STEP_REFRESH);
        first[at] = predict_mask(&w, &m, 0.3);
    }
    for (int at = 5; at >= 0; at--) {
        assert_int_equal(call(&w, &m, 6, 20, at / 3, at % 3), FGA_STEP_REUSE);
        check_output(&m, first[at]);
        free(first[at]);
    }
    close_world(&w);
    free_model(&m);
}

static void shared_branches_use_the_first_ones_mask(void **state)
{
    (void)state;
    model m = make_model(73, fga_sequence_video(90), 1, 2);
    world w = open_world(&m, "dfs,block_m=16,tile_n=16,share_branches=true", 2);
    assert_int_equal(call(&w, &m, 5, 20, 0, 0), FGA_STEP_REFRESH);
    uint8_t *mask = predict_mask(&w, &m, 0.3);
    assert_int_equal(call(&w, &m, 5, 20, 0, 1), FGA_STEP_REUSE);
    check_output(&m, mask);
    assert_ptr_equal(fga_session_mask(w.session, 0, 0), fga_session_mask(w.session, 0, 1));
    assert_int_equal(call(&w, &m, 10, 20, 0, 1), FGA_STEP_REFRESH); /* branch 0 has not come yet: nobody waits */
    assert_int_equal(call(&w, &m, 10, 20, 0, 0), FGA_STEP_REFRESH);
    assert_int_equal(call(&w, &m, 11, 20, 0, 1), FGA_STEP_REUSE);
    free(mask);
    close_world(&w);
    free_model(&m);
}

static void sessions_are_independent(void **state)
{
    (void)state;
    model a = make_model(74, fga_sequence_video(90), 1, 1), b = make_model(74, fga_sequence_video(90), 1, 1);
    model c = make_model(75, fga_sequence_video(41), 1, 1);
    world wa = open_world(&a, small, 1), wb = open_world(&b, small, 3), wc = open_world(&c, small, 2);
    for (int step = 0; step < 8; step++) {
        fga_step_kind kind = call(&wa, &a, step, 8, 0, 0);
        (void)call(&wc, &c, 7 - step, 8, 0, 0);
        assert_int_equal(call(&wb, &b, step, 8, 0, 0), kind);
        assert_memory_equal(a.o, b.o, (size_t)a.q_count * sizeof *a.o); /* 1 thread and 3 */
    }
    fga_session_report ra = fga_session_get_report(wa.session), rb = fga_session_get_report(wb.session);
    assert_true(ra.recall_mean == rb.recall_mean && ra.output_error_mean == rb.output_error_mean &&
                ra.pairs_kept == rb.pairs_kept);
    close_world(&wa);
    close_world(&wb);
    close_world(&wc);
    free_model(&a);
    free_model(&b);
    free_model(&c);
}

static void a_retained_mask_is_left_alone(void **state)
{
    (void)state;
    model m = make_model(76, fga_sequence_video(90), 1, 1);
    world w = open_world(&m, small, 1);
    assert_int_equal(call(&w, &m, 5, 20, 0, 0), FGA_STEP_REFRESH);
    fga_mask *held = fga_mask_retain((fga_mask *)fga_session_mask(w.session, 0, 0));
    uint8_t *before = read_mask(&m, held);
    assert_int_equal(call(&w, &m, 10, 20, 0, 0), FGA_STEP_REFRESH);
    assert_true(fga_session_mask(w.session, 0, 0) != held);
    uint8_t *after = read_mask(&m, held);
    assert_memory_equal(before, after, (size_t)cells(&m));
    close_world(&w);
    assert_true(fga_mask_density(held) > 0.25);
    fga_mask_release(&held);
    free(before);
    free(after);
    free_model(&m);
}

static void changed_parameters_are_refused(void **state)
{
    (void)state;
    model m = make_model(77, fga_sequence_video(70), 2, 2);
    world w = open_world(&m, small, 1);
    assert_int_equal(call(&w, &m, 0, 20, 0, 0), FGA_STEP_DENSE);
    static const struct {
        int at[4];
        const char *error;
    } rows[] = {
        {{0, 30, 0, 0}, "steps is 30, wanted 20 as before: a session is for one generation"},
        {{20, 20, 0, 0}, "step is 20, wanted 0 ... 19"},
        {{-1, 20, 0, 0}, "step is -1, wanted 0 ... 19"},
        {{0, 20, 2, 0}, "layer is 2, wanted 0 ... 1"},
        {{0, 20, 0, 2}, "branch is 2, wanted 0 ... 1"},
        {{0, 0, 0, 0}, "steps is 0, wanted 1 ... 1048576"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        assert_int_equal(try_call(&w, &m, rows[i].at, NULL), FGA_ERR_ARGUMENT);
        assert_string_equal(fga_last_error(w.ctx), rows[i].error);
    }
    m.tokens = 69; /* another resolution */
    m.p.query = m.p.key = fga_sequence_video(69);
    assert_int_equal(try_call(&w, &m, (int[4]){5, 20, 0, 0}, NULL), FGA_ERR_ARGUMENT);
    assert_string_equal(fga_last_error(w.ctx), "q has 69 tokens, wanted 70");
    fga_session_report r = fga_session_get_report(w.session);
    assert_true(r.calls_dense == 1 && r.calls_refresh + r.calls_reuse == 0);
    close_world(&w);
    free_model(&m);
}

/* Tensors that are not there, or of another shape, before anything is read: whatever the policy looks at first. */
static void bad_tensors_are_named(void **state)
{
    (void)state;
    static const char *const policies[] = {"dfs,block_m=16,tile_n=1,target_error=0.05", "svg,block_m=16,tile_n=16",
                                           "fgdfs", "dfs"};
    const int64_t tokens = 64;
    for (size_t i = 0; i < sizeof policies / sizeof policies[0]; i++) {
        model m = make_model(79, fga_sequence_video(tokens), 2, 1);
        world w = {.ctx = naive_context(1, NULL)};
        assert_int_equal(fga_policy_parse(w.ctx, policies[i], &w.policy), FGA_OK);
        fga_session_desc d = describe(&m, &w.policy);
        d.frames = d.height = d.width = 4;
        assert_int_equal(fga_session_create(w.ctx, &d, &w.session), FGA_OK);
        w.workspace = aligned_alloc(64, (fga_session_workspace(w.session) + 63) / 64 * 64);
        float bias[128] = {0};
        for (int wrong = 0; wrong < 6; wrong++) {
            fga_attend_args a = wrong == 0 ? fga_attend_args_default() : make_inputs(&m);
            fga_tensor *const tensors[4] = {&a.q, &a.k, &a.v, &a.o};
            if (wrong == 5) { /* more keys than the session has, and a bias for each */
                a.k.extent[2] = 128;
                a.key_bias = bias;
            } else if (wrong > 0) {
                tensors[wrong - 1]->data = NULL;
            }
            assert_int_equal(fga_session_attend(w.session, 19, 20, 1, 0, &a, w.workspace, NULL), FGA_ERR_ARGUMENT);
            static const char *const named[] = {"q has 0 batch", "q.data", "k.data", "v.data", "o.data", "k has 128"};
            assert_non_null(strstr(fga_last_error(w.ctx), named[wrong]));
        }
        close_world(&w);
        free_model(&m);
    }
}

static void bad_sessions_are_named(void **state)
{
    (void)state;
    fga_context *ctx = naive_context(1, NULL);
    model m = make_model(78, fga_sequence_video(70), 1, 1);
    fga_policy dfs;
    fga_session *session;
    assert_int_equal(fga_policy_parse(ctx, "dfs", &dfs), FGA_OK);
    fga_session_desc good = describe(&m, &dfs), bad = good;
    bad.layers = 0;
    assert_int_equal(fga_session_create(ctx, &bad, &session), FGA_ERR_ARGUMENT);
    assert_string_equal(fga_last_error(ctx), "layers is 0, wanted 1 ... 1048576");
    assert_null(session);
    bad = good, bad.head_dim = 12;
    assert_int_equal(fga_session_create(ctx, &bad, &session), FGA_ERR_UNSUPPORTED);
    bad = good, bad.policy.block_m = 7;
    assert_int_equal(fga_session_create(ctx, &bad, &session), FGA_ERR_ARGUMENT);
    bad = good, bad.measure_fraction = -1;
    assert_int_equal(fga_session_create(ctx, &bad, &session), FGA_ERR_ARGUMENT);
    assert_string_equal(fga_last_error(ctx), "measure_fraction is -1, wanted at least 0");
    fga_session_destroy(&session);
    fga_session_destroy(NULL);
    fga_context_destroy(&ctx);
    free_model(&m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(whole_runs),
        cmocka_unit_test(all_kept_is_dense),
        cmocka_unit_test(steps_are_named_not_counted),
        cmocka_unit_test(branches_do_not_overwrite_each_other),
        cmocka_unit_test(shared_branches_use_the_first_ones_mask),
        cmocka_unit_test(sessions_are_independent),
        cmocka_unit_test(a_retained_mask_is_left_alone),
        cmocka_unit_test(changed_parameters_are_refused),
        cmocka_unit_test(bad_tensors_are_named),
        cmocka_unit_test(bad_sessions_are_named),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
