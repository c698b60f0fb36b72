/* doctor.c - `fgattn doctor`: what this machine has, which kernels run on it and why, and what a job would need. */
#define _DEFAULT_SOURCE
#include "job.h"
#include "plan.h"

#include <cjson/cJSON.h>
#include <oneapi/dnnl/dnnl.h>
#include <png.h>
#include <string.h>

/* Copies the value of the first "key : value" line of /proc/cpuinfo that has one of `keys`. */
static bool processor_line(const char *const *keys, char *value, size_t bytes)
{
    FILE *file = fopen("/proc/cpuinfo", "r");
    if (file == NULL) {
        return false;
    }
    static char line[16384];
    bool found = false;
    while (!found && fgets(line, sizeof line, file) != NULL) {
        for (int i = 0; keys[i] != NULL && !found; i++) {
            size_t length = strlen(keys[i]);
            const char *colon = strchr(line, ':');
            if (strncmp(line, keys[i], length) == 0 && colon != NULL &&
                strspn(line + length, " \t") + line + length == colon) {
                colon += 1 + strspn(colon + 1, " \t");
                snprintf(value, bytes, "%.*s", (int)strcspn(colon, "\n"), colon);
                found = true;
            }
        }
    }
    fclose(file);
    return found;
}

static void print_features(void)
{
    /* The ones the kernels use or could use; the list of a processor runs to a hundred. */
    static const char *const interesting[] = {"avx2",     "fma",      "f16c",        "avx512f",     "avx512bw",
                                              "avx512dq", "avx512vl", "avx512_vnni", "avx512_bf16", "avx512_fp16",
                                              "amx_tile", "amx_bf16", "asimd",       "bf16",        "sve"};
    static char flags[16384];
    if (!processor_line((const char *const[]){"flags", "Features", NULL}, flags, sizeof flags)) {
        printf("  %-14sunknown\n", "features");
        return;
    }
    printf("  %-14s", "features");
    bool any = false;
    for (size_t i = 0; i < sizeof interesting / sizeof interesting[0]; i++) {
        size_t length = strlen(interesting[i]);
        for (const char *word = flags; *word != '\0'; word += strcspn(word, " "), word += strspn(word, " ")) {
            if (strcspn(word, " ") == length && strncmp(word, interesting[i], length) == 0) {
                printf("%s%s", any ? " " : "", interesting[i]);
                any = true;
                break;
            }
        }
    }
    puts(any ? "" : "none that a kernel uses");
}

static void print_machine(int threads)
{
    char name[256];
    bool known = processor_line((const char *const[]){"model name", "Model", "Hardware", NULL}, name, sizeof name);
    printf("machine\n  %-14s%s\n", "processor", known ? name : "unknown");
    print_features();
    printf("  %-14s%d\n", "threads", threads);
    uint64_t total = cli_memory_total(), available = cli_memory_available();
    printf("  %-14s", "memory");
    if (total == UINT64_MAX || available == UINT64_MAX) {
        puts("unknown");
    } else {
        printf("%s, of which %s available\n", cli_bytes(total).text, cli_bytes(available).text);
    }
}

/* Families for programs that bring a CUDA context: this one does not. */
static bool is_cuda(const char *variant)
{
    return strncmp(variant, "sm", 2) == 0;
}

static void print_libraries(void)
{
    const dnnl_version_t *dnnl = dnnl_version();
    printf("\nlibraries\n  %-14s%d.%d.%d\n", "oneDNN", dnnl->major, dnnl->minor, dnnl->patch);
    printf("  %-14s%s\n", "sentencepiece", FGATTN_SENTENCEPIECE_VERSION);
    printf("  %-14s%s\n", "libpng", png_get_libpng_ver(NULL));
    printf("  %-14s%s\n", "cJSON", cJSON_Version());
    char path[4096];
    if (cli_find_program("ffmpeg", path, sizeof path) != NULL) {
        printf("  %-14s%s\n", "ffmpeg", path);
    } else {
        printf("  %-14snot on PATH: no .mp4 (.png, .apng and .y4m work without it)\n", "ffmpeg");
    }
    bool cuda = false;
    for (int i = 0; i < fga_variant_count(); i++) {
        cuda = cuda || is_cuda(fga_variant_name(i));
    }
    printf("  %-14s%s: the processor computes everything here\n", "CUDA",
           cuda ? "kernels for programs that bring a CUDA context" : "not in this build");
}

static const char *needs(const char *variant)
{
    static const char *const known[][2] = {
        {"avx2", "AVX2, FMA and F16C"},
        {"avx512", "AVX-512 F, BW, DQ and VL"},
        {"avx512bf16", "AVX512_BF16"},
        {"amx", "AMX_TILE and AMX_BF16, and an operating system that grants the tile registers"},
    };
    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++) {
        if (strcmp(variant, known[i][0]) == 0) {
            return known[i][1];
        }
    }
    return "what this processor lacks";
}

/* Which family attention in `dtype` runs on, as a plan says; empty where none does. */
static cli_text attention_variant(fga_context *ctx, fga_dtype dtype)
{
    cli_text name = {""};
    fga_attend_desc desc = fga_attend_desc_default();
    desc.batch = desc.query_heads = desc.kv_heads = 1;
    desc.query_len = desc.key_len = 1024;
    desc.head_dim = 128;
    desc.dtype = dtype;
    fga_attend_plan *plan = NULL;
    if (fga_attend_plan_create(ctx, &desc, &plan) == FGA_OK) {
        snprintf(name.text, sizeof name.text, "%s", fga_attend_plan_variant(plan));
    }
    fga_attend_plan_destroy(&plan);
    return name;
}

static void print_kernels(fga_context *ctx)
{
    cli_text f32 = attention_variant(ctx, FGA_F32), f16 = attention_variant(ctx, FGA_F16);
    cli_text best = attention_variant(ctx, FGA_BF16);
    puts("\nkernel families (--variant NAME forces one)");
    for (int i = 0; i < fga_variant_count(); i++) {
        const char *name = fga_variant_name(i);
        printf("  %-14s", name);
        if (is_cuda(name)) {
            printf("for CUDA contexts, compute capability %c.%c\n", name[2], name[3]);
        } else if (!fga_variant_runs_here(i)) {
            printf("does not run here: needs %s\n", needs(name));
        } else if (strcmp(name, best.text) == 0) {
            puts("runs here; the default, because it is the fastest that does");
        } else {
            puts(i == 0 ? "runs anywhere: plain C, the reference for the others" : "runs here");
        }
    }
    printf("  attention in f32 runs on %s, in f16 on %s, in bf16 on %s\n", f32.text, f16.text, best.text);
    printf("  --dtype auto is %s here\n", fgv_compute_name(FGV_COMPUTE_AUTO));
}

/* ---- a checkpoint and a job ----------------------------------------------------------------------- */

typedef struct job {
    const char *model;
    int size[2], frames;
    bool size_given, frames_given;
} job;

static cli_text millions(int64_t parameters)
{
    cli_text t;
    snprintf(t.text, sizeof t.text, "%.1f M", (double)parameters / 1e6);
    return t;
}

static int print_memory(fga_context *ctx, const fgv_model *model, fgv_request *request, const char *attention)
{
    uint64_t bytes = 0, available = cli_memory_available();
    fga_status status = fga_policy_parse(ctx, attention, &request->policy);
    status = status == FGA_OK ? fgv_request_check(model, request) : status;
    status = status == FGA_OK ? fgv_predict_memory(model, request, &bytes) : status;
    if (status != FGA_OK) {
        return cli_fail_status(ctx, status);
    }
    printf("    %-44s%s: %s\n", attention, cli_bytes(bytes).text,
           available == UINT64_MAX ? "how much is available is unknown"
           : bytes <= available    ? "enough is available"
                                   : "more than is available");
    return CLI_DONE;
}

static int print_job(fga_context *ctx, const job *j)
{
    fgv_model *model = NULL;
    int code = cli_open_model(ctx, j->model, &model);
    if (code != CLI_DONE) {
        return code;
    }
    fgv_model_info about = fgv_model_describe(model);
    printf("\nmodel %s: complete, every tensor as expected\n", about.directory);
    printf("  %-14s%d layers, %d heads x %d; parameters: transformer %s, text %s, video decoder %s\n", "shape",
           about.layers, about.heads, about.head_dim, millions(about.dit_parameters).text,
           millions(about.text_parameters).text, millions(about.vae_parameters).text);
    fgv_request request = fgv_request_default(model);
    request.prompt = "";
    if (j->size_given) {
        request.width = j->size[0];
        request.height = j->size[1];
    }
    request.frames = j->frames_given ? j->frames : request.frames;
    const char *preset = NULL;
    code = cli_default_preset(ctx, cli_dtype_of(request.compute), &preset);
    if (code == CLI_DONE) {
        printf("  %-14s%dx%d, %d frames need at most about, with --attention\n", "job", request.width, request.height,
               request.frames);
        code = print_memory(ctx, model, &request, preset);
    }
    for (int i = 0; i < 2 && code == CLI_DONE; i++) {
        code = print_memory(ctx, model, &request, (const char *[]){"dfs", "dense"}[i]);
    }
    fgv_model_close(&model);
    return code;
}

/* ---- the command ------------------------------------------------------------------------------------ */

int cli_doctor(int argc, char **argv)
{
    job j = {0};
    const cli_option options[] = {
        {"model", 'm', CLI_TEXT, &j.model, "DIR", .help = "check this checkpoint too, and the memory it needs",
         .low = 1},
        {"size", 's', CLI_SIZE, j.size, "WxH", .help = "of the job to predict; default: the model's own",
         .given = &j.size_given},
        {"frames", 'f', CLI_WHOLE, &j.frames, "N", .help = "of the job to predict; default: the model's own", .low = 1,
         .high = 100000, .given = &j.frames_given},
        {0},
    };
    const cli_verb verb = {
        "doctor",
        "[options]",
        "Says what this machine has, which kernels run on it and why, which libraries were found, and what a job "
        "needs.",
        options,
        0,
        "  fgattn doctor\n"
        "  fgattn doctor --model Wan2.1-T2V-1.3B-Diffusers --size 832x480 --frames 81\n",
    };
    int code = cli_parse(&verb, argc, argv, NULL);
    if (code == CLI_DONE && j.model == NULL && (j.size_given || j.frames_given)) {
        code = cli_fail(CLI_USAGE, "doctor: --size and --frames describe a job of --model DIR, which is missing");
    }
    fga_context *ctx = NULL;
    code = code == CLI_DONE ? cli_open_context(0, NULL, &ctx) : code;
    if (code != CLI_DONE) {
        return code;
    }
    printf("fgattn %s\n\n", fga_version());
    print_machine(fga_context_threads(ctx));
    print_kernels(ctx);
    print_libraries();
    code = j.model != NULL ? print_job(ctx, &j) : CLI_DONE;
    fga_context_destroy(&ctx);
    return code;
}
