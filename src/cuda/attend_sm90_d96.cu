/* attend_sm90_d96.cu - attend_sm90.cuh at 96 channels. */
#include "cuda/attend_sm90.cuh"

FGA_SM90_KERNELS(FGA_SM90_SHAPES_96, 96)
