/* libFuzzer target: any text as a policy, and as settings of one. What parses must print, and print to what it came
 * from. */
#include "fgattn.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(bool holds)
{
    if (!holds) {
        abort();
    }
}

static void prints_to_itself(fga_context *ctx, const fga_policy *policy)
{
    char text[FGA_POLICY_TEXT], again[FGA_POLICY_TEXT];
    fga_policy second;
    require(fga_policy_format(ctx, policy, text, sizeof text) == FGA_OK);
    require(fga_policy_parse(ctx, text, &second) == FGA_OK);
    require(fga_policy_format(ctx, &second, again, sizeof again) == FGA_OK);
    require(strcmp(text, again) == 0);
    require(second.phases == policy->phases && second.select == policy->select && second.group == policy->group);
    for (int step = 0; step < 7; step++) {
        double a = 0, b = 0;
        require(fga_policy_step(policy, step, 7, 3, &a) == fga_policy_step(&second, step, 7, 3, &b) && a == b);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static fga_context *ctx;
    if (ctx == NULL) {
        fga_context_options options = fga_context_options_default();
        options.threads = 1;
        require(fga_context_create(&options, &ctx) == FGA_OK);
    }
    char *text = malloc(size + 1);
    if (size > 0) {
        memcpy(text, data, size);
    }
    text[size] = 0;
    fga_policy policy, before;
    if (fga_policy_parse(ctx, text, &policy) == FGA_OK) {
        prints_to_itself(ctx, &policy);
    }
    for (int i = 0; i < fga_preset_count(); i++) {
        require(fga_policy_parse(ctx, fga_preset_name(i), &policy) == FGA_OK);
        before = policy;
        if (fga_policy_set(ctx, text, &policy) == FGA_OK) {
            prints_to_itself(ctx, &policy);
        } else {
            require(memcmp(&policy, &before, sizeof policy) == 0);
        }
    }
    free(text);
    return 0;
}
