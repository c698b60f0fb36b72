#define _DEFAULT_SOURCE
#include "progress.h"

#include <math.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>

cli_progress cli_progress_start(bool quiet, const char *label)
{
    return (cli_progress){.shown = !quiet && cli_is_terminal(stderr), .label = label};
}

static int columns_of_terminal(void)
{
    struct winsize size;
    if (ioctl(fileno(stderr), TIOCGWINSZ, &size) == 0 && size.ws_col > 0) {
        return size.ws_col;
    }
    return 80;
}

/* What is known of the attention so far: "  density 0.31  recall 0.95", "  cost 0.33" where summaries are part of it,
 * or "". */
static void attention_so_far(const fga_session_report *r, char *text, size_t bytes)
{
    text[0] = '\0';
    if (r == NULL || !(r->pairs_total > 0)) {
        return;
    }
    int length = snprintf(text, bytes, r->sparse_summaries > 0 ? "  cost %.2f" : "  density %.2f",
                          (r->pairs_kept + r->sparse_summaries) / r->pairs_total);
    if (r->measured_calls > 0 && isfinite(r->recall_mean)) {
        snprintf(text + length, bytes - (size_t)length, "  recall %.2f", r->recall_mean);
    }
}

int cli_progress_format(const fgv_progress *p, const char *label, int columns, char *text, size_t bytes)
{
    static const char *const stages[] = {"reading the prompt", "denoising", "decoding"};
    static const char full[] = "################", none[] = "................";
    const char *stage = (unsigned)p->stage < 3 ? stages[p->stage] : "working";
    double share = p->total > 0 ? (double)p->done / p->total : 0;
    char head[64], tail[128], quality[48];
    attention_so_far(p->attention, quality, sizeof quality);
    snprintf(head, sizeof head, "%s%s", label, stage);
    if (p->done > 0 && p->done < p->total) {
        cli_text left = cli_seconds(p->elapsed_s / p->done * (p->total - p->done));
        snprintf(tail, sizeof tail, "%d/%d  %s left%s", p->done, p->total, left.text, quality);
    } else {
        snprintf(tail, sizeof tail, "%d/%d%s", p->done, p->total, quality);
    }
    int room = columns - 1 - (int)strlen(head) - (int)strlen(tail) - 4; /* blanks and brackets */
    int bar = room > 16 ? 16 : room; /* fits 80 columns with all figures, so that it does not jump */
    int length;
    if (bar >= 5) {
        int filled = (int)(share * bar + 0.5);
        filled = filled < 0 ? 0 : filled > bar ? bar : filled;
        length = snprintf(text, bytes, "%s [%.*s%.*s] %s", head, filled, full, bar - filled, none, tail);
    } else {
        length = snprintf(text, bytes, "%.*s", columns > 1 ? columns - 1 : 0, tail);
    }
    return length < (int)bytes ? length : (int)bytes - 1;
}

void cli_progress_show(cli_progress *line, const fgv_progress *progress)
{
    struct timespec now = {0};
    clock_gettime(CLOCK_MONOTONIC, &now);
    double seconds = (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
    if (!line->shown || (line->width > 0 && seconds < line->shown_at + 0.1)) {
        return;
    }
    line->shown_at = seconds;
    char text[256];
    int columns = columns_of_terminal();
    int length = cli_progress_format(progress, line->label, columns, text, sizeof text);
    int blanks = line->width > length && line->width < columns ? line->width - length : 0;
    fprintf(stderr, "\r%s%*s", text, blanks, "");
    fflush(stderr);
    line->width = length;
}

void cli_progress_clear(cli_progress *line)
{
    if (line->shown && line->width > 0) {
        fprintf(stderr, "\r%*s\r", line->width, "");
        fflush(stderr);
        line->width = 0;
    }
}
