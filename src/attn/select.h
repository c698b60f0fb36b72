/* select.h - which tiles a block keeps: forced ones, and those that its scores or its place speak for. */
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
    int64_t valid_keys;
    /* Tiles that are out: every valid key of them has bias -inf. By (batch, key head); NULL: there are none. */
    const uint64_t *out;      /* [batch*kv_heads][mask words] */
    const int64_t *out_tiles; /* [batch*kv_heads]: how many */
    int64_t shared;           /* query heads per key head */
    const fga_ops *ops;       /* the caller's to set, for selections by top-k or budget */
} fga_selector;

fga_selector fga_selector_make(const fga_policy *policy, fga_mask *mask);
/* floor(x + 0.5 + 1e-6): what is a half on paper, such as 0.29 * 50, rounds up. */
int64_t fga_round_count(double x);

/* Tiles of the row's head that could be kept: with a valid key, and not out. */
int64_t fga_selector_tiles(const fga_selector *selector, int64_t row);
/* The row's bits of tiles that are out, or NULL. */
const uint64_t *fga_selector_out(const fga_selector *selector, int64_t row);
/* fga_mask_seal_row, after what is out is dropped. */
void fga_selector_seal(const fga_selector *selector, int64_t row);
/* Finds what is out in args->key_bias, if it has one: bits and counts go to `room`, fga_out_bytes long. */
bool fga_out_bytes(const fga_predict_desc *desc, size_t *bytes);
void fga_selector_find_out(fga_selector *selector, const fga_attend_args *args, void *room);

/* ---- rows ----------------------------------------------------------------------------------------- */

typedef enum fga_row_kind {
    FGA_ROW_EMPTY, /* nothing but padding asks */
    FGA_ROW_FULL,  /* text asks, or the head is dense */
    FGA_ROW_OPEN
} fga_row_kind;

/* Clears the row's bits and sets those that are kept whatever the scores. Of an open row: *free = the tiles left to
 * choose from, in at most two intervals. To be sealed by the caller. */
fga_row_kind fga_selector_begin(const fga_selector *selector, const fga_head_setting *setting, int64_t row,
                                fga_spans *free);

/* Fills and seals one row by top-k, top-p, threshold or adaptive selection, or, where row->scores is NULL, keeps
 * everything. A score of +inf forces its tile and has no mass. scratch: fga_selector_scratch bytes of the worker's. */
void fga_selector_row(const fga_selector *selector, const fga_head_setting *setting, const fga_scored_row *row,
                      void *scratch);
size_t fga_selector_scratch(const fga_policy *policy, int64_t tiles);

/* ---- all rows at once ----------------------------------------------------------------------------- */

typedef struct fga_select_call {
    fga_context *ctx;
    const fga_selector *selector;
    const fga_head_setting *heads; /* [batch*query_heads] */
    const fga_attend_args *args;   /* q, k, v, key_bias: for FGA_SELECT_FRAMES */
    fga_score_row at;              /* step, layer, branch: for FGA_SELECT_CUSTOM */
    const float *scores;           /* of all rows: for FGA_SELECT_BUDGET */
    int64_t grid[3];               /* of the video: for static selections and FGA_SELECT_FRAMES */
    float scale;                   /* of logits: for FGA_SELECT_FRAMES */
    void *workspace;
} fga_select_call;

/* Workspace of the functions below; false when it does not fit. */
bool fga_budget_bytes(fga_context *ctx, int64_t rows, size_t *bytes);
bool fga_places_bytes(fga_context *ctx, const fga_predict_desc *desc, size_t *bytes);
bool fga_frames_bytes(fga_context *ctx, const fga_predict_desc *desc, size_t *bytes);
bool fga_custom_bytes(fga_context *ctx, int64_t tiles, size_t *bytes);
/* Each fills and seals every row. */
void fga_select_budget(const fga_select_call *call);
void fga_select_places(const fga_select_call *call); /* window, radial */
void fga_select_frames(const fga_select_call *call);
void fga_select_custom(const fga_select_call *call);

#endif
