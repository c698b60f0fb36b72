/* Captured attention inputs: what is written is what is read, in raster order, and what cannot be a capture is refused.
 */
#include "fgvideo.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

enum { FRAMES = 2, HEIGHT = 3, WIDTH = 2, TOKENS = FRAMES * HEIGHT * WIDTH, HEADS = 2, DIM = 8 };
enum { ELEMENTS = TOKENS * HEADS * DIM };

static char path[64];
static float values[3][ELEMENTS]; /* [token][head][channel] of the given order */
static int32_t reversed[TOKENS];

static fga_context *start(void)
{
    fga_context *ctx;
    assert_int_equal(fga_context_create(NULL, &ctx), FGA_OK);
    snprintf(path, sizeof path, "/tmp/fgattn-capture-%ld.safetensors", (long)getpid());
    for (int i = 0; i < ELEMENTS; i++) {
        values[0][i] = (float)i, values[1][i] = (float)-i, values[2][i] = 0.5f * (float)i;
    }
    for (int i = 0; i < TOKENS; i++) {
        reversed[i] = TOKENS - 1 - i;
    }
    return ctx;
}

static fgv_capture example(int step, int layer, int branch)
{
    return (fgv_capture){.step = step,
                         .steps = 4,
                         .layer = layer,
                         .layers = 2,
                         .branch = branch,
                         .frames = FRAMES,
                         .height = HEIGHT,
                         .width = WIDTH,
                         .q = fga_tensor_bshd(values[0], FGA_F32, 1, TOKENS, HEADS, DIM),
                         .k = fga_tensor_bshd(values[1], FGA_F32, 1, TOKENS, HEADS, DIM),
                         .v = fga_tensor_bshd(values[2], FGA_F32, 1, TOKENS, HEADS, DIM),
                         .scale = 0.25f};
}

static float at(const fga_tensor *t, int64_t head, int64_t token, int64_t channel)
{
    return ((const float *)t->data)[head * t->stride[1] + token * t->stride[2] + channel];
}

static void write_example(fga_context *ctx)
{
    fgv_capture_writer *writer;
    assert_int_equal(fgv_capture_create(ctx, path, 5, &writer), FGA_OK);
    fgv_capture c = example(3, 1, 0);
    c.order = reversed;
    assert_int_equal(fgv_capture_add(writer, &c), FGA_OK);
    c = example(1, 0, 1);
    assert_int_equal(fgv_capture_add(writer, &c), FGA_OK);
    assert_int_not_equal(access(path, F_OK), 0); /* not before it is complete */
    assert_int_equal(fgv_capture_finish(&writer), FGA_OK);
    assert_null(writer);
}

static void test_round_trip(void **state)
{
    (void)state;
    fga_context *ctx = start();
    write_example(ctx);
    fgv_capture_file *file;
    if (fgv_capture_open(ctx, path, &file) != FGA_OK) {
        fail_msg("%s", fga_last_error(ctx));
    }
    assert_int_equal(fgv_capture_count(file), 2);
    fgv_capture first = fgv_capture_get(file, 0), second = fgv_capture_get(file, 1);
    assert_true(first.step == 1 && first.layer == 0 && first.branch == 1);
    assert_true(second.step == 3 && second.layer == 1 && second.branch == 0);
    assert_true(first.frames == FRAMES && first.height == HEIGHT && first.width == WIDTH);
    assert_true(first.steps == 4 && first.layers == 2 && first.scale == 0.25f && first.order == NULL);
    for (int64_t h = 0; h < HEADS; h++) {
        for (int64_t i = 0; i < TOKENS; i++) {
            for (int64_t d = 0; d < DIM; d++) {
                int64_t here = (i * HEADS + h) * DIM + d, there = ((TOKENS - 1 - i) * HEADS + h) * DIM + d;
                assert_true(at(&first.q, h, i, d) == values[0][here] && at(&first.v, h, i, d) == values[2][here]);
                assert_true(at(&second.q, h, i, d) == values[0][there] && at(&second.k, h, i, d) == values[1][there]);
            }
        }
    }
    fgv_capture_close(&file);
    assert_null(file);
    remove(path);
    fga_context_destroy(&ctx);
}

static void test_refused_captures(void **state)
{
    (void)state;
    fga_context *ctx = start();
    fgv_capture_writer *writer;
    assert_int_equal(fgv_capture_create(ctx, path, 0, &writer), FGA_ERR_ARGUMENT);
    assert_int_equal(fgv_capture_create(ctx, "/nowhere/x", 1, &writer), FGA_ERR_IO);
    assert_null(writer);
    assert_int_equal(fgv_capture_create(ctx, path, 2, &writer), FGA_OK);
    fgv_capture c = example(0, 0, 0);
    c.width = 3;
    assert_int_equal(fgv_capture_add(writer, &c), FGA_ERR_ARGUMENT);
    c = example(-1, 0, 0);
    assert_int_equal(fgv_capture_add(writer, &c), FGA_ERR_ARGUMENT);
    c = example(0, 0, 0);
    c.k.dtype = FGA_BF16;
    assert_int_equal(fgv_capture_add(writer, &c), FGA_ERR_ARGUMENT);
    c = example(0, 0, 0);
    int32_t twice[TOKENS] = {0};
    c.order = twice;
    assert_int_equal(fgv_capture_add(writer, &c), FGA_ERR_ARGUMENT);
    static float more[8 * TOKENS * HEADS * DIM]; /* the first capture, though it failed, said how large all are */
    c = example(0, 0, 0);
    c.frames *= 8;
    c.q = fga_tensor_bshd(more, FGA_F32, 1, 8 * TOKENS, HEADS, DIM);
    c.k = c.v = c.q;
    assert_int_equal(fgv_capture_add(writer, &c), FGA_ERR_ARGUMENT);
    c = example(0, 0, 0);
    assert_int_equal(fgv_capture_add(writer, &c), FGA_OK);
    assert_int_equal(fgv_capture_add(writer, &c), FGA_ERR_ARGUMENT); /* the same place again */
    c = example(1, 0, 0);
    c.steps = 5;
    assert_int_equal(fgv_capture_add(writer, &c), FGA_ERR_ARGUMENT);
    c = example(1, 0, 0);
    assert_int_equal(fgv_capture_add(writer, &c), FGA_OK);
    c = example(2, 0, 0);
    assert_int_equal(fgv_capture_add(writer, &c), FGA_ERR_ARGUMENT); /* more than announced */
    fgv_capture_abandon(&writer);
    fgv_capture_abandon(&writer);
    assert_int_not_equal(access(path, F_OK), 0);

    assert_int_equal(fgv_capture_create(ctx, path, 2, &writer), FGA_OK);
    assert_int_equal(fgv_capture_finish(&writer), FGA_ERR_ARGUMENT); /* nothing was captured */
    assert_int_not_equal(access(path, F_OK), 0);
    assert_int_equal(fgv_capture_finish(NULL), FGA_OK);
    fga_context_destroy(&ctx);
}

/* The written file with `from` replaced by `to`, of the same length. */
static fga_status open_changed(fga_context *ctx, const char *from, const char *to)
{
    static char bytes[1 << 16];
    write_example(ctx);
    FILE *file = fopen(path, "rb");
    assert_non_null(file);
    size_t size = fread(bytes, 1, sizeof bytes, file);
    fclose(file);
    assert_true(size < sizeof bytes && strlen(from) == strlen(to));
    bool found = false;
    for (size_t i = 8; i + strlen(from) < size && !found; i++) {
        if (memcmp(bytes + i, from, strlen(from)) == 0) {
            memcpy(bytes + i, to, strlen(to));
            found = true;
        }
    }
    assert_true(found);
    file = fopen(path, "wb");
    assert_non_null(file);
    assert_int_equal(fwrite(bytes, 1, size, file), size);
    fclose(file);
    fgv_capture_file *opened;
    fga_status status = fgv_capture_open(ctx, path, &opened);
    assert_true((status == FGA_OK) == (opened != NULL));
    fgv_capture_close(&opened);
    remove(path);
    return status;
}

static void test_hostile_files(void **state)
{
    (void)state;
    fga_context *ctx = start();
    assert_int_equal(open_changed(ctx, "\"frames\":\"2\"", "\"frames\":\"2\""), FGA_OK);
    static const char *const changes[][2] = {
        {"\"frames\":\"2\"", "\"frames\":\"3\""},
        {"\"frames\":\"2\"", "\"frames\":\"0\""},
        {"\"frames\":\"2\"", "\"frames\": 2 "},
        {"\"frames\":\"2\"", "\"fromes\":\"2\""},
        {"\"width\":\"2\"", "\"width\":\"-\""},
        {"\"order\":\"raster\"", "\"order\":\"random\""},
        {"\"scale\":\"0.25\"", "\"scale\":\"-.25\""},
        {"\"scale\":\"0.25\"", "\"scale\":\"nan \""},
        {"\"steps\":\"4\"", "\"steps\":\"x\""},
        {"step.3.layer.1.branch.0.q", "step.3.layer.1.branch.0.x"},
        {"step.3.layer.1.branch.0.q", "step.x.layer.1.branch.0.q"},
        {"step.3.layer.1.branch.0.v", "step.2.layer.1.branch.0.v"},
        {"step.3.layer.1.branch.0.q", "step.03layer.1.branch.0.q"},
        {"[12,2,8]", "[12,8,2]"},
        {"[12,2,8]", "[6,4,8] "},
        {"[12,2,8]", "[192]   "},
        {"__metadata__", "__metedata__"},
        {"\"__metadata__\":{", "\"__metadata__\":["},
    };
    for (size_t i = 0; i < sizeof changes / sizeof changes[0]; i++) {
        if (open_changed(ctx, changes[i][0], changes[i][1]) != FGA_ERR_DATA) {
            fail_msg("\"%s\" became \"%s\" and was not refused", changes[i][0], changes[i][1]);
        }
    }
    fgv_capture_file *file;
    assert_int_equal(fgv_capture_open(ctx, "/nowhere/x.safetensors", &file), FGA_ERR_IO);
    assert_null(file);
    fga_context_destroy(&ctx);
}

/* ---- a generation ---------------------------------------------------------------------------------- */

typedef struct seen {
    int calls, stop_at;
    float sum[2]; /* of the first call's queries in raster order, weighted by place: of two policies */
    int run;
} seen;

static bool on_attention(void *user, const fgv_capture *inputs)
{
    seen *s = user;
    int64_t tokens = (int64_t)inputs->frames * inputs->height * inputs->width;
    assert_int_equal(inputs->q.extent[2], tokens);
    assert_int_equal(inputs->layer, s->calls % inputs->layers);
    assert_int_equal(inputs->step, s->calls / inputs->layers);
    if (s->calls == 0) {
        for (int64_t i = 0; i < tokens; i++) {
            s->sum[s->run] += at(&inputs->q, 1, i, 3) * (float)(inputs->order[i] + 1);
        }
    }
    return s->calls++ != s->stop_at;
}

static void test_generation_hands_out_inputs(void **state)
{
    (void)state;
    fga_context *ctx = start();
    fgv_model *model;
    assert_int_equal(fgv_model_open(ctx, "tests/golden/tiny", &model), FGA_OK);
    fgv_request request = fgv_request_default(model);
    request.prompt = "a red ball";
    request.width = request.height = 64;
    request.frames = 5;
    request.steps = 2;
    request.guidance = 1;
    request.compute = FGV_COMPUTE_F32;
    seen s = {.stop_at = -1};
    request.on_attention = on_attention;
    request.user = &s;
    static const char *const policies[2] = {"dense", "dfs"}; /* raster and Hilbert order */
    for (s.run = 0; s.run < 2; s.run++) {
        s.calls = 0;
        assert_int_equal(fga_policy_parse(ctx, policies[s.run], &request.policy), FGA_OK);
        assert_int_equal(fgv_generate(model, &request, NULL), FGA_OK);
        assert_int_equal(s.calls, 2 * fgv_model_describe(model).layers);
    }
    assert_true(s.sum[0] != 0);
    assert_float_equal(s.sum[0], s.sum[1], 1e-3f * (s.sum[0] < 0 ? -s.sum[0] : s.sum[0]));
    s = (seen){.stop_at = 1};
    assert_int_equal(fgv_generate(model, &request, NULL), FGA_ERR_INTERRUPTED);
    assert_int_equal(s.calls, 2);
    fgv_model_close(&model);
    fga_context_destroy(&ctx);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_round_trip),
        cmocka_unit_test(test_refused_captures),
        cmocka_unit_test(test_hostile_files),
        cmocka_unit_test(test_generation_hands_out_inputs),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
