/* grid.c - tensor views and sequences. */
#include "fgattn.h"

fga_tensor fga_tensor_bhsd(void *data, fga_dtype dtype, int64_t b, int64_t h, int64_t s, int64_t d)
{
    return (fga_tensor){data, dtype, FGA_DEVICE_CPU, {b, h, s, d}, {h * s * d, s * d, d, 1}};
}

fga_tensor fga_tensor_bshd(void *data, fga_dtype dtype, int64_t b, int64_t s, int64_t h, int64_t d)
{
    return (fga_tensor){data, dtype, FGA_DEVICE_CPU, {b, h, s, d}, {s * h * d, d, h * d, 1}};
}

fga_sequence fga_sequence_video(int64_t tokens)
{
    return (fga_sequence){.video = tokens, .video_valid = tokens};
}

int64_t fga_sequence_length(const fga_sequence *s)
{
    return s->prefix + s->video + s->suffix;
}

int64_t fga_sequence_valid(const fga_sequence *s)
{
    return s->prefix_valid + s->video_valid + s->suffix_valid;
}
