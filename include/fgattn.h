/* fgattn.h - fine-grained sparse attention for video diffusion transformers.
 *
 * The whole public surface of libfgattn. A screenful of usage first:
 *
 *   fga_context *ctx;
 *   fga_context_create(NULL, &ctx);                          // CPU, all cores
 *
 *   fga_attend_desc d = fga_attend_desc_default();
 *   d.batch = 1, d.query_heads = d.kv_heads = 12, d.head_dim = 128;
 *   d.query_len = d.key_len = 32760, d.dtype = FGA_BF16;
 *   d.block_m = 128, d.tile_n = 1;                           // the mask's granularity; 0 = dense
 *
 *   fga_attend_plan *plan;
 *   fga_attend_plan_create(ctx, &d, &plan);                  // picks the kernel, sizes the workspace
 *   void *ws = aligned_alloc(64, fga_attend_plan_workspace(plan));
 *
 *   fga_attend_args a = fga_attend_args_default();
 *   a.q = fga_tensor_bshd(q, FGA_BF16, 1, 32760, 12, 128);   // likewise a.k, a.v, a.o
 *   a.mask = mask;                                           // NULL = dense
 *   if (fga_attend_run(plan, &a, ws, NULL) != FGA_OK)
 *       fprintf(stderr, "%s\n", fga_last_error(ctx));
 *
 * Rules that hold everywhere:
 *   - Every fallible function returns a status; fga_last_error(ctx) names the argument, what it got
 *     and what it wanted. The library never prints, exits, aborts or reads the environment.
 *   - Options structs start with their size and come from a *_default() function.
 *   - Plan, then run: run allocates nothing, keeps no global state, and is reentrant on different
 *     contexts. One context must not be used from two threads at once.
 *   - Results are bit-identical at any thread count.
 *   - density is the KEPT fraction of valid query-key pairs.
 *
 * References: FG-Attn, arXiv 2509.16518. DFSAttn, arXiv 2605.23445.
 */
#ifndef FGATTN_H
#define FGATTN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(__GNUC__)
#define FGA_API __attribute__((visibility("default")))
#else
#define FGA_API
#endif

#define FGA_VERSION_MAJOR 0
#define FGA_VERSION_MINOR 1
#define FGA_VERSION_PATCH 0

/* ---- status ------------------------------------------------------------------------------- */

typedef enum fga_status {
    FGA_OK = 0,
    FGA_ERR_ARGUMENT = 1,    /* a caller's argument is wrong */
    FGA_ERR_UNSUPPORTED = 2, /* no variant computes this shape, dtype or device */
    FGA_ERR_MEMORY = 3,      /* an allocation failed */
    FGA_ERR_DATA = 4,        /* malformed serialised input */
    FGA_ERR_IO = 5,          /* the operating system refused a read or a write */
    FGA_ERR_INTERRUPTED = 6, /* the caller's cancel callback said stop */
    FGA_ERR_INTERNAL = 7     /* a library underneath failed unexpectedly */
} fga_status;

FGA_API const char *fga_version(void);
FGA_API const char *fga_status_name(fga_status status);

/* ---- context ------------------------------------------------------------------------------ */

/* FGA_DEVICE_CUDA: the device of the calling thread's current CUDA context, which must stay alive and current in every
 * call. Attention, sums, scores, top-k selection and sessions of some policies run there (bf16 and f16); what has no
 * kernels refuses such a context. docs/kernels-cuda.md has the table.
 */
typedef enum fga_device { FGA_DEVICE_CPU = 0, FGA_DEVICE_CUDA = 1 } fga_device;

/* Owns the thread pool, the allocator, the forced variant and the last error. */
typedef struct fga_context fga_context;

typedef struct fga_context_options {
    size_t size;
    fga_device device;
    int threads;         /* 0 = as many as the process may run on */
    const char *variant; /* force one kernel family by name ("c", "avx2", "avx512", "avx512bf16", "amx"; CUDA: "sm80",
                            "sm90"); NULL = best. To know whether "amx" runs, the process's permission to use tile
                            registers is asked for once; a thread's signal stack then must hold them too. */
    void *(*alloc)(void *user, size_t bytes); /* 64-byte aligned; NULL = the C library's */
    void (*free)(void *user, void *pointer);
    void (*log)(void *user, const char *line); /* NULL = silent */
    void *user;
    uintptr_t reserved[8];
} fga_context_options;

FGA_API fga_context_options fga_context_options_default(void);
/* options may be NULL. On failure *ctx is NULL and the reason is the status alone. */
FGA_API fga_status fga_context_create(const fga_context_options *options, fga_context **ctx);
/* Destroys and sets *ctx to NULL; accepts NULL and pointer to NULL, as every *_destroy here does. */
FGA_API void fga_context_destroy(fga_context **ctx);
/* The newest error's text, never NULL; valid until the next call on ctx. */
FGA_API const char *fga_last_error(const fga_context *ctx);
/* Leaves a formatted text for fga_last_error and returns status: for libraries built on this one. ctx may be NULL. */
FGA_API fga_status fga_context_fail(fga_context *ctx, fga_status status, const char *format, ...)
#if defined(__GNUC__)
    __attribute__((format(printf, 3, 4)))
#endif
    ;
/* Sends one formatted line to the context's log callback, if there is one. */
FGA_API void fga_context_log(fga_context *ctx, const char *format, ...)
#if defined(__GNUC__)
    __attribute__((format(printf, 2, 3)))
#endif
    ;
FGA_API int fga_context_threads(const fga_context *ctx);
/* CUDA contexts: the stream on which entry points that take none do their work, without waiting for it; NULL at first.
 * Whoever changes it while work is in flight orders the two streams. */
FGA_API void fga_context_set_stream(fga_context *ctx, void *stream);

/* Runs body(arg, item, worker) for item = 0 ... items-1 on the context's pool, the calling thread
 * included; worker is in [0, threads). Items are handed out in order, one at a time. Returns when
 * all are done. A nested call from inside body runs serially. */
FGA_API void fga_parallel_for(fga_context *ctx, int64_t items, void (*body)(void *arg, int64_t item, int worker),
                              void *arg);

/* Kernel families compiled in, best last, the processor's before those of CUDA devices: name and whether this machine
 * (for CUDA: the device of the calling thread's current CUDA context) can run them. */
FGA_API int fga_variant_count(void);
FGA_API const char *fga_variant_name(int index);
FGA_API bool fga_variant_runs_here(int index);

/* ---- tensors ------------------------------------------------------------------------------ */

typedef enum fga_dtype { FGA_F32 = 0, FGA_F16 = 1, FGA_BF16 = 2 } fga_dtype;

FGA_API size_t fga_dtype_size(fga_dtype dtype);      /* bytes */
FGA_API const char *fga_dtype_name(fga_dtype dtype); /* "f32", "f16", "bf16" */

/* A view, never an owner. Attention tensors are indexed [batch][head][token][channel]; strides are in
 * elements, and the channel stride must be 1. */
typedef struct fga_tensor {
    void *data;
    fga_dtype dtype;
    fga_device device;
    int64_t extent[4];
    int64_t stride[4];
} fga_tensor;

/* Contiguous [batch][head][token][channel] and [batch][token][head][channel] on the processor. For memory of a CUDA
 * device set .device = FGA_DEVICE_CUDA afterwards: contexts refuse tensors of the other kind. */
FGA_API fga_tensor fga_tensor_bhsd(void *data, fga_dtype dtype, int64_t b, int64_t h, int64_t s, int64_t d);
FGA_API fga_tensor fga_tensor_bshd(void *data, fga_dtype dtype, int64_t b, int64_t s, int64_t h, int64_t d);

/* ---- sequences and order ------------------------------------------------------------------ */

/* Segments in order: text prefix, video, text suffix. Each has a length in tokens, of which the first
 * `valid` are real and the rest padding (never attended, never counted). */
typedef struct fga_sequence {
    int64_t prefix, prefix_valid;
    int64_t video, video_valid;
    int64_t suffix, suffix_valid;
} fga_sequence;

FGA_API fga_sequence fga_sequence_video(int64_t tokens); /* video only, all valid */
FGA_API int64_t fga_sequence_length(const fga_sequence *sequence);
FGA_API int64_t fga_sequence_valid(const fga_sequence *sequence);

typedef enum fga_order {
    FGA_ORDER_RASTER = 0,
    FGA_ORDER_HILBERT = 1, /* generalised to any cuboid, x = w, y = h, z = t, halves truncated toward zero:
                              consecutive tokens differ by at most 1 in each coordinate */
    FGA_ORDER_HILBERT_CLIPPED =
        2,                /* Skilling's index in the enclosing power-of-two cube, axes w, h, t: DFSAttn's code */
    FGA_ORDER_MORTON = 3, /* interleaved bits, w lowest, then h, t */
    FGA_ORDER_BOXES = 4   /* boxes of 4x4x4 cut at the border, raster outside and inside */
} fga_order;

/* order[i] = raster index (t*height + h)*width + w of the i-th token of the order; [frames*height*width], each extent
 * at least 1. */
FGA_API fga_status fga_order_build(fga_context *ctx, fga_order kind, int64_t frames, int64_t height, int64_t width,
                                   int32_t *order);

/* Rows moved by an order, in the memory of the context's device. */
typedef struct fga_permute_args {
    size_t size;
    const void *from;
    void *to;             /* does not overlap from */
    const int32_t *order; /* [rows], each of 0 ... rows-1 once; in the device's memory too; not checked */
    int64_t rows;
    size_t row_bytes;              /* on a CUDA context multiples of 16, as all addresses and strides */
    size_t from_stride, to_stride; /* bytes from row to row; 0 = row_bytes */
    bool inverse;                  /* false: to[i] = from[order[i]]; true: to[order[i]] = from[i] */
    uintptr_t reserved[4];
} fga_permute_args;

FGA_API fga_permute_args fga_permute_args_default(void);
/* stream: the CUDA stream on a CUDA context; NULL on the CPU. */
FGA_API fga_status fga_permute(fga_context *ctx, const fga_permute_args *args, void *stream);

/* ---- masks -------------------------------------------------------------------------------- */

/* Which key tiles (N consecutive keys) each query block (M consecutive queries) keeps:
 * [1 or batch][1 or query heads][ceil(query_len/M)][ceil(key_len/N)]. Reference-counted. */
typedef struct fga_mask fga_mask;

typedef struct fga_mask_desc {
    size_t size;
    int64_t batch;      /* 1 broadcasts */
    int64_t heads;      /* 1 broadcasts */
    int32_t block_m;    /* M: 16, 32, 64, 128 or 192 */
    int32_t tile_n;     /* N: 1, 2, 4, 8, 16, 32, 64 or 128 */
    fga_sequence query; /* both tile grids start at token 0 of their sequence */
    fga_sequence key;
    uintptr_t reserved[4];
} fga_mask_desc;

FGA_API fga_mask_desc fga_mask_desc_default(void);

/* keep is [batch][heads][blocks][tiles] bytes, non-zero = kept. Tiles without a valid key are dropped. */
FGA_API fga_status fga_mask_from_bool(fga_context *ctx, const fga_mask_desc *desc, const uint8_t *keep,
                                      fga_mask **mask);
/* Block-sparse rows over rows = batch*heads*blocks: row r keeps tiles[offsets[r] ... offsets[r+1]-1]. */
FGA_API fga_status fga_mask_from_lists(fga_context *ctx, const fga_mask_desc *desc, const int64_t *offsets,
                                       const int32_t *tiles, fga_mask **mask);
/* keep(user, b, h, u, v) says whether block u keeps tile v. */
FGA_API fga_status fga_mask_from_function(fga_context *ctx, const fga_mask_desc *desc,
                                          bool (*keep)(void *user, int64_t b, int64_t h, int64_t u, int64_t v),
                                          void *user, fga_mask **mask);
/* Masks that a CUDA device made (fga_select_topk, sessions on a CUDA context) hold their bits there alone: attention
 * takes them, but until they are fetched they have no run, keep nothing that can be asked for, and their density is
 * NaN. Waits for the context's stream and copies. */
FGA_API fga_status fga_mask_fetch(fga_context *ctx, const fga_mask *mask, fga_mask **copy);
FGA_API fga_mask *fga_mask_retain(fga_mask *mask);
FGA_API void fga_mask_release(fga_mask **mask);

FGA_API fga_mask_desc fga_mask_describe(const fga_mask *mask);
FGA_API int64_t fga_mask_blocks(const fga_mask *mask);
FGA_API int64_t fga_mask_tiles(const fga_mask *mask);
/* Whether query block u keeps key tile v in head h of batch entry b; false outside the mask. */
FGA_API bool fga_mask_keeps(const fga_mask *mask, int64_t b, int64_t h, int64_t u, int64_t v);
/* Iterates row (b, h, u): the first stretch of kept tiles at or after tile `from`, as [*start, *end), not further cut;
 * false when there is none. */
FGA_API bool fga_mask_next_run(const fga_mask *mask, int64_t b, int64_t h, int64_t u, int64_t from, int64_t *start,
                               int64_t *end);
/* Kept valid pairs / all valid pairs, over all of [batch][heads]; 0 where nothing is valid. */
FGA_API double fga_mask_density(const fga_mask *mask);

typedef enum fga_mask_storage { FGA_MASK_BITMAP = 0, FGA_MASK_RUNS = 1 } fga_mask_storage;
FGA_API fga_mask_storage fga_mask_storage_kind(const fga_mask *mask);
FGA_API size_t fga_mask_bytes(const fga_mask *mask); /* held in memory for the mask's bits or runs */
/* Re-stores in whichever of bit map and runs is smaller. */
FGA_API fga_status fga_mask_compress(fga_context *ctx, fga_mask *mask);

/* Serialisation: a versioned, little-endian, checked byte form. save with buffer NULL asks the size, else *bytes is
 * the buffer's size. load: FGA_ERR_DATA says what is wrong with bytes that are no mask, cut short or damaged. */
FGA_API fga_status fga_mask_save(fga_context *ctx, const fga_mask *mask, void *buffer, size_t *bytes);
FGA_API fga_status fga_mask_load(fga_context *ctx, const void *buffer, size_t bytes, fga_mask **mask);

/* ---- attention ---------------------------------------------------------------------------- */

/* O_i = sum_j p_ij V_j over kept keys, p_ij = exp(q_i.k_j*scale + bias_j - L_i); see docs/method.md.
 * Query head h reads key/value head h / (query_heads / kv_heads). */
typedef struct fga_attend_desc {
    size_t size;
    int64_t batch, query_heads, kv_heads;
    int64_t query_len, key_len;
    int64_t head_dim; /* multiple of 8, at most 256 */
    fga_dtype dtype;  /* of Q, K, V and O; accumulation is f32 */
    int32_t block_m;  /* the mask's M; 0 = no mask: the variant's own block */
    int32_t tile_n;   /* the mask's N; 0 = no mask */
    float scale;      /* 0 = head_dim^-0.5 */
    uintptr_t reserved[8];
} fga_attend_desc;

/* Sums over groups of `group` consecutive keys, starting at token 0: what remainder summaries are made from
 * (docs/method.md). With one, every query block attends, beside its kept keys, to one summary per group that stands for
 * exactly the group's keys it did not keep. Padding and keys with bias -inf are in no sum. group = tile_n gives one
 * summary per dropped tile. Contiguous f32 arrays of the caller. */
typedef struct fga_remainder {
    size_t size;
    int32_t group;           /* g: 8, 16, 32, 64, 128 or 256 */
    int64_t groups;          /* ceil(key_len / g) */
    float *sum_k, *sum_v;    /* [batch][kv_heads][groups][head_dim] */
    float *sum_bias, *count; /* [batch][kv_heads][groups]: sum of the keys' biases, number of keys */
    /* [batch][kv_heads][groups][4][head_dim] of bf16, written by fga_remainder_fill: the sum of K rounded, what that
     * leaves of it, and the same of V, as bf16 kernels multiply them. NULL = kernels round sums block by block; set it
     * to NULL where you fill the sums yourself. */
    uint16_t *parts;
    uintptr_t reserved[3];
} fga_remainder;

typedef struct fga_attend_args {
    size_t size;
    fga_tensor q, k, v, o; /* [batch][heads][len][head_dim] with any strides but the last */
    const fga_mask *mask;  /* NULL = every key is kept */
    const float *key_bias; /* [batch][kv_heads][key_len] by the two strides below, or NULL. -inf: never read */
    int64_t bias_batch_stride, bias_head_stride; /* elements; 0 broadcasts */
    float *lse; /* L, [batch][query_heads][query_len] contiguous, or NULL. Empty row: O = 0, L = -inf. Covers the
                   summaries' mass too */
    const fga_remainder *remainder; /* of this call's k, v and key_bias; NULL = keys not kept are dropped */
    uintptr_t reserved[7];
} fga_attend_args;

typedef struct fga_attend_plan fga_attend_plan;

FGA_API fga_attend_desc fga_attend_desc_default(void);
FGA_API fga_attend_args fga_attend_args_default(void);
/* FGA_ERR_ARGUMENT: an extent, head count, dtype, block_m, tile_n or scale that no attention has. FGA_ERR_UNSUPPORTED:
 * head_dim, dtype or block_m that no kernel of the context's device (or of its forced variant) computes. */
FGA_API fga_status fga_attend_plan_create(fga_context *ctx, const fga_attend_desc *desc, fga_attend_plan **plan);
FGA_API void fga_attend_plan_destroy(fga_attend_plan **plan);
FGA_API size_t fga_attend_plan_workspace(const fga_attend_plan *plan);    /* bytes; to be aligned to 64 */
FGA_API const char *fga_attend_plan_variant(const fga_attend_plan *plan); /* which kernel will run */
/* workspace: of this run alone while it lasts. stream: the CUDA stream on a CUDA context, where all tensors, key_bias,
 * lse and the workspace lie on the device; NULL on the CPU. FGA_ERR_ARGUMENT names what does not fit the plan; then
 * nothing was written. */
FGA_API fga_status fga_attend_run(fga_attend_plan *plan, const fga_attend_args *args, void *workspace, void *stream);

/* Lays the arrays of a remainder for desc's shape out in `memory`; with memory NULL only *bytes is set. */
FGA_API fga_status fga_remainder_place(fga_context *ctx, const fga_attend_desc *desc, int32_t group, void *memory,
                                       size_t *bytes, fga_remainder *remainder);
/* Fills the sums from args' k, v and key_bias. key: which keys are valid; NULL = all. On a CUDA context everything lies
 * on the device. */
FGA_API fga_status fga_remainder_fill(fga_context *ctx, const fga_attend_desc *desc, const fga_attend_args *args,
                                      const fga_sequence *key, const fga_remainder *remainder);

/* ---- policies ----------------------------------------------------------------------------- */

/* What ranks a block's key tiles; formulas and sources in docs/method.md, "Scores". */
typedef enum fga_score {
    FGA_SCORE_NONE = 0,
    FGA_SCORE_MASS = 1,         /* DFSAttn: softmax over pooled sub-tiles, summed per tile */
    FGA_SCORE_CUSTOM = 2,       /* the caller's function */
    FGA_SCORE_LSE = 3,          /* SubBlock: log-sum-exp over pooled sub-tiles; rows are not normalised */
    FGA_SCORE_MAX = 4,          /* the largest pooled probability of a tile */
    FGA_SCORE_MEAN = 5,         /* one mean per block and tile; under FGA_SELECT_ADAPTIVE its raw logit in log2 units */
    FGA_SCORE_SECOND_ORDER = 6, /* mass, each logit raised by half the variance of its sub-tile's logits */
    FGA_SCORE_DEVIATION = 7,    /* ours, for remainders: how badly a group's mean stands for the key (s_k = 1) */
    FGA_SCORE_EXACT_MAX = 8,    /* FG-Attn cached: the largest true probability over the block's queries and the tile */
    FGA_SCORE_EXACT_MASS = 9    /* the tile's true mass, mean over the block's queries: the best possible for recall */
} fga_score;

typedef enum fga_select {
    FGA_SELECT_ALL = 0,
    FGA_SELECT_TOPK = 1,
    FGA_SELECT_TOPP = 2,      /* the fewest tiles that hold `tau` of the row's scores (FG-Attn, SpargeAttn) */
    FGA_SELECT_THRESHOLD = 3, /* scores above threshold / valid keys (FG-Attn cached) */
    FGA_SELECT_ADAPTIVE = 4,  /* scores above mean + tau * deviation of the row (Sol-Attn) */
    FGA_SELECT_BUDGET = 5,    /* ours: the best of all rows and heads of a layer, with a floor per row */
    FGA_SELECT_WINDOW = 6,    /* static: a window of boxes (STA) */
    FGA_SELECT_RADIAL = 7,    /* static: Radial Attention */
    FGA_SELECT_FRAMES = 8,    /* static per head: spatial or temporal (SVG) */
    FGA_SELECT_CUSTOM = 9     /* the caller's function says which tiles are kept */
} fga_select;

/* What becomes of the keys that are not kept. */
typedef enum fga_rest { FGA_REST_DROP = 0, FGA_REST_REMAINDER = 1 } fga_rest;

#define FGA_MAX_PHASES 16

/* Sparse from step ceil(numerator*steps/denominator), 0-based, until the next phase starts. Phases rise; of two that
 * start at one step the later counts. */
typedef struct fga_phase {
    int32_t numerator, denominator;
    double density; /* kept fraction of key tiles per block, in (0, 1]; 1 keeps all, still through the sparse path.
                       0 = none, where the selection does not go by density */
} fga_phase;

/* Where a row of scores belongs. */
typedef struct fga_score_row {
    int step, layer, branch;
    int64_t batch, head, block, tiles;
} fga_score_row;

/* Fills scores [row->tiles], f32, for FGA_SCORE_CUSTOM; forced tiles, K and ties are the library's. Called from several
 * threads, once per row and refresh; results are reproducible if it depends on the row alone. */
typedef void (*fga_score_fn)(void *user, const fga_score_row *row, float *scores);

/* Says which tiles the row keeps, keep [row->tiles], for FGA_SELECT_CUSTOM; called like fga_score_fn. Forced tiles are
 * added by the library. */
typedef void (*fga_keep_fn)(void *user, const fga_score_row *row, uint8_t *keep);

/* order -> score -> select -> rest -> schedule, as data. Steps before the first phase are dense. */
typedef struct fga_policy {
    size_t size;
    char name[32]; /* the preset it came from */
    fga_order order;
    int32_t block_m, tile_n; /* M, N */
    int32_t sub_q, sub_k;    /* s_q, s_k: tokens pooled to one mean when scoring */
    fga_score score;
    fga_select select;
    int32_t phases;
    fga_phase phase[FGA_MAX_PHASES];
    int32_t refresh_every; /* 0: refresh at phase starts only; n: also every n steps from a phase's start */
    int32_t dense_layers;  /* layers 0 ... dense_layers-1 are never sparse */
    bool share_branches;   /* guidance branch 0 refreshes for all */
    fga_score_fn custom;   /* with FGA_SCORE_CUSTOM; has no text form */
    void *custom_user;
    fga_keep_fn custom_keep; /* with FGA_SELECT_CUSTOM, custom_user too */
    fga_rest rest;
    int32_t group;         /* keys per summary (and per mean of FGA_SCORE_DEVIATION): 8, 16, 32, 64, 128 or 256 */
    double tau;            /* FGA_SELECT_TOPP: mass to keep; FGA_SELECT_ADAPTIVE: deviations above the mean */
    double threshold;      /* FGA_SELECT_THRESHOLD: c */
    double gate_q, gate_k; /* blocks and tiles less alike than this keep, and are kept by, everything; 0 = no gate */
    bool full_covariance;  /* FGA_SELECT_ADAPTIVE: the row's variance itself, not its diagonal estimate */
    int32_t neighbours;    /* also kept: tiles with abs(u - v) <= neighbours - 1 (block_m = tile_n); 0 = none */
    int32_t window[3];     /* FGA_SELECT_WINDOW: boxes along t, h, w */
    double width;          /* FGA_SELECT_RADIAL */
    bool zero_pad;         /* as DFSAttn's code: whole blocks of zeros, no log n, K rounded down (dfs-paper) */
    /* Guarantees; 0 = none. They raise densities until the sampled figure is met, else make a head dense. */
    double target_recall; /* mean over heads of the sampled recall is at least this */
    double recall_floor;  /* and no head's below this */
    double target_error;  /* the sampled output error of every head is at most this */
    double refresh_drop;  /* adaptive refresh: new masks once a measured recall fell by this since its refresh */
    uintptr_t reserved[8];
} fga_policy;

/* Settings ("density=0.3,tau=0.9") that differ from the policy for some layers, heads and branches; ranges are
 * inclusive. order, phases' times, dense_layers and share_branches are the session's alone; one head's settings may
 * only be density, tau, threshold, neighbours and dense=true. Later overrides win. */
typedef struct fga_override {
    int32_t layer_first, layer_last;
    int32_t head_first, head_last; /* 0 ... INT32_MAX: all */
    int32_t branch;                /* -1: all */
    char settings[108];
} fga_override;

FGA_API int fga_preset_count(void);
FGA_API const char *fga_preset_name(int index);
FGA_API const char *fga_preset_summary(int index); /* one line for humans */
/* text = PRESET[,key=value...], e.g. "dfs,density=0.2,dense_layers=2". Keys are the struct's names, plus
 * density=D (all phases), phases=a/b:D;a/b:D... (without :D where the selection does not go by density), and refresh=N
 * for refresh_every=N. */
FGA_API fga_status fga_policy_parse(fga_context *ctx, const char *text, fga_policy *policy);
#define FGA_POLICY_TEXT 1536 /* bytes that any policy's text fits */
/* Applies "key=value[,key=value...]" to a policy; on failure it is unchanged. */
FGA_API fga_status fga_policy_set(fga_context *ctx, const char *settings, fga_policy *policy);
/* Writes the canonical text form: the preset's name and what differs from it. */
FGA_API fga_status fga_policy_format(fga_context *ctx, const fga_policy *policy, char *text, size_t bytes);

typedef enum fga_step_kind { FGA_STEP_DENSE = 0, FGA_STEP_REFRESH = 1, FGA_STEP_REUSE = 2 } fga_step_kind;
/* What the timetable says for (step of steps, layer): a pure function. density is set for refresh and reuse. */
FGA_API fga_step_kind fga_policy_step(const fga_policy *policy, int step, int steps, int layer, double *density);

/* ---- the predictor's stages, for use one by one ------------------------------------------- */

typedef struct fga_predict_desc {
    size_t size;
    int64_t batch, query_heads, kv_heads, head_dim;
    fga_dtype dtype;
    fga_sequence query, key; /* ordered tokens */
    int32_t block_m, tile_n, sub_q, sub_k;
    float scale; /* 0 = head_dim^-0.5 */
    fga_score score;
    int32_t group;         /* FGA_SCORE_DEVIATION */
    double gate_q, gate_k; /* 0 = no gate */
    bool zero_pad;
    uintptr_t reserved[4];
} fga_predict_desc;

FGA_API fga_predict_desc fga_predict_desc_default(void);
/* Blocks and tiles that desc implies. */
FGA_API int64_t fga_predict_blocks(const fga_predict_desc *desc);
FGA_API int64_t fga_predict_tiles(const fga_predict_desc *desc);
/* *bytes of the workspace of fga_score_tiles, to be aligned to 64. */
FGA_API fga_status fga_score_workspace(fga_context *ctx, const fga_predict_desc *desc, size_t *bytes);
/* desc->score of every block and tile: scores[batch][query_heads][blocks][tiles], f32. Rows of mass sum to 1 (to 0 for
 * a block without a valid query). +inf: gated, to be kept. v is read by FGA_SCORE_DEVIATION alone, else may be NULL. A
 * CUDA context knows mass, lse, mean and deviation, without gates and zero_pad; all memory is the device's. */
FGA_API fga_status fga_score_tiles(fga_context *ctx, const fga_predict_desc *desc, const fga_tensor *q,
                                   const fga_tensor *k, const fga_tensor *v, float *scores, void *workspace);
/* Top-k per row, K = floor(density*tiles + 0.5 + 1e-6) of the tiles that have a valid key, ties to the lower index;
 * forced tiles (text keys, text queries) as in docs/method.md. */
FGA_API fga_status fga_select_topk(fga_context *ctx, const fga_predict_desc *desc, const float *scores, double density,
                                   fga_mask **mask);

/* ---- measurement -------------------------------------------------------------------------- */

typedef struct fga_quality {
    double recall;       /* mean over heads of the retained softmax mass of exactly kept keys */
    double recall_worst; /* the worst head */
    double recall_p05;   /* 5th percentile of all (head, block) means, linear interpolation */
    double output_error; /* norm(O - O_dense) / norm(O_dense), over the measured rows */
    int64_t queries;     /* rows measured per head */
} fga_quality;

typedef struct fga_measure_args {
    size_t size;
    fga_attend_args attend; /* q, k, v, o (already computed), mask, key_bias, lse (already computed; required on the
                               CPU without a remainder) */
    fga_sequence query;     /* which rows are video */
    double fraction;        /* of the valid video queries, evenly spaced: floor((2r+1)*S/(2n)), n = max(1,
                               floor(fraction*S)); >= 1 = all of them */
    float *recall_heads;    /* [batch][query_heads] or NULL: per-head recall */
    float *error_heads;     /* [batch][query_heads] or NULL: per-head output error */
    uintptr_t reserved[4];
} fga_measure_args;

FGA_API fga_measure_args fga_measure_args_default(void);
/* *bytes of the workspace of fga_measure, to be aligned to 64. */
FGA_API fga_status fga_measure_workspace(fga_context *ctx, const fga_attend_desc *desc, double fraction, size_t *bytes);
/* Compares with exact dense attention on the sampled queries. On a CUDA context tensors and the workspace lie on the
 * device, the two arrays per head on the host, and the call waits for the context's stream. */
FGA_API fga_status fga_measure(fga_context *ctx, const fga_attend_desc *desc, const fga_measure_args *args,
                               void *workspace, fga_quality *quality);

/* ---- session: what lives across denoising steps ------------------------------------------- */

/* Owns masks per (layer, guidance branch) and counters; created per generation. Nothing in it counts calls:
 * the caller says where it is. */
typedef struct fga_session fga_session;

/* One measured call of a session; arrays are [batch*query_heads] and the session's. */
typedef struct fga_measured {
    int step, layer, branch;
    fga_step_kind kind;
    const float *recall, *error; /* sampled */
    const double *density;       /* kept pairs / all pairs; NaN on a CUDA context, whose device alone knows the mask */
    double cost;                 /* (kept + summary pairs) / all pairs, of the call; likewise */
} fga_measured;

typedef struct fga_session_desc {
    size_t size;
    fga_policy policy;
    int layers, branches;
    int64_t batch, query_heads, kv_heads, head_dim;
    fga_dtype dtype;
    fga_sequence sequence;         /* self-attention: queries = keys */
    int64_t frames, height, width; /* of the video, in tokens: static selections need them; else may be 0 */
    /* Sampled share of the queries of a measured call, default 0.02. 0 = never measure, unless a target or refresh_drop
     * needs it, which then take 0.02; targets never take fewer than 256 queries a head. Measured are sparse calls at
     * refresh steps and at the last step before the next refresh: each mask at its freshest and at its most aged. One
     * costs that share of a dense attention, and on a CUDA context waits for the stream. */
    double measure_fraction;
    const fga_override *overrides; /* [override_count]; copied */
    int32_t override_count;
    /* Told of every measured call, from the caller's thread; or NULL. */
    void (*on_measure)(void *user, const struct fga_measured *measured);
    void *user;
    uintptr_t reserved[4];
} fga_session_desc;

typedef struct fga_session_report {
    int64_t calls_dense, calls_refresh, calls_reuse; /* attention calls */
    double pairs_total, pairs_kept;                  /* over all calls, dense ones included */
    double sparse_total, sparse_kept;                /* over sparse calls */
    double sparse_summaries;                         /* summary pairs of sparse calls: cost = (kept + these) / total */
    int64_t heads_made_dense;                        /* by a target that nothing less could meet, over refreshes */
    int64_t refreshes_early;                         /* by targets or refresh_drop, before the timetable's */
    double score_s, attend_s, measure_s;             /* seconds */
    int64_t measured_calls;
    double recall_mean, recall_p05; /* fga_quality's, averaged over measured calls; NaN when none */
    double recall_worst;            /* the worst head of any measured call */
    double output_error_mean, output_error_worst;
    size_t mask_bytes, mask_bytes_peak; /* masks of all layers and branches */
    const char *variant;
} fga_session_report;

FGA_API fga_session_desc fga_session_desc_default(void);
/* FGA_ERR_ARGUMENT: a policy, sequence or shape that does not hold together. FGA_ERR_UNSUPPORTED: what the context's
 * device has no kernels for; the text names it. */
FGA_API fga_status fga_session_create(fga_context *ctx, const fga_session_desc *desc, fga_session **session);
FGA_API void fga_session_destroy(fga_session **session);
FGA_API size_t fga_session_workspace(const fga_session *session); /* bytes; to be aligned to 64; of any call */
/* Self-attention of (step of steps, layer, branch) under the policy; args->mask, lse and remainder must be NULL: the
 * session brings its own. Tokens must already be in the policy's order. What ran is in *kind if not NULL: a reuse
 * without a mask of the newest refresh refreshes. Padding is never attended, and neither are keys with bias -inf, of
 * which no mask keeps whole tiles; on a CUDA context selections know no key_bias, and layers that are ever sparse
 * refuse one (FGA_ERR_UNSUPPORTED). steps must stay what it was at the first call. */
FGA_API fga_status fga_session_attend(fga_session *session, int step, int steps, int layer, int branch,
                                      const fga_attend_args *args, void *workspace, fga_step_kind *kind);
/* The mask in force for (layer, branch), borrowed until the next call of fga_session_attend, which may rewrite it; NULL
 * if none. Retain it to keep it: the session then makes itself another (on a CUDA context allocated in that refresh;
 * release it there only when no work that uses it is left). */
FGA_API const fga_mask *fga_session_mask(const fga_session *session, int layer, int branch);
FGA_API fga_session_report fga_session_get_report(const fga_session *session);
/* Between two calls of fga_session_attend: all that later steps depend on, and the report so far, as bytes. They go to
 * `write` piece by piece; returning false stops with FGA_ERR_INTERRUPTED. *bytes, if not NULL, is how many there are in
 * all; write NULL: only that. */
FGA_API fga_status fga_session_save(const fga_session *session,
                                    bool (*write)(void *user, const void *bytes, size_t count), void *user,
                                    uint64_t *bytes);
/* Into a session of the same description that has attended to nothing: it goes on where the other one was, to the same
 * bytes. FGA_ERR_DATA says what does not fit; the session is then as it was made. */
FGA_API fga_status fga_session_load(fga_session *session, const void *bytes, size_t count);

#ifdef __cplusplus
}
#endif
#endif /* FGATTN_H */
