/* dit_plan.h - one generation's buffers, for dit*.c. */
#ifndef FGV_DIT_PLAN_H
#define FGV_DIT_PLAN_H

#include "video/dit_weights.h"
#include "video/patch.h"
#include "video/rope.h"

/* The keys and values of cross-attention, which do not change while denoising. */
typedef struct fgv_dit_text {
    int64_t keys; /* the valid rows, and one more that stands for all padding rows */
    float *rows;  /* [keys][dim], embedded */
    float *bias;  /* [keys]: log of the number of rows that each key stands for */
    char *cache;  /* [slots][2][keys][dim] of the compute dtype */
    int filled;   /* layers 0 ... filled-1 are in the cache */
    fga_attend_plan *attend;
    bool ready;
} fgv_dit_text;

struct fgv_dit_plan {
    fgv_dit *dit;
    fgv_dit_job job;
    fga_policy policy;
    const fgv_rowwise *kernels;
    int64_t tokens, tile; /* rows that a product takes at once: the intermediate results stay small */
    int64_t wide;         /* elements of a row of y and t: dim, or a patch if that is longer */
    size_t element;       /* bytes of an element of the compute dtype */
    int text_slots;       /* the layers of the caches: all, or 1 where all would be large */
    fgv_patch patch_in, patch_out;
    fgv_rope rope;
    fga_session *session;
    fgv_dit_text text[FGV_MAX_BRANCHES];
    fgv_dit_report report;

    void *memory;                                     /* everything below */
    int32_t *order;                                   /* [tokens] */
    float *x;                                         /* [tokens][dim], the residual stream */
    char *q, *k, *v, *o;                              /* [tokens][dim] of the compute dtype */
    float *y, *t;                                     /* [tile][wide], a product's input and output */
    char *hidden;                                     /* [tile][ffn_dim] of the compute dtype */
    float *text_work;                                 /* [most keys][dim] */
    float *zeros;                                     /* [text_dim] */
    float *wave, *time, *time_silu, *time_projection; /* [freq_dim], [dim], [dim], [FGV_MODULATIONS][dim] */
    float *modulation; /* [FGV_MODULATIONS][dim] of the layer at hand; scales have 1 added */
    void *workspace;
};

/* Row passes over tokens first ... first+count-1 of a tile, or over text rows. Pointers are to the first row. */
typedef struct fgv_dit_rows {
    const fgv_dit_plan *plan;
    void (*row)(const struct fgv_dit_rows *job, int64_t i);
    int64_t first, count;
    float *x, *y, *t;                  /* as in the plan */
    fga_dtype y_dtype;                 /* of what norms leave in y; where that is bf16, t is lost */
    void *target;                      /* rows of the compute dtype */
    const float *gate, *scale, *shift; /* [dim] or NULL */
    const float *weight;               /* of an RMS norm */
    bool rotate;
} fgv_dit_rows;

void fgv_dit_rows_run(const fgv_dit_rows *job);
/* y = norm(x)*scale + shift; a plain copy where scale is NULL. */
void fgv_dit_row_norm(const fgv_dit_rows *job, int64_t i);
/* x += gate*t. */
void fgv_dit_row_add(const fgv_dit_rows *job, int64_t i);
/* x += gate*t, then as row_norm. */
void fgv_dit_row_add_norm(const fgv_dit_rows *job, int64_t i);
/* target = RMS norm of t, rotated if asked. t may be target where that is f32. */
void fgv_dit_row_rms(const fgv_dit_rows *job, int64_t i);

double fgv_seconds(void);

#endif
