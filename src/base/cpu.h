/* cpu.h - what this processor can run, the operating system's register support included. */
#ifndef FGA_BASE_CPU_H
#define FGA_BASE_CPU_H

typedef enum fga_cpu_feature {
    FGA_CPU_AVX2 = 1,       /* AVX2, FMA and F16C */
    FGA_CPU_AVX512 = 2,     /* AVX-512 F, BW, DQ and VL */
    FGA_CPU_AVX512BF16 = 4, /* the above and AVX512_BF16 */
    FGA_CPU_AMX = 8,        /* the above and AMX tiles of bf16, which the operating system must have let us use */
    /* AVX512_BF16 multiplies pairs at half the rate at which AVX-512 multiplies f32, so converting is faster. Intel's
     * cores with tiles do, whether or not the operating system grants the tiles (docs/kernels-cpu.md). */
    FGA_CPU_SLOW_BF16_DOTS = 16
} fga_cpu_feature;

/* The first call asks the operating system for the tile registers, for all threads of the process. */
unsigned fga_cpu_features(void);
int fga_cpu_count(void); /* processors this process may run on, >= 1 */

#endif
