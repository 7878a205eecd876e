// Random matrices, activations and indices of random shapes, in memory of exactly their size: every instruction set of this processor gives the
// bits of plain C++, which gives the product of the dequantised weights up to rounding. `random_shapes CASES SEED`; meant to be compiled with
// sanitizers (`make sanitize`).
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <random>
#include <vector>

#include "../pool.h"

using namespace llmasos;

namespace {

struct Random {
    std::mt19937_64 engine;
    int64_t below(int64_t bound) { return static_cast<int64_t>(engine() % static_cast<uint64_t>(bound)); }
    template <class T>
    T one_of(std::initializer_list<T> choices) {
        return choices.begin()[below(static_cast<int64_t>(choices.size()))];
    }
    float normal() { return std::normal_distribution<float>()(engine); }
};

template <class T>
std::unique_ptr<T[]> exactly(size_t count) {
    return std::make_unique<T[]>(count);
}

Shape random_shape(Random& random) {
    Shape shape{};
    const bool large = random.below(50) == 0;  // more groups than are unpacked at once, and more rows than a thread takes
    shape.rows = 1 + random.below(large ? 100 : random.one_of({3, 20, 40}));
    shape.columns = 1 + random.below(large ? 3000 : random.one_of({20, 70, 70, 300}));
    shape.bits = random.one_of({4, 6, 8});
    shape.unit = random.one_of({16, 32});
    shape.group = random.one_of({1, 1, 1, 2, 4, 100});
    shape.zero = random.one_of({Zero::fixed, Zero::stored, Zero::minimum});
    shape.scale = random.one_of({Scale::half, Scale::single, Scale::two_level});
    shape.super = shape.scale == Scale::two_level ? random.one_of({8, 16}) : 1;
    return shape;
}

// Random bytes for codes, zeros and the lower of two levels; numbers near one for all other factors.
void fill(Random& random, const Shape& shape, uint8_t* data) {
    const Layout layout(shape);
    for (size_t at = 0; at < layout.panels * layout.panel_bytes; ++at) data[at] = static_cast<uint8_t>(random.engine());
    const auto near_one = [&] { return 0x3800 | random.below(0x800) | (random.below(2) << 15); };  // a float16 between 0.5 and 2, of either sign
    for (size_t panel = 0; panel < layout.panels; ++panel) {
        uint8_t* const start = data + panel * layout.panel_bytes;
        const auto halves = [&](size_t from, size_t to) {
            for (; from < to; from += 2) {
                const auto half = static_cast<uint16_t>(near_one());
                std::memcpy(start + from, &half, 2);
            }
        };
        if (shape.scale == Scale::half) halves(layout.scales, layout.zeros);
        halves(layout.upper_scales, layout.upper_scales + layout.supers * kRows * 2 * (shape.zero == Zero::minimum ? 2 : 1));
        if (shape.scale == Scale::single)
            for (size_t from = layout.scales; from < layout.zeros; from += 4) {
                const float value = random.normal();
                std::memcpy(start + from, &value, 4);
            }
    }
}

bool same(float a, float b) { return std::memcmp(&a, &b, 4) == 0 || (std::isnan(a) && std::isnan(b)); }

int failed(const char* what, const Shape& shape, size_t count, uint64_t number) {
    std::printf("case %llu: %s: rows %lld columns %lld bits %d unit %d group %d zero %d scale %d super %d, %zu rows of activations\n",
                static_cast<unsigned long long>(number), what, static_cast<long long>(shape.rows), static_cast<long long>(shape.columns), shape.bits,
                shape.unit, shape.group, static_cast<int>(shape.zero), static_cast<int>(shape.scale), shape.super, count);
    return 1;
}

int run(uint64_t number, uint64_t seed) {
    Random random{std::mt19937_64(seed * 1000003 + number)};
    const Shape shape = random_shape(random);
    const Layout layout(shape);
    const auto rows = static_cast<size_t>(shape.rows), columns = static_cast<size_t>(shape.columns);
    const auto count = static_cast<size_t>(1 + random.below(shape.columns > 300 ? 3 : random.one_of({2, 10, 40})));
    const auto data = exactly<uint8_t>(layout.panels * layout.panel_bytes);
    fill(random, shape, data.get());
    const auto x = exactly<float>(count * columns), bias = exactly<float>(rows);
    for (size_t at = 0; at < count * columns; ++at) x[at] = random.normal();
    for (size_t at = 0; at < rows; ++at) bias[at] = random.normal();
    const bool odd = random.below(8) == 0;  // with values that are no numbers, or nearly zero
    if (odd)
        for (int each = 0; each < 3; ++each)
            x[random.below(static_cast<int64_t>(count * columns))] = random.one_of({NAN, INFINITY, -INFINITY, 1e-38F, -1e-33F, 3e38F});
    const Matrix matrix{shape, layout, data.get(), random.below(2) ? bias.get() : nullptr};

    size_t threads = static_cast<size_t>(1 + random.below(3));
    const auto expected = exactly<float>(count * rows), found = exactly<float>(count * rows);
    multiply(*kernel("scalar"), matrix, x.get(), count, expected.get(), pool(threads));
    for (const char* const* name = kNames; *name; ++name) {
        const Kernel* const other = kernel(*name);
        if (!other) continue;
        std::memset(found.get(), 0xff, count * rows * 4);
        multiply(*other, matrix, x.get(), count, found.get(), pool(threads));
        for (size_t at = 0; at < count * rows; ++at)
            if (!same(expected[at], found[at])) return failed(*name, shape, count, number);
    }
    // One row of the matrix, dequantised, against the results of the first activations.
    const int64_t row = random.below(shape.rows);
    const auto weights = exactly<float>(columns);
    if (!take_rows(matrix, &row, 1, weights.get())) return failed("take_rows", shape, count, number);
    if (take_rows(matrix, &shape.rows, 1, weights.get())) return failed("take_rows beyond the last", shape, count, number);
    if (odd) return 0;
    double sum = matrix.bias ? matrix.bias[row] : 0, magnitude = std::fabs(sum), most = 0;
    for (size_t at = 0; at < columns; ++at) {
        sum += static_cast<double>(weights[at]) * x[at];
        magnitude += std::fabs(static_cast<double>(weights[at]) * x[at]);
        most = std::fmax(most, std::fabs(static_cast<double>(x[at])));
    }
    double rounding = 0;
    for (size_t at = 0; at < columns; ++at) rounding += std::fabs(static_cast<double>(weights[at])) * most / 254;
    if (!(std::fabs(expected[row] - sum) <= 1e-5 * magnitude + 1.01 * rounding)) return failed("the product", shape, count, number);
    return 0;
}

}  // namespace

int main(int argc, char** argv) {
    const uint64_t cases = argc > 1 ? std::strtoull(argv[1], nullptr, 10) : 1000, seed = argc > 2 ? std::strtoull(argv[2], nullptr, 10) : 1;
    int failures = 0;
    for (uint64_t number = 0; number < cases && failures < 10; ++number) failures += run(number, seed);
    std::printf("%llu cases, instruction sets", static_cast<unsigned long long>(cases));
    for (const char* const* name = kNames; *name; ++name)
        if (kernel(*name)) std::printf(" %s", *name);
    std::printf(": %d failures\n", failures);
    return failures != 0;
}
