/* ops.h - the operators a backend provides: one args struct and one function type per op, and the table.
 *
 * A backend fills the entries it has; the rest stay those of the tier below (ref, the oracle, has all). Backends see
 * this header and base/ only. All pointers are host memory; every args struct is read-only to the op.
 */
#ifndef FGA_OPS_OPS_H
#define FGA_OPS_OPS_H

#include "fgattn.h"

/* ---- attend: one query block of one head over its kept keys -------------------------------------------------- */

/* What stands for the keys that are not listed: sums over groups of `group` consecutive keys of the sequence. Group G
 * takes part with one summary if n_r > 0, n_r = count[G] - listed keys of G:
 *   logit m = ((q . sum_k[G]) * scale + sum_bias[G] - sum of the listed keys' logits) / n_r, weight w = exp(m),
 *   mass n_r * w, and w * (sum_v[G] - sum of the listed keys' values) is added to the output's sum. */
typedef struct fga_summaries {
    const float *sum_k, *sum_v;    /* [groups][head_dim] */
    const float *sum_bias, *count; /* [groups] */
    int64_t groups;
    int32_t group;
} fga_summaries;

typedef struct fga_attend_op {
    const void *q; /* [rows][head_dim], row stride below */
    const void *k; /* [*][head_dim]: only rows named in keys are read */
    const void *v;
    void *o;              /* [rows][head_dim] */
    float *lse;           /* [rows] contiguous, or NULL */
    const float *bias;    /* one per key of the sequence, indexed by keys[i]; NULL = 0. Never -inf for a listed key */
    const uint32_t *keys; /* [key_count] rising key indices */
    int64_t q_stride, k_stride, v_stride, o_stride; /* elements */
    int64_t key_count;                              /* 0 without summaries: O = 0, L = -inf */
    const fga_summaries *summaries;                 /* NULL: keys that are not listed are dropped */
    int32_t rows;                                   /* 1 ... the variant's max rows */
    int32_t head_dim;                               /* multiple of 8, 8 ... 256 */
    fga_dtype dtype;                                /* of q, k, v, o */
    float scale;
    void *scratch; /* attend_scratch(...) bytes, 64-byte aligned, private to the calling thread */
} fga_attend_op;

/* How many of the listed keys from keys[at] on come before the end of group `group`. */
static inline int64_t fga_group_listed(const fga_attend_op *op, int64_t group, int64_t at)
{
    int64_t n = 0, end = (group + 1) * op->summaries->group;
    while (at + n < op->key_count && op->keys[at + n] < end) {
        n++;
    }
    return n;
}

typedef void (*fga_attend_fn)(const fga_attend_op *op);
/* Scratch bytes one thread needs for blocks of up to `rows` rows. */
typedef size_t (*fga_attend_scratch_fn)(int32_t rows, int32_t head_dim, fga_dtype dtype);

/* ---- pool: means of sub-tiles ---------------------------------------------------------------------------------- */

typedef struct fga_pool_op {
    const void *x;            /* [tokens][head_dim] */
    int64_t x_stride;         /* elements */
    const int64_t *begin;     /* [count+1]: mean i covers valid tokens of [begin[i], begin[i+1]) */
    const int64_t *valid_end; /* [count]: tokens at or past this index are padding; mean of none = 0 */
    float *mean;              /* [count][head_dim] f32 */
    int64_t count;
    int32_t head_dim;
    fga_dtype dtype;
} fga_pool_op;

typedef void (*fga_pool_fn)(const fga_pool_op *op);

/* ---- sums: of listed rows, group by group ------------------------------------------------------------------------ */

typedef struct fga_sums_op {
    const void *x;        /* [*][head_dim]: only rows named in rows are read */
    int64_t x_stride;     /* elements */
    const uint32_t *rows; /* sum i covers rows[begin[i]] ... rows[begin[i+1] - 1]; of none: 0 */
    const int32_t *begin; /* [count+1] */
    float *sum;           /* [count][head_dim] */
    int64_t count;
    int32_t head_dim;
    fga_dtype dtype;
} fga_sums_op;

typedef void (*fga_sums_fn)(const fga_sums_op *op);

/* ---- mass: P = softmax_J(z), then the weighted sum over a block's query sub-tiles and a tile's key sub-tiles ---- */

typedef struct fga_mass_op {
    const float *q_mean;       /* [sub_queries][head_dim]: the query sub-tiles of ONE block */
    const float *q_weight;     /* [sub_queries]: n_I / n_u */
    const float *k_mean;       /* [sub_keys][head_dim] */
    const float *log_n;        /* [sub_keys]: log n_J, -inf for a sub-tile without a valid key */
    const int64_t *tile_begin; /* [tiles+1]: sub-tiles of tile v are [tile_begin[v], tile_begin[v+1]) */
    float *score;              /* [tiles] */
    int64_t sub_keys, tiles;
    int32_t sub_queries, head_dim;
    float scale;
    float *scratch; /* [sub_queries][sub_keys] f32 */
} fga_mass_op;

typedef void (*fga_mass_fn)(const fga_mass_op *op);

/* ---- the table ------------------------------------------------------------------------------------------------- */

typedef struct fga_ops {
    const char *name;              /* "c", "avx2", "avx512", "avx512bf16" */
    fga_attend_fn attend[3];       /* by fga_dtype */
    const char *attend_variant[3]; /* which tier each came from, for reports */
    fga_attend_scratch_fn attend_scratch[3];
    int32_t max_rows;      /* the largest block_m any of the above takes: 192 */
    int32_t block_rows[3]; /* the block each dense attend likes best */
    fga_pool_fn pool;
    fga_sums_fn sums;
    fga_mass_fn mass;
} fga_ops;

/* Fills the table with ref and overlays every tier up to `name` (NULL: the best this machine runs). FGA_ERR_ARGUMENT
 * for an unknown name, FGA_ERR_UNSUPPORTED for one that this machine cannot run. */
fga_status fga_ops_select(const char *name, fga_ops *ops);

#endif
