/* attend_amx.h - flash attention of one query block over a list of keys, on AMX tiles.
 *
 *     S[key][query]    = K Q^T    left: kept keys, copied row by row    right: queries, packed once
 *     P[query][key]    = weights  turned over while they are in registers
 *     O[query][column] += P V     left: weights                         right: values, two kept keys interleaved
 *
 * Keys come in strips, and a strip's logits 32 keys at a time. While the vector units turn those into weights, the
 * tiles compute the logits of the next 32 keys, and the keys after those are copied; then the strip's values are added,
 * 32 columns at a time, while the next columns are interleaved (docs/kernels-cpu.md).
 */
#ifndef FGA_CPU_ATTEND_AMX_H
#define FGA_CPU_ATTEND_AMX_H

#include "cpu/element.h"
#include "cpu/sum_bf16.h"
#include "cpu/tile_amx.h"

#include "cpu/groups.h"
#include "ops/ops.h"

#include <float.h>
#include <math.h>
#include <string.h>

enum {
    PAIR = 2 * SIDE,
    STRIP = 256,
    MOST_PAIRS = (LONGEST_STRIP + PAIR - 1) / PAIR, /* of key tiles in a strip */
    MOST_ROWS = MOST_PAIRS * PAIR,
    MOST_SUMMARIES = STRIP / WORD,
};

static const float ln_2 = 0.693147180559945309417f;

/* A weight may exceed 1 by this factor before the sums are rescaled to a new largest logit. */
static const float rescale_above = 256.0f;

/* Numbers of tiles, and where things lie in the caller's scratch; offsets and sizes in bytes. */
typedef struct layout {
    int q_tiles, q_pairs, k_steps;
    size_t row_bytes; /* of a key, in whole steps */
    size_t query, key, value, logit, weight, output, max, sum, sums, total;
} layout;

enum { VALUE_SLICE = MOST_ROWS / 2 * 128, LOGIT_ROW = SIDE * 4, LOGITS_BYTES = PAIR * 2 * LOGIT_ROW };

static layout lay_out(int32_t rows, int32_t head_dim)
{
    layout at = {.q_tiles = part_count(rows, SIDE), .k_steps = part_count(head_dim, TILE_K)};
    at.q_pairs = part_count(at.q_tiles, 2);
    at.row_bytes = (size_t)at.k_steps * 64;
    size_t queries = (size_t)at.q_tiles, steps = (size_t)at.k_steps;
    at.key = at.query + queries * steps * TILE_BYTES;
    at.value = at.key + 2 * PAIR * at.row_bytes;
    at.logit = at.value + (size_t)(2 * VALUE_SLICE);
    at.weight = at.logit + queries * MOST_ROWS * LOGIT_ROW; /* all of a strip's only with summaries */
    at.output = at.weight + queries * MOST_PAIRS * TILE_BYTES;
    at.max = at.output + queries * 2 * steps * TILE_BYTES;
    at.sum = at.max + queries * SIDE * sizeof(float);
    at.sums = at.sum + queries * SIDE * sizeof(float);
    at.total = at.sums + (size_t)(MOST_SUMMARIES * 2 * WORD) * at.row_bytes;
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
    bool first;            /* no key was weighed before */
    bool plain;            /* no key has a bias */
    float bias[MOST_ROWS]; /* in log2 units; -inf past the last key */
    /* Rows of bf16, zeros past the last one. Values may have one zero row between listed keys and summaries. */
    const char *key[MOST_ROWS], *value[MOST_ROWS];
} strip;

typedef struct flash {
    const fga_attend_op *op;
    layout at;
    char *scratch;
    strip now;
    cursor next;
    work work;
} flash;

static char *key_slot(const flash *f, int key_pair)
{
    return f->scratch + f->at.key + (size_t)(key_pair & 1) * PAIR * f->at.row_bytes;
}

static char *value_slot(const flash *f, int column_pair)
{
    return f->scratch + f->at.value + (size_t)((column_pair & 1) * VALUE_SLICE);
}

static float *logit_slot(const flash *f, int key_pair, int q_pair)
{
    int slot = (key_pair & 1) * f->at.q_pairs + q_pair;
    return (float *)(f->scratch + f->at.logit + (size_t)slot * LOGITS_BYTES);
}

/* [query tile][32 keys][16 queries][32 keys] */
static char *weight_tiles(const flash *f, int q_tile)
{
    return f->scratch + f->at.weight + (size_t)(q_tile * MOST_PAIRS * TILE_BYTES);
}

/* [query tile][32 columns][2][16 queries][16 columns] */
static char *output_tiles(const flash *f, int q_tile)
{
    return f->scratch + f->at.output + (size_t)(q_tile * 2 * f->at.k_steps * TILE_BYTES);
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

/* Asks for the rows of a key of the next strip. */
ALWAYS_INLINE void fetch_ahead(const flash *f, int i)
{
    const fga_attend_op *op = f->op;
    if (f->next.key + i < op->key_count) {
        uint32_t key = op->keys[f->next.key + i];
        const char *k = element(op->k, key * op->k_stride, FGA_BF16), *v = element(op->v, key * op->v_stride, FGA_BF16);
        for (int byte = 0; byte < 2 * op->head_dim; byte += 64) {
            __builtin_prefetch(k + byte, 0, 2);
            __builtin_prefetch(v + byte, 0, 2);
        }
    }
}

/* Keys [from, to) of the strip as left factors, row by row. */
static void stage_keys(const flash *f, int from, int to)
{
    int last = f->at.k_steps - 1;
    __mmask32 mask = columns_left(f->op->head_dim, last * TILE_K);
    for (int i = from; i < to; i++) {
        const char *key = f->now.key[i];
        char *row = key_slot(f, i / PAIR) + (size_t)(i % PAIR) * f->at.row_bytes;
        for (int step = 0; step < last; step++) {
            _mm512_store_si512(row + step * 64, _mm512_loadu_si512(key + step * 64));
        }
        _mm512_store_si512(row + last * 64, _mm512_maskz_loadu_epi16(mask, key + last * 64));
        fetch_ahead(f, i);
    }
}

ALWAYS_INLINE void interleave(char *row, __m512i even, __m512i odd)
{
    _mm512_store_si512(row, _mm512_unpacklo_epi16(even, odd));
    _mm512_store_si512(row + 64, _mm512_unpackhi_epi16(even, odd));
}

/* 32 columns of pairs [from, to) of values as right factors: [pair of keys][2 tiles][16 columns]. The first tile of two
 * has columns 0-3, 8-11, 16-19, 24-27 of the 32, the second one the others: what one instruction gives. */
static void stage_values(const flash *f, int column_pair, int from, int to)
{
    int64_t offset = column_pair * 64;
    __mmask32 mask = columns_left(f->op->head_dim, column_pair * 32);
    char *row = value_slot(f, column_pair) + from * 128;
    const char *const *value = f->now.value + 2 * from;
    if (mask == 0xffffffffu) {
        for (int i = from; i < to; i++, row += 128, value += 2) {
            interleave(row, _mm512_loadu_si512(value[0] + offset), _mm512_loadu_si512(value[1] + offset));
        }
        return;
    }
    for (int i = from; i < to; i++, row += 128, value += 2) {
        interleave(row, _mm512_maskz_loadu_epi16(mask, value[0] + offset),
                   _mm512_maskz_loadu_epi16(mask, value[1] + offset));
    }
}

/* ---- what the tiles have to do ---------------------------------------------------------------------------------- */

/* Logits of 32 keys and 32 queries: [query tile][32 keys][16 queries]. */
static product logits_product(const flash *f, int key_pair, int q_pair)
{
    int64_t tile = (int64_t)f->at.k_steps * TILE_BYTES, row = (int64_t)f->at.row_bytes;
    return (product){
        .left = {key_slot(f, key_pair), row, SIDE * row, 64},
        .right = {f->scratch + f->at.query + (size_t)(2 * q_pair * tile), 64, tile, TILE_BYTES},
        .sum = (char *)logit_slot(f, key_pair, q_pair),
        .sum_right = 2 * TILE_BYTES,
        .sum_down = TILE_BYTES,
        .steps = f->at.k_steps,
        .lefts = 2,
        .rights = 2 * q_pair + 1 < f->at.q_tiles ? 2 : 1,
        .fresh = true,
    };
}

/* What the strip's values add to 32 columns of the outputs of 32 queries. */
static product outputs_product(const flash *f, int column_pair, int q_pair)
{
    int64_t down = (int64_t)2 * f->at.k_steps * TILE_BYTES;
    return (product){
        .left = {weight_tiles(f, 2 * q_pair), 64, MOST_PAIRS * TILE_BYTES, TILE_BYTES},
        .right = {value_slot(f, column_pair), 128, 64, 128 * SIDE},
        .sum = output_tiles(f, 2 * q_pair) + 2 * column_pair * TILE_BYTES,
        .sum_right = TILE_BYTES,
        .sum_down = down,
        .steps = f->now.pairs,
        .lefts = 2 * q_pair + 1 < f->at.q_tiles ? 2 : 1,
        .rights = 2,
    };
}

/* ---- softmax ---------------------------------------------------------------------------------------------------- */

/* The weights of 32 keys and 16 queries. */
typedef struct patch {
    const float *logits; /* [32][16] */
    const float *bias;   /* [32] in log2 units */
    float scale;         /* log2 e included */
    char *to;            /* [16 queries][32 keys] of bf16 */
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

/* Returns the sum of the weights before rounding, so that L keeps the precision of f32. */
ALWAYS_INLINE vec weigh(bool plain, const patch *p, vec m, work *beside)
{
    __m512i z[16];
    vec even = vec_set(0), odd = vec_set(0);
#pragma GCC unroll 16
    for (int i = 0; i < 16; i++) {
        if (i % 4 == 0) {
            if (work_left(beside)) {
                work_step(beside);
            } else {
                TILE_NUDGE(beside);
            }
        }
        vec first = weight_of(plain, p, 2 * i, m), second = weight_of(plain, p, 2 * i + 1, m);
        even = vec_add(even, first);
        odd = vec_add(odd, second);
        z[i] = pack(first, second);
    }
    turn_over(z, p->to);
    return vec_add(even, odd);
}

static vec weigh_plain(const patch *p, vec m, work *beside)
{
    return weigh(true, p, m, beside);
}

static vec weigh_biased(const patch *p, vec m, work *beside)
{
    return weigh(false, p, m, beside);
}

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
        rescale_row_tiles(output_tiles(f, q_tile), 2 * f->at.k_steps, by);
        rescale_weights(weight_tiles(f, q_tile), key_pairs, by);
        vec_store(sum, vec_mul(vec_load(sum), scale));
        vec_store(max, raised);
        m = raised;
    }
    return m;
}

static void weigh_tile(flash *f, int key_pair, int q_tile, const float *logits)
{
    patch p = {
        .logits = logits,
        .bias = f->now.bias + key_pair * PAIR,
        .scale = f->op->scale * LOG2_E,
        .to = weight_tiles(f, q_tile) + key_pair * TILE_BYTES,
    };
    float *max = max_of(f, q_tile), *sum = sum_of(f, q_tile);
    bool plain = f->now.plain && f->now.has.listed - key_pair * PAIR >= PAIR;
    if (f->now.first && key_pair == 0) {
        raise_max(f, q_tile, key_pair, largest_logit(&p));
        plain = false;
    }
    vec total = plain ? weigh_plain(&p, vec_load(max), &f->work) : weigh_biased(&p, vec_load(max), &f->work);
    if (_mm512_cmp_ps_mask(total, vec_set(rescale_above), _CMP_NLE_UQ) != 0) {
        raise_max(f, q_tile, key_pair, largest_logit(&p));
        total = weigh_biased(&p, vec_load(max), &f->work);
    }
    vec_store(sum, vec_add(vec_load(sum), total));
}

/* ---- strips ----------------------------------------------------------------------------------------------------- */

static const char zeros[512];

/* Splits the sums of the strip's groups into rows of bf16 and names those after the listed keys' rows. */
static void stage_sums(flash *f)
{
    const fga_attend_op *op = f->op;
    strip *s = &f->now;
    char *row = f->scratch + f->at.sums;
    int32_t dim = op->head_dim;
    int k = s->has.listed, v = s->has.listed + s->has.listed % 2;
    s->value[s->has.listed] = zeros;
    for (int i = 0; i < s->has.groups; i++) {
        const group *g = &s->has.group[i];
        if (g->remaining > 0) {
            for (int e = 0; e < 2 * WORD; e++) {
                *(e < WORD ? &s->key[k + e] : &s->value[v + e - WORD]) = row + (size_t)e * f->at.row_bytes;
            }
            split_sum(op->summaries->sum_k + g->index * dim, dim, (uint16_t *)s->key[k], (uint16_t *)s->key[k + 1]);
            split_sum(op->summaries->sum_v + g->index * dim, dim, (uint16_t *)s->value[v], (uint16_t *)s->value[v + 1]);
            s->bias[k] = op->summaries->sum_bias[g->index] * LOG2_E;
            s->bias[k + 1] = 0.0f;
            row += (size_t)(2 * WORD) * f->at.row_bytes;
            k += WORD;
            v += WORD;
        }
    }
}

/* False when there are no more keys. */
static bool find_strip(flash *f)
{
    const fga_attend_op *op = f->op;
    strip *s = &f->now;
    const uint32_t *keys = op->keys + f->next.key;
    s->first = f->next.key == 0 && f->next.group == 0;
    s->plain = op->bias == NULL;
    s->has.listed = s->has.summaries = s->has.groups = s->has.keys = 0;
    if (op->summaries != NULL) {
        take_groups(op, &f->next, STRIP, &s->has);
    } else {
        int64_t left = op->key_count - f->next.key;
        s->has.listed = s->has.keys = (int)(left < STRIP ? left : STRIP);
        f->next.key += s->has.listed;
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
    if (s->has.summaries > 0) {
        stage_sums(f);
    }
    return s->has.keys > 0;
}

static void want_logits(flash *f, int key_pair)
{
    work_begin(&f->work);
    for (; key_pair < f->now.pairs && f->work.count < f->at.q_pairs; f->work.count++) {
        f->work.list[f->work.count] = logits_product(f, key_pair, f->work.count);
    }
}

/* Weights of 32 keys; beside them, the logits of the next 32 keys and, a part after each tile, copies of what comes
 * after those: a tile cannot be loaded from a store that is still on its way. */
static void weigh_keys(flash *f, int key_pair)
{
    int tiles = f->at.q_tiles, values = f->now.pairs * SIDE;
    want_logits(f, key_pair + 1);
    for (int i = 0; i < tiles; i++) {
        weigh_tile(f, key_pair, i, logit_slot(f, key_pair, i / 2) + i % 2 * PAIR * SIDE);
        if (key_pair + 2 < f->now.pairs) {
            stage_keys(f, (key_pair + 2) * PAIR + PAIR * i / tiles, (key_pair + 2) * PAIR + PAIR * (i + 1) / tiles);
        } else if (key_pair + 1 == f->now.pairs) {
            stage_values(f, 0, values * i / tiles, values * (i + 1) / tiles);
        }
    }
    work_end(&f->work);
}

/* O += P V, 32 columns at a time; the next columns' values are interleaved a few after each step, so that the tiles
 * never rest for long. */
static void add_values(flash *f)
{
    int values = f->now.pairs * SIDE, steps = f->at.q_tiles * f->now.pairs;
    for (int column_pair = 0; column_pair < f->at.k_steps; column_pair++) {
        bool more = column_pair + 1 < f->at.k_steps;
        work_begin(&f->work);
        for (; f->work.count < f->at.q_pairs; f->work.count++) {
            f->work.list[f->work.count] = outputs_product(f, column_pair, f->work.count);
        }
        for (int step = 0; step < steps && more; step++) {
            work_step(&f->work);
            stage_values(f, column_pair + 1, values * step / steps, values * (step + 1) / steps);
        }
        work_run(&f->work);
    }
    work_end(&f->work);
}

/* The strip's weights of one tile of queries from its logits: first in f32, then packed. */
static void weigh_tile_groups(flash *f, int q_tile, float *logits)
{
    const strip *s = &f->now;
    vec max = vec_set(-INFINITY), scale = vec_set(f->op->scale * LOG2_E);
    for (int i = 0; i < s->has.keys; i++) {
        vec logit = vec_fma(vec_load(logits + i * SIDE), scale, vec_set(s->bias[i]));
        max = i < s->has.listed ? vec_max(logit, max) : max;
        vec_store(logits + i * SIDE, logit);
    }
    float *sum = sum_of(f, q_tile);
    vec m = raise_max(f, q_tile, 0, remaining_logits(logits, SIDE, &s->has, max));
    vec_store(sum, weigh_groups(logits, SIDE, &s->has, m, vec_load(sum)));
    int listed = part_count(s->has.listed, 2), pairs = listed + s->has.summaries;
    for (int key_pair = 0; key_pair < s->pairs; key_pair++) {
        __m512i z[16];
        for (int i = 0; i < 16; i++) {
            int pair = key_pair * 16 + i, row = pair < listed ? 2 * pair : s->has.listed + (pair - listed) * WORD;
            vec low = pair < pairs ? vec_load(logits + row * SIDE) : vec_set(0), high = low;
            if (pair < listed) {
                high = row + 1 < s->has.listed ? vec_load(logits + (row + 1) * SIDE) : vec_set(0);
            }
            z[i] = pack(low, high);
        }
        turn_over(z, weight_tiles(f, q_tile) + key_pair * TILE_BYTES);
    }
}

/* Weights of a strip with summaries, which want all logits of a group at once: [query tile][key][16 queries]. */
static void weigh_strip_groups(flash *f)
{
    char *logits = f->scratch + f->at.logit;
    for (int key_pair = 0; key_pair < f->now.pairs; key_pair++) {
        stage_keys(f, key_pair * PAIR, key_pair * PAIR + PAIR);
        want_logits(f, key_pair);
        for (int i = 0; i < f->at.q_pairs; i++) {
            product *p = &f->work.list[i];
            p->sum = logits + (size_t)(2 * i * MOST_ROWS + key_pair * PAIR) * LOGIT_ROW;
            p->sum_right = MOST_ROWS * LOGIT_ROW;
        }
        work_run(&f->work);
    }
    work_end(&f->work);
    for (int i = 0; i < f->at.q_tiles; i++) {
        weigh_tile_groups(f, i, (float *)(logits + (size_t)i * MOST_ROWS * LOGIT_ROW));
    }
    stage_values(f, 0, 0, f->now.pairs * SIDE);
}

static void weigh_strip(flash *f)
{
    stage_keys(f, 0, f->now.pairs > 1 ? 2 * PAIR : PAIR);
    want_logits(f, 0);
    work_end(&f->work);
    for (int key_pair = 0; key_pair < f->now.pairs; key_pair++) {
        weigh_keys(f, key_pair);
    }
}

static void run_strips(flash *f)
{
    do {
        if (f->now.has.groups > 0) {
            weigh_strip_groups(f);
        } else {
            weigh_strip(f);
        }
        add_values(f);
    } while (find_strip(f));
}

/* ---- outputs ---------------------------------------------------------------------------------------------------- */

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
    flash f = {.op = op, .at = lay_out(op->rows, op->head_dim), .scratch = op->scratch};
    float *max = (float *)(f.scratch + f.at.max), *sum = (float *)(f.scratch + f.at.sum);
    if (!find_strip(&f)) {
        attend_nothing(op);
        return;
    }
    tile_shapes callers;
    tiles_begin(&callers);
    stage_queries(&f);
    memset(f.scratch + f.at.output, 0, (size_t)f.at.q_tiles * (size_t)f.at.k_steps * 2 * TILE_BYTES);
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
