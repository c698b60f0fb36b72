/* real_block_weights.h - a checkpoint with one transformer block of the real Wan2.1 shapes, its weights computed from
 * their names, byte for byte what tests/golden/real_block.py writes. So the block can be compared with diffusers'
 * figures without shipping or downloading gigabytes. */
#ifndef REAL_BLOCK_WEIGHTS_H
#define REAL_BLOCK_WEIGHTS_H

#include <stdbool.h>
#include <stdint.h>

/* Writes dir/config.json and dir/diffusion_pytorch_model.safetensors; dir must exist. heads of 128: 12 with ffn 8960
 * (150 MB), 40 with 13824 (1.2 GB). False if a file could not be written. */
bool real_block_write(const char *dir, int heads, int ffn);

/* Values 0 ... n-1 of `name`: mean + spread * (2 u - 1), u uniform in [0, 1). */
void real_block_values(const char *name, int64_t n, double mean, double spread, float *out);

#endif
