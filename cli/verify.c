/* verify.c - `fgattn verify`: every stage of a checkpoint against golden tensors of the reference implementation. */
#include "golden.h"
#include "job.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

typedef struct verification {
    fga_context *ctx;
    fgv_model *model;
    cli_golden *golden;
    fgv_compute compute;
    int failed, checked;
} verification;

static const double limit_f32 = 1e-5;      /* norm(a-b)/norm(b) and max|a-b|/max|b| */
static const double limit_noise = 1e-6;    /* the C library's log and cos against torch's */
static const double bf16_allowance = 1.25; /* times what the reference's own bf16 arithmetic is off by */

typedef struct errors {
    double norm, max;
} errors;

/* A value that is not a number makes both errors NaN, which is within no limit. */
static errors compare(const float *a, const float *b, int64_t count)
{
    double difference = 0, norm = 0, largest = 0, peak = 0;
    for (int64_t i = 0; i < count; i++) {
        double d = (double)a[i] - (double)b[i];
        if (!isfinite(d)) {
            return (errors){NAN, NAN};
        }
        difference += d * d;
        norm += (double)b[i] * (double)b[i];
        largest = fmax(largest, fabs(d));
        peak = fmax(peak, fabs((double)b[i]));
    }
    return (errors){sqrt(difference) / (norm > 0 ? sqrt(norm) : 1), largest / (peak > 0 ? peak : 1)};
}

static void row(verification *v, const char *stage, errors e, errors limit)
{
    bool good = e.norm <= limit.norm && e.max <= limit.max;
    v->checked++;
    v->failed += !good;
    printf("%-22s%12.2e%12.2e%12.2e%12.2e  %s\n", stage, e.norm, limit.norm, e.max, limit.max, good ? "ok" : "FAILED");
    fflush(stdout);
}

/* The limits of a stage: fixed in f32; in bf16 what torch's own bf16 was off by, which the golden file states. */
static int stage_limit(verification *v, const char *name, errors *limit)
{
    if (v->compute != FGV_COMPUTE_BF16) {
        *limit = (errors){limit_f32, limit_f32};
        return CLI_DONE;
    }
    cli_tensor t;
    int code = cli_golden_get(v->golden, name, 1, &t);
    if (code == CLI_DONE && t.count != 2) {
        code = cli_fail(CLI_BAD_DATA, "golden tensor %s has %lld values, wanted 2", name, (long long)t.count);
    }
    if (code == CLI_DONE) {
        *limit = (errors){bf16_allowance * (double)t.data[0], bf16_allowance * (double)t.data[1]};
    }
    return code;
}

static int mismatch(const char *name)
{
    return cli_fail(CLI_BAD_DATA, "golden tensor %s does not have the shape its neighbours imply", name);
}

static int fail(const verification *v, fga_status status)
{
    return cli_fail_status(v->ctx, status);
}

/* ---- stages -------------------------------------------------------------------------------------- */

static int check_noise(verification *v)
{
    cli_tensor want;
    int code = cli_golden_get(v->golden, "noise.seed42", 1, &want);
    if (code != CLI_DONE) {
        return code;
    }
    float *got = calloc((size_t)want.count + 1, sizeof *got);
    if (got == NULL) {
        return cli_fail(CLI_NO_MEMORY, "no memory for the noise");
    }
    fgv_randn(42, got, want.count);
    row(v, "noise", compare(got, want.data, want.count), (errors){limit_noise, limit_noise});
    free(got);
    return CLI_DONE;
}

enum { TEXT_ROWS = 512 }; /* of the pipeline: longer prompts are cut, so that eos is the last */

/* The prompt's bytes become the golden ids, and these the golden rows. */
static int check_ids(verification *v, const cli_tensor *ids)
{
    cli_tensor prompt;
    int code = cli_golden_get(v->golden, "text.prompt", 1, &prompt);
    if (code != CLI_DONE) {
        return code;
    }
    int32_t got[TEXT_ROWS];
    char *text = calloc((size_t)prompt.count + 1, 1);
    if (text == NULL) {
        return cli_fail(CLI_NO_MEMORY, "no memory for the prompt");
    }
    for (int64_t i = 0; i < prompt.count; i++) {
        double byte = (double)prompt.data[i];
        text[i] = byte >= 1 && byte <= 255 ? (char)(unsigned char)byte : '?';
    }
    int count = 0;
    fga_status status = fgv_tokenize(v->model, text, got, TEXT_ROWS, &count);
    if (status == FGA_OK) {
        int64_t wrong = count != ids->count;
        for (int64_t i = 0; i < ids->count && wrong == 0; i++) {
            wrong += (double)got[i] != (double)ids->data[i];
        }
        row(v, "token ids", (errors){(double)wrong, (double)wrong}, (errors){0, 0});
    }
    free(text);
    return status == FGA_OK ? CLI_DONE : fail(v, status);
}

static int check_rows(verification *v, const cli_tensor *ids, const cli_tensor *want)
{
    errors limit;
    int code = stage_limit(v, "text.bf16_error", &limit);
    if (code != CLI_DONE) {
        return code;
    }
    int32_t *exact = calloc((size_t)ids->count + 1, sizeof *exact);
    float *got = calloc((size_t)want->count + 1, sizeof *got);
    if (exact == NULL || got == NULL) {
        code = cli_fail(CLI_NO_MEMORY, "no memory for the text rows");
    } else {
        for (int64_t i = 0; i < ids->count; i++) {
            exact[i] = ids->data[i] >= 0 && ids->data[i] < 1e9F ? (int32_t)ids->data[i] : -1;
        }
        fga_status status = fgv_encode_text(v->model, v->compute, exact, (int)ids->count, got);
        code = status == FGA_OK ? CLI_DONE : fail(v, status);
    }
    if (code == CLI_DONE) {
        row(v, "text encoder", compare(got, want->data, want->count), limit);
    }
    free(exact);
    free(got);
    return code;
}

static int check_text(verification *v)
{
    cli_tensor ids, rows;
    int code = cli_golden_get(v->golden, "text.ids", 1, &ids);
    code = code == CLI_DONE ? cli_golden_get(v->golden, "text.rows", 2, &rows) : code;
    if (code == CLI_DONE && (ids.count > TEXT_ROWS || rows.shape[0] != ids.count ||
                             rows.shape[1] != fgv_model_describe(v->model).text_dim)) {
        return mismatch("text.rows");
    }
    code = code == CLI_DONE ? check_ids(v, &ids) : code;
    return code == CLI_DONE ? check_rows(v, &ids, &rows) : code;
}

static int check_schedule(verification *v, fgv_sampler kind, const char *label, const char *prefix)
{
    cli_tensor steps, shift, sigmas, timesteps;
    char name[64];
    int code = cli_golden_get(v->golden, "sampler.steps", 1, &steps);
    code = code == CLI_DONE ? cli_golden_get(v->golden, "sampler.shift", 1, &shift) : code;
    snprintf(name, sizeof name, "%s.sigmas", prefix);
    code = code == CLI_DONE ? cli_golden_get(v->golden, name, 1, &sigmas) : code;
    snprintf(name, sizeof name, "%s.timesteps", prefix);
    code = code == CLI_DONE ? cli_golden_get(v->golden, name, 1, &timesteps) : code;
    if (code != CLI_DONE) {
        return code;
    }
    int n = steps.count == 1 && steps.data[0] >= 1 && steps.data[0] <= 1000 ? (int)steps.data[0] : 0;
    if (n == 0 || shift.count != 1 || sigmas.count != n + 1 || timesteps.count != n) {
        return mismatch(name);
    }
    double got[2001];
    fga_status status = fgv_sampler_schedule(v->ctx, kind, n, (double)shift.data[0], got, got + n + 1);
    if (status != FGA_OK) {
        return fail(v, status);
    }
    float single[2001];
    for (int i = 0; i < 2 * n + 1; i++) {
        single[i] = (float)got[i];
    }
    snprintf(name, sizeof name, "%s sigmas", label);
    row(v, name, compare(single, sigmas.data, n + 1), (errors){limit_f32, limit_f32});
    snprintf(name, sizeof name, "%s timesteps", label);
    row(v, name, compare(single + n + 1, timesteps.data, n), (errors){limit_f32, limit_f32});
    return CLI_DONE;
}

static int check_transformer(verification *v)
{
    cli_tensor latents, text, timestep, want;
    errors limit;
    int code = cli_golden_get(v->golden, "dit.latents", 4, &latents);
    code = code == CLI_DONE ? cli_golden_get(v->golden, "dit.text", 2, &text) : code;
    code = code == CLI_DONE ? cli_golden_get(v->golden, "dit.timestep", 1, &timestep) : code;
    code = code == CLI_DONE ? cli_golden_get(v->golden, "dit.out", 4, &want) : code;
    code = code == CLI_DONE ? stage_limit(v, "dit.bf16_error", &limit) : code;
    if (code != CLI_DONE) {
        return code;
    }
    fgv_model_info about = fgv_model_describe(v->model);
    if (timestep.count != 1 || memcmp(latents.shape, want.shape, sizeof want.shape) != 0 ||
        latents.shape[0] != about.latent_channels || text.shape[0] < 1 || text.shape[0] > 512 ||
        text.shape[1] != about.text_dim) {
        return mismatch("dit.out");
    }
    float *got = calloc((size_t)want.count + 1, sizeof *got);
    if (got == NULL) {
        return cli_fail(CLI_NO_MEMORY, "no memory for the transformer's output");
    }
    fga_status status =
        fgv_dit_forward(v->model, v->compute, latents.data, (int)latents.shape[1], (int)latents.shape[2],
                        (int)latents.shape[3], text.data, (int)text.shape[0], (double)timestep.data[0], got);
    if (status == FGA_OK) {
        row(v, "transformer", compare(got, want.data, want.count), limit);
    }
    free(got);
    return status == FGA_OK ? CLI_DONE : fail(v, status);
}

static int check_decoder(verification *v)
{
    cli_tensor latents, want;
    errors limit;
    int code = cli_golden_get(v->golden, "vae.latents", 4, &latents);
    code = code == CLI_DONE ? cli_golden_get(v->golden, "vae.frames", 4, &want) : code;
    code = code == CLI_DONE ? stage_limit(v, "vae.bf16_error", &limit) : code;
    if (code != CLI_DONE) {
        return code;
    }
    fgv_model_info about = fgv_model_describe(v->model);
    if (latents.shape[0] != about.latent_channels || latents.shape[1] < 1 ||
        want.shape[0] != (latents.shape[1] - 1) * about.vae_t + 1 || want.shape[1] != 3 ||
        want.shape[2] != latents.shape[2] * about.vae_s || want.shape[3] != latents.shape[3] * about.vae_s) {
        return mismatch("vae.frames");
    }
    float *got = calloc((size_t)want.count + 1, sizeof *got);
    if (got == NULL) {
        return cli_fail(CLI_NO_MEMORY, "no memory for the decoded frames");
    }
    fga_status status = fgv_vae_decode(v->model, v->compute, latents.data, (int)latents.shape[1], (int)latents.shape[2],
                                       (int)latents.shape[3], got, NULL, NULL);
    if (status == FGA_OK) {
        row(v, "video decoder", compare(got, want.data, want.count), limit);
    }
    free(got);
    return status == FGA_OK ? CLI_DONE : fail(v, status);
}

/* ---- the command ---------------------------------------------------------------------------------- */

static int check_all(verification *v)
{
    printf("%-22s%12s%12s%12s%12s\n", "stage", "norm error", "limit", "max error", "limit");
    int code = check_noise(v);
    code = code == CLI_DONE ? check_schedule(v, FGV_SAMPLER_UNIPC, "UniPC", "sampler") : code;
    code = code == CLI_DONE ? check_schedule(v, FGV_SAMPLER_EULER, "Euler", "sampler.euler") : code;
    code = code == CLI_DONE ? check_text(v) : code;
    code = code == CLI_DONE ? check_transformer(v) : code;
    code = code == CLI_DONE ? check_decoder(v) : code;
    if (code == CLI_DONE && v->failed > 0) {
        code = cli_fail(CLI_ERROR, "%d of %d stages are further from the golden tensors than allowed", v->failed,
                        v->checked);
    }
    return code;
}

int cli_verify(int argc, char **argv)
{
    static const char *const dtypes[] = {"f32", "bf16", NULL};
    const char *model = NULL, *path = NULL, *variant = NULL;
    int threads = 0, dtype = 0;
    const cli_option options[] = {
        {"golden", 'g', CLI_TEXT, &path, "FILE", .help = "golden tensors of the same checkpoint (required)", .low = 1},
        {"model", 'm', CLI_TEXT, &model, "DIR", .help = "the checkpoint; default: the toy model", .low = 1},
        {"dtype", 0, CLI_CHOICE, &dtype, "TYPE",
         .help =
             "f32 (default): errors up to 1e-5; bf16: up to 1.25 times\nthose of the reference's own bf16 arithmetic",
         .choices = dtypes},
        {"threads", 't', CLI_WHOLE, &threads, "N", .help = "default: every processor this process may use", .low = 1,
         .high = 1024},
        {"variant", 0, CLI_TEXT, &variant, "NAME", .help = "force one kernel family; `fgattn doctor` lists them",
         .low = 1},
        {0},
    };
    const cli_verb verb = {
        "verify",
        "--golden FILE [options]",
        "Runs every stage of a checkpoint on stored inputs and compares the outputs with those of diffusers and\n"
        "transformers. tests/golden/make_goldens.py makes the file. Exits with 1 when a stage is off.",
        options,
        0,
        "  python3 tests/golden/make_goldens.py verify --model DIR --out golden.safetensors\n"
        "  fgattn verify --model DIR --golden golden.safetensors\n",
    };
    int code = cli_parse(&verb, argc, argv, NULL);
    if (code == CLI_DONE && path == NULL) {
        code = cli_fail(CLI_USAGE, "verify: no --golden FILE; `fgattn verify --help` says how to make one");
    }
    if (code != CLI_DONE) {
        return code;
    }
    verification v = {.compute = dtype == 0 ? FGV_COMPUTE_F32 : FGV_COMPUTE_BF16};
    code = cli_open_context(threads, variant, &v.ctx);
    code = code == CLI_DONE ? cli_golden_open(path, &v.golden) : code;
    code = code == CLI_DONE ? cli_open_model(v.ctx, model, &v.model) : code;
    code = code == CLI_DONE ? check_all(&v) : code;
    cli_golden_close(&v.golden);
    fgv_model_close(&v.model);
    fga_context_destroy(&v.ctx);
    return code;
}
