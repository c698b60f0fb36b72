/* check_attend.c - attention on a CUDA device against the processor's reference.
 *
 *   check_cuda [--quick] [--variant NAME] [--case N[,N...]] [--every N]
 *
 * The oracle is the library's own double-accumulating reference in f32 on the same values. What error is allowed
 * follows from a plain program of the same precision: twice its error. Outputs lie between guards and start as NaN;
 * rows of K and V that nothing may read are NaN. Exit status 77: no device.
 */
#include "base/half.h"
#include "gpu.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef enum pattern { PATTERN_RANDOM, PATTERN_RUNS, PATTERN_SOME_EMPTY, PATTERN_ALL } pattern;

typedef struct spec {
    fga_dtype dtype;
    int dim, m, n; /* n 0: dense, without a mask */
    int64_t batch, heads, kv_heads, queries, keys, padding;
    double density;
    pattern pattern;
    int bias;  /* 1: values, 2: some -inf too */
    int group; /* of remainder summaries; 0: none */
    int gaps;  /* rows apart, tokens outside of heads */
    int one_head_mask;
    float sharp; /* factor on the queries */
} spec;

typedef struct data {
    spec s;
    float *q, *k, *v, *bias; /* [batch][heads][tokens][dim], values that dtype holds exactly */
    uint8_t *keep;           /* [batch][heads or 1][blocks][tiles] */
    bool *used;              /* [batch][kv_heads][keys]: some block may read it */
    int64_t blocks, tiles;
    float *o, *lse;             /* the oracle's */
    float *naive_o, *naive_lse; /* a plain program's */
} data;

static void *zeros(int64_t count, size_t bytes)
{
    void *memory = calloc((size_t)(count > 0 ? count : 1), bytes);
    if (memory == NULL) {
        fprintf(stderr, "out of memory\n");
        exit(1);
    }
    return memory;
}

static void *aligned(size_t bytes)
{
    void *memory = aligned_alloc(64, (bytes + 127) / 64 * 64);
    if (memory == NULL) {
        fprintf(stderr, "out of memory\n");
        exit(1);
    }
    return memory;
}

static float rounded(float x, fga_dtype dtype)
{
    uint16_t word;
    fga_from_f32(&word, dtype, &x, 1);
    fga_to_f32(&x, &word, dtype, 1);
    return x;
}

static float *values(uint64_t *state, int64_t count, fga_dtype dtype, float factor)
{
    float *x = zeros(count, sizeof *x);
    for (int64_t i = 0; i < count; i++) {
        x[i] = rounded(gpu_normal(state) * factor, dtype);
    }
    return x;
}

/* ---- the case
 * -------------------------------------------------------------------------------------------------------- */

static bool keeps(const data *d, int64_t b, int64_t h, int64_t u, int64_t key)
{
    if (key >= d->s.keys - d->s.padding) {
        return false;
    }
    if (d->s.n == 0) {
        return true;
    }
    int64_t heads = d->s.one_head_mask ? 1 : d->s.heads;
    return d->keep[((b * heads + (d->s.one_head_mask ? 0 : h)) * d->blocks + u) * d->tiles + key / d->s.n] != 0;
}

static float bias_at(const data *d, int64_t b, int64_t kv_head, int64_t key)
{
    return d->bias != NULL ? d->bias[(b * d->s.kv_heads + kv_head) * d->s.keys + key] : 0.0f;
}

static void make_keep(data *d, uint64_t *state)
{
    const spec *s = &d->s;
    int64_t rows = s->batch * (s->one_head_mask ? 1 : s->heads) * d->blocks;
    d->keep = zeros(rows * d->tiles, 1);
    for (int64_t row = 0; row < rows; row++) {
        bool in_run = false, empty = s->pattern == PATTERN_SOME_EMPTY && row % 3 == 1;
        for (int64_t v = 0; v < d->tiles && !empty; v++) {
            double chance = (gpu_uniform(state) + 1) / 2;
            if (s->pattern == PATTERN_RUNS) {
                in_run = chance < 0.9 ? in_run : (gpu_uniform(state) + 1) / 2 < s->density;
            }
            d->keep[row * d->tiles + v] = s->pattern == PATTERN_ALL    ? 1
                                          : s->pattern == PATTERN_RUNS ? in_run
                                                                       : chance < s->density && v % 7 != 3;
        }
    }
}

static data make(const spec *s, uint64_t seed)
{
    data d = {.s = *s};
    uint64_t state = seed;
    int64_t q_count = s->batch * s->heads * s->queries * s->dim, k_rows = s->batch * s->kv_heads * s->keys;
    d.q = values(&state, q_count, s->dtype, s->sharp);
    d.k = values(&state, k_rows * s->dim, s->dtype, 1);
    d.v = values(&state, k_rows * s->dim, s->dtype, 1);
    if (s->bias > 0) {
        d.bias = zeros(k_rows, sizeof *d.bias);
        for (int64_t i = 0; i < k_rows; i++) {
            d.bias[i] = s->bias == 2 && gpu_random(&state) % 5 == 0 ? -INFINITY : gpu_uniform(&state);
        }
    }
    int m = s->m > 0 ? s->m : 128;
    d.blocks = (s->queries + m - 1) / m;
    d.tiles = s->n > 0 ? (s->keys + s->n - 1) / s->n : 0;
    if (s->n > 0) {
        make_keep(&d, &state);
    }
    d.used = zeros(k_rows, sizeof *d.used);
    for (int64_t b = 0; b < s->batch; b++) {
        for (int64_t h = 0; h < s->heads; h++) {
            int64_t kv = h / (s->heads / s->kv_heads);
            for (int64_t u = 0; u < d.blocks; u++) {
                for (int64_t key = 0; key < s->keys; key++) {
                    d.used[(b * s->kv_heads + kv) * s->keys + key] |=
                        keeps(&d, b, h, u, key) && bias_at(&d, b, kv, key) != -INFINITY;
                }
            }
        }
    }
    int64_t rows = s->batch * s->heads * s->queries;
    d.o = zeros(rows * s->dim, sizeof(float));
    d.lse = zeros(rows, sizeof(float));
    d.naive_o = zeros(rows * s->dim, sizeof(float));
    d.naive_lse = zeros(rows, sizeof(float));
    return d;
}

static void discard(data *d)
{
    float *arrays[] = {d->q, d->k, d->v, d->bias, d->o, d->lse, d->naive_o, d->naive_lse};
    for (size_t i = 0; i < sizeof arrays / sizeof arrays[0]; i++) {
        free(arrays[i]);
    }
    free(d->keep);
    free(d->used);
}

static fga_attend_desc describe(const spec *s, fga_dtype dtype)
{
    fga_attend_desc desc = fga_attend_desc_default();
    desc.batch = s->batch;
    desc.query_heads = s->heads;
    desc.kv_heads = s->kv_heads;
    desc.query_len = s->queries;
    desc.key_len = s->keys;
    desc.head_dim = s->dim;
    desc.dtype = dtype;
    desc.block_m = s->n > 0 ? s->m : 0;
    desc.tile_n = s->n;
    return desc;
}

static fga_mask *mask_of(fga_context *ctx, const data *d)
{
    if (d->s.n == 0) {
        return NULL;
    }
    fga_mask_desc desc = fga_mask_desc_default();
    desc.batch = d->s.batch;
    desc.heads = d->s.one_head_mask ? 1 : d->s.heads;
    desc.block_m = d->s.m;
    desc.tile_n = d->s.n;
    desc.query = fga_sequence_video(d->s.queries);
    desc.key = (fga_sequence){.video = d->s.keys, .video_valid = d->s.keys - d->s.padding};
    fga_mask *mask = NULL;
    gpu_need(ctx, fga_mask_from_bool(ctx, &desc, d->keep, &mask));
    if (d->s.pattern == PATTERN_RUNS) {
        gpu_need(ctx, fga_mask_compress(ctx, mask));
    }
    return mask;
}

static void set_bias(const data *d, fga_attend_args *a, const float *bias)
{
    a->key_bias = d->bias != NULL ? bias : NULL;
    a->bias_head_stride = d->s.keys;
    a->bias_batch_stride = d->s.kv_heads * d->s.keys;
}

/* ---- the oracle, and the sums of groups
 * --------------------------------------------------------------------------------- */

static void attend_on_cpu(fga_context *cpu, data *d, fga_remainder *sums, void **sums_memory, size_t *sums_bytes)
{
    const spec *s = &d->s;
    fga_attend_desc desc = describe(s, FGA_F32);
    fga_attend_plan *plan = NULL;
    gpu_need(cpu, fga_attend_plan_create(cpu, &desc, &plan));
    void *workspace = aligned(fga_attend_plan_workspace(plan));
    fga_attend_args a = fga_attend_args_default();
    a.q = fga_tensor_bhsd(d->q, FGA_F32, s->batch, s->heads, s->queries, s->dim);
    a.k = fga_tensor_bhsd(d->k, FGA_F32, s->batch, s->kv_heads, s->keys, s->dim);
    a.v = fga_tensor_bhsd(d->v, FGA_F32, s->batch, s->kv_heads, s->keys, s->dim);
    a.o = fga_tensor_bhsd(d->o, FGA_F32, s->batch, s->heads, s->queries, s->dim);
    a.lse = d->lse;
    fga_mask *mask = mask_of(cpu, d);
    a.mask = mask;
    set_bias(d, &a, d->bias);
    if (s->group > 0) {
        fga_sequence valid = {.video = s->keys, .video_valid = s->keys - s->padding};
        gpu_need(cpu, fga_remainder_place(cpu, &desc, s->group, NULL, sums_bytes, NULL));
        *sums_memory = aligned(*sums_bytes);
        gpu_need(cpu, fga_remainder_place(cpu, &desc, s->group, *sums_memory, sums_bytes, sums));
        gpu_need(cpu, fga_remainder_fill(cpu, &desc, &a, &valid, sums));
        a.remainder = sums;
    }
    gpu_need(cpu, fga_attend_run(plan, &a, workspace, NULL));
    fga_mask_release(&mask);
    fga_attend_plan_destroy(&plan);
    free(workspace);
}

/* ---- the plain program: f32 sums, weights, summaries' rows and outputs rounded to the dtype
 * -------------------------------- */

typedef struct row_list {
    const float **k, **v;
    float *bias, *made; /* made: room for summaries' rows */
    int64_t count, made_count;
} row_list;

static void add_rest(const data *d, const fga_remainder *sums, int64_t b, int64_t kv, int64_t u, int64_t h, int64_t g,
                     row_list *list)
{
    const spec *s = &d->s;
    int64_t row = (b * s->kv_heads + kv) * sums->groups + g;
    double left = sums->count[row], bias = sums->sum_bias[row];
    float *k = list->made + 2 * s->dim * list->made_count, *v = k + s->dim;
    memcpy(k, sums->sum_k + row * s->dim, (size_t)s->dim * sizeof *k);
    memcpy(v, sums->sum_v + row * s->dim, (size_t)s->dim * sizeof *v);
    for (int64_t key = g * s->group; key < (g + 1) * s->group && key < s->keys; key++) {
        float key_bias = bias_at(d, b, kv, key);
        if (!keeps(d, b, h, u, key) || key_bias == -INFINITY) {
            continue;
        }
        left--;
        bias -= key_bias;
        for (int i = 0; i < s->dim; i++) {
            k[i] -= d->k[((b * s->kv_heads + kv) * s->keys + key) * s->dim + i];
            v[i] -= d->v[((b * s->kv_heads + kv) * s->keys + key) * s->dim + i];
        }
    }
    if (left <= 0) {
        return;
    }
    for (int i = 0; i < s->dim; i++) {
        k[i] = rounded((float)(k[i] / left), s->dtype);
        v[i] = rounded((float)(v[i] / left), s->dtype);
    }
    list->k[list->count] = k;
    list->v[list->count] = v;
    list->bias[list->count++] = (float)(bias / left + log(left));
    list->made_count++;
}

static void plain_query(const data *d, const row_list *list, int64_t row, float *p)
{
    const spec *s = &d->s;
    float scale = 1.0f / sqrtf((float)s->dim), most = -INFINITY, sum = 0;
    const float *q = d->q + row * s->dim;
    float *o = d->naive_o + row * s->dim;
    for (int64_t n = 0; n < list->count; n++) {
        float dot = 0;
        for (int i = 0; i < s->dim; i++) {
            dot += q[i] * list->k[n][i];
        }
        p[n] = dot * scale + list->bias[n];
        most = fmaxf(most, p[n]);
    }
    for (int64_t n = 0; n < list->count; n++) {
        p[n] = expf(p[n] - most);
        sum += p[n];
    }
    for (int64_t n = 0; n < list->count; n++) {
        float weight = rounded(p[n], s->dtype) / sum;
        for (int i = 0; i < s->dim; i++) {
            o[i] += weight * list->v[n][i];
        }
    }
    for (int i = 0; i < s->dim; i++) {
        o[i] = rounded(o[i], s->dtype);
    }
    d->naive_lse[row] = list->count > 0 ? most + logf(sum) : -INFINITY;
}

static void attend_plainly(data *d, const fga_remainder *sums)
{
    const spec *s = &d->s;
    int64_t groups = s->group > 0 ? sums->groups : 0, most = s->keys + groups, m = s->m > 0 ? s->m : 128;
    row_list list = {zeros(most, sizeof(float *)),
                     zeros(most, sizeof(float *)),
                     zeros(most, sizeof(float)),
                     zeros(2 * s->dim * (groups + 1), sizeof(float)),
                     0,
                     0};
    float *p = zeros(most, sizeof *p);
    for (int64_t item = 0; item < s->batch * s->heads * d->blocks; item++) {
        int64_t u = item % d->blocks, h = item / d->blocks % s->heads, b = item / d->blocks / s->heads;
        int64_t kv = h / (s->heads / s->kv_heads);
        list.count = list.made_count = 0;
        for (int64_t key = 0; key < s->keys; key++) {
            float bias = bias_at(d, b, kv, key);
            if (keeps(d, b, h, u, key) && bias != -INFINITY) {
                int64_t at = ((b * s->kv_heads + kv) * s->keys + key) * s->dim;
                list.k[list.count] = d->k + at;
                list.v[list.count] = d->v + at;
                list.bias[list.count++] = bias;
            }
        }
        for (int64_t g = 0; g < groups; g++) {
            add_rest(d, sums, b, kv, u, h, g, &list);
        }
        for (int64_t i = u * m; i < (u + 1) * m && i < s->queries; i++) {
            plain_query(d, &list, (b * s->heads + h) * s->queries + i, p);
        }
    }
    free(list.k);
    free(list.v);
    free(list.bias);
    free(list.made);
    free(p);
}

/* ---- the device
 * ---------------------------------------------------------------------------------------------------------- */

enum { GUARD = 4096 };

/* A tensor on the device with its guards. */
typedef struct device_tensor {
    char *memory;
    size_t bytes;
    fga_tensor view;
} device_tensor;

static device_tensor place(const spec *s, int64_t heads, int64_t tokens)
{
    device_tensor t;
    int64_t dim = s->dim + (s->gaps ? 8 : 0);
    t.view = s->gaps ? fga_tensor_bshd(NULL, s->dtype, s->batch, tokens, heads, dim)
                     : fga_tensor_bhsd(NULL, s->dtype, s->batch, heads, tokens, dim);
    t.view.extent[3] = s->dim;
    t.bytes = (size_t)(s->batch * heads * tokens * dim) * 2;
    t.memory = gpu_alloc(t.bytes + 2 * GUARD);
    t.view.data = t.memory + GUARD;
    t.view.device = FGA_DEVICE_CUDA;
    gpu_fill(t.memory, 0xFF, t.bytes + 2 * GUARD); /* NaN in both dtypes */
    return t;
}

/* used NULL: all rows; others stay NaN. */
static void put(const device_tensor *t, const float *x, const bool *used)
{
    uint16_t *host = aligned(t->bytes);
    memset(host, 0xFF, t->bytes);
    const int64_t *e = t->view.extent, *stride = t->view.stride;
    for (int64_t row = 0; row < e[0] * e[1] * e[2]; row++) {
        int64_t token = row % e[2], h = row / e[2] % e[1], b = row / e[2] / e[1];
        if (used == NULL || used[row]) {
            fga_from_f32(host + b * stride[0] + h * stride[1] + token * stride[2], t->view.dtype, x + row * e[3],
                         (size_t)e[3]);
        }
    }
    gpu_put(t->view.data, host, t->bytes);
    free(host);
}

/* Reads the tensor; false when something outside of its rows was written. */
static bool get(const device_tensor *t, float *x)
{
    unsigned char *host = aligned(t->bytes + 2 * GUARD);
    gpu_get(host, t->memory, t->bytes + 2 * GUARD);
    const int64_t *e = t->view.extent, *stride = t->view.stride;
    uint16_t *words = (uint16_t *)(host + GUARD);
    for (int64_t row = 0; row < e[0] * e[1] * e[2]; row++) {
        int64_t token = row % e[2], h = row / e[2] % e[1], b = row / e[2] / e[1];
        uint16_t *at = words + b * stride[0] + h * stride[1] + token * stride[2];
        fga_to_f32(x + row * e[3], at, t->view.dtype, (size_t)e[3]);
        memset(at, 0xFF, (size_t)e[3] * 2);
    }
    bool intact = true;
    for (size_t i = 0; i < t->bytes + 2 * GUARD; i++) {
        intact = intact && host[i] == 0xFF;
    }
    free(host);
    return intact;
}

typedef struct launch {
    fga_context *ctx;
    fga_attend_plan *plan;
    fga_attend_args args;
    void *workspace;
} launch;

static void run(void *arg)
{
    launch *l = arg;
    gpu_need(l->ctx, fga_attend_run(l->plan, &l->args, l->workspace, gpu_stream()));
}

/* Where a host array goes that the device reads. */
static void *put_array(const void *host, size_t bytes)
{
    void *device = gpu_alloc(bytes);
    if (host != NULL) {
        gpu_put(device, host, bytes);
    }
    return device;
}

/* Fills o and lse; false when the device wrote where it must not. */
static bool attend_on_gpu(fga_context *gpu, data *d, const void *sums_memory, size_t sums_bytes, float *o, float *lse,
                          bool graph)
{
    const spec *s = &d->s;
    fga_attend_desc desc = describe(s, s->dtype);
    launch l = {.ctx = gpu, .args = fga_attend_args_default()};
    gpu_need(gpu, fga_attend_plan_create(gpu, &desc, &l.plan));
    l.workspace = gpu_alloc(fga_attend_plan_workspace(l.plan));
    gpu_fill(l.workspace, 0xFF, fga_attend_plan_workspace(l.plan));
    device_tensor q = place(s, s->heads, s->queries), k = place(s, s->kv_heads, s->keys);
    device_tensor v = place(s, s->kv_heads, s->keys), out = place(s, s->heads, s->queries);
    put(&q, d->q, NULL);
    put(&k, d->k, d->used);
    put(&v, d->v, d->used);
    size_t rows = (size_t)(s->batch * s->heads * s->queries);
    char *lse_memory = gpu_alloc(rows * sizeof(float) + 2 * GUARD);
    gpu_fill(lse_memory, 0xFF, rows * sizeof(float) + 2 * GUARD);
    void *bias = put_array(d->bias, (size_t)(s->batch * s->kv_heads * s->keys) * sizeof(float));
    void *sums = put_array(sums_memory, sums_bytes);
    fga_mask *mask = mask_of(gpu, d);
    fga_remainder remainder;
    l.args.q = q.view;
    l.args.k = k.view;
    l.args.v = v.view;
    l.args.o = out.view;
    l.args.lse = (float *)(void *)(lse_memory + GUARD);
    l.args.mask = mask;
    set_bias(d, &l.args, bias);
    if (s->group > 0) {
        gpu_need(gpu, fga_remainder_place(gpu, &desc, s->group, sums, &sums_bytes, &remainder));
        l.args.remainder = &remainder;
    }
    if (graph) {
        gpu_run_as_graph(run, &l);
    } else {
        run(&l);
        gpu_finish();
    }
    bool intact = get(&out, o);
    unsigned char *lse_bytes = aligned(rows * sizeof(float) + 2 * GUARD);
    gpu_get(lse_bytes, lse_memory, rows * sizeof(float) + 2 * GUARD);
    memcpy(lse, lse_bytes + GUARD, rows * sizeof(float));
    for (size_t i = 0; i < GUARD; i++) {
        intact = intact && lse_bytes[i] == 0xFF && lse_bytes[GUARD + rows * sizeof(float) + i] == 0xFF;
    }
    free(lse_bytes);
    void *memory[] = {q.memory, k.memory, v.memory, out.memory, lse_memory, bias, sums, l.workspace};
    for (size_t i = 0; i < sizeof memory / sizeof memory[0]; i++) {
        gpu_free(memory[i]);
    }
    fga_mask_release(&mask);
    fga_attend_plan_destroy(&l.plan);
    return intact;
}

/* ---- the verdict
 * ---------------------------------------------------------------------------------------------------------- */

/* norm(a - b) / norm(b); infinite where a is not finite. */
static double relative(const float *a, const float *b, int64_t count)
{
    double difference = 0, norm = 0;
    for (int64_t i = 0; i < count; i++) {
        double x = (double)a[i] - (double)b[i];
        if (!isfinite(x)) {
            return INFINITY;
        }
        difference += x * x;
        norm += (double)b[i] * (double)b[i];
    }
    return norm > 0 ? sqrt(difference / norm) : sqrt(difference);
}

/* The largest difference of log-sum-exps; rows without keys must agree exactly. */
static double lse_error(const float *a, const float *b, int64_t count)
{
    double most = 0;
    for (int64_t i = 0; i < count; i++) {
        if (b[i] == -INFINITY ? a[i] != -INFINITY : !isfinite(a[i])) {
            return INFINITY;
        }
        most = b[i] == -INFINITY ? most : fmax(most, fabs((double)a[i] - (double)b[i]));
    }
    return most;
}

/* family: whose kernels the context on the device must take. */
static bool check(fga_context *cpu, fga_context *gpu, const char *family, const spec *s, int number)
{
    bool graph = number % 10 == 9;
    data d = make(s, 1000 + (uint64_t)number);
    fga_remainder sums = {0};
    void *sums_memory = NULL;
    size_t sums_bytes = 0;
    attend_on_cpu(cpu, &d, &sums, &sums_memory, &sums_bytes);
    attend_plainly(&d, &sums);
    int64_t rows = s->batch * s->heads * s->queries;
    float *o = zeros(rows * s->dim, sizeof *o), *lse = zeros(rows, sizeof *lse);
    fga_attend_desc desc = describe(s, s->dtype);
    fga_attend_plan *plan = NULL;
    gpu_need(gpu, fga_attend_plan_create(gpu, &desc, &plan));
    const char *variant = fga_attend_plan_variant(plan);
    bool right_family = strcmp(variant, family) == 0;
    fga_attend_plan_destroy(&plan);
    bool intact = attend_on_gpu(gpu, &d, sums_memory, sums_bytes, o, lse, graph);
    double error = relative(o, d.o, rows * s->dim), allowed = 2 * relative(d.naive_o, d.o, rows * s->dim) + 1e-6;
    double l_error = lse_error(lse, d.lse, rows), l_allowed = 2 * lse_error(d.naive_lse, d.lse, rows) + 1e-4;
    bool good = intact && right_family && error <= allowed && l_error <= l_allowed;
    printf("%s %3d %-5s %-4s D=%-3d M=%-3d N=%-3d b%d h%d/%d %dx%d pad %d p%d bias %d g %d gaps %d one %d sharp %g%s: "
           "error %.2e of %.2e, lse %.1e of %.1e%s%s\n",
           good ? "ok  " : "FAIL", number, variant, fga_dtype_name(s->dtype), s->dim, s->m, s->n, (int)s->batch,
           (int)s->heads, (int)s->kv_heads, (int)s->queries, (int)s->keys, (int)s->padding, (int)s->pattern, s->bias,
           s->group, s->gaps, s->one_head_mask, (double)s->sharp, graph ? " graph" : "", error, allowed, l_error,
           l_allowed, intact ? "" : ", wrote outside its outputs", right_family ? "" : ", of another family");
    fflush(stdout);
    free(o);
    free(lse);
    free(sums_memory);
    discard(&d);
    return good;
}

enum { FIRST_CASES = 280, WIDTH_CASES = 231, QUICK_CASES = 70, QUICK_WIDTH_CASES = 77 };

/* Every value of every axis comes up, the axes drifting against each other. */
static spec first_case(int n)
{
    static const int dims[] = {128, 64, 128, 96, 256, 128, 40, 72}, ms[] = {128, 64, 192, 16, 32};
    static const int ns[] = {1, 0, 4, 64, 1, 16, 128, 2, 8, 32}, groups[] = {0, 64, 0, 8, 256, 0, 32, 16, 128};
    static const int64_t lengths[][2] = {{300, 700}, {128, 128}, {64, 2100}, {1, 1}, {513, 1025}, {200, 37}, {777, 3}};
    static const double densities[] = {0.3, 0.1, 0.7, 0.02};
    static const float sharps[] = {1, 1, 6, 0.1f};
    spec s = {
        .dtype = n % 3 == 2 ? FGA_F16 : FGA_BF16,
        .dim = dims[n % 8],
        .m = ms[n % 5],
        .n = ns[n / 2 % 10],
        .batch = n % 11 == 5 ? 2 : 1,
        .heads = n % 4 == 3 ? 4 : 2,
        .kv_heads = n % 13 == 6 ? 1 : 2,
        .queries = lengths[n / 3 % 7][0],
        .keys = lengths[n / 3 % 7][1],
        .density = densities[n / 5 % 4],
        .pattern = (pattern)(n / 7 % 4),
        .bias = n / 4 % 3,
        .group = groups[n % 9],
        .gaps = n % 2,
        .one_head_mask = n % 17 == 8,
        .sharp = sharps[n / 6 % 4],
    };
    s.padding = n % 6 == 4 ? s.keys / 3 : 0;
    return s;
}

/* The same of the widths that are compiled for 72 to 96 and for 136 to 256 channels, whole and with channels that are
 * not there. */
static spec width_case(int n)
{
    static const int dims[] = {96, 256, 80, 136, 72, 160}, ms[] = {128, 64, 192, 16, 64, 32, 192};
    static const int ns[] = {1, 16, 0, 4, 64, 1, 8, 128, 1, 2, 32}, groups[] = {0, 64, 8, 0, 256};
    static const int64_t lengths[][2] = {{300, 700}, {200, 430}, {64, 2100}, {200, 37},
                                         {1, 1},     {385, 900}, {777, 3},   {130, 1100}};
    static const double densities[] = {0.3, 0.1, 0.7, 0.02};
    static const float sharps[] = {1, 6, 1, 0.1f};
    spec s = {
        .dtype = n / 6 % 2 == 1 ? FGA_F16 : FGA_BF16,
        .dim = dims[n % 6],
        .m = ms[n % 7],
        .n = ns[n % 11],
        .batch = n % 13 == 5 ? 2 : 1,
        .heads = n % 8 == 3 ? 4 : 1 + n % 2,
        .kv_heads = 1,
        .queries = lengths[n / 3 % 8][0],
        .keys = lengths[n / 3 % 8][1],
        .density = densities[n / 2 % 4],
        .pattern = (pattern)(n / 5 % 4),
        .bias = n / 4 % 3,
        .group = groups[n % 5],
        .gaps = n / 7 % 2,
        .one_head_mask = n % 17 == 8,
        .sharp = sharps[n / 9 % 4],
    };
    s.kv_heads = s.heads > 1 && n % 9 != 6 ? 2 : 1;
    s.padding = n / 2 % 5 == 4 ? s.keys / 3 : 0;
    return s;
}

/* Whether case n is one of the quick ones, or there at all; false beyond the last. */
static bool nth_case(int n, bool quick, spec *s)
{
    bool first = n < FIRST_CASES;
    *s = first ? first_case(n) : width_case(n - FIRST_CASES);
    if (s->n == 0) {
        s->group = s->padding = 0;
    }
    return first ? !quick || n < QUICK_CASES : n - FIRST_CASES < (quick ? QUICK_WIDTH_CASES : WIDTH_CASES);
}

/* Whether n is one of the numbers of a list with commas; a missing list has all. */
static bool listed(const char *list, int n)
{
    for (const char *at = list; at != NULL;) {
        if (atoi(at) == n) {
            return true;
        }
        at = strchr(at, ',');
        if (at == NULL) {
            return false;
        }
        at++;
    }
    return true;
}

int main(int argc, char **argv)
{
    bool quick = false;
    const char *variant = NULL, *only = NULL;
    int every = 1;
    for (int i = 1; i < argc; i++) {
        quick = quick || strcmp(argv[i], "--quick") == 0;
        variant = strcmp(argv[i], "--variant") == 0 && i + 1 < argc ? argv[++i] : variant;
        every = strcmp(argv[i], "--every") == 0 && i + 1 < argc ? atoi(argv[++i]) : every;
        only = strcmp(argv[i], "--case") == 0 && i + 1 < argc ? argv[++i] : only;
    }
    gpu_open();
    fga_context *cpu = NULL;
    fga_context_options options = fga_context_options_default();
    options.variant = "c";
    if (fga_context_create(&options, &cpu) != FGA_OK) {
        fprintf(stderr, "no context on the processor\n");
        return 1;
    }
    int failed = 0, done = 0;
    for (int i = 0; i < fga_variant_count(); i++) {
        const char *family = fga_variant_name(i);
        if (strncmp(family, "sm", 2) != 0 || (variant != NULL && strcmp(variant, family) != 0)) {
            continue;
        }
        if (!fga_variant_runs_here(i)) {
            printf("skipped: %s does not run on %s\n", family, gpu_name());
            continue;
        }
        fga_context *gpu = gpu_context(family);
        spec s;
        for (int n = 0; n < FIRST_CASES + WIDTH_CASES; n++) {
            if (nth_case(n, quick, &s) && n % every == 0 && listed(only, n)) {
                failed += !check(cpu, gpu, family, &s, n);
                done++;
            }
        }
        fga_context_destroy(&gpu);
    }
    fga_context_destroy(&cpu);
    printf("%s: %d cases on %s, %d failed\n", failed == 0 && done > 0 ? "passed" : "FAILED", done, gpu_name(), failed);
    return failed == 0 && done > 0 ? 0 : 1;
}
