/* presets.c - the published methods and ours, as data: order, score, select, rest, schedule. */
#include "attn/policy.h"

/* Mean of a whole block or tile, whatever M and N are set to. */
#define ONE_MEAN .sub_q = 192, .sub_k = 128

/* DFSAttn's timetable, sparse from 12 of 50 steps on. */
#define DFS_PHASES .phases = 3, .phase = {{12, 50, 0.3}, {24, 50, 0.2}, {36, 50, 0.1}}

static const struct preset {
    const char *summary;
    fga_policy policy;
} presets[] = {
    {"every query attends to every key; the reference",
     {.size = sizeof(fga_policy),
      .name = "dense",
      .order = FGA_ORDER_RASTER,
      .block_m = 128,
      .tile_n = 128,
      .sub_q = 16,
      .sub_k = 16,
      .score = FGA_SCORE_NONE,
      .select = FGA_SELECT_ALL,
      .group = 64}},
    {"DFSAttn: Hilbert order, 128x128 tiles by pooled mass, kept 0.3, 0.2, 0.1 from steps 12, 24, 36 of 50",
     {.size = sizeof(fga_policy),
      .name = "dfs",
      .order = FGA_ORDER_HILBERT,
      .block_m = 128,
      .tile_n = 128,
      .sub_q = 16,
      .sub_k = 16,
      .score = FGA_SCORE_MASS,
      .select = FGA_SELECT_TOPK,
      .group = 64,
      DFS_PHASES}},
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
