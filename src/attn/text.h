/* text.h - text that grows, slices of text, and numbers in decimal whatever the locale. */
#ifndef FGA_ATTN_TEXT_H
#define FGA_ATTN_TEXT_H

#include "base/error.h"

typedef struct fga_text {
    char *at;
    size_t capacity, length; /* length counts what did not fit too */
} fga_text;

void fga_text_add(fga_text *text, const char *format, ...)
#if defined(__GNUC__)
    __attribute__((format(printf, 2, 3)))
#endif
    ;
/* The fewest decimals that read back as the value, of at most 15 digits; abs(value) < 2^31. */
void fga_text_add_decimal(fga_text *text, double value);

typedef struct fga_slice {
    const char *at;
    size_t length;
} fga_slice;

fga_slice fga_slice_of(const char *text);
/* Cuts and returns what precedes the first `mark`; `text` keeps what follows it. */
fga_slice fga_slice_cut(fga_slice *text, char mark);
bool fga_slice_is(fga_slice text, const char *name);
int fga_slice_shown(fga_slice text); /* for %.*s */

/* A whole number of at most 9 digits. */
bool fga_parse_int(fga_slice text, int32_t *value);
/* [-]digits[.digits], at most 15 digits: such a decimal is a quotient of two exact doubles, so correctly rounded. */
bool fga_parse_decimal(fga_slice text, double *value);

#endif
