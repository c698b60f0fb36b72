/* select_places.c - static selections: STA's window of boxes, Radial Attention, and SVG's two patterns.
 *
 * A block's queries mark what they keep (boxes, cells, frames or places in a frame); a tile is kept if any of its keys
 * is marked. So a block costs one pass over the keys, whatever the order of the tokens.
 */
#include "attn/select_places.h"

#include "attn/policy.h"

#include <math.h>
#include <string.h>

enum { BOX = 4 }; /* cells of a box along each axis */

typedef struct marks {
    int32_t *change; /* [cells+2]: marks begin and end here; their running sum is what counts */
    uint64_t *row;   /* [words] */
} marks;

static int64_t cells_of(const int64_t grid[3])
{
    return grid[0] * grid[1] * grid[2];
}

static bool worker_bytes(int64_t cells, int64_t tiles, size_t *bytes)
{
    return fga_size_add(bytes, cells + 2, sizeof(int32_t)) &&
           fga_size_add(bytes, fga_ceil_div(tiles, 64), sizeof(uint64_t));
}

bool fga_places_bytes(fga_context *ctx, const fga_predict_desc *desc, size_t *bytes)
{
    size_t worker = 0, list = 0;
    int64_t cells = desc->key.video_valid;
    return fga_size_add(&list, cells, sizeof(int32_t)) && fga_size_add(bytes, 2, list) &&
           worker_bytes(cells, fga_predict_tiles(desc), &worker) &&
           fga_size_add(bytes, fga_context_threads(ctx), worker);
}

fga_places fga_places_make(const fga_select_call *call)
{
    const fga_mask *mask = call->selector->mask;
    int64_t cells = cells_of(call->grid);
    size_t at = 0;
    fga_places p = {.selector = call->selector, .grid = {call->grid[0], call->grid[1], call->grid[2]}};
    p.cell = call->workspace;
    fga_size_add(&at, cells, sizeof *p.cell);
    p.mark_of = (int32_t *)((char *)call->workspace + at);
    fga_size_add(&at, cells, sizeof *p.mark_of);
    p.workers = (char *)call->workspace + at;
    worker_bytes(cells, mask->tiles, &p.worker_bytes);
    if (cells > 0) { /* cannot fail: fga_refresh_init has checked order and grid */
        fga_order_build(call->ctx, call->selector->policy->order, p.grid[0], p.grid[1], p.grid[2], p.cell);
    }
    return p;
}

/* ---- what a key looks at --------------------------------------------------------------------------- */

typedef struct look {
    fga_places *places;
    fga_pattern_kind kind;
} look;

enum { LOOK_CHUNK = 4096 };

static int64_t box_of(const int64_t grid[3], int64_t cell)
{
    int64_t w = cell % grid[2] / BOX, h = cell / grid[2] % grid[1] / BOX, t = cell / (grid[1] * grid[2]) / BOX;
    return (t * fga_ceil_div(grid[1], BOX) + h) * fga_ceil_div(grid[2], BOX) + w;
}

static void look_up(void *arg, int64_t item, int worker)
{
    (void)worker;
    const look *l = arg;
    fga_places *p = l->places;
    int64_t area = p->grid[1] * p->grid[2], end = fga_min((item + 1) * LOOK_CHUNK, cells_of(p->grid));
    for (int64_t j = item * LOOK_CHUNK; j < end; j++) {
        int64_t cell = p->cell[j], mark = cell;
        if (l->kind == FGA_PATTERN_WINDOW) {
            mark = box_of(p->grid, cell);
        } else if (l->kind == FGA_PATTERN_SPATIAL) {
            mark = cell / area;
        } else if (l->kind == FGA_PATTERN_TEMPORAL) {
            mark = cell < area ? area : cell % area; /* one mark beside the places, for all of frame 0 */
        }
        p->mark_of[j] = (int32_t)mark;
    }
}

void fga_places_look(fga_context *ctx, fga_places *places, fga_pattern_kind kind)
{
    fga_parallel_for(ctx, fga_ceil_div(cells_of(places->grid), LOOK_CHUNK), look_up, &(look){places, kind});
}

/* ---- what a query marks ---------------------------------------------------------------------------- */

static void mark(int32_t *change, int64_t begin, int64_t end)
{
    change[begin]++;
    change[end]--;
}

/* Along an axis of nb boxes: the window of w boxes around b, moved inside. */
static int64_t window_begin(int64_t b, int64_t w, int64_t nb)
{
    return fga_max(0, fga_min(b - w / 2, fga_max(nb - w, 0)));
}

static void mark_window(const fga_places *p, int64_t cell, int32_t *change)
{
    const int32_t *w = p->selector->policy->window;
    const int64_t at[3] = {cell / (p->grid[1] * p->grid[2]), cell / p->grid[2] % p->grid[1], cell % p->grid[2]};
    int64_t lo[3], hi[3], boxes[3];
    for (int i = 0; i < 3; i++) {
        boxes[i] = fga_ceil_div(p->grid[i], BOX);
        lo[i] = window_begin(at[i] / BOX, w[i], boxes[i]);
        hi[i] = fga_min(lo[i] + w[i], boxes[i]);
    }
    for (int64_t t = lo[0]; t < hi[0]; t++) {
        for (int64_t h = lo[1]; h < hi[1]; h++) {
            int64_t row = (t * boxes[1] + h) * boxes[2];
            mark(change, row + lo[2], row + hi[2]);
        }
    }
}

/* With r the frame distance rounded down to a power of two: places at most width*area/r - 1 away; and, in frames at
 * certain distances, the same place. */
static void mark_radial(const fga_places *p, int64_t cell, int32_t *change)
{
    int64_t area = p->grid[1] * p->grid[2], frame = cell / area, k = cell % area;
    double reach = p->selector->policy->width * (double)area;
    mark(change, 0, area);
    for (int64_t f = 0; f < p->grid[0]; f++) {
        int64_t d = f < frame ? frame - f : f - frame, r = 1;
        while (2 * r <= d) {
            r *= 2;
        }
        double side = floor(reach / (double)r);
        if (side >= 1) {
            int64_t away = side < (double)area ? (int64_t)side - 1 : area;
            mark(change, f * area + fga_max(0, k - away), f * area + fga_min(area, k + away + 1));
        } else if (fmod((double)d, ceil((double)r / reach)) == 0) {
            mark(change, f * area + k, f * area + k + 1);
        }
    }
}

static void mark_query(const fga_places *p, const fga_pattern *pattern, int64_t cell, int32_t *change)
{
    int64_t area = p->grid[1] * p->grid[2], centre = pattern->kind == FGA_PATTERN_SPATIAL ? cell / area : cell % area;
    int64_t end = pattern->kind == FGA_PATTERN_SPATIAL ? p->grid[0] : area;
    switch (pattern->kind) {
    case FGA_PATTERN_WINDOW:
        mark_window(p, cell, change);
        return;
    case FGA_PATTERN_RADIAL:
        mark_radial(p, cell, change);
        return;
    case FGA_PATTERN_SPATIAL:
        mark(change, 0, 1);
        break;
    case FGA_PATTERN_TEMPORAL:
        mark(change, area, area + 1);
        break;
    }
    mark(change, fga_max(0, centre - pattern->reach), fga_min(end, centre + pattern->reach + 1));
}

const uint64_t *fga_places_row(const fga_places *p, const fga_pattern *pattern, int64_t u, int worker)
{
    const fga_mask *mask = p->selector->mask;
    const fga_sequence *s = &mask->desc.query;
    int64_t cells = cells_of(p->grid), shift = __builtin_ctz((unsigned)mask->desc.tile_n);
    marks m = {(int32_t *)(p->workers + (size_t)worker * p->worker_bytes), NULL};
    size_t used = 0;
    fga_size_add(&used, cells + 2, sizeof *m.change);
    m.row = (uint64_t *)((char *)m.change + used);
    memset(m.change, 0, (size_t)(cells + 2) * sizeof *m.change);
    memset(m.row, 0, (size_t)mask->words * sizeof *m.row);
    int64_t begin = fga_max(u * mask->desc.block_m, s->prefix);
    int64_t end = fga_min((u + 1) * mask->desc.block_m, s->prefix + s->video_valid);
    for (int64_t i = begin; i < end; i++) {
        mark_query(p, pattern, p->cell[i - s->prefix], m.change);
    }
    for (int64_t i = 0; i <= cells; i++) {
        m.change[i + 1] += m.change[i];
    }
    for (int64_t j = 0; j < cells; j++) {
        int64_t v = (mask->desc.key.prefix + j) >> shift;
        m.row[v / 64] |= (uint64_t)(m.change[p->mark_of[j]] > 0) << (v % 64);
    }
    return m.row;
}

/* ---- all rows ------------------------------------------------------------------------------------- */

typedef struct run {
    const fga_select_call *call;
    fga_places places;
    fga_pattern pattern;
} run;

/* One block of every head: the pattern is the same for all. */
static void fill_block(void *arg, int64_t u, int worker)
{
    const run *r = arg;
    fga_mask *mask = r->call->selector->mask;
    const uint64_t *kept = fga_places_row(&r->places, &r->pattern, u, worker);
    for (int64_t row = u; row < mask->rows; row += mask->blocks) {
        uint64_t *bits = fga_mask_bits(mask, row);
        fga_spans free;
        if (fga_selector_begin(r->call->selector, &r->call->heads[row / mask->blocks], row, &free) == FGA_ROW_OPEN) {
            for (int64_t w = 0; w < mask->words; w++) {
                bits[w] |= kept[w];
            }
        }
        fga_selector_seal(r->call->selector, row);
    }
}

void fga_select_places(const fga_select_call *call)
{
    bool window = call->selector->policy->select == FGA_SELECT_WINDOW;
    run r = {call, fga_places_make(call), {window ? FGA_PATTERN_WINDOW : FGA_PATTERN_RADIAL, 0}};
    fga_places_look(call->ctx, &r.places, r.pattern.kind);
    fga_parallel_for(call->ctx, call->selector->mask->blocks, fill_block, &r);
}
