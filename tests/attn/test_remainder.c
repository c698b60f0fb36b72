/* Remainder summaries: the sums, what attention makes of them, how they are counted. test_attend compares attention
 * with summaries and without over random shapes. */
#include "sample.h"

#include "attn/attn.h"
#include "base/half.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define EACH_CONTEXT(ctx) \
    for (int v = 0; v < fga_variant_count(); v++) \
        if (fga_variant_runs_here(v)) \
            for (fga_context *ctx = naive_context(2, fga_variant_name(v)); ctx != NULL; fga_context_destroy(&ctx))

/* Keys of (batch, key head) kv that belong into the sum of their group. */
static bool is_summed(const sample *s, int64_t kv, int64_t j)
{
    return naive_is_valid(&s->p.key, j) && (s->bias == NULL || s->bias[kv * s->keys + j] != -INFINITY);
}

static void check_sum(double got, double sum, double magnitude)
{
    assert_true(fabs(got - sum) <= 0x1p-21 * magnitude);
}

/* Two bf16 have sixteen bits of a sum between them. */
static void check_parts(const uint16_t *parts, int64_t d, const float *sum)
{
    for (int64_t c = 0; c < d; c++) {
        float high = fga_bf16_to_f32(parts[c]), low = fga_bf16_to_f32(parts[d + c]);
        assert_true(fabsf(high - sum[c]) <= 0x1p-8f * fabsf(sum[c]));
        assert_true(fabsf(high + low - sum[c]) <= 0x1p-16f * fabsf(sum[c]));
    }
}

static void check_group(const sample *s, const fga_remainder *r, int64_t kv, int64_t group)
{
    int64_t d = s->p.head_dim, row = kv * r->groups + group, count = 0;
    double bias = 0, bias_size = 0;
    for (int64_t c = 0; c < d; c++) {
        double k = 0, v = 0, k_size = 0, v_size = 0;
        for (int64_t j = group * r->group; j < (group + 1) * r->group && j < s->keys; j++) {
            int64_t at = kv * s->keys + j;
            if (is_summed(s, kv, j)) {
                k += (double)s->k[at * d + c], k_size += fabs((double)s->k[at * d + c]);
                v += (double)s->v[at * d + c], v_size += fabs((double)s->v[at * d + c]);
                count += c == 0;
                bias += c == 0 && s->bias != NULL ? (double)s->bias[at] : 0;
                bias_size += c == 0 && s->bias != NULL ? fabs((double)s->bias[at]) : 0;
            }
        }
        check_sum((double)r->sum_k[row * d + c], k, k_size);
        check_sum((double)r->sum_v[row * d + c], v, v_size);
    }
    if (r->parts != NULL) {
        check_parts(r->parts + 4 * row * d, d, r->sum_k + row * d);
        check_parts(r->parts + (4 * row + 2) * d, d, r->sum_v + row * d);
    }
    check_sum((double)r->sum_bias[row], bias, bias_size);
    assert_true(r->count[row] == (float)count);
}

/* One f32 head of 64 queries and keys under a mask of 64 x 1. */
static sample plain_sample(naive_random *random, int64_t queries, int64_t keys, float size)
{
    sample s = {.p = {.batch = 1, .query_heads = 1, .kv_heads = 1, .head_dim = 64, .m = 64, .n = 1, .sub_q = 1}};
    s.p.sub_k = 1;
    s.p.query = fga_sequence_video(queries), s.p.key = fga_sequence_video(keys);
    s.masked = true, s.mask_batch = s.mask_heads = 1, s.group = 64;
    s.queries = queries, s.keys = keys, s.q_count = queries * 64, s.k_count = keys * 64;
    s.q = naive_values(random, s.q_count, FGA_F32, size);
    s.k = naive_values(random, s.k_count, FGA_F32, size);
    s.v = naive_values(random, s.k_count, FGA_F32, 1);
    s.keep = calloc((size_t)((queries + 63) / 64 * keys), 1);
    s.o = calloc((size_t)s.q_count, sizeof *s.o);
    s.lse = calloc((size_t)queries, sizeof *s.lse);
    return s;
}

/* Padding, keys with bias -inf and the end of the sequence are in no sum: their rows hold NaN. */
static void sums_are_of_valid_keys(void **state)
{
    (void)state;
    EACH_CONTEXT(ctx)
    {
        naive_random random = {21};
        for (int round = 0; round < 9; round++) {
            sample s = round == 0 ? plain_sample(&random, 1, 2500, 1) : sample_make(&random, 50);
            s.group = 8 << round % 6;
            for (int64_t at = 0; at < s.k_count / s.p.head_dim; at++) {
                for (int64_t c = 0; c < s.p.head_dim && !is_summed(&s, at / s.keys, at % s.keys); c++) {
                    s.k[at * s.p.head_dim + c] = s.v[at * s.p.head_dim + c] = NAN;
                }
            }
            fga_remainder r;
            void *memory = sample_remainder(ctx, &s, &r);
            assert_int_equal(r.groups, (s.keys + s.group - 1) / s.group);
            for (int64_t kv = 0; kv < s.p.batch * s.p.kv_heads; kv++) {
                for (int64_t group = 0; group < r.groups; group++) {
                    check_group(&s, &r, kv, group);
                }
            }
            free(memory);
            sample_free(&s);
        }
    }
}

/* All but one or two keys of every group are kept, and logits reach several hundred: what is left of a sum after its
 * kept part is taken off must still be right. */
static void little_remains_of_large_logits(void **state)
{
    (void)state;
    EACH_CONTEXT(ctx)
    {
        naive_random random = {22};
        for (int left = 1; left <= 2; left++) {
            sample s = plain_sample(&random, 64, 640, 6);
            for (int64_t j = 0; j < s.keys; j++) {
                s.keep[j] = j % 64 >= left;
            }
            sample_answer(&s);
            answer got = sample_attend(ctx, &s, false);
            double error = 0, norm = 0;
            for (int64_t i = 0; i < s.q_count; i++) {
                double difference = (double)((const float *)got.o)[i] - s.o[i];
                error += difference * difference;
                norm += s.o[i] * s.o[i];
            }
            assert_true(sqrt(error / norm) <= 2e-4);
            answer_free(&got);
            sample_free(&s);
        }
    }
}

/* With nothing kept every group is one key: the mean of its keys with the mass of all of them. */
static void nothing_kept_leaves_the_summaries(void **state)
{
    (void)state;
    EACH_CONTEXT(ctx)
    {
        naive_random random = {23};
        sample s = plain_sample(&random, 70, 200, 1);
        sample_answer(&s);
        answer got = sample_attend(ctx, &s, false);
        sample_check(&s, &got);
        assert_true(isfinite(got.lse[0]));
        answer_free(&got);
        sample_free(&s);
    }
}

/* A block with padding queries alone gets no summaries. */
static void padding_queries_get_nothing(void **state)
{
    (void)state;
    EACH_CONTEXT(ctx)
    {
        naive_random random = {24};
        sample s = plain_sample(&random, 128, 100, 1);
        s.p.query.video_valid = 64;
        sample_answer(&s);
        answer got = sample_attend(ctx, &s, false);
        sample_check(&s, &got);
        assert_true(isfinite(got.lse[63]) && got.lse[64] == -INFINITY && got.lse[127] == -INFINITY);
        answer_free(&got);
        sample_free(&s);
    }
}

/* Runs s with `mask` and its sums, and returns the pairs. */
static fga_pairs count_pairs(fga_context *ctx, const sample *s, const fga_mask *mask)
{
    fga_attend_desc d = sample_describe(s);
    fga_attend_plan *plan;
    assert_int_equal(fga_attend_plan_create(ctx, &d, &plan), FGA_OK);
    fga_remainder r;
    void *memory = sample_remainder(ctx, s, &r);
    fga_attend_args a = fga_attend_args_default();
    a.q = a.o = fga_tensor_bhsd(s->q, FGA_F32, 1, 1, s->queries, 64);
    a.o.data = malloc((size_t)s->q_count * sizeof(float));
    a.k = fga_tensor_bhsd(s->k, FGA_F32, 1, 1, s->keys, 64);
    a.v = fga_tensor_bhsd(s->v, FGA_F32, 1, 1, s->keys, 64);
    a.mask = mask;
    a.remainder = &r;
    void *workspace = aligned_alloc(64, (fga_attend_plan_workspace(plan) + 63) / 64 * 64);
    fga_pairs pairs;
    assert_int_equal(fga_attend_execute(plan, &(fga_attend_call){.args = &a, .workspace = workspace, .pairs = &pairs}),
                     FGA_OK);
    free(workspace);
    free(a.o.data);
    free(memory);
    fga_attend_plan_destroy(&plan);
    return pairs;
}

static void summary_pairs_are_counted(void **state)
{
    (void)state;
    fga_context *ctx = naive_context(2, NULL);
    naive_random random = {25};
    sample s = plain_sample(&random, 100, 200, 1); /* groups of 64, 64, 64 and 8; blocks of 64 and 36, 26 of it valid */
    s.p.query.video_valid = 90;
    memset(s.keep, 1, 64); /* block 0 keeps the first group whole, 3 keys of the second, and the last */
    memset(s.keep + 80, 1, 3);
    memset(s.keep + 192, 1, 8);
    memset(s.keep + 200 + 192, 1, 7); /* block 1 keeps 7 of the last group */
    fga_mask *mask = sample_mask(ctx, &s, false);
    fga_pairs pairs = count_pairs(ctx, &s, mask);
    assert_true(pairs.all == 90 * 200);
    assert_true(pairs.kept == 64 * 75 + 26 * 7);
    assert_true(pairs.summaries == 64 * 2 + 26 * 4);
    fga_mask_release(&mask);
    s.masked = false; /* without a mask nothing remains */
    s.p.query.video_valid = 100;
    pairs = count_pairs(ctx, &s, NULL);
    assert_true(pairs.kept == 100 * 200 && pairs.all == 100 * 200 && pairs.summaries == 0);
    sample_free(&s);
    fga_context_destroy(&ctx);
}

static void expect(fga_context *ctx, fga_status got, const char *text)
{
    assert_int_equal(got, FGA_ERR_ARGUMENT);
    assert_string_equal(fga_last_error(ctx), text);
}

static void bad_arguments_are_named(void **state)
{
    (void)state;
    fga_context *ctx = naive_context(1, NULL);
    static float data[100 * 8], memory[4096];
    _Alignas(64) static char workspace[1 << 20];
    fga_attend_desc d = fga_attend_desc_default();
    d.query_heads = d.kv_heads = 1, d.query_len = d.key_len = 100, d.head_dim = 8, d.block_m = 16, d.tile_n = 4;
    size_t bytes;
    fga_remainder r, bad;
    expect(ctx, fga_remainder_place(ctx, &d, 24, NULL, &bytes, NULL), "group is 24, wanted 8, 16, 32, 64, 128 or 256");
    expect(ctx, fga_remainder_place(ctx, &d, 64, memory, &bytes, NULL), "remainder is NULL");
    assert_int_equal(fga_remainder_place(ctx, &d, 64, memory, &bytes, &r), FGA_OK);
    assert_true(bytes <= sizeof memory && r.groups == 2 && r.group == 64);
    fga_attend_args a = fga_attend_args_default();
    a.q = a.k = a.v = a.o = fga_tensor_bhsd(data, FGA_F32, 1, 1, 100, 8);
    fga_sequence key = fga_sequence_video(99);
    expect(ctx, fga_remainder_fill(ctx, &d, &a, &key, &r), "key is 99 tokens long, wanted key_len = 100");
    a.k.extent[2] = 99;
    expect(ctx, fga_remainder_fill(ctx, &d, &a, NULL, &r), "k has 99 tokens, wanted 100");
    a.k.extent[2] = 100;
    assert_int_equal(fga_remainder_fill(ctx, &d, &a, NULL, &r), FGA_OK);
    fga_attend_plan *plan;
    assert_int_equal(fga_attend_plan_create(ctx, &d, &plan), FGA_OK);
    assert_true(fga_attend_plan_workspace(plan) <= sizeof workspace);
    a.remainder = &bad;
    bad = r, bad.groups = 3;
    expect(ctx, fga_attend_run(plan, &a, workspace, NULL), "remainder has 3 groups of 64 keys, wanted 2 for 100 keys");
    bad = r, bad.sum_v = NULL;
    expect(ctx, fga_attend_run(plan, &a, workspace, NULL), "remainder.sum_v is NULL");
    bad = r, bad.size = 8;
    assert_int_equal(fga_attend_run(plan, &a, workspace, NULL), FGA_ERR_ARGUMENT);
    bad = r;
    assert_int_equal(fga_attend_run(plan, &a, workspace, NULL), FGA_OK);
    fga_attend_plan_destroy(&plan);
    fga_context_destroy(&ctx);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sums_are_of_valid_keys),
        cmocka_unit_test(little_remains_of_large_logits),
        cmocka_unit_test(nothing_kept_leaves_the_summaries),
        cmocka_unit_test(padding_queries_get_nothing),
        cmocka_unit_test(summary_pairs_are_counted),
        cmocka_unit_test(bad_arguments_are_named),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
