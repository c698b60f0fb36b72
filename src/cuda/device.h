/* device.h - what the host side of the CUDA backend shares. */
#ifndef FGA_CUDA_DEVICE_H
#define FGA_CUDA_DEVICE_H

#include "base/error.h"
#include "cuda/driver.h"

/* Text naming the device, what failed and the driver's name for it. */
fga_status fga_gpu_fail(fga_context *ctx, const char *what, int result);

/* Compiled kernels, embedded in the library: attention for devices from compute capability 8.0 on and, at each width,
 * for 9.0; and what a refresh needs, from 8.0 on. */
extern const unsigned char fga_cuda_image_sm80[], fga_cuda_image_sm90[], fga_cuda_image_sm90_d96[],
    fga_cuda_image_sm90_d256[], fga_cuda_image_ops[], fga_cuda_image_ops_sm90[];

#endif
