/* The analysis against its definitions written out in double, on a video of 165 tokens: one whole block and a ragged
 * one, two query heads on one key head. */
#include "fgattn_inspect.h"
#include "naive.h"

#include "base/half.h"

#include <float.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { FRAMES = 3, HEIGHT = 5, WIDTH = 11, TOKENS = FRAMES * HEIGHT * WIDTH, HEADS = 2, DIM = 16 };

typedef struct example {
    fga_context *ctx;
    fga_inspect *inspect;
    float *q, *k, *v;                /* [heads][TOKENS][DIM], raster */
    int32_t order[TOKENS];           /* Hilbert */
    double p[HEADS][TOKENS][TOKENS]; /* in that order */
} example;

static double dot(const float *a, const float *b)
{
    double sum = 0;
    for (int c = 0; c < DIM; c++) {
        sum += (double)a[c] * (double)b[c];
    }
    return sum;
}

static const float *row(const example *e, const float *x, int head, int token)
{
    return x + ((int64_t)head * TOKENS + e->order[token]) * DIM;
}

static void fill_probabilities(example *e)
{
    for (int h = 0; h < HEADS; h++) {
        for (int i = 0; i < TOKENS; i++) {
            double sum = 0;
            for (int j = 0; j < TOKENS; j++) {
                e->p[h][i][j] = exp(dot(row(e, e->q, h, i), row(e, e->k, 0, j)) / sqrt(DIM));
                sum += e->p[h][i][j];
            }
            for (int j = 0; j < TOKENS; j++) {
                e->p[h][i][j] /= sum;
            }
        }
    }
}

static fga_inspect_desc describe(const example *e)
{
    fga_inspect_desc d = fga_inspect_desc_default();
    d.q = fga_tensor_bhsd(e->q, FGA_F32, 1, HEADS, TOKENS, DIM);
    d.k = fga_tensor_bhsd(e->k, FGA_F32, 1, 1, TOKENS, DIM);
    d.v = fga_tensor_bhsd(e->v, FGA_F32, 1, 1, TOKENS, DIM);
    d.frames = FRAMES;
    d.height = HEIGHT;
    d.width = WIDTH;
    return d;
}

static example *start(int threads, int64_t sample_blocks)
{
    example *e = calloc(1, sizeof *e);
    assert_non_null(e);
    naive_random random = {7};
    e->ctx = naive_context(threads, NULL);
    e->q = naive_values(&random, (int64_t)HEADS * TOKENS * DIM, FGA_F32, 2.0f);
    e->k = naive_values(&random, (int64_t)TOKENS * DIM, FGA_F32, 1.0f);
    e->v = naive_values(&random, (int64_t)TOKENS * DIM, FGA_F32, 1.0f);
    for (int i = 0; i < TOKENS * DIM; i++) { /* v follows k, so that what is dropped matters */
        e->v[i] += 0.5f * e->k[i];
    }
    assert_int_equal(fga_order_build(e->ctx, FGA_ORDER_HILBERT, FRAMES, HEIGHT, WIDTH, e->order), FGA_OK);
    fga_inspect_desc d = describe(e);
    d.sample_blocks = sample_blocks;
    if (fga_inspect_create(e->ctx, &d, &e->inspect) != FGA_OK) {
        fail_msg("%s", fga_last_error(e->ctx));
    }
    return e;
}

static void stop(example *e)
{
    fga_inspect_destroy(&e->inspect);
    assert_null(e->inspect);
    fga_context_destroy(&e->ctx);
    free(e->q);
    free(e->k);
    free(e->v);
    free(e);
}

/* ---- heads ----------------------------------------------------------------------------------------- */

static int falling(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x < y) - (x > y);
}

/* Mass of queries [first, end) on tiles of n keys, largest first; sizes of tiles are equal but for a ragged one, whose
 * place is *ragged. */
static int sorted_tiles(const example *e, int h, int first, int end, int n, double *mass, int *ragged)
{
    int tiles = (TOKENS + n - 1) / n;
    for (int v = 0; v < tiles; v++) {
        mass[v] = 0;
        for (int i = first; i < end; i++) {
            for (int j = v * n; j < TOKENS && j < (v + 1) * n; j++) {
                mass[v] += e->p[h][i][j];
            }
        }
    }
    double last = mass[tiles - 1];
    qsort(mass, (size_t)tiles, sizeof *mass, falling);
    for (*ragged = 0; mass[*ragged] != last;) {
        ++*ragged;
    }
    return tiles;
}

static void check_tables(const example *e, int h, const fga_inspect_head *head)
{
    double mass[TOKENS];
    for (int m = 0; m < FGA_INSPECT_M; m++) {
        for (int n = 0; n < FGA_INSPECT_N; n++) {
            int size = fga_inspect_m[m], width = fga_inspect_n[n], ragged;
            double kept[FGA_INSPECT_RECALLS] = {0}, recall[FGA_INSPECT_DENSITIES] = {0};
            for (int first = 0; first < TOKENS; first += size) {
                int end = first + size < TOKENS ? first + size : TOKENS;
                int tiles = sorted_tiles(e, h, first, end, width, mass, &ragged);
                for (int r = 0; r < FGA_INSPECT_RECALLS; r++) {
                    double sum = 0;
                    for (int i = 0; i < tiles && sum < fga_inspect_recalls[r] * (end - first); i++) {
                        sum += mass[i];
                        kept[r] += (end - first) * (i == ragged ? TOKENS - (tiles - 1) * width : width);
                    }
                }
                for (int d = 0; d < FGA_INSPECT_DENSITIES; d++) {
                    int take = (int)floor(fga_inspect_densities[d] * tiles + 0.5 + 1e-6);
                    for (int i = 0; i < (take > 1 ? take : 1); i++) {
                        recall[d] += mass[i] / TOKENS;
                    }
                }
            }
            for (int r = 0; r < FGA_INSPECT_RECALLS; r++) {
                assert_float_equal(head->sparsity[m][n][r], 1 - kept[r] / (TOKENS * TOKENS), 1e-6);
            }
            for (int d = 0; d < FGA_INSPECT_DENSITIES; d++) {
                assert_float_equal(head->recall[m][n][d], recall[d], 1e-5);
            }
        }
    }
}

static void check_runs(const example *e, int h, const fga_inspect_head *head)
{
    int64_t runs[FGA_INSPECT_RUN_BINS] = {0}, keys[FGA_INSPECT_RUN_BINS] = {0};
    double mass[TOKENS];
    for (int first = 0; first < TOKENS; first += 128) {
        int end = first + 128 < TOKENS ? first + 128 : TOKENS, ragged, take = 0;
        sorted_tiles(e, h, first, end, 1, mass, &ragged);
        for (double sum = 0; sum < 0.9 * (end - first); take++) {
            sum += mass[take];
        }
        int length = 0;
        for (int j = 0; j <= TOKENS; j++) {
            double here = 0;
            for (int i = first; j < TOKENS && i < end; i++) {
                here += e->p[h][i][j];
            }
            if (j < TOKENS && here >= mass[take - 1]) {
                length++;
            } else if (length > 0) {
                int bin = (int)floor(log2(length));
                runs[bin]++;
                keys[bin] += length;
                length = 0;
            }
        }
    }
    assert_memory_equal(runs, head->runs, sizeof runs);
    assert_memory_equal(keys, head->run_keys, sizeof keys);
}

static void test_heads(void **state)
{
    (void)state;
    example *e = start(2, 0);
    fill_probabilities(e);
    assert_int_equal(fga_inspect_queries(e->inspect), TOKENS);
    fga_inspect_head heads[HEADS];
    fga_inspect_map map;
    fga_inspect_map_size(e->inspect, 50, &map);
    assert_int_equal(map.rows, 11); /* ceil(165/16) */
    assert_int_equal(map.columns, 50);
    map.mass = calloc((size_t)(HEADS * map.rows * map.columns), sizeof *map.mass);
    assert_non_null(map.mass);
    if (fga_inspect_heads(e->inspect, FGA_ORDER_HILBERT, heads, &map) != FGA_OK) {
        fail_msg("%s", fga_last_error(e->ctx));
    }
    for (int h = 0; h < HEADS; h++) {
        double entropy = 0, effective = 0, own = 0;
        for (int i = 0; i < TOKENS; i++) {
            double sum = 0;
            for (int j = 0; j < TOKENS; j++) {
                sum -= e->p[h][i][j] * log(e->p[h][i][j]);
                own += e->order[i] / (HEIGHT * WIDTH) == e->order[j] / (HEIGHT * WIDTH) ? e->p[h][i][j] / TOKENS : 0;
            }
            entropy += sum / TOKENS;
            effective += exp(sum) / TOKENS;
        }
        assert_float_equal(heads[h].entropy, entropy, 1e-5);
        assert_float_equal(heads[h].effective_keys, effective, 1e-3);
        assert_float_equal(heads[h].self_frame, own, 1e-6);
        check_tables(e, h, &heads[h]);
        check_runs(e, h, &heads[h]);
        for (int64_t r = 0; r < map.rows; r++) {
            const float *picture = map.mass + (h * map.rows + r) * map.columns;
            int64_t queries = r < 10 ? 16 : 5;
            double sum = 0, tenth = 0;
            for (int64_t c = 0; c < map.columns; c++) {
                sum += (double)picture[c];
            }
            for (int64_t i = r * 16; i < r * 16 + queries; i++) {
                for (int j = 10 * TOKENS / 50; j < 11 * TOKENS / 50; j++) {
                    tenth += e->p[h][i][j] / (double)queries;
                }
            }
            assert_float_equal(sum, 1, 1e-5);
            assert_float_equal((double)picture[10], tenth, 1e-6);
        }
    }
    float p[TOKENS];
    assert_int_equal(fga_inspect_query(e->inspect, 1, e->order[17], p), FGA_OK);
    for (int j = 0; j < TOKENS; j++) {
        assert_float_equal((double)p[e->order[j]], e->p[1][17][j], 1e-6);
    }
    assert_int_equal(fga_inspect_query(e->inspect, 2, 0, p), FGA_ERR_ARGUMENT);
    assert_int_equal(fga_inspect_query(e->inspect, 0, TOKENS, p), FGA_ERR_ARGUMENT);
    free(map.mass);
    stop(e);
}

/* ---- points ---------------------------------------------------------------------------------------- */

/* Outputs with the kept keys and, where group > 0, summaries of the others: the plain definition. */
static void output(const example *e, int h, int i, const bool *kept, int group, double *o)
{
    double sum = 0;
    memset(o, 0, DIM * sizeof *o);
    int size = group > 0 ? group : TOKENS;
    for (int first = 0; first < TOKENS; first += size) {
        double mean = 0, value[DIM] = {0}, n = 0;
        for (int j = first; j < TOKENS && j < first + size; j++) {
            double x = dot(row(e, e->q, h, i), row(e, e->k, 0, j)) / sqrt(DIM);
            for (int c = 0; c < DIM; c++) {
                *(kept[j] ? &o[c] : &value[c]) += (kept[j] ? exp(x) : 1) * (double)row(e, e->v, 0, j)[c];
            }
            sum += kept[j] ? exp(x) : 0;
            mean += kept[j] ? 0 : x;
            n += kept[j] ? 0 : 1;
        }
        double weight = group > 0 && n > 0 ? exp(mean / n) : 0;
        sum += n * weight;
        for (int c = 0; c < DIM; c++) {
            o[c] += weight * value[c];
        }
    }
    for (int c = 0; c < DIM; c++) {
        o[c] /= sum;
    }
}

/* Recall, error and cost of keep [HEADS][blocks of m][tiles of n] on queries from `first` on. */
static fga_inspect_point naive_point(const example *e, const uint8_t *keep, int m, int n, int group, int first)
{
    int tiles = (TOKENS + n - 1) / n, blocks = (TOKENS + m - 1) / m;
    double error = 0, norm = 0, pairs = (double)HEADS * (TOKENS - first) * TOKENS;
    fga_inspect_point point = {.recall_worst = 2};
    for (int h = 0; h < HEADS; h++) {
        double recall = 0, own_error = 0, own_norm = 0;
        for (int i = first; i < TOKENS; i++) {
            bool kept[TOKENS], all[TOKENS];
            for (int j = 0; j < TOKENS; j++) {
                kept[j] = keep[(h * blocks + i / m) * tiles + j / n] != 0;
                all[j] = true;
                recall += kept[j] ? e->p[h][i][j] / (TOKENS - first) : 0;
                point.density += kept[j] / pairs;
                point.cost += kept[j] / pairs;
            }
            for (int j = 0; group > 0 && j < TOKENS; j += group) {
                bool whole = true;
                for (int at = j; at < TOKENS && at < j + group; at++) {
                    whole = whole && kept[at];
                }
                point.cost += !whole / pairs;
            }
            double ours[DIM], exact[DIM];
            output(e, h, i, kept, group, ours);
            output(e, h, i, all, 0, exact);
            for (int c = 0; c < DIM; c++) {
                own_error += (ours[c] - exact[c]) * (ours[c] - exact[c]);
                own_norm += exact[c] * exact[c];
            }
        }
        point.recall += recall / HEADS;
        point.recall_worst = recall < point.recall_worst ? recall : point.recall_worst;
        point.output_error_worst = fmax(point.output_error_worst, sqrt(own_error / own_norm));
        error += own_error;
        norm += own_norm;
    }
    point.output_error = sqrt(error / norm);
    return point;
}

static void assert_points_equal(const fga_inspect_point *a, const fga_inspect_point *b)
{
    assert_float_equal(a->density, b->density, 1e-9);
    assert_float_equal(a->cost, b->cost, 1e-9);
    assert_float_equal(a->recall, b->recall, 1e-5);
    assert_float_equal(a->recall_worst, b->recall_worst, 1e-5);
    assert_float_equal(a->output_error, b->output_error, 1e-4);
    assert_float_equal(a->output_error_worst, b->output_error_worst, 1e-4);
}

/* What the library's own stages, called one by one, select for `policy`. */
static uint8_t *select_tiles(const example *e, const fga_policy *policy, double density)
{
    float *q = malloc(sizeof(float) * HEADS * TOKENS * DIM), *k = malloc(sizeof(float) * TOKENS * DIM);
    assert_true(q != NULL && k != NULL);
    for (int i = 0; i < HEADS * TOKENS; i++) {
        memcpy(q + i * DIM, row(e, e->q, i / TOKENS, i % TOKENS), DIM * sizeof *q);
        memcpy(k + i % TOKENS * DIM, row(e, e->k, 0, i % TOKENS), DIM * sizeof *k);
    }
    fga_predict_desc d = fga_predict_desc_default();
    d.batch = d.kv_heads = 1;
    d.query_heads = HEADS;
    d.head_dim = DIM;
    d.dtype = FGA_F32;
    d.query = d.key = fga_sequence_video(TOKENS);
    d.block_m = policy->block_m;
    d.tile_n = policy->tile_n;
    d.sub_q = policy->sub_q;
    d.sub_k = policy->sub_k;
    d.score = policy->score;
    size_t bytes;
    assert_int_equal(fga_score_workspace(e->ctx, &d, &bytes), FGA_OK);
    void *workspace = aligned_alloc(64, (bytes + 63) / 64 * 64);
    int64_t blocks = fga_predict_blocks(&d), tiles = fga_predict_tiles(&d);
    float *scores = malloc(sizeof(float) * (size_t)(HEADS * blocks * tiles));
    uint8_t *keep = malloc((size_t)(HEADS * blocks * tiles));
    assert_true(workspace != NULL && scores != NULL && keep != NULL);
    fga_tensor tq = fga_tensor_bhsd(q, FGA_F32, 1, HEADS, TOKENS, DIM),
               tk = fga_tensor_bhsd(k, FGA_F32, 1, 1, TOKENS, DIM);
    assert_int_equal(fga_score_tiles(e->ctx, &d, &tq, &tk, NULL, scores, workspace), FGA_OK);
    fga_mask *mask;
    assert_int_equal(fga_select_topk(e->ctx, &d, scores, density, &mask), FGA_OK);
    for (int64_t i = 0; i < HEADS * blocks * tiles; i++) {
        keep[i] = fga_mask_keeps(mask, 0, i / (blocks * tiles), i / tiles % blocks, i % tiles);
    }
    fga_mask_release(&mask);
    free(q);
    free(k);
    free(workspace);
    free(scores);
    return keep;
}

static fga_policy parse(const example *e, const char *text)
{
    fga_policy policy;
    if (fga_policy_parse(e->ctx, text, &policy) != FGA_OK) {
        fail_msg("%s", fga_last_error(e->ctx));
    }
    return policy;
}

static void test_policies(void **state)
{
    (void)state;
    example *e = start(2, 0);
    fill_probabilities(e);
    /* Neighbours that share scores, one that does not, and one in another order in between. */
    static const char *const texts[] = {"dfs,block_m=16,tile_n=8,sub_q=8,sub_k=4,density=0.4",
                                        "dfs,block_m=16,tile_n=8,sub_q=8,sub_k=4,density=0.1",
                                        "dfs,block_m=64,tile_n=1,sub_q=16,sub_k=1,density=0.3",
                                        "dfs,block_m=64,tile_n=1,sub_q=16,sub_k=1,density=0.3,order=raster",
                                        "dense",
                                        "dfs,block_m=192,tile_n=16,sub_q=16,sub_k=16,density=0.3"};
    static const double densities[] = {0.4, 0.1, 0.3, 0.3, 1, 0.3};
    enum { POLICIES = sizeof texts / sizeof texts[0] };
    fga_policy policies[POLICIES];
    fga_inspect_point points[POLICIES] = {0};
    float recall[HEADS], error[HEADS], cost[HEADS];
    for (int i = 0; i < POLICIES; i++) {
        policies[i] = parse(e, texts[i]);
    }
    points[1].recall_heads = recall;
    points[1].error_heads = error;
    points[1].cost_heads = cost;
    if (fga_inspect_policies(e->inspect, policies, POLICIES, points) != FGA_OK) {
        fail_msg("%s", fga_last_error(e->ctx));
    }
    for (int i = 0; i < POLICIES; i++) {
        if (policies[i].order != FGA_ORDER_HILBERT) {
            continue;
        }
        uint8_t *keep = select_tiles(e, &policies[i], densities[i]);
        fga_inspect_point wanted = naive_point(e, keep, policies[i].block_m, policies[i].tile_n, 0, 0);
        assert_points_equal(&points[i], &wanted);
        free(keep);
    }
    assert_float_equal(points[4].cost, 1, 1e-12);
    assert_float_equal(points[4].recall, 1, 1e-6);
    assert_float_equal(points[4].output_error, 0, 1e-6);
    assert_float_equal(points[3].density, points[2].density, 1e-12); /* in raster order: as many, but others */
    assert_true(fabs(points[3].recall - points[2].recall) > 1e-6);
    assert_float_equal((double)(recall[0] + recall[1]) / 2, points[1].recall, 1e-6);
    assert_float_equal(fmin((double)recall[0], (double)recall[1]), points[1].recall_worst, 1e-6);
    assert_float_equal(fmax((double)error[0], (double)error[1]), points[1].output_error_worst, 1e-6);
    assert_float_equal((double)(cost[0] + cost[1]) / 2, points[1].cost, 1e-6);
    assert_true(points[1].recall_p05 <= points[1].recall);
    policies[0].size = 1;
    assert_int_equal(fga_inspect_policies(e->inspect, policies, 1, points), FGA_ERR_ARGUMENT);
    stop(e);
}

/* The oracle's choice: sums over a tile, the largest first. */
static uint8_t *best_tiles(const example *e, int m, int n, int group, double density)
{
    int tiles = (TOKENS + n - 1) / n, blocks = (TOKENS + m - 1) / m;
    int take = (int)floor(density * tiles + 0.5 + 1e-6);
    uint8_t *keep = calloc((size_t)(HEADS * blocks * tiles), 1);
    assert_non_null(keep);
    for (int at = 0; at < HEADS * blocks; at++) {
        int h = at / blocks, first = at % blocks * m, end = first + m < TOKENS ? first + m : TOKENS;
        double score[TOKENS] = {0}, sorted[TOKENS];
        for (int j = 0; j < TOKENS; j++) {
            double sum = 0, spread = 0;
            int begin = group > 0 ? j / group * group : 0, stop_at = begin + group < TOKENS ? begin + group : TOKENS;
            for (int i = first; i < end; i++) {
                double mean = 0;
                for (int g = begin; group > 0 && g < stop_at; g++) {
                    mean += e->p[h][i][g] / (stop_at - begin);
                }
                sum += group > 0 ? fabs(e->p[h][i][j] - mean) : e->p[h][i][j];
            }
            for (int c = 0; group > 0 && c < DIM; c++) {
                double mean = 0;
                for (int g = begin; g < stop_at; g++) {
                    mean += (double)row(e, e->v, 0, g)[c] / (stop_at - begin);
                }
                spread += ((double)row(e, e->v, 0, j)[c] - mean) * ((double)row(e, e->v, 0, j)[c] - mean);
            }
            score[j / n] += sum * (group > 0 ? sqrt(spread) : 1);
        }
        memcpy(sorted, score, sizeof sorted);
        qsort(sorted, (size_t)tiles, sizeof *sorted, falling);
        for (int v = 0; v < tiles; v++) {
            keep[at * tiles + v] = score[v] >= sorted[take - 1];
        }
    }
    return keep;
}

static void test_best(void **state)
{
    (void)state;
    example *e = start(2, 0);
    fill_probabilities(e);
    static const double densities[] = {0.3, 0.1, 1};
    fga_inspect_point points[3];
    static const struct {
        int m, n, group;
    } cases[] = {{128, 1, 0}, {64, 8, 0}, {128, 1, 64}, {32, 2, 16}, {192, 1, 0}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        fga_inspect_best_desc d = {FGA_ORDER_HILBERT, cases[i].m, cases[i].n,
                                   cases[i].group > 0 ? FGA_REST_REMAINDER : FGA_REST_DROP, cases[i].group};
        memset(points, 0, sizeof points);
        assert_int_equal(fga_inspect_best(e->inspect, &d, densities, 3, points), FGA_OK);
        for (int at = 0; at < 2; at++) {
            uint8_t *keep = best_tiles(e, d.block_m, d.tile_n, d.group, densities[at]);
            fga_inspect_point wanted = naive_point(e, keep, d.block_m, d.tile_n, d.group, 0);
            assert_points_equal(&points[at], &wanted);
            free(keep);
        }
        assert_float_equal(points[2].recall, 1, 1e-6);
        assert_float_equal(points[2].output_error, 0, 1e-6);
        assert_float_equal(points[2].cost, 1, 1e-12);
    }
    fga_inspect_best_desc wrong = {FGA_ORDER_HILBERT, 100, 1, FGA_REST_DROP, 0};
    assert_int_equal(fga_inspect_best(e->inspect, &wrong, densities, 1, points), FGA_ERR_ARGUMENT);
    wrong = (fga_inspect_best_desc){FGA_ORDER_HILBERT, 128, 1, FGA_REST_REMAINDER, 7};
    assert_int_equal(fga_inspect_best(e->inspect, &wrong, densities, 1, points), FGA_ERR_ARGUMENT);
    wrong.group = 64;
    static const double none[] = {0};
    assert_int_equal(fga_inspect_best(e->inspect, &wrong, none, 1, points), FGA_ERR_ARGUMENT);
    stop(e);
}

/* One sampled block of two: the second, ragged one. */
static void test_sample(void **state)
{
    (void)state;
    example *e = start(1, 1);
    fill_probabilities(e);
    assert_int_equal(fga_inspect_queries(e->inspect), TOKENS - 128);
    fga_policy policy = parse(e, "dfs,block_m=32,tile_n=4,sub_q=8,sub_k=4,density=0.25");
    fga_inspect_point point = {0};
    assert_int_equal(fga_inspect_policies(e->inspect, &policy, 1, &point), FGA_OK);
    uint8_t *keep = select_tiles(e, &policy, 0.25);
    fga_inspect_point wanted = naive_point(e, keep, 32, 4, 0, 128);
    assert_points_equal(&point, &wanted);
    free(keep);
    stop(e);
}

static void test_bounds(void **state)
{
    (void)state;
    example *e = start(2, 0);
    fga_inspect_bound bounds[3] = {{.density = 0.5}, {.density = 1}, {.density = 0.1}};
    assert_int_equal(fga_inspect_bounds(e->inspect, FGA_ORDER_HILBERT, bounds, 3), FGA_OK);
    fga_policy policy = parse(e, "dfs,density=0.5");
    fga_inspect_point point = {0};
    assert_int_equal(fga_inspect_policies(e->inspect, &policy, 1, &point), FGA_OK);
    for (int i = 0; i < 3; i++) {
        const fga_inspect_bound *b = &bounds[i];
        assert_int_equal(b->blocks, 4);
        assert_true(b->eta > 0);
        assert_true(b->from_mass > 0 && b->from_mass <= b->recall + 1e-6);
        assert_true(b->against_best > 0 && b->against_best <= b->recall + 1e-6);
        assert_true(b->against_count > 0 && b->against_count <= b->against_best + 1e-6);
        assert_true(b->recall <= b->best_recall + 1e-6);
    }
    assert_float_equal(bounds[1].recall, 1, 1e-6);
    /* Two tiles: half of them is the same selection as the policy's; blocks of 128 and 37 queries count the same here.
     */
    assert_true(fabs(bounds[0].recall - point.recall) < 0.2);
    bounds[0].density = 2;
    assert_int_equal(fga_inspect_bounds(e->inspect, FGA_ORDER_HILBERT, bounds, 1), FGA_ERR_ARGUMENT);
    stop(e);
}

static void test_same_at_any_number_of_threads(void **state)
{
    (void)state;
    fga_inspect_head heads[3][HEADS];
    fga_inspect_point points[3][2];
    memset(heads, 0, sizeof heads);
    memset(points, 0, sizeof points);
    static const double densities[] = {0.2, 0.6};
    for (int t = 0; t < 3; t++) {
        example *e = start(t + 1, 0);
        assert_int_equal(fga_inspect_heads(e->inspect, FGA_ORDER_RASTER, heads[t], NULL), FGA_OK);
        fga_inspect_best_desc d = {FGA_ORDER_HILBERT, 16, 1, FGA_REST_REMAINDER, 32};
        assert_int_equal(fga_inspect_best(e->inspect, &d, densities, 2, points[t]), FGA_OK);
        stop(e);
        assert_memory_equal(heads[t], heads[0], sizeof heads[0]);
        assert_memory_equal(points[t], points[0], sizeof points[0]);
    }
}

static bool stop_at_third(void *user)
{
    return ++*(int *)user < 3;
}

static void test_what_is_refused(void **state)
{
    (void)state;
    example *e = start(1, 0);
    fga_inspect *inspect;
    fga_inspect_desc d = describe(e);
    d.width = 12;
    assert_int_equal(fga_inspect_create(e->ctx, &d, &inspect), FGA_ERR_ARGUMENT);
    assert_null(inspect);
    d = describe(e);
    d.frames = INT64_MAX;
    assert_int_equal(fga_inspect_create(e->ctx, &d, &inspect), FGA_ERR_ARGUMENT);
    d = describe(e);
    d.scale = NAN;
    assert_int_equal(fga_inspect_create(e->ctx, &d, &inspect), FGA_ERR_ARGUMENT);
    d = describe(e);
    d.size = 8;
    assert_int_equal(fga_inspect_create(e->ctx, &d, &inspect), FGA_ERR_ARGUMENT);
    d = describe(e);
    e->k[TOKENS * DIM - 1] = INFINITY;
    assert_int_equal(fga_inspect_create(e->ctx, &d, &inspect), FGA_ERR_DATA);
    assert_non_null(strstr(fga_last_error(e->ctx), "k of head 0"));
    assert_null(inspect);
    e->k[TOKENS * DIM - 1] = 0;
    int asked = 0;
    d.keep_going = stop_at_third;
    d.user = &asked;
    assert_int_equal(fga_inspect_create(e->ctx, &d, &inspect), FGA_OK);
    fga_inspect_head heads[HEADS];
    fga_status status = FGA_OK;
    while (status == FGA_OK) {
        status = fga_inspect_heads(inspect, FGA_ORDER_RASTER, heads, NULL);
    }
    assert_int_equal(status, FGA_ERR_INTERRUPTED);
    assert_int_equal(asked, 3);
    asked = 1;
    fga_policy policies[4];
    fga_inspect_point points[4] = {0};
    for (int i = 0; i < 4; i++) {
        policies[i] = parse(e, "dfs,density=0.5");
    }
    assert_int_equal(fga_inspect_policies(inspect, policies, 4, points), FGA_ERR_INTERRUPTED);
    assert_int_equal(asked, 3); /* once per policy */
    fga_inspect_destroy(&inspect);
    fga_inspect_destroy(NULL);
    stop(e);
}

/* Types: bf16 is looked at as the numbers it holds. */
static void test_half_types(void **state)
{
    (void)state;
    example *e = start(1, 0);
    for (int i = 0; i < HEADS * TOKENS * DIM; i++) {
        e->q[i] = fga_bf16_to_f32(fga_f32_to_bf16(e->q[i]));
    }
    for (int i = 0; i < TOKENS * DIM; i++) {
        e->k[i] = fga_bf16_to_f32(fga_f32_to_bf16(e->k[i]));
        e->v[i] = fga_bf16_to_f32(fga_f32_to_bf16(e->v[i]));
    }
    fga_inspect_desc d = describe(e);
    fga_inspect *inspect[2];
    fga_inspect_head heads[2][HEADS];
    assert_int_equal(fga_inspect_create(e->ctx, &d, &inspect[0]), FGA_OK);
    void *q = naive_cast(e->q, (int64_t)HEADS * TOKENS * DIM, FGA_BF16),
         *k = naive_cast(e->k, (int64_t)TOKENS * DIM, FGA_BF16);
    void *v = naive_cast(e->v, (int64_t)TOKENS * DIM, FGA_BF16);
    d.q = fga_tensor_bhsd(q, FGA_BF16, 1, HEADS, TOKENS, DIM);
    d.k = fga_tensor_bhsd(k, FGA_BF16, 1, 1, TOKENS, DIM);
    d.v = fga_tensor_bhsd(v, FGA_BF16, 1, 1, TOKENS, DIM);
    assert_int_equal(fga_inspect_create(e->ctx, &d, &inspect[1]), FGA_OK);
    for (int i = 0; i < 2; i++) {
        memset(heads[i], 0, sizeof heads[i]);
        assert_int_equal(fga_inspect_heads(inspect[i], FGA_ORDER_RASTER, heads[i], NULL), FGA_OK);
        fga_inspect_destroy(&inspect[i]);
    }
    assert_memory_equal(heads[0], heads[1], sizeof heads[0]);
    free(q);
    free(k);
    free(v);
    stop(e);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_heads),
        cmocka_unit_test(test_policies),
        cmocka_unit_test(test_best),
        cmocka_unit_test(test_sample),
        cmocka_unit_test(test_bounds),
        cmocka_unit_test(test_same_at_any_number_of_threads),
        cmocka_unit_test(test_what_is_refused),
        cmocka_unit_test(test_half_types),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
