/* bf16_emulator.c - AVX512_BF16 by SIGILL: decode the EVEX instruction at fault, compute it on the registers saved in
 * the signal frame, step over it. Semantics after the Intel SDM: VDPBF16PS is two fused multiply-adds, odd elements
 * first, each rounded to nearest even, denormals zero going in and coming out; conversions round to nearest even,
 * denormals become zero and NaN quiet. MXCSR is neither read nor written. */
#define _GNU_SOURCE
#include "bf16_emulator.h"

#if defined(__x86_64__)

#include "base/cpu.h"
#include "base/half.h"

#include <cpuid.h>
#include <math.h>
#include <signal.h>
#include <stdlib.h>
#include <ucontext.h>

typedef union vector {
    uint32_t word[16];
    uint16_t half[32];
    unsigned char byte[64];
} vector;

typedef struct instruction {
    enum { DOT, CONVERT_TWO, CONVERT_ONE } kind;
    int destination, first; /* vector registers; first = EVEX.vvvv */
    int bytes;              /* 16, 32 or 64 */
    int mask;               /* 0: none */
    bool zeroing;
    vector second; /* r/m, broadcast done */
    int length;
} instruction;

enum { YMM_HIGH = 2, OPMASK = 5, ZMM_HIGH = 6, ZMM_16_31 = 7, XSAVE_HEADER = 512 };

static unsigned component_offset[8];
static long emulated;

/* ---- the register file in the signal frame ---------------------------------------------------------------------- */

static unsigned char *component(ucontext_t *u, int which)
{
    return (unsigned char *)u->uc_mcontext.fpregs + component_offset[which];
}

static uint64_t live_components(ucontext_t *u)
{
    uint64_t live;
    memcpy(&live, (unsigned char *)u->uc_mcontext.fpregs + XSAVE_HEADER, sizeof live);
    return live;
}

typedef struct register_part {
    unsigned char *place;
    int which, at, bytes;
} register_part;

/* Copies between a vector register and v: 16 legacy bytes, 16 of AVX, 32 of AVX-512; or 64 in one place. */
static void move_register(ucontext_t *u, int number, vector *v, bool store)
{
    unsigned char *xmm = (unsigned char *)u->uc_mcontext.fpregs + 160;
    register_part part[3];
    int parts = 0;
    if (number >= 16) {
        part[parts++] = (register_part){component(u, ZMM_16_31) + 64 * (number - 16), ZMM_16_31, 0, 64};
    } else {
        part[parts++] = (register_part){xmm + 16 * number, 1, 0, 16};
        part[parts++] = (register_part){component(u, YMM_HIGH) + 16 * number, YMM_HIGH, 16, 16};
        part[parts++] = (register_part){component(u, ZMM_HIGH) + 32 * number, ZMM_HIGH, 32, 32};
    }
    uint64_t live = live_components(u);
    for (int i = 0; i < parts; i++) {
        bool initial = (live >> part[i].which & 1) == 0; /* all registers of the component are zero */
        if (store) {
            memcpy(part[i].place, v->byte + part[i].at, (size_t)part[i].bytes);
            live |= (uint64_t)1 << part[i].which;
        } else if (initial) {
            memset(v->byte + part[i].at, 0, (size_t)part[i].bytes);
        } else {
            memcpy(v->byte + part[i].at, part[i].place, (size_t)part[i].bytes);
        }
    }
    if (store) {
        memcpy((unsigned char *)u->uc_mcontext.fpregs + XSAVE_HEADER, &live, sizeof live);
    }
}

static uint64_t read_mask(ucontext_t *u, int number)
{
    uint64_t mask = 0;
    if (number == 0) {
        return UINT64_MAX;
    }
    if ((live_components(u) >> OPMASK & 1) != 0) {
        memcpy(&mask, component(u, OPMASK) + 8 * number, sizeof mask);
    }
    return mask;
}

static uint64_t read_general(const ucontext_t *u, int number)
{
    static const int place[16] = {REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP, REG_RSI, REG_RDI,
                                  REG_R8,  REG_R9,  REG_R10, REG_R11, REG_R12, REG_R13, REG_R14, REG_R15};
    return (uint64_t)u->uc_mcontext.gregs[place[number]];
}

/* ---- decoding --------------------------------------------------------------------------------------------------- */

static bool decode_kind(const unsigned char *code, instruction *in)
{
    int prefix = code[2] & 3, opcode = code[4];
    if (code[0] != 0x62 || (code[1] & 7) != 2 || (code[2] & 0x80) != 0) {
        return false;
    }
    if (opcode == 0x52 && prefix == 2) {
        in->kind = DOT;
    } else if (opcode == 0x72 && prefix == 3) {
        in->kind = CONVERT_TWO;
    } else if (opcode == 0x72 && prefix == 2) {
        in->kind = CONVERT_ONE;
    } else {
        return false;
    }
    return true;
}

/* The address of the memory operand; adds SIB and displacement to in->length. disp8 counts in units of the operand. */
static uint64_t address(const ucontext_t *u, const unsigned char *code, instruction *in, int unit)
{
    int mod = code[5] >> 6, base = code[5] & 7, high_base = (~code[1] & 0x20) >> 2, high_index = (~code[1] & 0x40) >> 3;
    uint64_t sum = 0;
    bool no_base = false, next_ip = false;
    if (base == 4) {
        int sib = code[in->length++], index = ((sib >> 3) & 7) | high_index;
        base = sib & 7;
        if (index != 4) {
            sum += read_general(u, index) << (sib >> 6);
        }
        no_base = base == 5 && mod == 0;
    } else {
        next_ip = base == 5 && mod == 0;
    }
    if (!no_base && !next_ip) {
        sum += read_general(u, base | high_base);
    }
    if (mod == 1) {
        sum += (uint64_t)((int64_t)(signed char)code[in->length] * unit);
        in->length += 1;
    } else if (mod == 2 || no_base || next_ip) {
        int32_t displacement;
        memcpy(&displacement, code + in->length, sizeof displacement);
        sum += (uint64_t)(int64_t)displacement;
        in->length += 4;
    }
    if (next_ip) {
        sum += (uint64_t)u->uc_mcontext.gregs[REG_RIP] + (uint64_t)in->length;
    }
    return sum;
}

static bool decode(ucontext_t *u, instruction *in)
{
    const unsigned char *code = (const unsigned char *)u->uc_mcontext.gregs[REG_RIP];
    *in = (instruction){.length = 6};
    if (!decode_kind(code, in)) {
        return false;
    }
    int reg = (code[5] >> 3) & 7, length_field = (code[3] >> 5) & 3;
    bool memory = code[5] >> 6 != 3, broadcast = (code[3] & 0x10) != 0;
    if (length_field == 3 || (broadcast && !memory)) {
        return false;
    }
    in->bytes = 16 << length_field;
    in->destination = reg | (~code[1] & 0x80) >> 4 | (~code[1] & 0x10);
    in->first = ((~code[2] >> 3) & 15) | (~code[3] & 8) << 1;
    in->mask = code[3] & 7;
    in->zeroing = (code[3] & 0x80) != 0;
    if (!memory) {
        move_register(u, (code[5] & 7) | (~code[1] & 0x20) >> 2 | (~code[1] & 0x40) >> 2, &in->second, false);
        return true;
    }
    uint64_t place = address(u, code, in, broadcast ? 4 : in->bytes);
    for (int i = 0; i < in->bytes / 4; i++) {
        memcpy(&in->second.word[i], (const void *)(place + (broadcast ? 0 : 4 * (uint64_t)i)), 4);
    }
    return true;
}

/* ---- arithmetic ------------------------------------------------------------------------------------------------- */

static float without_denormal(float x)
{
    return fpclassify(x) == FP_SUBNORMAL ? copysignf(0.0f, x) : x;
}

static float multiply_add(float sum, uint16_t a, uint16_t b)
{
    float x = without_denormal(fga_bf16_to_f32(a)), y = without_denormal(fga_bf16_to_f32(b));
    return without_denormal(fmaf(x, y, without_denormal(sum)));
}

static uint16_t to_bf16(uint32_t word)
{
    return fga_f32_to_bf16(without_denormal(fga_bits_f32(word)));
}

static uint32_t dot(uint32_t sum, uint32_t a, uint32_t b)
{
    float x = multiply_add(fga_bits_f32(sum), (uint16_t)(a >> 16), (uint16_t)(b >> 16));
    return fga_f32_bits(multiply_add(x, (uint16_t)a, (uint16_t)b));
}

static void execute(ucontext_t *u, const instruction *in)
{
    vector old, first, result = {{0}};
    uint64_t mask = read_mask(u, in->mask);
    int words = in->bytes / 4, halves = in->kind == CONVERT_TWO ? 2 * words : words;
    move_register(u, in->destination, &old, false);
    move_register(u, in->first, &first, false);
    for (int i = 0; in->kind == DOT && i < words; i++) {
        bool taken = (mask >> i & 1) != 0;
        result.word[i] = taken ? dot(old.word[i], first.word[i], in->second.word[i]) : in->zeroing ? 0 : old.word[i];
    }
    for (int i = 0; in->kind != DOT && i < halves; i++) {
        bool taken = (mask >> i & 1) != 0;
        uint32_t source = i < words ? in->second.word[i] : first.word[i - words];
        result.half[i] = taken ? to_bf16(source) : in->zeroing ? 0 : old.half[i];
    }
    move_register(u, in->destination, &result, true); /* what lies past the vector's length is cleared */
}

static void on_illegal_instruction(int number, siginfo_t *info, void *context)
{
    (void)info;
    ucontext_t *u = context;
    instruction in;
    if (!decode(u, &in)) {
        signal(number, SIG_DFL); /* not ours: let it fault again */
        return;
    }
    execute(u, &in);
    u->uc_mcontext.gregs[REG_RIP] += in.length;
    emulated++;
}

bool bf16_emulator_start(void)
{
    if ((fga_cpu_features() & FGA_CPU_AVX512) == 0) {
        return false;
    }
    for (unsigned i = YMM_HIGH; i <= ZMM_16_31; i++) {
        unsigned size, offset, flags, unused;
        __cpuid_count(0xd, i, size, offset, flags, unused);
        component_offset[i] = offset;
    }
    struct sigaction action = {.sa_sigaction = on_illegal_instruction, .sa_flags = SA_SIGINFO};
    sigemptyset(&action.sa_mask);
    return sigaction(SIGILL, &action, NULL) == 0;
}

long bf16_emulator_count(void)
{
    return emulated;
}

#else

bool bf16_emulator_start(void)
{
    return false;
}

long bf16_emulator_count(void)
{
    return 0;
}

#endif
