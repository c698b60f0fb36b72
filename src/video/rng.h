/* rng.h - the numbers torch.randn draws on a CPU: MT19937, 24-bit uniforms, Box-Muller in blocks of 16. */
#ifndef FGV_RNG_H
#define FGV_RNG_H

#include <stdint.h>

void fgv_rng_normal(uint64_t seed, float *out, int64_t n);

#endif
