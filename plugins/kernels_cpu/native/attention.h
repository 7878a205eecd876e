// Attention of new tokens over the keys and values of their sequences, for one instruction set.
//
// The float operations of one head of one token are these, in this order, whatever the instruction set, the other tokens and the threads, so
// that every way gives the same bits:
//
//     query = rotated query * scale
//     score of token t:  part[e % 16] = fma(query[e], key[e], part[e % 16]) for each element e;  `Lanes::total` of the parts
//     weight of token t:  exp(score - the largest score)
//     total:  a sum for each t % 16, in the order of t, then `Lanes::total`
//     result = fma(weight of t, value, result) for each t, in order;  result * (1 / total)
#pragma once

#include "lanes.h"

namespace llmasos {

struct AttentionShape {
    size_t heads, kv_heads;
    size_t width;    // elements of a head, a multiple of 16
    size_t window;   // tokens that one sees, itself among them; 0: all before it
    float scale;     // of scores
    float softcap;   // scores become cap * tanh(score / cap); 0: they stay
};

constexpr bool valid(const AttentionShape& shape) {
    return shape.heads > 0 && shape.kv_heads > 0 && shape.heads <= 1 << 16 && shape.heads % shape.kv_heads == 0 && shape.width > 0 &&
           shape.width <= 1 << 16 && shape.width % kRows == 0;
}

struct Place {
    size_t sequence, position;
};

// Whether the positions of neighbours in one sequence never fall.
LLMASOS_INLINE bool in_order(const Place* places, size_t count) {
    for (size_t at = 1; at < count; ++at)
        if (places[at].sequence == places[at - 1].sequence && places[at].position < places[at - 1].position) return false;
    return true;
}

// New tokens: their states, and the memory that holds what came before them.
struct Attention {
    AttentionShape shape;
    size_t count;
    const Place* places;                            // [count]; tokens of a sequence are neighbours, in order
    const float *query, *key, *value;               // of the first token
    size_t query_step, key_step, value_step;        // floats from one token to the next
    const float *cosines, *sines;                   // [positions, width / 2], or null
    float *keys, *values;                           // [sequences, kv_heads, length, width]
    size_t length;
    float* queries;                                 // [count, heads * width]: rotated, times the scale
    float* output;                                  // [count, heads * width]

    LLMASOS_INLINE size_t start(size_t sequence, size_t head) const { return (sequence * shape.kv_heads + head) * length * shape.width; }
    LLMASOS_INLINE size_t first_seen(size_t position) const { return shape.window && position >= shape.window ? position - shape.window + 1 : 0; }
};

constexpr size_t kKeys = 16;  // whose scores are computed at once, one lane each

// Floats that `Attend::run` needs for some tokens of one sequence that see `positions` from the first key's block on.
LLMASOS_INLINE size_t scratch_floats(const AttentionShape& shape, size_t tokens, size_t positions) {
    return (shape.width + tokens * (shape.heads / shape.kv_heads) * ((positions + kKeys - 1) / kKeys)) * kKeys;
}

template <class Isa>
struct Attend {
    using Floats = typename Isa::Floats;

    // Rotates the halves of a head by the angles of a position; `scale` multiplies all.
    static void rotate(const Attention& call, const float* from, size_t position, float scale, float* to) {
        const size_t width = call.shape.width, half = width / 2;
        if (!call.cosines) {
            for (size_t at = 0; at < width; ++at) to[at] = from[at] * scale;
            return;
        }
        const float *cosines = call.cosines + position * half, *sines = call.sines + position * half;
        for (size_t at = 0; at < half; ++at) {
            const float low = from[at], high = from[at + half];
            to[at] = (low * cosines[at] - high * sines[at]) * scale;
            to[at + half] = (high * cosines[at] + low * sines[at]) * scale;
        }
    }

    // Rotates the queries of a token, and with `keeps` puts its keys and values where they stay.
    static void prepare(const Attention& call, size_t token, bool keeps) {
        const AttentionShape& shape = call.shape;
        const Place place = call.places[token];
        for (size_t head = 0; head < shape.heads; ++head)
            rotate(call, call.query + token * call.query_step + head * shape.width, place.position, shape.scale,
                   call.queries + (token * shape.heads + head) * shape.width);
        for (size_t head = 0; keeps && head < shape.kv_heads; ++head) {
            const size_t to = call.start(place.sequence, head) + place.position * shape.width;
            rotate(call, call.key + token * call.key_step + head * shape.width, place.position, 1.0F, call.keys + to);
            __builtin_memcpy(call.values + to, call.value + token * call.value_step + head * shape.width, shape.width * sizeof(float));
        }
    }

    // The results of `count` tokens of one sequence from `first` on, of the heads that share keys and values `kv_head`.
    static void run(const Attention& call, size_t first, size_t count, size_t kv_head, float* memory) {
        const AttentionShape& shape = call.shape;
        const size_t width = shape.width, group = shape.heads / shape.kv_heads;
        const size_t start = call.start(call.places[first].sequence, kv_head);
        // Scores are kept for whole blocks of keys from the first one that any of the tokens sees.
        const size_t begin = call.first_seen(call.places[first].position) / kKeys * kKeys;
        const size_t end = call.places[first + count - 1].position + 1, span = (end - begin + kKeys - 1) / kKeys * kKeys;
        float *block = memory, *scores = memory + width * kKeys;
        const auto scores_of = [&](size_t token) { return scores + (token - first) * group * span; };
        const auto queries_of = [&](size_t token) { return call.queries + (token * shape.heads + kv_head * group) * width; };
        for (size_t key = begin; key < end; key += kKeys) {
            const size_t present = end - key < kKeys ? end - key : kKeys;
            const float* const keys = call.keys + start + key * width;
            if constexpr (Isa::sums_lanes)
                if (count == 1) {
                    in_parts(group, [&](auto heads, size_t head) {
                        score_rows<heads>(shape, queries_of(first) + head * width, keys, call.values + start + key * width, present,
                                          scores_of(first) + head * span + (key - begin), span);
                    });
                    continue;
                }
            turn(keys, present, width, block);
            size_t from = first;  // the first token that sees the block
            while (call.places[from].position < key) ++from;
            in_parts((first + count - from) * group, [&](auto queries, size_t at) {
                const float* some[queries];
                Floats found[queries];
                for (int each = 0; each < queries; ++each) some[each] = queries_of(from + (at + each) / group) + (at + each) % group * width;
                score<queries>(some, block, width, 0, found);
                for (int each = 0; each < queries; ++each)
                    Isa::store(scores_of(from + (at + each) / group) + (at + each) % group * span + (key - begin), capped(shape, found[each]), kKeys);
            });
        }
        for (size_t token = first; token < first + count; ++token) {
            const size_t position = call.places[token].position, seen = call.first_seen(position);
            float* const own = scores_of(token);
            alignas(64) float factors[kMostHeads];
            in_parts(group, [&](auto heads, size_t head) {
                for (int each = 0; each < heads; ++each)
                    factors[each] = 1.0F / soften(own + (head + each) * span, seen - begin, position + 1 - begin);
                gather<heads>(call, own + head * span, span, begin, start, position, seen, factors,
                              call.output + (token * shape.heads + kv_head * group + head) * width);
            });
        }
    }

private:
    static constexpr int kMostHeads = 4;

    template <int value>
    struct Number {
        constexpr operator int() const { return value; }
    };

    // Calls use(number of heads, the first of them) for all heads of a group, or queries, as many at once as there are registers for.
    template <class Use>
    static void in_parts(size_t group, Use use) {
        size_t at = 0;
        if constexpr (Isa::heads_at_once == kMostHeads) {
            for (; at + 4 <= group; at += 4) use(Number<4>{}, at);
            if (at + 3 == group) return use(Number<3>{}, at);
            if (at + 2 == group) return use(Number<2>{}, at);
        }
        for (; at < group; ++at) use(Number<1>{}, at);
    }

    // Sixteen keys with their elements side by side: [width, 16]. Where there are fewer, the others are 0.
    static void turn(const float* keys, size_t count, size_t width, float* to) {
        for (size_t at = 0; at < width; at += kKeys) {
            if (count == kKeys) {
                Isa::transpose(keys + at, width, to + at * kKeys);
                continue;
            }
            for (size_t element = 0; element < kKeys; ++element)
                for (size_t key = 0; key < kKeys; ++key) to[(at + element) * kKeys + key] = key < count ? keys[key * width + at + element] : 0.0F;
        }
    }

    // Products of some queries with sixteen keys whose elements lie side by side, over every element that is `first` plus a multiple of `step`. The sum
    // is that of two with twice the step, down to a sum for each element % 16: the order of `Lanes::total`.
    template <int queries, size_t step = 1>
    LLMASOS_INLINE static void score(const float* const (&from)[queries], const float* block, size_t width, size_t first, Floats (&sums)[queries]) {
        if constexpr (step == kRows) {
            for (Floats& sum : sums) sum = Isa::zero();
            size_t element = first;
            do {
                const Floats keys = Isa::some(block + element * kKeys, kKeys);
                for (int each = 0; each < queries; ++each) sums[each] = Isa::fma(Isa::all(from[each][element]), keys, sums[each]);
            } while ((element += step) < width);
        } else {
            Floats others[queries];
            score<queries, 2 * step>(from, block, width, first, sums);
            score<queries, 2 * step>(from, block, width, first + step, others);
            for (int each = 0; each < queries; ++each) sums[each] = Isa::add(sums[each], others[each]);
        }
    }

    // The same of keys as they lie, of which the first `present` are there, for some heads. Asks for later keys, and for the values of these,
    // which are read when all scores are known.
    template <int heads>
    static void score_rows(const AttentionShape& shape, const float* queries, const float* keys, const float* values, size_t present, float* to,
                           size_t span) {
        const size_t width = shape.width;
        Floats fours[heads][4];
        for (size_t first = 0; first < 4; ++first) {
            Floats parts[heads][4];
            for (size_t each = 0; each < 4; ++each) {
                for (int head = 0; head < heads; ++head) parts[head][each] = Isa::zero();
                const size_t key = first + 4 * each;
                for (size_t element = 0; key < present && element < width; element += kRows) {
                    const float* const from = keys + key * width + element;
                    __builtin_prefetch(from + kKeys * width, 0, 2);  // into the second cache: the first has room for few requests
                    __builtin_prefetch(values + key * width + element, 0, 2);
                    const Floats some = Isa::some(from, kRows);
                    for (int head = 0; head < heads; ++head)
                        parts[head][each] = Isa::fma(Isa::some(queries + head * width + element, kRows), some, parts[head][each]);
                }
            }
            for (int head = 0; head < heads; ++head) fours[head][first] = Isa::four_sums(parts[head]);
        }
        for (int head = 0; head < heads; ++head) Isa::store(to + head * span, capped(shape, Isa::sixteen_sums(fours[head])), kKeys);
    }

    static Floats capped(const AttentionShape& shape, Floats scores) {
        if (shape.softcap == 0) return scores;
        const Floats cap = Isa::all(shape.softcap);
        return Isa::multiply(Lanes<Isa>::tanh(Isa::divide(scores, cap)), cap);
    }

    // Scores to weights: those from `begin` to `end`; the others of their blocks become 0. Returns their sum.
    static float soften(float* scores, size_t begin, size_t end) {
        const size_t first = begin / kKeys * kKeys, last = (end + kKeys - 1) / kKeys * kKeys;
        for (size_t at = first; at < begin; ++at) scores[at] = -__builtin_inff();
        for (size_t at = end; at < last; ++at) scores[at] = -__builtin_inff();
        Floats most = Isa::some(scores + first, kKeys);
        for (size_t at = first + kKeys; at < last; at += kKeys) most = Isa::greater(Isa::some(scores + at, kKeys), most);
        const Floats largest = Isa::all(Lanes<Isa>::most(most));
        Floats total = Isa::zero();
        for (size_t at = first; at < last; at += kKeys) {
            const Floats weights = Lanes<Isa>::exp(Isa::subtract(Isa::some(scores + at, kKeys), largest));
            total = Isa::add(total, weights);
            Isa::store(scores + at, weights, kKeys);
        }
        return Lanes<Isa>::total(total);
    }

    // The sums of values by their weights, for as many of their elements at once as there are registers for.
    template <int heads>
    static void gather(const Attention& call, const float* weights, size_t span, size_t begin, size_t start, size_t position, size_t seen,
                       const float* factors, float* to) {
        const size_t width = call.shape.width;
        size_t at = 0;
        for (; at + 4 * kRows <= width; at += 4 * kRows) gather_some<heads, 4>(call, weights, span, begin, start + at, position, seen, factors, to + at);
        for (; at < width; at += kRows) gather_some<heads, 1>(call, weights, span, begin, start + at, position, seen, factors, to + at);
    }

    template <int heads, int slices>
    static void gather_some(const Attention& call, const float* weights, size_t span, size_t begin, size_t start, size_t position, size_t seen,
                            const float* factors, float* to) {
        const size_t width = call.shape.width;
        Floats results[heads][slices];
        for (auto& of_head : results)
            for (Floats& slice : of_head) slice = Isa::zero();
        const float* values = call.values + start + seen * width;
        for (size_t token = seen; token <= position; ++token, values += width)
            for (int slice = 0; slice < slices; ++slice) {
                const Floats some = Isa::some(values + slice * kRows, kRows);
                for (int head = 0; head < heads; ++head)
                    results[head][slice] = Isa::fma(Isa::all(weights[head * span + token - begin]), some, results[head][slice]);
            }
        for (int head = 0; head < heads; ++head)
            for (int slice = 0; slice < slices; ++slice)
                Isa::store(to + head * width + slice * kRows, Isa::multiply(results[head][slice], Isa::all(factors[head])), kRows);
    }
};

}  // namespace llmasos
