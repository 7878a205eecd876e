// The C interface, for ctypes. Each call returns 0, or one of the errors below.
#include <cstring>

#include "pool.h"

#define EXPORT extern "C" __attribute__((visibility("default")))

using namespace llmasos;

namespace {

enum Error { kFine = 0, kBadShape = 1, kBadKernel = 2, kNoMemory = 3, kBadIndex = 4, kBadSize = 5 };

// Fills the matrix from what a caller passes, with the size of its data checked.
int matrix_of(const Shape* shape, const uint8_t* data, int64_t size, const float* bias, Matrix* matrix) {
    if (!valid(*shape)) return kBadShape;
    const Layout layout(*shape);
    if (size < 0 || static_cast<size_t>(size) != layout.panels * layout.panel_bytes) return kBadSize;
    *matrix = Matrix{*shape, layout, data, bias};
    return kFine;
}

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

// output [count, rows] = x [count, columns] @ matrix.T + bias. `name` null: the instruction set that is chosen.
EXPORT int llmasos_kernels_multiply(const char* name, const Shape* shape, const uint8_t* data, int64_t size, const float* bias, const float* x,
                                    int64_t count, int64_t threads, float* output) {
    Matrix matrix;
    if (const int error = matrix_of(shape, data, size, bias, &matrix)) return error;
    const Kernel* const found = name ? kernel(name) : chosen();
    if (!found) return kBadKernel;
    size_t most = threads < 1 ? 1 : static_cast<size_t>(threads);
    return multiply(*found, matrix, x, count < 0 ? 0 : static_cast<size_t>(count), output, pool(most)) ? kFine : kNoMemory;
}

// output [count, columns]: rows of the matrix, dequantised.
EXPORT int llmasos_kernels_take_rows(const Shape* shape, const uint8_t* data, int64_t size, const int64_t* indices, int64_t count, float* output) {
    Matrix matrix;
    if (const int error = matrix_of(shape, data, size, nullptr, &matrix)) return error;
    return take_rows(matrix, indices, count < 0 ? 0 : static_cast<size_t>(count), output) ? kFine : kBadIndex;
}

// The sum of the 64-bit words of a memory, read by the threads that multiply: what the memory allows.
EXPORT uint64_t llmasos_kernels_read(const uint64_t* memory, int64_t words, int64_t threads) {
    struct Sums {
        const uint64_t* memory;
        size_t words;
        uint64_t parts[64];
    } sums{memory, static_cast<size_t>(words), {}};
    size_t most = threads < 1 ? 1 : static_cast<size_t>(threads);
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
