#include "place.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* Something that rename would replace, or fail to. */
static bool is_special(const char *path)
{
    struct stat info;
    return stat(path, &info) == 0 && !S_ISREG(info.st_mode);
}

int cli_place_begin(cli_place *place, const char *path)
{
    *place = (cli_place){.path = path};
    if (path == NULL) {
        return CLI_DONE;
    }
    size_t bytes = strlen(path) + sizeof ".part";
    place->target = malloc(bytes);
    if (place->target == NULL) {
        return cli_fail(CLI_NO_MEMORY, "no memory to open %s", path);
    }
    place->in_place = is_special(path);
    snprintf(place->target, bytes, "%s%s", path, place->in_place ? "" : ".part");
    place->file = fopen(place->target, "wb");
    if (place->file == NULL) {
        int code = cli_fail(CLI_ERROR, "cannot write %s: %s", path, strerror(errno));
        cli_place_abandon(place);
        return code;
    }
    if (!place->in_place) {
        cli_note_unfinished(path);
    }
    return CLI_DONE;
}

bool cli_place_finish(cli_place *place)
{
    bool good = ferror(place->file) == 0;
    int reason = errno;
    if (fclose(place->file) != 0 && good) {
        good = false;
        reason = errno;
    }
    place->file = NULL;
    if (good && !place->in_place && rename(place->target, place->path) != 0) {
        good = false;
        reason = errno;
    }
    if (!good && !place->in_place) {
        unlink(place->target);
    }
    cli_place_abandon(place);
    errno = reason;
    return good;
}

void cli_place_abandon(cli_place *place)
{
    if (place->file != NULL) {
        fclose(place->file);
        place->file = NULL;
        if (!place->in_place) {
            unlink(place->target);
        }
    }
    free(place->target);
    place->target = NULL;
}

int cli_place_refuse_special(const char *path)
{
    return is_special(path) ? cli_fail(CLI_USAGE, "output %s exists and is not a regular file", path) : CLI_DONE;
}

int cli_place_check(const char *path)
{
    int code = cli_place_refuse_special(path);
    if (code == CLI_DONE) {
        cli_place place;
        code = cli_place_begin(&place, path);
        cli_place_abandon(&place);
    }
    return code;
}
