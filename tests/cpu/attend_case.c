#define _DEFAULT_SOURCE /* MAP_ANONYMOUS */
#include "attend_case.h"

#include "base/half.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { GUARD = 64, POISON = 0xa5 };

uint64_t next_random(uint64_t *state)
{
    uint64_t z = *state += 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

static float random_float(uint64_t *state) /* roughly normal, variance 1 */
{
    float sum = 0;
    for (int i = 0; i < 3; i++) {
        sum += (float)(next_random(state) >> 40) * 0x1p-23f - 1.0f;
    }
    return sum;
}

static size_t width(fga_dtype dtype)
{
    return dtype == FGA_F32 ? 4 : 2;
}

static void *allocate(attend_data *d, size_t bytes)
{
    void *p = aligned_alloc(64, (bytes + 63) / 64 * 64 + 64);
    if (p == NULL) {
        abort();
    }
    d->allocated[d->allocations++].base = p;
    return p;
}

/* Exactly `bytes`, between two pages of which one is adjacent. */
static void *allocate_at_a_wall(attend_data *d, size_t bytes)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE), inner = (bytes + page - 1) / page * page, all = inner + 2 * page;
    char *base = mmap(NULL, all, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (base == MAP_FAILED || (inner > 0 && mprotect(base + page, inner, PROT_READ | PROT_WRITE) != 0)) {
        abort();
    }
    d->allocated[d->allocations].base = base;
    d->allocated[d->allocations++].mapped = all;
    return d->spec.place == PLACE_AFTER_A_WALL ? base + page : base + page + inner - bytes;
}

static void *allocate_input(attend_data *d, size_t bytes)
{
    return d->spec.place == PLACE_ANYWHERE ? allocate(d, bytes) : allocate_at_a_wall(d, bytes);
}

float attend_data_get(const attend_data *d, const char *tensor, int64_t row, int32_t i)
{
    float x;
    size_t w = width(d->spec.dtype);
    char word[4] = {0};
    memcpy(word, tensor + (size_t)(row * d->stride + i) * w, w);
    fga_to_f32(&x, word, d->spec.dtype, 1);
    return x;
}

void attend_data_set(const attend_data *d, char *tensor, int64_t row, int32_t i, float value)
{
    size_t w = width(d->spec.dtype);
    char word[4];
    fga_from_f32(word, d->spec.dtype, &value, 1);
    memcpy(tensor + (size_t)(row * d->stride + i) * w, word, w);
}

static char *make_tensor(attend_data *d, int64_t rows)
{
    size_t w = width(d->spec.dtype), shift = (size_t)d->spec.shift * w;
    size_t bytes = rows > 0 ? (size_t)((rows - 1) * d->stride + d->spec.head_dim) * w : 0;
    return (char *)allocate_input(d, bytes + shift) + shift;
}

static float key_scale(const attend_case *c, int64_t row)
{
    double along = (double)row / (double)c->keys;
    switch (c->data) {
    case DATA_HUGE:
        return 60.0f;
    case DATA_TINY:
        return 1e-6f;
    case DATA_EQUAL:
        return 0.0f;
    case DATA_FALLING:
        return (float)(12.0 * (1.0 - along));
    case DATA_RISING:
        return (float)(12.0 * along);
    default:
        return 1.0f;
    }
}

static float *zeros(attend_data *d, int64_t n)
{
    float *x = allocate_input(d, (size_t)n * sizeof *x);
    memset(x, 0, (size_t)n * sizeof *x);
    return x;
}

static void make_sums(attend_data *d)
{
    int64_t group = d->spec.group, groups = group > 0 ? (d->spec.keys + group - 1) / group : 0;
    d->sum_k = zeros(d, groups * d->spec.head_dim);
    d->sum_v = zeros(d, groups * d->spec.head_dim);
    d->sum_bias = zeros(d, groups);
    d->count = zeros(d, groups);
    if (d->spec.dtype == FGA_BF16 && (d->spec.keys + d->spec.rows) % 2 == 0) {
        d->parts = allocate_input(d, (size_t)(groups * 4 * d->spec.head_dim) * sizeof *d->parts);
    }
    d->summaries = (fga_summaries){d->sum_k, d->sum_v, d->sum_bias, d->count, groups, d->spec.group, d->parts};
}

static void add_to_sums(attend_data *d, int64_t row, int32_t i)
{
    if (d->spec.group > 0) {
        int64_t at = row / d->spec.group * d->spec.head_dim + i;
        d->sum_k[at] += attend_data_get(d, d->k, row, i);
        d->sum_v[at] += attend_data_get(d, d->v, row, i);
    }
}

/* Each sum as two bf16: rounded, and what that leaves. */
static void split_sums(attend_data *d)
{
    int64_t dim = d->spec.head_dim;
    for (int64_t i = 0; d->parts != NULL && i < 2 * d->summaries.groups * dim; i++) {
        int64_t group = i / (2 * dim), column = i % dim;
        bool of_values = i / dim % 2 == 1;
        float sum = (of_values ? d->sum_v : d->sum_k)[group * dim + column];
        uint16_t *high = d->parts + (4 * group + 2 * of_values) * dim + column;
        high[0] = fga_f32_to_bf16(sum);
        high[dim] = fga_f32_to_bf16(sum - fga_bf16_to_f32(high[0]));
    }
}

void attend_data_make(attend_data *d, const attend_case *c)
{
    uint64_t state = c->seed * 7919 + 17;
    *d = (attend_data){.spec = *c};
    d->stride = c->strided ? 3 * c->head_dim + 8 : c->head_dim;
    d->o_stride = c->strided ? 2 * c->head_dim + 24 : c->head_dim;
    d->q = make_tensor(d, c->rows);
    d->k = make_tensor(d, c->keys);
    d->v = make_tensor(d, c->keys);
    d->bias = allocate_input(d, (size_t)c->keys * sizeof *d->bias);
    d->list = allocate_input(d, (size_t)c->keys * sizeof *d->list);
    make_sums(d);
    for (int64_t row = 0; row < c->rows; row++) {
        for (int32_t i = 0; i < c->head_dim; i++) {
            attend_data_set(d, d->q, row, i, random_float(&state));
        }
    }
    for (int64_t row = 0; row < c->keys; row++) {
        bool kept = (int)(next_random(&state) % 16) < c->kept_in_16;
        if (kept) {
            d->list[d->kept++] = (uint32_t)row;
        }
        bool drawn = kept || c->group > 0; /* rows in no sum are poison from the start */
        d->bias[row] = drawn ? random_float(&state) : NAN;
        for (int32_t i = 0; i < c->head_dim; i++) {
            /* Rows that are not kept must never be read. */
            attend_data_set(d, d->k, row, i, drawn ? random_float(&state) * key_scale(c, row) : NAN);
            attend_data_set(d, d->v, row, i, drawn ? random_float(&state) + 0.25f : NAN);
            add_to_sums(d, row, i);
            if (!kept) {
                attend_data_set(d, d->k, row, i, NAN);
                attend_data_set(d, d->v, row, i, NAN);
            }
        }
        if (c->group > 0) {
            d->sum_bias[row / c->group] += c->bias ? d->bias[row] : 0.0f;
            d->count[row / c->group] += 1.0f;
        }
        d->bias[row] = kept ? d->bias[row] : NAN;
    }
    split_sums(d);
}

void attend_data_free(attend_data *d)
{
    for (int i = 0; i < d->allocations; i++) {
        if (d->allocated[i].mapped > 0) {
            munmap(d->allocated[i].base, d->allocated[i].mapped);
        } else {
            free(d->allocated[i].base);
        }
    }
}

attend_result attend_result_make(const attend_data *d)
{
    size_t rows = (size_t)d->spec.rows;
    attend_result r = {calloc(rows * (size_t)d->spec.head_dim, sizeof(double)), calloc(rows, sizeof(double))};
    if (r.o == NULL || r.lse == NULL) {
        abort();
    }
    return r;
}

void attend_result_free(attend_result *r)
{
    free(r->o);
    free(r->lse);
}

static float scale_of(const attend_data *d)
{
    return 1.0f / sqrtf((float)d->spec.head_dim);
}

/* `count` rows of a tensor as f32, those of `list` if it is not NULL. */
static float *decode(const attend_data *d, const char *tensor, const uint32_t *list, int64_t count)
{
    float *rows = malloc((size_t)(count * d->spec.head_dim + 1) * sizeof *rows);
    for (int64_t n = 0; rows != NULL && n < count; n++) {
        int64_t row = list != NULL ? list[n] : n;
        for (int32_t i = 0; i < d->spec.head_dim; i++) {
            rows[n * d->spec.head_dim + i] = attend_data_get(d, tensor, row, i);
        }
    }
    return rows;
}

typedef struct decoded {
    float *q, *k, *v;
} decoded;

static decoded decode_all(const attend_data *d)
{
    return (decoded){decode(d, d->q, NULL, d->spec.rows), decode(d, d->k, d->list, d->kept),
                     decode(d, d->v, d->list, d->kept)};
}

static void decoded_free(decoded *t)
{
    free(t->q);
    free(t->k);
    free(t->v);
}

/* The first listed key at or after the group's first. */
static int64_t first_listed(const attend_data *d, int64_t group)
{
    int64_t n = 0;
    while (n < d->kept && d->list[n] < group * d->spec.group) {
        n++;
    }
    return n;
}

/* Logit of what remains of the group, from those of the listed keys; -inf where nothing does. */
static double remaining_logit(const attend_data *d, const float *q, int64_t group, const double *logit)
{
    double sum = 0, remain = d->count[group];
    for (int32_t i = 0; i < d->spec.head_dim; i++) {
        sum += (double)q[i] * d->sum_k[group * d->spec.head_dim + i];
    }
    sum = sum * scale_of(d) + d->sum_bias[group];
    for (int64_t n = first_listed(d, group); n < first_listed(d, group + 1); n++) {
        sum -= logit[n];
        remain--;
    }
    return remain > 0 ? sum / remain : -INFINITY;
}

/* Adds to o what remains of the group, with weight w; returns its mass. */
static double add_remaining(const attend_data *d, const decoded *t, int64_t group, double w, double *o)
{
    int64_t first = first_listed(d, group), end = first_listed(d, group + 1);
    for (int32_t i = 0; i < d->spec.head_dim && w > 0; i++) {
        double value = d->sum_v[group * d->spec.head_dim + i];
        for (int64_t n = first; n < end; n++) {
            value -= t->v[n * d->spec.head_dim + i];
        }
        o[i] += w * value;
    }
    return w > 0 ? w * ((double)d->count[group] - (double)(end - first)) : 0;
}

void attend_exactly(const attend_data *d, attend_result *r)
{
    const attend_case *c = &d->spec;
    decoded t = decode_all(d);
    double *logit = malloc((size_t)(d->kept + 1) * sizeof *logit);
    for (int32_t row = 0; row < c->rows; row++) {
        double max = -INFINITY, sum = 0, *o = r->o + (size_t)row * (size_t)c->head_dim;
        for (int64_t n = 0; n < d->kept; n++) {
            double dot = 0;
            for (int32_t i = 0; i < c->head_dim; i++) {
                dot += (double)t.q[row * c->head_dim + i] * t.k[n * c->head_dim + i];
            }
            logit[n] = dot * scale_of(d) + (c->bias ? d->bias[d->list[n]] : 0.0f);
            max = fmax(max, logit[n]);
        }
        for (int64_t g = 0; g < d->summaries.groups; g++) {
            max = fmax(max, remaining_logit(d, t.q + row * c->head_dim, g, logit));
        }
        memset(o, 0, (size_t)c->head_dim * sizeof *o);
        for (int64_t n = 0; n < d->kept; n++) {
            double p = exp(logit[n] - max);
            sum += p;
            for (int32_t i = 0; i < c->head_dim; i++) {
                o[i] += p * t.v[n * c->head_dim + i];
            }
        }
        for (int64_t g = 0; g < d->summaries.groups; g++) {
            double m = remaining_logit(d, t.q + row * c->head_dim, g, logit);
            sum += add_remaining(d, &t, g, m > -INFINITY ? exp(m - max) : 0, o);
        }
        for (int32_t i = 0; i < c->head_dim && sum != 0; i++) {
            o[i] /= sum;
        }
        r->lse[row] = max > -INFINITY || d->kept > 0 ? max + log(sum) : -INFINITY;
    }
    free(logit);
    decoded_free(&t);
}

static float rounded(float x, fga_dtype dtype)
{
    char word[4];
    fga_from_f32(word, dtype, &x, 1);
    fga_to_f32(&x, word, dtype, 1);
    return x;
}

/* The summaries as attend_naively computes them: w[g], 0 where nothing remains. Raises *max. */
static void naive_remaining(const attend_data *d, const float *q, const float *logit, float *w, float *max)
{
    for (int64_t g = 0; g < d->summaries.groups; g++) {
        float sum = 0, remain = d->count[g];
        for (int32_t i = 0; i < d->spec.head_dim; i++) {
            sum += q[i] * d->sum_k[g * d->spec.head_dim + i];
        }
        sum = sum * scale_of(d) + d->sum_bias[g];
        for (int64_t n = first_listed(d, g); n < first_listed(d, g + 1); n++) {
            sum -= logit[n];
            remain--;
        }
        w[g] = remain > 0 ? sum / remain : -INFINITY;
        *max = fmaxf(*max, w[g]);
    }
}

void attend_naively(const attend_data *d, attend_result *r)
{
    const attend_case *c = &d->spec;
    decoded t = decode_all(d);
    float *p = malloc((size_t)(d->kept + 1) * sizeof *p), *w = malloc((size_t)(d->summaries.groups + 1) * sizeof *w);
    for (int32_t row = 0; row < c->rows; row++) {
        float max = -INFINITY, sum = 0;
        for (int64_t n = 0; n < d->kept; n++) {
            float dot = 0;
            for (int32_t i = 0; i < c->head_dim; i++) {
                dot += t.q[row * c->head_dim + i] * t.k[n * c->head_dim + i];
            }
            p[n] = dot * scale_of(d) + (c->bias ? d->bias[d->list[n]] : 0.0f);
            max = fmaxf(max, p[n]);
        }
        naive_remaining(d, t.q + row * c->head_dim, p, w, &max);
        for (int64_t n = 0; n < d->kept; n++) {
            p[n] = expf(p[n] - max);
            sum += p[n];
        }
        for (int64_t g = 0; g < d->summaries.groups; g++) {
            int64_t first = first_listed(d, g), end = first_listed(d, g + 1);
            w[g] = expf(w[g] - max);
            sum += w[g] * (d->count[g] - (float)(end - first));
            for (int64_t n = first; n < end; n++) {
                p[n] -= w[g];
            }
        }
        for (int64_t n = 0; n < d->kept; n++) {
            p[n] = rounded(p[n] / sum, c->dtype);
        }
        for (int32_t i = 0; i < c->head_dim; i++) {
            float o = 0;
            for (int64_t n = 0; n < d->kept; n++) {
                o += p[n] * t.v[n * c->head_dim + i];
            }
            for (int64_t g = 0; g < d->summaries.groups; g++) {
                o += rounded(w[g] / sum, c->dtype) * d->sum_v[g * c->head_dim + i];
            }
            r->o[(size_t)row * (size_t)c->head_dim + (size_t)i] = rounded(o, c->dtype);
        }
        r->lse[row] = sum > 0 ? max + logf(sum) : -INFINITY;
    }
    free(p);
    free(w);
    decoded_free(&t);
}

static bool untouched(const unsigned char *bytes, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        if (bytes[i] != POISON) {
            return false;
        }
    }
    return true;
}

/* Attention, or with `kept` a probe, which also gives `dense` if that is not NULL. */
static bool run_guarded(const attend_data *d, const fga_ops *ops, const uint32_t *kept, attend_result *r,
                        attend_result *dense)
{
    const attend_case *c = &d->spec;
    size_t w = width(c->dtype), dim = (size_t)c->head_dim, rows = (size_t)c->rows;
    size_t o_bytes = ((rows - 1) * (size_t)d->o_stride + dim) * w, lse_bytes = rows * sizeof(float);
    size_t scratch_bytes = kept != NULL ? ops->probe_scratch[c->dtype](c->rows, c->head_dim, c->dtype, d->kept)
                                        : ops->attend_scratch[c->dtype](c->rows, c->head_dim, c->dtype);
    attend_data out = {.spec = *c, .stride = d->o_stride};
    unsigned char *o = allocate(&out, o_bytes + 2 * GUARD + 64), *lse = allocate(&out, lse_bytes + 2 * GUARD);
    unsigned char *scratch = allocate(&out, scratch_bytes + GUARD);
    memset(o, POISON, o_bytes + 2 * GUARD + 64);
    memset(lse, POISON, lse_bytes + 2 * GUARD);
    memset(scratch, 0xff, scratch_bytes); /* NaN */
    memset(scratch + scratch_bytes, POISON, GUARD);
    unsigned char *o_first = o + GUARD + (size_t)c->shift * w;
    for (size_t row = 0; row < rows; row++) { /* an element left unwritten shows as NaN */
        memset(o_first + row * (size_t)d->o_stride * w, 0xff, dim * w);
    }
    unsigned char *dense_o = NULL;
    float *dense_lse = NULL;
    if (dense != NULL) {
        dense_o = allocate(&out, o_bytes + GUARD);
        dense_lse = allocate(&out, lse_bytes);
        memset(dense_o, 0xff, o_bytes);
        memset(dense_o + o_bytes, POISON, GUARD);
    }
    fga_attend_op op = {
        .q = d->q,
        .k = d->k,
        .v = d->v,
        .o = o_first,
        .lse = (float *)(lse + GUARD),
        .bias = c->bias ? d->bias : NULL,
        .keys = d->list,
        .q_stride = d->stride,
        .k_stride = d->stride,
        .v_stride = d->stride,
        .o_stride = d->o_stride,
        .key_count = d->kept,
        .summaries = c->group > 0 ? &d->summaries : NULL,
        .rows = c->rows,
        .head_dim = c->head_dim,
        .dtype = c->dtype,
        .scale = scale_of(d),
        .scratch = scratch,
    };
    if (kept != NULL) {
        fga_probe_op probe = {op, kept, c->keys, (float *)(lse + GUARD), dense_o, dense_lse};
        probe.attend.lse = NULL;
        ops->probe[c->dtype](&probe);
    } else {
        ops->attend[c->dtype](&op);
    }
    bool intact = untouched(o, (size_t)(o_first - o)) && untouched(o_first + o_bytes, GUARD) && untouched(lse, GUARD) &&
                  untouched(lse + GUARD + lse_bytes, GUARD) && untouched(scratch + scratch_bytes, GUARD);
    for (size_t row = 0; row < rows; row++) {
        const unsigned char *o_row = o_first + row * (size_t)d->o_stride * w;
        size_t gap = row + 1 < rows ? ((size_t)d->o_stride - dim) * w : 0;
        intact = intact && untouched(o_row + dim * w, gap);
        for (size_t i = 0; i < dim; i++) {
            r->o[row * dim + i] = attend_data_get(&out, (const char *)o_first, (int64_t)row, (int32_t)i);
        }
        float l;
        memcpy(&l, lse + GUARD + row * sizeof l, sizeof l);
        r->lse[row] = l;
    }
    for (size_t row = 0; row < rows && dense != NULL; row++) {
        for (size_t i = 0; i < dim; i++) {
            dense->o[row * dim + i] = attend_data_get(&out, (const char *)dense_o, (int64_t)row, (int32_t)i);
        }
        dense->lse[row] = dense_lse[row];
    }
    intact = intact && (dense == NULL || untouched(dense_o + o_bytes, GUARD));
    attend_data_free(&out);
    return intact;
}

bool attend_by_kernel(const attend_data *d, const fga_ops *ops, attend_result *r)
{
    return run_guarded(d, ops, NULL, r, NULL);
}

bool attend_by_probe(const attend_data *d, const fga_ops *ops, const uint32_t *kept, attend_result *r,
                     attend_result *dense)
{
    return run_guarded(d, ops, kept, r, dense);
}

double relative_error(const double *a, const double *b, int64_t n)
{
    double square = 0, square_b = 0, most = 0, most_b = 0;
    for (int64_t i = 0; i < n; i++) {
        double difference = a[i] - b[i];
        if (!isfinite(difference)) {
            return INFINITY;
        }
        square += difference * difference;
        square_b += b[i] * b[i];
        most = fmax(most, fabs(difference));
        most_b = fmax(most_b, fabs(b[i]));
    }
    return most == 0 ? 0 : fmax(sqrt(square / square_b), most / most_b);
}
