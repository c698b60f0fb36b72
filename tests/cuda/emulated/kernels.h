#ifndef FGA_EMULATED_KERNELS_H
#define FGA_EMULATED_KERNELS_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* shared: bytes that the kernel may write; what lies beyond is watched. */
void emulated_launch(const char *kernel, int blocks, int threads, int shared, void **arguments);
/* Of the last launch; NULL: there was none. */
const char *emulated_last_kernel(void);
/* Inside a thread: runs the kernel of ops.cu of that name; false: there is none. */
int emulated_ops(const char *kernel, void *argument);
/* Writes what the emulated copy engine reads, 128 bytes at most; strides in bytes, of channels too. A row of a box is
 * as long as its swizzle. */
void emulated_map(void *map, const void *data, const int64_t *extent, const int64_t *stride, int channels, int tokens);

#ifdef __cplusplus
}
#endif
#endif
