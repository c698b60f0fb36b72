#include "video/sampler.h"

#include "base/error.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { TRAIN_STEPS = 1000, MAX_STEPS = 1000, CHUNK = 16384 };

/* One update of the latents, linear in what is at hand: the sample x it starts from, the predictions x0 of this step
 * (m0) and the one before (m1), and, in the corrector, the newest prediction (mt). */
typedef struct update {
    double x, m0, m1, mt;
} update;

struct fgv_sampler_state {
    fga_context *ctx;
    fgv_sampler kind;
    int steps, next; /* next: the step that must come now */
    int64_t elements;
    double sigma[MAX_STEPS + 1], timestep[MAX_STEPS];
    /* UniPC's history: the corrected sample the last predictor started from, and the two newest predictions. */
    float *last, *m0, *m1;
};

/* Diffusers keeps sigmas in single precision, so both kinds are rounded to it; what precedes is in the precision that
 * its scheduler has at that place. */
static void unipc_schedule(int steps, double shift, double *sigma, double *timestep)
{
    double low = 1.0 / TRAIN_STEPS, stride = (low - 1.0) / steps;
    for (int i = 0; i < steps; i++) {
        double s = i * stride + 1.0;
        s = shift * s / (1.0 + (shift - 1.0) * s);
        if (i == 0 && fabs(s - 1.0) < 1e-6) {
            s -= 1e-6; /* keeps log(1 - sigma) finite */
        }
        timestep[i] = trunc(s * TRAIN_STEPS);
        sigma[i] = (float)s;
    }
    sigma[steps] = 0.0;
}

/* Its constructor shifts the training range's ends, and setting the timesteps shifts once more. */
static void euler_schedule(int steps, double shift, double *sigma, double *timestep)
{
    float f = (float)shift, g = (float)(shift - 1.0);
    float unit = 1.0f / TRAIN_STEPS;
    double high = (f * 1.0f) / (1.0f + g * 1.0f), low = (f * unit) / (1.0f + g * unit);
    double start = high * TRAIN_STEPS, stop = low * TRAIN_STEPS;
    double stride = steps > 1 ? (stop - start) / (steps - 1) : 0.0;
    for (int i = 0; i < steps; i++) {
        double s = (i > 0 && i == steps - 1 ? stop : i * stride + start) / TRAIN_STEPS;
        float shifted = (float)(shift * s / (1.0 + (shift - 1.0) * s));
        sigma[i] = shifted;
        timestep[i] = shifted * (float)TRAIN_STEPS;
    }
    sigma[steps] = 0.0;
}

fga_status fgv_sampler_schedule(fga_context *ctx, fgv_sampler sampler, int steps, double shift, double *sigmas,
                                double *timesteps)
{
    if (sampler != FGV_SAMPLER_UNIPC && sampler != FGV_SAMPLER_EULER) {
        return fga_context_fail(ctx, FGA_ERR_ARGUMENT, "sampler %d is unknown: 0 is UniPC, 1 is Euler", (int)sampler);
    }
    if (steps < 1 || steps > MAX_STEPS) {
        return fga_context_fail(ctx, FGA_ERR_ARGUMENT, "steps = %d: must be 1 ... %d", steps, MAX_STEPS);
    }
    if (!(shift > 0.0) || !isfinite(shift)) {
        return fga_context_fail(ctx, FGA_ERR_ARGUMENT, "shift = %g: must be a number above 0", shift);
    }
    if (sampler == FGV_SAMPLER_UNIPC) {
        unipc_schedule(steps, shift, sigmas, timesteps);
    } else {
        euler_schedule(steps, shift, sigmas, timesteps);
    }
    for (int i = 0; i < steps; i++) {
        if (!(sigmas[i] > sigmas[i + 1]) || sigmas[i] > 1.0 + 1e-6) {
            return fga_context_fail(ctx, FGA_ERR_ARGUMENT,
                                    "shift = %g: its noise levels do not fall from each of %d steps to the next; usual "
                                    "values are 1 ... 12",
                                    shift, steps);
        }
    }
    return FGA_OK;
}

fga_status fgv_sampler_create(fga_context *ctx, fgv_sampler kind, int steps, double shift, int64_t elements,
                              fgv_sampler_state **out)
{
    *out = NULL;
    if (elements < 1 || (uint64_t)elements > SIZE_MAX / (3 * sizeof(float))) {
        return fga_context_fail(ctx, FGA_ERR_ARGUMENT, "sampler: %lld latents", (long long)elements);
    }
    fga_status status = FGA_OK;
    fgv_sampler_state *state = calloc(1, sizeof *state);
    if (state == NULL) {
        return fga_context_fail(ctx, FGA_ERR_MEMORY, "sampler: out of memory");
    }
    state->ctx = ctx;
    state->kind = kind;
    state->steps = steps;
    state->elements = elements;
    FGA_CHECK(fgv_sampler_schedule(ctx, kind, steps, shift, state->sigma, state->timestep));
    if (kind == FGV_SAMPLER_UNIPC) {
        state->last = malloc(3 * (size_t)elements * sizeof(float));
        if (state->last == NULL) {
            FGA_CHECK(fga_context_fail(ctx, FGA_ERR_MEMORY, "sampler: no memory for three copies of %lld latents",
                                       (long long)elements));
        }
        state->m0 = state->last + elements;
        state->m1 = state->m0 + elements;
    }
    *out = state;
    state = NULL;
cleanup:
    fgv_sampler_destroy(&state);
    return status;
}

void fgv_sampler_destroy(fgv_sampler_state **state)
{
    if (state == NULL || *state == NULL) {
        return;
    }
    free((*state)->last);
    free(*state);
    *state = NULL;
}

float *fgv_sampler_history(const fgv_sampler_state *state, int64_t *count)
{
    *count = state->last != NULL ? 3 * state->elements : 0;
    return state->last;
}

void fgv_sampler_go_on(fgv_sampler_state *state, int next)
{
    state->next = next;
}

double fgv_sampler_timestep(const fgv_sampler_state *state, int step)
{
    return step >= 0 && step < state->steps ? state->timestep[step] : NAN;
}

/* ---- UniPC (Zhao et al., arXiv 2302.04867): order 2, B(h) = e^h - 1, data prediction -------- */

static double half_log_snr(double sigma)
{
    return log(1.0 - sigma) - log(sigma);
}

static int unipc_order(const fgv_sampler_state *state, int step)
{
    int order = step + 1 < state->steps - step ? step + 1 : state->steps - step;
    return order < 2 ? order : 2;
}

/* From sigma[from] to sigma[from + 1]. The corrector may use the prediction at the target, the predictor may not. */
static update unipc_update(const fgv_sampler_state *state, int from, bool corrector)
{
    const double *sigma = state->sigma;
    int order = unipc_order(state, from);
    double alpha = 1.0 - sigma[from + 1];
    double lambda = half_log_snr(sigma[from]);
    double h = half_log_snr(sigma[from + 1]) - lambda; /* infinite in the last predictor, which is of order 1 */
    double b = expm1(-h);
    double ratio = order == 2 ? (half_log_snr(sigma[from - 1]) - lambda) / h : 0.0;
    double rho_old = 0.0, rho_new = 0.0; /* weights of (m1 - m0)/ratio and of mt - m0 */
    if (corrector && order == 2) {
        double phi_2 = b / -h - 1.0, phi_3 = phi_2 / -h - 0.5;
        double b_1 = phi_2 / b, b_2 = 2.0 * phi_3 / b;
        rho_old = (b_1 - b_2) / (1.0 - ratio);
        rho_new = b_1 - rho_old;
    } else if (corrector) {
        rho_new = 0.5;
    } else if (order == 2) {
        rho_old = 0.5;
    }
    double old = order == 2 ? rho_old / ratio : 0.0;
    return (update){.x = sigma[from + 1] / sigma[from],
                    .m0 = -alpha * b * (1.0 - old - rho_new),
                    .m1 = -alpha * b * old,
                    .mt = -alpha * b * rho_new};
}

typedef struct unipc_job {
    const fgv_sampler_state *state;
    const float *velocity;
    float *latents;
    double sigma;
    bool corrects;
    update correct, predict;
} unipc_job;

static void unipc_chunk(void *arg, int64_t item, int worker)
{
    (void)worker;
    const unipc_job *job = arg;
    const fgv_sampler_state *state = job->state;
    int64_t end = (item + 1) * CHUNK < state->elements ? (item + 1) * CHUNK : state->elements;
    float *last = state->last, *m0 = state->m0, *m1 = state->m1, *x = job->latents;
    update c = job->correct, p = job->predict;
    for (int64_t i = item * CHUNK; i < end; i++) {
        double sample = x[i], previous = 0.0;
        double prediction = (float)(sample - job->sigma * job->velocity[i]);
        if (job->corrects) {
            previous = m0[i];
            /* A weight of 0 must not meet the history of two steps ago before there is one. */
            double older = c.m1 != 0.0 ? c.m1 * m1[i] : 0.0;
            sample = (float)(c.x * last[i] + c.m0 * previous + older + c.mt * prediction);
        }
        last[i] = (float)sample;
        m1[i] = (float)previous;
        m0[i] = (float)prediction;
        x[i] = (float)(p.x * sample + p.m0 * prediction + p.m1 * previous);
    }
}

/* ---- Euler ---------------------------------------------------------------------------------- */

typedef struct euler_job {
    int64_t elements;
    const float *velocity;
    float *latents;
    double dt;
} euler_job;

static void euler_chunk(void *arg, int64_t item, int worker)
{
    (void)worker;
    const euler_job *job = arg;
    int64_t end = (item + 1) * CHUNK < job->elements ? (item + 1) * CHUNK : job->elements;
    for (int64_t i = item * CHUNK; i < end; i++) {
        job->latents[i] = (float)(job->latents[i] + job->dt * job->velocity[i]);
    }
}

fga_status fgv_sampler_step(fgv_sampler_state *state, int step, const float *velocity, float *latents)
{
    if (step != state->next || step >= state->steps) {
        return fga_context_fail(state->ctx, FGA_ERR_ARGUMENT, "sampler: step %d of %d, expected step %d", step,
                                state->steps, state->next);
    }
    state->next++;
    int64_t chunks = (state->elements + CHUNK - 1) / CHUNK;
    if (state->kind == FGV_SAMPLER_EULER) {
        euler_job job = {state->elements, velocity, latents, state->sigma[step + 1] - state->sigma[step]};
        fga_parallel_for(state->ctx, chunks, euler_chunk, &job);
        return FGA_OK;
    }
    unipc_job job = {.state = state,
                     .velocity = velocity,
                     .latents = latents,
                     .sigma = state->sigma[step],
                     .corrects = step > 0,
                     .predict = unipc_update(state, step, false)};
    if (job.corrects) {
        job.correct = unipc_update(state, step - 1, true);
    }
    fga_parallel_for(state->ctx, chunks, unipc_chunk, &job);
    return FGA_OK;
}
