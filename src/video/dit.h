/* dit.h - the Wan2.1 transformer: latents, text rows and a timestep to a velocity. */
#ifndef FGV_DIT_H
#define FGV_DIT_H

#include "fgvideo.h"

typedef struct fgv_dit_config {
    int heads, head_dim, layers;
    int64_t dim, ffn_dim; /* dim = heads * head_dim */
    int text_dim, freq_dim;
    int in_channels, out_channels;
    int patch[3]; /* t, h, w */
    int rope_max; /* positions along any axis */
    float eps;
    bool cross_norm;
} fgv_dit_config;

/* Text rows that the model attends to; those beyond the prompt's are zero vectors. */
#define FGV_TEXT_ROWS 512
#define FGV_MAX_BRANCHES 2

typedef struct fgv_dit fgv_dit;

/* dir holds config.json and diffusion_pytorch_model.safetensors (single or sharded). */
fga_status fgv_dit_open(fga_context *ctx, const char *dir, fgv_dit **dit);
void fgv_dit_close(fgv_dit **dit);
void fgv_dit_rest(const fgv_dit *dit);     /* fgv_weights_rest */
uint64_t fgv_dit_hash(const fgv_dit *dit); /* fgv_weights_hash */
const fgv_dit_config *fgv_dit_get_config(const fgv_dit *dit);
int64_t fgv_dit_parameters(const fgv_dit *dit);
uint64_t fgv_dit_weight_bytes(const fgv_dit *dit);

/* ---- one generation: everything allocated once ----------------------------------------------------------------- */

typedef struct fgv_dit_job {
    int t, h, w;                     /* latents, multiples of the patch */
    int branches;                    /* 1, or 2 with guidance */
    int text_rows[FGV_MAX_BRANCHES]; /* valid ones, 0 ... FGV_TEXT_ROWS */
    fga_dtype compute;               /* FGA_F32 or FGA_BF16: of the blocks' products and of attention's inputs */
    const fga_policy *policy;        /* of self-attention */
    const fga_override *overrides;   /* of the policy, [override_count] */
    int32_t override_count;
    double measure_fraction;        /* fga_session_desc's */
    bool (*keep_going)(void *user); /* asked before every layer; false stops. May be NULL */
    bool (*on_attention)(void *user, const fgv_capture *inputs);  /* fgv_request's */
    void (*on_measure)(void *user, const fga_measured *measured); /* fgv_request's */
    void *user;
} fgv_dit_job;

typedef struct fgv_dit_plan fgv_dit_plan;

fga_status fgv_dit_plan_create(fgv_dit *dit, const fgv_dit_job *job, fgv_dit_plan **plan);
void fgv_dit_plan_destroy(fgv_dit_plan **plan);
/* Bytes, weights not included. */
typedef struct fgv_dit_memory {
    uint64_t plan;    /* what the plan and its masks hold until it is destroyed */
    uint64_t threads; /* what the products leave with the threads (fgv_linear_scratch) */
} fgv_dit_memory;
fga_status fgv_dit_plan_memory(fgv_dit *dit, const fgv_dit_job *job, fgv_dit_memory *memory);
int64_t fgv_dit_plan_tokens(const fgv_dit_plan *plan);
/* What lives from step to step, the plan's. */
fga_session *fgv_dit_plan_session(const fgv_dit_plan *plan);

/* The branch's text [text_rows][text_dim]; before its first forward. */
fga_status fgv_dit_plan_text(fgv_dit_plan *plan, int branch, const float *text);

typedef struct fgv_dit_forward_args {
    int step, steps, branch; /* where the denoising stands */
    double timestep;         /* as the sampler gives it */
    const float *latents;    /* [in_channels][t][h][w] */
    float *out;              /* [out_channels][t][h][w]; may not overlap latents */
} fgv_dit_forward_args;

fga_status fgv_dit_plan_forward(fgv_dit_plan *plan, const fgv_dit_forward_args *args);

typedef struct fgv_dit_report {
    double attention_s; /* self-attention of all forwards, measurement left out */
    double cross_s;     /* cross-attention */
    double linear_s;    /* the blocks' products */
    double total_s;     /* all forwards */
    fga_step_kind kind; /* of the last forward: the most that any of its layers did, refresh above reuse above dense */
    fga_session_report session;
} fgv_dit_report;
fgv_dit_report fgv_dit_plan_report(const fgv_dit_plan *plan);

#endif
