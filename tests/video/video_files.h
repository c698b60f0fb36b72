/* video_files.h - a scratch directory and drawn frames for the tests that write and read videos. */
#ifndef TEST_VIDEO_FILES_H
#define TEST_VIDEO_FILES_H

#include "fgvideo.h"

#include <dirent.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static char scratch[64];

static inline int scratch_open(void **state)
{
    (void)state;
    strcpy(scratch, "/tmp/fgvideo-test-XXXXXX");
    return mkdtemp(scratch) != NULL ? 0 : -1;
}

/* How many directory entries there are; removes them all when told so. */
static inline int scratch_entries(bool remove_them)
{
    int count = 0;
    DIR *directory = opendir(scratch);
    for (struct dirent *e = readdir(directory); e != NULL; e = readdir(directory)) {
        if (strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0) {
            char path[400];
            snprintf(path, sizeof path, "%s/%s", scratch, e->d_name);
            count++;
            if (remove_them) {
                remove(path);
            }
        }
    }
    closedir(directory);
    return count;
}

static inline int scratch_close(void **state)
{
    (void)state;
    scratch_entries(true);
    return rmdir(scratch);
}

/* Points into one of a few static buffers, so that several names can live in one expression. */
static inline const char *scratch_path(const char *name)
{
    static char paths[4][200];
    static int next;
    char *path = paths[next++ % 4];
    snprintf(path, sizeof paths[0], "%s/%s", scratch, name);
    return path;
}

static inline bool file_exists(const char *path)
{
    return access(path, F_OK) == 0;
}

static inline uint8_t *file_read(const char *path, size_t *size)
{
    *size = 0;
    FILE *file = fopen(path, "rb");
    if (file == NULL) {
        return NULL;
    }
    fseek(file, 0, SEEK_END);
    *size = (size_t)ftell(file);
    rewind(file);
    uint8_t *bytes = malloc(*size + 1);
    *size = fread(bytes, 1, *size, file);
    fclose(file);
    return bytes;
}

static inline void file_write(const char *path, const void *bytes, size_t size)
{
    FILE *file = fopen(path, "wb");
    fwrite(bytes, 1, size, file);
    fclose(file);
}

/* Smooth colours that move by a pixel a frame, with a hard-edged square on top. */
static inline uint8_t *draw_video(int width, int height, int frames)
{
    uint8_t *rgb = malloc((size_t)frames * (size_t)height * (size_t)width * 3), *p = rgb;
    for (int t = 0; t < frames; t++) {
        for (int y = 0; y < height; y++) {
            for (int x = 0; x < width; x++, p += 3) {
                bool inside = abs(x - t * 2 - width / 4) < width / 8 && abs(y - height / 2) < height / 8;
                p[0] = (uint8_t)(inside ? 230 : 128 + 100 * sin((x + t) * 0.11));
                p[1] = (uint8_t)(inside ? 20 : 128 + 100 * sin(y * 0.07 + t * 0.1));
                p[2] = (uint8_t)(inside ? 10 : 128 + 60 * sin((x + y) * 0.05));
            }
        }
    }
    return rgb;
}

static inline bool have_program(const char *name)
{
    char command[100];
    snprintf(command, sizeof command, "command -v %s >/dev/null 2>&1", name);
    return system(command) == 0;
}

#endif
