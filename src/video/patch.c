#include "video/patch.h"

int64_t fgv_patch_row(const fgv_patch *patch)
{
    return (int64_t)patch->channels * patch->size[0] * patch->size[1] * patch->size[2];
}

typedef struct strides {
    int64_t channel, t, h; /* of the latents, in elements; w has 1 */
} strides;

static strides latent_strides(const fgv_patch *p)
{
    int64_t h = (int64_t)p->grid[2] * p->size[2];
    int64_t t = h * p->grid[1] * p->size[1];
    return (strides){t * p->grid[0] * p->size[0], t, h};
}

/* The first latent of a token's patch, in channel 0. */
static int64_t patch_origin(const fgv_patch *p, const strides *s, int64_t token)
{
    int64_t plane = (int64_t)p->grid[1] * p->grid[2];
    return token / plane * p->size[0] * s->t + token % plane / p->grid[2] * p->size[1] * s->h +
           token % p->grid[2] * p->size[2];
}

void fgv_patch_gather(const fgv_patch *p, const float *latents, const int32_t *order, int64_t count, float *rows)
{
    strides s = latent_strides(p);
    for (int64_t i = 0; i < count; i++) {
        const float *origin = latents + patch_origin(p, &s, order[i]);
        for (int c = 0; c < p->channels; c++) {
            for (int t = 0; t < p->size[0]; t++) {
                for (int h = 0; h < p->size[1]; h++) {
                    for (int w = 0; w < p->size[2]; w++) {
                        *rows++ = origin[c * s.channel + t * s.t + h * s.h + w];
                    }
                }
            }
        }
    }
}

void fgv_patch_scatter(const fgv_patch *p, const float *rows, const int32_t *order, int64_t count, float *latents)
{
    strides s = latent_strides(p);
    for (int64_t i = 0; i < count; i++) {
        float *origin = latents + patch_origin(p, &s, order[i]);
        for (int t = 0; t < p->size[0]; t++) {
            for (int h = 0; h < p->size[1]; h++) {
                for (int w = 0; w < p->size[2]; w++) {
                    for (int c = 0; c < p->channels; c++) {
                        origin[c * s.channel + t * s.t + h * s.h + w] = *rows++;
                    }
                }
            }
        }
    }
}
