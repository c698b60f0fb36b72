#define _GNU_SOURCE /* pipe2, memfd_create: descriptors that no other child inherits, not even by a race */
#include "video/child.h"

#include "base/error.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

extern char **environ;

static void close_end(int *fd)
{
    if (*fd >= 0) {
        close(*fd);
        *fd = -1;
    }
}

enum { FILE_FILENO = STDERR_FILENO + 1 }; /* FGV_CHILD_FILE */

/* Out of 0 ... 3, where the child's own ends will be put. */
static bool move_up(int *fd)
{
    if (*fd > FILE_FILENO) {
        return true;
    }
    int moved = fcntl(*fd, F_DUPFD_CLOEXEC, FILE_FILENO + 1);
    close_end(fd);
    *fd = moved;
    return moved >= 0;
}

static bool open_pipe(int ends[2])
{
    if (pipe2(ends, O_CLOEXEC) != 0) {
        ends[0] = ends[1] = -1;
        return false;
    }
    return move_up(&ends[0]) && move_up(&ends[1]);
}

/* -1: no such end; a file has no substitute. */
static int spawn(fgv_child *child, const char *const *argv, int input, int output, int file)
{
    posix_spawn_file_actions_t actions;
    posix_spawnattr_t attributes;
    sigset_t none, all;
    sigemptyset(&none);
    sigfillset(&all);
    posix_spawn_file_actions_init(&actions);
    posix_spawnattr_init(&attributes);
    /* A group of its own: the terminal's Ctrl-C is this program's to handle, and it then ends its child. */
    posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETPGROUP | POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);
    posix_spawnattr_setsigmask(&attributes, &none);
    posix_spawnattr_setsigdefault(&attributes, &all);
    int error = 0;
    if (input >= 0) {
        error |= posix_spawn_file_actions_adddup2(&actions, input, STDIN_FILENO);
    } else {
        error |= posix_spawn_file_actions_addopen(&actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
    }
    if (output >= 0) {
        error |= posix_spawn_file_actions_adddup2(&actions, output, STDOUT_FILENO);
    } else {
        error |= posix_spawn_file_actions_addopen(&actions, STDOUT_FILENO, "/dev/null", O_WRONLY, 0);
    }
    error |= posix_spawn_file_actions_adddup2(&actions, child->errors, STDERR_FILENO);
    if (file >= 0) {
        error |= posix_spawn_file_actions_adddup2(&actions, file, FILE_FILENO);
    }
    if (error == 0) {
        error = posix_spawnp(&child->pid, argv[0], &actions, &attributes, (char *const *)argv, environ);
    }
    posix_spawn_file_actions_destroy(&actions);
    posix_spawnattr_destroy(&attributes);
    return error;
}

typedef struct ends {
    bool feed, read;
    int file; /* -1 = none */
} ends;

static bool copy_up(int from, int *to)
{
    *to = fcntl(from, F_DUPFD_CLOEXEC, FILE_FILENO + 1);
    return *to >= 0;
}

static fga_status start(fga_context *ctx, fgv_child *child, const char *const *argv, ends with)
{
    *child = (fgv_child){.ctx = ctx, .program = argv[0], .in = -1, .out = -1, .errors = -1};
    int to[2] = {-1, -1}, from[2] = {-1, -1}, file = -1;
    child->errors = memfd_create("errors", MFD_CLOEXEC);
    bool ready = child->errors >= 0 && move_up(&child->errors) && (!with.feed || open_pipe(to)) &&
                 (!with.read || open_pipe(from)) && (with.file < 0 || copy_up(with.file, &file));
    int error = ready ? spawn(child, argv, to[0], from[1], file) : errno;
    close_end(&to[0]);
    close_end(&from[1]);
    close_end(&file);
    child->in = to[1];
    child->out = from[0];
    if (error == 0) {
        return FGA_OK;
    }
    child->pid = 0;
    fgv_child_kill(child);
    if (error == ENOENT) {
        return fga_context_fail(ctx, FGA_ERR_UNSUPPORTED, "the program %s is needed for this and is not in PATH",
                                argv[0]);
    }
    return fga_context_fail(ctx, FGA_ERR_IO, "cannot start %s: %s", argv[0], strerror(error));
}

fga_status fgv_child_start(fga_context *ctx, fgv_child *child, const char *const *argv, bool feed, bool read)
{
    return start(ctx, child, argv, (ends){feed, read, -1});
}

fga_status fgv_child_start_writer(fga_context *ctx, fgv_child *child, const char *const *argv, int file)
{
    return start(ctx, child, argv, (ends){true, false, file});
}

/* A reader that is gone must show as EPIPE here and not as SIGPIPE to a process that may not expect one: the signal is
 * blocked in this thread and, where this write raised it, taken off the queue. */
fga_status fgv_child_write(fgv_child *child, const void *bytes, size_t count)
{
    sigset_t sigpipe, before, pending;
    sigemptyset(&sigpipe);
    sigaddset(&sigpipe, SIGPIPE);
    sigpending(&pending);
    bool was_pending = sigismember(&pending, SIGPIPE) == 1;
    pthread_sigmask(SIG_BLOCK, &sigpipe, &before);
    const char *at = bytes;
    int error = 0;
    while (count > 0 && error == 0) {
        ssize_t written = write(child->in, at, count);
        if (written > 0) {
            at += written;
            count -= (size_t)written;
        } else if (written < 0 && errno != EINTR) {
            error = errno;
        }
    }
    if (error == EPIPE && !was_pending) {
        const struct timespec now = {0, 0};
        while (sigtimedwait(&sigpipe, NULL, &now) < 0 && errno == EINTR) {
        }
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (error == 0) {
        return FGA_OK;
    }
    return fga_context_fail(child->ctx, FGA_ERR_IO, "%s stopped reading: %s", child->program, strerror(error));
}

fga_status fgv_child_read(fgv_child *child, void *bytes, size_t count, size_t *got)
{
    *got = 0;
    while (*got < count) {
        ssize_t n = read(child->out, (char *)bytes + *got, count - *got);
        if (n == 0) {
            return FGA_OK;
        }
        if (n > 0) {
            *got += (size_t)n;
        } else if (errno != EINTR) {
            return fga_context_fail(child->ctx, FGA_ERR_IO, "cannot read from %s: %s", child->program, strerror(errno));
        }
    }
    return FGA_OK;
}

/* The beginning of what it said, on one line. */
static void what_it_said(const fgv_child *child, char *text, size_t bytes)
{
    ssize_t n = pread(child->errors, text, bytes - 1, 0);
    text[n > 0 ? n : 0] = '\0';
    size_t kept = 0;
    for (size_t i = 0; text[i] != '\0'; i++) {
        if (text[i] != '\n' && text[i] != '\r') {
            text[kept++] = text[i];
        } else if (text[i + 1] != '\0') {
            text[kept++] = ';';
        }
    }
    text[kept] = '\0';
}

fga_status fgv_child_wait(fgv_child *child, const char *doing, bool silent)
{
    close_end(&child->in);
    close_end(&child->out);
    int result = 0;
    pid_t ended;
    do {
        ended = waitpid(child->pid, &result, 0);
    } while (ended < 0 && errno == EINTR);
    char said[600];
    what_it_said(child, said, sizeof said);
    child->pid = 0;
    close_end(&child->errors);
    /* A host that ignores SIGCHLD leaves no status to collect: then its silence is the good news. */
    bool good = ended < 0 || (WIFEXITED(result) && WEXITSTATUS(result) == 0);
    if (good && (said[0] == '\0' || (ended >= 0 && !silent))) {
        return FGA_OK;
    }
    if (said[0] == '\0' && WIFSIGNALED(result)) {
        snprintf(said, sizeof said, "ended by signal %d", WTERMSIG(result));
    }
    return fga_context_fail(child->ctx, FGA_ERR_IO, "%s: %s failed: %s", doing, child->program,
                            said[0] != '\0' ? said : "it gave no reason");
}

void fgv_child_kill(fgv_child *child)
{
    if (child->pid > 0) {
        kill(child->pid, SIGKILL);
        while (waitpid(child->pid, NULL, 0) < 0 && errno == EINTR) {
        }
        child->pid = 0;
    }
    close_end(&child->in);
    close_end(&child->out);
    close_end(&child->errors);
}
