/* device.cuh - thin names for the instructions that every kernel here uses. */
#ifndef FGA_CUDA_DEVICE_CUH
#define FGA_CUDA_DEVICE_CUH

#include "cuda/arith.h"
#include "ops/gpu.h"

#include <cuda_bf16.h>
#include <cuda_fp16.h>

namespace fga
{

constexpr float log2_e = 1.4426950408889634f, ln_2 = 0.6931471805599453f;

__device__ __forceinline__ float minus_infinity()
{
    return __int_as_float(0xff800000);
}

__device__ __forceinline__ float exp2_fast(float x)
{
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

__device__ __forceinline__ uint32_t shared_address(const void *pointer)
{
    return (uint32_t)__cvta_generic_to_shared(pointer);
}

__device__ __forceinline__ float reciprocal(float x)
{
    float y;
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

__device__ __forceinline__ float log2_fast(float x)
{
    float y;
    asm("lg2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

/* The lane, read anew each time: what follows from it would else be computed once and kept out of registers. */
__device__ __forceinline__ int lane_now()
{
    int lane;
    asm volatile("mov.u32 %0, %%laneid;" : "=r"(lane));
    return lane;
}

/* A word to shared memory, if so. As an instruction with a predicate: the compiler would make it a branch. */
__device__ __forceinline__ void store_shared_if(bool stores, uint32_t to, uint32_t word)
{
    asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %2, 0;\n@p st.shared.u32 [%0], %1;\n}\n" ::"r"(to), "r"(word),
                 "r"((int)stores)
                 : "memory");
}

/* A word to global memory, if so. */
__device__ __forceinline__ void store_if(bool stores, const char *to, uint32_t word)
{
    asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %2, 0;\n@p st.global.u32 [%0], %1;\n}\n" ::"l"(to), "r"(word),
                 "r"((int)stores)
                 : "memory");
}

/* x, of which the compiler knows nothing. */
__device__ __forceinline__ int opaque(int x)
{
    int y;
    asm volatile("mov.b32 %0, %1;" : "=r"(y) : "r"(x));
    return y;
}

/* base + row * bytes in one instruction: left alone, the compiler adds up the base's parts anew for each row. */
__device__ __forceinline__ const char *row_address(const char *base, uint32_t row, uint32_t bytes)
{
    const char *address;
    asm("mad.wide.u32 %0, %1, %2, %3;" : "=l"(address) : "r"(row), "r"(bytes), "l"(base));
    return address;
}

/* 16 bytes of global memory to shared memory; zeros when !read, and then the source is not touched. */
__device__ __forceinline__ void copy_async_16(uint32_t to, const void *from, bool read)
{
    asm volatile("cp.async.cg.shared.global.L2::256B [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(read ? 16 : 0)
                 : "memory");
}

/* The same, or nothing. */
__device__ __forceinline__ void copy_async_16_unless_negative(int x, uint32_t to, const void *from, bool read)
{
    asm volatile("{\n.reg .pred p;\nsetp.ge.s32 p, %3, 0;\n"
                 "@p cp.async.cg.shared.global.L2::256B [%0], [%1], 16, %2;\n}\n" ::"r"(to),
                 "l"(from), "r"(read ? 16 : 0), "r"(x)
                 : "memory");
}

__device__ __forceinline__ void copy_async_commit()
{
    asm volatile("cp.async.commit_group;" ::: "memory");
}

template <int PENDING> __device__ __forceinline__ void copy_async_wait()
{
    asm volatile("cp.async.wait_group %0;" ::"n"(PENDING) : "memory");
}

__device__ __forceinline__ void prefetch_l1(const void *address)
{
    asm volatile("prefetch.global.L1 [%0];" ::"l"(address));
}

/* Two floats as one word of two halves, `low` in the low one. */
template <typename T> __device__ __forceinline__ uint32_t pack(float low, float high);

template <> __device__ __forceinline__ uint32_t pack<__nv_bfloat16>(float low, float high)
{
    uint32_t word;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(word) : "f"(high), "f"(low));
    return word;
}

template <> __device__ __forceinline__ uint32_t pack<__half>(float low, float high)
{
    uint32_t word;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(word) : "f"(high), "f"(low));
    return word;
}

template <typename T> __device__ __forceinline__ float2 unpack(uint32_t word);

template <> __device__ __forceinline__ float2 unpack<__nv_bfloat16>(uint32_t word)
{
    return make_float2(__uint_as_float(word << 16), __uint_as_float(word & 0xFFFF0000u));
}

template <> __device__ __forceinline__ float2 unpack<__half>(uint32_t word)
{
    return __half22float2(*reinterpret_cast<const __half2 *>(&word));
}

/* Sum, or largest, of the four lanes that share a row of an accumulator. */
__device__ __forceinline__ float quad_sum(float x)
{
    x += __shfl_xor_sync(0xFFFFFFFFu, x, 1);
    return x + __shfl_xor_sync(0xFFFFFFFFu, x, 2);
}

__device__ __forceinline__ float quad_max(float x)
{
    x = fmaxf(x, __shfl_xor_sync(0xFFFFFFFFu, x, 1));
    return fmaxf(x, __shfl_xor_sync(0xFFFFFFFFu, x, 2));
}

} // namespace fga
#endif
