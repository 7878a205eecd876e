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

    // weights [blocks, 256] = exp((logits - top) * factor), and the `sums` [blocks] of each block.
    static void weights(const float* logits, size_t vocab, float top, float factor, float* weights, float* sums) {
        for (size_t block = 0; block < blocks_of(vocab); ++block) {
            Floats sum = Isa::zero();
            each(logits, vocab, block, -__builtin_inff(), [&](size_t at, Floats values) __attribute__((always_inline)) {
                const Floats found = Lanes<Isa>::exp(Isa::multiply(Isa::subtract(values, Isa::all(top)), Isa::all(factor)));
                Isa::store(weights + at, found, kRows);
                sum = Isa::add(sum, found);
            });
            sums[block] = Lanes<Isa>::total(sum);
        }
    }

private:
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
};

}  // namespace llmasos
