"""A tiny decoder as an ONNX graph, as exporters of Hugging Face models write it."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

VOCABULARY, WIDTH = 24, 8
DATA = "model.onnx_data"


def decoder(external: bool) -> onnx.ModelProto:
    """A decoder of one layer, whose attention is the sum of what came before; keys and values are what it sums."""
    rng = np.random.default_rng(0)
    arrays = {
        "embed": rng.standard_normal((VOCABULARY, WIDTH), np.float32),
        "head": rng.standard_normal((WIDTH, VOCABULARY), np.float32),
        "axis1": np.array([1]),
        "axis2": np.array(2),
        "one": np.array([1]),
        "end": np.array([2**31]),
    }
    constants = [numpy_helper.from_array(array, name) for name, array in arrays.items()]
    nodes = [
        helper.make_node("Gather", ["embed", "input_ids"], ["hidden"]),
        helper.make_node("Unsqueeze", ["hidden", "axis1"], ["fresh"]),
        *(helper.make_node("Concat", [f"past_key_values.0.{kind}", "fresh"], [f"present.0.{kind}"], axis=2) for kind in ("key", "value")),
        helper.make_node("CumSum", ["present.0.value", "axis2"], ["sums"]),
        helper.make_node("Shape", ["input_ids"], ["count"], start=1, end=2),
        helper.make_node("Neg", ["count"], ["begin"]),
        helper.make_node("Unsqueeze", ["axis2", "axis0"], ["axes"]),
        helper.make_node("Slice", ["sums", "begin", "end", "axes"], ["last"]),
        helper.make_node("Squeeze", ["last", "axis1"], ["mixed"]),
        helper.make_node("MatMul", ["mixed", "head"], ["logits"]),
    ]
    constants.append(numpy_helper.from_array(np.array([0]), "axis0"))
    past = ["batch", 1, "past", WIDTH]
    inputs = [helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["batch", "sequence"])]
    inputs += [helper.make_tensor_value_info(f"past_key_values.0.{kind}", TensorProto.FLOAT, past) for kind in ("key", "value")]
    outputs = [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", "sequence", VOCABULARY])]
    outputs += [
        helper.make_tensor_value_info(f"present.0.{kind}", TensorProto.FLOAT, ["batch", 1, "total", WIDTH]) for kind in ("key", "value")
    ]
    if external:
        head = constants[1]
        head.data_location = TensorProto.EXTERNAL
        head.external_data.add(key="location", value=DATA)
        head.external_data.add(key="offset", value="0")
        head.external_data.add(key="length", value=str(len(head.raw_data)))
        head.ClearField("raw_data")
    graph = helper.make_graph(nodes, "decoder", inputs, outputs, constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
