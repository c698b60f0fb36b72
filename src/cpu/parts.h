/* parts.h - how lengths are cut into parts, and what every kernel file uses. */
#ifndef FGA_CPU_PARTS_H
#define FGA_CPU_PARTS_H

/* Logits are kept in log2 units, for exp2. */
#define LOG2_E 1.44269504088896340736f

#define ALWAYS_INLINE static inline __attribute__((always_inline))

/* Of the sums over a group. */
typedef enum summed { SUM_OF_KEYS, SUM_OF_VALUES } summed;

/* `total` cut into as few parts of at most `most` as will do, as equal as they can be, the longer ones first. */
typedef struct split {
    int parts, base, longer;
} split;

ALWAYS_INLINE split split_evenly(int total, int most)
{
    int parts = (total + most - 1) / most, divisor = parts > 0 ? parts : 1;
    return (split){parts, total / divisor, total % divisor};
}

ALWAYS_INLINE int split_begin(split s, int part)
{
    return part * s.base + (part < s.longer ? part : s.longer);
}

ALWAYS_INLINE int part_count(int total, int most)
{
    return (total + most - 1) / most;
}

#endif
