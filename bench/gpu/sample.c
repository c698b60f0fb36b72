#include "sample.h"

#include "base/half.h"
#include "gpu.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { SAMPLES = 16 };

static void *room(int64_t count, size_t bytes)
{
    void *memory = calloc((size_t)(count > 0 ? count : 1), bytes);
    if (memory == NULL) {
        exit(1);
    }
    return memory;
}

static uint16_t *random_rows(int64_t count, uint64_t seed)
{
    uint16_t *rows = room(count, sizeof *rows);
    for (int64_t i = 0; i < count; i++) {
        rows[i] = fga_f32_to_bf16(1.7f * gpu_uniform(&seed));
    }
    return rows;
}

sample_data sample_make(int64_t tokens, int64_t heads, int dim)
{
    int64_t count = tokens * heads * dim;
    return (sample_data){tokens, heads, dim, random_rows(count, 1), random_rows(count, 2), random_rows(count, 3)};
}

void sample_discard(sample_data *d)
{
    free(d->q);
    free(d->k);
    free(d->v);
    *d = (sample_data){0};
}

static const uint16_t *row_at(const sample_data *d, const uint16_t *rows, int64_t token, int64_t head)
{
    return rows + (token * d->heads + head) * d->dim;
}

void sample_sums(const sample_data *d, int64_t groups, float *sum_k, float *sum_v, float *sum_bias, float *count)
{
    memset(sum_k, 0, (size_t)(d->heads * groups * d->dim) * sizeof *sum_k);
    memset(sum_v, 0, (size_t)(d->heads * groups * d->dim) * sizeof *sum_v);
    memset(sum_bias, 0, (size_t)(d->heads * groups) * sizeof *sum_bias);
    memset(count, 0, (size_t)(d->heads * groups) * sizeof *count);
    for (int64_t token = 0; token < d->tokens; token++) {
        for (int64_t head = 0; head < d->heads; head++) {
            int64_t at = head * groups + token / SAMPLE_GROUP;
            const uint16_t *k = row_at(d, d->k, token, head), *v = row_at(d, d->v, token, head);
            count[at] += 1;
            for (int i = 0; i < d->dim; i++) {
                sum_k[at * d->dim + i] += fga_bf16_to_f32(k[i]);
                sum_v[at * d->dim + i] += fga_bf16_to_f32(v[i]);
            }
        }
    }
}

/* A softmax over rows as they come. */
typedef struct running {
    int dim;
    float q[SAMPLE_MOST_DIM];
    double o[SAMPLE_MOST_DIM], most, sum;
} running;

static void add_row(running *r, const float *k, const float *v, double bias)
{
    double dot[4] = {0};
    for (int i = 0; i < r->dim; i += 4) {
        for (int j = 0; j < 4; j++) {
            dot[j] += (double)r->q[i + j] * (double)k[i + j];
        }
    }
    double score = (dot[0] + dot[1] + dot[2] + dot[3]) / sqrt(r->dim) + bias;
    if (score > r->most) {
        double shrink = exp(r->most - score);
        r->most = score;
        r->sum *= shrink;
        for (int i = 0; i < r->dim; i++) {
            r->o[i] *= shrink;
        }
    }
    double weight = exp(score - r->most);
    r->sum += weight;
    for (int i = 0; i < r->dim; i++) {
        r->o[i] += weight * (double)v[i];
    }
}

/* One query, group by group of keys: a group's left-out keys come as one, with the group's. */
static void exact_query(const sample_data *d, const sample_mask *mask, int64_t query, int64_t head, double *o)
{
    running r = {.dim = d->dim, .most = -INFINITY};
    fga_to_f32(r.q, row_at(d, d->q, query, head), FGA_BF16, (size_t)d->dim);
    const uint8_t *keep =
        mask->keep != NULL ? mask->keep + query / mask->m * ((d->tokens + mask->n - 1) / mask->n) : NULL;
    for (int64_t group = 0; group < d->tokens; group += SAMPLE_GROUP) {
        float k[SAMPLE_MOST_DIM], v[SAMPLE_MOST_DIM], rest_k[SAMPLE_MOST_DIM] = {0}, rest_v[SAMPLE_MOST_DIM] = {0};
        int left = 0;
        for (int64_t key = group; key < group + SAMPLE_GROUP && key < d->tokens; key++) {
            bool kept = keep == NULL || keep[key / mask->n] != 0;
            if (!kept && !mask->summaries) {
                continue;
            }
            fga_to_f32(k, row_at(d, d->k, key, head), FGA_BF16, (size_t)d->dim);
            fga_to_f32(v, row_at(d, d->v, key, head), FGA_BF16, (size_t)d->dim);
            if (kept) {
                add_row(&r, k, v, 0);
                continue;
            }
            left++;
            for (int i = 0; i < d->dim; i++) {
                rest_k[i] += k[i];
                rest_v[i] += v[i];
            }
        }
        for (int i = 0; i < d->dim && left > 0; i++) {
            rest_k[i] /= (float)left;
            rest_v[i] /= (float)left;
        }
        if (left > 0) {
            add_row(&r, rest_k, rest_v, log(left));
        }
    }
    for (int i = 0; i < d->dim; i++) {
        o[i] = r.sum > 0 ? r.o[i] / r.sum : 0;
    }
}

double sample_error(const sample_data *d, const sample_mask *mask, const void *o)
{
    double difference = 0, norm = 0, exact[SAMPLE_MOST_DIM];
    uint64_t state = 7;
    for (int n = 0; n < SAMPLES; n++) {
        int64_t query = n == 0 ? d->tokens - 1 : (int64_t)(gpu_random(&state) >> 1) % d->tokens;
        int64_t head = (int64_t)(gpu_random(&state) >> 1) % d->heads;
        uint16_t row[SAMPLE_MOST_DIM];
        float got[SAMPLE_MOST_DIM];
        gpu_get(row, (const uint16_t *)o + (query * d->heads + head) * d->dim, (size_t)d->dim * sizeof *row);
        fga_to_f32(got, row, FGA_BF16, (size_t)d->dim);
        exact_query(d, mask, query, head, exact);
        for (int i = 0; i < d->dim; i++) {
            double x = (double)got[i] - exact[i];
            if (!isfinite(x)) {
                return INFINITY;
            }
            difference += x * x;
            norm += exact[i] * exact[i];
        }
    }
    return sqrt(difference / norm);
}
