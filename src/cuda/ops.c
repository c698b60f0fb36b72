/* ops.c - the host's side of what a refresh needs beside attention: plans, and launches. */
#include "ops/gpu_ops.h"

#include "base/context.h"
#include "cuda/device.h"
#include "cuda/launch.h"
#include "cuda/ops_shapes.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

/* Modules of the context; keys go to sm_90's warpgroups in pairs of tiles. */
enum { OPS_MODULE = 2, WIDE_MODULE = 3, ROW_THREADS = 256, KEY_ROWS = 2 * FGA_RANK_TILE };

/* Scores of a slab may take this much; a larger one keeps more of the device busy. */
static const size_t slab_bytes = (size_t)1 << 30;

/* ---- kernels -------------------------------------------------------------------------------------------------------
 */

static fga_status find_in(fga_context *ctx, int index, const char *name, int shared, void **kernel)
{
    const fga_driver *driver = fga_driver_load();
    CUresult result = CUDA_SUCCESS;
    if (ctx->gpu.major < 8) {
        return fga_context_fail(ctx, FGA_ERR_UNSUPPORTED, "%s has compute capability %d.%d, wanted 8.0 or later for %s",
                                ctx->gpu.name, ctx->gpu.major, ctx->gpu.minor, name);
    }
    if (ctx->gpu.modules[index] == NULL) {
        CUmodule module = NULL;
        result = driver->cuModuleLoadData(&module, index == WIDE_MODULE ? fga_cuda_image_ops_sm90 : fga_cuda_image_ops);
        if (result != CUDA_SUCCESS) {
            return fga_gpu_fail(ctx, "cannot load the kernels", (int)result);
        }
        ctx->gpu.modules[index] = module;
    }
    CUfunction function = NULL;
    result = driver->cuModuleGetFunction(&function, ctx->gpu.modules[index], name);
    if (result == CUDA_SUCCESS && shared > 0) {
        result = driver->cuFuncSetAttribute(function, CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, shared);
    }
    *kernel = function;
    return result == CUDA_SUCCESS ? FGA_OK : fga_gpu_fail(ctx, name, (int)result);
}

/* Names end in the dtype where there is one. */
static fga_status find_for(fga_context *ctx, const char *name, fga_dtype dtype, void **kernel)
{
    char full[48];
    snprintf(full, sizeof full, "%s_%s", name, fga_dtype_name(dtype));
    return find_in(ctx, OPS_MODULE, full, 0, kernel);
}

static const struct {
    const char *name;
    int shared; /* bytes; -1: the most there can be, for it depends on the call */
} lone_kernels[FGA_LONE] = {
    [FGA_MOVE_ROWS] = {"fga_move_rows", 0},
    [FGA_BEST_TILES] = {"fga_select_tiles", -1},
    [FGA_TILES_OVER] = {"fga_select_over", 0},
    [FGA_PUT_ALIKE] = {"fga_put_alike_together", FGA_ALIKE_SHARED},
    [FGA_ORDER_BLOCKS] = {"fga_order_blocks_by_keys", 0},
    [FGA_COUNT_RESTS] = {"fga_count_group_rests", 0},
    [FGA_ADD_BOTH] = {"fga_add_both", 0},
    [FGA_BUDGET_BEGIN] = {"fga_budget_begin", -1},
    [FGA_BUDGET_START_SEARCH] = {"fga_budget_start_search", 0},
    [FGA_BUDGET_SPLIT] = {"fga_budget_split", 0},
    [FGA_BUDGET_GO_ON] = {"fga_budget_go_on", 0},
    [FGA_BUDGET_NARROW] = {"fga_budget_narrow", 0},
    [FGA_BUDGET_COUNT_EQUALS] = {"fga_budget_count_equals", 0},
    [FGA_BUDGET_SHARE_OUT] = {"fga_budget_share_out", 0},
    [FGA_BUDGET_FINISH] = {"fga_budget_finish", 0},
    [FGA_GROUP_SUMS] = {"fga_group_sums_f16", 0},
    [FGA_GROUP_SUMS + 1] = {"fga_group_sums_bf16", 0},
    [FGA_PROBE] = {"fga_probe_f16_d64", FGA_PROBE_SHARED(64)},
    [FGA_PROBE + 1] = {"fga_probe_f16_d128", FGA_PROBE_SHARED(128)},
    [FGA_PROBE + 2] = {"fga_probe_f16_d256", FGA_PROBE_SHARED(256)},
    [FGA_PROBE + 3] = {"fga_probe_bf16_d64", FGA_PROBE_SHARED(64)},
    [FGA_PROBE + 4] = {"fga_probe_bf16_d128", FGA_PROBE_SHARED(128)},
    [FGA_PROBE + 5] = {"fga_probe_bf16_d256", FGA_PROBE_SHARED(256)},
};

_Static_assert(FGA_LONE <= sizeof((fga_gpu *)NULL)->functions / sizeof(void *), "a place for each");

fga_status fga_gpu_find(fga_context *ctx, int which, void **kernel)
{
    void **kept = &ctx->gpu.functions[which];
    int shared = lone_kernels[which].shared;
    if (*kept == NULL) {
        shared = shared >= 0 ? shared : ctx->gpu.shared_bytes;
        FGA_TRY(find_in(ctx, OPS_MODULE, lone_kernels[which].name, shared, kept));
    }
    *kernel = *kept;
    return FGA_OK;
}

fga_status fga_gpu_load(fga_context *ctx)
{
    void *kernel = NULL;
    for (int i = 0; i < FGA_LONE && ctx->gpu.major >= 8; i++) { /* an older device is refused by what is asked of it */
        FGA_TRY(fga_gpu_find(ctx, i, &kernel));
    }
    return FGA_OK;
}

fga_status fga_gpu_launch(fga_context *ctx, void *kernel, fga_grid g, void *stream, void *argument)
{
    void *arguments[] = {argument};
    if (g.blocks == 0) {
        return FGA_OK;
    }
    if (g.blocks > INT32_MAX) {
        return fga_context_fail(ctx, FGA_ERR_UNSUPPORTED, "%" PRId64 " thread blocks are more than %s takes", g.blocks,
                                ctx->gpu.name);
    }
    CUresult result = fga_driver_load()->cuLaunchKernel(kernel, (unsigned)g.blocks, 1, 1, (unsigned)g.threads, 1, 1,
                                                        (unsigned)g.shared, stream, arguments, NULL);
    return result == CUDA_SUCCESS ? FGA_OK : fga_gpu_fail(ctx, "cannot launch a kernel", (int)result);
}

/* `items` rows of channels, a power of two of threads each. */
static fga_grid row_grid(int64_t items, int32_t head_dim)
{
    int64_t lanes = 1;
    while (lanes * 8 < head_dim) {
        lanes *= 2;
    }
    return (fga_grid){(items * lanes + ROW_THREADS - 1) / ROW_THREADS, ROW_THREADS, 0};
}

static fga_status need_halves(fga_context *ctx, fga_dtype dtype)
{
    return dtype != FGA_F32 ? FGA_OK
                            : fga_context_fail(ctx, FGA_ERR_UNSUPPORTED,
                                               "%s has no kernels of a refresh, or to measure, for "
                                               "%s, wanted bf16 or f16",
                                               ctx->gpu.name, fga_dtype_name(dtype));
}

/* ---- permute, sums -------------------------------------------------------------------------------------------------
 */

fga_status fga_gpu_permute_rows(fga_context *ctx, const fga_gpu_permute *op, void *stream)
{
    void *kernel = NULL;
    FGA_TRY(fga_gpu_find(ctx, FGA_MOVE_ROWS, &kernel));
    int64_t blocks = (op->rows * op->chunks + ROW_THREADS - 1) / ROW_THREADS, most = (int64_t)ctx->gpu.processors * 32;
    fga_gpu_permute a = *op;
    return fga_gpu_launch(ctx, kernel, (fga_grid){blocks < most ? blocks : most, ROW_THREADS, 0}, stream, &a);
}

fga_status fga_gpu_probe_samples(fga_context *ctx, const fga_gpu_probe *probe, fga_dtype dtype, void *stream)
{
    void *kernel = NULL;
    const fga_gpu_attend *a = &probe->attend;
    int width = a->head_dim <= 64 ? 0 : a->head_dim <= 128 ? 1 : 2, which = FGA_PROBE + 3 * (dtype == FGA_BF16) + width;
    FGA_TRY(need_halves(ctx, dtype));
    FGA_TRY(fga_gpu_find(ctx, which, &kernel));
    int64_t blocks = (int64_t)a->batch * a->query_heads * ((probe->samples + FGA_PROBE_ROWS - 1) / FGA_PROBE_ROWS);
    fga_gpu_probe argument = *probe;
    return fga_gpu_launch(ctx, kernel, (fga_grid){blocks, FGA_PROBE_THREADS, lone_kernels[which].shared}, stream,
                          &argument);
}

fga_status fga_gpu_group_sums(fga_context *ctx, const fga_gpu_sums *op, fga_dtype dtype, void *stream)
{
    void *kernel = NULL;
    FGA_TRY(need_halves(ctx, dtype));
    FGA_TRY(fga_gpu_find(ctx, FGA_GROUP_SUMS + (dtype == FGA_BF16), &kernel));
    fga_gpu_sums a = *op;
    return fga_gpu_launch(ctx, kernel, row_grid(2 * (int64_t)op->batch * op->kv_heads * op->groups, op->head_dim),
                          stream, &a);
}

/* ---- plan ----------------------------------------------------------------------------------------------------------
 */

static int32_t up(int64_t x, int64_t to)
{
    return (int32_t)((x + to - 1) / to * to);
}

static int32_t parts(int64_t x, int64_t of)
{
    return (int32_t)((x + of - 1) / of);
}

static fga_status unsupported(fga_context *ctx, const fga_gpu_refresh *s, const char *why)
{
    return fga_context_fail(ctx, FGA_ERR_UNSUPPORTED,
                            "%s has no scoring kernel for head_dim %d, block_m %d, tile_n %d, sub_q %d, sub_k %d, "
                            "group %d: %s",
                            ctx->gpu.name, s->head_dim, s->block_m, s->tile_n, s->sub_q, s->sub_k, s->group, why);
}

static fga_status lay_grid(fga_context *ctx, fga_gpu_refresh_plan *p)
{
    const fga_gpu_refresh *s = &p->shape;
    int32_t subs = parts(s->block_m, s->sub_q);
    p->dim = s->head_dim <= 64 ? 64 : 128;
    p->block_eights = subs <= 8 ? 1 : subs <= 16 ? 2 : 4;
    p->blocks = parts(s->query_len, s->block_m);
    p->tiles = parts(s->key_len, s->tile_n);
    if (s->head_dim > 128) {
        return unsupported(ctx, s, "wanted at most 128 channels");
    }
    if (subs > 32) {
        return unsupported(ctx, s, "wanted at most 32 query sub-tiles in a block");
    }
    if (s->score == FGA_GPU_DEVIATION && s->group > 64) {
        return unsupported(ctx, s, "wanted groups of 8, 16, 32 or 64 keys");
    }
    p->tile_blocks = FGA_RANK_TILE / (8 * p->block_eights);
    p->entries = s->score != FGA_GPU_DEVIATION ? parts(s->tile_n, s->sub_k) : s->tile_n;
    int64_t rows = (int64_t)p->blocks * 8 * p->block_eights, keys = (int64_t)p->tiles * p->entries;
    int64_t tiles = (rows + FGA_RANK_TILE - 1) / FGA_RANK_TILE * s->batch * s->query_heads;
    if (rows > INT32_MAX / 2 || keys > INT32_MAX / 2 || tiles * p->tile_blocks > INT32_MAX) {
        return unsupported(ctx, s, "more tokens than one run takes");
    }
    p->rows = up(rows, FGA_RANK_TILE);
    p->key_count = s->score != FGA_GPU_DEVIATION ? (int32_t)keys : s->key_len;
    p->key_rows = up(keys, KEY_ROWS);
    p->head_tiles = p->rows / FGA_RANK_TILE;
    return FGA_OK;
}

bool fga_gpu_carve(size_t *used, int64_t count, size_t bytes, size_t *at)
{
    size_t size = 0;
    *at = *used;
    return !__builtin_mul_overflow((size_t)count, bytes, &size) && size <= SIZE_MAX / 4 &&
           !__builtin_add_overflow(*used, (size + 255) / 256 * 256, used);
}

static fga_status lay_workspace(fga_context *ctx, fga_gpu_refresh_plan *p)
{
    const fga_gpu_refresh *s = &p->shape;
    int64_t heads = (int64_t)s->batch * s->query_heads, kv_heads = (int64_t)s->batch * s->kv_heads;
    int64_t tiles = heads * p->head_tiles;
    size_t row_bytes = 2 * (size_t)p->dim, tile_bytes = (size_t)p->tile_blocks * (size_t)p->key_rows * sizeof(float);
    int64_t fit = tile_bytes > 0 ? (int64_t)(slab_bytes / tile_bytes) : 1;
    p->slab_tiles = (int32_t)(fit < 1 ? 1 : fit < tiles && s->rule != FGA_GPU_BUDGET ? fit : tiles);
    bool fits = fga_gpu_carve(&p->workspace_bytes, heads * p->rows, row_bytes, &p->q_at) &&
                fga_gpu_carve(&p->workspace_bytes, heads * p->rows, 2 * sizeof(float), &p->q_meta_at) &&
                fga_gpu_carve(&p->workspace_bytes, heads * p->rows, sizeof(float), &p->lse_at) &&
                fga_gpu_carve(&p->workspace_bytes, s->score != FGA_GPU_DEVIATION ? kv_heads * p->key_rows : 0,
                              row_bytes, &p->k_at) &&
                fga_gpu_carve(&p->workspace_bytes, kv_heads * p->key_rows, 2 * sizeof(float), &p->k_meta_at) &&
                fga_gpu_carve(&p->workspace_bytes, s->rule == FGA_GPU_ADAPTIVE ? 2 * kv_heads * p->dim : 0,
                              sizeof(double), &p->moments_at) &&
                fga_gpu_carve(&p->workspace_bytes, p->slab_tiles, tile_bytes, &p->score_at) &&
                (s->rule != FGA_GPU_BUDGET || fga_gpu_budget_lay(p));
    return fits ? FGA_OK : unsupported(ctx, s, "more tokens than one run takes");
}

fga_grid fga_gpu_select_grid(const fga_context *ctx, int64_t rows, int32_t tiles, bool *cached)
{
    int64_t shared = FGA_SELECT_SHARED + 2 * (int64_t)up(tiles, 64);
    *cached = shared <= ctx->gpu.shared_bytes;
    return (fga_grid){rows, tiles <= 2048 ? 256 : 1024, *cached ? (int)shared : FGA_SELECT_SHARED};
}

/* sm_90's own: not where a variant is forced that is not its, nor for what its accumulators do not hold, nor for
 * logits, which are of so few means that they take no time. */
static bool is_wide(const fga_context *ctx, const fga_gpu_refresh_plan *p)
{
    const char *forced = ctx->options.variant;
    return ctx->gpu.major == 9 && ctx->gpu.minor == 0 && (forced == NULL || strcmp(forced, "sm90") == 0) &&
           p->block_eights <= 2 && p->shape.scale > 0 && p->shape.rule != FGA_GPU_ADAPTIVE;
}

static fga_status find_rank(fga_context *ctx, fga_gpu_refresh_plan *p)
{
    const fga_gpu_refresh *s = &p->shape;
    char name[48];
    const char *type = fga_dtype_name(s->dtype);
    bool wide = is_wide(ctx, p), means = s->score != FGA_GPU_DEVIATION;
    const char *prefix = wide ? "fga_sm90" : "fga";
    int module = wide ? WIDE_MODULE : OPS_MODULE;
    p->rank_threads = wide ? FGA_WIDE_THREADS : FGA_RANK_THREADS;
    p->rank_stages = FGA_RANK_SHARED(p->dim, 2) <= ctx->gpu.shared_bytes ? 2 : 1; /* 8.6, 8.9 and 12.x have less */
    p->rank_shared = wide ? FGA_WIDE_SHARED(p->dim) : FGA_RANK_SHARED(p->dim, p->rank_stages);
    snprintf(name, sizeof name, "%s_row_sums_%s_d%d", prefix, means ? "means" : type, p->dim);
    FGA_TRY(find_in(ctx, module, name, p->rank_shared, &p->stats));
    if (means) {
        snprintf(name, sizeof name, "%s_%s_d%d", prefix, s->rule == FGA_GPU_ADAPTIVE ? "logits" : "mass", p->dim);
    } else {
        snprintf(name, sizeof name, "%s_deviation_%s_d%d_g%d", prefix, type, p->dim, s->group);
    }
    return find_in(ctx, module, name, p->rank_shared, &p->rank);
}

static fga_status find_kernels(fga_context *ctx, fga_gpu_refresh_plan *p)
{
    fga_dtype dtype = p->shape.dtype;
    if (p->shape.score != FGA_GPU_DEVIATION) {
        FGA_TRY(find_for(ctx, "fga_pool_scaled", dtype, &p->pool_q));
        p->pool_k = p->pool_q;
    } else {
        FGA_TRY(find_for(ctx, "fga_pool", dtype, &p->pool_q));
        FGA_TRY(find_for(ctx, "fga_apart", dtype, &p->apart));
    }
    FGA_TRY(find_rank(ctx, p));
    FGA_TRY(find_in(ctx, OPS_MODULE, "fga_write_scores", 0, &p->write));
    FGA_TRY(find_in(ctx, OPS_MODULE, "fga_key_moments", 0, &p->moments));
    FGA_TRY(find_in(ctx, OPS_MODULE, "fga_block_bases", 0, &p->bases));
    bool over = p->shape.rule == FGA_GPU_OVER || p->shape.rule == FGA_GPU_ADAPTIVE;
    return fga_gpu_find(ctx, over ? FGA_TILES_OVER : FGA_BEST_TILES, &p->select);
}

fga_status fga_gpu_refresh_prepare(fga_context *ctx, const fga_gpu_refresh *shape, fga_gpu_refresh_plan *p)
{
    *p = (fga_gpu_refresh_plan){.shape = *shape};
    FGA_TRY(need_halves(ctx, shape->dtype));
    FGA_TRY(lay_grid(ctx, p));
    FGA_TRY(lay_workspace(ctx, p));
    const fga_driver *driver = fga_driver_load();
    CUresult entered = driver->cuCtxPushCurrent(ctx->gpu.cuda_context);
    if (entered != CUDA_SUCCESS) {
        return fga_gpu_fail(ctx, "cannot enter the CUDA context", (int)entered);
    }
    CUcontext left;
    fga_status status = find_kernels(ctx, p);
    driver->cuCtxPopCurrent(&left);
    return status;
}

/* ---- run -----------------------------------------------------------------------------------------------------------
 */

static fga_status pool(fga_context *ctx, const fga_gpu_refresh_plan *p, const fga_gpu_refresh_call *c, bool of_keys)
{
    const fga_gpu_refresh *s = &p->shape;
    char *memory = c->workspace;
    fga_gpu_pool a = {
        .x = of_keys ? c->k : c->q,
        .valid = of_keys ? s->key_valid : s->query_valid,
        .mean = memory + (of_keys ? p->k_at : p->q_at),
        .meta = (float *)(memory + (of_keys ? p->k_meta_at : p->q_meta_at)),
        .batch = s->batch,
        .heads = of_keys ? s->kv_heads : s->query_heads,
        .tokens = of_keys ? s->key_len : s->query_len,
        .head_dim = s->head_dim,
        .dim = p->dim,
        .rows = of_keys ? p->key_rows : p->rows,
        .tile_tokens = of_keys ? s->tile_n : s->block_m,
        .sub_tokens = of_keys ? s->sub_k : s->sub_q,
        .subs = of_keys ? p->entries : 8 * p->block_eights,
        .of_keys = of_keys,
        .scaled = s->score != FGA_GPU_DEVIATION,
    };
    return fga_gpu_launch(ctx, of_keys ? p->pool_k : p->pool_q, row_grid((int64_t)a.batch * a.heads * a.rows, p->dim),
                          c->stream, &a);
}

static fga_status part_values(fga_context *ctx, const fga_gpu_refresh_plan *p, const fga_gpu_refresh_call *c)
{
    const fga_gpu_refresh *s = &p->shape;
    fga_gpu_apart a = {
        .v = c->v,
        .keys = s->key_valid,
        .meta = (float *)((char *)c->workspace + p->k_meta_at),
        .batch = s->batch,
        .kv_heads = s->kv_heads,
        .key_len = s->key_len,
        .head_dim = s->head_dim,
        .rows = p->key_rows,
        .group = s->group,
        .groups = parts(s->key_len, s->group),
    };
    return fga_gpu_launch(ctx, p->apart, row_grid((int64_t)a.batch * a.kv_heads * a.groups, a.head_dim), c->stream, &a);
}

static fga_status find_moments(fga_context *ctx, const fga_gpu_refresh_plan *p, const fga_gpu_refresh_call *c)
{
    char *memory = c->workspace;
    fga_gpu_moments a = {
        .mean = memory + p->k_at,
        .meta = (const float *)(memory + p->k_meta_at),
        .moments = (double *)(memory + p->moments_at),
        .tiles = p->key_count,
        .rows = p->key_rows,
        .dim = p->dim,
    };
    const fga_grid g = {(int64_t)p->shape.batch * p->shape.kv_heads, p->dim / 2, 0};
    return fga_gpu_launch(ctx, p->moments, g, c->stream, &a);
}

static fga_gpu_rank rank_of(const fga_gpu_refresh_plan *p, const fga_gpu_refresh_call *c)
{
    const fga_gpu_refresh *s = &p->shape;
    char *memory = c->workspace;
    fga_gpu_rank a = {
        .q = memory + p->q_at,
        .q_meta = (const float *)(memory + p->q_meta_at),
        .lse = (float *)(memory + p->lse_at),
        .k = c->k,
        .k_meta = (const float *)(memory + p->k_meta_at),
        .keys = s->key_valid,
        .score = (float *)(memory + p->score_at),
        .score_stride = p->key_rows,
        .batch = s->batch,
        .query_heads = s->query_heads,
        .kv_heads = s->kv_heads,
        .head_dim = s->head_dim,
        .rows = p->rows,
        .key_rows = p->key_rows,
        .key_count = p->key_count,
        .splits = 1,
        .split_keys = p->key_rows,
        .block_eights = p->block_eights,
        .stages = p->rank_stages,
        .scale_log2 = s->scale * 1.44269504088896341f,
    };
    if (s->score != FGA_GPU_DEVIATION) {
        int64_t head = (int64_t)p->key_rows * p->dim;
        a.k = (fga_gpu_rows){memory + p->k_at, s->kv_heads * head, head, p->dim};
        a.keys = (fga_gpu_spans){1, {0}, {p->key_count}};
        a.head_dim = p->dim;
    }
    return a;
}

/* Sums of rows, and what log-sum-exps of blocks start from. */
static fga_status sum_rows(fga_context *ctx, const fga_gpu_refresh_plan *p, const fga_gpu_rank *rank, void *stream)
{
    const fga_gpu_refresh *s = &p->shape;
    int64_t tiles = (int64_t)s->batch * s->query_heads * p->head_tiles;
    fga_gpu_rank a = *rank;
    FGA_TRY(fga_gpu_launch(ctx, p->stats, (fga_grid){tiles, p->rank_threads, p->rank_shared}, stream, &a));
    if (s->score != FGA_GPU_LSE) {
        return FGA_OK;
    }
    fga_gpu_bases bases = {a.lse, a.q_meta, tiles * p->tile_blocks, 8 * p->block_eights};
    const fga_grid g = {(bases.blocks + ROW_THREADS - 1) / ROW_THREADS, ROW_THREADS, 0};
    return fga_gpu_launch(ctx, p->bases, g, stream, &bases);
}

/* A slab is few row tiles of many keys, so that keys are shared out too. */
static void split_keys(const fga_context *ctx, int32_t tiles, fga_gpu_rank *a)
{
    int32_t key_tiles = a->key_rows / KEY_ROWS, wanted = parts(4 * (int64_t)ctx->gpu.processors, tiles);
    int32_t splits = wanted < 1 ? 1 : wanted < key_tiles ? wanted : key_tiles;
    a->split_keys = parts(key_tiles, splits) * KEY_ROWS;
    a->splits = parts(a->key_rows, a->split_keys);
}

int32_t fga_gpu_equal_heads(const fga_gpu_refresh_call *c, int32_t head, int32_t end, fga_gpu_select *select)
{
    int32_t next = head + 1;
    while (next < end && c->keep[next] == c->keep[head] && c->neighbours[next] == c->neighbours[head] &&
           c->everything[next] == c->everything[head] && (c->number == NULL || c->number[next] == c->number[head])) {
        next++;
    }
    select->head_first = head;
    select->head_end = next;
    select->keep = c->keep[head];
    select->neighbours = c->neighbours[head];
    select->everything = c->everything[head];
    return next;
}

static fga_gpu_over over_of(const fga_gpu_refresh_plan *p, const fga_gpu_refresh_call *c)
{
    const fga_gpu_refresh *s = &p->shape;
    const char *memory = c->workspace;
    fga_gpu_over a = {.query_heads = s->query_heads, .kv_heads = s->kv_heads, .rows = p->rows, .dim = p->dim};
    if (s->rule == FGA_GPU_ADAPTIVE) {
        a.moments = (const double *)(memory + p->moments_at);
        a.q = memory + p->q_at;
        a.q_meta = (const float *)(memory + p->q_meta_at);
        a.unit = (double)s->scale * 1.44269504088896341;
        a.block_subs = 8 * p->block_eights;
        a.full_covariance = s->full_covariance;
    }
    return a;
}

/* Selects for every head of the slab, heads of equal settings together. */
static fga_status select_slab(fga_context *ctx, const fga_gpu_refresh_plan *p, const fga_gpu_refresh_call *c,
                              fga_gpu_select *a, int32_t tiles)
{
    bool cached = false;
    fga_grid g = fga_gpu_select_grid(ctx, (int64_t)tiles * p->tile_blocks, p->tiles, &cached);
    int32_t first = a->tile_first / p->head_tiles, last = (a->tile_first + tiles - 1) / p->head_tiles;
    fga_gpu_over over = over_of(p, c);
    bool best = p->shape.rule == FGA_GPU_BEST;
    a->cached = cached && best; /* what lies above a number takes one reading */
    g.shared = best ? g.shared : FGA_SELECT_SHARED;
    for (int32_t h = first, next; h <= last; h = next) {
        next = fga_gpu_equal_heads(c, h, last + 1, a);
        over.select = *a;
        over.number = best ? 0 : c->number[h];
        FGA_TRY(fga_gpu_launch(ctx, p->select, g, c->stream, best ? (void *)a : &over));
    }
    return FGA_OK;
}

static fga_status run_slabs(fga_context *ctx, const fga_gpu_refresh_plan *p, const fga_gpu_refresh_call *c)
{
    const fga_gpu_refresh *s = &p->shape;
    int64_t all = (int64_t)s->batch * s->query_heads * p->head_tiles;
    fga_gpu_rank a = rank_of(p, c);
    fga_gpu_select select = c->select;
    select.score = a.score;
    select.score_stride = a.score_stride;
    select.entries = p->entries;
    select.tile_blocks = p->tile_blocks;
    select.head_tiles = p->head_tiles;
    if (s->score == FGA_GPU_LSE) {
        select.base = a.lse;
        select.base_rows = p->rows;
        select.base_subs = 8 * p->block_eights;
    }
    if ((c->parts & FGA_GPU_ROW_SUMS) != 0 && s->rule != FGA_GPU_ADAPTIVE) {
        FGA_TRY(sum_rows(ctx, p, &a, c->stream));
    }
    for (int64_t first = 0; first < all; first += p->slab_tiles) {
        int32_t tiles = (int32_t)(all - first < p->slab_tiles ? all - first : p->slab_tiles);
        a.tile_first = select.tile_first = (int32_t)first;
        split_keys(ctx, tiles, &a);
        if ((c->parts & FGA_GPU_SCORES) != 0) {
            const fga_grid g = {(int64_t)tiles * a.splits, p->rank_threads, p->rank_shared};
            FGA_TRY(fga_gpu_launch(ctx, p->rank, g, c->stream, &a));
        }
        if (select.tile_score != NULL) {
            FGA_TRY(
                fga_gpu_launch(ctx, p->write, (fga_grid){(int64_t)tiles * p->tile_blocks, 256, 0}, c->stream, &select));
        } else if ((c->parts & FGA_GPU_SELECT) != 0) {
            FGA_TRY(s->rule == FGA_GPU_BUDGET ? fga_gpu_budget_launch(ctx, p, c, &select)
                                              : select_slab(ctx, p, c, &select, tiles));
        }
    }
    return FGA_OK;
}

fga_status fga_gpu_refresh_launch(fga_context *ctx, const fga_gpu_refresh_plan *p, fga_gpu_refresh_call *c)
{
    if (p->blocks == 0 || p->tiles == 0) {
        return FGA_OK;
    }
    if ((c->parts & FGA_GPU_POOL) != 0) {
        FGA_TRY(pool(ctx, p, c, false));
        FGA_TRY(p->shape.score != FGA_GPU_DEVIATION ? pool(ctx, p, c, true) : part_values(ctx, p, c));
        FGA_TRY(p->shape.rule == FGA_GPU_ADAPTIVE ? find_moments(ctx, p, c) : FGA_OK);
    }
    return run_slabs(ctx, p, c);
}

fga_status fga_gpu_select_rows(fga_context *ctx, const fga_gpu_select *select, int64_t rows, void *stream)
{
    void *kernel = NULL;
    bool cached = false;
    fga_grid g = fga_gpu_select_grid(ctx, rows, select->tiles, &cached);
    FGA_TRY(fga_gpu_find(ctx, FGA_BEST_TILES, &kernel));
    fga_gpu_select a = *select;
    a.cached = cached;
    return fga_gpu_launch(ctx, kernel, g, stream, &a);
}

static fga_status clear(fga_context *ctx, uint64_t *counters, void *stream)
{
    CUresult result =
        fga_driver_load()->cuMemsetD8Async((CUdeviceptr)(uintptr_t)counters, 0, 2 * sizeof *counters, stream);
    return result == CUDA_SUCCESS ? FGA_OK : fga_gpu_fail(ctx, "cannot clear a counter", (int)result);
}

fga_status fga_gpu_order_blocks(fga_context *ctx, const fga_gpu_order *order, void *stream)
{
    void *kernel = NULL;
    FGA_TRY(clear(ctx, order->pairs, stream));
    fga_gpu_order a = *order;
    if (a.at_once > 1 && a.rows > 0) {
        int64_t parts = (int64_t)(a.rows / a.blocks) * ((a.blocks + FGA_ALIKE_BLOCKS - 1) / FGA_ALIKE_BLOCKS);
        FGA_TRY(fga_gpu_find(ctx, FGA_PUT_ALIKE, &kernel));
        FGA_TRY(fga_gpu_launch(ctx, kernel, (fga_grid){parts, FGA_ALIKE_BLOCKS, FGA_ALIKE_SHARED}, stream, &a));
    }
    FGA_TRY(fga_gpu_find(ctx, FGA_ORDER_BLOCKS, &kernel));
    return fga_gpu_launch(ctx, kernel, (fga_grid){(a.rows + ROW_THREADS - 1) / ROW_THREADS, ROW_THREADS, 0}, stream,
                          &a);
}

fga_status fga_gpu_count_rests(fga_context *ctx, const fga_gpu_rests *rests, void *stream)
{
    void *kernel = NULL;
    FGA_TRY(fga_gpu_find(ctx, FGA_COUNT_RESTS, &kernel));
    fga_gpu_rests a = *rests;
    return fga_gpu_launch(
        ctx, kernel, (fga_grid){((int64_t)a.rows * 32 + ROW_THREADS - 1) / ROW_THREADS, ROW_THREADS, 0}, stream, &a);
}

fga_status fga_gpu_add_pairs(fga_context *ctx, const fga_gpu_tally *tally, void *stream)
{
    void *kernel = NULL;
    FGA_TRY(fga_gpu_find(ctx, FGA_ADD_BOTH, &kernel));
    fga_gpu_tally a = *tally;
    return fga_gpu_launch(ctx, kernel, (fga_grid){1, 32, 0}, stream, &a);
}

/* ---- memory --------------------------------------------------------------------------------------------------------
 */

fga_status fga_gpu_mask_alloc(fga_context *ctx, int64_t rows, int64_t words, fga_gpu_mask *mask, uint64_t **pairs)
{
    size_t keys_at = 0, order_at = 0, pairs_at = 0, bits_at = 0, bytes = 0;
    if (!fga_gpu_carve(&bytes, rows * words, sizeof(uint64_t), &bits_at) ||
        !fga_gpu_carve(&bytes, rows, sizeof(int32_t), &keys_at) ||
        !fga_gpu_carve(&bytes, 2 * rows, sizeof(int32_t), &order_at) ||
        !fga_gpu_carve(&bytes, 2, sizeof(uint64_t), &pairs_at)) {
        return fga_context_fail(ctx, FGA_ERR_ARGUMENT, "a mask of %" PRId64 " rows is too large", rows);
    }
    const fga_driver *driver = fga_driver_load();
    CUdeviceptr memory = 0;
    CUresult result = driver->cuMemAlloc(&memory, bytes);
    if (result != CUDA_SUCCESS) {
        return fga_context_fail(ctx, FGA_ERR_MEMORY, "%s: no memory for a mask of %zu bytes: %s", ctx->gpu.name, bytes,
                                fga_driver_error(result));
    }
    char *base = (char *)(uintptr_t)memory; /* an address of the device's: never followed here */
    *mask = (fga_gpu_mask){
        .memory = memory,
        .cuda_context = ctx->gpu.cuda_context,
        .bits = (const uint64_t *)(base + bits_at),
        .row_keys = (const int32_t *)(base + keys_at),
        .row_order = (const int32_t *)(base + order_at),
    };
    *pairs = (uint64_t *)(base + pairs_at);
    return FGA_OK;
}

fga_status fga_gpu_counters(fga_context *ctx, fga_gpu_mask *memory, uint64_t **counters)
{
    FGA_TRY(fga_gpu_mask_alloc(ctx, 0, 0, memory, counters));
    fga_status status = clear(ctx, *counters, NULL);
    if (status == FGA_OK) {
        status = fga_gpu_read(ctx, NULL, NULL, 0, NULL); /* other streams do not wait for this one */
    }
    if (status != FGA_OK) {
        fga_gpu_mask_free(memory);
    }
    return status;
}

fga_status fga_gpu_read(fga_context *ctx, void *host, const void *device, size_t bytes, void *stream)
{
    const fga_driver *driver = fga_driver_load();
    CUresult result = CUDA_SUCCESS;
    if (bytes > 0) { /* on the stream itself: others go on */
        result = driver->cuMemcpyDtoHAsync(host, (CUdeviceptr)(uintptr_t)device, bytes, stream);
    }
    result = result == CUDA_SUCCESS ? driver->cuStreamSynchronize(stream) : result;
    return result == CUDA_SUCCESS ? FGA_OK : fga_gpu_fail(ctx, "cannot read from the device", (int)result);
}
