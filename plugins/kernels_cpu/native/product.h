// The product of a packed matrix and rows of activations, for one instruction set.
//
// Each instruction set is a type `Isa` with sixteen lanes of integers and floats. The float operations of a row are these, in this order,
// whatever the number of activations or the threads, so that every way gives the same bits. The sum of a unit's products is the form's of the
// activations (`forms.h`): in int8 it is the same by every instruction set.
//
//     for each group:  sum = 0
//         for each unit:  the unit's products are added to sum
//         result = fma(scale, sum, result)
//         zeros vary:  result = fma(minimum, activation sum, result), with the minimum -scale * zero where zeros are stored
//     result + bias
//
// Files of instruction sets are compiled with their own flags. So nothing in here may be an inline function that another file could take
// instead of its own: all is a template over `Isa`.
#pragma once

#include "attention.h"
#include "drawing.h"
#include "forms.h"

namespace llmasos {

// What a row of activations is before it is rounded: the row, or `row + addend`, or the RMS norm of that:
//
//     square = fma(x, x, square) for each column, in a sum for each column % 16;  factor = 1 / sqrt(total / columns + epsilon)
//     normed = x * factor * gamma
struct Rows {
    const float* x;
    const float* addend;  // null: none
    const float* gamma;   // [columns]; null: no norm
    float epsilon;
    float* sum;           // where `row + addend` is kept; null: nowhere
};

template <class Form>
struct Product {
    using Isa = typename Form::Isa;
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

    // Results of one panel for a tile of M rows of activations. `one`: a group is one unit.
    template <int bits, int unit, int M, bool one>
    static void panel(const Matrix& matrix, const Activations& input, size_t first, size_t index, float* output, size_t stride) {
        const Layout& layout = matrix.layout;
        const uint8_t* data = matrix.data + index * layout.panel_bytes;
        const uint8_t* codes = data + layout.codes;
        const size_t units = layout.units, groups = layout.groups, in_group = matrix.shape.group;
        constexpr size_t unit_bytes = kRows * unit * bits / 8;
        const uint8_t* tile = input.tiles + first * input.row_bytes;
        const float* group_sums = input.sums ? input.sums + first * groups : nullptr;
        alignas(64) float weight_scales[kChunk * kRows], weight_shifts[kChunk * kRows];
        const typename Form::template Ready<bits, unit, M> form(matrix.shape.zero == Zero::fixed);
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
                    form.add(codes, tile, sums);
                    codes += unit_bytes;
                    tile += M * unit_share(Form::precision, unit);
                } while (++at < end);
                const Floats scale = Isa::some(weight_scales + group * kRows, kRows);
                for (int m = 0; m < M; ++m) results[m] = Isa::fma(scale, sums[m], results[m]);
                if (group_sums) {
                    const Floats shift = Isa::some(weight_shifts + group * kRows, kRows);
                    for (int m = 0; m < M; ++m) results[m] = Isa::fma(shift, Isa::all(group_sums[m]), results[m]);
                    group_sums += M;
                }
            }
        }
        const size_t rows = matrix.shape.rows, row = index * kRows, lanes = rows - row < kRows ? rows - row : kRows;
        for (int m = 0; m < M; ++m) {
            if (matrix.bias) results[m] = Isa::add(results[m], Isa::some(matrix.bias + row, lanes));
            Isa::store(output + m * stride, results[m], lanes);
        }
    }

    // Results of one panel for the tiles of M rows that begin at `first`, and then for smaller ones.
    template <int bits, int unit, bool one, int M = Form::most>
    static void tiles(const Matrix& matrix, const Activations& input, size_t index, size_t first, size_t last, float* output, size_t stride) {
        for (; first + M <= last; first += M, output += M * stride) panel<bits, unit, M, one>(matrix, input, first, index, output, stride);
        if constexpr (M > Form::least) tiles<bits, unit, one, M / 2>(matrix, input, index, first, last, output, stride);
    }

    template <int bits, int unit>
    static void any_group(const Matrix& matrix, const Activations& input, size_t index, size_t first, size_t last, float* output, size_t stride) {
        if (matrix.shape.group == 1) return tiles<bits, unit, true>(matrix, input, index, first, last, output, stride);
        tiles<bits, unit, false>(matrix, input, index, first, last, output, stride);
    }

    template <int unit>
    static void any_bits(const Matrix& matrix, const Activations& input, size_t index, size_t first, size_t last, float* output, size_t stride) {
        if (matrix.shape.bits == 4) return any_group<4, unit>(matrix, input, index, first, last, output, stride);
        if (matrix.shape.bits == 6) return any_group<6, unit>(matrix, input, index, first, last, output, stride);
        any_group<8, unit>(matrix, input, index, first, last, output, stride);
    }

    // The panel `index` of the matrix times the activations from `first` to `last`, which begin and end tiles: output [last - first, stride].
    static void run(const Matrix& matrix, const Activations& input, size_t index, size_t first, size_t last, float* output, size_t stride) {
        if (matrix.shape.unit == 32) return any_bits<32>(matrix, input, index, first, last, output, stride);
        any_bits<16>(matrix, input, index, first, last, output, stride);
    }

    // The factor of a row's RMS norm; 1 where there is none. Keeps the sum with the addend.
    static float norm(const Rows& rows, size_t index, size_t columns) {
        const float *x = rows.x + index * columns, *addend = rows.addend ? rows.addend + index * columns : nullptr;
        float* const sum = rows.sum ? rows.sum + index * columns : nullptr;
        Floats squares = Isa::zero();
        for (size_t at = 0; at < columns; at += kRows) {
            const size_t lanes = columns - at < kRows ? columns - at : kRows;
            Floats values = Isa::some(x + at, lanes);
            if (addend) values = Isa::add(values, Isa::some(addend + at, lanes));
            if (sum) Isa::store(sum + at, values, lanes);
            squares = Isa::fma(values, values, squares);
        }
        if (!rows.gamma) return 1.0F;
        return 1.0F / __builtin_sqrtf(Lanes<Isa>::total(squares) / static_cast<float>(columns) + rows.epsilon);
    }

    // Round one row of activations.
    static void round(const Matrix& matrix, const Rows& rows, size_t index, Activations& input) {
        const Layout& layout = matrix.layout;
        const size_t unit = matrix.shape.unit, columns = matrix.shape.columns;
        const float *x = rows.x + index * columns, *addend = rows.addend ? rows.addend + index * columns : nullptr;
        const bool plain = !rows.gamma && !addend;
        const float factor = plain ? 1.0F : norm(rows, index, columns);
        const Tile tile = tile_of(index, input.rows, Form::most);
        const size_t place = index - tile.first;
        uint8_t* to = input.tiles + tile.first * input.row_bytes;
        float* group_sums = input.sums ? input.sums + tile.first * layout.groups + place : nullptr;
        float group_sum = 0;
        for (size_t at = 0; at < layout.units; ++at, to += tile.rows * unit_share(Form::precision, unit)) {
            const size_t first = at * unit, left = columns - first, count = left < unit ? left : unit;
            alignas(64) float changed[32];
            if (!plain)
                for (size_t part = 0; part < count; part += kRows) {
                    const size_t lanes = count - part < kRows ? count - part : kRows;
                    Floats values = Isa::some(x + first + part, lanes);
                    if (addend) values = Isa::add(values, Isa::some(addend + first + part, lanes));
                    if (rows.gamma) values = Isa::multiply(Isa::multiply(values, Isa::all(factor)), Isa::some(rows.gamma + first + part, lanes));
                    Isa::store(changed + part, values, lanes);
                }
            group_sum = Form::put(matrix.shape, plain ? x + first : changed, count, to, tile.rows, place, group_sum);
            if (group_sums) {
                if ((at + 1) % matrix.shape.group == 0 || at + 1 == layout.units) {
                    *group_sums = group_sum;
                    group_sums += tile.rows;
                    group_sum = 0;
                }
            }
        }
    }

};

// The products of one form of activations.
struct Products {
    void (*run)(const Matrix&, const Activations&, size_t index, size_t first, size_t last, float* output, size_t stride);
    void (*round)(const Matrix&, const Rows&, size_t index, Activations&);
};

template <class Form>
constexpr Products products_of = {Product<Form>::run, Product<Form>::round};

// What `kernels.cpp` knows of an instruction set.
struct Kernel {
    const char* name;
    const Products* products[kPrecisions];  // by `Precision`
    void (*gate)(const float*, const float*, float*);
    void (*prepare)(const Attention&, size_t token, bool keeps);
    void (*attend)(const Attention&, size_t first, size_t count, size_t kv_head, float* memory);
    float (*maxima)(const float* const* blocks, size_t count, float* maxima, float* most);
    float (*weigh)(const float* const* blocks, size_t count, float factor, float* maxima, float* most, float* bases, float* sums);
    void (*weights)(const float* logits, size_t count, float base, float factor, float* weights);
    float (*mass)(const float* values, const float* weights, size_t count, float least);
    float (*number)(const float* values, size_t count, float least);
    size_t (*find)(const float* const* blocks, size_t count, const float* most, const float* maxima, float least, uint32_t* ids, float* logits);
};

template <class Isa>
constexpr Kernel kernel_of(const char* name, const Products* int8 = &products_of<Int8<Isa>>, const Products* bf16 = &products_of<Bf16<Isa>>) {
    using Draws = Weigh<Isa>;
    return Kernel{name,           {int8, bf16},  Lanes<Isa>::gate, Attend<Isa>::prepare, Attend<Isa>::run, Draws::maxima,
                  Draws::weigh,   Draws::weights, Draws::mass,      Draws::number,        Draws::find};
}

}  // namespace llmasos
