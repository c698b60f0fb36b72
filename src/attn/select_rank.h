/* select_rank.h - the k-th largest rank (base/rank.h) by counting digits, in one row or in all. */
#ifndef FGA_ATTN_SELECT_RANK_H
#define FGA_ATTN_SELECT_RANK_H

#include "attn/select.h"

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

/* ---- one row -------------------------------------------------------------------------------------- */

/* The tiles of a row among which a cut is searched: those of [begin, end) without a bit that are not out. */
typedef struct fga_search {
    const fga_selector *selector;
    const float *scores; /* of the row */
    double sum;          /* what counts is their share of it, as f32; 1: they count as they are */
    const uint64_t *out; /* bits; or NULL */
    uint64_t *bits;      /* of what is kept */
    int64_t begin, end;
} fga_search;

/* Words of a row's bits: tiles 64 * begin ... 64 * end - 1. */
typedef struct fga_words {
    int32_t begin, end;
} fga_words;

fga_words fga_search_words(const fga_search *search);
int64_t fga_search_open(const fga_search *search); /* how many tiles */
/* Of the tiles in `near`: keeps those above what is known of the cut, adds the round's digits of those that share it
 * to the histogram, leaves in `near` the words of these, and returns how many they are. After the last round no digit
 * is left, and what shares it is at the cut. */
int64_t fga_search_narrow(const fga_search *search, const fga_rank_cut *cut, int round, fga_words *near,
                          int64_t *histogram);
/* Keeps the first `ties` of the tiles in `near` that are at the cut; returns how many of them were not found. */
int64_t fga_search_keep(const fga_search *search, const fga_rank_cut *cut, const fga_words *near, int64_t ties);

/* How many tiles of `free` have each first digit, of their shares of `sum`. */
void fga_select_digits(const fga_selector *selector, const fga_spans *free, const float *scores, double sum,
                       int64_t digits[FGA_RANK_DIGITS]);
/* Sets the bits of the `count` best tiles of `free`, all if there are fewer; of equal ones the lower index. digits:
 * fga_select_digits of them, by their scores. Returns the lowest rank that is kept, 0 where all are. */
uint32_t fga_select_best(const fga_selector *selector, const fga_spans *free, const float *scores,
                         const int64_t digits[FGA_RANK_DIGITS], int64_t count, uint64_t *bits);

#endif
