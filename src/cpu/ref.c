/* ref.c - the oracle tier: plain C that follows the definitions word by word, accumulating in double.
 *
 * attend goes over the kept keys twice, once for the largest logit and once for the sums, so that nothing here is
 * shared with the online softmax of the fast tiers.
 */
#include "cpu/ref.h"
#include "base/half.h"
#include "cpu/cpu.h"

#include <float.h>
#include <math.h>

static double logit(const fga_attend_op *op, const float *q, uint32_t key)
{
    float k[MAX_HEAD_DIM];
    fga_to_f32(k, row_of(op->k, key, op->k_stride, op->dtype), op->dtype, op->head_dim);
    return dot(q, k, op->head_dim) * op->scale + (op->bias != NULL ? op->bias[key] : 0.0f);
}

/* ---- attend ----------------------------------------------------------------------------------------------------- */

/* One query's attention as it grows. */
typedef struct query_sum {
    float q[MAX_HEAD_DIM];
    double max, sum, weighted[MAX_HEAD_DIM];
    bool any; /* has a key or a summary */
} query_sum;

static void add_values(const fga_attend_op *op, query_sum *s, uint32_t key, double weight)
{
    float v[MAX_HEAD_DIM];
    fga_to_f32(v, row_of(op->v, key, op->v_stride, op->dtype), op->dtype, op->head_dim);
    for (int32_t d = 0; d < op->head_dim; d++) {
        s->weighted[d] += weight * v[d];
    }
}

/* The summary of one group, whose listed keys are keys[at] ... keys[at + listed - 1]: its logit, and its share of the
 * sums. */
static double summary_logit(const fga_attend_op *op, const float *q, int64_t group, int64_t at, int64_t listed)
{
    const fga_summaries *s = op->summaries;
    double sum = dot(q, s->sum_k + group * op->head_dim, op->head_dim) * op->scale + s->sum_bias[group];
    for (int64_t i = at; i < at + listed; i++) {
        sum -= logit(op, q, op->keys[i]);
    }
    return sum / (s->count[group] - (double)listed);
}

static void add_summary(const fga_attend_op *op, query_sum *s, int64_t group, int64_t at, int64_t listed)
{
    double w = exp(summary_logit(op, s->q, group, at, listed) - s->max);
    const float *sum_v = op->summaries->sum_v + group * op->head_dim;
    s->sum += w * (op->summaries->count[group] - (double)listed);
    for (int32_t d = 0; d < op->head_dim; d++) {
        s->weighted[d] += w * sum_v[d];
    }
    for (int64_t i = at; i < at + listed; i++) {
        add_values(op, s, op->keys[i], -w);
    }
}

/* Once for the largest logit of the summaries, once (`adding`) for their sums. */
static void attend_summaries(const fga_attend_op *op, query_sum *s, bool adding)
{
    int64_t at = 0, groups = op->summaries != NULL ? op->summaries->groups : 0;
    for (int64_t group = 0; group < groups; group++) {
        int64_t listed = fga_group_listed(op, group, at);
        if (op->summaries->count[group] > (float)listed) {
            if (adding) {
                add_summary(op, s, group, at, listed);
            } else {
                s->max = fmax(s->max, summary_logit(op, s->q, group, at, listed));
            }
            s->any = true;
        }
        at += listed;
    }
}

static void attend_row(const fga_attend_op *op, int32_t row)
{
    /* The floor keeps a row whose logits are all -inf free of inf - inf: its sum is 0, so O is NaN as 0/0 says. */
    query_sum s = {.max = -DBL_MAX, .any = op->key_count > 0};
    float o[MAX_HEAD_DIM];
    fga_to_f32(s.q, row_of(op->q, row, op->q_stride, op->dtype), op->dtype, op->head_dim);
    for (int64_t i = 0; i < op->key_count; i++) {
        s.max = fmax(s.max, logit(op, s.q, op->keys[i]));
    }
    attend_summaries(op, &s, false);
    for (int64_t i = 0; i < op->key_count; i++) {
        double p = exp(logit(op, s.q, op->keys[i]) - s.max);
        s.sum += p;
        add_values(op, &s, op->keys[i], p);
    }
    attend_summaries(op, &s, true);
    for (int32_t d = 0; d < op->head_dim; d++) {
        o[d] = s.any ? (float)(s.weighted[d] / s.sum) : 0.0f;
    }
    if (op->o != NULL) {
        fga_from_f32((void *)row_of(op->o, row, op->o_stride, op->dtype), op->dtype, o, op->head_dim);
    }
    if (op->lse != NULL) {
        op->lse[row] = s.any ? (float)(s.max + log(s.sum)) : -INFINITY;
    }
}

static void attend_ref(const fga_attend_op *op)
{
    for (int32_t row = 0; row < op->rows; row++) {
        attend_row(op, row);
    }
}

static size_t attend_scratch_ref(int32_t rows, int32_t head_dim, fga_dtype dtype)
{
    (void)rows;
    (void)head_dim;
    (void)dtype;
    return 0;
}

/* ---- probe ------------------------------------------------------------------------------------------------------ */

static void probe_ref(const fga_probe_op *op)
{
    uint32_t *keys = op->attend.scratch;
    for (int32_t row = 0; row < op->attend.rows; row++) {
        const uint32_t *kept = op->kept + row / 32 * op->kept_stride;
        fga_attend_op one = op->attend;
        one.keys = keys;
        one.key_count = 0;
        for (int64_t i = 0; i < op->attend.key_count; i++) {
            uint32_t key = op->attend.keys[i];
            keys[one.key_count] = key;
            one.key_count += kept[key] >> (row % 32) & 1;
        }
        one.lse = NULL;
        if (one.o != NULL) {
            attend_row(&one, row);
        }
        one.o = NULL;
        one.summaries = NULL;
        one.lse = op->kept_lse;
        attend_row(&one, row);
        if (op->dense_o != NULL) {
            one.keys = op->attend.keys;
            one.key_count = op->attend.key_count;
            one.o = op->dense_o;
            one.lse = op->dense_lse;
            attend_row(&one, row);
        }
    }
}

static size_t probe_scratch_ref(int32_t rows, int32_t head_dim, fga_dtype dtype, int64_t keys)
{
    (void)rows;
    (void)head_dim;
    (void)dtype;
    return (size_t)keys * sizeof(uint32_t);
}

static void sums_ref(const fga_sums_op *op)
{
    for (int64_t i = 0; i < op->count; i++) {
        double sum[MAX_HEAD_DIM] = {0};
        for (int32_t n = op->begin[i]; n < op->begin[i + 1]; n++) {
            float x[MAX_HEAD_DIM];
            fga_to_f32(x, row_of(op->x, op->rows[n], op->x_stride, op->dtype), op->dtype, op->head_dim);
            for (int32_t d = 0; d < op->head_dim; d++) {
                sum[d] += x[d];
            }
        }
        for (int32_t d = 0; d < op->head_dim; d++) {
            op->sum[i * op->head_dim + d] = (float)sum[d];
        }
    }
}

void fga_overlay_ref(fga_ops *ops)
{
    ops->name = "c";
    for (int dtype = FGA_F32; dtype <= FGA_BF16; dtype++) {
        ops->attend[dtype] = attend_ref;
        ops->attend_variant[dtype] = "c";
        ops->attend_scratch[dtype] = attend_scratch_ref;
        ops->block_rows[dtype] = 64;
        ops->probe[dtype] = probe_ref;
        ops->probe_scratch[dtype] = probe_scratch_ref;
    }
    ops->max_rows = MAX_ROWS;
    fga_ref_scores(ops);
    ops->sums = sums_ref;
}
