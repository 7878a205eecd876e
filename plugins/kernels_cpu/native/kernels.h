// The instruction sets that were compiled in, and the products over them.
#pragma once

#include "product.h"

namespace llmasos {

extern const Kernel kScalar;
#if defined(__x86_64__)
extern const Kernel kAvx2, kAvx512, kAvx512Bf16, kAmx;
extern const Products kBf16Pairs;  // by the instruction of AVX512-BF16
#elif defined(__aarch64__)
extern const Kernel kDotprod, kI8mm;
#endif

// The kernel of a name if this processor has its instructions, else null.
const Kernel* kernel(const char* name);

// The names of all that were compiled in, best first, ending with null.
extern const char* const kNames[];

// The fastest of this processor, or the one that the environment variable LLMASOS_KERNELS names; null where that one cannot run.
const Kernel* chosen();

// Calls work(data, i) for each i below count, on any threads.
struct Parallel {
    void (*run)(void* context, void (*work)(void* data, size_t index), size_t count, void* data);
    void* context;
};

// output [count, matrix.rows] = rows @ matrix.T + bias, with the rows rounded to `precision`. With `gated` the upper half of the matrix' rows are gates of the lower one's:
// output [count, matrix.rows / 2] = silu(rows @ upper.T) * (rows @ lower.T); see `can_gate`. False where there is no memory.
bool multiply(const Kernel& kernel, Precision precision, const Matrix& matrix, const Rows& rows, size_t count, float* output, bool gated,
              const Parallel& parallel);

// Whether panels of gates stand against whole panels of what they gate.
constexpr bool can_gate(const Shape& shape) { return shape.rows % (2 * kRows) == 0; }

// Attention of new tokens; `call.queries` is memory of its own. False where there is no memory.
bool attend(const Kernel& kernel, Attention call, const Parallel& parallel);

// Whether all ids of a choice are below the size of the vocabulary.
bool valid(const Choice& choice, size_t vocab);

// A token of each row of logits [vocab], whose choices are valid; -1 where it holds NaN or infinity, or nothing that may be chosen. False where there is no memory.
bool draw(const Kernel& kernel, const float* const* rows, size_t count, size_t vocab, const Choice* choices, int64_t* tokens, const Parallel& parallel);

// Rows of the matrix, dequantised: output [count, columns]. False if an index is not below the number of rows.
bool take_rows(const Matrix& matrix, const int64_t* indices, size_t count, float* output);

}  // namespace llmasos
