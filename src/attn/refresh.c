/* refresh.c - one refresh of a layer: scores of every row, and what each row keeps of them. */
#include "attn/refresh.h"

#include <inttypes.h>

static bool needs_scores(const fga_policy *policy)
{
    return policy->select == FGA_SELECT_TOPK;
}

fga_status fga_refresh_init(fga_context *ctx, const fga_policy *policy, const fga_predict_desc *predict,
                            const int64_t grid[3], bool keep_scores, fga_refresh_plan *plan)
{
    fga_predict_desc desc = *predict;
    desc.block_m = policy->block_m;
    desc.tile_n = policy->tile_n;
    desc.sub_q = policy->sub_q;
    desc.sub_k = policy->sub_k;
    desc.score = policy->score;
    desc.group = policy->group;
    desc.gate_q = policy->gate_q;
    desc.gate_k = policy->gate_k;
    desc.zero_pad = policy->zero_pad;
    *plan = (fga_refresh_plan){.ctx = ctx,
                               .policy = *policy,
                               .grid = {grid[0], grid[1], grid[2]},
                               .heads = desc.batch * desc.query_heads,
                               .blocks = fga_predict_blocks(&desc),
                               .tiles = fga_predict_tiles(&desc),
                               .keep_scores = keep_scores && needs_scores(policy)};
    bool fits = true;
    if (needs_scores(policy)) {
        FGA_TRY(fga_scorer_init(ctx, &desc, &plan->scorer));
        plan->scores_at = plan->workspace_bytes = plan->scorer.workspace_bytes;
    }
    if (plan->keep_scores) {
        int64_t rows = plan->heads * plan->blocks, count; /* rows fit: the scorer has checked heads and lengths */
        fits = !__builtin_mul_overflow(rows, plan->tiles, &count) &&
               fga_size_add(&plan->workspace_bytes, count, sizeof(float));
    }
    return fits ? FGA_OK
                : fga_context_fail(ctx, FGA_ERR_UNSUPPORTED,
                                   "the scores of %" PRId64 " blocks x %" PRId64 " tiles are too many to keep",
                                   plan->blocks, plan->tiles);
}

const float *fga_refresh_scores(const fga_refresh_plan *plan, const void *workspace, int64_t row)
{
    return (const float *)((const char *)workspace + plan->scores_at) + row * plan->tiles;
}

/* ---- run ------------------------------------------------------------------------------------------ */

typedef struct run {
    const fga_refresh_plan *plan;
    const fga_refresh_call *call;
    fga_selector selector;
} run;

static const fga_head_setting *setting_of(const run *r, int64_t row)
{
    return &r->call->heads[row / r->plan->blocks];
}

static void take_row(void *arg, const fga_scored_row *row)
{
    const run *r = arg;
    fga_selector_row(&r->selector, setting_of(r, row->row), row->row, row->scores);
}

static void select_again(void *arg, int64_t row, int worker)
{
    (void)worker;
    const run *r = arg;
    fga_selector_row(&r->selector, setting_of(r, row), row, fga_refresh_scores(r->plan, r->call->workspace, row));
}

static void keep_all(void *arg, int64_t row, int worker)
{
    (void)worker;
    const run *r = arg;
    static const fga_head_setting dense = {.dense = true};
    fga_selector_row(&r->selector, &dense, row, NULL);
}

static fga_status score(run *r)
{
    const fga_refresh_plan *plan = r->plan;
    const fga_refresh_call *call = r->call;
    const fga_policy *policy = &plan->policy;
    fga_score_call c = {.q = &call->args->q,
                        .k = &call->args->k,
                        .v = &call->args->v,
                        .take = take_row,
                        .arg = r,
                        .workspace = call->workspace,
                        .step = call->step,
                        .layer = call->layer,
                        .branch = call->branch};
    if (plan->keep_scores) {
        c.scores = (float *)((char *)call->workspace + plan->scores_at);
    }
    if (policy->score == FGA_SCORE_CUSTOM) {
        c.custom = policy->custom;
        c.custom_user = policy->custom_user;
    }
    return fga_scorer_run(&plan->scorer, &c);
}

fga_status fga_refresh_run(const fga_refresh_plan *plan, const fga_refresh_call *call)
{
    run r = {plan, call, fga_selector_make(&plan->policy, call->mask)};
    if (!needs_scores(&plan->policy)) {
        fga_parallel_for(plan->ctx, call->mask->rows, keep_all, &r);
    } else if (call->again) {
        fga_parallel_for(plan->ctx, call->mask->rows, select_again, &r);
    } else {
        FGA_TRY(score(&r));
    }
    fga_mask_seal(call->mask);
    return FGA_OK;
}
