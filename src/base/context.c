#include "base/context.h"

#include "base/cpu.h"
#include "base/pages.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void *default_alloc(void *user, size_t bytes)
{
    (void)user;
    return fga_pages_alloc(bytes);
}

static void default_free(void *user, void *pointer)
{
    (void)user;
    free(pointer);
}

const char *fga_version(void)
{
    return "0.1.0";
}

const char *fga_status_name(fga_status status)
{
    switch (status) {
    case FGA_OK:
        return "ok";
    case FGA_ERR_ARGUMENT:
        return "bad argument";
    case FGA_ERR_UNSUPPORTED:
        return "unsupported";
    case FGA_ERR_MEMORY:
        return "out of memory";
    case FGA_ERR_DATA:
        return "bad data";
    case FGA_ERR_IO:
        return "input or output failed";
    case FGA_ERR_INTERRUPTED:
        return "interrupted";
    case FGA_ERR_INTERNAL:
        return "internal error";
    }
    return "unknown status";
}

size_t fga_dtype_size(fga_dtype dtype)
{
    return dtype == FGA_F32 ? 4 : 2;
}

const char *fga_dtype_name(fga_dtype dtype)
{
    static const char *const names[] = {"f32", "f16", "bf16"};
    return (unsigned)dtype < 3 ? names[dtype] : "unknown";
}

fga_context_options fga_context_options_default(void)
{
    return (fga_context_options){.size = sizeof(fga_context_options)};
}

/* Whether the forced variant can run is checked where a table is made from it, with a text; here only that it fits. */
fga_status fga_context_create(const fga_context_options *options, fga_context **out)
{
    if (out == NULL) {
        return FGA_ERR_ARGUMENT;
    }
    *out = NULL;
    fga_context_options o = options != NULL ? *options : fga_context_options_default();
    if (o.size != sizeof o || o.threads < 0 || o.threads > 4096 || (o.alloc == NULL) != (o.free == NULL)) {
        return FGA_ERR_ARGUMENT;
    }
    if (o.device != FGA_DEVICE_CPU && o.device != FGA_DEVICE_CUDA) {
        return FGA_ERR_ARGUMENT;
    }
    fga_gpu gpu = {0};
    if (o.device == FGA_DEVICE_CUDA) {
        FGA_TRY(fga_gpu_open(&gpu));
    }
    if (o.alloc == NULL) {
        o.alloc = default_alloc;
        o.free = default_free;
    }
    if (o.variant != NULL && strlen(o.variant) >= sizeof((fga_context *)0)->variant) {
        return FGA_ERR_ARGUMENT;
    }
    fga_context *ctx = o.alloc(o.user, sizeof *ctx);
    if (ctx == NULL) {
        return FGA_ERR_MEMORY;
    }
    *ctx = (fga_context){.options = o, .gpu = gpu};
    if (o.variant != NULL) {
        strcpy(ctx->variant, o.variant);
    }
    ctx->options.variant = ctx->variant[0] != '\0' ? ctx->variant : NULL;
    pthread_mutex_init(&ctx->error_lock, NULL);
    fga_status status = fga_pool_create(o.threads > 0 ? o.threads : fga_cpu_count(), &ctx->pool);
    if (status == FGA_OK && o.device == FGA_DEVICE_CUDA) {
        status = fga_gpu_load(ctx);
    }
    if (status != FGA_OK) {
        fga_context_destroy(&ctx);
        return status;
    }
    *out = ctx;
    return FGA_OK;
}

void fga_context_destroy(fga_context **handle)
{
    if (handle == NULL || *handle == NULL) {
        return;
    }
    fga_context *ctx = *handle;
    fga_pool_destroy(&ctx->pool);
    fga_gpu_close(&ctx->gpu);
    pthread_mutex_destroy(&ctx->error_lock);
    ctx->options.free(ctx->options.user, ctx);
    *handle = NULL;
}

const char *fga_last_error(const fga_context *ctx)
{
    return ctx != NULL ? ctx->error : "no context";
}

fga_status(fga_context_fail)(fga_context *ctx, fga_status status, const char *format, ...)
{
    if (ctx != NULL) {
        va_list args;
        va_start(args, format);
        pthread_mutex_lock(&ctx->error_lock);
        vsnprintf(ctx->error, sizeof ctx->error, format, args);
        pthread_mutex_unlock(&ctx->error_lock);
        va_end(args);
    }
    return status;
}

void fga_context_log(fga_context *ctx, const char *format, ...)
{
    if (ctx == NULL || ctx->options.log == NULL) {
        return;
    }
    char line[1024];
    va_list args;
    va_start(args, format);
    vsnprintf(line, sizeof line, format, args);
    va_end(args);
    ctx->options.log(ctx->options.user, line);
}

int fga_context_threads(const fga_context *ctx)
{
    return fga_pool_threads(ctx->pool);
}

void fga_context_set_stream(fga_context *ctx, void *stream)
{
    if (ctx != NULL) {
        ctx->stream = stream;
    }
}

void fga_parallel_for(fga_context *ctx, int64_t items, void (*body)(void *arg, int64_t item, int worker), void *arg)
{
    fga_pool_run(ctx->pool, items, body, arg);
}

void *fga_alloc(fga_context *ctx, size_t bytes)
{
    return ctx->options.alloc(ctx->options.user, bytes > 0 ? bytes : 1);
}

void fga_free(fga_context *ctx, void *pointer)
{
    if (pointer != NULL) {
        ctx->options.free(ctx->options.user, pointer);
    }
}
