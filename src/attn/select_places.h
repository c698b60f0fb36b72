/* select_places.h - selections by where tokens lie in the video: patterns over its grid, seen through the order. */
#ifndef FGA_ATTN_SELECT_PLACES_H
#define FGA_ATTN_SELECT_PLACES_H

#include "attn/select.h"

typedef enum fga_pattern_kind {
    FGA_PATTERN_WINDOW,  /* boxes in a window around the query's */
    FGA_PATTERN_RADIAL,  /* Radial Attention */
    FGA_PATTERN_SPATIAL, /* frames at most `reach` away, and frame 0 */
    FGA_PATTERN_TEMPORAL /* places in the frame at most `reach` away, and frame 0 */
} fga_pattern_kind;

typedef struct fga_pattern {
    fga_pattern_kind kind;
    int64_t reach;
} fga_pattern;

/* Where the tokens of the video lie, in the order of the sequence. */
typedef struct fga_places {
    const fga_selector *selector;
    int64_t grid[3];
    int32_t *cell;    /* [video_valid]: raster index */
    int32_t *mark_of; /* [video_valid]: which mark a key looks at: its box, cell, frame or place in the frame */
    char *workers;    /* marks of one block, and a template of its row */
    size_t worker_bytes;
} fga_places;

/* Lays out the workspace and finds the cells. */
fga_places fga_places_make(const fga_select_call *call);
/* Sets mark_of for patterns of this kind. */
void fga_places_look(fga_context *ctx, fga_places *places, fga_pattern_kind kind);
/* The tiles of which block u keeps a pair, as bits; the worker's until its next call. */
const uint64_t *fga_places_row(const fga_places *places, const fga_pattern *pattern, int64_t u, int worker);

#endif
