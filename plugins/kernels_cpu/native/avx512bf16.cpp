// Products of bfloat16 by VDPBF16PS, which adds those of two columns to a lane: first that of the second, each rounded, as Intel's manual defines it
// and Zen 4 computes it.
#include "bf16_pairs.h"

namespace llmasos {
namespace {

struct Pairs : Bf16<Avx512> {
    template <int bits, int unit, int M>
    struct Ready {
        PairsOfCodes<bits> pairs;

        explicit Ready(bool fixed) : pairs(fixed) {}

        LLMASOS_INLINE void add(const uint8_t* codes, const uint8_t* tile, __m512 (&sums)[M]) const {
            __m512 products[M];
            for (int m = 0; m < M; ++m) products[m] = _mm512_setzero_ps();
            Avx512::unpacked<bits, unit>(codes, [&](int step, __m512i line) __attribute__((always_inline)) {
                __m512i outer, inner;
                pairs.unpack(line, outer, inner);
                for (int m = 0; m < M; ++m) {
                    const auto* const values = reinterpret_cast<const int8_t*>(tile) + (m * unit + step * kStep) * sizeof(uint16_t);
                    products[m] = _mm512_dpbf16_ps(products[m], (__m512bh)outer, (__m512bh)Avx512::step_of(values));
                    products[m] = _mm512_dpbf16_ps(products[m], (__m512bh)inner, (__m512bh)Avx512::step_of(values + 2 * sizeof(uint16_t)));
                }
            });
            for (int m = 0; m < M; ++m) sums[m] = _mm512_add_ps(sums[m], products[m]);
        }
    };
};

}  // namespace

const Products kBf16Pairs = products_of<Pairs>;

}  // namespace llmasos
