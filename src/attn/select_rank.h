/* select_rank.h - the k-th largest rank (base/rank.h) by counting digits. */
#ifndef FGA_ATTN_SELECT_RANK_H
#define FGA_ATTN_SELECT_RANK_H

#include "attn/grid.h"
#include "base/rank.h"

/* The search for the rank of the k-th largest: each round counts, in a histogram, the digits of those ranks that share
 * what is known of it. */
typedef struct fga_rank_cut {
    uint32_t cut, known; /* bits found, and which those are */
    int64_t left;        /* k less the ranks above: after all rounds, how many at the cut are among the k largest */
} fga_rank_cut;

static inline void fga_rank_narrow(fga_rank_cut *c, int round, const int64_t *histogram)
{
    uint32_t digits = fga_rank_round[round].digits, digit = digits - 1;
    while (histogram[digit] < c->left) {
        c->left -= histogram[digit--];
    }
    c->cut |= digit << fga_rank_round[round].shift;
    c->known |= (digits - 1) << fga_rank_round[round].shift;
}

#endif
