/* bench_attend.c - speed of the attention kernels, one query block at a time on one thread, against the peak of the
 * machine's multiply-add instructions measured in the same process.
 *
 *   bench_attend [--variant NAME] [--dtype f32|f16|bf16] [--rows M] [--head-dim D] [--keys S] [--rounds R]
 *                [--pattern random|runs] [--csv FILE]
 *
 * Rates are effective: 4*M*kept*D floating-point operations over time, skipped keys never counted. Each round measures
 * the peak and every density in turn; medians over rounds are printed, the fraction of peak round by round. Time is the
 * thread's own processor time, so that other programs cost little more than their share of the caches.
 */
#include "base/half.h"
#include "ops/ops.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { MAX_ROUNDS = 101 };

static const double densities[] = {1.0, 0.5, 0.3, 0.1, 0.05};
enum { DENSITIES = sizeof densities / sizeof densities[0] };

static double seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* ---- peaks: independent multiply-adds on registers alone -------------------------------------------------------- */

enum { PEAK_LOOPS = 300000 };

/* Twelve independent accumulators; the compiler keeps them in registers and cannot fold the loop. */
#define PEAK_BODY(instruction) \
    for (long i = 0; i < PEAK_LOOPS; i++) { \
        __asm__ volatile(instruction(0) instruction(1) instruction(2) instruction(3) instruction(4) instruction(5) \
                             instruction(6) instruction(7) instruction(8) instruction(9) instruction(10) \
                                 instruction(11):: \
                                     : PEAK_CLOBBERS); \
    }

#if defined(__x86_64__)
#define PEAK_CLOBBERS \
    "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10", "xmm11", "xmm12", "xmm13"
#define FMA_512(r) "vfmadd231ps %%zmm12, %%zmm13, %%zmm" #r "\n\t"
#define FMA_256(r) "vfmadd231ps %%ymm12, %%ymm13, %%ymm" #r "\n\t"
#define DOT_512(r) "vdpbf16ps %%zmm12, %%zmm13, %%zmm" #r "\n\t"

__attribute__((target("avx512f"))) static double peak_avx512(void)
{
    double start = seconds();
    __asm__ volatile("vpxorq %%zmm12, %%zmm12, %%zmm12\n\tvpxorq %%zmm13, %%zmm13, %%zmm13" ::: "xmm12", "xmm13");
    PEAK_BODY(FMA_512)
    return 12.0 * 32 * PEAK_LOOPS / (seconds() - start);
}

__attribute__((target("avx2"))) static double peak_avx2(void)
{
    double start = seconds();
    __asm__ volatile("vpxor %%ymm12, %%ymm12, %%ymm12\n\tvpxor %%ymm13, %%ymm13, %%ymm13" ::: "xmm12", "xmm13");
    PEAK_BODY(FMA_256)
    return 12.0 * 16 * PEAK_LOOPS / (seconds() - start);
}

__attribute__((target("avx512f"))) static double peak_bf16(void)
{
    double start = seconds();
    __asm__ volatile("vpxorq %%zmm12, %%zmm12, %%zmm12\n\tvpxorq %%zmm13, %%zmm13, %%zmm13" ::: "xmm12", "xmm13");
    PEAK_BODY(DOT_512)
    return 12.0 * 64 * PEAK_LOOPS / (seconds() - start);
}
#endif

/* The peak of the instructions that the tier called `name` multiplies with, in FLOP/s; 0 where nothing is claimed. */
static double peak_of(const char *name)
{
#if defined(__x86_64__)
    if (strcmp(name, "avx2") == 0) {
        return peak_avx2();
    }
    if (strcmp(name, "avx512") == 0) {
        return peak_avx512();
    }
    if (strcmp(name, "avx512bf16") == 0) {
        return peak_bf16();
    }
#endif
    (void)name;
    return 0;
}

/* ---- what is measured ------------------------------------------------------------------------------------------- */

typedef struct options {
    const char *variant, *csv;
    fga_dtype dtype;
    int rows, head_dim, keys, rounds;
    bool runs;
} options;

typedef struct job {
    options opt;
    fga_ops ops;
    void *q, *k, *v, *o, *scratch;
    uint32_t *list[DENSITIES];
    int64_t kept[DENSITIES];
} job;

static uint64_t random_state = 1;

static double random_unit(void)
{
    random_state = random_state * 6364136223846793005u + 1442695040888963407u;
    return (double)(random_state >> 11) * 0x1p-53;
}

static void *allocate(size_t bytes)
{
    void *p = aligned_alloc(64, (bytes + 63) / 64 * 64);
    if (p == NULL) {
        fprintf(stderr, "bench_attend: no memory for %zu bytes\n", bytes);
        exit(1);
    }
    return p;
}

static void *random_tensor(const options *opt, int64_t rows)
{
    int64_t n = rows * opt->head_dim;
    float *x = allocate((size_t)n * sizeof *x);
    for (int64_t i = 0; i < n; i++) {
        x[i] = (float)(2 * random_unit() - 1);
    }
    void *out = allocate((size_t)n * fga_dtype_size(opt->dtype));
    fga_from_f32(out, opt->dtype, x, n);
    free(x);
    return out;
}

/* Keys kept one by one at random, or in runs of 64. */
static void list_keys(job *j, int density)
{
    const options *opt = &j->opt;
    int run = opt->runs ? 64 : 1;
    j->list[density] = allocate((size_t)opt->keys * sizeof(uint32_t));
    for (int first = 0; first < opt->keys; first += run) {
        if (random_unit() < densities[density]) {
            for (int key = first; key < first + run && key < opt->keys; key++) {
                j->list[density][j->kept[density]++] = (uint32_t)key;
            }
        }
    }
}

static void make_job(job *j)
{
    const options *opt = &j->opt;
    j->q = random_tensor(opt, opt->rows);
    j->k = random_tensor(opt, opt->keys);
    j->v = random_tensor(opt, opt->keys);
    j->o = random_tensor(opt, opt->rows);
    j->scratch = allocate(j->ops.attend_scratch[opt->dtype](opt->rows, opt->head_dim, opt->dtype) + 64);
    for (int d = 0; d < DENSITIES; d++) {
        list_keys(j, d);
    }
}

/* Effective FLOP/s of one density, over enough blocks to last about 20 ms at full speed. */
static double measure(const job *j, int density)
{
    const options *opt = &j->opt;
    fga_attend_op op = {
        .q = j->q,
        .k = j->k,
        .v = j->v,
        .o = j->o,
        .keys = j->list[density],
        .q_stride = opt->head_dim,
        .k_stride = opt->head_dim,
        .v_stride = opt->head_dim,
        .o_stride = opt->head_dim,
        .key_count = j->kept[density],
        .rows = opt->rows,
        .head_dim = opt->head_dim,
        .dtype = opt->dtype,
        .scale = 0.09f,
        .scratch = j->scratch,
    };
    double work = 4.0 * opt->rows * (double)j->kept[density] * opt->head_dim;
    int blocks = strcmp(j->ops.attend_variant[opt->dtype], "c") == 0 ? 1 : 1 + (int)(2e9 / (work + 1));
    double start = seconds();
    for (int i = 0; i < blocks; i++) {
        j->ops.attend[opt->dtype](&op);
    }
    return work * blocks / (seconds() - start);
}

static int by_size(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(double *x, int n)
{
    qsort(x, (size_t)n, sizeof *x, by_size);
    return x[n / 2];
}

/* ---- reports ---------------------------------------------------------------------------------------------------- */

static void read_machine(char *name, size_t bytes)
{
    char line[256];
    FILE *f = fopen("/proc/cpuinfo", "r");
    snprintf(name, bytes, "unknown");
    while (f != NULL && fgets(line, sizeof line, f) != NULL) {
        char *value = strchr(line, ':');
        if (strncmp(line, "model name", 10) == 0 && value != NULL) {
            snprintf(name, bytes, "%.*s", (int)strcspn(value + 2, "\n"), value + 2);
            break;
        }
    }
    if (f != NULL) {
        fclose(f);
    }
}

static void bench_variant(const options *opt, const char *name, FILE *csv)
{
    static double rate[DENSITIES][MAX_ROUNDS], part[DENSITIES][MAX_ROUNDS], peaks[MAX_ROUNDS];
    job j = {.opt = *opt};
    if (fga_ops_select(name, &j.ops) != FGA_OK) {
        printf("%-11s skipped: this machine lacks its instructions\n", name);
        return;
    }
    const char *from = j.ops.attend_variant[opt->dtype];
    if (strcmp(from, name) != 0) {
        return; /* this dtype is the tier below's */
    }
    make_job(&j);
    int rounds = strcmp(name, "c") == 0 ? 1 : opt->rounds;
    for (int r = 0; r < rounds; r++) {
        for (int d = 0; d < DENSITIES; d++) {
            double before = peak_of(name);
            rate[d][r] = measure(&j, d);
            peaks[r] = 0.5 * (before + peak_of(name));
            part[d][r] = peaks[r] > 0 ? rate[d][r] / peaks[r] : 0;
        }
    }
    double peak = median(peaks, rounds);
    printf("%-11s %-4s", name, fga_dtype_name(opt->dtype));
    for (int d = 0; d < DENSITIES; d++) {
        double gflops = median(rate[d], rounds) * 1e-9, fraction = median(part[d], rounds);
        printf("  %6.1f (%4.1f %%)", gflops, 100 * fraction);
        if (csv != NULL) {
            fprintf(csv, "%s,%s,%d,%d,%d,%s,%g,%.2f,%.2f,%.4f\n", name, fga_dtype_name(opt->dtype), opt->rows,
                    opt->head_dim, opt->keys, opt->runs ? "runs" : "random", densities[d], gflops, peak * 1e-9,
                    fraction);
        }
    }
    printf("   %6.1f\n", peak * 1e-9);
    void *all[] = {j.q, j.k, j.v, j.o, j.scratch, j.list[0], j.list[1], j.list[2], j.list[3], j.list[4]};
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) {
        free(all[i]);
    }
}

static bool parse_dtype(const char *text, fga_dtype *dtype)
{
    for (fga_dtype d = FGA_F32; d <= FGA_BF16; d++) {
        if (strcmp(text, fga_dtype_name(d)) == 0) {
            *dtype = d;
            return true;
        }
    }
    return false;
}

static bool parse(int argc, char **argv, options *opt)
{
    bool good = true;
    for (int i = 1; i + 1 < argc; i += 2) {
        const char *name = argv[i], *value = argv[i + 1];
        struct {
            const char *name;
            int *place, least, most;
        } numbers[] = {{"--rows", &opt->rows, 1, 192},
                       {"--head-dim", &opt->head_dim, 8, 256},
                       {"--keys", &opt->keys, 1, 1 << 20},
                       {"--rounds", &opt->rounds, 1, MAX_ROUNDS}};
        bool known = false;
        for (int n = 0; n < 4; n++) {
            if (strcmp(name, numbers[n].name) == 0) {
                *numbers[n].place = atoi(value);
                known = *numbers[n].place >= numbers[n].least && *numbers[n].place <= numbers[n].most;
            }
        }
        if (strcmp(name, "--variant") == 0) {
            opt->variant = value;
        } else if (strcmp(name, "--csv") == 0) {
            opt->csv = value;
        } else if (strcmp(name, "--pattern") == 0) {
            opt->runs = strcmp(value, "runs") == 0;
        } else {
            known = known || (strcmp(name, "--dtype") == 0 && parse_dtype(value, &opt->dtype));
            good = good && known;
        }
    }
    return good && argc % 2 == 1 && opt->head_dim % 8 == 0;
}

int main(int argc, char **argv)
{
    options opt = {.dtype = FGA_F32, .rows = 64, .head_dim = 128, .keys = 8192, .rounds = 9};
    if (!parse(argc, argv, &opt)) {
        fprintf(stderr, "usage: bench_attend [--variant NAME] [--dtype f32|f16|bf16] [--rows 1...192] [--head-dim D]\n"
                        "                    [--keys S] [--rounds R] [--pattern random|runs] [--csv FILE]\n");
        return 2;
    }
    char machine[128], date[32];
    time_t now = time(NULL);
    read_machine(machine, sizeof machine);
    strftime(date, sizeof date, "%Y-%m-%d", gmtime(&now));
    FILE *csv = opt.csv != NULL ? fopen(opt.csv, "w") : NULL;
    if (opt.csv != NULL && csv == NULL) {
        fprintf(stderr, "bench_attend: cannot write %s\n", opt.csv);
        return 1;
    }
    if (csv != NULL) {
        fprintf(csv, "# machine: %s\n# date: %s\n# command: bench_attend", machine, date);
        for (int i = 1; i < argc; i++) {
            fprintf(csv, " %s", argv[i]);
        }
        fprintf(csv, "\nvariant,dtype,rows,head_dim,keys,pattern,density,gflops_effective,peak_gflops,fraction\n");
    }
    printf("%s, one thread; M = %d, D = %d, S = %d, keys kept %s\n", machine, opt.rows, opt.head_dim, opt.keys,
           opt.runs ? "in runs of 64" : "one by one at random");
    printf("GFLOP/s effective (of measured peak) at density\n%-16s", "");
    for (int d = 0; d < DENSITIES; d++) {
        printf("  %-15g", densities[d]);
    }
    printf("     peak\n");
    for (int i = 0; i < fga_variant_count(); i++) {
        if (opt.variant == NULL || strcmp(opt.variant, fga_variant_name(i)) == 0) {
            bench_variant(&opt, fga_variant_name(i), csv);
        }
    }
    return csv != NULL && fclose(csv) != 0 ? 1 : 0;
}
