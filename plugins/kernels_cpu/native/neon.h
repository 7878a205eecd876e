// Sixteen lanes in four registers of 128 bits; for files that are compiled with DOTPROD.
#pragma once

#include <arm_neon.h>

#include "kernels.h"

namespace llmasos {
namespace {

struct Neon {
    struct Ints {
        int32x4_t part[4];
    };
    struct Floats {
        float32x4_t part[4];
    };
    static constexpr int most = 2, least = 1;
    static constexpr int heads_at_once = 1;
    static constexpr bool sums_lanes = false;
    static constexpr bool is_signed = true;
    static constexpr size_t kAhead = 2048;

    template <size_t bytes>
    static void prefetch(const uint8_t* codes) {
        for (size_t at = 0; at < bytes; at += kLine) __builtin_prefetch(codes + kAhead + at);
    }

    template <class From>
    static Floats each(From from) {
        return Floats{{from(0), from(1), from(2), from(3)}};
    }

    static Floats zero() { return all(0.0F); }
    static Floats all(float value) {
        return each([=](int) { return vdupq_n_f32(value); });
    }
    static Ints all(int32_t value) { return Ints{{vdupq_n_s32(value), vdupq_n_s32(value), vdupq_n_s32(value), vdupq_n_s32(value)}}; }
    static Floats halves(const uint8_t* from) {
        return each([=](int part) { return vcvt_f32_f16(vreinterpret_f16_u8(vld1_u8(from + 8 * part))); });
    }
    static Floats singles(const uint8_t* from) {
        return each([=](int part) { return vreinterpretq_f32_u8(vld1q_u8(from + 16 * part)); });
    }
    static Floats bytes(const uint8_t* from) {
        const int8x16_t all_bytes = vreinterpretq_s8_u8(vld1q_u8(from));
        const int16x8_t low = vmovl_s8(vget_low_s8(all_bytes)), high = vmovl_s8(vget_high_s8(all_bytes));
        return Floats{{vcvtq_f32_s32(vmovl_s16(vget_low_s16(low))), vcvtq_f32_s32(vmovl_s16(vget_high_s16(low))),
                       vcvtq_f32_s32(vmovl_s16(vget_low_s16(high))), vcvtq_f32_s32(vmovl_s16(vget_high_s16(high)))}};
    }
    static Floats negative_codes(const uint8_t* from) {
        const uint8x16_t all_bytes = vld1q_u8(from);
        const uint16x8_t low = vmovl_u8(vget_low_u8(all_bytes)), high = vmovl_u8(vget_high_u8(all_bytes));
        return Floats{{vnegq_f32(vcvtq_f32_u32(vmovl_u16(vget_low_u16(low)))), vnegq_f32(vcvtq_f32_u32(vmovl_u16(vget_high_u16(low)))),
                       vnegq_f32(vcvtq_f32_u32(vmovl_u16(vget_low_u16(high)))), vnegq_f32(vcvtq_f32_u32(vmovl_u16(vget_high_u16(high))))}};
    }
    static Floats some(const float* from, size_t lanes) {
        float padded[kRows] = {};
        if (lanes < kRows) {
            for (size_t lane = 0; lane < lanes; ++lane) padded[lane] = from[lane];
            from = padded;
        }
        return each([=](int part) { return vld1q_f32(from + 4 * part); });
    }
    static Floats multiply(const Floats& a, const Floats& b) {
        return each([&](int part) { return vmulq_f32(a.part[part], b.part[part]); });
    }
    static Floats add(const Floats& a, const Floats& b) {
        return each([&](int part) { return vaddq_f32(a.part[part], b.part[part]); });
    }
    static Floats fma(const Floats& a, const Floats& b, const Floats& c) {
        return each([&](int part) { return vfmaq_f32(c.part[part], a.part[part], b.part[part]); });
    }
    static Floats subtract(const Floats& a, const Floats& b) {
        return each([&](int part) { return vsubq_f32(a.part[part], b.part[part]); });
    }
    static Floats divide(const Floats& a, const Floats& b) {
        return each([&](int part) { return vdivq_f32(a.part[part], b.part[part]); });
    }
    static Floats greater(const Floats& a, const Floats& b) {
        return each([&](int part) { return vbslq_f32(vcgtq_f32(a.part[part], b.part[part]), a.part[part], b.part[part]); });
    }
    static Floats where_below(const Floats& a, const Floats& b, const Floats& yes, const Floats& no) {
        return each([&](int part) { return vbslq_f32(vcltq_f32(a.part[part], b.part[part]), yes.part[part], no.part[part]); });
    }
    static Ints to_ints(const Floats& floats) {
        Ints found;
        for (int part = 0; part < 4; ++part) found.part[part] = vcvtnq_s32_f32(floats.part[part]);
        return found;
    }
    static Floats power_of_two(const Ints& ints) {
        return each([&](int part) { return vreinterpretq_f32_s32(vshlq_n_s32(vaddq_s32(ints.part[part], vdupq_n_s32(127)), 23)); });
    }
    // Sixteen rows of sixteen floats to [16 columns, 16].
    static void transpose(const float* from, size_t stride, float* to) {
        for (int rows = 0; rows < 16; rows += 4)
            for (int columns = 0; columns < 16; columns += 4) {
                const float* const corner = from + rows * stride + columns;
                const float32x4x2_t upper = vtrnq_f32(vld1q_f32(corner), vld1q_f32(corner + stride));
                const float32x4x2_t lower = vtrnq_f32(vld1q_f32(corner + 2 * stride), vld1q_f32(corner + 3 * stride));
                for (int odd = 0; odd < 2; ++odd) {
                    vst1q_f32(to + (columns + odd) * 16 + rows, vcombine_f32(vget_low_f32(upper.val[odd]), vget_low_f32(lower.val[odd])));
                    vst1q_f32(to + (columns + odd + 2) * 16 + rows, vcombine_f32(vget_high_f32(upper.val[odd]), vget_high_f32(lower.val[odd])));
                }
            }
    }
    static Floats to_float(const Ints& ints) {
        return each([&](int part) { return vcvtq_f32_s32(ints.part[part]); });
    }
    // The lowest bits become the exponent.
    static Floats as_exponent(const Floats& from) {
        return each([&](int part) { return vreinterpretq_f32_u32(vshlq_n_u32(vreinterpretq_u32_f32(from.part[part]), 23)); });
    }
    // A bit for each lane, a >= b.
    static uint32_t at_least(const Floats& a, const Floats& b) {
        const uint32_t places[4] = {1, 2, 4, 8};
        uint32_t found = 0;
        for (int part = 0; part < 4; ++part) found |= vaddvq_u32(vandq_u32(vcgeq_f32(a.part[part], b.part[part]), vld1q_u32(places))) << 4 * part;
        return found;
    }
    static size_t pack(const Floats& values, uint32_t lanes, uint32_t id, uint32_t* ids, float* to) {
        return Lanes<Neon>::pack(values, lanes, id, ids, to);
    }
    static void store(float* to, const Floats& from, size_t lanes) {
        float padded[kRows];
        float* const whole = lanes < kRows ? padded : to;
        for (int part = 0; part < 4; ++part) vst1q_f32(whole + 4 * part, from.part[part]);
        if (lanes < kRows)
            for (size_t lane = 0; lane < lanes; ++lane) to[lane] = padded[lane];
    }

    // Sixteen codes, a quarter of a line, at an even step and at the next.
    template <int bits, int unit>
    static void two_steps(const uint8_t* codes, int step, int quarter, int8x16_t& even, int8x16_t& odd) {
        if constexpr (bits == 8) {
            const uint8x16_t middle = vdupq_n_u8(128);
            even = vreinterpretq_s8_u8(veorq_u8(vld1q_u8(codes + step * kLine + quarter * 16), middle));
            odd = vreinterpretq_s8_u8(veorq_u8(vld1q_u8(codes + (step + 1) * kLine + quarter * 16), middle));
        } else {
            const uint8x16_t both = vld1q_u8(codes + step / 2 * kLine + quarter * 16);
            uint8x16_t first = vandq_u8(both, vdupq_n_u8(15)), second = vshrq_n_u8(both, 4);
            if constexpr (bits == 6) {
                const uint8x16_t four = vld1q_u8(codes + (unit / 8 + step / 4) * kLine + quarter * 16), pair = vdupq_n_u8(0x30);
                first = vorrq_u8(first, vandq_u8(step % 4 ? four : vshlq_n_u8(four, 4), pair));
                second = vorrq_u8(second, vandq_u8(step % 4 ? vshrq_n_u8(four, 2) : vshlq_n_u8(four, 2), pair));
            }
            even = vreinterpretq_s8_u8(first);
            odd = vreinterpretq_s8_u8(second);
        }
    }

    // The 64 codes of a step.
    struct Line {
        uint8x16_t quarter[4];
    };
    // A column of them as floats.
    static Floats column(const Line& line, size_t column) {
        const int32x4_t shift = vdupq_n_s32(-8 * static_cast<int32_t>(column));
        return each([&](int part) {
            return vcvtq_f32_u32(vandq_u32(vshlq_u32(vreinterpretq_u32_u8(line.quarter[part]), shift), vdupq_n_u32(255)));
        });
    }

    // Calls use(step, the codes of the step) for each step of a unit.
    template <int bits, int unit, class Use>
    static void unpacked(const uint8_t* codes, Use use) {
        const uint8x16_t middle = vdupq_n_u8(bits == 8 ? 128 : 0);  // what `two_steps` has taken from codes of 8 bits
        for (int step = 0; step < unit / static_cast<int>(kStep); step += 2) {
            Line first, second;
            for (int quarter = 0; quarter < 4; ++quarter) {
                int8x16_t even, odd;
                two_steps<bits, unit>(codes, step, quarter, even, odd);
                first.quarter[quarter] = veorq_u8(vreinterpretq_u8_s8(even), middle);
                second.quarter[quarter] = veorq_u8(vreinterpretq_u8_s8(odd), middle);
            }
            use(step, first);
            use(step + 1, second);
        }
    }

    static int8x16_t step_of(const int8_t* values) {
        int32_t four;
        __builtin_memcpy(&four, values, 4);
        return vreinterpretq_s8_s32(vdupq_n_s32(four));
    }

    template <int bits, int unit, int M>
    static void dot(const uint8_t* codes, const int8_t* values, Ints (&sums)[M]) {
        for (int step = 0; step < unit / static_cast<int>(kStep); step += 2) {
            for (int quarter = 0; quarter < 4; ++quarter) {
                int8x16_t even, odd;
                two_steps<bits, unit>(codes, step, quarter, even, odd);
                for (int m = 0; m < M; ++m) {
                    const int8_t* at = values + m * unit + step * kStep;
                    sums[m].part[quarter] = vdotq_s32(sums[m].part[quarter], even, step_of(at));
                    sums[m].part[quarter] = vdotq_s32(sums[m].part[quarter], odd, step_of(at + kStep));
                }
            }
        }
    }

    static int32_t round(const float* from, size_t count, size_t unit, int8_t* codes, float* scale) {
        float padded[32] = {};
        if (count < unit) {
            for (size_t at = 0; at < count; ++at) padded[at] = from[at];
            from = padded;
        }
        uint32x4_t magnitudes = vdupq_n_u32(0);
        for (size_t at = 0; at < unit; at += 4)
            magnitudes = vmaxq_u32(magnitudes, vandq_u32(vreinterpretq_u32_f32(vld1q_f32(from + at)), vdupq_n_u32(0x7fffffff)));
        const uint32_t most_bits = vmaxvq_u32(magnitudes);
        const float most_value = __builtin_bit_cast(float, most_bits);
        const bool finite = most_bits < 0x7f800000, some = finite && most_value >= 1e-30F;
        *scale = finite ? some ? most_value / 127.0F : 0.0F : __builtin_nanf("");
        const float factor = some ? 127.0F / most_value : 0.0F;
        int32x4_t sums = vdupq_n_s32(0);
        for (size_t at = 0; at < unit; at += 8) {
            int32x4_t low = vdupq_n_s32(0), high = low;
            if (some) {
                low = vcvtnq_s32_f32(vmulq_n_f32(vld1q_f32(from + at), factor));
                high = vcvtnq_s32_f32(vmulq_n_f32(vld1q_f32(from + at + 4), factor));
            }
            sums = vaddq_s32(sums, vaddq_s32(low, high));
            vst1_s8(codes + at, vqmovn_s16(vcombine_s16(vqmovn_s32(low), vqmovn_s32(high))));
        }
        return vaddvq_s32(sums);
    }
};

}  // namespace
}  // namespace llmasos
