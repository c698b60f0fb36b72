/* presets.c - the published methods and ours, as data: order, score, select, rest, schedule. */
#include "attn/policy.h"

/* A row: order, M, N; the tokens per mean; score, select, rest, schedule. */
#define PRESET(called, order_, m, n, ...) \
    { \
        .size = sizeof(fga_policy), .name = called, .order = FGA_ORDER_##order_, .block_m = m, .tile_n = n, \
        .group = 64, __VA_ARGS__ \
    }
#define MEANS(q, k) .sub_q = q, .sub_k = k
#define ONE_MEAN MEANS(192, 128) /* of a whole block or tile, whatever M and N are set to */
#define SCORE(score_) .score = FGA_SCORE_##score_
#define SELECT(select_) .select = FGA_SELECT_##select_
#define PHASES(count, ...) .phases = count, .phase = {__VA_ARGS__}
#define ALWAYS PHASES(1, {0, 1, 0})
#define DFS_PHASES PHASES(3, {12, 50, 0.3}, {24, 50, 0.2}, {36, 50, 0.1})

static const struct preset {
    const char *summary;
    fga_policy policy;
} presets[] = {
    {"every query attends to every key; the reference",
     PRESET("dense", RASTER, 128, 128, MEANS(16, 16), SCORE(NONE), SELECT(ALL))},

    {"ours: clipped Hilbert order, the single keys of the largest mass over all heads for every 16 queries, summaries "
     "of the "
     "rest",
     PRESET("fgdfs", HILBERT_CLIPPED, 16, 1, MEANS(4, 1), SCORE(MASS), SELECT(BUDGET), .rest = FGA_REST_REMAINDER,
            DFS_PHASES)},

    {"DFSAttn: Hilbert order, 128x128 tiles by pooled mass, kept 0.3, 0.2, 0.1 from steps 12, 24, 36 of 50",
     PRESET("dfs", HILBERT, 128, 128, MEANS(16, 16), SCORE(MASS), SELECT(TOPK), DFS_PHASES)},

    {"DFSAttn as its published code computes it: clipped Hilbert order, padding of zeros, K rounded down",
     PRESET("dfs-paper", HILBERT_CLIPPED, 128, 128, MEANS(16, 16), SCORE(MASS), SELECT(TOPK), .zero_pad = true,
            DFS_PHASES)},

    {"FG-Attn, cached: single keys whose true probability at a dense step was above half the mean, refreshed six times",
     PRESET("fg-cached", RASTER, 128, 1, MEANS(16, 1), SCORE(EXACT_MAX), SELECT(THRESHOLD), .threshold = 0.5,
            PHASES(6, {0, 20, 0}, {3, 20, 0}, {6, 20, 0}, {9, 20, 0}, {12, 20, 0}, {16, 20, 0}))},

    {"FG-Attn, predicted: the single keys that hold 0.9 of the estimated mass, every step; blocks too diverse are "
     "dense",
     PRESET("fg-cdf", RASTER, 128, 1, ONE_MEAN, SCORE(MASS), SELECT(TOPP), .tau = 0.9, .gate_q = 0.6, .gate_k = 0.6,
            ALWAYS, .refresh_every = 1)},

    {"SubBlock: 64x64 tiles by pooled log-sum-exp, a quarter kept from step 10 of 50, anew every step",
     PRESET("subblock", RASTER, 64, 64, MEANS(16, 16), SCORE(LSE), SELECT(TOPK), PHASES(1, {10, 50, 0.25}),
            .refresh_every = 1)},

    {"Sol-Attn: 64x64 tiles a deviation above the mean, and one summary per skipped tile, anew every step",
     PRESET("sol", RASTER, 64, 64, ONE_MEAN, SCORE(MEAN), SELECT(ADAPTIVE), .tau = 1, .neighbours = 2,
            .rest = FGA_REST_REMAINDER, PHASES(1, {10, 50, 0}), .refresh_every = 1, .dense_layers = 2)},

    {"plain block sparsity: 64x64 tiles by one mean each, kept as by dfs",
     PRESET("block-topk", RASTER, 64, 64, ONE_MEAN, SCORE(MEAN), SELECT(TOPK), DFS_PHASES)},

    {"Sliding Tile Attention: boxes of 4x4x4 tokens, each sees a window of 3x3x3 boxes",
     PRESET("sta", BOXES, 64, 64, MEANS(16, 16), SCORE(NONE), SELECT(WINDOW), .window = {3, 3, 3}, ALWAYS)},

    {"Radial Attention: the farther a frame, the fewer places of it are seen",
     PRESET("radial", RASTER, 128, 128, MEANS(16, 16), SCORE(NONE), SELECT(RADIAL), .width = 1, ALWAYS)},

    {"Sparse VideoGen: each head sees near frames or near places, whichever errs less on 64 queries",
     PRESET("svg", RASTER, 128, 128, MEANS(16, 16), SCORE(NONE), SELECT(FRAMES), DFS_PHASES)},
};

enum { PRESETS = sizeof presets / sizeof presets[0] };

int fga_preset_count(void)
{
    return PRESETS;
}

const char *fga_preset_name(int index)
{
    return index >= 0 && index < PRESETS ? presets[index].policy.name : NULL;
}

const char *fga_preset_summary(int index)
{
    return index >= 0 && index < PRESETS ? presets[index].summary : NULL;
}

const fga_policy *fga_preset_find(fga_slice name)
{
    for (int i = 0; i < PRESETS; i++) {
        if (fga_slice_is(name, presets[i].policy.name)) {
            return &presets[i].policy;
        }
    }
    return NULL;
}
