"""The work of a sequence: what turns its logits into the caller's answer."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from llmasos_hookspecs import LLMasOSError
from llmasos_hookspecs.tasks import FinishReason

if TYPE_CHECKING:
    from llmasos.engine.sequence import Sequence


class Work(Protocol):
    """Turns what one sequence computes into an answer, and gives that to the caller's ticket."""

    def begin(self, sequence: Sequence) -> None:
        """Set what the sequence computes (``tokens``, ``limit``, ``logits_from``), before it is queued."""
        ...

    def fail(self, error: LLMasOSError) -> None:
        """The request failed; tell the caller."""
        ...

    def finish(self, sequence: Sequence, reason: FinishReason) -> None:
        """The request is over; give the caller the answer."""
        ...


class LogitsReader(Work, Protocol):
    """Work that reads logits instead of sampling from them: scores, raw logits, beam search."""

    def accept(self, sequence: Sequence, position: int, logits: npt.NDArray[np.float32], rewind: Callable[[Sequence, int], Any]) -> bool:
        """Read the logits [n, vocab] of the tokens from ``position`` on. True where the work is complete.

        To continue with other tokens, it replaces the sequence's tokens and calls ``rewind`` with the sequence and the number of leading
        tokens that remain valid.
        """
        ...
