/* attend_sm90_d256.cu - attend_sm90.cuh at 256 channels. */
#include "cuda/attend_sm90.cuh"

FGA_SM90_KERNELS(FGA_SM90_SHAPES_256, 256)
