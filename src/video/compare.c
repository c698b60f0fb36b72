/* How far one video is from another: PSNR, PSNR where the reference moves, SSIM.
 *
 * SSIM is Wang, Bovik, Sheikh, Simoncelli, "Image quality assessment: from error visibility to structural similarity",
 * IEEE Trans. Image Processing 13(4), 2004: an 11x11 Gaussian window of sigma 1.5 at every position where it lies
 * within the picture, K1 = 0.01, K2 = 0.03, L = 255, on luma (BT.601, full range, not rounded). Frames narrower or
 * lower than the window have no SSIM: NaN. */
#include "fgvideo.h"

#include "base/error.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { WINDOW = 11, MAPS = 4 }; /* of a, b, a*a + b*b, a*b */

/* Per frame, so that the sums do not depend on the number of threads. */
typedef struct frame_result {
    double squares, moving_squares, ssim;
    int64_t moving; /* pixels */
} frame_result;

typedef struct job {
    const uint8_t *a, *b;
    int64_t width, height, frames;
    double window[WINDOW];
    double **scratch; /* per worker: luma of both, and MAPS * WINDOW filtered rows */
    frame_result *results;
} job;

static void make_window(double window[WINDOW])
{
    double sum = 0;
    for (int i = 0; i < WINDOW; i++) {
        int x = i - WINDOW / 2;
        window[i] = exp(-(double)(x * x) / (2 * 1.5 * 1.5));
        sum += window[i];
    }
    for (int i = 0; i < WINDOW; i++) {
        window[i] /= sum;
    }
}

static size_t scratch_doubles(const job *j)
{
    return (size_t)(2 * j->width * j->height) + (size_t)(MAPS * WINDOW * j->width) + (size_t)(MAPS * j->width);
}

/* ---- errors ----------------------------------------------------------------------------------------------------- */

static bool differs(const uint8_t *p, const uint8_t *q)
{
    return p[0] != q[0] || p[1] != q[1] || p[2] != q[2];
}

/* A pixel of b moves in frame t when it is not what it was in the frame before, or will not stay in the next. */
static void measure_errors(const job *j, int64_t t, frame_result *result)
{
    int64_t pixels = j->width * j->height, bytes = 3 * pixels;
    const uint8_t *a = j->a + t * bytes, *b = j->b + t * bytes;
    const uint8_t *before = t > 0 ? b - bytes : b, *after = t + 1 < j->frames ? b + bytes : b;
    int64_t squares = 0, moving_squares = 0, moving = 0;
    for (int64_t i = 0; i < bytes; i += 3) {
        int r = a[i] - b[i], g = a[i + 1] - b[i + 1], bl = a[i + 2] - b[i + 2], square = r * r + g * g + bl * bl;
        squares += square;
        if (differs(b + i, before + i) || differs(b + i, after + i)) {
            moving_squares += square;
            moving++;
        }
    }
    result->squares = (double)squares;
    result->moving_squares = (double)moving_squares;
    result->moving = moving;
}

/* ---- SSIM ------------------------------------------------------------------------------------------------------- */

static void to_luma(const uint8_t *rgb, int64_t pixels, double *luma)
{
    for (int64_t i = 0; i < pixels; i++) {
        luma[i] = 0.299 * rgb[3 * i] + 0.587 * rgb[3 * i + 1] + 0.114 * rgb[3 * i + 2];
    }
}

/* One row of the four maps, filtered along the row; MAPS rows of `width` from out. */
static void filter_row(const job *j, const double *a, const double *b, double *restrict out)
{
    int64_t width = j->width, positions = width - WINDOW + 1;
    double *restrict ma = out, *restrict mb = out + width, *restrict s = out + 2 * width, *restrict p = out + 3 * width;
    memset(out, 0, (size_t)(MAPS * width) * sizeof *out);
    for (int k = 0; k < WINDOW; k++) {
        double w = j->window[k];
        for (int64_t x = 0; x < positions; x++) {
            double u = a[x + k], v = b[x + k];
            ma[x] += w * u;
            mb[x] += w * v;
            s[x] += w * (u * u + v * v);
            p[x] += w * (u * v);
        }
    }
}

/* The last WINDOW filtered rows, weighted down the column, and the index at each position. */
static double sum_positions(const job *j, const double *ring, int64_t first_row, double *restrict maps)
{
    const double c1 = 0.01 * 255 * (0.01 * 255), c2 = 0.03 * 255 * (0.03 * 255);
    int64_t width = j->width, positions = width - WINDOW + 1;
    memset(maps, 0, (size_t)(MAPS * width) * sizeof *maps);
    for (int k = 0; k < WINDOW; k++) {
        const double *row = ring + (first_row + k) % WINDOW * MAPS * width;
        double w = j->window[k];
        for (int64_t i = 0; i < MAPS * width; i++) {
            maps[i] += w * row[i];
        }
    }
    const double *ma = maps, *mb = maps + width, *s = maps + 2 * width, *p = maps + 3 * width;
    double sum = 0;
    for (int64_t x = 0; x < positions; x++) {
        double product = ma[x] * mb[x], means = ma[x] * ma[x] + mb[x] * mb[x];
        sum += (2 * product + c1) * (2 * (p[x] - product) + c2) / ((means + c1) * (s[x] - means + c2));
    }
    return sum;
}

static double measure_ssim(const job *j, int64_t t, double *scratch)
{
    int64_t width = j->width, height = j->height, pixels = width * height;
    if (width < WINDOW || height < WINDOW) {
        return NAN;
    }
    double *a = scratch, *b = a + pixels, *ring = b + pixels, *maps = ring + MAPS * WINDOW * width;
    to_luma(j->a + t * 3 * pixels, pixels, a);
    to_luma(j->b + t * 3 * pixels, pixels, b);
    double sum = 0;
    for (int64_t y = 0; y < height; y++) {
        filter_row(j, a + y * width, b + y * width, ring + y % WINDOW * MAPS * width);
        if (y >= WINDOW - 1) {
            sum += sum_positions(j, ring, y - WINDOW + 1, maps);
        }
    }
    return sum / (double)((width - WINDOW + 1) * (height - WINDOW + 1));
}

/* ---- everything ------------------------------------------------------------------------------------------------- */

static void frame_body(void *argument, int64_t t, int worker)
{
    job *j = argument;
    measure_errors(j, t, &j->results[t]);
    j->results[t].ssim = measure_ssim(j, t, j->scratch[worker]);
}

static double psnr(double squares, double samples)
{
    return squares == 0 ? INFINITY : 10 * log10(255.0 * 255.0 * samples / squares);
}

static void summarise(const job *j, fgv_comparison *out, double *frame_psnr, double *frame_ssim)
{
    double squares = 0, moving_squares = 0, moving = 0, ssim = 0, samples = 3.0 * (double)(j->width * j->height);
    for (int64_t t = 0; t < j->frames; t++) {
        const frame_result *r = &j->results[t];
        squares += r->squares;
        moving_squares += r->moving_squares;
        moving += (double)r->moving;
        ssim += r->ssim;
        if (frame_psnr != NULL) {
            frame_psnr[t] = psnr(r->squares, samples);
        }
        if (frame_ssim != NULL) {
            frame_ssim[t] = r->ssim;
        }
    }
    out->psnr_db = psnr(squares, samples * (double)j->frames);
    out->psnr_moving_db = moving > 0 ? psnr(moving_squares, 3 * moving) : NAN;
    out->ssim = ssim / (double)j->frames;
}

fga_status fgv_compare(fga_context *ctx, const uint8_t *a, const uint8_t *b, int width, int height, int frames,
                       fgv_comparison *result, double *frame_psnr, double *frame_ssim)
{
    if (width < 1 || height < 1 || frames < 1) {
        return fga_context_fail(ctx, FGA_ERR_ARGUMENT, "comparison of %d frames of %dx%d, want at least one pixel",
                                frames, width, height);
    }
    int workers = fga_context_threads(ctx);
    job j = {.a = a, .b = b, .width = width, .height = height, .frames = frames};
    j.results = calloc((size_t)frames, sizeof *j.results);
    j.scratch = calloc((size_t)workers, sizeof *j.scratch);
    bool ready = j.results != NULL && j.scratch != NULL;
    for (int i = 0; i < workers && ready; i++) {
        j.scratch[i] = malloc(scratch_doubles(&j) * sizeof(double));
        ready = j.scratch[i] != NULL;
    }
    if (ready) {
        make_window(j.window);
        fga_parallel_for(ctx, frames, frame_body, &j);
        summarise(&j, result, frame_psnr, frame_ssim);
    }
    for (int i = 0; i < workers && j.scratch != NULL; i++) {
        free(j.scratch[i]);
    }
    free(j.scratch);
    free(j.results);
    return ready ? FGA_OK : fga_context_fail(ctx, FGA_ERR_MEMORY, "no memory to compare %dx%d", width, height);
}
