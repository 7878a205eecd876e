"""Layer pruning: drops the layers that change their input least."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from llmasos_accel_prune.options import Options
from llmasos_accel_prune.tensors import LAYER, plain
from llmasos_hookspecs import AccelerationError, AccelerationResult, Checkpoint, Context, Progress
from llmasos_torch_decoder import Decoder, load_decoder


def drop_layers(checkpoint: Checkpoint, output: Path, options: Options, context: Context) -> AccelerationResult:
    """Write ``checkpoint`` without some of its layers; the others are renumbered."""
    report: dict[str, Any] = {"method": "layers"}
    dropped = set(options.layers)
    if not dropped:
        assert options.drop is not None  # the plan refuses it
        tokens = torch.from_numpy(context.calibration(options.windows, options.length).astype(np.int64))
        with context.progress(f"choose {options.drop} layers to drop", total=options.drop, unit="layers") as progress:
            rounds = choose_layers(load_decoder(checkpoint), tokens, options.drop, progress)
        dropped = {entry["layer"] for entry in rounds}
        report["rounds"] = rounds
    kept = [layer for layer in range(checkpoint.decoder.num_layers) if layer not in dropped]
    place = {layer: index for index, layer in enumerate(kept)}
    changes: dict[str, Any] = {"num_hidden_layers": len(kept)}
    if isinstance(kinds := checkpoint.config.get("layer_types"), Sequence):
        changes["layer_types"] = [kinds[layer] for layer in kept]
    with context.writer(checkpoint, output) as writer:
        writer.set_config(changes)
        for name in checkpoint.names():
            match = LAYER.fullmatch(name)
            if match is None:
                writer.add(name, plain(checkpoint.tensor(name)))
            elif int(match[1]) in place:
                writer.add(f"model.layers.{place[int(match[1])]}.{match[2]}", plain(checkpoint.tensor(name)))
    return writer.result(**report, dropped=sorted(dropped), kept=kept)


@torch.no_grad()
def choose_layers(decoder: Decoder, tokens: Tensor, count: int, progress: Progress, batch: int = 4) -> list[dict[str, Any]]:
    """Choose ``count`` layers to drop, one a round, each with its block influence in that round.

    Block influence is 1 minus the cosine between a layer's input and output (ShortGPT, Men et al., 2024). It is measured again after each
    drop; measured once, it selects adjacent layers whose effects add up.

    Args:
        tokens: calibration windows, int64 [windows, length].
        batch: windows at a time.
    """
    layers = list(enumerate(decoder.layers))
    rounds = []
    for _ in range(count):
        total = torch.zeros(len(layers), dtype=torch.float64)
        for part in torch.split(tokens, batch):
            hidden = decoder.embed(part)
            for place, (_, layer) in enumerate(layers):
                left = layer(hidden)
                total[place] += functional.cosine_similarity(hidden, left, dim=-1).double().sum()
                hidden = left
        influence = 1 - total / tokens.numel()
        if not bool(influence.isfinite().all()):
            raise AccelerationError(
                "What the model computes on the calibration text is NaN or infinite; its weights are finite and too large."
            )
        place = int(influence.argmin())
        number, _ = layers.pop(place)
        rounds.append({"layer": number, "influence": float(influence[place])})
        progress.advance()
    return rounds
