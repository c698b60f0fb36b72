/* refresh.c - one refresh of a layer: scores of every row, and what each row keeps of them. */
#include "attn/refresh.h"

#include "attn/policy.h"

#include <inttypes.h>
#include <math.h>

/* ---- plan ----------------------------------------------------------------------------------------- */

static bool needs_scores(const fga_policy *policy)
{
    switch (policy->select) {
    case FGA_SELECT_TOPK:
    case FGA_SELECT_TOPP:
    case FGA_SELECT_THRESHOLD:
    case FGA_SELECT_ADAPTIVE:
    case FGA_SELECT_BUDGET:
        return true;
    case FGA_SELECT_ALL:
    case FGA_SELECT_WINDOW:
    case FGA_SELECT_RADIAL:
    case FGA_SELECT_FRAMES:
    case FGA_SELECT_CUSTOM:
        break;
    }
    return false;
}

static bool needs_places(const fga_policy *policy)
{
    return policy->select == FGA_SELECT_WINDOW || policy->select == FGA_SELECT_RADIAL ||
           policy->select == FGA_SELECT_FRAMES;
}

static fga_status check_places(fga_context *ctx, const fga_policy *policy, const fga_predict_desc *d,
                               const int64_t grid[3])
{
    int64_t cells = grid[0] > 0 && grid[1] > 0 && grid[2] > 0 ? grid[0] : 0;
    bool fits = !__builtin_mul_overflow(cells, grid[1], &cells) && !__builtin_mul_overflow(cells, grid[2], &cells);
    if (!fits || cells != d->key.video_valid || cells != d->query.video_valid || d->key.prefix != d->query.prefix) {
        return fga_context_fail(ctx, FGA_ERR_ARGUMENT,
                                "select is %s and the video %" PRId64 " x %" PRId64 " x %" PRId64
                                " tokens, wanted frames x height x width = its %" PRId64 " valid tokens",
                                fga_select_name(policy->select), grid[0], grid[1], grid[2], d->key.video_valid);
    }
    return FGA_OK;
}

/* What selecting takes beside the scores. */
static bool add_selection(const fga_refresh_plan *plan, const fga_predict_desc *d, size_t *bytes)
{
    fga_context *ctx = plan->ctx;
    switch (plan->policy.select) {
    case FGA_SELECT_TOPP:
        return fga_size_add(bytes, fga_context_threads(ctx), plan->scratch_bytes);
    case FGA_SELECT_BUDGET:
        return fga_budget_bytes(ctx, plan->heads * plan->blocks, bytes);
    case FGA_SELECT_WINDOW:
    case FGA_SELECT_RADIAL:
        return fga_places_bytes(ctx, d, bytes);
    case FGA_SELECT_FRAMES:
        return fga_frames_bytes(ctx, d, bytes);
    case FGA_SELECT_CUSTOM:
        return fga_custom_bytes(ctx, plan->tiles, bytes);
    default:
        return true;
    }
}

fga_predict_desc fga_refresh_describe(const fga_predict_desc *predict, const fga_policy *policy)
{
    fga_predict_desc d = *predict;
    d.block_m = policy->block_m;
    d.tile_n = policy->tile_n;
    d.sub_q = policy->sub_q;
    d.sub_k = policy->sub_k;
    d.score = policy->score;
    d.group = policy->group;
    d.gate_q = policy->gate_q;
    d.gate_k = policy->gate_k;
    d.zero_pad = policy->zero_pad;
    return d;
}

fga_status fga_refresh_init(fga_context *ctx, const fga_policy *policy, const fga_predict_desc *predict,
                            const int64_t grid[3], bool keep_scores, fga_refresh_plan *plan)
{
    fga_predict_desc d = fga_refresh_describe(predict, policy);
    bool scores = needs_scores(policy), fits = true;
    *plan = (fga_refresh_plan){.ctx = ctx,
                               .policy = *policy,
                               .grid = {grid[0], grid[1], grid[2]},
                               .heads = d.batch * d.query_heads,
                               .blocks = fga_predict_blocks(&d),
                               .tiles = fga_predict_tiles(&d),
                               .scale = d.scale != 0 ? d.scale : 1.0f / sqrtf((float)d.head_dim),
                               .keep_scores = scores && (keep_scores || policy->select == FGA_SELECT_BUDGET)};
    if (needs_places(policy)) {
        FGA_TRY(check_places(ctx, policy, &d, grid));
    }
    if (scores) {
        FGA_TRY(fga_scorer_init(ctx, &d, &plan->scorer));
        plan->scorer.raw_logits = policy->select == FGA_SELECT_ADAPTIVE;
        plan->scorer.full_covariance = policy->full_covariance;
        plan->workspace_bytes = plan->scorer.workspace_bytes;
    }
    plan->scores_at = plan->moments_at = plan->workspace_bytes;
    int64_t rows = plan->heads * plan->blocks, count; /* both at most 2^30 in what follows the scorer's checks */
    if (plan->keep_scores) {
        fits = !__builtin_mul_overflow(rows, plan->tiles, &count) &&
               fga_size_add(&plan->workspace_bytes, count, sizeof(float));
        plan->moments_at = plan->workspace_bytes;
        fits = fits && fga_size_add(&plan->workspace_bytes, rows, 2 * sizeof(float));
    }
    plan->out_at = plan->workspace_bytes;
    fits = fits && fga_out_bytes(&d, &plan->workspace_bytes);
    plan->scratch_at = plan->workspace_bytes;
    plan->scratch_bytes = fga_selector_scratch(policy, plan->tiles);
    if (!fits || !add_selection(plan, &d, &plan->workspace_bytes)) {
        return fga_context_fail(ctx, FGA_ERR_UNSUPPORTED,
                                "select is %s, for which %" PRId64 " blocks x %" PRId64 " tiles are too many",
                                fga_select_name(policy->select), rows, plan->tiles);
    }
    return FGA_OK;
}

/* ---- run ------------------------------------------------------------------------------------------ */

typedef struct run {
    const fga_refresh_plan *plan;
    const fga_refresh_call *call;
    fga_selector selector;
    float *moments; /* [rows][2]: mean and spread, or NULL where scores are not kept */
} run;

const float *fga_refresh_scores(const fga_refresh_plan *plan, const void *workspace, int64_t row)
{
    return (const float *)((const char *)workspace + plan->scores_at) + row * plan->tiles;
}

/* Tiles that are out come after every other by their score; NaN, wherever sums skip them. */
static void mark_out(const run *r, const fga_scored_row *row)
{
    const uint64_t *out = fga_selector_out(&r->selector, row->row);
    float *scores = (float *)row->scores; /* the worker's, or in the workspace: nobody else's */
    for (int64_t v = 0; out != NULL && v < r->plan->tiles; v++) {
        scores[v] = (out[v / 64] >> (v % 64) & 1) != 0 ? NAN : scores[v];
    }
}

static void select_row(const run *r, const fga_scored_row *row)
{
    char *scratch = (char *)r->call->workspace + r->plan->scratch_at + (size_t)row->worker * r->plan->scratch_bytes;
    fga_selector_row(&r->selector, &r->call->heads[row->row / r->plan->blocks], row, scratch);
}

static void take_row(void *arg, const fga_scored_row *row)
{
    const run *r = arg;
    if (r->moments != NULL) {
        r->moments[2 * row->row] = row->mean;
        r->moments[2 * row->row + 1] = row->spread;
    }
    mark_out(r, row);
    if (r->plan->policy.select != FGA_SELECT_BUDGET) {
        select_row(r, row);
    }
}

static void take_again(void *arg, int64_t row, int worker)
{
    const run *r = arg;
    const fga_scored_row scored = {.row = row,
                                   .worker = worker,
                                   .scores = fga_refresh_scores(r->plan, r->call->workspace, row),
                                   .mean = r->moments[2 * row],
                                   .spread = r->moments[2 * row + 1]};
    select_row(r, &scored);
}

static void keep_all(void *arg, int64_t row, int worker)
{
    const run *r = arg;
    fga_selector_row(&r->selector, NULL, &(fga_scored_row){.row = row, .worker = worker}, NULL);
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

static fga_status select_by_scores(run *r)
{
    if (!r->call->again) {
        return score(r);
    }
    if (r->plan->policy.select != FGA_SELECT_BUDGET) {
        fga_parallel_for(r->plan->ctx, r->call->mask->rows, take_again, r);
    }
    return FGA_OK;
}

fga_status fga_refresh_run(const fga_refresh_plan *plan, const fga_refresh_call *call)
{
    run r = {.plan = plan, .call = call, .selector = fga_selector_make(&plan->policy, call->mask)};
    fga_selector_find_out(&r.selector, call->args, (char *)call->workspace + plan->out_at);
    if (plan->keep_scores) {
        r.moments = (float *)((char *)call->workspace + plan->moments_at);
    }
    const fga_select_call all = {.ctx = plan->ctx,
                                 .selector = &r.selector,
                                 .heads = call->heads,
                                 .args = call->args,
                                 .at = {.step = call->step, .layer = call->layer, .branch = call->branch},
                                 .scores = fga_refresh_scores(plan, call->workspace, 0),
                                 .grid = {plan->grid[0], plan->grid[1], plan->grid[2]},
                                 .scale = plan->scale,
                                 .workspace = (char *)call->workspace + plan->scratch_at};
    if (needs_scores(&plan->policy)) {
        r.selector.ops = &plan->scorer.ops;
        FGA_TRY(select_by_scores(&r));
    }
    switch (plan->policy.select) {
    case FGA_SELECT_ALL:
        fga_parallel_for(plan->ctx, call->mask->rows, keep_all, &r);
        break;
    case FGA_SELECT_BUDGET:
        fga_select_budget(&all);
        break;
    case FGA_SELECT_WINDOW:
    case FGA_SELECT_RADIAL:
        fga_select_places(&all);
        break;
    case FGA_SELECT_FRAMES:
        fga_select_frames(&all);
        break;
    case FGA_SELECT_CUSTOM:
        fga_select_custom(&all);
        break;
    case FGA_SELECT_TOPK:
    case FGA_SELECT_TOPP:
    case FGA_SELECT_THRESHOLD:
    case FGA_SELECT_ADAPTIVE:
        break;
    }
    fga_mask_seal(call->mask);
    return FGA_OK;
}
