/* The readers: what was written comes back, and hostile files are errors. */
#include "video/png_codec.h"
#include "video_files.h"

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>
#include <zlib.h>

enum { W = 46, H = 34, T = 5, FRAME = W * H * 3 };

static fga_context *ctx;

static void write_video(const char *path, const uint8_t *rgb, double fps)
{
    fgv_writer *writer;
    assert_int_equal(fgv_writer_open(ctx, path, W, H, fps, &writer), FGA_OK);
    for (int t = 0; t < T; t++) {
        assert_int_equal(fgv_writer_frame(writer, rgb + t * FRAME), FGA_OK);
    }
    assert_int_equal(fgv_writer_finish(&writer), FGA_OK);
}

/* Writes and reads; the largest difference of any sample may be `off`, the PSNR at least `psnr`. */
static void round_trip(const char *name, int off, double psnr, double fps)
{
    uint8_t *rgb = draw_video(W, H, T), *got;
    int width, height, frames;
    double rate;
    write_video(scratch_path(name), rgb, 16);
    if (fgv_read_video(ctx, scratch_path(name), &got, &width, &height, &frames, &rate) != FGA_OK) {
        fail_msg("%s", fga_last_error(ctx));
    }
    assert_int_equal(width, W);
    assert_int_equal(height, H);
    assert_int_equal(frames, T);
    assert_true(fabs(rate - fps) < 1e-9);
    for (int i = 0; i < T * FRAME; i++) {
        assert_true(abs(got[i] - rgb[i]) <= off);
    }
    fgv_comparison c;
    assert_int_equal(fgv_compare(ctx, got, rgb, W, H, T, &c, NULL, NULL), FGA_OK);
    assert_true(c.psnr_db >= psnr);
    fgv_free(got);
    free(rgb);
}

static void native_formats_come_back(void **state)
{
    (void)state;
    round_trip("a.png", 0, INFINITY, 0);
    round_trip("a.apng", 0, INFINITY, 16);
    round_trip("a.y4m", 3, 50, 16); /* 219 steps of luma for 256 */
}

static void ffmpeg_formats_come_back(void **state)
{
    (void)state;
    if (!have_program("ffmpeg")) {
        skip();
    }
    round_trip("a.mp4", 255, 25, 16);
    /* ffmpeg and our own readers see the same in our own files. */
    uint8_t *rgb = draw_video(W, H, T), *ours, *theirs;
    int width, height, frames;
    double fps;
    write_video(scratch_path("b.y4m"), rgb, 24000.0 / 1001);
    write_video(scratch_path("b.apng"), rgb, 16);
    assert_int_equal(fgv_read_video(ctx, scratch_path("b.y4m"), &ours, &width, &height, &frames, &fps), FGA_OK);
    assert_int_equal(rename(scratch_path("b.y4m"), scratch_path("y4m")), 0);
    assert_int_equal(rename(scratch_path("b.apng"), scratch_path("apng")), 0);
    assert_int_equal(fgv_read_video(ctx, scratch_path("y4m"), &theirs, &width, &height, &frames, &fps), FGA_OK);
    assert_true(fabs(fps - 24000.0 / 1001) < 1e-9);
    assert_int_equal(frames, T);
    for (int i = 0; i < T * FRAME; i++) {
        assert_true(abs(ours[i] - theirs[i]) <= 1);
    }
    fgv_free(theirs);
    assert_int_equal(fgv_read_video(ctx, scratch_path("apng"), &theirs, &width, &height, &frames, &fps), FGA_OK);
    assert_int_equal(frames, T);
    assert_memory_equal(theirs, rgb, T * FRAME);
    fgv_free(theirs);
    fgv_free(ours);
    free(rgb);
}

static void y4m_of_every_kind(void **state)
{
    (void)state;
    /* 3x3, two frames; the second chroma sample of a 420 row belongs to the third column alone. */
    const struct {
        const char *tag;
        int chroma_width, chroma_height;
    } kinds[] = {{"", 2, 2}, {" C420mpeg2", 2, 2}, {" C422", 2, 3}, {" C444", 3, 3}, {" Cmono", 0, 0}};
    for (size_t k = 0; k < sizeof kinds / sizeof kinds[0]; k++) {
        uint8_t file[400];
        int n = sprintf((char *)file, "YUV4MPEG2 W3 H3 F25:1%s\n", kinds[k].tag);
        for (int t = 0; t < 2; t++) {
            n += sprintf((char *)file + n, "FRAME%s\n", t == 1 ? " Ip" : "");
            for (int i = 0; i < 9; i++) {
                file[n++] = (uint8_t)(60 + 10 * i + t);
            }
            int chroma = kinds[k].chroma_width * kinds[k].chroma_height;
            memset(file + n, 128, (size_t)(2 * chroma));
            if (chroma > 0) {
                file[n + chroma + kinds[k].chroma_width - 1] = 200; /* v of the top right corner */
            }
            n += 2 * chroma;
        }
        file_write(scratch_path("k.y4m"), file, (size_t)n);
        uint8_t *rgb;
        int width, height, frames;
        double fps;
        assert_int_equal(fgv_read_video(ctx, scratch_path("k.y4m"), &rgb, &width, &height, &frames, &fps), FGA_OK);
        assert_int_equal(frames, 2);
        for (int i = 0; i < 9; i++) {
            bool red = kinds[k].chroma_width > 0 && i % 3 == 2 && i / 3 < (kinds[k].chroma_height == 2 ? 2 : 1);
            int grey = (int)lround((60 + 10 * i - 16) * 255.0 / 219);
            assert_true(red ? rgb[3 * i] > grey + 50 : abs(rgb[3 * i] - grey) <= 1);
            assert_true(abs(rgb[3 * i + 2] - grey) <= 1);
        }
        fgv_free(rgb);
    }
}

static void must_fail(const char *name, fga_status expected)
{
    uint8_t *rgb = (uint8_t *)1;
    int width, height, frames;
    double fps;
    fga_status status = fgv_read_video(ctx, scratch_path(name), &rgb, &width, &height, &frames, &fps);
    if (status != expected) {
        fail_msg("%s: %s (%s)", name, fga_status_name(status), fga_last_error(ctx));
    }
    assert_null(rgb);
    assert_non_null(strstr(fga_last_error(ctx), name));
}

static void hostile_y4m(void **state)
{
    (void)state;
    const char *const bad[] = {"",
                               "YUV4MPEG2",
                               "YUV4MPEG2 W4 H4",
                               "YUV4MPEG2 W4 H4\n",
                               "YUV4MPEG2 W4\nFRAME\n",
                               "YUV4MPEG2 W-4 H4\nFRAME\n",
                               "YUV4MPEG2 W999999999999999 H4\nFRAME\n",
                               "YUV4MPEG2 W32768 H32768 C444\nFRAME\nabc",
                               "YUV4MPEG2 W4 H4 C420p10\nFRAME\n",
                               "YUV4MPEG2 W4 H4 C444p16\nFRAME\n",
                               "YUV4MPEG2 W2 H2 C444\nFRAME\n12345678901",
                               "YUV4MPEG2 W2 H2 C444\nFRAME\n123456789012FRAM",
                               "YUV4MPEG2 W2 H2 C444\nframe\n123456789012",
                               "RIFF but not ours\n"};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        file_write(scratch_path("bad.y4m"), bad[i], strlen(bad[i]));
        must_fail("bad.y4m", FGA_ERR_DATA);
    }
    must_fail("none.y4m", FGA_ERR_IO);
    must_fail("none.png", FGA_ERR_IO);
    must_fail("none.apng", FGA_ERR_IO);
    must_fail("none.mp4", FGA_ERR_IO);
    must_fail("", FGA_ERR_IO);
}

/* Every prefix of a good file, and every byte of it changed: an error or a video, never worse. */
static void damaged_files(void **state)
{
    const char *name = *state;
    uint8_t *rgb = draw_video(W, H, T);
    write_video(scratch_path(name), rgb, 16);
    bool frames_apart = strcmp(name, "d.png") == 0;
    const char *path = scratch_path(frames_apart ? "d-0000.png" : name);
    size_t size;
    uint8_t *file = file_read(path, &size), *got;
    int width, height, frames;
    double fps;
    for (size_t cut = 0; cut < size; cut += cut < 120 ? 1 : 331) {
        file_write(path, file, cut);
        assert_int_not_equal(fgv_read_video(ctx, scratch_path(name), &got, &width, &height, &frames, &fps), FGA_OK);
        assert_null(got);
    }
    for (size_t at = 8; at < size; at += at < 120 ? 3 : 211) {
        file[at] ^= 0x55;
        file_write(path, file, size);
        file[at] ^= 0x55;
        if (fgv_read_video(ctx, scratch_path(name), &got, &width, &height, &frames, &fps) == FGA_OK) {
            assert_true(width > 0 && height > 0 && frames > 0 && got != NULL);
            fgv_free(got);
        } else {
            assert_null(got);
        }
    }
    free(file);
    free(rgb);
}

/* A PNG of a few hundred bytes that promises gigapixels, with a good checksum. */
static void picture_bomb(void **state)
{
    (void)state;
    uint8_t rgb[3] = {1, 2, 3};
    fgv_bytes png = {0};
    assert_int_equal(fgv_png_encode(ctx, rgb, 1, 1, &png), FGA_OK);
    fgv_put_be32(png.data + 16, 32768);
    fgv_put_be32(png.data + 20, 32768);
    fgv_put_be32(png.data + 29, (uint32_t)crc32(0, png.data + 12, 17));
    file_write(scratch_path("bomb.png"), png.data, png.size);
    must_fail("bomb.png", FGA_ERR_DATA);
    assert_non_null(strstr(fga_last_error(ctx), "size"));
    free(png.data);
}

static void frames_of_two_sizes(void **state)
{
    (void)state;
    uint8_t rgb[18] = {0};
    fgv_bytes png = {0};
    assert_int_equal(fgv_png_encode(ctx, rgb, 2, 3, &png), FGA_OK);
    file_write(scratch_path("v-0000.png"), png.data, png.size);
    assert_int_equal(fgv_png_encode(ctx, rgb, 3, 2, &png), FGA_OK);
    file_write(scratch_path("v-0001.png"), png.data, png.size);
    uint8_t *got;
    int width, height, frames;
    double fps;
    assert_int_equal(fgv_read_video(ctx, scratch_path("v.png"), &got, &width, &height, &frames, &fps), FGA_ERR_DATA);
    assert_non_null(strstr(fga_last_error(ctx), "3x2"));
    /* A picture by itself is a video of one frame. */
    assert_int_equal(fgv_read_video(ctx, scratch_path("v-0001.png"), &got, &width, &height, &frames, &fps), FGA_OK);
    assert_int_equal(frames, 1);
    assert_int_equal(width, 3);
    fgv_free(got);
    free(png.data);
}

static void not_a_video(void **state)
{
    (void)state;
    if (!have_program("ffmpeg")) {
        skip();
    }
    file_write(scratch_path("text.mp4"), "this is no video\n", 17);
    must_fail("text.mp4", FGA_ERR_IO);
    file_write(scratch_path("net.m3u8"), "#EXTM3U\n#EXTINF:1,\nhttp://127.0.0.1:9/a.ts\n", 43);
    must_fail("net.m3u8", FGA_ERR_IO);
}

#define IN_SCRATCH(test) cmocka_unit_test_setup_teardown(test, scratch_open, scratch_close)
#define WITH(test, name) \
    { \
#test " " name, test, scratch_open, scratch_close, (void *)(name) \
    }

int main(void)
{
    const struct CMUnitTest tests[] = {
        IN_SCRATCH(native_formats_come_back),
        IN_SCRATCH(ffmpeg_formats_come_back),
        IN_SCRATCH(y4m_of_every_kind),
        IN_SCRATCH(hostile_y4m),
        WITH(damaged_files, "d.png"),
        WITH(damaged_files, "d.apng"),
        IN_SCRATCH(picture_bomb),
        IN_SCRATCH(frames_of_two_sizes),
        IN_SCRATCH(not_a_video),
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
