/* schedule.c - when a step is dense, refreshes its masks or reuses them: pure functions of (step, steps, layer). */
#include "attn/policy.h"

/* ceil(a*n/b) */
static int64_t phase_start(const fga_phase *phase, int steps)
{
    return ((int64_t)phase->numerator * steps + phase->denominator - 1) / phase->denominator;
}

/* The phase that `step` is in: of those begun, the last in time; of coinciding ones, the later in the list. */
static const fga_phase *phase_of(const fga_policy *policy, int step, int steps, int64_t *start)
{
    const fga_phase *current = NULL;
    *start = 0;
    for (int i = 0; i < policy->phases; i++) {
        int64_t begin = phase_start(&policy->phase[i], steps);
        if (begin <= step && (current == NULL || begin >= *start)) {
            current = &policy->phase[i];
            *start = begin;
        }
    }
    return current;
}

int fga_policy_refresh_step(const fga_policy *policy, int step, int steps, int layer)
{
    int64_t start;
    if (layer < policy->dense_layers || phase_of(policy, step, steps, &start) == NULL) {
        return -1;
    }
    int64_t age = policy->refresh_every > 0 ? (step - start) % policy->refresh_every : step - start;
    return (int)(step - age);
}

fga_step_kind fga_policy_step(const fga_policy *policy, int step, int steps, int layer, double *density)
{
    int refreshed = fga_policy_refresh_step(policy, step, steps, layer);
    if (refreshed < 0) {
        return FGA_STEP_DENSE;
    }
    if (density != NULL) {
        int64_t start;
        *density = phase_of(policy, step, steps, &start)->density;
    }
    return refreshed == step ? FGA_STEP_REFRESH : FGA_STEP_REUSE;
}

bool fga_policy_mask_ends(const fga_policy *policy, int step, int steps, int layer)
{
    return step + 1 >= steps || fga_policy_step(policy, step + 1, steps, layer, NULL) != FGA_STEP_REUSE;
}
