/* policy.c - which policies make sense. */
#include "attn/policy.h"

#include "attn/grid.h"

bool fga_policy_by_density(const fga_policy *p)
{
    return p->select == FGA_SELECT_TOPK || p->select == FGA_SELECT_BUDGET || p->select == FGA_SELECT_FRAMES;
}

bool fga_policy_is_static(const fga_policy *p)
{
    return p->select == FGA_SELECT_ALL || p->select == FGA_SELECT_WINDOW || p->select == FGA_SELECT_RADIAL;
}

static fga_status check_phases(fga_context *ctx, const fga_policy *p)
{
    FGA_TRY(fga_check_range(ctx, "phases", p->phases, 0, FGA_MAX_PHASES));
    for (int i = 0; i < p->phases; i++) {
        const fga_phase *now = &p->phase[i], *before = i > 0 ? now - 1 : now;
        FGA_TRY(fga_check_range(ctx, "a phase's denominator", now->denominator, 1, FGA_MAX_COUNT));
        FGA_TRY(fga_check_range(ctx, "a phase's numerator", now->numerator, 0, now->denominator));
        if (now->density == 0 && fga_policy_by_density(p)) {
            return fga_context_fail(ctx, FGA_ERR_ARGUMENT, "phase %d/%d has no density, by which select=%s goes",
                                    now->numerator, now->denominator, fga_select_name(p->select));
        }
        if (!(now->density >= 0 && now->density <= 1)) {
            return fga_context_fail(ctx, FGA_ERR_ARGUMENT,
                                    "density is %g, wanted above 0 and at most 1 (the kept fraction)", now->density);
        }
        if ((int64_t)before->numerator * now->denominator > (int64_t)now->numerator * before->denominator) {
            return fga_context_fail(ctx, FGA_ERR_ARGUMENT, "phase %d/%d comes before phase %d/%d, wanted rising phases",
                                    now->numerator, now->denominator, before->numerator, before->denominator);
        }
    }
    return FGA_OK;
}

static fga_status refuse(fga_context *ctx, const fga_policy *p, const char *what, const char *wanted)
{
    return fga_context_fail(ctx, FGA_ERR_ARGUMENT, "select is %s but %s, wanted %s", fga_select_name(p->select), what,
                            wanted);
}

static fga_status check_select(fga_context *ctx, const fga_policy *p)
{
    switch (p->select) {
    case FGA_SELECT_TOPK:
    case FGA_SELECT_TOPP:
    case FGA_SELECT_THRESHOLD:
    case FGA_SELECT_BUDGET:
        if (p->score == FGA_SCORE_NONE) {
            return refuse(ctx, p, "score is none", "score=mass");
        }
        if (p->score == FGA_SCORE_LSE && p->select == FGA_SELECT_BUDGET) {
            return refuse(ctx, p, "score is lse", "a score whose rows can be compared");
        }
        if (p->select == FGA_SELECT_TOPP && !(p->tau > 0)) {
            return refuse(ctx, p, "tau is not above 0", "the mass to keep");
        }
        return FGA_OK;
    case FGA_SELECT_ADAPTIVE:
        return p->score == FGA_SCORE_MEAN ? FGA_OK : refuse(ctx, p, "score is not mean", "score=mean");
    case FGA_SELECT_WINDOW:
        for (int i = 0; i < 3; i++) {
            FGA_TRY(fga_check_range(ctx, "window", p->window[i], 1, FGA_MAX_COUNT));
        }
        return FGA_OK;
    case FGA_SELECT_RADIAL:
        return p->width > 0 ? FGA_OK : refuse(ctx, p, "width is 0", "a width above 0");
    case FGA_SELECT_CUSTOM:
        return p->custom_keep != NULL ? FGA_OK
                                      : refuse(ctx, p, "there is no function, which text cannot name", "custom_keep");
    case FGA_SELECT_ALL:
    case FGA_SELECT_FRAMES:
        break;
    }
    return FGA_OK;
}

static fga_status check_group(fga_context *ctx, int32_t group)
{
    if (group < 8 || group > 256 || (group & (group - 1)) != 0) {
        return fga_context_fail(ctx, FGA_ERR_ARGUMENT, "group is %d, wanted 8, 16, 32, 64, 128 or 256", group);
    }
    return FGA_OK;
}

fga_status fga_policy_check(fga_context *ctx, const fga_policy *p)
{
    FGA_TRY(fga_check_struct(ctx, "fga_policy", p->size, sizeof *p));
    FGA_TRY(fga_policy_check_keys(ctx, p));
    FGA_TRY(fga_check_block_m(ctx, p->block_m));
    FGA_TRY(fga_check_tile_n(ctx, p->tile_n));
    FGA_TRY(check_group(ctx, p->group));
    if (p->score == FGA_SCORE_CUSTOM && p->custom == NULL) {
        return fga_context_fail(ctx, FGA_ERR_ARGUMENT,
                                "score is custom but there is no function, which text cannot name");
    }
    if (p->neighbours > 0 && p->block_m != p->tile_n) {
        return fga_context_fail(ctx, FGA_ERR_ARGUMENT,
                                "neighbours is %d but block_m is %d and tile_n %d, wanted blocks and tiles of one size",
                                p->neighbours, p->block_m, p->tile_n);
    }
    if (p->phases > 0) {
        FGA_TRY(check_select(ctx, p));
    }
    return check_phases(ctx, p);
}
