"""Step validation and errors that all engines of this plugin share."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from llmasos_hookspecs import CapacityExceeded, EngineFailed, EngineInfo, Row

Floats = npt.NDArray[np.float32]
Integers = npt.NDArray[np.int64]


def checked_tokens(rows: Sequence[Row], length: Callable[[int], int], info: EngineInfo) -> list[Integers]:
    """The tokens of every row of a step, after validation.

    Args:
        length: returns the tokens that a slot holds; raises ``ValueError`` if it is not open.

    Raises:
        ValueError: a slot is not open or appears twice, a position is wrong, a row has no tokens or tokens outside the vocabulary.
        CapacityExceeded: a slot would pass the context length.
    """
    checked: list[Integers] = []
    seen: set[int] = set()
    for row in rows:
        held = length(row.slot)
        if row.slot in seen:
            raise ValueError(f"Slot {row.slot} appears twice in one step.")
        seen.add(row.slot)
        if row.position != held:
            raise ValueError(f"Slot {row.slot} holds {held} tokens, and the row says {row.position}.")
        tokens = np.asarray(row.tokens, dtype=np.int64)
        if tokens.ndim != 1 or not len(tokens):
            raise ValueError(f"The row of slot {row.slot} has no tokens; a row computes 1 or more.")
        if tokens.min() < 0 or tokens.max() >= info.vocab_size:
            raise ValueError(
                f"The row of slot {row.slot} has a token outside the vocabulary of {info.vocab_size}: "
                f"{int(tokens.min())} .. {int(tokens.max())}."
            )
        if held + len(tokens) > info.context_length:
            raise CapacityExceeded(
                f"Slot {row.slot} holds {held} tokens, and {len(tokens)} more pass the context length of {info.context_length}."
            )
        checked.append(tokens)
    return checked


def wanted_logits(row: Row) -> int:
    """The number of last tokens whose logits a row wants."""
    return {"last": 1, "all": len(row.tokens), "none": 0}[row.want]


def failure(reason: str, tokens: int) -> CapacityExceeded | EngineFailed:
    """The error to raise if ONNX Runtime fails in a step of ``tokens`` tokens."""
    if "alloc" in reason.lower():
        return CapacityExceeded(f"ONNX Runtime has no memory for a step of {tokens} tokens; take a smaller step.")
    return EngineFailed(f"ONNX Runtime failed in a step of {tokens} tokens: {reason}.")


def check_length(slot: int, held: int, length: int) -> None:
    """Raise ``ValueError`` if a slot with ``held`` tokens cannot be truncated to ``length``."""
    if not 0 <= length <= held:
        raise ValueError(f"Slot {slot} holds {held} tokens and cannot be truncated to {length}.")


def check_room(most: int | None, held: int, more: int) -> None:
    """Raise ``CapacityExceeded`` if all slots together would hold more than ``most`` tokens; None: no bound."""
    if most is not None and held + more > most:
        raise CapacityExceeded(
            f"The memory limit holds {most} tokens of keys and values, {held} are held, and {more} more are asked for; close a slot, "
            "take a smaller step, or raise the limit."
        )
