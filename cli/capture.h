/* capture.h - which self-attentions of a generation a verb wants to see, and writing them to a file. */
#ifndef CLI_CAPTURE_H
#define CLI_CAPTURE_H

#include "cli.h"

/* A chosen set of numbers from 0: steps, layers or branches. */
typedef struct cli_chosen {
    uint8_t *chosen; /* [count] */
    int count;
} cli_chosen;

/* "all", "last", "3", "0-4", and several joined by commas, of numbers below `count`. option names them in the error
 * text. Prints and returns the exit code. */
int cli_choose(const char *option, const char *list, int count, cli_chosen *chosen);
/* Steps at 1/4, 1/2 and 3/4 of the run. */
int cli_choose_quarters(int count, cli_chosen *chosen);
bool cli_is_chosen(const cli_chosen *chosen, int number);
int cli_chosen_count(const cli_chosen *chosen);
void cli_chosen_free(cli_chosen *chosen);

typedef struct cli_capture {
    cli_chosen steps, layers, branches;
    fgv_capture_writer *writer; /* NULL: nobody asked */
} cli_capture;

/* What --capture-steps, --capture-layers and --capture-branches of a verb say. NULL: the quarters, all, 0. */
typedef struct cli_capture_choice {
    const char *steps, *layers, *branches;
} cli_capture_choice;

int cli_capture_choose(const cli_capture_choice *choice, const fgv_model *model, const fgv_request *request,
                       cli_capture *capture);
bool cli_capture_wants(const cli_capture *capture, const fgv_capture *inputs);
/* Bytes of the file for such captures of the request. */
uint64_t cli_capture_bytes(const cli_capture *capture, const fgv_model *model, const fgv_request *request);
void cli_capture_free(cli_capture *capture);

/* Opens a file of captures to read; one that is not there is bad input as a damaged one is. Prints and returns the exit
 * code. */
int cli_capture_open(fga_context *ctx, const char *path, fgv_capture_file **file);
/* The exit code of a failure to use what is in such a file, printed: shapes that cannot be used are the file's fault.
 */
int cli_capture_fail(const fga_context *ctx, const char *path, fga_status status);

#endif
