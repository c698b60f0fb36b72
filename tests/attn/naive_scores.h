/* naive_scores.h - the "Scores" of docs/method.md once more, token by token and in double, for comparison only. */
#ifndef TESTS_ATTN_NAIVE_SCORES_H
#define TESTS_ATTN_NAIVE_SCORES_H

#include "naive.h"

typedef struct naive_scoring {
    const naive_problem *p;
    const float *q, *k, *v;
    fga_score score;
    int32_t group;
    double gate_q, gate_k;
    bool zero_pad;
    bool raw, full_covariance; /* FGA_SCORE_MEAN for the adaptive selection */
} naive_scoring;

/* Arrays of [batch][query_heads][blocks][tiles], and of [batch][query_heads][blocks]. */
typedef struct naive_scored {
    double *score;
    double *size;          /* of what was added up to get the score: what rounding errors scale with */
    double *mean, *spread; /* FGA_SCORE_MEAN; NaN for a block without a valid query */
} naive_scored;

/* Freed with naive_scored_free. */
naive_scored naive_score_all(const naive_scoring *s);
void naive_scored_free(naive_scored *scored);
/* L of every query of dense attention over the valid keys; [batch][query_heads][query tokens]. Freed with free(). */
float *naive_dense_lse(const naive_scoring *s);

#endif
