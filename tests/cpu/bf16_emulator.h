/* bf16_emulator.h - runs AVX512_BF16 machine code on processors that lack it, one trap at a time. */
#ifndef FGA_TESTS_BF16_EMULATOR_H
#define FGA_TESTS_BF16_EMULATOR_H

#include <stdbool.h>

/* Takes over SIGILL for the rest of the program. False when this machine has no AVX-512 either. */
bool bf16_emulator_start(void);
/* Instructions emulated so far. */
long bf16_emulator_count(void);

#endif
