/* progress.h - one line on a terminal that says how far a generation is. */
#ifndef CLI_PROGRESS_H
#define CLI_PROGRESS_H

#include "cli.h"

typedef struct cli_progress {
    bool shown;        /* a terminal is there and nobody asked for quiet */
    const char *label; /* in front of the stage, "" for the main run */
    int width;         /* columns of the line on the screen, to blank */
    double shown_at;   /* seconds, some clock: a layer reports often, an eye reads ten lines a second */
} cli_progress;

cli_progress cli_progress_start(bool quiet, const char *label);
void cli_progress_show(cli_progress *line, const fgv_progress *progress);
void cli_progress_clear(cli_progress *line);

/* The line itself, at most `columns` wide, without a terminal. Returns its length. */
int cli_progress_format(const fgv_progress *progress, const char *label, int columns, char *text, size_t bytes);

#endif
