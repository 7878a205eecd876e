"""The weights of an encoder in one form for all families, a layer at a time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import attrs
import numpy as np
import numpy.typing as npt

from llmasos_encoder_kit.config import EncoderConfig
from llmasos_encoder_kit.names import EncoderNames
from llmasos_hookspecs import Checkpoint, CheckpointError, as_float32

Floats = npt.NDArray[np.float32]
#: How norms of the first BERT files call weight and bias.
_OLD: Final = {"weight": "gamma", "bias": "beta"}
#: Distance from which on attention biases do not change.
_FAR: Final = 128


@attrs.frozen
class Matrix:
    """A linear layer: float32 [out, in], and a bias [out], if any."""

    weight: Floats
    bias: Floats | None


@attrs.frozen
class Norm:
    """A layer norm: float32 [hidden], and a bias, if any."""

    weight: Floats
    bias: Floats | None


@attrs.frozen(kw_only=True)
class Embeddings:
    """Tables of words [vocab, hidden], positions and types, the norm after their sum, and the attention biases by distance
    [buckets, heads]."""

    words: Floats
    positions: Floats | None
    types: Floats | None
    norm: Norm
    final_norm: Norm | None
    relative: Floats | None


@attrs.frozen(kw_only=True)
class LayerWeights:
    """One layer.

    Attributes:
        qkv: query, key and value below one another, [3 * hidden, hidden].
        out: after the attention.
        attention_norm: None in the first layer of ModernBERT.
        up: [intermediate, hidden]; gated: what is activated, and below it what it is multiplied by.
        down: [hidden, intermediate].
        mlp_norm: of the second half.
    """

    qkv: Matrix
    out: Matrix
    attention_norm: Norm | None
    up: Matrix
    down: Matrix
    mlp_norm: Norm


class EncoderWeights:
    """Reads the weights of a checkpoint. Every method raises ``CheckpointError`` for a tensor that is missing or of another shape."""

    def __init__(self, checkpoint: Checkpoint, config: EncoderConfig) -> None:
        self._checkpoint = checkpoint
        self._config = config
        self._stored = set(checkpoint.names())
        self._names, self._prefix = self._found()

    @property
    def prefix(self) -> str:
        """What stands before the names of the model's tensors."""
        return self._prefix

    def embeddings(self) -> Embeddings:
        """What is looked up, and the norms outside the layers."""
        config, names = self._config, self._names
        hidden = config.hidden_size
        relative = None
        if names.relative:
            relative = self._tensor(f"{self._prefix}{names.relative}.weight", (config.buckets, config.num_heads))
        return Embeddings(
            words=self._tensor(f"{self._prefix}{names.words}.weight", (config.vocab_size, hidden)),
            positions=self._table(names.positions, config.positions + config.first_position),
            types=self._table(names.types, config.types),
            norm=self.norm(f"{self._prefix}{names.norm}"),
            final_norm=self.norm(f"{self._prefix}{names.final_norm}") if names.final_norm else None,
            relative=relative,
        )

    def layer(self, index: int) -> LayerWeights:
        """Layer number ``index``."""
        config, names = self._config, self._names
        place = f"{self._prefix}{names.layer.format(index)}"
        hidden, inner = config.hidden_size, config.intermediate_size * (2 if config.family.gated else 1)
        without = config.model_type == "modernbert" and index == 0
        return LayerWeights(
            qkv=self._stacked([place + each for each in names.qkv], 3 * hidden, hidden),
            out=self.matrix(place + names.out, hidden, hidden),
            attention_norm=None if without else self.norm(place + names.attention_norm),
            up=self._stacked([place + each for each in names.up], inner, hidden),
            down=self.matrix(place + names.down, hidden, config.intermediate_size),
            mlp_norm=self.norm(place + names.mlp_norm),
        )

    def matrix(self, name: str, outputs: int | None, inputs: int) -> Matrix:
        """The linear layer called ``name``; ``outputs``: None: as many as it has."""
        shape = (self._rows(f"{name}.weight") if outputs is None else outputs, inputs)
        bias = self._tensor(f"{name}.bias", shape[:1]) if f"{name}.bias" in self._stored else None
        return Matrix(self._tensor(f"{name}.weight", shape), bias)

    def norm(self, name: str) -> Norm:
        """The layer norm called ``name``."""
        shape = (self._config.hidden_size,)
        parts = {part: f"{name}.{part}" if f"{name}.{part}" in self._stored else f"{name}.{old}" for part, old in _OLD.items()}
        bias = self._tensor(parts["bias"], shape) if parts["bias"] in self._stored else None
        return Norm(self._tensor(parts["weight"] if parts["weight"] in self._stored else f"{name}.weight", shape), bias)

    def _found(self) -> tuple[EncoderNames, str]:
        for names in self._config.family.names:
            for prefix in ("", *names.prefixes):
                norm = f"{prefix}{names.norm}"
                if f"{prefix}{names.words}.weight" in self._stored and ({f"{norm}.weight", f"{norm}.gamma"} & self._stored):
                    return names, prefix
        first = self._config.family.names[0]
        raise CheckpointError(f"{self._checkpoint.path} holds no tensor {first.words}.weight beside {first.norm}.weight; get it again.")

    def _table(self, name: str, rows: int) -> Floats | None:
        return self._tensor(f"{self._prefix}{name}.weight", (rows, self._config.hidden_size)) if name else None

    def _stacked(self, names: Sequence[str], outputs: int, inputs: int) -> Matrix:
        parts = [self.matrix(name, outputs // len(names), inputs) for name in names]
        if len(parts) == 1:
            return parts[0]
        biases = [np.zeros(len(part.weight), np.float32) if part.bias is None else part.bias for part in parts]
        bias = None if all(part.bias is None for part in parts) else np.concatenate(biases)
        return Matrix(np.concatenate([part.weight for part in parts]), bias)

    def _rows(self, name: str) -> int:
        self._check(name)
        return self._checkpoint.shape(name)[0]

    def _tensor(self, name: str, shape: tuple[int, ...]) -> Floats:
        self._check(name)
        if self._checkpoint.shape(name) != shape:
            raise CheckpointError(
                f"{self._checkpoint.path} holds {name} with the shape {list(self._checkpoint.shape(name))}, and its config says "
                f"{list(shape)}; get it again."
            )
        return as_float32(self._checkpoint.tensor(name))

    def _check(self, name: str) -> None:
        if name not in self._stored:
            raise CheckpointError(f"{self._checkpoint.path} holds no tensor {name}; get it again.")


def rotations(config: EncoderConfig, theta: float, length: int) -> tuple[Floats, Floats]:
    """Cosines and sines of the rotations of ``length`` positions, float32 [length, head_dim / 2] (https://arxiv.org/abs/2104.09864)."""
    frequencies = 1.0 / theta ** (np.arange(0, config.head_dim, 2, dtype=np.float32) / config.head_dim)
    angles = np.outer(np.arange(length, dtype=np.float32), frequencies.astype(np.float32))
    return np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)


def distance_biases(config: EncoderConfig, table: Floats, length: int) -> Floats:
    """MPNet's attention biases, float32 [heads, length, length]: by the distance from query to key in buckets, as T5's (section 2.1 of
    https://arxiv.org/abs/1910.10683)."""
    places = np.arange(length)
    behind = places[:, None] - places[None, :]
    buckets = config.buckets // 2
    exact = buckets // 2
    far = np.abs(behind)
    with np.errstate(divide="ignore"):
        steps = np.log(far.astype(np.float32) / exact) / np.float32(np.log(_FAR / exact)) * (buckets - exact)
    large = np.minimum(exact + np.where(far < exact, 0, steps).astype(np.int64), buckets - 1)
    chosen = np.where(far < exact, far, large) + np.where(behind < 0, buckets, 0)
    return np.ascontiguousarray(np.moveaxis(table[chosen], 2, 0))
