/* signal.c - Ctrl-C asks the running work to stop; a second one ends the program at once, without leftovers. */
#include "cli.h"

#include <errno.h>
#include <signal.h>
#include <stdatomic.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

enum { MOST_FILES = 8, LONGEST_PATH = 4096, LONGEST_NUMBER = 16 };

typedef struct unfinished {
    char part[LONGEST_PATH];
    int frames;  /* 0: `part` is the file's name */
    size_t stem; /* else "-0000" and so on comes after so many bytes of it */
} unfinished;

/* Plain arrays: all that a signal handler may rely on. */
static unfinished files[MOST_FILES];
static volatile sig_atomic_t file_count;
static volatile sig_atomic_t interrupted;
static bool talk;

/* fgv_writer names frames by %04d, but printf is not for signal handlers. While it renames them, those that have their
 * final names stay: that is over in milliseconds. */
static void remove_frames(const unfinished *u)
{
    static char name[LONGEST_PATH + LONGEST_NUMBER];
    size_t tail = strlen(u->part + u->stem) + 1;
    memcpy(name, u->part, u->stem);
    name[u->stem] = '-';
    for (int i = 0; i < u->frames; i++) {
        char *number = name + u->stem + 1;
        size_t digits = 4;
        for (long limit = 10000; i >= limit; limit *= 10) {
            digits++;
        }
        int rest = i;
        for (size_t d = digits; d > 0; d--, rest /= 10) {
            number[d - 1] = (char)('0' + rest % 10);
        }
        memcpy(number + digits, u->part + u->stem, tail);
        unlink(name);
    }
}

static void on_signal(int number)
{
    (void)number;
    int error = errno; /* the interrupted code may be about to read it */
    if (interrupted != 0) {
        for (int i = 0; i < file_count; i++) {
            if (files[i].frames > 0) {
                remove_frames(&files[i]);
            } else {
                unlink(files[i].part);
            }
        }
        _exit(CLI_INTERRUPTED);
    }
    interrupted = 1;
    static const char text[] = "\nfgattn: stopping; Ctrl-C again stops at once\n";
    if (talk) {
        ssize_t ignored = write(STDERR_FILENO, text, sizeof text - 1);
        (void)ignored;
    }
    errno = error;
}

void cli_catch_interrupt(void)
{
    talk = cli_is_terminal(stderr);
    /* Reads and writes in progress go on: whoever asked for them looks at the flag afterwards. */
    struct sigaction action = {.sa_handler = on_signal, .sa_flags = SA_RESTART};
    sigemptyset(&action.sa_mask);
    sigaddset(&action.sa_mask, SIGINT);
    sigaddset(&action.sa_mask, SIGTERM);
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
}

bool cli_interrupted(void)
{
    return interrupted != 0;
}

void cli_note_unfinished(const char *path)
{
    cli_note_unfinished_video(path, 0);
}

void cli_note_unfinished_video(const char *path, int frames)
{
    size_t length = strlen(path);
    if (file_count == MOST_FILES ||
        length + sizeof ".part" > LONGEST_PATH) { /* no verb has as many, no system longer */
        return;
    }
    unfinished *u = &files[file_count];
    snprintf(u->part, sizeof u->part, "%s.part", path);
    u->stem = length > 4 && strcasecmp(path + length - 4, ".png") == 0 ? length - 4 : 0;
    u->frames = u->stem > 0 ? frames : 0;
    atomic_signal_fence(memory_order_release); /* a signal may come at any time: the entry is complete first */
    file_count++;
}
