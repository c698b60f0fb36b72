/* tuner.c - a policy at every rung of a ladder of densities, side by side on what a generation attends to. */
#include "video/tuner.h"

#include "base/error.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MOST_LAYERS = 4096, MOST_BRANCHES = 2 };

/* ---- the ladder ------------------------------------------------------------------------------------- */

static const char *const densities[] = {"0.02", "0.025", "0.032", "0.04", "0.05", "0.063", "0.08", "0.1", "0.125",
                                        "0.16", "0.2",   "0.25",  "0.32", "0.4",  "0.5",   "0.63", "0.8", NULL};
static const char *const masses[] = {"0.2", "0.3",  "0.4",  "0.5",  "0.6",  "0.7",  "0.75",  "0.8",   "0.85",
                                     "0.9", "0.93", "0.95", "0.97", "0.98", "0.99", "0.995", "0.999", NULL};
static const char *const deviations[] = {"4",    "3.5", "3",    "2.5", "2",     "1.75", "1.5", "1.25", "1",
                                         "0.75", "0.5", "0.25", "0",   "-0.25", "-0.5", "-1",  "-2",   NULL};
static const char *const thresholds[] = {"16",  "11",  "8",    "5.6",  "4",    "2.8",  "2",    "1.4",  "1",
                                         "0.7", "0.5", "0.35", "0.25", "0.18", "0.12", "0.06", "0.03", NULL};

static fga_status choose_ladder(fga_context *ctx, const fga_policy *policy, fgv_ladder *ladder)
{
    const char *const *values = NULL;
    switch (policy->select) {
    case FGA_SELECT_TOPK:
    case FGA_SELECT_BUDGET:
    case FGA_SELECT_FRAMES:
        values = densities;
        ladder->key = "density";
        break;
    case FGA_SELECT_TOPP:
        values = masses;
        ladder->key = "tau";
        break;
    case FGA_SELECT_ADAPTIVE:
        values = deviations;
        ladder->key = "tau";
        break;
    case FGA_SELECT_THRESHOLD:
        values = thresholds;
        ladder->key = "threshold";
        break;
    case FGA_SELECT_ALL:
    case FGA_SELECT_WINDOW:
    case FGA_SELECT_RADIAL:
    case FGA_SELECT_CUSTOM:
        break;
    }
    if (values == NULL || policy->phases == 0) {
        return fga_context_fail(ctx, FGA_ERR_UNSUPPORTED,
                                "%s cannot be tuned: what it keeps does not go by a number that every head could have",
                                policy->name);
    }
    for (ladder->count = 0; values[ladder->count] != NULL; ladder->count++) {
        snprintf(ladder->settings[ladder->count], FGV_RUNG_TEXT, "%s=%s", ladder->key, values[ladder->count]);
    }
    return FGA_OK;
}

/* ---- life ------------------------------------------------------------------------------------------- */

fgv_tuner_options fgv_tuner_options_default(void)
{
    fgv_tuner_options options = {.size = sizeof options, .timetable = true, .measure_fraction = 0.1};
    fga_policy_parse(NULL, "dense", &options.policy);
    return options;
}

fga_status fgv_tuner_create(fga_context *ctx, const fgv_tuner_options *options, fgv_tuner **out)
{
    *out = NULL;
    if (options->size != sizeof *options) {
        return fga_context_fail(ctx, FGA_ERR_ARGUMENT, "fgv_tuner_options: %zu bytes, wanted %zu", options->size,
                                sizeof *options);
    }
    if (!(options->measure_fraction > 0)) {
        return fga_context_fail(ctx, FGA_ERR_ARGUMENT, "measure_fraction is %g, wanted above 0: tuning is measuring",
                                options->measure_fraction);
    }
    fgv_tuner *tuner = calloc(1, sizeof *tuner);
    if (tuner == NULL) {
        return fga_context_fail(ctx, FGA_ERR_MEMORY, "no memory for a tuner");
    }
    tuner->ctx = ctx;
    tuner->options = *options;
    fga_policy *policy = &tuner->options.policy;
    policy->target_recall = policy->recall_floor = policy->target_error = policy->refresh_drop = 0;
    fga_status status = choose_ladder(ctx, policy, &tuner->ladder);
    if (status != FGA_OK) {
        fgv_tuner_destroy(&tuner);
    }
    *out = tuner;
    return status;
}

static void end_sessions(fgv_tuner *t)
{
    for (int r = 0; r < FGV_MAX_RUNGS; r++) {
        fga_session_destroy(&t->sessions[r]);
    }
}

void fgv_tuner_destroy(fgv_tuner **handle)
{
    if (handle == NULL || *handle == NULL) {
        return;
    }
    fgv_tuner *t = *handle;
    end_sessions(t);
    for (int64_t i = 0; i < t->count; i++) {
        free(t->points[i].samples);
    }
    free(t->points);
    free(t->order);
    free(t->places);
    free(t->memory);
    free(t->workspace);
    free(t);
    *handle = NULL;
}

int64_t fgv_tuner_points(const fgv_tuner *tuner)
{
    return tuner->count;
}

/* ---- shapes ----------------------------------------------------------------------------------------- */

static size_t tensor_bytes(const fgv_tuner *t)
{
    return (size_t)(t->tokens * t->heads * t->head_dim) * fga_dtype_size(t->dtype);
}

/* The first capture says what all are like. */
static fga_status take_shape(fgv_tuner *t, const fgv_capture *c)
{
    t->frames = c->frames, t->height = c->height, t->width = c->width;
    t->tokens = (int64_t)c->frames * c->height * c->width;
    t->heads = c->q.extent[1];
    t->head_dim = c->q.extent[3];
    t->dtype = c->q.dtype;
    t->layers = c->layers;
    t->order = malloc((size_t)t->tokens * sizeof *t->order);
    t->places = malloc((size_t)t->tokens * sizeof *t->places);
    t->memory = malloc(4 * tensor_bytes(t));
    fga_status status = FGA_OK;
    if (t->order == NULL || t->places == NULL || t->memory == NULL) {
        FGA_CHECK(fga_context_fail(t->ctx, FGA_ERR_MEMORY, "no memory to tune on %lld tokens", (long long)t->tokens));
    }
    FGA_CHECK(fga_order_build(t->ctx, t->options.policy.order, t->frames, t->height, t->width, t->order));
    return FGA_OK;
cleanup: /* as before: the next capture may be smaller */
    free(t->order);
    free(t->places);
    free(t->memory);
    t->order = t->places = NULL;
    t->memory = NULL;
    t->tokens = 0;
    return status;
}

static fga_status check_capture(const fgv_tuner *t, const fgv_capture *c)
{
    int64_t heads = c->q.extent[1];
    if (c->layer < 0 || c->layer >= MOST_LAYERS || c->branch < 0 || c->branch >= MOST_BRANCHES) {
        return fga_context_fail(t->ctx, FGA_ERR_ARGUMENT, "a capture of layer %d, branch %d", c->layer, c->branch);
    }
    if (t->options.timetable && (c->layers < 1 || c->steps < 1)) {
        return fga_context_fail(t->ctx, FGA_ERR_ARGUMENT, "a capture that does not say of how many layers and steps");
    }
    double usual = 1 / sqrt((double)c->q.extent[3]);
    if (fabs(c->scale - usual) > 1e-3 * usual) {
        return fga_context_fail(t->ctx, FGA_ERR_UNSUPPORTED, "a capture with scale %g, wanted head_dim^-0.5 = %g",
                                (double)c->scale, usual);
    }
    if (c->k.extent[1] != heads) {
        return fga_context_fail(t->ctx, FGA_ERR_UNSUPPORTED, "%lld query heads share %lld of keys: not tuned here",
                                (long long)heads, (long long)c->k.extent[1]);
    }
    if (t->tokens > 0 && (t->frames != c->frames || t->height != c->height || t->width != c->width ||
                          t->heads != heads || t->head_dim != c->q.extent[3] || t->dtype != c->q.dtype)) {
        return fga_context_fail(t->ctx, FGA_ERR_ARGUMENT,
                                "captures of %dx%dx%d tokens, %lld heads of %lld %s, wanted %dx%dx%d, %lld of %lld %s "
                                "as before",
                                c->frames, c->height, c->width, (long long)heads, (long long)c->q.extent[3],
                                fga_dtype_name(c->q.dtype), t->frames, t->height, t->width, (long long)t->heads,
                                (long long)t->head_dim, fga_dtype_name(t->dtype));
    }
    return FGA_OK;
}

/* ---- sessions --------------------------------------------------------------------------------------- */

static void note(void *user, const fga_measured *m)
{
    fgv_tuner *t = user;
    fgv_tuner_sample *samples = t->points[t->count].samples + (int64_t)t->rung * t->heads;
    double mean = 0;
    for (int64_t h = 0; h < t->heads; h++) {
        mean += m->density[h] / (double)t->heads;
    }
    for (int64_t h = 0; h < t->heads; h++) {
        samples[h] = (fgv_tuner_sample){m->recall[h], m->error[h], (float)m->density[h], (float)(m->cost - mean)};
    }
    t->measured = true;
}

static fga_status make_session(fgv_tuner *t, int rung, size_t *workspace)
{
    fga_session_desc d = fga_session_desc_default();
    d.policy = t->options.policy;
    FGA_TRY(fga_policy_set(t->ctx, t->ladder.settings[rung], &d.policy));
    /* Without a timetable there is one slot, and every capture refreshes it. */
    d.layers = t->options.timetable ? t->layers : 1;
    d.branches = t->options.timetable ? MOST_BRANCHES : 1;
    if (!t->options.timetable) { /* every capture is a run of its own, of one step */
        d.policy.dense_layers = 0;
        d.policy.phases = 1;
        d.policy.phase[0].numerator = 0;
        d.policy.phase[0].denominator = 1;
    }
    d.query_heads = d.kv_heads = t->heads;
    d.head_dim = t->head_dim;
    d.dtype = t->dtype;
    d.sequence = fga_sequence_video(t->tokens);
    d.frames = t->frames, d.height = t->height, d.width = t->width;
    d.measure_fraction = t->options.measure_fraction;
    d.on_measure = note;
    d.user = t;
    FGA_TRY(fga_session_create(t->ctx, &d, &t->sessions[rung]));
    size_t bytes = fga_session_workspace(t->sessions[rung]);
    *workspace = bytes > *workspace ? bytes : *workspace;
    return FGA_OK;
}

static fga_status make_sessions(fgv_tuner *t)
{
    size_t bytes = 64;
    for (int r = 0; r < t->ladder.count; r++) {
        FGA_TRY(make_session(t, r, &bytes));
    }
    free(t->workspace);
    t->workspace = aligned_alloc(64, (bytes + 63) / 64 * 64);
    return t->workspace != NULL ? FGA_OK : fga_context_fail(t->ctx, FGA_ERR_MEMORY, "no memory to attend");
}

fga_status fgv_tuner_begin(fgv_tuner *t)
{
    end_sessions(t);
    t->videos++;
    return FGA_OK;
}

/* ---- one capture ------------------------------------------------------------------------------------ */

typedef struct ordering {
    const fgv_tuner *t;
    const fgv_capture *c;
} ordering;

/* Row `item` of the policy's order, [token][head][channel]. */
static void put_in_order(void *arg, int64_t item, int worker)
{
    (void)worker;
    const ordering *o = arg;
    const fgv_tuner *t = o->t;
    const fga_tensor *in[3] = {&o->c->q, &o->c->k, &o->c->v};
    size_t element = fga_dtype_size(t->dtype), head_bytes = (size_t)t->head_dim * element;
    for (size_t i = 0; i < 3; i++) {
        char *out = t->memory + i * tensor_bytes(t) + (size_t)(item * t->heads) * head_bytes;
        int64_t from = t->places[t->order[item]];
        for (int64_t h = 0; h < t->heads; h++) {
            memcpy(out + (size_t)h * head_bytes,
                   (const char *)in[i]->data + (size_t)(h * in[i]->stride[1] + from * in[i]->stride[2]) * element,
                   head_bytes);
        }
    }
}

static bool is_wanted(const fgv_tuner *t, const fgv_capture *c)
{
    if (!t->options.timetable) {
        return true;
    }
    const fga_policy *p = &t->options.policy;
    fga_step_kind kind = fga_policy_step(p, c->step, c->steps, c->layer, NULL);
    bool last = c->step + 1 == c->steps || fga_policy_step(p, c->step + 1, c->steps, c->layer, NULL) != FGA_STEP_REUSE;
    return kind == FGA_STEP_REFRESH || (kind == FGA_STEP_REUSE && last);
}

static fga_status make_room(fgv_tuner *t)
{
    if (t->count == t->capacity) {
        int64_t capacity = t->capacity > 0 ? 2 * t->capacity : 256;
        fgv_tuner_point *points = realloc(t->points, (size_t)capacity * sizeof *points);
        if (points == NULL) {
            return fga_context_fail(t->ctx, FGA_ERR_MEMORY, "no memory for %lld measurements", (long long)capacity);
        }
        t->points = points;
        t->capacity = capacity;
    }
    t->points[t->count].samples = calloc((size_t)(t->ladder.count * t->heads), sizeof(fgv_tuner_sample));
    return t->points[t->count].samples != NULL
               ? FGA_OK
               : fga_context_fail(t->ctx, FGA_ERR_MEMORY, "no memory for another measurement");
}

static fga_status attend(fgv_tuner *t, const fgv_capture *c, const fga_attend_args *args)
{
    bool whole = t->options.timetable;
    t->measured = true;
    for (int r = 0; r < t->ladder.count && t->measured; r++) {
        t->rung = r;
        t->measured = false;
        FGA_TRY(fga_session_attend(t->sessions[r], whole ? c->step : 0, whole ? c->steps : 1, whole ? c->layer : 0,
                                   whole ? c->branch : 0, args, t->workspace, NULL));
    }
    return FGA_OK;
}

fga_status fgv_tuner_add(fgv_tuner *t, const fgv_capture *c)
{
    FGA_TRY(check_capture(t, c));
    if (!is_wanted(t, c)) {
        return FGA_OK;
    }
    if (t->order == NULL) {
        FGA_TRY(take_shape(t, c));
    }
    if (t->sessions[0] == NULL) {
        FGA_TRY(make_sessions(t));
    }
    for (int64_t i = 0; i < t->tokens; i++) {
        t->places[c->order != NULL ? c->order[i] : i] = (int32_t)i;
    }
    ordering o = {t, c};
    fga_parallel_for(t->ctx, t->tokens, put_in_order, &o);
    fga_attend_args args = fga_attend_args_default();
    fga_tensor *out[4] = {&args.q, &args.k, &args.v, &args.o};
    for (size_t i = 0; i < 4; i++) {
        *out[i] = fga_tensor_bshd(t->memory + i * tensor_bytes(t), t->dtype, 1, t->tokens, t->heads, t->head_dim);
    }
    FGA_TRY(make_room(t));
    fgv_tuner_point *point = &t->points[t->count];
    fga_status status = attend(t, c, &args);
    if (status != FGA_OK || !t->measured) {
        free(point->samples);
        return status;
    }
    point->layer = c->layer;
    point->branch = c->branch;
    point->video = t->videos;
    t->layers = c->layer >= t->layers ? c->layer + 1 : t->layers;
    t->branches = c->branch >= t->branches ? c->branch + 1 : t->branches;
    t->count++;
    return FGA_OK;
}
