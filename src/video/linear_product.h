/* linear_product.h - single-threaded matrix products by oneDNN, with everything a thread needs for them kept per
 * thread: engine, primitives by shape, scratch. No locks; freed when the thread ends. */
#ifndef FGV_LINEAR_PRODUCT_H
#define FGV_LINEAR_PRODUCT_H

#include "fgattn.h"

typedef struct fgv_product_thread fgv_product_thread;

/* y[rows][cols] = x[rows][inner] w[cols][inner]^T, accumulated in f32. x has row stride x_stride elements and w and x
 * are bf16 or f32; y is dense f32. */
typedef struct fgv_product_shape {
    int64_t rows, cols, inner, x_stride;
    bool bf16;
} fgv_product_shape;

enum fgv_product_slot { FGV_SLOT_X, FGV_SLOT_W, FGV_SLOT_PACKED, FGV_SLOT_Y, FGV_SLOT_DNNL, FGV_SLOTS };

/* This thread's state, made on first use; NULL when there is no memory. */
fgv_product_thread *fgv_product_thread_get(void);
/* A 64-byte aligned buffer of at least `bytes`, kept for the next call; its contents are lost when it grows. */
void *fgv_product_scratch(fgv_product_thread *thread, enum fgv_product_slot slot, size_t bytes);
/* Which weights FGV_SLOT_PACKED holds: (run, tile). Packing sets nothing; the caller does. */
typedef struct fgv_product_packed {
    uint64_t run;
    int64_t tile;
} fgv_product_packed;
fgv_product_packed *fgv_product_packed_tag(fgv_product_thread *thread);

/* Brings w [cols][inner], dense, into the layout that products of this cols, inner and type want, in FGV_SLOT_PACKED.
 * shape->rows is the row count most products will have. Both functions: FGA_ERR_MEMORY or FGA_ERR_INTERNAL, without a
 * text. */
fga_status fgv_product_pack(fgv_product_thread *thread, const fgv_product_shape *shape, const void *w);
/* The product with the packed weights. typical_rows is the shape->rows that they were packed with. */
fga_status fgv_product_run(fgv_product_thread *thread, const fgv_product_shape *shape, int64_t typical_rows,
                           const void *x, float *y);

/* Whether this machine multiplies bf16 natively; where it does not, inputs rounded to bf16 go through f32 products,
 * which gives the same thing faster than emulation. */
bool fgv_product_native_bf16(void);

/* oneDNN sizes its work by OpenMP's thread count of the calling thread: one, between these two calls. */
int fgv_product_enter(void);
void fgv_product_leave(int saved);

#endif
