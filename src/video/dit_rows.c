#include "video/dit_plan.h"

#include <string.h>
#include <time.h>

#define ROWS_PER_ITEM 32

static void run_item(void *arg, int64_t item, int worker)
{
    (void)worker;
    const fgv_dit_rows *job = arg;
    int64_t end = (item + 1) * ROWS_PER_ITEM < job->count ? (item + 1) * ROWS_PER_ITEM : job->count;
    for (int64_t i = item * ROWS_PER_ITEM; i < end; i++) {
        job->row(job, i);
    }
}

void fgv_dit_rows_run(const fgv_dit_rows *job)
{
    fga_parallel_for(job->plan->dit->ctx, (job->count + ROWS_PER_ITEM - 1) / ROWS_PER_ITEM, run_item, (void *)job);
}

void fgv_dit_row_norm(const fgv_dit_rows *job, int64_t i)
{
    const fgv_dit_config *c = &job->plan->dit->config;
    const float *x = job->x + i * c->dim;
    bool narrow = job->y_dtype == FGA_BF16;
    float *y = (narrow ? job->t : job->y) + i * c->dim;
    if (job->scale != NULL) {
        job->plan->kernels->layer_norm(y, x, job->scale, job->shift, c->eps, c->dim);
    } else {
        memcpy(y, x, (size_t)c->dim * sizeof *y);
    }
    if (narrow) {
        job->plan->kernels->to_bf16((uint16_t *)job->y + i * c->dim, y, c->dim);
    }
}

void fgv_dit_row_add(const fgv_dit_rows *job, int64_t i)
{
    int64_t dim = job->plan->dit->config.dim;
    job->plan->kernels->add(job->x + i * dim, job->t + i * dim, job->gate, dim);
}

void fgv_dit_row_add_norm(const fgv_dit_rows *job, int64_t i)
{
    fgv_dit_row_add(job, i);
    fgv_dit_row_norm(job, i);
}

void fgv_dit_row_rms(const fgv_dit_rows *job, int64_t i)
{
    const fgv_dit_plan *plan = job->plan;
    const fgv_dit_config *c = &plan->dit->config;
    float *row = job->t + i * c->dim;
    float cosine[256], sine[256]; /* head_dim is at most 256 */
    fgv_rotation rotation = {cosine, sine};
    fgv_rms_args args = {job->weight, c->eps, c->dim, c->head_dim, job->rotate ? &rotation : NULL};
    if (job->rotate) {
        fgv_rope_token(&plan->rope, plan->order[job->first + i], cosine, sine);
    }
    plan->kernels->rms_norm(row, &args);
    if (plan->job.compute == FGA_BF16) {
        plan->kernels->to_bf16((uint16_t *)job->target + i * c->dim, row, c->dim);
    } else if (job->target != job->t) {
        memcpy((float *)job->target + i * c->dim, row, (size_t)c->dim * sizeof(float));
    }
}

double fgv_seconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}
