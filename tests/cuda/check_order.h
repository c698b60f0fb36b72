/* check_order.h - the order in which attention takes the blocks of a mask that was made on the device. */
#ifndef CHECK_ORDER_H
#define CHECK_ORDER_H

#include "fgattn.h"

/* Adds to both; prints what fails. */
void check_order(fga_context *ctx, int *checks, int *failures);

#endif
