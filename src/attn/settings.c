/* settings.c - overrides of a policy: by layer and branch anything but time and order, by head a few numbers. */
#include "attn/settings.h"

#include "attn/grid.h"

#include <inttypes.h>
#include <string.h>

static bool for_all_heads(const fga_settings *s, const fga_override *o)
{
    return o->head_first <= 0 && o->head_last >= s->query_heads - 1;
}

static bool applies(const fga_override *o, int layer, int branch)
{
    return o->layer_first <= layer && layer <= o->layer_last && (o->branch == -1 || o->branch == branch);
}

static bool has(const char *settings, const char *key)
{
    return fga_settings_find(settings, key).at != NULL;
}

/* ---- one override -------------------------------------------------------------------------------------- */

static fga_status check_places(const fga_settings *s, const fga_override *o)
{
    fga_context *ctx = s->ctx;
    if (memchr(o->settings, 0, sizeof o->settings) == NULL) {
        return fga_context_fail(ctx, FGA_ERR_ARGUMENT, "settings do not end within %zu bytes", sizeof o->settings);
    }
    FGA_TRY(fga_check_range(ctx, "layer_first", o->layer_first, 0, s->layers - 1));
    FGA_TRY(fga_check_range(ctx, "layer_last", o->layer_last, o->layer_first, INT32_MAX));
    if (o->layer_last >= s->layers && o->layer_last != INT32_MAX) {
        return fga_check_range(ctx, "layer_last", o->layer_last, o->layer_first, s->layers - 1);
    }
    FGA_TRY(fga_check_range(ctx, "head_first", o->head_first, 0, s->query_heads - 1));
    FGA_TRY(fga_check_range(ctx, "head_last", o->head_last, o->head_first, INT32_MAX));
    if (o->head_last >= s->query_heads && o->head_last != INT32_MAX) {
        return fga_check_range(ctx, "head_last", o->head_last, o->head_first, s->query_heads - 1);
    }
    FGA_TRY(fga_check_range(ctx, "branch", o->branch, -1, s->branches - 1));
    if (o->branch > 0 && s->policy->share_branches) {
        return fga_context_fail(ctx, FGA_ERR_ARGUMENT, "branch is %d, wanted -1 or 0: branches share their masks",
                                o->branch);
    }
    return FGA_OK;
}

/* Keys that the whole layer's heads share are refused where an override is for some heads only, and those of the whole
 * session everywhere. */
static fga_status check_keys(const fga_settings *s, const fga_override *o)
{
    static const char *const session_keys[] = {"order", "dense_layers", "share_branches", NULL};
    static const char *const head_keys[] = {"density", "tau", "threshold", "neighbours", "dense", NULL};
    bool all = for_all_heads(s, o);
    fga_slice rest = fga_slice_of(o->settings);
    while (rest.length > 0) {
        fga_slice text = fga_slice_cut(&rest, ','), name = fga_slice_cut(&text, '=');
        bool listed = false;
        for (const char *const *key = all ? session_keys : head_keys; *key != NULL; key++) {
            listed |= fga_slice_is(name, *key);
        }
        if (listed == all) {
            return fga_context_fail(s->ctx, FGA_ERR_ARGUMENT,
                                    all ? "%.*s is set, which is the whole session's alone"
                                        : "%.*s is set for some heads, wanted density, tau, threshold, neighbours or "
                                          "dense=true: the rest is the whole layer's",
                                    fga_slice_shown(name), name.at);
        }
    }
    return FGA_OK;
}

/* Removes "dense=true|false" from the settings, which no policy has, into *dense; `left` holds as many bytes. */
static fga_status take_dense(const fga_settings *s, const char *settings, char *left, bool *dense)
{
    fga_slice rest = fga_slice_of(settings);
    bool more = true;
    left[0] = 0;
    while (more) {
        fga_slice after = rest, setting = fga_slice_cut(&after, ',');
        more = setting.length < rest.length;
        rest = after;
        fga_slice text = setting, name = fga_slice_cut(&text, '=');
        if (!fga_slice_is(name, "dense")) {
            size_t used = strlen(left);
            memcpy(left + used, ",", used > 0);
            used += used > 0;
            memcpy(left + used, setting.at, setting.length);
            left[used + setting.length] = 0;
        } else if (fga_slice_is(text, "true") || fga_slice_is(text, "false")) {
            *dense = fga_slice_is(text, "true");
        } else {
            return fga_context_fail(s->ctx, FGA_ERR_ARGUMENT, "dense is \"%.*s\", wanted false or true",
                                    fga_slice_shown(text), text.at);
        }
    }
    return FGA_OK;
}

static bool same_times(const fga_policy *a, const fga_policy *b)
{
    bool same = a->phases == b->phases;
    for (int i = 0; same && i < a->phases; i++) {
        same = a->phase[i].numerator == b->phase[i].numerator && a->phase[i].denominator == b->phase[i].denominator;
    }
    return same;
}

static fga_status apply(const fga_settings *s, const fga_override *o, fga_policy *policy, bool *dense)
{
    char left[sizeof o->settings];
    FGA_TRY(take_dense(s, o->settings, left, dense));
    if (left[0] != 0 || !has(o->settings, "dense")) {
        FGA_TRY(fga_policy_apply(s->ctx, fga_slice_of(left), policy));
    }
    if (!same_times(policy, s->policy)) {
        return fga_context_fail(s->ctx, FGA_ERR_ARGUMENT, "phases start at other times than the session's");
    }
    return FGA_OK;
}

/* Says which override the error in the context is about. */
static fga_status blame(const fga_settings *s, int32_t index, fga_status status)
{
    if (status == FGA_OK) {
        return FGA_OK;
    }
    char reason[512];
    fga_text text = {reason, sizeof reason, 0};
    fga_text_add(&text, "%s", fga_last_error(s->ctx));
    const fga_override *o = &s->overrides[index];
    return fga_context_fail(s->ctx, status, "override %d (layers %d ... %d, heads %d ... %d, branch %d): %s", index,
                            o->layer_first, o->layer_last, o->head_first, o->head_last, o->branch, reason);
}

/* ---- what holds where ----------------------------------------------------------------------------------- */

fga_status fga_settings_layer(const fga_settings *s, int layer, int branch, fga_layer_setting *result)
{
    *result = (fga_layer_setting){*s->policy, layer < s->policy->dense_layers};
    for (int32_t i = 0; i < s->count; i++) {
        const fga_override *o = &s->overrides[i];
        if (applies(o, layer, branch) && for_all_heads(s, o)) {
            FGA_TRY(blame(s, i, apply(s, o, &result->policy, &result->dense)));
        }
    }
    return FGA_OK;
}

/* Whether a later override of the whole layer takes a head's key back. */
static bool taken_back(const fga_settings *s, int32_t index, int layer, int branch, const char *key)
{
    for (int32_t i = index + 1; i < s->count; i++) {
        const fga_override *o = &s->overrides[i];
        if (applies(o, layer, branch) && for_all_heads(s, o) &&
            (has(o->settings, key) || (strcmp(key, "density") == 0 && has(o->settings, "phases")))) {
            return true;
        }
    }
    return false;
}

fga_status fga_settings_heads(const fga_settings *s, int layer, int branch, double density, fga_head_setting *heads)
{
    fga_layer_setting whole;
    FGA_TRY(fga_settings_layer(s, layer, branch, &whole));
    const fga_policy *p = &whole.policy;
    for (int64_t h = 0; h < s->batch * s->query_heads; h++) {
        heads[h] = (fga_head_setting){density, p->tau, p->threshold, p->neighbours, whole.dense};
    }
    for (int32_t i = 0; i < s->count; i++) {
        const fga_override *o = &s->overrides[i];
        if (!applies(o, layer, branch) || for_all_heads(s, o)) {
            continue;
        }
        fga_policy own = *p;
        bool dense = whole.dense;
        FGA_TRY(blame(s, i, apply(s, o, &own, &dense)));
        FGA_TRY(blame(s, i, fga_policy_check(s->ctx, &own)));
        struct {
            const char *key;
            bool set;
        } keys[] = {{"density", 0}, {"tau", 0}, {"threshold", 0}, {"neighbours", 0}, {"dense", 0}};
        for (int k = 0; k < 5; k++) {
            keys[k].set = has(o->settings, keys[k].key) && !taken_back(s, i, layer, branch, keys[k].key);
        }
        for (int64_t h = 0; h < s->batch * s->query_heads; h++) {
            int64_t head = h % s->query_heads;
            if (head < o->head_first || head > o->head_last) {
                continue;
            }
            fga_head_setting *to = &heads[h];
            to->density = keys[0].set ? own.phase[0].density : to->density;
            to->tau = keys[1].set ? own.tau : to->tau;
            to->threshold = keys[2].set ? own.threshold : to->threshold;
            to->neighbours = keys[3].set ? own.neighbours : to->neighbours;
            to->dense = keys[4].set ? dense : to->dense;
        }
    }
    return FGA_OK;
}

/* ---- check ---------------------------------------------------------------------------------------------- */

/* The layer's policy as a whole, and every override of some of its heads. */
static fga_status check_layer(const fga_settings *s, int layer, int branch)
{
    fga_layer_setting whole;
    FGA_TRY(fga_settings_layer(s, layer, branch, &whole));
    int32_t last = -1;
    for (int32_t i = 0; i < s->count; i++) {
        const fga_override *o = &s->overrides[i];
        if (!applies(o, layer, branch)) {
            continue;
        }
        if (for_all_heads(s, o)) {
            last = i;
            continue;
        }
        fga_policy own = whole.policy;
        bool dense;
        FGA_TRY(blame(s, i, apply(s, o, &own, &dense)));
        FGA_TRY(blame(s, i, fga_policy_check(s->ctx, &own)));
    }
    return last < 0 ? FGA_OK : blame(s, last, fga_policy_check(s->ctx, &whole.policy));
}

fga_status fga_settings_check(const fga_settings *s)
{
    FGA_TRY(fga_policy_check(s->ctx, s->policy));
    FGA_TRY(fga_check_range(s->ctx, "override_count", s->count, 0, INT32_MAX));
    if (s->count > 0 && s->overrides == NULL) {
        return fga_context_fail(s->ctx, FGA_ERR_ARGUMENT, "override_count is %" PRId32 " but overrides is NULL",
                                s->count);
    }
    for (int32_t i = 0; i < s->count; i++) {
        FGA_TRY(blame(s, i, check_places(s, &s->overrides[i])));
        FGA_TRY(blame(s, i, check_keys(s, &s->overrides[i])));
    }
    for (int layer = 0; s->count > 0 && layer < s->layers; layer++) {
        for (int branch = 0; branch < s->branches; branch++) {
            FGA_TRY(check_layer(s, layer, branch));
        }
    }
    return FGA_OK;
}
