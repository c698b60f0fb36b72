/* dit_weights.h - a loaded Wan transformer: its configuration and its tensors, for dit*.c. */
#ifndef FGV_DIT_WEIGHTS_H
#define FGV_DIT_WEIGHTS_H

#include "video/dit.h"
#include "video/linear.h"

/* Rows of the modulation: (shift, scale, gate) of self-attention, then of the feed-forward net. */
enum { FGV_SHIFT_1, FGV_SCALE_1, FGV_GATE_1, FGV_SHIFT_2, FGV_SCALE_2, FGV_GATE_2, FGV_MODULATIONS };

typedef struct fgv_dit_attention {
    fgv_linear q, k, v, out;
    float *norm_q, *norm_k; /* [dim] */
} fgv_dit_attention;

typedef struct fgv_dit_block {
    float *modulation;              /* [FGV_MODULATIONS][dim] */
    float *norm_scale, *norm_shift; /* [dim], before cross-attention; NULL = that norm is absent */
    fgv_dit_attention self, cross;
    fgv_linear ffn_in, ffn_out;
} fgv_dit_block;

struct fgv_dit {
    fga_context *ctx;
    fgv_weights *weights;
    fgv_dit_config config;
    fgv_linear patch;           /* the convolution as a product: [dim][in_channels * patch] */
    fgv_linear time_1, time_2;  /* freq_dim -> dim -> dim */
    fgv_linear time_projection; /* dim -> FGV_MODULATIONS * dim */
    fgv_linear text_1, text_2;  /* text_dim -> dim -> dim */
    fgv_dit_block *blocks;
    float *head_modulation; /* [2][dim]: shift, scale */
    fgv_linear head;        /* dim -> patch * out_channels */
};

#endif
