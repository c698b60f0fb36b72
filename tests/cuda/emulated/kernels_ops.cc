/* kernels_ops.cc - the sources of a refresh's kernels on the emulated machine. */
#include "kernels.h"
#include "machine.h"

static inline uint32_t __float_as_uint(float x)
{
    uint32_t bits;
    std::memcpy(&bits, &x, 4);
    return bits;
}

/* Fibers do not interrupt each other. */
template <typename T> static inline T atomicAdd(T *to, T x)
{
    T before = *to;
    *to += x;
    return before;
}

static inline uint32_t atomicOr(uint32_t *to, uint32_t x)
{
    uint32_t before = *to;
    *to |= x;
    return before;
}

static inline int atomicMax(int *to, int x)
{
    int before = *to;
    *to = x > before ? x : before;
    return before;
}

#include "cuda/ops.cu"
#include "cuda/ops_sm90.cu"

#define KERNEL(kernel, type) \
    if (std::strcmp(name, #kernel) == 0) { \
        kernel(*(const type *)argument); \
        return 1; \
    }
#define ROW_KERNELS(name) \
    KERNEL(fga_group_sums_##name, fga_gpu_sums) \
    KERNEL(fga_pool_##name, fga_gpu_pool) \
    KERNEL(fga_pool_scaled_##name, fga_gpu_pool) \
    KERNEL(fga_apart_##name, fga_gpu_apart)
#define DEVIATIONS(name, dim) \
    KERNEL(fga_row_sums_##name##_d##dim, fga_gpu_rank) \
    KERNEL(fga_deviation_##name##_d##dim##_g8, fga_gpu_rank) \
    KERNEL(fga_deviation_##name##_d##dim##_g16, fga_gpu_rank) \
    KERNEL(fga_deviation_##name##_d##dim##_g32, fga_gpu_rank) \
    KERNEL(fga_deviation_##name##_d##dim##_g64, fga_gpu_rank)
#define MASS(dim) \
    KERNEL(fga_row_sums_means_d##dim, fga_gpu_rank) \
    KERNEL(fga_mass_d##dim, fga_gpu_rank) \
    KERNEL(fga_logits_d##dim, fga_gpu_rank)

#define WIDE_DEVIATIONS(name, dim) \
    KERNEL(fga_sm90_row_sums_##name##_d##dim, fga_gpu_rank) \
    KERNEL(fga_sm90_deviation_##name##_d##dim##_g8, fga_gpu_rank) \
    KERNEL(fga_sm90_deviation_##name##_d##dim##_g16, fga_gpu_rank) \
    KERNEL(fga_sm90_deviation_##name##_d##dim##_g32, fga_gpu_rank) \
    KERNEL(fga_sm90_deviation_##name##_d##dim##_g64, fga_gpu_rank)
#define WIDE_MASS(dim) \
    KERNEL(fga_sm90_row_sums_means_d##dim, fga_gpu_rank) \
    KERNEL(fga_sm90_mass_d##dim, fga_gpu_rank)

#define PROBES(name) \
    KERNEL(fga_probe_##name##_d64, fga_gpu_probe) \
    KERNEL(fga_probe_##name##_d128, fga_gpu_probe) \
    KERNEL(fga_probe_##name##_d256, fga_gpu_probe)

int emulated_ops(const char *name, void *argument)
{
    KERNEL(fga_move_rows, fga_gpu_permute)
    ROW_KERNELS(bf16)
    ROW_KERNELS(f16)
    DEVIATIONS(bf16, 64)
    DEVIATIONS(bf16, 128)
    DEVIATIONS(f16, 64)
    DEVIATIONS(f16, 128)
    MASS(64)
    MASS(128)
    WIDE_DEVIATIONS(bf16, 64)
    WIDE_DEVIATIONS(bf16, 128)
    WIDE_DEVIATIONS(f16, 64)
    WIDE_DEVIATIONS(f16, 128)
    WIDE_MASS(64)
    WIDE_MASS(128)
    KERNEL(fga_select_tiles, fga_gpu_select)
    KERNEL(fga_block_bases, fga_gpu_bases)
    KERNEL(fga_key_moments, fga_gpu_moments)
    KERNEL(fga_select_over, fga_gpu_over)
    KERNEL(fga_budget_begin, fga_gpu_budget)
    KERNEL(fga_budget_start_search, fga_gpu_budget)
    KERNEL(fga_budget_split, fga_gpu_budget)
    KERNEL(fga_budget_go_on, fga_gpu_budget)
    KERNEL(fga_budget_narrow, fga_gpu_budget)
    KERNEL(fga_budget_count_equals, fga_gpu_budget)
    KERNEL(fga_budget_share_out, fga_gpu_budget)
    KERNEL(fga_budget_finish, fga_gpu_budget)
    KERNEL(fga_write_scores, fga_gpu_select)
    KERNEL(fga_put_alike_together, fga_gpu_order)
    KERNEL(fga_order_blocks_by_keys, fga_gpu_order)
    KERNEL(fga_count_group_rests, fga_gpu_rests)
    KERNEL(fga_add_both, fga_gpu_tally)
    PROBES(bf16)
    PROBES(f16)
    return 0;
}
