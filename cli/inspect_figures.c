/* inspect_figures.c - the report's pictures of attention, and what differs between orders and heads. */
#include "inspect_report.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- pictures ---------------------------------------------------------------------------------------- */

typedef struct pick {
    const char *what;
    int result, head;
} pick;

enum { PICKS = 4 };

/* Heads of the middle step that differ most. */
static int choose_picks(const study *s, pick picks[PICKS])
{
    static const char *const what[PICKS] = {"the most focused head", "the most diffuse head",
                                            "the head that stays most in its own frame",
                                            "the head that looks most at other frames"};
    int step = s->results[s->count / 2].step, found = 0;
    for (int p = 0; p < PICKS; p++) {
        double best = -INFINITY;
        pick choice = {what[p], 0, 0};
        for (int i = 0; i < s->count; i++) {
            for (int h = 0; h < s->heads && s->results[i].step == step; h++) {
                const fga_inspect_head *head = &s->results[i].heads[STUDY_HILBERT][h];
                double value = p < 2 ? head->effective_keys : head->self_frame;
                value = p == 0 || p == 3 ? -value : value;
                if (value > best) {
                    best = value;
                    choice.result = i;
                    choice.head = h;
                }
            }
        }
        bool seen = false;
        for (int i = 0; i < found; i++) {
            seen = seen || (picks[i].result == choice.result && picks[i].head == choice.head);
        }
        if (!seen) {
            picks[found++] = choice;
        }
    }
    return found;
}

/* How the frames of the video are laid out: side by side, in rows. */
typedef struct strip {
    int per_row, rows;
    double token;       /* its side on the screen */
    double width, step; /* of a frame; from a row's top to the next one's */
} strip;

enum { SCREEN = 1100, LABEL = 22 };

static strip lay_out_frames(const study *s)
{
    enum { MOST = 330 }; /* tokens side by side, so that they can be told apart */
    strip f;
    int fit = MOST / s->width;
    fit = fit < 1 ? 1 : fit < s->frames ? fit : s->frames;
    f.rows = (s->frames + fit - 1) / fit;
    f.per_row = (s->frames + f.rows - 1) / f.rows;
    f.token = (double)SCREEN / (f.per_row * s->width);
    f.token = f.token < 24 ? f.token : 24; /* a video of few tokens */
    f.width = s->width * f.token;
    f.step = s->height * f.token + LABEL;
    return f;
}

/* Frames first ... first+count-1 as one picture, side by side. */
static void frames_picture(cli_page *page, const study *s, const float *share, int first, int count)
{
    double most = 0, even = (double)s->tokens;
    for (int64_t j = 0; j < s->tokens; j++) {
        most = fmax(most, (double)share[j]);
    }
    int width = count * s->width;
    float *pixels = malloc((size_t)width * (size_t)s->height * sizeof *pixels);
    if (pixels == NULL) {
        page->failed = true;
        return;
    }
    for (int t = 0; t < count; t++) {
        for (int at = 0; at < s->height * s->width; at++) {
            double p = (double)share[(int64_t)(first + t) * s->height * s->width + at];
            pixels[at / s->width * width + t * s->width + at % s->width] =
                (float)(log1p(p * even) / log1p(most * even));
        }
    }
    cli_page_picture(page, pixels, width, s->height);
    free(pixels);
}

static void look(cli_page *page, const study *s, const pick *p)
{
    const study_result *r = &s->results[p->result];
    strip f = lay_out_frames(s);
    cli_page_add(page,
                 "<h3>%c%s: step %d, layer %d, head %d</h3>\n<svg viewBox=\"0 0 %d %.1f\" role=\"img\" "
                 "aria-label=\"where one query looks\">\n",
                 p->what[0] - 'a' + 'A', p->what + 1, r->step, r->layer, p->head, SCREEN, f.rows * f.step);
    for (int row = 0; row < f.rows; row++) {
        int first = row * f.per_row, count = s->frames - first < f.per_row ? s->frames - first : f.per_row;
        cli_page_add(page,
                     "<image y=\"%.1f\" width=\"%.1f\" height=\"%.1f\" preserveAspectRatio=\"none\" "
                     "style=\"image-rendering:pixelated\" href=\"",
                     row * f.step, count * f.width, s->height * f.token);
        frames_picture(page, s, r->looks + (int64_t)p->head * s->tokens, first, count);
        cli_page_add(page, "\"/>\n");
        for (int t = 0; t < count; t++) {
            cli_page_add(page,
                         "<rect x=\"%.1f\" y=\"%.1f\" width=\"6\" height=\"%.1f\" fill=\"#fff\"/><text x=\"%.1f\" "
                         "y=\"%.1f\" text-anchor=\"middle\">%s%d</text>\n",
                         (t + 1) * f.width - 3, row * f.step, s->height * f.token, (t + 0.5) * f.width,
                         row * f.step + s->height * f.token + 15, first + t == 0 ? "frame " : "", first + t);
        }
    }
    int t = (int)(s->middle / s->width / s->height), row_of_t = t / f.per_row,
        y = (int)(s->middle / s->width % s->height);
    double side = f.token > 7 ? f.token : 7;
    cli_page_add(page,
                 "<rect x=\"%.1f\" y=\"%.1f\" width=\"%.1f\" height=\"%.1f\" fill=\"none\" stroke=\"#ff3b30\" "
                 "stroke-width=\"2.5\"/>\n</svg>\n",
                 t % f.per_row * f.width + ((double)(s->middle % s->width) + 0.5) * f.token - side / 2,
                 row_of_t * f.step + (y + 0.5) * f.token - side / 2, side, side);
}

static void one_map(cli_page *page, const study *s, const pick *p, int order)
{
    enum { SIDE = 46, BOX_W = 500, BOX_H = 420, FOOT = 40 };
    const fga_inspect_map *map = &s->results[p->result].map[order];
    int64_t pixels = map->rows * map->columns;
    float *shade = malloc((size_t)pixels * sizeof *shade);
    if (shade == NULL) {
        page->failed = true;
        return;
    }
    const float *mass = map->mass + (int64_t)p->head * pixels;
    for (int64_t i = 0; i < pixels; i++) { /* 1/100 of an even share is dark, 100 times as much is bright */
        shade[i] = ((float)log10((double)mass[i] * (double)map->columns + 1e-9) + 2) / 4;
    }
    cli_page_add(
        page,
        "<div class=\"card\"><h3>%s order: step %d, layer %d, head %d</h3>\n<svg viewBox=\"0 0 %d %d\" role=\"img\" "
        "aria-label=\"a picture of attention\"><image x=\"%d\" width=\"%d\" height=\"%d\" preserveAspectRatio=\"none\" "
        "style=\"image-rendering:pixelated\" href=\"",
        order == STUDY_RASTER ? "Raster" : "Hilbert", s->results[p->result].step, s->results[p->result].layer, p->head,
        SIDE + BOX_W, BOX_H + FOOT, SIDE, BOX_W, BOX_H);
    cli_page_picture(page, shade, (int)map->columns, (int)map->rows);
    cli_page_add(
        page,
        "\"/>\n<text class=\"axis\" x=\"%d\" y=\"%d\" text-anchor=\"middle\">keys: all %lld tokens, in order</text>\n"
        "<text class=\"axis\" transform=\"translate(28 %d) rotate(-90)\" text-anchor=\"middle\">queries: %lld, in order"
        "</text></svg>\n</div>\n",
        SIDE + BOX_W / 2, BOX_H + 26, (long long)s->tokens, BOX_H / 2, (long long)s->queries);
    free(shade);
}

static void colour_bar(cli_page *page, const char *low, const char *high)
{
    cli_page_add(
        page,
        "<svg viewBox=\"0 0 760 20\" style=\"max-width:760px\" role=\"img\" aria-label=\"what the colours mean\">"
        "<text x=\"150\" y=\"14\" text-anchor=\"end\">%s</text>",
        low);
    for (int i = 0; i < 64; i++) {
        cli_page_add(page, "<rect x=\"%d\" y=\"3\" width=\"4.2\" height=\"14\" fill=\"%s\"/>", 160 + 4 * i,
                     cli_heat(i / 63.0).text);
    }
    cli_page_add(page, "<text x=\"426\" y=\"14\">%s</text></svg>\n", high);
}

void cli_inspect_pictures(cli_page *page, const study *s)
{
    pick picks[PICKS];
    int count = choose_picks(s, picks);
    cli_page_add(
        page,
        "<h2>Where one token looks</h2>\n<div class=\"card\">\n<p>The token in the red frame, in the middle of the "
        "video, reads from the bright tokens of all frames, which lie side by side in the order of time. "
        "Heads differ: some read a few places, some read everything a little, some stay in their frame and "
        "some follow one place through time.</p>\n");
    for (int i = 0; i < count; i++) {
        look(page, s, &picks[i]);
    }
    colour_bar(page, "share read: none", "the largest share (logarithmic)");
    cli_page_add(
        page, "</div>\n<h2>The whole picture, in two orders</h2>\n<p class=\"lead\">Each row of a picture is what 16 "
              "neighbouring queries read, from the first token on the left to the last on the right; bright is much. "
              "Both pictures of a pair show the same head: in raster order tokens are numbered row by row and frame by "
              "frame, along the Hilbert curve neighbours in number are neighbours in space and time, which gathers the "
              "bright spots into fewer, more compact ones.</p>\n<div class=\"two\">\n");
    for (int i = 0; i < count && i < 2; i++) {
        one_map(page, s, &picks[i], STUDY_RASTER);
        one_map(page, s, &picks[i], STUDY_HILBERT);
    }
    cli_page_add(page, "</div>\n");
    colour_bar(page, "1 % of an even share", "100 even shares (logarithmic)");
}

/* ---- orders, heads, bounds --------------------------------------------------------------------------------- */

void cli_inspect_run_lengths(cli_page *page, const study *s)
{
    static const char *const categories[FGA_INSPECT_RUN_BINS] = {"1",   "2+",   "4+",   "8+",   "16+",  "32+",
                                                                 "64+", "128+", "256+", "512+", "1024+"};
    double share[STUDY_ORDERS][FGA_INSPECT_RUN_BINS] = {{0}}, mean[STUDY_ORDERS];
    cli_bars bars[STUDY_ORDERS];
    for (int order = 0; order < STUDY_ORDERS; order++) {
        double runs = 0, keys = 0;
        for (int i = 0; i < s->count * s->heads; i++) {
            const fga_inspect_head *h = &s->results[i / s->heads].heads[order][i % s->heads];
            for (int b = 0; b < FGA_INSPECT_RUN_BINS; b++) {
                share[order][b] += (double)h->run_keys[b];
                runs += (double)h->runs[b];
                keys += (double)h->run_keys[b];
            }
        }
        for (int b = 0; b < FGA_INSPECT_RUN_BINS; b++) {
            share[order][b] /= keys > 0 ? keys : 1;
        }
        mean[order] = runs > 0 ? keys / runs : 0;
        bars[order] = (cli_bars){study_order_names[order], share[order]};
    }
    cli_page_add(page, "<h2>How the kept keys lie together</h2>\n<div class=\"card\" "
                       "style=\"max-width:820px\"><h3>Lengths of runs of kept "
                       "keys, by order</h3>\n");
    cli_chart_bars(page, "Run lengths of kept keys",
                   "length of a run of consecutive kept keys (4+ is 4 to 7, 8+ is 8 to 15, ...)",
                   "share of the kept keys", categories, FGA_INSPECT_RUN_BINS, bars, STUDY_ORDERS);
    cli_page_add(
        page,
        "<p>Of the keys that 128 queries need for 90 %% of their attention, the bars show how many lie in runs of "
        "each length; the mean run is %.1f keys long in raster order, %.1f along the Hilbert curve, %.1f in "
        "Morton order. Long runs suit whole tiles and small masks, short ones call for single keys.</p></div>\n",
        mean[0], mean[1], mean[2]);
}

/* Rows: (step, layer) of the captures; columns: heads. */
static void heat_map(cli_page *page, const study *s, const char *title, const char *text, const double *values)
{
    const char **rows = calloc((size_t)s->count, sizeof *rows), **columns = calloc((size_t)s->heads, sizeof *columns);
    char(*names)[24] = calloc((size_t)s->count + (size_t)s->heads, sizeof *names);
    if (rows == NULL || columns == NULL || names == NULL) {
        page->failed = true;
    } else {
        cli_cells cells = {title,    "step / layer", "head", rows,     columns,
                           s->count, s->heads,       values, INFINITY, -INFINITY};
        for (int i = 0; i < s->count; i++) {
            snprintf(names[i], sizeof *names, "%d / %d%s", s->results[i].step, s->results[i].layer,
                     s->results[i].branch > 0 ? "-" : "");
            rows[i] = names[i];
        }
        for (int h = 0; h < s->heads; h++) {
            snprintf(names[s->count + h], sizeof *names, "%d", h);
            columns[h] = names[s->count + h];
        }
        for (int i = 0; i < s->count * s->heads; i++) {
            cells.low = fmin(cells.low, values[i]);
            cells.high = fmax(cells.high, values[i]);
        }
        cli_page_add(page, "<div class=\"card\"><h3>%s</h3>\n", title);
        cli_chart_cells(page, &cells);
        cli_page_add(page, "<p>%s</p></div>\n", text);
    }
    free(rows);
    free(columns);
    free(names);
}

/* The policy whose heads are shown: ours if it is there, else the first. */
static int shown_policy(const study *s)
{
    int shown = -1;
    for (int i = STUDY_BESTS; i < s->line_count; i++) {
        if (s->lines[i].refused[0] == '\0' && (shown < 0 || strcmp(s->lines[i].name, "fgdfs") == 0)) {
            shown = i;
        }
    }
    return shown;
}

void cli_inspect_heads(cli_page *page, const study *s)
{
    enum { MAPS = 5, SETTING = 2 }; /* 0.2 where density steers */
    int line = shown_policy(s), cells = s->count * s->heads;
    double *values = malloc((size_t)cells * MAPS * sizeof *values);
    if (values == NULL) {
        page->failed = true;
        return;
    }
    for (int i = 0; i < cells; i++) {
        const study_result *r = &s->results[i / s->heads];
        const fga_inspect_head *h = &r->heads[STUDY_HILBERT][i % s->heads];
        values[i] = h->effective_keys / (double)s->tokens;
        values[cells + i] = h->sparsity[FGA_INSPECT_M - 1][0][1];
        values[2 * cells + i] = h->self_frame;
        values[3 * cells + i] = line >= 0 ? (double)r->points[line][SETTING].recall_heads[i % s->heads] : NAN;
        values[4 * cells + i] = line >= 0 ? (double)r->points[line][SETTING].error_heads[i % s->heads] : NAN;
    }
    cli_page_add(page,
                 "<h2>Layer by layer, head by head</h2>\n<p class=\"lead\">Every cell is one head of one layer at one "
                 "denoising step; its number is in percent. Heads that differ much are why one density for all of "
                 "them wastes work on some and loses detail in others.</p>\n<div class=\"two\">\n");
    heat_map(
        page, s, "How many keys share the attention, %",
        "The number of equally weighted keys that would have the same entropy, as a share of all tokens. Small values "
        "are focused heads, which lose nothing when most keys are skipped.",
        values);
    heat_map(
        page, s, "Work that could be skipped for 95 % recall, %",
        "With blocks of 128 queries, single keys and the best possible choice. This is the head's own limit: no policy "
        "of that shape can skip more.",
        values + cells);
    heat_map(
        page, s, "Attention that stays in its own frame, %",
        "The share of a query's attention on tokens of the same video frame. High values are spatial heads, low ones "
        "follow things through time.",
        values + 2 * cells);
    if (line >= 0) {
        char title[160], error[160];
        snprintf(title, sizeof title, "Recall of %s, %s, %%", s->lines[line].name, s->lines[line].setting[SETTING]);
        snprintf(error, sizeof error, "Output error of %s, %s, %%", s->lines[line].name,
                 s->lines[line].setting[SETTING]);
        heat_map(page, s, title,
                 "The share of each head's exact attention that the policy keeps. Dark cells are the heads that it "
                 "serves worst.",
                 values + 3 * cells);
        heat_map(page, s, error,
                 "The difference to each head's exact output, relative to that output's size. Bright cells are the "
                 "heads where sparsity hurts.",
                 values + 4 * cells);
    }
    cli_page_add(page, "</div>\n");
    free(values);
}

/* Most bounds are tiny: what matters is that they are. */
static void bound_cell(cli_page *page, double bound)
{
    cli_page_add(page, bound < 1e-4 ? "<td>below 0.01 %%</td>" : "<td>%.2g %%</td>", 100 * bound);
}

void cli_inspect_bounds(cli_page *page, const study *s)
{
    cli_page_add(
        page, "<h2>What can be proved</h2>\n<div class=\"card\"><h3>Provable lower bounds on recall, 128 x 128 tiles "
              "chosen by "
              "pooled scores</h3>\n<table><tr><th>density</th><th>recall</th><th>best possible</th><th>proved from the "
              "estimated mass</th><th>proved from the best possible</th><th>proved from the number of "
              "tiles</th><th>eta</th></tr>\n");
    for (int i = 0; i < STUDY_BOUNDS; i++) {
        fga_inspect_bound m = {0};
        for (int r = 0; r < s->count; r++) {
            const fga_inspect_bound *b = &s->results[r].bounds[i];
            m.density = b->density;
            m.recall += b->recall / s->count;
            m.best_recall += b->best_recall / s->count;
            m.from_mass += b->from_mass / s->count;
            m.against_best += b->against_best / s->count;
            m.against_count += b->against_count / s->count;
            m.eta += b->eta / s->count;
        }
        cli_page_add(page, "<tr><td>%.0f %%</td><td>%.1f %%</td><td>%.1f %%</td>", 100 * m.density, 100 * m.recall,
                     100 * m.best_recall);
        bound_cell(page, m.from_mass);
        bound_cell(page, m.against_best);
        bound_cell(page, m.against_count);
        cli_page_add(page, "<td>%.2f</td></tr>\n", m.eta);
    }
    cli_page_add(
        page,
        "</table>\n<p>Means over at most four sampled blocks of every head. Eta says how far the pooled estimate of a "
        "block can be from the truth, as a logarithm: the bounds hold always, but are close to the recall only "
        "where eta is small; elsewhere measuring, which the other charts do, says more.</p></div>\n");
}
