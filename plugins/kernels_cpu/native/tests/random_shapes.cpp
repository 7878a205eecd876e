// Random matrices, activations and indices of random shapes, in every fourth case attention, and in every fourth draws, in memory of exactly their size: every
// instruction set of this processor gives the bits of plain C++, which gives the product of the dequantised weights up to rounding. A third of the
// products have activations in bfloat16, which AMX adds in an order of its own: there its own product is that of the weights, and that of the last
// row alone has the same bits.
// `random_shapes CASES SEED FIRST` runs so many cases of a seed from the case FIRST on; meant to be compiled with sanitizers (`make sanitize`).
#include <algorithm>
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
    // A sum of four uniform numbers, all of one draw: nearly of the normal distribution, with the variance 1.
    float normal() {
        const uint64_t draw = engine();
        float sum = 0;
        for (int part = 0; part < 4; ++part) sum += static_cast<float>(draw >> 16 * part & 0xffff) - 32767.5F;
        return sum * (1 / 37837.2F);
    }
    void bytes(uint8_t* to, size_t count) {
        for (size_t at = 0; at < count; at += sizeof(uint64_t)) {
            const uint64_t draw = engine();
            std::memcpy(to + at, &draw, count - at < sizeof draw ? count - at : sizeof draw);
        }
    }
};

void run_forwards(void*, void (*work)(void* data, size_t index), size_t count, void* data) {
    for (size_t index = 0; index < count; ++index) work(data, index);
}

void run_backwards(void*, void (*work)(void* data, size_t index), size_t count, void* data) {
    while (count--) work(data, count);
}

// The parts of what is expected, one by one.
constexpr Parallel kForwards{run_forwards, nullptr};

// The parts of what is compared with that: the last one first, since none may count on those before it, and by threads in every eighth case.
// Threads wait for each other longer than they compute in cases as small as these.
Parallel otherwise(Random& random, size_t& threads) {
    threads = static_cast<size_t>(2 + random.below(2));
    return random.below(8) ? Parallel{run_backwards, nullptr} : pool(threads);
}

// What is compared with plain C++: the other instruction sets of this processor, or where there is none plain C++ in other parts.
const std::vector<const Kernel*>& compared() {
    static const auto found = [] {
        std::vector<const Kernel*> kernels;
        for (const char* const* name = kNames; *name; ++name)
            if (const Kernel* const each = kernel(*name); each && (each != &kScalar || kernels.empty())) kernels.push_back(each);
        return kernels;
    }();
    return found;
}

template <class T>
std::unique_ptr<T[]> exactly(size_t count) {
    return std::make_unique<T[]>(count);
}

Shape random_shape(Random& random) {
    Shape shape{};
    const bool large = random.below(50) == 0;  // more groups than are unpacked at once, and more rows than a thread takes
    shape.rows = random.below(6) ? 1 + random.below(large ? 100 : random.one_of({3, 20, 40})) : 32 * (1 + random.below(3));
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
    random.bytes(data, layout.panels * layout.panel_bytes);
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

// What a row's products with 1 are sums of at most: the weights where all codes are 0, and what the largest codes add to them. Where these
// cancel each other a weight is smaller than they are, and the float error of a product is one of the terms.
std::unique_ptr<float[]> largest_terms(const Matrix& matrix, int64_t row) {
    const Layout& layout = matrix.layout;
    const size_t bytes = layout.panels * layout.panel_bytes, columns = static_cast<size_t>(matrix.shape.columns);
    const auto data = exactly<uint8_t>(bytes);
    auto lowest = exactly<float>(columns);
    const auto highest = exactly<float>(columns);
    for (const auto& [code, weights] : {std::pair{0, lowest.get()}, std::pair{0xff, highest.get()}}) {
        std::memcpy(data.get(), matrix.data, bytes);
        for (size_t panel = 0; panel < layout.panels; ++panel)
            std::memset(data.get() + panel * layout.panel_bytes + layout.codes, code, layout.panel_bytes - layout.codes);
        take_rows(Matrix{matrix.shape, layout, data.get(), nullptr}, &row, 1, weights);
    }
    for (size_t at = 0; at < columns; ++at) lowest[at] = std::fabs(lowest[at]) + std::fabs(highest[at] - lowest[at]);
    return lowest;
}

bool same(const float* a, const float* b, size_t count) {
    for (size_t at = 0; at < count; ++at)
        if (std::memcmp(a + at, b + at, sizeof(float)) != 0 && !(std::isnan(a[at]) && std::isnan(b[at]))) return false;
    return true;
}

int failed(const char* what, const Shape& shape, size_t count, uint64_t number) {
    std::printf("case %llu: %s: rows %lld columns %lld bits %d unit %d group %d zero %d scale %d super %d, %zu rows of activations\n",
                static_cast<unsigned long long>(number), what, static_cast<long long>(shape.rows), static_cast<long long>(shape.columns), shape.bits,
                shape.unit, shape.group, static_cast<int>(shape.zero), static_cast<int>(shape.scale), shape.super, count);
    return 1;
}

// Whether a product is that of a row of weights and the activations, up to their rounding.
bool near(const Matrix& matrix, Precision precision, const float* weights, int64_t row, const float* x, float product) {
    const auto columns = static_cast<size_t>(matrix.shape.columns);
    const auto terms = largest_terms(matrix, row);
    double sum = matrix.bias ? matrix.bias[row] : 0, products = 0, cancelled = 0, all_weights = 0, most = 0;
    for (size_t at = 0; at < columns; ++at) {
        sum += static_cast<double>(weights[at]) * x[at];
        products += std::fabs(static_cast<double>(weights[at]) * x[at]);
        cancelled += std::fabs(static_cast<double>(terms[at]) * x[at]);
        all_weights += std::fabs(static_cast<double>(weights[at]));
        most = std::fmax(most, std::fabs(static_cast<double>(x[at])));
    }
    const double rounding = precision == Precision::bf16 ? products / 256 : all_weights * most / 254, bias = matrix.bias ? std::fabs(matrix.bias[row]) : 0;
    return std::fabs(product - sum) <= 1e-5 * (products + bias) + 1e-6 * cancelled + 1.01 * rounding;
}

int run(uint64_t number, uint64_t seed) {
    Random random{std::mt19937_64(seed * 1000003 + number)};
    const Shape shape = random_shape(random);
    const Layout layout(shape);
    const auto rows = static_cast<size_t>(shape.rows), columns = static_cast<size_t>(shape.columns);
    const auto count = static_cast<size_t>(1 + random.below(random.one_of(shape.columns > 300 ? std::initializer_list<int>{3, 3, 3, 40} : std::initializer_list<int>{2, 10, 40})));
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

    // A third of the products with a sum or a norm before them, and gated where panels stand against panels.
    const auto gamma = exactly<float>(columns), addend = exactly<float>(count * columns), totals = exactly<float>(count * columns);
    for (size_t at = 0; at < columns; ++at) gamma[at] = random.normal();
    for (size_t at = 0; at < count * columns; ++at) addend[at] = random.normal();
    const bool fused = random.below(3) == 0, added = fused && random.below(2);
    const Rows input{x.get(), added ? addend.get() : nullptr, fused && random.below(4) ? gamma.get() : nullptr, 1e-5F, added ? totals.get() : nullptr};
    const bool gated = can_gate(shape) && random.below(2);
    const size_t results = gated ? rows / 2 : rows;
    const Precision precision = random.below(3) ? Precision::int8 : Precision::bf16;

    // One row of the matrix, dequantised, against the results of the first activations.
    const int64_t row = random.below(shape.rows);
    const auto weights = exactly<float>(columns);
    if (take_rows(matrix, &shape.rows, 1, weights.get())) return failed("take_rows beyond the last", shape, count, number);
    if (!take_rows(matrix, &row, 1, weights.get())) return failed("take_rows", shape, count, number);
    const auto right = [&](const float* products) { return odd || fused || gated || near(matrix, precision, weights.get(), row, x.get(), products[row]); };

    size_t threads;
    const Parallel parts = otherwise(random, threads);
    const auto expected = exactly<float>(count * results), found = exactly<float>(count * results);
    multiply(kScalar, precision, matrix, input, count, expected.get(), gated, kForwards);
    if (!right(expected.get())) return failed("the product", shape, count, number);
    for (const Kernel* const other : compared()) {
        std::memset(found.get(), 0xff, count * results * 4);
        multiply(*other, precision, matrix, input, count, found.get(), gated, parts);
        if (precision == Precision::int8 || std::strcmp(other->name, "amx") != 0) {
            if (!same(expected.get(), found.get(), count * results)) return failed(other->name, shape, count, number);
            continue;
        }
        if (!right(found.get())) return failed("the product by AMX", shape, count, number);
        const size_t last = (count - 1) * columns;
        const Rows of_last{input.x + last, added ? input.addend + last : nullptr, input.gamma, input.epsilon, nullptr};
        const auto alone = exactly<float>(results);
        multiply(*other, precision, matrix, of_last, 1, alone.get(), gated, parts);
        if (!same(alone.get(), found.get() + (count - 1) * results, results)) return failed("the last row alone by AMX", shape, count, number);
    }
    return 0;
}

// New tokens of several sequences, after random numbers of earlier ones.
int attend_randomly(uint64_t number, uint64_t seed) {
    Random random{std::mt19937_64(seed * 1000033 + number)};
    AttentionShape shape{};
    shape.kv_heads = static_cast<size_t>(1 + random.below(3));
    shape.heads = shape.kv_heads * static_cast<size_t>(1 + random.below(6));
    shape.width = 16 * static_cast<size_t>(random.one_of({1, 2, 3, 4, 5, 8}));
    shape.window = static_cast<size_t>(random.one_of({0, 0, 1, 7, 40}));
    shape.scale = random.normal();
    shape.softcap = random.below(4) ? 0.0F : 5.0F;
    const auto sequences = static_cast<size_t>(1 + random.below(3)), length = static_cast<size_t>(1 + random.below(random.one_of({20, 70, 70, 400})));
    std::vector<Place> places;
    for (size_t sequence = 0; sequence < sequences; ++sequence) {
        const auto begin = static_cast<size_t>(random.below(static_cast<int64_t>(length))), left = length - begin;
        const auto count = static_cast<size_t>(random.below(2) ? random.below(2) : random.below(static_cast<int64_t>(left < 40 ? left : 40) + 1));
        for (size_t at = 0; at < count && at < left; ++at) places.push_back({sequence, begin + at});
    }
    if (places.empty()) places.push_back({0, 0});
    if (random.below(4) == 0) places.push_back(places.back());  // repeated, as to make the number even
    const size_t count = places.size(), step = (shape.heads + 2 * shape.kv_heads) * shape.width, outputs = count * shape.heads * shape.width;
    const size_t cache = sequences * shape.kv_heads * length * shape.width, angles = length * shape.width / 2;
    const auto states = exactly<float>(count * step), cosines = exactly<float>(angles), sines = exactly<float>(angles);
    const auto keys = exactly<float>(cache), values = exactly<float>(cache), expected = exactly<float>(outputs), found = exactly<float>(outputs);
    for (size_t at = 0; at < count * step; ++at) states[at] = random.normal();
    if (random.below(8) == 0) states[random.below(static_cast<int64_t>(count * step))] = random.one_of({NAN, INFINITY, -INFINITY, 1e-38F, 3e38F});
    if (places.size() > 1 && places[count - 1].position == places[count - 2].position && places[count - 1].sequence == places[count - 2].sequence)
        std::memcpy(&states[(count - 1) * step], &states[(count - 2) * step], step * sizeof(float));
    for (size_t at = 0; at < angles; ++at) cosines[at] = random.normal(), sines[at] = random.normal();
    for (size_t at = 0; at < cache; ++at) keys[at] = random.normal(), values[at] = random.normal();
    const bool rotates = random.below(4) != 0;
    size_t threads;
    const Parallel shared = otherwise(random, threads);
    const float* const own = states.get() + shape.heads * shape.width;
    const auto compute = [&](const Kernel& kernel, const Parallel& parts, size_t first, size_t some, float* output) {
        const Attention call{shape, some, places.data() + first, states.get() + first * step, own + first * step, own + first * step + shape.kv_heads * shape.width,
                             step, step, step, rotates ? cosines.get() : nullptr, rotates ? sines.get() : nullptr, keys.get(), values.get(), length,
                             nullptr, output};
        return attend(kernel, call, parts);
    };
    compute(kScalar, kForwards, 0, count, expected.get());
    const auto differs = [&](size_t from, size_t size) { return !same(expected.get() + from, found.get() + from, size); };
    const auto report = [&](const char* what) {
        std::printf("case %llu: attention, %s: heads %zu of %zu, width %zu, window %zu, length %zu, %zu tokens\n", static_cast<unsigned long long>(number), what,
                    shape.heads, shape.kv_heads, shape.width, shape.window, length, count);
        return 1;
    };
    // Each has to write the keys and values of the new tokens itself.
    const auto forget = [&] {
        for (const Place& place : places)
            for (size_t head = 0; head < shape.kv_heads; ++head) {
                const size_t at = ((place.sequence * shape.kv_heads + head) * length + place.position) * shape.width;
                std::fill_n(&keys[at], shape.width, NAN), std::fill_n(&values[at], shape.width, NAN);
            }
    };
    for (const Kernel* const other : compared()) {
        forget();
        std::memset(found.get(), 0xff, outputs * sizeof(float));
        compute(*other, shared, 0, count, found.get());
        if (differs(0, outputs)) return report(other->name);
    }
    // The last token alone: its keys and those before it are written already.
    const size_t own_outputs = shape.heads * shape.width;
    compute(*chosen(), shared, count - 1, 1, found.get() + outputs - own_outputs);
    return differs(outputs - own_outputs, own_outputs) ? report("the last token alone") : 0;
}

// Tokens from rows of random logits, some of them equal, forbidden or no numbers.
int draw_randomly(uint64_t number, uint64_t seed) {
    Random random{std::mt19937_64(seed * 1000037 + number)};
    const auto vocab = static_cast<size_t>(1 + random.below(random.one_of({3, 300, 3000}))), count = static_cast<size_t>(1 + random.below(3));
    std::vector<std::unique_ptr<float[]>> kept;
    std::vector<std::unique_ptr<int64_t[]>> kept_ids;
    std::vector<const float*> rows;
    std::vector<Choice> choices;
    const auto floats = [&](size_t size, float scale) {
        kept.push_back(exactly<float>(size));
        for (size_t at = 0; at < size; ++at) kept.back()[at] = scale * random.normal();
        return kept.back().get();
    };
    const auto ids = [&](size_t size) {
        kept_ids.push_back(exactly<int64_t>(size));
        for (size_t at = 0; at < size; ++at) kept_ids.back()[at] = random.below(static_cast<int64_t>(vocab));
        return kept_ids.back().get();
    };
    for (size_t row = 0; row < count; ++row) {
        float* const logits = floats(vocab, random.one_of({0.1F, 1.0F, 3.0F, 30.0F}));
        if (random.below(4) == 0)
            for (size_t at = 0; at < vocab; ++at) logits[at] = std::round(logits[at]);
        if (const int64_t odd = random.below(8); odd < 3)
            for (size_t at = 0; at < vocab; ++at)
                if (odd == 0 || random.below(20) == 0) logits[at] = odd == 2 ? random.one_of({NAN, INFINITY, -3e38F, 3e38F}) : -INFINITY;
        rows.push_back(logits);
        Choice choice{random.one_of({0.0, 1e-6, 0.3, 1.0, 1.0, 8.0}), random.one_of({1.0, 1.0, 1e-9, 0.5, 0.9, 0.999}), random.one_of({0.0, 0.0, 0.1, 1.0}),
                      static_cast<double>(random.below(1000)) / 1000, random.one_of<int64_t>({0, 0, 1, 5, 40, 5000}), 0, 0, 0, nullptr, nullptr, nullptr,
                      nullptr, nullptr, 1.0F, 0.0F, 0.0F};
        if (random.below(3) == 0) {
            choice.biased = random.below(4), choice.seen = random.below(40), choice.generated = random.below(40);
            choice.biased_ids = ids(static_cast<size_t>(choice.biased)), choice.seen_ids = ids(static_cast<size_t>(choice.seen));
            choice.generated_ids = ids(static_cast<size_t>(choice.generated));
            choice.biases = floats(static_cast<size_t>(choice.biased), 3), choice.counts = floats(static_cast<size_t>(choice.generated), 1);
            choice.repetition = 1.3F, choice.presence = 0.2F, choice.frequency = 0.1F;
        }
        choices.push_back(choice);
    }
    const auto expected = exactly<int64_t>(count), found = exactly<int64_t>(count);
    draw(kScalar, rows.data(), count, vocab, choices.data(), expected.get(), kForwards);
    size_t threads = 0;
    for (const Kernel* const other : compared()) {
        draw(*other, rows.data(), count, vocab, choices.data(), found.get(), otherwise(random, threads));
        for (size_t row = 0; row < count; ++row) {
            if (found[row] == expected[row] && found[row] >= -1 && found[row] < static_cast<int64_t>(vocab)) continue;
            std::printf("case %llu: draws, %s: token %lld, not %lld, of %zu\n", static_cast<unsigned long long>(number), other->name,
                        static_cast<long long>(found[row]), static_cast<long long>(expected[row]), vocab);
            return 1;
        }
    }
    return 0;
}

}  // namespace

int main(int argc, char** argv) {
    const auto argument = [&](int index, uint64_t otherwise) { return argc > index ? std::strtoull(argv[index], nullptr, 10) : otherwise; };
    const uint64_t cases = argument(1, 1000), seed = argument(2, 1), first = argument(3, 0);
    int failures = 0;
    for (uint64_t number = first; number < first + cases && failures < 10; ++number)
        failures += number % 4 == 0 ? attend_randomly(number, seed) : number % 4 == 2 ? draw_randomly(number, seed) : run(number, seed);
    std::printf("%llu cases, instruction sets", static_cast<unsigned long long>(cases));
    for (const char* const* name = kNames; *name; ++name)
        if (kernel(*name)) std::printf(" %s", *name);
    std::printf(": %d failures\n", failures);
    return failures != 0;
}
