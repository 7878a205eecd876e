// The part of ONNX Runtime's C interface that custom operators use, declared in our own words.
//
// The interface is a table of functions that only grows: the place of a function never changes (onnxruntime_c_api.h checks it with
// static_assert), and OrtApiBase hands out the table of a version that the caller names. So no header of ONNX Runtime is needed, which
// its wheels do not carry. `tests/test_onnx_operators.py` runs every function that is declared here.
#pragma once

#include <cstddef>
#include <cstdint>

namespace llmasos::ort {

constexpr uint32_t kVersion = 17;  // the first with parallel_for

struct Status;
struct Options;
struct Domain;
struct Value;
struct Info;
struct Context;
struct TensorInfo;

enum ErrorCode : int { kFail = 1, kInvalidArgument = 2 };
enum Type : int { kFloat = 1, kUint8 = 2, kInt32 = 6, kInt64 = 7 };
enum Presence : int { kRequired = 0, kOptional = 1 };

// A custom operator, as version 17 knows it. Functions that stay null are left to ONNX Runtime.
struct Operator {
    uint32_t version;
    void* (*create)(const Operator*, const struct Api*, const Info*);
    const char* (*name)(const Operator*);
    const char* (*provider)(const Operator*);
    Type (*input_type)(const Operator*, size_t);
    size_t (*input_count)(const Operator*);
    Type (*output_type)(const Operator*, size_t);
    size_t (*output_count)(const Operator*);
    void (*compute)(void*, Context*);
    void (*destroy)(void*);
    Presence (*input_presence)(const Operator*, size_t);
    Presence (*output_presence)(const Operator*, size_t);
    int (*input_memory)(const Operator*, size_t);
    int (*variadic_inputs)(const Operator*);
    int (*variadic_inputs_alike)(const Operator*);
    int (*variadic_outputs)(const Operator*);
    int (*variadic_outputs_alike)(const Operator*);
    Status* (*create_checked)(const Operator*, const struct Api*, const Info*, void**);
    Status* (*compute_checked)(void*, Context*);
    Status* (*infer_shape)(const Operator*, void*);
    int (*first_version)(const Operator*);
    int (*last_version)(const Operator*);
};

// The table, with a name for each function in use; `Slots` says where it stands.
struct Api {
    const void* table[275];

    template <size_t slot, class Function>
    Function* at() const {
        return reinterpret_cast<Function*>(const_cast<void*>(table[slot]));
    }
    Status* error(ErrorCode code, const char* message) const { return at<0, Status*(ErrorCode, const char*)>()(code, message); }
    Status* create_domain(const char* name, Domain** domain) const { return at<26, Status*(const char*, Domain**)>()(name, domain); }
    Status* add(Domain* domain, const Operator* op) const { return at<27, Status*(Domain*, const Operator*)>()(domain, op); }
    Status* add(Options* options, Domain* domain) const { return at<28, Status*(Options*, Domain*)>()(options, domain); }
    Status* data(const Value* value, void** out) const { return at<51, Status*(const Value*, void**)>()(value, out); }
    Status* rank(const TensorInfo* info, size_t* out) const { return at<61, Status*(const TensorInfo*, size_t*)>()(info, out); }
    Status* sizes(const TensorInfo* info, int64_t* out, size_t count) const {
        return at<62, Status*(const TensorInfo*, int64_t*, size_t)>()(info, out, count);
    }
    Status* info(const Value* value, TensorInfo** out) const { return at<65, Status*(const Value*, TensorInfo**)>()(value, out); }
    Status* attribute(const Info* info, const char* name, float* out) const {
        return at<85, Status*(const Info*, const char*, float*)>()(info, name, out);
    }
    Status* attribute(const Info* info, const char* name, int64_t* out) const {
        return at<86, Status*(const Info*, const char*, int64_t*)>()(info, name, out);
    }
    Status* input(const Context* context, size_t index, const Value** out) const {
        return at<90, Status*(const Context*, size_t, const Value**)>()(context, index, out);
    }
    Status* output(Context* context, size_t index, const int64_t* sizes, size_t rank, Value** out) const {
        return at<91, Status*(Context*, size_t, const int64_t*, size_t, Value**)>()(context, index, sizes, rank, out);
    }
    Status* input_count(const Context* context, size_t* out) const { return at<88, Status*(const Context*, size_t*)>()(context, out); }
    Status* output_count(const Context* context, size_t* out) const { return at<89, Status*(const Context*, size_t*)>()(context, out); }
    void release(Status* status) const { at<93, void(Status*)>()(status); }
    void release(TensorInfo* info) const { at<99, void(TensorInfo*)>()(info); }
    Status* input_count(const Info* info, size_t* out) const { return at<230, Status*(const Info*, size_t*)>()(info, out); }
    Status* has_entry(const Options* options, const char* key, int* out) const {
        return at<237, Status*(const Options*, const char*, int*)>()(options, key, out);
    }
    Status* entry(const Options* options, const char* key, char* out, size_t* size) const {  // with the null at its end
        return at<238, Status*(const Options*, const char*, char*, size_t*)>()(options, key, out, size);
    }
    Status* constant(const Info* info, size_t index, int* is_constant, const Value** out) const {
        return at<249, Status*(const Info*, size_t, int*, const Value**)>()(info, index, is_constant, out);
    }
    Status* parallel_for(const Context* context, void (*work)(void*, size_t), size_t count, size_t batches, void* data) const {
        return at<274, Status*(const Context*, void (*)(void*, size_t), size_t, size_t, void*)>()(context, work, count, batches, data);
    }
};

struct ApiBase {
    const Api* (*api)(uint32_t version);
    const char* (*version)();
};

}  // namespace llmasos::ort
