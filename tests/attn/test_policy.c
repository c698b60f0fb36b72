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

/* The table of docs/method.md, and nothing else: what a row does not name has its default. */
static void presets_are_what_they_say(void **state)
{
    (void)state;
    enum { DFS, ALWAYS, FROM_10, CACHED };
    static const struct {
        const char *name;
        fga_order order;
        int m, n, sub_q, sub_k;
        fga_score score;
        fga_select select;
        int timetable;
    } rows[] = {
        {"fgdfs", FGA_ORDER_HILBERT_CLIPPED, 16, 1, 4, 1, FGA_SCORE_MASS, FGA_SELECT_BUDGET, DFS},
        {"dfs", FGA_ORDER_HILBERT, 128, 128, 16, 16, FGA_SCORE_MASS, FGA_SELECT_TOPK, DFS},
        {"dfs-paper", FGA_ORDER_HILBERT_CLIPPED, 128, 128, 16, 16, FGA_SCORE_MASS, FGA_SELECT_TOPK, DFS},
        {"fg-cached", FGA_ORDER_RASTER, 128, 1, 16, 1, FGA_SCORE_EXACT_MAX, FGA_SELECT_THRESHOLD, CACHED},
        {"fg-cdf", FGA_ORDER_RASTER, 128, 1, 192, 128, FGA_SCORE_MASS, FGA_SELECT_TOPP, ALWAYS},
        {"subblock", FGA_ORDER_RASTER, 64, 64, 16, 16, FGA_SCORE_LSE, FGA_SELECT_TOPK, FROM_10},
        {"sol", FGA_ORDER_RASTER, 64, 64, 192, 128, FGA_SCORE_MEAN, FGA_SELECT_ADAPTIVE, FROM_10},
        {"block-topk", FGA_ORDER_RASTER, 64, 64, 192, 128, FGA_SCORE_MEAN, FGA_SELECT_TOPK, DFS},
        {"sta", FGA_ORDER_BOXES, 64, 64, 16, 16, FGA_SCORE_NONE, FGA_SELECT_WINDOW, ALWAYS},
        {"radial", FGA_ORDER_RASTER, 128, 128, 16, 16, FGA_SCORE_NONE, FGA_SELECT_RADIAL, ALWAYS},
        {"svg", FGA_ORDER_RASTER, 128, 128, 16, 16, FGA_SCORE_NONE, FGA_SELECT_FRAMES, DFS},
    };
    static const fga_phase dfs[3] = {{12, 50, 0.3}, {24, 50, 0.2}, {36, 50, 0.1}};
    static const int cached[6] = {0, 15, 30, 45, 60, 80}; /* of 100 */
    int count = sizeof rows / sizeof rows[0];
    assert_int_equal(fga_preset_count(), count + 1);
    assert_string_equal(fga_preset_name(0), "dense");
    assert_null(fga_preset_name(count + 1));
    assert_null(fga_preset_name(-1));
    assert_null(fga_preset_summary(count + 1));
    assert_int_equal(parse("dense").phases, 0);
    assert_int_equal(parse("dense").order, FGA_ORDER_RASTER);
    for (int i = 0; i < count; i++) {
        fga_policy p = parse(rows[i].name);
        bool is_sol = strcmp(rows[i].name, "sol") == 0, is_cdf = strcmp(rows[i].name, "fg-cdf") == 0;
        assert_string_equal(fga_preset_name(i + 1), rows[i].name);
        assert_string_equal(p.name, rows[i].name);
        assert_true(strlen(fga_preset_summary(i + 1)) > 20);
        assert_true(p.order == rows[i].order && p.block_m == rows[i].m && p.tile_n == rows[i].n);
        assert_true(p.sub_q == rows[i].sub_q && p.sub_k == rows[i].sub_k && p.group == 64);
        assert_true(p.score == rows[i].score && p.select == rows[i].select);
        assert_int_equal(p.rest, is_sol || i == 0 ? FGA_REST_REMAINDER : FGA_REST_DROP);
        assert_true(p.tau == (is_sol ? 1 : is_cdf ? 0.9 : 0));
        assert_true(p.gate_q == (is_cdf ? 0.6 : 0) && p.gate_k == p.gate_q);
        assert_true(p.threshold == (rows[i].select == FGA_SELECT_THRESHOLD ? 0.5 : 0));
        assert_true(p.neighbours == (is_sol ? 2 : 0) && p.dense_layers == (is_sol ? 2 : 0) && !p.full_covariance);
        assert_int_equal(p.refresh_every, is_sol || is_cdf || strcmp(rows[i].name, "subblock") == 0 ? 1 : 0);
        assert_true(!p.share_branches && p.zero_pad == (strcmp(rows[i].name, "dfs-paper") == 0));
        assert_true(p.target_recall == 0 && p.recall_floor == 0 && p.target_error == 0 && p.refresh_drop == 0);
        for (int axis = 0; axis < 3; axis++) {
            assert_int_equal(p.window[axis], rows[i].select == FGA_SELECT_WINDOW ? 3 : 0);
        }
        assert_true(p.width == (rows[i].select == FGA_SELECT_RADIAL ? 1 : 0));
        switch (rows[i].timetable) {
        case DFS:
            assert_int_equal(p.phases, 3);
            assert_memory_equal(p.phase, dfs, sizeof dfs);
            break;
        case CACHED:
            assert_int_equal(p.phases, 6);
            for (int k = 0; k < 6; k++) {
                assert_true(p.phase[k].numerator * 100 == cached[k] * p.phase[k].denominator);
            }
            break;
        default:
            assert_int_equal(p.phases, 1);
            assert_int_equal(p.phase[0].numerator * 50, rows[i].timetable == ALWAYS ? 0 : 10 * p.phase[0].denominator);
            assert_true(p.phase[0].density == (strcmp(rows[i].name, "subblock") == 0 ? 0.25 : 0));
        }
        char text[FGA_POLICY_TEXT];
        assert_int_equal(fga_policy_format(NULL, &p, text, sizeof text), FGA_OK);
        assert_string_equal(text, rows[i].name);
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
        {"dfs,refresh=8", "dfs,refresh_every=8"},
        {"dfs,score=mean,select=adaptive,tau=-0.5,full_covariance=true,phases=10/50",
         "dfs,score=mean,select=adaptive,tau=-0.5,full_covariance=true,phases=10/50"},
        {"dfs,select=threshold,threshold=0.5,phases=0/1;3/20:0.5",
         "dfs,select=threshold,threshold=0.5,phases=0/1;3/20:0.5"},
        {"dfs,order=hilbert_clipped,rest=remainder,group=32,zero_pad=true,neighbours=2",
         "dfs,order=hilbert_clipped,rest=remainder,group=32,neighbours=2,zero_pad=true"},
        {"dfs,order=boxes,score=none,select=window,window=3x5x7,phases=0/1",
         "dfs,order=boxes,score=none,select=window,window=3x5x7,phases=0/1"},
        {"dfs,score=none,select=radial,width=1.25,target_recall=0.97,recall_floor=0.9,target_error=0.05,"
         "refresh_drop=0.02,gate_q=0.6,gate_k=0.05",
         "dfs,score=none,select=radial,gate_q=0.6,gate_k=0.05,width=1.25,target_recall=0.97,recall_floor=0.9,"
         "target_error=0.05,refresh_drop=0.02"},
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
    static const char third[] = "0.33333333333333";
    char longest[FGA_POLICY_TEXT];
    snprintf(longest, sizeof longest,
             "dfs,order=hilbert_clipped,block_m=128,tile_n=128,sub_q=192,sub_k=192,score=second_order,select=threshold,"
             "rest=remainder,group=256,tau=-999.123456789012,threshold=999999.123456789,gate_q=%s,gate_k=%s,"
             "full_covariance=true,neighbours=100000,window=100000x100000x100000,width=999.123456789012,zero_pad=true,"
             "refresh_every=100000,dense_layers=100000,share_branches=true,target_recall=%s,recall_floor=%s,"
             "target_error=%s,refresh_drop=%s",
             third, third, third, third, third, third);
    fga_policy policy = parse(longest);
    policy.phases = FGA_MAX_PHASES;
    for (int i = 0; i < FGA_MAX_PHASES; i++) {
        policy.phase[i] = (fga_phase){99984 + i, 100000, 1. / 3};
    }
    char text[FGA_POLICY_TEXT];
    assert_int_equal(fga_policy_format(NULL, &policy, text, sizeof text), FGA_OK);
    fga_policy again = parse(text);
    assert_int_equal(again.phases, FGA_MAX_PHASES);
    assert_true(again.phase[15].density > 1. / 3 - 1e-14 && again.phase[15].density < 1. / 3 + 1e-14);
    assert_true(again.tau == -999.123456789012 && again.threshold == 999999.123456789);
    assert_true(again.gate_k == 0.33333333333333 && again.window[2] == 100000 && again.zero_pad);
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
        {"", "there is no preset \"\"; presets are dense, fgdfs, dfs, dfs-paper, fg-cached, fg-cdf, "
             "subblock, sol, block-topk, sta, radial, svg"},
        {"dfz", "there is no preset \"dfz\"; presets are dense, fgdfs, dfs, dfs-paper, fg-cached, fg-cdf, "
                "subblock, sol, block-topk, sta, radial, svg"},
        {"dfs,", "\"\" in a policy, wanted key=value"},
        {"dfs,,density=1", "\"\" in a policy, wanted key=value"},
        {"dfs,density", "\"density\" in a policy, wanted key=value"},
        {"dfs,colour=red",
         "a policy has no key \"colour\"; keys are order, block_m, tile_n, sub_q, sub_k, score, select, "
         "rest, group, tau, threshold, gate_q, gate_k, full_covariance, neighbours, window, width, zero_pad, "
         "refresh_every, dense_layers, share_branches, target_recall, recall_floor, target_error, refresh_drop, "
         "density, phases"},
        {"dfs,density=0", "density is 0, wanted above 0 and at most 1 (the kept fraction)"},
        {"dfs,density=1.5", "density is 1.5, wanted above 0 and at most 1 (the kept fraction)"},
        {"dfs,density=-0.5", "density is -0.5, wanted above 0 and at most 1 (the kept fraction)"},
        {"dfs,density=nan", "density is \"nan\", wanted a decimal above 0 and at most 1"},
        {"dfs,density=", "density is \"\", wanted a decimal above 0 and at most 1"},
        {"dfs,density=1e-1", "density is \"1e-1\", wanted a decimal above 0 and at most 1"},
        {"dense,density=0.5", "preset dense has no sparse phase to give a density to"},
        {"dfs,order=zigzag", "order is \"zigzag\", wanted raster, hilbert, hilbert_clipped, morton or boxes"},
        {"dfs,block_m=100", "block_m is 100, wanted 16, 32, 64, 128 or 192"},
        {"dfs,block_m=200", "block_m is 200, wanted 16 ... 192"},
        {"dfs,block_m=99999999999", "block_m is \"99999999999\", wanted a whole number"},
        {"dfs,tile_n=256", "tile_n is 256, wanted 1 ... 128"},
        {"dfs,phases=1/2", "phase 1/2 has no density, by which select=topk goes"},
        {"dfs,phases=1/2:", "phases is \"1/2:\", wanted numerator/denominator:density, several joined by \";\""},
        {"dfs,phases=1/2:0", "phases is \"1/2:0\", wanted numerator/denominator:density, several joined by \";\""},
        {"dfs,phases=2:0.5", "phases is \"2:0.5\", wanted numerator/denominator:density, several joined by \";\""},
        {"dfs,select=topp,tau=0.9,density=0.2", "density is given but select is topp, which does not go by it"},
        {"dfs,select=topp", "select is topp but tau is not above 0, wanted the mass to keep"},
        {"dfs,select=adaptive", "select is adaptive but score is not mean, wanted score=mean"},
        {"dfs,select=budget,score=lse", "select is budget but score is lse, wanted a score whose rows can be compared"},
        {"dfs,select=window", "window is 0, wanted 1 ... 100000"},
        {"dfs,select=radial", "select is radial but width is 0, wanted a width above 0"},
        {"dfs,select=custom", "select is custom but there is no function, which text cannot name, wanted custom_keep"},
        {"dfs,score=custom", "score is custom but there is no function, which text cannot name"},
        {"dfs,window=3x3", "window is \"3x3\", wanted three whole numbers such as 3x3x3, along t, h, w"},
        {"dfs,group=48", "group is 48, wanted 8, 16, 32, 64, 128 or 256"},
        {"dfs,tau=1e3", "tau is \"1e3\", wanted a decimal number"},
        {"dfs,gate_q=1.5", "gate_q is 1.5, wanted 0 ... 1"},
        {"dfs,tile_n=64,neighbours=2",
         "neighbours is 2 but block_m is 128 and tile_n 64, wanted blocks and tiles of one size"},
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

static void settings_are_applied_together_or_not_at_all(void **state)
{
    (void)state;
    fga_context *ctx = naive_context(1, NULL);
    fga_policy policy = parse("dfs"), before;
    assert_int_equal(fga_policy_set(ctx, "density=0.25,block_m=64,refresh=5", &policy), FGA_OK);
    assert_true(policy.phase[2].density == 0.25 && policy.block_m == 64 && policy.refresh_every == 5);
    before = policy;
    assert_int_equal(fga_policy_set(ctx, "density=0.5,block_m=63", &policy), FGA_ERR_ARGUMENT);
    assert_string_equal(fga_last_error(ctx), "block_m is 63, wanted 16, 32, 64, 128 or 192");
    assert_memory_equal(&policy, &before, sizeof policy);
    assert_int_equal(fga_policy_set(ctx, "", &policy), FGA_ERR_ARGUMENT);
    assert_string_equal(fga_last_error(ctx), "\"\" in a policy, wanted key=value");
    assert_int_equal(fga_policy_set(ctx, NULL, &policy), FGA_ERR_ARGUMENT);
    policy.size = 4;
    assert_int_equal(fga_policy_set(ctx, "density=0.5", &policy), FGA_ERR_ARGUMENT);
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

/* Steps at which each preset refreshes, by hand: ceil(a*n/b) of its phases. */
static void presets_at_the_usual_step_counts(void **state)
{
    (void)state;
    static const struct {
        const char *preset;
        int steps, refresh[7]; /* -1 ends */
        bool every;            /* every step from the first on */
    } rows[] = {
        {"dfs", 4, {1, 2, 3, -1}, false},
        {"dfs", 20, {5, 10, 15, -1}, false},
        {"dfs", 30, {8, 15, 22, -1}, false},
        {"dfs", 50, {12, 24, 36, -1}, false},
        {"fgdfs", 20, {5, 10, 15, -1}, false},
        {"svg", 30, {8, 15, 22, -1}, false},
        {"fg-cached", 4, {0, 1, 2, 3, -1}, false}, /* .15 and .80 begin at 1 and 4; .30 and .45 both at 2 */
        {"fg-cached", 20, {0, 3, 6, 9, 12, 16, -1}, false},
        {"fg-cached", 30, {0, 5, 9, 14, 18, 24, -1}, false},
        {"fg-cached", 50, {0, 8, 15, 23, 30, 40, -1}, false},
        {"fg-cdf", 30, {0, -1}, true},
        {"subblock", 4, {1, -1}, true},
        {"subblock", 20, {4, -1}, true},
        {"sol", 30, {6, -1}, true},
        {"sol", 50, {10, -1}, true},
        {"sta", 50, {0, -1}, false},
        {"radial", 4, {0, -1}, false},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        fga_policy policy = parse(rows[i].preset);
        int next = 0;
        for (int step = 0; step < rows[i].steps; step++) {
            bool here = rows[i].refresh[next] == step;
            next += here;
            fga_step_kind wanted = next == 0               ? FGA_STEP_DENSE
                                   : here || rows[i].every ? FGA_STEP_REFRESH
                                                           : FGA_STEP_REUSE;
            double density = -1;
            assert_int_equal(fga_policy_step(&policy, step, rows[i].steps, policy.dense_layers, &density), wanted);
            assert_int_equal(fga_policy_step(&policy, step, rows[i].steps, 0, NULL),
                             policy.dense_layers > 0 ? FGA_STEP_DENSE : wanted);
            if (next > 0 && policy.phases == 3) {
                assert_true(density == policy.phase[next - 1].density);
            }
        }
        assert_int_equal(rows[i].refresh[next], -1);
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
        cmocka_unit_test(settings_are_applied_together_or_not_at_all),
        cmocka_unit_test(any_text_is_survived),
        cmocka_unit_test(timetables_equal_the_naive_one),
        cmocka_unit_test(presets_at_the_usual_step_counts),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
