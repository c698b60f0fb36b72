/* Measured recall and output error against their definitions, from probabilities computed one by one. */
#include "attn/measure.h"
#include "naive.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

/* f32, [batch][heads][tokens][head_dim]: an attention under a mask, and what dense attention gives. */
typedef struct sample {
    naive_problem p;
    int64_t heads, queries, keys;
    int32_t group; /* of remainder summaries; 0: keys that are not kept are dropped */
    float *q, *k, *v, *o, *lse, *bias;
    uint8_t *keep;
    naive_mask mask;
    double *dense_o, *dense_lse, *kept_o, *kept_lse;
} sample;

static bool valid_key(const void *arg, int64_t b, int64_t h, int64_t i, int64_t j)
{
    (void)b, (void)h, (void)i;
    return naive_is_valid(&((const naive_problem *)arg)->key, j);
}

static sample make(naive_random *random, int64_t most)
{
    sample s = {.p = naive_random_problem(random, most)};
    s.heads = s.p.batch * s.p.query_heads;
    s.queries = fga_sequence_length(&s.p.query);
    s.keys = fga_sequence_length(&s.p.key);
    int64_t rows = s.heads * s.queries, d = s.p.head_dim, kv_rows = s.p.batch * s.p.kv_heads * s.keys;
    s.q = naive_values(random, rows * d, FGA_F32, 2);
    s.k = naive_values(random, kv_rows * d, FGA_F32, 2);
    s.v = naive_values(random, kv_rows * d, FGA_F32, 1);
    s.bias = naive_values(random, kv_rows, FGA_F32, 1);
    for (int64_t j = 0; j < kv_rows; j += 7) {
        s.bias[j] = -INFINITY;
    }
    s.o = malloc((size_t)(rows * d) * sizeof *s.o);
    s.lse = malloc((size_t)rows * sizeof *s.lse);
    int64_t cells = s.heads * naive_blocks(&s.p) * naive_tiles(&s.p), in_8 = naive_between(random, 1, 8);
    s.keep = calloc((size_t)cells, 1);
    for (int64_t i = 0; i < cells; i++) {
        s.keep[i] = naive_between(random, 0, 7) < in_8;
    }
    s.mask = (naive_mask){&s.p, s.keep, s.p.batch, s.p.query_heads};
    double **outputs[4] = {&s.dense_o, &s.kept_o, &s.dense_lse, &s.kept_lse};
    for (int i = 0; i < 4; i++) {
        *outputs[i] = malloc((size_t)(rows * (i < 2 ? d : 1)) * sizeof(double));
    }
    return s;
}

static void answer_naively(sample *s)
{
    s->mask.p = &s->p;
    naive_attend(&s->p, &(naive_attention){s->q, s->k, s->v, s->bias, valid_key, &s->p, s->dense_o, s->dense_lse, 0});
    naive_attend(&s->p, &(naive_attention){s->q, s->k, s->v, s->bias, naive_mask_pair, &s->mask, s->kept_o, s->kept_lse,
                                           s->group});
}

static void free_sample(sample *s)
{
    void *all[] = {s->q, s->k, s->v, s->o, s->lse, s->bias, s->keep, s->dense_o, s->dense_lse, s->kept_o, s->kept_lse};
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) {
        free(all[i]);
    }
}

/* The definition: sum over kept keys of the dense probabilities of query `row`. */
static double exact_recall(const sample *s, int64_t head, int64_t i)
{
    int64_t d = s->p.head_dim, b = head / s->p.query_heads, h = head % s->p.query_heads;
    int64_t kv = b * s->p.kv_heads + h / (s->p.query_heads / s->p.kv_heads);
    double mass = 0;
    for (int64_t j = 0; j < s->keys; j++) {
        double z = s->bias[kv * s->keys + j], dot = 0;
        if (!naive_mask_pair(&s->mask, b, h, i, j) || z == -INFINITY) {
            continue;
        }
        for (int64_t c = 0; c < d; c++) {
            dot += (double)s->q[(head * s->queries + i) * d + c] * (double)s->k[(kv * s->keys + j) * d + c];
        }
        mass += exp(dot / sqrt((double)d) + z - s->dense_lse[head * s->queries + i]);
    }
    return s->dense_lse[head * s->queries + i] == -INFINITY ? 1 : mass;
}

static int rising(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Of the mean of n of `all` values: an infinite deviation where one of several says nothing of it. */
static fga_uncertainty uncertainty_of_mean(const double *x, int64_t n, int64_t all)
{
    double mean = 0, squares = 0, cubes = 0, unseen = 1 - (double)n / (double)all;
    for (int64_t i = 0; i < n; i++) {
        mean += x[i] / (double)n;
    }
    for (int64_t i = 0; i < n; i++) {
        squares += (x[i] - mean) * (x[i] - mean);
        cubes += pow(x[i] - mean, 3);
    }
    double variance = n > 1 ? squares / (double)(n - 1) / (double)n : INFINITY;
    return (fga_uncertainty){.deviation = n == all ? 0 : sqrt(variance * unseen),
                             .skew = squares > 0 ? cubes / squares / (double)n * unseen : 0};
}

static void assert_uncertain(fga_uncertainty got, fga_uncertainty want, double within)
{
    assert_true(got.deviation == want.deviation || fabs(got.deviation - want.deviation) < within);
    assert_true(fabs(got.skew - want.skew) < within);
}

/* What define finds beside the quality, for check_probe. */
static fga_uncertainty recall_off[64], error_off[64];

/* Section 6 from the definitions. */
static fga_quality define(const sample *s, double fraction, double *recall_heads, double *error_heads)
{
    double rows[200], errors[200], norms[200];
    int64_t video = s->p.query.video_valid, n = (int64_t)floor(fraction * (double)video), d = s->p.head_dim;
    n = n < 1 ? 1 : n > video ? video : n;
    int64_t blocks = naive_blocks(&s->p), found = 0;
    double *sum = calloc((size_t)blocks, sizeof *sum), *count = calloc((size_t)blocks, sizeof *count);
    double *means = calloc((size_t)(s->heads * blocks), sizeof *means), all_error = 0, all_norm = 0;
    fga_quality q = {.recall_worst = 2, .queries = n};
    for (int64_t head = 0; head < s->heads; head++) {
        double recall = 0, error = 0, norm = 0;
        memset(sum, 0, (size_t)blocks * sizeof *sum);
        memset(count, 0, (size_t)blocks * sizeof *count);
        for (int64_t r = 0; r < n; r++) {
            int64_t i = s->p.query.prefix + (int64_t)floor((2. * (double)r + 1) * (double)video / (2. * (double)n));
            double x = exact_recall(s, head, i);
            recall += x / (double)n;
            rows[r] = 1 - x; /* what is lost */
            errors[r] = norms[r] = 0;
            sum[i / s->p.m] += x;
            count[i / s->p.m] += 1;
            for (int64_t c = 0; c < d; c++) {
                int64_t at = (head * s->queries + i) * d + c;
                errors[r] += (s->kept_o[at] - s->dense_o[at]) * (s->kept_o[at] - s->dense_o[at]);
                norms[r] += s->dense_o[at] * s->dense_o[at];
            }
            error += errors[r];
            norm += norms[r];
        }
        for (int64_t u = 0; u < blocks; u++) {
            if (count[u] > 0) {
                means[found++] = sum[u] / count[u];
            }
        }
        recall_off[head] = uncertainty_of_mean(rows, n, video);
        for (int64_t r = 0; r < n; r++) { /* of the quotient of two means, to first order */
            errors[r] = norm > 0 ? (errors[r] - error / norm * norms[r]) / (norm / (double)n) : 0;
        }
        error_off[head] = error > 0 ? uncertainty_of_mean(errors, n, video) : (fga_uncertainty){0};
        recall_heads[head] = recall;
        error_heads[head] = norm > 0 ? sqrt(error / norm) : 0;
        q.recall += recall / (double)s->heads;
        q.recall_worst = fmin(q.recall_worst, recall);
        all_error += error;
        all_norm += norm;
    }
    q.output_error = all_norm > 0 ? sqrt(all_error / all_norm) : 0;
    qsort(means, (size_t)found, sizeof *means, rising);
    double at = 0.05 * (double)(found - 1);
    int64_t low = (int64_t)at;
    q.recall_p05 = means[low] + (low + 1 < found ? (at - (double)low) * (means[low + 1] - means[low]) : 0);
    free(sum);
    free(count);
    free(means);
    return q;
}

static fga_attend_desc describe(const sample *s)
{
    fga_attend_desc d = fga_attend_desc_default();
    d.batch = s->p.batch;
    d.query_heads = s->p.query_heads;
    d.kv_heads = s->p.kv_heads;
    d.query_len = s->queries;
    d.key_len = s->keys;
    d.head_dim = s->p.head_dim;
    d.block_m = s->p.m;
    d.tile_n = s->p.n;
    return d;
}

static void *room(size_t bytes)
{
    void *memory = aligned_alloc(64, (bytes + 127) / 64 * 64);
    memset(memory, 0xff, (bytes + 127) / 64 * 64);
    return memory;
}

/* Heads judged without having been attended with: the same figures, and those of skipped heads untouched. */
static void check_probe(fga_context *ctx, const fga_attend_desc *d, const fga_measure_args *args)
{
    enum { MOST = 64 };
    fga_meter meter;
    fga_head_quality heads[MOST];
    uint8_t skip[MOST];
    int64_t count = d->batch * d->query_heads;
    assert_true(count <= MOST);
    assert_int_equal(fga_meter_init(ctx, d, &args->query, args->fraction, &meter), FGA_OK);
    void *workspace = room(meter.workspace_bytes);
    fga_attend_args unseen = args->attend;
    unseen.o.data = NULL;
    unseen.lse = NULL;
    for (int round = 0; round < 4; round++) { /* the exact attention of round 0 serves 1; of 2, with heads skipped, 3 */
        for (int64_t h = 0; h < count; h++) {
            heads[h] = (fga_head_quality){.recall = -1, .error_squared = -1};
            skip[h] = (round == 1 || round == 2) && h % 2 == 1;
        }
        fga_judge_call call = {.args = &unseen,
                               .recall = true,
                               .error = true,
                               .skip = skip,
                               .heads = heads,
                               .key = &args->attend.mask->desc.key,
                               .twin = round % 2 == 1,
                               .workspace = workspace};
        assert_int_equal(fga_meter_judge(&meter, &call), FGA_OK);
        for (int64_t h = 0; h < count; h++) {
            assert_true(skip[h] ? heads[h].recall == -1 : fabs(heads[h].recall - args->recall_heads[h]) < 2e-6);
            assert_true(skip[h] ? heads[h].error_squared == -1
                                : fabs(sqrt(heads[h].error_squared) - args->error_heads[h]) < 2e-5);
            if (!skip[h]) {
                assert_uncertain(heads[h].recall_off, recall_off[h], 1e-5);
            }
            if (!skip[h] && heads[h].error_squared >= 1e-9) {
                assert_uncertain(heads[h].error_off, error_off[h], 2e-5);
            }
        }
    }
    free(workspace);
}

static fga_mask *make_mask(fga_context *ctx, const sample *s)
{
    fga_mask_desc m = fga_mask_desc_default();
    fga_mask *mask;
    m.batch = s->p.batch;
    m.heads = s->p.query_heads;
    m.block_m = s->p.m;
    m.tile_n = s->p.n;
    m.query = s->p.query;
    m.key = s->p.key;
    assert_int_equal(fga_mask_from_bool(ctx, &m, s->keep, &mask), FGA_OK);
    return mask;
}

static fga_quality measure(fga_context *ctx, sample *s, double fraction, float *recall_heads, float *error_heads)
{
    fga_attend_desc d = describe(s);
    fga_attend_plan *plan;
    assert_int_equal(fga_attend_plan_create(ctx, &d, &plan), FGA_OK);
    fga_mask *mask = make_mask(ctx, s);
    fga_measure_args args = fga_measure_args_default();
    fga_attend_args *a = &args.attend;
    a->q = fga_tensor_bhsd(s->q, FGA_F32, s->p.batch, s->p.query_heads, s->queries, s->p.head_dim);
    a->o = fga_tensor_bhsd(s->o, FGA_F32, s->p.batch, s->p.query_heads, s->queries, s->p.head_dim);
    a->k = fga_tensor_bhsd(s->k, FGA_F32, s->p.batch, s->p.kv_heads, s->keys, s->p.head_dim);
    a->v = fga_tensor_bhsd(s->v, FGA_F32, s->p.batch, s->p.kv_heads, s->keys, s->p.head_dim);
    a->mask = mask;
    a->lse = s->lse;
    a->key_bias = s->bias;
    a->bias_batch_stride = s->p.kv_heads * s->keys;
    a->bias_head_stride = s->keys;
    fga_remainder remainder;
    size_t bytes = 0;
    void *sums = NULL;
    if (s->group > 0) {
        assert_int_equal(fga_remainder_place(ctx, &d, s->group, NULL, &bytes, &remainder), FGA_OK);
        sums = room(bytes);
        assert_int_equal(fga_remainder_place(ctx, &d, s->group, sums, &bytes, &remainder), FGA_OK);
        assert_int_equal(fga_remainder_fill(ctx, &d, a, &s->p.key, &remainder), FGA_OK);
        a->remainder = &remainder;
    }
    void *workspace = room(fga_attend_plan_workspace(plan));
    assert_int_equal(fga_attend_run(plan, a, workspace, NULL), FGA_OK);
    free(workspace);
    args.query = s->p.query;
    args.fraction = fraction;
    args.recall_heads = recall_heads;
    args.error_heads = error_heads;
    fga_quality quality;
    assert_int_equal(fga_measure_workspace(ctx, &d, fraction, &bytes), FGA_OK);
    char *guarded = room(bytes + 64); /* ends in a guard */
    assert_int_equal(fga_measure(ctx, &d, &args, guarded, &quality), FGA_OK);
    for (size_t i = bytes; i < bytes + 64; i++) {
        assert_int_equal(guarded[i], -1);
    }
    free(guarded);
    if (recall_heads != NULL) {
        check_probe(ctx, &d, &args);
    }
    free(sums);
    fga_attend_plan_destroy(&plan);
    fga_mask_release(&mask);
    return quality;
}

static void equals_the_definitions(void **state)
{
    (void)state;
    static const double fractions[] = {1e-9, 0.02, 0.1, 0.37, 1, 5};
    static const int32_t groups[] = {0, 8, 0, 64, 16};
    naive_random random = {41};
    for (int round = 0; round < 60; round++) {
        fga_context *ctx = naive_context(1 + round % 4, NULL);
        sample s = make(&random, 150);
        s.group = groups[round % 5];
        answer_naively(&s);
        double fraction = fractions[round % 6], recall[64], error[64];
        float got_recall[64], got_error[64];
        fga_quality wanted = define(&s, fraction, recall, error);
        fga_quality got = measure(ctx, &s, fraction, got_recall, got_error);
        assert_int_equal(got.queries, wanted.queries);
        assert_true(fabs(got.recall - wanted.recall) < 2e-5);
        assert_true(fabs(got.recall_worst - wanted.recall_worst) < 2e-5);
        assert_true(fabs(got.recall_p05 - wanted.recall_p05) < 2e-5);
        assert_true(fabs(got.output_error - wanted.output_error) < 2e-5);
        for (int64_t head = 0; head < s.heads; head++) {
            assert_true(fabs(got_recall[head] - recall[head]) < 2e-5);
            assert_true(fabs(got_error[head] - error[head]) < 2e-5);
        }
        free_sample(&s);
        fga_context_destroy(&ctx);
    }
}

static void all_kept_loses_nothing(void **state)
{
    (void)state;
    fga_context *ctx = naive_context(2, NULL);
    naive_random random = {42};
    sample s = make(&random, 200);
    memset(s.keep, 1, (size_t)(s.heads * naive_blocks(&s.p) * naive_tiles(&s.p)));
    fga_quality q = measure(ctx, &s, 0.5, NULL, NULL);
    assert_true(fabs(q.recall - 1) < 1e-5 && fabs(q.recall_worst - 1) < 1e-5 && q.output_error < 1e-5);
    memset(s.keep, 0, (size_t)(s.heads * naive_blocks(&s.p) * naive_tiles(&s.p)));
    q = measure(ctx, &s, 0.5, NULL, NULL);
    assert_true(q.recall == 0 && q.recall_p05 == 0 && fabs(q.output_error - 1) < 1e-12);
    free_sample(&s);
    fga_context_destroy(&ctx);
}

static void bad_arguments_are_named(void **state)
{
    (void)state;
    fga_context *ctx = naive_context(1, NULL);
    fga_attend_desc d = fga_attend_desc_default();
    fga_measure_args args = fga_measure_args_default();
    _Alignas(64) static char workspace[1 << 20];
    static float data[64 * 8];
    fga_quality q;
    size_t bytes;
    d.query_heads = d.kv_heads = 1, d.query_len = d.key_len = 64, d.head_dim = 8;
    args.attend.q = args.attend.k = args.attend.v = args.attend.o = fga_tensor_bhsd(data, FGA_F32, 1, 1, 64, 8);
    args.query = fga_sequence_video(64);
    assert_int_equal(fga_measure_workspace(ctx, &d, NAN, &bytes), FGA_ERR_ARGUMENT);
    assert_string_equal(fga_last_error(ctx), "fraction is nan, wanted above 0");
    assert_int_equal(fga_measure_workspace(ctx, &d, 1, &bytes), FGA_OK);
    assert_true(bytes <= sizeof workspace);
    assert_int_equal(fga_measure(ctx, &d, &args, workspace, &q), FGA_ERR_ARGUMENT);
    assert_string_equal(fga_last_error(ctx), "lse is NULL: recall is measured by it");
    args.query = fga_sequence_video(63);
    assert_int_equal(fga_measure(ctx, &d, &args, workspace, &q), FGA_ERR_ARGUMENT);
    assert_non_null(strstr(fga_last_error(ctx), "63 tokens, wanted query_len = 64"));
    args.query = (fga_sequence){.prefix = 64, .prefix_valid = 64};
    assert_int_equal(fga_measure(ctx, &d, &args, workspace, &q), FGA_ERR_ARGUMENT);
    assert_string_equal(fga_last_error(ctx), "there is no valid video query to measure");
    args.query = fga_sequence_video(64);
    args.attend.k.data = NULL;
    assert_int_equal(fga_measure(ctx, &d, &args, workspace, &q), FGA_ERR_ARGUMENT);
    assert_string_equal(fga_last_error(ctx), "k.data is NULL");
    args.attend.size = 8;
    assert_int_equal(fga_measure(ctx, &d, &args, workspace, &q), FGA_ERR_ARGUMENT);
    assert_non_null(strstr(fga_last_error(ctx), "fga_attend_args.size is 8"));
    fga_context_destroy(&ctx);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(equals_the_definitions),
        cmocka_unit_test(all_kept_loses_nothing),
        cmocka_unit_test(bad_arguments_are_named),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
