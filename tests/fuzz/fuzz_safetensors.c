/* Any bytes as a safetensors file: parsing must refuse or accept them cleanly, and what it accepts must be readable. */
#include "video/safetensors.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);

/* A heap block of exactly this size, so that reading beyond it is caught. */
static unsigned char *copy(const uint8_t *bytes, size_t size, size_t before)
{
    unsigned char *block = malloc(before + size > 0 ? before + size : 1);
    if (block == NULL) {
        abort();
    }
    if (size > 0) {
        memcpy(block + before, bytes, size);
    }
    return block;
}

static void check(const unsigned char *bytes, size_t size)
{
    fgv_safetensors file;
    if (fgv_safetensors_parse(NULL, "input", bytes, size, &file) != FGA_OK) {
        if (file.entries != NULL || file.count != 0) {
            abort();
        }
        return;
    }
    unsigned sum = 0;
    for (int i = 0; i < file.count; i++) {
        const fgv_safetensors_entry *entry = &file.entries[i];
        for (uint64_t k = 0; k < entry->end - entry->begin; k++) {
            sum += ((const unsigned char *)entry->data)[k];
        }
        if (fgv_safetensors_find(&file, entry->name) != entry) {
            abort();
        }
    }
    volatile unsigned sink = sum;
    (void)sink;
    fgv_safetensors_close(&file);
}

/* The first byte chooses: a whole file; or a header, with as much data behind it as the byte says and the right length
 * in front, which spares the fuzzer from guessing it. */
int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    if (size == 0) {
        return 0;
    }
    if (bytes[0] == 0) {
        unsigned char *file = copy(bytes + 1, size - 1, 0);
        check(file, size - 1);
        free(file);
        return 0;
    }
    size_t data = bytes[0] - 1u, header = size - 1;
    unsigned char *start = copy(bytes + 1, header, 8);
    for (int i = 0; i < 8; i++) {
        start[i] = (unsigned char)((uint64_t)header >> (8 * i));
    }
    unsigned char *file = realloc(start, 8 + header + data);
    if (file == NULL) {
        abort();
    }
    memset(file + 8 + header, 0x5a, data);
    check(file, 8 + header + data);
    free(file);
    return 0;
}
