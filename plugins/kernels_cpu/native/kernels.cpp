// Chooses the instruction set, and splits a product into panels.
#include "kernels.h"

#include <atomic>
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

bool has_avx512_bf16() { return has_avx512() && __builtin_cpu_supports("avx512bf16"); }

bool has_amx() {
#ifdef LLMASOS_EMULATED_TILES
    return has_avx512();
#endif
    // Asked once: a virtual machine takes microseconds for the answer.
    static const bool granted = [] {
        uint32_t a = 7, b, c = 0, d;
        __asm__("cpuid" : "+a"(a), "=b"(b), "+c"(c), "=d"(d));
        constexpr uint32_t kBf16 = 1U << 22, kTile = 1U << 24, kInt8 = 1U << 25, kAll = kBf16 | kTile | kInt8;
        return has_avx512() && (d & kAll) == kAll && tiles_granted();
    }();
    return granted;
}

struct Candidate {
    const Kernel* kernel;
    bool (*runs)();
};

const Candidate kCandidates[] = {{&kAmx, has_amx}, {&kAvx512Bf16, has_avx512_bf16}, {&kAvx512, has_avx512}, {&kAvx2, has_avx2}, {&kScalar, [] { return true; }}};

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

// Activations whose gates and gated values are computed before they are multiplied; a multiple of the largest tile.
constexpr size_t kGated = 128;

struct Work {
    const Kernel& kernel;
    const Products& products;
    const Matrix& matrix;
    const Rows& rows;
    float* output;
    Activations activations;
};

void round_row(void* data, size_t index) {
    auto& work = *static_cast<Work*>(data);
    work.products.round(work.matrix, work.rows, index, work.activations);
}

void run_panel(void* data, size_t index) {
    auto& work = *static_cast<Work*>(data);
    const size_t rows = work.matrix.shape.rows;
    work.products.run(work.matrix, work.activations, index, 0, work.activations.rows, work.output + index * kRows, rows);
}

void run_gated_panel(void* data, size_t index) {
    auto& work = *static_cast<Work*>(data);
    const size_t half = work.matrix.shape.rows / 2, rows = work.activations.rows;
    alignas(64) float gates[kGated * kRows], ups[kGated * kRows];
    for (size_t first = 0; first < rows; first += kGated) {
        const size_t last = rows - first < kGated ? rows : first + kGated;
        work.products.run(work.matrix, work.activations, index, first, last, gates, kRows);
        work.products.run(work.matrix, work.activations, index + half / kRows, first, last, ups, kRows);
        for (size_t row = first; row < last; ++row)
            work.kernel.gate(gates + (row - first) * kRows, ups + (row - first) * kRows, work.output + row * half + index * kRows);
    }
}

struct Free {
    void operator()(void* memory) const { std::free(memory); }
};

using Memory = std::unique_ptr<uint8_t, Free>;

Memory allocate(size_t bytes) { return Memory(static_cast<uint8_t*>(std::aligned_alloc(64, (bytes + 63) / 64 * 64))); }

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
    "amx", "avx512bf16", "avx512", "avx2",
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

bool multiply(const Kernel& kernel, Precision precision, const Matrix& matrix, const Rows& rows, size_t count, float* output, bool gated,
              const Parallel& parallel) {
    if (!count) return true;
    const Layout& layout = matrix.layout;
    const size_t of_row = layout.units * unit_share(precision, matrix.shape.unit), tiles = count * of_row;
    const size_t sums = varies(matrix.shape) ? count * layout.groups : 0;
    const Memory memory = allocate(tiles + sums * sizeof(float));
    if (!memory) return false;
    const Products& products = *kernel.products[static_cast<size_t>(precision)];
    Work work{kernel, products, matrix, rows, output, {count, layout.units, layout.groups, of_row, memory.get(), nullptr}};
    if (sums) work.activations.sums = reinterpret_cast<float*>(memory.get() + tiles);
    if (tiles >= kManyValues) {
        parallel.run(parallel.context, round_row, count, &work);
    } else {
        for (size_t row = 0; row < count; ++row) round_row(&work, row);
    }
    if (gated) {
        parallel.run(parallel.context, run_gated_panel, layout.panels / 2, &work);
    } else {
        parallel.run(parallel.context, run_panel, layout.panels, &work);
    }
    return true;
}

namespace {

// Floats of scores that a part of an attention may take, where one token does not take more; and tokens of a part.
constexpr size_t kScores = 24 << 10;
constexpr size_t kTokens = 16;

struct AttentionPart {
    size_t first, count, kv_head;
};

struct AttentionWork {
    const Kernel& kernel;
    const Attention& call;
    const AttentionPart* parts;
    size_t count;
    std::atomic<bool> failed{false};
};

void prepare_token(void* data, size_t index) {
    const auto& work = *static_cast<AttentionWork*>(data);
    const Place* places = work.call.places;
    // Keys of a token that is repeated, to make the number of tokens even, are written once.
    const bool repeated = index && places[index].sequence == places[index - 1].sequence && places[index].position == places[index - 1].position;
    work.kernel.prepare(work.call, index, !repeated);
}

void attend_part(void* data, size_t index) {
    auto& work = *static_cast<AttentionWork*>(data);
    // Later tokens of a prompt see more than earlier ones: taken from both ends in turn, the threads' shares are alike.
    const AttentionPart& part = work.parts[index % 2 ? work.count - 1 - index / 2 : index / 2];
    const size_t first = work.call.first_seen(work.call.places[part.first].position);
    const size_t positions = work.call.places[part.first + part.count - 1].position + 1 - first / kKeys * kKeys;
    const Memory memory = allocate(scratch_floats(work.call.shape, part.count, positions) * sizeof(float));
    if (!memory) {
        work.failed = true;
        return;
    }
    work.kernel.attend(work.call, part.first, part.count, part.kv_head, reinterpret_cast<float*>(memory.get()));
}

}  // namespace

bool attend(const Kernel& kernel, Attention call, const Parallel& parallel) {
    if (!call.count) return true;
    const size_t states = call.count * call.shape.heads * call.shape.width, group = call.shape.heads / call.shape.kv_heads;
    const Memory memory = allocate(states * sizeof(float));
    const Memory list = allocate(call.count * call.shape.kv_heads * sizeof(AttentionPart));
    if (!memory || !list) return false;
    call.queries = reinterpret_cast<float*>(memory.get());
    auto* const parts = reinterpret_cast<AttentionPart*>(list.get());
    size_t count = 0;
    for (size_t first = 0, next; first < call.count; first = next) {
        const size_t most = kScores / (group * (call.places[first].position + kTokens)), limit = most < 1 ? 1 : most < kTokens ? most : kTokens;
        next = first + 1;
        while (next < call.count && next - first < limit && call.places[next].sequence == call.places[first].sequence) ++next;
        for (size_t head = 0; head < call.shape.kv_heads; ++head) parts[count++] = {first, next - first, head};
    }
    AttentionWork work{kernel, call, parts, count};
    if (states >= kManyValues) {
        parallel.run(parallel.context, prepare_token, call.count, &work);
    } else {
        for (size_t token = 0; token < call.count; ++token) prepare_token(&work, token);
    }
    parallel.run(parallel.context, attend_part, count, &work);
    return !work.failed;
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
