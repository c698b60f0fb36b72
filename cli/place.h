/* place.h - where an output goes: checked before the work, complete or absent after it. */
#ifndef CLI_PLACE_H
#define CLI_PLACE_H

#include "cli.h"

typedef struct cli_place {
    const char *path; /* as the user gave it; NULL: nobody asked */
    char *target;     /* what is written: path.part, or path itself where that is a device or a pipe */
    bool in_place;    /* the latter */
    FILE *file;       /* NULL: not open */
} cli_place;

/* Opens before the long work, so that an unwritable place is found out first. Prints and returns the exit code. */
int cli_place_begin(cli_place *place, const char *path);
/* Closes and renames; false says why in errno, also for a write that failed before, and leaves nothing behind. */
bool cli_place_finish(cli_place *place);
void cli_place_abandon(cli_place *place);

/* The same check of a file that the library will write: path.part is created and removed. A device or a pipe is
 * refused, since the library renames and would replace it. Prints and returns the exit code. */
int cli_place_check(const char *path);
/* Only that last part of it. */
int cli_place_refuse_special(const char *path);

#endif
