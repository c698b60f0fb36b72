/* main.c - the fgattn program: finds the verb and reports how it ended. */
#include "cli.h"

#include <errno.h>
#include <signal.h>
#include <stdarg.h>
#include <string.h>

static const struct verb {
    const char *name;
    int (*run)(int argc, char **argv);
    const char *summary;
} verbs[] = {
    {"generate", cli_generate, "a prompt becomes a video; says what sparsity saved and cost"},
    {"tune", cli_tune, "the cheapest densities per layer and head that reach a target, as a profile"},
    {"compare", cli_compare, "how far one video is from another: PSNR, SSIM"},
    {"inspect", cli_inspect, "what attention looks like, and what every policy makes of it: an HTML report"},
    {"verify", cli_verify, "every stage of a checkpoint against golden tensors"},
    {"doctor", cli_doctor, "what this machine has, and what a job would need"},
    {"bench", cli_bench, "how fast attention is here, against dense attention and the processor's peak"},
};

enum { verb_count = sizeof verbs / sizeof verbs[0] };

static void complain(const char *prefix, const char *format, va_list args)
{
    fflush(stdout);
    char line[4096];
    vsnprintf(line, sizeof line, format, args);
    for (char *c = line; *c != '\0'; c++) {
        if (*c == '\n' || *c == '\r') {
            *c = ' '; /* one line, whatever a file name or a prompt contains */
        }
    }
    fprintf(stderr, "fgattn: %s%s\n", prefix, line);
}

int cli_fail(int code, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    complain("", format, args);
    va_end(args);
    return code;
}

void cli_warn(const char *format, ...)
{
    va_list args;
    va_start(args, format);
    complain("warning: ", format, args);
    va_end(args);
}

int cli_exit_code(fga_status status)
{
    switch (status) {
    case FGA_OK:
        return CLI_DONE;
    case FGA_ERR_ARGUMENT:
        return CLI_USAGE;
    case FGA_ERR_DATA:
        return CLI_BAD_DATA;
    case FGA_ERR_MEMORY:
        return CLI_NO_MEMORY;
    case FGA_ERR_INTERRUPTED:
        return CLI_INTERRUPTED;
    case FGA_ERR_UNSUPPORTED:
    case FGA_ERR_IO:
    case FGA_ERR_INTERNAL:
        break;
    }
    return CLI_ERROR;
}

int cli_fail_status(const fga_context *ctx, fga_status status)
{
    const char *text = ctx != NULL ? fga_last_error(ctx) : "";
    return cli_fail(cli_exit_code(status), "%s", text[0] != '\0' ? text : fga_status_name(status));
}

static void print_usage(void)
{
    printf("usage: fgattn VERB [options]\n\n"
           "Video from Wan text-to-video checkpoints with fine-grained sparse attention, and what sparsity costs.\n\n"
           "verbs:\n");
    for (int i = 0; i < verb_count; i++) {
        printf("  %-12s%s\n", verbs[i].name, verbs[i].summary);
    }
    printf("\n`fgattn VERB --help` explains a verb, with examples; `fgattn --version` says which version this is.\n"
           "exit codes: 0 done, 1 error, 2 wrong usage, 3 bad model or input data, 4 not enough memory,\n"
           "130 interrupted\n");
}

static int run_verb(const char *name, int argc, char **argv)
{
    const char *names[verb_count + 1] = {0};
    for (int i = 0; i < verb_count; i++) {
        if (strcmp(name, verbs[i].name) == 0) {
            return verbs[i].run(argc, argv);
        }
        names[i] = verbs[i].name;
    }
    const char *nearest = cli_nearest(name, names);
    const char *kind = name[0] == '-' ? "option" : "verb";
    if (nearest != NULL) {
        return cli_fail(CLI_USAGE, "unknown %s %s; did you mean `fgattn %s`?", kind, name, nearest);
    }
    return cli_fail(CLI_USAGE, "unknown %s %s; `fgattn --help` lists the verbs", kind, name);
}

static bool is_one_of(const char *word, const char *a, const char *b, const char *c)
{
    return strcmp(word, a) == 0 || strcmp(word, b) == 0 || strcmp(word, c) == 0;
}

int main(int argc, char **argv)
{
    signal(SIGPIPE, SIG_IGN); /* a reader that goes away is an error to report, not a reason to die silently */
    int code = CLI_DONE;
    if (argc < 2) {
        code = cli_fail(CLI_USAGE, "no verb given; try `fgattn --help`");
    } else if (is_one_of(argv[1], "--version", "-V", "version")) {
        printf("fgattn %s\n", fga_version());
    } else if (!is_one_of(argv[1], "--help", "-h", "help")) {
        code = run_verb(argv[1], argc - 2, argv + 2);
    } else if (argc > 2) {
        char *help[] = {"--help"};
        code = run_verb(argv[2], 1, help);
    } else {
        print_usage();
    }
    code = code == CLI_HELPED ? CLI_DONE : code;
    if ((fflush(stdout) != 0 || ferror(stdout) != 0) && code == CLI_DONE) {
        code = cli_fail(CLI_ERROR, "cannot write to standard output: %s", strerror(errno));
    }
    return code;
}
