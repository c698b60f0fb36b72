/* policy.c - presets as data, and policies as text. */
#include "attn/policy.h"

#include "attn/grid.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

/* ---- presets ------------------------------------------------------------------------------------ */

static const struct preset {
    const char *summary;
    fga_policy policy;
} presets[] = {
    {"every query attends to every key; the reference",
     {.size = sizeof(fga_policy),
      .name = "dense",
      .order = FGA_ORDER_RASTER,
      .block_m = 128,
      .tile_n = 128,
      .sub_q = 16,
      .sub_k = 16,
      .score = FGA_SCORE_NONE,
      .select = FGA_SELECT_ALL}},
    {"DFSAttn: Hilbert order, 128x128 tiles by pooled mass, kept 0.3, 0.2, 0.1 from steps 12, 24, 36 of 50",
     {.size = sizeof(fga_policy),
      .name = "dfs",
      .order = FGA_ORDER_HILBERT,
      .block_m = 128,
      .tile_n = 128,
      .sub_q = 16,
      .sub_k = 16,
      .score = FGA_SCORE_MASS,
      .select = FGA_SELECT_TOPK,
      .phases = 3,
      .phase = {{12, 50, 0.3}, {24, 50, 0.2}, {36, 50, 0.1}}}},
};

enum { PRESETS = sizeof presets / sizeof presets[0] };

int fga_preset_count(void)
{
    return PRESETS;
}

const char *fga_preset_name(int index)
{
    return index >= 0 && index < PRESETS ? presets[index].policy.name : NULL;
}

const char *fga_preset_summary(int index)
{
    return index >= 0 && index < PRESETS ? presets[index].summary : NULL;
}

/* ---- text that grows, and slices of text ---------------------------------------------------------- */

typedef struct buffer {
    char *text;
    size_t capacity, length; /* length counts what did not fit too */
} buffer;

static void append(buffer *b, const char *format, ...)
{
    bool room = b->length < b->capacity;
    va_list args;
    va_start(args, format);
    int n = vsnprintf(room ? b->text + b->length : NULL, room ? b->capacity - b->length : 0, format, args);
    va_end(args);
    b->length += n > 0 ? (size_t)n : 0;
}

typedef struct slice {
    const char *at;
    size_t length;
} slice;

/* Cuts and returns what precedes the first `mark`; `text` keeps what follows it. */
static slice cut(slice *text, char mark)
{
    const char *end = text->length > 0 ? memchr(text->at, mark, text->length) : NULL;
    slice head = {text->at, end != NULL ? (size_t)(end - text->at) : text->length};
    size_t used = head.length + (end != NULL);
    *text = (slice){text->at + used, text->length - used};
    return head;
}

static bool same(slice text, const char *name)
{
    return strlen(name) == text.length && memcmp(name, text.at, text.length) == 0;
}

static int shown(slice text) /* for %.*s */
{
    return (int)(text.length < 80 ? text.length : 80);
}

/* ---- keys ----------------------------------------------------------------------------------------- */

static const char *const order_names[] = {"raster", "hilbert", NULL};
static const char *const score_names[] = {"none", "mass", "custom", NULL};
static const char *const select_names[] = {"all", "topk", NULL};
static const char *const bool_names[] = {"false", "true", NULL};

enum { MAX_COUNT = 100000 }; /* of steps, layers, phase fractions: keeps the text form short */

typedef enum key_id {
    KEY_ORDER,
    KEY_BLOCK_M,
    KEY_TILE_N,
    KEY_SUB_Q,
    KEY_SUB_K,
    KEY_SCORE,
    KEY_SELECT,
    KEY_REFRESH_EVERY,
    KEY_DENSE_LAYERS,
    KEY_SHARE_BRANCHES,
    KEYS
} key_id;

static const struct key {
    const char *name;
    const char *const *values; /* of an enumeration; NULL: a whole number */
} keys[KEYS] = {
    [KEY_ORDER] = {"order", order_names},
    [KEY_BLOCK_M] = {"block_m", NULL},
    [KEY_TILE_N] = {"tile_n", NULL},
    [KEY_SUB_Q] = {"sub_q", NULL},
    [KEY_SUB_K] = {"sub_k", NULL},
    [KEY_SCORE] = {"score", score_names},
    [KEY_SELECT] = {"select", select_names},
    [KEY_REFRESH_EVERY] = {"refresh_every", NULL},
    [KEY_DENSE_LAYERS] = {"dense_layers", NULL},
    [KEY_SHARE_BRANCHES] = {"share_branches", bool_names},
};

static int32_t get_key(const fga_policy *p, key_id id)
{
    switch (id) {
    case KEY_ORDER:
        return (int32_t)p->order;
    case KEY_BLOCK_M:
        return p->block_m;
    case KEY_TILE_N:
        return p->tile_n;
    case KEY_SUB_Q:
        return p->sub_q;
    case KEY_SUB_K:
        return p->sub_k;
    case KEY_SCORE:
        return (int32_t)p->score;
    case KEY_SELECT:
        return (int32_t)p->select;
    case KEY_REFRESH_EVERY:
        return p->refresh_every;
    case KEY_DENSE_LAYERS:
        return p->dense_layers;
    case KEY_SHARE_BRANCHES:
        return p->share_branches;
    case KEYS:
        break;
    }
    return 0;
}

static void set_key(fga_policy *p, key_id id, int32_t value)
{
    switch (id) {
    case KEY_ORDER:
        p->order = (fga_order)value;
        break;
    case KEY_BLOCK_M:
        p->block_m = value;
        break;
    case KEY_TILE_N:
        p->tile_n = value;
        break;
    case KEY_SUB_Q:
        p->sub_q = value;
        break;
    case KEY_SUB_K:
        p->sub_k = value;
        break;
    case KEY_SCORE:
        p->score = (fga_score)value;
        break;
    case KEY_SELECT:
        p->select = (fga_select)value;
        break;
    case KEY_REFRESH_EVERY:
        p->refresh_every = value;
        break;
    case KEY_DENSE_LAYERS:
        p->dense_layers = value;
        break;
    case KEY_SHARE_BRANCHES:
        p->share_branches = value != 0;
        break;
    case KEYS:
        break;
    }
}

/* ---- numbers: decimal, whatever the locale ------------------------------------------------------------ */

enum { MAX_DIGITS = 15 }; /* a decimal of so many digits is a quotient of two exact doubles: correctly rounded */

static bool parse_int(slice text, int32_t *value)
{
    int64_t n = 0;
    for (size_t i = 0; i < text.length; i++) {
        if (text.at[i] < '0' || text.at[i] > '9' || i >= 9) {
            return false;
        }
        n = n * 10 + (text.at[i] - '0');
    }
    *value = (int32_t)n;
    return text.length > 0;
}

static bool parse_decimal(slice text, double *value)
{
    int64_t digits = 0, scale = 1;
    bool fraction = false;
    int seen = 0;
    for (size_t i = 0; i < text.length; i++) {
        char c = text.at[i];
        if (c == '.' && !fraction) {
            fraction = true;
            continue;
        }
        if (c < '0' || c > '9' || ++seen > MAX_DIGITS) {
            return false;
        }
        digits = digits * 10 + (c - '0');
        scale *= fraction ? 10 : 1;
    }
    *value = (double)digits / (double)scale;
    return seen > 0;
}

/* The fewest decimals, at most 14, that parse back to the value. Densities are at most 1. */
static void append_decimal(buffer *b, double value)
{
    int64_t scale = 1;
    int places = 0;
    while (places < MAX_DIGITS - 1 && (double)(int64_t)(value * (double)scale + 0.5) / (double)scale != value) {
        scale *= 10;
        places++;
    }
    int64_t digits = (int64_t)(value * (double)scale + 0.5);
    append(b, "%" PRId64, digits / scale);
    if (places > 0) {
        append(b, ".%0*" PRId64, places, digits % scale);
    }
}

/* ---- checks --------------------------------------------------------------------------------------- */

static fga_status check_density(fga_context *ctx, double density)
{
    if (!(density > 0 && density <= 1)) {
        return fga_context_fail(ctx, FGA_ERR_ARGUMENT,
                                "density is %g, wanted above 0 and at most 1 (the kept fraction)", density);
    }
    return FGA_OK;
}

static fga_status check_phases(fga_context *ctx, const fga_policy *p)
{
    FGA_TRY(fga_check_range(ctx, "phases", p->phases, 0, FGA_MAX_PHASES));
    for (int i = 0; i < p->phases; i++) {
        const fga_phase *now = &p->phase[i], *before = i > 0 ? now - 1 : now;
        FGA_TRY(fga_check_range(ctx, "a phase's denominator", now->denominator, 1, MAX_COUNT));
        FGA_TRY(fga_check_range(ctx, "a phase's numerator", now->numerator, 0, now->denominator));
        FGA_TRY(check_density(ctx, now->density));
        if ((int64_t)before->numerator * now->denominator > (int64_t)now->numerator * before->denominator) {
            return fga_context_fail(ctx, FGA_ERR_ARGUMENT, "phase %d/%d comes before phase %d/%d, wanted rising phases",
                                    now->numerator, now->denominator, before->numerator, before->denominator);
        }
    }
    return FGA_OK;
}

fga_status fga_policy_check(fga_context *ctx, const fga_policy *p)
{
    FGA_TRY(fga_check_struct(ctx, "fga_policy", p->size, sizeof *p));
    for (int id = 0; id < KEYS; id++) {
        if (keys[id].values != NULL) {
            int count = 0;
            while (keys[id].values[count] != NULL) {
                count++;
            }
            FGA_TRY(fga_check_range(ctx, keys[id].name, get_key(p, (key_id)id), 0, count - 1));
        }
    }
    FGA_TRY(fga_check_block_m(ctx, p->block_m));
    FGA_TRY(fga_check_tile_n(ctx, p->tile_n));
    FGA_TRY(fga_check_range(ctx, "sub_q", p->sub_q, 1, 192));
    FGA_TRY(fga_check_range(ctx, "sub_k", p->sub_k, 1, 192));
    FGA_TRY(fga_check_range(ctx, "refresh_every", p->refresh_every, 0, MAX_COUNT));
    FGA_TRY(fga_check_range(ctx, "dense_layers", p->dense_layers, 0, MAX_COUNT));
    if (p->phases > 0 && p->select == FGA_SELECT_TOPK && p->score == FGA_SCORE_NONE) {
        return fga_context_fail(ctx, FGA_ERR_ARGUMENT, "select is topk but score is none, wanted score=mass");
    }
    if (p->score == FGA_SCORE_CUSTOM && p->custom == NULL) {
        return fga_context_fail(ctx, FGA_ERR_ARGUMENT,
                                "score is custom but there is no function, which text cannot name");
    }
    return check_phases(ctx, p);
}

/* ---- parse ---------------------------------------------------------------------------------------- */

static fga_status unknown_preset(fga_context *ctx, slice name)
{
    char list[256];
    buffer b = {list, sizeof list, 0};
    for (int i = 0; i < PRESETS; i++) {
        append(&b, "%s%s", i > 0 ? ", " : "", presets[i].policy.name);
    }
    return fga_context_fail(ctx, FGA_ERR_ARGUMENT, "there is no preset \"%.*s\"; presets are %s", shown(name), name.at,
                            list);
}

static fga_status unknown_key(fga_context *ctx, slice name)
{
    char list[256];
    buffer b = {list, sizeof list, 0};
    for (int id = 0; id < KEYS; id++) {
        append(&b, "%s, ", keys[id].name);
    }
    return fga_context_fail(ctx, FGA_ERR_ARGUMENT, "a policy has no key \"%.*s\"; keys are %sdensity, phases",
                            shown(name), name.at, list);
}

static fga_status bad_value(fga_context *ctx, const char *key, slice value, const char *wanted)
{
    return fga_context_fail(ctx, FGA_ERR_ARGUMENT, "%s is \"%.*s\", wanted %s", key, shown(value), value.at, wanted);
}

static fga_status parse_name(fga_context *ctx, const struct key *key, slice value, int32_t *index)
{
    char list[64];
    buffer b = {list, sizeof list, 0};
    for (int i = 0; key->values[i] != NULL; i++) {
        if (same(value, key->values[i])) {
            *index = i;
            return FGA_OK;
        }
        append(&b, "%s%s", i > 0 ? " or " : "", key->values[i]);
    }
    return bad_value(ctx, key->name, value, list);
}

/* a/b:D;a/b:D... */
static fga_status parse_phases(fga_context *ctx, slice value, fga_policy *p)
{
    static const char *const wanted = "numerator/denominator:density, several joined by \";\"";
    slice rest = value;
    p->phases = 0;
    while (rest.length > 0) {
        slice density = cut(&rest, ';');
        slice denominator = cut(&density, ':');
        slice numerator = cut(&denominator, '/');
        fga_phase phase;
        if (!parse_int(numerator, &phase.numerator) || !parse_int(denominator, &phase.denominator) ||
            !parse_decimal(density, &phase.density)) {
            return bad_value(ctx, "phases", value, wanted);
        }
        if (p->phases == FGA_MAX_PHASES) {
            return fga_context_fail(ctx, FGA_ERR_ARGUMENT, "more than %d phases", FGA_MAX_PHASES);
        }
        p->phase[p->phases++] = phase;
    }
    return FGA_OK;
}

static fga_status parse_density(fga_context *ctx, slice value, fga_policy *p)
{
    double density;
    if (!parse_decimal(value, &density)) {
        return bad_value(ctx, "density", value, "a decimal above 0 and at most 1");
    }
    FGA_TRY(check_density(ctx, density));
    if (p->phases == 0) {
        return fga_context_fail(ctx, FGA_ERR_ARGUMENT, "preset %s has no sparse phase to give a density to", p->name);
    }
    for (int i = 0; i < p->phases; i++) {
        p->phase[i].density = density;
    }
    return FGA_OK;
}

static fga_status parse_setting(fga_context *ctx, slice setting, fga_policy *p)
{
    slice value = setting, name = cut(&value, '=');
    if (name.length == setting.length) {
        return fga_context_fail(ctx, FGA_ERR_ARGUMENT, "\"%.*s\" in a policy, wanted key=value", shown(setting),
                                setting.at);
    }
    if (same(name, "density")) {
        return parse_density(ctx, value, p);
    }
    if (same(name, "phases")) {
        return parse_phases(ctx, value, p);
    }
    for (int id = 0; id < KEYS; id++) {
        if (!same(name, keys[id].name)) {
            continue;
        }
        int32_t number = 0;
        if (keys[id].values != NULL) {
            FGA_TRY(parse_name(ctx, &keys[id], value, &number));
        } else if (!parse_int(value, &number)) {
            return bad_value(ctx, keys[id].name, value, "a whole number");
        }
        set_key(p, (key_id)id, number);
        return FGA_OK;
    }
    return unknown_key(ctx, name);
}

static const fga_policy *find_preset(slice name)
{
    for (int i = 0; i < PRESETS; i++) {
        if (same(name, presets[i].policy.name)) {
            return &presets[i].policy;
        }
    }
    return NULL;
}

fga_status fga_policy_parse(fga_context *ctx, const char *text, fga_policy *policy)
{
    if (text == NULL || policy == NULL) {
        return fga_context_fail(ctx, FGA_ERR_ARGUMENT, "%s is NULL", text == NULL ? "text" : "policy");
    }
    slice rest = {text, strlen(text)};
    bool more = memchr(rest.at, ',', rest.length) != NULL;
    slice name = cut(&rest, ',');
    const fga_policy *preset = find_preset(name);
    if (preset == NULL) {
        return unknown_preset(ctx, name);
    }
    fga_policy result = *preset;
    while (more) {
        more = rest.length > 0 && memchr(rest.at, ',', rest.length) != NULL;
        FGA_TRY(parse_setting(ctx, cut(&rest, ','), &result));
    }
    FGA_TRY(fga_policy_check(ctx, &result));
    *policy = result;
    return FGA_OK;
}

/* ---- format --------------------------------------------------------------------------------------- */

static bool same_phases(const fga_policy *a, const fga_policy *b)
{
    bool equal = a->phases == b->phases;
    for (int i = 0; equal && i < a->phases; i++) {
        const fga_phase *x = &a->phase[i], *y = &b->phase[i];
        equal = x->numerator == y->numerator && x->denominator == y->denominator && x->density == y->density;
    }
    return equal;
}

fga_status fga_policy_format(fga_context *ctx, const fga_policy *policy, char *text, size_t bytes)
{
    if (policy == NULL || text == NULL) {
        return fga_context_fail(ctx, FGA_ERR_ARGUMENT, "%s is NULL", policy == NULL ? "policy" : "text");
    }
    FGA_TRY(fga_policy_check(ctx, policy));
    slice name = {policy->name, strnlen(policy->name, sizeof policy->name)};
    const fga_policy *preset = find_preset(name);
    if (preset == NULL) {
        return unknown_preset(ctx, name);
    }
    buffer b = {text, bytes, 0};
    append(&b, "%s", preset->name);
    for (int id = 0; id < KEYS; id++) {
        int32_t value = get_key(policy, (key_id)id);
        if (value == get_key(preset, (key_id)id)) {
            continue;
        }
        append(&b, ",%s=", keys[id].name);
        if (keys[id].values != NULL) {
            append(&b, "%s", keys[id].values[value]);
        } else {
            append(&b, "%d", value);
        }
    }
    if (!same_phases(policy, preset)) {
        append(&b, ",phases=");
        for (int i = 0; i < policy->phases; i++) {
            const fga_phase *phase = &policy->phase[i];
            append(&b, "%s%d/%d:", i > 0 ? ";" : "", phase->numerator, phase->denominator);
            append_decimal(&b, phase->density);
        }
    }
    if (b.length >= bytes) {
        return fga_context_fail(ctx, FGA_ERR_ARGUMENT, "text holds %zu bytes, wanted %zu", bytes, b.length + 1);
    }
    return FGA_OK;
}
