/* signal.c - Ctrl-C asks the running work to stop; a second one ends the program at once, without leftovers. */
#include "cli.h"

#include <signal.h>
#include <string.h>
#include <unistd.h>

static volatile sig_atomic_t interrupted;
static char unfinished[2][4096]; /* removed by the second signal; "" = nothing */
static bool talk;

static void on_signal(int number)
{
    (void)number;
    if (interrupted != 0) {
        for (int i = 0; i < 2; i++) {
            if (unfinished[i][0] != '\0') {
                unlink(unfinished[i]);
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
}

static void note_unfinished(int index, const char *output)
{
    size_t length = output != NULL ? strlen(output) : 0;
    if (length > 0 && length + sizeof ".part" <= sizeof unfinished[index]) {
        snprintf(unfinished[index], sizeof unfinished[index], "%s.part", output);
    }
}

void cli_catch_interrupt(const char *output, const char *state)
{
    note_unfinished(0, output);
    note_unfinished(1, state);
    talk = cli_is_terminal(stderr);
    struct sigaction action = {.sa_handler = on_signal};
    sigemptyset(&action.sa_mask);
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
}

bool cli_interrupted(void)
{
    return interrupted != 0;
}
