/* mask_order.c - in which order a device takes a mask's blocks of queries, and which of them share a list. A mask that
 * is made on the device is ordered there, alike (cuda/alike.cuh). */
#include "attn/mask.h"

#include "base/context.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

/* ---- blocks that are alike ------------------------------------------------------------------------ */

/* Words of the lists of some blocks that lie side by side. */
typedef struct sample {
    uint32_t words[FGA_ALIKE_BLOCKS][FGA_ALIKE_WORDS];
    bool taken[FGA_ALIKE_BLOCKS];
} sample;

/* Tiles 32 * word ... of a row, as bits. */
static uint32_t word_of(const fga_mask *mask, int64_t row, int64_t word)
{
    if (mask->bits != NULL) {
        return (uint32_t)(fga_mask_bits(mask, row)[word / 2] >> (word % 2 * 32));
    }
    uint32_t bits = 0;
    int64_t first = word * 32, begin = 0, end = first;
    while (fga_mask_row_run(mask, row, end, &begin, &end) && begin < first + 32) {
        int64_t low = fga_max(begin - first, 0), high = fga_min(end - first, 32);
        bits |= (uint32_t)(((uint64_t)1 << high) - ((uint64_t)1 << low));
    }
    return bits;
}

static void take_sample(const fga_mask *mask, int64_t row, int64_t count, sample *s)
{
    for (int64_t i = 0; i < count; i++) {
        for (int64_t j = 0; j < FGA_ALIKE_WORDS; j++) {
            s->words[i][j] = word_of(mask, row + i, j * 2 * mask->words / FGA_ALIKE_WORDS);
        }
        s->taken[i] = false;
    }
}

static int distance(const uint32_t *a, const uint32_t *b)
{
    int apart = 0;
    for (int i = 0; i < FGA_ALIKE_WORDS; i++) {
        apart += __builtin_popcount(a[i] ^ b[i]);
    }
    return apart;
}

/* The block that is nearest to `seen`, the lowest of several; NULL: the lowest of all. */
static int64_t nearest(const sample *s, int64_t count, const uint32_t *seen)
{
    int64_t best = -1;
    int least = 0;
    for (int64_t i = 0; i < count; i++) {
        if (s->taken[i]) {
            continue;
        }
        int apart = seen != NULL ? distance(s->words[i], seen) : 0;
        if (best < 0 || apart < least) {
            best = i;
            least = apart;
        }
    }
    return best;
}

/* Fills company [blocks of a head] with the blocks, `at_once` similar ones at a time: the lowest that is left, and then
 * each time the one that differs least from the union of the group so far. */
static void find_company(const fga_mask *mask, int64_t head_row, int at_once, sample *s, int32_t *company)
{
    for (int64_t first = 0; first < mask->blocks; first += FGA_ALIKE_BLOCKS) {
        int64_t count = fga_min(FGA_ALIKE_BLOCKS, mask->blocks - first);
        uint32_t seen[FGA_ALIKE_WORDS] = {0};
        take_sample(mask, head_row + first, count, s);
        for (int64_t place = 0; place < count; place++) {
            bool begins = place % at_once == 0;
            int64_t next = nearest(s, count, begins ? NULL : seen);
            for (int i = 0; i < FGA_ALIKE_WORDS; i++) {
                seen[i] = s->words[next][i] | (begins ? 0 : seen[i]);
            }
            s->taken[next] = true;
            company[first + place] = (int32_t)(first + next);
        }
    }
}

/* ---- the order ------------------------------------------------------------------------------------ */

typedef struct group_cost {
    int64_t keys, group;
} group_cost;

static int costlier_first(const void *a, const void *b)
{
    const group_cost *x = a, *y = b;
    return x->keys != y->keys ? (x->keys < y->keys) - (x->keys > y->keys)
                              : (x->group > y->group) - (x->group < y->group);
}

static void order_groups(const fga_mask *mask, int64_t head_row, int at_once, const int32_t *company, group_cost *costs,
                         int32_t *order)
{
    int64_t groups = mask->blocks / at_once, rest = mask->blocks % at_once;
    for (int64_t g = 0; g < groups; g++) {
        costs[g] = (group_cost){0, g};
        for (int i = 0; i < at_once; i++) {
            costs[g].keys += mask->row_keys[head_row + company[g * at_once + i]];
        }
    }
    qsort(costs, (size_t)groups, sizeof *costs, costlier_first);
    for (int64_t g = 0; g < groups; g++) {
        memcpy(order + g * at_once, company + costs[g].group * at_once, (size_t)at_once * sizeof *order);
    }
    memcpy(order + groups * at_once, company + groups * at_once, (size_t)rest * sizeof *order);
}

fga_status fga_mask_order_blocks(fga_context *ctx, const fga_mask *mask, int32_t *order)
{
    int at_once = FGA_GPU_AT_ONCE(mask->desc.block_m);
    group_cost *costs = fga_alloc(ctx, (size_t)mask->blocks * sizeof *costs);
    int32_t *company = fga_alloc(ctx, (size_t)mask->blocks * sizeof *company);
    sample *s = at_once > 1 ? fga_alloc(ctx, sizeof *s) : NULL;
    fga_status status = FGA_OK;
    if (costs == NULL || company == NULL || (at_once > 1 && s == NULL)) {
        status = fga_context_fail(ctx, FGA_ERR_MEMORY, "no memory to order %" PRId64 " blocks of a mask", mask->blocks);
        goto cleanup;
    }
    for (int64_t u = 0; u < mask->blocks; u++) {
        company[u] = (int32_t)u;
    }
    for (int64_t row = 0; row < mask->rows; row += mask->blocks) {
        if (at_once > 1) {
            find_company(mask, row, at_once, s, company);
        }
        order_groups(mask, row, at_once, company, costs, order + row);
    }
cleanup:
    fga_free(ctx, costs);
    fga_free(ctx, company);
    fga_free(ctx, s);
    return status;
}
