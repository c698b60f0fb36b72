/* bench_attend.c - speed of attention on a CUDA device: dense, and single keys to blocks at several densities.
 *
 *   bench_cuda [--csv FILE] [--repeats R] [--tokens S] [--heads H] [--head-dim D] [--variant NAME] [--m M]
 *              [--short | --least] [--dense | --no-dense] [--peer-ms MS] [--mask FILE]
 *
 * Rates are effective: 4 * kept pairs * head_dim floating-point operations over time, skipped keys never counted. Each
 * run is timed by events on one stream; the table has the best and the median of R, which differ where something else
 * has the device too, and takes rates and ratios from the best. Ratios are to the dense run of the same process, and to
 * --peer-ms, another program's dense time at the same shape. K and V of all heads are more than the cache holds, those
 * of one head are not. Masks are random, the same for all heads, or the one of S tokens in FILE, which bench_unions
 * --save wrote. After each timing, outputs of sampled queries are compared with the exact result: a line that is wrong
 * says so, and so does the exit status.
 */
#include "gpu.h"
#include "sample.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct options {
    const char *csv, *variant, *mask;
    int repeats, m;        /* m 0: all */
    int64_t tokens, heads; /* 0: the two usual lengths, their heads */
    int head_dim;
    bool brief, least, dense, sparse;
    double peer_ms; /* 0: unknown */
} options;

typedef struct bench {
    const options *opt;
    FILE *csv;
    fga_context *ctx;
    sample_data data;
    void *q, *k, *v, *o;
    fga_remainder sums;
    void *sums_memory;
    double dense_ms;
    int wrong;
} bench;

typedef struct launch {
    bench *b;
    fga_attend_plan *plan;
    fga_attend_args args;
    void *workspace;
} launch;

static void run(void *arg)
{
    launch *l = arg;
    gpu_need(l->b->ctx, fga_attend_run(l->plan, &l->args, l->workspace, gpu_stream()));
}

static void *upload(const uint16_t *rows, int64_t count)
{
    void *device = gpu_alloc((size_t)count * sizeof *rows);
    gpu_put(device, rows, (size_t)count * sizeof *rows);
    return device;
}

static uint8_t *random_keep(const bench *b, int m, int n, double density)
{
    int64_t count = (b->data.tokens + m - 1) / m * ((b->data.tokens + n - 1) / n);
    uint8_t *keep = malloc((size_t)count);
    if (keep == NULL) {
        exit(1);
    }
    uint64_t state = 99;
    uint32_t limit = (uint32_t)(density * 4294967295.0);
    for (int64_t i = 0; i < count; i++) {
        keep[i] = (uint32_t)(gpu_random(&state) >> 32) <= limit;
    }
    return keep;
}

static fga_mask *mask_of(const bench *b, int m, int n, const uint8_t *keep)
{
    fga_mask_desc desc = fga_mask_desc_default();
    desc.block_m = m;
    desc.tile_n = n;
    desc.query = desc.key = fga_sequence_video(b->data.tokens);
    fga_mask *mask = NULL;
    gpu_need(b->ctx, fga_mask_from_bool(b->ctx, &desc, keep, &mask));
    return mask;
}

static fga_attend_desc describe(const bench *b, int m, int n)
{
    fga_attend_desc desc = fga_attend_desc_default();
    desc.query_heads = desc.kv_heads = b->data.heads;
    desc.query_len = desc.key_len = b->data.tokens;
    desc.head_dim = b->data.dim;
    desc.dtype = FGA_BF16;
    desc.block_m = m;
    desc.tile_n = n;
    return desc;
}

static fga_tensor view(void *data, const bench *b)
{
    fga_tensor t = fga_tensor_bshd(data, FGA_BF16, 1, b->data.tokens, b->data.heads, b->data.dim);
    t.device = FGA_DEVICE_CUDA;
    return t;
}

static void report(bench *b, const char *variant, int m, int n, double kept, bool summaries, gpu_times ms, double error)
{
    const double allowed = 1e-2; /* several times what bf16's weights and outputs cost */
    bool good = error <= allowed;
    double pairs = kept * (double)b->data.tokens * (double)b->data.tokens;
    double tflops = 4 * pairs * b->data.dim * (double)b->data.heads / ms.best * 1e-9;
    b->wrong += !good;
    printf("%s M=%-3d N=%-2d %.3f %-4s %8.3f ms (median %8.3f) %6.1f TFLOP/s", variant, m, n, kept,
           summaries ? "sums" : "", ms.best, ms.median, tflops);
    if (b->dense_ms > 0) {
        printf(" %5.2fx dense, per pair %.2f", b->dense_ms / ms.best, kept * b->dense_ms / ms.best);
    }
    if (b->opt->peer_ms > 0) {
        printf(", %5.2fx peer", b->opt->peer_ms / ms.best);
    }
    printf(" err %.1e%s\n", error, good ? "" : " WRONG");
    fflush(stdout);
    if (b->csv != NULL) {
        fprintf(b->csv, "%s,%d,%s,%d,%d,%d,bf16,%d,%d,%.4f,%d,%.4f,%.4f,%.1f,%.3f,%.3f,%.2e\n", gpu_name(),
                gpu_driver_version(), variant, (int)b->data.tokens, (int)b->data.heads, b->data.dim, m, n, kept,
                summaries ? SAMPLE_GROUP : 0, ms.best, ms.median, tflops, b->dense_ms / ms.best,
                b->opt->peer_ms / ms.best, error);
        fflush(b->csv);
    }
}

/* keep: of a mask, for n > 0. */
static void measure_mask(bench *b, int m, int n, const uint8_t *keep, bool summaries)
{
    fga_attend_desc desc = describe(b, m, n);
    launch l = {.b = b, .args = fga_attend_args_default()};
    if (fga_attend_plan_create(b->ctx, &desc, &l.plan) != FGA_OK) {
        printf("M=%d N=%d: %s\n", m, n, fga_last_error(b->ctx));
        return;
    }
    fga_mask *mask = n > 0 ? mask_of(b, m, n, keep) : NULL;
    double kept = mask != NULL ? fga_mask_density(mask) : 1;
    l.workspace = gpu_alloc(fga_attend_plan_workspace(l.plan));
    l.args.q = view(b->q, b);
    l.args.k = view(b->k, b);
    l.args.v = view(b->v, b);
    l.args.o = view(b->o, b);
    l.args.mask = mask;
    l.args.remainder = summaries ? &b->sums : NULL;
    gpu_fill(b->o, 0xFF, (size_t)(b->data.tokens * b->data.heads * b->data.dim) * 2); /* NaN */
    gpu_times ms = gpu_time(run, &l, 2, b->opt->repeats);
    sample_mask sample = {keep, m, n, summaries};
    double error = sample_error(&b->data, &sample, b->o);
    b->dense_ms = n == 0 ? ms.best : b->dense_ms;
    report(b, fga_attend_plan_variant(l.plan), m, n, kept, summaries, ms, error);
    gpu_free(l.workspace);
    fga_mask_release(&mask);
    fga_attend_plan_destroy(&l.plan);
}

/* n 0: dense. */
static void measure(bench *b, int m, int n, double density, bool summaries)
{
    uint8_t *keep = n > 0 ? random_keep(b, m, n, density) : NULL;
    measure_mask(b, m, n, keep, summaries);
    free(keep);
}

static void make_sums(bench *b)
{
    fga_attend_desc desc = describe(b, 128, 1);
    size_t bytes = 0;
    gpu_need(b->ctx, fga_remainder_place(b->ctx, &desc, SAMPLE_GROUP, NULL, &bytes, NULL));
    float *host = aligned_alloc(64, (bytes + 63) / 64 * 64);
    if (host == NULL) {
        exit(1);
    }
    fga_remainder at;
    gpu_need(b->ctx, fga_remainder_place(b->ctx, &desc, SAMPLE_GROUP, host, &bytes, &at));
    sample_sums(&b->data, at.groups, at.sum_k, at.sum_v, at.sum_bias, at.count);
    b->sums_memory = gpu_alloc(bytes);
    gpu_put(b->sums_memory, host, bytes);
    gpu_need(b->ctx, fga_remainder_place(b->ctx, &desc, SAMPLE_GROUP, b->sums_memory, &bytes, &b->sums));
    free(host);
}

static void measure_each(bench *b, int m, const int *ns, int count, double density, bool summaries)
{
    for (int i = 0; i < count; i++) {
        measure(b, m, ns[i], density, false);
    }
    if (summaries) {
        measure(b, m, 1, density, true);
    }
}

/* The rate by N at M = 128 and density 0.3; by density; the other M. Briefly: less of the last two, least of a long
 * sequence or when asked to. */
static void measure_masks(bench *b)
{
    static const int ns[] = {1, 2, 4, 8, 16, 32, 64}, few[] = {1, 8, 64};
    static const double densities[] = {0.1, 0.5, 0.2, 0.05};
    const options *opt = b->opt;
    bool least = opt->least || (opt->brief && b->data.tokens > 40000);
    if (opt->m == 0 || opt->m == 128) {
        measure_each(b, 128, least ? few : ns, least ? 3 : 7, 0.3, true);
        for (int i = 0; i < (least ? 1 : 4); i++) {
            measure_each(b, 128, opt->brief ? few : ns, least ? 1 : opt->brief ? 2 : 7, densities[i], true);
        }
    }
    for (int m = 64; m <= 192; m += 128) {
        if (least ? opt->m == m : opt->m == 0 || opt->m == m) {
            measure_each(b, m, few, opt->brief ? 2 : 3, 0.3, true);
            measure_each(b, m, few, opt->brief ? 1 : 3, 0.1, true);
        }
    }
    for (int m = 16; m <= 32; m *= 2) {
        if (opt->m == m || (opt->m == 0 && !least)) {
            measure(b, m, 16, 0.3, false);
            measure(b, m, 1, 0.1, false);
        }
    }
}

static fga_mask *read_mask(fga_context *ctx, const char *path)
{
    enum { MOST = 64 << 20 };
    fga_mask *mask = NULL;
    FILE *file = fopen(path, "rb");
    void *bytes = malloc(MOST);
    size_t count = file != NULL && bytes != NULL ? fread(bytes, 1, MOST, file) : 0;
    if (count == 0) {
        perror(path);
        exit(1);
    }
    gpu_need(ctx, fga_mask_load(ctx, bytes, count, &mask));
    fclose(file);
    free(bytes);
    return mask;
}

/* The mask of a file, beside as dense a random one of the same M and N. */
static void measure_file(bench *b, const fga_mask *mask)
{
    fga_mask_desc d = fga_mask_describe(mask);
    int64_t blocks = fga_mask_blocks(mask), tiles = fga_mask_tiles(mask), tokens = fga_sequence_length(&d.query);
    if (tokens != b->data.tokens || fga_sequence_length(&d.key) != tokens) {
        fprintf(stderr, "%s is a mask of %lld queries, wanted --tokens %lld\n", b->opt->mask, (long long)tokens,
                (long long)b->data.tokens);
        exit(2);
    }
    uint8_t *keep = malloc((size_t)(blocks * tiles));
    if (keep == NULL) {
        exit(1);
    }
    for (int64_t i = 0; i < blocks * tiles; i++) {
        keep[i] = fga_mask_keeps(mask, 0, 0, i / tiles, i % tiles);
    }
    measure_mask(b, d.block_m, d.tile_n, keep, false);
    free(keep);
    measure(b, d.block_m, d.tile_n, fga_mask_density(mask), false);
    measure(b, 128, d.tile_n, fga_mask_density(mask), false);
}

static int bench_tokens(const options *opt, FILE *csv, int64_t tokens, int64_t heads)
{
    bench b = {.opt = opt, .csv = csv, .ctx = gpu_context(opt->variant)};
    b.data = sample_make(tokens, heads, opt->head_dim);
    int64_t values = tokens * heads * opt->head_dim;
    b.q = upload(b.data.q, values);
    b.k = upload(b.data.k, values);
    b.v = upload(b.data.v, values);
    b.o = gpu_alloc((size_t)values * 2);
    printf("%s, S=%d, %d heads of %d, bf16\n", gpu_name(), (int)tokens, (int)heads, opt->head_dim);
    if (opt->dense) {
        measure(&b, 0, 0, 1, false);
    }
    if (opt->mask != NULL) {
        fga_mask *mask = read_mask(b.ctx, opt->mask);
        measure_file(&b, mask);
        fga_mask_release(&mask);
    } else if (opt->sparse) {
        make_sums(&b);
        measure_masks(&b);
    }
    if (opt->dense && opt->sparse) {
        measure(&b, 0, 0, 1, false); /* once more: how far the machine drifted */
    }
    void *memory[] = {b.q, b.k, b.v, b.o, b.sums_memory};
    for (size_t i = 0; i < sizeof memory / sizeof memory[0]; i++) {
        gpu_free(memory[i]);
    }
    sample_discard(&b.data);
    fga_context_destroy(&b.ctx);
    return b.wrong;
}

static bool parse(int argc, char **argv, options *opt)
{
    for (int i = 1; i < argc; i++) {
        bool more = i + 1 < argc;
        if (strcmp(argv[i], "--short") == 0) {
            opt->brief = true;
        } else if (strcmp(argv[i], "--least") == 0) {
            opt->least = opt->brief = true;
        } else if (strcmp(argv[i], "--dense") == 0) {
            opt->sparse = false;
        } else if (strcmp(argv[i], "--no-dense") == 0) {
            opt->dense = false;
        } else if (more && strcmp(argv[i], "--csv") == 0) {
            opt->csv = argv[++i];
        } else if (more && strcmp(argv[i], "--variant") == 0) {
            opt->variant = argv[++i];
        } else if (more && strcmp(argv[i], "--repeats") == 0) {
            opt->repeats = atoi(argv[++i]);
        } else if (more && strcmp(argv[i], "--tokens") == 0) {
            opt->tokens = atoll(argv[++i]);
        } else if (more && strcmp(argv[i], "--heads") == 0) {
            opt->heads = atoll(argv[++i]);
        } else if (more && strcmp(argv[i], "--head-dim") == 0) {
            opt->head_dim = atoi(argv[++i]);
        } else if (more && strcmp(argv[i], "--m") == 0) {
            opt->m = atoi(argv[++i]);
        } else if (more && strcmp(argv[i], "--mask") == 0) {
            opt->mask = argv[++i];
        } else if (more && strcmp(argv[i], "--peer-ms") == 0) {
            opt->peer_ms = atof(argv[++i]);
        } else {
            return false;
        }
    }
    bool dim = opt->head_dim > 0 && opt->head_dim <= SAMPLE_MOST_DIM && opt->head_dim % 8 == 0;
    return opt->repeats > 0 && opt->tokens >= 0 && opt->heads >= 0 && dim;
}

int main(int argc, char **argv)
{
    options opt = {.repeats = 9, .head_dim = 128, .dense = true, .sparse = true};
    if (!parse(argc, argv, &opt)) {
        fprintf(stderr,
                "bench_cuda [--csv FILE] [--repeats R] [--tokens S] [--heads H] [--head-dim D] [--variant NAME] "
                "[--m M] [--short | --least] [--dense | --no-dense] [--peer-ms MS] [--mask FILE]\n"
                "head_dim: a multiple of 8, at most 256\n");
        return 2;
    }
    gpu_open();
    FILE *csv = opt.csv != NULL ? fopen(opt.csv, "w") : NULL;
    if (opt.csv != NULL && csv == NULL) {
        perror(opt.csv);
        return 1;
    }
    if (csv != NULL) {
        fprintf(csv,
                "card,driver,variant,tokens,heads,head_dim,dtype,m,n,density,group,best_ms,median_ms,tflops,to_dense,"
                "to_peer,error\n");
    }
    int wrong = 0;
    if (opt.tokens == 0 || opt.tokens == 32760) {
        wrong += bench_tokens(&opt, csv, 32760, opt.heads > 0 ? opt.heads : 12);
    }
    if (opt.tokens != 32760) {
        wrong += bench_tokens(&opt, csv, opt.tokens > 0 ? opt.tokens : 75600, opt.heads > 0 ? opt.heads : 4);
    }
    if (csv != NULL) {
        fclose(csv);
    }
    return wrong > 0;
}
