/* predict.h - scores row by row, so that a refresh needs no array of all of them. */
#ifndef FGA_ATTN_PREDICT_H
#define FGA_ATTN_PREDICT_H

#include "attn/mask.h"
#include "ops/ops.h"

/* ---- score ---------------------------------------------------------------------------------------- */

typedef struct fga_scorer {
    fga_context *ctx;
    fga_predict_desc desc;
    fga_ops ops;
    fga_spans query_valid, key_valid;
    int64_t blocks, tiles; /* of one head */
    /* What the softmax runs over: means of sub-tiles of sub_q queries and sub_k keys, or single ones where that is 1.
     */
    int32_t sub_q, sub_k;
    int64_t sub_keys;
    bool exact;                     /* true probabilities: the rows are queries */
    bool second_order;              /* z of a sub-tile from all its keys */
    bool pooled_keys;               /* the keys are means, else those of k as they lie */
    int64_t bias_heads;             /* batch*kv_heads where gates differ by head, else 1 */
    int32_t item_blocks, item_rows; /* of one call of the rank op, at most */
    size_t key_bytes, worker_bytes; /* parts of the workspace: what all share of the keys; one worker's */
    size_t workspace_bytes;
    /* The caller's to set after fga_scorer_init, for FGA_SCORE_MEAN under FGA_SELECT_ADAPTIVE. */
    bool raw_logits;      /* scores are qmean . kmean * scale * log2 e, not probabilities; -inf without a valid key */
    bool full_covariance; /* with raw_logits: spread from the row's own variance, not from the diagonal */
} fga_scorer;

/* One row of scores as it is made. */
typedef struct fga_scored_row {
    int64_t row;         /* (b*query_heads + h)*blocks + u */
    int worker;          /* who made it, for scratch of its own */
    const float *scores; /* [tiles] */
    float mean, spread;  /* FGA_SCORE_MEAN: of the raw logits over the tiles that have a valid key and no gate;
                            spread = sqrt(variance + 1e-6) */
} fga_scored_row;

typedef struct fga_score_call {
    const fga_tensor *q, *k, *v; /* v may be NULL where the score does not read it */
    const float *lse; /* FGA_SCORE_EXACT_*: L of dense attention, [batch][query_heads][query_len], where it is known:
                         saves the memory of M x keys per worker. NULL: found here */
    float *scores;    /* [batch][query_heads][blocks][tiles], or NULL */
    void (*take)(void *arg, const fga_scored_row *row); /* called from workers; or NULL */
    void *arg;
    void *workspace;
    fga_score_fn custom; /* scores the rows instead of the mass of q and k; or NULL */
    void *custom_user;
    int step, layer, branch; /* told to custom */
} fga_score_call;

/* Whether desc makes sense. */
fga_status fga_predict_check(fga_context *ctx, const fga_predict_desc *desc);
fga_status fga_scorer_init(fga_context *ctx, const fga_predict_desc *desc, fga_scorer *scorer);
fga_status fga_scorer_run(const fga_scorer *scorer, const fga_score_call *call);

#endif
