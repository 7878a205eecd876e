"""Extracts the part of a SavedModel that one signature runs, without running anything.

When it loads a SavedModel, TensorFlow runs more than the requested signature: table initialisers, restore functions of objects, and, for
shape inference, parts of every function. So this module copies only the signature's own functions and the variables they read into a new
graph, and TensorFlow loads that graph.
"""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import attrs
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

from llmasos_backend_tf.saved_files import type_of
from llmasos_backend_tf.saved_functions import find_signature, functions_called, library_of
from llmasos_hookspecs import CheckpointError, UnsupportedModel

#: Objects of a SavedModel that hold others and have no behaviour of their own.
_CONTAINERS: Final = frozenset(
    {
        *("_generic_user_object", "signature_map"),
        *("trackable_list_wrapper", "trackable_dict_wrapper", "trackable_tuple_wrapper", "trackable_mutable_mapping_wrapper"),
    }
)


@attrs.frozen(kw_only=True)
class Port:
    """An input or output of a signature. ``shape`` has None for open dimensions, and is None where the rank is open."""

    dtype: tf.DType
    shape: tuple[int | None, ...] | None


@attrs.frozen(kw_only=True)
class SignatureOfFile:
    """What a signature takes and gives, as the file says it."""

    name: str
    inputs: Mapping[str, Port]
    outputs: Mapping[str, Port]

    def __str__(self) -> str:
        return f"{self.name}({', '.join(sorted(self.inputs))}) -> {', '.join(sorted(self.outputs))}"


def signatures(graph: Any) -> list[SignatureOfFile]:
    """The signatures that a caller can name."""
    return [
        SignatureOfFile(
            name=name,
            inputs={key: _port(value) for key, value in definition.inputs.items()},
            outputs={key: _port(value) for key, value in definition.outputs.items()},
        )
        for name, definition in sorted(graph.signature_def.items())
        if not name.startswith("__saved_model")
    ]


@contextlib.contextmanager
def only_signature(graph: Any, name: str, folder: Path) -> Iterator[Path]:
    """A folder with a SavedModel of one signature, for as long as the context is open.

    Raises:
        CheckpointError: the signature runs an operation that no decoder needs, the graph is damaged, or larger when it runs than any
            decoder's.
        UnsupportedModel: it reads something other than variables and constants.
    """
    taken = _take(graph, name, folder)
    with tempfile.TemporaryDirectory(prefix="llmasos-tf-") as kept:
        saved = saved_model_pb2.SavedModel(saved_model_schema_version=1, meta_graphs=[taken])
        (Path(kept) / "saved_model.pb").write_bytes(saved.SerializeToString())
        source, target = (folder / "variables").resolve(), Path(kept) / "variables"
        try:
            target.symlink_to(source, target_is_directory=True)
        except OSError:  # Windows allows links to few users
            shutil.copytree(source, target)
        yield Path(kept)


def _take(graph: Any, name: str, folder: Path) -> Any:
    found = find_signature(graph, name, folder)
    objects, library = graph.object_graph_def, library_of(graph)
    used = functions_called(library, found.function, folder)
    try:
        _check_captures(objects, objects.concrete_functions[found.function], name, folder)
    except IndexError as error:
        raise CheckpointError(f"{folder} is a damaged SavedModel (its objects do not fit together); export the model again.") from error
    kept = _reduced(graph, {found.signature_map, found.node}, found.function)
    children = kept.object_graph_def.nodes[found.signature_map].children
    only = [each for each in children if each.node_id == found.node]
    del children[:]
    children.extend(only)
    kept.graph_def.library.function.extend(_plain(library[each]) for each in used)
    kept.signature_def[name].CopyFrom(graph.signature_def[name])
    return kept


def _check_captures(objects: Any, concrete: Any, name: str, folder: Path) -> None:
    for captured in concrete.bound_inputs:
        kind = objects.nodes[captured].WhichOneof("kind")
        if kind not in ("variable", "constant"):
            raise UnsupportedModel(
                f"{folder} reads a {kind or 'nameless object'} in its signature {name}, and the loader tf takes variables and constants; "
                "export the model without tables, files and other resources."
            )


def _reduced(graph: Any, kept: set[int], function: str) -> Any:
    """A graph of the same objects, none of which has a function but that of the signature."""
    meta = type(graph)()
    meta.meta_info_def.CopyFrom(graph.meta_info_def)
    meta.graph_def.versions.CopyFrom(graph.graph_def.versions)
    objects = graph.object_graph_def
    constants = {node.constant.operation for node in objects.nodes if node.WhichOneof("kind") == "constant"}
    for node in graph.graph_def.node:
        if node.op == "Const" and node.name in constants:
            constant = meta.graph_def.node.add(name=node.name, op=node.op)
            for key in ("value", "dtype"):
                constant.attr[key].CopyFrom(node.attr[key])
    for index, node in enumerate(objects.nodes):
        copy = meta.object_graph_def.nodes.add()
        kind = node.WhichOneof("kind")
        if kind in ("variable", "constant"):
            getattr(copy, kind).CopyFrom(getattr(node, kind))
            if kind == "variable":
                copy.variable.device = ""
        elif kind == "bare_concrete_function" and index in kept:
            copy.bare_concrete_function.CopyFrom(node.bare_concrete_function)
        else:
            known = kind == "user_object" and node.user_object.identifier in _CONTAINERS
            copy.user_object.identifier = node.user_object.identifier if known else "_generic_user_object"
            copy.user_object.version.producer = copy.user_object.version.min_consumer = 1
            if kind == "user_object":
                copy.children.extend(node.children)
    meta.object_graph_def.concrete_functions[function].CopyFrom(objects.concrete_functions[function])
    return meta


def _plain(function: Any) -> Any:
    """A function without what says where and how it runs: devices, settings of a session, gradients, replacements."""
    copy = type(function)()
    copy.CopyFrom(function)
    for name in [name for name in copy.attr if name.startswith(("_", "api_"))]:
        if name not in ("_input_shapes", "_construction_context"):
            del copy.attr[name]
    for node in copy.node_def:
        node.device = ""
        for name in list(node.attr):
            if name in ("config", "config_proto", "executor_type"):
                node.attr[name].s = b""
            elif name.startswith("_") and name != "_output_shapes":
                del node.attr[name]
    return copy


def _port(info: Any) -> Port:
    shape = info.tensor_shape
    open_rank = shape.unknown_rank
    return Port(
        dtype=type_of(info.dtype),
        shape=None if open_rank else tuple(None if dimension.size < 0 else dimension.size for dimension in shape.dim),
    )
