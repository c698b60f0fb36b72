/* read.h - the readers behind fgv_read_video; each fills a clip or leaves it empty and says why. */
#ifndef FGV_READ_H
#define FGV_READ_H

#include "video/png_codec.h"

typedef struct fgv_clip {
    uint8_t *rgb; /* [frames][height][width][3], free() */
    size_t bytes, capacity;
    int width, height, frames;
    double fps; /* 0 = the file does not say */
} fgv_clip;

void fgv_clip_clear(fgv_clip *clip);
/* Room for one frame more, of clip->width x clip->height; *frame points to it. */
fga_status fgv_clip_grow(fga_context *ctx, const char *path, fgv_clip *clip, uint8_t **frame);
/* A whole file. */
fga_status fgv_read_file(fga_context *ctx, const char *path, fgv_bytes *bytes);

fga_status fgv_read_y4m(fga_context *ctx, const char *path, fgv_clip *clip);
fga_status fgv_read_png_frames(fga_context *ctx, const char *path, fgv_clip *clip);
/* *ours false (and FGA_OK): an animation whose frames do not all cover and replace the canvas, or no animation. */
fga_status fgv_read_apng(fga_context *ctx, const char *path, fgv_clip *clip, bool *ours);
fga_status fgv_read_ffmpeg(fga_context *ctx, const char *path, fgv_clip *clip);

#endif
