// Plain C++: what every other instruction set is compared with, and what runs where there is no other.
#include "kernels.h"

#include <cmath>

namespace llmasos {
namespace {

struct Scalar {
    struct Ints {
        int32_t lane[kRows];
    };
    struct Floats {
        float lane[kRows];
    };
    static constexpr int most = 1, least = 1;
    static constexpr int heads_at_once = 1;
    static constexpr bool sums_lanes = false;
    static constexpr bool is_signed = false;

    template <size_t bytes>
    static void prefetch(const uint8_t*) {}

    template <class From>
    static Floats each(From from) {
        Floats found;
        for (size_t lane = 0; lane < kRows; ++lane) found.lane[lane] = from(lane);
        return found;
    }

    static Floats zero() { return Floats{}; }
    static Floats all(float value) { return each([=](size_t) { return value; }); }
    static Floats halves(const uint8_t* from) {
        return each([=](size_t lane) { return from_half(static_cast<uint16_t>(from[2 * lane] | from[2 * lane + 1] << 8)); });
    }
    static Floats singles(const uint8_t* from) {
        return each([=](size_t lane) {
            float value;
            __builtin_memcpy(&value, from + 4 * lane, 4);
            return value;
        });
    }
    static Floats bytes(const uint8_t* from) { return each([=](size_t lane) { return static_cast<float>(static_cast<int8_t>(from[lane])); }); }
    static Floats negative_codes(const uint8_t* from) { return each([=](size_t lane) { return -static_cast<float>(from[lane]); }); }
    static Floats some(const float* from, size_t lanes) { return each([=](size_t lane) { return lane < lanes ? from[lane] : 0.0F; }); }
    static Floats multiply(const Floats& a, const Floats& b) { return each([&](size_t lane) { return a.lane[lane] * b.lane[lane]; }); }
    static Floats add(const Floats& a, const Floats& b) { return each([&](size_t lane) { return a.lane[lane] + b.lane[lane]; }); }
    static Floats fma(const Floats& a, const Floats& b, const Floats& c) {
        return each([&](size_t lane) { return std::fmaf(a.lane[lane], b.lane[lane], c.lane[lane]); });
    }
    static Floats subtract(const Floats& a, const Floats& b) { return each([&](size_t lane) { return a.lane[lane] - b.lane[lane]; }); }
    static Floats divide(const Floats& a, const Floats& b) { return each([&](size_t lane) { return a.lane[lane] / b.lane[lane]; }); }
    static Floats greater(const Floats& a, const Floats& b) {
        return each([&](size_t lane) { return a.lane[lane] > b.lane[lane] ? a.lane[lane] : b.lane[lane]; });
    }
    static Floats where_below(const Floats& a, const Floats& b, const Floats& yes, const Floats& no) {
        return each([&](size_t lane) { return a.lane[lane] < b.lane[lane] ? yes.lane[lane] : no.lane[lane]; });
    }
    // To the nearest, to the even one of two; NaN becomes 0.
    static Ints to_ints(const Floats& floats) {
        Ints found;
        for (size_t lane = 0; lane < kRows; ++lane) found.lane[lane] = std::isnan(floats.lane[lane]) ? 0 : static_cast<int32_t>(std::nearbyintf(floats.lane[lane]));
        return found;
    }
    static Floats power_of_two(const Ints& ints) {
        return each([&](size_t lane) { return __builtin_bit_cast(float, static_cast<uint32_t>(ints.lane[lane] + 127) << 23); });
    }
    static void transpose(const float* from, size_t stride, float* to) {
        for (size_t row = 0; row < kRows; ++row)
            for (size_t column = 0; column < kRows; ++column) to[column * kRows + row] = from[row * stride + column];
    }
    static Floats to_float(const Ints& ints) { return each([&](size_t lane) { return static_cast<float>(ints.lane[lane]); }); }
    // The lowest bits become the exponent.
    static Floats as_exponent(const Floats& from) {
        return each([&](size_t lane) { return __builtin_bit_cast(float, __builtin_bit_cast(uint32_t, from.lane[lane]) << 23); });
    }
    // A bit for each lane, a >= b.
    static uint32_t at_least(const Floats& a, const Floats& b) {
        uint32_t found = 0;
        for (size_t lane = 0; lane < kRows; ++lane) found |= static_cast<uint32_t>(a.lane[lane] >= b.lane[lane]) << lane;
        return found;
    }
    static size_t pack(const Floats& values, uint32_t lanes, uint32_t id, uint32_t* ids, float* to) {
        return Lanes<Scalar>::pack(values, lanes, id, ids, to);
    }
    static Ints all(int32_t value) {
        Ints found;
        for (int32_t& lane : found.lane) lane = value;
        return found;
    }
    static void store(float* to, const Floats& from, size_t lanes) {
        for (size_t lane = 0; lane < lanes; ++lane) to[lane] = from.lane[lane];
    }

    // The code of a unit at a step and at a place of the step's 64.
    template <int bits, int unit>
    static int32_t code(const uint8_t* codes, size_t step, size_t place) {
        if constexpr (bits == 8) {
            return codes[step * kLine + place];
        } else {
            const int32_t low = codes[step / 2 * kLine + place] >> (step % 2 * 4) & 15;
            if constexpr (bits == 4) return low;
            return low | (codes[unit / 8 * kLine + step / 4 * kLine + place] >> (step % 4 * 2) & 3) << 4;
        }
    }

    // The 64 codes of a step.
    struct Line {
        uint8_t code[kLine];
    };
    static Floats column(const Line& line, size_t column) {
        return each([&](size_t lane) { return static_cast<float>(line.code[lane * kStep + column]); });
    }

    // Calls use(step, the codes of the step) for each step of a unit.
    template <int bits, int unit, class Use>
    static void unpacked(const uint8_t* codes, Use use) {
        for (int step = 0; step < unit / static_cast<int>(kStep); ++step) {
            Line line;
            for (size_t place = 0; place < kLine; ++place) line.code[place] = static_cast<uint8_t>(code<bits, unit>(codes, step, place));
            use(step, line);
        }
    }

    template <int bits, int unit, int M>
    static void dot(const uint8_t* codes, const int8_t* values, Ints (&sums)[M]) {
        for (size_t step = 0; step < unit / kStep; ++step) {
            for (size_t place = 0; place < kLine; ++place) {
                const int32_t weight = code<bits, unit>(codes, step, place);
                for (int m = 0; m < M; ++m) sums[m].lane[place / kStep] += weight * values[m * unit + step * kStep + place % kStep];
            }
        }
    }

    static int32_t round(const float* from, size_t count, size_t unit, int8_t* codes, float* scale) {
        uint32_t most_bits = 0;
        for (size_t at = 0; at < count; ++at) {
            const uint32_t bits = __builtin_bit_cast(uint32_t, from[at]) & 0x7fffffff;
            most_bits = bits > most_bits ? bits : most_bits;
        }
        const float most_value = __builtin_bit_cast(float, most_bits);
        for (size_t at = 0; at < unit; ++at) codes[at] = 0;
        *scale = most_bits < 0x7f800000 ? 0.0F : __builtin_nanf("");
        if (!(most_value >= 1e-30F) || most_bits >= 0x7f800000) return 0;
        *scale = most_value / 127.0F;
        const float factor = 127.0F / most_value;
        int32_t sum = 0;
        for (size_t at = 0; at < count; ++at) {
            codes[at] = static_cast<int8_t>(std::nearbyintf(from[at] * factor));
            sum += codes[at];
        }
        return sum;
    }
};

}  // namespace

const Kernel kScalar = kernel_of<Scalar>("scalar");

}  // namespace llmasos
