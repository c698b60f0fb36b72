/* select_rank.h - scores as integers of the same order, and the k-th largest by counting their digits. */
#ifndef FGA_ATTN_SELECT_RANK_H
#define FGA_ATTN_SELECT_RANK_H

#include "attn/grid.h"
#include "base/half.h"

/* -0 equals 0, and NaN comes last. Free of branches, so that it vectorises. */
static inline uint32_t fga_rank_of(float score)
{
    uint32_t bits = fga_f32_bits(score), magnitude = bits & 0x7fffffffu;
    uint32_t ordered = bits >> 31 ? ~bits : bits | 0x80000000u;
    ordered = magnitude == 0 ? 0x80000000u : ordered;
    return magnitude > 0x7f800000u ? 0 : ordered;
}

/* A rank's digits, of 11, 11 and 10 bits, highest first. */
enum { FGA_RANK_ROUNDS = 3, FGA_RANK_DIGITS = 2048 };
static const struct {
    int shift;
    uint32_t digits;
} fga_rank_round[FGA_RANK_ROUNDS] = {{21, 2048}, {10, 2048}, {0, 1024}};

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
