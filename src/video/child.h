/* child.h - runs one helper program with pipes, without a shell and without touching this process's signals. */
#ifndef FGV_CHILD_H
#define FGV_CHILD_H

#include "fgattn.h"

#include <sys/types.h>

typedef struct fgv_child {
    fga_context *ctx;
    const char *program; /* argv[0], borrowed */
    pid_t pid;           /* 0 = not running */
    int in, out;         /* our ends of its standard input and output; -1 = none */
    int errors;          /* what it says on standard error, kept in memory */
} fgv_child;

/* A zeroed child may be ended. argv[0] is looked up in PATH. */
fga_status fgv_child_start(fga_context *ctx, fgv_child *child, const char *const *argv, bool feed, bool read);
/* Feeds it, and `file` is open in it as descriptor FGV_CHILD_FILE; here it stays the caller's to close. */
#define FGV_CHILD_FILE "3"
fga_status fgv_child_start_writer(fga_context *ctx, fgv_child *child, const char *const *argv, int file);
fga_status fgv_child_write(fgv_child *child, const void *bytes, size_t count);
/* At most count bytes, fewer only at the end of its output. */
fga_status fgv_child_read(fgv_child *child, void *bytes, size_t count, size_t *got);
/* Closes the pipes and waits; its failure is FGA_ERR_IO with `doing` and what it said on standard error. silent: any
 * word there is a failure, whatever its exit status. */
fga_status fgv_child_wait(fgv_child *child, const char *doing, bool silent);
void fgv_child_kill(fgv_child *child);

#endif
