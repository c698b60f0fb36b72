/* session_gpu.c - what a session does differently on a CUDA context: masks are allocated when it is made, refreshes and
 * attention are only put on the context's stream, and pairs are counted there. Measured calls alone wait for it. A mask
 * is judged by attending under it, whose outputs are the call's if it stays. */
#include "attn/session.h"

#include "base/context.h"

#include <math.h>

bool fga_session_on_device(const fga_session *s)
{
    return s->ctx->options.device == FGA_DEVICE_CUDA;
}

static fga_status refuse(fga_context *ctx, const fga_policy *p, const char *what)
{
    return fga_context_fail(ctx, FGA_ERR_UNSUPPORTED,
                            "policy %s: %s, which sessions on %s cannot; they run dense, fgdfs, dfs, subblock, sol "
                            "and other selections topk, budget, threshold or adaptive by mass, lse, mean or deviation",
                            p->name, what, ctx->gpu.name);
}

fga_status fga_session_check_gpu(fga_context *ctx, const fga_policy *p)
{
    bool knows = p->select == FGA_SELECT_TOPK || p->select == FGA_SELECT_BUDGET || p->select == FGA_SELECT_THRESHOLD ||
                 p->select == FGA_SELECT_ADAPTIVE;
    if (!knows) {
        return refuse(ctx, p, "it selects otherwise than by topk, budget, threshold or adaptive");
    }
    if (p->score != FGA_SCORE_MASS && p->score != FGA_SCORE_LSE && p->score != FGA_SCORE_MEAN &&
        p->score != FGA_SCORE_DEVIATION) {
        return refuse(ctx, p, "it scores otherwise than by mass, lse, mean or deviation");
    }
    if (p->score == FGA_SCORE_LSE && p->select != FGA_SELECT_TOPK) {
        return refuse(ctx, p, "it selects by lse otherwise than by topk");
    }
    if (p->zero_pad || p->gate_q > 0 || p->gate_k > 0) {
        return refuse(ctx, p, p->zero_pad ? "it has zero_pad" : "it has a gate");
    }
    return FGA_OK;
}

/* Keys of bias -inf would be selected, and the bias cannot be looked at from here. */
fga_status fga_session_check_call_gpu(const fga_session_call *c)
{
    fga_context *ctx = c->session->ctx;
    return c->args.key_bias == NULL || c->slot->kit == NULL
               ? FGA_OK
               : fga_context_fail(ctx, FGA_ERR_UNSUPPORTED,
                                  "key_bias is set, which selections on %s do not know: name padding in the sequence",
                                  ctx->gpu.name);
}

fga_status fga_session_make_gpu(fga_session *s)
{
    return fga_gpu_counters(s->ctx, &s->gpu_memory, &s->gpu_pairs);
}

static fga_status make_mask(const fga_session *s, const fga_session_kit *kit, fga_mask **mask)
{
    fga_mask_desc m = fga_mask_desc_default();
    m.batch = s->desc.batch;
    m.heads = s->desc.query_heads;
    m.block_m = kit->policy.block_m;
    m.tile_n = kit->policy.tile_n;
    m.query = m.key = s->desc.sequence;
    return fga_mask_create_gpu(s->ctx, &m, mask);
}

fga_status fga_session_masks_gpu(fga_session *s)
{
    for (int64_t i = 0; i < s->slot_count; i++) {
        if (s->slots[i].kit != NULL) {
            FGA_TRY(make_mask(s, s->slots[i].kit, &s->slots[i].mask));
            s->report.mask_bytes += fga_mask_bytes(s->slots[i].mask);
        }
    }
    s->report.mask_bytes_peak = s->report.mask_bytes;
    return FGA_OK;
}

/* A mask that somebody else retains stays as it is. */
fga_status fga_session_own_mask_gpu(fga_session_call *c)
{
    fga_session_slot *slot = c->slot;
    slot->refreshed = -1; /* until it is made again */
    if (atomic_load_explicit(&slot->mask->references, memory_order_acquire) == 1) {
        return FGA_OK;
    }
    fga_mask *mask;
    FGA_TRY(make_mask(c->session, slot->kit, &mask));
    fga_mask_release(&slot->mask);
    slot->mask = mask;
    return FGA_OK;
}

static fga_status count_rests(const fga_session *s, const fga_session_kit *kit, const fga_mask *mask)
{
    if (kit->policy.rest != FGA_REST_REMAINDER) {
        return FGA_OK;
    }
    const fga_gpu_rests rests = {
        .bits = mask->gpu.bits,
        .pairs = mask->gpu_pairs + 1,
        .query_valid = fga_gpu_spans_of(&mask->query_valid),
        .key_valid = fga_gpu_spans_of(&mask->key_valid),
        .live = fga_gpu_spans_of(&mask->live),
        .rows = (int32_t)mask->rows,
        .words = (int32_t)mask->words,
        .blocks = (int32_t)mask->blocks,
        .tiles = (int32_t)mask->tiles,
        .block_rows = mask->desc.block_m,
        .tile_keys = mask->desc.tile_n,
        .group = kit->policy.group,
        .groups = (int32_t)fga_ceil_div(kit->attend.desc.key_len, kit->policy.group),
    };
    return fga_gpu_count_rests(s->ctx, &rests, s->ctx->stream);
}

fga_status fga_session_select_gpu(fga_session_call *c)
{
    fga_session *s = c->session;
    const fga_session_slot *slot = c->slot;
    const fga_refresh_gpu_call call = {.args = &c->args,
                                       .heads = s->heads,
                                       .keep = s->keep,
                                       .near = s->near,
                                       .everything = s->everything,
                                       .budget = s->budget,
                                       .number = s->number,
                                       .workspace = c->workspace,
                                       .mask = slot->mask};
    c->attended = false;
    FGA_TRY(fga_refresh_gpu_run(s->ctx, &slot->kit->gpu, &slot->kit->policy, &call));
    return count_rests(s, slot->kit, slot->mask);
}

static fga_status attend(fga_session_call *c, bool sparse)
{
    fga_session *s = c->session;
    double start = fga_session_now();
    const fga_attend_call call = {
        .args = &c->args, .query = &s->desc.sequence, .key = &s->desc.sequence, .workspace = c->workspace};
    c->args.mask = sparse ? c->slot->mask : NULL;
    FGA_TRY(fga_attend_execute(sparse ? &c->slot->kit->attend : &s->dense, &call));
    s->report.attend_s += fga_session_now() - start;
    return FGA_OK;
}

fga_status fga_session_try_gpu(fga_session_call *c)
{
    FGA_TRY(attend(c, true));
    c->attended = true;
    return FGA_OK;
}

fga_status fga_session_attend_gpu(fga_session_call *c, fga_step_kind kind)
{
    fga_session *s = c->session;
    fga_session_report *report = &s->report;
    bool sparse = kind != FGA_STEP_DENSE;
    double valid = (double)fga_sequence_valid(&s->desc.sequence);
    double pairs = (double)(s->desc.batch * s->desc.query_heads) * valid * valid;
    if (!c->attended) {
        FGA_TRY(attend(c, sparse));
    }
    if (sparse) {
        FGA_TRY(fga_gpu_add_pairs(s->ctx, &(fga_gpu_tally){s->gpu_pairs, c->slot->mask->gpu_pairs}, s->ctx->stream));
    }
    report->pairs_total += pairs;
    report->pairs_kept += sparse ? 0 : pairs;
    report->sparse_total += sparse ? pairs : 0;
    report->calls_dense += !sparse;
    report->calls_refresh += kind == FGA_STEP_REFRESH;
    report->calls_reuse += kind == FGA_STEP_REUSE;
    return FGA_OK;
}

void fga_session_report_gpu(const fga_session *s, fga_session_report *report)
{
    uint64_t pairs[2];
    bool read = fga_gpu_read(s->ctx, pairs, s->gpu_pairs, sizeof pairs, s->ctx->stream) == FGA_OK;
    report->sparse_kept = read ? (double)pairs[0] : NAN;
    report->sparse_summaries = read ? (double)pairs[1] : NAN;
    report->pairs_kept += report->sparse_kept;
}
