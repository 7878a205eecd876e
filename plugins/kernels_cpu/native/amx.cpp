// Products of up to sixteen rows of activations at once, by the tiles of AMX. Fewer rows than sixteen in int8 are computed as by AVX-512, whose
// float operations these share. The lines of a unit are a tile as they lie: a row of it holds four columns of sixteen rows, or two in bfloat16.
#include "bf16_pairs.h"

#ifndef LLMASOS_EMULATED_TILES
#define LLMASOS_TILES_LOAD_CONFIG(config) _tile_loadconfig(config)
#define LLMASOS_TILES_RELEASE() _tile_release()
#define LLMASOS_TILE_ZERO(tile) _tile_zero(tile)
#define LLMASOS_TILE_LOAD(tile, from, stride) _tile_loadd(tile, from, stride)
#define LLMASOS_TILE_PRODUCT(sum, signed_tile, unsigned_tile) _tile_dpbsud(sum, signed_tile, unsigned_tile)
#define LLMASOS_TILE_BF16_PRODUCT(sum, tile, other) _tile_dpbf16ps(sum, tile, other)
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

// What `ldtilecfg` reads: the first three tiles are sums, activations and weights. Of a unit of the weights a row of their tile holds `columns`.
struct alignas(64) TileConfig {
    uint8_t palette = 1;
    uint8_t start = 0;
    uint8_t reserved[14] = {};
    uint16_t row_bytes[16] = {};
    uint8_t rows[16] = {};

    TileConfig(int activations, int unit, int columns) {
        row_bytes[0] = row_bytes[2] = kLine;
        row_bytes[1] = static_cast<uint16_t>(unit / columns * 4);
        rows[0] = rows[1] = static_cast<uint8_t>(activations);
        rows[2] = static_cast<uint8_t>(unit / columns);
    }
};

// Products of bfloat16. Tiles add the products of first columns of pairs and of second ones each by themselves, and then both: fewer rows than
// sixteen are computed by tiles too, so that a row has the same bits in any batch.
struct Bf16Tiles : Bf16<Amx> {
    static constexpr int most = kTileRows, least = 1;

    template <int bits, int unit, int M>
    struct Ready {
        PairsOfCodes<bits> pairs;

        explicit Ready(bool fixed) : pairs(fixed) {
            const TileConfig config(M, unit, 2);
            LLMASOS_TILES_LOAD_CONFIG(&config);
        }
        ~Ready() { LLMASOS_TILES_RELEASE(); }

        LLMASOS_INLINE void add(const uint8_t* codes, const uint8_t* tile, __m512 (&sums)[M]) const {
            alignas(64) uint16_t lines[unit * kRows];
            alignas(64) float products[M * kRows];
            Amx::unpacked<bits, unit>(codes, [&](int step, __m512i line) __attribute__((always_inline)) {
                __m512i outer, inner;
                pairs.unpack(line, outer, inner);
                _mm512_store_si512(lines + step * kLine, outer);
                _mm512_store_si512(lines + step * kLine + kLine / 2, inner);
            });
            memory_is_written();
            LLMASOS_TILE_ZERO(0);
            LLMASOS_TILE_LOAD(1, tile, unit * sizeof(uint16_t));
            LLMASOS_TILE_LOAD(2, lines, kLine);
            LLMASOS_TILE_BF16_PRODUCT(0, 1, 2);
            LLMASOS_TILE_STORE(0, products, kLine);
            memory_is_written();
            for (int m = 0; m < M; ++m) sums[m] = _mm512_add_ps(sums[m], _mm512_load_ps(products + m * kRows));
        }
    };
};

void run(const Matrix& matrix, const Activations& input, size_t index, size_t first, size_t last, float* output, size_t stride) {
    const size_t whole = (last - first) / kTileRows * kTileRows;
    if (whole) {
        const TileConfig config(kTileRows, matrix.shape.unit, kStep);
        LLMASOS_TILES_LOAD_CONFIG(&config);
        Product<Int8<Amx>>::run(matrix, input, index, first, first + whole, output, stride);
        LLMASOS_TILES_RELEASE();
    }
    kAvx512.products[static_cast<size_t>(Precision::int8)]->run(matrix, input, index, first + whole, last, output + whole * stride, stride);
}

constexpr Products kInt8Tiles = {run, Product<Int8<Amx>>::round};

}  // namespace

const Kernel kAmx = kernel_of<Amx>("amx", &kInt8Tiles, &products_of<Bf16Tiles>);

}  // namespace llmasos
