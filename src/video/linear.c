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
/* Tiles are large enough that what a product reads from beyond its own cache costs little beside its arithmetic. Small
 * outputs are cut finer, for the sake of balance. */
#define TILE_COLS 256
#define TILE_ROWS 256
#define TILE_ROWS_SMALL 128
#define SMALL_OUTPUT ((int64_t)1 << 22)
#define ITEMS_PER_THREAD 4

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
    int64_t tile_rows, row_tiles, col_tiles;
    int64_t col_groups; /* a work item is one row tile by one group of column tiles */
    char *packed;       /* [col_tiles] packed weights, packed_stride bytes apart */
    size_t packed_stride;
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

static const void *input_row(const job *j, int64_t row)
{
    return (const char *)j->args.x + (size_t)(row * j->args.x_stride) * fga_dtype_size(j->args.x_dtype);
}

/* Bias and activation of one row, from f32 sums to their place in y. The sums are scratch, or that place. */
static void finish_row(const job *j, float *sums, const float *bias, int64_t row, int64_t col, int64_t cols)
{
    int64_t at = row * j->args.y_stride + col;
    if (j->args.y_dtype == FGA_F32) {
        j->kernels->finish((float *)j->args.y + at, sums, bias, j->args.activation, cols);
        return;
    }
    j->kernels->finish(sums, sums, bias, j->args.activation, cols);
    uint16_t *out = (uint16_t *)j->args.y + at;
    if (j->args.y_dtype == FGA_BF16) {
        j->kernels->to_bf16(out, sums, FGA_F32, cols);
    } else {
        fga_from_f32(out, FGA_F16, sums, cols);
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
    const float *x = j->args.x; /* x is of bf16 only where rounding is asked for */
    int64_t stride = j->args.x_stride;
    if (j->round) {
        for (int64_t r = 0; r < rows; r++) {
            j->kernels->widen(x_copy + r * in, input_row(j, r), j->args.x_dtype, true, in);
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
    for (int64_t r = 0; r < rows; r++) {
        finish_row(j, y + r * cols, j->linear->bias != NULL ? j->linear->bias + col : NULL, r, col, cols);
    }
}

/* ---- many rows: the layer's weights packed tile by tile, then tiles of products ------------------------------------
 */

static fgv_product_shape shape_of(const job *j, int64_t row_tile, int64_t col_tile)
{
    int64_t rows = j->args.rows - row_tile * j->tile_rows, cols = j->linear->out - col_tile * TILE_COLS;
    fgv_product_shape shape = {.inner = j->linear->in, .bf16 = j->native_bf16, .bias = j->linear->bias != NULL};
    shape.rows = rows < j->tile_rows ? rows : j->tile_rows;
    shape.cols = cols < TILE_COLS ? cols : TILE_COLS;
    return shape;
}

static fga_status pack_tile(const job *j, fgv_product_thread *thread, int64_t tile)
{
    fgv_product_shape shape = shape_of(j, 0, tile);
    const void *w = weight_row(j, tile * TILE_COLS);
    fga_dtype stored = j->linear->weight.dtype, wanted = j->native_bf16 ? FGA_BF16 : FGA_F32;
    if (stored != wanted || (j->round && stored == FGA_F32)) {
        int64_t n = shape.cols * shape.inner;
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
    return fgv_product_pack(thread, &shape, j->tile_rows, w, j->packed + (size_t)tile * j->packed_stride);
}

/* The rows as the product takes them: in place when they are dense and of its dtype, else converted into scratch. */
static const void *load_rows(const job *j, fgv_product_thread *thread, int64_t row, int64_t rows)
{
    int64_t in = j->linear->in;
    fga_dtype given = j->args.x_dtype, wanted = j->native_bf16 ? FGA_BF16 : FGA_F32;
    if (given == wanted && !j->round && j->args.x_stride == in) {
        return input_row(j, row);
    }
    size_t element = fga_dtype_size(wanted);
    char *converted = fgv_product_scratch(thread, FGV_SLOT_X, (size_t)(rows * in) * element);
    for (int64_t r = 0; converted != NULL && r < rows; r++) {
        void *out = converted + (size_t)(r * in) * element;
        if (j->native_bf16) {
            j->kernels->to_bf16(out, input_row(j, row + r), given, in);
        } else {
            j->kernels->widen(out, input_row(j, row + r), given, j->round, in);
        }
    }
    return converted;
}

/* One product, its bias included, and the activation. Results go straight to their place where that is dense f32. */
static fga_status run_tile(const job *j, fgv_product_thread *thread, int64_t row_tile, int64_t col_tile, const void *x)
{
    fgv_product_shape shape = shape_of(j, row_tile, col_tile);
    int64_t row = row_tile * j->tile_rows, col = col_tile * TILE_COLS;
    bool direct = j->args.y_dtype == FGA_F32 && j->args.y_stride == shape.cols;
    fgv_product_operands operands = {.x = x, .packed = j->packed + (size_t)col_tile * j->packed_stride};
    operands.bias = shape.bias ? j->linear->bias + col : NULL;
    operands.y = direct ? (float *)j->args.y + row * j->args.y_stride
                        : fgv_product_scratch(thread, FGV_SLOT_Y, sizeof(float) * (size_t)(shape.rows * shape.cols));
    if (operands.y == NULL) {
        return FGA_ERR_MEMORY;
    }
    FGA_TRY(fgv_product_run(thread, &shape, j->tile_rows, &operands));
    for (int64_t r = 0; r < shape.rows && (!direct || j->args.activation != FGV_IDENTITY); r++) {
        finish_row(j, operands.y + r * shape.cols, NULL, row + r, col, shape.cols);
    }
    return FGA_OK;
}

static fga_status run_row_tile(const job *j, fgv_product_thread *thread, int64_t item)
{
    int64_t row_tile = item / j->col_groups, group = item % j->col_groups;
    int64_t first = group * j->col_tiles / j->col_groups, last = (group + 1) * j->col_tiles / j->col_groups;
    fgv_product_shape shape = shape_of(j, row_tile, 0);
    const void *x = load_rows(j, thread, row_tile * j->tile_rows, shape.rows);
    if (x == NULL) {
        return FGA_ERR_MEMORY;
    }
    for (int64_t tile = first; tile < last; tile++) {
        FGA_TRY(run_tile(j, thread, row_tile, tile, x));
    }
    return FGA_OK;
}

static void run_item(job *j, int64_t item, fga_status (*work)(const job *j, fgv_product_thread *thread, int64_t item))
{
    fgv_product_thread *thread = fgv_product_thread_get();
    if (thread == NULL) {
        fail(j, FGA_ERR_MEMORY);
        return;
    }
    int saved = fgv_product_enter();
    fga_status status = atomic_load(&j->failed) == FGA_OK ? work(j, thread, item) : FGA_OK;
    fgv_product_leave(saved);
    if (status != FGA_OK) {
        fail(j, status);
    }
}

static void pack_body(void *arg, int64_t item, int worker)
{
    (void)worker;
    run_item(arg, item, pack_tile);
}

static void product_body(void *arg, int64_t item, int worker)
{
    (void)worker;
    run_item(arg, item, run_row_tile);
}

static int64_t choose_tile_rows(int64_t rows, int64_t out)
{
    return rows < SMALL_OUTPUT / out ? TILE_ROWS_SMALL : TILE_ROWS;
}

uint64_t fgv_linear_scratch(const fga_context *ctx, int64_t out, int64_t in, int64_t rows, fga_dtype compute)
{
    uint64_t threads = (uint64_t)fga_context_threads(ctx), width = (uint64_t)in, used = (uint64_t)rows;
    if (rows <= FEW_ROWS) {
        return threads * sizeof(float) * (used * width + width + used * FEW_ROWS_COLS);
    }
    uint64_t element = compute == FGA_BF16 && fgv_product_native_bf16() ? sizeof(uint16_t) : sizeof(float);
    uint64_t tile_rows = (uint64_t)choose_tile_rows(rows, out),
             padded_out = ((uint64_t)out + TILE_COLS - 1) / TILE_COLS;
    tile_rows = tile_rows < used ? tile_rows : used;
    padded_out *= TILE_COLS;
    uint64_t packed = padded_out * ((width + 63) / 64 * 64) * element;
    uint64_t tiles = (tile_rows + TILE_COLS) * width * element + tile_rows * TILE_COLS * sizeof(float);
    return packed + threads * tiles;
}

static fga_status run_many_rows(fga_context *ctx, job *j)
{
    int64_t items = (int64_t)fga_context_threads(ctx) * ITEMS_PER_THREAD;
    j->tile_rows = choose_tile_rows(j->args.rows, j->linear->out);
    j->row_tiles = (j->args.rows + j->tile_rows - 1) / j->tile_rows;
    j->col_tiles = (j->linear->out + TILE_COLS - 1) / TILE_COLS;
    /* How tiles are grouped may depend on the threads: it changes who computes a tile, not its bytes. */
    j->col_groups = (items + j->row_tiles - 1) / j->row_tiles;
    j->col_groups = j->col_groups < j->col_tiles ? j->col_groups : j->col_tiles;

    fgv_product_thread *thread = fgv_product_thread_get();
    fgv_product_shape shape = shape_of(j, 0, 0);
    size_t bytes = 0;
    if (thread == NULL) {
        return FGA_ERR_MEMORY;
    }
    int saved = fgv_product_enter();
    fga_status status = fgv_product_packed_bytes(thread, &shape, j->tile_rows, &bytes);
    fgv_product_leave(saved);
    FGA_TRY(status);
    j->packed_stride = (bytes + 63) / 64 * 64;
    if (j->packed_stride > SIZE_MAX / (size_t)j->col_tiles) {
        return FGA_ERR_MEMORY;
    }
    j->packed = fgv_product_scratch(thread, FGV_SLOT_PACKED, j->packed_stride * (size_t)j->col_tiles);
    if (j->packed == NULL) {
        return FGA_ERR_MEMORY;
    }
    fga_parallel_for(ctx, j->col_tiles, pack_body, j);
    fga_parallel_for(ctx, j->row_tiles * j->col_groups, product_body, j);
    return FGA_OK;
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
    bool known_x = a->x_dtype == FGA_F32 || (a->x_dtype == FGA_BF16 && a->compute == FGA_BF16);
    if ((a->compute != FGA_F32 && a->compute != FGA_BF16) || !known_x || (unsigned)a->y_dtype > FGA_BF16 ||
        (unsigned)a->activation > FGV_GELU_TANH) {
        return fga_context_fail(
            ctx, FGA_ERR_ARGUMENT,
            "linear layer: computes in f32 or bf16, not in %s, with x in %s, y in %s, activation %d",
            fga_dtype_name(a->compute), fga_dtype_name(a->x_dtype), fga_dtype_name(a->y_dtype), (int)a->activation);
    }
    return FGA_OK;
}

fga_status fgv_linear_run(fga_context *ctx, const fgv_linear *linear, const fgv_linear_args *args)
{
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
        fga_status prepared = run_many_rows(ctx, &j);
        if (prepared != FGA_OK) {
            fail(&j, prepared);
        }
    }
    fga_status status = (fga_status)atomic_load(&j.failed);
    if (status != FGA_OK) {
        return fga_context_fail(ctx, status, "linear layer of %lld x %lld: %s", (long long)linear->out,
                                (long long)linear->in,
                                status == FGA_ERR_MEMORY ? "no memory for its tiles" : "oneDNN failed");
    }
    return FGA_OK;
}
