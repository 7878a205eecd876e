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

// Once for each row of a tile. Compilers keep sixteen variables in registers that they would not keep an array in, since instructions of tiles count
// as writing to all memory.
#define LLMASOS_EACH_ROW(use) \
    use(0) use(1) use(2) use(3) use(4) use(5) use(6) use(7) use(8) use(9) use(10) use(11) use(12) use(13) use(14) use(15)

// Compilers do not know that tiles are loaded from memory.
void memory_is_written() { __asm__ volatile("" ::: "memory"); }

struct Amx : Avx512 {
    static constexpr int most = kTileRows;
};

// What `ldtilecfg` reads: the first three tiles are sums, activations and weights, and the next three too. Of a unit of the weights a row of their
// tile holds `columns`.
struct alignas(64) TileConfig {
    uint8_t palette = 1;
    uint8_t start = 0;
    uint8_t reserved[14] = {};
    uint16_t row_bytes[16] = {};
    uint8_t rows[16] = {};

    constexpr TileConfig(int activations, int unit, int columns) {
        for (int set = 0; set < 6; set += 3) {
            row_bytes[set] = row_bytes[set + 2] = kLine;
            row_bytes[set + 1] = static_cast<uint16_t>(unit / columns * 4);
            rows[set] = rows[set + 1] = static_cast<uint8_t>(activations);
            rows[set + 2] = static_cast<uint8_t>(unit / columns);
        }
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
            static constexpr TileConfig config(M, unit, 2);
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

// Products of int8 of one panel and rows of activations, of which sixteen are a tile. Three things make them fast: codes are unpacked once for
// all rows; a tile's products are stored some units before their floats are computed, which takes longer than the tiles do; and what a lane
// sums stays in registers.
template <int bits, int unit, bool one, bool fixed>
struct Int8Panel {
    using Form = Product<Int8<Amx>>;

    static constexpr size_t kUnits = 32;     // unpacked at once
    static constexpr size_t kTiles = 8;      // rows for which they are, in tiles
    static constexpr size_t kStored = 8;     // units whose products are kept; a power of two
    static constexpr size_t kAhead = 4;      // units between the products and their floats
    static constexpr size_t kUnpacked = 8;   // and between unpacked codes and the floats
    static constexpr size_t kProducts = kTileRows * kRows;
    static constexpr size_t kLines = unit * kRows;                 // bytes of a unit's codes
    static constexpr size_t kUnitBytes = kRows * unit * bits / 8;  // as they are stored
    static constexpr size_t kShare = kTileRows * unit_share(Precision::int8, unit);

    // What is the same for all tiles of a part of the units.
    struct Part {
        const uint8_t* codes;  // as they are stored
        uint8_t* unpacked;     // those of less than eight bits
        size_t first, count, first_group;
        const float *scales, *shifts;  // of groups from `first_group` on; shifts are null where no zero varies

        const uint8_t* lines(size_t at) const { return (bits == 8 ? codes : unpacked) + at * kLines; }
    };

    LLMASOS_INLINE static void unpack(const Part& part, size_t at) {
        if constexpr (bits != 8)
            Avx512::unpacked<bits, unit>(part.codes + at * kUnitBytes, [&](int step, __m512i line) __attribute__((always_inline)) {
                _mm512_store_si512(part.unpacked + at * kLines + step * kLine, line);
            });
    }

    // Multiplies a unit. Two sets of tiles take turns, so that one is stored while the other one multiplies.
    template <int set>
    LLMASOS_INLINE static void multiply(const uint8_t* values, const uint8_t* lines) {
        memory_is_written();
        if constexpr (set) {
            LLMASOS_TILE_ZERO(3);
            LLMASOS_TILE_LOAD(4, values, unit);
            LLMASOS_TILE_LOAD(5, lines, kLine);
            LLMASOS_TILE_PRODUCT(3, 4, 5);
        } else {
            LLMASOS_TILE_ZERO(0);
            LLMASOS_TILE_LOAD(1, values, unit);
            LLMASOS_TILE_LOAD(2, lines, kLine);
            LLMASOS_TILE_PRODUCT(0, 1, 2);
        }
    }

    template <int set>
    LLMASOS_INLINE static void keep(int32_t* products) {
        if constexpr (set) {
            LLMASOS_TILE_STORE(3, products, kLine);
        } else {
            LLMASOS_TILE_STORE(0, products, kLine);
        }
        memory_is_written();
    }

    // What a row adds to its sum of a group, or where a group is one unit to its result.
    struct Unit {
        const int32_t* products;
        const float* factors;

        LLMASOS_INLINE __m512 product(int row) const {
            __m512i whole = _mm512_load_si512(products + row * kRows);
            if constexpr (fixed) whole = _mm512_add_epi32(whole, _mm512_set1_epi32(reinterpret_cast<const int32_t*>(factors + kTileRows)[row]));
            return _mm512_cvtepi32_ps(whole);
        }
        LLMASOS_INLINE __m512 factor(int row) const { return _mm512_set1_ps(factors[row]); }
    };

    // Adds the part's products with one tile of activations to what a group has so far, and groups that end to the results. With the first tile
    // codes are unpacked, and those that follow the part asked for.
    template <bool is_first>
    static void add(const Matrix& matrix, const Part& part, const uint8_t* tile, const float* group_sums, float* results, float* sums) {
        alignas(64) int32_t products[kStored * kProducts];
        const size_t units = matrix.layout.units, in_group = matrix.shape.group;
        size_t group = 0;
        // Multiplies the unit `next`, and stores the products of the one before.
        const auto ahead = [&]<int set>(size_t next) __attribute__((always_inline)) {
            if (next < part.count) multiply<set>(tile + next * kShare, part.lines(next));
            if (next && next - 1 < part.count) keep<1 - set>(products + (next - 1) % kStored * kProducts);
        };
        if constexpr (is_first)
            for (size_t at = 0; at < kUnpacked && at < part.count; ++at) unpack(part, at);
        static_assert(kAhead % 2 == 0);
        for (size_t at = 0; at < kAhead; at += 2) {
            ahead.template operator()<0>(at);
            ahead.template operator()<1>(at + 1);
        }
#define LLMASOS_LOAD(row) __m512 result##row = part.first ? _mm512_load_ps(results + row * kRows) : _mm512_setzero_ps();
        LLMASOS_EACH_ROW(LLMASOS_LOAD)
#undef LLMASOS_LOAD
        for (size_t at = 0; at < part.count; ++at) {
            if constexpr (is_first) {
                const uint8_t* const next = part.codes + (part.count + at) * kUnitBytes;
                for (size_t line = 0; line < kUnitBytes; line += kLine) _mm_prefetch(reinterpret_cast<const char*>(next + line), _MM_HINT_T1);
                if (at + kUnpacked < part.count) unpack(part, at + kUnpacked);
            }
            if (at % 2) {
                ahead.template operator()<1>(at + kAhead);
            } else {
                ahead.template operator()<0>(at + kAhead);
            }
            const Unit each{products + at % kStored * kProducts, reinterpret_cast<const float*>(tile + at * kShare + kTileRows * unit)};
            const bool ends = one || (part.first + at + 1) % in_group == 0 || part.first + at + 1 == units;
            if constexpr (!one)
                for (int row = 0; row < kTileRows; ++row) {
                    float* const sum = sums + row * kRows;
                    _mm512_store_ps(sum, _mm512_fmadd_ps(each.product(row), each.factor(row), _mm512_load_ps(sum)));
                }
            if (!ends) continue;
            const __m512 scale = _mm512_load_ps(part.scales + group * kRows);
            // A sum of one product is that product, but for the sign of 0, which results do not show.
#define LLMASOS_SCALE(row) \
    result##row = _mm512_fmadd_ps(scale, one ? _mm512_mul_ps(each.product(row), each.factor(row)) : _mm512_load_ps(sums + row * kRows), result##row);
            if constexpr (fixed) {
                LLMASOS_EACH_ROW(LLMASOS_SCALE)
            } else {
                const __m512 shift = _mm512_load_ps(part.shifts + group * kRows);
                const float* const these = group_sums + (part.first_group + group) * kTileRows;
#define LLMASOS_SHIFT(row) LLMASOS_SCALE(row) result##row = _mm512_fmadd_ps(shift, _mm512_set1_ps(these[row]), result##row);
                LLMASOS_EACH_ROW(LLMASOS_SHIFT)
#undef LLMASOS_SHIFT
            }
#undef LLMASOS_SCALE
            if constexpr (!one)
                for (int row = 0; row < kTileRows; ++row) _mm512_store_ps(sums + row * kRows, _mm512_setzero_ps());
            ++group;
        }
#define LLMASOS_STORE(row) _mm512_store_ps(results + row * kRows, result##row);
        LLMASOS_EACH_ROW(LLMASOS_STORE)
#undef LLMASOS_STORE
    }

    static void run(const Matrix& matrix, const Activations& input, size_t index, size_t first, size_t last, float* output, size_t stride) {
        const Layout& layout = matrix.layout;
        const uint8_t* const data = matrix.data + index * layout.panel_bytes;
        const size_t in_group = matrix.shape.group, row = index * kRows, left = matrix.shape.rows - row, lanes = left < kRows ? left : kRows;
        alignas(64) uint8_t unpacked[bits == 8 ? kLine : kUnits * kLines];
        alignas(64) float scales[kUnits * kRows], shifts[kUnits * kRows];
        alignas(64) float results[kTiles * kProducts], sums[one ? kRows : kTiles * kProducts];
        for (; first < last; first += kTiles * kTileRows) {
            const size_t tiles = (last - first) / kTileRows < kTiles ? (last - first) / kTileRows : kTiles;
            if constexpr (!one)
                for (size_t at = 0; at < tiles * kProducts; at += kRows) _mm512_store_ps(sums + at, _mm512_setzero_ps());
            for (size_t begin = 0; begin < layout.units; begin += kUnits) {
                const size_t count = layout.units - begin < kUnits ? layout.units - begin : kUnits, group = begin / in_group;
                const size_t groups = (begin + count - 1) / in_group + 1 - group;
                Form::factors(matrix, data, layout.scales, layout.upper_scales, group, groups, scales);
                if constexpr (!fixed) Form::shifts(matrix, data, group, groups, scales, shifts);
                const Part part{data + layout.codes + begin * kUnitBytes, unpacked, begin, count, group, scales, shifts};
                for (size_t tile = 0; tile < tiles; ++tile) {
                    const size_t place = first + tile * kTileRows;
                    (tile == 0 ? add<true> : add<false>)(matrix, part, input.tiles + place * input.row_bytes + begin * kShare, fixed ? nullptr : input.sums + place * layout.groups,
                        results + tile * kProducts, one ? nullptr : sums + tile * kProducts);
                }
            }
            for (size_t m = 0; m < tiles * kTileRows; ++m, output += stride) {
                __m512 result = _mm512_load_ps(results + m * kRows);
                if (matrix.bias) result = _mm512_add_ps(result, Avx512::some(matrix.bias + row, lanes));
                Avx512::store(output, result, lanes);
            }
        }
    }
};

template <int bits, int unit>
void run_bits(const Matrix& matrix, const Activations& input, size_t index, size_t first, size_t last, float* output, size_t stride) {
    const bool one = matrix.shape.group == 1, fixed = matrix.shape.zero == Zero::fixed;
    const auto run = one ? fixed ? Int8Panel<bits, unit, true, true>::run : Int8Panel<bits, unit, true, false>::run
                         : fixed ? Int8Panel<bits, unit, false, true>::run : Int8Panel<bits, unit, false, false>::run;
    run(matrix, input, index, first, last, output, stride);
}

template <int unit>
void run_unit(const Matrix& matrix, const Activations& input, size_t index, size_t first, size_t last, float* output, size_t stride) {
    static constexpr TileConfig config(kTileRows, unit, kStep);  // the processor would wait for one that was just written
    const int bits = matrix.shape.bits;
    LLMASOS_TILES_LOAD_CONFIG(&config);
    (bits == 4 ? run_bits<4, unit> : bits == 6 ? run_bits<6, unit> : run_bits<8, unit>)(matrix, input, index, first, last, output, stride);
    LLMASOS_TILES_RELEASE();
}

void run(const Matrix& matrix, const Activations& input, size_t index, size_t first, size_t last, float* output, size_t stride) {
    const size_t whole = (last - first) / kTileRows * kTileRows;
    if (whole) (matrix.shape.unit == 32 ? run_unit<32> : run_unit<16>)(matrix, input, index, first, first + whole, output, stride);
    kAvx512.products[static_cast<size_t>(Precision::int8)]->run(matrix, input, index, first + whole, last, output + whole * stride, stride);
}

constexpr Products kInt8Tiles = {run, Product<Int8<Amx>>::round};

}  // namespace

const Kernel kAmx = kernel_of<Amx>("amx", &kInt8Tiles, &products_of<Bf16Tiles>);

}  // namespace llmasos
