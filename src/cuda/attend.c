/* attend.c - which kernel computes a shape, and its launch. */
#include "base/context.h"
#include "cuda/device.h"
#include "cuda/shapes.h"
#include "ops/gpu.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

/* ---- families --------------------------------------------------------------------------------------- */

enum family { SM80, SM90, FAMILIES };

static const struct {
    const char *name;
    int major, minor;
    bool later_too; /* newer devices run it as well */
} families[FAMILIES] = {{"sm80", 8, 0, true}, {"sm90", 9, 0, false}};

int fga_gpu_variant_count(void)
{
    return FAMILIES;
}

const char *fga_gpu_variant_name(int index)
{
    return index >= 0 && index < FAMILIES ? families[index].name : NULL;
}

static bool family_runs(int index, const fga_gpu *gpu)
{
    int has = gpu->major * 10 + gpu->minor, wants = families[index].major * 10 + families[index].minor;
    return families[index].later_too ? has >= wants : has == wants;
}

bool fga_gpu_variant_runs_here(int index)
{
    fga_gpu gpu;
    return index >= 0 && index < FAMILIES && fga_gpu_open(&gpu) == FGA_OK && family_runs(index, &gpu);
}

/* ---- choosing --------------------------------------------------------------------------------------- */

/* The smallest of the compiled widths that holds head_dim; 0: none does. */
static int32_t width_for(int64_t head_dim)
{
    static const int32_t widths[] = {64, 96, 128, 256};
    for (size_t i = 0; i < sizeof widths / sizeof widths[0]; i++) {
        if (head_dim <= widths[i]) {
            return widths[i];
        }
    }
    return 0;
}

/* Compiled kernels, each loaded when a plan first needs it: places among the context's modules, of which 2 and 3 are
 * those of ops.c. */
enum image { IMAGE_SM80, IMAGE_SM90, IMAGE_SM90_D96 = 4, IMAGE_SM90_D256 };

typedef struct kernel_name {
    char text[48]; /* empty: there is none */
    enum image image;
} kernel_name;

typedef struct kernel_names {
    kernel_name gather, sums, dense; /* sums and dense: empty when gather does that too */
} kernel_names;

static void use_sm80(const fga_attend_desc *d, int32_t dim, int32_t part_rows, kernel_name *name,
                     fga_gpu_kernel *kernel)
{
    name->image = IMAGE_SM80;
    snprintf(name->text, sizeof name->text, "fga_sm80_%s_d%d", fga_dtype_name(d->dtype), dim);
    kernel->threads = part_rows * 2;
    kernel->shared_bytes = FGA_SM80_SHARED(dim);
    kernel->part_rows = part_rows;
}

static bool choose_sm80(const fga_attend_desc *d, fga_gpu_attend_plan *p, kernel_names *names)
{
    p->dim = width_for(d->head_dim);
    p->rows = d->block_m != 0 ? d->block_m : 128;
    p->rest_slots = FGA_REST_SLOTS(FGA_SM80_KEYS(p->dim));
    use_sm80(d, p->dim, p->rows == 192 ? 96 : p->rows, &names->gather, &p->gather);
    return p->dim != 0;
}

/* A row of shapes.h. */
static const struct {
    const char *name;
    int32_t dim, keys, threads, shared_bytes;
} sm90_shapes[] = {
#define SHAPE(dtype, dim, name, kind, rows, keys, stages, ring, blocks, others, listing, summing, computing) \
    {#name, dim, keys, FGA_SM90_THREADS(rows, others), FGA_SM90_SHARED(kind, dim, rows, keys, stages, ring)},
    FGA_SM90_SHAPES(SHAPE, none)
#undef SHAPE
};

static void use_sm90(const fga_attend_desc *d, int32_t dim, const char *shape, int32_t part_rows, kernel_name *name,
                     fga_gpu_kernel *kernel)
{
    name->image = dim == 96 ? IMAGE_SM90_D96 : dim == 256 ? IMAGE_SM90_D256 : IMAGE_SM90;
    snprintf(name->text, sizeof name->text, "fga_sm90_%s_d%d_%s", fga_dtype_name(d->dtype), dim, shape);
    for (size_t i = 0; i < sizeof sm90_shapes / sizeof sm90_shapes[0]; i++) {
        if (sm90_shapes[i].dim == dim && strcmp(sm90_shapes[i].name, shape) == 0) {
            kernel->keys = sm90_shapes[i].keys;
            kernel->threads = sm90_shapes[i].threads;
            kernel->shared_bytes = sm90_shapes[i].shared_bytes;
        }
    }
    kernel->part_rows = part_rows;
}

/* Blocks of 16 and 32 queries: those of 128 share a list. Their summaries are left to sm_80's kernel. With 256 channels
 * three warpgroups have no room for their outputs, nor have two beside those who sum: blocks are taken in parts. */
static bool choose_sm90(const fga_attend_desc *d, fga_gpu_attend_plan *p, kernel_names *names)
{
    p->dim = width_for(d->head_dim);
    p->rows = d->block_m != 0 ? d->block_m : 128;
    if (p->rows < 64) {
        p->rest_slots = FGA_REST_SLOTS(FGA_SM80_KEYS(p->dim));
        use_sm90(d, p->dim, "grouped", p->rows, &names->gather, &p->gather);
        use_sm80(d, p->dim, p->rows, &names->sums, &p->sums);
        return p->dim != 0;
    }
    bool wide = p->dim > 128;
    int32_t gathered = wide && p->rows == 192 ? 128 : p->rows, summed = wide ? 64 : p->rows;
    char shape[24];
    snprintf(shape, sizeof shape, "m%d", gathered);
    use_sm90(d, p->dim, shape, gathered < p->rows ? p->rows / 2 : p->rows, &names->gather, &p->gather);
    snprintf(shape, sizeof shape, "m%d_sums", summed);
    use_sm90(d, p->dim, shape, summed, &names->sums, &p->sums);
    p->rest_slots = FGA_SM90_REST_SLOTS;
    if (d->block_m == 0) {
        use_sm90(d, p->dim, "dense", p->rows, &names->dense, &p->dense);
    }
    return p->dim != 0;
}

static fga_status unsupported(fga_context *ctx, const fga_attend_desc *d, const char *why)
{
    return fga_context_fail(
        ctx, FGA_ERR_UNSUPPORTED,
        "%s (compute capability %d.%d) has no attention kernel for %s, head_dim %" PRId64 ", block_m %d: %s",
        ctx->gpu.name, ctx->gpu.major, ctx->gpu.minor, fga_dtype_name(d->dtype), d->head_dim, d->block_m, why);
}

/* Names the kernels: of the best family that has one, or the forced one. */
static fga_status choose(fga_context *ctx, const fga_attend_desc *d, fga_gpu_attend_plan *p, kernel_names *names)
{
    const char *forced = ctx->options.variant;
    if (d->dtype == FGA_F32) {
        return unsupported(ctx, d, "wanted bf16 or f16");
    }
    bool known = forced == NULL;
    for (int family = FAMILIES - 1; family >= 0; family--) {
        if (forced != NULL && strcmp(forced, families[family].name) != 0) {
            continue;
        }
        known = true;
        *p = (fga_gpu_attend_plan){.variant = families[family].name};
        if (family_runs(family, &ctx->gpu) && (family == SM90 ? choose_sm90(d, p, names) : choose_sm80(d, p, names))) {
            return FGA_OK;
        }
    }
    return unsupported(ctx, d,
                       !known ? "there is no CUDA variant of that name" : "wanted compute capability 8.0 or later");
}

/* ---- preparing -------------------------------------------------------------------------------------- */

static fga_status find_kernel(fga_context *ctx, const kernel_name *name, void **kernel)
{
    static const unsigned char *const images[] = {[IMAGE_SM80] = fga_cuda_image_sm80,
                                                  [IMAGE_SM90] = fga_cuda_image_sm90,
                                                  [IMAGE_SM90_D96] = fga_cuda_image_sm90_d96,
                                                  [IMAGE_SM90_D256] = fga_cuda_image_sm90_d256};
    const fga_driver *driver = fga_driver_load();
    CUresult result = CUDA_SUCCESS;
    if (ctx->gpu.modules[name->image] == NULL) {
        CUmodule module = NULL;
        result = driver->cuModuleLoadData(&module, images[name->image]);
        if (result != CUDA_SUCCESS) {
            return fga_gpu_fail(ctx, "cannot load the kernels", (int)result);
        }
        ctx->gpu.modules[name->image] = module;
    }
    CUfunction function = NULL;
    result = driver->cuModuleGetFunction(&function, ctx->gpu.modules[name->image], name->text);
    *kernel = function;
    return result == CUDA_SUCCESS ? FGA_OK : fga_gpu_fail(ctx, name->text, (int)result);
}

static size_t rounded(size_t bytes)
{
    return (bytes + 255) / 256 * 256;
}

static fga_status find_attend(fga_context *ctx, const fga_attend_desc *d, int32_t rows, const kernel_name *name,
                              fga_gpu_kernel *k)
{
    const fga_driver *driver = fga_driver_load();
    int64_t blocks = (d->query_len + rows - 1) / rows, items = 0;
    int per_processor = 0;
    if (__builtin_mul_overflow(d->batch * d->query_heads, blocks * (rows / k->part_rows), &items) ||
        items > INT32_MAX / 2) {
        return unsupported(ctx, d, "more queries than one run takes");
    }
    FGA_TRY(find_kernel(ctx, name, &k->function));
    CUresult result =
        driver->cuFuncSetAttribute(k->function, CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, k->shared_bytes);
    if (result == CUDA_SUCCESS) {
        result = driver->cuOccupancyMaxActiveBlocksPerMultiprocessor(&per_processor, k->function, k->threads,
                                                                     (size_t)k->shared_bytes);
    }
    if (result != CUDA_SUCCESS || per_processor == 0) {
        return fga_gpu_fail(ctx, name->text,
                            (int)(result != CUDA_SUCCESS ? result : CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES));
    }
    int64_t most = (int64_t)per_processor * ctx->gpu.processors;
    k->thread_blocks = (int32_t)(items < most ? items : most);
    return FGA_OK;
}

/* Room for remainder summaries of the smallest group, 8 keys: a plan does not know yet whether there will be any. */
static fga_status size_workspace(fga_context *ctx, const fga_attend_desc *d, fga_gpu_attend_plan *p)
{
    if (d->block_m == 0) {
        return FGA_OK;
    }
    size_t row_bytes = 2 * (size_t)p->dim, means = 0;
    if (__builtin_mul_overflow((size_t)(d->batch * d->kv_heads), (size_t)((d->key_len + 7) / 8), &means) ||
        means > SIZE_MAX / 4096) {
        return unsupported(ctx, d, "more keys than one run takes");
    }
    p->mean_rows_bytes = rounded(means * 2 * row_bytes);
    p->mean_bias_bytes = rounded(means * sizeof(float));
    const fga_gpu_kernel *sums = p->sums.function != NULL ? &p->sums : &p->gather;
    p->rest_rows_bytes = rounded((size_t)sums->thread_blocks * (size_t)p->rest_slots * 2 * row_bytes);
    p->workspace_bytes = p->mean_rows_bytes + p->mean_bias_bytes + p->rest_rows_bytes;
    return FGA_OK;
}

fga_status fga_gpu_attend_prepare(fga_context *ctx, const fga_attend_desc *d, fga_gpu_attend_plan *p)
{
    kernel_names names = {0};
    FGA_TRY(choose(ctx, d, p, &names));
    const fga_driver *driver = fga_driver_load();
    CUresult entered = driver->cuCtxPushCurrent(ctx->gpu.cuda_context);
    if (entered != CUDA_SUCCESS) {
        return fga_gpu_fail(ctx, "cannot enter the CUDA context", (int)entered);
    }
    CUcontext left;
    fga_status status;
    FGA_CHECK(find_attend(ctx, d, p->rows, &names.gather, &p->gather));
    if (d->block_m != 0 && names.sums.text[0] != '\0') {
        FGA_CHECK(find_attend(ctx, d, p->rows, &names.sums, &p->sums));
    }
    if (names.dense.text[0] != '\0') {
        FGA_CHECK(find_attend(ctx, d, p->rows, &names.dense, &p->dense));
    }
    kernel_name means = {"fga_group_means_f16", IMAGE_SM80};
    if (d->dtype == FGA_BF16) {
        means = (kernel_name){"fga_group_means_bf16", IMAGE_SM80};
    }
    FGA_CHECK(find_kernel(ctx, &means, &p->means));
    FGA_CHECK(size_workspace(ctx, d, p));
cleanup:
    driver->cuCtxPopCurrent(&left);
    return status;
}

/* ---- launching -------------------------------------------------------------------------------------- */

static fga_status launch(fga_context *ctx, void *kernel, int64_t blocks, int threads, int shared, void *stream,
                         void **arguments)
{
    CUresult result = fga_driver_load()->cuLaunchKernel(kernel, (unsigned)blocks, 1, 1, (unsigned)threads, 1, 1,
                                                        (unsigned)shared, stream, arguments, NULL);
    return result == CUDA_SUCCESS ? FGA_OK : fga_gpu_fail(ctx, "cannot launch attention", (int)result);
}

/* Along an axis of one there is no step, whatever the stride; the copy engine wants a multiple of 16 bytes even so. */
static int64_t step_of(int64_t extent, int64_t stride)
{
    return extent > 1 ? 2 * stride : 16;
}

/* The copy engine knows no steps backwards, none of nothing, and none of 2^40 bytes; who gathers does. */
static bool is_mappable(const fga_gpu_attend *op, const fga_gpu_rows *rows)
{
    const int64_t steps[3] = {step_of(op->key_len, rows->token), step_of(op->kv_heads, rows->head),
                              step_of(op->batch, rows->batch)};
    bool fits = true;
    for (int i = 0; i < 3; i++) {
        fits = fits && steps[i] > 0 && steps[i] < (int64_t)1 << 40;
    }
    return fits;
}

/* A view [batch][head][token][channel] in boxes of a column of channels by a tile's keys, swizzled as they are read. */
static fga_status encode_map(fga_context *ctx, const fga_gpu_attend_plan *p, const fga_gpu_attend *op,
                             const fga_gpu_rows *rows, fga_dtype dtype, CUtensorMap *map)
{
    int32_t column = FGA_SM90_COLUMN(p->dim);
    const cuuint64_t extent[4] = {(cuuint64_t)op->head_dim, (cuuint64_t)op->key_len, (cuuint64_t)op->kv_heads,
                                  (cuuint64_t)op->batch};
    const cuuint64_t stride[3] = {(cuuint64_t)step_of(op->key_len, rows->token),
                                  (cuuint64_t)step_of(op->kv_heads, rows->head),
                                  (cuuint64_t)step_of(op->batch, rows->batch)};
    const cuuint32_t box[4] = {(cuuint32_t)column, (cuuint32_t)p->dense.keys, 1, 1}, step[4] = {1, 1, 1, 1};
    CUresult result = fga_driver_load()->cuTensorMapEncodeTiled(
        map, dtype == FGA_BF16 ? CU_TENSOR_MAP_DATA_TYPE_BFLOAT16 : CU_TENSOR_MAP_DATA_TYPE_FLOAT16, 4, rows->data,
        extent, stride, box, step, CU_TENSOR_MAP_INTERLEAVE_NONE,
        column == 64 ? CU_TENSOR_MAP_SWIZZLE_128B : CU_TENSOR_MAP_SWIZZLE_64B, CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
        CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
    return result == CUDA_SUCCESS ? FGA_OK
                                  : fga_gpu_fail(ctx, "cannot describe K or V to the copy engine", (int)result);
}

fga_status fga_gpu_attend_launch(fga_context *ctx, const fga_gpu_attend_plan *p, fga_gpu_attend *op, fga_dtype dtype,
                                 void *workspace, void *stream)
{
    if (p->gather.thread_blocks == 0) {
        return FGA_OK;
    }
    bool whole = op->mask.memory == 0 && op->bias == NULL && op->key_len > 0 && op->key_spans == 1 &&
                 op->key_begin[0] == 0 && op->key_end[0] == op->key_len && op->query_spans == 1 &&
                 op->query_begin[0] == 0 && op->query_end[0] == op->query_len;
    bool mappable = is_mappable(op, &op->k) && is_mappable(op, &op->v);
    bool dense = whole && mappable && p->dense.function != NULL,
         sums = op->group_shift >= 0 && p->sums.function != NULL;
    const fga_gpu_kernel *kernel = dense ? &p->dense : sums ? &p->sums : &p->gather;
    char *memory = workspace;
    op->mean_rows = memory;
    op->mean_bias = (float *)(memory + p->mean_rows_bytes);
    op->rest_rows = memory + p->mean_rows_bytes + p->mean_bias_bytes;
    op->row_bytes = 2 * p->dim;
    op->part_rows = kernel->part_rows;
    op->parts = p->rows / kernel->part_rows;
    int64_t rows = (int64_t)op->batch * op->kv_heads * op->groups;
    if (op->group_shift >= 0 && rows > 0) {
        int64_t warps = FGA_MEANS_THREADS / 32;
        void *arguments[] = {op};
        FGA_TRY(launch(ctx, p->means, (rows + warps - 1) / warps, FGA_MEANS_THREADS, 0, stream, arguments));
    }
    CUtensorMap maps[2];
    void *arguments[] = {op, &maps[0], &maps[1]};
    if (dense) {
        FGA_TRY(encode_map(ctx, p, op, &op->k, dtype, &maps[0]));
        FGA_TRY(encode_map(ctx, p, op, &op->v, dtype, &maps[1]));
    }
    return launch(ctx, kernel->function, kernel->thread_blocks, kernel->threads, kernel->shared_bytes, stream,
                  arguments);
}
