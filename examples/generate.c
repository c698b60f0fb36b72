/* generate.c - a video in one page: open a checkpoint, generate with a sparse policy, write an MP4.
 *
 *   cc examples/generate.c $(pkg-config --cflags --libs fgvideo) -o generate
 *   ./generate models/toy "a red ball" ball.mp4
 */
#include <fgvideo.h>

#include <stdio.h>

static bool write_frame(void *user, int index, const uint8_t *rgb)
{
    (void)index;
    return fgv_writer_frame(user, rgb) == FGA_OK;
}

int main(int argc, char **argv)
{
    if (argc != 4) {
        fprintf(stderr, "usage: %s MODEL-DIRECTORY PROMPT OUTPUT\n", argv[0]);
        return 2;
    }
    fga_context *ctx = NULL;
    fgv_model *model = NULL;
    fgv_writer *writer = NULL;
    if (fga_context_create(NULL, &ctx) != FGA_OK || fgv_model_open(ctx, argv[1], &model) != FGA_OK) {
        goto fail;
    }

    fgv_request request = fgv_request_default(model);
    request.prompt = argv[2];
    if (fga_policy_parse(ctx, "dfs", &request.policy) != FGA_OK ||
        fgv_writer_open(ctx, argv[3], request.width, request.height, fgv_model_describe(model).fps, &writer) !=
            FGA_OK) {
        goto fail;
    }
    request.on_frame = write_frame;
    request.user = writer;

    fgv_result result;
    if (fgv_generate(model, &request, &result) != FGA_OK || fgv_writer_finish(&writer) != FGA_OK) {
        goto fail;
    }
    printf("%s: %.1f s, density of sparse calls %.3f, recall %.3f\n", argv[3], result.wall_s,
           result.attention.sparse_kept / result.attention.sparse_total, result.attention.recall_mean);
    fgv_model_close(&model);
    fga_context_destroy(&ctx);
    return 0;

fail:
    fprintf(stderr, "%s\n", fga_last_error(ctx));
    fgv_writer_abandon(&writer);
    fgv_model_close(&model);
    fga_context_destroy(&ctx);
    return 1;
}
