/* select_custom.c - the caller's function says what each row keeps. */
#include "attn/select.h"

#include <string.h>

typedef struct run {
    const fga_select_call *call;
    size_t worker_bytes;
} run;

static void keep_row(void *arg, int64_t row, int worker)
{
    const run *r = arg;
    const fga_selector *s = r->call->selector;
    fga_mask *mask = s->mask;
    uint8_t *keep = (uint8_t *)r->call->workspace + (size_t)worker * r->worker_bytes;
    uint64_t *bits = fga_mask_bits(mask, row);
    int64_t head = row / mask->blocks;
    fga_score_row at = r->call->at;
    at.batch = head / mask->desc.heads;
    at.head = head % mask->desc.heads;
    at.block = row % mask->blocks;
    at.tiles = mask->tiles;
    memset(keep, 0, (size_t)mask->tiles);
    s->policy->custom_keep(s->policy->custom_user, &at, keep);
    fga_spans free;
    if (fga_selector_begin(s, &r->call->heads[head], row, &free) == FGA_ROW_OPEN) {
        for (int64_t v = 0; v < mask->tiles; v++) {
            bits[v / 64] |= (uint64_t)(keep[v] != 0) << (v % 64);
        }
    }
    fga_selector_seal(s, row);
}

static bool worker_bytes(int64_t tiles, size_t *bytes)
{
    return fga_size_add(bytes, tiles, 1);
}

bool fga_custom_bytes(fga_context *ctx, int64_t tiles, size_t *bytes)
{
    size_t worker = 0;
    return worker_bytes(tiles, &worker) && fga_size_add(bytes, fga_context_threads(ctx), worker);
}

void fga_select_custom(const fga_select_call *call)
{
    run r = {call, 0};
    worker_bytes(call->selector->mask->tiles, &r.worker_bytes);
    fga_parallel_for(call->ctx, call->selector->mask->rows, keep_row, &r);
}
