/* page.h - the HTML text of a report: text, charts as inline SVG, pictures as PNG in data URIs. No scripts. */
#ifndef CLI_PAGE_H
#define CLI_PAGE_H

#include "cli.h"

typedef struct cli_page {
    char *text; /* NUL-terminated */
    size_t length, capacity;
    bool failed; /* out of memory: the text is cut */
} cli_page;

void cli_page_add(cli_page *page, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* Text that is nobody's markup. */
void cli_page_escape(cli_page *page, const char *text);
void cli_page_free(cli_page *page);

/* ---- charts.c ---------------------------------------------------------------------------------- */

typedef struct cli_axis {
    const char *label;
    double low, high;
    bool logarithmic, percent;
    const double *ticks; /* [tick_count]; those outside the range are left out */
    int tick_count;
} cli_axis;

typedef struct cli_curve {
    const char *name;
    const double *x, *y; /* [count]; points that are not finite are left out */
    int count;
    int colour; /* of cli_colour */
    bool dashed, bold;
    const char *const *notes; /* [count]: what a point is, shown when the pointer rests on it; or NULL */
} cli_curve;

const char *cli_colour(int index);
/* The chart and, below it, which colour is what. */
void cli_chart_lines(cli_page *page, const char *title, const cli_axis *x, const cli_axis *y, const cli_curve *curves,
                     int count);

typedef struct cli_bars {
    const char *name;
    const double *values; /* [categories] */
} cli_bars;
void cli_chart_bars(cli_page *page, const char *title, const char *x_label, const char *y_label,
                    const char *const *categories, int category_count, const cli_bars *bars, int count);

/* Cells coloured from low to high, with their values in percent. */
typedef struct cli_cells {
    const char *title, *row_label, *column_label;
    const char *const *row_names, *const *column_names;
    int rows, columns;
    const double *values; /* [rows][columns], shares; NaN = empty */
    double low, high;
} cli_cells;
void cli_chart_cells(cli_page *page, const cli_cells *cells);

/* ---- picture.c --------------------------------------------------------------------------------- */

/* "#rrggbb" of t in 0 ... 1: dark blue over green to yellow; also what the pictures' colours mean. */
typedef struct cli_hex {
    char text[8];
} cli_hex;
cli_hex cli_heat(double t);
/* data:image/png;base64,... of values [height][width], each 0 ... 1. */
void cli_page_picture(cli_page *page, const float *values, int width, int height);

#endif
