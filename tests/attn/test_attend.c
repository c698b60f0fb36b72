/* The attention driver on every kernel family this machine runs: shapes, layouts, masks, bias, padding. */
#include "sample.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static void equals_the_naive_attention(void **state)
{
    (void)state;
    for (int v = 0; v < fga_variant_count(); v++) {
        if (!fga_variant_runs_here(v)) {
            continue;
        }
        fga_context *ctx = naive_context(2, fga_variant_name(v));
        naive_random random = {11};
        for (int round = 0; round < 40; round++) {
            sample s = sample_make(&random, round % 8 == 0 ? 260 : 90);
            answer got = sample_attend(ctx, &s, false);
            sample_check(&s, &got);
            answer_free(&got);
            sample_free(&s);
        }
        fga_context_destroy(&ctx);
    }
}

static void threads_and_storage_change_no_byte(void **state)
{
    (void)state;
    naive_random random = {12};
    for (int round = 0; round < 12; round++) {
        sample s = sample_make(&random, 200);
        answer first = {0};
        static const int threads[] = {1, 2, 3, 7};
        for (int i = 0; i < 4; i++) {
            fga_context *ctx = naive_context(threads[i], NULL);
            answer got = sample_attend(ctx, &s, i % 2 == 1);
            if (i == 0) {
                first = got;
            } else {
                assert_memory_equal(got.o, first.o, got.bytes);
                assert_memory_equal(got.lse, first.lse, (size_t)(s.q_count / s.p.head_dim) * sizeof(float));
                answer_free(&got);
            }
            fga_context_destroy(&ctx);
        }
        answer_free(&first);
        sample_free(&s);
    }
}

enum { CUT_S = 200, CUT_D = 24, CUT_M = 32, CUT_N = 4, CUT_BLOCKS = 7, CUT_TILES = 50 };

/* One call over all heads, or over one, or over some of its blocks. */
typedef struct piece {
    float *q, *k, *v, *o;
    const uint8_t *keep;
    int64_t batch, heads, queries;
} piece;

static void attend_piece(fga_context *ctx, const piece *p)
{
    fga_attend_desc d = fga_attend_desc_default();
    fga_mask_desc m = fga_mask_desc_default();
    fga_attend_args a = fga_attend_args_default();
    fga_attend_plan *plan;
    fga_mask *mask;
    d.batch = m.batch = p->batch;
    d.query_heads = d.kv_heads = m.heads = p->heads;
    d.head_dim = CUT_D;
    d.query_len = p->queries;
    d.key_len = CUT_S;
    d.block_m = m.block_m = CUT_M;
    d.tile_n = m.tile_n = CUT_N;
    m.query = fga_sequence_video(p->queries);
    m.key = fga_sequence_video(CUT_S);
    assert_int_equal(fga_mask_from_bool(ctx, &m, p->keep, &mask), FGA_OK);
    assert_int_equal(fga_attend_plan_create(ctx, &d, &plan), FGA_OK);
    void *workspace = aligned_alloc(64, (fga_attend_plan_workspace(plan) + 63) / 64 * 64);
    a.q = fga_tensor_bhsd(p->q, FGA_F32, p->batch, p->heads, p->queries, CUT_D);
    a.k = fga_tensor_bhsd(p->k, FGA_F32, p->batch, p->heads, CUT_S, CUT_D);
    a.v = fga_tensor_bhsd(p->v, FGA_F32, p->batch, p->heads, CUT_S, CUT_D);
    a.o = fga_tensor_bhsd(p->o, FGA_F32, p->batch, p->heads, p->queries, CUT_D);
    a.mask = mask;
    assert_int_equal(fga_attend_run(plan, &a, workspace, NULL), FGA_OK);
    free(workspace);
    fga_attend_plan_destroy(&plan);
    fga_mask_release(&mask);
}

/* However a call is cut into calls of one head, or of some of its query blocks, its bytes are the same. */
static void any_split_gives_the_same_bytes(void **state)
{
    (void)state;
    enum { BATCH = 2, HEADS = 3, ALL = BATCH * HEADS, HEAD = CUT_S * CUT_D };
    static uint8_t keep[ALL][CUT_BLOCKS][CUT_TILES];
    naive_random random = {21};
    fga_context *ctx = naive_context(2, NULL);
    float *q = naive_values(&random, ALL * HEAD, FGA_F32, 2), *k = naive_values(&random, ALL * HEAD, FGA_F32, 1);
    float *v = naive_values(&random, ALL * HEAD, FGA_F32, 1), *whole = calloc(ALL * HEAD, sizeof *whole);
    float *parts = calloc(ALL * HEAD, sizeof *parts);
    for (size_t i = 0; i < sizeof keep; i++) {
        (&keep[0][0][0])[i] = naive_between(&random, 0, 3) == 0;
    }
    attend_piece(ctx, &(piece){q, k, v, whole, keep[0][0], BATCH, HEADS, CUT_S});
    for (int cut = 0; cut <= CUT_BLOCKS; cut++) { /* blocks before `cut`, if any, in one call, the rest in another */
        memset(parts, 0xff, ALL * HEAD * sizeof *parts);
        for (int head = 0; head < ALL; head++) {
            int64_t queries = cut == CUT_BLOCKS ? CUT_S : cut * CUT_M, at = head * HEAD, rest = at + queries * CUT_D;
            attend_piece(ctx, &(piece){q + at, k + at, v + at, parts + at, keep[head][0], 1, 1, queries});
            if (cut < CUT_BLOCKS) {
                attend_piece(ctx,
                             &(piece){q + rest, k + at, v + at, parts + rest, keep[head][cut], 1, 1, CUT_S - queries});
            }
        }
        assert_memory_equal(parts, whole, ALL * HEAD * sizeof *parts);
    }
    void *all[] = {q, k, v, whole, parts};
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) {
        free(all[i]);
    }
    fga_context_destroy(&ctx);
}

/* All tiles kept, M and N anything, equals no mask; rows of padding keys apart, which only the mask knows. */
static void everything_kept_is_dense(void **state)
{
    (void)state;
    fga_context *ctx = naive_context(2, NULL);
    naive_random random = {13};
    for (int round = 0; round < 20; round++) {
        sample s = sample_make(&random, 150);
        s.p.query = fga_sequence_video(s.queries);
        s.p.key = fga_sequence_video(s.keys);
        memset(s.keep, 1, (size_t)(s.mask_batch * s.mask_heads * naive_blocks(&s.p) * naive_tiles(&s.p)));
        s.masked = false;
        sample_answer(&s);
        s.masked = true;
        answer sparse = sample_attend(ctx, &s, round % 2 == 0);
        sample_check(&s, &sparse);
        s.masked = false;
        s.group = 0;
        answer dense = sample_attend(ctx, &s, false);
        sample_check(&s, &dense);
        answer_free(&sparse);
        answer_free(&dense);
        sample_free(&s);
    }
    fga_context_destroy(&ctx);
}

/* K and V rows that no block keeps, that are padding, or whose bias is -inf hold NaN: nobody may notice. */
static void unkept_rows_are_never_read(void **state)
{
    (void)state;
    for (int v = 0; v < fga_variant_count(); v++) {
        if (!fga_variant_runs_here(v)) {
            continue;
        }
        fga_context *ctx = naive_context(2, fga_variant_name(v));
        naive_random random = {14};
        for (int round = 0; round < 12; round++) {
            sample s = sample_make(&random, 120);
            s.masked = true;
            s.group = 0;
            naive_mask mask = {&s.p, s.keep, s.mask_batch, s.mask_heads};
            sample_answer(&s);
            int64_t group = s.p.query_heads / s.p.kv_heads;
            for (int64_t kv = 0; kv < s.p.batch * s.p.kv_heads; kv++) {
                for (int64_t j = 0; j < s.keys; j++) {
                    bool read = false;
                    for (int64_t i = 0; i < s.queries * group; i++) {
                        int64_t h = kv % s.p.kv_heads * group + i / s.queries;
                        read |= naive_mask_pair(&mask, kv / s.p.kv_heads, h, i % s.queries, j);
                    }
                    read = read && (s.bias == NULL || s.bias[kv * s.keys + j] != -INFINITY);
                    for (int64_t c = 0; c < s.p.head_dim && !read; c++) {
                        s.k[(kv * s.keys + j) * s.p.head_dim + c] = s.v[(kv * s.keys + j) * s.p.head_dim + c] = NAN;
                    }
                }
            }
            answer got = sample_attend(ctx, &s, false);
            sample_check(&s, &got);
            answer_free(&got);
            sample_free(&s);
        }
        fga_context_destroy(&ctx);
    }
}

static void bias_broadcasts(void **state)
{
    (void)state;
    fga_context *ctx = naive_context(2, NULL);
    naive_random random = {15};
    sample s = sample_make(&random, 60);
    s.group = 0;
    free(s.bias);
    s.bias = calloc((size_t)(s.p.batch * s.p.kv_heads * s.keys), sizeof *s.bias);
    for (int64_t j = 0; j < s.p.batch * s.p.kv_heads * s.keys; j++) {
        s.bias[j] = j % s.keys == 3 ? logf(17) : j % s.keys % 5 == 0 ? -INFINITY : 0;
    }
    answer whole = sample_attend(ctx, &s, false);
    int64_t kv_heads = s.p.kv_heads, keys = s.keys;
    fga_attend_desc d = sample_describe(&s);
    fga_attend_plan *plan;
    assert_int_equal(fga_attend_plan_create(ctx, &d, &plan), FGA_OK);
    fga_attend_args a = fga_attend_args_default();
    fga_mask *mask = s.masked ? sample_mask(ctx, &s, false) : NULL;
    void *workspace = aligned_alloc(64, fga_attend_plan_workspace(plan) + 64 - fga_attend_plan_workspace(plan) % 64);
    a.q = a.o = sample_tensor(&s, s.p.query_heads, s.queries);
    a.k = a.v = sample_tensor(&s, kv_heads, keys);
    a.q.data = sample_lay_out(s.q, s.dtype, &a.q);
    a.k.data = sample_lay_out(s.k, s.dtype, &a.k);
    a.v.data = sample_lay_out(s.v, s.dtype, &a.v);
    a.o.data = malloc(whole.bytes);
    a.mask = mask;
    a.key_bias = s.bias; /* strides 0 */
    assert_int_equal(fga_attend_run(plan, &a, workspace, NULL), FGA_OK);
    assert_memory_equal(a.o.data, whole.o, whole.bytes);
    free(a.q.data);
    free(a.k.data);
    free(a.v.data);
    free(a.o.data);
    free(workspace);
    fga_mask_release(&mask);
    fga_attend_plan_destroy(&plan);
    answer_free(&whole);
    sample_free(&s);
    fga_context_destroy(&ctx);
}

static void bad_plans_are_named(void **state)
{
    (void)state;
    fga_context *ctx = naive_context(1, NULL);
    fga_attend_plan *plan;
    fga_attend_desc good = fga_attend_desc_default(), bad;
    good.query_heads = 4, good.kv_heads = 2, good.query_len = good.key_len = 8, good.head_dim = 64;
    const struct {
        size_t offset;
        int64_t value;
        fga_status status;
        const char *text;
    } cases[] = {
        {offsetof(fga_attend_desc, kv_heads), 3, FGA_ERR_ARGUMENT, "query_heads is 4, wanted a multiple of kv_heads"},
        {offsetof(fga_attend_desc, head_dim), 20, FGA_ERR_UNSUPPORTED, "head_dim is 20, wanted a multiple of 8"},
        {offsetof(fga_attend_desc, head_dim), 264, FGA_ERR_UNSUPPORTED, "head_dim is 264"},
        {offsetof(fga_attend_desc, query_len), -1, FGA_ERR_ARGUMENT, "query_len is -1"},
        {offsetof(fga_attend_desc, key_len), (int64_t)1 << 40, FGA_ERR_ARGUMENT, "key_len is 1099511627776"},
        {offsetof(fga_attend_desc, batch), 0, FGA_ERR_ARGUMENT, "batch is 0"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        bad = good;
        memcpy((char *)&bad + cases[i].offset, &cases[i].value, sizeof cases[i].value);
        assert_int_equal(fga_attend_plan_create(ctx, &bad, &plan), cases[i].status);
        assert_null(plan);
        assert_non_null(strstr(fga_last_error(ctx), cases[i].text));
    }
    bad = good, bad.tile_n = 8;
    assert_int_equal(fga_attend_plan_create(ctx, &bad, &plan), FGA_ERR_ARGUMENT);
    assert_non_null(strstr(fga_last_error(ctx), "block_m is 0"));
    bad = good, bad.scale = NAN;
    assert_int_equal(fga_attend_plan_create(ctx, &bad, &plan), FGA_ERR_ARGUMENT);
    fga_context_destroy(&ctx);
    ctx = naive_context(1, "sse9");
    assert_int_equal(fga_attend_plan_create(ctx, &good, &plan), FGA_ERR_ARGUMENT);
    assert_non_null(strstr(fga_last_error(ctx), "sse9"));
    fga_context_destroy(&ctx);
}

static void bad_arguments_are_named(void **state)
{
    (void)state;
    fga_context *ctx = naive_context(1, NULL);
    _Alignas(64) static char workspace[1 << 20];
    static float data[2 * 8 * 64];
    fga_attend_plan *plan;
    fga_attend_desc d = fga_attend_desc_default();
    d.query_heads = d.kv_heads = 2, d.query_len = d.key_len = 8, d.head_dim = 64, d.block_m = 16, d.tile_n = 4;
    assert_int_equal(fga_attend_plan_create(ctx, &d, &plan), FGA_OK);
    assert_true(fga_attend_plan_workspace(plan) <= sizeof workspace);
    assert_non_null(fga_attend_plan_variant(plan));
    fga_attend_args good = fga_attend_args_default(), bad;
    good.q = good.k = good.v = good.o = fga_tensor_bhsd(data, FGA_F32, 1, 2, 8, 64);
    bad = good, bad.k.extent[2] = 9;
    assert_int_equal(fga_attend_run(plan, &bad, workspace, NULL), FGA_ERR_ARGUMENT);
    assert_string_equal(fga_last_error(ctx), "k has 9 tokens, wanted 8");
    bad = good, bad.v.dtype = FGA_BF16;
    assert_int_equal(fga_attend_run(plan, &bad, workspace, NULL), FGA_ERR_ARGUMENT);
    assert_string_equal(fga_last_error(ctx), "v is bf16, wanted f32");
    bad = good, bad.q.stride[3] = 2;
    assert_int_equal(fga_attend_run(plan, &bad, workspace, NULL), FGA_ERR_ARGUMENT);
    assert_string_equal(fga_last_error(ctx), "q has channel stride 2, wanted 1");
    bad = good, bad.o.data = NULL;
    assert_int_equal(fga_attend_run(plan, &bad, workspace, NULL), FGA_ERR_ARGUMENT);
    assert_string_equal(fga_last_error(ctx), "o.data is NULL");
    assert_int_equal(fga_attend_run(plan, &good, workspace + 8, NULL), FGA_ERR_ARGUMENT);
    assert_non_null(strstr(fga_last_error(ctx), "aligned to 64"));
    fga_mask_desc m = fga_mask_desc_default();
    m.query = m.key = fga_sequence_video(8), m.block_m = 16, m.tile_n = 8;
    const uint8_t keep[2] = {1, 1};
    fga_mask *mask;
    assert_int_equal(fga_mask_from_bool(ctx, &m, keep, &mask), FGA_OK);
    bad = good, bad.mask = mask;
    assert_int_equal(fga_attend_run(plan, &bad, workspace, NULL), FGA_ERR_ARGUMENT);
    assert_string_equal(fga_last_error(ctx), "mask has tiles of 16x8, wanted the plan's 16x4");
    fga_mask_release(&mask);
    m.tile_n = 4, m.heads = 1, m.key = fga_sequence_video(5);
    assert_int_equal(fga_mask_from_bool(ctx, &m, keep, &mask), FGA_OK);
    bad.mask = mask;
    assert_int_equal(fga_attend_run(plan, &bad, workspace, NULL), FGA_ERR_ARGUMENT);
    assert_string_equal(fga_last_error(ctx), "mask is over 8 queries and 5 keys, wanted 8 and 8");
    fga_mask_release(&mask);
    assert_int_equal(fga_attend_run(plan, &good, workspace, NULL), FGA_OK);
    fga_attend_plan_destroy(&plan);
    fga_attend_plan_destroy(&plan);
    fga_context_destroy(&ctx);
}

static void nothing_to_attend_to(void **state)
{
    (void)state;
    fga_context *ctx = naive_context(2, NULL);
    fga_attend_desc d = fga_attend_desc_default();
    fga_attend_plan *plan;
    d.query_heads = d.kv_heads = 1, d.query_len = 3, d.key_len = 0, d.head_dim = 8;
    assert_int_equal(fga_attend_plan_create(ctx, &d, &plan), FGA_OK);
    float q[24] = {1}, o[24], lse[3] = {0};
    memset(o, 0xff, sizeof o);
    fga_attend_args a = fga_attend_args_default();
    a.q = fga_tensor_bhsd(q, FGA_F32, 1, 1, 3, 8);
    a.o = fga_tensor_bhsd(o, FGA_F32, 1, 1, 3, 8);
    a.k = a.v = fga_tensor_bhsd(NULL, FGA_F32, 1, 1, 0, 8);
    a.lse = lse;
    void *workspace = aligned_alloc(64, (fga_attend_plan_workspace(plan) + 63) / 64 * 64);
    assert_int_equal(fga_attend_run(plan, &a, workspace, NULL), FGA_OK);
    for (int i = 0; i < 24; i++) {
        assert_true(o[i] == 0 && lse[i / 8] == -INFINITY);
    }
    free(workspace);
    fga_attend_plan_destroy(&plan);
    fga_context_destroy(&ctx);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(equals_the_naive_attention),
        cmocka_unit_test(threads_and_storage_change_no_byte),
        cmocka_unit_test(any_split_gives_the_same_bytes),
        cmocka_unit_test(everything_kept_is_dense),
        cmocka_unit_test(unkept_rows_are_never_read),
        cmocka_unit_test(bias_broadcasts),
        cmocka_unit_test(bad_plans_are_named),
        cmocka_unit_test(bad_arguments_are_named),
        cmocka_unit_test(nothing_to_attend_to),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
