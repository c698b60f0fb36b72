/* bench.h - measurements of the kernels through the public interface. */
#ifndef CLI_BENCH_H
#define CLI_BENCH_H

#include "cli.h"

/* Which keys a block of queries keeps. */
enum cli_pattern {
    CLI_PATTERN_RANDOM, /* single tiles anywhere */
    CLI_PATTERN_RUNS,   /* stretches of tiles of random length, as after a Hilbert order */
    CLI_PATTERN_BLOCKS, /* aligned blocks of 64 keys */
};

typedef struct cli_attend_bench {
    int dtype, pattern; /* fga_dtype, cli_pattern */
    int seq, heads, head_dim, block, tile, remainder, threads, rounds;
    double density;
    const char *variant; /* NULL = best */
    bool sparse_only;    /* no dense run */
    bool processor_time; /* of one thread, instead of the wall's */
    bool undisturbed;    /* rounds in which a neighbour used the caches are repeated */
} cli_attend_bench;

/* Of one call, or NaN where it was not timed. A pair costs 4 * head_dim floating-point operations. */
typedef struct cli_attend_timing {
    double time_s, gflops, of_peak;
} cli_attend_timing;

/* Medians over rounds. What was not measured is NaN. */
typedef struct cli_attend_figures {
    char variant[16];
    int threads, rounds, repeated;    /* repeated: rounds that do not count */
    double density;                   /* kept / all pairs of the mask that was drawn */
    cli_attend_timing sparse, dense;  /* rates of kept pairs alone */
    cli_attend_timing with_summaries; /* the sparse call; its rate counts summary pairs too */
    double cost;                      /* (kept + summary pairs) / all pairs */
    double without_summaries_s;       /* the same mask's call without a remainder */
    double speed_vs_without;          /* rate with summaries, their pairs counted / rate without */
    double fill_s;                    /* making the sums that summaries need */
    double speedup_vs_dense;
    double peak_gflops, ghz;             /* of all threads together; of one, their mean */
    double peak_per_cycle, peak_counted; /* multiply-adds per cycle and thread: measured, and the most there is */
    double processor_share;              /* processor time / (threads * wall time): below 1 the machine was busy */
} cli_attend_figures;

/* Prints and returns the exit code. */
int cli_bench_attend_run(const cli_attend_bench *bench, cli_attend_figures *figures);

#endif
