/* doctor.c - `fgattn doctor`: what this machine has, which kernels run on it and why, and what a job would need. */
#define _DEFAULT_SOURCE
#include "cli.h"

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
    printf("  %-14snot in this build: the processor computes everything\n", "CUDA");
}

int cli_doctor(int argc, char **argv)
{
    const cli_option options[] = {{0}};
    const cli_verb verb = {
        "doctor",
        "[options]",
        "Says what this machine has, which kernels run on it and why, and which libraries were found.",
        options,
        0,
        "  fgattn doctor\n",
    };
    int code = cli_parse(&verb, argc, argv, NULL);
    if (code != CLI_DONE) {
        return code;
    }
    fga_context *ctx = NULL;
    fga_status status = fga_context_create(NULL, &ctx);
    if (status != FGA_OK) {
        return cli_fail_status(NULL, status);
    }
    printf("fgattn %s\n\n", fga_version());
    print_machine(fga_context_threads(ctx));
    print_libraries();
    fga_context_destroy(&ctx);
    return CLI_DONE;
}
