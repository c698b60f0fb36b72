/* fgattn_inspect.h - what one attention looks like, and what policies would make of it. Part of libfgattn.
 *
 *   fga_inspect_desc d = fga_inspect_desc_default();
 *   d.q = ..., d.k = ..., d.v = ...;                         // captured, raster order
 *   d.frames = 21, d.height = 30, d.width = 52;
 *   fga_inspect *inspect;
 *   fga_inspect_create(ctx, &d, &inspect);
 *   fga_inspect_head heads[12];
 *   fga_inspect_heads(inspect, FGA_ORDER_HILBERT, heads, NULL);   // how sparse it could be
 *   fga_policy policy;
 *   fga_policy_parse(ctx, "dfs,density=0.2", &policy);
 *   fga_inspect_point point = {0};
 *   fga_inspect_policies(inspect, &policy, 1, &point);            // how sparse a policy makes it
 *
 * Everything is computed on whole query blocks, `sample_blocks` of 128 queries per head, evenly spaced in the order at
 * hand, against all keys. No array of all queries by all keys is ever made. Exact probabilities are computed in f32
 * from f32 copies of the tensors; sums are f64. Results are the same at any number of threads.
 */
#ifndef FGATTN_INSPECT_H
#define FGATTN_INSPECT_H

#include "fgattn.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct fga_inspect fga_inspect;

typedef struct fga_inspect_desc {
    size_t size;
    fga_tensor q, k, v;            /* [1][heads][tokens][head_dim] in raster order; must outlive the fga_inspect */
    int64_t frames, height, width; /* tokens = frames*height*width: video only */
    float scale;                   /* 0 = head_dim^-0.5 */
    int64_t sample_blocks;         /* query blocks of 128 that are looked at in every head; 0 = all */
    /* Asked from the caller's thread every second or so; false ends the call with FGA_ERR_INTERRUPTED. May be NULL. */
    bool (*keep_going)(void *user);
    void *user;
    uintptr_t reserved[4];
} fga_inspect_desc;

FGA_API fga_inspect_desc fga_inspect_desc_default(void);
/* FGA_ERR_DATA: a number in q, k or v is not finite; the text names it. Holds f32 copies of q, k and v. */
FGA_API fga_status fga_inspect_create(fga_context *ctx, const fga_inspect_desc *desc, fga_inspect **inspect);
FGA_API void fga_inspect_destroy(fga_inspect **inspect);
/* Queries that are looked at in every head. */
FGA_API int64_t fga_inspect_queries(const fga_inspect *inspect);

/* ---- what attention is like ----------------------------------------------------------------- */

/* The axes of the tables below. */
enum { FGA_INSPECT_M = 4, FGA_INSPECT_N = 8, FGA_INSPECT_RECALLS = 3, FGA_INSPECT_DENSITIES = 7 };
static const int32_t fga_inspect_m[FGA_INSPECT_M] = {16, 32, 64, 128};
static const int32_t fga_inspect_n[FGA_INSPECT_N] = {1, 2, 4, 8, 16, 32, 64, 128};
static const double fga_inspect_recalls[FGA_INSPECT_RECALLS] = {0.9, 0.95, 0.99};
static const double fga_inspect_densities[FGA_INSPECT_DENSITIES] = {0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7};
/* Runs of 2^b ... 2^(b+1)-1 consecutive kept keys; the last bin has all longer ones. */
enum { FGA_INSPECT_RUN_BINS = 11 };

/* Of one head. The best possible mask of an M x N keeps, in every block of M queries, the tiles of N keys with the
 * largest true softmax mass. */
typedef struct fga_inspect_head {
    double entropy;        /* mean over queries of -sum p log p, natural logarithm */
    double effective_keys; /* mean over queries of exp(entropy): how many equally weighted keys it amounts to */
    double self_frame;     /* mean mass on keys of the query's own frame */
    /* 1 - density of the smallest best-possible mask with which every block retains the recall. */
    double sparsity[FGA_INSPECT_M][FGA_INSPECT_N][FGA_INSPECT_RECALLS];
    /* Mean recall of the best possible mask with floor(density*tiles + 0.5 + 1e-6), at least 1, tiles per block. */
    double recall[FGA_INSPECT_M][FGA_INSPECT_N][FGA_INSPECT_DENSITIES];
    /* Of the keys that the smallest best-possible 128x1 mask with recall 0.9 keeps: how many runs, and keys in them. */
    int64_t runs[FGA_INSPECT_RUN_BINS], run_keys[FGA_INSPECT_RUN_BINS];
} fga_inspect_head;

/* Pictures of attention: mean mass of 16 consecutive sampled queries on equal stretches of keys. */
typedef struct fga_inspect_map {
    int64_t rows, columns; /* set by fga_inspect_map_size */
    float *mass;           /* [query_heads][rows][columns], the caller's; a row sums to 1 */
} fga_inspect_map;

/* At most `most_columns` columns. */
FGA_API void fga_inspect_map_size(const fga_inspect *inspect, int64_t most_columns, fga_inspect_map *map);
/* heads [query_heads]; map may be NULL. */
FGA_API fga_status fga_inspect_heads(fga_inspect *inspect, fga_order order, fga_inspect_head *heads,
                                     const fga_inspect_map *map);
/* p [tokens]: the probabilities with which raster token `query` of `head` reads each raster token. */
FGA_API fga_status fga_inspect_query(fga_inspect *inspect, int64_t head, int64_t query, float *p);

/* ---- what a mask makes of it ---------------------------------------------------------------- */

/* As in fga_quality and fga_session_report, over the sampled queries. */
typedef struct fga_inspect_point {
    double density; /* kept pairs / all pairs */
    double cost;    /* (kept + summary pairs) / all pairs */
    double recall, recall_worst, recall_p05;
    double output_error, output_error_worst; /* over all heads; of the worst head */
    float *recall_heads, *error_heads;       /* in: [query_heads] to be filled, or NULL */
    float *cost_heads;
} fga_inspect_point;

/* What each policy would do at a refresh, at the density of its last phase (1 where it has none). Policies that differ
 * in density, tau, threshold and neighbours alone should be neighbours: they share the scores. Targets are not held. */
FGA_API fga_status fga_inspect_policies(fga_inspect *inspect, const fga_policy *policies, int count,
                                        fga_inspect_point *points);

/* The best possible masks: chosen from the true probabilities, which no policy has. */
typedef struct fga_inspect_best_desc {
    fga_order order;
    int32_t block_m, tile_n; /* M, N */
    fga_rest rest;           /* DROP: the tiles of the largest mass, the best there is for recall. REMAINDER: those that
                                their group's mean represents worst: FGA_SCORE_DEVIATION of the true probabilities */
    int32_t group;           /* keys per summary */
} fga_inspect_best_desc;

/* points[i]: at densities[i]. */
FGA_API fga_status fga_inspect_best(fga_inspect *inspect, const fga_inspect_best_desc *desc, const double *densities,
                                    int count, fga_inspect_point *points);

/* ---- what is guaranteed ---------------------------------------------------------------------- */

/* The provable bounds of docs/method.md, "Guarantees", for M = N = 128, s_q = s_k = 16, FGA_SCORE_MASS and top-k,
 * beside what they bound: means over at most 4 of the sampled blocks of each head. */
typedef struct fga_inspect_bound {
    double density;       /* in */
    double recall;        /* of the chosen tiles */
    double best_recall;   /* of the best as many tiles */
    double from_mass;     /* at least this recall, from the kept estimated mass */
    double against_best;  /* at least this recall, from the best recall */
    double against_count; /* at least this recall, from the number of tiles alone */
    double eta;           /* how far the estimate is from the truth, in units of the logarithm */
    int64_t blocks;       /* how many were looked at, over all heads */
} fga_inspect_bound;

FGA_API fga_status fga_inspect_bounds(fga_inspect *inspect, fga_order order, fga_inspect_bound *bounds, int count);

#ifdef __cplusplus
}
#endif
#endif /* FGATTN_INSPECT_H */
