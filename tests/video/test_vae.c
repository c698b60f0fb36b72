/* The VAE decoder against diffusers in float64 (tests/golden), and what must hold for any checkpoint. */
#include "video/vae_kernels.h"
#include "video/vae_model.h"
#include "video_files.h"

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

#define TINY "tests/golden/tiny/vae"
#define ODD "tests/golden/checkpoints/tiny-vae-odd"

static fga_context *ctx; /* of two threads */

typedef struct frames {
    float *raw;
    size_t frame; /* floats in each */
    int count, stop_after;
} frames;

static bool collect(void *user, int index, const float *raw)
{
    frames *f = user;
    assert_int_equal(index, f->count);
    memcpy(f->raw + (size_t)index * f->frame, raw, f->frame * sizeof *raw);
    f->count++;
    return f->count != f->stop_after;
}

static bool drop(void *user, int index, const float *raw)
{
    (void)raw;
    *(int *)user = index + 1;
    return true;
}

static fgv_vae *open_vae(fga_context *in, const char *directory)
{
    fgv_vae *vae;
    if (fgv_vae_open(in, directory, &vae) != FGA_OK) {
        fail_msg("%s", fga_last_error(in));
    }
    return vae;
}

typedef struct clip {
    int t, h, w;
} clip;

static int frame_count(const fgv_vae *vae, clip c)
{
    return (c.t - 1) * fgv_vae_time_stride(vae) + 1;
}

static frames decode(fga_context *in, fgv_vae *vae, fga_dtype compute, const float *latents, clip c)
{
    frames f = {.frame = (size_t)(3 * 64 * c.h * c.w)};
    f.raw = malloc(f.frame * (size_t)frame_count(vae, c) * sizeof(float));
    if (fgv_vae_run(vae, compute, latents, c.t, c.h, c.w, collect, &f) != FGA_OK) {
        fail_msg("%s", fga_last_error(in));
    }
    assert_int_equal(f.count, frame_count(vae, c));
    return f;
}

static float *draw_latents(const fgv_vae *vae, clip c)
{
    int64_t n = (int64_t)fgv_vae_channels(vae) * c.t * c.h * c.w;
    float *latents = malloc((size_t)n * sizeof *latents);
    for (int64_t i = 0; i < n; i++) {
        latents[i] = (float)(1.3 * sin((double)(i * i % 9973) * 0.7 + 0.01 * (double)i));
    }
    return latents;
}

/* ---- against the oracle ----------------------------------------------------------------------------------------- */

typedef struct golden {
    const char *checkpoint, *file, *name;
    clip clip;
} golden;

typedef struct errors {
    double l2, max;
} errors;

static errors compare(const float *a, const float *b, size_t n)
{
    double difference = 0, norm = 0, largest = 0, peak = 0;
    for (size_t i = 0; i < n; i++) {
        double d = (double)a[i] - (double)b[i];
        difference += d * d;
        norm += (double)b[i] * (double)b[i];
        largest = fmax(largest, fabs(d));
        peak = fmax(peak, fabs((double)b[i]));
        assert_true(isfinite(a[i]));
    }
    return (errors){sqrt(difference / norm), largest / peak};
}

static void agrees_with_diffusers(void **state)
{
    const golden *g = *state;
    clip c = g->clip;
    fgv_vae *vae = open_vae(ctx, g->checkpoint);
    fgv_weights *weights;
    fgv_tensor latents, expected, half;
    int count = frame_count(vae, c);
    assert_int_equal(fgv_weights_open(ctx, "tests/golden/vae", g->file, &weights), FGA_OK);
    assert_int_equal(
        fgv_weights_get(weights, &latents, FGV_SHAPE(fgv_vae_channels(vae), c.t, c.h, c.w), "%s.latents", g->name),
        FGA_OK);
    assert_int_equal(fgv_weights_get(weights, &expected, FGV_SHAPE(count, 3, 8 * c.h, 8 * c.w), "%s.frames", g->name),
                     FGA_OK);
    assert_int_equal(fgv_weights_get(weights, &half, FGV_SHAPE(2), "%s.bf16_error", g->name), FGA_OK);

    frames f = decode(ctx, vae, FGA_F32, latents.data, c);
    errors e = compare(f.raw, expected.data, f.frame * (size_t)count);
    print_message("f32: %.2g %.2g\n", e.l2, e.max);
    assert_true(e.l2 <= 1e-5 && e.max <= 1e-5);
    free(f.raw);

    const float *torch = half.data;
    for (int native = 0; native < 2; native++) { /* both ways to keep bf16 activations */
        if (native == 1 && !__builtin_cpu_supports("avx512bw")) {
            continue; /* oneDNN has no bf16 here */
        }
        vae->native_bf16 = native == 1;
        f = decode(ctx, vae, FGA_BF16, latents.data, c);
        e = compare(f.raw, expected.data, f.frame * (size_t)count);
        print_message("bf16: %.2g %.2g, torch's %.2g %.2g\n", e.l2, e.max, (double)torch[0], (double)torch[1]);
        assert_true(e.l2 <= 1.25 * (double)torch[0] && e.max <= 1.25 * (double)torch[1]);
        assert_true(e.l2 > 1e-4); /* it was bf16 */
        free(f.raw);
    }
    fgv_weights_close(&weights);
    fgv_vae_close(&vae);
}

/* ---- properties ------------------------------------------------------------------------------------------------- */

static void same_bytes_at_any_thread_count(void **state)
{
    (void)state;
    const clip c = {2, 13, 9};
    float *latents = NULL;
    for (int compute = 0; compute < 2; compute++) {
        frames first = {0};
        for (int threads = 1; threads <= 3; threads++) {
            fga_context *in;
            fga_context_options options = fga_context_options_default();
            options.threads = threads;
            assert_int_equal(fga_context_create(&options, &in), FGA_OK);
            fgv_vae *vae = open_vae(in, TINY);
            if (latents == NULL) {
                latents = draw_latents(vae, c);
            }
            frames f = decode(in, vae, compute == 0 ? FGA_F32 : FGA_BF16, latents, c);
            if (threads == 1) {
                first = f;
            } else {
                assert_memory_equal(f.raw, first.raw, f.frame * (size_t)f.count * sizeof(float));
                free(f.raw);
            }
            fgv_vae_close(&vae);
            fga_context_destroy(&in);
        }
        free(first.raw);
    }
    free(latents);
}

/* Decoding is causal: a longer clip begins with exactly the shorter one's frames. */
static void longer_clips_continue_shorter_ones(void **state)
{
    const char *checkpoint = *state;
    fgv_vae *vae = open_vae(ctx, checkpoint);
    const clip longer = {4, 3, 5}, shorter = {2, 3, 5};
    float *latents = draw_latents(vae, longer), *prefix = draw_latents(vae, longer);
    for (int channel = 0; channel < fgv_vae_channels(vae); channel++) {
        memcpy(prefix + channel * 2 * 15, latents + channel * 4 * 15, 2 * 15 * sizeof *latents);
    }
    frames a = decode(ctx, vae, FGA_F32, latents, longer), b = decode(ctx, vae, FGA_F32, prefix, shorter);
    assert_memory_equal(a.raw, b.raw, b.frame * (size_t)b.count * sizeof(float));
    frames again = decode(ctx, vae, FGA_F32, latents, longer); /* nothing is left from one run to the next */
    assert_memory_equal(a.raw, again.raw, a.frame * (size_t)a.count * sizeof(float));
    free(a.raw);
    free(b.raw);
    free(again.raw);
    free(latents);
    free(prefix);
    fgv_vae_close(&vae);
}

static void stops_when_told(void **state)
{
    (void)state;
    fgv_vae *vae = open_vae(ctx, TINY);
    const clip c = {3, 2, 3};
    float *latents = draw_latents(vae, c);
    frames f = {.frame = 3 * 64 * 6, .stop_after = 4};
    f.raw = malloc(4 * f.frame * sizeof(float));
    assert_int_equal(fgv_vae_run(vae, FGA_F32, latents, c.t, c.h, c.w, collect, &f), FGA_ERR_INTERRUPTED);
    assert_int_equal(f.count, 4);
    assert_int_equal(fgv_vae_run(vae, FGA_F32, latents, 0, 2, 3, collect, &f), FGA_ERR_ARGUMENT);
    assert_int_equal(fgv_vae_run(vae, FGA_F32, latents, 1, -2, 3, collect, &f), FGA_ERR_ARGUMENT);
    assert_int_equal(fgv_vae_run(vae, FGA_F32, latents, 1, 2, 1 << 20, collect, &f), FGA_ERR_ARGUMENT);
    assert_int_equal(fgv_vae_run(vae, FGA_F16, latents, 1, 2, 3, collect, &f), FGA_ERR_UNSUPPORTED);
    assert_int_equal(fgv_vae_memory(vae, FGA_F32, 0, 5), 0);
    free(f.raw);
    free(latents);
    fgv_vae_close(&vae);
}

/* Every width and number of pixels around the kernel's sixteens, in buffers without a float to spare. */
static void normalises_any_width(void **state)
{
    (void)state;
    for (int channels = 1; channels < 40; channels++) {
        for (int pixels = 1; pixels < 40; pixels += 3) {
            size_t n = (size_t)(channels * pixels);
            float *x = malloc(n * sizeof *x), *out = malloc(n * sizeof *out), *gamma = calloc(48, sizeof *gamma);
            for (size_t i = 0; i < n; i++) {
                x[i] = (float)(3 * sin(0.37 * (double)i + channels));
            }
            for (int c = 0; c < channels; c++) {
                gamma[c] = 1 + 0.1f * (float)c;
            }
            fgv_vae_kernels_best()->normalise(
                &(fgv_vae_normalise){.x = x, .out = out, .gamma = gamma, .pixels = pixels, .channels = channels});
            for (int p = 0; p < pixels; p++) {
                double squares = 0;
                for (int c = 0; c < channels; c++) {
                    squares += (double)x[p * channels + c] * (double)x[p * channels + c];
                }
                for (int c = 0; c < channels; c++) {
                    double wanted = (double)x[p * channels + c] / sqrt(squares) * (double)gamma[c];
                    assert_true(fabs((double)out[p * channels + c] - wanted) <= 1e-6 * (fabs(wanted) + 1));
                }
            }
            free(x);
            free(out);
            free(gamma);
        }
    }
}

/* ---- memory ----------------------------------------------------------------------------------------------------- */

static double resident(const char *what)
{
    char line[200];
    double kib = 0;
    FILE *status = fopen("/proc/self/status", "r");
    while (fgets(line, sizeof line, status) != NULL) {
        if (strncmp(line, what, strlen(what)) == 0) {
            kib = atof(line + strlen(what));
        }
    }
    fclose(status);
    return kib * 1024;
}

static double peak_of_decoding(fgv_vae *vae, fga_dtype compute, clip c)
{
    float *latents = draw_latents(vae, c);
    FILE *clear = fopen("/proc/self/clear_refs", "w"); /* 5: the peak starts anew */
    assert_non_null(clear);
    assert_true(fputs("5", clear) >= 0 && fclose(clear) == 0);
    double before = resident("VmRSS:");
    int count = 0;
    assert_int_equal(fgv_vae_run(vae, compute, latents, c.t, c.h, c.w, drop, &count), FGA_OK);
    assert_int_equal(count, frame_count(vae, c));
    free(latents);
    return resident("VmHWM:") - before;
}

static void memory_is_predicted_and_independent_of_length(void **state)
{
    (void)state;
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
    skip(); /* they have memory of their own */
#endif
    if (access("/proc/self/clear_refs", W_OK) != 0) {
        skip();
    }
    fgv_vae *vae = open_vae(ctx, TINY);
    peak_of_decoding(vae, FGA_F32, (clip){1, 4, 4}); /* oneDNN's own start */
    double shorter = peak_of_decoding(vae, FGA_F32, (clip){2, 40, 48});
    double longer = peak_of_decoding(vae, FGA_F32, (clip){3, 40, 48});
    double predicted = (double)fgv_vae_memory(vae, FGA_F32, 40, 48);
    print_message("predicted %.1f MB, 5 frames %.1f MB, 9 frames %.1f MB\n", predicted * 1e-6, shorter * 1e-6,
                  longer * 1e-6);
    assert_true(longer <= 1.02 * shorter);
    assert_true(fabs(longer - predicted) <= 0.1 * predicted);
    fgv_vae_close(&vae);
}

/* ---- loading ---------------------------------------------------------------------------------------------------- */

/* Copies TINY's configuration with `from` replaced; the weights are linked. */
static void edit_config(const char *from, const char *to)
{
    size_t size;
    char *text = (char *)file_read(TINY "/config.json", &size), *edited = malloc(size + 500);
    text[size] = '\0';
    char *at = strstr(text, from);
    assert_non_null(at);
    sprintf(edited, "%.*s%s%s", (int)(at - text), text, to, at + strlen(from));
    file_write(scratch_path("config.json"), edited, strlen(edited));
    free(edited);
    free(text);
}

static void wrong_configurations(void **state)
{
    (void)state;
    char weights[4096];
    assert_non_null(getcwd(weights, sizeof weights - 100));
    strcat(weights, "/" TINY "/diffusion_pytorch_model.safetensors");
    assert_int_equal(symlink(weights, scratch_path("diffusion_pytorch_model.safetensors")), 0);
    const struct {
        const char *from, *to;
        fga_status status;
        const char *named;
    } cases[] = {
        {"\"decoder_base_dim\": 8", "\"decoder_base_dim\": 9", FGA_ERR_DATA, "decoder.conv_in.weight"},
        {"\"decoder_base_dim\": 8", "\"decoder_base_dim\": 1e9", FGA_ERR_DATA, "decoder_base_dim"},
        {"\"decoder_base_dim\": 8", "\"decoder_base_dim\": 1", FGA_ERR_DATA, "dim_mult"},
        {"\"z_dim\": 16", "\"z_dim\": 12", FGA_ERR_DATA, "latents_mean"},
        {"\"num_res_blocks\": 2", "\"num_res_blocks\": 3", FGA_ERR_DATA, "up_blocks.0.resnets.3"},
        {"\"num_res_blocks\": 2", "\"num_res_blocks\": -1", FGA_ERR_DATA, "num_res_blocks"},
        {"\"temperal_downsample\": [", "\"temperal_downsample\": [true,", FGA_ERR_DATA, "temperal_downsample"},
        {"\"dim_mult\": [", "\"dim_mult\": 3, \"x\": [", FGA_ERR_DATA, "dim_mult"},
        {"\"is_residual\": false", "\"is_residual\": true", FGA_ERR_UNSUPPORTED, "is_residual"},
        {"\"patch_size\": null", "\"patch_size\": 2", FGA_ERR_UNSUPPORTED, "patch_size"},
        {"AutoencoderKLWan", "AutoencoderKL", FGA_ERR_DATA, "AutoencoderKLWan"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        fgv_vae *vae;
        edit_config(cases[i].from, cases[i].to);
        assert_int_equal(fgv_vae_open(ctx, scratch, &vae), cases[i].status);
        assert_null(vae);
        if (strstr(fga_last_error(ctx), cases[i].named) == NULL) {
            fail_msg("%s does not name %s", fga_last_error(ctx), cases[i].named);
        }
    }
    edit_config("\"z_dim\": 16", "\"z_dim\": 16");
    fgv_vae *vae = open_vae(ctx, scratch);
    assert_int_equal(fgv_vae_channels(vae), 16);
    assert_int_equal(fgv_vae_time_stride(vae), 4);
    assert_int_equal(fgv_vae_space_stride(vae), 8);
    fgv_vae_close(&vae);
    fgv_vae_close(&vae);
    fgv_vae_close(NULL);
}

/* The header of a sparse file with the tensors of the published Wan2.1 VAE's decoder, by its published names. */
typedef struct header {
    char *text;
    size_t length;
    unsigned long long bytes; /* of data so far */
    int tensors;
} header;

static void add(header *h, const char *name, const char *suffix, const char *shape, long elements)
{
    unsigned long long end = h->bytes + 2ull * (unsigned long long)elements;
    h->length += (size_t)sprintf(h->text + h->length,
                                 "%c\"%s%s\":{\"dtype\":\"BF16\",\"shape\":[%s],\"data_offsets\":[%llu,%llu]}",
                                 h->tensors == 0 ? '{' : ',', name, suffix, shape, h->bytes, end);
    h->bytes = end;
    h->tensors++;
}

static void add_conv(header *h, const char *name, int out, int in, const char *window, int taps)
{
    char shape[80];
    snprintf(shape, sizeof shape, "%d,%d,%s", out, in, window);
    add(h, name, ".weight", shape, (long)out * in * taps);
    snprintf(shape, sizeof shape, "%d", out);
    add(h, name, ".bias", shape, out);
}

static void add_resnet(header *h, const char *prefix, int in, int out)
{
    char name[120], shape[40];
    snprintf(name, sizeof name, "%s.norm1", prefix);
    snprintf(shape, sizeof shape, "%d,1,1,1", in);
    add(h, name, ".gamma", shape, in);
    snprintf(name, sizeof name, "%s.conv1", prefix);
    add_conv(h, name, out, in, "3,3,3", 27);
    snprintf(name, sizeof name, "%s.norm2", prefix);
    snprintf(shape, sizeof shape, "%d,1,1,1", out);
    add(h, name, ".gamma", shape, out);
    snprintf(name, sizeof name, "%s.conv2", prefix);
    add_conv(h, name, out, out, "3,3,3", 27);
    if (in != out) {
        snprintf(name, sizeof name, "%s.conv_shortcut", prefix);
        add_conv(h, name, out, in, "1,1,1", 1);
    }
}

static void add_published_decoder(header *h)
{
    const struct {
        int in, out, next;
        bool time;
    } blocks[] = {{384, 384, 192, true}, {192, 384, 192, true}, {192, 192, 96, false}, {96, 96, 0, false}};
    char name[100];
    add_conv(h, "post_quant_conv", 16, 16, "1,1,1", 1);
    add_conv(h, "decoder.conv_in", 384, 16, "3,3,3", 27);
    add_resnet(h, "decoder.mid_block.resnets.0", 384, 384);
    add_resnet(h, "decoder.mid_block.resnets.1", 384, 384);
    add(h, "decoder.mid_block.attentions.0.norm", ".gamma", "384,1,1", 384);
    add_conv(h, "decoder.mid_block.attentions.0.to_qkv", 1152, 384, "1,1", 1);
    add_conv(h, "decoder.mid_block.attentions.0.proj", 384, 384, "1,1", 1);
    for (int i = 0; i < 4; i++) {
        for (int j = 0; j < 3; j++) {
            snprintf(name, sizeof name, "decoder.up_blocks.%d.resnets.%d", i, j);
            add_resnet(h, name, j == 0 ? blocks[i].in : blocks[i].out, blocks[i].out);
        }
        snprintf(name, sizeof name, "decoder.up_blocks.%d.upsamplers.0.time_conv", i);
        if (blocks[i].time) {
            add_conv(h, name, 2 * blocks[i].out, blocks[i].out, "3,1,1", 3);
        }
        snprintf(name, sizeof name, "decoder.up_blocks.%d.upsamplers.0.resample.1", i);
        if (blocks[i].next > 0) {
            add_conv(h, name, blocks[i].next, blocks[i].out, "3,3", 9);
        }
    }
    add(h, "decoder.norm_out", ".gamma", "96,1,1,1", 96);
    add_conv(h, "decoder.conv_out", 3, 96, "3,3,3", 27);
}

static void published_sizes(void **state)
{
    (void)state;
    header h = {.text = malloc(40000)};
    add_published_decoder(&h);
    assert_int_equal(h.tensors, 108);
    h.length += (size_t)sprintf(h.text + h.length, "}");
    const char *path = scratch_path("diffusion_pytorch_model.safetensors");
    uint8_t file[8];
    for (int i = 0; i < 8; i++) {
        file[i] = (uint8_t)(h.length >> 8 * i);
    }
    FILE *out = fopen(path, "wb");
    assert_int_equal(fwrite(file, 1, 8, out), 8);
    assert_int_equal(fwrite(h.text, 1, h.length, out), h.length);
    fclose(out);
    assert_int_equal(truncate(path, (off_t)(8 + h.length + h.bytes)), 0); /* the data is a hole */
    edit_config("\"decoder_base_dim\": 8,", "\"decoder_base_dim\": 96,");
    fgv_vae *vae = open_vae(ctx, scratch);
    assert_int_equal(fgv_vae_parameters(vae), 73295603);
    /* At 480p decoding keeps two frames before each convolution and little else; a quarter of the pixels need about a
     * quarter of that. */
    double big = (double)fgv_vae_memory(vae, FGA_F32, 60, 104), small = (double)fgv_vae_memory(vae, FGA_F32, 30, 52);
    print_message("832x480: %.2f GB in f32, %.2f GB in bf16\n", big * 1e-9,
                  (double)fgv_vae_memory(vae, FGA_BF16, 60, 104) * 1e-9);
    assert_true(big < 6e9 && big > 2.5 * small);
    fgv_vae_close(&vae);
    free(h.text);
}

int main(void)
{
    static golden goldens[] = {{TINY, "tiny-vae", "a", {1, 3, 5}},
                               {TINY, "tiny-vae", "c", {4, 3, 2}},
                               {ODD, "tiny-vae-odd", "b", {2, 4, 3}},
                               {ODD, "tiny-vae-odd", "d", {3, 1, 1}}};
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_prestate(agrees_with_diffusers, &goldens[0]),
        cmocka_unit_test_prestate(agrees_with_diffusers, &goldens[1]),
        cmocka_unit_test_prestate(agrees_with_diffusers, &goldens[2]),
        cmocka_unit_test_prestate(agrees_with_diffusers, &goldens[3]),
        cmocka_unit_test(same_bytes_at_any_thread_count),
        cmocka_unit_test_prestate(longer_clips_continue_shorter_ones, TINY),
        cmocka_unit_test_prestate(longer_clips_continue_shorter_ones, ODD),
        cmocka_unit_test(stops_when_told),
        cmocka_unit_test(normalises_any_width),
        cmocka_unit_test(memory_is_predicted_and_independent_of_length),
        cmocka_unit_test_setup_teardown(wrong_configurations, scratch_open, scratch_close),
        cmocka_unit_test_setup_teardown(published_sizes, scratch_open, scratch_close),
    };
    fga_context_options options = fga_context_options_default();
    options.threads = 2;
    if (fga_context_create(&options, &ctx) != FGA_OK) {
        return 1;
    }
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    fga_context_destroy(&ctx);
    return failed;
}
