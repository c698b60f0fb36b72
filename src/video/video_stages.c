/* video_stages.c - the stages one by one. */
#include "base/error.h"
#include "video/video.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

fga_status fgv_tokenize(fgv_model *model, const char *prompt, int32_t *ids, int capacity, int *count)
{
    return fgv_tokenizer_encode(model->tokenizer, prompt, ids, capacity, count);
}

fga_status fgv_encode_text(fgv_model *model, fgv_compute compute, const int32_t *ids, int count, float *out)
{
    return fgv_text_encoder_run(model->text, fgv_compute_dtype(compute), ids, count, out);
}

fga_status fgv_prompt_rows(fgv_model *model, fga_dtype compute, const char *prompt, float **text, int *rows)
{
    int32_t ids[FGV_TEXT_ROWS];
    *text = NULL;
    FGA_TRY(fgv_tokenizer_encode(model->tokenizer, prompt, ids, FGV_TEXT_ROWS, rows));
    *text = malloc((size_t)*rows * (size_t)model->info.text_dim * sizeof **text);
    if (*text == NULL) {
        return fga_context_fail(model->ctx, FGA_ERR_MEMORY, "no memory for %d rows of text", *rows);
    }
    return fgv_text_encoder_run(model->text, compute, ids, *rows, *text);
}

fga_status fgv_dit_forward(fgv_model *model, fgv_compute compute, const float *latents, int t, int h, int w,
                           const float *text, int text_rows, double timestep, float *out)
{
    fga_policy dense;
    FGA_TRY(fga_policy_parse(model->ctx, "dense", &dense));
    fgv_dit_job job = {.t = t,
                       .h = h,
                       .w = w,
                       .branches = 1,
                       .text_rows = {text_rows},
                       .compute = fgv_compute_dtype(compute),
                       .policy = &dense};
    fga_status status;
    fgv_dit_plan *plan = NULL;
    FGA_CHECK(fgv_dit_plan_create(model->dit, &job, &plan));
    FGA_CHECK(fgv_dit_plan_text(plan, 0, text));
    fgv_dit_forward_args args = {.steps = 1, .timestep = timestep, .latents = latents, .out = out};
    FGA_CHECK(fgv_dit_plan_forward(plan, &args));
cleanup:
    fgv_dit_plan_destroy(&plan);
    return status;
}

void fgv_frame_to_rgb(const float *raw, uint8_t *rgb, int64_t pixels)
{
    for (int channel = 0; channel < 3; channel++) {
        const float *in = raw + channel * pixels;
        for (int64_t i = 0; i < pixels; i++) {
            float x = in[i] * 0.5f + 0.5f;
            x = x > 0.0f ? x : 0.0f; /* NaN too */
            x = x < 1.0f ? x : 1.0f;
            rgb[3 * i + channel] = (uint8_t)rintf(x * 255.0f);
        }
    }
}

typedef struct frame_sink {
    float *raw;
    uint8_t *rgb;
    int64_t pixels;
    bool (*on_frame)(void *user, int index, const uint8_t *rgb);
    void *user;
} frame_sink;

static bool take_frame(void *user, int index, const float *raw)
{
    const frame_sink *sink = user;
    if (sink->raw != NULL) {
        memcpy(sink->raw + 3 * sink->pixels * index, raw, 3 * (size_t)sink->pixels * sizeof *raw);
    }
    if (sink->on_frame == NULL) {
        return true;
    }
    fgv_frame_to_rgb(raw, sink->rgb, sink->pixels);
    return sink->on_frame(sink->user, index, sink->rgb);
}

fga_status fgv_vae_decode(fgv_model *model, fgv_compute compute, const float *latents, int t, int h, int w, float *raw,
                          bool (*on_frame)(void *user, int index, const uint8_t *rgb), void *user)
{
    if (t < 1 || h < 1 || w < 1 || h > 65536 || w > 65536) {
        return fga_context_fail(model->ctx, FGA_ERR_ARGUMENT, "latents of %d x %d x %d", t, h, w);
    }
    int64_t scale = model->info.vae_s;
    frame_sink sink = {.raw = raw, .pixels = scale * h * scale * w, .on_frame = on_frame, .user = user};
    sink.rgb = malloc(3 * (size_t)sink.pixels);
    if (sink.rgb == NULL) {
        return fga_context_fail(model->ctx, FGA_ERR_MEMORY, "no memory for a frame");
    }
    fga_status status = fgv_vae_run(model->vae, fgv_compute_dtype(compute), latents, t, h, w, take_frame, &sink);
    free(sink.rgb);
    return status;
}
