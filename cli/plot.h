/* plot.h - a small line chart as SVG text. */
#ifndef CLI_PLOT_H
#define CLI_PLOT_H

#include "cli.h"

typedef struct cli_series {
    const char *title;
    const double *values; /* [count]; gaps where not finite */
} cli_series;

/* One panel per series, one above the other, over a common x axis 0 ... count-1. Prints and returns the exit code. */
int cli_plot_write(const char *path, const char *title, const char *x_label, const cli_series *series, int panels,
                   int count);

#endif
