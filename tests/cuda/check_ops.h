/* check_ops.h - what the parts of check_cuda_ops share. */
#ifndef FGA_CHECK_OPS_H
#define FGA_CHECK_OPS_H

#include "gpu.h"

/* Counts a check; where it fails, prints format with what, got and allowed. */
void verdict(bool ok, const char *format, const char *what, double got, double allowed);
void *room(size_t bytes); /* zeros */

/* check_select.c: masks by one budget, or by a threshold, from equal scores: on the device and on the processor, bit
 * for bit. */
void check_selections(fga_context *ctx, fga_context *cpu, bool quick);

#endif
