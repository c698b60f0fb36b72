/* refresh_gpu.h - scores and selections on a CUDA context: from the caller's arguments to what the kernels take. */
#ifndef FGA_ATTN_REFRESH_GPU_H
#define FGA_ATTN_REFRESH_GPU_H

#include "attn/predict.h"
#include "attn/select.h"
#include "ops/gpu_ops.h"

fga_gpu_spans fga_gpu_spans_of(const fga_spans *spans);
/* Strides and addresses that kernels can read 16 bytes at a time. */
fga_status fga_gpu_rows_of(fga_context *ctx, const char *what, const fga_tensor *t, fga_gpu_rows *rows);

/* Checks desc and says whether it can be scored there. policy: what selects; NULL: nothing does. */
fga_status fga_refresh_gpu_init(fga_context *ctx, const fga_predict_desc *desc, const fga_policy *policy,
                                fga_gpu_refresh_plan *plan);

/* A mask whose bits only the device has, until fga_mask_fetch. */
fga_status fga_mask_create_gpu(fga_context *ctx, const fga_mask_desc *desc, fga_mask **mask);

/* Scores q against k and selects as the policy does. */
typedef struct fga_refresh_gpu_call {
    const fga_attend_args *args; /* q, k, v */
    const fga_head_setting *heads;
    int32_t *keep, *near; /* [batch*query_heads]: room */
    uint8_t *everything;  /* likewise */
    int64_t *budget;      /* [batch]: room */
    double *number;       /* [batch*query_heads]: room */
    int32_t parts;        /* 0: all; for benchmarks */
    void *workspace;
    fga_mask *mask; /* of fga_mask_create_gpu */
} fga_refresh_gpu_call;
fga_status fga_refresh_gpu_run(fga_context *ctx, const fga_gpu_refresh_plan *plan, const fga_policy *policy,
                               const fga_refresh_gpu_call *call);

/* The public stages on a CUDA context. */
fga_status fga_score_tiles_gpu(fga_context *ctx, const fga_predict_desc *desc, const fga_score_call *call);
fga_status fga_select_topk_gpu(fga_context *ctx, const fga_mask_desc *desc, const float *scores, double density,
                               fga_mask **mask);

#endif
