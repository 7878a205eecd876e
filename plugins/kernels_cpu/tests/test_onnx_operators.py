"""The operators in sessions of ONNX Runtime."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper
from plugins.kernels_cpu.tests.matrices import FORMS

from llmasos_decoder_kit.cpu_kernels import RmsNorm
from llmasos_decoder_kit.onnx_operators import PackedLinear, find_operators
from llmasos_hookspecs import ConfigError, PluginError
from llmasos_kernels_cpu import library
from llmasos_kernels_cpu.operators import BFloat16Operators, CpuOperators
from llmasos_kernels_cpu.packing import PackedMatrix, pack


def linear(form: str, rows: int, columns: int, operators: CpuOperators | None = None) -> tuple[PackedMatrix, PackedLinear]:
    tensor = FORMS[form].tensor(rows, columns, np.random.default_rng(0))
    matrix, layer = pack([tensor]), (operators or CpuOperators()).linear([tensor])
    assert matrix is not None
    assert layer is not None
    return matrix, layer


def graph_session(
    node: onnx.NodeProto, inputs: dict[str, int], outputs: list[str], constants: dict[str, np.ndarray], pool: str | None = None
) -> ort.InferenceSession:
    """A graph of one node; ``inputs``: their names and types; ``pool``: how many threads of the library's pool compute it."""
    graph = helper.make_graph(
        [node],
        "test",
        [helper.make_tensor_value_info(name, kind, None) for name, kind in inputs.items()],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        [numpy_helper.from_array(np.ascontiguousarray(array), name) for name, array in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17), helper.make_opsetid(node.domain, 1)], ir_version=10)
    assert isinstance(model, onnx.ModelProto)
    options = ort.SessionOptions()
    options.intra_op_num_threads = 2 if pool is None else 1
    options.log_severity_level = 4
    if pool is not None:
        options.add_session_config_entry(str(CpuOperators.pool), pool)
    options.register_custom_ops_library(str(CpuOperators().library))
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def session(layer: PackedLinear, op: str, bias: np.ndarray | None = None, pool: str | None = None, **changed: Any) -> ort.InferenceSession:
    """A product of a layer, or rows of it; ``changed``: attributes that differ from the layer's."""
    of_product = op == layer.product
    constants = {"packed": layer.data} | ({} if bias is None else {"bias": bias})
    inputs = ["given", *constants] if of_product else ["packed", "given"]
    node = helper.make_node(op, inputs, ["found"], domain=layer.domain, **{**layer.attributes, **changed})
    return graph_session(node, {"given": TensorProto.FLOAT if of_product else TensorProto.INT64}, ["found"], constants, pool)


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


def test_sessions_use_as_many_threads_of_the_pool_as_each_asks_for() -> None:
    """With the bits that the session's own threads make. More threads than any other test asks for are there afterwards."""
    matrix, layer = linear("q4_1", 1600, 256)
    x = np.random.default_rng(5).normal(size=(3, 256)).astype(np.float32)
    few, many = (session(layer, layer.product, pool=pool) for pool in ("1", "70"))
    before = threads()
    np.testing.assert_array_equal(few.run(None, {"given": x})[0], library.multiply(matrix, x))
    assert threads() == before
    np.testing.assert_array_equal(many.run(None, {"given": x})[0], library.multiply(matrix, x))
    assert threads() > before
    again = threads()
    session(layer, layer.product, pool="70").run(None, {"given": x})
    few.run(None, {"given": x})
    assert threads() == again


@pytest.mark.parametrize("pool", ["0", "-1", "two", "2 ", "", "99999999999999999999"])
def test_a_pool_of_no_number_of_threads_is_refused(pool: str) -> None:
    _, layer = linear("q8_0", 40, 96)
    with pytest.raises(Exception, match=r"llmasos\.kernels_cpu\.threads must be a number of threads from 1 on"):
        session(layer, layer.product, pool=pool)


def threads() -> int:
    """Of this process."""
    return len(list(Path("/proc/self/task").iterdir()))


def test_products_in_bfloat16_have_the_bits_of_the_library() -> None:
    matrix, layer = linear("q4_k", 100, 512, BFloat16Operators())
    x = np.random.default_rng(4).normal(size=(9, 512)).astype(np.float32)
    found = session(layer, layer.product).run(None, {"given": x})[0]
    np.testing.assert_array_equal(found, library.multiply(matrix, x, precision="bf16"))


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
        ({"precision": 2}, None, "precision names no form of activations"),
        ({}, np.zeros(39, np.float32), "has not one value a row"),
    ],
)
def test_wrong_constants_are_refused_when_a_session_is_made(changed: dict[str, int], bias: np.ndarray | None, said: str) -> None:
    _, layer = linear("q8_0", 40, 96)
    with pytest.raises(Exception, match=said):
        session(layer, layer.product, bias, **changed)


def test_a_fused_product_has_the_bits_of_the_library() -> None:
    """With the sum as a second output, and with inputs in the middle left out."""
    random = np.random.default_rng(2)
    matrix, layer = linear("q4_1", 64, 96)
    x, addend = random.normal(size=(2, 5, 96)).astype(np.float32)
    gamma = random.normal(size=96).astype(np.float32)
    attributes = {**layer.attributes, "gated": 1, "epsilon": 1e-5}
    node = helper.make_node(layer.product, ["x", "packed", "", "gamma", "addend"], ["y", "sum"], domain=layer.domain, **attributes)
    inputs = {"x": TensorProto.FLOAT, "addend": TensorProto.FLOAT}
    found = graph_session(node, inputs, ["y", "sum"], {"packed": layer.data, "gamma": gamma})
    y, total = found.run(None, {"x": x, "addend": addend})
    np.testing.assert_array_equal(total, x + addend)
    np.testing.assert_array_equal(y, library.multiply(matrix, x, addend=addend, norm=RmsNorm(gamma, 1e-5), gated=True))
    with pytest.raises(Exception, match="addend has not the shape of the input"):
        found.run(None, {"x": x, "addend": addend[:4]})
    none, nothing = found.run(None, {"x": x[:0], "addend": addend[:0]})  # a step that wants the logits of no token
    assert none.shape == (0, y.shape[1])
    assert nothing.shape == (0, x.shape[1])


def test_attention_has_the_bits_of_the_library() -> None:
    """With keys and values behind the queries or apart, in memory that is changed in place or copied."""
    random = np.random.default_rng(3)
    heads, kv_heads, width, length = 4, 2, 32, 24
    attention = library.Attention(heads=heads, kv_heads=kv_heads, scale=0.5, window=9)
    past = [random.normal(size=(3, kv_heads, length, width)).astype(np.float32) for _ in range(2)]
    states = random.normal(size=(4, (heads + 2 * kv_heads) * width)).astype(np.float32)
    packed = np.array([[0, 0], [2, 0], [2, 1], [2, 2]])
    queries, lengths = np.array([1, 0, 3], np.int32), np.array([20, 5, 12], np.int32)  # positions 20; 10, 11 and 12
    own = [array.copy() for array in past]
    expected = library.attend(attention, states, np.array([[0, 20], [2, 10], [2, 11], [2, 12]]), *own)

    names = ["query", "past_key", "past_value", "packed", "queries", "seqlens"]
    kinds = [TensorProto.FLOAT] * 3 + [TensorProto.INT64] + [TensorProto.INT32] * 2
    outputs = ["found", "key", "value"]
    attributes = {"heads": heads, "kv_heads": kv_heads, "window": 9, "scale": 0.5, "softcap": 0.0}
    domain, op = CpuOperators.attention.domain, CpuOperators.attention.operator
    given = dict(zip(names, (states, *past, packed, queries, lengths), strict=True))

    node = helper.make_node(op, names, outputs, domain=domain, **attributes)
    together = graph_session(node, dict(zip(names, kinds, strict=True)), outputs, {})
    before = [array.copy() for array in past]
    for mine, theirs in zip(together.run(None, given), (expected, *own), strict=True):
        np.testing.assert_array_equal(mine, theirs)
    np.testing.assert_array_equal(past, before)

    parts = dict(zip(("q", "k", "v"), np.split(states, [heads * width, (heads + kv_heads) * width], axis=1), strict=True))
    node = helper.make_node(op, ["q", *names[1:], "", "", "k", "v"], outputs, domain=domain, **attributes)
    apart = graph_session(node, dict.fromkeys(parts, TensorProto.FLOAT) | dict(zip(names[1:], kinds[1:], strict=True)), outputs, {})
    binding = apart.io_binding()
    for name, array in {**{key: np.ascontiguousarray(part) for key, part in parts.items()}, **given}.items():
        if name != "query":
            binding.bind_cpu_input(name, array)
    binding.bind_output("found")
    for name, array in zip(outputs[1:], past, strict=True):
        binding.bind_output(name, "cpu", 0, np.float32, array.shape, array.ctypes.data)
    apart.run_with_iobinding(binding)
    np.testing.assert_array_equal(binding.copy_outputs_to_cpu()[0], expected)
    np.testing.assert_array_equal(past, own)

    for name, wrong, said in (
        ("packed", np.add(packed, [3, 0]), "of no sequence"),
        ("packed", packed[[0, 3, 2, 1]], "not in order"),
        ("seqlens", lengths + np.int32(9), "beyond the memory of keys"),
        ("query", states[:, :-1], "have not the shape of the past keys"),
    ):
        with pytest.raises(Exception, match=said):
            together.run(None, {**given, name: wrong})


def test_loaders_find_the_operators(monkeypatch: pytest.MonkeyPatch) -> None:
    """By their name, and automatically where this processor has faster instructions than plain C++."""
    assert type(find_operators("cpu")) is CpuOperators
    assert type(find_operators("cpu_bf16")) is BFloat16Operators
    monkeypatch.setenv(library.VARIABLE, "scalar")
    assert find_operators("auto") is None
    assert "none of the instruction sets" in str(CpuOperators().refusal())
    monkeypatch.delenv(library.VARIABLE)
    assert type(find_operators("auto")) is (CpuOperators if library.chosen() != "scalar" else type(None))
    with pytest.raises(ConfigError, match=r'kernels is "gpu".*installed: cpu, cpu_bf16.*pip install llmasos-kernels-gpu'):
        find_operators("gpu")
    monkeypatch.setattr(CpuOperators, "__init__", lambda _: 1 / 0)
    with pytest.raises(PluginError, match=r'"cpu".*cannot be loaded: division by zero; install it again'):
        find_operators("cpu")
