"""Fewer layers: block influence proposes which, the loss on calibration text decides."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from llmasos_accel_prune.options import Options
from llmasos_accel_prune.tensors import LAYER, plain
from llmasos_hookspecs import AccelerationResult, Checkpoint, Context, Progress
from llmasos_torch_decoder import Decoder, load_decoder

#: Layers of least influence that are tried each round.
SHORTLIST: Final = 6

#: Tokens on which the tried ones are compared; more of them hardly change the choice.
TRIAL_TOKENS: Final = 1024


def drop_layers(checkpoint: Checkpoint, output: Path, options: Options, context: Context) -> AccelerationResult:
    """Write ``checkpoint`` without some of its layers; those after them move up."""
    report: dict[str, Any] = {"method": "layers"}
    dropped = set(options.layers)
    if not dropped:
        assert options.drop is not None, "the plan refuses it"
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
def choose_layers(decoder: Decoder, tokens: Tensor, count: int, progress: Progress) -> list[dict[str, Any]]:
    """Which ``count`` layers to drop, one a round, each with its block influence and the divergence after it went.

    Block influence is 1 minus the cosine between what enters a layer and what leaves it (ShortGPT, Men et al., 2024), measured
    anew after each drop. Among the layers of least influence, the one goes without which the model's predictions
    diverge least (KL, in nats) from the whole model's. Influence alone took neighbours whose effects add up.

    Args:
        tokens: calibration windows, int64 [windows, length].
    """
    length = tokens.shape[1]
    trial = tokens[:: max(1, len(tokens) * length // TRIAL_TOKENS)][: max(1, TRIAL_TOKENS // length)]
    layers = list(enumerate(decoder.layers))
    whole = functional.log_softmax(decoder.head(_run(layers, decoder.embed(trial))[-1]), dim=-1)
    rounds = []
    for _ in range(count):
        influence = _influence(layers, decoder, tokens)
        states = _run(layers, decoder.embed(trial))
        best: tuple[float, int] | None = None
        for place in sorted(range(len(layers)), key=influence.__getitem__)[:SHORTLIST]:
            end = _run(layers[place + 1 :], states[place])[-1]
            logits = functional.log_softmax(decoder.head(end), dim=-1)
            divergence = float((whole.exp() * (whole - logits)).sum(dim=-1).mean())
            if best is None or divergence < best[0]:
                best = (divergence, place)
        assert best is not None
        divergence, place = best
        layer, _ = layers.pop(place)
        rounds.append({"layer": layer, "influence": influence[place], "divergence": divergence})
        progress.advance()
    return rounds


def _run(layers: Sequence[tuple[int, torch.nn.Module]], hidden: Tensor) -> list[Tensor]:
    """``hidden`` and what leaves each layer."""
    states = [hidden]
    for _, layer in layers:
        states.append(layer(states[-1]))
    return states


def _influence(layers: Sequence[tuple[int, torch.nn.Module]], decoder: Decoder, tokens: Tensor, batch: int = 4) -> list[float]:
    total = torch.zeros(len(layers), dtype=torch.float64)
    for part in torch.split(tokens, batch):
        states = _run(layers, decoder.embed(part))
        for index, (before, after) in enumerate(zip(states, states[1:], strict=False)):
            total[index] += functional.cosine_similarity(before, after, dim=-1).double().sum()
    influence: list[float] = (1 - total / tokens.numel()).tolist()
    return influence
