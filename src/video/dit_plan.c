#include "video/dit_plan.h"

#include "base/error.h"
#include "base/pages.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* The two buffers of a tile and the feed-forward net's inner rows together; fewer rows than TILE_MIN would make the
 * packing of weights show. Tiles are whole multiples of TILE_STEP, so that products see the same tiles of their own. */
#define TILE_BYTES (16 << 20)
#define TILE_MIN 1024
#define TILE_STEP 128
/* Keys and values of the text are kept for all layers up to this size; else each layer makes them when it needs them,
 * which costs 513 more rows of two of its products. */
#define TEXT_CACHE_BYTES (256 << 20)

static fga_status check_job(fgv_dit *dit, const fgv_dit_job *job)
{
    const fgv_dit_config *c = &dit->config;
    const int size[3] = {job->t, job->h, job->w};
    static const char *const axes[3] = {"frames", "rows", "columns"};
    for (int axis = 0; axis < 3; axis++) {
        if (size[axis] < 1 || size[axis] % c->patch[axis] != 0) {
            return fga_context_fail(dit->ctx, FGA_ERR_ARGUMENT, "latents: %d %s, wanted a multiple of the patch's %d",
                                    size[axis], axes[axis], c->patch[axis]);
        }
        if (size[axis] / c->patch[axis] > c->rope_max) {
            return fga_context_fail(dit->ctx, FGA_ERR_ARGUMENT,
                                    "latents: %d %s are %d tokens; the model's positions end at %d", size[axis],
                                    axes[axis], size[axis] / c->patch[axis], c->rope_max);
        }
    }
    if (job->branches < 1 || job->branches > FGV_MAX_BRANCHES) {
        return fga_context_fail(dit->ctx, FGA_ERR_ARGUMENT, "%d guidance branches, wanted 1 or 2", job->branches);
    }
    for (int b = 0; b < job->branches; b++) {
        if (job->text_rows[b] < 0 || job->text_rows[b] > FGV_TEXT_ROWS) {
            return fga_context_fail(dit->ctx, FGA_ERR_ARGUMENT, "%d text rows, wanted 0 ... %d", job->text_rows[b],
                                    FGV_TEXT_ROWS);
        }
    }
    if (job->compute != FGA_F32 && job->compute != FGA_BF16) {
        return fga_context_fail(dit->ctx, FGA_ERR_ARGUMENT, "the transformer computes in f32 or bf16, not in %s",
                                fga_dtype_name(job->compute));
    }
    return FGA_OK;
}

static void choose_shapes(fgv_dit_plan *plan)
{
    const fgv_dit_config *c = &plan->dit->config;
    const fgv_dit_job *job = &plan->job;
    plan->patch_in = (fgv_patch){.channels = c->in_channels,
                                 .size = {c->patch[0], c->patch[1], c->patch[2]},
                                 .grid = {job->t / c->patch[0], job->h / c->patch[1], job->w / c->patch[2]}};
    plan->patch_out = plan->patch_in;
    plan->patch_out.channels = c->out_channels;
    const int *grid = plan->patch_in.grid;
    plan->tokens = (int64_t)grid[0] * grid[1] * grid[2];
    int64_t in = fgv_patch_row(&plan->patch_in), out = fgv_patch_row(&plan->patch_out);
    plan->wide = c->dim > in ? c->dim : in;
    plan->wide = plan->wide > out ? plan->wide : out;
    plan->element = fga_dtype_size(job->compute);

    int64_t most = TILE_BYTES / (int64_t)sizeof(float) / (2 * plan->wide + c->ffn_dim);
    most = most > TILE_MIN ? most : TILE_MIN;
    int64_t tiles = (plan->tokens + most - 1) / most;
    plan->tile = ((plan->tokens + tiles - 1) / tiles + TILE_STEP - 1) / TILE_STEP * TILE_STEP;
    plan->tile = plan->tile < plan->tokens ? plan->tile : plan->tokens;

    size_t cache = 0;
    for (int b = 0; b < job->branches; b++) {
        plan->text[b].keys = job->text_rows[b] + (job->text_rows[b] < FGV_TEXT_ROWS ? 1 : 0);
        cache += 2 * (size_t)(plan->text[b].keys * c->dim) * plan->element * (size_t)c->layers;
    }
    plan->text_slots = cache <= TEXT_CACHE_BYTES ? c->layers : 1;
}

static fga_status open_attention(fgv_dit_plan *plan)
{
    const fgv_dit_config *c = &plan->dit->config;
    fga_session_desc session = fga_session_desc_default();
    session.policy = plan->policy;
    session.layers = c->layers;
    session.branches = plan->job.branches;
    session.batch = 1;
    session.query_heads = session.kv_heads = c->heads;
    session.head_dim = c->head_dim;
    session.dtype = plan->job.compute;
    session.sequence = fga_sequence_video(plan->tokens);
    session.frames = plan->patch_in.grid[0];
    session.height = plan->patch_in.grid[1];
    session.width = plan->patch_in.grid[2];
    session.measure_fraction = plan->job.measure_fraction;
    session.overrides = plan->job.overrides;
    session.override_count = plan->job.override_count;
    session.on_measure = plan->job.on_measure;
    session.user = plan->job.user;
    FGA_TRY(fga_session_create(plan->dit->ctx, &session, &plan->session));
    for (int b = 0; b < plan->job.branches; b++) {
        fga_attend_desc cross = fga_attend_desc_default();
        cross.batch = 1;
        cross.query_heads = cross.kv_heads = c->heads;
        cross.query_len = plan->tokens;
        cross.key_len = plan->text[b].keys;
        cross.head_dim = c->head_dim;
        cross.dtype = plan->job.compute;
        FGA_TRY(fga_attend_plan_create(plan->dit->ctx, &cross, &plan->text[b].attend));
    }
    return FGA_OK;
}

/* Hands out the one allocation; with memory NULL it only adds up. */
typedef struct arena {
    char *memory;
    size_t used;
} arena;

static void *carve(arena *a, int64_t elements, size_t bytes)
{
    void *at = a->memory != NULL ? a->memory + a->used : NULL;
    a->used += ((size_t)elements * bytes + 63) / 64 * 64;
    return at;
}

static size_t lay_out(fgv_dit_plan *plan, char *memory)
{
    const fgv_dit_config *c = &plan->dit->config;
    arena a = {memory, 0};
    int64_t full = plan->tokens * c->dim, keys = 0;
    plan->order = carve(&a, plan->tokens, sizeof *plan->order);
    plan->x = carve(&a, full, sizeof *plan->x);
    plan->q = carve(&a, full, plan->element);
    plan->k = carve(&a, full, plan->element);
    plan->v = carve(&a, full, plan->element);
    plan->o = carve(&a, full, plan->element);
    plan->y = carve(&a, plan->tile * plan->wide, sizeof *plan->y);
    plan->t = carve(&a, plan->tile * plan->wide, sizeof *plan->t);
    plan->hidden = carve(&a, plan->tile * c->ffn_dim, plan->element);
    size_t workspace = fga_session_workspace(plan->session);
    for (int b = 0; b < plan->job.branches; b++) {
        fgv_dit_text *text = &plan->text[b];
        text->rows = carve(&a, text->keys * c->dim, sizeof *text->rows);
        text->bias = carve(&a, text->keys, sizeof *text->bias);
        text->cache = carve(&a, 2 * plan->text_slots * text->keys * c->dim, plan->element);
        size_t bytes = fga_attend_plan_workspace(text->attend);
        workspace = bytes > workspace ? bytes : workspace;
        keys = text->keys > keys ? text->keys : keys;
    }
    plan->text_work = carve(&a, keys * c->dim, sizeof *plan->text_work);
    plan->zeros = carve(&a, c->text_dim, sizeof *plan->zeros);
    plan->wave = carve(&a, c->freq_dim, sizeof *plan->wave);
    plan->time = carve(&a, c->dim, sizeof *plan->time);
    plan->time_silu = carve(&a, c->dim, sizeof *plan->time_silu);
    plan->time_projection = carve(&a, FGV_MODULATIONS * c->dim, sizeof *plan->time_projection);
    plan->modulation = carve(&a, FGV_MODULATIONS * c->dim, sizeof *plan->modulation);
    plan->workspace = carve(&a, (int64_t)workspace, 1);
    return a.used;
}

static fga_status allocate(fgv_dit_plan *plan)
{
    fgv_dit *dit = plan->dit;
    const int *grid = plan->patch_in.grid;
    size_t bytes = lay_out(plan, NULL);
    plan->memory = fga_pages_alloc(bytes);
    if (plan->memory == NULL) {
        return fga_context_fail(dit->ctx, FGA_ERR_MEMORY, "the transformer needs %.2f GB for %lld tokens",
                                1e-9 * (double)bytes, (long long)plan->tokens);
    }
    lay_out(plan, plan->memory);
    memset(plan->zeros, 0, (size_t)dit->config.text_dim * sizeof *plan->zeros);
    FGA_TRY(fgv_rope_init(dit->ctx, &plan->rope, dit->config.head_dim, grid));
    return fga_order_build(dit->ctx, plan->policy.order, grid[0], grid[1], grid[2], plan->order);
}

/* All but the memory. */
static fga_status prepare(fgv_dit *dit, const fgv_dit_job *job, fgv_dit_plan **out)
{
    *out = NULL;
    FGA_TRY(check_job(dit, job));
    fga_status status = FGA_OK;
    fgv_dit_plan *plan = calloc(1, sizeof *plan);
    if (plan == NULL) {
        fga_context_fail(dit->ctx, FGA_ERR_MEMORY, "the transformer's plan: out of memory");
        return FGA_ERR_MEMORY;
    }
    plan->dit = dit;
    plan->job = *job;
    plan->policy = *job->policy;
    plan->job.policy = &plan->policy;
    plan->kernels = fgv_rowwise_best();
    choose_shapes(plan);
    if (plan->tokens > INT32_MAX) {
        FGA_CHECK(fga_context_fail(dit->ctx, FGA_ERR_ARGUMENT, "latents of %d x %d x %d are too many tokens", job->t,
                                   job->h, job->w));
    }
    FGA_CHECK(open_attention(plan));
    *out = plan;
    plan = NULL;
cleanup:
    fgv_dit_plan_destroy(&plan);
    return status;
}

fga_status fgv_dit_plan_create(fgv_dit *dit, const fgv_dit_job *job, fgv_dit_plan **out)
{
    fga_status status;
    fgv_dit_plan *plan;
    *out = NULL;
    FGA_CHECK(prepare(dit, job, &plan));
    FGA_CHECK(allocate(plan));
    *out = plan;
    plan = NULL;
cleanup:
    fgv_dit_plan_destroy(&plan);
    return status;
}

void fgv_dit_plan_destroy(fgv_dit_plan **handle)
{
    if (handle == NULL || *handle == NULL) {
        return;
    }
    fgv_dit_plan *plan = *handle;
    for (int b = 0; b < FGV_MAX_BRANCHES; b++) {
        fga_attend_plan_destroy(&plan->text[b].attend);
    }
    fga_session_destroy(&plan->session);
    fgv_rope_free(&plan->rope);
    free(plan->memory);
    free(plan);
    *handle = NULL;
}

/* Masks of a sparse policy as bit maps: what they are stored in is never larger. */
static uint64_t mask_bytes(const fgv_dit_plan *plan)
{
    const fga_policy *p = &plan->policy;
    if (p->select == FGA_SELECT_ALL || p->phases == 0 || p->block_m < 1 || p->tile_n < 1) {
        return 0;
    }
    uint64_t blocks = (uint64_t)(plan->tokens + p->block_m - 1) / (uint64_t)p->block_m;
    uint64_t tiles = (uint64_t)(plan->tokens + p->tile_n - 1) / (uint64_t)p->tile_n;
    uint64_t masks = (uint64_t)plan->dit->config.layers * (uint64_t)(p->share_branches ? 1 : plan->job.branches);
    return masks * (uint64_t)plan->dit->config.heads * blocks * ((tiles + 63) / 64 * 8);
}

/* Of the two widest products: they share the scratch. */
static uint64_t thread_bytes(const fgv_dit_plan *plan)
{
    const fgv_dit_config *c = &plan->dit->config;
    uint64_t in = fgv_linear_scratch(plan->dit->ctx, c->ffn_dim, c->dim, plan->tile, plan->job.compute);
    uint64_t out = fgv_linear_scratch(plan->dit->ctx, c->dim, c->ffn_dim, plan->tile, plan->job.compute);
    return in > out ? in : out;
}

fga_status fgv_dit_plan_memory(fgv_dit *dit, const fgv_dit_job *job, fgv_dit_memory *memory)
{
    fgv_dit_plan *plan;
    FGA_TRY(prepare(dit, job, &plan));
    *memory = (fgv_dit_memory){lay_out(plan, NULL) + mask_bytes(plan), thread_bytes(plan)};
    fgv_dit_plan_destroy(&plan);
    return FGA_OK;
}

fga_session *fgv_dit_plan_session(const fgv_dit_plan *plan)
{
    return plan->session;
}

int64_t fgv_dit_plan_tokens(const fgv_dit_plan *plan)
{
    return plan->tokens;
}

fgv_dit_report fgv_dit_plan_report(const fgv_dit_plan *plan)
{
    fgv_dit_report report = plan->report;
    report.session = fga_session_get_report(plan->session);
    return report;
}
