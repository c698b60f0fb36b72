#define _GNU_SOURCE
#include "base/cpu.h"

#include <sched.h>

unsigned fga_cpu_features(void)
{
    unsigned features = 0;
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c")) {
        features |= FGA_CPU_AVX2;
    }
    if ((features & FGA_CPU_AVX2) != 0 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl")) {
        features |= FGA_CPU_AVX512;
    }
    if ((features & FGA_CPU_AVX512) != 0 && __builtin_cpu_supports("avx512bf16")) {
        features |= FGA_CPU_AVX512BF16;
    }
#endif
    return features;
}

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
