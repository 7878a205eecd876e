// What the operators for ONNX Runtime share: their nodes, inputs and outputs, and how they are declared.
#pragma once

#include <cstdlib>
#include <cstring>
#include <initializer_list>
#include <new>
#include <type_traits>

#include "kernels.h"
#include "onnx_api.h"
#include "pool.h"

namespace llmasos {

extern const ort::Operator kAttention;

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

inline Status* dimensions_of(const Api& api, const Value* value, Dimensions* found) {
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

// An input and its data. Tensors without elements may be without data.
template <class T>
struct Input {
    bool given = false;  // or left out
    Dimensions dimensions{};
    T* data = nullptr;

    Status* read(const Api& api, const Context* context, size_t index) {
        size_t count = 0;
        CHECK(api.input_count(context, &count));
        const Value* value = nullptr;
        if (index < count) CHECK(api.input(context, index, &value));
        if (!value) return nullptr;
        given = true;
        CHECK(dimensions_of(api, value, &dimensions));
        return data_of(api, value, &data);
    }
    bool is(std::initializer_list<int64_t> sizes) const {
        return dimensions.rank == sizes.size() && std::memcmp(dimensions.sizes, sizes.begin(), sizes.size() * sizeof(int64_t)) == 0;
    }
};

// The instruction set of a node.
inline Status* choose(const Api& api, const Kernel** found) {
    *found = chosen();
    return *found ? nullptr : api.error(ort::kFail, "LLMASOS_KERNELS names an instruction set that this processor does not have.");
}

// Keeps a node for the session, until `destroy`.
template <class Node>
Status* keep(const Api& api, const Node& node, void** made) {
    static_assert(std::is_trivially_destructible_v<Node>);
    void* const memory = std::malloc(sizeof(Node));
    if (!memory) return api.error(ort::kFail, "No memory for a node.");
    *made = new (memory) Node(node);
    return nullptr;
}

inline void destroy(void* node) { std::free(node); }

// An operator of the sessions whose nodes run on `threads` threads of the pool; of 0 on the session's own.
struct Registered : Operator {
    size_t threads;
};

inline size_t pool_threads(const Operator* op) { return static_cast<const Registered*>(op)->threads; }

// The threads of one call of an operator: `own` of the pool, or the session's.
struct Threads {
    const Api& api;
    const Context* context;
    size_t own;
    Status* status = nullptr;

    Parallel parallel() { return own ? pool(own) : Parallel{run, this}; }

    static void run(void* context, void (*work)(void*, size_t), size_t count, void* data) {
        auto& threads = *static_cast<Threads*>(context);
        if (!threads.status) threads.status = threads.api.parallel_for(threads.context, work, count, 0, data);
    }
};

// Types of all inputs, of which the first `required` are; and of outputs, all floats, only the first of which is always there.
template <size_t required, ort::Type... types>
struct Signature {
    static ort::Type input_type(const Operator*, size_t index) {
        constexpr ort::Type all[] = {types...};
        return all[index];
    }
    static size_t input_count(const Operator*) { return sizeof...(types); }
    static ort::Presence presence(const Operator*, size_t index) { return index < required ? ort::kRequired : ort::kOptional; }
};

template <class Inputs, size_t outputs>
constexpr Operator operator_of(const char* (*name)(const Operator*), Status* (*create)(const Operator*, const Api*, const Info*, void**),
                               Status* (*compute)(void*, Context*)) {
    constexpr auto no = [](const Operator*) { return 0; };
    Operator made{};
    made.version = ort::kVersion;
    made.name = name;
    made.provider = [](const Operator*) { return "CPUExecutionProvider"; };
    made.input_type = Inputs::input_type;
    made.input_count = Inputs::input_count;
    made.output_type = [](const Operator*, size_t) { return ort::kFloat; };
    made.output_count = [](const Operator*) { return outputs; };
    made.destroy = destroy;
    made.input_presence = Inputs::presence;
    made.output_presence = [](const Operator*, size_t index) { return index ? ort::kOptional : ort::kRequired; };
    made.input_memory = [](const Operator*, size_t) { return 0; };
    made.variadic_inputs = made.variadic_inputs_alike = made.variadic_outputs = made.variadic_outputs_alike = no;
    made.create_checked = create;
    made.compute_checked = compute;
    made.first_version = [](const Operator*) { return 1; };
    made.last_version = [](const Operator*) { return INT32_MAX; };
    return made;
}

}  // namespace
}  // namespace llmasos
