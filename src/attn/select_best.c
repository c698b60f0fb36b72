/* select_best.c - the best tiles of one row, and its part in the search for the best of all rows. */
#include "attn/select_rank.h"

#include <math.h>
#include <string.h>

/* ---- a search ------------------------------------------------------------------------------------- */

/* Tiles of so many words are looked at in one go. */
enum { PART_WORDS = 16 };

/* A part of a row: its tiles that take part, as bits, by what is known of the cut. */
typedef struct part {
    int64_t words;
    uint64_t above[PART_WORDS], within[PART_WORDS];
} part;

/* Ranks of scores. */
typedef struct range {
    uint32_t low, high;
} range;

static float share_of(const fga_search *s, int64_t tile)
{
    return (float)((double)s->scores[tile] / s->sum);
}

/* The lowest rank of a score, NaN aside, whose share has at least this rank, or what is above all ranks: shares rise
 * with scores, so that no other score need be divided. */
static uint32_t lowest_from(const fga_search *s, uint64_t share_rank)
{
    uint32_t low = fga_rank_of(-INFINITY), high = fga_rank_of(INFINITY) + 1;
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        bool reaches = fga_rank_of((float)((double)fga_score_of(middle) / s->sum)) >= share_rank;
        low = reaches ? low : middle + 1;
        high = reaches ? middle : high;
    }
    return low;
}

/* The ranks of those scores whose shares share what is known of the cut. */
static range range_of(const fga_search *s, const fga_rank_cut *c)
{
    range r = {c->cut, c->cut | ~c->known};
    return s->sum == 1 ? r : (range){r.low == 0 ? 0 : lowest_from(s, r.low), lowest_from(s, (uint64_t)r.high + 1) - 1};
}

/* Bits of tiles [64 * word, 64 * word + 64) that take part. */
static uint64_t open_tiles(const fga_search *s, int64_t word)
{
    int64_t first = fga_max(s->begin - 64 * word, 0), last = fga_min(s->end - 64 * word, 64);
    uint64_t inside = first >= last ? 0 : (~(uint64_t)0 >> (64 - (last - first))) << first;
    return inside & ~(s->bits[word] | (s->out != NULL ? s->out[word] : 0));
}

static void sift(const fga_search *s, range ranks, int64_t word, int64_t end, part *p)
{
    p->words = fga_min(PART_WORDS, end - word);
    s->selector->ops->sift(&(fga_sift_op){.score = s->scores + 64 * word,
                                          .count = fga_min(64 * p->words, s->selector->mask->tiles - 64 * word),
                                          .low = ranks.low,
                                          .high = ranks.high,
                                          .above = p->above,
                                          .within = p->within});
    for (int64_t w = 0; w < p->words; w++) {
        uint64_t open = open_tiles(s, word + w);
        p->above[w] &= open;
        p->within[w] &= open;
    }
}

fga_words fga_search_words(const fga_search *s)
{
    return (fga_words){(int32_t)(s->begin / 64), (int32_t)fga_ceil_div(s->end, 64)};
}

int64_t fga_search_open(const fga_search *s)
{
    fga_words all = fga_search_words(s);
    int64_t count = 0;
    for (int64_t word = all.begin; word < all.end; word++) {
        count += __builtin_popcountll(open_tiles(s, word));
    }
    return count;
}

int64_t fga_search_narrow(const fga_search *s, const fga_rank_cut *c, int round, fga_words *near, int64_t *histogram)
{
    fga_words look = *near, found = {look.end, look.begin};
    range ranks = range_of(s, c);
    int64_t count = 0;
    part p;
    for (int64_t word = look.begin; word < look.end; word += PART_WORDS) {
        sift(s, ranks, word, look.end, &p);
        for (int64_t w = 0; w < p.words; w++) {
            uint64_t within = p.within[w];
            s->bits[word + w] |= p.above[w];
            if (within != 0) {
                found.begin = (int32_t)fga_min(found.begin, word + w);
                found.end = (int32_t)(word + w + 1);
                count += __builtin_popcountll(within);
            }
            for (; round < FGA_RANK_ROUNDS && within != 0; within &= within - 1) {
                histogram[fga_rank_digit(share_of(s, 64 * (word + w) + __builtin_ctzll(within)), round)]++;
            }
        }
    }
    *near = found;
    return count;
}

int64_t fga_search_keep(const fga_search *s, const fga_rank_cut *c, const fga_words *near, int64_t ties)
{
    range ranks = range_of(s, c);
    part p;
    for (int64_t word = near->begin; ties > 0 && word < near->end; word += PART_WORDS) {
        sift(s, ranks, word, near->end, &p);
        for (int64_t w = 0; w < p.words; w++) {
            for (uint64_t equal = p.within[w]; ties > 0 && equal != 0; equal &= equal - 1, ties--) {
                s->bits[word + w] |= equal & -equal;
            }
        }
    }
    return ties;
}

/* ---- one row by itself ---------------------------------------------------------------------------- */

void fga_select_digits(const fga_selector *s, const fga_spans *free, const float *scores, double sum,
                       int64_t digits[FGA_RANK_DIGITS])
{
    memset(digits, 0, FGA_RANK_DIGITS * sizeof *digits);
    for (int i = 0; i < free->count; i++) {
        s->ops->digits(scores + free->begin[i], free->end[i] - free->begin[i], sum, digits);
    }
}

uint32_t fga_select_best(const fga_selector *s, const fga_spans *free, const float *scores,
                         const int64_t digits[FGA_RANK_DIGITS], int64_t count, uint64_t *bits)
{
    fga_search search[2]; /* free has at most two intervals */
    fga_words near[2];
    int64_t all = 0;
    for (int i = 0; i < free->count; i++) {
        search[i] = (fga_search){s, scores, 1, NULL, bits, free->begin[i], free->end[i]};
        near[i] = fga_search_words(&search[i]);
        all += free->end[i] - free->begin[i];
    }
    if (count >= all) {
        for (int i = 0; i < free->count; i++) {
            fga_bits_set(bits, free->begin[i], free->end[i]);
        }
        return 0;
    }
    fga_rank_cut c = {.left = count};
    fga_rank_narrow(&c, 0, digits);
    for (int round = 1; round <= FGA_RANK_ROUNDS; round++) {
        int64_t histogram[FGA_RANK_DIGITS] = {0};
        for (int i = 0; i < free->count; i++) {
            fga_search_narrow(&search[i], &c, round, &near[i], histogram);
        }
        if (round < FGA_RANK_ROUNDS) {
            fga_rank_narrow(&c, round, histogram);
        }
    }
    int64_t ties = c.left;
    for (int i = 0; i < free->count; i++) {
        ties = fga_search_keep(&search[i], &c, &near[i], ties);
    }
    return c.cut;
}
