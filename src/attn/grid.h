/* grid.h - tokens, query blocks and key tiles: the arithmetic that every step shares. */
#ifndef FGA_ATTN_GRID_H
#define FGA_ATTN_GRID_H

#include "base/error.h"

/* Longer sequences are refused, so that a token index fits 32 bits and sums of lengths cannot overflow. */
#define FGA_MAX_TOKENS ((int64_t)1 << 30)
#define FGA_MAX_HEADS ((int64_t)1 << 16) /* also of batch items */
#define FGA_MAX_HEAD_DIM 256

/* Token intervals [begin, end), rising and disjoint: at most one per segment of a sequence. */
typedef struct fga_spans {
    int count;
    int64_t begin[3], end[3];
} fga_spans;

fga_spans fga_spans_all(int64_t tokens);
fga_spans fga_spans_valid(const fga_sequence *sequence);
fga_spans fga_spans_valid_text(const fga_sequence *sequence);
/* Appends [begin, end), which must not end before the last one does, joined to it where they touch. */
void fga_spans_add(fga_spans *spans, int64_t begin, int64_t end);
/* Tokens of [begin, end) that lie in the spans. */
int64_t fga_spans_count(const fga_spans *spans, int64_t begin, int64_t end);

static inline int64_t fga_ceil_div(int64_t a, int64_t b)
{
    return (a + b - 1) / b;
}

static inline int64_t fga_min(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

static inline int64_t fga_max(int64_t a, int64_t b)
{
    return a > b ? a : b;
}

/* *total += count * bytes, rounded up to 64; false when it does not fit. */
bool fga_size_add(size_t *total, int64_t count, size_t bytes);

/* Argument checks that leave a text naming `what`, what it got and what was wanted. */
fga_status fga_check_struct(fga_context *ctx, const char *what, size_t got, size_t wanted);
fga_status fga_check_range(fga_context *ctx, const char *what, int64_t got, int64_t low, int64_t high);
fga_status fga_check_sequence(fga_context *ctx, const char *what, const fga_sequence *sequence);
fga_status fga_check_block_m(fga_context *ctx, int64_t block_m);
fga_status fga_check_tile_n(fga_context *ctx, int64_t tile_n);
fga_status fga_check_group(fga_context *ctx, int64_t group);
fga_status fga_check_heads(fga_context *ctx, int64_t batch, int64_t query_heads, int64_t kv_heads);
fga_status fga_check_head_dim(fga_context *ctx, int64_t head_dim, fga_dtype dtype);
fga_status fga_check_workspace(fga_context *ctx, const void *workspace, size_t bytes);
/* tensor must be [batch][heads][tokens][head_dim] of dtype, in the processor's memory or on `device`. */
typedef struct fga_shape {
    int64_t batch, heads, tokens, head_dim;
    fga_dtype dtype;
} fga_shape;
fga_status fga_check_tensor(fga_context *ctx, const char *what, const fga_tensor *tensor, const fga_shape *shape);
fga_status fga_check_view(fga_context *ctx, const char *what, const fga_tensor *tensor, const fga_shape *shape,
                          fga_device device);
/* Refuses a CUDA context: `what` computes on the processor. */
fga_status fga_check_cpu(fga_context *ctx, const char *what);

/* Address of channel 0 of (b, h, token). */
static inline void *fga_tensor_row(const fga_tensor *t, int64_t b, int64_t h, int64_t token)
{
    int64_t offset = b * t->stride[0] + h * t->stride[1] + token * t->stride[2];
    return (char *)t->data + offset * (int64_t)fga_dtype_size(t->dtype);
}

#endif
