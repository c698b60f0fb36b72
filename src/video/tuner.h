/* tuner.h - what tuner*.c share. */
#ifndef FGV_TUNER_H
#define FGV_TUNER_H

#include "fgvideo.h"

enum { FGV_MAX_RUNGS = 20, FGV_RUNG_TEXT = 24 };

/* The settings that are tried, from the cheapest on; "dense=true" comes after the last. */
typedef struct fgv_ladder {
    const char *key;
    int count;
    char settings[FGV_MAX_RUNGS][FGV_RUNG_TEXT]; /* "density=0.2" */
} fgv_ladder;

/* One head of a measured capture at one rung. */
typedef struct fgv_tuner_sample {
    float recall, error, density, summaries; /* summaries / all pairs, of the whole call */
} fgv_tuner_sample;

/* One measured capture. */
typedef struct fgv_tuner_point {
    int layer, branch, video;
    fgv_tuner_sample *samples; /* [rungs][heads] */
} fgv_tuner_point;

struct fgv_tuner {
    fga_context *ctx;
    fgv_tuner_options options;
    fgv_ladder ladder;
    fga_session *sessions[FGV_MAX_RUNGS];
    /* Of the first capture: */
    int frames, height, width, layers, branches;
    int64_t tokens, heads, head_dim;
    fga_dtype dtype;
    int32_t *order, *places; /* of the policy; of a capture's raster tokens */
    char *memory, *workspace;
    int videos, rung;
    bool measured; /* by the rung that runs now */
    fgv_tuner_point *points;
    int64_t count, capacity;
};

#endif
