"""The length of evaluation windows that fits a model's context."""

from __future__ import annotations

from typing import Final

from llmasos_hookspecs import Checkpoint, CheckpointError

#: Keys of ``config.json`` that may hold the context length.
_KEYS: Final = ("max_position_embeddings", "n_positions", "seq_length", "max_seq_len")


def fitting_length(checkpoint: Checkpoint, length: int, limit: int | None = None) -> int:
    """``length`` tokens, or as many as the model's context and ``limit`` allow."""
    known = [size for size in (_context_length(checkpoint), limit) if size is not None]
    return min(length, *known) if known else length


def _context_length(checkpoint: Checkpoint) -> int | None:
    """Tokens of a sequence, as the config says; None where it does not."""
    try:
        return checkpoint.decoder.context_length
    except CheckpointError:
        found = (checkpoint.config.get(key) for key in _KEYS)
        return next((size for size in found if type(size) is int and size > 0), None)
