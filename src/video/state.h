/* state.h - a generation between two steps, in a file that another process can go on from. */
#ifndef FGV_STATE_H
#define FGV_STATE_H

#include "fgattn.h"
#include "video/json.h"
#include "video/safetensors.h"

/* What the figures of a generation have come to. */
typedef struct fgv_state_totals {
    double denoise_s, attention_s;
    int steps_dense, steps_refresh, steps_reuse;
} fgv_state_totals;

/* The file is safetensors: `latents` [elements] and `sampler` [history_count] as F32, the session as U8, and in
 * __metadata__ the fields, all texts, beside what state.c adds. */
typedef struct fgv_state {
    fga_context *ctx;
    const char *path;
    cJSON *fields;  /* an object of texts: what a run that goes on must have in common with the one that stopped */
    float *latents; /* [elements] */
    int64_t elements;
    float *history; /* [history_count], the sampler's; may be NULL if there is none */
    int64_t history_count;
    fga_session *session;
    int done, steps; /* 1 <= done <= steps */
    fgv_state_totals totals;
} fgv_state;

/* Written to PATH.part and renamed: the file under the final name is always whole. */
fga_status fgv_state_write(const fgv_state *state);
/* Whether the file is whole and of a run with these fields; more fields there are no fault, and nothing else of *state
 * is used. FGA_ERR_IO: there is no such file; FGA_ERR_DATA: it is damaged or no state; FGA_ERR_ARGUMENT names the field
 * that differs. */
fga_status fgv_state_check(const fgv_state *state);
/* As check, and fills latents, history, session, done and totals. The session has attended to nothing before. */
fga_status fgv_state_read(fgv_state *state);
/* The same of bytes in memory; path stands for itself in error texts. */
fga_status fgv_state_parse(fgv_state *state, const void *bytes, size_t size);

/* A field; false where memory ends. Numbers with a decimal point in every locale. */
bool fgv_state_field(cJSON *fields, const char *name, const char *format, ...) __attribute__((format(printf, 3, 4)));
bool fgv_state_number(cJSON *fields, const char *name, double value);

#endif
