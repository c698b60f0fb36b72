/* measure.h - sampled recall and output error, with its plan made beforehand. */
#ifndef FGA_ATTN_MEASURE_H
#define FGA_ATTN_MEASURE_H

#include "attn/attn.h"

typedef struct fga_meter {
    fga_attend_plan dense; /* over the sampled queries */
    fga_sequence query;    /* of the measured attention */
    int64_t samples;       /* queries per head */
    int32_t block_m;       /* rows of a block in recall_p05 */
    int64_t blocks;        /* blocks of a head that hold a sample */
    size_t workspace_bytes;
} fga_meter;

/* desc is the measured attention's. */
fga_status fga_meter_init(fga_context *ctx, const fga_attend_desc *desc, const fga_sequence *query, double fraction,
                          fga_meter *meter);
/* key: where the valid keys are; NULL = all. args->attend.mask may be NULL (a dense run). */
fga_status fga_meter_run(const fga_meter *meter, const fga_measure_args *args, const fga_sequence *key, void *workspace,
                         fga_quality *quality);

#endif
