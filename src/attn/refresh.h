/* refresh.h - one refresh: score, then select, for all heads of a layer. */
#ifndef FGA_ATTN_REFRESH_H
#define FGA_ATTN_REFRESH_H

#include "attn/predict.h"
#include "attn/select.h"

typedef struct fga_refresh_plan {
    fga_context *ctx;
    fga_policy policy;
    fga_scorer scorer;
    int64_t grid[3]; /* frames, height, width of the video in tokens */
    int64_t heads;   /* batch * query_heads */
    int64_t blocks, tiles;
    float scale;      /* of logits */
    bool keep_scores; /* of all rows, in the workspace: for budgets and for calls with `again` */
    size_t scores_at, moments_at, out_at, scratch_at, scratch_bytes, workspace_bytes;
} fga_refresh_plan;

typedef struct fga_refresh_call {
    const fga_attend_args *args;   /* q, k, v, key_bias */
    const fga_head_setting *heads; /* [batch*query_heads] */
    int step, layer, branch;       /* told to custom functions */
    bool again;                    /* the scores of the last call in this workspace still hold: select alone */
    void *workspace;
    fga_mask *mask; /* a bit map that nobody else reads; filled and sealed */
} fga_refresh_call;

/* The shapes of `predict` with the policy's tile, sub-tile and score settings. */
fga_predict_desc fga_refresh_describe(const fga_predict_desc *predict, const fga_policy *policy);
/* predict: the shapes; its tile, sub-tile and score settings are taken from the policy. keep_scores: see above; may be
 * asked for, and is forced by policies that need it. */
fga_status fga_refresh_init(fga_context *ctx, const fga_policy *policy, const fga_predict_desc *predict,
                            const int64_t grid[3], bool keep_scores, fga_refresh_plan *plan);
fga_status fga_refresh_run(const fga_refresh_plan *plan, const fga_refresh_call *call);
/* Scores of row (b*query_heads + h)*blocks + u after a run of a plan with keep_scores. */
const float *fga_refresh_scores(const fga_refresh_plan *plan, const void *workspace, int64_t row);

#endif
