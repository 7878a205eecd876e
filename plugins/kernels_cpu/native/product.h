// The product of a packed matrix and rows of activations, for one instruction set.
//
// Each instruction set is a type `Isa` with sixteen lanes of integers and floats. Integer sums are exact; the float operations of a row are
// these, in this order, whatever the instruction set, the number of activations or the threads, so that every way gives the same bits:
//
//     for each group:  sum = 0
//         for each unit:  sum = fma(float(offset + products), activation scale, sum)
//         result = fma(scale, sum, result)
//         zeros vary:  result = fma(minimum, activation sum, result), with the minimum -scale * zero where zeros are stored
//     result + bias
//
// Files of instruction sets are compiled with their own flags. So nothing in here may be an inline function that another file could take
// instead of its own: all is a template over `Isa`.
#pragma once

#include "matrix.h"

namespace llmasos {

template <class Isa>
struct Product {
    using Ints = typename Isa::Ints;
    using Floats = typename Isa::Floats;

    // Groups whose factors are unpacked at once, so that the loop over units has neither conversions nor branches on their form.
    static constexpr size_t kChunk = 64;

    // Scales or minimums of `count` groups from `first` on as float32, sixteen each.
    static void factors(const Matrix& matrix, const uint8_t* panel, size_t part, size_t upper, size_t first, size_t count, float* to) {
        switch (matrix.shape.scale) {
            case Scale::half:
                for (size_t at = 0; at < count; ++at) Isa::store(to + at * kRows, Isa::halves(panel + part + (first + at) * kRows * 2), kRows);
                return;
            case Scale::single:
                for (size_t at = 0; at < count; ++at) Isa::store(to + at * kRows, Isa::singles(panel + part + (first + at) * kRows * 4), kRows);
                return;
            case Scale::two_level:
                for (size_t at = 0; at < count; ++at) {
                    const Floats high = Isa::halves(panel + upper + (first + at) / matrix.shape.super * kRows * 2);
                    Isa::store(to + at * kRows, Isa::multiply(Isa::bytes(panel + part + (first + at) * kRows), high), kRows);
                }
        }
    }

    // What a weight is where its code is 0: the minimums, or minus the scales times the stored zeros.
    static void shifts(const Matrix& matrix, const uint8_t* panel, size_t first, size_t count, const float* scales, float* to) {
        const Layout& layout = matrix.layout;
        if (matrix.shape.zero == Zero::minimum) return factors(matrix, panel, layout.minimums, layout.upper_minimums, first, count, to);
        for (size_t at = 0; at < count; ++at) {
            const Floats zeros = Isa::negative_codes(panel + layout.zeros + (first + at) * kRows);
            Isa::store(to + at * kRows, Isa::multiply(Isa::some(scales + at * kRows, kRows), zeros), kRows);
        }
    }

    // Results of one panel for M rows of activations from `first` on. `one`: a group is one unit.
    template <int bits, int unit, int M, bool one>
    static void panel(const Matrix& matrix, const Activations& input, size_t first, size_t index, float* output) {
        const Layout& layout = matrix.layout;
        const uint8_t* data = matrix.data + index * layout.panel_bytes;
        const uint8_t* codes = data + layout.codes;
        const size_t units = layout.units, groups = layout.groups, width = units * unit, in_group = matrix.shape.group;
        constexpr size_t unit_bytes = kRows * unit * bits / 8;
        const int8_t* values = input.codes + first * width;
        const float* scales = input.scales + first * units;
        const int32_t* offsets = input.offsets + first * units;
        const float* group_sums = input.sums ? input.sums + first * groups : nullptr;
        alignas(64) float weight_scales[kChunk * kRows], weight_shifts[kChunk * kRows];
        Floats results[M];
        for (int m = 0; m < M; ++m) results[m] = Isa::zero();
        size_t at = 0;
        for (size_t begin = 0; begin < groups; begin += kChunk) {
            const size_t count = groups - begin < kChunk ? groups - begin : kChunk;
            factors(matrix, data, layout.scales, layout.upper_scales, begin, count, weight_scales);
            if (group_sums) shifts(matrix, data, begin, count, weight_scales, weight_shifts);
            for (size_t group = 0; group < count; ++group) {
                Floats sums[M];
                for (int m = 0; m < M; ++m) sums[m] = Isa::zero();
                const size_t end = one ? at + 1 : units - at < in_group ? units : at + in_group;
                do {
                    Isa::template prefetch<unit_bytes>(codes);
                    Ints products[M];
                    for (int m = 0; m < M; ++m) products[m] = Isa::all(offsets[m * units + at]);
                    Isa::template dot<bits, unit, M>(codes, values + at * unit, width, products);
                    for (int m = 0; m < M; ++m) sums[m] = Isa::fma(Isa::to_float(products[m]), Isa::all(scales[m * units + at]), sums[m]);
                    codes += unit_bytes;
                } while (++at < end);
                const Floats scale = Isa::some(weight_scales + group * kRows, kRows);
                for (int m = 0; m < M; ++m) results[m] = Isa::fma(scale, sums[m], results[m]);
                if (group_sums) {
                    const Floats shift = Isa::some(weight_shifts + group * kRows, kRows);
                    for (int m = 0; m < M; ++m) results[m] = Isa::fma(shift, Isa::all(group_sums[m * groups + begin + group]), results[m]);
                }
            }
        }
        const size_t rows = matrix.shape.rows, row = index * kRows, lanes = rows - row < kRows ? rows - row : kRows;
        for (int m = 0; m < M; ++m) {
            if (matrix.bias) results[m] = Isa::add(results[m], Isa::some(matrix.bias + row, lanes));
            Isa::store(output + (first + m) * rows + row, results[m], lanes);
        }
    }

    // Results of one panel for all rows of activations; with `whole_only` for multiples of `most` of them.
    template <int bits, int unit, bool one>
    static void rows(const Matrix& matrix, const Activations& input, size_t index, float* output) {
        size_t at = 0;
        for (; at + Isa::most <= input.rows; at += Isa::most) panel<bits, unit, Isa::most, one>(matrix, input, at, index, output);
        if constexpr (!Isa::whole_only) {
            if constexpr (Isa::most > 4)
                for (; at + 4 <= input.rows; at += 4) panel<bits, unit, 4, one>(matrix, input, at, index, output);
            for (; at < input.rows; ++at) panel<bits, unit, 1, one>(matrix, input, at, index, output);
        }
    }

    template <int bits, int unit>
    static void any_group(const Matrix& matrix, const Activations& input, size_t index, float* output) {
        if (matrix.shape.group == 1) return rows<bits, unit, true>(matrix, input, index, output);
        rows<bits, unit, false>(matrix, input, index, output);
    }

    template <int unit>
    static void any_bits(const Matrix& matrix, const Activations& input, size_t index, float* output) {
        if (matrix.shape.bits == 4) return any_group<4, unit>(matrix, input, index, output);
        if (matrix.shape.bits == 6) return any_group<6, unit>(matrix, input, index, output);
        any_group<8, unit>(matrix, input, index, output);
    }

    static void run(const Matrix& matrix, const Activations& input, size_t index, float* output) {
        if (matrix.shape.unit == 32) return any_bits<32>(matrix, input, index, output);
        any_bits<16>(matrix, input, index, output);
    }

    // Round one row of activations, float32 [columns]. A unit with a value that is no finite number gets the scale NaN; one whose values are
    // all below 1e-30 counts as zero.
    static void round(const Matrix& matrix, const float* row, size_t index, Activations& input) {
        const Layout& layout = matrix.layout;
        const size_t unit = matrix.shape.unit, columns = matrix.shape.columns;
        const int32_t fixed = matrix.shape.zero == Zero::fixed ? 1 << (matrix.shape.bits - 1) : 0;
        // An instruction set without products of unsigned by signed bytes multiplies 8-bit codes less 128.
        const int32_t zero = fixed - (matrix.shape.bits == 8 && Isa::is_signed ? 128 : 0);
        int8_t* codes = input.codes + index * layout.units * unit;
        float group_sum = 0;
        for (size_t at = 0; at < layout.units; ++at) {
            const size_t left = columns - at * unit, count = left < unit ? left : unit;
            float scale;
            const int32_t sum = Isa::round(row + at * unit, count, unit, codes + at * unit, &scale);
            input.scales[index * layout.units + at] = scale;
            input.offsets[index * layout.units + at] = -zero * sum;
            if (input.sums) {
                group_sum = __builtin_fmaf(static_cast<float>(sum), scale, group_sum);
                if ((at + 1) % matrix.shape.group == 0 || at + 1 == layout.units) {
                    input.sums[index * layout.groups + at / matrix.shape.group] = group_sum;
                    group_sum = 0;
                }
            }
        }
    }
};

// What `kernels.cpp` knows of an instruction set.
struct Kernel {
    const char* name;
    void (*run)(const Matrix&, const Activations&, size_t, float*);
    void (*round)(const Matrix&, const float*, size_t, Activations&);
};

template <class Isa>
constexpr Kernel kernel_of(const char* name) {
    return Kernel{name, Product<Isa>::run, Product<Isa>::round};
}

}  // namespace llmasos
