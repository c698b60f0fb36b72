/* peak.h - the most that the multiply-add instructions of a kernel family can do, measured with registers alone.
 *
 * No figure here is assumed: the rate is timed, and so is the clock, by a chain of dependent integer additions, each of
 * which takes one cycle on every processor that has these instructions. Their ratio, instructions a cycle, can only be
 * 1/2, 1 or 2, or 1/16 for tiles; how near the measured one comes says how good the peak is.
 */
#ifndef CLI_PEAK_H
#define CLI_PEAK_H

typedef struct cli_peak {
    double flops;     /* per second of the given clock; 0 = nothing is known of this family */
    double hertz;     /* cycles per second right after such instructions, which may slow the clock; 0 = unknown */
    double per_cycle; /* multiply-adds finished per cycle of processor time: less than counted where another program
                         runs on the other half of the core */
} cli_peak;

/* On the calling thread; about 10 ms. `variant` as fga_attend_plan_variant names it. */
cli_peak cli_peak_measure(const char *variant, double (*clock)(void));

/* The rate that the best measured per_cycle comes nearest to from below: 1/16, 1/2, 1 or 2; 0 = unknown. */
double cli_peak_counted(double per_cycle);

/* Seconds that reading a quarter of a megabyte takes here from the second-level cache. On a shared core it grows where
 * a neighbour uses the caches, which multiply-adds on registers do not show. */
double cli_cache_seconds(void);

/* Seconds by the wall, and of the calling thread's processor time. */
double cli_wall_seconds(void);
double cli_thread_seconds(void);

#endif
