"""Encoders over torch: packs the rows of a call, runs the model, pools, and does what comes after."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from llmasos_backend_torch.encoder.layers import Run
from llmasos_backend_torch.stepping import give_back, typed_errors
from llmasos_encoder_kit.runs import check_rows, runs_of
from llmasos_encoder_kit.sentence import Surroundings
from llmasos_hookspecs import EncoderInfo, EncoderRow, ModelClosed, Pooling


class EncoderModel(Protocol):
    """The forward pass of an encoder."""

    def forward(self, tokens: Tensor, types: Tensor | None, runs: Sequence[Run]) -> Tensor:
        """Hidden states [tokens, width] of the tokens of all runs, one after the other."""
        ...


class TorchEncoder:
    """Implements ``Encoder``."""

    def __init__(self, model: EncoderModel, around: Surroundings, info: EncoderInfo) -> None:
        self.info = info
        self._model: EncoderModel | None = model
        self._around = around
        self._device = torch.device(info.device)

    def encode(self, rows: Sequence[EncoderRow]) -> npt.NDArray[np.float32]:
        model = self._model
        if model is None:
            raise ModelClosed("The encoder was shut down; load the model again.")
        check_rows(rows, self.info)
        places = runs_of(rows, self.info.max_batch_tokens, alike=True)
        packed = [rows[place] for run in places for place in run]
        with torch.inference_mode(), typed_errors():
            tokens = self._packed([row.tokens for row in packed])
            types = self._packed([row.types or [0] * len(row.tokens) for row in packed]) if any(row.types for row in packed) else None
            runs: list[Run] = []
            for run in places:
                runs.append(Run(runs[-1].stop if runs else 0, len(run), len(rows[run[0]].tokens)))
            hidden = model.forward(tokens, types, runs)
            pooled = torch.cat(
                [_pooled(hidden[run.start : run.stop].view(run.texts, run.length, -1), self._around.pooling) for run in runs]
            )
            vectors = pooled.float().cpu().numpy()
        for step in self._around.steps:
            vectors = step(vectors)
        found = np.empty((len(rows), self.info.dimensions), dtype=np.float32)
        found[[place for run in places for place in run]] = vectors
        return found

    def shutdown(self) -> None:
        self._model = None
        give_back(self._device)

    def _packed(self, parts: Sequence[Sequence[int]]) -> Tensor:
        return torch.from_numpy(np.concatenate([np.asarray(part, dtype=np.int64) for part in parts])).to(self._device)


def _pooled(hidden: Tensor, modes: Sequence[Pooling]) -> Tensor:
    """Vectors [texts, width * len(modes)] of hidden states [texts, length, width]."""
    found = []
    for mode in modes:
        if mode == "cls":
            found.append(hidden[:, 0])
        elif mode == "last":
            found.append(hidden[:, -1])
        elif mode == "max":
            found.append(hidden.amax(dim=1))
        elif mode == "weighted_mean":
            weights = torch.arange(1, hidden.shape[1] + 1, device=hidden.device, dtype=torch.float32)
            found.append((hidden.float() * weights[:, None]).sum(dim=1) / weights.sum())
        else:
            mean = hidden.float().mean(dim=1)
            found.append(mean * hidden.shape[1] ** 0.5 if mode == "mean_sqrt_length" else mean)
    return torch.cat(found, dim=1)
