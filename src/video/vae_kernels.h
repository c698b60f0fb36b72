/* vae_kernels.h - the pointwise passes between the convolutions of the VAE, on rows of pixels [pixels][channels]. */
#ifndef FGV_VAE_KERNELS_H
#define FGV_VAE_KERNELS_H

#include "fgattn.h"

/* How an activation that a convolution reads is stored. ROUNDED is bf16 arithmetic on a machine without bf16 products:
 * f32 numbers that are bf16 numbers, which gives the same thing faster than emulation. */
typedef enum fgv_store { FGV_STORE_F32 = 0, FGV_STORE_ROUNDED = 1, FGV_STORE_BF16 = 2 } fgv_store;

static inline size_t fgv_store_size(fgv_store store)
{
    return store == FGV_STORE_BF16 ? 2 : 4;
}

#define FGV_VAE_MAX_CHANNELS 4096

typedef struct fgv_vae_normalise {
    const float *x;     /* [pixels][channels] */
    void *out;          /* [pixels][channels] of store */
    const float *gamma; /* [channels rounded up to 16] times sqrt(channels); NULL = neither norm nor SiLU, only store */
    int64_t pixels;
    int64_t channels; /* at most FGV_VAE_MAX_CHANNELS */
    bool silu;
    fgv_store store;
} fgv_vae_normalise;

typedef struct fgv_vae_softmax {
    float *scores; /* [rows][keys], destroyed */
    void *out;     /* [rows][keys] of store: exp(scale * (score - the row's largest)); may be scores */
    float *sums;   /* [rows] of out before rounding */
    int64_t rows, keys;
    float scale;
    fgv_store store;
} fgv_vae_softmax;

typedef struct fgv_vae_kernels {
    /* out = silu(x / max(norm of the pixel's channels, 1e-12) * gamma) */
    void (*normalise)(const fgv_vae_normalise *args);
    void (*softmax)(const fgv_vae_softmax *args);
} fgv_vae_kernels;

const fgv_vae_kernels *fgv_vae_kernels_best(void); /* of this machine; all give the same bytes */

#endif
