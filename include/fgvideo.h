/* fgvideo.h - video from Wan text-to-video checkpoints (Hugging Face diffusers layout), on libfgattn.
 *
 *   fga_context *ctx;
 *   fgv_model *model;
 *   fga_context_create(NULL, &ctx);
 *   if (fgv_model_open(ctx, "models/toy", &model) != FGA_OK) { puts(fga_last_error(ctx)); return 3; }
 *
 *   fgv_request r = fgv_request_default(model);              // size, frames, steps ... of the checkpoint
 *   r.prompt = "a large red ball bouncing over a checkered floor";
 *   fga_policy_parse(ctx, "dfs", &r.policy);
 *   r.on_frame = write_frame, r.user = file;                 // 8-bit RGB frames, in order
 *   fgv_result result;
 *   fgv_generate(model, &r, &result);
 *
 * Errors are statuses; fga_last_error(ctx) says what. The library never prints, exits or reads the environment. Same
 * seed, same bytes at any thread count.
 */
#ifndef FGVIDEO_H
#define FGVIDEO_H

#include "fgattn.h"

#ifdef __cplusplus
extern "C" {
#endif

#define FGV_API FGA_API

/* ---- model -------------------------------------------------------------------------------- */

/* An opened checkpoint: parsed configurations, every tensor's name, dtype and shape checked, weights mapped
 * read-only. Many generations may use one model, one at a time.
 *
 * Two files of our own may lie beside model_index.json: default.json, an object with any of the keys width, height,
 * frames, steps, guidance, shift, fps (numbers) and negative_prompt (text); and vocabulary.txt, the words that the
 * model was taught, separated by anything but letters and digits. */
typedef struct fgv_model fgv_model;

typedef struct fgv_model_info {
    const char *directory;
    int layers, heads, head_dim;
    int64_t dit_parameters, text_parameters, vae_parameters;
    int patch_t, patch_h, patch_w;    /* latent cells per token along t, h, w: 1, 2, 2 */
    int vae_t, vae_s;                 /* VAE strides in time and space: 4, 8 */
    int latent_channels, text_dim;    /* of the transformer's input and of the text encoder's rows */
    int width, height, frames, steps; /* defaults: default.json's, or Wan's own */
    double guidance, shift, fps;
    const char *negative; /* default negative prompt, "" if none */
} fgv_model_info;

/* FGA_ERR_DATA: not a checkpoint, or a file or tensor in it is wrong; the text names it and what was expected. */
FGV_API fga_status fgv_model_open(fga_context *ctx, const char *directory, fgv_model **model);
FGV_API void fgv_model_close(fgv_model **model);
FGV_API fgv_model_info fgv_model_describe(const fgv_model *model);

/* ---- one generation ----------------------------------------------------------------------- */

typedef enum fgv_sampler { FGV_SAMPLER_UNIPC = 0, FGV_SAMPLER_EULER = 1 } fgv_sampler;
typedef enum fgv_compute { FGV_COMPUTE_AUTO = 0, FGV_COMPUTE_F32 = 1, FGV_COMPUTE_BF16 = 2 } fgv_compute;

/* What `compute` means on this machine: "f32" or "bf16". auto is bf16 where the processor multiplies it itself. */
FGV_API const char *fgv_compute_name(fgv_compute compute);

typedef enum fgv_stage { FGV_STAGE_TEXT = 0, FGV_STAGE_DENOISE = 1, FGV_STAGE_DECODE = 2 } fgv_stage;

typedef struct fgv_progress {
    fgv_stage stage;
    int done, total;                     /* prompts; steps; latent frames */
    double elapsed_s;                    /* of this stage */
    const fga_session_report *attention; /* so far; NULL outside denoising */
} fgv_progress;

/* What self-attention of one (step, layer, guidance branch) reads: after the norms and rotary positions. */
typedef struct fgv_capture {
    int step, steps, layer, layers, branch;
    int frames, height, width; /* the video in tokens */
    fga_tensor q, k, v;        /* [1][heads][tokens][head_dim]; tokens = frames*height*width */
    const int32_t *order; /* [tokens]: token i of q, k, v is raster token order[i]; NULL = they are in raster order */
    float scale;          /* of the logits: head_dim^-0.5 */
} fgv_capture;

typedef struct fgv_request {
    size_t size;
    const char *prompt, *negative; /* UTF-8 */
    int width, height;             /* pixels, multiples of the VAE stride times the patch (16) */
    int frames;                    /* 4k+1 */
    int steps;                     /* 1 ... 1000 */
    double guidance;               /* 1 = one forward per step */
    double shift;                  /* flow shift, > 0 */
    uint64_t seed;                 /* torch.manual_seed's meaning */
    fgv_sampler sampler;
    fgv_compute compute; /* of linear layers, convolutions and attention inputs */
    fga_policy policy;
    double measure_fraction;       /* fga_session_desc's; 0 = do not measure */
    const fga_override *overrides; /* of the policy, [override_count]; fga_session_desc's */
    int32_t override_count;
    /* Called at the start of every stage, after everything that counts in `done`, and before every layer in between.
     * Returning false stops the generation with FGA_ERR_INTERRUPTED. May be NULL. */
    bool (*on_progress)(void *user, const fgv_progress *progress);
    /* rgb is [height][width][3], valid during the call. Returning false stops. May be NULL. */
    bool (*on_frame)(void *user, int index, const uint8_t *rgb);
    /* The latents [channels][t][h][w] the sampler ends with, before decoding. Returning false stops. May be NULL. */
    bool (*on_latents)(void *user, const float *latents, int channels, int t, int h, int w);
    /* Called before every self-attention; the inputs are valid during the call. Returning false stops. May be NULL. */
    bool (*on_attention)(void *user, const fgv_capture *inputs);
    /* Told of every measured call of self-attention. May be NULL. */
    void (*on_measure)(void *user, const fga_measured *measured);
    void *user;
    /* A file that holds the generation as it stood after its last whole step, replaced atomically after every step; the
     * caller removes it when it has the video. NULL: none. Not with functions in the policy, which have no text form.
     */
    const char *state;
    bool resume; /* go on from it, to the same bytes. FGA_ERR_ARGUMENT names what differs from the run that it is of */
    uintptr_t reserved[3];
} fgv_request;

typedef struct fgv_result {
    double wall_s, text_s, denoise_s, vae_s;
    double attention_s; /* of denoise_s: self-attention with scoring and selection, without the measurement */
    int64_t tokens;     /* video tokens per forward */
    int steps_dense, steps_refresh, steps_reuse; /* a step is what most any layer of it did: refresh, reuse, dense */
    fga_session_report attention;
    const char *compute; /* "f32" or "bf16": what auto resolved to */
    uint64_t predicted_bytes;
    int steps_kept; /* steps that the state file holds; 0: this run has not written it */
} fgv_result;

/* The checkpoint's own size, frames, steps, guidance, shift and negative prompt; seed 0; no prompt, no callbacks,
 * nothing captured. Attention is dense until `policy` is set, and 2 % of the queries of measured calls are measured. */
FGV_API fgv_request fgv_request_default(const fgv_model *model);
/* Checks sizes, frame count, ranges; the text names the nearest valid value. fgv_generate does it too. */
FGV_API fga_status fgv_request_check(const fgv_model *model, const fgv_request *request);
/* Bytes the job will need at its peak, mapped weights included, without starting it. */
FGV_API fga_status fgv_predict_memory(const fgv_model *model, const fgv_request *request, uint64_t *bytes);
FGV_API fga_status fgv_generate(fgv_model *model, const fgv_request *request, fgv_result *result);

/* Words of `prompt` that the model's word list (vocabulary.txt) does not know, comma-separated into `words`; count
 * returned. 0 where the model has no list. *vocabulary, if not NULL: the list, space-separated, owned by the model. */
FGV_API int fgv_unknown_words(const fgv_model *model, const char *prompt, char *words, size_t bytes,
                              const char **vocabulary);

/* ---- the stages one by one, for tests, `verify` and tools ---------------------------------- */

/* Token ids after cleaning, eos appended, at most `capacity`; *count = how many there are. */
FGV_API fga_status fgv_tokenize(fgv_model *model, const char *prompt, int32_t *ids, int capacity, int *count);
/* out [count][text_dim] f32: the encoder's rows for the valid tokens. */
FGV_API fga_status fgv_encode_text(fgv_model *model, fgv_compute compute, const int32_t *ids, int count, float *out);
/* One transformer forward, dense: latents and out [channels][t][h][w] f32, text [text_rows][text_dim] (zero rows up to
 * 512 are implied), timestep as the model receives it. */
FGV_API fga_status fgv_dit_forward(fgv_model *model, fgv_compute compute, const float *latents, int t, int h, int w,
                                   const float *text, int text_rows, double timestep, float *out);
/* latents [channels][t][h][w] as the sampler leaves them -> frames through on_frame; raw f32 [3][H][W] per frame into
 * `raw` (all frames, frame-major) if not NULL. */
FGV_API fga_status fgv_vae_decode(fgv_model *model, fgv_compute compute, const float *latents, int t, int h, int w,
                                  float *raw, bool (*on_frame)(void *user, int index, const uint8_t *rgb), void *user);
/* torch.randn(n) of a CPU generator seeded with `seed`. */
FGV_API void fgv_randn(uint64_t seed, float *out, int64_t n);

/* The sampler alone: sigmas [steps+1], timesteps [steps] as the model receives them. */
FGV_API fga_status fgv_sampler_schedule(fga_context *ctx, fgv_sampler sampler, int steps, double shift, double *sigmas,
                                        double *timesteps);

/* ---- captured attention inputs ------------------------------------------------------------- */

/* A safetensors file with the tensors step.S.layer.L.branch.B.q, .k and .v, each [tokens][heads][head_dim] in raster
 * order and F32, F16 or BF16, and in __metadata__ the texts frames, height, width (required); scale, steps, layers,
 * order = "raster" (optional). */
typedef struct fgv_capture_writer fgv_capture_writer;
/* Written to PATH.part and renamed when finished; nothing is left under the final name on failure. most: how many
 * captures will be added at most, which sizes the file's header. */
FGV_API fga_status fgv_capture_create(fga_context *ctx, const char *path, int64_t most, fgv_capture_writer **writer);
/* All of one file have one grid, number of steps and scale, and different (step, layer, branch). */
FGV_API fga_status fgv_capture_add(fgv_capture_writer *writer, const fgv_capture *capture);
FGV_API fga_status fgv_capture_finish(fgv_capture_writer **writer); /* *writer becomes NULL either way */
FGV_API void fgv_capture_abandon(fgv_capture_writer **writer);      /* removes what was written */

typedef struct fgv_capture_file fgv_capture_file;
/* Maps the file and checks all of it but the numbers. FGA_ERR_DATA names the tensor and what was expected. */
FGV_API fga_status fgv_capture_open(fga_context *ctx, const char *path, fgv_capture_file **file);
FGV_API void fgv_capture_close(fgv_capture_file **file);
FGV_API int fgv_capture_count(const fgv_capture_file *file);
/* Capture `index`, by rising step, layer, branch; its tensors lie in the mapping and must not be written to. steps and
 * layers are 0 where the file does not say. */
FGV_API fgv_capture fgv_capture_get(const fgv_capture_file *file, int index);

/* ---- profiles ------------------------------------------------------------------------------ */

/* How a policy did on some prompts, over the measured sparse calls; NaN: not known. */
typedef struct fgv_profile_figures {
    int prompts; /* 0: there are no figures */
    double recall_mean, recall_worst, output_error_mean, output_error_worst;
    double density, cost; /* of sparse calls */
    double held;          /* share of all measured (call, head) that the target, or the floor of recall, held for */
} fgv_profile_figures;

/* A policy and what differs from it for some layers, heads and guidance branches, with where that comes from: what
 * `fgattn tune` writes and `generate --profile` reads. In a file: one JSON object, described in docs/cli.md. */
typedef struct fgv_profile {
    size_t size;
    fga_policy policy;
    fga_override *overrides; /* [override_count], malloc'd; freed by fgv_profile_free */
    int32_t override_count;
    char model[96];              /* a name for people; "" = none */
    int layers, heads, head_dim; /* of the model; 0 = not said */
    int branches;                /* guidance branches it was tuned with; 0 = not said */
    /* What it was tuned for and on; 0, NULL = not said. */
    double target_recall, recall_floor, target_error;
    double quantile; /* of the measured points that reach the target while tuning */
    int width, height, frames, steps;
    char *prompts; /* one per line, malloc'd */
    fgv_profile_figures tuning, held_out;
} fgv_profile;

FGV_API fgv_profile fgv_profile_default(void); /* policy "dense", nothing else */
FGV_API void fgv_profile_free(fgv_profile *profile);
/* FGA_ERR_DATA names the key and what was expected; *profile is then the default. The overrides' settings are checked
 * by what carries them out: fgv_request_check, fga_session_create. */
FGV_API fga_status fgv_profile_read(fga_context *ctx, const char *path, fgv_profile *profile);
/* Written to PATH.part and renamed when complete. */
FGV_API fga_status fgv_profile_write(fga_context *ctx, const char *path, const fgv_profile *profile);

/* ---- tuning: the cheapest settings per layer, head and guidance branch that reach a target --------- */

/* Shown the inputs of self-attention, it carries the policy out at 17 densities (or taus, or thresholds: whatever its
 * selection goes by) beside the generation, and notes each head's measured recall, output error and density. */
typedef struct fgv_tuner fgv_tuner;

typedef struct fgv_tuner_options {
    size_t size;
    fga_policy policy; /* its targets are not used */
    /* true: the captures are those of whole runs, every step, and masks age as the policy's timetable says, measured at
     * their freshest and most aged. false: every capture gets masks of its own. */
    bool timetable;
    double measure_fraction; /* of the queries; more than a generation measures, since it is a head that is judged */
    uintptr_t reserved[4];
} fgv_tuner_options;

/* What to reach: a recall, an output error, or both. */
typedef struct fgv_tuner_target {
    double recall, recall_floor; /* mean over all heads of all layers and branches; each head. 0 = none */
    double error;                /* of each head. 0 = none */
    /* In [0, 1]: what share of a head's measured points must be as good as its floor or error, and of the runs as good
     * as the mean recall. */
    double quantile;
} fgv_tuner_target;

FGV_API fgv_tuner_options fgv_tuner_options_default(void); /* measure_fraction 0.1 */
/* FGA_ERR_UNSUPPORTED: the policy's selection goes by no number of a head. */
FGV_API fga_status fgv_tuner_create(fga_context *ctx, const fgv_tuner_options *options, fgv_tuner **tuner);
FGV_API void fgv_tuner_destroy(fgv_tuner **tuner);
/* Another run begins: its masks are new. */
FGV_API fga_status fgv_tuner_begin(fgv_tuner *tuner);
/* One capture, of the grid, heads and dtype of the first. */
FGV_API fga_status fgv_tuner_add(fgv_tuner *tuner, const fgv_capture *capture);
/* How many captures were measured so far. */
FGV_API int64_t fgv_tuner_points(const fgv_tuner *tuner);
/* Sets policy, overrides, layers, heads, head_dim, branches, targets, quantile and tuning of the profile. A recall is
 * reached at the least mean density: where the next step of density gains most, it is taken first. */
FGV_API fga_status fgv_tuner_solve(const fgv_tuner *tuner, const fgv_tuner_target *target, fgv_profile *profile);

/* ---- writing and comparing video ----------------------------------------------------------- */

/* Format by name: .mp4 (H.264, 4:2:0, even sizes) and .gif through the ffmpeg program; .png (a frame per file:
 * NAME-0000.png ..., which replaces an earlier video of that name), .apng, .y4m (4:4:4, BT.601 limited range). Written
 * to NAME.part and renamed when finished; nothing is left under the final name on failure. */
typedef struct fgv_writer fgv_writer;
FGV_API fga_status fgv_writer_open(fga_context *ctx, const char *path, int width, int height, double fps,
                                   fgv_writer **writer);
FGV_API fga_status fgv_writer_frame(fgv_writer *writer, const uint8_t *rgb);
FGV_API fga_status fgv_writer_finish(fgv_writer **writer); /* closes and renames; *writer becomes NULL either way */
FGV_API void fgv_writer_abandon(fgv_writer **writer);      /* closes and removes what was written */

/* Reads a whole video (anything ffmpeg reads; .y4m, .png sequences and .apng natively): *rgb is
 * [frames][height][width][3], freed with fgv_free. *fps is 0 where the file does not say. */
FGV_API fga_status fgv_read_video(fga_context *ctx, const char *path, uint8_t **rgb, int *width, int *height,
                                  int *frames, double *fps);
FGV_API void fgv_free(void *pointer);

typedef struct fgv_comparison {
    double psnr_db;        /* over all pixels, 8-bit peak; INFINITY when equal */
    double psnr_moving_db; /* over pixels of b that differ from the frame before or after; NaN when none do */
    double ssim; /* mean over frames of mean SSIM on luma, 11x11 Gaussian window, sigma 1.5; NaN below 11x11 */
} fgv_comparison;

/* a against reference b, both [frames][height][width][3]. Per-frame arrays [frames] may be NULL. */
FGV_API fga_status fgv_compare(fga_context *ctx, const uint8_t *a, const uint8_t *b, int width, int height, int frames,
                               fgv_comparison *result, double *frame_psnr, double *frame_ssim);

#ifdef __cplusplus
}
#endif
#endif /* FGVIDEO_H */
