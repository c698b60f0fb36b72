/* over.cuh - keeps the free tiles whose scores lie above a number: the caller's (threshold), or so many times a row's
 * spread above its mean (adaptive; docs/method.md, "Scores" and "Select").
 */
#ifndef FGA_CUDA_OVER_CUH
#define FGA_CUDA_OVER_CUH

#include "cuda/select.cuh"

namespace fga
{

/* ---- moments ------------------------------------------------------------------------------------------------------
 */

/* Mean and population variance, channel by channel, of the means of a head's key tiles: a thread block per head, a
 * thread per two channels, tiles one after the other. */
__device__ __forceinline__ void key_moments(const fga_gpu_moments &a)
{
    int64_t head = (int64_t)blockIdx.x;
    int pair = threadIdx.x, count = 0;
    const uint32_t *mean = reinterpret_cast<const uint32_t *>(a.mean) + head * a.rows * (a.dim / 2) + pair;
    const float2 *meta = reinterpret_cast<const float2 *>(a.meta) + head * a.rows;
    double sum[2] = {0, 0}, square[2] = {0, 0};
#pragma unroll 4
    for (int tile = 0; tile < a.tiles; tile++) {
        float2 known = meta[tile], x = unpack<__half>(mean[(int64_t)tile * (a.dim / 2)]);
        bool counts = known.y != minus_infinity();
        sum[0] += counts ? (double)(x.x * known.x) : 0.0;
        sum[1] += counts ? (double)(x.y * known.x) : 0.0;
        count += counts;
    }
    double share = count > 0 ? 1.0 / (double)count : 0.0, centre[2] = {sum[0] * share, sum[1] * share};
#pragma unroll 4
    for (int tile = 0; tile < a.tiles; tile++) {
        float2 known = meta[tile], x = unpack<__half>(mean[(int64_t)tile * (a.dim / 2)]);
        bool counts = known.y != minus_infinity();
        double off[2] = {(double)(x.x * known.x) - centre[0], (double)(x.y * known.x) - centre[1]};
        square[0] += counts ? off[0] * off[0] : 0.0;
        square[1] += counts ? off[1] * off[1] : 0.0;
    }
    double *to = a.moments + head * 2 * a.dim + pair * 2;
    for (int i = 0; i < 2; i++) {
        to[i] = centre[i];
        to[a.dim + i] = square[i] * share;
    }
}

/* ---- a row --------------------------------------------------------------------------------------------------------
 */

/* The population variance of the row's own logits. */
__device__ __forceinline__ double row_variance(const fga_gpu_select &a, const select_row &r, double centre,
                                               double *parts)
{
    double square = 0, count = 0;
    for (int i = 0; i < a.live.count; i++) {
        for (int tile = a.live.begin[i] + (int)threadIdx.x; tile < a.live.end[i]; tile += (int)blockDim.x) {
            float score = tile_score(r.score, r.entries, tile);
            bool finite = fabsf(score) <= 3.40282347e38f;
            square += finite ? ((double)score - centre) * ((double)score - centre) : 0.0;
            count += finite;
        }
    }
    square = block_sum(square, parts);
    count = block_sum(count, parts);
    return count > 0 ? square / count : 0;
}

/* Mean plus tau times spread. */
__device__ __forceinline__ double adaptive_cut(const fga_gpu_over &o, int head, int u, const select_row &r,
                                               double *parts)
{
    int b = head / o.query_heads, h = (head - b * o.query_heads) / (o.query_heads / o.kv_heads);
    int64_t row = (int64_t)head * o.rows + (int64_t)u * o.block_subs;
    const uint32_t *q = reinterpret_cast<const uint32_t *>(o.q) + row * (o.dim / 2);
    const double *mean = o.moments + ((int64_t)b * o.kv_heads + h) * 2 * o.dim, *variance = mean + o.dim;
    double centre = 0, square = 0, unit = o.unit * (double)o.q_meta[2 * row];
    for (int pair = threadIdx.x; pair < o.dim / 2; pair += (int)blockDim.x) {
        float2 two = unpack<__half>(q[pair]);
        const double x[2] = {(double)two.x * unit, (double)two.y * unit};
        for (int i = 0; i < 2; i++) {
            centre += x[i] * mean[2 * pair + i];
            square += x[i] * x[i] * variance[2 * pair + i];
        }
    }
    centre = block_sum(centre, parts);
    square = o.full_covariance ? row_variance(o.select, r, centre, parts) : block_sum(square, parts);
    return (double)(float)centre + o.number * (double)(float)sqrt(square + 1e-6);
}

/* The lowest rank of a score above x; NaN: above all. */
__device__ __forceinline__ uint32_t lowest_above(double x)
{
    float near = (float)x;
    return x != x ? 0xFFFFFFFFu : rank_of(near) + ((double)near <= x ? 1 : 0);
}

__device__ __forceinline__ void select_over(const fga_gpu_over &o)
{
    extern __shared__ __align__(16) unsigned char memory[];
    auto &sh = *reinterpret_cast<select_shared *>(memory);
    const fga_gpu_select &a = o.select;
    slab_place at = slab_place_of(a);
    if (!at.inside || at.head < a.head_first || at.head >= a.head_end) {
        return;
    }
    select_row r;
    select_choice s = start_row(a, at.u, blockIdx.x, sh, r);
    if (s.open) {
        double *parts = reinterpret_cast<double *>(sh.bins);
        double cut = o.moments != nullptr ? adaptive_cut(o, at.head, at.u, r, parts) : o.number;
        s.cut = {lowest_above(cut), s.free, s.free}; /* all that are at it too */
    }
    write_row(a, r, sh, s, (int64_t)at.head * a.blocks + at.u);
}

} // namespace fga
#endif
