#include "capture.h"

#include "job.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* ---- lists of numbers ---------------------------------------------------------------------------- */

static int allocate(int count, cli_chosen *chosen)
{
    *chosen = (cli_chosen){calloc((size_t)count, 1), count};
    return chosen->chosen != NULL ? CLI_DONE : cli_fail(CLI_NO_MEMORY, "no memory for a list of %d", count);
}

/* A number at *text, or "last"; false when there is neither, or it is not below `count`. */
static bool read_number(const char **text, int count, int *number)
{
    if (strncmp(*text, "last", 4) == 0) {
        *text += 4;
        *number = count - 1;
        return true;
    }
    if (**text < '0' || **text > '9') {
        return false;
    }
    char *end;
    errno = 0;
    long value = strtol(*text, &end, 10);
    *text = end;
    *number = (int)value;
    return errno == 0 && value < count;
}

static bool read_list(const char *text, cli_chosen *chosen)
{
    if (strcmp(text, "all") == 0) {
        memset(chosen->chosen, 1, (size_t)chosen->count);
        return true;
    }
    do {
        int first, last;
        if (!read_number(&text, chosen->count, &first)) {
            return false;
        }
        last = first;
        if (*text == '-' && (text++, !read_number(&text, chosen->count, &last) || last < first)) {
            return false;
        }
        memset(chosen->chosen + first, 1, (size_t)last + 1 - (size_t)first);
    } while (*text++ == ',');
    return text[-1] == '\0';
}

int cli_choose(const char *option, const char *list, int count, cli_chosen *chosen)
{
    int code = allocate(count, chosen);
    if (code == CLI_DONE && !read_list(list, chosen)) {
        code = cli_fail(CLI_USAGE, "--%s wants numbers from 0 to %d such as 0,%d, a range, last or all, got \"%s\"",
                        option, count - 1, count - 1, list);
        cli_chosen_free(chosen);
    }
    return code;
}

int cli_choose_quarters(int count, cli_chosen *chosen)
{
    int code = allocate(count, chosen);
    for (int quarter = 1; code == CLI_DONE && quarter < 4; quarter++) {
        chosen->chosen[count * quarter / 4] = 1;
    }
    return code;
}

bool cli_is_chosen(const cli_chosen *chosen, int number)
{
    return number >= 0 && number < chosen->count && chosen->chosen[number] != 0;
}

int cli_chosen_count(const cli_chosen *chosen)
{
    int count = 0;
    for (int i = 0; i < chosen->count; i++) {
        count += chosen->chosen[i] != 0;
    }
    return count;
}

void cli_chosen_free(cli_chosen *chosen)
{
    free(chosen->chosen);
    *chosen = (cli_chosen){0};
}

/* ---- captures ------------------------------------------------------------------------------------ */

int cli_capture_choose(const cli_capture_choice *choice, const fgv_model *model, const fgv_request *request,
                       cli_capture *capture)
{
    int branches = request->guidance > 1 ? 2 : 1;
    int code = choice->steps != NULL ? cli_choose("capture-steps", choice->steps, request->steps, &capture->steps)
                                     : cli_choose_quarters(request->steps, &capture->steps);
    if (code == CLI_DONE) {
        code = cli_choose("capture-layers", choice->layers != NULL ? choice->layers : "all",
                          fgv_model_describe(model).layers, &capture->layers);
    }
    return code == CLI_DONE ? cli_choose("capture-branches", choice->branches != NULL ? choice->branches : "0",
                                         branches, &capture->branches)
                            : code;
}

bool cli_capture_wants(const cli_capture *capture, const fgv_capture *inputs)
{
    return cli_is_chosen(&capture->steps, inputs->step) && cli_is_chosen(&capture->layers, inputs->layer) &&
           cli_is_chosen(&capture->branches, inputs->branch);
}

uint64_t cli_capture_bytes(const cli_capture *capture, const fgv_model *model, const fgv_request *request)
{
    fgv_model_info about = fgv_model_describe(model);
    uint64_t tokens = (uint64_t)cli_clip_tokens(model, request);
    uint64_t captures = (uint64_t)cli_chosen_count(&capture->steps) * (uint64_t)cli_chosen_count(&capture->layers) *
                        (uint64_t)cli_chosen_count(&capture->branches);
    return 3 * captures * tokens * (uint64_t)about.heads * (uint64_t)about.head_dim *
           (request->compute == FGV_COMPUTE_BF16 ? 2 : 4); /* auto may mean bf16: then it is half of what is said */
}

void cli_capture_free(cli_capture *capture)
{
    fgv_capture_abandon(&capture->writer);
    cli_chosen_free(&capture->steps);
    cli_chosen_free(&capture->layers);
    cli_chosen_free(&capture->branches);
}

int cli_capture_open(fga_context *ctx, const char *path, fgv_capture_file **file)
{
    fga_status status = fgv_capture_open(ctx, path, file);
    if (status == FGA_OK) {
        return CLI_DONE;
    }
    int code = cli_fail_status(ctx, status);
    return status == FGA_ERR_IO ? CLI_BAD_DATA : code;
}

int cli_capture_fail(const fga_context *ctx, const char *path, fga_status status)
{
    switch (status) {
    case FGA_ERR_ARGUMENT:
    case FGA_ERR_DATA:
        return cli_fail(CLI_BAD_DATA, "%s: %s", path, fga_last_error(ctx));
    case FGA_ERR_UNSUPPORTED:
        return cli_fail(CLI_ERROR, "%s: %s", path, fga_last_error(ctx));
    default:
        return cli_fail_status(ctx, status);
    }
}
