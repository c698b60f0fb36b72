/* cpu.h - the overlays of the CPU tiers: each fills the table entries it has (see ops/variants.inc). */
#ifndef FGA_CPU_CPU_H
#define FGA_CPU_CPU_H

#include "ops/ops.h"

#define FGA_VARIANT(name, features, overlay) void overlay(fga_ops *ops);
#include "ops/variants.inc"
#undef FGA_VARIANT

#endif
