/* text.c - quantities as people read them, and what the machine says about itself. */
#define _DEFAULT_SOURCE
#include "cli.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

cli_text cli_bytes(uint64_t bytes)
{
    static const char *const units[] = {"bytes", "kB", "MB", "GB", "TB"};
    cli_text t;
    double value = (double)bytes;
    int unit = 0;
    while (value >= 999.5 && unit < 4) {
        value /= 1000;
        unit++;
    }
    snprintf(t.text, sizeof t.text, unit > 1 && value < 9.95 ? "%.1f %s" : "%.0f %s", value, units[unit]);
    return t;
}

cli_text cli_seconds(double seconds)
{
    cli_text t;
    if (!(seconds >= 0)) {
        snprintf(t.text, sizeof t.text, "? s");
    } else if (seconds < 9.95) {
        snprintf(t.text, sizeof t.text, "%.1f s", seconds);
    } else if (seconds < 59.5) {
        snprintf(t.text, sizeof t.text, "%.0f s", seconds);
    } else {
        int64_t whole = seconds < 1e12 ? (int64_t)(seconds + 0.5) : INT64_C(1000000000000);
        if (whole < 3600) {
            snprintf(t.text, sizeof t.text, "%d min %02d s", (int)(whole / 60), (int)(whole % 60));
        } else {
            snprintf(t.text, sizeof t.text, "%" PRId64 " h %02d min", whole / 3600, (int)(whole % 3600 / 60));
        }
    }
    return t;
}

cli_text cli_decibel(double db)
{
    cli_text t;
    if (isnan(db)) {
        snprintf(t.text, sizeof t.text, "not defined");
    } else if (isinf(db)) {
        snprintf(t.text, sizeof t.text, "identical");
    } else {
        snprintf(t.text, sizeof t.text, "%.2f dB", db);
    }
    return t;
}

/* The number after `key` ("MemTotal:") in a /proc file of "key: number kB" lines, in bytes; 0 if it is not there. */
static uint64_t proc_kilobytes(const char *path, const char *key)
{
    FILE *file = fopen(path, "r");
    if (file == NULL) {
        return 0;
    }
    char line[256];
    uint64_t value = 0;
    size_t length = strlen(key);
    while (value == 0 && fgets(line, sizeof line, file) != NULL) {
        if (strncmp(line, key, length) == 0) {
            value = strtoull(line + length, NULL, 10) * 1024;
        }
    }
    fclose(file);
    return value;
}

/* The number after `key` and a blank in a file of a control group, or the file's only number if key is "". */
static bool group_number(const char *group, const char *name, const char *key, uint64_t *value)
{
    char path[4200], line[256];
    snprintf(path, sizeof path, "/sys/fs/cgroup%s/%s", group, name);
    FILE *file = fopen(path, "r");
    if (file == NULL) {
        return false;
    }
    bool found = false;
    size_t length = strlen(key);
    while (!found && fgets(line, sizeof line, file) != NULL) {
        const char *number = line + length + (length > 0);
        if (strncmp(line, key, length) == 0 && *number >= '0' && *number <= '9') { /* "max" means no limit */
            *value = strtoull(number, NULL, 10);
            found = true;
        }
    }
    fclose(file);
    return found;
}

/* What the control groups above this process leave of their limits (version 2; containers have one). File cache that
 * the kernel would give back is not counted as used. */
static uint64_t group_memory_available(void)
{
    char group[4096] = "";
    FILE *file = fopen("/proc/self/cgroup", "r");
    while (file != NULL && fgets(group, sizeof group, file) != NULL && strncmp(group, "0::/", 4) != 0) {
        group[0] = '\0';
    }
    if (file != NULL) {
        fclose(file);
    }
    if (group[0] == '\0') {
        return UINT64_MAX;
    }
    memmove(group, group + 3, strlen(group + 3) + 1);
    group[strcspn(group, "\n")] = '\0';
    uint64_t least = UINT64_MAX;
    for (char *end = group + strlen(group); end != NULL; end = strrchr(group, '/')) {
        *end = '\0';
        uint64_t limit, used, cache = 0;
        if (group_number(group, "memory.max", "", &limit) && group_number(group, "memory.current", "", &used)) {
            group_number(group, "memory.stat", "inactive_file", &cache);
            used -= cache < used ? cache : used;
            uint64_t left = limit > used ? limit - used : 0;
            least = left < least ? left : least;
        }
    }
    return least;
}

uint64_t cli_memory_available(void)
{
    uint64_t machine = proc_kilobytes("/proc/meminfo", "MemAvailable:");
    uint64_t group = group_memory_available();
    return machine > 0 && machine < group ? machine : group;
}

uint64_t cli_memory_total(void)
{
    uint64_t bytes = proc_kilobytes("/proc/meminfo", "MemTotal:");
    return bytes > 0 ? bytes : UINT64_MAX;
}

uint64_t cli_peak_memory(void)
{
    uint64_t bytes = proc_kilobytes("/proc/self/status", "VmHWM:");
    struct rusage usage;
    if (bytes == 0 && getrusage(RUSAGE_SELF, &usage) == 0) {
        bytes = (uint64_t)usage.ru_maxrss * 1024;
    }
    return bytes;
}

void cli_peak_memory_reset(void)
{
    FILE *file = fopen("/proc/self/clear_refs", "w");
    if (file != NULL) {
        fputs("5", file); /* resets the high-water mark; elsewhere the mark simply stays */
        fclose(file);
    }
}

bool cli_is_terminal(FILE *file)
{
    const char *term = getenv("TERM");
    return isatty(fileno(file)) != 0 && (term == NULL || strcmp(term, "dumb") != 0);
}

const char *cli_find_toy_model(char *path, size_t bytes)
{
    char program[4096];
    ssize_t length = readlink("/proc/self/exe", program, sizeof program - 1);
    if (length > 0) {
        program[length] = '\0';
        char *slash = strrchr(program, '/');
        if (slash != NULL) {
            *slash = '\0';
        }
        int needed = snprintf(path, bytes, "%s/../share/fgattn/models/toy", program);
        if (needed > 0 && (size_t)needed < bytes && access(path, F_OK) == 0) {
            return path;
        }
    }
    int needed = snprintf(path, bytes, "%s/models/toy", FGATTN_SOURCE_DIR);
    return needed > 0 && (size_t)needed < bytes && access(path, F_OK) == 0 ? path : NULL;
}

const char *cli_find_program(const char *name, char *path, size_t bytes)
{
    const char *directory = path != NULL ? getenv("PATH") : NULL;
    while (directory != NULL && *directory != '\0') {
        int length = (int)strcspn(directory, ":");
        int needed = snprintf(path, bytes, "%.*s/%s", length, directory, name);
        struct stat info;
        if (length > 0 && needed > 0 && (size_t)needed < bytes && stat(path, &info) == 0 && S_ISREG(info.st_mode) &&
            access(path, X_OK) == 0) {
            return path;
        }
        directory += length + (directory[length] == ':');
    }
    return NULL;
}
