"""The work of sequences whose tokens are given: log probabilities of continuations, and raw logits."""

from __future__ import annotations

from collections import abc
from collections.abc import Callable
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt

from llmasos_engine.sampler import log_probability, log_total
from llmasos_engine.sequence import Sequence
from llmasos_engine.ticket import Ticket
from llmasos_hookspecs import Cancelled, LLMasOSError, Score
from llmasos_hookspecs.tasks import FinishReason

Logits = npt.NDArray[np.float32]


class ScoreWork:
    """Log probabilities of several continuations, computed one after the other in one slot, truncated to the prompt between them."""

    reads: ClassVar[Literal["logits"]] = "logits"

    def __init__(self, continuations: abc.Sequence[abc.Sequence[int]], ticket: Ticket[list[Score]]) -> None:
        self.ticket = ticket
        self._continuations = [list(continuation) for continuation in continuations]
        self._sums: list[float] = []
        self._at = 0

    def begin(self, sequence: Sequence) -> None:
        sequence.limit = sequence.prompt_length + max(len(continuation) for continuation in self._continuations) - 1
        self._continue_with(sequence, 0)
        sequence.logits_from = sequence.prompt_length - 1

    def accept(self, sequence: Sequence, position: int, logits: Logits, rewind: Callable[[Sequence, int], Any]) -> bool:
        prompt = sequence.prompt_length
        if not self._sums:  # the first row is the prompt's last token, which predicts the first token of every continuation
            total = log_total(logits[0])
            self._sums = [float(logits[0][continuation[0]]) - total for continuation in self._continuations]
        for row, logit in enumerate(logits, start=position - prompt + 1):
            if row > 0:
                self._add(logit, row)
        sequence.logits_from = position + len(logits)
        while sequence.logits_from == len(sequence.tokens):
            self._at += 1
            if self._at == len(self._continuations):
                return True
            self._continue_with(sequence, self._at)
            sequence.logits_from = prompt
        rewind(sequence, sequence.logits_from)
        return False

    def finish(self, sequence: Sequence, reason: FinishReason) -> None:
        if reason == "cancelled":
            self.ticket.fail(Cancelled(f"Request {sequence.request.id} was cancelled before its scores were complete."))
            return
        pairs = zip(self._sums, self._continuations, strict=True)
        self.ticket.finish([Score(logprob=total, tokens=len(continuation)) for total, continuation in pairs])

    def fail(self, error: LLMasOSError) -> None:
        self.ticket.fail(error)

    def _continue_with(self, sequence: Sequence, index: int) -> None:
        sequence.tokens[sequence.prompt_length :] = self._continuations[index][:-1]

    def _add(self, logits: Logits, index: int) -> None:
        """Add the log probability of the continuation's token ``index``, which these logits [vocab] predict."""
        self._sums[self._at] += log_probability(logits, self._continuations[self._at][index], 0)[0]


class LogitsWork:
    """The logits of every position of a prompt; of an encoder-decoder's, of the target's."""

    reads: ClassVar[Literal["logits"]] = "logits"

    def __init__(self, ticket: Ticket[Logits]) -> None:
        self.ticket = ticket
        self._parts: list[Logits] = []

    def begin(self, sequence: Sequence) -> None:
        sequence.limit = sequence.prompt_length
        sequence.logits_from = sequence.source_end

    def accept(self, sequence: Sequence, position: int, logits: Logits, rewind: Callable[[Sequence, int], Any]) -> bool:
        self._parts.append(logits.copy())
        sequence.logits_from = position + len(logits)
        return sequence.logits_from == sequence.prompt_length

    def finish(self, sequence: Sequence, reason: FinishReason) -> None:
        if reason == "cancelled":
            self.ticket.fail(Cancelled(f"Request {sequence.request.id} was cancelled before its logits were complete."))
            return
        self.ticket.finish(np.concatenate(self._parts))

    def fail(self, error: LLMasOSError) -> None:
        self.ticket.fail(error)
