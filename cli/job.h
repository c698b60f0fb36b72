/* job.h - what the verbs ask of a model, and the checks before anything long starts. */
#ifndef CLI_JOB_H
#define CLI_JOB_H

#include "cli.h"

/* Opens a context with `threads` (0 = all) and the forced variant (NULL = best). Prints and returns the exit code. */
int cli_open_context(int threads, const char *variant, fga_context **ctx);

/* Opens `directory`, or the shipped toy model if NULL. Prints and returns the exit code. */
int cli_open_model(fga_context *ctx, const char *directory, fgv_model **model);

/* What `generate`, `inspect` and `tune` ask of a clip; what is not given is the model's own. */
typedef struct cli_clip {
    int size[2], frames, steps;
    double guidance, shift;
    uint64_t seed;
    int sampler, dtype; /* indices of the lists below */
    bool size_given, frames_given, steps_given, guidance_given, shift_given;
    bool seed_given, sampler_given, dtype_given; /* only where a verb asks cli_clip_given */
} cli_clip;

extern const char *const cli_samplers[], *const cli_dtypes[]; /* in the order of fgv_sampler and fgv_compute */

/* The model's default request with the clip put in; prompts and policy are the caller's. */
fgv_request cli_clip_request(const cli_clip *clip, const fgv_model *model);

/* Of a video, as attention sees it. */
int64_t cli_clip_tokens(const fgv_model *model, const fgv_request *request);

/* The name, without dashes, of one of these options that was given, or NULL. */
const char *cli_clip_given(const cli_clip *clip);

#endif
