/* video_request.c - what may be asked of a model, and what it will take. */
#include "base/error.h"
#include "video/linear_product.h"
#include "video/sampler.h"
#include "video/video.h"

/* What is resident beside weights, buffers and scratch: the program, its libraries, oneDNN's compiled kernels. */
#define PROCESS_BYTES (13u << 20)

fgv_request fgv_request_default(const fgv_model *model)
{
    const fgv_model_info *info = &model->info;
    fgv_request request = {.size = sizeof request,
                           .prompt = "",
                           .negative = info->negative,
                           .width = info->width,
                           .height = info->height,
                           .frames = info->frames,
                           .steps = info->steps,
                           .guidance = info->guidance,
                           .shift = info->shift,
                           .sampler = model->sampler,
                           .compute = FGV_COMPUTE_AUTO,
                           .measure_fraction = 0.02};
    fga_policy_parse(model->ctx, "dense", &request.policy);
    return request;
}

fga_dtype fgv_compute_dtype(fgv_compute compute)
{
    if (compute == FGV_COMPUTE_AUTO) { /* without bf16 instructions it would only be rounding, and slower */
        return fgv_product_native_bf16() ? FGA_BF16 : FGA_F32;
    }
    return compute == FGV_COMPUTE_BF16 ? FGA_BF16 : FGA_F32;
}

const char *fgv_compute_name(fgv_compute compute)
{
    return fga_dtype_name(fgv_compute_dtype(compute));
}

void fgv_request_latents(const fgv_model *model, const fgv_request *request, int size[3])
{
    size[0] = (request->frames - 1) / model->info.vae_t + 1;
    size[1] = request->height / model->info.vae_s;
    size[2] = request->width / model->info.vae_s;
}

int fgv_request_branches(const fgv_request *request)
{
    return request->guidance > 1.0 ? 2 : 1;
}

/* One of width and height. */
static fga_status check_side(const fgv_model *model, const char *name, int value, int patch)
{
    int step = model->info.vae_s * patch;
    int64_t most = (int64_t)fgv_dit_get_config(model->dit)->rope_max * step;
    if (value > most) {
        return fga_context_fail(model->ctx, FGA_ERR_ARGUMENT, "%s = %d: the model's positions end at %lld", name, value,
                                (long long)most);
    }
    if (value < step) {
        return fga_context_fail(model->ctx, FGA_ERR_ARGUMENT, "%s = %d: must be a multiple of %d; the nearest is %d",
                                name, value, step, step);
    }
    if (value % step != 0) {
        int below = value / step * step;
        return fga_context_fail(model->ctx, FGA_ERR_ARGUMENT,
                                "%s = %d: must be a multiple of %d; the nearest are %d and %d", name, value, step,
                                below, below + step);
    }
    return FGA_OK;
}

/* Frames must fill whole latent frames after the first, and those whole patches. */
static fga_status check_frames(const fgv_model *model, int frames)
{
    int t = model->info.vae_t, step = t * model->info.patch_t;
    int first = (model->info.patch_t - 1) * t + 1;
    int64_t most = (int64_t)fgv_dit_get_config(model->dit)->rope_max * step - t + 1;
    if (frames > most) {
        return fga_context_fail(model->ctx, FGA_ERR_ARGUMENT, "frames = %d: the model's positions end at %lld", frames,
                                (long long)most);
    }
    if (frames < first) {
        return fga_context_fail(model->ctx, FGA_ERR_ARGUMENT, "frames = %d: must be %dk+%d; the nearest is %d", frames,
                                step, first, first);
    }
    if ((frames - first) % step != 0) {
        int below = (frames - first) / step * step + first;
        return fga_context_fail(model->ctx, FGA_ERR_ARGUMENT, "frames = %d: must be %dk+%d; the nearest are %d and %d",
                                frames, step, first, below, below + step);
    }
    return FGA_OK;
}

static fga_status check_numbers(const fgv_model *model, const fgv_request *r)
{
    fga_context *ctx = model->ctx;
    if (!(r->guidance >= 0.0 && r->guidance <= 100.0)) {
        return fga_context_fail(ctx, FGA_ERR_ARGUMENT, "guidance = %g: must be 0 ... 100; 1 and below is none",
                                r->guidance);
    }
    if (!(r->measure_fraction >= 0.0 && r->measure_fraction <= 1.0)) {
        return fga_context_fail(ctx, FGA_ERR_ARGUMENT, "measure_fraction = %g: must be 0 ... 1", r->measure_fraction);
    }
    if ((unsigned)r->compute > FGV_COMPUTE_BF16) {
        return fga_context_fail(ctx, FGA_ERR_ARGUMENT, "compute = %d: 0 is auto, 1 f32, 2 bf16", (int)r->compute);
    }
    if (r->resume && r->state == NULL) {
        return fga_context_fail(ctx, FGA_ERR_ARGUMENT, "resume: there is no state to go on from");
    }
    if (r->state != NULL && (r->policy.score == FGA_SCORE_CUSTOM || r->policy.select == FGA_SELECT_CUSTOM)) {
        return fga_context_fail(ctx, FGA_ERR_ARGUMENT,
                                "state: the policy has functions, which have no text form to know it by");
    }
    double sigmas[1001], timesteps[1000];
    return fgv_sampler_schedule(ctx, r->sampler, r->steps, r->shift, sigmas, timesteps);
}

static fgv_dit_job job_of(const fgv_model *model, const fgv_request *r)
{
    int size[3];
    fgv_request_latents(model, r, size);
    return (fgv_dit_job){.t = size[0],
                         .h = size[1],
                         .w = size[2],
                         .branches = fgv_request_branches(r),
                         .compute = fgv_compute_dtype(r->compute),
                         .policy = &r->policy,
                         .overrides = r->overrides,
                         .override_count = r->override_count,
                         .measure_fraction = r->measure_fraction};
}

fga_status fgv_request_check(const fgv_model *model, const fgv_request *r)
{
    if (r->size != sizeof *r) {
        return fga_context_fail(model->ctx, FGA_ERR_ARGUMENT,
                                "request: %zu bytes, this library's has %zu; fill it with fgv_request_default", r->size,
                                sizeof *r);
    }
    if (r->prompt == NULL) {
        return fga_context_fail(model->ctx, FGA_ERR_ARGUMENT, "request: no prompt");
    }
    FGA_TRY(check_side(model, "width", r->width, model->info.patch_w));
    FGA_TRY(check_side(model, "height", r->height, model->info.patch_h));
    FGA_TRY(check_frames(model, r->frames));
    FGA_TRY(check_numbers(model, r));
    fgv_dit_job job = job_of(model, r);
    fgv_dit_memory unused; /* the policy is judged by the session that would carry it out */
    return fgv_dit_plan_memory(model->dit, &job, &unused);
}

fga_status fgv_predict_memory(const fgv_model *model, const fgv_request *r, uint64_t *bytes)
{
    FGA_TRY(fgv_request_check(model, r));
    fgv_dit_job job = job_of(model, r);
    const char *const prompts[FGV_MAX_BRANCHES] = {r->prompt, r->negative != NULL ? r->negative : ""};
    uint64_t text = 0, rows = 0;
    for (int b = 0; b < job.branches && b < FGV_MAX_BRANCHES; b++) {
        int32_t ids[FGV_TEXT_ROWS];
        FGA_TRY(fgv_tokenizer_encode(model->tokenizer, prompts[b], ids, FGV_TEXT_ROWS, &job.text_rows[b]));
        uint64_t one = fgv_text_encoder_memory(model->text, job.text_rows[b]);
        text = one > text ? one : text;
        rows += (uint64_t)job.text_rows[b] * (uint64_t)model->info.text_dim * sizeof(float);
    }
    fgv_dit_memory dit;
    FGA_TRY(fgv_dit_plan_memory(model->dit, &job, &dit));
    uint64_t latents =
        (uint64_t)model->info.latent_channels * (uint64_t)job.t * (uint64_t)job.h * (uint64_t)job.w * sizeof(float);
    uint64_t copies = 1 + (uint64_t)job.branches + (r->sampler == FGV_SAMPLER_UNIPC ? 3 : 0);
    uint64_t frame = (uint64_t)r->width * (uint64_t)r->height * 3;
    /* Every stage lets go of the weights that it has read, so the stages do not add up. */
    uint64_t denoise = fgv_dit_weight_bytes(model->dit) + dit.plan + dit.threads + rows + copies * latents;
    uint64_t decode = dit.threads + latents + frame + fgv_vae_memory(model->vae, job.compute, job.h, job.w);
    uint64_t most = text > denoise ? text : denoise;
    *bytes = PROCESS_BYTES + (most > decode ? most : decode);
    return FGA_OK;
}
