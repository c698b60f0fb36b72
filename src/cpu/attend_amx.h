/* attend_amx.h - flash attention of one query block over a list of keys, on AMX tiles.
 *
 *     S[key][query]    = K Q^T    left: kept keys, copied row by row    right: queries, packed once
 *     P[query][key]    = weights  turned over while they are in registers
 *     O[query][column] += P V     left: weights                         right: values, two kept keys interleaved
 *
 * Keys come in strips. Up to 64 queries, a team, are worked on at once, so that what tiles load from the second-level
 * cache serves all of them. While the vector units turn a unit, 32 keys of a team, into weights, the tiles compute the
 * next unit's logits; while the tiles add the strip's values, the next strip's keys and values are copied
 * (docs/kernels-cpu.md).
 */
#ifndef FGA_CPU_ATTEND_AMX_H
#define FGA_CPU_ATTEND_AMX_H

#include "cpu/element.h"
#include "cpu/sum_bf16.h"
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
    VALUE_SLICE = MOST_ROWS / 2 * 128,          /* 32 columns of a strip */
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
    at.row_bytes = (size_t)at.k_steps * 64;
    size_t queries = (size_t)at.q_tiles, steps = (size_t)at.k_steps;
    at.key = at.query + queries * steps * TILE_BYTES;
    at.value = at.key + MOST_ROWS * at.row_bytes;
    at.logit = at.value + 2 * steps * VALUE_SLICE;
    at.weight = at.logit + (size_t)(TEAM * LOGITS_BYTES);
    at.output = at.weight + queries * MOST_PAIRS * TILE_BYTES;
    at.max = at.output + queries * 2 * steps * TILE_BYTES;
    at.sum = at.max + queries * SIDE * sizeof(float);
    at.sums = at.sum + queries * SIDE * sizeof(float);
    at.total = at.sums + (size_t)(LONGEST_STRIP * WORD) * at.row_bytes;
    return at;
}

static size_t attend_scratch(int32_t rows, int32_t head_dim, fga_dtype dtype)
{
    (void)dtype;
    return lay_out(rows, head_dim).total;
}

typedef struct strip {
    portion has;
    int pairs;             /* of key tiles */
    int place;             /* of its values: 0 or 1 */
    bool first;            /* no key was weighed before */
    bool plain;            /* no key has a bias */
    float bias[MOST_ROWS]; /* in log2 units; -inf past the last key */
    /* Rows of bf16, zeros past the last one. Values may have one zero row between listed keys and summaries. */
    const char *key[MOST_ROWS], *value[MOST_ROWS];
    int16_t less[MOST_ROWS]; /* the row of logits of the summary of a listed key's group; MOST_ROWS: it has none */
} strip;

/* Tiles of queries [first, first + count). */
typedef struct team {
    int first, count;
} team;

/* The logits of a unit, a step of 32 channels at a time. */
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
    return f->scratch + f->at.query + (size_t)(q_tile * f->at.k_steps * TILE_BYTES);
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

/* [unit][16 queries][32 keys] */
static char *weight_tiles(const flash *f, int q_tile)
{
    return f->scratch + f->at.weight + (size_t)(q_tile * MOST_PAIRS * TILE_BYTES);
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

/* ---- rows into tiles -------------------------------------------------------------------------------------------- */

ALWAYS_INLINE __mmask32 columns_left(int32_t head_dim, int first)
{
    return head_dim - first >= 32 ? 0xffffffffu : (1u << (head_dim - first)) - 1;
}

/* Queries as right factors: [tile][step][pair of channels][query]. Lanes past the last query repeat it. */
static void stage_queries(const flash *f)
{
    const fga_attend_op *op = f->op;
    for (int tile = 0; tile < f->at.q_tiles; tile++) {
        float *to = (float *)(f->scratch + f->at.query) + (size_t)(tile * f->at.k_steps * (TILE_BYTES / 4));
        const char *rows[SIDE];
        for (int i = 0; i < SIDE; i++) {
            int row = tile * SIDE + i < op->rows ? tile * SIDE + i : op->rows - 1;
            rows[i] = element(op->q, row * op->q_stride, FGA_BF16);
        }
        for (int word = 0; word < f->at.k_steps * 16; word += 4) {
            vec z[4] = {vec_set(0), vec_set(0), vec_set(0), vec_set(0)};
            if (word < op->head_dim / 2) {
                vec_load_rows(z, rows, 4 * word);
                vec_transpose4(z);
            }
            for (int k = 0; k < 4; k++) {
                vec_store(to + (word + k) * SIDE, z[k]);
            }
        }
    }
}

/* Keys [from, to) of a strip as left factors, row by row. */
static void stage_keys(const flash *f, const strip *s, int from, int to)
{
    int last = f->at.k_steps - 1;
    __mmask32 mask = columns_left(f->op->head_dim, last * TILE_K);
    char *row = key_row(f, from);
    for (int i = from; i < to; i++, row += f->at.row_bytes) {
        const char *key = s->key[i];
        for (int step = 0; step < last; step++) {
            _mm512_store_si512(row + step * 64, _mm512_loadu_si512(key + step * 64));
        }
        _mm512_store_si512(row + last * 64, _mm512_maskz_loadu_epi16(mask, key + last * 64));
    }
}

ALWAYS_INLINE void interleave(char *row, __m512i even, __m512i odd)
{
    _mm512_store_si512(row, _mm512_unpacklo_epi16(even, odd));
    _mm512_store_si512(row + 64, _mm512_unpackhi_epi16(even, odd));
}

/* Pairs [from, to) of a strip's values as right factors: [32 columns][pair of keys][2 tiles][16 columns]. The first
 * tile of two has columns 0-3, 8-11, 16-19, 24-27 of the 32, the second one the others: what one instruction gives. */
static void stage_values(const flash *f, const strip *s, int from, int to)
{
    int last = f->at.k_steps - 1;
    __mmask32 mask = columns_left(f->op->head_dim, last * TILE_K);
    for (int i = from; i < to; i++) {
        const char *even = s->value[2 * i], *odd = s->value[2 * i + 1];
        char *row = value_slice(f, s, 0) + i * 128;
        for (int step = 0; step < last; step++, even += 64, odd += 64, row += VALUE_SLICE) {
            interleave(row, _mm512_loadu_si512(even), _mm512_loadu_si512(odd));
        }
        interleave(row, _mm512_maskz_loadu_epi16(mask, even), _mm512_maskz_loadu_epi16(mask, odd));
    }
}

/* ---- logits -------------------------------------------------------------------------------------------------------
 *
 * Three or four tiles of queries: one tile of keys at a time, sums in tiles 0 to 3. One or two: both tiles of keys,
 * those of the second tile of queries in 2 and 3. Either way four sums do not wait for each other. */

#define LOGITS_QUERY(SUM, TILE, QUERY) \
    TILE_LOAD(TILE, QUERY, 64); \
    TILE_MULTIPLY(SUM, 4, TILE);

#define LOGITS_TWO_KEYS(SUM0, SUM1, TILE, QUERY) \
    TILE_LOAD(TILE, QUERY, 64); \
    TILE_MULTIPLY(SUM0, 4, TILE); \
    TILE_MULTIPLY(SUM1, 5, TILE);

ALWAYS_INLINE void logits_many(const unit_work *w, int k_steps)
{
    int half = w->step / k_steps, step = w->step % k_steps;
    int64_t row = (int64_t)k_steps * 64, next = (int64_t)k_steps * TILE_BYTES;
    const char *query = w->query + step * TILE_BYTES;
    char *to = w->logits + half * TILE_BYTES;
    if (step == 0) {
        TILE_CLEAR(0);
        TILE_CLEAR(1);
        TILE_CLEAR(2);
        TILE_CLEAR(3);
    }
    TILE_LOAD(4, w->key + half * SIDE * row + step * 64, row);
    LOGITS_QUERY(0, 5, query)
    LOGITS_QUERY(1, 6, query + next)
    LOGITS_QUERY(2, 7, query + 2 * next)
    if (w->count > 3) {
        LOGITS_QUERY(3, 5, query + 3 * next)
    }
    if (step == k_steps - 1) {
        TILE_STORE(0, to, 64);
        TILE_STORE(1, to + w->apart, 64);
        TILE_STORE(2, to + 2 * w->apart, 64);
        if (w->count > 3) {
            TILE_STORE(3, to + 3 * w->apart, 64);
        }
    }
}

ALWAYS_INLINE void logits_few(const unit_work *w, int k_steps)
{
    int64_t row = (int64_t)k_steps * 64;
    const char *key = w->key + w->step * 64, *query = w->query + w->step * TILE_BYTES;
    if (w->step == 0) {
        TILE_CLEAR(0);
        TILE_CLEAR(1);
        TILE_CLEAR(2);
        TILE_CLEAR(3);
    }
    TILE_LOAD(4, key, row);
    TILE_LOAD(5, key + SIDE * row, row);
    LOGITS_TWO_KEYS(0, 1, 6, query)
    if (w->count > 1) {
        LOGITS_TWO_KEYS(2, 3, 7, query + (int64_t)k_steps * TILE_BYTES)
    }
    if (w->step == k_steps - 1) {
        TILE_STORE(0, w->logits, 64);
        TILE_STORE(1, w->logits + TILE_BYTES, 64);
        if (w->count > 1) {
            TILE_STORE(2, w->logits + w->apart, 64);
            TILE_STORE(3, w->logits + w->apart + TILE_BYTES, 64);
        }
    }
}

ALWAYS_INLINE void logits_step(unit_work *w, int k_steps)
{
    if (w->count > 2) {
        logits_many(w, k_steps);
    } else {
        logits_few(w, k_steps);
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
        .steps = (t.count > 2 ? 2 : 1) * f->at.k_steps,
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

/* ---- outputs ------------------------------------------------------------------------------------------------------
 *
 * Three or four tiles of queries: 16 columns at a time, sums in tiles 0 to 3. One or two: 32 columns, the second tile
 * of queries in 2 and 3. */

/* What a strip adds to the outputs of a team, 32 keys of some columns at a time. */
typedef struct outputs_work {
    const char *weights, *values;
    char *outputs;
    int64_t apart; /* bytes from one tile of queries' outputs to the next one's */
    int column, columns, unit, units;
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
        .columns = t.count > 2 ? tiles : f->at.k_steps,
        .units = f->now->pairs,
        .fresh = f->now->first,
    };
}

#define OUTPUTS_BEGIN(SUM, FROM) \
    if (w->fresh) { \
        TILE_CLEAR(SUM); \
    } else { \
        TILE_LOAD(SUM, FROM, 64); \
    }

#define OUTPUTS_WEIGHT(SUM, TILE, WEIGHT) \
    TILE_LOAD(TILE, WEIGHT, 64); \
    TILE_MULTIPLY(SUM, TILE, 4);

#define OUTPUTS_TWO_COLUMNS(SUM0, SUM1, TILE, WEIGHT) \
    TILE_LOAD(TILE, WEIGHT, 64); \
    TILE_MULTIPLY(SUM0, TILE, 4); \
    TILE_MULTIPLY(SUM1, TILE, 5);

ALWAYS_INLINE void outputs_many(const outputs_work *w, int count)
{
    const char *weight = w->weights + w->unit * TILE_BYTES;
    const char *values = w->values + w->column / 2 * VALUE_SLICE + w->column % 2 * 64 + w->unit * SIDE * 128;
    char *to = w->outputs + w->column * TILE_BYTES;
    const int64_t next = MOST_PAIRS * TILE_BYTES;
    if (w->unit == 0) {
        OUTPUTS_BEGIN(0, to)
        OUTPUTS_BEGIN(1, to + w->apart)
        OUTPUTS_BEGIN(2, to + 2 * w->apart)
        if (count > 3) {
            OUTPUTS_BEGIN(3, to + 3 * w->apart)
        }
    }
    TILE_LOAD(4, values, 128);
    OUTPUTS_WEIGHT(0, 5, weight)
    OUTPUTS_WEIGHT(1, 6, weight + next)
    OUTPUTS_WEIGHT(2, 7, weight + 2 * next)
    if (count > 3) {
        OUTPUTS_WEIGHT(3, 5, weight + 3 * next)
    }
    if (w->unit == w->units - 1) {
        TILE_STORE(0, to, 64);
        TILE_STORE(1, to + w->apart, 64);
        TILE_STORE(2, to + 2 * w->apart, 64);
        if (count > 3) {
            TILE_STORE(3, to + 3 * w->apart, 64);
        }
    }
}

ALWAYS_INLINE void outputs_few(const outputs_work *w, int count)
{
    const char *weight = w->weights + w->unit * TILE_BYTES;
    const char *values = w->values + w->column * VALUE_SLICE + w->unit * SIDE * 128;
    char *to = w->outputs + 2 * w->column * TILE_BYTES;
    if (w->unit == 0) {
        OUTPUTS_BEGIN(0, to)
        OUTPUTS_BEGIN(1, to + TILE_BYTES)
        if (count > 1) {
            OUTPUTS_BEGIN(2, to + w->apart)
            OUTPUTS_BEGIN(3, to + w->apart + TILE_BYTES)
        }
    }
    TILE_LOAD(4, values, 128);
    TILE_LOAD(5, values + 64, 128);
    OUTPUTS_TWO_COLUMNS(0, 1, 6, weight)
    if (count > 1) {
        OUTPUTS_TWO_COLUMNS(2, 3, 7, weight + MOST_PAIRS * TILE_BYTES)
    }
    if (w->unit == w->units - 1) {
        TILE_STORE(0, to, 64);
        TILE_STORE(1, to + TILE_BYTES, 64);
        if (count > 1) {
            TILE_STORE(2, to + w->apart, 64);
            TILE_STORE(3, to + w->apart + TILE_BYTES, 64);
        }
    }
}

ALWAYS_INLINE void outputs_step(outputs_work *w, int count)
{
    if (count > 2) {
        outputs_many(w, count);
    } else {
        outputs_few(w, count);
    }
    if (++w->unit == w->units) {
        w->unit = 0;
        w->column++;
    }
}

/* ---- softmax ---------------------------------------------------------------------------------------------------- */

/* The weights of 32 keys and 16 queries. */
typedef struct patch {
    const float *logits; /* [32][16] */
    const float *bias;   /* [32] in log2 units */
    float scale;         /* log2 e included */
    char *to;            /* [16 queries][32 keys] of bf16 */
    /* With summaries: less[i] is the row of `rows` that holds the weight of the summary of key i's group. */
    const float *rows;
    const int16_t *less;
} patch;

/* Two weights as bf16, the first one below: to nearest, ties up. A NaN may not survive here; the sum keeps it. */
ALWAYS_INLINE __m512i pack(vec low, vec high)
{
    const __m512i half = _mm512_set1_epi32(0x8000), upper = _mm512_set1_epi32((int)0xffff0000);
    __m512i a = _mm512_srli_epi32(_mm512_add_epi32(_mm512_castps_si512(low), half), 16);
    __m512i b = _mm512_add_epi32(_mm512_castps_si512(high), half);
    return _mm512_ternarylogic_epi32(a, b, upper, 0xf8); /* a | (b & upper) */
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
    __m512i z[16];
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
        z[i] = pack(first, second);
    }
    turn_over(z, p->to);
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

static void rescale_weights(char *tiles, int count, const float by[SIDE])
{
    for (int i = 0; i < count * SIDE; i++) {
        __m512i *row = (__m512i *)(tiles + i * 64), both = _mm512_load_si512(row);
        vec f = vec_set(by[i % SIDE]), low = _mm512_castsi512_ps(_mm512_slli_epi32(both, 16));
        vec high = _mm512_castsi512_ps(_mm512_and_si512(both, _mm512_set1_epi32((int)0xffff0000)));
        _mm512_store_si512(row, pack(vec_mul(low, f), vec_mul(high, f)));
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
        .to = weight_tiles(f, q_tile) + pair * TILE_BYTES,
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

static const char zeros[512];

/* Names the sums of the strip's groups, as rows of bf16, after the listed keys' rows, and for each listed key the
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
        s->key[i] = element(op->k, keys[i] * op->k_stride, FGA_BF16);
        s->value[i] = element(op->v, keys[i] * op->v_stride, FGA_BF16);
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
    int k_steps = f->at.k_steps, steps = 0, step = 0, keys = 0, values = 0;
    int rows = f->next != NULL ? f->next->pairs * PAIR : 0;
    for (team t = team_of(f, 0); t.count > 0; t = team_of(f, t.first + t.count)) {
        steps += f->now->pairs * (t.count > 2 ? 2 * k_steps : k_steps);
    }
    for (team t = team_of(f, 0); t.count > 0; t = team_of(f, t.first + t.count)) {
        outputs_work w = want_outputs(f, t);
        while (w.column < w.columns) {
            outputs_step(&w, t.count);
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
    __m512i z[16];
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
        z[i] = pack(weight[0], weight[1]);
    }
    turn_over(z, p->to);
    return total;
}

static void weigh_grouped_unit(flash *f, int q_tile, int pair, const float *logits)
{
    const strip *s = f->now;
    patch p = {
        .logits = logits + pair * PAIR * SIDE,
        .bias = s->bias + pair * PAIR,
        .scale = f->op->scale * LOG2_E,
        .to = weight_tiles(f, q_tile) + pair * TILE_BYTES,
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

static void store_outputs(const flash *f)
{
    const fga_attend_op *op = f->op;
    const __m512i first = _mm512_set_epi32(23, 22, 21, 20, 7, 6, 5, 4, 19, 18, 17, 16, 3, 2, 1, 0);
    const __m512i second = _mm512_set_epi32(31, 30, 29, 28, 15, 14, 13, 12, 27, 26, 25, 24, 11, 10, 9, 8);
    const float *sum = (const float *)(f->scratch + f->at.sum);
    float row[256];
    for (int32_t i = 0; i < op->rows; i++) {
        const char *tiles = output_tiles(f, i / SIDE) + i % SIDE * 64;
        vec inverse = vec_set(1.0f / sum[i]);
        for (int pair = 0; pair < f->at.k_steps; pair++, tiles += (size_t)(2 * TILE_BYTES)) {
            vec a = vec_load((const float *)tiles), b = vec_load((const float *)(tiles + TILE_BYTES));
            vec_store(row + pair * 32, vec_mul(_mm512_permutex2var_ps(a, first, b), inverse));
            vec_store(row + pair * 32 + 16, vec_mul(_mm512_permutex2var_ps(a, second, b), inverse));
        }
        vec_f32_to_bf16(element(op->o, i * op->o_stride, FGA_BF16), row, op->head_dim);
    }
}

static void attend_nothing(const fga_attend_op *op)
{
    for (int32_t i = 0; i < op->rows; i++) {
        memset(element(op->o, i * op->o_stride, FGA_BF16), 0, (size_t)op->head_dim * 2);
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
    store_outputs(&f);
    for (int32_t i = 0; op->lse != NULL && i < op->rows; i++) {
        op->lse[i] = max[i] * ln_2 + logf(sum[i]);
    }
}

#endif
