/* What a session keeps and asks for: compressed masks, plans for every override, memory, and what it tells. */
#include "scene.h"

#include "attn/mask.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { HEADS = 4 };

static const fga_sequence joint = {
    .prefix = 9, .prefix_valid = 5, .video = 150, .video_valid = 147, .suffix = 21, .suffix_valid = 8};

/* ---- every preset, every length of run ------------------------------------------------------------------- */

static void every_preset_runs_its_timetable(void **state)
{
    (void)state;
    static const int steps[] = {4, 20, 30, 50};
    scene s = scene_make(1, fga_sequence_video(70), 0.001);
    for (int i = 0; i < fga_preset_count(); i++) {
        for (int j = 0; j < 4; j++) {
            int branches = 1 + (i + j) % 2;
            stage t = stage_make(&s, fga_preset_name(i), 3, branches, 1);
            int64_t counts[3] = {0};
            t.desc.measure_fraction = 0;
            stage_open(&t);
            for (int step = 0; step < steps[j]; step++) {
                for (int at = 0; at < 3 * branches; at++) {
                    double density;
                    fga_step_kind wanted = naive_step(&t.policy, step, steps[j], at / branches, &density);
                    assert_int_equal(stage_call(&t, &s, step, steps[j], at / branches, at % branches), wanted);
                    counts[wanted]++;
                }
            }
            fga_session_report r = fga_session_get_report(t.session);
            assert_true(r.calls_dense == counts[0] && r.calls_refresh == counts[1] && r.calls_reuse == counts[2]);
            assert_true(r.sparse_total == 70. * 70 * HEADS * (double)(counts[1] + counts[2]));
            assert_true(r.measured_calls == 0 && r.refreshes_early == 0 && r.heads_made_dense == 0);
            stage_close(&t);
        }
    }
    scene_free(&s);
}

/* ---- remainders ------------------------------------------------------------------------------------------- */

/* One summary per valid query and group of which some valid key is not kept. */
static double count_summaries(const scene *s, const fga_mask *mask, int64_t group)
{
    double count = 0;
    for (int64_t h = 0; h < HEADS; h++) {
        for (int64_t i = 0; i < s->tokens; i++) {
            for (int64_t first = 0; naive_is_valid(&s->p.query, i) && first < s->tokens; first += group) {
                bool left = false;
                for (int64_t j = first; j < first + group && j < s->tokens; j++) {
                    left = left || (naive_is_valid(&s->p.key, j) &&
                                    !fga_mask_keeps(mask, 0, h, i / fga_mask_describe(mask).block_m,
                                                    j / fga_mask_describe(mask).tile_n));
                }
                count += left;
            }
        }
    }
    return count;
}

static void remainders_are_attended_and_counted(void **state)
{
    (void)state;
    static const char *const policies[] = {
        "dfs,block_m=16,tile_n=1,score=deviation,rest=remainder,group=16,phases=0/1:0.2;1/2:0.1",
        "dfs,block_m=32,tile_n=8,rest=remainder,group=8,phases=0/1:0.2;1/2:0.1"};
    for (int i = 0; i < 2; i++) {
        scene s = scene_make(2, joint, 0.002);
        stage t = stage_make(&s, policies[i], 1, 1, 2);
        double summaries = 0, kept = 0, all = 0;
        stage_open(&t);
        for (int step = 0; step < 4; step++) {
            assert_int_equal(stage_call(&t, &s, step, 4, 0, 0), step % 2 == 0 ? FGA_STEP_REFRESH : FGA_STEP_REUSE);
            const fga_mask *mask = fga_session_mask(t.session, 0, 0);
            scene_check(&s, mask, t.policy.group);
            summaries += count_summaries(&s, mask, t.policy.group);
            all += (double)HEADS * (double)fga_sequence_valid(&joint) * (double)fga_sequence_valid(&joint);
            kept += fga_mask_density(mask) * all / (step + 1);
        }
        fga_session_report r = fga_session_get_report(t.session);
        assert_true(r.sparse_summaries == summaries && r.sparse_total == all);
        assert_true(fabs(r.sparse_kept - kept) < 1e-6 * kept);
        stage_close(&t);
        scene_free(&s);
    }
}

/* ---- overrides -------------------------------------------------------------------------------------------- */

/* Layers, heads and branches under settings of their own keep what sessions of those settings alone would. */
static void overrides_equal_policies(void **state)
{
    (void)state;
    static const fga_override overrides[] = {
        {1, 1, 0, INT32_MAX, -1, "block_m=64,tile_n=1,score=deviation,rest=remainder,group=32"},
        {2, 2, 0, INT32_MAX, 1, "select=topp,tau=0.6,phases=0/1;1/2"},
        {3, 3, 0, INT32_MAX, -1, "dense=true"},
        {0, 0, 2, 3, -1, "density=0.6"},
        {0, 0, 1, 1, -1, "dense=true"},
    };
    static const char *const base = "dfs,block_m=32,tile_n=4,phases=0/1:0.2;1/2:0.1";
    static const char *const alone[4][2] = {
        {"dfs,block_m=32,tile_n=4,phases=0/1:0.2;1/2:0.1", "dfs,block_m=32,tile_n=4,phases=0/1:0.2;1/2:0.1"},
        {"dfs,block_m=64,tile_n=1,score=deviation,rest=remainder,group=32,phases=0/1:0.2;1/2:0.1",
         "dfs,block_m=64,tile_n=1,score=deviation,rest=remainder,group=32,phases=0/1:0.2;1/2:0.1"},
        {"dfs,block_m=32,tile_n=4,phases=0/1:0.2;1/2:0.1",
         "dfs,block_m=32,tile_n=4,select=topp,tau=0.6,phases=0/1;1/2"},
        {"dense", "dense"}};
    scene s = scene_make(3, joint, 0.002);
    stage t = stage_make(&s, base, 4, 2, 2);
    t.desc.overrides = overrides;
    t.desc.override_count = 5;
    stage_open(&t);
    stage denser = stage_make(&s, "dfs,block_m=32,tile_n=4,phases=0/1:0.6;1/2:0.6", 1, 2, 1);
    stage_open(&denser);
    for (int at = 0; at < 8; at++) {
        stage one = stage_make(&s, alone[at / 2][at % 2], 4, 2, 1);
        stage_open(&one);
        for (int step = 0; step < 4; step++) {
            fga_step_kind wanted = stage_call(&one, &s, step, 4, at / 2, at % 2);
            const fga_mask *theirs = fga_session_mask(one.session, at / 2, at % 2);
            assert_int_equal(stage_call(&t, &s, step, 4, at / 2, at % 2), wanted);
            const fga_mask *ours = fga_session_mask(t.session, at / 2, at % 2);
            assert_true((ours == NULL) == (theirs == NULL));
            scene_check(&s, ours, at / 2 == 1 ? 32 : 0);
            if (at / 2 > 0) {
                assert_true(ours == NULL || same_mask(ours, theirs));
                continue;
            }
            (void)stage_call(&denser, &s, step, 4, 0, at % 2);
            const fga_mask *dense = fga_session_mask(denser.session, 0, at % 2);
            for (int64_t h = 0; h < HEADS; h++) { /* as it stands, dense, and twice 0.6 */
                double density = fga_mask_head_density(ours, h), plain = fga_mask_head_density(theirs, h);
                double high = fga_mask_head_density(dense, h);
                assert_true(plain < high && high < 1);
                assert_true(density == (h == 0 ? plain : h == 1 ? 1 : high));
            }
        }
        stage_close(&one);
    }
    stage_close(&denser);
    stage_close(&t);
    scene_free(&s);
}

/* ---- storage ---------------------------------------------------------------------------------------------- */

static size_t held(const stage *t)
{
    size_t bytes = 0;
    for (int at = 0; at < t->desc.layers * t->desc.branches; at++) {
        const fga_mask *mask = fga_session_mask(t->session, at / t->desc.branches, at % t->desc.branches);
        bytes += mask != NULL ? fga_mask_bytes(mask) : 0;
    }
    return bytes;
}

/* Masks are kept in whichever storage is smaller, equal to those of a session that sees its bits as they are made. */
static void masks_are_stored_small(void **state)
{
    (void)state;
    static const struct {
        const char *policy;
        fga_mask_storage storage;
    } rows[] = {{"dfs,block_m=16,tile_n=1,phases=0/1:0.3;1/2:0.1", FGA_MASK_BITMAP},
                {"radial,block_m=16,tile_n=1,width=0.05,phases=0/1;1/2", FGA_MASK_RUNS},
                {"dfs,block_m=16,tile_n=1,phases=0/1:1;1/2:1", FGA_MASK_RUNS}};
    for (int i = 0; i < 3; i++) {
        scene s = scene_make(5, fga_sequence_video(700), 0.002);
        stage t = stage_make(&s, rows[i].policy, 3, 2, 2);
        t.desc.measure_fraction = 0;
        stage_open(&t);
        assert_int_equal(fga_session_get_report(t.session).mask_bytes, 0); /* nothing up front */
        size_t peak = 0;
        for (int step = 0; step < 4; step += 2) {
            for (int at = 0; at < 6; at++) {
                (void)stage_call(&t, &s, step, 4, at / 2, at % 2);
                const fga_mask *mask = fga_session_mask(t.session, at / 2, at % 2);
                assert_int_equal(fga_mask_storage_kind(mask), rows[i].storage);
                fga_session_report r = fga_session_get_report(t.session);
                assert_int_equal(r.mask_bytes, held(&t));
                peak = r.mask_bytes > peak ? r.mask_bytes : peak;
                assert_int_equal(r.mask_bytes_peak, peak);
                size_t bitmap = (size_t)(HEADS * fga_mask_blocks(mask) * ((fga_mask_tiles(mask) + 63) / 64)) * 8;
                assert_true(rows[i].storage == FGA_MASK_BITMAP ? fga_mask_bytes(mask) == bitmap
                                                               : fga_mask_bytes(mask) < bitmap);
            }
        }
        scene_check(&s, fga_session_mask(t.session, 2, 1), 0);
        stage_close(&t);
        scene_free(&s);
    }
}

/* fga_mask_store against fga_mask_compress, over masks old and new of either storage, shared or not. */
static void stored_masks_equal_made_ones(void **state)
{
    (void)state;
    fga_context *ctx = naive_context(1, NULL);
    naive_random random = {7};
    fga_mask_desc d = fga_mask_desc_default();
    d.heads = 2, d.block_m = 16, d.tile_n = 1, d.query = d.key = joint;
    fga_mask *kept = NULL, *shared = NULL;
    int stored[2] = {0};
    for (int round = 0; round < 40; round++) {
        static uint8_t keep[2 * 12 * 180];
        int64_t run = naive_between(&random, 0, 1) == 0 ? 1 : 60;
        bool on = false;
        for (int64_t i = 0; i < 2 * 12 * 180; i++) {
            on = i % run == 0 ? naive_between(&random, 0, 1) == 0 : on;
            keep[i] = round > 0 && on;
        }
        fga_mask *made, *wanted;
        assert_int_equal(fga_mask_from_bool(ctx, &d, keep, &made), FGA_OK);
        assert_int_equal(fga_mask_from_bool(ctx, &d, keep, &wanted), FGA_OK);
        assert_int_equal(fga_mask_compress(ctx, wanted), FGA_OK);
        assert_int_equal(fga_mask_store(ctx, made, &kept), FGA_OK);
        assert_true(kept != shared && kept != made);
        assert_true(same_mask(kept, wanted) && same_mask(kept, made));
        assert_int_equal(fga_mask_storage_kind(kept), fga_mask_storage_kind(wanted));
        assert_int_equal(fga_mask_bytes(kept), fga_mask_bytes(wanted));
        assert_true(fga_mask_density(kept) == fga_mask_density(made));
        stored[fga_mask_storage_kind(kept)]++;
        fga_mask_release(&shared);
        shared = round % 3 == 0 ? fga_mask_retain(kept) : NULL;
        fga_mask_release(&made);
        fga_mask_release(&wanted);
    }
    assert_true(stored[0] > 5 && stored[1] > 5);
    fga_mask_release(&shared);
    fga_mask_release(&kept);
    fga_context_destroy(&ctx);
}

/* ---- memory ----------------------------------------------------------------------------------------------- */

typedef struct heap {
    int64_t left; /* allocations that succeed; -1: all */
    int64_t made, live;
} heap;

static void *take(void *user, size_t bytes)
{
    heap *h = user;
    if (h->left == 0) {
        return NULL;
    }
    h->left -= h->left > 0;
    h->made++;
    h->live++;
    return aligned_alloc(64, (bytes + 63) / 64 * 64);
}

static void give(void *user, void *pointer)
{
    ((heap *)user)->live -= pointer != NULL;
    free(pointer);
}

static fga_context *context_on(heap *h)
{
    fga_context_options o = fga_context_options_default();
    fga_context *ctx;
    o.threads = 1;
    o.alloc = take;
    o.free = give;
    o.user = h;
    assert_int_equal(fga_context_create(&o, &ctx), FGA_OK);
    return ctx;
}

static const char *const hungry = "dfs,block_m=16,tile_n=1,rest=remainder,group=16,phases=0/1:0.2;1/2:0.1,"
                                  "target_recall=0.8,refresh_drop=0.05";

/* Moves a stage to a context that counts. */
static void put_on(stage *t, heap *h)
{
    fga_context_destroy(&t->ctx);
    t->ctx = context_on(h);
}

static void reuse_allocates_nothing(void **state)
{
    (void)state;
    scene s = scene_make(6, joint, 0);
    stage t = stage_make(&s, hungry, 2, 2, 1);
    heap h = {.left = -1};
    put_on(&t, &h);
    stage_open(&t);
    for (int step = 0; step < 12; step++) {
        for (int at = 0; at < 4; at++) {
            int64_t before = h.made;
            fga_step_kind kind = stage_call(&t, &s, step, 12, at / 2, at % 2);
            /* a first mask, or one that replaces another of its size */
            assert_true(h.made == before || (kind == FGA_STEP_REFRESH && step == 0));
        }
    }
    stage_close(&t);
    assert_int_equal(h.live, 0);
    scene_free(&s);
}

/* Every allocation fails once: the call says so, leaks nothing, and the same call works afterwards. */
static void running_out_of_memory_is_survived(void **state)
{
    (void)state;
    scene s = scene_make(6, joint, 0.002);
    size_t bytes = (size_t)(s.heads * s.tokens * s.p.head_dim) * sizeof *s.o;
    float *wanted = malloc(bytes);
    stage good = stage_make(&s, hungry, 1, 1, 1);
    stage_open(&good);
    (void)stage_call(&good, &s, 0, 4, 0, 0);
    (void)stage_call(&good, &s, 2, 4, 0, 0);
    memcpy(wanted, s.o, bytes);
    stage_close(&good);
    int64_t made_at = -1, failures[2] = {0};
    for (int64_t fail_at = 0; made_at < 0 || fail_at < made_at + 8; fail_at++) {
        heap h = {.left = -1};
        stage t = stage_make(&s, hungry, 1, 1, 1);
        put_on(&t, &h);
        h.left = fail_at;
        fga_status status = fga_session_create(t.ctx, &t.desc, &t.session);
        if (status != FGA_OK) {
            assert_int_equal(status, FGA_ERR_MEMORY);
            assert_non_null(strstr(fga_last_error(t.ctx), "no memory"));
            assert_null(t.session);
            failures[0]++;
        } else {
            made_at = made_at < 0 ? fail_at : made_at;
            int64_t left = h.left;
            h.left = -1;
            t.workspace = NULL;
            t.workspace_bytes = (fga_session_workspace(t.session) + 63) / 64 * 64;
            void *workspace = aligned_alloc(64, t.workspace_bytes);
            for (int step = 0; step < 4; step += 2) {
                scene_set(&s, step, 0, 0);
                fga_attend_args args = scene_args(&s);
                h.left = left;
                status = fga_session_attend(t.session, step, 4, 0, 0, &args, workspace, NULL);
                left = h.left;
                h.left = -1;
                if (status != FGA_OK) {
                    assert_int_equal(status, FGA_ERR_MEMORY);
                    assert_non_null(strstr(fga_last_error(t.ctx), "no memory"));
                    failures[1]++;
                    assert_int_equal(fga_session_attend(t.session, step, 4, 0, 0, &args, workspace, NULL), FGA_OK);
                    left = -1;
                }
            }
            assert_memory_equal(s.o, wanted, bytes);
            free(workspace);
        }
        stage_close(&t);
        assert_int_equal(h.live, 0);
    }
    assert_true(failures[0] > 10 && failures[1] >= 2);
    free(wanted);
    scene_free(&s);
}

/* ---- telling ---------------------------------------------------------------------------------------------- */

typedef struct listener {
    stage *t;
    scene *s;
    int calls, kinds[3];
    double recall, cost;
} listener;

static void listen(void *user, const fga_measured *m)
{
    listener *l = user;
    const fga_mask *mask = fga_session_mask(l->t->session, m->layer, m->branch);
    double recall[HEADS], error[HEADS], density = 0;
    scene_exact(l->s, mask, recall, error);
    for (int64_t h = 0; h < HEADS; h++) {
        assert_true(fabs((double)m->recall[h] - recall[h]) < 1e-5 && fabs((double)m->error[h] - error[h]) < 1e-5);
        assert_true(m->density[h] == fga_mask_head_density(mask, h));
        l->recall += recall[h] / HEADS;
        density += m->density[h] / HEADS;
    }
    assert_true(fabs(density - fga_mask_density(mask)) < 1e-12 && m->cost > density);
    l->cost += m->cost;
    l->calls++;
    l->kinds[m->kind]++;
}

/* With every query measured, what the callback hears is exact. */
static void measured_calls_are_told(void **state)
{
    (void)state;
    scene s = scene_make(8, joint, 0.002);
    stage t = stage_make(&s, "dfs,block_m=16,tile_n=4,rest=remainder,group=16,phases=1/4:0.3;1/2:0.1", 2, 1, 2);
    listener l = {&t, &s, 0, {0}, 0, 0};
    t.desc.measure_fraction = 1;
    t.desc.on_measure = listen;
    t.desc.user = &l;
    stage_open(&t);
    for (int step = 0; step < 12; step++) {
        (void)stage_call(&t, &s, step, 12, 0, 0);
        (void)stage_call(&t, &s, step, 12, 1, 0);
    }
    fga_session_report r = fga_session_get_report(t.session);
    assert_true(l.calls == 8 && l.kinds[FGA_STEP_REFRESH] == 4 && l.kinds[FGA_STEP_REUSE] == 4);
    assert_true(r.measured_calls == 8 && fabs(r.recall_mean - l.recall / 8) < 1e-5);
    assert_true(l.cost / 8 < 1 && r.sparse_summaries > 0);
    stage_close(&t);
    scene_free(&s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_preset_runs_its_timetable),   cmocka_unit_test(remainders_are_attended_and_counted),
        cmocka_unit_test(overrides_equal_policies),          cmocka_unit_test(masks_are_stored_small),
        cmocka_unit_test(stored_masks_equal_made_ones),      cmocka_unit_test(reuse_allocates_nothing),
        cmocka_unit_test(running_out_of_memory_is_survived), cmocka_unit_test(measured_calls_are_told),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
