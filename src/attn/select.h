/* select.h - which tiles a block keeps, given its row of scores. */
#ifndef FGA_ATTN_SELECT_H
#define FGA_ATTN_SELECT_H

#include "attn/predict.h"

/* What one head keeps. A policy's settings, with those of its overrides and of the targets put in. */
typedef struct fga_head_setting {
    double density; /* kept fraction of tiles, where the selection goes by density */
    double tau, threshold;
    int32_t neighbours;
    bool dense; /* keeps every valid key */
} fga_head_setting;

/* What is the same for all rows of a mask. */
typedef struct fga_selector {
    const fga_policy *policy;
    fga_mask *mask;
    fga_spans text_queries;
    fga_spans text_tiles; /* tiles with a valid text key, which every block keeps */
    fga_spans video_only; /* the other tiles with a valid key: at most one interval */
} fga_selector;

fga_selector fga_selector_make(const fga_policy *policy, fga_mask *mask);
/* Fills and seals one row of the mask's bit map; scores may be NULL where the setting is dense. */
void fga_selector_row(const fga_selector *selector, const fga_head_setting *setting, int64_t row, const float *scores);
/* floor(x + 0.5 + 1e-6): what is a half on paper, such as 0.29 * 50, rounds up. */
int64_t fga_round_count(double x);

#endif
