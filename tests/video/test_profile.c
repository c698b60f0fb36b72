/* Profiles: what is written is what is read, and what cannot be a profile is refused by name. */
#include "fgvideo.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

static char path[64];
static fga_context *ctx;

static int start(void **state)
{
    (void)state;
    snprintf(path, sizeof path, "/tmp/fgattn-profile-%ld.json", (long)getpid());
    fga_context_options options = fga_context_options_default();
    options.threads = 1;
    return fga_context_create(&options, &ctx) == FGA_OK ? 0 : -1;
}

static int stop(void **state)
{
    (void)state;
    remove(path);
    fga_context_destroy(&ctx);
    return 0;
}

static void test_round_trip(void **state)
{
    (void)state;
    fga_override overrides[] = {{0, INT32_MAX, 0, INT32_MAX, -1, "density=0.25"},
                                {2, 3, 1, 1, 1, "density=0.4"},
                                {0, 0, 0, INT32_MAX, 0, "dense=true"}};
    char prompts[] = "a red ball\na \"blue\" square\n";
    fgv_profile a = fgv_profile_default(), b;
    assert_int_equal(fga_policy_parse(ctx, "dfs,density=0.2,tile_n=64,block_m=64", &a.policy), FGA_OK);
    a.overrides = overrides;
    a.override_count = 3;
    snprintf(a.model, sizeof a.model, "toy");
    a.layers = 4, a.heads = 3, a.head_dim = 128, a.branches = 2;
    a.target_recall = 0.95, a.recall_floor = 0.85, a.quantile = 0.9;
    a.width = 128, a.height = 64, a.frames = 5, a.steps = 20;
    a.prompts = prompts;
    a.tuning = (fgv_profile_figures){2, 0.96, 0.87, 0.1, NAN, 0.21, 0.22, 0.93};
    assert_int_equal(fgv_profile_write(ctx, path, &a), FGA_OK);
    assert_int_equal(fgv_profile_read(ctx, path, &b), FGA_OK);
    char text[2][FGA_POLICY_TEXT];
    assert_int_equal(fga_policy_format(ctx, &a.policy, text[0], sizeof text[0]), FGA_OK);
    assert_int_equal(fga_policy_format(ctx, &b.policy, text[1], sizeof text[1]), FGA_OK);
    assert_string_equal(text[0], text[1]);
    assert_int_equal(b.override_count, 3);
    for (int i = 0; i < 3; i++) {
        const fga_override *x = &overrides[i], *y = &b.overrides[i];
        assert_true(x->layer_first == y->layer_first && x->layer_last == y->layer_last);
        assert_true(x->head_first == y->head_first && x->head_last == y->head_last && x->branch == y->branch);
        assert_string_equal(x->settings, y->settings);
    }
    assert_string_equal(b.model, "toy");
    assert_string_equal(b.prompts, prompts);
    assert_true(b.layers == 4 && b.heads == 3 && b.head_dim == 128 && b.branches == 2);
    assert_true(b.width == 128 && b.height == 64 && b.frames == 5 && b.steps == 20);
    assert_true(b.target_recall == 0.95 && b.recall_floor == 0.85 && b.target_error == 0 && b.quantile == 0.9);
    assert_true(b.tuning.prompts == 2 && b.tuning.recall_mean == 0.96 && b.tuning.held == 0.93);
    assert_true(isnan(b.tuning.output_error_worst));
    assert_int_equal(b.held_out.prompts, 0);
    fgv_profile_free(&b);
    assert_null(b.overrides);
    fgv_profile_free(NULL);
}

/* "To the end" from another layer on, where the profile says how many there are and where it does not. */
static void test_open_ranges(void **state)
{
    (void)state;
    for (int layers = 0; layers <= 6; layers += 6) {
        fga_override open = {2, INT32_MAX, 1, INT32_MAX, -1, "density=0.25"};
        fgv_profile a = fgv_profile_default(), b;
        assert_int_equal(fga_policy_parse(ctx, "dfs", &a.policy), FGA_OK);
        a.overrides = &open;
        a.override_count = 1;
        a.layers = layers;
        assert_int_equal(fgv_profile_write(ctx, path, &a), FGA_OK);
        assert_int_equal(fgv_profile_read(ctx, path, &b), FGA_OK);
        assert_true(b.overrides[0].layer_first == 2 && b.overrides[0].head_first == 1);
        assert_true(b.overrides[0].layer_last == (layers > 0 ? 5 : 1 << 20) && b.overrides[0].head_last == 1 << 20);
        fgv_profile_free(&b);
    }
}

static void put(const char *text)
{
    FILE *file = fopen(path, "wb");
    assert_non_null(file);
    assert_true(fputs(text, file) >= 0);
    assert_int_equal(fclose(file), 0);
}

static void test_smallest(void **state)
{
    (void)state;
    fgv_profile p;
    put("{\"fgattn_profile\": 1, \"policy\": \"dfs\", \"overrides\": [{\"settings\": \"density=0.5\"}]}");
    assert_int_equal(fgv_profile_read(ctx, path, &p), FGA_OK);
    assert_string_equal(p.policy.name, "dfs");
    assert_int_equal(p.override_count, 1);
    assert_true(p.overrides[0].layer_first == 0 && p.overrides[0].layer_last == INT32_MAX);
    assert_true(p.overrides[0].head_first == 0 && p.overrides[0].head_last == INT32_MAX);
    assert_int_equal(p.overrides[0].branch, -1);
    assert_null(p.prompts);
    fgv_profile_free(&p);
}

static void refused(const char *text, const char *reason)
{
    fgv_profile p;
    put(text);
    assert_int_equal(fgv_profile_read(ctx, path, &p), FGA_ERR_DATA);
    if (strstr(fga_last_error(ctx), reason) == NULL) {
        fail_msg("the error is \"%s\", without \"%s\"", fga_last_error(ctx), reason);
    }
    assert_null(strchr(fga_last_error(ctx), '\n'));
    assert_null(p.overrides);
    assert_null(p.prompts);
    assert_int_equal(p.override_count, 0);
}

#define PROFILE "\"fgattn_profile\": 1, \"policy\": \"dfs\""
#define MODEL "\"model\": {\"layers\": 2, \"heads\": 2}"

static void test_refused(void **state)
{
    (void)state;
    refused("", "JSON");
    refused("[]", "JSON object");
    refused("{\"fgattn_profile\": 1, \"policy\": \"dfs\"", "JSON");
    refused("{" PROFILE "} {}", "text after");
    refused("{\"policy\": \"dfs\"}", "fgattn_profile");
    refused("{\"fgattn_profile\": 2, \"policy\": \"dfs\"}", "fgattn_profile");
    refused("{\"fgattn_profile\": \"1\", \"policy\": \"dfs\"}", "fgattn_profile");
    refused("{\"fgattn_profile\": 1}", "policy");
    refused("{\"fgattn_profile\": 1, \"policy\": 7}", "policy");
    refused("{\"fgattn_profile\": 1, \"policy\": \"nothing\"}", "nothing");
    refused("{\"fgattn_profile\": 1, \"policy\": \"dfs,density=2\"}", "density");
    refused("{" PROFILE ", \"overides\": []}", "overides");
    refused("{" PROFILE ", \"policy\": \"dense\"}", "twice");
    refused("{" PROFILE ", \"model\": []}", "model");
    refused("{" PROFILE ", \"model\": {\"name\": 5}}", "model.name");
    refused("{" PROFILE ", \"model\": {\"layers\": -1}}", "layers");
    refused("{" PROFILE ", \"model\": {\"layers\": 1e300}}", "layers");
    refused("{" PROFILE ", \"model\": {\"layers\": 1.5}}", "layers");
    refused("{" PROFILE ", \"tuned\": {\"prompts\": \"a\"}}", "prompts");
    refused("{" PROFILE ", \"tuned\": {\"prompts\": [\"a\", 3]}}", "prompts");
    refused("{" PROFILE ", \"tuned\": {\"quantile\": -1}}", "quantile");
    refused("{" PROFILE ", \"tuned\": {\"quantile\": \"0.9\"}}", "quantile");
    refused("{" PROFILE ", \"measured\": {\"tuning\": 1}}", "tuning");
    refused("{" PROFILE ", \"measured\": {\"held_out\": {\"recall\": 1}}}", "recall");
    refused("{" PROFILE ", \"overrides\": {}}", "overrides");
    refused("{" PROFILE ", \"overrides\": [1]}", "overrides[0]");
    refused("{" PROFILE ", \"overrides\": [{}]}", "overrides[0].settings");
    refused("{" PROFILE ", \"overrides\": [{\"settings\": \"density=0.5\"}, {\"settings\": \"\", \"head\": 1}]}",
            "overrides[1]");
    refused("{" PROFILE ", \"overrides\": [{\"settings\": \"\", \"layers\": [0]}]}", "overrides[0].layers");
    refused("{" PROFILE ", \"overrides\": [{\"settings\": \"\", \"layers\": [1, 0]}]}", "overrides[0].layers");
    refused("{" PROFILE ", \"overrides\": [{\"settings\": \"\", \"layers\": [0, 1e12]}]}", "overrides[0].layers");
    refused("{" PROFILE ", \"overrides\": [{\"settings\": \"\", \"heads\": [null, 1]}]}", "overrides[0].heads");
    refused("{" PROFILE ", " MODEL ", \"overrides\": [{\"settings\": \"\", \"layers\": [0, 2]}]}",
            "[first, last], from 0 to 1");
    refused("{" PROFILE ", " MODEL ", \"overrides\": [{\"settings\": \"\", \"heads\": [2, 2]}]}", "overrides[0].heads");
    refused("{" PROFILE ", \"overrides\": [{\"settings\": \"\", \"branch\": -2}]}", "overrides[0].branch");
    refused("{" PROFILE ", \"overrides\": [{\"settings\": \"\", \"branch\": 1e9}]}", "overrides[0].branch");
}

/* Texts longer than their fields, and nesting without end. */
static void test_too_large(void **state)
{
    (void)state;
    static char text[300000];
    int length = snprintf(text, sizeof text, "{" PROFILE ", \"overrides\": [{\"settings\": \"");
    memset(text + length, 'x', 200);
    snprintf(text + length + 200, 16, "\"}]}");
    refused(text, "overrides[0].settings");
    length = snprintf(text, sizeof text, "{\"fgattn_profile\": 1, \"policy\": \"");
    memset(text + length, 'x', 100000);
    snprintf(text + length + 100000, 16, "\"}");
    refused(text, "policy");
    length = snprintf(text, sizeof text, "{" PROFILE ", \"overrides\": ");
    memset(text + length, '[', 200000);
    text[length + 200000] = '\0';
    refused(text, "JSON");
}

static void test_io(void **state)
{
    (void)state;
    fgv_profile p = fgv_profile_default();
    assert_int_equal(fgv_profile_write(ctx, "/nonexistent/profile.json", &p), FGA_ERR_IO);
    assert_non_null(strstr(fga_last_error(ctx), "/nonexistent/profile.json"));
    assert_int_equal(fgv_profile_read(ctx, "/nonexistent/profile.json", &p), FGA_ERR_IO);
    p.policy.score = FGA_SCORE_CUSTOM; /* has no text form */
    assert_int_not_equal(fgv_profile_write(ctx, path, &p), FGA_OK);
}

/* Every prefix of a real profile, and every byte of it changed, is read or refused, never worse. */
static void test_damaged(void **state)
{
    (void)state;
    fga_override overrides[] = {{1, 1, 0, 1, 0, "density=0.25"}};
    fgv_profile p = fgv_profile_default();
    p.overrides = overrides;
    p.override_count = 1;
    p.prompts = "one\ntwo\n";
    p.tuning = (fgv_profile_figures){1, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5};
    assert_int_equal(fgv_profile_write(ctx, path, &p), FGA_OK);
    static char text[4096], changed[4096];
    FILE *file = fopen(path, "rb");
    size_t bytes = fread(text, 1, sizeof text - 1, file);
    fclose(file);
    int read = 0;
    for (size_t i = 0; i < bytes; i++) {
        memcpy(changed, text, bytes);
        changed[i] = i % 2 == 0 ? '"' : (char)(changed[i] ^ 0x11);
        changed[i] = changed[i] == '\0' ? ' ' : changed[i];
        changed[i % 3 == 0 ? i : bytes] = '\0';
        put(changed);
        fga_status status = fgv_profile_read(ctx, path, &p);
        assert_true(status == FGA_OK || status == FGA_ERR_DATA);
        read += status == FGA_OK;
        fgv_profile_free(&p);
    }
    assert_true(read < (int)bytes / 2);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_round_trip), cmocka_unit_test(test_open_ranges),
                                       cmocka_unit_test(test_smallest),   cmocka_unit_test(test_refused),
                                       cmocka_unit_test(test_too_large),  cmocka_unit_test(test_io),
                                       cmocka_unit_test(test_damaged)};
    return cmocka_run_group_tests(tests, start, stop);
}
