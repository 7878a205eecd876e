// A packed matrix of integer codes, and the activations that it is multiplied with.
//
// Sixteen rows are a panel. Its codes stand in the order in which they are read: of each unit of columns (32, or 16 where the scales' groups
// are no multiple of 32), of each step of four columns, of each row, four codes. So one vector of 64 bytes holds a step of all rows, which is
// the operand of a dot product of bytes (VNNI, DOTPROD) and the tile of a matrix unit (AMX), and each row's sum runs in one lane.
#pragma once

#include <cstddef>
#include <cstdint>

// Of functions that files of several instruction sets share: each gets code of its own, as the linker would take any one of them for all.
#define LLMASOS_INLINE [[gnu::always_inline]] inline

namespace llmasos {

constexpr size_t kRows = 16;         // of a panel: one lane each
constexpr size_t kStep = 4;          // columns whose products one lane adds at once
constexpr size_t kLine = kRows * kStep;  // bytes of a step of 8-bit codes

enum class Zero : int32_t {
    fixed = 0,    // the code that stands for 0 is 2 ** (stored bits - 1)
    stored = 1,   // a byte for each row and group
    minimum = 2,  // weights are scale * code + minimum
};

enum class Scale : int32_t {
    half = 0,       // float16, where that is exact
    single = 1,     // float32
    two_level = 2,  // float16 for `super` groups, times int8 for each: GGUF's K blocks
};

// The shape of a matrix: what `layout.py` packs by. All members are set by the caller.
struct Shape {
    int64_t rows;
    int64_t columns;
    int32_t bits;   // 4, 6 or 8: bits of a stored code
    int32_t unit;   // 16 or 32 columns, which share a scale of the activations
    int32_t group;  // units that share a scale of the weights
    Zero zero;
    Scale scale;
    int32_t super;  // groups that share the upper scale of two levels; else 1
};

// Where the parts of a panel begin, in bytes. The parts of a group's scale stand before all codes, so that codes stay aligned to lines.
struct Layout {
    size_t panels, units, groups, supers;
    size_t scales, minimums, zeros, codes;  // offsets; those of parts that are absent equal the next one's
    size_t upper_scales, upper_minimums;    // of two levels
    size_t unit_bytes, panel_bytes;

    Layout() = default;

    explicit Layout(const Shape& shape) {
        const auto columns = static_cast<size_t>(shape.columns), unit = static_cast<size_t>(shape.unit);
        const bool two = shape.scale == Scale::two_level, minimum = shape.zero == Zero::minimum;
        panels = (static_cast<size_t>(shape.rows) + kRows - 1) / kRows;
        units = (columns + unit - 1) / unit;
        groups = (units + shape.group - 1) / shape.group;
        supers = two ? (groups + shape.super - 1) / shape.super : 0;
        const size_t width = two ? 1 : shape.scale == Scale::half ? 2 : 4;
        scales = 0;
        minimums = scales + groups * kRows * width;
        zeros = minimums + (minimum ? groups * kRows * width : 0);
        upper_scales = zeros + (shape.zero == Zero::stored ? groups * kRows : 0);
        upper_minimums = upper_scales + supers * kRows * 2;
        codes = (upper_minimums + (minimum ? supers * kRows * 2 : 0) + kLine - 1) / kLine * kLine;
        unit_bytes = kRows * unit * shape.bits / 8;
        panel_bytes = codes + units * unit_bytes;
    }
};

struct Matrix {
    Shape shape;
    Layout layout;
    const uint8_t* data;  // layout.panels * layout.panel_bytes
    const float* bias;    // [rows], or null
};

// What activations are rounded to: int8 with a scale for every unit, or bfloat16.
enum class Precision : int32_t { int8 = 0, bf16 = 1 };

constexpr size_t kPrecisions = 2;

// Rows of rounded activations.
//
// Rows that are multiplied at once are a tile: of a number of rows that is a power of two, the largest of the instruction set first (`tile_of`).
// What a product reads of a tile's rows lies side by side, for each unit what `forms.h` says.
struct Activations {
    size_t rows;
    size_t units;
    size_t groups;
    size_t row_bytes;  // a row's share of its tile
    uint8_t* tiles;    // [rows * row_bytes]
    float* sums;       // [rows * groups], of each tile [groups, rows]: sums of rounded activations; null where no code's zero varies
};

// The bytes of a unit of a row of activations in a tile.
constexpr size_t unit_share(Precision precision, size_t unit) {
    return precision == Precision::bf16 ? unit * sizeof(uint16_t) : unit + sizeof(float) + sizeof(int32_t);
}

struct Tile {
    size_t first, rows;
};

// The tile of a row.
LLMASOS_INLINE Tile tile_of(size_t row, size_t rows, size_t most) {
    size_t first = 0;
    for (size_t size = most;; size /= 2) {
        const size_t whole = (rows - first) / size * size;
        if (row < first + whole) return {row - (row - first) % size, size};
        first += whole;
    }
}

constexpr bool valid(const Shape& shape) {
    return shape.rows > 0 && shape.columns > 0 && shape.rows <= (int64_t{1} << 31) && shape.columns <= (int64_t{1} << 31) &&
           (shape.bits == 4 || shape.bits == 6 || shape.bits == 8) && (shape.unit == 16 || shape.unit == 32) && shape.group > 0 &&
           shape.super > 0 && shape.zero >= Zero::fixed && shape.zero <= Zero::minimum && shape.scale >= Scale::half &&
           shape.scale <= Scale::two_level;
}

inline bool varies(const Shape& shape) { return shape.zero != Zero::fixed; }

// float16 -> float32, exact, in integer arithmetic that is the same on every processor.
inline float from_half(uint16_t half) {
    const uint32_t sign = static_cast<uint32_t>(half & 0x8000) << 16;
    const uint32_t exponent = half >> 10 & 31, fraction = half & 1023;
    uint32_t bits;
    if (exponent == 31) {
        bits = sign | 0x7f800000 | fraction << 13;
    } else if (exponent) {
        bits = sign | (exponent + 112) << 23 | fraction << 13;
    } else {
        const float value = static_cast<float>(fraction) * 0x1p-24F;  // zero, or below the normal numbers
        return sign ? -value : value;
    }
    return __builtin_bit_cast(float, bits);
}

}  // namespace llmasos
