/* pages.h - memory for large buffers, in large pages where the system has them. */
#ifndef FGA_BASE_PAGES_H
#define FGA_BASE_PAGES_H

#include <stddef.h>

/* 64-byte aligned, not cleared, for free(); NULL when there is none. From 4 MB on it is aligned to 2 MB and Linux is
 * asked for huge pages: attention reads rows that lie kilobytes apart, each in a page of its own, and misses the TLB
 * with small ones (docs/speed-log.md). */
void *fga_pages_alloc(size_t bytes);

#endif
