/* job.h - what `generate` and `doctor` ask of a model, and the checks before anything long starts. */
#ifndef CLI_JOB_H
#define CLI_JOB_H

#include "cli.h"

/* Opens a context with `threads` (0 = all) and the forced variant (NULL = best). Prints and returns the exit code. */
int cli_open_context(int threads, const char *variant, fga_context **ctx);

/* Opens `directory`, or the shipped toy model if NULL. Prints and returns the exit code. */
int cli_open_model(fga_context *ctx, const char *directory, fgv_model **model);

#endif
