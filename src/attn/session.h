/* session.h - the inside of fga_session, one file per job: session.c (lifetime, report), session_plan.c (plans and
 * workspace), session_call.c (one attention call), session_refresh.c (new masks, targets, when they are stale),
 * session_io.c (to bytes and back). */
#ifndef FGA_ATTN_SESSION_H
#define FGA_ATTN_SESSION_H

#include "attn/estimate.h"
#include "attn/measure.h"
#include "attn/refresh.h"
#include "attn/refresh_gpu.h"
#include "attn/settings.h"

/* What the layers and branches under one policy share. */
typedef struct fga_session_kit {
    fga_policy policy; /* the session's with overrides of whole layers */
    fga_attend_plan attend;
    fga_refresh_plan refresh;
    fga_gpu_refresh_plan gpu; /* on a CUDA context, instead of it and of what follows */
    fga_estimator estimator;  /* with a recall target */
    fga_meter meter;          /* where something is measured */
    fga_mask *scratch;        /* the bit map in which masks are made; kits of one M and N share it */
    bool targets;             /* a recall, a floor or an error to hold */
} fga_session_kit;

/* Of a layer and branch; with shared branches, of a layer. */
typedef struct fga_session_slot {
    fga_session_kit *kit; /* NULL: always dense */
    fga_mask *mask;       /* the newest, in its smaller storage; NULL: none yet */
    int refreshed;        /* the step that made it; -1: none has */
    double recall;        /* mean over heads, sampled when it was new: for refresh_drop */
    double strain;        /* how near it was to its limits when it was last looked at: 1 = at them */
    int looked, look;     /* when that was, and when to look again */
} fga_session_slot;

struct fga_session {
    fga_context *ctx;
    fga_session_desc desc;
    fga_override *overrides; /* a copy of desc's */
    fga_settings settings;
    int steps; /* of this generation, from its first call; 0 before */
    fga_attend_plan dense;
    fga_session_kit **kits; /* [kit_count], for at most layers*branches */
    int64_t kit_count, slot_count;
    fga_session_slot *slots; /* [layers][branches] */
    /* Per head of a call, [batch*query_heads]. */
    fga_head_setting *heads;
    fga_head_quality *quality;
    int64_t *counts;
    uint8_t *skip;
    float *recall, *error;
    double *density;
    /* The workspace: attend or score; then sums of a remainder; then L; then what the meter needs. */
    size_t sums_at, lse_at, meter_at, workspace_bytes;
    fga_session_report report;
    double recall_sum, p05_sum, error_sum; /* over measured calls */
    /* On a CUDA context. */
    int32_t *keep, *near; /* [batch*query_heads] */
    uint8_t *everything;  /* likewise */
    int64_t *budget;      /* [batch] */
    double *number;       /* [batch*query_heads] */
    void *meter_host;     /* where something is measured */
    fga_gpu_mask gpu_memory;
    uint64_t *gpu_pairs; /* there: kept pairs and summary pairs of all sparse calls */
};

typedef struct fga_session_call {
    fga_session *session;
    fga_session_slot *slot;
    int step, layer, branch;
    fga_attend_args args; /* the caller's; then with mask, remainder and lse */
    fga_remainder remainder;
    char *workspace;
    bool twin;     /* the meter has this call's exact outputs */
    bool attended; /* on a CUDA context: args.o is what the slot's mask gives, since it was looked at */
} fga_session_call;

/* ---- session_plan.c ---- */

/* Kits, slots and the workspace. What it has made when it fails is the session's all the same. */
fga_status fga_session_plan(fga_session *session);
void fga_session_unplan(fga_session *session);
/* Where (layer, branch) keeps its mask. */
fga_session_slot *fga_session_slot_of(const fga_session *session, int layer, int branch);

/* ---- session_refresh.c ---- */

/* New masks for the call's slot, denser where a target asks for it. */
fga_status fga_session_refresh(fga_session_call *call);
/* Whether the slot's mask, looked at now, misses what it should hold. */
fga_status fga_session_is_stale(fga_session_call *call, bool *stale);
/* Whether to look at this reuse step at all. */
bool fga_session_looks(const fga_session_call *call);

/* ---- session_gpu.c: what differs on a CUDA context ---- */

bool fga_session_on_device(const fga_session *session);
/* Whether sessions of the policy run there. */
fga_status fga_session_check_gpu(fga_context *ctx, const fga_policy *policy);
fga_status fga_session_check_call_gpu(const fga_session_call *call);
fga_status fga_session_make_gpu(fga_session *session);
/* A mask for every slot that has a kit. */
fga_status fga_session_masks_gpu(fga_session *session);
/* Before a refresh: a mask that nobody else retains. */
fga_status fga_session_own_mask_gpu(fga_session_call *call);
/* Scores and selects into the slot's mask, with the heads' settings as they are. */
fga_status fga_session_select_gpu(fga_session_call *call);
/* Attends under the slot's mask. */
fga_status fga_session_try_gpu(fga_session_call *call);
/* Attends, unless it has been tried, and counts. */
fga_status fga_session_attend_gpu(fga_session_call *call, fga_step_kind kind);
/* Adds what the device has counted; waits for it. */
void fga_session_report_gpu(const fga_session *session, fga_session_report *report);

double fga_session_now(void); /* seconds */

#endif
