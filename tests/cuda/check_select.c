/* check_select.c - one budget for all rows and heads, and thresholds: the device's mask from scores that are put into
 * its workspace, against the processor's from the same scores. */
#include "check_ops.h"

#include "attn/attn.h"
#include "attn/refresh_gpu.h"
#include "base/half.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Scores of tiles, all of them with so few bits that sums over a row are exact in any order. */
typedef enum kind {
    SPREAD, /* over some octaves, and rows by their size */
    FAR,    /* most are far from the mean, so that the cut is outside of where it is looked for first */
    FEW,    /* eighths from 0 to 1, that add up to 1 with their neighbours: ties everywhere */
    ZEROS,  /* of both signs */
    ODD,    /* NaN, infinities, negative ones */
    CLOSE,  /* that differ in their last bits */
    KINDS
} kind;

static const char *const kind_name[KINDS] = {"spread", "far", "few", "zeros", "odd", "close"};

typedef struct trial {
    fga_score score; /* mass: rows are compared as they are; deviation: as shares of their sum */
    int m, n, sub_q, sub_k, group;
    int64_t batch, heads, kv_heads;
    fga_sequence query, key;
    double density; /* of head 0; the others' differ */
    int neighbours; /* of the last head */
    int dense;      /* one head in so many keeps everything; 0: none */
    bool slow;      /* not with --quick */
} trial;

#define MASS FGA_SCORE_MASS
#define MEAN FGA_SCORE_MEAN
#define DEVIATION FGA_SCORE_DEVIATION

static const trial trials[] = {
    {MASS, 16, 1, 4, 1, 64, 1, 3, 1, VIDEO(100), VIDEO(300), 0.2, 0, 0, false},
    {DEVIATION, 128, 1, 16, 1, 64, 1, 2, 1, VIDEO(300), VIDEO(700), 0.1, 0, 0, false},
    {DEVIATION, 64, 1, 8, 1, 64, 1, 2, 1, VIDEO(200), VIDEO(512), 0.2, 0, 0, false},
    {DEVIATION, 64, 1, 8, 1, 32, 2, 3, 3, TEXT(10, 7, 250, 200, 20, 5), TEXT(10, 7, 250, 200, 20, 5), 0.1, 3, 3, false},
    {MASS, 64, 8, 16, 8, 64, 2, 2, 1, VIDEO(500), TEXT(3, 3, 640, 601, 0, 0), 0.3, 2, 0, false},
    {MASS, 128, 128, 16, 16, 64, 1, 4, 2, TEXT(40, 31, 1900, 1890, 9, 9), TEXT(40, 31, 1900, 1890, 9, 9), 0.25, 2, 2,
     false},
    {DEVIATION, 128, 16, 16, 1, 16, 1, 2, 2, VIDEO(400), TEXT(3, 3, 1200, 1131, 40, 17), 0.5, 0, 0, true},
    {MEAN, 64, 64, 64, 64, 64, 3, 2, 1, VIDEO(500), VIDEO(3000), 0.3, 1, 2, true},
    {MASS, 16, 1, 4, 1, 64, 1, 1, 1, VIDEO(5), VIDEO(3), 0.5, 0, 0, false},
    {MASS, 32, 1, 4, 1, 64, 1, 2, 1, VIDEO(90), VIDEO(1), 0.5, 0, 0, false},
    {MASS, 16, 1, 4, 1, 64, 1, 1, 1, TEXT(40, 40, 0, 0, 0, 0), TEXT(40, 40, 300, 300, 0, 0), 0.5, 0, 0, true},
    {MASS, 16, 8, 4, 1, 64, 1, 2, 2, VIDEO(60), TEXT(40, 33, 30, 0, 0, 0), 0.5, 0, 0, true},
    {DEVIATION, 128, 1, 16, 1, 64, 1, 2, 1, VIDEO(300), VIDEO(700), 1e-4, 0, 0, false},
    {MASS, 64, 1, 8, 1, 64, 1, 2, 1, VIDEO(300), VIDEO(400), 1.5, 0, 0, false},
    {DEVIATION, 64, 1, 8, 1, 64, 1, 2, 1, VIDEO(300), VIDEO(400), 0.7, 0, 2, true},
    {MASS, 128, 1, 16, 1, 64, 1, 2, 1, VIDEO(200), VIDEO(70000), 0.03, 0, 0, true},
    {MASS, 128, 1, 16, 1, 64, 1, 1, 1, VIDEO(100), VIDEO(21000), 0.1, 0, 0, false},
    {DEVIATION, 192, 1, 16, 1, 64, 1, 1, 1, VIDEO(300), VIDEO(120000), 0.1, 0, 0, true},
};

/* A head's own density: multiples of the trial's. */
static fga_head_setting setting_of(const trial *t, int64_t h)
{
    return (fga_head_setting){.density = fmin(1, t->density * (1 + 0.5 * (double)(h % 3)) / 1.5),
                              .neighbours = h + 1 == t->batch * t->heads ? t->neighbours : 0,
                              .dense = t->dense > 0 && h % t->dense == t->dense - 1};
}

/* A whole number of so many bits, times a power of two. */
static float exact(float x, float unit)
{
    return floorf(fminf(x, 0x1p24f)) * unit;
}

static float score_of_kind(kind k, int64_t row, int64_t tiles, uint64_t *state)
{
    uint64_t x = gpu_random(state);
    float mean = ldexpf(1, -ilogb((double)tiles));
    switch (k) {
    case SPREAD:
        return mean * exact(1000 * expf(gpu_normal(state)), ldexpf(1, (int)(row % 5) - 12));
    case FAR:
        return x % 8 == 0 ? mean * exact((float)(x >> 8 & 0xFFFF), 0x1p-35f) : mean * 0x1p-20f;
    case FEW:
        return (float)(x % 9) * 0.125f;
    case ZEROS:
        return x % 3 == 0 ? -0.0f : 0.0f;
    case ODD:
        return x % 50 == 0 ? NAN : x % 51 == 0 ? INFINITY : x % 52 == 0 ? -INFINITY : (float)(x >> 40) - 0x1p22f;
    case CLOSE:
    case KINDS:
        break;
    }
    return mean * (1.0f + (float)(x % 40) * 0x1p-23f);
}

/* A trial's scores. */
typedef struct bench {
    const trial *t;
    kind k;
    fga_policy policy;
    fga_predict_desc d;
    int64_t rows, blocks, tiles;
    fga_head_setting *heads;
    float *scores; /* [rows][tiles] */
} bench;

/* Of a row with NaN or -inf there is no sum to share, and its scores outdo all shares: few rows keep those. A gate's
 * +inf has no mass; some rows have it everywhere. */
static float odd_score(int64_t row, float score)
{
    bool plain = row % 4 == 2 ? isnan(score) || score == -INFINITY : row % 8 != 3 && !isfinite(score);
    return row % 16 == 13 ? INFINITY : plain ? 1.0f : score;
}

static void make_scores(bench *b)
{
    uint64_t state = 17 + (uint64_t)b->k;
    for (int64_t row = 0; row < b->rows; row++) {
        float *scores = b->scores + row * b->tiles;
        for (int64_t v = 0; v < b->tiles; v++) {
            float score = score_of_kind(b->k, row, b->tiles, &state);
            scores[v] = b->k == ODD ? odd_score(row, score) : b->k == FEW && v % 2 == 1 ? 1 - scores[v - 1] : score;
        }
    }
}

/* A score that some tiles have, where there are few: those do not lie above it. */
static double threshold_of(kind k, int64_t tiles)
{
    double mean = ldexp(1, -ilogb((double)tiles));
    return k == FAR ? mean * 0x1p-20 : k == FEW ? 0.5 : k == ZEROS ? 0 : k == CLOSE ? mean * (1 + 20 * 0x1p-23) : mean;
}

static bench open_bench(const trial *t, kind k, fga_select select)
{
    bench b = {.t = t, .k = k};
    b.policy = (fga_policy){.size = sizeof b.policy, .select = select, .score = t->score};
    b.d = fga_predict_desc_default();
    b.d.batch = t->batch, b.d.query_heads = t->heads, b.d.kv_heads = t->kv_heads, b.d.head_dim = 64;
    b.d.dtype = FGA_BF16, b.d.query = t->query, b.d.key = t->key, b.d.block_m = t->m, b.d.tile_n = t->n;
    b.d.sub_q = t->sub_q, b.d.sub_k = t->sub_k, b.d.score = t->score, b.d.group = t->group;
    b.blocks = fga_predict_blocks(&b.d), b.tiles = fga_predict_tiles(&b.d);
    b.rows = t->batch * t->heads * b.blocks;
    b.heads = room((size_t)(t->batch * t->heads) * sizeof *b.heads);
    for (int64_t h = 0; h < t->batch * t->heads; h++) {
        b.heads[h] = setting_of(t, h);
        b.heads[h].threshold = threshold_of(k, b.tiles) * (double)fga_sequence_valid(&t->key) * (double)(1 + h % 3);
    }
    b.scores = room((size_t)(b.rows * b.tiles) * sizeof *b.scores);
    make_scores(&b);
    return b;
}

static fga_mask_desc describe_mask(const bench *b)
{
    fga_mask_desc m = fga_mask_desc_default();
    m.batch = b->t->batch, m.heads = b->t->heads, m.block_m = b->t->m, m.tile_n = b->t->n;
    m.query = b->t->query, m.key = b->t->key;
    return m;
}

static fga_mask *select_here(fga_context *cpu, const bench *b)
{
    fga_mask *mask = NULL;
    fga_ops ops;
    size_t bytes = 0;
    fga_mask_desc m = describe_mask(b);
    gpu_need(cpu, fga_select_ops(cpu, &ops));
    gpu_need(cpu, fga_mask_create(cpu, &m, FGA_MASK_BITMAP, &mask));
    fga_selector selector = fga_selector_make(&b->policy, mask);
    selector.ops = &ops;
    fga_budget_bytes(cpu, b->rows, &bytes);
    void *workspace = room(bytes);
    for (int64_t row = 0; b->policy.select != FGA_SELECT_BUDGET && row < b->rows; row++) {
        const fga_scored_row scored = {.row = row, .scores = b->scores + row * b->tiles};
        fga_selector_row(&selector, &b->heads[row / b->blocks], &scored, NULL);
    }
    if (b->policy.select == FGA_SELECT_BUDGET) {
        fga_select_budget(&(fga_select_call){
            .ctx = cpu, .selector = &selector, .heads = b->heads, .scores = b->scores, .workspace = workspace});
    }
    fga_mask_seal(mask);
    free(workspace);
    return mask;
}

/* As the scoring kernels leave them: of a tile's numbers the first is its score, the others add nothing. */
static void put_scores(const bench *b, const fga_gpu_refresh_plan *plan, char *workspace)
{
    size_t bytes = (size_t)plan->key_rows * sizeof(float);
    float *row = room(bytes);
    for (int64_t i = 0; i < b->rows; i++) {
        int64_t place = i / b->blocks * plan->head_tiles * plan->tile_blocks + i % b->blocks;
        memset(row, 0, bytes);
        for (int64_t v = 0; v < b->tiles; v++) {
            row[v * plan->entries] = b->scores[i * b->tiles + v];
        }
        gpu_put(workspace + plan->score_at + (size_t)place * bytes, row, bytes);
    }
    free(row);
}

/* What a refresh on the device needs. */
typedef struct there {
    fga_gpu_refresh_plan plan;
    fga_attend_args args;
    fga_refresh_gpu_call call;
} there;

static there open_there(fga_context *ctx, const bench *b)
{
    there t = {.args = fga_attend_args_default()};
    fga_mask_desc m = describe_mask(b);
    size_t heads = (size_t)(b->t->batch * b->t->heads);
    gpu_need(ctx, fga_refresh_gpu_init(ctx, &b->d, &b->policy, &t.plan));
    gpu_need(ctx, fga_mask_create_gpu(ctx, &m, &t.call.mask));
    t.call.heads = b->heads;
    t.call.keep = room(heads * sizeof(int32_t)), t.call.near = room(heads * sizeof(int32_t));
    t.call.everything = room(heads), t.call.budget = room(heads * sizeof(int64_t));
    t.call.number = room(heads * sizeof(double));
    t.call.workspace = gpu_alloc(t.plan.workspace_bytes);
    gpu_fill(t.call.workspace, 0xFF, t.plan.workspace_bytes);
    return t;
}

static void run_there(fga_context *ctx, const bench *b, there *t, int parts)
{
    t->call.args = &t->args, t->call.parts = parts;
    gpu_need(ctx, fga_refresh_gpu_run(ctx, &t->plan, &b->policy, &t->call));
    gpu_finish();
}

/* Leaves the mask. */
static fga_mask *close_there(there *t)
{
    gpu_free(t->call.workspace);
    free(t->call.keep), free(t->call.near), free(t->call.everything), free(t->call.budget), free(t->call.number);
    return t->call.mask;
}

static fga_mask *select_there(fga_context *ctx, const bench *b)
{
    there t = open_there(ctx, b); /* no tensors: scores are there already */
    put_scores(b, &t.plan, t.call.workspace);
    for (int i = 0; i < (b->k == FEW ? 2 : 1); i++) { /* what a first one leaves behind changes nothing */
        run_there(ctx, b, &t, FGA_GPU_SELECT);
    }
    return close_there(&t);
}

static void check_trial(fga_context *ctx, fga_context *cpu, const trial *t, kind k, fga_select select)
{
    char name[120];
    bench b = open_bench(t, k, select);
    fga_mask *wanted = select_here(cpu, &b), *made = select_there(ctx, &b), *fetched = NULL;
    gpu_need(ctx, fga_mask_fetch(ctx, made, &fetched));
    int32_t *keys = room((size_t)b.rows * sizeof *keys);
    gpu_get(keys, made->gpu.row_keys, (size_t)b.rows * sizeof *keys);
    int64_t differ = 0, miscounted = 0;
    size_t bytes = (size_t)wanted->words * sizeof(uint64_t);
    for (int64_t row = 0; row < b.rows; row++) {
        differ += memcmp(fga_mask_bits(fetched, row), fga_mask_bits(wanted, row), bytes) != 0;
        miscounted += keys[row] != wanted->row_keys[row];
    }
    snprintf(name, sizeof name, "%s of %s M=%d N=%d %dx%d rows of %d tiles, %s",
             select == FGA_SELECT_BUDGET ? "budget" : "threshold", t->score == DEVIATION ? "deviation" : "mass", t->m,
             t->n, (int)(t->batch * t->heads), (int)b.blocks, (int)b.tiles, kind_name[k]);
    verdict(differ == 0, "FAIL %s: %g rows differ, allowed %g\n", name, (double)differ, 0);
    verdict(miscounted == 0, "FAIL %s: keys of %g rows miscounted, allowed %g\n", name, (double)miscounted, 0);
    fga_mask_release(&wanted), fga_mask_release(&made), fga_mask_release(&fetched);
    free(keys), free(b.heads), free(b.scores);
}

/* ---- adaptive ------------------------------------------------------------------------------------------ */

enum { DIM = 64 };

/* [tokens][heads][DIM] of one batch item, on the device; channels have means of their own. */
static fga_tensor make_rows(int64_t tokens, int64_t heads, uint64_t seed, uint16_t *words)
{
    for (int64_t i = 0; i < tokens * heads * DIM; i++) {
        float x = gpu_normal(&seed) + (float)(i % 3);
        fga_from_f32(words + i, FGA_BF16, &x, 1);
    }
    size_t bytes = (size_t)(tokens * heads * DIM) * sizeof *words;
    void *device = gpu_alloc(bytes);
    gpu_put(device, words, bytes);
    fga_tensor t = fga_tensor_bshd(device, FGA_BF16, 1, tokens, heads, DIM);
    t.device = FGA_DEVICE_CUDA;
    return t;
}

/* Means of tiles of one head, in double: valid tokens of its video. Returns how many have any. */
static int64_t mean_plainly(const uint16_t *words, const fga_sequence *seq, int64_t heads, int64_t head, int tile,
                            double *mean)
{
    int64_t count = 0;
    for (int64_t first = 0; first < seq->video_valid; first += tile, count++, mean += DIM) {
        int64_t end = fga_min(first + tile, seq->video_valid);
        for (int64_t t = first; t < end; t++) {
            for (int c = 0; c < DIM; c++) {
                float x;
                fga_to_f32(&x, words + (t * heads + head) * DIM + c, FGA_BF16, 1);
                mean[c] += (double)x / (double)(end - first);
            }
        }
    }
    return count;
}

/* Scores in place of a row's logits, spread far more widely than these, and where the row's cut lies between them. */
static double lay_row(const bench *b, const double *q, const double *k, int64_t tiles, double tau, bool full,
                      float *scores, uint64_t *state)
{
    double centre = 0, diagonal = 0, own = 0;
    for (int c = 0; c < DIM; c++) {
        double mean = 0, variance = 0, unit = q[c] * 1.44269504088896341 / sqrt(DIM);
        for (int64_t v = 0; v < tiles; v++) {
            mean += k[v * DIM + c] / (double)tiles;
        }
        for (int64_t v = 0; v < tiles; v++) {
            variance += (k[v * DIM + c] - mean) * (k[v * DIM + c] - mean) / (double)tiles;
        }
        centre += unit * mean;
        diagonal += unit * unit * variance;
    }
    for (int64_t v = 0; v < b->tiles; v++) {
        scores[v] = (float)centre + (full ? 5 : (float)sqrt(diagonal)) * gpu_normal(state);
        own += v < tiles ? ((double)scores[v] - centre) * ((double)scores[v] - centre) / (double)tiles : 0;
    }
    return centre + tau * sqrt((full ? own : diagonal) + 1e-6);
}

/* Means and moments are the device's own; the rest of a row is given. Scores nearer to the cut than f16 can tell apart
 * are not looked at. */
static void check_adaptive(fga_context *ctx, double tau, bool full)
{
    static const trial t = {MEAN, 64, 32, 64,   32, 64, 1, 2, 1, VIDEO(300), {.video = 2100, .video_valid = 2000},
                            1,    0,  0,  false};
    bench b = open_bench(&t, SPREAD, FGA_SELECT_ADAPTIVE);
    b.policy.full_covariance = full;
    uint16_t *words[2] = {room((size_t)(t.query.video * t.heads * DIM) * 2), room((size_t)(t.key.video * DIM) * 2)};
    double *q = room((size_t)(b.blocks * DIM) * sizeof *q), *k = room((size_t)(b.tiles * DIM) * sizeof *k);
    double *cut = room((size_t)b.rows * sizeof *cut);
    uint64_t state = 3;
    there d = open_there(ctx, &b);
    d.args.q = make_rows(t.query.video, t.heads, 1, words[0]);
    d.args.k = d.args.v = make_rows(t.key.video, 1, 2, words[1]);
    int64_t tiles = mean_plainly(words[1], &t.key, 1, 0, t.n, k), wrong = 0, kept = 0, seen = 0;
    for (int64_t row = 0; row < b.rows; row++) {
        if (row % b.blocks == 0) {
            memset(q, 0, (size_t)(b.blocks * DIM) * sizeof *q);
            mean_plainly(words[0], &t.query, t.heads, row / b.blocks, t.m, q);
            b.heads[row / b.blocks].tau = tau;
        }
        cut[row] = lay_row(&b, q + row % b.blocks * DIM, k, tiles, tau, full, b.scores + row * b.tiles, &state);
    }
    run_there(ctx, &b, &d, FGA_GPU_POOL);
    put_scores(&b, &d.plan, d.call.workspace);
    run_there(ctx, &b, &d, FGA_GPU_SELECT);
    fga_mask *made = close_there(&d), *fetched = NULL;
    gpu_need(ctx, fga_mask_fetch(ctx, made, &fetched));
    for (int64_t i = 0; i < b.rows * b.tiles; i++) {
        double above = (double)b.scores[i] - cut[i / b.tiles];
        bool keeps = fga_mask_bits(fetched, i / b.tiles)[i % b.tiles / 64] >> (i % b.tiles % 64) & 1;
        if (i % b.tiles < tiles && fabs(above) > 2e-3) {
            wrong += keeps != (above > 0);
            kept += keeps;
            seen++;
        }
    }
    verdict(wrong == 0 && kept > 0 && kept < seen, "FAIL adaptive selection, %s: %g tiles wrong, %g kept\n",
            full ? "full covariance" : "diagonal", (double)wrong, (double)kept);
    fga_mask_release(&made), fga_mask_release(&fetched);
    gpu_free(d.args.q.data), gpu_free(d.args.k.data);
    free(words[0]), free(words[1]), free(q), free(k), free(cut), free(b.heads), free(b.scores);
}

void check_selections(fga_context *ctx, fga_context *cpu, bool quick)
{
    int budgets = 0, thresholds = 0;
    for (int i = 0; i < (int)(sizeof trials / sizeof trials[0]); i++) {
        bool few = trials[i].key.video > 10000; /* an emulated device takes its time */
        for (int k = quick ? i % 2 : 0; k < KINDS && !(quick && trials[i].slow); k += quick ? 2 : 1) {
            if (!few || k == SPREAD || k == FEW) {
                check_trial(ctx, cpu, &trials[i], (kind)k, FGA_SELECT_BUDGET);
                budgets++;
            }
            if (few ? k == SPREAD : !quick || i == 2 || i == 5) {
                check_trial(ctx, cpu, &trials[i], (kind)k, FGA_SELECT_THRESHOLD);
                thresholds++;
            }
        }
    }
    check_adaptive(ctx, 1, false);
    check_adaptive(ctx, 0.5, true);
    printf("masks from equal scores: %d by a budget, %d by a threshold\n", budgets, thresholds);
}
