/* ops_sm90.cu - rank_sm90.cuh's kernels. */
#include "cuda/rank_sm90.cuh"

#define FGA_WIDE_ENTRY(name) \
    extern "C" __global__ void __launch_bounds__(FGA_WIDE_THREADS, 1) name(const __grid_constant__ fga_gpu_rank a)

#define FGA_WIDE_DEVIATION(name, type, dim, group) \
    FGA_WIDE_ENTRY(fga_sm90_deviation_##name##_d##dim##_g##group) \
    { \
        fga::wide_scores<type, dim, false, group>(a); \
    }
#define FGA_WIDE_DEVIATIONS(name, type, dim) \
    FGA_WIDE_ENTRY(fga_sm90_row_sums_##name##_d##dim) \
    { \
        fga::wide_sums<type, dim, false>(a); \
    } \
    FGA_WIDE_DEVIATION(name, type, dim, 8) \
    FGA_WIDE_DEVIATION(name, type, dim, 16) \
    FGA_WIDE_DEVIATION(name, type, dim, 32) \
    FGA_WIDE_DEVIATION(name, type, dim, 64)
#define FGA_WIDE_MASS(dim) \
    FGA_WIDE_ENTRY(fga_sm90_row_sums_means_d##dim) \
    { \
        fga::wide_sums<__half, dim, true>(a); \
    } \
    FGA_WIDE_ENTRY(fga_sm90_mass_d##dim) \
    { \
        fga::wide_scores<__half, dim, true, 0>(a); \
    }

FGA_WIDE_DEVIATIONS(bf16, __nv_bfloat16, 64)
FGA_WIDE_DEVIATIONS(bf16, __nv_bfloat16, 128)
FGA_WIDE_DEVIATIONS(f16, __half, 64)
FGA_WIDE_DEVIATIONS(f16, __half, 128)
FGA_WIDE_MASS(64)
FGA_WIDE_MASS(128)

static_assert(sizeof(fga::wide_tile<64>::shared) + 1024 <= FGA_WIDE_SHARED(64), "the host's idea of it");
static_assert(sizeof(fga::wide_tile<128>::shared) + 1024 <= FGA_WIDE_SHARED(128), "the host's idea of it");
