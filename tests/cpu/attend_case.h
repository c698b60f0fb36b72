/* attend_case.h - one attend call with everything around it that could go wrong: guarded outputs, poisoned unkept rows,
 * odd addresses and strides; and the two attentions it is judged by. */
#ifndef FGA_TESTS_ATTEND_CASE_H
#define FGA_TESTS_ATTEND_CASE_H

#include "ops/ops.h"

typedef enum data_kind { DATA_RANDOM, DATA_HUGE, DATA_TINY, DATA_EQUAL, DATA_FALLING, DATA_RISING } data_kind;

/* Where inputs lie: anywhere, or right after or before a page that cannot be read. */
typedef enum attend_place { PLACE_ANYWHERE, PLACE_AFTER_A_WALL, PLACE_BEFORE_A_WALL } attend_place;

typedef struct attend_case {
    fga_dtype dtype;
    int32_t head_dim, rows;
    int64_t keys; /* of the sequence */
    int kept_in_16;
    data_kind data;
    bool bias, strided;
    int shift; /* elements by which every tensor is off a 64-byte boundary */
    attend_place place;
    uint64_t seed;
    int32_t group; /* keys per summary of what is not kept; 0: dropped */
} attend_case;

typedef struct attend_data {
    attend_case spec;
    int64_t stride, o_stride;
    char *q, *k, *v; /* tensors of spec.dtype */
    float *bias;
    uint32_t *list;
    int64_t kept;
    float *sum_k, *sum_v, *sum_bias, *count; /* of every group of spec.group keys */
    uint16_t *parts; /* of every other case of bf16; else NULL: kernels split the sums themselves */
    fga_summaries summaries;
    struct {
        void *base;
        size_t mapped; /* bytes; 0: from the heap */
    } allocated[16];
    int allocations;
} attend_data;

/* The result of one attention, in double: o is [rows][head_dim]. */
typedef struct attend_result {
    double *o, *lse;
} attend_result;

uint64_t next_random(uint64_t *state);
void attend_data_make(attend_data *d, const attend_case *spec);
void attend_data_free(attend_data *d);
/* Element i of row `row` of q, k or v. */
float attend_data_get(const attend_data *d, const char *tensor, int64_t row, int32_t i);
void attend_data_set(const attend_data *d, char *tensor, int64_t row, int32_t i, float value);

attend_result attend_result_make(const attend_data *d);
void attend_result_free(attend_result *r);
/* By the definition, in double; summaries by the definition in ops.h. */
void attend_exactly(const attend_data *d, attend_result *r);
/* As a plain program of the tensors' precision would: f32 sums, weights and output rounded to the dtype. */
void attend_naively(const attend_data *d, attend_result *r);
/* Through the kernel; false when it wrote outside its outputs. What it leaves unwritten is NaN. */
bool attend_by_kernel(const attend_data *d, const fga_ops *ops, attend_result *r);
/* Through the kernel for rows that keep different keys; kept is [ceil(rows/32)][spec.keys], as in fga_probe_op.
 * dense, if not NULL: what they would get if they kept all that is listed, without summaries. */
bool attend_by_probe(const attend_data *d, const fga_ops *ops, const uint32_t *kept, attend_result *r,
                     attend_result *dense);

/* norm(a - b) / norm(b) and max abs(a - b) / max abs(b), the larger. */
double relative_error(const double *a, const double *b, int64_t n);

#endif
