#include "video/linear.h"

#include "base/error.h"
#include "base/half.h"
#include "video/linear_kernels.h"
#include "video/linear_product.h"

#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>

/* Up to this many rows, packing the weights would cost more than the product: plain dot products read them once. */
#define FEW_ROWS 16
#define FEW_ROWS_COLS 64 /* outputs per work item there */
#define TILE_ROWS 128
/* Per thread, items to hand out: more balance better, fewer pack weights less often. */
#define ITEMS_PER_THREAD 8

fga_status fgv_linear_load(fgv_weights *weights, fgv_linear *linear, int64_t out, int64_t in, bool has_bias,
                           const char *format, ...)
{
    *linear = (fgv_linear){.in = in, .out = out};
    char name[512];
    va_list args;
    va_start(args, format);
    int length = vsnprintf(name, sizeof name, format, args);
    va_end(args);
    fga_context *ctx = fgv_weights_context(weights);
    if (in < 1 || out < 1 || length < 0 || length >= (int)sizeof name) {
        return fga_context_fail(ctx, FGA_ERR_ARGUMENT, "linear layer %.100s: cannot be %lld x %lld", name,
                                (long long)out, (long long)in);
    }
    FGA_TRY(fgv_weights_get(weights, &linear->weight, FGV_SHAPE(out, in), "%s.weight", name));
    if (has_bias) {
        fgv_tensor bias;
        FGA_TRY(fgv_weights_get(weights, &bias, FGV_SHAPE(out), "%s.bias", name));
        FGA_TRY(fgv_tensor_to_f32(ctx, &bias, &linear->bias));
    }
    return FGA_OK;
}

void fgv_linear_free(fgv_linear *linear)
{
    free(linear->bias);
    *linear = (fgv_linear){0};
}

typedef struct job {
    const fgv_linear *linear;
    fgv_linear_args args; /* strides resolved */
    const fgv_linear_kernels *kernels;
    bool round;       /* inputs are rounded to bf16, products run in f32 */
    bool native_bf16; /* inputs are converted to bf16, products take them */
    int64_t tile_cols, row_tiles, tiles, tiles_per_item;
    uint64_t run;       /* tells one run's packed weights from another's */
    _Atomic int failed; /* an fga_status: the first failure */
} job;

static void fail(job *j, fga_status status)
{
    int none = FGA_OK;
    atomic_compare_exchange_strong(&j->failed, &none, (int)status);
}

static const char *weight_row(const job *j, int64_t row)
{
    const fgv_tensor *w = &j->linear->weight;
    return (const char *)w->data + (size_t)(row * j->linear->in) * fga_dtype_size(w->dtype);
}

/* Bias and activation from the product's f32 [rows][cols] to their place in y. The product is scratch. */
static void finish_tile(const job *j, float *product, int64_t row, int64_t rows, int64_t col, int64_t cols)
{
    const float *bias = j->linear->bias != NULL ? j->linear->bias + col : NULL;
    for (int64_t r = 0; r < rows; r++) {
        float *in = product + r * cols;
        int64_t at = (row + r) * j->args.y_stride + col;
        if (j->args.y_dtype == FGA_F32) {
            j->kernels->finish((float *)j->args.y + at, in, bias, j->args.activation, cols);
            continue;
        }
        j->kernels->finish(in, in, bias, j->args.activation, cols);
        uint16_t *out = (uint16_t *)j->args.y + at;
        if (j->args.y_dtype == FGA_BF16) {
            j->kernels->to_bf16(out, in, FGA_F32, cols);
        } else {
            fga_from_f32(out, FGA_F16, in, cols);
        }
    }
}

/* ---- few rows: dot products ----------------------------------------------------------------------------------- */

static void run_few_rows(void *arg, int64_t item, int worker)
{
    (void)worker;
    job *j = arg;
    int64_t in = j->linear->in, rows = j->args.rows, col = item * FEW_ROWS_COLS;
    int64_t cols = j->linear->out - col < FEW_ROWS_COLS ? j->linear->out - col : FEW_ROWS_COLS;
    fgv_product_thread *thread = fgv_product_thread_get();
    float *y = thread != NULL ? fgv_product_scratch(thread, FGV_SLOT_Y, sizeof *y * (size_t)(rows * cols)) : NULL;
    float *w_row = y != NULL ? fgv_product_scratch(thread, FGV_SLOT_W, sizeof *w_row * (size_t)in) : NULL;
    float *x_copy = w_row != NULL && j->round
                        ? fgv_product_scratch(thread, FGV_SLOT_X, sizeof *x_copy * (size_t)(rows * in))
                        : NULL;
    if (w_row == NULL || (j->round && x_copy == NULL)) {
        fail(j, FGA_ERR_MEMORY);
        return;
    }
    const float *x = j->args.x;
    int64_t stride = j->args.x_stride;
    if (j->round) {
        for (int64_t r = 0; r < rows; r++) {
            j->kernels->widen(x_copy + r * in, x + r * stride, FGA_F32, true, in);
        }
        x = x_copy;
        stride = in;
    }
    fga_dtype dtype = j->linear->weight.dtype;
    for (int64_t c = 0; c < cols; c++) {
        const float *w = (const float *)(const void *)weight_row(j, col + c);
        if (dtype != FGA_F32 || j->round) {
            j->kernels->widen(w_row, w, dtype, j->round, in);
            w = w_row;
        }
        for (int64_t r = 0; r < rows; r += FGV_DOT_ROWS) {
            float sums[FGV_DOT_ROWS];
            int n = rows - r < FGV_DOT_ROWS ? (int)(rows - r) : FGV_DOT_ROWS;
            j->kernels->dots(sums, x + r * stride, stride, n, w, in);
            for (int i = 0; i < n; i++) {
                y[(r + i) * cols + c] = sums[i];
            }
        }
    }
    finish_tile(j, y, 0, rows, col, cols);
}

/* ---- many rows: tiles of packed products ---------------------------------------------------------------------- */

/* A packed tile should stay in the second-level cache beside the rows that stream through it. */
static int64_t choose_tile_cols(int64_t in, int64_t out)
{
    int64_t cols = in <= 1024 ? 256 : in <= 2048 ? 128 : 64;
    return cols < out ? cols : out;
}

/* The weights of column tile `tile` into the thread's packed buffer, unless they are there. */
static fga_status pack_tile(const job *j, fgv_product_thread *thread, const fgv_product_shape *typical, int64_t tile)
{
    fgv_product_packed *tag = fgv_product_packed_tag(thread);
    if (tag->run == j->run && tag->tile == tile) {
        return FGA_OK;
    }
    const void *w = weight_row(j, tile * j->tile_cols);
    fga_dtype stored = j->linear->weight.dtype;
    int64_t n = typical->cols * typical->inner;
    fga_dtype wanted = j->native_bf16 ? FGA_BF16 : FGA_F32;
    if (stored != wanted || (j->round && stored == FGA_F32)) {
        void *converted = fgv_product_scratch(thread, FGV_SLOT_W, (size_t)n * fga_dtype_size(wanted));
        if (converted == NULL) {
            return FGA_ERR_MEMORY;
        }
        if (j->native_bf16) {
            j->kernels->to_bf16(converted, w, stored, n);
        } else {
            j->kernels->widen(converted, w, stored, j->round, n);
        }
        w = converted;
    }
    fga_status status = fgv_product_pack(thread, typical, w);
    *tag = (fgv_product_packed){status == FGA_OK ? j->run : 0, tile};
    return status;
}

/* The rows as the product takes them: in place when they are f32 as they are, else converted. */
static const void *load_rows(const job *j, fgv_product_thread *thread, int64_t row, fgv_product_shape *shape)
{
    const float *x = j->args.x + row * j->args.x_stride;
    shape->x_stride = j->args.x_stride;
    if (!j->round && !j->native_bf16) {
        return x;
    }
    int64_t in = shape->inner;
    size_t element = j->native_bf16 ? sizeof(uint16_t) : sizeof(float);
    char *converted = fgv_product_scratch(thread, FGV_SLOT_X, (size_t)(shape->rows * in) * element);
    for (int64_t r = 0; converted != NULL && r < shape->rows; r++) {
        void *out = converted + (size_t)(r * in) * element;
        if (j->native_bf16) {
            j->kernels->to_bf16(out, x + r * j->args.x_stride, FGA_F32, in);
        } else {
            j->kernels->widen(out, x + r * j->args.x_stride, FGA_F32, true, in);
        }
    }
    shape->x_stride = in;
    return converted;
}

static fga_status run_tile(const job *j, fgv_product_thread *thread, int64_t tile)
{
    int64_t col_tile = tile / j->row_tiles, row = tile % j->row_tiles * TILE_ROWS, col = col_tile * j->tile_cols;
    int64_t rows = j->args.rows - row < TILE_ROWS ? j->args.rows - row : TILE_ROWS;
    int64_t cols = j->linear->out - col < j->tile_cols ? j->linear->out - col : j->tile_cols;
    fgv_product_shape shape = {rows, cols, j->linear->in, 0, j->native_bf16};
    fgv_product_shape typical = shape;
    typical.rows = TILE_ROWS;
    FGA_TRY(pack_tile(j, thread, &typical, col_tile));
    const void *x = load_rows(j, thread, row, &shape);
    float *y = fgv_product_scratch(thread, FGV_SLOT_Y, sizeof *y * (size_t)(rows * cols));
    if (x == NULL || y == NULL) {
        return FGA_ERR_MEMORY;
    }
    FGA_TRY(fgv_product_run(thread, &shape, typical.rows, x, y));
    finish_tile(j, y, row, rows, col, cols);
    return FGA_OK;
}

static void run_tiles(void *arg, int64_t item, int worker)
{
    (void)worker;
    job *j = arg;
    int64_t first = item * j->tiles_per_item;
    int64_t last = first + j->tiles_per_item < j->tiles ? first + j->tiles_per_item : j->tiles;
    fgv_product_thread *thread = fgv_product_thread_get();
    if (thread == NULL) {
        fail(j, FGA_ERR_MEMORY);
        return;
    }
    int saved = fgv_product_enter();
    for (int64_t tile = first; tile < last && atomic_load(&j->failed) == FGA_OK; tile++) {
        fga_status status = run_tile(j, thread, tile);
        if (status != FGA_OK) {
            fail(j, status);
        }
    }
    fgv_product_leave(saved);
}

static fga_status check_args(fga_context *ctx, const fgv_linear *linear, const fgv_linear_args *a)
{
    if (a->rows < 0 || (a->rows > 0 && (a->x == NULL || a->y == NULL)) || linear->weight.data == NULL) {
        return fga_context_fail(ctx, FGA_ERR_ARGUMENT, "linear layer: %lld rows with x, y or weights missing",
                                (long long)a->rows);
    }
    if ((a->x_stride != 0 && a->x_stride < linear->in) || (a->y_stride != 0 && a->y_stride < linear->out)) {
        return fga_context_fail(
            ctx, FGA_ERR_ARGUMENT, "linear layer: strides %lld and %lld, wanted at least %lld, %lld",
            (long long)a->x_stride, (long long)a->y_stride, (long long)linear->in, (long long)linear->out);
    }
    if ((a->compute != FGA_F32 && a->compute != FGA_BF16) || (unsigned)a->y_dtype > FGA_BF16 ||
        (unsigned)a->activation > FGV_GELU_TANH) {
        return fga_context_fail(ctx, FGA_ERR_ARGUMENT,
                                "linear layer: computes in f32 or bf16, not in %s, with y in %s and activation %d",
                                fga_dtype_name(a->compute), fga_dtype_name(a->y_dtype), (int)a->activation);
    }
    return FGA_OK;
}

fga_status fgv_linear_run(fga_context *ctx, const fgv_linear *linear, const fgv_linear_args *args)
{
    static _Atomic uint64_t runs = 0;
    FGA_TRY(check_args(ctx, linear, args));
    if (args->rows == 0) {
        return FGA_OK;
    }
    job j = {.linear = linear, .args = *args, .kernels = fgv_linear_kernels_best()};
    j.args.x_stride = args->x_stride != 0 ? args->x_stride : linear->in;
    j.args.y_stride = args->y_stride != 0 ? args->y_stride : linear->out;
    if (args->rows <= FEW_ROWS) {
        j.round = args->compute == FGA_BF16;
        fga_parallel_for(ctx, (linear->out + FEW_ROWS_COLS - 1) / FEW_ROWS_COLS, run_few_rows, &j);
    } else {
        j.native_bf16 = args->compute == FGA_BF16 && fgv_product_native_bf16();
        j.round = args->compute == FGA_BF16 && !j.native_bf16;
        j.run = atomic_fetch_add(&runs, 1) + 1;
        j.tile_cols = choose_tile_cols(linear->in, linear->out);
        j.row_tiles = (args->rows + TILE_ROWS - 1) / TILE_ROWS;
        j.tiles = j.row_tiles * ((linear->out + j.tile_cols - 1) / j.tile_cols);
        /* How tiles are grouped may depend on the threads: it changes who computes a tile, not its bytes. */
        j.tiles_per_item = j.tiles / ((int64_t)fga_context_threads(ctx) * ITEMS_PER_THREAD);
        j.tiles_per_item = j.tiles_per_item > 0 ? j.tiles_per_item : 1;
        fga_parallel_for(ctx, (j.tiles + j.tiles_per_item - 1) / j.tiles_per_item, run_tiles, &j);
    }
    fga_status status = (fga_status)atomic_load(&j.failed);
    if (status != FGA_OK) {
        return fga_context_fail(ctx, status, "linear layer of %lld x %lld: %s", (long long)linear->out,
                                (long long)linear->in,
                                status == FGA_ERR_MEMORY ? "no memory for its tiles" : "oneDNN failed");
    }
    return FGA_OK;
}
