#define _DEFAULT_SOURCE /* madvise */
#include "base/pages.h"

#include <stdint.h>
#include <stdlib.h>

#ifdef __linux__
#include <sys/mman.h>
#endif

void *fga_pages_alloc(size_t bytes)
{
    const size_t huge = (size_t)2 << 20;
    size_t alignment = bytes >= 2 * huge ? huge : 64;
    if (bytes > SIZE_MAX - alignment) {
        return NULL;
    }
    size_t rounded = (bytes + alignment - 1) / alignment * alignment;
    void *memory = aligned_alloc(alignment, rounded);
#ifdef MADV_HUGEPAGE
    if (memory != NULL && alignment == huge) {
        (void)madvise(memory, rounded, MADV_HUGEPAGE); /* advice: a kernel without them says no, and nothing is lost */
    }
#endif
    return memory;
}
