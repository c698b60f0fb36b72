/* inspect_json.c - every figure of a study. */
#include "inspect_report.h"

static void add_array(cJSON *object, const char *name, const double *values, int count)
{
    cJSON_AddItemToObject(object, name, cJSON_CreateDoubleArray(values, count));
}

static void add_floats(cJSON *object, const char *name, const float *values, int count)
{
    cJSON_AddItemToObject(object, name, cJSON_CreateFloatArray(values, count));
}

/* [M][N][last] */
static void add_table(cJSON *object, const char *name, const double *values, int last)
{
    cJSON *table = cJSON_AddArrayToObject(object, name);
    for (int m = 0; m < FGA_INSPECT_M; m++) {
        cJSON *row = cJSON_CreateArray();
        for (int n = 0; n < FGA_INSPECT_N; n++) {
            cJSON_AddItemToArray(row, cJSON_CreateDoubleArray(values + (m * FGA_INSPECT_N + n) * last, last));
        }
        cJSON_AddItemToArray(table, row);
    }
}

static void add_counts(cJSON *object, const char *name, const int64_t *counts, int count)
{
    cJSON *array = cJSON_AddArrayToObject(object, name);
    for (int i = 0; i < count; i++) {
        cJSON_AddItemToArray(array, cJSON_CreateNumber((double)counts[i]));
    }
}

static cJSON *head_json(const fga_inspect_head *h)
{
    cJSON *o = cJSON_CreateObject();
    cJSON_AddNumberToObject(o, "entropy", h->entropy);
    cJSON_AddNumberToObject(o, "effective_keys", h->effective_keys);
    cJSON_AddNumberToObject(o, "own_frame", h->self_frame);
    add_table(o, "sparsity", &h->sparsity[0][0][0], FGA_INSPECT_RECALLS);
    add_table(o, "best_recall", &h->recall[0][0][0], FGA_INSPECT_DENSITIES);
    add_counts(o, "runs", h->runs, FGA_INSPECT_RUN_BINS);
    add_counts(o, "run_keys", h->run_keys, FGA_INSPECT_RUN_BINS);
    return o;
}

static cJSON *point_json(const study *s, const study_line *line, int p, const fga_inspect_point *point)
{
    cJSON *o = cJSON_CreateObject();
    cJSON_AddStringToObject(o, "setting", line->setting[p]);
    cJSON_AddNumberToObject(o, "density", point->density);
    cJSON_AddNumberToObject(o, "cost", point->cost);
    cli_json_number(o, "recall", point->recall);
    cli_json_number(o, "recall_worst", point->recall_worst);
    cli_json_number(o, "recall_p05", point->recall_p05);
    cli_json_number(o, "output_error", point->output_error);
    cli_json_number(o, "output_error_worst", point->output_error_worst);
    add_floats(o, "recall_heads", point->recall_heads, s->heads);
    add_floats(o, "output_error_heads", point->error_heads, s->heads);
    add_floats(o, "cost_heads", point->cost_heads, s->heads);
    return o;
}

static void add_lines(cJSON *object, const study *s, const study_result *r)
{
    cJSON *lines = cJSON_AddArrayToObject(object, "lines");
    for (int i = 0; i < s->line_count; i++) {
        const study_line *line = &s->lines[i];
        cJSON *o = cJSON_CreateObject();
        cJSON_AddStringToObject(o, "name", line->name);
        cJSON_AddStringToObject(o, "kind", line->best ? "best" : "policy");
        cJSON_AddStringToObject(o, "steered_by", line->steered_by);
        cJSON *points = cJSON_AddArrayToObject(o, "points");
        for (int p = 0; line->refused[0] == '\0' && p < line->count; p++) {
            cJSON_AddItemToArray(points, point_json(s, line, p, &r->points[i][p]));
        }
        if (line->refused[0] != '\0') {
            cJSON_AddStringToObject(o, "refused", line->refused);
        }
        cJSON_AddItemToArray(lines, o);
    }
}

static void add_bounds(cJSON *object, const study_result *r)
{
    cJSON *bounds = cJSON_AddArrayToObject(object, "bounds");
    for (int i = 0; i < STUDY_BOUNDS; i++) {
        const fga_inspect_bound *b = &r->bounds[i];
        cJSON *o = cJSON_CreateObject();
        cJSON_AddNumberToObject(o, "density", b->density);
        cJSON_AddNumberToObject(o, "recall", b->recall);
        cJSON_AddNumberToObject(o, "best_recall", b->best_recall);
        cJSON_AddNumberToObject(o, "from_mass", b->from_mass);
        cJSON_AddNumberToObject(o, "against_best", b->against_best);
        cJSON_AddNumberToObject(o, "against_count", b->against_count);
        cJSON_AddNumberToObject(o, "eta", b->eta);
        cJSON_AddNumberToObject(o, "blocks", (double)b->blocks);
        cJSON_AddItemToArray(bounds, o);
    }
}

static void add_axes(cJSON *object)
{
    cJSON *axes = cJSON_AddObjectToObject(object, "axes");
    cJSON_AddItemToObject(axes, "m", cJSON_CreateIntArray(fga_inspect_m, FGA_INSPECT_M));
    cJSON_AddItemToObject(axes, "n", cJSON_CreateIntArray(fga_inspect_n, FGA_INSPECT_N));
    add_array(axes, "recalls", fga_inspect_recalls, FGA_INSPECT_RECALLS);
    add_array(axes, "densities", fga_inspect_densities, FGA_INSPECT_DENSITIES);
    int64_t shortest[FGA_INSPECT_RUN_BINS];
    for (int b = 0; b < FGA_INSPECT_RUN_BINS; b++) {
        shortest[b] = INT64_C(1) << b;
    }
    add_counts(axes, "run_at_least", shortest, FGA_INSPECT_RUN_BINS);
}

cJSON *cli_inspect_json(const study *s, const char *source)
{
    cJSON *o = cJSON_CreateObject();
    cJSON_AddStringToObject(o, "source", source);
    cJSON_AddNumberToObject(o, "frames", s->frames);
    cJSON_AddNumberToObject(o, "height", s->height);
    cJSON_AddNumberToObject(o, "width", s->width);
    cJSON_AddNumberToObject(o, "tokens", (double)s->tokens);
    cJSON_AddNumberToObject(o, "heads", s->heads);
    cJSON_AddNumberToObject(o, "head_dim", s->head_dim);
    cJSON_AddNumberToObject(o, "scale", (double)s->scale);
    cJSON_AddStringToObject(o, "dtype", fga_dtype_name(s->dtype));
    cJSON_AddNumberToObject(o, "sampled_blocks", (double)s->blocks_used);
    cJSON_AddNumberToObject(o, "sampled_queries", (double)s->queries);
    add_axes(o);
    cJSON *captures = cJSON_AddArrayToObject(o, "captures");
    for (int i = 0; i < s->count; i++) {
        const study_result *r = &s->results[i];
        cJSON *capture = cJSON_CreateObject();
        cJSON_AddNumberToObject(capture, "step", r->step);
        cJSON_AddNumberToObject(capture, "layer", r->layer);
        cJSON_AddNumberToObject(capture, "branch", r->branch);
        cJSON *orders = cJSON_AddObjectToObject(capture, "orders");
        for (int order = 0; order < STUDY_ORDERS; order++) {
            cJSON *heads = cJSON_AddArrayToObject(orders, study_order_names[order]);
            for (int h = 0; h < s->heads; h++) {
                cJSON_AddItemToArray(heads, head_json(&r->heads[order][h]));
            }
        }
        add_lines(capture, s, r);
        add_bounds(capture, r);
        cJSON_AddItemToArray(captures, capture);
    }
    return o;
}
