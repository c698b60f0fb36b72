#include "plot.h"

#include <math.h>

enum { WIDTH = 760, PANEL = 220, LEFT = 70, RIGHT = 20, TOP = 50, GAP = 50, INNER = PANEL - GAP };

/* 1, 2 or 5 times a power of ten: about `parts` of it make `range`. */
static double nice_step(double range, int parts)
{
    double raw = range / parts, power = pow(10, floor(log10(raw)));
    double scaled = raw / power;
    return power * (scaled <= 1 ? 1 : scaled <= 2 ? 2 : scaled <= 5 ? 5 : 10);
}

static void value_range(const double *values, int count, double *low, double *high)
{
    *low = INFINITY;
    *high = -INFINITY;
    for (int i = 0; i < count; i++) {
        if (isfinite(values[i])) {
            *low = fmin(*low, values[i]);
            *high = fmax(*high, values[i]);
        }
    }
    if (*low > *high) {
        *low = 0;
        *high = 1;
    } else if (*high - *low < 1e-9 * fmax(1, fabs(*high))) {
        *low -= 0.5;
        *high += 0.5;
    }
}

static void escaped(FILE *file, const char *text)
{
    for (; *text != '\0'; text++) {
        const char *entity = *text == '&' ? "&amp;" : *text == '<' ? "&lt;" : *text == '>' ? "&gt;" : NULL;
        if (entity != NULL) {
            fputs(entity, file);
        } else {
            fputc(*text, file);
        }
    }
}

static void panel(FILE *file, const cli_series *s, int count, int top)
{
    double low, high;
    value_range(s->values, count, &low, &high);
    double step = nice_step(high - low, 4);
    low = floor(low / step) * step;
    high = ceil(high / step) * step;
    double width = WIDTH - LEFT - RIGHT;
    fprintf(file, "<text x=\"%d\" y=\"%d\" font-weight=\"bold\">%s</text>\n", LEFT, top - 8, s->title);
    int ticks = (int)((high - low) / step + 0.5);
    for (int i = 0; i <= ticks; i++) {
        double tick = low + i * step;
        double y = top + INNER * (high - tick) / (high - low);
        fprintf(file, "<line x1=\"%d\" y1=\"%.1f\" x2=\"%d\" y2=\"%.1f\" stroke=\"#ddd\"/>", LEFT, y, WIDTH - RIGHT, y);
        fprintf(file, "<text x=\"%d\" y=\"%.1f\" text-anchor=\"end\">%.4g</text>\n", LEFT - 8, y + 4,
                fabs(tick) < step / 2 ? 0 : tick);
    }
    bool drawing = false;
    for (int i = 0; i < count; i++) {
        if (!isfinite(s->values[i])) {
            fputs(drawing ? "\"/>\n" : "", file);
            drawing = false;
            continue;
        }
        fputs(drawing ? " " : "<polyline fill=\"none\" stroke=\"#1f5fa8\" stroke-width=\"1.5\" points=\"", file);
        drawing = true;
        fprintf(file, "%.1f,%.1f", LEFT + (count > 1 ? width * i / (count - 1) : width / 2),
                top + INNER * (high - s->values[i]) / (high - low));
    }
    fputs(drawing ? "\"/>\n" : "", file);
}

void cli_plot_draw(FILE *file, const char *title, const char *x_label, const cli_series *series, int panels, int count)
{
    int height = TOP + panels * PANEL + 30;
    fprintf(file,
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%d\" height=\"%d\" font-family=\"sans-serif\" "
            "font-size=\"12\">\n<rect width=\"100%%\" height=\"100%%\" fill=\"white\"/>\n<text x=\"%d\" y=\"20\" "
            "font-size=\"14\">",
            WIDTH, height, LEFT);
    escaped(file, title);
    fputs("</text>\n", file);
    for (int i = 0; i < panels; i++) {
        panel(file, &series[i], count, TOP + 10 + i * PANEL);
    }
    int bottom = TOP + 10 + (panels - 1) * PANEL + INNER + 18;
    int step = count > 1 ? (int)fmax(1, nice_step(count - 1, 8)) : 1;
    for (int tick = 0; tick < count; tick += step) {
        double x = LEFT + (WIDTH - LEFT - RIGHT) * (count > 1 ? (double)tick / (count - 1) : 0.5);
        fprintf(file, "<text x=\"%.1f\" y=\"%d\" text-anchor=\"middle\">%d</text>\n", x, bottom, tick);
    }
    fprintf(file, "<text x=\"%d\" y=\"%d\" text-anchor=\"middle\">%s</text>\n</svg>\n", (WIDTH + LEFT - RIGHT) / 2,
            bottom + 20, x_label);
}
