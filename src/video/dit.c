#include "video/dit.h"

#include "base/error.h"
#include "video/dit_plan.h"

#include <math.h>
#include <string.h>

typedef struct product {
    const void *x;
    void *y;
    int64_t rows;
    fga_dtype x_dtype, y_dtype, compute;
    fgv_activation activation;
} product;

static fga_status multiply(fgv_dit_plan *plan, const fgv_linear *linear, product p)
{
    double start = fgv_seconds();
    fgv_linear_args args = {.x = p.x,
                            .y = p.y,
                            .rows = p.rows,
                            .x_dtype = p.x_dtype,
                            .y_dtype = p.y_dtype,
                            .activation = p.activation,
                            .compute = p.compute};
    fga_status status = fgv_linear_run(plan->dit->ctx, linear, &args);
    plan->report.linear_s += fgv_seconds() - start;
    return status;
}

/* ---- conditions -------------------------------------------------------------------------------------------------- */

/* Cosines, then sines, of t * 1e4^(-i/half). In single precision as the reference: at t = 999 that is part of what the
 * model was trained with, not a rounding error. */
static void time_wave(double timestep, int freq_dim, float *wave)
{
    int half = freq_dim / 2;
    for (int i = 0; i < half; i++) {
        float angle = (float)timestep * expf(-9.210340371976184f * (float)i / (float)half);
        wave[i] = cosf(angle);
        wave[half + i] = sinf(angle);
    }
}

static fga_status embed_time(fgv_dit_plan *plan, double timestep)
{
    const fgv_dit *dit = plan->dit;
    int64_t dim = dit->config.dim;
    time_wave(timestep, dit->config.freq_dim, plan->wave);
    float *inner = plan->time_silu; /* free until the second layer's activation fills it */
    FGA_TRY(multiply(plan, &dit->time_1, (product){.x = plan->wave, .y = inner, .rows = 1, .activation = FGV_SILU}));
    FGA_TRY(multiply(plan, &dit->time_2, (product){.x = inner, .y = plan->time, .rows = 1}));
    for (int64_t i = 0; i < dim; i++) {
        float x = plan->time[i];
        plan->time_silu[i] = x / (1.0f + expf(-x));
    }
    return multiply(plan, &dit->time_projection,
                    (product){.x = plan->time_silu, .y = plan->time_projection, .rows = 1});
}

fga_status fgv_dit_plan_text(fgv_dit_plan *plan, int branch, const float *text)
{
    const fgv_dit *dit = plan->dit;
    if (branch < 0 || branch >= plan->job.branches) {
        return fga_context_fail(dit->ctx, FGA_ERR_ARGUMENT, "text of branch %d, wanted 0 ... %d", branch,
                                plan->job.branches - 1);
    }
    fgv_dit_text *t = &plan->text[branch];
    int64_t dim = dit->config.dim, rows = plan->job.text_rows[branch];
    product inner = {.x = text, .y = plan->text_work, .rows = rows, .activation = FGV_GELU_TANH};
    FGA_TRY(multiply(plan, &dit->text_1, inner));
    memset(t->bias, 0, (size_t)t->keys * sizeof *t->bias);
    if (t->keys > rows) { /* every padding row is the image of a zero row, so one of them with log(n) stands for all */
        inner = (product){.x = plan->zeros, .y = plan->text_work + rows * dim, .rows = 1, .activation = FGV_GELU_TANH};
        FGA_TRY(multiply(plan, &dit->text_1, inner));
        t->bias[rows] = (float)log((double)(FGV_TEXT_ROWS - rows));
    }
    FGA_TRY(multiply(plan, &dit->text_2, (product){.x = plan->text_work, .y = t->rows, .rows = t->keys}));
    t->filled = 0;
    t->ready = true;
    return FGA_OK;
}

/* Keys and values of the text in one layer. */
static fga_status text_keys(fgv_dit_plan *plan, int layer, int branch, char **k, char **v)
{
    fgv_dit_text *text = &plan->text[branch];
    const fgv_dit_attention *attention = &plan->dit->blocks[layer].cross;
    fga_dtype dtype = plan->job.compute;
    size_t bytes = (size_t)(text->keys * plan->dit->config.dim) * plan->element;
    int slot = plan->text_slots > 1 ? layer : 0;
    *k = text->cache + (size_t)slot * 2 * bytes;
    *v = *k + bytes;
    if (plan->text_slots > 1 && layer < text->filled) {
        return FGA_OK;
    }
    float *work = dtype == FGA_F32 ? (float *)(void *)*k : plan->text_work;
    product p = {.x = text->rows, .y = work, .rows = text->keys, .compute = dtype};
    FGA_TRY(multiply(plan, &attention->k, p));
    fgv_dit_rows_run(&(fgv_dit_rows){.plan = plan,
                                     .row = fgv_dit_row_rms,
                                     .count = text->keys,
                                     .t = work,
                                     .target = *k,
                                     .weight = attention->norm_k});
    p.y = *v;
    p.y_dtype = dtype;
    FGA_TRY(multiply(plan, &attention->v, p));
    text->filled = layer + 1;
    return FGA_OK;
}

/* ---- one block --------------------------------------------------------------------------------------------------- */

static void modulate(fgv_dit_plan *plan, const fgv_dit_block *block)
{
    int64_t dim = plan->dit->config.dim;
    for (int64_t i = 0; i < FGV_MODULATIONS * dim; i++) {
        plan->modulation[i] = block->modulation[i] + plan->time_projection[i];
    }
    for (int64_t i = 0; i < dim; i++) {
        plan->modulation[FGV_SCALE_1 * dim + i] += 1.0f;
        plan->modulation[FGV_SCALE_2 * dim + i] += 1.0f;
    }
}

static const float *modulation(const fgv_dit_plan *plan, int which)
{
    return plan->modulation + which * plan->dit->config.dim;
}

/* The rows of a full-length buffer of the compute dtype at token `first`. */
static char *at(const fgv_dit_plan *plan, char *buffer, int64_t first)
{
    return buffer + (size_t)(first * plan->dit->config.dim) * plan->element;
}

static fgv_dit_rows rows_of(const fgv_dit_plan *plan, int64_t first, int64_t count)
{
    return (fgv_dit_rows){.plan = plan,
                          .first = first,
                          .count = count,
                          .x = plan->x + first * plan->dit->config.dim,
                          .y = plan->y,
                          .t = plan->t};
}

/* y W^T, y being of the compute dtype. */
static product product_of_y(const fgv_dit_plan *plan, int64_t rows, void *to, fga_dtype dtype)
{
    return (product){.x = plan->y,
                     .y = to,
                     .rows = rows,
                     .x_dtype = plan->job.compute,
                     .y_dtype = dtype,
                     .compute = plan->job.compute};
}

/* target = rms(y W^T), rotated if asked. */
static fga_status project(fgv_dit_plan *plan, const fgv_linear *linear, fgv_dit_rows rows, char *target)
{
    rows.row = fgv_dit_row_rms;
    rows.target = target;
    rows.t = plan->job.compute == FGA_F32 ? (float *)(void *)target : plan->t;
    FGA_TRY(multiply(plan, linear, product_of_y(plan, rows.count, rows.t, FGA_F32)));
    fgv_dit_rows_run(&rows);
    return FGA_OK;
}

static fga_status self_inputs(fgv_dit_plan *plan, const fgv_dit_block *block, int64_t first, int64_t count)
{
    fgv_dit_rows rows = rows_of(plan, first, count);
    rows.row = fgv_dit_row_norm;
    rows.scale = modulation(plan, FGV_SCALE_1);
    rows.shift = modulation(plan, FGV_SHIFT_1);
    rows.y_dtype = plan->job.compute;
    fgv_dit_rows_run(&rows);
    rows.rotate = true;
    rows.weight = block->self.norm_q;
    FGA_TRY(project(plan, &block->self.q, rows, at(plan, plan->q, first)));
    rows.weight = block->self.norm_k;
    FGA_TRY(project(plan, &block->self.k, rows, at(plan, plan->k, first)));
    return multiply(plan, &block->self.v, product_of_y(plan, count, at(plan, plan->v, first), plan->job.compute));
}

static fga_tensor heads_of(const fgv_dit_plan *plan, void *data, int64_t rows)
{
    const fgv_dit_config *c = &plan->dit->config;
    return fga_tensor_bshd(data, plan->job.compute, 1, rows, c->heads, c->head_dim);
}

static fga_status stopped(const fgv_dit_plan *plan, const fgv_dit_forward_args *where)
{
    return fga_context_fail(plan->dit->ctx, FGA_ERR_INTERRUPTED, "stopped in step %d of %d", where->step + 1,
                            where->steps);
}

/* Shows the inputs of self-attention to whoever asked for them. */
static fga_status show_inputs(const fgv_dit_plan *plan, const fgv_dit_forward_args *where, int layer,
                              const fga_attend_args *args)
{
    if (plan->job.on_attention == NULL) {
        return FGA_OK;
    }
    const int *grid = plan->patch_in.grid;
    const fgv_dit_config *c = &plan->dit->config;
    fgv_capture inputs = {.step = where->step,
                          .steps = where->steps,
                          .layer = layer,
                          .layers = c->layers,
                          .branch = where->branch,
                          .frames = grid[0],
                          .height = grid[1],
                          .width = grid[2],
                          .q = args->q,
                          .k = args->k,
                          .v = args->v,
                          .order = plan->order,
                          .scale = (float)(1.0 / sqrt(c->head_dim))};
    return plan->job.on_attention(plan->job.user, &inputs) ? FGA_OK : stopped(plan, where);
}

static fga_status self_attend(fgv_dit_plan *plan, const fgv_dit_forward_args *where, int layer)
{
    fga_attend_args args = fga_attend_args_default();
    args.q = heads_of(plan, plan->q, plan->tokens);
    args.k = heads_of(plan, plan->k, plan->tokens);
    args.v = heads_of(plan, plan->v, plan->tokens);
    args.o = heads_of(plan, plan->o, plan->tokens);
    FGA_TRY(show_inputs(plan, where, layer, &args));
    double measured = fga_session_get_report(plan->session).measure_s, start = fgv_seconds();
    fga_step_kind kind;
    FGA_TRY(fga_session_attend(plan->session, where->step, where->steps, layer, where->branch, &args, plan->workspace,
                               &kind));
    measured = fga_session_get_report(plan->session).measure_s - measured;
    plan->report.attention_s += fgv_seconds() - start - measured;
    bool more = (kind == FGA_STEP_REFRESH) > (plan->report.kind == FGA_STEP_REFRESH) ||
                (kind == FGA_STEP_REUSE && plan->report.kind == FGA_STEP_DENSE);
    plan->report.kind = more ? kind : plan->report.kind;
    return FGA_OK;
}

/* t = attention's output o times W^T. */
static fga_status attention_output(fgv_dit_plan *plan, const fgv_linear *linear, int64_t first, int64_t count)
{
    return multiply(plan, linear,
                    (product){.x = at(plan, plan->o, first),
                              .y = plan->t,
                              .rows = count,
                              .x_dtype = plan->job.compute,
                              .compute = plan->job.compute});
}

static fga_status self_output(fgv_dit_plan *plan, const fgv_dit_block *block, int64_t first, int64_t count)
{
    FGA_TRY(attention_output(plan, &block->self.out, first, count));
    fgv_dit_rows rows = rows_of(plan, first, count);
    rows.row = fgv_dit_row_add_norm;
    rows.gate = modulation(plan, FGV_GATE_1);
    rows.scale = block->norm_scale;
    rows.shift = block->norm_shift;
    rows.y_dtype = plan->job.compute;
    fgv_dit_rows_run(&rows);
    rows.weight = block->cross.norm_q;
    return project(plan, &block->cross.q, rows, at(plan, plan->q, first));
}

static fga_status cross_attend(fgv_dit_plan *plan, int layer, int branch)
{
    const fgv_dit_text *text = &plan->text[branch];
    char *k, *v;
    FGA_TRY(text_keys(plan, layer, branch, &k, &v));
    fga_attend_args args = fga_attend_args_default();
    args.q = heads_of(plan, plan->q, plan->tokens);
    args.k = heads_of(plan, k, text->keys);
    args.v = heads_of(plan, v, text->keys);
    args.o = heads_of(plan, plan->o, plan->tokens);
    args.key_bias = text->bias;
    double start = fgv_seconds();
    FGA_TRY(fga_attend_run(text->attend, &args, plan->workspace, NULL));
    plan->report.cross_s += fgv_seconds() - start;
    return FGA_OK;
}

static fga_status cross_output_and_ffn(fgv_dit_plan *plan, const fgv_dit_block *block, int64_t first, int64_t count)
{
    FGA_TRY(attention_output(plan, &block->cross.out, first, count));
    fgv_dit_rows rows = rows_of(plan, first, count);
    rows.row = fgv_dit_row_add_norm;
    rows.scale = modulation(plan, FGV_SCALE_2);
    rows.shift = modulation(plan, FGV_SHIFT_2);
    rows.y_dtype = plan->job.compute;
    fgv_dit_rows_run(&rows);
    product p = product_of_y(plan, count, plan->hidden, plan->job.compute);
    p.activation = FGV_GELU_TANH;
    FGA_TRY(multiply(plan, &block->ffn_in, p));
    p = (product){
        .x = plan->hidden, .y = plan->t, .rows = count, .x_dtype = plan->job.compute, .compute = plan->job.compute};
    FGA_TRY(multiply(plan, &block->ffn_out, p));
    rows.row = fgv_dit_row_add;
    rows.gate = modulation(plan, FGV_GATE_2);
    fgv_dit_rows_run(&rows);
    return FGA_OK;
}

/* ---- the whole ----------------------------------------------------------------------------------------------------
 */

typedef fga_status (*tile_function)(fgv_dit_plan *plan, const fgv_dit_block *block, int64_t first, int64_t count);

static fga_status for_tiles(fgv_dit_plan *plan, const fgv_dit_block *block, tile_function function)
{
    for (int64_t first = 0; first < plan->tokens; first += plan->tile) {
        int64_t left = plan->tokens - first;
        FGA_TRY(function(plan, block, first, left < plan->tile ? left : plan->tile));
    }
    return FGA_OK;
}

static fga_status run_block(fgv_dit_plan *plan, const fgv_dit_forward_args *args, int layer)
{
    const fgv_dit_block *block = &plan->dit->blocks[layer];
    if (plan->job.keep_going != NULL && !plan->job.keep_going(plan->job.user)) {
        return stopped(plan, args);
    }
    modulate(plan, block);
    FGA_TRY(for_tiles(plan, block, self_inputs));
    FGA_TRY(self_attend(plan, args, layer));
    FGA_TRY(for_tiles(plan, block, self_output));
    FGA_TRY(cross_attend(plan, layer, args->branch));
    return for_tiles(plan, block, cross_output_and_ffn);
}

static fga_status embed_tokens(fgv_dit_plan *plan, const float *latents)
{
    for (int64_t first = 0; first < plan->tokens; first += plan->tile) {
        int64_t count = plan->tokens - first < plan->tile ? plan->tokens - first : plan->tile;
        fgv_patch_gather(&plan->patch_in, latents, plan->order + first, count, plan->y);
        float *x = plan->x + first * plan->dit->config.dim;
        FGA_TRY(multiply(plan, &plan->dit->patch, (product){.x = plan->y, .y = x, .rows = count}));
    }
    return FGA_OK;
}

static fga_status project_out(fgv_dit_plan *plan, float *out)
{
    const fgv_dit *dit = plan->dit;
    int64_t dim = dit->config.dim;
    float *shift = plan->modulation, *scale = plan->modulation + dim;
    for (int64_t i = 0; i < dim; i++) {
        shift[i] = dit->head_modulation[i] + plan->time[i];
        scale[i] = 1.0f + dit->head_modulation[dim + i] + plan->time[i];
    }
    for (int64_t first = 0; first < plan->tokens; first += plan->tile) {
        int64_t count = plan->tokens - first < plan->tile ? plan->tokens - first : plan->tile;
        fgv_dit_rows rows = rows_of(plan, first, count);
        rows.row = fgv_dit_row_norm;
        rows.scale = scale;
        rows.shift = shift;
        fgv_dit_rows_run(&rows);
        FGA_TRY(multiply(plan, &dit->head, (product){.x = plan->y, .y = plan->t, .rows = count}));
        fgv_patch_scatter(&plan->patch_out, plan->t, plan->order + first, count, out);
    }
    return FGA_OK;
}

fga_status fgv_dit_plan_forward(fgv_dit_plan *plan, const fgv_dit_forward_args *args)
{
    fga_context *ctx = plan->dit->ctx;
    if (args->branch < 0 || args->branch >= plan->job.branches || !plan->text[args->branch].ready) {
        return fga_context_fail(ctx, FGA_ERR_ARGUMENT, "forward of branch %d, which has no text", args->branch);
    }
    double start = fgv_seconds();
    plan->report.kind = FGA_STEP_DENSE;
    FGA_TRY(embed_time(plan, args->timestep));
    FGA_TRY(embed_tokens(plan, args->latents));
    for (int layer = 0; layer < plan->dit->config.layers; layer++) {
        FGA_TRY(run_block(plan, args, layer));
    }
    FGA_TRY(project_out(plan, args->out));
    plan->report.total_s += fgv_seconds() - start;
    return FGA_OK;
}
