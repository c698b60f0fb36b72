/* machine.h - a thread block on the processor: every thread a fiber, so that the kernels' own sources can run, and be
 * found wrong or stuck, without a device.
 *
 * cp.async lands late and in random order between threads; barriers of all kinds have their phases; a round in which no
 * thread gets on is a deadlock and ends the program.
 */
#ifndef FGA_EMULATED_MACHINE_H
#define FGA_EMULATED_MACHINE_H

#include <cmath>
#include <cstdint>
#include <cstring>

#define __device__
#define __global__
#define __shared__
#define __forceinline__ inline
#define __align__(n) __attribute__((aligned(n)))
#define __grid_constant__
#define __launch_bounds__(...)

struct float2 {
    float x, y;
};
struct alignas(16) float4 {
    float x, y, z, w;
};
struct alignas(16) uint4 {
    uint32_t x, y, z, w;
};
struct dim3 {
    unsigned x;
};

namespace emulated
{

struct thread; /* a fiber */
extern thread *now;

int thread_index();
extern dim3 block_index, grid_size, block_size;
struct index {
    unsigned x;
};
inline index this_thread()
{
    return {(unsigned)thread_index()};
}

/* Gives the warp's 32 values to each of its lanes, once all have come. */
void exchange(const void *mine, size_t bytes, void *all);
/* Blocks until all threads of the block, or `count` threads at barrier id, have come. */
void sync(int id, int count);
void arrive(int id, int count);

void bar_init(uint64_t *bar, int count);
void bar_arrive(uint64_t *bar);
void bar_expect(uint64_t *bar, int bytes);
void bar_complete(uint64_t *bar, int bytes);
void bar_wait(uint64_t *bar, uint32_t parity);

void copy_later(unsigned char *to, const void *from, bool read);
void arrive_later(uint64_t *bar);
void commit_group();
void wait_groups(int pending);

unsigned char *shared_at(uint32_t address);
uint32_t shared_offset(const void *pointer);

/* Runs body in every thread of every block, one block after the other. Writing to shared memory from byte `shared` on
 * ends the program. */
void run(int blocks, int threads, int shared, unsigned seed, void (*body)(void *arg), void *arg);

} // namespace emulated

#define threadIdx (emulated::this_thread())
#define blockIdx (emulated::block_index)
#define gridDim (emulated::grid_size)
#define blockDim (emulated::block_size)

template <typename A, typename B> inline int min(A a, B b)
{
    return (int)((int64_t)a < (int64_t)b ? a : b);
}
template <typename A, typename B> inline int max(A a, B b)
{
    return (int)((int64_t)a > (int64_t)b ? a : b);
}
inline int __popc(uint32_t x)
{
    return __builtin_popcount(x);
}
inline int __ffs(uint32_t x)
{
    return __builtin_ffs((int)x);
}
inline float __uint_as_float(uint32_t x)
{
    float f;
    std::memcpy(&f, &x, 4);
    return f;
}
inline float2 make_float2(float x, float y)
{
    return {x, y};
}
inline uint4 make_uint4(uint32_t x, uint32_t y, uint32_t z, uint32_t w)
{
    return {x, y, z, w};
}
template <typename T> inline T __ldg(const T *p)
{
    return *p;
}
template <typename T> inline T __shfl_sync(uint32_t, T x, int from)
{
    T all[32];
    emulated::exchange(&x, sizeof x, all);
    return all[from & 31];
}
template <typename T> inline T __shfl_xor_sync(uint32_t, T x, int mask)
{
    T all[32];
    emulated::exchange(&x, sizeof x, all);
    return all[(threadIdx.x & 31) ^ (unsigned)mask];
}
template <typename T> inline T __shfl_up_sync(uint32_t, T x, int distance)
{
    T all[32];
    emulated::exchange(&x, sizeof x, all);
    int lane = (int)(threadIdx.x & 31);
    return all[lane >= distance ? lane - distance : lane];
}
inline uint32_t __ballot_sync(uint32_t, bool x)
{
    bool all[32];
    emulated::exchange(&x, sizeof x, all);
    uint32_t bits = 0;
    for (int i = 0; i < 32; i++) {
        bits |= (uint32_t)all[i] << i;
    }
    return bits;
}
inline int __reduce_min_sync(uint32_t, int x)
{
    int all[32];
    emulated::exchange(&x, sizeof x, all);
    for (int other : all) {
        x = other < x ? other : x;
    }
    return x;
}
inline int __reduce_max_sync(uint32_t, int x)
{
    return -__reduce_min_sync(0xFFFFFFFFu, -x);
}
inline uint32_t __reduce_or_sync(uint32_t, uint32_t x)
{
    uint32_t all[32];
    emulated::exchange(&x, sizeof x, all);
    for (uint32_t other : all) {
        x |= other;
    }
    return x;
}
inline uint32_t __byte_perm(uint32_t x, uint32_t y, uint32_t bytes)
{
    uint64_t both = (uint64_t)y << 32 | x;
    uint32_t word = 0;
    for (int i = 0; i < 4; i++) {
        word |= (uint32_t)(both >> (bytes >> 4 * i & 7) * 8 & 0xFF) << 8 * i;
    }
    return word;
}
inline void __syncwarp()
{
    char x = 0, all[32];
    emulated::exchange(&x, 1, all);
}
inline void __syncthreads()
{
    emulated::sync(0, (int)blockDim.x);
}

struct __nv_bfloat16 {
    uint16_t bits;
};
struct __half {
    uint16_t bits;
};

#endif
