/* options.c - command-line options from a table: `--name value`, `--name=value`, `-x value`, in any order. */
#include "cli.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { LONGEST_NAME = 32, HELP_COLUMN = 28 };

/* ---- near misses ---------------------------------------------------------------------------- */

/* How many insertions, deletions, substitutions and swaps of neighbours lead from a to b; long names count as far. */
static int distance(const char *a, const char *b)
{
    size_t m = strlen(a), n = strlen(b);
    if (m > LONGEST_NAME || n > LONGEST_NAME) {
        return LONGEST_NAME;
    }
    int d[LONGEST_NAME + 1][LONGEST_NAME + 1];
    for (size_t i = 0; i <= m; i++) {
        for (size_t j = 0; j <= n; j++) {
            if (i == 0 || j == 0) {
                d[i][j] = (int)(i + j);
                continue;
            }
            int best = d[i - 1][j - 1] + (a[i - 1] != b[j - 1]);
            best = d[i - 1][j] + 1 < best ? d[i - 1][j] + 1 : best;
            best = d[i][j - 1] + 1 < best ? d[i][j - 1] + 1 : best;
            if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] && d[i - 2][j - 2] + 1 < best) {
                best = d[i - 2][j - 2] + 1;
            }
            d[i][j] = best;
        }
    }
    return d[m][n];
}

const char *cli_nearest(const char *word, const char *const *names)
{
    const char *nearest = NULL;
    int best = 3; /* at most two slips */
    size_t length = strlen(word);
    for (; *names != NULL; names++) {
        int slips = distance(word, *names);
        if (length >= 3 && strncmp(word, *names, length) == 0) {
            slips = 0; /* an abbreviation */
        }
        if (slips < best && (size_t)slips < length) {
            best = slips;
            nearest = *names;
        }
    }
    return nearest;
}

static const char *nearest_option(const cli_verb *verb, const char *word)
{
    enum { MOST = 64 };
    const char *names[MOST];
    int count = 0;
    names[count++] = "help";
    for (const cli_option *o = verb->options; o->name != NULL || o->help != NULL; o++) {
        if (o->name != NULL && count < MOST - 1) {
            names[count++] = o->name;
        }
    }
    names[count] = NULL;
    return cli_nearest(word, names);
}

/* ---- help ----------------------------------------------------------------------------------- */

static void print_option(const cli_option *o)
{
    char head[64];
    char letter[5] = "    ";
    if (o->letter != 0) {
        snprintf(letter, sizeof letter, "-%c, ", o->letter);
    }
    int length = snprintf(head, sizeof head, "  %s--%s%s%s", letter, o->name, o->argument != NULL ? " " : "",
                          o->argument != NULL ? o->argument : "");
    fputs(head, stdout);
    if (length >= HELP_COLUMN - 1) {
        putchar('\n');
        length = 0;
    }
    for (const char *line = o->help; line != NULL;) {
        const char *end = strchr(line, '\n');
        printf("%*s%.*s\n", HELP_COLUMN - length, "", end != NULL ? (int)(end - line) : (int)strlen(line), line);
        line = end != NULL ? end + 1 : NULL;
        length = 0;
    }
}

static void print_help(const cli_verb *verb)
{
    printf("usage: fgattn %s %s\n\n%s\n\n", verb->name, verb->synopsis, verb->summary);
    if (verb->options->name != NULL || verb->options->help == NULL) {
        puts("options:");
    }
    for (const cli_option *o = verb->options; o->name != NULL || o->help != NULL; o++) {
        if (o->name != NULL) {
            print_option(o);
        } else {
            printf("%s%s:\n", o == verb->options ? "" : "\n", o->help);
        }
    }
    printf("  %s--help%*sthis text\n", "-h, ", HELP_COLUMN - 12, "");
    if (verb->examples != NULL) {
        printf("\nexamples:\n%s", verb->examples);
    }
}

/* ---- values ---------------------------------------------------------------------------------- */

static int wrong(const cli_option *o, const char *got, const char *wanted)
{
    return cli_fail(CLI_USAGE, "--%s wants %s, got \"%s\"", o->name, wanted, got);
}

static int read_whole(const cli_option *o, const char *text)
{
    char wanted[96];
    char *end;
    errno = 0;
    long value = strtol(text, &end, 10);
    if (end == text || *end != '\0' || errno != 0 || (double)value < o->low || (double)value > o->high) {
        snprintf(wanted, sizeof wanted, "a whole number from %.0f to %.0f", o->low, o->high);
        return wrong(o, text, wanted);
    }
    *(int *)o->value = (int)value;
    return CLI_DONE;
}

static int read_number(const cli_option *o, const char *text)
{
    char wanted[96];
    char *end;
    double value = strtod(text, &end);
    if (end == text || *end != '\0' || !isfinite(value) || value < o->low || value > o->high) {
        snprintf(wanted, sizeof wanted, "a number from %g to %g", o->low, o->high);
        return wrong(o, text, wanted);
    }
    *(double *)o->value = value;
    return CLI_DONE;
}

static int read_seed(const cli_option *o, const char *text)
{
    char *end;
    errno = 0;
    unsigned long long value = strtoull(text, &end, 10);
    if (text[0] < '0' || text[0] > '9' || *end != '\0' || errno != 0) {
        return wrong(o, text, "a whole number from 0 to 18446744073709551615");
    }
    *(uint64_t *)o->value = value;
    return CLI_DONE;
}

static int read_size(const cli_option *o, const char *text)
{
    int width, height, used = 0;
    if (sscanf(text, "%5dx%5d%n", &width, &height, &used) != 2 || text[used] != '\0' || width <= 0 || height <= 0) {
        return wrong(o, text, "WIDTHxHEIGHT in pixels, such as 832x480");
    }
    ((int *)o->value)[0] = width;
    ((int *)o->value)[1] = height;
    return CLI_DONE;
}

static int read_choice(const cli_option *o, const char *text)
{
    char wanted[160] = "one of";
    for (int i = 0; o->choices[i] != NULL; i++) {
        if (strcmp(text, o->choices[i]) == 0) {
            *(int *)o->value = i;
            return CLI_DONE;
        }
        size_t length = strlen(wanted);
        snprintf(wanted + length, sizeof wanted - length, "%s %s", i > 0 ? "," : "", o->choices[i]);
    }
    return wrong(o, text, wanted);
}

static int read_value(const cli_option *o, const char *text)
{
    switch (o->kind) {
    case CLI_FLAG:
        *(bool *)o->value = true;
        return CLI_DONE;
    case CLI_TEXT:
        if (text[0] == '\0' && o->low > 0) {
            return cli_fail(CLI_USAGE, "--%s must not be empty", o->name);
        }
        *(const char **)o->value = text;
        return CLI_DONE;
    case CLI_WHOLE:
        return read_whole(o, text);
    case CLI_NUMBER:
        return read_number(o, text);
    case CLI_SEED:
        return read_seed(o, text);
    case CLI_SIZE:
        return read_size(o, text);
    case CLI_CHOICE:
        return read_choice(o, text);
    }
    return CLI_ERROR;
}

/* ---- the arguments ---------------------------------------------------------------------------- */

/* The option that `argument` ("--name", "--name=value", "-x") names, or NULL. */
static const cli_option *find(const cli_verb *verb, const char *argument)
{
    size_t length = strcspn(argument, "=");
    for (const cli_option *o = verb->options; o->name != NULL || o->help != NULL; o++) {
        if (o->name == NULL) {
            continue;
        }
        if (argument[1] == '-' && strlen(o->name) == length - 2 && strncmp(argument + 2, o->name, length - 2) == 0) {
            return o;
        }
        if (o->letter != 0 && argument[1] == o->letter && argument[2] == '\0') {
            return o;
        }
    }
    return NULL;
}

static int unknown(const cli_verb *verb, const char *argument)
{
    char word[LONGEST_NAME + 1];
    const char *start = argument + strspn(argument, "-");
    snprintf(word, sizeof word, "%.*s", (int)strcspn(start, "="), start);
    const char *nearest = nearest_option(verb, word);
    if (nearest != NULL) {
        return cli_fail(CLI_USAGE, "%s: unknown option %s; did you mean --%s?", verb->name, argument, nearest);
    }
    return cli_fail(CLI_USAGE, "%s: unknown option %s; `fgattn %s --help` lists the options", verb->name, argument,
                    verb->name);
}

/* One option at argv[i]; *used is how many arguments it took. */
static int read_option(const cli_verb *verb, int argc, char **argv, int i, int *used)
{
    const char *argument = argv[i];
    const cli_option *o = find(verb, argument);
    if (o == NULL) {
        return unknown(verb, argument);
    }
    const char *value = strchr(argument, '=');
    *used = 1;
    if (o->kind == CLI_FLAG) {
        if (value != NULL) {
            return cli_fail(CLI_USAGE, "--%s takes no value, got \"%s\"", o->name, value + 1);
        }
    } else if (value != NULL) {
        value++;
    } else if (i + 1 >= argc) {
        return cli_fail(CLI_USAGE, "--%s needs a value: --%s %s", o->name, o->name, o->argument);
    } else {
        value = argv[i + 1];
        *used = 2;
        if (strncmp(value, "--", 2) == 0 && find(verb, value) != NULL) {
            return cli_fail(CLI_USAGE, "--%s needs a value, but %s follows (write --%s=%s if that is the value)",
                            o->name, value, o->name, value);
        }
    }
    if (o->given != NULL) {
        *o->given = true;
    }
    return read_value(o, value);
}

int cli_parse(const cli_verb *verb, int argc, char **argv, const char **positional)
{
    int found = 0;
    bool options_over = false;
    for (int i = 0, used; i < argc; i += used) {
        used = 1;
        if (!options_over && strcmp(argv[i], "--") == 0) {
            options_over = true;
        } else if (!options_over && (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0)) {
            print_help(verb);
            return CLI_HELPED;
        } else if (!options_over && argv[i][0] == '-' && argv[i][1] != '\0') {
            int code = read_option(verb, argc, argv, i, &used);
            if (code != CLI_DONE) {
                return code;
            }
        } else if (found < verb->positionals) {
            positional[found++] = argv[i];
        } else {
            return cli_fail(CLI_USAGE, "%s: unexpected argument \"%s\"; usage: fgattn %s %s", verb->name, argv[i],
                            verb->name, verb->synopsis);
        }
    }
    if (found < verb->positionals) {
        return cli_fail(CLI_USAGE, "%s: %d argument%s missing; usage: fgattn %s %s", verb->name,
                        verb->positionals - found, verb->positionals - found == 1 ? "" : "s", verb->name,
                        verb->synopsis);
    }
    return CLI_DONE;
}
