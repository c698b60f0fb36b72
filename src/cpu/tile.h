/* tile.h - the two register tiles under all kernels.
 *
 * The includer brings a vec_*.h and word_dot. Matrices hold 32-bit words (a float, or two bf16); a panel is PANEL = 2
 * vectors side by side, and a matrix of panels is [row][PANEL].
 *
 *     tile_rows: acc[i][query]       = sum over words w of  row i's word w . b[w][query]           Q K^T, rows being
 * keys tile_sums: o[query i][column] += sum over words w of  a[w][query i]  . b[w][column]          P V
 *
 * Per step w that is n <= TILE broadcasts from memory and 2 vector loads for 2n dot instructions; every other operand
 * lives in a register.
 */
#ifndef FGA_CPU_TILE_H
#define FGA_CPU_TILE_H

#include "cpu/parts.h"

#include <stdint.h>

/* Rows that the strip after this one will read, up to two lists of them: fetched into the second-level cache a line at
 * a time. */
typedef struct ahead {
    const char *const *rows[2];
    int lists;
    int64_t bytes; /* of one row */
} ahead;

enum { LINE = 64, LINE_WORDS = LINE / 4 };

ALWAYS_INLINE void fetch(const ahead *next, int first, int n, int64_t offset)
{
    for (int list = 0; list < next->lists && offset < next->bytes; list++) {
        for (int i = 0; i < n; i++) {
            __builtin_prefetch(next->rows[list][first + i] + offset, 0, 2);
        }
    }
}

ALWAYS_INLINE void rows_step(int n, int vecs, vec acc[TILE][2], const char *const *end, int64_t at, const float *b)
{
    vec query[2];
    for (int v = 0; v < vecs; v++) {
        query[v] = vec_load(b + v * LANES);
    }
    for (int i = 0; i < n; i++) {
        vec a = vec_broadcast(end[i] + at);
        for (int v = 0; v < vecs; v++) {
            acc[i][v] = word_dot(acc[i][v], a, query[v]);
        }
    }
}

/* acc is cleared first. words is a multiple of 4: four steps share one counter. */
ALWAYS_INLINE void tile_rows(int n, int vecs, vec acc[TILE][2], const char *const *rows, int first, const float *b,
                             int64_t words, const ahead *next)
{
    const char *end[TILE];
    for (int i = 0; i < n; i++) {
        end[i] = rows[first + i] + 4 * words;
        for (int v = 0; v < vecs; v++) {
            acc[i][v] = vec_set(0.0f);
        }
    }
    for (int64_t done = 0; done < words; done += LINE_WORDS) {
        int64_t stop = done + LINE_WORDS < words ? done + LINE_WORDS : words;
        fetch(next, first, n, 4 * done);
        for (int64_t at = 4 * (done - words), last = 4 * (stop - words); at != last; at += 16, b += 4 * PANEL) {
            rows_step(n, vecs, acc, end, at, b);
            rows_step(n, vecs, acc, end, at + 4, b + PANEL);
            rows_step(n, vecs, acc, end, at + 8, b + 2 * PANEL);
            rows_step(n, vecs, acc, end, at + 12, b + 3 * PANEL);
        }
    }
}

ALWAYS_INLINE void sums_step(int n, int vecs, vec acc[TILE][2], const float *a, const float *b)
{
    vec column[2];
    for (int v = 0; v < vecs; v++) {
        column[v] = vec_load(b + v * LANES);
    }
    for (int i = 0; i < n; i++) {
        vec weight = vec_broadcast((const char *)(a + i));
        for (int v = 0; v < vecs; v++) {
            acc[i][v] = word_dot(acc[i][v], weight, column[v]);
        }
    }
}

/* What P V adds to n <= TILE rows of o, [row][PANEL] words, `vecs` vectors of columns each. a and b are [words][PANEL].
 */
ALWAYS_INLINE void tile_sums(int n, int vecs, float *o, const float *a, const float *b, int words)
{
    vec acc[TILE][2];
    for (int i = 0; i < n; i++) {
        for (int v = 0; v < vecs; v++) {
            acc[i][v] = vec_load(o + i * PANEL + v * LANES);
        }
    }
    for (; words >= 4; words -= 4, a += 4 * PANEL, b += 4 * PANEL) {
        sums_step(n, vecs, acc, a, b);
        sums_step(n, vecs, acc, a + PANEL, b + PANEL);
        sums_step(n, vecs, acc, a + 2 * PANEL, b + 2 * PANEL);
        sums_step(n, vecs, acc, a + 3 * PANEL, b + 3 * PANEL);
    }
    for (; words > 0; words--, a += PANEL, b += PANEL) {
        sums_step(n, vecs, acc, a, b);
    }
    for (int i = 0; i < n; i++) {
        for (int v = 0; v < vecs; v++) {
            vec_store(o + i * PANEL + v * LANES, acc[i][v]);
        }
    }
}

#endif
