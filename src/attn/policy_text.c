/* policy_text.c - policies as text: PRESET[,key=value...]. */
#include "attn/policy.h"

#include "attn/grid.h"

#include <math.h>
#include <stddef.h>
#include <string.h>

/* ---- keys ----------------------------------------------------------------------------------------- */

static const char *const order_names[] = {"raster", "hilbert", "hilbert_clipped", "morton", "boxes", NULL};
static const char *const score_names[] = {"none",         "mass",      "custom",    "lse",        "max", "mean",
                                          "second_order", "deviation", "exact_max", "exact_mass", NULL};
static const char *const select_names[] = {"all",    "topk",   "topp",   "threshold", "adaptive", "budget",
                                           "window", "radial", "frames", "custom",    NULL};
static const char *const rest_names[] = {"drop", "remainder", NULL};
static const char *const bool_names[] = {"false", "true", NULL};

typedef enum key_kind { KEY_NAME, KEY_BOOL, KEY_INT, KEY_REAL, KEY_TRIPLE } key_kind;

typedef struct policy_key {
    const char *name;
    key_kind kind;
    size_t offset;             /* in fga_policy */
    const char *const *values; /* KEY_NAME, KEY_BOOL */
    double low, high;          /* both included */
} policy_key;

#define NAMED(field, names) \
    { \
#field, KEY_NAME, offsetof(fga_policy, field), names, 0, 0 \
    }
#define TRUTH(field) \
    { \
#field, KEY_BOOL, offsetof(fga_policy, field), bool_names, 0, 1 \
    }
#define WHOLE(field, low, high) \
    { \
#field, KEY_INT, offsetof(fga_policy, field), NULL, low, high \
    }
#define REAL(field, low, high) \
    { \
#field, KEY_REAL, offsetof(fga_policy, field), NULL, low, high \
    }
#define TRIPLE(field, low, high) \
    { \
#field, KEY_TRIPLE, offsetof(fga_policy, field), NULL, low, high \
    }

static const policy_key keys[] = {
    NAMED(order, order_names),
    WHOLE(block_m, 16, 192),
    WHOLE(tile_n, 1, 128),
    WHOLE(sub_q, 1, 192),
    WHOLE(sub_k, 1, 192),
    NAMED(score, score_names),
    NAMED(select, select_names),
    NAMED(rest, rest_names),
    WHOLE(group, 8, 256),
    REAL(tau, -1000, 1000),
    REAL(threshold, 0, 1e6),
    REAL(gate_q, 0, 1),
    REAL(gate_k, 0, 1),
    TRUTH(full_covariance),
    WHOLE(neighbours, 0, FGA_MAX_COUNT),
    TRIPLE(window, 0, FGA_MAX_COUNT),
    REAL(width, 0, 1000),
    TRUTH(zero_pad),
    WHOLE(refresh_every, 0, FGA_MAX_COUNT),
    WHOLE(dense_layers, 0, FGA_MAX_COUNT),
    TRUTH(share_branches),
    REAL(target_recall, 0, 1),
    REAL(recall_floor, 0, 1),
    REAL(target_error, 0, 10),
    REAL(refresh_drop, 0, 1),
};

enum { KEYS = sizeof keys / sizeof keys[0] };

_Static_assert(sizeof(fga_order) == sizeof(int32_t) && sizeof(fga_score) == sizeof(int32_t) &&
                   sizeof(fga_select) == sizeof(int32_t) && sizeof(fga_rest) == sizeof(int32_t),
               "keys of names are read as 32-bit numbers");

static size_t key_bytes(const policy_key *key)
{
    switch (key->kind) {
    case KEY_BOOL:
        return sizeof(bool);
    case KEY_REAL:
        return sizeof(double);
    case KEY_TRIPLE:
        return 3 * sizeof(int32_t);
    case KEY_NAME:
    case KEY_INT:
        break;
    }
    return sizeof(int32_t);
}

typedef struct value {
    int32_t n[3]; /* of a name: its index */
    double x;
} value;

static value get(const fga_policy *policy, const policy_key *key)
{
    const char *field = (const char *)policy + key->offset;
    value v = {{0}, 0};
    if (key->kind == KEY_REAL) {
        memcpy(&v.x, field, sizeof v.x);
    } else if (key->kind == KEY_BOOL) {
        v.n[0] = *(const bool *)field;
    } else {
        memcpy(v.n, field, key_bytes(key));
    }
    return v;
}

static void set(fga_policy *policy, const policy_key *key, const value *v)
{
    char *field = (char *)policy + key->offset;
    if (key->kind == KEY_REAL) {
        memcpy(field, &v->x, sizeof v->x);
    } else if (key->kind == KEY_BOOL) {
        *(bool *)field = v->n[0] != 0;
    } else {
        memcpy(field, v->n, key_bytes(key));
    }
}

const char *fga_select_name(fga_select select)
{
    return select_names[select];
}

static fga_status check_key(fga_context *ctx, const policy_key *key, const fga_policy *policy)
{
    value v = get(policy, key);
    if (key->kind == KEY_REAL) {
        if (!(v.x >= key->low && v.x <= key->high)) {
            return fga_context_fail(ctx, FGA_ERR_ARGUMENT, "%s is %g, wanted %g ... %g", key->name, v.x, key->low,
                                    key->high);
        }
        return FGA_OK;
    }
    int64_t high = (int64_t)key->high;
    if (key->kind == KEY_NAME) {
        for (high = 0; key->values[high + 1] != NULL; high++) {
        }
    }
    for (int i = 0; i < (key->kind == KEY_TRIPLE ? 3 : 1); i++) {
        FGA_TRY(fga_check_range(ctx, key->name, v.n[i], (int64_t)key->low, high));
    }
    return FGA_OK;
}

fga_status fga_policy_check_keys(fga_context *ctx, const fga_policy *policy)
{
    for (int i = 0; i < KEYS; i++) {
        FGA_TRY(check_key(ctx, &keys[i], policy));
    }
    return FGA_OK;
}

/* ---- parse ---------------------------------------------------------------------------------------- */

static fga_status unknown_preset(fga_context *ctx, fga_slice name)
{
    char list[256];
    fga_text text = {list, sizeof list, 0};
    for (int i = 0; i < fga_preset_count(); i++) {
        fga_text_add(&text, "%s%s", i > 0 ? ", " : "", fga_preset_name(i));
    }
    return fga_context_fail(ctx, FGA_ERR_ARGUMENT, "there is no preset \"%.*s\"; presets are %s", fga_slice_shown(name),
                            name.at, list);
}

static fga_status unknown_key(fga_context *ctx, fga_slice name)
{
    char list[512];
    fga_text text = {list, sizeof list, 0};
    for (int i = 0; i < KEYS; i++) {
        fga_text_add(&text, "%s, ", keys[i].name);
    }
    return fga_context_fail(ctx, FGA_ERR_ARGUMENT, "a policy has no key \"%.*s\"; keys are %sdensity, phases",
                            fga_slice_shown(name), name.at, list);
}

static fga_status bad_value(fga_context *ctx, const char *key, fga_slice got, const char *wanted)
{
    return fga_context_fail(ctx, FGA_ERR_ARGUMENT, "%s is \"%.*s\", wanted %s", key, fga_slice_shown(got), got.at,
                            wanted);
}

static fga_status parse_name(fga_context *ctx, const policy_key *key, fga_slice text, int32_t *index)
{
    char list[128];
    fga_text wanted = {list, sizeof list, 0};
    for (int i = 0; key->values[i] != NULL; i++) {
        if (fga_slice_is(text, key->values[i])) {
            *index = i;
            return FGA_OK;
        }
        bool last = key->values[i + 1] == NULL;
        fga_text_add(&wanted, "%s%s", i == 0 ? "" : last ? " or " : ", ", key->values[i]);
    }
    return bad_value(ctx, key->name, text, list);
}

static fga_status parse_key(fga_context *ctx, const policy_key *key, fga_slice text, fga_policy *policy)
{
    value v = {{0}, 0};
    fga_slice rest = text;
    switch (key->kind) {
    case KEY_NAME:
    case KEY_BOOL:
        FGA_TRY(parse_name(ctx, key, text, &v.n[0]));
        break;
    case KEY_INT:
        if (!fga_parse_int(text, &v.n[0])) {
            return bad_value(ctx, key->name, text, "a whole number");
        }
        break;
    case KEY_REAL:
        if (!fga_parse_decimal(text, &v.x)) {
            return bad_value(ctx, key->name, text, "a decimal number");
        }
        break;
    case KEY_TRIPLE:
        for (int i = 0; i < 3; i++) {
            if (!fga_parse_int(i < 2 ? fga_slice_cut(&rest, 'x') : rest, &v.n[i])) {
                return bad_value(ctx, key->name, text, "three whole numbers such as 3x3x3, along t, h, w");
            }
        }
        break;
    }
    set(policy, key, &v);
    return FGA_OK;
}

/* a/b[:D];a/b[:D]... */
static fga_status parse_phases(fga_context *ctx, fga_slice text, fga_policy *policy)
{
    static const char *const wanted = "numerator/denominator:density, several joined by \";\"";
    fga_slice rest = text;
    policy->phases = 0;
    while (rest.length > 0) {
        fga_slice density = fga_slice_cut(&rest, ';'), whole = density;
        fga_slice denominator = fga_slice_cut(&density, ':');
        bool has_density = denominator.length < whole.length;
        fga_slice numerator = fga_slice_cut(&denominator, '/');
        fga_phase phase = {0};
        if (!fga_parse_int(numerator, &phase.numerator) || !fga_parse_int(denominator, &phase.denominator) ||
            (has_density && (!fga_parse_decimal(density, &phase.density) || !(phase.density > 0)))) {
            return bad_value(ctx, "phases", text, wanted);
        }
        if (policy->phases == FGA_MAX_PHASES) {
            return fga_context_fail(ctx, FGA_ERR_ARGUMENT, "more than %d phases", FGA_MAX_PHASES);
        }
        policy->phase[policy->phases++] = phase;
    }
    return FGA_OK;
}

static fga_status parse_density(fga_context *ctx, fga_slice text, fga_policy *policy)
{
    double density;
    if (!fga_parse_decimal(text, &density)) {
        return bad_value(ctx, "density", text, "a decimal above 0 and at most 1");
    }
    if (!(density > 0 && density <= 1)) {
        return fga_context_fail(ctx, FGA_ERR_ARGUMENT,
                                "density is %g, wanted above 0 and at most 1 (the kept fraction)", density);
    }
    if (policy->phases == 0) {
        return fga_context_fail(ctx, FGA_ERR_ARGUMENT, "preset %s has no sparse phase to give a density to",
                                policy->name);
    }
    for (int i = 0; i < policy->phases; i++) {
        policy->phase[i].density = density;
    }
    return FGA_OK;
}

static fga_status parse_setting(fga_context *ctx, fga_slice setting, fga_policy *policy, bool *density)
{
    fga_slice text = setting, name = fga_slice_cut(&text, '=');
    if (name.length == setting.length) {
        return fga_context_fail(ctx, FGA_ERR_ARGUMENT, "\"%.*s\" in a policy, wanted key=value",
                                fga_slice_shown(setting), setting.at);
    }
    if (fga_slice_is(name, "density")) {
        *density = true;
        return parse_density(ctx, text, policy);
    }
    if (fga_slice_is(name, "phases")) {
        return parse_phases(ctx, text, policy);
    }
    if (fga_slice_is(name, "refresh")) {
        name = fga_slice_of("refresh_every");
    }
    for (int i = 0; i < KEYS; i++) {
        if (fga_slice_is(name, keys[i].name)) {
            return parse_key(ctx, &keys[i], text, policy);
        }
    }
    return unknown_key(ctx, name);
}

fga_status fga_policy_apply(fga_context *ctx, fga_slice settings, fga_policy *policy)
{
    bool more = true, density = false;
    while (more) {
        fga_slice rest = settings;
        fga_slice setting = fga_slice_cut(&rest, ',');
        more = setting.length < settings.length;
        settings = rest;
        FGA_TRY(parse_setting(ctx, setting, policy, &density));
    }
    if (density && !fga_policy_by_density(policy)) {
        return fga_context_fail(ctx, FGA_ERR_ARGUMENT, "density is given but select is %s, which does not go by it",
                                fga_select_name(policy->select));
    }
    return FGA_OK;
}

fga_status fga_policy_parse(fga_context *ctx, const char *text, fga_policy *policy)
{
    if (text == NULL || policy == NULL) {
        return fga_context_fail(ctx, FGA_ERR_ARGUMENT, "%s is NULL", text == NULL ? "text" : "policy");
    }
    fga_slice all = fga_slice_of(text), settings = all, name = fga_slice_cut(&settings, ',');
    const fga_policy *preset = fga_preset_find(name);
    if (preset == NULL) {
        return unknown_preset(ctx, name);
    }
    fga_policy result = *preset;
    if (name.length < all.length) {
        FGA_TRY(fga_policy_apply(ctx, settings, &result));
    }
    FGA_TRY(fga_policy_check(ctx, &result));
    *policy = result;
    return FGA_OK;
}

fga_status fga_policy_set(fga_context *ctx, const char *settings, fga_policy *policy)
{
    if (settings == NULL || policy == NULL) {
        return fga_context_fail(ctx, FGA_ERR_ARGUMENT, "%s is NULL", settings == NULL ? "settings" : "policy");
    }
    FGA_TRY(fga_check_struct(ctx, "fga_policy", policy->size, sizeof *policy));
    fga_policy result = *policy;
    FGA_TRY(fga_policy_apply(ctx, fga_slice_of(settings), &result));
    FGA_TRY(fga_policy_check(ctx, &result));
    *policy = result;
    return FGA_OK;
}

fga_slice fga_settings_find(const char *settings, const char *key)
{
    fga_slice found = {NULL, 0}, rest = fga_slice_of(settings);
    while (rest.length > 0) {
        fga_slice text = fga_slice_cut(&rest, ','), name = fga_slice_cut(&text, '=');
        if (fga_slice_is(name, key)) {
            found = text;
        }
    }
    return found;
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

static void add_key(fga_text *text, const policy_key *key, const fga_policy *policy, const fga_policy *preset)
{
    value v = get(policy, key), usual = get(preset, key);
    if (v.x == usual.x && memcmp(v.n, usual.n, sizeof v.n) == 0) {
        return;
    }
    fga_text_add(text, ",%s=", key->name);
    switch (key->kind) {
    case KEY_NAME:
    case KEY_BOOL:
        fga_text_add(text, "%s", key->values[v.n[0]]);
        break;
    case KEY_INT:
        fga_text_add(text, "%d", v.n[0]);
        break;
    case KEY_REAL:
        fga_text_add_decimal(text, v.x);
        break;
    case KEY_TRIPLE:
        fga_text_add(text, "%dx%dx%d", v.n[0], v.n[1], v.n[2]);
        break;
    }
}

static void add_phases(fga_text *text, const fga_policy *policy)
{
    fga_text_add(text, ",phases=");
    for (int i = 0; i < policy->phases; i++) {
        const fga_phase *phase = &policy->phase[i];
        fga_text_add(text, "%s%d/%d", i > 0 ? ";" : "", phase->numerator, phase->denominator);
        if (phase->density > 0) {
            fga_text_add(text, ":");
            fga_text_add_decimal(text, phase->density);
        }
    }
}

fga_status fga_policy_format(fga_context *ctx, const fga_policy *policy, char *text, size_t bytes)
{
    if (policy == NULL || text == NULL) {
        return fga_context_fail(ctx, FGA_ERR_ARGUMENT, "%s is NULL", policy == NULL ? "policy" : "text");
    }
    FGA_TRY(fga_policy_check(ctx, policy));
    fga_slice name = {policy->name, strnlen(policy->name, sizeof policy->name)};
    const fga_policy *preset = fga_preset_find(name);
    if (preset == NULL) {
        return unknown_preset(ctx, name);
    }
    fga_text out = {text, bytes, 0};
    fga_text_add(&out, "%s", preset->name);
    for (int i = 0; i < KEYS; i++) {
        add_key(&out, &keys[i], policy, preset);
    }
    if (!same_phases(policy, preset)) {
        add_phases(&out, policy);
    }
    if (out.length >= bytes) {
        return fga_context_fail(ctx, FGA_ERR_ARGUMENT, "text holds %zu bytes, wanted %zu", bytes, out.length + 1);
    }
    return FGA_OK;
}
