/* sampler.h - flow-matching samplers: sigmas, then one update per model output. */
#ifndef FGV_SAMPLER_H
#define FGV_SAMPLER_H

#include "fgvideo.h"

typedef struct fgv_sampler_state fgv_sampler_state;

fga_status fgv_sampler_create(fga_context *ctx, fgv_sampler kind, int steps, double shift, int64_t elements,
                              fgv_sampler_state **state);
void fgv_sampler_destroy(fgv_sampler_state **state);
double fgv_sampler_timestep(const fgv_sampler_state *state, int step); /* what the model receives */
/* latents <- the next latents, given the model's velocity at `step`; steps in order from 0. */
fga_status fgv_sampler_step(fgv_sampler_state *state, int step, const float *velocity, float *latents);
/* What it remembers after a step, NULL and 0 where that is nothing; with these numbers put back, a new one goes on at
 * step `next`. */
float *fgv_sampler_history(const fgv_sampler_state *state, int64_t *count);
void fgv_sampler_go_on(fgv_sampler_state *state, int next);

#endif
