// Chooses the instruction set, and splits a product into panels.
#include "kernels.h"

#include <cstdlib>
#include <cstring>
#include <memory>

#if defined(__aarch64__) && defined(__linux__)
#include <sys/auxv.h>
#elif defined(__aarch64__) && defined(__APPLE__)
#include <sys/sysctl.h>
#endif
#if defined(__x86_64__) && defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace llmasos {
namespace {

#if defined(__x86_64__)

// Linux lets a process use the tiles of AMX only after it asked.
bool tiles_granted() {
#if defined(__linux__)
    constexpr long kRequest = 0x1023, kTileData = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
    return syscall(SYS_arch_prctl, kRequest, kTileData) == 0;
#else
    return false;
#endif
}

bool has_avx2() { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c"); }

bool has_avx512() {
    return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
           __builtin_cpu_supports("avx512vnni");
}

bool has_amx() {
#ifdef LLMASOS_EMULATED_TILES
    return has_avx512();
#endif
    uint32_t a = 7, b, c = 0, d;
    __asm__("cpuid" : "+a"(a), "=b"(b), "+c"(c), "=d"(d));
    constexpr uint32_t kTile = 1U << 24, kInt8 = 1U << 25;
    static const bool granted = has_avx512() && (d & kTile) && (d & kInt8) && tiles_granted();
    return granted;
}

struct Candidate {
    const Kernel* kernel;
    bool (*runs)();
};

const Candidate kCandidates[] = {{&kAmx, has_amx}, {&kAvx512, has_avx512}, {&kAvx2, has_avx2}, {&kScalar, [] { return true; }}};

#elif defined(__aarch64__)

bool has_dotprod() {
#if defined(__linux__)
    return getauxval(AT_HWCAP) & 1UL << 20;  // HWCAP_ASIMDDP
#else
    return true;  // every chip of Apple's
#endif
}

bool has_i8mm() {
#if defined(__linux__)
    return has_dotprod() && (getauxval(AT_HWCAP2) & 1UL << 13);  // HWCAP2_I8MM
#elif defined(__APPLE__)
    int found = 0;
    size_t size = sizeof found;
    return sysctlbyname("hw.optional.arm.FEAT_I8MM", &found, &size, nullptr, 0) == 0 && found;
#else
    return false;
#endif
}

struct Candidate {
    const Kernel* kernel;
    bool (*runs)();
};

const Candidate kCandidates[] = {{&kI8mm, has_i8mm}, {&kDotprod, has_dotprod}, {&kScalar, [] { return true; }}};

#else

struct Candidate {
    const Kernel* kernel;
    bool (*runs)();
};

const Candidate kCandidates[] = {{&kScalar, [] { return true; }}};

#endif

const Kernel* first_that_runs() {
    for (const Candidate& each : kCandidates)
        if (each.runs()) return each.kernel;
    return &kScalar;
}

// Rounding this many activations is worth another call of the threads.
constexpr size_t kManyValues = 1 << 14;

struct Work {
    const Kernel& kernel;
    const Matrix& matrix;
    const float* x;
    float* output;
    Activations activations;
};

void round_row(void* data, size_t index) {
    auto& work = *static_cast<Work*>(data);
    work.kernel.round(work.matrix, work.x + index * work.matrix.shape.columns, index, work.activations);
}

void run_panel(void* data, size_t index) {
    auto& work = *static_cast<Work*>(data);
    work.kernel.run(work.matrix, work.activations, index, work.output);
}

struct Free {
    void operator()(void* memory) const { std::free(memory); }
};

// The value of one code; see `Scalar::code`.
int code_at(const Shape& shape, const uint8_t* codes, size_t step, size_t place) {
    if (shape.bits == 8) return codes[step * kLine + place];
    const int low = codes[step / 2 * kLine + place] >> (step % 2 * 4) & 15;
    if (shape.bits == 4) return low;
    return low | (codes[(shape.unit / 8 + step / 4) * kLine + place] >> (step % 4 * 2) & 3) << 4;
}

float half_at(const uint8_t* part, size_t index) {
    uint16_t half;
    std::memcpy(&half, part + 2 * index, 2);
    return from_half(half);
}

float factor_at(const Shape& shape, const uint8_t* part, const uint8_t* upper, size_t group, size_t lane) {
    const size_t index = group * kRows + lane;
    if (shape.scale == Scale::half) return half_at(part, index);
    if (shape.scale == Scale::two_level) return static_cast<float>(static_cast<int8_t>(part[index])) * half_at(upper, group / shape.super * kRows + lane);
    float value;
    std::memcpy(&value, part + 4 * index, 4);
    return value;
}

}  // namespace

const char* const kNames[] = {
#if defined(__x86_64__)
    "amx", "avx512", "avx2",
#elif defined(__aarch64__)
    "i8mm", "dotprod",
#endif
    "scalar", nullptr};

const Kernel* kernel(const char* name) {
    for (const Candidate& each : kCandidates)
        if (std::strcmp(each.kernel->name, name) == 0) return each.runs() ? each.kernel : nullptr;
    return nullptr;
}

const Kernel* chosen() {
    const char* forced = std::getenv("LLMASOS_KERNELS");
    if (forced && *forced) return kernel(forced);
    static const Kernel* const best = first_that_runs();
    return best;
}

bool multiply(const Kernel& kernel, const Matrix& matrix, const float* x, size_t rows, float* output, const Parallel& parallel) {
    if (!rows) return true;
    const Layout& layout = matrix.layout;
    const size_t units = layout.units, codes = rows * units * matrix.shape.unit;
    const size_t sums = varies(matrix.shape) ? rows * layout.groups : 0;
    const size_t bytes = (rows * units * 8 + sums * 4 + codes + 63) / 64 * 64;
    const std::unique_ptr<uint8_t, Free> memory(static_cast<uint8_t*>(std::aligned_alloc(64, bytes)));
    if (!memory) return false;
    Work work{kernel, matrix, x, output, {}};
    Activations& input = work.activations;
    input.rows = rows;
    input.units = units;
    input.groups = layout.groups;
    input.codes = reinterpret_cast<int8_t*>(memory.get());
    input.scales = reinterpret_cast<float*>(memory.get() + codes);
    input.offsets = reinterpret_cast<int32_t*>(input.scales + rows * units);
    input.sums = sums ? reinterpret_cast<float*>(input.offsets + rows * units) : nullptr;
    if (codes >= kManyValues) {
        parallel.run(parallel.context, round_row, rows, &work);
    } else {
        for (size_t row = 0; row < rows; ++row) round_row(&work, row);
    }
    parallel.run(parallel.context, run_panel, layout.panels, &work);
    return true;
}

bool take_rows(const Matrix& matrix, const int64_t* indices, size_t count, float* output) {
    const Shape& shape = matrix.shape;
    const Layout& layout = matrix.layout;
    const size_t unit = shape.unit;
    for (size_t at = 0; at < count; ++at, output += shape.columns) {
        if (indices[at] < 0 || indices[at] >= shape.rows) return false;
        const size_t lane = indices[at] % kRows;
        const uint8_t* panel = matrix.data + indices[at] / kRows * layout.panel_bytes;
        for (size_t column = 0; column < static_cast<size_t>(shape.columns); ++column) {
            const size_t index = column / unit, group = index / shape.group, within = column % unit;
            const int code = code_at(shape, panel + layout.codes + index * layout.unit_bytes, within / kStep, lane * kStep + within % kStep);
            const float scale = factor_at(shape, panel + layout.scales, panel + layout.upper_scales, group, lane);
            if (shape.zero == Zero::minimum) {
                output[column] = scale * static_cast<float>(code);
                output[column] += factor_at(shape, panel + layout.minimums, panel + layout.upper_minimums, group, lane);
            } else {
                const int zero = shape.zero == Zero::stored ? panel[layout.zeros + group * kRows + lane] : 1 << (shape.bits - 1);
                output[column] = scale * static_cast<float>(code - zero);
            }
        }
    }
    return true;
}

}  // namespace llmasos
