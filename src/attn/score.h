/* score.h - the two sides of a score: what all blocks share of the keys, and the rows of a few query blocks. */
#ifndef FGA_ATTN_SCORE_H
#define FGA_ATTN_SCORE_H

#include "attn/predict.h"

/* ---- keys: shared by all workers ----------------------------------------------------------------------------------
 */

typedef struct fga_score_keys {
    int64_t *tile_begin; /* [tiles+1]: sub-tiles of tile v */
    int64_t *sub_begin;  /* [sub_keys+1]: tokens of a sub-tile; under zero_pad they may lie past the sequence */
    int64_t *valid_end;  /* [sub_keys]: as the pool op wants it */
    float *mean;         /* [batch*kv_heads][sub_keys][head_dim] where the keys are pooled */
    float *bias;         /* [bias_heads][keys of the op] */
    float *sub_bias;     /* [bias_heads][sub_keys], second order: log n */
    uint8_t *gated;      /* [batch*kv_heads][tiles], with gate_k */
    double *moments;     /* [batch*kv_heads][2][head_dim], FGA_SCORE_MEAN: mean and variance of the tiles' means */
    float *apart;        /* [batch*kv_heads][keys], FGA_SCORE_DEVIATION, and the next */
    float *group_share;  /* [groups] */
} fga_score_keys;

/* ---- rows: one worker's -------------------------------------------------------------------------------------------
 */

typedef struct fga_score_rows {
    int64_t *begin;     /* [item_rows+1] */
    int64_t *valid_end; /* [item_rows] */
    int32_t *row_begin; /* [item_blocks+1] */
    float *weight;      /* [item_rows] */
    float *lse;         /* [item_rows] */
    float *q;           /* [item_rows][head_dim] */
    float *score;       /* [item_blocks][tiles] */
    void *scratch;
} fga_score_rows;

typedef struct fga_score_run {
    const fga_scorer *scorer;
    const fga_score_call *call;
    fga_score_keys key;
    char *workers;
} fga_score_run;

/* Lay the arrays out from base on and count the bytes; with base NULL only the latter. False: too large. */
bool fga_score_keys_place(const fga_scorer *s, char *base, size_t *used, fga_score_keys *key);
bool fga_score_rows_place(const fga_scorer *s, char *base, size_t *used, fga_score_rows *rows);

/* Everything of the keys, in parallel. */
void fga_score_keys_fill(fga_score_run *run);
/* Rows of blocks [first, first + count) of (b*query_heads + h); blocks that nothing asks for get none. */
void fga_score_rows_fill(const fga_score_run *run, int64_t head, int64_t first, int64_t count, fga_score_rows *rows);

/* The rank op of the keys alone, for one head of them; q, rows and scores are the caller's to fill in. */
fga_rank_kind fga_score_rank_kind(const fga_scorer *s);
int32_t fga_score_tile_keys(const fga_scorer *s); /* rows of the op's k in a whole tile */
fga_rank_op fga_score_rank_op(const fga_score_run *run, int64_t kv_head);

/* ---- shared -------------------------------------------------------------------------------------------------------
 */

/* The next array of a workspace. With base NULL it only counts. */
static inline void *fga_score_carve(char *base, size_t *used, int64_t count, size_t bytes, bool *fits)
{
    size_t at = *used;
    *fits = *fits && fga_size_add(used, count, bytes);
    return base != NULL ? base + at : NULL;
}

/* The end of the valid tokens of [begin, end) where they come first; `begin` where there are none or padding lies
 * between them, which the pool op does not know. */
int64_t fga_score_valid_end(const fga_spans *valid, int64_t begin, int64_t end);
/* The pool op, and what it does not know: padding in the middle of a sub-tile. */
void fga_score_pool(const fga_scorer *s, const fga_pool_op *op, const fga_spans *valid);
/* One mean, of the valid tokens of [begin, end). */
void fga_score_mean(const fga_scorer *s, const fga_tensor *x, int64_t head, const fga_spans *valid, int64_t begin,
                    int64_t end, float *mean);
/* Mean cosine of the valid tokens of [begin, end), at most 192, to their mean. */
double fga_score_likeness(const fga_scorer *s, const fga_tensor *x, int64_t head, const fga_spans *valid, int64_t begin,
                          int64_t end);

#endif
