/* png_codec.h - one 8-bit RGB picture to and from PNG bytes in memory, through libpng. */
#ifndef FGV_PNG_CODEC_H
#define FGV_PNG_CODEC_H

#include "fgattn.h"

typedef struct fgv_bytes {
    uint8_t *data; /* free() */
    size_t size, capacity;
} fgv_bytes;

/* Replaces *png's contents; its memory is reused from frame to frame. The same picture gives the same bytes. */
fga_status fgv_png_encode(fga_context *ctx, const uint8_t *rgb, int width, int height, fgv_bytes *png);
/* Alpha is dropped, grey and palettes become RGB, 16 bits become 8. *rgb: free(). name is for error texts. */
fga_status fgv_png_decode(fga_context *ctx, const char *name, const uint8_t *png, size_t size, uint8_t **rgb,
                          int *width, int *height);

static inline uint32_t fgv_be32(const uint8_t *p)
{
    return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}

static inline void fgv_put_be32(uint8_t *p, uint32_t x)
{
    p[0] = (uint8_t)(x >> 24);
    p[1] = (uint8_t)(x >> 16);
    p[2] = (uint8_t)(x >> 8);
    p[3] = (uint8_t)x;
}

#endif
