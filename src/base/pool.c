#include "base/pool.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>

struct fga_pool {
    int threads; /* workers, the caller included as worker 0 */
    int started; /* helper threads running */
    pthread_t *helpers;
    pthread_mutex_t lock;
    pthread_cond_t wake, idle;
    uint64_t round; /* one per run; a helper works once per round */
    int working;    /* helpers that have not finished this round */
    bool stop;
    fga_pool_body body;
    void *arg;
    int64_t items;
    _Atomic int64_t next;
};

typedef struct start {
    fga_pool *pool;
    int worker;
} start;

/* The runs that this thread is inside of, the innermost first: which worker it is depends on the pool. */
typedef struct frame {
    const fga_pool *pool;
    int worker;
    const struct frame *outer;
} frame;

static _Thread_local const frame *innermost;

/* Outside of every run of this pool a thread that works for it is worker 0. */
static int worker_in(const fga_pool *pool)
{
    for (const frame *f = innermost; f != NULL; f = f->outer) {
        if (f->pool == pool) {
            return f->worker;
        }
    }
    return 0;
}

static void drain(fga_pool *pool, int worker)
{
    const frame here = {pool, worker, innermost};
    innermost = &here;
    for (;;) {
        int64_t item = atomic_fetch_add_explicit(&pool->next, 1, memory_order_relaxed);
        if (item >= pool->items) {
            break;
        }
        pool->body(pool->arg, item, worker);
    }
    innermost = here.outer;
}

static void run_serially(const fga_pool *pool, int64_t items, fga_pool_body body, void *arg)
{
    const frame here = {pool, worker_in(pool), innermost};
    innermost = &here;
    for (int64_t item = 0; item < items; item++) {
        body(arg, item, here.worker);
    }
    innermost = here.outer;
}

static void *helper(void *argument)
{
    start *s = argument;
    fga_pool *pool = s->pool;
    int worker = s->worker;
    uint64_t seen = 0;
    free(s);
    pthread_mutex_lock(&pool->lock);
    for (;;) {
        while (!pool->stop && pool->round == seen) {
            pthread_cond_wait(&pool->wake, &pool->lock);
        }
        if (pool->stop) {
            break;
        }
        seen = pool->round;
        pthread_mutex_unlock(&pool->lock);
        drain(pool, worker);
        pthread_mutex_lock(&pool->lock);
        if (--pool->working == 0) {
            pthread_cond_signal(&pool->idle);
        }
    }
    pthread_mutex_unlock(&pool->lock);
    return NULL;
}

fga_status fga_pool_create(int threads, fga_pool **out)
{
    *out = NULL;
    fga_pool *pool = calloc(1, sizeof *pool);
    if (pool == NULL) {
        return FGA_ERR_MEMORY;
    }
    pool->threads = threads;
    pthread_mutex_init(&pool->lock, NULL);
    pthread_cond_init(&pool->wake, NULL);
    pthread_cond_init(&pool->idle, NULL);
    pool->helpers = calloc((size_t)threads, sizeof *pool->helpers);
    if (pool->helpers == NULL) {
        fga_pool_destroy(&pool);
        return FGA_ERR_MEMORY;
    }
    for (int i = 1; i < threads; i++) {
        start *s = malloc(sizeof *s);
        if (s == NULL) {
            fga_pool_destroy(&pool);
            return FGA_ERR_MEMORY;
        }
        *s = (start){pool, i};
        if (pthread_create(&pool->helpers[pool->started], NULL, helper, s) != 0) {
            free(s);
            fga_pool_destroy(&pool);
            return FGA_ERR_MEMORY;
        }
        pool->started++;
    }
    *out = pool;
    return FGA_OK;
}

void fga_pool_destroy(fga_pool **handle)
{
    if (handle == NULL || *handle == NULL) {
        return;
    }
    fga_pool *pool = *handle;
    pthread_mutex_lock(&pool->lock);
    pool->stop = true;
    pthread_cond_broadcast(&pool->wake);
    pthread_mutex_unlock(&pool->lock);
    for (int i = 0; i < pool->started; i++) {
        pthread_join(pool->helpers[i], NULL);
    }
    pthread_cond_destroy(&pool->idle);
    pthread_cond_destroy(&pool->wake);
    pthread_mutex_destroy(&pool->lock);
    free(pool->helpers);
    free(pool);
    *handle = NULL;
}

int fga_pool_threads(const fga_pool *pool)
{
    return pool->threads;
}

void fga_pool_run(fga_pool *pool, int64_t items, fga_pool_body body, void *arg)
{
    if (items <= 0) {
        return;
    }
    if (innermost != NULL || pool->threads == 1 || items == 1) {
        run_serially(pool, items, body, arg);
        return;
    }
    pthread_mutex_lock(&pool->lock);
    pool->body = body;
    pool->arg = arg;
    pool->items = items;
    atomic_store_explicit(&pool->next, 0, memory_order_relaxed);
    pool->working = pool->started;
    pool->round++;
    pthread_cond_broadcast(&pool->wake);
    pthread_mutex_unlock(&pool->lock);

    drain(pool, 0);

    pthread_mutex_lock(&pool->lock);
    while (pool->working > 0) {
        pthread_cond_wait(&pool->idle, &pool->lock);
    }
    pthread_mutex_unlock(&pool->lock);
}
