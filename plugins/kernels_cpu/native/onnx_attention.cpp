// The operator "Attention" of the domain "llmasos.kernels_cpu", for ONNX Runtime.
//
//     Attention(query float32 [tokens, heads * width], past_key, past_value float32 [sequences, kv_heads, length, width],
//               packed int64 [tokens, 2], queries int32 [sequences], seqlens int32 [sequences],
//               cosines, sines float32 [positions, width / 2]?, key, value float32 [tokens, kv_heads * width]?)
//         -> float32 [tokens, heads * width], present_key, present_value
//
// Without `key` and `value` these stand behind the queries of each token. `packed` has the sequence of each token, and its place among the `queries` new
// tokens of that; `seqlens` is the length of each sequence with them, less 1. Present keys and values should be bound to the memory of the past ones,
// and are copied where they are not. With cosines and sines the halves of queries and keys are rotated. Attributes: `heads`, `kv_heads`,
// `window` (tokens that one sees, itself among them; 0: all), `scale`, `softcap` (0: none).
#include <memory>
#include <new>

#include "onnx_operator.h"

namespace llmasos {
namespace {

struct Node {
    const Api& api;
    const Kernel& kernel;
    AttentionShape shape;
    size_t threads;  // of the pool; 0: the session's
};

// Inputs by their places.
enum : size_t { kQuery, kPastKey, kPastValue, kPacked, kQueries, kLengths, kCosines, kSines, kKey, kValue };

Status* create(const Operator* op, const Api* api, const Info* info, void** made) {
    int64_t heads = 0, kv_heads = 0, window = 0;
    AttentionShape shape{};
    CHECK(api->attribute(info, "heads", &heads));
    CHECK(api->attribute(info, "kv_heads", &kv_heads));
    CHECK(api->attribute(info, "window", &window));
    CHECK(api->attribute(info, "scale", &shape.scale));
    CHECK(api->attribute(info, "softcap", &shape.softcap));
    shape.heads = static_cast<size_t>(heads < 0 ? 0 : heads);
    shape.kv_heads = static_cast<size_t>(kv_heads < 0 ? 0 : kv_heads);
    shape.window = static_cast<size_t>(window < 0 ? 0 : window);
    shape.width = kRows;  // until the keys are seen
    if (!valid(shape)) return api->error(ort::kInvalidArgument, "The heads are no multiple of those of keys and values.");
    const Kernel* kernel = nullptr;
    CHECK(choose(*api, &kernel));
    return keep(*api, Node{*api, *kernel, shape, pool_threads(op)}, made);
}

// Past keys or values as an output that may be changed.
Status* present(const Api& api, Context* context, size_t index, const Input<float>& past, float** found) {
    Value* value = nullptr;
    CHECK(api.output(context, index, past.dimensions.sizes, past.dimensions.rank, &value));
    CHECK(data_of(api, value, found));
    if (*found != past.data) std::memcpy(*found, past.data, past.dimensions.elements * sizeof(float));
    return nullptr;
}

Status* compute(void* made, Context* context) {
    const Node& node = *static_cast<Node*>(made);
    const Api& api = node.api;
    Input<float> query, past_keys, past_values, cosines, sines, key, value;
    Input<int64_t> packed;
    Input<int32_t> queries, lengths;
    CHECK(query.read(api, context, kQuery));
    CHECK(past_keys.read(api, context, kPastKey));
    CHECK(past_values.read(api, context, kPastValue));
    CHECK(packed.read(api, context, kPacked));
    CHECK(queries.read(api, context, kQueries));
    CHECK(lengths.read(api, context, kLengths));
    CHECK(cosines.read(api, context, kCosines));
    CHECK(sines.read(api, context, kSines));
    CHECK(key.read(api, context, kKey));
    CHECK(value.read(api, context, kValue));

    AttentionShape shape = node.shape;
    const auto heads = static_cast<int64_t>(shape.heads), kv_heads = static_cast<int64_t>(shape.kv_heads);
    const int64_t *const cache = past_keys.dimensions.sizes, sequences = cache[0], length = cache[2], width = cache[3], count = query.dimensions.sizes[0];
    if (past_keys.dimensions.rank != 4 || cache[1] != kv_heads || !past_values.is({sequences, kv_heads, length, width}))
        return api.error(ort::kInvalidArgument, "The past keys and values have not one shape with the heads of the attributes.");
    shape.width = static_cast<size_t>(width);
    if (!valid(shape)) return api.error(ort::kInvalidArgument, "The width of a head is no multiple of 16.");
    if (!query.is({count, (key.data ? heads : heads + 2 * kv_heads) * width}) || !packed.is({count, 2}) || !queries.is({sequences}) ||
        !lengths.is({sequences}))
        return api.error(ort::kInvalidArgument, "The states of tokens, or their places, have not the shape of the past keys.");
    if (!key.data != !value.data || (key.data && (!key.is({count, kv_heads * width}) || !value.is({count, kv_heads * width}))))
        return api.error(ort::kInvalidArgument, "Keys and values have not the shape of the past ones.");
    const int64_t positions = cosines.data ? cosines.dimensions.sizes[0] : length;
    if (!cosines.data != !sines.data || (cosines.data && (!cosines.is({positions, width / 2}) || !sines.is({positions, width / 2}))))
        return api.error(ort::kInvalidArgument, "Cosines and sines are not of half the width of a head.");

    const std::unique_ptr<Place[]> places(new (std::nothrow) Place[static_cast<size_t>(count)]);
    if (!places) return api.error(ort::kFail, "No memory for the places of the tokens.");
    for (int64_t token = 0; token < count; ++token) {
        const int64_t sequence = packed.data[2 * token];
        if (sequence < 0 || sequence >= sequences) return api.error(ort::kInvalidArgument, "A token is of no sequence.");
        const int64_t position = int64_t{lengths.data[sequence]} + 1 - queries.data[sequence] + packed.data[2 * token + 1];
        if (position < 0 || position >= length || position >= positions)
            return api.error(ort::kInvalidArgument, "A token's position is beyond the memory of keys, or the cosines.");
        places[token] = {static_cast<size_t>(sequence), static_cast<size_t>(position)};
    }
    if (!in_order(places.get(), static_cast<size_t>(count))) return api.error(ort::kInvalidArgument, "The tokens of a sequence are not in order.");

    float *keys = nullptr, *values = nullptr, *output = nullptr;
    CHECK(present(api, context, 1, past_keys, &keys));
    CHECK(present(api, context, 2, past_values, &values));
    const int64_t sizes[] = {count, heads * width};
    Value* result = nullptr;
    CHECK(api.output(context, 0, sizes, 2, &result));
    CHECK(data_of(api, result, &output));
    const float* const own = query.data + heads * width;
    const auto step = static_cast<size_t>(query.dimensions.sizes[1]), apart = static_cast<size_t>(kv_heads * width);
    const Attention call{shape, static_cast<size_t>(count), places.get(), query.data, key.data ? key.data : own,
                         key.data ? value.data : own + apart, step, key.data ? apart : step, key.data ? apart : step,
                         cosines.data, sines.data, keys, values, static_cast<size_t>(length), nullptr, output};
    Threads threads{api, context, node.threads};
    if (!attend(node.kernel, call, threads.parallel())) return api.error(ort::kFail, "No memory for the scores of an attention.");
    return threads.status;
}

using Inputs = Signature<6, ort::kFloat, ort::kFloat, ort::kFloat, ort::kInt64, ort::kInt32, ort::kInt32, ort::kFloat, ort::kFloat, ort::kFloat, ort::kFloat>;

}  // namespace

const Operator kAttention = operator_of<Inputs, 3>([](const Operator*) { return "Attention"; }, create, compute);

}  // namespace llmasos
