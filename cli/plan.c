#include "plan.h"

#include <string.h>

void cli_describe_presets(char *text, size_t bytes)
{
    size_t length = (size_t)snprintf(text, bytes,
                                     "PRESET[,key=value...], such as %s,dense_layers=2; default %s,\nin f32 %s, on AMX "
                                     "tiles %s",
                                     CLI_DEFAULT_PRESET, CLI_DEFAULT_PRESET, CLI_DEFAULT_IN_F32, CLI_DEFAULT_ON_TILES);
    for (int i = 0; i < fga_preset_count() && length < bytes; i++) {
        length +=
            (size_t)snprintf(text + length, bytes - length, "\n%s: %s", fga_preset_name(i), fga_preset_summary(i));
    }
}

double cli_recall_floor(double target)
{
    double floor = 1 - 3 * (1 - target);
    return floor > 0 ? floor : 0;
}

fga_dtype cli_dtype_of(fgv_compute compute)
{
    return strcmp(fgv_compute_name(compute), "bf16") == 0 ? FGA_BF16 : FGA_F32;
}

/* The more of a kernel's time goes into gathering keys and values, the more queries have to share them: 16 fill half of
 * a register tile of f32, and on AMX tiles copies take longer than products. */
int cli_default_preset(fga_context *ctx, fga_dtype dtype, const char **text)
{
    fga_attend_desc desc = fga_attend_desc_default();
    desc.batch = desc.query_heads = desc.kv_heads = desc.query_len = desc.key_len = 1;
    desc.head_dim = 128;
    desc.dtype = dtype;
    fga_attend_plan *plan = NULL;
    *text = CLI_DEFAULT_PRESET;
    fga_status status = fga_attend_plan_create(ctx, &desc, &plan);
    if (status != FGA_OK) {
        return cli_fail_status(ctx, status);
    }
    const char *variant = fga_attend_plan_variant(plan);
    if (strcmp(variant, "amx") == 0) {
        *text = CLI_DEFAULT_ON_TILES;
    } else if (strcmp(variant, "avx512bf16") != 0) { /* bf16 as well is multiplied as f32 */
        *text = CLI_DEFAULT_IN_F32;
    }
    fga_attend_plan_destroy(&plan);
    return CLI_DONE;
}

static int read_preset(fga_context *ctx, const cli_attention *a, fga_policy *policy)
{
    char text[FGA_POLICY_TEXT];
    const char *preset = a->text;
    int code = preset != NULL ? CLI_DONE : cli_default_preset(ctx, a->dtype, &preset);
    if (code != CLI_DONE) {
        return code;
    }
    int length = a->density_given ? snprintf(text, sizeof text, "%s,density=%.14f", preset, a->density)
                                  : snprintf(text, sizeof text, "%s", preset);
    if (length < 0 || (size_t)length >= sizeof text) {
        return cli_fail(CLI_USAGE, "--attention: a text of %zu bytes is too long", strlen(preset));
    }
    fga_status status = fga_policy_parse(ctx, text, policy);
    return status == FGA_OK ? CLI_DONE : cli_fail_status(ctx, status);
}

static int check_target(const fga_policy *policy, const char *option)
{
    return policy->phases > 0 ? CLI_DONE
                              : cli_fail(CLI_USAGE, "--%s with %s, which is dense throughout: there is nothing to hold",
                                         option, policy->name);
}

static int add_targets(const cli_attention *a, fga_policy *policy)
{
    int code = CLI_DONE;
    if (a->recall_given) {
        policy->target_recall = a->recall;
        policy->recall_floor = cli_recall_floor(a->recall);
        code = check_target(policy, "recall");
    }
    if (a->error_given && code == CLI_DONE) {
        policy->target_error = a->error;
        code = check_target(policy, "error");
    }
    return code;
}

int cli_read_attention(fga_context *ctx, const cli_attention *a, fgv_profile *profile)
{
    int code;
    if (a->profile != NULL) {
        if (a->text != NULL || a->density_given) {
            return cli_fail(CLI_USAGE, "--profile brings the preset and its densities: leave --%s out",
                            a->text != NULL ? "attention" : "density");
        }
        fga_status status = fgv_profile_read(ctx, a->profile, profile);
        code = status == FGA_OK ? CLI_DONE : cli_fail_status(ctx, status);
    } else {
        code = read_preset(ctx, a, &profile->policy);
    }
    return code == CLI_DONE ? add_targets(a, &profile->policy) : code;
}

/* A profile speaks of numbered layers and heads: those of another model are something else. */
static int check_model(const fgv_profile *p, const char *path, const fgv_model *model)
{
    const fgv_model_info about = fgv_model_describe(model);
    if ((p->layers > 0 && p->layers != about.layers) || (p->heads > 0 && p->heads != about.heads) ||
        (p->head_dim > 0 && p->head_dim != about.head_dim)) {
        return cli_fail(CLI_BAD_DATA,
                        "%s is for a model of %d layers with %d heads of %d channels; this one has %d, %d and %d", path,
                        p->layers, p->heads, p->head_dim, about.layers, about.heads, about.head_dim);
    }
    return CLI_DONE;
}

/* Without guidance there is no branch 1 to override. */
static void drop_branches(fgv_profile *p, int branches)
{
    int32_t kept = 0;
    for (int32_t i = 0; i < p->override_count; i++) {
        if (p->overrides[i].branch < branches) {
            p->overrides[kept++] = p->overrides[i];
        }
    }
    p->override_count = kept;
}

int cli_use_profile(fga_context *ctx, fgv_profile *profile, const cli_attention *a, const fgv_model *model,
                    fgv_request *request)
{
    request->policy = profile->policy;
    if (a->profile == NULL) {
        return CLI_DONE;
    }
    int code = check_model(profile, a->profile, model);
    if (code != CLI_DONE) {
        return code;
    }
    fga_status status = fgv_request_check(model, request);
    if (status != FGA_OK) { /* whatever is wrong, it is not an override */
        return cli_fail_status(ctx, status);
    }
    drop_branches(profile, request->guidance > 1 ? 2 : 1);
    request->overrides = profile->overrides;
    request->override_count = profile->override_count;
    status = fgv_request_check(model, request);
    return status == FGA_ERR_ARGUMENT ? cli_fail(CLI_BAD_DATA, "%s: %s", a->profile, fga_last_error(ctx))
           : status != FGA_OK         ? cli_fail_status(ctx, status)
                                      : CLI_DONE;
}
