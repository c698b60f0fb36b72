/* A session saved between two steps and loaded into a new one goes on to the same bytes, and what is damaged or of
 * another session is refused. */
#include "scene.h"

#include "attn/mask.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { HEADS = 4, LAYERS = 2, BRANCHES = 2, STEPS = 10 };

static const fga_sequence joint = {
    .prefix = 9, .prefix_valid = 5, .video = 150, .video_valid = 147, .suffix = 21, .suffix_valid = 8};

typedef struct blob {
    uint8_t *bytes;
    size_t count, capacity;
} blob;

static bool append(void *user, const void *bytes, size_t count)
{
    blob *b = user;
    assert_true(b->count + count <= b->capacity);
    memcpy(b->bytes + b->count, bytes, count);
    b->count += count;
    return true;
}

static blob save(const fga_session *session)
{
    uint64_t bytes;
    assert_int_equal(fga_session_save(session, NULL, NULL, &bytes), FGA_OK);
    blob b = {malloc(bytes), 0, bytes};
    assert_int_equal(fga_session_save(session, append, &b, NULL), FGA_OK);
    assert_int_equal(b.count, bytes);
    return b;
}

static stage make(const scene *s, const char *policy)
{
    stage t = stage_make(s, policy, LAYERS, BRANCHES, 2);
    t.desc.measure_fraction = 0.2;
    stage_open(&t);
    return t;
}

/* Steps [from, to) of all layers and branches; the outputs, one after the other, to out. */
static void run(stage *t, scene *s, int from, int to, float *out)
{
    size_t one = (size_t)(s->heads * s->tokens * s->p.head_dim);
    for (int step = from; step < to; step++) {
        for (int at = 0; at < LAYERS * BRANCHES; at++, out += one) {
            (void)stage_call(t, s, step, STEPS, at / BRANCHES, at % BRANCHES);
            memcpy(out, s->o, one * sizeof *out);
        }
    }
}

static void same_report(const stage *a, const stage *b)
{
    fga_session_report x = fga_session_get_report(a->session), y = fga_session_get_report(b->session);
    x.score_s = y.score_s = x.attend_s = y.attend_s = x.measure_s = y.measure_s = 0;
    assert_memory_equal(&x, &y, sizeof x);
}

static void goes_on_to_the_same_bytes(void **state)
{
    (void)state;
    static const char *const policies[] = {
        "dfs,block_m=32,tile_n=8,phases=1/5:0.3;1/2:0.1,refresh_every=2",
        "fgdfs,block_m=32,group=16,phases=1/5:0.3,share_branches=true,refresh_drop=0.02",
        "dfs,block_m=16,tile_n=4,phases=1/10:0.2,target_error=0.3",
        "sta,phases=1/5",
        "dense",
    };
    for (int i = 0; i < 5; i++) {
        scene s = scene_make((uint64_t)i + 20, i % 2 == 0 ? joint : fga_sequence_video(200), 0.01);
        size_t step = (size_t)(LAYERS * BRANCHES * s.heads * s.tokens * s.p.head_dim);
        float *whole = malloc(STEPS * step * sizeof *whole), *rest = malloc(STEPS * step * sizeof *rest);
        stage t = make(&s, policies[i]);
        run(&t, &s, 0, STEPS, whole);
        for (int cut = 1; cut < STEPS; cut += 2) {
            stage first = make(&s, policies[i]), second = make(&s, policies[i]);
            run(&first, &s, 0, cut, rest);
            blob b = save(first.session);
            stage_close(&first);
            assert_int_equal(fga_session_load(second.session, b.bytes, b.count), FGA_OK);
            blob again = save(second.session);
            assert_true(again.count == b.count && memcmp(again.bytes, b.bytes, b.count) == 0);
            run(&second, &s, cut, STEPS, rest);
            assert_memory_equal(rest, whole + (size_t)cut * step, (STEPS - (size_t)cut) * step * sizeof *rest);
            same_report(&t, &second);
            stage_close(&second);
            free(b.bytes);
            free(again.bytes);
        }
        stage_close(&t);
        free(whole);
        free(rest);
        scene_free(&s);
    }
}

/* Whatever loads is a session; whatever does not leaves one as it was made. */
static void damage_is_refused(void **state)
{
    (void)state;
    const char *policy = "dfs,block_m=32,tile_n=8,phases=1/5:0.3;1/2:0.1";
    scene s = scene_make(31, joint, 0.01);
    size_t step = (size_t)(LAYERS * BRANCHES * s.heads * s.tokens * s.p.head_dim);
    float *out = malloc(STEPS * step * sizeof *out), *again = malloc(step * sizeof *again);
    stage t = make(&s, policy), fresh = make(&s, policy);
    run(&t, &s, 0, 5, out);
    blob b = save(t.session);
    for (size_t cut = 0; cut < b.count; cut += 1 + cut / 64) {
        uint8_t *exact = malloc(cut + 1); /* reading past the end shows under the sanitizer */
        memcpy(exact, b.bytes, cut);
        assert_int_equal(fga_session_load(fresh.session, exact, cut), FGA_ERR_DATA);
        free(exact);
    }
    size_t refused = 0;
    for (size_t at = 0; at < b.count; at++) {
        b.bytes[at] ^= 0x81;
        fga_status status = fga_session_load(fresh.session, b.bytes, b.count);
        assert_true(status == FGA_ERR_DATA || (status == FGA_OK && at < b.count));
        refused += status != FGA_OK;
        if (status == FGA_OK) { /* a counter or a sum: nothing to check it by */
            stage_close(&fresh);
            fresh = make(&s, policy);
        }
        b.bytes[at] ^= 0x81;
    }
    assert_true(refused > b.count * 3 / 4);
    run(&fresh, &s, 0, 1, again);
    assert_memory_equal(again, out, step * sizeof *again);
    assert_int_equal(fga_session_load(fresh.session, b.bytes, b.count), FGA_ERR_ARGUMENT); /* it has attended */
    stage_close(&t);
    stage_close(&fresh);
    free(b.bytes);
    free(out);
    free(again);
    scene_free(&s);
}

static void other_sessions_are_refused(void **state)
{
    (void)state;
    scene s = scene_make(32, joint, 0.01), shorter = scene_make(32, fga_sequence_video(100), 0.01);
    size_t step = (size_t)(LAYERS * BRANCHES * s.heads * s.tokens * s.p.head_dim);
    float *out = malloc(5 * step * sizeof *out);
    stage t = make(&s, "dfs,block_m=32,tile_n=8,phases=1/5:0.3");
    run(&t, &s, 0, 5, out);
    blob b = save(t.session);
    stage others[] = {make(&s, "dfs,block_m=16,tile_n=8,phases=1/5:0.3"), make(&s, "dense"),
                      make(&shorter, "dfs,block_m=32,tile_n=8,phases=1/5:0.3"),
                      stage_make(&s, "dfs,block_m=32,tile_n=8,phases=1/5:0.3", LAYERS + 1, BRANCHES, 1)};
    stage_open(&others[3]);
    for (int i = 0; i < 4; i++) {
        assert_int_equal(fga_session_load(others[i].session, b.bytes, b.count), FGA_ERR_DATA);
        assert_null(fga_session_mask(others[i].session, 0, 0));
        stage_close(&others[i]);
    }
    stage_close(&t);
    free(b.bytes);
    free(out);
    scene_free(&s);
    scene_free(&shorter);
}

static bool refuse(void *user, const void *bytes, size_t count)
{
    (void)bytes, (void)count;
    return ++*(int *)user < 3;
}

static void a_writer_may_stop(void **state)
{
    (void)state;
    scene s = scene_make(33, joint, 0.01);
    stage t = make(&s, "dense");
    int calls = 0;
    assert_int_equal(fga_session_save(t.session, refuse, &calls, NULL), FGA_ERR_INTERRUPTED);
    assert_int_equal(calls, 3);
    stage_close(&t);
    scene_free(&s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(goes_on_to_the_same_bytes),
        cmocka_unit_test(damage_is_refused),
        cmocka_unit_test(other_sessions_are_refused),
        cmocka_unit_test(a_writer_may_stop),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
