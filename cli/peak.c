#include "peak.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static double seconds_of(clockid_t clock)
{
    struct timespec t;
    clock_gettime(clock, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

double cli_wall_seconds(void)
{
    return seconds_of(CLOCK_MONOTONIC);
}

double cli_thread_seconds(void)
{
    return seconds_of(CLOCK_THREAD_CPUTIME_ID);
}

double cli_cache_seconds(void)
{
    enum { BYTES = 256 << 10, LINE = 64, PASSES = 4 }; /* more than a first-level cache, less than a second-level one */
    static volatile unsigned char memory[BYTES];
    double least = 0;
    for (int pass = 0; pass < PASSES; pass++) {
        double start = cli_wall_seconds();
        for (int i = 0; i < BYTES; i += LINE) {
            (void)memory[i];
        }
        double seconds = cli_wall_seconds() - start;
        least = pass <= 1 || seconds < least ? seconds : least; /* the first pass brings the lines in */
    }
    return least;
}

double cli_peak_counted(double per_cycle)
{
    static const double rates[] = {0.0625, 0.5, 1, 2};
    for (size_t i = 0; i < sizeof rates / sizeof rates[0]; i++) {
        double counted = rates[i];
        if (per_cycle > 0 && per_cycle <= 1.03 * counted) { /* two timings: a few percent over are noise */
            return counted;
        }
    }
    return 0;
}

#if defined(__x86_64__)

/* Fourteen independent accumulators: more than latency times rate of any of these (6 cycles, 2 a cycle), and with the
 * two factors just the 16 registers of AVX2. The compiler cannot fold the loop, for it is opaque to it. */
enum { ACCUMULATORS = 14 };
#define EACH_ACCUMULATOR(X) X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7) X(8) X(9) X(10) X(11) X(12) X(13)
#define FMA_256(r) "vfmadd231ps %%ymm14, %%ymm15, %%ymm" #r "\n\t"
#define FMA_512(r) "vfmadd231ps %%zmm14, %%zmm15, %%zmm" #r "\n\t"
#define DOT_512(r) "vdpbf16ps %%zmm14, %%zmm15, %%zmm" #r "\n\t"
#define CLEAR(r) "vpxor %%xmm" #r ", %%xmm" #r ", %%xmm" #r "\n\t"

/* All registers are zero at first and stay so: nothing overflows, however long it runs. */
#define LOOP(instruction) \
    __asm__ volatile(EACH_ACCUMULATOR(CLEAR) CLEAR(14) \
                         CLEAR(15) "1:\n\t" EACH_ACCUMULATOR(instruction) "dec %0\n\tjnz 1b\n\t" \
                     : "+r"(loops)::"xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", \
                       "xmm10", "xmm11", "xmm12", "xmm13", "xmm14", "xmm15", "cc")

static void multiply_avx2(long loops)
{
    LOOP(FMA_256);
}

static void multiply_avx512(long loops)
{
    LOOP(FMA_512);
}

static void multiply_avx512bf16(long loops)
{
    LOOP(DOT_512);
}

/* 2 x 2 sums of tiles, as kernels have them: the unit takes 16 cycles for each and has the next ones at hand. */
static void multiply_amx(long loops)
{
    struct {
        uint8_t palette, start_row, reserved[14];
        uint16_t row_bytes[16];
        uint8_t rows[16];
    } whole = {.palette = 1};
    for (int i = 0; i < 8; i++) {
        whole.row_bytes[i] = 64;
        whole.rows[i] = 16;
    }
    __asm__ volatile("ldtilecfg %1\n\t" /* clears all tiles */
                     "1:\n\t"
                     "tdpbf16ps %%tmm6, %%tmm4, %%tmm0\n\t"
                     "tdpbf16ps %%tmm7, %%tmm4, %%tmm1\n\t"
                     "tdpbf16ps %%tmm6, %%tmm5, %%tmm2\n\t"
                     "tdpbf16ps %%tmm7, %%tmm5, %%tmm3\n\t"
                     "dec %0\n\tjnz 1b\n\t"
                     "tilerelease\n\t"
                     : "+r"(loops)
                     : "m"(whole)
                     : "cc");
}

static const struct family {
    const char *variant;
    int flops;    /* of one instruction */
    int per_loop; /* instructions */
    int loops;    /* of one measurement, some milliseconds */
    void (*multiply)(long loops);
} families[] = {
    {"avx2", 16, ACCUMULATORS, 1500000, multiply_avx2},
    {"avx512", 32, ACCUMULATORS, 1500000, multiply_avx512},
    {"avx512bf16", 64, ACCUMULATORS, 1500000, multiply_avx512bf16},
    {"amx", 16 * 16 * 32 * 2, 4, 200000, multiply_amx},
};

static const struct family *find(const char *variant)
{
    for (size_t i = 0; i < sizeof families / sizeof families[0]; i++) {
        if (strcmp(variant, families[i].variant) == 0) {
            return &families[i];
        }
    }
    return NULL;
}

static int by_size(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Ten dependent additions of two registers; none of them can be skipped, renamed away or run beside another. */
#define ADDITION "add %1, %0\n\t"
#define TEN_ADDITIONS ADDITION ADDITION ADDITION ADDITION ADDITION ADDITION ADDITION ADDITION ADDITION ADDITION

/* Short chains, each right after a burst of multiply-adds, before the processor could change its clock; the median, so
 * that an interrupted one does not count. By the wall whatever the caller's clock: they are too short for another. */
static double measure_hertz(const struct family *f)
{
    enum { CHAINS = 15, LOOPS = 500, ADDITIONS = 10 * LOOPS };
    double hertz[CHAINS];
    for (int i = 0; i < CHAINS; i++) {
        f->multiply(f->loops / 150);
        long sum = 0, one = 1, loops = LOOPS;
        double start = cli_wall_seconds();
        __asm__ volatile("1:\n\t" TEN_ADDITIONS "dec %2\n\tjnz 1b\n\t" : "+r"(sum), "+r"(one), "+r"(loops)::"cc");
        hertz[i] = ADDITIONS / (cli_wall_seconds() - start);
    }
    qsort(hertz, CHAINS, sizeof *hertz, by_size);
    return hertz[CHAINS / 2];
}

cli_peak cli_peak_measure(const char *variant, double (*clock)(void))
{
    const struct family *f = find(variant);
    cli_peak peak = {0};
    if (f != NULL) {
        double start = clock(), used = cli_thread_seconds();
        f->multiply(f->loops);
        double count = (double)f->per_loop * f->loops;
        peak.flops = f->flops * count / (clock() - start);
        used = cli_thread_seconds() - used;
        peak.hertz = measure_hertz(f);
        peak.per_cycle = count / (used * peak.hertz);
    }
    return peak;
}

#else

cli_peak cli_peak_measure(const char *variant, double (*clock)(void))
{
    (void)variant;
    (void)clock;
    return (cli_peak){0};
}

#endif
