/* The transformer against diffusers' own in float64: three tiny checkpoints and one block of the real 1.3B shape. */
#include "golden.h"

#include "real_block_weights.h"
#include "video/dit.h"

#include <sys/stat.h>
#include <unistd.h>

typedef struct forward {
    int t, h, w, rows;
    float *latents, *text, *wanted;
    float timestep, bf16_error[2];
} forward;

typedef struct run_options {
    fga_dtype compute;
    const char *policy;
    int step, steps;
} run_options;

static const run_options dense_f32 = {FGA_F32, "dense", 0, 1}, dense_bf16 = {FGA_BF16, "dense", 0, 1};

static fgv_dit *open_dit(fga_context *ctx, const char *dir)
{
    fgv_dit *dit;
    if (fgv_dit_open(ctx, dir, &dit) != FGA_OK) {
        fail_msg("%s", fga_last_error(ctx));
    }
    return dit;
}

static forward read_forward(fgv_weights *goldens, const fgv_dit_config *config, char letter, int most_rows)
{
    static const int sizes[5][3] = {{3, 10, 14}, {2, 6, 10}, {1, 2, 6}, {5, 8, 4}, {2, 4, 6}};
    const int *s = sizes[letter - 'a'];
    forward f = {.t = s[0], .h = s[1], .w = s[2]};
    f.latents = golden_read(goldens, FGV_SHAPE(config->in_channels, f.t, f.h, f.w), "%c.latents", letter);
    f.wanted = golden_read(goldens, FGV_SHAPE(config->out_channels, f.t, f.h, f.w), "%c.out", letter);
    f.text = golden_read(goldens, FGV_SHAPE(most_rows, config->text_dim), "text");
    float *rows = golden_read(goldens, FGV_SHAPE(1), "%c.rows", letter);
    float *timestep = golden_read(goldens, FGV_SHAPE(1), "%c.timestep", letter);
    float *error = golden_read(goldens, FGV_SHAPE(2), "%c.bf16_error", letter);
    f.rows = (int)rows[0];
    f.timestep = timestep[0];
    memcpy(f.bf16_error, error, sizeof f.bf16_error);
    free(rows);
    free(timestep);
    free(error);
    return f;
}

static void free_forward(forward *f)
{
    free(f->latents);
    free(f->text);
    free(f->wanted);
}

static int64_t elements(const forward *f, const fgv_dit_config *config)
{
    return (int64_t)config->out_channels * f->t * f->h * f->w;
}

/* The forward through branch 1 of 2, branch 0 having been run with other text: nothing may leak. */
static float *run(fga_context *ctx, fgv_dit *dit, const forward *f, run_options options)
{
    const fgv_dit_config *config = fgv_dit_get_config(dit);
    fga_policy policy;
    assert_int_equal(fga_policy_parse(ctx, options.policy, &policy), FGA_OK);
    fgv_dit_job job = {.t = f->t,
                       .h = f->h,
                       .w = f->w,
                       .branches = 2,
                       .text_rows = {1, f->rows},
                       .compute = options.compute,
                       .policy = &policy};
    int64_t n = elements(f, config);
    float *out = malloc((size_t)(n + 2) * sizeof *out);
    float *other = calloc((size_t)n, sizeof *other), *other_text = calloc((size_t)config->text_dim, sizeof *other_text);
    assert_true(out != NULL && other != NULL && other_text != NULL);
    for (int64_t i = 0; i < n + 2; i++) {
        out[i] = NAN;
    }
    fgv_dit_plan *plan;
    fga_status status = fgv_dit_plan_create(dit, &job, &plan);
    if (status == FGA_OK) {
        assert_int_equal(fgv_dit_plan_text(plan, 0, other_text), FGA_OK);
        assert_int_equal(fgv_dit_plan_text(plan, 1, f->text), FGA_OK);
        fgv_dit_forward_args args = {options.step, options.steps, 0, 123.0, f->latents, other};
        status = fgv_dit_plan_forward(plan, &args);
        args = (fgv_dit_forward_args){options.step, options.steps, 1, f->timestep, f->latents, out + 1};
        status = status == FGA_OK ? fgv_dit_plan_forward(plan, &args) : status;
    }
    if (status != FGA_OK) {
        fail_msg("%s", fga_last_error(ctx));
    }
    assert_true(isnan(out[0]) && isnan(out[n + 1]));
    fgv_dit_plan_destroy(&plan);
    memmove(out, out + 1, (size_t)n * sizeof *out);
    free(other);
    free(other_text);
    return out;
}

typedef struct fixture {
    const char *dir, *stem, *letters;
    int most_rows;
} fixture;

static const fixture fixtures[] = {{"tests/golden/tiny/transformer", "tiny-wan", "abcde", 512},
                                   {"tests/golden/checkpoints/tiny-wan-d128", "tiny-wan-d128", "bc", 17},
                                   {"tests/golden/checkpoints/tiny-wan-f16", "tiny-wan-f16", "bd", 200}};

static void compare_fixture(const fixture *fix, run_options options)
{
    golden_file file = golden_open("tests/golden/transformer", fix->stem);
    fgv_dit *dit = open_dit(file.ctx, fix->dir);
    for (const char *letter = fix->letters; *letter != '\0'; letter++) {
        forward f = read_forward(file.weights, fgv_dit_get_config(dit), *letter, fix->most_rows);
        float *out = run(file.ctx, dit, &f, options);
        bool exact = options.compute == FGA_F32;
        char what[96];
        snprintf(what, sizeof what, "%s %c, %s, %s", fix->stem, *letter, options.policy, exact ? "f32" : "bf16");
        golden_assert_near(what, out, f.wanted, elements(&f, fgv_dit_get_config(dit)),
                           exact ? 1e-5 : 1.25 * f.bf16_error[0], exact ? 1e-5 : 1.25 * f.bf16_error[1]);
        free(out);
        free_forward(&f);
    }
    fgv_dit_close(&dit);
    golden_close(&file);
}

static void f32_equals_diffusers(void **state)
{
    for (size_t i = 0; i < sizeof fixtures / sizeof *fixtures; i++) {
        compare_fixture(&fixtures[i], dense_f32);
    }
    (void)state;
}

static void bf16_is_as_good_as_torch(void **state)
{
    for (size_t i = 0; i < sizeof fixtures / sizeof *fixtures; i++) {
        compare_fixture(&fixtures[i], dense_bf16);
    }
    (void)state;
}

/* Everything kept, in Hilbert order, in blocks that do not divide the length: the permutation must be invisible. */
static void order_and_masks_are_invisible(void **state)
{
    run_options options = dense_f32;
    options.policy = "dfs,density=1,order=hilbert,block_m=16,tile_n=4,sub_q=8,sub_k=4";
    options.step = 3;
    options.steps = 4;
    for (size_t i = 0; i < sizeof fixtures / sizeof *fixtures; i++) {
        compare_fixture(&fixtures[i], options);
    }
    (void)state;
}

static void threads_do_not_change_bytes(void **state)
{
    for (int bf16 = 0; bf16 <= 1; bf16++) {
        float *first = NULL;
        for (int threads = 1; threads <= 5; threads += 2) {
            golden_file file = golden_open("tests/golden/transformer", "tiny-wan");
            fga_context *ctx = open_context(threads);
            fgv_dit *dit = open_dit(ctx, fixtures[0].dir);
            forward f = read_forward(file.weights, fgv_dit_get_config(dit), 'a', 512);
            float *out = run(ctx, dit, &f, bf16 ? dense_bf16 : dense_f32);
            if (first == NULL) {
                first = out;
            } else {
                assert_memory_equal(out, first, (size_t)elements(&f, fgv_dit_get_config(dit)) * sizeof *out);
                free(out);
            }
            free_forward(&f);
            fgv_dit_close(&dit);
            fga_context_destroy(&ctx);
            golden_close(&file);
        }
        free(first);
    }
    (void)state;
}

static void bad_jobs_are_refused(void **state)
{
    fga_context *ctx = open_context(1);
    fgv_dit *dit = open_dit(ctx, fixtures[0].dir);
    fga_policy policy;
    assert_int_equal(fga_policy_parse(ctx, "dense", &policy), FGA_OK);
    const fgv_dit_job good = {.t = 1, .h = 2, .w = 2, .branches = 1, .text_rows = {1}, .policy = &policy};
    fgv_dit_job jobs[8];
    for (int i = 0; i < 8; i++) {
        jobs[i] = good;
    }
    jobs[0].h = 3, jobs[1].w = 0, jobs[2].t = -1, jobs[3].w = 2050, jobs[4].branches = 3, jobs[5].text_rows[0] = 513;
    jobs[6].compute = FGA_F16, jobs[7].branches = 0;
    static const char *const texts[8] = {"3 rows",   "0 columns", "-1 frames",  "end at 1024",
                                         "branches", "513 text",  "not in f16", "branches"};
    for (int i = 0; i < 8; i++) {
        fgv_dit_plan *plan = (fgv_dit_plan *)&policy;
        assert_int_equal(fgv_dit_plan_create(dit, &jobs[i], &plan), FGA_ERR_ARGUMENT);
        assert_null(plan);
        if (strstr(fga_last_error(ctx), texts[i]) == NULL) {
            fail_msg("'%s' does not say '%s'", fga_last_error(ctx), texts[i]);
        }
    }
    fgv_dit_plan *plan;
    assert_int_equal(fgv_dit_plan_create(dit, &good, &plan), FGA_OK);
    float latents[64] = {0}, out[64];
    fgv_dit_forward_args args = {0, 1, 0, 1.0, latents, out};
    assert_int_equal(fgv_dit_plan_forward(plan, &args), FGA_ERR_ARGUMENT); /* no text yet */
    fgv_dit_memory memory = {0};
    assert_int_equal(fgv_dit_plan_memory(dit, &good, &memory), FGA_OK);
    assert_true(memory.plan > 0 && memory.threads > 0);
    fgv_dit_plan_destroy(&plan);
    fgv_dit_plan_destroy(NULL);
    fgv_dit_close(&dit);
    fgv_dit_close(NULL);
    fga_context_destroy(&ctx);
    (void)state;
}

static bool refuse(void *user)
{
    return --*(int *)user >= 0;
}

static void stops_between_layers(void **state)
{
    fga_context *ctx = open_context(1);
    fgv_dit *dit = open_dit(ctx, fixtures[0].dir);
    fga_policy policy;
    assert_int_equal(fga_policy_parse(ctx, "dense", &policy), FGA_OK);
    int layers = 1;
    fgv_dit_job job = {.t = 1, .h = 2, .w = 2, .branches = 1, .policy = &policy, .keep_going = refuse, .user = &layers};
    fgv_dit_plan *plan;
    assert_int_equal(fgv_dit_plan_create(dit, &job, &plan), FGA_OK);
    assert_int_equal(fgv_dit_plan_text(plan, 0, NULL), FGA_OK); /* no rows: only padding */
    float latents[64] = {0}, out[64];
    fgv_dit_forward_args args = {0, 1, 0, 1.0, latents, out};
    assert_int_equal(fgv_dit_plan_forward(plan, &args), FGA_ERR_INTERRUPTED);
    layers = 2;
    assert_int_equal(fgv_dit_plan_forward(plan, &args), FGA_OK);
    assert_int_equal(layers, 0);
    fgv_dit_plan_destroy(&plan);
    fgv_dit_close(&dit);
    fga_context_destroy(&ctx);
    (void)state;
}

/* ---- the real shapes --------------------------------------------------------------------------------------------- */

static void make_directory(char *dir, size_t bytes)
{
    const char *base = getenv("TMPDIR");
    snprintf(dir, bytes, "%s/fgattn-dit-XXXXXX", base != NULL ? base : "/tmp");
    assert_non_null(mkdtemp(dir));
}

static void remove_directory(const char *dir)
{
    static const char *const names[] = {"config.json", "diffusion_pytorch_model.safetensors"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        char path[512];
        snprintf(path, sizeof path, "%s/%s", dir, names[i]);
        unlink(path);
    }
    assert_int_equal(rmdir(dir), 0);
}

static void compare_real_block(fga_context *ctx, fgv_dit *dit, fgv_weights *goldens, fga_dtype compute)
{
    const fgv_dit_config *config = fgv_dit_get_config(dit);
    forward f = {.t = 2, .h = 8, .w = 12, .rows = 17, .timestep = 731.25f};
    int64_t n = elements(&f, config);
    f.latents = malloc((size_t)n * sizeof(float));
    f.text = malloc((size_t)(f.rows * config->text_dim) * sizeof(float));
    assert_true(f.latents != NULL && f.text != NULL);
    real_block_values("latents", n, 0.0, 1.5, f.latents);
    real_block_values("text", (int64_t)f.rows * config->text_dim, 0.0, 1.5, f.text);
    f.wanted = golden_read(goldens, FGV_SHAPE(16, 2, 8, 12), "out");
    float *timestep = golden_read(goldens, FGV_SHAPE(1), "timestep");
    f.timestep = timestep[0];
    float *error = golden_read(goldens, FGV_SHAPE(2), "bf16_error");
    float *out = run(ctx, dit, &f, compute == FGA_F32 ? dense_f32 : dense_bf16);
    bool exact = compute == FGA_F32;
    golden_assert_near(exact ? "real block, f32" : "real block, bf16", out, f.wanted, n, exact ? 1e-5 : 1.25 * error[0],
                       exact ? 1e-5 : 1.25 * error[1]);
    free(out);
    free(timestep);
    free(error);
    free_forward(&f);
}

static void real_block_equals_diffusers(void **state)
{
    char dir[256];
    make_directory(dir, sizeof dir);
    assert_true(real_block_write(dir, 12, 8960));
    golden_file file = golden_open("tests/golden/real_block", "1.3b");
    fgv_dit *dit = open_dit(file.ctx, dir);
    compare_real_block(file.ctx, dit, file.weights, FGA_F32);
    compare_real_block(file.ctx, dit, file.weights, FGA_BF16);
    fgv_dit_close(&dit);
    golden_close(&file);
    remove_directory(dir);
    (void)state;
}

/* The header of a checkpoint of a real configuration over a file that is all hole: nothing on the disk, every tensor's
 * name, dtype and shape there. */
typedef struct sparse_file {
    FILE *header;
    uint64_t offset;
    int tensors;
} sparse_file;

__attribute__((format(printf, 3, 4))) static void add_tensor(sparse_file *f, const char *shape, const char *format, ...)
{
    char name[128];
    va_list list;
    va_start(list, format);
    vsnprintf(name, sizeof name, format, list);
    va_end(list);
    uint64_t bytes = 2;
    for (const char *s = shape; *s != '\0'; s++) { /* the product of the numbers of "a,b,c" */
        char *end;
        bytes *= strtoull(s, &end, 10);
        s = *end == ',' ? end : end - 1;
    }
    fprintf(f->header, "%s\"%s\":{\"dtype\":\"BF16\",\"shape\":[%s],\"data_offsets\":[%llu,%llu]}",
            f->tensors > 0 ? "," : "", name, shape, (unsigned long long)f->offset,
            (unsigned long long)(f->offset + bytes));
    f->offset += bytes;
    f->tensors++;
}

static void add_linear(sparse_file *f, int out, int in, const char *name)
{
    char shape[64];
    snprintf(shape, sizeof shape, "%d,%d", out, in);
    add_tensor(f, shape, "%s.weight", name);
    snprintf(shape, sizeof shape, "%d", out);
    add_tensor(f, shape, "%s.bias", name);
}

static void add_block(sparse_file *f, int layer, int dim, int ffn)
{
    static const char *const products[] = {"to_q", "to_k", "to_v", "to_out.0"};
    char name[96], shape[64];
    snprintf(shape, sizeof shape, "1,6,%d", dim);
    add_tensor(f, shape, "blocks.%d.scale_shift_table", layer);
    snprintf(shape, sizeof shape, "%d", dim);
    for (int a = 1; a <= 2; a++) {
        for (int p = 0; p < 4; p++) {
            snprintf(name, sizeof name, "blocks.%d.attn%d.%s", layer, a, products[p]);
            add_linear(f, dim, dim, name);
        }
        add_tensor(f, shape, "blocks.%d.attn%d.norm_q.weight", layer, a);
        add_tensor(f, shape, "blocks.%d.attn%d.norm_k.weight", layer, a);
    }
    add_tensor(f, shape, "blocks.%d.norm2.weight", layer);
    add_tensor(f, shape, "blocks.%d.norm2.bias", layer);
    snprintf(name, sizeof name, "blocks.%d.ffn.net.0.proj", layer);
    add_linear(f, ffn, dim, name);
    snprintf(name, sizeof name, "blocks.%d.ffn.net.2", layer);
    add_linear(f, dim, ffn, name);
}

static int write_sparse(const char *dir, int heads, int layers, int ffn)
{
    char path[512], shape[64];
    int dim = heads * 128;
    snprintf(path, sizeof path, "%s/config.json", dir);
    FILE *config = fopen(path, "w");
    assert_non_null(config);
    fprintf(config,
            "{\"_class_name\":\"WanTransformer3DModel\",\"num_attention_heads\":%d,\"attention_head_dim\":128,"
            "\"num_layers\":%d,\"ffn_dim\":%d,\"text_dim\":4096,\"freq_dim\":256,\"in_channels\":16,"
            "\"out_channels\":16,\"patch_size\":[1,2,2],\"cross_attn_norm\":true,\"eps\":1e-06,"
            "\"qk_norm\":\"rms_norm_across_heads\",\"rope_max_seq_len\":1024,\"image_dim\":null}",
            heads, layers, ffn);
    fclose(config);
    char *text;
    size_t length;
    sparse_file f = {.header = open_memstream(&text, &length)};
    assert_non_null(f.header);
    fputc('{', f.header);
    snprintf(shape, sizeof shape, "1,2,%d", dim);
    add_tensor(&f, shape, "scale_shift_table");
    snprintf(shape, sizeof shape, "%d,16,1,2,2", dim);
    add_tensor(&f, shape, "patch_embedding.weight");
    snprintf(shape, sizeof shape, "%d", dim);
    add_tensor(&f, shape, "patch_embedding.bias");
    add_linear(&f, dim, 256, "condition_embedder.time_embedder.linear_1");
    add_linear(&f, dim, dim, "condition_embedder.time_embedder.linear_2");
    add_linear(&f, 6 * dim, dim, "condition_embedder.time_proj");
    add_linear(&f, dim, 4096, "condition_embedder.text_embedder.linear_1");
    add_linear(&f, dim, dim, "condition_embedder.text_embedder.linear_2");
    for (int layer = 0; layer < layers; layer++) {
        add_block(&f, layer, dim, ffn);
    }
    add_linear(&f, 64, dim, "proj_out");
    fputc('}', f.header);
    while (ftell(f.header) % 8 != 0) {
        fputc(' ', f.header);
    }
    fclose(f.header);
    snprintf(path, sizeof path, "%s/diffusion_pytorch_model.safetensors", dir);
    FILE *file = fopen(path, "wb");
    assert_non_null(file);
    uint64_t header = length;
    assert_int_equal(fwrite(&header, sizeof header, 1, file), 1);
    assert_int_equal(fwrite(text, 1, length, file), length);
    assert_int_equal(fclose(file), 0);
    assert_int_equal(truncate(path, (off_t)(8 + length + f.offset)), 0);
    free(text);
    return f.tensors;
}

static int unused_tensors;

static void count_line(void *user, const char *line)
{
    (void)user;
    unused_tensors += strstr(line, "not used") != NULL;
}

static void real_configurations_open(void **state)
{
    static const struct {
        int heads, layers, ffn, tensors;
        int64_t parameters;
    } models[] = {{12, 30, 8960, 825, 1418996800}, {40, 40, 13824, 1095, 14288491584}};
    fga_context_options options = fga_context_options_default();
    options.log = count_line;
    for (size_t i = 0; i < sizeof models / sizeof *models; i++) {
        char dir[256];
        make_directory(dir, sizeof dir);
        assert_int_equal(write_sparse(dir, models[i].heads, models[i].layers, models[i].ffn), models[i].tensors);
        fga_context *ctx;
        assert_int_equal(fga_context_create(&options, &ctx), FGA_OK);
        fgv_dit *dit = open_dit(ctx, dir);
        assert_int_equal(unused_tensors, 0);
        assert_int_equal(fgv_dit_parameters(dit), models[i].parameters);
        fga_policy policy;
        assert_int_equal(fga_policy_parse(ctx, "dfs", &policy), FGA_OK);
        fgv_dit_job job = {
            .t = 21, .h = 60, .w = 104, .branches = 2, .text_rows = {40, 126}, .compute = FGA_BF16, .policy = &policy};
        fgv_dit_memory memory;
        assert_int_equal(fgv_dit_plan_memory(dit, &job, &memory), FGA_OK);
        uint64_t stream = (uint64_t)32760 * (uint64_t)models[i].heads * 128;
        assert_true(memory.plan > stream * (4 + 4 * 2) && memory.plan < stream * (4 + 4 * 2) * 2);
        fgv_dit_close(&dit);
        fga_context_destroy(&ctx);
        remove_directory(dir);
    }
    (void)state;
}

static void wrong_shapes_are_named(void **state)
{
    char dir[256], path[512], text[4096] = {0};
    make_directory(dir, sizeof dir);
    write_sparse(dir, 2, 1, 32);
    snprintf(path, sizeof path, "%s/config.json", dir);
    FILE *config = fopen(path, "r");
    assert_non_null(config);
    assert_true(fread(text, 1, sizeof text - 1, config) > 0);
    fclose(config);
    static const struct {
        const char *from, *to, *says;
    } edits[] = {{"\"num_layers\":1", "\"num_layers\":2", "blocks.1.scale_shift_table is missing"},
                 {"\"ffn_dim\":32", "\"ffn_dim\":40", "blocks.0.ffn.net.0.proj.weight"},
                 {"\"text_dim\":4096", "\"text_dim\":64", "[256, 4096], wanted [256, 64]"},
                 {"\"attention_head_dim\":128", "\"attention_head_dim\":12", "multiple of 8"},
                 {"\"num_attention_heads\":2", "\"num_attention_heads\":0", "num_attention_heads"},
                 {"[1,2,2]", "[1,2.5,2]", "patch_size"},
                 {"\"eps\":1e-06", "\"eps\":-1", "eps"},
                 {"\"image_dim\":null", "\"image_dim\":1280", "text-to-video"},
                 {"rms_norm_across_heads", "layer_norm", "qk_norm"},
                 {"WanTransformer3DModel", "FluxTransformer2DModel", "WanTransformer3DModel"}};
    fga_context *ctx = open_context(1);
    for (size_t i = 0; i < sizeof edits / sizeof *edits; i++) {
        const char *place = strstr(text, edits[i].from);
        assert_non_null(place);
        config = fopen(path, "w");
        fprintf(config, "%.*s%s%s", (int)(place - text), text, edits[i].to, place + strlen(edits[i].from));
        fclose(config);
        fgv_dit *dit;
        assert_int_equal(fgv_dit_open(ctx, dir, &dit), FGA_ERR_DATA);
        assert_null(dit);
        if (strstr(fga_last_error(ctx), edits[i].says) == NULL) {
            fail_msg("'%s' does not say '%s'", fga_last_error(ctx), edits[i].says);
        }
    }
    fga_context_destroy(&ctx);
    remove_directory(dir);
    (void)state;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(f32_equals_diffusers),          cmocka_unit_test(bf16_is_as_good_as_torch),
        cmocka_unit_test(order_and_masks_are_invisible), cmocka_unit_test(threads_do_not_change_bytes),
        cmocka_unit_test(bad_jobs_are_refused),          cmocka_unit_test(stops_between_layers),
        cmocka_unit_test(real_block_equals_diffusers),   cmocka_unit_test(real_configurations_open),
        cmocka_unit_test(wrong_shapes_are_named),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
