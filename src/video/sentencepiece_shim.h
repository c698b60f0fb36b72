/* sentencepiece_shim.h - the C++ library behind C functions; no exception crosses. */
#ifndef FGV_SENTENCEPIECE_SHIM_H
#define FGV_SENTENCEPIECE_SHIM_H

#ifdef __cplusplus
extern "C" {
#endif

typedef struct fgv_sentencepiece fgv_sentencepiece;

/* Both return 0, or -1 with a text of at most `bytes` bytes in error. */
int fgv_sentencepiece_open(const char *path, fgv_sentencepiece **model, char *error, unsigned long bytes);
/* The first `capacity` ids into ids; *count is how many there are in all. */
int fgv_sentencepiece_encode(const fgv_sentencepiece *model, const char *text, int *ids, int capacity, int *count,
                             char *error, unsigned long bytes);
int fgv_sentencepiece_eos(const fgv_sentencepiece *model); /* -1 if it has none */
void fgv_sentencepiece_close(fgv_sentencepiece *model);

#ifdef __cplusplus
}
#endif

#endif
