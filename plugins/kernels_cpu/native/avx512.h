// Sixteen lanes in one register of 512 bits; for files that are compiled with AVX-512 F, BW, VL and VNNI.
#pragma once

#include <immintrin.h>

#include "kernels.h"

namespace llmasos {
namespace {

struct Avx512 {
    using Ints = __m512i;
    using Floats = __m512;
    static constexpr int most = 8, least = 1;
    static constexpr int heads_at_once = 4;
    static constexpr bool sums_lanes = true;
    static constexpr size_t kAhead = 2048;
    static constexpr bool is_signed = false;

    // Asks for the lines of a unit that is some microseconds ahead, across the end of a page too, where the processor itself stops.
    template <size_t bytes>
    static void prefetch(const uint8_t* codes) {
        for (size_t at = 0; at < bytes; at += kLine) _mm_prefetch(reinterpret_cast<const char*>(codes + kAhead + at), _MM_HINT_T1);
    }
    static Floats zero() { return _mm512_setzero_ps(); }
    static Floats all(float value) { return _mm512_set1_ps(value); }
    static Ints all(int32_t value) { return _mm512_set1_epi32(value); }
    static Floats halves(const uint8_t* from) { return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from))); }
    static Floats singles(const uint8_t* from) { return _mm512_loadu_ps(from); }
    static Floats bytes(const uint8_t* from) {
        return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from))));
    }
    static Floats negative_codes(const uint8_t* from) {
        const __m512i codes = _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from)));
        return _mm512_cvtepi32_ps(_mm512_sub_epi32(_mm512_setzero_si512(), codes));
    }
    static __mmask16 mask(size_t lanes) { return static_cast<__mmask16>(0xffff >> (kRows - lanes)); }
    // Masks cost cycles, stores by a mask above all.
    static Floats some(const float* from, size_t lanes) { return lanes == kRows ? _mm512_loadu_ps(from) : _mm512_maskz_loadu_ps(mask(lanes), from); }
    static Floats multiply(Floats a, Floats b) { return _mm512_mul_ps(a, b); }
    static Floats add(Floats a, Floats b) { return _mm512_add_ps(a, b); }
    static Floats fma(Floats a, Floats b, Floats c) { return _mm512_fmadd_ps(a, b, c); }
    static Floats subtract(Floats a, Floats b) { return _mm512_sub_ps(a, b); }
    static Floats divide(Floats a, Floats b) { return _mm512_div_ps(a, b); }
    static Floats greater(Floats a, Floats b) { return _mm512_max_ps(a, b); }  // a > b ? a : b
    static Floats where_below(Floats a, Floats b, Floats yes, Floats no) {
        return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(a, b, _CMP_LT_OQ), no, yes);
    }
    static Ints to_ints(Floats floats) { return _mm512_cvtps_epi32(floats); }
    static Floats power_of_two(Ints ints) { return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_add_epi32(ints, _mm512_set1_epi32(127)), 23)); }
    static Floats to_float(Ints ints) { return _mm512_cvtepi32_ps(ints); }
    static Floats as_exponent(Floats from) { return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_castps_si512(from), 23)); }  // the lowest bits
    static uint32_t at_least(Floats a, Floats b) { return _cvtmask16_u32(_mm512_cmp_ps_mask(a, b, _CMP_GE_OQ)); }  // a bit for each lane, a >= b
    // Writes the lanes of a mask one after another, and their ids, of which `id` is the first lane's, and writes more behind them; returns how many
    // they are.
    static size_t pack(Floats values, uint32_t lanes, uint32_t id, uint32_t* ids, float* to) {
        const __mmask16 these = static_cast<__mmask16>(lanes);
        const __m512i every = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
        _mm512_storeu_ps(to, _mm512_maskz_compress_ps(these, values));
        _mm512_storeu_si512(ids, _mm512_maskz_compress_epi32(these, _mm512_add_epi32(every, _mm512_set1_epi32(static_cast<int32_t>(id)))));
        return static_cast<size_t>(__builtin_popcount(lanes));
    }
    static void store(float* to, Floats from, size_t lanes) {
        if (lanes == kRows) return _mm512_storeu_ps(to, from);
        _mm512_mask_storeu_ps(to, mask(lanes), from);
    }

    static __m512i line(const uint8_t* from) { return _mm512_loadu_si512(from); }
    static __m512i step_of(const int8_t* values) {
        int32_t four;
        __builtin_memcpy(&four, values, 4);
        return _mm512_set1_epi32(four);
    }

    template <int bits, int unit, int M>
    static void dot(const uint8_t* codes, const int8_t* values, Ints (&sums)[M]) {
        unpacked<bits, unit>(codes, [&](int step, __m512i weights) __attribute__((always_inline)) {
            for (int m = 0; m < M; ++m) sums[m] = _mm512_dpbusd_epi32(sums[m], weights, step_of(values + m * unit + step * kStep));
        });
    }

    // A column of a step's codes as floats.
    static Floats column(__m512i line, size_t column) {
        const __m512i codes = _mm512_and_si512(_mm512_srli_epi32(line, static_cast<unsigned>(8 * column)), _mm512_set1_epi32(255));
        return _mm512_cvtepi32_ps(codes);
    }

    // Calls use(step, the 64 codes of the step as bytes) for each step of a unit.
    template <int bits, int unit, class Use>
    static void unpacked(const uint8_t* codes, Use use) {
        constexpr int steps = unit / kStep;
        if constexpr (bits == 8) {
            for (int step = 0; step < steps; ++step) use(step, line(codes + step * kLine));
        } else {
            const __m512i nibble = _mm512_set1_epi8(15), pair = _mm512_set1_epi8(0x30);
            for (int step = 0; step < steps; step += 2) {
                const __m512i both = line(codes + step / 2 * kLine);
                __m512i even = _mm512_and_si512(both, nibble), odd = _mm512_and_si512(_mm512_srli_epi16(both, 4), nibble);
                if constexpr (bits == 6) {
                    const __m512i four = line(codes + (steps / 2 + step / 4) * kLine);
                    const __m512i first = step % 4 ? four : _mm512_slli_epi16(four, 4), second = step % 4 ? _mm512_srli_epi16(four, 2) : _mm512_slli_epi16(four, 2);
                    even = _mm512_or_si512(even, _mm512_and_si512(first, pair));
                    odd = _mm512_or_si512(odd, _mm512_and_si512(second, pair));
                }
                use(step, even);
                use(step + 1, odd);
            }
        }
    }

    // Sixteen rows of sixteen floats to [16 columns, 16].
    static void transpose(const float* from, size_t stride, float* to) {
        __m512 a[16], b[16];
        for (int row = 0; row < 16; ++row) a[row] = _mm512_loadu_ps(from + row * stride);
        for (int at = 0; at < 16; at += 2) {
            b[at] = _mm512_unpacklo_ps(a[at], a[at + 1]);
            b[at + 1] = _mm512_unpackhi_ps(a[at], a[at + 1]);
        }
        for (int at = 0; at < 16; at += 4)
            for (int half = 0; half < 2; ++half) {
                const __m512d low = _mm512_castps_pd(b[at + half]), high = _mm512_castps_pd(b[at + half + 2]);
                a[at + 2 * half] = _mm512_castpd_ps(_mm512_unpacklo_pd(low, high));
                a[at + 2 * half + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(low, high));
            }
        // Now a[4 * i + j] holds of rows 4 * i to 4 * i + 3 the columns j, j + 4, j + 8, j + 12, in a quarter each.
        for (int at = 0; at < 4; ++at) {
            const __m512 even_low = _mm512_shuffle_f32x4(a[at], a[at + 4], 0x88), odd_low = _mm512_shuffle_f32x4(a[at], a[at + 4], 0xdd);
            const __m512 even_high = _mm512_shuffle_f32x4(a[at + 8], a[at + 12], 0x88), odd_high = _mm512_shuffle_f32x4(a[at + 8], a[at + 12], 0xdd);
            _mm512_storeu_ps(to + at * 16, _mm512_shuffle_f32x4(even_low, even_high, 0x88));
            _mm512_storeu_ps(to + (at + 4) * 16, _mm512_shuffle_f32x4(odd_low, odd_high, 0x88));
            _mm512_storeu_ps(to + (at + 8) * 16, _mm512_shuffle_f32x4(even_low, even_high, 0xdd));
            _mm512_storeu_ps(to + (at + 12) * 16, _mm512_shuffle_f32x4(odd_low, odd_high, 0xdd));
        }
    }

    // Of four vectors the sums of every fourth lane, each in a quarter; of four such results `Lanes::total` of all sixteen, with vector 4 * i + j
    // in quarter i of result j. Each step adds the upper half of the lanes that are left to the lower one.
    static Floats four_sums(const Floats (&from)[4]) {
        Floats pairs[2];
        for (int at = 0; at < 2; ++at)
            pairs[at] = _mm512_add_ps(_mm512_shuffle_f32x4(from[2 * at], from[2 * at + 1], 0x44), _mm512_shuffle_f32x4(from[2 * at], from[2 * at + 1], 0xee));
        return _mm512_add_ps(_mm512_shuffle_f32x4(pairs[0], pairs[1], 0x88), _mm512_shuffle_f32x4(pairs[0], pairs[1], 0xdd));
    }
    static Floats sixteen_sums(const Floats (&from)[4]) {
        __m512 pairs[2];
        for (int at = 0; at < 2; ++at) {
            const __m512d low = _mm512_castps_pd(from[2 * at]), high = _mm512_castps_pd(from[2 * at + 1]);
            pairs[at] = _mm512_add_ps(_mm512_castpd_ps(_mm512_unpacklo_pd(low, high)), _mm512_castpd_ps(_mm512_unpackhi_pd(low, high)));
        }
        return _mm512_add_ps(_mm512_shuffle_ps(pairs[0], pairs[1], 0x88), _mm512_shuffle_ps(pairs[0], pairs[1], 0xdd));
    }

    static int32_t round(const float* from, size_t count, size_t unit, int8_t* codes, float* scale) {
        const __mmask16 low = mask(count < kRows ? count : kRows), high = count > kRows ? mask(count - kRows) : 0;
        const __m512i sign = _mm512_set1_epi32(0x7fffffff);
        const __m512 first = _mm512_maskz_loadu_ps(low, from), second = high ? _mm512_maskz_loadu_ps(high, from + kRows) : _mm512_setzero_ps();
        const __m512i magnitudes = _mm512_max_epu32(
            _mm512_and_si512(_mm512_castps_si512(first), sign), _mm512_and_si512(_mm512_castps_si512(second), sign));
        const uint32_t most_bits = _mm512_reduce_max_epu32(magnitudes);
        const float most_value = __builtin_bit_cast(float, most_bits);
        const bool finite = most_bits < 0x7f800000, some = finite && most_value >= 1e-30F;
        *scale = finite ? some ? most_value / 127.0F : 0.0F : __builtin_nanf("");
        // A product with 0 would leave NaN where a value is no number, so such units take no product at all.
        const __m512 factor = _mm512_set1_ps(some ? 127.0F / most_value : 0.0F);
        const __m512i none = _mm512_setzero_si512();
        const __m512i one = some ? _mm512_cvtps_epi32(_mm512_mul_ps(first, factor)) : none;
        const __m512i two = some ? _mm512_cvtps_epi32(_mm512_mul_ps(second, factor)) : none;
        _mm_storeu_si128(reinterpret_cast<__m128i*>(codes), _mm512_cvtepi32_epi8(one));
        if (unit > kRows) _mm_storeu_si128(reinterpret_cast<__m128i*>(codes + kRows), _mm512_cvtepi32_epi8(two));
        return _mm512_reduce_add_epi32(_mm512_add_epi32(one, two));
    }
};

}  // namespace
}  // namespace llmasos
