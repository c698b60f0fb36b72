/* linear_product.h - single-threaded matrix products by oneDNN, with everything a thread needs for them kept per
 * thread: engine, primitives by shape, scratch. No locks; freed when the thread ends. */
#ifndef FGV_LINEAR_PRODUCT_H
#define FGV_LINEAR_PRODUCT_H

#include "fgattn.h"

typedef struct fgv_product_thread fgv_product_thread;

/* y[rows][cols] = x[rows][inner] w[cols][inner]^T (+ bias[cols]), accumulated in f32; w and x are bf16 or f32, y and
 * bias f32. All dense: for rows further apart oneDNN 2.6 falls back to its reference, a hundred times slower. */
typedef struct fgv_product_shape {
    int64_t rows, cols, inner;
    bool bf16, bias;
} fgv_product_shape;

/* FGV_SLOT_PACKED: a whole layer's packed weights, kept by the thread that calls fgv_linear_run and read by all. The
 * rest is each thread's own. */
enum fgv_product_slot { FGV_SLOT_X, FGV_SLOT_W, FGV_SLOT_PACKED, FGV_SLOT_Y, FGV_SLOT_DNNL, FGV_SLOTS };

/* This thread's state, made on first use; NULL when there is no memory. */
fgv_product_thread *fgv_product_thread_get(void);
/* A 64-byte aligned buffer of at least `bytes`, kept for the next call; its contents are lost when it grows. */
void *fgv_product_scratch(fgv_product_thread *thread, enum fgv_product_slot slot, size_t bytes);

/* The layout that products want of w depends on the row count most of them will have, and on cols, inner and bf16; the
 * functions below take the first as `typical_rows` and find the rest in shape. They return FGA_ERR_MEMORY or
 * FGA_ERR_INTERNAL without a text. */
fga_status fgv_product_packed_bytes(fgv_product_thread *thread, const fgv_product_shape *shape, int64_t typical_rows,
                                    size_t *bytes);
/* w is [cols][inner], dense; packed is 64-byte aligned. */
fga_status fgv_product_pack(fgv_product_thread *thread, const fgv_product_shape *shape, int64_t typical_rows,
                            const void *w, void *packed);

typedef struct fgv_product_operands {
    const void *x, *packed;
    const float *bias; /* read if shape.bias */
    float *y;
} fgv_product_operands;

fga_status fgv_product_run(fgv_product_thread *thread, const fgv_product_shape *shape, int64_t typical_rows,
                           const fgv_product_operands *operands);

/* Whether this machine multiplies bf16 natively; where it does not, inputs rounded to bf16 go through f32 products,
 * which gives the same thing faster than emulation. */
bool fgv_product_native_bf16(void);

/* oneDNN sizes its work by OpenMP's thread count of the calling thread: one, between these two calls. */
int fgv_product_enter(void);
void fgv_product_leave(int saved);

#endif
