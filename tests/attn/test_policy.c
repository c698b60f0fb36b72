/* Policies: presets, their text, and the timetable. */
#include "naive.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static fga_policy parse(const char *text)
{
    fga_policy policy;
    assert_int_equal(fga_policy_parse(NULL, text, &policy), FGA_OK);
    return policy;
}

static void presets_are_what_they_say(void **state)
{
    (void)state;
    assert_int_equal(fga_preset_count(), 2);
    assert_string_equal(fga_preset_name(0), "dense");
    assert_string_equal(fga_preset_name(1), "dfs");
    assert_null(fga_preset_name(2));
    assert_null(fga_preset_name(-1));
    for (int i = 0; i < fga_preset_count(); i++) {
        assert_true(strlen(fga_preset_summary(i)) > 20);
    }
    fga_policy dfs = parse("dfs"), dense = parse("dense");
    assert_int_equal(dense.phases, 0);
    assert_int_equal(dense.order, FGA_ORDER_RASTER);
    assert_int_equal(dfs.order, FGA_ORDER_HILBERT);
    assert_true(dfs.block_m == 128 && dfs.tile_n == 128 && dfs.sub_q == 16 && dfs.sub_k == 16);
    assert_true(dfs.score == FGA_SCORE_MASS && dfs.select == FGA_SELECT_TOPK);
    assert_true(dfs.phases == 3 && dfs.refresh_every == 0 && dfs.dense_layers == 0 && !dfs.share_branches);
    const fga_phase wanted[3] = {{12, 50, 0.3}, {24, 50, 0.2}, {36, 50, 0.1}};
    for (int i = 0; i < 3; i++) {
        assert_true(dfs.phase[i].numerator == wanted[i].numerator && dfs.phase[i].denominator == 50 &&
                    dfs.phase[i].density == wanted[i].density);
    }
}

static void text_round_trips(void **state)
{
    (void)state;
    static const struct {
        const char *text, *canonical;
    } rows[] = {
        {"dense", "dense"},
        {"dfs", "dfs"},
        {"dfs,block_m=128", "dfs"},
        {"dfs,density=0.20", "dfs,phases=12/50:0.2;24/50:0.2;36/50:0.2"},
        {"dfs,density=1", "dfs,phases=12/50:1;24/50:1;36/50:1"},
        {"dfs,dense_layers=2,tile_n=1", "dfs,tile_n=1,dense_layers=2"},
        {"dfs,phases=0/1:0.12345678901234", "dfs,phases=0/1:0.12345678901234"},
        {"dfs,phases=0/1:.5,share_branches=true,refresh_every=3,order=raster",
         "dfs,order=raster,refresh_every=3,share_branches=true,phases=0/1:0.5"},
        {"dense,phases=1/2:0.5,score=mass,select=topk", "dense,score=mass,select=topk,phases=1/2:0.5"},
        {"dfs,phases=", "dfs,phases="},
        {"dfs,select=all,score=none", "dfs,score=none,select=all"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        char text[FGA_POLICY_TEXT], again[FGA_POLICY_TEXT];
        fga_policy policy = parse(rows[i].text), second;
        assert_int_equal(fga_policy_format(NULL, &policy, text, sizeof text), FGA_OK);
        assert_string_equal(text, rows[i].canonical);
        second = parse(text);
        assert_memory_equal(&policy.phase, &second.phase, sizeof policy.phase[0] * (size_t)policy.phases);
        assert_int_equal(fga_policy_format(NULL, &second, again, sizeof again), FGA_OK);
        assert_string_equal(text, again);
        assert_int_equal(fga_policy_format(NULL, &policy, text, strlen(again)), FGA_ERR_ARGUMENT);
        assert_int_equal(fga_policy_format(NULL, &policy, text, strlen(again) + 1), FGA_OK);
    }
}

static void the_longest_text_fits(void **state)
{
    (void)state;
    fga_policy policy = parse("dfs,order=raster,block_m=192,tile_n=64,sub_q=192,sub_k=192,select=all,"
                              "refresh_every=100000,dense_layers=100000,share_branches=true,score=none");
    policy.phases = FGA_MAX_PHASES;
    for (int i = 0; i < FGA_MAX_PHASES; i++) {
        policy.phase[i] = (fga_phase){99984 + i, 100000, 1. / 3};
    }
    char text[FGA_POLICY_TEXT];
    assert_int_equal(fga_policy_format(NULL, &policy, text, sizeof text), FGA_OK);
    fga_policy again = parse(text);
    assert_int_equal(again.phases, FGA_MAX_PHASES);
    assert_true(again.phase[15].density > 1. / 3 - 1e-14 && again.phase[15].density < 1. / 3 + 1e-14);
}

static void every_short_decimal_round_trips(void **state)
{
    (void)state;
    for (int i = 1; i <= 100000; i += 7) {
        char text[64], out[FGA_POLICY_TEXT], number[16];
        snprintf(number, sizeof number, "%.5f", i / 1e5);
        snprintf(text, sizeof text, "dfs,phases=1/3:%s", number);
        fga_policy policy = parse(text);
        assert_true(policy.phase[0].density == strtod(number, NULL));
        assert_int_equal(fga_policy_format(NULL, &policy, out, sizeof out), FGA_OK);
        fga_policy again = parse(out);
        assert_true(again.phase[0].density == policy.phase[0].density);
        assert_true(strlen(out) <= strlen(text));
    }
}

static void bad_text_is_named(void **state)
{
    (void)state;
    fga_context *ctx = naive_context(1, NULL);
    static const struct {
        const char *text, *error;
    } rows[] = {
        {"", "there is no preset \"\"; presets are dense, dfs"},
        {"dfz", "there is no preset \"dfz\"; presets are dense, dfs"},
        {"dfs,", "\"\" in a policy, wanted key=value"},
        {"dfs,,density=1", "\"\" in a policy, wanted key=value"},
        {"dfs,density", "\"density\" in a policy, wanted key=value"},
        {"dfs,colour=red",
         "a policy has no key \"colour\"; keys are order, block_m, tile_n, sub_q, sub_k, score, select, "
         "refresh_every, dense_layers, share_branches, density, phases"},
        {"dfs,density=0", "density is 0, wanted above 0 and at most 1 (the kept fraction)"},
        {"dfs,density=1.5", "density is 1.5, wanted above 0 and at most 1 (the kept fraction)"},
        {"dfs,density=-0.5", "density is \"-0.5\", wanted a decimal above 0 and at most 1"},
        {"dfs,density=nan", "density is \"nan\", wanted a decimal above 0 and at most 1"},
        {"dfs,density=", "density is \"\", wanted a decimal above 0 and at most 1"},
        {"dfs,density=1e-1", "density is \"1e-1\", wanted a decimal above 0 and at most 1"},
        {"dense,density=0.5", "preset dense has no sparse phase to give a density to"},
        {"dfs,order=zigzag", "order is \"zigzag\", wanted raster or hilbert"},
        {"dfs,block_m=100", "block_m is 100, wanted 16, 32, 64, 128 or 192"},
        {"dfs,block_m=99999999999", "block_m is \"99999999999\", wanted a whole number"},
        {"dfs,tile_n=256", "tile_n is 256, wanted 1, 2, 4, 8, 16, 32, 64 or 128"},
        {"dfs,phases=1/2", "phases is \"1/2\", wanted numerator/denominator:density, several joined by \";\""},
        {"dfs,phases=3/2:0.5", "a phase's numerator is 3, wanted 0 ... 2"},
        {"dfs,phases=1/0:0.5", "a phase's denominator is 0, wanted 1 ... 100000"},
        {"dfs,phases=1/2:0.5;1/3:0.5", "phase 1/3 comes before phase 1/2, wanted rising phases"},
        {"dfs,score=none", "select is topk but score is none, wanted score=mass"},
        {"dfs,share_branches=yes", "share_branches is \"yes\", wanted false or true"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        fga_policy policy = {.block_m = 1234};
        assert_int_equal(fga_policy_parse(ctx, rows[i].text, &policy), FGA_ERR_ARGUMENT);
        assert_string_equal(fga_last_error(ctx), rows[i].error);
        assert_int_equal(policy.block_m, 1234); /* untouched */
    }
    fga_context_destroy(&ctx);
}

static void any_text_is_survived(void **state)
{
    (void)state;
    static const char alphabet[] = "dfsenity,=/:;.0123456789_mkabchqulrt\xff";
    naive_random random = {31};
    for (int round = 0; round < 20000; round++) {
        char text[64] = "dfs,phases=";
        int64_t length = naive_between(&random, 0, 50), from = round % 2 == 0 ? 0 : 11;
        for (int64_t i = from; i < from + length; i++) {
            text[i] = alphabet[naive_between(&random, 0, (int64_t)sizeof alphabet - 2)];
        }
        fga_policy policy;
        fga_status status = fga_policy_parse(NULL, text, &policy);
        char out[FGA_POLICY_TEXT];
        assert_true(status != FGA_OK || fga_policy_format(NULL, &policy, out, sizeof out) == FGA_OK);
    }
}

static void timetables_equal_the_naive_one(void **state)
{
    (void)state;
    static const int runs[] = {1, 2, 3, 4, 5, 8, 16, 20, 30, 49, 50, 51, 100};
    naive_random random = {32};
    for (int round = 0; round < 300; round++) {
        fga_policy policy = parse("dfs");
        int n = 0;
        policy.phases = (int)naive_between(&random, 0, 6);
        for (int i = 0; i < policy.phases; i++) {
            n = (int)naive_between(&random, n, 60) % 60 > n ? (int)naive_between(&random, n, 60) : n;
            policy.phase[i] = (fga_phase){n, 60, 0.1 * (i + 1)};
        }
        policy.refresh_every = (int)naive_between(&random, 0, 1) * (int)naive_between(&random, 1, 5);
        policy.dense_layers = (int)naive_between(&random, 0, 2);
        int steps = runs[naive_between(&random, 0, 12)];
        for (int step = 0; step < steps; step++) {
            for (int layer = 0; layer < 3; layer++) {
                double got = -1, wanted = -1;
                fga_step_kind kind = naive_step(&policy, step, steps, layer, &wanted);
                assert_int_equal(fga_policy_step(&policy, step, steps, layer, &got), kind);
                assert_true(got == wanted);
                assert_int_equal(fga_policy_step(&policy, step, steps, layer, NULL), kind);
            }
        }
    }
}

/* ceil(12*n/50), ceil(24*n/50), ceil(36*n/50), by hand. */
static void dfs_at_the_usual_step_counts(void **state)
{
    (void)state;
    static const struct {
        int steps, refresh[3];
    } rows[] = {{4, {1, 2, 3}}, {20, {5, 10, 15}}, {30, {8, 15, 22}}, {50, {12, 24, 36}}};
    fga_policy dfs = parse("dfs");
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        int phase = -1;
        for (int step = 0; step < rows[i].steps; step++) {
            double density = 0;
            bool starts = phase < 2 && step == rows[i].refresh[phase + 1];
            phase += starts;
            fga_step_kind wanted = phase < 0 ? FGA_STEP_DENSE : starts ? FGA_STEP_REFRESH : FGA_STEP_REUSE;
            assert_int_equal(fga_policy_step(&dfs, step, rows[i].steps, 0, &density), wanted);
            assert_true(phase < 0 || density == dfs.phase[phase].density);
        }
        assert_int_equal(phase, 2);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(presets_are_what_they_say),
        cmocka_unit_test(text_round_trips),
        cmocka_unit_test(the_longest_text_fits),
        cmocka_unit_test(every_short_decimal_round_trips),
        cmocka_unit_test(bad_text_is_named),
        cmocka_unit_test(any_text_is_survived),
        cmocka_unit_test(timetables_equal_the_naive_one),
        cmocka_unit_test(dfs_at_the_usual_step_counts),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
