/* bench_kernels.h - the speed of every kernel family, one operator call at a time on one thread. */
#ifndef FGA_TESTS_BENCH_KERNELS_H
#define FGA_TESTS_BENCH_KERNELS_H

/* The arguments after `check_kernels --bench`; returns the exit code. */
int bench_kernels(int argc, char **argv);

#endif
