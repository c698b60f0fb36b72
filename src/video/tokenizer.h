/* tokenizer.h - prompt cleaning and SentencePiece. */
#ifndef FGV_TOKENIZER_H
#define FGV_TOKENIZER_H

#include "fgattn.h"

typedef struct fgv_tokenizer fgv_tokenizer;

/* dir holds spiece.model. */
fga_status fgv_tokenizer_open(fga_context *ctx, const char *dir, fgv_tokenizer **tokenizer);
void fgv_tokenizer_close(fgv_tokenizer **tokenizer);
/* WanPipeline's prompt_clean with ftfy installed: repairs, HTML unescape twice, white space collapsed. Returns newly
 * allocated UTF-8 in *clean (free()). Input that is not UTF-8 is FGA_ERR_DATA.
 *
 * Unescaping is Python's html.unescape in full: every HTML5 name, numbers, names without semicolon, longest prefixes.
 * Of ftfy.fix_text (6.3, defaults) these repairs are made, line by line and until nothing changes:
 *   - HTML references unescaped first, up to the first line that holds a '<' (not the upper-case names ftfy adds);
 *   - UTF-8 misread as Latin-1 or Windows-1252: runs of whole sequences; one alone only if it begins with a byte
 *     C2, C3, E2, EF or F0-F4. Not: other code pages, sequences that lost a byte or a no-break space;
 *   - C1 controls as Windows-1252, Latin ligatures, half- and full-width forms (but U+FFE3), curly quotes, line breaks,
 *     terminal colour escapes and invisible controls, normalisation form C. */
fga_status fgv_prompt_clean(fga_context *ctx, const char *prompt, char **clean);
/* Cleans, encodes, appends eos, truncates to capacity keeping eos last, as the reference does at 512. */
fga_status fgv_tokenizer_encode(fgv_tokenizer *tokenizer, const char *prompt, int32_t *ids, int capacity, int *count);

#endif
