/* A generation that is stopped and gone on with ends in the same bytes; a state that is damaged or of another run is
 * refused, with what is wrong named. */
#include "golden.h"

#include "fgvideo.h"

#include <unistd.h>

#define TINY "tests/golden/tiny"
#define STATE "test_resume.fgstate"

enum { STEPS = 7 };

typedef struct recording {
    float *latents;
    size_t elements;
    int frames, stop_after; /* steps; -1 = never */
    bool stop_in_decoder;
} recording;

static bool on_progress(void *user, const fgv_progress *p)
{
    recording *r = user;
    if (p->stage == FGV_STAGE_DECODE && r->stop_in_decoder) {
        return false;
    }
    return p->stage != FGV_STAGE_DENOISE || r->stop_after < 0 || p->done < r->stop_after;
}

static bool on_latents(void *user, const float *latents, int channels, int t, int h, int w)
{
    recording *r = user;
    r->elements = (size_t)channels * (size_t)t * (size_t)h * (size_t)w;
    r->latents = realloc(r->latents, r->elements * sizeof *latents);
    memcpy(r->latents, latents, r->elements * sizeof *latents);
    return true;
}

static bool on_frame(void *user, int index, const uint8_t *rgb)
{
    (void)rgb;
    recording *r = user;
    assert_int_equal(index, r->frames++);
    return true;
}

static fgv_model *open_model(fga_context *ctx)
{
    fgv_model *model;
    if (fgv_model_open(ctx, TINY, &model) != FGA_OK) {
        fail_msg("%s", fga_last_error(ctx));
    }
    return model;
}

static fga_context *make_context(int threads)
{
    fga_context_options options = fga_context_options_default();
    fga_context *ctx;
    options.threads = threads;
    assert_int_equal(fga_context_create(&options, &ctx), FGA_OK);
    return ctx;
}

static fgv_request request_of(fga_context *ctx, const fgv_model *model, const char *policy)
{
    fgv_request r = fgv_request_default(model);
    r.prompt = "a red ball";
    r.negative = "two words";
    r.width = r.height = 64;
    r.frames = 9;
    r.steps = STEPS;
    r.guidance = 3;
    r.seed = 11;
    r.compute = FGV_COMPUTE_F32;
    r.measure_fraction = 0.1;
    r.on_progress = on_progress;
    r.on_latents = on_latents;
    r.on_frame = on_frame;
    assert_int_equal(fga_policy_parse(ctx, policy, &r.policy), FGA_OK);
    return r;
}

/* The request, with what it does recorded; the status. */
static fga_status generate(fgv_model *model, fgv_request request, recording *r, fgv_result *result)
{
    request.user = r;
    r->frames = 0;
    return fgv_generate(model, &request, result);
}

static void forget_times(fga_session_report *r)
{
    r->score_s = r->attend_s = r->measure_s = 0;
    r->variant = NULL;
}

static void check_figures(fgv_result a, fgv_result b)
{
    assert_int_equal(a.steps_dense, b.steps_dense);
    assert_int_equal(a.steps_refresh, b.steps_refresh);
    assert_int_equal(a.steps_reuse, b.steps_reuse);
    forget_times(&a.attention);
    forget_times(&b.attention);
    assert_memory_equal(&a.attention, &b.attention, sizeof a.attention);
    assert_true(b.denoise_s > 0 && b.attention_s > 0 && b.denoise_s >= b.attention_s);
}

/* Stopped after every step in turn, by another number of threads each time. */
static void ends_in_the_same_bytes(void **state)
{
    (void)state;
    static const struct {
        const char *policy;
        fgv_sampler sampler;
        double guidance;
        fgv_compute compute;
    } runs[] = {
        {"dfs,block_m=16,tile_n=8,phases=1/7:0.4;4/7:0.2,refresh_every=2", FGV_SAMPLER_UNIPC, 3, FGV_COMPUTE_F32},
        {"fgdfs,block_m=16,group=16,phases=1/7:0.3,refresh_drop=0.01", FGV_SAMPLER_EULER, 1, FGV_COMPUTE_BF16},
        {"dfs,block_m=16,tile_n=8,phases=1/7:0.3,target_error=0.4", FGV_SAMPLER_UNIPC, 1, FGV_COMPUTE_F32},
        {"dense", FGV_SAMPLER_UNIPC, 3, FGV_COMPUTE_BF16}};
    for (size_t i = 0; i < sizeof runs / sizeof runs[0]; i++) {
        fga_context *ctx = make_context(2);
        fgv_model *model = open_model(ctx);
        fgv_request request = request_of(ctx, model, runs[i].policy);
        request.sampler = runs[i].sampler;
        request.guidance = runs[i].guidance;
        request.compute = runs[i].compute;
        recording whole = {.stop_after = -1}, part = {.stop_after = -1};
        fgv_result all, rest;
        assert_int_equal(generate(model, request, &whole, &all), FGA_OK);
        assert_int_equal(all.steps_kept, 0);
        request.state = STATE;
        for (int stop = 1; stop <= STEPS; stop++) {
            request.resume = false;
            part.stop_after = stop;
            assert_int_equal(generate(model, request, &part, &rest), FGA_ERR_INTERRUPTED);
            assert_int_equal(rest.steps_kept, stop);
            fga_context *other = make_context(1 + stop % 3);
            fgv_model *again = open_model(other);
            part.stop_after = -1;
            request.resume = true;
            if (generate(again, request, &part, &rest) != FGA_OK) {
                fail_msg("%s", fga_last_error(other));
            }
            assert_int_equal(rest.steps_kept, STEPS);
            assert_int_equal(part.elements, whole.elements);
            assert_memory_equal(part.latents, whole.latents, whole.elements * sizeof(float));
            assert_int_equal(part.frames, 9);
            check_figures(all, rest);
            fgv_model_close(&again);
            fga_context_destroy(&other);
        }
        assert_int_equal(access(STATE ".part", F_OK), -1);
        free(whole.latents);
        free(part.latents);
        fgv_model_close(&model);
        fga_context_destroy(&ctx);
    }
    unlink(STATE);
}

/* Twice stopped, the second time in the decoder. */
static void may_be_stopped_again(void **state)
{
    (void)state;
    fga_context *ctx = make_context(2);
    fgv_model *model = open_model(ctx);
    fgv_request request = request_of(ctx, model, "dfs,block_m=16,tile_n=8,phases=1/7:0.4");
    recording whole = {.stop_after = -1}, part = {.stop_after = 2};
    assert_int_equal(generate(model, request, &whole, NULL), FGA_OK);
    request.state = STATE;
    assert_int_equal(generate(model, request, &part, NULL), FGA_ERR_INTERRUPTED);
    request.resume = true;
    part.stop_after = 5;
    assert_int_equal(generate(model, request, &part, NULL), FGA_ERR_INTERRUPTED);
    part.stop_after = -1;
    part.stop_in_decoder = true;
    assert_int_equal(generate(model, request, &part, NULL), FGA_ERR_INTERRUPTED);
    memset(part.latents, 0, part.elements * sizeof(float));
    part.stop_in_decoder = false;
    assert_int_equal(generate(model, request, &part, NULL), FGA_OK);
    assert_memory_equal(part.latents, whole.latents, whole.elements * sizeof(float));
    free(whole.latents);
    free(part.latents);
    fgv_model_close(&model);
    fga_context_destroy(&ctx);
    unlink(STATE);
}

static void what_differs_is_named(void **state)
{
    (void)state;
    static const fga_override some[] = {{0, 0, 0, INT32_MAX, -1, "density=0.5"}};
    fga_context *ctx = make_context(2);
    fgv_model *model = open_model(ctx);
    fgv_request request = request_of(ctx, model, "dfs,block_m=16,tile_n=8,phases=1/7:0.4");
    recording part = {.stop_after = 3};
    request.state = STATE;
    assert_int_equal(generate(model, request, &part, NULL), FGA_ERR_INTERRUPTED);
    request.resume = true;
    for (int i = 0; i < 14; i++) {
        static const char *const names[] = {"prompt", "negative", "size",  "frames",  "steps",     "guidance",  "shift",
                                            "seed",   "sampler",  "dtype", "measure", "attention", "overrides", NULL};
        fgv_request r = request;
        part.stop_after = -1;
        r.prompt = i == 0 ? "a red bull" : r.prompt;
        r.negative = i == 1 ? "" : r.negative;
        r.width = i == 2 ? 48 : r.width;
        r.frames = i == 3 ? 5 : r.frames;
        r.steps = i == 4 ? 8 : r.steps;
        r.guidance = i == 5 ? 3.5 : r.guidance;
        r.shift = i == 6 ? 4 : r.shift;
        r.seed = i == 7 ? 12 : r.seed;
        r.sampler = i == 8 ? FGV_SAMPLER_EULER : r.sampler;
        r.compute = i == 9 ? FGV_COMPUTE_BF16 : r.compute;
        r.measure_fraction = i == 10 ? 0.2 : r.measure_fraction;
        r.policy.tile_n = i == 11 ? 4 : r.policy.tile_n;
        r.overrides = i == 12 ? some : NULL;
        r.override_count = i == 12;
        fga_status status = generate(model, r, &part, NULL);
        if (names[i] == NULL) {
            assert_int_equal(status, FGA_OK);
            continue;
        }
        char wanted[64];
        snprintf(wanted, sizeof wanted, STATE " is of another run: %s was", names[i]);
        assert_int_equal(status, FGA_ERR_ARGUMENT);
        assert_non_null(strstr(fga_last_error(ctx), wanted));
    }
    free(part.latents);
    fgv_model_close(&model);
    fga_context_destroy(&ctx);
    unlink(STATE);
}

static uint8_t *read_all(const char *path, size_t *size)
{
    FILE *file = fopen(path, "rb");
    assert_non_null(file);
    fseek(file, 0, SEEK_END);
    *size = (size_t)ftell(file);
    rewind(file);
    uint8_t *bytes = malloc(*size);
    assert_int_equal(fread(bytes, 1, *size, file), *size);
    fclose(file);
    return bytes;
}

static void write_all(const char *path, const uint8_t *bytes, size_t size)
{
    FILE *file = fopen(path, "wb");
    assert_non_null(file);
    assert_int_equal(fwrite(bytes, 1, size, file), size);
    assert_int_equal(fclose(file), 0);
}

/* Cut short anywhere, or with any byte changed, a state is refused as such, and nothing is generated. */
static void damage_is_refused(void **state)
{
    (void)state;
    fga_context *ctx = make_context(1);
    fgv_model *model = open_model(ctx);
    fgv_request request = request_of(ctx, model, "dfs,block_m=16,tile_n=8,phases=1/7:0.4");
    recording part = {.stop_after = 3};
    size_t size;
    request.width = request.height = 32;
    request.frames = 5;
    request.state = STATE;
    assert_int_equal(generate(model, request, &part, NULL), FGA_ERR_INTERRUPTED);
    uint8_t *bytes = read_all(STATE, &size);
    request.resume = true;
    for (size_t cut = 0; cut < size; cut += 1 + size / 40) {
        write_all(STATE, bytes, cut);
        assert_int_equal(generate(model, request, &part, NULL), FGA_ERR_DATA);
        assert_non_null(strstr(fga_last_error(ctx), STATE));
    }
    for (size_t at = 0; at < size; at += 1 + size / 150) {
        bytes[at] ^= 0x11;
        write_all(STATE, bytes, size);
        assert_int_equal(generate(model, request, &part, NULL), FGA_ERR_DATA);
        bytes[at] ^= 0x11;
    }
    unlink(STATE);
    assert_int_equal(generate(model, request, &part, NULL), FGA_ERR_IO);
    assert_int_equal(part.frames, 0);
    request.state = "/nowhere/at/all.fgstate";
    request.resume = false;
    part.stop_after = -1;
    assert_int_equal(generate(model, request, &part, NULL), FGA_ERR_IO); /* after the first step, not the last */
    assert_non_null(strstr(fga_last_error(ctx), "/nowhere/at/all.fgstate"));
    request.state = NULL;
    request.resume = true;
    assert_int_equal(generate(model, request, &part, NULL), FGA_ERR_ARGUMENT);
    free(bytes);
    free(part.latents);
    fgv_model_close(&model);
    fga_context_destroy(&ctx);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ends_in_the_same_bytes),
        cmocka_unit_test(may_be_stopped_again),
        cmocka_unit_test(what_differs_is_named),
        cmocka_unit_test(damage_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
