/* takes.h - what attention reads in dense generations, kept in memory, and what a policy makes of it. */
#ifndef BENCH_TAKES_H
#define BENCH_TAKES_H

#include "fgvideo.h"

/* Queries, keys and values of one (prompt, step, layer, branch), in raster order, contiguous [token][head][channel]. */
typedef struct take {
    int step, layer, branch;
    char *qkv; /* one allocation for the three */
} take;

typedef struct takes {
    fga_context *ctx;
    int count, capacity;
    take *list;
    int frames, height, width; /* in tokens */
    int64_t tokens, heads, head_dim;
    fga_dtype dtype;
    /* Which calls are kept: */
    const bool *steps; /* [steps] */
    int branches;      /* those below this number */
    int every;         /* every so many layers; 0 = all */
    bool failed;       /* memory ran out */
    char *ordered;     /* one take in a policy's order, and the output */
    int32_t *order;
    fga_order kind; /* of `order`; valid once `ordered` is there */
    /* Shown the mask of every take that takes_run attends under; or NULL. */
    void (*look)(void *user, const fga_mask *mask);
    void *look_user;
} takes;

typedef struct takes_figures {
    double cost, density, recall, recall_p05, recall_worst, error, error_worst;
    double score_s, attend_s;
} takes_figures;

/* Adds what attention reads in a dense generation of the request, which ends before decoding; t's ctx, steps and
 * branches are set. */
fga_status takes_generate(takes *t, fgv_model *model, const fgv_request *request);
/* Adds what a capture file holds: all of it. */
fga_status takes_read(takes *t, const char *path);
void takes_free(takes *t);

/* Every take under `policy`, each with masks of its own, at phase-1 density; the timetable is not used.
 * measure: share of the queries that recall and error are measured on; 0 = not. errors: [count] or NULL. */
fga_status takes_run(takes *t, const fga_policy *policy, double measure, takes_figures *figures, double *errors);

/* ---- the number that sets a policy's cost ------------------------------------------------------------ */

typedef struct knob {
    const char *name; /* key of the policy; NULL: there is none */
    double low, high;
    bool falling; /* a larger value costs less */
    bool whole;   /* an index into a list */
} knob;

knob knob_of(const takes *t, const fga_policy *policy);
/* Sets it in all phases; the text is what to append to the policy's. */
void knob_set(const takes *t, fga_policy *policy, double value);

/* The value whose realised cost on the takes is nearest to `cost`, by bisection. */
fga_status knob_calibrate(takes *t, const fga_policy *policy, double cost, double *value, double *realised);

/* A list such as 0.3,0.2: numbers between 0 and 1, at most `most`. */
bool takes_costs(const char *text, double *costs, int most, int *count);

#endif
