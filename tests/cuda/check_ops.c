/* check_ops.c - what a refresh needs of a CUDA device beside attention, against the processor.
 *
 *   check_cuda_ops [--quick] [--variant NAME]
 *
 * Permuting and sums of groups must agree bit for bit with their plain programs here. Scores are compared with a plain
 * program in double precision whose means are rounded as the device's are, and, more loosely, with the processor's.
 * Selections from equal scores must agree bit for bit, ties, infinities and NaN included, and attention under a mask
 * that the device made must give the bytes that it gives under the processor's, which is ordered block for block the
 * same (check_order.c). Exit status 77: no device.
 */
#include "check_ops.h"

#include "base/half.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int checks, failures;

void verdict(bool ok, const char *format, const char *what, double got, double allowed)
{
    checks++;
    if (!ok) {
        failures++;
        printf(format, what, got, allowed);
    }
}

void *room(size_t bytes)
{
    void *memory = aligned_alloc(64, (bytes + 127) / 64 * 64);
    if (memory == NULL) {
        fprintf(stderr, "out of memory\n");
        exit(1);
    }
    memset(memory, 0, (bytes + 127) / 64 * 64);
    return memory;
}

static void *upload(const void *host, size_t bytes)
{
    void *device = gpu_alloc(bytes);
    gpu_put(device, host, bytes);
    return device;
}

/* ---- inputs ---------------------------------------------------------------------------------------- */

typedef struct spec {
    fga_dtype dtype;
    int dim, m, n, sub_q, sub_k, group;
    fga_score score;
    int64_t batch, heads, kv_heads;
    fga_sequence query, key;
    double density;
    float sharp;
} spec;

/* Values as f32, exact in the dtype; the halves lie [batch][token][head][channel]. */
typedef struct rows {
    int64_t batch, heads, tokens, dim;
    float *x;
    uint16_t *half;
    fga_tensor host, device;
} rows;

static rows make_rows(const spec *s, int64_t heads, int64_t tokens, uint64_t *state, float factor)
{
    rows r = {s->batch, heads, tokens, s->dim, NULL, NULL, {0}, {0}};
    size_t count = (size_t)(s->batch * heads * tokens * s->dim);
    r.x = room(count * sizeof *r.x);
    r.half = room(count * sizeof *r.half);
    float drift[256];
    for (int64_t b = 0; b < s->batch; b++) {
        for (int64_t t = 0; t < tokens; t++) {
            for (int64_t h = 0; h < heads; h++) {
                float *x = r.x + ((b * tokens + t) * heads + h) * s->dim;
                for (int64_t c = 0; c < s->dim; c++) { /* neighbours are alike, as tokens of a video are */
                    drift[c] = t % 8 == 0 || h > 0 ? gpu_normal(state) : drift[c];
                    x[c] = factor * (drift[c] + 0.5f * gpu_normal(state));
                }
                fga_from_f32(r.half + (x - r.x), s->dtype, x, (size_t)s->dim);
                fga_to_f32(x, r.half + (x - r.x), s->dtype, (size_t)s->dim);
            }
        }
    }
    r.host = fga_tensor_bshd(r.half, s->dtype, s->batch, tokens, heads, s->dim);
    r.device = r.host;
    r.device.data = upload(r.half, count * sizeof *r.half);
    r.device.device = FGA_DEVICE_CUDA;
    return r;
}

static const float *row_of(const rows *r, int64_t b, int64_t h, int64_t t)
{
    return r->x + ((b * r->tokens + t) * r->heads + h) * r->dim;
}

static void drop_rows(rows *r)
{
    free(r->x);
    free(r->half);
    gpu_free(r->device.data);
}

static bool is_valid(const fga_sequence *s, int64_t t)
{
    int64_t video = t - s->prefix, suffix = video - s->video;
    return video < 0 ? t < s->prefix_valid : suffix < 0 ? video < s->video_valid : suffix < s->suffix_valid;
}

static float rounded(float x, fga_dtype dtype)
{
    uint16_t word;
    fga_from_f32(&word, dtype, &x, 1);
    fga_to_f32(&x, &word, dtype, 1);
    return x;
}

/* ---- permute ----------------------------------------------------------------------------------------- */

static void check_permute(fga_context *ctx, int64_t count, size_t row_bytes, size_t gap)
{
    int32_t *order = room((size_t)count * sizeof *order);
    size_t stride = row_bytes + gap, bytes = (size_t)count * stride;
    unsigned char *from = room(bytes), *to = room(bytes), *back = room(bytes);
    uint64_t state = 7;
    for (int64_t i = 0; i < count; i++) {
        order[i] = (int32_t)i;
    }
    for (int64_t i = count - 1; i > 0; i--) {
        int64_t j = (int64_t)(gpu_random(&state) % (uint64_t)(i + 1));
        int32_t swap = order[i];
        order[i] = order[j], order[j] = swap;
    }
    for (size_t i = 0; i < bytes; i++) {
        from[i] = (unsigned char)gpu_random(&state);
    }
    fga_permute_args a = fga_permute_args_default();
    void *there = gpu_alloc(bytes), *again = gpu_alloc(bytes);
    gpu_fill(there, 0, bytes);
    gpu_fill(again, 0, bytes);
    a.from = upload(from, bytes), a.to = there, a.order = upload(order, (size_t)count * sizeof *order);
    a.rows = count, a.row_bytes = row_bytes, a.from_stride = a.to_stride = stride;
    gpu_need(ctx, fga_permute(ctx, &a, gpu_stream()));
    void *source = (void *)(uintptr_t)a.from;
    a.from = there, a.to = again, a.inverse = true;
    gpu_need(ctx, fga_permute(ctx, &a, gpu_stream()));
    gpu_finish();
    gpu_get(to, there, bytes);
    gpu_get(back, again, bytes);
    int64_t wrong = 0;
    for (int64_t i = 0; i < count; i++) {
        wrong += memcmp(to + (size_t)i * stride, from + (size_t)order[i] * stride, row_bytes) != 0;
        wrong += memcmp(back + (size_t)i * stride, from + (size_t)i * stride, row_bytes) != 0;
        for (size_t g = row_bytes; g < stride; g++) {
            wrong += to[(size_t)i * stride + g] != 0;
        }
    }
    verdict(wrong == 0, "FAIL permute%s: %g rows are wrong, allowed %g\n", "", (double)wrong, 0);
    gpu_free(there), gpu_free(again), gpu_free(source), gpu_free((void *)(uintptr_t)a.order);
    free(order), free(from), free(to), free(back);
}

/* ---- sums -------------------------------------------------------------------------------------------- */

/* Four partial sums in turn over the listed keys, as src/cpu/sum_panel.h adds. */
static int64_t sum_plainly(const rows *r, const spec *s, const float *bias, int64_t head, int64_t g, float *sum,
                           float *bias_sum)
{
    float part[4][256] = {{0}};
    double total = 0;
    int64_t n = 0, end = (g + 1) * s->group < r->tokens ? (g + 1) * s->group : r->tokens;
    for (int64_t t = g * s->group; t < end; t++) {
        float b = bias != NULL ? bias[head * r->tokens + t] : 0;
        if (!is_valid(&s->key, t) || b == -INFINITY) {
            continue;
        }
        const float *x = row_of(r, head / r->heads, head % r->heads, t);
        for (int64_t c = 0; c < r->dim; c++) {
            part[n % 4][c] += x[c];
        }
        total += b;
        n++;
    }
    for (int64_t c = 0; c < r->dim; c++) {
        sum[c] = (part[0][c] + part[1][c]) + (part[2][c] + part[3][c]);
    }
    *bias_sum = (float)total;
    return n;
}

static void compare_sums(const spec *s, const rows *k, const rows *v, const float *bias, const fga_remainder *got)
{
    int64_t wrong = 0;
    for (int64_t i = 0; i < s->batch * s->kv_heads * got->groups; i++) {
        float sum[256], bias_sum;
        int64_t head = i / got->groups, g = i % got->groups;
        sum_plainly(v, s, bias, head, g, sum, &bias_sum);
        wrong += memcmp(sum, got->sum_v + i * s->dim, (size_t)s->dim * sizeof *sum) != 0;
        int64_t n = sum_plainly(k, s, bias, head, g, sum, &bias_sum);
        wrong += memcmp(sum, got->sum_k + i * s->dim, (size_t)s->dim * sizeof *sum) != 0;
        wrong += got->count[i] != (float)n || got->sum_bias[i] != bias_sum;
    }
    verdict(wrong == 0, "FAIL sums of groups%s: %g are wrong, allowed %g\n", "", (double)wrong, 0);
}

static void check_sums(fga_context *ctx, const spec *s, bool biased)
{
    uint64_t state = 11;
    int64_t keys = fga_sequence_length(&s->key), count = s->batch * s->kv_heads * keys;
    rows k = make_rows(s, s->kv_heads, keys, &state, 1), v = make_rows(s, s->kv_heads, keys, &state, 1);
    float *bias = room((size_t)count * sizeof *bias);
    for (int64_t i = 0; i < count; i++) {
        bias[i] = gpu_random(&state) % 5 == 0 ? -INFINITY : gpu_uniform(&state);
    }
    fga_attend_desc d = fga_attend_desc_default();
    d.batch = s->batch, d.query_heads = s->heads, d.kv_heads = s->kv_heads, d.key_len = keys, d.query_len = 1;
    d.head_dim = s->dim, d.dtype = s->dtype;
    fga_attend_args a = fga_attend_args_default();
    a.k = k.device, a.v = v.device;
    a.bias_batch_stride = s->kv_heads * keys, a.bias_head_stride = keys;
    void *there_bias = upload(bias, (size_t)count * sizeof *bias);
    a.key_bias = biased ? there_bias : NULL;
    size_t bytes;
    gpu_need(ctx, fga_remainder_place(ctx, &d, s->group, NULL, &bytes, NULL));
    void *host = room(bytes), *device = gpu_alloc(bytes);
    fga_remainder there, here;
    gpu_need(ctx, fga_remainder_place(ctx, &d, s->group, device, &bytes, &there));
    gpu_need(ctx, fga_remainder_place(ctx, &d, s->group, host, &bytes, &here));
    gpu_fill(device, 0xFF, bytes);
    gpu_need(ctx, fga_remainder_fill(ctx, &d, &a, &s->key, &there));
    gpu_finish();
    gpu_get(host, device, bytes);
    compare_sums(s, &k, &v, biased ? bias : NULL, &here);
    gpu_free(there_bias), gpu_free(device), free(host), free(bias);
    drop_rows(&k), drop_rows(&v);
}

/* ---- scores ------------------------------------------------------------------------------------------- */

typedef struct pooled {
    int64_t count, per_tile; /* sub-tiles, room of a tile's */
    double *mean;            /* [count][dim], rounded as on the device */
    int64_t *tokens;         /* valid ones */
} pooled;

/* f16 after a power of two has brought the row's largest number to 1 ... 2. */
static void round_scaled(double *mean, const float *x, int64_t dim)
{
    float most = 0;
    int exponent = 0;
    for (int64_t c = 0; c < dim; c++) {
        most = fmaxf(most, fabsf(x[c]));
    }
    frexpf(most, &exponent);
    exponent = most > 0 ? exponent - 1 : 0;
    for (int64_t c = 0; c < dim; c++) {
        mean[c] = ldexp((double)rounded(ldexpf(x[c], -exponent), FGA_F16), exponent);
    }
}

static pooled pool_plainly(const rows *r, const fga_sequence *seq, int64_t head, int64_t tile, int64_t sub, bool scaled,
                           fga_dtype dtype)
{
    int64_t tiles = (r->tokens + tile - 1) / tile;
    pooled p = {0, (tile + sub - 1) / sub, NULL, NULL};
    p.count = tiles * p.per_tile;
    p.mean = room((size_t)(p.count * r->dim) * sizeof *p.mean);
    p.tokens = room((size_t)p.count * sizeof *p.tokens);
    for (int64_t i = 0; i < p.count; i++) {
        int64_t begin = i / p.per_tile * tile + i % p.per_tile * sub, end = begin + sub;
        int64_t tile_end = (i / p.per_tile + 1) * tile;
        float sum[256] = {0};
        for (int64_t t = begin; t < end && t < tile_end && t < r->tokens; t++) {
            if (is_valid(seq, t)) {
                const float *x = row_of(r, head / r->heads, head % r->heads, t);
                for (int64_t c = 0; c < r->dim; c++) {
                    sum[c] += x[c];
                }
                p.tokens[i]++;
            }
        }
        float inverse = p.tokens[i] > 0 ? 1.0f / (float)p.tokens[i] : 0.0f;
        for (int64_t c = 0; c < r->dim; c++) {
            sum[c] *= inverse;
            p.mean[i * r->dim + c] = (double)rounded(sum[c], dtype);
        }
        if (scaled) {
            round_scaled(p.mean + i * r->dim, sum, r->dim);
        }
    }
    return p;
}

static void drop_pooled(pooled *p)
{
    free(p->mean);
    free(p->tokens);
}

/* norm(V_j - mean of its group), per key; 0 for one that does not count. */
static double *part_plainly(const rows *v, const spec *s, int64_t head)
{
    double *apart = room((size_t)v->tokens * sizeof *apart);
    for (int64_t t = 0; t < v->tokens; t++) {
        double mean[256] = {0}, n = 0;
        for (int64_t j = t / s->group * s->group; j < (t / s->group + 1) * s->group && j < v->tokens; j++) {
            n += is_valid(&s->key, j);
            for (int64_t c = 0; is_valid(&s->key, j) && c < v->dim; c++) {
                mean[c] += (double)row_of(v, head / v->heads, head % v->heads, j)[c];
            }
        }
        for (int64_t c = 0; is_valid(&s->key, t) && c < v->dim; c++) {
            double off = (double)row_of(v, head / v->heads, head % v->heads, t)[c] - mean[c] / n;
            apart[t] += off * off;
        }
        apart[t] = sqrt(apart[t]);
    }
    return apart;
}

/* One row of pooled queries: adds to score[tiles], and to slack what rounding may do to each. */
static void score_row(const spec *s, const pooled *k, const rows *k_rows, int64_t kv, const double *q, double weight,
                      const double *apart, double *p, double *score, double *slack)
{
    bool single = apart != NULL;
    int64_t count = single ? k_rows->tokens : k->count, per_tile = single ? s->n : k->per_tile;
    double most = -INFINITY, sum = 0, scale = 1 / sqrt((double)s->dim);
    for (int64_t j = 0; j < count; j++) {
        bool counts = single ? is_valid(&s->key, j) : k->tokens[j] > 0;
        double dot = 0;
        for (int64_t c = 0; counts && c < s->dim; c++) {
            dot += q[c] * (single ? (double)row_of(k_rows, kv / k_rows->heads, kv % k_rows->heads, j)[c]
                                  : k->mean[j * s->dim + c]);
        }
        p[j] = counts ? dot * scale + (single ? 0 : log((double)k->tokens[j])) : -INFINITY;
        most = fmax(most, p[j]);
    }
    for (int64_t j = 0; j < count; j++) {
        p[j] = p[j] == -INFINITY ? 0 : exp(p[j] - most);
        sum += p[j];
    }
    for (int64_t j = 0; j < count; j++) {
        double mean = 0, n = 0;
        for (int64_t i = j / s->group * s->group; single && i < (j / s->group + 1) * s->group && i < count; i++) {
            mean += p[i];
            n += is_valid(&s->key, i);
        }
        mean = single && n > 0 ? mean / n : 0;
        double apart_j = single ? apart[j] : s->score == FGA_SCORE_LSE ? sum * exp(most) : 1;
        score[j / per_tile] += weight * fabs(p[j] - mean) / sum * apart_j;
        slack[j / per_tile] += weight * (p[j] + mean) / sum * apart_j;
    }
}

typedef struct scene {
    spec s;
    rows q, k, v;
    fga_predict_desc d;
    int64_t blocks, tiles, count; /* count: of all scores */
    float *cpu, *gpu;             /* scores */
    float *gpu_device;
} scene;

static scene make_scene(const spec *s, uint64_t seed)
{
    scene c = {.s = *s};
    c.q = make_rows(s, s->heads, fga_sequence_length(&s->query), &seed, s->sharp);
    c.k = make_rows(s, s->kv_heads, fga_sequence_length(&s->key), &seed, 1);
    c.v = make_rows(s, s->kv_heads, fga_sequence_length(&s->key), &seed, 1);
    c.d = fga_predict_desc_default();
    c.d.batch = s->batch, c.d.query_heads = s->heads, c.d.kv_heads = s->kv_heads, c.d.head_dim = s->dim;
    c.d.dtype = s->dtype, c.d.query = s->query, c.d.key = s->key, c.d.block_m = s->m, c.d.tile_n = s->n;
    c.d.sub_q = s->sub_q, c.d.sub_k = s->sub_k, c.d.score = s->score, c.d.group = s->group;
    c.blocks = fga_predict_blocks(&c.d);
    c.tiles = fga_predict_tiles(&c.d);
    c.count = s->batch * s->heads * c.blocks * c.tiles;
    c.cpu = room((size_t)c.count * sizeof *c.cpu);
    c.gpu = room((size_t)c.count * sizeof *c.gpu);
    c.gpu_device = gpu_alloc((size_t)c.count * sizeof *c.gpu);
    return c;
}

static void drop_scene(scene *c)
{
    drop_rows(&c->q), drop_rows(&c->k), drop_rows(&c->v);
    free(c->cpu), free(c->gpu);
    gpu_free(c->gpu_device);
}

static void run_scores(fga_context *ctx, fga_context *cpu, scene *c)
{
    size_t bytes;
    gpu_need(cpu, fga_score_workspace(cpu, &c->d, &bytes));
    void *workspace = room(bytes);
    gpu_need(cpu, fga_score_tiles(cpu, &c->d, &c->q.host, &c->k.host, &c->v.host, c->cpu, workspace));
    free(workspace);
    gpu_need(ctx, fga_score_workspace(ctx, &c->d, &bytes));
    workspace = gpu_alloc(bytes);
    gpu_fill(workspace, 0xFF, bytes);
    gpu_fill(c->gpu_device, 0xFF, (size_t)c->count * sizeof *c->gpu);
    gpu_need(ctx, fga_score_tiles(ctx, &c->d, &c->q.device, &c->k.device, &c->v.device, c->gpu_device, workspace));
    gpu_finish();
    gpu_get(c->gpu, c->gpu_device, (size_t)c->count * sizeof *c->gpu);
    gpu_free(workspace);
}

/* The worst error as a share of what is allowed, over one head. */
static double judge_head(const scene *c, int64_t head)
{
    const spec *s = &c->s;
    int64_t h = head % s->heads, kv = head / s->heads * s->kv_heads + h / (s->heads / s->kv_heads);
    bool single = s->score == FGA_SCORE_DEVIATION, mean = s->score == FGA_SCORE_MEAN;
    pooled q = pool_plainly(&c->q, &s->query, head, s->m, mean || s->sub_q > s->m ? s->m : s->sub_q, !single, s->dtype);
    pooled k = pool_plainly(&c->k, &s->key, kv, s->n, mean || s->sub_k > s->n ? s->n : s->sub_k, true, s->dtype);
    double *apart = single ? part_plainly(&c->v, s, kv) : NULL, worst = 0;
    double *score = room((size_t)c->tiles * sizeof *score), *slack = room((size_t)c->tiles * sizeof *slack);
    double *p = room((size_t)(c->k.tokens + k.count) * sizeof *p);
    for (int64_t u = 0; u < c->blocks; u++) {
        int64_t n = 0;
        memset(score, 0, (size_t)c->tiles * sizeof *score);
        memset(slack, 0, (size_t)c->tiles * sizeof *slack);
        for (int64_t i = u * q.per_tile; i < (u + 1) * q.per_tile; i++) {
            n += q.tokens[i];
        }
        for (int64_t i = u * q.per_tile; i < (u + 1) * q.per_tile; i++) {
            if (q.tokens[i] > 0) {
                score_row(s, &k, &c->k, kv, q.mean + i * s->dim, (double)q.tokens[i] / (double)n, apart, p, score,
                          slack);
            }
        }
        for (int64_t v = 0; v < c->tiles; v++) {
            double got = (double)c->gpu[(head * c->blocks + u) * c->tiles + v];
            if (s->score == FGA_SCORE_LSE && n > 0) { /* sums of powers so far */
                score[v] = log(score[v]);
                slack[v] = 1 + fabs(score[v]);
            }
            if (got == score[v]) { /* -inf */
                continue;
            }
            double off = fabs(got - score[v]) / (3e-5 * slack[v] + 1e-30);
            worst = off <= worst ? worst : off; /* NaN counts */
        }
    }
    free(score), free(slack), free(p), free(apart);
    drop_pooled(&q), drop_pooled(&k);
    return worst;
}

/* norm(difference) / norm of all scores: between the device's rounded means and the processor's f32. */
static double apart_from_cpu(const scene *c)
{
    double off = 0, all = 0;
    for (int64_t i = 0; i < c->count; i++) {
        if (c->gpu[i] == c->cpu[i]) { /* -inf */
            continue;
        }
        off += ((double)c->gpu[i] - (double)c->cpu[i]) * ((double)c->gpu[i] - (double)c->cpu[i]);
        all += (double)c->cpu[i] * (double)c->cpu[i];
    }
    return all > 0 ? sqrt(off / all) : off;
}

/* ---- selection ------------------------------------------------------------------------------------------ */

static int64_t differing_tiles(const fga_mask *a, const fga_mask *b, const scene *c)
{
    int64_t differ = 0;
    for (int64_t row = 0; row < c->s.batch * c->s.heads * c->blocks; row++) {
        int64_t u = row % c->blocks, h = row / c->blocks % c->s.heads, i = row / c->blocks / c->s.heads;
        int64_t at[2] = {0, 0}, begin[2], end[2];
        while (true) {
            bool more[2] = {fga_mask_next_run(a, i, h, u, at[0], &begin[0], &end[0]),
                            fga_mask_next_run(b, i, h, u, at[1], &begin[1], &end[1])};
            if (!more[0] && !more[1]) {
                break;
            }
            if (more[0] != more[1] || begin[0] != begin[1] || end[0] != end[1]) {
                differ++;
                break;
            }
            at[0] = end[0], at[1] = end[1];
        }
    }
    return differ;
}

/* Scores that test the rules: few values, zeros of both signs, infinities, NaN. */
static void make_ties(scene *c, int kind)
{
    uint64_t state = 5 + (uint64_t)kind;
    for (int64_t i = 0; i < c->count; i++) {
        uint64_t x = gpu_random(&state);
        float wide = ldexpf(gpu_uniform(&state), (int)(x >> 8 & 63) - 40);
        c->cpu[i] = kind == 0   ? (float)(x % 7) * 0.125f
                    : kind == 1 ? (x % 3 == 0 ? -0.0f : 0.0f)
                    : kind == 2 ? (x % 50 == 0   ? NAN
                                   : x % 51 == 0 ? INFINITY
                                   : x % 52 == 0 ? -INFINITY
                                                 : wide)
                                : 1.0f + (float)(x % 70000) * 0x1p-23f;
    }
}

static void attend_under(fga_context *ctx, const scene *c, const fga_mask *mask, void *o)
{
    const spec *s = &c->s;
    fga_attend_desc d = fga_attend_desc_default();
    d.batch = s->batch, d.query_heads = s->heads, d.kv_heads = s->kv_heads, d.head_dim = s->dim, d.dtype = s->dtype;
    d.query_len = c->q.tokens, d.key_len = c->k.tokens, d.block_m = s->m, d.tile_n = s->n;
    fga_attend_plan *plan = NULL;
    gpu_need(ctx, fga_attend_plan_create(ctx, &d, &plan));
    void *workspace = gpu_alloc(fga_attend_plan_workspace(plan));
    fga_attend_args a = fga_attend_args_default();
    size_t bytes = (size_t)(s->batch * s->heads * c->q.tokens * s->dim) * 2;
    a.q = c->q.device, a.k = c->k.device, a.v = c->v.device, a.o = c->q.device, a.mask = mask;
    a.o.data = gpu_alloc(bytes);
    gpu_fill(a.o.data, 0, bytes);
    gpu_need(ctx, fga_attend_run(plan, &a, workspace, gpu_stream()));
    gpu_finish();
    gpu_get(o, a.o.data, bytes);
    gpu_free(a.o.data), gpu_free(workspace);
    fga_attend_plan_destroy(&plan);
}

static void check_attention(fga_context *ctx, const scene *c, const fga_mask *made, const fga_mask *copied)
{
    size_t bytes = (size_t)(c->s.batch * c->s.heads * c->q.tokens * c->s.dim) * 2;
    unsigned char *x = room(bytes), *y = room(bytes);
    attend_under(ctx, c, made, x);
    attend_under(ctx, c, copied, y);
    int64_t differ = 0;
    for (size_t i = 0; i < bytes; i++) {
        differ += x[i] != y[i];
    }
    verdict(differ == 0, "FAIL attention under %s: %g bytes differ, allowed %g\n", "a mask made on the device",
            (double)differ, 0);
    free(x), free(y);
}

static void check_selection(fga_context *ctx, fga_context *cpu, scene *c, bool attends)
{
    fga_mask *made = NULL, *fetched = NULL, *wanted = NULL;
    gpu_put(c->gpu_device, c->cpu, (size_t)c->count * sizeof *c->cpu);
    gpu_need(cpu, fga_select_topk(cpu, &c->d, c->cpu, c->s.density, &wanted));
    gpu_need(ctx, fga_select_topk(ctx, &c->d, c->gpu_device, c->s.density, &made));
    gpu_need(ctx, fga_mask_fetch(ctx, made, &fetched));
    verdict(isnan(fga_mask_density(made)), "FAIL density of %s is %g, wanted NaN (%g)\n", "a mask made on the device",
            fga_mask_density(made), 0);
    int64_t differ = differing_tiles(fetched, wanted, c);
    verdict(differ == 0, "FAIL selection%s: %g rows differ, allowed %g\n", "", (double)differ, 0);
    verdict(fga_mask_density(fetched) == fga_mask_density(wanted), "FAIL density%s is %g, wanted %g\n", "",
            fga_mask_density(fetched), fga_mask_density(wanted));
    if (attends) {
        check_attention(ctx, c, made, fetched);
    }
    fga_mask_release(&made), fga_mask_release(&fetched), fga_mask_release(&wanted);
}

static void check_spec(fga_context *ctx, fga_context *cpu, const spec *s, bool attends)
{
    char name[160];
    scene c = make_scene(s, 99);
    snprintf(name, sizeof name, "%s %s D=%d M=%d N=%d s_q=%d s_k=%d g=%d", fga_dtype_name(s->dtype),
             s->score == FGA_SCORE_DEVIATION ? "deviation"
             : s->score == FGA_SCORE_MEAN    ? "mean"
             : s->score == FGA_SCORE_LSE     ? "lse"
                                             : "mass",
             s->dim, s->m, s->n, s->sub_q, s->sub_k, s->group);
    run_scores(ctx, cpu, &c);
    double worst = 0;
    for (int64_t head = 0; head < s->batch * s->heads; head++) {
        double off = judge_head(&c, head);
        worst = off <= worst ? worst : off;
    }
    double loose = apart_from_cpu(&c), allowed = s->dtype == FGA_BF16 && s->score == FGA_SCORE_DEVIATION ? 0.02 : 3e-3;
    printf("%-60s %8.3f of the allowed error; %.1e from the processor's\n", name, worst, loose);
    verdict(worst <= 1, "FAIL scores, %s: %g of the allowed error, wanted at most %g\n", name, worst, 1);
    verdict(loose <= allowed, "FAIL scores, %s: %g from the processor's, allowed %g\n", name, loose, allowed);
    check_selection(ctx, cpu, &c, attends); /* from the processor's scores */
    for (int kind = 0; kind < 4; kind++) {
        make_ties(&c, kind);
        check_selection(ctx, cpu, &c, false);
    }
    drop_scene(&c);
}

/* ---- measuring ------------------------------------------------------------------------------------------- */

static bool keeps_some(void *user, int64_t batch, int64_t head, int64_t block, int64_t tile)
{
    uint64_t state = (uint64_t)(((batch * 7 + head) * 1009 + block) * 100003 + tile);
    (void)gpu_normal(&state); /* neighbouring seeds are alike at first */
    return tile % 37 == 0 || fabsf(gpu_normal(&state)) < *(const float *)user;
}

/* Attends on one side under a mask of that side and measures: quality, then recall and error of every head. */
static fga_quality measure_side(fga_context *ctx, const scene *c, bool device, bool runs, float *heads)
{
    const spec *s = &c->s;
    size_t bytes = (size_t)(s->batch * s->heads * c->q.tokens * s->dim) * 2, work, most;
    float some = 0.3f;
    fga_mask_desc m = fga_mask_desc_default();
    m.batch = s->batch, m.heads = s->heads, m.block_m = s->m, m.tile_n = s->n, m.query = s->query, m.key = s->key;
    fga_mask *mask = NULL;
    gpu_need(ctx, fga_mask_from_function(ctx, &m, keeps_some, &some, &mask));
    if (runs) {
        gpu_need(ctx, fga_mask_compress(ctx, mask));
    }
    fga_attend_desc d = fga_attend_desc_default();
    d.batch = s->batch, d.query_heads = s->heads, d.kv_heads = s->kv_heads, d.query_len = c->q.tokens;
    d.key_len = c->k.tokens, d.head_dim = s->dim, d.dtype = s->dtype, d.block_m = s->m, d.tile_n = s->n;
    fga_attend_plan *plan = NULL;
    gpu_need(ctx, fga_attend_plan_create(ctx, &d, &plan));
    fga_measure_args a = fga_measure_args_default();
    a.fraction = 0.4, a.query = s->query, a.recall_heads = heads, a.error_heads = heads + s->batch * s->heads;
    gpu_need(ctx, fga_measure_workspace(ctx, &d, a.fraction, &most));
    work = fga_attend_plan_workspace(plan);
    most = work > most ? work : most;
    void *workspace = device ? gpu_alloc(most) : room(most), *lse = room(bytes);
    a.attend.q = device ? c->q.device : c->q.host;
    a.attend.k = device ? c->k.device : c->k.host;
    a.attend.v = device ? c->v.device : c->v.host;
    a.attend.o = a.attend.q;
    a.attend.o.data = device ? gpu_alloc(bytes) : room(bytes);
    a.attend.lse = device ? NULL : lse; /* a device finds it anew */
    a.attend.mask = mask;
    fga_quality q;
    gpu_need(ctx, fga_attend_run(plan, &a.attend, workspace, device ? gpu_stream() : NULL));
    gpu_need(ctx, fga_measure(ctx, &d, &a, workspace, &q));
    (device ? gpu_free : free)(a.attend.o.data);
    (device ? gpu_free : free)(workspace);
    free(lse);
    fga_attend_plan_destroy(&plan);
    fga_mask_release(&mask);
    return q;
}

/* Recall and error as the processor finds them, from bits and from runs. */
static void check_measure(fga_context *ctx, fga_context *cpu, const spec *s)
{
    scene c = make_scene(s, 5);
    int64_t heads = 2 * s->batch * s->heads;
    float *wanted = room((size_t)heads * sizeof *wanted), *got = room((size_t)heads * sizeof *got);
    fga_quality exact = measure_side(cpu, &c, false, false, wanted);
    for (int runs = 0; runs < 2; runs++) {
        fga_quality q = measure_side(ctx, &c, true, runs, got);
        const double recall[][2] = {{q.recall, exact.recall},
                                    {q.recall_worst, exact.recall_worst},
                                    {q.recall_p05, exact.recall_p05},
                                    {(double)q.queries, (double)exact.queries}};
        for (size_t i = 0; i < sizeof recall / sizeof recall[0]; i++) {
            verdict(fabs(recall[i][0] - recall[i][1]) <= 1e-4, "FAIL measured recall, %s: %g, wanted %g\n",
                    runs ? "runs" : "bits", recall[i][0], recall[i][1]);
        }
        verdict(fabs(q.output_error - exact.output_error) <= 0.01 * exact.output_error + 1e-3,
                "FAIL measured error, %s: %g, wanted %g\n", runs ? "runs" : "bits", q.output_error, exact.output_error);
        for (int64_t h = 0; h < heads; h++) {
            verdict(fabsf(got[h] - wanted[h]) <= 0.01f * wanted[h] + 1e-3f, "FAIL measured head, %s: %g, wanted %g\n",
                    runs ? "runs" : "bits", got[h], wanted[h]);
        }
    }
    printf("measured on head_dim %d, M %d, N %d: recall %.4f, error %.4f\n", s->dim, s->m, s->n, exact.recall,
           exact.output_error);
    verdict(exact.recall > 0.05 && exact.recall < 0.95, "FAIL %s: recall %g, wanted less than %g and some\n",
            "a mask to measure", exact.recall, 0.95);
    free(wanted);
    free(got);
    drop_scene(&c);
}

/* ---- sessions ------------------------------------------------------------------------------------------- */

/* A session's calls on the device and on the processor. */
typedef struct pair {
    fga_context *ctx[2]; /* device, processor */
    fga_session *session[2];
    void *workspace[2];
    fga_attend_args args[2];
    uint16_t *o[2];
    size_t bytes; /* of an output */
} pair;

static fga_status open_session(pair *p, int i, const scene *c, const char *policy, double measure)
{
    const spec *s = &c->s;
    fga_session_desc d = fga_session_desc_default();
    d.layers = 2, d.batch = s->batch, d.query_heads = s->heads, d.kv_heads = s->kv_heads, d.head_dim = s->dim;
    d.dtype = s->dtype, d.sequence = s->key, d.measure_fraction = measure;
    gpu_need(p->ctx[i], fga_policy_parse(p->ctx[i], policy, &d.policy));
    fga_override head_0 = {1, 1, 0, 0, -1, "density=0.5"};
    if (d.policy.select == FGA_SELECT_ADAPTIVE || d.policy.select == FGA_SELECT_THRESHOLD) {
        strcpy(head_0.settings, d.policy.select == FGA_SELECT_ADAPTIVE ? "tau=0.5" : "threshold=50");
    }
    d.overrides = &head_0, d.override_count = c->blocks > 0; /* a scene of a shape alone has none */
    return fga_session_create(p->ctx[i], &d, &p->session[i]);
}

/* norm(device - processor) / norm(processor). */
static double output_apart(const pair *p, fga_dtype dtype)
{
    double off = 0, all = 0;
    for (size_t i = 0; i < p->bytes / 2; i++) {
        float x, y;
        fga_to_f32(&x, p->o[0] + i, dtype, 1);
        fga_to_f32(&y, p->o[1] + i, dtype, 1);
        off += ((double)x - (double)y) * ((double)x - (double)y);
        all += (double)y * (double)y;
    }
    return sqrt(off / all);
}

/* One step and layer on both; false when they took different steps. */
static bool call_both(const pair *p, int step, int steps, int layer)
{
    fga_step_kind kind[2];
    for (int i = 0; i < 2; i++) {
        gpu_need(p->ctx[i],
                 fga_session_attend(p->session[i], step, steps, layer, 0, &p->args[i], p->workspace[i], &kind[i]));
    }
    gpu_finish();
    gpu_get(p->o[0], p->args[0].o.data, p->bytes);
    return kind[0] == kind[1];
}

/* slack: by how much of them kept pairs may differ: under a budget, blocks of fewer queries may win other tiles. */
static void compare_reports(const pair *p, const char *policy, double slack)
{
    fga_session_report got = fga_session_get_report(p->session[0]), wanted = fga_session_get_report(p->session[1]);
    const double figures[][2] = {{got.pairs_total, wanted.pairs_total},
                                 {got.pairs_kept, wanted.pairs_kept},
                                 {got.sparse_total, wanted.sparse_total},
                                 {got.sparse_kept, wanted.sparse_kept},
                                 {(double)got.calls_dense, (double)wanted.calls_dense},
                                 {(double)got.calls_refresh, (double)wanted.calls_refresh},
                                 {(double)got.calls_reuse, (double)wanted.calls_reuse}};
    for (size_t i = 0; i < sizeof figures / sizeof figures[0]; i++) {
        verdict(fabs(figures[i][0] - figures[i][1]) <= slack * figures[i][1],
                "FAIL report of a session, %s: %g, wanted %g\n", policy, figures[i][0], figures[i][1]);
    }
    verdict(got.measured_calls == wanted.measured_calls && got.measured_calls > 0,
            "FAIL session, %s: measured %g calls, wanted %g\n", policy, (double)got.measured_calls,
            (double)wanted.measured_calls);
    /* Masks differ in tiles near the cut, and so does which groups are kept whole. */
    verdict(fabs(got.recall_mean - wanted.recall_mean) <= 0.005, "FAIL session, %s: recall %g, wanted %g\n", policy,
            got.recall_mean, wanted.recall_mean);
    verdict(fabs(got.output_error_mean - wanted.output_error_mean) <= 0.03 * wanted.output_error_mean,
            "FAIL session, %s: error %g, wanted %g\n", policy, got.output_error_mean, wanted.output_error_mean);
    verdict(fabs(got.sparse_summaries - wanted.sparse_summaries) <= 0.01 * wanted.sparse_summaries,
            "FAIL summaries of a session, %s: %g, wanted %g\n", policy, got.sparse_summaries, wanted.sparse_summaries);
}

static void check_session(fga_context *ctx, fga_context *cpu, const spec *s, const char *policy, double slack)
{
    scene c = make_scene(s, 31);
    pair p = {.ctx = {ctx, cpu}, .bytes = (size_t)(s->batch * s->heads * c.q.tokens * s->dim) * 2};
    for (int i = 0; i < 2; i++) {
        gpu_need(p.ctx[i], open_session(&p, i, &c, policy, 0.2));
        size_t bytes = fga_session_workspace(p.session[i]);
        p.workspace[i] = i == 0 ? gpu_alloc(bytes) : room(bytes);
        p.o[i] = room(p.bytes);
        p.args[i] = fga_attend_args_default();
        p.args[i].q = i == 0 ? c.q.device : c.q.host;
        p.args[i].k = i == 0 ? c.k.device : c.k.host;
        p.args[i].v = i == 0 ? c.v.device : c.v.host;
        p.args[i].o = p.args[i].q;
        p.args[i].o.data = i == 0 ? gpu_alloc(p.bytes) : (void *)p.o[1];
    }
    gpu_fill(p.args[0].o.data, 0, p.bytes); /* padding queries may stay as they are */
    verdict(fga_session_mask(p.session[0], 1, 0) == NULL, "FAIL %s: a session has a mask (%g) before its first (%g)\n",
            policy, 1, 0);
    double worst = 0;
    for (int step = 0; step < 3; step++) {
        verdict(call_both(&p, step == 2 ? 3 : step, 4, 1),
                "FAIL %s: another kind of step (%g) than the processor's (%g)\n", policy, step, step);
        double off = output_apart(&p, s->dtype);
        worst = off <= worst ? worst : off;
    }
    printf("session %-40s outputs %.1e from the processor's\n", policy, worst);
    verdict(worst <= 0.03, "FAIL session, %s: outputs %g from the processor's, allowed %g\n", policy, worst, 0.03);
    compare_reports(&p, policy, slack);
    for (int i = 0; i < 2; i++) {
        fga_session_destroy(&p.session[i]);
        free(p.o[i]);
    }
    gpu_free(p.workspace[0]), gpu_free(p.args[0].o.data), free(p.workspace[1]);
    drop_scene(&c);
}

/* A session that measures every query at every step holds its targets exactly, and drops something all the same. */
static void check_targets(fga_context *ctx, const spec *s, const char *policy, double recall, double floor,
                          double error)
{
    scene c = make_scene(s, 77);
    pair p = {.ctx = {ctx, NULL}, .bytes = (size_t)(s->batch * s->heads * c.q.tokens * s->dim) * 2};
    c.blocks = 0; /* no overrides */
    gpu_need(ctx, open_session(&p, 0, &c, policy, 1));
    void *workspace = gpu_alloc(fga_session_workspace(p.session[0]));
    fga_attend_args args = fga_attend_args_default();
    args.q = c.q.device, args.k = c.k.device, args.v = c.v.device, args.o = c.q.device;
    args.o.data = gpu_alloc(p.bytes);
    for (int step = 0; step < 4; step++) {
        fga_step_kind kind;
        gpu_need(ctx, fga_session_attend(p.session[0], step, 4, 1, 0, &args, workspace, &kind));
    }
    args.key_bias = args.o.data; /* selections would not know it */
    fga_status biased = fga_session_attend(p.session[0], 3, 4, 1, 0, &args, workspace, NULL);
    verdict(biased == FGA_ERR_UNSUPPORTED, "FAIL biased call, %s: status %g, wanted %g\n", policy, (double)biased,
            (double)FGA_ERR_UNSUPPORTED);
    fga_session_report r = fga_session_get_report(p.session[0]);
    printf("session %s: recall %.4f, worst %.4f, error %.4f, density %.3f\n", policy, r.recall_mean, r.recall_worst,
           r.output_error_worst, r.sparse_kept / r.sparse_total);
    verdict(r.recall_mean >= recall - 1e-4, "FAIL target, %s: recall %g, wanted %g\n", policy, r.recall_mean, recall);
    verdict(r.recall_worst >= floor - 1e-4, "FAIL target, %s: worst recall %g, wanted %g\n", policy, r.recall_worst,
            floor);
    verdict(error == 0 || r.output_error_worst <= error + 1e-4, "FAIL target, %s: error %g, wanted %g\n", policy,
            r.output_error_worst, error);
    verdict(r.sparse_kept < 0.99 * r.sparse_total, "FAIL target, %s: keeps %g of %g pairs\n", policy, r.sparse_kept,
            r.sparse_total);
    fga_session_destroy(&p.session[0]);
    gpu_free(workspace), gpu_free(args.o.data);
    drop_scene(&c);
}

/* What sessions on a device cannot do is refused by the policy's name. */
static void check_refusals(fga_context *ctx, const spec *s)
{
    static const struct {
        const char *policy, *text;
        double measure;
    } refused[] = {{"fg-cdf,gate_q=0,gate_k=0", "policy fg-cdf: it selects otherwise", 0},
                   {"fg-cached", "policy fg-cached: it scores otherwise", 0},
                   {"subblock,select=threshold,threshold=1", "policy subblock: it selects by lse otherwise", 0},
                   {"dfs-paper", "policy dfs-paper: it has zero_pad", 0},
                   {"dfs,target_error=0.1,gate_k=0.5", "policy dfs: it has a gate", 0}};
    scene c = {.s = *s};
    pair p = {.ctx = {ctx, NULL}};
    for (size_t i = 0; i < sizeof refused / sizeof refused[0]; i++) {
        fga_status status = open_session(&p, 0, &c, refused[i].policy, refused[i].measure);
        bool right = status == FGA_ERR_UNSUPPORTED &&
                     strncmp(fga_last_error(ctx), refused[i].text, strlen(refused[i].text)) == 0;
        verdict(right, "FAIL refusal of %s: status %g, wanted %g\n", refused[i].policy, (double)status,
                (double)FGA_ERR_UNSUPPORTED);
    }
    gpu_need(ctx, open_session(&p, 0, &c, "dense", 0.02)); /* has no sparse call to measure */
    fga_session_destroy(&p.session[0]);
}

/* ---- all -------------------------------------------------------------------------------------------------- */

#define DEVIATION FGA_SCORE_DEVIATION
#define MASS FGA_SCORE_MASS
#define MEAN FGA_SCORE_MEAN
#define LSE FGA_SCORE_LSE

static const spec specs[] = {
    {FGA_BF16, 128, 128, 1, 16, 1, 64, DEVIATION, 1, 1, 1, VIDEO(300), VIDEO(300), 0.3, 1},
    {FGA_BF16, 64, 128, 128, 16, 16, 64, MASS, 1, 2, 1, VIDEO(640), VIDEO(640), 0.3, 1},
    {FGA_F16, 64, 64, 1, 8, 1, 32, DEVIATION, 2, 2, 1, TEXT(10, 7, 250, 200, 20, 5), TEXT(10, 7, 250, 200, 20, 5), 0.1,
     2},
    {FGA_BF16, 80, 192, 16, 16, 1, 16, DEVIATION, 1, 1, 1, VIDEO(400), TEXT(3, 3, 140, 131, 0, 0), 0.5, 1},
    {FGA_F16, 128, 32, 8, 16, 1, 8, DEVIATION, 1, 1, 1, VIDEO(70), VIDEO(260), 0.2, 1},
    {FGA_F16, 64, 64, 64, 16, 24, 64, MASS, 1, 1, 1, TEXT(40, 31, 400, 390, 9, 9), TEXT(40, 31, 400, 390, 9, 9), 0.25,
     2},
    {FGA_BF16, 128, 64, 64, 64, 64, 64, MEAN, 1, 1, 1, VIDEO(500), VIDEO(500), 0.3, 1},
    {FGA_BF16, 64, 128, 2, 4, 1, 64, DEVIATION, 1, 1, 1, VIDEO(200), VIDEO(200), 0.05, 1},
    {FGA_BF16, 128, 64, 64, 16, 16, 64, LSE, 1, 2, 1, TEXT(40, 31, 400, 250, 9, 9), TEXT(40, 31, 400, 250, 9, 9), 0.25,
     1},
};

/* Attention and measuring take more channels than scores do. */
static const spec wide = {FGA_F16, 256, 64, 2, 8, 1, 64, DEVIATION, 1, 2, 1, VIDEO(150), TEXT(5, 3, 90, 81, 0, 0),
                          0.3,     1};

static const spec small = {FGA_BF16, 64, 32, 1, 4, 1, 32, DEVIATION, 1, 2, 1, VIDEO(150), VIDEO(150), 0.3, 1};

/* Everything that hangs on the variant. */
static void check_variant(fga_context *cpu, const char *variant, bool quick)
{
    fga_context *ctx = gpu_context(variant);
    fga_context_set_stream(ctx, gpu_stream());
    printf("variant %s\n", variant != NULL ? variant : "best");
    for (size_t i = 0; i < sizeof specs / sizeof specs[0]; i++) {
        if (quick && i >= 4 && specs[i].score != LSE) {
            continue;
        }
        check_spec(ctx, cpu, &specs[i], i < 3);
    }
    for (size_t i = 0; i < sizeof specs / sizeof specs[0]; i += quick ? 2 : 1) {
        check_measure(ctx, cpu, &specs[i]);
    }
    check_measure(ctx, cpu, &wide);
    check_session(ctx, cpu, &specs[1], "dfs,phases=1/4:0.3;3/4:0.1,tile_n=64,block_m=64", 0);
    check_session(ctx, cpu, &specs[0], "fgdfs,score=deviation,phases=1/4:0.3;3/4:0.1,select=topk,block_m=128,sub_q=16",
                  0);
    check_session(ctx, cpu, &small, "fgdfs,phases=1/4:0.3;3/4:0.1,group=32", 0.01);
    if (!quick || variant == NULL) {
        check_session(ctx, cpu, &specs[1], "sol,dense_layers=0", 0.02);
        check_session(ctx, cpu, &specs[1], "subblock", 0);
    }
    if (!quick) {
        check_session(ctx, cpu, &specs[1], "fgdfs,phases=1/4:0.3;3/4:0.1", 0);
        check_session(ctx, cpu, &specs[5], "sol,dense_layers=0,full_covariance=true,tau=0.5,neighbours=1", 0.02);
        check_session(ctx, cpu, &specs[1], "dfs,select=threshold,threshold=64,tile_n=64,block_m=64", 0.02);
        check_session(ctx, cpu, &specs[1], "fgdfs,block_m=128,sub_q=16,score=deviation,phases=1/4:0.3;3/4:0.1", 0);
        check_session(ctx, cpu, &specs[2],
                      "fgdfs,score=deviation,phases=1/4:0.3;3/4:0.1,select=topk,block_m=64,sub_q=8,group=32", 0);
        check_session(ctx, cpu, &specs[2], "fgdfs,phases=1/4:0.3;3/4:0.1,block_m=32,tile_n=2,group=32", 0.01);
        check_session(ctx, cpu, &specs[5], "dfs,phases=1/4:0.3;3/4:0.1,tile_n=64,block_m=64,neighbours=2", 0);
    }
    fga_context_destroy(&ctx);
}

int main(int argc, char **argv)
{
    bool quick = false;
    const char *variant = NULL;
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--quick") == 0) {
            quick = true;
        } else if (i + 1 < argc && strcmp(argv[i], "--variant") == 0) {
            variant = argv[++i];
        } else {
            fprintf(stderr, "check_cuda_ops [--quick] [--variant NAME]\n");
            return 2;
        }
    }
    gpu_open();
    fga_context *ctx = gpu_context(NULL), *cpu = NULL;
    fga_context_set_stream(ctx, gpu_stream());
    if (fga_context_create(NULL, &cpu) != FGA_OK) {
        return 1;
    }
    check_permute(ctx, 1000, 256, 0);
    check_permute(ctx, 77, 48, 16);
    for (size_t i = 0; i < sizeof specs / sizeof specs[0]; i += quick ? 3 : 1) {
        check_sums(ctx, &specs[i], false);
        check_sums(ctx, &specs[i], true);
    }
    check_order(ctx);
    check_selections(ctx, cpu, quick);
    check_refusals(ctx, &specs[0]);
    check_targets(ctx, &small, "dfs,phases=1/4:0.1,tile_n=8,block_m=32,target_recall=0.7,recall_floor=0.6", 0.7, 0.6,
                  0);
    check_targets(ctx, &small,
                  "fgdfs,score=deviation,phases=1/4:0.1,select=topk,block_m=32,sub_q=4,group=32,target_error=0.2", 0, 0,
                  0.2);
    if (!quick) {
        check_targets(ctx, &small, "fgdfs,phases=1/4:0.1,group=32,target_error=0.2", 0, 0, 0.2);
    }
    fga_context_destroy(&ctx);
    if (variant != NULL) {
        check_variant(cpu, variant, quick);
    } else {
        check_variant(cpu, NULL, quick);
        check_variant(cpu, "sm80", quick);
    }
    fga_context_destroy(&cpu);
    printf("%s: %d checks, %d failed\n", failures == 0 ? "passed" : "FAILED", checks, failures);
    return failures == 0 ? 0 : 1;
}
