/* wgmma.cuh - the matrix instructions of sm_90 for a warpgroup's 64 rows, one function per width and operand kind.
 *
 * The accumulator of lane l of warp w holds, for 8-column group j: columns 8j + 2(l mod 4) and the next, of row
 * 16w + l/4 in d[4j], d[4j+1] and of row 16w + l/4 + 8 in d[4j+2], d[4j+3].
 */
#ifndef FGA_CUDA_WGMMA_CUH
#define FGA_CUDA_WGMMA_CUH

#include "cuda/device.cuh"

namespace fga
{

__device__ __forceinline__ void wgmma_fence()
{
    asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}

__device__ __forceinline__ void wgmma_commit()
{
    asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}

template <int PENDING> __device__ __forceinline__ void wgmma_wait()
{
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(PENDING) : "memory");
}

/* Keeps the compiler from moving its uses of these registers across a wait. */
template <int COUNT> __device__ __forceinline__ void wgmma_registers(float (&d)[COUNT])
{
#pragma unroll
    for (int i = 0; i < COUNT; i++) {
        asm volatile("" : "+f"(d[i])::"memory");
    }
}

/* d[0] ... d[n - 1], as an instruction's text names them and as it gets them. */
#define FGA_NAMES_8 "%0, %1, %2, %3, %4, %5, %6, %7"
#define FGA_NAMES_16 FGA_NAMES_8 ", %8, %9, %10, %11, %12, %13, %14, %15"
#define FGA_NAMES_24 FGA_NAMES_16 ", %16, %17, %18, %19, %20, %21, %22, %23"
#define FGA_NAMES_32 FGA_NAMES_24 ", %24, %25, %26, %27, %28, %29, %30, %31"
#define FGA_NAMES_40 FGA_NAMES_32 ", %32, %33, %34, %35, %36, %37, %38, %39"
#define FGA_NAMES_48 FGA_NAMES_40 ", %40, %41, %42, %43, %44, %45, %46, %47"
#define FGA_NAMES_56 FGA_NAMES_48 ", %48, %49, %50, %51, %52, %53, %54, %55"
#define FGA_NAMES_64 FGA_NAMES_56 ", %56, %57, %58, %59, %60, %61, %62, %63"
#define FGA_NAMES_72 FGA_NAMES_64 ", %64, %65, %66, %67, %68, %69, %70, %71"
#define FGA_NAMES_80 FGA_NAMES_72 ", %72, %73, %74, %75, %76, %77, %78, %79"
#define FGA_NAMES_88 FGA_NAMES_80 ", %80, %81, %82, %83, %84, %85, %86, %87"
#define FGA_NAMES_96 FGA_NAMES_88 ", %88, %89, %90, %91, %92, %93, %94, %95"
#define FGA_NAMES_104 FGA_NAMES_96 ", %96, %97, %98, %99, %100, %101, %102, %103"
#define FGA_NAMES_112 FGA_NAMES_104 ", %104, %105, %106, %107, %108, %109, %110, %111"
#define FGA_NAMES_120 FGA_NAMES_112 ", %112, %113, %114, %115, %116, %117, %118, %119"
#define FGA_NAMES_128 FGA_NAMES_120 ", %120, %121, %122, %123, %124, %125, %126, %127"
#define FGA_GIVEN(i) \
    "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3]), "+f"(d[i + 4]), "+f"(d[i + 5]), "+f"(d[i + 6]), \
        "+f"(d[i + 7])
#define FGA_GIVEN_8 FGA_GIVEN(0)
#define FGA_GIVEN_16 FGA_GIVEN_8, FGA_GIVEN(8)
#define FGA_GIVEN_24 FGA_GIVEN_16, FGA_GIVEN(16)
#define FGA_GIVEN_32 FGA_GIVEN_24, FGA_GIVEN(24)
#define FGA_GIVEN_40 FGA_GIVEN_32, FGA_GIVEN(32)
#define FGA_GIVEN_48 FGA_GIVEN_40, FGA_GIVEN(40)
#define FGA_GIVEN_56 FGA_GIVEN_48, FGA_GIVEN(48)
#define FGA_GIVEN_64 FGA_GIVEN_56, FGA_GIVEN(56)
#define FGA_GIVEN_72 FGA_GIVEN_64, FGA_GIVEN(64)
#define FGA_GIVEN_80 FGA_GIVEN_72, FGA_GIVEN(72)
#define FGA_GIVEN_88 FGA_GIVEN_80, FGA_GIVEN(80)
#define FGA_GIVEN_96 FGA_GIVEN_88, FGA_GIVEN(88)
#define FGA_GIVEN_104 FGA_GIVEN_96, FGA_GIVEN(96)
#define FGA_GIVEN_112 FGA_GIVEN_104, FGA_GIVEN(104)
#define FGA_GIVEN_120 FGA_GIVEN_112, FGA_GIVEN(112)
#define FGA_GIVEN_128 FGA_GIVEN_120, FGA_GIVEN(120)

/* scores: D (+)= A B, A and B in shared memory, both with consecutive channels. weighted: D += A B, A in registers, B
 * in shared memory, read transposed. */
template <typename T, int N> struct wgmma;

/* x0 ...: the numbers after those of D's `count` registers. */
#define FGA_WGMMA_OF(type, name, n, count, x0, x1, x2, x3, x4) \
    template <> struct wgmma<type, n> { \
        static __device__ __forceinline__ void scores(float (&d)[count], uint64_t a, uint64_t b, bool add) \
        { \
            asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %" #x2 ", 0;\n" \
                         "wgmma.mma_async.sync.aligned.m64n" #n "k16.f32." #name "." #name " {" FGA_NAMES_##count \
                         "}, %" #x0 ", %" #x1 ", p, 1, 1, 0, 0;\n}\n" \
                         : FGA_GIVEN_##count \
                         : "l"(a), "l"(b), "r"((int)add)); \
        } \
        static __device__ __forceinline__ void weighted(float (&d)[count], const uint32_t *a, uint64_t b) \
        { \
            asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, 1, 0;\n" \
                         "wgmma.mma_async.sync.aligned.m64n" #n "k16.f32." #name "." #name " {" FGA_NAMES_##count \
                         "}, {%" #x0 ", %" #x1 ", %" #x2 ", %" #x3 "}, %" #x4 ", p, 1, 1, 1;\n}\n" \
                         : FGA_GIVEN_##count \
                         : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b)); \
        } \
    };
#define FGA_WGMMA(n, count, x0, x1, x2, x3, x4) \
    FGA_WGMMA_OF(__nv_bfloat16, bf16, n, count, x0, x1, x2, x3, x4) \
    FGA_WGMMA_OF(__half, f16, n, count, x0, x1, x2, x3, x4)

FGA_WGMMA(48, 24, 24, 25, 26, 27, 28)
FGA_WGMMA(64, 32, 32, 33, 34, 35, 36)
FGA_WGMMA(80, 40, 40, 41, 42, 43, 44)
FGA_WGMMA(96, 48, 48, 49, 50, 51, 52)
FGA_WGMMA(128, 64, 64, 65, 66, 67, 68)
FGA_WGMMA(160, 80, 80, 81, 82, 83, 84)
FGA_WGMMA(176, 88, 88, 89, 90, 91, 92)
FGA_WGMMA(208, 104, 104, 105, 106, 107, 108)
FGA_WGMMA(256, 128, 128, 129, 130, 131, 132)

#undef FGA_WGMMA
#undef FGA_WGMMA_OF

} // namespace fga
#endif
