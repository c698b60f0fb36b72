/* tuner_solve.c - from measurements at every rung to the cheapest profile that reaches the target. */
#include "video/tuner.h"

#include "base/error.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* One head of one layer and branch: what is set for it. */
typedef struct item {
    int points;
    /* At every rung; the last is dense. */
    double recall[FGV_MAX_RUNGS + 1], error[FGV_MAX_RUNGS + 1]; /* at the target's quantile of the points */
    double average[FGV_MAX_RUNGS + 1]; /* recall: mean of a run, at that quantile of the runs */
    double density[FGV_MAX_RUNGS + 1]; /* mean */
    int rung;
} item;

typedef struct problem {
    const fgv_tuner *t;
    const fgv_tuner_target *target;
    int branches, dense; /* share_branches: 1; the rung that is dense */
    int64_t items;
    item *list;    /* [layers][branches][heads] */
    float *sorted; /* [points] */
} problem;

/* ---- statistics ------------------------------------------------------------------------------------- */

static int rising(const void *a, const void *b)
{
    float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}

/* The smallest value that at least `share` of the values do not exceed; share in [0, 1]. */
static double quantile(float *values, int count, double share)
{
    qsort(values, (size_t)count, sizeof *values, rising);
    int at = (int)ceil(share * count - 1e-9) - 1;
    return values[at < 0 ? 0 : at];
}

static item *item_of(const problem *p, int layer, int branch, int64_t head)
{
    return &p->list[((int64_t)layer * p->branches + (p->branches > 1 ? branch : 0)) * p->t->heads + head];
}

static const fgv_tuner_sample *sample_of(const problem *p, int64_t point, int rung, int64_t head)
{
    return &p->t->points[point].samples[rung * p->t->heads + head];
}

static bool belongs(const problem *p, int64_t point, int layer, int branch)
{
    const fgv_tuner_point *x = &p->t->points[point];
    return x->layer == layer && (p->branches == 1 || x->branch == branch);
}

static int compare_videos(const problem *p, int layer, int branch, int64_t head, int rung, float *means)
{
    int n = 0;
    for (int video = 0; video <= p->t->videos; video++) {
        double sum = 0;
        int points = 0;
        for (int64_t i = 0; i < p->t->count; i++) {
            if (p->t->points[i].video == video && belongs(p, i, layer, branch)) {
                sum += sample_of(p, i, rung, head)->recall;
                points++;
            }
        }
        if (points > 0) {
            means[n++] = (float)(-sum / points); /* the larger, the worse, as an error */
        }
    }
    return n;
}

static void summarise(problem *p, int layer, int branch, int64_t head, int rung)
{
    item *one = item_of(p, layer, branch, head);
    double density = 0, share = p->target->quantile;
    int n = 0;
    for (int64_t i = 0; i < p->t->count; i++) {
        if (belongs(p, i, layer, branch)) {
            p->sorted[n++] = -sample_of(p, i, rung, head)->recall;
            density += sample_of(p, i, rung, head)->density;
        }
    }
    one->points = n;
    if (n == 0) {
        return;
    }
    one->recall[rung] = -quantile(p->sorted, n, share);
    one->density[rung] = density / n;
    n = 0;
    for (int64_t i = 0; i < p->t->count; i++) {
        if (belongs(p, i, layer, branch)) {
            p->sorted[n++] = sample_of(p, i, rung, head)->error;
        }
    }
    one->error[rung] = quantile(p->sorted, n, share);
    n = compare_videos(p, layer, branch, head, rung, p->sorted);
    one->average[rung] = -quantile(p->sorted, n, share);
}

static void summarise_all(problem *p)
{
    for (int layer = 0; layer < p->t->layers; layer++) {
        for (int branch = 0; branch < p->branches; branch++) {
            for (int64_t head = 0; head < p->t->heads; head++) {
                for (int rung = 0; rung < p->dense; rung++) {
                    summarise(p, layer, branch, head, rung);
                }
                item *one = item_of(p, layer, branch, head);
                one->recall[p->dense] = one->average[p->dense] = one->density[p->dense] = 1;
                one->error[p->dense] = 0;
            }
        }
    }
}

/* ---- the choice ------------------------------------------------------------------------------------- */

static bool satisfies(const problem *p, const item *one, int rung)
{
    const fgv_tuner_target *t = p->target;
    return (t->error <= 0 || one->error[rung] <= t->error) && (t->recall <= 0 || one->recall[rung] >= t->recall_floor);
}

/* The cheapest rung from which on every denser one satisfies what is asked of a single head. */
static void start(const problem *p, item *one)
{
    one->rung = p->dense;
    while (one->rung > 0 && satisfies(p, one, one->rung - 1)) {
        one->rung--;
    }
}

/* The rung above the item's own that gains most recall per density; *slope is that gain. */
static int best_step(const problem *p, const item *one, double *slope)
{
    int best = one->rung;
    *slope = -1;
    for (int r = one->rung + 1; r <= p->dense; r++) {
        double gain = one->average[r] - one->average[one->rung], price = one->density[r] - one->density[one->rung];
        double here = gain / (price > 1e-9 ? price : 1e-9);
        if (here > *slope) {
            *slope = here;
            best = r;
        }
    }
    return best;
}

/* Greedy over convex hulls: the least mean density for a mean recall, up to the last step. */
static void raise_recall(const problem *p)
{
    double sum = 0;
    int64_t measured = 0;
    for (int64_t i = 0; i < p->items; i++) {
        sum += p->list[i].points > 0 ? p->list[i].average[p->list[i].rung] : 0;
        measured += p->list[i].points > 0;
    }
    while (sum < p->target->recall * (double)measured - 1e-12) {
        item *next = NULL;
        int rung = 0;
        double most = -1;
        for (int64_t i = 0; i < p->items; i++) {
            double slope;
            int step = p->list[i].points > 0 ? best_step(p, &p->list[i], &slope) : p->list[i].rung;
            if (step > p->list[i].rung && slope > most) {
                most = slope;
                next = &p->list[i];
                rung = step;
            }
        }
        if (next == NULL) { /* all dense */
            return;
        }
        sum += next->average[rung] - next->average[next->rung];
        next->rung = rung;
    }
}

static void choose(const problem *p)
{
    for (int64_t i = 0; i < p->items; i++) {
        if (p->list[i].points > 0) {
            start(p, &p->list[i]);
        }
    }
    if (p->target->recall > 0) {
        raise_recall(p);
    }
}

/* ---- what the choice would have measured ------------------------------------------------------------ */

static fgv_profile_figures judge(const problem *p)
{
    fgv_profile_figures f = {p->t->videos, 0, 1, 0, 0, 0, 0, 0};
    int64_t n = 0;
    for (int64_t i = 0; i < p->t->count; i++) {
        const fgv_tuner_point *x = &p->t->points[i];
        for (int64_t h = 0; h < p->t->heads; h++, n++) {
            const item *one = item_of(p, x->layer, x->branch, h);
            const bool dense = one->rung == p->dense;
            const fgv_tuner_sample whole = {.recall = 1, .density = 1};
            const fgv_tuner_sample *s = dense ? &whole : sample_of(p, i, one->rung, h);
            bool held = (p->target->error <= 0 || s->error <= p->target->error) &&
                        (p->target->recall <= 0 || s->recall >= p->target->recall_floor);
            f.recall_mean += s->recall;
            f.recall_worst = s->recall < f.recall_worst ? s->recall : f.recall_worst;
            f.output_error_mean += s->error;
            f.output_error_worst = s->error > f.output_error_worst ? s->error : f.output_error_worst;
            f.density += s->density;
            f.cost += s->density + s->summaries;
            f.held += held;
        }
    }
    double *const means[] = {&f.recall_mean, &f.output_error_mean, &f.density, &f.cost, &f.held};
    for (size_t i = 0; i < sizeof means / sizeof means[0]; i++) {
        *means[i] /= (double)n;
    }
    return f;
}

/* ---- the choice as text ----------------------------------------------------------------------------- */

/* The rung that most heads have becomes the policy's own. */
static int commonest(const problem *p)
{
    int counts[FGV_MAX_RUNGS + 1] = {0}, best = 0;
    for (int64_t i = 0; i < p->items; i++) {
        counts[p->list[i].rung] += p->list[i].points > 0;
    }
    for (int r = 1; r < p->dense; r++) {
        best = counts[r] > counts[best] ? r : best;
    }
    return best;
}

/* Heads that were never measured keep the policy's own settings. */
static int rung_of(const problem *p, int layer, int branch, int64_t head, int common)
{
    const item *one = item_of(p, layer, branch, head);
    return one->points > 0 ? one->rung : common;
}

/* Whether both layers have one rung for these heads, in this branch or (-1) in all. */
static bool alike(const problem *p, int layer, int branch, int64_t first, int64_t last, int rung, int common)
{
    for (int b = branch < 0 ? 0 : branch; b < (branch < 0 ? p->branches : branch + 1); b++) {
        for (int64_t h = first; h <= last; h++) {
            if (rung_of(p, layer, b, h, common) != rung) {
                return false;
            }
        }
    }
    return true;
}

static void add_override(const problem *p, fgv_profile *profile, const fga_override *where, int rung)
{
    fga_override *o = &profile->overrides[profile->override_count++];
    *o = *where;
    o->head_last = o->head_first == 0 && o->head_last == p->t->heads - 1 ? INT32_MAX : o->head_last;
    snprintf(o->settings, sizeof o->settings, "%s", rung == p->dense ? "dense=true" : p->t->ladder.settings[rung]);
}

/* Stretches of heads of one layer, in one branch or all, that the layer before does not already cover: those are
 * extended there over every following layer that is alike. Every (layer, branch, head) ends up in at most one. */
static void cover(const problem *p, fgv_profile *profile, int branch, bool *done, int common)
{
    int64_t heads = p->t->heads;
    for (int layer = 0; layer < p->t->layers; layer++) {
        for (int64_t h = 0; h < heads; h++) {
            int first_branch = branch < 0 ? 0 : branch;
            int rung = rung_of(p, layer, first_branch, h, common);
            bool *mark = &done[((int64_t)layer * p->branches + first_branch) * heads];
            if (mark[h] || rung == common || !alike(p, layer, branch, h, h, rung, common)) {
                continue;
            }
            int64_t last = h;
            while (last + 1 < heads && !mark[last + 1] && alike(p, layer, branch, last + 1, last + 1, rung, common)) {
                last++;
            }
            int end = layer;
            while (end + 1 < p->t->layers && alike(p, end + 1, branch, h, last, rung, common)) {
                end++;
            }
            for (int l = layer; l <= end; l++) {
                for (int b = first_branch; b < (branch < 0 ? p->branches : branch + 1); b++) {
                    memset(&done[((int64_t)l * p->branches + b) * heads + h], 1, (size_t)(last - h + 1));
                }
            }
            const fga_override where = {layer, end, (int32_t)h, (int32_t)last, branch, ""};
            add_override(p, profile, &where, rung);
        }
    }
}

static fga_status write_down(const problem *p, fgv_profile *profile)
{
    int common = commonest(p);
    fga_policy policy = p->t->options.policy;
    FGA_TRY(fga_policy_set(p->t->ctx, p->t->ladder.settings[common], &policy));
    fga_override *overrides = calloc((size_t)p->items + 1, sizeof *overrides);
    bool *done = calloc((size_t)p->items + 1, sizeof *done);
    if (overrides == NULL || done == NULL) {
        free(overrides);
        free(done);
        return fga_context_fail(p->t->ctx, FGA_ERR_MEMORY, "no memory for a profile");
    }
    free(profile->overrides);
    profile->overrides = overrides;
    profile->override_count = 0;
    profile->policy = policy;
    cover(p, profile, -1, done, common);
    for (int b = 0; p->branches > 1 && b < p->branches; b++) {
        cover(p, profile, b, done, common);
    }
    free(done);
    return FGA_OK;
}

static fga_status check_target(const fgv_tuner *t, const fgv_tuner_target *target)
{
    if (t->count == 0) {
        return fga_context_fail(t->ctx, FGA_ERR_ARGUMENT, "nothing was measured: no step under %s is sparse",
                                t->options.policy.name);
    }
    if (!(target->recall > 0 || target->error > 0) || !(target->recall <= 1) || !(target->quantile >= 0) ||
        !(target->quantile <= 1) || !(target->recall_floor <= 1)) {
        return fga_context_fail(t->ctx, FGA_ERR_ARGUMENT,
                                "target: recall %g, floor %g, error %g, quantile %g; wanted a recall or an error, "
                                "recalls and quantile at most 1",
                                target->recall, target->recall_floor, target->error, target->quantile);
    }
    return FGA_OK;
}

fga_status fgv_tuner_solve(const fgv_tuner *t, const fgv_tuner_target *target, fgv_profile *profile)
{
    FGA_TRY(check_target(t, target));
    problem p = {t, target, t->options.policy.share_branches ? 1 : t->branches, t->ladder.count, 0, NULL, NULL};
    p.items = (int64_t)t->layers * p.branches * t->heads;
    p.list = calloc((size_t)p.items, sizeof *p.list);
    p.sorted = malloc((size_t)t->count * sizeof *p.sorted);
    fga_status status;
    if (p.list == NULL || p.sorted == NULL) {
        status = fga_context_fail(t->ctx, FGA_ERR_MEMORY, "no memory for %lld heads", (long long)p.items);
    } else {
        summarise_all(&p);
        choose(&p);
        status = write_down(&p, profile);
    }
    if (status == FGA_OK) {
        profile->layers = t->layers;
        profile->heads = (int)t->heads;
        profile->head_dim = (int)t->head_dim;
        profile->branches = t->branches;
        profile->target_recall = target->recall;
        profile->recall_floor = target->recall > 0 ? target->recall_floor : 0;
        profile->target_error = target->error;
        profile->quantile = target->quantile;
        profile->tuning = judge(&p);
    }
    free(p.list);
    free(p.sorted);
    return status;
}
