/* cli.h - what the files of the fgattn program share. One file per verb; the program uses the public headers only. */
#ifndef CLI_H
#define CLI_H

#include "fgvideo.h"

#include <stdio.h>

/* ---- how the program ends ------------------------------------------------------------------ */

enum cli_exit {
    CLI_DONE = 0,
    CLI_ERROR = 1,
    CLI_USAGE = 2,
    CLI_BAD_DATA = 3,
    CLI_NO_MEMORY = 4,
    CLI_INTERRUPTED = 130,
};

/* Prints "fgattn: ..." as one line on stderr and returns `code`. */
int cli_fail(int code, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* Prints "fgattn: warning: ..." as one line on stderr. */
void cli_warn(const char *format, ...) __attribute__((format(printf, 1, 2)));
/* Prints ctx's last error (or the status's name) and returns the exit code that belongs to the status. */
int cli_fail_status(const fga_context *ctx, fga_status status);
int cli_exit_code(fga_status status);

/* ---- options.c: a table per verb ----------------------------------------------------------- */

typedef enum cli_kind {
    CLI_FLAG,   /* bool; takes no value */
    CLI_TEXT,   /* const char * */
    CLI_WHOLE,  /* int in [low, high] */
    CLI_NUMBER, /* double in [low, high] */
    CLI_SEED,   /* uint64_t */
    CLI_SIZE,   /* int[2]: WIDTHxHEIGHT */
    CLI_CHOICE, /* int: index into `choices`, which ends in NULL */
} cli_kind;

typedef struct cli_option {
    const char *name;     /* without dashes; NULL: `help` is a heading between options */
    char letter;          /* 0 = none */
    cli_kind kind;        /* decides the type of *value */
    void *value;          /* keeps what it holds when the option is not given */
    const char *argument; /* what --help calls the value */
    const char *help;     /* '\n' starts a new line */
    double low, high;     /* CLI_WHOLE, CLI_NUMBER: the range; CLI_TEXT: low > 0 = not the empty text */
    const char *const *choices;
    bool *given; /* set to true when the option occurs; may be NULL */
} cli_option;

typedef struct cli_verb {
    const char *name, *synopsis, *summary;
    const cli_option *options; /* ends in an all-zero entry */
    int positionals;           /* exactly this many arguments that are no options */
    const char *examples;
} cli_verb;

/* Fills the options' values and, in order, positional[]. Returns CLI_DONE; CLI_USAGE after printing why not; or
 * CLI_HELPED after printing the verb's help. */
enum { CLI_HELPED = -1 };
int cli_parse(const cli_verb *verb, int argc, char **argv, const char **positional);

/* The member of `names` (NULL-terminated) that `word` most likely meant, or NULL when none is near. */
const char *cli_nearest(const char *word, const char *const *names);

/* ---- text.c: numbers and the machine, for people ------------------------------------------- */

typedef struct cli_text {
    char text[32];
} cli_text;

cli_text cli_bytes(uint64_t bytes);   /* "812 MB", "1.4 GB": decimal units */
cli_text cli_seconds(double seconds); /* "0.8 s", "42 s", "3 min 20 s", "1 h 05 min" */
cli_text cli_decibel(double db);      /* "31.4 dB", "identical", "not defined" */
uint64_t cli_memory_available(void);  /* bytes; UINT64_MAX where the system does not say */
uint64_t cli_memory_total(void);      /* likewise */
uint64_t cli_peak_memory(void);       /* bytes this process has held at most since the last reset, 0 = unknown */
void cli_peak_memory_reset(void);     /* where the system can */
bool cli_is_terminal(FILE *file);     /* and not a dumb one */
const char *cli_find_toy_model(char *path, size_t bytes); /* `path`, or NULL when it is nowhere */
/* The first `name` on PATH that can be executed, in `path`; NULL if there is none. */
const char *cli_find_program(const char *name, char *path, size_t bytes);

/* ---- signal.c: Ctrl-C ----------------------------------------------------------------------- */

/* The first SIGINT or SIGTERM sets a flag; the second removes what was noted and ends the program at once. */
void cli_catch_interrupt(void);
bool cli_interrupted(void);
/* path.part is being written, or will be. */
void cli_note_unfinished(const char *path);
/* The same of a video: of NAME.png, so many frames NAME-0000.png.part ... */
void cli_note_unfinished_video(const char *path, int frames);

/* ---- the verbs ------------------------------------------------------------------------------ */

int cli_generate(int argc, char **argv);
int cli_compare(int argc, char **argv);
int cli_tune(int argc, char **argv);
int cli_verify(int argc, char **argv);
int cli_inspect(int argc, char **argv);
int cli_doctor(int argc, char **argv);
int cli_bench(int argc, char **argv);

#endif
