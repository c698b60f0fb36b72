#include "video/linear_product.h"

#include <omp.h>
#include <oneapi/dnnl/dnnl.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

/* A Wan transformer needs about 20 at one clip size. The oldest makes room: making one again is cheap, for oneDNN keeps
 * the compiled code in a cache of its own. */
#define CACHED 48

typedef struct packing {
    fgv_product_shape key; /* of what matters to the layout; rows: the typical ones */
    dnnl_memory_desc_t layout;
    size_t bytes;
    dnnl_primitive_t reorder;
    dnnl_memory_t from, to;
} packing;

typedef struct product {
    fgv_product_shape key;
    int64_t typical_rows;
    dnnl_primitive_t matmul;
    dnnl_memory_t x, w, bias, y, scratchpad;
    size_t scratchpad_bytes;
} product;

struct fgv_product_thread {
    dnnl_engine_t engine;
    dnnl_stream_t stream;
    packing packings[CACHED];
    product products[CACHED];
    unsigned next_packing, next_product;
    void *scratch[FGV_SLOTS];
    size_t scratch_bytes[FGV_SLOTS];
};

static pthread_once_t once = PTHREAD_ONCE_INIT;
static pthread_key_t key;
static bool key_made;

static void clear_packing(packing *p)
{
    dnnl_primitive_destroy(p->reorder);
    dnnl_memory_destroy(p->from);
    dnnl_memory_destroy(p->to);
    *p = (packing){0};
}

static void clear_product(product *p)
{
    dnnl_primitive_destroy(p->matmul);
    dnnl_memory_destroy(p->x);
    dnnl_memory_destroy(p->w);
    dnnl_memory_destroy(p->bias);
    dnnl_memory_destroy(p->y);
    dnnl_memory_destroy(p->scratchpad);
    *p = (product){0};
}

static void destroy_thread(void *argument)
{
    fgv_product_thread *thread = argument;
    for (int i = 0; i < CACHED; i++) {
        clear_packing(&thread->packings[i]);
        clear_product(&thread->products[i]);
    }
    for (int i = 0; i < FGV_SLOTS; i++) {
        free(thread->scratch[i]);
    }
    dnnl_stream_destroy(thread->stream);
    dnnl_engine_destroy(thread->engine);
    free(thread);
}

static void make_key(void)
{
    key_made = pthread_key_create(&key, destroy_thread) == 0;
}

fgv_product_thread *fgv_product_thread_get(void)
{
    pthread_once(&once, make_key);
    if (!key_made) {
        return NULL;
    }
    fgv_product_thread *thread = pthread_getspecific(key);
    if (thread != NULL) {
        return thread;
    }
    thread = calloc(1, sizeof *thread);
    if (thread == NULL) {
        return NULL;
    }
    if (dnnl_engine_create(&thread->engine, dnnl_cpu, 0) != dnnl_success ||
        dnnl_stream_create(&thread->stream, thread->engine, dnnl_stream_default_flags) != dnnl_success ||
        pthread_setspecific(key, thread) != 0) {
        destroy_thread(thread);
        return NULL;
    }
    return thread;
}

void *fgv_product_scratch(fgv_product_thread *thread, enum fgv_product_slot slot, size_t bytes)
{
    if (bytes > thread->scratch_bytes[slot]) {
        if (bytes > SIZE_MAX - 63) {
            return NULL;
        }
        size_t rounded = (bytes + 63) / 64 * 64;
        free(thread->scratch[slot]);
        thread->scratch[slot] = aligned_alloc(64, rounded);
        thread->scratch_bytes[slot] = thread->scratch[slot] != NULL ? rounded : 0;
    }
    return thread->scratch[slot];
}

static bool same_shape(const fgv_product_shape *a, const fgv_product_shape *b)
{
    return a->rows == b->rows && a->cols == b->cols && a->inner == b->inner && a->bf16 == b->bf16 && a->bias == b->bias;
}

static dnnl_status_t make_memory_desc(dnnl_memory_desc_t *desc, int64_t rows, int64_t cols, int64_t row_stride,
                                      int64_t col_stride, bool bf16)
{
    const dnnl_dims_t dims = {rows, cols}, strides = {row_stride, col_stride};
    return dnnl_memory_desc_init_by_strides(desc, 2, dims, bf16 ? dnnl_bf16 : dnnl_f32, strides);
}

#define CHECK(expr) \
    do { \
        result = (expr); \
        if (result != dnnl_success) { \
            goto cleanup; \
        } \
    } while (0)

/* With layout->ndims 0 oneDNN picks the layout of w and *layout is set; otherwise w has it. */
static dnnl_status_t describe_product(const fgv_product_thread *thread, const fgv_product_shape *shape,
                                      dnnl_memory_desc_t *layout, dnnl_primitive_desc_t *out)
{
    dnnl_memory_desc_t x, w = *layout, bias, y;
    dnnl_matmul_desc_t matmul;
    dnnl_primitive_attr_t attributes = NULL;
    dnnl_status_t result;
    CHECK(make_memory_desc(&x, shape->rows, shape->inner, shape->inner, 1, shape->bf16));
    CHECK(make_memory_desc(&y, shape->rows, shape->cols, shape->cols, 1, false));
    CHECK(make_memory_desc(&bias, 1, shape->cols, shape->cols, 1, false));
    if (layout->ndims == 0) {
        const dnnl_dims_t dims = {shape->inner, shape->cols};
        CHECK(dnnl_memory_desc_init_by_tag(&w, 2, dims, shape->bf16 ? dnnl_bf16 : dnnl_f32, dnnl_format_tag_any));
    }
    CHECK(dnnl_matmul_desc_init(&matmul, &x, &w, shape->bias ? &bias : NULL, &y));
    CHECK(dnnl_primitive_attr_create(&attributes));
    CHECK(dnnl_primitive_attr_set_scratchpad_mode(attributes, dnnl_scratchpad_mode_user));
    CHECK(dnnl_primitive_desc_create(out, &matmul, attributes, thread->engine, NULL));
    *layout = *dnnl_primitive_desc_query_md(*out, dnnl_query_weights_md, 0);
cleanup:
    dnnl_primitive_attr_destroy(attributes);
    return result;
}

static dnnl_status_t make_packing(fgv_product_thread *thread, const fgv_product_shape *shape, packing *p)
{
    dnnl_primitive_desc_t product_desc = NULL, reorder_desc = NULL;
    dnnl_memory_desc_t plain;
    dnnl_status_t result;
    *p = (packing){.key = *shape};
    CHECK(describe_product(thread, shape, &p->layout, &product_desc));
    CHECK(make_memory_desc(&plain, shape->inner, shape->cols, 1, shape->inner, shape->bf16));
    p->bytes = dnnl_memory_desc_get_size(&p->layout);
    CHECK(dnnl_reorder_primitive_desc_create(&reorder_desc, &plain, thread->engine, &p->layout, thread->engine, NULL));
    CHECK(dnnl_primitive_create(&p->reorder, reorder_desc));
    CHECK(dnnl_memory_create(&p->from, &plain, thread->engine, DNNL_MEMORY_NONE));
    CHECK(dnnl_memory_create(&p->to, &p->layout, thread->engine, DNNL_MEMORY_NONE));
cleanup:
    dnnl_primitive_desc_destroy(product_desc);
    dnnl_primitive_desc_destroy(reorder_desc);
    if (result != dnnl_success) {
        clear_packing(p);
    }
    return result;
}

static dnnl_status_t find_packing(fgv_product_thread *thread, const fgv_product_shape *shape, int64_t typical_rows,
                                  packing **out)
{
    const fgv_product_shape wanted = {typical_rows, shape->cols, shape->inner, shape->bf16, false};
    for (int i = 0; i < CACHED; i++) {
        if (thread->packings[i].reorder != NULL && same_shape(&thread->packings[i].key, &wanted)) {
            *out = &thread->packings[i];
            return dnnl_success;
        }
    }
    *out = &thread->packings[thread->next_packing++ % CACHED];
    clear_packing(*out);
    return make_packing(thread, &wanted, *out);
}

static dnnl_status_t make_product(fgv_product_thread *thread, const fgv_product_shape *shape, int64_t typical_rows,
                                  product *p)
{
    dnnl_primitive_desc_t desc = NULL;
    packing *pack;
    dnnl_status_t result;
    *p = (product){.key = *shape, .typical_rows = typical_rows};
    CHECK(find_packing(thread, shape, typical_rows, &pack));
    dnnl_memory_desc_t layout = pack->layout;
    CHECK(describe_product(thread, shape, &layout, &desc));
    CHECK(dnnl_primitive_create(&p->matmul, desc));
    const dnnl_memory_desc_t *scratchpad = dnnl_primitive_desc_query_md(desc, dnnl_query_scratchpad_md, 0);
    p->scratchpad_bytes = dnnl_memory_desc_get_size(scratchpad);
    CHECK(dnnl_memory_create(&p->x, dnnl_primitive_desc_query_md(desc, dnnl_query_src_md, 0), thread->engine,
                             DNNL_MEMORY_NONE));
    CHECK(dnnl_memory_create(&p->w, &layout, thread->engine, DNNL_MEMORY_NONE));
    if (shape->bias) {
        CHECK(dnnl_memory_create(&p->bias, dnnl_primitive_desc_query_md(desc, dnnl_query_weights_md, 1), thread->engine,
                                 DNNL_MEMORY_NONE));
    }
    CHECK(dnnl_memory_create(&p->y, dnnl_primitive_desc_query_md(desc, dnnl_query_dst_md, 0), thread->engine,
                             DNNL_MEMORY_NONE));
    CHECK(dnnl_memory_create(&p->scratchpad, scratchpad, thread->engine, DNNL_MEMORY_NONE));
cleanup:
    dnnl_primitive_desc_destroy(desc);
    if (result != dnnl_success) {
        clear_product(p);
    }
    return result;
}

static dnnl_status_t find_product(fgv_product_thread *thread, const fgv_product_shape *shape, int64_t typical_rows,
                                  product **out)
{
    for (int i = 0; i < CACHED; i++) {
        product *p = &thread->products[i];
        if (p->matmul != NULL && p->typical_rows == typical_rows && same_shape(&p->key, shape)) {
            *out = p;
            return dnnl_success;
        }
    }
    *out = &thread->products[thread->next_product++ % CACHED];
    clear_product(*out);
    return make_product(thread, shape, typical_rows, *out);
}

static fga_status to_status(dnnl_status_t result)
{
    return result == dnnl_success ? FGA_OK : result == dnnl_out_of_memory ? FGA_ERR_MEMORY : FGA_ERR_INTERNAL;
}

fga_status fgv_product_packed_bytes(fgv_product_thread *thread, const fgv_product_shape *shape, int64_t typical_rows,
                                    size_t *bytes)
{
    packing *p;
    dnnl_status_t result = find_packing(thread, shape, typical_rows, &p);
    *bytes = result == dnnl_success ? p->bytes : 0;
    return to_status(result);
}

/* oneDNN takes every buffer as mutable; these it only reads. */
static void *unconst(const void *pointer)
{
    return (void *)(uintptr_t)pointer;
}

fga_status fgv_product_pack(fgv_product_thread *thread, const fgv_product_shape *shape, int64_t typical_rows,
                            const void *w, void *packed)
{
    packing *p;
    dnnl_status_t result;
    CHECK(find_packing(thread, shape, typical_rows, &p));
    CHECK(dnnl_memory_set_data_handle(p->from, unconst(w)));
    CHECK(dnnl_memory_set_data_handle(p->to, packed));
    const dnnl_exec_arg_t args[] = {{DNNL_ARG_FROM, p->from}, {DNNL_ARG_TO, p->to}};
    CHECK(dnnl_primitive_execute(p->reorder, thread->stream, 2, args));
cleanup:
    return to_status(result);
}

fga_status fgv_product_run(fgv_product_thread *thread, const fgv_product_shape *shape, int64_t typical_rows,
                           const fgv_product_operands *operands)
{
    product *p;
    dnnl_status_t result;
    CHECK(find_product(thread, shape, typical_rows, &p));
    void *scratchpad = fgv_product_scratch(thread, FGV_SLOT_DNNL, p->scratchpad_bytes);
    CHECK(p->scratchpad_bytes == 0 || scratchpad != NULL ? dnnl_success : dnnl_out_of_memory);
    CHECK(dnnl_memory_set_data_handle(p->x, unconst(operands->x)));
    CHECK(dnnl_memory_set_data_handle(p->w, unconst(operands->packed)));
    CHECK(dnnl_memory_set_data_handle(p->y, operands->y));
    CHECK(dnnl_memory_set_data_handle(p->scratchpad, scratchpad));
    if (shape->bias) {
        CHECK(dnnl_memory_set_data_handle(p->bias, unconst(operands->bias)));
    }
    const dnnl_exec_arg_t args[] = {{DNNL_ARG_SRC, p->x},
                                    {DNNL_ARG_WEIGHTS, p->w},
                                    {DNNL_ARG_DST, p->y},
                                    {DNNL_ARG_SCRATCHPAD, p->scratchpad},
                                    {DNNL_ARG_BIAS, p->bias}};
    CHECK(dnnl_primitive_execute(p->matmul, thread->stream, shape->bias ? 5 : 4, args));
cleanup:
    return to_status(result);
}

bool fgv_product_native_bf16(void)
{
    /* The bits of these values nest: avx512_core_bf16 contains avx512_core, and so on. */
    return (dnnl_get_effective_cpu_isa() & dnnl_cpu_isa_avx512_core_bf16) == dnnl_cpu_isa_avx512_core_bf16;
}

int fgv_product_enter(void)
{
    int saved = omp_get_max_threads();
    omp_set_num_threads(1);
    return saved;
}

void fgv_product_leave(int saved)
{
    omp_set_num_threads(saved);
}
