/* settings.h - a policy and its overrides: what holds for one layer and branch, and for each of its heads. */
#ifndef FGA_ATTN_SETTINGS_H
#define FGA_ATTN_SETTINGS_H

#include "attn/policy.h"
#include "attn/select.h"

typedef struct fga_settings {
    fga_context *ctx;
    const fga_policy *policy;
    const fga_override *overrides; /* [count], in the order in which they apply */
    int32_t count;
    int layers, branches;
    int64_t batch, query_heads;
} fga_settings;

/* What the overrides of whole layers make of the policy. */
typedef struct fga_layer_setting {
    fga_policy policy;
    bool dense; /* the layer is never sparse in this branch */
} fga_layer_setting;

/* Checks the policy and every override, wherever it applies: after this the functions below cannot fail. */
fga_status fga_settings_check(const fga_settings *settings);
fga_status fga_settings_layer(const fga_settings *settings, int layer, int branch, fga_layer_setting *result);
/* heads [batch*query_heads]; density: the phase's, of the layer's policy (fga_policy_step). */
fga_status fga_settings_heads(const fga_settings *settings, int layer, int branch, double density,
                              fga_head_setting *heads);

#endif
