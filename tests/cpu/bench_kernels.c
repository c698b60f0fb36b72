/* bench_kernels.c - the speed of every kernel family of ops/variants.inc, one operator call at a time on one thread,
 * against the peak of the machine's multiply-add instructions measured in the same process.
 *
 *   check_kernels --bench [--variant NAME] [--dtype f32|f16|bf16] [--rows M] [--head-dim D] [--keys S] [--rounds R]
 *                         [--pattern random|runs] [--csv FILE]
 *
 * Rates are effective: 4*M*kept*D floating-point operations over time, skipped keys never counted. Each round measures
 * the peak and every density in turn; medians over rounds are printed, the fraction of peak round by round. Time is the
 * thread's own processor time, so that other programs cost little more than their share of the caches.
 */
#include "bench_kernels.h"

#include "../../bench/timing.h"
#include "../../cli/peak.h"
#include "base/half.h"
#include "ops/ops.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { MAX_ROUNDS = 101 };

static const double densities[] = {1.0, 0.5, 0.3, 0.1, 0.05};
enum { DENSITIES = sizeof densities / sizeof densities[0] };

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
        fprintf(stderr, "check_kernels: no memory for %zu bytes\n", bytes);
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
    double start = cli_thread_seconds();
    for (int i = 0; i < blocks; i++) {
        j->ops.attend[opt->dtype](&op);
    }
    return work * blocks / (cli_thread_seconds() - start);
}

/* ---- the operators that score ------------------------------------------------------------------------------------ */

enum { SUB_TILE = 16 }; /* tokens of a mean; also rows of a block */

/* One operator's rate, bytes or operations per second: calls that last about 10 ms. */
typedef struct scoring {
    const job *job;
    fga_pool_op pool;
    fga_sums_op sums;
    fga_rank_op rank;
} scoring;

static double rate_of(const scoring *s, int which)
{
    double work = which == 2
                      ? 2.0 * s->rank.row_begin[1] * (double)s->rank.keys * s->rank.head_dim
                      : (double)s->job->opt.keys * s->job->opt.head_dim * (double)fga_dtype_size(s->job->opt.dtype);
    double start = cli_thread_seconds(), used = 0;
    int calls = 0;
    for (; used < 0.01; used = cli_thread_seconds() - start, calls++) {
        if (which == 0) {
            s->job->ops.pool(&s->pool);
        } else if (which == 1) {
            s->job->ops.sums(&s->sums);
        } else {
            s->job->ops.rank[s->rank.dtype](&s->rank);
        }
    }
    return work * calls / used;
}

/* Pooled means, group sums of all keys, and the mass of SUB_TILE means of queries over the means of all keys. */
static void bench_scoring(const job *j)
{
    const options *opt = &j->opt;
    int64_t subs = opt->keys / SUB_TILE, keys = subs * SUB_TILE, tiles = (subs + 3) / 4;
    int64_t *begin = allocate((size_t)(subs + 1) * sizeof *begin), *tile = allocate((size_t)(tiles + 1) * sizeof *tile);
    uint32_t *rows = allocate((size_t)keys * sizeof *rows);
    int32_t *group = allocate((size_t)(subs + 1) * sizeof *group), row_begin[2] = {0, SUB_TILE};
    float *mean = allocate((size_t)(subs * opt->head_dim) * sizeof *mean),
          *bias = allocate((size_t)subs * sizeof *bias);
    float *score = allocate((size_t)tiles * sizeof *score), weight[SUB_TILE];
    for (int64_t i = 0; i <= subs; i++) {
        begin[i] = i * SUB_TILE;
        group[i] = (int32_t)begin[i];
        tile[i / 4] = i % 4 == 0 ? i : tile[i / 4];
    }
    tile[tiles] = subs;
    for (int64_t i = 0; i < keys; i++) {
        rows[i] = (uint32_t)i;
        bias[i / SUB_TILE] = 1;
        weight[i % SUB_TILE] = 1.0f / SUB_TILE;
    }
    scoring s = {j,
                 {j->k, opt->head_dim, begin, begin + 1, mean, subs, opt->head_dim, opt->dtype},
                 {j->k, opt->head_dim, rows, group, mean, subs, opt->head_dim, opt->dtype},
                 {.kind = FGA_RANK_MASS,
                  .q = mean,
                  .weight = weight,
                  .row_begin = row_begin,
                  .k = mean,
                  .bias = bias,
                  .tile_begin = tile,
                  .score = score,
                  .k_stride = opt->head_dim,
                  .keys = subs,
                  .tiles = tiles,
                  .tile_keys = 4,
                  .blocks = 1,
                  .head_dim = opt->head_dim,
                  .dtype = FGA_F32,
                  .scale = 0.09f}};
    s.rank.scratch = allocate(j->ops.rank_scratch[s.rank.dtype](&s.rank, SUB_TILE) + 64);
    double rate[3][MAX_ROUNDS];
    for (int r = 0; r < opt->rounds; r++) {
        for (int which = 0; which < 3; which++) {
            rate[which][r] = rate_of(&s, which);
        }
    }
    printf("%-16s  pool %.1f GB/s, sums %.1f GB/s, rank (mass of %d rows) %.1f GFLOP/s\n", "",
           median(rate[0], opt->rounds) * 1e-9, median(rate[1], opt->rounds) * 1e-9, SUB_TILE,
           median(rate[2], opt->rounds) * 1e-9);
    void *all[] = {begin, tile, rows, group, mean, bias, score, s.rank.scratch};
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) {
        free(all[i]);
    }
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
            double before = cli_peak_measure(name, cli_thread_seconds).flops;
            rate[d][r] = measure(&j, d);
            peaks[r] = 0.5 * (before + cli_peak_measure(name, cli_thread_seconds).flops);
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
    if (opt->keys >= SUB_TILE) {
        bench_scoring(&j);
    }
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
    for (int i = 0; i + 1 < argc; i += 2) {
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
    return good && argc % 2 == 0 && opt->head_dim % 8 == 0;
}

int bench_kernels(int argc, char **argv)
{
    options opt = {.dtype = FGA_F32, .rows = 64, .head_dim = 128, .keys = 8192, .rounds = 9};
    if (!parse(argc, argv, &opt)) {
        fprintf(stderr, "usage: check_kernels --bench [--variant NAME] [--dtype f32|f16|bf16] [--rows 1...192]\n"
                        "                             [--head-dim D] [--keys S] [--rounds R]\n"
                        "                             [--pattern random|runs] [--csv FILE]\n");
        return 2;
    }
    char machine[128], date[32];
    time_t now = time(NULL);
    read_machine(machine, sizeof machine);
    strftime(date, sizeof date, "%Y-%m-%d", gmtime(&now));
    FILE *csv = opt.csv != NULL ? fopen(opt.csv, "w") : NULL;
    if (opt.csv != NULL && csv == NULL) {
        fprintf(stderr, "check_kernels: cannot write %s\n", opt.csv);
        return 1;
    }
    if (csv != NULL) {
        fprintf(csv, "# machine: %s\n# date: %s\n# command: check_kernels --bench", machine, date);
        for (int i = 0; i < argc; i++) {
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
