/* attn.h - the attention driver, for the steps that need more than the public run gives. */
#ifndef FGA_ATTN_ATTN_H
#define FGA_ATTN_ATTN_H

#include "attn/mask.h"
#include "ops/gpu.h"
#include "ops/ops.h"

struct fga_attend_plan {
    fga_context *ctx;
    fga_attend_desc desc;
    fga_ops ops;
    int32_t rows;   /* of a work item: block_m, or the variant's own block */
    int64_t blocks; /* of one head */
    int64_t items;  /* batch * query_heads * blocks */
    size_t key_list_bytes, scratch_bytes;
    size_t workspace_bytes;
    fga_gpu_attend_plan gpu; /* on a CUDA context, instead of the operators and sizes of the processor's */
};

/* Query-key pairs of one run: what was computed, and what dense attention would have; valid tokens only, keys with
 * bias -inf apart. */
typedef struct fga_pairs {
    double kept, all;
    double summaries; /* one for a valid query and a group of keys that is not kept whole */
} fga_pairs;

/* fga_attend_run where a dense run (args->mask NULL) may have padding too; on a CUDA context without pairs, and on the
 * context's stream. query and key NULL: every token is valid; with a mask they are the mask's. pairs may be NULL. */
typedef struct fga_attend_call {
    const fga_attend_args *args;
    const fga_sequence *query, *key;
    void *workspace;
    fga_pairs *pairs;
} fga_attend_call;

/* The operators of the context's variant. */
fga_status fga_select_ops(fga_context *ctx, fga_ops *ops);
/* Whether mask is of desc's shape. */
fga_status fga_check_mask(fga_context *ctx, const fga_attend_desc *desc, const fga_mask *mask);
/* Whether tensors, mask and remainder are of desc's shape, and there. */
fga_status fga_check_attend_args(fga_context *ctx, const fga_attend_desc *desc, const fga_attend_args *args);
/* Fills a caller-owned plan: nothing to destroy. */
fga_status fga_attend_plan_init(fga_context *ctx, const fga_attend_desc *desc, fga_attend_plan *plan);
fga_status fga_attend_execute(const fga_attend_plan *plan, const fga_attend_call *call);
/* Arguments, checked, go to the CUDA context's device; asynchronous on stream. No pairs. */
fga_status fga_attend_run_gpu(const fga_attend_plan *plan, const fga_attend_call *call, void *stream);

#endif
