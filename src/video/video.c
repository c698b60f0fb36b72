/* video.c - a request from the prompt to the last frame. */
#include "video/video.h"

#include "base/error.h"
#include "video/dit_plan.h"
#include "video/rng.h"
#include "video/sampler.h"

#include <stdlib.h>
#include <string.h>

/* One generation. */
typedef struct generation {
    fgv_model *model;
    const fgv_request *request;
    fgv_result *result;
    int branches, size[3]; /* of the latents: frames, rows, columns */
    int64_t elements;      /* of the latents */
    fga_dtype compute;
    float *text[FGV_MAX_BRANCHES]; /* the prompt's rows, the negative prompt's */
    int rows[FGV_MAX_BRANCHES];
    fgv_dit_plan *plan;
    fgv_sampler_state *sampler;
    float *latents, *velocity[FGV_MAX_BRANCHES];
    uint8_t *rgb;
    fgv_progress progress;
    double stage_start;
    fgv_state state; /* with a request's state; `fields` is NULL without */
} generation;

/* False when the caller wants to stop. */
static bool tell(generation *g)
{
    if (g->request->on_progress == NULL) {
        return true;
    }
    fga_session_report report;
    g->progress.elapsed_s = fgv_seconds() - g->stage_start;
    g->progress.attention = NULL;
    if (g->progress.stage == FGV_STAGE_DENOISE) {
        report = fgv_dit_plan_report(g->plan).session;
        g->progress.attention = &report;
    }
    bool go_on = g->request->on_progress(g->request->user, &g->progress);
    g->progress.attention = NULL;
    return go_on;
}

static bool keep_going(void *user)
{
    return tell(user);
}

static bool show_attention(void *user, const fgv_capture *inputs)
{
    const fgv_request *r = ((generation *)user)->request;
    return r->on_attention(r->user, inputs);
}

static void show_measured(void *user, const fga_measured *measured)
{
    const fgv_request *r = ((generation *)user)->request;
    r->on_measure(r->user, measured);
}

static fga_status stopped(generation *g)
{
    static const char *const stages[] = {"reading the prompt", "denoising", "decoding"};
    return fga_context_fail(g->model->ctx, FGA_ERR_INTERRUPTED, "stopped while %s, %d of %d done",
                            stages[g->progress.stage], g->progress.done, g->progress.total);
}

/* done of total were done before, in so many seconds. */
static fga_status begin_stage(generation *g, fgv_stage stage, int total, int done, double seconds)
{
    g->progress = (fgv_progress){.stage = stage, .done = done, .total = total};
    g->stage_start = fgv_seconds() - seconds;
    return tell(g) ? FGA_OK : stopped(g);
}

static fga_status advance(generation *g)
{
    g->progress.done++;
    return tell(g) ? FGA_OK : stopped(g);
}

static fga_status read_prompts(generation *g)
{
    const fgv_request *r = g->request;
    const char *const prompts[FGV_MAX_BRANCHES] = {r->prompt, r->negative != NULL ? r->negative : ""};
    FGA_TRY(begin_stage(g, FGV_STAGE_TEXT, g->branches, 0, 0));
    for (int b = 0; b < g->branches && b < FGV_MAX_BRANCHES; b++) {
        FGA_TRY(fgv_prompt_rows(g->model, g->compute, prompts[b], &g->text[b], &g->rows[b]));
        if (g->state.fields != NULL) {
            FGA_TRY(fgv_resume_text(g->model, b, g->text[b], g->rows[b], g->state.fields));
        }
        FGA_TRY(advance(g));
    }
    fgv_text_encoder_rest(g->model->text);
    g->result->text_s = fgv_seconds() - g->stage_start;
    return FGA_OK;
}

static fga_status prepare_denoising(generation *g)
{
    const fgv_request *r = g->request;
    fgv_dit_job job = {.t = g->size[0],
                       .h = g->size[1],
                       .w = g->size[2],
                       .branches = g->branches,
                       .text_rows = {g->rows[0], g->rows[1]},
                       .compute = g->compute,
                       .policy = &r->policy,
                       .overrides = r->overrides,
                       .override_count = r->override_count,
                       .measure_fraction = r->measure_fraction,
                       .keep_going = keep_going,
                       .on_attention = r->on_attention != NULL ? show_attention : NULL,
                       .on_measure = r->on_measure != NULL ? show_measured : NULL,
                       .user = g};
    FGA_TRY(fgv_dit_plan_create(g->model->dit, &job, &g->plan));
    for (int b = 0; b < g->branches; b++) {
        FGA_TRY(fgv_dit_plan_text(g->plan, b, g->text[b]));
        g->velocity[b] = malloc((size_t)g->elements * sizeof(float));
        if (g->velocity[b] == NULL) {
            return fga_context_fail(g->model->ctx, FGA_ERR_MEMORY, "no memory for the latents");
        }
    }
    fgv_rng_normal(r->seed, g->latents, g->elements);
    return fgv_sampler_create(g->model->ctx, r->sampler, r->steps, r->shift, g->elements, &g->sampler);
}

/* velocity[0] <- the model's answer, guided if there are two. */
static fga_status predict_velocity(generation *g, int step)
{
    fga_step_kind kind = FGA_STEP_DENSE;
    for (int b = 0; b < g->branches; b++) {
        fgv_dit_forward_args args = {.step = step,
                                     .steps = g->request->steps,
                                     .branch = b,
                                     .timestep = fgv_sampler_timestep(g->sampler, step),
                                     .latents = g->latents,
                                     .out = g->velocity[b]};
        FGA_TRY(fgv_dit_plan_forward(g->plan, &args));
        fga_step_kind branch = fgv_dit_plan_report(g->plan).kind;
        kind = branch == FGA_STEP_REFRESH || kind == FGA_STEP_DENSE ? branch : kind;
    }
    if (g->branches == 2) {
        fgv_rowwise_best()->mix(g->velocity[0], g->velocity[1], g->velocity[0], (float)g->request->guidance,
                                g->elements);
    }
    g->result->steps_dense += kind == FGA_STEP_DENSE;
    g->result->steps_refresh += kind == FGA_STEP_REFRESH;
    g->result->steps_reuse += kind == FGA_STEP_REUSE;
    return FGA_OK;
}

/* ---- the state between two steps ---------------------------------------------------------------------- */

/* Before anything is computed: whether the file is there, whole, and of a run like this one, as far as that is known.
 */
static fga_status begin_state(generation *g)
{
    const fgv_request *r = g->request;
    if (r->state == NULL) {
        return FGA_OK;
    }
    g->state = (fgv_state){.ctx = g->model->ctx, .path = r->state, .steps = r->steps, .elements = g->elements};
    FGA_TRY(fgv_resume_fields(g->model, r, &g->state.fields));
    return r->resume ? fgv_state_check(&g->state) : FGA_OK;
}

/* With everything planned: the file's numbers take the place of the first ones. */
static fga_status open_state(generation *g)
{
    fgv_state *s = &g->state;
    if (s->fields == NULL) {
        return FGA_OK;
    }
    s->latents = g->latents;
    s->history = fgv_sampler_history(g->sampler, &s->history_count);
    s->session = fgv_dit_plan_session(g->plan);
    if (!fgv_state_field(s->fields, "variant", "%s", fga_session_get_report(s->session).variant)) {
        return fga_context_fail(g->model->ctx, FGA_ERR_MEMORY, "no memory for the state's fields");
    }
    if (!g->request->resume) {
        return FGA_OK;
    }
    FGA_TRY(fgv_state_read(s));
    fgv_sampler_go_on(g->sampler, s->done);
    g->result->steps_kept = s->done;
    g->result->steps_dense = s->totals.steps_dense;
    g->result->steps_refresh = s->totals.steps_refresh;
    g->result->steps_reuse = s->totals.steps_reuse;
    return FGA_OK;
}

/* The figures so far, those of the run that was gone on from included. */
static void add_up(generation *g, double start)
{
    fgv_dit_report report = fgv_dit_plan_report(g->plan);
    const fgv_state_totals *before = &g->state.totals;
    g->result->tokens = fgv_dit_plan_tokens(g->plan);
    g->result->attention_s = before->attention_s + report.attention_s;
    g->result->attention = report.session;
    g->result->denoise_s = before->denoise_s + fgv_seconds() - start;
}

static fga_status keep_state(generation *g, int done)
{
    fgv_state now = g->state;
    if (now.fields == NULL) {
        return FGA_OK;
    }
    const fgv_result *r = g->result;
    now.done = done;
    now.totals = (fgv_state_totals){r->denoise_s, r->attention_s, r->steps_dense, r->steps_refresh, r->steps_reuse};
    FGA_TRY(fgv_state_write(&now));
    g->result->steps_kept = done;
    return FGA_OK;
}

static fga_status denoise(generation *g)
{
    double start = fgv_seconds();
    FGA_TRY(prepare_denoising(g));
    FGA_TRY(open_state(g));
    FGA_TRY(begin_stage(g, FGV_STAGE_DENOISE, g->request->steps, g->state.done, g->state.totals.denoise_s));
    for (int step = g->state.done; step < g->request->steps; step++) {
        FGA_TRY(predict_velocity(g, step));
        FGA_TRY(fgv_sampler_step(g->sampler, step, g->velocity[0], g->latents));
        add_up(g, start);
        FGA_TRY(keep_state(g, step + 1));
        FGA_TRY(advance(g));
    }
    add_up(g, start);
    return FGA_OK;
}

/* All that decoding does not need. */
static void release_denoising(generation *g)
{
    fgv_dit_plan_destroy(&g->plan);
    fgv_sampler_destroy(&g->sampler);
    for (int b = 0; b < FGV_MAX_BRANCHES; b++) {
        free(g->text[b]);
        free(g->velocity[b]);
        g->text[b] = g->velocity[b] = NULL;
    }
    cJSON_Delete(g->state.fields);
    g->state.fields = NULL;
}

static bool show_frame(void *user, int index, const float *raw)
{
    generation *g = user;
    const fgv_request *r = g->request;
    if (r->on_frame != NULL) {
        fgv_frame_to_rgb(raw, g->rgb, (int64_t)r->width * r->height);
        if (!r->on_frame(r->user, index, g->rgb)) {
            return false;
        }
    }
    int stride = g->model->info.vae_t;
    if (index % stride != 0) { /* a latent frame is done with the last of its frames; the first has one alone */
        return true;
    }
    g->progress.done++;
    return tell(g);
}

static fga_status decode(generation *g)
{
    const fgv_request *r = g->request;
    FGA_TRY(begin_stage(g, FGV_STAGE_DECODE, g->size[0], 0, 0));
    g->rgb = malloc((size_t)r->width * (size_t)r->height * 3);
    if (g->rgb == NULL) {
        return fga_context_fail(g->model->ctx, FGA_ERR_MEMORY, "no memory for a frame");
    }
    fga_status status =
        fgv_vae_run(g->model->vae, g->compute, g->latents, g->size[0], g->size[1], g->size[2], show_frame, g);
    g->result->vae_s = fgv_seconds() - g->stage_start;
    return status == FGA_ERR_INTERRUPTED ? stopped(g) : status;
}

static fga_status run(generation *g)
{
    const fgv_request *r = g->request;
    g->latents = malloc((size_t)g->elements * sizeof *g->latents);
    if (g->latents == NULL) {
        return fga_context_fail(g->model->ctx, FGA_ERR_MEMORY, "no memory for the latents");
    }
    FGA_TRY(begin_state(g));
    FGA_TRY(read_prompts(g));
    FGA_TRY(denoise(g));
    release_denoising(g);
    fgv_dit_rest(g->model->dit);
    int channels = g->model->info.latent_channels;
    if (r->on_latents != NULL && !r->on_latents(r->user, g->latents, channels, g->size[0], g->size[1], g->size[2])) {
        return stopped(g);
    }
    return decode(g);
}

fga_status fgv_generate(fgv_model *model, const fgv_request *request, fgv_result *result)
{
    double start = fgv_seconds();
    fgv_result unwanted;
    result = result != NULL ? result : &unwanted;
    *result = (fgv_result){0};
    FGA_TRY(fgv_predict_memory(model, request, &result->predicted_bytes)); /* checks the request */
    generation g = {.model = model,
                    .request = request,
                    .result = result,
                    .branches = fgv_request_branches(request),
                    .compute = fgv_compute_dtype(request->compute)};
    fgv_request_latents(model, request, g.size);
    g.elements = (int64_t)model->info.latent_channels * g.size[0] * g.size[1] * g.size[2];
    result->compute = fga_dtype_name(g.compute);
    fga_status status = run(&g);
    release_denoising(&g);
    free(g.latents);
    free(g.rgb);
    result->wall_s = fgv_seconds() - start;
    return status;
}
