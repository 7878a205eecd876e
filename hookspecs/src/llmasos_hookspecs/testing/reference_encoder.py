"""A tiny random BERT, and its forward pass in numpy: slow, exact, and without a framework."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from llmasos_hookspecs.checkpoint import Checkpoint
from llmasos_hookspecs.context import EngineLimits
from llmasos_hookspecs.encoder import EncoderInfo, EncoderRow
from llmasos_hookspecs.errors import CheckpointError, ResourceError
from llmasos_hookspecs.tensors import as_float32
from llmasos_hookspecs.testing.checkpoints import TinyCheckpoint

Floats = npt.NDArray[np.float64]

_CONFIG: Final[Mapping[str, Any]] = {
    "model_type": "bert", "architectures": ["BertModel"], "vocab_size": 288, "hidden_size": 32, "num_hidden_layers": 2,
    "num_attention_heads": 4, "intermediate_size": 48, "max_position_embeddings": 64, "type_vocab_size": 2, "hidden_act": "gelu",
    "layer_norm_eps": 1e-12, "pad_token_id": 0, "torch_dtype": "float32",
}  # fmt: skip
_ERF: Final = np.frompyfunc(math.erf, 1, 1)


def tiny_encoder(*, seed: int = 0) -> TinyCheckpoint:
    """A random BERT with Hugging Face's names; equal for equal seeds."""
    rng = np.random.default_rng(seed)
    tensors: dict[str, Any] = {}

    def linear(name: str, rows: int, columns: int) -> None:
        tensors[f"{name}.weight"] = (rng.standard_normal((rows, columns)) * 1.4 / np.sqrt(columns)).astype(np.float32)
        tensors[f"{name}.bias"] = (0.3 * rng.standard_normal(rows)).astype(np.float32)

    def norm(name: str) -> None:
        tensors[f"{name}.weight"] = (1 + 0.2 * rng.standard_normal(32)).astype(np.float32)
        tensors[f"{name}.bias"] = (0.2 * rng.standard_normal(32)).astype(np.float32)

    for name, rows in (("word", 288), ("position", 64), ("token_type", 2)):
        tensors[f"embeddings.{name}_embeddings.weight"] = rng.standard_normal((rows, 32)).astype(np.float32)
    norm("embeddings.LayerNorm")
    for index in range(2):
        layer = f"encoder.layer.{index}."
        for part in ("query", "key", "value"):
            linear(f"{layer}attention.self.{part}", 32, 32)
        linear(f"{layer}attention.output.dense", 32, 32)
        norm(f"{layer}attention.output.LayerNorm")
        linear(f"{layer}intermediate.dense", 48, 32)
        linear(f"{layer}output.dense", 32, 48)
        norm(f"{layer}output.LayerNorm")
    return TinyCheckpoint(config=dict(_CONFIG), tensors=tensors)


class ReferenceEncoder:
    """An ``Encoder`` over the checkpoints of ``tiny_encoder``, whose vectors are the mean of a text's hidden states."""

    def __init__(self, checkpoint: Checkpoint, limits: EngineLimits | None = None) -> None:
        limits = limits or EngineLimits()
        expected = tiny_encoder()
        for name in expected.names():
            if name not in checkpoint.names() or checkpoint.shape(name) != expected.shape(name):
                raise CheckpointError(f"The tensor {name} is missing, or has another shape than the config says; get the model again.")
        self._weights = {name: as_float32(checkpoint.tensor(name)).astype(np.float64) for name in expected.names()}
        held = sum(array.nbytes for array in self._weights.values())
        length = min(limits.context_length or 64, 64)
        batch = 4 * length * 8 * 512
        if limits.memory is not None and held + batch > limits.memory:
            raise ResourceError(f"Weights and a batch take {held + batch} bytes, and the limit is {limits.memory}; allow more memory.")
        self._info = EncoderInfo(
            dimensions=32,
            pooling="mean",
            context_length=length,
            max_batch_tokens=4 * length,
            vocab_size=288,
            weight_bytes=held,
            batch_bytes=batch,
        )

    @property
    def info(self) -> EncoderInfo:
        return self._info

    def encode(self, rows: Sequence[EncoderRow]) -> npt.NDArray[np.float32]:
        self.check(rows)
        return np.array([self.pooled(self.hidden(row)) for row in rows], dtype=np.float32)

    def shutdown(self) -> None:
        self._weights = {}

    def check(self, rows: Sequence[EncoderRow]) -> None:
        """Raise ``ValueError`` for rows that cannot be encoded."""
        for row in rows:
            if not 0 < len(row.tokens) <= self._info.context_length:
                raise ValueError(f"A row has {len(row.tokens)} tokens, and from 1 to {self._info.context_length} are taken.")
            if not all(0 <= token < self._info.vocab_size for token in row.tokens):
                raise ValueError(f"A row holds a token outside 0 .. {self._info.vocab_size - 1}.")

    def pooled(self, hidden: Floats) -> Floats:
        """The vector of a text with these hidden states."""
        return np.asarray(hidden.mean(axis=0))

    def hidden(self, row: EncoderRow) -> Floats:
        """Hidden states [tokens, 32] of one text (https://arxiv.org/abs/1810.04805)."""
        tokens, places = list(row.tokens), self.places(row)
        types = list(row.types) or [0] * len(tokens)
        tables = [self._weights[f"embeddings.{name}_embeddings.weight"] for name in ("word", "position", "token_type")]
        x = self._norm("embeddings.LayerNorm", tables[0][tokens] + tables[1][places] + tables[2][types])
        for index in range(2):
            layer = f"encoder.layer.{index}."
            attended = self._attention(f"{layer}attention.self.", x)
            x = self._norm(f"{layer}attention.output.LayerNorm", x + self._linear(f"{layer}attention.output.dense", attended))
            inner = self._linear(f"{layer}intermediate.dense", x)
            inner = 0.5 * inner * (1 + np.asarray(_ERF(inner / math.sqrt(2)), dtype=np.float64))
            x = self._norm(f"{layer}output.LayerNorm", x + self._linear(f"{layer}output.dense", inner))
        return x

    def places(self, row: EncoderRow) -> list[int]:
        """The position of each token."""
        return list(range(len(row.tokens)))

    def _attention(self, place: str, x: Floats) -> Floats:
        q, k, v = (self._linear(place + part, x).reshape(len(x), 4, 8).transpose(1, 0, 2) for part in ("query", "key", "value"))
        scores = q @ k.transpose(0, 2, 1) / math.sqrt(8)
        weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
        weights /= weights.sum(axis=-1, keepdims=True)
        return np.asarray((weights @ v).transpose(1, 0, 2).reshape(len(x), 32))

    def _linear(self, name: str, x: Floats) -> Floats:
        return np.asarray(x @ self._weights[f"{name}.weight"].T + self._weights[f"{name}.bias"])

    def _norm(self, name: str, x: Floats) -> Floats:
        centred = x - x.mean(axis=-1, keepdims=True)
        scaled = centred / np.sqrt((centred**2).mean(axis=-1, keepdims=True) + 1e-12)
        return np.asarray(scaled * self._weights[f"{name}.weight"] + self._weights[f"{name}.bias"])
