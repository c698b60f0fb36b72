/* attend.c - sparse attention in one page: a mask from a rule, its density, and how far the output is from dense.
 *
 *   cc examples/attend.c $(pkg-config --cflags --libs fgattn) -lm -o attend && ./attend
 */
#include <fgattn.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

enum { heads = 2, tokens = 1000, dim = 64 };

/* Every block keeps the keys near it and every 8th key of the rest. */
static bool near_or_strided(void *user, int64_t b, int64_t h, int64_t block, int64_t key)
{
    (void)user, (void)b, (void)h;
    return llabs(block * 64 + 32 - key) < 128 || key % 8 == 0;
}

static int fail(fga_context *ctx)
{
    fprintf(stderr, "%s\n", fga_last_error(ctx));
    return 1;
}

int main(void)
{
    fga_context *ctx;
    if (fga_context_create(NULL, &ctx) != FGA_OK) {
        return 1;
    }

    size_t count = (size_t)heads * tokens * dim;
    float *q = malloc(count * sizeof *q), *k = malloc(count * sizeof *k), *v = malloc(count * sizeof *v);
    float *dense = malloc(count * sizeof *dense), *sparse = malloc(count * sizeof *sparse);
    for (size_t i = 0; i < count; i++) {
        q[i] = (float)rand() / RAND_MAX - 0.5f;
        k[i] = (float)rand() / RAND_MAX - 0.5f;
        v[i] = (float)rand() / RAND_MAX;
    }

    fga_mask_desc m = fga_mask_desc_default();
    m.block_m = 64, m.tile_n = 1; /* 64 queries share a list of single keys */
    m.query = m.key = fga_sequence_video(tokens);
    fga_mask *mask;
    if (fga_mask_from_function(ctx, &m, near_or_strided, NULL, &mask) != FGA_OK) {
        return fail(ctx);
    }

    fga_attend_desc d = fga_attend_desc_default();
    d.query_heads = d.kv_heads = heads, d.head_dim = dim;
    d.query_len = d.key_len = tokens;
    d.block_m = m.block_m, d.tile_n = m.tile_n;
    fga_attend_plan *plan;
    if (fga_attend_plan_create(ctx, &d, &plan) != FGA_OK) {
        return fail(ctx);
    }
    void *workspace = aligned_alloc(64, (fga_attend_plan_workspace(plan) + 63) / 64 * 64);

    fga_attend_args a = fga_attend_args_default();
    a.q = fga_tensor_bhsd(q, FGA_F32, 1, heads, tokens, dim);
    a.k = fga_tensor_bhsd(k, FGA_F32, 1, heads, tokens, dim);
    a.v = fga_tensor_bhsd(v, FGA_F32, 1, heads, tokens, dim);
    a.o = fga_tensor_bhsd(dense, FGA_F32, 1, heads, tokens, dim);
    if (fga_attend_run(plan, &a, workspace, NULL) != FGA_OK) {
        return fail(ctx);
    }
    a.o.data = sparse;
    a.mask = mask;
    if (fga_attend_run(plan, &a, workspace, NULL) != FGA_OK) {
        return fail(ctx);
    }

    double difference = 0, norm = 0;
    for (size_t i = 0; i < count; i++) {
        difference += (sparse[i] - dense[i]) * (sparse[i] - dense[i]);
        norm += dense[i] * dense[i];
    }
    printf("kernel %s, density %.3f, output error %.3f\n", fga_attend_plan_variant(plan), fga_mask_density(mask),
           sqrt(difference / norm));

    free(workspace);
    fga_attend_plan_destroy(&plan);
    fga_mask_release(&mask);
    fga_context_destroy(&ctx);
    free(q), free(k), free(v), free(dense), free(sparse);
    return 0;
}
