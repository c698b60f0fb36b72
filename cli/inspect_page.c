/* inspect_page.c - the report of `fgattn inspect`: one page that explains itself. */
#include "inspect_report.h"

#include <math.h>
#include <string.h>

static const char style[] =
    "<style>\n"
    ":root{color-scheme:light}*{box-sizing:border-box}\n"
    "body{margin:0;background:#f4f5f7;color:#1c2330;font:16px/1.55 system-ui,-apple-system,\"Segoe UI\",Roboto,"
    "\"DejaVu Sans\",sans-serif}\n"
    "header{background:#16304f;color:#fff;padding:34px 0 30px}header>div,main{max-width:1180px;margin:0 "
    "auto}header>div{padding:0 24px}\n"
    "h1{margin:0 0 6px;font-size:30px;line-height:1.2}header p{margin:4px 0;color:#d5e0ee;max-width:900px}\n"
    "main{padding:24px}h2{margin:38px 0 8px;font-size:23px;line-height:1.3}h3{margin:0 0 8px;font-size:17px}\n"
    "p{margin:8px 0}.lead{max-width:880px}.tiles,.two{display:grid;gap:18px;margin:18px 0}\n"
    ".tiles{grid-template-columns:repeat(auto-fit,minmax(230px,1fr))}\n"
    ".two{grid-template-columns:repeat(auto-fit,minmax(min(100%,480px),1fr))}\n"
    ".tile,.card{background:#fff;border:1px solid #dfe3ea;border-radius:8px;padding:16px 18px;min-width:0}\n"
    ".tile b{display:block;font-size:29px;line-height:1.25;color:#16304f}.tile span{color:#4a5568;font-size:14.5px}\n"
    ".card p{color:#3a4556;font-size:14.5px}.card{overflow-x:auto}svg{display:block;width:100%;height:auto}\n"
    "svg text{font-size:13px;fill:#39424f}svg .axis{font-size:14px;fill:#1c2330}svg .grid{stroke:#e4e7ec}\n"
    "image,img{image-rendering:pixelated}.legend{display:flex;flex-wrap:wrap;gap:2px 18px;margin:6px 0 8px}\n"
    ".legend span{white-space:nowrap}.legend "
    "i{display:inline-block;width:26px;margin-right:7px;vertical-align:middle}\n"
    "table{border-collapse:collapse;font-size:14.5px;width:100%}th,td{padding:5px 10px;text-align:right;"
    "border-bottom:1px solid #e4e7ec;font-variant-numeric:tabular-nums}\n"
    "td{white-space:nowrap}th{color:#39424f;font-weight:600}td:first-child,th:first-child{text-align:left}tr.best "
    "td{background:#eef6ef}\n"
    "tr.ideal td{color:#66707f;font-style:italic}\n"
    "dl{display:grid;grid-template-columns:minmax(120px,190px) 1fr;gap:6px 18px}dt{font-weight:600}dd{margin:0}\n"
    ".card+.card,.two+.card,.card+h3{margin-top:18px}.two>.card{margin-top:0}h3+svg{margin-bottom:8px}.card "
    "svg+h3{margin-top:14px}"
    "summary{cursor:pointer;font-weight:600;margin:2px 0}footer{color:#66707f;font-size:14px;padding:18px 0 30px}\n"
    "@media(max-width:620px){dl{grid-template-columns:1fr}h1{font-size:24px}}\n"
    "</style>\n";

static const double percents[] = {0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1};
static const double cost_ticks[] = {0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 1};
enum { PERCENTS = 11, COST_TICKS = 9, BEST_COLOUR = 11 };

/* ---- averages over heads and captures -------------------------------------------------------------- */

typedef double (*head_figure)(const fga_inspect_head *head, const void *arg);

static double over_heads(const study *s, int order, head_figure figure, const void *arg)
{
    double sum = 0;
    for (int i = 0; i < s->count; i++) {
        for (int h = 0; h < s->heads; h++) {
            sum += figure(&s->results[i].heads[order][h], arg);
        }
    }
    return sum / ((double)s->count * s->heads);
}

static double sparsity_of(const fga_inspect_head *head, const void *arg)
{
    const int *at = arg;
    return head->sparsity[at[0]][at[1]][at[2]];
}

static double best_recall_of(const fga_inspect_head *head, const void *arg)
{
    const int *at = arg;
    return head->recall[at[0]][at[1]][at[2]];
}

static double effective_of(const fga_inspect_head *head, const void *arg)
{
    (void)arg;
    return head->effective_keys;
}

/* ---- the head of the page ---------------------------------------------------------------------------- */

/* The policy with the lowest error at `cost`; -1 when none gets there. */
static int best_policy(const study *s, double cost)
{
    int best = -1;
    for (int i = STUDY_BESTS; i < s->line_count; i++) {
        double error = cli_study_at_cost(s, i, cost, true);
        if (isfinite(error) && (best < 0 || error < cli_study_at_cost(s, best, cost, true))) {
            best = i;
        }
    }
    return best;
}

static void tile(cli_page *page, const char *figure, const char *meaning)
{
    cli_page_add(page, "<div class=\"tile\"><b>");
    cli_page_escape(page, figure);
    cli_page_add(page, "</b><span>%s</span></div>\n", meaning);
}

static void tiles(cli_page *page, const study *s)
{
    const int single[3] = {FGA_INSPECT_M - 1, 0, 1}, whole[3] = {FGA_INSPECT_M - 1, FGA_INSPECT_N - 1, 1};
    char figure[96], text[256];
    cli_page_add(page, "<div class=\"tiles\">\n");
    double effective = over_heads(s, STUDY_HILBERT, effective_of, NULL);
    snprintf(figure, sizeof figure, "%.0f of %lld", effective, (long long)s->tokens);
    tile(page, figure, "tokens, on average, share the attention of one token: the others hardly count.");
    snprintf(figure, sizeof figure, "%.0f %%", 100 * over_heads(s, STUDY_HILBERT, sparsity_of, single));
    tile(page, figure,
         "of the work could be skipped, keeping 95 % of the weight, if 128 neighbouring queries pick single keys.");
    snprintf(figure, sizeof figure, "%.0f %%", 100 * over_heads(s, STUDY_HILBERT, sparsity_of, whole));
    tile(page, figure, "could be skipped for the same 95 % if whole tiles of 128 x 128 are kept or dropped.");
    int best = best_policy(s, 0.2);
    if (best >= 0) {
        snprintf(figure, sizeof figure, "%s", s->lines[best].name);
        snprintf(text, sizeof text,
                 "changes the output least at a fifth of the work: relative error %.3f, at recall %.0f %%.",
                 cli_study_at_cost(s, best, 0.2, true), 100 * cli_study_at_cost(s, best, 0.2, false));
        tile(page, figure, text);
    }
    cli_page_add(page, "</div>\n");
}

static void captured(cli_page *page, const study *s)
{
    cli_page_add(page, "<p>%d captured attention%s of %d head%s: ", s->count, s->count == 1 ? "" : "s", s->heads,
                 s->heads == 1 ? "" : "s");
    for (int i = 0; i < s->count; i++) {
        const study_result *r = &s->results[i];
        if (i == 12) {
            cli_page_add(page, " ... ");
            i = s->count - 1;
            r = &s->results[i];
        }
        cli_page_add(page, "%sstep %d layer %d%s", i > 0 ? "; " : "", r->step, r->layer,
                     r->branch > 0 ? " (negative prompt)" : "");
    }
    cli_page_add(page, ".</p>\n");
}

static void begin(cli_page *page, const study *s, const char *source)
{
    cli_page_add(page,
                 "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n"
                 "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n"
                 "<title>fgattn: what attention looks like</title>\n%s</head>\n<body>\n<header><div>\n"
                 "<h1>What attention looks like, and what sparsity costs</h1>\n<p>",
                 style);
    cli_page_escape(page, source);
    cli_page_add(
        page,
        "</p>\n<p>A video of %d frames of %d x %d tokens: %lld tokens, so %.3g million query-key pairs per head.</p>\n",
        s->frames, s->height, s->width, (long long)s->tokens, 1e-6 * (double)s->tokens * (double)s->tokens);
    captured(page, s);
    cli_page_add(page,
                 "</div></header>\n<main>\n<p class=\"lead\">A video model computes, for every token (a small patch of "
                 "the video), how much it should read from every other token: these shares are its <em>attention</em>, "
                 "and they add up to 100 %%. Most shares are close to nothing, so most of the work could be skipped. "
                 "This page shows how much, for the attention that was captured, and what it costs in accuracy.</p>\n");
    tiles(page, s);
}

/* ---- what is there to skip ----------------------------------------------------------------------------- */

static void sparsity_chart(cli_page *page, const study *s, int recall)
{
    static const double n_values[FGA_INSPECT_N] = {1, 2, 4, 8, 16, 32, 64, 128};
    static const char *const names[FGA_INSPECT_M] = {"M = 16 queries", "M = 32", "M = 64", "M = 128"};
    static const char *const meaning[FGA_INSPECT_RECALLS] = {
        "Each line is one height of tiles, from narrow ones on the left to wide ones on the right, averaged over all "
        "heads. "
        "A line that falls to the right says that wide tiles drag along keys that nobody needs.",
        "The same for a stricter demand: all but a twentieth of the attention must be kept. The gap between the left "
        "end and "
        "the right end is what single keys gain over whole tiles.",
        "Here all but a hundredth must be kept, which spares little in heads that read everything a little. Small M "
        "follows "
        "each query more closely, at the price of more lists of keys.",
    };
    double values[FGA_INSPECT_M][FGA_INSPECT_N];
    cli_curve curves[FGA_INSPECT_M];
    for (int m = 0; m < FGA_INSPECT_M; m++) {
        for (int n = 0; n < FGA_INSPECT_N; n++) {
            values[m][n] = over_heads(s, STUDY_HILBERT, sparsity_of, (const int[]){m, n, recall});
        }
        curves[m] = (cli_curve){.name = names[m], .x = n_values, .y = values[m], .count = FGA_INSPECT_N, .colour = m};
    }
    cli_axis x = {
        "N: consecutive keys that are kept or skipped together", 1, 128, true, false, n_values, FGA_INSPECT_N};
    cli_axis y = {"share of query-key pairs that can be skipped", 0, 1, false, true, percents, PERCENTS};
    char title[96];
    snprintf(title, sizeof title, "Keeping %.0f %% of the weight of every block", 100 * fga_inspect_recalls[recall]);
    cli_page_add(page, "<div class=\"card\"><h3>%s</h3>\n", title);
    cli_chart_lines(page, title, &x, &y, curves, FGA_INSPECT_M);
    cli_page_add(page, "<p>%s</p></div>\n", meaning[recall]);
}

static void best_recall_chart(cli_page *page, const study *s)
{
    static const int shapes[][2] = {{2, 0}, {2, 3}, {2, 4}, {2, 6}, {3, 7}};
    static const char *const names[] = {"64 x 1", "64 x 8", "64 x 16", "64 x 64", "128 x 128"};
    enum { SHAPES = 5 };
    double values[SHAPES][FGA_INSPECT_DENSITIES], kept[SHAPES][FGA_INSPECT_DENSITIES];
    cli_curve curves[SHAPES];
    for (int i = 0; i < SHAPES; i++) {
        int64_t size = fga_inspect_n[shapes[i][1]], tiles = (s->tokens + size - 1) / size;
        for (int d = 0; d < FGA_INSPECT_DENSITIES; d++) { /* whole tiles: a short video has few */
            double count = floor(fga_inspect_densities[d] * (double)tiles + 0.5 + 1e-6);
            kept[i][d] = (count < 1 ? 1 : count) / (double)tiles;
            values[i][d] = over_heads(s, STUDY_HILBERT, best_recall_of, (const int[]){shapes[i][0], shapes[i][1], d});
        }
        curves[i] =
            (cli_curve){.name = names[i], .x = kept[i], .y = values[i], .count = FGA_INSPECT_DENSITIES, .colour = i};
    }
    cli_axis x = {"density: share of query-key pairs kept (logarithmic)", 0.02, 1, true, true, cost_ticks, COST_TICKS};
    cli_axis y = {"recall: share of the weight kept", 0, 1, false, true, percents, PERCENTS};
    cli_page_add(page, "<div class=\"card\"><h3>The most weight that a share of the work can keep</h3>\n");
    cli_chart_lines(page, "Best possible recall at each density", &x, &y, curves, SHAPES);
    cli_page_add(page,
                 "<p>Each line is the best possible choice for its tile shape, M queries by N keys, in Hilbert order. "
                 "The gap between the lines at one density is what finer tiles are worth, before any mistake in "
                 "predicting them.</p></div>\n");
}

static void sparsity_table(cli_page *page, const study *s)
{
    cli_page_add(
        page,
        "<details class=\"card\"><summary>All numbers of these charts, in raster and Hilbert order</summary>\n<table>"
        "<tr><th>order, recall, M</th>");
    for (int n = 0; n < FGA_INSPECT_N; n++) {
        cli_page_add(page, "<th>N = %d</th>", fga_inspect_n[n]);
    }
    cli_page_add(page, "</tr>\n");
    for (int order = 0; order <= STUDY_HILBERT; order++) {
        for (int r = 0; r < FGA_INSPECT_RECALLS; r++) {
            for (int m = 0; m < FGA_INSPECT_M; m++) {
                cli_page_add(page, "<tr><td>%s, %.2f, M = %d</td>", study_order_names[order], fga_inspect_recalls[r],
                             fga_inspect_m[m]);
                for (int n = 0; n < FGA_INSPECT_N; n++) {
                    cli_page_add(page, "<td>%.1f %%</td>",
                                 100 * over_heads(s, order, sparsity_of, (const int[]){m, n, r}));
                }
                cli_page_add(page, "</tr>\n");
            }
        }
    }
    cli_page_add(page, "</table></details>\n");
}

static void available(cli_page *page, const study *s)
{
    cli_page_add(
        page, "<h2>How much could be skipped</h2>\n<p class=\"lead\">A kernel skips tiles: M consecutive queries by N "
              "consecutive keys, kept or dropped together. The smaller the tile, the more exactly it can follow the "
              "few pairs that matter: each chart shows the work that the best possible mask of M x N tiles can skip "
              "while every block of M queries keeps the stated share of its attention.</p>\n<div class=\"two\">\n");
    for (int r = 0; r < FGA_INSPECT_RECALLS; r++) {
        sparsity_chart(page, s, r);
    }
    best_recall_chart(page, s);
    cli_page_add(page, "</div>\n");
    sparsity_table(page, s);
}

/* ---- policies -------------------------------------------------------------------------------------------- */

typedef struct curve_data {
    double x[STUDY_SETTINGS], y[STUDY_SETTINGS];
    const char *notes[STUDY_SETTINGS];
} curve_data;

static int policy_curves(const study *s, bool error, cli_curve *curves, curve_data *data)
{
    int count = 0;
    for (int i = 0; i < s->line_count; i++) {
        const study_line *line = &s->lines[i];
        if (line->refused[0] != '\0') {
            continue;
        }
        curve_data *d = &data[count];
        for (int p = 0; p < line->count; p++) {
            fga_inspect_point point = cli_study_mean(s, i, p);
            d->x[p] = point.cost;
            d->y[p] = error ? point.output_error : point.recall;
            d->notes[p] = line->setting[p];
        }
        curves[count++] = (cli_curve){.name = line->name,
                                      .x = d->x,
                                      .y = d->y,
                                      .count = line->count,
                                      .colour = line->best ? BEST_COLOUR - i : i - STUDY_BESTS,
                                      .dashed = line->best,
                                      .bold = strncmp(line->name, "fgdfs", 5) == 0,
                                      .notes = d->notes};
    }
    return count;
}

static void policy_chart(cli_page *page, const study *s, bool error)
{
    static const double error_ticks[] = {0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2};
    curve_data data[STUDY_LINES];
    cli_curve curves[STUDY_LINES];
    int count = policy_curves(s, error, curves, data);
    double low = 1, high = 0.1, least = 0.04;
    for (int i = 0; i < count; i++) {
        for (int p = 0; p < curves[i].count; p++) {
            low = data[i].y[p] > 1e-3 && data[i].y[p] < low ? data[i].y[p] : low;
            high = fmax(high, data[i].y[p]);
            least = data[i].x[p] > 0.01 && data[i].x[p] < least ? data[i].x[p] : least;
        }
    }
    cli_axis x = {"cost: share of the query-key pairs computed (logarithmic)",
                  0.9 * least,
                  1,
                  true,
                  true,
                  cost_ticks,
                  COST_TICKS};
    cli_axis y = {"output error, relative (logarithmic)", 0.8 * low, 1.2 * high, true, false, error_ticks, 11};
    cli_page_add(page, "<div class=\"card\"><h3>%s</h3>\n",
                 error ? "How far the output is off" : "How much of the weight is kept");
    if (error) {
        cli_chart_lines(page, "Output error against cost", &x, &y, curves, count);
        cli_page_add(
            page, "<p>Lower is better: 0.1 means that the difference to exact attention is a tenth of the output's own "
                  "size. A line that is below another at the same cost is closer to the dense video for the same "
                  "work.</p></div>\n");
    } else {
        y = (cli_axis){"recall: share of the weight kept", 0, 1, false, true, percents, PERCENTS};
        cli_chart_lines(page, "Recall against cost", &x, &y, curves, count);
        cli_page_add(
            page,
            "<p>Higher is better: 95 %% means that the pairs which were computed carry 95 %% of the exact attention. "
            "Summaries that stand for dropped keys do not count here, though they bring the output closer: "
            "with them, look at the error.</p></div>\n");
    }
}

static void cost_cell(cli_page *page, double value, bool error)
{
    if (isfinite(value)) {
        cli_page_add(page, error ? "<td>%.3f</td>" : "<td>%.1f %%</td>", error ? value : 100 * value);
    } else {
        cli_page_add(page, "<td>-</td>");
    }
}

static void equal_cost_table(cli_page *page, const study *s)
{
    static const double costs[] = {0.1, 0.2, 0.3};
    int order[STUDY_LINES] = {0};
    for (int i = 0; i < s->line_count; i++) { /* by error at the middle cost, unknown ones last */
        int at = i;
        double error = cli_study_at_cost(s, i, costs[1], true);
        for (; at > 0; at--) {
            double other = cli_study_at_cost(s, order[at - 1], costs[1], true);
            if (!(error < other || (isnan(other) && !isnan(error)))) {
                break;
            }
            order[at] = order[at - 1];
        }
        order[at] = i;
    }
    int best = best_policy(s, costs[1]);
    cli_page_add(
        page,
        "<div class=\"card\"><h3>At equal cost</h3>\n<table><tr><th>policy</th><th>error at 10 %%</th><th>at 20 %%</th>"
        "<th>at 30 %%</th><th>recall at 10 %%</th><th>at 20 %%</th><th>at 30 %%</th></tr>\n");
    for (int i = 0; i < s->line_count; i++) {
        const study_line *line = &s->lines[order[i]];
        if (line->refused[0] != '\0') {
            continue;
        }
        cli_page_add(page, "<tr%s><td>", order[i] == best ? " class=\"best\"" : line->best ? " class=\"ideal\"" : "");
        cli_page_escape(page, line->name);
        cli_page_add(page, "</td>");
        for (int k = 0; k < 6; k++) {
            cost_cell(page, cli_study_at_cost(s, order[i], costs[k % 3], k < 3), k < 3);
        }
        cli_page_add(page, "</tr>\n");
    }
    cli_page_add(
        page,
        "</table>\n<p>Read off the curves between their points; a dash means that the policy was not run near this "
        "cost. Rows in italics choose with perfect knowledge of the exact attention, which no real policy has; "
        "the green row is the real policy with the lowest error at 20 %%.</p></div>\n");
}

static void all_points(cli_page *page, const study *s)
{
    cli_page_add(
        page,
        "<details class=\"card\"><summary>Every point of these charts</summary>\n<table><tr><th>policy, setting</th>"
        "<th>density</th><th>cost</th><th>recall</th><th>worst head</th><th>5th percentile of blocks</th><th>output "
        "error</th><th>worst head</th></tr>\n");
    for (int i = 0; i < s->line_count; i++) {
        for (int p = 0; s->lines[i].refused[0] == '\0' && p < s->lines[i].count; p++) {
            fga_inspect_point m = cli_study_mean(s, i, p);
            cli_page_add(page, "<tr><td>");
            cli_page_escape(page, s->lines[i].name);
            cli_page_add(
                page,
                ", %s</td><td>%.3f</td><td>%.3f</td><td>%.1f %%</td><td>%.1f %%</td><td>%.1f %%</td><td>%.3f</td>"
                "<td>%.3f</td></tr>\n",
                s->lines[i].setting[p], m.density, m.cost, 100 * m.recall, 100 * m.recall_worst, 100 * m.recall_p05,
                m.output_error, m.output_error_worst);
        }
    }
    cli_page_add(page, "</table></details>\n");
}

static void policies(cli_page *page, const study *s)
{
    cli_page_add(
        page,
        "<h2>What each policy makes of it</h2>\n<p class=\"lead\">A policy has to guess which pairs matter before "
        "computing them, from averages over neighbouring tokens. Each solid line is one policy at several "
        "settings; dashed lines choose with perfect knowledge and show how much is left to gain.</p>\n"
        "<div class=\"two\">\n");
    policy_chart(page, s, true);
    policy_chart(page, s, false);
    cli_page_add(page, "</div>\n");
    equal_cost_table(page, s);
    for (int i = 0; i < s->line_count; i++) {
        if (s->lines[i].refused[0] != '\0') {
            cli_page_add(page, "<p>Left out: ");
            cli_page_escape(page, s->lines[i].name);
            cli_page_add(page, " (");
            cli_page_escape(page, s->lines[i].refused);
            cli_page_add(page, ").</p>\n");
        }
    }
    all_points(page, s);
}

/* ---- the end -------------------------------------------------------------------------------------------------- */

static void finish(cli_page *page, const study *s)
{
    bool all = s->queries == s->tokens;
    cli_page_add(
        page,
        "<h2>How this was measured</h2>\n<div class=\"card\"><p>%s %lld queries of every head (%lld blocks of 128, "
        "%s) were compared with exact attention over all %lld keys, in 32-bit arithmetic, from tensors "
        "captured as %s. Averages are over all heads and captured attentions. A policy is judged with masks "
        "fresh from the attention that they are used on; in a generation masks are reused for some steps and "
        "age. Dense steps and layers of its timetable do not count here.</p></div>\n",
        all ? "All" : "A sample of", (long long)s->queries, (long long)s->blocks_used,
        all ? "the whole video" : "evenly spaced in the order at hand", (long long)s->tokens, fga_dtype_name(s->dtype));
    static const char *const words[][2] = {
        {"token", "A small patch of the video in space and time; the unit the model computes with."},
        {"query, key", "In attention every token plays two parts: as a query it reads, as a key it is read from."},
        {"pair",
         "One query with one key. Dense attention computes all pairs of all tokens; that is the work to be saved."},
        {"attention, weight", "The share, from 0 to 100 %, of what a query reads that comes from one key."},
        {"head", "One of several attentions that a layer computes side by side, each with its own weights."},
        {"layer, step", "The model is a stack of layers, run once for every denoising step, from noise to video."},
        {"M x N tile", "M consecutive queries by N consecutive keys, kept or skipped together."},
        {"order",
         "How tokens are numbered. Raster: row by row, frame by frame. Hilbert: along a curve on which neighbours in "
         "number are neighbours in space and time. Morton: a simpler such curve, with jumps."},
        {"density, cost",
         "The share of all pairs that are computed; cost also counts summaries, one pair per query and summary."},
        {"recall", "The share of the exact attention that falls on kept pairs."},
        {"output error",
         "The size of the difference between sparse and exact output, divided by the exact output's size."},
        {"summary", "One averaged key and value that stands for all keys of a group that were not kept."},
        {"policy", "A rule that chooses the kept tiles: an order, a score, a selection, and what becomes of the rest."},
        {"best possible mask",
         "The choice of tiles made with full knowledge of the exact attention: a limit for every policy of its shape."},
        {"entropy",
         "How spread out a query's attention is; e to its power is the number of equally weighted keys it amounts to."},
    };
    cli_page_add(page, "<h2>Words</h2>\n<div class=\"card\"><dl>\n");
    for (size_t i = 0; i < sizeof words / sizeof words[0]; i++) {
        cli_page_add(page, "<dt>%s</dt><dd>%s</dd>\n", words[i][0], words[i][1]);
    }
    cli_page_add(
        page,
        "</dl></div>\n<footer>Written by fgattn %s. This file stands alone: no scripts, nothing is loaded from "
        "elsewhere.</footer>\n</main>\n</body>\n</html>\n",
        fga_version());
}

void cli_inspect_page(cli_page *page, const study *s, const char *source)
{
    begin(page, s, source);
    available(page, s);
    policies(page, s);
    cli_inspect_pictures(page, s);
    cli_inspect_run_lengths(page, s);
    cli_inspect_heads(page, s);
    cli_inspect_bounds(page, s);
    finish(page, s);
}
