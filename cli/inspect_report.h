/* inspect_report.h - a study as a page for people and as JSON for programs. */
#ifndef CLI_INSPECT_REPORT_H
#define CLI_INSPECT_REPORT_H

#include "json.h"
#include "page.h"
#include "study.h"

/* source: what was inspected, in words: a file's name or a prompt. */
void cli_inspect_page(cli_page *page, const study *s, const char *source);
/* Its sections, of inspect_figures.c. */
void cli_inspect_pictures(cli_page *page, const study *s);
void cli_inspect_run_lengths(cli_page *page, const study *s);
void cli_inspect_heads(cli_page *page, const study *s);
void cli_inspect_bounds(cli_page *page, const study *s);

cJSON *cli_inspect_json(const study *s, const char *source); /* NULL: no memory */

#endif
