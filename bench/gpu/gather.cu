/* gather.cu - how fast rows of 256 bytes come into shared memory: cp.async 16 bytes at a time against tensor-map boxes
 * of 64 channels by 1 to 32 rows, for runs of as many rows scattered at random. No arithmetic; each thread block keeps
 * STAGES tiles of 128 rows on their way, and cp.async has their numbers a tile ahead (boxes are limited by their number
 * long before). Both ways must see the same data: the exclusive-or of all rows' first words.
 *
 *   nvcc -std=c++17 -O3 -gencode arch=compute_90a,code=sm_90a -Iinclude -Isrc bench/gpu/gather.cu -o bench_gather
 */
#include "cuda/barrier.cuh"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <dlfcn.h>
#include <vector>

enum { ROWS = 128, STAGES = 4, ROW_BYTES = 256, TILE_BYTES = ROWS * ROW_BYTES, THREADS = 128 };

struct work {
    const unsigned char *rows;
    const int *starts;     /* [tiles][ROWS/run]: first row of each run */
    unsigned *result;      /* [1] */
    int tiles, run, shift; /* run: 1 << shift */
};

struct tiles {
    unsigned char rows[STAGES][TILE_BYTES];
    uint64_t full[STAGES];
};

__device__ tiles &shared_tiles()
{
    extern __shared__ unsigned char memory[];
    uint32_t at = fga::shared_address(memory);
    return *reinterpret_cast<tiles *>(memory + (1024 - at % 1024) % 1024);
}

/* The first word of the thread's row. */
__device__ unsigned first_word(const unsigned char *rows)
{
    return *reinterpret_cast<const unsigned *>(rows + fga_swizzled(ROWS, threadIdx.x, 0));
}

__global__ void __launch_bounds__(THREADS) by_cp_async(work w)
{
    tiles &sh = shared_tiles();
    unsigned seen = 0, sources[16]; /* rows of the tile to be copied next, known before its turn */
    int chunk = threadIdx.x % 16, row = threadIdx.x / 16;
    auto load = [&](int tile) {
        if (tile < w.tiles) {
            const int *starts = w.starts + (int64_t)tile * (ROWS / w.run);
#pragma unroll
            for (int i = 0; i < 16; i++) {
                int slot = row + 8 * i;
                sources[i] = __ldg(starts + (slot >> w.shift)) + (slot & (w.run - 1));
            }
        }
    };
    auto start = [&](int tile, int stage) {
        if (tile < w.tiles) {
            uint32_t to = fga::shared_address(sh.rows[stage]) + fga_swizzled(ROWS, row, chunk);
#pragma unroll
            for (int i = 0; i < 16; i++) {
                fga::copy_async_16(to + i * 1024, w.rows + (uint64_t)sources[i] * ROW_BYTES + chunk * 16, true);
            }
        }
        fga::copy_async_commit();
    };
    load(blockIdx.x);
    for (int i = 0; i < STAGES - 1; i++) {
        start(blockIdx.x + i * gridDim.x, i);
        load(blockIdx.x + (i + 1) * gridDim.x);
    }
    int stage = 0;
    for (int tile = blockIdx.x; tile < w.tiles; tile += gridDim.x) {
        start(tile + (STAGES - 1) * gridDim.x, (stage + STAGES - 1) % STAGES);
        load(tile + STAGES * gridDim.x);
        fga::copy_async_wait<STAGES - 1>();
        __syncthreads();
        seen ^= first_word(sh.rows[stage]);
        __syncthreads();
        stage = (stage + 1) % STAGES;
    }
    atomicXor(w.result, seen);
}

__device__ void copy_box_2d(uint32_t to, const CUtensorMap *map, uint64_t *barrier, int channel, int row)
{
    asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4}], "
                 "[%2];" ::"r"(to),
                 "l"(map), "r"(fga::shared_address(barrier)), "r"(channel), "r"(row)
                 : "memory");
}

__global__ void __launch_bounds__(THREADS) by_boxes(work w, const __grid_constant__ CUtensorMap map)
{
    tiles &sh = shared_tiles();
    if (threadIdx.x == 0) {
        for (int i = 0; i < STAGES; i++) {
            fga::barrier_init(&sh.full[i], 1);
        }
        fga::barriers_ready();
    }
    __syncthreads();
    unsigned seen = 0;
    /* One warp; a lane per box, two boxes per run. */
    auto start = [&](int tile, int stage) {
        if (tile >= w.tiles || threadIdx.x >= 32) {
            return;
        }
        if (threadIdx.x == 0) {
            fga::barrier_arrive_expecting(&sh.full[stage], TILE_BYTES);
        }
        __syncwarp();
        int runs = ROWS / w.run;
        uint32_t to = fga::shared_address(sh.rows[stage]);
        for (int i = threadIdx.x; i < 2 * runs; i += 32) {
            int run = i >> 1, column = i & 1;
            copy_box_2d(to + column * ROWS * 128 + run * w.run * 128, &map, &sh.full[stage], column * 64,
                        __ldg(w.starts + (int64_t)tile * runs + run));
        }
    };
    for (int i = 0; i < STAGES - 1; i++) {
        start(blockIdx.x + i * gridDim.x, i);
    }
    int stage = 0;
    uint32_t parity = 0;
    for (int tile = blockIdx.x; tile < w.tiles; tile += gridDim.x) {
        start(tile + (STAGES - 1) * gridDim.x, (stage + STAGES - 1) % STAGES);
        fga::barrier_wait(&sh.full[stage], parity);
        seen ^= first_word(sh.rows[stage]);
        __syncthreads();
        stage = (stage + 1) % STAGES;
        parity ^= stage == 0;
    }
    atomicXor(w.result, seen);
}

static void need(cudaError_t error, const char *what)
{
    if (error != cudaSuccess) {
        std::fprintf(stderr, "%s: %s\n", what, cudaGetErrorString(error));
        std::exit(1);
    }
}

template <typename F> static float median_ms(F body)
{
    cudaEvent_t start, stop;
    need(cudaEventCreate(&start), "event");
    need(cudaEventCreate(&stop), "event");
    std::vector<float> times;
    for (int i = 0; i < 9; i++) {
        float ms = 0;
        need(cudaEventRecord(start), "record");
        body();
        need(cudaGetLastError(), "launch");
        need(cudaEventRecord(stop), "record");
        need(cudaEventSynchronize(stop), "run");
        need(cudaEventElapsedTime(&ms, start, stop), "time");
        if (i >= 2) {
            times.push_back(ms);
        }
    }
    std::sort(times.begin(), times.end());
    return times[times.size() / 2];
}

/* Found at run time: the program then builds, and starts, where there is no driver. */
static decltype(&cuTensorMapEncodeTiled) find_encode()
{
    decltype(&cuTensorMapEncodeTiled) encode = nullptr;
    void *library = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
    void *found = library != nullptr ? dlsym(library, "cuTensorMapEncodeTiled") : nullptr;
    if (found == nullptr) {
        std::fprintf(stderr, "the driver has no cuTensorMapEncodeTiled\n");
        std::exit(1);
    }
    std::memcpy(&encode, &found, sizeof encode);
    return encode;
}

int main()
{
    cudaDeviceProp device;
    if (cudaGetDeviceProperties(&device, 0) != cudaSuccess || device.major != 9) {
        std::printf("skipped: no device of compute capability 9.0\n");
        return 77;
    }
    auto encode = find_encode();
    int shared = sizeof(tiles) + 1024, blocks = device.multiProcessorCount;
    need(cudaFuncSetAttribute(by_cp_async, cudaFuncAttributeMaxDynamicSharedMemorySize, shared), "shared memory");
    need(cudaFuncSetAttribute(by_boxes, cudaFuncAttributeMaxDynamicSharedMemorySize, shared), "shared memory");
    std::printf("%s: rows of %d bytes, %d thread blocks, %d tiles of %d rows in flight each\n", device.name, ROW_BYTES,
                blocks, STAGES - 1, ROWS);
    for (int64_t tokens : {32760, 75600}) { /* K or V of one head, within the cache */
        const int count = 200 * blocks;
        unsigned char *rows;
        std::vector<unsigned> words((size_t)tokens * ROW_BYTES / 4);
        for (auto &word : words) {
            word = (unsigned)std::rand() * 2654435761u;
        }
        need(cudaMalloc(&rows, words.size() * 4), "memory");
        need(cudaMemcpy(rows, words.data(), words.size() * 4, cudaMemcpyHostToDevice), "copy");
        for (int run : {1, 2, 4, 8, 16, 32}) {
            std::vector<int> starts((size_t)count * (ROWS / run));
            for (auto &start : starts) {
                start = std::rand() % (int)(tokens / run - 1) * run;
            }
            int *device_starts;
            unsigned *result;
            need(cudaMalloc(&device_starts, starts.size() * sizeof(int)), "memory");
            need(cudaMemcpy(device_starts, starts.data(), starts.size() * sizeof(int), cudaMemcpyHostToDevice), "copy");
            need(cudaMalloc(&result, 8), "memory");
            CUtensorMap map;
            const cuuint64_t extent[2] = {128, (cuuint64_t)tokens}, stride[1] = {ROW_BYTES};
            const cuuint32_t box[2] = {64, (cuuint32_t)run}, step[2] = {1, 1};
            if (encode(&map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 2, rows, extent, stride, box, step,
                       CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
                       CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE) != CUDA_SUCCESS) {
                std::fprintf(stderr, "no tensor map for boxes of %d rows\n", run);
                return 1;
            }
            work w = {rows, device_starts, result, count, run, __builtin_ctz(run)};
            unsigned seen[2];
            float ms[2];
            for (int way = 0; way < 2; way++) {
                auto launch = [&] {
                    way == 0 ? by_cp_async<<<blocks, THREADS, shared>>>(w)
                             : by_boxes<<<blocks, THREADS, shared>>>(w, map);
                };
                need(cudaMemset(result, 0, 4), "clear");
                launch();
                need(cudaMemcpy(&seen[way], result, 4, cudaMemcpyDeviceToHost), "result");
                ms[way] = median_ms(launch);
            }
            /* A box of few rows leaves the swizzle's pattern to where it lands: equal only if that is as hoped. */
            double bytes = (double)count * TILE_BYTES;
            std::printf("tokens %6d, runs of %2d: cp.async %6.2f TB/s, boxes %6.2f TB/s, %s\n", (int)tokens, run,
                        bytes / ms[0] * 1e-9, bytes / ms[1] * 1e-9,
                        seen[0] == seen[1] ? "same rows" : "DIFFERENT rows");
            cudaFree(device_starts);
            cudaFree(result);
        }
        cudaFree(rows);
    }
    return 0;
}
