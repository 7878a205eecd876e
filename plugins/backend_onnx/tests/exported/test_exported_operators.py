"""Which operators an exported graph may use, and how large it may become before ONNX Runtime sees it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from llmasos_backend_onnx.foreign.graph import read_graph
from llmasos_backend_onnx.foreign.operators import OPERATORS
from llmasos_hookspecs import CheckpointError, UnsupportedModel

from .conftest import Style, write_export

Load = Callable[..., Any]


def saved(nodes: list[onnx.NodeProto], path: Path, functions: list[onnx.FunctionProto] | None = None) -> Path:
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [4]) for name in ("x", "y")]
    graph = helper.make_graph(nodes, "g", values[:1], values[1:])
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("com.microsoft", 1), helper.make_opsetid("own", 1)]
    onnx.save_model(helper.make_model(graph, opset_imports=opsets, functions=functions or [], ir_version=10), path)
    return path


def refusal(path: Path, kind: type[CheckpointError] = UnsupportedModel) -> str:
    with pytest.raises(kind) as caught:
        read_graph(path, path.parent)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_every_other_operator_is_refused(tmp_path: Path) -> None:
    """Each operator of ONNX, and each that ONNX Runtime adds: those that decoders are made of pass, and no other."""
    every = {("", schema.name) for schema in onnx.defs.get_all_schemas() if schema.domain == ""}
    every |= {(schema.domain, schema.name) for schema in onnx.defs.get_all_schemas() if schema.domain != ""}
    every |= {(schema.domain, schema.name) for schema in ort.capi.onnxruntime_pybind11_state.get_all_operator_schema()}
    known = {(domain, name) for domain, names in OPERATORS.items() for name in names if domain != "ai.onnx"}
    assert ("", "Loop") in every
    assert ("", "Loop") not in known
    misspelt = {pair for pair in known - every if pair[0] == ""} - {("", "SimplifiedLayerNormalization")}
    assert not misspelt
    assert len(every - known) > 150
    for number, (domain, name) in enumerate(sorted(every - known)):
        path = saved([helper.make_node(name, ["x"], ["y"], domain=domain)], tmp_path / f"{number}.onnx")
        assert name in refusal(path)
        path.unlink()


def test_a_loop_is_refused_wherever_it_stands(tmp_path: Path) -> None:
    """In a branch and in a function too: it may never end."""
    loop = helper.make_node("Loop", ["x", "x"], ["y"], body=helper.make_graph([], "body", [], []))
    branch = helper.make_graph([loop], "branch", [], [helper.make_tensor_value_info("y", TensorProto.FLOAT, [4])])
    assert "Loop" in refusal(
        saved([helper.make_node("If", ["x"], ["y"], then_branch=branch, else_branch=branch)], tmp_path / "branch.onnx")
    )
    function = helper.make_function("own", "again", ["x"], ["y"], [loop], [helper.make_opsetid("", 18)])
    assert "Loop" in refusal(saved([helper.make_node("again", ["x"], ["y"], domain="own")], tmp_path / "function.onnx", [function]))


def doubling(level: int) -> onnx.FunctionProto:
    """A function that calls the one below it twice."""
    below = "Relu" if level == 0 else f"f{level - 1}"
    domain = "" if level == 0 else "own"
    nodes = [helper.make_node(below, ["x"], ["h"], domain=domain), helper.make_node(below, ["h"], ["y"], domain=domain)]
    return helper.make_function("own", f"f{level}", ["x"], ["y"], nodes, [helper.make_opsetid("", 18), helper.make_opsetid("own", 1)])


def test_functions_that_double_are_counted_before_they_are_written_out(tmp_path: Path) -> None:
    """Thirty functions of two nodes are two thousand million; a few are what exporters write."""
    bomb = saved([helper.make_node("f29", ["x"], ["y"], domain="own")], tmp_path / "bomb.onnx", [*map(doubling, range(30))])
    assert "more than 1,000,000 nodes" in refusal(bomb)
    few = saved([helper.make_node("f14", ["x"], ["y"], domain="own")], tmp_path / "few.onnx", [*map(doubling, range(15))])
    assert read_graph(few, tmp_path).outputs[0].name == "y"


def test_a_function_that_calls_itself_is_refused(tmp_path: Path) -> None:
    """ONNX forbids it, and writing it out would not end."""
    node = helper.make_node("self", ["x"], ["y"], domain="own")
    function = helper.make_function("own", "self", ["x"], ["y"], [node], [helper.make_opsetid("own", 1)])
    assert "calls itself" in refusal(saved([node], tmp_path / "self.onnx", [function]))


def test_branches_in_branches_have_a_bound(tmp_path: Path) -> None:
    """Deeper than any decoder's."""
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, [4])
    least = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "least", [], [output])
    inner = least
    for _ in range(30):
        inner = helper.make_graph([helper.make_node("If", ["x"], ["y"], then_branch=inner, else_branch=least)], "branch", [], [output])
    assert "branches in one another" in refusal(saved(list(inner.node), tmp_path / "deep.onnx"))


def unnamed(path: Path, *, shapes: bool) -> None:
    """Rename the outputs of a graph as an exporter does that has no names for them, and take what it says of their shapes."""
    model = onnx.load_model(path)
    for number, value in enumerate(model.graph.output):
        old, value.name = value.name, f"linear_{number}"
        for node in model.graph.node:
            node.output[:] = [value.name if name == old else name for name in node.output]
            node.input[:] = [value.name if name == old else name for name in node.input]
        if not shapes:
            value.type.tensor_type.ClearField("shape")
    for value in model.graph.input:
        if value.name.startswith("past") and not shapes:
            for axis in (1, 3):
                value.type.tensor_type.shape.dim[axis].ClearField("dim_value")
                value.type.tensor_type.shape.dim[axis].dim_param = f"axis{axis}"
    onnx.save_model(model, path)


@pytest.mark.parametrize("shapes", [True, False])
@pytest.mark.parametrize("cache", [True, False])
def test_outputs_without_names_or_shapes_are_told_by_their_order(
    llama: Any, tmp_path: Path, load_folder: Load, shapes: bool, cache: bool
) -> None:
    """torch's exporter names no outputs; how wide keys and values are stands in config.json."""
    folder = write_export(llama, tmp_path / "model", Style(cache=cache))
    unnamed(folder / "model.onnx", shapes=shapes)
    engine = load_folder(folder)
    assert ("kv_cache" in engine.info.features) == cache


def test_shapes_of_weights_are_numpys(tmp_path: Path) -> None:
    """A constant of 2**62 elements is refused for the bytes that are not there, before memory is taken."""
    node = helper.make_node("Add", ["x", "w"], ["y"])
    path = saved([node], tmp_path / "model.onnx")
    model = onnx.load_model(path)
    weight = numpy_helper.from_array(np.zeros(4, np.float32), "w")
    weight.dims[:] = [1 << 31, 1 << 31]
    model.graph.initializer.append(weight)
    onnx.save_model(model, path)
    assert "in place of" in refusal(path, CheckpointError)
