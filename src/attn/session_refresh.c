/* session_refresh.c - new masks for a layer: as dense as its settings say, or denser until a target is met; and when
 * they have aged too much. */
#include "attn/session.h"

#include "attn/policy.h"

#include <limits.h>
#include <math.h>
#include <string.h>

enum {
    ANY_LAYER = FGA_MAX_COUNT, /* see session_call.c */
    MOST_ROUNDS = 40           /* of raising; a head that still misses its target then is dense */
};

/* A target must hold for all queries, but samples are what is known: it is asked of the estimate plus or minus so many
 * of its standard deviations, and more where few queries lose most. */
static const double margin = 2.0;

/* What rounding alone takes off a recall of 1. */
static const double little = 1e-5;

static int64_t head_count(const fga_session *s)
{
    return s->desc.batch * s->desc.query_heads;
}

/* ---- judging a mask --------------------------------------------------------------------------------- */

/* Heads that keep everything are not sampled: they lose nothing. */
static void set_perfect(fga_session *s, int64_t h)
{
    s->quality[h] = (fga_head_quality){.recall = 1};
    s->skip[h] = 1;
}

static fga_status judge(fga_session_call *c, const fga_mask *mask)
{
    fga_session *s = c->session;
    const fga_session_kit *kit = c->slot->kit;
    const fga_policy *p = &kit->policy;
    if (fga_session_on_device(s)) {
        FGA_TRY(fga_session_try_gpu(c));
    }
    double start = fga_session_now();
    fga_attend_args args = c->args;
    args.mask = mask;
    fga_judge_call call = {.args = &args,
                           .attended = c->attended,
                           .recall = p->target_recall > 0 || p->recall_floor > 0 || p->refresh_drop > 0,
                           .error = p->target_error > 0,
                           .skip = s->skip,
                           .heads = s->quality,
                           .key = &s->desc.sequence,
                           .twin = c->twin,
                           .workspace = c->workspace + s->meter_at,
                           .host = s->meter_host};
    FGA_TRY(fga_meter_judge(&kit->meter, &call));
    c->twin = true;
    s->report.measure_s += fga_session_now() - start;
    return FGA_OK;
}

/* What the mean of a skewed quantity may be above its estimate: Johnson 1978, "Modified t Tests and Confidence
 * Intervals for Asymmetrical Populations", solved for the mean. */
static double margin_of(fga_uncertainty off)
{
    return margin * off.deviation + (1 + 2 * margin * margin) / 6 * fmax(off.skew, 0);
}

static double recall_low(const fga_head_quality *q)
{
    return q->recall - margin_of(q->recall_off);
}

static double error_high(const fga_head_quality *q) /* squared */
{
    return q->error_squared + margin_of(q->error_off);
}

static double mean_recall(const fga_session *s)
{
    double sum = 0;
    for (int64_t h = 0; h < head_count(s); h++) {
        sum += s->quality[h].recall;
    }
    return sum / (double)head_count(s);
}

/* The mean over heads, less its own margin: the heads' errors are independent. */
static double mean_recall_low(const fga_session *s)
{
    double squares = 0;
    for (int64_t h = 0; h < head_count(s); h++) {
        double off = margin_of(s->quality[h].recall_off);
        squares += off * off;
    }
    return mean_recall(s) - sqrt(squares) / (double)head_count(s);
}

static double lost(double recall)
{
    return fmax(0, 1 - recall - little);
}

static double share(double got, double allowed)
{
    return got <= 0 ? 0 : allowed > 0 ? got / allowed : INFINITY;
}

/* How much of what the targets allow is used up, by the one that is nearest to its limit: above 1 it is broken. */
static double strain_of(const fga_session *s, const fga_session_slot *slot)
{
    const fga_policy *p = &slot->kit->policy;
    double strain = p->target_recall > 0 ? share(lost(mean_recall_low(s)), 1 - p->target_recall) : 0;
    for (int64_t h = 0; h < head_count(s); h++) {
        const fga_head_quality *q = &s->quality[h];
        if (p->recall_floor > 0) {
            strain = fmax(strain, share(lost(recall_low(q)), 1 - p->recall_floor));
        }
        if (p->target_error > 0) {
            strain = fmax(strain, share(error_high(q), p->target_error * p->target_error));
        }
    }
    return strain;
}

/* The mask that is being made: a device's is made in its place. */
static const fga_mask *new_mask(const fga_session_call *c)
{
    return fga_session_on_device(c->session) ? c->slot->mask : c->slot->kit->scratch;
}

/* ---- raising ---------------------------------------------------------------------------------------- */

static bool misses(const fga_session *s, const fga_policy *p, int64_t h, bool mean_is_low)
{
    const fga_head_quality *q = &s->quality[h];
    return (mean_is_low && lost(recall_low(q)) > 1 - p->target_recall) ||
           (p->recall_floor > 0 && lost(recall_low(q)) > 1 - p->recall_floor) ||
           (p->target_error > 0 && !(error_high(q) <= p->target_error * p->target_error));
}

/* A quarter more: of the tiles, or of what a selection by other numbers lets through. Static masks have nothing to
 * raise. */
static void raise_head(const fga_policy *p, int64_t tiles, fga_head_setting *head)
{
    if (fga_policy_by_density(p)) {
        int64_t kept = fga_max(1, fga_round_count(head->density * (double)tiles));
        kept = fga_max(kept + 1, (5 * kept + 3) / 4);
        head->dense = kept >= tiles;
        head->density = (double)kept / (double)tiles;
    } else if (p->select == FGA_SELECT_TOPP) {
        head->tau = 1 - (1 - head->tau) / 1.25;
    } else if (p->select == FGA_SELECT_THRESHOLD) {
        head->threshold /= 1.25;
    } else if (p->select == FGA_SELECT_ADAPTIVE) {
        head->tau -= 0.25;
    } else {
        head->dense = true;
    }
}

/* Raises every head that misses a target; false when none does. Only those need another look, unless heads compete for
 * one budget. */
static bool raise_heads(fga_session_call *c, int round)
{
    fga_session *s = c->session;
    const fga_session_kit *kit = c->slot->kit;
    const fga_policy *p = &kit->policy;
    bool mean_is_low = p->target_recall > 0 && lost(mean_recall_low(s)) > 1 - p->target_recall, raised = false;
    for (int64_t h = 0; h < head_count(s); h++) {
        bool again = !s->heads[h].dense && misses(s, p, h, mean_is_low);
        if (again) {
            raise_head(p, new_mask(c)->live_tiles, &s->heads[h]);
            s->heads[h].dense |= round >= MOST_ROUNDS;
        }
        s->skip[h] = !again && p->select != FGA_SELECT_BUDGET;
        if (s->heads[h].dense) {
            set_perfect(s, h);
        }
        raised |= again;
    }
    return raised;
}

/* ---- a refresh -------------------------------------------------------------------------------------- */

/* The least density that holds the recall by the pooled estimate; measuring raises it where that was too hopeful. */
static fga_status estimate(fga_session_call *c)
{
    fga_session *s = c->session;
    const fga_session_kit *kit = c->slot->kit;
    fga_selector selector = fga_selector_make(&kit->policy, kit->scratch);
    FGA_TRY(fga_estimator_run(&kit->estimator, &(fga_estimate_call){.q = &c->args.q,
                                                                    .k = &c->args.k,
                                                                    .selector = &selector,
                                                                    .recall = kit->policy.target_recall,
                                                                    .counts = s->counts,
                                                                    .workspace = c->workspace}));
    int64_t tiles = kit->scratch->live_tiles;
    for (int64_t h = 0; h < head_count(s); h++) {
        s->heads[h].density = (double)s->counts[h] / (double)tiles;
        s->heads[h].dense |= s->counts[h] >= tiles;
    }
    return FGA_OK;
}

static fga_status make(fga_session_call *c, bool again)
{
    const fga_session_kit *kit = c->slot->kit;
    if (fga_session_on_device(c->session)) {
        return fga_session_select_gpu(c); /* scores once more: they are gone, since attention used their place */
    }
    return fga_refresh_run(&kit->refresh, &(fga_refresh_call){.args = &c->args,
                                                              .heads = c->session->heads,
                                                              .step = c->step,
                                                              .layer = c->layer,
                                                              .branch = c->branch,
                                                              .again = again,
                                                              .workspace = c->workspace,
                                                              .mask = kit->scratch});
}

/* Looks at the new mask on samples, and raises heads until its targets are met. */
static fga_status hold(fga_session_call *c)
{
    fga_session *s = c->session;
    const fga_session_kit *kit = c->slot->kit;
    for (int64_t h = 0; h < head_count(s); h++) {
        s->skip[h] = 0;
        if (s->heads[h].dense) {
            set_perfect(s, h);
        }
    }
    FGA_TRY(judge(c, new_mask(c)));
    for (int round = 0; kit->targets && raise_heads(c, round); round++) {
        FGA_TRY(make(c, true));
        FGA_TRY(judge(c, new_mask(c)));
    }
    return FGA_OK;
}

static fga_status store(fga_session_call *c)
{
    fga_session_report *report = &c->session->report;
    fga_session_slot *slot = c->slot;
    if (fga_session_on_device(c->session)) {
        slot->refreshed = c->step;
        return FGA_OK;
    }
    size_t before = slot->mask != NULL ? fga_mask_bytes(slot->mask) : 0;
    FGA_TRY(fga_mask_store(c->session->ctx, slot->kit->scratch, &slot->mask));
    report->mask_bytes += fga_mask_bytes(slot->mask) - before;
    report->mask_bytes_peak =
        report->mask_bytes > report->mask_bytes_peak ? report->mask_bytes : report->mask_bytes_peak;
    slot->refreshed = c->step;
    return FGA_OK;
}

/* Targets are looked at again one step later, drift alone after two: over one step it is mostly noise. */
static void start_watch(const fga_session_call *c)
{
    const fga_session *s = c->session;
    fga_session_slot *slot = c->slot;
    bool all_dense = true;
    for (int64_t h = 0; h < head_count(s); h++) {
        all_dense = all_dense && s->heads[h].dense;
    }
    slot->recall = mean_recall(s);
    slot->strain = strain_of(s, slot);
    slot->looked = c->step;
    slot->look = all_dense ? INT_MAX : c->step + (slot->kit->targets ? 1 : 2);
}

fga_status fga_session_refresh(fga_session_call *c)
{
    fga_session *s = c->session;
    const fga_session_kit *kit = c->slot->kit;
    const fga_policy *p = &kit->policy;
    int owner = s->desc.policy.share_branches ? 0 : c->branch;
    double density = 1;
    fga_policy_step(p, c->step, s->steps, ANY_LAYER, &density);
    FGA_TRY(fga_settings_heads(&s->settings, c->layer, owner, density, s->heads));
    int64_t dense = 0;
    for (int64_t h = 0; h < head_count(s); h++) {
        dense += s->heads[h].dense;
    }
    bool watched = kit->meter.samples > 0 && (kit->targets || p->refresh_drop > 0);
    if (fga_session_on_device(s)) {
        FGA_TRY(fga_session_own_mask_gpu(c));
    } else if (watched && p->target_recall > 0 && fga_policy_by_density(p)) {
        FGA_TRY(estimate(c));
    }
    FGA_TRY(make(c, false));
    if (watched) {
        FGA_TRY(hold(c));
    }
    FGA_TRY(store(c));
    if (watched) {
        start_watch(c);
    }
    for (int64_t h = 0; h < head_count(s); h++) {
        dense -= s->heads[h].dense;
    }
    s->report.heads_made_dense -= dense;
    return FGA_OK;
}

/* ---- staleness -------------------------------------------------------------------------------------- */

fga_status fga_session_is_stale(fga_session_call *c, bool *stale)
{
    fga_session *s = c->session;
    fga_session_slot *slot = c->slot;
    for (int64_t h = 0; h < head_count(s); h++) {
        s->skip[h] = 0;
        if (!fga_session_on_device(s) && fga_mask_head_density(slot->mask, h) >= 1) {
            set_perfect(s, h);
        }
    }
    FGA_TRY(judge(c, slot->mask));
    double strain = strain_of(s, slot), drop = slot->kit->policy.refresh_drop;
    if (drop > 0) {
        strain = fmax(strain, share(slot->recall - mean_recall(s), drop));
    }
    /* Ages double between looks, or half of what is left passes at the rate of late, whichever comes first. */
    int ahead = (int)fga_max(1, c->step - slot->refreshed);
    double rate = (strain - slot->strain) / fmax(1, c->step - slot->looked);
    if (rate > 0) {
        ahead = (int)fmax(1, fmin(ahead, (1 - strain) / rate / 2));
    }
    slot->strain = strain;
    slot->looked = c->step;
    slot->look = c->step + ahead;
    *stale = !(strain <= 1);
    return FGA_OK;
}
