/* plan.h - what attention to compute: --attention, --density, --recall, --error and --profile in one. */
#ifndef CLI_PLAN_H
#define CLI_PLAN_H

#include "cli.h"

typedef struct cli_attention {
    const char *text;    /* PRESET[,key=value...]; NULL = the default for the kernels that will run */
    const char *profile; /* a file, or NULL */
    double density, recall, error;
    bool density_given, recall_given, error_given;
    fga_dtype dtype; /* what the kernels will run on */
} cli_attention;

#define CLI_DEFAULT_PRESET "fgdfs"
#define CLI_DEFAULT_IN_F32 "fgdfs,block_m=32"
#define CLI_DEFAULT_ON_TILES "fgdfs,block_m=64,sub_q=8,score=deviation"
#define CLI_RECALL_HELP \
    "hold this share of the exact attention weight, measured while\n" \
    "generating, by keeping more keys wherever less is reached:\n" \
    "the mean over heads is at least R, every head at least 3R-2"
#define CLI_ERROR_HELP \
    "hold the relative error of every head's attention output at\n" \
    "or below E, likewise"

/* The library knows the presets; the help only lists them. */
void cli_describe_presets(char *text, size_t bytes);
/* What attention reads where products are computed so. */
fga_dtype cli_dtype_of(fgv_compute compute);
/* What `generate` takes without --attention where this type runs on this context's kernels. Prints and returns the exit
 * code. */
int cli_default_preset(fga_context *ctx, fga_dtype dtype, const char **text);
/* What no head may fall below for a recall of `target` over all: three times as far from 1. */
double cli_recall_floor(double target);
/* Fills `profile` from the file, or from the preset. Prints and returns the exit code. */
int cli_read_attention(fga_context *ctx, const cli_attention *attention, fgv_profile *profile);
/* Puts it into the request, if it fits the model. The request borrows the profile's overrides. */
int cli_use_profile(fga_context *ctx, fgv_profile *profile, const cli_attention *attention, const fgv_model *model,
                    fgv_request *request);

#endif
