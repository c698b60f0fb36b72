/* bench_attend.c - the attention of the library, timed in turn with dense attention and with the processor's peak. */
#include "bench.h"

#include "base/pages.h"
#include "job.h"
#include "peak.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { MOST_ROUNDS = 101, PATIENCE_S = 30, UNDISTURBED_PATIENCE_S = 300 };

/* The second-level cache is another's, too, where reading from it takes this much longer than in the fastest
 * fiftieth of this run's readings. Not than the least of them: a short moment at a higher clock would be that. */
static const double disturbed_above = 1.1;
enum { READINGS = 1024 };

/* What is timed in every round, in this order, the peak before, between and after. PLAIN: without the summaries. */
enum { SPARSE, PLAIN, DENSE, KINDS };

typedef struct attend_bench {
    const cli_attend_bench *want;
    fga_context *ctx;
    double (*clock)(void);
    void *data[4]; /* q, k, v, o: [heads][seq][head_dim] of dtype, laid out [seq][heads][head_dim] */
    void *workspace;
    fga_mask *mask;
    fga_remainder remainder;
    void *sums; /* the remainder's arrays */
    double fill_s;
    bool timed[KINDS];
    fga_attend_plan *plan[KINDS];
    double cache_s[READINGS]; /* the newest readings of the second-level cache */
    int readings;             /* all there were */
    double pairs[KINDS];      /* of one call, summary pairs included */
    int calls[KINDS];         /* per timing, for it to last */
} attend_bench;

/* ---- random numbers that depend on nothing but their place ------------------------------------------------------ */

static uint64_t mix(uint64_t x)
{
    x += 0x9e3779b97f4a7c15u;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return x ^ (x >> 31);
}

static double unit(uint64_t *state) /* in [0, 1) */
{
    return (double)(mix((*state)++) >> 11) * 0x1p-53;
}

/* Roughly normal, variance 1: the sum of three uniform ones. */
static float normal(uint64_t place)
{
    uint64_t bits = mix(place), mask = (1u << 21) - 1;
    return ((float)(bits & mask) + (float)(bits >> 21 & mask) + (float)(bits >> 42 & mask)) * 0x1p-20f - 3.0f;
}

/* Cut off, not rounded, and small values to zero: good enough for data that are noise. */
static void store(void *to, int64_t i, int dtype, float x)
{
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    if (dtype == FGA_F32) {
        ((float *)to)[i] = x;
    } else if (dtype == FGA_BF16) {
        ((uint16_t *)to)[i] = (uint16_t)(bits >> 16);
    } else {
        uint32_t magnitude = bits & 0x7fffffff, smallest = 113u << 23; /* 2^-14 */
        uint32_t half = magnitude < smallest ? 0 : (magnitude - (112u << 23)) >> 13;
        ((uint16_t *)to)[i] = (uint16_t)(bits >> 16 & 0x8000) | (uint16_t)half;
    }
}

static void fill_token(void *arg, int64_t token, int worker)
{
    const attend_bench *b = arg;
    int64_t width = (int64_t)b->want->heads * b->want->head_dim;
    (void)worker;
    for (int t = 0; t < 3; t++) {
        for (int64_t i = token * width; i < (token + 1) * width; i++) {
            store(b->data[t], i, b->want->dtype, normal((uint64_t)i * 3 + (uint64_t)t));
        }
    }
}

/* ---- the mask --------------------------------------------------------------------------------------------------- */

typedef struct drawn_row {
    const cli_attend_bench *want;
    int64_t tiles, head, block; /* whose row `keep` holds; -1: none yet */
    uint8_t *keep;              /* [tiles] */
} drawn_row;

/* Exactly round(density * units) of the units, each set as likely as any other (selection sampling). */
static void draw_units(drawn_row *r, int64_t tiles_per_unit, uint64_t state)
{
    int64_t units = (r->tiles + tiles_per_unit - 1) / tiles_per_unit;
    int64_t wanted = llround(r->want->density * (double)units);
    wanted = wanted > 0 ? wanted : 1;
    for (int64_t i = 0; i < units; i++) {
        bool kept = unit(&state) * (double)(units - i) < (double)wanted;
        wanted -= kept;
        for (int64_t v = i * tiles_per_unit; v < (i + 1) * tiles_per_unit && v < r->tiles; v++) {
            r->keep[v] = kept;
        }
    }
}

/* Kept and skipped stretches in turn, geometrically distributed; kept ones of 16 keys on average, or of two tiles, or
 * of as many as the density needs where gaps are of one tile. */
static void draw_runs(drawn_row *r, uint64_t state)
{
    double density = r->want->density, odds = density / (1 - density);
    double run = fmax(fmax(16.0 / r->want->tile, 2), odds);
    bool kept = unit(&state) < density;
    for (int64_t v = 0; v < r->tiles; v++) {
        r->keep[v] = kept;
        kept = kept ? unit(&state) >= 1 / run : unit(&state) < odds / run;
    }
}

static bool keeps(void *user, int64_t batch, int64_t head, int64_t block, int64_t tile)
{
    drawn_row *r = user;
    (void)batch;
    if (r->head != head || r->block != block) {
        uint64_t state = mix((uint64_t)head << 32 | (uint64_t)block);
        r->head = head;
        r->block = block;
        if (r->want->pattern == CLI_PATTERN_RUNS) {
            draw_runs(r, state);
        } else {
            int64_t per_unit = r->want->pattern == CLI_PATTERN_BLOCKS && r->want->tile < 64 ? 64 / r->want->tile : 1;
            draw_units(r, per_unit, state);
        }
    }
    return r->keep[tile] != 0;
}

static int draw_mask(attend_bench *b)
{
    const cli_attend_bench *want = b->want;
    drawn_row row = {.want = want, .tiles = (want->seq + want->tile - 1) / want->tile, .head = -1, .block = -1};
    row.keep = malloc((size_t)row.tiles);
    if (row.keep == NULL) {
        return cli_fail(CLI_NO_MEMORY, "no memory for a row of %lld tiles", (long long)row.tiles);
    }
    fga_mask_desc d = fga_mask_desc_default();
    d.batch = 1;
    d.heads = want->heads;
    d.block_m = want->block;
    d.tile_n = want->tile;
    d.query = d.key = fga_sequence_video(want->seq);
    fga_status status = fga_mask_from_function(b->ctx, &d, keeps, &row, &b->mask);
    status = status == FGA_OK ? fga_mask_compress(b->ctx, b->mask) : status;
    free(row.keep);
    return status == FGA_OK ? CLI_DONE : cli_fail_status(b->ctx, status);
}

/* ---- what is timed ---------------------------------------------------------------------------------------------- */

static int make_data(attend_bench *b)
{
    const cli_attend_bench *want = b->want;
    double tensor = (double)want->seq * want->heads * want->head_dim * (double)fga_dtype_size((fga_dtype)want->dtype);
    double mask = (double)want->seq / want->block * want->seq / want->tile * want->heads / 8;
    if (4 * tensor + 2 * mask > (double)cli_memory_available()) {
        return cli_fail(CLI_NO_MEMORY, "%s of memory would be needed, %s are available",
                        cli_bytes((uint64_t)(4 * tensor + 2 * mask)).text, cli_bytes(cli_memory_available()).text);
    }
    for (int i = 0; i < 4; i++) {
        b->data[i] = fga_pages_alloc((size_t)tensor); /* as the engine's */
        if (b->data[i] == NULL) {
            return cli_fail(CLI_NO_MEMORY, "no memory for a tensor of %s", cli_bytes((uint64_t)tensor).text);
        }
        memset(b->data[i], 0, (size_t)tensor); /* every page is there before the clock runs */
    }
    fga_parallel_for(b->ctx, want->seq, fill_token, b);
    return CLI_DONE;
}

static fga_attend_desc describe(const cli_attend_bench *want, int kind)
{
    fga_attend_desc d = fga_attend_desc_default();
    d.batch = 1;
    d.query_heads = d.kv_heads = want->heads;
    d.query_len = d.key_len = want->seq;
    d.head_dim = want->head_dim;
    d.dtype = (fga_dtype)want->dtype;
    d.block_m = kind == DENSE ? 0 : want->block;
    d.tile_n = kind == DENSE ? 0 : want->tile;
    return d;
}

static int make_plans(attend_bench *b)
{
    size_t bytes = 64;
    for (int kind = 0; kind < KINDS; kind++) {
        if (!b->timed[kind]) {
            continue;
        }
        fga_attend_desc d = describe(b->want, kind);
        fga_status status = fga_attend_plan_create(b->ctx, &d, &b->plan[kind]);
        if (status != FGA_OK) {
            return cli_fail_status(b->ctx, status);
        }
        size_t needed = fga_attend_plan_workspace(b->plan[kind]);
        bytes = needed > bytes ? needed : bytes;
    }
    b->workspace = aligned_alloc(64, (bytes + 63) / 64 * 64);
    return b->workspace != NULL ? CLI_DONE : cli_fail(CLI_NO_MEMORY, "no memory for the workspace");
}

static fga_attend_args arguments(const attend_bench *b, int kind)
{
    fga_attend_args a = fga_attend_args_default();
    fga_tensor *tensors[] = {&a.q, &a.k, &a.v, &a.o};
    for (int i = 0; i < 4; i++) {
        *tensors[i] =
            fga_tensor_bshd(b->data[i], (fga_dtype)b->want->dtype, 1, b->want->seq, b->want->heads, b->want->head_dim);
    }
    a.mask = kind == DENSE ? NULL : b->mask;
    a.remainder = kind == SPARSE && b->want->remainder > 0 ? &b->remainder : NULL;
    return a;
}

static int fill_remainder(attend_bench *b)
{
    fga_attend_desc d = describe(b->want, SPARSE);
    fga_attend_args a = arguments(b, PLAIN);
    size_t bytes = 0;
    fga_status status = fga_remainder_place(b->ctx, &d, b->want->remainder, NULL, &bytes, NULL);
    if (status == FGA_OK) {
        b->sums = aligned_alloc(64, (bytes + 63) / 64 * 64);
        if (b->sums == NULL) {
            return cli_fail(CLI_NO_MEMORY, "no memory for the sums of the remainder");
        }
        status = fga_remainder_place(b->ctx, &d, b->want->remainder, b->sums, &bytes, &b->remainder);
    }
    for (int i = 0; i < 2 && status == FGA_OK; i++) { /* the second one counts: the pages are there */
        double start = b->clock();
        status = fga_remainder_fill(b->ctx, &d, &a, NULL, &b->remainder);
        b->fill_s = b->clock() - start;
    }
    return status == FGA_OK ? CLI_DONE : cli_fail_status(b->ctx, status);
}

/* Queries times groups that a block attends to through a summary: those it does not keep whole. */
static double summary_pairs(const attend_bench *b)
{
    int64_t seq = b->want->seq, group = b->want->remainder, tile = b->want->tile;
    int64_t groups = (seq + group - 1) / group;
    double pairs = 0;
    for (int64_t h = 0; h < b->want->heads; h++) {
        for (int64_t u = 0; u < fga_mask_blocks(b->mask); u++) {
            int64_t rows = seq - u * b->want->block, left = groups, start, end = 0;
            rows = rows < b->want->block ? rows : b->want->block;
            while (fga_mask_next_run(b->mask, 0, h, u, end, &start, &end)) {
                int64_t first = (start * tile + group - 1) / group, last = end * tile / group;
                last = end * tile >= seq ? groups : last;
                left -= last > first ? last - first : 0;
            }
            pairs += (double)rows * (double)left;
        }
    }
    return pairs;
}

/* Calls of one kind; the time of one of them in *seconds. */
static int time_calls(attend_bench *b, int kind, int calls, double *seconds)
{
    fga_attend_args a = arguments(b, kind);
    double start = b->clock();
    for (int i = 0; i < calls; i++) {
        fga_status status = fga_attend_run(b->plan[kind], &a, b->workspace, NULL);
        if (status != FGA_OK) {
            return cli_fail_status(b->ctx, status);
        }
    }
    *seconds = (b->clock() - start) / calls;
    return cli_interrupted() ? cli_fail(CLI_INTERRUPTED, "interrupted") : CLI_DONE;
}

/* One call of each kind first, to warm up and to see how many make a timing of 50 ms, or of 10 ms where only quiet
 * moments count. */
static int warm_up(attend_bench *b)
{
    for (int kind = 0; kind < KINDS; kind++) {
        double seconds = 0;
        int code = b->timed[kind] ? time_calls(b, kind, 1, &seconds) : CLI_DONE;
        if (code != CLI_DONE) {
            return code;
        }
        double wanted = b->want->undisturbed ? 0.01 : 0.05;
        b->calls[kind] = seconds < wanted ? 1 + (int)fmin(1e5, wanted / fmax(seconds, 1e-9)) : 1;
    }
    return CLI_DONE;
}

typedef struct peaks {
    const attend_bench *bench;
    const char *variant;
    cli_peak *each; /* [threads] */
} peaks;

static void measure_peak(void *arg, int64_t item, int worker)
{
    const peaks *p = arg;
    (void)worker;
    p->each[item] = cli_peak_measure(p->variant, p->bench->clock);
}

/* All threads at once; flops are summed, the rest are means. */
static cli_peak peak_now(const attend_bench *b, cli_peak *each)
{
    int threads = fga_context_threads(b->ctx);
    peaks p = {b, fga_attend_plan_variant(b->plan[SPARSE]), each};
    cli_peak all = {0};
    fga_parallel_for(b->ctx, threads, measure_peak, &p);
    for (int i = 0; i < threads; i++) {
        all.flops += each[i].flops;
        all.hertz += each[i].hertz / threads;
        all.per_cycle += each[i].per_cycle / threads;
    }
    return all;
}

/* ---- rounds ----------------------------------------------------------------------------------------------------- */

typedef struct record {
    double time[KINDS][MOST_ROUNDS], of_peak[KINDS][MOST_ROUNDS];
    double speedup[MOST_ROUNDS], slowdown[MOST_ROUNDS], share[MOST_ROUNDS];
    double flops[MOST_ROUNDS], hertz[MOST_ROUNDS], per_cycle[MOST_ROUNDS];
    int rounds, repeated;
} record;

static int by_size(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(const double *x, int n)
{
    double sorted[MOST_ROUNDS];
    memcpy(sorted, x, (size_t)n * sizeof *x);
    qsort(sorted, (size_t)n, sizeof *sorted, by_size);
    return 0.5 * (sorted[(n - 1) / 2] + sorted[n / 2]);
}

/* Pairs per second of one kind in the newest round. */
static double pair_rate(const attend_bench *b, const record *r, int kind)
{
    return b->pairs[kind] / r->time[kind][r->rounds];
}

/* Whether nobody else uses the second-level cache; always where that is not asked for. */
static bool quiet_now(attend_bench *b)
{
    if (!b->want->undisturbed) {
        return true;
    }
    double seconds = cli_cache_seconds(), sorted[READINGS];
    b->cache_s[b->readings++ % READINGS] = seconds;
    int count = b->readings < READINGS ? b->readings : READINGS;
    memcpy(sorted, b->cache_s, (size_t)count * sizeof *sorted);
    qsort(sorted, (size_t)count, sizeof *sorted, by_size);
    return seconds <= disturbed_above * sorted[count / 50];
}

/* A round's figures against the peaks on both of their sides. It counts if it was quiet before and after each timing.
 */
static int play_round(attend_bench *b, cli_peak *each, cli_peak *peak, record *r)
{
    int n = r->rounds, kinds = b->timed[SPARSE] + b->timed[PLAIN] + b->timed[DENSE];
    double wall = 0;
    clock_t used = 0;
    bool quiet = quiet_now(b);
    r->flops[n] = r->hertz[n] = r->per_cycle[n] = 0;
    for (int kind = 0; kind < KINDS; kind++) {
        if (!b->timed[kind]) {
            continue;
        }
        cli_peak before = *peak;
        double start = cli_wall_seconds();
        clock_t used_before = clock();
        int code = time_calls(b, kind, b->calls[kind], &r->time[kind][n]);
        if (code != CLI_DONE) {
            return code;
        }
        used += clock() - used_before;
        wall += cli_wall_seconds() - start;
        quiet = quiet_now(b) && quiet;
        *peak = peak_now(b, each);
        double flops = 0.5 * (before.flops + peak->flops);
        r->of_peak[kind][n] = 4 * b->want->head_dim * pair_rate(b, r, kind) / flops;
        r->flops[n] += flops / kinds;
        r->hertz[n] += 0.5 * (before.hertz + peak->hertz) / kinds;
        r->per_cycle[n] += 0.5 * (before.per_cycle + peak->per_cycle) / kinds;
    }
    r->speedup[n] = r->time[DENSE][n] / r->time[SPARSE][n];
    r->slowdown[n] = b->timed[PLAIN] ? pair_rate(b, r, SPARSE) / pair_rate(b, r, PLAIN) : NAN;
    r->share[n] = (double)used / CLOCKS_PER_SEC / wall / fga_context_threads(b->ctx);
    r->rounds += quiet;
    r->repeated += !quiet;
    return CLI_DONE;
}

static int play(attend_bench *b, record *r)
{
    cli_peak *each = calloc((size_t)fga_context_threads(b->ctx), sizeof *each);
    if (each == NULL) {
        return cli_fail(CLI_NO_MEMORY, "no memory for the peaks of %d threads", fga_context_threads(b->ctx));
    }
    int wanted = b->want->rounds > 0 ? b->want->rounds : 5;
    double start = cli_wall_seconds();
    int code = warm_up(b);
    cli_peak peak = peak_now(b, each);
    while (code == CLI_DONE && b->want->undisturbed && cli_wall_seconds() - start < 1) { /* readings to compare with */
        code = play_round(b, each, &peak, r);
        r->rounds = 0;
    }
    r->repeated = 0;
    while (code == CLI_DONE && r->rounds < wanted) {
        double waited = cli_wall_seconds() - start;
        if ((b->want->rounds == 0 && r->rounds > 0 && waited > PATIENCE_S) ||
            (b->want->undisturbed && waited > UNDISTURBED_PATIENCE_S)) {
            break;
        }
        code = play_round(b, each, &peak, r);
    }
    free(each);
    if (code == CLI_DONE && r->rounds == 0) {
        return cli_fail(CLI_ERROR, "bench: the second-level cache was used by others in all of %d rounds", r->repeated);
    }
    return code;
}

/* One kind's medians; `pairs` of a call are what its rate counts. */
static cli_attend_timing timing_of(const attend_bench *b, const record *r, int kind, double pairs)
{
    if (!b->timed[kind]) {
        return (cli_attend_timing){NAN, NAN, NAN};
    }
    double seconds = median(r->time[kind], r->rounds), gflops = 4e-9 * b->want->head_dim * pairs / seconds;
    double of_peak = pairs / b->pairs[kind] * median(r->of_peak[kind], r->rounds);
    return (cli_attend_timing){seconds, gflops, isfinite(of_peak) ? of_peak : NAN};
}

static void summarize(const attend_bench *b, const record *r, cli_attend_figures *f)
{
    double peak = median(r->flops, r->rounds), best = 0, none = NAN;
    for (int i = 0; i < r->rounds; i++) {
        best = fmax(best, r->per_cycle[i]);
    }
    bool known = peak > 0, summaries = b->timed[PLAIN];
    *f = (cli_attend_figures){.threads = fga_context_threads(b->ctx), .rounds = r->rounds, .repeated = r->repeated};
    snprintf(f->variant, sizeof f->variant, "%s", fga_attend_plan_variant(b->plan[SPARSE]));
    f->density = fga_mask_density(b->mask);
    f->sparse = timing_of(b, r, SPARSE, b->pairs[PLAIN]);
    f->dense = timing_of(b, r, DENSE, b->pairs[DENSE]);
    f->speedup_vs_dense = b->timed[DENSE] ? median(r->speedup, r->rounds) : none;
    f->cost = b->pairs[SPARSE] / b->pairs[DENSE];
    f->with_summaries = summaries ? timing_of(b, r, SPARSE, b->pairs[SPARSE]) : (cli_attend_timing){none, none, none};
    f->without_summaries_s = summaries ? median(r->time[PLAIN], r->rounds) : none;
    f->speed_vs_without = summaries ? median(r->slowdown, r->rounds) : none;
    f->fill_s = summaries ? b->fill_s : none;
    f->peak_gflops = known ? peak * 1e-9 : none;
    f->ghz = known ? median(r->hertz, r->rounds) * 1e-9 : none;
    f->peak_per_cycle = known ? median(r->per_cycle, r->rounds) : none;
    f->peak_counted = known ? cli_peak_counted(best) : none;
    f->processor_share = median(r->share, r->rounds);
}

int cli_bench_attend_run(const cli_attend_bench *want, cli_attend_figures *figures)
{
    attend_bench b = {.want = want, .timed = {true, want->remainder > 0, !want->sparse_only}};
    record *r = calloc(1, sizeof *r);
    if (r == NULL) {
        return cli_fail(CLI_NO_MEMORY, "no memory for the record of timings");
    }
    b.clock = want->processor_time ? cli_thread_seconds : cli_wall_seconds;
    int code = cli_open_context(want->threads, want->variant, &b.ctx);
    code = code == CLI_DONE ? make_plans(&b) : code;
    code = code == CLI_DONE ? make_data(&b) : code;
    code = code == CLI_DONE ? draw_mask(&b) : code;
    code = code == CLI_DONE && want->remainder > 0 ? fill_remainder(&b) : code;
    if (code == CLI_DONE) {
        b.pairs[DENSE] = (double)want->heads * want->seq * want->seq;
        b.pairs[PLAIN] = b.pairs[DENSE] * fga_mask_density(b.mask);
        b.pairs[SPARSE] = b.pairs[PLAIN] + (want->remainder > 0 ? summary_pairs(&b) : 0);
        code = play(&b, r);
    }
    if (code == CLI_DONE) {
        summarize(&b, r, figures);
    }
    free(r);
    free(b.sums);
    free(b.workspace);
    for (int i = 0; i < 4; i++) {
        free(b.data[i]);
    }
    for (int kind = 0; kind < KINDS; kind++) {
        fga_attend_plan_destroy(&b.plan[kind]);
    }
    fga_mask_release(&b.mask);
    fga_context_destroy(&b.ctx);
    return code;
}
