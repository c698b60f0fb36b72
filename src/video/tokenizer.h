/* tokenizer.h - prompt cleaning and SentencePiece. */
#ifndef FGV_TOKENIZER_H
#define FGV_TOKENIZER_H

#include "fgattn.h"

typedef struct fgv_tokenizer fgv_tokenizer;

/* dir holds spiece.model. */
fga_status fgv_tokenizer_open(fga_context *ctx, const char *dir, fgv_tokenizer **tokenizer);
void fgv_tokenizer_close(fgv_tokenizer **tokenizer);
/* WanPipeline's prompt_clean: the stated subset of ftfy, HTML unescape twice, white space collapsed. Returns
 * newly allocated UTF-8 in *clean (free()). Input that is not UTF-8 is FGA_ERR_DATA. */
fga_status fgv_prompt_clean(fga_context *ctx, const char *prompt, char **clean);
/* Cleans, encodes, appends eos, truncates to capacity keeping eos last, as the reference does at 512. */
fga_status fgv_tokenizer_encode(fgv_tokenizer *tokenizer, const char *prompt, int32_t *ids, int capacity, int *count);

#endif
