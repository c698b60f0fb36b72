/* rank.h - scores as integers of the same order, and the digits of these. */
#ifndef FGA_BASE_RANK_H
#define FGA_BASE_RANK_H

#include "base/half.h"

/* -0 equals 0, and NaN comes last. Free of branches, so that it vectorises. */
static inline uint32_t fga_rank_of(float score)
{
    uint32_t bits = fga_f32_bits(score), magnitude = bits & 0x7fffffffu;
    uint32_t ordered = bits >> 31 ? ~bits : bits | 0x80000000u;
    ordered = magnitude == 0 ? 0x80000000u : ordered;
    return magnitude > 0x7f800000u ? 0 : ordered;
}

/* A score of this rank, which some score must have; NaN of rank 0. */
static inline float fga_score_of(uint32_t rank)
{
    return fga_bits_f32(rank >> 31 ? rank & 0x7fffffffu : ~rank);
}

/* A rank's digits, of 11, 11 and 10 bits, highest first. FGA_RANK_GATED: the first of +inf, which no other score has.
 */
enum { FGA_RANK_ROUNDS = 3, FGA_RANK_DIGITS = 2048, FGA_RANK_GATED = 0xff800000u >> 21 };
static const struct {
    int shift;
    uint32_t digits;
} fga_rank_round[FGA_RANK_ROUNDS] = {{21, 2048}, {10, 2048}, {0, 1024}};

static inline uint32_t fga_rank_digit(float score, int round)
{
    return fga_rank_of(score) >> fga_rank_round[round].shift & (fga_rank_round[round].digits - 1);
}

#endif
