/* bench_vae.c - time and peak memory of decoding against the length of the clip.
 *
 *   bench_vae [--model DIR] [--size WxH] [--csv FILE] [FRAMES...]
 *
 * Decodes random latents for each frame count (default 17 and 81) in a child process of its own, so that one case's
 * peak is not another's, and prints seconds per frame, peak memory, and both as ratios to the first case.
 */
#include "fgvideo.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { MAX_CASES = 16 };

typedef struct options {
    const char *model, *csv;
    int width, height, cases, frames[MAX_CASES];
} options;

typedef struct outcome {
    double seconds;
    long peak_kb;
} outcome;

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static bool count_frame(void *user, int index, const uint8_t *rgb)
{
    (void)index;
    (void)rgb;
    ++*(int *)user;
    return true;
}

/* In the child: decodes and writes what it took to the pipe. */
static int decode(const options *o, int frames, int pipe_end)
{
    fga_context *ctx = NULL;
    fgv_model *model = NULL;
    float *latents = NULL;
    int code = 1, seen = 0;
    if (fga_context_create(NULL, &ctx) != FGA_OK || fgv_model_open(ctx, o->model, &model) != FGA_OK) {
        goto cleanup;
    }
    fgv_model_info about = fgv_model_describe(model);
    int t = (frames - 1) / about.vae_t + 1, h = o->height / about.vae_s, w = o->width / about.vae_s;
    int64_t count = (int64_t)about.latent_channels * t * h * w;
    latents = malloc((size_t)count * sizeof *latents);
    if (latents == NULL) {
        goto cleanup;
    }
    fgv_randn(0, latents, count);
    double start = now();
    fga_status status = fgv_vae_decode(model, FGV_COMPUTE_F32, latents, t, h, w, NULL, count_frame, &seen);
    outcome result = {.seconds = now() - start};
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    result.peak_kb = usage.ru_maxrss;
    code = status == FGA_OK && seen == frames && write(pipe_end, &result, sizeof result) == sizeof result ? 0 : 1;
cleanup:
    if (code != 0) {
        fprintf(stderr, "bench_vae: %d frames: %s\n", frames, ctx != NULL ? fga_last_error(ctx) : "no context");
    }
    free(latents);
    fgv_model_close(&model);
    fga_context_destroy(&ctx);
    return code;
}

static bool run_case(const options *o, int frames, outcome *result)
{
    int ends[2], status;
    if (pipe(ends) != 0) {
        return false;
    }
    pid_t child = fork();
    if (child == 0) {
        _exit(decode(o, frames, ends[1]));
    }
    close(ends[1]);
    bool told = child > 0 && read(ends[0], result, sizeof *result) == sizeof *result;
    close(ends[0]);
    return child > 0 && waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 0 && told;
}

static bool parse(int argc, char **argv, options *o)
{
    *o = (options){.model = "models/toy", .width = 256, .height = 256};
    for (int i = 1; i < argc; i++) {
        bool more = i + 1 < argc;
        if (strcmp(argv[i], "--model") == 0 && more) {
            o->model = argv[++i];
        } else if (strcmp(argv[i], "--csv") == 0 && more) {
            o->csv = argv[++i];
        } else if (strcmp(argv[i], "--size") == 0 && more) {
            if (sscanf(argv[++i], "%dx%d", &o->width, &o->height) != 2) {
                return false;
            }
        } else if (argv[i][0] != '-' && o->cases < MAX_CASES && atoi(argv[i]) > 0) {
            o->frames[o->cases++] = atoi(argv[i]);
        } else {
            return false;
        }
    }
    if (o->cases == 0) {
        o->frames[o->cases++] = 17;
        o->frames[o->cases++] = 81;
    }
    return true;
}

int main(int argc, char **argv)
{
    options o;
    if (!parse(argc, argv, &o)) {
        fputs("usage: bench_vae [--model DIR] [--size WxH] [--csv FILE] [FRAMES...]\n", stderr);
        return 2;
    }
    FILE *csv = o.csv != NULL ? fopen(o.csv, "w") : NULL;
    if (o.csv != NULL && csv == NULL) {
        perror(o.csv);
        return 1;
    }
    static const char *const columns = "width,height,frames,decode_s,s_per_frame,peak_kb,peak_ratio";
    if (csv != NULL) {
        fprintf(csv, "%s\n", columns);
    }
    puts(columns);
    outcome first = {0};
    for (int i = 0; i < o.cases; i++) {
        outcome r;
        if (!run_case(&o, o.frames[i], &r)) {
            return 1;
        }
        first = i == 0 ? r : first;
        FILE *const files[] = {stdout, csv};
        for (int f = 0; f < 2 && files[f] != NULL; f++) {
            fprintf(files[f], "%d,%d,%d,%.2f,%.3f,%ld,%.3f\n", o.width, o.height, o.frames[i], r.seconds,
                    r.seconds / o.frames[i], r.peak_kb, (double)r.peak_kb / (double)first.peak_kb);
        }
    }
    return csv != NULL && fclose(csv) != 0 ? 1 : 0;
}
