"""Narrower MLPs: the same number of neurons from every layer, the least important ones gone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from llmasos_accel_prune.options import Options
from llmasos_accel_prune.sparsity import Floats
from llmasos_accel_prune.tensors import plain
from llmasos_hookspecs import AccelerationResult, Checkpoint, Context
from llmasos_torch_decoder import LayerStep, load_decoder, walk_layers


def narrow_checkpoint(checkpoint: Checkpoint, output: Path, options: Options, context: Context) -> AccelerationResult:
    """Write ``checkpoint`` with ``options.width`` neurons in every MLP.

    A neuron counts by the size of what it adds to the output on calibration text: the root mean square of its activation times
    the norm of its column of ``down_proj``. ``down_proj`` is then fitted anew by least squares, so that the neurons that stay
    stand in for those that went.
    """
    width = options.width
    assert width is not None, "the plan refuses it"
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
    """Narrow one layer; returns the share of the MLP output's energy that the fit cannot give back."""
    gate, up, down = (step.linear(f"mlp.{name}_proj") for name in ("gate", "up", "down"))
    moments = step.moments("down").double()
    weight = down.weight.detach().double()
    importance = moments.diagonal() * weight.square().sum(dim=0)
    keep = importance.topk(width).indices.sort().values
    kept = moments[keep][:, keep]
    # The same damping as GPTQ's: neurons that never fire would make the system singular.
    kept.diagonal().add_(0.01 * kept.diagonal().mean().clamp(min=1e-8))
    cross = weight @ moments[:, keep]
    fitted = torch.linalg.solve(kept, cross.T).T
    energy = float(((weight @ moments) * weight).sum())
    for linear, name in ((gate, "gate"), (up, "up")):
        linear.weight.data = linear.weight.data[keep].clone()
        changed[f"model.layers.{step.index}.mlp.{name}_proj.weight"] = linear.weight.data.numpy()
        if linear.bias is not None:
            linear.bias.data = linear.bias.data[keep].clone()
            changed[f"model.layers.{step.index}.mlp.{name}_proj.bias"] = linear.bias.data.numpy()
    down.weight.data = fitted.float().contiguous()
    changed[f"model.layers.{step.index}.mlp.down_proj.weight"] = down.weight.data.numpy()
    return max(0.0, 1 - float((fitted * cross).sum()) / energy) if energy else 0.0
