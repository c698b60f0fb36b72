/* bounds.c - provable lower bounds on recall, in f64: they are for analysis, not for the way of a generation. */
#include "attn/bounds.h"

#include <math.h>

static double dot(const float *x, const double *y, int64_t n)
{
    double sum = 0;
    for (int64_t c = 0; c < n; c++) {
        sum += (double)x[c] * y[c];
    }
    return sum;
}

static double dot_rows(const float *x, const float *y, int64_t n)
{
    double sum = 0;
    for (int64_t c = 0; c < n; c++) {
        sum += (double)x[c] * (double)y[c];
    }
    return sum;
}

/* mean = of rows [begin, end), which are not empty. */
static void mean_rows(const float *rows, int64_t begin, int64_t end, int64_t dim, double *mean)
{
    for (int64_t c = 0; c < dim; c++) {
        mean[c] = 0;
    }
    for (int64_t i = begin; i < end; i++) {
        for (int64_t c = 0; c < dim; c++) {
            mean[c] += (double)rows[i * dim + c];
        }
    }
    for (int64_t c = 0; c < dim; c++) {
        mean[c] /= (double)(end - begin);
    }
}

/* The mean over sub-tiles of their means. */
static void mean_of_means(const fga_bound_input *in, double *centre)
{
    int64_t found = 0;
    for (int64_t c = 0; c < in->head_dim; c++) {
        centre[c] = 0;
    }
    for (int64_t j = 0; j < in->sub_keys; j++) {
        if (in->valid_end[j] > in->begin[j]) {
            double mean[FGA_MAX_HEAD_DIM];
            mean_rows(in->k, in->begin[j], in->valid_end[j], in->head_dim, mean);
            found++;
            for (int64_t c = 0; c < in->head_dim; c++) {
                centre[c] += (mean[c] - centre[c]) / (double)found;
            }
        }
    }
}

/* log of the sum of exp of query i's logits over the keys of J; widens *range to theirs. */
static double log_mass(const fga_bound_input *in, int64_t i, int64_t j, double *range)
{
    const float *q = in->q + i * in->head_dim;
    double low = INFINITY, high = -INFINITY, sum = 0;
    for (int64_t key = in->begin[j]; key < in->valid_end[j]; key++) {
        double x = dot_rows(q, in->k + key * in->head_dim, in->head_dim) * in->scale;
        sum = x > high ? sum * exp(high - x) + 1 : sum + exp(x - high);
        high = fmax(high, x);
        low = fmin(low, x);
    }
    *range = fmax(*range, high - low);
    return high + log(sum);
}

void fga_bound_survey(const fga_bound_input *in, double *s, double *z, fga_bound_spread *spread)
{
    int64_t dim = in->head_dim;
    double q_mean[FGA_MAX_HEAD_DIM], k_mean[FGA_MAX_HEAD_DIM], centre[FGA_MAX_HEAD_DIM];
    fga_bound_spread widest = {0, 0};
    mean_rows(in->q, 0, in->queries, dim, q_mean);
    mean_of_means(in, centre);
    for (int64_t j = 0; j < in->sub_keys; j++) {
        int64_t n = in->valid_end[j] - in->begin[j];
        z[j] = -INFINITY;
        for (int64_t i = 0; n <= 0 && i < in->queries; i++) {
            s[i * in->sub_keys + j] = -INFINITY;
        }
        if (n <= 0) {
            continue;
        }
        mean_rows(in->k, in->begin[j], in->valid_end[j], dim, k_mean);
        double estimate = 0, around = 0;
        for (int64_t c = 0; c < dim; c++) {
            estimate += q_mean[c] * k_mean[c];
            k_mean[c] -= centre[c];
            around += q_mean[c] * k_mean[c];
        }
        z[j] = estimate * in->scale + log((double)n);
        for (int64_t i = 0; i < in->queries; i++) {
            s[i * in->sub_keys + j] = log_mass(in, i, j, &widest.range);
            widest.cross = fmax(widest.cross, fabs((dot(in->q + i * dim, k_mean, dim) - around) * in->scale));
        }
    }
    if (spread != NULL) {
        *spread = widest;
    }
}

double fga_bound_eta(const double *s, const double *z, int64_t queries, int64_t sub_keys)
{
    double eta = 0;
    for (int64_t i = 0; i < queries; i++) {
        double low = INFINITY, high = -INFINITY;
        for (int64_t j = 0; j < sub_keys; j++) {
            if (z[j] != -INFINITY) {
                double d = s[i * sub_keys + j] - z[j];
                low = fmin(low, d);
                high = fmax(high, d);
            }
        }
        eta = high > low ? fmax(eta, (high - low) / 2) : eta;
    }
    return eta;
}

double fga_bound_eta_limit(const fga_bound_spread *spread)
{
    return spread->range * spread->range / 16 + spread->cross;
}

double fga_bound_against_best(double eta, int64_t sub_queries, double best_recall)
{
    return exp(-(sub_queries > 1 ? 4 : 2) * eta) * best_recall;
}

double fga_bound_against_count(double eta, int64_t sub_queries, int64_t kept, int64_t forced, int64_t tiles)
{
    double share = tiles > forced ? (double)(kept - forced) / (double)(tiles - forced) : 1;
    return fga_bound_against_best(eta, sub_queries, share);
}

double fga_bound_from_mass(double eta, double mass)
{
    double kept = mass * exp(-2 * eta);
    return mass >= 1 ? 1 : kept / (kept + 1 - mass);
}
