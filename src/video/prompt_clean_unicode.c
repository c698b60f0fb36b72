/* Code points: UTF-8, HTML references, canonical composition, widths. */
#include "video/prompt_clean.h"

#include <stdlib.h>
#include <string.h>

typedef struct entity {
    const char *name;
    uint32_t first, second; /* second is 0 for most */
    int bare;
} entity;

typedef struct decomposition {
    uint32_t code, first, second; /* second is 0 for singletons */
} decomposition;

typedef struct combining_range {
    uint32_t first, last;
    int value;
} combining_range;

#include "video/prompt_clean_tables.inc"

#define COUNT(array) (sizeof(array) / sizeof(array)[0])
#define REPLACEMENT 0xfffdu

void fgv_codes_push(fgv_codes *codes, uint32_t code)
{
    if (codes->failed) {
        return;
    }
    if (codes->count == codes->capacity) {
        size_t capacity = codes->capacity > 0 ? codes->capacity * 2 : 64;
        uint32_t *grown = capacity <= SIZE_MAX / sizeof *grown ? realloc(codes->at, capacity * sizeof *grown) : NULL;
        if (grown == NULL) {
            codes->failed = true;
            return;
        }
        codes->at = grown;
        codes->capacity = capacity;
    }
    codes->at[codes->count++] = code;
}

void fgv_codes_free(fgv_codes *codes)
{
    free(codes->at);
    *codes = (fgv_codes){0};
}

size_t fgv_codes_decode(fgv_codes *codes, const unsigned char *text, size_t bytes)
{
    static const uint32_t smallest[] = {0, 0x80, 0x800, 0x10000}; /* by number of continuation bytes */
    size_t i = 0;
    while (i < bytes) {
        unsigned char lead = text[i];
        size_t more = lead < 0x80 ? 0 : lead >> 5 == 6 ? 1 : lead >> 4 == 14 ? 2 : lead >> 3 == 30 ? 3 : 4;
        if (more == 4 || more > bytes - 1 - i) {
            return i;
        }
        uint32_t code = more == 0 ? lead : lead & (0x3fu >> more);
        for (size_t k = 1; k <= more; k++) {
            if (text[i + k] >> 6 != 2) {
                return i;
            }
            code = code << 6 | (text[i + k] & 0x3fu);
        }
        if (code < smallest[more] || code > 0x10ffff || (code >= 0xd800 && code <= 0xdfff)) {
            return i;
        }
        fgv_codes_push(codes, code);
        i += more + 1;
    }
    return bytes;
}

char *fgv_codes_encode(const fgv_codes *codes)
{
    if (codes->count > (SIZE_MAX - 1) / 4) {
        return NULL;
    }
    char *text = malloc(codes->count * 4 + 1);
    if (text == NULL) {
        return NULL;
    }
    char *p = text;
    for (size_t i = 0; i < codes->count; i++) {
        uint32_t code = codes->at[i];
        int more = code < 0x80 ? 0 : code < 0x800 ? 1 : code < 0x10000 ? 2 : 3;
        static const unsigned char leads[] = {0, 0xc0, 0xe0, 0xf0};
        *p++ = (char)(leads[more] | (code >> (6 * more)));
        while (more-- > 0) {
            *p++ = (char)(0x80 | ((code >> (6 * more)) & 0x3f));
        }
    }
    *p = '\0';
    return text;
}

/* ---- HTML references ------------------------------------------------------------------------------------------ */

uint32_t fgv_windows_1252(uint32_t byte)
{
    static const uint16_t codes[32] = {
        0x20ac, 0x81,   0x201a, 0x192,  0x201e, 0x2026, 0x2020, 0x2021, 0x2c6,  0x2030, 0x160,
        0x2039, 0x152,  0x8d,   0x17d,  0x8f,   0x90,   0x2018, 0x2019, 0x201c, 0x201d, 0x2022,
        0x2013, 0x2014, 0x2dc,  0x2122, 0x161,  0x203a, 0x153,  0x9d,   0x17e,  0x178,
    };
    return byte >= 0x80 && byte <= 0x9f ? codes[byte - 0x80] : byte;
}

static int compare_name(const void *key, const void *item)
{
    return strcmp(key, ((const entity *)item)->name);
}

/* The entity that the `length` characters of text spell, a semicolon at their end included or not. */
static const entity *find_entity(const char *text, size_t length)
{
    char name[36];
    bool semicolon = length > 0 && text[length - 1] == ';';
    size_t name_length = length - (semicolon ? 1 : 0);
    if (name_length == 0 || name_length >= sizeof name) {
        return NULL;
    }
    memcpy(name, text, name_length);
    name[name_length] = '\0';
    const entity *found = bsearch(name, entities, COUNT(entities), sizeof entities[0], compare_name);
    return found != NULL && (semicolon || found->bare) ? found : NULL;
}

/* Appends what &#value; stands for: HTML5 reads the C1 range as Windows-1252 and drops codes that are no characters. */
static void push_numeric(fgv_codes *out, uint32_t value)
{
    if (value == 0 || value > 0x10ffff || (value >= 0xd800 && value <= 0xdfff)) {
        fgv_codes_push(out, REPLACEMENT);
    } else if (value >= 0x80 && value <= 0x9f) {
        fgv_codes_push(out, fgv_windows_1252(value));
    } else if (value == '\r' || !(value < 0x09 || value == 0x0b || (value >= 0x0e && value <= 0x1f) || value == 0x7f ||
                                  (value >= 0xfdd0 && value <= 0xfdef) || (value & 0xfffe) == 0xfffe)) {
        fgv_codes_push(out, value);
    }
}

static int digit_value(uint32_t code, int base)
{
    if (code >= '0' && code <= '9') {
        return (int)(code - '0');
    }
    uint32_t letter = code | 0x20;
    return base == 16 && letter >= 'a' && letter <= 'f' ? (int)(letter - 'a') + 10 : -1;
}

/* in[0] is '&' and in[1] '#'. Returns how many code points were taken, 0 if this is no reference. */
static size_t unescape_number(fgv_codes *out, const uint32_t *in, size_t n, bool lenient)
{
    size_t i = 2;
    int base = n > 2 && (in[2] | 0x20) == 'x' ? 16 : 10;
    i += base == 16;
    size_t start = i;
    uint32_t value = 0;
    for (; i < n && digit_value(in[i], base) >= 0; i++) {
        value = value <= 0x10ffff ? value * (uint32_t)base + (uint32_t)digit_value(in[i], base) : value;
    }
    bool semicolon = i < n && in[i] == ';';
    if (i == start || (!lenient && !semicolon)) {
        return 0;
    }
    push_numeric(out, value);
    return i + (semicolon ? 1 : 0);
}

static void push_entity(fgv_codes *out, const entity *found)
{
    fgv_codes_push(out, found->first);
    if (found->second != 0) {
        fgv_codes_push(out, found->second);
    }
}

/* in[0] is '&'. At most 32 characters and a semicolon are looked at, as html.unescape does. */
static size_t unescape_name(fgv_codes *out, const uint32_t *in, size_t n, bool lenient)
{
    char text[34];
    size_t length = 0;
    while (length < 32 && length + 1 < n && in[length + 1] < 0x80 && in[length + 1] != 0 &&
           strchr("\t\n\f <&#;", (int)in[length + 1]) == NULL) {
        text[length] = (char)in[length + 1];
        length++;
    }
    if (length + 1 < n && in[length + 1] == ';') {
        text[length++] = ';';
    }
    const entity *found = find_entity(text, length);
    if (found != NULL && (lenient || text[length - 1] == ';')) {
        push_entity(out, found);
        return length + 1;
    }
    for (size_t prefix = length; lenient && prefix >= 2; prefix--) {
        found = find_entity(text, prefix);
        if (found != NULL) {
            push_entity(out, found);
            return prefix + 1;
        }
    }
    return 0;
}

void fgv_unescape(fgv_codes *out, const uint32_t *in, size_t n, bool lenient)
{
    for (size_t i = 0; i < n;) {
        size_t taken = 0;
        if (in[i] == '&' && i + 1 < n) {
            taken = in[i + 1] == '#' ? unescape_number(out, in + i, n - i, lenient)
                                     : unescape_name(out, in + i, n - i, lenient);
        }
        if (taken == 0) {
            fgv_codes_push(out, in[i]);
            taken = 1;
        }
        i += taken;
    }
}

/* ---- normalisation form C ------------------------------------------------------------------------------------- */

enum {
    HANGUL = 0xac00,
    HANGUL_L = 0x1100,
    HANGUL_V = 0x1161,
    HANGUL_T = 0x11a7,
    HANGUL_LS = 19,
    HANGUL_VS = 21,
    HANGUL_TS = 28,
    HANGUL_COUNT = HANGUL_LS * HANGUL_VS * HANGUL_TS
};

static int combining_class(uint32_t code)
{
    size_t low = 0, high = COUNT(combining_ranges);
    while (low < high) {
        size_t middle = (low + high) / 2;
        if (code > combining_ranges[middle].last) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return low < COUNT(combining_ranges) && code >= combining_ranges[low].first ? combining_ranges[low].value : 0;
}

static int compare_code(const void *key, const void *item)
{
    uint32_t a = *(const uint32_t *)key, b = ((const decomposition *)item)->code;
    return (a > b) - (a < b);
}

static void push_decomposed(fgv_codes *out, uint32_t code)
{
    if (code >= HANGUL && code < HANGUL + HANGUL_COUNT) {
        uint32_t index = code - HANGUL;
        fgv_codes_push(out, HANGUL_L + index / (HANGUL_VS * HANGUL_TS));
        fgv_codes_push(out, HANGUL_V + index / HANGUL_TS % HANGUL_VS);
        if (index % HANGUL_TS != 0) {
            fgv_codes_push(out, HANGUL_T + index % HANGUL_TS);
        }
        return;
    }
    const decomposition *d =
        code < 0xc0 ? NULL
                    : bsearch(&code, decompositions, COUNT(decompositions), sizeof decompositions[0], compare_code);
    if (d == NULL) {
        fgv_codes_push(out, code);
        return;
    }
    push_decomposed(out, d->first);
    if (d->second != 0) { /* never decomposes further */
        fgv_codes_push(out, d->second);
    }
}

/* The primary composite of a pair; 0 if there is none. */
static uint32_t composite(uint32_t first, uint32_t second)
{
    uint32_t l = first - HANGUL_L, v = second - HANGUL_V;
    if (l < HANGUL_LS && v < HANGUL_VS) {
        return HANGUL + (l * HANGUL_VS + v) * HANGUL_TS;
    }
    uint32_t syllable = first - HANGUL, t = second - HANGUL_T;
    if (syllable < HANGUL_COUNT && syllable % HANGUL_TS == 0 && t > 0 && t < HANGUL_TS) {
        return first + t;
    }
    size_t low = 0, high = COUNT(compositions);
    while (low < high) {
        size_t middle = (low + high) / 2;
        const decomposition *d = &decompositions[compositions[middle]];
        if (d->first < first || (d->first == first && d->second < second)) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    const decomposition *d = low < COUNT(compositions) ? &decompositions[compositions[low]] : NULL;
    return d != NULL && d->first == first && d->second == second ? d->code : 0;
}

/* Marks in ascending class between starters; equal classes keep their order. */
static void order_marks(uint32_t *codes, size_t n)
{
    for (size_t i = 1; i < n; i++) {
        int class = combining_class(codes[i]);
        size_t j = i;
        uint32_t code = codes[i];
        while (class != 0 && j > 0 && combining_class(codes[j - 1]) > class) {
            codes[j] = codes[j - 1];
            j--;
        }
        codes[j] = code;
    }
}

void fgv_compose(fgv_codes *out, const uint32_t *in, size_t n)
{
    fgv_codes work = {0};
    for (size_t i = 0; i < n; i++) {
        push_decomposed(&work, in[i]);
    }
    out->failed = out->failed || work.failed;
    order_marks(work.at, work.count);
    size_t starter = SIZE_MAX; /* where in out the last starter is */
    int last_class = 0;        /* of the newest code kept after the starter; 0 when there is none */
    for (size_t i = 0; i < work.count && !out->failed; i++) {
        uint32_t code = work.at[i];
        int class = combining_class(code);
        bool adjacent = starter != SIZE_MAX && starter + 1 == out->count;
        bool blocked = !adjacent && last_class >= class;
        uint32_t joined = starter != SIZE_MAX && !blocked ? composite(out->at[starter], code) : 0;
        if (joined != 0) {
            out->at[starter] = joined;
            continue;
        }
        if (class == 0) {
            starter = out->count;
        }
        last_class = class;
        fgv_codes_push(out, code);
    }
    fgv_codes_free(&work);
}

uint32_t fgv_standard_width(uint32_t code)
{
    if (code >= 0xff01 && code <= 0xff5e) {
        return code - 0xfee0;
    }
    if (code >= 0xff5f && code < 0xff5f + COUNT(width_forms)) {
        return width_forms[code - 0xff5f];
    }
    return code == 0x3000 ? ' ' : code;
}
