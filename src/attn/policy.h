/* policy.h - policies: checking one, and where its timetable last refreshed. */
#ifndef FGA_ATTN_POLICY_H
#define FGA_ATTN_POLICY_H

#include "base/error.h"

fga_status fga_policy_check(fga_context *ctx, const fga_policy *policy);
/* The newest step at or before `step` at which the timetable refreshes; -1 when `step` is dense. */
int fga_policy_refresh_step(const fga_policy *policy, int step, int steps, int layer);
/* Whether a mask made at the last refresh is used for the last time at `step`. */
bool fga_policy_mask_ends(const fga_policy *policy, int step, int steps, int layer);

#endif
