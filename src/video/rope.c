#include "video/rope.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define THETA 10000.0

fga_status fgv_rope_init(fga_context *ctx, fgv_rope *rope, int head_dim, const int grid[3])
{
    int side = 2 * (head_dim / 6);
    *rope = (fgv_rope){.grid = {grid[0], grid[1], grid[2]}, .width = {head_dim - 2 * side, side, side}};
    for (int axis = 0; axis < 3; axis++) {
        int width = rope->width[axis];
        size_t elements = (size_t)grid[axis] * (size_t)width;
        rope->cosine[axis] = malloc(2 * elements * sizeof(float));
        if (rope->cosine[axis] == NULL) {
            fgv_rope_free(rope);
            return fga_context_fail(ctx, FGA_ERR_MEMORY, "no memory for the position tables of %d places", grid[axis]);
        }
        rope->sine[axis] = rope->cosine[axis] + elements;
        for (int place = 0; place < grid[axis]; place++) {
            float *cosine = rope->cosine[axis] + (size_t)place * (size_t)width;
            float *sine = rope->sine[axis] + (size_t)place * (size_t)width;
            for (int i = 0; i < width; i += 2) {
                double angle = place / pow(THETA, (double)i / width);
                cosine[i] = cosine[i + 1] = (float)cos(angle);
                sine[i + 1] = (float)sin(angle);
                sine[i] = -sine[i + 1];
            }
        }
    }
    return FGA_OK;
}

void fgv_rope_free(fgv_rope *rope)
{
    for (int axis = 0; axis < 3; axis++) {
        free(rope->cosine[axis]);
    }
    *rope = (fgv_rope){0};
}

void fgv_rope_token(const fgv_rope *rope, int64_t token, float *cosine, float *sine)
{
    int64_t plane = (int64_t)rope->grid[1] * rope->grid[2];
    int64_t place[3] = {token / plane, token % plane / rope->grid[2], token % rope->grid[2]};
    for (int axis = 0; axis < 3; axis++) {
        size_t width = (size_t)rope->width[axis], at = (size_t)place[axis] * width;
        memcpy(cosine, rope->cosine[axis] + at, width * sizeof *cosine);
        memcpy(sine, rope->sine[axis] + at, width * sizeof *sine);
        cosine += width;
        sine += width;
    }
}
