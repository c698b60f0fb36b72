/* A policy whose scores come from the caller: rows are told apart, and selection is still the library's. */
#include "fgattn.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { HEADS = 2, TOKENS = 40 + 16 * 20, DIM = 8, TEXT = 40, BLOCK = 16, TILE = 8, STEPS = 10 };

/* Distinct for every (step, layer, branch, head, block, tile). */
static float score_of(const fga_score_row *row, int64_t v)
{
    int64_t n = row->step * 7 + row->layer * 11 + row->branch * 13 + row->head * 17 + row->block * 19;
    return (float)((n + v * 23) % 101) + (float)v * 1e-3f;
}

static void fill(void *user, const fga_score_row *row, float *scores)
{
    assert_string_equal(user, "user");
    for (int64_t v = 0; v < row->tiles; v++) {
        scores[v] = score_of(row, v);
    }
}

static fga_session_desc describe(fga_context *ctx)
{
    fga_session_desc d = fga_session_desc_default();
    assert_int_equal(fga_policy_parse(ctx, "dfs,block_m=16,tile_n=8,sub_q=8,sub_k=8,density=0.3", &d.policy), FGA_OK);
    d.policy.score = FGA_SCORE_CUSTOM;
    d.policy.custom = fill;
    d.policy.custom_user = "user";
    d.layers = d.branches = 2;
    d.query_heads = d.kv_heads = HEADS;
    d.head_dim = DIM;
    d.sequence =
        (fga_sequence){.prefix = TEXT, .prefix_valid = 33, .video = TOKENS - TEXT, .video_valid = TOKENS - TEXT};
    return d;
}

static void masks_hold_the_best_scores(void **state)
{
    (void)state;
    fga_context *ctx;
    fga_session *session;
    assert_int_equal(fga_context_create(NULL, &ctx), FGA_OK);
    fga_session_desc d = describe(ctx);
    assert_int_equal(fga_session_create(ctx, &d, &session), FGA_OK);
    size_t count = (size_t)HEADS * TOKENS * DIM;
    float *x = calloc(count, sizeof *x), *o = calloc(count, sizeof *o);
    void *workspace = aligned_alloc(64, (fga_session_workspace(session) + 63) / 64 * 64);
    fga_attend_args a = fga_attend_args_default();
    a.q = a.k = a.v = fga_tensor_bhsd(x, FGA_F32, 1, HEADS, TOKENS, DIM);
    a.o = fga_tensor_bhsd(o, FGA_F32, 1, HEADS, TOKENS, DIM);

    const int step = 3; /* the first sparse step of 10 */
    for (int layer = 0; layer < 2; layer++) {
        for (int branch = 0; branch < 2; branch++) {
            fga_step_kind kind;
            assert_int_equal(fga_session_attend(session, step, STEPS, layer, branch, &a, workspace, &kind), FGA_OK);
            assert_int_equal(kind, FGA_STEP_REFRESH);
            const fga_mask *mask = fga_session_mask(session, layer, branch);
            int64_t tiles = fga_mask_tiles(mask), text_tiles = 5, keep = 14; /* 45 tiles: 0.3 * 45 + 0.5 */
            assert_int_equal(tiles, 45);
            for (int64_t h = 0; h < HEADS; h++) {
                for (int64_t u = 3; u < fga_mask_blocks(mask); u++) { /* blocks 0 to 2 hold text and are dense */
                    fga_score_row row = {step, layer, branch, 0, h, u, tiles};
                    for (int64_t v = 0; v < tiles; v++) {
                        int64_t better = 0;
                        for (int64_t w = text_tiles; w < tiles; w++) {
                            better += score_of(&row, w) > score_of(&row, v);
                        }
                        bool wanted = v < text_tiles || better < keep - text_tiles;
                        assert_int_equal(fga_mask_keeps(mask, 0, h, u, v), wanted);
                    }
                }
            }
        }
    }
    free(workspace);
    free(x);
    free(o);
    fga_session_destroy(&session);
    fga_context_destroy(&ctx);
}

static void custom_needs_a_function(void **state)
{
    (void)state;
    fga_context *ctx;
    fga_session *session;
    assert_int_equal(fga_context_create(NULL, &ctx), FGA_OK);
    fga_session_desc d = describe(ctx);
    d.policy.custom = NULL;
    assert_int_equal(fga_session_create(ctx, &d, &session), FGA_ERR_ARGUMENT);
    assert_non_null(strstr(fga_last_error(ctx), "custom"));
    assert_int_equal(fga_policy_parse(ctx, "dfs,score=custom", &d.policy), FGA_ERR_ARGUMENT);
    fga_context_destroy(&ctx);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(masks_hold_the_best_scores),
        cmocka_unit_test(custom_needs_a_function),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
