/* attend_amx.h - flash attention of one query block over a list of keys, on AMX tiles.
 *
 *     S[key][query]    = K Q^T    left: kept keys, copied row by row    right: queries, packed once
 *     P[query][key]    = weights  turned over while they are in registers
 *     O[query][column] += P V     left: weights                         right: values, two kept keys interleaved
 *
 * The includer brings, before this header: vec_avx512.h, and a terms_*.h, which says of how many bf16 a number is the
 * sum, and how rows and weights are cut into those: DTYPE, TERMS, split_*, join_columns, store_row; WORD, word_weight
 * and name_sum of groups.h.
 *
 * Keys come in strips, and up to 64 queries, a team, are worked on at once. While the vector units turn a unit, 32 keys
 * of a team, into weights, the tiles compute the next unit's logits; while the tiles add the strip's values, the next
 * strip's keys and values are copied (docs/kernels-cpu.md).
 */
#ifndef FGA_CPU_ATTEND_AMX_H
#define FGA_CPU_ATTEND_AMX_H

#include "cpu/cpu.h"
#include "cpu/element.h"
#include "cpu/tile_amx.h"

/* Rows of a summary's values: a unit is 32 rows of keys as of values, so fewer of the latter would spare nothing. */
static inline int parts_of_sum(float keys, float remaining)
{
    (void)keys;
    (void)remaining;
    return WORD;
}

#include "cpu/groups.h"
#include "ops/ops.h"

#include <float.h>
#include <math.h>
#include <string.h>

enum {
    PAIR = 2 * SIDE,
    STRIP = 128,
    SHORT_STRIP = 32, /* where 16 queries alone use it: what is copied stays in the first-level cache */
    MOST_PAIRS = (LONGEST_STRIP + PAIR - 1) / PAIR, /* of key tiles in a strip */
    MOST_ROWS = MOST_PAIRS * PAIR,
    TEAM = 4, /* tiles of queries */
    LOGIT_ROW = SIDE * 4,
    UNIT_BYTES = PAIR * LOGIT_ROW,              /* logits of 32 keys and 16 queries */
    LOGITS_BYTES = (MOST_ROWS + 1) * LOGIT_ROW, /* of a strip and 16 queries, and a row of zeros */
    STEP_ROW = TERMS * 64,                      /* 32 channels of a key */
    STEP_BYTES = TERMS * TILE_BYTES,            /* of 16 queries; or their weights of 32 keys */
    VALUE_ROW = TERMS * 128,                    /* 32 columns of two keys' values */
    VALUE_SLICE = MOST_ROWS / 2 * VALUE_ROW,    /* of a strip's */
    PIECES = 4,                                 /* of the work on 32 keys and 16 queries */
};

static const float ln_2 = 0.693147180559945309417f;

/* A weight may exceed 1 by this factor before the sums are rescaled to a new largest logit. */
static const float rescale_above = 256.0f;

/* Numbers of tiles, and where things lie in the caller's scratch; offsets and sizes in bytes. */
typedef struct layout {
    int q_tiles, k_steps;
    size_t row_bytes; /* of a key, in whole steps */
    size_t query, key, value, logit, weight, output, max, sum, sums, total;
} layout;

static layout lay_out(int32_t rows, int32_t head_dim)
{
    layout at = {.q_tiles = part_count(rows, SIDE), .k_steps = part_count(head_dim, TILE_K)};
    at.row_bytes = (size_t)at.k_steps * STEP_ROW;
    size_t queries = (size_t)at.q_tiles, steps = (size_t)at.k_steps;
    at.key = at.query + queries * steps * STEP_BYTES;
    at.value = at.key + MOST_ROWS * at.row_bytes;
    at.logit = at.value + 2 * steps * VALUE_SLICE;
    at.weight = at.logit + (size_t)(TEAM * LOGITS_BYTES);
    at.output = at.weight + queries * MOST_PAIRS * STEP_BYTES;
    at.max = at.output + queries * 2 * steps * TILE_BYTES;
    at.sum = at.max + queries * SIDE * sizeof(float);
    at.sums = at.sum + queries * SIDE * sizeof(float);
    at.total = at.sums + (size_t)(LONGEST_STRIP * WORD) * at.row_bytes;
    return at;
}

static size_t attend_scratch(int32_t rows, int32_t head_dim, fga_dtype dtype)
{
    size_t bytes = lay_out(rows, head_dim).total;
    if (TERMS > 1) { /* attend may leave a block to it */
        size_t below = fga_attend_avx512_scratch(rows, head_dim, dtype);
        bytes = below > bytes ? below : bytes;
    }
    return bytes;
}

typedef struct strip {
    portion has;
    int pairs;             /* of key tiles */
    int place;             /* of its values: 0 or 1 */
    bool first;            /* no key was weighed before */
    bool plain;            /* no key has a bias */
    float bias[MOST_ROWS]; /* in log2 units; -inf past the last key */
    /* Rows, zeros past the last one. Values may have one zero row between listed keys and summaries. */
    const char *key[MOST_ROWS], *value[MOST_ROWS];
    int16_t less[MOST_ROWS]; /* the row of logits of the summary of a listed key's group; MOST_ROWS: it has none */
} strip;

/* Tiles of queries [first, first + count). */
typedef struct team {
    int first, count;
} team;

/* The logits of a unit, 32 channels of two tiles of queries at a time. */
typedef struct unit_work {
    const char *query, *key;
    char *logits;  /* [32 keys][16 queries] of the first tile of queries */
    int64_t apart; /* bytes to those of the next tile */
    int count;     /* tiles of queries */
    int step, steps;
} unit_work;

typedef struct flash {
    const fga_attend_op *op;
    layout at;
    char *scratch;
    strip two[2], *now, *next; /* the strip at hand and the one after */
    cursor cursor;
    unit_work ahead;
} flash;

static char *key_row(const flash *f, int row)
{
    return f->scratch + f->at.key + (size_t)row * f->at.row_bytes;
}

static char *value_slice(const flash *f, const strip *s, int column_pair)
{
    return f->scratch + f->at.value + (size_t)((s->place * f->at.k_steps + column_pair) * VALUE_SLICE);
}

static char *query_tiles(const flash *f, int q_tile)
{
    return f->scratch + f->at.query + (size_t)(q_tile * f->at.k_steps * STEP_BYTES);
}

/* The logits of a unit, in one of two places. */
static char *unit_logits(const flash *f, int place)
{
    return f->scratch + f->at.logit + (size_t)(place * TEAM * UNIT_BYTES);
}

/* All logits of a strip and of one tile of queries of a team. */
static char *strip_logits(const flash *f, int of_team)
{
    return f->scratch + f->at.logit + (size_t)(of_team * LOGITS_BYTES);
}

/* [unit][term][16 queries][32 keys] */
static char *weight_tiles(const flash *f, int q_tile)
{
    return f->scratch + f->at.weight + (size_t)(q_tile * MOST_PAIRS * STEP_BYTES);
}

/* [16 columns][16 queries][16 columns] */
static char *output_tiles(const flash *f, int q_tile)
{
    return f->scratch + f->at.output + (size_t)(q_tile * 2 * f->at.k_steps * TILE_BYTES);
}

static team team_of(const flash *f, int first)
{
    int left = f->at.q_tiles - first;
    return (team){first, left < TEAM ? left : TEAM};
}

/* Turns over 16 x 16 words and stores the rows. */
ALWAYS_INLINE void turn_over(__m512i z[16], char *to)
{
    __m512i t[16];
    for (int i = 0; i < 16; i += 4) {
        __m512i a = _mm512_unpacklo_epi32(z[i], z[i + 1]), b = _mm512_unpackhi_epi32(z[i], z[i + 1]);
        __m512i c = _mm512_unpacklo_epi32(z[i + 2], z[i + 3]), d = _mm512_unpackhi_epi32(z[i + 2], z[i + 3]);
        t[i] = _mm512_unpacklo_epi64(a, c);
        t[i + 1] = _mm512_unpackhi_epi64(a, c);
        t[i + 2] = _mm512_unpacklo_epi64(b, d);
        t[i + 3] = _mm512_unpackhi_epi64(b, d);
    }
    for (int k = 0; k < 4; k++) { /* lane group g of t[4 j + k]: words 4 j to 4 j + 3 of row 4 g + k */
        __m512i a = _mm512_shuffle_i32x4(t[k], t[4 + k], 0x88), b = _mm512_shuffle_i32x4(t[k], t[4 + k], 0xdd);
        __m512i c = _mm512_shuffle_i32x4(t[8 + k], t[12 + k], 0x88);
        __m512i d = _mm512_shuffle_i32x4(t[8 + k], t[12 + k], 0xdd);
        _mm512_store_si512(to + k * 64, _mm512_shuffle_i32x4(a, c, 0x88));
        _mm512_store_si512(to + (4 + k) * 64, _mm512_shuffle_i32x4(b, d, 0x88));
        _mm512_store_si512(to + (8 + k) * 64, _mm512_shuffle_i32x4(a, c, 0xdd));
        _mm512_store_si512(to + (12 + k) * 64, _mm512_shuffle_i32x4(b, d, 0xdd));
    }
}

ALWAYS_INLINE void turn_over_terms(__m512i z[TERMS][16], char *to)
{
    for (int term = 0; term < TERMS; term++) {
        turn_over(z[term], to + term * TILE_BYTES);
    }
}

/* ---- rows into tiles -------------------------------------------------------------------------------------------- */

/* Queries as right factors: [tile][step][term][word][query]. Lanes past the last query repeat it. */
static void stage_queries(const flash *f)
{
    const fga_attend_op *op = f->op;
    for (int tile = 0; tile < f->at.q_tiles; tile++) {
        for (int step = 0; step < f->at.k_steps; step++) {
            __m512i z[TERMS][SIDE];
            for (int i = 0; i < SIDE; i++) {
                int row = tile * SIDE + i < op->rows ? tile * SIDE + i : op->rows - 1;
                const char *from = element(op->q, row * op->q_stride, DTYPE);
                __m512i words[TERMS];
                split_row(from, false, step * TILE_K, op->head_dim - step * TILE_K, words);
                for (int term = 0; term < TERMS; term++) {
                    z[term][i] = words[term];
                }
            }
            turn_over_terms(z, query_tiles(f, tile) + step * STEP_BYTES);
        }
    }
}

ALWAYS_INLINE void stage_key(const char *key, bool sum, int head_dim, char *row)
{
    for (int channel = 0; channel < head_dim; channel += TILE_K, row += STEP_ROW) {
        __m512i words[TERMS];
        if (head_dim - channel >= TILE_K) {
            split_row(key, sum, channel, TILE_K, words);
        } else {
            split_row(key, sum, channel, head_dim - channel, words);
        }
        for (int term = 0; term < TERMS; term++) {
            _mm512_store_si512(row + term * 64, words[term]);
        }
    }
}

/* Keys [from, to) of a strip as left factors, row by row: [step][term][32 channels]. */
static void stage_keys(const flash *f, const strip *s, int from, int to)
{
    int head_dim = f->op->head_dim, listed = to < s->has.listed ? to : s->has.listed;
    char *row = key_row(f, from);
    for (; from < listed; from++, row += f->at.row_bytes) {
        stage_key(s->key[from], false, head_dim, row);
    }
    for (; from < to; from++, row += f->at.row_bytes) {
        stage_key(s->key[from], true, head_dim, row);
    }
}

ALWAYS_INLINE void stage_value_pair(const char *even, const char *odd, bool sum, int head_dim, char *row)
{
    for (int column = 0; column < head_dim; column += 32, row += VALUE_SLICE) {
        __m512i words[TERMS][2];
        if (head_dim - column >= 32) {
            split_pair(even, odd, sum, column, 32, words);
        } else {
            split_pair(even, odd, sum, column, head_dim - column, words);
        }
        for (int term = 0; term < TERMS; term++) {
            _mm512_store_si512(row + term * 128, words[term][0]);
            _mm512_store_si512(row + term * 128 + 64, words[term][1]);
        }
    }
}

/* Pairs [from, to) of a strip's values as right factors: [32 columns][pair of keys][term][2 tiles][16 columns]. */
static void stage_values(const flash *f, const strip *s, int from, int to)
{
    int head_dim = f->op->head_dim, sums = part_count(s->has.listed, 2), listed = to < sums ? to : sums;
    char *row = value_slice(f, s, 0) + from * VALUE_ROW;
    for (; from < listed; from++, row += VALUE_ROW) {
        stage_value_pair(s->value[2 * from], s->value[2 * from + 1], false, head_dim, row);
    }
    for (; from < to; from++, row += VALUE_ROW) {
        stage_value_pair(s->value[2 * from], s->value[2 * from + 1], true, head_dim, row);
    }
}

/* ---- products ----------------------------------------------------------------------------------------------------
 *
 * Two left factors times two right ones, so that four sums, tiles 0 to 3, do not wait for each other and every tile
 * that is loaded takes part in two multiplications or more. Lefts are in 4 and 5, rights in 6 and 7. */

/* Where a factor's tiles lie: bytes to the other factor's, between terms and between rows. */
typedef struct factor {
    const char *at;
    int64_t other, term, row;
} factor;

#define LOAD_LEFTS(TERM) \
    TILE_LOAD(4, left.at + left.term * (TERM), left.row); \
    if (lefts > 1) { \
        TILE_LOAD(5, left.at + left.other + left.term * (TERM), left.row); \
    }

#define LOAD_RIGHTS(TERM) \
    TILE_LOAD(6, right.at + right.term * (TERM), right.row); \
    if (rights > 1) { \
        TILE_LOAD(7, right.at + right.other + right.term * (TERM), right.row); \
    }

#define MULTIPLY_FOUR \
    TILE_MULTIPLY(0, 4, 6); \
    if (rights > 1) { \
        TILE_MULTIPLY(1, 4, 7); \
    } \
    if (lefts > 1) { \
        TILE_MULTIPLY(2, 5, 6); \
    } \
    if (lefts > 1 && rights > 1) { \
        TILE_MULTIPLY(3, 5, 7); \
    }

/* All products of terms that count; from one to the next only the left or the right ones change. `least`: so does the
 * product of the second ones, which makes that of two numbers exact. */
ALWAYS_INLINE void multiply_step(bool least, int lefts, int rights, factor left, factor right)
{
    LOAD_LEFTS(0)
    if (TERMS > 1) {
        LOAD_RIGHTS(1)
        MULTIPLY_FOUR
    }
    LOAD_RIGHTS(0)
    MULTIPLY_FOUR
    if (TERMS > 1) {
        LOAD_LEFTS(1)
        MULTIPLY_FOUR
    }
    if (TERMS > 1 && least) {
        LOAD_RIGHTS(1)
        MULTIPLY_FOUR
    }
}

ALWAYS_INLINE void clear_sums(void)
{
    TILE_CLEAR(0);
    TILE_CLEAR(1);
    TILE_CLEAR(2);
    TILE_CLEAR(3);
}

/* The sums of left factor i and right factor j, at to + i * lefts_apart + j * rights_apart. */
ALWAYS_INLINE void store_sums(int lefts, int rights, char *to, int64_t lefts_apart, int64_t rights_apart)
{
    TILE_STORE(0, to, 64);
    if (rights > 1) {
        TILE_STORE(1, to + rights_apart, 64);
    }
    if (lefts > 1) {
        TILE_STORE(2, to + lefts_apart, 64);
    }
    if (lefts > 1 && rights > 1) {
        TILE_STORE(3, to + lefts_apart + rights_apart, 64);
    }
}

/* ---- logits ------------------------------------------------------------------------------------------------------ */

ALWAYS_INLINE void logits_block(const unit_work *w, int q_tile, int q_tiles, int step, int k_steps)
{
    factor key = {.at = w->key + step * STEP_ROW, .term = 64, .row = (int64_t)k_steps * STEP_ROW};
    factor query = {.at = w->query + (q_tile * k_steps + step) * STEP_BYTES, .term = TILE_BYTES, .row = 64};
    key.other = SIDE * key.row;
    query.other = (int64_t)k_steps * STEP_BYTES;
    if (step == 0) {
        clear_sums();
    }
    multiply_step(true, 2, q_tiles, key, query);
    if (step == k_steps - 1) {
        store_sums(2, q_tiles, w->logits + q_tile * w->apart, TILE_BYTES, w->apart);
    }
}

ALWAYS_INLINE void logits_step(unit_work *w, int k_steps)
{
    int q_tile = w->step / k_steps * 2, step = w->step % k_steps;
    if (w->count - q_tile > 1) {
        logits_block(w, q_tile, 2, step, k_steps);
    } else {
        logits_block(w, q_tile, 1, step, k_steps);
    }
    w->step++;
}

static void want_logits(flash *f, team t, int pair, char *to, int64_t apart)
{
    f->ahead = (unit_work){
        .query = query_tiles(f, t.first),
        .key = key_row(f, pair * PAIR),
        .logits = to,
        .apart = apart,
        .count = t.count,
        .steps = part_count(t.count, 2) * f->at.k_steps,
    };
}

static void finish_logits(flash *f)
{
    while (f->ahead.step < f->ahead.steps) {
        logits_step(&f->ahead, f->at.k_steps);
    }
}

/* A piece of the work on the unit before: what has to be done by then. All is done when three quarters of the pieces
 * are, so that the last results are in memory when they are wanted. */
ALWAYS_INLINE void logits_piece(unit_work *w, int piece, int pieces, int k_steps)
{
    int due = (w->steps * 4 * (piece + 1) + 3 * pieces - 1) / (3 * pieces);
    for (due = due < w->steps ? due : w->steps; w->step < due;) {
        logits_step(w, k_steps);
    }
}

/* ---- outputs ----------------------------------------------------------------------------------------------------- */

/* What a strip adds to the outputs of a team, 32 keys of 32 columns and two tiles of queries at a time. */
typedef struct outputs_work {
    const char *weights, *values;
    char *outputs;
    int64_t apart; /* bytes from one tile of queries' outputs to the next one's */
    int column, columns, q_tile, q_tiles, unit, units;
    bool fresh; /* the sums start at zero, not at what is in memory */
} outputs_work;

static outputs_work want_outputs(const flash *f, team t)
{
    int tiles = 2 * f->at.k_steps;
    return (outputs_work){
        .weights = weight_tiles(f, t.first),
        .values = value_slice(f, f->now, 0),
        .outputs = output_tiles(f, t.first),
        .apart = (int64_t)tiles * TILE_BYTES,
        .columns = f->at.k_steps,
        .q_tiles = t.count,
        .units = f->now->pairs,
        .fresh = f->now->first,
    };
}

ALWAYS_INLINE void outputs_block(const outputs_work *w, int q_tiles)
{
    const int64_t next = (int64_t)MOST_PAIRS * STEP_BYTES;
    const char *weights = w->weights + w->q_tile * next + w->unit * STEP_BYTES;
    const char *values = w->values + w->column * VALUE_SLICE + w->unit * SIDE * VALUE_ROW;
    char *to = w->outputs + w->q_tile * w->apart + 2 * w->column * TILE_BYTES;
    if (w->unit == 0 && w->fresh) {
        clear_sums();
    } else if (w->unit == 0) {
        TILE_LOAD(0, to, 64);
        TILE_LOAD(1, to + TILE_BYTES, 64);
        if (q_tiles > 1) {
            TILE_LOAD(2, to + w->apart, 64);
            TILE_LOAD(3, to + w->apart + TILE_BYTES, 64);
        }
    }
    multiply_step(false, q_tiles, 2, (factor){.at = weights, .other = next, .term = TILE_BYTES, .row = 64},
                  (factor){.at = values, .other = 64, .term = 128, .row = VALUE_ROW});
    if (w->unit == w->units - 1) {
        store_sums(q_tiles, 2, to, w->apart, TILE_BYTES);
    }
}

ALWAYS_INLINE void outputs_step(outputs_work *w)
{
    if (w->q_tiles - w->q_tile > 1) {
        outputs_block(w, 2);
    } else {
        outputs_block(w, 1);
    }
    if (++w->unit == w->units) {
        w->unit = 0;
        w->q_tile += 2;
        if (w->q_tile >= w->q_tiles) {
            w->q_tile = 0;
            w->column++;
        }
    }
}

/* ---- softmax ---------------------------------------------------------------------------------------------------- */

/* The weights of 32 keys and 16 queries. */
typedef struct patch {
    const float *logits; /* [32][16] */
    const float *bias;   /* [32] in log2 units */
    float scale;         /* log2 e included */
    char *to;            /* [term][16 queries][32 keys] */
    /* With summaries: less[i] is the row of `rows` that holds the weight of the summary of key i's group. */
    const float *rows;
    const int16_t *less;
} patch;

ALWAYS_INLINE void put_weights(__m512i z[TERMS][16], int pair, vec first, vec second)
{
    __m512i words[TERMS];
    split_weights(first, second, words);
    for (int term = 0; term < TERMS; term++) {
        z[term][pair] = words[term];
    }
}

ALWAYS_INLINE vec weight_of(bool plain, const patch *p, int key, vec m)
{
    vec logit = vec_load(p->logits + key * SIDE);
    vec offset = plain ? vec_sub(vec_set(0), m) : vec_sub(vec_set(p->bias[key]), m);
    return vec_exp2(vec_fma(logit, vec_set(p->scale), offset));
}

/* Returns the sum of the weights before rounding, so that L keeps the precision of f32. Where there are summaries, what
 * `less` names comes off each weight after that. `beside` goes on meanwhile, from piece `piece` of `pieces` on. */
ALWAYS_INLINE vec weigh(bool plain, bool grouped, const patch *p, vec m, unit_work *beside, int piece, int pieces,
                        int k_steps)
{
    __m512i z[TERMS][16];
    vec even = vec_set(0), odd = vec_set(0);
#pragma GCC unroll 16
    for (int i = 0; i < 16; i++) {
        if (i % (16 / PIECES) == 0) {
            logits_piece(beside, piece + i / (16 / PIECES), pieces, k_steps);
        }
        vec first = weight_of(plain, p, 2 * i, m), second = weight_of(plain, p, 2 * i + 1, m);
        even = vec_add(even, first);
        odd = vec_add(odd, second);
        if (grouped) {
            first = vec_sub(first, vec_load(p->rows + p->less[2 * i] * SIDE));
            second = vec_sub(second, vec_load(p->rows + p->less[2 * i + 1] * SIDE));
        }
        put_weights(z, i, first, second);
    }
    turn_over_terms(z, p->to);
    return vec_add(even, odd);
}

/* 128 channels are what matters most. */
#define WEIGH(name, plain, grouped) \
    static vec name(const patch *p, vec m, unit_work *beside, int piece, int pieces, int k_steps) \
    { \
        return k_steps == 4 ? weigh(plain, grouped, p, m, beside, piece, pieces, 4) \
                            : weigh(plain, grouped, p, m, beside, piece, pieces, k_steps); \
    }
WEIGH(weigh_plain, true, false)
WEIGH(weigh_biased, false, false)
WEIGH(weigh_plain_grouped, true, true)
WEIGH(weigh_biased_grouped, false, true)
#undef WEIGH

static vec largest_logit(const patch *p)
{
    vec max = vec_set(-INFINITY);
    for (int key = 0; key < PAIR; key++) {
        max = vec_max(vec_fma(vec_load(p->logits + key * SIDE), vec_set(p->scale), vec_set(p->bias[key])), max);
    }
    return max;
}

static void rescale_row_tiles(char *tiles, int count, const float by[SIDE])
{
    for (int i = 0; i < count * SIDE; i++) {
        float *row = (float *)(tiles + i * 64);
        vec_store(row, vec_mul(vec_load(row), vec_set(by[i % SIDE])));
    }
}

static void rescale_weights(char *tiles, int units, const float by[SIDE])
{
    for (int i = 0; i < units * SIDE; i++) {
        char *row = tiles + i / SIDE * STEP_BYTES + i % SIDE * 64;
        vec low = vec_set(0), high = vec_set(0), f = vec_set(by[i % SIDE]);
        for (int term = TERMS - 1; term >= 0; term--) {
            __m512i both = _mm512_load_si512(row + term * TILE_BYTES);
            low = vec_add(low, _mm512_castsi512_ps(_mm512_slli_epi32(both, 16)));
            high = vec_add(high, _mm512_castsi512_ps(_mm512_and_si512(both, _mm512_set1_epi32((int)0xffff0000))));
        }
        __m512i words[TERMS];
        split_weights(vec_mul(low, f), vec_mul(high, f), words);
        for (int term = 0; term < TERMS; term++) {
            _mm512_store_si512(row + term * TILE_BYTES, words[term]);
        }
    }
}

static float *max_of(const flash *f, int q_tile)
{
    return (float *)(f->scratch + f->at.max) + q_tile * SIDE;
}

static float *sum_of(const flash *f, int q_tile)
{
    return (float *)(f->scratch + f->at.sum) + q_tile * SIDE;
}

/* Raises the running maximum of a tile of queries to `largest` when it must, and rescales to it all that was weighed
 * before: sums, outputs, and the strip's weights of `key_pairs` units, which are not in the outputs yet. */
static vec raise_max(const flash *f, int q_tile, int key_pairs, vec largest)
{
    float by[SIDE], *max = max_of(f, q_tile), *sum = sum_of(f, q_tile);
    vec m = vec_load(max);
    if (vec_any_above(largest, vec_add(m, vec_set(8.0f)))) {
        vec raised = vec_max(largest, m), scale = vec_exp2(vec_sub(m, raised));
        vec_store(by, scale);
        if (!f->now->first) {
            rescale_row_tiles(output_tiles(f, q_tile), 2 * f->at.k_steps, by);
        }
        rescale_weights(weight_tiles(f, q_tile), key_pairs, by);
        vec_store(sum, vec_mul(vec_load(sum), scale));
        vec_store(max, raised);
        m = raised;
    }
    return m;
}

/* Logits of 32 keys and of tile number `tile` of a team into weights. */
static void weigh_unit(flash *f, team t, int tile, int pair, const float *logits)
{
    int q_tile = t.first + tile;
    patch p = {
        .logits = logits,
        .bias = f->now->bias + pair * PAIR,
        .scale = f->op->scale * LOG2_E,
        .to = weight_tiles(f, q_tile) + pair * STEP_BYTES,
    };
    float *max = max_of(f, q_tile), *sum = sum_of(f, q_tile);
    bool plain = f->now->plain && f->now->has.listed - pair * PAIR >= PAIR;
    if (f->now->first && pair == 0) {
        raise_max(f, q_tile, 0, largest_logit(&p));
    }
    vec m = vec_load(max);
    int piece = tile * PIECES, pieces = t.count * PIECES;
    vec total = plain ? weigh_plain(&p, m, &f->ahead, piece, pieces, f->at.k_steps)
                      : weigh_biased(&p, m, &f->ahead, piece, pieces, f->at.k_steps);
    if (_mm512_cmp_ps_mask(total, vec_set(rescale_above), _CMP_NLE_UQ) != 0) {
        m = raise_max(f, q_tile, pair, largest_logit(&p));
        unit_work nothing = {0};
        total = weigh_biased(&p, m, &nothing, 0, PIECES, f->at.k_steps);
    }
    vec_store(sum, vec_add(vec_load(sum), total));
}

/* ---- strips ----------------------------------------------------------------------------------------------------- */

/* A row of any element type. */
static const char zeros[256 * sizeof(float)];

/* Names the rows of the sums of the strip's groups after the listed keys' rows, and for each listed key the
 * summary of its group. */
static void stage_sums(flash *f, strip *s)
{
    const fga_attend_op *op = f->op;
    char *row = f->scratch + f->at.sums;
    int64_t apart = (int64_t)f->at.row_bytes;
    int k = s->has.listed, v = s->has.listed + s->has.listed % 2;
    s->value[s->has.listed] = zeros;
    for (int i = 0; i < s->has.groups; i++) {
        const group *g = &s->has.group[i];
        for (int key = g->first; key < g->first + g->listed; key++) {
            s->less[key] = (int16_t)(g->remaining > 0 ? k : MOST_ROWS);
        }
        if (g->remaining > 0) {
            name_sum(op, SUM_OF_KEYS, g->index, WORD, row, apart, s->key + k);
            name_sum(op, SUM_OF_VALUES, g->index, WORD, row + WORD * apart, apart, s->value + v);
            s->bias[k] = op->summaries->sum_bias[g->index] * LOG2_E;
            s->bias[k + 1] = 0.0f;
            row += 2 * WORD * apart;
            k += WORD;
            v += WORD;
        }
    }
}

/* The next strip into *s; false when there are no more keys. */
static bool find_strip(flash *f, strip *s)
{
    const fga_attend_op *op = f->op;
    const uint32_t *keys = op->keys + f->cursor.key;
    int most = f->at.q_tiles > 1 ? STRIP : SHORT_STRIP;
    s->first = f->cursor.key == 0 && f->cursor.group == 0;
    s->plain = op->bias == NULL;
    s->has.listed = s->has.groups = s->has.keys = s->has.values = 0;
    if (op->summaries != NULL) {
        take_groups(op, &f->cursor, most, &s->has);
    } else {
        int64_t left = op->key_count - f->cursor.key;
        s->has.listed = s->has.keys = (int)(left < most ? left : most);
        f->cursor.key += s->has.listed;
    }
    s->pairs = part_count(s->has.keys, PAIR);
    for (int i = 0; i < s->has.listed; i++) {
        s->key[i] = element(op->k, keys[i] * op->k_stride, DTYPE);
        s->value[i] = element(op->v, keys[i] * op->v_stride, DTYPE);
        s->bias[i] = s->plain ? 0.0f : op->bias[keys[i]] * LOG2_E;
    }
    for (int i = s->has.listed; i < s->pairs * PAIR; i++) {
        s->key[i] = s->value[i] = zeros;
        s->bias[i] = -INFINITY;
    }
    if (s->has.groups > 0) {
        stage_sums(f, s);
    }
    return s->has.keys > 0;
}

/* The unit of a team's after this one, or of the next team's: false where there is none. */
static bool next_unit(const flash *f, team *t, int *pair)
{
    if (++*pair == f->now->pairs) {
        *pair = 0;
        *t = team_of(f, t->first + t->count);
    }
    return t->count > 0;
}

/* Weights of a strip. */
static void weigh_strip(flash *f)
{
    team t = team_of(f, 0), coming = t;
    want_logits(f, t, 0, unit_logits(f, 0), UNIT_BYTES);
    finish_logits(f);
    for (int unit = 0, pair = 0, next = 0; t.count > 0; unit++, t = coming, pair = next) {
        if (next_unit(f, &coming, &next)) {
            want_logits(f, coming, next, unit_logits(f, 1 - unit % 2), UNIT_BYTES);
        }
        for (int tile = 0; tile < t.count; tile++) {
            weigh_unit(f, t, tile, pair, (const float *)(unit_logits(f, unit % 2) + tile * UNIT_BYTES));
        }
    }
}

/* Outputs of a strip; beside them, copies of the next one's keys and values. */
static void add_strip(flash *f)
{
    int steps = 0, step = 0, keys = 0, values = 0;
    int rows = f->next != NULL ? f->next->pairs * PAIR : 0;
    for (team t = team_of(f, 0); t.count > 0; t = team_of(f, t.first + t.count)) {
        steps += f->now->pairs * part_count(t.count, 2) * f->at.k_steps;
    }
    for (team t = team_of(f, 0); t.count > 0; t = team_of(f, t.first + t.count)) {
        outputs_work w = want_outputs(f, t);
        while (w.column < w.columns) {
            outputs_step(&w);
            if (rows > 0) {
                int due = rows * ++step / steps;
                stage_keys(f, f->next, keys, due);
                stage_values(f, f->next, values, due / 2);
                keys = due;
                values = due / 2;
            }
        }
    }
}

/* ---- strips with summaries --------------------------------------------------------------------------------------- */

/* The weight of each summary of the strip, in place of its logit; returns what they add to the sum of weights. */
static vec weigh_summaries(flash *f, int q_tile, float *logits)
{
    const strip *s = f->now;
    vec max = vec_set(-INFINITY), scale = vec_set(f->op->scale * LOG2_E), total = vec_set(0);
    float *summaries = logits + s->has.listed * SIDE, *at = summaries;
    for (int i = 0; i < s->has.groups; i++) {
        const group *g = &s->has.group[i];
        vec kept = vec_set(0);
        for (int key = g->first; key < g->first + g->listed; key++) {
            vec logit = vec_fma(vec_load(logits + key * SIDE), scale, vec_set(s->bias[key]));
            kept = vec_add(kept, logit);
            max = vec_max(logit, max);
        }
        if (g->remaining > 0) {
            vec rest = vec_add(vec_load(at), vec_load(at + SIDE));
            rest = vec_sub(vec_fma(rest, scale, vec_set(s->bias[(at - logits) / SIDE])), kept);
            rest = vec_mul(rest, vec_set(1.0f / g->remaining));
            max = vec_max(rest, max);
            vec_store(at, rest);
            at += WORD * SIDE;
        }
    }
    vec m = raise_max(f, q_tile, 0, max);
    at = summaries;
    for (int i = 0; i < s->has.groups; i++) {
        const group *g = &s->has.group[i];
        if (g->remaining > 0) {
            vec w = vec_exp2(vec_sub(vec_load(at), m));
            total = vec_fma(w, vec_set(g->remaining), total);
            vec_store(at, word_weight(w));
            at += WORD * SIDE;
        }
    }
    return total;
}

/* The unit in which listed keys end and summaries begin, or one of summaries alone. */
static vec weigh_mixed(const flash *f, const patch *p, int pair, vec m)
{
    const strip *s = f->now;
    int listed = part_count(s->has.listed, 2), pairs = listed + (s->has.keys - s->has.listed) / WORD;
    __m512i z[TERMS][16];
    vec total = vec_set(0);
    for (int i = 0; i < 16; i++) {
        int at = pair * 16 + i;
        vec weight[2] = {vec_set(0), vec_set(0)};
        for (int e = 0; e < 2 && at < listed; e++) {
            int key = 2 * at + e;
            if (key < s->has.listed) {
                vec w = weight_of(false, p, 2 * i + e, m);
                total = vec_add(total, w);
                weight[e] = vec_sub(w, vec_load(p->rows + s->less[key] * SIDE));
            }
        }
        if (at >= listed && at < pairs) {
            weight[0] = weight[1] = vec_load(p->rows + (s->has.listed + (at - listed) * WORD) * SIDE);
        }
        put_weights(z, i, weight[0], weight[1]);
    }
    turn_over_terms(z, p->to);
    return total;
}

static void weigh_grouped_unit(flash *f, int q_tile, int pair, const float *logits)
{
    const strip *s = f->now;
    patch p = {
        .logits = logits + pair * PAIR * SIDE,
        .bias = s->bias + pair * PAIR,
        .scale = f->op->scale * LOG2_E,
        .to = weight_tiles(f, q_tile) + pair * STEP_BYTES,
        .rows = logits,
        .less = s->less + pair * PAIR,
    };
    float *sum = sum_of(f, q_tile);
    unit_work nothing = {0};
    vec m = vec_load(max_of(f, q_tile)), total;
    if (s->has.listed - pair * PAIR < PAIR) {
        total = weigh_mixed(f, &p, pair, m);
    } else if (s->plain) {
        total = weigh_plain_grouped(&p, m, &nothing, 0, PIECES, f->at.k_steps);
    } else {
        total = weigh_biased_grouped(&p, m, &nothing, 0, PIECES, f->at.k_steps);
    }
    vec_store(sum, vec_add(vec_load(sum), total));
}

/* Weights of a strip with summaries, where all logits of a group must be known before any of its weights. */
static void weigh_grouped_strip(flash *f)
{
    for (team t = team_of(f, 0); t.count > 0; t = team_of(f, t.first + t.count)) {
        for (int pair = 0; pair < f->now->pairs; pair++) {
            want_logits(f, t, pair, strip_logits(f, 0) + pair * UNIT_BYTES, LOGITS_BYTES);
            finish_logits(f);
        }
        for (int tile = 0; tile < t.count; tile++) {
            float *logits = (float *)strip_logits(f, tile), *sum = sum_of(f, t.first + tile);
            vec_store(sum, vec_add(vec_load(sum), weigh_summaries(f, t.first + tile, logits)));
            memset(logits + MOST_ROWS * SIDE, 0, LOGIT_ROW);
            for (int pair = 0; pair < f->now->pairs; pair++) {
                weigh_grouped_unit(f, t.first + tile, pair, logits);
            }
        }
    }
}

static void run_strips(flash *f)
{
    stage_keys(f, f->now, 0, f->now->pairs * PAIR);
    stage_values(f, f->now, 0, f->now->pairs * SIDE);
    while (f->now != NULL) {
        strip *other = f->now == &f->two[0] ? &f->two[1] : &f->two[0];
        f->next = NULL;
        if (f->now->has.groups > 0) {
            weigh_grouped_strip(f);
        } else {
            weigh_strip(f);
        }
        if (find_strip(f, other)) {
            f->next = other;
            other->place = 1 - f->now->place;
        }
        add_strip(f);
        f->now = f->next;
    }
}

/* ---- the whole -------------------------------------------------------------------------------------------------- */

/* Returns whether all are finite. */
static bool store_outputs(const flash *f)
{
    const fga_attend_op *op = f->op;
    const float *sum = (const float *)(f->scratch + f->at.sum);
    vec poison = vec_set(0);
    float row[256];
    for (int32_t i = 0; i < op->rows; i++) {
        const char *tiles = output_tiles(f, i / SIDE) + i % SIDE * 64;
        char *to = element(op->o, i * op->o_stride, DTYPE);
        vec inverse = vec_set(1.0f / sum[i]);
        for (int pair = 0; pair < f->at.k_steps; pair++, tiles += (size_t)(2 * TILE_BYTES)) {
            vec columns[2] = {vec_load((const float *)tiles), vec_load((const float *)(tiles + TILE_BYTES))};
            join_columns(columns);
            for (int half = 0; half < 2; half++) {
                vec o = vec_mul(columns[half], inverse);
                poison = vec_fma(o, vec_set(0), poison);
                vec_store(row + pair * 32 + half * SIDE, o);
            }
        }
        store_row(to, row, op->head_dim);
    }
    return vec_sum(poison) == 0.0f;
}

static void attend_nothing(const fga_attend_op *op)
{
    for (int32_t i = 0; i < op->rows; i++) {
        memset(element(op->o, i * op->o_stride, DTYPE), 0, (size_t)op->head_dim * 2);
        if (op->lse != NULL) {
            op->lse[i] = -INFINITY;
        }
    }
}

static void attend(const fga_attend_op *op)
{
    flash f;
    f.op = op;
    f.at = lay_out(op->rows, op->head_dim);
    f.scratch = op->scratch;
    f.cursor = (cursor){0};
    f.now = &f.two[0];
    f.now->place = 0;
    float *max = (float *)(f.scratch + f.at.max), *sum = (float *)(f.scratch + f.at.sum);
    if (!find_strip(&f, f.now)) {
        attend_nothing(op);
        return;
    }
    tile_shapes callers;
    tiles_begin(&callers);
    stage_queries(&f);
    for (int i = 0; i < f.at.q_tiles * SIDE; i++) {
        max[i] = -FLT_MAX; /* not -inf: logits that are all -inf then give sum 0 instead of inf - inf */
        sum[i] = 0.0f;
    }
    run_strips(&f);
    tiles_end(&callers);
    if (!store_outputs(&f) && TERMS > 1) {
        fga_attend_avx512(op); /* terms make NaN of what is infinite */
        return;
    }
    for (int32_t i = 0; op->lse != NULL && i < op->rows; i++) {
        op->lse[i] = max[i] * ln_2 + logf(sum[i]);
    }
}

#endif
