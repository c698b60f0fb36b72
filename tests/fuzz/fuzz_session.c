/* libFuzzer target: any bytes as a saved session. The first byte chooses: 0, they follow as they are; else what follows
 * are changes, of three bytes each (place, place, value), to a session that was saved. Masks' checksums are put right
 * first, or none would get past them. Whatever loads must save to the bytes that it came from, and attend. */
#include "fgattn.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { TOKENS = 40, DIM = 8, HEADER_BYTES = 184, SLOT_BYTES = 48 };

typedef struct blob {
    uint8_t *bytes;
    size_t count;
} blob;

static void require(bool holds)
{
    if (!holds) {
        abort();
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

static void put_checksums(uint8_t *bytes, size_t size)
{
    for (size_t at = HEADER_BYTES; at + SLOT_BYTES <= size;) {
        uint64_t mask = get(bytes + at + 40), hash = 0xcbf29ce484222325u;
        at += SLOT_BYTES;
        if (mask > size - at) {
            return;
        }
        for (uint64_t i = 16; i < mask; i++) {
            hash = (hash ^ bytes[at + i]) * 0x100000001b3u;
        }
        for (int i = 0; i < 8 && mask >= 16; i++) {
            bytes[at + 8 + (size_t)i] = (uint8_t)(hash >> (8 * i));
        }
        at += mask;
    }
}

static bool append(void *user, const void *bytes, size_t count)
{
    blob *b = user;
    memcpy(b->bytes + b->count, bytes, count);
    b->count += count;
    return true;
}

static fga_session *make(fga_context *ctx)
{
    fga_session_desc d = fga_session_desc_default();
    fga_session *session;
    require(fga_policy_parse(ctx, "dfs,block_m=16,tile_n=4,phases=0/1:0.3", &d.policy) == FGA_OK);
    d.query_heads = d.kv_heads = 1;
    d.head_dim = DIM;
    d.layers = 2;
    d.sequence = fga_sequence_video(TOKENS);
    require(fga_session_create(ctx, &d, &session) == FGA_OK);
    return session;
}

static void attend(fga_session *session, int steps)
{
    static float data[TOKENS * DIM], o[TOKENS * DIM];
    fga_attend_args args = fga_attend_args_default();
    args.q = args.k = args.v = fga_tensor_bhsd(data, FGA_F32, 1, 1, TOKENS, DIM);
    args.o = fga_tensor_bhsd(o, FGA_F32, 1, 1, TOKENS, DIM);
    void *workspace = aligned_alloc(64, (fga_session_workspace(session) + 127) / 64 * 64);
    for (int layer = 0; layer < 2; layer++) {
        require(fga_session_attend(session, steps - 1, steps, layer, 0, &args, workspace, NULL) == FGA_OK);
    }
    free(workspace);
}

static blob save(const fga_session *session)
{
    uint64_t bytes;
    require(fga_session_save(session, NULL, NULL, &bytes) == FGA_OK);
    blob b = {malloc(bytes), 0};
    require(fga_session_save(session, append, &b, NULL) == FGA_OK && b.count == bytes);
    return b;
}

static blob make_input(fga_context *ctx, const uint8_t *data, size_t size)
{
    if (size < 2 || data[0] == 0) {
        blob b = {malloc(size + 1), size > 0 ? size - 1 : 0};
        if (size > 1) {
            memcpy(b.bytes, data + 1, size - 1);
        }
        return b;
    }
    fga_session *session = make(ctx);
    attend(session, 3);
    blob b = save(session);
    fga_session_destroy(&session);
    for (size_t i = 1; i + 3 <= size; i += 3) {
        b.bytes[(data[i] | (size_t)data[i + 1] << 8) % b.count] = data[i + 2];
    }
    return b;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static fga_context *ctx;
    if (ctx == NULL) {
        fga_context_options options = fga_context_options_default();
        options.threads = 1;
        require(fga_context_create(&options, &ctx) == FGA_OK);
    }
    fga_session *session = make(ctx);
    blob in = make_input(ctx, data, size);
    put_checksums(in.bytes, in.count);
    if (fga_session_load(session, in.bytes, in.count) == FGA_OK) {
        uint64_t steps = get(in.bytes + 16);
        blob out = save(session);
        require(out.count == in.count && memcmp(in.bytes, out.bytes, in.count) == 0);
        attend(session, steps > 0 ? (int)steps : 1);
        free(out.bytes);
    }
    fga_session_destroy(&session);
    free(in.bytes);
    return 0;
}
