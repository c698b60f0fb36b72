#include "sample.h"

#include "base/half.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

void sample_answer(sample *s)
{
    naive_mask mask = {&s->p, s->keep, s->mask_batch, s->mask_heads};
    naive_pair pair = s->masked ? naive_mask_pair : NULL;
    naive_attend(&s->p, &(naive_attention){s->q, s->k, s->v, s->bias, pair, &mask, s->o, s->lse, s->group});
}

sample sample_make(naive_random *random, int64_t most)
{
    sample s = {.p = naive_random_problem(random, most)};
    const naive_problem *p = &s.p;
    s.dtype = (fga_dtype)naive_between(random, 0, 2);
    s.masked = naive_between(random, 0, 3) > 0;
    s.bshd = naive_between(random, 0, 1) == 0;
    s.group = s.masked && naive_between(random, 0, 1) == 0 ? 8 << naive_between(random, 0, 5) : 0;
    s.mask_batch = naive_between(random, 0, 1) == 0 ? 1 : p->batch;
    s.mask_heads = naive_between(random, 0, 1) == 0 ? 1 : p->query_heads;
    s.queries = fga_sequence_length(&p->query);
    s.keys = fga_sequence_length(&p->key);
    s.q_count = p->batch * p->query_heads * s.queries * p->head_dim;
    s.k_count = p->batch * p->kv_heads * s.keys * p->head_dim;
    s.q = naive_values(random, s.q_count, s.dtype, 1.5f);
    s.k = naive_values(random, s.k_count, s.dtype, 1);
    s.v = naive_values(random, s.k_count, s.dtype, 1);
    if (naive_between(random, 0, 1) == 0) {
        s.bias = naive_values(random, p->batch * p->kv_heads * s.keys, FGA_F32, 1);
        for (int64_t j = 0; j < p->batch * p->kv_heads * s.keys; j++) {
            s.bias[j] = naive_between(random, 0, 4) == 0 ? -INFINITY : s.bias[j];
        }
    }
    int64_t cells = s.mask_batch * s.mask_heads * naive_blocks(p) * naive_tiles(p), in_8 = naive_between(random, 0, 8);
    s.keep = calloc((size_t)cells + 1, 1);
    for (int64_t i = 0; i < cells; i++) {
        s.keep[i] = naive_between(random, 0, 7) < in_8;
    }
    s.o = calloc((size_t)s.q_count, sizeof *s.o);
    s.lse = calloc((size_t)(s.q_count / p->head_dim), sizeof *s.lse);
    sample_answer(&s);
    return s;
}

void sample_free(sample *s)
{
    free(s->q);
    free(s->k);
    free(s->v);
    free(s->bias);
    free(s->keep);
    free(s->o);
    free(s->lse);
}

/* [b][h][s][d] f32 to dtype in a buffer of the wanted layout. */
void *sample_lay_out(const float *values, fga_dtype dtype, const fga_tensor *t)
{
    int64_t count = t->extent[0] * t->extent[1] * t->extent[2] * t->extent[3], size = (int64_t)fga_dtype_size(dtype);
    char *plain = naive_cast(values, count, dtype), *out = malloc((size_t)(count * size) + 1);
    for (int64_t i = 0; i < count; i += t->extent[3]) {
        int64_t token = i / t->extent[3], s = token % t->extent[2], h = token / t->extent[2] % t->extent[1];
        int64_t b = token / t->extent[2] / t->extent[1];
        memcpy(out + (b * t->stride[0] + h * t->stride[1] + s * t->stride[2]) * size, plain + i * size,
               (size_t)(t->extent[3] * size));
    }
    free(plain);
    return out;
}

fga_tensor sample_tensor(const sample *s, int64_t heads, int64_t tokens)
{
    return s->bshd ? fga_tensor_bshd(NULL, s->dtype, s->p.batch, tokens, heads, s->p.head_dim)
                   : fga_tensor_bhsd(NULL, s->dtype, s->p.batch, heads, tokens, s->p.head_dim);
}

fga_attend_desc sample_describe(const sample *s)
{
    fga_attend_desc d = fga_attend_desc_default();
    d.batch = s->p.batch;
    d.query_heads = s->p.query_heads;
    d.kv_heads = s->p.kv_heads;
    d.query_len = s->queries;
    d.key_len = s->keys;
    d.head_dim = s->p.head_dim;
    d.dtype = s->dtype;
    d.block_m = s->masked ? s->p.m : 0;
    d.tile_n = s->masked ? s->p.n : 0;
    return d;
}

fga_mask *sample_mask(fga_context *ctx, const sample *s, bool compressed)
{
    fga_mask_desc m = fga_mask_desc_default();
    fga_mask *mask;
    m.batch = s->mask_batch;
    m.heads = s->mask_heads;
    m.block_m = s->p.m;
    m.tile_n = s->p.n;
    m.query = s->p.query;
    m.key = s->p.key;
    assert_int_equal(fga_mask_from_bool(ctx, &m, s->keep, &mask), FGA_OK);
    if (compressed) {
        assert_int_equal(fga_mask_compress(ctx, mask), FGA_OK);
    }
    return mask;
}

void *sample_remainder(fga_context *ctx, const sample *s, fga_remainder *r)
{
    fga_attend_desc d = sample_describe(s);
    fga_attend_args a = fga_attend_args_default();
    a.k = a.v = sample_tensor(s, s->p.kv_heads, s->keys);
    a.k.data = sample_lay_out(s->k, s->dtype, &a.k);
    a.v.data = sample_lay_out(s->v, s->dtype, &a.v);
    a.key_bias = s->bias;
    a.bias_batch_stride = s->p.kv_heads * s->keys;
    a.bias_head_stride = s->keys;
    size_t bytes;
    assert_int_equal(fga_remainder_place(ctx, &d, s->group, NULL, &bytes, NULL), FGA_OK);
    char *memory = aligned_alloc(64, bytes + 64);
    memset(memory, 0xff, bytes + 64);
    assert_int_equal(fga_remainder_place(ctx, &d, s->group, memory, &bytes, r), FGA_OK);
    assert_int_equal(fga_remainder_fill(ctx, &d, &a, &s->p.key, r), FGA_OK);
    for (size_t i = bytes; i < bytes + 64; i++) {
        assert_int_equal((uint8_t)memory[i], 0xff);
    }
    free(a.k.data);
    free(a.v.data);
    return memory;
}

answer sample_attend(fga_context *ctx, const sample *s, bool compressed)
{
    fga_attend_desc d = sample_describe(s);
    fga_attend_plan *plan;
    fga_attend_args a = fga_attend_args_default();
    fga_mask *mask = s->masked ? sample_mask(ctx, s, compressed) : NULL;
    assert_int_equal(fga_attend_plan_create(ctx, &d, &plan), FGA_OK);
    size_t bytes = fga_attend_plan_workspace(plan);
    char *workspace = aligned_alloc(64, (bytes + 127) / 64 * 64);
    memset(workspace, 0xee, (bytes + 127) / 64 * 64);
    a.q = a.o = sample_tensor(s, s->p.query_heads, s->queries);
    a.k = a.v = sample_tensor(s, s->p.kv_heads, s->keys);
    answer out = {.bytes = (size_t)s->q_count * fga_dtype_size(s->dtype)};
    out.o = malloc(out.bytes);
    out.lse = malloc((size_t)(s->q_count / s->p.head_dim) * sizeof(float));
    memset(out.o, 0xff, out.bytes); /* NaN in every dtype */
    memset(out.lse, 0xff, (size_t)(s->q_count / s->p.head_dim) * sizeof(float));
    a.q.data = sample_lay_out(s->q, s->dtype, &a.q);
    a.k.data = sample_lay_out(s->k, s->dtype, &a.k);
    a.v.data = sample_lay_out(s->v, s->dtype, &a.v);
    a.o.data = out.o;
    a.lse = out.lse;
    a.mask = mask;
    a.key_bias = s->bias;
    a.bias_batch_stride = s->p.kv_heads * s->keys;
    a.bias_head_stride = s->keys;
    fga_remainder remainder;
    void *sums = s->group > 0 ? sample_remainder(ctx, s, &remainder) : NULL;
    a.remainder = sums != NULL ? &remainder : NULL;
    assert_int_equal(fga_attend_run(plan, &a, workspace, NULL), FGA_OK);
    for (size_t i = bytes; i < bytes + 63 - (bytes + 63) % 64; i++) {
        assert_int_equal((uint8_t)workspace[i], 0xee);
    }
    free(a.q.data);
    free(a.k.data);
    free(a.v.data);
    free(workspace);
    free(sums);
    fga_attend_plan_destroy(&plan);
    fga_mask_release(&mask);
    return out;
}

void answer_free(answer *a)
{
    free(a->o);
    free(a->lse);
}

/* Rounding: the output's last bit, and for 16-bit families the weights' too (they are rounded before P V). */
static double tolerance(fga_dtype dtype)
{
    return dtype == FGA_F32 ? 2e-5 : dtype == FGA_F16 ? 4e-3 : 3e-2;
}

void sample_check(const sample *s, const answer *got)
{
    fga_tensor t = sample_tensor(s, s->p.query_heads, s->queries);
    int64_t d = s->p.head_dim;
    for (int64_t row = 0; row < s->q_count / d; row++) {
        int64_t i = row % s->queries, h = row / s->queries % s->p.query_heads;
        int64_t b = row / s->queries / s->p.query_heads;
        int64_t at = b * t.stride[0] + h * t.stride[1] + i * t.stride[2];
        float o[256];
        fga_to_f32(o, (char *)got->o + at * (int64_t)fga_dtype_size(s->dtype), s->dtype, d);
        for (int64_t c = 0; c < d; c++) {
            assert_true(fabs(o[c] - s->o[row * d + c]) <= tolerance(s->dtype) * (1 + fabs(s->o[row * d + c])));
        }
        if (s->lse[row] == -INFINITY) {
            assert_true(got->lse[row] == -INFINITY);
        } else {
            assert_true(fabs(got->lse[row] - s->lse[row]) <= 1e-4 * (1 + fabs(s->lse[row])));
        }
    }
}
