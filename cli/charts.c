/* charts.c - charts as inline SVG that scale with the page. */
#include "page.h"

#include <math.h>
#include <string.h>

enum { WIDTH = 640, HEIGHT = 400, LEFT = 74, RIGHT = 34, TOP = 14, BOTTOM = 58 };
enum { INNER_W = WIDTH - LEFT - RIGHT, INNER_H = HEIGHT - TOP - BOTTOM };

const char *cli_colour(int index)
{
    static const char *const colours[] = {"#c8321e", "#2166ac", "#1b8a5a", "#e08214", "#7b4ab0", "#b8860b",
                                          "#00879e", "#d0548f", "#6b8e23", "#8c564b", "#4f6d9a", "#555555"};
    enum { COLOURS = sizeof colours / sizeof colours[0] };
    return colours[index % COLOURS];
}

static double place(const cli_axis *axis, double value)
{
    return axis->logarithmic ? (log(value) - log(axis->low)) / (log(axis->high) - log(axis->low))
                             : (value - axis->low) / (axis->high - axis->low);
}

/* A value in words: percent of a share, or the number. */
static cli_text value_text(bool percent, double value)
{
    cli_text t;
    double shown = percent ? 100 * value : value;
    const char *unit = percent ? " %" : "";
    double size = fabs(shown);
    snprintf(t.text, sizeof t.text, size >= 9.95 ? "%.0f%s" : size >= 0.995 ? "%.3g%s" : "%.2g%s", shown, unit);
    return t;
}

static void open_svg(cli_page *page, const char *title, int width, int height)
{
    cli_page_add(page, "<svg viewBox=\"0 0 %d %d\" role=\"img\" aria-label=\"", width, height);
    cli_page_escape(page, title);
    cli_page_add(page, "\">\n");
}

static void axis_labels(cli_page *page, const char *x_label, const char *y_label)
{
    cli_page_add(page, "<text class=\"axis\" x=\"%d\" y=\"%d\" text-anchor=\"middle\">", LEFT + INNER_W / 2,
                 HEIGHT - 12);
    cli_page_escape(page, x_label);
    cli_page_add(page,
                 "</text>\n<text class=\"axis\" transform=\"translate(16 %d) rotate(-90)\" text-anchor=\"middle\">",
                 TOP + INNER_H / 2);
    cli_page_escape(page, y_label);
    cli_page_add(page, "</text>\n");
}

static void grid(cli_page *page, const cli_axis *x, const cli_axis *y)
{
    for (int i = 0; i < y->tick_count; i++) {
        double at = place(y, y->ticks[i]);
        if (at > -1e-9 && at < 1 + 1e-9) {
            double py = TOP + INNER_H * (1 - at);
            cli_page_add(page,
                         "<line class=\"grid\" x1=\"%d\" y1=\"%.1f\" x2=\"%d\" y2=\"%.1f\"/><text x=\"%d\" y=\"%.1f\" "
                         "text-anchor=\"end\">%s</text>\n",
                         LEFT, py, WIDTH - RIGHT, py, LEFT - 8, py + 4, value_text(y->percent, y->ticks[i]).text);
        }
    }
    for (int i = 0; x != NULL && i < x->tick_count; i++) {
        double at = place(x, x->ticks[i]);
        if (at > -1e-9 && at < 1 + 1e-9) {
            double px = LEFT + INNER_W * at;
            cli_page_add(page,
                         "<line class=\"grid\" x1=\"%.1f\" y1=\"%d\" x2=\"%.1f\" y2=\"%d\"/><text x=\"%.1f\" y=\"%d\" "
                         "text-anchor=\"middle\">%s</text>\n",
                         px, TOP, px, HEIGHT - BOTTOM, px, HEIGHT - BOTTOM + 18,
                         value_text(x->percent, x->ticks[i]).text);
        }
    }
}

static bool visible(const cli_axis *x, const cli_axis *y, const cli_curve *c, int i, double *px, double *py)
{
    double ax = place(x, c->x[i]), ay = place(y, c->y[i]);
    if (!isfinite(ax) || !isfinite(ay) || ax < -0.001 || ax > 1.001 || ay < -0.001 || ay > 1.001) {
        return false;
    }
    *px = LEFT + INNER_W * ax;
    *py = TOP + INNER_H * (1 - ay);
    return true;
}

static void curve(cli_page *page, const cli_axis *x, const cli_axis *y, const cli_curve *c)
{
    double px, py;
    cli_page_add(page, "<polyline fill=\"none\" stroke=\"%s\" stroke-width=\"%s\"%s points=\"", cli_colour(c->colour),
                 c->bold ? "3.2" : "1.8", c->dashed ? " stroke-dasharray=\"6 4\"" : "");
    for (int i = 0; i < c->count; i++) {
        if (visible(x, y, c, i, &px, &py)) {
            cli_page_add(page, "%.1f,%.1f ", px, py);
        }
    }
    cli_page_add(page, "\"/>\n");
    for (int i = 0; i < c->count; i++) {
        if (visible(x, y, c, i, &px, &py)) {
            cli_page_add(page, "<circle cx=\"%.1f\" cy=\"%.1f\" r=\"%s\" fill=\"%s\"><title>", px, py,
                         c->bold ? "4.5" : "3.2", c->dashed ? "#fff\" stroke-width=\"1.8" : cli_colour(c->colour));
            cli_page_escape(page, c->name);
            cli_page_add(page, "%s", c->notes != NULL ? ", " : "");
            cli_page_escape(page, c->notes != NULL ? c->notes[i] : "");
            cli_page_add(page, ": %s; %s</title></circle>\n", value_text(x->percent, c->x[i]).text,
                         value_text(y->percent, c->y[i]).text);
        }
    }
}

void cli_chart_lines(cli_page *page, const char *title, const cli_axis *x, const cli_axis *y, const cli_curve *curves,
                     int count)
{
    open_svg(page, title, WIDTH, HEIGHT);
    grid(page, x, y);
    axis_labels(page, x->label, y->label);
    for (int i = 0; i < count; i++) {
        cli_page_add(page, "<g stroke=\"%s\">", curves[i].dashed ? cli_colour(curves[i].colour) : "none");
        curve(page, x, y, &curves[i]);
        cli_page_add(page, "</g>\n");
    }
    cli_page_add(page, "</svg>\n<p class=\"legend\">");
    for (int i = 0; i < count; i++) {
        cli_page_add(page, "<span><i style=\"border-top:%s %s %s\"></i>", curves[i].bold ? "4px" : "3px",
                     curves[i].dashed ? "dashed" : "solid", cli_colour(curves[i].colour));
        cli_page_escape(page, curves[i].name);
        cli_page_add(page, "</span> ");
    }
    cli_page_add(page, "</p>\n");
}

void cli_chart_bars(cli_page *page, const char *title, const char *x_label, const char *y_label,
                    const char *const *categories, int category_count, const cli_bars *bars, int count)
{
    static const double coarse[] = {0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1};
    static const double fine[] = {0, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3};
    double most = 0.05;
    for (int b = 0; b < count; b++) {
        for (int i = 0; i < category_count; i++) {
            most = fmax(most, bars[b].values[i]);
        }
    }
    bool low = most <= 0.3;
    double step = low ? 0.05 : 0.1;
    cli_axis y = {y_label, 0, ceil(most / step - 1e-9) * step, false, true, low ? fine : coarse, low ? 7 : 11};
    open_svg(page, title, WIDTH, HEIGHT);
    grid(page, NULL, &y);
    axis_labels(page, x_label, y_label);
    double slot = (double)INNER_W / category_count, width = 0.8 * slot / count;
    for (int i = 0; i < category_count; i++) {
        double left = LEFT + slot * i;
        cli_page_add(page, "<text x=\"%.1f\" y=\"%d\" text-anchor=\"middle\">%s</text>\n", left + slot / 2,
                     HEIGHT - BOTTOM + 18, categories[i]);
        for (int b = 0; b < count; b++) {
            double height = INNER_H * place(&y, bars[b].values[i]);
            cli_page_add(page,
                         "<rect x=\"%.1f\" y=\"%.1f\" width=\"%.1f\" height=\"%.1f\" fill=\"%s\"><title>%s, %s: "
                         "%s</title></rect>\n",
                         left + 0.1 * slot + b * width, TOP + INNER_H - height, width, height, cli_colour(b),
                         bars[b].name, categories[i], value_text(true, bars[b].values[i]).text);
        }
    }
    cli_page_add(page, "</svg>\n<p class=\"legend\">");
    for (int b = 0; b < count; b++) {
        cli_page_add(page, "<span><i style=\"border-top:10px solid %s\"></i>%s</span> ", cli_colour(b), bars[b].name);
    }
    cli_page_add(page, "</p>\n");
}

/* ---- cells --------------------------------------------------------------------------------------- */

static void one_cell(cli_page *page, const cli_cells *c, int row, int column, double x, double y, double w, double h)
{
    double value = c->values[row * c->columns + column];
    if (!isfinite(value)) {
        return;
    }
    double t = c->high > c->low ? (value - c->low) / (c->high - c->low) : 0.5;
    cli_page_add(page,
                 "<rect x=\"%.1f\" y=\"%.1f\" width=\"%.1f\" height=\"%.1f\" fill=\"%s\"><title>%s %s, %s %s: %s"
                 "</title></rect>",
                 x, y, w - 1, h - 1, cli_heat(t).text, c->row_label, c->row_names[row], c->column_label,
                 c->column_names[column], value_text(true, value).text);
    if (w >= 34) {
        cli_page_add(page, "<text x=\"%.1f\" y=\"%.1f\" text-anchor=\"middle\" style=\"fill:%s\">%.*f</text>",
                     x + w / 2, y + h / 2 + 4, t > 0.55 ? "#111" : "#fff", fabs(value) < 0.0995 ? 1 : 0, 100 * value);
    }
    cli_page_add(page, "\n");
}

void cli_chart_cells(cli_page *page, const cli_cells *c)
{
    enum { SIDE = 96, HEAD = 44, SCALE = 46, MOST_CELL = 74 };
    double w = fmin(MOST_CELL, (double)(WIDTH - SIDE - 8) / c->columns), h = 24;
    int height = HEAD + (int)(c->rows * h) + SCALE;
    open_svg(page, c->title, WIDTH, height);
    cli_page_add(page, "<text class=\"axis\" x=\"%.1f\" y=\"14\" text-anchor=\"middle\">%s</text>\n",
                 SIDE + c->columns * w / 2, c->column_label);
    cli_page_add(page,
                 "<text class=\"axis\" transform=\"translate(14 %.1f) rotate(-90)\" text-anchor=\"middle\">%s</text>\n",
                 HEAD + c->rows * h / 2, c->row_label);
    int every = w < 22 ? (int)ceil(22 / w) : 1;
    for (int column = 0; column < c->columns; column += every) {
        cli_page_add(page, "<text x=\"%.1f\" y=\"34\" text-anchor=\"middle\">%s</text>", SIDE + (column + 0.5) * w,
                     c->column_names[column]);
    }
    for (int row = 0; row < c->rows; row++) {
        cli_page_add(page, "<text x=\"%d\" y=\"%.1f\" text-anchor=\"end\">%s</text>\n", SIDE - 8,
                     HEAD + (row + 0.5) * h + 4, c->row_names[row]);
        for (int column = 0; column < c->columns; column++) {
            one_cell(page, c, row, column, SIDE + column * w, HEAD + row * h, w, h);
        }
    }
    double top = HEAD + c->rows * h + 14;
    for (int i = 0; i < 64; i++) {
        cli_page_add(page, "<rect x=\"%.1f\" y=\"%.1f\" width=\"3.1\" height=\"10\" fill=\"%s\"/>", SIDE + i * 3.0, top,
                     cli_heat(i / 63.0).text);
    }
    cli_page_add(
        page, "\n<text x=\"%d\" y=\"%.1f\">%s</text><text x=\"%d\" y=\"%.1f\" text-anchor=\"end\">%s</text>\n</svg>\n",
        SIDE, top + 24, value_text(true, c->low).text, SIDE + 192, top + 24, value_text(true, c->high).text);
}
