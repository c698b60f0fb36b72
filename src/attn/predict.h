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
    int64_t blocks, tiles, sub_keys; /* of one head */
    int64_t sub_queries;             /* of a whole block */
    size_t key_bytes, worker_bytes;  /* parts of the workspace: key means and their grid; one worker's */
    size_t workspace_bytes;
} fga_scorer;

/* One row of scores as it is made. */
typedef struct fga_scored_row {
    int64_t row;         /* (b*query_heads + h)*blocks + u */
    int worker;          /* who made it, for scratch of its own */
    const float *scores; /* [tiles] */
    float mean,
        spread; /* FGA_SCORE_MEAN: of the raw logits over tiles with a valid key; spread = sqrt(variance + 1e-6) */
} fga_scored_row;

typedef struct fga_score_call {
    const fga_tensor *q, *k, *v;                        /* v may be NULL where the score does not read it */
    float *scores;                                      /* [batch][query_heads][blocks][tiles], or NULL */
    void (*take)(void *arg, const fga_scored_row *row); /* called from workers; or NULL */
    void *arg;
    void *workspace;
    fga_score_fn custom; /* scores the rows instead of the mass of q and k; or NULL */
    void *custom_user;
    int step, layer, branch; /* told to custom */
} fga_score_call;

fga_status fga_scorer_init(fga_context *ctx, const fga_predict_desc *desc, fga_scorer *scorer);
fga_status fga_scorer_run(const fga_scorer *scorer, const fga_score_call *call);

#endif
