/* The tuner: on attention made so that heads differ, the profile reaches its target, and costs less than one density
 * for all. */
#include "fgvideo.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { FRAMES = 4, HEIGHT = 4, WIDTH = 8, TOKENS = FRAMES * HEIGHT * WIDTH, HEADS = 3, DIM = 16, LAYERS = 2 };
enum { ELEMENTS = TOKENS * HEADS * DIM, STEPS = 10 };

static fga_context *ctx;
static float qkv[3][ELEMENTS];

static int start(void **state)
{
    (void)state;
    fga_context_options options = fga_context_options_default();
    options.threads = 2;
    return fga_context_create(&options, &ctx) == FGA_OK ? 0 : -1;
}

static int stop(void **state)
{
    (void)state;
    fga_context_destroy(&ctx);
    return 0;
}

static float noise(uint32_t *seed)
{
    *seed = *seed * 1664525u + 1013904223u;
    return (float)(*seed >> 8) / (float)(1 << 23) - 1.0f;
}

/* Head 0 attends to a few keys, head 2 to nearly all of them, head 1 between; layer 1 is more diffuse. */
static fgv_capture make_capture(int step, int layer, int branch, uint32_t seed)
{
    static const float sharpness[HEADS] = {6.0f, 2.0f, 0.05f};
    seed = seed * 977u + (uint32_t)(layer * 31 + step * 7 + branch);
    for (int i = 0; i < ELEMENTS; i++) {
        int head = i / DIM % HEADS;
        for (int j = 0; j < 3; j++) {
            qkv[j][i] = noise(&seed) * (j == 0 ? sharpness[head] * (layer == 1 ? 0.7f : 1.0f) : 1.0f);
        }
    }
    fgv_capture c = {.step = step,
                     .steps = STEPS,
                     .layer = layer,
                     .layers = LAYERS,
                     .branch = branch,
                     .frames = FRAMES,
                     .height = HEIGHT,
                     .width = WIDTH,
                     .scale = 0.25f};
    fga_tensor *out[3] = {&c.q, &c.k, &c.v};
    for (int j = 0; j < 3; j++) {
        *out[j] = fga_tensor_bshd(qkv[j], FGA_F32, 1, TOKENS, HEADS, DIM);
    }
    return c;
}

static fgv_tuner *make_tuner(const char *policy, bool timetable)
{
    fgv_tuner *tuner;
    fgv_tuner_options options = fgv_tuner_options_default();
    assert_int_equal(fga_policy_parse(ctx, policy, &options.policy), FGA_OK);
    options.timetable = timetable;
    options.measure_fraction = 1;
    assert_int_equal(fgv_tuner_create(ctx, &options, &tuner), FGA_OK);
    return tuner;
}

/* Two runs of every step. */
static void show(fgv_tuner *tuner)
{
    for (uint32_t video = 0; video < 2; video++) {
        assert_int_equal(fgv_tuner_begin(tuner), FGA_OK);
        for (int step = 0; step < STEPS; step++) {
            for (int branch = 0; branch < 2; branch++) {
                for (int layer = 0; layer < LAYERS; layer++) {
                    fgv_capture c = make_capture(step, layer, branch, video + 1);
                    assert_int_equal(fgv_tuner_add(tuner, &c), FGA_OK);
                }
            }
        }
    }
}

typedef struct tally {
    double recall, density, worst_error;
    int heads;
} tally;

static void add_up(void *user, const fga_measured *m)
{
    tally *t = user;
    for (int h = 0; h < HEADS; h++, t->heads++) {
        t->recall += m->recall[h];
        t->density += m->density[h];
        t->worst_error = fmax(t->worst_error, m->error[h]);
    }
}

/* One run under a policy with overrides, on inputs that the tuner saw (seed 1, 2) or not. */
static tally run(const fga_policy *policy, const fgv_profile *p, uint32_t seed)
{
    static float o[ELEMENTS];
    tally t = {0};
    fga_session *session;
    fga_session_desc d = fga_session_desc_default();
    d.policy = *policy;
    d.overrides = p != NULL ? p->overrides : NULL;
    d.override_count = p != NULL ? p->override_count : 0;
    d.layers = LAYERS, d.branches = 2;
    d.query_heads = d.kv_heads = HEADS, d.head_dim = DIM;
    d.sequence = fga_sequence_video(TOKENS);
    d.frames = FRAMES, d.height = HEIGHT, d.width = WIDTH;
    d.measure_fraction = 1;
    d.on_measure = add_up;
    d.user = &t;
    assert_int_equal(fga_session_create(ctx, &d, &session), FGA_OK);
    void *workspace = aligned_alloc(64, (fga_session_workspace(session) + 63) / 64 * 64);
    for (int step = 0; step < STEPS; step++) {
        for (int branch = 0; branch < 2; branch++) {
            for (int layer = 0; layer < LAYERS; layer++) {
                fgv_capture c = make_capture(step, layer, branch, seed);
                fga_attend_args args = fga_attend_args_default();
                args.q = c.q, args.k = c.k, args.v = c.v;
                args.o = fga_tensor_bshd(o, FGA_F32, 1, TOKENS, HEADS, DIM);
                assert_int_equal(fga_session_attend(session, step, STEPS, layer, branch, &args, workspace, NULL),
                                 FGA_OK);
            }
        }
    }
    free(workspace);
    fga_session_destroy(&session);
    t.recall /= t.heads;
    t.density /= t.heads;
    return t;
}

#define POLICY "dfs,order=raster,block_m=16,tile_n=1,sub_q=16,sub_k=1,score=exact_mass,refresh=1"

static void test_recall(void **state)
{
    (void)state;
    fgv_tuner *tuner = make_tuner(POLICY, true);
    show(tuner);
    assert_int_equal(fgv_tuner_points(tuner), 2 * 2 * LAYERS * 7); /* steps 3 ... 9 of 10 are sparse */
    fgv_profile p = fgv_profile_default();
    const fgv_tuner_target target = {.recall = 0.8, .recall_floor = 0.4, .quantile = 0.9};
    assert_int_equal(fgv_tuner_solve(tuner, &target, &p), FGA_OK);
    assert_true(p.tuning.recall_mean >= 0.8 && p.tuning.recall_mean < 0.9);
    assert_true(p.tuning.recall_worst > 0.3 && p.tuning.held >= 0.9);
    assert_true(p.override_count > 0);
    assert_true(p.layers == LAYERS && p.heads == HEADS && p.head_dim == DIM && p.branches == 2);

    tally tuned = run(&p.policy, &p, 1), unseen = run(&p.policy, &p, 9);
    assert_true(fabs(tuned.density - p.tuning.density) < 0.01); /* what was promised is what happens */
    assert_true(unseen.recall > 0.78);
    fga_policy uniform = p.policy;
    char density[32];
    snprintf(density, sizeof density, "density=%.6f", unseen.density);
    assert_int_equal(fga_policy_set(ctx, density, &uniform), FGA_OK);
    assert_true(unseen.recall > run(&uniform, NULL, 9).recall + 0.01); /* heads differ: one density for all is worse */
    fgv_profile_free(&p);
    fgv_tuner_destroy(&tuner);
}

static void test_error(void **state)
{
    (void)state;
    fgv_tuner *tuner = make_tuner(POLICY, true);
    show(tuner);
    fgv_profile p = fgv_profile_default();
    const fgv_tuner_target target = {.error = 0.3, .quantile = 1};
    assert_int_equal(fgv_tuner_solve(tuner, &target, &p), FGA_OK);
    assert_true(p.tuning.held == 1 && p.tuning.output_error_worst <= 0.3);
    assert_true(run(&p.policy, &p, 1).worst_error <= 0.3 + 1e-5);
    assert_true(p.tuning.density < 0.95);
    double density = p.tuning.density;
    const fgv_tuner_target looser = {.error = 0.5, .quantile = 0.8};
    assert_int_equal(fgv_tuner_solve(tuner, &looser, &p), FGA_OK); /* once more, into the same profile */
    assert_true(p.tuning.density < density);
    const fgv_tuner_target impossible = {.error = 1e-9, .quantile = 1};
    assert_int_equal(fgv_tuner_solve(tuner, &impossible, &p), FGA_OK);
    assert_true(p.tuning.density == 1 && p.tuning.output_error_worst == 0);
    assert_true(run(&p.policy, &p, 1).heads == 0); /* all dense: nothing sparse is left to measure */
    fgv_profile_free(&p);
    fgv_tuner_destroy(&tuner);
}

static void test_captures(void **state)
{
    (void)state;
    fgv_tuner *tuner = make_tuner("dfs,block_m=16,tile_n=1,sub_k=1", false);
    fgv_profile p = fgv_profile_default();
    assert_int_equal(fgv_tuner_begin(tuner), FGA_OK);
    static const int layers[3] = {1, 0, 1};
    for (int i = 0; i < 3; i++) {
        fgv_capture c = make_capture(0, layers[i], 0, 1); /* dense by the timetable */
        c.layers = c.steps = 0;
        assert_int_equal(fgv_tuner_add(tuner, &c), FGA_OK);
    }
    assert_int_equal(fgv_tuner_points(tuner), 3);
    const fgv_tuner_target target = {.recall = 0.9, .recall_floor = 0.7, .quantile = 0.9};
    assert_int_equal(fgv_tuner_solve(tuner, &target, &p), FGA_OK);
    assert_true(p.layers == 2 && p.branches == 1);
    assert_int_equal(p.policy.phases, 3); /* the preset's own timetable */
    assert_true(p.policy.phase[0].numerator == 12);
    for (int i = 0; i < p.override_count; i++) {
        assert_int_equal(p.overrides[i].branch, -1);
    }
    fgv_profile_free(&p);
    fgv_tuner_destroy(&tuner);
}

static void test_refused(void **state)
{
    (void)state;
    fgv_tuner *tuner;
    fgv_tuner_options options = fgv_tuner_options_default();
    assert_int_equal(fgv_tuner_create(ctx, &options, &tuner), FGA_ERR_UNSUPPORTED); /* dense */
    assert_null(tuner);
    assert_int_equal(fga_policy_parse(ctx, "dfs", &options.policy), FGA_OK);
    options.measure_fraction = 0;
    assert_int_equal(fgv_tuner_create(ctx, &options, &tuner), FGA_ERR_ARGUMENT);
    tuner = make_tuner("dfs,block_m=16,tile_n=16", true);
    fgv_profile p = fgv_profile_default();
    fgv_tuner_target target = {.recall = 0.9, .quantile = 0.9};
    assert_int_equal(fgv_tuner_solve(tuner, &target, &p), FGA_ERR_ARGUMENT); /* nothing measured */
    fgv_capture c = make_capture(STEPS - 1, 0, 0, 1);
    assert_int_equal(fgv_tuner_begin(tuner), FGA_OK);
    assert_int_equal(fgv_tuner_add(tuner, &c), FGA_OK);
    c.frames = 2, c.height = 8;
    assert_int_equal(fgv_tuner_add(tuner, &c), FGA_ERR_ARGUMENT);
    c = make_capture(STEPS - 1, -1, 0, 1);
    assert_int_equal(fgv_tuner_add(tuner, &c), FGA_ERR_ARGUMENT);
    c = make_capture(STEPS - 1, 0, 0, 1);
    c.scale = 0.5f; /* sessions know none but head_dim^-0.5 */
    assert_int_equal(fgv_tuner_add(tuner, &c), FGA_ERR_UNSUPPORTED);
    c = make_capture(STEPS - 1, 0, 0, 1);
    c.layers = 0;
    assert_int_equal(fgv_tuner_add(tuner, &c), FGA_ERR_ARGUMENT);
    target.recall = 1.5;
    assert_int_equal(fgv_tuner_solve(tuner, &target, &p), FGA_ERR_ARGUMENT);
    target.recall = NAN;
    assert_int_equal(fgv_tuner_solve(tuner, &target, &p), FGA_ERR_ARGUMENT);
    fgv_tuner_destroy(&tuner);
    fgv_tuner_destroy(NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_recall), cmocka_unit_test(test_error),
                                       cmocka_unit_test(test_captures), cmocka_unit_test(test_refused)};
    return cmocka_run_group_tests(tests, start, stop);
}
