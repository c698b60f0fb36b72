/* naive_policy.h - the selections of docs/method.md written out once more, pair by pair and by sorting. */
#ifndef TESTS_ATTN_NAIVE_POLICY_H
#define TESTS_ATTN_NAIVE_POLICY_H

#include "attn/select.h"
#include "naive.h"

/* Selecting for every row of a problem whose queries are its keys. */
typedef struct naive_selection {
    const naive_problem *p;
    const fga_policy *policy;
    const fga_head_setting *heads; /* [batch*query_heads] */
    const float *scores;           /* [batch*query_heads][blocks][tiles] */
    int64_t grid[3];
    const float *q, *k, *v;  /* for frames and for adaptive */
    const fga_score_row *at; /* for custom functions */
    uint8_t *keep;           /* [batch*query_heads][blocks][tiles] */
    uint8_t *unsure;         /* the same: decided by less than rounding; or NULL */
} naive_selection;

void naive_policy_select(const naive_selection *s);

#endif
