/* libFuzzer target: any bytes as the state of a generation. The first byte chooses: 0, they follow as they are; else
 * what follows are changes, of three bytes each (place, place, value), to a state that was written. The checksum is put
 * right first, or nothing would get past it. Whatever is accepted must fill what it was asked to and be written again.
 */
#include "video/state.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { ELEMENTS = 6, HISTORY = 18, STEPS = 5 };

static const char path[] = "/tmp/fgattn-fuzz.fgstate";

typedef struct blob {
    uint8_t *bytes;
    size_t size;
} blob;

static void require(bool holds)
{
    if (!holds) {
        abort();
    }
}

static fga_session *make_session(fga_context *ctx)
{
    fga_session_desc d = fga_session_desc_default();
    fga_session *session;
    require(fga_policy_parse(ctx, "dfs,block_m=16,tile_n=4,phases=0/1:0.3", &d.policy) == FGA_OK);
    d.query_heads = d.kv_heads = 1;
    d.head_dim = 8;
    d.sequence = fga_sequence_video(40);
    require(fga_session_create(ctx, &d, &session) == FGA_OK);
    return session;
}

static blob read_state(void)
{
    FILE *file = fopen(path, "rb");
    require(file != NULL && fseek(file, 0, SEEK_END) == 0);
    blob b = {NULL, (size_t)ftell(file)};
    b.bytes = malloc(b.size);
    rewind(file);
    require(b.bytes != NULL && fread(b.bytes, 1, b.size, file) == b.size && fclose(file) == 0);
    return b;
}

static blob make_input(const blob *genuine, const uint8_t *data, size_t size)
{
    blob b = {malloc(genuine->size + size + 1), 0};
    if (size < 2 || data[0] == 0) {
        b.size = size > 0 ? size - 1 : 0;
        if (b.size > 0) {
            memcpy(b.bytes, data + 1, b.size);
        }
        return b;
    }
    b.size = genuine->size;
    memcpy(b.bytes, genuine->bytes, b.size);
    for (size_t i = 1; i + 3 <= size; i += 3) {
        b.bytes[(data[i] | (size_t)data[i + 1] << 8) % b.size] = data[i + 2];
    }
    uint8_t *exact = malloc(b.size); /* so that reading past the end shows */
    memcpy(exact, b.bytes, b.size);
    free(b.bytes);
    b.bytes = exact;
    return b;
}

static void put_checksum(blob *b)
{
    static const char key[] = "\"checksum\":\"";
    char digits[9];
    for (size_t at = 8; at + sizeof key - 1 + 8 <= b->size; at++) {
        if (memcmp(b->bytes + at, key, sizeof key - 1) == 0) {
            memcpy(b->bytes + at + sizeof key - 1, "00000000", 8);
            snprintf(digits, sizeof digits, "%08lx", crc32_z(0, b->bytes, b->size));
            memcpy(b->bytes + at + sizeof key - 1, digits, 8);
            return;
        }
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static fga_context *ctx;
    static blob genuine;
    static float latents[ELEMENTS], history[HISTORY];
    static cJSON *fields;
    fgv_state state = {.path = path,
                       .latents = latents,
                       .elements = ELEMENTS,
                       .history = history,
                       .history_count = HISTORY,
                       .done = 2,
                       .steps = STEPS};
    if (ctx == NULL) {
        fga_context_options options = fga_context_options_default();
        options.threads = 1;
        require(fga_context_create(&options, &ctx) == FGA_OK);
        fields = cJSON_CreateObject();
        require(fgv_state_field(fields, "prompt", "%s", "a \"red\" ball") && fgv_state_field(fields, "seed", "%d", 3));
    }
    state.ctx = ctx;
    state.fields = fields;
    state.session = make_session(ctx);
    if (genuine.bytes == NULL) {
        require(fgv_state_write(&state) == FGA_OK);
        genuine = read_state();
    }
    blob in = make_input(&genuine, data, size);
    put_checksum(&in);
    if (fgv_state_parse(&state, in.bytes, in.size) == FGA_OK) {
        require(state.done >= 1 && state.done <= STEPS && state.totals.denoise_s >= 0);
        require(fgv_state_write(&state) == FGA_OK);
    }
    fga_session_destroy(&state.session);
    free(in.bytes);
    return 0;
}
