"""The operators in sessions of ONNX Runtime."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper
from plugins.kernels_cpu.tests.matrices import FORMS

from llmasos_decoder_kit.onnx_operators import PackedLinear, find_operators
from llmasos_hookspecs import ConfigError, PluginError
from llmasos_kernels_cpu import library
from llmasos_kernels_cpu.operators import CpuOperators
from llmasos_kernels_cpu.packing import PackedMatrix, pack


def linear(form: str, rows: int, columns: int) -> tuple[PackedMatrix, PackedLinear]:
    tensor = FORMS[form].tensor(rows, columns, np.random.default_rng(0))
    matrix, layer = pack([tensor]), CpuOperators().linear([tensor])
    assert matrix is not None
    assert layer is not None
    return matrix, layer


def session(layer: PackedLinear, op: str, bias: np.ndarray | None = None, **changed: Any) -> ort.InferenceSession:
    """A graph of one node; ``changed``: attributes that differ from the layer's."""
    of_product = op == layer.product
    given = helper.make_tensor_value_info("given", TensorProto.FLOAT if of_product else TensorProto.INT64, None)
    constants = {"packed": layer.data} | ({} if bias is None else {"bias": bias})
    inputs = ["given", *constants] if of_product else ["packed", "given"]
    node = helper.make_node(op, inputs, ["found"], domain=layer.domain, **{**layer.attributes, **changed})
    graph = helper.make_graph(
        [node],
        "test",
        [given],
        [helper.make_tensor_value_info("found", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.ascontiguousarray(array), name) for name, array in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17), helper.make_opsetid(layer.domain, 1)], ir_version=10)
    assert isinstance(model, onnx.ModelProto)
    options = ort.SessionOptions()
    options.intra_op_num_threads = 2
    options.log_severity_level = 4
    options.register_custom_ops_library(str(CpuOperators().library))
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


@pytest.mark.parametrize("form", ["q4_1", "q8_0", "q6_k"])
@pytest.mark.parametrize("with_bias", [False, True])
def test_a_product_has_the_bits_of_the_library(form: str, with_bias: bool) -> None:
    """For inputs of any rank, few rows and many, on the session's threads."""
    random = np.random.default_rng(1)
    matrix, layer = linear(form, 100, 256)
    bias = random.normal(size=100).astype(np.float32) if with_bias else None
    found = session(layer, layer.product, bias)
    for shape in ((1, 256), (2, 3, 256), (100, 256), (0, 256), (256,)):
        x = random.normal(size=shape).astype(np.float32)
        result = found.run(None, {"given": x})[0]
        assert result.shape == (*shape[:-1], 100)
        np.testing.assert_array_equal(result.reshape(-1, 100), library.multiply(matrix, x.reshape(-1, 256), bias))


def test_rows_are_those_of_the_matrix() -> None:
    matrix, layer = linear("q8_0", 40, 96)
    indices = np.array([[3, 0, 39], [7, 7, 1]], dtype=np.int64)
    found = session(layer, layer.rows_of).run(None, {"given": indices})[0]
    np.testing.assert_array_equal(found, library.take_rows(matrix, indices.reshape(-1)).reshape(2, 3, 96))


def test_wrong_inputs_are_refused_when_a_session_runs() -> None:
    _, layer = linear("q8_0", 40, 96)
    with pytest.raises(Exception, match="An index is no row of the matrix"):
        session(layer, layer.rows_of).run(None, {"given": np.array([40], dtype=np.int64)})
    with pytest.raises(Exception, match="has not the columns of the packed matrix"):
        session(layer, layer.product).run(None, {"given": np.zeros((2, 95), dtype=np.float32)})


@pytest.mark.parametrize(
    ("changed", "bias", "said"),
    [
        ({"rows": 57}, None, "has not the size of its shape"),
        ({"bits": 5}, None, "describe no packed matrix"),
        ({"super": -3}, None, "describe no packed matrix"),
        ({}, np.zeros(39, np.float32), "has not one value a row"),
    ],
)
def test_wrong_constants_are_refused_when_a_session_is_made(changed: dict[str, int], bias: np.ndarray | None, said: str) -> None:
    _, layer = linear("q8_0", 40, 96)
    with pytest.raises(Exception, match=said):
        session(layer, layer.product, bias, **changed)


def test_loaders_find_the_operators(monkeypatch: pytest.MonkeyPatch) -> None:
    """By their name, and automatically where this processor has faster instructions than plain C++."""
    assert isinstance(find_operators("cpu"), CpuOperators)
    monkeypatch.setenv(library.VARIABLE, "scalar")
    assert find_operators("auto") is None
    assert "none of the instruction sets" in str(CpuOperators().refusal())
    monkeypatch.delenv(library.VARIABLE)
    assert isinstance(find_operators("auto"), CpuOperators if library.chosen() != "scalar" else type(None))
    with pytest.raises(ConfigError, match=r'kernels is "gpu".*installed: cpu.*pip install llmasos-kernels-gpu'):
        find_operators("gpu")
    monkeypatch.setattr(CpuOperators, "__init__", lambda _: 1 / 0)
    with pytest.raises(PluginError, match=r'"cpu".*cannot be loaded: division by zero; install it again'):
        find_operators("cpu")
