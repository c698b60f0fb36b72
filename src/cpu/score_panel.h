/* score_panel.h - pool, alike, digits and sift (ops.h) for any vector width: memory speed is all there is to gain. */
#ifndef FGA_CPU_SCORE_PANEL_H
#define FGA_CPU_SCORE_PANEL_H

#include "cpu/words_f32.h"

#include <math.h>

enum {
    POOL_MAX_DIM = 256,
    AHEAD = 1024 /* scores that are fetched before they are needed: all rows of a head lie in memory */
};

static void pool(const fga_pool_op *op)
{
    for (int64_t i = 0; i < op->count; i++) {
        int64_t end = op->valid_end[i] < op->begin[i + 1] ? op->valid_end[i] : op->begin[i + 1];
        float sum[POOL_MAX_DIM] = {0}, staged[POOL_MAX_DIM];
        for (int64_t token = op->begin[i]; token < end; token++) {
            const char *row = element(op->x, token * op->x_stride, op->dtype);
            const float *x = (const float *)stage_row(row, op->dtype, op->head_dim, staged);
            for (int32_t d = 0; d < op->head_dim; d++) {
                sum[d] += x[d];
            }
        }
        float inverse = end > op->begin[i] ? 1.0f / (float)(end - op->begin[i]) : 0.0f;
        for (int32_t d = 0; d < op->head_dim; d++) {
            op->mean[i * op->head_dim + d] = sum[d] * inverse;
        }
    }
}

/* Sums over channels: x.c, x.x and (x - c)^2. */
typedef struct likeness {
    float product, square, distance;
} likeness;

static likeness compare_rows(const float *x, const float *centre, int32_t head_dim)
{
    vec product = vec_set(0.0f), square = vec_set(0.0f), distance = vec_set(0.0f);
    for (int32_t d = 0; d < head_dim; d += LANES) {
        int n = head_dim - d < LANES ? head_dim - d : LANES;
        vec a = vec_load_first(x + d, n), c = vec_load_first(centre + d, n), off = vec_sub(a, c);
        product = vec_fma(a, c, product);
        square = vec_fma(a, a, square);
        distance = vec_fma(off, off, distance);
    }
    return (likeness){vec_sum(product), vec_sum(square), vec_sum(distance)};
}

static void alike(const fga_alike_op *op)
{
    float staged[POOL_MAX_DIM], centre = sqrtf(compare_rows(op->centre, op->centre, op->head_dim).square);
    for (int64_t i = 0; i < op->count; i++) {
        const char *row = element(op->x, i * op->x_stride, op->dtype);
        likeness at =
            compare_rows((const float *)stage_row(row, op->dtype, op->head_dim, staged), op->centre, op->head_dim);
        if (op->distance != NULL) {
            op->distance[i] = sqrtf(at.distance);
        }
        if (op->cosine != NULL) {
            float norms = centre * sqrtf(at.square);
            op->cosine[i] = norms == 0.0f ? 0.0f : at.product / norms;
        }
    }
}

/* ---- by rank: rows of hundreds to thousands of scores ---------------------------------------- */

/* Neighbours often have the same digit, and one counter takes an increment only every few cycles: so each digit has a
 * few of them. */
static void digits(const float *score, int64_t count, double sum, int64_t counts[FGA_RANK_DIGITS])
{
    enum { COUNTERS = 4, SOME = 256 /* at a time */ };
    uint32_t counter[COUNTERS][FGA_RANK_DIGITS], digit[SOME];
    memset(counter, 0, sizeof counter);
    for (int64_t begin = 0; begin < count; begin += SOME) {
        int n = count - begin < SOME ? (int)(count - begin) : SOME, whole = n - n % COUNTERS;
        for (int i = 0; i < SOME; i += LANES) {
            __builtin_prefetch(score + begin + i + AHEAD);
        }
        for (int i = 0; i < n && sum == 1; i++) { /* the compiler's vectors, here and below */
            digit[i] = fga_rank_digit(score[begin + i], 0);
        }
        for (int i = 0; i < n && sum != 1; i++) {
            digit[i] = fga_rank_digit((float)((double)score[begin + i] / sum), 0);
        }
        for (int i = 0; i < whole; i += COUNTERS) {
            for (int k = 0; k < COUNTERS; k++) {
                counter[k][digit[i + k]]++;
            }
        }
        for (int i = whole; i < n; i++) {
            counter[0][digit[i]]++;
        }
    }
    for (int d = 0; d < FGA_RANK_DIGITS; d++) {
        counts[d] += (int64_t)counter[0][d] + counter[1][d] + counter[2][d] + counter[3][d];
    }
}

static void sift(const fga_sift_op *op)
{
    vec low = vec_set_rank(op->low), high = vec_set_rank(op->high);
    int64_t whole = op->count / 64 * 64;
    for (int64_t v = 0; v < op->count; v += 64) {
        uint64_t above = 0, below = 0;
        int n = v < whole ? 64 : (int)(op->count - whole);
        for (int i = 0; i < n; i += LANES) {
            vec x = v < whole ? vec_load(op->score + v + i)
                              : vec_load_first(op->score + v + i, n - i < LANES ? n - i : LANES);
            __builtin_prefetch(op->score + v + i + AHEAD);
            vec rank = vec_rank(x);
            above |= (uint64_t)vec_rank_above(rank, high) << i;
            below |= (uint64_t)vec_rank_above(low, rank) << i;
        }
        uint64_t here = ~(uint64_t)0 >> (64 - n);
        op->above[v / 64] = above & here;
        op->within[v / 64] = ~(above | below) & here;
    }
}

#endif
