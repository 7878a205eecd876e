"""Step validation, error translation and memory release that all engines of this plugin share."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch

from llmasos_backend_torch.slots import SlotTable
from llmasos_hookspecs import CapacityExceeded, EngineFailed, EngineInfo, LLMasOSError, RequestError, Row


def check_rows(rows: Sequence[Row], slots: SlotTable, info: EngineInfo) -> None:
    """Raise ``RequestError`` for invalid rows and ``CapacityExceeded`` for rows that do not fit."""
    seen = set()
    for row in rows:
        held = slots.get(row.slot).length
        if row.slot in seen:
            raise RequestError(f"Slot {row.slot} is in the step twice; give all its tokens in one row.")
        seen.add(row.slot)
        if row.position != held:
            raise RequestError(f"Slot {row.slot} holds {held} tokens, so its row cannot begin at {row.position}; truncate it first.")
        if not len(row.tokens):
            raise RequestError(f"The row of slot {row.slot} has no tokens; leave the slot out of the step.")
        if row.draw is not None and row.want != "last":
            raise RequestError(f"The row of slot {row.slot} wants {row.want!r} and a draw, and one token can be drawn, after the last.")
        if row.want == "hidden" and "embeddings" not in info.features:
            raise RequestError(f"The row of slot {row.slot} wants hidden states, and this engine gives logits only.")
        if row.want not in ("last", "all", "none", "hidden"):
            raise RequestError(f"The row of slot {row.slot} wants {row.want!r}, and it must be 'last', 'all', 'none' or 'hidden'.")
        if row.adapter and row.adapter not in info.adapters:
            raise RequestError(
                f"The row of slot {row.slot} names the adapter {row.adapter!r}, and the engine has {info.adapters or 'none'}."
            )
        low, high = min(row.tokens), max(row.tokens)
        if low < 0 or high >= info.vocab_size:
            wrong = low if low < 0 else high
            raise RequestError(f"Token {wrong} is outside the vocabulary of {info.vocab_size}.")
    for row in rows:
        if row.position + len(row.tokens) > info.context_length:
            raise CapacityExceeded(
                f"Slot {row.slot} would hold {row.position + len(row.tokens)} tokens, and a slot holds {info.context_length} at most."
            )


@contextmanager
def typed_errors() -> Iterator[None]:
    """Translate torch's errors into those of the engine contract."""
    try:
        yield
    except LLMasOSError:
        raise
    except torch.OutOfMemoryError as error:
        raise CapacityExceeded("The GPU has no memory for this step; make it smaller, or close slots.") from error
    except MemoryError as error:
        raise CapacityExceeded("There is no memory for this step; make it smaller, or close slots.") from error
    except RuntimeError as error:
        # The CPU allocator has no error type of its own.
        if "not enough memory" in str(error) or "can't allocate memory" in str(error):
            raise CapacityExceeded("There is no memory for this step; make it smaller, or close slots.") from error
        raise EngineFailed(f"PyTorch failed in a step ({str(error).splitlines()[0]}); load the model again.") from error


def give_back(device: torch.device) -> None:
    """Return freed GPU memory to the driver; PyTorch's allocator would keep it from other processes."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
