"""The kit's writer refuses what core's refuses, so that an accelerator that passes the kit can be run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from llmasos.compose.formats import open_model
from llmasos_hookspecs import AccelerationError
from llmasos_hookspecs.testing import SandboxWriter, quantize, tiny_checkpoint
from llmasos_huggingface_folder.writer import CheckpointFolderWriter

NORM, MATRIX = "model.norm.weight", "model.layers.0.mlp.up_proj.weight"
ADDED: dict[str, tuple[str, Callable[[Any], Any]]] = {
    **{f"{kind}": (NORM, lambda tensor, kind=kind: tensor.astype(kind)) for kind in ("float16", "float32", "float64", "int32", "int8")},
    "bool": (NORM, lambda tensor: tensor > 0),
    "uint8": (NORM, lambda tensor: tensor.astype(np.uint8)),
    "complex64": (NORM, lambda tensor: tensor.astype(np.complex64)),
    "bfloat16": (NORM, lambda tensor: tensor.astype(ml_dtypes.bfloat16)),
    "text": (NORM, lambda tensor: np.array(["a"] * len(tensor))),
    "a list": (NORM, lambda tensor: tensor.tolist()),
    "codes": (MATRIX, lambda tensor: quantize(tensor, 8)),
    "codes of what is no weight": ("extra", lambda _tensor: quantize(np.ones((32, 32), np.float32), 8)),
}


def refuses(writer: Any, checkpoint: Any, name: str, tensor: Any) -> bool:
    try:
        with writer:
            for each in checkpoint.names():
                if each != name:
                    writer.add(each, checkpoint.tensor(each))
            writer.add(name, tensor)
    except AccelerationError:
        return True
    return False


@pytest.mark.parametrize("what", ADDED)
def test_both_writers_take_or_refuse_the_same(tmp_path: Path, what: str) -> None:
    """Whatever the type of a tensor and the name of what is quantised."""
    tiny_checkpoint(folder=tmp_path / "model")
    checkpoint = open_model(tmp_path / "model")
    name, change = ADDED[what]
    tensor = change(np.asarray(checkpoint.tensor(name if name in checkpoint.names() else NORM)))
    ours = refuses(CheckpointFolderWriter(checkpoint, tmp_path / "core"), checkpoint, name, tensor)
    kits = refuses(SandboxWriter(checkpoint, tmp_path / "kit"), checkpoint, name, tensor)
    assert ours == kits
    assert ours == (what in ("int32", "int8", "bool", "uint8", "complex64", "text", "codes of what is no weight"))


@pytest.mark.parametrize("writer", [CheckpointFolderWriter, SandboxWriter])
def test_both_writers_refuse_what_comes_twice_or_too_late(tmp_path: Path, writer: Any) -> None:
    """A tensor added twice or after the end, and a result before it."""
    checkpoint = tiny_checkpoint(folder=tmp_path / "model")
    made = writer(open_model(tmp_path / "model"), tmp_path / "out")
    with made:
        for name in checkpoint.names():
            made.add(name, checkpoint.tensor(name))
        with pytest.raises(AccelerationError, match="twice"):
            made.add(NORM, checkpoint.tensor(NORM))
        with pytest.raises(AccelerationError):
            made.result()
    with pytest.raises(AccelerationError, match="outside"):
        made.add("late", checkpoint.tensor(NORM))
