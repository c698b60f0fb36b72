/* libFuzzer target: any bytes as a saved session. Masks' checksums are put right first, or none would get past them.
 * Whatever loads must save to the bytes that it came from, and attend. */
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

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static fga_context *ctx;
    if (ctx == NULL) {
        fga_context_options options = fga_context_options_default();
        options.threads = 1;
        require(fga_context_create(&options, &ctx) == FGA_OK);
    }
    fga_session *session = make(ctx);
    blob in = {malloc(size + 1), size}, out = {NULL, 0};
    if (size > 0) {
        memcpy(in.bytes, data, size);
    }
    put_checksums(in.bytes, size);
    if (fga_session_load(session, in.bytes, size) == FGA_OK) {
        uint64_t bytes, steps = get(in.bytes + 16);
        require(fga_session_save(session, NULL, NULL, &bytes) == FGA_OK && bytes == size);
        out.bytes = malloc(size);
        require(fga_session_save(session, append, &out, NULL) == FGA_OK);
        require(out.count == size && memcmp(in.bytes, out.bytes, size) == 0);
        attend(session, steps > 0 ? (int)steps : 1);
    }
    fga_session_destroy(&session);
    free(in.bytes);
    free(out.bytes);
    return 0;
}
