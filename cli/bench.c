/* bench.c - `fgattn bench attend`: how fast attention is here, against dense attention and the processor's peak. */
#include "bench.h"
#include "json.h"

#include <math.h>
#include <string.h>

static const char *const dtypes[] = {"f32", "f16", "bf16", NULL}; /* in the order of fga_dtype */
static const char *const patterns[] = {"random", "runs", "blocks", NULL};

typedef struct figure {
    const char *name;
    double value;
    const char *unit; /* for people; NULL: only in the JSON */
} figure;

enum { FIGURES = 22 };

/* Every measured number once, for the table and for the object. */
static int list_figures(const cli_attend_figures *f, figure *list)
{
    const figure all[FIGURES] = {
        {"density", f->density, "of all pairs kept"},
        {"time_s", f->sparse.time_s, "one call"},
        {"gflops_effective", f->sparse.gflops, "kept pairs alone"},
        {"peak_gflops", f->peak_gflops, "multiply-adds on registers alone"},
        {"fraction_of_peak", f->sparse.of_peak, ""},
        {"cost", f->cost, "of all pairs, summaries included"},
        {"gflops_with_summaries", f->with_summaries.gflops, "their pairs included"},
        {"fraction_with_summaries", f->with_summaries.of_peak, ""},
        {"time_without_summaries_s", f->without_summaries_s, "one call, the same mask"},
        {"speed_vs_without", f->speed_vs_without, "pairs a second, summaries' included, against none"},
        {"remainder_fill_s", f->fill_s, "sums of keys and values, once per call"},
        {"dense_time_s", f->dense.time_s, "one call"},
        {"dense_gflops", f->dense.gflops, ""},
        {"dense_fraction_of_peak", f->dense.of_peak, ""},
        {"speedup_vs_dense", f->speedup_vs_dense, "times as fast"},
        {"clock_ghz", f->ghz, "by a chain of additions"},
        {"peak_per_cycle", f->peak_per_cycle, "multiply-adds of one thread"},
        {"peak_counted_per_cycle", f->peak_counted, "the most there can be"},
        {"peak_of_counted", f->peak_per_cycle / f->peak_counted, ""},
        {"processor_share", f->processor_share, "of the threads' time; less than 1: others ran too"},
        {"rounds", f->rounds, "of which these are medians"},
        {"rounds_repeated", f->repeated, "with --undisturbed: another used the caches"},
    };
    memcpy(list, all, sizeof all);
    return FIGURES;
}

static void print_table(const cli_attend_bench *b, const cli_attend_figures *f, FILE *file)
{
    figure list[FIGURES];
    int count = list_figures(f, list);
    char summaries[48] = "";
    if (b->remainder > 0) {
        snprintf(summaries, sizeof summaries, ", summaries of %d", b->remainder);
    }
    fprintf(file, "%s, %d head%s of %d tokens x %d, M %d, N %d, kept %s%s, %d thread%s\n", dtypes[b->dtype], b->heads,
            b->heads == 1 ? "" : "s", b->seq, b->head_dim, b->block, b->tile,
            b->pattern == CLI_PATTERN_RANDOM ? "at random"
            : b->pattern == CLI_PATTERN_RUNS ? "in runs"
                                             : "in blocks",
            summaries, f->threads, f->threads == 1 ? "" : "s");
    fprintf(file, "%-26s%s\n", "variant", f->variant);
    for (int i = 0; i < count; i++) {
        if (isfinite(list[i].value)) {
            fprintf(file, "%-26s%-12.6g%s\n", list[i].name, list[i].value, list[i].unit);
        }
    }
}

static cJSON *as_json(const cli_attend_bench *b, const cli_attend_figures *f)
{
    cJSON *object = cJSON_CreateObject();
    if (object == NULL) {
        return NULL;
    }
    cJSON_AddStringToObject(object, "variant", f->variant);
    cJSON_AddStringToObject(object, "dtype", dtypes[b->dtype]);
    cJSON_AddStringToObject(object, "pattern", patterns[b->pattern]);
    const struct {
        const char *name;
        int value;
    } shape[] = {{"seq", b->seq},   {"heads", b->heads},         {"head_dim", b->head_dim}, {"block", b->block},
                 {"tile", b->tile}, {"remainder", b->remainder}, {"threads", f->threads}};
    for (size_t i = 0; i < sizeof shape / sizeof shape[0]; i++) {
        cli_json_number(object, shape[i].name, shape[i].value);
    }
    figure list[FIGURES];
    int count = list_figures(f, list);
    for (int i = 0; i < count; i++) {
        cli_json_number(object, list[i].name, list[i].value);
    }
    return object;
}

static int write_json(const cli_attend_bench *b, const cli_attend_figures *f, cli_place *json)
{
    cJSON *object = as_json(b, f);
    if (object == NULL) {
        return cli_fail(CLI_NO_MEMORY, "no memory for the JSON text");
    }
    int code = cli_json_finish(json, object);
    cJSON_Delete(object);
    return code;
}

static int run(const cli_attend_bench *b, const char *json_path)
{
    cli_attend_figures figures;
    cli_place json = {0};
    cli_catch_interrupt();
    int code = cli_json_begin(&json, json_path);
    code = code == CLI_DONE ? cli_bench_attend_run(b, &figures) : code;
    if (code == CLI_DONE) {
        print_table(b, &figures, json.file == stdout ? stderr : stdout);
        code = json.file != NULL ? write_json(b, &figures, &json) : CLI_DONE;
    }
    cli_json_abandon(&json);
    return code;
}

int cli_bench(int argc, char **argv)
{
    cli_attend_bench b = {
        .seq = 8192, .heads = 1, .head_dim = 128, .block = 64, .tile = 1, .density = 0.3, .threads = 1};
    const char *json = NULL, *what[1];
    const cli_option options[] = {
        {"dtype", 0, CLI_CHOICE, &b.dtype, "f32|f16|bf16", .help = "of queries, keys, values and output; default: f32",
         .choices = dtypes},
        {"seq", 0, CLI_WHOLE, &b.seq, "S", .help = "tokens, queries and keys alike; default: 8192", .low = 1,
         .high = 10000000},
        {"heads", 0, CLI_WHOLE, &b.heads, "H", .help = "default: 1", .low = 1, .high = 1024},
        {"head-dim", 0, CLI_WHOLE, &b.head_dim, "D", .help = "a multiple of 8; default: 128", .low = 8, .high = 256},
        {"block", 0, CLI_WHOLE, &b.block, "M", .help = "queries that share a mask: 16, 32, 64, 128, 192; default: 64",
         .low = 16, .high = 192},
        {"tile", 0, CLI_WHOLE, &b.tile, "N", .help = "keys kept or skipped together: 1, 2, 4 ... 128; default: 1",
         .low = 1, .high = 128},
        {"density", 'd', CLI_NUMBER, &b.density, "D", .help = "share of the keys kept, above 0; default: 0.3",
         .low = 1e-6, .high = 1},
        {"pattern", 0, CLI_CHOICE, &b.pattern, "NAME",
         .help = "random: tiles anywhere, the default; runs: stretches of\n"
                 "16 keys on average, as after a Hilbert order;\n"
                 "blocks: aligned blocks of 64 keys",
         .choices = patterns},
        {"remainder", 0, CLI_WHOLE, &b.remainder, "G",
         .help = "also attend to one summary per G keys (8 ... 256) that\n"
                 "were not all kept; also times the same mask without",
         .low = 0, .high = 256},
        {"threads", 't', CLI_WHOLE, &b.threads, "N", .help = "default: 1", .low = 1, .high = 1024},
        {"variant", 0, CLI_TEXT, &b.variant, "NAME", .help = "force a kernel family (see `fgattn doctor`)", .low = 1},
        {"rounds", 0, CLI_WHOLE, &b.rounds, "N",
         .help = "of peak, sparse, peak, dense, peak; medians are reported\n"
                 "default: 5, fewer if they take longer than half a minute",
         .low = 1, .high = 101},
        {"sparse-only", 0, CLI_FLAG, &b.sparse_only, NULL, .help = "leave dense attention out"},
        {"processor-time", 0, CLI_FLAG, &b.processor_time, NULL,
         .help = "time one thread by its own processor time, for a busy\n"
                 "machine; else by the wall"},
        {"undisturbed", 0, CLI_FLAG, &b.undisturbed, NULL,
         .help = "on a shared machine: repeat rounds in which reading from\n"
                 "the second-level cache was slow, for at most 5 minutes"},
        {"json", 0, CLI_TEXT, &json, "FILE", .help = "write the figures as JSON; - is standard output", .low = 1},
        {0},
    };
    const cli_verb verb = {
        "bench",
        "attend [options]",
        "Times sparse attention in turn with dense attention of the same kernels and with the most that the\n"
        "processor's multiply-adds can do. Skipped pairs never count as work done.",
        options,
        1,
        "  fgattn bench attend --density 0.1\n"
        "  fgattn bench attend --dtype bf16 --seq 32760 --heads 12 --density 0.2 --threads 2 --json -\n",
    };
    int code = cli_parse(&verb, argc, argv, what);
    if (code != CLI_DONE) {
        return code;
    }
    if (strcmp(what[0], "attend") != 0) {
        return cli_fail(CLI_USAGE, "bench: there is no benchmark \"%s\"; wanted attend", what[0]);
    }
    if (b.head_dim % 8 != 0) {
        return cli_fail(CLI_USAGE, "--head-dim wants a multiple of 8, got %d", b.head_dim);
    }
    if (b.processor_time && b.threads != 1) {
        return cli_fail(CLI_USAGE, "bench: --processor-time is of one thread, --threads is %d", b.threads);
    }
    return run(&b, json);
}
