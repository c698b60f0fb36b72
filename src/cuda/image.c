/* image.c - the compiled kernels as bytes: the build names the files. */
#include "cuda/device.h"

#define FGA_EMBED(symbol, file) \
    __asm__(".section .rodata\n" \
            ".balign 64\n" \
            ".global " #symbol "\n" \
            ".hidden " #symbol "\n" \
            ".type " #symbol ", @object\n" #symbol ":\n" \
            ".incbin \"" file "\"\n" \
            ".size " #symbol ", . - " #symbol "\n" \
            ".previous\n")

FGA_EMBED(fga_cuda_image_sm80, FGA_CUDA_IMAGE_SM80);
FGA_EMBED(fga_cuda_image_sm90, FGA_CUDA_IMAGE_SM90);
FGA_EMBED(fga_cuda_image_sm90_d96, FGA_CUDA_IMAGE_SM90_D96);
FGA_EMBED(fga_cuda_image_sm90_d256, FGA_CUDA_IMAGE_SM90_D256);
FGA_EMBED(fga_cuda_image_ops, FGA_CUDA_IMAGE_OPS);
FGA_EMBED(fga_cuda_image_ops_sm90, FGA_CUDA_IMAGE_OPS_SM90);
