/* One block of the real 14B shape against diffusers in float64. Slow: it writes 1.2 GB of weights to $TMPDIR first, so
 * its label keeps it out of the usual run (`ctest -LE slow`). test_dit has the 1.3B block. */
#include "golden.h"

#include "real_block_weights.h"
#include "video/dit.h"

#include <unistd.h>

enum { HEADS = 40, FFN = 13824, CHANNELS = 16, T = 2, H = 8, W = 12, ROWS = 17, TEXT = 4096 };
enum { ELEMENTS = CHANNELS * T * H * W };

static void run(fga_context *ctx, fgv_dit *dit, fga_dtype compute, double timestep, float *out)
{
    static float latents[ELEMENTS], text[ROWS * TEXT];
    real_block_values("latents", ELEMENTS, 0.0, 1.5, latents);
    real_block_values("text", ROWS * TEXT, 0.0, 1.5, text);
    fga_policy dense;
    assert_int_equal(fga_policy_parse(ctx, "dense", &dense), FGA_OK);
    fgv_dit_job job = {
        .t = T, .h = H, .w = W, .branches = 1, .text_rows = {ROWS}, .compute = compute, .policy = &dense};
    fgv_dit_plan *plan;
    assert_int_equal(fgv_dit_plan_create(dit, &job, &plan), FGA_OK);
    assert_int_equal(fgv_dit_plan_text(plan, 0, text), FGA_OK);
    fgv_dit_forward_args args = {0, 1, 0, timestep, latents, out};
    assert_int_equal(fgv_dit_plan_forward(plan, &args), FGA_OK);
    fgv_dit_plan_destroy(&plan);
}

static void block_of_14b_equals_diffusers(void **state)
{
    (void)state;
    const char *base = getenv("TMPDIR");
    char dir[256], file[512];
    snprintf(dir, sizeof dir, "%s/fgattn-block-XXXXXX", base != NULL ? base : "/tmp");
    assert_non_null(mkdtemp(dir));
    bool written = real_block_write(dir, HEADS, FFN);

    golden_file golden = golden_open("tests/golden/real_block", "14b");
    fgv_dit *dit = NULL;
    fga_status status = written ? fgv_dit_open(golden.ctx, dir, &dit) : FGA_ERR_IO;
    snprintf(file, sizeof file, "%s/config.json", dir);
    unlink(file);
    snprintf(file, sizeof file, "%s/diffusion_pytorch_model.safetensors", dir);
    unlink(file); /* stays mapped */
    rmdir(dir);
    if (status != FGA_OK) {
        fail_msg("%s", written ? fga_last_error(golden.ctx) : "no room for 1.2 GB in the temporary directory");
    }
    float *wanted = golden_read(golden.weights, FGV_SHAPE(CHANNELS, T, H, W), "out");
    float *error = golden_read(golden.weights, FGV_SHAPE(2), "bf16_error");
    float *timestep = golden_read(golden.weights, FGV_SHAPE(1), "timestep");
    float *out = malloc(ELEMENTS * sizeof *out);
    run(golden.ctx, dit, FGA_F32, timestep[0], out);
    golden_assert_near("14B block, f32", out, wanted, ELEMENTS, 1e-5, 1e-5);
    run(golden.ctx, dit, FGA_BF16, timestep[0], out);
    golden_assert_near("14B block, bf16", out, wanted, ELEMENTS, 1.25 * error[0], 1.25 * error[1]);
    free(out);
    free(timestep);
    free(error);
    free(wanted);
    fgv_dit_close(&dit);
    golden_close(&golden);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(block_of_14b_equals_diffusers)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
