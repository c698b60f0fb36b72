/* A policy with overrides: what holds for a layer, a branch and a head, and what is refused. */
#include "attn/settings.h"

#include "naive.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { LAYERS = 6, BRANCHES = 2, BATCH = 2, HEADS = 4 };

typedef struct fixture {
    fga_context *ctx;
    fga_policy policy;
    fga_override overrides[8];
    fga_settings settings;
} fixture;

static void start(fixture *f, const char *policy)
{
    *f = (fixture){.ctx = naive_context(1, NULL)};
    assert_int_equal(fga_policy_parse(f->ctx, policy, &f->policy), FGA_OK);
    f->settings = (fga_settings){f->ctx, &f->policy, f->overrides, 0, LAYERS, BRANCHES, BATCH, HEADS};
}

static void add(fixture *f, int layer_first, int layer_last, int head_first, int head_last, int branch,
                const char *settings)
{
    fga_override *o = &f->overrides[f->settings.count++];
    *o = (fga_override){layer_first, layer_last, head_first, head_last, branch, ""};
    strncpy(o->settings, settings, sizeof o->settings - 1);
}

static fga_head_setting head(const fixture *f, int layer, int branch, int b, int h)
{
    fga_head_setting heads[BATCH * HEADS];
    fga_layer_setting whole;
    double density = 0;
    assert_int_equal(fga_settings_layer(&f->settings, layer, branch, &whole), FGA_OK);
    fga_policy_step(&whole.policy, 20, 50, LAYERS, &density); /* in dfs' first phase */
    assert_int_equal(fga_settings_heads(&f->settings, layer, branch, density, heads), FGA_OK);
    return heads[b * HEADS + h];
}

static void nothing_overridden(void **state)
{
    (void)state;
    fixture f;
    start(&f, "dfs,tau=0.5,threshold=2,neighbours=3,dense_layers=1");
    assert_int_equal(fga_settings_check(&f.settings), FGA_OK);
    for (int h = 0; h < HEADS; h++) {
        fga_head_setting s = head(&f, 2, 1, 1, h);
        assert_true(s.density == 0.3 && s.tau == 0.5 && s.threshold == 2 && s.neighbours == 3 && !s.dense);
    }
    fga_layer_setting whole;
    assert_int_equal(fga_settings_layer(&f.settings, 0, 0, &whole), FGA_OK);
    assert_true(whole.dense && whole.policy.block_m == 128);
    fga_context_destroy(&f.ctx);
}

static void later_overrides_win(void **state)
{
    (void)state;
    fixture f;
    start(&f, "dfs");
    add(&f, 1, 3, 0, INT32_MAX, -1, "density=0.5,tile_n=16");
    add(&f, 2, 2, 0, 3, 1, "sub_q=8,tau=0.7");
    add(&f, 1, INT32_MAX, 1, 2, -1, "density=0.25,tau=0.9");
    add(&f, 3, 3, 2, 2, 0, "density=0.75");
    add(&f, 4, 4, 0, HEADS - 1, -1, "phases=12/50:0.4;24/50:0.3;36/50:0.2"); /* takes the third's density back */
    add(&f, 5, 5, 3, INT32_MAX, 0, "dense=true");
    add(&f, 0, 0, 0, INT32_MAX, 0, "dense=true");
    assert_int_equal(fga_settings_check(&f.settings), FGA_OK);

    fga_layer_setting whole;
    assert_int_equal(fga_settings_layer(&f.settings, 2, 1, &whole), FGA_OK);
    assert_true(whole.policy.tile_n == 16 && whole.policy.sub_q == 8 && whole.policy.tau == 0.7 && !whole.dense);
    assert_int_equal(fga_settings_layer(&f.settings, 2, 0, &whole), FGA_OK);
    assert_true(whole.policy.tile_n == 16 && whole.policy.sub_q == 16 && whole.policy.tau == 0);
    assert_int_equal(fga_settings_layer(&f.settings, 0, 0, &whole), FGA_OK);
    assert_true(whole.dense);
    assert_int_equal(fga_settings_layer(&f.settings, 0, 1, &whole), FGA_OK);
    assert_true(!whole.dense && whole.policy.phase[0].density == 0.3);

    for (int b = 0; b < BATCH; b++) {
        assert_true(head(&f, 0, 1, b, 0).density == 0.3);
        assert_true(head(&f, 0, 0, b, 0).dense && !head(&f, 0, 1, b, 0).dense);
        assert_true(head(&f, 1, 0, b, 0).density == 0.5 && head(&f, 1, 0, b, 1).density == 0.25);
        assert_true(head(&f, 2, 1, b, 0).tau == 0.7 && head(&f, 2, 1, b, 1).tau == 0.9);
        assert_true(head(&f, 3, 0, b, 1).density == 0.25 && head(&f, 3, 0, b, 2).density == 0.75);
        assert_true(head(&f, 3, 1, b, 2).density == 0.25 && head(&f, 3, 1, b, 3).density == 0.5);
        assert_true(head(&f, 4, 0, b, 1).density == 0.4 && head(&f, 4, 0, b, 1).tau == 0.9);
        assert_true(head(&f, 5, 0, b, 3).dense && !head(&f, 5, 0, b, 2).dense && !head(&f, 5, 1, b, 3).dense);
    }
    fga_context_destroy(&f.ctx);
}

static void wrong_ones_are_named(void **state)
{
    (void)state;
    static const struct {
        const char *policy;
        fga_override override;
        const char *error;
    } rows[] = {
        {"dfs",
         {0, 9, 0, INT32_MAX, -1, "density=0.5"},
         "override 1 (layers 0 ... 9, heads 0 ... 2147483647, branch -1): layer_last is 9, wanted 0 ... 5"},
        {"dfs", {6, 6, 0, 0, -1, "density=0.5"}, "layer_first is 6, wanted 0 ... 5"},
        {"dfs", {2, 1, 0, 0, -1, "density=0.5"}, "layer_last is 1, wanted 2 ... 2147483647"},
        {"dfs", {0, 1, 4, 4, -1, "density=0.5"}, "head_first is 4, wanted 0 ... 3"},
        {"dfs", {0, 1, 2, 7, -1, "density=0.5"}, "head_last is 7, wanted 2 ... 3"},
        {"dfs", {0, 1, 0, 3, 2, "density=0.5"}, "branch is 2, wanted -1 ... 1"},
        {"dfs,share_branches=true",
         {0, 1, 0, 3, 1, "density=0.5"},
         "branch is 1, wanted -1 or 0: branches share their masks"},
        {"dfs", {0, 1, 0, 3, -1, "order=raster"}, "order is set, which is the whole session's alone"},
        {"dfs", {0, 1, 0, 3, -1, "dense_layers=1"}, "dense_layers is set, which is the whole session's alone"},
        {"dfs", {0, 1, 0, 3, -1, "phases=1/5:0.5"}, "phases start at other times than the session's"},
        {"dfs",
         {0, 1, 0, 2, -1, "tile_n=1"},
         "tile_n is set for some heads, wanted density, tau, threshold, neighbours or dense=true: the rest is the "
         "whole "
         "layer's"},
        {"dfs", {0, 1, 0, 2, -1, "density=2"}, "density is 2, wanted above 0 and at most 1 (the kept fraction)"},
        {"dfs", {0, 1, 0, 3, -1, "block_m=17"}, "block_m is 17, wanted 16, 32, 64, 128 or 192"},
        {"dfs", {0, 1, 0, 3, -1, "dense=yes"}, "dense is \"yes\", wanted false or true"},
        {"dfs", {0, 1, 0, 3, -1, ""}, "\"\" in a policy, wanted key=value"},
        {"dfs", {0, 1, 0, 3, -1, "colour=red"}, "a policy has no key \"colour\""},
        {"dense", {0, 1, 0, 2, -1, "density=0.5"}, "preset dense has no sparse phase to give a density to"},
        {"dfs,tile_n=64",
         {0, 1, 0, 2, -1, "neighbours=1"},
         "neighbours is 1 but block_m is 128 and tile_n 64, wanted blocks and tiles of one size"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        fixture f;
        start(&f, rows[i].policy);
        add(&f, 0, 0, 0, INT32_MAX, -1, "dense=true"); /* a good one first */
        f.overrides[f.settings.count++] = rows[i].override;
        assert_int_equal(fga_settings_check(&f.settings), FGA_ERR_ARGUMENT);
        assert_non_null(strstr(fga_last_error(f.ctx), rows[i].error));
        assert_non_null(strstr(fga_last_error(f.ctx), "override 1 "));
        fga_context_destroy(&f.ctx);
    }
    fixture f;
    start(&f, "dfs");
    add(&f, 0, 0, 0, 0, -1, "");
    memset(f.overrides[0].settings, 'x', sizeof f.overrides[0].settings);
    assert_int_equal(fga_settings_check(&f.settings), FGA_ERR_ARGUMENT);
    assert_non_null(strstr(fga_last_error(f.ctx), "settings do not end within 108 bytes"));
    f.settings.overrides = NULL;
    assert_int_equal(fga_settings_check(&f.settings), FGA_ERR_ARGUMENT);
    assert_string_equal(fga_last_error(f.ctx), "override_count is 1 but overrides is NULL");
    fga_context_destroy(&f.ctx);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(nothing_overridden),
        cmocka_unit_test(later_overrides_win),
        cmocka_unit_test(wrong_ones_are_named),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
