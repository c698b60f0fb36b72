#include "check_ops.h"

#include "attn/mask.h"

#include <stdlib.h>
#include <string.h>

/* Scores of a few kinds, scattered over the blocks, and noise: lists that are alike, and that differ in length. */
static float *make_scores(const fga_predict_desc *d, uint64_t seed)
{
    int64_t rows = d->query_heads * fga_predict_blocks(d), tiles = fga_predict_tiles(d);
    float *scores = room((size_t)(rows * tiles) * sizeof *scores);
    for (int64_t row = 0; row < rows; row++) {
        uint64_t kind = gpu_random(&seed) % 5;
        for (int64_t v = 0; v < tiles; v++) {
            uint64_t drawn = kind << 32 | (uint64_t)v;
            scores[row * tiles + v] = gpu_uniform(&drawn) + 0.5f * gpu_uniform(&seed);
        }
    }
    return scores;
}

static int32_t *order_of(const fga_mask *mask)
{
    size_t bytes = (size_t)mask->rows * sizeof(int32_t);
    int32_t *order = room(bytes);
    gpu_get(order, mask->gpu.row_order, bytes);
    return order;
}

void check_order(fga_context *ctx)
{
    static const struct {
        int m, n;
        int64_t heads, queries, keys;
    } shapes[] = {{16, 1, 1, 8400, 200},
                  {16, 16, 2, 1040, 3000},
                  {32, 4, 2, 2900, 160},
                  {16, 64, 2, 90, 700},
                  {64, 1, 2, 700, 90}};
    for (size_t i = 0; i < sizeof shapes / sizeof shapes[0]; i++) {
        fga_predict_desc d = fga_predict_desc_default();
        d.query_heads = d.kv_heads = shapes[i].heads, d.head_dim = 64, d.dtype = FGA_BF16;
        d.block_m = shapes[i].m, d.tile_n = shapes[i].n;
        d.query = fga_sequence_video(shapes[i].queries), d.key = fga_sequence_video(shapes[i].keys);
        d.query.prefix = d.query.prefix_valid = 20; /* text queries keep everything */
        float *scores = make_scores(&d, 7 + i);
        size_t bytes = (size_t)(d.query_heads * fga_predict_blocks(&d) * fga_predict_tiles(&d)) * sizeof *scores;
        float *device = gpu_alloc(bytes);
        gpu_put(device, scores, bytes);
        fga_mask *made = NULL, *fetched = NULL;
        gpu_need(ctx, fga_select_topk(ctx, &d, device, 0.3, &made));
        gpu_need(ctx, fga_mask_fetch(ctx, made, &fetched)); /* is copied to the device again: ordered here */
        int32_t *there = order_of(made), *here = order_of(fetched);
        int64_t differ = 0;
        for (int64_t row = 0; row < made->rows; row++) {
            differ += there[row] != here[row];
        }
        verdict(differ == 0, "FAIL order of blocks of %s queries: %g places are not the processor's, allowed %g\n",
                shapes[i].m == 16   ? "16"
                : shapes[i].m == 32 ? "32"
                                    : "64",
                (double)differ, 0);
        fga_mask_release(&made), fga_mask_release(&fetched);
        free(scores), free(there), free(here);
        gpu_free(device);
    }
}
