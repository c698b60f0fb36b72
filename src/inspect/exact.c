/* exact.c - true probabilities of a few queries on all keys. */
#include "inspect/inspect.h"

#include <math.h>
#include <string.h>

/* Keys are taken PANEL at a time, transposed, so that neighbouring lanes are neighbouring keys: every product is summed
 * over the channels in one order, whatever the machine. */
enum { LANES = 4, VECTORS = 4, PANEL = LANES * VECTORS, TOGETHER = 2 };

typedef float vector __attribute__((vector_size(LANES * sizeof(float))));

size_t fga_exact_scratch(const fga_inspect *in)
{
    return (size_t)in->head_dim * PANEL * sizeof(float);
}

static void transpose(const float *k, int64_t keys, int64_t dim, float *panel)
{
    for (int64_t j = 0; j < PANEL; j++) {
        for (int64_t c = 0; c < dim; c++) {
            panel[c * PANEL + j] = j < keys ? k[j * dim + c] : 0.0f;
        }
    }
}

/* logits [TOGETHER][PANEL] */
static void multiply(const float *q, const float *panel, int64_t dim, float *logits)
{
    vector sum[TOGETHER][VECTORS];
    memset(sum, 0, sizeof sum);
    for (int64_t c = 0; c < dim; c++) {
        vector k[VECTORS];
        memcpy(k, panel + c * PANEL, sizeof k);
        for (int i = 0; i < TOGETHER; i++) {
            float x = q[i * dim + c];
            for (int v = 0; v < VECTORS; v++) {
                sum[i][v] += x * k[v];
            }
        }
    }
    memcpy(logits, sum, sizeof sum);
}

static void one_panel(const fga_inspect *in, const float *q, int64_t rows, const float *panel, int64_t first, float *p)
{
    int64_t dim = in->head_dim, count = fga_min(PANEL, in->tokens - first);
    float logits[TOGETHER * PANEL], pair[TOGETHER * FGA_MAX_HEAD_DIM];
    for (int64_t i = 0; i < rows; i += TOGETHER) {
        int64_t here = fga_min(TOGETHER, rows - i);
        const float *from = q + i * dim;
        if (here < TOGETHER) { /* the last query alone */
            memcpy(pair, from, (size_t)dim * sizeof *pair);
            memcpy(pair + dim, from, (size_t)dim * sizeof *pair);
            from = pair;
        }
        multiply(from, panel, dim, logits);
        for (int64_t r = 0; r < here; r++) {
            for (int64_t j = 0; j < count; j++) {
                p[(i + r) * in->tokens + first + j] = logits[r * PANEL + j] * in->scale;
            }
        }
    }
}

/* Logits to probabilities; returns the entropy log Z - sum p x, x relative to the largest. */
static double normalise(float *p, int64_t n)
{
    float most = p[0];
    for (int64_t j = 1; j < n; j++) {
        most = p[j] > most ? p[j] : most;
    }
    double sum = 0, moment = 0;
    for (int64_t j = 0; j < n; j++) {
        float x = p[j] - most;
        p[j] = expf(x);
        sum += (double)p[j];
        moment += (double)p[j] * (double)x;
    }
    float inverse = (float)(1.0 / sum);
    for (int64_t j = 0; j < n; j++) {
        p[j] *= inverse;
    }
    return log(sum) - moment / sum;
}

void fga_exact_rows(const fga_inspect *in, int64_t head, const float *q, int64_t rows, float *p, double *entropy,
                    void *scratch)
{
    const float *k = in->k + fga_inspect_kv_head(in, head) * in->tokens * in->head_dim;
    for (int64_t first = 0; first < in->tokens; first += PANEL) {
        transpose(k + first * in->head_dim, fga_min(PANEL, in->tokens - first), in->head_dim, scratch);
        one_panel(in, q, rows, scratch, first, p);
    }
    for (int64_t i = 0; i < rows; i++) {
        double h = normalise(p + i * in->tokens, in->tokens);
        if (entropy != NULL) {
            entropy[i] = h;
        }
    }
}
