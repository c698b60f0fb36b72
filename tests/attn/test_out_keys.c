/* Keys with bias -inf are as if they were not there, to selections too: a tile of nothing else is never kept and takes
 * no other tile's place. */
#include "scene.h"

#include "attn/mask.h"
#include "attn/select.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { HEADS = 4, KV = 2 };

static const fga_sequence joint = {
    .prefix = 9, .prefix_valid = 5, .video = 150, .video_valid = 147, .suffix = 21, .suffix_valid = 8};

/* [KV][tokens]; a quarter of the keys out, in stretches, others of either head. */
static float *make_bias(const scene *s, float out)
{
    float *bias = calloc((size_t)(KV * s->tokens), sizeof *bias);
    for (int64_t i = 0; i < KV * s->tokens; i++) {
        int64_t j = i % s->tokens;
        bias[i] = (j / 11 + 2 * (i / s->tokens)) % 4 == 0 ? out : 0.25f * (float)(j % 3);
    }
    return bias;
}

static fga_step_kind call(stage *t, scene *s, const float *bias)
{
    fga_step_kind kind;
    scene_set(s, 0, 0, 0);
    fga_attend_args args = scene_args(s);
    args.key_bias = bias;
    args.bias_head_stride = s->tokens;
    if (fga_session_attend(t->session, 0, 1, 0, 0, &args, t->workspace, &kind) != FGA_OK) {
        fail_msg("%s", fga_last_error(t->ctx));
    }
    return kind;
}

static bool is_out(const scene *s, const float *bias, const fga_mask *mask, int64_t h, int64_t v)
{
    int64_t n = fga_mask_describe(mask).tile_n;
    bool valid = false, in = false;
    for (int64_t j = v * n; j < (v + 1) * n && j < s->tokens; j++) {
        bool here = naive_is_valid(&s->p.key, j);
        valid = valid || here;
        in = in || (here && bias[h / (HEADS / KV) * s->tokens + j] != -INFINITY);
    }
    return valid && !in;
}

static const char *const policies[] = {
    "dfs,block_m=16,tile_n=1,sub_k=1,phases=0/1:0.3",
    "dfs,block_m=16,tile_n=4,phases=0/1:0.3",
    "fgdfs,block_m=32,group=16,phases=0/1:0.2",
    "dfs,block_m=16,tile_n=2,select=budget,phases=0/1:0.3",
    "dfs,block_m=16,tile_n=2,select=budget,score=max,phases=0/1:0.3",
    "fg-cdf,block_m=16,tile_n=2",
    "fg-cached,block_m=16",
    "sol,block_m=16,tile_n=4,neighbours=0,dense_layers=0,phases=0/1",
    "dfs,block_m=16,tile_n=4,select=all,score=none,phases=0/1",
};
enum { POLICIES = sizeof policies / sizeof policies[0] };

static void are_never_kept(void **state)
{
    (void)state;
    for (int i = 0; i < POLICIES; i++) {
        scene s = scene_make((uint64_t)i + 40, i % 2 == 0 ? joint : fga_sequence_video(190), 0.01);
        stage t = stage_make(&s, policies[i], 1, 1, 1 + i % 3);
        assert_true(t.desc.query_heads == HEADS && t.desc.kv_heads == KV);
        float *bias = make_bias(&s, -INFINITY);
        stage_open(&t);
        assert_int_equal(call(&t, &s, bias), FGA_STEP_REFRESH);
        const fga_mask *mask = fga_session_mask(t.session, 0, 0);
        int64_t out = 0, kept = 0;
        for (int64_t h = 0; h < HEADS; h++) {
            for (int64_t u = 0; u < fga_mask_blocks(mask); u++) {
                for (int64_t v = 0; v < fga_mask_tiles(mask); v++) {
                    bool gone = is_out(&s, bias, mask, h, v), keeps = fga_mask_keeps(mask, 0, h, u, v);
                    assert_false(gone && keeps);
                    out += gone;
                    kept += keeps;
                }
            }
        }
        assert_true(out > 0 && kept > 0);
        stage_close(&t);
        free(bias);
        scene_free(&s);
    }
}

/* K is a share of the tiles that are left, and all K of them are kept. */
static void take_no_place_of_others(void **state)
{
    (void)state;
    scene s = scene_make(51, fga_sequence_video(190), 0.01);
    stage t = stage_make(&s, "dfs,block_m=16,tile_n=1,sub_k=1,phases=0/1:0.3", 1, 1, 2);
    float *bias = make_bias(&s, -INFINITY);
    stage_open(&t);
    call(&t, &s, bias);
    const fga_mask *mask = fga_session_mask(t.session, 0, 0);
    for (int64_t h = 0; h < HEADS; h++) {
        int64_t left = 0;
        for (int64_t v = 0; v < fga_mask_tiles(mask); v++) {
            left += !is_out(&s, bias, mask, h, v);
        }
        for (int64_t u = 0; u < fga_mask_blocks(mask); u++) {
            int64_t kept = 0;
            for (int64_t v = 0; v < fga_mask_tiles(mask); v++) {
                kept += fga_mask_keeps(mask, 0, h, u, v);
            }
            assert_int_equal(kept, fga_round_count(0.3 * (double)left));
        }
    }
    fga_session_report r = fga_session_get_report(t.session);
    assert_true(fabs(r.sparse_kept / r.sparse_total - 0.3) < 0.01);
    stage_close(&t);
    free(bias);
    scene_free(&s);
}

/* A bias that puts nothing out changes no mask. */
static void finite_biases_change_nothing(void **state)
{
    (void)state;
    for (int i = 0; i < POLICIES; i++) {
        scene s = scene_make((uint64_t)i + 60, joint, 0.01);
        stage with = stage_make(&s, policies[i], 1, 1, 2), without = stage_make(&s, policies[i], 1, 1, 2);
        float *bias = make_bias(&s, -3.0f);
        stage_open(&with);
        stage_open(&without);
        call(&with, &s, bias);
        call(&without, &s, NULL);
        assert_true(same_mask(fga_session_mask(with.session, 0, 0), fga_session_mask(without.session, 0, 0)));
        stage_close(&with);
        stage_close(&without);
        free(bias);
        scene_free(&s);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(are_never_kept),
        cmocka_unit_test(take_no_place_of_others),
        cmocka_unit_test(finite_biases_change_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
