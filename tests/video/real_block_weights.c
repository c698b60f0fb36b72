#include "real_block_weights.h"

#include "base/half.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { HEAD_DIM = 128, CHANNELS = 16, TEXT = 4096, FREQ = 256, MAX_TENSORS = 64, PIECE = 1 << 15 };

typedef struct entry {
    char name[80];
    int rank;
    int64_t shape[5], count;
    double mean, spread;
    bool f32;
} entry;

typedef struct table {
    int n;
    entry entries[MAX_TENSORS];
} table;

static uint64_t name_seed(const char *name)
{
    uint64_t seed = 0xcbf29ce484222325u; /* FNV-1a */
    for (; *name != '\0'; name++) {
        seed = (seed ^ (unsigned char)*name) * 0x100000001b3u;
    }
    return seed;
}

static double uniform(uint64_t seed, int64_t i)
{
    uint64_t z = seed + (uint64_t)(i + 1) * 0x9e3779b97f4a7c15u; /* splitmix64 */
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    z ^= z >> 31;
    return (double)(z >> 40) / 16777216.0;
}

void real_block_values(const char *name, int64_t n, double mean, double spread, float *out)
{
    uint64_t seed = name_seed(name);
    for (int64_t i = 0; i < n; i++) {
        out[i] = (float)(mean + spread * (2.0 * uniform(seed, i) - 1.0));
    }
}

/* ---- the tensors, in file order ------------------------------------------------------------- */

static entry *add(table *t, const char *name, const char *suffix, int rank, const int64_t *shape)
{
    entry *e = &t->entries[t->n++];
    snprintf(e->name, sizeof e->name, "%s%s", name, suffix);
    e->rank = rank;
    e->count = 1;
    for (int i = 0; i < rank; i++) {
        e->shape[i] = shape[i];
        e->count *= shape[i];
    }
    return e;
}

static void vector(table *t, const char *name, const char *suffix, int64_t n, double mean, bool f32)
{
    entry *e = add(t, name, suffix, 1, &n);
    e->mean = mean, e->spread = 0.5, e->f32 = f32;
}

static void modulation(table *t, const char *name, int64_t rows, int64_t dim)
{
    entry *e = add(t, name, "", 3, (int64_t[]){1, rows, dim});
    e->mean = 0.5, e->spread = 0.5, e->f32 = true;
}

/* Standard deviation gain / sqrt(inputs), as a uniform's half width. */
static double width(double gain, int64_t inputs)
{
    return gain * sqrt(3.0 / (double)inputs);
}

static void dense(table *t, const char *name, int64_t out, int64_t in, double gain, bool f32)
{
    entry *e = add(t, name, ".weight", 2, (int64_t[]){out, in});
    e->mean = 0.0, e->spread = width(gain, in), e->f32 = f32;
    vector(t, name, ".bias", out, 0.125, f32);
}

static void attention(table *t, const char *name, int64_t dim)
{
    static const char *const parts[] = {"to_q", "to_k", "to_v", "to_out.0"};
    char full[80];
    for (int i = 0; i < 4; i++) {
        snprintf(full, sizeof full, "blocks.0.%s.%s", name, parts[i]);
        dense(t, full, dim, dim, 1.0, false);
    }
    for (int i = 0; i < 2; i++) {
        snprintf(full, sizeof full, "blocks.0.%s.norm_%c.weight", name, "qk"[i]);
        vector(t, full, "", dim, 1.25, false);
    }
}

static void list_tensors(table *t, int64_t dim, int64_t ffn)
{
    t->n = 0;
    modulation(t, "scale_shift_table", 2, dim);
    entry *patch = add(t, "patch_embedding", ".weight", 5, (int64_t[]){dim, CHANNELS, 1, 2, 2});
    patch->mean = 0.0, patch->spread = width(1.0, CHANNELS * 4), patch->f32 = false;
    vector(t, "patch_embedding", ".bias", dim, 0.125, false);
    dense(t, "condition_embedder.time_embedder.linear_1", dim, FREQ, 1.0, true);
    dense(t, "condition_embedder.time_embedder.linear_2", dim, dim, 1.0, true);
    dense(t, "condition_embedder.time_proj", 6 * dim, dim, 0.25, false);
    dense(t, "condition_embedder.text_embedder.linear_1", dim, TEXT, 1.0, false);
    dense(t, "condition_embedder.text_embedder.linear_2", dim, dim, 1.0, false);
    modulation(t, "blocks.0.scale_shift_table", 6, dim);
    attention(t, "attn1", dim);
    attention(t, "attn2", dim);
    vector(t, "blocks.0.norm2.weight", "", dim, 0.75, true);
    vector(t, "blocks.0.norm2.bias", "", dim, 0.125, true);
    dense(t, "blocks.0.ffn.net.0.proj", ffn, dim, 1.0, false);
    dense(t, "blocks.0.ffn.net.2", dim, ffn, 1.0, false);
    dense(t, "proj_out", 4 * CHANNELS, dim, 1.0, false);
}

/* ---- files ---------------------------------------------------------------------------------- */

static char *header_text(const table *t)
{
    size_t room = 256 * (size_t)t->n + 16, used = 0;
    char *text = malloc(room);
    if (text == NULL) {
        return NULL;
    }
    text[used++] = '{';
    int64_t offset = 0;
    for (int i = 0; i < t->n; i++) {
        const entry *e = &t->entries[i];
        int64_t end = offset + e->count * (e->f32 ? 4 : 2);
        used += (size_t)snprintf(text + used, room - used, "%s\"%s\":{\"dtype\":\"%s\",\"shape\":[", i > 0 ? "," : "",
                                 e->name, e->f32 ? "F32" : "BF16");
        for (int d = 0; d < e->rank; d++) {
            used += (size_t)snprintf(text + used, room - used, "%s%" PRId64, d > 0 ? "," : "", e->shape[d]);
        }
        used +=
            (size_t)snprintf(text + used, room - used, "],\"data_offsets\":[%" PRId64 ",%" PRId64 "]}", offset, end);
        offset = end;
    }
    text[used++] = '}';
    while (used % 8 != 0) {
        text[used++] = ' ';
    }
    text[used] = '\0';
    return text;
}

static bool write_tensor(FILE *file, const entry *e)
{
    static float f32[PIECE];
    static uint16_t bf16[PIECE];
    uint64_t seed = name_seed(e->name);
    for (int64_t start = 0; start < e->count; start += PIECE) {
        size_t n = (size_t)(e->count - start < PIECE ? e->count - start : PIECE);
        for (size_t i = 0; i < n; i++) {
            f32[i] = (float)(e->mean + e->spread * (2.0 * uniform(seed, start + (int64_t)i) - 1.0));
        }
        if (e->f32 && fwrite(f32, sizeof *f32, n, file) != n) {
            return false;
        }
        if (!e->f32) {
            fga_from_f32(bf16, FGA_BF16, f32, (int64_t)n);
            if (fwrite(bf16, sizeof *bf16, n, file) != n) {
                return false;
            }
        }
    }
    return true;
}

static FILE *open_in(const char *dir, const char *name)
{
    char path[1024];
    int length = snprintf(path, sizeof path, "%s/%s", dir, name);
    return length > 0 && (size_t)length < sizeof path ? fopen(path, "wb") : NULL;
}

static bool write_config(const char *dir, int heads, int ffn)
{
    FILE *file = open_in(dir, "config.json");
    if (file == NULL) {
        return false;
    }
    fprintf(file,
            "{\"_class_name\": \"WanTransformer3DModel\", \"attention_head_dim\": 128, \"cross_attn_norm\": true, "
            "\"eps\": 1e-06, \"ffn_dim\": %d, \"freq_dim\": 256, \"in_channels\": 16, \"num_attention_heads\": %d, "
            "\"num_layers\": 1, \"out_channels\": 16, \"patch_size\": [1, 2, 2], \"qk_norm\": "
            "\"rms_norm_across_heads\", \"rope_max_seq_len\": 1024, \"text_dim\": 4096}\n",
            ffn, heads);
    return fclose(file) == 0;
}

bool real_block_write(const char *dir, int heads, int ffn)
{
    table t;
    list_tensors(&t, (int64_t)heads * HEAD_DIM, ffn);
    char *header = header_text(&t);
    FILE *file = open_in(dir, "diffusion_pytorch_model.safetensors");
    bool good = header != NULL && file != NULL && write_config(dir, heads, ffn);
    if (good) {
        uint64_t length = strlen(header);
        unsigned char little[8];
        for (int i = 0; i < 8; i++) {
            little[i] = (unsigned char)(length >> 8 * i);
        }
        good = fwrite(little, 1, 8, file) == 8 && fwrite(header, 1, length, file) == length;
    }
    for (int i = 0; good && i < t.n; i++) {
        good = write_tensor(file, &t.entries[i]);
    }
    if (file != NULL) {
        good = fclose(file) == 0 && good;
    }
    free(header);
    return good;
}
