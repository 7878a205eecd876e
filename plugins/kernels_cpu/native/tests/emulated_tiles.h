// The tiles of AMX in plain C++, so that the code for them runs where there are none: `amx.cpp` is compiled with this file before it.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#define LLMASOS_EMULATED_TILES

namespace llmasos::emulated {

struct Tiles {
    uint8_t rows[8];
    uint16_t row_bytes[8];
    uint8_t data[8][16][64];
};

inline thread_local Tiles tiles;

inline void load_config(const void* config) {
    const auto* bytes = static_cast<const uint8_t*>(config);
    std::memcpy(tiles.row_bytes, bytes + 16, 16);
    std::memcpy(tiles.rows, bytes + 48, 8);
}

inline void zero(int tile) { std::memset(tiles.data[tile], 0, sizeof tiles.data[tile]); }

inline void load(int tile, const void* from, size_t stride) {
    zero(tile);
    for (size_t row = 0; row < tiles.rows[tile]; ++row)
        std::memcpy(tiles.data[tile][row], static_cast<const uint8_t*>(from) + row * stride, tiles.row_bytes[tile]);
}

inline void store(int tile, void* to, size_t stride) {
    for (size_t row = 0; row < tiles.rows[tile]; ++row)
        std::memcpy(static_cast<uint8_t*>(to) + row * stride, tiles.data[tile][row], tiles.row_bytes[tile]);
}

// As the manual defines TDPBSUD: of signed bytes of `a` and unsigned ones of `b`, four at a time.
inline void product(int sum, int a, int b) {
    for (size_t row = 0; row < tiles.rows[sum]; ++row)
        for (size_t group = 0; group < tiles.row_bytes[a] / 4U; ++group)
            for (size_t lane = 0; lane < tiles.row_bytes[sum] / 4U; ++lane) {
                int32_t total;
                std::memcpy(&total, tiles.data[sum][row] + 4 * lane, 4);
                for (size_t each = 0; each < 4; ++each)
                    total += static_cast<int8_t>(tiles.data[a][row][4 * group + each]) * tiles.data[b][group][4 * lane + each];
                std::memcpy(tiles.data[sum][row] + 4 * lane, &total, 4);
            }
}

inline float element(const uint8_t* at) {
    uint16_t half;
    std::memcpy(&half, at, 2);
    return __builtin_bit_cast(float, static_cast<uint32_t>(half) << 16);
}

// As the manual defines TDPBF16PS: the products of even elements and of odd ones each in a sum, both of which are added to the lane.
inline void bf16_product(int sum, int a, int b) {
    for (size_t row = 0; row < tiles.rows[sum]; ++row)
        for (size_t lane = 0; lane < tiles.row_bytes[sum] / 4U; ++lane) {
            float sums[2] = {}, total;
            for (size_t pair = 0; pair < tiles.row_bytes[a] / 4U; ++pair)
                for (size_t each = 0; each < 2; ++each) {
                    const size_t at = 2 * each;
                    sums[each] = std::fmaf(element(tiles.data[a][row] + 4 * pair + at), element(tiles.data[b][pair] + 4 * lane + at), sums[each]);
                }
            std::memcpy(&total, tiles.data[sum][row] + 4 * lane, 4);
            total += sums[0] + sums[1];
            std::memcpy(tiles.data[sum][row] + 4 * lane, &total, 4);
        }
}

}  // namespace llmasos::emulated

#define LLMASOS_TILES_LOAD_CONFIG(config) llmasos::emulated::load_config(config)
#define LLMASOS_TILES_RELEASE() ((void)0)
#define LLMASOS_TILE_ZERO(tile) llmasos::emulated::zero(tile)
#define LLMASOS_TILE_LOAD(tile, from, stride) llmasos::emulated::load(tile, from, stride)
#define LLMASOS_TILE_PRODUCT(sum, a, b) llmasos::emulated::product(sum, a, b)
#define LLMASOS_TILE_BF16_PRODUCT(sum, a, b) llmasos::emulated::bf16_product(sum, a, b)
#define LLMASOS_TILE_STORE(tile, to, stride) llmasos::emulated::store(tile, to, stride)
