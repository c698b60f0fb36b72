/* In place of src/cuda/device.cuh. */
#ifndef FGA_CUDA_DEVICE_CUH
#define FGA_CUDA_DEVICE_CUH

#include "cuda/arith.h"
#include "machine.h"
#include "ops/gpu.h"

extern "C" {
#include "base/half.h"
}

namespace fga
{

constexpr float log2_e = 1.4426950408889634f, ln_2 = 0.6931471805599453f;

inline float minus_infinity()
{
    return -INFINITY;
}

inline float exp2_fast(float x)
{
    return exp2f(x);
}

inline float reciprocal(float x)
{
    return 1.0f / x;
}

inline float log2_fast(float x)
{
    return log2f(x);
}

inline uint32_t shared_address(const void *pointer)
{
    return emulated::shared_offset(pointer);
}

inline int lane_now()
{
    return (int)(threadIdx.x & 31);
}

inline void store_shared_if(bool stores, uint32_t to, uint32_t word)
{
    if (stores) {
        std::memcpy(emulated::shared_at(to), &word, sizeof word);
    }
}

inline void store_if(bool stores, const char *to, uint32_t word)
{
    if (stores) {
        std::memcpy(const_cast<char *>(to), &word, sizeof word);
    }
}

inline int opaque(int x)
{
    return x;
}

inline const char *row_address(const char *base, uint32_t row, uint32_t bytes)
{
    return base + (uint64_t)row * bytes;
}

inline void copy_async_16(uint32_t to, const void *from, bool read)
{
    emulated::copy_later(emulated::shared_at(to), from, read);
}

inline void copy_async_16_unless_negative(int x, uint32_t to, const void *from, bool read)
{
    if (x >= 0) {
        emulated::copy_later(emulated::shared_at(to), from, read);
    }
}

inline void copy_async_commit()
{
    emulated::commit_group();
}

template <int PENDING> inline void copy_async_wait()
{
    emulated::wait_groups(PENDING);
}

inline void prefetch_l1(const void *)
{
}

inline uint16_t half_bits(__nv_bfloat16, float x)
{
    return fga_f32_to_bf16(x);
}

inline uint16_t half_bits(__half, float x)
{
    return fga_f32_to_f16(x);
}

inline float half_value(__nv_bfloat16, uint16_t x)
{
    return fga_bf16_to_f32(x);
}

inline float half_value(__half, uint16_t x)
{
    return fga_f16_to_f32(x);
}

template <typename T> inline uint32_t pack(float low, float high)
{
    return (uint32_t)half_bits(T{}, high) << 16 | half_bits(T{}, low);
}

template <typename T> inline float2 unpack(uint32_t word)
{
    return {half_value(T{}, (uint16_t)word), half_value(T{}, (uint16_t)(word >> 16))};
}

inline float quad_sum(float x)
{
    x += __shfl_xor_sync(0xFFFFFFFFu, x, 1);
    return x + __shfl_xor_sync(0xFFFFFFFFu, x, 2);
}

inline float quad_max(float x)
{
    x = fmaxf(x, __shfl_xor_sync(0xFFFFFFFFu, x, 1));
    return fmaxf(x, __shfl_xor_sync(0xFFFFFFFFu, x, 2));
}

} // namespace fga
#endif
