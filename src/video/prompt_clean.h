/* prompt_clean.h - inside prompt cleaning: text as code points, and the steps on it. */
#ifndef FGV_PROMPT_CLEAN_H
#define FGV_PROMPT_CLEAN_H

#include "video/tokenizer.h"

/* A growing array of code points. After a failed push `failed` stays set and pushes do nothing, so that callers need
 * to look only once. */
typedef struct fgv_codes {
    uint32_t *at;
    size_t count, capacity;
    bool failed;
} fgv_codes;

void fgv_codes_push(fgv_codes *codes, uint32_t code);
void fgv_codes_free(fgv_codes *codes);
/* Strict UTF-8: no overlong form, no surrogate, nothing above U+10FFFF. Returns the offset of the first wrong byte, or
 * `bytes` when all is well. */
size_t fgv_codes_decode(fgv_codes *codes, const unsigned char *text, size_t bytes);
/* NUL-terminated UTF-8 in newly allocated memory; NULL when there is none. */
char *fgv_codes_encode(const fgv_codes *codes);

/* Appends in[0, n) to out with the HTML character references replaced: &name; &#12; &#x1f;. `lenient`: as the HTML5
 * standard and Python's html.unescape do it, with the historical names that need no semicolon and a longest known
 * prefix; otherwise only references that end in a semicolon. */
void fgv_unescape(fgv_codes *out, const uint32_t *in, size_t n, bool lenient);
/* Appends in[0, n) in Unicode's normalisation form C. */
void fgv_compose(fgv_codes *out, const uint32_t *in, size_t n);
/* What a half- or full-width form stands for; the code itself otherwise. */
uint32_t fgv_standard_width(uint32_t code);
/* The code point that byte 0x80 ... 0x9f means in Windows-1252; the byte's own value where it has none. */
uint32_t fgv_windows_1252(uint32_t byte);

/* Appends one line repaired as ftfy.fix_text would, as far as tokenizer.h says. */
void fgv_fix_line(fgv_codes *out, const uint32_t *in, size_t n, bool unescape);

#endif
