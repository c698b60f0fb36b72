/* vae_model.h - the decoder's layers as loaded, for vae.c, vae_plan.c and vae_run.c. */
#ifndef FGV_VAE_MODEL_H
#define FGV_VAE_MODEL_H

#include "video/vae.h"
#include "video/weights.h"

enum { FGV_VAE_MAX_BLOCKS = 8, FGV_VAE_MAX_RESNETS = 16, FGV_VAE_MAX_LATENT = 256 };

typedef struct vae_conv {
    fgv_tensor weight; /* data NULL = no such layer */
    float *bias;
    int64_t in, out;
    int taps, side;
} vae_conv;

/* gamma: times sqrt(channels), padded to 16 with zeros. */
typedef struct vae_resnet {
    float *norm1, *norm2;
    vae_conv conv1, conv2;
    vae_conv shortcut; /* where the widths differ */
} vae_resnet;

typedef struct vae_attention {
    float *norm;
    vae_conv qkv, proj;
} vae_attention;

/* One step of resolution: resnets, then perhaps twice the frames, then twice the height and width. */
typedef struct vae_block {
    int resnets;
    vae_resnet resnet[FGV_VAE_MAX_RESNETS];
    vae_conv time;     /* 3x1x1, channels -> 2 channels: two frames for one */
    vae_conv resample; /* 3x3 after doubling */
} vae_block;

struct fgv_vae {
    fga_context *ctx;
    fgv_weights *weights;
    bool native_bf16; /* keep bf16 activations as bf16; otherwise as rounded f32 */
    int latent;       /* channels */
    float mean[FGV_VAE_MAX_LATENT], deviation[FGV_VAE_MAX_LATENT];
    float *post_quant_weight; /* [latent][latent] */
    float *post_quant_bias;
    vae_conv conv_in, conv_out;
    vae_resnet middle[2];
    vae_attention attention;
    int blocks;
    vae_block block[FGV_VAE_MAX_BLOCKS];
    float *norm_out;
    int64_t parameters;    /* of the decoder */
    uint64_t weight_bytes; /* of its tensors as stored */
};

#endif
