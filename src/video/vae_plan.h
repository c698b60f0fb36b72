/* vae_plan.h - the decoder laid out for one size and arithmetic: prepared convolutions and every buffer, so that
 * decoding allocates nothing.
 *
 * The decoder walks depth first: one latent frame becomes one or two frames at each step of resolution, and each of
 * them goes all the way down before the next. So every convolution sees one new frame at a time and keeps the two
 * before it, and only those frames make up the memory: it does not depend on the length of the video. */
#ifndef FGV_VAE_PLAN_H
#define FGV_VAE_PLAN_H

#include "video/conv.h"
#include "video/vae_model.h"

/* Frames of one size that convolutions read: [1 + height + 1][width][channels] with a row of zeros above and below.
 * Those not in use. */
typedef struct vae_pool {
    int64_t height, width, channels;
    size_t row_bytes;
    int layers;    /* convolutions that read such frames */
    int spare;     /* frames in free */
    void *free[2]; /* a convolution's new frame and its successor's */
} vae_pool;

/* A convolution over time with the two frames before the present one; frames are named by their first true row. */
typedef struct vae_layer {
    fgv_conv *conv;
    int pool;
    void *past[2]; /* older first; zeros before the beginning of the video */
} vae_layer;

typedef struct vae_stack {
    const vae_resnet *model;
    vae_layer conv1, conv2;
    fgv_conv *shortcut; /* or NULL */
} vae_stack;

/* One resolution: the first has the middle block's resnets in front of its own. */
typedef struct vae_level {
    int64_t height, width, in, out;
    int64_t rows, rest; /* bands */
    int stacks;
    vae_stack stack[2 + FGV_VAE_MAX_RESNETS];
    bool doubles_time, started;
    vae_layer time;
    fgv_conv *second;   /* time makes the first of two frames, this the second, from the same input */
    fgv_conv *resample; /* runs at the next level's size */
} vae_level;

enum { FGV_VAE_TILE = 64 }; /* queries of the attention worked on at a time */

typedef struct vae_plan {
    const fgv_vae *vae;
    fga_context *ctx;
    fgv_store store;
    const fgv_vae_kernels *kernels;
    fgv_conv_engine *engine;
    fgv_conv_products *products;
    int levels;
    vae_level level[FGV_VAE_MAX_BLOCKS];
    vae_layer conv_in, conv_out;
    fgv_conv *query, *key, *value, *proj;
    int pools;
    vae_pool pool[4 * FGV_VAE_MAX_BLOCKS];
    float *x[2];              /* the residual stream: of a resnet's input and, where its width changes, output */
    void *undoubled;          /* what is about to be doubled in height and width */
    void *normed, *q, *k, *v; /* attention, [pixels][channels] of store */
    float *picture;           /* [3][height][width] */
    char **worker;            /* scratch of each */
    size_t worker_bytes, second_part; /* where the second of its two parts begins */
    void *memory;
    uint64_t total_bytes; /* memory and prepared weights */
} vae_plan;

/* engine NULL in the plan: only sizes are worked out, for fgv_vae_memory. */
fga_status fgv_vae_plan_create(const fgv_vae *vae, fgv_store store, int64_t h, int64_t w, bool sizes_only,
                               vae_plan **plan);
void fgv_vae_plan_destroy(vae_plan **plan);

#endif
