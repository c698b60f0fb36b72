#include "video/prompt_clean.h"

#include "base/error.h"

#include <stdlib.h>
#include <string.h>

/* ---- one line, as ftfy would repair it ------------------------------------------------------------------------ */

/* The byte that Windows-1252 writes as `code`, C1 controls standing for themselves; 0 for ASCII and for the rest. */
static unsigned char byte_of(uint32_t code)
{
    if (code >= 0x80 && code <= 0xff) {
        return (unsigned char)code;
    }
    for (uint32_t byte = 0x80; code > 0xff && byte <= 0x9f; byte++) {
        if (fgv_windows_1252(byte) == code) {
            return (unsigned char)byte;
        }
    }
    return 0;
}

/* The length of the UTF-8 sequence that in[0, n) spells as Windows-1252, and its code point; 0 if there is none. */
static size_t misread_sequence(const uint32_t *in, size_t n, uint32_t *code)
{
    unsigned char bytes[4];
    size_t length = 0;
    while (length < 4 && length < n && (bytes[length] = byte_of(in[length])) != 0) {
        length++;
    }
    for (size_t take = 2; take <= length; take++) {
        fgv_codes one = {0};
        bool whole = fgv_codes_decode(&one, bytes, take) == take && one.count == 1;
        *code = whole ? one.at[0] : 0;
        fgv_codes_free(&one);
        if (whole) {
            return take;
        }
    }
    return 0;
}

/* UTF-8 read as Windows-1252 or Latin-1. Some lead bytes give themselves away: an A with circumflex or tilde, an a with
 * circumflex, a diaeresis i and an eth are hardly ever followed by what makes a valid sequence. The others (Greek,
 * Cyrillic, CJK) are believed only in company. */
static void unmisread(fgv_codes *out, const uint32_t *in, size_t n)
{
    for (size_t i = 0; i < n;) {
        uint32_t code, next;
        size_t length = misread_sequence(in + i, n - i, &code);
        unsigned char lead = length > 0 ? byte_of(in[i]) : 0;
        bool sure = lead == 0xc2 || lead == 0xc3 || lead == 0xe2 || lead == 0xef || lead >= 0xf0;
        size_t run = i + length;
        for (size_t more = length; !sure && more > 0 && run < n; run += more) {
            more = misread_sequence(in + run, n - run, &next);
            sure = more > 0;
        }
        if (!sure) {
            fgv_codes_push(out, in[i++]);
            continue;
        }
        do { /* the whole run, so that its last sequence is not alone */
            fgv_codes_push(out, code);
            i += length;
            length = misread_sequence(in + i, n - i, &code);
        } while (length > 0);
    }
}

static const char *ligature(uint32_t code)
{
    static const struct {
        uint32_t code;
        const char *text;
    } table[] = {
        {0x132, "IJ"},         {0x133, "ij"},  {0x149, "\xca\xbcn"}, {0x1c4, "D\xc5\xbd"}, {0x1c5, "D\xc5\xbe"},
        {0x1c6, "d\xc5\xbe"},  {0x1c7, "LJ"},  {0x1c8, "Lj"},        {0x1c9, "lj"},        {0x1ca, "NJ"},
        {0x1cb, "Nj"},         {0x1cc, "nj"},  {0x1f1, "DZ"},        {0x1f2, "Dz"},        {0x1f3, "dz"},
        {0xfb00, "ff"},        {0xfb01, "fi"}, {0xfb02, "fl"},       {0xfb03, "ffi"},      {0xfb04, "ffl"},
        {0xfb05, "\xc5\xbft"}, {0xfb06, "st"},
    };
    for (size_t i = 0; i < sizeof table / sizeof table[0]; i++) {
        if (table[i].code == code) {
            return table[i].text;
        }
    }
    return NULL;
}

static bool removed_control(uint32_t code)
{
    return code < 0x09 || code == 0x0b || (code >= 0x0e && code <= 0x1f) || code == 0x7f ||
           (code >= 0x206a && code <= 0x206f) || code == 0xfeff || (code >= 0xfff9 && code <= 0xfffc);
}

/* The length of an ANSI terminal escape (ESC [ digits and semicolons, one letter) at in[0]; 0 if there is none. */
static size_t terminal_escape(const uint32_t *in, size_t n)
{
    size_t i = 2;
    if (n < 3 || in[0] != 0x1b || in[1] != '[') {
        return 0;
    }
    while (i < n && ((in[i] >= '0' && in[i] <= '9') || in[i] == ';')) {
        i++;
    }
    return i < n && (in[i] | 0x20) >= 'a' && (in[i] | 0x20) <= 'z' ? i + 1 : 0;
}

/* Every replacement of one character. */
static void fix_characters(fgv_codes *out, const uint32_t *in, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        uint32_t code = fgv_standard_width(fgv_windows_1252(in[i]));
        size_t escape = terminal_escape(in + i, n - i);
        const char *letters = ligature(code);
        if (escape > 0) {
            i += escape - 1;
        } else if (letters != NULL) {
            fgv_codes_decode(out, (const unsigned char *)letters, strlen(letters));
        } else if (code == 0x2bc || (code >= 0x2018 && code <= 0x201b)) {
            fgv_codes_push(out, '\'');
        } else if (code >= 0x201c && code <= 0x201f) {
            fgv_codes_push(out, '"');
        } else if (code == '\r' || code == 0x2028 || code == 0x2029) {
            fgv_codes_push(out, '\n');
        } else if (!removed_control(code)) {
            fgv_codes_push(out, code);
        }
    }
}

void fgv_fix_line(fgv_codes *out, const uint32_t *in, size_t n, bool unescape)
{
    fgv_codes text = {0}, work = {0};
    for (size_t i = 0; i < n; i++) {
        fgv_codes_push(&text, in[i]);
    }
    bool changed = true;
    while (changed && !text.failed) {
        fgv_codes before = {0};
        for (size_t i = 0; i < text.count; i++) {
            fgv_codes_push(&before, text.at[i]);
        }
        if (unescape) {
            work.count = 0;
            fgv_unescape(&work, text.at, text.count, false);
            fgv_codes swap = text;
            text = work, work = swap;
        }
        size_t longer;
        do { /* text may have been misread more than once; every round shortens it */
            longer = text.count;
            work.count = 0;
            unmisread(&work, text.at, text.count);
            fgv_codes swap = text;
            text = work, work = swap;
        } while (text.count < longer && !text.failed);
        work.count = 0;
        fix_characters(&work, text.at, text.count);
        text.count = 0;
        fgv_compose(&text, work.at, work.count);
        text.failed = text.failed || work.failed || before.failed;
        changed = text.count != before.count ||
                  (text.count > 0 && memcmp(text.at, before.at, text.count * sizeof *text.at) != 0);
        fgv_codes_free(&before);
    }
    for (size_t i = 0; i < text.count; i++) {
        fgv_codes_push(out, text.at[i]);
    }
    out->failed = out->failed || text.failed;
    fgv_codes_free(&text);
    fgv_codes_free(&work);
}

/* ---- the whole prompt ----------------------------------------------------------------------------------------- */

/* Unicode's White_Space. */
static bool is_space(uint32_t code)
{
    return (code >= 0x09 && code <= 0x0d) || code == ' ' || code == 0x85 || code == 0xa0 || code == 0x1680 ||
           (code >= 0x2000 && code <= 0x200a) || code == 0x2028 || code == 0x2029 || code == 0x202f || code == 0x205f ||
           code == 0x3000;
}

/* Python's str.strip also takes the four separators U+001C ... U+001F. */
static bool is_stripped(uint32_t code)
{
    return is_space(code) || (code >= 0x1c && code <= 0x1f);
}

static void collapse_space(fgv_codes *out, const uint32_t *in, size_t n)
{
    while (n > 0 && is_stripped(in[n - 1])) {
        n--;
    }
    size_t start = 0;
    while (start < n && is_stripped(in[start])) {
        start++;
    }
    for (size_t i = start; i < n; i++) {
        if (!is_space(in[i])) {
            fgv_codes_push(out, in[i]);
        } else if (!is_space(in[i - 1])) {
            fgv_codes_push(out, ' ');
        }
    }
}

fga_status fgv_prompt_clean(fga_context *ctx, const char *prompt, char **clean)
{
    *clean = NULL;
    fgv_codes text = {0}, work = {0};
    fga_status status = FGA_OK;
    size_t bytes = strlen(prompt), wrong = fgv_codes_decode(&text, (const unsigned char *)prompt, bytes);
    if (wrong < bytes) {
        status = fga_context_fail(ctx, FGA_ERR_DATA, "prompt is not UTF-8: byte %zu is 0x%02x", wrong,
                                  (unsigned char)prompt[wrong]);
        goto cleanup;
    }
    bool unescape = true; /* until a line holds a '<': from there on the prompt may mean HTML */
    for (size_t start = 0; start < text.count;) {
        size_t end = start;
        while (end < text.count && text.at[end] != '\n') {
            unescape = unescape && text.at[end] != '<';
            end++;
        }
        end += end < text.count;
        fgv_fix_line(&work, text.at + start, end - start, unescape);
        start = end;
    }
    for (int i = 0; i < 2; i++) {
        text.count = 0;
        fgv_unescape(&text, work.at, work.count, true);
        fgv_codes swap = text;
        text = work, work = swap;
    }
    text.count = 0;
    collapse_space(&text, work.at, work.count);
    if (!text.failed && !work.failed) {
        *clean = fgv_codes_encode(&text);
    }
    if (*clean == NULL) {
        status = fga_context_fail(ctx, FGA_ERR_MEMORY, "no memory to clean a prompt of %zu bytes", bytes);
    }
cleanup:
    fgv_codes_free(&text);
    fgv_codes_free(&work);
    return status;
}
