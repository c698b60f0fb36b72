/* The parts of the program that need no terminal: numbers for people, near misses, options, the progress line. */
#include "../../cli/cli.h"
#include "../../cli/peak.h"
#include "../../cli/progress.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

/* What the program would print as an error. */
static char said[512];

int cli_fail(int code, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    vsnprintf(said, sizeof said, format, args);
    va_end(args);
    return code;
}

static void test_bytes(void **state)
{
    (void)state;
    assert_string_equal(cli_bytes(0).text, "0 bytes");
    assert_string_equal(cli_bytes(999).text, "999 bytes");
    assert_string_equal(cli_bytes(1000).text, "1 kB");
    assert_string_equal(cli_bytes(999499).text, "999 kB");
    assert_string_equal(cli_bytes(999501).text, "1.0 MB");
    assert_string_equal(cli_bytes(1440000000).text, "1.4 GB");
    assert_string_equal(cli_bytes(25000000000).text, "25 GB");
}

static void test_seconds(void **state)
{
    (void)state;
    assert_string_equal(cli_seconds(0).text, "0.0 s");
    assert_string_equal(cli_seconds(9.94).text, "9.9 s");
    assert_string_equal(cli_seconds(9.96).text, "10 s");
    assert_string_equal(cli_seconds(59.4).text, "59 s");
    assert_string_equal(cli_seconds(59.6).text, "1 min 00 s");
    assert_string_equal(cli_seconds(200).text, "3 min 20 s");
    assert_string_equal(cli_seconds(3599.6).text, "1 h 00 min");
    assert_string_equal(cli_seconds(3900).text, "1 h 05 min");
    assert_string_equal(cli_seconds(NAN).text, "? s");
    assert_string_equal(cli_seconds(-1).text, "? s");
    assert_string_equal(cli_seconds(INFINITY).text, "277777777 h 46 min");
}

static void test_decibel(void **state)
{
    (void)state;
    assert_string_equal(cli_decibel(31.416).text, "31.42 dB");
    assert_string_equal(cli_decibel(INFINITY).text, "identical");
    assert_string_equal(cli_decibel(NAN).text, "not defined");
}

static void test_nearest(void **state)
{
    (void)state;
    const char *const names[] = {"prompt", "frames", "steps", "seed", "size", NULL};
    assert_string_equal(cli_nearest("promt", names), "prompt");
    assert_string_equal(cli_nearest("prmopt", names), "prompt");
    assert_string_equal(cli_nearest("fraems", names), "frames");
    assert_string_equal(cli_nearest("step", names), "steps");
    assert_string_equal(cli_nearest("frame", names), "frames");
    assert_null(cli_nearest("zzz", names));
    assert_null(cli_nearest("", names));
    assert_null(cli_nearest("averyveryveryveryveryverylongoption", names));
}

typedef struct values {
    bool flag, given;
    const char *text;
    int whole, size[2], choice;
    double number;
    uint64_t seed;
} values;

static int parse(values *v, const char **positional, int argc, const char *const *argv)
{
    static const char *const choices[] = {"one", "two", NULL};
    const cli_option options[] = {
        {.help = "a heading"},
        {"flag", 'f', CLI_FLAG, &v->flag, NULL, .help = "help"},
        {"text", 't', CLI_TEXT, &v->text, "TEXT", .help = "help"},
        {"whole", 'w', CLI_WHOLE, &v->whole, "N", .help = "help", .low = -5, .high = 5, .given = &v->given},
        {"number", 0, CLI_NUMBER, &v->number, "X", .help = "help", .low = 0.5, .high = 2},
        {"seed", 0, CLI_SEED, &v->seed, "N", .help = "help"},
        {"size", 0, CLI_SIZE, v->size, "WxH", .help = "help"},
        {"choice", 0, CLI_CHOICE, &v->choice, "NAME", .help = "help", .choices = choices},
        {0},
    };
    const cli_verb verb = {"verb", "A B", "summary", options, 2, NULL};
    said[0] = '\0';
    return cli_parse(&verb, argc, (char **)(uintptr_t)argv, positional);
}

#define PARSE(v, ...) \
    parse(v, positional, (int)(sizeof((const char *[]){__VA_ARGS__}) / sizeof(char *)), (const char *[]){__VA_ARGS__})

static void test_options_are_read(void **state)
{
    (void)state;
    const char *positional[2] = {0};
    values v = {0};
    assert_int_equal(PARSE(&v, "-f", "a", "--text=--flag", "-w", "-5", "--number", "2", "--size", "8x16", "--choice",
                           "two", "--seed=18446744073709551615", "--", "--b"),
                     CLI_DONE);
    assert_true(v.flag && v.given);
    assert_string_equal(v.text, "--flag");
    assert_int_equal(v.whole, -5);
    assert_true(v.number == 2 && v.seed == UINT64_MAX);
    assert_int_equal(v.size[0], 8);
    assert_int_equal(v.size[1], 16);
    assert_int_equal(v.choice, 1);
    assert_string_equal(positional[0], "a");
    assert_string_equal(positional[1], "--b");
    assert_string_equal(said, "");
}

static void test_defaults_stay(void **state)
{
    (void)state;
    const char *positional[2] = {0};
    values v = {.text = "default", .whole = 3, .number = 1.5};
    assert_int_equal(PARSE(&v, "a", "-"), CLI_DONE); /* a lone dash is an argument */
    assert_string_equal(v.text, "default");
    assert_int_equal(v.whole, 3);
    assert_true(v.number == 1.5 && !v.given && !v.flag);
    assert_string_equal(positional[1], "-");
}

static void test_wrong_options(void **state)
{
    (void)state;
    const char *positional[2] = {0};
    values v = {0};
    assert_int_equal(PARSE(&v, "a", "b", "--whole", "6"), CLI_USAGE);
    assert_string_equal(said, "--whole wants a whole number from -5 to 5, got \"6\"");
    assert_int_equal(PARSE(&v, "a", "b", "--number", "0.4"), CLI_USAGE);
    assert_string_equal(said, "--number wants a number from 0.5 to 2, got \"0.4\"");
    assert_int_equal(PARSE(&v, "a", "b", "-w"), CLI_USAGE);
    assert_string_equal(said, "--whole needs a value: --whole N");
    assert_int_equal(PARSE(&v, "a", "b", "--wole=1"), CLI_USAGE);
    assert_string_equal(said, "verb: unknown option --wole=1; did you mean --whole?");
    assert_int_equal(PARSE(&v, "a", "b", "-w=1"), CLI_USAGE);
    assert_int_equal(PARSE(&v, "a", "b", "--choice", "three"), CLI_USAGE);
    assert_string_equal(said, "--choice wants one of one, two, got \"three\"");
    assert_int_equal(PARSE(&v, "a"), CLI_USAGE);
    assert_string_equal(said, "verb: 1 argument missing; usage: fgattn verb A B");
}

static void test_progress(void **state)
{
    (void)state;
    fga_session_report report = {.pairs_total = 100, .pairs_kept = 39, .measured_calls = 1, .recall_mean = 0.951};
    fgv_progress p = {FGV_STAGE_DENOISE, 5, 20, 10, &report};
    char text[256];
    int length = cli_progress_format(&p, "", 80, text, sizeof text);
    assert_int_equal(length, strlen(text));
    assert_string_equal(text, "denoising [####............] 5/20  30 s left  density 0.39  recall 0.95");
    report.sparse_summaries = 3;
    cli_progress_format(&p, "", 80, text, sizeof text);
    assert_string_equal(text, "denoising [####............] 5/20  30 s left  cost 0.42  recall 0.95");
    p.attention = NULL;
    p.done = 20;
    cli_progress_format(&p, "dense twin: ", 80, text, sizeof text);
    assert_string_equal(text, "dense twin: denoising [################] 20/20");
    p = (fgv_progress){FGV_STAGE_DECODE, 0, 0, 0, NULL};
    cli_progress_format(&p, "", 80, text, sizeof text);
    assert_string_equal(text, "decoding [................] 0/0");
    for (int columns = 0; columns < 100; columns++) { /* never wider than the terminal, which would scroll */
        p = (fgv_progress){FGV_STAGE_DENOISE, 1, 1000, 1e6, &report};
        length = cli_progress_format(&p, "dense twin: ", columns, text, sizeof text);
        assert_true(length < (columns > 0 ? columns : 1));
    }
}

static void test_peak(void **state)
{
    (void)state;
    assert_true(cli_peak_counted(0) == 0);
    assert_true(cli_peak_counted(0.49) == 0.5);
    assert_true(cli_peak_counted(0.98) == 1);
    assert_true(cli_peak_counted(1.02) == 1);
    assert_true(cli_peak_counted(1.4) == 2); /* with another program on the core */
    assert_true(cli_peak_counted(2.01) == 2);
    assert_true(cli_peak_counted(2.5) == 0); /* no processor does that: a timing went wrong */
    assert_true(cli_peak_measure("c", cli_thread_seconds).flops == 0);
    for (int i = 1; i < fga_variant_count(); i++) {
        if (fga_variant_runs_here(i)) {
            cli_peak peak = cli_peak_measure(fga_variant_name(i), cli_thread_seconds);
            assert_true(peak.flops > 1e8 && peak.hertz > 1e7 && peak.per_cycle > 0);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_bytes),
        cmocka_unit_test(test_seconds),
        cmocka_unit_test(test_decibel),
        cmocka_unit_test(test_nearest),
        cmocka_unit_test(test_options_are_read),
        cmocka_unit_test(test_defaults_stay),
        cmocka_unit_test(test_wrong_options),
        cmocka_unit_test(test_progress),
        cmocka_unit_test(test_peak),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
