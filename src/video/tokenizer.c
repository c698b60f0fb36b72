#include "video/tokenizer.h"

#include "base/error.h"
#include "video/sentencepiece_shim.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct fgv_tokenizer {
    fga_context *ctx;
    fgv_sentencepiece *model;
    int eos;
};

fga_status fgv_tokenizer_open(fga_context *ctx, const char *dir, fgv_tokenizer **out)
{
    *out = NULL;
    char path[4096], error[512] = "";
    int n = snprintf(path, sizeof path, "%s/spiece.model", dir);
    if (n < 0 || n >= (int)sizeof path) {
        return fga_context_fail(ctx, FGA_ERR_ARGUMENT, "path too long: %.100s...", dir);
    }
    if (access(path, R_OK) != 0) { /* SentencePiece itself would complain on stderr */
        return fga_context_fail(ctx, FGA_ERR_DATA, "%s is missing or unreadable", path);
    }
    fgv_tokenizer *tokenizer = calloc(1, sizeof *tokenizer);
    if (tokenizer == NULL) {
        return fga_context_fail(ctx, FGA_ERR_MEMORY, "%s: no memory", path);
    }
    tokenizer->ctx = ctx;
    fga_status status = FGA_OK;
    if (fgv_sentencepiece_open(path, &tokenizer->model, error, sizeof error) != 0) {
        error[strcspn(error, "\n")] = '\0';
        status = fga_context_fail(ctx, FGA_ERR_DATA, "%s is no SentencePiece model: %s", path, error);
    } else if ((tokenizer->eos = fgv_sentencepiece_eos(tokenizer->model)) < 0) {
        status = fga_context_fail(ctx, FGA_ERR_DATA, "%s has no end-of-sentence piece, wanted one", path);
    }
    if (status != FGA_OK) {
        fgv_tokenizer_close(&tokenizer);
    }
    *out = tokenizer;
    return status;
}

void fgv_tokenizer_close(fgv_tokenizer **handle)
{
    if (handle == NULL || *handle == NULL) {
        return;
    }
    fgv_sentencepiece_close((*handle)->model);
    free(*handle);
    *handle = NULL;
}

fga_status fgv_tokenizer_encode(fgv_tokenizer *tokenizer, const char *prompt, int32_t *ids, int capacity, int *count)
{
    *count = 0;
    char *clean = NULL, error[512] = "";
    if (capacity < 1) {
        return fga_context_fail(tokenizer->ctx, FGA_ERR_ARGUMENT, "room for %d token ids, wanted at least 1", capacity);
    }
    FGA_TRY(fgv_prompt_clean(tokenizer->ctx, prompt, &clean));
    int pieces;
    fga_status status = FGA_OK;
    if (fgv_sentencepiece_encode(tokenizer->model, clean, ids, capacity - 1, &pieces, error, sizeof error) != 0) {
        error[strcspn(error, "\n")] = '\0';
        status = fga_context_fail(tokenizer->ctx, FGA_ERR_INTERNAL, "SentencePiece failed: %s", error);
    } else {
        pieces = pieces < capacity - 1 ? pieces : capacity - 1;
        ids[pieces] = tokenizer->eos;
        *count = pieces + 1;
    }
    free(clean);
    return status;
}
