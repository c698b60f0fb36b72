#include "job.h"

#include <errno.h>
#include <string.h>
#include <sys/stat.h>

static int check_variant(const char *variant)
{
    char list[160] = "";
    for (int i = 0; i < fga_variant_count(); i++) {
        if (strcmp(fga_variant_name(i), variant) == 0) {
            return fga_variant_runs_here(i)
                       ? CLI_DONE
                       : cli_fail(CLI_ERROR, "this processor cannot run the variant %s (see `fgattn doctor`)", variant);
        }
        size_t length = strlen(list);
        snprintf(list + length, sizeof list - length, "%s%s%s", i > 0 ? ", " : "", fga_variant_name(i),
                 fga_variant_runs_here(i) ? "" : " (not on this processor)");
    }
    return cli_fail(CLI_USAGE, "--variant wants one of %s, got \"%s\"", list, variant);
}

int cli_open_context(int threads, const char *variant, fga_context **ctx)
{
    if (variant != NULL) {
        int code = check_variant(variant);
        if (code != CLI_DONE) {
            return code;
        }
    }
    fga_context_options options = fga_context_options_default();
    options.threads = threads;
    options.variant = variant;
    fga_status status = fga_context_create(&options, ctx);
    return status == FGA_OK
               ? CLI_DONE
               : cli_fail(cli_exit_code(status), "cannot start %d threads: %s", threads, fga_status_name(status));
}

int cli_open_model(fga_context *ctx, const char *directory, fgv_model **model)
{
    char toy[4096];
    if (directory == NULL) {
        directory = cli_find_toy_model(toy, sizeof toy);
        if (directory == NULL) {
            return cli_fail(CLI_BAD_DATA,
                            "the toy model is not where it was installed; name a checkpoint with --model");
        }
    }
    struct stat info;
    if (stat(directory, &info) != 0) {
        return cli_fail(CLI_BAD_DATA, "cannot open the model %s: %s", directory, strerror(errno));
    }
    if (!S_ISDIR(info.st_mode)) {
        return cli_fail(CLI_BAD_DATA, "the model %s is a file; name the directory that holds model_index.json",
                        directory);
    }
    fga_status status = fgv_model_open(ctx, directory, model);
    if (status == FGA_OK) {
        return CLI_DONE;
    }
    int code = cli_fail_status(ctx, status);
    return status == FGA_ERR_IO || status == FGA_ERR_ARGUMENT ? CLI_BAD_DATA : code;
}

const char *const cli_samplers[] = {"unipc", "euler", NULL};
const char *const cli_dtypes[] = {"auto", "f32", "bf16", NULL};

fgv_request cli_clip_request(const cli_clip *clip, const fgv_model *model)
{
    fgv_request r = fgv_request_default(model);
    if (clip->size_given) {
        r.width = clip->size[0];
        r.height = clip->size[1];
    }
    r.frames = clip->frames_given ? clip->frames : r.frames;
    r.steps = clip->steps_given ? clip->steps : r.steps;
    r.guidance = clip->guidance_given ? clip->guidance : r.guidance;
    r.shift = clip->shift_given ? clip->shift : r.shift;
    r.seed = clip->seed;
    r.sampler = (fgv_sampler)clip->sampler;
    r.compute = (fgv_compute)clip->dtype;
    return r;
}

int64_t cli_clip_tokens(const fgv_model *model, const fgv_request *request)
{
    const fgv_model_info m = fgv_model_describe(model);
    int64_t frames = ((request->frames - 1) / m.vae_t + 1) / m.patch_t;
    return frames * (request->height / m.vae_s / m.patch_h) * (request->width / m.vae_s / m.patch_w);
}

const char *cli_clip_given(const cli_clip *clip)
{
    return clip->size_given       ? "size"
           : clip->frames_given   ? "frames"
           : clip->steps_given    ? "steps"
           : clip->guidance_given ? "guidance"
           : clip->shift_given    ? "shift"
           : clip->seed_given     ? "seed"
           : clip->sampler_given  ? "sampler"
           : clip->dtype_given    ? "dtype"
                                  : NULL;
}
