/* safetensors.h - one safetensors file: its header checked in full, its tensors left where they are. */
#ifndef FGV_SAFETENSORS_H
#define FGV_SAFETENSORS_H

#include "video/weights.h"

typedef struct fgv_safetensors_entry {
    char *name;       /* owned */
    const void *data; /* in the mapping; need not be aligned to the element size */
    const char *type; /* as the file calls it: "F32", "I64", ... */
    int dtype;        /* an fga_dtype, or -1 for a type this library does not compute with */
    int rank;         /* may exceed FGV_MAX_RANK; then shape is not filled */
    int64_t shape[FGV_MAX_RANK];
    uint64_t begin, end; /* bytes from the start of the data */
} fgv_safetensors_entry;

typedef struct fgv_safetensors {
    fgv_safetensors_entry *entries; /* sorted by name (strcmp) */
    int count;
    struct cJSON *metadata; /* __metadata__ as it stands in the header; NULL when there is none */
    void *mapping;          /* NULL when parsed from memory */
    size_t mapping_bytes;
} fgv_safetensors;

/* Maps the file read-only and parses it. FGA_ERR_IO if it cannot be opened; FGA_ERR_DATA names file, tensor and what
 * was expected: a header within the file and within 100 MB, an object of distinct names, known types, shapes whose
 * product does not overflow, and offsets that fit the shapes and cover the data without gap or overlap. A file that
 * another process shortens while it is mapped raises SIGBUS when read, as any mapping does. */
fga_status fgv_safetensors_open(fga_context *ctx, const char *path, fgv_safetensors *file);
/* The same of bytes in memory, which must outlive *file; `label` stands for the path in error texts. */
fga_status fgv_safetensors_parse(fga_context *ctx, const char *label, const void *bytes, size_t size,
                                 fgv_safetensors *file);
void fgv_safetensors_close(fgv_safetensors *file);
/* Lets go of the pages that reading has brought in: they come back when they are read again. */
void fgv_safetensors_rest(const fgv_safetensors *file);
/* NULL if there is none of this name. */
const fgv_safetensors_entry *fgv_safetensors_find(const fgv_safetensors *file, const char *name);

#endif
