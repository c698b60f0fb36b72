/* policy.c - two policies of one's own beside a preset: a score, and a rule that says what is kept.
 *
 *   cc examples/policy.c $(pkg-config --cflags --libs fgattn) -lm -o policy && ./policy
 */
#include <fgattn.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

enum { frames = 6, height = 16, width = 16, tokens = frames * height * width, heads = 2, dim = 64 };

/* The nearer a tile is to the block in the order of the tokens, the better; K and ties are the library's. */
static void score_by_distance(void *user, const fga_score_row *row, float *scores)
{
    const fga_policy *policy = user;
    int64_t middle = row->block * policy->block_m + policy->block_m / 2;
    for (int64_t v = 0; v < row->tiles; v++) {
        scores[v] = -(float)llabs(middle - v * policy->tile_n);
    }
}

/* Every fifth tile, another fifth for each head. */
static void keep_every_fifth(void *user, const fga_score_row *row, uint8_t *keep)
{
    (void)user;
    for (int64_t v = 0; v < row->tiles; v++) {
        keep[v] = v % 5 == row->head % 5;
    }
}

/* Tokens near each other in the video are alike, as they are in a trained model. */
static void fill(const int32_t *order, float *x, float contrast)
{
    for (int h = 0; h < heads; h++) {
        for (int i = 0; i < tokens; i++) {
            int t = order[i] / (height * width), y = order[i] / width % height, z = order[i] % width;
            for (int c = 0; c < dim; c++) {
                float place = 0.05f * (float)(c + 1) * (float)(c % 3 == 0 ? t : c % 3 == 1 ? y : z);
                *x++ = contrast * (cosf(place + (float)(h + c)) + (float)rand() / RAND_MAX - 0.5f);
            }
        }
    }
}

/* One call of a session that is sparse from the first step on. */
static fga_status try_policy(fga_context *ctx, const char *name, const fga_policy *policy, const fga_attend_args *args)
{
    fga_session_desc d = fga_session_desc_default();
    d.policy = *policy;
    d.query_heads = d.kv_heads = heads, d.head_dim = dim;
    d.sequence = fga_sequence_video(tokens);
    d.frames = frames, d.height = height, d.width = width;
    d.measure_fraction = 0.1; /* of the queries are compared with exact dense attention */
    fga_session *session;
    fga_status status = fga_session_create(ctx, &d, &session);
    if (status != FGA_OK) {
        return status;
    }
    void *workspace = aligned_alloc(64, (fga_session_workspace(session) + 63) / 64 * 64);
    status = fga_session_attend(session, 0, 1, 0, 0, args, workspace, NULL);
    fga_session_report r = fga_session_get_report(session);
    printf("%-20s density %.3f, recall %.3f, output error %.3f\n", name, r.sparse_kept / r.sparse_total, r.recall_mean,
           r.output_error_mean);
    free(workspace);
    fga_session_destroy(&session);
    return status;
}

static fga_status try_all(fga_context *ctx, const fga_attend_args *args)
{
    fga_policy preset;
    fga_status status = fga_policy_parse(ctx, "dfs,block_m=64,tile_n=16,phases=0/1:0.2", &preset);
    if (status == FGA_OK) {
        status = try_policy(ctx, "dfs", &preset, args);
    }
    fga_policy scored = preset;
    scored.score = FGA_SCORE_CUSTOM;
    scored.custom = score_by_distance;
    scored.custom_user = &scored;
    if (status == FGA_OK) {
        status = try_policy(ctx, "score by distance", &scored, args);
    }
    fga_policy kept = preset;
    kept.select = FGA_SELECT_CUSTOM;
    kept.score = FGA_SCORE_NONE;
    kept.custom_keep = keep_every_fifth;
    return status == FGA_OK ? try_policy(ctx, "every fifth tile", &kept, args) : status;
}

int main(void)
{
    fga_context *ctx;
    int32_t order[tokens];
    if (fga_context_create(NULL, &ctx) != FGA_OK) {
        return 1;
    }
    size_t count = (size_t)heads * tokens * dim;
    float *q = malloc(count * sizeof *q), *k = malloc(count * sizeof *k), *v = malloc(count * sizeof *v);
    float *o = malloc(count * sizeof *o);
    fga_status status = fga_order_build(ctx, FGA_ORDER_HILBERT, frames, height, width, order);
    if (status == FGA_OK) {
        fill(order, q, 1.5f);
        fill(order, k, 1.5f);
        fill(order, v, 1);
        fga_attend_args a = fga_attend_args_default();
        a.q = fga_tensor_bhsd(q, FGA_F32, 1, heads, tokens, dim);
        a.k = fga_tensor_bhsd(k, FGA_F32, 1, heads, tokens, dim);
        a.v = fga_tensor_bhsd(v, FGA_F32, 1, heads, tokens, dim);
        a.o = fga_tensor_bhsd(o, FGA_F32, 1, heads, tokens, dim);
        status = try_all(ctx, &a);
    }
    if (status != FGA_OK) {
        fprintf(stderr, "%s\n", fga_last_error(ctx));
    }
    free(q), free(k), free(v), free(o);
    fga_context_destroy(&ctx);
    return status == FGA_OK ? 0 : 1;
}
