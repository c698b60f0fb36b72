/* plot.h - a small line chart as SVG text. */
#ifndef CLI_PLOT_H
#define CLI_PLOT_H

#include "cli.h"

typedef struct cli_series {
    const char *title;
    const double *values; /* [count]; gaps where not finite */
} cli_series;

/* One panel per series, one above the other, over a common x axis 0 ... count-1. */
void cli_plot_draw(FILE *file, const char *title, const char *x_label, const cli_series *series, int panels, int count);

#endif
