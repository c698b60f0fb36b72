/* naive.h - the rules of docs/method.md written out once more, token by token and in double, for comparison only.
 *
 * Nothing here shares a line with src/attn/: validity is asked per token, sub-tiles are lists of tokens, the best tiles
 * are found by sorting. Arrays of values are f32 [batch][heads][tokens][head_dim].
 */
#ifndef TESTS_ATTN_NAIVE_H
#define TESTS_ATTN_NAIVE_H

#include "fgattn.h"

typedef struct naive_problem {
    int64_t batch, query_heads, kv_heads, head_dim;
    fga_sequence query, key;
    int32_t m, n, sub_q, sub_k;
} naive_problem;

bool naive_is_valid(const fga_sequence *sequence, int64_t token);
bool naive_is_text(const fga_sequence *sequence, int64_t token);
int64_t naive_blocks(const naive_problem *p);
int64_t naive_tiles(const naive_problem *p);

/* scores [batch][query_heads][blocks][tiles] */
void naive_scores(const naive_problem *p, const float *q, const float *k, double *scores);
/* keep [batch][query_heads][blocks][tiles], from f32 scores */
void naive_select(const naive_problem *p, const float *scores, double density, uint8_t *keep);

/* Whether query i of (b, h) may attend to key j. */
typedef bool (*naive_pair)(const void *arg, int64_t b, int64_t h, int64_t i, int64_t j);
typedef struct naive_attention {
    const float *q, *k, *v;
    const float *bias; /* [batch][kv_heads][key tokens], or NULL */
    naive_pair pair;   /* NULL: every key */
    const void *arg;
    double *o, *lse;
    int64_t group; /* 0: keys that are not kept are dropped; else one summary stands for those of so many keys */
} naive_attention;
void naive_attend(const naive_problem *p, const naive_attention *a);

/* keep [batch or 1][query heads or 1][blocks][tiles] as a naive_pair: kept tile and valid key. */
typedef struct naive_mask {
    const naive_problem *p;
    const uint8_t *keep;
    int64_t batch, heads;
} naive_mask;
bool naive_mask_pair(const void *mask, int64_t b, int64_t h, int64_t i, int64_t j);

/* kept valid pairs / valid pairs */
double naive_density(const naive_mask *mask);

/* "dense", "refresh" or "reuse" of section 4.3, with a mask already cached. */
fga_step_kind naive_step(const fga_policy *policy, int step, int steps, int layer, double *density);

/* ---- data ----------------------------------------------------------------------------------------- */

typedef struct naive_random {
    uint64_t state;
} naive_random;

uint64_t naive_next(naive_random *random);
int64_t naive_between(naive_random *random, int64_t low, int64_t high); /* both included */
float naive_normal(naive_random *random);
/* f32 values, rounded to dtype; freed with free(). */
float *naive_values(naive_random *random, int64_t count, fga_dtype dtype, float scale);
/* The same values in dtype; freed with free(). */
void *naive_cast(const float *values, int64_t count, fga_dtype dtype);
/* Random segments of at most `most` tokens each, with or without text and padding, at least one valid video token. */
fga_sequence naive_sequence(naive_random *random, int64_t most);
naive_problem naive_random_problem(naive_random *random, int64_t most_tokens);
fga_context *naive_context(int threads, const char *variant);

#endif
