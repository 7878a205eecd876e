// The operators "Product" and "Rows" of the domain "llmasos.kernels_cpu", for ONNX Runtime.
//
//     Product(x float32 [..., columns], packed uint8 [panels, bytes], bias float32 [rows]?) -> float32 [..., rows]
//     Rows(packed uint8 [panels, bytes], indices int64 [...]) -> float32 [..., columns]
//
// `packed` is a constant; the attributes are the members of `Shape`. Products run on the threads of the session.
#include <cstdlib>
#include <mutex>
#include <new>

#include "kernels.h"
#include "onnx_api.h"

namespace llmasos {
namespace {

using ort::Api;
using ort::Context;
using ort::Info;
using ort::Operator;
using ort::Status;
using ort::Value;

#define CHECK(call) \
    if (Status* const failed = (call)) return failed

constexpr size_t kMostDimensions = 8;

struct Dimensions {
    int64_t sizes[kMostDimensions];
    size_t rank;
    size_t elements;
};

Status* dimensions_of(const Api& api, const Value* value, Dimensions* found) {
    ort::TensorInfo* info = nullptr;
    CHECK(api.info(value, &info));
    Status* status = api.rank(info, &found->rank);
    if (!status && (found->rank == 0 || found->rank >= kMostDimensions)) status = api.error(ort::kInvalidArgument, "Between 1 and 7 dimensions are needed.");
    if (!status) status = api.sizes(info, found->sizes, found->rank);
    api.release(info);
    found->elements = 1;
    if (!status)
        for (size_t at = 0; at < found->rank; ++at) found->elements *= static_cast<size_t>(found->sizes[at]);
    return status;
}

template <class T>
Status* data_of(const Api& api, const Value* value, T** data) {
    void* found = nullptr;
    CHECK(api.data(value, &found));
    *data = static_cast<T*>(found);
    return nullptr;
}

struct Node {
    const Api& api;
    const Kernel& kernel;
    Matrix matrix;
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
Status* make(const Api& api, const Info* info, size_t packed, void** made) {
    Shape shape;
    CHECK(shape_of(api, info, &shape));
    const Kernel* const kernel = chosen();
    if (!kernel) return api.error(ort::kFail, "LLMASOS_KERNELS names an instruction set that this processor does not have.");
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
    void* const memory = std::malloc(sizeof(Node));
    if (!memory) return api.error(ort::kFail, "No memory for a node.");
    *made = new (memory) Node{api, *kernel, Matrix{shape, layout, data, nullptr}};
    return nullptr;
}

void destroy(void* node) { std::free(node); }

// --- Product

Status* take_bias(const Api& api, const Info* info, Matrix* matrix) {
    size_t inputs = 0;
    CHECK(api.input_count(info, &inputs));
    if (inputs < 3) return nullptr;
    int is_constant = 0;
    const Value* bias = nullptr;
    CHECK(api.constant(info, 2, &is_constant, &bias));
    if (!is_constant || !bias) return api.error(ort::kInvalidArgument, "The bias must be a constant.");
    Dimensions found;
    CHECK(dimensions_of(api, bias, &found));
    if (found.elements != static_cast<size_t>(matrix->shape.rows)) return api.error(ort::kInvalidArgument, "The bias has not one value a row.");
    float* data = nullptr;
    CHECK(data_of(api, bias, &data));
    matrix->bias = data;
    return nullptr;
}

Status* create_product(const Operator*, const Api* api, const Info* info, void** made) {
    CHECK(make(*api, info, 1, made));
    Status* const status = take_bias(*api, info, &static_cast<Node*>(*made)->matrix);
    if (status) destroy(*made);
    return status;
}

struct Threads {
    const Api& api;
    const Context* context;
    Status* status;
};

void run_in_session(void* context, void (*work)(void*, size_t), size_t count, void* data) {
    auto& threads = *static_cast<Threads*>(context);
    if (!threads.status) threads.status = threads.api.parallel_for(threads.context, work, count, 0, data);
}

Status* compute_product(void* made, Context* context) {
    const Node& node = *static_cast<Node*>(made);
    const Api& api = node.api;
    const Value* value = nullptr;
    CHECK(api.input(context, 0, &value));
    Dimensions found;
    CHECK(dimensions_of(api, value, &found));
    int64_t& last = found.sizes[found.rank - 1];
    if (last != node.matrix.shape.columns) return api.error(ort::kInvalidArgument, "The input has not the columns of the packed matrix.");
    const size_t count = found.elements / static_cast<size_t>(node.matrix.shape.columns);
    last = node.matrix.shape.rows;
    Value* result = nullptr;
    CHECK(api.output(context, 0, found.sizes, found.rank, &result));
    float *x = nullptr, *output = nullptr;
    CHECK(data_of(api, value, &x));
    CHECK(data_of(api, result, &output));
    Threads threads{api, context, nullptr};
    if (!multiply(node.kernel, node.matrix, x, count, output, Parallel{run_in_session, &threads}))
        return api.error(ort::kFail, "No memory for the rounded activations.");
    return threads.status;
}

// --- Rows

Status* create_rows(const Operator*, const Api* api, const Info* info, void** made) { return make(*api, info, 0, made); }

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

template <size_t inputs, ort::Type... types>
struct Signature {
    static ort::Type input_type(const Operator*, size_t index) {
        constexpr ort::Type all[] = {types...};
        return all[index];
    }
    static size_t input_count(const Operator*) { return sizeof...(types); }
    static ort::Presence presence(const Operator*, size_t index) { return index < inputs ? ort::kRequired : ort::kOptional; }
};

size_t one(const Operator*) { return 1; }
int no(const Operator*) { return 0; }
int first_version(const Operator*) { return 1; }
int last_version(const Operator*) { return INT32_MAX; }
int in_memory_of_provider(const Operator*, size_t) { return 0; }
const char* on_cpu(const Operator*) { return "CPUExecutionProvider"; }
ort::Type gives_floats(const Operator*, size_t) { return ort::kFloat; }
ort::Presence always(const Operator*, size_t) { return ort::kRequired; }

template <class Inputs>
constexpr Operator operator_of(const char* (*name)(const Operator*), Status* (*create)(const Operator*, const Api*, const Info*, void**),
                               Status* (*compute)(void*, Context*)) {
    Operator made{};
    made.version = ort::kVersion;
    made.name = name;
    made.provider = on_cpu;
    made.input_type = Inputs::input_type;
    made.input_count = Inputs::input_count;
    made.output_type = gives_floats;
    made.output_count = one;
    made.destroy = destroy;
    made.input_presence = Inputs::presence;
    made.output_presence = always;
    made.input_memory = in_memory_of_provider;
    made.variadic_inputs = made.variadic_inputs_alike = made.variadic_outputs = made.variadic_outputs_alike = no;
    made.create_checked = create;
    made.compute_checked = compute;
    made.first_version = first_version;
    made.last_version = last_version;
    return made;
}

const Operator kProduct = operator_of<Signature<2, ort::kFloat, ort::kUint8, ort::kFloat>>(
    [](const Operator*) { return "Product"; }, create_product, compute_product);
const Operator kRowsOperator =
    operator_of<Signature<2, ort::kUint8, ort::kInt64>>([](const Operator*) { return "Rows"; }, create_rows, compute_rows);

}  // namespace

// What `SessionOptions.register_custom_ops_library` calls. The domain stays for the life of the process, as sessions refer to it.
extern "C" __attribute__((visibility("default"))) Status* RegisterCustomOps(ort::Options* options, const ort::ApiBase* base) {
    const Api* const api = base->api(ort::kVersion);
    if (!api) return nullptr;  // older than version 1.17: there is no table to report an error with, and sessions refuse the operators by name
    static std::mutex making;
    static ort::Domain* domain = nullptr;
    const std::lock_guard lock(making);
    if (!domain) {
        ort::Domain* made = nullptr;
        CHECK(api->create_domain("llmasos.kernels_cpu", &made));
        CHECK(api->add(made, &kProduct));
        CHECK(api->add(made, &kRowsOperator));
        domain = made;
    }
    return api->add(options, domain);
}

}  // namespace llmasos
