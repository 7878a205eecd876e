// Functions of sixteen floats at once, over an instruction set's lanes. As in `product.h` every instruction set does the same operations in the
// same order, so all give the same bits.
#pragma once

#include "matrix.h"

namespace llmasos {

template <class Isa>
struct Lanes {
    using Floats = typename Isa::Floats;

    // e to the power of x, for x <= 0, within 2 units of the last place; 0 below -87. NaN stays NaN.
    static Floats exp(Floats x) {
        const Floats least = Isa::all(-87.0F);
        const Floats bounded = Isa::where_below(x, least, least, x);
        const auto whole = Isa::to_ints(Isa::multiply(bounded, Isa::all(1.44269504F)));
        const Floats power = Isa::to_float(whole);
        // What is left of x, in two steps: the upper part of ln 2 has few bits, so that its multiples are exact.
        Floats rest = Isa::fma(power, Isa::all(-0.693359375F), bounded);
        rest = Isa::fma(power, Isa::all(2.12194440e-4F), rest);
        Floats series = Isa::all(1.9875691500e-4F);
        constexpr float terms[] = {1.3981999507e-3F, 8.3334519073e-3F, 4.1665795894e-2F, 1.6666665459e-1F, 5.0000001201e-1F};
        for (const float term : terms) series = Isa::fma(series, rest, Isa::all(term));
        series = Isa::add(Isa::fma(series, Isa::multiply(rest, rest), rest), Isa::all(1.0F));
        return Isa::where_below(x, least, Isa::zero(), Isa::multiply(series, Isa::power_of_two(whole)));
    }

    static Floats magnitude(Floats x) { return Isa::where_below(x, Isa::zero(), Isa::subtract(Isa::zero(), x), x); }

    // x / (1 + exp(-x))
    static Floats silu(Floats x) {
        const Floats small = exp(Isa::subtract(Isa::zero(), magnitude(x))), one = Isa::all(1.0F);
        return Isa::divide(Isa::multiply(x, Isa::where_below(x, Isa::zero(), small, one)), Isa::add(one, small));
    }

    // to = silu(gate) * up
    static void gate(const float* gates, const float* ups, float* to) {
        Isa::store(to, Isa::multiply(silu(Isa::some(gates, kRows)), Isa::some(ups, kRows)), kRows);
    }

    static Floats tanh(Floats x) {
        const Floats size = magnitude(x), small = exp(Isa::multiply(size, Isa::all(-2.0F))), one = Isa::all(1.0F);
        const Floats found = Isa::divide(Isa::subtract(one, small), Isa::add(one, small));
        return Isa::where_below(x, Isa::zero(), Isa::subtract(Isa::zero(), found), found);
    }

    // The sum of all lanes: of each and the one eight further, of each of those eight and the one four further, and so on.
    static float total(Floats x) {
        return folded(x, [](auto a, auto b) __attribute__((always_inline)) { return a + b; });
    }

    static float most(Floats x) {
        return folded(x, [](auto a, auto b) __attribute__((always_inline)) { return a > b ? a : b; });
    }

    // Writes the lanes of a mask one after another, and their ids, of which `id` is the first lane's; returns how many they are. For instruction
    // sets that have no faster way.
    static size_t pack(const Floats& values, uint32_t lanes, uint32_t id, uint32_t* ids, float* to) {
        if (lanes == 0) return 0;
        float each[kRows];
        Isa::store(each, values, kRows);
        size_t found = 0;
        for (; lanes; lanes &= lanes - 1) {
            const auto lane = static_cast<uint32_t>(__builtin_ctz(lanes));
            ids[found] = id + lane;
            to[found++] = each[lane];
        }
        return found;
    }

private:
    using Four = float __attribute__((vector_size(16)));

    // The lanes halved until one is left.
    template <class Fold>
    static float folded(Floats x, Fold fold) {
        alignas(64) float lanes[kRows];
        Isa::store(lanes, x, kRows);
        Four quarters[4];
        __builtin_memcpy(quarters, lanes, sizeof lanes);
        const Four four = fold(fold(quarters[0], quarters[2]), fold(quarters[1], quarters[3]));
        return fold(fold(four[0], four[2]), fold(four[1], four[3]));
    }
};

}  // namespace llmasos
