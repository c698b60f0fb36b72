/* session.c - what lives across denoising steps: masks per (layer, guidance branch), and a report of what ran. */
#include "attn/measure.h"
#include "attn/policy.h"
#include "attn/refresh.h"

#include "base/context.h"

#include <math.h>
#include <string.h>
#include <time.h>

typedef struct slot {
    fga_mask *mask; /* NULL where (layer, branch) never gets one */
    int refreshed;  /* the step that made it; -1: none has */
} slot;

struct fga_session {
    fga_context *ctx;
    fga_session_desc desc;
    int steps; /* of this generation, from its first call; 0 before */
    bool sparse;
    fga_attend_plan dense_plan, sparse_plan;
    fga_refresh_plan refresh;
    fga_head_setting *heads; /* [batch*query_heads] */
    fga_meter meter;
    size_t attend_bytes, lse_bytes, workspace_bytes; /* workspace: attend or score, lse, measure */
    slot *slots;                                     /* [layers][branches] */
    fga_session_report report;
    double recall_sum, p05_sum, error_sum; /* over measured calls */
};

fga_session_desc fga_session_desc_default(void)
{
    return (fga_session_desc){
        .size = sizeof(fga_session_desc), .layers = 1, .branches = 1, .batch = 1, .measure_fraction = 0.02};
}

/* ---- making ---------------------------------------------------------------------------------------- */

static fga_status check_desc(fga_context *ctx, const fga_session_desc *d)
{
    FGA_TRY(fga_check_struct(ctx, "fga_session_desc", d->size, sizeof *d));
    FGA_TRY(fga_policy_check(ctx, &d->policy));
    FGA_TRY(fga_check_range(ctx, "layers", d->layers, 1, 1 << 20));
    FGA_TRY(fga_check_range(ctx, "branches", d->branches, 1, 1 << 10));
    FGA_TRY(fga_check_sequence(ctx, "sequence", &d->sequence));
    if (!(d->measure_fraction >= 0)) {
        return fga_context_fail(ctx, FGA_ERR_ARGUMENT, "measure_fraction is %g, wanted at least 0",
                                d->measure_fraction);
    }
    return FGA_OK;
}

static bool can_measure(const fga_session *s)
{
    return s->sparse && s->desc.measure_fraction > 0 && s->desc.sequence.video_valid > 0;
}

/* Plans for both kinds of attention, for scoring and for measuring, and one workspace that serves each in turn. */
static fga_status make_plans(fga_session *s)
{
    const fga_session_desc *d = &s->desc;
    const fga_policy *policy = &d->policy;
    fga_attend_desc attend = fga_attend_desc_default();
    attend.batch = d->batch;
    attend.query_heads = d->query_heads;
    attend.kv_heads = d->kv_heads;
    attend.head_dim = d->head_dim;
    attend.query_len = attend.key_len = fga_sequence_length(&d->sequence);
    attend.dtype = d->dtype;
    FGA_TRY(fga_attend_plan_init(s->ctx, &attend, &s->dense_plan));
    s->attend_bytes = s->dense_plan.workspace_bytes;
    s->report.variant = fga_attend_plan_variant(&s->dense_plan);
    if (s->sparse) {
        attend.block_m = policy->block_m;
        attend.tile_n = policy->tile_n;
        FGA_TRY(fga_attend_plan_init(s->ctx, &attend, &s->sparse_plan));
        fga_predict_desc predict = fga_predict_desc_default();
        predict.batch = d->batch;
        predict.query_heads = d->query_heads;
        predict.kv_heads = d->kv_heads;
        predict.head_dim = d->head_dim;
        predict.dtype = d->dtype;
        predict.query = predict.key = d->sequence;
        const int64_t grid[3] = {d->frames, d->height, d->width};
        FGA_TRY(fga_refresh_init(s->ctx, policy, &predict, grid, false, &s->refresh));
        s->attend_bytes =
            s->attend_bytes > s->sparse_plan.workspace_bytes ? s->attend_bytes : s->sparse_plan.workspace_bytes;
        s->attend_bytes = s->attend_bytes > s->refresh.workspace_bytes ? s->attend_bytes : s->refresh.workspace_bytes;
    }
    bool fits = true;
    if (can_measure(s)) {
        FGA_TRY(fga_meter_init(s->ctx, &attend, &d->sequence, d->measure_fraction, &s->meter));
        fits = fga_size_add(&s->lse_bytes, d->batch * d->query_heads * attend.query_len, sizeof(float));
    }
    s->workspace_bytes = s->attend_bytes;
    fits = fits && fga_size_add(&s->workspace_bytes, 1, s->lse_bytes) &&
           fga_size_add(&s->workspace_bytes, 1, s->meter.workspace_bytes);
    return fits ? FGA_OK : fga_context_fail(s->ctx, FGA_ERR_UNSUPPORTED, "the session's workspace is too large");
}

static fga_status make_mask(const fga_session *s, fga_mask **mask)
{
    const fga_session_desc *d = &s->desc;
    fga_mask_desc m = fga_mask_desc_default();
    m.batch = d->batch;
    m.heads = d->query_heads;
    m.block_m = d->policy.block_m;
    m.tile_n = d->policy.tile_n;
    m.query = m.key = d->sequence;
    return fga_mask_create(s->ctx, &m, FGA_MASK_BITMAP, mask);
}

static fga_status make_masks(fga_session *s)
{
    int64_t count = (int64_t)s->desc.layers * s->desc.branches;
    s->slots = fga_alloc(s->ctx, (size_t)count * sizeof *s->slots);
    if (s->slots == NULL) {
        return fga_context_fail(s->ctx, FGA_ERR_MEMORY, "no memory for a session");
    }
    for (int64_t i = 0; i < count; i++) {
        s->slots[i] = (slot){NULL, -1};
    }
    s->heads = fga_alloc(s->ctx, (size_t)(s->desc.batch * s->desc.query_heads) * sizeof *s->heads);
    if (s->heads == NULL) {
        return fga_context_fail(s->ctx, FGA_ERR_MEMORY, "no memory for a session");
    }
    for (int64_t i = 0; s->sparse && i < count; i++) {
        bool own = !s->desc.policy.share_branches || i % s->desc.branches == 0;
        if (own && i / s->desc.branches >= s->desc.policy.dense_layers) {
            FGA_TRY(make_mask(s, &s->slots[i].mask));
            s->report.mask_bytes += fga_mask_bytes(s->slots[i].mask);
        }
    }
    s->report.mask_bytes_peak = s->report.mask_bytes;
    return FGA_OK;
}

fga_status fga_session_create(fga_context *ctx, const fga_session_desc *desc, fga_session **out)
{
    if (ctx == NULL || desc == NULL || out == NULL) {
        return fga_context_fail(ctx, FGA_ERR_ARGUMENT, "%s is NULL",
                                ctx == NULL    ? "ctx"
                                : desc == NULL ? "desc"
                                               : "session");
    }
    *out = NULL;
    FGA_TRY(check_desc(ctx, desc));
    fga_session *session = fga_alloc(ctx, sizeof *session);
    if (session == NULL) {
        return fga_context_fail(ctx, FGA_ERR_MEMORY, "no memory for a session");
    }
    *session = (fga_session){.ctx = ctx, .desc = *desc, .sparse = desc->policy.phases > 0};
    fga_status status;
    FGA_CHECK(make_plans(session));
    FGA_CHECK(make_masks(session));
    *out = session;
    session = NULL;
cleanup:
    fga_session_destroy(&session);
    return status;
}

void fga_session_destroy(fga_session **handle)
{
    if (handle == NULL || *handle == NULL) {
        return;
    }
    fga_session *s = *handle;
    for (int64_t i = 0; s->slots != NULL && i < (int64_t)s->desc.layers * s->desc.branches; i++) {
        fga_mask_release(&s->slots[i].mask);
    }
    fga_free(s->ctx, s->slots);
    fga_free(s->ctx, s->heads);
    fga_free(s->ctx, s);
    *handle = NULL;
}

size_t fga_session_workspace(const fga_session *session)
{
    return session->workspace_bytes;
}

/* ---- attending ------------------------------------------------------------------------------------- */

typedef struct call {
    fga_session *session;
    int step, layer, branch;
    const fga_attend_args *args;
    char *workspace;
} call;

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static slot *slot_of(const fga_session *s, int layer, int branch)
{
    return &s->slots[(int64_t)layer * s->desc.branches + (s->desc.policy.share_branches ? 0 : branch)];
}

static fga_status check_call(fga_session *s, const call *c, int steps)
{
    FGA_TRY(fga_check_range(s->ctx, "steps", steps, 1, 1 << 20));
    FGA_TRY(fga_check_range(s->ctx, "step", c->step, 0, steps - 1));
    FGA_TRY(fga_check_range(s->ctx, "layer", c->layer, 0, s->desc.layers - 1));
    FGA_TRY(fga_check_range(s->ctx, "branch", c->branch, 0, s->desc.branches - 1));
    if (s->steps != 0 && s->steps != steps) {
        return fga_context_fail(s->ctx, FGA_ERR_ARGUMENT,
                                "steps is %d, wanted %d as before: a session is for one generation", steps, s->steps);
    }
    FGA_TRY(fga_check_struct(s->ctx, "fga_attend_args", c->args->size, sizeof *c->args));
    if (c->args->mask != NULL || c->args->lse != NULL) {
        return fga_context_fail(s->ctx, FGA_ERR_ARGUMENT, "args->%s is set, wanted NULL: the session brings its own",
                                c->args->mask != NULL ? "mask" : "lse");
    }
    return fga_check_workspace(s->ctx, c->workspace, s->workspace_bytes);
}

/* Reuse needs a mask of the newest refresh or later. Without one - the caller began late, or skipped the refresh - the
 * step refreshes. With shared branches, the first branch to come to a refresh step refreshes for all. */
static fga_step_kind decide(const call *c)
{
    const fga_session *s = c->session;
    const fga_policy *policy = &s->desc.policy;
    int due = fga_policy_refresh_step(policy, c->step, s->steps, c->layer);
    if (due < 0) {
        return FGA_STEP_DENSE;
    }
    int made = slot_of(s, c->layer, c->branch)->refreshed;
    bool fresh = made >= due && made <= c->step;
    bool refreshes_here = due == c->step && !(policy->share_branches && c->branch > 0);
    return fresh && !refreshes_here ? FGA_STEP_REUSE : FGA_STEP_REFRESH;
}

static fga_status refresh(const call *c, slot *own, double density)
{
    fga_session *s = c->session;
    if (atomic_load_explicit(&own->mask->references, memory_order_acquire) > 1) {
        fga_mask *mask; /* somebody retained the old one: leave it to them */
        FGA_TRY(make_mask(s, &mask));
        fga_mask_release(&own->mask);
        own->mask = mask;
    }
    own->refreshed = -1;
    const fga_policy *policy = &s->desc.policy;
    for (int64_t h = 0; h < s->refresh.heads; h++) {
        s->heads[h] = (fga_head_setting){density, policy->tau, policy->threshold, policy->neighbours, false};
    }
    const fga_refresh_call wanted = {.args = c->args,
                                     .heads = s->heads,
                                     .step = c->step,
                                     .layer = c->layer,
                                     .branch = c->branch,
                                     .workspace = c->workspace,
                                     .mask = own->mask};
    FGA_TRY(fga_refresh_run(&s->refresh, &wanted));
    own->refreshed = c->step;
    return FGA_OK;
}

/* The freshest mask and the most aged one: the steps between lie between. */
static bool is_measured(const call *c)
{
    const fga_session *s = c->session;
    const fga_policy *policy = &s->desc.policy;
    return can_measure(s) && (fga_policy_step(policy, c->step, s->steps, c->layer, NULL) == FGA_STEP_REFRESH ||
                              fga_policy_mask_ends(policy, c->step, s->steps, c->layer));
}

static fga_status measure(const call *c, const fga_attend_args *attend)
{
    fga_session *s = c->session;
    fga_session_report *report = &s->report;
    fga_measure_args args = fga_measure_args_default();
    args.attend = *attend;
    fga_quality q;
    double start = now();
    FGA_TRY(fga_meter_run(&s->meter, &args, &s->desc.sequence, c->workspace + s->attend_bytes + s->lse_bytes, &q));
    bool first = report->measured_calls++ == 0;
    s->recall_sum += q.recall;
    s->p05_sum += q.recall_p05;
    s->error_sum += q.output_error;
    report->recall_worst = first || q.recall_worst < report->recall_worst ? q.recall_worst : report->recall_worst;
    report->output_error_worst =
        first || q.output_error > report->output_error_worst ? q.output_error : report->output_error_worst;
    report->measure_s += now() - start;
    return FGA_OK;
}

static fga_status attend(const call *c, const fga_mask *mask, fga_step_kind kind)
{
    fga_session *s = c->session;
    fga_session_report *report = &s->report;
    fga_attend_args args = *c->args;
    fga_pairs pairs;
    bool measured = mask != NULL && is_measured(c);
    args.mask = mask;
    args.lse = measured ? (float *)(c->workspace + s->attend_bytes) : NULL;
    double start = now();
    FGA_TRY(fga_attend_execute(mask != NULL ? &s->sparse_plan : &s->dense_plan,
                               &(fga_attend_call){&args, &s->desc.sequence, &s->desc.sequence, c->workspace, &pairs}));
    report->attend_s += now() - start;
    report->pairs_total += pairs.all;
    report->pairs_kept += pairs.kept;
    report->sparse_total += mask != NULL ? pairs.all : 0;
    report->sparse_kept += mask != NULL ? pairs.kept : 0;
    report->calls_dense += kind == FGA_STEP_DENSE;
    report->calls_refresh += kind == FGA_STEP_REFRESH;
    report->calls_reuse += kind == FGA_STEP_REUSE;
    return measured ? measure(c, &args) : FGA_OK;
}

fga_status fga_session_attend(fga_session *s, int step, int steps, int layer, int branch, const fga_attend_args *args,
                              void *workspace, fga_step_kind *kind)
{
    if (s == NULL || args == NULL) {
        return fga_context_fail(s != NULL ? s->ctx : NULL, FGA_ERR_ARGUMENT, "%s is NULL",
                                s == NULL ? "session" : "args");
    }
    call c = {s, step, layer, branch, args, workspace};
    FGA_TRY(check_call(s, &c, steps));
    s->steps = steps;
    fga_step_kind decided = decide(&c);
    fga_mask *mask = NULL;
    if (decided != FGA_STEP_DENSE) {
        slot *own = slot_of(s, layer, branch);
        if (decided == FGA_STEP_REFRESH) {
            double density, start = now();
            fga_policy_step(&s->desc.policy, step, steps, layer, &density);
            FGA_TRY(refresh(&c, own, density));
            s->report.score_s += now() - start;
        }
        mask = own->mask;
    }
    FGA_TRY(attend(&c, mask, decided));
    if (kind != NULL) {
        *kind = decided;
    }
    return FGA_OK;
}

const fga_mask *fga_session_mask(const fga_session *s, int layer, int branch)
{
    if (layer < 0 || layer >= s->desc.layers || branch < 0 || branch >= s->desc.branches) {
        return NULL;
    }
    const slot *own = slot_of(s, layer, branch);
    return own->refreshed >= 0 ? own->mask : NULL;
}

fga_session_report fga_session_get_report(const fga_session *s)
{
    fga_session_report report = s->report;
    double measured = report.measured_calls > 0 ? (double)report.measured_calls : NAN;
    report.recall_mean = s->recall_sum / measured;
    report.recall_p05 = s->p05_sum / measured;
    report.output_error_mean = s->error_sum / measured;
    if (report.measured_calls == 0) {
        report.recall_worst = report.output_error_worst = NAN;
    }
    return report;
}
