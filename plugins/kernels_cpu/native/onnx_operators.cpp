// The operators "Product" and "Rows" of the domain "llmasos.kernels_cpu", and the registration of all.
//
//     Product(x float32 [..., columns], packed uint8 [panels, bytes], bias float32 [rows]?, gamma float32 [columns]?, addend float32 [..., columns]?)
//         -> float32 [..., rows], sum float32 [..., columns]?
//     Rows(packed uint8 [panels, bytes], indices int64 [...]) -> float32 [..., columns]
//
// A product is that of x, or of the RMS norm of x with gamma and `epsilon`; with an addend that of `sum = x + addend`. With `gated` the first half of
// the rows are gates, and the result is silu(gate) * value, float32 [..., rows / 2]. `precision` is the number of a `Precision`, to which x is rounded.
// `packed` is a constant; the other attributes are the members of `Shape`. Products and attention run on the threads of the session, or on as many of
// the library's pool as the entry "llmasos.kernels_cpu.threads" of its configuration says: then sessions, and draws of tokens, share them.
#include <algorithm>
#include <charconv>
#include <iterator>
#include <list>
#include <mutex>

#include "onnx_operator.h"

namespace llmasos {
namespace {

struct Node {
    const Api& api;
    const Kernel& kernel;
    Matrix matrix;
    bool gated;
    float epsilon;
    Precision precision;
    size_t threads;  // of the pool; 0: the session's
};

Status* shape_of(const Api& api, const Info* info, Shape* shape) {
    int64_t values[8];
    const char* const names[] = {"rows", "columns", "bits", "unit", "group", "zero", "scale", "super"};
    for (size_t at = 0; at < 8; ++at) CHECK(api.attribute(info, names[at], &values[at]));
    for (size_t at = 2; at < 8; ++at)
        if (values[at] < 0 || values[at] > INT32_MAX) values[at] = -1;
    *shape = Shape{values[0], values[1], static_cast<int32_t>(values[2]), static_cast<int32_t>(values[3]), static_cast<int32_t>(values[4]),
                   static_cast<Zero>(values[5]), static_cast<Scale>(values[6]), static_cast<int32_t>(values[7])};
    return valid(*shape) ? nullptr : api.error(ort::kInvalidArgument, "The attributes describe no packed matrix of this version of llmasos-kernels-cpu.");
}

// Makes a node whose input `packed` is the matrix.
Status* make(const Operator* op, const Api& api, const Info* info, size_t packed, void** made) {
    Shape shape;
    CHECK(shape_of(api, info, &shape));
    const Kernel* kernel = nullptr;
    CHECK(choose(api, &kernel));
    int is_constant = 0;
    const Value* value = nullptr;
    CHECK(api.constant(info, packed, &is_constant, &value));
    if (!is_constant || !value) return api.error(ort::kInvalidArgument, "The packed matrix must be a constant.");
    Dimensions found;
    CHECK(dimensions_of(api, value, &found));
    const Layout layout(shape);
    if (found.elements != layout.panels * layout.panel_bytes) return api.error(ort::kInvalidArgument, "The packed matrix has not the size of its shape.");
    uint8_t* data = nullptr;
    CHECK(data_of(api, value, &data));
    return keep(api, Node{api, *kernel, Matrix{shape, layout, data, nullptr}, false, 0.0F, Precision::int8, pool_threads(op)}, made);
}

// --- Product

// Float inputs of a product behind its matrix, by their places.
enum : size_t { kBias = 2, kGamma = 3, kAddend = 4 };

constexpr const char* kWrongBias = "The bias has not one value a row.";

// A bias that is a constant is checked when the session is made.
Status* check_bias(const Api& api, const Info* info, const Matrix& matrix) {
    size_t inputs = 0;
    CHECK(api.input_count(info, &inputs));
    int is_constant = 0;
    const Value* bias = nullptr;
    if (inputs > kBias) CHECK(api.constant(info, kBias, &is_constant, &bias));
    if (!is_constant || !bias) return nullptr;
    Dimensions found;
    CHECK(dimensions_of(api, bias, &found));
    return found.elements == static_cast<size_t>(matrix.shape.rows) ? nullptr : api.error(ort::kInvalidArgument, kWrongBias);
}

Status* create_product(const Operator* op, const Api* api, const Info* info, void** made) {
    int64_t gated = 0, precision = 0;
    float epsilon = 0;
    CHECK(api->attribute(info, "gated", &gated));
    CHECK(api->attribute(info, "precision", &precision));
    if (precision < 0 || precision >= static_cast<int64_t>(kPrecisions))
        return api->error(ort::kInvalidArgument, "The attribute precision names no form of activations of this version of llmasos-kernels-cpu.");
    CHECK(api->attribute(info, "epsilon", &epsilon));
    CHECK(make(op, *api, info, 1, made));
    Node& node = *static_cast<Node*>(*made);
    node.gated = gated != 0;
    node.epsilon = epsilon;
    node.precision = static_cast<Precision>(precision);
    Status* status = check_bias(*api, info, node.matrix);
    if (!status && gated && !can_gate(node.matrix.shape)) status = api->error(ort::kInvalidArgument, "Gates need a multiple of 32 rows.");
    if (status) destroy(*made);
    return status;
}

Status* compute_product(void* made, Context* context) {
    const Node& node = *static_cast<Node*>(made);
    const Api& api = node.api;
    Input<float> x, bias, gamma, addend;
    CHECK(x.read(api, context, 0));
    CHECK(bias.read(api, context, kBias));
    CHECK(gamma.read(api, context, kGamma));
    CHECK(addend.read(api, context, kAddend));
    Matrix matrix = node.matrix;
    const auto columns = static_cast<size_t>(matrix.shape.columns), rows = static_cast<size_t>(matrix.shape.rows);
    Dimensions found = x.dimensions;
    int64_t& last = found.sizes[found.rank - 1];
    if (last != matrix.shape.columns) return api.error(ort::kInvalidArgument, "The input has not the columns of the packed matrix.");
    if (bias.given && bias.dimensions.elements != rows) return api.error(ort::kInvalidArgument, kWrongBias);
    if (gamma.given && gamma.dimensions.elements != columns)
        return api.error(ort::kInvalidArgument, "The weights of the norm have not one value a column.");
    if (addend.given && addend.dimensions.elements != found.elements)
        return api.error(ort::kInvalidArgument, "The addend has not the shape of the input.");
    matrix.bias = bias.data;
    Rows input{x.data, addend.data, gamma.data, node.epsilon, nullptr};
    size_t outputs = 0;
    CHECK(api.output_count(context, &outputs));
    if (outputs > 1) {
        if (!addend.given) return api.error(ort::kInvalidArgument, "Without an addend there is no sum.");
        Value* sum = nullptr;
        CHECK(api.output(context, 1, found.sizes, found.rank, &sum));
        CHECK(data_of(api, sum, &input.sum));
    }
    last = node.gated ? matrix.shape.rows / 2 : matrix.shape.rows;
    Value* result = nullptr;
    CHECK(api.output(context, 0, found.sizes, found.rank, &result));
    float* output = nullptr;
    CHECK(data_of(api, result, &output));
    if (found.elements == 0) return nullptr;  // no row
    Threads threads{api, context, node.threads};
    if (!multiply(node.kernel, node.precision, matrix, input, found.elements / columns, output, node.gated, threads.parallel()))
        return api.error(ort::kFail, "No memory for the rounded activations.");
    return threads.status;
}

// --- Rows

Status* create_rows(const Operator* op, const Api* api, const Info* info, void** made) { return make(op, *api, info, 0, made); }

Status* compute_rows(void* made, Context* context) {
    const Node& node = *static_cast<Node*>(made);
    const Api& api = node.api;
    const Value* value = nullptr;
    CHECK(api.input(context, 1, &value));
    Dimensions found;
    CHECK(dimensions_of(api, value, &found));
    found.sizes[found.rank] = node.matrix.shape.columns;
    Value* result = nullptr;
    CHECK(api.output(context, 0, found.sizes, found.rank + 1, &result));
    int64_t* indices = nullptr;
    float* output = nullptr;
    CHECK(data_of(api, value, &indices));
    CHECK(data_of(api, result, &output));
    return take_rows(node.matrix, indices, found.elements, output) ? nullptr : api.error(ort::kInvalidArgument, "An index is no row of the matrix.");
}

// --- registration

const Operator kProduct = operator_of<Signature<2, ort::kFloat, ort::kUint8, ort::kFloat, ort::kFloat, ort::kFloat>, 2>(
    [](const Operator*) { return "Product"; }, create_product, compute_product);
const Operator kRowsOperator = operator_of<Signature<2, ort::kUint8, ort::kInt64>, 1>(
    [](const Operator*) { return "Rows"; }, create_rows, compute_rows);

constexpr const char* kDomain = "llmasos.kernels_cpu";

// The operators for sessions of one number of threads. They stay for the life of the process, as sessions refer to them.
struct Domain {
    size_t threads;
    ort::Domain* domain = nullptr;
    Registered product{kProduct, threads}, rows{kRowsOperator, threads}, attention{kAttention, threads};
};

// The entry of a session's configuration that says how many threads of the pool its nodes use.
constexpr const char* kThreads = "llmasos.kernels_cpu.threads";

Status* threads_of(const Api& api, const ort::Options* options, size_t* threads) {
    *threads = 0;
    int given = 0;
    CHECK(api.has_entry(options, kThreads, &given));
    if (!given) return nullptr;
    char text[8];
    size_t size = sizeof text;
    Status* const unread = api.entry(options, kThreads, text, &size);
    const char* const end = text + (unread ? 0 : size - 1);
    const auto [read, error] = std::from_chars(text, end, *threads);
    if (!unread && error == std::errc() && read == end && *threads > 0) return nullptr;
    if (unread) api.release(unread);
    return api.error(ort::kInvalidArgument, "llmasos.kernels_cpu.threads must be a number of threads from 1 on.");
}

}  // namespace

// What `SessionOptions.register_custom_ops_library` calls.
extern "C" __attribute__((visibility("default"))) Status* RegisterCustomOps(ort::Options* options, const ort::ApiBase* base) {
    const Api* const api = base->api(ort::kVersion);
    if (!api) return nullptr;  // older than version 1.17: there is no table to report an error with, and sessions refuse the operators by name
    size_t threads = 0;
    CHECK(threads_of(*api, options, &threads));
    static std::mutex making;
    static std::list<Domain> domains;
    const std::lock_guard lock(making);
    auto found = std::find_if(domains.begin(), domains.end(), [&](const Domain& each) { return each.threads == threads; });
    if (found == domains.end()) {
        ort::Domain* made = nullptr;
        CHECK(api->create_domain(kDomain, &made));
        Domain& added = domains.emplace_back(Domain{threads});
        for (const Operator* each : std::initializer_list<const Operator*>{&added.product, &added.rows, &added.attention})
            if (Status* const failed = api->add(made, each)) return domains.pop_back(), failed;
        added.domain = made;
        found = std::prev(domains.end());
    }
    return api->add(options, found->domain);
}

}  // namespace llmasos
