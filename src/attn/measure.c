/* measure.c - what sparsity cost, against exact dense attention on evenly spaced queries: the public form. */
#include "attn/measure.h"

#include "base/context.h"

#include <math.h>

fga_measure_args fga_measure_args_default(void)
{
    return (fga_measure_args){.size = sizeof(fga_measure_args), .attend = fga_attend_args_default(), .fraction = 0.02};
}

/* The meter's own workspace, then one figure per head. */
static fga_status make_meter(fga_context *ctx, const fga_attend_desc *desc, const fga_sequence *query, double fraction,
                             fga_meter *meter, size_t *bytes)
{
    FGA_TRY(fga_meter_init(ctx, desc, query, fraction, meter));
    *bytes = meter->workspace_bytes;
    if (!fga_size_add(bytes, desc->batch * desc->query_heads, sizeof(fga_head_quality))) {
        return fga_context_fail(ctx, FGA_ERR_UNSUPPORTED, "%lld measured queries are too many",
                                (long long)meter->samples);
    }
    return FGA_OK;
}

fga_status fga_measure_workspace(fga_context *ctx, const fga_attend_desc *desc, double fraction, size_t *bytes)
{
    if (desc == NULL || bytes == NULL) {
        return fga_context_fail(ctx, FGA_ERR_ARGUMENT, "%s is NULL", desc == NULL ? "desc" : "bytes");
    }
    fga_meter meter;
    return make_meter(ctx, desc, NULL, fraction, &meter, bytes);
}

static fga_status check_args(fga_context *ctx, const fga_attend_desc *desc, const fga_measure_args *args)
{
    const fga_attend_args *a = &args->attend;
    FGA_TRY(fga_check_attend_args(ctx, desc, a));
    if (a->mask == NULL && a->remainder != NULL) {
        return fga_context_fail(ctx, FGA_ERR_ARGUMENT, "remainder is set without a mask that leaves one");
    }
    if (a->lse == NULL && a->remainder == NULL && ctx->options.device != FGA_DEVICE_CUDA) {
        return fga_context_fail(ctx, FGA_ERR_ARGUMENT, "lse is NULL: recall is measured by it");
    }
    return FGA_OK;
}

/* host: what the meter wants of it, and a figure per head. */
static fga_status measure(const fga_meter *meter, const fga_measure_args *args, void *workspace, char *host,
                          fga_quality *quality)
{
    const fga_mask *mask = args->attend.mask;
    fga_head_quality *heads = (fga_head_quality *)(host + meter->host_bytes);
    const fga_judge_call call = {.args = &args->attend,
                                 .attended = true,
                                 .recall = true,
                                 .error = true,
                                 .heads = heads,
                                 .key = mask != NULL ? &mask->desc.key : NULL,
                                 .workspace = workspace,
                                 .host = host};
    FGA_TRY(fga_meter_judge(meter, &call));
    fga_meter_summarise(meter, heads, &call, quality);
    for (int64_t head = 0; head < meter->desc.batch * meter->desc.query_heads; head++) {
        if (args->recall_heads != NULL) {
            args->recall_heads[head] = (float)heads[head].recall;
        }
        if (args->error_heads != NULL) {
            args->error_heads[head] = (float)sqrt(heads[head].error_squared);
        }
    }
    return FGA_OK;
}

fga_status fga_measure(fga_context *ctx, const fga_attend_desc *desc, const fga_measure_args *args, void *workspace,
                       fga_quality *quality)
{
    if (desc == NULL || args == NULL || quality == NULL) {
        return fga_context_fail(ctx, FGA_ERR_ARGUMENT, "%s is NULL",
                                desc == NULL   ? "desc"
                                : args == NULL ? "args"
                                               : "quality");
    }
    FGA_TRY(fga_check_struct(ctx, "fga_measure_args", args->size, sizeof *args));
    fga_meter meter;
    size_t bytes;
    FGA_TRY(make_meter(ctx, desc, &args->query, args->fraction, &meter, &bytes));
    FGA_TRY(check_args(ctx, desc, args));
    FGA_TRY(fga_check_workspace(ctx, workspace, bytes));
    if (ctx->options.device != FGA_DEVICE_CUDA) {
        return measure(&meter, args, workspace, (char *)workspace + meter.workspace_bytes, quality);
    }
    char *host = fga_alloc(ctx, meter.host_bytes + bytes - meter.workspace_bytes); /* the workspace is the device's */
    if (host == NULL) {
        return fga_context_fail(ctx, FGA_ERR_MEMORY, "no memory for the figures of %lld queries a head",
                                (long long)meter.samples);
    }
    fga_status status = measure(&meter, args, workspace, host, quality);
    fga_free(ctx, host);
    return status;
}
