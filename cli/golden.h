/* golden.h - a file of golden tensors: safetensors, all F32, small. tests/golden/README.md says what is in it. */
#ifndef CLI_GOLDEN_H
#define CLI_GOLDEN_H

#include "cli.h"

typedef struct cli_golden cli_golden;

typedef struct cli_tensor {
    const float *data; /* owned by the file */
    int rank;
    int64_t shape[5];
    int64_t count;
} cli_tensor;

/* Prints and returns the exit code. */
int cli_golden_open(const char *path, cli_golden **golden);
void cli_golden_close(cli_golden **golden);
/* False when there is no such tensor. */
bool cli_golden_find(const cli_golden *golden, const char *name, cli_tensor *tensor);
/* As above; a missing tensor and another rank are printed and CLI_BAD_DATA. */
int cli_golden_get(const cli_golden *golden, const char *name, int rank, cli_tensor *tensor);

#endif
