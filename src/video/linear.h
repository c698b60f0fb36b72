/* linear.h - y = act(x W^T + b) through oneDNN, single-threaded on fixed tiles handed out by our pool, so that results
 * do not depend on the number of threads. Weights stay as stored; conversions happen tile by tile. */
#ifndef FGV_LINEAR_H
#define FGV_LINEAR_H

#include "video/weights.h"

typedef struct fgv_linear {
    fgv_tensor weight; /* [out][in] */
    float *bias;       /* [out] f32, owned; NULL = none */
    int64_t in, out;
} fgv_linear;

typedef enum fgv_activation { FGV_IDENTITY = 0, FGV_SILU = 1, FGV_GELU_TANH = 2 } fgv_activation;

/* name.weight and, if has_bias, name.bias; the name is printf-formatted. */
fga_status fgv_linear_load(fgv_weights *weights, fgv_linear *linear, int64_t out, int64_t in, bool has_bias,
                           const char *name_format, ...) __attribute__((format(printf, 6, 7)));
void fgv_linear_free(fgv_linear *linear);

typedef struct fgv_linear_args {
    const void *x;                    /* [rows][in] of x_dtype, stride x_stride */
    void *y;                          /* [rows][out] of y_dtype, stride y_stride; must not overlap x */
    int64_t rows, x_stride, y_stride; /* strides in elements; 0 = dense */
    fga_dtype x_dtype; /* FGA_F32, or FGA_BF16 where the product's inputs are: then dense rows are read in place */
    fga_dtype y_dtype;
    fgv_activation activation;
    fga_dtype compute; /* FGA_F32 or FGA_BF16: of the product's inputs; accumulation is f32 */
} fgv_linear_args;

/* Bytes of scratch, over all threads, that running such a layer takes and keeps for later runs: one layer's packed
 * weights and a few tiles per thread. Layers share it, so a model needs the largest of its layers', not their sum. */
uint64_t fgv_linear_scratch(const fga_context *ctx, int64_t out, int64_t in, int64_t rows, fga_dtype compute);

/* Up to 16 rows run as dot products over the stored weights; more rows as tiles of packed products, which are fastest
 * for f32 output whose rows are dense, or bf16 output. Rows of x further apart than `in` are copied tile by tile. */
fga_status fgv_linear_run(fga_context *ctx, const fgv_linear *linear, const fgv_linear_args *args);

#endif
