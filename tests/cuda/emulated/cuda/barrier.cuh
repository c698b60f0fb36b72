/* In place of src/cuda/barrier.cuh. */
#ifndef FGA_CUDA_BARRIER_CUH
#define FGA_CUDA_BARRIER_CUH

#include "cuda/device.cuh"

#include <cstdlib>

/* What the copy engine needs to know of [batch][head][token][channel]. */
struct CUtensorMap {
    const unsigned char *data;
    int64_t extent[4], stride[4]; /* of channel, token, head, batch; bytes */
    int channels, tokens;         /* of a box */
};

namespace fga
{

inline void barrier_init(uint64_t *barrier, int arrivals)
{
    emulated::bar_init(barrier, arrivals);
}

inline void barriers_ready()
{
}

inline void barrier_arrive(uint64_t *barrier)
{
    emulated::bar_arrive(barrier);
}

inline void barrier_arrive_expecting(uint64_t *barrier, int bytes)
{
    emulated::bar_expect(barrier, bytes);
}

inline void barrier_arrive_after_copies(uint64_t *barrier)
{
    emulated::arrive_later(barrier);
}

inline void barrier_wait(uint64_t *barrier, uint32_t parity)
{
    emulated::bar_wait(barrier, parity);
}

inline void fence_for_wgmma()
{
}

inline void named_sync(int id, int threads)
{
    emulated::sync(id, threads);
}

inline void named_arrive(int id, int threads)
{
    emulated::arrive(id, threads);
}

template <int REGISTERS> inline void give_registers()
{
}

template <int REGISTERS> inline void take_registers()
{
}

/* Swizzle by the address itself: of 128 bytes, or of 64. */
inline uint32_t swizzled_address(uint32_t address, int row_bytes)
{
    return address ^ (address >> 7 & (row_bytes == 128 ? 7 : 3)) << 4;
}

inline void copy_box(uint32_t to, const CUtensorMap *map, uint64_t *barrier, int channel, int token, int head,
                     int batch)
{
    int row_bytes = map->channels * 2;
    for (int row = 0; row < map->tokens; row++) {
        for (int i = 0; i < map->channels; i++) {
            uint16_t x = 0;
            if (token + row < map->extent[1] && channel + i < map->extent[0]) {
                std::memcpy(&x,
                            map->data + (channel + i) * map->stride[0] + (token + row) * map->stride[1] +
                                head * map->stride[2] + batch * map->stride[3],
                            2);
            }
            uint32_t at = to + (uint32_t)(row * row_bytes + i * 2);
            std::memcpy(emulated::shared_at(swizzled_address(at, row_bytes)), &x, 2);
        }
    }
    emulated::bar_complete(barrier, map->tokens * row_bytes);
}

} // namespace fga
#endif
