"""The stage: quantises a checkpoint and writes the result."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from llmasos_accel_quant.grid import Floats, Grid
from llmasos_accel_quant.groups import fitting_group
from llmasos_accel_quant.options import Options
from llmasos_accel_quant.targets import EMBEDDING, HEAD, linear_weights
from llmasos_hookspecs import AccelerationError, AccelerationResult, Checkpoint, Context, QuantizedTensor, Tensor, as_float32


def quantize_checkpoint(checkpoint: Checkpoint, output: Path, options: Options, context: Context) -> AccelerationResult:
    """Write ``checkpoint`` with quantised linear weights and a quantised head.

    A tied head is stored separately as ``lm_head.weight`` and untied: the embedding, which is a lookup table and not a GEMM operand, stays
    in float16.

    Raises:
        AccelerationError: a weight is not finite.
    """
    calibrated: Mapping[str, QuantizedTensor] = {}
    changed: Mapping[str, Tensor] = {}
    notes: list[str] = []
    if options.rounding != "rtn":
        from llmasos_accel_quant.calibrated import quantize_calibrated

        calibrated, changed, notes = quantize_calibrated(checkpoint, options, context, context.calibration(options.windows, options.length))
    linears = set(linear_weights(checkpoint))
    names = list(checkpoint.names())
    groups: Counter[str] = Counter()
    tied = checkpoint.decoder.tie_embeddings
    with (
        context.writer(checkpoint, output) as writer,
        context.progress("quantise", total=len(names), unit="tensors") as progress,
    ):
        for name in names:
            if name in linears:
                tensor = calibrated.get(name) or _nearest(checkpoint, name, options.bits, options.columns_per_scale, options.symmetric)
                groups[_words(tensor)] += 1
                writer.add(name, tensor)
            elif name == HEAD and options.head_bits < 16:
                writer.add(HEAD, _head(checkpoint, HEAD, options))
            elif name == EMBEDDING:
                writer.add(name, _half(checkpoint.tensor(name)))
                if tied and options.head_bits < 16:
                    writer.set_config({"tie_word_embeddings": False})
                    writer.add(HEAD, _head(checkpoint, EMBEDDING, options))
            else:
                writer.add(name, changed[name] if name in changed else checkpoint.tensor(name))
            progress.advance()
    return writer.result(**_report(options, groups, tied, notes))


def _nearest(checkpoint: Checkpoint, name: str, bits: int, columns_per_scale: int, symmetric: bool) -> QuantizedTensor:
    weight: Floats = as_float32(checkpoint.tensor(name))
    if not np.isfinite(weight).all():
        raise AccelerationError(f"{checkpoint.path} holds values in {name} that are not finite; the checkpoint is damaged.")
    group = fitting_group(weight.shape[1], columns_per_scale)
    if group is None:
        raise AccelerationError(f"{name} has {weight.shape[1]} columns, which no group of at least 16 divides; set group = 0.")
    return Grid.spanning(weight, bits=bits, group=group, symmetric=symmetric).nearest(weight)


def _head(checkpoint: Checkpoint, name: str, options: Options) -> QuantizedTensor:
    return _nearest(checkpoint, name, options.head_bits, options.head_columns_per_scale, options.symmetric)


def _half(tensor: Tensor) -> Tensor:
    """A float32 or quantised embedding as float16, if its values fit; others unchanged."""
    if isinstance(tensor, QuantizedTensor) or tensor.dtype == np.float32:
        wide = as_float32(tensor)
        return wide.astype(np.float16) if np.abs(wide).max(initial=0) < np.finfo(np.float16).max else wide
    return tensor


def _words(tensor: QuantizedTensor) -> str:
    return f"{tensor.bits} bits, one scale a row" if tensor.group == tensor.shape[1] else f"{tensor.bits} bits, groups of {tensor.group}"


def _report(options: Options, groups: Counter[str], tied: bool, notes: list[str]) -> dict[str, Any]:
    notes = list(notes)
    asked = f"{options.bits} bits, groups of {options.columns_per_scale}"
    smaller = sorted(words for words in groups if options.columns_per_scale and words != asked)
    if smaller:
        notes.append(
            f"Groups of {options.columns_per_scale} do not divide every width, and the stored layout has no short last group; "
            f"where they do not, the largest that does was taken: {'; '.join(f'{groups[words]} weights in {words}' for words in smaller)}."
        )
    if not options.symmetric:
        notes.append(
            "Zero points: transformers 5 with compressed-tensors 0.20 reads them only with CompressedTensorsConfig(dequantize=True), and "
            "only where head_bits is bits or 16; symmetric codes have no such limit."
        )
    if options.head_bits == 16:
        notes.append("The head was left as it was, as head_bits = 16 asks.")
    elif tied:
        notes.append("The head was tied to the embedding; it is stored on its own now, and the embedding is kept in float16.")
    return {"method": options.rounding, "schemes": dict(groups), "head_bits": options.head_bits, "notes": notes}
