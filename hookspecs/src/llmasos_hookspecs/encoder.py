"""The encoder contract: texts to vectors, or pairs of texts to scores; whole texts at a time, without slots.

Core owns the queue, the batches and the memory; the encoder owns weights and kernels. Core calls an encoder from one thread at a time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal, Protocol, runtime_checkable

import attrs

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

#: How the hidden states of a text's tokens become one vector; ``max``: of each dimension; ``weighted_mean``: a token's weight is its place,
#: from 1; ``concatenated``: several of them side by side.
Pooling = Literal["mean", "cls", "last", "max", "mean_sqrt_length", "weighted_mean", "concatenated"]


@attrs.frozen(kw_only=True)
class EncoderInfo:
    """What an encoder is; fixed from load to shutdown.

    Attributes:
        dimensions: width of a row of results.
        pooling: how a text's tokens become one vector.
        context_length: tokens of one row at most.
        max_batch_tokens: tokens of all rows of one call at most; at least ``context_length``.
        vocab_size: token ids are below it.
        weight_bytes: bytes of weights held in memory.
        batch_bytes: bytes that a call of ``max_batch_tokens`` takes at most beside the weights.
        device: ``cpu``, ``cuda:0``.
        dtype: what the weights are computed from: ``float32``, ``int8``, ``int4``, ``bfloat16``.
        features: ``embed`` (a row is a text, its result a vector) or ``rank`` (a row is a query and a document after it, its result is
            ``dimensions`` raw scores; core ranks by the only one).
        prompts: what the model was trained to see before a text of each kind, ``query`` and ``passage``; none for a kind without.
        notes: changes that the load made and that the user should know, one sentence each.
    """

    dimensions: int
    pooling: Pooling
    context_length: int
    max_batch_tokens: int
    vocab_size: int
    weight_bytes: int
    batch_bytes: int = 0
    device: str = "cpu"
    dtype: str = "float32"
    features: frozenset[str] = frozenset({"embed"})
    prompts: Mapping[str, str] = attrs.field(factory=dict)
    notes: tuple[str, ...] = ()


@attrs.frozen
class EncoderRow:
    """One text, or one pair, with the special tokens that the model expects.

    Attributes:
        tokens: 1 or more token ids.
        types: the segment of each token, for pairs: 0 for the first text, 1 for the second; empty where all are 0.
    """

    tokens: Sequence[int]
    types: Sequence[int] = ()


@runtime_checkable
class Encoder(Protocol):
    """A loaded model that encodes. It keeps nothing between two calls."""

    @property
    def info(self) -> EncoderInfo: ...

    def encode(self, rows: Sequence[EncoderRow]) -> npt.NDArray[np.float32]:
        """The results of the rows, float32 [len(rows), dimensions]; not normalised unless the model itself does. A row's result does not
        depend on the others beyond the rounding of floats.

        Raises:
            CapacityExceeded: memory is short; fewer rows can succeed.
            ValueError: a row is empty or longer than ``context_length``, or a token lies outside the vocabulary.
            EngineFailed: the encoder must be loaded again.
        """
        ...

    def shutdown(self) -> None:
        """Free everything; calling it again does nothing."""
        ...
