// Draws of tokens from rows of logits.
#pragma once

#include "lanes.h"

namespace llmasos {

constexpr size_t kBlock = 256;  // logits whose sixteen maxima, of every sixteenth of them, are kept, and whose weights are summed at once

// Logits are padded with minus infinity to whole blocks, and weights with 0.
LLMASOS_INLINE size_t blocks_of(size_t vocab) { return (vocab + kBlock - 1) / kBlock; }

template <class Isa>
struct Weigh {
    using Floats = typename Isa::Floats;

    // The largest logit; NaN where one is NaN or infinity. `maxima` [blocks, 16], `most` [blocks].
    static float maxima(const float* logits, size_t vocab, float* maxima, float* most) {
        const float infinity = __builtin_inff();
        Floats wrong = Isa::zero();
        float top = -infinity;
        for (size_t block = 0; block < blocks_of(vocab); ++block) {
            Floats found = Isa::all(-infinity);
            each(logits, vocab, block, -infinity, [&](size_t, Floats values) __attribute__((always_inline)) {
                found = Isa::greater(values, found);
                wrong = Isa::where_below(values, Isa::all(infinity), wrong, Isa::all(1.0F));
            });
            Isa::store(maxima + block * kRows, found, kRows);
            most[block] = Lanes<Isa>::most(found);
            top = most[block] > top ? most[block] : top;
        }
        return Lanes<Isa>::most(wrong) > 0 ? __builtin_nanf("") : top;
    }

    // weights [blocks, 256] = 2 to the power of (logits - top) * factor, and the `sums` [blocks] of each block.
    static void weights(const float* logits, size_t vocab, float top, float factor, float* weights, float* sums) {
        for (size_t block = 0; block < blocks_of(vocab); ++block) {
            Floats sum = Isa::zero();
            each(logits, vocab, block, -__builtin_inff(), [&](size_t at, Floats values) __attribute__((always_inline)) {
                const Floats found = power(Isa::multiply(Isa::subtract(values, Isa::all(top)), Isa::all(factor)));
                Isa::store(weights + at, found, kRows);
                sum = Isa::add(sum, found);
            });
            sums[block] = Lanes<Isa>::total(sum);
        }
    }

private:
    // 2 to the power of x, for x <= 0, within 2 units of the last place; 0 below -126. Quicker than `Lanes::exp`: what is left of x is exact.
    static Floats power(Floats x) {
        const Floats least = Isa::all(-126.0F);
        const Floats bounded = Isa::greater(x, least);
        const auto whole = Isa::to_ints(bounded);
        const Floats rest = Isa::subtract(bounded, Isa::to_float(whole));
        Floats series = Isa::all(1.535336188e-4F);
        constexpr float terms[] = {1.339887440e-3F, 9.618437358e-3F, 5.550332471e-2F, 2.402264791e-1F, 6.931472029e-1F, 1.0F};
        for (const float term : terms) series = Isa::fma(series, rest, Isa::all(term));
        return Isa::where_below(x, least, Isa::zero(), Isa::multiply(series, Isa::power_of_two(whole)));
    }

    // Calls use(index, sixteen logits) for all of a block.
    template <class Use>
    static void each(const float* logits, size_t vocab, size_t block, float padding, Use use) {
        const size_t first = block * kBlock;
        if (first + kBlock <= vocab) {
            for (size_t at = first; at < first + kBlock; at += kRows) use(at, Isa::some(logits + at, kRows));
            return;
        }
        alignas(64) float rest[kBlock];
        for (size_t at = 0; at < kBlock; ++at) rest[at] = first + at < vocab ? logits[first + at] : padding;
        for (size_t at = 0; at < kBlock; at += kRows) use(first + at, Isa::some(rest + at, kRows));
    }
};

// How a token is drawn: see `Draw` of llmasos_hookspecs.
struct Choice {
    double temperature, top_p, min_p, point;
    int64_t top_k;
    int64_t biased, seen, generated;               // how many ids
    const int64_t *biased_ids, *seen_ids, *generated_ids;
    const float *biases, *counts;                  // of the biased, and of the generated ones
    float repetition, presence, frequency;         // penalties
};

}  // namespace llmasos
