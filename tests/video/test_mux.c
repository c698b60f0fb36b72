/* The writers: what is in the files, and that a failure leaves nothing under the final name. */
#include "video/mux.h"
#include "video/png_codec.h"
#include "video_files.h"

#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <sys/resource.h>

#include <cmocka.h>
#include <zlib.h>

static fga_context *ctx;

static fga_status write_video(const char *path, const uint8_t *rgb, int width, int height, int frames, double fps)
{
    fgv_writer *writer;
    fga_status status = fgv_writer_open(ctx, path, width, height, fps, &writer);
    if (status != FGA_OK) {
        assert_null(writer);
        return status;
    }
    for (int t = 0; t < frames && status == FGA_OK; t++) {
        status = fgv_writer_frame(writer, rgb + (size_t)t * (size_t)(width * height) * 3);
    }
    fga_status finished = fgv_writer_finish(&writer);
    assert_null(writer);
    return status != FGA_OK ? status : finished;
}

static void y4m_bytes(void **state)
{
    (void)state;
    /* White, black, red, grey: BT.601 limited range. */
    const uint8_t rgb[12] = {255, 255, 255, 0, 0, 0, 255, 0, 0, 128, 128, 128};
    assert_int_equal(write_video(scratch_path("a.y4m"), rgb, 2, 2, 1, 16), FGA_OK);
    size_t size;
    uint8_t *bytes = file_read(scratch_path("a.y4m"), &size);
    const char header[] = "YUV4MPEG2 W2 H2 F16:1 Ip A1:1 C444 XCOLORRANGE=LIMITED\nFRAME\n";
    const uint8_t pixels[12] = {235, 16, 81, 126, 128, 128, 90, 128, 128, 128, 240, 128};
    assert_int_equal(size, strlen(header) + sizeof pixels);
    assert_memory_equal(bytes, header, strlen(header));
    assert_memory_equal(bytes + strlen(header), pixels, sizeof pixels);
    free(bytes);
    assert_false(file_exists(scratch_path("a.y4m.part")));
}

static void rates(void **state)
{
    (void)state;
    const struct {
        double fps;
        int numerator, denominator;
    } cases[] = {
        {16, 16, 1}, {24000.0 / 1001, 24000, 1001}, {29.97, 30000, 1001}, {12.5, 12500, 1000}, {0.5, 500, 1000}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        int numerator, denominator;
        fgv_fps_ratio(cases[i].fps, &numerator, &denominator);
        assert_int_equal(numerator, cases[i].numerator);
        assert_int_equal(denominator, cases[i].denominator);
    }
}

static void png_sequence(void **state)
{
    (void)state;
    enum { W = 21, H = 13, T = 3 };
    uint8_t *rgb = draw_video(W, H, T);
    for (int t = 0; t < 5; t++) { /* an older, longer video of this name, and its neighbour */
        char name[32];
        snprintf(name, sizeof name, "v-%04d.png", t);
        file_write(scratch_path(name), "old", 3);
    }
    file_write(scratch_path("v-other.png"), "old", 3);
    assert_int_equal(write_video(scratch_path("v.png"), rgb, W, H, T, 16), FGA_OK);
    for (int t = 0; t < T; t++) {
        char name[32];
        snprintf(name, sizeof name, "v-%04d.png", t);
        size_t size;
        uint8_t *png = file_read(scratch_path(name), &size), *got;
        int width, height;
        assert_int_equal(fgv_png_decode(ctx, name, png, size, &got, &width, &height), FGA_OK);
        assert_int_equal(width, W);
        assert_int_equal(height, H);
        assert_memory_equal(got, rgb + t * W * H * 3, W * H * 3);
        free(got);
        free(png);
    }
    assert_int_equal(scratch_entries(false), T + 1);
    free(rgb);
}

/* Walks the chunks: checksums, order, sequence numbers, frame count; then decodes the last frame from its fdAT. */
static void apng_chunks(void **state)
{
    (void)state;
    enum { W = 40, H = 31, T = 4 };
    uint8_t *rgb = draw_video(W, H, T);
    assert_int_equal(write_video(scratch_path("a.apng"), rgb, W, H, T, 24000.0 / 1001), FGA_OK);
    size_t size;
    uint8_t *file = file_read(scratch_path("a.apng"), &size);
    uint8_t *last = malloc(size + 64);
    size_t used = 8 + 25;
    memcpy(last, file, used);
    uint32_t sequence = 0;
    int frames = 0, animations = 0;
    bool ended = false;
    for (size_t at = 8; at < size; at += fgv_be32(file + at) + 12) {
        uint32_t payload = fgv_be32(file + at);
        const uint8_t *type = file + at + 4;
        assert_true(at + payload + 12 <= size);
        assert_int_equal(fgv_be32(type + 4 + payload), crc32(0, type, payload + 4));
        assert_false(ended);
        ended = memcmp(type, "IEND", 4) == 0;
        if (memcmp(type, "acTL", 4) == 0) {
            assert_int_equal(fgv_be32(type + 4), T);
            animations++;
        } else if (memcmp(type, "fcTL", 4) == 0) {
            assert_int_equal(fgv_be32(type + 4), sequence++);
            assert_int_equal(fgv_be32(type + 24) >> 16, 1001);
            assert_int_equal(fgv_be32(type + 24) & 0xffff, 24000);
            frames++;
        } else if (memcmp(type, "fdAT", 4) == 0) {
            assert_int_equal(fgv_be32(type + 4), sequence++);
            assert_true(frames > 1);
            if (frames == T) { /* turn back into an IDAT */
                fgv_put_be32(last + used, payload - 4);
                memcpy(last + used + 4, "IDAT", 4);
                memcpy(last + used + 8, type + 8, payload - 4);
                fgv_put_be32(last + used + 4 + payload, (uint32_t)crc32(0, last + used + 4, payload));
                used += payload + 8;
            }
        }
        if (ended) {
            memcpy(last + used, file + at, 12);
            used += 12;
        }
    }
    assert_true(ended);
    assert_int_equal(frames, T);
    assert_int_equal(animations, 1);
    uint8_t *got;
    int width, height;
    assert_int_equal(fgv_png_decode(ctx, "last", last, used, &got, &width, &height), FGA_OK);
    assert_memory_equal(got, rgb + (T - 1) * W * H * 3, W * H * 3);
    free(got);
    free(last);
    free(file);
    free(rgb);
}

static void same_bytes_twice(const char *suffix)
{
    uint8_t *rgb = draw_video(64, 48, 9);
    char first[32], second[32];
    snprintf(first, sizeof first, "one%s", suffix);
    snprintf(second, sizeof second, "two%s", suffix);
    assert_int_equal(write_video(scratch_path(first), rgb, 64, 48, 9, 16), FGA_OK);
    assert_int_equal(write_video(scratch_path(second), rgb, 64, 48, 9, 16), FGA_OK);
    size_t size[2];
    uint8_t *a = file_read(scratch_path(first), &size[0]), *b = file_read(scratch_path(second), &size[1]);
    assert_non_null(a);
    assert_int_equal(size[0], size[1]);
    assert_memory_equal(a, b, size[0]);
    assert_int_equal(scratch_entries(false), 2);
    free(a);
    free(b);
    free(rgb);
}

static void mp4_is_playable(void **state)
{
    (void)state;
    if (!have_program("ffmpeg") || !have_program("ffprobe")) {
        skip();
    }
    same_bytes_twice(".mp4");
    char command[400], line[200];
    snprintf(command, sizeof command,
             "ffprobe -v error -count_frames -select_streams v:0 -show_entries "
             "stream=codec_name,width,height,pix_fmt,r_frame_rate,nb_read_frames -of csv=p=0 %s",
             scratch_path("one.mp4"));
    FILE *probe = popen(command, "r");
    assert_non_null(fgets(line, sizeof line, probe));
    pclose(probe);
    assert_string_equal(line, "h264,64,48,yuv420p,16/1,9\n");
}

static void gif_is_written(void **state)
{
    (void)state;
    if (!have_program("ffmpeg")) {
        skip();
    }
    same_bytes_twice(".gif");
}

/* An ffmpeg that goes without reading: writing on must be an error with its words and not a signal. */
static void sigpipe_is_left_alone(void **state)
{
    (void)state;
    const char script[] = "#!/bin/sh\necho cannot do this >&2\necho at all >&2\nexit 3\n";
    file_write(scratch_path("ffmpeg"), script, strlen(script));
    chmod(scratch_path("ffmpeg"), 0755);
    struct sigaction before, after;
    sigset_t mask_before, mask_after, pending;
    sigaction(SIGPIPE, NULL, &before);
    sigprocmask(SIG_SETMASK, NULL, &mask_before);
    uint8_t *rgb = draw_video(640, 480, 3);
    char *path = strdup(getenv("PATH"));
    setenv("PATH", scratch, 1);
    fga_status status = write_video(scratch_path("a.mp4"), rgb, 640, 480, 3, 16);
    setenv("PATH", path, 1);
    free(path);
    free(rgb);
    assert_int_equal(status, FGA_ERR_IO);
    assert_non_null(strstr(fga_last_error(ctx), "a.mp4: ffmpeg failed: cannot do this;at all"));
    sigaction(SIGPIPE, NULL, &after);
    sigprocmask(SIG_SETMASK, NULL, &mask_after);
    sigpending(&pending);
    assert_ptr_equal(before.sa_handler, after.sa_handler);
    assert_int_equal(sigismember(&mask_after, SIGPIPE), sigismember(&mask_before, SIGPIPE));
    assert_int_equal(sigismember(&pending, SIGPIPE), 0);
    assert_int_equal(scratch_entries(false), 1);
}

/* Some failures of ffmpeg end with status 0 and a complaint. */
static void complaints_are_failures(void **state)
{
    (void)state;
    const char script[] = "#!/bin/sh\nread line\necho no space >&2\nexit 0\n";
    file_write(scratch_path("ffmpeg"), script, strlen(script));
    chmod(scratch_path("ffmpeg"), 0755);
    const uint8_t rgb[12] = {[11] = '\n'};
    char *path = strdup(getenv("PATH"));
    setenv("PATH", scratch, 1);
    fga_status status = write_video(scratch_path("a.mp4"), rgb, 2, 2, 1, 16);
    setenv("PATH", path, 1);
    free(path);
    assert_int_equal(status, FGA_ERR_IO);
    assert_non_null(strstr(fga_last_error(ctx), "no space"));
    assert_int_equal(scratch_entries(false), 1);
}

static void missing_ffmpeg(void **state)
{
    (void)state;
    char *path = strdup(getenv("PATH"));
    setenv("PATH", scratch, 1);
    fgv_writer *writer;
    fga_status status = fgv_writer_open(ctx, scratch_path("a.mp4"), 16, 16, 16, &writer);
    setenv("PATH", path, 1);
    free(path);
    assert_int_equal(status, FGA_ERR_UNSUPPORTED);
    assert_null(writer);
    assert_non_null(strstr(fga_last_error(ctx), "ffmpeg"));
    assert_int_equal(scratch_entries(false), 0);
}

static void full_disk(void **state)
{
    const char *suffix = *state;
    if (strcmp(suffix, ".mp4") == 0 && !have_program("ffmpeg")) {
        skip();
    }
    char name[32];
    snprintf(name, sizeof name, "full%s", suffix);
    uint8_t *rgb = draw_video(320, 240, 4);
    struct sigaction ignore = {.sa_handler = SIG_IGN}, old_action;
    struct rlimit old, small;
    sigaction(SIGXFSZ, &ignore, &old_action);
    getrlimit(RLIMIT_FSIZE, &old);
    small = old;
    small.rlim_cur = 5000;
    setrlimit(RLIMIT_FSIZE, &small);
    fga_status status = write_video(scratch_path(name), rgb, 320, 240, 4, 16);
    setrlimit(RLIMIT_FSIZE, &old);
    sigaction(SIGXFSZ, &old_action, NULL);
    assert_int_equal(status, FGA_ERR_IO);
    assert_non_null(strstr(fga_last_error(ctx), "full"));
    assert_int_equal(scratch_entries(false), 0);
    free(rgb);
}

static void abandoned(void **state)
{
    const char *suffix = *state;
    if (strcmp(suffix, ".mp4") == 0 && !have_program("ffmpeg")) {
        skip();
    }
    char name[32], first[48];
    snprintf(name, sizeof name, "kept%s", suffix);
    snprintf(first, sizeof first, strcmp(suffix, ".png") == 0 ? "kept-0000%s" : "kept%s", suffix);
    file_write(scratch_path(first), "precious", 8);
    uint8_t *rgb = draw_video(32, 32, 2);
    fgv_writer *writer;
    assert_int_equal(fgv_writer_open(ctx, scratch_path(name), 32, 32, 16, &writer), FGA_OK);
    assert_int_equal(fgv_writer_frame(writer, rgb), FGA_OK);
    assert_int_equal(fgv_writer_frame(writer, rgb), FGA_OK);
    fgv_writer_abandon(&writer);
    assert_null(writer);
    fgv_writer_abandon(&writer);
    fgv_writer_abandon(NULL);
    size_t size;
    uint8_t *kept = file_read(scratch_path(first), &size);
    assert_int_equal(size, 8);
    assert_memory_equal(kept, "precious", 8);
    assert_int_equal(scratch_entries(false), 1);
    /* No frame at all is an error too. */
    assert_int_equal(fgv_writer_open(ctx, scratch_path(name), 32, 32, 16, &writer), FGA_OK);
    assert_int_equal(fgv_writer_finish(&writer), FGA_ERR_ARGUMENT);
    assert_int_equal(scratch_entries(false), 1);
    free(kept);
    free(rgb);
}

static void wrong_arguments(void **state)
{
    (void)state;
    fgv_writer *writer;
    const char *const bad[] = {"a.avi", "a", ".mp4", "a.mp4.part", "dir/.png", ""};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        assert_int_equal(fgv_writer_open(ctx, scratch_path(bad[i]), 16, 16, 16, &writer), FGA_ERR_ARGUMENT);
    }
    assert_int_equal(fgv_writer_open(ctx, NULL, 16, 16, 16, &writer), FGA_ERR_ARGUMENT);
    const char *const suffixes[] = {"a.mp4", "a.png", "a.apng", "a.y4m", "a.gif"};
    for (size_t i = 0; i < sizeof suffixes / sizeof suffixes[0]; i++) {
        char deep[64];
        snprintf(deep, sizeof deep, "no/such/%s", suffixes[i]);
        assert_int_equal(fgv_writer_open(ctx, scratch_path(deep), 16, 16, 16, &writer), FGA_ERR_IO);
        assert_non_null(strstr(fga_last_error(ctx), "no/such/a"));
        assert_int_equal(fgv_writer_open(ctx, scratch_path(suffixes[i]), 0, 16, 16, &writer), FGA_ERR_ARGUMENT);
        assert_int_equal(fgv_writer_open(ctx, scratch_path(suffixes[i]), 16, 40000, 16, &writer), FGA_ERR_ARGUMENT);
        assert_int_equal(fgv_writer_open(ctx, scratch_path(suffixes[i]), 16, 16, 0, &writer), FGA_ERR_ARGUMENT);
        assert_int_equal(fgv_writer_open(ctx, scratch_path(suffixes[i]), 16, 16, NAN, &writer), FGA_ERR_ARGUMENT);
    }
    assert_int_equal(fgv_writer_open(ctx, scratch_path("a.mp4"), 17, 16, 16, &writer), FGA_ERR_ARGUMENT);
    assert_non_null(strstr(fga_last_error(ctx), "17x16"));
    assert_int_equal(mkdir(scratch_path("d.y4m"), 0777), 0);
    assert_int_equal(fgv_writer_open(ctx, scratch_path("d.y4m"), 16, 16, 16, &writer), FGA_ERR_ARGUMENT);
    rmdir(scratch_path("d.y4m"));
    assert_int_equal(scratch_entries(false), 0);
}

#define IN_SCRATCH(test) cmocka_unit_test_setup_teardown(test, scratch_open, scratch_close)
#define WITH(test, suffix) \
    { \
#test " " suffix, test, scratch_open, scratch_close, (void *)(suffix) \
    }

int main(void)
{
    const struct CMUnitTest tests[] = {
        IN_SCRATCH(y4m_bytes),
        cmocka_unit_test(rates),
        IN_SCRATCH(png_sequence),
        IN_SCRATCH(apng_chunks),
        IN_SCRATCH(mp4_is_playable),
        IN_SCRATCH(gif_is_written),
        IN_SCRATCH(sigpipe_is_left_alone),
        IN_SCRATCH(complaints_are_failures),
        IN_SCRATCH(missing_ffmpeg),
        WITH(full_disk, ".y4m"),
        WITH(full_disk, ".png"),
        WITH(full_disk, ".apng"),
        WITH(full_disk, ".mp4"),
        WITH(abandoned, ".y4m"),
        WITH(abandoned, ".png"),
        WITH(abandoned, ".apng"),
        WITH(abandoned, ".mp4"),
        IN_SCRATCH(wrong_arguments),
    };
    fga_context_options options = fga_context_options_default();
    options.threads = 1;
    if (fga_context_create(&options, &ctx) != FGA_OK) {
        return 1;
    }
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    fga_context_destroy(&ctx);
    return failed;
}
