/* vae.h - the causal decoder of AutoencoderKLWan: latents to frames, one latent frame at a time, exact. */
#ifndef FGV_VAE_H
#define FGV_VAE_H

#include "fgattn.h"

typedef struct fgv_vae fgv_vae;

fga_status fgv_vae_open(fga_context *ctx, const char *dir, fgv_vae **vae);
void fgv_vae_close(fgv_vae **vae);
int fgv_vae_channels(const fgv_vae *vae);     /* latent channels */
int fgv_vae_time_stride(const fgv_vae *vae);  /* 4 */
int fgv_vae_space_stride(const fgv_vae *vae); /* 8 */
uint64_t fgv_vae_hash(const fgv_vae *vae);    /* fgv_weights_hash */
int64_t fgv_vae_parameters(const fgv_vae *vae);
/* Peak bytes of decoding h x w latents, weights included; independent of the number of frames. */
uint64_t fgv_vae_memory(const fgv_vae *vae, fga_dtype compute, int h, int w);

/* latents [channels][t][h][w] normalised as the sampler leaves them; calls frame(user, index, raw) for each of
 * time_stride*(t-1)+1 frames in order, raw [3][8h][8w] f32 before clamping. frame returning false stops with
 * FGA_ERR_INTERRUPTED. */
fga_status fgv_vae_run(fgv_vae *vae, fga_dtype compute, const float *latents, int t, int h, int w,
                       bool (*frame)(void *user, int index, const float *raw), void *user);

#endif
