"""Hidden states to vectors, and what comes after: dense layers, norms, scores."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

import attrs
import numpy as np
import numpy.typing as npt

from llmasos_hookspecs import Pooling

Floats = npt.NDArray[np.float32]

#: ``erf``, which numpy lacks; vectors are short, and only scores of ModernBERT need it.
_ERF: Final = np.frompyfunc(math.erf, 1, 1)


@attrs.frozen(eq=False)
class Step:
    """One step from pooled hidden states to the result, over vectors [n, width].

    Attributes:
        kind: ``dense``, ``norm`` (of each vector's numbers) or ``unit`` (to length 1).
        weight: of ``dense`` [out, in], of ``norm`` [width].
        bias: added last, if any.
        activation: of ``dense``: ``tanh``, ``relu``, ``gelu``, ``gelu_tanh``, ``silu``, ``sigmoid``; empty: none.
        eps: of ``norm``.
    """

    kind: str
    weight: Floats | None = None
    bias: Floats | None = None
    activation: str = ""
    eps: float = 1e-5

    def __call__(self, vectors: Floats) -> Floats:
        if self.kind == "unit":
            return np.asarray(vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12), dtype=np.float32)
        if self.kind == "norm":
            centred = vectors - vectors.mean(axis=1, keepdims=True)
            vectors = centred / np.sqrt((centred**2).mean(axis=1, keepdims=True) + self.eps)
            vectors = vectors if self.weight is None else vectors * self.weight
            return np.asarray(vectors if self.bias is None else vectors + self.bias, dtype=np.float32)
        assert self.weight is not None
        vectors = vectors @ self.weight.T
        return activated(vectors if self.bias is None else vectors + self.bias, self.activation)

    def width(self, before: int) -> int:
        """Width of its vectors, where those before are so wide."""
        return len(self.weight) if self.kind == "dense" and self.weight is not None else before


def activated(x: Floats, name: str) -> Floats:
    """An activation function by name."""
    if name == "tanh":
        found = np.tanh(x)
    elif name == "relu":
        found = np.maximum(x, 0)
    elif name == "sigmoid":
        found = 1 / (1 + np.exp(-x))
    elif name == "silu":
        found = x / (1 + np.exp(-x))
    elif name == "gelu_tanh":
        found = 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
    elif name == "gelu":
        found = 0.5 * x * (1 + _ERF(x / math.sqrt(2)).astype(np.float32))
    else:
        found = x
    return np.asarray(found, dtype=np.float32)


def pool(hidden: Floats, lengths: npt.NDArray[np.int64], modes: Sequence[Pooling]) -> Floats:
    """Vectors [n, width * len(modes)] of hidden states [n, tokens, width], of which the first ``lengths`` of each row count."""
    places = np.arange(hidden.shape[1])
    inside = places < lengths[:, None]
    found = []
    for mode in modes:
        if mode == "cls":
            found.append(hidden[:, 0])
        elif mode == "last":
            found.append(hidden[np.arange(len(hidden)), lengths - 1])
        elif mode == "max":
            found.append(np.where(inside[..., None], hidden, -np.inf).max(axis=1))
        else:
            weights = (inside * (places + 1 if mode == "weighted_mean" else 1)).astype(np.float32)
            total = np.matmul(weights[:, None], hidden)[:, 0]
            count = weights.sum(axis=1, keepdims=True)
            found.append(total / (np.sqrt(count) if mode == "mean_sqrt_length" else count))
    return np.asarray(found[0] if len(found) == 1 else np.concatenate(found, axis=1), dtype=np.float32)
