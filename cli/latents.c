#include "latents.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

int cli_latents_begin(cli_latents *latents, const char *path)
{
    *latents = (cli_latents){.path = path};
    if (path == NULL) {
        return CLI_DONE;
    }
    size_t bytes = strlen(path) + sizeof ".part";
    latents->part = malloc(bytes);
    if (latents->part == NULL) {
        return cli_fail(CLI_NO_MEMORY, "no memory to open %s", path);
    }
    snprintf(latents->part, bytes, "%s.part", path);
    latents->file = fopen(latents->part, "wb");
    return latents->file != NULL ? CLI_DONE : cli_fail(CLI_ERROR, "cannot write %s: %s", path, strerror(errno));
}

bool cli_latents_finish(cli_latents *latents, const float *values, size_t count)
{
    bool good = fwrite(values, sizeof *values, count, latents->file) == count;
    good = fclose(latents->file) == 0 && good;
    latents->file = NULL;
    good = good && rename(latents->part, latents->path) == 0;
    int reason = errno;
    if (!good) {
        remove(latents->part);
        errno = reason;
    }
    return good;
}

void cli_latents_abandon(cli_latents *latents)
{
    if (latents->file != NULL) {
        fclose(latents->file);
        remove(latents->part);
    }
    free(latents->part);
    *latents = (cli_latents){0};
}
