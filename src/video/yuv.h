/* yuv.h - 8-bit BT.601, limited range: luma 16 ... 235, chroma 16 ... 240; fixed point, so the same bytes anywhere. */
#ifndef FGV_YUV_H
#define FGV_YUV_H

#include <stdint.h>

static inline uint8_t fgv_clamp8(int x)
{
    return (uint8_t)(x < 0 ? 0 : x > 255 ? 255 : x);
}

/* The coefficients are ITU-R BT.601's times 2^16; right shifts of what may be negative happen after adding the offset.
 */
static inline void fgv_rgb_to_yuv(const uint8_t rgb[3], uint8_t *y, uint8_t *u, uint8_t *v)
{
    int r = rgb[0], g = rgb[1], b = rgb[2];
    *y = (uint8_t)((16829 * r + 33039 * g + 6416 * b + (16 << 16) + 32768) >> 16);
    *u = (uint8_t)((-9714 * r - 19070 * g + 28784 * b + (128 << 16) + 32768) >> 16);
    *v = (uint8_t)((28784 * r - 24103 * g - 4681 * b + (128 << 16) + 32768) >> 16);
}

static inline void fgv_yuv_to_rgb(int y, int u, int v, uint8_t rgb[3])
{
    int luma = 76309 * (y - 16) + 32768, d = u - 128, e = v - 128;
    int shifted = 1024 << 16; /* keeps the shifted values positive */
    rgb[0] = fgv_clamp8(((luma + 104597 * e + shifted) >> 16) - 1024);
    rgb[1] = fgv_clamp8(((luma - 25675 * d - 53279 * e + shifted) >> 16) - 1024);
    rgb[2] = fgv_clamp8(((luma + 132201 * d + shifted) >> 16) - 1024);
}

#endif
