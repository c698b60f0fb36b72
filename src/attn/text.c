/* text.c - text that grows, slices of text, and numbers in decimal whatever the locale. */
#include "attn/text.h"

#include <inttypes.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

enum { MAX_DIGITS = 15 };

void fga_text_add(fga_text *text, const char *format, ...)
{
    bool room = text->length < text->capacity;
    va_list args;
    va_start(args, format);
    int n = vsnprintf(room ? text->at + text->length : NULL, room ? text->capacity - text->length : 0, format, args);
    va_end(args);
    text->length += n > 0 ? (size_t)n : 0;
}

void fga_text_add_decimal(fga_text *text, double value)
{
    double magnitude = fabs(value);
    int64_t scale = 1, whole = (int64_t)magnitude;
    int places = 0, room = MAX_DIGITS - 1;
    for (int64_t rest = whole; rest >= 10; rest /= 10) {
        room--;
    }
    while (places < room && (double)(int64_t)(magnitude * (double)scale + 0.5) / (double)scale != magnitude) {
        scale *= 10;
        places++;
    }
    int64_t digits = (int64_t)(magnitude * (double)scale + 0.5);
    fga_text_add(text, "%s%" PRId64, value < 0 && digits > 0 ? "-" : "", digits / scale);
    if (places > 0) {
        fga_text_add(text, ".%0*" PRId64, places, digits % scale);
    }
}

fga_slice fga_slice_of(const char *text)
{
    return (fga_slice){text, strlen(text)};
}

fga_slice fga_slice_cut(fga_slice *text, char mark)
{
    const char *end = text->length > 0 ? memchr(text->at, mark, text->length) : NULL;
    fga_slice head = {text->at, end != NULL ? (size_t)(end - text->at) : text->length};
    size_t used = head.length + (end != NULL);
    *text = (fga_slice){text->at + used, text->length - used};
    return head;
}

bool fga_slice_is(fga_slice text, const char *name)
{
    return strlen(name) == text.length && memcmp(name, text.at, text.length) == 0;
}

int fga_slice_shown(fga_slice text)
{
    return (int)(text.length < 80 ? text.length : 80);
}

bool fga_parse_int(fga_slice text, int32_t *value)
{
    int32_t n = 0;
    for (size_t i = 0; i < text.length; i++) {
        if (text.at[i] < '0' || text.at[i] > '9' || i >= 9) {
            return false;
        }
        n = n * 10 + (text.at[i] - '0');
    }
    *value = n;
    return text.length > 0;
}

bool fga_parse_decimal(fga_slice text, double *value)
{
    int64_t digits = 0, scale = 1;
    bool negative = text.length > 0 && text.at[0] == '-', fraction = false;
    int seen = 0;
    for (size_t i = negative; i < text.length; i++) {
        char c = text.at[i];
        if (c == '.' && !fraction) {
            fraction = true;
            continue;
        }
        if (c < '0' || c > '9' || ++seen > MAX_DIGITS) {
            return false;
        }
        digits = digits * 10 + (c - '0');
        scale *= fraction ? 10 : 1;
    }
    *value = (double)digits / (double)scale;
    *value = negative ? -*value : *value;
    return seen > 0;
}
