/* select_frames.c - Sparse VideoGen: each head keeps near frames or near places, whichever errs less on a few queries.
 *
 * How near follows from the density. The error is the output's, under the mask of tiles as it would run.
 */
#include "attn/select_places.h"

#include "base/half.h"

#include <math.h>
#include <string.h>

enum { SAMPLES = 64, LANES = 8 }; /* queries measured per head; of them, at once */

typedef struct frames {
    const fga_select_call *call;
    fga_places places[2]; /* spatial, temporal: they differ in what a key looks at */
    fga_pattern pattern[2];
    int64_t head;    /* in hand: b*query_heads + h */
    int chosen;      /* the pattern that rows are filled with */
    int64_t samples; /* 0 ... SAMPLES */
    uint64_t *kept;  /* [2][SAMPLES][words]: rows of the samples' blocks */
    double *error;   /* [2][SAMPLES]: squared */
    char *workers;
    size_t worker_bytes;
} frames;

typedef struct lanes {
    float *weight; /* [keys][LANES]: logits, then exp(logit - largest) */
    float *query;  /* [head_dim][LANES] */
    float *sum;    /* [3][LANES][head_dim]: of V under no mask and under the two */
    float *row;    /* [head_dim]: one of K or V */
} lanes;

/* ---- workspace ------------------------------------------------------------------------------------ */

static bool lay_out_lanes(int64_t keys, int64_t head_dim, char *base, size_t *used, lanes *l)
{
    const int64_t counts[4] = {keys * LANES, head_dim * LANES, 3 * LANES * head_dim, head_dim};
    float *parts[4];
    for (int i = 0; i < 4; i++) {
        parts[i] = base != NULL ? (float *)(base + *used) : NULL;
        if (!fga_size_add(used, counts[i], sizeof(float))) {
            return false;
        }
    }
    *l = (lanes){parts[0], parts[1], parts[2], parts[3]};
    return true;
}

/* After the places' part: the second mark_of, kept rows, errors, and the lanes of each worker. */
static bool lay_out(const fga_predict_desc *d, int threads, char *base, size_t *used, frames *f)
{
    int64_t words = fga_ceil_div(fga_predict_tiles(d), 64);
    lanes unused;
    size_t at[4] = {*used};
    bool fits = true;
    const int64_t counts[3] = {d->key.video_valid, 2 * SAMPLES * words, 2 * SAMPLES};
    const size_t sizes[3] = {sizeof(int32_t), sizeof(uint64_t), sizeof(double)};
    for (int i = 0; i < 3; i++) {
        at[i + 1] = at[i];
        fits = fits && fga_size_add(&at[i + 1], counts[i], sizes[i]);
    }
    fits = fits && lay_out_lanes(fga_sequence_length(&d->key), d->head_dim, NULL, &f->worker_bytes, &unused);
    *used = at[3];
    if (base != NULL) {
        f->places[1].mark_of = (int32_t *)(base + at[0]);
        f->kept = (uint64_t *)(base + at[1]);
        f->error = (double *)(base + at[2]);
        f->workers = base + at[3];
    }
    return fits && fga_size_add(used, threads, f->worker_bytes);
}

bool fga_frames_bytes(fga_context *ctx, const fga_predict_desc *desc, size_t *bytes)
{
    frames unused = {0};
    return fga_places_bytes(ctx, desc, bytes) && lay_out(desc, fga_context_threads(ctx), NULL, bytes, &unused);
}

/* ---- rows ----------------------------------------------------------------------------------------- */

static void fill_row(void *arg, int64_t u, int worker)
{
    const frames *f = arg;
    fga_mask *mask = f->call->selector->mask;
    int64_t row = f->head * mask->blocks + u;
    uint64_t *bits = fga_mask_bits(mask, row);
    fga_spans free;
    if (fga_selector_begin(f->call->selector, &f->call->heads[f->head], row, &free) == FGA_ROW_OPEN) {
        const uint64_t *kept = fga_places_row(&f->places[f->chosen], &f->pattern[f->chosen], u, worker);
        for (int64_t w = 0; w < mask->words; w++) {
            bits[w] |= kept[w];
        }
    }
    fga_selector_seal(f->call->selector, row);
}

static void fill_head(frames *f, int chosen)
{
    f->chosen = chosen;
    fga_parallel_for(f->call->ctx, f->call->selector->mask->blocks, fill_row, f);
}

/* Kept pairs of all pairs, over the head's rows that are not dense. */
static double kept_share(const frames *f)
{
    const fga_selector *s = f->call->selector;
    const fga_mask *mask = s->mask;
    int64_t m = mask->desc.block_m, kept = 0, all = 0;
    for (int64_t u = 0; u < mask->blocks; u++) {
        if (fga_spans_count(&s->text_queries, u * m, (u + 1) * m) == 0) {
            int64_t asks = fga_spans_count(&mask->query_valid, u * m, (u + 1) * m);
            kept += asks * mask->row_keys[f->head * mask->blocks + u];
            all += asks * s->valid_keys;
        }
    }
    return all > 0 ? (double)kept / (double)all : 0;
}

/* The farthest reach that keeps no more than the head's density; 0 where none does. */
static void find_reach(frames *f, int chosen, int64_t farthest)
{
    double target = f->call->heads[f->head].density;
    int64_t low = 0, high = farthest + 1; /* low may be kept, high not */
    while (high - low > 1) {
        int64_t middle = low + (high - low) / 2;
        f->pattern[chosen].reach = middle;
        fill_head(f, chosen);
        *(kept_share(f) <= target ? &low : &high) = middle;
    }
    f->pattern[chosen].reach = low;
}

/* ---- errors --------------------------------------------------------------------------------------- */

static int64_t sample_token(const frames *f, int64_t r)
{
    const fga_sequence *s = &f->call->selector->mask->desc.query;
    return s->prefix + (2 * r + 1) * s->video_valid / (2 * f->samples);
}

static void keep_samples(frames *f, int chosen)
{
    const fga_mask *mask = f->call->selector->mask;
    for (int64_t r = 0; r < f->samples; r++) {
        int64_t row = f->head * mask->blocks + sample_token(f, r) / mask->desc.block_m;
        memcpy(f->kept + (chosen * SAMPLES + r) * mask->words, fga_mask_bits(mask, row),
               (size_t)mask->words * sizeof *f->kept);
    }
}

static void load_row(const fga_tensor *x, int64_t b, int64_t h, int64_t token, float *row)
{
    fga_to_f32(row, fga_tensor_row(x, b, h, token), x->dtype, x->extent[3]);
}

typedef struct group {
    const frames *f;
    int64_t b, h, kv, first; /* the head, its keys' head, and the first of the samples */
    int count;
    lanes l;
} group;

/* weight = q.k*scale + bias, -inf for keys that are not attended, then exp of it less the sample's largest. */
static void weigh(const group *g)
{
    const fga_attend_args *a = g->f->call->args;
    const fga_mask *mask = g->f->call->selector->mask;
    int64_t keys = fga_sequence_length(&mask->desc.key), dim = a->q.extent[3];
    float scale = g->f->call->scale, largest[LANES];
    const float *bias = a->key_bias;
    bias = bias != NULL ? bias + g->b * a->bias_batch_stride + g->kv * a->bias_head_stride : NULL;
    for (int s = 0; s < LANES; s++) {
        load_row(&a->q, g->b, g->h, sample_token(g->f, g->first + (s < g->count ? s : 0)), g->l.row);
        for (int64_t d = 0; d < dim; d++) {
            g->l.query[d * LANES + s] = g->l.row[d];
        }
        largest[s] = -INFINITY;
    }
    for (int64_t j = 0; j < keys; j++) {
        float dot[LANES] = {0}, *weight = g->l.weight + j * LANES;
        bool read = fga_spans_count(&mask->key_valid, j, j + 1) > 0 && (bias == NULL || bias[j] != -INFINITY);
        if (read) {
            load_row(&a->k, g->b, g->kv, j, g->l.row);
            for (int64_t d = 0; d < dim; d++) {
                for (int s = 0; s < LANES; s++) {
                    dot[s] += g->l.row[d] * g->l.query[d * LANES + s];
                }
            }
        }
        for (int s = 0; s < LANES; s++) {
            weight[s] = read ? dot[s] * scale + (bias != NULL ? bias[j] : 0.0f) : -INFINITY;
            largest[s] = weight[s] > largest[s] ? weight[s] : largest[s];
        }
    }
    for (int64_t i = 0; i < keys * LANES; i++) {
        float x = g->l.weight[i];
        g->l.weight[i] = x == -INFINITY ? 0.0f : expf(x - largest[i % LANES]);
    }
}

static bool is_kept(const group *g, int chosen, int s, int64_t v)
{
    const uint64_t *row = g->f->kept + (chosen * SAMPLES + g->first + s) * g->f->call->selector->mask->words;
    return row[v / 64] >> (v % 64) & 1;
}

/* Sums of V and of the weights under no mask and under the two. */
static void gather(const group *g, double total[3][LANES])
{
    const fga_attend_args *a = g->f->call->args;
    const fga_mask *mask = g->f->call->selector->mask;
    int64_t keys = fga_sequence_length(&mask->desc.key), dim = a->v.extent[3];
    memset(g->l.sum, 0, (size_t)(3 * LANES * dim) * sizeof(float));
    for (int64_t j = 0; j < keys; j++) {
        const float *weight = g->l.weight + j * LANES;
        if (fga_spans_count(&mask->key_valid, j, j + 1) == 0) {
            continue;
        }
        load_row(&a->v, g->b, g->kv, j, g->l.row);
        for (int s = 0; s < g->count; s++) {
            for (int way = 0; way < 3 && weight[s] != 0; way++) {
                if (way == 0 || is_kept(g, way - 1, s, j / mask->desc.tile_n)) {
                    float *sum = g->l.sum + (way * LANES + s) * dim;
                    for (int64_t d = 0; d < dim; d++) {
                        sum[d] += weight[s] * g->l.row[d];
                    }
                    total[way][s] += (double)weight[s];
                }
            }
        }
    }
}

static void measure_group(void *arg, int64_t item, int worker)
{
    const frames *f = arg;
    const fga_attend_args *a = f->call->args;
    int64_t dim = a->q.extent[3], heads = a->q.extent[1];
    group g = {.f = f, .b = f->head / heads, .h = f->head % heads, .first = item * LANES};
    g.kv = g.h / (heads / a->k.extent[1]);
    g.count = (int)fga_min(LANES, f->samples - g.first);
    size_t used = 0;
    lay_out_lanes(a->k.extent[2], dim, f->workers + (size_t)worker * f->worker_bytes, &used, &g.l);
    double total[3][LANES] = {{0}};
    weigh(&g);
    gather(&g, total);
    for (int s = 0; s < g.count; s++) {
        for (int way = 1; way < 3; way++) {
            const float *dense = g.l.sum + s * dim, *sparse = g.l.sum + (way * LANES + s) * dim;
            double error = 0;
            for (int64_t d = 0; d < dim; d++) {
                double kept = total[way][s] > 0 ? (double)sparse[d] / total[way][s] : 0; /* nothing kept: output 0 */
                double all = total[0][s] > 0 ? (double)dense[d] / total[0][s] : 0;
                error += (kept - all) * (kept - all);
            }
            f->error[(way - 1) * SAMPLES + g.first + s] = error;
        }
    }
}

/* Leaves the head's rows filled with the better pattern. */
static void choose(frames *f)
{
    double error[2] = {0, 0};
    for (int chosen = 0; chosen < 2; chosen++) {
        fill_head(f, chosen);
        keep_samples(f, chosen);
    }
    fga_parallel_for(f->call->ctx, fga_ceil_div(f->samples, LANES), measure_group, f);
    for (int64_t r = 0; r < f->samples; r++) {
        error[0] += f->error[r];
        error[1] += f->error[SAMPLES + r];
    }
    if (!(error[1] < error[0])) { /* a tie: spatial */
        fill_head(f, 0);
    }
}

/* Whether the reaches found for another head are this one's too: they count tiles, out of which biases take some. */
static bool has_reaches(const frames *f, int64_t found)
{
    const fga_attend_args *a = f->call->args;
    const fga_head_setting *one = &f->call->heads[f->head], *other = &f->call->heads[found < 0 ? f->head : found];
    int64_t sharing = a->q.extent[1] / a->k.extent[1]; /* heads of queries that share one of keys, in a row */
    return found >= 0 && one->density == other->density && one->neighbours == other->neighbours &&
           (a->key_bias == NULL || f->head / sharing == found / sharing);
}

void fga_select_frames(const fga_select_call *call)
{
    const fga_mask *mask = call->selector->mask;
    const fga_attend_args *a = call->args;
    fga_predict_desc d = fga_predict_desc_default();
    d.query = mask->desc.query;
    d.key = mask->desc.key;
    d.block_m = mask->desc.block_m;
    d.tile_n = mask->desc.tile_n;
    d.head_dim = a->q.extent[3];
    frames f = {.call = call, .pattern = {{FGA_PATTERN_SPATIAL, 0}, {FGA_PATTERN_TEMPORAL, 0}}};
    size_t used = 0;
    fga_places_bytes(call->ctx, &d, &used);
    f.places[0] = f.places[1] = fga_places_make(call);
    lay_out(&d, fga_context_threads(call->ctx), call->workspace, &used, &f);
    fga_places_look(call->ctx, &f.places[0], FGA_PATTERN_SPATIAL);
    fga_places_look(call->ctx, &f.places[1], FGA_PATTERN_TEMPORAL);
    f.samples = fga_min(SAMPLES, d.query.video_valid);
    int64_t found = -1; /* the head whose reaches the patterns have */
    for (f.head = 0; f.head < mask->desc.batch * mask->desc.heads; f.head++) {
        const fga_head_setting *setting = &call->heads[f.head];
        if (setting->dense) {
            fill_head(&f, 0);
            continue;
        }
        if (!has_reaches(&f, found)) {
            find_reach(&f, 0, call->grid[0] - 1);
            find_reach(&f, 1, call->grid[1] * call->grid[2] - 1);
            found = f.head;
        }
        choose(&f);
    }
}
