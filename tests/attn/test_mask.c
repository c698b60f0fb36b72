/* Masks: builders, iteration, density, both storages, and bytes that were damaged on the way. */
#include "naive.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

typedef struct sample {
    naive_problem p;
    fga_mask_desc desc;
    int64_t rows, tiles, blocks;
    uint8_t *wanted; /* kept, after tiles without a valid key are dropped */
    uint8_t *asked;  /* what the builder is given */
    double density;
} sample;

/* long_keys: rows of many words, where runs can be the smaller form. */
static sample make_sample(naive_random *random, int64_t most, bool long_keys)
{
    sample s = {.p = naive_random_problem(random, most), .desc = fga_mask_desc_default()};
    if (long_keys) {
        s.p.query = naive_sequence(random, 40);
        s.p.key = naive_sequence(random, 4000);
        s.p.n = 1 << naive_between(random, 0, 2);
    }
    s.desc.batch = naive_between(random, 0, 1) == 0 ? 1 : s.p.batch;
    s.desc.heads = naive_between(random, 0, 1) == 0 ? 1 : s.p.query_heads;
    s.desc.block_m = s.p.m;
    s.desc.tile_n = s.p.n;
    s.desc.query = s.p.query;
    s.desc.key = s.p.key;
    s.blocks = naive_blocks(&s.p);
    s.tiles = naive_tiles(&s.p);
    s.rows = s.desc.batch * s.desc.heads * s.blocks;
    s.wanted = calloc((size_t)(s.rows * s.tiles) + 1, 1);
    s.asked = calloc((size_t)(s.rows * s.tiles) + 1, 1);
    int64_t in_64 = naive_between(random, 0, 64); /* how full */
    bool long_runs = long_keys || naive_between(random, 0, 1) == 0;
    for (int64_t row = 0; row < s.rows; row++) {
        uint8_t *asked = s.asked + row * s.tiles;
        for (int64_t v = 0; v < s.tiles; v++) {
            bool draw = v == 0 || !long_runs || naive_between(random, 0, 40) == 0;
            asked[v] = draw ? naive_between(random, 0, 63) < in_64 : asked[v - 1];
            for (int64_t j = v * s.p.n; j < (v + 1) * s.p.n && j < fga_sequence_length(&s.p.key); j++) {
                s.wanted[row * s.tiles + v] |= asked[v] && naive_is_valid(&s.p.key, j);
            }
            asked[v] = asked[v] ? (uint8_t)naive_between(random, 1, 255) : 0;
        }
    }
    s.density = naive_density(&(naive_mask){&s.p, s.wanted, s.desc.batch, s.desc.heads});
    return s;
}

static void free_sample(sample *s)
{
    free(s->wanted);
    free(s->asked);
}

static void check_rows(const sample *s, const fga_mask *mask)
{
    for (int64_t row = 0; row < s->rows; row++) {
        int64_t u = row % s->blocks, h = row / s->blocks % s->desc.heads, b = row / s->blocks / s->desc.heads;
        const uint8_t *wanted = s->wanted + row * s->tiles;
        int64_t begin, end, from = 0;
        for (int64_t v = 0; v < s->tiles; v++) {
            assert_int_equal(fga_mask_keeps(mask, b, h, u, v), wanted[v]);
        }
        for (; fga_mask_next_run(mask, b, h, u, from, &begin, &end); from = end) {
            assert_true(begin < end && end <= s->tiles && begin >= from);
            for (int64_t v = from; v < end; v++) {
                assert_int_equal(wanted[v], v >= begin);
            }
            assert_true(end == s->tiles || !wanted[end]);
            if (end - begin > 1) { /* asked from within: the rest of it */
                int64_t middle = begin + (end - begin) / 2, start, stop;
                assert_true(fga_mask_next_run(mask, b, h, u, middle, &start, &stop));
                assert_true(start == middle && stop == end);
            }
        }
        for (; from < s->tiles; from++) {
            assert_int_equal(wanted[from], 0);
        }
        assert_false(fga_mask_keeps(mask, b, h, u, -1));
        assert_false(fga_mask_keeps(mask, b, h, u, s->tiles));
        assert_false(fga_mask_keeps(mask, b, h, s->blocks, 0));
    }
}

static void check_mask(const sample *s, const fga_mask *mask)
{
    assert_int_equal(fga_mask_blocks(mask), s->blocks);
    assert_int_equal(fga_mask_tiles(mask), s->tiles);
    check_rows(s, mask);
    assert_true(fabs(fga_mask_density(mask) - s->density) < 1e-12);
    fga_mask_desc got = fga_mask_describe(mask);
    assert_memory_equal(&got, &s->desc, sizeof got);
}

static bool ask(void *user, int64_t b, int64_t h, int64_t u, int64_t v)
{
    const sample *s = user;
    return s->asked[((b * s->desc.heads + h) * s->blocks + u) * s->tiles + v] != 0;
}

static fga_mask *build_from_lists(fga_context *ctx, const sample *s)
{
    int64_t *offsets = calloc((size_t)s->rows + 1, sizeof *offsets), count = 3;
    int32_t *tiles = calloc((size_t)(s->rows * s->tiles) + 4, sizeof *tiles);
    offsets[0] = count; /* lists need not begin at 0 */
    for (int64_t row = 0; row < s->rows; row++) {
        for (int64_t v = s->tiles - 1; v >= 0; v--) { /* nor rise */
            if (s->asked[row * s->tiles + v]) {
                tiles[count++] = (int32_t)v;
            }
        }
        offsets[row + 1] = count;
    }
    fga_mask *mask;
    assert_int_equal(fga_mask_from_lists(ctx, &s->desc, offsets, tiles, &mask), FGA_OK);
    free(offsets);
    free(tiles);
    return mask;
}

static void *save(fga_context *ctx, const fga_mask *mask, size_t *bytes)
{
    *bytes = 0;
    assert_int_equal(fga_mask_save(ctx, mask, NULL, bytes), FGA_OK);
    char *buffer = malloc(*bytes);
    size_t short_by_one = *bytes - 1;
    assert_int_equal(fga_mask_save(ctx, mask, buffer, &short_by_one), FGA_ERR_ARGUMENT);
    assert_int_equal(short_by_one, *bytes);
    assert_int_equal(fga_mask_save(ctx, mask, buffer, bytes), FGA_OK);
    return buffer;
}

static void check_bytes(fga_context *ctx, const sample *s, const fga_mask *mask)
{
    size_t bytes, again_bytes;
    void *buffer = save(ctx, mask, &bytes);
    fga_mask *loaded;
    assert_int_equal(fga_mask_load(ctx, buffer, bytes, &loaded), FGA_OK);
    assert_int_equal(fga_mask_storage_kind(loaded), fga_mask_storage_kind(mask));
    assert_int_equal(fga_mask_bytes(loaded), fga_mask_bytes(mask));
    check_mask(s, loaded);
    void *again = save(ctx, loaded, &again_bytes);
    assert_int_equal(bytes, again_bytes);
    assert_memory_equal(buffer, again, bytes);
    fga_mask_release(&loaded);
    free(buffer);
    free(again);
}

static void all_builders_storages_and_bytes_agree(void **state)
{
    (void)state;
    fga_context *ctx = naive_context(2, NULL);
    naive_random random = {1};
    int storages[2] = {0};
    for (int round = 0; round < 90; round++) {
        sample s = make_sample(&random, 150, round % 3 == 0);
        fga_mask *from_bool, *from_function, *from_lists = build_from_lists(ctx, &s);
        assert_int_equal(fga_mask_from_bool(ctx, &s.desc, s.asked, &from_bool), FGA_OK);
        assert_int_equal(fga_mask_from_function(ctx, &s.desc, ask, &s, &from_function), FGA_OK);
        check_mask(&s, from_bool);
        check_mask(&s, from_function);
        check_mask(&s, from_lists);
        check_bytes(ctx, &s, from_bool);
        size_t before = fga_mask_bytes(from_bool);
        assert_int_equal(fga_mask_compress(ctx, from_bool), FGA_OK);
        assert_true(fga_mask_bytes(from_bool) <= before);
        storages[fga_mask_storage_kind(from_bool)]++;
        check_mask(&s, from_bool);
        check_bytes(ctx, &s, from_bool);
        fga_mask_release(&from_bool);
        fga_mask_release(&from_function);
        fga_mask_release(&from_lists);
        free_sample(&s);
    }
    assert_true(storages[FGA_MASK_BITMAP] > 10 && storages[FGA_MASK_RUNS] > 10);
    fga_context_destroy(&ctx);
}

/* Every byte and many lengths: damage is refused, never read past. */
static void damaged_bytes_are_refused(void **state)
{
    (void)state;
    fga_context *ctx = naive_context(1, NULL);
    naive_random random = {2};
    for (int round = 0; round < 20; round++) {
        sample s = make_sample(&random, 150, round % 3 == 0);
        fga_mask *mask, *loaded;
        assert_int_equal(fga_mask_from_bool(ctx, &s.desc, s.asked, &mask), FGA_OK);
        if (round % 2 == 0) {
            assert_int_equal(fga_mask_compress(ctx, mask), FGA_OK);
        }
        size_t bytes;
        uint8_t *buffer = save(ctx, mask, &bytes);
        for (int i = 0; i < 300; i++) {
            size_t at = (size_t)naive_between(&random, 0, (int64_t)bytes - 1);
            uint8_t flip = (uint8_t)naive_between(&random, 1, 255);
            buffer[at] ^= flip;
            assert_int_equal(fga_mask_load(ctx, buffer, bytes, &loaded), FGA_ERR_DATA);
            assert_null(loaded);
            buffer[at] ^= flip;
            size_t cut = (size_t)naive_between(&random, 0, (int64_t)bytes - 1);
            uint8_t *shorter = malloc(cut + 1); /* its own allocation, so that a sanitizer sees the end */
            memcpy(shorter, buffer, cut);
            assert_int_equal(fga_mask_load(ctx, shorter, cut, &loaded), FGA_ERR_DATA);
            free(shorter);
        }
        fga_mask_release(&mask);
        free(buffer);
        free_sample(&s);
    }
    fga_context_destroy(&ctx);
}

static void write_checksum(uint8_t *buffer, size_t bytes)
{
    uint64_t hash = 0xcbf29ce484222325u;
    for (size_t i = 16; i < bytes; i++) {
        hash = (hash ^ buffer[i]) * 0x100000001b3u;
    }
    for (int i = 0; i < 8; i++) {
        buffer[8 + i] = (uint8_t)(hash >> (8 * i));
    }
}

/* A mask over no keys is one too; in a file its rows are not free of charge, so that a short one promises few. */
static void masks_without_keys(void **state)
{
    (void)state;
    fga_context *ctx = naive_context(1, NULL);
    fga_mask_desc d = fga_mask_desc_default();
    d.batch = 1, d.heads = 2, d.block_m = 16, d.tile_n = 1;
    d.query = fga_sequence_video(1000);
    d.key = fga_sequence_video(0);
    static const uint8_t nothing[1];
    fga_mask *mask, *loaded;
    assert_int_equal(fga_mask_from_bool(ctx, &d, nothing, &mask), FGA_OK);
    size_t bytes;
    void *buffer = save(ctx, mask, &bytes);
    assert_true(bytes >= 2 * 63 * 8);
    assert_int_equal(fga_mask_load(ctx, buffer, bytes, &loaded), FGA_OK);
    assert_true(fga_mask_blocks(loaded) == 63 && fga_mask_tiles(loaded) == 0 && fga_mask_density(loaded) == 0);
    assert_false(fga_mask_keeps(loaded, 0, 0, 0, 0));
    fga_mask_release(&loaded);
    fga_mask_release(&mask);
    free(buffer);
    fga_context_destroy(&ctx);
}

/* Hostile input has a right checksum: whatever loads is a consistent mask that saves to the same bytes. */
static void hostile_bytes_with_a_right_checksum(void **state)
{
    (void)state;
    fga_context *ctx = naive_context(1, NULL);
    naive_random random = {3};
    int accepted = 0, refused = 0;
    for (int round = 0; round < 2000; round++) {
        sample s = make_sample(&random, 60, false);
        fga_mask *mask, *loaded;
        assert_int_equal(fga_mask_from_bool(ctx, &s.desc, s.asked, &mask), FGA_OK);
        if (round % 2 == 0) {
            assert_int_equal(fga_mask_compress(ctx, mask), FGA_OK);
        }
        size_t bytes;
        uint8_t *buffer = save(ctx, mask, &bytes);
        int64_t changes = naive_between(&random, 1, 3);
        for (int64_t i = 0; i < changes; i++) {
            bool header = bytes == 152 || naive_between(&random, 0, 2) == 0;
            size_t at = (size_t)naive_between(&random, header ? 16 : 152, header ? 151 : (int64_t)bytes - 1);
            if (!header && naive_between(&random, 0, 1) == 0) {
                buffer[at / 8 * 8] ^= 1; /* the first tile of a word, or of a run */
            } else {
                buffer[at] = naive_between(&random, 0, 3) == 0 ? 255 : (uint8_t)naive_between(&random, 0, 255);
            }
        }
        write_checksum(buffer, bytes);
        if (fga_mask_load(ctx, buffer, bytes, &loaded) == FGA_OK) {
            size_t again_bytes;
            void *again = save(ctx, loaded, &again_bytes);
            assert_int_equal(again_bytes, bytes);
            assert_memory_equal(again, buffer, bytes);
            double density = fga_mask_density(loaded);
            assert_true(density >= 0 && density <= 1);
            free(again);
            fga_mask_release(&loaded);
            accepted++;
        } else {
            refused++;
        }
        fga_mask_release(&mask);
        free(buffer);
        free_sample(&s);
    }
    assert_true(accepted > 50 && refused > 1000);
    fga_context_destroy(&ctx);
}

static void references_are_counted(void **state)
{
    (void)state;
    fga_context *ctx = naive_context(1, NULL);
    fga_mask_desc desc = fga_mask_desc_default();
    desc.query = desc.key = fga_sequence_video(300);
    const uint8_t keep[9] = {1, 0, 0, 0, 1, 0, 0, 0, 1};
    fga_mask *mask, *second;
    assert_int_equal(fga_mask_from_bool(ctx, &desc, keep, &mask), FGA_OK);
    second = fga_mask_retain(mask);
    fga_mask_release(&mask);
    assert_null(mask);
    fga_context_destroy(&ctx);                       /* a mask outlives its context */
    assert_true(fga_mask_keeps(second, 5, 7, 1, 1)); /* broadcast over batch and heads */
    assert_true(fabs(fga_mask_density(second) - (2 * 128. * 128 + 44 * 44) / (300. * 300)) < 1e-12);
    fga_mask_release(&second);
    fga_mask_release(&second);
    fga_mask_release(NULL);
}

static void bad_arguments_are_named(void **state)
{
    (void)state;
    fga_context *ctx = naive_context(1, NULL);
    fga_mask_desc good = fga_mask_desc_default(), bad;
    good.query = good.key = fga_sequence_video(300);
    const uint8_t keep[9] = {0};
    const int64_t offsets[4] = {0, 1, 1, 1}, falling[4] = {0, 1000000, 1, 1};
    const int32_t tiles[2] = {3, 0};
    fga_mask *mask;
    bad = good, bad.block_m = 48;
    assert_int_equal(fga_mask_from_bool(ctx, &bad, keep, &mask), FGA_ERR_ARGUMENT);
    assert_string_equal(fga_last_error(ctx), "block_m is 48, wanted 16, 32, 64, 128 or 192");
    bad = good, bad.tile_n = 3;
    assert_int_equal(fga_mask_from_bool(ctx, &bad, keep, &mask), FGA_ERR_ARGUMENT);
    assert_string_equal(fga_last_error(ctx), "tile_n is 3, wanted 1, 2, 4, 8, 16, 32, 64 or 128");
    bad = good, bad.key.video_valid = 301;
    assert_int_equal(fga_mask_from_bool(ctx, &bad, keep, &mask), FGA_ERR_ARGUMENT);
    assert_string_equal(fga_last_error(ctx), "mask key.video_valid is 301, wanted 0 ... 300");
    bad = good, bad.size = 8;
    assert_int_equal(fga_mask_from_bool(ctx, &bad, keep, &mask), FGA_ERR_ARGUMENT);
    assert_non_null(strstr(fga_last_error(ctx), "fga_mask_desc.size is 8"));
    bad = good, bad.heads = 0;
    assert_int_equal(fga_mask_from_bool(ctx, &bad, keep, &mask), FGA_ERR_ARGUMENT);
    bad = good, bad.heads = bad.batch = 65536, bad.query = bad.key = fga_sequence_video(1 << 30), bad.tile_n = 1;
    assert_int_equal(fga_mask_from_bool(ctx, &bad, keep, &mask), FGA_ERR_ARGUMENT);
    assert_non_null(strstr(fga_last_error(ctx), "too large"));
    assert_int_equal(fga_mask_from_bool(ctx, &good, NULL, &mask), FGA_ERR_ARGUMENT);
    assert_int_equal(fga_mask_from_lists(ctx, &good, offsets, tiles, &mask), FGA_ERR_ARGUMENT);
    assert_string_equal(fga_last_error(ctx), "tiles[0] of row 0 is 3, wanted 0 ... 2");
    assert_int_equal(fga_mask_from_lists(ctx, &good, falling, tiles + 1, &mask), FGA_ERR_ARGUMENT);
    assert_string_equal(fga_last_error(ctx), "offsets[2] is 1, wanted at least 1000000");
    assert_int_equal(fga_mask_from_lists(ctx, &good, offsets, NULL, &mask), FGA_ERR_ARGUMENT);
    assert_string_equal(fga_last_error(ctx), "tiles is NULL");
    assert_null(mask);
    fga_context_destroy(&ctx);
}

static void an_empty_sequence_has_an_empty_mask(void **state)
{
    (void)state;
    fga_context *ctx = naive_context(1, NULL);
    fga_mask_desc desc = fga_mask_desc_default();
    const uint8_t keep[1] = {1};
    fga_mask *mask;
    assert_int_equal(fga_mask_from_bool(ctx, &desc, keep, &mask), FGA_OK);
    assert_int_equal(fga_mask_blocks(mask), 0);
    assert_int_equal(fga_mask_tiles(mask), 0);
    assert_true(fga_mask_density(mask) == 0);
    assert_int_equal(fga_mask_compress(ctx, mask), FGA_OK);
    fga_mask_release(&mask);
    fga_context_destroy(&ctx);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(all_builders_storages_and_bytes_agree),
        cmocka_unit_test(damaged_bytes_are_refused),
        cmocka_unit_test(masks_without_keys),
        cmocka_unit_test(hostile_bytes_with_a_right_checksum),
        cmocka_unit_test(references_are_counted),
        cmocka_unit_test(bad_arguments_are_named),
        cmocka_unit_test(an_empty_sequence_has_an_empty_mask),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
