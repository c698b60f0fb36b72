#include "ops/ops.h"

#include "base/cpu.h"
#include "ops/gpu.h"

#include <string.h>

#define FGA_VARIANT(name, features, overlay) void overlay(fga_ops *ops);
#include "ops/variants.inc"
#undef FGA_VARIANT

static const struct variant {
    const char *name;
    unsigned features;
    void (*overlay)(fga_ops *ops);
} variants[] = {
#define FGA_VARIANT(name, features, overlay) {name, features, overlay},
#include "ops/variants.inc"
#undef FGA_VARIANT
};

enum { variant_count = sizeof variants / sizeof variants[0] };

/* The processor's families first, then those of CUDA devices. */
int fga_variant_count(void)
{
    return variant_count + fga_gpu_variant_count();
}

const char *fga_variant_name(int index)
{
    return index >= 0 && index < variant_count ? variants[index].name : fga_gpu_variant_name(index - variant_count);
}

bool fga_variant_runs_here(int index)
{
    if (index >= variant_count) {
        return fga_gpu_variant_runs_here(index - variant_count);
    }
    return index >= 0 && (variants[index].features & fga_cpu_features()) == variants[index].features;
}

/* A family that runs here but is slower than the one below it: only for those who name it. */
static bool slower_here(const struct variant *v)
{
    return v->features == FGA_CPU_AVX512BF16 && (fga_cpu_features() & FGA_CPU_SLOW_BF16_DOTS) != 0;
}

fga_status fga_ops_select(const char *name, fga_ops *ops)
{
    int last = -1;
    for (int i = 0; i < variant_count; i++) {
        if (name == NULL ? fga_variant_runs_here(i) && !slower_here(&variants[i])
                         : strcmp(name, variants[i].name) == 0) {
            last = i;
        }
    }
    if (last < 0) {
        return FGA_ERR_ARGUMENT;
    }
    if (!fga_variant_runs_here(last)) {
        return FGA_ERR_UNSUPPORTED;
    }
    *ops = (fga_ops){0};
    for (int i = 0; i <= last; i++) {
        if (i == last || !slower_here(&variants[i])) {
            variants[i].overlay(ops);
        }
    }
    return FGA_OK;
}
