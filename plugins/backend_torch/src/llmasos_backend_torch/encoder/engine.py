"""Encoders over torch: packs the rows of a call, runs the model, pools, and does what comes after."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from llmasos_backend_torch.encoder.layers import Run
from llmasos_backend_torch.stepping import give_back, typed_errors
from llmasos_encoder_kit.runs import check_rows, groups_of, runs_of
from llmasos_encoder_kit.sentence import Surroundings
from llmasos_hookspecs import EncoderInfo, EncoderRow, ModelClosed, Pooling

#: Tokens of one forward pass on a CPU at most, unless one text has more: the activations of so many stay in the caches, and in memory that
#: the allocator gives again. With 8,192 tokens all-MiniLM-L6-v2 took 1.18 times as long: each product got new pages.
_CPU_TOKENS: Final = 2048


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
        most = self.info.max_batch_tokens
        if self._device.type == "cpu":
            most = min(most, _CPU_TOKENS)
        found = np.empty((len(rows), self.info.dimensions), dtype=np.float32)
        with torch.inference_mode(), typed_errors():
            for runs in groups_of(rows, runs_of(rows, most, alike=True), most):
                found[[place for run in runs for place in run]] = self._vectors(model, [[rows[place] for place in run] for run in runs])
        return found

    def shutdown(self) -> None:
        self._model = None
        give_back(self._device)

    def _vectors(self, model: EncoderModel, texts: Sequence[Sequence[EncoderRow]]) -> npt.NDArray[np.float32]:
        """The vectors of runs of texts, float32 [texts of all runs, dimensions], by one forward pass."""
        packed = [row for run in texts for row in run]
        tokens = self._packed([row.tokens for row in packed])
        types = self._packed([row.types or [0] * len(row.tokens) for row in packed]) if any(row.types for row in packed) else None
        runs: list[Run] = []
        for run in texts:
            runs.append(Run(runs[-1].stop if runs else 0, len(run), len(run[0].tokens)))
        hidden = model.forward(tokens, types, runs)
        pooled = torch.cat([_pooled(hidden[run.start : run.stop].view(run.texts, run.length, -1), self._around.pooling) for run in runs])
        vectors = pooled.float().cpu().numpy()
        for step in self._around.steps:
            vectors = step(vectors)
        return vectors

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
