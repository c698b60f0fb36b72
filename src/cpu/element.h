/* element.h - addresses in tensors whose element type is known at run time. */
#ifndef FGA_CPU_ELEMENT_H
#define FGA_CPU_ELEMENT_H

#include "fgattn.h"

static inline char *element(const void *base, int64_t index, fga_dtype dtype)
{
    return (char *)base + index * (dtype == FGA_F32 ? 4 : 2);
}

#endif
