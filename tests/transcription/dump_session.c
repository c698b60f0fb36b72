/* dump_session POLICY REQUEST RESULT: one session call on the tensors of a file, for check.py to compare.
 * REQUEST: struct request, then q [batch][query_heads][tokens][head_dim] and k, v [batch][kv_heads][tokens][head_dim],
 * f32. RESULT: struct result, the policy's order [video tokens] int32, the mask [batch][query_heads][blocks][tiles] as
 * bytes, then the output in q's shape. Both are in the machine's own byte order. */
#include "fgattn.h"

#include <stdio.h>
#include <stdlib.h>

struct request {
    int64_t frames, height, width;
    int64_t prefix, prefix_valid, video_padding, suffix, suffix_valid;
    int64_t batch, query_heads, kv_heads, head_dim;
    int64_t step, steps, layer;
    double measure_fraction;
};

struct result {
    int64_t blocks, tiles, kind;
    double density, summary_pairs, recall, recall_worst, recall_p05, output_error;
};

struct tensors {
    float *q, *k, *v, *o;
    int32_t *order;
    size_t query_numbers, key_numbers, video;
};

static void fail(const char *what, const char *why)
{
    fprintf(stderr, "dump_session: %s: %s\n", what, why);
    exit(1);
}

static void *allocate(size_t bytes)
{
    void *memory = aligned_alloc(64, (bytes + 63) / 64 * 64 + 64);
    if (memory == NULL) {
        fail("memory", "not enough");
    }
    return memory;
}

static void read_all(FILE *file, void *to, size_t size, size_t count)
{
    if (fread(to, size, count, file) != count) {
        fail("the request", "too short");
    }
}

static void write_all(FILE *file, const void *from, size_t size, size_t count)
{
    if (fwrite(from, size, count, file) != count) {
        fail("the result", "cannot be written");
    }
}

static fga_session_desc describe(const struct request *r)
{
    int64_t video = r->frames * r->height * r->width;
    fga_session_desc desc = fga_session_desc_default();
    desc.frames = r->frames;
    desc.height = r->height;
    desc.width = r->width;
    desc.sequence =
        (fga_sequence){r->prefix, r->prefix_valid, video + r->video_padding, video, r->suffix, r->suffix_valid};
    desc.batch = r->batch;
    desc.query_heads = r->query_heads;
    desc.kv_heads = r->kv_heads;
    desc.head_dim = r->head_dim;
    desc.layers = (int)r->layer + 1;
    desc.measure_fraction = r->measure_fraction;
    return desc;
}

static struct tensors read_tensors(FILE *file, const struct request *r, const fga_session_desc *desc)
{
    size_t row = (size_t)(r->batch * fga_sequence_length(&desc->sequence) * r->head_dim);
    struct tensors t = {.query_numbers = row * (size_t)r->query_heads,
                        .key_numbers = row * (size_t)r->kv_heads,
                        .video = (size_t)desc->sequence.video_valid};
    t.q = allocate(t.query_numbers * sizeof(float));
    t.k = allocate(t.key_numbers * sizeof(float));
    t.v = allocate(t.key_numbers * sizeof(float));
    t.o = allocate(t.query_numbers * sizeof(float));
    t.order = allocate(t.video * sizeof *t.order);
    read_all(file, t.q, sizeof(float), t.query_numbers);
    read_all(file, t.k, sizeof(float), t.key_numbers);
    read_all(file, t.v, sizeof(float), t.key_numbers);
    return t;
}

static fga_attend_args arguments(const struct request *r, const struct tensors *t, int64_t tokens)
{
    fga_attend_args args = fga_attend_args_default();
    args.q = fga_tensor_bhsd(t->q, FGA_F32, r->batch, r->query_heads, tokens, r->head_dim);
    args.o = fga_tensor_bhsd(t->o, FGA_F32, r->batch, r->query_heads, tokens, r->head_dim);
    args.k = fga_tensor_bhsd(t->k, FGA_F32, r->batch, r->kv_heads, tokens, r->head_dim);
    args.v = fga_tensor_bhsd(t->v, FGA_F32, r->batch, r->kv_heads, tokens, r->head_dim);
    return args;
}

static void write_mask(FILE *file, const struct request *r, const fga_mask *mask)
{
    int64_t blocks = fga_mask_blocks(mask), tiles = fga_mask_tiles(mask);
    for (int64_t b = 0; b < r->batch; b++) {
        for (int64_t h = 0; h < r->query_heads; h++) {
            for (int64_t i = 0; i < blocks * tiles; i++) {
                unsigned char kept = fga_mask_keeps(mask, b, h, i / tiles, i % tiles) ? 1 : 0;
                write_all(file, &kept, 1, 1);
            }
        }
    }
}

static void write_result(const char *path, const struct request *r, const struct tensors *t, const fga_session *session,
                         fga_step_kind kind)
{
    const fga_mask *mask = fga_session_mask(session, (int)r->layer, 0);
    if (mask == NULL) {
        fail("the session", "has no mask");
    }
    fga_session_report report = fga_session_get_report(session);
    struct result result = {fga_mask_blocks(mask),  fga_mask_tiles(mask),    kind,
                            fga_mask_density(mask), report.sparse_summaries, report.recall_mean,
                            report.recall_worst,    report.recall_p05,       report.output_error_mean};
    FILE *file = fopen(path, "wb");
    if (file == NULL) {
        fail(path, "cannot be opened");
    }
    write_all(file, &result, sizeof result, 1);
    write_all(file, t->order, sizeof *t->order, t->video);
    write_mask(file, r, mask);
    write_all(file, t->o, sizeof(float), t->query_numbers);
    if (fclose(file) != 0) {
        fail(path, "cannot be written");
    }
}

int main(int argc, char **argv)
{
    if (argc != 4) {
        fail("usage", "dump_session POLICY REQUEST RESULT");
    }
    FILE *file = fopen(argv[2], "rb");
    if (file == NULL) {
        fail(argv[2], "cannot be opened");
    }
    struct request r;
    read_all(file, &r, sizeof r, 1);
    fga_session_desc desc = describe(&r);
    struct tensors t = read_tensors(file, &r, &desc);
    fclose(file);

    fga_context *ctx = NULL;
    fga_session *session = NULL;
    fga_step_kind kind;
    if (fga_context_create(NULL, &ctx) != FGA_OK) {
        fail("the context", "cannot be created");
    }
    if (fga_policy_parse(ctx, argv[1], &desc.policy) != FGA_OK || fga_session_create(ctx, &desc, &session) != FGA_OK ||
        fga_order_build(ctx, desc.policy.order, r.frames, r.height, r.width, t.order) != FGA_OK) {
        fail(argv[1], fga_last_error(ctx));
    }
    void *workspace = allocate(fga_session_workspace(session));
    fga_attend_args args = arguments(&r, &t, fga_sequence_length(&desc.sequence));
    if (fga_session_attend(session, (int)r.step, (int)r.steps, (int)r.layer, 0, &args, workspace, &kind) != FGA_OK) {
        fail(argv[1], fga_last_error(ctx));
    }
    write_result(argv[3], &r, &t, session, kind);

    fga_session_destroy(&session);
    fga_context_destroy(&ctx);
    free(workspace);
    free(t.q);
    free(t.k);
    free(t.v);
    free(t.o);
    free(t.order);
    return 0;
}
