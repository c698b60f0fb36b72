/* The provable bounds on recall, against recall computed from its definition, on random and structured blocks. */
#include "attn/bounds.h"
#include "naive.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { MOST_TILES = 24, MOST_SUB = 96, MOST_QUERIES = 64, DIM = 8 };

/* One query block and its keys; the last tile and the last sub-tile may be ragged, and some keys are padding. */
typedef struct block {
    int64_t queries, sub_q, keys, tile, sub_k, tiles, sub_keys, sub_queries;
    float *q, *k;
    bool valid[MOST_TILES * 16];
    int64_t begin[MOST_SUB], valid_end[MOST_SUB], tile_of[MOST_SUB];
    double s[MOST_QUERIES * MOST_SUB], z[MOST_QUERIES][MOST_SUB]; /* z by query sub-tile */
    double eta, limit;
    double score[MOST_TILES], exact[MOST_TILES]; /* estimated and true mean mass of each tile */
} block;

static const double scale = 0.35;

static double logit(const block *b, int64_t i, int64_t j)
{
    double sum = 0;
    for (int64_t c = 0; c < DIM; c++) {
        sum += (double)b->q[i * DIM + c] * (double)b->k[j * DIM + c];
    }
    return sum * scale;
}

/* Values around `clusters` centres; 0 = scattered. */
static float *values(naive_random *random, int64_t count, int64_t clusters, float spread, float size)
{
    float *x = malloc((size_t)(count * DIM) * sizeof *x);
    for (int64_t i = 0; i < count * DIM; i++) {
        x[i] = spread * naive_normal(random);
    }
    float centre[4 * DIM];
    for (int64_t i = 0; i < 4 * DIM; i++) {
        centre[i] = size * naive_normal(random);
    }
    for (int64_t i = 0; clusters > 0 && i < count; i++) {
        for (int64_t c = 0; c < DIM; c++) {
            x[i * DIM + c] += centre[(i * clusters / count) * DIM + c];
        }
    }
    return x;
}

static block make(naive_random *random)
{
    static const int64_t sizes[] = {1, 2, 4, 8, 16};
    block b = {.queries = naive_between(random, 1, MOST_QUERIES)};
    b.sub_q = naive_between(random, 0, 3) == 0 ? b.queries : sizes[naive_between(random, 2, 4)];
    b.tile = sizes[naive_between(random, 0, 4)];
    b.sub_k = naive_between(random, b.tile > 4 ? b.tile / 4 : 1, b.tile);
    b.keys = naive_between(random, b.tile, b.tile * (MOST_TILES - 1));
    b.tiles = (b.keys + b.tile - 1) / b.tile;
    b.sub_queries = (b.queries + b.sub_q - 1) / b.sub_q;
    int64_t clusters = naive_between(random, 0, 4);
    float spread = naive_between(random, 0, 1) == 0 ? 0.1f : 1.0f;
    b.q = values(random, b.queries, clusters, spread, 1.5f);
    b.k = values(random, b.keys, clusters, spread, 1.5f);
    int64_t padding = naive_between(random, 0, b.keys / 3);
    for (int64_t j = 0; j < b.keys; j++) {
        b.valid[j] = j < b.keys - padding;
    }
    for (int64_t t = 0; t < b.tiles; t++) {
        int64_t end = (t + 1) * b.tile < b.keys ? (t + 1) * b.tile : b.keys;
        for (int64_t at = t * b.tile; at < end; at += b.sub_k) {
            int64_t stop = at + b.sub_k < end ? at + b.sub_k : end;
            b.begin[b.sub_keys] = at;
            b.valid_end[b.sub_keys] = stop < b.keys - padding ? stop : b.keys - padding;
            b.tile_of[b.sub_keys++] = t;
        }
    }
    return b;
}

static void free_block(block *b)
{
    free(b->q);
    free(b->k);
}

/* Scores as of section "Score", from the library's z; masses from single probabilities; eta and its limit. */
static void fill(block *b)
{
    for (int64_t u = 0; u < b->sub_queries; u++) {
        int64_t first = u * b->sub_q, n = first + b->sub_q < b->queries ? b->sub_q : b->queries - first;
        fga_bound_input in = {b->q + first * DIM, b->k, b->begin, b->valid_end, n, b->sub_keys, DIM, scale};
        fga_bound_spread spread;
        double *s = b->s + first * b->sub_keys, sum = 0, most = -INFINITY;
        fga_bound_survey(&in, s, b->z[u], &spread);
        b->eta = fmax(b->eta, fga_bound_eta(s, b->z[u], n, b->sub_keys));
        b->limit = fmax(b->limit, fga_bound_eta_limit(&spread));
        for (int64_t j = 0; j < b->sub_keys; j++) {
            most = fmax(most, b->z[u][j]);
        }
        for (int64_t j = 0; j < b->sub_keys; j++) {
            sum += exp(b->z[u][j] - most);
        }
        for (int64_t j = 0; j < b->sub_keys; j++) {
            b->score[b->tile_of[j]] += exp(b->z[u][j] - most) / sum * (double)n / (double)b->queries;
        }
    }
    for (int64_t i = 0; i < b->queries; i++) {
        double most = -INFINITY, sum = 0;
        for (int64_t j = 0; j < b->keys; j++) {
            most = b->valid[j] ? fmax(most, logit(b, i, j)) : most;
        }
        for (int64_t j = 0; j < b->keys; j++) {
            sum += b->valid[j] ? exp(logit(b, i, j) - most) : 0;
        }
        for (int64_t j = 0; j < b->keys; j++) {
            b->exact[j / b->tile] += b->valid[j] ? exp(logit(b, i, j) - most) / sum / (double)b->queries : 0;
        }
    }
}

/* The sum of `what` over forced tiles and the best others by `by`, `keep` in all. */
static double best(const block *b, const double *by, const double *what, const bool *forced, int64_t keep)
{
    bool taken[MOST_TILES];
    double sum = 0;
    memcpy(taken, forced, sizeof taken);
    for (int64_t t = 0; t < b->tiles; t++) {
        keep -= forced[t];
    }
    for (; keep > 0; keep--) {
        int64_t winner = -1;
        for (int64_t t = 0; t < b->tiles; t++) {
            bool live = t * b->tile < b->keys && b->valid[t * b->tile];
            winner = live && !taken[t] && (winner < 0 || by[t] > by[winner]) ? t : winner;
        }
        taken[winner] = true;
    }
    for (int64_t t = 0; t < b->tiles; t++) {
        sum += taken[t] ? what[t] : 0;
    }
    return sum;
}

static void bounds_hold(void **state)
{
    (void)state;
    naive_random random = {91};
    const double little = 1e-9;
    int64_t useful = 0;
    for (int round = 0; round < 600; round++) {
        block b = make(&random);
        fill(&b);
        assert_true(b.eta <= b.limit + little);
        int64_t live = 0, forced_count = 0;
        bool forced[MOST_TILES] = {false};
        for (int64_t t = 0; t < b.tiles; t++) {
            live += b.valid[t * b.tile];
        }
        for (int64_t t = 0; round % 2 == 1 && t < live && t < 2; t++) {
            forced[t] = true;
            forced_count++;
        }
        for (int64_t keep = forced_count + 1; keep <= live; keep++) {
            double recall = best(&b, b.score, b.exact, forced, keep), most = best(&b, b.exact, b.exact, forced, keep);
            double estimate = best(&b, b.score, b.score, forced, keep);
            double against_best = fga_bound_against_best(b.eta, b.sub_queries, most);
            double against_count = fga_bound_against_count(b.eta, b.sub_queries, keep, forced_count, live);
            assert_true(recall >= against_best - little);
            assert_true(against_best >= against_count - little);
            assert_true(recall >= fga_bound_from_mass(b.eta, fmin(estimate, 1)) - little);
            useful += fga_bound_from_mass(b.eta, fmin(estimate, 1)) > 0.5 * recall;
        }
        free_block(&b);
    }
    assert_true(useful > 500); /* not all of them are far below */
}

/* Any selection, not the best by score alone: every single tile. */
static void mass_bound_holds_for_any_selection(void **state)
{
    (void)state;
    naive_random random = {92};
    for (int round = 0; round < 200; round++) {
        block b = make(&random);
        fill(&b);
        for (int64_t t = 0; t < b.tiles; t++) {
            assert_true(b.exact[t] >= fga_bound_from_mass(b.eta, fmin(b.score[t], 1)) - 1e-9);
        }
        free_block(&b);
    }
}

/* Keys equal within sub-tiles and queries within theirs: estimates are exact, and so are the bounds. */
static void equal_tokens_leave_no_gap(void **state)
{
    (void)state;
    naive_random random = {93};
    block b = make(&random);
    for (int64_t i = 0; i < b.queries; i++) {
        memcpy(b.q + i * DIM, b.q + i / b.sub_q * b.sub_q * DIM, DIM * sizeof *b.q);
    }
    for (int64_t j = 0; j < b.sub_keys; j++) {
        for (int64_t key = b.begin[j]; key < b.valid_end[j]; key++) {
            memcpy(b.k + key * DIM, b.k + b.begin[j] * DIM, DIM * sizeof *b.k);
        }
    }
    fill(&b);
    assert_true(b.eta < 1e-6 && b.limit < 1e-6);
    for (int64_t t = 0; t < b.tiles; t++) {
        assert_true(fabs(b.score[t] - b.exact[t]) < 1e-6);
        assert_true(fabs(fga_bound_from_mass(b.eta, b.score[t]) - b.exact[t]) < 1e-5);
    }
    free_block(&b);
}

/* One query and two tiles whose estimates are wrong by eta, one down and one up: recall is at the bound. */
static void mass_bound_is_reached(void **state)
{
    (void)state;
    const double mass = 0.7, eta = 0.8, z[3] = {log(mass), log(1 - mass), -INFINITY};
    const double s[3] = {z[0] - eta + 5, z[1] + eta + 5, -INFINITY};
    assert_true(fabs(fga_bound_eta(s, z, 1, 3) - eta) < 1e-12);
    double recall = exp(s[0]) / (exp(s[0]) + exp(s[1]));
    assert_true(fabs(recall - fga_bound_from_mass(eta, mass)) < 1e-12);
    assert_true(fga_bound_from_mass(eta, 1) == 1 && fga_bound_from_mass(eta, 0) == 0);
    assert_true(fga_bound_against_count(0, 1, 3, 3, 3) == 1 && fga_bound_against_count(0, 4, 5, 1, 9) == 0.5);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(bounds_hold),
        cmocka_unit_test(mass_bound_holds_for_any_selection),
        cmocka_unit_test(equal_tokens_leave_no_gap),
        cmocka_unit_test(mass_bound_is_reached),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
