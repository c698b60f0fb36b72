/* provenance.h - the comment lines of a benchmark's table that say where its figures come from. */
#ifndef BENCH_PROVENANCE_H
#define BENCH_PROVENANCE_H

#include <stdio.h>
#include <string.h>
#include <time.h>

static inline void read_machine(char *name, size_t size)
{
    char line[256];
    FILE *cpu = fopen("/proc/cpuinfo", "r");
    snprintf(name, size, "unknown");
    while (cpu != NULL && fgets(line, sizeof line, cpu) != NULL) {
        const char *value = strchr(line, ':');
        if (strncmp(line, "model name", 10) == 0 && value != NULL) {
            snprintf(name, size, "%.*s", (int)strcspn(value + 1, "\n") - 1, value + 2);
            break;
        }
    }
    if (cpu != NULL) {
        fclose(cpu);
    }
}

/* Machine, day and command, a line each. */
static inline void print_provenance(FILE *file, int argc, char **argv)
{
    char machine[128], date[32];
    time_t now = time(NULL);
    const char *base = strrchr(argv[0], '/');
    read_machine(machine, sizeof machine);
    strftime(date, sizeof date, "%Y-%m-%d", gmtime(&now));
    fprintf(file, "# machine: %s\n# date: %s\n# command: %s", machine, date, base != NULL ? base + 1 : argv[0]);
    for (int i = 1; i < argc; i++) {
        fprintf(file, " %s", argv[i]);
    }
    fputc('\n', file);
}

#endif
