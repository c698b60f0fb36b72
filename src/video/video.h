/* video.h - what video*.c share. */
#ifndef FGV_VIDEO_H
#define FGV_VIDEO_H

#include "video/model.h"
#include "video/state.h"

/* What a request's compute means on this machine. */
fga_dtype fgv_compute_dtype(fgv_compute compute);
/* The latents of a checked request: frames, rows, columns. */
void fgv_request_latents(const fgv_model *model, const fgv_request *request, int size[3]);
/* 1, or 2 with guidance: above 1, as in diffusers. */
int fgv_request_branches(const fgv_request *request);

/* A prompt's rows [rows][text_dim], free(). */
fga_status fgv_prompt_rows(fgv_model *model, fga_dtype compute, const char *prompt, float **text, int *rows);
/* raw [3][pixels], -1 ... 1, to rgb [pixels][3]: round(clamp(x/2 + 0.5) * 255), halves to even; NaN is 0. */
void fgv_frame_to_rgb(const float *raw, uint8_t *rgb, int64_t pixels);

/* ---- video_resume.c ---- */

/* What is known before the prompt is read: options, attention, and hashes of weights and configurations. cJSON_Delete.
 */
fga_status fgv_resume_fields(const fgv_model *model, const fgv_request *request, cJSON **fields);
/* Adds a hash of what the text encoder made of a prompt, [count][text_dim]. */
fga_status fgv_resume_text(const fgv_model *model, int branch, const float *rows, int count, cJSON *fields);

#endif
