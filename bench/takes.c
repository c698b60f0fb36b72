#include "takes.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- keeping ------------------------------------------------------------------------------------------ */

static size_t row_bytes(const takes *t)
{
    return (size_t)(t->heads * t->head_dim) * fga_dtype_size(t->dtype);
}

static size_t tensor_bytes(const takes *t)
{
    return (size_t)t->tokens * row_bytes(t);
}

static bool grow(takes *t)
{
    if (t->count < t->capacity) {
        return true;
    }
    int capacity = t->capacity > 0 ? 2 * t->capacity : 64;
    take *list = realloc(t->list, (size_t)capacity * sizeof *list);
    if (list == NULL) {
        return false;
    }
    t->list = list;
    t->capacity = capacity;
    return true;
}

/* out[order[i]] = token i, heads side by side. */
static void to_raster(const takes *t, const fga_tensor *in, const int32_t *order, char *out)
{
    size_t element = fga_dtype_size(t->dtype), head_bytes = (size_t)t->head_dim * element;
    for (int64_t i = 0; i < t->tokens; i++) {
        char *row = out + (size_t)(order != NULL ? order[i] : i) * row_bytes(t);
        for (int64_t h = 0; h < t->heads; h++) {
            const char *from = (const char *)in->data + (size_t)(h * in->stride[1] + i * in->stride[2]) * element;
            memcpy(row + (size_t)h * head_bytes, from, head_bytes);
        }
    }
}

static bool same_shape(const takes *t, const fgv_capture *c)
{
    return t->frames == c->frames && t->height == c->height && t->width == c->width && t->dtype == c->q.dtype &&
           t->heads == c->q.extent[1] && t->head_dim == c->q.extent[3] && c->k.extent[1] == t->heads;
}

static bool add(takes *t, const fgv_capture *c)
{
    if (t->count == 0) {
        t->frames = c->frames, t->height = c->height, t->width = c->width;
        t->tokens = (int64_t)c->frames * c->height * c->width;
        t->heads = c->q.extent[1];
        t->head_dim = c->q.extent[3];
        t->dtype = c->q.dtype;
    }
    char *qkv = same_shape(t, c) && grow(t) ? malloc(3 * tensor_bytes(t)) : NULL;
    if (qkv == NULL) {
        t->failed = true;
        return false;
    }
    const fga_tensor *in[3] = {&c->q, &c->k, &c->v};
    for (int i = 0; i < 3; i++) {
        to_raster(t, in[i], c->order, qkv + (size_t)i * tensor_bytes(t));
    }
    t->list[t->count++] = (take){c->step, c->layer, c->branch, qkv};
    return true;
}

static bool keep(void *user, const fgv_capture *inputs)
{
    takes *t = user;
    bool wanted = t->steps[inputs->step] && inputs->branch < t->branches;
    wanted = wanted && (t->every < 2 || inputs->layer % t->every == 0);
    return !wanted || add(t, inputs);
}

static bool stop_before_decoding(void *user, const fgv_progress *progress)
{
    (void)user;
    return progress->stage != FGV_STAGE_DECODE;
}

fga_status takes_generate(takes *t, fgv_model *model, const fgv_request *request)
{
    fgv_request r = *request;
    r.measure_fraction = 0;
    r.on_attention = keep;
    r.on_progress = stop_before_decoding;
    r.user = t;
    fga_status status = fgv_generate(model, &r, NULL);
    if (t->failed) {
        return fga_context_fail(t->ctx, FGA_ERR_MEMORY, "no memory for the queries, keys and values");
    }
    return status == FGA_ERR_INTERRUPTED ? FGA_OK : status;
}

fga_status takes_read(takes *t, const char *path)
{
    fgv_capture_file *file;
    fga_status status = fgv_capture_open(t->ctx, path, &file);
    for (int i = 0; status == FGA_OK && i < fgv_capture_count(file); i++) {
        fgv_capture c = fgv_capture_get(file, i);
        if (!add(t, &c)) {
            status = fga_context_fail(t->ctx, FGA_ERR_DATA,
                                      "%s: no memory, or not the shape and heads of the captures before", path);
        }
    }
    fgv_capture_close(&file);
    return status;
}

void takes_free(takes *t)
{
    for (int i = 0; i < t->count; i++) {
        free(t->list[i].qkv);
    }
    free(t->list);
    free(t->ordered);
    free(t->order);
    t->list = NULL;
    t->ordered = NULL;
    t->order = NULL;
    t->count = t->capacity = 0;
}

/* ---- running ------------------------------------------------------------------------------------------ */

static fga_status prepare_order(takes *t, fga_order kind)
{
    if (t->ordered != NULL && t->kind == kind) {
        return FGA_OK;
    }
    if (t->ordered == NULL) {
        t->ordered = malloc(4 * tensor_bytes(t));
        t->order = malloc((size_t)t->tokens * sizeof *t->order);
        if (t->ordered == NULL || t->order == NULL) {
            free(t->ordered);
            t->ordered = NULL;
            return fga_context_fail(t->ctx, FGA_ERR_MEMORY, "no memory for %lld tokens", (long long)t->tokens);
        }
    }
    t->kind = kind;
    return fga_order_build(t->ctx, kind, t->frames, t->height, t->width, t->order);
}

typedef struct ordering {
    const takes *t;
    const take *one;
} ordering;

static void put_in_order(void *user, int64_t row, int worker)
{
    (void)worker;
    const ordering *job = user;
    const takes *t = job->t;
    size_t bytes = row_bytes(t);
    for (size_t i = 0; i < 3; i++) {
        memcpy(t->ordered + i * tensor_bytes(t) + (size_t)row * bytes,
               job->one->qkv + i * tensor_bytes(t) + (size_t)t->order[row] * bytes, bytes);
    }
}

static fga_status attend(takes *t, fga_session *session, const take *one, void *workspace)
{
    ordering job = {t, one};
    fga_parallel_for(t->ctx, t->tokens, put_in_order, &job);
    fga_attend_args args = fga_attend_args_default();
    fga_tensor *out[4] = {&args.q, &args.k, &args.v, &args.o};
    for (size_t i = 0; i < 4; i++) {
        *out[i] = fga_tensor_bshd(t->ordered + i * tensor_bytes(t), t->dtype, 1, t->tokens, t->heads, t->head_dim);
    }
    return fga_session_attend(session, 0, 1, 0, 0, &args, workspace, NULL);
}

fga_status takes_run(takes *t, const fga_policy *policy, double measure, takes_figures *figures, double *errors)
{
    fga_session_desc d = fga_session_desc_default();
    d.policy = *policy;
    d.policy.phases = 1;
    d.policy.phase[0].numerator = 0;
    d.policy.phase[0].denominator = 1;
    d.policy.dense_layers = 0;
    d.query_heads = d.kv_heads = t->heads;
    d.head_dim = t->head_dim;
    d.dtype = t->dtype;
    d.sequence = fga_sequence_video(t->tokens);
    d.frames = t->frames, d.height = t->height, d.width = t->width;
    d.measure_fraction = measure;
    fga_session *session = NULL;
    void *workspace = NULL;
    fga_status status = prepare_order(t, policy->order);
    status = status == FGA_OK ? fga_session_create(t->ctx, &d, &session) : status;
    if (status == FGA_OK) {
        workspace = aligned_alloc(64, (fga_session_workspace(session) + 127) / 64 * 64);
        status = workspace != NULL ? FGA_OK : fga_context_fail(t->ctx, FGA_ERR_MEMORY, "no memory for attention");
    }
    double before = 0;
    for (int i = 0; status == FGA_OK && i < t->count; i++) {
        status = attend(t, session, &t->list[i], workspace);
        if (status == FGA_OK && t->look != NULL) {
            t->look(t->look_user, fga_session_mask(session, 0, 0));
        }
        fga_session_report now = fga_session_get_report(session);
        if (errors != NULL && measure > 0) {
            double sum = now.output_error_mean * (double)now.measured_calls;
            errors[i] = sum - before;
            before = sum;
        }
    }
    if (status == FGA_OK) {
        fga_session_report r = fga_session_get_report(session);
        *figures = (takes_figures){.cost = (r.sparse_kept + r.sparse_summaries) / r.sparse_total,
                                   .density = r.sparse_kept / r.sparse_total,
                                   .recall = r.recall_mean,
                                   .recall_p05 = r.recall_p05,
                                   .recall_worst = r.recall_worst,
                                   .error = r.output_error_mean,
                                   .error_worst = r.output_error_worst,
                                   .score_s = r.score_s,
                                   .attend_s = r.attend_s};
    }
    free(workspace);
    fga_session_destroy(&session);
    return status;
}

/* ---- knobs -------------------------------------------------------------------------------------------- */

enum { MAX_WINDOWS = 512 };

typedef struct windows {
    int32_t size[MAX_WINDOWS][3];
    int count;
} windows;

/* How far from a cube. */
static int32_t spread(const int32_t *w)
{
    int32_t low = w[0], high = w[0];
    for (int i = 1; i < 3; i++) {
        low = w[i] < low ? w[i] : low;
        high = w[i] > high ? w[i] : high;
    }
    return high - low;
}

/* Windows by rising number of boxes, for each number the most cubic one. */
static windows list_windows(const takes *t)
{
    windows list = {.count = 0};
    const int32_t most[3] = {(t->frames + 3) / 4, (t->height + 3) / 4, (t->width + 3) / 4};
    int32_t all = most[0] * most[1] * most[2];
    for (int32_t volume = 1; volume <= all && list.count < MAX_WINDOWS; volume++) {
        int32_t best[3] = {0};
        for (int32_t a = 1; a <= most[0]; a++) {
            for (int32_t b = 1; b <= most[1]; b++) {
                int32_t w[3] = {a, b, volume / (a * b)};
                if (w[2] >= 1 && w[2] <= most[2] && a * b * w[2] == volume &&
                    (best[0] == 0 || spread(w) < spread(best))) {
                    memcpy(best, w, sizeof best);
                }
            }
        }
        if (best[0] > 0) {
            memcpy(list.size[list.count++], best, sizeof best);
        }
    }
    return list;
}

knob knob_of(const takes *t, const fga_policy *policy)
{
    switch (policy->select) {
    case FGA_SELECT_TOPK:
    case FGA_SELECT_BUDGET:
    case FGA_SELECT_FRAMES:
        return (knob){"density", 1e-4, 1, false, false};
    case FGA_SELECT_TOPP:
        return (knob){"tau", 1e-3, 1, false, false};
    case FGA_SELECT_ADAPTIVE:
        return (knob){"tau", -4, 12, true, false};
    case FGA_SELECT_THRESHOLD:
        return (knob){"threshold", 1e-6, 1000, true, false};
    case FGA_SELECT_RADIAL:
        return (knob){"width", 1e-3, 64, false, false};
    case FGA_SELECT_WINDOW:
        return (knob){"window", 0, list_windows(t).count - 1, false, true};
    case FGA_SELECT_ALL:
    case FGA_SELECT_CUSTOM:
        break;
    }
    return (knob){0};
}

void knob_set(const takes *t, fga_policy *policy, double value)
{
    if (policy->select == FGA_SELECT_WINDOW) {
        windows list = list_windows(t);
        memcpy(policy->window, list.size[(int)value], sizeof policy->window);
    } else if (policy->select == FGA_SELECT_THRESHOLD) {
        policy->threshold = value;
    } else if (policy->select == FGA_SELECT_RADIAL) {
        policy->width = value;
    } else if (policy->select == FGA_SELECT_TOPP || policy->select == FGA_SELECT_ADAPTIVE) {
        policy->tau = value;
    } else {
        for (int i = 0; i < policy->phases; i++) {
            policy->phase[i].density = value;
        }
    }
}

static double middle(const knob *k, double low, double high)
{
    if (k->whole) {
        return floor((low + high) / 2);
    }
    return k->low > 0 ? sqrt(low * high) : (low + high) / 2; /* positive knobs span decades */
}

/* A density's realised cost is nearly itself and a constant more: one or two looks suffice. */
static double guess(const knob *k, double low, double high, double density)
{
    bool direct = strcmp(k->name, "density") == 0 && density > low && density < high;
    return direct ? density : middle(k, low, high);
}

fga_status knob_calibrate(takes *t, const fga_policy *policy, double cost, double *value, double *realised)
{
    knob k = knob_of(t, policy);
    if (k.name == NULL) {
        return fga_context_fail(t->ctx, FGA_ERR_ARGUMENT, "policy %s has no number that sets its cost", policy->name);
    }
    double low = k.low, high = k.high, best = INFINITY, next = cost;
    for (int i = 0; i < 14 && (!k.whole || low <= high); i++) {
        fga_policy p = *policy;
        takes_figures f;
        double x = guess(&k, low, high, i < 4 ? next : 0);
        knob_set(t, &p, x);
        fga_status status = takes_run(t, &p, 0, &f, NULL);
        if (status != FGA_OK) {
            return status;
        }
        next = x + cost - f.cost;
        if (fabs(log(f.cost / cost)) < best) {
            best = fabs(log(f.cost / cost));
            *value = x;
            *realised = f.cost;
        }
        if (best < 0.003) {
            break;
        }
        bool more = (f.cost < cost) != k.falling; /* a larger value comes nearer */
        if (more) {
            low = k.whole ? x + 1 : x;
        } else {
            high = k.whole ? x - 1 : x;
        }
    }
    return FGA_OK;
}

bool takes_costs(const char *text, double *costs, int most, int *count)
{
    *count = 0;
    for (char *end; *text != '\0' && *count < most; text = *end == ',' ? end + 1 : end) {
        double cost = strtod(text, &end);
        if (end == text || !(cost > 0 && cost < 1)) {
            return false;
        }
        costs[(*count)++] = cost;
    }
    return *text == '\0' && *count > 0;
}
