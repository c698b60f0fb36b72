#include "page.h"

#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

static bool make_room(cli_page *page, size_t bytes)
{
    if (page->failed) {
        return false;
    }
    if (page->length + bytes + 1 > page->capacity) {
        size_t capacity = 2 * (page->length + bytes) + 65536;
        char *larger = realloc(page->text, capacity);
        if (larger == NULL) {
            page->failed = true;
            return false;
        }
        page->text = larger;
        page->capacity = capacity;
    }
    return true;
}

void cli_page_add(cli_page *page, const char *format, ...)
{
    va_list args, again;
    va_start(args, format);
    va_copy(again, args);
    int length = vsnprintf(NULL, 0, format, args);
    va_end(args);
    if (length >= 0 && make_room(page, (size_t)length)) {
        vsnprintf(page->text + page->length, (size_t)length + 1, format, again);
        page->length += (size_t)length;
    }
    va_end(again);
}

void cli_page_escape(cli_page *page, const char *text)
{
    for (; *text != '\0'; text++) {
        switch (*text) {
        case '&':
            cli_page_add(page, "&amp;");
            break;
        case '<':
            cli_page_add(page, "&lt;");
            break;
        case '>':
            cli_page_add(page, "&gt;");
            break;
        case '"':
            cli_page_add(page, "&quot;");
            break;
        default:
            cli_page_add(page, "%c", *text);
        }
    }
}

void cli_page_free(cli_page *page)
{
    free(page->text);
    *page = (cli_page){0};
}
