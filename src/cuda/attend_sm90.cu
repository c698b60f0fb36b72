/* attend_sm90.cu - attend_sm90.cuh at 64 and 128 channels. */
#include "cuda/attend_sm90.cuh"

FGA_SM90_KERNELS(FGA_SM90_SHAPES_64_128, 64)
FGA_SM90_KERNELS(FGA_SM90_SHAPES_64_128, 128)
