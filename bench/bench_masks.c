/* bench_masks.c - is the predicted mask worth predicting? `dfs` against a random mask and a local window.
 *
 *   bench_masks [--model DIR] [--prompts FILE] [--size WxH] [--frames N] [--steps N] [--csv FILE]
 *
 * For every prompt (one a line; its line number is the seed) four videos are generated: dense, and three that share
 * order, tiles, densities and dense steps and differ only in the score: dfs's pooled mass, random numbers, nearness to
 * the query block along the order. Printed: measured output error, and PSNR against the dense video where it moves.
 */
#include "fgvideo.h"
#include "provenance.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_PROMPTS = 256, MAX_LINE = 512 };

typedef struct film {
    uint8_t *rgb;
    size_t frame_bytes;
} film;

typedef struct options {
    const char *model, *prompts, *csv;
    int width, height, frames, steps; /* 0 = the model's default */
} options;

static bool keep_frame(void *user, int index, const uint8_t *rgb)
{
    film *f = user;
    memcpy(f->rgb + (size_t)index * f->frame_bytes, rgb, f->frame_bytes);
    return true;
}

static uint64_t mix(uint64_t x) /* splitmix64's finaliser */
{
    x ^= x >> 30;
    x *= 0xbf58476d1ce4e5b9u;
    x ^= x >> 27;
    x *= 0x94d049bb133111ebu;
    return x ^ (x >> 31);
}

static void random_scores(void *user, const fga_score_row *row, float *scores)
{
    (void)user;
    uint64_t key = mix(mix((uint64_t)row->step * 4096 + (uint64_t)row->layer) * 16 + (uint64_t)row->branch);
    key = mix(key + (uint64_t)row->head * 1000003 + (uint64_t)row->block);
    for (int64_t v = 0; v < row->tiles; v++) {
        scores[v] = (float)(mix(key + (uint64_t)v * 0x9e3779b97f4a7c15u) >> 40);
    }
}

static void window_scores(void *user, const fga_score_row *row, float *scores)
{
    (void)user; /* square tiles: block u and tile v start at the same tokens */
    for (int64_t v = 0; v < row->tiles; v++) {
        scores[v] = -(float)llabs(row->block - v);
    }
}

static const struct contender {
    const char *name, *policy;
    fga_score_fn custom;
} contenders[] = {
    {"dense", "dense", NULL}, {"dfs", "dfs", NULL}, {"random", "dfs", random_scores}, {"window", "dfs", window_scores}};

enum { CONTENDERS = sizeof contenders / sizeof contenders[0], DFS = 1 };

typedef struct score {
    double error, psnr_moving, density;
} score;

static int fail(fga_context *ctx, const char *what)
{
    fprintf(stderr, "bench_masks: %s: %s\n", what, fga_last_error(ctx));
    return 1;
}

static int parse(int argc, char **argv, options *o)
{
    for (int i = 1; i + 1 < argc; i += 2) {
        const char *name = argv[i], *value = argv[i + 1];
        if (strcmp(name, "--model") == 0) {
            o->model = value;
        } else if (strcmp(name, "--prompts") == 0) {
            o->prompts = value;
        } else if (strcmp(name, "--csv") == 0) {
            o->csv = value;
        } else if (strcmp(name, "--size") == 0) {
            if (sscanf(value, "%dx%d", &o->width, &o->height) != 2) {
                fprintf(stderr, "bench_masks: --size %s, wanted WIDTHxHEIGHT\n", value);
                return 2;
            }
        } else if (strcmp(name, "--frames") == 0) {
            o->frames = atoi(value);
        } else if (strcmp(name, "--steps") == 0) {
            o->steps = atoi(value);
        } else {
            fprintf(stderr, "bench_masks: %s %s is not understood; the source's first comment says what is\n", name,
                    value);
            return 2;
        }
    }
    return argc % 2 == 1 ? 0 : 2;
}

/* One generation; scores it against `reference` unless that is NULL. */
static int film_one(fga_context *ctx, fgv_model *model, fgv_request request, const struct contender *who, film *out,
                    const film *reference, score *s)
{
    if (fga_policy_parse(ctx, who->policy, &request.policy) != FGA_OK) {
        return fail(ctx, who->name);
    }
    if (who->custom != NULL) {
        request.policy.score = FGA_SCORE_CUSTOM;
        request.policy.custom = who->custom;
    }
    request.on_frame = keep_frame;
    request.user = out;
    fgv_result result;
    if (fgv_generate(model, &request, &result) != FGA_OK) {
        return fail(ctx, who->name);
    }
    *s = (score){result.attention.output_error_mean, NAN, result.attention.sparse_kept / result.attention.sparse_total};
    if (reference != NULL) {
        fgv_comparison c;
        if (fgv_compare(ctx, out->rgb, reference->rgb, request.width, request.height, request.frames, &c, NULL, NULL) !=
            FGA_OK) {
            return fail(ctx, "compare");
        }
        s->psnr_moving = c.psnr_moving_db;
    }
    return 0;
}

static void print_head(FILE *file, int argc, char **argv, const fgv_request *r)
{
    fprintf(file, "# %dx%d, %d frames, %d steps\n", r->width, r->height, r->frames, r->steps);
    print_provenance(file, argc, argv);
    fputs("prompt,seed,mask,density_sparse,output_error,psnr_moving_db\n", file);
}

/* Both lines of the verdict: on how many prompts dfs has the lower error, and the mean gain in PSNR. */
static void print_verdict(score (*scores)[CONTENDERS], int prompts)
{
    for (int c = DFS + 1; c < CONTENDERS; c++) {
        int lower = 0;
        double gain = 0, ratio = 0;
        for (int i = 0; i < prompts; i++) {
            lower += scores[i][DFS].error < scores[i][c].error;
            gain += scores[i][DFS].psnr_moving - scores[i][c].psnr_moving;
            ratio += log(scores[i][DFS].error / scores[i][c].error);
        }
        printf("dfs against %-6s: lower output error on %d of %d prompts, %.2fx on (geometric) average; moving PSNR "
               "%+.2f dB on average\n",
               contenders[c].name, lower, prompts, exp(ratio / prompts), gain / prompts);
    }
}

int main(int argc, char **argv)
{
    options o = {.model = "models/toy", .prompts = "bench/prompts.txt"};
    int code = parse(argc, argv, &o);
    if (code != 0) {
        return code;
    }
    static score scores[MAX_PROMPTS][CONTENDERS];
    fga_context *ctx = NULL;
    fgv_model *model = NULL;
    FILE *list = fopen(o.prompts, "r"), *csv = o.csv != NULL ? fopen(o.csv, "w") : NULL;
    if (list == NULL || (o.csv != NULL && csv == NULL)) {
        perror(list == NULL ? o.prompts : o.csv);
        return 1;
    }
    if (fga_context_create(NULL, &ctx) != FGA_OK || fgv_model_open(ctx, o.model, &model) != FGA_OK) {
        return fail(ctx, o.model);
    }
    fgv_request request = fgv_request_default(model);
    request.width = o.width > 0 ? o.width : request.width;
    request.height = o.height > 0 ? o.height : request.height;
    request.frames = o.frames > 0 ? o.frames : request.frames;
    request.steps = o.steps > 0 ? o.steps : request.steps;
    request.prompt = "";
    if (fgv_request_check(model, &request) != FGA_OK) {
        return fail(ctx, "request");
    }
    film films[2];
    for (int i = 0; i < 2; i++) {
        films[i].frame_bytes = (size_t)request.width * (size_t)request.height * 3;
        films[i].rgb = malloc(films[i].frame_bytes * (size_t)request.frames);
        if (films[i].rgb == NULL) {
            fprintf(stderr, "bench_masks: no memory for %d frames\n", request.frames);
            return 1;
        }
    }
    if (csv != NULL) {
        print_head(csv, argc, argv, &request);
    }

    char line[MAX_LINE];
    int prompts = 0;
    while (code == 0 && prompts < MAX_PROMPTS && fgets(line, sizeof line, list) != NULL) {
        line[strcspn(line, "\n")] = '\0';
        request.prompt = line;
        request.seed = (uint64_t)prompts;
        for (int c = 0; code == 0 && c < CONTENDERS; c++) {
            score *s = &scores[prompts][c];
            code = film_one(ctx, model, request, &contenders[c], &films[c > 0], c > 0 ? &films[0] : NULL, s);
            if (code == 0 && c > 0) {
                printf("%3d  %-7s density %.3f  output error %.4f  moving PSNR %6.2f dB  %s\n", prompts,
                       contenders[c].name, s->density, s->error, s->psnr_moving, line);
                fflush(stdout);
            }
            if (code == 0 && c > 0 && csv != NULL) {
                fprintf(csv, "\"%s\",%" PRIu64 ",%s,%.4f,%.5f,%.3f\n", line, request.seed, contenders[c].name,
                        s->density, s->error, s->psnr_moving);
            }
        }
        prompts += code == 0;
    }
    if (code == 0 && prompts > 0) {
        print_verdict(scores, prompts);
    }
    for (int i = 0; i < 2; i++) {
        free(films[i].rgb);
    }
    fgv_model_close(&model);
    fga_context_destroy(&ctx);
    fclose(list);
    return csv != NULL && fclose(csv) != 0 ? 1 : code;
}
