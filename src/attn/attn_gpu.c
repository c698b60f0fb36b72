/* attn_gpu.c - attention on a CUDA context: from the caller's arguments to what the kernels take. */
#include "attn/attn.h"

#include "attn/measure.h"
#include "attn/refresh_gpu.h"
#include "base/context.h"

static int32_t describe_spans(const fga_spans *spans, int32_t *begin, int32_t *end)
{
    for (int i = 0; i < spans->count; i++) {
        begin[i] = (int32_t)spans->begin[i];
        end[i] = (int32_t)spans->end[i];
    }
    return spans->count;
}

static fga_status describe_mask(fga_context *ctx, const fga_mask *mask, fga_gpu_attend *op)
{
    if (mask->gpu.memory == 0 || mask->gpu.cuda_context != ctx->gpu.cuda_context) {
        return fga_context_fail(ctx, FGA_ERR_ARGUMENT, "mask was not made on this CUDA context");
    }
    op->mask = mask->gpu;
    op->mask_words = mask->words;
    op->mask_batch = (int32_t)mask->desc.batch;
    op->mask_heads = (int32_t)mask->desc.heads;
    op->tile_shift = __builtin_ctz((unsigned)mask->desc.tile_n);
    return FGA_OK;
}

static fga_status describe_remainder(fga_context *ctx, const fga_remainder *r, fga_gpu_attend *op)
{
    if (((uintptr_t)r->sum_k | (uintptr_t)r->sum_v) % 16 != 0) {
        return fga_context_fail(ctx, FGA_ERR_UNSUPPORTED, "remainder.sum_k is %p and sum_v %p, wanted multiples of 16",
                                (void *)r->sum_k, (void *)r->sum_v);
    }
    op->sum_k = r->sum_k;
    op->sum_v = r->sum_v;
    op->sum_bias = r->sum_bias;
    op->count = r->count;
    op->group_shift = __builtin_ctz((unsigned)r->group);
    op->groups = (int32_t)r->groups;
    return FGA_OK;
}

/* All but what a plan knows: block_rows and blocks, which a mask overrides. */
static fga_status describe(fga_context *ctx, const fga_attend_desc *d, const fga_attend_args *a,
                           const fga_sequence *query, const fga_sequence *key, fga_gpu_attend *op)
{
    *op = (fga_gpu_attend){
        .lse = a->lse,
        .bias = a->key_bias,
        .bias_batch = a->bias_batch_stride,
        .bias_head = a->bias_head_stride,
        .batch = (int32_t)d->batch,
        .query_heads = (int32_t)d->query_heads,
        .kv_heads = (int32_t)d->kv_heads,
        .query_len = (int32_t)d->query_len,
        .key_len = (int32_t)d->key_len,
        .head_dim = (int32_t)d->head_dim,
        .scale_log2 = d->scale * 1.44269504088896341f,
        .group_shift = -1,
    };
    FGA_TRY(fga_gpu_rows_of(ctx, "q", &a->q, &op->q));
    FGA_TRY(fga_gpu_rows_of(ctx, "k", &a->k, &op->k));
    FGA_TRY(fga_gpu_rows_of(ctx, "v", &a->v, &op->v));
    FGA_TRY(fga_gpu_rows_of(ctx, "o", &a->o, &op->o));
    fga_spans queries = query != NULL ? fga_spans_valid(query) : fga_spans_all(d->query_len);
    fga_spans keys = key != NULL ? fga_spans_valid(key) : fga_spans_all(d->key_len);
    if (a->mask != NULL) {
        FGA_TRY(describe_mask(ctx, a->mask, op));
        queries = a->mask->query_valid;
        keys = a->mask->key_valid;
        if (a->remainder != NULL) {
            FGA_TRY(describe_remainder(ctx, a->remainder, op));
        }
    }
    op->query_spans = describe_spans(&queries, op->query_begin, op->query_end);
    op->key_spans = describe_spans(&keys, op->key_begin, op->key_end);
    return FGA_OK;
}

fga_status fga_attend_run_gpu(const fga_attend_plan *plan, const fga_attend_call *call, void *stream)
{
    fga_gpu_attend op;
    FGA_TRY(describe(plan->ctx, &plan->desc, call->args, call->query, call->key, &op));
    op.block_rows = plan->rows;
    op.blocks = (int32_t)plan->blocks;
    return fga_gpu_attend_launch(plan->ctx, &plan->gpu, &op, plan->desc.dtype, call->workspace, stream);
}

fga_status fga_meter_probe_gpu(const fga_meter *meter, const fga_judge_call *call, float *figures)
{
    fga_context *ctx = meter->dense.ctx;
    const fga_mask *mask = call->args->mask;
    fga_attend_desc desc = meter->desc;
    desc.scale = meter->dense.desc.scale; /* the default's value, if it is that */
    fga_gpu_probe op = {.figures = figures,
                        .samples = (int32_t)meter->samples,
                        .prefix = (int32_t)meter->query.prefix,
                        .video = (int32_t)meter->query.video_valid};
    FGA_TRY(describe(ctx, &desc, call->args, &meter->query, call->key, &op.attend));
    op.attend.block_rows = mask != NULL ? mask->desc.block_m : 1;
    op.attend.blocks = mask != NULL ? (int32_t)mask->blocks : 1;
    return fga_gpu_probe_samples(ctx, &op, desc.dtype, ctx->stream);
}
