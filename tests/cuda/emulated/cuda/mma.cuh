/* In place of src/cuda/mma.cuh: the instructions by their definitions. */
#ifndef FGA_CUDA_MMA_CUH
#define FGA_CUDA_MMA_CUH

#include "cuda/device.cuh"

namespace fga
{

/* matrices[i][row][column] of the four that the warp's lanes name. */
inline void fetch_matrices(uint32_t address, uint16_t (&matrices)[4][8][8])
{
    uint32_t all[32];
    emulated::exchange(&address, sizeof address, all);
    for (int i = 0; i < 32; i++) {
        std::memcpy(matrices[i / 8][i % 8], emulated::shared_at(all[i]), 16);
    }
}

inline void load_matrices(uint32_t (&m)[4], uint32_t address)
{
    uint16_t x[4][8][8];
    fetch_matrices(address, x);
    int lane = (int)(threadIdx.x & 31), row = lane / 4, column = lane % 4 * 2;
    for (int i = 0; i < 4; i++) {
        m[i] = x[i][row][column] | (uint32_t)x[i][row][column + 1] << 16;
    }
}

inline void load_matrices_transposed(uint32_t (&m)[4], uint32_t address)
{
    uint16_t x[4][8][8];
    fetch_matrices(address, x);
    int lane = (int)(threadIdx.x & 31), column = lane / 4, row = lane % 4 * 2;
    for (int i = 0; i < 4; i++) {
        m[i] = x[i][row][column] | (uint32_t)x[i][row + 1][column] << 16;
    }
}

template <typename T> inline void multiply_add(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1)
{
    struct operands {
        uint32_t a[4], b[2];
    } mine = {{a[0], a[1], a[2], a[3]}, {b0, b1}}, all[32];
    emulated::exchange(&mine, sizeof mine, all);
    int lane = (int)(threadIdx.x & 31);
    for (int i = 0; i < 4; i++) {
        int row = lane / 4 + i / 2 * 8, column = lane % 4 * 2 + i % 2;
        for (int k = 0; k < 16; k++) {
            float2 left = unpack<T>(all[row % 8 * 4 + k % 8 / 2].a[row / 8 + k / 8 * 2]);
            float2 right = unpack<T>(all[column * 4 + k % 8 / 2].b[k / 8]);
            c[i] += k % 2 == 0 ? left.x * right.x : left.y * right.y;
        }
    }
}

} // namespace fga
#endif
