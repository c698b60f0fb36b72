/* gpu_ops.h - what a refresh needs of a CUDA device beside attention: permuting, sums of groups, means of sub-tiles,
 * scores, selection. cuda/ops.c implements it, or cuda/none.c in a build without CUDA.
 *
 * The structs are what kernels get, as in gpu.h. Scores are found a slab of query blocks at a time, so that no array of
 * all of them exists, but where rows share a budget: the plan says how many fit the workspace.
 */
#ifndef FGA_OPS_GPU_OPS_H
#define FGA_OPS_GPU_OPS_H

#include "ops/gpu.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct fga_gpu_spans {
    int32_t count, begin[3], end[3];
} fga_gpu_spans;

/* ---- permute, sums ------------------------------------------------------------------------------------------------
 */

/* Row i of `to` becomes row order[i] of `from`; inverse: row order[i] of `to` becomes row i of `from`. */
typedef struct fga_gpu_permute {
    const void *from;
    void *to;
    const int32_t *order;           /* [rows] */
    int64_t from_stride, to_stride; /* bytes */
    int64_t rows;
    int32_t chunks; /* of 16 bytes in a row */
    int32_t inverse;
} fga_gpu_permute;

typedef struct fga_gpu_sums {
    fga_gpu_rows k, v;
    const float *bias; /* or NULL */
    int64_t bias_batch, bias_head;
    fga_gpu_spans keys;
    float *sum_k, *sum_v;    /* [batch*kv_heads][groups][head_dim] */
    float *sum_bias, *count; /* [batch*kv_heads][groups] */
    int32_t batch, kv_heads, key_len, head_dim, group, groups;
} fga_gpu_sums;

/* ---- score --------------------------------------------------------------------------------------------------------
 */

/* Means of sub-tiles: row tile * subs + i of a head covers tokens tile*tile_tokens + i*sub_tokens ... of the tile. */
typedef struct fga_gpu_pool {
    fga_gpu_rows x;
    fga_gpu_spans valid;
    void *mean;  /* [batch*heads][rows][dim]; of the input's dtype, or f16 to be multiplied by the factor */
    float *meta; /* [batch*heads][rows][2]: the factor, a power of two (1 where not scaled), and of queries the row's
                    share of its tile's valid tokens, of keys log2 of its valid tokens */
    int32_t batch, heads, tokens, head_dim, dim;
    int32_t rows; /* of a head, rounded up to FGA_RANK_TILE; rows past the last sub-tile are 0 and have no share */
    int32_t tile_tokens, sub_tokens, subs, of_keys, scaled;
} fga_gpu_pool;

/* Distance of each value to the mean of its group. */
typedef struct fga_gpu_apart {
    fga_gpu_rows v;
    fga_gpu_spans keys;
    float *meta; /* [batch*kv_heads][rows][2]: the distance, and 0, or -inf for a key that does not count */
    int32_t batch, kv_heads, key_len, head_dim, rows, group, groups;
} fga_gpu_apart;

/* For log-sum-exps: what a block's logits are taken relative to, so that sums of their powers neither overflow nor
 * vanish: the largest lse of its rows, less FGA_LSE_ROOM; +inf where no query asks. */
typedef struct fga_gpu_bases {
    float *lse;          /* [heads][rows]: of fga_gpu_rank; becomes the block's */
    const float *q_meta; /* [heads][rows][2] */
    int64_t blocks;      /* of all heads, to the last row */
    int32_t block_subs;
} fga_gpu_bases;

enum { FGA_LSE_ROOM = 100 };

/* Logits of pooled queries against keys or pooled keys, in base 2: z = q . k * factors * scale_log2 + bias. */
typedef struct fga_gpu_rank {
    const void *q;       /* [heads][rows][dim] */
    const float *q_meta; /* [heads][rows][2] */
    float *lse;          /* [heads][rows]: log2 of the sum over keys of 2^z */
    fga_gpu_rows k;
    const float *k_meta; /* [kv heads][key_rows][2] */
    fga_gpu_spans keys;  /* rows of k that are read */
    float *score;        /* [blocks of the slab][score_stride] */
    int64_t score_stride;
    int32_t batch, query_heads, kv_heads, head_dim;
    int32_t rows, key_rows; /* of a head; multiples of FGA_RANK_TILE, keys of two of them */
    int32_t key_count;
    int32_t tile_first;         /* of the slab: a row tile is FGA_RANK_TILE rows of a head, counted over all heads */
    int32_t splits, split_keys; /* one row tile's keys go to so many thread blocks; multiple of 2*FGA_RANK_TILE */
    int32_t block_eights;       /* 8 rows each, of a query block: 1, 2 or 4 */
    int32_t stages;             /* of keys in shared memory: 2, or 1 where a device has no room (not of sm_90's own) */
    float scale_log2;
} fga_gpu_rank;

enum { FGA_RANK_TILE = 128 };

/* ---- select -------------------------------------------------------------------------------------------------------
 */

enum { FGA_GPU_PARTIAL = 8 };

typedef struct fga_gpu_select {
    const float *score; /* [blocks of the slab][score_stride]; a tile's score is the sum of `entries` numbers */
    int64_t score_stride;
    float *tile_score;            /* where the scores go instead, [heads*blocks][tiles]; or NULL */
    const float *base;            /* of fga_gpu_bases, where they are logarithms to be; or NULL */
    int32_t base_rows, base_subs; /* rows of it of a head, of a block */
    uint64_t *bits;               /* [heads*blocks][words] */
    int32_t *row_keys;            /* [heads*blocks] */
    int32_t entries, tiles, words;
    int32_t blocks, tile_blocks, head_tiles; /* of a head; of a row tile; row tiles of a head */
    int32_t tile_first;                      /* of the slab */
    int32_t head_first, head_end;            /* heads to select for; others are left alone */
    int32_t keep;                            /* K; at least 1 beside the forced tiles */
    int32_t everything;                      /* keeps every live tile */
    int32_t neighbours;
    int32_t block_rows, tile_keys; /* M, N */
    fga_gpu_spans live, text_tiles, video_tiles;
    int32_t live_tiles;
    fga_gpu_spans query_valid, text_queries;
    int32_t partial_count, partial_tile[FGA_GPU_PARTIAL], partial_missing[FGA_GPU_PARTIAL];
    int32_t cached; /* the row's ranks fit into shared memory */
} fga_gpu_select;

/* ---- all above a number -------------------------------------------------------------------------------------------
 */

/* Of the means of key tiles. */
typedef struct fga_gpu_moments {
    const void *mean;  /* [batch*kv_heads][rows][dim] */
    const float *meta; /* as fga_gpu_pool leaves it */
    double *moments;   /* [batch*kv_heads][2: mean, variance][dim] */
    int32_t tiles, rows, dim;
} fga_gpu_moments;

/* Keeps the free tiles with scores above a number. */
typedef struct fga_gpu_over {
    fga_gpu_select select;
    double number; /* that; or, with moments, how many times the row's spread it lies above its mean */
    const double *moments;
    const void *q;                                        /* means of query blocks, as fga_gpu_rank has them */
    const float *q_meta;                                  /* likewise */
    double unit;                                          /* of logits: scale * log2 e */
    int32_t query_heads, kv_heads, rows, block_subs, dim; /* pooled rows of a head, of a block */
    int32_t full_covariance;                              /* the spread is that of the row itself */
} fga_gpu_over;

/* ---- a budget for all rows ----------------------------------------------------------------------------------------
 */

enum { FGA_BUDGET_DIGITS = 2048 };

/* What is known of a row. */
typedef struct fga_gpu_budget_row {
    double sum;          /* scores count as shares of it */
    uint32_t most;       /* no share of an open tile has a higher rank */
    int32_t open;        /* tiles to choose from: beside the forced ones and the floor */
    int32_t near;        /* of these, in the range of the cut when that was first known */
    int32_t equal, ties; /* at the cut, and how many of those are kept */
} fga_gpu_budget_row;

/* What is known of a batch item. */
typedef struct fga_gpu_budget_state {
    uint64_t digits[FGA_BUDGET_DIGITS]; /* of tiles in question */
    uint64_t kept, open;                /* tiles of the rows that may choose, before anything is spent */
    uint64_t low, above;                /* ranks in question: those above are kept */
    int64_t left;                       /* of the tiles in question, how many are kept */
    int32_t shift;                      /* the next digit is (rank - low) >> shift; -1: there is none */
} fga_gpu_budget_state;

/* One batch item. select: scores of all rows, the first head's first; keep: the floor of the launch's heads. */
typedef struct fga_gpu_budget {
    fga_gpu_select select;
    fga_gpu_budget_state *state;
    fga_gpu_budget_row *rows; /* [heads*blocks] */
    uint32_t *near;           /* [heads*blocks][near_room] tiles */
    int64_t tiles;            /* B */
    int32_t near_room;
    int32_t base;   /* upper half of a rank: digits are first counted from it on */
    int32_t shares; /* rows do not sum to 1 */
} fga_gpu_budget;

/* The order of a mask's blocks, as fga_mask_order_blocks has it; and how many pairs are kept in all. */
typedef struct fga_gpu_order {
    const uint64_t *bits; /* [rows][words] */
    const int32_t *row_keys;
    int32_t *company; /* [rows]: room for similar blocks side by side; NULL where at_once is 1 */
    int32_t *row_order;
    uint64_t *pairs; /* [2], of which the first counts */
    fga_gpu_spans query_valid;
    int32_t rows, words, blocks, block_rows, at_once;
} fga_gpu_order;

/* Valid queries times groups of keys that a block does not keep whole: the pairs of summaries. */
typedef struct fga_gpu_rests {
    const uint64_t *bits; /* [rows][words] */
    uint64_t *pairs;      /* added to */
    fga_gpu_spans query_valid, key_valid, live;
    int32_t rows, words, blocks, tiles, block_rows, tile_keys, group, groups;
} fga_gpu_rests;

/* to[i] += from[i], i = 0, 1. */
typedef struct fga_gpu_tally {
    uint64_t *to;
    const uint64_t *from;
} fga_gpu_tally;

/* ---- probe --------------------------------------------------------------------------------------------------------
 */

/* Sample r of `samples` is token prefix + floor((2 r + 1) * video / (2 samples)); `attend` as it was run, its o
 * included. */
typedef struct fga_gpu_probe {
    fga_gpu_attend attend;
    float *figures; /* [batch*query_heads][samples][3]: recall; squared norms of O - O_dense and of O_dense */
    int32_t samples, prefix, video;
} fga_gpu_probe;

/* ---- the host's side ----------------------------------------------------------------------------------------------
 */

/* Of LSE the scores in the workspace are powers: 2 to their logarithm less a number that is the row's own. */
typedef enum fga_gpu_score { FGA_GPU_MASS, FGA_GPU_DEVIATION, FGA_GPU_LSE } fga_gpu_score;
/* What a row keeps: its best; its share of the best of all rows, whose scores are kept all at once; those above a
 * number; those so far above its mean, for which the score is raw logits. */
typedef enum fga_gpu_rule { FGA_GPU_BEST, FGA_GPU_BUDGET, FGA_GPU_OVER, FGA_GPU_ADAPTIVE } fga_gpu_rule;

/* The shape of one refresh; grids are in tokens. */
typedef struct fga_gpu_refresh {
    fga_gpu_score score;
    fga_gpu_rule rule;
    fga_dtype dtype;
    int32_t batch, query_heads, kv_heads, query_len, key_len, head_dim;
    int32_t block_m, tile_n, sub_q, sub_k, group;
    int32_t full_covariance; /* of FGA_GPU_ADAPTIVE */
    float scale;
    fga_gpu_spans query_valid, key_valid;
} fga_gpu_refresh;

typedef struct fga_gpu_refresh_plan {
    fga_gpu_refresh shape;
    void *pool_q, *pool_k, *apart, *moments, *bases, *stats, *rank, *select, *write; /* kernels */
    int32_t dim, rows, key_rows, key_count, block_eights, blocks, tiles, tile_blocks, head_tiles, entries;
    int32_t slab_tiles;
    int32_t rank_threads, rank_shared, rank_stages;
    int32_t near_room; /* with a budget */
    size_t q_at, q_meta_at, lse_at, k_at, k_meta_at, moments_at, score_at, state_at, rows_at, near_at, workspace_bytes;
} fga_gpu_refresh_plan;

/* Parts of a refresh, so that benchmarks can time them one by one. */
enum { FGA_GPU_POOL = 1, FGA_GPU_ROW_SUMS = 2, FGA_GPU_SCORES = 4, FGA_GPU_SELECT = 8, FGA_GPU_ALL_PARTS = 15 };

/* What a selection needs beside the shape; where `tile_score` is set scores are written instead. */
typedef struct fga_gpu_refresh_call {
    fga_gpu_rows q, k, v;
    fga_gpu_select select;
    const int32_t *keep, *neighbours; /* host arrays [batch*query_heads]: K, or with a budget the floor; neighbours */
    const uint8_t *everything;        /* [batch*query_heads] */
    const int64_t *budget;            /* [batch]: B, with a budget */
    const double *number;             /* [batch*query_heads]: of fga_gpu_over */
    int32_t parts;                    /* FGA_GPU_ALL_PARTS, or some of them: then of what the others left behind */
    void *workspace, *stream;
} fga_gpu_refresh_call;

fga_status fga_gpu_permute_rows(fga_context *ctx, const fga_gpu_permute *op, void *stream);
fga_status fga_gpu_group_sums(fga_context *ctx, const fga_gpu_sums *op, fga_dtype dtype, void *stream);
fga_status fga_gpu_refresh_prepare(fga_context *ctx, const fga_gpu_refresh *shape, fga_gpu_refresh_plan *plan);
/* Scores and, without tile_score, bits and row_keys. Asynchronous: no allocation, no synchronisation. */
fga_status fga_gpu_refresh_launch(fga_context *ctx, const fga_gpu_refresh_plan *plan, fga_gpu_refresh_call *call);
/* From scores [heads*blocks][tiles] that are on the device: select->score, score_stride = tiles, entries = 1. */
fga_status fga_gpu_select_rows(fga_context *ctx, const fga_gpu_select *select, int64_t rows, void *stream);
/* Asynchronous. */
fga_status fga_gpu_probe_samples(fga_context *ctx, const fga_gpu_probe *probe, fga_dtype dtype, void *stream);
/* Starts both counts of pairs at 0. */
fga_status fga_gpu_order_blocks(fga_context *ctx, const fga_gpu_order *order, void *stream);
fga_status fga_gpu_count_rests(fga_context *ctx, const fga_gpu_rests *rests, void *stream);
fga_status fga_gpu_add_pairs(fga_context *ctx, const fga_gpu_tally *tally, void *stream);
/* Two numbers on the device, 0; released like a mask. */
fga_status fga_gpu_counters(fga_context *ctx, fga_gpu_mask *memory, uint64_t **counters);
/* A bit map that kernels fill, with its row_keys and row_order, the latter with as much room again behind it; two more
 * numbers count its pairs, and those of its summaries. */
fga_status fga_gpu_mask_alloc(fga_context *ctx, int64_t rows, int64_t words, fga_gpu_mask *mask, uint64_t **pairs);
/* Copies when the stream has come to it, and waits for that. */
fga_status fga_gpu_read(fga_context *ctx, void *host, const void *device, size_t bytes, void *stream);

#ifdef __cplusplus
}
#endif
#endif
