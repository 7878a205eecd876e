"""The engine contract: the forward pass and the KV cache of one model, one step at a time.

Core owns the loop, sampling and the ledger; the engine owns weights, kernels and the keys and values. Core calls an
engine from one thread at a time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

import attrs

from llmasos_hookspecs.media import Media, PlacedMedia
from llmasos_hookspecs.sampling import Draw

if TYPE_CHECKING:
    import numpy.typing as npt

Want = Literal["last", "all", "none", "hidden"]


@attrs.frozen(kw_only=True)
class EngineInfo:
    """What an engine is; fixed from load to shutdown.

    Attributes:
        vocab_size: width of a logits row.
        context_length: tokens that one slot can hold; for an encoder-decoder those of its source and of its target together.
        max_sequences: slots that can be open at once.
        weight_bytes: bytes of weights held in memory.
        kv_bytes_per_token: bytes that one token of one slot takes in the KV cache; 0 for an engine without one. Positions of media count
            like tokens: where a position of a source takes another size than a token of the target, the larger one.
        device: ``cpu``, ``cuda:0``.
        dtype: what the weights are computed from: ``float32``, ``int8``, ``int4``, ``bfloat16``.
        features: any of ``fork`` (a slot can be copied), ``batch`` (one step computes several sequences together), ``kv_cache`` (a step
            computes its own tokens only; without it the engine recomputes all tokens before), ``drafts`` (a row of several generated
            tokens costs less than one step each, and their logits are bitwise identical to those of single steps), ``sampling`` (the
            engine samples tokens itself where a row has a ``draw``, so that logits need not leave its device), ``media`` (it is a
            ``MediaEngine``), ``whole_media`` (the positions of one media attend to each other in both directions, so that a step computes
            all of them or none), ``source`` (it is an encoder-decoder, and a ``MediaEngine``: every sequence begins with media of the kind
            ``source``, whole, which the target's tokens after it attend to; the source has no logits), ``embeddings`` (rows may
            want hidden states).
        source_length: tokens of a source at most; the rest of ``context_length`` is the target's. 0 without the feature ``source``.
        hidden_size: width of the hidden states; 0 without the feature ``embeddings``.
        preprocessing: names how the engine prepares media, and changes with it; it goes into virtual tokens.
        media_bytes: bytes that the engine may take, beside weights and KV cache, for what its encoder made of media and that it keeps
            for later rows (``Row.sharer``); they count as taken from the load on.
        adapters: names of the adapters that rows may choose; those of ``context.adapters``, where the engine computes adapters.
        media_tokens: of each kind of media that messages may hold, the token that the chat template writes where one stands, and whose
            place the media's positions take: ``{"image": 49190}``. Only with the feature ``media``.
        notes: changes that the load made and that the user should know, one sentence each.
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
    source_length: int = 0
    preprocessing: str = ""
    hidden_size: int = 0
    media_tokens: Mapping[str, int] = attrs.field(factory=dict, hash=False)
    adapters: tuple[str, ...] = ()
    media_bytes: int = 0

    @property
    def fixed_bytes(self) -> int:
        """Bytes that the engine takes whatever its slots hold."""
        return self.weight_bytes + self.media_bytes

    @property
    def in_host_memory(self) -> bool:
        """Whether its logits are in the memory of the process, where reading them copies nothing."""
        return self.device == "cpu"


@attrs.frozen
class Row:
    """One sequence's part of a step.

    Attributes:
        slot: from ``open`` or ``fork``.
        tokens: 1 or more token ids to compute: a prefill chunk, or a generated token with draft tokens after it. Those of media are
            virtual tokens, past the vocabulary.
        position: tokens the slot already holds; ``tokens[0]`` gets this position.
        want: logits of the ``last`` token, of ``all``, or of ``none``; ``hidden``: in the place of logits the hidden states of all tokens
            after the final norm, which the model's head makes logits of; only for an engine with the feature ``embeddings``.
        generated: the tokens were generated, or are draft tokens; they are no part of the prompt. With the feature ``drafts`` their
            logits, keys and values are bitwise identical to those of rows of one token.
        draw: sample the next token instead of returning logits; only with ``want="last"``, and only for an engine with the feature
            ``sampling``.
        known: length of the sequence as far as it is known, tokens of later steps included; 0: not given. Where the length of a sequence
            changes how each of its tokens is computed (``Rope.switch``), the first chunk of a prompt is computed for that length too.
        adapter: name of the adapter that the row is computed with, one of ``EngineInfo.adapters``, the same for all rows of a slot; empty:
            none. Rows of one step may have others.
        media: the media that have positions among the row's tokens, in order; only for an engine with the feature ``media`` or ``source``.
        sharer: names who may learn, from the time that a row takes, that the row's media were computed before: what an engine's encoder
            made of media serves later rows of the same sharer only. Empty: no other row.
    """

    slot: int
    tokens: Sequence[int]
    position: int
    want: Want = "last"
    generated: bool = False
    draw: Draw | None = None
    known: int = 0
    media: tuple[PlacedMedia, ...] = ()
    adapter: str = ""
    sharer: str = ""


@runtime_checkable
class Engine(Protocol):
    """A loaded model.

    A failed ``step`` (``CapacityExceeded`` or any other error but ``EngineFailed``) keeps the earlier content of each slot valid: after
    ``truncate(slot, position)`` the same step can be repeated.
    """

    @property
    def info(self) -> EngineInfo: ...

    def open(self) -> int:
        """A new, empty slot. Raises ``CapacityExceeded`` where ``max_sequences`` are open."""
        ...

    def step(self, rows: Sequence[Row]) -> list[npt.NDArray[Any]]:
        """Compute the tokens of every row, and append their keys and values to the slots. A slot is in one row at most.

        Returns one float32 array [n, vocab_size] for each row: n is 1 for ``last``, ``len(tokens)`` for ``all``, 0 for ``none``; for
        ``hidden`` float32 [len(tokens), hidden_size]; for a row with a ``draw`` an int64 array [1], the sampled token, or -1 where the
        logits hold NaN or no token may be chosen. The arrays are valid until the next step only. A row's result does not depend on the
        batch composition.

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
        """Close the slot, which frees its keys and values."""
        ...

    def shutdown(self) -> None:
        """Free everything; calling it again does nothing."""
        ...


@runtime_checkable
class MediaEngine(Engine, Protocol):
    """An engine with the feature ``media`` or ``source``: sequences hold media beside text tokens.

    A row may end inside media that is not whole, and the next row of its slot then has the same media again. ``truncate`` and ``fork`` cut
    and copy media positions like tokens; a slot that is truncated to 0 has no source, and one that is truncated to the source's end keeps
    it.
    """

    def media_length(self, media: Media) -> int:
        """How many positions the media takes, from its kind and shape alone. Called from any thread; computes nothing.

        Raises:
            RequestError: the engine takes no media of this kind, dtype or shape.
            ContextLengthExceeded: it has more positions than any prompt may have.
        """
        ...
