/* estimate.c - the mass that the best K tiles of a row hold, for all K at once: sorted scores, summed up. */
#include "attn/estimate.h"

#include "base/context.h"
#include "base/half.h"

#include <math.h>
#include <string.h>

/* Of a head at most so many rows are sorted, and its K is found among so many: an estimate is all it is, and what
 * follows measures. Up to these sizes nothing is left out. */
enum { MOST_BLOCKS = 64, MOST_LEVELS = 1024 };

static const double one = 1099511627776.0; /* 2^40: masses are summed as integers, so that no order matters */

fga_status fga_estimator_init(fga_context *ctx, const fga_predict_desc *desc, fga_estimator *e)
{
    fga_predict_desc mass = *desc;
    mass.score = FGA_SCORE_MASS;
    mass.gate_q = mass.gate_k = 0;
    *e = (fga_estimator){.heads = desc->batch * desc->query_heads};
    FGA_TRY(fga_scorer_init(ctx, &mass, &e->scorer));
    e->levels = fga_max(1, fga_min(e->scorer.tiles, MOST_LEVELS));
    e->stride = fga_max(1, fga_ceil_div(e->scorer.blocks, MOST_BLOCKS));
    e->workspace_bytes = e->scorer.workspace_bytes;
    int64_t workers = fga_context_threads(ctx);
    bool fits = fga_size_add(&e->curve_bytes, e->heads * (e->levels + 1), sizeof(int64_t)) &&
                fga_size_add(&e->worker_bytes, 2 * e->scorer.tiles, sizeof(uint32_t)) &&
                fga_size_add(&e->workspace_bytes, 1, e->curve_bytes) &&
                fga_size_add(&e->workspace_bytes, workers, e->worker_bytes);
    return fits ? FGA_OK : fga_context_fail(ctx, FGA_ERR_UNSUPPORTED, "a recall target for so many tiles is too large");
}

/* ---- one row ---------------------------------------------------------------------------------------- */

typedef struct run {
    const fga_estimator *estimator;
    const fga_estimate_call *call;
    _Atomic int64_t
        *curve; /* [heads][levels + 1]: weighted mass of the best tiles of each level; 0: of weights alone */
    char *scratch;
} run;

/* Sorts numbers of 32 bits, falling: three rounds of counting digits. The result is in x. */
static void sort_falling(uint32_t *x, uint32_t *spare, int64_t n)
{
    static const int shifts[3] = {0, 11, 22};
    for (int r = 0; r < 3; r++) {
        int64_t at[2048] = {0}, sum = 0;
        for (int64_t i = 0; i < n; i++) {
            at[x[i] >> shifts[r] & 2047]++;
        }
        for (int digit = 2047; digit >= 0; digit--) {
            int64_t count = at[digit];
            at[digit] = sum;
            sum += count;
        }
        for (int64_t i = 0; i < n; i++) {
            spare[at[x[i] >> shifts[r] & 2047]++] = x[i];
        }
        uint32_t *swap = x;
        x = spare;
        spare = swap;
    }
    memcpy(spare, x, (size_t)n * sizeof *x); /* three swaps: back into the caller's x */
}

/* Masses are not negative, so their bits order them; NaN counts as nothing. */
static uint32_t bits_of(float mass)
{
    return mass > 0 ? fga_f32_bits(mass) : 0;
}

static int64_t level_count(const run *r, int64_t level)
{
    return fga_ceil_div(level * r->call->selector->mask->live_tiles, r->estimator->levels);
}

static int64_t fixed(double mass, int64_t weight)
{
    return (int64_t)(fmin(mass, 2) * one + 0.5) * weight;
}

/* What the row keeps at every level: forced tiles, then the best others, at least one. */
static void add_row(const run *r, const fga_scored_row *row, int64_t weight, _Atomic int64_t *curve)
{
    const fga_selector *s = r->call->selector;
    uint32_t *mass = (uint32_t *)(r->scratch + (size_t)row->worker * r->estimator->worker_bytes);
    int64_t n = 0, forced = 0, taken = 0;
    double sum = 0;
    for (int i = 0; i < s->text_tiles.count; i++) {
        for (int64_t v = s->text_tiles.begin[i]; v < s->text_tiles.end[i]; v++) {
            sum += (double)fga_bits_f32(bits_of(row->scores[v]));
            forced++;
        }
    }
    for (int i = 0; i < s->video_only.count; i++) {
        for (int64_t v = s->video_only.begin[i]; v < s->video_only.end[i]; v++) {
            mass[n++] = bits_of(row->scores[v]);
        }
    }
    sort_falling(mass, mass + r->estimator->scorer.tiles, n);
    for (int64_t level = 1; level <= r->estimator->levels; level++) {
        int64_t wanted = fga_min(n, fga_max(1, level_count(r, level) - forced));
        for (; taken < wanted; taken++) {
            sum += (double)fga_bits_f32(mass[taken]);
        }
        atomic_fetch_add_explicit(&curve[level], fixed(sum, weight), memory_order_relaxed);
    }
}

static void take_row(void *arg, const fga_scored_row *row)
{
    const run *r = arg;
    const fga_scorer *scorer = &r->estimator->scorer;
    const fga_selector *s = r->call->selector;
    int64_t u = row->row % scorer->blocks, m = scorer->desc.block_m, levels = r->estimator->levels;
    if (u % r->estimator->stride != r->estimator->stride / 2) {
        return;
    }
    int64_t text = fga_spans_count(&s->text_queries, u * m, (u + 1) * m);
    int64_t weight = fga_spans_count(&s->mask->query_valid, u * m, (u + 1) * m) - text;
    if (weight == 0) {
        return;
    }
    _Atomic int64_t *curve = r->curve + row->row / scorer->blocks * (levels + 1);
    atomic_fetch_add_explicit(&curve[0], weight, memory_order_relaxed);
    if (text > 0) { /* dense, at any level */
        for (int64_t level = 1; level <= levels; level++) {
            atomic_fetch_add_explicit(&curve[level], fixed(1, weight), memory_order_relaxed);
        }
        return;
    }
    add_row(r, row, weight, curve);
}

/* ---- all rows --------------------------------------------------------------------------------------- */

fga_status fga_estimator_run(const fga_estimator *e, const fga_estimate_call *call)
{
    char *base = (char *)call->workspace + e->scorer.workspace_bytes;
    run r = {e, call, (_Atomic int64_t *)(void *)base, base + e->curve_bytes};
    for (int64_t i = 0; i < e->heads * (e->levels + 1); i++) {
        atomic_init(&r.curve[i], 0);
    }
    FGA_TRY(fga_scorer_run(
        &e->scorer,
        &(fga_score_call){.q = call->q, .k = call->k, .take = take_row, .arg = &r, .workspace = call->workspace}));
    for (int64_t head = 0; head < e->heads; head++) {
        const _Atomic int64_t *curve = r.curve + head * (e->levels + 1);
        double wanted = (call->recall - 1e-6) * one * (double)curve[0]; /* masses are sums in f32 */
        int64_t level = 1;
        while (level < e->levels && (double)curve[level] < wanted) {
            level++;
        }
        call->counts[head] = level_count(&r, level);
    }
    return FGA_OK;
}
