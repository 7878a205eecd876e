"""Adds the low-rank changes of an adapter to the weights."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from llmasos_accel_merge.options import Options
from llmasos_hookspecs import AccelerationError, AccelerationResult, Adapter, Checkpoint, Context, LowRank, QuantizedTensor, as_float32
from llmasos_huggingface_folder.adapters import read_adapter


def merge_checkpoint(checkpoint: Checkpoint, output: Path, options: Options, context: Context) -> AccelerationResult:
    """Write ``checkpoint`` with the adapter in its weights.

    Raises:
        AccelerationError: the adapter was made for another model.
        CheckpointError, UnsupportedModel: it is damaged, or no plain LoRA.
    """
    if not options.adapter:
        raise AccelerationError("No adapter is named; give adapter, the folder of a LoRA adapter.")
    adapter = read_adapter(options.folder, "merged")
    changes = changes_of(adapter, checkpoint)
    with context.writer(checkpoint, output) as writer, context.progress("Merging", len(changes), "layers") as progress:
        for name in checkpoint.names():
            tensor = checkpoint.tensor(name)
            if name in changes:
                writer.add(name, merged(as_float32(tensor), changes[name], options.scale, transposed=adapter.fan_in_fan_out))
                progress.advance()
            else:
                writer.add(name, tensor.dequantize() if isinstance(tensor, QuantizedTensor) else tensor)
    return writer.result(adapter=adapter.digest, scale=options.scale, layers=len(changes))


def changes_of(adapter: Adapter, checkpoint: Checkpoint) -> Mapping[str, LowRank]:
    """Name of a tensor -> what is added to it."""
    names = set(checkpoint.names())
    found: dict[str, LowRank] = {}
    for layer, change in adapter.layers.items():
        # A folder may leave out what transformers calls the model without its head.
        name = next((each for each in (f"{layer}.weight", f"{layer.partition('.')[2]}.weight") if each in names), None)
        if name is None:
            raise AccelerationError(f"The adapter changes {layer[:80]}, which {checkpoint.path} lacks; it was made for another model.")
        shape = (change.up.shape[0], change.down.shape[1])
        if tuple(checkpoint.shape(name)) != (shape[::-1] if adapter.fan_in_fan_out else shape):
            raise AccelerationError(
                f"The adapter changes {name} as {shape[0]} x {shape[1]}, and {checkpoint.path} has {tuple(checkpoint.shape(name))}; it was "
                "made for another model."
            )
        found[name] = change
    return found


def merged(weight: Any, change: LowRank, scale: float, *, transposed: bool) -> Any:
    """``weight + scale * up @ down``, float32, computed in float64 so that merging twice in halves gives the same."""
    delta = scale * (change.up.astype(np.float64) @ change.down)
    return (weight + (delta.T if transposed else delta)).astype(np.float32)
