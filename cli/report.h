/* report.h - what a generation cost and what sparsity changed, in words and as JSON. */
#ifndef CLI_REPORT_H
#define CLI_REPORT_H

#include "json.h"

typedef struct cli_run {
    char preset[32]; /* "dfs", "dense" */
    fgv_result result;
    uint64_t peak_bytes; /* resident, 0 = unknown */
} cli_run;

typedef struct cli_report {
    const char *output;
    int width, height, frames, steps, threads;
    double measure_fraction;
    fga_policy target; /* what the run was to hold */
    cli_run run;
    bool versus_dense; /* the two members below hold */
    cli_run dense;
    fgv_comparison against_dense;
} cli_report;

void cli_report_print(const cli_report *report, FILE *file);
cJSON *cli_report_json(const cli_report *report); /* NULL: no memory */

#endif
