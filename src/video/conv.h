/* conv.h - convolutions of the VAE through oneDNN: channels-last, one output frame at a time, in fixed bands of rows,
 * single-threaded per band, so that results do not depend on the number of threads. */
#ifndef FGV_CONV_H
#define FGV_CONV_H

#include "video/vae_kernels.h"
#include "video/weights.h"

/* y[row][x][out] = sum over taps k in time, and a side x side window, of w . src[k] + bias. */
typedef struct fgv_conv_desc {
    fgv_tensor weight; /* [out or more][in][taps][side][side], the unit extents of it in any number */
    int64_t first;     /* its first output channel used */
    const float *bias; /* [out] */
    int64_t in, out;
    int taps;           /* 1 or 3 input frames, oldest first */
    int side;           /* 1, or 3 with zeros beyond the left and right edge */
    int64_t width;      /* pixels in a row */
    int64_t rows, rest; /* heights of the bands: rows, and rest (0 = none) for the last */
    bool accumulate;    /* y += */
    fgv_store store;    /* of src */
} fgv_conv_desc;

typedef struct fgv_conv fgv_conv;
typedef struct fgv_conv_engine fgv_conv_engine; /* what all convolutions of a run share */

fga_status fgv_conv_engine_create(fga_context *ctx, fgv_conv_engine **engine);
void fgv_conv_engine_destroy(fgv_conv_engine **engine); /* after its convolutions */

fga_status fgv_conv_create(fgv_conv_engine *engine, const fgv_conv_desc *desc, fgv_conv **conv);
void fgv_conv_destroy(fgv_conv **conv);
/* Bytes of prepared weights, without making them: an estimate that oneDNN's padding to blocks of 16 is part of. */
uint64_t fgv_conv_weight_bytes(const fgv_conv_desc *desc);

typedef struct fgv_conv_band {
    const void *src[3]; /* [rows + side - 1][width][in] each; for side 3 it starts a row above the output's first */
    float *dst;         /* [rows][width][out] */
    int64_t rows;       /* desc.rows or desc.rest */
} fgv_conv_band;

/* Safe from different workers at once. FGA_ERR_MEMORY or FGA_ERR_INTERNAL, without a text. */
fga_status fgv_conv_run(const fgv_conv *conv, const fgv_conv_band *band, int worker);

/* ---- the two products of the middle block's attention: rows x keys at a time ----------------------------------- */

typedef struct fgv_conv_products fgv_conv_products;

/* scores [rows][keys] = q [rows][channels] . k [keys][channels]; out [rows][channels] = p [rows][keys] . v
 * [keys][channels]; q, k, v and p of `store`, dense. rows per tile, rest for the last (0 = none). */
fga_status fgv_conv_products_create(fgv_conv_engine *engine, int64_t rows, int64_t rest, int64_t keys, int64_t channels,
                                    fgv_store store, fgv_conv_products **products);
void fgv_conv_products_destroy(fgv_conv_products **products);
fga_status fgv_conv_scores(const fgv_conv_products *products, int64_t rows, const void *q, const void *k, float *scores,
                           int worker);
fga_status fgv_conv_weighted(const fgv_conv_products *products, int64_t rows, const void *p, const void *v, float *out,
                             int worker);

#endif
