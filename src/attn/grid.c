/* grid.c - tensor views, sequences, and the checks that every entry point shares. */
#include "attn/grid.h"

#include "base/context.h"

#include <inttypes.h>

fga_tensor fga_tensor_bhsd(void *data, fga_dtype dtype, int64_t b, int64_t h, int64_t s, int64_t d)
{
    return (fga_tensor){data, dtype, FGA_DEVICE_CPU, {b, h, s, d}, {h * s * d, s * d, d, 1}};
}

fga_tensor fga_tensor_bshd(void *data, fga_dtype dtype, int64_t b, int64_t s, int64_t h, int64_t d)
{
    return (fga_tensor){data, dtype, FGA_DEVICE_CPU, {b, h, s, d}, {s * h * d, d, h * d, 1}};
}

fga_sequence fga_sequence_video(int64_t tokens)
{
    return (fga_sequence){.video = tokens, .video_valid = tokens};
}

int64_t fga_sequence_length(const fga_sequence *s)
{
    return s->prefix + s->video + s->suffix;
}

int64_t fga_sequence_valid(const fga_sequence *s)
{
    return s->prefix_valid + s->video_valid + s->suffix_valid;
}

/* ---- spans ------------------------------------------------------------------------------------ */

void fga_spans_add(fga_spans *spans, int64_t begin, int64_t end)
{
    if (begin >= end) {
        return;
    }
    if (spans->count > 0 && spans->end[spans->count - 1] >= begin) {
        spans->end[spans->count - 1] = end;
        return;
    }
    spans->begin[spans->count] = begin;
    spans->end[spans->count] = end;
    spans->count++;
}

fga_spans fga_spans_all(int64_t tokens)
{
    fga_spans spans = {0};
    fga_spans_add(&spans, 0, tokens);
    return spans;
}

fga_spans fga_spans_valid(const fga_sequence *s)
{
    fga_spans spans = {0};
    int64_t suffix = s->prefix + s->video;
    fga_spans_add(&spans, 0, s->prefix_valid);
    fga_spans_add(&spans, s->prefix, s->prefix + s->video_valid);
    fga_spans_add(&spans, suffix, suffix + s->suffix_valid);
    return spans;
}

fga_spans fga_spans_valid_text(const fga_sequence *s)
{
    fga_spans spans = {0};
    int64_t suffix = s->prefix + s->video;
    fga_spans_add(&spans, 0, s->prefix_valid);
    fga_spans_add(&spans, suffix, suffix + s->suffix_valid);
    return spans;
}

int64_t fga_spans_count(const fga_spans *spans, int64_t begin, int64_t end)
{
    int64_t covered = 0;
    for (int i = 0; i < spans->count; i++) {
        covered += fga_max(0, fga_min(end, spans->end[i]) - fga_max(begin, spans->begin[i]));
    }
    return covered;
}

bool fga_size_add(size_t *total, int64_t count, size_t bytes)
{
    size_t product;
    if (count < 0 || __builtin_mul_overflow((size_t)count, bytes, &product) || product > SIZE_MAX / 2 - 63) {
        return false;
    }
    return !__builtin_add_overflow(*total, (product + 63) / 64 * 64, total) && *total <= SIZE_MAX / 2;
}

/* ---- checks ----------------------------------------------------------------------------------- */

fga_status fga_check_struct(fga_context *ctx, const char *what, size_t got, size_t wanted)
{
    if (got != wanted) {
        return fga_context_fail(ctx, FGA_ERR_ARGUMENT, "%s.size is %zu, wanted %zu: start from %s_default()", what, got,
                                wanted, what);
    }
    return FGA_OK;
}

fga_status fga_check_range(fga_context *ctx, const char *what, int64_t got, int64_t low, int64_t high)
{
    if (got < low || got > high) {
        return fga_context_fail(ctx, FGA_ERR_ARGUMENT, "%s is %" PRId64 ", wanted %" PRId64 " ... %" PRId64, what, got,
                                low, high);
    }
    return FGA_OK;
}

static fga_status check_segment(fga_context *ctx, const char *what, const char *name, int64_t length, int64_t valid)
{
    if (length < 0 || length > FGA_MAX_TOKENS) {
        return fga_context_fail(ctx, FGA_ERR_ARGUMENT, "%s.%s is %" PRId64 " tokens, wanted 0 ... %" PRId64, what, name,
                                length, FGA_MAX_TOKENS);
    }
    if (valid < 0 || valid > length) {
        return fga_context_fail(ctx, FGA_ERR_ARGUMENT, "%s.%s_valid is %" PRId64 ", wanted 0 ... %" PRId64, what, name,
                                valid, length);
    }
    return FGA_OK;
}

fga_status fga_check_sequence(fga_context *ctx, const char *what, const fga_sequence *s)
{
    FGA_TRY(check_segment(ctx, what, "prefix", s->prefix, s->prefix_valid));
    FGA_TRY(check_segment(ctx, what, "video", s->video, s->video_valid));
    FGA_TRY(check_segment(ctx, what, "suffix", s->suffix, s->suffix_valid));
    if (fga_sequence_length(s) > FGA_MAX_TOKENS) {
        return fga_context_fail(ctx, FGA_ERR_ARGUMENT, "%s is %" PRId64 " tokens long, wanted at most %" PRId64, what,
                                fga_sequence_length(s), FGA_MAX_TOKENS);
    }
    return FGA_OK;
}

static bool is_one_of(int64_t value, const int32_t *list, int count)
{
    for (int i = 0; i < count; i++) {
        if (value == list[i]) {
            return true;
        }
    }
    return false;
}

fga_status fga_check_block_m(fga_context *ctx, int64_t block_m)
{
    static const int32_t allowed[] = {16, 32, 64, 128, 192};
    if (!is_one_of(block_m, allowed, 5)) {
        return fga_context_fail(ctx, FGA_ERR_ARGUMENT, "block_m is %" PRId64 ", wanted 16, 32, 64, 128 or 192",
                                block_m);
    }
    return FGA_OK;
}

fga_status fga_check_tile_n(fga_context *ctx, int64_t tile_n)
{
    static const int32_t allowed[] = {1, 2, 4, 8, 16, 32, 64, 128};
    if (!is_one_of(tile_n, allowed, 8)) {
        return fga_context_fail(ctx, FGA_ERR_ARGUMENT, "tile_n is %" PRId64 ", wanted 1, 2, 4, 8, 16, 32, 64 or 128",
                                tile_n);
    }
    return FGA_OK;
}

fga_status fga_check_group(fga_context *ctx, int64_t group)
{
    static const int32_t allowed[] = {8, 16, 32, 64, 128, 256};
    if (!is_one_of(group, allowed, 6)) {
        return fga_context_fail(ctx, FGA_ERR_ARGUMENT, "group is %" PRId64 ", wanted 8, 16, 32, 64, 128 or 256", group);
    }
    return FGA_OK;
}

fga_status fga_check_heads(fga_context *ctx, int64_t batch, int64_t query_heads, int64_t kv_heads)
{
    FGA_TRY(fga_check_range(ctx, "batch", batch, 1, FGA_MAX_HEADS));
    FGA_TRY(fga_check_range(ctx, "query_heads", query_heads, 1, FGA_MAX_HEADS));
    FGA_TRY(fga_check_range(ctx, "kv_heads", kv_heads, 1, FGA_MAX_HEADS));
    if (query_heads % kv_heads != 0) {
        return fga_context_fail(ctx, FGA_ERR_ARGUMENT,
                                "query_heads is %" PRId64 ", wanted a multiple of kv_heads, which is %" PRId64,
                                query_heads, kv_heads);
    }
    return FGA_OK;
}

fga_status fga_check_head_dim(fga_context *ctx, int64_t head_dim, fga_dtype dtype)
{
    if (head_dim < 8 || head_dim > FGA_MAX_HEAD_DIM || head_dim % 8 != 0) {
        return fga_context_fail(ctx, FGA_ERR_UNSUPPORTED, "head_dim is %" PRId64 ", wanted a multiple of 8 up to %d",
                                head_dim, FGA_MAX_HEAD_DIM);
    }
    if ((unsigned)dtype > FGA_BF16) {
        return fga_context_fail(ctx, FGA_ERR_ARGUMENT, "dtype is %d, wanted FGA_F32, FGA_F16 or FGA_BF16", (int)dtype);
    }
    return FGA_OK;
}

fga_status fga_check_workspace(fga_context *ctx, const void *workspace, size_t bytes)
{
    if (bytes > 0 && (workspace == NULL || (uintptr_t)workspace % 64 != 0)) {
        return fga_context_fail(ctx, FGA_ERR_ARGUMENT, "workspace is %p, wanted %zu bytes aligned to 64", workspace,
                                bytes);
    }
    return FGA_OK;
}

fga_status fga_check_cpu(fga_context *ctx, const char *what)
{
    if (ctx == NULL || ctx->options.device == FGA_DEVICE_CPU) {
        return FGA_OK;
    }
    return fga_context_fail(ctx, FGA_ERR_UNSUPPORTED, "%s has no CUDA kernels yet: use a context of the processor",
                            what);
}

fga_status fga_check_tensor(fga_context *ctx, const char *what, const fga_tensor *t, const fga_shape *shape)
{
    return fga_check_view(ctx, what, t, shape, FGA_DEVICE_CPU);
}

fga_status fga_check_view(fga_context *ctx, const char *what, const fga_tensor *t, const fga_shape *shape,
                          fga_device device)
{
    const int64_t wanted[4] = {shape->batch, shape->heads, shape->tokens, shape->head_dim};
    static const char *const axes[4] = {"batch", "heads", "tokens", "head_dim"};
    if (t->dtype != shape->dtype) {
        return fga_context_fail(ctx, FGA_ERR_ARGUMENT, "%s is %s, wanted %s", what, fga_dtype_name(t->dtype),
                                fga_dtype_name(shape->dtype));
    }
    if (t->device != device) {
        return fga_context_fail(ctx, FGA_ERR_ARGUMENT, "%s is on device %d, wanted %s", what, (int)t->device,
                                device == FGA_DEVICE_CUDA ? "the context's CUDA device" : "the CPU");
    }
    for (int i = 0; i < 4; i++) {
        if (t->extent[i] != wanted[i]) {
            return fga_context_fail(ctx, FGA_ERR_ARGUMENT, "%s has %" PRId64 " %s, wanted %" PRId64, what, t->extent[i],
                                    axes[i], wanted[i]);
        }
    }
    if (t->stride[3] != 1) {
        return fga_context_fail(ctx, FGA_ERR_ARGUMENT, "%s has channel stride %" PRId64 ", wanted 1", what,
                                t->stride[3]);
    }
    if (t->data == NULL && shape->tokens > 0) {
        return fga_context_fail(ctx, FGA_ERR_ARGUMENT, "%s.data is NULL", what);
    }
    return FGA_OK;
}
