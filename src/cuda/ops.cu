/* ops.cu - the kernels of a refresh and of measuring: thin entries to rows.cuh, rank.cuh, select.cuh,
 * alike.cuh, over.cuh, budget.cuh and probe.cuh. */
#include "cuda/alike.cuh"
#include "cuda/budget.cuh"
#include "cuda/ops_shapes.h"
#include "cuda/over.cuh"
#include "cuda/probe.cuh"
#include "cuda/rank.cuh"
#include "cuda/select.cuh"

#define FGA_ENTRY(name, argument, threads) \
    extern "C" __global__ void __launch_bounds__(threads) name(const __grid_constant__ argument a)

FGA_ENTRY(fga_move_rows, fga_gpu_permute, 256)
{
    fga::permute_rows(a);
}

/* One set per dtype of the inputs; means are f16 whatever the input is, but for `deviation`. */
#define FGA_ROW_KERNELS(name, type) \
    FGA_ENTRY(fga_group_sums_##name, fga_gpu_sums, 256) \
    { \
        fga::group_sums<type>(a); \
    } \
    FGA_ENTRY(fga_pool_##name, fga_gpu_pool, 256) \
    { \
        fga::pool_rows<type, type>(a); \
    } \
    FGA_ENTRY(fga_pool_scaled_##name, fga_gpu_pool, 256) \
    { \
        fga::pool_rows<type, __half>(a); \
    } \
    FGA_ENTRY(fga_apart_##name, fga_gpu_apart, 256) \
    { \
        fga::distances<type>(a); \
    }

FGA_ROW_KERNELS(bf16, __nv_bfloat16)
FGA_ROW_KERNELS(f16, __half)

#define FGA_RANK_ENTRY(name) \
    extern "C" __global__ void __launch_bounds__(fga::RANK_THREADS, 2) name(const __grid_constant__ fga_gpu_rank a)

#define FGA_DEVIATION(name, type, dim, group) \
    FGA_RANK_ENTRY(fga_deviation_##name##_d##dim##_g##group) \
    { \
        fga::scores<type, dim, false, group>(a); \
    }
#define FGA_DEVIATIONS(name, type, dim) \
    FGA_RANK_ENTRY(fga_row_sums_##name##_d##dim) \
    { \
        fga::row_sums<type, dim, false>(a); \
    } \
    FGA_DEVIATION(name, type, dim, 8) \
    FGA_DEVIATION(name, type, dim, 16) \
    FGA_DEVIATION(name, type, dim, 32) \
    FGA_DEVIATION(name, type, dim, 64)
#define FGA_MASS(dim) \
    FGA_RANK_ENTRY(fga_row_sums_means_d##dim) \
    { \
        fga::row_sums<__half, dim, true>(a); \
    } \
    FGA_RANK_ENTRY(fga_mass_d##dim) \
    { \
        fga::scores<__half, dim, true, fga::RANK_MASS>(a); \
    } \
    FGA_RANK_ENTRY(fga_logits_d##dim) \
    { \
        fga::scores<__half, dim, true, fga::RANK_LOGITS>(a); \
    }

FGA_DEVIATIONS(bf16, __nv_bfloat16, 64)
FGA_DEVIATIONS(bf16, __nv_bfloat16, 128)
FGA_DEVIATIONS(f16, __half, 64)
FGA_DEVIATIONS(f16, __half, 128)
FGA_MASS(64)
FGA_MASS(128)

FGA_ENTRY(fga_select_tiles, fga_gpu_select, 1024)
{
    fga::select_row_of(a);
}

FGA_ENTRY(fga_block_bases, fga_gpu_bases, 256)
{
    fga::block_bases(a);
}

FGA_ENTRY(fga_key_moments, fga_gpu_moments, 64)
{
    fga::key_moments(a);
}

FGA_ENTRY(fga_select_over, fga_gpu_over, 1024)
{
    fga::select_over(a);
}

FGA_ENTRY(fga_budget_begin, fga_gpu_budget, 1024)
{
    fga::begin_budget(a);
}

FGA_ENTRY(fga_budget_start_search, fga_gpu_budget, 32)
{
    fga::start_search(a);
}

FGA_ENTRY(fga_budget_split, fga_gpu_budget, 1024)
{
    fga::split_row(a);
}

FGA_ENTRY(fga_budget_go_on, fga_gpu_budget, 32)
{
    fga::go_on_searching(a);
}

FGA_ENTRY(fga_budget_narrow, fga_gpu_budget, 256)
{
    fga::narrow_rows(a);
}

FGA_ENTRY(fga_budget_count_equals, fga_gpu_budget, 256)
{
    fga::count_equals(a);
}

FGA_ENTRY(fga_budget_share_out, fga_gpu_budget, 1024)
{
    fga::share_out(a);
}

FGA_ENTRY(fga_budget_finish, fga_gpu_budget, 256)
{
    fga::finish_budget(a);
}

FGA_ENTRY(fga_write_scores, fga_gpu_select, 1024)
{
    fga::write_scores(a);
}

FGA_ENTRY(fga_put_alike_together, fga_gpu_order, FGA_ALIKE_BLOCKS)
{
    fga::put_alike_together(a);
}

FGA_ENTRY(fga_order_blocks_by_keys, fga_gpu_order, 256)
{
    fga::order_blocks(a);
}

FGA_ENTRY(fga_count_group_rests, fga_gpu_rests, 256)
{
    fga::count_rests(a);
}

FGA_ENTRY(fga_add_both, fga_gpu_tally, 32)
{
    if (threadIdx.x < 2) {
        a.to[threadIdx.x] += a.from[threadIdx.x];
    }
}

#define FGA_PROBE(name, type, dim) \
    FGA_ENTRY(fga_probe_##name##_d##dim, fga_gpu_probe, FGA_PROBE_THREADS) \
    { \
        fga::probe_samples<type, dim, FGA_PROBE_KEYS(dim)>(a); \
    } \
    static_assert(sizeof(fga::probe_tile<dim, FGA_PROBE_KEYS(dim)>::shared) == FGA_PROBE_SHARED(dim), \
                  "the host's idea of it");

FGA_PROBE(bf16, __nv_bfloat16, 64)
FGA_PROBE(bf16, __nv_bfloat16, 128)
FGA_PROBE(bf16, __nv_bfloat16, 256)
FGA_PROBE(f16, __half, 64)
FGA_PROBE(f16, __half, 128)
FGA_PROBE(f16, __half, 256)

static_assert(sizeof(fga::rank_tile<64>::shared) == FGA_RANK_SHARED(64, 2), "the host's idea of it");
static_assert(sizeof(fga::rank_tile<128>::shared) == FGA_RANK_SHARED(128, 2), "the host's idea of it");
static_assert(sizeof(fga::alike_shared) == FGA_ALIKE_SHARED, "the host's idea of it");
static_assert(sizeof(fga::select_shared) <= FGA_SELECT_SHARED, "the host's idea of it");
static_assert(sizeof(fga::budget_shared) <= FGA_BUDGET_SHARED, "the host's idea of it");
