/* The order in which a device takes blocks: a permutation, costly groups first, blocks with similar lists together. */
#include "attn/mask.h"
#include "naive.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

typedef struct mould {
    int kinds;   /* lists that blocks are drawn from */
    double flip; /* chance of a tile to be kept or not at random instead */
    uint64_t seed;
} mould;

static uint64_t mixed(uint64_t x)
{
    x ^= x >> 30;
    x *= 0xbf58476d1ce4e5b9u;
    x ^= x >> 27;
    x *= 0x94d049bb133111ebu;
    return x ^ (x >> 31);
}

static int kind_of(const mould *m, int64_t head, int64_t block)
{
    return (int)(mixed(m->seed + (uint64_t)(head * 1000003 + block)) % (uint64_t)m->kinds);
}

static bool keeps(void *user, int64_t batch, int64_t head, int64_t block, int64_t tile)
{
    const mould *m = user;
    (void)batch;
    uint64_t own = mixed(m->seed ^ mixed((uint64_t)(head * 7919 + block) << 20 | (uint64_t)tile));
    if ((double)(own >> 11) * 0x1p-53 < m->flip) {
        return own & 1;
    }
    return mixed((uint64_t)kind_of(m, head, block) << 32 | (uint64_t)tile) % 4 == 0;
}

static fga_mask *make_mask(fga_context *ctx, mould *m, int block_m, int64_t blocks, int64_t tiles)
{
    fga_mask_desc d = fga_mask_desc_default();
    fga_mask *mask = NULL;
    d.heads = 2;
    d.block_m = block_m;
    d.tile_n = 1;
    d.query = fga_sequence_video(blocks * block_m - 3);
    d.key = fga_sequence_video(tiles);
    assert_int_equal(fga_mask_from_function(ctx, &d, keeps, m, &mask), FGA_OK);
    return mask;
}

static int64_t keys_at(const fga_mask *mask, const int32_t *order, int64_t row, int64_t place, int at_once)
{
    int64_t keys = 0;
    for (int i = 0; i < at_once; i++) {
        keys += mask->row_keys[row + order[row + place + i]];
    }
    return keys;
}

/* Every block once; whole groups by falling number of keys. */
static void check_order(const fga_mask *mask, const int32_t *order, int at_once)
{
    uint8_t *seen = calloc((size_t)mask->blocks, 1);
    for (int64_t row = 0; row < mask->rows; row += mask->blocks) {
        memset(seen, 0, (size_t)mask->blocks);
        for (int64_t u = 0; u < mask->blocks; u++) {
            assert_in_range(order[row + u], 0, mask->blocks - 1);
            assert_int_equal(seen[order[row + u]]++, 0);
        }
        for (int64_t u = at_once; u + at_once <= mask->blocks; u += at_once) {
            assert_true(keys_at(mask, order, row, u, at_once) <= keys_at(mask, order, row, u - at_once, at_once));
        }
    }
    free(seen);
}

/* How many blocks have the kind of the first of their group. */
static int64_t count_alike(const fga_mask *mask, const mould *m, const int32_t *order, int at_once)
{
    int64_t alike = 0;
    for (int64_t row = 0; row < mask->rows; row++) {
        int64_t head = row / mask->blocks, at = row % mask->blocks, first = row - at % at_once;
        alike += kind_of(m, head, order[row]) == kind_of(m, head, order[first]);
    }
    return alike;
}

static void blocks_are_ordered(void **state)
{
    (void)state;
    static const int sizes[] = {16, 32, 64, 128, 192};
    static const int64_t shapes[][2] = {{1, 1}, {7, 100}, {8, 3000}, {530, 65}, {1037, 700}, {64, 20}};
    fga_context *ctx;
    assert_int_equal(fga_context_create(NULL, &ctx), FGA_OK);
    for (size_t i = 0; i < sizeof shapes / sizeof shapes[0]; i++) {
        for (size_t j = 0; j < sizeof sizes / sizeof sizes[0]; j++) {
            mould m = {.kinds = 5, .flip = 0.1, .seed = 10 * i + j};
            int at_once = sizes[j] == 16 ? 8 : sizes[j] == 32 ? 4 : 1;
            fga_mask *mask = make_mask(ctx, &m, sizes[j], shapes[i][0], shapes[i][1]);
            int32_t *order = calloc((size_t)mask->rows, sizeof *order);
            int32_t *again = calloc((size_t)mask->rows, sizeof *again);
            assert_int_equal(fga_mask_order_blocks(ctx, mask, order), FGA_OK);
            check_order(mask, order, at_once);
            if (shapes[i][0] > 500 && shapes[i][1] > 500 && at_once > 1) { /* five kinds: all but the stragglers */
                assert_true(count_alike(mask, &m, order, at_once) > mask->rows * 9 / 10);
            }
            assert_int_equal(fga_mask_compress(ctx, mask), FGA_OK); /* runs have the same bits */
            assert_int_equal(fga_mask_order_blocks(ctx, mask, again), FGA_OK);
            assert_memory_equal(order, again, (size_t)mask->rows * sizeof *order);
            free(order), free(again);
            fga_mask_release(&mask);
        }
    }
    fga_context_destroy(&ctx);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(blocks_are_ordered)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
