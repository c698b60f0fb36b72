/* session.c - what lives across denoising steps: making and freeing it, and the report of what ran. */
#include "attn/session.h"

#include "attn/policy.h"
#include "base/context.h"

#include <math.h>
#include <string.h>

fga_session_desc fga_session_desc_default(void)
{
    return (fga_session_desc){
        .size = sizeof(fga_session_desc), .layers = 1, .branches = 1, .batch = 1, .measure_fraction = 0.02};
}

static fga_status check_desc(fga_context *ctx, const fga_session_desc *d)
{
    FGA_TRY(fga_check_struct(ctx, "fga_session_desc", d->size, sizeof *d));
    FGA_TRY(fga_policy_check(ctx, &d->policy));
    FGA_TRY(fga_check_range(ctx, "layers", d->layers, 1, 1 << 20));
    FGA_TRY(fga_check_range(ctx, "branches", d->branches, 1, 1 << 10));
    FGA_TRY(fga_check_heads(ctx, d->batch, d->query_heads, d->kv_heads));
    FGA_TRY(fga_check_sequence(ctx, "sequence", &d->sequence));
    if (!(d->measure_fraction >= 0)) {
        return fga_context_fail(ctx, FGA_ERR_ARGUMENT, "measure_fraction is %g, wanted at least 0",
                                d->measure_fraction);
    }
    FGA_TRY(fga_check_range(ctx, "override_count", d->override_count, 0, INT32_MAX));
    if (d->override_count > 0 && d->overrides == NULL) {
        return fga_context_fail(ctx, FGA_ERR_ARGUMENT, "overrides is NULL, wanted %d of them", d->override_count);
    }
    return FGA_OK;
}

/* An array of the session's, cleared; false when there is no memory for it. */
static bool make_array(const fga_session *s, int64_t count, size_t bytes, void *array)
{
    void *memory = fga_alloc(s->ctx, (size_t)count * bytes);
    if (memory != NULL) {
        memset(memory, 0, (size_t)count * bytes);
        memcpy(array, &memory, sizeof memory);
    }
    return memory != NULL;
}

/* Heads and slots are so few that no product of counts overflows: fga_check_heads, check_desc. */
static fga_status make_arrays(fga_session *s)
{
    const fga_session_desc *d = &s->desc;
    int64_t heads = d->batch * d->query_heads;
    s->slot_count = (int64_t)d->layers * d->branches;
    bool made =
        make_array(s, s->slot_count, sizeof *s->slots, &s->slots) &&
        make_array(s, s->slot_count, sizeof(fga_session_kit *), &s->kits) &&
        make_array(s, d->override_count, sizeof *s->overrides, &s->overrides) &&
        make_array(s, heads, sizeof *s->heads, &s->heads) && make_array(s, heads, sizeof *s->quality, &s->quality) &&
        make_array(s, heads, sizeof *s->counts, &s->counts) && make_array(s, heads, sizeof(int32_t), &s->keep) &&
        make_array(s, heads, sizeof(int32_t), &s->near) &&
        make_array(s, heads, sizeof *s->everything, &s->everything) &&
        make_array(s, d->batch, sizeof *s->budget, &s->budget) && make_array(s, heads, sizeof *s->number, &s->number) &&
        make_array(s, heads, sizeof *s->skip, &s->skip) && make_array(s, heads, sizeof(float), &s->recall) &&
        make_array(s, heads, sizeof(float), &s->error) && make_array(s, heads, sizeof(double), &s->density);
    if (!made) {
        return fga_context_fail(s->ctx, FGA_ERR_MEMORY, "no memory for a session of %d layers", d->layers);
    }
    if (d->override_count > 0) {
        memcpy(s->overrides, d->overrides, (size_t)d->override_count * sizeof *s->overrides);
    }
    s->desc.overrides = s->overrides;
    s->settings = (fga_settings){s->ctx,    &s->desc.policy, s->overrides, d->override_count,
                                 d->layers, d->branches,     d->batch,     d->query_heads};
    return FGA_OK;
}

fga_status fga_session_create(fga_context *ctx, const fga_session_desc *desc, fga_session **out)
{
    if (ctx == NULL || desc == NULL || out == NULL) {
        return fga_context_fail(ctx, FGA_ERR_ARGUMENT, "%s is NULL",
                                ctx == NULL    ? "ctx"
                                : desc == NULL ? "desc"
                                               : "session");
    }
    *out = NULL;
    FGA_TRY(check_desc(ctx, desc));
    fga_session *session = fga_alloc(ctx, sizeof *session);
    if (session == NULL) {
        return fga_context_fail(ctx, FGA_ERR_MEMORY, "no memory for a session");
    }
    *session = (fga_session){.ctx = ctx, .desc = *desc};
    fga_status status;
    FGA_CHECK(make_arrays(session));
    FGA_CHECK(fga_settings_check(&session->settings));
    if (fga_session_on_device(session)) {
        FGA_CHECK(fga_session_make_gpu(session));
    }
    FGA_CHECK(fga_session_plan(session));
    *out = session;
    session = NULL;
cleanup:
    fga_session_destroy(&session);
    return status;
}

void fga_session_destroy(fga_session **handle)
{
    if (handle == NULL || *handle == NULL) {
        return;
    }
    fga_session *s = *handle;
    fga_session_unplan(s);
    fga_gpu_mask_free(&s->gpu_memory);
    void *arrays[] = {s->slots, s->kits,    s->overrides, s->heads, s->quality,    s->counts,     s->skip,   s->recall,
                      s->error, s->density, s->keep,      s->near,  s->meter_host, s->everything, s->budget, s->number};
    for (size_t i = 0; i < sizeof arrays / sizeof arrays[0]; i++) {
        fga_free(s->ctx, arrays[i]);
    }
    fga_free(s->ctx, s);
    *handle = NULL;
}

size_t fga_session_workspace(const fga_session *session)
{
    return session->workspace_bytes;
}

const fga_mask *fga_session_mask(const fga_session *s, int layer, int branch)
{
    if (layer < 0 || layer >= s->desc.layers || branch < 0 || branch >= s->desc.branches) {
        return NULL;
    }
    const fga_session_slot *slot = fga_session_slot_of(s, layer, branch);
    return slot->refreshed >= 0 ? slot->mask : NULL;
}

fga_session_report fga_session_get_report(const fga_session *s)
{
    fga_session_report report = s->report;
    double measured = report.measured_calls > 0 ? (double)report.measured_calls : NAN;
    if (fga_session_on_device(s)) {
        fga_session_report_gpu(s, &report);
    }
    report.recall_mean = s->recall_sum / measured;
    report.recall_p05 = s->p05_sum / measured;
    report.output_error_mean = s->error_sum / measured;
    if (report.measured_calls == 0) {
        report.recall_worst = report.output_error_worst = NAN;
    }
    return report;
}
