/* kernels.cc - the kernels' own sources on the emulated machine, and a launch by name. */
#include "kernels.h"

#include "cuda/attend_sm80.cu"
#include "cuda/attend_sm90.cu"
#include "cuda/attend_sm90_d256.cu"
#include "cuda/attend_sm90_d96.cu"

#include <cstdio>
#include <cstdlib>

namespace
{

struct call {
    const char *name;
    void **arguments;
};

#define KERNEL(kernel) \
    if (std::strcmp(c.name, #kernel) == 0) { \
        return kernel(*(const fga_gpu_attend *)c.arguments[0]); \
    }
#define DENSE(kernel) \
    if (std::strcmp(c.name, #kernel) == 0) { \
        return kernel(*(const fga_gpu_attend *)c.arguments[0], *(const CUtensorMap *)c.arguments[1], \
                      *(const CUtensorMap *)c.arguments[2]); \
    }
#define LAUNCH_FGA_LISTED KERNEL
#define LAUNCH_FGA_SUMMED KERNEL
#define LAUNCH_FGA_GROUPED KERNEL
#define LAUNCH_FGA_WHOLE DENSE
#define LAUNCH(type, dim, name, kind, ...) LAUNCH_##kind(fga_sm90_##type##_d##dim##_##name)
#define KERNELS(type) \
    KERNEL(fga_group_means_##type) \
    KERNEL(fga_sm80_##type##_d64) \
    KERNEL(fga_sm80_##type##_d96) \
    KERNEL(fga_sm80_##type##_d128) \
    KERNEL(fga_sm80_##type##_d256) \
    FGA_SM90_SHAPES(LAUNCH, type)

void enter(void *arg)
{
    const call &c = *(const call *)arg;
    KERNELS(bf16)
    KERNELS(f16)
    if (emulated_ops(c.name, c.arguments[0])) {
        return;
    }
    std::fprintf(stderr, "there is no kernel %s\n", c.name);
    std::abort();
}

const char *last_kernel;

} // namespace

const char *emulated_last_kernel(void)
{
    return last_kernel;
}

void emulated_launch(const char *kernel, int blocks, int threads, int shared, void **arguments)
{
    static unsigned seed = 1;
    call c = {kernel, arguments};
    last_kernel = kernel;
    emulated::run(blocks, threads, shared, seed++, enter, &c);
}

void emulated_map(void *map, const void *data, const int64_t *extent, const int64_t *stride, int channels, int tokens)
{
    CUtensorMap m = {(const unsigned char *)data, {}, {}, channels, tokens};
    for (int i = 0; i < 4; i++) {
        m.extent[i] = extent[i];
        m.stride[i] = stride[i];
    }
    static_assert(sizeof m <= 128, "as large as the driver's");
    std::memcpy(map, &m, sizeof m);
}
