/* bounds.h - what recall a mask cannot fall below: the bounds of docs/method.md, "Guarantees".
 *
 * For one query block: s_iJ is the logarithm of the exact softmax mass (before normalisation) of key sub-tile J for
 * query i, z_IJ the pooled estimate of it for i's sub-tile I. eta says how far they are apart, up to one constant per
 * query, which softmax does not see: eta = max over i of (max over J of d_iJ - min over J of d_iJ) / 2, d = s - z. */
#ifndef FGA_ATTN_BOUNDS_H
#define FGA_ATTN_BOUNDS_H

#include "attn/grid.h"

/* One query sub-tile against every key sub-tile of its head. eta and spread of a block are the largest of its
 * sub-tiles', so that a block never needs an array of all its queries. */
typedef struct fga_bound_input {
    const float *q;           /* [queries][head_dim]: the valid queries of one sub-tile */
    const float *k;           /* [keys][head_dim] */
    const int64_t *begin;     /* [sub_keys]: first key of sub-tile J */
    const int64_t *valid_end; /* [sub_keys]: its keys at or past this are padding; <= begin: it has no valid key */
    int64_t queries, sub_keys, head_dim;
    double scale;
} fga_bound_input;

/* The largest range of q_i . k_j * scale over the keys of a J, and the largest
 * abs((q_i - qmean_I) . (kmean_J - kbar)) * scale, kbar the mean of all kmean_J. */
typedef struct fga_bound_spread {
    double range, cross;
} fga_bound_spread;

/* Fills s [queries][sub_keys] and z [sub_keys], natural logarithms, -inf for a sub-tile without a valid key. spread may
 * be NULL. */
void fga_bound_survey(const fga_bound_input *in, double *s, double *z, fga_bound_spread *spread);

/* The smallest eta that holds for these queries; sub-tiles with z = -inf are left out. */
double fga_bound_eta(const double *s, const double *z, int64_t queries, int64_t sub_keys);
/* What eta cannot exceed, from the spread: range^2/16 + cross. */
double fga_bound_eta_limit(const fga_bound_spread *spread);

/* The K tiles with the largest weighted `mass` scores, forced ones first, retain at least exp(-4 eta) of what the best
 * K tiles that contain the forced ones would; exp(-2 eta) where the block has one query sub-tile. */
double fga_bound_against_best(double eta, int64_t sub_queries, double best_recall);
/* The same without knowing the best: no K tiles of `tiles` retain less than (K - forced)/(tiles - forced) at best. */
double fga_bound_against_count(double eta, int64_t sub_queries, int64_t kept, int64_t forced, int64_t tiles);
/* For any selection: at least this recall where the kept tiles hold `mass` of the row's scores (in [0, 1]). */
double fga_bound_from_mass(double eta, double mass);

#endif
