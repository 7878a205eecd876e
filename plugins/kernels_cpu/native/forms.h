// The forms of rounded activations: what of them lies in a tile, and how a unit's products are summed.
//
// A form has a `Ready` for a product of M rows, made once for a panel, whose `add` adds the products of a unit to the sums of M rows; and `put`,
// which rounds a unit of one row into its place in a tile, and returns the sum of the group's rounded activations with it.
#pragma once

#include "lanes.h"

namespace llmasos {

// For each unit the codes of each row, between -127 and 127; the scale of each row; and what the sum of each begins with, minus the fixed zero
// times the sum of its codes. Sums of products are exact, and
//
//     sum = fma(float(offset + products), activation scale, sum)
//
// has the same bits by every instruction set. A unit with a value that is no finite number gets the scale NaN; one whose values are all below
// 1e-30 counts as zero.
template <class Set>
struct Int8 {
    using Isa = Set;
    using Floats = typename Isa::Floats;
    using Ints = typename Isa::Ints;
    static constexpr Precision precision = Precision::int8;
    static constexpr int most = Isa::most, least = Isa::least;

    template <int bits, int unit, int M>
    struct Ready {
        explicit Ready(bool) {}

        LLMASOS_INLINE void add(const uint8_t* codes, const uint8_t* tile, Floats (&sums)[M]) const {
            const auto* const values = reinterpret_cast<const int8_t*>(tile);
            const auto* const scales = reinterpret_cast<const float*>(tile + M * unit);
            const auto* const offsets = reinterpret_cast<const int32_t*>(tile + M * (unit + sizeof(float)));
            Ints products[M];
            for (int m = 0; m < M; ++m) products[m] = Isa::all(offsets[m]);
            Isa::template dot<bits, unit, M>(codes, values, products);
            for (int m = 0; m < M; ++m) sums[m] = Isa::fma(Isa::to_float(products[m]), Isa::all(scales[m]), sums[m]);
        }
    };

    static float put(const Shape& shape, const float* values, size_t count, uint8_t* tile, size_t rows, size_t place, float group_sum) {
        const size_t unit = shape.unit;
        const int32_t fixed = shape.zero == Zero::fixed ? 1 << (shape.bits - 1) : 0;
        // An instruction set without products of unsigned by signed bytes multiplies 8-bit codes less 128.
        const int32_t zero = fixed - (shape.bits == 8 && Isa::is_signed ? 128 : 0);
        float scale;
        const int32_t sum = Isa::round(values, count, unit, reinterpret_cast<int8_t*>(tile + place * unit), &scale);
        const int32_t offset = -zero * sum;
        __builtin_memcpy(tile + rows * unit + place * sizeof scale, &scale, sizeof scale);
        __builtin_memcpy(tile + rows * (unit + sizeof scale) + place * sizeof offset, &offset, sizeof offset);
        return __builtin_fmaf(static_cast<float>(sum), scale, group_sum);
    }
};

// A float of which only the sign, the exponent and seven bits of the fraction are left, to the nearest and to the even one of two. Magnitudes
// below 2 ** -100 become 0: so no product or sum of products is a number below the normal ones, which some instructions take for 0.
LLMASOS_INLINE uint16_t to_bf16(float value) {
    const auto bits = __builtin_bit_cast(uint32_t, value);
    const uint32_t magnitude = bits & 0x7fffffff, rounded = (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
    const uint32_t least = (127 - 100) << 23, infinity = 0x7f800000, none = 0x7fc0;
    return static_cast<uint16_t>(magnitude > infinity ? none : magnitude < least ? 0 : rounded);
}

LLMASOS_INLINE float from_bf16(uint16_t half) { return __builtin_bit_cast(float, static_cast<uint32_t>(half) << 16); }

// For each unit and row the activations as bfloat16. Codes less their fixed zero are numbers of bfloat16 too, so that weights stay exact.
//
// Within a step the second and the third column change places: VDPBF16PS adds the products of two neighbours, and codes that are two bytes apart are
// the ones that unpack side by side. It adds the second of the two first, and so is it done here:
//
//     product = fma(code - fixed zero, activation, product) for each column of a unit, in each step the columns 2, 0, 3, 1
//     sum = sum + product
//
// which has the same bits by every instruction set but AMX, whose tiles add in an order of their own.
template <class Set>
struct Bf16 {
    using Isa = Set;
    using Floats = typename Isa::Floats;
    static constexpr Precision precision = Precision::bf16;
    static constexpr int most = Isa::most, least = Isa::least;

    // Where a column of a step lies among the four, and which column lies at a place.
    static constexpr size_t place_of(size_t column) { return column % 3 ? 3 - column : column; }

    template <int bits, int unit, int M>
    struct Ready {
        Floats zero;

        explicit Ready(bool fixed) : zero(Isa::all(fixed ? static_cast<float>(1 << (bits - 1)) : 0.0F)) {}

        LLMASOS_INLINE void add(const uint8_t* codes, const uint8_t* tile, Floats (&sums)[M]) const {
            const auto* const values = reinterpret_cast<const uint16_t*>(tile);
            Floats products[M];
            for (int m = 0; m < M; ++m) products[m] = Isa::zero();
            Isa::template unpacked<bits, unit>(codes, [&](int step, const auto& line) __attribute__((always_inline)) {
                for (size_t at = 0; at < kStep; ++at) {
                    const size_t place = at ^ 1;
                    const Floats weights = Isa::subtract(Isa::column(line, place_of(place)), zero);
                    for (int m = 0; m < M; ++m) {
                        const float value = from_bf16(values[m * unit + step * kStep + place]);
                        products[m] = Isa::fma(weights, Isa::all(value), products[m]);
                    }
                }
            });
            for (int m = 0; m < M; ++m) sums[m] = Isa::add(sums[m], products[m]);
        }
    };

    static float put(const Shape& shape, const float* values, size_t count, uint8_t* tile, size_t, size_t place, float group_sum) {
        const size_t unit = shape.unit;
        auto* const to = reinterpret_cast<uint16_t*>(tile) + place * unit;
        alignas(64) float sums[kRows] = {};
        alignas(64) float padded[2 * kRows] = {};
        __builtin_memcpy(padded, values, count * sizeof(float));
        for (size_t at = 0; at < unit; at += kStep)
            for (size_t column = 0; column < kStep; ++column) {
                const uint16_t rounded = to_bf16(padded[at + column]);
                to[at + place_of(column)] = rounded;
                sums[(at + column) % kRows] += from_bf16(rounded);
            }
        return group_sum + Lanes<Isa>::total(Isa::some(sums, kRows));
    }
};

}  // namespace llmasos
