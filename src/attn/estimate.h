/* estimate.h - how many tiles a head must keep for a recall, by the pooled estimate of their mass. */
#ifndef FGA_ATTN_ESTIMATE_H
#define FGA_ATTN_ESTIMATE_H

#include "attn/select.h"

typedef struct fga_estimator {
    fga_scorer scorer; /* `mass`, whatever score selects */
    int64_t heads, levels;
    int64_t stride; /* every so manieth block is asked */
    size_t curve_bytes, worker_bytes, workspace_bytes;
} fga_estimator;

typedef struct fga_estimate_call {
    const fga_tensor *q, *k;
    const fga_selector *selector; /* which tiles are forced and which are free */
    double recall;
    int64_t *counts; /* [batch*query_heads]: the smallest K whose mean estimated mass is at least `recall` */
    void *workspace;
} fga_estimate_call;

/* desc: the shapes, M, N and sub-tiles. */
fga_status fga_estimator_init(fga_context *ctx, const fga_predict_desc *desc, fga_estimator *estimator);
fga_status fga_estimator_run(const fga_estimator *estimator, const fga_estimate_call *call);

#endif
