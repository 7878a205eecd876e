"""Reads the graph of a SavedModel and walks the functions that a signature runs; without TensorFlow.

``inspect`` runs in a process of its own when a graph is first seen: only one that passes there is parsed in the process that uses it.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, Final

import attrs

from llmasos_backend_tf.framework import first_line
from llmasos_backend_tf.links import check_links
from llmasos_backend_tf.operations import DECODER_OPERATIONS
from llmasos_hookspecs import CheckpointError, LLMasOSError, UnsupportedModel

#: Largest graph file that is read: TensorFlow's own bound of a message.
_MAX_GRAPH_BYTES: Final = (1 << 31) - 1
#: Nodes of a signature with all calls written out. A decoder of 100 layers has 50,000; functions that call each other twice, 30 deep, 10^9.
_MAX_NODES: Final = 1_000_000
#: Bytes that constants may take over those of the file: a shape of any size can be given with a single value.
_MAX_CONSTANT_BYTES: Final = 1 << 28
_CALLS: Final = ("PartitionedCall", "StatefulPartitionedCall")
#: Bytes of an element by the number of its type (tensorflow/core/framework/types.proto); 1 for all others, text among them.
_WIDTHS: Final = {
    **dict.fromkeys((5, 14, 15, 16, 17, 19), 2),  # int16, bfloat16, qint16, quint16, uint16, half
    **dict.fromkeys((1, 3, 13, 22), 4),  # float, int32, qint32, uint32
    **dict.fromkeys((2, 8, 9, 23), 8),  # double, complex64, int64, uint64
    18: 16,  # complex128
}


def inspect(path: str) -> None:
    """Parse ``saved_model.pb`` and walk its signatures, in a process that has no TensorFlow.

    Raises:
        CheckpointError, UnsupportedModel: as ``read_graph``; or ``functions_called`` raises for every signature.
    """
    _without_tensorflow()
    folder = Path(path).parent
    graph = read_graph(folder)
    refusals: list[LLMasOSError] = []
    for name in sorted(graph.signature_def):
        if name.startswith("__saved_model"):
            continue
        try:
            functions_called(library_of(graph), find_signature(graph, name, folder).function, folder)
        except CheckpointError as error:
            refusals.append(error)
        else:
            return  # which one is taken is decided by their inputs and outputs, and it is walked again
    if refusals:
        raise refusals[0]


def _without_tensorflow() -> None:
    """Let the modules of TensorFlow's messages be imported without TensorFlow, which takes seconds and starts threads."""
    if "tensorflow" not in sys.modules and (found := importlib.util.find_spec("tensorflow")) is not None:
        package = ModuleType("tensorflow")
        package.__path__ = list(found.submodule_search_locations or ())
        sys.modules["tensorflow"] = package


def check_files(folder: Path) -> None:
    """Check that the files are there, inside the folder, and no larger than a graph can be.

    Raises:
        CheckpointError: the graph is missing or too large, or a file is a link that leads outside the folder.
    """
    path = folder / "saved_model.pb"
    check_links(folder, [path, folder / "variables", *sorted((folder / "variables").glob("*"))])
    if not path.is_file():
        raise CheckpointError(f"{folder} is a damaged SavedModel (it has no saved_model.pb); export the model again.")
    size = path.stat().st_size
    if size > _MAX_GRAPH_BYTES:
        raise CheckpointError(f"{path} has {size} bytes, and a graph has at most {_MAX_GRAPH_BYTES}; keep the weights in variables.")


def read_graph(folder: Path) -> Any:
    """The ``MetaGraphDef`` of a SavedModel.

    Raises:
        CheckpointError: the file is damaged, or ``check_files`` refuses it.
        UnsupportedModel: it was saved by TensorFlow 1, or holds several graphs.
    """
    from tensorflow.core.protobuf import saved_model_pb2

    check_files(folder)
    path = folder / "saved_model.pb"
    try:
        proto = saved_model_pb2.SavedModel.FromString(path.read_bytes())
    except Exception as error:  # protobuf raises several kinds
        raise CheckpointError(f"{path} is a damaged SavedModel ({first_line(error)}); export the model again.") from error
    if len(proto.meta_graphs) != 1 or not proto.meta_graphs[0].HasField("object_graph_def"):
        raise UnsupportedModel(
            f"{path} holds {len(proto.meta_graphs)} graphs, and the loader tf needs one with objects, as tf.saved_model.save writes it; "
            "export the model with TensorFlow 2."
        )
    return proto.meta_graphs[0]


@attrs.frozen
class Found:
    """Where a signature is: the object that holds all signatures, its own, and the name of its function."""

    signature_map: int
    node: int
    function: str


def find_signature(graph: Any, name: str, folder: Path) -> Found:
    """The place of a signature. Raises ``CheckpointError`` where the objects do not lead to its function."""
    objects = graph.object_graph_def
    try:
        signature_map = next(child.node_id for child in objects.nodes[0].children if child.local_name == "signatures")
        node = next(child.node_id for child in objects.nodes[signature_map].children if child.local_name == name)
        function = objects.nodes[node].bare_concrete_function.concrete_function_name
    except (StopIteration, IndexError) as error:
        raise CheckpointError(f"{folder} is a damaged SavedModel (its objects do not fit together); export the model again.") from error
    if function not in objects.concrete_functions or function not in library_of(graph):
        raise CheckpointError(f"{folder} has no function for its signature {name}; export the model again.")
    return Found(signature_map, node, function)


def library_of(graph: Any) -> dict[str, Any]:
    """The functions of a graph by name."""
    return {each.signature.name: each for each in graph.graph_def.library.function}


def functions_called(library: Mapping[str, Any], start: str, folder: Path) -> list[str]:
    """The functions that ``start`` calls, itself among them, each after those it calls; all their operations are of decoders."""
    sizes: dict[str, int] = {}
    unknown: set[str] = set()
    constants = 0
    # An explicit stack: a file decides how deep calls go.
    stack: list[tuple[str, bool]] = [(start, False)]
    open_calls: set[str] = set()
    while stack:
        name, done = stack.pop()
        if done:
            open_calls.discard(name)
            called = [callee for node in library[name].node_def for callee in _called(node, library)]
            sizes[name] = len(library[name].node_def) + sum(sizes[callee] for callee in called)
            if sizes[name] > _MAX_NODES:
                raise CheckpointError(f"{folder} runs more than {_MAX_NODES} operations for each step; do not use this model.")
            continue
        if name in sizes:
            continue
        if name in open_calls:
            raise CheckpointError(f"{folder} has the function {name}, which calls itself without end; do not use this model.")
        open_calls.add(name)
        stack.append((name, True))
        for node in library[name].node_def:
            called = _called(node, library)
            if node.op not in (DECODER_OPERATIONS if not called else (*_CALLS, *library)):
                unknown.add(node.op)
            constants += sum(_constant_bytes(attribute.tensor) for attribute in node.attr.values() if attribute.HasField("tensor"))
            stack += [(callee, False) for callee in called if callee not in sizes]
    if unknown:
        raise CheckpointError(
            f"{folder} runs the operation{'s' if len(unknown) > 1 else ''} {', '.join(sorted(unknown)[:8])}, and the loader tf runs only "
            "those that compute a decoder's logits from its inputs and variables; export the model without them."
        )
    if constants > _MAX_CONSTANT_BYTES + (folder / "saved_model.pb").stat().st_size:
        raise CheckpointError(f"{folder} has constants of {constants} bytes in a smaller file; keep the weights in variables.")
    return list(sizes)


def _called(node: Any, library: Mapping[str, Any]) -> list[str]:
    """Functions of the library that a node names, by its operation or by any attribute."""
    found = [node.op] if node.op in library else []
    for attribute in node.attr.values():
        for function in (attribute.func, *attribute.list.func):
            if function.name:
                if function.name not in library:
                    raise CheckpointError(f"The graph calls a function {function.name!r} that it does not hold; export the model again.")
                found.append(function.name)
    return found


def _constant_bytes(tensor: Any) -> int:
    size = 1
    for dimension in tensor.tensor_shape.dim:
        size *= max(dimension.size, 0)
    return size * _WIDTHS.get(tensor.dtype, 1)
