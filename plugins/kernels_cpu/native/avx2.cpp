// Sixteen lanes in two registers of 256 bits. Products of bytes are summed in 16 bits, which hold two of 6-bit codes and eight of 4-bit ones;
// 8-bit codes are taken less 128, so that a magnitude is at most 128 and the sum of two products fits too.
#include <immintrin.h>

#include <array>

#include "kernels.h"

namespace llmasos {
namespace {

// For each mask of eight lanes the numbers of its lanes, one in each byte.
constexpr std::array<uint64_t, 256> kOrders = [] {
    std::array<uint64_t, 256> orders{};
    for (uint32_t mask = 0; mask < 256; ++mask)
        for (uint64_t lane = 0, at = 0; lane < 8; ++lane)
            if (mask >> lane & 1) orders[mask] |= lane << 8 * at++;
    return orders;
}();

struct Avx2 {
    struct Ints {
        __m256i low, high;
    };
    struct Floats {
        __m256 low, high;
    };
    static constexpr int most = 2, least = 1;
    static constexpr int heads_at_once = 1;
    static constexpr bool sums_lanes = false;
    static constexpr size_t kAhead = 4096;
    static constexpr bool is_signed = true;

    // Asks for the lines of a unit that is some microseconds ahead, across the end of a page too, where the processor itself stops.
    template <size_t bytes>
    static void prefetch(const uint8_t* codes) {
        for (size_t at = 0; at < bytes; at += kLine) _mm_prefetch(reinterpret_cast<const char*>(codes + kAhead + at), _MM_HINT_T1);
    }
    static Floats zero() { return {_mm256_setzero_ps(), _mm256_setzero_ps()}; }
    static Floats all(float value) { return {_mm256_set1_ps(value), _mm256_set1_ps(value)}; }
    static Ints all(int32_t value) { return {_mm256_set1_epi32(value), _mm256_set1_epi32(value)}; }
    static __m128i eight(const uint8_t* from) { return _mm_loadl_epi64(reinterpret_cast<const __m128i*>(from)); }
    static __m256i line(const uint8_t* from) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)); }
    static Floats halves(const uint8_t* from) {
        const __m256i both = line(from);
        return {_mm256_cvtph_ps(_mm256_castsi256_si128(both)), _mm256_cvtph_ps(_mm256_extracti128_si256(both, 1))};
    }
    static Floats singles(const uint8_t* from) {
        return {_mm256_castsi256_ps(line(from)), _mm256_castsi256_ps(line(from + 32))};
    }
    static Floats bytes(const uint8_t* from) {
        return {_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(eight(from))), _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(eight(from + 8)))};
    }
    static Floats negative_codes(const uint8_t* from) {
        const __m256i none = _mm256_setzero_si256();
        return {_mm256_cvtepi32_ps(_mm256_sub_epi32(none, _mm256_cvtepu8_epi32(eight(from)))),
                _mm256_cvtepi32_ps(_mm256_sub_epi32(none, _mm256_cvtepu8_epi32(eight(from + 8))))};
    }
    // All bits of the first `lanes` of eight.
    static __m256i mask(int lanes) { return _mm256_cmpgt_epi32(_mm256_set1_epi32(lanes), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7)); }
    static Floats some(const float* from, size_t lanes) {
        if (lanes == kRows) return {_mm256_loadu_ps(from), _mm256_loadu_ps(from + 8)};
        const int count = static_cast<int>(lanes);
        return {_mm256_maskload_ps(from, mask(count)), count > 8 ? _mm256_maskload_ps(from + 8, mask(count - 8)) : _mm256_setzero_ps()};
    }
    static Floats multiply(Floats a, Floats b) { return {_mm256_mul_ps(a.low, b.low), _mm256_mul_ps(a.high, b.high)}; }
    static Floats add(Floats a, Floats b) { return {_mm256_add_ps(a.low, b.low), _mm256_add_ps(a.high, b.high)}; }
    static Floats fma(Floats a, Floats b, Floats c) { return {_mm256_fmadd_ps(a.low, b.low, c.low), _mm256_fmadd_ps(a.high, b.high, c.high)}; }
    static Floats subtract(Floats a, Floats b) { return {_mm256_sub_ps(a.low, b.low), _mm256_sub_ps(a.high, b.high)}; }
    static Floats divide(Floats a, Floats b) { return {_mm256_div_ps(a.low, b.low), _mm256_div_ps(a.high, b.high)}; }
    static Floats greater(Floats a, Floats b) { return {_mm256_max_ps(a.low, b.low), _mm256_max_ps(a.high, b.high)}; }  // a > b ? a : b
    static Floats where_below(Floats a, Floats b, Floats yes, Floats no) {
        return {_mm256_blendv_ps(no.low, yes.low, _mm256_cmp_ps(a.low, b.low, _CMP_LT_OQ)),
                _mm256_blendv_ps(no.high, yes.high, _mm256_cmp_ps(a.high, b.high, _CMP_LT_OQ))};
    }
    static Ints to_ints(Floats floats) { return {_mm256_cvtps_epi32(floats.low), _mm256_cvtps_epi32(floats.high)}; }
    static __m256 power_of_two(__m256i ints) { return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(ints, _mm256_set1_epi32(127)), 23)); }
    static Floats power_of_two(Ints ints) { return {power_of_two(ints.low), power_of_two(ints.high)}; }
    static Floats to_float(Ints ints) { return {_mm256_cvtepi32_ps(ints.low), _mm256_cvtepi32_ps(ints.high)}; }
    static __m256 as_exponent(__m256 from) { return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_castps_si256(from), 23)); }
    static Floats as_exponent(Floats from) { return {as_exponent(from.low), as_exponent(from.high)}; }  // the lowest bits become the exponent
    static uint32_t at_least(__m256 a, __m256 b) { return static_cast<uint32_t>(_mm256_movemask_ps(_mm256_cmp_ps(a, b, _CMP_GE_OQ))); }
    static uint32_t at_least(Floats a, Floats b) { return at_least(a.low, b.low) | at_least(a.high, b.high) << 8; }  // a bit for each lane, a >= b
    // Writes the lanes of a mask one after another, and their ids, of which `id` is the first lane's, and writes more behind them; returns how many they are.
    static size_t pack(Floats values, uint32_t lanes, uint32_t id, uint32_t* ids, float* to) {
        const size_t low = pack(values.low, lanes & 255, id, ids, to);
        return low + pack(values.high, lanes >> 8, id + 8, ids + low, to + low);
    }
    static size_t pack(__m256 values, uint32_t lanes, uint32_t id, uint32_t* ids, float* to) {
        const __m256i order = _mm256_cvtepu8_epi32(_mm_cvtsi64_si128(static_cast<int64_t>(kOrders[lanes])));
        _mm256_storeu_ps(to, _mm256_permutevar8x32_ps(values, order));
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(ids), _mm256_add_epi32(order, _mm256_set1_epi32(static_cast<int32_t>(id))));
        return static_cast<size_t>(__builtin_popcount(lanes));
    }
    static void store(float* to, Floats from, size_t lanes) {
        if (lanes == kRows) {
            _mm256_storeu_ps(to, from.low);
            return _mm256_storeu_ps(to + 8, from.high);
        }
        const int count = static_cast<int>(lanes);
        _mm256_maskstore_ps(to, mask(count), from.low);
        if (count > 8) _mm256_maskstore_ps(to + 8, mask(count - 8), from.high);
    }
    static __m256i step_of(const int8_t* values) {
        int32_t four;
        __builtin_memcpy(&four, values, 4);
        return _mm256_set1_epi32(four);
    }

    // The codes of half a line at an even step and at the next.
    template <int bits, int unit>
    static void two_steps(const uint8_t* codes, int step, int half, __m256i& even, __m256i& odd) {
        const __m256i nibble = _mm256_set1_epi8(15), pair = _mm256_set1_epi8(0x30);
        const __m256i both = line(codes + step / 2 * kLine + half * 32);
        even = _mm256_and_si256(both, nibble);
        odd = _mm256_and_si256(_mm256_srli_epi16(both, 4), nibble);
        if constexpr (bits == 6) {
            const __m256i four = line(codes + (unit / 8 + step / 4) * kLine + half * 32);
            const __m256i first = step % 4 ? four : _mm256_slli_epi16(four, 4), second = step % 4 ? _mm256_srli_epi16(four, 2) : _mm256_slli_epi16(four, 2);
            even = _mm256_or_si256(even, _mm256_and_si256(first, pair));
            odd = _mm256_or_si256(odd, _mm256_and_si256(second, pair));
        }
    }

    // A column of a step's codes as floats.
    static Floats column(const Ints& line, size_t column) {
        const __m256i byte = _mm256_set1_epi32(255);
        const int shift = static_cast<int>(8 * column);
        return to_float({_mm256_and_si256(_mm256_srli_epi32(line.low, shift), byte), _mm256_and_si256(_mm256_srli_epi32(line.high, shift), byte)});
    }

    // Calls use(step, the codes of the step as bytes) for each step of a unit.
    template <int bits, int unit, class Use>
    static void unpacked(const uint8_t* codes, Use use) {
        for (int step = 0; step < unit / static_cast<int>(kStep); step += 2) {
            Ints even, odd;
            if constexpr (bits == 8) {
                even = {line(codes + step * kLine), line(codes + step * kLine + 32)};
                odd = {line(codes + (step + 1) * kLine), line(codes + (step + 1) * kLine + 32)};
            } else {
                two_steps<bits, unit>(codes, step, 0, even.low, odd.low);
                two_steps<bits, unit>(codes, step, 1, even.high, odd.high);
            }
            use(step, even);
            use(step + 1, odd);
        }
    }

    template <int bits, int unit, int M>
    static void dot(const uint8_t* codes, const int8_t* values, Ints (&sums)[M]) {
        for (int half = 0; half < 2; ++half) {
            const __m256i ones = _mm256_set1_epi16(1);
            __m256i totals[M], pairs[M];
            for (int m = 0; m < M; ++m) totals[m] = half ? sums[m].high : sums[m].low, pairs[m] = _mm256_setzero_si256();
            for (int step = 0; step < unit / static_cast<int>(kStep); step += bits == 8 ? 1 : 2) {
                if constexpr (bits == 8) {
                    const __m256i weights = _mm256_xor_si256(line(codes + step * kLine + half * 32), _mm256_set1_epi8(-128));
                    const __m256i magnitudes = _mm256_abs_epi8(weights);
                    for (int m = 0; m < M; ++m) {
                        const __m256i signed_values = _mm256_sign_epi8(step_of(values + m * unit + step * kStep), weights);
                        totals[m] = _mm256_add_epi32(totals[m], _mm256_madd_epi16(_mm256_maddubs_epi16(magnitudes, signed_values), ones));
                    }
                } else {
                    __m256i even, odd;
                    two_steps<bits, unit>(codes, step, half, even, odd);
                    for (int m = 0; m < M; ++m) {
                        const int8_t* at = values + m * unit + step * kStep;
                        const __m256i one = _mm256_maddubs_epi16(even, step_of(at)), two = _mm256_maddubs_epi16(odd, step_of(at + kStep));
                        if constexpr (bits == 4) {
                            pairs[m] = _mm256_add_epi16(pairs[m], _mm256_add_epi16(one, two));
                        } else {
                            totals[m] = _mm256_add_epi32(totals[m], _mm256_madd_epi16(one, ones));
                            totals[m] = _mm256_add_epi32(totals[m], _mm256_madd_epi16(two, ones));
                        }
                    }
                }
            }
            for (int m = 0; m < M; ++m) {
                if constexpr (bits == 4) totals[m] = _mm256_add_epi32(totals[m], _mm256_madd_epi16(pairs[m], ones));
                (half ? sums[m].high : sums[m].low) = totals[m];
            }
        }
    }

    // Sixteen rows of sixteen floats to [16 columns, 16].
    static void transpose(const float* from, size_t stride, float* to) {
        for (int rows = 0; rows < 16; rows += 8)
            for (int columns = 0; columns < 16; columns += 8) transpose_eight(from + rows * stride + columns, stride, to + columns * 16 + rows);
    }
    static void transpose_eight(const float* from, size_t stride, float* to) {
        __m256 a[8], b[8];
        for (int row = 0; row < 8; ++row) a[row] = _mm256_loadu_ps(from + row * stride);
        for (int at = 0; at < 8; at += 2) {
            b[at] = _mm256_unpacklo_ps(a[at], a[at + 1]);
            b[at + 1] = _mm256_unpackhi_ps(a[at], a[at + 1]);
        }
        for (int at = 0; at < 8; at += 4)
            for (int half = 0; half < 2; ++half) {
                a[at + 2 * half] = _mm256_shuffle_ps(b[at + half], b[at + half + 2], 0x44);
                a[at + 2 * half + 1] = _mm256_shuffle_ps(b[at + half], b[at + half + 2], 0xee);
            }
        for (int at = 0; at < 4; ++at) {
            _mm256_storeu_ps(to + at * 16, _mm256_permute2f128_ps(a[at], a[at + 4], 0x20));
            _mm256_storeu_ps(to + (at + 4) * 16, _mm256_permute2f128_ps(a[at], a[at + 4], 0x31));
        }
    }

    static int32_t round(const float* from, size_t count, size_t unit, int8_t* codes, float* scale) {
        const __m256i sign = _mm256_set1_epi32(0x7fffffff);
        __m256 values[4];
        __m256i magnitudes = _mm256_setzero_si256();
        for (int part = 0; part < 4; ++part) {
            const int left = static_cast<int>(count) - 8 * part;
            values[part] = left > 0 ? _mm256_maskload_ps(from + 8 * part, mask(left)) : _mm256_setzero_ps();
            magnitudes = _mm256_max_epu32(magnitudes, _mm256_and_si256(_mm256_castps_si256(values[part]), sign));
        }
        alignas(32) uint32_t lanes[8];
        _mm256_store_si256(reinterpret_cast<__m256i*>(lanes), magnitudes);
        uint32_t most_bits = 0;
        for (uint32_t lane : lanes) most_bits = lane > most_bits ? lane : most_bits;
        const float most_value = __builtin_bit_cast(float, most_bits);
        const bool finite = most_bits < 0x7f800000, some = finite && most_value >= 1e-30F;
        *scale = finite ? some ? most_value / 127.0F : 0.0F : __builtin_nanf("");
        const __m256 factor = _mm256_set1_ps(some ? 127.0F / most_value : 0.0F);
        __m256i sums = _mm256_setzero_si256();
        for (int part = 0; part < static_cast<int>(unit) / 8; ++part) {
            const __m256i rounded = some ? _mm256_cvtps_epi32(_mm256_mul_ps(values[part], factor)) : _mm256_setzero_si256();
            sums = _mm256_add_epi32(sums, rounded);
            const __m128i words = _mm_packs_epi32(_mm256_castsi256_si128(rounded), _mm256_extracti128_si256(rounded, 1));
            _mm_storel_epi64(reinterpret_cast<__m128i*>(codes + 8 * part), _mm_packs_epi16(words, words));
        }
        alignas(32) int32_t parts[8];
        _mm256_store_si256(reinterpret_cast<__m256i*>(parts), sums);
        int32_t sum = 0;
        for (int32_t part : parts) sum += part;
        return sum;
    }
};

}  // namespace

const Kernel kAvx2 = kernel_of<Avx2>("avx2");

}  // namespace llmasos
