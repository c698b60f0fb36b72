#include "scene.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { DIM = 16, GUARD = 64 };

scene scene_make(uint64_t seed, fga_sequence sequence, double drift)
{
    scene s = {.drift = drift, .seed = seed};
    s.p = (naive_problem){.batch = 1, .query_heads = 4, .kv_heads = 2, .head_dim = DIM};
    s.p.query = s.p.key = sequence;
    s.heads = s.p.batch * s.p.query_heads;
    s.tokens = fga_sequence_length(&sequence);
    size_t row = (size_t)(s.tokens * DIM) * sizeof(float);
    s.q = malloc((size_t)s.heads * row);
    s.o = malloc((size_t)s.heads * row);
    s.k = malloc((size_t)(s.p.batch * s.p.kv_heads) * row);
    s.v = malloc((size_t)(s.p.batch * s.p.kv_heads) * row);
    return s;
}

void scene_free(scene *s)
{
    free(s->q);
    free(s->k);
    free(s->v);
    free(s->o);
}

/* Tokens lie on a circle; q and k are waves of their place, so that near ones attend to each other. Every key has a
 * direction of its own in which it drifts. */
void scene_set(scene *s, int step, int layer, int branch)
{
    static const double waves[DIM / 2] = {1, 2, 3, 5, 8, 13, 21, 34};
    static const double sharpness[4] = {9, 5, 2.5, 1};
    naive_random random = {s->seed * 1000 + (uint64_t)layer * 10 + (uint64_t)branch};
    for (int64_t row = 0; row < s->p.batch * s->p.kv_heads * s->tokens; row++) {
        double x = 6.283185307 * (double)(row % s->tokens) / (double)s->tokens;
        x += 6.283185307 * s->drift * step * ((double)naive_between(&random, -1000, 1000) / 1000);
        for (int64_t c = 0; c < DIM / 2; c++) {
            s->k[row * DIM + 2 * c] = (float)cos(waves[c] * x) + 0.3f * naive_normal(&random);
            s->k[row * DIM + 2 * c + 1] = (float)sin(waves[c] * x) + 0.3f * naive_normal(&random);
        }
        for (int64_t c = 0; c < DIM; c++) {
            s->v[row * DIM + c] = (float)cos(x * (double)(c + 1)) + 0.5f * naive_normal(&random);
        }
    }
    for (int64_t row = 0; row < s->heads * s->tokens; row++) {
        double x = 6.283185307 * (double)(row % s->tokens) / (double)s->tokens;
        float size = (float)sharpness[row / s->tokens % 4];
        for (int64_t c = 0; c < DIM / 2; c++) {
            s->q[row * DIM + 2 * c] = size * ((float)cos(waves[c] * x) + 0.1f * naive_normal(&random));
            s->q[row * DIM + 2 * c + 1] = size * ((float)sin(waves[c] * x) + 0.1f * naive_normal(&random));
        }
    }
}

fga_attend_args scene_args(const scene *s)
{
    fga_attend_args a = fga_attend_args_default();
    a.q = fga_tensor_bhsd(s->q, FGA_F32, s->p.batch, s->p.query_heads, s->tokens, DIM);
    a.o = fga_tensor_bhsd(s->o, FGA_F32, s->p.batch, s->p.query_heads, s->tokens, DIM);
    a.k = fga_tensor_bhsd(s->k, FGA_F32, s->p.batch, s->p.kv_heads, s->tokens, DIM);
    a.v = fga_tensor_bhsd(s->v, FGA_F32, s->p.batch, s->p.kv_heads, s->tokens, DIM);
    return a;
}

/* ---- a session over it -------------------------------------------------------------------------------- */

stage stage_make(const scene *s, const char *policy, int layers, int branches, int threads)
{
    stage t = {.ctx = naive_context(threads, NULL), .desc = fga_session_desc_default()};
    if (fga_policy_parse(t.ctx, policy, &t.policy) != FGA_OK) {
        fail_msg("%s: %s", policy, fga_last_error(t.ctx));
    }
    t.desc.policy = t.policy;
    t.desc.layers = layers;
    t.desc.branches = branches;
    t.desc.batch = s->p.batch;
    t.desc.query_heads = s->p.query_heads;
    t.desc.kv_heads = s->p.kv_heads;
    t.desc.head_dim = s->p.head_dim;
    t.desc.sequence = s->p.query;
    t.desc.frames = s->p.query.video_valid % 7 == 0 ? 7 : 1;
    t.desc.height = 1;
    t.desc.width = s->p.query.video_valid / t.desc.frames;
    return t;
}

void stage_open(stage *t)
{
    if (fga_session_create(t->ctx, &t->desc, &t->session) != FGA_OK) {
        fail_msg("%s", fga_last_error(t->ctx));
    }
    t->workspace_bytes = (fga_session_workspace(t->session) + 63) / 64 * 64;
    t->workspace = aligned_alloc(64, t->workspace_bytes + GUARD);
    memset(t->workspace, 0x7f, t->workspace_bytes + GUARD);
}

void stage_close(stage *t)
{
    for (size_t i = 0; t->workspace != NULL && i < GUARD; i++) {
        assert_int_equal(((char *)t->workspace)[t->workspace_bytes + i], 0x7f);
    }
    fga_session_destroy(&t->session);
    free(t->workspace);
    fga_context_destroy(&t->ctx);
}

fga_step_kind stage_call(stage *t, scene *s, int step, int steps, int layer, int branch)
{
    fga_step_kind kind = (fga_step_kind)-1;
    scene_set(s, step, layer, branch);
    memset(s->o, 0xff, (size_t)(s->heads * s->tokens * DIM) * sizeof *s->o);
    fga_attend_args args = scene_args(s);
    if (fga_session_attend(t->session, step, steps, layer, branch, &args, t->workspace, &kind) != FGA_OK) {
        fail_msg("%s", fga_last_error(t->ctx));
    }
    return kind;
}

/* ---- exact figures ------------------------------------------------------------------------------------ */

static naive_problem problem_of(const scene *s, const fga_mask *mask)
{
    naive_problem p = s->p;
    fga_mask_desc d = fga_mask_describe(mask);
    p.m = d.block_m;
    p.n = d.tile_n;
    return p;
}

static uint8_t *read_mask(const naive_problem *p, const fga_mask *mask)
{
    int64_t tiles = naive_tiles(p), blocks = naive_blocks(p), count = p->batch * p->query_heads * blocks * tiles;
    uint8_t *keep = calloc((size_t)count, 1);
    for (int64_t row = 0; row < count / tiles; row++) {
        int64_t head = row / blocks, b = head / p->query_heads, h = head % p->query_heads, start, end = 0;
        while (fga_mask_next_run(mask, b, h, row % blocks, end, &start, &end)) {
            memset(keep + row * tiles + start, 1, (size_t)(end - start));
        }
    }
    return keep;
}

static bool valid_key(const void *arg, int64_t b, int64_t h, int64_t i, int64_t j)
{
    (void)b, (void)h, (void)i;
    return naive_is_valid(&((const naive_problem *)arg)->key, j);
}

/* One query: adds its recall, and the squares of its output's error and of the exact output. */
static void exact_row(const scene *s, const naive_problem *p, const uint8_t *keep, int64_t row, double sums[3])
{
    int64_t head = row / s->tokens, i = row % s->tokens, kv = head / (s->p.query_heads / s->p.kv_heads);
    const float *q = s->q + row * DIM, *k = s->k + kv * s->tokens * DIM, *v = s->v + kv * s->tokens * DIM;
    const uint8_t *kept = keep + (head * naive_blocks(p) + i / p->m) * naive_tiles(p);
    double exact[DIM] = {0}, all = 0, mass = 0;
    for (int64_t j = 0; j < s->tokens; j++) {
        if (naive_is_valid(&p->key, j)) {
            double dot = 0;
            for (int64_t c = 0; c < DIM; c++) {
                dot += (double)q[c] * (double)k[j * DIM + c];
            }
            double weight = exp(dot / 4); /* sqrt(DIM); the scene's logits are small */
            all += weight;
            mass += kept[j / p->n] ? weight : 0;
            for (int64_t c = 0; c < DIM; c++) {
                exact[c] += weight * (double)v[j * DIM + c];
            }
        }
    }
    sums[0] += mass / all;
    for (int64_t c = 0; c < DIM; c++) {
        double difference = (double)s->o[row * DIM + c] - exact[c] / all;
        sums[1] += difference * difference;
        sums[2] += exact[c] / all * exact[c] / all;
    }
}

void scene_exact(const scene *s, const fga_mask *mask, double *recall, double *error)
{
    naive_problem p = problem_of(s, mask);
    uint8_t *keep = read_mask(&p, mask);
    for (int64_t h = 0; h < s->heads; h++) {
        double sums[3] = {0};
        for (int64_t r = 0; r < p.query.video_valid; r++) {
            exact_row(s, &p, keep, h * s->tokens + p.query.prefix + r, sums);
        }
        recall[h] = sums[0] / (double)p.query.video_valid;
        error[h] = sqrt(sums[1] / sums[2]);
    }
    free(keep);
}

void scene_check(const scene *s, const fga_mask *mask, int64_t group)
{
    int64_t rows = s->heads * s->tokens;
    naive_problem p = s->p;
    uint8_t *keep = NULL;
    if (mask != NULL) {
        p = problem_of(s, mask);
        keep = read_mask(&p, mask);
    }
    naive_mask kept = {&p, keep, p.batch, p.query_heads};
    double *o = malloc((size_t)(rows * DIM) * sizeof *o), *lse = malloc((size_t)rows * sizeof *lse);
    naive_attention a = {.q = s->q, .k = s->k, .v = s->v, .pair = valid_key, .arg = &p, .o = o, .lse = lse};
    if (mask != NULL) {
        a.pair = naive_mask_pair;
        a.arg = &kept;
        a.group = group;
    }
    naive_attend(&p, &a);
    for (int64_t i = 0; i < rows * DIM; i++) {
        if (naive_is_valid(&p.query, i / DIM % s->tokens)) {
            assert_true(fabs(s->o[i] - o[i]) < 2e-5 * (1 + fabs(o[i])));
        }
    }
    free(keep);
    free(o);
    free(lse);
}

bool same_mask(const fga_mask *a, const fga_mask *b)
{
    fga_mask_desc x = fga_mask_describe(a), y = fga_mask_describe(b);
    if (x.block_m != y.block_m || x.tile_n != y.tile_n || x.heads != y.heads ||
        fga_mask_blocks(a) != fga_mask_blocks(b) || fga_mask_tiles(a) != fga_mask_tiles(b)) {
        return false;
    }
    for (int64_t row = 0; row < x.batch * x.heads * fga_mask_blocks(a); row++) {
        int64_t head = row / fga_mask_blocks(a), u = row % fga_mask_blocks(a), from = 0, begin[2], end[2];
        bool more[2];
        do {
            more[0] = fga_mask_next_run(a, head / x.heads, head % x.heads, u, from, &begin[0], &end[0]);
            more[1] = fga_mask_next_run(b, head / x.heads, head % x.heads, u, from, &begin[1], &end[1]);
            if (more[0] != more[1] || (more[0] && (begin[0] != begin[1] || end[0] != end[1]))) {
                return false;
            }
            from = end[0];
        } while (more[0]);
    }
    return true;
}
