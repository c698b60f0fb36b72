/* In place of src/cuda/wgmma.cuh: operands are found through their descriptors as the instruction set defines them. */
#ifndef FGA_CUDA_WGMMA_CUH
#define FGA_CUDA_WGMMA_CUH

#include "cuda/barrier.cuh"

namespace fga
{

inline void wgmma_fence()
{
}

inline void wgmma_commit()
{
}

template <int PENDING> inline void wgmma_wait()
{
    __syncwarp();
}

template <int COUNT> inline void wgmma_registers(float (&)[COUNT])
{
}

struct matrix_operand {
    uint32_t address, leading, stride;
    int row_bytes; /* of the swizzle */

    explicit matrix_operand(uint64_t descriptor)
        : address((uint32_t)(descriptor & 0x3FFF) << 4), leading((uint32_t)(descriptor >> 16 & 0x3FFF) << 4),
          stride((uint32_t)(descriptor >> 32 & 0x3FFF) << 4), row_bytes(descriptor >> 62 == 1 ? 128 : 64)
    {
        if (descriptor >> 62 != 1 && descriptor >> 62 != 2) {
            std::abort();
        }
    }

    uint16_t word(uint32_t at) const
    {
        uint16_t x;
        std::memcpy(&x, emulated::shared_at(swizzled_address(at, row_bytes)), 2);
        return x;
    }

    /* Consecutive along k. */
    uint16_t plain(int row, int k) const
    {
        return word(address + (uint32_t)(row / 8) * stride + (uint32_t)(row % 8 * row_bytes + k * 2));
    }

    /* Consecutive along the columns. */
    uint16_t transposed(int k, int column) const
    {
        int width = row_bytes / 2;
        return word(address + (uint32_t)(column / width) * leading + (uint32_t)(k / 8) * stride +
                    (uint32_t)(k % 8 * row_bytes + column % width * 2));
    }
};

template <typename T, int N> struct wgmma {
    static void scores(float (&d)[N / 2], uint64_t a, uint64_t b, bool add)
    {
        matrix_operand left(a), right(b);
        int lane = (int)(threadIdx.x & 31), warp = (int)(threadIdx.x / 32 % 4);
        for (int i = 0; i < N / 2; i++) {
            int row = warp * 16 + lane / 4 + (i & 2) * 4, column = i / 4 * 8 + lane % 4 * 2 + (i & 1);
            float sum = add ? d[i] : 0;
            for (int k = 0; k < 16; k++) {
                sum += half_value(T{}, left.plain(row, k)) * half_value(T{}, right.plain(column, k));
            }
            d[i] = sum;
        }
    }

    static void weighted(float (&d)[N / 2], const uint32_t *a, uint64_t b)
    {
        struct registers {
            uint32_t a[4];
        } mine = {{a[0], a[1], a[2], a[3]}}, all[32];
        emulated::exchange(&mine, sizeof mine, all);
        matrix_operand right(b);
        int lane = (int)(threadIdx.x & 31);
        for (int i = 0; i < N / 2; i++) {
            int row = lane / 4 + (i & 2) * 4, column = i / 4 * 8 + lane % 4 * 2 + (i & 1);
            for (int k = 0; k < 16; k++) {
                float2 left = unpack<T>(all[row % 8 * 4 + k % 8 / 2].a[row / 8 + k / 8 * 2]);
                d[i] += (k % 2 == 0 ? left.x : left.y) * half_value(T{}, right.transposed(k, column));
            }
        }
    }
};

} // namespace fga
#endif
