/* Whole runs against WanPipeline's in float64: noise, text, guidance, samplers, decoding; and what is refused. */
#include "golden.h"

#include "fgvideo.h"

#include <sys/stat.h>
#include <unistd.h>

#define TINY "tests/golden/tiny"

typedef struct recording {
    float *latents; /* [elements] */
    int64_t elements;
    uint8_t *rgb; /* [frames][height][width][3] */
    size_t frame_bytes;
    int frames;                 /* that came, in order */
    int calls[3], last_done[3]; /* of on_progress, by stage */
    int stop_stage, stop_done;  /* refuse to go on there; -1 = never */
    int stop_frame;
    bool stop_latents;
} recording;

static fgv_model *open_model(fga_context *ctx, const char *directory)
{
    fgv_model *model;
    if (fgv_model_open(ctx, directory, &model) != FGA_OK) {
        fail_msg("%s", fga_last_error(ctx));
    }
    return model;
}

static bool on_progress(void *user, const fgv_progress *p)
{
    recording *r = user;
    assert_in_range(p->stage, FGV_STAGE_TEXT, FGV_STAGE_DECODE);
    assert_true(p->done >= r->last_done[p->stage] && p->done <= p->total);
    assert_true((p->attention != NULL) == (p->stage == FGV_STAGE_DENOISE));
    r->calls[p->stage]++;
    r->last_done[p->stage] = p->done;
    return (int)p->stage != r->stop_stage || p->done < r->stop_done;
}

static bool on_frame(void *user, int index, const uint8_t *rgb)
{
    recording *r = user;
    assert_int_equal(index, r->frames);
    memcpy(r->rgb + (size_t)r->frames++ * r->frame_bytes, rgb, r->frame_bytes);
    return index != r->stop_frame;
}

static bool on_latents(void *user, const float *latents, int channels, int t, int h, int w)
{
    recording *r = user;
    assert_int_equal((int64_t)channels * t * h * w, r->elements);
    memcpy(r->latents, latents, (size_t)r->elements * sizeof *latents);
    return !r->stop_latents;
}

static recording start_recording(fgv_request *request)
{
    recording r = {.stop_stage = -1, .stop_frame = -1};
    r.elements = (int64_t)16 * ((request->frames - 1) / 4 + 1) * (request->height / 8) * (request->width / 8);
    r.frame_bytes = (size_t)request->width * (size_t)request->height * 3;
    r.latents = malloc((size_t)r.elements * sizeof *r.latents);
    r.rgb = malloc((size_t)request->frames * r.frame_bytes);
    assert_true(r.latents != NULL && r.rgb != NULL);
    request->on_progress = on_progress;
    request->on_frame = on_frame;
    request->on_latents = on_latents;
    return r;
}

static void free_recording(recording *r)
{
    free(r->latents);
    free(r->rgb);
}

typedef struct golden_run {
    const char *name, *prompt, *negative;
    uint64_t seed;
    int width, height, frames;
    double guidance, shift;
    fgv_sampler sampler;
} golden_run;

/* As tests/golden/pipeline/runs.json has them. */
static const golden_run runs[] = {
    {"unipc-guided", "A small red ball bounces over the checkered floor.",
     "色调艳丽，过曝，静态，细节模糊不清，字幕，风格，作品，画作，画面，静止，整体发灰，最差质量，低质量，JPEG压缩残留"
     "，"
     "丑陋的，残缺的，多余的手指，画得不好的手部，画得不好的脸部，畸形的，毁容的，形态畸形的肢体，手指融合，"
     "静止不动的画面，杂乱的背景，三条腿，背景人很多，倒着走",
     42, 48, 32, 5, 5.0, 3.0, FGV_SAMPLER_UNIPC},
    {"unipc-plain", "一只红色的球在草地上", "", 7, 32, 16, 9, 1.0, 5.0, FGV_SAMPLER_UNIPC},
    {"euler-guided", "A large blue cat runs across the green field, quickly.", "", 123, 16, 48, 5, 3.5, 3.0,
     FGV_SAMPLER_EULER}};

static fgv_request request_of(const fgv_model *model, const golden_run *run)
{
    fgv_request request = fgv_request_default(model);
    request.prompt = run->prompt;
    request.negative = run->negative;
    request.seed = run->seed;
    request.width = run->width;
    request.height = run->height;
    request.frames = run->frames;
    request.steps = 4;
    request.guidance = run->guidance;
    request.shift = run->shift;
    request.sampler = run->sampler;
    request.compute = FGV_COMPUTE_F32;
    return request;
}

static void generate(fga_context *ctx, fgv_model *model, fgv_request *request, recording *r, fgv_result *result)
{
    request->user = r;
    if (fgv_generate(model, request, result) != FGA_OK) {
        fail_msg("%s", fga_last_error(ctx));
    }
    assert_int_equal(r->frames, request->frames);
}

static void compare_frames(const golden_run *run, const recording *r, const float *raw)
{
    int64_t pixels = (int64_t)run->width * run->height;
    double squares = 0.0;
    for (int f = 0; f < run->frames; f++) {
        for (int64_t i = 0; i < 3 * pixels; i++) {
            double x = raw[f * 3 * pixels + i] * 0.5 + 0.5;
            x = rint((x < 0.0 ? 0.0 : x > 1.0 ? 1.0 : x) * 255.0);
            int got = r->rgb[(size_t)f * r->frame_bytes + (size_t)(3 * (i % pixels) + i / pixels)];
            assert_true(fabs(got - x) <= 1.0); /* a tie may fall to either side */
            squares += (got - x) * (got - x);
        }
    }
    double mean = squares / (double)(run->frames * 3 * pixels);
    assert_true(mean < 1e-3); /* 78 dB */
}

static void runs_equal_wan_pipeline(void **state)
{
    for (size_t i = 0; i < sizeof runs / sizeof *runs; i++) {
        golden_file file = golden_open("tests/golden/pipeline", runs[i].name);
        fgv_model *model = open_model(file.ctx, TINY);
        fgv_request request = request_of(model, &runs[i]);
        recording r = start_recording(&request);
        fgv_result result;
        generate(file.ctx, model, &request, &r, &result);
        int t = (runs[i].frames - 1) / 4 + 1, h = runs[i].height / 8, w = runs[i].width / 8;
        float *trace = golden_read(file.weights, FGV_SHAPE(5, 16, t, h, w), "trace");
        float *frames = golden_read(file.weights, FGV_SHAPE(runs[i].frames, 3, 8 * h, 8 * w), "frames");
        golden_assert_near(runs[i].name, r.latents, trace + 4 * r.elements, r.elements, 1e-5, 1e-5);
        compare_frames(&runs[i], &r, frames);

        assert_int_equal(result.tokens, t * (h / 2) * (w / 2));
        assert_int_equal(result.steps_dense, 4);
        assert_int_equal(result.steps_refresh + result.steps_reuse, 0);
        assert_string_equal(result.compute, "f32");
        assert_int_equal(result.attention.calls_dense, (request.guidance > 1.0 ? 2 : 1) * 4 * 2);
        assert_true(result.wall_s >= result.denoise_s && result.denoise_s >= result.attention_s);
        assert_true(result.predicted_bytes > 0);
        assert_int_equal(r.last_done[FGV_STAGE_TEXT], request.guidance > 1.0 ? 2 : 1);
        assert_int_equal(r.last_done[FGV_STAGE_DENOISE], 4);
        assert_int_equal(r.last_done[FGV_STAGE_DECODE], t);
        free(trace);
        free(frames);
        free_recording(&r);
        fgv_model_close(&model);
        golden_close(&file);
    }
    (void)state;
}

static void stages_agree_with_the_whole(void **state)
{
    fga_context *ctx = open_context(2);
    fgv_model *model = open_model(ctx, TINY);
    golden_run run = runs[1];
    fgv_request request = request_of(model, &run);
    request.steps = 1; /* one Euler step from sigma 1 to 0: the latents are noise - velocity */
    request.sampler = FGV_SAMPLER_EULER;
    recording r = start_recording(&request);
    fgv_result result;
    generate(ctx, model, &request, &r, &result);

    int32_t ids[512];
    int count;
    assert_int_equal(fgv_tokenize(model, run.prompt, ids, 512, &count), FGA_OK);
    int text_dim = fgv_model_describe(model).text_dim;
    float *text = malloc((size_t)count * (size_t)text_dim * sizeof *text);
    float *noise = malloc((size_t)r.elements * sizeof *noise), *velocity = malloc((size_t)r.elements * sizeof *noise);
    assert_true(text != NULL && noise != NULL && velocity != NULL);
    assert_int_equal(fgv_encode_text(model, FGV_COMPUTE_F32, ids, count, text), FGA_OK);
    fgv_randn(run.seed, noise, r.elements);
    assert_int_equal(fgv_dit_forward(model, FGV_COMPUTE_F32, noise, 3, 2, 4, text, count, 1000.0, velocity), FGA_OK);
    for (int64_t i = 0; i < r.elements; i++) {
        noise[i] -= velocity[i];
    }
    assert_memory_equal(noise, r.latents, (size_t)r.elements * sizeof *noise);

    recording again = start_recording(&request);
    float *raw = malloc((size_t)request.frames * r.frame_bytes * sizeof *raw);
    assert_non_null(raw);
    assert_int_equal(fgv_vae_decode(model, FGV_COMPUTE_F32, noise, 3, 2, 4, raw, on_frame, &again), FGA_OK);
    assert_memory_equal(again.rgb, r.rgb, (size_t)request.frames * r.frame_bytes);
    compare_frames(&run, &r, raw);
    free(raw);
    free(text);
    free(noise);
    free(velocity);
    free_recording(&r);
    free_recording(&again);
    fgv_model_close(&model);
    fga_context_destroy(&ctx);
    (void)state;
}

/* Sparse attention, guidance, measurement: the same bytes from one thread and from several. */
static void threads_do_not_change_bytes(void **state)
{
    uint8_t *first = NULL;
    float *first_latents = NULL;
    size_t bytes = 0;
    for (int threads = 1; threads <= 5; threads += 2) {
        fga_context *ctx = open_context(threads);
        fgv_model *model = open_model(ctx, TINY);
        fgv_request request = request_of(model, &runs[0]);
        request.measure_fraction = 1.0;
        assert_int_equal(
            fga_policy_parse(ctx, "dfs,block_m=16,tile_n=2,sub_q=4,sub_k=2,phases=1/4:0.5;3/4:0.3", &request.policy),
            FGA_OK);
        recording r = start_recording(&request);
        fgv_result result;
        generate(ctx, model, &request, &r, &result);
        assert_int_equal(result.steps_dense, 1);
        assert_int_equal(result.steps_refresh, 2);
        assert_int_equal(result.steps_reuse, 1);
        assert_true(result.attention.pairs_kept < result.attention.pairs_total);
        assert_true(result.attention.recall_mean > 0.3 && result.attention.recall_mean <= 1.0 + 1e-6);
        if (first == NULL) {
            first = r.rgb;
            first_latents = r.latents;
            bytes = (size_t)r.frames * r.frame_bytes;
        } else {
            assert_memory_equal(r.rgb, first, bytes);
            assert_memory_equal(r.latents, first_latents, (size_t)r.elements * sizeof *r.latents);
            free_recording(&r);
        }
        fgv_model_close(&model);
        fga_context_destroy(&ctx);
    }
    free(first);
    free(first_latents);
    (void)state;
}

/* One model, one video after the other, of other sizes, steps, guidance and policies: nothing of one is left in the
 * next. */
static void videos_do_not_mix(void **state)
{
    static const struct {
        int run, steps;
        const char *policy;
    } videos[] = {{0, 4, "fgdfs,group=8"},
                  {1, 20, "dfs,block_m=16,tile_n=2,sub_q=4,sub_k=2,phases=1/4:0.5"},
                  {2, 5, "fgdfs,block_m=32,group=8,density=0.2"},
                  {0, 4, "fgdfs,group=8"}};
    enum { VIDEOS = sizeof videos / sizeof videos[0] };
    fga_context *ctx = open_context(2);
    fgv_model *model = open_model(ctx, TINY);
    recording r[VIDEOS];
    for (int i = 0; i < VIDEOS; i++) {
        fgv_request request = request_of(model, &runs[videos[i].run]);
        request.steps = videos[i].steps;
        request.measure_fraction = 1.0;
        assert_int_equal(fga_policy_parse(ctx, videos[i].policy, &request.policy), FGA_OK);
        r[i] = start_recording(&request);
        fgv_result result;
        generate(ctx, model, &request, &r[i], &result);
        assert_int_equal(result.steps_dense + result.steps_refresh + result.steps_reuse, request.steps);
        assert_true(result.steps_refresh > 0 && result.attention.pairs_kept < result.attention.pairs_total);
    }
    assert_memory_equal(r[VIDEOS - 1].rgb, r[0].rgb, (size_t)r[0].frames * r[0].frame_bytes);
    assert_memory_equal(r[VIDEOS - 1].latents, r[0].latents, (size_t)r[0].elements * sizeof *r[0].latents);
    for (int i = 0; i < VIDEOS; i++) {
        free_recording(&r[i]);
    }
    fgv_model_close(&model);
    fga_context_destroy(&ctx);
    (void)state;
}

static void seeds_and_prompts_matter(void **state)
{
    fga_context *ctx = open_context(2);
    fgv_model *model = open_model(ctx, TINY);
    recording r[3];
    for (int i = 0; i < 3; i++) {
        fgv_request request = request_of(model, &runs[2]);
        request.seed += i == 1;
        request.prompt = i == 2 ? "another" : request.prompt;
        r[i] = start_recording(&request);
        fgv_result result;
        generate(ctx, model, &request, &r[i], &result);
    }
    for (int i = 1; i < 3; i++) {
        assert_memory_not_equal(r[0].rgb, r[i].rgb, (size_t)r[0].frames * r[0].frame_bytes);
    }
    for (int i = 0; i < 3; i++) {
        free_recording(&r[i]);
    }
    fgv_model_close(&model);
    fga_context_destroy(&ctx);
    (void)state;
}

static void stops_when_told(void **state)
{
    fga_context *ctx = open_context(2);
    fgv_model *model = open_model(ctx, TINY);
    for (int i = 0; i < 8; i++) {
        fgv_request request = request_of(model, &runs[2]);
        recording r = start_recording(&request);
        request.user = &r;
        if (i < 6) { /* at the start and in the middle of every stage */
            r.stop_stage = i / 2;
            r.stop_done = i % 2;
        }
        r.stop_latents = i == 6;
        r.stop_frame = i == 7 ? 2 : -1;
        fgv_result result;
        assert_int_equal(fgv_generate(model, &request, &result), FGA_ERR_INTERRUPTED);
        assert_non_null(strstr(fga_last_error(ctx), "stopped"));
        assert_int_equal(r.frames, i == 7 ? 3 : i == 5 ? 1 : 0);
        free_recording(&r);
    }
    fgv_request request = request_of(model, &runs[2]); /* and the model is as good as new; no callbacks, no result */
    request.steps = 1;
    assert_int_equal(fgv_generate(model, &request, NULL), FGA_OK);
    fgv_model_close(&model);
    fga_context_destroy(&ctx);
    (void)state;
}

static void refuse_request(fga_context *ctx, fgv_model *model, const fgv_request *request, const char *text)
{
    fgv_result result;
    uint64_t bytes;
    assert_int_equal(fgv_request_check(model, request), FGA_ERR_ARGUMENT);
    if (strstr(fga_last_error(ctx), text) == NULL) {
        fail_msg("'%s' does not say '%s'", fga_last_error(ctx), text);
    }
    assert_int_equal(fgv_generate(model, request, &result), FGA_ERR_ARGUMENT);
    assert_int_equal(fgv_predict_memory(model, request, &bytes), FGA_ERR_ARGUMENT);
}

static void absurd_requests_are_refused(void **state)
{
    fga_context *ctx = open_context(1);
    fgv_model *model = open_model(ctx, TINY);
    const fgv_request good = request_of(model, &runs[0]);
    assert_int_equal(fgv_request_check(model, &good), FGA_OK);
    enum { CASES = 26 };
    fgv_request r[CASES];
    for (int i = 0; i < CASES; i++) {
        r[i] = good;
    }
    int n = 0;
    const char *says[CASES];
#define CASE(field, value, text) (r[n].field = (value), says[n++] = (text))
    CASE(width, 250, "nearest are 240 and 256");
    CASE(width, 15, "the nearest is 16");
    CASE(width, 0, "width = 0");
    CASE(width, -16, "the nearest is 16");
    CASE(width, 16400, "end at 16384");
    CASE(height, 33, "height = 33: must be a multiple of 16; the nearest are 32 and 48");
    CASE(height, INT32_MAX, "end at 16384");
    CASE(frames, 80, "nearest are 77 and 81");
    CASE(frames, 82, "nearest are 81 and 85");
    CASE(frames, 0, "the nearest is 1");
    CASE(frames, -3, "the nearest is 1");
    CASE(frames, 4097, "end at 4093");
    CASE(frames, INT32_MAX, "end at 4093");
    CASE(steps, 0, "steps = 0");
    CASE(steps, 1000000000, "1 ... 1000");
    CASE(guidance, (double)NAN, "guidance = nan");
    CASE(guidance, -1.0, "guidance = -1");
    CASE(guidance, (double)INFINITY, "guidance = inf");
    CASE(shift, 0.0, "shift = 0");
    CASE(shift, (double)NAN, "shift = nan");
    CASE(sampler, (fgv_sampler)7, "sampler 7");
    CASE(compute, (fgv_compute)9, "compute = 9");
    CASE(measure_fraction, (double)NAN, "measure_fraction");
    CASE(measure_fraction, 1.5, "measure_fraction = 1.5");
    CASE(prompt, NULL, "no prompt");
    CASE(size, 8, "fgv_request_default");
#undef CASE
    assert_int_equal(n, CASES);
    for (int i = 0; i < CASES; i++) {
        refuse_request(ctx, model, &r[i], says[i]);
    }
    fgv_request bad = good;
    assert_int_equal(fga_policy_parse(ctx, "dfs", &bad.policy), FGA_OK);
    bad.policy.phase[0].density = NAN;
    refuse_request(ctx, model, &bad, "density");
    fgv_model_close(&model);
    fgv_model_close(NULL);
    fga_context_destroy(&ctx);
    (void)state;
}

static void prompts_that_are_no_text_are_refused(void **state)
{
    fga_context *ctx = open_context(1);
    fgv_model *model = open_model(ctx, TINY);
    fgv_request request = request_of(model, &runs[0]);
    request.prompt = "\xff\xfe";
    assert_int_equal(fgv_generate(model, &request, NULL), FGA_ERR_DATA);
    fgv_model_close(&model);
    fga_context_destroy(&ctx);
    (void)state;
}

/* ---- opening ------------------------------------------------------------------------------------------------------
 */

/* A copy of the tiny checkpoint in links, so that single files can be replaced. */
static void link_model(char *dir, size_t bytes)
{
    const char *base = getenv("TMPDIR");
    snprintf(dir, bytes, "%s/fgattn-model-XXXXXX", base != NULL ? base : "/tmp");
    assert_non_null(mkdtemp(dir));
    char here[2048], from[4096], to[4096];
    assert_non_null(getcwd(here, sizeof here));
    static const char *const parts[] = {"model_index.json", "scheduler",   "text_encoder",
                                        "tokenizer",        "transformer", "vae"};
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
        snprintf(from, sizeof from, "%s/" TINY "/%s", here, parts[i]);
        snprintf(to, sizeof to, "%s/%s", dir, parts[i]);
        assert_int_equal(symlink(from, to), 0);
    }
}

static void put_file(const char *dir, const char *name, const char *text)
{
    char path[4096];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    unlink(path);
    if (text == NULL) {
        return;
    }
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    fputs(text, file);
    assert_int_equal(fclose(file), 0);
}

static void unlink_model(const char *dir)
{
    static const char *const names[] = {"model_index.json", "scheduler", "text_encoder",   "tokenizer",
                                        "transformer",      "vae",       "vocabulary.txt", "default.json"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        put_file(dir, names[i], NULL);
    }
    assert_int_equal(rmdir(dir), 0);
}

static void refuse_model(fga_context *ctx, const char *dir, const char *text)
{
    fgv_model *model = (fgv_model *)ctx;
    assert_int_equal(fgv_model_open(ctx, dir, &model), FGA_ERR_DATA);
    assert_null(model);
    if (strstr(fga_last_error(ctx), text) == NULL) {
        fail_msg("'%s' does not say '%s'", fga_last_error(ctx), text);
    }
    assert_null(strchr(fga_last_error(ctx), '\n'));
}

static void no_checkpoints_are_refused(void **state)
{
    fga_context *ctx = open_context(1);
    char dir[1024];
    link_model(dir, sizeof dir);
    refuse_model(ctx, "tests/no/such/directory", "no such directory");
    refuse_model(ctx, "tests/golden/README.md", "no such directory");
    refuse_model(ctx, "tests/golden", "no model_index.json");
    static const struct {
        const char *name, *text, *says;
    } files[] = {
        {"model_index.json", "{\"_class_name\": \"FluxPipeline\"}", "WanPipeline"},
        {"model_index.json", "{\"_class_name\": \"WanPipeline\", \"boundary_ratio\": 0.875}", "Wan2.2"},
        {"model_index.json", "{\"_class_name\": \"WanPipeline\", \"expand_timesteps\": true}", "Wan2.2"},
        {"model_index.json", "not json", "model_index.json"},
        {"model_index.json", "{\"_class_name\": \"WanPipeline\"}", NULL},
        {"default.json", "{\"width\": \"wide\"}", "width"},
        {"default.json", "{\"steps\": 0}", "steps"},
        {"default.json", "{\"fps\": 0}", "fps 0"},
        {"default.json", "{\"shift\": -2}", "shift -2"},
        {"default.json", NULL, NULL},
        {"scheduler", "", NULL}, /* no such thing: Wan's own shift */
        {"vae", NULL, "vae"},
        {"tokenizer", NULL, "tokenizer"},
        {"text_encoder", NULL, "tokenizer"},
    };
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        put_file(dir, files[i].name, files[i].text);
        if (files[i].says != NULL) {
            refuse_model(ctx, dir, files[i].says);
            continue;
        }
        fgv_model *model = open_model(ctx, dir);
        assert_true(fgv_model_describe(model).shift == 3.0);
        fgv_model_close(&model);
    }
    unlink_model(dir);
    fga_context_destroy(&ctx);
    (void)state;
}

static void describes_itself(void **state)
{
    fga_context *ctx = open_context(1);
    char dir[1024], words[64];
    const char *list = "";
    link_model(dir, sizeof dir);
    fgv_model *model = open_model(ctx, dir);
    fgv_model_info info = fgv_model_describe(model);
    assert_true(info.width == 832 && info.height == 480 && info.frames == 81 && info.steps == 50);
    assert_true(info.guidance == 5.0 && info.shift == 3.0 && info.fps == 16.0);
    assert_string_equal(info.negative, "");
    assert_true(info.layers == 2 && info.heads == 3 && info.head_dim == 32);
    assert_true(info.patch_t == 1 && info.patch_h == 2 && info.patch_w == 2 && info.vae_t == 4 && info.vae_s == 8);
    assert_true(info.latent_channels == 16 && info.text_dim == 40);
    assert_int_equal(fgv_unknown_words(model, "anything goes", words, sizeof words, &list), 0);
    assert_null(list);
    fgv_model_close(&model);

    put_file(dir, "default.json",
             "{\"width\": 64, \"height\": 32, \"frames\": 17, \"steps\": 12, \"guidance\": 3.5, \"shift\": 2,"
             " \"negative_prompt\": \"grey\", \"fps\": 8}");
    put_file(dir, "vocabulary.txt", "a\nred\nball\nbounces\n");
    model = open_model(ctx, dir);
    info = fgv_model_describe(model);
    assert_true(info.width == 64 && info.height == 32 && info.frames == 17 && info.steps == 12);
    assert_true(info.guidance == 3.5 && info.shift == 2.0 && info.fps == 8.0);
    assert_string_equal(info.negative, "grey");
    fgv_request request = fgv_request_default(model);
    assert_true(request.width == 64 && request.frames == 17 && request.guidance == 3.5 && request.shift == 2.0);
    assert_int_equal(fgv_unknown_words(model, "A red, RED ball; Bounces!", words, sizeof words, &list), 0);
    assert_string_equal(words, "");
    assert_string_equal(list, "a red ball bounces ");
    assert_int_equal(fgv_unknown_words(model, "a bal bounces-high: redder, bal", words, sizeof words, NULL), 3);
    assert_string_equal(words, "bal, high, redder");
    assert_int_equal(fgv_unknown_words(model, "first second third", words, 12, NULL), 3);
    assert_string_equal(words, "first");
    assert_int_equal(fgv_unknown_words(model, "first", words, 0, NULL), 1);
    fgv_model_close(&model);
    unlink_model(dir);
    fga_context_destroy(&ctx);
    (void)state;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(runs_equal_wan_pipeline),
        cmocka_unit_test(stages_agree_with_the_whole),
        cmocka_unit_test(threads_do_not_change_bytes),
        cmocka_unit_test(videos_do_not_mix),
        cmocka_unit_test(seeds_and_prompts_matter),
        cmocka_unit_test(stops_when_told),
        cmocka_unit_test(absurd_requests_are_refused),
        cmocka_unit_test(describes_itself),
        cmocka_unit_test(prompts_that_are_no_text_are_refused),
        cmocka_unit_test(no_checkpoints_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
