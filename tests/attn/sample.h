/* sample.h - random attention problems with their naive answers, and the driver's answer to them. */
#ifndef TESTS_ATTN_SAMPLE_H
#define TESTS_ATTN_SAMPLE_H

#include "naive.h"

/* One attention with everything that describes it. */
typedef struct sample {
    naive_problem p;
    fga_dtype dtype;
    bool masked, bshd;
    int32_t group; /* of remainder summaries; 0 = keys not kept are dropped */
    int64_t mask_batch, mask_heads, queries, keys, q_count, k_count;
    float *q, *k, *v, *bias;
    uint8_t *keep;
    double *o, *lse; /* the naive answer */
} sample;

typedef struct answer {
    void *o;
    float *lse;
    size_t bytes;
} answer;

/* Shapes, layout, dtype, mask, bias and summaries at random; segments of at most `most` tokens. */
sample sample_make(naive_random *random, int64_t most);
void sample_free(sample *s);
/* Answers it anew after a change. */
void sample_answer(sample *s);
/* [b][h][s][d] f32 to dtype in a new buffer of the wanted layout. */
void *sample_lay_out(const float *values, fga_dtype dtype, const fga_tensor *t);
fga_tensor sample_tensor(const sample *s, int64_t heads, int64_t tokens);
fga_attend_desc sample_describe(const sample *s);
fga_mask *sample_mask(fga_context *ctx, const sample *s, bool compressed);
/* The sums over its keys in new, once poisoned memory that ends in a guard. */
void *sample_remainder(fga_context *ctx, const sample *s, fga_remainder *r);
/* Through plan and run. Buffers are poisoned, and a guard follows the workspace. */
answer sample_attend(fga_context *ctx, const sample *s, bool compressed);
void answer_free(answer *a);
/* got is the naive answer, to rounding. */
void sample_check(const sample *s, const answer *got);

#endif
