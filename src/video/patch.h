/* patch.h - latents [channels][t][h][w] to rows of one token's patch each, and back. Token i of a run is the place
 * order[i], so the permutation of the tokens costs nothing of its own. */
#ifndef FGV_PATCH_H
#define FGV_PATCH_H

#include <stdint.h>

typedef struct fgv_patch {
    int channels;
    int size[3]; /* of a patch in t, h, w */
    int grid[3]; /* tokens in t, h, w */
} fgv_patch;

/* Elements of one row. */
int64_t fgv_patch_row(const fgv_patch *patch);
/* rows [count][(channel, t, h, w within the patch)], the order of the convolution's weights. */
void fgv_patch_gather(const fgv_patch *patch, const float *latents, const int32_t *order, int64_t count, float *rows);
/* rows [count][(t, h, w within the patch, channel)], the order of the output projection, to their places. */
void fgv_patch_scatter(const fgv_patch *patch, const float *rows, const int32_t *order, int64_t count, float *latents);

#endif
