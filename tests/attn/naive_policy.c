#include "naive_policy.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static int64_t blocks_of(const naive_selection *s)
{
    return naive_blocks(s->p);
}

static int64_t tiles_of(const naive_selection *s)
{
    return naive_tiles(s->p);
}

static int64_t tokens_of(const naive_selection *s)
{
    return fga_sequence_length(&s->p->key);
}

static bool is_video(const naive_selection *s, int64_t token)
{
    return naive_is_valid(&s->p->key, token) && !naive_is_text(&s->p->key, token);
}

/* Valid tokens, and valid text among them, of `each` tokens from begin. */
static int64_t count_tokens(const naive_selection *s, int64_t begin, int64_t each, bool text)
{
    int64_t count = 0;
    for (int64_t i = begin; i < begin + each && i < tokens_of(s); i++) {
        count += naive_is_valid(&s->p->key, i) && (!text || naive_is_text(&s->p->key, i));
    }
    return count;
}

static int64_t live_tiles(const naive_selection *s)
{
    int64_t count = 0;
    for (int64_t v = 0; v < tiles_of(s); v++) {
        count += count_tokens(s, v * s->p->n, s->p->n, false) > 0;
    }
    return count;
}

static bool is_live(const naive_selection *s, int64_t v)
{
    return count_tokens(s, v * s->p->n, s->p->n, false) > 0;
}

static uint8_t *row_of(const naive_selection *s, int64_t head, int64_t u)
{
    return s->keep + (head * blocks_of(s) + u) * tiles_of(s);
}

static const float *scores_of(const naive_selection *s, int64_t head, int64_t u)
{
    return s->scores + (head * blocks_of(s) + u) * tiles_of(s);
}

static bool asks(const naive_selection *s, int64_t u)
{
    return count_tokens(s, u * s->p->m, s->p->m, false) > 0;
}

static bool is_dense(const naive_selection *s, int64_t head, int64_t u)
{
    return s->heads[head].dense || count_tokens(s, u * s->p->m, s->p->m, true) > 0;
}

/* 'f' forced, 'o' open, 0 dead */
static char tile_kind(const naive_selection *s, int64_t head, int64_t u, int64_t v)
{
    if (!is_live(s, v)) {
        return 0;
    }
    if (count_tokens(s, v * s->p->n, s->p->n, true) > 0 || llabs(u - v) <= s->heads[head].neighbours - 1) {
        return 'f';
    }
    return s->scores != NULL && scores_of(s, head, u)[v] == INFINITY ? 'f' : 'o';
}

/* ---- by scores ------------------------------------------------------------------------------------ */

typedef struct item {
    double score;
    int64_t row, tile;
} item;

static int better(const void *a, const void *b)
{
    const item *x = a, *y = b;
    double xs = isnan(x->score) ? -HUGE_VAL : x->score, ys = isnan(y->score) ? -HUGE_VAL : y->score;
    if (isnan(x->score) != isnan(y->score)) {
        return isnan(x->score) ? 1 : -1;
    }
    if (xs != ys) {
        return xs > ys ? -1 : 1;
    }
    if (x->row != y->row) {
        return x->row < y->row ? -1 : 1;
    }
    return x->tile < y->tile ? -1 : x->tile > y->tile;
}

/* Open tiles of a row, best first. */
static int64_t sorted_row(const naive_selection *s, int64_t head, int64_t u, item *list)
{
    int64_t count = 0;
    for (int64_t v = 0; v < tiles_of(s); v++) {
        if (tile_kind(s, head, u, v) == 'o') {
            list[count++] = (item){scores_of(s, head, u)[v], 0, v};
        }
    }
    qsort(list, (size_t)count, sizeof *list, better);
    return count;
}

static void topk_row(const naive_selection *s, int64_t head, int64_t u, uint8_t *keep)
{
    int64_t tiles = live_tiles(s), forced = 0, k;
    item *list = calloc((size_t)tiles_of(s) + 1, sizeof *list);
    int64_t count = sorted_row(s, head, u, list);
    forced = tiles - count;
    double density = s->heads[head].density;
    k = s->policy->zero_pad ? (int64_t)(density * (double)tiles) : (int64_t)floor(density * (double)tiles + 0.5 + 1e-6);
    k = k < 1 ? 1 : k > tiles ? tiles : k;
    int64_t best = k - forced < 1 ? 1 : k - forced;
    for (int64_t i = 0; i < count && i < best; i++) {
        keep[list[i].tile] = 1;
    }
    free(list);
}

static void topp_row(const naive_selection *s, int64_t head, int64_t u, uint8_t *keep)
{
    item *list = calloc((size_t)tiles_of(s) + 1, sizeof *list);
    int64_t count = sorted_row(s, head, u, list), need = 0;
    volatile float sum = 0, running; /* f32 after every addition */
    for (int64_t v = 0; v < tiles_of(s); v++) {
        if (tile_kind(s, head, u, v) == 'f' && scores_of(s, head, u)[v] != INFINITY) {
            sum = sum + scores_of(s, head, u)[v];
        }
    }
    running = sum;
    for (int64_t i = 0; i < count; i++) {
        sum = sum + (float)list[i].score;
    }
    volatile float wanted = (float)s->heads[head].tau * sum;
    if (s->heads[head].tau >= 1) {
        need = count;
    }
    while (need < count && (need == 0 || !(running >= wanted))) {
        running = running + (float)list[need++].score;
    }
    for (int64_t i = 0; i < need; i++) {
        keep[list[i].tile] = 1;
    }
    free(list);
}

static void threshold_row(const naive_selection *s, int64_t head, int64_t u, uint8_t *keep)
{
    float cut = (float)(s->heads[head].threshold / (double)count_tokens(s, 0, tokens_of(s), false));
    for (int64_t v = 0; v < tiles_of(s); v++) {
        keep[v] |= tile_kind(s, head, u, v) == 'o' && scores_of(s, head, u)[v] > cut;
    }
}

/* Mean of the valid tokens of a block or tile. */
static void mean_of(const naive_selection *s, const float *x, int64_t begin, int64_t each, double *mean)
{
    int64_t d = s->p->head_dim, n = count_tokens(s, begin, each, false);
    memset(mean, 0, (size_t)d * sizeof *mean);
    for (int64_t i = begin; i < begin + each && i < tokens_of(s); i++) {
        for (int64_t c = 0; c < d && naive_is_valid(&s->p->key, i); c++) {
            mean[c] += (double)x[i * d + c] / (double)n;
        }
    }
}

/* The moments from the means themselves, in double; scores so near the cut that f32 decides are marked unsure. */
static void adaptive_row(const naive_selection *s, int64_t head, int64_t u, uint8_t *keep)
{
    int64_t d = s->p->head_dim, tiles = tiles_of(s), live = live_tiles(s), qh = s->p->query_heads;
    int64_t kv = head / qh * s->p->kv_heads + head % qh / (qh / s->p->kv_heads);
    double *q = calloc((size_t)d, sizeof *q), *k = calloc((size_t)(tiles * d), sizeof *k),
           *z = calloc((size_t)tiles, 8);
    double unit = 1.4426950408889634 / sqrt((double)d), centre = 0, variance = 0;
    mean_of(s, s->q + head * tokens_of(s) * d, u * s->p->m, s->p->m, q);
    for (int64_t v = 0; v < tiles; v++) {
        mean_of(s, s->k + kv * tokens_of(s) * d, v * s->p->n, s->p->n, k + v * d);
        for (int64_t c = 0; c < d; c++) {
            z[v] += q[c] * k[v * d + c] * unit;
        }
        centre += is_live(s, v) ? z[v] / (double)live : 0;
    }
    for (int64_t c = 0; c < d && !s->policy->full_covariance; c++) {
        double middle = 0, square = 0;
        for (int64_t v = 0; v < tiles; v++) {
            middle += is_live(s, v) ? k[v * d + c] / (double)live : 0;
        }
        for (int64_t v = 0; v < tiles; v++) {
            square += is_live(s, v) ? pow(k[v * d + c] - middle, 2) / (double)live : 0;
        }
        variance += q[c] * q[c] * unit * unit * square;
    }
    for (int64_t v = 0; v < tiles && s->policy->full_covariance; v++) {
        variance += is_live(s, v) ? pow(z[v] - centre, 2) / (double)live : 0;
    }
    double cut = centre + s->heads[head].tau * sqrt(variance + 1e-6);
    for (int64_t v = 0; v < tiles; v++) {
        if (tile_kind(s, head, u, v) == 'o') {
            keep[v] |= z[v] > cut;
            s->unsure[(head * blocks_of(s) + u) * tiles + v] = fabs(z[v] - cut) < 1e-4 * (fabs(cut) + 1e-2);
        }
    }
    free(q);
    free(k);
    free(z);
}

/* ---- budget --------------------------------------------------------------------------------------- */

static bool is_normalised(fga_score score)
{
    return score == FGA_SCORE_MASS || score == FGA_SCORE_MEAN || score == FGA_SCORE_SECOND_ORDER ||
           score == FGA_SCORE_EXACT_MASS;
}

static void budget_batch(const naive_selection *s, int64_t first)
{
    int64_t blocks = blocks_of(s), tiles = tiles_of(s), live = live_tiles(s), heads = s->p->query_heads;
    int64_t rows = 0, used = 0, count = 0;
    double densities = 0;
    item *all = calloc((size_t)(heads * blocks * tiles) + 1, sizeof *all);
    item *row = calloc((size_t)tiles + 1, sizeof *row);
    for (int64_t u = 0; u < blocks; u++) {
        rows += asks(s, u) && count_tokens(s, u * s->p->m, s->p->m, true) == 0;
    }
    for (int64_t h = 0; h < heads; h++) {
        const fga_head_setting *setting = &s->heads[first + h];
        densities += setting->dense ? 0 : setting->density;
        for (int64_t u = 0; u < blocks; u++) {
            if (!asks(s, u) || is_dense(s, first + h, u)) {
                continue;
            }
            const float *scores = scores_of(s, first + h, u);
            int64_t open = sorted_row(s, first + h, u, row), k;
            double sum = 0;
            for (int64_t v = 0; v < tiles; v++) {
                sum += is_live(s, v) && scores[v] != INFINITY ? scores[v] : 0;
            }
            k = (int64_t)floor(0.25 * setting->density * (double)live + 0.5 + 1e-6);
            k = k < 1 ? 1 : k;
            used += live - open;
            for (int64_t i = 0; i < open; i++) {
                if (i < k) {
                    row_of(s, first + h, u)[row[i].tile] = 1;
                    used++;
                } else {
                    bool as_is = is_normalised(s->policy->score) || !(sum > 0);
                    float share = as_is ? (float)row[i].score : (float)(row[i].score / sum);
                    all[count++] = (item){share, (first + h) * blocks + u, row[i].tile};
                }
            }
        }
    }
    int64_t left = (int64_t)floor(densities * (double)rows * (double)live + 0.5 + 1e-6) - used;
    qsort(all, (size_t)count, sizeof *all, better);
    for (int64_t i = 0; i < count && i < left; i++) {
        s->keep[all[i].row * tiles + all[i].tile] = 1;
    }
    free(all);
    free(row);
}

/* ---- by places ------------------------------------------------------------------------------------ */

typedef struct place {
    int64_t t, h, w;
} place;

static place *find_places(const naive_selection *s)
{
    int64_t tokens = tokens_of(s), cells = s->grid[0] * s->grid[1] * s->grid[2];
    int32_t *order = calloc((size_t)cells + 1, sizeof *order);
    place *places = calloc((size_t)tokens + 1, sizeof *places);
    fga_order_build(NULL, s->policy->order, s->grid[0], s->grid[1], s->grid[2], order);
    for (int64_t i = 0; i < tokens; i++) {
        if (is_video(s, i)) {
            int64_t cell = order[i - s->p->key.prefix];
            places[i] = (place){cell / (s->grid[1] * s->grid[2]), cell / s->grid[2] % s->grid[1], cell % s->grid[2]};
        }
    }
    free(order);
    return places;
}

static bool in_window(int64_t b, int64_t bk, int64_t w, int64_t cells)
{
    int64_t nb = (cells + 3) / 4, most = nb - w > 0 ? nb - w : 0, lo = b - w / 2;
    lo = lo < 0 ? 0 : lo > most ? most : lo;
    return lo <= bk && bk < lo + w;
}

static bool radial_pair(const naive_selection *s, place i, place j)
{
    double area = (double)(s->grid[1] * s->grid[2]), width = s->policy->width;
    int64_t k = i.h * s->grid[2] + i.w, l = j.h * s->grid[2] + j.w, d = llabs(i.t - j.t);
    double r = exp2(floor(log2(d > 1 ? (double)d : 1)));
    return j.t == 0 || (double)(llabs(k - l) + 1) <= width * area / r ||
           (k == l && d % (int64_t)ceil(r / (width * area)) == 0);
}

/* reach >= 0: frames at most so far; < 0: places at most -reach-1 away */
static bool places_pair(const naive_selection *s, place i, place j, int64_t reach)
{
    if (s->policy->select == FGA_SELECT_WINDOW) {
        return in_window(i.t / 4, j.t / 4, s->policy->window[0], s->grid[0]) &&
               in_window(i.h / 4, j.h / 4, s->policy->window[1], s->grid[1]) &&
               in_window(i.w / 4, j.w / 4, s->policy->window[2], s->grid[2]);
    }
    if (s->policy->select == FGA_SELECT_RADIAL) {
        return radial_pair(s, i, j);
    }
    int64_t k = i.h * s->grid[2] + i.w, l = j.h * s->grid[2] + j.w;
    return j.t == 0 || (reach >= 0 ? llabs(i.t - j.t) <= reach : llabs(k - l) <= -reach - 1);
}

/* Tiles of block u of which some pair is kept, beside the forced ones. */
static void places_row(const naive_selection *s, const place *places, int64_t head, int64_t u, int64_t reach,
                       uint8_t *keep)
{
    for (int64_t v = 0; v < tiles_of(s); v++) {
        keep[v] = tile_kind(s, head, u, v) == 'f';
        for (int64_t i = u * s->p->m; i < (u + 1) * s->p->m && i < tokens_of(s) && !keep[v]; i++) {
            for (int64_t j = v * s->p->n; j < (v + 1) * s->p->n && j < tokens_of(s) && !keep[v]; j++) {
                keep[v] = is_video(s, i) && is_video(s, j) && places_pair(s, places[i], places[j], reach);
            }
        }
    }
}

static void places_head(const naive_selection *s, const place *places, int64_t head, int64_t reach, uint8_t *keep)
{
    for (int64_t u = 0; u < blocks_of(s); u++) {
        if (asks(s, u) && !is_dense(s, head, u)) {
            places_row(s, places, head, u, reach, keep + u * tiles_of(s));
        }
    }
}

static double share_of(const naive_selection *s, int64_t head, const uint8_t *keep)
{
    double kept = 0, all = 0;
    for (int64_t u = 0; u < blocks_of(s); u++) {
        double queries = is_dense(s, head, u) ? 0 : (double)count_tokens(s, u * s->p->m, s->p->m, false);
        for (int64_t v = 0; v < tiles_of(s); v++) {
            double keys = (double)count_tokens(s, v * s->p->n, s->p->n, false);
            all += queries * keys;
            kept += keep[u * tiles_of(s) + v] ? queries * keys : 0;
        }
    }
    return all > 0 ? kept / all : 0;
}

/* Squared output error of one query under kept tiles. */
static double error_of(const naive_selection *s, int64_t head, int64_t i, const uint8_t *keep)
{
    int64_t d = s->p->head_dim, tokens = tokens_of(s), qh = s->p->query_heads;
    int64_t kv = head / qh * s->p->kv_heads + head % qh / (qh / s->p->kv_heads);
    double sum[2] = {0}, largest = -INFINITY, error = 0;
    double *z = calloc((size_t)tokens, sizeof *z), *out = calloc((size_t)(2 * d), sizeof *out);
    for (int64_t j = 0; j < tokens; j++) {
        for (int64_t c = 0; c < d && naive_is_valid(&s->p->key, j); c++) {
            z[j] += (double)s->q[(head * tokens + i) * d + c] * s->k[(kv * tokens + j) * d + c] / sqrt((double)d);
        }
        largest = naive_is_valid(&s->p->key, j) ? fmax(largest, z[j]) : largest;
    }
    for (int64_t j = 0; j < tokens; j++) {
        double p = naive_is_valid(&s->p->key, j) ? exp(z[j] - largest) : 0;
        for (int way = 0; way < 2 && p > 0; way++) {
            if (way == 0 || keep[i / s->p->m * tiles_of(s) + j / s->p->n]) {
                sum[way] += p;
                for (int64_t c = 0; c < d; c++) {
                    out[way * d + c] += p * s->v[(kv * tokens + j) * d + c];
                }
            }
        }
    }
    for (int64_t c = 0; c < d; c++) {
        double kept = sum[1] > 0 ? out[d + c] / sum[1] : 0;
        error += pow(kept - out[c] / sum[0], 2);
    }
    free(z);
    free(out);
    return error;
}

static void frames_head(const naive_selection *s, const place *places, int64_t head)
{
    int64_t area = s->grid[1] * s->grid[2], rows = blocks_of(s) * tiles_of(s), video = s->p->key.video_valid;
    uint8_t *kept[2] = {calloc((size_t)rows, 1), calloc((size_t)rows, 1)};
    double error[2] = {0};
    int64_t n = video < 64 ? video : 64;
    for (int way = 0; way < 2; way++) {
        for (int64_t far = (way == 0 ? s->grid[0] : area) - 1; far >= 0; far--) {
            places_head(s, places, head, way == 0 ? far : -far - 1, kept[way]);
            if (share_of(s, head, kept[way]) <= s->heads[head].density) {
                break;
            }
        }
        for (int64_t u = 0; u < blocks_of(s); u++) {
            for (int64_t v = 0; v < tiles_of(s) && is_dense(s, head, u) && asks(s, u); v++) {
                kept[way][u * tiles_of(s) + v] = is_live(s, v);
            }
        }
        for (int64_t r = 0; r < n; r++) {
            error[way] += error_of(s, head, s->p->key.prefix + (2 * r + 1) * video / (2 * n), kept[way]);
        }
    }
    memcpy(s->keep + head * rows, kept[error[1] < error[0]], (size_t)rows);
    bool near =
        fabs(error[0] - error[1]) <= 1e-5 * (error[0] + error[1]) && memcmp(kept[0], kept[1], (size_t)rows) != 0;
    memset(s->unsure + head * rows, near, (size_t)rows);
    free(kept[0]);
    free(kept[1]);
}

/* ---- all ------------------------------------------------------------------------------------------ */

static void custom_row(const naive_selection *s, int64_t head, int64_t u, uint8_t *keep)
{
    fga_score_row at = *s->at;
    at.batch = head / s->p->query_heads;
    at.head = head % s->p->query_heads;
    at.block = u;
    at.tiles = tiles_of(s);
    uint8_t *said = calloc((size_t)at.tiles, 1);
    s->policy->custom_keep(s->policy->custom_user, &at, said);
    for (int64_t v = 0; v < at.tiles; v++) {
        keep[v] |= said[v] != 0 && is_live(s, v);
    }
    free(said);
}

static void open_row(const naive_selection *s, const place *places, int64_t head, int64_t u, uint8_t *keep)
{
    switch (s->policy->select) {
    case FGA_SELECT_TOPK:
        topk_row(s, head, u, keep);
        break;
    case FGA_SELECT_TOPP:
        topp_row(s, head, u, keep);
        break;
    case FGA_SELECT_THRESHOLD:
        threshold_row(s, head, u, keep);
        break;
    case FGA_SELECT_ADAPTIVE:
        adaptive_row(s, head, u, keep);
        break;
    case FGA_SELECT_WINDOW:
    case FGA_SELECT_RADIAL:
        places_row(s, places, head, u, 0, keep);
        break;
    case FGA_SELECT_CUSTOM:
        custom_row(s, head, u, keep);
        break;
    case FGA_SELECT_ALL:
    case FGA_SELECT_BUDGET:
    case FGA_SELECT_FRAMES:
        break;
    }
}

void naive_policy_select(const naive_selection *s)
{
    int64_t heads = s->p->batch * s->p->query_heads;
    place *places = find_places(s);
    for (int64_t head = 0; head < heads; head++) {
        for (int64_t u = 0; u < blocks_of(s); u++) {
            uint8_t *keep = row_of(s, head, u);
            bool all = is_dense(s, head, u) || s->policy->select == FGA_SELECT_ALL;
            for (int64_t v = 0; v < tiles_of(s); v++) {
                keep[v] = asks(s, u) && (all ? is_live(s, v) : tile_kind(s, head, u, v) == 'f');
            }
            if (asks(s, u) && !all) {
                open_row(s, places, head, u, keep);
            }
        }
        if (s->policy->select == FGA_SELECT_FRAMES && !s->heads[head].dense) {
            frames_head(s, places, head);
        }
    }
    for (int64_t b = 0; b < s->p->batch && s->policy->select == FGA_SELECT_BUDGET; b++) {
        budget_batch(s, b * s->p->query_heads);
    }
    free(places);
}
