"""Checks the variables of a SavedModel: of the declared sizes and finite."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from llmasos_backend_tf.framework import first_line
from llmasos_hookspecs import CheckpointError


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
