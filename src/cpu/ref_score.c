/* ref_score.c - the oracle of pool, rank, alike, digits and sift: the definitions of ops.h, accumulating in double. */
#include "base/half.h"
#include "cpu/cpu.h"
#include "cpu/ref.h"

#include <float.h>
#include <math.h>

static const double log2_e = 1.44269504088896340736;

/* ---- pool ------------------------------------------------------------------------------------------------------- */

static void pool_ref(const fga_pool_op *op)
{
    for (int64_t i = 0; i < op->count; i++) {
        int64_t end = op->valid_end[i] < op->begin[i + 1] ? op->valid_end[i] : op->begin[i + 1];
        double sum[MAX_HEAD_DIM] = {0};
        for (int64_t token = op->begin[i]; token < end; token++) {
            float x[MAX_HEAD_DIM];
            fga_to_f32(x, row_of(op->x, token, op->x_stride, op->dtype), op->dtype, op->head_dim);
            for (int32_t d = 0; d < op->head_dim; d++) {
                sum[d] += x[d];
            }
        }
        double inverse = end > op->begin[i] ? 1.0 / (double)(end - op->begin[i]) : 0.0;
        for (int32_t d = 0; d < op->head_dim; d++) {
            op->mean[i * op->head_dim + d] = (float)(sum[d] * inverse);
        }
    }
}

/* ---- rank ------------------------------------------------------------------------------------------------------- */

/* One row at a time over what the softmax runs over, called elements here: keys, or sub-tiles of them. */
typedef struct rank_ref_state {
    const fga_rank_op *op;
    int64_t elements;
    double *z;          /* [elements]: logits of the row, then probabilities */
    double *sum, *base; /* [tiles] of the block: LSE keeps sum * exp(base) */
} rank_ref_state;

static size_t rank_scratch_ref(const fga_rank_op *op, int32_t rows)
{
    (void)rows;
    return (size_t)((op->sub_begin != NULL ? op->subs : op->keys) + 2 * op->tiles) * sizeof(double);
}

static double key_logit(const fga_rank_op *op, const float *q, int64_t j)
{
    float k[MAX_HEAD_DIM];
    if (op->bias[j] == -INFINITY) {
        return -INFINITY;
    }
    fga_to_f32(k, row_of(op->k, j, op->k_stride, op->dtype), op->dtype, op->head_dim);
    return dot(q, k, op->head_dim) * op->scale + op->bias[j];
}

static double sub_tile_logit(const fga_rank_op *op, const float *q, int64_t sub)
{
    double sum = 0, spread = 0, count = 0;
    for (int64_t j = op->sub_begin[sub]; j < op->sub_begin[sub + 1]; j++) {
        double z = key_logit(op, q, j);
        if (op->bias[j] != -INFINITY) {
            sum += z;
            count++;
        }
    }
    if (count == 0) {
        return -INFINITY;
    }
    for (int64_t j = op->sub_begin[sub]; j < op->sub_begin[sub + 1]; j++) {
        double off = key_logit(op, q, j) - sum / count;
        spread += op->bias[j] != -INFINITY ? off * off : 0;
    }
    return sum / count + 0.5 * spread / count + op->sub_bias[sub];
}

static void row_logits(const rank_ref_state *r, int32_t row)
{
    const fga_rank_op *op = r->op;
    const float *q = op->q + (int64_t)row * op->head_dim;
    for (int64_t e = 0; e < r->elements; e++) {
        r->z[e] = op->sub_begin != NULL ? sub_tile_logit(op, q, e) : key_logit(op, q, e);
    }
}

/* z becomes P; all 0 where every logit is -inf. */
static void row_softmax(const rank_ref_state *r, int32_t row)
{
    double max = -DBL_MAX, sum = 0;
    for (int64_t e = 0; e < r->elements; e++) {
        max = fmax(max, r->z[e]);
    }
    for (int64_t e = 0; e < r->elements; e++) {
        sum += exp(r->z[e] - max);
    }
    double lse = r->op->lse != NULL ? (double)r->op->lse[row] : max + log(sum);
    for (int64_t e = 0; e < r->elements; e++) {
        r->z[e] = r->z[e] == -INFINITY ? 0 : exp(r->z[e] - lse);
    }
}

/* abs(P - its group's mean) * apart, of one key. */
static double deviation(const rank_ref_state *r, int64_t key)
{
    const fga_rank_op *op = r->op;
    int64_t group = key / op->group, end = (group + 1) * op->group;
    double sum = 0;
    for (int64_t j = group * op->group; j < end && j < op->keys; j++) {
        sum += r->z[j];
    }
    return op->apart[key] == 0 ? 0 : fabs(r->z[key] - sum * op->group_share[group]) * op->apart[key];
}

static void add_lse(double *sum, double *base, double z, double weight)
{
    if (z == -INFINITY) {
        return;
    }
    if (z > *base) {
        *sum *= exp(*base - z);
        *base = z;
    }
    *sum += weight * exp(z - *base);
}

static void gather(const rank_ref_state *r, int32_t row)
{
    const fga_rank_op *op = r->op;
    for (int64_t v = 0; v < op->tiles; v++) {
        double total = 0;
        for (int64_t e = op->tile_begin[v]; e < op->tile_begin[v + 1]; e++) {
            switch (op->kind) {
            case FGA_RANK_MASS:
                total += r->z[e];
                break;
            case FGA_RANK_MAX:
                r->sum[v] = fmax(r->sum[v], r->z[e]);
                break;
            case FGA_RANK_LSE:
                add_lse(&r->sum[v], &r->base[v], r->z[e], op->weight[row]);
                break;
            case FGA_RANK_LOGIT:
                r->sum[v] = r->z[e] * log2_e;
                break;
            case FGA_RANK_DEVIATION:
                total += deviation(r, e);
                break;
            }
        }
        if (op->kind == FGA_RANK_MASS || op->kind == FGA_RANK_DEVIATION) {
            r->sum[v] += total * op->weight[row];
        }
    }
}

static void rank_ref(const fga_rank_op *op)
{
    rank_ref_state r = {.op = op, .elements = op->sub_begin != NULL ? op->subs : op->keys, .z = op->scratch};
    r.sum = r.z + r.elements;
    r.base = r.sum + op->tiles;
    for (int32_t b = 0; b < op->blocks; b++) {
        for (int64_t v = 0; v < op->tiles; v++) {
            r.sum[v] = 0;
            r.base[v] = -DBL_MAX;
        }
        for (int32_t row = op->row_begin[b]; row < op->row_begin[b + 1]; row++) {
            row_logits(&r, row);
            if (op->kind != FGA_RANK_LSE && op->kind != FGA_RANK_LOGIT) {
                row_softmax(&r, row);
            }
            gather(&r, row);
        }
        bool rows = op->row_begin[b] < op->row_begin[b + 1];
        for (int64_t v = 0; v < op->tiles; v++) {
            double score = op->kind == FGA_RANK_LSE && rows ? r.base[v] + log(r.sum[v]) : r.sum[v];
            op->score[b * op->tiles + v] = (float)score;
        }
    }
}

/* ---- alike ------------------------------------------------------------------------------------------------------ */

static void alike_ref(const fga_alike_op *op)
{
    double centre = sqrt(dot(op->centre, op->centre, op->head_dim));
    for (int64_t i = 0; i < op->count; i++) {
        float x[MAX_HEAD_DIM];
        double square = 0;
        fga_to_f32(x, row_of(op->x, i, op->x_stride, op->dtype), op->dtype, op->head_dim);
        for (int32_t d = 0; d < op->head_dim; d++) {
            double off = (double)x[d] - op->centre[d];
            square += off * off;
        }
        if (op->distance != NULL) {
            op->distance[i] = (float)sqrt(square);
        }
        if (op->cosine != NULL) {
            double norms = centre * sqrt(dot(x, x, op->head_dim));
            op->cosine[i] = norms == 0 ? 0.0f : (float)(dot(x, op->centre, op->head_dim) / norms);
        }
    }
}

/* ---- digits and sift -------------------------------------------------------------------------------------------- */

static void digits_ref(const float *score, int64_t count, double sum, int64_t counts[FGA_RANK_DIGITS])
{
    for (int64_t i = 0; i < count; i++) {
        counts[fga_rank_digit((float)(score[i] / sum), 0)]++;
    }
}

static void sift_ref(const fga_sift_op *op)
{
    for (int64_t v = 0; v < op->count; v += 64) {
        uint64_t above = 0, within = 0;
        for (int64_t i = v; i < op->count && i < v + 64; i++) {
            uint32_t rank = fga_rank_of(op->score[i]);
            above |= (uint64_t)(rank > op->high) << (i - v);
            within |= (uint64_t)(rank >= op->low && rank <= op->high) << (i - v);
        }
        op->above[v / 64] = above;
        op->within[v / 64] = within;
    }
}

void fga_ref_scores(fga_ops *ops)
{
    ops->pool = pool_ref;
    for (int dtype = FGA_F32; dtype <= FGA_BF16; dtype++) {
        ops->rank[dtype] = rank_ref;
        ops->rank_scratch[dtype] = rank_scratch_ref;
    }
    ops->rank_rows = 1;
    ops->alike = alike_ref;
    ops->digits = digits_ref;
    ops->sift = sift_ref;
}
