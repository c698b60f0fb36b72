/* The index arithmetic of the CUDA kernels, against its definitions written out bit by bit. Needs no device. */
#include "cuda/arith.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static uint64_t random_state = 7;

static uint32_t next_random(void)
{
    random_state = random_state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(random_state >> 33);
}

static void intervals(void **state)
{
    (void)state;
    for (int n = 0; n < 20000; n++) {
        int64_t first = next_random() % 200, begin = (int64_t)(next_random() % 300) - 20;
        int64_t end = begin + (int64_t)(next_random() % 120) - 10;
        uint32_t bits = fga_interval_bits(begin, end, first);
        for (int i = 0; i < 32; i++) {
            assert_int_equal(bits >> i & 1, first + i >= begin && first + i < end);
        }
    }
    assert_int_equal(fga_interval_bits(0, (int64_t)1 << 37, 1 << 30), 0xFFFFFFFFu);
}

/* Key k is kept when bit k / N of the row is set, for every N. */
static void keys_of_tiles(void **state)
{
    (void)state;
    enum { WORDS = 64 };
    uint32_t words[WORDS];
    for (int shift = 0; shift <= 7; shift++) {
        for (int i = 0; i < WORDS; i++) {
            words[i] = next_random() ^ next_random() << 9;
        }
        for (int64_t first = 0; first + 32 <= (int64_t)WORDS * 32 && first < 8192; first += 32) {
            uint32_t bits = fga_key_bits(words, first, shift);
            for (int i = 0; i < 32; i++) {
                int64_t tile = (first + i) / (1 << shift);
                assert_int_equal(bits >> i & 1, words[tile / 32] >> (tile % 32) & 1);
            }
        }
    }
}

/* Every item is somebody's turn exactly once, and no thread block has more than one item more than another. */
static void turns(void **state)
{
    (void)state;
    for (int blocks = 1; blocks < 40; blocks++) {
        for (int items = 1; items < 200; items += 7) {
            int taken[200] = {0};
            for (int block = 0; block < blocks; block++) {
                int mine = 0;
                for (int round = 0; round * blocks < items; round++) {
                    int n = fga_turn(round, block, blocks);
                    if (n < items) {
                        taken[n]++;
                        mine++;
                    }
                }
                assert_in_range(mine, items / blocks, items / blocks + 1);
            }
            for (int i = 0; i < items; i++) {
                assert_int_equal(taken[i], 1);
            }
        }
    }
}

/* With items that get cheaper one by one, no thread block's sum is far above the mean. */
static void turns_are_fair(void **state)
{
    (void)state;
    enum { BLOCKS = 132, ITEMS = 591 * 4 };
    long total = 0, most = 0;
    for (int block = 0; block < BLOCKS; block++) {
        long mine = 0;
        for (int round = 0; round * BLOCKS < ITEMS; round++) {
            int n = fga_turn(round, block, BLOCKS);
            mine += n < ITEMS ? 2 * ITEMS - n : 0;
        }
        total += mine;
        most = mine > most ? mine : most;
    }
    assert_true((double)most * BLOCKS < 1.06 * (double)total);
}

/* 128-byte swizzle: within each 1,024 bytes, bits 4 to 6 of the address are exclusive-ored with bits 7 to 9. */
static void swizzle(void **state)
{
    (void)state;
    static const uint32_t heights[] = {64, 80, 128, 176};
    for (size_t h = 0; h < sizeof heights / sizeof heights[0]; h++) {
        uint32_t rows = heights[h];
        bool *used = calloc(rows * 16, sizeof *used);
        assert_non_null(used);
        for (uint32_t row = 0; row < rows; row++) {
            for (uint32_t chunk = 0; chunk < 16; chunk++) {
                uint32_t plain = chunk / 8 * rows * 128 + row * 128 + chunk % 8 * 16;
                uint32_t wanted = plain ^ (plain >> 7 & 7) << 4, got = fga_swizzled(rows, row, chunk);
                assert_int_equal(got, wanted);
                assert_false(used[got / 16]);
                used[got / 16] = true;
            }
        }
        free(used);
    }
}

/* 64-byte swizzle: within each 512 bytes, bits 4 and 5 of the address are exclusive-ored with bits 7 and 8. */
static void swizzle_64(void **state)
{
    (void)state;
    static const uint32_t heights[] = {64, 80, 96, 128, 160, 208};
    for (size_t h = 0; h < sizeof heights / sizeof heights[0]; h++) {
        uint32_t rows = heights[h];
        bool *used = calloc(rows * 12, sizeof *used);
        assert_non_null(used);
        for (uint32_t row = 0; row < rows; row++) {
            for (uint32_t chunk = 0; chunk < 12; chunk++) {
                uint32_t plain = chunk / 4 * rows * 64 + row * 64 + chunk % 4 * 16;
                uint32_t wanted = plain ^ (plain >> 7 & 3) << 4, got = fga_swizzled_64(rows, row, chunk);
                assert_int_equal(got, wanted);
                assert_false(used[got / 16]);
                used[got / 16] = true;
                assert_int_equal(fga_swizzled_64(rows, row + 8, chunk), got + 512);
            }
        }
        free(used);
    }
}

/* A producing thread's rows are 8 apart or a multiple: its chunk's place within the row must not change. */
static void swizzle_steps(void **state)
{
    (void)state;
    for (uint32_t row = 0; row < 16; row++) {
        for (uint32_t chunk = 0; chunk < 16; chunk++) {
            for (uint32_t i = 0; i < 8; i++) {
                assert_int_equal(fga_swizzled(128, row + 8 * i, chunk), fga_swizzled(128, row, chunk) + i * 1024);
            }
        }
    }
}

/* Fields: address/16 in bits 0-13, leading offset/16 in 16-29, stride offset/16 in 32-45, swizzle (1 = 128 bytes, 2 =
 * 64) in 62-63. Adding bytes/16 to the whole moves the address alone. */
static void descriptors(void **state)
{
    (void)state;
    for (uint32_t address = 1024; address < 230 * 1024; address += 1024 * 7) {
        uint64_t d = fga_matrix_descriptor(address, 176 * 128);
        assert_int_equal(d & 0x3FFF, address / 16);
        assert_int_equal(d >> 16 & 0x3FFF, 176 * 128 / 16);
        assert_int_equal(d >> 32 & 0x3FFF, 64);
        assert_int_equal(d >> 46 & 0xFFFF, 0);
        assert_int_equal(d >> 62, 1);
        assert_true(d + (96 >> 4) == fga_matrix_descriptor(address + 96, 176 * 128));
        uint64_t of_64 = fga_matrix_descriptor_64(address, 208 * 64);
        assert_int_equal(of_64 & 0x3FFF, address / 16);
        assert_int_equal(of_64 >> 16 & 0x3FFF, 208 * 64 / 16);
        assert_int_equal(of_64 >> 32 & 0x3FFF, 32);
        assert_int_equal(of_64 >> 46, 2 << 16);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(intervals),      cmocka_unit_test(keys_of_tiles), cmocka_unit_test(turns),
        cmocka_unit_test(turns_are_fair), cmocka_unit_test(swizzle),       cmocka_unit_test(swizzle_64),
        cmocka_unit_test(swizzle_steps),  cmocka_unit_test(descriptors),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
