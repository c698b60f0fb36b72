/* Every selection and every preset against the naive transcription, given the same scores: bit for bit. */
#include "attn/policy.h"
#include "attn/refresh.h"

#include "naive_policy.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

typedef struct problem {
    naive_problem p;
    int64_t grid[3];
    float *q, *k, *v;
    fga_head_setting *heads;
} problem;

/* A video of random shape, or of the given one, between random texts, with padding anywhere. */
static problem make(naive_random *random, const fga_policy *policy, int64_t most_side, const int64_t *grid)
{
    problem x = {.p = {.batch = naive_between(random, 1, 2), .kv_heads = naive_between(random, 1, 2), .head_dim = 16}};
    naive_problem *p = &x.p;
    p->query_heads = p->kv_heads * naive_between(random, 1, 2);
    for (int i = 0; i < 3; i++) {
        x.grid[i] = grid != NULL ? grid[i] : naive_between(random, 1, most_side);
    }
    fga_sequence s = {.video_valid = x.grid[0] * x.grid[1] * x.grid[2]};
    s.video = s.video_valid + naive_between(random, 0, 1) * naive_between(random, 0, 150);
    if (naive_between(random, 0, 1) == 0) {
        s.prefix = naive_between(random, 1, 70);
        s.prefix_valid = naive_between(random, 0, s.prefix);
    }
    if (naive_between(random, 0, 1) == 0) {
        s.suffix = naive_between(random, 1, 70);
        s.suffix_valid = naive_between(random, 0, s.suffix);
    }
    p->query = p->key = s;
    p->m = policy->block_m;
    p->n = policy->tile_n;
    int64_t count = fga_sequence_length(&s) * p->head_dim;
    x.q = naive_values(random, p->batch * p->query_heads * count, FGA_F32, 2);
    x.k = naive_values(random, p->batch * p->kv_heads * count, FGA_F32, 2);
    x.v = naive_values(random, p->batch * p->kv_heads * count, FGA_F32, 1);
    x.heads = calloc((size_t)(p->batch * p->query_heads), sizeof *x.heads);
    bool by_head = naive_between(random, 0, 2) == 0;
    for (int64_t h = 0; h < p->batch * p->query_heads; h++) {
        double density = policy->phases > 0 ? policy->phase[policy->phases - 1].density : 0;
        x.heads[h] = (fga_head_setting){density, policy->tau, policy->threshold, policy->neighbours, false};
        if (by_head) {
            x.heads[h].density = fmin(1, density * (double)naive_between(random, 1, 5) / 3);
            x.heads[h].dense = naive_between(random, 0, 4) == 0;
        }
    }
    return x;
}

static void destroy(problem *x)
{
    free(x->q);
    free(x->k);
    free(x->v);
    free(x->heads);
}

static fga_mask *new_mask(fga_context *ctx, const naive_problem *p)
{
    fga_mask_desc d = fga_mask_desc_default();
    d.batch = p->batch;
    d.heads = p->query_heads;
    d.block_m = p->m;
    d.tile_n = p->n;
    d.query = p->query;
    d.key = p->key;
    fga_mask *mask;
    assert_int_equal(fga_mask_create(ctx, &d, FGA_MASK_BITMAP, &mask), FGA_OK);
    memset(mask->bits, 0xa5, (size_t)(mask->rows * mask->words) * sizeof *mask->bits);
    return mask;
}

typedef struct refreshed {
    fga_refresh_plan plan;
    fga_attend_args args;
    fga_score_row at;
    char *workspace;
    fga_mask *mask;
} refreshed;

static refreshed refresh(fga_context *ctx, const fga_policy *policy, const problem *x, bool keep_scores)
{
    const naive_problem *p = &x->p;
    int64_t tokens = fga_sequence_length(&p->key);
    fga_predict_desc d = fga_predict_desc_default();
    d.batch = p->batch;
    d.query_heads = p->query_heads;
    d.kv_heads = p->kv_heads;
    d.head_dim = p->head_dim;
    d.query = d.key = p->key;
    refreshed r = {.args = fga_attend_args_default(), .at = {.step = 3, .layer = 2, .branch = 1}};
    assert_int_equal(fga_refresh_init(ctx, policy, &d, x->grid, keep_scores, &r.plan), FGA_OK);
    size_t bytes = (r.plan.workspace_bytes + 127) / 64 * 64;
    r.workspace = aligned_alloc(64, bytes);
    memset(r.workspace, 0xff, bytes);
    r.args.q = fga_tensor_bhsd(x->q, FGA_F32, p->batch, p->query_heads, tokens, p->head_dim);
    r.args.k = fga_tensor_bhsd(x->k, FGA_F32, p->batch, p->kv_heads, tokens, p->head_dim);
    r.args.v = fga_tensor_bhsd(x->v, FGA_F32, p->batch, p->kv_heads, tokens, p->head_dim);
    r.mask = new_mask(ctx, p);
    return r;
}

static void run(refreshed *r, const problem *x, bool again)
{
    const fga_refresh_call call = {.args = &r->args,
                                   .heads = x->heads,
                                   .step = r->at.step,
                                   .layer = r->at.layer,
                                   .branch = r->at.branch,
                                   .again = again,
                                   .workspace = r->workspace,
                                   .mask = r->mask};
    assert_int_equal(fga_refresh_run(&r->plan, &call), FGA_OK);
    for (size_t i = r->plan.workspace_bytes; i < (r->plan.workspace_bytes + 127) / 64 * 64; i++) {
        assert_int_equal((uint8_t)r->workspace[i], 0xff);
    }
}

static void end(refreshed *r)
{
    fga_mask_release(&r->mask);
    free(r->workspace);
}

/* Compares; returns how many tiles were too close to tell. */
static int64_t compare(const refreshed *r, const problem *x, const fga_policy *policy)
{
    const naive_problem *p = &x->p;
    int64_t blocks = naive_blocks(p), tiles = naive_tiles(p), count = p->batch * p->query_heads * blocks * tiles;
    int64_t unsure = 0;
    naive_selection s = {.p = p,
                         .policy = policy,
                         .heads = x->heads,
                         .scores = r->plan.keep_scores ? fga_refresh_scores(&r->plan, r->workspace, 0) : NULL,
                         .grid = {x->grid[0], x->grid[1], x->grid[2]},
                         .q = x->q,
                         .k = x->k,
                         .v = x->v,
                         .at = &r->at,
                         .keep = calloc((size_t)count, 1),
                         .unsure = calloc((size_t)count, 1)};
    naive_policy_select(&s);
    double kept = 0, all = 0;
    for (int64_t i = 0; i < count; i++) {
        int64_t row = i / tiles, u = row % blocks, h = row / blocks % p->query_heads;
        int64_t b = row / blocks / p->query_heads;
        bool got = fga_mask_keeps(r->mask, b, h, u, i % tiles);
        unsure += s.unsure[i];
        if (got != s.keep[i] && !s.unsure[i]) {
            char text[FGA_POLICY_TEXT];
            fga_policy_format(NULL, policy, text, sizeof text);
            fail_msg("%s: (%d, %d, %d, %d) is %d", text, (int)b, (int)h, (int)u, (int)(i % tiles), got);
        }
    }
    for (int64_t row = 0; row < r->mask->rows; row++) { /* sealed: the counts belong to the bits */
        int64_t u = row % blocks, keys = 0, queries = 0;
        for (int64_t j = 0; j < fga_sequence_length(&p->key); j++) {
            keys += naive_is_valid(&p->key, j) &&
                    fga_mask_keeps(r->mask, row / blocks / p->query_heads, row / blocks % p->query_heads, u, j / p->n);
            queries += j / p->m == u && naive_is_valid(&p->key, j);
        }
        assert_int_equal(r->mask->row_keys[row], keys);
        kept += (double)(keys * queries);
    }
    all = (double)(p->batch * p->query_heads) * pow((double)fga_sequence_valid(&p->key), 2);
    assert_true(fabs(fga_mask_density(r->mask) - kept / all) < 1e-12);
    free(s.keep);
    free(s.unsure);
    return unsure;
}

static void keep_by_hash(void *user, const fga_score_row *row, uint8_t *keep)
{
    assert_string_equal(user, "user");
    for (int64_t v = 0; v < row->tiles; v++) {
        assert_int_equal(keep[v], 0);
        int64_t n = row->step + 3 * row->layer + 5 * row->branch + 7 * row->batch + 11 * row->head + 13 * row->block;
        keep[v] = (uint8_t)((n + v * v) % 5 == 0 ? 255 : 0);
    }
}

/* Few different values, zeros of both signs, and now and then a gate or a NaN. Mode 4: many that differ in their last
 * bits alone, of blocks far apart, with a NaN in each row: no sum to take shares of. */
static void score_by_hash(void *user, const fga_score_row *row, float *scores)
{
    int mode = *(const int *)user;
    naive_random random = {(uint64_t)(mode + 10 * (row->batch * 100 + row->head * 1000 + row->block * 10000))};
    for (int64_t v = 0; v < row->tiles; v++) {
        int64_t n = naive_between(&random, 0, 9);
        scores[v] = mode == 0 ? (float)n : mode == 1 ? (float)naive_next(&random) * 0x1p-64f : n < 5 ? -0.0f : 0.0f;
        if (mode == 2 && n == 9) {
            scores[v] = INFINITY;
        }
        if (mode == 3 && n > 7) {
            scores[v] = NAN;
        }
        if (mode == 4) {
            uint32_t last = (uint32_t)naive_next(&random) & (n < 5 ? 3 : 0x3fffff);
            scores[v] = v == row->tiles / 2 ? NAN : fga_bits_f32(0x38000000u + 0x1000000u * (row->block % 4) + last);
        }
    }
}

static fga_policy parse(const char *text)
{
    fga_policy policy;
    fga_context *ctx = naive_context(1, NULL);
    if (fga_policy_parse(ctx, text, &policy) != FGA_OK) {
        fail_msg("%s: %s", text, fga_last_error(ctx));
    }
    fga_context_destroy(&ctx);
    return policy;
}

static int64_t check(fga_context *ctx, naive_random *random, const fga_policy *policy, int64_t most_side,
                     const int64_t *grid)
{
    problem x = make(random, policy, most_side, grid);
    refreshed r = refresh(ctx, policy, &x, true);
    run(&r, &x, false);
    int64_t unsure = compare(&r, &x, policy);
    end(&r);
    destroy(&x);
    return unsure;
}

/* As published, and with the small blocks and tiles that a small grid needs to have many. */
static void presets_equal_their_transcription(void **state)
{
    (void)state;
    static const char *const texts[] = {
        "fgdfs",
        "fgdfs,block_m=16,group=16",
        "fgdfs,block_m=64,tile_n=4,select=topk",
        "fgdfs,block_m=128,sub_q=16,select=topk",
        "dfs",
        "dfs,block_m=16,tile_n=16,sub_q=4,sub_k=4",
        "dfs,block_m=32,tile_n=8",
        "dfs,tile_n=1,sub_k=1",
        "dfs-paper",
        "dfs-paper,block_m=16,tile_n=16,sub_q=8,sub_k=8",
        "dfs-paper,block_m=32,tile_n=32,density=0.33",
        "fg-cached",
        "fg-cached,block_m=16,threshold=1.5",
        "fg-cached,block_m=32,tile_n=4,threshold=8",
        "fg-cdf",
        "fg-cdf,block_m=16,tile_n=8",
        "fg-cdf,block_m=16,tile_n=4,gate_q=0.2,gate_k=0.4",
        "fg-cdf,tau=0.5,gate_q=0",
        "fg-cdf,tau=1",
        "fg-cdf,block_m=32,tau=0.02,gate_q=0,neighbours=0",
        "subblock",
        "subblock,block_m=16,tile_n=16,sub_q=4,sub_k=8",
        "sol",
        "sol,block_m=16,tile_n=16",
        "sol,block_m=32,tile_n=32,tau=-0.5,full_covariance=true,order=morton",
        "sol,block_m=16,tile_n=4,neighbours=0,tau=0.25",
        "block-topk",
        "block-topk,block_m=128,tile_n=128",
        "block-topk,block_m=16,tile_n=16,neighbours=3",
        "block-topk,block_m=16,tile_n=16,neighbours=100",
        "block-topk,block_m=32,tile_n=8,gate_k=0.4,gate_q=0.15",
        "sta",
        "sta,window=1x3x5",
        "sta,block_m=16,tile_n=16,window=2x2x2",
        "sta,order=hilbert,tile_n=8,window=1x1x1",
        "radial",
        "radial,block_m=16,tile_n=16,width=0.3",
        "radial,block_m=16,tile_n=1,width=0.02",
        "radial,block_m=32,tile_n=4,width=2,order=morton,neighbours=0",
        "radial,block_m=16,tile_n=16,neighbours=2,width=0.1",
        "svg",
        "svg,block_m=16,tile_n=16,density=0.4",
        "svg,block_m=16,tile_n=16,neighbours=2,density=0.5",
        "svg,block_m=32,tile_n=8,order=hilbert,density=0.6",
    };
    fga_context *ctx = naive_context(2, NULL);
    naive_random random = {61};
    int64_t unsure = 0;
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
        fga_policy policy = parse(texts[i]);
        for (int round = 0; round < 6; round++) {
            unsure += check(ctx, &random, &policy, round == 0 ? 1 : policy.select == FGA_SELECT_FRAMES ? 6 : 8, NULL);
        }
    }
    assert_true(unsure < 2000);
    fga_context_destroy(&ctx);
}

/* Grids large enough for windows to be moved, and numbers that make each rule meet its limit exactly. */
static void places_equal_their_transcription(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        int64_t grid[3];
    } rows[] = {
        {"sta", {12, 9, 9}},
        {"sta,block_m=16,tile_n=16,window=2x2x4", {5, 14, 17}},
        {"sta,block_m=16,tile_n=8,window=1x4x2,order=raster", {9, 6, 14}},
        {"radial,block_m=16,tile_n=1,width=0.02", {9, 6, 10}},
        {"radial,block_m=16,tile_n=1,width=0.0625", {9, 4, 4}}, /* width * area = 1 */
        {"radial,block_m=16,tile_n=1,width=0.125", {9, 8, 4}},
        {"radial,block_m=16,tile_n=4,width=0.25", {17, 8, 8}},
        {"radial", {7, 8, 16}},
        {"svg,block_m=16,tile_n=16,density=0.75,order=raster", {4, 8, 8}}, /* 12/16 is what frames 1 away are */
        {"svg,block_m=16,tile_n=16,density=0.4375", {4, 8, 8}},
        {"svg,block_m=32,tile_n=4,density=0.3", {6, 6, 9}},
    };
    fga_context *ctx = naive_context(2, NULL);
    naive_random random = {66};
    int64_t unsure = 0;
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        fga_policy policy = parse(rows[i].text);
        for (int round = 0; round < 2; round++) {
            unsure += check(ctx, &random, &policy, 1, rows[i].grid);
        }
    }
    assert_int_equal(unsure, 0);
    fga_context_destroy(&ctx);
}

static void check_hashed(fga_context *ctx, naive_random *random, const char *text, int mode, int64_t most_side,
                         const int64_t *grid)
{
    fga_policy policy = parse(text);
    policy.score = FGA_SCORE_CUSTOM;
    policy.custom = score_by_hash;
    policy.custom_user = &mode;
    check(ctx, random, &policy, most_side, grid);
}

/* Scores with ties, gates and NaN, under every selection that reads scores, at many settings. */
static void ties_and_gates_equal_their_transcription(void **state)
{
    (void)state;
    static const char *const selects[] = {
        "select=topk,density=0.31",     "select=topk,density=1",
        "select=topk,density=0.0001",   "select=topk,density=0.29,zero_pad=true",
        "select=budget,density=0.05",   "select=budget,density=0.3",
        "select=budget,density=0.9",    "select=budget,density=1",
        "select=topp,tau=0.3",          "select=topp,tau=0.999",
        "select=topp,tau=1.5",          "select=threshold,threshold=3",
        "select=threshold,threshold=0",
    };
    fga_context *ctx = naive_context(3, NULL);
    naive_random random = {62};
    for (size_t i = 0; i < sizeof selects / sizeof selects[0]; i++) {
        for (int round = 0; round < 15; round++) {
            static const char *const shapes[] = {"block_m=16,tile_n=1,", "block_m=32,tile_n=8,",
                                                 "block_m=64,tile_n=64,neighbours=2,"};
            char text[256];
            snprintf(text, sizeof text, "dfs,%s%s", shapes[round % 3], selects[i]);
            check_hashed(ctx, &random, text, round % 5, 7, NULL);
        }
    }
    fga_context_destroy(&ctx);
}

/* More tiles than one call of the kernel sifts, so that the words that are left to search begin and end anywhere. */
static void long_rows_equal_their_transcription(void **state)
{
    (void)state;
    static const char *const settings[] = {"select=topk,density=0.31", "select=budget,density=0.01",
                                           "select=budget,density=0.3", "select=budget,density=0.8"};
    static const int64_t grid[3] = {4, 16, 19};
    fga_context *ctx = naive_context(3, NULL);
    naive_random random = {66};
    for (size_t i = 0; i < sizeof settings / sizeof settings[0]; i++) {
        for (int mode = 0; mode < 5; mode++) {
            char text[256];
            snprintf(text, sizeof text, "dfs,block_m=192,tile_n=1,%s", settings[i]);
            check_hashed(ctx, &random, text, mode, 0, grid);
        }
    }
    fga_context_destroy(&ctx);
}

static void custom_functions_are_asked(void **state)
{
    (void)state;
    fga_context *ctx = naive_context(3, NULL);
    naive_random random = {63};
    fga_policy policy = parse("dfs,block_m=16,tile_n=4,score=none,select=all,phases=0/1");
    policy.select = FGA_SELECT_CUSTOM;
    policy.custom_keep = keep_by_hash;
    policy.custom_user = "user";
    for (int round = 0; round < 20; round++) {
        check(ctx, &random, &policy, 8, NULL);
    }
    policy.select = FGA_SELECT_ALL;
    for (int round = 0; round < 5; round++) {
        check(ctx, &random, &policy, 8, NULL);
    }
    fga_context_destroy(&ctx);
}

/* Selecting again from stored scores is what a new refresh with other settings does, and threads change nothing. */
static void again_and_threads_change_nothing(void **state)
{
    (void)state;
    static const char *const texts[] = {
        "dfs,block_m=16,tile_n=4",
        "dfs,block_m=16,tile_n=4,select=budget",
        "fg-cdf,block_m=16",
        "sol,block_m=16,tile_n=16",
        "fg-cached,block_m=16",
        "svg,block_m=16,tile_n=16",
        "sta,tile_n=8",
    };
    naive_random random = {64};
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
        fga_policy policy = parse(texts[i]);
        problem x = make(&random, &policy, 8, NULL);
        fga_context *one = naive_context(1, NULL), *four = naive_context(4, NULL);
        refreshed a = refresh(one, &policy, &x, true), b = refresh(four, &policy, &x, false);
        run(&a, &x, false);
        for (int64_t h = 0; h < x.p.batch * x.p.query_heads; h++) {
            x.heads[h].density *= 0.5;
            x.heads[h].tau *= 0.75;
            x.heads[h].threshold += 0.5;
        }
        run(&a, &x, true);
        run(&b, &x, false);
        assert_memory_equal(a.mask->bits, b.mask->bits, (size_t)(a.mask->rows * a.mask->words) * sizeof *a.mask->bits);
        end(&a);
        end(&b);
        destroy(&x);
        fga_context_destroy(&one);
        fga_context_destroy(&four);
    }
}

/* Numbers that can be had by hand. */
static void known_cases(void **state)
{
    (void)state;
    fga_context *ctx = naive_context(1, NULL);
    fga_policy policy = parse("sta");
    naive_random random = {65};
    problem x = make(&random, &policy, 4, NULL);
    x.grid[0] = 8, x.grid[1] = 16, x.grid[2] = 20; /* 2 x 4 x 5 whole boxes: tiles are boxes */
    x.p = (naive_problem){.batch = 1, .query_heads = 1, .kv_heads = 1, .head_dim = 16, .m = 64, .n = 64};
    x.p.query = x.p.key = fga_sequence_video(8 * 16 * 20);
    x.heads[0].dense = false;
    refreshed r = refresh(ctx, &policy, &x, false);
    run(&r, &x, false);
    assert_int_equal(fga_mask_tiles(r.mask), 40);
    for (int64_t u = 0; u < 40; u++) {
        int64_t kept = 0;
        for (int64_t v = 0; v < 40; v++) {
            kept += fga_mask_keeps(r.mask, 0, 0, u, v);
        }
        assert_int_equal(kept, 2 * 3 * 3); /* the window is moved inside, not cut */
    }
    assert_true(fga_mask_density(r.mask) == 18.0 / 40);
    end(&r);
    destroy(&x);

    fga_predict_desc d = fga_predict_desc_default();
    d.query = d.key = fga_sequence_video(100);
    const int64_t grid[3] = {2, 7, 7};
    fga_refresh_plan plan;
    assert_int_equal(fga_refresh_init(ctx, &policy, &d, grid, false, &plan), FGA_ERR_ARGUMENT);
    assert_string_equal(fga_last_error(ctx),
                        "select is window and the video 2 x 7 x 7 tokens, wanted frames x height x "
                        "width = its 100 valid tokens");
    fga_context_destroy(&ctx);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(presets_equal_their_transcription),
        cmocka_unit_test(places_equal_their_transcription),
        cmocka_unit_test(ties_and_gates_equal_their_transcription),
        cmocka_unit_test(long_rows_equal_their_transcription),
        cmocka_unit_test(custom_functions_are_asked),
        cmocka_unit_test(again_and_threads_change_nothing),
        cmocka_unit_test(known_cases),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
