/* Reads anything through the ffmpeg program, in two runs: the first frame's y4m header tells size and rate, then all
 * frames come as raw RGB. */
#include "video/read.h"

#include "base/error.h"
#include "video/child.h"
#include "video/mux.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Only files and pipes: a video must not make ffmpeg open connections. */
#define INPUT(url) \
    "ffmpeg", "-nostdin", "-hide_banner", "-loglevel", "error", "-protocol_whitelist", "file,pipe,crypto,data", "-i", \
        (url), "-map", "0:v:0", "-threads", "1", "-sws_flags", "accurate_rnd+full_chroma_int+bitexact"

static fga_status read_size(fga_context *ctx, const char *path, const char *url, fgv_clip *clip)
{
    const char *const argv[] = {INPUT(url), "-frames:v", "1",      "-f", "yuv4mpegpipe", "-pix_fmt", "yuv444p",
                                "-strict",  "-1",        "pipe:1", NULL};
    fgv_child child;
    char header[256] = {0};
    size_t got;
    FGA_TRY(fgv_child_start(ctx, &child, argv, false, true));
    fga_status status = fgv_child_read(&child, header, sizeof header - 1, &got);
    while (status == FGA_OK && got > 0) { /* its last words are not to be cut off by a closed pipe */
        char rest[65536];
        status = fgv_child_read(&child, rest, sizeof rest, &got);
    }
    if (status == FGA_OK) {
        status = fgv_child_wait(&child, path, false);
    }
    fgv_child_kill(&child);
    FGA_TRY(status);
    int numerator = 0, denominator = 0;
    header[strcspn(header, "\n")] = '\0';
    if (sscanf(header, "YUV4MPEG2 W%d H%d F%d:%d", &clip->width, &clip->height, &numerator, &denominator) != 4 ||
        clip->width < 1 || clip->height < 1 || clip->width > FGV_MAX_SIDE || clip->height > FGV_MAX_SIDE) {
        return fga_context_fail(ctx, FGA_ERR_DATA, "%s: ffmpeg finds no video in it", path);
    }
    clip->fps = denominator > 0 ? (double)numerator / denominator : 0;
    return FGA_OK;
}

static fga_status read_frames(fga_context *ctx, const char *path, const char *url, fgv_clip *clip)
{
    /* Every decoded frame once, none repeated or dropped for the sake of a rate. */
    const char *const argv[] = {INPUT(url), "-fps_mode", "passthrough", "-f", "rawvideo",
                                "-pix_fmt", "rgb24",     "pipe:1",      NULL};
    size_t bytes = (size_t)clip->width * (size_t)clip->height * 3, got = bytes;
    fgv_child child;
    FGA_TRY(fgv_child_start(ctx, &child, argv, false, true));
    fga_status status = FGA_OK;
    while (status == FGA_OK && got == bytes) {
        uint8_t *frame;
        status = fgv_clip_grow(ctx, path, clip, &frame);
        if (status == FGA_OK) {
            status = fgv_child_read(&child, frame, bytes, &got);
        }
    }
    if (status == FGA_OK) { /* the last room stayed empty */
        clip->frames--;
        clip->bytes -= bytes;
        status = fgv_child_wait(&child, path, false);
    }
    if (status == FGA_OK && got != 0) {
        status = fga_context_fail(ctx, FGA_ERR_DATA, "%s: ffmpeg's output ends within a frame", path);
    }
    fgv_child_kill(&child);
    return status;
}

fga_status fgv_read_ffmpeg(fga_context *ctx, const char *path, fgv_clip *clip)
{
    size_t bytes = strlen(path) + sizeof "file:";
    char *url = malloc(bytes);
    if (url == NULL) {
        return fga_context_fail(ctx, FGA_ERR_MEMORY, "%s: no memory to read it", path);
    }
    snprintf(url, bytes, "file:%s", path);
    fga_status status = read_size(ctx, path, url, clip);
    if (status == FGA_OK) {
        status = read_frames(ctx, path, url, clip);
    }
    free(url);
    return status;
}
