#include "naive.h"

#include "base/half.h"

#include <math.h>
#include <stdlib.h>

bool naive_is_valid(const fga_sequence *s, int64_t token)
{
    if (token < s->prefix) {
        return token < s->prefix_valid;
    }
    if (token < s->prefix + s->video) {
        return token - s->prefix < s->video_valid;
    }
    return token - s->prefix - s->video < s->suffix_valid;
}

bool naive_is_text(const fga_sequence *s, int64_t token)
{
    return token < s->prefix || token >= s->prefix + s->video;
}

static int64_t length(const fga_sequence *s)
{
    return s->prefix + s->video + s->suffix;
}

static int64_t parts(int64_t tokens, int64_t each)
{
    int64_t count = 0;
    for (int64_t at = 0; at < tokens; at += each) {
        count++;
    }
    return count;
}

int64_t naive_blocks(const naive_problem *p)
{
    return parts(length(&p->query), p->m);
}

int64_t naive_tiles(const naive_problem *p)
{
    return parts(length(&p->key), p->n);
}

/* ---- score ---------------------------------------------------------------------------------------- */

typedef struct sub_tile {
    int64_t part, valid; /* the block or tile it lies in; its valid tokens */
    double *mean;
} sub_tile;

/* Every sub-tile of a sequence cut into parts of `each` tokens. x is one head, [tokens][d]. */
static sub_tile *sub_tiles(const fga_sequence *s, int64_t each, int64_t sub, const float *x, int64_t d, int64_t *count)
{
    int64_t tokens = length(s);
    sub_tile *list = calloc((size_t)tokens + 1, sizeof *list);
    *count = 0;
    for (int64_t token = 0; token < tokens; token++) {
        bool starts = token % each == 0 || token % each % sub == 0;
        if (starts) {
            list[(*count)++] = (sub_tile){token / each, 0, calloc((size_t)d, sizeof(double))};
        }
        if (naive_is_valid(s, token)) {
            sub_tile *t = &list[*count - 1];
            t->valid++;
            for (int64_t c = 0; c < d; c++) {
                t->mean[c] += x[token * d + c];
            }
        }
    }
    for (int64_t i = 0; i < *count; i++) {
        for (int64_t c = 0; c < d && list[i].valid > 0; c++) {
            list[i].mean[c] /= (double)list[i].valid;
        }
    }
    return list;
}

static void free_sub_tiles(sub_tile *list, int64_t count)
{
    for (int64_t i = 0; i < count; i++) {
        free(list[i].mean);
    }
    free(list);
}

static void score_head(const naive_problem *p, const float *q, const float *k, double *scores)
{
    int64_t queries, keys, blocks = naive_blocks(p), tiles = naive_tiles(p), d = p->head_dim;
    sub_tile *qs = sub_tiles(&p->query, p->m, p->sub_q, q, d, &queries);
    sub_tile *ks = sub_tiles(&p->key, p->n, p->sub_k, k, d, &keys);
    double *n_u = calloc((size_t)blocks, sizeof *n_u), *z = calloc((size_t)keys, sizeof *z);
    for (int64_t i = 0; i < queries; i++) {
        n_u[qs[i].part] += (double)qs[i].valid;
    }
    for (int64_t i = 0; i < queries; i++) {
        double largest = -INFINITY, sum = 0;
        for (int64_t j = 0; j < keys; j++) {
            z[j] = 0;
            for (int64_t c = 0; c < d; c++) {
                z[j] += qs[i].mean[c] * ks[j].mean[c];
            }
            z[j] = ks[j].valid > 0 ? z[j] / sqrt((double)d) + log((double)ks[j].valid) : -INFINITY;
            largest = fmax(largest, z[j]);
        }
        for (int64_t j = 0; j < keys && qs[i].valid > 0; j++) {
            sum += ks[j].valid > 0 ? exp(z[j] - largest) : 0;
        }
        for (int64_t j = 0; j < keys && sum > 0; j++) {
            double share = ks[j].valid > 0 ? exp(z[j] - largest) / sum : 0;
            scores[qs[i].part * tiles + ks[j].part] += (double)qs[i].valid / n_u[qs[i].part] * share;
        }
    }
    free(n_u);
    free(z);
    free_sub_tiles(qs, queries);
    free_sub_tiles(ks, keys);
}

void naive_scores(const naive_problem *p, const float *q, const float *k, double *scores)
{
    int64_t row = naive_blocks(p) * naive_tiles(p), group = p->query_heads / p->kv_heads;
    for (int64_t b = 0; b < p->batch; b++) {
        for (int64_t h = 0; h < p->query_heads; h++) {
            int64_t qh = b * p->query_heads + h, kh = b * p->kv_heads + h / group;
            for (int64_t i = 0; i < row; i++) {
                scores[qh * row + i] = 0;
            }
            score_head(p, q + qh * length(&p->query) * p->head_dim, k + kh * length(&p->key) * p->head_dim,
                       scores + qh * row);
        }
    }
}

/* ---- select --------------------------------------------------------------------------------------- */

typedef struct ranked {
    float score;
    int64_t tile;
} ranked;

static int better_first(const void *a, const void *b)
{
    const ranked *x = a, *y = b;
    if (x->score != y->score) {
        return x->score > y->score ? -1 : 1;
    }
    return x->tile < y->tile ? -1 : 1;
}

/* What a part of a sequence holds: valid tokens, and valid text among them. */
static void survey(const fga_sequence *s, int64_t begin, int64_t each, bool *valid, bool *text)
{
    *valid = *text = false;
    for (int64_t token = begin; token < begin + each && token < length(s); token++) {
        *valid |= naive_is_valid(s, token);
        *text |= naive_is_valid(s, token) && naive_is_text(s, token);
    }
}

static void select_row(const naive_problem *p, int64_t u, const float *scores, double density, uint8_t *keep)
{
    int64_t tiles = naive_tiles(p), counted = 0, forced = 0, others = 0;
    ranked *list = calloc((size_t)tiles + 1, sizeof *list);
    bool asks, text_asks;
    survey(&p->query, u * p->m, p->m, &asks, &text_asks);
    for (int64_t v = 0; v < tiles; v++) {
        bool valid, text;
        survey(&p->key, v * p->n, p->n, &valid, &text);
        keep[v] = asks && valid && (text || text_asks);
        counted += valid;
        forced += valid && text;
        if (valid && !text) {
            list[others++] = (ranked){scores[v], v};
        }
    }
    int64_t wanted = (int64_t)floor(density * (double)counted + 0.5 + 1e-6);
    wanted = wanted < 1 ? 1 : wanted > counted ? counted : wanted;
    int64_t best = wanted - forced < 1 ? 1 : wanted - forced;
    qsort(list, (size_t)others, sizeof *list, better_first);
    for (int64_t i = 0; i < best && i < others && asks; i++) {
        keep[list[i].tile] = 1;
    }
    free(list);
}

void naive_select(const naive_problem *p, const float *scores, double density, uint8_t *keep)
{
    int64_t blocks = naive_blocks(p), tiles = naive_tiles(p);
    for (int64_t row = 0; row < p->batch * p->query_heads * blocks; row++) {
        select_row(p, row % blocks, scores + row * tiles, density, keep + row * tiles);
    }
}

/* ---- attend --------------------------------------------------------------------------------------- */

/* The logits and values that one query sees: its own, or those that a summary puts in their place. */
typedef struct seen_keys {
    double *logit, *value; /* [keys], [keys][d]; logit -inf: not attended to */
    bool *rest;            /* [keys]: not kept, but summarised */
} seen_keys;

static bool has_valid_query(const naive_problem *p, int64_t block)
{
    for (int64_t i = block * p->m; i < (block + 1) * p->m && i < length(&p->query); i++) {
        if (naive_is_valid(&p->query, i)) {
            return true;
        }
    }
    return false;
}

static void see_keys(const naive_problem *p, const naive_attention *a, int64_t b, int64_t h, int64_t i, seen_keys *s)
{
    int64_t d = p->head_dim, keys = length(&p->key), kv = b * p->kv_heads + h / (p->query_heads / p->kv_heads);
    int64_t row = (b * p->query_heads + h) * length(&p->query) + i;
    for (int64_t j = 0; j < keys; j++) {
        double bias = a->bias != NULL ? a->bias[kv * keys + j] : 0;
        bool kept = (a->pair == NULL || a->pair(a->arg, b, h, i, j)) && bias != -INFINITY;
        s->rest[j] =
            !kept && a->group > 0 && naive_is_valid(&p->key, j) && bias != -INFINITY && has_valid_query(p, i / p->m);
        s->logit[j] = kept || s->rest[j] ? bias : -INFINITY;
        for (int64_t c = 0; c < d && (kept || s->rest[j]); c++) {
            s->logit[j] += (double)a->q[row * d + c] * (double)a->k[(kv * keys + j) * d + c] / sqrt((double)d);
            s->value[j * d + c] = (double)a->v[(kv * keys + j) * d + c];
        }
    }
}

/* Every key that is not kept takes the mean logit and the mean value of those of its group that are not kept. */
static void summarise(const naive_problem *p, int64_t group, seen_keys *s)
{
    int64_t d = p->head_dim, keys = length(&p->key);
    for (int64_t first = 0; first < keys; first += group) {
        double logit = 0, value[256] = {0}, n = 0;
        for (int64_t j = first; j < first + group && j < keys; j++) {
            n += s->rest[j];
            logit += s->rest[j] ? s->logit[j] : 0;
            for (int64_t c = 0; c < d && s->rest[j]; c++) {
                value[c] += s->value[j * d + c];
            }
        }
        for (int64_t j = first; j < first + group && j < keys; j++) {
            for (int64_t c = 0; c < d && s->rest[j]; c++) {
                s->value[j * d + c] = value[c] / n;
            }
            s->logit[j] = s->rest[j] ? logit / n : s->logit[j];
        }
    }
}

static void attend_query(const naive_problem *p, const naive_attention *a, seen_keys *s, int64_t row)
{
    int64_t d = p->head_dim, keys = length(&p->key);
    double largest = -INFINITY, sum = 0;
    for (int64_t j = 0; j < keys; j++) {
        largest = fmax(largest, s->logit[j]);
    }
    for (int64_t c = 0; c < d; c++) {
        a->o[row * d + c] = 0;
    }
    a->lse[row] = -INFINITY;
    for (int64_t j = 0; j < keys; j++) {
        sum += s->logit[j] != -INFINITY ? exp(s->logit[j] - largest) : 0;
    }
    for (int64_t j = 0; j < keys && sum > 0; j++) {
        for (int64_t c = 0; c < d && s->logit[j] != -INFINITY; c++) {
            a->o[row * d + c] += exp(s->logit[j] - largest) / sum * s->value[j * d + c];
        }
    }
    if (sum > 0) {
        a->lse[row] = largest + log(sum);
    }
}

void naive_attend(const naive_problem *p, const naive_attention *a)
{
    int64_t keys = length(&p->key);
    seen_keys s = {calloc((size_t)keys + 1, sizeof(double)), calloc((size_t)(keys * p->head_dim) + 1, sizeof(double)),
                   calloc((size_t)keys + 1, sizeof(bool))};
    for (int64_t b = 0; b < p->batch; b++) {
        for (int64_t h = 0; h < p->query_heads; h++) {
            for (int64_t i = 0; i < length(&p->query); i++) {
                see_keys(p, a, b, h, i, &s);
                if (a->group > 0) {
                    summarise(p, a->group, &s);
                }
                attend_query(p, a, &s, (b * p->query_heads + h) * length(&p->query) + i);
            }
        }
    }
    free(s.logit);
    free(s.value);
    free(s.rest);
}

bool naive_mask_pair(const void *arg, int64_t b, int64_t h, int64_t i, int64_t j)
{
    const naive_mask *mask = arg;
    const naive_problem *p = mask->p;
    int64_t head = (mask->batch > 1 ? b : 0) * mask->heads + (mask->heads > 1 ? h : 0);
    int64_t row = head * naive_blocks(p) + i / p->m;
    return naive_is_valid(&p->key, j) && mask->keep[row * naive_tiles(p) + j / p->n] != 0;
}

double naive_density(const naive_mask *mask)
{
    const naive_problem *p = mask->p;
    double kept = 0, all = 0;
    for (int64_t b = 0; b < mask->batch; b++) {
        for (int64_t h = 0; h < mask->heads; h++) {
            for (int64_t i = 0; i < length(&p->query); i++) {
                for (int64_t j = 0; j < length(&p->key); j++) {
                    bool valid = naive_is_valid(&p->query, i) && naive_is_valid(&p->key, j);
                    all += valid;
                    kept += valid && naive_mask_pair(mask, b, h, i, j);
                }
            }
        }
    }
    return all > 0 ? kept / all : 0;
}

/* ---- schedule ------------------------------------------------------------------------------------- */

fga_step_kind naive_step(const fga_policy *policy, int step, int steps, int layer, double *density)
{
    int phase = -1, age = 0;
    for (int now = 0; now <= step; now++) { /* walk the run, one step at a time */
        bool starts = false;
        for (int i = 0; i < policy->phases; i++) {
            const fga_phase *f = &policy->phase[i];
            int64_t begin = 0;
            while (begin * f->denominator < (int64_t)f->numerator * steps) {
                begin++;
            }
            if (begin == now) {
                phase = i;
                starts = true;
            }
        }
        bool renews = phase >= 0 && policy->refresh_every > 0 && age + 1 == policy->refresh_every;
        age = starts || renews ? 0 : age + 1;
    }
    if (phase < 0 || layer < policy->dense_layers) {
        return FGA_STEP_DENSE;
    }
    *density = policy->phase[phase].density;
    return age == 0 ? FGA_STEP_REFRESH : FGA_STEP_REUSE;
}

/* ---- data ----------------------------------------------------------------------------------------- */

uint64_t naive_next(naive_random *random)
{
    uint64_t z = random->state += 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

int64_t naive_between(naive_random *random, int64_t low, int64_t high)
{
    return low + (int64_t)(naive_next(random) % (uint64_t)(high - low + 1));
}

float naive_normal(naive_random *random)
{
    double sum = -6; /* of twelve uniforms: near enough */
    for (int i = 0; i < 12; i++) {
        sum += (double)(naive_next(random) >> 11) * 0x1p-53;
    }
    return (float)sum;
}

float *naive_values(naive_random *random, int64_t count, fga_dtype dtype, float scale)
{
    float *values = malloc((size_t)count * sizeof *values + 1);
    for (int64_t i = 0; i < count; i++) {
        float x = scale * naive_normal(random);
        values[i] = dtype == FGA_BF16  ? fga_bf16_to_f32(fga_f32_to_bf16(x))
                    : dtype == FGA_F16 ? fga_f16_to_f32(fga_f32_to_f16(x))
                                       : x;
    }
    return values;
}

void *naive_cast(const float *values, int64_t count, fga_dtype dtype)
{
    void *out = malloc((size_t)count * fga_dtype_size(dtype) + 1);
    fga_from_f32(out, dtype, values, count);
    return out;
}

fga_sequence naive_sequence(naive_random *random, int64_t most)
{
    fga_sequence s = {0};
    s.video = naive_between(random, 1, most);
    s.video_valid = naive_between(random, 0, 2) == 0 ? naive_between(random, 1, s.video) : s.video;
    if (naive_between(random, 0, 1) == 0) {
        s.prefix = naive_between(random, 0, most / 4);
        s.prefix_valid = naive_between(random, 0, s.prefix);
    }
    if (naive_between(random, 0, 1) == 0) {
        s.suffix = naive_between(random, 0, most / 4);
        s.suffix_valid = naive_between(random, 0, s.suffix);
    }
    return s;
}

naive_problem naive_random_problem(naive_random *random, int64_t most)
{
    static const int32_t m[] = {16, 32, 64, 128, 192}, n[] = {1, 2, 4, 8, 16, 32, 64, 128}, sub[] = {1, 3, 8, 16, 64};
    static const int64_t d[] = {8, 24, 64, 80, 128};
    naive_problem p = {.batch = naive_between(random, 1, 2), .kv_heads = naive_between(random, 1, 2)};
    p.query_heads = p.kv_heads * naive_between(random, 1, 3);
    p.head_dim = d[naive_between(random, 0, 4)];
    p.query = naive_sequence(random, most);
    p.key = naive_between(random, 0, 1) == 0 ? p.query : naive_sequence(random, most);
    p.m = m[naive_between(random, 0, 4)];
    p.n = n[naive_between(random, 0, 7)];
    p.sub_q = sub[naive_between(random, 0, 4)];
    p.sub_k = sub[naive_between(random, 0, 4)];
    return p;
}

fga_context *naive_context(int threads, const char *variant)
{
    fga_context_options options = fga_context_options_default();
    options.threads = threads;
    options.variant = variant;
    fga_context *ctx = NULL;
    fga_context_create(&options, &ctx);
    return ctx;
}
