// The C interface, for ctypes. Each call returns 0, or one of the errors below.
#include <cstring>
#include <vector>

#include "pool.h"

#define EXPORT extern "C" __attribute__((visibility("default")))

using namespace llmasos;

namespace {

enum Error { kFine = 0, kBadShape = 1, kBadKernel = 2, kNoMemory = 3, kBadIndex = 4, kBadSize = 5, kBadPlace = 6, kBadPrecision = 7 };

// Fills the matrix from what a caller passes, with the size of its data checked.
int matrix_of(const Shape* shape, const uint8_t* data, int64_t size, const float* bias, Matrix* matrix) {
    if (!valid(*shape)) return kBadShape;
    const Layout layout(*shape);
    if (size < 0 || static_cast<size_t>(size) != layout.panels * layout.panel_bytes) return kBadSize;
    *matrix = Matrix{*shape, layout, data, bias};
    return kFine;
}

// The instruction set of a name, or with none the one that is chosen; null where it does not run here.
const Kernel* named(const char* name) { return name ? kernel(name) : chosen(); }

// A number that a caller passes, or `least` where that is larger.
size_t at_least(int64_t least, int64_t number) { return static_cast<size_t>(number < least ? least : number); }

}  // namespace

// The names of the instruction sets that were compiled in, best first, separated by spaces.
EXPORT const char* llmasos_kernels_names() {
    static char names[64];
    if (!*names)
        for (const char* const* name = kNames; *name; ++name) {
            if (*names) std::strcat(names, " ");
            std::strcat(names, *name);
        }
    return names;
}

// Whether this processor has the instructions.
EXPORT int llmasos_kernels_runs(const char* name) { return kernel(name) != nullptr; }

// The instruction set that products use, or null where the one that LLMASOS_KERNELS names cannot run here.
EXPORT const char* llmasos_kernels_chosen() {
    const Kernel* found = chosen();
    return found ? found->name : nullptr;
}

// Bytes of a packed matrix; 0 for an impossible shape.
EXPORT int64_t llmasos_kernels_bytes(const Shape* shape) {
    if (!valid(*shape)) return 0;
    const Layout layout(*shape);
    return static_cast<int64_t>(layout.panels * layout.panel_bytes);
}

// output [count, rows] = x [count, columns] @ matrix.T + bias. `name` null: the instruction set that is chosen. `precision`: the number of a
// `Precision`, to which x is rounded. `addend` [count, columns] is added
// to x first, and kept in `sum` unless that is null; then the RMS norm with `gamma` [columns] is taken, if that is not null. With `gated` the
// first half of the rows are gates of the other: output [count, rows / 2].
EXPORT int llmasos_kernels_multiply(const char* name, int64_t precision, const Shape* shape, const uint8_t* data, int64_t size, const float* bias,
                                    const float* x, const float* addend, const float* gamma, float epsilon, float* sum, int gated, int64_t count,
                                    int64_t threads, float* output) {
    Matrix matrix;
    if (const int error = matrix_of(shape, data, size, bias, &matrix)) return error;
    const Kernel* const found = named(name);
    if (!found) return kBadKernel;
    if (precision < 0 || precision >= static_cast<int64_t>(kPrecisions)) return kBadPrecision;
    if (gated && !can_gate(*shape)) return kBadShape;
    size_t most = at_least(1, threads);
    const Rows rows{x, addend, gamma, epsilon, sum};
    return multiply(*found, static_cast<Precision>(precision), matrix, rows, at_least(0, count), output, gated, pool(most)) ? kFine : kNoMemory;
}

// Attention of `count` tokens whose queries, keys and values lie side by side: `states` [count, (heads + 2 * kv_heads) * width]. Their keys and values
// are written to `keys` and `values` [sequences, kv_heads, length, width] at `places` [count, 2], of a sequence and a position. Cosines and sines
// [length, width / 2], or null. Output [count, heads * width].
EXPORT int llmasos_kernels_attend(const char* name, int64_t heads, int64_t kv_heads, int64_t width, int64_t window, float scale, float softcap,
                                  const float* states, const int64_t* places, int64_t count, const float* cosines, const float* sines, float* keys,
                                  float* values, int64_t length, int64_t threads, float* output) {
    const Kernel* const found = named(name);
    if (!found) return kBadKernel;
    const AttentionShape shape{static_cast<size_t>(heads), static_cast<size_t>(kv_heads), static_cast<size_t>(width),
                               static_cast<size_t>(window), scale, softcap};
    if (!valid(shape)) return kBadShape;
    std::vector<Place> where(at_least(0, count));
    for (size_t at = 0; at < where.size(); ++at) {
        where[at] = {static_cast<size_t>(places[2 * at]), static_cast<size_t>(places[2 * at + 1])};
        if (places[2 * at] < 0 || places[2 * at + 1] < 0 || places[2 * at + 1] >= length) return kBadPlace;
    }
    if (!in_order(where.data(), where.size())) return kBadPlace;
    const size_t step = (shape.heads + 2 * shape.kv_heads) * shape.width;
    const float* const own_keys = states + shape.heads * shape.width;
    const Attention call{shape, where.size(), where.data(), states, own_keys, own_keys + shape.kv_heads * shape.width, step, step, step,
                         cosines, sines, keys, values, static_cast<size_t>(length), nullptr, output};
    size_t most = at_least(1, threads);
    return attend(*found, call, pool(most)) ? kFine : kNoMemory;
}

// output [count, columns]: rows of the matrix, dequantised.
EXPORT int llmasos_kernels_take_rows(const Shape* shape, const uint8_t* data, int64_t size, const int64_t* indices, int64_t count, float* output) {
    Matrix matrix;
    if (const int error = matrix_of(shape, data, size, nullptr, &matrix)) return error;
    return take_rows(matrix, indices, at_least(0, count), output) ? kFine : kBadIndex;
}

// A token of each of `count` rows of logits, each [vocab], on up to `threads` threads: tokens [count], -1 where a row has none. The rows lie where
// `rows` says, or with null one after another from `logits` on.
EXPORT int llmasos_kernels_draw(const char* name, const float* const* rows, const float* logits, int64_t count, int64_t vocab, const Choice* choices,
                                int64_t* tokens, int64_t threads) {
    const Kernel* const found = named(name);
    if (!found) return kBadKernel;
    if (vocab < 1) return kBadShape;
    for (int64_t at = 0; at < count; ++at)
        if (!valid(choices[at], static_cast<size_t>(vocab))) return kBadIndex;
    std::vector<const float*> places(rows ? 0 : at_least(0, count));
    for (size_t at = 0; at < places.size(); ++at) places[at] = logits + at * static_cast<size_t>(vocab);
    size_t most = at_least(1, threads);
    return draw(*found, rows ? rows : places.data(), at_least(0, count), static_cast<size_t>(vocab), choices, tokens, pool(most)) ? kFine : kNoMemory;
}

// The sum of the 64-bit words of a memory, read by the threads that multiply: what the memory allows.
EXPORT uint64_t llmasos_kernels_read(const uint64_t* memory, int64_t words, int64_t threads) {
    struct Sums {
        const uint64_t* memory;
        size_t words;
        uint64_t parts[64];
    } sums{memory, static_cast<size_t>(words), {}};
    size_t most = at_least(1, threads);
    run_in_pool(
        &most,
        [](void* data, size_t part) {
            auto& all = *static_cast<Sums*>(data);
            uint64_t sum[8] = {};
            const size_t end = all.words * (part + 1) / 64;
            for (size_t at = all.words * part / 64; at + 8 <= end; at += 8)
                for (size_t lane = 0; lane < 8; ++lane) sum[lane] += all.memory[at + lane];
            all.parts[part] = sum[0] + sum[1] + sum[2] + sum[3] + sum[4] + sum[5] + sum[6] + sum[7];
        },
        64, &sums);
    uint64_t total = 0;
    for (const uint64_t part : sums.parts) total += part;
    return total;
}
