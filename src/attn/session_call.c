/* session_call.c - one attention call: what the step is, with which mask, and what it cost. */
#include "attn/session.h"

#include "attn/policy.h"
#include "base/context.h"

#include <limits.h>
#include <math.h>
#include <time.h>

/* Which layers are dense is settled when slots get their kits; the timetable is asked as if none were. */
enum { ANY_LAYER = FGA_MAX_COUNT };

double fga_session_now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static fga_status check_call(fga_session *s, const fga_session_call *c, int steps)
{
    FGA_TRY(fga_check_range(s->ctx, "steps", steps, 1, 1 << 20));
    FGA_TRY(fga_check_range(s->ctx, "step", c->step, 0, steps - 1));
    FGA_TRY(fga_check_range(s->ctx, "layer", c->layer, 0, s->desc.layers - 1));
    FGA_TRY(fga_check_range(s->ctx, "branch", c->branch, 0, s->desc.branches - 1));
    if (s->steps != 0 && s->steps != steps) {
        return fga_context_fail(s->ctx, FGA_ERR_ARGUMENT,
                                "steps is %d, wanted %d as before: a session is for one generation", steps, s->steps);
    }
    if (c->args.mask != NULL || c->args.lse != NULL || c->args.remainder != NULL) {
        return fga_context_fail(s->ctx, FGA_ERR_ARGUMENT, "args->%s is set, wanted NULL: the session brings its own",
                                c->args.mask != NULL  ? "mask"
                                : c->args.lse != NULL ? "lse"
                                                      : "remainder");
    }
    FGA_TRY(fga_check_attend_args(s->ctx, &s->dense.desc, &c->args));
    return fga_check_workspace(s->ctx, c->workspace, s->workspace_bytes);
}

/* Reuse needs a mask of the newest refresh or later. Without one - the caller began late, or skipped the refresh - the
 * step refreshes. With shared branches, the first branch to come to a refresh step refreshes for all. */
static fga_step_kind decide(const fga_session_call *c)
{
    const fga_session *s = c->session;
    const fga_session_slot *slot = c->slot;
    int due = slot->kit != NULL ? fga_policy_refresh_step(&slot->kit->policy, c->step, s->steps, ANY_LAYER) : -1;
    if (due < 0) {
        return FGA_STEP_DENSE;
    }
    bool fresh = slot->mask != NULL && slot->refreshed >= due && slot->refreshed <= c->step;
    bool refreshes_here = due == c->step && !(s->desc.policy.share_branches && c->branch > 0);
    return fresh && !refreshes_here ? FGA_STEP_REUSE : FGA_STEP_REFRESH;
}

/* The freshest mask and the most aged one: the steps between lie between. */
static bool is_measured(const fga_session_call *c, fga_step_kind kind)
{
    const fga_session *s = c->session;
    const fga_session_kit *kit = c->slot->kit;
    if (kind == FGA_STEP_DENSE || s->desc.measure_fraction == 0 || kit->meter.samples == 0) {
        return false;
    }
    return fga_policy_step(&kit->policy, c->step, s->steps, ANY_LAYER, NULL) == FGA_STEP_REFRESH ||
           fga_policy_mask_ends(&kit->policy, c->step, s->steps, ANY_LAYER);
}

bool fga_session_looks(const fga_session_call *c)
{
    const fga_session_slot *slot = c->slot;
    bool watched = slot->kit->targets || slot->kit->policy.refresh_drop > 0;
    if (!watched || slot->kit->meter.samples == 0 || slot->look == INT_MAX) {
        return false;
    }
    return c->step >= slot->look ||
           (c->step > slot->looked && fga_policy_mask_ends(&slot->kit->policy, c->step, c->session->steps, ANY_LAYER));
}

/* ---- measuring -------------------------------------------------------------------------------------- */

static void tell(const fga_session_call *c, fga_step_kind kind, const fga_pairs *pairs)
{
    fga_session *s = c->session;
    if (s->desc.on_measure == NULL) {
        return;
    }
    bool counted = !fga_session_on_device(s); /* there the device alone knows the mask */
    for (int64_t h = 0; h < s->desc.batch * s->desc.query_heads; h++) {
        s->recall[h] = (float)s->quality[h].recall;
        s->error[h] = (float)sqrt(s->quality[h].error_squared);
        s->density[h] = counted ? fga_mask_head_density(c->slot->mask, h) : NAN;
    }
    s->desc.on_measure(s->desc.user,
                       &(fga_measured){.step = c->step,
                                       .layer = c->layer,
                                       .branch = c->branch,
                                       .kind = kind,
                                       .recall = s->recall,
                                       .error = s->error,
                                       .density = s->density,
                                       .cost = !counted         ? NAN
                                               : pairs->all > 0 ? (pairs->kept + pairs->summaries) / pairs->all
                                                                : 0});
}

static fga_status measure(fga_session_call *c, fga_step_kind kind, const fga_pairs *pairs)
{
    fga_session *s = c->session;
    fga_session_report *report = &s->report;
    const fga_meter *meter = &c->slot->kit->meter;
    fga_quality q;
    double start = fga_session_now();
    const fga_judge_call call = {.args = &c->args,
                                 .attended = true,
                                 .recall = true,
                                 .error = true,
                                 .heads = s->quality,
                                 .key = &s->desc.sequence,
                                 .twin = c->twin,
                                 .workspace = c->workspace + s->meter_at,
                                 .host = s->meter_host};
    FGA_TRY(fga_meter_judge(meter, &call));
    c->twin = true;
    fga_meter_summarise(meter, s->quality, &call, &q);
    bool first = report->measured_calls++ == 0;
    s->recall_sum += q.recall;
    s->p05_sum += q.recall_p05;
    s->error_sum += q.output_error;
    report->recall_worst = first || q.recall_worst < report->recall_worst ? q.recall_worst : report->recall_worst;
    report->output_error_worst =
        first || q.output_error > report->output_error_worst ? q.output_error : report->output_error_worst;
    report->measure_s += fga_session_now() - start;
    tell(c, kind, pairs);
    return FGA_OK;
}

/* ---- attending -------------------------------------------------------------------------------------- */

/* Sums for the summaries, before anything attends under a mask. */
static fga_status prepare(fga_session_call *c)
{
    fga_session *s = c->session;
    const fga_session_kit *kit = c->slot->kit;
    if (kit->policy.rest != FGA_REST_REMAINDER) {
        return FGA_OK;
    }
    size_t bytes;
    double start = fga_session_now();
    FGA_TRY(fga_remainder_place(s->ctx, &kit->attend.desc, kit->policy.group, c->workspace + s->sums_at, &bytes,
                                &c->remainder));
    FGA_TRY(fga_remainder_fill(s->ctx, &kit->attend.desc, &c->args, &s->desc.sequence, &c->remainder));
    c->args.remainder = &c->remainder;
    s->report.attend_s += fga_session_now() - start;
    return FGA_OK;
}

static fga_status refresh(fga_session_call *c)
{
    fga_session_report *report = &c->session->report;
    double start = fga_session_now(), other = report->measure_s + report->attend_s;
    FGA_TRY(fga_session_refresh(c));
    report->score_s += fga_session_now() - start - (report->measure_s + report->attend_s - other);
    return FGA_OK;
}

static void count(fga_session_report *report, fga_step_kind kind, const fga_pairs *pairs)
{
    report->pairs_total += pairs->all;
    report->pairs_kept += pairs->kept;
    if (kind != FGA_STEP_DENSE) {
        report->sparse_total += pairs->all;
        report->sparse_kept += pairs->kept;
        report->sparse_summaries += pairs->summaries;
    }
    report->calls_dense += kind == FGA_STEP_DENSE;
    report->calls_refresh += kind == FGA_STEP_REFRESH;
    report->calls_reuse += kind == FGA_STEP_REUSE;
}

static fga_status attend(fga_session_call *c, fga_step_kind kind)
{
    fga_session *s = c->session;
    fga_pairs pairs = {0};
    bool measured = is_measured(c, kind);
    if (fga_session_on_device(s)) {
        FGA_TRY(fga_session_attend_gpu(c, kind));
        return measured ? measure(c, kind, &pairs) : FGA_OK;
    }
    c->args.mask = kind != FGA_STEP_DENSE ? c->slot->mask : NULL;
    c->args.lse = measured && c->args.remainder == NULL ? (float *)(c->workspace + s->lse_at) : NULL;
    double start = fga_session_now();
    fga_attend_call call = {.args = &c->args,
                            .query = &s->desc.sequence,
                            .key = &s->desc.sequence,
                            .workspace = c->workspace,
                            .pairs = &pairs};
    FGA_TRY(fga_attend_execute(kind != FGA_STEP_DENSE ? &c->slot->kit->attend : &s->dense, &call));
    s->report.attend_s += fga_session_now() - start;
    count(&s->report, kind, &pairs);
    return measured ? measure(c, kind, &pairs) : FGA_OK;
}

fga_status fga_session_attend(fga_session *s, int step, int steps, int layer, int branch, const fga_attend_args *args,
                              void *workspace, fga_step_kind *kind)
{
    if (s == NULL || args == NULL) {
        return fga_context_fail(s != NULL ? s->ctx : NULL, FGA_ERR_ARGUMENT, "%s is NULL",
                                s == NULL ? "session" : "args");
    }
    fga_session_call c = {
        .session = s, .step = step, .layer = layer, .branch = branch, .args = *args, .workspace = workspace};
    FGA_TRY(check_call(s, &c, steps));
    c.slot = fga_session_slot_of(s, layer, branch);
    if (fga_session_on_device(s)) {
        FGA_TRY(fga_session_check_call_gpu(&c));
    }
    s->steps = steps;
    fga_step_kind decided = decide(&c);
    if (decided != FGA_STEP_DENSE) {
        FGA_TRY(prepare(&c));
        bool stale = false;
        if (decided == FGA_STEP_REUSE && fga_session_looks(&c)) {
            FGA_TRY(fga_session_is_stale(&c, &stale));
            s->report.refreshes_early += stale;
        }
        decided = stale ? FGA_STEP_REFRESH : decided;
        if (decided == FGA_STEP_REFRESH) {
            FGA_TRY(refresh(&c));
        }
    }
    FGA_TRY(attend(&c, decided));
    if (kind != NULL) {
        *kind = decided;
    }
    return FGA_OK;
}
