/* pool.h - the one thread pool: items are handed out in order from one atomic counter. */
#ifndef FGA_BASE_POOL_H
#define FGA_BASE_POOL_H

#include "fgattn.h"

typedef struct fga_pool fga_pool;
typedef void (*fga_pool_body)(void *arg, int64_t item, int worker);

/* threads >= 1, the caller of fga_pool_run included. */
fga_status fga_pool_create(int threads, fga_pool **pool);
void fga_pool_destroy(fga_pool **pool);
int fga_pool_threads(const fga_pool *pool);
/* Runs every item once and returns when all are done. Called from inside a body, it runs serially with that
 * body's worker number. */
void fga_pool_run(fga_pool *pool, int64_t items, fga_pool_body body, void *arg);

#endif
