"""What becomes of a sequence's logits."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from llmasos_hookspecs import LLMasOSError
from llmasos_hookspecs.tasks import FinishReason

if TYPE_CHECKING:
    from llmasos.runtime.sequence import Sequence


class Work(Protocol):
    """The purpose of one sequence; it holds the caller's ticket."""

    def begin(self, sequence: Sequence) -> None:
        """Set what is to be computed (``tokens``, ``limit``, ``logits_from``) before the sequence is queued."""
        ...

    def fail(self, error: LLMasOSError) -> None:
        """The request failed; tell the caller."""
        ...

    def finish(self, sequence: Sequence, reason: FinishReason) -> None:
        """The request is over; give the caller the answer."""
        ...


class Reading(Work, Protocol):
    """Work that reads the logits of tokens it knows: scores, raw logits."""

    def accept(self, sequence: Sequence, position: int, logits: npt.NDArray[np.float32], rewind: Callable[[Sequence, int], Any]) -> bool:
        """Take the logits [n, vocab] of the tokens from ``position`` on; True once all is read.

        To go on with other tokens it changes those of the sequence and calls ``rewind`` with it and the number of leading ones that
        stay.
        """
        ...
