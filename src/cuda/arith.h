/* arith.h - the index arithmetic of the kernels, in plain functions that compile as C too, so that it is tested without
 * a device. */
#ifndef FGA_CUDA_ARITH_H
#define FGA_CUDA_ARITH_H

#include <stdint.h>

#ifdef __CUDACC__
#define FGA_ARITH static __host__ __device__ __forceinline__
#else
#define FGA_ARITH static inline
#endif

/* ---- key lists: 1,024 keys at a time, 32 per lane of a warp --------------------------------------------------------
 */

enum { FGA_SCAN_KEYS = 1024, FGA_RING_KEYS = 2048 };

/* Entries of a packed tile. The two highest bits say what an entry is. */
#define FGA_ENTRY_KIND 0xC0000000u
#define FGA_ENTRY_KEY 0x00000000u  /* a key of the sequence */
#define FGA_ENTRY_DEAD 0x40000000u /* a key with bias -inf: listed, never read */
#define FGA_ENTRY_MEAN 0x80000000u /* a group of which nothing is kept */
#define FGA_ENTRY_REST 0xC0000000u /* what a group's kept keys leave, in a slot of the thread block's own */
#define FGA_ENTRY_NONE 0xFFFFFFFFu /* fills the last tile up */

/* Bit i: whether first + i lies in [begin, end). */
FGA_ARITH uint32_t fga_interval_bits(int64_t begin, int64_t end, int64_t first)
{
    int64_t low = begin - first, high = end - first;
    low = low < 0 ? 0 : low > 32 ? 32 : low;
    high = high < 0 ? 0 : high > 32 ? 32 : high;
    return low < high ? (uint32_t)(((uint64_t)1 << high) - ((uint64_t)1 << low)) : 0;
}

/* Bit i becomes bits i << shift ... ((i + 1) << shift) - 1; 32 >> shift bits go in, shift at most 5. */
FGA_ARITH uint32_t fga_spread_bits(uint32_t bits, int shift)
{
    if (shift == 0) {
        return bits;
    }
    uint32_t apart = 0;
    for (int i = 0; i < 32 >> shift; i++) {
        apart |= (bits >> i & 1) << (i << shift);
    }
    return shift == 5 ? 0 - apart : apart * ((1u << (1 << shift)) - 1);
}

/* Of keys first ... first + 31, first a multiple of 32: those whose tile of 1 << shift keys has its bit set in `word`,
 * which holds the bit of the first of them. */
FGA_ARITH uint32_t fga_word_bits(uint32_t word, int64_t first, int shift)
{
    uint32_t bits = word >> (first >> shift & 31);
    return shift <= 5 ? fga_spread_bits(bits, shift) : 0 - (bits & 1);
}

/* The same from the row's bits as 32-bit words. */
FGA_ARITH uint32_t fga_key_bits(const uint32_t *words, int64_t first, int shift)
{
    return fga_word_bits(words[first >> shift >> 5], first, shift);
}

/* ---- order of work --------------------------------------------------------------------------------------------------
 */

/* The item that thread block `block` of `blocks` takes in its round-th turn: there and back again, so that no thread
 * block gets the costlier item of every round. May be past the last item. */
FGA_ARITH int fga_turn(int round, int block, int blocks)
{
    return round * blocks + (round & 1 ? blocks - 1 - block : block);
}

/* ---- shared memory that the tensor cores of sm_90 read
 * ---------------------------------------------------------------- */

/* Byte offset of 16-byte chunk `chunk` (8 channels) of row `row` in a tile of `rows` rows: columns of 64 channels, 128
 * bytes a row, chunks exclusive-ored with the row within each 8 rows. */
FGA_ARITH uint32_t fga_swizzled(uint32_t rows, uint32_t row, uint32_t chunk)
{
    return (chunk >> 3) * rows * 128 + row * 128 + ((chunk ^ row) & 7) * 16;
}

/* The same in columns of 32 channels, 64 bytes a row: chunks exclusive-ored with half the row's number modulo 8. */
FGA_ARITH uint32_t fga_swizzled_64(uint32_t rows, uint32_t row, uint32_t chunk)
{
    return (chunk >> 2) * rows * 64 + row * 64 + ((chunk ^ row >> 1) & 3) * 16;
}

/* The 64-bit matrix descriptor for 128-byte swizzle. address: of shared memory, a multiple of 16 inside a 1,024-byte
 * aligned tile; leading: bytes between columns of 64 channels (read for transposed operands only); 8 rows are 1,024
 * bytes apart. */
FGA_ARITH uint64_t fga_matrix_descriptor(uint32_t address, uint32_t leading)
{
    const uint64_t swizzle_128 = 1, stride = 1024;
    return (uint64_t)((address & 0x3FFFF) >> 4) | (uint64_t)((leading & 0x3FFFF) >> 4) << 16 | (stride >> 4) << 32 |
           swizzle_128 << 62;
}

/* For 64-byte swizzle: columns of 32 channels, 8 rows are 512 bytes apart. */
FGA_ARITH uint64_t fga_matrix_descriptor_64(uint32_t address, uint32_t leading)
{
    const uint64_t swizzle_64 = 2, stride = 512;
    return (uint64_t)((address & 0x3FFFF) >> 4) | (uint64_t)((leading & 0x3FFFF) >> 4) << 16 | (stride >> 4) << 32 |
           swizzle_64 << 62;
}

#endif
