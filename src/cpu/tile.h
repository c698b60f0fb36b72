/* tile.h - the one register tile under all kernels: a few broadcast rows times a panel of queries.
 *
 * The includer brings a vec_*.h and word_dot. A panel is PANEL = 2 vectors of queries side by side; matrices of a panel
 * are [row][PANEL] f32 words. A tile accumulates n <= TILE rows of such a matrix:
 *
 *     acc[i][query] += sum over words w of  a(i, w) . b[w][query]
 *
 * where a(i, w) is one 32-bit word (a float, or two bf16) broadcast to all queries. Per step w that is n broadcasts and
 * 2 vector loads for 2n dot instructions; every other operand lives in a register.
 */
#ifndef FGA_CPU_TILE_H
#define FGA_CPU_TILE_H

#include <stdint.h>

enum { PANEL = 2 * LANES };

/* Logits are kept in log2 units, for exp2. */
#define LOG2_E 1.44269504088896340736f

#define ALWAYS_INLINE static inline __attribute__((always_inline))

/* `total` cut into as few parts of at most `most` as will do, as equal as they can be, the longer ones first. */
typedef struct split {
    int parts, base, longer;
} split;

ALWAYS_INLINE split split_evenly(int total, int most)
{
    int parts = (total + most - 1) / most;
    return (split){parts, total / parts, total % parts};
}

ALWAYS_INLINE int split_begin(split s, int part)
{
    return part * s.base + (part < s.longer ? part : s.longer);
}

ALWAYS_INLINE int part_count(int total, int most)
{
    return (total + most - 1) / most;
}

/* Rows that the strip after this one will read, fetched into the second-level cache a line at a time. */
typedef struct ahead {
    const char *const *rows;
    int64_t bytes; /* of one row; 0 fetches nothing */
} ahead;

enum { LINE = 64, LINE_WORDS = LINE / 4 };

ALWAYS_INLINE void fetch(const ahead *next, int first, int n, int64_t offset)
{
    if (offset < next->bytes) {
        for (int i = 0; i < n; i++) {
            __builtin_prefetch(next->rows[first + i] + offset, 0, 2);
        }
    }
}

/* a(i, w) = word w of rows[first + i]: Q K^T, the rows being keys. acc is cleared first. */
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
        for (int64_t at = 4 * (done - words), last = 4 * (stop - words); at != last; at += 4, b += PANEL) {
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
    }
}

/* a(i, w) = packed[w][i], a matrix of n columns: P V, the rows being values and i their columns. `line` of each row to
 * come is fetched meanwhile. */
ALWAYS_INLINE void tile_columns(int n, int vecs, float *c, const float *packed, const float *b, int words,
                                const ahead *next, int line)
{
    vec acc[TILE][2];
    for (int i = 0; i < n; i++) {
        for (int v = 0; v < vecs; v++) {
            acc[i][v] = vec_load(c + i * PANEL + v * LANES);
        }
    }
    for (int done = 0; done < words; done += LINE_WORDS) {
        int stop = done + LINE_WORDS < words ? done + LINE_WORDS : words;
        fetch(next, done, stop - done, (int64_t)line * LINE);
        for (int w = done; w < stop; w++, b += PANEL, packed += n) {
            vec weight[2];
            for (int v = 0; v < vecs; v++) {
                weight[v] = vec_load(b + v * LANES);
            }
            for (int i = 0; i < n; i++) {
                vec a = vec_broadcast((const char *)(packed + i));
                for (int v = 0; v < vecs; v++) {
                    acc[i][v] = word_dot(acc[i][v], a, weight[v]);
                }
            }
        }
    }
    for (int i = 0; i < n; i++) {
        for (int v = 0; v < vecs; v++) {
            vec_store(c + i * PANEL + v * LANES, acc[i][v]);
        }
    }
}

#endif
