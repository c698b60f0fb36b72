#define _GNU_SOURCE
#include "base/cpu.h"

#include <sched.h>
#include <stdbool.h>

#if defined(__x86_64__)
#include <cpuid.h>
#include <pthread.h>
#include <sys/syscall.h>
#include <unistd.h>

/* Register sets the operating system saves: XCR0. Only valid when CPUID reports OSXSAVE. */
static unsigned long long saved_registers(void)
{
    unsigned low, high;
    __asm__("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return (unsigned long long)high << 32 | low;
}

/* Linux saves the 8 KB of tile registers only for processes that asked, once and for all of their threads; it refuses
 * where a thread's signal stack could not hold them, and older kernels know neither the call nor the registers. */
static bool tiles_granted(void)
{
#if defined(__linux__)
    enum { request_permission = 0x1023, tile_data = 18 }; /* ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA */
    return syscall(SYS_arch_prctl, request_permission, tile_data) == 0;
#else
    return false;
#endif
}

/* Of a processor with AVX512_BF16. */
static unsigned tile_features(unsigned leaf7_d, unsigned long long saved)
{
    const unsigned amx_bf16_and_tile = 1u << 22 | 1u << 24; /* leaf 7, subleaf 0, EDX */
    const unsigned long long tile_state = 0x60000;
    if ((leaf7_d & amx_bf16_and_tile) != amx_bf16_and_tile) {
        return 0;
    }
    bool usable = (saved & tile_state) == tile_state && tiles_granted();
    return FGA_CPU_SLOW_BF16_DOTS | (usable ? FGA_CPU_AMX : 0u);
}

/* CPUID directly: compilers differ in the names that __builtin_cpu_supports knows. */
static unsigned probe(void)
{
    enum { ymm_state = 0x6, zmm_state = 0xe6 };
    unsigned a, b, c, d, leaf7_b, leaf7_d, leaf7_1a = 0, subleaves;
    if (!__get_cpuid(1, &a, &b, &c, &d) || (c & bit_OSXSAVE) == 0) {
        return 0;
    }
    unsigned long long saved = saved_registers();
    unsigned fma_f16c = bit_FMA | bit_F16C;
    if ((c & fma_f16c) != fma_f16c || (saved & ymm_state) != ymm_state ||
        !__get_cpuid_count(7, 0, &subleaves, &leaf7_b, &c, &leaf7_d) || (leaf7_b & bit_AVX2) == 0) {
        return 0;
    }
    unsigned avx512 = bit_AVX512F | bit_AVX512BW | bit_AVX512DQ | bit_AVX512VL;
    if ((leaf7_b & avx512) != avx512 || (saved & zmm_state) != zmm_state) {
        return FGA_CPU_AVX2;
    }
    if (subleaves >= 1) {
        __get_cpuid_count(7, 1, &leaf7_1a, &b, &c, &d);
    }
    const unsigned avx512_bf16 = 1u << 5; /* leaf 7, subleaf 1, EAX */
    if ((leaf7_1a & avx512_bf16) == 0) {
        return FGA_CPU_AVX2 | FGA_CPU_AVX512;
    }
    return FGA_CPU_AVX2 | FGA_CPU_AVX512 | FGA_CPU_AVX512BF16 | tile_features(leaf7_d, saved);
}

static unsigned found;

static void find(void)
{
    found = probe();
}

unsigned fga_cpu_features(void)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, find);
    return found;
}
#else
unsigned fga_cpu_features(void)
{
    return 0;
}
#endif

int fga_cpu_count(void)
{
    cpu_set_t set;
    CPU_ZERO(&set);
    if (sched_getaffinity(0, sizeof set, &set) != 0) {
        return 1;
    }
    int count = CPU_COUNT(&set);
    return count > 0 ? count : 1;
}
