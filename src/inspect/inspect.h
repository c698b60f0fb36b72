/* inspect.h - the inside of fga_inspect: one attention in the order at hand, and the queries that are looked at. */
#ifndef FGA_INSPECT_INSPECT_H
#define FGA_INSPECT_INSPECT_H

#include "fgattn_inspect.h"

#include "attn/attn.h"

enum { FGA_INSPECT_UNIT = 128 }; /* queries of a sampled block */

/* Whole query blocks, packed one after the other; only the last may be short. */
typedef struct fga_sample {
    int32_t unit;   /* queries per block: 128, or 192 for masks with that M; 0 = none yet */
    int64_t units;  /* how many blocks */
    int64_t rows;   /* queries in all */
    float *q;       /* [query_heads][rows][head_dim] */
    float *o, *lse; /* dense attention: [query_heads][rows][head_dim], [query_heads][rows] */
} fga_sample;

struct fga_inspect {
    fga_context *ctx;
    fga_inspect_desc desc;
    int64_t query_heads, kv_heads, tokens, head_dim;
    float scale;
    bool ordered; /* the arrays below hold the tokens in `order` */
    fga_order order;
    int32_t *raster;   /* [tokens]: raster index of token i */
    float *q, *k, *v;  /* [heads][tokens][head_dim] */
    fga_sample sample; /* of that order */
};

/* Brings the tokens into `order` and the sample to blocks of `unit` queries. */
fga_status fga_inspect_arrange(fga_inspect *in, fga_order order, int32_t unit);
/* First token of the sample's block r, and its queries. */
int64_t fga_sample_start(const fga_inspect *in, int64_t r);
int64_t fga_sample_rows(const fga_inspect *in, int64_t r);

static inline int64_t fga_inspect_kv_head(const fga_inspect *in, int64_t head)
{
    return head / (in->query_heads / in->kv_heads);
}

/* The sampled queries on all keys, without o: what attends, fills summaries and so on. mask may be NULL. */
fga_attend_desc fga_inspect_attend_desc(const fga_inspect *in, const fga_mask *mask);
fga_attend_args fga_inspect_attend_args(const fga_inspect *in);
/* Attention of the sampled queries: o [query_heads][rows][head_dim], lse [query_heads][rows]. mask and remainder may be
 * NULL. */
fga_status fga_inspect_attend(fga_inspect *in, const fga_mask *mask, const fga_remainder *remainder, float *o,
                              float *lse);

/* Asks keep_going. */
fga_status fga_inspect_go_on(const fga_inspect *in);
/* fga_parallel_for in portions, asking keep_going between them. */
fga_status fga_inspect_for(const fga_inspect *in, int64_t items, void (*body)(void *arg, int64_t item, int worker),
                           void *arg);
/* Scratch of count * bytes, or NULL with the text set; freed with fga_free(in->ctx, ...). */
fga_status fga_inspect_alloc(const fga_inspect *in, int64_t count, size_t bytes, void *out);

/* Queries of a sampled block that whole blocks of M queries fill. */
static inline int32_t fga_inspect_unit_of(int32_t block_m)
{
    return FGA_INSPECT_UNIT % block_m == 0 ? FGA_INSPECT_UNIT : block_m;
}

/* ---- exact probabilities --------------------------------------------------------------------- */

/* Bytes of scratch that fga_exact_rows needs. */
size_t fga_exact_scratch(const fga_inspect *in);
/* p [rows][tokens] = softmax of q [rows][head_dim] on all keys of query head `head`. entropy [rows] or NULL. */
void fga_exact_rows(const fga_inspect *in, int64_t head, const float *q, int64_t rows, float *p, double *entropy,
                    void *scratch);

/* ---- ranking --------------------------------------------------------------------------------- */

/* rank[i] = index of the i-th largest of values [n], which are >= 0 (-0 and NaN too, somewhere); ties to the lower
 * index. work: [2*n] 64-bit words. */
void fga_rank(const float *values, int64_t n, int32_t *rank, uint64_t *work);

/* ---- points ---------------------------------------------------------------------------------- */

/* An empty bit map for the sampled queries. */
fga_status fga_inspect_make_mask(fga_inspect *in, int32_t block_m, int32_t tile_n, fga_mask **mask);
/* Judges a mask of the sampled queries. group > 0: with remainder summaries of so many keys. */
fga_status fga_inspect_judge(fga_inspect *in, const fga_mask *mask, int32_t group, fga_inspect_point *point);

#endif
