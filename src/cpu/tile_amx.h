/* tile_amx.h - AMX tiles. The includer brings vec_avx512.h.
 *
 * A tile is 16 rows of 64 bytes: as a left factor [16 rows][32 of k] of bf16, as a right factor [16 pairs of k][16
 * columns] of bf16 pairs, as a sum [16 rows][16 columns] of f32.
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
#define TILE_STORE(tile, to, stride) \
    __asm__ volatile("tilestored %%tmm" #tile ", (%0,%1,1)" : : "r"(to), "r"((int64_t)(stride)) : "memory")
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

/* A number of more than eight bits is a sum of terms of bf16, each its sign, exponent and first eight bits. The next
 * term of two numbers as pairs, the first one's below, which is taken off what remains of them. */
static inline __m512i take_term(vec *low, vec *high)
{
    const __m512i upper = _mm512_set1_epi32((int)0xffff0000);
    __m512i a = _mm512_and_si512(_mm512_castps_si512(*low), upper);
    __m512i b = _mm512_and_si512(_mm512_castps_si512(*high), upper);
    *low = vec_sub(*low, _mm512_castsi512_ps(a));
    *high = vec_sub(*high, _mm512_castsi512_ps(b));
    return _mm512_or_si512(_mm512_srli_epi32(a, 16), b);
}

#endif
