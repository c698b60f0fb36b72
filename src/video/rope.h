/* rope.h - rotary position embedding over (frame, row, column): interleaved pairs, the head split in three. */
#ifndef FGV_ROPE_H
#define FGV_ROPE_H

#include "video/rowwise.h"

typedef struct fgv_rope {
    int grid[3];      /* positions along t, h, w */
    int width[3];     /* channels of a head that turn with each: even, their sum is head_dim */
    float *cosine[3]; /* [grid][width], laid out as in fgv_rotation */
    float *sine[3];
} fgv_rope;

/* The widths are 2*(head_dim/6) for h and w and the rest for t; frequencies 1e4^(-2i/width), tables in f64. */
fga_status fgv_rope_init(fga_context *ctx, fgv_rope *rope, int head_dim, const int grid[3]);
void fgv_rope_free(fgv_rope *rope);
/* The rotation of token (t*grid[1] + h)*grid[2] + w into cosine and sine, [head_dim] each. */
void fgv_rope_token(const fgv_rope *rope, int64_t token, float *cosine, float *sine);

#endif
