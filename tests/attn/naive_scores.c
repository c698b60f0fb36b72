#include "naive_scores.h"

#include <math.h>
#include <stdlib.h>

typedef struct head {
    const naive_scoring *s;
    const float *q, *k, *v; /* [tokens][d] */
    int64_t queries, keys, d;
} head;

/* Some tokens that are taken together: their mean, how many are valid, where they lie. */
typedef struct part {
    int64_t whole; /* the block or tile */
    int64_t begin, end, valid;
    double mean[256];
} part;

static int64_t tokens_of(const fga_sequence *s)
{
    return s->prefix + s->video + s->suffix;
}

static double product(const double *a, const float *b, int64_t d)
{
    double sum = 0;
    for (int64_t c = 0; c < d; c++) {
        sum += a[c] * (double)b[c];
    }
    return sum;
}

/* Cuts a sequence into wholes of `each` tokens and those into parts of `sub`. */
static part *cut(const head *h, const fga_sequence *sequence, int64_t each, int64_t sub, const float *x, int64_t *count)
{
    int64_t tokens = tokens_of(sequence), end = h->s->zero_pad ? (tokens + each - 1) / each * each : tokens;
    part *list = calloc((size_t)end + 1, sizeof *list);
    *count = 0;
    for (int64_t t = 0; t < end; t++) {
        if (t % each == 0 || t % each % sub == 0) {
            list[*count] = (part){.whole = t / each, .begin = t};
            ++*count;
        }
        part *p = &list[*count - 1];
        p->end = t + 1;
        if (t < tokens && naive_is_valid(sequence, t)) {
            p->valid++;
            for (int64_t c = 0; c < h->d; c++) {
                p->mean[c] += x[t * h->d + c];
            }
        }
    }
    for (int64_t i = 0; i < *count; i++) {
        double n = (double)(h->s->zero_pad ? list[i].end - list[i].begin : list[i].valid);
        for (int64_t c = 0; c < h->d && n > 0; c++) {
            list[i].mean[c] /= n;
        }
    }
    return list;
}

/* Mean cosine of the whole's valid tokens to their mean, below the gate? */
static bool is_gated(const head *h, const fga_sequence *sequence, int64_t whole, int64_t each, const float *x,
                     double gate)
{
    double mean[256] = {0}, sum = 0, mean_norm = 0, n = 0;
    int64_t begin = whole * each, end = begin + each < tokens_of(sequence) ? begin + each : tokens_of(sequence);
    for (int64_t t = begin; t < end; t++) {
        for (int64_t c = 0; c < h->d && naive_is_valid(sequence, t); c++) {
            mean[c] += x[t * h->d + c];
        }
        n += naive_is_valid(sequence, t);
    }
    for (int64_t c = 0; c < h->d; c++) {
        mean_norm += mean[c] * mean[c];
    }
    for (int64_t t = begin; t < end; t++) {
        double norm = 0, dot = 0;
        for (int64_t c = 0; c < h->d && naive_is_valid(sequence, t); c++) {
            norm += (double)x[t * h->d + c] * (double)x[t * h->d + c];
            dot += (double)x[t * h->d + c] * mean[c];
        }
        sum += norm * mean_norm > 0 ? dot / sqrt(norm * mean_norm) : 0;
    }
    return gate > 0 && n > 1 && sum / n < gate;
}

static double root(const head *h)
{
    return 1 / sqrt((double)h->d);
}

/* q' Sigma q * scale^2 over the part's valid keys. */
static double variance(const head *h, const part *keys, const double *q)
{
    double sum = 0;
    for (int64_t j = keys->begin; j < keys->end; j++) {
        if (naive_is_valid(&h->s->p->key, j)) {
            double off = 0;
            for (int64_t c = 0; c < h->d; c++) {
                off += q[c] * ((double)h->k[j * h->d + c] - keys->mean[c]);
            }
            sum += off * off;
        }
    }
    return sum / (double)keys->valid * root(h) * root(h);
}

static double logit(const head *h, const part *query, const part *key)
{
    double z = 0;
    if (key->valid == 0 && !h->s->zero_pad) {
        return -INFINITY;
    }
    for (int64_t c = 0; c < h->d; c++) {
        z += query->mean[c] * key->mean[c];
    }
    z = z * root(h) + (h->s->zero_pad ? 0 : log((double)key->valid));
    return h->s->score == FGA_SCORE_SECOND_ORDER ? z + variance(h, key, query->mean) / 2 : z;
}

/* logits to probabilities; all 0 where there is no logit. Returns log of the sum. */
static double softmax(double *z, int64_t n)
{
    double largest = -INFINITY, sum = 0;
    for (int64_t j = 0; j < n; j++) {
        largest = fmax(largest, z[j]);
    }
    for (int64_t j = 0; j < n; j++) {
        sum += z[j] == -INFINITY ? 0 : exp(z[j] - largest);
    }
    for (int64_t j = 0; j < n; j++) {
        z[j] = z[j] == -INFINITY ? 0 : exp(z[j] - largest) / sum;
    }
    return largest + log(sum);
}

/* Sum of the other keys' P in j's group over its valid keys: the group's mean; and norm(V_j - mean V). */
static void group_of(const head *h, int64_t j, const double *p, double *mean, double *apart)
{
    int64_t begin = j / h->s->group * h->s->group, n = 0;
    double v[256] = {0};
    *mean = *apart = 0;
    for (int64_t t = begin; t < begin + h->s->group && t < h->keys; t++) {
        if (naive_is_valid(&h->s->p->key, t)) {
            n++;
            *mean += p[t];
            for (int64_t c = 0; c < h->d; c++) {
                v[c] += h->v[t * h->d + c];
            }
        }
    }
    *mean /= (double)n;
    for (int64_t c = 0; c < h->d; c++) {
        double off = (double)h->v[j * h->d + c] - v[c] / (double)n;
        *apart += off * off;
    }
    *apart = sqrt(*apart);
}

/* ---- one row of probabilities into its block's scores --------------------------------------------- */

typedef struct row {
    double weight, *score, *size; /* of the block: [tiles] */
} row;

static void add_row(const head *h, const row *r, const part *keys, int64_t count, const double *p, const double *z)
{
    for (int64_t j = 0; j < count; j++) {
        double *score = &r->score[keys[j].whole], *size = &r->size[keys[j].whole], mean, apart;
        switch (h->s->score) {
        case FGA_SCORE_MAX:
        case FGA_SCORE_EXACT_MAX:
            *score = *size = fmax(*score, p[j]);
            break;
        case FGA_SCORE_LSE:
            *score = z[j] == -INFINITY ? *score
                     : isinf(*score)   ? z[j] + log(r->weight)
                     : *score > z[j]   ? *score + log1p(r->weight * exp(z[j] - *score))
                                       : z[j] + log(r->weight + exp(*score - z[j]));
            *size = 1 + fabs(*score);
            break;
        case FGA_SCORE_DEVIATION:
            if (naive_is_valid(&h->s->p->key, j)) {
                group_of(h, j, p, &mean, &apart);
                *score += r->weight * fabs(p[j] - mean) * apart;
                *size += r->weight * (p[j] + mean) * apart;
            }
            break;
        default:
            *score += r->weight * p[j];
            *size = *score;
        }
    }
}

/* Sol-Attn's raw logits in log2 units, their mean, and the square root of their variance. */
static void raw_row(const head *h, const part *query, const part *keys, const bool *out, int64_t tiles, double *score,
                    double *mean, double *spread)
{
    double unit = root(h) / log(2), n = 0, sum = 0, square = 0, centre[256] = {0}, diagonal = 0;
    for (int64_t v = 0; v < tiles; v++) {
        double z = 0;
        for (int64_t c = 0; c < h->d; c++) {
            z += query->mean[c] * keys[v].mean[c] * unit;
        }
        bool counts = (keys[v].valid > 0 || h->s->zero_pad) && !out[v];
        if (h->s->raw) {
            score[v] = counts ? z : -INFINITY;
        }
        for (int64_t c = 0; c < h->d && counts; c++) {
            centre[c] += keys[v].mean[c];
        }
        n += counts;
        sum += counts ? z : 0;
        square += counts ? z * z : 0;
    }
    for (int64_t c = 0; c < h->d && n > 0; c++) {
        double var = 0;
        for (int64_t v = 0; v < tiles; v++) {
            if ((keys[v].valid > 0 || h->s->zero_pad) && !out[v]) {
                var += pow(keys[v].mean[c] - centre[c] / n, 2) / n;
            }
        }
        diagonal += pow(query->mean[c] * unit, 2) * var;
    }
    *mean = n > 0 ? sum / n : 0;
    double own = n > 0 ? fmax(0, square / n - *mean * *mean) : 0;
    *spread = sqrt((h->s->raw && h->s->full_covariance ? own : diagonal) + 1e-6);
}

/* ---- a head --------------------------------------------------------------------------------------- */

static int64_t valid_in(const fga_sequence *s, int64_t begin, int64_t each)
{
    int64_t n = 0;
    for (int64_t t = begin; t < begin + each && t < tokens_of(s); t++) {
        n += naive_is_valid(s, t);
    }
    return n;
}

static void score_head(const head *h, int64_t first, naive_scored *out)
{
    const naive_problem *p = h->s->p;
    fga_score kind = h->s->score;
    bool exact = kind == FGA_SCORE_EXACT_MAX || kind == FGA_SCORE_EXACT_MASS, mean = kind == FGA_SCORE_MEAN;
    int64_t tiles = naive_tiles(p), blocks = naive_blocks(p), rows, elements;
    int64_t sub_q = exact ? 1 : mean ? p->m : p->sub_q;
    int64_t sub_k = exact || kind == FGA_SCORE_DEVIATION ? 1 : mean ? p->n : p->sub_k;
    part *queries = cut(h, &p->query, p->m, sub_q, h->q, &rows);
    part *keys = cut(h, &p->key, p->n, sub_k, h->k, &elements);
    double *z = calloc((size_t)elements + 1, sizeof *z), *prob = calloc((size_t)elements + 1, sizeof *prob);
    bool *gated = calloc((size_t)tiles + 1, sizeof *gated);
    for (int64_t v = 0; v < tiles; v++) {
        gated[v] = is_gated(h, &p->key, v, p->n, h->k, h->s->gate_k);
    }
    for (int64_t u = 0; u < blocks; u++) {
        double *score = out->score + (first + u) * tiles, *size = out->size + (first + u) * tiles;
        int64_t n = valid_in(&p->query, u * p->m, p->m), count = 0;
        for (int64_t v = 0; v < tiles; v++) {
            score[v] = kind == FGA_SCORE_LSE && n > 0 ? -INFINITY : 0;
            size[v] = 0;
        }
        out->mean[first + u] = out->spread[first + u] = NAN;
        for (int64_t i = 0; i < rows; i++) {
            count += queries[i].whole == u;
        }
        for (int64_t i = 0; i < rows && n > 0; i++) {
            if (queries[i].whole != u || (queries[i].valid == 0 && !h->s->zero_pad)) {
                continue;
            }
            row r = {h->s->zero_pad ? 1 / (double)count : (double)queries[i].valid / (double)n, score, size};
            for (int64_t j = 0; j < elements; j++) {
                z[j] = gated[keys[j].whole] && !exact ? -INFINITY : logit(h, &queries[i], &keys[j]);
                prob[j] = z[j];
            }
            softmax(prob, elements);
            add_row(h, &r, keys, elements, prob, z);
            if (mean) {
                raw_row(h, &queries[i], keys, gated, tiles, score, &out->mean[first + u], &out->spread[first + u]);
            }
        }
        bool everything = n > 0 && is_gated(h, &p->query, u, p->m, h->q, h->s->gate_q);
        for (int64_t v = 0; v < tiles && n > 0; v++) {
            score[v] = everything || gated[v] ? INFINITY : score[v];
            size[v] = h->s->raw ? 1 + fabs(score[v]) : size[v];
        }
    }
    free(queries);
    free(keys);
    free(z);
    free(prob);
    free(gated);
}

static head head_of(const naive_scoring *s, int64_t qh)
{
    const naive_problem *p = s->p;
    int64_t queries = tokens_of(&p->query), keys = tokens_of(&p->key), d = p->head_dim;
    int64_t kv = qh / p->query_heads * p->kv_heads + qh % p->query_heads / (p->query_heads / p->kv_heads);
    return (head){s, s->q + qh * queries * d, s->k + kv * keys * d, s->v + kv * keys * d, queries, keys, d};
}

naive_scored naive_score_all(const naive_scoring *s)
{
    int64_t heads = s->p->batch * s->p->query_heads, blocks = naive_blocks(s->p), rows = heads * blocks;
    size_t all = (size_t)(rows * naive_tiles(s->p)) + 1;
    naive_scored out = {calloc(all, sizeof(double)), calloc(all, sizeof(double)),
                        calloc((size_t)rows + 1, sizeof(double)), calloc((size_t)rows + 1, sizeof(double))};
    for (int64_t qh = 0; qh < heads; qh++) {
        head h = head_of(s, qh);
        score_head(&h, qh * blocks, &out);
    }
    return out;
}

void naive_scored_free(naive_scored *scored)
{
    free(scored->score);
    free(scored->size);
    free(scored->mean);
    free(scored->spread);
}

float *naive_dense_lse(const naive_scoring *s)
{
    int64_t heads = s->p->batch * s->p->query_heads, queries = tokens_of(&s->p->query), keys = tokens_of(&s->p->key);
    float *lse = malloc((size_t)(heads * queries + 1) * sizeof *lse);
    double *z = calloc((size_t)keys + 1, sizeof *z), q[256];
    for (int64_t i = 0; i < heads * queries; i++) {
        head h = head_of(s, i / queries);
        for (int64_t c = 0; c < h.d; c++) {
            q[c] = h.q[i % queries * h.d + c];
        }
        for (int64_t j = 0; j < keys; j++) {
            z[j] = naive_is_valid(&s->p->key, j) ? product(q, h.k + j * h.d, h.d) * root(&h) : -INFINITY;
        }
        lse[i] = (float)softmax(z, keys);
    }
    free(z);
    return lse;
}
