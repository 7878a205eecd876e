// Integer products of sixteen rows of activations at once, by the tiles of AMX; fewer rows are computed as by AVX-512, whose float operations
// these share. The lines of a unit are a tile as they lie: a row of it holds four columns of sixteen rows.
#include "avx512.h"

#ifndef LLMASOS_EMULATED_TILES
#define LLMASOS_TILES_LOAD_CONFIG(config) _tile_loadconfig(config)
#define LLMASOS_TILES_RELEASE() _tile_release()
#define LLMASOS_TILE_ZERO(tile) _tile_zero(tile)
#define LLMASOS_TILE_LOAD(tile, from, stride) _tile_loadd(tile, from, stride)
#define LLMASOS_TILE_PRODUCT(sum, signed_tile, unsigned_tile) _tile_dpbsud(sum, signed_tile, unsigned_tile)
#define LLMASOS_TILE_STORE(tile, to, stride) _tile_stored(tile, to, stride)
#endif

namespace llmasos {
namespace {

constexpr int kTileRows = 16;

// Compilers do not know that tiles are loaded from memory.
void memory_is_written() { __asm__ volatile("" ::: "memory"); }

struct Amx : Avx512 {
    static constexpr int most = kTileRows, least = kTileRows;

    template <int bits, int unit, int M>
    static void dot(const uint8_t* codes, const int8_t* values, Ints (&sums)[M]) {
        static_assert(M == kTileRows);
        alignas(64) uint8_t lines[unit / kStep * kLine];
        alignas(64) int32_t products[kTileRows * kRows];
        const uint8_t* weights = codes;
        if constexpr (bits != 8) {
            unpacked<bits, unit>(codes, [&](int step, __m512i line) { _mm512_store_si512(lines + step * kLine, line); });
            weights = lines;
        }
        memory_is_written();
        LLMASOS_TILE_ZERO(0);
        LLMASOS_TILE_LOAD(1, values, unit);
        LLMASOS_TILE_LOAD(2, weights, kLine);
        LLMASOS_TILE_PRODUCT(0, 1, 2);
        LLMASOS_TILE_STORE(0, products, kLine);
        memory_is_written();
        for (int m = 0; m < M; ++m) sums[m] = _mm512_add_epi32(sums[m], _mm512_load_si512(products + m * kRows));
    }
};

// What `ldtilecfg` reads: the first three tiles are sums, activations and weights.
struct alignas(64) TileConfig {
    uint8_t palette = 1;
    uint8_t start = 0;
    uint8_t reserved[14] = {};
    uint16_t row_bytes[16] = {};
    uint8_t rows[16] = {};

    explicit TileConfig(int unit) {
        row_bytes[0] = row_bytes[2] = kLine;
        row_bytes[1] = static_cast<uint16_t>(unit);
        rows[0] = rows[1] = kTileRows;
        rows[2] = static_cast<uint8_t>(unit / kStep);
    }
};

void run(const Matrix& matrix, const Activations& input, size_t index, size_t first, size_t last, float* output, size_t stride) {
    const size_t whole = (last - first) / kTileRows * kTileRows;
    if (whole) {
        const TileConfig config(matrix.shape.unit);
        LLMASOS_TILES_LOAD_CONFIG(&config);
        Product<Amx>::run(matrix, input, index, first, first + whole, output, stride);
        LLMASOS_TILES_RELEASE();
    }
    kAvx512.run(matrix, input, index, first + whole, last, output + whole * stride, stride);
}

}  // namespace

const Kernel kAmx = {"amx", run, Product<Amx>::round, Product<Amx>::gate, Attend<Amx>::prepare, Attend<Amx>::run};

}  // namespace llmasos
