// Codes as pairs of bfloat16, the operands of instructions that multiply them; for files that are compiled with AVX-512 F and BW.
#pragma once

#include "avx512.h"

namespace llmasos {
namespace {

// What `PairsOfCodes` looks codes of up to six bits up in: bfloat16 of each number from 0 on, less the code of zero.
struct CodeTable {
    alignas(64) uint16_t values[64];

    constexpr CodeTable(int bits, bool fixed) : values{} {
        for (int code = 0; code < 64; ++code) {
            const int value = code % (1 << bits) - (fixed ? 1 << (bits - 1) : 0);
            values[code] = static_cast<uint16_t>(__builtin_bit_cast(uint32_t, static_cast<float>(value)) >> 16);
        }
    }
};

// The codes of a step, less their fixed zero: in each lane those of a row's columns 0 and 2, and of 1 and 3.
template <int bits>
struct PairsOfCodes {
    static constexpr CodeTable kTables[2] = {{bits, false}, {bits, true}};
    __m512i low, high;

    explicit PairsOfCodes(bool fixed) : low(_mm512_load_si512(kTables[fixed].values)), high(_mm512_load_si512(kTables[fixed].values + 32)) {}

    LLMASOS_INLINE void unpack(__m512i line, __m512i& outer, __m512i& inner) const {
        outer = look_up(line);
        inner = look_up(_mm512_srli_epi16(line, 8));
    }

private:
    // Only the lowest bits of each half of a lane are an index.
    LLMASOS_INLINE __m512i look_up(__m512i codes) const {
        if constexpr (bits == 4) return _mm512_permutexvar_epi16(codes, low);
        return _mm512_permutex2var_epi16(low, codes, high);
    }
};

template <>
struct PairsOfCodes<8> {
    __m512 zero;

    explicit PairsOfCodes(bool fixed) : zero(_mm512_set1_ps(0x1p23F + (fixed ? 128.0F : 0.0F))) {}

    LLMASOS_INLINE void unpack(__m512i line, __m512i& outer, __m512i& inner) const {
        outer = side_by_side(number(line), number(_mm512_srli_epi32(line, 16)));
        inner = side_by_side(number(_mm512_srli_epi32(line, 8)), number(_mm512_srli_epi32(line, 24)));
    }

private:
    // The lowest byte of each lane as a float: the last bits of 2 ** 23 count ones.
    LLMASOS_INLINE __m512i number(__m512i codes) const {
        constexpr int first_and_second_or_third = 0xea;
        const __m512i float_bits = _mm512_set1_epi32(0x4b000000);
        const __m512i found = _mm512_ternarylogic_epi32(codes, _mm512_set1_epi32(255), float_bits, first_and_second_or_third);
        return _mm512_castps_si512(_mm512_sub_ps(_mm512_castsi512_ps(found), zero));
    }
    // The upper halves of two floats, which are all of these.
    LLMASOS_INLINE static __m512i side_by_side(__m512i first, __m512i second) {
        return _mm512_mask_blend_epi16(0xaaaaaaaa, _mm512_srli_epi32(first, 16), second);
    }
};

}  // namespace
}  // namespace llmasos
