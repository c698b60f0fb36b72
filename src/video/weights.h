/* weights.h - one component of a checkpoint: a directory with config.json and its tensors, mapped read-only. */
#ifndef FGV_WEIGHTS_H
#define FGV_WEIGHTS_H

#include "fgattn.h"

#define FGV_MAX_RANK 5

typedef struct fgv_tensor {
    const void *data; /* in the mapping; NULL = absent */
    fga_dtype dtype;
    int rank;
    int64_t shape[FGV_MAX_RANK];
} fgv_tensor;

typedef struct fgv_weights fgv_weights;

/* Opens dir/<stem>.safetensors, or every shard of dir/<stem>.safetensors.index.json. FGA_ERR_DATA names the file, the
 * tensor and what was expected. */
fga_status fgv_weights_open(fga_context *ctx, const char *dir, const char *stem, fgv_weights **weights);
void fgv_weights_close(fgv_weights **weights);
/* Lets go of the pages that reading has brought in, for a stage that is over; they come back when they are read again.
 */
void fgv_weights_rest(const fgv_weights *weights);

/* The tensor with exactly this name and shape; F32, F16 or BF16. The name is printf-formatted. */
fga_status fgv_weights_get(fgv_weights *weights, fgv_tensor *tensor, int rank, const int64_t *shape,
                           const char *name_format, ...) __attribute__((format(printf, 5, 6)));
#define FGV_SHAPE(...) \
    (int)(sizeof((int64_t[]){__VA_ARGS__}) / sizeof(int64_t)), (const int64_t[]) \
    { \
        __VA_ARGS__ \
    }
bool fgv_weights_has(const fgv_weights *weights, const char *name);
/* Logs the names of tensors that nobody asked for; returns how many. */
int fgv_weights_report_unused(fgv_weights *weights);
/* Of every byte of the files: names, shapes and numbers. Reads all of them once. */
uint64_t fgv_weights_hash(const fgv_weights *weights);
int64_t fgv_weights_parameters(const fgv_weights *weights);
uint64_t fgv_weights_bytes(const fgv_weights *weights);
fga_context *fgv_weights_context(const fgv_weights *weights);

/* The tensor as f32 in newly allocated memory (free()); for small ones: norms, modulation tables, biases. */
fga_status fgv_tensor_to_f32(fga_context *ctx, const fgv_tensor *tensor, float **out);
int64_t fgv_tensor_elements(const fgv_tensor *tensor);

#endif
