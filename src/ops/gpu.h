/* gpu.h - the operators of a CUDA device: what cuda/ (or cuda/none.c, in a build without CUDA) implements.
 *
 * Structs here are what kernels get, so they hold plain numbers and device addresses only and compile as C and as CUDA.
 */
#ifndef FGA_OPS_GPU_H
#define FGA_OPS_GPU_H

#include "fgattn.h"

#ifdef __cplusplus
extern "C" {
#endif

/* ---- device memory of a mask --------------------------------------------------------------------------------------
 */

/* Blocks of fewer than 64 queries: those of so many queries may share one list, the union of theirs. */
enum { FGA_GPU_SHARED_QUERIES = 128 };
#define FGA_GPU_AT_ONCE(block_rows) ((block_rows) < 64 ? FGA_GPU_SHARED_QUERIES / (block_rows) : 1)

/* They are sought among so many blocks, by so many 32-bit words of their lists: word i is word i * all /
 * FGA_ALIKE_WORDS of a row's bits. */
enum { FGA_ALIKE_BLOCKS = 512, FGA_ALIKE_WORDS = 32 };

typedef struct fga_gpu_mask {
    uint64_t memory; /* one allocation that holds all of the below; 0: none */
    void *cuda_context;
    const uint64_t *bits;       /* [rows][words]; or */
    const int64_t *run_offsets; /* [rows+1] and */
    const uint32_t *runs;       /* begin, end of each run */
    const int32_t *row_keys;    /* [rows]: kept valid keys */
    const int32_t *row_order;   /* [batch*heads][blocks]: fga_mask_order_blocks */
} fga_gpu_mask;

/* Host arrays to copy; bits NULL: runs. */
typedef struct fga_gpu_mask_source {
    const uint64_t *bits;
    const int64_t *run_offsets;
    const uint32_t *runs;
    const int32_t *row_keys, *row_order;
    int64_t rows, words;
} fga_gpu_mask_source;

/* Synchronous. */
fga_status fga_gpu_mask_upload(fga_context *ctx, const fga_gpu_mask_source *source, fga_gpu_mask *mask);
void fga_gpu_mask_free(fga_gpu_mask *mask);

/* ---- attend -------------------------------------------------------------------------------------------------------
 */

typedef struct fga_gpu_rows {
    void *data;
    int64_t batch, head, token; /* strides, in elements; of channels: 1 */
} fga_gpu_rows;

/* One run of attention, as kernels see it. 32 bits are enough for tokens: a sequence has at most 2^30. */
typedef struct fga_gpu_attend {
    fga_gpu_rows q, k, v, o;
    float *lse;        /* [batch][query_heads][query_len], or NULL */
    const float *bias; /* or NULL */
    int64_t bias_batch, bias_head;
    fga_gpu_mask mask; /* memory 0: every valid key is kept */
    int64_t mask_words;
    int32_t mask_batch, mask_heads; /* 1 broadcasts */
    int32_t tile_shift;             /* log2 of the mask's N */
    int32_t key_spans, key_begin[3], key_end[3];
    int32_t query_spans, query_begin[3], query_end[3];
    int32_t batch, query_heads, kv_heads, query_len, key_len, head_dim;
    int32_t block_rows; /* M */
    int32_t blocks;     /* of one head */
    int32_t part_rows,
        parts;        /* rows of a block that one thread block takes at a time, and how many such parts it has */
    float scale_log2; /* scale * log2(e) */
    /* Remainder summaries; group_shift < 0: none. */
    const float *sum_k, *sum_v, *sum_bias, *count;
    int32_t group_shift, groups;
    /* In the workspace: one row of K, V and bias per group that stands for the whole group, and a few rows per thread
     * block that stand for what it did not keep. */
    void *mean_rows;   /* [batch*kv_heads*groups][2: K, V][dim], of dtype */
    float *mean_bias;  /* [batch*kv_heads*groups]: (mean bias + log(count)) * log2(e) */
    void *rest_rows;   /* [thread blocks][slots][2: K, V][dim], of dtype */
    int32_t row_bytes; /* 2 * dim: head_dim rounded up to what the kernel computes with */
} fga_gpu_attend;

typedef struct fga_gpu_kernel {
    void *function; /* NULL: none */
    int32_t threads, shared_bytes;
    int32_t keys;          /* of a tile */
    int32_t part_rows;     /* of a block of queries, that a thread block takes at a time */
    int32_t thread_blocks; /* that run at once, but no more than there are items */
} fga_gpu_kernel;

/* What was chosen for a shape. */
typedef struct fga_gpu_attend_plan {
    const char *variant;
    int32_t rows;          /* of a block, when the caller has no mask */
    int32_t dim;           /* head_dim rounded up to what the kernels compute with */
    fga_gpu_kernel gather; /* takes any list of keys */
    fga_gpu_kernel sums;   /* the same with remainder summaries; missing when gather does that */
    fga_gpu_kernel dense;  /* takes whole tiles, when there is neither mask nor padding nor bias; may be missing */
    int32_t rest_slots;
    void *means; /* rows of whole groups */
    size_t mean_rows_bytes, mean_bias_bytes, rest_rows_bytes, workspace_bytes;
} fga_gpu_attend_plan;

/* Kernel families, worst first, and whether the calling thread's CUDA context can run them. */
int fga_gpu_variant_count(void);
const char *fga_gpu_variant_name(int index);
bool fga_gpu_variant_runs_here(int index);

fga_status fga_gpu_attend_prepare(fga_context *ctx, const fga_attend_desc *desc, fga_gpu_attend_plan *plan);
/* Asynchronous on stream: no allocation, no synchronisation. Fills the workspace's part of *op. */
fga_status fga_gpu_attend_launch(fga_context *ctx, const fga_gpu_attend_plan *plan, fga_gpu_attend *op, fga_dtype dtype,
                                 void *workspace, void *stream);

#ifdef __cplusplus
}
#endif
#endif
