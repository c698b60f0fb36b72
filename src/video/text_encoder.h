/* text_encoder.h - UMT5: token ids to text rows. */
#ifndef FGV_TEXT_ENCODER_H
#define FGV_TEXT_ENCODER_H

#include "fgattn.h"

typedef struct fgv_text_encoder fgv_text_encoder;

/* dir holds config.json and model.safetensors (single or sharded). */
fga_status fgv_text_encoder_open(fga_context *ctx, const char *dir, fgv_text_encoder **encoder);
void fgv_text_encoder_close(fgv_text_encoder **encoder);
void fgv_text_encoder_rest(const fgv_text_encoder *encoder);   /* fgv_weights_rest */
int64_t fgv_text_encoder_dim(const fgv_text_encoder *encoder); /* d_model */
int64_t fgv_text_encoder_vocabulary(const fgv_text_encoder *encoder);
int64_t fgv_text_encoder_parameters(const fgv_text_encoder *encoder);
uint64_t fgv_text_encoder_memory(const fgv_text_encoder *encoder, int tokens); /* bytes a run needs, weights included */
/* out [count][d_model]; every id is checked against the vocabulary. */
fga_status fgv_text_encoder_run(fgv_text_encoder *encoder, fga_dtype compute, const int32_t *ids, int count,
                                float *out);

#endif
