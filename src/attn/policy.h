/* policy.h - policies: presets, checking one, settings as text, and where its timetable last refreshed. */
#ifndef FGA_ATTN_POLICY_H
#define FGA_ATTN_POLICY_H

#include "attn/text.h"

enum { FGA_MAX_COUNT = 100000 }; /* of steps, layers, phase fractions: keeps the text form short */

const fga_policy *fga_preset_find(fga_slice name); /* NULL: there is none */
fga_status fga_policy_check(fga_context *ctx, const fga_policy *policy);
/* Whether its phases need a density. */
bool fga_policy_by_density(const fga_policy *policy);
/* Whether it keeps the same tiles whatever q and k are. FGA_SELECT_FRAMES does not: its heads choose. */
bool fga_policy_is_static(const fga_policy *policy);
/* The numbers of a policy and their ranges, for checks. */
fga_status fga_policy_check_keys(fga_context *ctx, const fga_policy *policy);
const char *fga_select_name(fga_select select);
/* Applies "key=value[,key=value...]" without checking the whole. */
fga_status fga_policy_apply(fga_context *ctx, fga_slice settings, fga_policy *policy);
/* The value of `key` in "key=value[,key=value...]", the last if there are several; at = NULL: there is none. */
fga_slice fga_settings_find(const char *settings, const char *key);

/* The newest step at or before `step` at which the timetable refreshes; -1 when `step` is dense. */
int fga_policy_refresh_step(const fga_policy *policy, int step, int steps, int layer);
/* Whether a mask made at the last refresh is used for the last time at `step`. */
bool fga_policy_mask_ends(const fga_policy *policy, int step, int steps, int layer);

#endif
