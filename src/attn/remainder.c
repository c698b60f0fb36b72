/* remainder.c - sums of K, V and bias over groups of consecutive keys: mask-independent, once per layer and step. */
#include "attn/remainder.h"

#include "attn/attn.h"
#include "attn/refresh_gpu.h"
#include "base/context.h"
#include "base/half.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

enum { ARRAYS = 5, PARTS = 4 /* of a group: K and V, each rounded and what that leaves */ };

/* ---- arrays ------------------------------------------------------------------------------------- */

static fga_status check_shape(fga_context *ctx, const fga_attend_desc *d)
{
    FGA_TRY(fga_check_struct(ctx, "fga_attend_desc", d->size, sizeof *d));
    FGA_TRY(fga_check_heads(ctx, d->batch, d->query_heads, d->kv_heads));
    FGA_TRY(fga_check_range(ctx, "key_len", d->key_len, 0, FGA_MAX_TOKENS));
    return fga_check_head_dim(ctx, d->head_dim, d->dtype);
}

fga_status fga_remainder_place(fga_context *ctx, const fga_attend_desc *desc, int32_t group, void *memory,
                               size_t *bytes, fga_remainder *remainder)
{
    if (ctx == NULL || desc == NULL || bytes == NULL || (memory != NULL && remainder == NULL)) {
        return fga_context_fail(ctx, FGA_ERR_ARGUMENT, "%s is NULL",
                                ctx == NULL     ? "ctx"
                                : desc == NULL  ? "desc"
                                : bytes == NULL ? "bytes"
                                                : "remainder");
    }
    FGA_TRY(check_shape(ctx, desc));
    FGA_TRY(fga_check_group(ctx, group));
    if ((uintptr_t)memory % sizeof(float) != 0) {
        return fga_context_fail(ctx, FGA_ERR_ARGUMENT, "memory is %p, wanted an address for floats", memory);
    }
    int64_t groups = fga_ceil_div(desc->key_len, group), rows = desc->batch * desc->kv_heads * groups;
    bool in_parts = desc->dtype == FGA_BF16 && ctx->options.device == FGA_DEVICE_CPU;
    const size_t row_bytes[ARRAYS] = {(size_t)desc->head_dim * sizeof(float), (size_t)desc->head_dim * sizeof(float),
                                      sizeof(float), sizeof(float),
                                      in_parts ? (size_t)desc->head_dim * PARTS * sizeof(uint16_t) : 0};
    size_t at[ARRAYS + 1] = {0};
    for (int i = 0; i < ARRAYS; i++) {
        at[i + 1] = at[i];
        if (!fga_size_add(&at[i + 1], rows, row_bytes[i])) {
            return fga_context_fail(ctx, FGA_ERR_UNSUPPORTED, "%" PRId64 " groups of keys are too many", rows);
        }
    }
    *bytes = at[ARRAYS];
    if (memory != NULL) {
        char *base = memory;
        *remainder = (fga_remainder){
            .size = sizeof *remainder,
            .group = group,
            .groups = groups,
            .sum_k = (float *)base,
            .sum_v = (float *)(base + at[1]),
            .sum_bias = (float *)(base + at[2]),
            .count = (float *)(base + at[3]),
            .parts = in_parts ? (uint16_t *)(base + at[4]) : NULL,
        };
    }
    return FGA_OK;
}

fga_status fga_remainder_check(fga_context *ctx, const fga_attend_desc *desc, const fga_remainder *r)
{
    if (r->size != sizeof *r) {
        return fga_context_fail(ctx, FGA_ERR_ARGUMENT,
                                "fga_remainder.size is %zu, wanted %zu: start from fga_remainder_place()", r->size,
                                sizeof *r);
    }
    FGA_TRY(fga_check_group(ctx, r->group));
    int64_t groups = fga_ceil_div(desc->key_len, r->group);
    if (r->groups != groups) {
        return fga_context_fail(ctx, FGA_ERR_ARGUMENT,
                                "remainder has %" PRId64 " groups of %d keys, wanted %" PRId64 " for %" PRId64 " keys",
                                r->groups, r->group, groups, desc->key_len);
    }
    if (groups > 0 && (r->sum_k == NULL || r->sum_v == NULL || r->sum_bias == NULL || r->count == NULL)) {
        return fga_context_fail(ctx, FGA_ERR_ARGUMENT, "remainder.%s is NULL",
                                r->sum_k == NULL      ? "sum_k"
                                : r->sum_v == NULL    ? "sum_v"
                                : r->sum_bias == NULL ? "sum_bias"
                                                      : "count");
    }
    return FGA_OK;
}

fga_summaries fga_remainder_head(const fga_remainder *r, const fga_attend_desc *desc, int64_t b, int64_t kv_head)
{
    int64_t first = (b * desc->kv_heads + kv_head) * r->groups;
    return (fga_summaries){
        .sum_k = r->sum_k + first * desc->head_dim,
        .sum_v = r->sum_v + first * desc->head_dim,
        .sum_bias = r->sum_bias + first,
        .count = r->count + first,
        .groups = r->groups,
        .group = r->group,
        .parts = r->parts != NULL ? r->parts + first * PARTS * desc->head_dim : NULL,
    };
}

/* ---- fill --------------------------------------------------------------------------------------- */

/* An item of work: as many whole groups as have this many keys. */
enum { ITEM_KEYS = 1024, ITEM_GROUPS = ITEM_KEYS / 8 };

typedef struct fill {
    const fga_attend_desc *desc;
    const fga_attend_args *args;
    const fga_remainder *remainder;
    fga_spans keys; /* valid ones */
    fga_ops ops;
    int64_t item_groups, items_per_head;
} fill;

/* Lists the keys of groups [first, first + count) that are in the sums; the i-th group's are
 * keys[begin[i]] ... keys[begin[i+1] - 1]. */
static void list_keys(const fill *f, const float *bias, int64_t first, int64_t count, uint32_t *keys, int32_t *begin)
{
    int32_t listed = 0;
    for (int64_t i = 0; i < count; i++) {
        int64_t from = (first + i) * f->remainder->group, to = from + f->remainder->group;
        begin[i] = listed;
        for (int s = 0; s < f->keys.count; s++) {
            int64_t end = fga_min(to, f->keys.end[s]);
            for (int64_t key = fga_max(from, f->keys.begin[s]); key < end; key++) {
                if (bias == NULL || bias[key] != -INFINITY) {
                    keys[listed++] = (uint32_t)key;
                }
            }
        }
    }
    begin[count] = listed;
}

/* A sum of bf16 needs more than eight bits: two bf16, of which the second is the first one's rounding error. */
static void split_row(const float *sum, int64_t head_dim, uint16_t *parts)
{
    for (int64_t c = 0; c < head_dim; c++) {
        parts[c] = fga_f32_to_bf16(sum[c]);
        parts[head_dim + c] = fga_f32_to_bf16(sum[c] - fga_bf16_to_f32(parts[c]));
    }
}

static void split_sums(const fga_remainder *r, int64_t head_dim, int64_t first, int64_t count)
{
    for (int64_t row = first; row < first + count; row++) {
        uint16_t *parts = r->parts + row * PARTS * head_dim;
        split_row(r->sum_k + row * head_dim, head_dim, parts);
        split_row(r->sum_v + row * head_dim, head_dim, parts + 2 * head_dim);
    }
}

static void fill_item(void *arg, int64_t item, int worker)
{
    (void)worker;
    const fill *f = arg;
    const fga_attend_desc *d = f->desc;
    const fga_attend_args *a = f->args;
    const fga_remainder *r = f->remainder;
    int64_t head = item / f->items_per_head, first = item % f->items_per_head * f->item_groups;
    int64_t b = head / d->kv_heads, h = head % d->kv_heads, count = fga_min(f->item_groups, r->groups - first);
    const float *bias = a->key_bias == NULL ? NULL : a->key_bias + b * a->bias_batch_stride + h * a->bias_head_stride;
    uint32_t keys[ITEM_KEYS];
    int32_t begin[ITEM_GROUPS + 1];
    list_keys(f, bias, first, count, keys, begin);
    int64_t row = head * r->groups + first;
    for (int64_t i = 0; i < count; i++) {
        double sum = 0;
        for (int32_t n = begin[i]; bias != NULL && n < begin[i + 1]; n++) {
            sum += (double)bias[keys[n]];
        }
        r->sum_bias[row + i] = (float)sum;
        r->count[row + i] = (float)(begin[i + 1] - begin[i]);
    }
    fga_sums_op op = {
        .rows = keys,
        .begin = begin,
        .count = count,
        .head_dim = (int32_t)d->head_dim,
        .dtype = d->dtype,
    };
    op.x = fga_tensor_row(&a->k, b, h, 0), op.x_stride = a->k.stride[2], op.sum = r->sum_k + row * d->head_dim;
    f->ops.sums(&op);
    op.x = fga_tensor_row(&a->v, b, h, 0), op.x_stride = a->v.stride[2], op.sum = r->sum_v + row * d->head_dim;
    f->ops.sums(&op);
    if (r->parts != NULL) {
        split_sums(r, d->head_dim, row, count);
    }
}

static fga_status check_fill(fga_context *ctx, const fga_attend_desc *d, const fga_attend_args *a,
                             const fga_sequence *key, const fga_remainder *r)
{
    fga_shape keys = {d->batch, d->kv_heads, d->key_len, d->head_dim, d->dtype};
    FGA_TRY(check_shape(ctx, d));
    FGA_TRY(fga_check_struct(ctx, "fga_attend_args", a->size, sizeof *a));
    FGA_TRY(fga_check_view(ctx, "k", &a->k, &keys, ctx->options.device));
    FGA_TRY(fga_check_view(ctx, "v", &a->v, &keys, ctx->options.device));
    FGA_TRY(fga_remainder_check(ctx, d, r));
    if (key == NULL) {
        return FGA_OK;
    }
    FGA_TRY(fga_check_sequence(ctx, "key", key));
    if (fga_sequence_length(key) != d->key_len) {
        return fga_context_fail(ctx, FGA_ERR_ARGUMENT, "key is %" PRId64 " tokens long, wanted key_len = %" PRId64,
                                fga_sequence_length(key), d->key_len);
    }
    return FGA_OK;
}

static fga_status fill_on_device(fga_context *ctx, const fga_attend_desc *desc, const fga_attend_args *args,
                                 const fga_sequence *key, const fga_remainder *r)
{
    fga_spans keys = key != NULL ? fga_spans_valid(key) : fga_spans_all(desc->key_len);
    fga_gpu_sums op = {
        .bias = args->key_bias,
        .bias_batch = args->bias_batch_stride,
        .bias_head = args->bias_head_stride,
        .keys = fga_gpu_spans_of(&keys),
        .sum_k = r->sum_k,
        .sum_v = r->sum_v,
        .sum_bias = r->sum_bias,
        .count = r->count,
        .batch = (int32_t)desc->batch,
        .kv_heads = (int32_t)desc->kv_heads,
        .key_len = (int32_t)desc->key_len,
        .head_dim = (int32_t)desc->head_dim,
        .group = r->group,
        .groups = (int32_t)r->groups,
    };
    FGA_TRY(fga_gpu_rows_of(ctx, "k", &args->k, &op.k));
    FGA_TRY(fga_gpu_rows_of(ctx, "v", &args->v, &op.v));
    if (((uintptr_t)r->sum_k | (uintptr_t)r->sum_v) % 16 != 0) {
        return fga_context_fail(ctx, FGA_ERR_UNSUPPORTED, "remainder.sum_k is %p and sum_v %p, wanted multiples of 16",
                                (void *)r->sum_k, (void *)r->sum_v);
    }
    return fga_gpu_group_sums(ctx, &op, desc->dtype, ctx->stream);
}

fga_status fga_remainder_fill(fga_context *ctx, const fga_attend_desc *desc, const fga_attend_args *args,
                              const fga_sequence *key, const fga_remainder *remainder)
{
    if (ctx == NULL || desc == NULL || args == NULL || remainder == NULL) {
        return fga_context_fail(ctx, FGA_ERR_ARGUMENT, "%s is NULL",
                                ctx == NULL    ? "ctx"
                                : desc == NULL ? "desc"
                                : args == NULL ? "args"
                                               : "remainder");
    }
    FGA_TRY(check_fill(ctx, desc, args, key, remainder));
    if (ctx->options.device == FGA_DEVICE_CUDA) {
        return fill_on_device(ctx, desc, args, key, remainder);
    }
    fill f = {.desc = desc, .args = args, .remainder = remainder};
    FGA_TRY(fga_select_ops(ctx, &f.ops));
    f.keys = key != NULL ? fga_spans_valid(key) : fga_spans_all(desc->key_len);
    f.item_groups = ITEM_KEYS / remainder->group;
    f.items_per_head = fga_ceil_div(remainder->groups, f.item_groups);
    fga_parallel_for(ctx, desc->batch * desc->kv_heads * f.items_per_head, fill_item, &f);
    return FGA_OK;
}
