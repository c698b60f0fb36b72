/* mux.h - the inside of fgv_writer: one small table per file format. */
#ifndef FGV_MUX_H
#define FGV_MUX_H

#include "fgvideo.h"

#include <stdio.h>

typedef struct fgv_format {
    const char *suffix; /* with its dot */
    /* open may leave things half made when it fails: close is called either way, exactly once. */
    fga_status (*open)(fgv_writer *writer);
    fga_status (*frame)(fgv_writer *writer, const uint8_t *rgb);
    /* Everything on disk under the .part names, closed and checked; then publish gives the final names. */
    fga_status (*finish)(fgv_writer *writer);
    fga_status (*publish)(fgv_writer *writer);
    /* Releases the state and removes what is left under .part names. */
    void (*close)(fgv_writer *writer);
} fgv_format;

struct fgv_writer {
    fga_context *ctx;
    const fgv_format *format;
    char *path, *part; /* part = path.part */
    int width, height;
    double fps;
    int64_t frames; /* completely written */
    bool failed;    /* a frame failed: finish will, too */
    FILE *file;     /* part, in the formats that write it themselves */
    bool has_part;  /* part is ours: to be renamed, or removed */
    void *state;    /* of the format */
};

extern const fgv_format fgv_format_y4m, fgv_format_png, fgv_format_apng, fgv_format_mp4, fgv_format_gif;

#define FGV_MAX_SIDE 32768 /* pixels a side, written or read */

/* fps as a ratio: whole numbers, then n*1000/1001, then thousandths. */
void fgv_fps_ratio(double fps, int *numerator, int *denominator);

/* For the formats. A failed write's text: the file and errno's reason. */
fga_status fgv_writer_io_error(fgv_writer *writer, const char *path);
fga_status fgv_writer_open_part(fgv_writer *writer);
fga_status fgv_writer_put(fgv_writer *writer, const void *bytes, size_t count); /* to file */
fga_status fgv_writer_close_part(fgv_writer *writer);
fga_status fgv_writer_rename(fgv_writer *writer, const char *from, const char *to);
fga_status fgv_writer_publish_part(fgv_writer *writer); /* part -> path */
void fgv_writer_discard_part(fgv_writer *writer);

#endif
