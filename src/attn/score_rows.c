/* score_rows.c - the query side of a score: means of a block's sub-tiles with their weights, or its queries. */
#include "attn/score.h"

#include "base/half.h"

bool fga_score_rows_place(const fga_scorer *s, char *base, size_t *used, fga_score_rows *rows)
{
    bool fits = true;
    *rows = (fga_score_rows){0};
    rows->begin = fga_score_carve(base, used, s->item_rows + 1, sizeof(int64_t), &fits);
    rows->valid_end = fga_score_carve(base, used, s->item_rows, sizeof(int64_t), &fits);
    rows->row_begin = fga_score_carve(base, used, s->item_blocks + 1, sizeof(int32_t), &fits);
    rows->weight = fga_score_carve(base, used, s->item_rows, sizeof(float), &fits);
    rows->lse = fga_score_carve(base, used, s->item_rows, sizeof(float), &fits);
    rows->q = fga_score_carve(base, used, s->item_rows * s->desc.head_dim, sizeof(float), &fits);
    rows->score = fga_score_carve(base, used, s->item_blocks, (size_t)s->tiles * sizeof(float), &fits);
    fga_rank_op shape = {.kind = fga_score_rank_kind(s),
                         .keys = s->pooled_keys ? s->sub_keys : fga_sequence_length(&s->desc.key),
                         .subs = s->sub_keys,
                         .tiles = s->tiles,
                         .tile_keys = fga_score_tile_keys(s),
                         .group = s->desc.group,
                         .head_dim = (int32_t)s->desc.head_dim,
                         .dtype = s->pooled_keys ? FGA_F32 : s->desc.dtype};
    static const int64_t present;
    shape.sub_begin = s->second_order ? &present : NULL;
    rows->scratch = fga_score_carve(base, used, 1, s->ops.rank_scratch[shape.dtype](&shape, s->item_rows), &fits);
    return fits;
}

/* The valid queries of tokens [begin, end), with their L where it is known. */
static int32_t take_queries(const fga_score_run *r, int64_t head, int64_t begin, int64_t end, int32_t row,
                            fga_score_rows *rows)
{
    const fga_scorer *s = r->scorer;
    const fga_tensor *q = r->call->q;
    int64_t tokens = fga_sequence_length(&s->desc.query), n = fga_spans_count(&s->query_valid, begin, end);
    for (int i = 0; i < s->query_valid.count; i++) {
        int64_t from = fga_max(begin, s->query_valid.begin[i]), to = fga_min(end, s->query_valid.end[i]);
        for (int64_t token = from; token < to; token++, row++) {
            fga_to_f32(rows->q + row * s->desc.head_dim,
                       fga_tensor_row(q, head / q->extent[1], head % q->extent[1], token), q->dtype, s->desc.head_dim);
            rows->weight[row] = (float)(1.0 / (double)n);
            if (r->call->lse != NULL) {
                rows->lse[row] = r->call->lse[head * tokens + token];
            }
        }
    }
    return row;
}

/* Means and weights n_I/n_u of the sub-tiles of [begin, end) that have a valid query; under zero_pad of all. */
static int32_t take_means(const fga_score_run *r, int64_t head, int64_t begin, int64_t end, int32_t row,
                          fga_score_rows *rows)
{
    const fga_scorer *s = r->scorer;
    const fga_tensor *q = r->call->q;
    bool zero_pad = s->desc.zero_pad;
    int64_t count = 0, subs = fga_ceil_div(end - begin, s->sub_q), n = fga_spans_count(&s->query_valid, begin, end);
    for (int64_t at = begin; at < end; at += s->sub_q) {
        int64_t sub_end = fga_min(at + s->sub_q, end), n_sub = fga_spans_count(&s->query_valid, at, sub_end);
        if (n_sub > 0 || zero_pad) {
            rows->begin[count] = at;
            rows->valid_end[count] = fga_score_valid_end(&s->query_valid, at, sub_end);
            rows->weight[row + count] = (float)(zero_pad ? 1.0 / (double)subs : (double)n_sub / (double)n);
            count++;
        }
    }
    rows->begin[count] = end;
    fga_pool_op op = {
        .x = fga_tensor_row(q, head / q->extent[1], head % q->extent[1], 0),
        .x_stride = q->stride[2],
        .begin = rows->begin,
        .valid_end = rows->valid_end,
        .mean = rows->q + row * s->desc.head_dim,
        .count = count,
        .head_dim = (int32_t)s->desc.head_dim,
        .dtype = s->desc.dtype,
    };
    fga_score_pool(s, &op, &s->query_valid);
    return row + (int32_t)count;
}

void fga_score_rows_fill(const fga_score_run *r, int64_t head, int64_t first, int64_t count, fga_score_rows *rows)
{
    const fga_scorer *s = r->scorer;
    int64_t m = s->desc.block_m, tokens = fga_sequence_length(&s->desc.query);
    int32_t row = 0;
    for (int64_t u = first; u < first + count; u++) {
        int64_t begin = u * m, end = s->desc.zero_pad ? begin + m : fga_min(begin + m, tokens);
        rows->row_begin[u - first] = row;
        if (fga_spans_count(&s->query_valid, begin, end) == 0) {
            continue;
        }
        row = s->exact ? take_queries(r, head, begin, end, row, rows) : take_means(r, head, begin, end, row, rows);
    }
    rows->row_begin[count] = row;
}
