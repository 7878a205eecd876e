// As with DOTPROD, but two rows of activations at once, by products of two matrices of two rows and eight columns.
#include "neon.h"

namespace llmasos {
namespace {

struct I8mm : Neon {
    template <int bits, int unit, int M>
    static void dot(const uint8_t* codes, const int8_t* values, Ints (&sums)[M]) {
        if constexpr (M == 2) {
            for (int quarter = 0; quarter < 4; ++quarter) {
                // Of two rows of the weights each: row 0 by activations 0 and 1, row 1 by activations 0 and 1.
                int32x4_t first = vdupq_n_s32(0), second = first;
                for (int step = 0; step < unit / static_cast<int>(kStep); step += 2) {
                    int8x16_t even, odd;
                    two_steps<bits, unit>(codes, step, quarter, even, odd);
                    const int32x4_t low = vreinterpretq_s32_s8(even), high = vreinterpretq_s32_s8(odd);
                    const int8x16_t both = vcombine_s8(vld1_s8(values + step * kStep), vld1_s8(values + unit + step * kStep));
                    first = vmmlaq_s32(first, vreinterpretq_s8_s32(vzip1q_s32(low, high)), both);
                    second = vmmlaq_s32(second, vreinterpretq_s8_s32(vzip2q_s32(low, high)), both);
                }
                sums[0].part[quarter] = vaddq_s32(sums[0].part[quarter], vuzp1q_s32(first, second));
                sums[1].part[quarter] = vaddq_s32(sums[1].part[quarter], vuzp2q_s32(first, second));
            }
        } else {
            Neon::dot<bits, unit, M>(codes, values, sums);
        }
    }
};

}  // namespace

const Kernel kI8mm = kernel_of<I8mm>("i8mm");

}  // namespace llmasos
