/* policies.c - what policies keep of one attention, and what that costs. */
#include "inspect/inspect.h"

#include "attn/policy.h"
#include "attn/refresh.h"
#include "base/context.h"

#include <string.h>

/* Scores that a run of neighbouring policies may keep, so that they are computed once. */
#define KEPT_SCORE_BYTES ((size_t)1 << 30)

/* The refresh of a run of policies that share their scores. */
typedef struct refreshing {
    fga_inspect *in;
    fga_refresh_plan plan;
    fga_head_setting *heads;
    fga_mask *full; /* of all queries */
    void *workspace;
} refreshing;

static double density_of(const fga_policy *p)
{
    return p->phases > 0 ? p->phase[p->phases - 1].density : 1.0;
}

/* Whether b selects from the scores that a selects from: only how much is kept differs. */
static bool share_scores(const fga_policy *a, const fga_policy *b)
{
    bool from_scores = a->select != FGA_SELECT_CUSTOM && a->select != FGA_SELECT_WINDOW &&
                       a->select != FGA_SELECT_RADIAL && a->select != FGA_SELECT_FRAMES;
    return from_scores && a->select == b->select && a->order == b->order && a->block_m == b->block_m &&
           a->tile_n == b->tile_n && a->sub_q == b->sub_q && a->sub_k == b->sub_k && a->score == b->score &&
           a->custom == b->custom && a->custom_user == b->custom_user && a->group == b->group &&
           a->gate_q == b->gate_q && a->gate_k == b->gate_k && a->full_covariance == b->full_covariance &&
           a->zero_pad == b->zero_pad;
}

static fga_predict_desc predict_desc(const fga_inspect *in)
{
    fga_predict_desc desc = fga_predict_desc_default();
    desc.batch = 1;
    desc.query_heads = in->query_heads;
    desc.kv_heads = in->kv_heads;
    desc.head_dim = in->head_dim;
    desc.dtype = FGA_F32;
    desc.query = desc.key = fga_sequence_video(in->tokens);
    desc.scale = in->scale;
    return desc;
}

static void end_refreshing(refreshing *r)
{
    fga_free(r->in->ctx, r->heads);
    fga_free(r->in->ctx, r->workspace);
    fga_mask_release(&r->full);
    r->heads = NULL;
    r->workspace = NULL;
}

static fga_status begin_refreshing(refreshing *r, const fga_policy *policy, bool shared)
{
    fga_inspect *in = r->in;
    end_refreshing(r);
    fga_predict_desc predict = predict_desc(in);
    const int64_t grid[3] = {in->desc.frames, in->desc.height, in->desc.width};
    FGA_TRY(fga_refresh_init(in->ctx, policy, &predict, grid, shared, &r->plan));
    if (shared && r->plan.workspace_bytes > KEPT_SCORE_BYTES) {
        FGA_TRY(fga_refresh_init(in->ctx, policy, &predict, grid, false, &r->plan));
    }
    FGA_TRY(fga_inspect_alloc(in, (int64_t)r->plan.workspace_bytes, 1, &r->workspace));
    FGA_TRY(fga_inspect_alloc(in, in->query_heads, sizeof *r->heads, &r->heads));
    fga_mask_desc desc = fga_mask_desc_default();
    desc.batch = 1;
    desc.heads = in->query_heads;
    desc.block_m = policy->block_m;
    desc.tile_n = policy->tile_n;
    desc.query = desc.key = fga_sequence_video(in->tokens);
    return fga_mask_create(in->ctx, &desc, FGA_MASK_BITMAP, &r->full);
}

static fga_status refresh(refreshing *r, const fga_policy *policy, bool again)
{
    fga_inspect *in = r->in;
    for (int64_t h = 0; h < in->query_heads; h++) {
        r->heads[h] = (fga_head_setting){.density = density_of(policy),
                                         .tau = policy->tau,
                                         .threshold = policy->threshold,
                                         .neighbours = policy->neighbours};
    }
    fga_attend_args args = fga_attend_args_default();
    args.q = fga_tensor_bhsd(in->q, FGA_F32, 1, in->query_heads, in->tokens, in->head_dim);
    args.k = fga_tensor_bhsd(in->k, FGA_F32, 1, in->kv_heads, in->tokens, in->head_dim);
    args.v = fga_tensor_bhsd(in->v, FGA_F32, 1, in->kv_heads, in->tokens, in->head_dim);
    memset(r->full->bits, 0, (size_t)(r->full->rows * r->full->words) * sizeof *r->full->bits);
    r->plan.policy = *policy; /* what the scores do not depend on may have changed */
    fga_refresh_call call = {
        .args = &args, .heads = r->heads, .again = again, .workspace = r->workspace, .mask = r->full};
    return fga_refresh_run(&r->plan, &call);
}

/* The rows of the full mask that belong to sampled queries. */
static fga_status cut_out(refreshing *r, fga_mask **cut)
{
    fga_inspect *in = r->in;
    const fga_mask *full = r->full;
    int64_t m = full->desc.block_m;
    FGA_TRY(fga_inspect_make_mask(in, full->desc.block_m, full->desc.tile_n, cut));
    int64_t to = 0;
    for (int64_t head = 0; head < in->query_heads; head++) {
        for (int64_t unit = 0; unit < in->sample.units; unit++) {
            int64_t first = fga_sample_start(in, unit) / m, count = fga_ceil_div(fga_sample_rows(in, unit), m);
            for (int64_t u = first; u < first + count; u++, to++) {
                memcpy(fga_mask_bits(*cut, to), fga_mask_bits(full, fga_mask_row(full, 0, head, u)),
                       (size_t)full->words * sizeof *full->bits);
                fga_mask_seal_row(*cut, to);
            }
        }
    }
    fga_mask_seal(*cut);
    return FGA_OK;
}

static fga_status judge(refreshing *r, const fga_policy *policy, fga_inspect_point *point)
{
    fga_mask *cut = NULL;
    FGA_TRY(cut_out(r, &cut));
    fga_status status = fga_inspect_judge(r->in, cut, policy->rest == FGA_REST_REMAINDER ? policy->group : 0, point);
    fga_mask_release(&cut);
    return status;
}

static fga_status check_call(fga_inspect *in, const void *list, int count, const fga_inspect_point *points)
{
    if (in == NULL || list == NULL || points == NULL) {
        return fga_context_fail(in != NULL ? in->ctx : NULL, FGA_ERR_ARGUMENT, "%s is NULL",
                                in == NULL     ? "inspect"
                                : list == NULL ? "the list"
                                               : "points");
    }
    return fga_check_range(in->ctx, "count", count, 0, 1 << 20);
}

fga_status fga_inspect_policies(fga_inspect *in, const fga_policy *policies, int count, fga_inspect_point *points)
{
    FGA_TRY(check_call(in, policies, count, points));
    fga_status status = FGA_OK;
    refreshing r = {.in = in};
    for (int i = 0; i < count; i++) {
        const fga_policy *p = &policies[i];
        FGA_CHECK(fga_policy_check(in->ctx, p));
        FGA_CHECK(fga_inspect_arrange(in, p->order, fga_inspect_unit_of(p->block_m)));
        bool next = i + 1 < count && share_scores(p, p + 1);
        bool again = i > 0 && share_scores(p - 1, p) && r.plan.keep_scores;
        if (!again) {
            FGA_CHECK(begin_refreshing(&r, p, next));
        }
        FGA_CHECK(refresh(&r, p, again));
        FGA_CHECK(judge(&r, p, &points[i]));
        FGA_CHECK(fga_inspect_go_on(in));
    }
cleanup:
    end_refreshing(&r);
    return status;
}
