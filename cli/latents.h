/* latents.h - the raw final latents in a file, for comparison with other programs. */
#ifndef CLI_LATENTS_H
#define CLI_LATENTS_H

#include "cli.h"

typedef struct cli_latents {
    const char *path; /* NULL: nobody asked */
    char *part;       /* what is written before it is renamed */
    FILE *file;
} cli_latents;

/* Opens path.part, so that what cannot be written is found out before the work. Prints and returns the exit code. */
int cli_latents_begin(cli_latents *latents, const char *path);
/* Writes count f32 values, closes and renames; false says why in errno and leaves nothing behind. */
bool cli_latents_finish(cli_latents *latents, const float *values, size_t count);
void cli_latents_abandon(cli_latents *latents);

#endif
