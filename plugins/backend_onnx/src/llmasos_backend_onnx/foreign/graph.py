"""An exported graph, read without its weights and checked before ONNX Runtime opens it.

``inspect`` runs in a process of its own when a graph is first seen: only one that passes there is parsed in the process that uses it.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

import attrs
import onnx
from onnx import TensorProto, helper

from llmasos_backend_onnx.foreign.files import inside
from llmasos_backend_onnx.foreign.operators import OPERATORS
from llmasos_hookspecs import CheckpointError, UnsupportedModel

#: The largest file that is read, weights outside of it apart; protobuf has the same bound.
_MOST_BYTES: Final = 2 << 30
#: Nodes of a graph with its functions written out, and how deep branches, and functions, may lie in one another. A decoder of a hundred
#: layers has some 20,000 nodes.
_MOST_NODES: Final = 1_000_000
_DEEPEST_BRANCH: Final = 16
_DEEPEST_CALL: Final = 64
_PACKED_BITS: Final[dict[int, int]] = {TensorProto.INT4: 4, TensorProto.UINT4: 4, TensorProto.FLOAT4E2M1: 4}
#: Operators that quantise the activations of a whole run with one scale, so that logits depend on the batch composition.
_ROUNDS_A_RUN: Final = frozenset({"DynamicQuantizeLinear", "DynamicQuantizeMatMul", "DynamicQuantizeLSTM"})
_INT8_PRODUCTS: Final = frozenset({"MatMulInteger", "MatMulIntegerToFloat", "DynamicQuantizeMatMul", "QLinearMatMul"})


@attrs.frozen
class Value:
    """An input or output: its ONNX element type, and the length of each axis, None where it is free; no shape where none is given."""

    name: str
    element: int
    shape: tuple[int | None, ...] | None


@attrs.frozen(kw_only=True, eq=False)
class ExportedGraph:
    """The facts of a graph that decide how it is run.

    Attributes:
        weight_bytes: bytes of all its constants.
        dtype: weight format of most of its linear layers.
        in_place: inputs that GroupQueryAttention reads as a KV cache; it can write new keys and values into the same memory.
        rounds_a_run: activations are quantised with one scale a run.
        rotary_length: positions in its rotary tables.
    """

    path: Path
    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]
    weight_bytes: int
    dtype: str
    in_place: frozenset[str]
    rounds_a_run: bool
    rotary_length: int | None


def read_graph(path: Path, root: Path) -> ExportedGraph:
    """Read the graph at ``path``; external data is looked for beside it and must lie in ``root``.

    Raises:
        CheckpointError: the file is no ONNX model, data is missing or cut, or leads outside the folder.
        UnsupportedModel: an operator is not on the list of those of language models, or the graph is larger or deeper than any of theirs.
    """
    model, nodes = _parse(path)
    weights = sum(_tensor_bytes(tensor, path, root) for tensor in _tensors(model, nodes))
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    attentions = [node for node in nodes if node.op_type == "GroupQueryAttention" and len(node.input) > 4]
    tables = [constants[node.input[7]] for node in attentions if len(node.input) > 7 and node.input[7] in constants]
    return ExportedGraph(
        path=path,
        inputs=tuple(_value(value) for value in model.graph.input if value.name not in constants),
        outputs=tuple(_value(value) for value in model.graph.output),
        weight_bytes=weights,
        dtype=_dtype(nodes, constants),
        in_place=frozenset(name for node in attentions for name in node.input[3:5]),
        rounds_a_run=any(node.op_type in _ROUNDS_A_RUN for node in nodes),
        rotary_length=min((table.dims[0] for table in tables if table.dims), default=None),
    )


def inspect(*paths: str) -> None:
    """Parse graphs and check their operators and their size, as ``read_graph`` does; for a process of its own.

    Raises:
        CheckpointError, UnsupportedModel: as ``read_graph``.
    """
    for path in paths:
        _parse(Path(path))


def _parse(path: Path) -> tuple[onnx.ModelProto, list[onnx.NodeProto]]:
    if path.stat().st_size > _MOST_BYTES:
        raise CheckpointError(f"{path} is larger than a graph can be; export it with its weights in a file of their own.")
    try:
        model = onnx.load_model(path, load_external_data=False)
    except Exception as error:  # protobuf's and onnx's own, without a base in common
        raise CheckpointError(f"{path} is no ONNX model, or a damaged one; export it again.") from error
    if not model.graph.node:
        raise CheckpointError(f"{path} holds no graph; export it again.")
    nodes = list(_nodes(model, path))
    _check_names(model, nodes, path)
    _check_operators(model, nodes, path)
    _check_size(model, path)
    return model, nodes


def _check_names(model: onnx.ModelProto, nodes: list[onnx.NodeProto], path: Path) -> None:
    """Protobuf gives a text that is not in UTF-8 as bytes."""
    names = [value.name for value in (*model.graph.input, *model.graph.output, *model.graph.initializer)]
    for node in nodes:
        names += [node.op_type, node.domain, *node.input, *node.output]
    if not all(isinstance(name, str) for name in names):
        raise CheckpointError(f"{path} holds a name that is no text in UTF-8; export it again.")


def _nodes(model: onnx.ModelProto, path: Path) -> Iterator[onnx.NodeProto]:
    """Every node, including those in branches and functions."""
    waiting = [(0, part.node) for part in (model.graph, *model.functions)]
    while waiting:
        depth, nodes = waiting.pop()
        if depth > _DEEPEST_BRANCH:
            raise UnsupportedModel(f"{path} has branches in one another, more than {_DEEPEST_BRANCH} deep, which no decoder has.")
        for node in nodes:
            yield node
            for attribute in node.attribute:
                waiting += [(depth + 1, graph.node) for graph in (attribute.g, *attribute.graphs)]


def _check_size(model: onnx.ModelProto, path: Path) -> None:
    """Bound the size of the graph with its functions inlined, as ONNX Runtime inlines them before it runs."""
    bodies = {(function.domain, function.name): function.node for function in model.functions}
    counts: dict[tuple[str, str], int] = {}

    def count(nodes: Iterable[onnx.NodeProto], inside: frozenset[tuple[str, str]]) -> int:
        total = 0
        for node in nodes:
            key = (node.domain, node.op_type)
            if key in bodies:
                if key in inside or len(inside) > _DEEPEST_CALL:
                    raise UnsupportedModel(f"{path} holds the function {node.op_type[:80]!r}, which calls itself or lies too deep to run.")
                if key not in counts:
                    counts[key] = count(bodies[key], inside | {key})
                total += counts[key]
            total += 1 + sum(count(graph.node, inside) for attribute in node.attribute for graph in (attribute.g, *attribute.graphs))
            if total > _MOST_NODES:
                raise UnsupportedModel(
                    f"{path} has more than {_MOST_NODES:,} nodes once its functions are written out; no decoder has so many."
                )
        return total

    count(model.graph.node, frozenset())


def _tensors(model: onnx.ModelProto, nodes: list[onnx.NodeProto]) -> Iterator[TensorProto]:
    """Every constant, including those in branches."""
    graphs = [model.graph]
    for node in nodes:
        for attribute in node.attribute:
            graphs += [attribute.g, *attribute.graphs]
            yield from (attribute.t, *attribute.tensors)
            for sparse in (attribute.sparse_tensor, *attribute.sparse_tensors):
                yield from (sparse.values, sparse.indices)
    for graph in graphs:
        yield from graph.initializer
        for sparse in graph.sparse_initializer:
            yield from (sparse.values, sparse.indices)


def _tensor_bytes(tensor: TensorProto, path: Path, root: Path) -> int:
    """Bytes of a constant, after checking that its data exists."""
    if tensor.data_type in (TensorProto.UNDEFINED, TensorProto.STRING):
        return 0
    shown = f"{path} holds the tensor {tensor.name[:80]!r}"
    try:
        bits = _PACKED_BITS.get(tensor.data_type) or helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize * 8
    except KeyError as error:
        raise UnsupportedModel(f"{shown} of the ONNX type {tensor.data_type}, which this onnx {onnx.__version__} does not know.") from error
    if any(size < 0 for size in tensor.dims):
        raise CheckpointError(f"{shown} of an impossible shape; export it again.")
    needed = -(-int(math.prod(tensor.dims)) * bits // 8)
    if tensor.data_location == TensorProto.EXTERNAL:
        entries = {entry.key: entry.value for entry in tensor.external_data}
        file = inside(root, path.parent, entries.get("location", ""))
        try:
            offset, length = int(entries.get("offset") or 0), int(entries.get("length") or needed)
        except ValueError as error:
            raise CheckpointError(f"{shown}, whose place in {file.name} is no number; export it again.") from error
        if offset < 0 or length != needed or offset + length > file.stat().st_size:
            raise CheckpointError(f"{shown}, whose {needed} bytes {file.name} does not hold; the file is cut or another model's.")
    elif tensor.raw_data and len(tensor.raw_data) != needed:
        raise CheckpointError(f"{shown} with {len(tensor.raw_data)} bytes in place of {needed}; the file is damaged.")
    return needed


def _check_operators(model: onnx.ModelProto, nodes: list[onnx.NodeProto], path: Path) -> None:
    own = {(function.domain, function.name) for function in model.functions}
    used = {(node.domain, node.op_type) for node in nodes} - own
    unknown = sorted(f"{domain}:{name}"[:80] if domain else name[:80] for domain, name in used if name not in OPERATORS.get(domain, ()))
    if unknown:
        raise UnsupportedModel(
            f"{path} uses the operators {', '.join(unknown[:4])}, which are none that language models are made of here; export it without."
        )


def _dtype(nodes: list[onnx.NodeProto], constants: dict[str, TensorProto]) -> str:
    producers = {output: node for node in nodes for output in node.output}
    found: Counter[str] = Counter()
    for node in nodes:
        if node.op_type == "MatMulNBits":
            found[f"int{next((a.i for a in node.attribute if a.name == 'bits'), 4)}"] += 1
        elif node.op_type in _INT8_PRODUCTS:
            found["int8"] += 1
        elif node.op_type in ("MatMul", "Gemm") and len(node.input) > 1:
            weight = _constant_behind(node.input[1], producers, constants)
            if weight is not None:
                found[_type_name(weight.data_type)] += 1
    return found.most_common(1)[0][0] if found else "float32"


def _constant_behind(name: str, producers: dict[str, onnx.NodeProto], constants: dict[str, TensorProto]) -> TensorProto | None:
    """The stored matrix that a MatMul reads, directly or through a transposition or a dequantisation."""
    for _ in range(4):
        if name in constants or name not in producers:
            break
        node = producers[name]
        if node.op_type not in ("Transpose", "DequantizeLinear", "Cast", "Identity") or not node.input:
            break
        name = node.input[0]
    return constants.get(name)


def _type_name(element: int) -> str:
    name = str(TensorProto.DataType.Name(element)).lower()
    return {"float": "float32", "uint8": "int8", "uint4": "int4"}.get(name, name)


def _value(value: onnx.ValueInfoProto) -> Value:
    kind = value.type.tensor_type
    shape = tuple(axis.dim_value if axis.HasField("dim_value") else None for axis in kind.shape.dim) if kind.HasField("shape") else None
    return Value(value.name, kind.elem_type, shape)
