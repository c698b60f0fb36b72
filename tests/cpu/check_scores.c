/* check_scores.c - rank, pool's companion alike, digits and sift, and their scratch, of every tier against the
 * double-precision reference: all kinds, ragged tiles and groups, keys that are out, blocks without rows, odd strides,
 * 16-bit keys, and keys beside memory that cannot be read.
 */
#define _DEFAULT_SOURCE /* MAP_ANONYMOUS */
#include "base/cpu.h"
#include "base/half.h"
#include "cpu/cpu.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>

static const struct tier {
    const char *name;
    unsigned features;
    void (*overlay)(fga_ops *ops);
} tiers[] = {
#define FGA_VARIANT(name, features, overlay) {name, features, overlay},
#include "ops/variants.inc"
#undef FGA_VARIANT
};

enum { TIERS = sizeof tiers / sizeof tiers[0], MOST_ROWS = 200, GUARD = 16 };

static fga_ops ops, reference;

static uint64_t next(uint64_t *state)
{
    uint64_t z = *state += 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

static int64_t between(uint64_t *state, int64_t low, int64_t high)
{
    return low + (int64_t)(next(state) % (uint64_t)(high - low + 1));
}

static float uniform(uint64_t *state, float scale)
{
    return scale * ((float)(next(state) >> 40) * 0x1p-23f - 1.0f);
}

/* ---- one rank call with everything around it --------------------------------------------------------------------- */

typedef struct rank_case {
    fga_rank_op op;
    float *q, *weight, *lse, *bias, *sub_bias, *apart, *group_share, *score;
    char *k, *k_memory;
    size_t mapped; /* bytes of k_memory, where it was */
    int64_t *tile_begin, *sub_begin;
    int32_t *row_begin;
    int32_t rows;
    bool second_order, known_lse, at_walls;
} rank_case;

static void *array(int64_t count, size_t bytes)
{
    void *x = malloc((size_t)(count + GUARD) * bytes);
    memset(x, 0xff, (size_t)(count + GUARD) * bytes);
    return x;
}

/* Blocks of any rows, or of as many each, but for a shorter one at the end. */
static int32_t rows_of_block(const rank_case *c, uint64_t *random, int32_t most, bool alike, int32_t b)
{
    if (c->op.kind == FGA_RANK_LOGIT) {
        return 1;
    }
    if (alike) {
        return b + 1 < c->op.blocks ? most : (int32_t)between(random, 0, most);
    }
    return between(random, 0, 5) == 0 ? 0 : (int32_t)between(random, 1, most);
}

/* A number of 8, 16 or 24 bits. */
static float with_bits(float x, int bits)
{
    uint32_t word;
    memcpy(&word, &x, sizeof word);
    word &= 0xffffffffu << (24 - bits);
    memcpy(&x, &word, sizeof x);
    return x;
}

static void make_rows(rank_case *c, uint64_t *random)
{
    fga_rank_op *op = &c->op;
    int32_t most = (int32_t)between(random, 1, between(random, 0, 3) == 0 ? 60 : 9);
    bool alike = between(random, 0, 1) == 0;
    int bits = 8 * (int)between(random, 1, 3);
    op->blocks = (int32_t)between(random, 1, alike ? 40 : 6);
    c->row_begin = array(op->blocks + 1, sizeof *c->row_begin);
    c->rows = 0;
    for (int32_t b = 0; b < op->blocks; b++) {
        c->row_begin[b] = c->rows;
        int32_t rows = rows_of_block(c, random, most, alike, b);
        c->rows += c->rows + rows > MOST_ROWS ? 0 : rows;
    }
    c->row_begin[op->blocks] = c->rows;
    c->q = array((int64_t)c->rows * op->head_dim, sizeof *c->q);
    c->weight = array(c->rows, sizeof *c->weight);
    c->lse = array(c->rows, sizeof *c->lse);
    for (int64_t i = 0; i < (int64_t)c->rows * op->head_dim; i++) {
        c->q[i] = with_bits(uniform(random, 1), bits);
    }
    for (int32_t i = 0; i < c->rows; i++) {
        c->weight[i] = 0.05f + fabsf(uniform(random, 1));
        c->lse[i] = 3 + uniform(random, 2);
    }
}

static void place_keys(rank_case *c, uint64_t *random)
{
    fga_rank_op *op = &c->op;
    size_t bytes = fga_dtype_size(op->dtype);
    if (c->at_walls) { /* each row at the end of a page of its own, and a page after the last */
        size_t page = (size_t)sysconf(_SC_PAGESIZE);
        c->mapped = (size_t)(op->keys + 1) * page;
        c->k_memory = mmap(NULL, c->mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        assert_true(c->k_memory != MAP_FAILED);
        memset(c->k_memory, 0xff, c->mapped);
        c->k = c->k_memory + page - (size_t)op->head_dim * bytes;
        op->k_stride = (int64_t)(page / bytes);
        return;
    }
    int64_t before = between(random, 0, 3);
    op->k_stride = op->head_dim + (between(random, 0, 7) == 0 ? 300 : between(random, 0, 2) * 3);
    c->k_memory = array(before + op->keys * op->k_stride, bytes);
    c->k = c->k_memory + (size_t)before * bytes;
}

/* Takes away what must not be read. */
static void raise_walls(const rank_case *c)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    for (int64_t j = 0; j <= c->op.keys; j++) {
        if (j == c->op.keys || c->bias[j] == -INFINITY) {
            assert_int_equal(mprotect(c->k_memory + (size_t)j * page, page, PROT_NONE), 0);
        }
    }
}

static void make_keys(rank_case *c, uint64_t *random, int64_t keys, bool none_valid)
{
    fga_rank_op *op = &c->op;
    size_t bytes = fga_dtype_size(op->dtype);
    int64_t one_out_of =
        between(random, 0, 1) == 0 ? 8 : 64; /* sixteen keys in sequence that are not out are rare at 8 */
    op->keys = keys;
    place_keys(c, random);
    c->bias = array(keys, sizeof *c->bias);
    c->apart = array(keys, sizeof *c->apart);
    for (int64_t j = 0; j < keys; j++) {
        float row[256];
        c->bias[j] = none_valid || between(random, 1, one_out_of) == 1 ? -INFINITY
                     : op->kind == FGA_RANK_LOGIT                      ? 0
                                                                       : logf((float)between(random, 1, 16));
        c->apart[j] = c->bias[j] == -INFINITY ? 0 : fabsf(uniform(random, 3));
        for (int32_t d = 0; d < op->head_dim; d++) {
            row[d] = c->bias[j] == -INFINITY ? NAN : uniform(random, 2); /* rows that are out are never read */
        }
        fga_from_f32(c->k + (size_t)(j * op->k_stride) * bytes, op->dtype, row, op->head_dim);
    }
    if (c->at_walls) {
        raise_walls(c);
    }
}

static void make_grid(rank_case *c, uint64_t *random)
{
    fga_rank_op *op = &c->op;
    int32_t n = op->tile_keys, sub = (int32_t)between(random, 1, n);
    op->tiles = (op->keys + n - 1) / n;
    c->tile_begin = array(op->tiles + 1, sizeof *c->tile_begin);
    c->sub_begin = array(op->keys + 1, sizeof *c->sub_begin);
    c->sub_bias = array(op->keys, sizeof *c->sub_bias);
    int64_t subs = 0;
    for (int64_t v = 0; v < op->tiles; v++) {
        int64_t end = (v + 1) * n < op->keys ? (v + 1) * n : op->keys;
        c->tile_begin[v] = c->second_order ? subs : v * n;
        for (int64_t j = v * n; j < end; j += sub) {
            c->sub_begin[subs] = j;
            c->sub_bias[subs++] = uniform(random, 2);
        }
    }
    c->tile_begin[op->tiles] = c->second_order ? subs : op->keys;
    c->sub_begin[subs] = op->keys;
    op->subs = subs;
    int64_t groups = (op->keys + op->group - 1) / op->group;
    c->group_share = array(groups, sizeof *c->group_share);
    for (int64_t g = 0; g < groups; g++) {
        int64_t count = 0;
        for (int64_t j = g * op->group; j < (g + 1) * op->group && j < op->keys; j++) {
            count += c->apart[j] != 0;
        }
        c->group_share[g] = count > 0 ? 1.0f / (float)count : 0;
    }
    c->score = array(op->blocks * op->tiles, sizeof *c->score);
}

static void point(rank_case *c)
{
    fga_rank_op *op = &c->op;
    op->q = c->q, op->weight = c->weight, op->row_begin = c->row_begin;
    op->lse = c->known_lse ? c->lse : NULL;
    op->k = c->k, op->bias = c->bias, op->tile_begin = c->tile_begin, op->score = c->score;
    op->sub_begin = c->second_order ? c->sub_begin : NULL;
    op->sub_bias = c->sub_bias, op->apart = c->apart, op->group_share = c->group_share;
}

static void free_case(rank_case *c)
{
    void *all[] = {c->q,           c->weight, c->lse,        c->bias,      c->sub_bias, c->apart,
                   c->group_share, c->score,  c->tile_begin, c->sub_begin, c->row_begin};
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) {
        free(all[i]);
    }
    if (c->at_walls) {
        munmap(c->k_memory, c->mapped);
    } else {
        free(c->k_memory);
    }
}

static void run(const fga_ops *table, fga_rank_op *op, int32_t rows)
{
    size_t bytes = table->rank_scratch[op->dtype](op, rows);
    char *scratch = aligned_alloc(64, (bytes + 127) / 64 * 64);
    memset(scratch, 0xff, (bytes + 127) / 64 * 64);
    op->scratch = scratch;
    table->rank[op->dtype](op);
    for (size_t i = bytes; i < (bytes + 127) / 64 * 64; i++) {
        assert_int_equal((unsigned char)scratch[i], 0xff);
    }
    free(scratch);
}

/* Probabilities agree relatively; a deviation is a difference, so relatively to what is subtracted; logs absolutely. */
static bool near(fga_rank_kind kind, float got, float wanted, float largest)
{
    if (!isfinite(wanted)) {
        return got == wanted;
    }
    float off = fabsf(got - wanted);
    return kind == FGA_RANK_LSE || kind == FGA_RANK_LOGIT ? off <= 4e-6f * (1 + fabsf(wanted))
           : kind == FGA_RANK_DEVIATION                   ? off <= 1e-5f * wanted + 4e-6f * largest
                                                          : off <= 1e-5f * wanted + 1e-20f;
}

static void check(rank_case *c)
{
    fga_rank_op *op = &c->op;
    point(c);
    run(&ops, op, c->rows);
    int64_t count = op->blocks * op->tiles;
    float *wanted = array(count, sizeof *wanted), largest = 0;
    op->score = wanted;
    run(&reference, op, c->rows);
    for (int64_t i = 0; i < count; i++) {
        largest = fmaxf(largest, wanted[i]);
    }
    for (int64_t i = 0; i < count; i++) {
        if (!near(op->kind, c->score[i], wanted[i], largest)) {
            fail_msg(
                "%s kind %d, %s, D=%d, %d rows in %d blocks, %ld keys, tiles of %d, groups of %d, second order %d, "
                "known L %d: score %ld is %.9g, wanted %.9g",
                ops.name, op->kind, fga_dtype_name(op->dtype), op->head_dim, c->rows, op->blocks, (long)op->keys,
                op->tile_keys, op->group, c->second_order, c->known_lse, (long)i, c->score[i], wanted[i]);
        }
    }
    for (int i = 0; i < GUARD; i++) {
        assert_true(isnan(c->score[count + i]));
    }
    free(wanted);
}

static void check_round(int round, bool at_walls, uint64_t *random)
{
    rank_case c = {.second_order = round / 5 % 4 == 0, .known_lse = round / 5 % 3 == 0, .at_walls = at_walls};
    c.op.kind = (fga_rank_kind)(round % 5);
    c.second_order = c.second_order && c.op.kind != FGA_RANK_DEVIATION;
    c.op.dtype = (fga_dtype)between(random, 0, 2);
    c.op.head_dim = 8 * (int32_t)between(random, 1, 32);
    c.op.scale = c.op.head_dim > 160 ? 32.0f / (float)c.op.head_dim : 0.2f; /* logits no larger */
    c.op.group = 8 << between(random, 0, 5);
    bool one_key = c.op.kind == FGA_RANK_LOGIT;
    bool any = !one_key && c.op.kind != FGA_RANK_DEVIATION && between(random, 0, 1) == 0;
    c.op.tile_keys = one_key ? 1 : any ? (int32_t)between(random, 1, 128) : 1 << between(random, 0, 7);
    c.second_order = c.second_order && !one_key;
    make_rows(&c, random);
    make_keys(&c, random, between(random, 1, round % 7 == 0 ? 900 : 150), round % 50 == 49);
    make_grid(&c, random);
    check(&c);
    free_case(&c);
}

static void every_kind_against_the_reference(void **state)
{
    (void)state;
    uint64_t random = 1;
    for (int round = 0; round < 600; round++) {
        check_round(round, false, &random);
    }
}

static void nothing_else_is_read(void **state)
{
    (void)state;
    uint64_t random = 2;
    for (int round = 0; round < 200; round++) {
        check_round(round, true, &random);
    }
}

/* Tiles whose logits lie hundreds apart: P underflows to 0 and nothing turns into NaN, logs stay exact. */
static void far_apart(void **state)
{
    (void)state;
    for (int round = 0; round < 10; round++) {
        fga_rank_kind kind = (fga_rank_kind)(round % 5);
        uint64_t random = 7;
        rank_case c = {
            .op = {.kind = kind, .head_dim = 16, .group = 16, .scale = 40, .dtype = round < 5 ? FGA_F32 : FGA_BF16}};
        c.op.tile_keys = kind == FGA_RANK_LOGIT ? 1 : 8;
        make_rows(&c, &random);
        make_keys(&c, &random, 700, false);
        make_grid(&c, &random);
        point(&c);
        run(&ops, &c.op, c.rows);
        float *wanted = array(c.op.blocks * c.op.tiles, sizeof *wanted);
        c.op.score = wanted;
        run(&reference, &c.op, c.rows);
        for (int64_t i = 0; i < c.op.blocks * c.op.tiles; i++) { /* sums of terms up to 100 */
            float allowed = kind == FGA_RANK_LSE || kind == FGA_RANK_LOGIT ? 1e-6f * (100 + fabsf(wanted[i])) : 2e-3f;
            assert_true(c.score[i] == wanted[i] || fabsf(c.score[i] - wanted[i]) <= allowed);
        }
        free(wanted);
        free_case(&c);
    }
}

static void likeness_and_distance(void **state)
{
    (void)state;
    uint64_t random = 3;
    for (int round = 0; round < 60; round++) {
        enum { COUNT = 9 };
        int32_t dim = 8 * (int32_t)between(&random, 1, 32);
        fga_dtype dtype = (fga_dtype)between(&random, 0, 2);
        int64_t stride = dim + between(&random, 0, 5);
        float centre[256], row[256], got[2][COUNT + 1], wanted[2][COUNT + 1];
        char *x = array(COUNT * stride, fga_dtype_size(dtype));
        memset(got, 0xff, sizeof got);
        for (int32_t d = 0; d < dim; d++) {
            centre[d] = round % 10 == 9 ? 0 : uniform(&random, 1);
        }
        for (int64_t i = 0; i < COUNT; i++) {
            for (int32_t d = 0; d < dim; d++) {
                row[d] = i == 4 ? 0 : uniform(&random, 1);
            }
            fga_from_f32(x + (size_t)(i * stride) * fga_dtype_size(dtype), dtype, row, dim);
        }
        fga_alike_op op = {x, centre, got[0], got[1], stride, COUNT, dim, dtype};
        ops.alike(&op);
        op.distance = wanted[0], op.cosine = wanted[1];
        reference.alike(&op);
        for (int64_t i = 0; i < COUNT; i++) {
            assert_true(fabsf(got[0][i] - wanted[0][i]) <= 2e-6f * wanted[0][i]);
            assert_true(fabsf(got[1][i] - wanted[1][i]) <= 2e-6f);
        }
        assert_true(isnan(got[0][COUNT]) && isnan(got[1][COUNT]));
        assert_true(got[1][4] == 0);
        op.distance = NULL, op.cosine = NULL;
        ops.alike(&op);
        free(x);
    }
}

/* Any word at all, or one of few values, or zeros, infinities, NaNs and their neighbours of both signs. */
static float any_score(uint64_t *random, int kind)
{
    static const uint32_t edges[] = {0,          1,          0x7fffff,   0x800000,  0x7f7fffff,
                                     0x7f800000, 0x7f800001, 0x7fc00000, 0x7fffffff};
    uint32_t word = (uint32_t)next(random);
    if (kind == 1) {
        word = 0x3a000000u + (word & 3) * 0x200000u;
    } else if (kind == 2) {
        word = (word & 0x80000000u) | edges[between(random, 0, 8)];
    }
    float score;
    memcpy(&score, &word, sizeof score);
    return score;
}

/* Bit for bit: integers leave no room. The scores end where memory does. */
static void digits_and_sifting(void **state)
{
    (void)state;
    enum { MOST = 700, WORDS = (MOST + 63) / 64 };
    uint64_t random = 4;
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    char *memory = mmap(NULL, 2 * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    assert_true(memory != MAP_FAILED && page >= MOST * sizeof(float));
    assert_int_equal(mprotect(memory + page, page, PROT_NONE), 0);
    for (int round = 0; round < 600; round++) {
        int64_t count = between(&random, 0, round % 2 == 0 ? 130 : MOST);
        float *score = (float *)(void *)(memory + page) - count;
        for (int64_t i = 0; i < count; i++) {
            score[i] = any_score(&random, round % 3);
        }
        int64_t got[FGA_RANK_DIGITS], wanted[FGA_RANK_DIGITS];
        for (int d = 0; d < FGA_RANK_DIGITS; d++) {
            got[d] = wanted[d] = d;
        }
        double sum = round % 2 == 0 ? 1 : round % 13 == 0 ? 1e-40 : 1.3e-3 * round;
        ops.digits(score, count, sum, got);
        reference.digits(score, count, sum, wanted);
        assert_memory_equal(got, wanted, sizeof got);
        uint64_t words[2][2][WORDS + 1];
        memset(words, 0xa5, sizeof words);
        uint32_t a = count > 0 && round % 5 > 0 ? fga_rank_of(score[count / 2]) : (uint32_t)next(&random);
        uint32_t b = round % 4 == 0 ? a : round % 4 == 1 ? a | 0x1fffff : (uint32_t)next(&random);
        fga_sift_op op = {.score = score, .count = count, .low = a < b ? a : b, .high = a < b ? b : a};
        op.low = round % 7 == 0 ? 0 : op.low;
        op.high = round % 11 == 0 ? UINT32_MAX : op.high;
        op.above = words[0][0], op.within = words[0][1];
        ops.sift(&op);
        op.above = words[1][0], op.within = words[1][1];
        reference.sift(&op);
        assert_memory_equal(words[0], words[1], sizeof words[0]);
        for (int64_t i = 0; i < count; i++) {
            uint32_t rank = fga_rank_of(score[i]);
            assert_int_equal(op.above[i / 64] >> (i % 64) & 1, rank > op.high);
            assert_int_equal(op.within[i / 64] >> (i % 64) & 1, rank >= op.low && rank <= op.high);
        }
    }
    munmap(memory, 2 * page);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_kind_against_the_reference),
        cmocka_unit_test(nothing_else_is_read),
        cmocka_unit_test(far_apart),
        cmocka_unit_test(likeness_and_distance),
        cmocka_unit_test(digits_and_sifting),
    };
    int failed = 0;
    fga_overlay_ref(&reference);
    for (int i = 0; i < TIERS; i++) {
        tiers[i].overlay(&ops);
        if (argc > 1 && strcmp(argv[1], tiers[i].name) != 0) {
            continue;
        }
        if ((tiers[i].features & fga_cpu_features()) != tiers[i].features) {
            print_message("tier %s: skipped, this machine lacks its instructions\n", tiers[i].name);
            continue;
        }
        print_message("tier %s\n", tiers[i].name);
        failed += cmocka_run_group_tests_name(tiers[i].name, tests, NULL, NULL);
    }
    return failed;
}
