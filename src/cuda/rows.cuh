/* rows.cuh - operators that read each row once: permute, sums of groups, means of sub-tiles, distances to a mean.
 *
 * `lanes` threads, a power of two, hold a row's chunks of 8 channels; each walks its item's tokens in order, so that
 * sums are added as the processor adds them.
 */
#ifndef FGA_CUDA_ROWS_CUH
#define FGA_CUDA_ROWS_CUH

#include "cuda/device.cuh"
#include "ops/gpu_ops.h"

namespace fga
{

__device__ __forceinline__ bool in_spans(const fga_gpu_spans &s, int token)
{
    bool in = false;
    for (int i = 0; i < 3; i++) {
        in |= i < s.count && token >= s.begin[i] && token < s.end[i];
    }
    return in;
}

__device__ __forceinline__ int count_spans(const fga_gpu_spans &s, int begin, int end)
{
    int count = 0;
    for (int i = 0; i < 3; i++) {
        if (i < s.count) {
            count += max(0, min(end, s.end[i]) - max(begin, s.begin[i]));
        }
    }
    return count;
}

/* The first token at or after `token` that lies in the spans; INT32_MAX: none. */
__device__ __forceinline__ int next_in_spans(const fga_gpu_spans &s, int token)
{
    int next = 0x7FFFFFFF;
    for (int i = 2; i >= 0; i--) {
        if (i < s.count && token < s.end[i]) {
            next = max(token, s.begin[i]);
        }
    }
    return next;
}

/* A thread's place: item `item`, chunk `chunk` of its rows. */
struct lane_place {
    int64_t item;
    int chunk, lanes;
    bool inside; /* the chunk has channels */
};

__device__ __forceinline__ int lanes_for(int head_dim)
{
    int lanes = 1;
    while (lanes * 8 < head_dim) {
        lanes *= 2;
    }
    return lanes;
}

__device__ __forceinline__ lane_place place_of(int head_dim)
{
    lane_place p;
    p.lanes = lanes_for(head_dim);
    p.item = ((int64_t)blockIdx.x * blockDim.x + threadIdx.x) / p.lanes;
    p.chunk = (int)threadIdx.x & (p.lanes - 1);
    p.inside = p.chunk * 8 < head_dim;
    return p;
}

__device__ __forceinline__ float lanes_sum(float x, int lanes)
{
    for (int distance = 1; distance < lanes; distance *= 2) {
        x += __shfl_xor_sync(0xFFFFFFFFu, x, distance);
    }
    return x;
}

__device__ __forceinline__ float lanes_max(float x, int lanes)
{
    for (int distance = 1; distance < lanes; distance *= 2) {
        x = fmaxf(x, __shfl_xor_sync(0xFFFFFFFFu, x, distance));
    }
    return x;
}

template <typename T> __device__ __forceinline__ void unpack8(const uint4 &words, float (&x)[8])
{
    const uint32_t w[4] = {words.x, words.y, words.z, words.w};
#pragma unroll
    for (int i = 0; i < 4; i++) {
        float2 pair = unpack<T>(w[i]);
        x[2 * i] = pair.x;
        x[2 * i + 1] = pair.y;
    }
}

template <typename T> __device__ __forceinline__ uint4 pack8(const float (&x)[8])
{
    return make_uint4(pack<T>(x[0], x[1]), pack<T>(x[2], x[3]), pack<T>(x[4], x[5]), pack<T>(x[6], x[7]));
}

__device__ __forceinline__ uint4 load_chunk(const char *rows, int64_t stride, int token)
{
    return __ldg(reinterpret_cast<const uint4 *>(rows + token * stride));
}

/* ---- permute ---------------------------------------------------------------------------------------------------- */

__device__ __forceinline__ void permute_rows(const fga_gpu_permute &a)
{
    int64_t count = a.rows * a.chunks, step = (int64_t)gridDim.x * blockDim.x;
    for (int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x; i < count; i += step) {
        int64_t row = i / a.chunks, chunk = i - row * a.chunks, other = __ldg(a.order + row);
        int64_t source = a.inverse ? row : other, target = a.inverse ? other : row;
        *reinterpret_cast<uint4 *>((char *)a.to + target * a.to_stride + chunk * 16) =
            __ldg(reinterpret_cast<const uint4 *>((const char *)a.from + source * a.from_stride + chunk * 16));
    }
}

/* ---- sums ------------------------------------------------------------------------------------------------------- */

/* Walks the keys of a group that are in the sums. */
struct listed_keys_of {
    const fga_gpu_spans &keys;
    const float *bias;
    int at, end;

    __device__ __forceinline__ int next() /* -1: no more */
    {
        while (true) {
            int key = next_in_spans(keys, at);
            if (key >= end) {
                at = end;
                return -1;
            }
            at = key + 1;
            if (bias == nullptr || bias[key] != minus_infinity()) {
                return key;
            }
        }
    }
};

/* Listed rows go to four partial sums in turn, as on the processor. */
template <typename T>
__device__ __forceinline__ void sum_group(listed_keys_of list, const char *rows, int64_t stride, float (&sum)[8])
{
    float part[4][8] = {};
    for (int key = list.next(); key >= 0; key = list.next()) {
        int keys[4] = {key, list.next(), list.next(), list.next()};
        uint4 words[4];
#pragma unroll
        for (int p = 0; p < 4; p++) {
            words[p] = keys[p] >= 0 ? load_chunk(rows, stride, keys[p]) : make_uint4(0, 0, 0, 0);
        }
#pragma unroll
        for (int p = 0; p < 4; p++) {
            float x[8];
            unpack8<T>(words[p], x);
#pragma unroll
            for (int i = 0; i < 8; i++) {
                part[p][i] += x[i];
            }
        }
    }
#pragma unroll
    for (int i = 0; i < 8; i++) {
        sum[i] = (part[0][i] + part[1][i]) + (part[2][i] + part[3][i]);
    }
}

/* Items: groups of all heads, first of K, then of V. */
template <typename T> __device__ __forceinline__ void group_sums(const fga_gpu_sums &a)
{
    lane_place p = place_of(a.head_dim);
    int64_t rows = (int64_t)a.batch * a.kv_heads * a.groups;
    int tensor = p.item >= rows;
    int64_t row = p.item - (tensor ? rows : 0);
    if (row >= rows || !p.inside) {
        return;
    }
    int64_t head = row / a.groups;
    int group = (int)(row - head * a.groups), b = (int)(head / a.kv_heads), h = (int)(head - (int64_t)b * a.kv_heads);
    const float *bias = a.bias != nullptr ? a.bias + b * a.bias_batch + h * a.bias_head : nullptr;
    listed_keys_of list = {a.keys, bias, group * a.group, min(group * a.group + a.group, a.key_len)};
    const fga_gpu_rows &x = tensor ? a.v : a.k;
    const char *rows_of_head = (const char *)x.data + 2 * (b * x.batch + h * x.head) + p.chunk * 16;
    float sum[8];
    sum_group<T>(list, rows_of_head, 2 * x.token, sum);
    float4 *to = reinterpret_cast<float4 *>((tensor ? a.sum_v : a.sum_k) + row * a.head_dim + p.chunk * 8);
    to[0] = {sum[0], sum[1], sum[2], sum[3]};
    to[1] = {sum[4], sum[5], sum[6], sum[7]};
    if (tensor == 0 && p.chunk == 0) {
        double total = 0;
        int count = 0;
        for (int key = list.next(); key >= 0; key = list.next()) {
            total += bias != nullptr ? (double)bias[key] : 0.0;
            count++;
        }
        a.sum_bias[row] = (float)total;
        a.count[row] = (float)count;
    }
}

/* ---- means ------------------------------------------------------------------------------------------------------ */

/* The valid tokens of [begin, end), one after the other. */
template <typename T>
__device__ __forceinline__ int mean_of(const fga_gpu_spans &valid, int begin, int end, const char *rows, int64_t stride,
                                       bool inside, float (&mean)[8])
{
    int count = 0;
    for (int i = 0; i < 8; i++) {
        mean[i] = 0;
    }
    for (int token = next_in_spans(valid, begin); token < end; count++) {
        if (inside) {
            float x[8];
            unpack8<T>(load_chunk(rows, stride, token), x);
#pragma unroll
            for (int i = 0; i < 8; i++) {
                mean[i] += x[i];
            }
        }
        token = next_in_spans(valid, token + 1);
    }
    float inverse = count > 0 ? 1.0f / (float)count : 0.0f;
#pragma unroll
    for (int i = 0; i < 8; i++) {
        mean[i] *= inverse;
    }
    return count;
}

/* The power of two that brings the row's largest number to 1 ... 2, and what undoes it. */
__device__ __forceinline__ float scale_down(float most, float *factor)
{
    int exponent = (int)(__float_as_uint(most) >> 23) & 0xFF;
    exponent = exponent < 1 ? 127 : min(exponent, 253); /* zeros and subnormal numbers stay as they are */
    *factor = __uint_as_float((uint32_t)exponent << 23);
    return __uint_as_float((uint32_t)(254 - exponent) << 23);
}

/* Items: rows of all heads. T: of x; R: of the means. */
template <typename T, typename R> __device__ __forceinline__ void pool_rows(const fga_gpu_pool &a)
{
    lane_place p = place_of(a.dim);
    if (p.item >= (int64_t)a.batch * a.heads * a.rows) { /* whole warps: rows are a multiple of 128 */
        return;
    }
    int64_t head = p.item / a.rows;
    int row = (int)(p.item - head * a.rows), b = (int)(head / a.heads), h = (int)(head - (int64_t)b * a.heads);
    int tile = row / a.subs, tile_begin = tile * a.tile_tokens, tile_end = min(tile_begin + a.tile_tokens, a.tokens);
    int begin = tile_begin + (row - tile * a.subs) * a.sub_tokens, end = min(begin + a.sub_tokens, tile_end);
    const char *rows = (const char *)a.x.data + 2 * (b * a.x.batch + h * a.x.head) + p.chunk * 16;
    float mean[8], factor = 1;
    int n = mean_of<T>(a.valid, begin, end, rows, 2 * a.x.token, p.chunk * 8 < a.head_dim, mean);
    if (a.scaled) {
        float most = 0;
        for (int i = 0; i < 8; i++) {
            most = fmaxf(most, fabsf(mean[i]));
        }
        float down = scale_down(lanes_max(most, p.lanes), &factor);
        for (int i = 0; i < 8; i++) {
            mean[i] *= down;
        }
    }
    *reinterpret_cast<uint4 *>((char *)a.mean + p.item * a.dim * 2 + p.chunk * 16) = pack8<R>(mean);
    if (p.chunk == 0) {
        int all = count_spans(a.valid, tile_begin, tile_end);
        a.meta[2 * p.item] = factor;
        a.meta[2 * p.item + 1] = a.of_keys ? (n > 0 ? log2f((float)n) : minus_infinity())
                                           : (n > 0 ? (float)((double)n / (double)all) : 0.0f);
    }
}

/* ---- distances -------------------------------------------------------------------------------------------------- */

/* Items: groups of all heads; one more group's worth of threads per head sets what lies past the last key. */
template <typename T> __device__ __forceinline__ void distances(const fga_gpu_apart &a)
{
    lane_place p = place_of(a.head_dim);
    int64_t heads = (int64_t)a.batch * a.kv_heads, head = p.item / a.groups;
    bool live = head < heads;
    head = live ? head : 0; /* whole warps take part in the sums over lanes */
    int group = live ? (int)(p.item - head * a.groups) : 0;
    int b = (int)(head / a.kv_heads), h = (int)(head - (int64_t)b * a.kv_heads);
    int begin = group * a.group, end = min(begin + a.group, a.key_len);
    const char *rows = (const char *)a.v.data + 2 * (b * a.v.batch + h * a.v.head) + p.chunk * 16;
    float *meta = a.meta + 2 * head * a.rows;
    float mean[8];
    mean_of<T>(a.keys, begin, live ? end : begin, rows, 2 * a.v.token, p.inside, mean);
    int limit = group + 1 == a.groups ? a.rows : begin + a.group;
#pragma unroll 4
    for (int i = 0; i < a.group; i++) {
        int key = begin + i;
        bool counts = live && key < end && in_spans(a.keys, key);
        float square = 0;
        if (counts && p.inside) {
            float x[8];
            unpack8<T>(load_chunk(rows, 2 * a.v.token, key), x);
#pragma unroll
            for (int c = 0; c < 8; c++) {
                float off = x[c] - mean[c];
                square = fmaf(off, off, square);
            }
        }
        square = lanes_sum(square, p.lanes);
        if (live && p.chunk == 0 && key < limit) {
            meta[2 * key] = counts ? sqrtf(square) : 0.0f;
            meta[2 * key + 1] = counts ? 0.0f : minus_infinity();
        }
    }
    for (int key = begin + a.group + p.chunk; live && key < limit; key += p.lanes) {
        meta[2 * key] = 0;
        meta[2 * key + 1] = minus_infinity();
    }
}

} // namespace fga
#endif
