/* session_plan.c - one kit of plans per distinct policy of a layer and branch, and one workspace for all of them. */
#include "attn/session.h"

#include "attn/policy.h"
#include "base/context.h"

#include <string.h>

/* A target is only as good as its sample: at least so many queries per head, if there are. */
enum { TARGET_SAMPLES = 256 };

static const double default_fraction = 0.02;

fga_session_slot *fga_session_slot_of(const fga_session *s, int layer, int branch)
{
    return &s->slots[(int64_t)layer * s->desc.branches + (s->desc.policy.share_branches ? 0 : branch)];
}

/* ---- sizes of the workspace's parts ------------------------------------------------------------------ */

typedef struct parts {
    size_t work, sums, lse, meter, meter_host;
} parts;

static void raise(size_t *most, size_t bytes)
{
    *most = bytes > *most ? bytes : *most;
}

/* ---- one kit ---------------------------------------------------------------------------------------- */

static fga_attend_desc describe(const fga_session *s)
{
    const fga_session_desc *d = &s->desc;
    fga_attend_desc attend = fga_attend_desc_default();
    attend.batch = d->batch;
    attend.query_heads = d->query_heads;
    attend.kv_heads = d->kv_heads;
    attend.head_dim = d->head_dim;
    attend.query_len = attend.key_len = fga_sequence_length(&d->sequence);
    attend.dtype = d->dtype;
    return attend;
}

static fga_predict_desc predict_desc(const fga_session *s, const fga_policy *policy)
{
    const fga_session_desc *d = &s->desc;
    fga_predict_desc predict = fga_predict_desc_default();
    predict.batch = d->batch;
    predict.query_heads = d->query_heads;
    predict.kv_heads = d->kv_heads;
    predict.head_dim = d->head_dim;
    predict.dtype = d->dtype;
    predict.query = predict.key = d->sequence;
    predict.block_m = policy->block_m;
    predict.tile_n = policy->tile_n;
    predict.sub_q = policy->sub_q;
    predict.sub_k = policy->sub_k;
    return predict;
}

/* Kits of one M and N make their masks in one bit map: calls come one after another. */
static fga_status make_scratch(const fga_session *s, fga_session_kit *kit)
{
    for (int64_t i = 0; i < s->kit_count; i++) {
        const fga_policy *other = &s->kits[i]->policy;
        if (s->kits[i] != kit && other->block_m == kit->policy.block_m && other->tile_n == kit->policy.tile_n) {
            kit->scratch = fga_mask_retain(s->kits[i]->scratch);
            return FGA_OK;
        }
    }
    fga_mask_desc m = fga_mask_desc_default();
    m.batch = s->desc.batch;
    m.heads = s->desc.query_heads;
    m.block_m = kit->policy.block_m;
    m.tile_n = kit->policy.tile_n;
    m.query = m.key = s->desc.sequence;
    return fga_mask_create(s->ctx, &m, FGA_MASK_BITMAP, &kit->scratch);
}

static fga_status make_meter(const fga_session *s, fga_session_kit *kit, parts *most)
{
    double fraction = s->desc.measure_fraction, video = (double)s->desc.sequence.video_valid;
    bool watched = kit->targets || kit->policy.refresh_drop > 0;
    if ((fraction == 0 && !watched) || video == 0) {
        return FGA_OK;
    }
    fraction = fraction > 0 ? fraction : default_fraction;
    if (kit->targets && fraction * video < TARGET_SAMPLES) {
        fraction = (TARGET_SAMPLES + 0.5) / video;
    }
    FGA_TRY(fga_meter_init(s->ctx, &kit->attend.desc, &s->desc.sequence, fraction, &kit->meter));
    raise(&most->meter, kit->meter.workspace_bytes);
    raise(&most->meter_host, kit->meter.host_bytes);
    if (fga_session_on_device(s)) {
        return FGA_OK;
    }
    size_t lse = 0;
    if (!fga_size_add(&lse, s->desc.batch * s->desc.query_heads * kit->attend.desc.query_len, sizeof(float))) {
        return fga_context_fail(s->ctx, FGA_ERR_UNSUPPORTED, "the session's workspace is too large");
    }
    raise(&most->lse, lse);
    return FGA_OK;
}

static fga_status fill_kit(const fga_session *s, fga_session_kit *kit, parts *most)
{
    const fga_policy *policy = &kit->policy;
    fga_attend_desc attend = describe(s);
    fga_predict_desc predict = predict_desc(s, policy);
    const int64_t grid[3] = {s->desc.frames, s->desc.height, s->desc.width};
    kit->targets = policy->target_recall > 0 || policy->recall_floor > 0 || policy->target_error > 0;
    attend.block_m = policy->block_m;
    attend.tile_n = policy->tile_n;
    FGA_TRY(fga_attend_plan_init(s->ctx, &attend, &kit->attend));
    raise(&most->work, kit->attend.workspace_bytes);
    bool on_device = fga_session_on_device(s);
    if (on_device) {
        predict = fga_refresh_describe(&predict, policy);
        FGA_TRY(fga_session_check_gpu(s->ctx, policy));
        FGA_TRY(fga_refresh_gpu_init(s->ctx, &predict, policy, &kit->gpu));
        raise(&most->work, kit->gpu.workspace_bytes);
    } else {
        FGA_TRY(fga_refresh_init(s->ctx, policy, &predict, grid, kit->targets, &kit->refresh));
        raise(&most->work, kit->refresh.workspace_bytes);
    }
    if (!on_device && policy->target_recall > 0 && fga_policy_by_density(policy)) {
        FGA_TRY(fga_estimator_init(s->ctx, &predict, &kit->estimator));
        raise(&most->work, kit->estimator.workspace_bytes);
    }
    if (policy->rest == FGA_REST_REMAINDER) {
        size_t bytes;
        FGA_TRY(fga_remainder_place(s->ctx, &attend, policy->group, NULL, &bytes, NULL));
        raise(&most->sums, bytes);
    }
    FGA_TRY(make_meter(s, kit, most));
    return on_device ? FGA_OK : make_scratch(s, kit);
}

/* ---- all of them -------------------------------------------------------------------------------------- */

/* Policies are copies of one another with some fields set, so their bytes tell whether they are equal; where padding
 * differs there is a kit too many. */
static fga_status find_kit(fga_session *s, const fga_policy *policy, parts *most, fga_session_kit **found)
{
    for (int64_t i = 0; i < s->kit_count; i++) {
        // NOLINTNEXTLINE(bugprone-suspicious-memory-comparison): see above
        if (memcmp(&s->kits[i]->policy, policy, sizeof *policy) == 0) {
            *found = s->kits[i];
            return FGA_OK;
        }
    }
    fga_session_kit *kit = fga_alloc(s->ctx, sizeof *kit);
    if (kit == NULL) {
        return fga_context_fail(s->ctx, FGA_ERR_MEMORY, "no memory for a session's plans");
    }
    memset(kit, 0, sizeof *kit);
    memcpy(&kit->policy, policy, sizeof *policy);
    s->kits[s->kit_count++] = kit;
    *found = kit;
    return fill_kit(s, kit, most);
}

static fga_status make_slots(fga_session *s, parts *most)
{
    for (int64_t i = 0; i < s->slot_count; i++) {
        int layer = (int)(i / s->desc.branches), branch = (int)(i % s->desc.branches);
        fga_session_slot *slot = &s->slots[i];
        slot->refreshed = -1;
        fga_layer_setting setting;
        memset(&setting, 0, sizeof setting);
        FGA_TRY(fga_settings_layer(&s->settings, layer, branch, &setting));
        bool unused = s->desc.policy.share_branches && branch > 0;
        if (!setting.dense && setting.policy.phases > 0 && !unused) {
            FGA_TRY(find_kit(s, &setting.policy, most, &slot->kit));
        }
    }
    return FGA_OK;
}

fga_status fga_session_plan(fga_session *s)
{
    parts most = {0};
    fga_attend_desc dense = describe(s);
    FGA_TRY(fga_attend_plan_init(s->ctx, &dense, &s->dense));
    raise(&most.work, s->dense.workspace_bytes);
    s->report.variant = fga_attend_plan_variant(&s->dense);
    FGA_TRY(make_slots(s, &most));
    if (fga_session_on_device(s)) {
        FGA_TRY(fga_session_masks_gpu(s));
    }
    size_t used = 0;
    bool fits = fga_size_add(&used, 1, most.work);
    s->sums_at = used;
    fits = fits && fga_size_add(&used, 1, most.sums);
    s->lse_at = used;
    fits = fits && fga_size_add(&used, 1, most.lse);
    s->meter_at = used;
    fits = fits && fga_size_add(&used, 1, most.meter);
    s->workspace_bytes = used;
    if (most.meter_host > 0) {
        s->meter_host = fga_alloc(s->ctx, most.meter_host);
        if (s->meter_host == NULL) {
            return fga_context_fail(s->ctx, FGA_ERR_MEMORY, "no memory for what a session measures");
        }
    }
    return fits ? FGA_OK : fga_context_fail(s->ctx, FGA_ERR_UNSUPPORTED, "the session's workspace is too large");
}

void fga_session_unplan(fga_session *s)
{
    for (int64_t i = 0; s->slots != NULL && i < s->slot_count; i++) {
        fga_mask_release(&s->slots[i].mask);
    }
    for (int64_t i = 0; i < s->kit_count; i++) {
        fga_mask_release(&s->kits[i]->scratch);
        fga_free(s->ctx, s->kits[i]);
    }
    s->kit_count = 0;
}
