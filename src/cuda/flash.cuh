/* flash.cuh - one warp's 16 queries over tiles of keys in shared memory: mma.sync m16n8k16, the weights of one product
 * being the operand of the next without leaving their registers; online softmax in base 2.
 */
#ifndef FGA_CUDA_FLASH_CUH
#define FGA_CUDA_FLASH_CUH

#include "cuda/mma.cuh"

namespace fga
{

/* Rows of K and V lie 16 bytes apart from a multiple of 128, so that ldmatrix meets no bank twice. */
template <int D> constexpr int flash_row_bytes = 2 * D + 16;

/* What a warp knows of its 16 queries; lane holds rows lane/4 and lane/4 + 8. */
template <int D> struct query_rows {
    static constexpr bool held = D <= 128; /* wider queries would not leave registers for the rest */
    const char *address[2];                /* of the two rows in global memory; NULL: past the last query */
    int channels;
    uint32_t q[held ? D / 16 : 1][4]; /* the left operand */
    float o[D / 8][4];
    float most[2], sum[2]; /* of the logits in base 2; of the weights, the lane's columns only */
};

template <int D> __device__ __forceinline__ void query_operand(const query_rows<D> &r, int step, uint32_t (&q)[4])
{
#pragma unroll
    for (int i = 0; i < 4; i++) {
        int channel = step * 16 + (i >> 1) * 8 + (threadIdx.x & 3) * 2;
        bool inside = r.address[i & 1] != nullptr && channel < r.channels;
        q[i] = inside ? __ldg(reinterpret_cast<const uint32_t *>(r.address[i & 1] + 2 * channel)) : 0;
    }
}

/* Nothing seen yet. */
template <int D> __device__ __forceinline__ void begin_rows(query_rows<D> &r)
{
    if constexpr (query_rows<D>::held) {
#pragma unroll
        for (int step = 0; step < D / 16; step++) {
            query_operand(r, step, r.q[step]);
        }
    }
#pragma unroll
    for (int i = 0; i < D / 8; i++) {
        r.o[i][0] = r.o[i][1] = r.o[i][2] = r.o[i][3] = 0;
    }
    r.most[0] = r.most[1] = minus_infinity();
    r.sum[0] = r.sum[1] = 0;
}

/* For attend_tile's last argument. */
struct nothing_else {
    __device__ __forceinline__ void shrink(int, float) const
    {
    }
    __device__ __forceinline__ void see(int, int, int, float) const
    {
    }
};

/* S = Q K^T of one tile, softmax, O += P V. bias: [BN] in base 2, or NULL. `also` hears of every factor that a row's
 * sums shrink by, shrink(half, factor), and then of the lane's weights, see(half, i, j, weight): of key 8 i + 2 (lane
 * mod 4) + j. */
template <typename T, int D, int BN, typename Also>
__device__ __forceinline__ void attend_tile(const unsigned char *k_rows, const unsigned char *v_rows, const float *bias,
                                            float scale, query_rows<D> &r, Also &&also)
{
    constexpr int row_bytes = flash_row_bytes<D>;
    int lane = threadIdx.x & 31;
    float s[BN / 8][4] = {};
    uint32_t k = shared_address(k_rows) + ((lane & 7) + (lane >> 4) * 8) * row_bytes + (lane >> 3 & 1) * 16;
#pragma unroll
    for (int step = 0; step < D / 16; step++) {
        uint32_t q[4];
        if constexpr (query_rows<D>::held) {
            q[0] = r.q[step][0], q[1] = r.q[step][1], q[2] = r.q[step][2], q[3] = r.q[step][3];
        } else {
            query_operand(r, step, q);
        }
#pragma unroll
        for (int i = 0; i < BN / 16; i++) {
            uint32_t b[4];
            load_matrices(b, k + i * 16 * row_bytes + step * 32);
            multiply_add<T>(s[2 * i], q, b[0], b[1]);
            multiply_add<T>(s[2 * i + 1], q, b[2], b[3]);
        }
    }
    float most[2] = {r.most[0], r.most[1]};
#pragma unroll
    for (int i = 0; i < BN / 8; i++) {
        float2 b = bias != nullptr ? *reinterpret_cast<const float2 *>(bias + i * 8 + (lane & 3) * 2)
                                   : make_float2(0.0f, 0.0f);
#pragma unroll
        for (int j = 0; j < 4; j++) {
            s[i][j] = fmaf(s[i][j], scale, j & 1 ? b.y : b.x);
            most[j >> 1] = fmaxf(most[j >> 1], s[i][j]);
        }
    }
    float base[2], shrink[2];
#pragma unroll
    for (int half = 0; half < 2; half++) {
        most[half] = quad_max(most[half]);
        base[half] =
            most[half] == minus_infinity() ? 0.0f : most[half]; /* nothing seen yet: -inf - -inf is no number */
        shrink[half] = exp2_fast(r.most[half] - base[half]);
        r.most[half] = most[half];
        r.sum[half] *= shrink[half];
        also.shrink(half, shrink[half]);
    }
#pragma unroll
    for (int i = 0; i < BN / 8; i++) {
#pragma unroll
        for (int j = 0; j < 4; j++) {
            s[i][j] = exp2_fast(s[i][j] - base[j >> 1]);
            r.sum[j >> 1] += s[i][j];
            also.see(j >> 1, i, j & 1, s[i][j]);
        }
    }
#pragma unroll
    for (int i = 0; i < D / 8; i++) {
#pragma unroll
        for (int j = 0; j < 4; j++) {
            r.o[i][j] *= shrink[j >> 1];
        }
    }
    uint32_t v = shared_address(v_rows) + ((lane & 7) + (lane >> 3 & 1) * 8) * row_bytes + (lane >> 4) * 16;
#pragma unroll
    for (int step = 0; step < BN / 16; step++) {
        const uint32_t p[4] = {pack<T>(s[2 * step][0], s[2 * step][1]), pack<T>(s[2 * step][2], s[2 * step][3]),
                               pack<T>(s[2 * step + 1][0], s[2 * step + 1][1]),
                               pack<T>(s[2 * step + 1][2], s[2 * step + 1][3])};
#pragma unroll
        for (int i = 0; i < D / 16; i++) {
            uint32_t b[4];
            load_matrices_transposed(b, v + step * 16 * row_bytes + i * 32);
            multiply_add<T>(r.o[2 * i], p, b[0], b[1]);
            multiply_add<T>(r.o[2 * i + 1], p, b[2], b[3]);
        }
    }
}

} // namespace fga
#endif
