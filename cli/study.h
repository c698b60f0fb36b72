/* study.h - the analysis behind `fgattn inspect`: everything that is computed of each captured attention. */
#ifndef CLI_STUDY_H
#define CLI_STUDY_H

#include "cli.h"
#include "fgattn_inspect.h"

enum {
    STUDY_ORDERS = 3,   /* raster, Hilbert, Morton */
    STUDY_SETTINGS = 5, /* points of a line */
    STUDY_LINES = 32,   /* policies and best possible masks, at most */
    STUDY_BESTS = 4,    /* of them: the first ones */
    STUDY_BOUNDS = 3,
    STUDY_COLUMNS = 128, /* of a picture of attention */
};

extern const fga_order study_orders[STUDY_ORDERS];
extern const char *const study_order_names[STUDY_ORDERS];
enum { STUDY_RASTER = 0, STUDY_HILBERT = 1 };

/* One curve of the charts: a policy at several settings of what it is steered by, or a best possible mask at several
 * densities. */
typedef struct study_line {
    char name[64];
    const char *steered_by; /* "density", "tau", ... */
    int count;
    char setting[STUDY_SETTINGS][32]; /* "density=0.2" */
    bool best;
    fga_inspect_best_desc what; /* of a best possible mask */
    double density[STUDY_SETTINGS];
    fga_policy policy[STUDY_SETTINGS];
    char refused[256]; /* why it could not be computed; empty when it could */
} study_line;

/* What was found of one captured attention. */
typedef struct study_result {
    int step, layer, branch;
    fga_inspect_head *heads[STUDY_ORDERS]; /* [heads] */
    fga_inspect_point points[STUDY_LINES][STUDY_SETTINGS];
    float *per_head; /* what the points' arrays point into */
    fga_inspect_bound bounds[STUDY_BOUNDS];
    fga_inspect_map map[2]; /* raster, Hilbert */
    float *looks;           /* [heads][tokens]: probabilities of the query in the middle of the video, raster */
} study_result;

typedef struct study {
    fga_context *ctx;
    int64_t blocks; /* wanted: query blocks of 128 per head; 0 = choose */
    void (*tell)(void *user, const char *doing);
    bool (*keep_going)(void *user);
    void *user;
    study_line lines[STUDY_LINES];
    int line_count;
    int frames, height, width, heads, head_dim;   /* of the first capture, and of all */
    int64_t tokens, queries, blocks_used, middle; /* middle: the query of study_result.looks */
    float scale;
    fga_dtype dtype;
    study_result *results; /* [count] */
    int count, capacity;
} study;

/* policies: texts joined by '+', or NULL for every preset that is sparse. Prints and returns the exit code. */
int cli_study_begin(study *s, const char *policies);
/* capture must be in raster order. */
fga_status cli_study_add(study *s, const fgv_capture *capture);
void cli_study_free(study *s);

/* Mean over results of a line's point. */
fga_inspect_point cli_study_mean(const study *s, int line, int setting);
/* Error or recall of a line at `cost`, between its points; NaN outside them. */
double cli_study_at_cost(const study *s, int line, double cost, bool error);

#endif
