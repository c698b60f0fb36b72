/* error.h - how failure travels: a status is returned, its text is left in the context (fga_context_fail). */
#ifndef FGA_BASE_ERROR_H
#define FGA_BASE_ERROR_H

#include "fgattn.h"

/* Returns from the enclosing function when expr is not FGA_OK. */
#define FGA_TRY(expr) \
    do { \
        fga_status fga_try_status_ = (expr); \
        if (fga_try_status_ != FGA_OK) { \
            return fga_try_status_; \
        } \
    } while (0)

/* Jumps to the enclosing function's `cleanup:` with its `status` set when expr is not FGA_OK. */
#define FGA_CHECK(expr) \
    do { \
        status = (expr); \
        if (status != FGA_OK) { \
            goto cleanup; \
        } \
    } while (0)

#ifdef __clang_analyzer__
/* The analyzer sees one file at a time and would follow paths on which a failure returns FGA_OK. */
#define fga_context_fail(ctx, status, ...) ((void)(fga_context_fail)(ctx, status, __VA_ARGS__), (status))
#endif

#endif
