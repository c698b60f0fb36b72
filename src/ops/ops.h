/* ops.h - the operators a backend provides: one args struct and one function type per op, and the table.
 *
 * A backend fills the entries it has; the rest stay those of the tier below (ref, the oracle, has all). Backends see
 * this header and base/ only. All pointers are host memory; every args struct is read-only to the op.
 */
#ifndef FGA_OPS_OPS_H
#define FGA_OPS_OPS_H

#include "base/rank.h"

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
    /* [groups][4][head_dim]: sum_k and then sum_v as two bf16 each, the second what the first one's rounding left; or
     * NULL. Only kernels whose products are of bf16 read it. */
    const uint16_t *parts;
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

/* ---- probe: attention of rows that keep different keys --------------------------------------------------------- */

/* Row r attends, as in attend, to those of attend.keys that it keeps; with summaries, what is not kept is counted row
 * by row. attend.o may be NULL: no outputs. attend.lse is not used. */
typedef struct fga_probe_op {
    fga_attend_op attend;
    const uint32_t *kept; /* bit r % 32 of kept[r / 32 * kept_stride + j]: row r keeps key j of the sequence */
    int64_t kept_stride;
    float *kept_lse; /* [rows]: L over the kept keys alone, without summaries; -inf where none is kept */
    /* With the strides of attend.o: what the rows would get if they kept every listed key, without summaries. NULL,
     * both of them: not wanted. */
    void *dense_o;
    float *dense_lse;
} fga_probe_op;

typedef void (*fga_probe_fn)(const fga_probe_op *op);
/* Scratch bytes one thread needs for up to `rows` rows over up to `keys` listed keys. */
typedef size_t (*fga_probe_scratch_fn)(int32_t rows, int32_t head_dim, fga_dtype dtype, int64_t keys);

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

/* ---- rank: scores of a few query blocks of one head, from the logits of their rows against all keys ---------------
 *
 * Rows and keys are tokens or means of sub-tiles; which, the caller knows. With z[i,j] = q_i . k_j * scale + bias_j and
 * P = softmax over j of z:
 */
typedef enum fga_rank_kind {
    FGA_RANK_MASS,      /* sum over the block's rows of weight * sum over the tile's keys of P */
    FGA_RANK_MAX,       /* the largest P of the block's rows and the tile's keys */
    FGA_RANK_LSE,       /* log of the sum over both of weight * exp z; -inf for a tile without a key */
    FGA_RANK_LOGIT,     /* z * log2 e, for one row per block and one key per tile */
    FGA_RANK_DEVIATION, /* sum over both of weight * abs(P - mean of P over the key's group) * apart_j */
} fga_rank_kind;

typedef struct fga_rank_op {
    fga_rank_kind kind;
    const float *q;            /* [rows][head_dim], block after block */
    const float *weight;       /* [rows]: of a row in its block; MAX and LOGIT do not read it */
    const float *lse;          /* [rows]: log of the sum over keys of exp z where it is known; NULL: found here */
    const int32_t *row_begin;  /* [blocks+1]: rows of block b; a block without rows scores 0 */
    const void *k;             /* [keys][head_dim] of dtype, row stride below */
    const float *bias;         /* [keys]; -inf: the key is out of it all and its row is never read */
    const int64_t *tile_begin; /* [tiles+1]: keys of tile v; with sub_begin sub-tiles of it */
    /* Second order: the softmax runs over sub-tiles J of keys, with z[i,J] = mean + variance / 2 of z[i,j] over the
     * keys of J that are not out, plus sub_bias_J (log n). NULL: it runs over keys. Not with DEVIATION. */
    const int64_t *sub_begin; /* [subs+1]: keys of sub-tile J */
    const float *sub_bias;    /* [subs]; -inf for one without a key */
    /* DEVIATION; groups start at key 0, tiles and groups nest */
    const float *apart;       /* [keys]: norm(V_j - mean V of its group); 0 for a key that does not count */
    const float *group_share; /* [ceil(keys/group)]: 1 / keys of the group that count; 0 where none does */
    float *score;             /* [blocks][tiles] */
    int64_t k_stride;         /* elements */
    int64_t keys, subs, tiles;
    int32_t tile_keys; /* rows of k in every tile but the last, which may have fewer; at most 128 */
    int32_t group;     /* DEVIATION: 8 ... 256, a power of two */
    int32_t blocks, head_dim;
    fga_dtype dtype; /* of k */
    float scale;
    void *scratch; /* rank_scratch(op) bytes, 64-byte aligned, private to the calling thread */
} fga_rank_op;

typedef void (*fga_rank_fn)(const fga_rank_op *op);
/* Scratch bytes for an op with at most `rows` rows: reads no array, but whether lse and sub_begin are NULL. */
typedef size_t (*fga_rank_scratch_fn)(const fga_rank_op *op, int32_t rows);

/* ---- alike: how near rows are to a centre --------------------------------------------------------------------------
 */

typedef struct fga_alike_op {
    const void *x;       /* [count][head_dim] of dtype, row stride below */
    const float *centre; /* [head_dim] */
    float *distance;     /* [count]: norm(x_i - centre), or NULL */
    float *cosine;       /* [count]: of x_i and centre, 0 where either is zero; or NULL */
    int64_t x_stride, count;
    int32_t head_dim;
    fga_dtype dtype;
} fga_alike_op;

typedef void (*fga_alike_fn)(const fga_alike_op *op);

/* ---- digits and sift: tiles of a row by the ranks (base/rank.h) of their scores -------------------- */

/* Adds to counts[d] how many of the scores, divided by sum and rounded to f32, have d as the first digit of their rank.
 */
typedef void (*fga_digits_fn)(const float *score, int64_t count, double sum, int64_t counts[FGA_RANK_DIGITS]);

typedef struct fga_sift_op {
    const float *score; /* [count] */
    int64_t count;
    uint32_t low, high; /* ranks */
    uint64_t *above;    /* bit v % 64 of above[v / 64]: the rank of score[v] is above high; 0 where no tile is */
    uint64_t *within;   /* likewise: at least low and at most high */
} fga_sift_op;

typedef void (*fga_sift_fn)(const fga_sift_op *op);

/* ---- the table ------------------------------------------------------------------------------------------------- */

typedef struct fga_ops {
    const char *name;              /* "c", "avx2", "avx512", "avx512bf16", "amx" */
    fga_attend_fn attend[3];       /* by fga_dtype */
    const char *attend_variant[3]; /* which tier each came from, for reports */
    fga_attend_scratch_fn attend_scratch[3];
    int32_t max_rows;      /* the largest block_m any of the above takes: 192 */
    int32_t block_rows[3]; /* the block each dense attend likes best */
    fga_probe_fn probe[3];
    fga_probe_scratch_fn probe_scratch[3];
    fga_pool_fn pool;
    fga_sums_fn sums;
    fga_rank_fn rank[3]; /* by the dtype of k */
    fga_rank_scratch_fn rank_scratch[3];
    int32_t rank_rows; /* rows that one rank call likes to have, of however many blocks */
    fga_alike_fn alike;
    fga_digits_fn digits;
    fga_sift_fn sift;
} fga_ops;

/* Fills the table with ref and overlays every tier up to `name` (NULL: the best this machine runs). FGA_ERR_ARGUMENT
 * for an unknown name, FGA_ERR_UNSUPPORTED for one that this machine cannot run. */
fga_status fga_ops_select(const char *name, fga_ops *ops);

#endif
