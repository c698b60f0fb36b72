#include "study.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

const fga_order study_orders[STUDY_ORDERS] = {FGA_ORDER_RASTER, FGA_ORDER_HILBERT, FGA_ORDER_MORTON};
const char *const study_order_names[STUDY_ORDERS] = {"raster", "Hilbert", "Morton"};

/* ---- what to compute ----------------------------------------------------------------------------- */

static const double swept_densities[STUDY_SETTINGS] = {0.05, 0.1, 0.2, 0.3, 0.5};

static void add_bests(study *s)
{
    static const fga_inspect_best_desc bests[STUDY_BESTS] = {
        {FGA_ORDER_HILBERT, 128, 128, FGA_REST_DROP, 0},
        {FGA_ORDER_HILBERT, 64, 64, FGA_REST_DROP, 0},
        {FGA_ORDER_HILBERT, 128, 1, FGA_REST_DROP, 0},
        {FGA_ORDER_HILBERT, 128, 1, FGA_REST_REMAINDER, 64},
    };
    static const char *const names[STUDY_BESTS] = {"best possible 128 x 128", "best possible 64 x 64",
                                                   "best possible 128 x 1", "best possible 128 x 1 + summaries"};
    for (int i = 0; i < STUDY_BESTS; i++) {
        study_line *line = &s->lines[s->line_count++];
        *line = (study_line){.best = true, .what = bests[i], .steered_by = "density", .count = STUDY_SETTINGS};
        snprintf(line->name, sizeof line->name, "%s", names[i]);
        for (int p = 0; p < STUDY_SETTINGS; p++) {
            /* Summaries take 1/64 of the pairs: with them fewer keys cost the same. */
            line->density[p] = swept_densities[p] - (bests[i].rest == FGA_REST_REMAINDER ? 1.0 / 64 : 0);
            snprintf(line->setting[p], sizeof line->setting[p], "density=%.3g", line->density[p]);
        }
    }
}

/* The p-th setting of what steers the policy; false when nothing does. */
static bool steer(fga_policy *policy, int p, const char **name, char *text, size_t bytes)
{
    static const double taus[STUDY_SETTINGS] = {0.5, 0.7, 0.8, 0.9, 0.95},
                        deviations[STUDY_SETTINGS] = {2, 1.5, 1, 0.5, 0};
    static const double thresholds[STUDY_SETTINGS] = {64, 32, 16, 8, 0.5},
                        widths[STUDY_SETTINGS] = {0.125, 0.25, 0.5, 1, 2};
    static const int32_t windows[STUDY_SETTINGS][3] = {{1, 1, 1}, {1, 3, 3}, {3, 3, 3}, {3, 5, 5}, {5, 5, 5}};
    switch (policy->select) {
    case FGA_SELECT_TOPK:
    case FGA_SELECT_BUDGET:
    case FGA_SELECT_FRAMES:
        *name = "density";
        policy->phases = 1;
        policy->phase[0] = (fga_phase){0, 1, swept_densities[p]};
        snprintf(text, bytes, "density=%g", swept_densities[p]);
        return true;
    case FGA_SELECT_TOPP:
    case FGA_SELECT_ADAPTIVE:
        *name = "tau";
        policy->tau = policy->select == FGA_SELECT_TOPP ? taus[p] : deviations[p];
        snprintf(text, bytes, "tau=%g", policy->tau);
        return true;
    case FGA_SELECT_THRESHOLD:
        *name = "threshold";
        policy->threshold = thresholds[p];
        snprintf(text, bytes, "threshold=%g", policy->threshold);
        return true;
    case FGA_SELECT_WINDOW:
        *name = "window";
        memcpy(policy->window, windows[p], sizeof policy->window);
        snprintf(text, bytes, "window=%dx%dx%d", windows[p][0], windows[p][1], windows[p][2]);
        return true;
    case FGA_SELECT_RADIAL:
        *name = "width";
        policy->width = widths[p];
        snprintf(text, bytes, "width=%g", policy->width);
        return true;
    case FGA_SELECT_ALL:
    case FGA_SELECT_CUSTOM:
        break;
    }
    return false;
}

/* Prints and returns the exit code. A dense policy is no line. */
static int add_policy(study *s, const char *text, bool chosen)
{
    if (s->line_count == STUDY_LINES) {
        return cli_fail(CLI_USAGE, "--policies: more than %d", STUDY_LINES - STUDY_BESTS);
    }
    study_line *line = &s->lines[s->line_count];
    *line = (study_line){.steered_by = "", .count = STUDY_SETTINGS};
    snprintf(line->name, sizeof line->name, "%s", text);
    for (int p = 0; p < STUDY_SETTINGS; p++) {
        fga_status status = fga_policy_parse(s->ctx, text, &line->policy[p]);
        if (status != FGA_OK) {
            return cli_fail_status(s->ctx, status);
        }
        if (!steer(&line->policy[p], p, &line->steered_by, line->setting[p], sizeof line->setting[p])) {
            return chosen ? cli_fail(CLI_USAGE,
                                     "--policies: %s keeps everything: it is what the others are compared with", text)
                          : CLI_DONE;
        }
    }
    s->line_count++;
    return CLI_DONE;
}

int cli_study_begin(study *s, const char *policies)
{
    s->line_count = 0;
    add_bests(s);
    int code = CLI_DONE;
    for (int i = 0; policies == NULL && i < fga_preset_count() && code == CLI_DONE; i++) {
        code = add_policy(s, fga_preset_name(i), false);
    }
    while (policies != NULL && code == CLI_DONE) {
        char text[FGA_POLICY_TEXT];
        size_t length = strcspn(policies, "+");
        if (length == 0 || length >= sizeof text) {
            return cli_fail(CLI_USAGE, "--policies wants presets joined by +, such as dfs+dfs,order=raster, got \"%s\"",
                            policies);
        }
        snprintf(text, sizeof text, "%.*s", (int)length, policies);
        code = add_policy(s, text, true);
        policies = policies[length] == '+' ? policies + length + 1 : NULL;
    }
    return code;
}

/* ---- one capture --------------------------------------------------------------------------------- */

/* About so many query-key pairs are looked at per head and capture, unless the user says otherwise. */
#define PAIRS_WANTED 6e7

static int64_t choose_blocks(const study *s)
{
    if (s->blocks > 0) {
        return s->blocks;
    }
    double blocks = PAIRS_WANTED / (128.0 * (double)s->tokens);
    return blocks < 8 ? 8 : (int64_t)blocks;
}

/* The first capture decides; the others must be like it. */
static fga_status take_shape(study *s, const fgv_capture *c)
{
    if (s->count == 0) {
        s->frames = c->frames;
        s->height = c->height;
        s->width = c->width;
        s->heads = (int)c->q.extent[1];
        s->head_dim = (int)c->q.extent[3];
        s->tokens = c->q.extent[2];
        s->scale = c->scale;
        s->dtype = c->q.dtype;
        s->middle = ((int64_t)(s->frames / 2) * s->height + s->height / 2) * s->width + s->width / 2;
        return FGA_OK;
    }
    if (c->q.extent[1] != s->heads || c->q.extent[3] != s->head_dim || c->q.extent[2] != s->tokens) {
        return fga_context_fail(
            s->ctx, FGA_ERR_DATA,
            "step %d, layer %d has %lld heads of %lld channels, those before %d of %d: one report is "
            "about one model",
            c->step, c->layer, (long long)c->q.extent[1], (long long)c->q.extent[3], s->heads, s->head_dim);
    }
    return FGA_OK;
}

static fga_status no_memory(const study *s)
{
    return fga_context_fail(s->ctx, FGA_ERR_MEMORY, "no memory for the figures of %d captures", s->count + 1);
}

static fga_status begin_result(study *s, const fgv_capture *c, study_result **out)
{
    if (s->count == s->capacity) {
        int capacity = s->capacity > 0 ? 2 * s->capacity : 8;
        study_result *larger = realloc(s->results, (size_t)capacity * sizeof *larger);
        if (larger == NULL) {
            return no_memory(s);
        }
        s->results = larger;
        s->capacity = capacity;
    }
    study_result *r = &s->results[s->count++];
    *r = (study_result){.step = c->step, .layer = c->layer, .branch = c->branch};
    size_t heads = (size_t)s->heads;
    r->per_head = calloc((size_t)s->line_count * STUDY_SETTINGS * 3 * heads, sizeof *r->per_head);
    r->looks = malloc(heads * (size_t)s->tokens * sizeof *r->looks);
    bool good = r->per_head != NULL && r->looks != NULL;
    for (int order = 0; order < STUDY_ORDERS; order++) {
        r->heads[order] = calloc(heads, sizeof *r->heads[order]);
        good = good && r->heads[order] != NULL;
    }
    for (int line = 0; good && line < s->line_count; line++) {
        for (int p = 0; p < STUDY_SETTINGS; p++) {
            float *at = r->per_head + ((size_t)line * STUDY_SETTINGS + (size_t)p) * 3 * heads;
            r->points[line][p].recall_heads = at;
            r->points[line][p].error_heads = at + heads;
            r->points[line][p].cost_heads = at + 2 * heads;
        }
    }
    *out = r;
    return good ? FGA_OK : no_memory(s);
}

static void tell(const study *s, const study_result *r, const char *doing)
{
    char text[160];
    snprintf(text, sizeof text, "step %d, layer %d: %s", r->step, r->layer, doing);
    if (s->tell != NULL) {
        s->tell(s->user, text);
    }
}

static fga_status look_at_heads(study *s, study_result *r, fga_inspect *inspect)
{
    for (int order = 0; order < STUDY_ORDERS; order++) {
        char doing[64];
        snprintf(doing, sizeof doing, "exact attention in %s order", study_order_names[order]);
        tell(s, r, doing);
        fga_inspect_map *map = order <= STUDY_HILBERT ? &r->map[order] : NULL;
        if (map != NULL) {
            fga_inspect_map_size(inspect, STUDY_COLUMNS, map);
            map->mass = malloc((size_t)s->heads * (size_t)(map->rows * map->columns) * sizeof *map->mass);
            if (map->mass == NULL) {
                return no_memory(s);
            }
        }
        fga_status status = fga_inspect_heads(inspect, study_orders[order], r->heads[order], map);
        if (status != FGA_OK) {
            return status;
        }
    }
    for (int h = 0; h < s->heads; h++) {
        fga_status status = fga_inspect_query(inspect, h, s->middle, r->looks + (size_t)h * (size_t)s->tokens);
        if (status != FGA_OK) {
            return status;
        }
    }
    return FGA_OK;
}

/* A policy that this video or build cannot have is left out, and the report says so. */
static fga_status judge_lines(study *s, study_result *r, fga_inspect *inspect)
{
    for (int i = 0; i < s->line_count; i++) {
        study_line *line = &s->lines[i];
        if (line->refused[0] != '\0') {
            continue;
        }
        tell(s, r, line->name);
        fga_status status = line->best
                                ? fga_inspect_best(inspect, &line->what, line->density, line->count, r->points[i])
                                : fga_inspect_policies(inspect, line->policy, line->count, r->points[i]);
        if (status == FGA_ERR_ARGUMENT || status == FGA_ERR_UNSUPPORTED) {
            snprintf(line->refused, sizeof line->refused, "%s", fga_last_error(s->ctx));
        } else if (status != FGA_OK) {
            return status;
        }
    }
    tell(s, r, "provable bounds");
    static const double densities[STUDY_BOUNDS] = {0.1, 0.2, 0.3};
    for (int i = 0; i < STUDY_BOUNDS; i++) {
        r->bounds[i].density = densities[i];
    }
    return fga_inspect_bounds(inspect, FGA_ORDER_HILBERT, r->bounds, STUDY_BOUNDS);
}

fga_status cli_study_add(study *s, const fgv_capture *capture)
{
    study_result *r = NULL;
    fga_status status = take_shape(s, capture);
    status = status == FGA_OK ? begin_result(s, capture, &r) : status;
    if (status != FGA_OK || r == NULL) {
        return status;
    }
    fga_inspect_desc d = fga_inspect_desc_default();
    d.q = capture->q;
    d.k = capture->k;
    d.v = capture->v;
    d.frames = capture->frames;
    d.height = capture->height;
    d.width = capture->width;
    d.scale = capture->scale;
    d.sample_blocks = choose_blocks(s);
    d.keep_going = s->keep_going;
    d.user = s->user;
    fga_inspect *inspect;
    status = fga_inspect_create(s->ctx, &d, &inspect);
    if (status == FGA_OK) {
        s->queries = fga_inspect_queries(inspect);
        s->blocks_used = (s->queries + 127) / 128;
        status = look_at_heads(s, r, inspect);
    }
    status = status == FGA_OK ? judge_lines(s, r, inspect) : status;
    fga_inspect_destroy(&inspect);
    return status;
}

void cli_study_free(study *s)
{
    for (int i = 0; i < s->count; i++) {
        study_result *r = &s->results[i];
        for (int order = 0; order < STUDY_ORDERS; order++) {
            free(r->heads[order]);
        }
        free(r->map[0].mass);
        free(r->map[1].mass);
        free(r->per_head);
        free(r->looks);
    }
    free(s->results);
    s->results = NULL;
    s->count = s->capacity = 0;
}

/* ---- averages ------------------------------------------------------------------------------------ */

fga_inspect_point cli_study_mean(const study *s, int line, int setting)
{
    fga_inspect_point mean = {0};
    for (int i = 0; i < s->count; i++) {
        const fga_inspect_point *p = &s->results[i].points[line][setting];
        mean.density += p->density / s->count;
        mean.cost += p->cost / s->count;
        mean.recall += p->recall / s->count;
        mean.recall_p05 += p->recall_p05 / s->count;
        mean.output_error += p->output_error / s->count;
        mean.recall_worst = i == 0 || p->recall_worst < mean.recall_worst ? p->recall_worst : mean.recall_worst;
        mean.output_error_worst = fmax(mean.output_error_worst, p->output_error_worst);
    }
    return mean;
}

double cli_study_at_cost(const study *s, int line, double cost, bool error)
{
    if (s->lines[line].refused[0] != '\0') {
        return NAN;
    }
    fga_inspect_point below = {.cost = -1}, above = {.cost = 2};
    for (int p = 0; p < s->lines[line].count; p++) {
        fga_inspect_point point = cli_study_mean(s, line, p);
        if (point.cost <= cost && point.cost > below.cost) {
            below = point;
        }
        if (point.cost >= cost && point.cost < above.cost) {
            above = point;
        }
    }
    if (below.cost <= 0 || above.cost > 1) {
        return NAN;
    }
    double a = error ? below.output_error : below.recall, b = error ? above.output_error : above.recall;
    if (above.cost <= below.cost) {
        return a;
    }
    double part = (log(cost) - log(below.cost)) / (log(above.cost) - log(below.cost));
    return error && a > 0 && b > 0 ? exp(log(a) + part * (log(b) - log(a))) : a + part * (b - a);
}
