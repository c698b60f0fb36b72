/* session_io.c - what lives across steps as bytes, so that a run can go on in another process.
 *
 * Little-endian, version 1:
 *   0  "FGASESS1"   8 u64 slots   16 i64 steps of the generation
 *  24  u64 bytes of masks at their peak, i64 x 6 and f64 x 13: the report's counters and sums, in the order of
 *      members_of
 *      then for every slot (layer, branch): i64 refreshed, looked, look; f64 recall, strain; u64 bytes of its mask, 0
 *      for none; the mask as fga_mask_save writes it
 *
 * Masks carry checksums of their own; the rest is checked for sense only.
 */
#include "attn/session.h"

#include "base/context.h"

#include <inttypes.h>
#include <limits.h>
#include <string.h>

enum { COUNTERS = 6, SUMS = 13, HEADER_BYTES = 32 + 8 * (COUNTERS + SUMS), SLOT_BYTES = 48 };
static const uint8_t magic[8] = {'F', 'G', 'A', 'S', 'E', 'S', 'S', '1'};

static void put(uint8_t *at, uint64_t value)
{
    for (int i = 0; i < 8; i++) {
        at[i] = (uint8_t)(value >> (8 * i));
    }
}

static uint64_t get(const uint8_t *at)
{
    uint64_t value = 0;
    for (int i = 0; i < 8; i++) {
        value |= (uint64_t)at[i] << (8 * i);
    }
    return value;
}

static void put_double(uint8_t *at, double value)
{
    uint64_t bits;
    memcpy(&bits, &value, sizeof bits);
    put(at, bits);
}

static double get_double(const uint8_t *at)
{
    uint64_t bits = get(at);
    double value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

/* Where the report's members are, so that saving and loading cannot differ. */
typedef struct members {
    int64_t *counters[COUNTERS];
    double *sums[SUMS];
} members;

static members members_of(fga_session *s)
{
    fga_session_report *r = &s->report;
    return (members){{&r->calls_dense, &r->calls_refresh, &r->calls_reuse, &r->heads_made_dense, &r->refreshes_early,
                      &r->measured_calls},
                     {&r->pairs_total, &r->pairs_kept, &r->sparse_total, &r->sparse_kept, &r->sparse_summaries,
                      &r->score_s, &r->attend_s, &r->measure_s, &r->recall_worst, &r->output_error_worst,
                      &s->recall_sum, &s->p05_sum, &s->error_sum}};
}

/* ---- saving ---------------------------------------------------------------------------------------- */

typedef struct writer {
    bool (*write)(void *user, const void *bytes, size_t count);
    void *user;
} writer;

static fga_status emit(const fga_session *s, const writer *w, const void *bytes, size_t count)
{
    return w->write(w->user, bytes, count) ? FGA_OK : fga_context_fail(s->ctx, FGA_ERR_INTERRUPTED, "saving stopped");
}

static fga_status mask_size(const fga_session *s, const fga_session_slot *slot, size_t *bytes)
{
    *bytes = 0;
    return slot->mask != NULL ? fga_mask_save(s->ctx, slot->mask, NULL, bytes) : FGA_OK;
}

static fga_status save_header(const fga_session *s, const writer *w)
{
    uint8_t header[HEADER_BYTES], *at = header + 32;
    fga_session copy = *s; /* members_of points into what may be written to */
    members m = members_of(&copy);
    memcpy(header, magic, sizeof magic);
    put(header + 8, (uint64_t)s->slot_count);
    put(header + 16, (uint64_t)s->steps);
    put(header + 24, s->report.mask_bytes_peak);
    for (int i = 0; i < COUNTERS; i++, at += 8) {
        put(at, (uint64_t)*m.counters[i]);
    }
    for (int i = 0; i < SUMS; i++, at += 8) {
        put_double(at, *m.sums[i]);
    }
    return emit(s, w, header, sizeof header);
}

/* scratch holds the largest mask. */
static fga_status save_slot(const fga_session *s, const fga_session_slot *slot, const writer *w, void *scratch)
{
    uint8_t head[SLOT_BYTES];
    size_t bytes;
    FGA_TRY(mask_size(s, slot, &bytes));
    put(head, (uint64_t)(int64_t)slot->refreshed);
    put(head + 8, (uint64_t)(int64_t)slot->looked);
    put(head + 16, (uint64_t)(int64_t)slot->look);
    put_double(head + 24, slot->recall);
    put_double(head + 32, slot->strain);
    put(head + 40, bytes);
    FGA_TRY(emit(s, w, head, sizeof head));
    if (bytes == 0) {
        return FGA_OK;
    }
    FGA_TRY(fga_mask_save(s->ctx, slot->mask, scratch, &bytes));
    return emit(s, w, scratch, bytes);
}

fga_status fga_session_save(const fga_session *s, bool (*write)(void *user, const void *bytes, size_t count),
                            void *user, uint64_t *bytes)
{
    if (s == NULL) {
        return FGA_ERR_ARGUMENT;
    }
    FGA_TRY(fga_check_cpu(s->ctx, "saving a session"));
    uint64_t all = HEADER_BYTES;
    size_t most = 0, one;
    for (int64_t i = 0; i < s->slot_count; i++) {
        FGA_TRY(mask_size(s, &s->slots[i], &one));
        most = one > most ? one : most;
        all += SLOT_BYTES + one;
    }
    if (bytes != NULL) {
        *bytes = all;
    }
    if (write == NULL) {
        return FGA_OK;
    }
    void *scratch = fga_alloc(s->ctx, most);
    if (scratch == NULL) {
        return fga_context_fail(s->ctx, FGA_ERR_MEMORY, "no memory for a mask of %zu bytes", most);
    }
    const writer w = {write, user};
    fga_status status = save_header(s, &w);
    for (int64_t i = 0; status == FGA_OK && i < s->slot_count; i++) {
        status = save_slot(s, &s->slots[i], &w, scratch);
    }
    fga_free(s->ctx, scratch);
    return status;
}

/* ---- loading ---------------------------------------------------------------------------------------- */

typedef struct reader {
    const uint8_t *at;
    size_t left;
} reader;

static fga_status load_header(fga_session *s, reader *in)
{
    if (in->left < HEADER_BYTES || memcmp(in->at, magic, sizeof magic) != 0) {
        return fga_context_fail(s->ctx, FGA_ERR_DATA, "not a session: %zu bytes without its header", in->left);
    }
    if (get(in->at + 8) != (uint64_t)s->slot_count) {
        return fga_context_fail(s->ctx, FGA_ERR_DATA,
                                "the session was of %" PRIu64 " layers times branches, wanted %" PRId64,
                                get(in->at + 8), s->slot_count);
    }
    uint64_t steps = get(in->at + 16);
    if (steps > 1 << 20) {
        return fga_context_fail(s->ctx, FGA_ERR_DATA, "the session was of %" PRIu64 " steps", steps);
    }
    members m = members_of(s);
    const uint8_t *at = in->at + 32;
    for (int i = 0; i < COUNTERS; i++, at += 8) {
        if (get(at) > INT64_MAX) {
            return fga_context_fail(s->ctx, FGA_ERR_DATA, "counter %d of the session is negative", i);
        }
        *m.counters[i] = (int64_t)get(at);
    }
    for (int i = 0; i < SUMS; i++, at += 8) {
        *m.sums[i] = get_double(at);
    }
    s->steps = (int)steps;
    s->report.mask_bytes_peak = get(in->at + 24);
    *in = (reader){at, in->left - HEADER_BYTES};
    return FGA_OK;
}

static bool same_sequence(const fga_sequence *a, const fga_sequence *b)
{
    return a->prefix == b->prefix && a->prefix_valid == b->prefix_valid && a->video == b->video &&
           a->video_valid == b->video_valid && a->suffix == b->suffix && a->suffix_valid == b->suffix_valid;
}

/* Whether the mask is one that the slot's refresh would have made. */
static bool fits(const fga_session_slot *slot, const fga_mask *mask)
{
    const fga_mask_desc *a = &mask->desc, *b = &slot->kit->scratch->desc;
    return a->batch == b->batch && a->heads == b->heads && a->block_m == b->block_m && a->tile_n == b->tile_n &&
           same_sequence(&a->query, &b->query) && same_sequence(&a->key, &b->key);
}

/* A step number, -1 for none, or INT_MAX for never. */
static bool get_step(const uint8_t *at, int *step)
{
    int64_t value = (int64_t)get(at);
    *step = (int)value;
    return value >= -1 && value <= INT_MAX;
}

static fga_status load_slot(fga_session *s, int64_t index, reader *in)
{
    fga_session_slot *slot = &s->slots[index];
    if (in->left < SLOT_BYTES || get(in->at + 40) > in->left - SLOT_BYTES) {
        return fga_context_fail(s->ctx, FGA_ERR_DATA, "the session ends in slot %" PRId64 " of %" PRId64, index,
                                s->slot_count);
    }
    size_t bytes = (size_t)get(in->at + 40);
    bool steps =
        get_step(in->at, &slot->refreshed) && get_step(in->at + 8, &slot->looked) && get_step(in->at + 16, &slot->look);
    if (!steps || slot->refreshed >= s->steps || (bytes > 0) != (slot->refreshed >= 0) ||
        (bytes > 0 && slot->kit == NULL)) {
        return fga_context_fail(s->ctx, FGA_ERR_DATA, "slot %" PRId64 " of the session has %s", index,
                                bytes > 0 ? "a mask that no refresh of it made" : "a refresh without a mask");
    }
    slot->recall = get_double(in->at + 24);
    slot->strain = get_double(in->at + 32);
    if (bytes > 0) {
        FGA_TRY(fga_mask_load(s->ctx, in->at + SLOT_BYTES, bytes, &slot->mask));
        if (!fits(slot, slot->mask)) {
            return fga_context_fail(s->ctx, FGA_ERR_DATA, "the mask in slot %" PRId64 " is not of the session's shape",
                                    index);
        }
        s->report.mask_bytes += fga_mask_bytes(slot->mask);
    }
    *in = (reader){in->at + SLOT_BYTES + bytes, in->left - SLOT_BYTES - bytes};
    return FGA_OK;
}

static fga_status load(fga_session *s, reader in)
{
    FGA_TRY(load_header(s, &in));
    for (int64_t i = 0; i < s->slot_count; i++) {
        FGA_TRY(load_slot(s, i, &in));
    }
    return in.left == 0 ? FGA_OK
                        : fga_context_fail(s->ctx, FGA_ERR_DATA, "the session has %zu bytes too many", in.left);
}

/* As it was made. */
static void forget(fga_session *s)
{
    const char *variant = s->report.variant;
    for (int64_t i = 0; i < s->slot_count; i++) {
        fga_mask_release(&s->slots[i].mask);
        s->slots[i] = (fga_session_slot){.kit = s->slots[i].kit, .refreshed = -1};
    }
    s->report = (fga_session_report){.variant = variant};
    s->steps = 0;
    s->recall_sum = s->p05_sum = s->error_sum = 0;
}

fga_status fga_session_load(fga_session *s, const void *bytes, size_t count)
{
    if (s == NULL || bytes == NULL) {
        return fga_context_fail(s != NULL ? s->ctx : NULL, FGA_ERR_ARGUMENT, "%s is NULL",
                                s == NULL ? "session" : "bytes");
    }
    FGA_TRY(fga_check_cpu(s->ctx, "loading a session"));
    if (s->steps != 0) {
        return fga_context_fail(s->ctx, FGA_ERR_ARGUMENT, "the session has attended already, wanted a new one");
    }
    fga_status status = load(s, (reader){bytes, count});
    if (status != FGA_OK) {
        forget(s);
    }
    return status;
}
