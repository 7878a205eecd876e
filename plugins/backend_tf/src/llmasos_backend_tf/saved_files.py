"""Checks the files of a SavedModel: inside its folder, of the declared sizes, with finite weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

from llmasos_backend_tf.framework import first_line
from llmasos_backend_tf.links import check_links
from llmasos_hookspecs import CheckpointError, UnsupportedModel

#: Largest graph file that is read: TensorFlow's own bound of a message.
_MAX_GRAPH_BYTES: Final = (1 << 31) - 1


def read_graph(folder: Path) -> Any:
    """The ``MetaGraphDef`` of a SavedModel.

    Raises:
        CheckpointError: the file is damaged, too large, or a link that leads outside the folder.
        UnsupportedModel: it was saved by TensorFlow 1, or holds several graphs.
    """
    path = folder / "saved_model.pb"
    check_links(folder, [path, folder / "variables", *sorted((folder / "variables").glob("*"))])
    if not path.is_file():
        raise CheckpointError(f"{folder} is a damaged SavedModel (it has no saved_model.pb); export the model again.")
    size = path.stat().st_size
    if size > _MAX_GRAPH_BYTES:
        raise CheckpointError(f"{path} has {size} bytes, and a graph has at most {_MAX_GRAPH_BYTES}; keep the weights in variables.")
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


def check_variables(graph: Any, folder: Path) -> None:
    """Check that the variables match the files of the folder and are finite.

    Raises:
        CheckpointError: they are missing or damaged, of another size than the files, or not finite.
    """
    prefix = folder / "variables" / "variables"
    room = sum(file.stat().st_size for file in (folder / "variables").glob("variables.data-*"))
    try:
        reader = tf.train.load_checkpoint(str(prefix))
        shapes = reader.get_variable_to_shape_map()
        dtypes = reader.get_variable_to_dtype_map()
    except Exception as error:  # TensorFlow raises many kinds for damaged files
        raise CheckpointError(f"{folder} is a damaged SavedModel ({first_line(error)}); export it again.") from error
    stored = sum(_bytes(shape, dtypes[name]) for name, shape in shapes.items())
    declared = sum(
        _bytes([dimension.size for dimension in node.variable.shape.dim], type_of(node.variable.dtype))
        for node in graph.object_graph_def.nodes
        if node.WhichOneof("kind") == "variable"
    )
    if max(stored, declared) > room:
        raise CheckpointError(
            f"{folder} is a damaged SavedModel (variables of {max(stored, declared)} bytes lie in {room}); export it again."
        )
    for name in sorted(shapes):
        if not dtypes[name].is_floating:
            continue
        try:
            values = reader.get_tensor(name)
        except Exception as error:  # as above
            raise CheckpointError(f"{folder} is a damaged SavedModel ({first_line(error)}); export it again.") from error
        if not np.isfinite(np.asarray(values, np.float32)).all():
            raise CheckpointError(f"{folder} holds a weight that is NaN or infinite, in {name[:120]}; train or export the model again.")


def type_of(number: int) -> tf.DType:
    """TensorFlow's type of the number that a graph gives it. Raises ``CheckpointError`` where there is none."""
    try:
        return tf.dtypes.as_dtype(number)
    except TypeError as error:
        raise CheckpointError(
            f"The graph holds values of the type {number}, which TensorFlow does not know; export the model again."
        ) from error


def variable_types(graph: Any) -> set[tf.DType]:
    """Types of the numbers that the variables hold, whole numbers and truth values aside."""
    types = {type_of(node.variable.dtype) for node in graph.object_graph_def.nodes if node.WhichOneof("kind") == "variable"}
    return {each for each in types if each.is_floating}


def _bytes(shape: Any, dtype: tf.DType) -> int:
    size = 1
    for dimension in shape:
        size *= max(dimension, 0)
    try:
        return size * dtype.size
    except TypeError:
        return 0
