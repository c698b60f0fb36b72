/* Writes YUV4MPEG2: C444, BT.601 limited range, so that every pixel keeps its own colour. */
#include "video/mux.h"
#include "video/yuv.h"

#include "base/error.h"

#include <stdlib.h>
#include <string.h>

static const char frame_header[] = "FRAME\n";

static fga_status y4m_open(fgv_writer *writer)
{
    size_t plane = (size_t)writer->width * (size_t)writer->height;
    writer->state = malloc(3 * plane);
    if (writer->state == NULL) {
        return fga_context_fail(writer->ctx, FGA_ERR_MEMORY, "no memory to write %s", writer->path);
    }
    FGA_TRY(fgv_writer_open_part(writer));
    int numerator, denominator;
    fgv_fps_ratio(writer->fps, &numerator, &denominator);
    char header[128];
    int length = snprintf(header, sizeof header, "YUV4MPEG2 W%d H%d F%d:%d Ip A1:1 C444 XCOLORRANGE=LIMITED\n",
                          writer->width, writer->height, numerator, denominator);
    return fgv_writer_put(writer, header, (size_t)length);
}

static fga_status y4m_frame(fgv_writer *writer, const uint8_t *rgb)
{
    size_t plane = (size_t)writer->width * (size_t)writer->height;
    uint8_t *yuv = writer->state;
    for (size_t i = 0; i < plane; i++) {
        fgv_rgb_to_yuv(rgb + 3 * i, yuv + i, yuv + plane + i, yuv + 2 * plane + i);
    }
    FGA_TRY(fgv_writer_put(writer, frame_header, strlen(frame_header)));
    return fgv_writer_put(writer, yuv, 3 * plane);
}

static void y4m_close(fgv_writer *writer)
{
    free(writer->state);
    fgv_writer_discard_part(writer);
}

const fgv_format fgv_format_y4m = {".y4m",   y4m_open, y4m_frame, fgv_writer_close_part, fgv_writer_publish_part,
                                   y4m_close};
