/* rank.c - sorting probabilities. */
#include "inspect/inspect.h"

#include "base/half.h"

#include <string.h>

/* Least significant digit first, on 33 - 1 bits of each value: a float that is not negative sorts as its bits do. */
enum { DIGIT = 11, BUCKETS = 1 << DIGIT, PASSES = 3 };

void fga_rank(const float *values, int64_t n, int32_t *rank, uint64_t *work)
{
    uint64_t *from = work, *to = work + n;
    for (int64_t i = 0; i < n; i++) {
        from[i] = (uint64_t)~fga_f32_bits(values[i]) << 32 | (uint64_t)i; /* the largest first */
    }
    for (int pass = 0; pass < PASSES; pass++) {
        int shift = 32 + pass * DIGIT;
        int64_t start[BUCKETS] = {0};
        for (int64_t i = 0; i < n; i++) {
            start[from[i] >> shift & (BUCKETS - 1)]++;
        }
        int64_t sum = 0;
        for (int b = 0; b < BUCKETS; b++) {
            int64_t here = start[b];
            start[b] = sum;
            sum += here;
        }
        for (int64_t i = 0; i < n; i++) {
            to[start[from[i] >> shift & (BUCKETS - 1)]++] = from[i];
        }
        uint64_t *swap = from;
        from = to;
        to = swap;
    }
    for (int64_t i = 0; i < n; i++) {
        rank[i] = (int32_t)(from[i] & 0xffffffffu);
    }
}
