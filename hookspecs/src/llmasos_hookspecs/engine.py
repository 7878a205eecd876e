"""The engine contract: the maths and the KV cache of one model, one step at a time.

Core owns the loop, sampling and the ledger; the engine owns weights, kernels and the keys and values. Core calls an
engine from one thread at a time.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

import attrs

from llmasos_hookspecs.sampling import Draw

if TYPE_CHECKING:
    import numpy.typing as npt

Want = Literal["last", "all", "none"]


@attrs.frozen(kw_only=True)
class EngineInfo:
    """What an engine is; fixed from load to shutdown.

    Attributes:
        vocab_size: width of a logits row.
        context_length: tokens that one slot can hold.
        max_sequences: slots that can be open at once.
        weight_bytes: bytes of weights held in memory.
        kv_bytes_per_token: bytes that one token of one slot takes in the KV cache; 0 for an engine without one.
        device: ``cpu``, ``cuda:0``.
        dtype: what the weights are computed from: ``float32``, ``int8``, ``int4``, ``bfloat16``.
        features: of ``fork`` (a slot can be copied), ``batch`` (one step computes several sequences together), ``kv_cache`` (a step
            costs its own tokens only; without it the engine recomputes all that came before), ``drafts`` (a row of several generated
            tokens costs less than one step each, and gives them the same logits to the bit), ``sampling`` (the engine draws tokens itself
            where a row asks for it, so that logits need not leave its device).
        notes: what the load changed and the user should know, one sentence each.
    """

    vocab_size: int
    context_length: int
    max_sequences: int
    weight_bytes: int
    kv_bytes_per_token: int
    device: str = "cpu"
    dtype: str = "float32"
    features: frozenset[str] = frozenset({"fork", "batch", "kv_cache"})
    notes: tuple[str, ...] = ()


@attrs.frozen
class Row:
    """One sequence's part of a step.

    Attributes:
        slot: from ``open`` or ``fork``.
        tokens: 1 or more token ids to compute, a prefill chunk or one decoded token.
        position: tokens the slot already holds; ``tokens[0]`` gets this position.
        want: logits of the ``last`` token, of ``all``, or of ``none``.
        generated: the tokens follow a prompt: they were generated, or are drafts of what is generated next. With the feature ``drafts``
            they get the logits, keys and values that one token a row gives.
        draw: draw the token that follows instead of returning logits; only with ``want="last"``, and only an engine with the feature
            ``sampling`` is asked.
        known: tokens of the sequence that are known already, those of later steps included; 0 where nobody says. Where the length of a
            sequence decides how each of its tokens is computed (``Rope.switch``), the first chunk of a prompt is computed as the last.
    """

    slot: int
    tokens: Sequence[int]
    position: int
    want: Want = "last"
    generated: bool = False
    draw: Draw | None = None
    known: int = 0


@runtime_checkable
class Engine(Protocol):
    """A loaded model.

    A failed ``step`` (``CapacityExceeded`` or any other error but ``EngineFailed``) leaves what each slot held before
    usable: after ``truncate(slot, position)`` the same step can be tried again.
    """

    @property
    def info(self) -> EngineInfo: ...

    def open(self) -> int:
        """A new, empty slot. Raises ``CapacityExceeded`` where ``max_sequences`` are open."""
        ...

    def step(self, rows: Sequence[Row]) -> list[npt.NDArray[Any]]:
        """Compute the tokens of every row, each slot at most once, and keep their keys and values.

        Returns one float32 array [n, vocab_size] a row: n is 1 for ``last``, ``len(tokens)`` for ``all``, 0 for ``none``; for a row with a
        ``draw`` an int64 array [1], the token drawn, or -1 where the logits hold NaN or nothing that may be chosen. The arrays belong to
        the caller until the next step only. A row's result does not depend on the other rows.

        Raises:
            CapacityExceeded: a slot would pass ``context_length``, or memory is short; a smaller step can succeed.
            ValueError: an unknown slot, a wrong position, a token outside the vocabulary.
            EngineFailed: the engine must be rebuilt.
        """
        ...

    def truncate(self, slot: int, length: int) -> None:
        """Forget all but the first ``length`` tokens of the slot."""
        ...

    def fork(self, slot: int) -> int:
        """A new slot that holds the same tokens. Raises ``CapacityExceeded`` like ``open``."""
        ...

    def close(self, slot: int) -> None:
        """Give the slot back."""
        ...

    def shutdown(self) -> None:
        """Free everything; calling it again does nothing."""
        ...
