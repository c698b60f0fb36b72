/* bench_unions.c - what it costs that small query blocks share a list: the union of their lists, over their own.
 *
 *   bench_unions --capture FILE [--policy TEXT]... [--csv FILE] [--save FILE]
 *
 * On a CUDA device blocks of 16 and 32 queries are computed 128 queries at a time (docs/kernels-cuda.md), so that what
 * is computed is the union. Printed for each policy, over all captured calls and heads: the density, and the union over
 * the blocks' own lists where neighbours share, and where blocks do that are put together for being alike, as the
 * library does. Masks are made anew for each call, at the policy's first density. --save writes the mask of the last
 * policy, first call and first head, for bench_cuda --mask.
 */
#include "attn/mask.h"
#include "base/context.h"
#include "provenance.h"
#include "takes.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_POLICIES = 16 };

typedef struct options {
    const char *capture, *policies[MAX_POLICIES], *csv, *save;
    int count;
} options;

/* Kept tiles, summed over rows and, over the blocks that share, over groups. */
typedef struct tally {
    fga_context *ctx;
    double all, own, neighbours, alike;
    const char *save; /* where the next mask goes; or NULL */
    bool failed;
} tally;

static double count_bits(const uint64_t *words, int64_t count)
{
    int64_t bits = 0;
    for (int64_t i = 0; i < count; i++) {
        bits += __builtin_popcountll(words[i]);
    }
    return (double)bits;
}

static void unite(const fga_mask *mask, int64_t row, uint64_t *words)
{
    int64_t begin, end = 0;
    while (fga_mask_row_run(mask, row, end, &begin, &end)) {
        fga_bits_set(words, begin, end);
    }
}

/* Tiles that groups of one head unite to; order NULL: blocks as they lie. */
static double count_unions(const fga_mask *mask, int64_t head_row, int at_once, const int32_t *order, uint64_t *words)
{
    double tiles = 0;
    for (int64_t at = 0; at < mask->blocks; at += at_once) {
        int64_t end = fga_min(at + at_once, mask->blocks);
        memset(words, 0, (size_t)mask->words * sizeof *words);
        for (int64_t i = at; i < end; i++) {
            unite(mask, head_row + (order != NULL ? order[head_row + i] : i), words);
        }
        tiles += count_bits(words, mask->words) * (double)(end - at);
    }
    return tiles;
}

static bool keeps_like(void *user, int64_t batch, int64_t head, int64_t block, int64_t tile)
{
    return fga_mask_keeps(user, batch, head, block, tile);
}

/* The first head's part as a file. */
static bool save_head(fga_context *ctx, const fga_mask *mask, const char *path)
{
    fga_mask_desc d = mask->desc;
    fga_mask *one = NULL;
    size_t bytes = 0;
    void *buffer = NULL;
    d.batch = d.heads = 1;
    bool ok = fga_mask_from_function(ctx, &d, keeps_like, (void *)(uintptr_t)mask, &one) == FGA_OK &&
              fga_mask_save(ctx, one, NULL, &bytes) == FGA_OK && (buffer = malloc(bytes)) != NULL &&
              fga_mask_save(ctx, one, buffer, &bytes) == FGA_OK;
    FILE *file = ok ? fopen(path, "wb") : NULL;
    ok = file != NULL && fwrite(buffer, 1, bytes, file) == bytes;
    ok = file != NULL && fclose(file) == 0 && ok;
    free(buffer);
    fga_mask_release(&one);
    return ok;
}

static void look(void *user, const fga_mask *mask)
{
    tally *t = user;
    int at_once = FGA_GPU_AT_ONCE(mask->desc.block_m);
    int32_t *order = malloc((size_t)mask->rows * sizeof *order);
    uint64_t *words = malloc((size_t)mask->words * sizeof *words);
    if (order == NULL || words == NULL || fga_mask_order_blocks(t->ctx, mask, order) != FGA_OK) {
        t->failed = true;
    } else {
        for (int64_t row = 0; row < mask->rows; row += mask->blocks) {
            t->all += (double)mask->blocks * (double)mask->tiles;
            t->own += count_unions(mask, row, 1, NULL, words);
            t->neighbours += count_unions(mask, row, at_once, NULL, words);
            t->alike += count_unions(mask, row, at_once, order, words);
        }
    }
    if (t->save != NULL) {
        t->failed = !save_head(t->ctx, mask, t->save) || t->failed;
        t->save = NULL;
    }
    free(order);
    free(words);
}

static bool parse(int argc, char **argv, options *o)
{
    for (int i = 1; i + 1 < argc; i += 2) {
        if (strcmp(argv[i], "--capture") == 0) {
            o->capture = argv[i + 1];
        } else if (strcmp(argv[i], "--policy") == 0 && o->count < MAX_POLICIES) {
            o->policies[o->count++] = argv[i + 1];
        } else if (strcmp(argv[i], "--csv") == 0) {
            o->csv = argv[i + 1];
        } else if (strcmp(argv[i], "--save") == 0) {
            o->save = argv[i + 1];
        } else {
            return false;
        }
    }
    return argc % 2 == 1 && o->capture != NULL;
}

static int fail(fga_context *ctx, const char *what)
{
    fprintf(stderr, "bench_unions: %s: %s\n", what, fga_last_error(ctx));
    return 1;
}

static int look_at(fga_context *ctx, takes *t, const options *o, int i, FILE *csv)
{
    fga_policy p;
    takes_figures f;
    tally sum = {.ctx = ctx, .save = i + 1 == o->count ? o->save : NULL};
    t->look = look;
    t->look_user = &sum;
    if (fga_policy_parse(ctx, o->policies[i], &p) != FGA_OK || takes_run(t, &p, 0, &f, NULL) != FGA_OK) {
        return fail(ctx, o->policies[i]);
    }
    if (sum.failed) {
        return fail(ctx, o->save != NULL ? o->save : "no memory for unions");
    }
    printf("%-50s density %.3f, union over own: neighbours %.2f, alike %.2f\n", o->policies[i], sum.own / sum.all,
           sum.neighbours / sum.own, sum.alike / sum.own);
    fflush(stdout);
    if (csv != NULL) {
        fprintf(csv, "\"%s\",%d,%d,%d,%d,%d,%.4f,%.3f,%.3f\n", o->policies[i], t->count, (int)t->heads, (int)t->tokens,
                p.block_m, p.tile_n, sum.own / sum.all, sum.neighbours / sum.own, sum.alike / sum.own);
    }
    return 0;
}

int main(int argc, char **argv)
{
    options o = {0};
    if (!parse(argc, argv, &o)) {
        fprintf(stderr, "bench_unions --capture FILE [--policy TEXT]... [--csv FILE] [--save FILE]\n");
        return 2;
    }
    if (o.count == 0) {
        o.policies[o.count++] = "fgdfs,tile_n=16";
    }
    fga_context *ctx = NULL;
    if (fga_context_create(NULL, &ctx) != FGA_OK) {
        return fail(ctx, "context");
    }
    takes t = {.ctx = ctx};
    if (takes_read(&t, o.capture) != FGA_OK) {
        return fail(ctx, o.capture);
    }
    FILE *csv = o.csv != NULL ? fopen(o.csv, "w") : NULL;
    if (o.csv != NULL && csv == NULL) {
        perror(o.csv);
        return 1;
    }
    if (csv != NULL) {
        print_provenance(csv, argc, argv);
        fputs("policy,calls,heads,tokens,m,n,density,neighbours,alike\n", csv);
    }
    int status = 0;
    for (int i = 0; i < o.count && status == 0; i++) {
        status = look_at(ctx, &t, &o, i, csv);
    }
    if (csv != NULL && fclose(csv) != 0) {
        perror(o.csv);
        status = 1;
    }
    takes_free(&t);
    fga_context_destroy(&ctx);
    return status;
}
