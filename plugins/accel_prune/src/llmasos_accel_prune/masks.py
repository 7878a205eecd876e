"""The mask stages: set weights to zero and keep all shapes."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import numpy as np

from llmasos_accel_prune.options import Options
from llmasos_accel_prune.sparsity import Floats, magnitude, sparsegpt, wanda
from llmasos_accel_prune.tensors import is_linear, plain
from llmasos_hookspecs import AccelerationResult, Checkpoint, Context, as_float32

NOTE: Final = (
    "A mask keeps every matrix at its size, and no CPU kernel skips its zeros: it makes nothing faster and nothing smaller here. "
    "It serves research, and hardware with 2:4 kernels."
)


def mask_checkpoint(checkpoint: Checkpoint, output: Path, options: Options, context: Context) -> AccelerationResult:
    """Write ``checkpoint`` with a share of every layer's linear weights at zero; embedding and head stay."""
    masked: dict[str, Floats] = {} if options.method == "magnitude" else _calibrated(checkpoint, options, context)
    zeros = total = 0
    with context.writer(checkpoint, output) as writer:
        for name in checkpoint.names():
            tensor = checkpoint.tensor(name)
            if is_linear(name):
                weight = masked[name] if name in masked else magnitude(as_float32(tensor), options.share, options.pattern)
                zeros += int(weight.size - np.count_nonzero(weight))
                total += weight.size
                writer.add(name, weight)
            else:
                writer.add(name, plain(tensor))
    context.note(NOTE)
    return writer.result(method=options.method, pattern=options.pattern, sparsity=zeros / max(total, 1), notes=[NOTE])


def _calibrated(checkpoint: Checkpoint, options: Options, context: Context) -> dict[str, Floats]:
    import torch

    from llmasos_torch_decoder import POINTS, load_decoder, walk_layers

    decoder = load_decoder(checkpoint)
    tokens = torch.from_numpy(context.calibration(options.windows, options.length).astype(np.int64))
    masked: dict[str, Floats] = {}
    with context.progress(f"{options.method} on {len(tokens)} windows", total=len(decoder.layers), unit="layers") as progress:
        for step in walk_layers(decoder, tokens):
            for point, names in POINTS.items():
                hessian: Floats = step.moments(point).numpy()
                for name in names:
                    linear = step.linear(name)
                    weight = linear.weight.detach().numpy()
                    if options.method == "wanda":
                        weight = wanda(weight, np.diagonal(hessian), options.share, options.pattern)
                    else:
                        weight = sparsegpt(weight, hessian, options.share, options.pattern)
                    linear.weight.data = torch.from_numpy(weight)
                    masked[f"model.layers.{step.index}.{name}.weight"] = weight
            progress.advance()
    return masked
