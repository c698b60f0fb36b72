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

/* check_order.c: the order in which attention takes the blocks of a mask that was made on the device. */
void check_order(fga_context *ctx);

/* Sequences of video alone, and with text before and after it. */
#define VIDEO(tokens) \
    { \
        .video = tokens, .video_valid = tokens \
    }
#define TEXT(before, before_valid, tokens, valid, after, after_valid) \
    { \
        .prefix = before, .prefix_valid = before_valid, .video = tokens, .video_valid = valid, .suffix = after, \
        .suffix_valid = after_valid \
    }

#endif
