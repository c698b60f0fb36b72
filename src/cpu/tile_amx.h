/* tile_amx.h - products of bf16 matrices on AMX tiles.
 *
 * A tile is 16 rows of 64 bytes: as a left factor [16 rows][32 of k] of bf16, as a right factor [16 pairs of k][16
 * columns] of bf16 pairs, as a sum [16 rows][16 columns] of f32. All lie in memory as 1 KB in one piece. A product is a
 * block of up to 2 x 2 sums, so that each tile that is loaded takes part in two multiplications: loads, 8 cycles each,
 * then hide behind the multiplications, 16 each.
 *
 * A step of a product at a time is issued between pieces of vector code: neither unit waits for the other as long as
 * both have work within reach of the processor's reordering.
 */
#ifndef FGA_CPU_TILE_AMX_H
#define FGA_CPU_TILE_AMX_H

#include "cpu/parts.h"

#include <immintrin.h>
#include <stdbool.h>
#include <stdint.h>

enum { SIDE = 16, TILE_BYTES = 1024, TILE_K = 32 };

/* The compiler knows nothing of tiles: every access to memory counts as one to all of it. */
#define TILE_LOAD(tile, from, stride) \
    __asm__ volatile("tileloadd (%0,%1,1), %%tmm" #tile : : "r"(from), "r"((int64_t)(stride)) : "memory")
#define TILE_STORE(tile, to) \
    __asm__ volatile("tilestored %%tmm" #tile ", (%0,%1,1)" : : "r"(to), "r"((int64_t)64) : "memory")
#define TILE_CLEAR(tile) __asm__ volatile("tilezero %%tmm" #tile : :)
#define TILE_MULTIPLY(sum, left, right) __asm__ volatile("tdpbf16ps %%tmm" #right ", %%tmm" #left ", %%tmm" #sum : :)

/* What LDTILECFG reads and STTILECFG writes. */
typedef struct tile_shapes {
    uint8_t palette, start_row, reserved[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];
} tile_shapes;

/* All eight tiles whole: ragged edges are zeros in memory. A caller's library may count on the shapes that it last set
 * in this thread, so they are put back at the end. */
static void tiles_begin(tile_shapes *callers)
{
    tile_shapes whole = {.palette = 1};
    for (int i = 0; i < 8; i++) {
        whole.row_bytes[i] = 64;
        whole.rows[i] = SIDE;
    }
    __asm__ volatile("sttilecfg %0" : "=m"(*callers));
    __asm__ volatile("ldtilecfg %0" : : "m"(whole));
}

static void tiles_end(const tile_shapes *callers)
{
    __asm__ volatile("ldtilecfg %0" : : "m"(*callers));
}

/* Tiles of a factor: that of row, or column, i of the block and step k is at `at` + i * next + k * step. */
typedef struct tiles_at {
    const char *at;
    int64_t stride, next, step; /* bytes */
} tiles_at;

/* sum[i][j] (+)= left[i] right[j], i < lefts, j < rights, over `steps` tiles of k. */
typedef struct product {
    tiles_at left, right;
    char *sum;
    int64_t sum_right, sum_down; /* bytes to the next sum of the row, and of the column */
    int steps, lefts, rights;
    bool fresh; /* the sums start at zero, not at what is in memory */
} product;

/* The sums of a row that are still in tiles. */
typedef struct sums_at {
    char *at; /* NULL: none */
    int64_t right;
    int count; /* 1 or 2 */
} sums_at;

#define ROW_BEGIN(T0, T1, P, TO, FRESH) \
    if (FRESH) { \
        TILE_CLEAR(T0); \
        TILE_CLEAR(T1); \
    } else { \
        TILE_LOAD(T0, TO, 64); \
        if ((P)->rights > 1) { \
            TILE_LOAD(T1, (TO) + (P)->sum_right, 64); \
        } \
    }

#define ROW_STEP(T0, T1, TL, P, FROM, K) \
    TILE_LOAD(TL, (FROM) + (K) * (P)->left.step, (P)->left.stride); \
    TILE_LOAD(6, (P)->right.at + (K) * (P)->right.step, (P)->right.stride); \
    TILE_MULTIPLY(T0, TL, 6); \
    if ((P)->rights > 1) { \
        TILE_LOAD(7, (P)->right.at + (K) * (P)->right.step + (P)->right.next, (P)->right.stride); \
        TILE_MULTIPLY(T1, TL, 7); \
    }

/* Step K of one row of sums, in tiles T0 and T1, from FROM with tile TL to TO. The row before, in U0 and U1, goes to
 * memory meanwhile, a tile after the first step and one after the second: a store is some seventy operations and a
 * quarter of the store buffer, and must not wait for its result there. */
#define ROW(T0, T1, TL, U0, U1, P, FROM, TO, K, LAST) \
    if ((K) == 0) { \
        ROW_BEGIN(T0, T1, P, TO, (P)->fresh) \
        ROW_STEP(T0, T1, TL, P, FROM, 0) \
        if ((LAST)->at != NULL) { \
            TILE_STORE(U0, (LAST)->at); \
        } \
    } else { \
        ROW_STEP(T0, T1, TL, P, FROM, K) \
    } \
    if ((K) == ((P)->steps > 1 ? 1 : 0) && (LAST)->at != NULL && (LAST)->count > 1) { \
        TILE_STORE(U1, (LAST)->at + (LAST)->right); \
    }

/* One row of a product at a time, of which a step at a time; two rows alternate between two pairs of tiles. */
enum { MOST_PRODUCTS = 6 }; /* of 32 queries each */

typedef struct work {
    product list[MOST_PRODUCTS];
    int count, at; /* products; the next one */
    int row, step; /* of it */
    int pair;      /* of tiles: 0 or 1 */
    sums_at last;  /* the row before, in the other pair */
} work;

static void work_begin(work *w)
{
    w->count = w->at = w->row = w->step = 0;
}

ALWAYS_INLINE bool work_left(const work *w)
{
    return w->at < w->count;
}

static void work_next(work *w, const product *p, char *to)
{
    w->last = (sums_at){to, p->sum_right, p->rights};
    w->pair = 1 - w->pair;
    w->step = 0;
    if (++w->row == p->lefts) {
        w->row = 0;
        w->at++;
    }
}

ALWAYS_INLINE void work_step(work *w)
{
    const product *p = &w->list[w->at];
    const char *from = p->left.at + w->row * p->left.next;
    char *to = p->sum + w->row * p->sum_down;
    if (w->pair == 0) {
        ROW(0, 1, 4, 2, 3, p, from, to, w->step, &w->last)
    } else {
        ROW(2, 3, 5, 0, 1, p, from, to, w->step, &w->last)
    }
    if (++w->step == p->steps) {
        work_next(w, p, to);
    }
}

/* The rest of a row. */
static void work_row(work *w)
{
    const product *p = &w->list[w->at];
    const char *from = p->left.at + w->row * p->left.next;
    char *to = p->sum + w->row * p->sum_down;
    sums_at last = w->last;
    int step = w->step;
    if (w->pair == 0) {
        for (; step < p->steps; step++) {
            ROW(0, 1, 4, 2, 3, p, from, to, step, &last)
        }
    } else {
        for (; step < p->steps; step++) {
            ROW(2, 3, 5, 0, 1, p, from, to, step, &last)
        }
    }
    work_next(w, p, to);
}

static void work_run(work *w)
{
    while (work_left(w)) {
        work_row(w);
    }
}

/* A multiplication whose result nobody needs, into a tile that waits for nothing. The unit goes to sleep when it has
 * had nothing to do for some 300 cycles, and takes 900 to wake up: vector code that runs longer has to nudge it. */
#define TILE_NUDGE(W) \
    if ((W)->pair == 0) { \
        TILE_MULTIPLY(0, 4, 6); \
    } else { \
        TILE_MULTIPLY(2, 4, 6); \
    }

/* Stores what is still in tiles. */
static void work_end(work *w)
{
    work_run(w);
    if (w->last.at != NULL && w->pair == 1) {
        TILE_STORE(0, w->last.at);
        if (w->last.count > 1) {
            TILE_STORE(1, w->last.at + w->last.right);
        }
    } else if (w->last.at != NULL) {
        TILE_STORE(2, w->last.at);
        if (w->last.count > 1) {
            TILE_STORE(3, w->last.at + w->last.right);
        }
    }
    w->last.at = NULL;
}

#endif
