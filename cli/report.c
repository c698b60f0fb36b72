#include "report.h"

#include <math.h>

/* A ratio that is not known is NaN, so that it prints and serialises as such. */
static double ratio(double a, double b)
{
    return b > 0 ? a / b : NAN;
}

static bool is_sparse(const fga_session_report *r)
{
    return r->sparse_total > 0;
}

static double measured(const fga_session_report *r, double value)
{
    return r->measured_calls > 0 ? value : NAN;
}

/* ---- in words ---------------------------------------------------------------------------------- */

/* What --recall and --error asked for, and what that took. */
static void print_target(const cli_report *report, FILE *file)
{
    const fga_policy *t = &report->target;
    const fga_session_report *r = &report->run.result.attention;
    if (!(t->target_recall > 0) && !(t->target_error > 0)) {
        return;
    }
    fputs("target     ", file);
    if (t->target_recall > 0) {
        fprintf(file, "recall at least %g, and %g in every head; ", t->target_recall, t->recall_floor);
    }
    if (t->target_error > 0) {
        fprintf(file, "output error at most %g in every head; ", t->target_error);
    }
    fprintf(file, "%lld times a head was made dense for it, %lld masks were renewed early\n",
            (long long)r->heads_made_dense, (long long)r->refreshes_early);
}

static void print_attention(const cli_report *report, FILE *file)
{
    const fga_session_report *r = &report->run.result.attention;
    if (!is_sparse(r)) {
        fprintf(file, "attention  %s: dense throughout, nothing left out\n", report->run.preset);
        return;
    }
    fprintf(
        file,
        "attention  %s: density %.3f over all calls (%.0f %% of the query-key pairs computed), %.3f in sparse calls\n",
        report->run.preset, ratio(r->pairs_kept, r->pairs_total), 100 * ratio(r->pairs_kept, r->pairs_total),
        ratio(r->sparse_kept, r->sparse_total));
    if (r->sparse_summaries > 0) {
        fprintf(file, "cost       %.3f in sparse calls, with the summaries of what is not kept\n",
                ratio(r->sparse_kept + r->sparse_summaries, r->sparse_total));
    }
    if (r->measured_calls > 0) {
        fprintf(file,
                "recall     %.3f mean, %.3f worst head: the share of the attention weight that was kept, measured on "
                "%.2g %% of the queries\n",
                r->recall_mean, r->recall_worst, 100 * report->measure_fraction);
        fprintf(file, "error      %.4f mean, %.4f worst call: of the attention's output, against exact attention\n",
                r->output_error_mean, r->output_error_worst);
    }
    print_target(report, file);
}

static void print_versus(const cli_report *report, FILE *file)
{
    const fgv_result *run = &report->run.result, *dense = &report->dense.result;
    fprintf(file, "speedup    denoising %.2fx against dense (%s instead of %s), attention %.2fx, whole run %.2fx\n",
            ratio(dense->denoise_s, run->denoise_s), cli_seconds(run->denoise_s).text,
            cli_seconds(dense->denoise_s).text, ratio(dense->attention_s, run->attention_s),
            ratio(dense->wall_s, run->wall_s));
    const fgv_comparison *c = &report->against_dense;
    if (isinf(c->psnr_db)) {
        fprintf(file, "quality    identical to the dense video\n");
        return;
    }
    fprintf(file, "quality    PSNR %s against the dense video, %s where it moves, SSIM %.4f\n",
            cli_decibel(c->psnr_db).text, cli_decibel(c->psnr_moving_db).text, c->ssim);
}

void cli_report_print(const cli_report *report, FILE *file)
{
    const fgv_result *r = &report->run.result;
    fprintf(file, "video      %s: %dx%d, %d frames, in %s (prompt %s, denoising %s, decoding %s)\n", report->output,
            report->width, report->height, report->frames, cli_seconds(r->wall_s).text, cli_seconds(r->text_s).text,
            cli_seconds(r->denoise_s).text, cli_seconds(r->vae_s).text);
    print_attention(report, file);
    if (report->versus_dense) {
        print_versus(report, file);
    }
}

/* ---- as JSON ----------------------------------------------------------------------------------- */

static void add_run(cJSON *object, const cli_report *report, const cli_run *run)
{
    const fgv_result *r = &run->result;
    const fga_session_report *a = &r->attention;
    double density_sparse = ratio(a->sparse_kept, a->sparse_total);
    cli_json_number(object, "wall_s", r->wall_s);
    cli_json_number(object, "denoise_s", r->denoise_s);
    cli_json_number(object, "attention_s", r->attention_s);
    cli_json_number(object, "score_s", a->score_s);
    cli_json_number(object, "attend_s", a->attend_s);
    cli_json_number(object, "vae_s", r->vae_s);
    cli_json_number(object, "text_s", r->text_s);
    cli_json_number(object, "tokens", (double)r->tokens);
    cli_json_number(object, "steps", report->steps);
    cJSON_AddStringToObject(object, "preset", run->preset);
    cJSON_AddStringToObject(object, "variant", a->variant != NULL ? a->variant : "");
    cJSON_AddStringToObject(object, "dtype", r->compute != NULL ? r->compute : "");
    cli_json_number(object, "threads", report->threads);
    cli_json_number(object, "peak_rss_bytes", run->peak_bytes > 0 ? (double)run->peak_bytes : NAN);
    cli_json_number(object, "predicted_bytes", (double)r->predicted_bytes);
    cli_json_number(object, "density_mean", ratio(a->pairs_kept, a->pairs_total));
    cli_json_number(object, "density_sparse", density_sparse);
    cli_json_number(object, "cost_sparse", ratio(a->sparse_kept + a->sparse_summaries, a->sparse_total));
    cli_json_number(object, "recall_mean", measured(a, a->recall_mean));
    cli_json_number(object, "recall_p05", measured(a, a->recall_p05));
    cli_json_number(object, "recall_worst", measured(a, a->recall_worst));
    cli_json_number(object, "output_error_mean", measured(a, a->output_error_mean));
    cli_json_number(object, "output_error_worst", measured(a, a->output_error_worst));
    cli_json_number(object, "heads_made_dense", (double)a->heads_made_dense);
    cli_json_number(object, "refreshes_early", (double)a->refreshes_early);
    cli_json_number(object, "measure_s", a->measure_s);
    cli_json_number(object, "mask_bytes", (double)a->mask_bytes_peak);
    cli_json_number(object, "steps_dense", r->steps_dense);
    cli_json_number(object, "steps_refresh", r->steps_refresh);
    cli_json_number(object, "steps_reuse", r->steps_reuse);
}

cJSON *cli_report_json(const cli_report *report)
{
    cJSON *object = cJSON_CreateObject();
    if (object == NULL) {
        return NULL;
    }
    add_run(object, report, &report->run);
    if (report->versus_dense) {
        const fgv_result *run = &report->run.result, *dense = &report->dense.result;
        cJSON *twin = cJSON_AddObjectToObject(object, "dense");
        if (twin != NULL) {
            add_run(twin, report, &report->dense);
        }
        cli_json_number(object, "speedup", ratio(dense->denoise_s, run->denoise_s));
        cli_json_number(object, "attention_speedup", ratio(dense->attention_s, run->attention_s));
        cli_json_number(object, "wall_speedup", ratio(dense->wall_s, run->wall_s));
        cli_json_number(object, "psnr_db", report->against_dense.psnr_db);
        cli_json_number(object, "psnr_moving_db", report->against_dense.psnr_moving_db);
        cli_json_number(object, "ssim", report->against_dense.ssim);
    }
    return object;
}
