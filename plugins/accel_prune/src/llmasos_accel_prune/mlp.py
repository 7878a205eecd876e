"""MLP pruning: removes the least important neurons, the same number in every layer."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import torch

from llmasos_accel_prune.options import Options
from llmasos_accel_prune.sparsity import Floats
from llmasos_accel_prune.tensors import plain
from llmasos_hookspecs import AccelerationResult, Checkpoint, Context
from llmasos_torch_decoder import LayerStep, load_decoder, walk_layers

Doubles = npt.NDArray[np.float64]

#: Rounds in which the columns of a matrix are removed; more rounds are slower and choose only slightly better.
ROUNDS: Final = 256


def narrow_checkpoint(checkpoint: Checkpoint, output: Path, options: Options, context: Context) -> AccelerationResult:
    """Write ``checkpoint`` with ``options.width`` neurons in every MLP, chosen on calibration text."""
    width = options.width
    assert width is not None  # the plan refuses it
    decoder = load_decoder(checkpoint)
    tokens = torch.from_numpy(context.calibration(options.windows, options.length).astype(np.int64))
    changed: dict[str, Floats] = {}
    lost: list[float] = []
    with context.progress(f"narrow the MLPs on {len(tokens)} windows", total=len(decoder.layers), unit="layers") as progress:
        for step in walk_layers(decoder, tokens):
            lost.append(_narrow(step, width, changed))
            progress.advance()
    with context.writer(checkpoint, output) as writer:
        writer.set_config({"intermediate_size": width})
        for name in checkpoint.names():
            writer.add(name, changed[name] if name in changed else plain(checkpoint.tensor(name)))
    return writer.result(method="mlp", width=width, lost=lost)


def _narrow(step: LayerStep, width: int, changed: dict[str, Floats]) -> float:
    """Narrow one layer; return the share of the MLP output's energy that is lost after the least-squares fit."""
    gate, up, down = (step.linear(f"mlp.{name}_proj") for name in ("gate", "up", "down"))
    moments = step.moments("down").numpy().astype(np.float64)
    weight = down.weight.detach().numpy().astype(np.float64)
    keep, fitted = fewer_columns(weight, moments, width)
    for linear, name in ((gate, "gate"), (up, "up")):
        linear.weight.data = linear.weight.data[keep].clone()
        changed[f"model.layers.{step.index}.mlp.{name}_proj.weight"] = linear.weight.data.numpy()
        if linear.bias is not None:
            linear.bias.data = linear.bias.data[keep].clone()
            changed[f"model.layers.{step.index}.mlp.{name}_proj.bias"] = linear.bias.data.numpy()
    down.weight.data = torch.from_numpy(fitted.astype(np.float32))
    changed[f"model.layers.{step.index}.mlp.down_proj.weight"] = down.weight.data.numpy()
    lost = weight.copy()
    lost[:, keep] -= fitted
    energy = float(np.vdot(weight @ moments, weight))
    return float(np.vdot(lost @ moments, lost)) / energy if energy else 0.0


def fewer_columns(weight: Doubles, moments: Doubles, width: int, damping: float = 0.01) -> tuple[npt.NDArray[np.intp], Doubles]:
    """The ``width`` columns to keep, in order, and their least-squares fit to the output of all columns.

    Columns are removed a few at a time, first those whose loss the others can compensate best: the smallest ``|w_j|^2 / [H^-1]_jj``
    (structured OBS, as in ZipLM, Kurtic et al., 2023). After each removal the remaining ones are refitted.

    Args:
        weight: float64 [rows, columns].
        moments: float64 [columns, columns], the mean over tokens of ``x x^T``.
        damping: added to the diagonal, as a share of its mean: columns that are never used would make it singular.
    """
    weight, columns = weight.copy(), weight.shape[1]
    inverse = np.linalg.inv(moments + max(damping * np.trace(moments) / columns, 1e-8) * np.eye(columns))
    left = np.arange(columns)
    while len(left) > width:
        scores = np.square(weight[:, left]).sum(axis=0) / np.diagonal(inverse)[left]
        count = min(len(left) - width, max(1, (columns - width) // ROUNDS))
        gone = left[np.argpartition(scores, count - 1)[:count]]
        # Remove variables from a least-squares problem: update the weights and the inverse by block elimination.
        pivot = np.linalg.solve(inverse[np.ix_(gone, gone)], inverse[gone])
        weight -= weight[:, gone] @ pivot
        inverse -= inverse[:, gone] @ pivot
        left = np.setdiff1d(left, gone)
    return left, weight[:, left]
