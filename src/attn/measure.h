/* measure.h - recall and output error on sampled queries, with the plan made beforehand. */
#ifndef FGA_ATTN_MEASURE_H
#define FGA_ATTN_MEASURE_H

#include "attn/attn.h"

typedef struct fga_meter {
    fga_attend_desc desc; /* of the measured attention */
    fga_sequence query;
    fga_attend_plan dense; /* over the sampled queries */
    int64_t samples;       /* queries per head */
    int32_t block_m;       /* rows of a block in recall_p05 */
    int64_t blocks;        /* blocks of a head that hold a sample */
    int32_t chunk;         /* samples of a head that share a pass over its keys when a mask is judged */
    size_t workspace_bytes, host_bytes;
} fga_meter;

/* How far an estimate from samples may be off: 0 where every query is a sample. */
typedef struct fga_uncertainty {
    double deviation; /* the estimate's standard deviation */
    double skew;      /* what is lost per query, x, less its mean m: sum of (x - m)^3 / sum of (x - m)^2 / samples */
} fga_uncertainty;

/* One head on its samples. */
typedef struct fga_head_quality {
    double recall, error_squared; /* the latter of the relative output error */
    fga_uncertainty recall_off, error_off;
    double error_sum, norm_sum; /* whose quotient error_squared is */
} fga_head_quality;

typedef struct fga_judge_call {
    const fga_attend_args *args; /* q, k, v, mask, key_bias, remainder */
    bool attended;               /* o is what this mask gave, and so is lse where there is no remainder */
    bool recall, error;          /* which figures are wanted; the others are left as they are */
    const uint8_t *skip;         /* [batch*query_heads]: heads to leave as they are; or NULL */
    fga_head_quality *heads;     /* [batch*query_heads] */
    const fga_sequence *key;     /* where the valid keys are */
    bool twin;                   /* the workspace has the exact attention of this q, k, v and key_bias; else it is made,
                                    where it can be in the pass that judges */
    void *workspace;             /* on a CUDA context the device's */
    void *host;                  /* there host_bytes of the host's; else not read */
} fga_judge_call;

/* desc is the measured attention's. query NULL: for the workspace of any sequence of that length. */
fga_status fga_meter_init(fga_context *ctx, const fga_attend_desc *desc, const fga_sequence *query, double fraction,
                          fga_meter *meter);
/* What the samples lose under args->mask: from its outputs, or, where it has not been attended with yet, by attending
 * with the samples alone. On a CUDA context from its outputs alone, and it waits for the stream. */
fga_status fga_meter_judge(const fga_meter *meter, const fga_judge_call *call);
/* Over all heads, after they were judged for recall and error; may be asked once for each time. */
void fga_meter_summarise(const fga_meter *meter, const fga_head_quality *heads, const fga_judge_call *call,
                         fga_quality *quality);
/* Puts the figures of every sample where the device has room for them: [batch*query_heads][samples][SAMPLE_FIGURES]. */
fga_status fga_meter_probe_gpu(const fga_meter *meter, const fga_judge_call *call, float *figures);

enum { SAMPLE_RECALL, SAMPLE_ERROR, SAMPLE_NORM, SAMPLE_FIGURES }; /* the latter two squared */

#endif
