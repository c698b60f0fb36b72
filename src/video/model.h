/* model.h - an opened checkpoint, for model*.c and video*.c. */
#ifndef FGV_MODEL_H
#define FGV_MODEL_H

#include "fgvideo.h"
#include "video/dit.h"
#include "video/text_encoder.h"
#include "video/tokenizer.h"
#include "video/vae.h"

struct fgv_model {
    fga_context *ctx;
    char *directory, *negative;
    char *vocabulary; /* lower-case words, each followed by a space; NULL where the model has no list */
    fgv_model_info info;
    fgv_sampler sampler; /* the scheduler that the checkpoint names */
    fgv_tokenizer *tokenizer;
    fgv_text_encoder *text;
    fgv_dit *dit;
    fgv_vae *vae;
};

/* directory/name into path [bytes]. */
fga_status fgv_model_path(fga_context *ctx, const char *directory, const char *name, char *path, size_t bytes);
/* Reads directory/vocabulary.txt; *words stays NULL where there is none. */
fga_status fgv_model_read_words(fga_context *ctx, const char *directory, char **words);

#endif
