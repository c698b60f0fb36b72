#include "machine.h"

#include <cstdio>
#include <cstdlib>
#include <deque>
#include <map>
#include <ucontext.h>
#include <vector>

namespace emulated
{

enum { STACK = 128 * 1024, WARP = 32, SHARED = 233472 };

struct late {
    enum { COPY, ARRIVE, COMMIT } kind;
    unsigned char *to;
    const void *from;
    bool read;
    uint64_t *bar;
};

struct thread {
    ucontext_t context;
    int index;
    bool done;
    std::deque<late> pending;
    int groups; /* commits among them */
    std::vector<char> stack;
};

struct warp {
    int come = 0;
    unsigned turn = 0;
    unsigned char values[2][WARP][64];
};

struct phase_barrier {
    int count = 0, left = 0, bytes = 0;
    unsigned phase = 0;
};

struct named_barrier {
    int come = 0;
    unsigned turn = 0;
};

thread *now;
dim3 block_index, grid_size, block_size;
static std::vector<thread> threads;
static std::vector<warp> warps;
static std::map<uint64_t *, phase_barrier> bars;
static named_barrier named[16];
static ucontext_t scheduler;
static void (*entry)(void *);
static void *entry_arg;
static unsigned random_state;
static long progress; /* counts events that can let another thread on */

static unsigned random_number()
{
    random_state = random_state * 1664525u + 1013904223u;
    return random_state >> 8;
}

int thread_index()
{
    return now->index;
}

static void yield()
{
    swapcontext(&now->context, &scheduler);
}

static void bar_settle(phase_barrier &b)
{
    if (b.left == 0 && b.bytes == 0) {
        b.phase++;
        b.left = b.count;
        progress++;
    }
}

static void settle(thread &t)
{
    late x = t.pending.front();
    t.pending.pop_front();
    progress++;
    switch (x.kind) {
    case late::COPY:
        if (x.read) {
            std::memcpy(x.to, x.from, 16);
        } else {
            std::memset(x.to, 0, 16);
        }
        break;
    case late::ARRIVE: {
        phase_barrier &b = bars.at(x.bar);
        b.left--;
        bar_settle(b);
        break;
    }
    case late::COMMIT:
        t.groups--;
        break;
    }
}

void copy_later(unsigned char *to, const void *from, bool read)
{
    now->pending.push_back({late::COPY, to, from, read, nullptr});
}

void arrive_later(uint64_t *bar)
{
    now->pending.push_back({late::ARRIVE, nullptr, nullptr, false, bar});
}

void commit_group()
{
    now->pending.push_back({late::COMMIT, nullptr, nullptr, false, nullptr});
    now->groups++;
}

void wait_groups(int pending)
{
    while (now->groups > pending) {
        settle(*now);
    }
}

void exchange(const void *mine, size_t bytes, void *all)
{
    warp &w = warps[now->index / WARP];
    unsigned turn = w.turn;
    std::memcpy(w.values[turn & 1][now->index % WARP], mine, bytes);
    if (++w.come == WARP) {
        w.come = 0;
        w.turn++;
        progress++;
    }
    while (w.turn == turn) {
        yield();
    }
    for (int i = 0; i < WARP; i++) {
        std::memcpy((char *)all + i * bytes, w.values[turn & 1][i], bytes);
    }
}

void arrive(int id, int count)
{
    named_barrier &b = named[id];
    if (++b.come == count) {
        b.come = 0;
        b.turn++;
        progress++;
    }
}

void sync(int id, int count)
{
    unsigned turn = named[id].turn;
    arrive(id, count);
    while (named[id].turn == turn) {
        yield();
    }
}

void bar_init(uint64_t *bar, int count)
{
    phase_barrier b;
    b.count = b.left = count;
    bars[bar] = b;
}

void bar_arrive(uint64_t *bar)
{
    phase_barrier &b = bars.at(bar);
    b.left--;
    bar_settle(b);
}

void bar_expect(uint64_t *bar, int bytes)
{
    phase_barrier &b = bars.at(bar);
    b.bytes += bytes;
    b.left--;
    bar_settle(b);
}

void bar_complete(uint64_t *bar, int bytes)
{
    phase_barrier &b = bars.at(bar);
    b.bytes -= bytes;
    bar_settle(b);
}

void bar_wait(uint64_t *bar, uint32_t parity)
{
    phase_barrier &b = bars.at(bar);
    while ((b.phase & 1) == parity) {
        yield();
    }
}

} // namespace emulated

namespace fga
{
alignas(1024) unsigned char memory[emulated::SHARED];
}

namespace emulated
{

unsigned char *shared_at(uint32_t address)
{
    if (address >= SHARED) {
        std::fprintf(stderr, "shared address %u is outside\n", address);
        std::abort();
    }
    return fga::memory + address;
}

uint32_t shared_offset(const void *pointer)
{
    return (uint32_t)((const unsigned char *)pointer - fga::memory);
}

static void start()
{
    entry(entry_arg);
    now->done = true;
    progress++;
    swapcontext(&now->context, &scheduler);
}

static void run_block()
{
    std::memset(fga::memory, 0xFF, SHARED);
    bars.clear();
    for (auto &b : named) {
        b = named_barrier();
    }
    warps.assign(block_size.x / WARP, warp());
    for (size_t i = 0; i < threads.size(); i++) {
        thread &t = threads[i];
        t.index = (int)i;
        t.done = false;
        t.groups = 0;
        t.pending.clear();
        t.stack.resize(STACK);
        getcontext(&t.context);
        t.context.uc_stack.ss_sp = t.stack.data();
        t.context.uc_stack.ss_size = t.stack.size();
        t.context.uc_link = nullptr;
        makecontext(&t.context, start, 0);
    }
    size_t left = threads.size();
    while (left > 0) {
        long before = progress;
        left = 0;
        size_t first = random_number() % threads.size();
        for (size_t i = 0; i < threads.size(); i++) {
            now = &threads[(first + i) % threads.size()];
            if (!now->done) {
                swapcontext(&scheduler, &now->context);
            }
            for (unsigned n = random_number() % 8; n > 0 && !now->pending.empty(); n--) {
                settle(*now);
            }
            left += !now->done || !now->pending.empty();
        }
        for (size_t i = 0; i < threads.size() && progress == before; i++) { /* chance kept all copies back */
            if (!threads[i].pending.empty()) {
                settle(threads[i]);
            }
        }
        if (left > 0 && progress == before) {
            std::fprintf(stderr, "deadlock: %zu threads wait\n", left);
            std::abort();
        }
    }
}

static void check_rest(int shared)
{
    for (int i = shared; i < SHARED; i++) {
        if (fga::memory[i] != 0xFF) {
            std::fprintf(stderr, "shared memory is written at byte %d of %d\n", i, shared);
            std::abort();
        }
    }
}

void run(int blocks, int block_threads, int shared, unsigned seed, void (*body)(void *), void *arg)
{
    entry = body;
    entry_arg = arg;
    random_state = seed;
    grid_size.x = (unsigned)blocks;
    block_size.x = (unsigned)block_threads;
    threads.clear();
    threads.resize((size_t)block_threads);
    for (int i = 0; i < blocks; i++) {
        block_index.x = (unsigned)i;
        run_block();
        check_rest(shared);
    }
}

} // namespace emulated
