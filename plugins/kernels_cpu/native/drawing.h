// Draws of tokens from rows of logits.
#pragma once

#include "lanes.h"

namespace llmasos {

constexpr size_t kBlock = 256;                   // logits whose weights are summed at once, and of every eight of which the maximum is kept
constexpr size_t kMaxima = kBlock / 8;           // of a block
constexpr size_t kHalf = kBlock / 2;             // has a maximum for each of sixteen lanes
constexpr float kLeastWeight = 0x1p-126F;        // what weighs less, also nothing at all, is given this weight
constexpr float kLeastLogit = -0x1.fffffep127F;  // of those that are not minus infinity

// Rows are blocks of 256 logits each, the last one padded with minus infinity.
LLMASOS_INLINE size_t blocks_of(size_t vocab) { return (vocab + kBlock - 1) / kBlock; }

template <class Isa>
struct Weigh {
    using Floats = typename Isa::Floats;

    // The largest logit; NaN where one is NaN or infinity. `maxima` [count, 32], `most` [count].
    static float maxima(const float* const* blocks, size_t count, float* maxima, float* most) {
        const Floats infinity = Isa::all(__builtin_inff());
        Floats wrong = Isa::zero();
        float top = -__builtin_inff();
        for (size_t block = 0; block < count; ++block) {
            most[block] = most_of(blocks[block], maxima + block * kMaxima, [&](Floats values) __attribute__((always_inline)) {
                wrong = Isa::where_below(values, infinity, wrong, Isa::all(1.0F));
            });
            top = most[block] > top ? most[block] : top;
        }
        return Lanes<Isa>::most(wrong) > 0 ? __builtin_nanf("") : top;
    }

    // As `maxima`, but NaN in a row is NaN in `sums` [count]: of each block the weights, 2 to the power of (logit - base) * factor, where its base
    // is the largest logit up to its end: `bases` [count]. So one pass over the memory does for both.
    static float weigh(const float* const* blocks, size_t count, float factor, float* maxima, float* most, float* bases, float* sums) {
        float base = kLeastLogit, top = -__builtin_inff();
        for (size_t block = 0; block < count; ++block) {
            // By the base of the blocks before it: few blocks raise it, and those are done again.
            const auto pass = [&]() __attribute__((always_inline)) {
                const Floats all_base = Isa::all(base), all_factor = Isa::all(factor);
                Floats sum = Isa::zero();
                most[block] = most_of(blocks[block], maxima + block * kMaxima,
                                      [&](Floats values) __attribute__((always_inline)) { sum = Isa::add(sum, weight(values, all_base, all_factor)); });
                sums[block] = Lanes<Isa>::total(sum);
            };
            pass();
            if (__builtin_expect(most[block] >= base, 0)) {
                top = base = most[block];
                pass();
            }
            bases[block] = base;
        }
        return top;
    }

    // The weights of `count` logits, a multiple of sixteen.
    static void weights(const float* logits, size_t count, float base, float factor, float* weights) {
        const Floats all_base = Isa::all(base), all_factor = Isa::all(factor);
        for (size_t at = 0; at < count; at += kRows) Isa::store(weights + at, weight(Isa::some(logits + at, kRows), all_base, all_factor), kRows);
    }

    // The sum of those of `count` weights, a multiple of sixteen, whose `values` are at least `least`.
    static float mass(const float* values, const float* weights, size_t count, float least) {
        const Floats all_least = Isa::all(least);
        Floats sum = Isa::zero();
        for (size_t at = 0; at < count; at += kRows)
            sum = Isa::add(sum, Isa::where_below(Isa::some(values + at, kRows), all_least, Isa::zero(), Isa::some(weights + at, kRows)));
        return Lanes<Isa>::total(sum);
    }

    // How many of `count` values, a multiple of sixteen, are at least `least`; exact up to 16 million.
    static float number(const float* values, size_t count, float least) {
        const Floats all_least = Isa::all(least), one = Isa::all(1.0F);
        Floats sum = Isa::zero();
        for (size_t at = 0; at < count; at += kRows) sum = Isa::add(sum, Isa::where_below(Isa::some(values + at, kRows), all_least, Isa::zero(), one));
        return Lanes<Isa>::total(sum);
    }

    // The ids of all logits of at least `least`, in order, with their logits; returns how many they are. By the maxima most logits are not read.
    // Of `ids` and `logits` [count, 256], what is behind those is written too.
    static size_t find(const float* const* blocks, size_t count, const float* most, const float* maxima, float least, uint32_t* ids, float* logits) {
        const Floats all_least = Isa::all(least);
        size_t found = 0;
        for (size_t half = 0; half < 2 * count; ++half) {
            if (!(most[half / 2] >= least)) continue;
            const uint32_t lanes = Isa::at_least(Isa::some(maxima + half * kRows, kRows), all_least);
            if (lanes == 0) continue;
            const size_t first = half % 2 * kHalf;
            const float* const of_half = blocks[half / 2] + first;
            const auto id = static_cast<uint32_t>(half / 2 * kBlock + first);
            if ((lanes & (lanes - 1)) == 0) {
                for (size_t at = static_cast<size_t>(__builtin_ctz(lanes)); at < kHalf; at += kRows) {
                    if (!(of_half[at] >= least)) continue;
                    ids[found] = id + static_cast<uint32_t>(at);
                    logits[found++] = of_half[at];
                }
                continue;
            }
            for (size_t part = 0; part < kHalf; part += kRows) {
                const Floats values = Isa::some(of_half + part, kRows);
                found += Isa::pack(values, Isa::at_least(values, all_least), id + static_cast<uint32_t>(part), ids + found, logits + found);
            }
        }
        return found;
    }

private:
    // The largest of a block. `maxima` [32]: of every sixteenth logit of each half, so of eight.
    template <class Use>
    static float most_of(const float* logits, float* maxima, Use use) {
        Floats most = Isa::all(-__builtin_inff());
        for (size_t half = 0; half < 2; ++half) {
            Floats found = Isa::all(-__builtin_inff());
            for (size_t at = half * kHalf; at < (half + 1) * kHalf; at += kRows) {
                Isa::template prefetch<kRows * sizeof(float)>(reinterpret_cast<const uint8_t*>(logits + at));
                const Floats values = Isa::some(logits + at, kRows);
                found = Isa::greater(values, found);
                use(values);
            }
            Isa::store(maxima + half * kRows, found, kRows);
            most = Isa::greater(found, most);
        }
        return Lanes<Isa>::most(most);
    }

    // 2 to the power of (logit - base) * factor, for logits up to the base, within 3 units of the last place; NaN stays NaN. Quicker than
    // `Lanes::exp`: what is left of x is exact, and the number that rounds x leaves its exponent in the lowest bits.
    static Floats weight(Floats logits, Floats base, Floats factor) {
        const Floats rounds = Isa::all(0x1.8p23F + 127.0F);
        const Floats x = Isa::greater(Isa::all(-126.0F), Isa::multiply(Isa::subtract(logits, base), factor));
        const Floats whole = Isa::add(x, rounds), rest = Isa::subtract(x, Isa::subtract(whole, rounds));
        Floats series = Isa::all(1.326472731e-3F);
        constexpr float terms[] = {9.671512991e-3F, 5.550733581e-2F, 2.402224243e-1F, 6.931470037e-1F, 1.0F};
        for (const float term : terms) series = Isa::fma(series, rest, Isa::all(term));
        return Isa::multiply(series, Isa::as_exponent(whole));
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
