#include "cuda/driver.h"

#include <dlfcn.h>
#include <pthread.h>
#include <stddef.h>
#include <string.h>

static fga_driver loaded;
static bool usable;
static pthread_once_t once = PTHREAD_ONCE_INIT;

static void load(void)
{
    static const struct {
        size_t offset;
        const char *symbol;
    } functions[] = {
#define FGA_DRIVER(name, symbol) {offsetof(fga_driver, name), symbol},
        FGA_DRIVER_FUNCTIONS
#undef FGA_DRIVER
    };
    loaded.library = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
    if (loaded.library == NULL) {
        return;
    }
    for (size_t i = 0; i < sizeof functions / sizeof functions[0]; i++) {
        void *function = dlsym(loaded.library, functions[i].symbol);
        if (function == NULL) {
            return;
        }
        memcpy((char *)&loaded + functions[i].offset, &function, sizeof function);
    }
    usable = loaded.cuInit(0) == CUDA_SUCCESS;
}

const fga_driver *fga_driver_load(void)
{
    pthread_once(&once, load);
    return usable ? &loaded : NULL;
}

const char *fga_driver_error(CUresult result)
{
    const char *name = NULL;
    return usable && loaded.cuGetErrorName(result, &name) == CUDA_SUCCESS && name != NULL ? name : "unknown CUDA error";
}
